//! The running daemon: accept, serve, reload, drain.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::enroll::{self, Order};
use super::names::HouseNames;
use super::reload::{self, Governing};
use super::witness::Witnesses;
use super::workers::Workers;
use super::{Means, StartError};
use super::{namespaces, service};
use crate::admin::{self, Api};
use crate::approval;
use crate::capture::dns::{Names, Relay};
use crate::capture::{
    Arrivals, Capture, Captured, Events, Kept, KeptNamespaces, Listener, NAMESPACE_DESCRIPTORS, Namespaces,
    QUESTIONS_IN_FLIGHT, Unrecorded,
};
use crate::clock::Clock;
use crate::config::Config;
use crate::identity::level;
use crate::launch;
use crate::policy::DecisionCache;
use crate::record::{Event, Recorder};
use crate::session::{House, Learned, Loaded, REFRESH, Rare, Registry, Routes};
use crate::telemetry::SessionId;

/// How often held commands are looked at for having timed out.
const EXPIRE: Duration = Duration::from_secs(1);
/// Pause after an accept that failed, so that running out of descriptors is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long sessions have for their last words, once the time to drain is up.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Descriptors of a session: both legs, and the agent's process, so that its facts are never read of another.
const SESSION_DESCRIPTORS: u64 = 3;
/// Descriptors that are not for sessions: the spool, the admin socket, workers, loads of catalogs, and refusals.
const OTHER_DESCRIPTORS: u64 = 512 + REFUSED_AT_ONCE as u64;
/// Connections beyond the sessions that may be under way to a refusal before no more are accepted.
const REFUSED_AT_ONCE: usize = 1024;

pub(super) async fn run(path: &Path, mut config: Config, loaded: Loaded, means: Means) -> Result<(), StartError> {
    let begun = config.clone();
    config.limits.sessions = raise_descriptors(config.limits.sessions, config.capture.namespaces);
    let house = furnish(&config, loaded, Arc::clone(&means.clock)).await?;
    let witnesses = Witnesses::open(&config.record, Arc::clone(&means.clock))?;
    let bound = admin::bind(&config.admin);
    let (listener, group) = bound.map_err(|error| StartError::failed("opening the admin socket")(&error))?;
    let (names, keep_names) = HouseNames::new(Arc::clone(&house));
    let _names = AbortOnDrop(tokio::spawn(keep_names));
    let (enroll, orders) = enroll::orders();
    let captured = Captures::start(&config, names, orders).await?;
    let runtime = tokio::runtime::Handle::current();
    let api = Arc::new(Api {
        house: Arc::clone(&house),
        reload: reload::reloader(path, begun, (Arc::clone(&house), captured.governing.clone()), means, runtime),
        capture: Arc::clone(&captured.governing.capture),
        without_modules: captured.governing.capture.modules().why_not().map(str::to_owned),
        governed: Arc::clone(&captured.governing.governed),
        enroll,
        namespaces: captured.namespaces.clone(),
        witnesses: witnesses.states(),
        group,
        started_at: house.clock.now(),
    });
    let stop = serve_admin(listener, config.metrics.listen, api)?;
    let workers =
        Workers::start(house.limits.workers).map_err(|error| StartError::failed("starting the workers")(&error))?;
    announce(&house).await?;
    // Outlives all else: it tells of the last checkpoint.
    let telling = witnesses.start(house.recorder.clone());
    let telling = telling.map_err(|error| StartError::failed("starting to tell witnesses")(&error))?;
    // Outlives the listening: sessions are told, and have time to end.
    let mut sessions = JoinSet::new();
    let (watchdog, questions) = service::watchdog(workers.pulses());
    let _watchdog = AbortOnDrop(tokio::spawn(watchdog));
    let _room = AbortOnDrop(tokio::spawn(super::room::watch(Arc::clone(&house), config.record.clone())));
    let ended = govern(&house, captured, (&workers, questions), &mut sessions).await;
    let _nobody_listens = stop.send(());
    drain(&house).await;
    if let Some(telling) = telling {
        telling.end().await;
    }
    ended
}

/// Everything that captures: listeners first, so that no agent is sent to a port that nobody listens on.
struct Captures {
    listener: Listener,
    relay: Option<Relay>,
    names: Arc<HouseNames>,
    governing: Governing,
    events: Events,
    /// Those of agents' own, and what comes from there.
    namespaces: Namespaces,
    arrivals: Arrivals,
    orders: mpsc::Receiver<Order>,
    /// Where `interceptor exec` registers cgroups.
    launched: PathBuf,
}

