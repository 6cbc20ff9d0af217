//! MCP end to end: a real server and real clients of three makers' SDKs, the real kernel programs, the real daemon, TLS on both
//! legs.
//!
//! Needs root, Node, and the Python and npm packages that `cargo xtask test` installs; run with `--test-threads=1`. The server's
//! own log proves what arrived, and what did not.

#![cfg(test)]

mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Output, Stdio};
    use std::time::Duration;

    use interceptor::testing::certificates::{Authority, Validity};
    use interceptor::testing::stage::{CARD, IDP as CRM, Script, Stage};
    use interceptor::testing::world::Place;
    use interceptor::tls::authority::{ENVIRONMENT, Trust};
    use serde_json::Value;

    /// What the server wants to see, and agents never do.
    const SECRET: &str = "the-real-token-of-the-server";
    const PORT: u16 = 8446;
    /// What stands at paths that are masked, and nowhere else.
    const HIDDEN: &str = "ada.hidden@example.org";

    const POLICIES: &str = r#"
@id("talks")
permit (principal in Group::"finance", action in Action::"mcp:talk", resource == Target::"crm");

@id("uses")
permit (principal in Group::"finance", action in Action::"mcp:use", resource in Target::"crm");

@id("customers-are-kept")
@reason("customers are never removed")
@remedy("mark the customer as closed")
forbid (principal, action == Action::"mcp:call", resource == Tool::"crm/delete_customer");

@id("refunds-in-euro")
@reason("refunds are paid in EUR alone")
forbid (principal, action == Action::"mcp:call", resource == Tool::"crm/refund")
unless { context has mcp && context.mcp.arguments.contains("currency=EUR") };

@id("large-refunds")
@approval("finance-leads")
@reason("a large refund is decided by a human")
forbid (principal, action == Action::"mcp:call", resource == Tool::"crm/refund")
unless { context.approved || (context has mcp && context.mcp.arguments.contains("amount=5")) };
"#;

    const SERVER: &str = r#"
import socket, sys
from typing import Any
import uvicorn
from mcp.server.mcpserver import MCPServer
port, key, chain, card, hidden, secret, log = sys.argv[1:]
out = open(log, "a", buffering=1)
def note(*words): print(*words, file=out)
server = MCPServer("crm")
@server.tool()
def get_customer(id: int) -> dict[str, Any]:
    note("called get_customer", id)
    return {"id": id, "name": "Ada", "email": hidden, "card": card}
@server.tool()
def delete_customer(id: int) -> str:
    note("called delete_customer", id); return "gone"
@server.tool()
def refund(id: int, amount: int, currency: str) -> str:
    note("called refund", id, amount, currency); return f"paid {amount}"
@server.tool()
def whoami() -> str:
    note("called whoami"); return f"you are {secret}"
@server.resource("crm://people/{name}")
def person(name: str) -> str:
    note("read", name); return f"card {card}"
app = server.streamable_http_app(host="0.0.0.0")
async def guarded(scope, receive, send):
    if scope["type"] == "http":
        given = dict(scope["headers"]).get(b"authorization", b"").decode()
        note("asked", scope["method"], scope["path"], "as", given)
        if given != f"Bearer {secret}":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            return await send({"type": "http.response.body", "body": b"who are you"})
    await app(scope, receive, send)
listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
uvicorn.Server(uvicorn.Config(guarded, log_level="error", ssl_keyfile=key, ssl_certfile=chain)).run(sockets=[listener])
"#;

    /// What all clients do after they have connected: `CALL(name, arguments)` gives text and structure.
    const NEWEST: &str = r#"
import asyncio, json, ssl, sys, httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
url, mode, calls = sys.argv[1:]
async def main():
    http = httpx2.AsyncClient(headers={"authorization": "Bearer placeholder"}, timeout=60, verify=ssl.create_default_context())
    async with Client(streamable_http_client(url, http_client=http), mode=mode) as c:
        print("tools", ",".join(sorted(t.name for t in (await c.list_tools()).tools)))
        for name, arguments in json.loads(calls):
            try: r = await c.call_tool(name, arguments); print("done", name, r.content[0].text, json.dumps(r.structured_content))
            except Exception as e: print("error", name, e.error.code, e, e.error.data and e.error.data.get("rule"))
        print("read", (await c.read_resource("crm://people/ada")).contents[0].text)
