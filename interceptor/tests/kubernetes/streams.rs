//! Programs in pods and ports of pods, over SPDY and WebSockets, as agents use them.

use std::path::Path;
use std::process::{Child, Command};
use std::thread;

use interceptor::testing::cluster::{FRONT_PORT, POD, PORT};
use interceptor::testing::stage::{CARD, CLUSTER};
use serde_json::Value;

use super::clients;
use super::scene::{LogIn, PLACEHOLDER, POLICIES, Scene};
use super::ways::{self, KUBECTLS, Way, kubectl, kubectl_with};

const NOTHING_IS_REMOVED: &str = r#"
@id("nothing-is-removed")
@reason("files in containers are never removed")
@remedy("restart the pod")
forbid (principal, action == Action::"k8s:exec", resource)
when { context has k8s && context.k8s has program && context.k8s.program == "rm" };
"#;

/// What the stage makes of [`CARD`].
const MASKED_CARD: &str = "************1111";

/// The same agent at another port of the cluster.
struct At<'a> {
    scene: &'a Scene,
    port: u16,
}

impl Way for At<'_> {
    fn program(&self, name: &str) -> Command {
        let mut command = self.scene.program(name);
        command.arg(format!("--server=https://{CLUSTER}:{}", self.port));
        command
    }

    fn start(&self, command: Command) -> Child {
        self.scene.start(command)
    }

    fn folder(&self) -> &Path {
        self.scene.folder()
    }
}

/// One scene for all, as it takes seconds to set.
#[test]
fn agents_run_programs_in_pods_as_policy_has_it() {
    let mut scene = Scene::set(&format!("{POLICIES}{NOTHING_IS_REMOVED}"), LogIn::Token, true);
    scene.cluster.start_front().unwrap_or_else(|error| panic!("no front: {error}"));
    for (name, port) in [(KUBECTLS[0], PORT), (KUBECTLS[1], PORT), (KUBECTLS[1], FRONT_PORT)] {
        let way = At { scene: &scene, port };
        // Where a cluster takes no WebSockets in version 5, the new kubectl asks twice.
        if (name, port) != (KUBECTLS[1], PORT) {
            a_program_waits_for_a_human(&scene, &way, name);
        }
        denials_are_read_by_people(&scene, &way, name);
        ways::logs_are_followed(&way, name);
        scene.approving(|| {
            ways::streams_work(&way, name);
            what_programs_print_is_masked(&way, name);
        });
    }
    assert!(scene.cluster.log("front").contains("v5.channel.k8s.io"), "nothing came over version 5");
    scene.approving(|| {
        clients::python_runs_programs(&scene);
        clients::go_runs_programs(&scene);
    });
    recordings_hold_both_ways(&scene);
}

fn entered(scene: &Scene) -> usize {
    scene.cluster.arrived().iter().filter(|line| line.contains("pods/exec")).count()
}

fn a_program_waits_for_a_human(scene: &Scene, way: &dyn Way, name: &str) {
    let before = entered(scene);
    let arguments = ["exec", "-i", POD, "--", "sh", "-c", "cat; exit 5"];
    let told = thread::scope(|scope| {
        let program = scope.spawn(|| kubectl_with(way, name, &arguments, "told by a human\n"));
        let request = scene.waiting("pods/box/exec");
        assert_eq!(entered(scene), before, "{name}: what is held does not reach the cluster");
        let text = request.to_string();
        assert!(text.contains("k8s:exec") && text.contains("cat"), "{name}: {text}");
        scene.refuse("pods/box/exec");
        program.join().unwrap()
    });
    assert!(told.0 == 1 && told.1.contains("not today"), "{name}: {told:?}");
    assert_eq!(entered(scene), before, "{name}");
    let told = thread::scope(|scope| {
        let program = scope.spawn(|| kubectl_with(way, name, &arguments, "told by a human\n"));
        scene.approve("pods/box/exec");
        program.join().unwrap()
    });
    assert!(told.0 == 5 && told.1.contains("told by a human"), "{name}: {told:?}");
    assert_eq!(entered(scene), before + 1, "{name}");
}

fn denials_are_read_by_people(scene: &Scene, way: &dyn Way, name: &str) {
    let before = entered(scene);
    let (code, told) = kubectl(way, name, &["exec", POD, "--", "rm", "/www/index.html"]);
    assert_eq!(code, 1, "{name}: {told}");
    for words in ["files in containers are never removed", "restart the pod", "interceptor"] {
        assert!(told.contains(words), "{name}: {words}: {told}");
    }
    // People read sentences, and no JSON.
    assert!(!told.contains("\"kind\""), "{name}: {told}");
    assert_eq!(entered(scene), before, "{name}");
}

fn what_programs_print_is_masked(way: &dyn Way, name: &str) {
    let halves = CARD.split_at(7);
    let scripts = [
        format!("echo the card is {CARD}."),
        format!("printf 'the card is {}'; printf '{}.\\n'", halves.0, halves.1),
        format!("echo the card is {CARD}. >&2"),
    ];
    for script in scripts {
        let (code, told) = kubectl(way, name, &["exec", POD, "--", "sh", "-c", &script]);
        assert!(code == 0 && told.contains(&format!("the card is {MASKED_CARD}.")), "{name}: {told}");
        assert!(!told.contains(CARD), "{name}: {told}");
    }
    // What the container itself prints is its log.
    let script = format!("echo logged {CARD} by {name} > /proc/1/fd/1");
    let (code, told) = kubectl(way, name, &["exec", POD, "--", "sh", "-c", &script]);
    assert_eq!(code, 0, "{name}: {told}");
    let (code, told) = kubectl(way, name, &["logs", POD]);
    assert!(code == 0 && told.contains(&format!("logged {MASKED_CARD} by {name}")), "{name}: {told}");
    assert!(!told.contains(CARD), "{name}: {told}");
}

fn recordings_hold_both_ways(scene: &Scene) {
    let events = scene.recorded();
    // What agents say is as they said it, statements and input; what programs answer is as it was delivered.
    for absent in [scene.cluster.secrets().token(), PLACEHOLDER] {
        assert!(!events.contains(absent), "{absent} is on record");
    }
    let listed: Value = serde_json::from_str(&scene.operate(&["--json", "recordings", "list"])).unwrap();
    let sessions = listed.as_array().unwrap().iter().filter(|one| one["target"] == "kube");
    let ids: Vec<&str> = sessions.filter_map(|one| one["id"].as_str()).collect();
    let replay = |id: &&str| scene.operate(&["recordings", "replay", id, "--no-wait"]);
    let replays: String = ids.iter().map(replay).collect();
    for words in ["told by a human", "typed", "a page of the pod", MASKED_CARD, "told by Python", "told by Go"] {
        assert!(replays.contains(words), "no replay shows {words:?}");
    }
    // A terminal, as asciinema plays it.
    let terminal = ids.iter().find(|id| replay(id).contains("got typed")).expect("a session with a terminal");
    let cast = scene.operate(&["recordings", "export", "--format", "asciicast", "--session", terminal]);
    let mut lines = cast.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let head = lines.next().unwrap();
    assert_eq!((&head["version"], &head["width"], &head["height"]), (&2.into(), &111.into(), &33.into()), "{cast}");
    let printed: String =
        lines.filter(|event| event[1] == "o").filter_map(|event| event[2].as_str().map(str::to_owned)).collect();
    assert!(printed.contains("got typed"), "{cast}");
    scene.operate(&["recordings", "verify"]);
}
