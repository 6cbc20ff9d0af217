//! `interceptor prepare`: what has to be done as root before the daemon runs as a user of its own.
//!
//! It runs in the daemon's cgroup, before each start: makes the governed cgroups, attaches the kernel programs of this
//! version to them, gives the daemon's user what it writes to, and brings the certificate authorities that agents are pointed
//! to up to date. Afterwards the daemon needs none of these privileges.
//! Of what opens network namespaces for the daemon (`interceptor namespaces`), it prepares the cgroup.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::User;

use super::{Context, Printer};
use crate::identity::level::Registry;
use crate::tls::authority::{self, AuthorityError, Store};
use crate::{capture, launch};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// User that the daemon runs as
    #[arg(long, value_name = "USER", default_value = "interceptor")]
    user: String,
    /// For `interceptor namespaces` instead, in its cgroup, while the daemon runs
    #[arg(long)]
    namespaces: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("prepare needs root: it makes cgroups, and attaches kernel programs".to_owned());
    }
    let config = context.configuration()?;
    if arguments.namespaces {
        capture::prepare_doorkeeper(&config.capture).map_err(|error| error.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let user = user(&arguments.user)?;
    let governed = capture::prepare(&config.capture, Some(user.gid.as_raw())).map_err(|error| error.to_string())?;
    let launched = Registry::beside(&config.admin.socket, &config.capture.pin_directory).launched;
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("{path}: {error}")
    };
    DirBuilder::new().recursive(true).mode(0o755).create(&launched).map_err(failed(&launched))?;
    launch::sweep(&launched).map_err(failed(&launched))?;
    for directory in [Some(&*config.record.spool), Some(&*config.approval.state), config.record.key.parent()] {
        let Some(directory) = directory else { continue };
        give(directory, &user).map_err(failed(directory))?;
    }
    if let Some(words) = config.ca.as_ref().and_then(trusted) {
        out.line(&words)?;
    }
    out.line(&format!("{} cgroups are governed", governed.len()))?;
    Ok(ExitCode::SUCCESS)
}

/// Brings the bundle that agents are pointed to up to date: the host CA, or the system's authorities, may be others since. Says
/// what there is to say. A bundle that stays as it was keeps nobody from being governed.
fn trusted(ca: &authority::Config) -> Option<String> {
    let store = Store::new(ca);
    let path = store.bundle_path();
    match store.refresh_bundle() {
        Ok(true) => Some(format!("{} is written anew", path.display())),
        // There is none yet: the daemon says how to make one.
        Ok(false) | Err(AuthorityError::Missing(_)) => None,
        Err(error) => Some(format!("{} stays as it was: {error}", path.display())),
    }
}

/// A user by name.
pub(super) fn user(name: &str) -> Result<User, String> {
    let found = User::from_name(name).map_err(|error| format!("user {name}: {error}"))?;
    found.ok_or_else(|| format!("there is no user {name}; systemd-sysusers makes it"))
}

/// Makes a directory, and gives it with the files in it to the user, where it is root's. What is in a directory that
/// somebody else can write to is left alone: it could be a link to anything.
fn give(directory: &Path, user: &User) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let found = fs::symlink_metadata(directory)?;
    if found.uid() != 0 || found.mode() & 0o022 != 0 || user.uid.is_root() {
        return Ok(());
    }
    let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_file() {
            lchown(&path, uid, gid)?;
        }
    }
    lchown(directory, uid, gid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn what_is_roots_is_given_and_what_others_can_write_to_is_left_alone() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let user = User { uid: 54_321.into(), gid: 54_322.into(), ..User::from_uid(0.into()).unwrap().unwrap() };
        let root = tempfile::tempdir().unwrap();
        let owner = |name: &str| fs::symlink_metadata(root.path().join(name)).map(|found| found.uid()).unwrap();
        give(&root.path().join("new"), &user).unwrap();
        assert_eq!(owner("new"), 54_321);
        fs::write(root.path().join("new/planted"), "").unwrap();
        give(&root.path().join("new"), &user).unwrap();
        assert_eq!(owner("new/planted"), 0);
        fs::create_dir(root.path().join("old")).unwrap();
        fs::write(root.path().join("old/segment"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("old/link")).unwrap();
        give(&root.path().join("old"), &user).unwrap();
        assert_eq!(["old", "old/segment", "old/link"].map(owner), [54_321, 54_321, 0]);
    }

    #[test]
    fn what_agents_trust_follows_the_host_ca_and_the_system() {
        let root = tempfile::tempdir().unwrap();
        let ca = authority::Config { dir: root.path().join("ca") };
        let store = Store::new(&ca);
        let bundle = || fs::read_to_string(store.bundle_path()).unwrap();
        assert_eq!(trusted(&ca), None, "there is no host CA");
        let (names, now) = ([authority::Name::parse("db.internal").unwrap()], Timestamp::from_unix(1_800_000_000));
        store.init("h", &names, None, now).unwrap();
        assert!(trusted(&ca).is_some_and(|words| words.ends_with("bundle.pem is written anew")));
        assert_eq!(trusted(&ca), None, "it is as it should be");
        let first = bundle();
        // The system's were others when it was written.
        fs::write(store.bundle_path(), format!("# old\n{}", store.certificates().unwrap()[0].pem())).unwrap();
        assert!(trusted(&ca).is_some());
        assert_eq!(bundle(), first);
        store.begin("h", &names, None, now).unwrap();
        assert!(trusted(&ca).is_some());
        assert!(store.certificates().unwrap().iter().all(|one| bundle().contains(&one.pem())));
        fs::write(store.certificates_path(), "no certificate").unwrap();
        assert!(trusted(&ca).is_some_and(|words| words.contains("stays as it was")));
        assert!(bundle().starts_with(&first));
    }
}
