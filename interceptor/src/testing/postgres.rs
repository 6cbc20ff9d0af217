//! A real PostgreSQL server for tests: throw-away, on Unix socket and TCP, with its statements to be read back.
//!
//! Needs the server's binaries: those in the directory that `INTERCEPTOR_POSTGRES` names, else the newest
//! `/usr/lib/postgresql/*/bin`; and `psql`, beside them or on PATH. Started by root, it runs as user `postgres`. It ends with
//! its value; when the test process is killed, the server and its directory stay behind.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User};
use tempfile::TempDir;

/// Name of the superuser that `initdb` makes, and of [`Postgres::sql`].
pub const SUPERUSER: &str = "postgres";
/// Names the directory of the server's binaries, where it is not to be the newest that is installed.
pub const BINARIES: &str = "INTERCEPTOR_POSTGRES";
/// `application_name` of [`Postgres::sql`], whose statements are left out of [`Postgres::statements`].
const OWN_APPLICATION: &str = "interceptor-fixture";
/// How long a start may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an orderly stop may take before the server is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// What a spawned command is given before it starts: a namespace, a cgroup.
pub type Wrap = Box<dyn Fn(&mut Command) + Send + Sync>;

/// How the server is to be.
pub struct Options {
    /// Method for everybody who comes by TCP: `trust`, `password`, `md5`, `scram-sha-256`, `cert`. Passwords are stored as
    /// md5 where this is `md5`, else as SCRAM.
    pub auth: &'static str,
    /// Lines of `pg_hba.conf` that come before the one for `auth`.
    pub hba: Vec<String>,
    /// TLS, where it is wanted.
    pub tls: Option<ServerTls>,
    /// Addresses to listen on, in the namespace that `wrap` leads to.
    pub listen: Vec<IpAddr>,
    /// TCP port; one that is free here where absent.
    pub port: Option<u16>,
    /// More settings of `postgresql.conf`: name and value (quoted by the fixture).
    pub settings: Vec<(String, String)>,
    /// Called on the server's command before it is spawned, and on `psql`'s. What it does between fork and exec is done
    /// with the rights of this process, so that it may enter a namespace.
    pub wrap: Option<Wrap>,
}

