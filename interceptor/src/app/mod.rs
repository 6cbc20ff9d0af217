//! The composition root: builds everything, owns shutdown.
//!
//! Start in named phases, each of which can fail without having changed the host: read, check, open the spool and the
//! approvals, resolve targets, then capture. Stop: no new sessions, live ones are told and drained, the spool is
//! closed. The kernel programs stay attached: while no daemon runs, governed traffic is refused, not let through.

mod alarms;
mod daemon;
mod enroll;
mod load;
mod names;
mod namespaces;
mod reload;
mod room;
mod service;
mod strays;
mod tally;
mod witness;
mod workers;

use std::path::Path;

use crate::config::Problem;

pub use load::{Means, load};

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration or the policies are wrong.
    #[error("{} problems in configuration or policies; `interceptor check` lists them", .0.len())]
    Problems(Vec<Problem>),
    /// Something that the daemon needs does not work.
    #[error("{what}: {why}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// Why it failed, and what to do.
        why: String,
    },
}

impl StartError {
    fn failed(what: &'static str) -> impl FnOnce(&dyn std::fmt::Display) -> Self {
        move |why| Self::Failed { what, why: why.to_string() }
    }
}

/// Validates configuration, policies and everything they name, and changes nothing.
///
/// # Errors
/// Every problem, with file and line.
pub fn check(path: &Path) -> Result<String, Vec<Problem>> {
    let config = crate::config::read(path)?;
    let loaded = load(path, &config, &means().map_err(|message| vec![whole(path, message)])?)?;
    Ok(format!(
        "{} is valid: {} targets, {} agents, {} issuers, {} mask rules, {} policies",
        path.display(),
        loaded.targets.len(),
        config.agents.len(),
        config.issuers.len(),
        config.masks.len(),
        loaded.policies.len(),
    ))
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(path: &Path) -> Result<(), StartError> {
    let config = crate::config::read(path).map_err(StartError::Problems)?;
    let means = means().map_err(|why| StartError::Failed { what: "drawing a key", why })?;
    let loaded = load(path, &config, &means).map_err(StartError::Problems)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::failed("starting the runtime")(&error))?;
    let ended = runtime.block_on(daemon::run(path, config, loaded, means));
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    ended
}

/// The configured site, for questions that need no daemon.
#[derive(Debug)]
pub struct Site {
    /// Where its policies are.
    pub policies: std::path::PathBuf,
    /// Tags that its masking rules know.
    pub tags: crate::policy::TagSet,
    loaded: crate::session::Loaded,
}

impl Site {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Every problem, a line each.
    pub fn open(path: &Path) -> Result<Self, String> {
        let lines = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let config = crate::config::read(path).map_err(lines)?;
        let loaded = load(path, &config, &means()?).map_err(lines)?;
        Ok(Self { policies: config.policy.dir, tags: loaded.rules.known_tags(), loaded })
    }

    /// What a text would do at a target, in a database of it where it has such.
    ///
    /// # Errors
    /// A sentence, when there is no such target, or it cannot be asked.
    pub async fn understand(
        &self,
        target: &str,
        database: Option<&str>,
        text: &str,
    ) -> Result<crate::policy::Command, String> {
        let known = self.loaded.targets.iter().find(|known| &*known.name == target);
        let known = known.ok_or_else(|| format!("the configuration has no target `{target}`"))?;
        known.understand(std::sync::Arc::clone(&self.loaded.rules), database, text).await
    }
}

/// Explains which identity a process would get under this configuration.
///
/// # Errors
/// A sentence, when the configuration is wrong or the process cannot be read.
pub async fn whoami(path: &Path, pid: u32) -> Result<crate::identity::WhoAmI, String> {
    let lines = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let config = crate::config::read(path).map_err(lines)?;
    let loaded = load(path, &config, &means()?).map_err(lines)?;
    loaded.attestor.explain(pid).await.map_err(|error| format!("{}; {}", error.reason, error.remedy))
}

fn means() -> Result<Means, String> {
    Means::draw().map_err(|error| error.to_string())
}

fn whole(path: &Path, message: String) -> Problem {
    Problem { file: path.to_path_buf(), line: 0, column: 0, message }
}
