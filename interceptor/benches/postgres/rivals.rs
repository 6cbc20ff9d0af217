//! Routes to the server: none in between, other proxies, interceptor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use interceptor::testing::stage::{AGENT_UID, DATABASE, Stage, UPSTREAM_USER};
use interceptor::testing::world::{FAR4, Place};

use super::Failure;

/// A way to the server.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) name: &'static str,
    host: String,
    port: u16,
    user: &'static str,
    /// The governed cgroup of its clients.
    governed: Option<&'static str>,
    /// Its process; none for direct.
    process: Option<Process>,
}

#[derive(Debug)]
enum Process {
    Own(Child),
    Other(u32),
}

impl Drop for Route {
    fn drop(&mut self) {
        if let Some(Process::Own(child)) = &mut self.process {
            let _ends = child.kill();
            let _status = child.wait();
        }
    }
}

impl Route {
    /// Process id of what stands in between.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| match process {
            Process::Own(child) => child.id(),
            Process::Other(pid) => *pid,
        })
    }

    /// Lets a command take this route: `PG*` variables and `URL`.
    pub(crate) fn prepare(&self, command: &mut Command, password: &str) {
        command.env("PGHOST", &self.host).env("PGPORT", self.port.to_string()).env("PGUSER", self.user);
        command.env("PGDATABASE", DATABASE).env("PGPASSWORD", password).env("PGSSLMODE", "disable");
        let url = format!(
            "host={} port={} user={} dbname={DATABASE} password={password} sslmode=disable",
            self.host, self.port, self.user
        );
        command.env("URL", url).env("HOME", "/nonexistent").current_dir("/");
    }

    /// Starts a client on this route.
    pub(crate) fn spawn(&self, stage: &Stage, mut command: Command) -> Result<Child, Failure> {
        let password = fs::read_to_string(stage.path("orders_rw.password"))?;
        self.prepare(&mut command, &password);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let place = self.governed.map_or(Place::Outside, Place::Agent);
        Ok(stage.world.spawn_as(place, Some(AGENT_UID), command)?)
    }
}

/// Every route that can be had here, and why others cannot.
pub(crate) fn all(stage: &Stage, wanted: &[String]) -> Result<Vec<Route>, Failure> {
    let password = fs::read_to_string(stage.path("orders_rw.password"))?;
    let mut routes = Vec::new();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    if is_wanted("direct") {
        routes.push(route("direct", FAR4.to_string(), 5432, UPSTREAM_USER, None));
    }
    let rivals: [(&'static str, u16, &'static str, Maker); 3] = [
        ("pgbouncer", 6432, "anyone", pgbouncer),
        ("haproxy", 6433, UPSTREAM_USER, haproxy),
        ("envoy", 6434, UPSTREAM_USER, envoy),
    ];
    for (name, port, user, make) in rivals {
        if !is_wanted(name) {
            continue;
        }
        match make(stage, port, &password) {
            Ok(child) => {
                sleep(Duration::from_millis(700));
                routes.push(route(name, "127.0.0.1".to_owned(), port, user, Some(Process::Own(child))));
            }
            Err(why) => eprintln!("without {name}: {why}"),
        }
    }
    for (name, cgroup) in OWN {
        if is_wanted(name) {
            routes.push(own(stage, name, cgroup, 5432)?);
        }
    }
    Ok(routes)
}

/// interceptor for an agent that may see everything, and for one whose answers are masked, and the agents' cgroups.
pub(crate) const OWN: [(&str, &str); 2] = [("interceptor", "trusted"), ("masking", "billing")];

fn own(stage: &Stage, name: &'static str, cgroup: &'static str, port: u16) -> Result<Route, Failure> {
    let daemon = stage.daemon_pid().ok_or("no daemon")?;
    let mut own = route(name, FAR4.to_string(), port, "billing", Some(Process::Other(daemon)));
    own.governed = Some(cgroup);
    Ok(own)
}

type Maker = fn(&Stage, u16, &str) -> Result<Child, Failure>;

fn route(name: &'static str, host: String, port: u16, user: &'static str, process: Option<Process>) -> Route {
    Route { name, host, port, user, governed: None, process }
}

/// In session mode: the others keep a server connection for each client, too.
fn pgbouncer(stage: &Stage, port: u16, password: &str) -> Result<Child, Failure> {
    pgbouncer_at(stage, Place::Outside, &format!("127.0.0.1:{port}"), password, "session")
}

/// Where a pgbouncer in transaction mode stands before the server, on the far side.
pub(crate) const POOL_PORT: u16 = 5433;

/// A pgbouncer for many idle clients.
pub(crate) fn pool(stage: &Stage) -> Result<Route, Failure> {
    let password = fs::read_to_string(stage.path("orders_rw.password"))?;
    let child = pgbouncer_at(stage, Place::Far, &format!("{FAR4}:{POOL_PORT}"), &password, "transaction")?;
    sleep(Duration::from_millis(700));
    Ok(route("pgbouncer", FAR4.to_string(), POOL_PORT, "anyone", Some(Process::Own(child))))
}

