//! What `doctor` says of who opens network namespaces of agents: whether there is somebody, and whether he answers.
//!
//! The daemon is asked, since it alone is answered. Where none runs, nothing is started: what would start with it is looked for.

use std::fs;
use std::path::Path;

use crate::admin::client::{self, ClientError};
use crate::capture::{Config, Door, Finding, Verdict};
use crate::cli::block_on;

const NAME: &str = "network namespaces of agents";
const COST: &str = "a daemon without CAP_SYS_ADMIN listens in none of them: what containers connect stays refused";
const REMEDY: &str =
    "systemctl restart interceptor-namespaces.socket, and then: systemctl status interceptor-namespaces";

/// The unit, and where it may be: the first that is there counts, as systemd has it.
const UNIT: &str = "interceptor-namespaces.socket";
const UNITS: &[&str] = &[
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Looks.
///
/// # Errors
/// When this process cannot ask anything.
pub(super) fn finding(socket: &Path, config: &Config) -> Result<Finding, String> {
    if config.namespaces == 0 {
        return Ok(ok("none are opened: [capture] namespaces = 0"));
    }
    let asked = block_on(client::get::<Door>(socket, "/v1/namespaces/door"))?;
    Ok(match asked {
        Ok(Door::Own) => ok("the daemon opens them"),
        Ok(Door::Kept) => ok("interceptor-namespaces opens them, and answers"),
        Ok(Door::Shut(why)) => weak(format!("nobody opens them: {why}")),
        Err(ClientError::Unreachable { .. }) => without(Path::new("/"), config),
        Err(error) => weak(error.to_string()),
    })
}

/// Where no daemon runs.
fn without(root: &Path, config: &Config) -> Finding {
    let at = config.namespaces_socket.display();
    if config.namespaces_socket.exists() {
        return ok(&format!("{at} is there; no daemon runs that would ask"));
    }
    let below = |folder: &&str| root.join(folder.trim_start_matches('/')).join(UNIT);
    let unit = UNITS.iter().map(below).find(|path| fs::symlink_metadata(path).is_ok());
    match unit {
        // One that is masked leads to a device.
        Some(unit) if unit.is_file() => ok(&format!("{UNIT} starts with the daemon, which does not run")),
        Some(unit) => weak(format!("{} is masked", unit.display())),
        None => weak(format!("neither {at} nor {UNIT} is there")),
    }
}

fn ok(detail: &str) -> Finding {
    let (name, cost, remedy) = (NAME.to_owned(), String::new(), String::new());
    Finding { name, verdict: Verdict::Ok, detail: detail.to_owned(), cost, remedy }
}

fn weak(detail: String) -> Finding {
    Finding { name: NAME.to_owned(), verdict: Verdict::Weak, detail, cost: COST.to_owned(), remedy: REMEDY.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_daemon_what_would_start_with_it_is_looked_for() {
        let root = tempfile::tempdir().unwrap();
        let config = Config { namespaces_socket: root.path().join("door.sock"), ..Config::default() };
        let found = || without(root.path(), &config);
        assert!(found().verdict == Verdict::Weak && found().detail.contains("neither"), "{:?}", found());
        let packaged = root.path().join("usr/lib/systemd/system");
        fs::create_dir_all(&packaged).unwrap();
        fs::write(packaged.join(UNIT), "[Socket]\n").unwrap();
        assert_eq!(found().verdict, Verdict::Ok);
        let own = root.path().join("etc/systemd/system");
        fs::create_dir_all(&own).unwrap();
        std::os::unix::fs::symlink("/dev/null", own.join(UNIT)).unwrap();
        assert!(found().verdict == Verdict::Weak && found().detail.contains("masked"), "{:?}", found());
        fs::write(&config.namespaces_socket, "").unwrap();
        assert!(found().verdict == Verdict::Ok && found().detail.contains("no daemon runs"), "{:?}", found());
    }

    #[test]
    fn where_none_are_to_be_opened_nobody_is_asked() {
        let found = finding(Path::new("/nonexistent"), &Config { namespaces: 0, ..Config::default() }).unwrap();
        assert_eq!(found.verdict, Verdict::Ok);
    }
}
