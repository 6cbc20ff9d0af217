//! `interceptor exec`: starts a program as an agent, held by all that there is.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use super::Context;
use crate::config::Config;
use crate::identity::level::Registry;
use crate::launch::{self, Request, Spec};
use crate::tls::authority::{ENVIRONMENT, Store, Trust};

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
    /// Its network: the host's, or one of its own in which there is nothing but interceptor
    #[arg(long, value_enum, default_value = "host")]
    net: Net,
    /// The program, with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Where an agent's connections begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Net {
    /// In the host's network namespace.
    Host,
    /// In a network namespace of its own.
    Own,
}

/// The variables that have an agent trust the host CA, where there is one; what they point to is brought up to date, and
/// stays in sight.
pub(super) fn trust(config: &Config, keep: &mut Vec<PathBuf>) -> Result<Vec<(&'static str, PathBuf)>, String> {
    let Some(ca) = &config.ca else { return Ok(Vec::new()) };
    let store = Store::new(ca);
    store.refresh_bundle().map_err(|error| format!("[ca] {error}"))?;
    let (bundle, extra) = (store.bundle_path(), store.certificates_path());
    if launch::is_covered(&bundle) {
        keep.extend([bundle.clone(), extra.clone()]);
    }
    let path = |trust| if trust == Trust::Bundle { bundle.clone() } else { extra.clone() };
    Ok(ENVIRONMENT.iter().map(|(name, trust)| (*name, path(*trust))).collect())
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
    let mut keep = arguments.keep.clone();
    let mut environment = trust(&config, &mut keep)?;
    environment.retain(|(name, _)| std::env::var_os(name).is_none());
    let request = Request { user: arguments.user.clone(), keep, environment };
    let spec = Spec::new(agent, &config.capture, &request, std::process::id())?;
    let (program, rest) = arguments.command.split_first().ok_or("a command is needed")?;
    let registry = Registry::beside(&config.admin.socket, &config.capture.pin_directory).launched;
    // A daemon that is not root cannot. What is left now is looked at again by the next.
    let _left = launch::sweep(&registry);
    let announce = (arguments.net == Net::Own).then(|| announce(context)).transpose()?;
    launch::enter(&spec, &config.capture, &registry, announce, (program, rest)).map(|never| match never {})
}

/// This program once more: has the daemon listen where this process is by then.
fn announce(context: &Context) -> Result<Command, String> {
    let own = std::env::current_exe().map_err(|error| format!("where this program lies: {error}"))?;
    let mut command = Command::new(own);
    command.arg("--config").arg(&context.config).arg("--socket").arg(&context.socket);
    command.args(["adopt", "--when-told", "--pid", &std::process::id().to_string()]);
    Ok(command)
}
