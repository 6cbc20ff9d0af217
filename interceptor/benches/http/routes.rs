//! The stage, the routes over it, and what is asked on each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use interceptor::testing::stage::{AGENT_UID, Script, Stage};
use interceptor::testing::world::{FAR4, Place};

use super::measure::{cpu, median};
use super::report::Row;
use super::{Arguments, Failure};

/// Where nginx listens for HTTP/1.1 and, without TLS, for HTTP/2.
const ONE: u16 = 8080;
const TWO: u16 = 8081;

const POLICIES: &str = "@id(\"web\")\npermit (principal, action in Action::\"http:read\", resource in Target::\"web\");\n\
     @id(\"trusted-sees-all\")\npermit (principal == Machine::\"trusted-bot\", action == Action::\"unmask\", resource);\n";

/// What is asked, over which version, and by how many at once.
struct Scenario {
    name: &'static str,
    path: &'static str,
    two: bool,
    connections: u32,
    /// Under way at once on each.
    streams: u32,
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "small, 1 client", path: "/v1/small", two: false, connections: 1, streams: 1 },
    Scenario { name: "small, 16 clients", path: "/v1/small", two: false, connections: 16, streams: 1 },
    Scenario { name: "1 MB, 4 clients", path: "/v1/big", two: false, connections: 4, streams: 1 },
    Scenario {
        name: "HTTP/2, small, 4 clients with 16 requests each",
        path: "/v1/small",
        two: true,
        connections: 4,
        streams: 16,
    },
    Scenario { name: "HTTP/2, 1 MB, 4 clients", path: "/v1/big", two: true, connections: 4, streams: 1 },
];

/// A way to the target.
struct Route {
    name: &'static str,
    /// Host and ports for both versions; a proxy may not speak the newer one.
    host: String,
    one: u16,
    two: Option<u16>,
    governed: Option<&'static str>,
    pid: Option<u32>,
    _own: Option<Process>,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Vec<Row>, Failure> {
    eprintln!("setting the stage");
    let configuration = format!(
        "\n[[target]]\nname = \"web\"\nprotocol = \"http\"\nhosts = [\"{FAR4}:{ONE}\", \"{FAR4}:{TWO}\"]\n\
         tls = {{ upstream = \"disable\" }}\ncredential = {{ user = \"svc\", password = \"plain:the-targets-own\" }}\n\
         [target.http]\nroutes = [\"/v1/{{name}}\"]\n"
    );
    let script = Script { configuration, policies: POLICIES.to_owned(), ..Script::default() };
    let stage = Stage::set(Path::new(env!("CARGO_BIN_EXE_interceptor")), &script)?;
    trust(&stage)?;
    let _target = target(&stage)?;
    let routes = all(&stage, &arguments.routes)?;
    let mut rows = Vec::new();
    for scenario in SCENARIOS {
        if arguments.only.as_ref().is_some_and(|only| !scenario.name.contains(only.as_str())) {
            continue;
        }
        eprintln!("{}", scenario.name);
        rows.extend(scenario_rows(&stage, &routes, scenario, arguments));
    }
    Ok(rows)
}

/// Every route in each round, so that all see the same machine.
fn scenario_rows(stage: &Stage, routes: &[Route], scenario: &Scenario, arguments: &Arguments) -> Vec<Row> {
    let routes: Vec<&Route> = routes.iter().filter(|route| !scenario.two || route.two.is_some()).collect();
    let mut rounds: Vec<Vec<(f64, Option<f64>)>> = routes.iter().map(|_| Vec::new()).collect();
    for _ in 0..arguments.rounds {
        for (route, measured) in routes.iter().zip(&mut rounds) {
            match load(stage, route, scenario, arguments.seconds) {
                Ok(one) => measured.push(one),
                Err(why) => eprintln!("  without {}: {why}", route.name),
            }
        }
    }
    let direct: Vec<f64> = rounds.first().map(|rounds| rounds.iter().map(|one| one.0).collect()).unwrap_or_default();
    let row = |(route, measured): (&&Route, &Vec<(f64, Option<f64>)>)| {
        let ratios = measured.iter().zip(&direct).map(|(one, direct)| one.0 / direct.max(1.0)).collect();
        let cpus: Vec<f64> = measured.iter().filter_map(|one| one.1).collect();
        Row {
            scenario: scenario.name,
            route: route.name,
            rate: median(measured.iter().map(|one| one.0).collect()),
            cpu: (!cpus.is_empty()).then(|| median(cpus)),
            ratio: median(ratios),
        }
    };
    routes.iter().zip(&rounds).filter(|(_, measured)| !measured.is_empty()).map(row).collect()
}

/// Requests in a second, and the proxy's processor time for each in microseconds.
fn load(stage: &Stage, route: &Route, scenario: &Scenario, seconds: u32) -> Result<(f64, Option<f64>), Failure> {
    let port = if scenario.two { route.two.ok_or("it does not speak HTTP/2")? } else { route.one };
    let mut client = Command::new(program("h2load", &["/usr/bin/h2load"])?);
    client.args(["-t", "1", "-c", &scenario.connections.to_string(), "-m", &scenario.streams.to_string()]);
    client.args(["-D", &seconds.to_string(), "--warm-up-time", "1"]);
    client.arg(if scenario.two { "-ph2c" } else { "--h1" });
    client.arg(format!("http://{}:{port}{}", route.host, scenario.path));
    client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let place = route.governed.map_or(Place::Outside, Place::Agent);
    let before = route.pid.map(cpu);
    let output = stage.world.spawn_as(place, Some(AGENT_UID), client)?.wait_with_output()?;
    let used = route.pid.map(cpu).zip(before).map(|(after, before)| after.saturating_sub(before));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let figure = |line: &str, word: &str| -> Option<f64> {
        let words: Vec<&str> = text
            .lines()
            .find(|found| found.starts_with(line))?
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .collect();
        words.iter().position(|found| *found == word).and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok())
    };
    let (rate, good, bad) =
        (figure("finished in", "req/s"), figure("status codes:", "2xx"), figure("requests:", "failed"));
    let (Some(rate), Some(good), Some(bad)) = (rate, good, bad) else {
        return Err(format!("h2load says: {text}{}", String::from_utf8_lossy(&output.stderr)).into());
    };
    if good == 0.0 || bad > good / 100.0 {
        return Err(format!("not every request was answered: {text}").into());
    }
    // The warm-up costs as well: its share is taken to be that of its time.
    let share = f64::from(seconds) / f64::from(seconds + 1);
    Ok((rate, used.map(|used| used.as_secs_f64() * 1e6 * share / (rate * f64::from(seconds)))))
}

