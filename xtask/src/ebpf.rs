//! `cargo xtask ebpf`: builds the kernel object reproducibly, from a compiler that has `core` for BPF.
//!
//! Two toolchains do: Debian's `rustc-web` with its BPF standard library (no nightly needed), or a rustup nightly with
//! `rust-src`. On Debian what is missing is installed, by root or by sudo; elsewhere it is named. The same compiler and linker give
//! the same bytes wherever the checkout lies; `interceptor.bpf.toolchain` names those of the committed object.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, io};

use anyhow::{Context, Result, bail, ensure};

use crate::install::install;

const TARGET: &str = "bpfel-unknown-none";
const LINKER_VERSION: &str = "0.13.0";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// The major version of LLVM for which Debian's packages are asked.
const DEBIAN_LLVM: u32 = 22;
/// Lines of disassembly that a difference shows.
const SHOWN_LINES: usize = 20;

/// Options of `cargo xtask ebpf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Build and compare with the committed object instead of replacing it
    #[arg(long)]
    check: bool,
    /// Install nothing: say what is missing instead
    #[arg(long)]
    offline: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = workspace()?;
    let toolchain = Toolchain::find(&root, !arguments.offline)?;
    say(&format!("building with {}", toolchain.describe()?.trim().replace('\n', ", ")))?;
    let built = toolchain.build(&root)?;
    let object = root.join("interceptor-ebpf/interceptor.bpf.o");
    let note = root.join("interceptor-ebpf/interceptor.bpf.toolchain");
    if arguments.check {
        return compare(&toolchain, &object, &built, &note);
    }
    fs::copy(&built, &object).with_context(|| format!("writing {}", object.display()))?;
    fs::write(&note, toolchain.describe()?)?;
    say(&format!("wrote {} ({} bytes)", object.display(), fs::metadata(&object)?.len()))
}

/// A compiler, a linker and a strip that go together.
#[derive(Debug)]
struct Toolchain {
    rustc: PathBuf,
    /// Whether `core` is built from source with unstable cargo, for want of a ready one.
    build_std: bool,
    linker: PathBuf,
    strip: PathBuf,
    objdump: PathBuf,
}

impl Toolchain {
    fn find(root: &Path, may_install: bool) -> Result<Self> {
        if !has_core(Path::new(DEBIAN_RUSTC)) && nightly().is_none() && may_install && in_path("apt-get").is_some() {
            let llvm = format!("llvm-{DEBIAN_LLVM}-dev");
            // A failure shows as a compiler that is still missing, with the remedy.
            let _missing = install(&["rustc-web", "libstd-rust-web-dev-bpf", "cargo-web", &llvm]);
        }
        let (rustc, build_std) = if has_core(Path::new(DEBIAN_RUSTC)) {
            (PathBuf::from(DEBIAN_RUSTC), false)
        } else if let Some(rustc) = nightly() {
            (rustc, true)
        } else {
            bail!(
                "no compiler for {TARGET}. Either, on Debian: apt-get install rustc-web libstd-rust-web-dev-bpf \
                 cargo-web llvm-{DEBIAN_LLVM}-dev; or: rustup toolchain install nightly --component rust-src"
            );
        };
        let llvm = llvm_major(&rustc)?;
        let linker = linker(root, llvm, may_install)?;
        let tool = |name: &str| {
            let versioned = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/{name}"));
            let found = if versioned.exists() { Some(versioned) } else { in_path(name) };
            found.with_context(|| format!("no {name}: install llvm-{llvm}"))
        };
        Ok(Self { strip: tool("llvm-strip")?, objdump: tool("llvm-objdump")?, rustc, build_std, linker })
    }

    fn describe(&self) -> Result<String> {
        let rustc = output(Command::new(&self.rustc).arg("--version"))?;
        let linker = output(Command::new(&self.linker).arg("--version"))?;
        Ok(format!("{}\n{}\n", rustc.trim(), linker.trim()))
    }

    /// Builds and strips; gives the path of the result.
    fn build(&self, root: &Path) -> Result<PathBuf> {
        let directory = root.join("target/ebpf");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(root).args(["build", "--locked", "--release", "--package", "interceptor-ebpf"]);
        cargo.args(["--bin", "interceptor", "--features", "kernel", "--target", TARGET]);
        cargo.arg("--target-dir").arg(&directory);
        if self.build_std {
            cargo.args(["-Z", "build-std=core"]);
        }
        // Either compiler: cargo's and core's unstable parts that a target of tier 3 needs.
        cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", &self.rustc);
        cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        cargo.env("CARGO_ENCODED_RUSTFLAGS", self.flags(root)?.join("\x1f"));
        cargo.env_remove("RUSTFLAGS").env_remove("RUSTC_WRAPPER").env_remove("CARGO_BUILD_TARGET");
        // Nothing of the daemon's profile may reach the object.
        for (key, value) in [
            ("OPT_LEVEL", "3"),
            ("DEBUG", "2"),
            ("LTO", "off"),
            ("CODEGEN_UNITS", "1"),
            ("PANIC", "abort"),
            ("STRIP", "none"),
            ("OVERFLOW_CHECKS", "false"),
            ("DEBUG_ASSERTIONS", "false"),
        ] {
            cargo.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
        }
        ensure!(cargo.stdin(Stdio::null()).status()?.success(), "building the kernel programs failed");
        let stripped = directory.join("interceptor.bpf.o");
        fs::copy(directory.join(TARGET).join("release/interceptor"), &stripped)?;
        // Debug sections go; BTF, which the kernel reads, stays.
        output(Command::new(&self.strip).arg("-g").arg(&stripped))?;
        Ok(stripped)
    }

