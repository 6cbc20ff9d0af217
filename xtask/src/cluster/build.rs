//! Builds kube-apiserver, kubelet and programs of our own that use client-go, from the source of Kubernetes and nothing else.
//!
//! The tree is that of an old release, which wants GOPATH and no network. Clouds and Docker are left out (tags of the tree's
//! own): half of the time goes with them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::{RELEASE, keep};
use crate::apt::Sources;
use crate::run::{output, root, run, run_in, say};

/// The version that is built.
pub(super) const VERSION: &str = "1.20.2";
/// What the tree is called where it is imported.
const TREE: &str = "k8s.io/kubernetes";
/// The compiler that Debian built this release with; newer ones refuse the tree.
const GO: &str = "usr/lib/go-1.19";
/// Every so many packages a line says how far it has come.
const STEP: usize = 200;

/// What is built of the tree itself.
const SERVERS: [&str; 2] = ["kube-apiserver", "kubelet"];
/// Programs of the tests, and where their source is.
const OWN: [(&str, &str); 2] = [("go-client", "client.go"), ("front", "front.go")];

/// A library of the tree that this compiler breaks (version 1.0.1 walks maps as Go did before 1.18, and takes the server down), and
/// the package that has it repaired.
const REPAIRED: (&str, &str) = ("github.com/modern-go/reflect2", "golang-github-modern-go-reflect2-dev");

/// Name and source of each program of the tests.
pub(super) fn own() -> Result<Vec<(&'static str, String)>> {
    let folder = root().join("interceptor/tests/kubernetes");
    let read = |(name, file): (&'static str, &str)| {
        Ok((name, fs::read_to_string(folder.join(file)).context(file.to_owned())?))
    };
    OWN.into_iter().map(read).collect()
}

/// Builds it all, and keeps the programs in a folder.
pub(super) fn build(scratch: &Path, folder: &Path, own: &[(&str, String)]) -> Result<()> {
    say(&format!("building kube-apiserver and kubelet {VERSION} from source: some minutes, once"));
    let sources = Sources::of(RELEASE, &["deb", "deb-src"], scratch)?;
    let archive = sources.source("kubernetes")?;
    let tree = scratch.join("src").join(TREE);
    fs::create_dir_all(&tree)?;
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(&tree);
    run(tar.args(["--strip-components=1", "--no-same-owner"]))?;
    repair(&sources, scratch, &tree)?;
    let compiler = Compiler { go: go(&sources, scratch)?, path: scratch.to_owned(), tree };

    compiler.definitions()?;
    for (name, source) in own {
        let place = compiler.tree.join("cmd").join(name);
        fs::create_dir_all(&place)?;
        fs::write(place.join("main.go"), source)?;
    }
    let names = SERVERS.into_iter().chain(own.iter().map(|(name, _)| *name));
    let packages: Vec<String> = names.clone().map(|name| format!("./cmd/{name}")).collect();
    let programs = scratch.join("programs");
    fs::create_dir_all(&programs)?;
    compiler.build(&programs, &packages)?;
    for name in names {
        keep(&programs.join(name), folder)?;
    }
    Ok(())
}

/// Puts a newer version of a library into the tree.
fn repair(sources: &Sources, scratch: &Path, tree: &Path) -> Result<()> {
    let (library, package) = REPAIRED;
    let unpacked = scratch.join("repaired");
    sources.unpack(&[package], &unpacked)?;
    let old = tree.join("vendor").join(library);
    fs::remove_dir_all(&old)?;
    let new = unpacked.join("usr/share/gocode/src").join(library);
    run(Command::new("cp").arg("--recursive").arg(new).arg(old))
}

/// The compiler's folder: the machine's, or one that is unpacked for this alone.
fn go(sources: &Sources, scratch: &Path) -> Result<PathBuf> {
    let installed = Path::new("/").join(GO);
    if installed.join("bin/go").exists() {
        return Ok(installed);
    }
    let unpacked = scratch.join("go");
    sources.unpack(&["golang-1.19-go", "golang-1.19-src"], &unpacked)?;
    Ok(unpacked.join(GO))
}

