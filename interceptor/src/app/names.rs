//! What agents look up: which names they may, what becomes of it on record, and where the answers lead.
//!
//! An agent can ask as fast as it can send; what is written is bounded: one event a second for each name, type and fate,
//! [`KINDS`] of them at most, and one for all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::capture::dns::{Asked, Fate, Names};
use crate::record::Event;
use crate::session::House;
use crate::telemetry::SessionId;

/// Questions that are told apart within one period.
const KINDS: usize = 256;
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

async fn keep(house: Arc<House>, mut asking: mpsc::Receiver<Asked>) {
    let mut waiting: HashMap<Asked, u64> = HashMap::new();
    let mut others = 0u64;
    let mut period = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            asked = asking.recv() => match asked {
                Some(asked) => {
                    if let Some(count) = waiting.get_mut(&asked) {
                        *count = count.saturating_add(1);
                    } else if waiting.len() < KINDS {
                        waiting.insert(asked, 1);
                    } else {
                        others = others.saturating_add(1);
                    }
                }
                None => return,
            },
            _ = period.tick() => {
                for (asked, count) in waiting.drain() {
                    record(&house, asked, count).await;
                }
                if others > 0 {
                    let text = format!("{others} more names were asked for, too many to list");
                    others = 0;
                    note(&house, Event::Note { text }).await;
                }
            },
        }
    }
}

async fn record(house: &House, asked: Asked, count: u64) {
    let Asked { name, kind, fate } = asked;
    if fate == Fate::PassedOn {
        tracing::debug!(%name, kind, count, "a name was asked for");
    } else {
        tracing::warn!(%name, kind, count, why = fate.as_str(), "a name was not looked up for an agent");
    }
    note(house, Event::NameAsked { name, kind, fate: fate.as_str().to_owned(), count }).await;
}

async fn note(house: &House, event: Event) {
    if let Err(error) = house.recorder.enqueue(SessionId::NONE, event).await {
        tracing::error!(%error, "names that were asked for are not on record");
    }
}
