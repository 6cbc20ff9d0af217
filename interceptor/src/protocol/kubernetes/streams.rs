//! exec, attach and port-forward, once their connection was upgraded: what goes each way is recorded as it is delivered, and
//! what a program prints is masked, whether WebSockets (`channels`) or SPDY/3.1 (`multiplexed`) carry it.
//!
//! Recorded are both alike: as the messages of a WebSocket in which a byte says which stream it is (v4.channel.k8s.io); what goes
//! through a port that SPDY forwards, behind the number of its stream and the port.
//!
//! What an agent types is recorded, and not judged: the command line was. What goes through a forwarded port is bytes of
//! another protocol; it is recorded, and not masked.

mod channels;
mod multiplexed;
mod output;
mod roles;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::denial;
use super::resource::{self, Named};
use crate::policy::{Command, Denial, KubernetesFacts, Permit};
use crate::protocol::http::action::{self, Body};
use crate::protocol::http::codec::socket::Said;
use crate::protocol::http::codec::{Field, Fields, Length, RequestHead, ResponseHead};
use crate::protocol::http::dialect::{Asked, Upgrade, WEBSOCKET};
use crate::protocol::http::driver::leg::Reader;
use crate::protocol::http::driver::served::Served;
use crate::protocol::http::driver::{Next, Opened, socket};
use crate::protocol::http::grpc::Called;
use crate::protocol::http::route::{Location, Routes};
use crate::protocol::{Direction, Failure, Impact, Observation, Verdict};
use output::Output;

/// What SPDY is called in `Upgrade`.
pub(super) const SPDY: Upgrade = "SPDY/3.1";

/// How streams share a WebSocket: the names that are passed on, and nothing else of what is offered.
const SUBPROTOCOLS: &[&str] = &["v4.channel.k8s.io", "v5.channel.k8s.io"];
/// SPDY in the messages of a WebSocket, as port-forward has it.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// A token of the agent's own, among them.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";
const PROTOCOL: &str = "sec-websocket-protocol";

/// Channels of a program.
pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
const ERROR: u8 = 3;
pub(super) const RESIZE: u8 = 4;
/// What the record of a connection to a port begins with, where streams of their own carry it; then follow the number of the
/// stream in four bytes and the port in two, the highest first.
pub(super) const PORT: u8 = 0xf0;
/// How long a program may take to say how it ended, once it takes no more input.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// What ends a channel (v5.channel.k8s.io).
const CLOSE: u8 = 255;

/// What streams are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A program in a container.
    Program,
    /// Ports of a pod.
    Ports,
}

impl Kind {
    /// What the path asks for.
    pub(super) fn of(location: &Location) -> Option<Self> {
        let Named::Resource(request) = resource::named("GET", location) else { return None };
        if request.is_pods("exec") || request.is_pods("attach") {
            return Some(Self::Program);
        }
        request.is_pods("portforward").then_some(Self::Ports)
    }
}

/// Takes what else a WebSocket was offered out of a request: a token of the agent's own, and ways to share it that are not
/// known here.
pub(super) fn clean(head: &mut RequestHead) {
    let offered: Vec<String> = offered(head).filter(|name| !name.starts_with(BEARER)).map(str::to_owned).collect();
    if head.fields.get(PROTOCOL).is_some() {
        head.fields.remove(PROTOCOL);
        if !offered.is_empty() {
            head.fields.set(PROTOCOL, offered.join(", "));
        }
    }
}