impl Captures {
    async fn start(config: &Config, names: Arc<HouseNames>, orders: mpsc::Receiver<Order>) -> Result<Self, StartError> {
        let launched = level::Registry::beside(&config.admin.socket, &config.capture.pin_directory).launched;
        let config = &config.capture;
        let kept = Kept::take(config);
        let mut kept = kept.map_err(|error| StartError::failed("taking over what was kept")(&error))?;
        let listener = Listener::take_over(config, &mut kept).await;
        let listener = listener.map_err(|error| StartError::failed("listening for agents")(&error))?;
        let relay = Relay::take_over(config, &mut kept).await;
        let relay = relay.map_err(|error| StartError::failed("relaying DNS")(&error))?;
        let of_namespaces = KeptNamespaces::take(&mut kept);
        drop(kept);
        let capture = Capture::start(config, &listener, relay.as_ref());
        let capture = capture.map_err(|error| StartError::failed("capturing")(&error))?;
        let events = capture.events().map_err(|error| StartError::failed("watching the kernel programs")(&error))?;
        let namespaces = Namespaces::new(config, &listener, relay.as_ref(), Arc::clone(&names) as Arc<dyn Names>);
        let (namespaces, arrivals) =
            namespaces.map_err(|error| StartError::failed("looking at network namespaces")(&error))?;
        let taken = namespaces.take_over(of_namespaces).await;
        taken.map_err(|error| StartError::failed("taking over what was kept of network namespaces")(&error))?;
        let governing = Governing::new(capture)?;
        Ok(Self { listener, relay, names, governing, events, namespaces, arrivals, orders, launched })
    }
}

/// A session takes descriptors: as many as the system lets this process have are made usable. How many sessions fit:
/// more would take what the daemon itself needs, and nobody could be told why.
fn raise_descriptors(sessions: usize, namespaces: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(hard)
    });
    let others = namespaces.saturating_mul(NAMESPACE_DESCRIPTORS).saturating_add(QUESTIONS_IN_FLIGHT);
    let others = OTHER_DESCRIPTORS.saturating_add(u64::try_from(others).unwrap_or(u64::MAX));
    let fit = |descriptors: u64| {
        usize::try_from(descriptors.saturating_sub(others) / SESSION_DESCRIPTORS).unwrap_or(usize::MAX)
    };
    match raised {
        Ok(hard) if fit(hard) < sessions => {
            let fit = fit(hard).max(1);
            tracing::warn!(
                descriptors = hard,
                sessions = fit,
                "fewer sessions fit than [limits] allows: raise LimitNOFILE"
            );
            fit
        }
        Ok(_) => sessions,
        Err(error) => {
            tracing::warn!(%error, "the limit on descriptors stays as it is");
            sessions
        }
    }
}

/// Ends a task together with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Builds what sessions share.
async fn furnish(config: &Config, loaded: Loaded, clock: Arc<dyn Clock>) -> Result<Arc<House>, StartError> {
    let recorder = Recorder::open(&config.record, Arc::clone(&clock));
    let recorder = recorder.map_err(|error| StartError::failed("opening the spool")(&error))?;
    let approvals = approval::Store::open(config.approval.clone(), Arc::clone(&clock));
    let approvals = approvals.map_err(|error| StartError::failed("opening the approvals")(&error))?;
    for (issuer, why) in loaded.attestor.warm().await {
        tracing::warn!(%issuer, %why, "the issuer's keys are not there yet; its tokens are refused until they are");
    }
    let house = Arc::new(House {
        clock,
        recorder,
        approvals,
        registry: Arc::new(Registry::default()),
        limits: config.limits.clone(),
        decisions: DecisionCache::default(),
        loaded: ArcSwap::from_pointee(loaded),
        routes: ArcSwap::from_pointee(Routes::default()),
        rare: Rare::default(),
        learned: Learned::default(),
        resolving: tokio::sync::Mutex::default(),
    });
    house.resolve().await;
    Ok(house)
}

async fn announce(house: &House) -> Result<(), StartError> {
    let started = Event::DaemonStarted { version: env!("CARGO_PKG_VERSION").to_owned() };
    let policies = Event::PolicyLoaded { digest: house.loaded.load().policies.digest().to_owned() };
    for event in [started, policies] {
        let recorded = house.recorder.append(SessionId::NONE, event).await;
        recorded.map_err(|error| StartError::failed("recording the start")(&error))?;
    }
    service::ready(house);
    tracing::info!("ready");
    Ok(())
}

