//! A daemon that answers: the capture alone, without targets or policy. Each captured connection is told its record, as a
//! line of JSON; all that the daemon learns it says on its standard output.
//!
//! It is the test program once more, in the daemon's cgroup. A test program that uses it has an entry of its own for it:
//! an ignored test that calls [`run`], whose name [`Answering::start`] is given.

use std::env;
use std::io::{self, BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;

use super::manager::Manager;
use super::world::{Place, World};
use crate::capture::{Capture, Config, Kept, KernelEvent, Listener, Namespaces, Origin, Unrecorded, Wish, dns};

const CONFIG: &str = "INTERCEPTOR_TEST_ANSWERING";
/// How long an answered agent may take to close its end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it says how many events were lost.
const LOSSES: Duration = Duration::from_millis(200);
/// How often, and how long, words of the daemon are waited for.
const WAITS: (u32, Duration) = (400, Duration::from_millis(5));

/// What the entry of a test program calls. Returns at once where the program was not started as a daemon.
///
/// # Panics
/// When the daemon cannot go on; what it cannot start with it says.
#[expect(clippy::unwrap_used, clippy::print_stdout, reason = "a fixture fails by panicking, and speaks by lines")]
pub fn run() {
    let Ok(config) = env::var(CONFIG) else { return };
    let config: Config = serde_json::from_str(&config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(serve(&config)) {
        Ok(never) => match never {},
        Err(why) => println!("\n@refused {}", why.replace('\n', " ")),
    }
}

#[expect(clippy::unwrap_used, clippy::print_stdout, reason = "a fixture fails by panicking, and speaks by lines")]
async fn serve(config: &Config) -> Result<std::convert::Infallible, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let mut kept = Kept::take(config).map_err(|error| words(&error))?;
    let listener = Listener::take_over(config, &mut kept).await.map_err(|error| words(&error))?;
    let relay = dns::Relay::take_over(config, &mut kept).await.map_err(|error| words(&error))?;
    drop(kept);
    let capture = Capture::start(config, &listener, relay.as_ref()).map_err(|error| words(&error))?;
    let made = Namespaces::new(config, &listener, relay.as_ref(), Arc::new(NoTargets));
    let (namespaces, mut arrivals) = made.map_err(|error| words(&error))?;
    let mut events = capture.events().map_err(|error| words(&error))?;
    tokio::spawn(async move {
        let mut period = tokio::time::interval(LOSSES);
        loop {
            let event = tokio::select! {
                event = events.next() => event.unwrap(),
                _ = period.tick() => {
                    let lost = events.newly_lost().unwrap();
                    if lost > 0 {
                        println!("@lost {lost}");
                    }
                    continue;
                }
            };
            println!("@event {}", serde_json::to_string(&event).unwrap());
            if let Some(wish) = Wish::of(&event) {
                // What becomes of it, the next connect shows.
                let _refused = namespaces.open(wish).await;
            }
        }
    });
    if let Some(relay) = relay {
        tokio::spawn(async move { relay.run(Arc::new(NoTargets)).await });
    }
    println!("\n@ready");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.map_err(|error| words(&error))?,
            Some(accepted) = arrivals.recv() => accepted,
        };
        match accepted {
            Ok(captured) => drop(tokio::spawn(answer(captured.stream, captured.origin))),
            Err(Unrecorded::NoRecord { .. }) => println!("@unrecorded none"),
            Err(Unrecorded::ProxyItself { origin }) => println!("@unrecorded proxy {}", origin.pid),
            Err(other) => println!("@unrecorded {other}"),
        }
    }
}

#[expect(clippy::unwrap_used, clippy::print_stdout, reason = "a fixture fails by panicking, and speaks by lines")]
async fn answer(mut stream: tokio::net::TcpStream, origin: Origin) {
    let record = serde_json::to_string(&origin).unwrap();
    println!("@origin {record}");
    let _gone = stream.write_all(format!("{record}\n").as_bytes()).await;
    let _gone = stream.shutdown().await;
    // Closing with unread bytes would reset the connection under the agent's eyes.
    let rest = async { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await };
    let _slow = tokio::time::timeout(PATIENCE, rest).await;
}

/// Names of targets, of which there are none: those of the configuration count.
#[derive(Debug)]
struct NoTargets;

