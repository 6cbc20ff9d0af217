//! cgroups that are governed while the daemon runs: containers that an operator enrolls.
//!
//! Root has attached the links, and then ended the connections from before; the listeners are made here, and closed where one
//! is let go. What is done is on record. That a cgroup is governed is what the pins say, whoever says so.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::namespaces;
use crate::admin::{Enroll, Enrolled};
use crate::capture::{self, Namespaces, cgroup};
use crate::record::Event;
use crate::session::House;
use crate::telemetry::SessionId;

/// Orders that wait; more are refused.
const WAITING: usize = 16;

/// What somebody has done.
pub(super) struct Order {
    done: Enrolled,
    reply: oneshot::Sender<Result<Enrolled, String>>,
}

/// How orders are given, and where they arrive.
pub(super) fn orders() -> (Enroll, mpsc::Receiver<Order>) {
    let (orders, ordered) = mpsc::channel(WAITING);
    let enroll: Enroll = Box::new(move |done| {
        let orders = orders.clone();
        Box::pin(async move {
            let (reply, replied) = oneshot::channel();
            orders
                .try_send(Order { done, reply })
                .map_err(|_| "too many are asked for at once; try again".to_owned())?;
            replied.await.map_err(|_| "the daemon is stopping".to_owned())?
        })
    });
    (enroll, ordered)
}

/// Takes note, and does the rest on its own.
pub(super) fn obey(order: Order, config: &capture::Config, house: &Arc<House>, namespaces: &Namespaces) {
    let Order { done, reply } = order;
    let known = known(&done, config);
    let (house, namespaces) = (Arc::clone(house), namespaces.clone());
    tokio::spawn(async move {
        let answer = match known {
            Err(error) => Err(error),
            Ok(()) if done.governed => listen(done, &namespaces).await,
            Ok(()) => {
                namespaces::leave(&house, &namespaces, &done.cgroup).await;
                Ok(done)
            }
        };
        let text = match &answer {
            Ok(Enrolled { cgroup, governed: true, destroyed }) => {
                format!("cgroup {cgroup} is governed from now on; {destroyed} connections from before are ended")
            }
            Ok(Enrolled { cgroup, .. }) => format!("cgroup {cgroup} is not governed any more"),
            Err(error) => format!("a cgroup was enrolled, or let go, and {error}"),
        };
        tracing::warn!("{text}");
        if let Err(error) = house.recorder.enqueue(SessionId::NONE, Event::Note { text }).await {
            tracing::error!(%error, "a note is not on record");
        }
        let _nobody_waits = reply.send(answer);
    });
}

/// Whether it is as was said.
fn known(done: &Enrolled, config: &capture::Config) -> Result<(), String> {
    let Enrolled { cgroup, governed, .. } = done;
    let found = cgroup::cgroup_id(cgroup).and_then(|_| capture::is_governed(config, cgroup));
    match found {
        Err(error) => Err(format!("cgroup {cgroup}: {error}")),
        Ok(found) if found == *governed => Ok(()),
        Ok(true) => Err(format!("{cgroup} is governed all the same")),
        Ok(false) => Err(format!("{cgroup} is not governed, as the pins have it")),
    }
}

/// Listens where its processes are.
async fn listen(done: Enrolled, namespaces: &Namespaces) -> Result<Enrolled, String> {
    match namespaces.sweep(true).await {
        Ok(_) => Ok(done),
        Err(error) => Err(format!("{} is governed, but its namespaces are not found: {error}", done.cgroup)),
    }
}
