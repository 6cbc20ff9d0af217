//! A program that makes secrets: `exec:/usr/local/bin/cluster-token --cluster prod`.
//!
//! It is started without a shell, with its words as they stand between spaces, with no input and an environment of `PATH` and
//! `KUBERNETES_EXEC_INFO` alone. It prints the secret, or an `ExecCredential` (client.authentication.k8s.io) with a token, as
//! the plugins of kubectl do, or keys of AWS, as `credential_process` has them; one that says until when it is good is kept
//! until a minute before. What it prints of errors goes to nobody: it could be anything.
//!
//! The program, every folder above it and every link to it have to be such that nobody but root and the daemon's user could
//! exchange it. Not promised: that the same is true of what its words name (a script that `/bin/sh` is given).

mod guarded;
mod output;
mod run;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::source::{Fetched, SecretSource, SourceError};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::secret::Secret;

/// The most that it may print, in bytes.
const OUTPUT_LIMIT: usize = 64 * 1024;
/// So long before its end a secret is made anew, in microseconds.
const MARGIN_MICROS: i64 = 60_000_000;
/// What plugins are told of what is asked for.
const INFO: &str =
    r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","spec":{"interactive":false}}"#;

/// The source.
#[derive(Debug)]
pub(super) struct Exec {
    program: PathBuf,
    arguments: Vec<String>,
    clock: SystemClock,
    /// One is made at a time, for all sessions that wait.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Option<(Fetched, Timestamp)>,
    /// What was started, until it has ended: where it hangs, no other is.
    running: Option<run::Running>,
}

impl Exec {
    /// Of the words of a command line; nothing where the first is no absolute path.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let program = PathBuf::from(words.next()?);
        let arguments = words.map(str::to_owned).collect();
        program.is_absolute().then(|| Self { program, arguments, clock: SystemClock::new(), state: Mutex::default() })
    }

    /// The secret, and when sessions that have it have to end.
    async fn make(&self) -> Result<Fetched, SourceError> {
        let mut state = self.state.lock().await;
        let now = self.clock.now();
        if let Some((fetched, _)) = state.kept.as_ref().filter(|(_, until)| now < *until) {
            return Ok(fetched.clone());
        }
        state.kept = None;
        let fetched = output::read(&self.run(&mut state.running).await?)?;
        // What is about to end, or has, is for this session alone, which its target will tell.
        let until = fetched.until.map(|until| Timestamp(until.0.saturating_sub(MARGIN_MICROS)));
        let until = until.filter(|until| now < *until);
        let fetched = Fetched { until, ..fetched };
        state.kept = until.map(|until| (fetched.clone(), until));
        Ok(fetched)
    }

    async fn run(&self, running: &mut Option<run::Running>) -> Result<Secret, SourceError> {
        if let Some(before) = running {
            before.end().await?;
            *running = None;
        }
        let program = self.program.clone();
        let looked = tokio::task::spawn_blocking(move || guarded::guarded(&program)).await;
        looked.map_err(|_interrupted| SourceError::Interrupted)??;
        run::printed(self.command(), running).await
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("KUBERNETES_EXEC_INFO", INFO)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }
}

impl SecretSource for Exec {
    fn describe(&self) -> String {
        // Its words may hold what is nobody's business.
        format!("exec:{}", self.program.display())
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Secret, SourceError>> {
        Box::pin(async {
            let fetched = self.make().await?;
            if fetched.keys.is_some() { Err(SourceError::Keys) } else { Ok(fetched.secret) }
        })
    }

    fn fetch_until(&self) -> BoxFuture<'_, Result<Fetched, SourceError>> {
        Box::pin(self.make())
    }
}
