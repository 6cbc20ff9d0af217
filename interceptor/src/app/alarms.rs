//! Refusals by the kernel programs, summed up and put on record.
//!
//! An agent can cause refusals as fast as it can call the kernel; what is written is bounded: one event a second for each
//! kind, cgroup and process, [`KINDS`] of them at most, and one for all others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::namespaces::Wishes;
use crate::capture::cgroup::cgroup_path;
use crate::capture::{Events, KernelEvent, Refusal};
use crate::record::Event;
use crate::session::House;
use crate::telemetry::SessionId;

/// Kinds of refusals that are told apart within one period.
const KINDS: usize = 256;
/// How often refusals are put on record.
const PERIOD: Duration = Duration::from_secs(1);

/// Watches until the ring cannot be read any more.
pub(super) async fn watch(house: Arc<House>, mut events: Events, wishes: Wishes) {
    let mut waiting: HashMap<(String, u64, Option<u32>), (KernelEvent, u64)> = HashMap::new();
    let mut others = 0u64;
    let mut period = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Ok(event) => {
                    wishes.ask(&event);
                    let key = (words(&event), event.cgroup, event.pid);
                    if let Some((_, count)) = waiting.get_mut(&key) {
                        *count = count.saturating_add(1);
                    } else if waiting.len() < KINDS {
                        waiting.insert(key, (event, 1));
                    } else {
                        others = others.saturating_add(1);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "refusals of the kernel programs cannot be read any more");
                    return;
                }
            },
            _ = period.tick() => {
                for ((what, ..), (event, count)) in waiting.drain() {
                    report(&house, what, &event, count).await;
                }
                if others > 0 {
                    let text = format!("{others} more refusals of the kernel programs, of too many kinds to list");
                    others = 0;
                    if let Err(error) = house.recorder.enqueue(SessionId::NONE, Event::Note { text }).await {
                        tracing::error!(%error, "refusals are not on record");
                    }
                }
            },
        }
    }
}

/// What was refused, and whose it was, where it is another cgroup's.
fn words(event: &KernelEvent) -> String {
    let Some(other) = event.other else { return event.refusal.to_string() };
    let whose = cgroup_path(other).unwrap_or_else(|_gone| format!("a cgroup that is gone ({other})"));
    format!("{}: {whose}", event.refusal)
}

/// Whether it is what getaddrinfo does with each address of a target's name: it connects a UDP socket, sends nothing, and
/// sorts the addresses by where that would have led. On record like all else, and nothing to wake anybody for.
fn is_lookup(house: &House, event: &KernelEvent) -> bool {
    let routes = house.routes.load();
    event.refusal == Refusal::Udp && event.address.is_some_and(|address| routes.find(address).is_some())
}

async fn report(house: &House, what: String, event: &KernelEvent, count: u64) {
    if is_lookup(house, event) {
        tracing::debug!(%what, cgroup = event.cgroup, pid = event.pid, count, destination = ?event.address, "refused in the kernel");
    } else {
        tracing::warn!(%what, cgroup = event.cgroup, pid = event.pid, count, destination = ?event.address, "refused in the kernel");
    }
    let denied = Event::KernelDenied {
        what,
        cgroup: event.cgroup,
        pid: event.pid,
        comm: Some(event.comm.clone()),
        destination: event.address,
        count,
    };
    if let Err(error) = house.recorder.enqueue(SessionId::NONE, denied).await {
        tracing::error!(%error, "a refusal is not on record");
    }
}
