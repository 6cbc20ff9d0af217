//! Reading a spool, or a copy of one, without the daemon; of what is sealed, with an identity that it is sealed to.
//!
//! Owns iteration and the summary of each session. Does not verify: what it shows is only as true as
//! [`verify`](super::verify) says. A damaged segment is reported, and reading goes on with the next one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::vec;

use serde::Serialize;

use super::event::{Direction, Effect, Event};
use super::format::{self, Entry, FormatError, Kind};
use super::scan::{Scan, Step};
use super::seal::{Identities, Opener};
use super::sink;
use crate::clock::Timestamp;
use crate::telemetry::SessionId;

/// A spool's directory.
#[derive(Clone, Debug)]
pub struct Reader {
    directory: PathBuf,
    segments: Vec<u64>,
    identities: Arc<Identities>,
}

impl Reader {
    /// Looks at which segments there are.
    ///
    /// # Errors
    /// When the directory cannot be read, or holds no segment.
    pub fn open(directory: &Path) -> Result<Self, ReadError> {
        let segments =
            sink::segments(directory).map_err(|source| ReadError::Directory { path: directory.to_owned(), source })?;
        if segments.is_empty() {
            return Err(ReadError::Empty(directory.to_owned()));
        }
        Ok(Self { directory: directory.to_owned(), segments, identities: Arc::default() })
    }

    /// Opens what is sealed to one of these.
    #[must_use]
    pub fn with_identities(self, identities: Identities) -> Self {
        Self { identities: Arc::new(identities), ..self }
    }

    /// Whether segments are missing.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        (0..).zip(&self.segments).any(|(wanted, number)| wanted != *number)
    }

    /// Every frame in order, or those of one session.
    #[must_use]
    pub fn frames(&self, only: Option<SessionId>) -> Frames {
        Frames {
            directory: self.directory.clone(),
            only,
            segments: self.segments.clone().into_iter(),
            identities: Arc::clone(&self.identities),
            open: None,
            gone: Vec::new(),
        }
    }

    /// In which segments something of these sessions stands, as stretches of segments in a row; also where that is sealed. And those
    /// that cannot be read.
    #[must_use]
    pub fn stretches(&self, of: &dyn Fn(SessionId) -> bool) -> (Vec<(u64, Option<u64>)>, Vec<u64>) {
        let (mut stretches, mut unreadable): (Vec<(u64, Option<u64>)>, _) = (Vec::new(), Vec::new());
        let (mut frames, mut last) = (self.frames(None), 0);
        while let Some(seen) = frames.step() {
            let (segment, session) = match seen {
                Ok(Seen::Frame(frame)) => (frame.segment, frame.session),
                Ok(Seen::Sealed { segment, session, .. }) => (segment, session),
                Err(error) => {
                    let segment = error.segment().unwrap_or(last);
                    if unreadable.last() != Some(&segment) {
                        unreadable.push(segment);
                    }
                    continue;
                }
            };
            last = segment;
            if !of(session) {
                continue;
            }
            match stretches.last_mut() {
                Some((_, Some(to))) if segment <= to.saturating_add(1) => *to = segment,
                _ => stretches.push((segment, Some(segment))),
            }
        }
        (stretches, unreadable)
    }

    /// What each session did, in the order in which they began; and what could not be read.
    #[must_use]
    pub fn sessions(&self) -> (Vec<Summary>, Vec<ReadError>) {
        let (mut sessions, mut errors) = (BTreeMap::new(), Vec::new());
        let mut of = |id: SessionId, time: Timestamp, add: &dyn Fn(&mut Summary)| {
            if id != SessionId::NONE {
                add(sessions.entry(id).or_insert_with(|| Summary::new(id, time)).until(time));
            }
        };
        let mut frames = self.frames(None);
        while let Some(seen) = frames.step() {
            match seen {
                Ok(Seen::Frame(frame)) => of(frame.session, frame.time, &|summary| summary.add(&frame.event)),
                Ok(Seen::Sealed { segment, session, time, first }) => {
                    of(session, time, &|summary| summary.sealed_frames += 1);
                    errors.extend(first.then_some(ReadError::Sealed { segment }));
                }
                Err(error) => errors.push(error),
            }
        }
        errors.extend(frames.gone());
        let mut list: Vec<Summary> = sessions.into_values().collect();
        list.sort_by_key(|summary| (summary.started, summary.id));
        (list, errors)
    }
}

/// One recorded event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Frame {
    /// Its number in the spool.
    pub sequence: u64,
    /// Session it belongs to.
    pub session: SessionId,
    /// When it happened, in microseconds since the Unix epoch.
    pub time: Timestamp,
    /// Segment in which it stands.
    pub segment: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Iterates over frames. Made by [`Reader::frames`].
