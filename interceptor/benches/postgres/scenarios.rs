//! What is measured: the stage, its data, and one scenario after the other over every route.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command};

use interceptor::testing::stage::{AGENT_UID, DATABASE, Script, Stage};
use interceptor::testing::world::FAR4;

use super::load::{Bench, Run, pgbench, pgbench_program};
use super::measure::{cpu, median, private_kib};
use super::report::{Row, Unit};
use super::rivals::{self, POOL_PORT, Route};
use super::{Arguments, Failure};

/// Tables beside pgbench's own: one with a masked column, one for large results, one to copy into.
const TABLES: &str = "CREATE TABLE cards AS SELECT n AS id, '4111' || lpad(n::text, 12, '0') AS card FROM generate_series(1, 100000) n; \
     ALTER TABLE cards ADD PRIMARY KEY (id); \
     CREATE TABLE wide AS SELECT n AS id, 'name ' || n AS name, md5(n::text) AS email, md5((n + 1)::text) AS ssn, \
       repeat(md5(n::text), 3) AS note FROM generate_series(1, 200000) n; \
     CREATE TABLE plain AS SELECT id, name, email AS mail, ssn AS number, note FROM wide; \
     CREATE TABLE notes (id int, note text); ANALYZE;";

/// Masked in `wide`, but not in `plain`.
fn configuration() -> String {
    format!(
        "{MASKS}\n[[target]]\nname = \"pooled\"\nprotocol = \"postgres\"\nhosts = [\"{FAR4}:{POOL_PORT}\"]\n\
             tls = {{ upstream = \"disable\" }}\ncredential = {{ user = \"anyone\" }}\n"
    )
}

const MASKS: &str = "\n[[mask]]\ntag = \"wide\"\ncolumns = [\"public.wide.email\", \"public.wide.ssn\"]\ntransform = \"redact\"\n\
     [limits]\nsessions = 20000\nsessions_per_uid = 20000\n";

/// The policy of the stage forbids an UPDATE without WHERE only; INSERT, UPDATE and SELECT are permitted.
const POLICIES: &str = "@id(\"trusted-sees-all\")\npermit (principal == Machine::\"trusted-bot\", action == Action::\"unmask\", resource);\n";

/// The agent for whom nothing is masked.
fn trusted(stage: &Stage) -> String {
    format!(
        "\n[[agent]]\nname = \"trusted-bot\"\nmatch = {{ cgroup = \"{}/trusted\", uid = {AGENT_UID} }}\n\
         token = {{ issuer = \"corp\", from = \"file:{}\", subject = \"svc:billing\", groups = [\"finance\"] }}\n",
        stage.world.agents_cgroup(),
        stage.path("token").display()
    )
}

fn add_agent(stage: &Stage) -> Result<(), Failure> {
    let path = stage.path("interceptor.toml");
    let text = std::fs::read_to_string(&path)? + &trusted(stage);
    std::fs::write(path, text)?;
    let reloaded = stage.operate(&["reload"])?;
    if reloaded.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&reloaded.stderr).into()) }
}

pub(crate) fn run_all(arguments: &Arguments) -> Result<Vec<Row>, Failure> {
    eprintln!("setting the stage");
    let server_settings = vec![("max_connections".to_owned(), "400".to_owned())];
    let policies = POLICIES.to_owned();
    let script = Script { configuration: configuration(), policies, server_settings, ..Script::default() };
    let stage = Stage::set(Path::new(env!("CARGO_BIN_EXE_interceptor")), &script)?;
    fill(&stage)?;
    add_agent(&stage)?;
    let routes = rivals::all(&stage, &arguments.routes)?;
    // Before anything else has made the daemons larger.
    let idle: Vec<usize> =
        [1000, most_idle()].into_iter().filter(|count| is_wanted(arguments, &idle_name(*count))).collect();
    let idle = if idle.is_empty() { Vec::new() } else { idle_rows(&stage, &routes, &idle)? };
    let mut rows = Vec::new();
    for (name, bench) in transactions(&stage)? {
        if is_wanted(arguments, &name) {
            keep(&mut rows, &name, transaction_row(&stage, &routes, &name, &bench, arguments));
        }
    }
    for (name, client) in transfers() {
        if is_wanted(arguments, name) {
            keep(&mut rows, name, transfer_row(&stage, &routes, name, &client, arguments.rounds.max(3)));
        }
    }
    rows.extend(idle);
    Ok(rows)
}

