//! The spool as its one writer sees it: staging entries, committing them whole, rotating, recovering.
//!
//! Nothing that was not committed counts: a failed commit is rolled back in memory and truncated away in the segment
//! before the next one, so that no torn frame is ever followed by another. Not owned: queueing, and when to do what.

pub(super) mod keep;

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::disk;
use super::event::Event;
use super::format::{self, Entry, FormatError, Header, Kind};
use super::key::{Checkpoint, PublicKey, SigningKey};
use super::known::KnownActions;
use super::ledger::Ledger;
use super::merkle::{Hash, Tree};
use super::pack::{Packer, Payload};
use super::retention::{self, Stock};
use super::scan::{Scan, Step};
use super::seal::{Recipients, Sealer};
use super::sink::{self, Sink};
use super::{Config, Fsync, OpenError, rotation};
use crate::clock::{Clock, Timestamp};
use crate::telemetry::SessionId;

/// The writing side of a spool.
pub(super) struct Spool {
    sink: Box<dyn Sink>,
    key: SigningKey,
    recipients: Recipients,
    /// Of the open segment, where it is sealed.
    sealer: Option<Sealer>,
    /// Whether the next segment is due, however short the open one is.
    over: bool,
    /// When the open segment was begun, or taken over.
    begun: Duration,
    /// Entries with which it was begun.
    begins: u32,
    clock: Arc<dyn Clock>,
    segment_bytes: u64,
    directory: PathBuf,
    free_space_floor: u64,
    retention: retention::Config,
    stock: Stock,
    /// Bytes of what may be deleted for room.
    deletable: u64,
    /// When it is looked next whether something is to be deleted.
    retain_at: Duration,
    /// The longest that found no room.
    refused: u64,
    /// Whether what is staged may go beyond the bound: it makes room, or says what must not.
    unbounded: bool,
    /// Whether what is acknowledged has to outlive a power cut.
    forces: bool,
    /// Of the open segment.
    header: Header,
    /// Bytes of the open segment that are committed.
    length: u64,
    /// Whether the open segment may hold bytes after `length`.
    tail: bool,
    committed: State,
    staged: State,
    buffer: Vec<u8>,
    known: KnownActions,
    packer: Packer,
    space_checked: Option<Duration>,
    since_space_check: u64,
    checkpointed: Duration,
    published: Option<Duration>,
    newest: Option<String>,
    /// Whether the next segment was begun, and that failed.
    creating: bool,
    trusted: keep::Trusted,
    beyond: keep::Beyond,
    lock: Option<Flock<File>>,
}

