//! Retention and holds on a whole spool, with a clock that is moved by hand.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::oneshot;

use super::*;
use crate::clock::{Clock as _, ManualClock};
use crate::record::event::{Direction, Event};
use crate::record::hold::{Change, Hold, Holds, Scope};
use crate::record::power::unlocked;
use crate::record::queue::{Job, What};
use crate::record::recorder::Shared;
use crate::record::sink::Files;
use crate::record::verify::{self, Options, Problem, Report};
use crate::record::{PublicKey, RecordError, rotation};
use crate::telemetry::SessionId;

struct Fixture {
    _place: tempfile::TempDir,
    config: crate::record::Config,
    clock: Arc<ManualClock>,
}

impl Fixture {
    fn new(retention: Config) -> Self {
        let place = tempfile::tempdir().unwrap();
        let config = crate::record::Config {
            spool: place.path().join("spool"),
            key: place.path().join("key"),
            segment_bytes: 4096,
            free_space_floor: 0,
            retention,
            ..crate::record::Config::default()
        };
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix(1_800_000_000)));
        Self { _place: place, config, clock }
    }

    fn open(&self) -> Shared {
        let sink = || Box::new(Files::new(self.config.spool.clone()));
        unlocked(|| Shared::open(&self.config, Arc::clone(&self.clock) as Arc<_>, sink())).unwrap()
    }

    /// Has something written, or signed.
    fn write(&self, shared: &Shared, what: What) -> Result<u64, RecordError> {
        let (ack, mut answer) = oneshot::channel();
        let (session, time) = (SessionId::NONE, self.clock.now());
        shared.queue.lock().push(Job { session, time, what, ack: Some(ack), cost: 0 });
        turn(shared);
        answer.try_recv().unwrap()
    }

    fn note(&self, shared: &Shared, number: usize) -> Result<u64, RecordError> {
        let text = format!("{number} {}", "x".repeat(400));
        self.write(shared, What::Event(Event::Note { text }))
    }

    /// So many segments, each begun a day after the one before.
    fn days(&self, shared: &Shared, count: usize) {
        for number in 0..count * 9 {
            self.note(shared, number).unwrap();
            self.clock.advance(DAY / 9);
        }
        self.write(shared, What::Flush).unwrap();
    }

    /// After a time in which nothing happens.
    fn later(&self, shared: &Shared, time: Duration) {
        self.clock.advance(time);
        turn(shared);
        self.write(shared, What::Flush).unwrap();
    }

    fn segments(&self) -> Vec<u64> {
        sink::segments(&self.config.spool).unwrap()
    }

    fn verify(&self) -> Report {
        verify_in(&self.config.spool, &self.config)
    }

    fn copy(&self) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&self.config.spool).unwrap().flatten() {
            fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
        to
    }
}

/// What the recorder's thread does.
fn turn(shared: &Shared) {
    shared.worker.lock().turn(shared, Vec::new());
    while shared.sweep() {}
}

fn verify_in(spool: &Path, config: &crate::record::Config) -> Report {
    let key = PublicKey::load(&config.public_key()).unwrap();
    verify::directory(spool, &key, &Options::default()).unwrap()
}

fn hold(name: &str, scope: Scope) -> Change {
    Change::Hold(Hold {
        id: name.to_owned(),
        reason: "a case".to_owned(),
        of: "what is asked for".to_owned(),
        since: Timestamp::from_unix(0),
        scope,
    })
}

fn of_segments(from: u64, to: u64) -> Scope {
    Scope { segments: vec![(from, Some(to))], times: None }
}

fn aged(days: u32) -> Config {
    Config { max_age_days: days, ..Config::default() }
}

