//! The store of open requests and unused grants.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::request::{Answer, Approver, Digest, Question, Request, RequestId, State};
use super::{ApprovalError, Config, OPEN_LIMIT, OPEN_LIMIT_PER_IDENTITY};
use crate::clock::{Clock, Timestamp};
use crate::policy::Approval;
use crate::secret::{self, Secret};

/// The name of the key of [`Store::seal`].
const KEY: &str = "body.key";

/// Open requests and unused grants, in memory and on disk.
pub struct Store {
    state: PathBuf,
    config: ArcSwap<Config>,
    clock: Arc<dyn Clock>,
    open: Mutex<BTreeMap<RequestId, Request>>,
    /// Kept beside the requests: what is bound by it is found again by whoever reads them.
    key: Secret,
    /// Bumped with every change, so that waiters look again.
    changed: watch::Sender<u64>,
}

/// What asking led to.
#[derive(Debug)]
pub enum Asked {
    /// A grant for exactly this command was waiting; it is redeemed now.
    Granted(Approval, Request, Answer),
    /// A human already said no.
    Refused(Request, Answer),
    /// The request waits; `fresh` where it was opened by this call.
    Waiting {
        /// To be given to [`Store::wait`].
        ticket: Ticket,
        /// Whether this call opened the request.
        fresh: bool,
    },
}

/// A place in the queue for one request.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The request.
    pub id: RequestId,
    digest: Digest,
    expires_at: Timestamp,
}