impl Default for Options {
    /// SCRAM without TLS on 127.0.0.1, on a free port.
    fn default() -> Self {
        Self {
            auth: "scram-sha-256",
            hba: Vec::new(),
            tls: None,
            listen: vec![Ipv4Addr::LOCALHOST.into()],
            port: None,
            settings: Vec::new(),
            wrap: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("auth", &self.auth).field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// The server's side of TLS, in PEM.
#[derive(Clone)]
pub struct ServerTls {
    /// Certificate (chain).
    pub cert: String,
    /// Its key.
    pub key: String,
    /// Authorities that client certificates may come from.
    pub client_ca: Option<String>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls(..)")
    }
}

/// A statement that reached the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// User that it ran as.
    pub user: String,
    /// Database that it ran in.
    pub database: String,
    /// As the server logged it; for the extended protocol without its parameters.
    pub text: String,
}

/// A running server.
pub struct Postgres {
    child: Child,
    dir: TempDir,
    binaries: PathBuf,
    port: u16,
    wrap: Option<Wrap>,
}

impl Postgres {
    /// Makes a cluster, starts a server on it, and waits until it answers.
    ///
    /// # Errors
    /// No binaries, no user `postgres`, or a server that does not come up: its log is in the error.
    pub fn start(options: Options) -> io::Result<Self> {
        let binaries = binaries()?;
        let account = account()?;
        let dir = tempfile::Builder::new().prefix("interceptor-pg-").tempdir()?;
        own(dir.path(), account)?;
        let data = dir.path().join("data");
        let mut initdb = Command::new(binaries.join("initdb"));
        initdb.arg("--pgdata").arg(&data).args(["--username", SUPERUSER, "--auth", "trust", "--no-sync"]);
        initdb.args(["--encoding", "UTF8", "--locale", "C"]);
        run(as_account(&mut initdb, account), "initdb")?;

        let port = match options.port {
            Some(port) => port,
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port(),
        };
        configure(&options, dir.path(), &data, port, account)?;
        let log = File::create(dir.path().join("log"))?;
        let mut server = server_command(&binaries, account);
        server.arg("-D").arg(&data).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(wrap) = &options.wrap {
            wrap(&mut server);
        }
        let mut started = Self { child: server.spawn()?, dir, binaries, port, wrap: options.wrap };
        started.wait_until_ready()?;
        Ok(started)
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Process id of the postmaster.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Directory of the Unix socket: `psql -h` takes it. Everybody who comes this way is trusted.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `sql` as superuser in database `postgres`, through the Unix socket; unaligned rows without header.
    ///
    /// # Errors
    /// What `psql` printed to standard error.
    pub fn sql(&self, sql: &str) -> io::Result<String> {
        self.sql_in("postgres", sql)
    }

    /// [`Postgres::sql`] in another database.
    ///
    /// # Errors
    /// What `psql` printed to standard error.
    pub fn sql_in(&self, database: &str, sql: &str) -> io::Result<String> {
        let mut psql = Command::new(psql(&self.binaries));
        clean(&mut psql).env("PGAPPNAME", OWN_APPLICATION).env("PGCONNECT_TIMEOUT", "10");
        psql.env("PGOPTIONS", "-c statement_timeout=60s").args(["-XAtq", "-v", "ON_ERROR_STOP=1"]);
        psql.args(["-U", SUPERUSER, "-d", database, "-p", &self.port.to_string(), "-h"]).arg(self.dir.path());
        psql.arg("-c").arg(sql);
        if let Some(wrap) = &self.wrap {
            wrap(&mut psql);
        }
        run(&mut psql, "psql")
    }

    /// The server's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.dir.path().join("log")).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// The statements that reached the server, in its order, but for those of [`Postgres::sql`]. A statement is there
    /// before its answer is.
    #[must_use]
    pub fn statements(&self) -> Vec<Statement> {
        statements(&self.log())
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let mut waited = Duration::ZERO;
        while waited < START_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("postgres ended with {status}:\n{}", self.log())));
            }
            if self.log().contains("database system is ready to accept connections") {
                return Ok(());
            }
            thread::sleep(PAUSE);
            waited += PAUSE;
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("postgres did not come up:\n{}", self.log())))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
        // SIGINT is the fast shutdown: sessions are ended, nothing is waited for.
        let _gone = pid.map(|pid| kill(pid, Signal::SIGINT));
        let mut waited = Duration::ZERO;
        while waited < STOP_TIMEOUT {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(PAUSE);
            waited += PAUSE;
        }
        // Its children notice, and end by themselves.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("pid", &self.pid()).field("port", &self.port).finish_non_exhaustive()
    }
}

/// Whom the server runs as: nothing changes where this process is not root.
type Account = Option<(Uid, Gid)>;

fn account() -> io::Result<Account> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres")?.ok_or_else(|| io::Error::other("there is no user `postgres`"))?;
    Ok(Some((user.uid, user.gid)))
}

fn own(path: &Path, account: Account) -> io::Result<()> {
    account.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid.as_raw()), Some(gid.as_raw())))
}

fn as_account(command: &mut Command, account: Account) -> &mut Command {
    if let Some((uid, gid)) = account {
        command.uid(uid.as_raw()).gid(gid.as_raw());
    }
    clean(command)
}

/// `Command::uid` would change the user before `wrap` gets to enter a namespace: `setpriv` does it afterwards.
fn server_command(binaries: &Path, account: Account) -> Command {
    let server = binaries.join("postgres");
    let mut command = match account {
        None => Command::new(server),
        Some((uid, gid)) => {
            let mut setpriv = Command::new("setpriv");
            setpriv
                .args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()])
                .arg("--")
                .arg(server);
            setpriv
        }
    };
    clean(&mut command);
    command
}

fn clean(command: &mut Command) -> &mut Command {
    // Neither the caller's PG* variables nor its directory, which the account may not be able to enter.
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .current_dir("/")
}

fn binaries() -> io::Result<PathBuf> {
    if let Some(chosen) = std::env::var_os(BINARIES) {
        return Ok(chosen.into());
    }
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")?
        .filter_map(Result::ok)
        .filter_map(|entry| Some((version(&entry.path())?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists() && bin.join("initdb").exists())
        .collect();
    found.sort();
    found
        .pop()
        .map(|(_, bin)| bin)
        .ok_or_else(|| io::Error::other("there is no PostgreSQL server in /usr/lib/postgresql"))
}

/// The server's own, or the first on this process's PATH: what is [`clean`] has another.
fn psql(binaries: &Path) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&path).map(|folder| folder.join("psql"));
    let mut all = std::iter::once(binaries.join("psql")).chain(others);
    all.find(|program| program.exists()).unwrap_or_else(|| "psql".into())
}