#[test]
fn what_is_too_old_goes_with_a_word_and_nothing_else_may() {
    let fixture = Fixture::new(aged(7));
    let shared = fixture.open();
    fixture.days(&shared, 6);
    let all = fixture.segments();
    assert!(all.len() >= 6 && all[0] == 0, "{all:?}");
    fixture.later(&shared, DAY * 4);
    let left = fixture.segments();
    assert!(left[0] > 0 && left.len() >= 3, "{left:?} of {all:?}");
    let report = fixture.verify();
    assert!(report.is_whole(), "{report:?}");
    let note = report.notes.iter().find(|note| note.contains("whole since frame")).unwrap();
    assert!(note.contains("segments 0 to") && note.contains("max_age_days = 7"), "{note}");

    // One more, of which nothing is on record.
    let copy = fixture.copy();
    fs::remove_file(sink::segment_path(copy.path(), left[0])).unwrap();
    let finding = verify_in(copy.path(), &fixture.config).findings.remove(0);
    assert_eq!((finding.problem, finding.segment), (Problem::Dropped, 0), "{finding}");
    assert!(finding.explanation.contains("no record says"), "{finding}");
    let copy = fixture.copy();
    fs::remove_file(sink::segment_path(copy.path(), left[1])).unwrap();
    let finding = verify_in(copy.path(), &fixture.config).findings.remove(0);
    assert_eq!((finding.problem, finding.segment), (Problem::Dropped, left[1]), "{finding}");

    // Another start, and it goes on.
    drop(shared);
    let shared = fixture.open();
    fixture.later(&shared, DAY * 30);
    let report = fixture.verify();
    assert!(report.is_whole() && fixture.segments().len() <= 2, "{report:?} {:?}", fixture.segments());
    assert_eq!(report.notes.iter().filter(|note| note.contains("whole since")).count(), 1, "{report:?}");
}

#[test]
fn the_bound_refuses_and_deletes_nothing_unless_it_is_told_to() {
    let mut fixture = Fixture::new(Config { max_bytes: 5 * 4096, ..Config::default() });
    let shared = fixture.open();
    let error = (0..100).find_map(|number| fixture.note(&shared, number).err()).unwrap();
    assert!(matches!(&error, RecordError::Limit(why) if why.contains("max_bytes allows 20480")), "{error}");
    let there = fixture.segments();
    fixture.clock.advance(DAY);
    assert!(fixture.note(&shared, 0).is_err());
    assert_eq!((fixture.segments(), there[0]), (there.clone(), 0));
    let size: u64 =
        there.iter().map(|one| fs::metadata(sink::segment_path(&fixture.config.spool, *one)).unwrap().len()).sum();
    assert!(size < 5 * 4096 + 1024, "{size}");
    drop(shared);
    // Another bound, and it goes on; what was is whole.
    fixture.config.retention.max_bytes = 0;
    let shared = fixture.open();
    fixture.note(&shared, 0).unwrap();
    fixture.write(&shared, What::Flush).unwrap();
    assert!(fixture.verify().is_whole());
}

#[test]
fn the_oldest_go_at_the_bound_but_nothing_young() {
    let bound = Config { max_bytes: 5 * 4096, at_limit: AtLimit::DeleteOldest, min_age_days: 2, max_age_days: 0 };
    let fixture = Fixture::new(bound);
    let shared = fixture.open();
    let refused = (0..100).find_map(|number| fixture.note(&shared, number).err());
    assert!(matches!(refused, Some(RecordError::Limit(_))), "all of it is young");
    fixture.clock.advance(DAY * 3);
    turn(&shared);
    for number in 0..200 {
        fixture.note(&shared, number).unwrap();
        fixture.clock.advance(DAY / 2);
        let size = shared.worker.lock().bytes();
        assert!(size <= 5 * 4096, "{size}");
    }
    fixture.write(&shared, What::Flush).unwrap();
    let report = fixture.verify();
    assert!(report.is_whole() && fixture.segments()[0] > 3, "{report:?}");
    assert!(report.notes.iter().any(|note| note.contains("at_limit = delete_oldest")), "{report:?}");
}

