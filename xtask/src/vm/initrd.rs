//! The initrd: busybox, the few modules that find a disk, and a script that hands over to the system on it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Modules without which no disk is found. Those that a kernel has built in, or does not have any more, are left out.
const WANTED: &[&str] = &["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"];

/// Mounts the system, the modules and what is to be tested, and starts systemd.
const SCRIPT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /system
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do /bin/busybox insmod \"$module\" || echo \"no $module\"; done
for again in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/vdc ] && break
    /bin/busybox sleep 1
done
/bin/busybox mount -t ext4 -o rw /dev/vda /system || exec /bin/busybox poweroff -f
/bin/busybox mount -t ext4 -o ro /dev/vdb /system/payload || exec /bin/busybox poweroff -f
/bin/busybox mount -t ext4 -o ro /dev/vdc /system/lib/modules || exec /bin/busybox poweroff -f
/bin/busybox umount /proc /sys
exec /bin/busybox switch_root /system /sbin/init
";

/// Writes the initrd of a kernel whose modules lie in `modules`.
pub(super) fn write(busybox: &Path, modules: &Path, path: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for folder in ["bin", "modules"] {
        archive.add(folder, 0o040_755, &[]);
    }
    archive.add("bin/busybox", 0o100_755, &fs::read(busybox)?);
    archive.add("init", 0o100_755, SCRIPT.as_bytes());
    for (order, file) in ordered(&fs::read_to_string(modules.join("modules.dep"))?).iter().enumerate() {
        archive.add(&format!("modules/{order:02}.ko"), 0o100_644, &module(&modules.join(file))?);
    }
    fs::File::create(path)?.write_all(&archive.end())?;
    Ok(())
}

/// The wanted modules, each after those that it needs. A line of `modules.dep` lists what a module needs, nearest first.
fn ordered(dependencies: &str) -> Vec<String> {
    let lines: Vec<(&str, &str)> = dependencies.lines().filter_map(|line| line.split_once(':')).collect();
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for wanted in WANTED {
        let Some((path, needs)) = lines.iter().find(|(path, _)| name(path) == *wanted) else { continue };
        for file in needs.split_whitespace().rev().chain([*path]) {
            if seen.insert(file) {
                order.push(file.to_owned());
            }
        }
    }
    order
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().and_then(|file| file.split('.').next()).unwrap_or_default()
}

/// A module as it is to be loaded: not compressed.
fn module(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return Ok(fs::read(path)?),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => bail!("{}: compressed in an unknown way", path.display()),
    };
    let output = Command::new(program).arg("-dc").arg(path).output();
    let output = output.with_context(|| format!("{program} is needed"))?;
    if !output.status.success() {
        bail!("{program} cannot read {}", path.display());
    }
    Ok(output.stdout)
}

/// A cpio archive in the form that kernels read: <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (inode, size, length) = (self.entries, content.len(), name.len() + 1);
        let header = format!(
            "070701{inode:08x}{mode:08x}{zero:08x}{zero:08x}{one:08x}{zero:08x}{size:08x}{zero:08x}{zero:08x}{zero:08x}\
             {zero:08x}{length:08x}{zero:08x}",
            zero = 0,
            one = 1,
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/fs/mbcache.ko.xz\n\
                            kernel/fs/jbd2/jbd2.ko.xz:\nkernel/drivers/virtio/virtio_pci.ko.xz: kernel/virtio.ko.xz\n";
        let names = ["kernel/virtio.ko.xz", "kernel/drivers/virtio/virtio_pci.ko.xz"].into_iter();
        let names = names.chain(["kernel/fs/mbcache.ko.xz", "kernel/fs/jbd2/jbd2.ko.xz", "kernel/fs/ext4/ext4.ko.xz"]);
        assert_eq!(ordered(dependencies), names.collect::<Vec<_>>());
    }

    #[test]
    fn archives_have_the_form_that_kernels_read() {
        let mut archive = Archive::default();
        archive.add("abc", 0o100_644, b"hello");
        let bytes = archive.end();
        assert_eq!(bytes.len() % 4, 0);
        // 110 bytes of header, the name with its zero byte, and so on to multiples of four.
        assert!(bytes.starts_with(b"070701") && &bytes[110..114] == b"abc\0" && &bytes[116..121] == b"hello");
        assert_eq!(&bytes[124..130], b"070701");
    }
}
