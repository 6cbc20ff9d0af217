//! Tests of credentials: each source, each way to fail, and that nothing is shown or fallen back to.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use futures_util::future::BoxFuture;

use super::*;

fn config(password: &str) -> Config {
    toml::from_str(&format!("user = \"orders_rw\"\npassword = {}", toml::Value::from(password))).unwrap()
}

fn file(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

async fn password(password: &str) -> Result<String, String> {
    let lease = config(password).credential().unwrap().lease().await.map_err(|error| error.to_string())?;
    Ok(lease.password.unwrap().expose_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_file_is_read_anew_for_each_session_without_its_line_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pw");
    let place = format!("file:{}", path.display());
    for (content, expected) in [("old\n", "old"), ("new\r\n", "new"), (" two \n\n", " two \n"), ("bare", "bare")] {
        file(&path, content.as_bytes(), 0o600);
        assert_eq!(password(&place).await.unwrap(), expected);
    }
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    assert_eq!(password(&format!("file:{}", link.display())).await.unwrap(), "bare");
}

#[tokio::test]
async fn a_file_that_is_open_missing_empty_or_too_long_is_no_credential() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pw");
    let place = format!("file:{}", path.display());
    assert!(password(&place).await.unwrap_err().contains("no such file"));
    file(&path, b"secret", 0o644);
    assert!(password(&place).await.unwrap_err().contains("chmod o="));
    file(&path, b"\n", 0o600);
    assert!(password(&place).await.unwrap_err().contains("empty"));
    file(&path, b"a\0b", 0o600);
    assert!(password(&place).await.unwrap_err().contains("NUL"));
    file(&path, &vec![b'x'; MAX_PASSWORD], 0o600);
    assert_eq!(password(&place).await.unwrap().len(), MAX_PASSWORD);
    file(&path, &vec![b'x'; MAX_PASSWORD + 1], 0o600);
    assert!(password(&place).await.unwrap_err().contains("more than"));
    file(&path, &vec![b'x'; 1 << 20], 0o600);
    assert!(password(&place).await.unwrap_err().contains("more than"));
}

#[tokio::test]
async fn the_environment_and_plain_text_are_sources() {
    assert_eq!(password("env:CARGO_PKG_NAME").await.unwrap(), "interceptor");
    assert!(password("env:INTERCEPTOR_NO_SUCH_VARIABLE").await.unwrap_err().contains("no such variable"));
    assert_eq!(password("plain:a:b").await.unwrap(), "a:b");
    assert!(password("plain:").await.unwrap_err().contains("empty"));
}

#[tokio::test]
async fn a_systemd_credential_is_a_file_in_the_services_directory() {
    let dir = tempfile::tempdir().unwrap();
    file(&dir.path().join("orders_rw"), b"pw\n", 0o440);
    let fetch = |name: &str, directory: Option<&Path>| source::systemd(name, directory.map(Path::to_owned));
    let lease = Credential::new("u", Some(fetch("orders_rw", Some(dir.path())))).lease().await.unwrap();
    assert_eq!(lease.password.unwrap().expose(), b"pw");
    let missing = Credential::new("u", Some(fetch("orders_rw", None))).lease().await.unwrap_err();
    assert!(missing.to_string().contains("LoadCredential="), "{missing}");
}

#[test]
fn what_is_no_source_is_refused_with_advice_and_not_shown() {
    for literal in ["hunter2", "http:hunter2", "hunter2:", ":hunter2", "", "PLAIN:hunter2"] {
        let config = config(literal);
        let shown = format!("{} {config:?}", config.credential().unwrap_err());
        assert!(shown.contains("LoadCredential"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    for bad in
        ["systemd:", "systemd:..", "systemd:../shadow", "systemd:a/b", "systemd:/etc/shadow", "file:", "file:x", "env:"]
    {
        assert!(matches!(config(bad).credential(), Err(Misconfigured::Name { .. })), "{bad}");
    }
}

/// A complaint of the TOML reader would quote the line.
#[test]
fn a_password_that_is_no_text_is_refused_just_so() {
    for literal in ["314159", "3.14159", "true", "-314159"] {
        let config: Config = toml::from_str(&format!("user = 'a'\npassword = {literal}")).unwrap();
        assert!(matches!(config.credential(), Err(Misconfigured::Literal)));
    }
}

#[test]
fn unknown_keys_and_bad_users_are_refused() {
    assert!(toml::from_str::<Config>("user = \"a\"\npasword = \"file:/x\"").is_err());
    assert!(toml::from_str::<Config>("password = \"file:/x\"").is_err());
    for user in ["", "a\\u0000b", &"x".repeat(MAX_USER + 1)] {
        let config: Config = toml::from_str(&format!("user = \"{user}\"")).unwrap();
        assert!(matches!(config.credential(), Err(Misconfigured::User)));
    }
}

#[tokio::test]
async fn nothing_prints_a_password() {
    let credential = config("plain:hunter2").credential().unwrap();
    let lease = credential.lease().await.unwrap();
    let shown = format!("{credential:?} {lease:?} {:?}", config("plain:hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("orders_rw"));
}

#[tokio::test]
async fn leases_have_ids_of_their_own_and_no_password_where_none_is_configured() {
    let config: Config = toml::from_str("user = \"cert_user\"").unwrap();
    let credential = config.credential().unwrap();
    let (first, second) = (credential.lease().await.unwrap(), credential.lease().await.unwrap());
    assert_ne!(first.id, second.id);
    assert!(first.password.is_none());
    assert_eq!(first.user, "cert_user");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_is_given_up() {
    struct Hung;
    impl SecretSource for Hung {
        fn describe(&self) -> String {
            "hung".into()
        }
        fn fetch(&self) -> BoxFuture<'_, Result<Secret, SourceError>> {
            Box::pin(std::future::pending())
        }
    }
    let outcome = Credential::new("u", Some(Arc::new(Hung))).lease().await;
    assert!(matches!(outcome, Err(Unavailable::TimedOut { .. })));
}

fn program(path: &Path, script: &str) -> String {
    // Not started itself: what another test forks meanwhile may still have it open for writing.
    file(path, script.as_bytes(), 0o600);
    format!("exec:/bin/sh {} first second", path.display())
}

#[tokio::test]
async fn a_program_prints_a_secret_as_it_is_or_as_plugins_of_kubectl_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("make");
    let place = program(&path, "echo \"$1-$2-$HOME-$#\"");
    assert_eq!(password(&place).await.unwrap(), "first-second--2", "its words, and nothing of our environment");
    let place = program(
        &path,
        "echo \"$KUBERNETES_EXEC_INFO\" | grep -q interactive && echo ' {\"kind\":\"ExecCredential\",\"status\":{\"token\":\"t0ken\"}}'",
    );
    assert_eq!(password(&place).await.unwrap(), "t0ken");
    for (script, why) in [
        ("echo secret; exit 3", "exit status: 3"),
        ("head -c 70000 /dev/zero | tr '\\0' x", "more than"),
        ("true", "empty"),
        ("echo '{\"status\":{}}'", "no ExecCredential with a token"),
        ("echo '{\"status\":{\"token\":\"a\",\"expirationTimestamp\":\"soon\"}}'", "no ExecCredential with a token"),
        ("echo '{'", "no ExecCredential with a token"),
    ] {
        let place = program(&path, script);
        let said = password(&place).await.unwrap_err();
        assert!(said.contains(why) && !said.contains("secret;") && !said.contains("second"), "{script}: {said}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o722)).unwrap();
    assert!(password(&format!("exec:{}", path.display())).await.unwrap_err().contains("0722"));
    assert!(config("exec:make").credential().is_err() && config("exec:").credential().is_err());
}

#[tokio::test]
async fn a_program_that_hangs_is_not_started_again_beside_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("make");
    let credential = config(&program(&path, "exec sleep 20")).credential().unwrap();
    tokio::time::timeout(Duration::from_millis(100), credential.lease()).await.unwrap_err();
    // It is ended, and only then another is started.
    file(&path, b"echo done", 0o600);
    let made = loop {
        match credential.lease().await {
            Ok(lease) => break lease,
            Err(error) => assert!(error.to_string().contains("has not ended yet"), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(made.password.unwrap().expose(), b"done");
}

#[tokio::test]
async fn a_secret_that_says_until_when_it_is_good_is_kept_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("make");
    let count = dir.path().join("count");
    for (until, runs) in [("2999-01-01T00:00:00Z", 1), ("2000-01-01T00:00:00Z", 3)] {
        fs::write(&count, "").unwrap();
        let script = format!(
            "echo x >> {}; echo '{{\"status\":{{\"token\":\"t\",\"expirationTimestamp\":\"{until}\"}}}}'",
            count.display()
        );
        let credential = config(&program(&path, &script)).credential().unwrap();
        for _ in 0..3 {
            assert_eq!(credential.lease().await.unwrap().password.unwrap().expose(), b"t");
        }
        assert_eq!(fs::read_to_string(&count).unwrap().lines().count(), runs, "{until}");
    }
}
