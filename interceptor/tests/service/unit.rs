//! The unit file: what it says is what the daemon is tested with, and what systemd thinks of it.

use std::path::PathBuf;
use std::process::Command;

/// Exposure above which the unit counts as not hardened, as systemd counts it: a tenth of what it prints.
const EXPOSURE: &str = "19";

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/interceptor.service")
}

/// The values of a setting, in order.
fn values(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path()).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// The daemon's capabilities, as setpriv names them.
pub(crate) fn capabilities() -> Vec<String> {
    let ambient = values("AmbientCapabilities");
    assert_eq!(ambient, values("CapabilityBoundingSet"), "what it has, and what it could get");
    ambient.iter().map(|name| name.strip_prefix("CAP_").unwrap().to_ascii_lowercase()).collect()
}

#[test]
fn systemd_counts_the_unit_as_hardened() {
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE]).arg(path());
    let output = analyze.output().expect("this test needs systemd-analyze");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // The threshold counts: with half of what the unit takes away it fails.
    let weak = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(path()).unwrap();
    let kept: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("Protect") && !line.starts_with("User=")).collect();
    std::fs::write(weak.path().join("interceptor.service"), kept.join("\n")).unwrap();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE]);
    assert!(!analyze.arg(weak.path().join("interceptor.service")).output().unwrap().status.success());
}

#[test]
fn the_unit_keeps_what_the_daemon_counts_on() {
    assert_eq!(values("Type"), ["notify"]);
    // Nobody else in its cgroup may hand in sockets to be kept, or speak for it.
    assert_eq!(values("NotifyAccess"), ["main"]);
    // All that the daemon keeps, and room for two more versions of it while they are exchanged.
    assert!(values("FileDescriptorStoreMax")[0].parse::<u32>().unwrap() >= 12);
    assert_eq!(values("Restart"), ["always"]);
    // What `interceptor exec` has registered outlives the daemon.
    assert_eq!(values("RuntimeDirectoryPreserve"), ["yes"]);
    let seconds = |name: &str| values(name)[0].parse::<u64>().unwrap();
    let drain = interceptor::session::Limits::default().drain_seconds;
    assert!(seconds("TimeoutStopSec") > drain + 5, "sessions have their time, and last words");
    assert!(values("ExecStartPre")[0].starts_with('+'), "prepared by root");
}