impl Spool {
    /// Opens the spool, creating or recovering it. The event, if any, says what recovery removed; it is to be written
    /// first.
    pub(super) fn open(
        config: &Config,
        clock: Arc<dyn Clock>,
        mut sink: Box<dyn Sink>,
    ) -> Result<(Self, Option<Event>), OpenError> {
        config.validate()?;
        let directory = &config.spool;
        disk::make_directory(directory).map_err(OpenError::io("cannot create the spool directory", directory))?;
        let lock = lock(directory)?;
        let (key, found) = rotation::settled(&config.key, |key| newest_segment(directory, key))?;
        let recipients = config.recipients()?;
        let now = clock.now();
        let mut sealer = None;
        let (header, length, mut state, over, event, past) = match found {
            None => {
                sealer = recipients.sealer().map_err(OpenError::io("cannot seal", directory))?;
                let header = header((0, now), [0; 32], &key, &Tree::default(), sealer.as_ref());
                let bytes = header.encode();
                sink.create(0, &bytes).map_err(OpenError::io("cannot begin a segment in", directory))?;
                (header, len64(&bytes), State::begin(&bytes, Tree::default()), false, None, Past::default())
            }
            Some(found) => {
                let event = found.cut(directory, key.public())?;
                let segment = found.header.segment;
                sink.open(segment, found.length).map_err(OpenError::io("cannot open a segment in", directory))?;
                // Its key is gone with who wrote it.
                let over = !found.header.sealing.is_empty() || !recipients.is_empty();
                (found.header, found.length, found.state, over, event, found.past)
            }
        };
        // What is no checkpoint of ours, as a power cut may leave it, is replaced by the next one, also where nothing follows.
        state.unsigned |=
            fs::read(directory.join(sink::CHECKPOINT)).is_ok_and(|note| key.public().open_checkpoint(&note).is_err());
        let mut stock = Stock::look(directory, &header, past.signed.clone(), now)
            .map_err(OpenError::io("cannot look at the segments in", directory))?;
        // What nobody has signed says nothing, also once what follows it is signed.
        stock.restate = past.waits;
        let packer = Packer::new().map_err(OpenError::io("cannot compress for", directory))?;
        let checkpointed = clock.monotonic();
        let (trusted, beyond) = (keep::Trusted::new(&*clock), keep::Beyond::default());
        let mut spool = Self {
            sink,
            key,
            recipients,
            sealer,
            over,
            begun: clock.monotonic(),
            begins: 0,
            clock,
            segment_bytes: config.segment_bytes,
            directory: directory.clone(),
            free_space_floor: config.free_space_floor,
            retention: config.retention.clone(),
            stock,
            deletable: 0,
            retain_at: Duration::ZERO,
            refused: 0,
            unbounded: false,
            forces: config.fsync != Fsync::None,
            header,
            length,
            tail: false,
            committed: state.clone(),
            staged: state,
            buffer: Vec::with_capacity(64 << 10),
            known: KnownActions::default(),
            packer,
            space_checked: None,
            since_space_check: 0,
            checkpointed,
            published: None,
            newest: None,
            creating: false,
            trusted,
            beyond,
            lock: Some(lock),
        };
        // Where what was cut belongs, before anything else can go wrong.
        let told = event.as_ref().filter(|_| over).is_some_and(|event| spool.tell(now, event).is_ok());
        Ok((spool, event.filter(|_| !told)))
    }

    pub(super) fn tell(&mut self, time: Timestamp, event: &Event) -> io::Result<()> {
        self.stage(SessionId::NONE, time, event).map_err(io::Error::other)?;
        self.commit(true)
    }

    /// Adds an event to what the next commit writes. Gives the frame's number.
    pub(super) fn stage(&mut self, session: SessionId, time: Timestamp, event: &Event) -> Result<u64, FormatError> {
        // What the spool says of its own history has to be known to who has no key.
        let in_clear = matches!(
            event,
            Event::Recovered { .. }
                | Event::Gap { .. }
                | Event::KeyChanged { .. }
                | Event::Deleted { .. }
                | Event::Kept(_)
                | Event::FoundMissing { .. }
                | Event::Held(_)
                | Event::Released { .. }
        );
        self.must_seal(in_clear)?;
        let payload = self.packer.pack(|out| self.known.encode(event, out))?;
        let sealer = self.sealer.as_mut().filter(|_| !in_clear);
        self.staged.put((&mut self.buffer, sealer), session, time, payload)
    }

    /// The same for one whose payload is ready.
    pub(super) fn stage_ready(
        &mut self,
        session: SessionId,
        time: Timestamp,
        payload: Payload<&[u8]>,
    ) -> Result<u64, FormatError> {
        self.must_seal(false)?;
        self.staged.put((&mut self.buffer, self.sealer.as_mut()), session, time, payload)
    }

    /// Whoever forgets to begin a sealed segment writes nothing.
    const fn must_seal(&self, in_clear: bool) -> Result<(), FormatError> {
        if in_clear || self.recipients.is_empty() || self.sealer.is_some() { Ok(()) } else { Err(FormatError::Sealing) }
    }

    /// Adds a checkpoint over all that is staged, where there is anything new to sign.
    pub(super) fn stage_checkpoint(&mut self) {
        if !self.staged.unsigned {
            return;
        }
        let note = self.staged.sign(&mut self.buffer, &self.key, self.clock.now());
        self.newest = Some(note);
    }

    /// Drops what was staged and never committed: whoever staged it broke off.
    pub(super) fn discard(&mut self) {
        if !self.buffer.is_empty() {
            self.staged.copy_from(&self.committed);
            self.buffer.clear();
        }
    }

