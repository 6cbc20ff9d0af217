//! The agent's side of one exchange, whichever HTTP it speaks: where its request comes from, and where the answer goes.

use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use tokio::time::timeout;

use super::leg::{Left, LegError, Reader, Writer};
use super::{FAREWELL_TIMEOUT, send_two};
use crate::protocol::http::codec::{Fields, ResponseHead};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Where the rest of a request comes from.
pub(super) enum Asking<'a> {
    One { reader: &'a mut Reader, left: Left },
    Two { body: RecvStream, stalled: Duration, over: bool },
}

impl Asking<'_> {
    /// Whether all of it has come.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::One { left, .. } => matches!(left, Left::Nothing),
            Self::Two { body, over, .. } => *over || body.is_end_stream(),
        }
    }

    /// Whether nothing of its body has come.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            Self::One { reader, .. } => reader.is_empty(),
            Self::Two { .. } => true,
        }
    }

    /// The next piece of its body; `None` at the end of it.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, LegError> {
        match self {
            Self::One { reader, left } => reader.piece(left).await,
            Self::Two { over: true, .. } => Ok(None),
            Self::Two { body, stalled, over } => {
                let data = timeout(*stalled, body.data()).await.map_err(|_| LegError::Stalled(*stalled))?;
                let Some(data) = data.transpose()? else {
                    *over = true;
                    return Ok(None);
                };
                body.flow_control().release_capacity(data.len())?;
                Ok(Some(data))
            }
        }
    }

    /// Resolves when the agent has left. With HTTP/2, [`Answering::reset`] does.
    pub(super) async fn gone(&mut self) {
        match self {
            Self::One { reader, .. } => reader.gone().await,
            Self::Two { .. } => std::future::pending().await,
        }
    }
}

/// Where the answer goes.
pub(super) enum Answering<'a> {
    One { writer: &'a mut Writer, chunked: bool },
    Two { respond: SendResponse<Bytes>, body: Option<SendStream<Bytes>>, stalled: Duration, over: bool },
}

impl Answering<'_> {
    /// Asks for the body.
    pub(super) async fn proceed(&mut self) -> Result<(), LegError> {
        match self {
            Self::One { writer, .. } => {
                writer.put(CONTINUE).await?;
                writer.flush().await
            }
            Self::Two { respond, .. } => {
                let mut go = http::Response::new(());
                *go.status_mut() = http::StatusCode::CONTINUE;
                Ok(respond.send_informational(go)?)
            }
        }
    }

    /// The head. `over`: nothing follows it.
    pub(super) fn head(&mut self, head: &ResponseHead, over: bool) -> Result<(), LegError> {
        match self {
            Self::One { writer, chunked } => {
                *chunked = head.fields.get("transfer-encoding").is_some();
                head.write(writer.head());
                Ok(())
            }
            Self::Two { respond, body, over: ended, .. } => {
                *ended = over;
                let head = head.to_two().map_err(|why| LegError::Io(std::io::Error::other(why)))?;
                *body = Some(respond.send_response(head, over)?);
                Ok(())
            }
        }
    }

    /// A piece of the body, which is not empty. `last`: nothing follows it.
    pub(super) async fn piece(&mut self, piece: Bytes, last: bool) -> Result<(), LegError> {
        match self {
            Self::One { writer, chunked } => writer.piece(&piece, *chunked).await,
            Self::Two { body: Some(body), stalled, over, .. } => {
                *over |= last;
                send_two(body, piece, *stalled, last).await
            }
            Self::Two { .. } => Err(LegError::Closed),
        }
    }

    /// Sends what waits to be sent together.
    pub(super) async fn flush(&mut self) -> Result<(), LegError> {
        match self {
            Self::One { writer, .. } => writer.flush().await,
            Self::Two { .. } => Ok(()),
        }
    }

    /// The end of the body.
    pub(super) async fn end(&mut self, trailers: Option<&Fields>) -> Result<(), LegError> {
        match self {
            Self::One { writer, chunked } => {
                if *chunked {
                    writer.put(LAST_CHUNK).await?;
                }
                writer.flush().await
            }
            Self::Two { over: true, .. } => Ok(()),
            Self::Two { body: Some(body), .. } => {
                match trailers.map(|fields| fields.to_two("")) {
                    Some(Ok(map)) => body.send_trailers(map)?,
                    Some(Err(_)) | None => body.send_data(Bytes::new(), true)?,
                }
                Ok(())
            }
            Self::Two { .. } => Err(LegError::Closed),
        }
    }

    /// Resolves when the agent wants no answer any more. With HTTP/1.1, [`Asking::gone`] does.
    pub(super) async fn reset(&mut self) {
        match self {
            Self::One { .. } => std::future::pending().await,
            Self::Two { body: Some(body), .. } => {
                let _why = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
            }
            Self::Two { respond, .. } => {
                let _why = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            }
        }
    }

    /// Lets the agent see that what it got is not all.
    pub(super) async fn cut(&mut self) {
        match self {
            // The connection is closed then.
            Self::One { writer, .. } => {
                let _best_effort = timeout(FAREWELL_TIMEOUT, writer.flush()).await;
            }
            Self::Two { body: Some(body), .. } => body.send_reset(Reason::INTERNAL_ERROR),
            Self::Two { respond, .. } => respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}
