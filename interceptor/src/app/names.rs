//! What agents look up: which names they may, what becomes of it on record, and where the answers lead.
//!
//! An agent can ask as fast as it can send; what is written is bounded: one event a second for each cgroup, name, type and
//! fate, as many as a [`Tally`] keeps, and one for all others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::tally::{Line, Tally};
use crate::capture::Origin;
use crate::capture::dns::{Asked, Fate, Names};
use crate::record::Event;
use crate::session::House;
use crate::telemetry::SessionId;

/// Questions that wait to be counted.
const WAITING: usize = 4096;
/// How often questions are put on record.
const PERIOD: Duration = Duration::from_secs(1);

/// The names of a house's targets.
#[derive(Debug)]
pub(super) struct HouseNames {
    house: Arc<House>,
    asked: mpsc::Sender<Asked>,
}

impl HouseNames {
    /// The names, and what has to run so that questions are put on record.
    pub(super) fn new(house: Arc<House>) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (asked, asking) = mpsc::channel(WAITING);
        (Arc::new(Self { house: Arc::clone(&house), asked }), keep(house, asking))
    }
}

impl Names for HouseNames {
    fn covers(&self, name: &str) -> bool {
        self.house.loaded.load().targets.iter().any(|target| target.is_named(name))
    }

    fn asked(&self, question: Asked) {
        // Where more wait than that, it is a flood, of which enough is on record.
        let _flooded = self.asked.try_send(question);
    }

    fn learned(&self, name: &str, addresses: &[(IpAddr, Duration)]) {
        self.house.learned.add(name, addresses, self.house.clock.monotonic());
    }
}

/// What is asked, and what becomes of it.
type Question = (String, u16, Fate);

async fn keep(house: Arc<House>, mut asking: mpsc::Receiver<Asked>) {
    let mut tally: Tally<Question, Option<Origin>> = Tally::default();
    let mut period = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            asked = asking.recv() => match asked {
                Some(Asked { asker, name, kind, fate }) => {
                    let cgroup = asker.as_ref().map_or(0, |asker| asker.cgroup);
                    tally.count(cgroup, (name, kind, fate), asker);
                }
                None => return,
            },
            _ = period.tick() => {
                for line in tally.take() {
                    record(&house, line).await;
                }
            },
        }
    }
}

async fn record(house: &House, line: Line<Question, Option<Origin>>) {
    let event = match line {
        Line::Kind(question, asker, count) => told(question, asker, count),
        Line::OthersOf(cgroup, count) => {
            Event::Note { text: format!("{count} more names were asked for in cgroup {cgroup}, too many to list") }
        }
        Line::Others(count) => Event::Note { text: format!("{count} more names were asked for, too many to list") },
    };
    note(house, event).await;
}

fn told((name, kind, fate): Question, asker: Option<Origin>, count: u64) -> Event {
    let (cgroup, pid) = (asker.as_ref().map(|asker| asker.cgroup), asker.as_ref().map(|asker| asker.pid));
    if matches!(fate, Fate::PassedOn | Fate::Again) {
        tracing::debug!(%name, kind, count, cgroup, pid, "a name was asked for");
    } else {
        tracing::warn!(%name, kind, count, cgroup, pid, why = fate.as_str(), "a name was not looked up for an agent");
    }
    let uid = asker.as_ref().map(|asker| asker.uid);
    let comm = asker.map(|asker| asker.comm);
    Event::NameAsked { name, kind, fate: fate.as_str().to_owned(), count, cgroup, pid, uid, comm }
}

async fn note(house: &House, event: Event) {
    if let Err(error) = house.recorder.enqueue(SessionId::NONE, event).await {
        tracing::error!(%error, "names that were asked for are not on record");
    }
}