    /// Bytes that wait for a commit.
    pub(super) fn staged_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Writes what is staged, and forces it to the disk where `sync`. After an error nothing of it counts.
    pub(super) fn commit(&mut self, sync: bool) -> io::Result<()> {
        let result = self.try_commit(sync);
        if result.is_ok() {
            self.length = self.length.saturating_add(len64(&self.buffer));
            self.committed.copy_from(&self.staged);
            if !self.committed.unsigned {
                self.checkpointed = self.clock.monotonic();
            }
        } else {
            self.refused = self.refused.max(len64(&self.buffer));
            self.staged.copy_from(&self.committed);
            self.newest = None;
            if self.tail && self.sink.truncate(self.length).is_ok() {
                self.tail = false;
            }
        }
        self.buffer.clear();
        if self.buffer.capacity() > KEEP_CAPACITY {
            self.buffer.shrink_to(KEEP_CAPACITY);
        }
        result
    }

    /// Whether the next segment is due.
    pub(super) const fn is_full(&self) -> bool {
        self.over || self.length >= self.segment_bytes || self.committed.index >= MAX_INDEX
    }

    /// Has the next frame begin another segment, with another key.
    pub(super) const fn renew(&mut self) {
        self.over = true;
    }

    /// Whether the key of the open segment has had its time, and sealed something; or it would never be closed, and deleted.
    pub(super) fn is_old(&self) -> bool {
        let age = self.clock.monotonic().saturating_sub(self.begun);
        let sealed = self.sealer.as_ref().is_some_and(|_| age >= KEY_LIFE);
        // Also where it was another process that began it.
        let open = age.max(self.clock.now().since(self.header.created));
        let kept = self.retention.longest_open().is_some_and(|longest| open >= longest);
        self.committed.index > self.begins && (sealed || kept)
    }

    /// Begins the next segment where the open one is full. Nothing may be staged.
    pub(super) fn rotate_when_full(&mut self) -> io::Result<()> {
        if self.is_full() { self.rotate(None) } else { Ok(()) }
    }

    /// Goes on with another key, once the one of so far has signed that. Nothing may be staged.
    pub(super) fn hand_over(&mut self, key: SigningKey) -> io::Result<()> {
        self.tell(self.clock.now(), &Event::KeyChanged { to: key.public().to_string() })?;
        self.rotate(Some(key))?;
        // At once, so that the newest checkpoint is of the key that is there.
        self.staged.unsigned = true;
        self.stage_checkpoint();
        self.commit(true)?;
        self.publish(true);
        Ok(())
    }

    fn rotate(&mut self, key: Option<SigningKey>) -> io::Result<()> {
        self.stage_checkpoint();
        self.commit(true)?;
        let next = self.header.segment.saturating_add(1);
        let sealer = self.recipients.sealer()?;
        let (chain, tree, time) = (self.committed.chain, &self.committed.tree, self.clock.now());
        let signing = key.as_ref().unwrap_or(&self.key);
        let header = header((next, time), chain, signing, tree, sealer.as_ref());
        let mut bytes = header.encode();
        let mut state = State::begin(&bytes, tree.clone());
        // Whole with the header, or not at all: where it does not begin with that, there is nothing of it.
        if !self.stock.ledger.is_empty() {
            let kept = Event::Kept(self.stock.ledger.clone());
            let payload = self.packer.pack(|out| format::encode_event(&kept, out)).map_err(io::Error::other)?;
            state.put((&mut bytes, None), SessionId::NONE, time, payload).map_err(io::Error::other)?;
            let _published_with_the_next = state.sign(&mut bytes, signing, time);
        }
        self.check_space(len64(&bytes))?;
        self.creating = true;
        self.sink.create(next, &bytes)?;
        self.creating = false;
        if let Some(key) = key {
            self.key = key;
        }
        self.stock.close((&self.header, self.length), &header);
        self.retain_at = Duration::ZERO;
        self.header = header;
        self.length = len64(&bytes);
        (self.sealer, self.over, self.begun) = (sealer, false, self.clock.monotonic());
        self.begins = state.index;
        self.committed = state;
        self.staged.copy_from(&self.committed);
        Ok(())
    }

    /// How long unsigned frames have waited for a checkpoint; `None` where there are none.
    pub(super) fn unsigned_for(&self) -> Option<Duration> {
        self.committed.unsigned.then(|| self.clock.monotonic().saturating_sub(self.checkpointed))
    }

