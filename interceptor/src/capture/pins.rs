//! Pins: where links and maps live while no daemon does.
//!
//! `<pin_directory>/maps-v<schema>/<NAME>` and `<pin_directory>/links/<cgroup id>/<program>`; directories are for root
//! alone. An empty directory `<pin_directory>/named/<cgroup id>` says that the configuration named a governed cgroup. A link without its pin ends with the daemon, so a link counts as made only once it is pinned.
//!
//! Links have no version: those of another one get the new programs, with the new maps, and are closed at no moment. The
//! maps of another version go once no link uses them.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::{fs, io};

use interceptor_ebpf::{SCHEMA, map};

use super::sys;

/// Name of a directory of maps, before the version.
const MAPS: &str = "maps-v";

/// The paths.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(super) fn new(directory: &Path) -> Self {
        Self { root: directory.to_owned() }
    }

    /// Makes the directories.
    pub(super) fn prepare(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.maps())?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.root.join("links"))?;
        self.are_roots()
    }

    /// Whether root alone makes pins here.
    pub(super) fn are_roots(&self) -> io::Result<()> {
        let metadata = fs::metadata(&self.root)?;
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            return Err(io::Error::other(format!("{} must be writable by root alone", self.root.display())));
        }
        Ok(())
    }

    /// Keeps others who lock from changing links, until the file is closed.
    pub(super) fn lock(&self) -> io::Result<fs::File> {
        let directory = fs::File::open(&self.root)?;
        directory.lock()?;
        Ok(directory)
    }

    /// Lets a group see the pins, and use the maps of this version. Only root makes or removes any.
    pub(super) fn share(&self, group: u32) -> io::Result<()> {
        let give = |path: &Path, mode| {
            chown(path, None, Some(group))?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        };
        let (maps, links) = (self.maps(), self.root.join("links"));
        for name in map::ALL {
            give(&maps.join(name), 0o660)?;
        }
        for entry in fs::read_dir(&links)? {
            give(&entry?.path(), 0o750)?;
        }
        [&self.root, &maps, &links].into_iter().try_for_each(|directory| give(directory, 0o750))
    }

    fn maps(&self) -> PathBuf {
        self.root.join(format!("{MAPS}{SCHEMA}"))
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Removes the maps of other versions: after every link has got a program of this one.
    pub(super) fn forget_other_maps(&self) -> io::Result<()> {
        for directory in self.all_maps()?.into_iter().filter(|directory| *directory != self.maps()) {
            remove_flat(&directory)?;
        }
        Ok(())
    }

    fn all_maps(&self) -> io::Result<Vec<PathBuf>> {
        let entries = entries(&self.root)?;
        let maps = entries.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(MAPS));
        Ok(maps.map(fs::DirEntry::path).collect())
    }

    /// Where the map of this name is, in each version that has one.
    pub(super) fn maps_of_all_versions(&self, name: &str) -> Vec<PathBuf> {
        let directories = self.all_maps().unwrap_or_default();
        directories.into_iter().map(|directory| directory.join(name)).filter(|path| path.exists()).collect()
    }

    fn links(&self, cgroup: u64) -> PathBuf {
        self.root.join("links").join(cgroup.to_string())
    }

    /// cgroups that have pinned links.
    pub(super) fn cgroups(&self) -> io::Result<Vec<u64>> {
        let entries = entries(&self.root.join("links"))?;
        Ok(entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// Whether this program is pinned for this cgroup.
    pub(super) fn has(&self, cgroup: u64, program: &str) -> bool {
        self.links(cgroup).join(program).exists()
    }

    /// Attaches a program, or puts it into the link that is pinned.
    pub(super) fn attach(
        &self,
        cgroup: (u64, &impl AsFd),
        (name, attach_type): (&str, u32),
        program: &OwnedFd,
    ) -> io::Result<Attached> {
        let directory = self.links(cgroup.0);
        let path = directory.join(name);
        let again = match sys::pinned(&path) {
            Ok(link) => match sys::link_update(link.as_fd(), program.as_fd()) {
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => true,
                done => return done.map(|()| Attached::Updated),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let link = sys::link_create(program.as_fd(), cgroup.1.as_fd(), attach_type)?;
        if again {
            tracing::error!(cgroup = cgroup.0, program = name, "somebody has detached it: it is attached anew");
            // The old pin stays until another is there: without any, the cgroup would not count as governed.
            let other = directory.join(format!("{name}{ANEW}"));
            let _left_over = fs::remove_file(&other);
            sys::pin(link.as_fd(), &other)?;
            fs::rename(&other, &path)?;
            return Ok(Attached::Anew);
        }
        sys::pin(link.as_fd(), &path).map(|()| Attached::Created)
    }

    /// Puts the program into the link that is pinned. False where there is none, or the kernel has ended it: its cgroup is
    /// gone, and so is every socket that was made there.
    pub(super) fn renew(&self, cgroup: u64, name: &str, program: &OwnedFd) -> io::Result<bool> {
        let renewed = sys::pinned(&self.links(cgroup).join(name))
            .and_then(|link| sys::link_update(link.as_fd(), program.as_fd()));
        match renewed {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOLINK)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes these links of a cgroup, in this order, where they are there. Gives the number removed.
    pub(super) fn detach_some(&self, cgroup: u64, names: &[&str]) -> io::Result<usize> {
        let directory = self.links(cgroup);
        let mut removed = 0;
        for name in names {
            match unlink(&directory.join(name)) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Removes all links of a cgroup: those named first go first. Gives the number removed.
    pub(super) fn detach(&self, cgroup: u64, order: &[&str]) -> io::Result<usize> {
        let directory = self.links(cgroup);
        let mut removed = self.detach_some(cgroup, order)?;
        for entry in entries(&directory)? {
            unlink(&entry.path())?;
            removed += 1;
        }
        [directory, self.named().join(cgroup.to_string())].iter().try_for_each(|gone| remove_directory(gone))?;
        self.older_ended(cgroup)?;
        Ok(removed)
    }

    fn older(&self) -> PathBuf {
        self.root.join("older")
    }

    /// Notes that what processes of a cgroup have open from before it was governed is to be ended.
    pub(super) fn note_older(&self, cgroup: u64) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.older().join(cgroup.to_string()))
    }

    /// Notes that it is tried, and gives whether it was before.
    pub(super) fn older_tried(&self, cgroup: u64) -> io::Result<bool> {
        let tried = self.older().join(cgroup.to_string()).join(TRIED);
        let before = tried.exists();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(tried)?;
        Ok(before)
    }

    /// Forgets about it: it is done.
    pub(super) fn older_ended(&self, cgroup: u64) -> io::Result<()> {
        let note = self.older().join(cgroup.to_string());
        remove_directory(&note.join(TRIED))?;
        remove_directory(&note)
    }

    /// The cgroups of which that is still to be done.
    pub(super) fn with_older(&self) -> io::Result<Vec<u64>> {
        Ok(entries(&self.older())?.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    fn named(&self) -> PathBuf {
        self.root.join("named")
    }

    /// Notes that the configuration names a cgroup.
    pub(super) fn mark(&self, cgroup: u64) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.named().join(cgroup.to_string()))
    }

    /// Whether the configuration has named it.
    pub(super) fn is_marked(&self, cgroup: u64) -> bool {
        self.named().join(cgroup.to_string()).exists()
    }

    /// Removes maps and directories, once no link is left.
    pub(super) fn remove(&self) -> io::Result<()> {
        for mark in entries(&self.named())? {
            remove_directory(&mark.path())?;
        }
        self.with_older()?.into_iter().try_for_each(|cgroup| self.older_ended(cgroup))?;
        for directory in self.all_maps()?.into_iter().chain([self.root.join("links"), self.named(), self.older()]) {
            remove_flat(&directory)?;
        }
        remove_directory(&self.root)
    }
}

/// Ends the name of a pin that takes the place of another.
const ANEW: &str = "-anew";

/// In a note: that it was tried.
const TRIED: &str = "tried";

/// Removes a pinned link, whose program is gone from its cgroup by then, where the kernel lets us say so.
fn unlink(path: &Path) -> io::Result<()> {
    if let Err(error) = sys::pinned(path).and_then(|link| sys::link_detach(link.as_fd()))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, path = %path.display(), "a link is detached when its pin is gone");
    }
    fs::remove_file(path)
}

/// Removes a directory of files, where there is one.
fn remove_flat(directory: &Path) -> io::Result<()> {
    for entry in entries(directory)? {
        fs::remove_file(entry.path())?;
    }
    remove_directory(directory)
}

/// What is in a directory; nothing where there is none.
fn entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.collect(),
    }
}

/// Removes a directory that is empty, where there is one.
fn remove_directory(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What [`Pins::attach`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attached {
    /// A new link.
    Created,
    /// A new link in the place of one that somebody had detached.
    Anew,
    /// Another program in an old link.
    Updated,
}
