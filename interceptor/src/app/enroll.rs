//! cgroups that are governed while the daemon runs: containers that an operator enrolls.
//!
//! The links come first, then the connections from before are ended, then the listeners are made. What is done is on record.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::admin::{Enroll, EnrollBody, Enrolled};
use crate::capture::{Capture, Namespaces, destroy};
use crate::record::Event;
use crate::session::House;
use crate::telemetry::SessionId;

/// Orders that wait; more are refused.
const WAITING: usize = 16;

/// What somebody asked for.
pub(super) struct Order {
    body: EnrollBody,
    reply: oneshot::Sender<Result<Enrolled, String>>,
}

/// How orders are given, and where they arrive.
pub(super) fn orders() -> (Enroll, mpsc::Receiver<Order>) {
    let (orders, ordered) = mpsc::channel(WAITING);
    let enroll: Enroll = Box::new(move |body| {
        let orders = orders.clone();
        Box::pin(async move {
            let (reply, replied) = oneshot::channel();
            orders
                .try_send(Order { body, reply })
                .map_err(|_| "too many are asked for at once; try again".to_owned())?;
            replied.await.map_err(|_| "the daemon is stopping".to_owned())?
        })
    });
    (enroll, ordered)
}

/// Attaches or detaches, and does the rest on its own.
pub(super) fn obey(order: Order, capture: &Capture, house: &Arc<House>, namespaces: &Namespaces) {
    let Order { body: EnrollBody { cgroup, undo }, reply } = order;
    let done = if undo { capture.release(&cgroup) } else { capture.govern(&cgroup).map(|_| true) };
    let (house, namespaces) = (Arc::clone(house), namespaces.clone());
    tokio::spawn(async move {
        let answer = match done {
            Err(error) => Err(error.to_string()),
            Ok(false) => Err(format!("{cgroup} is not governed")),
            Ok(true) if undo => Ok(Enrolled { cgroup, governed: false, destroyed: 0 }),
            Ok(true) => settle(cgroup, &namespaces).await,
        };
        let text = match &answer {
            Ok(Enrolled { cgroup, governed: true, destroyed }) => {
                format!("cgroup {cgroup} is governed from now on; {destroyed} connections from before are ended")
            }
            Ok(Enrolled { cgroup, .. }) => format!("cgroup {cgroup} is not governed any more"),
            Err(error) => format!("a cgroup was not enrolled: {error}"),
        };
        tracing::warn!("{text}");
        if let Err(error) = house.recorder.enqueue(SessionId::NONE, Event::Note { text }).await {
            tracing::error!(%error, "a note is not on record");
        }
        let _nobody_waits = reply.send(answer);
    });
}

/// Ends what was there before, and listens where its processes are.
async fn settle(cgroup: String, namespaces: &Namespaces) -> Result<Enrolled, String> {
    let path = cgroup.clone();
    // Twice: a process that was starting another one may have handed it a socket meanwhile.
    let ended = tokio::task::spawn_blocking(move || Ok::<_, std::io::Error>(destroy(&path)? + destroy(&path)?)).await;
    let destroyed = ended.map_err(|error| error.to_string())?.map_err(|error| {
        format!("{cgroup} is governed, but its connections from before could not be ended: {error}")
    })?;
    namespaces
        .sweep(true)
        .await
        .map_err(|error| format!("{cgroup} is governed, but its namespaces are not found: {error}"))?;
    Ok(Enrolled { cgroup, governed: true, destroyed })
}
