//! Programs that make secrets: who could exchange them, what they leave behind, and what they print.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;
use std::time::Duration;

use super::guarded::guarded;
use super::*;
use crate::credential::{Config, Credential, Lease};

fn credential(words: &str) -> Credential {
    let place = toml::Value::from(format!("exec:{words}"));
    toml::from_str::<Config>(&format!("user = \"u\"\npassword = {place}")).unwrap().credential().unwrap()
}

/// A credential from a shell that runs this.
fn shell(directory: &Path, script: &str) -> Credential {
    let path = directory.join("make");
    fs::write(&path, script).unwrap();
    credential(&format!("/bin/sh {}", path.display()))
}

async fn lease(credential: &Credential) -> Result<Lease, String> {
    credential.lease().await.map_err(|error| error.to_string())
}

fn password(lease: &Lease) -> &str {
    lease.password.as_ref().and_then(Secret::expose_str).unwrap()
}

/// Waits until a process is gone whose number a script has written down.
async fn gone(noted: &Path) {
    let pid = fs::read_to_string(noted).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    for _ in 0..2000 {
        match fs::read_to_string(&stat) {
            Ok(text) if !text.contains(") Z ") => tokio::time::sleep(Duration::from_millis(5)).await,
            _ => return,
        }
    }
    panic!("{pid} is still there");
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_not_waited_for_and_ended() {
    let directory = tempfile::tempdir().unwrap();
    let noted = directory.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; echo s3cret", noted.display());
    // Who waited for it would wait too long.
    assert_eq!(password(&lease(&shell(directory.path(), &script)).await.unwrap()), "s3cret");
    gone(&noted).await;
}

#[tokio::test]
async fn what_leaves_the_group_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let noted = directory.path().join("pid");
    let script = format!(
        "setsid sh -c 'echo $$ > {0}; exec sleep 600' & until [ -s {0} ]; do :; done; echo s3cret",
        noted.display()
    );
    let made = lease(&shell(directory.path(), &script)).await;
    let pid = fs::read_to_string(&noted).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(password(&made.unwrap()), "s3cret");
}

#[tokio::test]
async fn a_program_that_is_given_up_is_ended_with_all_that_it_has_started() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("first"), directory.path().join("second"));
    let script = format!("echo $$ > {}; sleep 600 & echo $! > {}; sleep 600", first.display(), second.display());
    let credential = shell(directory.path(), &script);
    let given_up = async {
        while !fs::read_to_string(&second).is_ok_and(|text| text.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        made = credential.lease() => panic!("{made:?}"),
        () = given_up => {}
    }
    gone(&first).await;
    gone(&second).await;
}

#[tokio::test]
async fn a_program_that_prints_without_end_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let noted = directory.path().join("pid");
    let script = format!("echo $$ > {}; exec yes", noted.display());
    assert!(lease(&shell(directory.path(), &script)).await.unwrap_err().contains("more than"));
    gone(&noted).await;
}

#[tokio::test]
async fn a_program_that_closes_its_output_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let error = lease(&shell(directory.path(), "echo s3cret; exec >&-; sleep 0.1; exit 7")).await.unwrap_err();
    assert!(error.contains("exit status: 7"), "{error}");
}