/// A scenario that cannot be measured does not take the others' figures with it.
fn keep(rows: &mut Vec<Row>, name: &str, measured: Result<Row, Failure>) {
    match measured {
        Ok(row) => rows.push(row),
        Err(error) => eprintln!("{name}: not measured: {error}"),
    }
}

/// As many idle sessions as the daemon has descriptors for: three each, and its own, those for namespaces and their questions
/// among them.
fn most_idle() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard);
    usize::try_from(descriptors.saturating_sub(4000) / 3).map_or(10_000, |most| most.clamp(1, 10_000))
}

fn is_wanted(arguments: &Arguments, name: &str) -> bool {
    arguments.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
}

fn fill(stage: &Stage) -> Result<(), Failure> {
    // The fixture logs every statement, which no server under load does.
    for setting in ["log_statement = 'none'", "log_duration = off", "log_min_duration_statement = -1"] {
        stage.server.sql(&format!("ALTER SYSTEM SET {setting}"))?;
    }
    stage.server.sql("SELECT pg_reload_conf()")?;
    stage.server.sql_in(DATABASE, &format!("SET ROLE orders_rw; {TABLES}"))?;
    let mut init = Command::new(pgbench_program()?);
    init.args(["-i", "-q", "-s", "10"]);
    let routes = rivals::all(stage, &["direct".to_owned()])?;
    let direct = routes.first().ok_or("no direct route")?;
    let output = direct.spawn(stage, init)?.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("pgbench -i: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    stage.server.sql_in(DATABASE, "VACUUM ANALYZE")?;
    Ok(())
}

fn transactions(stage: &Stage) -> Result<Vec<(String, Bench)>, Failure> {
    let mut list = Vec::new();
    for clients in [1, 8, 64] {
        for mode in ["simple", "extended", "prepared"] {
            let arguments = ["-S", "-M", mode].map(str::to_owned).to_vec();
            list.push((format!("select {mode} {clients}"), Bench { arguments, clients }));
        }
    }
    let masked =
        script(stage, "masked.sql", "\\set id random(1, 100000)\nSELECT id, card FROM cards WHERE id = :id;\n")?;
    for mode in ["simple", "prepared"] {
        let arguments = ["-f", &masked, "-M", mode].map(str::to_owned).to_vec();
        list.push((format!("masked select {mode} 8"), Bench { arguments, clients: 8 }));
    }
    // Another name in each: no analysis and no decision is known yet.
    let unknown = "\\set id random(1, 100000)\nSELECT abalance AS a:id FROM pgbench_accounts WHERE aid = :id;\n";
    let unknown = script(stage, "unknown.sql", unknown)?;
    let arguments = ["-f", &unknown, "-M", "simple"].map(str::to_owned).to_vec();
    list.push(("select simple 8, never seen before".to_owned(), Bench { arguments, clients: 8 }));
    let arguments = ["-M", "prepared"].map(str::to_owned).to_vec();
    list.push(("read-write prepared 8".to_owned(), Bench { arguments, clients: 8 }));
    let arguments = ["-S", "-C"].map(str::to_owned).to_vec();
    list.push(("connect and select 8".to_owned(), Bench { arguments, clients: 8 }));
    Ok(list)
}

fn script(stage: &Stage, name: &str, text: &str) -> Result<String, Failure> {
    let path = stage.path(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn transaction_row(
    stage: &Stage,
    routes: &[Route],
    name: &str,
    bench: &Bench,
    arguments: &Arguments,
) -> Result<Row, Failure> {
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); routes.len()];
    for _ in 0..arguments.rounds.max(1) {
        // In turn, so that a slow minute of the machine falls on all of them.
        for (route, runs) in routes.iter().zip(&mut runs) {
            eprintln!("{name}: {}", route.name);
            runs.push(pgbench(stage, route, bench, arguments.seconds)?);
        }
    }
    let mut row = Row::new(name, Unit::Rate);
    for (route, runs) in routes.iter().zip(&runs) {
        let all = |pick: &dyn Fn(&Run) -> Option<f64>| runs.iter().filter_map(pick).collect::<Vec<_>>();
        let cpu = all(&|run| run.cpu_us);
        let latency = runs.iter().find_map(|run| run.latency);
        row.add(route.name, median(all(&|run| Some(run.rate))), (!cpu.is_empty()).then(|| median(cpu)), latency);
    }
    Ok(row)
}

/// Words of the client program.
fn transfers() -> Vec<(&'static str, Vec<&'static str>)> {
    vec![
        ("large result, nothing masked", vec!["select", "SELECT id, name, mail, number, note FROM plain"]),
        ("large result, two columns masked", vec!["select", "SELECT id, name, email, ssn, note FROM wide"]),
        ("copy out", vec!["copy-out", "COPY plain TO STDOUT"]),
        ("copy out, two columns masked", vec!["copy-out", "COPY wide TO STDOUT"]),
        ("copy in", vec!["copy-in", "COPY notes FROM STDIN", "20000000"]),
    ]
}

fn transfer_row(stage: &Stage, routes: &[Route], name: &str, client: &[&str], rounds: usize) -> Result<Row, Failure> {
    let mut found: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); routes.len()];
    for round in 0..=rounds {
        for (route, (rates, times)) in routes.iter().zip(&mut found) {
            let mut command = own_client(stage)?;
            command.args(client);
            let before = route.pid().map(cpu);
            let output = route.spawn(stage, command)?.wait_with_output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let seconds = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
            let seconds = seconds.ok_or_else(|| {
                format!("{name} over {}: {text}{}", route.name, String::from_utf8_lossy(&output.stderr))
            })?;
            // The first round only warms up.
            if round > 0 {
                rates.push(1.0 / seconds);
                let used = route.pid().map(cpu).zip(before).map(|(after, before)| after.saturating_sub(before));
                times.extend(used.map(|used| used.as_secs_f64() * 1e6));
            }
        }
        eprintln!("{name}: round {round}");
    }
    let mut row = Row::new(name, Unit::Transfers);
    for (route, (rates, times)) in routes.iter().zip(found) {
        row.add(route.name, median(rates), (!times.is_empty()).then(|| median(times)), None);
    }
    Ok(row)
}

