//! The driver with a scripted gate: against a fake target that counts what reaches it, and against real servers.

mod attacks;
mod fake;
mod fire;
mod handshake;
mod honest;
mod implicit;
mod keys;
mod newest;
mod real;
mod regress;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::policy::{Command, Denial, Fault, Held, Permit, Permitted, Recorded, Retry};
use crate::protocol::{Admitted, Cancel, Gate, Impact, Login, Observation, Verdict};
use crate::secret::Secret;
use crate::telemetry::SessionId;

/// What a script says of a command.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Permit(&'static [&'static str]),
    Deny,
    Hold,
    End,
}

type Script = Box<dyn Fn(&Command) -> Answer + Send + Sync>;

/// A gate that does as it is told, and remembers.
pub(super) struct ScriptedGate {
    pub(super) script: Script,
    pub(super) token: Option<&'static [u8]>,
    pub(super) login: Login,
    pub(super) judged: Mutex<Vec<Command>>,
    pub(super) observed: Mutex<Vec<Observation>>,
    pub(super) cancels: Mutex<HashMap<Bytes, Arc<dyn Cancel>>>,
    pub(super) end: Notify,
    pub(super) approve: Notify,
    pub(super) holding: AtomicUsize,
    pub(super) unrecordable: std::sync::atomic::AtomicBool,
    /// Bytes that a session may hold.
    pub(super) room: AtomicUsize,
    /// The most that one ever held.
    pub(super) held: AtomicUsize,
}

impl std::fmt::Debug for ScriptedGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScriptedGate")
    }
}

impl ScriptedGate {
    pub(super) fn new(script: impl Fn(&Command) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            script: Box::new(script),
            token: None,
            login: Login { user: "postgres".into(), password: None, session: None },
            judged: Mutex::default(),
            observed: Mutex::default(),
            cancels: Mutex::default(),
            end: Notify::new(),
            approve: Notify::new(),
            holding: AtomicUsize::new(0),
            unrecordable: false.into(),
            room: usize::MAX.into(),
            held: AtomicUsize::new(0),
        }
    }

    /// Permits all.
    pub(super) fn open() -> Self {
        Self::new(|_| Answer::Permit(&[]))
    }

    /// Denies whatever holds this word, and permits the rest.
    pub(super) fn denying(word: &'static str) -> Self {
        Self::new(move |command| if command.statement.contains(word) { Answer::Deny } else { Answer::Permit(&[]) })
    }

    pub(super) fn statements(&self) -> Vec<String> {
        self.judged.lock().iter().map(|command| command.statement.to_string()).collect()
    }

    pub(super) fn denials(&self) -> usize {
        self.observed.lock().iter().filter(|event| matches!(event, Observation::Denied(_))).count()
    }
}

pub(super) fn denial(what: &str) -> Denial {
    Denial {
        fault: Fault::Agent,
        what: what.into(),
        rule: Some("scripted-rule".into()),
        reason: "the script says so".into(),
        remedy: Some("ask the author".into()),
        retry: Retry::Never,
        session: SessionId::NONE,
    }
}

fn permit(masked: &[&str]) -> Permit {
    Permitted::scripted(masked).into_permit(Recorded::at(1))
}

impl Gate for ScriptedGate {
    fn wants_token(&self) -> bool {
        self.token.is_some()
    }

    fn attest(&self, presented: Option<Secret>) -> BoxFuture<'_, Result<Admitted, Denial>> {
        Box::pin(async move {
            match (self.token, presented) {
                (Some(wanted), Some(token)) if !token.matches(wanted) => {
                    Err(Denial { fault: Fault::Identity, ..denial("the token") })
                }
                (Some(_), None) => Err(Denial { fault: Fault::Identity, ..denial("the token") }),
                _ => Ok(Admitted { identity: "tester".into(), login: self.login.clone() }),
            }
        })
    }

    fn judge(&self, command: &Command) -> BoxFuture<'_, Result<Verdict, Denial>> {
        self.judged.lock().push(command.clone());
        let answer = (self.script)(command);
        Box::pin(async move {
            match answer {
                Answer::Permit(masked) => Ok(Verdict::Permit(permit(masked))),
                Answer::Deny => Err(denial("a command")),
                Answer::Hold => Ok(Verdict::Hold(Held::scripted("dba"))),
                Answer::End => Ok(Verdict::Ended(denial("this session"))),
            }
        })
    }

    fn hold<'a>(&'a self, _: &'a Command, _: Held, _: Impact) -> BoxFuture<'a, Result<Permit, Denial>> {
        Box::pin(async {
            self.holding.fetch_add(1, Ordering::SeqCst);
            self.approve.notified().await;
            Ok(permit(&[]))
        })
    }

    fn observe(&self, event: Observation) -> BoxFuture<'_, Result<(), Denial>> {
        if self.unrecordable.load(Ordering::SeqCst) {
            return Box::pin(async { Err(Denial { fault: Fault::Interceptor, ..denial("the record") }) });
        }
        self.observed.lock().push(event);
        Box::pin(async { Ok(()) })
    }

    fn holds(&self, bytes: usize) -> Result<(), Denial> {
        self.held.fetch_max(bytes, Ordering::SeqCst);
        if bytes > self.room.load(Ordering::SeqCst) { Err(denial("more memory")) } else { Ok(()) }
    }

    fn ended(&self) -> BoxFuture<'_, Denial> {
        Box::pin(async {
            self.end.notified().await;
            denial("this session")
        })
    }

    fn publish_cancel(&self, key: Bytes, cancel: Arc<dyn Cancel>) {
        self.cancels.lock().insert(key, cancel);
    }

    fn cancel(&self, key: &[u8]) -> BoxFuture<'_, Result<Arc<dyn Cancel>, Denial>> {
        let found = self.cancels.lock().get(key).cloned();
        Box::pin(async move { found.ok_or_else(|| denial("the cancel request")) })
    }
}
