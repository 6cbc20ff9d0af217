//! Log-ins that come to their end: tokens of an issuer (OAuth 2), and of a program that says until when they are good.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use interceptor::testing::stage::IDP as API;
use interceptor::testing::world::Place;
use serde_json::Value;

use crate::tests::{SECRET, Scene};
use crate::two::{Server, python};

/// Where the service listens.
const PORT: u16 = 8446;
/// Where the issuer does.
const TOKEN_PORT: u16 = 8447;

pub(crate) const POLICIES: &str = r#"
@id("leased-reads")
permit (
  principal in Group::"finance",
  action in Action::"http:read",
  resource
) when { resource in Target::"leased" || resource in Target::"plugged" };
"#;

/// One service, reached as two: by its two names.
pub(crate) fn targets(files: &Path) -> String {
    let directory = files.display();
    let tls = format!("tls = {{ upstream = \"verify-full\", ca = \"{directory}/upstream.pem\" }}");
    format!(
        r#"
[[target]]
name = "leased"
protocol = "http"
hosts = ["{API}:{PORT}"]
{tls}
credential = {{ user = "shop-client", password = "file:{directory}/secret", oauth = {{ token_url = "https://{API}:{TOKEN_PORT}/token", scope = "read", ca = "{directory}/upstream.pem" }} }}

[[target]]
name = "plugged"
protocol = "http"
hosts = ["{API}:{}"]
{tls}
credential = {{ user = "svc", password = "exec:{directory}/plugin/make" }}
"#,
        PORT + 100,
    )
}