fn configure(options: &Options, dir: &Path, data: &Path, port: u16, account: Account) -> io::Result<()> {
    let listen: Vec<String> = options.listen.iter().map(ToString::to_string).collect();
    let stored = if options.auth == "md5" { "md5" } else { "scram-sha-256" };
    let mut settings: Vec<(String, String)> = [
        ("listen_addresses", listen.join(",").as_str()),
        ("port", &port.to_string()),
        ("unix_socket_directories", &dir.display().to_string()),
        ("password_encryption", stored),
        ("fsync", "off"),
        ("synchronous_commit", "off"),
        ("full_page_writes", "off"),
        ("shared_buffers", "16MB"),
        ("max_connections", "50"),
        ("log_statement", "all"),
        ("log_destination", "stderr"),
        ("log_line_prefix", PREFIX),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    if let Some(tls) = &options.tls {
        for (name, file, content) in [
            ("ssl_cert_file", "server.crt", Some(&tls.cert)),
            ("ssl_key_file", "server.key", Some(&tls.key)),
            ("ssl_ca_file", "clients.crt", tls.client_ca.as_ref()),
        ] {
            let Some(content) = content else { continue };
            write(&data.join(file), content, account)?;
            settings.push((name.into(), file.into()));
        }
        settings.push(("ssl".into(), "on".into()));
    }
    settings.extend(options.settings.iter().cloned());
    let lines: String =
        settings.iter().map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect();
    write(&data.join("postgresql.auto.conf"), &lines, account)?;

    let everybody = format!("host all all all {}", options.auth);
    let hba = std::iter::once("local all all trust").chain(options.hba.iter().map(String::as_str));
    let hba: Vec<&str> = hba.chain([everybody.as_str()]).collect();
    write(&data.join("pg_hba.conf"), &(hba.join("\n") + "\n"), account)
}

fn write(path: &Path, content: &str, account: Account) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    own(path, account)
}

fn run(command: &mut Command, name: &str) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{name}: {}: {}", output.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
}

/// User, database and application of each log line, between bytes that stand in none of them.
const PREFIX: &str = "\u{1}%u\u{1}%d\u{1}%a\u{1}";

fn statements(log: &str) -> Vec<Statement> {
    let mut found = Vec::new();
    // An entry goes on in lines that start with a tab.
    let entries = log.replace("\n\t", "\u{2}");
    for entry in entries.lines() {
        let mut fields = entry.strip_prefix('\u{1}').unwrap_or_default().splitn(4, '\u{1}');
        let (Some(user), Some(database), Some(application), Some(rest)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Some(message) = rest.strip_prefix("LOG:  ") else { continue };
        let text = message.strip_prefix("statement: ").or_else(|| {
            // `execute <unnamed>: SELECT 1`, `execute name/portal: ...`
            message.strip_prefix("execute ").and_then(|more| more.split_once(": ")).map(|(_, text)| text)
        });
        if let Some(text) = text.filter(|_| application != OWN_APPLICATION) {
            found.push(Statement { user: user.into(), database: database.into(), text: text.replace('\u{2}', "\n") });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_log_is_read_back_as_statements() {
        let log = "\u{1}bot\u{1}orders\u{1}psql\u{1}LOG:  statement: SELECT 1,\n\t  2\nnoise\n\
                   \u{1}bot\u{1}orders\u{1}\u{1}LOG:  execute <unnamed>: SELECT $1\n\
                   \u{1}bot\u{1}orders\u{1}\u{1}DETAIL:  parameters: $1 = '5'\n\
                   \u{1}postgres\u{1}postgres\u{1}interceptor-fixture\u{1}LOG:  statement: SELECT 3\n";
        let texts: Vec<String> = statements(log).into_iter().map(|statement| statement.text).collect();
        assert_eq!(texts, ["SELECT 1,\n  2", "SELECT $1"]);
    }

    #[test]
    fn a_server_starts_answers_and_is_gone_afterwards() {
        let wrapped = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&wrapped);
        let wrap: Wrap = Box::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let server = Postgres::start(Options { wrap: Some(wrap), ..Options::default() }).unwrap();
        assert_eq!(wrapped.load(Ordering::SeqCst), 1);
        assert_eq!(server.sql("SELECT 40 + 2").unwrap(), "42");
        assert!(server.sql("SELECT nonsense").unwrap_err().to_string().contains("nonsense"));
        assert_eq!(server.statements(), []);
        let (pid, dir) = (server.pid(), server.socket_dir().to_owned());
        drop(server);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!dir.exists());
    }
}
