//! What agents look up: which names they may, what becomes of it on record, and where the answers lead.
//!
//! What leaves is on record before it does, each question by itself: how many those can be is bounded by the relay. Of what does
//! not leave an agent can ask as fast as it can send; what is written of that is bounded: one event a second for each cgroup,
//! name, type and fate, as many as a [`Tally`] keeps, and one for all others.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::tally::{Line, Tally};
use crate::capture::Origin;
use crate::capture::dns::{Asked, Fate, Names};
use crate::record::Event;
use crate::session::{House, Sort};
use crate::telemetry::SessionId;

/// How often questions are put on record of which nothing leaves.
const PERIOD: Duration = Duration::from_secs(1);

/// The names of a house's targets.
#[derive(Debug)]
pub(super) struct HouseNames {
    house: Arc<House>,
    asked: Mutex<Tally<Question, Option<Origin>>>,
}

impl HouseNames {
    /// The names, and what has to run so that questions are put on record.
    pub(super) fn new(house: Arc<House>) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let names = Arc::new(Self { house, asked: Mutex::default() });
        (Arc::clone(&names), keep(names))
    }
}

impl Names for HouseNames {
    fn covers(&self, name: &str) -> bool {
        self.house.loaded.load().targets.iter().any(|target| target.is_named(name))
    }

    fn asked(&self, Asked { asker, name, kind, fate }: Asked) {
        let cgroup = asker.as_ref().map_or(0, |asker| asker.cgroup);
        self.asked.lock().count(cgroup, (name, kind, fate), asker);
    }

    fn passing(&self, Asked { asker, name, kind, fate }: Asked) -> BoxFuture<'_, bool> {
        let event = told((name, kind, fate), asker, 1);
        Box::pin(async move {
            let recorded = self.house.recorder.append(SessionId::NONE, event).await;
            recorded
                .inspect_err(|error| tracing::error!(%error, "a name is not asked for: it cannot be recorded"))
                .is_ok()
        })
    }

    fn learned(&self, name: &str, addresses: &[(IpAddr, Duration)]) {
        self.house.learned.add(name, addresses, self.house.clock.monotonic());
    }
}

/// What is asked, and what becomes of it.
type Question = (String, u16, Fate);

async fn keep(names: Arc<HouseNames>) {
    let mut period = tokio::time::interval(PERIOD);
    loop {
        period.tick().await;
        let lines = names.asked.lock().take();
        for line in lines {
            record(&names.house, line).await;
        }
    }
}

async fn record(house: &House, line: Line<Question, Option<Origin>>) {
    let (word, count) = match &line {
        Line::Kind((_, _, fate), _, count) => (fate.as_str(), *count),
        Line::OthersOf(_, count) | Line::Others(count) => ("unlisted", *count),
    };
    house.rare.count(Sort::Name, word, count);
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