/// The service, which takes tokens of both kinds until they end, and the issuer of one kind.
const SERVER: &str = r#"
import base64, http.server, itertools, json, socket, ssl, sys, threading, time
port, other, token_port, key, chain, client, secret = sys.argv[1:]
numbers, good = itertools.count(1), {}
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def say(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status); self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
class Issuer(Handler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        known = "Basic " + base64.b64encode((client + ":" + secret).encode()).decode()
        if self.headers["authorization"] != known or body != "grant_type=client_credentials&scope=read":
            print("refused", self.headers["authorization"], body, flush=True); return self.say(401, {"error": "invalid_client"})
        number = next(numbers); good["token-of-oauth-%d" % number] = time.monotonic() + 6
        print("issued", number, flush=True)
        self.say(200, {"access_token": "token-of-oauth-%d" % number, "token_type": "Bearer", "expires_in": 6})
class Service(Handler):
    def do_GET(self):
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        is_good = token.startswith("token-of-plugin-") or good.get(token, 0) > time.monotonic()
        if scheme != "Bearer" or not is_good:
            print("stranger", scheme, token, flush=True); return self.say(401, {"error": "who are you"})
        number = int(token.rsplit("-", 1)[1])
        if self.path != "/v1/slow": return self.say(200, {"number": number, "echo": token})
        self.send_response(200); self.send_header("content-type", "text/plain"); self.send_header("transfer-encoding", "chunked"); self.end_headers()
        for n in range(9):
            self.wfile.write(b"7\r\npiece %d\r\n" % n); self.wfile.flush(); time.sleep(1)
        self.wfile.write(b"0\r\n\r\n")
class Server(http.server.ThreadingHTTPServer): address_family = socket.AF_INET6
def serve(port, handler):
    server = Server(("::", int(port)), handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH); context.load_cert_chain(chain, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
serve(port, Service); serve(other, Service); serve(token_port, Issuer)
print("ready", flush=True); threading.Event().wait()
"#;

/// Two clients that go on until they have been served with three log-ins each, and one that is told something slowly.
const CLIENT: &str = r#"
import requests, sys, threading, time
from requests.adapters import HTTPAdapter, Retry
def say(*words): print(" ".join(map(str, words)) + "\n", end="", flush=True)
def ask(name, url):
    s = requests.Session(); s.mount("https://", HTTPAdapter(max_retries=Retry(total=3, backoff_factor=0.1)))
    states, numbers, end = set(), [], time.monotonic() + 60
    while len(set(numbers)) < 3 and time.monotonic() < end:
        r = s.get(url + "/v1/number"); states.add(r.status_code); numbers.append(r.json().get("number"))
        if r.status_code != 200: return say(name, r.status_code, r.text)
        assert "token-of" not in r.text, r.text
        time.sleep(0.02)
    say(name, states, "in order", numbers == sorted(numbers), "different", len(set(numbers)))
def slowly(url):
    told = [line for line in requests.get(url + "/v1/slow", stream=True).iter_content(None)]
    say("slowly", b"".join(told).count(b"piece"))
threads = [threading.Thread(target=ask, args=("leased", sys.argv[1])), threading.Thread(target=ask, args=("plugged", sys.argv[2])), threading.Thread(target=slowly, args=(sys.argv[1],))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"#;

/// A token that is good for a minute and four seconds: three or four for sessions.
const PLUGIN: &str = r#"#!/bin/sh
count=$(($(cat DIR/count 2>/dev/null || echo 0) + 1))
echo $count > DIR/count
until=$(date --utc --date '+64 seconds' +%Y-%m-%dT%H:%M:%SZ)
echo '{"kind":"ExecCredential","status":{"token":"token-of-plugin-'$count'","expirationTimestamp":"'$until'"}}'
"#;

pub(crate) fn sessions_end_with_what_logs_in(scene: &Scene) {
    let folder = scene.file("plugin");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("make"), PLUGIN.replace("DIR", &folder.display().to_string())).unwrap();
    fs::set_permissions(folder.join("make"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut server = python(SERVER);
    server.args([PORT, PORT + 100, TOKEN_PORT].map(|port| port.to_string()));
    server.arg(scene.file("nginx.key")).arg(scene.file("nginx.crt")).args(["shop-client", SECRET]);
    let mut server = Server(
        scene
            .stage
            .world
            .spawn_in(Place::Far, {
                server.stdout(Stdio::piped());
                server
            })
            .unwrap(),
    );
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");

    // Nobody is let in whom the others could have let in: a program that they can exchange is not started.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let mut refused = python("import requests, sys; r = requests.get(sys.argv[1]); print(r.status_code, r.text)");
    let told = scene.run({
        refused.arg(format!("https://{API}:{}/v1/number", PORT + 100));
        refused
    });
    assert!(told.contains("no usable credential"), "{told}");
    let log = scene.stage.log();
    assert!(log.contains("plugin leads to its program") && !folder.join("count").exists(), "{log}");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();

    let mut client = python(CLIENT);
    client.args([PORT, PORT + 100].map(|port| format!("https://{API}:{port}")));
    let told = scene.run(client);
    let log = scene.stage.log();
    for name in ["leased", "plugged"] {
        assert!(told.contains(&format!("{name} {{200}} in order True different 3")), "{told}\n{log}");
    }
    // What is under way when its log-in ends goes on.
    assert!(told.contains("slowly 9"), "{told}\n{log}");
    drop(server);
    let said: Vec<String> = lines.map_while(Result::ok).collect();
    let issued = said.iter().filter(|line| line.starts_with("issued")).count();
    // The sessions of one time share a token.
    assert!((3..=5).contains(&issued) && said.len() == issued, "{said:?}");

    let events = scene.operate(&["recordings", "export", "--format", "jsonl"]);
    assert!(!events.contains("token-of-") && events.contains("echoed the credential"), "a token is on record");
    let listed: Value = serde_json::from_str(&scene.operate(&["--json", "recordings", "list"])).unwrap();
    for target in ["leased", "plugged"] {
        let of_target = listed.as_array().unwrap().iter().filter(|one| one["target"] == target);
        let ended = of_target.filter_map(|one| one["id"].as_str()).filter(|id| {
            let shown = scene.operate(&["recordings", "export", "--format", "jsonl", "--session", id]);
            shown.contains("what the target is shown comes to its end")
        });
        assert!(ended.count() >= 2, "{target}: {listed:#}");
    }
}