/// This program, where the clients' user can reach it.
fn own_client(stage: &Stage) -> Result<Command, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let copy = stage.path("bench-client");
    if !copy.exists() {
        std::fs::copy(std::env::current_exe()?, &copy)?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))?;
    }
    let mut command = Command::new(copy);
    command.arg("client");
    Ok(command)
}

/// Sessions that are there before memory is measured: what a proxy sets up once is not the sessions'.
const BEFORE: usize = 100;

/// Memory of a proxy for each idle session: one crowd comes to the other, so that no memory is used again. The server's own
/// limit on connections is got around by a pgbouncer in transaction mode on the far side, whose own memory is the comparison.
fn idle_rows(stage: &Stage, routes: &[Route], counts: &[usize]) -> Result<Vec<Row>, Failure> {
    let mut rows: Vec<Row> = counts.iter().map(|count| Row::new(&idle_name(*count), Unit::KibPerSession)).collect();
    let pool = rivals::pool(stage)?;
    let mut seen = Vec::new();
    for route in rivals::to_pool(stage, &pool, routes)? {
        let Some(pid) = route.pid().filter(|pid| !seen.contains(pid)) else { continue };
        seen.push(pid);
        let mut crowds = vec![Crowd::open(stage, &route, BEFORE)?];
        let (before, mut there) = (private_kib(pid), 0);
        for (row, count) in rows.iter_mut().zip(counts) {
            eprintln!("{}: {}", idle_name(*count), route.name);
            crowds.push(Crowd::open(stage, &route, count - there)?);
            there = *count;
            #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
            row.add(route.name, private_kib(pid).saturating_sub(before) as f64 / there as f64, None, None);
        }
        for crowd in crowds {
            crowd.leave()?;
        }
    }
    Ok(rows)
}

fn idle_name(count: usize) -> String {
    format!("{count} idle sessions")
}

/// A client with idle sessions.
struct Crowd {
    client: Child,
}

impl Crowd {
    fn open(stage: &Stage, route: &Route, count: usize) -> Result<Self, Failure> {
        let mut command = own_client(stage)?;
        command.args(["idle", &count.to_string()]);
        let mut client = route.spawn(stage, command)?;
        let mut line = String::new();
        if let Some(stdout) = client.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.starts_with("open") {
            return Ok(Self { client });
        }
        drop(client.stdin.take());
        let output = client.wait_with_output()?;
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("{count} idle sessions over {}: {why}\n{}", route.name, stage.log()).into())
    }

    fn leave(mut self) -> Result<(), Failure> {
        drop(self.client.stdin.take());
        self.client.wait()?;
        Ok(())
    }
}
