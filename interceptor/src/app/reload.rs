//! Another configuration while the daemon runs: everything is built anew, and counts only when all of it is right. Cgroups come
//! last: what is new is governed, or nothing has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Means, StartError, load, service, whole};
use crate::capture::{self, Capture, Refreshed, Reloaded};
use crate::config::{self, Config, Problem};
use crate::record::Event;
use crate::session::{House, Loaded};
use crate::telemetry::SessionId;

/// What is governed, and what the admin socket knows of it.
#[derive(Clone)]
pub(super) struct Governing {
    pub(super) capture: Arc<Capture>,
    /// As it was last looked at.
    pub(super) governed: Arc<ArcSwap<Vec<String>>>,
}

impl Governing {
    pub(super) fn new(capture: Capture) -> Result<Self, StartError> {
        let governing = Self { capture: Arc::new(capture), governed: Arc::default() };
        governing.look().map(|()| governing)
    }

    /// Looks at the governed cgroups again, and tells the admin socket.
    pub(super) fn look(&self) -> Result<(), StartError> {
        let Refreshed { governed: all, failures } = self.capture.refresh();
        self.governed.store(Arc::new(all.into_iter().map(|one| one.path).collect()));
        for error in failures {
            tracing::error!(%error, "a governed cgroup cannot be governed");
            // The next start has it prepared, and who is in it meanwhile goes where it likes.
            if error.is_unprepared() {
                return Err(StartError::failed("governing")(&error));
            }
        }
        Ok(())
    }

    /// Governs what a configuration names now. Gives what has changed, in words.
    fn reload(&self, cgroups: &[String]) -> Result<Vec<String>, capture::CaptureError> {
        let changes = self.capture.reload(cgroups)?;
        // What is wrong with one of them is told by the next look.
        let _told = self.look();
        Ok(told(&changes))
    }
}

fn told(changes: &Reloaded) -> Vec<String> {
    let Reloaded { added, released, held } = changes;
    let words = [
        (added, "is governed from now on"),
        (released, "is not governed any more"),
        (held, "is not configured any more, and stays governed: processes run there"),
    ];
    let lines =
        words.into_iter().flat_map(|(paths, what)| paths.iter().map(move |path| format!("cgroup {path} {what}")));
    lines.collect()
}

/// What `reload` does.
pub(super) type Reload = Box<dyn Fn() -> Result<String, Vec<Problem>> + Send + Sync>;

/// One at a time.
pub(super) fn reloader(
    path: &Path,
    begun: Config,
    (house, governing): (Arc<House>, Governing),
    means: Means,
    runtime: tokio::runtime::Handle,
) -> Reload {
    let path: PathBuf = path.to_path_buf();
    let one_by_one = parking_lot::Mutex::new(());
    let reload = {
        let house = Arc::clone(&house);
        move || {
            let config = config::read(&path)?;
            let loaded = load(&path, &config, &means)?;
            loaded.attestor.adopt(&house.loaded.load().attestor);
            warm(&loaded, &runtime);
            // What can still go wrong comes before anything has changed.
            let changes = governing.reload(&config.capture.cgroups);
            let changes = changes.map_err(|error| vec![whole(&path, format!("[capture] cgroups: {error}"))])?;
            let digest = loaded.policies.digest().to_owned();
            house.approvals.reconfigure(config.approval.clone());
            let is_same = house.loaded.load().policies.digest() == digest;
            house.loaded.store(Arc::new(loaded));
            if !is_same {
                house.registry.replaced();
            }
            // Only then are new sessions led to the targets as they are now.
            runtime.block_on(house.resolve());
            let notes = changes.iter().map(|text| Event::Note { text: text.clone() });
            runtime.spawn(record(
                Arc::clone(&house),
                [Event::PolicyLoaded { digest: digest.clone() }].into_iter().chain(notes).collect(),
            ));
            let changes: String = changes.iter().map(|text| format!("; {text}")).collect();
            Ok(format!("policies {digest} are in force{changes}{}", unchanged(&begun, &config)))
        }
    };
    Box::new(move || {
        let _alone = one_by_one.lock();
        service::reloading();
        let reloaded = reload();
        service::reloaded(&house, reloaded.as_ref().err().map_or(0, Vec::len));
        reloaded
    })
}

async fn record(house: Arc<House>, events: Vec<Event>) {
    for event in events {
        if let Err(error) = house.recorder.append(SessionId::NONE, event).await {
            tracing::error!(%error, "a reload is not on record");
        }
    }
}

/// What a reload leaves as it was when the daemon started, where the file says something else now.
fn unchanged(begun: &Config, now: &Config) -> String {
    let capture = capture::Config { cgroups: now.capture.cgroups.clone(), ..begun.capture.clone() };
    let sections = [
        ("[capture]", capture == now.capture),
        ("[record]", begun.record == now.record),
        ("[limits]", begun.limits == now.limits),
        ("[admin]", begun.admin == now.admin),
        ("[metrics]", begun.metrics == now.metrics),
        ("[approval] state", begun.approval.state == now.approval.state),
    ];
    let changed: Vec<&str> = sections.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect();
    if changed.is_empty() { String::new() } else { format!("; restart for what has changed in {}", changed.join(", ")) }
}

/// Fetches the issuers' keys before the new configuration counts, so that no session pays for a reload.
fn warm(loaded: &Loaded, runtime: &tokio::runtime::Handle) {
    for (issuer, why) in runtime.block_on(loaded.attestor.warm()) {
        tracing::warn!(%issuer, %why, "the issuer's keys are not there yet; its tokens are refused until they are");
    }
}

/// What came of a signal.
pub(super) fn report(reloaded: &Result<String, Vec<Problem>>) {
    match reloaded {
        Ok(loaded) => tracing::info!("{loaded}"),
        Err(problems) => {
            for problem in problems {
                tracing::error!(%problem, "not reloaded, the last good configuration stays in force");
            }
        }
    }
}
