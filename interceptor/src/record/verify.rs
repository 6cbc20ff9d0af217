//! Verification of a spool with the public key alone.
//!
//! Owns what can be concluded, and says what cannot. Names the first frame that was altered, dropped, reordered or cut
//! off: nothing after a break in the chain can be vouched for, so that the first is also the last that is looked for.
//! Does not detect that a whole directory was put back to an earlier state, unless given a checkpoint that was kept
//! elsewhere ([`Options::kept`]).

mod deleted;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::deleted::{Deletions, Said};
use super::event::Event;
use super::format::{self, Entry, Hashes, Header, Kind};
use super::key::{Checkpoint, NoteError, PublicKey};
use super::ledger::{self, Ledger};
use super::merkle::{Hash, Tree};
use super::scan::{Scan, Step};
use super::sink;
use crate::clock::Timestamp;
use crate::telemetry::SessionId;

/// What to verify against, beyond the directory itself.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Checkpoints that were kept elsewhere: signed notes.
    pub kept: Vec<Vec<u8>>,
    /// Lines of what was kept that could not be read.
    pub unread: u64,
    /// Keys with one of which the first segment may begin as well: that of now tells nothing of who signed before it.
    pub keys: Vec<PublicKey>,
    /// Whose the newest segment has to be: that of the daemon, on its host.
    pub newest: Option<PublicKey>,
}

/// What verification found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Segments that were read.
    pub segments: u64,
    /// Frames whose chain is whole, from the first on.
    pub frames: u64,
    /// Of those, how many a signature covers.
    pub signed: u64,
    /// Checkpoints whose signature is good.
    pub checkpoints: u64,
    /// Time of the newest of them.
    pub signed_at: Option<Timestamp>,
    /// What is wrong; empty means that nothing was altered, dropped, reordered or cut off, as far as `notes` allow.
    pub findings: Vec<Finding>,
    /// What could not be known, and what the spool itself says of its history.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What happened to the recording.
    pub problem: Problem,
    /// The first frame concerned.
    pub frame: u64,
    /// Segment in which it stands, or should.
    pub segment: u64,
    /// Byte at which that was noticed.
    pub offset: u64,
    /// Session that the entry there names; it may have been altered too.
    pub session: Option<SessionId>,
    /// Time that the entry there names; it may have been altered too.
    pub time: Option<Timestamp>,
    /// In words.
    pub explanation: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {} (segment {}, byte {}", self.frame, self.segment, self.offset)?;
        if let Some(session) = self.session.filter(|session| *session != SessionId::NONE) {
            write!(f, ", session {session}")?;
        }
        if let Some(time) = self.time {
            write!(f, ", {time}")?;
        }
        write!(f, "): {}: {}", self.problem, self.explanation)
    }
}

/// What happened to a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// Bytes were changed.
    Altered,
    /// Frames were taken out.
    Dropped,
    /// Frames or segments change places, or appear twice.
    Reordered,
    /// The end is missing.
    CutOff,
    /// It is signed by another key, or too much of it is not signed at all.
    Unsigned,
    /// The daemon itself found signed frames gone when it started.
    Lost,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Altered => "altered",
            Self::Dropped => "dropped",
            Self::Reordered => "reordered",
            Self::CutOff => "cut off",
            Self::Unsigned => "not signed",
            Self::Lost => "lost",
        })
    }
}

/// Verifies the spool in a directory. One that is being written is read again where its end looks torn.
///
/// # Errors
/// When something cannot be read: that says nothing about the recording.
pub fn directory(path: &Path, key: &PublicKey, options: &Options) -> Result<Report, VerifyError> {
    let failed = |path: PathBuf| move |source| VerifyError { path, source };
    let mut attempts = 0;
    'again: loop {
        // Read before the segments, which only grow: what it names must be in them.
        let newest = match fs::read(path.join(sink::CHECKPOINT)) {
            // Where nothing is forced to the disk, a power cut may leave a file of that name, and nothing in it.
            Ok(note) => Some(note).filter(|note| note.iter().any(|byte| *byte != 0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(VerifyError { path: path.join(sink::CHECKPOINT), source }),
        };
        let numbers = sink::segments(path).map_err(failed(path.to_owned()))?;
        let size = |number: Option<&u64>| {
            number.and_then(|n| fs::metadata(sink::segment_path(path, *n)).ok()).map(|meta| meta.len())
        };
        let before = size(numbers.last());
        let mut verifier = Verifier::new(key, newest.as_deref(), options);
        for (place, number) in numbers.iter().enumerate() {
            let file = sink::segment_path(path, *number);
            let source = match File::open(&file) {
                // Deleted since it was listed: that is on record by now.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS => {
                    attempts += 1;
                    continue 'again;
                }
                source => source.map_err(failed(file.clone()))?,
            };
            if !verifier.segment(*number, place + 1 == numbers.len(), source).map_err(failed(file))? {
                break;
            }
        }
        let report = verifier.finish();
        attempts += 1;
        if report.is_whole() || attempts >= ATTEMPTS || size(numbers.last()) == before {
            return Ok(report);
        }
    }
}

