//! Tests of facts with real processes: reuse, exit, moves, replaced executables, and what names may look like.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::super::level::Registry;
use super::*;
use crate::clock::{ManualClock, SystemClock, Timestamp};

/// A child that is ended when dropped.
pub(in crate::identity) struct Running(pub(in crate::identity) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

pub(in crate::identity) fn run(program: &Path, arguments: &[&str]) -> Running {
    started(Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()))
}

/// Starts a child and waits until it runs its program: `spawn` returns when `execve` is only half done. A fork in
/// another test may hold a program that was just copied open for writing: then the start is tried again.
pub(in crate::identity) fn started(command: &mut Command) -> Running {
    let pause = || std::thread::sleep(Duration::from_millis(5));
    let child = (0..200).find_map(|_| match command.spawn() {
        Ok(child) => Some(child),
        Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => {
            pause();
            None
        }
        Err(error) => panic!("{error}"),
    });
    let child = Running(child.unwrap());
    let environment = format!("/proc/{}/environ", child.0.id());
    while std::fs::read(&environment).unwrap().is_empty() {
        pause();
    }
    child
}

/// What the kernel would record of this process; cgroup 7 is where it lives.
pub(in crate::identity) fn origin_of(pid: u32, uid: u32, gid: u32) -> Origin {
    Origin {
        destination: "192.0.2.1:5432".parse().unwrap(),
        pid,
        tid: pid,
        uid,
        gid,
        cgroup: 7,
        current_cgroup: 7,
        start_boottime: Process::open(pid).unwrap().start_ticks() * TICK_NANOS + 1_234_567,
        netns: 1,
        socket: 1,
        comm: "agent".to_owned(),
    }
}

fn hasher() -> Hasher {
    Hasher::new(Arc::new(SystemClock::new()))
}

fn path_of(id: u64) -> io::Result<String> {
    match id {
        7 => Ok("/agents.slice/billing.service".to_owned()),
        _ => Err(io::Error::from_raw_os_error(libc::ESTALE)),
    }
}

fn facts_of(origin: &Origin) -> Result<(Process, ProcessFacts), FactsError> {
    gather(origin, (&path_of, &Registry::default()), &hasher(), &|_| true)
}