fn offered(head: &RequestHead) -> impl Iterator<Item = &str> {
    let lists = head.fields.all(PROTOCOL).filter_map(|value| std::str::from_utf8(value).ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

/// What a request wants its connection to be upgraded to.
///
/// # Errors
/// A sentence: that is not passed on.
pub(super) fn upgrade(head: &RequestHead, location: &Location) -> Result<Option<Upgrade>, &'static str> {
    let fields = &head.fields;
    let Some(upgrade) = fields.get("upgrade") else {
        return if fields.lists("connection", "upgrade") { Err("it upgrades to nothing") } else { Ok(None) };
    };
    let Some(kind) = Kind::of(location) else {
        return Err("only exec, attach and port-forward are upgraded: ask for watches and logs without");
    };
    if upgrade.eq_ignore_ascii_case(SPDY.as_bytes()) {
        let bodiless = matches!(head.length, Length::Known(0));
        let asks = matches!(head.method.as_str(), "GET" | "POST") && bodiless && fields.lists("connection", "upgrade");
        return if asks { Ok(Some(SPDY)) } else { Err("it asks for SPDY in a way that is none") };
    }
    if !socket::asks(head)? {
        return Err("it upgrades to nothing");
    }
    let is_known = |name: &str| SUBPROTOCOLS.contains(&name) || (kind == Kind::Ports && name == TUNNEL);
    if !offered(head).all(is_known) || offered(head).next().is_none() {
        return Err("it offers to share the WebSocket in a way that is not known here: v4.channel.k8s.io and \
                    v5.channel.k8s.io are; clients go on with SPDY");
    }
    Ok(Some(WEBSOCKET))
}

/// A refusal on a WebSocket that is agreed to for that, of those clients that would ask again over SPDY otherwise (kubectl since
/// 1.30, which offer version 5 alone): a human who says no is asked once.
pub(super) fn refusal(head: &RequestHead, denial: &Denial) -> Option<(ResponseHead, Bytes)> {
    const VERSION: &str = "v5.channel.k8s.io";
    let location = Location::read(&head.target).ok()?;
    let is_one = Kind::of(&location)? == Kind::Program && matches!(upgrade(head, &location), Ok(Some(WEBSOCKET)));
    let key = head.fields.text("sec-websocket-key").filter(|_| is_one && offered(head).eq([VERSION]))?;
    // RFC 6455, section 4.2.2.
    let accepted = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    let accepted = STANDARD.encode(accepted);
    let field = |name: &str, value: &str| Field::new(name, value.to_owned());
    let fields = Fields(vec![
        field("connection", "Upgrade"),
        field("upgrade", WEBSOCKET),
        field("sec-websocket-accept", &accepted),
        field(PROTOCOL, VERSION),
    ]);
    let words = denial::document(denial, (403, "Forbidden")).to_string();
    let mut said = Vec::new();
    Said::Binary([&[ERROR], words.as_bytes()].concat().into()).write(&mut said, None);
    Said::Close(Some(1000), Bytes::new()).write(&mut said, None);
    let head = ResponseHead { status: 101, reason: "Switching Protocols".into(), fields, length: Length::Known(0) };
    Some((head, said.into()))
}

/// Passes on what is said, until either side ends it.
pub(super) async fn relay(mut opened: Opened<'_>) -> Result<Next, Failure> {
    let Some(kind) = Kind::of(opened.asked.1) else {
        return Err(Failure::Upstream("it upgrades what was not to be".to_owned()));
    };
    let texts = match kind {
        Kind::Program => [opened.plan.text(), opened.plan.text()],
        Kind::Ports => [None, None],
    };
    let spellings = opened.served.who().and_then(|who| who.spellings.clone());
    let [stdout, stderr] = texts.map(|text| Output::new(text, spellings.clone()));
    let talk = Talk { served: opened.served, asked: opened.asked, kind };
    if opened.agreed.fields.get("upgrade").is_some_and(|name| name.eq_ignore_ascii_case(SPDY.as_bytes())) {
        return multiplexed::relay(&talk, (stdout, stderr), &mut opened, false).await;
    }
    match opened.agreed.fields.text(PROTOCOL) {
        Some(TUNNEL) if kind == Kind::Ports => {
            return multiplexed::relay(&talk, (stdout, stderr), &mut opened, true).await;
        }
        Some(chosen) if SUBPROTOCOLS.contains(&chosen) => {}
        _ => return Err(Failure::Upstream("it shares the WebSocket in a way that it was not offered".to_owned())),
    }
    channels::relay(&talk, (stdout, stderr), &mut opened).await
}

/// What both ways to carry streams have in common.
struct Talk<'a> {
    served: &'a Served<'a>,
    asked: (&'a RequestHead, &'a Location),
    kind: Kind,
}