    /// Puts the newest checkpoint beside the segments; at most once a second, unless `now`.
    ///
    /// Its failure stops nothing: the same note stands in the segment.
    pub(super) fn publish(&mut self, now: bool) {
        let time = self.clock.monotonic();
        let recent = self.published.is_some_and(|last| time.saturating_sub(last) < PUBLISH_EVERY);
        if recent && !now {
            return;
        }
        let Some(note) = self.newest.take() else { return };
        if let Err(error) = self.sink.publish(note.as_bytes(), now || self.forces) {
            tracing::warn!(%error, "the newest checkpoint is not beside the segments");
            self.newest = Some(note);
        }
        self.published = Some(time);
    }

    /// Lets another writer in. Nothing may be written after it.
    pub(super) fn unlock(&mut self) {
        self.lock = None;
    }

    /// Who signs.
    pub(super) const fn key(&self) -> &PublicKey {
        self.key.public()
    }

    /// Frames committed so far, in the whole life of the spool.
    pub(super) const fn frames(&self) -> u64 {
        self.committed.tree.size()
    }

    fn try_commit(&mut self, sync: bool) -> io::Result<()> {
        if self.tail {
            self.sink.truncate(self.length)?;
            self.tail = false;
        }
        if !self.buffer.is_empty() {
            self.check_bound(len64(&self.buffer))?;
            self.check_space(len64(&self.buffer))?;
            self.tail = true;
            self.sink.write(self.length, &self.buffer)?;
        }
        if sync {
            self.sink.sync()?;
        }
        self.tail = false;
        Ok(())
    }

    /// Holds `record.retention.max_bytes`. What signs for what is there already may go beyond it.
    fn check_bound(&self, wanted: u64) -> io::Result<()> {
        let (most, signs) = (self.retention.max_bytes, self.staged.tree.size() == self.committed.tree.size());
        let bytes = self.bytes();
        if most == 0 || signs || self.unbounded || bytes.saturating_add(wanted) <= most {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::QuotaExceeded,
            format!("the spool holds {bytes} bytes, and record.retention.max_bytes allows {most}"),
        ))
    }

    /// Holds the free-space floor. Asks the file system once a second, or once in [`SPACE_EVERY`] bytes.
    fn check_space(&mut self, wanted: u64) -> io::Result<()> {
        let time = self.clock.monotonic();
        self.since_space_check = self.since_space_check.saturating_add(wanted);
        let fresh = self.space_checked.is_some_and(|last| time.saturating_sub(last) < SPACE_FOR);
        if fresh && self.since_space_check < SPACE_EVERY {
            return Ok(());
        }
        self.space_checked = None;
        let free = self.sink.free_space()?;
        if !self.unbounded && free < self.free_space_floor.saturating_add(wanted) {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("{free} bytes are free and record.free_space_floor keeps {}", self.free_space_floor),
            ));
        }
        // What goes beyond the floor says nothing of what may not.
        self.space_checked = Some(time).filter(|_| !self.unbounded);
        self.since_space_check = 0;
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct State {
    chain: Hash,
    tree: Tree,
    index: u32,
    unsigned: bool,
}

impl State {
    /// The state after a header that [`header`] made.
    fn begin(header: &[u8], tree: Tree) -> Self {
        let chain = header.last_chunk().copied().unwrap_or_default();
        Self { chain, tree, index: 0, unsigned: false }
    }

    /// Appends a frame, sealed where there is a sealer. Gives its number.
    fn put(
        &mut self,
        (out, sealer): (&mut Vec<u8>, Option<&mut Sealer>),
        session: SessionId,
        time: Timestamp,
        payload: Payload<&[u8]>,
    ) -> Result<u64, FormatError> {
        let sequence = self.tree.size();
        let entry = Entry {
            kind: Kind::Frame,
            packed: payload.packed,
            sealed: false,
            index: self.index,
            sequence,
            session,
            time,
            unpacked: payload.unpacked,
            payload: payload.bytes,
        };
        let leaf = match sealer {
            Some(sealer) => entry.seal(out, &mut self.chain, sealer)?,
            None => entry.encode(out, &mut self.chain),
        };
        self.tree.push(leaf);
        self.index = self.index.saturating_add(1);
        self.unsigned = true;
        Ok(sequence)
    }

