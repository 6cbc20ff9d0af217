//! The guests' system: a Debian with systemd by debootstrap, on a disk that every guest gets its own view of.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::folder;
use crate::run::{as_root, output, run_in, say};

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
/// Beside what is essential: what a host of agents has, and what the tests need.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "systemd-container",
    "udev",
    "dbus",
    "kmod",
    "iproute2",
    "nftables",
    "procps",
    "util-linux-extra",
    "e2fsprogs",
    "libcap2-bin",
    "python3",
    "python3-psycopg",
    "python3-jwt",
    // debootstrap does not see what provides what.
    "python3-cffi-backend",
    "python3-cryptography",
    "postgresql-15",
    "postgresql-client-15",
    "adduser",
    // Daemons that act for whoever asks.
    "cron",
    "at",
    "nscd",
    // A container engine, and what it takes for the network that it needs none of.
    "podman",
    "crun",
    "netavark",
];
/// What the disk has room for, beyond what is on it, in MiB. The file is sparse.
const ROOM: u64 = 2048;

/// Files of the system that are ours.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "guest\n"),
    ("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n"),
    ("etc/resolv.conf", "nameserver 10.99.0.2\noptions timeout:1 attempts:1\n"),
    ("etc/machine-id", "5f2a0c5a7f5a4d0b9c3b1f7de2d94c11\n"),
    ("etc/systemd/system/suites.service", include_str!("../../../vm-tests/suites.service")),
    ("etc/systemd/journald.conf.d/console.conf", "[Journal]\nForwardToConsole=no\nStorage=volatile\n"),
    ("etc/systemd/system.conf.d/quick.conf", "[Manager]\nDefaultTimeoutStopSec=20s\nDefaultDeviceTimeoutSec=30s\n"),
];
/// Units that a guest does without.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "postgresql.service",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-firstboot.service",
];

/// The disk, made where there is none of these inputs.
pub(super) fn image() -> Result<PathBuf> {
    let image = folder().join(format!("system-{:016x}.img", key()));
    if image.exists() {
        return Ok(image);
    }
    for old in
        fs::read_dir(folder())?.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("system-"))
    {
        as_root("rm").arg("-rf").arg(old.path()).status()?;
    }
    say("making the guests' system (once; some minutes)");
    let (tree, debs) = (folder().join("system-tree"), folder().join("debs"));
    as_root("rm").arg("-rf").arg(&tree).status()?;
    fs::create_dir_all(&debs)?;
    let mut bootstrap = as_root("debootstrap");
    bootstrap.args(["--variant=minbase", &format!("--include={}", PACKAGES.join(","))]);
    bootstrap.arg(format!("--cache-dir={}", debs.display()));
    run_in(bootstrap.arg(SUITE).arg(&tree).arg(MIRROR), &folder())?;
    furnish(&tree)?;
    let next = image.with_extension("new");
    disk(&tree, &next, ROOM)?;
    as_root("rm").arg("-rf").arg(&tree).status()?;
    fs::rename(next, &image)?;
    Ok(image)
}

/// Tells the inputs of one disk from those of another.
fn key() -> u64 {
    let mut text = format!("{SUITE}{PACKAGES:?}{MASKED:?}");
    for (path, content) in FILES {
        let _written = write!(text, "{path}{content}");
    }
    // FNV-1a: no more than a name is wanted.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Our files, in a tree that belongs to root.
fn furnish(tree: &Path) -> Result<()> {
    let mut script = "set -e\ncd \"$0\"\nrm -f etc/resolv.conf\n".to_owned();
    for folder in ["payload", "lib/modules", "etc/systemd/system/multi-user.target.wants"] {
        writeln!(script, "mkdir -p {folder}")?;
    }
    for (path, content) in FILES {
        writeln!(script, "mkdir -p $(dirname {path})\ncat > {path} <<'END OF FILE'\n{content}END OF FILE")?;
    }
    for unit in MASKED {
        writeln!(script, "ln -sf /dev/null etc/systemd/system/{unit}")?;
    }
    script.push_str("ln -sf ../suites.service etc/systemd/system/multi-user.target.wants/suites.service\n");
    script.push_str("rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/*_* usr/share/doc/* usr/share/locale/*\n");
    run_in(as_root("sh").arg("-c").arg(script).arg(tree), &folder())
}

/// A disk with the content of a folder, and room in MiB beyond that.
pub(super) fn disk(content: &Path, image: &Path, room: u64) -> Result<()> {
    let used = output(as_root("du").args(["-sm", "--apparent-size"]).arg(content))?;
    let used: u64 = used.split_whitespace().next().and_then(|size| size.parse().ok()).context("du says no size")?;
    let _old = fs::remove_file(image);
    let mut make = as_root("mkfs.ext4");
    // Twice: small files take whole blocks.
    make.args(["-q", "-F", "-m", "0", "-O", "^has_journal", "-d"])
        .arg(content)
        .arg(image)
        .arg(format!("{}M", used * 2 + room));
    run_in(&mut make, &folder())
}
