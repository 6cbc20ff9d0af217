//! Power cuts at random points, on a disk in memory that loses, tears and reorders what was not synced.
//!
//! The whole writing side runs on it: the worker with its groups, the spool, the order in which files are forced to the disk.
//! After each cut the spool is opened again: what was acknowledged must be there, and all of it must verify. Every run is one of
//! a seed, which a failure names; `INTERCEPTOR_POWER_SEED` runs that one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::disk::Disk;
use super::event::{Direction, Event};
use super::queue::{Job, What};
use super::reader::Reader;
use super::recorder::Shared;
use super::retention::{self, AtLimit};
use super::sink::{self, Files};
use super::verify::{self, Options, Problem};
use super::{Config, Fsync, OpenError, PublicKey, RecordError};
use crate::clock::{Clock as _, ManualClock, Timestamp};
use crate::telemetry::SessionId;

/// Cuts of one spool, one after another.
const CUTS: u64 = 10;

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged_group_by_group() {
    many(Fsync::Group, 0, 450);
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged_command_by_command() {
    many(Fsync::Command, 1 << 32, 400);
}

#[test]
fn a_power_cut_without_fsync_loses_the_end_of_the_open_segment_alone() {
    many(Fsync::None, 2 << 32, 150);
}

fn many(fsync: Fsync, from: u64, spools: u64) {
    if let Some(seed) = std::env::var("INTERCEPTOR_POWER_SEED").ok().and_then(|text| text.parse::<u64>().ok()) {
        if (from..from + spools).contains(&seed) {
            Run::new(fsync, seed).all();
        }
        return;
    }
    let mut cuts = 0;
    for seed in from..from + spools {
        cuts += Run::new(fsync, seed).all();
    }
    assert_eq!(cuts, spools * CUTS);
}

/// Opens a spool again that was just let go of. A process that another test starts at that moment has the lock until it is another
/// program.
pub(super) fn unlocked<T>(open: impl Fn() -> Result<T, OpenError>) -> Result<T, OpenError> {
    for _ in 0..1000 {
        match open() {
            Err(OpenError::Locked(_)) => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened,
        }
    }
    open()
}

/// One spool, and what happens to it.
struct Run {
    seed: u64,
    random: Random,
    _place: tempfile::TempDir,
    config: Config,
    clock: Arc<ManualClock>,
    disk: Cuttable,
    /// What was acknowledged, by the number of its frame.
    told: BTreeMap<u64, String>,
    /// Segments in which something was acknowledged.
    segments: BTreeSet<u64>,
    events: u64,
}

impl Run {
    fn new(fsync: Fsync, seed: u64) -> Self {
        let place = tempfile::tempdir().unwrap();
        let config = Config {
            spool: place.path().join("spool"),
            key: place.path().join("key"),
            segment_bytes: 4096,
            free_space_floor: 0,
            fsync,
            retention: retention::Config {
                max_bytes: if seed.is_multiple_of(2) { 5 * 4096 } else { 0 },
                at_limit: AtLimit::DeleteOldest,
                min_age_days: 0,
                ..retention::Config::default()
            },
            ..Config::default()
        };
        fs::write(&config.key, [7; 32]).unwrap();
        fs::set_permissions(&config.key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        Self {
            seed,
            random: Random(seed),
            _place: place,
            config,
            clock: Arc::new(ManualClock::at(Timestamp::from_unix(1_800_000_000))),
            disk: Cuttable::default(),
            told: BTreeMap::new(),
            segments: BTreeSet::new(),
            events: 0,
        }
    }

    fn all(mut self) -> u64 {
        let mut cuts = 0;
        while cuts < CUTS {
            let shared = self.open();
            let whole = self.check(&shared);
            if !whole {
                // It is said for ever that signed frames were lost.
                self = Self { random: Random(self.random.next()), ..Self::new(self.config.fsync, self.seed) };
                continue;
            }
            self.until_cut(&shared);
            drop(shared);
            self.disk.0.lock().cut(&mut self.random);
            self.disk.0.lock().store(&self.config.spool);
            cuts += 1;
        }
        let shared = self.open();
        self.check(&shared);
        cuts
    }

    fn open(&mut self) -> Shared {
        self.disk.0.lock().load(&self.config.spool);
        let sink = || Box::new(Files::on(self.disk.clone(), self.config.spool.clone()));
        match unlocked(|| Shared::open(&self.config, Arc::clone(&self.clock) as Arc<_>, sink())) {
            Ok(shared) => shared,
            Err(error) => panic!("seed {}: after a power cut: {error}", self.seed),
        }
    }

    /// Writes until the power is cut.
    fn until_cut(&mut self, shared: &Shared) {
        let after = self.random.below(40);
        self.disk.0.lock().left = Some(after);
        while self.disk.0.lock().left.is_some() {
            let waiting: Vec<_> = (0..=self.random.below(5)).filter_map(|_| self.submit(shared)).collect();
            self.turn(shared, waiting);
        }
    }

    /// Puts an event into the queue, that somebody waits for or not.
    fn submit(&mut self, shared: &Shared) -> Option<Waiting> {
        self.events += 1;
        let text = format!("{} {}", self.events, "x".repeat(usize::try_from(self.random.below(300)).unwrap()));
        let (ack, answer) = oneshot::channel();
        let (what, ack) = match self.random.below(10) {
            0 => (What::Flush, Some(ack)),
            1..4 => {
                let bytes = vec![b'd'; usize::try_from(self.random.below(2000)).unwrap()];
                (What::Event(Event::Data { direction: Direction::ToAgent, bytes: bytes.into() }), None)
            }
            _ => (What::Event(Event::Note { text: text.clone() }), Some(ack)),
        };
        let session = match &what {
            What::Flush => SessionId::NONE,
            _ => SessionId::from_bytes([u8::try_from(self.random.below(3)).unwrap() + 1; 16]),
        };
        let of_event = matches!(what, What::Event(_)).then_some(text);
        let waits = ack.is_some();
        shared.queue.lock().push(Job { session, time: self.clock.now(), what, ack, cost: 0 });
        waits.then_some((answer, of_event))
    }

    /// Has the worker do what there is to do, and takes down what it acknowledges.
    fn turn(&mut self, shared: &Shared, waiting: Vec<Waiting>) {
        self.clock.advance(Duration::from_millis(self.random.below(1500)));
        shared.worker.lock().turn(shared, Vec::new());
        while shared.sweep() {}
        for (mut answer, text) in waiting {
            if let (Ok(Ok(number)), Some(text)) = (answer.try_recv(), text) {
                self.told.insert(number, text);
                self.segments.extend(sink_segments(&self.disk.0.lock()).last());
            }
        }
    }

    /// Holds what is there against what was acknowledged. False where signed frames are gone, which is told.
    fn check(&mut self, shared: &Shared) -> bool {
        // Recovery's own word first, and a signature over all.
        let (ack, answer) = oneshot::channel();
        shared.queue.lock().push(Job {
            session: SessionId::NONE,
            time: self.clock.now(),
            what: What::Flush,
            ack: Some(ack),
            cost: 0,
        });
        self.turn(shared, vec![(answer, None)]);
        self.disk.0.lock().show(&self.config.spool);

        let (seed, spool) = (self.seed, &self.config.spool);
        let key = PublicKey::load(&self.config.public_key()).unwrap();
        let report = verify::directory(spool, &key, &Options::default()).unwrap();
        let none = self.config.fsync == Fsync::None;
        let lost = report.findings.iter().any(|finding| finding.problem == Problem::Lost);
        let said = report.findings.iter().all(|finding| none && finding.problem == Problem::Lost);
        assert!(said, "seed {seed}: {report:?}");

        // What retention has deleted is said to be, or the above would not be whole.
        let there: BTreeSet<u64> = sink::segments(spool).unwrap().into_iter().collect();
        let (oldest, newest) = (there.first().copied().unwrap(), there.last().copied().unwrap());
        self.segments.retain(|segment| *segment >= oldest);
        assert!(self.segments.is_subset(&there), "seed {seed}: {:?} of {there:?}", self.segments);
        assert!(oldest == 0 || self.config.retention.max_bytes > 0, "seed {seed}: {there:?}");
        let frames: Vec<_> = Reader::open(spool).unwrap().frames(None).map(Result::unwrap).collect();
        let first = frames.first().map_or(u64::MAX, |frame| frame.sequence);
        self.told.retain(|number, _| *number >= first || oldest == 0);
        let before = frames.iter().filter(|frame| frame.segment < newest).map(|frame| frame.sequence).max();
        let frames: BTreeMap<u64, Event> = frames.into_iter().map(|frame| (frame.sequence, frame.event)).collect();
        let mut gone = Vec::new();
        for (number, text) in &self.told {
            if frames.get(number) != Some(&Event::Note { text: text.clone() }) {
                gone.push(*number);
            }
        }
        assert!(none || gone.is_empty(), "seed {seed}: acknowledged, and gone: {gone:?}");
        // All that is gone was behind what is left, and that is in the newest segment.
        let kept = self.told.keys().filter(|number| !gone.contains(number)).max();
        assert!(gone.iter().all(|number| Some(*number) > before), "seed {seed}: {gone:?}");
        assert!(gone.first().is_none_or(|first| kept.is_none_or(|kept| kept < first)), "seed {seed}: {gone:?}");
        for number in gone {
            self.told.remove(&number);
        }
        !lost
    }
}

/// Who waits, and for what.
type Waiting = (oneshot::Receiver<Result<u64, RecordError>>, Option<String>);

/// A disk whose power is cut.
#[derive(Clone, Debug, Default)]
struct Cuttable(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    /// Operations until the power is cut; none: it is, or will not be.
    left: Option<u64>,
    off: bool,
    files: Vec<Content>,
    /// Names, as programs see them, and as they are on the disk.
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    renamed: Vec<Naming>,
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// What was done since the last sync.
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug)]
enum Naming {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Bytes(at, bytes) => {
                let end = at + bytes.len();
                to.resize(to.len().max(end), 0);
                to[*at..end].copy_from_slice(bytes);
            }
            Self::Length(length) => to.resize(*length, 0),
        }
    }

    /// The sectors of it, as a disk may write them one by one.
    fn sectors(&self) -> Vec<Self> {
        let Self::Bytes(at, bytes) = self else { return vec![self.clone()] };
        let (mut at, mut rest, mut parts) = (*at, bytes.as_slice(), Vec::new());
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
            parts.push(Self::Bytes(at, part.to_vec()));
            (at, rest) = (at + part.len(), after);
        }
        parts
    }
}