#[derive(Debug)]
pub struct Frames {
    directory: PathBuf,
    only: Option<SessionId>,
    segments: vec::IntoIter<u64>,
    identities: Arc<Identities>,
    open: Option<Open>,
    gone: Vec<u64>,
}

/// A segment that is being read.
#[derive(Debug)]
struct Open {
    segment: u64,
    scan: Scan<File>,
    opener: Option<Opener>,
    /// Whether it was said that frames of it are sealed to others.
    told: bool,
}

/// What stands next.
#[expect(clippy::large_enum_variant, reason = "it is looked at and gone, one at a time")]
enum Seen {
    /// A frame.
    Frame(Frame),
    /// One that is sealed to others.
    Sealed {
        segment: u64,
        session: SessionId,
        time: Timestamp,
        /// Whether it is the first one of its segment.
        first: bool,
    },
}

impl Iterator for Frames {
    type Item = Result<Frame, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step()? {
                Ok(Seen::Frame(frame)) => return Some(Ok(frame)),
                Ok(Seen::Sealed { first: false, .. }) => {}
                Ok(Seen::Sealed { segment, .. }) => return Some(Err(ReadError::Sealed { segment })),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Frames {
    /// Segments that were deleted while these were read: what stood there is left out.
    pub fn gone(&self) -> impl Iterator<Item = ReadError> {
        self.gone.iter().map(|segment| ReadError::Gone { segment: *segment })
    }

    fn step(&mut self) -> Option<Result<Seen, ReadError>> {
        loop {
            let Some(Open { segment, scan, opener, told }) = &mut self.open else {
                let segment = self.segments.next()?;
                match self.begin(segment) {
                    Ok(open) => self.open = open,
                    Err(error) => return Some(Err(error)),
                }
                continue;
            };
            let (segment, last) = (*segment, self.segments.len() == 0);
            let problem = match scan.step() {
                Ok(Step::Entry(entry, _, offset)) => {
                    let wanted = self.only.is_none_or(|only| only == entry.session);
                    if entry.kind != Kind::Frame || !wanted {
                        continue;
                    }
                    if entry.sealed && opener.is_none() {
                        let first = !std::mem::replace(told, true);
                        return Some(Ok(Seen::Sealed { segment, session: entry.session, time: entry.time, first }));
                    }
                    return Some(frame(segment, offset, &entry, opener.as_ref()).map(Seen::Frame));
                }
                Ok(Step::End) => None,
                // The writer may be in the middle of its newest entry.
                Ok(Step::Torn(_)) if last => None,
                Ok(Step::Torn(_)) => {
                    Some(ReadError::Damaged { segment, offset: scan.offset(), source: FormatError::Entry })
                }
                Ok(Step::Bad(source)) => Some(ReadError::Damaged { segment, offset: scan.offset(), source }),
                Err(source) => Some(ReadError::Segment { path: sink::segment_path(&self.directory, segment), source }),
            };
            self.open = None;
            if let Some(error) = problem {
                return Some(Err(error));
            }
        }
    }

    fn begin(&mut self, segment: u64) -> Result<Option<Open>, ReadError> {
        let path = sink::segment_path(&self.directory, segment);
        let failed = |source| ReadError::Segment { path: path.clone(), source };
        let file = match File::open(&path) {
            // Deleted since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.gone.push(segment);
                return Ok(None);
            }
            file => file.map_err(failed)?,
        };
        let mut scan = Scan::new(file);
        match scan.header().map_err(failed)? {
            Ok((header, _)) => {
                let sealed = Some(header.sealing).filter(|sealing| !sealing.is_empty());
                let opener = sealed.map(|sealing| self.identities.opener(&sealing)).transpose();
                let opener = opener.map_err(|source| ReadError::Damaged { segment, offset: 0, source })?.flatten();
                Ok(Some(Open { segment, scan, opener, told: false }))
            }
            Err(None) if self.segments.len() == 0 => Ok(None),
            Err(error) => Err(ReadError::Damaged { segment, offset: 0, source: error.unwrap_or(FormatError::Header) }),
        }
    }
}

/// What a session did, counted from its frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Session id.
    pub id: SessionId,
    /// Time of its first frame.
    pub started: Timestamp,
    /// Time of its last frame.
    pub last: Timestamp,
    /// From the first frame to the last, in microseconds.
    pub duration_micros: u64,
    /// Machine identity; where `attested` is false, only the candidate.
    pub identity: Option<Arc<str>>,
    /// Whether the token matched as well.
    pub attested: bool,
    /// Target.
    pub target: Option<Arc<str>>,
    /// Protocol of the target.
    pub protocol: Option<String>,
    /// Commands.
    pub commands: u64,
    /// Denials that the agent was told, refusal included.
    pub denied: u64,
    /// Commands that were held.
    pub held: u64,
    /// Values that were masked.
    pub masked_cells: u64,
    /// Bytes from the agent.
    pub bytes_from_agent: u64,
    /// Bytes to the agent.
    pub bytes_to_agent: u64,
    /// Frames that are sealed to others: what they say is in none of the above.
    pub sealed_frames: u64,
    /// Why it ended; none where it has not, or was cut off.
    pub closed: Option<String>,
    /// Whether its beginning is there, which says whose it is.
    #[serde(skip)]
    pub begins: bool,
}

