//! Bodies in YAML: read as clusters read them, and judged by what they say.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use interceptor::protocol::kubernetes::yaml;
use serde_json::Value;

use super::scene::Scene;
use super::ways::{bounded, kubectl_with, run};

/// Go's reader, the one that API servers have: documents with their lengths, to lines of JSON.
const READER: &str = r#"
package main
import ("bufio"; "encoding/binary"; "fmt"; "io"; "os"; "sigs.k8s.io/yaml")
func main() {
    all, _ := io.ReadAll(os.Stdin)
    out := bufio.NewWriter(os.Stdout)
    defer out.Flush()
    for len(all) >= 4 {
        end := 4 + binary.LittleEndian.Uint32(all)
        if read, err := yaml.YAMLToJSON(all[4:end]); err != nil { fmt.Fprintln(out, "refused") } else { fmt.Fprintf(out, "%s\n", read) }
        all = all[end:]
    }
}
"#;

const DOCUMENT: &str = r#"---
apiVersion: apps/v1
kind: Deployment # of the shop
metadata:
  name: web
  labels: {app: web, "tier": 'front'}
  annotations:
    note: "with \"quotes\" and \u00e9"
    said: 'it''s'
    script: |
      #!/bin/sh
      echo "a: b"

      exit 0
    kept: |+
      one

spec:
  replicas: 3
  ratio: -0.25
  paused: false
  template:
    spec:
      containers:
      - name: web
        image: registry.corp.example:5000/web:1.2
        args: [--port=80, "--verbose", -v, '8080']
        command:
          - sh
          - |-
            echo hello
        env:
        - {name: HOST, value: "yes"}
        - name: ADDRESS
          value: 10.0.0.1
        resources: {limits: {cpu: 100m, memory: 1Gi}}
      volumes:
      - name: empty
        emptyDir: {}
      - name: nothing
        emptyDir:
"#;

/// What is put in, anywhere.
const PIECES: &[&str] = &[
    " ",
    "  ",
    "\n",
    "\n  ",
    "\n    ",
    ":",
    ": ",
    ",",
    "-",
    "- ",
    "? ",
    "#",
    " #",
    "{",
    "}",
    "[",
    "]",
    "'",
    "\"",
    "|",
    "|-\n",
    "|+\n",
    ">",
    "&a ",
    "*a",
    "!!str ",
    "%",
    "---\n",
    "...\n",
    "<<",
    "<<: ",
    "=",
    "~",
    "null",
    "yes",
    "No",
    "true",
    "TRUE",
    "01",
    "1",
    "1.0",
    "1e3",
    "0x1",
    "1_0",
    "1:30",
    ".5",
    ".inf",
    "2001-01-01",
    "\\",
    "\\n",
    "\\x41",
    "\t",
    "\u{e9}",
    "a",
    "b: c\n",
    "{a: b}",
    "[a, b]",
    "$(A)",
    "-x",
];

/// Numbers that look drawn, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

fn changed(numbers: &mut Numbers) -> String {
    let lines: Vec<&str> = DOCUMENT.split_inclusive('\n').collect();
    let first = numbers.below(lines.len());
    let last = lines.len().min(first + 1 + numbers.below(14));
    let mut text = lines[first..last].concat();
    for _ in 0..numbers.below(5) {
        let mut place = numbers.below(text.len() + 1);
        while !text.is_char_boundary(place) {
            place -= 1;
        }
        let taken = text.get(place..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        match numbers.below(3) {
            0 => text.replace_range(place..place + taken, ""),
            _ => text.insert_str(place, PIECES[numbers.below(PIECES.len())]),
        }
    }
    text
}

#[test]
fn what_is_read_of_yaml_is_what_servers_read() {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("reader.go"), folder.path().join("reader"));
    std::fs::write(&source, READER).unwrap();
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).arg(&source);
    go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("GOCACHE", folder.path().join("cache"));
    let built = go.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut numbers = Numbers(7);
    let texts: Vec<String> =
        std::iter::once(DOCUMENT.to_owned()).chain((0..40_000).map(|_| changed(&mut numbers))).collect();
    let mut reader = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = reader.stdin.take().unwrap();
    let fed: Vec<u8> = texts
        .iter()
        .flat_map(|text| [&u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat())
        .collect();
    let feeder = std::thread::spawn(move || input.write_all(&fed));
    let output = reader.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let (mut read, mut differences) = (0, String::new());
    for (text, line) in texts.iter().zip(lines.lines()) {
        let Ok(ours) = yaml::read(text.as_bytes()) else { continue };
        read += 1;
        // Where it refuses what is read here, nothing happens.
        if line != "refused" && serde_json::from_str::<Value>(line).unwrap() != ours {
            writeln!(differences, "{text:?}: {ours} here, {line} there").unwrap();
        }
    }
    assert_eq!(lines.lines().count(), texts.len());
    assert!(differences.is_empty(), "{differences}");
    assert!(yaml::read(DOCUMENT.as_bytes()).is_ok() && read > 4_000, "{read} of {}", texts.len());
}

