//! The spool through its public API: crashes, full disks, tampering, bounds.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "fixtures of a test")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use bytes::Bytes;
use interceptor::clock::{Clock, SystemClock};
use interceptor::record::format::{Entry, Header, Kind};
use interceptor::record::merkle::Tree;
use interceptor::record::reader::{Frame, ReadError, Reader};
use interceptor::record::retention::AtLimit;
use interceptor::record::rotation;
use interceptor::record::seal::Identities;
use interceptor::record::verify::{self, Options, Problem, Report};
use interceptor::record::witness;
use interceptor::record::{
    Config, Counters, Direction, Effect, Event, Files, Fsync, OpenError, PublicKey, RecordError, RecordedVerdict,
    Recorder, Remover, SigningKey, Sink,
};
use interceptor::telemetry::SessionId;
use tempfile::TempDir;

struct Fixture {
    dir: TempDir,
    config: Config,
    /// Files of who can open it.
    identities: Vec<PathBuf>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (spool, key) = (dir.path().join("spool"), dir.path().join("spool.key"));
        let config = Config { spool, key, free_space_floor: 0, ..Config::default() };
        Self { dir, config, identities: Vec::new() }
    }

    fn open(&self) -> Recorder {
        Recorder::open(&self.config, clock()).unwrap()
    }

    fn key(&self) -> PublicKey {
        PublicKey::load(&self.config.public_key()).unwrap()
    }

    fn verify(&self) -> Report {
        verify_in(&self.config.spool, &self.key())
    }

    fn frames(&self) -> Vec<Frame> {
        self.frames_in(&self.config.spool)
    }

    /// Of a copy of it.
    fn frames_in(&self, spool: &Path) -> Vec<Frame> {
        read_with(spool, &self.identities).into_iter().map(Result::unwrap).collect()
    }

    /// A spool of small segments, closed in good order.
    async fn filled(segment_bytes: u64, frames: u8) -> Self {
        Self::new().fill(segment_bytes, frames).await
    }

    /// The same in clear, and sealed: with more for headers and frames, so that there are as many segments.
    async fn filled_both(segment_bytes: u64, frames: u8) -> [Self; 2] {
        let more = 500 + u64::from(frames) * 24;
        [Self::filled(segment_bytes, frames).await, sealed().0.fill(segment_bytes + more, frames).await]
    }

    async fn fill(self, segment_bytes: u64, frames: u8) -> Self {
        let mut fixture = self;
        fixture.config.segment_bytes = segment_bytes;
        let recorder = fixture.open();
        for n in 0..frames {
            recorder.append(session(n % 3), note(n)).await.unwrap();
        }
        recorder.append(session(1), closed()).await.unwrap();
        recorder.close().await.unwrap();
        fixture
    }

    fn copy(&self) -> TempDir {
        let to = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&self.config.spool).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
        to
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

fn session(n: u8) -> SessionId {
    SessionId::from_bytes([n + 1; 16])
}

fn note(n: u8) -> Event {
    Event::Note { text: format!("event {n} {}", "x".repeat(usize::from(n % 40) * 7)) }
}

fn closed() -> Event {
    Event::SessionClosed { reason: "the agent said goodbye".into(), counters: Counters::default() }
}

fn data(bytes: Vec<u8>) -> Event {
    Event::Data { direction: Direction::ToAgent, bytes: Bytes::from(bytes) }
}

fn verify_in(spool: &Path, key: &PublicKey) -> Report {
    verify::directory(spool, key, &Options::default()).unwrap()
}

fn segment(spool: &Path, number: u64) -> PathBuf {
    spool.join(format!("{number:010}.spool"))
}

/// Byte ranges of a segment, with the frame that each concerns; the header first.
fn ranges(bytes: &[u8]) -> Vec<(Range<usize>, u64, Kind)> {
    let (header, _, mut at) = Header::decode(bytes).unwrap().unwrap();
    let mut found = vec![(0..at, header.first, Kind::Checkpoint)];
    while let Some((entry, _, length)) = (at < bytes.len()).then(|| Entry::decode(&bytes[at..]).unwrap()).flatten() {
        found.push((at..at + length, entry.sequence, entry.kind));
        at += length;
    }
    assert_eq!(at, bytes.len());
    found
}

#[tokio::test]
async fn what_is_recorded_is_read_back_and_verified() {
    let fixture = Fixture::new();
    let recorder = fixture.open();
    let first = recorder.append(session(0), note(1)).await.unwrap();
    let masked = Event::Masked { cells: vec![("customers.email".into(), 3)] };
    let second = recorder.append(session(1), masked).await.unwrap();
    assert_eq!((first.position(), second.position()), (0, 1));
    recorder.enqueue(session(1), data(vec![7; 3_000_000])).await.unwrap();
    let hold = Event::Decision(RecordedVerdict {
        effect: Effect::Hold,
        rules: Arc::from(["hold-drop".to_owned()]),
        reason: None,
    });
    recorder.enqueue(session(1), hold).await.unwrap();
    recorder.append(session(1), closed()).await.unwrap();
    recorder.close().await.unwrap();

    let frames = fixture.frames();
    assert_eq!(frames[0].event, note(1));
    let delivered = frames.iter().filter_map(|frame| match &frame.event {
        Event::Data { bytes, .. } => Some(bytes.to_vec()),
        _ => None,
    });
    assert_eq!(delivered.collect::<Vec<_>>().concat(), vec![7; 3_000_000]);
    let (sessions, errors) = Reader::open(&fixture.config.spool).unwrap().sessions();
    assert!(errors.is_empty());
    assert_eq!(sessions.len(), 2);
    let second = sessions.iter().find(|s| s.id == session(1)).unwrap();
    assert_eq!((second.held, second.masked_cells, second.bytes_to_agent), (1, 3, 3_000_000));
    assert_eq!(second.closed.as_deref(), Some("the agent said goodbye"));
    let report = fixture.verify();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.frames, report.signed), (frames.len() as u64, frames.len() as u64));
}

#[tokio::test]
async fn an_acknowledged_frame_is_in_the_file_already() {
    let fixture = Fixture::new();
    let recorder = fixture.open();
    for n in 0..20 {
        recorder.append(session(0), note(n)).await.unwrap();
        assert_eq!(fixture.frames().len(), usize::from(n) + 1);
    }
    recorder.close().await.unwrap();
    assert!(matches!(recorder.append(session(0), note(0)).await, Err(RecordError::Closed)));
    assert!(matches!(recorder.enqueue(session(0), note(0)).await, Err(RecordError::Closed)));
}