impl dns::Names for NoTargets {
    fn covers(&self, _name: &str) -> bool {
        false
    }

    #[expect(clippy::unwrap_used, clippy::print_stdout, reason = "a fixture fails by panicking, and speaks by lines")]
    fn asked(&self, question: dns::Asked) {
        println!("@asked {}", serde_json::to_string(&question).unwrap());
    }

    fn passing(&self, question: dns::Asked) -> BoxFuture<'_, bool> {
        self.asked(question);
        Box::pin(std::future::ready(true))
    }

    fn learned(&self, _name: &str, _addresses: &[(IpAddr, Duration)]) {}
}

/// The daemon, seen from the test.
#[derive(Debug)]
pub struct Answering {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Answering {
    /// Starts it; `entry` is the name of the ignored test that calls [`run`].
    ///
    /// # Errors
    /// With its words, where it does not start.
    pub fn start(world: &World, config: &Config, entry: &str) -> Result<Self, String> {
        let mut command = command(config, entry).map_err(|error| error.to_string())?;
        command.stdout(Stdio::piped());
        world.spawn_in(Place::Daemon, command).map_err(|error| error.to_string()).and_then(Self::ready)
    }

    /// As [`Answering::start`], by a service manager.
    ///
    /// # Errors
    /// Likewise.
    pub fn start_by(manager: &Manager, world: &World, config: &Config, entry: &str) -> Result<Self, String> {
        let started = command(config, entry).and_then(|command| {
            manager.start(world, &command, |shell| {
                shell.stdout(Stdio::piped());
            })
        });
        started.map_err(|error| error.to_string()).and_then(Self::ready)
    }

    fn ready(mut child: Child) -> Result<Self, String> {
        let stdout = child.stdout.take().ok_or("it has no standard output")?;
        let mut reader = BufReader::new(stdout).lines();
        // libtest puts words of its own on lines.
        let first = reader.by_ref().map_while(Result::ok).find(|line| line.starts_with('@'));
        if first.as_deref() != Some("@ready") {
            let _status = child.kill().and_then(|()| child.wait());
            return Err(first.unwrap_or_else(|| "it said nothing".to_owned()));
        }
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        thread::spawn(move || reader.map_while(Result::ok).for_each(|line| kept.lock().push(line)));
        Ok(Self { child, lines })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its words end now.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.lines.lock().len()
    }

    fn after<T>(&self, mark: usize, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
        self.lines.lock().iter().skip(mark).filter_map(|line| read(line)).collect()
    }

    /// Refusals that it was told of since then.
    #[must_use]
    pub fn events(&self, mark: usize) -> Vec<KernelEvent> {
        self.after(mark, |line| serde_json::from_str(line.strip_prefix("@event ")?).ok())
    }

    /// Refusals since then that nobody was told of.
    #[must_use]
    pub fn lost(&self, mark: usize) -> u64 {
        self.after(mark, |line| line.strip_prefix("@lost ")?.parse::<u64>().ok()).iter().sum()
    }

    /// Connections that it got since then.
    #[must_use]
    pub fn origins(&self, mark: usize) -> Vec<Origin> {
        self.after(mark, |line| serde_json::from_str(line.strip_prefix("@origin ")?).ok())
    }

    /// Names that it was asked for since then.
    #[must_use]
    pub fn asked(&self, mark: usize) -> Vec<dns::Asked> {
        self.after(mark, |line| serde_json::from_str(line.strip_prefix("@asked ")?).ok())
    }

    /// Connections that it closed since then: `none` had no record, `proxy PID` asked for the proxy itself.
    #[must_use]
    pub fn unrecorded(&self, mark: usize) -> Vec<String> {
        self.after(mark, |line| line.strip_prefix("@unrecorded ").map(str::to_owned))
    }

    /// Waits for such words. False where they do not come in time.
    #[must_use]
    pub fn says(&self, accept: impl Fn(&Self) -> bool) -> bool {
        (0..WAITS.0).any(|_| {
            let said = accept(self);
            if !said {
                thread::sleep(WAITS.1);
            }
            said
        })
    }

    /// Ends it without warning, as a crash would.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

fn command(config: &Config, entry: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--exact", entry, "--ignored", "--nocapture"]);
    command.env(CONFIG, serde_json::to_string(config)?);
    Ok(command)
}
