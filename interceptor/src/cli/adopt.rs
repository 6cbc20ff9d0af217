//! `interceptor adopt --pid N`: has the daemon listen in a process' network namespace before it connects. `interceptor
//! oci-hook`: the same, called by a container's runtime.

use std::fs;
use std::io::{self, Read as _};
use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;

use super::{Context, Printer, block_on};
use crate::admin::{AdoptBody, client};
use crate::capture::{Namespace, is_governed};

/// How long who launches an agent waits for a listener at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest state that a runtime may send.
const STATE_MAX: u64 = 1 << 20;

pub(super) fn run(context: &Context, pid: u32, out: &mut Printer) -> Result<ExitCode, String> {
    let namespace = ask(context, pid)?;
    out.show(&namespace, |namespace| {
        Ok(format!("interceptor listens in network namespace {} of {}", namespace.inode, namespace.cgroup))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Once who launches an agent says so; the agent waits.
pub(super) fn when_told(context: &Context, pid: u32) -> Result<ExitCode, String> {
    let mut line = [0];
    if io::stdin().read(&mut line).map_err(|error| error.to_string())? == 0 {
        return Err("nobody waits for it".to_owned());
    }
    let body = AdoptBody { pid };
    let call = client::call::<Namespace>(&context.socket, Method::POST, "/v1/namespaces", Some(&body));
    match block_on(async { tokio::time::timeout(PATIENCE, call).await })? {
        Ok(made) => made.map(|_listens| ExitCode::SUCCESS).map_err(|error| error.to_string()),
        Err(_elapsed) => Err(format!("the daemon did not answer within {PATIENCE:?}")),
    }
}

/// What a runtime tells its hooks: the part that counts here.
#[derive(Debug, Deserialize)]
struct State {
    pid: u32,
}

/// Never keeps a container from starting: one that is not governed is nobody's business here, and one that is governed can
/// reach nothing until there is a listener, which its first connect asks for in any case.
pub(super) fn hook(context: &Context) -> Result<ExitCode, String> {
    let pid = state(io::stdin().lock())?.pid;
    if let Err(why) = announce(context, pid) {
        tell(&format!(
            "interceptor: container of process {pid}: {why}; its first connect will be refused, then it is looked at"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn announce(context: &Context, pid: u32) -> Result<(), String> {
    let config = context.configuration()?;
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|error| error.to_string())?;
    let cgroup = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    if !is_governed(&config.capture, cgroup).map_err(|error| format!("cgroup {cgroup}: {error}"))? {
        return Ok(());
    }
    ask(context, pid).map(drop)
}

fn ask(context: &Context, pid: u32) -> Result<Namespace, String> {
    let body = AdoptBody { pid };
    let call = client::call(&context.socket, Method::POST, "/v1/namespaces", Some(&body));
    block_on(call)?.map_err(|error| error.to_string())
}

fn state(input: impl io::Read) -> Result<State, String> {
    let mut text = String::new();
    input.take(STATE_MAX).read_to_string(&mut text).map_err(|error| format!("the container's state: {error}"))?;
    let state: State = serde_json::from_str(&text).map_err(|error| format!("the container's state: {error}"))?;
    if state.pid == 0 { Err("the container's state names no process".to_owned()) } else { Ok(state) }
}

#[expect(clippy::print_stderr, reason = "a runtime shows what its hooks say there")]
fn tell(words: &str) {
    eprintln!("{words}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_what_runtimes_send() {
        let text =
            r#"{"ociVersion":"1.0","id":"c","pid":42,"root":"/","bundle":"/b","status":"created","annotations":{}}"#;
        assert_eq!(state(text.as_bytes()).unwrap().pid, 42);
        for odd in ["", "{}", r#"{"pid":0}"#, r#"{"pid":-1}"#, r#"{"pid":"1"}"#] {
            assert!(state(odd.as_bytes()).is_err(), "{odd}");
        }
        assert!(state(io::repeat(b' ')).is_err());
    }
}
