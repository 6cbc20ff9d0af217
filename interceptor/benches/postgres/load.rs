//! pgbench on a route, and what it says.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use interceptor::testing::stage::Stage;

use super::Failure;
use super::measure::{cpu, percentile};
use super::rivals::Route;

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// Transactions a second.
    pub(crate) rate: f64,
    /// Processor time of the proxy for a transaction, in microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// Latency in microseconds: the 50th, 95th and 99th percentile.
    pub(crate) latency: Option<[u64; 3]>,
}

/// What pgbench does.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    pub(crate) arguments: Vec<String>,
    pub(crate) clients: u32,
}

/// Runs pgbench for that long.
pub(crate) fn pgbench(stage: &Stage, route: &Route, bench: &Bench, seconds: u32) -> Result<Run, Failure> {
    let log = writable(stage)?.join(format!("latency-{}", route.name));
    let mut command = Command::new(pgbench_program()?);
    command.args(["-n", "-T", &seconds.to_string(), "-c", &bench.clients.to_string(), "-j", "1"]);
    command.args(&bench.arguments);
    command.arg("-l").arg("--sampling-rate=0.2").arg(format!("--log-prefix={}", log.display()));
    let before = route.pid().map(cpu);
    let output = route.spawn(stage, command)?.wait_with_output()?;
    let used = route.pid().map(cpu).zip(before).map(|(after, before)| after.saturating_sub(before));
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("pgbench over {}: {text}{why}\n{}", route.name, stage.log()).into());
    }
    let number = |start: &str| {
        text.lines().find_map(|line| line.strip_prefix(start)?.split_whitespace().next()?.parse::<f64>().ok())
    };
    let rate =
        number("tps = ").ok_or("pgbench names no rate: it may have run for too short to do more than connect")?;
    let done = number("number of transactions actually processed: ").ok_or("pgbench names no transactions")?;
    Ok(Run {
        rate,
        cpu_us: used.map(|used: Duration| used.as_secs_f64() * 1e6 / done.max(1.0)),
        latency: latencies(&log),
    })
}

fn latencies(prefix: &std::path::Path) -> Option<[u64; 3]> {
    let name = prefix.file_name()?.to_str()?.to_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(prefix.parent()?).ok()?.flatten() {
        if entry.file_name().to_str().is_some_and(|file| file.starts_with(&name)) {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()));
            let _gone = std::fs::remove_file(entry.path());
        }
    }
    found.sort_unstable();
    (!found.is_empty()).then(|| [0.5, 0.95, 0.99].map(|share| percentile(&found, share)))
}

/// A folder in which the clients' user may write.
fn writable(stage: &Stage) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = stage.path("load");
    std::fs::create_dir_all(&folder)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777))?;
    Ok(folder)
}

/// The newest pgbench.
pub(crate) fn pgbench_program() -> Result<PathBuf, Failure> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")?
        .flatten()
        .map(|version| version.path().join("bin/pgbench"))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| "pgbench is not installed (package postgresql)".into())
}
