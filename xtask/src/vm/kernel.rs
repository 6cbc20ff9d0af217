//! Debian's kernels, fetched and unpacked, never installed. apt gets lists and folders of its own: the machine's stay as
//! they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{folder, initrd};
use crate::run::{output, run_in, say};

/// A kernel that may be had.
pub(super) struct Source {
    /// Name on the command line.
    name: &'static str,
    /// Suite of Debian that has it.
    suite: &'static str,
    /// The package there that depends on the kernel of the day.
    meta: &'static str,
}

const SOURCES: &[Source] = &[
    Source { name: "6.1", suite: "bookworm", meta: CLOUD },
    // With what hosts of metal have: families of sockets that clouds' kernels lack.
    Source { name: "6.12", suite: "trixie", meta: "linux-image-amd64" },
    Source { name: "newest", suite: "sid", meta: CLOUD },
];

const CLOUD: &str = "linux-image-cloud-amd64";

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// Name on the command line.
    pub(super) name: String,
    /// What `uname -r` says.
    pub(super) release: String,
    /// The kernel.
    pub(super) image: PathBuf,
    /// What finds the disks.
    pub(super) initrd: PathBuf,
    /// A disk with its modules.
    pub(super) modules: PathBuf,
}

/// The kernels that are asked for.
pub(super) fn wanted(names: &[String], short: bool) -> Result<Vec<&'static Source>> {
    let all = names.iter().any(|name| name == "all");
    for name in names {
        if name != "all" && !SOURCES.iter().any(|source| source.name == name) {
            bail!("no kernel is called {name}; there are 6.1, 6.12, newest and all");
        }
    }
    let mut found: Vec<_> =
        SOURCES.iter().filter(|source| all || names.iter().any(|name| name == source.name)).collect();
    if short {
        found.truncate(1);
    }
    Ok(found)
}

/// Fetches and unpacks a kernel, once. None, with a line that says so, where the mirrors do not have it.
pub(super) fn fetch(source: &Source) -> Result<Option<Kernel>> {
    let place = folder().join(format!("kernel-{}-{}", source.name, source.meta));
    if let Ok(known) = ready(source, &place) {
        return Ok(Some(known));
    }
    say(&format!("fetching the kernel of Debian {}", source.suite));
    let apt = Apt::new(source.suite)?;
    if let Err(error) = apt.update() {
        say(&format!("LEFT OUT: kernel {}: Debian {} cannot be had: {error:#}", source.name, source.suite));
        return Ok(None);
    }
    let _stale = fs::remove_dir_all(&place);
    let unpacked = place.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    for package in apt.kernel_packages(source.meta)? {
        apt.unpack(&package, &unpacked)?;
    }
    // Newer suites have everything below /usr/lib, the kernel with its modules.
    let modules = [unpacked.join("usr/lib/modules"), unpacked.join("lib/modules")];
    let modules = modules.iter().find(|path| path.exists()).context("the packages have no modules")?;
    let release = release(modules)?;
    let images = [modules.join(&release).join("vmlinuz"), unpacked.join(format!("boot/vmlinuz-{release}"))];
    let image = images.iter().find(|path| path.exists()).context("the packages have no kernel")?;
    fs::rename(image, place.join("vmlinuz"))?;
    // What apt would have done on installing.
    let base = modules.ancestors().find(|path| path.file_name().is_some_and(|name| name == "lib"));
    let base = base.and_then(Path::parent).context("modules lie nowhere")?;
    run_in(Command::new("/sbin/depmod").arg("-b").arg(base).arg(&release), &place)?;
    initrd::write(&busybox()?, &modules.join(&release), &place.join("initrd"))?;
    super::system::disk(modules, &place.join("modules.img"), 64)?;
    fs::remove_dir_all(&unpacked)?;
    // Last: what is named so is whole.
    fs::write(place.join("release"), release)?;
    ready(source, &place).map(Some)
}

fn ready(source: &Source, place: &Path) -> Result<Kernel> {
    Ok(Kernel {
        name: source.name.to_owned(),
        release: fs::read_to_string(place.join("release"))?,
        image: place.join("vmlinuz"),
        initrd: place.join("initrd"),
        modules: place.join("modules.img"),
    })
}

fn release(modules: &Path) -> Result<String> {
    let mut names = fs::read_dir(modules)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.next().context("the packages have no modules")
}

/// A program for the initrd.
fn busybox() -> Result<PathBuf> {
    let place = folder().join("busybox");
    let program = place.join("bin/busybox");
    if !program.exists() {
        let apt = Apt::new("bookworm")?;
        apt.update()?;
        fs::create_dir_all(&place)?;
        apt.unpack("busybox-static", &place)?;
    }
    Ok(program)
}

/// apt with a configuration of its own.
struct Apt {
    place: PathBuf,
    suite: &'static str,
}

impl Apt {
    fn new(suite: &'static str) -> Result<Self> {
        let place = folder().join(format!("apt-{suite}"));
        for part in ["lists/partial", "cache/archives/partial", "fetched"] {
            fs::create_dir_all(place.join(part))?;
        }
        // Its own, so that packages of this machine count nothing.
        fs::write(place.join("status"), "")?;
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let list = format!("deb [signed-by={keys}] http://deb.debian.org/debian {suite} main\n");
        fs::write(place.join("sources.list"), list)?;
        Ok(Self { place, suite })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |part: &str| self.place.join(part).display().to_string();
        for option in [
            format!("Dir::Etc::SourceList={}", at("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    fn update(&self) -> Result<()> {
        // A warning alone is given for a suite that cannot be had, unless asked to fail.
        let mut update = self.command("apt-get");
        run_in(update.args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]), &self.place)
    }

    /// The kernel of the day: an image, and in newer suites its modules beside it.
    fn kernel_packages(&self, meta: &str) -> Result<Vec<String>> {
        let image = self.depends(meta)?.into_iter().find(|name| name.starts_with("linux-image-"));
        let image = image.with_context(|| format!("{meta} of {} depends on no kernel", self.suite))?;
        let mut packages: Vec<String> = self.depends(&image)?;
        packages.retain(|name| name.starts_with("linux-modules-") || name.starts_with("linux-binary-"));
        packages.push(image);
        Ok(packages)
    }

    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let shown = output(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let line = shown.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
        let names = line.split([',', '|']).filter_map(|part| part.split_whitespace().next());
        Ok(names.map(str::to_owned).collect())
    }

    fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let fetched = self.place.join("fetched");
        let _stale = fs::remove_dir_all(&fetched);
        fs::create_dir_all(&fetched)?;
        run_in(self.command("apt-get").args(["-qq", "download", package]), &fetched)?;
        let archive = fs::read_dir(&fetched)?.flatten().map(|entry| entry.path()).next();
        let archive = archive.with_context(|| format!("{package} was not fetched"))?;
        run_in(Command::new("dpkg-deb").arg("-x").arg(archive).arg(into), &fetched)
    }
}