#[test]
fn whoever_could_exchange_the_program_is_found() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/b/program"), "").unwrap();
    mode(&at("a/b/program"), 0o755);
    symlink(at("a/b"), at("link")).unwrap();
    symlink("../link/program", at("a/relative")).unwrap();
    symlink(at("loop"), at("loop")).unwrap();
    let all = ["a/b/program", "link/program", "a/relative", "a/../link/./program"];
    let check = |name: &str| guarded(&at(name)).map_err(|error| error.to_string());
    for name in all {
        check(name).unwrap();
    }
    assert!(check("loop").unwrap_err().contains("loop leads to"));
    assert!(check("a/b").is_err() && check("a/b/none").is_err() && check("a/b/program/x").is_err());
    for folder in ["a", "a/b"] {
        for (open, refused) in [(0o775, true), (0o757, true), (0o777, true), (0o1777, false)] {
            mode(&at(folder), open);
            let said = check("a/b/program");
            assert_eq!(said.is_err(), refused, "{folder} {open:o}: {said:?}");
            assert!(!refused || said.unwrap_err().contains(&format!("{} leads to", at(folder).display())));
        }
        mode(&at(folder), 0o755);
        chown(at(folder), Some(12_345), None).unwrap();
        for name in all {
            assert!(check(name).unwrap_err().contains("others than root"), "{name}");
        }
        chown(at(folder), Some(0), None).unwrap();
    }
    lchown(at("link"), Some(12_345), None).unwrap();
    assert!(check("link/program").is_err() && check("a/relative").is_err());
    check("a/b/program").unwrap();
    chown(at("a/b/program"), Some(12_345), None).unwrap();
    assert!(check("a/b/program").unwrap_err().contains("uid 12345"));
}

const KEYS: &str = r#"{"Version": 1, "AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "the-secret-key", "SessionToken": "the-session-token", "Expiration": "2999-01-01T00:00:00Z"}"#;

#[tokio::test]
async fn keys_of_aws_are_for_those_that_sign() {
    let directory = tempfile::tempdir().unwrap();
    let signs = shell(directory.path(), &format!("echo '{KEYS}'")).signing(true);
    let made = lease(&signs).await.unwrap();
    assert_eq!((made.user.as_str(), password(&made)), ("ASIAEXAMPLE", "the-secret-key"));
    assert_eq!(made.session.as_ref().and_then(Secret::expose_str), Some("the-session-token"));
    assert!(made.until.is_some() && !format!("{made:?}").contains("the-se"), "{made:?}");
    // Kept, as it says until when it is good.
    fs::write(directory.path().join("make"), "exit 1").unwrap();
    assert_eq!(lease(&signs).await.unwrap().user, "ASIAEXAMPLE");
    let long = r#"{"Version": 1, "AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "the-secret-key"}"#;
    let made = lease(&shell(directory.path(), &format!("echo '{long}'")).signing(true)).await.unwrap();
    assert!(made.session.is_none() && made.until.is_none());

    let shown = shell(directory.path(), &format!("echo '{KEYS}'"));
    let error = lease(&shown).await.unwrap_err();
    assert!(error.contains("sigv4") && !error.contains("the-se"), "{error}");
    let exec = Exec::parse(&format!("/bin/sh {}/make", directory.path().display())).unwrap();
    assert!(matches!(exec.fetch().await, Err(SourceError::Keys)));
    // A secret key of one's own, printed as it is, signs with the configured user.
    let made = lease(&shell(directory.path(), "echo the-secret-key").signing(true)).await.unwrap();
    assert_eq!((made.user.as_str(), password(&made)), ("u", "the-secret-key"));
}

#[tokio::test]
async fn what_are_no_keys_is_refused_and_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("\"Version\": 1", "\"Version\": 2"),
        ("\"Version\": 1, ", ""),
        ("ASIAEXAMPLE", ""),
        ("ASIAEXAMPLE", "A B"),
        ("ASIAEXAMPLE", "A, SignedHeaders=x"),
        ("the-secret-key", ""),
        ("the-session-token", ""),
        ("the-session-token", "a b"),
        ("the-session-token", "a\\nX-Admin: 1"),
        ("2999-01-01T00:00:00Z", "soon"),
        ("\"SecretAccessKey\"", "\"secretAccessKey\""),
    ] {
        let printed = KEYS.replacen(from, to, 1);
        assert_ne!(printed, KEYS);
        let path = directory.path().join("printed");
        fs::write(&path, printed).unwrap();
        let error = lease(&credential(&format!("/bin/cat {}", path.display())).signing(true)).await.unwrap_err();
        assert!(!error.contains("the-se"), "{error}");
    }
    let path = directory.path().join("printed");
    fs::write(&path, KEYS.replace("the-session-token", &"x".repeat(9000))).unwrap();
    assert!(lease(&credential(&format!("/bin/cat {}", path.display())).signing(true)).await.is_err());
}
