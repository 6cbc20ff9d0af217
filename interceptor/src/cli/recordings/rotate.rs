//! `interceptor recordings rotate-key`: another key signs from now on.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

use super::{RecordingsError, json_line};
use crate::clock::SystemClock;
use crate::record::Config;
use crate::record::rotation::{self, Rotated};

pub(super) fn run(config: &Config, to: Option<&Path>, json: bool, out: &mut impl Write) -> Result<(), RecordingsError> {
    act_as_owner(&config.spool).map_err(|source| RecordingsError::Owner { path: config.spool.clone(), source })?;
    let Rotated { from, to, kept } = rotation::rotate(config, Arc::new(SystemClock::new()), to)?;
    if json {
        return json_line(&serde_json::json!({ "from": from.to_string(), "to": to.to_string(), "kept": kept }), out);
    }
    writeln!(out, "signed so far by    {from}")?;
    writeln!(out, "from now on by      {to}")?;
    match kept {
        Some(kept) => writeln!(out, "the private key of so far is removed; its public key is in {}", kept.display())?,
        None => writeln!(out, "have [record] key name the new one before the daemon starts, and remove the old one")?,
    }
    Ok(())
}

/// What is written has to be the daemon's: root writes as who owns the spool.
pub(super) fn act_as_owner(spool: &Path) -> io::Result<()> {
    let owner = fs::metadata(spool)?;
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    if geteuid().is_root() && !uid.is_root() {
        setgroups(&[gid])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    Ok(())
}
