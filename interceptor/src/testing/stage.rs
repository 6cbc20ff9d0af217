//! A whole stage: namespaces and cgroups, a PostgreSQL with sample data on the far side, a token issuer, a configuration,
//! and the daemon itself, as its own process with the real kernel programs. For system tests and the demo.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::doorkeeper::Doorkeeper;
use super::issuer::{KeyKind, TestIssuer};
use super::manager::Manager;
use super::postgres::{Options, Postgres, ServerTls};
use super::units;
use super::world::{FAR4, FAR6, Place, World};
use crate::clock::{Clock as _, SystemClock};

/// Database of the sample data.
pub const DATABASE: &str = "orders";
/// User that interceptor logs in as.
pub const UPSTREAM_USER: &str = "orders_rw";
/// Name under which agents know the server.
pub const HOST: &str = "orders-db.internal";
/// Name of the token issuer, for servers of a test's own on the far side.
pub const IDP: &str = "idp.corp.example";
/// Name of a Kubernetes API server of a test's own, likewise.
pub const CLUSTER: &str = "kube.corp.example";
/// User id of the governed agents.
pub const AGENT_UID: u32 = 61_001;
/// A card number in the sample data: what must never reach the agent, the spool or a log.
pub const CARD: &str = "4111111111111111";
/// An e-mail address in the sample data, likewise.
pub const EMAIL: &str = "ada@example.com";

/// What the stage is like.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// More Cedar policies, besides those that ship.
    pub policies: String,
    /// More lines of configuration.
    pub configuration: String,
    /// Seconds that the agent's token lives; 3600 where absent.
    pub token_seconds: Option<i64>,
    /// TLS of the server, where it is to have any.
    pub server_tls: Option<ServerTls>,
    /// More settings of the server.
    pub server_settings: Vec<(String, String)>,
    /// Lines of the server's `pg_hba.conf`, before the one that asks everybody for SCRAM.
    pub hba: Vec<String>,
    /// The daemon is started by a service manager.
    pub managed: bool,
    /// Capabilities of the daemon, which then runs as `nobody`, prepared by root.
    pub capabilities: Option<Vec<String>>,
    /// `WATCHDOG_USEC` of the manager.
    pub watchdog: Option<Duration>,
}

/// The stage. Dropping it ends and removes everything.
#[derive(Debug)]
pub struct Stage {
    daemon: Option<Child>,
    /// What opens network namespaces for it, once that is started.
    pub doorkeeper: Option<Doorkeeper>,
    /// The server, which agents may not reach but through interceptor.
    pub server: Postgres,
    /// The issuer of tokens.
    pub issuer: TestIssuer,
    /// Where everything of the stage lies.
    pub directory: TempDir,
    /// What starts the daemon and keeps its sockets, where the script says so.
    pub manager: Option<Manager>,
    /// Capabilities of the daemon, where it is not root.
    pub capabilities: Option<Vec<String>>,
    binary: PathBuf,
    /// Namespaces and cgroups; last, so that it outlives what runs in it.
    pub world: World,
}

