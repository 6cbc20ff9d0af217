//! Turns among the tasks of one worker.

use std::task::Poll;

/// Lets those go first that are ready now, once. What all of them send or write then follows upon each other, to peers that are
/// awake by then, and is cheaper for it. Where nobody else is ready it costs next to nothing.
pub(crate) async fn behind_the_others() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