asyncio.run(main())
"#;

    const COMMON: &str = r#"
import asyncio, json, sys
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
url, _, calls = sys.argv[1:]
async def main():
    async with streamablehttp_client(url, headers={"authorization": "Bearer placeholder"}) as (r, w, _):
        async with ClientSession(r, w) as c:
            await c.initialize()
            print("tools", ",".join(sorted(t.name for t in (await c.list_tools()).tools)))
            for name, arguments in json.loads(calls):
                try: r = await c.call_tool(name, arguments); print("done", name, r.content[0].text, json.dumps(r.structuredContent))
                except Exception as e: print("error", name, e.error.code, e, e.error.data and e.error.data.get("rule"))
            print("read", (await c.read_resource("crm://people/ada")).contents[0].text)
asyncio.run(main())
"#;

    const NODE: &str = r#"
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
const [url, , calls] = process.argv.slice(1);
(async () => {
  const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers: { authorization: "Bearer placeholder" } } });
  const client = new Client({ name: "agent", version: "1" });
  await client.connect(transport);
  console.log("tools", (await client.listTools()).tools.map(t => t.name).sort().join());
  for (const [name, given] of JSON.parse(calls)) {
    try { const r = await client.callTool({ name, arguments: given }); console.log("done", name, r.content[0].text, JSON.stringify(r.structuredContent)); }
    catch (e) { console.log("error", name, e.code, e.message, e.data?.rule); }
  }
  console.log("read", (await client.readResource({ uri: "crm://people/ada" })).contents[0].text);
  await transport.terminateSession(); await client.close();
})();
"#;

    struct Scene {
        stage: Stage,
        server: Child,
        files: PathBuf,
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _gone = self.server.kill();
            let _reaped = self.server.wait();
        }
    }

    impl Scene {
        fn new() -> Self {
            let files = tempfile::tempdir().unwrap().keep();
            fs::set_permissions(&files, fs::Permissions::from_mode(0o755)).unwrap();
            let authority = Authority::new("the target's CA").unwrap();
            authority.issue("crm", &[CRM], Validity::Now).unwrap().write(&files, "server").unwrap();
            fs::write(files.join("upstream.pem"), authority.pem()).unwrap();
            fs::write(files.join("secret"), SECRET).unwrap();
            fs::set_permissions(files.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
            let directory = files.display();
            let target = format!(
                r#"
[[target]]
name = "crm"
protocol = "mcp"
hosts = ["{CRM}:{PORT}"]
tls = {{ upstream = "verify-full", ca = "{directory}/upstream.pem" }}
credential = {{ user = "svc", password = "file:{directory}/secret" }}
"#
            );
            let ca = format!("[ca]\ndir = \"{directory}/ca\"\n");
            // The authority is for all targets of the stage.
            let both = format!("hosts = [\"{CRM}\", \"orders-db.internal\"]");
            let init = target.replace(&format!("hosts = [\"{CRM}:{PORT}\"]"), &both);
            fs::write(files.join("init.toml"), format!("{ca}{init}")).unwrap();
            let made = Command::new(env!("CARGO_BIN_EXE_interceptor"))
                .args(["ca", "init", "--user", "root", "--config"])
                .arg(files.join("init.toml"))
                .output()
                .unwrap();
            assert!(made.status.success(), "{}", said(&made));
            let masks = "[[mask]]\ntag = \"pii\"\njson = [\"crm/get_customer:$.result..email\"]\n";
            let configuration = format!("{ca}{target}{masks}");
            let script = Script { policies: POLICIES.to_owned(), configuration, ..Script::default() };
            let stage = Stage::set(Path::new(env!("CARGO_BIN_EXE_interceptor")), &script)
                .unwrap_or_else(|error| panic!("no stage: {error}"));
            let mut server = Command::new(installed().join("mcp/bin/python"));
            server.args(["-c", SERVER, &PORT.to_string()]).arg(files.join("server.key"));
            server.arg(files.join("server.crt")).args([CARD, HIDDEN, SECRET]).arg(files.join("log"));
            server.stdout(Stdio::null()).stderr(fs::File::create(files.join("errors")).unwrap());
            let server = stage.world.spawn_in(Place::Far, server).unwrap();
            Self { stage, server, files }
        }

        /// A client of this kind, that looks for certificate authorities where it always does.
        fn client(&self, kind: &str, calls: &str) -> Command {
            let mut command = match kind {
                "node" => {
                    let mut node = Command::new("node");
                    node.args(["-e", NODE]).env("NODE_PATH", installed().join("node/node_modules"));
                    node
                }
                "1" => python("mcp-1", COMMON),
                _ => python("mcp", NEWEST),
            };
            command.args([&format!("https://{CRM}:{PORT}/mcp"), kind, calls]);
            for (name, trust) in ENVIRONMENT {
                let file = if *trust == Trust::Bundle { "ca/bundle.pem" } else { "ca/ca.pem" };
                command.env(name, self.files.join(file));
            }
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        }

        fn run(&self, kind: &str, calls: &str) -> String {
            self.run_bounded(&self.client(kind, calls))
        }

        fn run_bounded(&self, command: &Command) -> String {
            let mut bounded = Command::new("timeout");
            bounded.args(["--kill-after=5", "120"]).arg(command.get_program()).args(command.get_args());
            for (name, value) in command.get_envs() {
                bounded.env(name, value.unwrap_or_default());
            }
            said(&self.stage.run_agent(bounded).unwrap())
        }

        /// What reached the server.
        fn arrived(&self) -> String {
            fs::read_to_string(self.files.join("log")).unwrap_or_default()
        }

        fn operate(&self, arguments: &[&str]) -> String {
            let output = self.stage.operate(arguments).unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", said(&output));
            said(&output)
        }

        /// The call that waits for a human.
        fn waiting(&self) -> Value {
            for _ in 0..300 {
                let requests: Value = serde_json::from_str(&self.operate(&["--json", "approvals", "list"])).unwrap();
                let waits = |request: &&Value| request["state"]["state"] == "waiting";
                if let Some(request) = requests.as_array().unwrap().iter().find(waits) {
                    return request.clone();
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            panic!("nothing waits: {}", self.stage.log());
        }
    }

    fn python(name: &str, code: &str) -> Command {
        let mut command = Command::new(installed().join(name).join("bin/python"));
        command.args(["-c", code]);
        command
    }

    fn said(output: &Output) -> String {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    fn installed() -> PathBuf {
        let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
        std::env::var_os("INTERCEPTOR_CLIENTS").map_or_else(default, PathBuf::from)
    }

    /// One scene for all, as it takes seconds to set.
    #[test]
    fn agents_use_tools_as_policy_has_it() {
        let scene = Scene::new();
        // The server needs seconds to start.
        for _ in 0..30 {
            if scene.run("legacy", "[]").contains("tools ") {
                break;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        let calls = r#"[["get_customer", {"id": 7}], ["delete_customer", {"id": 7}], ["refund", {"id": 7, "amount": 5, "currency": "USD"}],
                        ["refund", {"id": 7, "amount": 5, "currency": "EUR"}], ["whoami", {}]]"#;
        // Revision 2026-07-28 without sessions, those before it with them, and the SDKs that most agents have.
        for kind in ["auto", "legacy", "1", "node"] {
            tools_are_used(&scene, kind, calls);
        }
        large_refunds_wait(&scene);
        a_batch_hides_nothing(&scene);
        let events = scene.operate(&["recordings", "export", "--format", "jsonl"]);
        for absent in [SECRET, HIDDEN, CARD, "placeholder"] {
            assert!(!events.contains(absent), "{absent} is on record");
        }
        assert!(events.contains("mcp:call") && events.contains("customers-are-kept"));
        scene.operate(&["recordings", "verify"]);
        a_dead_server_is_told(scene);
    }

    fn tools_are_used(scene: &Scene, kind: &str, calls: &str) {
        let before = scene.arrived().len();
        let told = scene.run(kind, calls);
        let why = || format!("{kind}: {told}\n{}", scene.stage.log());
        assert!(told.contains("tools delete_customer,get_customer,refund,whoami"), "{}", why());
        // In the text that holds JSON, and in the structure beside it.
        assert_eq!(told.matches("[masked:pii]").count(), 2, "{}", why());
        assert_eq!(told.matches("************1111").count(), 3, "{}", why());
        assert!(!told.contains(HIDDEN) && !told.contains(CARD) && !told.contains(SECRET), "{}", why());
        let refused = told.lines().find(|line| line.starts_with("error delete_customer 403 ")).unwrap_or_default();
        assert!(
            refused.contains("customers are never removed") && refused.ends_with("customers-are-kept"),
            "{}",
            why()
        );
        assert!(refused.contains("remedy: mark the customer as closed"), "{}", why());
        assert!(told.contains("error refund 403 ") && told.contains("done refund paid 5"), "{}", why());
        assert!(told.contains("done whoami you are ") && told.contains("read card "), "{}", why());
        let arrived = scene.arrived().split_off(before);
        assert!(arrived.contains("called get_customer 7") && arrived.contains("called refund 7 5 EUR"), "{arrived}");
        assert!(!arrived.contains("delete_customer") && !arrived.contains("USD"), "{arrived}");
        assert!(!arrived.contains("placeholder") && arrived.contains(SECRET), "{arrived}");
    }

    /// A call waits for a human; one that was given up finds its grant when it is sent again, by another process.
    fn large_refunds_wait(scene: &Scene) {
        let calls = r#"[["refund", {"id": 7, "amount": 500, "currency": "EUR"}]]"#;
        let client = scene.stage.spawn_agent(scene.client("legacy", calls)).unwrap();
        let request = scene.waiting();
        let shown = request.to_string();
        assert!(shown.contains("tools/call refund") && shown.contains("500"), "{shown}");
        assert!(!scene.arrived().contains("refund 7 500"));
        scene.operate(&["approvals", "approve", request["id"].as_str().unwrap(), "--reason", "looked at it"]);
        let told = said(&client.wait_with_output().unwrap());
        assert!(told.contains("done refund paid 500"), "{told}");
        // Once.
        let mut client = scene.stage.spawn_agent(scene.client("legacy", calls)).unwrap();
        let request = scene.waiting();
        client.kill().unwrap();
        client.wait().unwrap();
        scene.operate(&["approvals", "approve", request["id"].as_str().unwrap(), "--reason", "looked at it"]);
        let told = scene.run("legacy", calls);
        assert!(told.contains("done refund paid 500"), "{told}");
        assert_eq!(scene.arrived().matches("refund 7 500").count(), 2);
    }

    fn a_batch_hides_nothing(scene: &Scene) {
        let code = format!(
            r#"
import json, ssl, urllib.request
call = lambda id, name: {{"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {{"name": name, "arguments": {{"id": 7}}}}}}
for body in [[call(1, "get_customer"), call(2, "delete_customer")], "{{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"ping\",\"method\":\"tools/call\",\"params\":{{\"name\":\"delete_customer\"}}}}"]:
    data = body if isinstance(body, str) else json.dumps(body)
    asked = urllib.request.Request("https://{CRM}:{PORT}/mcp", data.encode(), {{"content-type": "application/json", "accept": "application/json, text/event-stream"}})
    try: told = urllib.request.urlopen(asked, context=ssl.create_default_context())
    except urllib.error.HTTPError as error: told = error
    print(told.status, told.read().decode())
"#
        );
        let mut agent = Command::new("/usr/bin/python3");
        agent.args(["-c", &code]).env("SSL_CERT_FILE", scene.files.join("ca/bundle.pem"));
        let told = scene.run_bounded(&agent);
        let lines: Vec<&str> = told.lines().collect();
        let [batch, twice] = lines[..] else { panic!("{told}") };
        assert!(batch.starts_with("200 [") && batch.contains("\"id\":1") && batch.contains("\"id\":2"), "{told}");
        assert!(batch.contains("customers-are-kept") && twice.starts_with("403 "), "{told}");
        assert!(!scene.arrived().contains("delete_customer"));
    }

    fn a_dead_server_is_told(mut scene: Scene) {
        let client = scene.client("legacy", "[]");
        scene.server.kill().unwrap();
        scene.server.wait().unwrap();
        let told = scene.run_bounded(&client);
        assert!(told.contains("a request to crm") && told.contains("refused"), "{told}");
    }
}
