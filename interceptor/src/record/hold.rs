//! Legal hold: segments that no retention deletes, for as long as somebody says so.
//!
//! Owns the file in which holds stand beside the segments (`holds.json`), and what they hold: stretches of segments, or of time.
//! Whoever names a session or an identity has it looked up where that can be read; here it is segments. Not promised: that root
//! leaves the file alone. But holds are on record, and `verify` names a segment that was deleted in spite of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Disk, Host, sync_directory};
use super::ledger::Ledger;
use super::sink::Files;
use super::spool::Spool;
use super::{Config, OpenError};
use crate::clock::{Clock, Timestamp};

/// What is held, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its name.
    pub id: String,
    /// In whose words.
    pub reason: String,
    /// What was asked for, in words.
    pub of: String,
    /// Since when.
    pub since: Timestamp,
    /// What it is of.
    #[serde(flatten)]
    pub scope: Scope,
}

/// What is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Segments from one to another; all that follow where there is no other.
    #[serde(default)]
    pub segments: Vec<(u64, Option<u64>)>,
    /// Everything from that time to that one; whatever comes where there is no other.
    #[serde(default)]
    pub times: Option<(Timestamp, Option<Timestamp>)>,
}

impl Scope {
    /// Whether it is of a segment, in which stands what happened from one time to another: a day more or less, since what happens is
    /// of the time at which it was queued, and clocks are set.
    pub(super) fn hold(&self, segment: u64, begun: Timestamp, ended: Timestamp) -> bool {
        let numbered = |(from, to): &(u64, Option<u64>)| segment >= *from && to.is_none_or(|to| segment <= to);
        let (begun, ended) = (Timestamp(begun.0.saturating_sub(MARGIN)), Timestamp(ended.0.saturating_add(MARGIN)));
        let timed = |(from, to): &(Timestamp, Option<Timestamp>)| ended >= *from && to.is_none_or(|to| begun <= to);
        self.segments.iter().any(numbered) || self.times.as_ref().is_some_and(timed)
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Hold this.
    Hold(Hold),
    /// Let go of the one of that name.
    Release(String),
}

/// What became of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Whether there is such a hold.
    pub done: bool,
    /// Segments that a new one names, and that are gone, or going.
    pub gone: Vec<(u64, u64)>,
}

/// Changes what is held while nobody writes to the spool.
///
/// # Errors
/// Where the spool cannot be written, or somebody else does.
pub fn change(config: &Config, clock: Arc<dyn Clock>, change: Change, by: &str) -> Result<Changed, OpenError> {
    let failed = OpenError::io("cannot change what is held in", &config.spool);
    let (mut spool, recovered) = Spool::open(config, Arc::clone(&clock), Box::new(Files::new(config.spool.clone())))?;
    let told = recovered.map_or(Ok(()), |event| spool.tell(clock.now(), &event));
    told.and_then(|()| spool.change(change, by)).map_err(failed)
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    all: Vec<Hold>,
    /// Why nobody knows which they are: then everything is held.
    unknown: Option<String>,
    /// Those on record that are not in the file, or are other ones there: then everything is held, too.
    astray: Vec<String>,
}