#[test]
fn a_group_that_is_longer_than_the_room_that_is_kept_makes_its_own() {
    let bound = Config { max_bytes: 10 * 4096, at_limit: AtLimit::DeleteOldest, min_age_days: 0, max_age_days: 0 };
    let fixture = Fixture::new(bound);
    let shared = fixture.open();
    for number in 0..100 {
        fixture.note(&shared, number).unwrap();
    }
    for number in 0u8..30 {
        // Nothing that could be compressed.
        let mut state = u32::from(number) + 1;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        let bytes: Vec<u8> = (0..15_000).map(|_| noise()).collect();
        let what = What::Event(Event::Data { direction: Direction::ToAgent, bytes: bytes.into() });
        fixture.write(&shared, what).unwrap();
        fixture.note(&shared, 0).unwrap();
        assert!(shared.worker.lock().bytes() <= 10 * 4096);
    }
    fixture.write(&shared, What::Flush).unwrap();
    assert!(fixture.verify().is_whole());
}

#[test]
fn what_is_held_stays_until_it_is_let_go_of() {
    let fixture = Fixture::new(aged(3));
    let shared = fixture.open();
    let change = |change| shared.worker.lock().holds(&shared, change, "root").unwrap().done;
    assert!(change(hold("case", of_segments(1, 2))));
    fixture.days(&shared, 4);
    fixture.later(&shared, DAY * 10);
    let left = fixture.segments();
    assert_eq!(left[..2], [1, 2], "{left:?}");
    assert!(left[2] > 3);
    let report = fixture.verify();
    assert!(report.is_whole(), "{report:?}");
    let notes: Vec<_> = report.notes.iter().filter(|note| note.contains("whole since")).collect();
    assert!(notes.len() == 2 && notes[0].contains("segment 0 ") && notes[1].contains("segments 3 to"), "{notes:?}");

    // Another start knows of the holds, and of what is missing.
    drop(shared);
    let shared = fixture.open();
    fixture.later(&shared, DAY * 10);
    assert_eq!(fixture.segments()[..2], [1, 2]);
    assert!(!shared.worker.lock().holds(&shared, Change::Release("other".into()), "root").unwrap().done);
    assert!(shared.worker.lock().holds(&shared, Change::Release("case".into()), "root").unwrap().done);
    fixture.later(&shared, DAY);
    assert!(fixture.segments()[0] > 2);
    let report = fixture.verify();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.notes.iter().filter(|note| note.contains("whole since")).count(), 1);
    assert!(Holds::load(&fixture.config.spool).unwrap().list().is_empty());
}

#[test]
fn a_hold_at_the_bound_refuses() {
    let bound = Config { max_bytes: 5 * 4096, at_limit: AtLimit::DeleteOldest, min_age_days: 0, max_age_days: 0 };
    let fixture = Fixture::new(bound);
    let shared = fixture.open();
    let times = Some((Timestamp::from_unix(0), None));
    shared.worker.lock().holds(&shared, hold("all", Scope { segments: Vec::new(), times }), "root").unwrap();
    let refused = (0..100).find_map(|number| fixture.note(&shared, number).err());
    assert!(matches!(refused, Some(RecordError::Limit(_))), "{refused:?}");
    assert_eq!(fixture.segments()[0], 0);
    // Letting go is on record in spite of the bound, and makes room.
    assert!(shared.worker.lock().holds(&shared, Change::Release("all".into()), "root").unwrap().done);
    fixture.clock.advance(DAY);
    turn(&shared);
    fixture.note(&shared, 0).unwrap();
    fixture.write(&shared, What::Flush).unwrap();
    assert!(fixture.segments()[0] > 0);
    assert!(fixture.verify().is_whole());
}

