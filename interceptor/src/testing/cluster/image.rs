//! The only image of a cluster, made from busybox and nothing else.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use super::{Cluster, said};

/// What sandboxes run.
pub(super) const PAUSE: &str = "docker.io/local/pause:1";
/// What the pod runs.
pub(super) const BOX: &str = "docker.io/local/box:1";

/// Makes an archive that containerd imports, below a folder.
pub(super) fn make(folder: &Path) -> io::Result<PathBuf> {
    let root = folder.join("root");
    for part in ["bin", "tmp", "www", "etc", "root"] {
        fs::create_dir_all(root.join(part))?;
    }
    let busybox = Cluster::program("busybox");
    fs::copy(&busybox, root.join("bin/busybox"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    for name in run(Command::new(busybox).arg("--list"))?.lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(name))?;
    }
    let layer = folder.join("layer.tar");
    run(tar(&layer, &root).arg("."))?;
    let digest: String = Sha256::digest(fs::read(&layer)?).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Entrypoint": ["/bin/sleep", "1000000"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    let tags = [PAUSE, BOX];
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": tags, "Layers": ["layer.tar"] }]);
    fs::write(folder.join("manifest.json"), manifest.to_string())?;
    let image = folder.join("image.tar");
    run(tar(&image, folder).args(["config.json", "manifest.json", "layer.tar"]))?;
    Ok(image)
}

fn tar(archive: &Path, folder: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--owner=0", "--group=0", "--file"]).arg(archive).arg("--directory").arg(folder);
    tar
}

fn run(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    if output.status.success() { Ok(said(&output)) } else { Err(io::Error::other(said(&output))) }
}
