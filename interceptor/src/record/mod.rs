//! The spool: everything that happened, append-only, chained, signed. No record, no forward.
//!
//! [`Recorder`] is the writing side: [`Recorder::append`] resolves when the frame has reached the file, and what it
//! returns is the only thing from which policy makes a permit. [`reader`] and [`verify`] are the reading side; they
//! work on a copy of the directory, without the daemon and without the signing key.
//!
//! # What lies in the directory
//! `NNNNNNNNNN.spool` are the segments, in order (see [`format`]); `checkpoint` is the newest signed checkpoint, to be
//! copied elsewhere by whoever wants to detect that the whole directory was rolled back; `lock` keeps a second writer
//! out; `NNNNNNNNNN.OFFSET.cut` holds what recovery removed from a damaged segment; `holds.json` says what is not deleted (see [`hold`]).
//!
//! # Limits
//! Not promised: secrecy without [`Config::recipients`] (with them, see [`seal`]), and proof against somebody who holds
//! the signing key. Frames after the newest checkpoint are chained but not yet signed: at most
//! [`Config::checkpoint_seconds`] of activity.

mod disk;
pub mod event;
pub mod format;
pub mod hold;
pub mod key;
mod known;
pub mod ledger;
pub mod merkle;
mod pack;
#[cfg(test)]
mod power;
mod queue;
pub mod reader;
mod recorder;
pub mod retention;
pub mod room;
pub mod rotation;
mod scan;
pub mod seal;
pub mod sink;
mod spool;
pub mod verify;
pub mod witness;
mod worker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use disk::{Disk, Host};
pub use event::{
    ActionRecord, Actions, Approver, Counters, Direction, Effect, Event, Origin, Outcome, ParameterRecord, Parameters,
    RecordedVerdict,
};
pub use key::{PublicKey, SigningKey};
pub use recorder::{Health, Recorder};
pub use sink::{Files, Remover, Sink};

/// `[record]`: where recordings go, and within which bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the spool; created with mode 0700.
    pub spool: PathBuf,
    /// Ed25519 signing key: PKCS#8 PEM or 32 raw bytes. Generated where it does not exist, with the public key beside it
    /// in `KEY.pub`. May be a systemd credential's path.
    pub key: PathBuf,
    /// A segment that has grown to this many bytes is closed and the next one begun.
    pub segment_bytes: u64,
    /// When data is forced to the disk.
    pub fsync: Fsync,
    /// Recording stops, and with it governed traffic, where the file system has fewer free bytes than this.
    pub free_space_floor: u64,
    /// Shares of the room for recordings, in per cent, at which it is told that it gets short.
    pub warn_percent: Vec<u8>,
    /// Most events that wait for the recorder.
    pub queue_entries: u32,
    /// Most bytes that wait for the recorder.
    pub queue_bytes: u32,
    /// A checkpoint is signed at least this often while frames arrive.
    pub checkpoint_seconds: u32,
    /// age recipients (X25519, `age1...`) to which what happened is sealed, so that this host cannot read it again. Without any it
    /// is stored in clear.
    pub recipients: Vec<String>,
    /// How long what was recorded is kept, and how much of it.
    pub retention: retention::Config,
    /// Who else is told of checkpoints.
    pub witness: witness::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            spool: PathBuf::from("/var/spool/interceptor"),
            key: PathBuf::from("/var/lib/interceptor/spool.key"),
            segment_bytes: 64 << 20,
            fsync: Fsync::None,
            free_space_floor: 64 << 20,
            warn_percent: vec![25, 10, 5],
            queue_entries: 16_384,
            queue_bytes: 32 << 20,
            checkpoint_seconds: 2,
            recipients: Vec::new(),
            retention: retention::Config::default(),
            witness: witness::Config::default(),
        }
    }
}