    /// Appends a checkpoint over all so far. Gives its note.
    fn sign(&mut self, out: &mut Vec<u8>, key: &SigningKey, time: Timestamp) -> String {
        let note = key.checkpoint(&self.tree, &self.chain);
        let entry = Entry {
            kind: Kind::Checkpoint,
            packed: false,
            sealed: false,
            index: self.index,
            sequence: self.tree.size(),
            session: SessionId::NONE,
            time,
            unpacked: u32::try_from(note.len()).unwrap_or(u32::MAX),
            payload: note.as_bytes(),
        };
        let _not_a_leaf = entry.encode(out, &mut self.chain);
        self.index = self.index.saturating_add(1);
        self.unsigned = false;
        note
    }

    fn copy_from(&mut self, other: &Self) {
        self.chain = other.chain;
        self.tree.copy_from(&other.tree);
        self.index = other.index;
        self.unsigned = other.unsigned;
    }
}

/// The newest segment, read up to its last whole entry.
struct Found {
    header: Header,
    length: u64,
    state: State,
    /// Why the rest is none, and whether it is more than an unfinished write.
    broken: Option<(String, bool)>,
    past: Past,
}

/// What the open segment says of what is missing, and held.
#[derive(Debug, Default)]
struct Past {
    /// All that it says, and what of that is signed.
    seen: Ledger,
    signed: Ledger,
    /// Whether there is any of it since the last signature.
    waits: bool,
}

impl Past {
    fn frame(&mut self, entry: &Entry<'_>) {
        if entry.session != SessionId::NONE || entry.sealed {
            return;
        }
        let event = entry.unpack(None).and_then(|payload| format::decode_event(&payload));
        self.waits |= event.is_ok_and(|event| self.seen.apply(&event));
    }

    fn checkpoint(&mut self, entry: &Entry<'_>, key: &PublicKey, tree: &Tree) {
        if !self.waits {
            return;
        }
        let signs = |note: Checkpoint| (note.size, note.root) == (tree.size(), tree.root());
        if key.open_checkpoint(entry.payload).is_ok_and(signs) {
            (self.signed, self.waits) = (self.seen.clone(), false);
        }
    }
}

impl Found {
    /// Removes what follows the last whole entry, keeping a copy where it is more than an unfinished write.
    fn cut(&self, directory: &Path, key: &PublicKey) -> Result<Option<Event>, OpenError> {
        let signed = fs::read(directory.join(sink::CHECKPOINT)).ok().and_then(|note| key.open_checkpoint(&note).ok());
        let lost = signed.map_or(0, |checkpoint| checkpoint.size.saturating_sub(self.state.tree.size()));
        let path = sink::segment_path(directory, self.header.segment);
        let size = fs::metadata(&path).map_err(OpenError::io("cannot read", &path))?.len();
        let (reason, keep) = match &self.broken {
            Some((reason, keep)) => (reason.clone(), *keep || lost > 0),
            None if lost > 0 => ("frames that were signed for are missing".to_owned(), false),
            None => return Ok(None),
        };
        let kept = keep.then(|| format!("{:010}.{}.cut", self.header.segment, self.length));
        if let Some(name) = &kept {
            let to = directory.join(name);
            copy_tail(&path, self.length, &to)
                .and_then(|()| disk::sync_directory(directory))
                .map_err(OpenError::io("cannot keep the damaged bytes in", &to))?;
        }
        Ok(Some(Event::Recovered {
            segment: self.header.segment,
            offset: self.length,
            bytes: size.saturating_sub(self.length),
            reason,
            kept,
            signed_frames_lost: lost,
        }))
    }
}

