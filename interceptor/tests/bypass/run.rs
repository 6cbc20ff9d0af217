//! Runs the rows, and holds what came of each against what it must come to.

use std::collections::VecDeque;
use std::process::Command;
use std::time::Duration;

use interceptor::capture::{Origin, Scope, Verdict, probe};
use interceptor::testing::world::Place;
use nix::errno::Errno;
use parking_lot::Mutex;
use serde_json::Value;

use super::processes;
use super::row::{Attempt, By, Expected, Level, Row, Site};
use super::stage::{self, Process, Stage};

/// How long an event may take to be told.
const TELLING: Duration = Duration::from_millis(20);
const TELLINGS: usize = 150;

/// A row that ran.
pub(crate) struct Line {
    pub(crate) row: Row,
    pub(crate) result: String,
    /// As a launched agent, where that was tried.
    pub(crate) launched: Option<String>,
    /// What is not as it must be.
    pub(crate) faults: Vec<String>,
}

/// Rows that run at the same time: most of the time goes into waiting for what must not come.
const WORKERS: usize = 4;

type Theme<T> = (&'static str, Vec<T>);

/// All rows, in the table's order.
pub(crate) fn all(table: Vec<Theme<Row>>) -> Vec<Theme<Line>> {
    let mut lines: Vec<Theme<Line>> = Vec::new();
    let mut queue = Vec::new();
    let hold = modules_hold();
    for (theme, rows) in table {
        let rows = rows.into_iter().map(|row| if hold { row.where_modules_hold() } else { row });
        let rows: Vec<Row> = rows.collect();
        queue.extend(rows.into_iter().enumerate().map(|(order, row)| ((lines.len(), order), row)));
        lines.push((theme, Vec::new()));
    }
    // Sites one after the other; within them the longest first, and what is open last: its packets must taint no other row.
    let long = |row: &Row| row.expected == Expected::Attributed;
    queue.sort_by_key(|(_, row)| (row.site, row.expected == Expected::Open, !long(row)));
    let queue = Mutex::new(VecDeque::from(queue));
    let mut done: Vec<((usize, usize), Line)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| work(&queue))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    done.sort_by_key(|(place, _)| *place);
    for ((theme, _), line) in done {
        lines[theme].1.push(line);
    }
    lines
}

/// Whether this kernel takes hooks of security modules: each capture here then has them.
fn modules_hold() -> bool {
    let found = probe(Scope::default()).into_iter().find(|found| found.name == "LSM programs").unwrap();
    eprintln!("LSM programs: {}", found.detail);
    found.verdict == Verdict::Ok
}

/// Takes rows from the queue until there are none.
fn work(queue: &Mutex<VecDeque<((usize, usize), Row)>>) -> Vec<((usize, usize), Line)> {
    let mut sites = Sites::default();
    let mut lines = Vec::new();
    loop {
        let next = queue.lock().pop_front();
        let Some((place, row)) = next else { break };
        lines.push((place, sites.run(row)));
    }
    sites.late_events(lines.iter_mut().map(|(_, line)| line));
    lines
}

/// The site in use, and the control's.
#[derive(Default)]
struct Sites {
    current: Option<(Site, Stage)>,
    control: Option<Stage>,
}