#[test]
fn holds_that_are_not_those_on_record_hold_everything() {
    let fixture = Fixture::new(aged(3));
    let shared = fixture.open();
    fixture.days(&shared, 2);
    shared.worker.lock().holds(&shared, hold("case", of_segments(0, 0)), "root").unwrap();
    drop(shared);
    let file = fixture.config.spool.join("holds.json");
    let (whole, left) = (fs::read(&file).unwrap(), fixture.segments());
    let other = String::from_utf8(whole.clone()).unwrap().replacen("        0,\n        0", "        0,\n        1", 1);
    let empty = String::from_utf8(whole.clone()).unwrap().replace("segments", "segment");
    for bad in [None, Some("[]"), Some("[{"), Some(other.as_str()), Some(empty.as_str())] {
        match bad {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let shared = fixture.open();
        fixture.later(&shared, DAY * 4);
        assert!(fixture.segments().starts_with(&left), "{bad:?}");
        assert!(fixture.verify().is_whole());
    }
    // What was not understood is read again; a hold on record alone is let go of by its name.
    let shared = fixture.open();
    assert!(shared.worker.lock().holds(&shared, hold("new", of_segments(0, 9)), "root").is_err());
    fs::remove_file(&file).unwrap();
    let release = Change::Release("case".into());
    assert!(shared.worker.lock().holds(&shared, release, "root").unwrap().done);
    fixture.later(&shared, DAY * 4);
    assert!(fixture.segments()[0] > 0);
    assert!(fixture.verify().is_whole());
}

#[test]
fn a_removed_segment_is_found_missing_for_ever() {
    let fixture = Fixture::new(aged(7));
    let shared = fixture.open();
    fixture.days(&shared, 6);
    shared.worker.lock().holds(&shared, hold("case", of_segments(3, 3)), "root").unwrap();
    drop(shared);
    for number in [1, 3] {
        fs::remove_file(sink::segment_path(&fixture.config.spool, number)).unwrap();
    }
    let (mut shared, mut found) = (fixture.open(), Vec::new());
    for round in 0..4 {
        fixture.later(&shared, DAY * 4);
        fixture.days(&shared, 2);
        let findings = fixture.verify().findings;
        for number in [1, 3] {
            let words = format!("segment {number} were found missing at");
            assert!(findings.iter().any(|one| one.explanation.contains(&words)), "{round}: {findings:?}");
        }
        assert!(findings.iter().any(|one| one.explanation.contains("although case holds it")), "{round}: {findings:?}");
        assert!(findings.iter().all(|one| one.problem == Problem::Dropped), "{findings:?}");
        found = findings;
        drop(shared);
        shared = fixture.open();
    }
    assert!(fixture.segments()[0] > 6, "{:?}", fixture.segments());
    assert_eq!(found.len(), 3, "{found:?}");
    // Also where the hold has ended.
    let release = Change::Release("case".into());
    assert!(shared.worker.lock().holds(&shared, release, "root").unwrap().done);
    fixture.later(&shared, DAY);
    assert_eq!(fixture.verify().findings.len(), 2);
}

#[test]
fn what_is_removed_once_it_was_said_and_then_held_is_found() {
    let fixture = Fixture::new(aged(7));
    let shared = fixture.open();
    fixture.days(&shared, 4);
    // Said, and not removed.
    fixture.clock.advance(DAY * 6);
    shared.worker.lock().turn(&shared, Vec::new());
    let there = fixture.segments();
    assert_eq!(there[..3], [0, 1, 2], "{there:?}");
    let changed = shared.worker.lock().holds(&shared, hold("case", of_segments(1, 1)), "root").unwrap();
    assert_eq!(changed.gone, []);
    fixture.later(&shared, DAY);
    assert_eq!(fixture.segments()[0], 1);
    assert!(fixture.verify().is_whole(), "{:?}", fixture.verify());
    let changed = shared.worker.lock().holds(&shared, hold("late", of_segments(0, 2)), "root").unwrap();
    assert_eq!(changed.gone, [(0, 0), (2, 2)]);
    fs::remove_file(sink::segment_path(&fixture.config.spool, 1)).unwrap();
    let findings = fixture.verify().findings;
    assert!(findings.iter().any(|one| one.explanation.contains("missing although case holds it")), "{findings:?}");
    drop(shared);
    let shared = fixture.open();
    fixture.later(&shared, DAY);
    for name in ["case", "late"] {
        assert!(shared.worker.lock().holds(&shared, Change::Release(name.into()), "root").unwrap().done);
    }
    fixture.later(&shared, DAY);
    let findings = fixture.verify().findings;
    assert!(findings[0].explanation.contains("segment 1 were found missing"), "{findings:?}");
}

#[test]
fn a_record_that_nobody_has_signed_says_nothing() {
    let fixture = Fixture::new(Config::default());
    let shared = fixture.open();
    fixture.days(&shared, 3);
    let open = *fixture.segments().last().unwrap();
    // Chained, as anybody can who writes to the directory, behind the last signature.
    let gone =
        |segment| ledger::Missing { from: segment, to: segment, frames: 0, root: String::new(), chain: String::new() };
    let event = Event::Kept(Ledger { missing: vec![gone(1)], ..Ledger::default() });
    fixture.write(&shared, What::Event(event)).unwrap();
    let copy = fixture.copy();
    drop(shared);
    for entry in fs::read_dir(copy.path()).unwrap().flatten() {
        fs::copy(entry.path(), fixture.config.spool.join(entry.file_name())).unwrap();
    }
    fs::remove_file(sink::segment_path(&fixture.config.spool, 1)).unwrap();
    let shared = fixture.open();
    fixture.later(&shared, DAY);
    assert_eq!(*fixture.segments().last().unwrap(), open);
    let findings = fixture.verify().findings;
    assert!(findings.iter().any(|one| one.explanation.contains("segment 1 were found missing")), "{findings:?}");
}

#[test]
fn nothing_is_old_before_the_clock_can_be_right() {
    let fixture = Fixture::new(aged(7));
    let shared = fixture.open();
    fixture.days(&shared, 3);
    drop(shared);
    // A clock that is ahead when the daemon starts, and one that is set while it runs.
    let year = i64::try_from((DAY * 365).as_micros()).unwrap();
    fixture.clock.set(year);
    let (shared, there) = (fixture.open(), fixture.segments());
    fixture.later(&shared, Duration::from_secs(3000));
    assert!(fixture.segments().starts_with(&there));
    fixture.clock.set(-year);
    fixture.later(&shared, Duration::from_secs(7200));
    fixture.clock.set(year);
    fixture.later(&shared, DAY / 2);
    assert!(fixture.segments().starts_with(&there));
    fixture.clock.set(-year);
    fixture.later(&shared, DAY * 2);
    assert!(fixture.segments().starts_with(&there) && fixture.verify().is_whole());
    let set = |frame: &crate::record::reader::Frame| matches!(&frame.event, Event::Note { text } if text.contains("the clock was set by"));
    let frames = crate::record::reader::Reader::open(&fixture.config.spool).unwrap().frames(None);
    assert_eq!(frames.map(Result::unwrap).filter(set).count(), 3);
    // Who has it deleted all the same, by a clock that goes on evenly, is found once it is set back.
    fixture.clock.set(year);
    fixture.later(&shared, Duration::from_secs(60));
    fixture.later(&shared, DAY * 2);
    assert!(fixture.segments()[0] > 2, "{:?}", fixture.segments());
    assert!(fixture.verify().is_whole(), "{:?}", fixture.verify());
    fixture.clock.set(-year);
    fixture.later(&shared, Duration::from_secs(60));
    let findings = fixture.verify().findings;
    assert!(findings.iter().any(|one| one.explanation.contains("the clock had been set ahead")), "{findings:?}");
}

#[test]
fn a_time_before_all_times_makes_nothing_old() {
    let fixture = Fixture::new(aged(7));
    let now = i64::try_from(Duration::from_secs(1_800_000_000).as_micros()).unwrap();
    fixture.clock.set(-now);
    let shared = fixture.open();
    fixture.days(&shared, 3);
    fixture.clock.set(now);
    fixture.later(&shared, DAY * 2);
    drop(shared);
    let shared = fixture.open();
    fixture.later(&shared, DAY * 2);
    assert_eq!(fixture.segments()[0], 0);
    fixture.days(&shared, 2);
    fixture.later(&shared, DAY * 5);
    assert!(fixture.segments()[0] > 2);
    assert!(fixture.verify().is_whole(), "{:?}", fixture.verify());
}

#[test]
fn what_was_to_go_and_is_still_there_goes_later() {
    let fixture = Fixture::new(aged(7));
    let shared = fixture.open();
    fixture.days(&shared, 5);
    let before = fixture.copy();
    fixture.later(&shared, DAY * 5);
    drop(shared);
    // As if the power had been cut before the last of them were removed, or a copy was made at that time.
    let first = fixture.segments()[0];
    assert!(first > 1);
    for number in 1..first {
        let (from, to) = (sink::segment_path(before.path(), number), sink::segment_path(&fixture.config.spool, number));
        fs::copy(from, to).unwrap();
    }
    let report = fixture.verify();
    assert!(report.is_whole() && report.notes.iter().any(|note| note.contains("for segment 0 ")), "{report:?}");
    let shared = fixture.open();
    fixture.later(&shared, DAY / 9);
    assert!(fixture.segments()[0] >= first);
    assert!(fixture.verify().is_whole());
}

#[test]
fn what_is_sealed_goes_with_a_word_that_everybody_can_read() {
    let mut fixture = Fixture::new(aged(7));
    let identity = age::x25519::Identity::generate();
    fixture.config.recipients = vec![identity.to_public().to_string()];
    let shared = fixture.open();
    fixture.days(&shared, 5);
    drop(shared);
    let shared = fixture.open();
    shared.worker.lock().holds(&shared, hold("case", of_segments(2, 2)), "root").unwrap();
    fixture.later(&shared, DAY * 20);
    assert_eq!(fixture.segments()[0], 2);
    let report = fixture.verify();
    assert!(report.is_whole(), "{report:?}");
}

#[test]
fn values_that_make_no_sense_are_refused() {
    assert!(Config { max_bytes: 4096, ..Config::default() }.validate(4096).is_err());
    assert!(Config { max_bytes: 4 * 4096, ..Config::default() }.validate(4096).is_ok());
}

#[test]
fn a_key_that_was_named_in_what_is_deleted_has_to_be_known() {
    let fixture = Fixture::new(aged(7));
    let shared = fixture.open();
    fixture.days(&shared, 2);
    drop(shared);
    let first = PublicKey::load(&fixture.config.public_key()).unwrap();
    unlocked(|| rotation::rotate(&fixture.config, Arc::clone(&fixture.clock) as Arc<_>, None)).unwrap();
    let shared = fixture.open();
    fixture.days(&shared, 2);
    let with = |keys| {
        let options = Options { keys, ..Options::default() };
        verify::directory(&fixture.config.spool, &first, &options).unwrap()
    };
    assert!(with(Vec::new()).is_whole());
    fixture.later(&shared, DAY * 20);
    assert_eq!(with(Vec::new()).findings[0].problem, Problem::Unsigned);
    let report = with(rotation::public_keys(&fixture.config.key).unwrap());
    assert!(report.is_whole(), "{report:?}");
}

/// Files, of which some cannot be removed.
#[derive(Debug)]
struct Sticky {
    files: Files,
    stuck: Arc<AtomicU64>,
    /// Removing waits for it.
    gate: Arc<parking_lot::Mutex<()>>,
    waits: Arc<AtomicBool>,
}

impl Sticky {
    fn new(fixture: &Fixture, stuck: u64) -> Self {
        let files = Files::new(fixture.config.spool.clone());
        Self { files, stuck: Arc::new(AtomicU64::new(stuck)), gate: Arc::default(), waits: Arc::default() }
    }

    fn open(self, fixture: &Fixture) -> Shared {
        Shared::open(&fixture.config, Arc::clone(&fixture.clock) as Arc<_>, Box::new(self)).unwrap()
    }
}

struct Stuck {
    files: Box<dyn sink::Remover>,
    stuck: u64,
    gate: Arc<parking_lot::Mutex<()>>,
    waits: Arc<AtomicBool>,
}

impl sink::Remover for Stuck {
    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.waits.store(true, Ordering::SeqCst);
        let _open = self.gate.lock();
        if segment < self.stuck { Err(io::Error::other("stuck")) } else { self.files.remove(segment) }
    }

    fn settle(&mut self) -> io::Result<()> {
        self.files.settle()
    }
}

