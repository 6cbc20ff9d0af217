//! Processes that have left their governed cgroup, put on record.
//!
//! Whoever can move them can do so as often as it likes; what is written of one look is bounded.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::capture::{Looked, Stray, Strays};
use crate::record::Event;
use crate::session::{House, Sort};
use crate::telemetry::SessionId;

/// How often it is looked, unless looking takes long.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two looks, so many times as long as one took.
const REST: u32 = 50;
/// Processes that are named of one look.
const NAMED: usize = 64;

/// What was told once, and is not told again.
#[derive(Default)]
struct Told {
    incomplete: bool,
    blind: bool,
}

/// Looks for as long as the task lives.
pub(super) async fn watch(house: Arc<House>, governed: Arc<ArcSwap<Vec<String>>>) {
    let (mut strays, mut told) = (Strays::default(), Told::default());
    loop {
        let paths = governed.load_full();
        let clock = Arc::clone(&house.clock);
        let looked = tokio::task::spawn_blocking(move || {
            let begun = clock.monotonic();
            let looked = strays.look(&paths);
            (strays, looked, clock.monotonic().saturating_sub(begun))
        });
        let Ok((again, looked, took)) = looked.await else {
            note(&house, "nobody looks any more for processes that leave their cgroup: the thread broke".to_owned())
                .await;
            return;
        };
        strays = again;
        match looked {
            Ok(looked) => {
                told.blind = false;
                tell(&house, looked, &mut told, &governed.load()).await;
            }
            Err(error) if !std::mem::replace(&mut told.blind, true) => {
                note(&house, format!("processes that leave their cgroup cannot be seen: {error}")).await;
            }
            Err(_) => {}
        }
        tokio::time::sleep(PERIOD.max(took.saturating_mul(REST))).await;
    }
}

async fn tell(house: &House, looked: Looked, told: &mut Told, governed: &[String]) {
    let Looked { strays, complete } = looked;
    let more = strays.len().saturating_sub(NAMED);
    for Stray { pid, comm, cgroup, to } in strays.into_iter().take(NAMED) {
        let governed = governed.iter().any(|root| Path::new(&to).starts_with(root));
        house.rare.count(Sort::Stray, if governed { "governed" } else { "free" }, 1);
        record(house, Event::Strayed { cgroup: cgroup.clone(), pid, comm: comm.clone(), to: to.clone(), governed })
            .await;
        tracing::warn!(pid, ?comm, %cgroup, ?to, governed, "a process left its governed cgroup");
    }
    if more > 0 {
        house.rare.count(Sort::Stray, "unlisted", u64::try_from(more).unwrap_or(u64::MAX));
        note(house, format!("{more} more processes left their governed cgroups")).await;
    }
    if !complete && !std::mem::replace(&mut told.incomplete, true) {
        note(house, "too many processes are governed: not of all of them it is noticed if they leave".to_owned()).await;
    }
}

async fn note(house: &House, text: String) {
    tracing::error!("{text}");
    record(house, Event::Note { text }).await;
}

async fn record(house: &House, event: Event) {
    if let Err(error) = house.recorder.enqueue(SessionId::NONE, event).await {
        tracing::error!(%error, "that a process left its cgroup is not on record");
    }
}
