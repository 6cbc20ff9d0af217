//! Cancel requests: what an agent's key stands for at the target.
//!
//! The agent never learns the target's own key. The key it gets is random, and good only within its own identity, which
//! the gate sees to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::codec::ProtocolVersion;
use super::login;
use crate::protocol::{Cancel, Dial, Target};

/// A key for cancel requests, ours alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// In the place of a process id.
    pub(super) process_id: u32,
    /// 4 bytes in protocol 3.0, 32 since 3.2.
    pub(super) secret: Bytes,
}

impl Key {
    /// A fresh one.
    pub(super) fn generate(version: ProtocolVersion) -> io::Result<Self> {
        let mut random = [0u8; 36];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let [a, b, c, d, secret @ ..] = random;
        // Clients take it for a signed number, and some print it.
        let process_id = u32::from_be_bytes([a & 0x7f, b, c, d]);
        let length = if version >= ProtocolVersion::V3_2 { 32 } else { 4 };
        Ok(Self { process_id, secret: secret.iter().copied().take(length).collect() })
    }

    /// As the gate knows it.
    pub(super) fn published(process_id: u32, secret: &[u8]) -> Bytes {
        let mut key = BytesMut::with_capacity(4 + secret.len());
        key.put_u32(process_id);
        key.put_slice(secret);
        key.freeze()
    }
}

/// What an accepted cancel request does.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) dial: Arc<dyn Dial>,
    pub(super) target: Arc<Target>,
    pub(super) process_id: i32,
    pub(super) secret_key: i32,
    /// Wakes a session that waits for a human.
    pub(super) waiting: Arc<Waiting>,
}

/// A session's wait for a human, which a cancel request ends.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    waits: AtomicBool,
    canceled: Notify,
}

impl Waiting {
    /// Begins a wait: from here on no cancel request is lost. Ends when the returned value is dropped.
    pub(super) fn begin(&self) -> (Notified<'_>, impl Drop + use<'_>) {
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }
        let canceled = self.canceled.notified();
        self.waits.store(true, Ordering::SeqCst);
        (canceled, End(&self.waits))
    }
}

impl Cancel for Handle {
    fn cancel(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            if self.waiting.waits.load(Ordering::SeqCst) {
                // The target has nothing of the command yet: told to cancel, it would stop what comes next.
                self.waiting.canceled.notify_waiters();
                return Ok(());
            }
            let leg = self.dial.dial().await?;
            login::cancel(leg, &self.target, self.process_id, self.secret_key).await.map_err(io::Error::other)
        })
    }
}