impl Sites {
    fn run(&mut self, row: Row) -> Line {
        if self.current.as_ref().is_none_or(|(site, _)| *site != row.site) {
            self.current = Some((row.site, Stage::governed(row.site)));
        }
        let mut faults = Vec::new();
        let mut control = Value::Null;
        if row.control || row.may_be_absent || matches!(row.expected, Expected::Kernel(_)) {
            let stage = self.control.get_or_insert_with(|| Stage::open(row.site));
            let seen;
            (control, seen) = watched(stage, &row, None);
            if seen != 0 && control["ok"] == "set" {
                // The kernel repeats its reports.
                quiet(stage);
            }
            let absent = row.may_be_absent && control.get("errno").is_some();
            let effect = has_effect(&control) || (seen != 0 && control.get("errno").is_none());
            if row.control && !absent && !effect {
                faults.push(format!("{}: no effect even where nothing is governed: {control}", row.name));
            }
        }
        let (_, shared) = self.current.as_ref().unwrap();
        let own = alone(&row, Level::Adopted);
        let stage = own.as_ref().map_or(shared, |played| &played.stage);
        let mark = if own.is_some() { Some(0) } else { stage.daemon.as_ref().map(super::daemon::Daemon::mark) };
        let (value, seen) = match &own {
            Some(played) => (played.value.clone(), played.seen),
            None => watched(stage, &row, Some(Level::Adopted)),
        };
        let (result, wrong) = judge(&row, Level::Adopted, &value, &control, seen);
        faults.extend(wrong.map(|wrong| format!("{}: {wrong}; it came to {value}, {seen} packets", row.name)));
        if let (Some(mark), false) = (mark, result.starts_with(ABSENT)) {
            faults.extend(event_fault(stage, &row, &value, mark));
        }
        if row.expected == Expected::Open && own.is_none() {
            quiet(stage);
        }
        let launched = row.launched.is_some().then(|| {
            let (launched, wrong) = launched(shared, &row, &control);
            faults.extend(wrong);
            launched
        });
        let told = launched.as_deref().unwrap_or("-");
        eprintln!("{} {}: {result} / {told}", if faults.is_empty() { "ok  " } else { "BAD " }, row.name);
        Line { row, result, launched, faults }
    }

    /// What was refused while there was no daemon is told to the next one.
    fn late_events<'a>(&mut self, lines: impl Iterator<Item = &'a mut Line>) {
        let Some((Site::Unattended, stage)) = &mut self.current else { return };
        stage.attend();
        for line in lines.filter(|line| line.row.site == Site::Unattended) {
            line.faults.extend(event_fault(stage, &line.row, &Value::Null, 0));
        }
    }
}

/// An attempt that ran in a world of its own.
pub(crate) struct Played {
    pub(crate) stage: Stage,
    pub(crate) value: Value,
    /// Packets that reached the servers.
    pub(crate) seen: u64,
}

/// What comes of the row as a launched agent, and what is wrong with that.
fn launched(shared: &Stage, row: &Row, control: &Value) -> (String, Option<String>) {
    let own = alone(row, Level::Launched);
    let (value, seen) = match own {
        Some(Played { value, seen, .. }) => (value, seen),
        None => watched(shared, row, Some(Level::Launched)),
    };
    let (result, wrong) = judge(row, Level::Launched, &value, control, seen);
    if seen != 0 {
        quiet(shared);
    }
    (result, wrong.map(|wrong| format!("{}, launched: {wrong}; it came to {value}, {seen} packets", row.name)))
}

/// Runs an attempt that wants a world of its own.
fn alone(row: &Row, level: Level) -> Option<Played> {
    match row.attempt {
        Attempt::Scene(scene) => Some(scene(level)),
        Attempt::Early(body) => Some(early(row, level, body)),
        _ => None,
    }
}

/// Starts the attempt, then the daemon, and lets the attempt go on.
fn early(row: &Row, level: Level, body: &str) -> Played {
    let mut stage = Stage::open(row.site);
    let helper = helper(&stage, row);
    let mut process = stage.start_agent(level, row.cgroup, row.by, stage::attempt(row.by, body));
    let first = process.value();
    if first != "ready" {
        return Played { stage, value: first, seen: 0 };
    }
    stage.attend();
    let wire = stage.world.sniff().unwrap();
    let value = visited(&stage, row, &mut process);
    let seen = wire.count();
    drop((process, helper));
    Played { stage, value, seen }
}

fn helper(stage: &Stage, row: &Row) -> Option<Process> {
    let (place, body) = row.helper?;
    let by = if place == Place::Outside { By::User } else { By::Root };
    let mut process = stage.start(place, by, stage::attempt(by, body));
    process.ready();
    Some(process)
}

