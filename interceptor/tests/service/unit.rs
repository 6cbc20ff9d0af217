//! The unit file: what it says is what the daemon is tested with, and what systemd thinks of it.

use std::process::Command;

use interceptor::testing::units::{DAEMON, DOORKEEPER, path, values as of};

/// Exposure above which the unit counts as not hardened, as systemd counts it: a tenth of what it prints.
const EXPOSURE: &str = "19";

/// Of the daemon's unit.
fn values(name: &str) -> Vec<String> {
    of(DAEMON, name)
}

#[test]
fn systemd_counts_both_units_as_hardened() {
    [DAEMON, DOORKEEPER].into_iter().for_each(is_hardened);
}

fn is_hardened(unit: &str) {
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE]).arg(path(unit));
    let output = analyze.output().expect("this test needs systemd-analyze");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // The threshold counts: with half of what the unit takes away it fails.
    let weak = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(path(unit)).unwrap();
    let kept: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("Protect") && !line.starts_with("User=")).collect();
    std::fs::write(weak.path().join(unit), kept.join("\n")).unwrap();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE]);
    assert!(!analyze.arg(weak.path().join(unit)).output().unwrap().status.success());
}

#[test]
fn the_unit_keeps_what_the_daemon_counts_on() {
    assert_eq!(values("Type"), ["notify"]);
    // Nobody else in its cgroup may hand in sockets to be kept, or speak for it.
    assert_eq!(values("NotifyAccess"), ["main"]);
    // All that the daemon keeps, and room for two more versions of the host's while they are exchanged.
    let namespaces = interceptor::capture::Config::default().namespaces * interceptor::capture::NAMESPACE_DESCRIPTORS;
    assert!(values("FileDescriptorStoreMax")[0].parse::<usize>().unwrap() >= 12 + namespaces);
    assert_eq!(values("Restart"), ["always"]);
    // What `interceptor exec` has registered outlives the daemon.
    assert_eq!(values("RuntimeDirectoryPreserve"), ["yes"]);
    let seconds = |name: &str| values(name)[0].parse::<u64>().unwrap();
    let drain = interceptor::session::Limits::default().drain_seconds;
    assert!(seconds("TimeoutStopSec") > drain + 5, "sessions have their time, and last words");
    assert!(values("ExecStartPre")[0].starts_with('+'), "prepared by root");
    // So are cgroups that a reload adds.
    assert_eq!(values("ExecReload"), ["+/usr/bin/interceptor", "reload"]);
}

#[test]
fn whoever_opens_namespaces_is_reached_by_the_daemon_alone_and_is_another_user() {
    const SOCKET: &str = "interceptor-namespaces.socket";
    let default = interceptor::capture::Config::default();
    assert_eq!(of(SOCKET, "ListenSequentialPacket"), [default.namespaces_socket.display().to_string()]);
    assert_eq!((of(SOCKET, "SocketUser"), of(SOCKET, "SocketMode")), (values("User"), vec!["0600".to_owned()]));
    assert_ne!(of(DOORKEEPER, "User"), values("User"), "neither writes to the other's memory");
    assert_eq!(of(DOORKEEPER, "Group"), values("Group"), "it sees the pins");
    assert!(of(DOORKEEPER, "ExecStartPre").join(" ").starts_with("+/usr/bin/interceptor prepare --namespaces"));
    assert!(of(DOORKEEPER, "ExecStart").join(" ").ends_with(&format!("--user {}", values("User")[0])));
    assert_eq!(
        (of(DOORKEEPER, "PartOf"), of(DOORKEEPER, "RestrictNamespaces")),
        (vec![DAEMON.to_owned()], vec!["net".to_owned()])
    );
    // Where the daemon starts again, so does this, and what it looks for is there by then. Where there is none, it is not tried
    // over and over until it may not any more, which would take the socket with it.
    assert_eq!((of(DOORKEEPER, "Restart"), of(SOCKET, "FlushPending")), (Vec::new(), vec!["yes".to_owned()]));
    assert!(
        of(DOORKEEPER, "After").contains(&DAEMON.to_owned()) && of(DOORKEEPER, "After").contains(&SOCKET.to_owned())
    );
    assert!(values("Wants").contains(&SOCKET.to_owned()) && values("After").contains(&SOCKET.to_owned()));
}
