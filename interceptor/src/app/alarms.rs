//! Refusals by the kernel programs, summed up and put on record.
//!
//! An agent can cause refusals as fast as it can call the kernel; what is written is bounded: one event a second for each
//! kind, cgroup and process, as many as a [`Tally`] keeps, and one for all others; and one for those that the kernel programs
//! could not tell of.

use std::sync::Arc;
use std::time::Duration;

use super::namespaces::Wishes;
use super::tally::{Line, Tally};
use crate::capture::cgroup::cgroup_path;
use crate::capture::{Events, KernelEvent, Refusal};
use crate::record::Event;
use crate::session::{House, Sort};
use crate::telemetry::SessionId;

/// How often refusals are put on record.
const PERIOD: Duration = Duration::from_secs(1);

/// Watches until the ring cannot be read any more.
pub(super) async fn watch(house: Arc<House>, mut events: Events, wishes: Wishes) {
    let mut tally: Tally<Kind, KernelEvent> = Tally::default();
    let mut period = tokio::time::interval(PERIOD);
    // What was lost by then may be on record already.
    let mut since = " since the kernel programs were loaded, until this start";
    loop {
        tokio::select! {
            event = events.next() => match event {
                Ok(event) => {
                    wishes.ask(&event);
                    tally.count(event.cgroup, (words(&event), event.pid), event);
                }
                Err(error) => {
                    tracing::error!(%error, "refusals of the kernel programs cannot be read any more");
                    return;
                }
            },
            _ = period.tick() => {
                for line in tally.take() {
                    let event = match line {
                        Line::Kind((what, _), event, count) => denied(&house, what, event, count),
                        Line::OthersOf(cgroup, count) => others(&house, count, &format!(" in cgroup {cgroup}")),
                        Line::Others(count) => others(&house, count, ""),
                    };
                    record(&house, event).await;
                }
                match events.newly_lost() {
                    Ok(0) => {}
                    Ok(count) => record(&house, untold(&house, count, since)).await,
                    Err(error) => tracing::error!(%error, "refusals that nobody was told of cannot be counted"),
                }
                since = "";
            },
        }
    }
}

async fn record(house: &House, event: Event) {
    if let Err(error) = house.recorder.enqueue(SessionId::NONE, event).await {
        tracing::error!(%error, "a refusal is not on record");
    }
}

fn untold(house: &House, count: u64, since: &str) -> Event {
    house.rare.count(Sort::Kernel, "untold", count);
    tracing::warn!(count, "refused in the kernel{since}, too fast to be told one by one");
    Event::Note { text: format!("{count} more refusals of the kernel programs{since}, too fast to be told one by one") }
}

/// What was refused, and which process it was.
type Kind = (String, Option<u32>);

fn others(house: &House, count: u64, place: &str) -> Event {
    house.rare.count(Sort::Kernel, "unlisted", count);
    Event::Note { text: format!("{count} more refusals of the kernel programs{place}, of too many kinds to list") }
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

fn denied(house: &House, what: String, event: KernelEvent, count: u64) -> Event {
    let is_lookup = is_lookup(house, &event);
    house.rare.count(Sort::Kernel, if is_lookup { "lookup" } else { event.refusal.kind() }, count);
    if is_lookup {
        tracing::debug!(%what, cgroup = event.cgroup, pid = event.pid, count, destination = ?event.address, "refused in the kernel");
    } else {
        tracing::warn!(%what, cgroup = event.cgroup, pid = event.pid, count, destination = ?event.address, "refused in the kernel");
    }
    let KernelEvent { cgroup, pid, comm, address, .. } = event;
    Event::KernelDenied { what, cgroup, pid, comm: Some(comm), destination: address, count }
}