#[tokio::test]
async fn the_chain_goes_on_across_segments_and_restarts() {
    let mut fixture = Fixture::filled(4096, 60).await;
    let before = fixture.frames().len();
    assert!(segment(&fixture.config.spool, 2).exists());
    fixture.config.fsync = Fsync::Group;
    for n in 0..3 {
        let recorder = fixture.open();
        assert_eq!(recorder.health().frames, before as u64 + u64::from(n));
        recorder.append(session(n), note(n)).await.unwrap();
        recorder.close().await.unwrap();
    }
    let frames = fixture.frames();
    assert!(frames.iter().enumerate().all(|(n, frame)| frame.sequence == n as u64));
    assert_eq!(frames.len(), before + 3);
    assert!(fixture.verify().is_whole());
}

#[tokio::test]
async fn a_crash_at_any_byte_loses_no_acknowledged_frame() {
    let fixture = Fixture::filled(1 << 20, 3).await;
    let whole = fs::read(segment(&fixture.config.spool, 0)).unwrap();
    let ranges = ranges(&whole);
    for length in 0..=whole.len() {
        let crashed = tempfile::tempdir().unwrap();
        fs::write(segment(crashed.path(), 0), &whole[..length]).unwrap();
        let config = Config { spool: crashed.path().to_owned(), ..fixture.config.clone() };
        let recorder = Recorder::open(&config, clock()).unwrap();
        recorder.append(session(9), Event::Note { text: "after".into() }).await.unwrap();
        recorder.close().await.unwrap();

        let there = |(range, _, kind): &&(Range<usize>, u64, Kind)| *kind == Kind::Frame && range.end <= length;
        let acknowledged = ranges.iter().filter(there).count();
        let frames = fixture.frames_in(crashed.path());
        let wanted = (0..3).map(note).chain([closed()]).take(acknowledged);
        assert!(frames.iter().zip(wanted).all(|(frame, event)| frame.event == event), "cut at {length}");
        let torn = length > ranges[0].0.end && ranges.iter().all(|(range, ..)| range.end != length);
        let recovered = frames.iter().filter(|f| matches!(f.event, Event::Recovered { .. })).count();
        assert_eq!(recovered, usize::from(torn), "cut at {length}");
        assert_eq!(frames.len(), acknowledged + 1 + recovered, "cut at {length}");
        let report = verify_in(crashed.path(), &fixture.key());
        assert!(report.is_whole(), "cut at {length}: {report:?}");
    }
}

#[tokio::test]
async fn a_crash_while_a_segment_begins_loses_nothing_and_damage_there_is_no_crash() {
    for fixture in Fixture::filled_both(4096, 26).await {
        crash_while_a_segment_begins(&fixture).await;
    }
}

async fn crash_while_a_segment_begins(fixture: &Fixture) {
    let (key, before) = (fixture.key(), fixture.frames());
    let last = segment(&fixture.config.spool, 1);
    let whole = fs::read(&last).unwrap();
    let (header, ..) = ranges(&whole)[0].clone();
    let kept = before.iter().filter(|frame| frame.segment == 0).count();
    for length in (0..header.end).step_by(13) {
        let copy = fixture.copy();
        fs::write(segment(copy.path(), 1), &whole[..length]).unwrap();
        fs::remove_file(copy.path().join("checkpoint")).unwrap();
        let config = Config { spool: copy.path().to_owned(), ..fixture.config.clone() };
        let recorder = Recorder::open(&config, clock()).unwrap();
        recorder.append(session(9), note(1)).await.unwrap();
        recorder.close().await.unwrap();
        let frames = fixture.frames_in(copy.path());
        assert_eq!(frames[..kept], before[..kept], "cut at {length}");
        assert_eq!(frames.len(), kept + 1);
        assert!(verify_in(copy.path(), &key).is_whole());
    }
    // A header that claims to be longer than the file, in a file that is too long for a crash while it was written.
    let mut damaged = whole.clone();
    damaged[14] = 1;
    damaged.resize(damaged.len().max(4096), 0);
    fs::write(&last, &damaged).unwrap();
    assert!(matches!(Recorder::open(&fixture.config, clock()), Err(OpenError::Damaged { .. })));
    assert_eq!(fs::read(&last).unwrap(), damaged);
}

#[tokio::test]
async fn any_altered_byte_is_found_and_its_frame_named() {
    // Each byte of a short spool, and some of one with two segments.
    for fixture in Fixture::filled_both(1 << 20, 4).await {
        alter(&fixture, 0, 1);
    }
    for fixture in Fixture::filled_both(4096, 26).await {
        alter(&fixture, 0, 31);
        alter(&fixture, 1, 17);
    }
}

fn alter(fixture: &Fixture, number: u64, step: usize) {
    let key = fixture.key();
    {
        let copy = fixture.copy();
        let path = segment(copy.path(), number);
        let whole = fs::read(&path).unwrap();
        for (range, frame, _) in ranges(&whole) {
            for at in range.clone().step_by(step) {
                let mut altered = whole.clone();
                altered[at] ^= 1 << (at % 8);
                fs::write(&path, &altered).unwrap();
                let report = verify_in(copy.path(), &key);
                assert_eq!(report.findings.len(), 1, "segment {number}, byte {at} of {range:?}: {report:?}");
                let finding = &report.findings[0];
                assert_eq!((finding.frame, finding.segment), (frame, number), "byte {at} of {range:?}: {finding}");
            }
        }
    }
}

#[tokio::test]
async fn a_spool_cut_at_any_byte_is_found() {
    for fixture in Fixture::filled_both(4096, 26).await {
        cut_everywhere(&fixture);
    }
}

fn cut_everywhere(fixture: &Fixture) {
    let key = fixture.key();
    let last = 1;
    assert!(!segment(&fixture.config.spool, last + 1).exists());
    for number in 0..=last {
        let copy = fixture.copy();
        let path = segment(copy.path(), number);
        let whole = fs::read(&path).unwrap();
        let ranges = ranges(&whole);
        let ends = ranges.iter().flat_map(|(range, ..)| [range.start, range.start + 3, range.end - 1]);
        for length in ends.chain((0..whole.len()).step_by(41)) {
            fs::write(&path, &whole[..length]).unwrap();
            let report = verify_in(copy.path(), &key);
            // Without the last checkpoint entry nothing is missing: the file beside the segments holds the same note.
            let only_the_checkpoint = number == last && length == ranges.last().unwrap().0.start;
            assert_eq!(report.is_whole(), only_the_checkpoint, "segment {number} cut at {length}: {report:?}");
            if let Some(finding) = report.findings.first() {
                let cut = ranges.iter().rfind(|(range, ..)| range.start <= length).unwrap();
                assert_eq!(finding.frame, cut.1, "segment {number} cut at {length}: {finding}");
            }
        }
    }
}