const MAP: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\n  labels: {made: by-hand}\ndata:\n  colour: red\n";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Objects that say in YAML what is forbidden, in ways in which only some readers find it.
const ESCAPES: &[(&str, &str)] = &[
    ("spec:\n  hostPID: true\n  containers: [{name: c, image: x}]\n", "no-privileged-pods"),
    (
        "spec:\n  containers:\n  - name: c\n    image: x\n    securityContext: {privileged: true}\n",
        "no-privileged-pods",
    ),
    ("spec: {containers: [{name: c, image: x}], \"hostPID\": true}\n", "no-privileged-pods"),
    ("spec:\n  hostPID: yes\n  containers: [{name: c, image: x}]\n", ""),
    ("spec: &s\n  hostPID: true\n  containers: [{name: c, image: x}]\nx: *s\n", ""),
    ("x: &s {hostPID: true}\nspec:\n  <<: *s\n  containers: [{name: c, image: x}]\n", ""),
    ("spec:\n  hostPID: !!bool \"true\"\n  containers: [{name: c, image: x}]\n", ""),
    ("spec:\n  ? hostPID\n  : true\n  containers: [{name: c, image: x}]\n", ""),
    ("spec: {hostPID: false}\n---\nspec: {hostPID: true}\n", ""),
    ("spec: {hostPID: false, hostPID: true}\n", ""),
    ("spec:\n  hostPID: false\n  hostpid: true\n", ""),
    ("spec: {containers: [{name: c, image: x}]}\u{85}hostPID: true\n", ""),
];

pub(crate) fn objects_in_yaml_are_judged(scene: &Scene) {
    // By hand, as Helm, Flux and others do it: what is known is not held for being unknown.
    let told = post(scene, &["-X", "POST"], "application/yaml", MAPS, MAP);
    assert!(told.starts_with("HTTP/2 201") && told.contains("\"colour\": \"red\""), "{told}");
    let opaque = MAP.replace("name: yaml", "name: opaque").replace("colour: red", "colour: &a red");
    // It may be a pod that escapes, for all that is known.
    let told = post(scene, &["-X", "POST", "--max-time", "2"], "application/yaml", MAPS, &opaque);
    assert!(told.starts_with("HTTP/2 403") && told.contains("no-privileged-pods"), "{told}");

    let before = scene.cluster.arrived();
    for (spec, rule) in ESCAPES {
        let pod = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: escape}}\n{spec}");
        let told = post(scene, &["-X", "POST", "--max-time", "2"], "application/yaml", PODS, &pod);
        let refused = told.starts_with("HTTP/2 403") || told.contains("timed out");
        assert!(refused && told.contains(rule), "{spec:?}: {told}");
    }
    let arrived = scene.cluster.arrived();
    assert!(!arrived.get(before.len()..).unwrap().iter().any(|line| line.contains("pods")), "{arrived:#?}");

    // Server-side apply: of kubectl, which sends JSON by that name, and of others.
    let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    scene.approving(|| {
        let (code, told) = kubectl_with(scene, "kubectl-new", &arguments, &MAP.replace("red", "green"));
        assert!(code == 0 && told.contains("configmap/yaml serverside-applied"), "{told}");
        let path = format!("{MAPS}/yaml?fieldManager=by-hand&force=true");
        let told = post(scene, &["-X", "PATCH"], "application/apply-patch+yaml", &path, &MAP.replace("red", "blue"));
        assert!(told.starts_with("HTTP/2 200") && told.contains("\"colour\": \"blue\""), "{told}");
    });
    let events = scene.recorded();
    assert!(events.contains("data.colour=blue") || events.contains("colour: blue"), "the body is on record");
}

fn post(scene: &Scene, arguments: &[&str], kind: &str, path: &str, body: &str) -> String {
    let mut curl = bounded("curl");
    curl.args(["-sS", "-i", "--http2", "--max-time", "20", "--cacert"]).arg(scene.authority()).args(arguments);
    curl.args(["-H", &format!("Content-Type: {kind}"), "--data-binary", "@-"]).arg(format!("{}{path}", scene.url()));
    run(scene, curl, body).1
}