impl Naming {
    fn apply(&self, to: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Link(path, file) => _ = to.insert(path.clone(), *file),
            Self::Rename(from, path) => {
                if let Some(file) = to.remove(from) {
                    to.insert(path.clone(), file);
                }
            }
            Self::Unlink(path) => _ = to.remove(path),
        }
    }
}

impl Memory {
    /// One operation more. The last one before the power goes is under way by then: done, and not known to be.
    fn step(&mut self) -> io::Result<bool> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        self.off = self.left == Some(0);
        self.left = if self.off { None } else { self.left.map(|left| left - 1) };
        Ok(self.off)
    }

    fn result(off: bool) -> io::Result<()> {
        if off { Err(io::Error::other("the power went off")) } else { Ok(()) }
    }

    fn change(&mut self, file: usize, change: Change) -> io::Result<()> {
        let off = self.step()?;
        let content = &mut self.files[file];
        change.apply(&mut content.now);
        content.unsynced.push(change);
        Self::result(off)
    }

    fn name(&mut self, naming: Naming) -> io::Result<()> {
        let off = self.step()?;
        naming.apply(&mut self.names);
        self.renamed.push(naming);
        Self::result(off)
    }

    /// What is left once the power is back.
    fn cut(&mut self, random: &mut Random) {
        for content in &mut self.files {
            let changes = std::mem::take(&mut content.unsynced);
            for change in survivors(&changes, random) {
                change.apply(&mut content.durable);
            }
        }
        let renamed = std::mem::take(&mut self.renamed);
        let kept = match random.below(4) {
            0 => 0,
            1 => renamed.len(),
            _ => usize::try_from(random.below(1 + renamed.len() as u64)).unwrap(),
        };
        let in_order = random.below(2) == 0;
        for (at, naming) in renamed.iter().enumerate() {
            let survives = if in_order { at < kept } else { random.below(2) == 0 };
            if survives {
                naming.apply(&mut self.durable);
            }
        }
    }

    /// Writes what is on the disk into a directory, in the place of all that is there.
    fn store(&self, directory: &Path) {
        self.write_out(directory, &self.durable, |content| &content.durable);
    }

    /// The same with what programs see.
    fn show(&self, directory: &Path) {
        self.write_out(directory, &self.names, |content| &content.now);
    }

    fn write_out(&self, directory: &Path, names: &BTreeMap<PathBuf, usize>, of: impl Fn(&Content) -> &Vec<u8>) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            if entry.file_name() != "lock" && !names.contains_key(&entry.path()) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        for (path, file) in names {
            let bytes = of(&self.files[*file]);
            if fs::read(path).ok().as_ref() != Some(bytes) {
                fs::write(path, bytes).unwrap();
            }
        }
    }

    /// Begins with what is in a directory, all of it on the disk.
    fn load(&mut self, directory: &Path) {
        *self = Self::default();
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name() != "lock" {
                let bytes = fs::read(entry.path()).unwrap();
                self.names.insert(entry.path(), self.files.len());
                self.files.push(Content { now: bytes.clone(), durable: bytes, unsynced: Vec::new() });
            }
        }
        self.durable = self.names.clone();
    }
}