/// Why a stage could not be set.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Stage {
    /// Sets the stage, with the daemon ready. `binary` is the program under test.
    ///
    /// # Errors
    /// When anything cannot be made: most often for want of root, or of PostgreSQL.
    pub fn set(binary: &Path, script: &Script) -> Result<Self, Failure> {
        let world = World::new(&[HOST, IDP, CLUSTER])?;
        let directory = TempDir::new()?;
        // Agents run as another user and read their token in there.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let server = start_server(&world, script)?;
        let password = sample_data(&server)?;
        let issuer = TestIssuer::new("https://idp.corp.example", KeyKind::Ec)?;
        let mut manager = script.managed.then(|| Manager::new(directory.path())).transpose()?;
        if let Some(manager) = &mut manager {
            manager.watchdog = script.watchdog;
        }
        let (binary, capabilities) = (binary.to_path_buf(), script.capabilities.clone());
        let mut stage =
            Self { daemon: None, doorkeeper: None, server, issuer, directory, manager, capabilities, binary, world };
        stage.write_files(&password, script)?;
        stage.write_token("svc:billing", script.token_seconds.unwrap_or(3600))?;
        stage.start_daemon()?;
        Ok(stage)
    }

    /// Writes the agent's token file anew.
    ///
    /// # Errors
    /// When it cannot be signed or written.
    pub fn write_token(&self, subject: &str, seconds: i64) -> Result<(), Failure> {
        let token = self.token(subject, seconds)?;
        let path = self.path("token");
        fs::write(&path, token)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    /// A signed token of the billing agent.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, subject: &str, seconds: i64) -> Result<String, Failure> {
        let now = SystemClock::new().now().unix();
        self.issuer.good(subject, "interceptor", &["finance"], now, seconds)
    }

    /// Starts the daemon and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time; with its log.
    pub fn start_daemon(&mut self) -> Result<(), Failure> {
        if self.capabilities.is_some() {
            self.prepare()?;
        }
        self.start_unprepared()
    }

    /// As [`Stage::start_daemon`], where root has prepared nothing for a daemon that is not root.
    ///
    /// # Errors
    /// Likewise.
    pub fn start_unprepared(&mut self) -> Result<(), Failure> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log"))?;
        let mut command = self.interceptor(&["run"]);
        if let Some(capabilities) = &self.capabilities {
            command = as_nobody(&command, capabilities);
        }
        command.env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()));
        let before = self.log().matches(": ready").count();
        let out = log.try_clone()?;
        let mut daemon = match &self.manager {
            Some(manager) => manager.start(&self.world, &command, |shell| {
                shell.stdout(out).stderr(log);
            })?,
            None => {
                command.stdin(Stdio::null()).stdout(out).stderr(log);
                self.world.spawn_in(Place::Daemon, command)?
            }
        };
        for _ in 0..4000 {
            if let Some(status) = daemon.try_wait()? {
                return Err(format!("the daemon ended ({status}):\n{}", self.log()).into());
            }
            if self.log().matches(": ready").count() > before {
                self.daemon = Some(daemon);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        let _ends = daemon.kill();
        let _status = daemon.wait();
        Err(format!("the daemon is not ready in time:\n{}", self.log()).into())
    }

    /// Starts what opens network namespaces for a daemon without that right, as its unit has it; beside a daemon that runs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_doorkeeper(&mut self) -> Result<(), Failure> {
        self.doorkeeper = None;
        let (path, log) = (self.path("namespaces.sock"), self.path("doorkeeper.log"));
        let daemon = (NOBODY_ID.parse()?, NOBODY);
        let capabilities = units::capabilities(units::DOORKEEPER);
        let program = |arguments: &[&str]| self.interceptor(arguments);
        let started = Doorkeeper::start(&self.world, program, &capabilities, (&path, &log), daemon)?;
        self.doorkeeper = Some(started);
        Ok(())
    }

    /// Does as root what the daemon may not, in its cgroup.
    ///
    /// # Errors
    /// With its words.
    pub fn prepare(&self) -> Result<(), Failure> {
        let mut command = self.interceptor(&["prepare", "--user", NOBODY]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.world.spawn_in(Place::Daemon, command)?.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!(
            "not prepared: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .into())
    }

    /// Tells the daemon to stop, and waits until it has.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn stop_daemon(&mut self) -> io::Result<()> {
        if let Some(mut daemon) = self.terminate_daemon()? {
            daemon.wait()?;
        }
        Ok(())
    }

    /// Tells the daemon to stop, and does not wait.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn terminate_daemon(&mut self) -> io::Result<Option<Child>> {
        let Some(daemon) = self.daemon.take() else { return Ok(None) };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).map_err(io::Error::other)?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        Ok(Some(daemon))
    }

    /// Ends the daemon without warning, as a crash would.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn kill_daemon(&mut self) -> io::Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(())
    }

    /// Process id of the daemon, while it runs.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// What the daemon logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// The program under test with these arguments and the stage's configuration; to be run outside of any agent.
    #[must_use]
    pub fn interceptor(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(self.path("interceptor.toml")).args(arguments);
        command
    }

    /// Runs the program under test, as the operator does, to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn operate(&self, arguments: &[&str]) -> io::Result<Output> {
        let mut command = self.interceptor(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.world.spawn_in(Place::Outside, command)?.wait_with_output()
    }

    /// Starts a command as the governed agent: its cgroup, its namespace, its user.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_agent(&self, command: Command) -> io::Result<Child> {
        self.spawn_agent_in("billing", command)
    }

    /// Starts a command as the same user in another governed cgroup.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_agent_in(&self, cgroup: &str, command: Command) -> io::Result<Child> {
        self.world.spawn_as(Place::Agent(cgroup), Some(AGENT_UID), as_agent(command))
    }

    /// Runs a command as the governed agent, to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run_agent(&self, mut command: Command) -> io::Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn_agent(command)?.wait_with_output()
    }

    /// `psql` with the agent's original connection string, running these statements one by one.
    #[must_use]
    pub fn psql(&self, statements: &[&str]) -> Command {
        let mut command = Command::new("psql");
        command.args(["-X", "-v", "VERBOSITY=verbose", &self.url()]);
        for statement in statements {
            command.args(["-c", statement]);
        }
        command
    }

    /// The agent's original connection string.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://billing:the-shared-password@{HOST}:5432/{DATABASE}?sslmode=disable")
    }

    /// A path of the stage.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_files(&self, password: &str, script: &Script) -> Result<(), Failure> {
        self.issuer.write_jwks(&self.path("jwks.json"))?;
        fs::write(self.path("orders_rw.password"), password)?;
        fs::set_permissions(self.path("orders_rw.password"), fs::Permissions::from_mode(0o600))?;
        let policies = self.path("policies");
        fs::create_dir_all(&policies)?;
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
        let more = ["kubernetes", "mcp"].into_iter();
        let more = more.filter(|name| script.configuration.contains(&format!("protocol = \"{name}\"")));
        for name in more.map(|name| format!("baseline-{name}.cedar")).chain(["baseline.cedar".to_owned()]) {
            fs::copy(shipped.join(&name), policies.join(&name))?;
        }
        fs::write(policies.join("stage.cedar"), STAGE_POLICIES)?;
        fs::write(policies.join("test.cedar"), &script.policies)?;
        fs::write(self.path("interceptor.toml"), self.configuration(&script.configuration))?;
        Ok(())
    }

    fn configuration(&self, more: &str) -> String {
        let directory = self.directory.path().display();
        let agents = self.world.agents_cgroup();
        let daemon = self.world.cgroup(Place::Daemon);
        let pins = self.world.pins().join("interceptor").display().to_string();
        format!(
            r#"
[capture]
cgroups = ["{agents}"]
daemon_cgroup = "{daemon}"
pin_directory = "{pins}"
resolver = "none"
namespaces_socket = "{directory}/namespaces.sock"

[[issuer]]
name = "corp"
kind = "oidc"
issuer = "https://idp.corp.example"
audience = "interceptor"
jwks = "{directory}/jwks.json"

[[agent]]
name = "billing-bot"
match = {{ cgroup = "{agents}/billing", uid = {AGENT_UID} }}
token = {{ issuer = "corp", from = "file:{directory}/token", subject = "svc:billing", groups = ["finance"] }}

[[target]]
name = "orders-db"
protocol = "postgres"
hosts = ["{HOST}:5432"]
tls = {{ upstream = "disable" }}
credential = {{ user = "{UPSTREAM_USER}", password = "file:{directory}/orders_rw.password" }}

[[mask]]
tag = "card"
columns = ["*.card"]
detect = ["card"]
transform = {{ keep_last = 4 }}

[[mask]]
tag = "pii"
columns = ["public.customers.email", "*.ssn"]
transform = "redact"

[policy]
dir = "{directory}/policies"

[approval]
state = "{directory}/approvals"
timeout_seconds = 20

[record]
spool = "{directory}/spool"
key = "{directory}/spool.key"

[admin]
socket = "{directory}/admin.sock"

{more}
"#
        )
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _nothing_left_to_stop = self.kill_daemon();
    }
}

