//! Another signing key for the same spool.
//!
//! The key of so far says which one follows, and signs that; the next segment is the new key's. Who trusts the first key so
//! learns of all that follow: `verify` needs no other. The old private key is removed, so that whoever takes over this host
//! later cannot sign what is past. Not promised: that a file system keeps nothing of a file that is removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::key::{self, KeyError, PublicKey, SigningKey};
use super::spool::Spool;
use super::{Config, Files, OpenError};
use crate::clock::Clock;

/// What has been done.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// Who signed so far.
    pub from: PublicKey,
    /// Who signs from now on.
    pub to: PublicKey,
    /// Where the public key of so far is kept; none where the keys were not touched.
    pub kept: Option<PathBuf>,
}

/// Has another key sign from now on. Nobody else may write to the spool meanwhile. The new key is made, and takes the place of
/// the old one; or it is the one at `to`, and the configuration has to name that before the next start.
///
/// # Errors
/// Where a key or the spool cannot be read or written. It can be called again: what was begun is finished.
pub fn rotate(config: &Config, clock: Arc<dyn Clock>, to: Option<&Path>) -> Result<Rotated, OpenError> {
    let failed = OpenError::io("cannot go on in", &config.spool);
    let sink = Files::new(config.spool.clone());
    let (mut spool, recovered) = Spool::open(config, Arc::clone(&clock), Box::new(sink))?;
    let place = to.map_or_else(|| next(&config.key), Path::to_path_buf);
    let new = SigningKey::load_or_generate(&place)?;
    let (from, public) = (spool.key().clone(), new.public().clone());
    let told = recovered.map_or(Ok(()), |event| spool.tell(clock.now(), &event));
    told.and_then(|()| spool.hand_over(new)).map_err(failed)?;
    let kept = if to.is_none() { Some(take_place(&config.key, &from)?) } else { None };
    Ok(Rotated { from, to: public, kept })
}

/// The key, and what was found of the spool: where a rotation has broken off after the spool had gone over, it is finished.
pub(super) fn settled<F>(
    path: &Path,
    find: impl Fn(&PublicKey) -> Result<F, OpenError>,
) -> Result<(SigningKey, F), OpenError> {
    publish_again(path)?;
    let key = SigningKey::load_or_generate(path)?;
    match find(key.public()) {
        Err(OpenError::OtherKey { dir, found, ours }) => {
            let next = next(path);
            let is_next = next.exists() && SigningKey::load(&next)?.public().to_string() == found;
            if !is_next {
                return Err(OpenError::OtherKey { dir, found, ours });
            }
            take_place(path, key.public())?;
            let key = SigningKey::load_or_generate(path)?;
            let found = find(key.public())?;
            Ok((key, found))
        }
        found => Ok((key, found?)),
    }
}

/// Where a new key lies until the spool has gone over to it.
fn next(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".next");
    PathBuf::from(name)
}

/// Puts the next key in the place of the old one, which is gone by that; its public key is kept. Gives where.
fn take_place(path: &Path, old: &PublicKey) -> Result<PathBuf, OpenError> {
    let name = old.origin().rsplit('/').next().unwrap_or_default();
    let mut kept = key::public_path(path).into_os_string();
    kept.push(format!(".{name}"));
    let kept = PathBuf::from(kept);
    match fs::write(&kept, format!("{old}\n")) {
        Ok(()) => {}
        Err(source) => return Err(OpenError::io("cannot keep the public key of so far in", &kept)(source)),
    }
    fs::rename(next(path), path).map_err(OpenError::io("cannot put the new key in the place of", path))?;
    publish_again(path)?;
    Ok(kept)
}

/// The public key beside the private one is that of the last key, where a rotation broke off in between.
fn publish_again(path: &Path) -> Result<(), OpenError> {
    let (from, to) = (key::public_path(&next(path)), key::public_path(path));
    let is_due = !next(path).exists() && from.exists();
    if is_due && SigningKey::load(path)?.public() == &PublicKey::load(&from)? {
        fs::rename(&from, &to).map_err(OpenError::io("cannot put the new public key in the place of", &to))?;
    }
    Ok(())
}

/// The public keys of a spool whose signing key is at `path`: that of now, and those of before, which are kept beside it.
///
/// # Errors
/// When one cannot be read.
pub fn public_keys(path: &Path) -> Result<Vec<PublicKey>, KeyError> {
    let now = key::public_path(path);
    let mut keys = vec![PublicKey::load(&now)?];
    let begins = now.file_name().map(|name| format!("{}.", name.to_string_lossy())).unwrap_or_default();
    let beside = now.parent().map(fs::read_dir).transpose().map_err(|source| KeyError::Io {
        what: "look beside",
        path: now.clone(),
        source,
    })?;
    for entry in beside.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.strip_prefix(&begins).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            keys.push(PublicKey::load(&entry.path())?);
        }
    }
    Ok(keys)
}
