//! The daemon's part: this test program once more, in the daemon's cgroup. It answers each captured connection with its
//! record, and says all that it learns.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use interceptor::capture::{Capture, Config, KernelEvent, Listener, Origin, dns};
use interceptor::testing::world::{Place, World};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;

const CONFIG: &str = "INTERCEPTOR_TEST_BYPASS_CONFIG";

#[test]
#[ignore = "started by the other test, in the daemon's cgroup"]
fn runs() {
    let Ok(config) = env::var(CONFIG) else { return };
    let config: Config = serde_json::from_str(&config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(serve(config));
}

async fn serve(config: Config) {
    let listener = Listener::bind(&config).unwrap();
    let relay = dns::Relay::bind(&config).unwrap().unwrap();
    let capture = match Capture::start(&config, &listener, Some(&relay)) {
        Ok(capture) => capture,
        Err(error) => {
            println!("\n@refused {}", error.to_string().replace('\n', " "));
            return;
        }
    };
    let mut events = capture.events().unwrap();
    tokio::spawn(async move {
        loop {
            println!("@event {}", serde_json::to_string(&events.next().await.unwrap()).unwrap());
        }
    });
    tokio::spawn(async move { relay.run(Arc::new(Asked)).await });
    println!("\n@ready");
    loop {
        match listener.accept().await.unwrap() {
            Ok(captured) => drop(tokio::spawn(answer(captured.stream, captured.origin))),
            Err(other) => println!("@unrecorded {other}"),
        }
    }
}

/// The one name that the attempts may ask for.
#[derive(Debug)]
struct Asked;

impl dns::Names for Asked {
    fn covers(&self, name: &str) -> bool {
        name == "asked"
    }

    fn asked(&self, _question: dns::Asked) {}

    fn learned(&self, _name: &str, _addresses: &[(IpAddr, Duration)]) {}
}

async fn answer(mut stream: tokio::net::TcpStream, origin: Origin) {
    let record = serde_json::to_string(&origin).unwrap();
    println!("@origin {record}");
    let _gone = stream.write_all(format!("{record}\n").as_bytes()).await;
    let _gone = stream.shutdown().await;
    // Closing with unread bytes would reset the connection under the agent's eyes.
    let rest = async { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await };
    let _slow = tokio::time::timeout(Duration::from_secs(5), rest).await;
}

pub(crate) struct Daemon {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// # Errors
    /// With its words, where it does not start.
    pub(crate) fn start(world: &World, config: &Config) -> Result<Self, String> {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "daemon::runs", "--ignored", "--nocapture"]);
        command.env(CONFIG, serde_json::to_string(config).unwrap()).stdout(Stdio::piped());
        let mut child = world.spawn_in(Place::Daemon, command).unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let first = reader.by_ref().map_while(Result::ok).find(|line| line.starts_with('@'));
        if first.as_deref() != Some("@ready") {
            child.wait().unwrap();
            return Err(first.unwrap_or_else(|| "it said nothing".to_owned()));
        }
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || reader.map_while(Result::ok).for_each(|line| kept.lock().push(line)));
        Ok(Self { child, lines })
    }

    /// Where its words end now.
    pub(crate) fn mark(&self) -> usize {
        self.lines.lock().len()
    }

    fn after<T>(&self, mark: usize, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
        self.lines.lock().iter().skip(mark).filter_map(|line| read(line)).collect()
    }

    pub(crate) fn events(&self, mark: usize) -> Vec<KernelEvent> {
        self.after(mark, |line| serde_json::from_str(line.strip_prefix("@event ")?).ok())
    }

    pub(crate) fn origins(&self, mark: usize) -> Vec<Origin> {
        self.after(mark, |line| serde_json::from_str(line.strip_prefix("@origin ")?).ok())
    }

    pub(crate) fn unrecorded(&self, mark: usize) -> Vec<String> {
        self.after(mark, |line| line.strip_prefix("@unrecorded ").map(str::to_owned))
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
