//! Metrics as Prometheus reads them: what they say, who may read them, and that dashboard, alerts and documentation know no others.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use interceptor::testing::stage::{Script, Stage};
use interceptor::testing::world::Place;

const CONFIGURATION: &str =
    "[metrics]\nlisten = \"127.0.0.1:9464\"\n[record.witness]\nhttp = [{ url = \"http://127.0.0.1:7979/\" }]\n";

/// Fetches one path, says status, type and text; then holds open as many connections as are let in, and more.
const FETCH: &str = "
import http.client, socket, sys
def get(path):
    connection = http.client.HTTPConnection('127.0.0.1', 9464, timeout=5)
    connection.request('GET', path)
    answer = connection.getresponse()
    return answer.status, answer.getheader('content-type'), answer.read().decode()
assert get('/')[0] == 404 and get('/v1/status')[0] == 404
idle = [socket.create_connection(('127.0.0.1', 9464)) for _ in range(40)]
try:
    raise SystemExit(get('/metrics'))
except (OSError, http.client.HTTPException):
    pass
for one in idle: one.close()
for _ in range(100):
    try:
        status, kind, text = get('/metrics')
        break
    except (OSError, http.client.HTTPException):
        pass
assert status == 200 and kind.startswith('application/openmetrics-text; version=1.0.0'), (status, kind)
sys.stdout.write(text)";

/// Reads it as strictly as its specification wants, and tells each name.
const STRICT: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read
for family in read(sys.stdin.read()):
    assert family.documentation and family.samples or family.type == 'gauge' or family.type == 'counter', family
    print(family.name)
    for sample in family.samples: print(sample.name)";

fn clients() -> PathBuf {
    PathBuf::from(std::env::var("INTERCEPTOR_CLIENTS").unwrap())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn stage() -> Stage {
    let script = Script { managed: true, configuration: CONFIGURATION.to_owned(), ..Script::default() };
    Stage::set(Path::new(env!("CARGO_BIN_EXE_interceptor")), &script).unwrap()
}

/// One value, by the beginning of its line.
fn value(text: &str, start: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Every word that is the name of a metric.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("interceptor_")).map(str::to_owned).collect()
}

#[test]
fn metrics_are_read_by_whom_they_are_for_and_say_what_happened() {
    let stage = stage();
    let ended = stage.run_agent(stage.psql(&["SELECT 1", "DELETE FROM customers"])).unwrap();
    assert!(String::from_utf8_lossy(&ended.stderr).contains("agents may not change customers"), "{ended:?}");
    // An agent, at an address that it can reach as any other.
    let mut curious = Command::new("curl");
    curious.args(["-sS", "--max-time", "5", "http://127.0.0.1:9464/metrics"]);
    let told = stage.run_agent(curious).unwrap();
    assert!(!told.status.success() && !String::from_utf8_lossy(&told.stdout).contains("interceptor_"), "{told:?}");

    let mut fetch = Command::new("python3");
    fetch.args(["-c", FETCH]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let fetched = stage.world.spawn_in(Place::Daemon, fetch).unwrap().wait_with_output().unwrap();
    let text = String::from_utf8(fetched.stdout).unwrap();
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    assert!(value(&text, "interceptor_sessions_opened_total{target=\"orders-db\"") >= 1.0, "{text}");
    assert!(value(&text, "interceptor_commands_total{") >= 2.0, "{text}");
    assert!(value(&text, "interceptor_commands_denied_total{") >= 1.0, "{text}");
    assert!(text.contains("interceptor_connections_refused_total{fault=\"agent\"}"), "{text}");
    assert!(
        value(&text, "interceptor_recorder_frames_total") > 3.0 && text.contains("interceptor_recorder_failing 0"),
        "{text}"
    );
    assert!(value(&text, "interceptor_spool_left_bytes") <= value(&text, "interceptor_spool_limit_bytes"), "{text}");
    assert!(value(&text, "interceptor_process_resident_memory_bytes") > 1e6, "{text}");

    // By the admin socket it is the same.
    let printed = String::from_utf8(stage.operate(&["metrics"]).unwrap().stdout).unwrap();
    assert_eq!(names(&printed), names(&text));
    strictly_read_and_known(&text);
}

fn strictly_read_and_known(text: &str) {
    let python = clients().join("web/bin/python");
    let mut strict = Command::new(python);
    strict.args(["-c", STRICT]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = strict.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let read = child.wait_with_output().unwrap();
    assert!(read.status.success(), "{text}");
    let families = names(&String::from_utf8(read.stdout).unwrap());
    let is_known = |name: &String| families.contains(name) || families.contains(name.trim_end_matches("_total"));
    for file in ["packaging/grafana/interceptor.json", "packaging/prometheus/interceptor.rules.yml", "docs/metrics.md"]
    {
        let unknown: Vec<String> =
            names(&fs::read_to_string(root().join(file)).unwrap()).into_iter().filter(|name| !is_known(name)).collect();
        assert!(unknown.is_empty(), "{file} knows metrics that there are none of: {unknown:?}");
    }
    let told = names(&fs::read_to_string(root().join("docs/metrics.md")).unwrap());
    let untold: Vec<&String> =
        families.iter().filter(|name| !told.contains(*name) && !told.contains(&format!("{name}_total"))).collect();
    assert!(untold.is_empty(), "docs/metrics.md does not know {untold:?}");
}

#[test]
fn alerts_ring_when_they_should() {
    let promtool = clients().join("promtool/root/usr/bin/promtool");
    let folder = root().join("packaging/prometheus");
    output(Command::new(&promtool).args(["check", "rules", "interceptor.rules.yml"]).current_dir(&folder));
    output(Command::new(&promtool).args(["test", "rules", "interceptor.tests.yml"]).current_dir(&folder));
    // What they tell of is tested, each one.
    let rules = fs::read_to_string(folder.join("interceptor.rules.yml")).unwrap();
    let tests = fs::read_to_string(folder.join("interceptor.tests.yml")).unwrap();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}\n        exp_alerts:\n")), "{alert} rings in no test");
    }
}
