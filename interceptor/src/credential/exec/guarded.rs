//! Whether nobody but root and the daemon's user could have put a program where it is, or could exchange it.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use crate::credential::source::SourceError;
use crate::secret::Unreadable;

/// Links that a path may lead through.
const LINKS: usize = 32;
/// Steps that it may have, with those of its links.
const STEPS: usize = 512;

/// Looks at a program, every folder above it, and every link that leads to it. Blocks.
///
/// A folder that others may write to will do where they can exchange nothing of others in it (`/tmp`).
///
/// # Errors
/// Somebody else could have written or exchanged it.
pub(super) fn guarded(program: &Path) -> Result<(), SourceError> {
    let mut ahead: Vec<Component<'_>> = program.components().collect();
    ahead.reverse();
    let mut ahead: Vec<OsString> = ahead.into_iter().map(|step| step.as_os_str().to_owned()).collect();
    let (mut here, mut links, mut steps) = (PathBuf::from("/"), 0, 0);
    while let Some(step) = ahead.pop() {
        steps += 1;
        if steps > STEPS {
            return Err(SourceError::Place(here));
        }
        let next = here.join(&step);
        match step.to_str() {
            Some(".") => continue,
            Some("..") => {
                here.pop();
                continue;
            }
            _ => {}
        }
        let facts = fs::symlink_metadata(&next).map_err(Unreadable::Io)?;
        owned(&next, &facts, ahead.is_empty())?;
        if facts.is_symlink() {
            links += 1;
            if links > LINKS {
                return Err(SourceError::Place(next));
            }
            let leads = fs::read_link(&next).map_err(Unreadable::Io)?;
            ahead.extend(leads.components().rev().map(|step| step.as_os_str().to_owned()));
        } else if ahead.is_empty() {
            return file(&facts).map_err(SourceError::File);
        } else if facts.is_dir() && (facts.mode() & 0o022 == 0 || facts.mode() & libc::S_ISVTX != 0) {
            here = next;
        } else {
            return Err(SourceError::Place(next));
        }
    }
    Err(SourceError::File(Unreadable::NotAFile))
}

fn owned(path: &Path, facts: &Metadata, last: bool) -> Result<(), SourceError> {
    let owner = facts.uid();
    if owner == 0 || owner == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    if last && facts.is_file() {
        return Err(SourceError::File(Unreadable::Foreign(owner)));
    }
    Err(SourceError::Place(path.to_owned()))
}

fn file(facts: &Metadata) -> Result<(), Unreadable> {
    if !facts.is_file() {
        return Err(Unreadable::NotAFile);
    }
    if facts.mode() & 0o022 != 0 {
        return Err(Unreadable::Exposed(facts.mode() & 0o7777));
    }
    Ok(())
}