impl Config {
    /// Says what is wrong with the values, for `interceptor check`.
    ///
    /// # Errors
    /// The first value that is out of its range, or asks for what is not built.
    pub fn validate(&self) -> Result<(), OpenError> {
        let bad = |what: &str| Err(OpenError::Config(what.to_owned()));
        self.recipients()?;
        self.witness
            .open(&self.spool, self.free_space_floor)
            .map_err(|words| OpenError::Config(format!("record.witness: {words}")))?;
        if self.segment_bytes < MIN_SEGMENT_BYTES {
            return bad("record.segment_bytes: at least 4096");
        }
        self.retention
            .validate(self.segment_bytes)
            .map_err(|words| OpenError::Config(format!("record.retention.{words}")))?;
        if self.warn_percent.len() > MOST_WARNINGS
            || self.warn_percent.iter().any(|percent| !(1..=90).contains(percent))
        {
            return bad("record.warn_percent: at most 8 shares, each from 1 to 90");
        }
        if self.queue_entries == 0 || self.queue_bytes < MIN_QUEUE_BYTES || self.queue_bytes > MAX_QUEUE_BYTES {
            return bad("record.queue_entries: at least 1; record.queue_bytes: from 65536 to 268435456");
        }
        if self.checkpoint_seconds == 0 || self.checkpoint_seconds > MAX_CHECKPOINT_SECONDS {
            return bad("record.checkpoint_seconds: from 1 to 30");
        }
        if self.spool.as_os_str().is_empty() || self.key.as_os_str().is_empty() {
            return bad("record.spool and record.key: a path");
        }
        Ok(())
    }

    /// To whom segments are sealed.
    pub(super) fn recipients(&self) -> Result<seal::Recipients, OpenError> {
        let bad = |words| OpenError::Config(format!("record.recipients: {words}"));
        seal::Recipients::parse(&self.recipients).map_err(bad)
    }

    /// Where the public key lies, that `verify` needs.
    #[must_use]
    pub fn public_key(&self) -> PathBuf {
        key::public_path(&self.key)
    }
}

/// When data is forced to the disk. Closing a segment always does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// Left to the kernel: a crash of the daemon loses nothing that was acknowledged, a power cut may.
    #[default]
    None,
    /// Before each group of appends is acknowledged: a power cut loses nothing that was acknowledged.
    Group,
    /// Before each append that somebody waits for is acknowledged, one after another: the same promise, at the price of a sync for each.
    /// What nobody waits for, and was queued before it, is written with it. A sync that fails refuses all who wait then.
    Command,
}

/// Why an event is not on record. The command that it stands for must not be forwarded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordError {
    /// The spool cannot be written; appends fail until it can be again.
    #[error("the recording cannot be written: {0}")]
    Storage(Arc<str>),
    /// The spool has grown to its bound; appends fail until there is room again.
    #[error("the recording has come to its bound: {0}")]
    Limit(Arc<str>),
    /// The event is larger than a recording takes.
    #[error("an event of {bytes} bytes is more than one frame of the recording takes")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
    /// No place in the queue, for a caller that cannot wait.
    #[error("the recorder's queue is full")]
    Full,
    /// The recorder was closed.
    #[error("the recorder is closed")]
    Closed,
}

impl RecordError {
    /// What it comes from, in the operating system's words, or ours.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Storage(reason) | Self::Limit(reason) => reason.to_string(),
            other => other.to_string(),
        }
    }
}

impl From<&io::Error> for RecordError {
    fn from(error: &io::Error) -> Self {
        let reason = Arc::from(error.to_string());
        if error.kind() == io::ErrorKind::QuotaExceeded { Self::Limit(reason) } else { Self::Storage(reason) }
    }
}

/// Why a spool cannot be opened for writing. Always the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A value of `[record]` is wrong.
    #[error("{0}")]
    Config(String),
    /// The key is unusable.
    #[error(transparent)]
    Key(#[from] key::KeyError),
    /// A file operation failed.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process writes to the spool.
    #[error("{} is in use by another process; stop that one first", .0.display())]
    Locked(PathBuf),
    /// The spool belongs to another key.
    #[error("the spool in {dir} is signed by {found}, and the key is {ours}: restore that key, or begin a new spool directory", dir = dir.display())]
    OtherKey {
        /// The directory.
        dir: PathBuf,
        /// Key in the newest segment.
        found: String,
        /// Key that was loaded.
        ours: String,
    },
    /// The spool is damaged in a way that no crash explains.
    #[error("the spool in {dir} is damaged: {what}; run `interceptor recordings verify`, keep the directory as evidence, and begin a new one", dir = dir.display())]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What was found.
        what: String,
    },
}

impl OpenError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// Most shares of which it is told.
const MOST_WARNINGS: usize = 8;
const MIN_SEGMENT_BYTES: u64 = 4096;
const MIN_QUEUE_BYTES: u32 = 64 << 10;
const MAX_QUEUE_BYTES: u32 = 256 << 20;
const MAX_CHECKPOINT_SECONDS: u32 = 30;