impl sink::Sink for Sticky {
    fn open(&mut self, segment: u64, length: u64) -> io::Result<()> {
        self.files.open(segment, length)
    }

    fn create(&mut self, segment: u64, header: &[u8]) -> io::Result<()> {
        self.files.create(segment, header)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.files.write(offset, bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.files.truncate(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.files.sync()
    }

    fn free_space(&mut self) -> io::Result<u64> {
        self.files.free_space()
    }

    fn remover(&self) -> Box<dyn sink::Remover> {
        Box::new(Stuck {
            files: self.files.remover(),
            stuck: self.stuck.load(Ordering::SeqCst),
            gate: Arc::clone(&self.gate),
            waits: Arc::clone(&self.waits),
        })
    }

    fn publish(&mut self, checkpoint: &[u8], sync: bool) -> io::Result<()> {
        self.files.publish(checkpoint, sync)
    }
}

#[test]
fn what_cannot_be_removed_is_said_once_and_stops_nothing() {
    let bound = Config { max_bytes: 8 * 4096, at_limit: AtLimit::DeleteOldest, min_age_days: 0, max_age_days: 0 };
    let fixture = Fixture::new(bound);
    let sink = Sticky::new(&fixture, 2);
    let stuck = Arc::clone(&sink.stuck);
    let shared = sink.open(&fixture);
    for number in 0..200 {
        fixture.note(&shared, number).unwrap();
        fixture.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(fixture.segments()[..2], [0, 1]);
    assert!(fixture.segments()[2] > 5);
    // All are stuck: it is refused, and tried again and again, and nothing is written meanwhile.
    stuck.store(u64::MAX, Ordering::SeqCst);
    let refused = (0..200).find_map(|number| fixture.note(&shared, number).err());
    assert!(matches!(refused, Some(RecordError::Limit(_))), "{refused:?}");
    let before = shared.worker.lock().bytes();
    for _ in 0..100 {
        fixture.clock.advance(Duration::from_millis(250));
        turn(&shared);
    }
    assert!(shared.worker.lock().bytes() < before + 4096, "{before}");
    stuck.store(0, Ordering::SeqCst);
    fixture.clock.advance(DAY);
    turn(&shared);
    fixture.note(&shared, 0).unwrap();
    fixture.later(&shared, Duration::from_secs(4000));
    assert!(fixture.segments()[0] > 5);
    assert!(fixture.verify().is_whole());
    let frames = crate::record::reader::Reader::open(&fixture.config.spool).unwrap().frames(None);
    let mut said = std::collections::BTreeSet::new();
    for frame in frames.map(Result::unwrap) {
        if let Event::Deleted { segments, .. } = frame.event {
            assert!(segments.iter().all(|gone| said.insert(gone.segment)), "said twice");
        }
    }
}

#[test]
fn a_key_that_another_has_followed_counts_no_more() {
    let fixture = Fixture::new(Config::default());
    let shared = fixture.open();
    fixture.days(&shared, 1);
    drop(shared);
    let first = PublicKey::load(&fixture.config.public_key()).unwrap();
    let copy = fixture.copy();
    let key = fs::read(&fixture.config.key).unwrap();
    unlocked(|| rotation::rotate(&fixture.config, Arc::clone(&fixture.clock) as Arc<_>, None)).unwrap();
    let keys = rotation::public_keys(&fixture.config.key).unwrap();
    let newest = Some(keys[0].clone());
    let options = Options { keys: keys.clone(), newest, ..Options::default() };
    assert!(verify::directory(&fixture.config.spool, &first, &options).unwrap().is_whole());
    // Whoever has the key of before goes on from before it was changed.
    fs::write(&fixture.config.key, key).unwrap();
    let report = verify::directory(copy.path(), &first, &options).unwrap();
    assert!(report.findings.iter().any(|one| one.explanation.contains("the key of this host is")), "{report:?}");
}

#[test]
fn a_sealed_spool_that_was_taken_over_at_its_bound_makes_room() {
    let bound = Config { max_bytes: 6 * 4096, ..Config::default() };
    let mut fixture = Fixture::new(bound);
    fixture.config.recipients = vec![age::x25519::Identity::generate().to_public().to_string()];
    let shared = fixture.open();
    assert!((0..200).find_map(|number| fixture.note(&shared, number).err()).is_some());
    drop(shared);
    fixture.config.retention = Config { at_limit: AtLimit::DeleteOldest, min_age_days: 0, ..fixture.config.retention };
    let shared = fixture.open();
    let held = shared.worker.lock().holds(&shared, hold("case", of_segments(1, 1)), "root").unwrap();
    assert!(held.done);
    turn(&shared);
    fixture.note(&shared, 0).unwrap();
    fixture.write(&shared, What::Flush).unwrap();
    assert!(fixture.segments()[0] == 1 && fixture.verify().is_whole(), "{:?}", fixture.segments());
}

#[test]
fn what_cannot_be_read_stays_and_keeps_nobody_from_starting() {
    let fixture = Fixture::new(aged(7));
    let shared = fixture.open();
    fixture.days(&shared, 4);
    drop(shared);
    let path = |number| sink::segment_path(&fixture.config.spool, number);
    // One that is none, and one whose header was made older by somebody without a key.
    fs::remove_file(path(1)).unwrap();
    fs::create_dir(path(1)).unwrap();
    let bytes = fs::read(path(2)).unwrap();
    let (header, _, length) = Header::decode(&bytes).unwrap().unwrap();
    let mut older = Header { created: Timestamp::from_unix(1_750_000_000), ..header }.encode();
    older.extend_from_slice(&bytes[length..]);
    fs::write(path(2), older).unwrap();
    let shared = fixture.open();
    fixture.later(&shared, DAY * 30);
    assert_eq!(fixture.segments()[..2], [1, 2]);
    assert!(fixture.segments()[2] > 3);
}

/// What only somebody with the key could write: it does not go on from what was said before.
#[test]
fn records_of_deletions_are_held_against_their_rule_and_those_before() {
    let fixture = Fixture::new(Config::default());
    let shared = fixture.open();
    fixture.days(&shared, 3);
    shared.worker.lock().holds(&shared, hold("case", of_segments(0, 0)), "root").unwrap();
    let now = fixture.clock.now();
    let gone = |segment, rule| Gone {
        segment,
        first: 0,
        frames: 1,
        bytes: 1,
        begun: now,
        ended: now,
        root: String::new(),
        chain: String::new(),
        rule,
    };
    let mut before = Ledger::default();
    ledger::widen(&mut before.missing, &gone(1, Rule::Age(7)));
    let segments = vec![gone(2, Rule::Room(3)), gone(0, Rule::Room(0))];
    let event = Event::Deleted { reason: "none".into(), segments, before };
    fixture.write(&shared, What::Event(event)).unwrap();
    fixture.write(&shared, What::Flush).unwrap();
    let said: Vec<String> = fixture.verify().findings.into_iter().map(|finding| finding.explanation).collect();
    let wanted = [
        "segment 1 were missing then, and no record before",
        "the hold case is not there any more",
        "segment 2 was deleted although it ended at",
        "segment 0 was deleted although case held it",
    ];
    for (said, wanted) in said.iter().zip(wanted) {
        assert!(said.contains(wanted), "{said}");
    }
    assert_eq!(said.len(), 4, "{said:?}");
}