/// Lets the visitor come while the attempt waits, and gives what both say.
fn visited(stage: &Stage, row: &Row, process: &mut Process) -> Value {
    let visit = row.visitor.map(|(place, body)| stage.python(place, By::Root, body));
    process.go();
    let mut value = process.value();
    if let (Some(visit), Some(object)) = (visit, value.as_object_mut()) {
        object.insert("visitor".to_owned(), visit);
    }
    value
}

/// What the attempt says, and how many packets reached the servers meanwhile. Without a level it is nobody's agent.
fn watched(stage: &Stage, row: &Row, level: Option<Level>) -> (Value, u64) {
    let helper = helper(stage, row);
    if helper.is_some() {
        // What it says to the servers, and what the one before it left there, is nobody's attempt.
        quiet(stage);
    }
    let wire = stage.world.sniff().unwrap();
    // What a launched agent could give up is gone already.
    let by = if level == Some(Level::Launched) { By::User } else { row.by };
    let instead = row.launched_body.filter(|_| level == Some(Level::Launched));
    let value = match (&row.attempt, instead) {
        (_, Some(body)) | (&(Attempt::Python(body) | Attempt::Early(body)), None) => {
            perform(stage, row, level, stage::attempt(by, body), helper.as_ref())
        }
        (Attempt::Program(words), None) => perform(stage, row, level, program(stage, words), helper.as_ref()),
        (Attempt::Act(act), None) => return act(stage, level.unwrap_or(Level::Adopted)),
        (Attempt::Scene(_) | Attempt::Untried(_), None) => Value::Null,
    };
    (value, wire.count())
}

fn perform(stage: &Stage, row: &Row, level: Option<Level>, mut command: Command, helper: Option<&Process>) -> Value {
    command.env("BYPASS_HELPER", helper.map_or(0, Process::id).to_string());
    let mut process = match level {
        None => stage.start(Place::Outside, row.by, command),
        Some(level) => stage.start_agent(level, row.cgroup, row.by, command),
    };
    let value = process.value();
    if value == "ready" { visited(stage, row, &mut process) } else { value }
}

fn program(stage: &Stage, words: &[&str]) -> Command {
    let mut command = Command::new(stage.world.directory().join(words[0]));
    command.args(&words[1..]);
    command
}

/// How a result begins, where the kernel or the host lacks what the attempt needs.
pub(crate) const ABSENT: &str = "not here";

