//! Long texts are parsed by threads of their own: PostgreSQL's parser takes hundreds of milliseconds for a megabyte, in
//! which no other session of the worker would get on.
//!
//! At most [`AT_ONCE`] of all sessions' texts are parsed at the same time, and a [`LARGE`] one alone, in the order in which
//! they came: a large one takes several hundred megabytes meanwhile. A text that has waited for [`PATIENCE`] is opaque.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::super::analysis::Parsed;

/// Texts that are parsed at the same time.
const AT_ONCE: u32 = 4;

/// Bytes of a text from which on it is parsed alone.
const LARGE: usize = 128 << 10;

/// How long a text waits until its turn comes.
const PATIENCE: Duration = Duration::from_secs(30);

static PARSERS: Semaphore = Semaphore::const_new(AT_ONCE as usize);

/// Leave to hold a large tree; given back with [`forget`].
pub(super) type Turn = Option<SemaphorePermit<'static>>;

/// Parses it elsewhere.
pub(super) async fn parse(text: Arc<str>) -> (Parsed, Turn) {
    let turns = if text.len() > LARGE { AT_ONCE } else { 1 };
    let Ok(Ok(turn)) = timeout(PATIENCE, PARSERS.acquire_many(turns)).await else {
        return (Parsed::failed(text, "too many long texts wait to be parsed"), None);
    };
    let again = Arc::clone(&text);
    // The turn ends with the tree, also where nobody waits for it any more.
    let parsing = tokio::task::spawn_blocking(move || (Parsed::new(text), Some(turn)));
    parsing.await.unwrap_or_else(|_| (Parsed::failed(again, "no thread could parse the text"), None))
}

/// Drops it elsewhere: a large tree takes a while to take apart.
pub(super) fn forget(parsed: Option<Parsed>, turn: Turn) {
    let _dropping = tokio::task::spawn_blocking(move || {
        drop(parsed);
        drop(turn);
    });
}