/// Policies of the stage: what the billing agent may do.
const STAGE_POLICIES: &str = r#"
@id("billing-reads-and-writes-orders")
permit (principal in Group::"finance", action in [Action::"sql:read", Action::"sql:write"], resource);

@id("billing-may-ask-to-drop")
permit (principal in Group::"finance", action in [Action::"sql:drop", Action::"sql:truncate"], resource);

@id("customers-are-read-only")
@reason("agents may not change customers")
@remedy("open a ticket with the customer team")
forbid (
    principal,
    action in [Action::"sql:insert", Action::"sql:update", Action::"sql:delete"],
    resource == Table::"orders-db/orders/public/customers"
);
"#;

/// Rows that tests and the demo know.
const SAMPLE: &str = r"
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, email text, card text, ssn varchar(11), balance numeric);
INSERT INTO customers VALUES
    (1, 'Ada Lovelace', 'ada@example.com', '4111111111111111', '078-05-1120', 1200.50),
    (2, 'Grace Hopper', 'grace@example.com', '5500005555555559', '219-09-9999', 87.00),
    (3, 'Alan Turing', NULL, NULL, NULL, 0);
CREATE TABLE orders (id serial PRIMARY KEY, customer int REFERENCES customers, item text, amount numeric, note text);
INSERT INTO orders (customer, item, amount, note) VALUES
    (1, 'engine', 99.90, 'paid with 4111 1111 1111 1111'), (2, 'compiler', 10.00, NULL), (1, 'loom', 7.25, 'gift');