/// The result in words, and what is wrong with it.
fn judge(row: &Row, level: Level, value: &Value, control: &Value, seen: u64) -> (String, Option<String>) {
    let expected = if level == Level::Adopted { row.expected } else { row.launched.unwrap_or(row.expected) };
    let errno = value.get("errno").and_then(Value::as_i64).and_then(|errno| i32::try_from(errno).ok());
    let same = value.get("errno").is_some() && value.get("errno") == control.get("errno");
    let named = |errno: i32| format!("{:?}", Errno::from_raw(errno));
    let declared = errno.is_some_and(|errno| match expected {
        Expected::Kernel(expected) => expected == errno,
        // Launched, it is refused before anybody asks whether it is there.
        Expected::Errno(expected) => level == Level::Launched && expected == errno,
        _ => false,
    });
    if row.may_be_absent && same && !declared {
        return (format!("{ABSENT}: {}", named(errno.unwrap_or_default())), left(seen));
    }
    match expected {
        Expected::Errno(expected) => {
            (named(expected), (errno != Some(expected)).then(|| "another result".to_owned()).or(left(seen)))
        }
        Expected::Kernel(expected) => {
            let wrong =
                (errno != Some(expected) || !same).then(|| format!("another result, the control's is {control}"));
            (format!("{}, to everybody", named(expected)), wrong.or(left(seen)))
        }
        Expected::Captured(destination) => {
            (format!("captured as {destination}"), wrong_record(row, level, value, destination).or(left(seen)))
        }
        Expected::RefusedOrCaptured(expected, destination) => {
            let captured = value.get("ok").map(|_| wrong_record(row, level, value, destination));
            let refused = || (errno != Some(expected)).then(|| "another result".to_owned()).or(left(seen));
            (format!("{}, or captured", named(expected)), captured.unwrap_or_else(refused))
        }
        Expected::Nothing => {
            let through = has_effect(value) || value.get("broken").is_some() || !value.is_object();
            ("nothing gets through".to_owned(), through.then(|| "it got through".to_owned()).or(left(seen)))
        }
        Expected::NoStart => ("no start".to_owned(), value.get("refused").is_none().then(|| "it started".to_owned())),
        Expected::Killed => {
            let alive = value["killed"] != libc::SIGSYS;
            ("the process is killed".to_owned(), alive.then(|| "it was not".to_owned()).or(left(seen)))
        }
        Expected::Attributed => {
            ("each with its true process, or refused".to_owned(), processes::wrongly_attributed(value).or(left(seen)))
        }
        Expected::Open => {
            let closed = !has_effect(value) && seen == 0;
            let what = value.get("ok").filter(|ok| ok.is_array()).map(|ok| format!(": {ok}"));
            (
                format!("**open**{}", what.unwrap_or_default()),
                closed.then(|| "it is closed: change this row".to_owned()),
            )
        }
        Expected::Untried => match row.attempt {
            Attempt::Untried(why) => (format!("not tried: {why}"), None),
            _ => (String::new(), Some("no reason".to_owned())),
        },
    }
}

fn left(seen: u64) -> Option<String> {
    (seen != 0).then(|| format!("{seen} packets left"))
}

/// Whether the attempt, or its visitor, reached anything.
fn has_effect(value: &Value) -> bool {
    let some = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && *value != "" && *value != 0;
    let connected = value.pointer("/visitor/ok").is_some_and(|ok| *ok == "connected");
    connected || value.get("ok").is_some_and(some)
}

fn wrong_record(row: &Row, level: Level, value: &Value, destination: &str) -> Option<String> {
    let Ok(origin) = serde_json::from_value::<Origin>(value["ok"].clone()) else {
        return Some("no record".to_owned());
    };
    let uid = if row.by == By::User || level == Level::Launched { stage::AGENT } else { 0 };
    let pid = value["pid"].as_u64() == Some(u64::from(origin.pid));
    (origin.destination.to_string() != destination || origin.uid != uid || !pid).then(|| "a wrong record".to_owned())
}

/// Whether the event that names the attempt is missing.
fn event_fault(stage: &Stage, row: &Row, value: &Value, mark: usize) -> Option<String> {
    let (wanted, daemon) = (row.event?, stage.daemon.as_ref()?);
    if matches!(row.expected, Expected::RefusedOrCaptured(..)) && value.get("ok").is_some() {
        return None;
    }
    let pid = value.get("pid").and_then(Value::as_u64);
    for _ in 0..TELLINGS {
        let told = daemon.events(mark);
        let right = |event: &interceptor::capture::KernelEvent| {
            event.refusal == wanted
                && (event.pid.is_none() || pid.is_none_or(|pid| event.pid.map(u64::from) == Some(pid)))
        };
        if told.iter().any(right) {
            return None;
        }
        std::thread::sleep(stage::patience(TELLING));
    }
    let told: Vec<_> = daemon.events(mark).into_iter().map(|event| (event.refusal, event.pid)).collect();
    Some(format!("{}: no event {wanted:?}, but {told:?}", row.name))
}

/// Waits until nothing more crosses the wire.
fn quiet(stage: &Stage) {
    for _ in 0..20 {
        let wire = stage.world.sniff().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        if wire.count() == 0 {
            return;
        }
    }
}