    /// Flags that leave no trace of where the checkout, cargo's home and the compiler lie.
    fn flags(&self, root: &Path) -> Result<Vec<String>> {
        let mut flags: Vec<String> = ["-C", "link-arg=--btf"].map(str::to_owned).into();
        let mut remap = |from: &Path, to: &str| {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        };
        let sysroot = output(Command::new(&self.rustc).args(["--print", "sysroot"]))?;
        remap(Path::new(sysroot.trim()), "/rust");
        let home = match env::var_os("CARGO_HOME") {
            Some(home) => PathBuf::from(home),
            None => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
        };
        remap(&home, "/cargo");
        // Named after the registry's address, which differs where a mirror serves it. The last match counts.
        for registry in fs::read_dir(home.join("registry/src")).into_iter().flatten() {
            remap(&registry?.path(), "/registry");
        }
        remap(root, "/interceptor");
        Ok(flags)
    }
}

fn compare(toolchain: &Toolchain, committed: &Path, built: &Path, note: &Path) -> Result<()> {
    let (old, new) = (fs::read(committed)?, fs::read(built)?);
    if old == new {
        return say(&format!("{} is what the source gives", committed.display()));
    }
    let mut message = format!("{} is not what the source gives\n", committed.display());
    let (then, now) = (fs::read_to_string(note).unwrap_or_default(), toolchain.describe()?);
    if then != now {
        write!(message, "it was built with\n{then}and this with\n{now}so bytes may differ without a change\n")?;
    }
    let at = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    writeln!(message, "{} bytes committed, {} built, first difference at byte {at}", old.len(), new.len())?;
    let disassemble =
        |path: &Path| output(Command::new(&toolchain.objdump).args(["-d", "--no-show-raw-insn"]).arg(path));
    let (old, new) = (disassemble(committed)?, disassemble(built)?);
    // The first lines name the file.
    let lines = old.lines().skip(3).zip(new.lines().skip(3)).filter(|(old, new)| old != new);
    for (old, new) in lines.take(SHOWN_LINES) {
        writeln!(message, "- {old}\n+ {new}")?;
    }
    message.push_str("run `cargo xtask ebpf` and commit the result");
    bail!(message)
}

/// The linker of the right version, which must know the compiler's LLVM.
fn linker(root: &Path, llvm: u32, may_install: bool) -> Result<PathBuf> {
    let own = root.join("target/tools/bin/bpf-linker");
    let fits =
        |path: &Path| output(Command::new(path).arg("--version")).is_ok_and(|version| version.contains(LINKER_VERSION));
    for path in [Some(own.clone()), in_path("bpf-linker")].into_iter().flatten() {
        if fits(&path) {
            return Ok(path);
        }
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let remedy = format!(
        "LLVM_PREFIX={prefix} cargo install bpf-linker --version {LINKER_VERSION} --no-default-features \
         --features llvm-{llvm} --root target/tools"
    );
    ensure!(may_install, "no bpf-linker {LINKER_VERSION}: {remedy}");
    ensure!(Path::new(&prefix).exists(), "bpf-linker needs LLVM {llvm}: install llvm-{llvm}-dev, then: {remedy}");
    say(&format!("installing bpf-linker {LINKER_VERSION} into target/tools"))?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--no-default-features"]);
    cargo.args(["--features", &format!("llvm-{llvm}"), "--root"]).arg(root.join("target/tools"));
    cargo.arg("--target-dir").arg(root.join("target/tools/build"));
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([PathBuf::from(format!("{prefix}/bin"))].into_iter().chain(env::split_paths(&path)))?;
    cargo.env("PATH", path).env("LLVM_PREFIX", &prefix).env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix);
    ensure!(cargo.status()?.success() && fits(&own), "installing bpf-linker failed; by hand: {remedy}");
    Ok(own)
}

/// Whether the compiler comes with `core` for BPF.
fn has_core(rustc: &Path) -> bool {
    let directory = output(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]));
    let Ok(entries) = directory.and_then(|directory| Ok(fs::read_dir(directory.trim())?)) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with("libcore-")))
}

/// rustup's nightly compiler, where it has the source of `core`.
fn nightly() -> Option<PathBuf> {
    let sysroot = output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"])).ok()?;
    let sysroot = PathBuf::from(sysroot.trim());
    sysroot.join("lib/rustlib/src/rust/library/core").exists().then(|| sysroot.join("bin/rustc"))
}

fn llvm_major(rustc: &Path) -> Result<u32> {
    let version = output(Command::new(rustc).arg("-vV"))?;
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = line.and_then(|version| version.split('.').next()?.parse().ok());
    major.with_context(|| format!("{} does not name its LLVM", rustc.display()))
}

fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn output(command: &mut Command) -> Result<String> {
    let result = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    ensure!(result.status.success(), "{command:?}: {}", String::from_utf8_lossy(&result.stderr).trim());
    Ok(String::from_utf8(result.stdout)?)
}

fn workspace() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(package.parent().context("xtask lies in no workspace")?.to_path_buf())
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}