fn rewrite(path: &Path, order: impl FnOnce(Vec<Vec<u8>>) -> Vec<Vec<u8>>) {
    let whole = fs::read(path).unwrap();
    let parts = ranges(&whole).into_iter().map(|(range, ..)| whole[range].to_vec()).collect();
    fs::write(path, order(parts).concat()).unwrap();
}

#[tokio::test]
async fn dropped_reordered_and_repeated_entries_are_named() {
    let fixture = Fixture::filled(1 << 20, 12).await;
    let key = fixture.key();
    let found = |change: &dyn Fn(Vec<Vec<u8>>) -> Vec<Vec<u8>>| {
        let copy = fixture.copy();
        rewrite(&segment(copy.path(), 0), change);
        let report = verify_in(copy.path(), &key);
        report.findings.first().map(|finding| (finding.problem, finding.frame))
    };
    for n in 0..12 {
        let without = |mut parts: Vec<Vec<u8>>| {
            parts.remove(n + 1);
            parts
        };
        assert_eq!(found(&without), Some((Problem::Dropped, n as u64)));
        let swapped = |mut parts: Vec<Vec<u8>>| {
            parts.swap(n + 1, n + 2);
            parts
        };
        assert_eq!(found(&swapped), Some((Problem::Reordered, n as u64)));
        let twice = |mut parts: Vec<Vec<u8>>| {
            parts.insert(n + 1, parts[n + 1].clone());
            parts
        };
        assert_eq!(found(&twice), Some((Problem::Reordered, n as u64 + 1)));
    }
    assert_eq!(found(&|parts| parts), None);
}

#[tokio::test]
async fn dropped_and_exchanged_segments_are_named() {
    let fixture = Fixture::filled(4096, 60).await;
    let (key, spool) = (fixture.key(), &fixture.config.spool);
    let first_of = |n| Header::decode(&fs::read(segment(spool, n)).unwrap()).unwrap().unwrap().0.first;
    let last = (0..).take_while(|n| segment(spool, *n).exists()).last().unwrap();
    assert!(last >= 2);
    for number in 0..=last {
        let copy = fixture.copy();
        fs::remove_file(segment(copy.path(), number)).unwrap();
        let finding = verify_in(copy.path(), &key).findings.into_iter().next().unwrap();
        let problem = if number == last { Problem::CutOff } else { Problem::Dropped };
        assert_eq!((finding.problem, finding.frame), (problem, first_of(number)), "{finding}");
    }
    let copy = fixture.copy();
    fs::copy(segment(spool, 1), segment(copy.path(), 2)).unwrap();
    fs::copy(segment(spool, 2), segment(copy.path(), 1)).unwrap();
    let finding = verify_in(copy.path(), &key).findings.into_iter().next().unwrap();
    assert_eq!((finding.problem, finding.frame), (Problem::Reordered, first_of(1)));
}

/// The strongest forger without the key: changes a frame and chains all that follows again.
fn forge(whole: &[u8], victim: u64) -> Vec<u8> {
    let (_, mut chain, mut at) = Header::decode(whole).unwrap().unwrap();
    let mut forged = whole[..at].to_vec();
    while let Some((entry, _, length)) = Entry::decode(&whole[at..]).unwrap() {
        let mut payload = entry.payload.to_vec();
        if entry.kind == Kind::Frame && entry.sequence == victim {
            *payload.iter_mut().find(|byte| **byte == b'x').unwrap() = b'y';
        }
        Entry { payload: &payload, ..entry }.encode(&mut forged, &mut chain);
        at += length;
    }
    forged
}

#[tokio::test]
async fn a_forger_without_the_key_is_found() {
    let fixture = Fixture::filled(1 << 20, 12).await;
    let (key, spool) = (fixture.key(), &fixture.config.spool);
    let path = segment(spool, 0);
    let whole = fs::read(&path).unwrap();
    assert_eq!(forge(&whole, u64::MAX), whole);
    fs::write(&path, forge(&whole, 5)).unwrap();
    assert_eq!(verify_in(spool, &key).findings[0].problem, Problem::Altered);

    // Without any checkpoint in the segment, the one beside it tells; without that, one that was kept elsewhere.
    rewrite(&path, |mut parts| {
        parts.pop();
        parts
    });
    assert_eq!(verify_in(spool, &key).findings[0].problem, Problem::Altered);
    let kept = fs::read(spool.join("checkpoint")).unwrap();
    fs::remove_file(spool.join("checkpoint")).unwrap();
    let blind = verify_in(spool, &key);
    assert!(blind.is_whole() && blind.signed == 0 && blind.notes.len() == 2, "{blind:?}");
    let seeing = verify::directory(spool, &key, &Options { kept: vec![kept], ..Options::default() }).unwrap();
    assert_eq!(seeing.findings[0].problem, Problem::Altered);
}

/// Who holds the key can write another past; what a witness was told does not fit it.
#[tokio::test]
async fn a_past_that_was_written_anew_with_the_key_is_found_by_what_a_witness_kept() {
    let fixture = Fixture::filled(1 << 20, 12).await;
    let (key, spool) = (fixture.key(), &fixture.config.spool);
    let told = fs::read_to_string(spool.join("checkpoint")).unwrap();
    let line = serde_json::json!({ "frames": 13, "note": told }).to_string();
    let kept = |lines: String| Options { kept: witness::kept(lines.as_bytes()).notes, ..Options::default() };
    let honest = verify::directory(spool, &key, &kept(line.clone())).unwrap();
    assert!(honest.is_whole(), "{honest:?}");
    for (events, problem) in [(30, Problem::Altered), (5, Problem::CutOff)] {
        fs::remove_dir_all(spool).unwrap();
        let recorder = fixture.open();
        for n in 0..events {
            recorder.append(session(n), note(n + 100)).await.unwrap();
        }
        recorder.close().await.unwrap();
        assert!(fixture.verify().is_whole());
        let found = verify::directory(spool, &key, &kept(format!("{line}\n{line}\n"))).unwrap();
        assert_eq!((found.findings.len(), found.findings[0].problem), (1, problem), "{found:?}");
    }
    // Whoever can tell a witness something cannot hide that, nor make what is whole look otherwise.
    let odd = serde_json::json!({ "note": "x" }).to_string();
    let junk = format!("{odd}\n").repeat(1000);
    let found = verify::directory(spool, &key, &kept(format!("{junk}{line}\n"))).unwrap();
    assert_eq!((found.findings.len(), found.findings[0].problem), (1, Problem::CutOff), "{found:?}");
    assert!(found.notes.iter().any(|note| note.contains("1000 of 1001")), "{found:?}");
    let newest = fs::read_to_string(spool.join("checkpoint")).unwrap();
    let newest = serde_json::json!({ "note": newest }).to_string();
    assert!(verify::directory(spool, &key, &kept(format!("{junk}{newest}\n"))).unwrap().is_whole());
    // Nothing else in it: it is of another spool.
    assert_eq!(verify::directory(spool, &key, &kept(junk)).unwrap().findings.len(), 1);
}

