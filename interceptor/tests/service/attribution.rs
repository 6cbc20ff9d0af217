//! A hundred thousand connections, from children that come and go: each with its true process.

use std::process::Command;
use std::thread;
use std::time::Duration;

use interceptor::testing::forks;
use interceptor::testing::world::Place;

use super::scene::{AGENT, Scene};

const CONNECTIONS: usize = 100_000;
/// Two agents at once, each at a port of its own, and each child at an address of its own.
const AGENTS: [(&str, u16); 2] = [("one", 7000), ("two", 7001)];
const LIMIT: Duration = Duration::from_secs(600);
/// Between two looks whether something was told meanwhile, and how many.
const MOMENT: Duration = Duration::from_millis(500);
const MOMENTS: u32 = 240;

#[test]
fn nobody_is_taken_for_another_while_processes_come_and_go() {
    let each = CONNECTIONS / AGENTS.len();
    let scene = Scene::new();
    let program = forks::build(scene.world.directory()).expect("these tests need a C compiler");
    let daemon = scene.start_alone();
    let wire = scene.world.sniff().unwrap();
    let outputs = thread::scope(|scope| {
        let run = |(name, port): (&'static str, u16)| {
            let mut command = Command::new(&program);
            command.args([each.to_string(), port.to_string()]);
            let scene = &scene;
            scope.spawn(move || scene.world.output(Place::Agent(name), Some(AGENT), command, LIMIT).unwrap())
        };
        AGENTS.map(run).map(|agent| agent.join().unwrap())
    });
    // What was accepted last is told a moment later.
    let mut told = 0;
    for _ in 0..MOMENTS {
        if told == daemon.mark() {
            break;
        }
        told = daemon.mark();
        thread::sleep(MOMENT);
    }
    let origins = daemon.origins(0);
    for ((name, port), output) in AGENTS.into_iter().zip(outputs) {
        let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        let tally = forks::tally(&lines, &origins, port);
        eprintln!("     {name}: {tally:?}");
        assert_eq!(tally.wrong, Vec::<String>::new());
        assert_eq!((tally.children, tally.told), (each, tally.names));
        // One in four waits for its answer.
        assert!(tally.answered * 4 > each * 9 / 10 && tally.told > each / 2, "{tally:?}");
    }
    assert_eq!(wire.seen(), []);
    daemon.kill().unwrap();
}
