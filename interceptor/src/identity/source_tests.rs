//! Tests of token sources against real processes and hostile files: nothing hangs, escapes or is read for another.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use super::super::facts::tests::{Running, run, started};
use super::*;

struct Bench {
    dir: tempfile::TempDir,
    process: Process,
    facts: ProcessFacts,
    _child: Running,
}

fn bench() -> Bench {
    let child = run(Path::new("/bin/sleep"), &["60"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let process = Process::open(child.0.id()).unwrap();
    Bench { dir, process, facts: facts(Uid::current(), Gid::current()), _child: child }
}

fn facts(uid: Uid, gid: Gid) -> ProcessFacts {
    ProcessFacts {
        pid: 1,
        uid: uid.as_raw(),
        gid: gid.as_raw(),
        cgroup: "/agents.slice/billing.service".to_owned(),
        unit: Some("billing.service".to_owned()),
        container: None,
        exe: None,
        exe_sha256: None,
        ancestry: Vec::new(),
        guarantee: Default::default(),
    }
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> Result<String, SourceError> {
        let source = Source::File(self.path(name).to_str().unwrap().to_owned());
        fetch(&source, "bot", &self.process, &self.facts, None).map(|token| token.expose_str().unwrap().to_owned())
    }
}

#[test]
fn one_line_end_is_no_part_of_the_token() {
    let bench = bench();
    for (content, token) in [("a.b.c", "a.b.c"), ("a.b.c\n", "a.b.c"), ("a.b.c\r\n", "a.b.c"), ("a\n\n", "a\n")] {
        std::fs::write(bench.path("token"), content).unwrap();
        assert_eq!(bench.read("token").unwrap(), token);
    }
}

#[test]
fn placeholders_are_filled() {
    let bench = bench();
    let name = format!("billing.service-bot-{}", bench.facts.uid);
    std::fs::write(bench.path(&name), "t").unwrap();
    assert_eq!(bench.read("{unit}-{agent}-{uid}").unwrap(), "t");
    let mut bench = bench;
    bench.facts.unit = None;
    assert!(matches!(bench.read("{unit}-{agent}-{uid}"), Err(SourceError::NoUnit(_))));
}

#[test]
fn pipes_directories_and_devices_neither_hang_nor_count() {
    let bench = bench();
    nix::unistd::mkfifo(&bench.path("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    std::fs::create_dir(bench.path("folder")).unwrap();
    let _listening = std::os::unix::net::UnixListener::bind(bench.path("socket")).unwrap();
    symlink("/dev/zero", bench.path("zero")).unwrap();
    for name in ["pipe", "folder", "zero"] {
        assert!(matches!(bench.read(name), Err(SourceError::NotRegular(_))), "{name}");
    }
    assert!(matches!(bench.read("socket"), Err(SourceError::Open { .. })));
    assert!(matches!(bench.read("nothing"), Err(SourceError::Open { .. })));
}

#[test]
fn size_is_bounded() {
    let bench = bench();
    std::fs::write(bench.path("token"), "x".repeat(TOKEN_MAX) + "\n").unwrap();
    assert_eq!(bench.read("token").unwrap().len(), TOKEN_MAX);
    std::fs::write(bench.path("token"), "x".repeat(TOKEN_MAX + 1)).unwrap();
    assert!(matches!(bench.read("token"), Err(SourceError::TooLarge(_))));
    let sparse = std::fs::File::create(bench.path("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    assert!(matches!(bench.read("sparse"), Err(SourceError::TooLarge(_))));
    for empty in ["", "\n", "\r\n"] {
        std::fs::write(bench.path("token"), empty).unwrap();
        assert!(matches!(bench.read("token"), Err(SourceError::Empty(_))));
    }
}

#[test]
fn links_stay_in_the_agents_root_and_out_of_other_processes() {
    let bench = bench();
    std::fs::write(bench.path("real"), "t").unwrap();
    symlink(bench.path("real"), bench.path("link")).unwrap();
    assert_eq!(bench.read("link").unwrap(), "t", "rotated tokens are links");
    symlink("../../../../../../../../../..".to_owned() + bench.path("real").to_str().unwrap(), bench.path("up"))
        .unwrap();
    assert_eq!(bench.read("up").unwrap(), "t");
    // A link into another process: its environment, its root, its descriptors.
    let own = std::process::id();
    for target in [format!("/proc/{own}/root{}", bench.path("real").display()), "/proc/self/exe".to_owned()] {
        symlink(&target, bench.path("magic")).unwrap();
        assert!(matches!(bench.read("magic"), Err(SourceError::Open { .. })), "{target}");
        std::fs::remove_file(bench.path("magic")).unwrap();
    }
    symlink("loop", bench.path("loop")).unwrap();
    assert!(matches!(bench.read("loop"), Err(SourceError::Open { .. })));
}

#[test]
fn files_are_read_with_the_agents_rights() {
    if !Uid::effective().is_root() {
        // Rights of another uid cannot be taken; then nothing may be read for it at all.
        let mut bench = bench();
        std::fs::write(bench.path("token"), "t").unwrap();
        bench.facts = facts(Uid::from_raw(54_321), Gid::from_raw(54_321));
        assert!(matches!(bench.read("token"), Err(SourceError::Open { .. })));
        return;
    }
    let mut bench = bench();
    let (uid, gid) = (Uid::from_raw(54_321), Gid::from_raw(54_322));
    bench.facts = facts(uid, gid);
    let mode = |bits| std::fs::set_permissions(bench.path("token"), std::fs::Permissions::from_mode(bits)).unwrap();
    std::fs::write(bench.path("token"), "t").unwrap();
    mode(0o640);
    assert!(matches!(bench.read("token"), Err(SourceError::Open { .. })), "root's, closed to the agent");
    mode(0o644);
    assert_eq!(bench.read("token").unwrap(), "t");
    nix::unistd::chown(&bench.path("token"), None, Some(gid)).unwrap();
    mode(0o640);
    assert_eq!(bench.read("token").unwrap(), "t");
    nix::unistd::chown(&bench.path("token"), Some(uid), Some(Gid::from_raw(0))).unwrap();
    mode(0o400);
    assert_eq!(bench.read("token").unwrap(), "t");
    std::fs::set_permissions(bench.dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(matches!(bench.read("token"), Err(SourceError::Open { .. })), "in a folder that is closed to the agent");
    // And the thread has its own rights back.
    assert_eq!(std::fs::read_to_string(bench.path("token")).unwrap(), "t");
    assert_eq!(setfsuid(Uid::from_raw(0)), Uid::from_raw(0));
    assert_eq!(setfsgid(Gid::from_raw(0)), Gid::from_raw(0));
}

#[test]
fn files_are_those_of_the_agents_mount_namespace() {
    if !Uid::effective().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(dir.path().join("token"), "outside").unwrap();
    let script = "mount -t tmpfs none \"$0\" && printf inside > \"$0/token\" && echo ready && exec sleep 60";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(dir.path());
    let mut child = started(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut ready = [0u8; 6];
    child.0.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    let process = Process::open(child.0.id()).unwrap();
    let source = Source::File(dir.path().join("token").to_str().unwrap().to_owned());
    let token = fetch(&source, "bot", &process, &facts(Uid::from_raw(54_321), Gid::from_raw(54_321)), None).unwrap();
    assert_eq!(token.expose_str(), Some("inside"));
    assert_eq!(std::fs::read_to_string(dir.path().join("token")).unwrap(), "outside");
}

#[test]
fn the_environment_is_that_of_the_start() {
    let mut command = Command::new("/bin/sleep");
    command.arg("60").env_clear().env("AGENT_TOKEN_OLD", "wrong").env("AGENT_TOKEN", "a.b=c").env("EMPTY", "");
    let child = started(command.stdin(Stdio::null()));
    let process = Process::open(child.0.id()).unwrap();
    let facts = facts(Uid::current(), Gid::current());
    let read = |name: &str| {
        let source = Source::Env(name.to_owned());
        fetch(&source, "bot", &process, &facts, None).map(|token| token.expose_str().unwrap().to_owned())
    };
    assert_eq!(read("AGENT_TOKEN").unwrap(), "a.b=c");
    assert!(matches!(read("AGENT"), Err(SourceError::NoVariable(_))));
    assert!(matches!(read("agent_token"), Err(SourceError::NoVariable(_))));
    assert!(matches!(read("EMPTY"), Err(SourceError::Empty(_))));
}

#[test]
fn a_huge_environment_is_refused() {
    let mut command = Command::new("/bin/sleep");
    command.arg("60").env_clear().stdin(Stdio::null());
    for number in 0..40 {
        command.env(format!("PAD{number}"), "x".repeat(8 * 1024));
    }
    let child = started(&mut command);
    let process = Process::open(child.0.id()).unwrap();
    let facts = facts(Uid::current(), Gid::current());
    let error = fetch(&Source::Env("PAD1".to_owned()), "bot", &process, &facts, None).unwrap_err();
    assert!(matches!(error, SourceError::Environment(_)), "{error}");
}

#[test]
fn the_password_is_used_only_where_it_is_asked_for() {
    let bench = bench();
    let secret = Secret::from("a.b.c");
    let taken = fetch(&Source::Connection, "bot", &bench.process, &bench.facts, Some(&secret)).unwrap();
    assert_eq!(taken.expose_str(), Some("a.b.c"));
    let missing = fetch(&Source::Connection, "bot", &bench.process, &bench.facts, None).unwrap_err();
    assert_eq!(missing, SourceError::NotPresented);
}