fn copied(dir: &Path, name: &str) -> std::path::PathBuf {
    let program = dir.join(name);
    std::fs::copy("/bin/sleep", &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn a_live_process_has_all_facts() {
    let child = run(Path::new("/bin/sleep"), &["60"]);
    let (process, facts) = facts_of(&origin_of(child.0.id(), 4242, 4343)).unwrap();
    assert_eq!((facts.uid, facts.gid), (4242, 4343), "the kernel's record counts, not /proc");
    assert_eq!(facts.cgroup, "/agents.slice/billing.service");
    assert_eq!(facts.unit.as_deref(), Some("billing.service"));
    let content = std::fs::read(facts.exe.as_deref().unwrap()).unwrap();
    assert_eq!(facts.exe_sha256, Some(hex(&Sha256::digest(&content))));
    let own = std::env::current_exe().unwrap();
    assert_eq!(facts.ancestry.first().map(String::as_str), own.to_str());
    assert!(facts.ancestry.len() <= ANCESTRY_MAX);
    process.alive().unwrap();
}

#[test]
fn a_reused_id_is_refused() {
    let child = run(Path::new("/bin/sleep"), &["60"]);
    let mut origin = origin_of(child.0.id(), 1, 1);
    origin.start_boottime -= 10 * TICK_NANOS;
    assert!(matches!(facts_of(&origin), Err(FactsError::Reused { .. })));
    origin.start_boottime = 0;
    assert!(matches!(facts_of(&origin), Err(FactsError::NoStartTime(_))));
}

#[test]
fn an_ended_process_is_refused_also_through_its_pin() {
    let mut child = run(Path::new("/bin/sleep"), &["60"]);
    let origin = origin_of(child.0.id(), 1, 1);
    let (process, _) = facts_of(&origin).unwrap();
    child.0.kill().unwrap();
    // A zombie still has its directory; it is no caller any more.
    while stat_of(process.dir(), process.pid()).unwrap().state != 'Z' {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(matches!(process.alive(), Err(FactsError::Gone(_))));
    child.0.wait().unwrap();
    assert!(matches!(process.alive(), Err(FactsError::Gone(_))));
    assert!(process.read("environ", 10).is_err());
    assert!(matches!(facts_of(&origin), Err(FactsError::Gone(_) | FactsError::Reused { .. })));
}

#[test]
fn cgroups_come_from_the_record() {
    let child = run(Path::new("/bin/sleep"), &["60"]);
    let mut origin = origin_of(child.0.id(), 1, 1);
    origin.current_cgroup = 8;
    let error = facts_of(&origin).unwrap_err().to_string();
    assert!(error.contains("made in cgroup /agents.slice/billing.service and used from cgroup id 8"), "{error}");
    (origin.cgroup, origin.current_cgroup) = (9, 9);
    assert!(matches!(facts_of(&origin), Err(FactsError::Cgroup { id: 9, .. })));
}

#[test]
fn a_removed_executable_is_hashed_but_has_no_honest_path() {
    let dir = tempfile::tempdir().unwrap();
    let program = copied(dir.path(), "agent");
    let child = run(&program, &["60"]);
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "another file at the same path").unwrap();
    let (_, facts) = facts_of(&origin_of(child.0.id(), 1, 1)).unwrap();
    assert!(facts.exe.unwrap().ends_with(" (deleted)"));
    let content = std::fs::read("/bin/sleep").unwrap();
    assert_eq!(facts.exe_sha256, Some(hex(&Sha256::digest(&content))), "what runs, not what lies at its path");
}

/// Gathers facts of a shell that becomes another program after the first look at its executable, before its hash.
fn gather_while_replaced(shell: &Path, wants_hash: bool) -> Result<(Process, ProcessFacts), FactsError> {
    let mut child = run(shell, &["-c", "read line; exec /bin/sleep 60"]);
    let origin = origin_of(child.0.id(), 1, 1);
    let stdin = Mutex::new(child.0.stdin.take());
    let link = format!("/proc/{}/exe", origin.pid);
    let before = std::fs::read_link(&link).unwrap();
    let swap = |_: &ProcessFacts| {
        drop(stdin.lock().take());
        while std::fs::read_link(&link).unwrap() == before {
            std::thread::sleep(Duration::from_millis(2));
        }
        wants_hash
    };
    gather(&origin, (&path_of, &Registry::default()), &hasher(), &swap)
}

#[test]
fn an_executable_replaced_while_it_is_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("shell");
    std::fs::copy("/bin/sh", &own).unwrap();
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o777)).unwrap();
    for (shell, wants_hash) in [(Path::new("/bin/sh"), true), (&own, true), (&own, false)] {
        let result = gather_while_replaced(shell, wants_hash);
        assert!(matches!(result, Err(FactsError::ExeChanged(_))), "{} {wants_hash}: {result:?}", shell.display());
    }
}

#[test]
fn the_file_that_is_hashed_is_the_one_that_was_seen() {
    let child = run(Path::new("/bin/sleep"), &["60"]);
    let process = Process::open(child.0.id()).unwrap();
    let seen = process.exe_stat().unwrap();
    assert!(hasher().hash(&process, Some(&seen)).unwrap().is_some());
    let other = Process::open(std::process::id()).unwrap().exe_stat().unwrap();
    assert!(matches!(hasher().hash(&process, Some(&other)), Err(FactsError::ExeChanged(_))));
}