/// How it ended.
enum End {
    /// Whoever spoke closed, or said farewell.
    Closed,
    /// Policy, or what an agent broke.
    Refused(Denial),
    /// What the target broke.
    Target(String),
}

impl Talk<'_> {
    fn refused(&self, why: &str) -> End {
        End::Refused(self.served.agents_fault("a stream of a program or a port", why))
    }

    /// Puts on record what is delivered of a stream, behind what says which.
    async fn record(&self, direction: Direction, stream: &[u8], payload: &[u8]) -> Result<(), Failure> {
        let message = [stream, payload].concat();
        let mut bytes = Vec::with_capacity(message.len() + 16);
        Said::Binary(message.into()).write(&mut bytes, None);
        self.served.observe(Observation::Data(direction, bytes.into())).await
    }

    /// Puts on record what was masked or blotted out of a stream.
    async fn note(&self, output: &mut Output, name: &str) -> Result<(), Failure> {
        let count = output.take_count();
        if count > 0 {
            self.served.observe(Observation::Masked { cells: vec![(name.to_owned(), count)] }).await?;
        }
        if output.take_echo() {
            let text = format!("{} echoed the credential: it was blotted out", self.served.target.name);
            self.served.observe(Observation::Note(text)).await?;
        }
        Ok(())
    }

    /// Without the credential.
    async fn blotted(&self, payload: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut bytes = payload.to_vec();
        let spellings = self.served.who().and_then(|who| who.spellings.as_ref());
        if spellings.is_some_and(|spellings| spellings.blot(&mut bytes)) {
            let text = format!("{} echoed the credential: it was blotted out", self.served.target.name);
            self.served.observe(Observation::Note(text)).await?;
        }
        Ok(bytes)
    }

    /// The farewell as a `Status`, for whoever reads that, and on record.
    async fn last_words(&self, end: &End) -> Result<Option<Bytes>, Failure> {
        let denial = match end {
            End::Closed => return Ok(None),
            End::Refused(denial) => denial.clone(),
            End::Target(why) => self.served.upstream_fault(why),
        };
        self.served.observe(Observation::Denied(denial.clone())).await?;
        Ok(Some(denial::document(&denial, (403, "Forbidden")).to_string().into()))
    }

    /// The verdict on reaching one port.
    async fn port(&self, port: u16, agent: &mut Reader) -> Result<Result<Permit, Denial>, Failure> {
        let command = self.reaching(port);
        let gate = self.served.gate;
        Ok(match gate.judge(&command).await {
            Ok(Verdict::Permit(permit)) => Ok(permit),
            Ok(Verdict::Ended(denial)) | Err(denial) => Err(denial),
            Ok(Verdict::Hold(held)) => tokio::select! {
                answered = gate.hold(&command, held, Impact::default()) => answered,
                () = agent.gone() => return Err(Failure::Agent("it left while its port was held".to_owned())),
            },
        })
    }

    /// What was asked for, for one port.
    fn reaching(&self, port: u16) -> Command {
        let (head, location) = self.asked;
        let body = Body::Whole(Bytes::new());
        let (target, routes) = (&self.served.target.name, &Routes::default());
        let mut command =
            super::action::command(&Asked { target, routes, head, location, body: &body, called: Called::Nothing });
        self.served.bind(head, &mut command);
        let k8s = command.facts.k8s.as_deref().cloned().unwrap_or_default();
        let k8s = KubernetesFacts { ports: BTreeSet::from([port.into()]), ..k8s };
        let facts = crate::policy::Facts { k8s: Some(Arc::new(k8s)), ..(*command.facts).clone() };
        let statement = format!("PORT {port} {}", command.statement).into();
        Command { analysis: action::number(), statement, facts: Arc::new(facts), ..command }
    }
}