fn trust(stage: &Stage) -> Result<(), Failure> {
    let path = stage.path("interceptor.toml");
    let text = fs::read_to_string(&path)?;
    let agent = format!(
        "\n[[agent]]\nname = \"trusted-bot\"\nmatch = {{ cgroup = \"{}/trusted\", uid = {AGENT_UID} }}\n\
         token = {{ issuer = \"corp\", from = \"file:{}\", subject = \"svc:billing\", groups = [\"finance\"] }}\n",
        stage.world.agents_cgroup(),
        stage.path("token").display()
    );
    fs::write(&path, text + &agent)?;
    let reloaded = stage.operate(&["reload"])?;
    if reloaded.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&reloaded.stderr).into()) }
}

/// nginx on the far side: a short answer, and one of a megabyte.
fn target(stage: &Stage) -> Result<Process, Failure> {
    let row = |n: u32| format!("{{\"id\":{n},\"name\":\"Ada {n}\",\"note\":\"{}\"}}", "lorem ipsum ".repeat(6));
    let rows: Vec<String> = (0..9000).map(row).collect();
    written(stage, "big", &format!("[{}]", rows.join(",\n")))?;
    let directory = stage.path("").display().to_string();
    let places = format!(
        "default_type application/json; keepalive_requests 1000000000; access_log off;\n\
         location /v1/small {{ return 200 '{{\"id\":7,\"name\":\"Ada\",\"mail\":\"ada at example\"}}'; }}\n\
         location /v1/big {{ alias {directory}/big; }}"
    );
    let servers =
        format!("server {{ listen {FAR4}:{ONE}; {places} }}\nserver {{ listen {FAR4}:{TWO} http2; {places} }}");
    nginx(stage, Place::Far, "target", &servers)
}