/// What of some changes reaches the disk: none, all, the first, or any sectors of them, and one of these in part.
fn survivors(changes: &[Change], random: &mut Random) -> Vec<Change> {
    let kept = match random.below(4) {
        0 => return Vec::new(),
        1 => return changes.to_vec(),
        2 => usize::try_from(random.below(1 + changes.len() as u64)).unwrap(),
        _ => changes.len(),
    };
    let any = kept == changes.len();
    let mut sectors: Vec<Change> = changes.iter().take(kept).flat_map(Change::sectors).collect();
    if any {
        sectors.retain(|_| random.below(2) == 0);
    }
    if let Some(Change::Bytes(_, bytes)) = sectors.last_mut() {
        bytes.truncate(usize::try_from(random.below(1 + bytes.len() as u64)).unwrap());
    }
    sectors
}

const SECTOR: usize = 512;

impl Disk for Cuttable {
    type File = usize;

    fn open(&mut self, path: &Path) -> io::Result<usize> {
        self.0.lock().names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&mut self, path: &Path) -> io::Result<usize> {
        let mut memory = self.0.lock();
        if let Some(file) = memory.names.get(path).copied() {
            memory.change(file, Change::Length(0))?;
            return Ok(file);
        }
        let file = memory.files.len();
        memory.files.push(Content::default());
        memory.name(Naming::Link(path.to_owned(), file))?;
        Ok(file)
    }

    fn write(&mut self, file: &usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().change(*file, Change::Bytes(usize::try_from(offset).unwrap(), bytes.to_vec()))
    }

    fn set_len(&mut self, file: &usize, length: u64) -> io::Result<()> {
        self.0.lock().change(*file, Change::Length(usize::try_from(length).unwrap()))
    }

    fn sync(&mut self, file: &usize) -> io::Result<()> {
        let mut memory = self.0.lock();
        Memory::result(memory.step()?)?;
        let content = &mut memory.files[*file];
        content.durable = content.now.clone();
        content.unsynced.clear();
        Ok(())
    }

    fn sync_directory(&mut self, _: &Path) -> io::Result<()> {
        let mut memory = self.0.lock();
        Memory::result(memory.step()?)?;
        memory.durable = memory.names.clone();
        memory.renamed.clear();
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.lock().name(Naming::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.0.lock().name(Naming::Unlink(path.to_owned()))
    }

    fn free_space(&mut self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

fn sink_segments(memory: &Memory) -> Vec<u64> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_suffix(".spool")?.parse().ok();
    memory.names.keys().filter_map(number).collect()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
