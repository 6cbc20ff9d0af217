//! A time by which something has to have happened, beside everything else that is waited for.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// Runs while it is armed; costs nothing while it is not.
#[derive(Debug)]
pub(super) struct Deadline {
    after: Duration,
    running: Option<(usize, Pin<Box<Sleep>>)>,
}

impl Deadline {
    /// One that passes so long after it was armed.
    pub(super) const fn new(after: Duration) -> Self {
        Self { after, running: None }
    }

    /// It does not matter any more.
    pub(super) fn disarm(&mut self) {
        self.running = None;
    }

    /// Whether it has passed. Arms it where it is not armed yet, and again where `mark` is another than it was.
    pub(super) fn has_passed(&mut self, mark: usize, cx: &mut Context<'_>) -> bool {
        let after = self.after;
        if self.running.as_ref().is_some_and(|(known, _)| *known != mark) {
            self.running = None;
        }
        let (_, sleep) = self.running.get_or_insert_with(|| (mark, Box::pin(sleep(after))));
        sleep.as_mut().poll(cx).is_ready()
    }
}