fn nginx(stage: &Stage, place: Place<'_>, name: &str, servers: &str) -> Result<Process, Failure> {
    let directory = stage.path("").display().to_string();
    let text = format!(
        "daemon off; master_process off; pid /dev/null; error_log stderr;\nevents {{ worker_connections 4096; }}\n\
         http {{ access_log off; client_body_temp_path {directory}/{name}-body; proxy_temp_path {directory}/{name}-proxy; \
         fastcgi_temp_path {directory}/{name}-f; uwsgi_temp_path {directory}/{name}-u; scgi_temp_path {directory}/{name}-s;\n{servers}\n}}"
    );
    let file = written(stage, &format!("{name}.conf"), &text)?;
    let mut command = Command::new(program("nginx", &["/usr/sbin/nginx"])?);
    command.arg("-c").arg(file);
    start(stage, place, None, command)
}

/// Every route that can be had here, and why others cannot.
fn all(stage: &Stage, wanted: &[String]) -> Result<Vec<Route>, Failure> {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    let far = FAR4.to_string();
    let mut routes = vec![Route {
        name: "direct",
        host: far.clone(),
        one: ONE,
        two: Some(TWO),
        governed: None,
        pid: None,
        _own: None,
    }];
    type Maker = fn(&Stage, u16) -> Result<Process, Failure>;
    let rivals: [(&'static str, u16, bool, Maker); 3] =
        [("nginx", 8100, false, proxying), ("haproxy", 8110, true, haproxy), ("mitmproxy", 8120, false, mitmproxy)];
    for (name, port, two, make) in rivals.into_iter().filter(|rival| is_wanted(rival.0)) {
        match make(stage, port) {
            Ok(own) => {
                sleep(Duration::from_secs(if name == "mitmproxy" { 5 } else { 1 }));
                let (host, two, pid) = ("127.0.0.1".to_owned(), two.then_some(port + 1), Some(own.0.id()));
                routes.push(Route { name, host, one: port, two, governed: None, pid, _own: Some(own) });
            }
            Err(why) => eprintln!("without {name}: {why}"),
        }
    }
    for (name, cgroup) in [("interceptor", "trusted"), ("masking", "billing")] {
        if is_wanted(name) {
            let pid = Some(stage.daemon_pid().ok_or("no daemon")?);
            routes.push(Route {
                name,
                host: far.clone(),
                one: ONE,
                two: Some(TWO),
                governed: Some(cgroup),
                pid,
                _own: None,
            });
        }
    }
    Ok(routes)
}

fn proxying(stage: &Stage, port: u16) -> Result<Process, Failure> {
    let servers = format!(
        "upstream far {{ server {FAR4}:{ONE}; keepalive 64; }}\n\
         server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000000; \
         location / {{ proxy_pass http://far; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}"
    );
    nginx(stage, Place::Outside, "proxy", &servers)
}

fn haproxy(stage: &Stage, port: u16) -> Result<Process, Failure> {
    let text = format!(
        "global\n nbthread 1\ndefaults\n mode http\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n http-reuse always\n\
         listen one\n bind 127.0.0.1:{port}\n server far {FAR4}:{ONE}\n\
         listen two\n bind 127.0.0.1:{} proto h2\n server far {FAR4}:{TWO} proto h2\n",
        port + 1
    );
    let file = written(stage, "haproxy.cfg", &text)?;
    let mut command = Command::new(program("haproxy", &["/usr/sbin/haproxy"])?);
    command.args(["-q", "-db", "-f"]).arg(file);
    start(stage, Place::Outside, Some(AGENT_UID), command)
}

fn mitmproxy(stage: &Stage, port: u16) -> Result<Process, Failure> {
    let installed = std::env::var_os("INTERCEPTOR_CLIENTS").map(PathBuf::from).unwrap_or_default();
    let found = installed.join("bench/bin/mitmdump");
    if !found.exists() {
        return Err("it is not installed".into());
    }
    let mut command = Command::new(found);
    command.args(["--quiet", "--mode", &format!("reverse:http://{FAR4}:{ONE}"), "--listen-host", "127.0.0.1"]);
    command.args(["--listen-port", &port.to_string(), "--set", &format!("confdir={}", stage.path("mitm").display())]);
    start(stage, Place::Outside, None, command)
}

fn start(stage: &Stage, place: Place<'_>, uid: Option<u32>, mut command: Command) -> Result<Process, Failure> {
    let log = fs::OpenOptions::new().create(true).append(true).open(stage.path("rivals.log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    Ok(Process(stage.world.spawn_as(place, uid, command)?))
}

fn program(name: &str, places: &[&str]) -> Result<PathBuf, Failure> {
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| format!("{name} is not installed").into())
}

fn written(stage: &Stage, name: &str, text: &str) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = stage.path(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    Ok(path)
}
