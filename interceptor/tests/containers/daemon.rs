//! The daemon's part: this test program once more, in the daemon's cgroup. It answers each captured connection with its
//! record, opens namespaces as refusals ask for it, and does what it is told on its standard input.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use interceptor::capture::{
    Capture, Captured, Config, KernelEvent, Listener, Namespace, Namespaces, Unrecorded, Wish, dns,
};
use interceptor::testing::world::{Place, World};
use parking_lot::Mutex;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncWriteExt as _;

const CONFIG: &str = "INTERCEPTOR_TEST_CONTAINERS_CONFIG";
/// Does not open a namespace when a connect is refused there: the test says when.
const BY_HAND: &str = "INTERCEPTOR_TEST_CONTAINERS_BY_HAND";
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
#[ignore = "started by the other tests, in the daemon's cgroup"]
fn runs() {
    let Ok(config) = env::var(CONFIG) else { return };
    let config: Config = serde_json::from_str(&config).unwrap();
    // Each namespace takes five.
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(serve(config));
}

async fn serve(config: Config) {
    let listener = Listener::bind(&config).unwrap();
    let relay = dns::Relay::bind(&config).unwrap();
    let capture = Capture::start(&config, &listener, relay.as_ref()).unwrap_or_else(|error| panic!("{error}"));
    let made = Namespaces::new(&config, &listener, relay.as_ref(), Arc::new(dns::AnyName));
    let (namespaces, mut arrivals) = made.unwrap();
    let mut events = capture.events().unwrap();
    let by_hand = env::var_os(BY_HAND).is_some();
    let opening = namespaces.clone();
    tokio::spawn(async move {
        loop {
            let event = events.next().await.unwrap();
            println!("@event {}", serde_json::to_string(&event).unwrap());
            if let Some(wish) = Wish::of(&event).filter(|_| !by_hand) {
                match opening.open(wish).await {
                    Ok(seen) => println!("@open {}", serde_json::to_string(&seen).unwrap()),
                    Err(error) => println!("@failed {error}"),
                }
            }
        }
    });
    if let Some(relay) = relay {
        tokio::spawn(async move { relay.run(Arc::new(dns::AnyName)).await });
    }
    tokio::spawn(obey(namespaces));
    println!("\n@ready");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            Some(accepted) = arrivals.recv() => accepted,
        };
        answer(accepted);
    }
}

/// One order a line.
async fn obey(namespaces: Namespaces) {
    let mut orders = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(order)) = orders.next_line().await {
        let words: Vec<&str> = order.split(' ').collect();
        let said = match words.as_slice() {
            ["announce", pid] => opened(&namespaces, Wish::Announced { pid: pid.parse().unwrap() }).await,
            ["refused", pid, cookie, cgroup] => {
                let (pid, cookie, cgroup) = (pid.parse().unwrap(), cookie.parse().unwrap(), cgroup.parse().unwrap());
                opened(&namespaces, Wish::Refused { pid, cookie, cgroup }).await
            }
            ["sweep"] => serde_json::to_string(&namespaces.sweep(false).await.unwrap()).unwrap(),
            ["discover"] => serde_json::to_string(&namespaces.sweep(true).await.unwrap()).unwrap(),
            ["list"] => serde_json::to_string(&namespaces.list()).unwrap(),
            _ => panic!("{order}"),
        };
        println!("@said {said}");
    }
}

async fn opened(namespaces: &Namespaces, wish: Wish) -> String {
    match namespaces.open(wish).await {
        Ok(seen) => serde_json::to_string(&seen).unwrap(),
        Err(error) => serde_json::to_string(&error.to_string()).unwrap(),
    }
}

fn answer(accepted: Result<Captured, Unrecorded>) {
    let captured = match accepted {
        Ok(captured) => captured,
        Err(unrecorded) => {
            println!("@unrecorded {unrecorded}");
            return;
        }
    };
    tokio::spawn(async move {
        let record = serde_json::json!({ "origin": captured.origin, "own_address": captured.own_address });
        let mut stream = captured.stream;
        let _gone = stream.write_all(format!("{record}\n").as_bytes()).await;
        let _gone = stream.shutdown().await;
        // Closing with unread bytes would reset the connection under the agent's eyes.
        let rest = async { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await };
        let _slow = tokio::time::timeout(Duration::from_secs(5), rest).await;
    });
}

pub(crate) struct Daemon {
    child: Child,
    orders: ChildStdin,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    pub(crate) fn start(world: &World, config: &Config, by_hand: bool) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "daemon::runs", "--ignored", "--nocapture"]);
        command.env(CONFIG, serde_json::to_string(config).unwrap()).stdin(Stdio::piped()).stdout(Stdio::piped());
        if by_hand {
            command.env(BY_HAND, "1");
        }
        let mut child = world.spawn_in(Place::Daemon, command).unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = reader.by_ref().map_while(Result::ok).any(|line| line.ends_with("@ready"));
        assert!(ready, "the daemon did not start: see above");
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || reader.map_while(Result::ok).for_each(|line| kept.lock().push(line)));
        Self { orders: child.stdin.take().unwrap(), child, lines }
    }

    /// Gives an order, and what it came to.
    pub(crate) fn order(&mut self, order: &str) -> serde_json::Value {
        let before = self.after("@said ").len();
        self.orders.write_all(format!("{order}\n").as_bytes()).unwrap();
        self.wait(order, |daemon| daemon.after("@said ").get(before).cloned())
    }

    pub(crate) fn list(&mut self) -> Vec<Namespace> {
        serde_json::from_value(self.order("list")).unwrap()
    }

    pub(crate) fn events(&self) -> Vec<KernelEvent> {
        self.after("@event ").into_iter().map(|value| serde_json::from_value(value).unwrap()).collect()
    }

    /// Whether a line of this kind holds these words.
    pub(crate) fn said(&self, kind: &str, words: &str) -> bool {
        self.lines.lock().iter().any(|line| line.starts_with(kind) && line.contains(words))
    }

    pub(crate) fn count(&self, kind: &str) -> usize {
        self.lines.lock().iter().filter(|line| line.starts_with(kind)).count()
    }

    /// Why namespaces were not opened, and what was refused: each once.
    pub(crate) fn failures(&self) -> std::collections::BTreeSet<String> {
        let mut all: std::collections::BTreeSet<String> =
            self.events().iter().map(|event| event.refusal.to_string()).collect();
        let lines = self.lines.lock();
        let failed = lines.iter().filter(|line| line.starts_with("@failed") || line.starts_with("@unrecorded"));
        all.extend(failed.cloned());
        all
    }

    fn after(&self, kind: &str) -> Vec<serde_json::Value> {
        let lines = self.lines.lock();
        lines.iter().filter_map(|line| serde_json::from_str(line.strip_prefix(kind)?).ok()).collect()
    }

    /// Waits for something, and fails where it does not come.
    pub(crate) fn wait<T>(&self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        for _ in 0..PATIENCE.as_millis() / 5 {
            if let Some(found) = look(self) {
                return found;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("no {what}: {:?}", self.lines.lock());
    }

    /// Descriptors that it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