CREATE TABLE scratch (id int, what text);
INSERT INTO scratch SELECT n, 'row ' || n FROM generate_series(1, 1000) n;
CREATE VIEW spending AS SELECT c.id, c.name, c.card, sum(o.amount) AS total
    FROM customers c JOIN orders o ON o.customer = c.id GROUP BY c.id;
ANALYZE;
";

fn start_server(world: &World, script: &Script) -> Result<Postgres, Failure> {
    let entrance = world.entrance(Place::Far)?;
    let options = Options {
        listen: vec![FAR4.into(), FAR6.into()],
        port: Some(5432),
        tls: script.server_tls.clone(),
        hba: script.hba.clone(),
        settings: script.server_settings.clone(),
        wrap: Some(Box::new(move |command| entrance.enter_before_exec(command))),
        ..Options::default()
    };
    Ok(Postgres::start(options)?)
}

/// Fills the database and returns the password of [`UPSTREAM_USER`], which nobody but interceptor gets.
fn sample_data(server: &Postgres) -> Result<String, Failure> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    server.sql(&format!("CREATE ROLE {UPSTREAM_USER} LOGIN PASSWORD '{password}'"))?;
    server.sql(&format!("CREATE DATABASE {DATABASE} OWNER {UPSTREAM_USER}"))?;
    server.sql_in(
        DATABASE,
        &format!("ALTER SCHEMA public OWNER TO {UPSTREAM_USER}; SET ROLE {UPSTREAM_USER}; {SAMPLE}"),
    )?;
    Ok(password)
}

/// A user that every system has, and its number.
const NOBODY: &str = "nobody";
const NOBODY_ID: &str = "65534";

/// The command as a user of its own with these capabilities (`sys_ptrace`) and no way to more, as its unit has it.
fn as_nobody(command: &Command, capabilities: &[String]) -> Command {
    let set: String = capabilities.iter().map(|one| format!(",+{one}")).collect();
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid", NOBODY_ID, "--regid", NOBODY_ID, "--clear-groups", "--no-new-privs"]);
    setpriv.arg(format!("--inh-caps=-all{set}")).arg(format!("--ambient-caps=-all{set}"));
    setpriv.arg(format!("--bounding-set=-all{set}")).arg(command.get_program()).args(command.get_args());
    setpriv
}

/// The command without root's environment.
fn as_agent(mut command: Command) -> Command {
    command.env("HOME", "/nonexistent").current_dir("/");
    command
}
