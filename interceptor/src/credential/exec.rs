//! A program that makes secrets: `exec:/usr/local/bin/cluster-token --cluster prod`.
//!
//! It is started without a shell, with its words as they stand between spaces, with no input and an environment of `PATH` and
//! `KUBERNETES_EXEC_INFO` alone. It prints the secret, or an `ExecCredential` (client.authentication.k8s.io) with a token, as
//! the plugins of kubectl do; one that says until when it is good is kept until a minute before. What it prints of errors
//! goes to nobody: it could be anything.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::source::{SecretSource, SourceError};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::secret::{Secret, Unreadable};

/// The most that it may print, in bytes.
const OUTPUT_LIMIT: u64 = 64 * 1024;
/// So long before its end a secret is made anew, in microseconds.
const MARGIN_MICROS: i64 = 60_000_000;
/// How long what is ended may take to end.
const GRACE: Duration = Duration::from_millis(200);
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
    kept: Option<(Secret, Timestamp)>,
    /// What was started, until it has ended: where it hangs, no other is.
    started: Option<Child>,
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
    async fn make(&self) -> Result<(Secret, Option<Timestamp>), SourceError> {
        let mut state = self.state.lock().await;
        let now = self.clock.now();
        if let Some((secret, until)) = state.kept.as_ref().filter(|(_, until)| now < *until) {
            return Ok((secret.clone(), Some(*until)));
        }
        let (secret, until) = read(&self.run(&mut state.started).await?)?;
        // What is about to end, or has, is for this session alone, which its target will tell.
        let until = until.map(|until| Timestamp(until.0.saturating_sub(MARGIN_MICROS))).filter(|until| now < *until);
        state.kept = until.map(|until| (secret.clone(), until));
        Ok((secret, until))
    }

    async fn run(&self, started: &mut Option<Child>) -> Result<Secret, SourceError> {
        if let Some(before) = started {
            // A confined daemon may not be let to.
            let _best_effort = before.start_kill();
            timeout(GRACE, before.wait()).await.map_err(|_elapsed| SourceError::Hangs)?.map_err(Unreadable::Io)?;
        }
        guarded(&self.program)?;
        let child = started.insert(self.command().spawn().map_err(Unreadable::Io)?);
        // The whole capacity at once: growing would leave an unwiped copy behind.
        let mut printed = Vec::with_capacity(usize::try_from(OUTPUT_LIMIT).unwrap_or(0).saturating_add(1));
        let stdout = child.stdout.take().ok_or(SourceError::Interrupted)?;
        stdout.take(OUTPUT_LIMIT + 1).read_to_end(&mut printed).await.map_err(Unreadable::Io)?;
        let printed = Secret::new(printed);
        if printed.expose().len() as u64 > OUTPUT_LIMIT {
            return Err(SourceError::TooLong);
        }
        let status = child.wait().await.map_err(Unreadable::Io)?;
        *started = None;
        if status.success() { Ok(printed) } else { Err(SourceError::Program(status)) }
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
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

impl SecretSource for Exec {
    fn describe(&self) -> String {
        // Its words may hold what is nobody's business.
        format!("exec:{}", self.program.display())
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Secret, SourceError>> {
        Box::pin(async { self.make().await.map(|(secret, _)| secret) })
    }

    fn fetch_until(&self) -> BoxFuture<'_, Result<(Secret, Option<Timestamp>), SourceError>> {
        Box::pin(self.make())
    }
}

/// A program that nobody else could have written.
fn guarded(program: &Path) -> Result<(), Unreadable> {
    let facts = fs::metadata(program)?;
    if !facts.is_file() {
        return Err(Unreadable::NotAFile);
    }
    if facts.mode() & 0o022 != 0 {
        return Err(Unreadable::Exposed(facts.mode() & 0o7777));
    }
    let owner = facts.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(Unreadable::Foreign(owner));
    }
    Ok(())
}

#[derive(Deserialize)]
struct ExecCredential {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<String>,
    expiration_timestamp: Option<String>,
}

/// The secret, and until when it is good, where that is said.
fn read(printed: &Secret) -> Result<(Secret, Option<Timestamp>), SourceError> {
    let bytes = printed.expose();
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        let line = bytes.strip_suffix(b"\n").map_or(bytes, |line| line.strip_suffix(b"\r").unwrap_or(line));
        return Ok((Secret::new(line.to_vec()), None));
    }
    let credential: ExecCredential = serde_json::from_slice(bytes).map_err(|_| SourceError::NoToken)?;
    let token = credential.status.token.filter(|token| !token.is_empty()).ok_or(SourceError::NoToken)?;
    let until = credential.status.expiration_timestamp.as_deref().map(stamp).transpose()?;
    Ok((Secret::new(token.into_bytes()), until))
}

/// A moment as RFC 3339 has it.
fn stamp(text: &str) -> Result<Timestamp, SourceError> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| SourceError::NoToken)?;
    Ok(Timestamp::from_unix(moment.unix_timestamp()))
}
