//! The three routes, each in a world of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use interceptor::capture::{Config, Resolver};
use interceptor::testing::world::{FAR4, Place, World};

use super::roles::{Role, Round};
use super::{Arguments, Failure};

/// Where the echo is.
const ECHO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7000);
/// What is asked for where somebody else decides where it goes.
const ASKED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(FAR4), 7000);
const RULES: &str = "table ip bench { chain out { type nat hook output priority -100; ip daddr 10.99.0.2 tcp dport 7000 redirect to :7000; }; }";
const LIMIT: Duration = Duration::from_secs(20);

/// What was measured of a route.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) route: &'static str,
    pub(crate) rounds: Vec<Round>,
}

/// A route: a client, and what answers it. Dropping the world ends both.
struct Route {
    name: &'static str,
    client: Process,
    _answers: Process,
    _world: World,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Vec<Row>, Failure> {
    let mut routes = [direct(arguments)?, redirected(arguments)?, captured(arguments)?];
    let mut rows: Vec<Row> = routes.iter().map(|route| Row { route: route.name, rounds: Vec::new() }).collect();
    // The first warms up.
    for round in 0..=arguments.rounds {
        for (route, row) in routes.iter_mut().zip(&mut rows) {
            let measured = route.client.ask()?;
            if round > 0 {
                row.rounds.push(measured);
            }
        }
    }
    Ok(rows)
}

fn direct(arguments: &Arguments) -> Result<Route, Failure> {
    let world = World::new(&[])?;
    let answers = Process::start(&world, Place::Outside, &Role::Echo { at: ECHO })?;
    let client = client(&world, Place::Outside, ECHO, arguments)?;
    Ok(Route { name: "direct", client, _answers: answers, _world: world })
}

fn redirected(arguments: &Arguments) -> Result<Route, Failure> {
    let world = World::new(&[])?;
    let mut rules = Command::new("nft");
    rules.arg(RULES);
    let output = world.output(Place::Outside, None, rules, LIMIT)?;
    if !output.status.success() {
        return Err(format!("nft: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let answers = Process::start(&world, Place::Outside, &Role::Echo { at: ECHO })?;
    let client = client(&world, Place::Outside, ASKED, arguments)?;
    Ok(Route { name: "nftables REDIRECT", client, _answers: answers, _world: world })
}

fn captured(arguments: &Arguments) -> Result<Route, Failure> {
    let world = World::new(&[])?;
    let config = Config {
        cgroups: vec![world.agents_cgroup()],
        daemon_cgroup: Some(world.cgroup(Place::Daemon)),
        pin_directory: world.pins().join("interceptor"),
        resolver: Resolver::None,
        ..Config::default()
    };
    let answers = Process::start(&world, Place::Daemon, &Role::Daemon(Box::new(config)))?;
    let client = client(&world, Place::Agent("one"), ASKED, arguments)?;
    Ok(Route { name: "captured", client, _answers: answers, _world: world })
}

fn client(world: &World, place: Place<'_>, to: SocketAddr, arguments: &Arguments) -> Result<Process, Failure> {
    let role = Role::Client { to, connects: arguments.connects, trips: arguments.trips };
    Process::start(world, place, &role)
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    fn start(world: &World, place: Place<'_>, role: &Role) -> Result<Self, Failure> {
        let mut command = role.command()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = world.spawn_in(place, command)?;
        let pipes = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = pipes else { return Err("a process without pipes".into()) };
        let mut process = Self { child, stdin, stdout: BufReader::new(stdout) };
        match process.line()?.as_str() {
            "ready" => Ok(process),
            other => Err(format!("a process is not ready, it says {other:?}").into()),
        }
    }

    fn ask(&mut self) -> Result<Round, Failure> {
        writeln!(self.stdin, "go")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
