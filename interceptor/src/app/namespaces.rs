//! Keeps listeners in the network namespaces of agents: made when one was refused there, or is found there, and closed when
//! nobody is there any more. What is made, and what is not, is on record.
//!
//! An agent can ask as fast as it can call the kernel; [`Namespaces`] bounds what is made, and one note a second says what
//! was not.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::capture::{KernelEvent, Namespace, NamespaceError, Namespaces, Wish};
use crate::record::Event;
use crate::session::House;
use crate::telemetry::SessionId;

/// Wishes that wait; more are dropped, and told again by the next refusal.
const WAITING: usize = 256;
/// How often it is looked whether anybody is left, and where there is somebody new.
const SWEEP: Duration = Duration::from_secs(5);
/// How often it is noted that none was made.
const NOTE: Duration = Duration::from_secs(1);

/// Where refusals are told.
pub(super) struct Wishes(mpsc::Sender<Wish>);

impl Wishes {
    /// Asks for a listener, where that is what was missing.
    pub(super) fn ask(&self, event: &KernelEvent) {
        if let Some(wish) = Wish::of(event) {
            let _flooded = self.0.try_send(wish);
        }
    }
}

/// What was not made since the last note.
#[derive(Default)]
struct Missed {
    count: u64,
    /// Why.
    why: String,
}

/// Where to ask, and what has to run.
pub(super) fn keep(house: Arc<House>, namespaces: Namespaces) -> (Wishes, impl Future<Output = ()> + Send + 'static) {
    let (wishes, wished) = mpsc::channel(WAITING);
    (Wishes(wishes), run(house, namespaces, wished))
}

async fn run(house: Arc<House>, namespaces: Namespaces, mut wished: mpsc::Receiver<Wish>) {
    let mut sweep = tokio::time::interval(SWEEP);
    let mut period = tokio::time::interval(NOTE);
    let mut missed = Missed::default();
    loop {
        tokio::select! {
            wish = wished.recv() => match wish {
                Some(wish) => open(&house, &namespaces, wish, &mut missed).await,
                None => return,
            },
            // The first one comes at once: after a restart, agents are in there already.
            _ = sweep.tick() => clean(&house, &namespaces).await,
            _ = period.tick() => {
                if missed.count > 0 {
                    let Missed { count, why } = std::mem::take(&mut missed);
                    tracing::warn!(count, %why, "no listener was made in a network namespace");
                    note(&house, format!("no listener was made in a network namespace, {count} times; {why}")).await;
                }
            },
        }
    }
}

async fn open(house: &House, namespaces: &Namespaces, wish: Wish, missed: &mut Missed) {
    let known = namespaces.is_open(wish);
    match namespaces.open(wish).await {
        Ok(_) if known => {}
        Ok(made) => {
            tracing::info!(inode = made.inode, cgroup = %made.cgroup, pid = made.pid, "listens in a network namespace");
            note(house, told(&made, "interceptor listens")).await;
        }
        // It was not there for long, or its listener is there: nothing to tell.
        Err(NamespaceError::Gone { .. } | NamespaceError::Home { .. }) => {}
        Err(error) => {
            missed.count = missed.count.saturating_add(1);
            // That it asks too often tells less than why it was in vain before.
            if missed.why.is_empty() || !error.is_bound() {
                missed.why = format!("process {}: {error}", wish.pid());
            }
        }
    }
}

async fn clean(house: &House, namespaces: &Namespaces) {
    closed(house, namespaces.sweep(true).await).await;
}

/// Closes at once what was for a cgroup that is let go.
pub(super) async fn leave(house: &House, namespaces: &Namespaces, cgroup: &str) {
    closed(house, namespaces.leave(cgroup).await).await;
}

async fn closed(house: &House, closed: io::Result<Vec<Namespace>>) {
    match closed {
        Ok(closed) => {
            for gone in closed {
                tracing::info!(inode = gone.inode, "closed a network namespace that no agent is in any more");
                note(house, told(&gone, "interceptor does not listen any more")).await;
            }
        }
        Err(error) => tracing::error!(%error, "the network namespaces of agents cannot be looked at"),
    }
}

fn told(namespace: &Namespace, what: &str) -> String {
    let Namespace { cookie, inode, pid, cgroup, captured } = namespace;
    format!("{what} in network namespace {inode} (cookie {cookie}) of process {pid} in {cgroup}; {captured} captured")
}

async fn note(house: &House, text: String) {
    if let Err(error) = house.recorder.enqueue(SessionId::NONE, Event::Note { text }).await {
        tracing::error!(%error, "a note is not on record");
    }
}