/// The same frames, and another key around them that opens none of them: signed again by whoever holds the signing key.
#[tokio::test]
async fn headers_that_were_written_anew_with_the_key_are_found_by_what_a_witness_kept() {
    let (fixture, _) = sealed();
    let fixture = fixture.fill(1 << 20, 4).await;
    let (key, spool) = (fixture.key(), &fixture.config.spool);
    let told = fs::read(spool.join("checkpoint")).unwrap();
    let kept = Options { kept: vec![told], ..Options::default() };
    assert!(verify::directory(spool, &key, &kept).unwrap().is_whole());
    let path = segment(spool, 0);
    let whole = fs::read(&path).unwrap();
    let signing = SigningKey::load(&fixture.config.key).unwrap();
    let (mut header, _, mut at) = Header::decode(&whole).unwrap().unwrap();
    let (other, _) = sealed();
    other.open().close().await.unwrap();
    header.sealing = Header::decode(&fs::read(segment(&other.config.spool, 0)).unwrap()).unwrap().unwrap().0.sealing;
    let mut forged = header.encode();
    let (mut chain, mut tree): ([u8; 32], Tree) = (*forged.last_chunk().unwrap(), Tree::default());
    while let Some((entry, hashes, length)) = Entry::decode(&whole[at..]).unwrap() {
        let note = signing.checkpoint(&tree, &chain);
        let payload = if entry.kind == Kind::Frame { entry.payload } else { note.as_bytes() };
        Entry { payload, ..entry }.encode(&mut forged, &mut chain);
        if entry.kind == Kind::Frame {
            tree.push(hashes.leaf);
        } else {
            fs::write(spool.join("checkpoint"), &note).unwrap();
        }
        at += length;
    }
    fs::write(&path, forged).unwrap();
    assert!(fixture.verify().is_whole(), "{:?}", fixture.verify());
    let found = verify::directory(spool, &key, &kept).unwrap();
    assert_eq!((found.findings.len(), found.findings[0].problem), (1, Problem::Altered), "{found:?}");
}

/// Frames under one key, then under another; sealed or not. Gives both keys.
async fn rotated(fixture: &Fixture) -> [PublicKey; 2] {
    let recorder = fixture.open();
    for n in 0..5 {
        recorder.append(session(n), note(n)).await.unwrap();
    }
    recorder.close().await.unwrap();
    let first = fixture.key();
    let done = rotation::rotate(&fixture.config, clock(), None).unwrap();
    assert_eq!((&done.from, &done.to), (&first, &fixture.key()));
    assert_ne!(done.from, done.to);
    assert_eq!(PublicKey::load(&done.kept.unwrap()).unwrap(), first);
    let recorder = fixture.open();
    for n in 5..9 {
        recorder.append(session(n), note(n)).await.unwrap();
    }
    recorder.close().await.unwrap();
    [first, fixture.key()]
}

#[tokio::test]
async fn another_key_goes_on_and_whoever_trusts_the_first_learns_of_it() {
    for fixture in [Fixture::new(), sealed().0] {
        let [first, second] = rotated(&fixture).await;
        let spool = &fixture.config.spool;
        let report = verify_in(spool, &first);
        assert!(report.is_whole() && report.signed == report.frames, "{report:?}");
        assert!(report.notes.iter().any(|note| note.contains(&second.to_string())), "{report:?}");
        // A checkpoint that the second one signed, kept elsewhere, is known as soon as that is.
        let kept = vec![fs::read(spool.join("checkpoint")).unwrap(); 2];
        let report = verify::directory(spool, &first, &Options { kept, ..Options::default() }).unwrap();
        assert!(report.is_whole(), "{report:?}");
        // The second one alone knows nothing of what was before it; both do, in whichever order.
        assert_eq!(verify_in(spool, &second).findings[0].problem, Problem::Unsigned);
        let keys = rotation::public_keys(&fixture.config.key).unwrap();
        assert_eq!(keys, [second.clone(), first.clone()]);
        let report = verify::directory(spool, &second, &Options { keys, ..Options::default() }).unwrap();
        assert!(report.is_whole(), "{report:?}");
        // Once more.
        rotation::rotate(&fixture.config, clock(), None).unwrap();
        fixture.open().close().await.unwrap();
        assert!(verify_in(spool, &first).is_whole());
    }
}

/// Who holds another key, and writes a segment with it behind a spool that names nobody.
#[tokio::test]
async fn a_key_that_nobody_has_named_is_found() {
    let fixture = Fixture::filled(1 << 20, 4).await;
    let first = fixture.key();
    let copy = fixture.copy();
    rotation::rotate(&fixture.config, clock(), None).unwrap();
    let second = fixture.key();
    // The segment of the second key behind the first one as it was before.
    fs::copy(segment(&fixture.config.spool, 1), segment(copy.path(), 1)).unwrap();
    let trusting = Options { keys: vec![second], ..Options::default() };
    let report = verify::directory(copy.path(), &first, &trusting).unwrap();
    assert_eq!(report.findings[0].problem, Problem::Unsigned, "{report:?}");
    // The hand-over taken out of the first segment, or altered: its checkpoint tells.
    let path = segment(&fixture.config.spool, 0);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, forge(&whole, 3)).unwrap();
    assert_eq!(verify_in(&fixture.config.spool, &first).findings[0].problem, Problem::Altered);
}

