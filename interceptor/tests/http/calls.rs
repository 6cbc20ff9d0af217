//! Calls whose schema is known, end to end: grpcio on both sides, and Connect's server and client of gRPC-web.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use interceptor::testing::stage::{CARD, IDP as API};
use interceptor::testing::world::Place;
use serde_json::Value;

use crate::tests::{RPC_PORT, SECRET, Scene, TYPED_PORT, WEB_PORT, installed};
use crate::two::Server;

/// What `interceptor` and the two sides know of the messages.
pub(crate) const SET: &[u8] = include_bytes!("../../src/protocol/http/grpc/testdata/shop.protoset");

/// Starts a program at the target, with what it says once it is ready.
fn started(scene: &Scene, mut server: Command) -> (Server, std::io::Lines<BufReader<std::process::ChildStdout>>) {
    server.stdout(Stdio::piped());
    let mut server = Server(scene.stage.world.spawn_in(Place::Far, server).unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    (server, lines)
}

/// A program beside the target's files.
fn program(scene: &Scene, interpreter: Command, name: &str, text: &str) -> Command {
    let file = scene.file(name);
    fs::write(&file, text).unwrap();
    let mut command = interpreter;
    command.arg(file);
    command
}

fn python() -> Command {
    Command::new(installed().join("web/bin/python"))
}

fn recordings(scene: &Scene, target: &str) -> String {
    let listed: Value = serde_json::from_str(&scene.operate(&["--json", "recordings", "list"])).unwrap();
    let ids =
        listed.as_array().unwrap().iter().filter(|one| one["target"] == target).filter_map(|one| one["id"].as_str());
    ids.map(|id| scene.operate(&["recordings", "replay", id, "--no-wait"])).collect()
}

pub(crate) fn messages_of_calls_decide(scene: &Scene) {
    let mut server = program(scene, python(), "server.py", include_str!("calls/server.py"));
    server.arg(format!("[::]:{TYPED_PORT}")).arg(scene.file("nginx.key")).arg(scene.file("nginx.crt"));
    server.arg(scene.file("shop.protoset")).arg(CARD);
    let (server, lines) = started(scene, server);
    let mut client = program(scene, python(), "client.py", include_str!("calls/client.py"));
    client.arg(format!("{API}:{TYPED_PORT}")).arg(scene.file("shop.protoset"));
    let told = scene.run(client);
    let line = |name: &str| {
        let found = told.lines().find(|line| line.split(' ').next() == Some(name));
        found.unwrap_or_else(|| panic!("{name}: {told}\n{}", scene.stage.log())).to_owned()
    };
    let blot = "*".repeat(SECRET.len());
    let placed = format!("('o-7', '[masked:pii]', 0, 'EUR', 'Bearer {blot} pays with ************1111')");
    for name in ["euro", "zipped"] {
        assert_eq!(line(name), format!("{name} {placed}"), "{told}");
    }
    for name in ["dollar", "dollar-zipped"] {
        assert!(line(name).contains("PERMISSION_DENIED") && line(name).contains("typed-in-euro"), "{told}");
    }
    // What a lenient reader would take for dollars is not understood, and so denied.
    for name in ["twice", "unknown"] {
        assert!(line(name).contains("PERMISSION_DENIED") && line(name).contains("typed-in-euro"), "{told}");
    }
    assert_eq!(line("list"), "list ('q-19', 'Ada', '[masked:pii]')", "{told}");
    assert_eq!(line("upload"), "upload 50", "{told}");
    assert!(line("upload-dollar").contains("PERMISSION_DENIED"), "{told}");
    assert!(line("cancel").contains("PERMISSION_DENIED"), "{told}");
    for word in ["one", "two", "three"] {
        assert!(told.contains(&format!("chat echo {word} [masked:pii]")), "{told}");
    }
    assert!(line("drop").contains("nothing is dropped; rule: typed-drops-nothing"), "{told}");
    let disguised: Vec<&str> = told.lines().filter(|line| line.starts_with("disguised ")).collect();
    assert!(disguised.len() == 15 && disguised.iter().all(|line| line.contains(" 403 ")), "{told}");
    drop(server);
    let reached: Vec<String> = lines.map_while(Result::ok).collect();
    let count = |text: &str| reached.iter().filter(|line| line.starts_with(text)).count();
    assert_eq!((count("placed EUR 100"), count("placed"), count("cancelled")), (2, 2, 0), "{reached:?}");
    // What was permitted before the message that ended its call may have arrived, or be gone with the call.
    let uploaded = count("uploaded");
    assert!((50..=51).contains(&uploaded) && count("uploaded EUR") == uploaded, "{reached:?}");
    assert_eq!((count("said"), count("said drop")), (3, 0), "{reached:?}");

    let replayed = recordings(scene, "typed");
    for expected in ["POST /shop.Orders/Place", "currency=EUR", "text=three", "grpc-status: 7"] {
        assert!(replayed.contains(expected), "{expected}: {replayed}");
    }
    assert!(!replayed.contains(SECRET) && !replayed.contains("secret-19"), "{replayed}");
}

/// The same server, whose messages are compressed whatever it is asked for, as a target without a schema.
pub(crate) fn echoes_are_found_where_nothing_is_known(scene: &Scene) {
    let mut server = program(scene, python(), "server.py", include_str!("calls/server.py"));
    server.arg(format!("[::]:{RPC_PORT}")).arg(scene.file("nginx.key")).arg(scene.file("nginx.crt"));
    server.arg(scene.file("shop.protoset")).arg(CARD);
    let (server, lines) = started(scene, server);
    let mut client = program(scene, python(), "client.py", include_str!("calls/client.py"));
    client.arg(format!("{API}:{RPC_PORT}")).arg(scene.file("shop.protoset"));
    let told = scene.run(client);
    let blot = "*".repeat(SECRET.len());
    for (name, currency) in [("euro", "EUR"), ("zipped", "EUR"), ("dollar", "USD")] {
        let expected = format!("{name} ('o-7', '{CARD}', 4917, '{currency}', 'Bearer {blot} pays with {CARD}')\n");
        assert!(told.contains(&expected), "{expected}: {told}\n{}", scene.stage.log());
    }
    for expected in ["list ('q-19', 'Ada', 'secret-19')", "upload 50", "chat echo three secret"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert!(!told.contains(SECRET), "{told}");
    drop(server);
    assert!(lines.map_while(Result::ok).any(|line| line.starts_with("placed USD")));
    assert!(!recordings(scene, "rpc").contains(SECRET));
}

pub(crate) fn calls_of_grpc_web_are_judged(scene: &Scene) {
    let modules = installed().join("node");
    let node = || Command::new("node");
    let mut server = program(scene, node(), "server.mjs", include_str!("calls/server.mjs"));
    server.arg(&modules).arg(WEB_PORT.to_string()).arg(scene.file("nginx.key")).arg(scene.file("nginx.crt"));
    server.arg(scene.file("shop.protoset")).arg(CARD);
    let (server, lines) = started(scene, server);
    let mut client = program(scene, node(), "client.mjs", include_str!("calls/client.mjs"));
    client.arg(&modules).arg(format!("https://{API}:{WEB_PORT}")).arg(scene.file("shop.protoset"));
    let told = scene.run(client);
    for version in ["1.1", "2"] {
        let line = |name: &str| {
            let found = told.lines().find(|line| line.starts_with(&format!("{version} {name} ")));
            found.unwrap_or_else(|| panic!("{version} {name}: {told}\n{}", scene.stage.log())).to_owned()
        };
        assert!(line("euro").ends_with("euro o-7 EUR [masked:pii] thanks"), "{told}");
        // 7 is PERMISSION_DENIED.
        assert!(line("dollar").contains("dollar 7 interceptor: ") && line("dollar").contains("web-in-euro"), "{told}");
        assert!(line("list").ends_with("list q-4 [masked:pii]"), "{told}");
        assert!(line("cancel").contains("cancel 7 "), "{told}");
        assert!(line("again").ends_with("again o-7 EUR [masked:pii] thanks"), "{told}");
        for name in ["connect-json", "connect-proto"] {
            let refused = told.lines().filter(|line| line.starts_with(&format!("{version} {name} 7 ")));
            assert_eq!(refused.count(), 2, "{told}");
        }
    }
    drop(server);
    let reached: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(reached, vec![format!("placed EUR grpc-web Bearer {SECRET}"); 4], "{told}");
}