/// Accepts until told to stop.
async fn govern(
    house: &Arc<House>,
    captured: Captures,
    (workers, mut questions): (&Workers, mpsc::Receiver<service::Question>),
    sessions: &mut JoinSet<()>,
) -> Result<(), StartError> {
    let signals = |kind| signal(kind).map_err(|error| StartError::failed("listening for signals")(&error));
    let mut terminate: Signal = signals(SignalKind::terminate())?;
    let mut interrupt = signals(SignalKind::interrupt())?;
    let Captures { listener, relay, names, governing, events, namespaces, mut arrivals, mut orders, launched } =
        captured;
    let (wishes, keep_namespaces) = namespaces::keep(Arc::clone(house), namespaces.clone());
    let _namespaces = AbortOnDrop(tokio::spawn(keep_namespaces));
    let _alarms = AbortOnDrop(tokio::spawn(super::alarms::watch(Arc::clone(house), events, wishes)));
    let strays = super::strays::watch(Arc::clone(house), Arc::clone(&governing.governed));
    let _strays = AbortOnDrop(tokio::spawn(strays));
    let _relay = relay.map(|relay| AbortOnDrop(tokio::spawn(async move { relay.run(names).await })));
    let mut status = service::Status::default();
    let mut expire = tokio::time::interval(EXPIRE);
    let mut refresh = tokio::time::interval(REFRESH);
    loop {
        let has_room = sessions.len() < house.limits.sessions + REFUSED_AT_ONCE;
        tokio::select! {
            // What is not accepted yet waits in the kernel.
            accepted = listener.accept(), if has_room => match accepted {
                Ok(accepted) => admit(house, workers, sessions, accepted).await,
                Err(error) => {
                    tracing::error!(%error, "accepting failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(accepted) = arrivals.recv(), if has_room => admit(house, workers, sessions, accepted).await,
            Some(ended) = sessions.join_next(), if !sessions.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a session's task broke");
                }
            },
            Some(question) = questions.recv() => {
                let _nobody_waits = question.send(());
            },
            Some(order) = orders.recv() => {
                governing.look()?;
                enroll::obey(order, governing.capture.config(), house, &namespaces);
            },
            _ = expire.tick() => {
                house.expire_approvals().await;
                status.tell(house);
            },
            _ = refresh.tick() => {
                governing.look()?;
                match launch::sweep(&launched) {
                    // `interceptor exec` and `prepare` do it, who are root.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                    Err(error) => tracing::error!(%error, "what ended agents have left behind cannot be removed"),
                    Ok(()) => {}
                }
                let house = Arc::clone(house);
                tokio::spawn(async move { house.resolve().await });
            },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Gives a connection to a worker, or says why it was closed.
async fn admit(
    house: &Arc<House>,
    workers: &Workers,
    sessions: &mut JoinSet<()>,
    accepted: Result<Captured, Unrecorded>,
) {
    match accepted {
        Ok(captured) => {
            let house = Arc::clone(house);
            workers.serve(sessions, async move {
                match captured.adopt() {
                    Ok(captured) => house.serve(captured).await,
                    Err(error) => tracing::error!(%error, "a connection was closed: no worker can wait for it"),
                }
            });
        }
        Err(unrecorded) => {
            tracing::warn!(%unrecorded, "a connection without a kernel record was closed");
            let text = format!("a connection without a kernel record was closed: {unrecorded}");
            note(house, text).await;
        }
    }
}

async fn drain(house: &House) {
    tracing::info!(sessions = house.registry.len(), "draining");
    service::stopping(house);
    house.registry.drain();
    let patience = Duration::from_secs(house.limits.drain_seconds);
    let empty = || async {
        while !house.registry.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(patience, empty()).await.is_err() {
        tracing::warn!(sessions = house.registry.len(), "what sessions do takes too long: they end now");
        house.registry.end_all();
        if tokio::time::timeout(LAST_WORDS, empty()).await.is_err() {
            tracing::warn!(sessions = house.registry.len(), "sessions did not end in time and are cut off");
        }
    }
    let stopped = Event::DaemonStopped { reason: "it was told to stop".to_owned() };
    if let Err(error) = house.recorder.append(SessionId::NONE, stopped).await {
        tracing::error!(%error, "the stop is not on record");
    }
    if let Err(error) = house.recorder.close().await {
        tracing::error!(%error, "the spool was not closed cleanly");
    }
}

async fn note(house: &House, text: String) {
    if let Err(error) = house.recorder.enqueue(SessionId::NONE, Event::Note { text }).await {
        tracing::error!(%error, "a note is not on record");
    }
}

/// The admin API on a thread and a runtime of its own: it answers while sessions keep every worker busy.
fn serve_admin(
    listener: UnixListener,
    metrics: Option<SocketAddr>,
    api: Arc<Api>,
) -> Result<oneshot::Sender<()>, StartError> {
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let mut hangup = signal(SignalKind::hangup())?;
            let reloading = Arc::clone(&api);
            tokio::spawn(async move {
                while hangup.recv().await.is_some() {
                    let reloading = Arc::clone(&reloading);
                    match tokio::task::spawn_blocking(move || (reloading.reload)()).await {
                        Ok(reloaded) => reload::report(&reloaded),
                        Err(error) => tracing::error!(%error, "the reload broke; nothing was changed"),
                    }
                }
            });
            if let Some(at) = metrics {
                tokio::spawn(admin::metrics::serve(at, Arc::clone(&api)));
            }
            admin::serve(listener, api, async { drop(stopped.await) }).await
        })
    };
    let guarded = move || {
        if let Err::<(), std::io::Error>(error) = serve() {
            tracing::error!(%error, "the admin socket broke");
        }
    };
    let spawned = std::thread::Builder::new().name("admin".to_owned()).spawn(guarded);
    spawned.map_err(|error| StartError::failed("starting the admin thread")(&error))?;
    Ok(stop)
}