/// The routes to the pool: straight, and through interceptor where that is among `routes`.
pub(crate) fn to_pool(stage: &Stage, pool: &Route, routes: &[Route]) -> Result<Vec<Route>, Failure> {
    let pid = pool.pid().ok_or("the pool has ended")?;
    let mut found = vec![route(pool.name, FAR4.to_string(), POOL_PORT, pool.user, Some(Process::Other(pid)))];
    for (name, cgroup) in OWN {
        if routes.iter().any(|route| route.name == name) {
            found.push(own(stage, name, cgroup, POOL_PORT)?);
        }
    }
    Ok(found)
}

fn pgbouncer_at(stage: &Stage, place: Place<'_>, address: &str, password: &str, mode: &str) -> Result<Child, Failure> {
    let (host, port) = address.split_once(':').ok_or("an address has a port")?;
    let text = format!(
        "[databases]\n{DATABASE} = host={FAR4} port=5432 dbname={DATABASE} user={UPSTREAM_USER} password={password}\n\
         [pgbouncer]\nlisten_addr = {host}\nlisten_port = {port}\nauth_type = any\npool_mode = {mode}\n\
         default_pool_size = 80\nmax_client_conn = 12000\nunix_socket_dir =\nlog_connections = 0\n\
         log_disconnections = 0\nignore_startup_parameters = extra_float_digits\n"
    );
    let file = written(stage, &format!("pgbouncer-{port}.ini"), &text)?;
    let mut command = Command::new(program("pgbouncer", &["/usr/sbin/pgbouncer"])?);
    command.arg("-q").arg(file);
    start_in(stage, place, command)
}

fn haproxy(stage: &Stage, port: u16, _password: &str) -> Result<Child, Failure> {
    let text = format!(
        "global\n nbthread 1\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
         listen postgres\n bind 127.0.0.1:{port}\n server one {FAR4}:5432\n"
    );
    let file = written(stage, "haproxy.cfg", &text)?;
    let mut command = Command::new(program("haproxy", &["/usr/sbin/haproxy"])?);
    command.args(["-q", "-db", "-f"]).arg(file);
    start(stage, command)
}

fn envoy(stage: &Stage, port: u16, _password: &str) -> Result<Child, Failure> {
    let address = |host: &str, port: u16| format!("{{ socket_address: {{ address: {host}, port_value: {port} }} }}");
    let proxy = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    let text = format!(
        "static_resources:\n  listeners:\n  - address: {}\n    filter_chains:\n    - filters:\n\
         \x20     - name: envoy.filters.network.tcp_proxy\n        typed_config:\n          \"@type\": {proxy}\n\
         \x20         stat_prefix: p\n          cluster: postgres\n  clusters:\n  - name: postgres\n\
         \x20   connect_timeout: 5s\n    type: STATIC\n    load_assignment:\n      cluster_name: postgres\n\
         \x20     endpoints:\n      - lb_endpoints:\n        - endpoint: {{ address: {} }}\n",
        address("127.0.0.1", port),
        address(&FAR4.to_string(), 5432)
    );
    let file = written(stage, "envoy.yaml", &text)?;
    let installed = std::env::var_os("INTERCEPTOR_CLIENTS").map(PathBuf::from).unwrap_or_default();
    let found = find_envoy(&installed.join("bench")).ok_or("it is not installed")?;
    let mut command = Command::new(found);
    command.args(["--log-level", "error", "--concurrency", "2", "--disable-hot-restart", "-c"]).arg(file);
    start(stage, command)
}

/// The program inside of its Python package.
fn find_envoy(environment: &Path) -> Option<PathBuf> {
    let mut waiting = vec![environment.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let (path, kind) = (entry.path(), entry.file_type().ok()?);
            let big = || entry.metadata().is_ok_and(|found| found.len() > 10 << 20);
            if kind.is_file()
                && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("envoy"))
                && big()
            {
                return Some(path);
            }
            if kind.is_dir() {
                waiting.push(path);
            }
        }
    }
    None
}

fn start(stage: &Stage, command: Command) -> Result<Child, Failure> {
    start_in(stage, Place::Outside, command)
}

fn start_in(stage: &Stage, place: Place<'_>, mut command: Command) -> Result<Child, Failure> {
    let log = fs::OpenOptions::new().create(true).append(true).open(stage.path("rivals.log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    Ok(stage.world.spawn_as(place, Some(AGENT_UID), command)?)
}

fn written(stage: &Stage, name: &str, text: &str) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = stage.path(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    Ok(path)
}

fn program(name: &str, places: &[&str]) -> Result<PathBuf, Failure> {
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| format!("{name} is not installed").into())
}