/// A file that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}: {source}", path = path.display())]
pub struct VerifyError {
    path: PathBuf,
    source: io::Error,
}

/// Verifies segments that are given to it in order, from anything that can be read.
#[derive(Debug)]
pub struct Verifier {
    /// With one of which the first segment begins; then, the one of the open segment.
    keys: Vec<PublicKey>,
    /// Those that the first segment may be of; what follows segments that are not there may be of any of them, too.
    trusted: Vec<PublicKey>,
    /// Those that another one has followed: they count no more.
    retired: Vec<PublicKey>,
    /// Whose the newest segment has to be, where that is known.
    newest_key: Option<PublicKey>,
    /// Segments that are not there.
    deletions: Deletions,
    /// Frames before which segments are missing: what checkpoints over as many have named is not known.
    unchained: Option<u64>,
    /// Whom the signed frames of the open segment name for the next one.
    next: Option<PublicKey>,
    /// Notes from elsewhere that none of the keys has signed, as far as they are known.
    unknown: Vec<(Vec<u8>, &'static str, NoteError)>,
    /// Notes that were kept elsewhere.
    kept: usize,
    /// Chains that the checkpoints over as many frames as there are so far have named.
    chains: Vec<Hash>,
    /// Checkpoints that are not part of the segments, and how they are called.
    outside: BTreeMap<u64, Vec<(Checkpoint, &'static str)>>,
    /// Chain of the newest entry, tree over all frames, and the next segment's number; none before the first segment.
    reached: Option<Reached>,
    first_unsigned: Option<Timestamp>,
    newest: Option<Timestamp>,
    /// The last segment, where its header is not whole.
    begun: Option<u64>,
    /// Findings behind which reading went on.
    beside: usize,
    report: Report,
}

#[derive(Debug)]
struct Reached {
    chain: Hash,
    tree: Tree,
    next_segment: u64,
    /// Whether the newest entry is a checkpoint.
    closed: bool,
}

impl Verifier {
    /// Begins. `newest` is the content of the file that lies beside the segments.
    #[must_use]
    pub fn new(key: &PublicKey, newest: Option<&[u8]>, options: &Options) -> Self {
        let report = Report {
            segments: 0,
            frames: 0,
            signed: 0,
            checkpoints: 0,
            signed_at: None,
            findings: Vec::new(),
            notes: Vec::new(),
        };
        let trusted: Vec<PublicKey> = std::iter::once(key).chain(&options.keys).cloned().collect();
        let mut this = Self {
            keys: trusted.clone(),
            trusted,
            retired: Vec::new(),
            newest_key: options.newest.clone(),
            deletions: Deletions::default(),
            unchained: None,
            next: None,
            unknown: Vec::new(),
            kept: options.kept.len(),
            chains: Vec::new(),
            outside: BTreeMap::new(),
            reached: None,
            first_unsigned: None,
            newest: None,
            begun: None,
            beside: 0,
            report,
        };
        let beside = newest.map(|note| (note, BESIDE));
        let kept = options.kept.iter().map(|note| (note.as_slice(), ELSEWHERE));
        for (note, name) in beside.into_iter().chain(kept) {
            this.hold_against(note, name);
        }
        if options.unread > 0 {
            let words = format!(
                "{} lines of what was kept elsewhere speak of a checkpoint that could not be read",
                options.unread
            );
            this.report.notes.push(words);
        }
        if newest.is_none() {
            this.report.notes.push(
                "there is no checkpoint file beside the segments: that whole frames at the very end are missing could not be seen".into(),
            );
        }
        this
    }

    /// Holds a checkpoint from elsewhere against the tree, as soon as that has grown so far.
    fn hold_against(&mut self, note: &[u8], name: &'static str) {
        let mut why = NoteError::Signature;
        for key in &self.keys {
            match key.open_checkpoint(note) {
                Ok(checkpoint) => return self.add_outside(checkpoint, name),
                Err(error) => why = error,
            }
        }
        self.unknown.push((note.to_vec(), name, why));
    }

    /// Another key signs from here on: what it has signed is known by it.
    fn goes_on_with(&mut self, key: PublicKey, frame: u64) {
        self.report.notes.push(format!("from frame {frame} on {key} signs, as the key before it says"));
        self.keys = vec![key];
        for (note, name, _) in std::mem::take(&mut self.unknown) {
            self.hold_against(&note, name);
        }
    }

    /// Says which checkpoints from elsewhere nobody has signed who signs here. That the one beside the segments is such is a finding;
    /// what others kept may hold what anybody has told them, and is one where there is nothing else in it.
    fn tell_unknown(&mut self) {
        let (beside, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unknown).into_iter().partition(|(_, name, _)| *name == BESIDE);
        let nothing_else = self.kept > 0 && kept.len() == self.kept;
        let told = kept.iter().take(usize::from(nothing_else));
        for (_, name, error) in beside.iter().chain(told) {
            self.find(Problem::Unsigned, 0, (0, 0), None, format!("{name} {error}"));
        }
        if !kept.is_empty() {
            let (count, of) = (kept.len(), self.kept);
            self.report.notes.push(format!(
                "{count} of {of} checkpoints that were kept elsewhere were not signed by a key of this spool"
            ));
        }
    }

    /// Once, however often it was kept.
    fn add_outside(&mut self, checkpoint: Checkpoint, name: &'static str) {
        let known = self.outside.entry(checkpoint.size).or_default();
        if !known.iter().any(|(other, _)| *other == checkpoint) {
            known.push((checkpoint, name));
        }
    }

    /// Verifies the next segment. False where there is no sense in going on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn segment<R: Read>(&mut self, number: u64, last: bool, source: R) -> io::Result<bool> {
        let mut scan = Scan::new(source);
        let frame = self.reached.as_ref().map_or(0, |reached| reached.tree.size());
        match scan.header()? {
            Ok((header, digest)) => {
                if !self.header(number, header, digest) {
                    return Ok(false);
                }
            }
            Err(None) if last && self.reached.is_some() => {
                self.report.notes.push(format!("segment {number} was begun and holds nothing yet"));
                self.begun = Some(number);
                return Ok(false);
            }
            Err(error) => {
                let words = error.map_or_else(|| "the segment ends inside its header".to_owned(), |e| e.to_string());
                let problem = if error.is_some() { Problem::Altered } else { Problem::CutOff };
                self.find(problem, frame, (number, 0), None, words);
                return Ok(false);
            }
        }
        self.report.segments += 1;
        let mut index = 0u32;
        loop {
            let at = (number, scan.offset());
            let Some(reached) = &mut self.reached else { return Ok(false) };
            let frame = reached.tree.size();
            match scan.step()? {
                Step::Entry(entry, hashes, _)
                    if entry.index == index && entry.sequence == frame && hashes.follows(&reached.chain) =>
                {
                    index = index.saturating_add(1);
                    if !self.entry(at, &entry, &hashes) {
                        return Ok(false);
                    }
                }
                Step::Entry(entry, ..) => {
                    let seen = (entry.index, entry.sequence, entry.session, entry.time);
                    let (problem, words) = classify(index, frame, seen, &mut scan)?;
                    self.find(problem, frame, at, Some((seen.2, seen.3)), words);
                    return Ok(false);
                }
                Step::End => break,
                Step::Torn(bytes) => {
                    let words = format!(
                        "the segment ends after {bytes} bytes of it: cut off, or its length altered{}",
                        if last { ", or the copy was taken while it was written" } else { "" }
                    );
                    self.find(Problem::CutOff, frame, at, None, words);
                    return Ok(false);
                }
                Step::Bad(error) => {
                    self.find(Problem::Altered, frame, at, None, error.to_string());
                    return Ok(false);
                }
            }
        }
        Ok(last || self.closing(number, scan.offset()))
    }

    /// What was found.
    #[must_use]
    pub fn finish(mut self) -> Report {
        let frames = self.reached.as_ref().map_or(0, |reached| reached.tree.size());
        let newest = self.reached.as_ref().map_or(0, |reached| reached.next_segment.saturating_sub(1));
        let segment = self.begun.unwrap_or(newest);
        self.report.frames = frames;
        if self.reached.is_none() && self.report.findings.is_empty() {
            self.find(Problem::Dropped, 0, (0, 0), None, "there is no segment at all".into());
        }
        // After a break the rest was not read: that it is missing would be a false conclusion.
        if !self.is_broken() {
            let _told = self.reached.is_none() || self.chains_agree((segment, 0));
            // The one that covers the most says all.
            let most = self.outside.last_key_value().filter(|(size, _)| **size > frames);
            if let Some((size, name)) = most.and_then(|(size, kept)| Some((*size, kept.first()?.1))) {
                let words = format!("{name} covers {size} frames and only {frames} are there");
                self.find(Problem::CutOff, frames, (segment, 0), None, words);
            }
        }
        let other = self.newest_key.take().filter(|key| self.reached.is_some() && self.keys.first() != Some(key));
        if let Some(wanted) = other.filter(|_| !self.is_broken()) {
            let found = self.keys.first().map_or_else(String::new, ToString::to_string);
            let words = format!("the newest segment is signed by {found}, and the key of this host is {wanted}");
            self.find(Problem::Unsigned, frames, (segment, 0), None, words);
        }
        self.tell_missing();
        self.tell_unknown();
        if frames > self.report.signed {
            let since = self.first_unsigned.map_or_else(String::new, |time| format!(", since {time}"));
            let (from, count) = (self.report.signed, frames - self.report.signed);
            let waited = self.newest.zip(self.first_unsigned).map(|(newest, first)| newest.since(first));
            if waited.is_some_and(|waited| waited.as_secs() > MOST_UNSIGNED_SECONDS) && self.report.findings.is_empty()
            {
                let words = format!("{count} frames{since} have no checkpoint; the recorder signs every few seconds");
                self.find(Problem::Unsigned, from, (segment, 0), None, words);
            } else {
                self.report.notes.push(format!(
                    "{count} frames from {from} on{since} are chained but not signed yet: whoever can write to the directory could have replaced them"
                ));
            }
        }
        self.report
    }

    /// Whether the segment that begins may be this key's: that of the one before, or whom that names; of the first one, any that
    /// is trusted.
    fn is_signed_by(&mut self, number: u64, key: &[u8; 32], frame: u64) -> bool {
        let next = self.next.take().filter(|next| !self.retired.contains(next));
        let so_far = self.keys.first().filter(|_| self.reached.is_some()).cloned();
        if self.reached.as_ref().is_some_and(|reached| reached.next_segment < number) {
            self.keys.extend(self.trusted.iter().chain(&next).filter(|key| !self.retired.contains(key)).cloned());
        }
        if let Some(known) = self.keys.iter().find(|known| known.to_bytes() == *key).cloned() {
            self.keys = vec![known.clone()];
            if let Some(before) = so_far.filter(|before| *before != known) {
                self.report.notes.push(format!(
                    "from frame {frame} on {known} signs, and before the segments that are not there {before} did: that one does not count any more"
                ));
                self.retired.push(before);
            }
            return true;
        }
        let Some(next) = next.filter(|next| next.to_bytes() == *key) else { return false };
        self.retired.extend(so_far);
        self.goes_on_with(next, frame);
        true
    }

    fn header(&mut self, number: u64, header: Header, digest: Hash) -> bool {
        let at = (number, 0);
        let created = Some((SessionId::NONE, header.created));
        let frame = self.reached.as_ref().map_or(0, |reached| reached.tree.size());
        if !self.is_signed_by(number, &header.public_key, header.first) {
            let other =
                PublicKey::from_bytes(&header.public_key).map_or_else(|| "no key".into(), |key| key.to_string());
            self.find(Problem::Unsigned, header.first, at, created, format!("the segment names another key: {other}"));
            return false;
        }
        if header.segment != number {
            let words = format!("segment {} stands in the file of segment {number}", header.segment);
            self.find(Problem::Reordered, frame, at, created, words);
            return false;
        }
        let next = self.reached.as_ref().map_or(0, |reached| reached.next_segment);
        if number < next {
            let words = format!("segment {number} stands here again");
            self.find(Problem::Reordered, frame, at, created, words);
            return false;
        }
        let tree = Tree::from_parts(header.first, header.subtrees.clone());
        if number > next {
            return self.skip(next, &header, digest, tree);
        }
        let (chain, size) = self.reached.as_ref().map_or(([0; 32], 0), |r| (r.chain, r.tree.size()));
        let continues = self.reached.as_ref().is_none_or(|reached| tree.as_ref() == Some(&reached.tree));
        if header.chain != chain || header.first != size || !continues {
            let problem = if header.first > size { Problem::CutOff } else { Problem::Altered };
            let words = format!(
                "segment {number} goes on from frame {} and another chain than segment {} ends with",
                header.first,
                number.saturating_sub(1)
            );
            self.find(problem, frame, at, created, words);
            return false;
        }
        let Some(tree) = tree else { return false };
        self.reached = Some(Reached { chain: digest, tree, next_segment: number.saturating_add(1), closed: true });
        self.outside_agrees(at)
    }

    /// Goes on behind segments that are not there. The tree and the chain that the header names are vouched for by the checkpoints
    /// that follow; that those before were deleted has to be on record further on.
    fn skip(&mut self, next: u64, header: &Header, digest: Hash, tree: Option<Tree>) -> bool {
        let at = (header.segment, 0);
        let frame = self.reached.as_ref().map_or(0, |reached| reached.tree.size());
        let Some(tree) = tree.filter(|_| header.first >= frame) else {
            let words = format!("segment {} goes on from a frame that was there before", header.segment);
            self.find(Problem::Altered, frame, at, Some((SessionId::NONE, header.created)), words);
            return false;
        };
        if self.reached.is_some() && !self.chains_agree(at) {
            return false;
        }
        self.deletions.missing(next, frame, header, &tree);
        self.unchained = Some(header.first);
        self.reached =
            Some(Reached { chain: digest, tree, next_segment: header.segment.saturating_add(1), closed: true });
        self.outside_agrees(at)
    }

    fn entry(&mut self, at: (u64, u64), entry: &Entry<'_>, hashes: &Hashes) -> bool {
        let Some(reached) = &mut self.reached else { return false };
        let before = std::mem::replace(&mut reached.chain, hashes.chain);
        reached.closed = entry.kind == Kind::Checkpoint;
        if entry.kind == Kind::Checkpoint {
            // Of the time when it was written: other frames may have waited.
            if let Some(words) = self.deletions.time(entry.time) {
                self.find_beside(entry.sequence, at, Some((entry.session, entry.time)), words);
            }
            return self.checkpoint(at, entry, &before);
        }
        if !self.chains_agree(at) {
            return false;
        }
        let Some(reached) = &mut self.reached else { return false };
        reached.tree.push(hashes.leaf);
        self.newest = Some(entry.time);
        self.first_unsigned.get_or_insert(entry.time);
        if entry.session == SessionId::NONE {
            self.history(at, entry);
        } else if entry.index == 0 {
            self.deletions.begins(None);
        }
        self.outside_agrees(at)
    }

    fn checkpoint(&mut self, at: (u64, u64), entry: &Entry<'_>, before: &Hash) -> bool {
        let Some(reached) = &self.reached else { return false };
        let (size, root) = (reached.tree.size(), reached.tree.root());
        let seen = Some((entry.session, entry.time));
        let signed = self.report.signed;
        let opened = self.keys.first().map_or(Err(NoteError::Signature), |key| key.open_checkpoint(entry.payload));
        match opened {
            Ok(Checkpoint { size: of, root: over, chain }) if (of, over) == (size, root) => {
                if chain.is_some_and(|chain| chain != *before) {
                    let words = format!(
                        "the checkpoint over {size} frames names another chain: what is no frame was altered since {signed} frames, such as the segment's header with the key that it is sealed with"
                    );
                    self.find(Problem::Altered, signed, at, seen, words);
                    return false;
                }
                self.chains.push(*before);
                self.report.checkpoints += 1;
                self.report.signed = size;
                self.report.signed_at = Some(entry.time);
                self.first_unsigned = None;
                true
            }
            Ok(_) => {
                let words = format!(
                    "the checkpoint over {size} frames names another root: one or more of the frames from {signed} on were altered and chained again"
                );
                self.find(Problem::Altered, signed, at, seen, words);
                false
            }
            Err(error) => {
                let words = format!(
                    "the checkpoint over {size} frames {error}: nothing vouches for the frames from {signed} on"
                );
                self.find(Problem::Altered, signed, at, seen, words);
                false
            }
        }
    }

    /// Holds the tree against the checkpoints that are not part of the segments, where it has just reached their size.
    fn outside_agrees(&mut self, at: (u64, u64)) -> bool {
        let Some(reached) = &self.reached else { return false };
        let size = reached.tree.size();
        let Some(kept) = self.outside.get(&size) else { return true };
        let root = reached.tree.root();
        let Some((_, name)) = kept.iter().find(|(kept, _)| kept.root != root) else {
            if size > self.report.signed {
                self.report.signed = size;
                self.first_unsigned = None;
            }
            return true;
        };
        let signed = self.report.signed;
        let words = format!(
            "{name}, over {size} frames, names another root: one or more of the frames from {signed} on were altered and chained again"
        );
        self.find(Problem::Altered, signed, at, None, words);
        false
    }

    /// Before the tree grows: holds the chains that checkpoints over it have named against those that somebody else was told. The
    /// tree is of frames; headers, with the keys that are wrapped in them, and checkpoints are in the chain alone.
    fn chains_agree(&mut self, at: (u64, u64)) -> bool {
        let Some(reached) = &self.reached else { return false };
        let (size, chains) = (reached.tree.size(), std::mem::take(&mut self.chains));
        if self.unchained == Some(size) {
            return true;
        }
        let told = self.outside.get(&size).into_iter().flatten().filter(|(_, name)| *name == ELSEWHERE);
        let other = told.filter_map(|(told, _)| told.chain).find(|chain| !chains.contains(chain));
        if other.is_none() {
            return true;
        }
        let signed = self.report.signed;
        let words = format!(
            "{ELSEWHERE}, over {size} frames, names another chain: what is no frame was altered and signed again, such as a segment's header with the key that it is sealed with"
        );
        self.find(Problem::Altered, signed, at, None, words);
        false
    }

    /// A segment that is followed by another must end with a checkpoint.
    fn closing(&mut self, number: u64, offset: u64) -> bool {
        let Some(reached) = &self.reached else { return false };
        if reached.closed {
            return true;
        }
        let frame = reached.tree.size();
        self.find(
            Problem::CutOff,
            frame,
            (number, offset),
            None,
            "the checkpoint that closes the segment is missing".into(),
        );
        false
    }

    /// What the daemon itself wrote about its spool.
    fn history(&mut self, at: (u64, u64), entry: &Entry<'_>) {
        // Sealed is what happened, and not what this is about.
        let event = entry.unpack(None).and_then(|payload| format::decode_event(&payload));
        if entry.index == 0 {
            self.deletions.begins(event.as_ref().ok());
        }
        let seen = Some((entry.session, entry.time));
        if let Ok(event) = &event
            && Ledger::default().apply(event)
        {
            for words in self.deletions.record((entry.sequence, entry.time), event) {
                self.find_beside(entry.sequence, at, seen, words);
            }
        }
        match event {
            Ok(Event::Recovered { segment, bytes, reason, kept, signed_frames_lost, .. }) => {
                let kept = kept.map_or_else(String::new, |name| format!("; they are kept in {name}"));
                let words = format!(
                    "at {} the daemon started and removed {bytes} bytes at the end of segment {segment}: {reason}{kept}",
                    entry.time
                );
                if signed_frames_lost > 0 {
                    let words =
                        format!("{words}; {signed_frames_lost} frames from here on had been signed and are gone");
                    self.find(Problem::Lost, entry.sequence, at, Some((entry.session, entry.time)), words);
                } else {
                    self.report.notes.push(words);
                }
            }
            Ok(Event::KeyChanged { to }) => self.next = PublicKey::parse(&to),
            Ok(Event::Gap { reason, refused }) => self.report.notes.push(format!(
                "until {} the spool could not be written ({reason}): {refused} commands were refused",
                entry.time
            )),
            _ => {}
        }
    }

    /// Says of what is not there whether it was deleted by those who may.
    fn tell_missing(&mut self) {
        // After a break the rest was not read, and what stands there of it is not known.
        let (broken, signed) = (self.is_broken(), self.report.signed);
        let wrong = if broken { Vec::new() } else { self.deletions.wrong() };
        for (frame, segment, words) in wrong {
            self.find(Problem::Dropped, frame, (segment, 0), None, words);
        }
        for stretch in std::mem::take(&mut self.deletions.stretches) {
            let (words, (first, after)) = (ledger::words((stretch.from, stretch.to)), stretch.frames);
            let kept = self.outside.range(first..after).filter(|(size, _)| **size > first);
            let kept = kept.flat_map(|(_, kept)| kept).filter(|(_, name)| *name == ELSEWHERE).count();
            if kept > 0 {
                let words =
                    format!("{kept} checkpoints that were kept elsewhere are of {words}, and were not looked at");
                self.report.notes.push(words);
            }
            match stretch.said(signed) {
                Some(Said { time, reason, frame: record }) => self.report.notes.push(format!(
                    "whole since frame {after}, but for {words} (frames {first} to {}): deleted at {time}, as frame {record} says: {reason}",
                    after.saturating_sub(1)
                )),
                None if broken => self.report.notes.push(format!("{words} are missing: why is not known")),
                None => {
                    let words = format!(
                        "{words} missing, with frames {first} to {}, and no record says that it was deleted",
                        after.saturating_sub(1)
                    );
                    self.find(Problem::Dropped, first, (stretch.from, 0), None, words);
                }
            }
        }
    }

    const fn is_broken(&self) -> bool {
        self.report.findings.len() > self.beside
    }

    /// What is wrong with what is on record of deletions: the rest is read all the same. Bounded, since a record names many segments.
    fn find_beside(&mut self, frame: u64, at: (u64, u64), seen: Option<(SessionId, Timestamp)>, words: String) {
        if self.beside < MOST_BESIDE {
            self.beside += 1;
            self.find(Problem::Dropped, frame, at, seen, words);
        }
    }

    fn find(
        &mut self,
        problem: Problem,
        frame: u64,
        (segment, offset): (u64, u64),
        seen: Option<(SessionId, Timestamp)>,
        explanation: String,
    ) {
        let (session, time) = seen.unzip();
        self.report.findings.push(Finding { problem, frame, segment, offset, session, time, explanation });
    }
}

/// An entry stands where another one should: tells from the numbers of those that follow what was done.
fn classify<R: Read>(
    wanted: u32,
    frame: u64,
    (index, sequence, ..): (u32, u64, SessionId, Timestamp),
    scan: &mut Scan<R>,
) -> io::Result<(Problem, String)> {
    let mut following = Vec::new();
    while let Step::Entry(entry, ..) = scan.step()? {
        following.push(entry.index);
        if following.len() >= MOST_FOLLOWING {
            break;
        }
    }
    let in_place = index == wanted || following.first() == Some(&wanted.saturating_add(1));
    if in_place {
        return Ok((
            Problem::Altered,
            "its bytes, or what it says of the one before it, do not agree with its hash".into(),
        ));
    }
    if following.contains(&wanted) {
        return Ok((Problem::Reordered, format!("frame {sequence} stands in its place, and it stands further on")));
    }
    if index > wanted {
        let words = match sequence.checked_sub(frame) {
            Some(0) => "the checkpoint before it was taken out".to_owned(),
            _ => format!("what follows is frame {sequence}"),
        };
        return Ok((Problem::Dropped, words));
    }
    Ok((Problem::Reordered, format!("frame {sequence} stands here again")))
}

/// How often a spool that grows while it is read is looked at again.
const ATTEMPTS: u32 = 5;
/// What the checkpoints are called that are not in the segments.
const BESIDE: &str = "the checkpoint beside the segments";
const ELSEWHERE: &str = "the checkpoint that was kept elsewhere";
/// The recorder signs at least every 30 seconds while frames arrive.
const MOST_UNSIGNED_SECONDS: u64 = 60;
/// Most findings of what is on record of deletions.
const MOST_BESIDE: usize = 1024;
/// How far a misplaced frame is looked for.
const MOST_FOLLOWING: usize = 100_000;