impl Holds {
    /// Reads those of a spool; none where there is no file.
    ///
    /// # Errors
    /// Where it cannot be read, or understood: then nobody knows what is held.
    pub fn load(spool: &Path) -> io::Result<Self> {
        let failed = |words: &dyn std::fmt::Display| {
            io::Error::other(format!("{FILE} cannot be understood, and with it what must be kept: {words}"))
        };
        match fs::read(path(spool)) {
            Ok(bytes) => {
                let all: Vec<Hold> = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
                match all.iter().find(|hold| hold.scope == Scope::default()) {
                    Some(hold) => Err(failed(&format!("the hold {} is of nothing", hold.id))),
                    None => Ok(Self { all, ..Self::default() }),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// The same, held against what is on record; where they cannot be read, or are others, everything is held.
    pub(super) fn of(spool: &Path, on_record: &Ledger) -> Self {
        let mut found = Self::load(spool).unwrap_or_else(|error| {
            tracing::error!(%error, "the holds cannot be read: nothing is deleted until they can be");
            Self { unknown: Some(error.to_string()), ..Self::default() }
        });
        let same =
            |held: &&super::ledger::Held| found.all.iter().any(|hold| hold.id == held.hold && hold.scope == held.scope);
        let astray = on_record.holds.iter().filter(|held| !same(held)).map(|held| held.hold.clone());
        found.astray = astray.collect();
        if !found.astray.is_empty() {
            tracing::error!(holds = ?found.astray, "holds that are on record are not in {FILE}, or others are: nothing is deleted until they are removed or put back");
        }
        found
    }

    /// Those that are not on record.
    pub(super) fn unrecorded(&self, on_record: &Ledger) -> Vec<(String, Scope)> {
        let known = |hold: &&Hold| on_record.holds.iter().any(|held| held.hold == hold.id);
        self.all.iter().filter(|hold| !known(hold)).map(|hold| (hold.id.clone(), hold.scope.clone())).collect()
    }

    /// What they are.
    #[must_use]
    pub fn list(&self) -> &[Hold] {
        &self.all
    }

    /// Whether any of them is of a segment.
    pub(super) fn hold(&self, segment: u64, begun: Timestamp, ended: Timestamp) -> bool {
        self.unknown.is_some()
            || !self.astray.is_empty()
            || self.all.iter().any(|one| one.scope.hold(segment, begun, ended))
    }

    /// The same with one more.
    ///
    /// # Errors
    /// Where that is too many, or there is one of that name.
    pub(super) fn with(&self, hold: Hold) -> Result<Self, String> {
        if let Some(why) = &self.unknown {
            return Err(why.clone());
        }
        let words = hold.id.len() + hold.reason.len() + hold.of.len();
        if self.all.iter().any(|other| other.id == hold.id) || self.astray.contains(&hold.id) {
            return Err(format!("there is a hold {} already", hold.id));
        }
        let stretches: usize = self.all.iter().map(|other| other.scope.segments.len()).sum();
        if stretches.saturating_add(hold.scope.segments.len()) > MOST_IN_ALL {
            return Err(format!("at most {MOST_IN_ALL} stretches of segments in all holds"));
        }
        let turned = hold.scope.segments.iter().any(|(from, to)| to.is_some_and(|to| to < *from))
            || hold.scope.times.is_some_and(|(from, to)| to.is_some_and(|to| to < from));
        if turned {
            return Err("a stretch that ends before it begins".to_owned());
        }
        if self.all.len() >= MOST || hold.scope.segments.len() > MOST_STRETCHES || words > MOST_WORDS {
            return Err(format!("at most {MOST} holds, of {MOST_STRETCHES} stretches and {MOST_WORDS} bytes of words"));
        }
        if hold.scope == Scope::default() {
            return Err("a hold of nothing".to_owned());
        }
        let mut all = self.clone();
        all.all.push(hold);
        Ok(all)
    }

    /// The same without one, and that one in words. One that is on record alone is let go of by its name.
    pub(super) fn without(&self, id: &str) -> Option<(Self, String)> {
        let mut all = self.clone();
        all.astray.retain(|name| name != id);
        match self.all.iter().position(|one| one.id == id) {
            Some(found) => {
                let hold = all.all.remove(found);
                Some((all, format!("of {}: {}", hold.of, hold.reason)))
            }
            None => (all.astray.len() < self.astray.len()).then(|| (all, "that was on record alone".to_owned())),
        }
    }

    /// Why the file was not understood.
    pub(super) const fn is_unknown(&self) -> bool {
        self.unknown.is_some()
    }

    /// Writes them beside the segments, on the disk when it returns.
    pub(super) fn store(&self, spool: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.all).map_err(io::Error::other)?;
        let (path, beside, mut disk) = (path(spool), spool.join("holds.json.tmp"), Host);
        let file = disk.create(&beside)?;
        disk.write(&file, 0, &text)?;
        disk.sync(&file)?;
        disk.rename(&beside, &path)?;
        sync_directory(spool)
    }
}

fn path(spool: &Path) -> PathBuf {
    spool.join(FILE)
}

const FILE: &str = "holds.json";
/// Most holds of a spool.
const MOST: usize = 1024;
/// Most stretches of segments of one, and of all.
pub(crate) const MOST_STRETCHES: usize = 1024;
const MOST_IN_ALL: usize = 8192;
/// A day, in microseconds.
const MARGIN: i64 = 24 * 3600 * 1_000_000;
/// Most bytes of its name, its reason and what was asked for.
const MOST_WORDS: usize = 4096;