impl Summary {
    fn new(id: SessionId, time: Timestamp) -> Self {
        Self {
            id,
            started: time,
            last: time,
            duration_micros: 0,
            identity: None,
            attested: false,
            target: None,
            protocol: None,
            commands: 0,
            denied: 0,
            held: 0,
            masked_cells: 0,
            bytes_from_agent: 0,
            bytes_to_agent: 0,
            sealed_frames: 0,
            closed: None,
            begins: false,
        }
    }

    fn until(&mut self, time: Timestamp) -> &mut Self {
        self.last = self.last.max(time);
        self.duration_micros = u64::try_from(self.last.since(self.started).as_micros()).unwrap_or(u64::MAX);
        self
    }

    fn add(&mut self, event: &Event) {
        match event {
            Event::SessionOpened { identity, target, protocol, .. } => {
                self.begins = true;
                self.identity = identity.clone().or_else(|| self.identity.take());
                self.target.clone_from(target);
                self.protocol.clone_from(protocol);
            }
            Event::Attested { identity, .. } => {
                self.identity = Some(Arc::clone(identity));
                self.attested = true;
            }
            Event::Command { verdict, .. } => {
                self.commands += 1;
                self.held += u64::from(verdict.as_ref().is_some_and(|verdict| verdict.effect == Effect::Hold));
            }
            // Older recordings tell the verdict in a frame of its own.
            Event::Decision(verdict) if verdict.effect == Effect::Hold => self.held += 1,
            Event::Denied { .. } | Event::Refused { .. } => self.denied += 1,
            Event::Masked { cells } => self.masked_cells += cells.iter().map(|(_, count)| count).sum::<u64>(),
            Event::Data { direction, bytes } => {
                let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                match direction {
                    Direction::FromAgent => self.bytes_from_agent += count,
                    Direction::ToAgent => self.bytes_to_agent += count,
                }
            }
            Event::SessionClosed { reason, .. } => self.closed = Some(reason.clone()),
            _ => {}
        }
    }
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The directory.
    #[error("cannot read the spool {path}: {source}; name its directory with --spool", path = path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// No segment is there.
    #[error("{} holds no recording: no file there is named as 0000000000.spool; name the directory with --spool", .0.display())]
    Empty(PathBuf),
    /// A segment's file.
    #[error("cannot read {path}: {source}", path = path.display())]
    Segment {
        /// Which one.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// What happened in a segment, without an identity that it is sealed to.
    #[error(
        "what happened in segment {segment} is sealed; name the file of an identity that it is sealed to with --identity"
    )]
    Sealed {
        /// Which one.
        segment: u64,
    },
    /// A segment that is not there any more.
    #[error("segment {segment} was deleted while the recordings were read")]
    Gone {
        /// Which one.
        segment: u64,
    },
    /// A segment's content.
    #[error("segment {segment} is damaged at byte {offset}: {source}; `recordings verify` says more")]
    Damaged {
        /// Which one.
        segment: u64,
        /// Where.
        offset: u64,
        /// How.
        source: FormatError,
    },
}

impl ReadError {
    /// The segment that it is of.
    fn segment(&self) -> Option<u64> {
        match self {
            Self::Directory { .. } | Self::Empty(_) => None,
            Self::Segment { path, .. } => path.file_stem()?.to_str()?.parse().ok(),
            Self::Gone { segment } | Self::Sealed { segment } | Self::Damaged { segment, .. } => Some(*segment),
        }
    }
}

fn frame(segment: u64, offset: u64, entry: &Entry<'_>, opener: Option<&Opener>) -> Result<Frame, ReadError> {
    let damaged = |source| ReadError::Damaged { segment, offset, source };
    let payload = entry.unpack(opener).map_err(damaged)?;
    let event = format::decode_event(&payload).map_err(damaged)?;
    Ok(Frame { sequence: entry.sequence, session: entry.session, time: entry.time, segment, event })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deleted_meanwhile_is_said() {
        let place = tempfile::tempdir().unwrap();
        for number in [3, 4] {
            std::fs::write(sink::segment_path(place.path(), number), []).unwrap();
        }
        let reader = Reader::open(place.path()).unwrap();
        std::fs::remove_file(sink::segment_path(place.path(), 3)).unwrap();
        let (sessions, errors) = reader.sessions();
        assert!(sessions.is_empty() && matches!(errors[..], [ReadError::Gone { segment: 3 }]), "{errors:?}");
    }
}