#[test]
fn a_process_that_ends_while_it_is_read_is_gone() {
    let mut child = run(Path::new("/bin/sleep"), &["60"]);
    let origin = origin_of(child.0.id(), 1, 1);
    child.0.stdin = None;
    let child = Mutex::new(child);
    let end = |_: &ProcessFacts| {
        child.lock().0.kill().unwrap();
        child.lock().0.wait().unwrap();
        true
    };
    assert!(matches!(gather(&origin, (&path_of, &Registry::default()), &hasher(), &end), Err(FactsError::Gone(_))));
}

#[test]
fn only_what_root_alone_can_change_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let program = copied(dir.path(), "agent");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o775)).unwrap();
    let hasher = hasher();
    let child = run(&program, &["60"]);
    gather(&origin_of(child.0.id(), 1, 1), (&path_of, &Registry::default()), &hasher, &|_| true).unwrap();
    assert_eq!(hasher.remembered(), 0, "writable by its group");
    let system = run(Path::new("/bin/sleep"), &["60"]);
    let origin = origin_of(system.0.id(), 1, 1);
    gather(&origin, (&path_of, &Registry::default()), &hasher, &|_| false).unwrap();
    assert_eq!(hasher.remembered(), 1);
    gather(&origin, (&path_of, &Registry::default()), &hasher, &|_| false).unwrap();
    assert_eq!(hasher.remembered(), 1);
}

#[test]
fn what_changed_just_now_is_not_remembered() {
    let system = run(Path::new("/bin/sleep"), &["60"]);
    let changed = std::os::unix::fs::MetadataExt::ctime(&std::fs::metadata("/bin/sleep").unwrap());
    let hasher = Hasher::new(Arc::new(ManualClock::at(Timestamp::from_unix(changed + 1))));
    gather(&origin_of(system.0.id(), 1, 1), (&path_of, &Registry::default()), &hasher, &|_| true).unwrap();
    assert_eq!(hasher.remembered(), 0);
}

#[test]
fn what_an_agent_owns_is_hashed_only_when_it_matters() {
    let dir = tempfile::tempdir().unwrap();
    let program = copied(dir.path(), "agent");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o777)).unwrap();
    let child = run(&program, &["60"]);
    let (_, facts) =
        gather(&origin_of(child.0.id(), 1, 1), (&path_of, &Registry::default()), &hasher(), &|_| false).unwrap();
    assert_eq!(facts.exe_sha256, None);
}

#[test]
fn names_cannot_shift_the_fields_of_stat() {
    let tail = "S 77 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 304204 0 0";
    for name in ["agent", "a) S 1 1", "x) R 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1", ")", "(("] {
        let stat = Stat::parse(&format!("42 ({name}) {tail}")).unwrap();
        assert_eq!(stat, Stat { state: 'S', parent: 77, start: 304_204 }, "{name}");
    }
    for broken in ["", "42", "42 (a", "42 (a) S", "42 (a) S 1 2 3", "42 (a) S x 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 9"]
    {
        assert_eq!(Stat::parse(broken), None, "{broken}");
    }
}

#[test]
fn units_are_what_the_system_manager_made() {
    for (cgroup, unit) in [
        ("/agents.slice/billing.service", Some("billing.service")),
        ("/agents.slice/agents-a.slice/run-1.scope", Some("run-1.scope")),
        ("/system.slice/sshd.service/child", Some("sshd.service")),
        // A unit that may make cgroups below its own names them as it likes.
        ("/agents.slice/evil.service/billing.service", Some("evil.service")),
        ("/user.slice/user-1.slice/user@1.service/app.slice/x.service", Some("user@1.service")),
        ("/agents.slice/_cpu.service", Some("cpu.service")),
        (r"/agents.slice/b\x2dc@1.service", Some(r"b\x2dc@1.service")),
        ("/agents.slice/container/billing.service", None),
        ("/billing.service", Some("billing.service")),
        ("/agents.slice", None),
        ("/.service", None),
        ("/", None),
        ("", None),
    ] {
        assert_eq!(unit_of(cgroup).as_deref(), unit, "{cgroup}");
    }
}