/// Every moment at which it can be broken off, by the files that are there then.
#[tokio::test]
async fn a_rotation_that_broke_off_is_finished_by_whoever_opens_the_spool_next() {
    let beside = |key: &Path, more: &str| PathBuf::from(format!("{}{more}", key.display()));
    for step in 0..4 {
        let fixture = Fixture::filled(1 << 20, 3).await;
        let (key, spool) = (fixture.config.key.clone(), fixture.config.spool.clone());
        let (first, before) = (fixture.key(), fs::read(&key).unwrap());
        let done = rotation::rotate(&fixture.config, clock(), None).unwrap();
        let (next, public) = (beside(&key, ".next"), beside(&key, ".next.pub"));
        if step < 3 {
            // The public key was not put in its place yet.
            fs::rename(beside(&key, ".pub"), &public).unwrap();
            fs::write(beside(&key, ".pub"), format!("{first}\n")).unwrap();
        }
        if step < 2 {
            // Nor the private one.
            fs::rename(&key, &next).unwrap();
            fs::write(&key, &before).unwrap();
            fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            fs::remove_file(done.kept.unwrap()).unwrap();
        }
        if step == 0 {
            // The old key has named the new one, and the segment was not begun.
            fs::remove_file(segment(&spool, 1)).unwrap();
        }
        let recorder = fixture.open();
        recorder.append(session(1), note(1)).await.unwrap();
        recorder.close().await.unwrap();
        assert_eq!(fixture.key(), if step == 0 { first.clone() } else { done.to }, "{step}");
        assert!(step == 0 || (!next.exists() && !public.exists()), "{step}");
        let report = verify_in(&spool, &first);
        assert!(report.is_whole(), "{step}: {report:?}");
        rotation::rotate(&fixture.config, clock(), None).unwrap();
        fixture.open().close().await.unwrap();
        assert!(verify_in(&spool, &first).is_whole(), "{step}");
    }
}

#[tokio::test]
async fn a_key_that_an_operator_brings_is_named_and_put_nowhere() {
    let fixture = Fixture::filled(1 << 20, 3).await;
    let (first, own) = (fixture.key(), fs::read(&fixture.config.key).unwrap());
    let place = fixture.dir.path().join("another.key");
    let done = rotation::rotate(&fixture.config, clock(), Some(&place)).unwrap();
    assert_eq!((done.kept, fs::read(&fixture.config.key).unwrap()), (None, own));
    // With the old one nobody goes on.
    assert!(matches!(Recorder::open(&fixture.config, clock()), Err(OpenError::OtherKey { .. })));
    let config = Config { key: place, ..fixture.config.clone() };
    Recorder::open(&config, clock()).unwrap().close().await.unwrap();
    assert!(verify_in(&config.spool, &first).is_whole());
    // Not while somebody writes.
    let recorder = Recorder::open(&config, clock()).unwrap();
    assert!(matches!(rotation::rotate(&config, clock(), None), Err(OpenError::Locked(_))));
    recorder.close().await.unwrap();
}

/// OpenSSL as a time stamp authority, behind a web server that takes one question.
struct Authority {
    folder: TempDir,
    url: String,
    answering: tokio::task::JoinHandle<()>,
}

impl Authority {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let settings = "[req]\ndistinguished_name = name\n[name]\n[v3]\nextendedKeyUsage = critical,timeStamping\n\
             [tsa]\ndefault_tsa = one\n[one]\nserial = serial\ndefault_policy = 1.2.3.4\ndigests = sha256\n\
             accuracy = secs:1\nsigner_digest = sha256\n";
        fs::write(folder.path().join("settings"), settings).unwrap();
        let place = folder.path().to_owned();
        openssl(
            &place,
            "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out tsa.pem -days 2 -subj /CN=tsa -config settings -extensions v3",
        );
        let answering = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.windows(4).any(|four| four == b"\r\n\r\n") || heard.len() < 69 {
                tokio::io::AsyncReadExt::read_buf(&mut socket, &mut heard).await.unwrap();
            }
            let begin = heard.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            while heard.len() < begin + 69 {
                tokio::io::AsyncReadExt::read_buf(&mut socket, &mut heard).await.unwrap();
            }
            fs::write(place.join("query"), &heard[begin..]).unwrap();
            openssl(&place, "ts -reply -queryfile query -signer tsa.pem -inkey key.pem -out reply -config settings");
            let reply = fs::read(place.join("reply")).unwrap();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", reply.len());
            let answer = [head.into_bytes(), reply].concat();
            tokio::io::AsyncWriteExt::write_all(&mut socket, &answer).await.unwrap();
        });
        Self { folder, url, answering }
    }
}

