//! A connection of HTTP/1.1: one exchange after the other.

use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::agent::{Answering, Asking};
use super::agent_failed;
use super::answer::Delivery;
use super::exchange::{Exchange, Next};
use super::leg::{Left, Leg, LegError, Reader};
use super::served::Served;
use crate::policy::Denial;
use crate::protocol::http::codec::{self, Malformed, RequestHead};
use crate::protocol::http::denial;
use crate::protocol::http::transcript::Transcript;
use crate::protocol::{Close, Failure, Observation};
use crate::tls;

const TRANSCRIPT: Transcript = Transcript::One { chunked: false };

/// Serves it; `input` was read already.
pub(super) async fn serve(served: &Served<'_>, stream: tls::Stream, input: BytesMut) -> Result<Close, Failure> {
    let mut agent = Leg::new(stream, input, served.patience.stalled);
    let close = talk(served, &mut agent).await;
    agent.writer.shut().await;
    close
}

async fn talk(served: &Served<'_>, agent: &mut Leg) -> Result<Close, Failure> {
    // Waited for over all exchanges: to begin anew with each costs timers.
    let (mut ended, mut leaving) = (served.gate.ended(), served.gate.leaving());
    loop {
        let first = served.who().is_none().then_some(served.patience.handshake);
        let head = tokio::select! {
            head = next_head(&mut agent.reader, first) => head,
            _why = &mut ended => return Ok(Close::Ended),
            _why = &mut leaving, if agent.reader.is_empty() => return Ok(Close::Ended),
        };
        let head = match head {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(Close::Agent),
            Err(error) => return unreadable(served, agent, error).await,
        };
        let next = exchange(served, agent, head, &mut ended).await?;
        if served.has_ended() {
            return Ok(Close::Ended);
        }
        if next == Next::Shut {
            return Ok(Close::Agent);
        }
    }
}

async fn exchange(
    served: &Served<'_>,
    agent: &mut Leg,
    head: RequestHead,
    ended: &mut BoxFuture<'_, Denial>,
) -> Result<Next, Failure> {
    let Leg { reader, writer } = agent;
    let answering = Answering::One { writer, chunked: false };
    let mut delivery = Delivery::new(served, answering, TRANSCRIPT);
    if let Err(denial) = served.attest(&head).await {
        delivery.closes = true;
        delivery.with_body = head.method != "HEAD";
        delivery.tell(&denial).await;
        return Err(Failure::Denied(denial));
    }
    let asking = Asking::One { reader, left: Left::from(head.length) };
    let exchange = Exchange { served, asking, delivery, transcript: TRANSCRIPT }.run(head);
    tokio::pin!(exchange);
    tokio::select! {
        done = &mut exchange => done,
        why = ended => {
            served.end(why);
            exchange.await
        }
    }
}

/// What is no request, or no complete one.
async fn unreadable(served: &Served<'_>, agent: &mut Leg, error: LegError) -> Result<Close, Failure> {
    let code = match &error {
        LegError::Io(_) | LegError::Closed | LegError::Two(_) => return Err(agent_failed(error)),
        LegError::Malformed(Malformed::Version) => (505, "HTTP Version Not Supported"),
        LegError::Malformed(Malformed::TooLarge) => (431, "Request Header Fields Too Large"),
        LegError::Malformed(_) => (400, "Bad Request"),
        LegError::Stalled(_) => (408, "Request Timeout"),
    };
    let denial = served.agents_fault("the request", &error.to_string());
    served.observe(Observation::Denied(denial.clone())).await?;
    let answering = Answering::One { writer: &mut agent.writer, chunked: false };
    let mut delivery = Delivery::new(served, answering, TRANSCRIPT);
    delivery.closes = true;
    delivery.say(denial::unreadable(code, &denial), &denial).await.map_err(agent_failed)?;
    Err(Failure::Agent(error.to_string()))
}

/// The next request. The first has to come in time.
async fn next_head(agent: &mut Reader, within: Option<Duration>) -> Result<Option<RequestHead>, LegError> {
    match within {
        Some(patience) => {
            timeout(patience, agent.head(codec::request)).await.unwrap_or(Err(LegError::Stalled(patience)))
        }
        None => agent.head(codec::request).await,
    }
}
