//! A connection of HTTP/2: many exchanges at once, each on a stream of its own.
//!
//! What an agent could do to a reader of its frames (streams that it resets as fast as it opens them, heads without end,
//! windows, settings and pings in floods) the library bounds. Bounded here: streams, what is sent ahead of being read, and the
//! memory that both may take.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::uri::Scheme;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};

use super::agent::{Answering, Asking};
use super::answer::Delivery;
use super::exchange::{Exchange, Next};
use super::leg::worded;
use super::served::Served;
use super::{FAREWELL_TIMEOUT, SEND_BUFFER, STREAM_WINDOW, STREAMS_LIMIT, WINDOW};
use crate::policy::Denial;
use crate::protocol::http::codec::{HEAD_LIMIT, Malformed, RequestHead, ResponseHead, frames, two};
use crate::protocol::http::denial;
use crate::protocol::http::transcript::Transcript;
use crate::protocol::{Close, Direction, Failure, Observation};

/// Requests that are taken before those that have been taken go on, at most.
const LOT: usize = 32;

type Running<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Result<Next, Failure>> + Send + 'a>>>;

/// Serves it. `scheme` is what it is said to come by.
pub(super) async fn serve<S>(served: &Served<'_>, stream: S, scheme: Scheme) -> Result<Close, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut connection = begin(stream, served.patience.handshake).await?;
    let close = talk(served, &mut connection, &scheme).await;
    // What was said last is still to be sent.
    connection.graceful_shutdown();
    flush(&mut connection).await;
    close
}

async fn talk<S>(served: &Served<'_>, connection: &mut Connection<S, Bytes>, scheme: &Scheme) -> Result<Close, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut running = Running::new();
    let (mut began, mut leaving, mut fresh) = (false, false, 0);
    let mut deadline = None;
    let first = Instant::now() + served.patience.handshake;
    let ended = served.gate.ended();
    let leave = served.gate.leaving();
    tokio::pin!(ended, leave);
    loop {
        tokio::select! {
            // What ends the session comes before all that an agent can keep busy with. Requests that have come go on together,
            // and so do answers: what each lot brings forth is sent in one go.
            biased;
            why = &mut ended, if deadline.is_none() => {
                served.end(why);
                connection.graceful_shutdown();
                deadline = Some(Instant::now() + FAREWELL_TIMEOUT);
            }
            _why = &mut leave, if !leaving && deadline.is_none() => {
                leaving = true;
                connection.graceful_shutdown();
            }
            () = sleep_until(deadline.unwrap_or(first)), if deadline.is_some() || served.who().is_none() => {
                if deadline.is_some() {
                    return Ok(Close::Ended);
                }
                return Err(Failure::Agent(format!("it has not said who it is in {:?}", served.patience.handshake)));
            }
            asked = connection.accept() => {
                let (request, mut respond) = match asked {
                    Some(Ok(asked)) => asked,
                    Some(Err(error)) => return broken(served, &error),
                    None if served.has_ended() || leaving => return Ok(Close::Ended),
                    None => return Ok(Close::Agent),
                };
                if served.has_ended() {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    continue;
                }
                let exchange = open(served, request, respond, (scheme, began)).await?;
                running.push(exchange);
                began = true;
                fresh += 1;
                if fresh == LOT {
                    fresh = 0;
                    go_on(served, &mut running).await?;
                }
            }
            Some(done) = running.next(), if !running.is_empty() => {
                fresh = 0;
                after(served, done).await?;
                go_on(served, &mut running).await?;
            }
        }
    }
}

/// Tells an agent that there is no room for its session.
pub(super) async fn refuse<S>(stream: S, (head, body): (ResponseHead, Bytes), patience: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Ok(mut connection) = begin(stream, patience).await else { return };
    if let Ok(Some(Ok((_, mut respond)))) = timeout(patience, connection.accept()).await
        && let Ok(head) = head.to_two()
        && let Ok(mut out) = respond.send_response(head, false)
    {
        let _told = out.send_data(body, true);
    }
    connection.graceful_shutdown();
    flush(&mut connection).await;
}

/// Sends what is still to be sent; what comes meanwhile is dropped.
async fn flush<S>(connection: &mut Connection<S, Bytes>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let drive = async { while connection.accept().await.is_some_and(|asked| asked.is_ok()) {} };
    let _best_effort = timeout(FAREWELL_TIMEOUT, drive).await;
}