fn openssl(place: &Path, arguments: &str) -> String {
    let mut command = std::process::Command::new("openssl");
    let output = command.args(arguments.split(' ')).current_dir(place).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_stamp_authority_signs_that_a_checkpoint_was_there() {
    let fixture = Fixture::filled(1 << 20, 3).await;
    let authority = Authority::start().await;
    let config = witness::Config {
        timestamp: vec![witness::Authority { url: authority.url.clone(), ca: None }],
        ..witness::Config::default()
    };
    let spool = &fixture.config.spool;
    let (witness, every) = config.open(spool, 0).unwrap().pop().unwrap();
    assert_eq!((every, witness.told_ago()), (Duration::from_secs(3600), None));
    assert_eq!(every, Duration::from_secs(3600));
    let note = fs::read_to_string(spool.join("checkpoint")).unwrap();
    let statement = witness::Statement { note, host: "db".to_owned(), time: clock().now() };
    witness.tell(&statement).await.unwrap();
    authority.answering.await.unwrap();
    assert!(witness.told_ago().is_some());
    let files = fs::read_dir(spool.join("witnessed")).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
    let name = names.iter().find_map(|name| name.strip_suffix(".note")).unwrap();
    assert!(name.starts_with(&format!("{:020}-", statement.frames())) && names.len() == 2, "{names:?}");
    let ca = authority.folder.path().join("tsa.pem");
    let verify = format!("ts -verify -data {name}.note -in {name}.0.tsr -CAfile {}", ca.display());
    openssl(&spool.join("witnessed"), &verify);
    assert!(fixture.verify().is_whole());
    // Nobody there any more.
    assert!(witness.tell(&statement).await.is_err());
}

#[tokio::test]
async fn another_key_vouches_for_nothing() {
    let fixture = Fixture::filled(1 << 20, 3).await;
    let other = Fixture::filled(1 << 20, 3).await;
    assert_eq!(verify_in(&fixture.config.spool, &other.key()).findings[0].problem, Problem::Unsigned);
    let mixed = Config { key: other.config.key.clone(), ..fixture.config.clone() };
    assert!(matches!(Recorder::open(&mixed, clock()), Err(OpenError::OtherKey { .. })));
}

#[tokio::test]
async fn damage_in_the_middle_is_kept_as_evidence_and_told() {
    let fixture = Fixture::filled(1 << 20, 12).await;
    let path = segment(&fixture.config.spool, 0);
    let mut whole = fs::read(&path).unwrap();
    let hit = ranges(&whole)[6].0.clone();
    whole[hit.start + 70] ^= 1;
    fs::write(&path, &whole).unwrap();
    fixture.open().close().await.unwrap();
    let kept = fs::read(fixture.config.spool.join(format!("0000000000.{}.cut", hit.start))).unwrap();
    assert_eq!(kept, whole[hit.start..]);
    let finding = fixture.verify().findings.into_iter().next().unwrap();
    assert_eq!((finding.problem, finding.frame), (Problem::Lost, 5));
}

#[tokio::test]
async fn one_writer_and_only_what_is_built() {
    let fixture = Fixture::new();
    let recorder = fixture.open();
    assert!(matches!(Recorder::open(&fixture.config, clock()), Err(OpenError::Locked(_))));
    recorder.close().await.unwrap();
    for odd in [vec!["age1xyz".to_owned()], vec![Identity::generate().to_public().to_string(); 17]] {
        let sealed = Config { recipients: odd, ..fixture.config.clone() };
        let error = Recorder::open(&sealed, clock()).unwrap_err().to_string();
        assert!(error.contains("record.recipients"), "{error}");
    }
    assert!(toml::from_str::<Config>("spol = \"/x\"").is_err());
    assert_eq!(toml::from_str::<Config>("fsync = \"group\"").unwrap().fsync, Fsync::Group);
    assert_eq!(toml::from_str::<Config>("fsync = \"command\"").unwrap().fsync, Fsync::Command);
    let kept =
        toml::from_str::<Config>("retention = { max_age_days = 9, at_limit = \"delete_oldest\" }").unwrap().retention;
    assert_eq!((kept.max_age_days, kept.max_bytes, kept.at_limit), (9, 0, AtLimit::DeleteOldest));
    let bound = toml::from_str::<Config>("retention = { max_bytes = 4096 }\nwarn_percent = [99]").unwrap();
    assert!(bound.validate().unwrap_err().to_string().contains("record.retention.max_bytes"));
}

/// A spool that is sealed to two, and the files of their identities and of somebody else's.
fn sealed() -> (Fixture, [PathBuf; 3]) {
    let mut fixture = Fixture::new();
    let identities = [(); 3].map(|()| Identity::generate());
    fixture.config.recipients = identities[..2].iter().map(|one| one.to_public().to_string()).collect();
    let directory = fixture.config.key.parent().unwrap().to_owned();
    let files = [0, 1, 2].map(|n| directory.join(format!("identity-{n}")));
    for (file, identity) in files.iter().zip(&identities) {
        fs::write(file, format!("# a comment\n{}\n", identity.to_string().expose_secret())).unwrap();
    }
    fixture.identities = files[..1].to_vec();
    (fixture, files)
}

fn read_with(spool: &Path, files: &[PathBuf]) -> Vec<Result<Frame, ReadError>> {
    let identities = Identities::load(files).unwrap();
    Reader::open(spool).unwrap().with_identities(identities).frames(None).collect()
}

/// How the sealed frames of a segment were counted.
fn counters(spool: &Path, number: u64) -> Vec<u64> {
    let bytes = fs::read(segment(spool, number)).unwrap();
    let payload = |(range, ..): (Range<usize>, u64, Kind)| {
        let (entry, ..) = Entry::decode(&bytes[range]).unwrap().unwrap();
        entry.sealed.then(|| u64::from_le_bytes(*entry.payload.first_chunk().unwrap()))
    };
    ranges(&bytes).into_iter().skip(1).filter_map(payload).collect()
}

#[tokio::test]
async fn what_is_sealed_is_read_with_an_identity_alone() {
    let (fixture, files) = sealed();
    let spool = &fixture.config.spool;
    let recorder = fixture.open();
    recorder.append(session(0), note(39)).await.unwrap();
    recorder.enqueue(session(0), data(vec![7; 100_000])).await.unwrap();
    recorder.append(session(0), closed()).await.unwrap();
    recorder.close().await.unwrap();
    let bytes = fs::read(segment(spool, 0)).unwrap();
    assert!(!bytes.windows(8).any(|window| window == b"event 39" || window == b"goodbye\""), "in clear");
    // Without an identity, or with another: said once, and nothing else of it.
    for other in [&[][..], &files[2..]] {
        let read = read_with(spool, other);
        assert!(matches!(read.as_slice(), [Err(ReadError::Sealed { segment: 0 })]), "{read:?}");
    }
    // That there was a session, and when, is in clear.
    let (sessions, errors) = Reader::open(spool).unwrap().sessions();
    assert!(matches!(errors.as_slice(), [ReadError::Sealed { segment: 0 }]), "{errors:?}");
    let [known] = sessions.as_slice() else { panic!("{sessions:?}") };
    assert_eq!((known.id, known.sealed_frames, known.commands, &known.closed), (session(0), 3, 0, &None));
    for own in [&files[..1], &files[1..2], &files[..]] {
        let events: Vec<Event> = read_with(spool, own).into_iter().map(|frame| frame.unwrap().event).collect();
        assert_eq!(events, [note(39), data(vec![7; 100_000]), closed()]);
    }
    // No key is needed for that.
    let report = fixture.verify();
    assert!(report.is_whole() && report.signed == 3, "{report:?}");
    let mut altered = bytes;
    let hit = ranges(&altered)[1].0.clone();
    altered[hit.end - 40] ^= 1;
    fs::write(segment(spool, 0), altered).unwrap();
    assert_eq!(fixture.verify().findings[0].frame, 0);
}

/// Frames as they are, and a key that opens none of them: nobody but the checkpoints' chain would tell.
#[tokio::test]
async fn another_key_in_the_header_is_found() {
    let (fixture, _) = sealed();
    let fixture = fixture.fill(1 << 20, 6).await;
    let path = segment(&fixture.config.spool, 0);
    let whole = fs::read(&path).unwrap();
    let (header, _, mut at) = Header::decode(&whole).unwrap().unwrap();
    let (other, _) = sealed();
    other.open().close().await.unwrap();
    let foreign = Header::decode(&fs::read(segment(&other.config.spool, 0)).unwrap()).unwrap().unwrap().0.sealing;
    for sealing in [foreign, Vec::new()] {
        let mut forged = Header { sealing, ..header.clone() }.encode();
        let (_, mut chain, _) = Header::decode(&forged).unwrap().unwrap();
        while let Some((entry, _, length)) = Entry::decode(&whole[at..]).unwrap() {
            entry.encode(&mut forged, &mut chain);
            at += length;
        }
        at = Header::decode(&whole).unwrap().unwrap().2;
        fs::write(&path, &forged).unwrap();
        let finding = fixture.verify().findings.into_iter().next().unwrap();
        assert_eq!(finding.problem, Problem::Altered, "{finding}");
        assert!(finding.explanation.contains("another chain"), "{finding}");
    }
    fs::write(&path, &whole).unwrap();
    assert!(fixture.verify().is_whole());
}

#[tokio::test]
async fn each_start_seals_with_a_key_of_its_own_and_says_gaps_in_clear() {
    let (mut fixture, files) = sealed();
    let recipients = fixture.config.recipients.clone();
    let spool = fixture.config.spool.clone();
    for (n, recipients) in [vec![], recipients.clone(), recipients, vec![], vec![]].into_iter().enumerate() {
        fixture.config.recipients = recipients;
        let recorder = fixture.open();
        for _ in 0..3 {
            recorder.append(session(0), note(u8::try_from(n).unwrap())).await.unwrap();
        }
        recorder.close().await.unwrap();
    }
    let sealings: Vec<Vec<u8>> =
        (0..4).map(|n| Header::decode(&fs::read(segment(&spool, n)).unwrap()).unwrap().unwrap().0.sealing).collect();
    assert!(sealings[0].is_empty() && sealings[3].is_empty() && !segment(&spool, 4).exists());
    assert!(!sealings[1].is_empty() && !sealings[2].is_empty() && sealings[1] != sealings[2]);
    assert_eq!((counters(&spool, 1), counters(&spool, 2)), (vec![0, 1, 2], vec![0, 1, 2]));
    assert_eq!(read_with(&spool, &files[..1]).into_iter().map(Result::unwrap).count(), 15);
    let clear: Vec<_> =
        read_with(&spool, &[]).into_iter().filter(|frame| !matches!(frame, Err(ReadError::Sealed { .. }))).collect();
    assert_eq!(clear.into_iter().map(Result::unwrap).count(), 9);
    assert!(fixture.verify().is_whole());
}

/// The same nonce for two texts would give both away.
#[tokio::test]
async fn what_a_failed_write_takes_back_is_not_counted_again() {
    let (fixture, files) = sealed();
    let (recorder, faults) = faulty(&fixture);
    recorder.append(session(0), note(0)).await.unwrap();
    faults.room.store(0, Ordering::SeqCst);
    for n in 1..4 {
        assert!(recorder.append(session(0), note(n)).await.is_err());
    }
    faults.room.store(u64::MAX, Ordering::SeqCst);
    while recorder.append(session(0), note(5)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    recorder.close().await.unwrap();
    let counted = counters(&fixture.config.spool, 0);
    assert!(counted.is_sorted_by(|one, next| one < next) && counted.last() > Some(&1), "{counted:?}");
    // That there was a gap is known to everybody.
    let seen = read_with(&fixture.config.spool, &[]);
    assert!(seen.iter().any(|frame| matches!(frame, Ok(Frame { event: Event::Gap { .. }, .. }))), "{seen:?}");
    assert!(read_with(&fixture.config.spool, &files[..1]).iter().all(Result::is_ok));
    assert!(fixture.verify().is_whole());
}

/// Files that fail on demand.
#[derive(Debug)]
struct Faulty {
    files: Files,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct Faults {
    /// Bytes that can still be written.
    room: AtomicU64,
    no_sync: AtomicBool,
    no_truncate: AtomicBool,
    /// Writing waits while this is set.
    stalled: AtomicBool,
}

fn faulty(fixture: &Fixture) -> (Recorder, Arc<Faults>) {
    let faults = Arc::new(Faults {
        room: AtomicU64::new(u64::MAX),
        no_sync: AtomicBool::new(false),
        no_truncate: AtomicBool::new(false),
        stalled: AtomicBool::new(false),
    });
    let sink = Faulty { files: Files::new(fixture.config.spool.clone()), faults: Arc::clone(&faults) };
    (Recorder::open_with(&fixture.config, clock(), Box::new(sink)).unwrap(), faults)
}

impl Sink for Faulty {
    fn open(&mut self, segment: u64, length: u64) -> io::Result<()> {
        self.files.open(segment, length)
    }

    fn create(&mut self, segment: u64, header: &[u8]) -> io::Result<()> {
        if self.faults.room.load(Ordering::SeqCst) < header.len() as u64 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.files.create(segment, header)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        while self.faults.stalled.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let room = self.faults.room.load(Ordering::SeqCst);
        let fits = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        self.files.write(offset, &bytes[..fits])?;
        if room != u64::MAX {
            self.faults.room.store(room - fits as u64, Ordering::SeqCst);
        }
        if fits < bytes.len() { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        if self.faults.no_truncate.load(Ordering::SeqCst) {
            return Err(io::Error::other("no truncate"));
        }
        self.files.truncate(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.faults.no_sync.load(Ordering::SeqCst) { Err(io::Error::other("no sync")) } else { self.files.sync() }
    }

    fn free_space(&mut self) -> io::Result<u64> {
        self.files.free_space()
    }

    fn remover(&self) -> Box<dyn Remover> {
        self.files.remover()
    }

    fn publish(&mut self, checkpoint: &[u8], sync: bool) -> io::Result<()> {
        self.files.publish(checkpoint, sync)
    }
}

async fn until_appended(recorder: &Recorder, event: &Event) {
    for _ in 0..500 {
        if recorder.append(session(0), event.clone()).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the recorder did not heal");
}

#[tokio::test]
async fn a_disk_that_fills_at_any_byte_refuses_and_heals() {
    for room in (0..600).step_by(29) {
        let mut fixture = Fixture::new();
        fixture.config.segment_bytes = 4096;
        let (recorder, faults) = faulty(&fixture);
        recorder.append(session(0), note(0)).await.unwrap();
        faults.no_truncate.store(room % 2 == 0, Ordering::SeqCst);
        faults.room.store(room, Ordering::SeqCst);
        let mut written = 1;
        let error = loop {
            match recorder.append(session(0), note(written)).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, RecordError::Storage(_)), "{error}");
        assert!(recorder.enqueue(session(0), note(0)).await.is_err());
        assert!(recorder.health().failing.is_some());
        recorder.enqueue(session(0), closed()).await.unwrap();
        faults.no_truncate.store(false, Ordering::SeqCst);
        faults.room.store(u64::MAX, Ordering::SeqCst);
        until_appended(&recorder, &note(39)).await;
        assert!(recorder.health().failing.is_none());
        recorder.close().await.unwrap();

        let events: Vec<Event> = fixture.frames().into_iter().map(|frame| frame.event).collect();
        let mut wanted: Vec<Event> = (0..written).map(note).collect();
        let gap = events.iter().find(|event| matches!(event, Event::Gap { .. })).unwrap().clone();
        assert!(matches!(gap, Event::Gap { refused: 1, .. }), "{gap:?}");
        wanted.extend([gap, closed(), note(39)]);
        assert_eq!(events, wanted, "room {room}");
        let report = fixture.verify();
        assert!(report.is_whole(), "room {room}: {report:?}");
    }
}

#[tokio::test]
async fn a_failed_fsync_acknowledges_nothing() {
    for fsync in [Fsync::Group, Fsync::Command] {
        failed_fsync(fsync).await;
    }
}

async fn failed_fsync(fsync: Fsync) {
    let mut fixture = Fixture::new();
    fixture.config.fsync = fsync;
    let (recorder, faults) = faulty(&fixture);
    recorder.append(session(0), note(0)).await.unwrap();
    faults.no_sync.store(true, Ordering::SeqCst);
    assert!(matches!(recorder.append(session(0), note(1)).await, Err(RecordError::Storage(_))));
    faults.no_sync.store(false, Ordering::SeqCst);
    until_appended(&recorder, &note(2)).await;
    recorder.close().await.unwrap();
    assert!(!fixture.frames().iter().any(|frame| frame.event == note(1)));
    assert!(fixture.verify().is_whole());
}

#[tokio::test]
async fn closing_what_cannot_be_written_says_so_and_ends() {
    let fixture = Fixture::new();
    let (recorder, faults) = faulty(&fixture);
    faults.room.store(0, Ordering::SeqCst);
    recorder.enqueue(session(0), note(0)).await.unwrap();
    assert!(matches!(recorder.close().await, Err(RecordError::Storage(_))));
}

#[tokio::test]
async fn the_free_space_floor_holds() {
    let mut fixture = Fixture::new();
    fixture.config.free_space_floor = u64::MAX;
    let recorder = fixture.open();
    let error = recorder.append(session(0), note(0)).await.unwrap_err().to_string();
    assert!(error.contains("free_space_floor"), "{error}");
    assert!(fixture.frames().is_empty());
}

#[tokio::test]
async fn the_queue_is_bounded_and_a_failure_wakes_who_waits() {
    let mut fixture = Fixture::new();
    (fixture.config.queue_entries, fixture.config.queue_bytes) = (50, 100_000);
    let (recorder, faults) = faulty(&fixture);
    faults.stalled.store(true, Ordering::SeqCst);
    let mut queued = 0;
    while tokio::time::timeout(Duration::from_millis(300), recorder.enqueue(session(0), note(1))).await.is_ok() {
        queued += 1;
    }
    assert_eq!(queued, 50);
    assert!(matches!(recorder.try_enqueue(session(0), note(1)), Err(RecordError::Full)));
    assert!(recorder.health().queued_bytes <= 100_000);
    let waiting = tokio::spawn({
        let recorder = recorder.clone();
        async move { recorder.enqueue(session(0), data(vec![0; 400_000])).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    faults.room.store(0, Ordering::SeqCst);
    faults.stalled.store(false, Ordering::SeqCst);
    assert!(matches!(waiting.await.unwrap(), Err(RecordError::Storage(_))));
    faults.room.store(u64::MAX, Ordering::SeqCst);
    until_appended(&recorder, &note(2)).await;
    recorder.close().await.unwrap();
    // What was accepted without waiting is there, in spite of the failure.
    assert_eq!(fixture.frames().iter().filter(|frame| frame.event == note(1)).count(), 50);
}

#[tokio::test]
async fn an_event_beyond_a_frame_is_refused() {
    let fixture = Fixture::new();
    let recorder = fixture.open();
    let huge = Event::Note { text: "x".repeat(64 << 20) };
    assert!(matches!(recorder.append(session(0), huge).await, Err(RecordError::TooLarge { .. })));
    recorder.append(session(0), note(0)).await.unwrap();
    recorder.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_appenders_keep_their_order() {
    let mut fixture = Fixture::new();
    fixture.config.segment_bytes = 64 << 10;
    let recorder = fixture.open();
    let appender = |n: u8| {
        let recorder = recorder.clone();
        tokio::spawn(async move {
            let mut positions = Vec::new();
            for step in 0..200u8 {
                recorder.enqueue(session(n), note(step % 9)).await.unwrap();
                let text = format!("{n} {step}");
                positions.push(recorder.append(session(n), Event::Note { text }).await.unwrap().position());
            }
            positions
        })
    };
    let tasks: Vec<_> = (0..16).map(appender).collect();
    let mut positions = BTreeMap::new();
    for (n, task) in tasks.into_iter().enumerate() {
        positions.insert(n, task.await.unwrap());
    }
    recorder.flush().await.unwrap();
    let frames = fixture.frames();
    assert_eq!(frames.len(), 16 * 400);
    for (n, positions) in &positions {
        assert!(positions.is_sorted());
        for (step, position) in positions.iter().enumerate() {
            let frame = &frames[usize::try_from(*position).unwrap()];
            assert_eq!(frame.event, Event::Note { text: format!("{n} {step}") });
        }
    }
    let report = fixture.verify();
    assert!(report.is_whole() && report.signed == report.frames, "{report:?}");
    recorder.close().await.unwrap();
}

#[tokio::test]
async fn frames_are_signed_within_seconds() {
    let mut fixture = Fixture::new();
    fixture.config.checkpoint_seconds = 1;
    let recorder = fixture.open();
    recorder.append(session(0), note(0)).await.unwrap();
    recorder.append(session(0), note(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let report = fixture.verify();
    assert_eq!((report.frames, report.signed), (2, 2), "{report:?}");
    drop(recorder);
}

/// A real file system that is really full: 256 KiB of tmpfs, in a mount namespace of this thread and its children.
#[test]
fn a_full_tmpfs_refuses_and_heals() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let run = || {
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_err() {
            return false;
        }
        let (fixture, none) = (Fixture::new(), None::<&str>);
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), fixture.dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(fill(&fixture));
        // Detached: the recorder's thread closes its files a moment after it has reported its end.
        umount2(fixture.dir.path(), MntFlags::MNT_DETACH).unwrap();
        true
    };
    if !std::thread::spawn(run).join().unwrap() {
        eprintln!("not run: no leave to make a mount namespace");
    }
}

async fn fill(fixture: &Fixture) {
    let recorder = fixture.open();
    let ballast = fixture.dir.path().join("ballast");
    fs::write(&ballast, vec![0u8; 128 << 10]).unwrap();
    let mut written = 0u64;
    while recorder.append(session(0), data(noise(written))).await.is_ok() {
        written += 1;
    }
    assert!(written > 10, "{written}");
    assert!(recorder.append(session(0), data(noise(written))).await.is_err());
    fs::remove_file(ballast).unwrap();
    until_appended(&recorder, &note(0)).await;
    recorder.close().await.unwrap();
    let frames = fixture.frames();
    assert!((0..written).all(|n| frames[usize::try_from(n).unwrap()].event == data(noise(n))));
    assert!(fixture.verify().is_whole());
}

/// Bytes that do not compress.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..2000).map(next).collect()
}
