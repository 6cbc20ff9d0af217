//! Processes that have left their governed cgroup, put on record.
//!
//! Whoever can move them can do so as often as it likes; what is written of one look is bounded.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::capture::{Looked, Stray, Strays};
use crate::record::Event;
use crate::session::House;
use crate::telemetry::SessionId;

/// How often it is looked, unless looking takes long.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two looks, so many times as long as one took.
const REST: u32 = 50;
/// Processes that are named of one look.
const NAMED: usize = 64;

/// Looks until it cannot be looked any more.
pub(super) async fn watch(house: Arc<House>, governed: Arc<ArcSwap<Vec<String>>>) {
    let mut strays = Strays::default();
    let mut was_complete = true;
    loop {
        let paths = governed.load_full();
        let clock = Arc::clone(&house.clock);
        let looked = tokio::task::spawn_blocking(move || {
            let begun = clock.monotonic();
            let looked = strays.look(&paths);
            (strays, looked, clock.monotonic().saturating_sub(begun))
        });
        let Ok((again, looked, took)) = looked.await else {
            tracing::error!("nobody looks any more for processes that leave their cgroup: the thread broke");
            return;
        };
        strays = again;
        match looked {
            Ok(looked) => was_complete = tell(&house, looked, was_complete, &governed.load()).await,
            Err(error) => tracing::error!(%error, "processes that leave their cgroup cannot be seen"),
        }
        tokio::time::sleep(PERIOD.max(took.saturating_mul(REST))).await;
    }
}

async fn tell(house: &House, looked: Looked, was_complete: bool, governed: &[String]) -> bool {
    let Looked { strays, complete } = looked;
    let more = strays.len().saturating_sub(NAMED);
    for Stray { pid, comm, cgroup, to } in strays.into_iter().take(NAMED) {
        let governed = governed.iter().any(|root| std::path::Path::new(&to).starts_with(root));
        tracing::warn!(pid, %comm, %cgroup, %to, governed, "a process left its governed cgroup");
        record(house, Event::Strayed { cgroup, pid, comm, to, governed }).await;
    }
    if more > 0 {
        note(house, format!("{more} more processes left their governed cgroups")).await;
    }
    if was_complete && !complete {
        note(house, "too many processes are governed: not of all of them it is noticed if they leave".to_owned()).await;
    }
    complete
}

async fn note(house: &House, text: String) {
    tracing::warn!("{text}");
    record(house, Event::Note { text }).await;
}

async fn record(house: &House, event: Event) {
    if let Err(error) = house.recorder.enqueue(SessionId::NONE, event).await {
        tracing::error!(%error, "that a process left its cgroup is not on record");
    }
}