struct Compiler {
    go: PathBuf,
    /// GOPATH, with the cache in it.
    path: PathBuf,
    tree: PathBuf,
}

impl Compiler {
    /// Generates the descriptions of all types, without which the server neither links nor starts.
    fn definitions(&self) -> Result<()> {
        let generator = self.path.join("openapi-gen");
        self.build(&generator, &["./vendor/k8s.io/kube-openapi/cmd/openapi-gen".to_owned()])?;
        let packages = self.tagged()?;
        let mut generate = Command::new(generator);
        generate.args(["-i", &packages.join(","), "-p", &format!("{TREE}/pkg/generated/openapi")]);
        generate.args(["-O", "zz_generated.openapi", "-h", "hack/boilerplate/boilerplate.generatego.txt", "-r"]);
        run_in(self.with_environment(generate.arg(self.path.join("violations"))), &self.tree)
    }

    /// The packages whose types are described.
    fn tagged(&self) -> Result<Vec<String>> {
        let mut grep = Command::new("grep");
        grep.args(["--recursive", "--files-with-matches", "--include=*.go", r"^// +k8s:openapi-gen=true"]);
        grep.args(["cmd", "pkg", "plugin", "staging/src", "vendor"].map(|part| self.tree.join(part)));
        let mut packages = Vec::new();
        for file in output(&mut grep)?.lines() {
            let folder = Path::new(file).parent().context("a file lies in a folder")?;
            let package = folder.strip_prefix(&self.tree)?.to_string_lossy().replace("staging/src/", "vendor/");
            let other = package.contains("/sample-apiserver/") || package.contains("/code-generator/");
            if !other && !package.contains("/testdata") && !file.ends_with("_test.go") {
                packages.push(format!("{TREE}/{package}"));
            }
        }
        packages.sort();
        packages.dedup();
        if packages.is_empty() {
            bail!("the tree has no type that is to be described");
        }
        Ok(packages)
    }

    /// Builds packages into a file or folder, and says how far it has come.
    fn build(&self, into: &Path, packages: &[String]) -> Result<()> {
        let mut build = Command::new(self.go.join("bin/go"));
        // Without what only debuggers read: it is smaller, and sooner done.
        build.args(["build", "-v", "-tags", "providerless,dockerless", "-gcflags=all=-dwarf=false", "-ldflags"]);
        build.arg(versions()).arg("-o").arg(into).args(packages);
        self.with_environment(&mut build).current_dir(&self.tree).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = build.spawn().context("cannot run go")?;
        let mut said = Vec::new();
        for line in BufReader::new(child.stderr.take().context("a pipe")?).lines() {
            said.push(line?);
            if said.len() % STEP == 0 {
                progress(said.len());
            }
        }
        if child.wait()?.success() {
            return Ok(());
        }
        let last = said.iter().rev().take(30).rev().map(String::as_str).collect::<Vec<_>>();
        bail!("go build {} failed:\n{}", packages.join(" "), last.join("\n"))
    }

    fn with_environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let first = std::iter::once(self.go.join("bin")).chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(first) {
            command.env("PATH", path);
        }
        command.env("GOROOT", &self.go).env("GOPATH", &self.path).env("GOCACHE", self.path.join("cache"));
        command.env("GOFLAGS", "").env("GO111MODULE", "off").env("GOPROXY", "off").env("GOTOOLCHAIN", "local");
        command.env("CGO_ENABLED", "0")
    }
}

/// What the linker is told: the version that programs say they are, and to leave out symbols.
fn versions() -> String {
    let set = |package: &str| {
        let package = format!("-X {TREE}/vendor/{package}");
        format!(" {package}.gitVersion=v{VERSION} {package}.gitMajor=1 {package}.gitMinor=20")
    };
    format!("-s -w{}{}", set("k8s.io/component-base/version"), set("k8s.io/client-go/pkg/version"))
}

#[expect(clippy::print_stderr, reason = "progress is for the person at the terminal")]
fn progress(packages: usize) {
    eprintln!("    {packages} packages");
}
