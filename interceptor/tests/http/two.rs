//! HTTP/2 and gRPC end to end, with clients and servers that are nobody's but their makers'.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use interceptor::testing::stage::{CARD, IDP as API};
use interceptor::testing::world::Place;
use serde_json::Value;

use crate::tests::{RPC_PORT, SECRET, Scene, installed, said, url};

/// curl, Python's httpx, and Node; nginx as the target says which version it was asked in.
pub(crate) fn requests_share_a_connection(scene: &Scene) {
    let told = scene.curl_as("--http2", &["-H", "Authorization: Bearer placeholder", &url("/v1/customers/7")]);
    assert!(told.starts_with("HTTP/2 200") && told.contains("************1111"), "{told}\n{}", scene.stage.log());
    assert!(!told.contains(CARD) && !told.to_ascii_lowercase().contains("alt-svc"), "{told}");
    let told = scene.curl_as("--http2", &["-X", "DELETE", &url("/v1/customers/7")]);
    assert!(told.starts_with("HTTP/2 403") && told.contains("application/problem+json"), "{told}");
    let told = scene.curl_as("--http2", &["-H", "Host: other.internal", &url("/v1/customers/7")]);
    assert!(told.starts_with("HTTP/2 403") && told.contains("is no name of api"), "{told}");

    let code = "import asyncio, httpx, ssl\n\
                async def main():\n    \
                    async with httpx.AsyncClient(http2=True, verify=ssl.create_default_context()) as s:\n        \
                        rs = await asyncio.gather(*(s.get(URL.replace('/7', '/%d' % n)) for n in range(50)))\n        \
                        print({r.http_version for r in rs}, {r.status_code for r in rs}, {r.json()['card'] for r in rs})\n        \
                        r = await s.post(URL.replace('customers/7', 'orders'), json={'currency': 'EUR'})\n        \
                        print(r.http_version, r.status_code)\n\
                asyncio.run(main())";
    let mut python = Command::new(installed().join("web/bin/python"));
    python.args(["-c", &code.replace("URL", &format!("{:?}", url("/v1/customers/7")))]);
    let told = scene.run(python);
    assert!(told.contains("{'HTTP/2'} {200} {'************1111'}") && told.contains("HTTP/2 201"), "{told}");

    let code = "const http2 = require('http2'); const s = http2.connect(BASE);\
                s.on('error', error => console.log(String(error)));\
                let left = 20; for (let n = 0; n < 20; n++) {\
                  const r = s.request({ ':path': '/v1/customers/' + n, ':method': n % 2 ? 'DELETE' : 'GET' }); let body = '';\
                  r.on('response', head => console.log(head[':status'])); r.on('data', part => body += part);\
                  r.on('end', () => { console.log(n % 2 ? JSON.parse(body).rule : JSON.parse(body).card); if (!--left) s.close(); });\
                  r.end(); }";
    let mut node = Command::new("node");
    node.args(["-e", &code.replace("BASE", &format!("{:?}", url("")))]);
    let told = scene.run(node);
    assert_eq!((told.matches("200").count(), told.matches("************1111").count()), (10, 10), "{told}");
    assert_eq!((told.matches("403").count(), told.matches("customers-are-kept").count()), (10, 10), "{told}");

    let arrived = scene.arrived();
    assert!(arrived.matches("HTTP/2.0 GET /v1/customers/").count() >= 61, "{arrived}");
    assert!(!arrived.contains("DELETE") && !arrived.contains("placeholder"), "{arrived}");
}

/// A server of gRPC, which says what it was sent.
const SERVER: &str = r#"
import grpc, sys
from concurrent import futures
address, key, chain = sys.argv[1:]
def told(context): return dict(context.invocation_metadata()).get("authorization", "nobody").encode()
def place(request, context):
    print("placed", request, flush=True)
    if request == b"refuse": context.abort(grpc.StatusCode.NOT_FOUND, "no such article, " + told(context).decode())
    return b"placed " + request + b" for " + told(context)
def chat(requests, context):
    for request in requests: yield b"echo " + request
    context.set_trailing_metadata((("x-said", "all"),))
