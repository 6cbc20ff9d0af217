//! WebSockets end to end: aiohttp on both sides, TLS on both legs.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use interceptor::testing::stage::{CARD, IDP as API};
use interceptor::testing::world::Place;
use serde_json::Value;

use crate::tests::{LIVE_PORT, SECRET, Scene};
use crate::two::{Server, python};

const SERVER: &str = r#"
import asyncio, ssl, sys
from aiohttp import web
port, key, chain, card = sys.argv[1:]
async def live(request):
    ws = web.WebSocketResponse(heartbeat=1, compress=True); await ws.prepare(request)
    print("opened", request.headers.get("authorization"), flush=True)
    async for message in ws:
        print("heard", message.data, flush=True)
        if message.data == "card": await ws.send_str("the card is " + card)
        elif message.type.name == "TEXT": await ws.send_json({"said": message.data, "card": card, "as": request.headers["authorization"]})
    return ws
async def main():
    app = web.Application(); app.add_routes([web.get("/v1/live", live)])
    runner = web.AppRunner(app); await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH); context.load_cert_chain(chain, key)
    await web.TCPSite(runner, None, int(port), ssl_context=context).start()
    print("ready", flush=True); await asyncio.Event().wait()
asyncio.run(main())
"#;

const CLIENT: &str = r#"
import aiohttp, asyncio, sys
async def main():
    async with aiohttp.ClientSession() as s:
        async with s.ws_connect(sys.argv[1], compress=15, heartbeat=1, headers={"authorization": "Bearer placeholder"}) as ws:
            for n in range(3):
                await ws.send_json({"do": "list", "n": n}); print("told", (await ws.receive()).data)
            await asyncio.sleep(2.5)
            await ws.send_json({"do": "list", "after": "pings"}); print("told", (await ws.receive()).data)
            await ws.send_json({"do": "drop"})
            end = await ws.receive(); print("end", end.type.name, end.data, end.extra)
        async with s.ws_connect(sys.argv[1]) as ws:
            await ws.send_bytes(b"card"); end = await ws.receive(); print("binary", end.type.name, end.data, end.extra)
asyncio.run(main())
"#;

pub(crate) fn messages_are_judged(scene: &Scene) {
    let mut server = python(SERVER);
    server.arg(LIVE_PORT.to_string()).arg(scene.file("nginx.key")).arg(scene.file("nginx.crt"));
    server.arg(CARD).stdout(Stdio::piped());
    let mut server = Server(scene.stage.world.spawn_in(Place::Far, server).unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");

    let mut client = python(CLIENT);
    client.arg(format!("wss://{API}:{LIVE_PORT}/v1/live"));
    let told = scene.run(client);
    let listed: Value = serde_json::from_str(&scene.operate(&["--json", "recordings", "list"])).unwrap();
    let ids =
        listed.as_array().unwrap().iter().filter(|one| one["target"] == "live").filter_map(|one| one["id"].as_str());
    let replayed: String = ids.map(|id| scene.operate(&["recordings", "replay", id, "--no-wait"])).collect();
    assert_eq!(told.matches("told {").count(), 4, "{told}\n{replayed}");
    assert_eq!(told.matches("************1111").count(), 4, "{told}");
    assert!(!told.contains(CARD) && !told.contains(SECRET), "{told}");
    assert!(told.contains("end CLOSE 1008 interceptor: nothing is dropped; rule: nothing-is-dropped"), "{told}");
    assert!(told.contains("binary CLOSE 1008 "), "{told}");
    drop(server);
    let reached: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(reached.iter().filter(|line| line.contains(SECRET)).count(), 2, "{reached:?}");
    assert_eq!(reached.iter().filter(|line| line.starts_with("heard")).count(), 4, "{reached:?}");
    assert!(!reached.iter().any(|line| line.contains("drop") || line.contains("placeholder")), "{reached:?}");

    for expected in ["GET /v1/live", "101 Switching Protocols", "after", "closed: 1008"] {
        assert!(replayed.contains(expected), "{expected}: {replayed}");
    }
    assert!(!replayed.contains(CARD) && !replayed.contains(SECRET), "{replayed}");
}