/// What waiting led to.
#[derive(Debug)]
pub enum Waited {
    /// Approved, and redeemed by this call.
    Granted(Approval, Request, Answer),
    /// A human said no.
    Refused(Request, Answer),
    /// Nobody answered in time.
    TimedOut,
    /// Another connection took the answer: ask again.
    Taken,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("open", &self.open.lock().len()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the state directory and reads what an earlier daemon left.
    ///
    /// # Errors
    /// When the directory cannot be made or read, or a file in it is not a request: a grant is never guessed.
    pub fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Self, ApprovalError> {
        let failed =
            |doing| move |path: &Path, source| ApprovalError::State { path: path.to_path_buf(), doing, source };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.state)
            .map_err(|source| failed("created")(&config.state, source))?;
        let mut open = BTreeMap::new();
        let entries = fs::read_dir(&config.state).map_err(|source| failed("read")(&config.state, source))?;
        for entry in entries {
            let path = entry.map_err(|source| failed("read")(&config.state, source))?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {}
                // Half-written by a crash: the rename that would have made it count never happened.
                Some("new") => {
                    fs::remove_file(&path).map_err(|source| failed("removed")(&path, source))?;
                    continue;
                }
                _ => continue,
            }
            let text = fs::read(&path).map_err(|source| failed("read")(&path, source))?;
            let request: Request =
                serde_json::from_slice(&text).map_err(|error| failed("understood")(&path, error.into()))?;
            open.insert(request.id, request);
        }
        let path = config.state.join(KEY);
        let key =
            secret::key(&path).map_err(|why| failed("read or made")(&path, std::io::Error::other(why.to_string())))?;
        let (state, config) = (config.state.clone(), ArcSwap::from_pointee(config));
        Ok(Self { state, config, clock, open: Mutex::new(open), key, changed: watch::Sender::new(0) })
    }

    /// What stands for bytes that approvers are not shown, in what a grant is for: whoever has the rest could try out what they are,
    /// without the key, which this store alone has. The same for as long as there is the store.
    #[must_use]
    pub fn seal(&self, bytes: &[u8]) -> Option<String> {
        let digest = self.key.digest(bytes)?;
        Some(digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Takes over who may answer, and for how long, for all that is asked or answered from now on. The state stays where
    /// it is.
    pub fn reconfigure(&self, config: Config) {
        self.config.store(Arc::new(config));
    }

    /// Finds the grant for a command, joins the request that already waits for it, or opens one.
    ///
    /// # Errors
    /// When too many requests are open, or the state cannot be written.
    pub fn ask(&self, question: Question) -> Result<Asked, ApprovalError> {
        let now = self.clock.now();
        let mut open = self.open.lock();
        let found = open
            .values()
            .find(|request| request.digest == question.digest && request.expires_at > now)
            .map(|request| (request.id, request.expires_at));
        if let Some((id, expires_at)) = found {
            let ticket = Ticket { id, digest: question.digest, expires_at };
            return Ok(match self.settle(&mut open, &ticket)? {
                Some(Waited::Granted(approval, request, answer)) => Asked::Granted(approval, request, answer),
                Some(Waited::Refused(request, answer)) => Asked::Refused(request, answer),
                Some(Waited::TimedOut | Waited::Taken) | None => Asked::Waiting { ticket, fresh: false },
            });
        }
        self.admit(&open, &question.identity)?;
        let request = self.request(question, now)?;
        self.write(&request)?;
        let ticket = Ticket { id: request.id, digest: request.digest.clone(), expires_at: request.expires_at };
        open.insert(request.id, request);
        drop(open);
        self.announce();
        Ok(Asked::Waiting { ticket, fresh: true })
    }

    /// Waits until a request is settled. Dropping the future leaves the request open.
    ///
    /// # Errors
    /// When the redemption cannot be written: the grant is then not used.
    pub async fn wait(&self, ticket: &Ticket) -> Result<Waited, ApprovalError> {
        let mut changed = self.changed.subscribe();
        loop {
            let settled = {
                let mut open = self.open.lock();
                if open.contains_key(&ticket.id) { self.settle(&mut open, ticket)? } else { Some(self.gone(ticket)) }
            };
            if let Some(settled) = settled {
                return Ok(settled);
            }
            if changed.changed().await.is_err() {
                return Ok(self.gone(ticket));
            }
        }
    }

    /// Every open request, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Request> {
        let mut requests: Vec<Request> = self.open.lock().values().cloned().collect();
        requests.sort_by_key(|request| (request.opened_at, request.id));
        requests
    }

    /// How many wait for people, and since when the oldest does.
    #[must_use]
    pub fn waiting(&self) -> (usize, Option<Timestamp>) {
        let open = self.open.lock();
        let waiting = || open.values().filter(|request| matches!(request.state, State::Waiting));
        (waiting().count(), waiting().map(|request| request.opened_at).min())
    }

    /// One open request.
    ///
    /// # Errors
    /// When there is none of that id.
    pub fn show(&self, id: RequestId) -> Result<Request, ApprovalError> {
        self.open.lock().get(&id).cloned().ok_or_else(|| ApprovalError::Unknown(id.to_string()))
    }

    /// Whether `approver` may answer, and the request still waits.
    ///
    /// # Errors
    /// When not.
    pub fn may_answer(&self, id: RequestId, approver: &Approver) -> Result<Request, ApprovalError> {
        let request = self.show(id)?;
        if request.state != State::Waiting {
            return Err(ApprovalError::Settled { id: id.to_string(), state: request.state.name() });
        }
        if approver.uid != 0 {
            let config = self.config.load();
            let lists: Vec<&Vec<String>> =
                request.approvers.iter().filter_map(|group| config.approvers.get(group)).collect();
            let unlisted = lists.len() < request.approvers.len();
            if !unlisted && !lists.iter().any(|names| names.contains(&approver.name)) {
                return Err(ApprovalError::NotAllowed {
                    approver: approver.to_string(),
                    groups: request.approvers.join(", "),
                    allowed: lists.into_iter().flatten().cloned().collect::<Vec<_>>().join(", "),
                });
            }
        }
        Ok(request)
    }

    /// Settles a request. The caller has the answer on record before.
    ///
    /// # Errors
    /// When the approver may not, the request is gone or already settled, or the state cannot be written.
    pub fn answer(&self, id: RequestId, approve: bool, answer: Answer) -> Result<Request, ApprovalError> {
        self.may_answer(id, &answer.approver)?;
        let mut open = self.open.lock();
        let request = open.get_mut(&id).ok_or_else(|| ApprovalError::Unknown(id.to_string()))?;
        if request.state != State::Waiting {
            return Err(ApprovalError::Settled { id: id.to_string(), state: request.state.name() });
        }
        let mut settled = request.clone();
        settled.expires_at = answer.at.plus(self.config.load().grant_lifetime());
        settled.state = if approve { State::Approved(answer) } else { State::Denied(answer) };
        self.write(&settled)?;
        *request = settled.clone();
        drop(open);
        self.announce();
        Ok(settled)
    }

    /// Removes what has expired, and says what: to be recorded as time-outs.
    pub fn expire(&self) -> Vec<Request> {
        let now = self.clock.now();
        let mut open = self.open.lock();
        let dead: Vec<RequestId> =
            open.values().filter(|request| request.expires_at <= now).map(|request| request.id).collect();
        let expired: Vec<Request> = dead.iter().filter_map(|id| open.remove(id)).collect();
        drop(open);
        for request in &expired {
            // A file that stays behind is expired all the same when it is read again.
            let _left_behind = fs::remove_file(self.path(request.id));
        }
        if !expired.is_empty() {
            self.announce();
        }
        expired
    }

    /// Takes a settled request out of the store: on disk first, so that it can never be taken twice.
    fn settle(
        &self,
        open: &mut BTreeMap<RequestId, Request>,
        ticket: &Ticket,
    ) -> Result<Option<Waited>, ApprovalError> {
        let now = self.clock.now();
        let Some(request) = open.get(&ticket.id) else { return Ok(None) };
        if request.expires_at <= now || request.digest != ticket.digest {
            return Ok(Some(Waited::TimedOut));
        }
        let settled = match request.state.clone() {
            State::Waiting => return Ok(None),
            State::Approved(answer) => Waited::Granted(Approval::of(request.id.to_string()), request.clone(), answer),
            State::Denied(answer) => Waited::Refused(request.clone(), answer),
        };
        self.remove(ticket.id)?;
        open.remove(&ticket.id);
        Ok(Some(settled))
    }

    fn gone(&self, ticket: &Ticket) -> Waited {
        if self.clock.now() >= ticket.expires_at { Waited::TimedOut } else { Waited::Taken }
    }

    fn admit(&self, open: &BTreeMap<RequestId, Request>, identity: &str) -> Result<(), ApprovalError> {
        if open.len() >= OPEN_LIMIT {
            return Err(ApprovalError::Full { held: open.len(), whose: "in all".into() });
        }
        let own = open.values().filter(|request| request.identity == identity).count();
        if own >= OPEN_LIMIT_PER_IDENTITY {
            return Err(ApprovalError::Full { held: own, whose: format!("of {identity}") });
        }
        Ok(())
    }

    fn request(&self, question: Question, now: Timestamp) -> Result<Request, ApprovalError> {
        let id = RequestId::generate().map_err(|error| ApprovalError::State {
            path: self.state.clone(),
            doing: "given an id",
            source: std::io::Error::other(error.to_string()),
        })?;
        Ok(Request {
            id,
            state: State::Waiting,
            digest: question.digest,
            opened_at: now,
            expires_at: now.plus(self.config.load().timeout()),
            session: question.session,
            identity: question.identity,
            groups: question.groups,
            facts: question.facts,
            target: question.target,
            statement: question.statement,
            parameters: question.parameters,
            actions: question.actions,
            approvers: question.held.approvers.clone(),
            rules: question.held.rules.to_vec(),
            reason: question.held.reason.clone(),
            estimated_rows: question.estimated_rows,
            note: question.note,
            recent: question.recent,
        })
    }

    fn write(&self, request: &Request) -> Result<(), ApprovalError> {
        let path = self.path(request.id);
        let new = path.with_extension("new");
        let failed = |source| ApprovalError::State { path: path.clone(), doing: "written", source };
        let text = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
        let mut file =
            fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&new, &path).map_err(failed)?;
        self.sync_directory()
    }

    fn remove(&self, id: RequestId) -> Result<(), ApprovalError> {
        let path = self.path(id);
        fs::remove_file(&path).map_err(|source| ApprovalError::State { path, doing: "removed", source })?;
        self.sync_directory()
    }

    fn sync_directory(&self) -> Result<(), ApprovalError> {
        fs::File::open(&self.state).and_then(|directory| directory.sync_all()).map_err(|source| ApprovalError::State {
            path: self.state.clone(),
            doing: "made durable",
            source,
        })
    }

    fn path(&self, id: RequestId) -> PathBuf {
        self.state.join(format!("{id}.json"))
    }

    fn announce(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl State {
    /// `waiting`, `approved` or `denied`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Approved(_) => "approved",
            Self::Denied(_) => "denied",
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