def cancel(request, context): print("cancelled", flush=True); return b""
methods = {
    "Place": grpc.unary_unary_rpc_method_handler(place),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Cancel": grpc.unary_unary_rpc_method_handler(cancel),
}
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", methods),))
credentials = grpc.ssl_server_credentials([(open(key, "rb").read(), open(chain, "rb").read())])
assert server.add_secure_port(address, credentials)
server.start(); print("ready", flush=True); server.wait_for_termination()
"#;

/// Its client, which knows nothing of any of this.
const CLIENT: &str = r#"
import grpc, queue, sys
channel = grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials())
def say(name, work):
    try: print(name, work())
    except grpc.RpcError as error: print(name, error.code().name, error.details())
say("place", lambda: channel.unary_unary("/shop.Orders/Place")(b"book", timeout=20, metadata=(("authorization", "Bearer placeholder"),)))
say("refuse", lambda: channel.unary_unary("/shop.Orders/Place")(b"refuse", timeout=20))
say("cancel", lambda: channel.unary_unary("/shop.Orders/Cancel")(b"book", timeout=20))
say("elsewhere", lambda: channel.unary_unary("/other.Service/Do")(b"book", timeout=20))
said = queue.Queue()
call = channel.stream_stream("/shop.Orders/Chat")(iter(said.get, None), timeout=20)
for word in [b"one", b"two", b"three"]:
    said.put(word); print("chat", next(call))
said.put(None); print("end", list(call), call.code().name, dict(call.trailing_metadata())["x-said"])
many = [channel.unary_unary("/shop.Orders/Place").future(b"%d" % n, timeout=20) for n in range(60)]
print("many", sum(one.result().startswith(b"placed") for one in many))
"#;

/// A server that ends with the test.
pub(crate) struct Server(pub(crate) Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A program of the Python that has the clients.
pub(crate) fn python(code: &str) -> Command {
    let mut python = Command::new(installed().join("web/bin/python"));
    python.args(["-c", code]);
    python
}

pub(crate) fn calls_of_grpc_are_judged(scene: &Scene) {
    let mut server = python(SERVER);
    server.arg(format!("[::]:{RPC_PORT}")).arg(scene.file("nginx.key")).arg(scene.file("nginx.crt"));
    server.stdout(Stdio::piped());
    let mut server = Server(scene.stage.world.spawn_in(Place::Far, server).unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");

    let mut client = python(CLIENT);
    client.arg(format!("{API}:{RPC_PORT}"));
    let told = scene.run(client);
    let line = |name: &str| told.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    // The credential is the target's, and what it says of it is blotted out.
    let blot = "*".repeat(SECRET.len());
    assert_eq!(line("place"), format!("place b'placed book for Bearer {blot}'"), "{told}\n{}", scene.stage.log());
    assert_eq!(line("refuse"), format!("refuse NOT_FOUND no such article, Bearer {blot}"), "{told}");
    assert!(line("cancel").starts_with("cancel PERMISSION_DENIED interceptor: "), "{told}");
    assert!(line("cancel").contains("orders are not cancelled by agents; rule: nothing-is-cancelled"), "{told}");
    assert!(line("elsewhere").starts_with("elsewhere PERMISSION_DENIED"), "{told}");
    assert!(told.contains("chat b'echo one'") && told.contains("chat b'echo three'"), "{told}");
    assert_eq!((line("end"), line("many")), ("end [] OK all".to_owned(), "many 60".to_owned()), "{told}");
    drop(server);
    let reached: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(!reached.iter().any(|line| line.contains("cancelled")), "{reached:?}");

    let listed: Value = serde_json::from_str(&scene.operate(&["--json", "recordings", "list"])).unwrap();
    let ids =
        listed.as_array().unwrap().iter().filter(|one| one["target"] == "rpc").filter_map(|one| one["id"].as_str());
    let replayed: String = ids.map(|id| scene.operate(&["recordings", "replay", id, "--no-wait"])).collect();
    for expected in ["POST /shop.Orders/Place", "echo three", "grpc-status: 0", "grpc-status: 5"] {
        assert!(replayed.contains(expected), "{expected}: {replayed}");
    }
}

#[test]
fn the_programs_are_there() {
    let output = Command::new(Path::new("curl")).arg("--version").output().unwrap();
    assert!(said(&output).contains("HTTP2"), "this curl speaks no HTTP/2");
}