async fn begin<S>(stream: S, patience: Duration) -> Result<Connection<S, Bytes>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS_LIMIT)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(u32::try_from(HEAD_LIMIT).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER);
    let handshake = timeout(patience, builder.handshake(stream)).await;
    let handshake = handshake.map_err(|_| Failure::Agent(format!("it began nothing in {patience:?}")))?;
    handshake.map_err(|error| Failure::Agent(format!("it does not speak HTTP/2: {}", worded(&error))))
}

/// An exchange that can run, or the refusal of a request that is none. `began`: it is not the first.
async fn open<'a>(
    served: &'a Served<'a>,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    (scheme, began): (&Scheme, bool),
) -> Result<Pin<Box<dyn Future<Output = Result<Next, Failure>> + Send + 'a>>, Failure> {
    let stalled = served.patience.stalled;
    let transcript = Transcript::Two { stream: respond.stream_id().as_u32() };
    let (parts, body) = request.into_parts();
    let mut delivery = Delivery::new(served, Answering::Two { respond, body: None, stalled, over: false }, transcript);
    delivery.with_body = parts.method != http::Method::HEAD;
    let opened = admit(served, &parts, &body, (scheme, began)).await;
    match opened {
        Ok(Ok(head)) => {
            let mut room = served.holding();
            if let Err(overfull) = room.set(STREAM_WINDOW as usize) {
                if let Failure::Overfull(why) = &overfull {
                    delivery.tell(why).await;
                }
                return Err(overfull);
            }
            let asking = Asking::Two { body, stalled, over: false };
            let exchange = Exchange { served, asking, delivery, transcript };
            Ok(Box::pin(async move {
                let _room = room;
                exchange.run(head).await
            }))
        }
        Ok(Err((why, denial))) => {
            let code = match why {
                Malformed::TooLarge => (431, "Request Header Fields Too Large"),
                _ => (400, "Bad Request"),
            };
            // Said while the connection goes on: it may have to wait for room.
            Ok(Box::pin(async move {
                tokio::select! {
                    // Whoever does not hear it has reset the stream.
                    _told = delivery.say(denial::unreadable(code, &denial), &denial) => {}
                    _why = served.ended() => delivery.cut().await,
                }
                Ok(Next::Open)
            }))
        }
        Err(denial) => {
            delivery.tell(&denial).await;
            Err(Failure::Denied(denial))
        }
    }
}

/// The head of a request of an agent that is known; the inner error is a request that could be taken for two things.
async fn admit(
    served: &Served<'_>,
    parts: &http::request::Parts,
    body: &RecvStream,
    (scheme, began): (&Scheme, bool),
) -> Result<Result<RequestHead, (Malformed, Denial)>, Denial> {
    if !began {
        let preface = Observation::Data(Direction::FromAgent, Bytes::from_static(frames::PREFACE));
        served.gate.observe(preface).await?;
    }
    match two::request(parts, scheme, body.is_end_stream()) {
        Ok(head) => {
            served.attest(&head).await?;
            Ok(Ok(head))
        }
        Err(why) => {
            let denial = served.agents_fault("the request", &why.to_string());
            served.gate.observe(Observation::Denied(denial.clone())).await?;
            Ok(Err((why, denial)))
        }
    }
}

/// Lets every exchange go on that can.
async fn go_on(served: &Served<'_>, running: &mut Running<'_>) -> Result<(), Failure> {
    while let Some(Some(done)) = running.next().now_or_never() {
        after(served, done).await?;
    }
    Ok(())
}

/// Goes on after an exchange: what broke one stream does not break the others.
async fn after(served: &Served<'_>, done: Result<Next, Failure>) -> Result<(), Failure> {
    match done {
        Ok(_) => Ok(()),
        Err(failure @ (Failure::Agent(_) | Failure::Upstream(_) | Failure::Io { .. })) => {
            served.observe(Observation::Note(format!("a request was broken off: {failure}"))).await
        }
        Err(failure) => Err(failure),
    }
}

fn broken(served: &Served<'_>, error: &h2::Error) -> Result<Close, Failure> {
    match error.get_io() {
        _ if served.has_ended() => Ok(Close::Ended),
        // Most agents close without a farewell.
        Some(_) => Ok(Close::Agent),
        None => Err(Failure::Agent(worded(error))),
    }
}