/// Finds where to go on. A newest segment whose header was not finished is put aside: nothing was acknowledged in it.
fn newest_segment(directory: &Path, key: &PublicKey) -> Result<Option<Found>, OpenError> {
    let mut segments = sink::segments(directory).map_err(OpenError::io("cannot list", directory))?;
    let damaged = |what: String| OpenError::Damaged { dir: directory.to_owned(), what };
    while let Some(segment) = segments.pop() {
        let path = sink::segment_path(directory, segment);
        let file = File::open(&path).map_err(OpenError::io("cannot open", &path))?;
        let mut scan = Scan::new(file);
        match scan.header().map_err(OpenError::io("cannot read", &path))? {
            Ok((header, _)) if header.public_key != key.to_bytes() => {
                let found =
                    PublicKey::from_bytes(&header.public_key).map_or_else(|| "no key".into(), |k| k.to_string());
                return Err(OpenError::OtherKey { dir: directory.to_owned(), found, ours: key.to_string() });
            }
            Ok((header, _)) if header.segment != segment => {
                return Err(damaged(format!("segment {} stands in the file of segment {segment}", header.segment)));
            }
            Ok((header, digest)) => {
                return last_whole_entry(&mut scan, header, digest, key)
                    .map_err(OpenError::io("cannot read", &path))?
                    .map(Some)
                    .ok_or_else(|| damaged(format!("the header of segment {segment} names no tree")));
            }
            // A header is written whole before anything else: a longer file has lost its header in another way.
            Err(None) if is_unfinished(&path).map_err(OpenError::io("cannot read", &path))? => {
                let aside = directory.join(format!("{segment:010}.0.cut"));
                fs::rename(&path, aside).map_err(OpenError::io("cannot put aside the unfinished", &path))?;
            }
            Err(None) => return Err(damaged(format!("segment {segment} is longer than its header and has none"))),
            Err(Some(error)) => return Err(damaged(format!("segment {segment}: {error}"))),
        }
    }
    Ok(None)
}

/// Whether a segment ends inside its header, as that itself says how long it is.
fn is_unfinished(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    file.take(format::HEADER_TELLS as u64).read_to_end(&mut start)?;
    Ok(format::header_length(&start).is_ok_and(|wanted| wanted.is_none_or(|wanted| length < wanted)))
}

fn last_whole_entry(scan: &mut Scan<File>, header: Header, digest: Hash, key: &PublicKey) -> io::Result<Option<Found>> {
    let Some(tree) = Tree::from_parts(header.first, header.subtrees.clone()) else { return Ok(None) };
    let mut state = State { chain: digest, tree, index: 0, unsigned: false };
    let mut past = Past::default();
    loop {
        let length = scan.offset();
        let broken = match scan.step()? {
            Step::Entry(entry, hashes, _) => {
                let numbered = entry.index == state.index && entry.sequence == state.tree.size();
                if numbered && hashes.follows(&state.chain) {
                    state.chain = hashes.chain;
                    state.index = state.index.saturating_add(1);
                    state.unsigned = entry.kind == Kind::Frame;
                    if state.unsigned {
                        state.tree.push(hashes.leaf);
                        past.frame(&entry);
                    } else {
                        past.checkpoint(&entry, key, &state.tree);
                    }
                    continue;
                }
                Some((format!("frame {} does not follow the one before it", state.tree.size()), true))
            }
            Step::End => None,
            Step::Torn(bytes) => Some((format!("the last write ended after {bytes} bytes of an entry"), false)),
            Step::Bad(error) => Some((error.to_string(), true)),
        };
        return Ok(Some(Found { header, length, state, broken, past }));
    }
}

fn copy_tail(from: &Path, offset: u64, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    source.seek(SeekFrom::Start(offset))?;
    let mut target = File::options().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    io::copy(&mut source.by_ref(), &mut target)?;
    target.sync_all()
}

fn lock(directory: &Path) -> Result<Flock<File>, OpenError> {
    let path = directory.join("lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(OpenError::io("cannot open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| OpenError::Locked(directory.to_owned()))
}

fn header(
    (segment, created): (u64, Timestamp),
    chain: Hash,
    key: &SigningKey,
    tree: &Tree,
    sealer: Option<&Sealer>,
) -> Header {
    Header {
        segment,
        first: tree.size(),
        created,
        chain,
        public_key: key.public().to_bytes(),
        subtrees: tree.subtrees().to_vec(),
        sealing: sealer.map_or_else(Vec::new, |sealer| sealer.wrapped().to_vec()),
    }
}

fn len64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Most entries of a segment.
const MAX_INDEX: u32 = 1 << 30;
/// How long one key seals what happens, at most.
const KEY_LIFE: Duration = Duration::from_secs(3600);
const KEEP_CAPACITY: usize = 8 << 20;
const SPACE_EVERY: u64 = 1 << 20;
const SPACE_FOR: Duration = Duration::from_secs(1);
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
