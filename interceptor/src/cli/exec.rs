//! `interceptor exec`: starts a program as an agent, held by all that there is.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use super::Context;
use crate::identity::level::Registry;
use crate::launch::{self, Request, Spec};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The [[agent]] of the configuration that it is to be
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// User to run as, where the agent's `match` does not say
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// What it shall see below /run, /tmp and /var/tmp beside its token; all else there is hidden
    #[arg(long, value_name = "PATH")]
    keep: Vec<PathBuf>,
    /// The program, with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Returns only where the program was not started.
pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<ExitCode, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("exec needs root: it makes a cgroup, and takes rights away".to_owned());
    }
    let config = context.configuration()?;
    let mut known = config.agents.iter().map(|agent| &agent.value);
    let agent = known.find(|agent| agent.name == arguments.agent);
    let agent = agent.ok_or_else(|| format!("the configuration has no agent {}", arguments.agent))?;
    let request = Request { user: arguments.user.clone(), keep: arguments.keep.clone() };
    let spec = Spec::new(agent, &config.capture, &request, std::process::id())?;
    let (program, rest) = arguments.command.split_first().ok_or("a command is needed")?;
    let registry = Registry::beside(&config.admin.socket, &config.capture.pin_directory).launched;
    // A daemon that is not root cannot. What is left now is looked at again by the next.
    let _left = launch::sweep(&registry);
    launch::enter(&spec, &config.capture, &registry, (program, rest)).map(|never| match never {})
}
