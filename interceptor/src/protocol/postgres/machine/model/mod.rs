//! A model of both peers: the machine's tests converse with it, and so does its fuzz target. No parser, no I/O.
//!
//! [`converse`] takes any bytes for a script of what an honest agent says and of how messages interleave, and holds what
//! the agent hears against what it would hear from the target alone. [`besiege`] takes them for what two peers say that
//! know no rules.

#![expect(clippy::panic, clippy::expect_used, reason = "a test, or a fuzz target, fails by panicking")]

mod analyst;
mod target;

use std::collections::VecDeque;
use std::fmt;

use bytes::{BufMut as _, BytesMut};

use super::super::codec::{Backend, Frame, Frontend, Side, backend_limit, frame, frontend_limit, write};
use super::{ClientLegs, Fate, Fault, Leave, Machine, No, Outbox, Question, Step};
use crate::policy::Denial;
use crate::telemetry::SessionId;
#[cfg(test)]
pub(super) use analyst::permit;
pub(super) use analyst::{Script, judge, rules};
pub(super) use target::{SECRET, Target};

/// Messages of one script, at most.
const OPS: usize = 48;

/// Turns without end are a livelock.
const TURNS: usize = 100_000;

/// What the agent can say by Query or Parse.
const TEXTS: &[&str] = &[
    "select",
    "masked",
    "begin",
    "commit",
    "rollback",
    "copyin",
    "fail",
    "deny",
    "norun",
    "defer",
    "copyout",
    "",
    "nonsense",
    "select;masked",
    "begin;masked",
    "masked_fail",
    "select;deny",
    "copyin;select",
    "masked;defer",
    "bound",
    "long;masked",
    // Only where the two are not compared: names then mean something else.
    "set",
];

const NAMES: &[&[u8]] = &[b"", b"a", b"b"];

/// Draws numbers from bytes; when those have run out, zeros.
#[derive(Debug)]
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn below(&mut self, bound: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % bound.max(1)
    }

    fn of<'b, T: ?Sized>(&mut self, choices: &[&'b T]) -> &'b T {
        let index = self.below(choices.len());
        choices.get(index).copied().expect("the choice is within bounds")
    }
}

/// One message of the agent, or several that belong together.
#[derive(Clone)]
enum Op {
    Message(Vec<u8>),
    /// A Query or FunctionCall, also inside of a pipeline that has not failed; and what to send should it be a COPY.
    Simple {
        message: Vec<u8>,
        inside: bool,
        data: Vec<Vec<u8>>,
    },
    /// An Execute, which may start a COPY, with a Sync.
    Execute {
        message: Vec<u8>,
        data: Vec<Vec<u8>>,
    },
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Message(message) | Self::Simple { message, .. } | Self::Execute { message, .. }) = self;
        f.write_str(&String::from_utf8_lossy(message).replace('\0', "."))
    }
}

fn encoded<T>(write: impl FnOnce(&mut BytesMut) -> T) -> Vec<u8> {
    let mut out = BytesMut::new();
    let _fits = write(&mut out);
    out.to_vec()
}

fn bare(tag: u8) -> Vec<u8> {
    encoded(|out| write::bare(out, tag))
}

fn op(draw: &mut Draw<'_>, texts: &[&str]) -> Op {
    let message = |write: &dyn Fn(&mut BytesMut) -> bool| Op::Message(encoded(write));
    match draw.below(12) {
        0 | 1 => {
            let text = draw.of(texts);
            let query = encoded(|out| write::query(out, text.as_bytes()));
            Op::Simple { message: query, inside: draw.below(2) == 1, data: data(draw) }
        }
        2 | 3 => {
            let (name, text) = (draw.of(NAMES), draw.of(texts));
            message(&|out| write::parse(out, name, text.as_bytes()))
        }
        4 | 5 => {
            let (portal, statement) = (draw.of(NAMES), draw.of(NAMES));
            message(&|out| write::bind(out, portal, statement))
        }
        6 | 7 => {
            let (portal, rows) = (draw.of(NAMES), i32::from(draw.below(3) == 1));
            let execute = encoded(|out| write::execute(out, portal, rows));
            // Whoever does not know whether it is a COPY has to wait and see.
            Op::Execute { message: execute, data: data(draw) }
        }
        8 => {
            let (side, name) = (if draw.below(2) == 0 { Side::Portal } else { Side::Statement }, draw.of(NAMES));
            message(&|out| write::describe(out, side, name))
        }
        9 => {
            let (side, name) = (if draw.below(2) == 0 { Side::Portal } else { Side::Statement }, draw.of(NAMES));
            message(&|out| write::close(out, side, name))
        }
        10 => match draw.below(4) {
            0 => {
                let message = encoded(|out| write::message(out, b'F', |out| out.put_slice(&[0; 10])));
                Op::Simple { message, inside: draw.below(2) == 1, data: Vec::new() }
            }
            _ => Op::Message(bare(b'H')),
        },
        _ => Op::Message(bare(b'S')),
    }
}

/// What is sent into a COPY: sometimes wrong, sometimes given up.
fn data(draw: &mut Draw<'_>) -> Vec<Vec<u8>> {
    let copy_data = |data: &[u8]| encoded(|out| write::message(out, b'd', |out| out.extend_from_slice(data)));
    let ended = match draw.below(4) {
        0 => encoded(|out| write::message(out, b'f', |out| out.extend_from_slice(b"enough\0"))),
        _ => bare(b'c'),
    };
    let first = if draw.below(4) == 0 { &b"wrong"[..] } else { b"right" };
    vec![copy_data(first), copy_data(b"more"), ended]
}

/// An agent that follows its script, and waits where the protocol wants it to.
#[derive(Debug)]
struct Agent {
    ops: VecDeque<Op>,
    /// On its way.
    wire: VecDeque<Vec<u8>>,
    /// ReadyForQuery that it has a right to.
    owed: usize,
    /// Messages of the pipeline that it has begun, and answers since the last ReadyForQuery.
    sent: usize,
    answered: usize,
    failed: bool,
    /// It has asked for all answers so far.
    flushed: bool,
    /// It waits for a COPY (of an Execute: true), or for whatever comes instead.
    copies: Option<(bool, Vec<Vec<u8>>)>,
    heard: Vec<String>,
}

impl Agent {
    fn new(ops: impl IntoIterator<Item = Op>) -> Self {
        let (ops, wire, heard) = (ops.into_iter().collect(), VecDeque::new(), Vec::new());
        Self { ops, wire, owed: 0, sent: 0, answered: 0, failed: false, flushed: false, copies: None, heard }
    }

    /// Says the next thing, if it may. False when it has nothing to say, or has to wait.
    fn speak(&mut self) -> bool {
        if self.copies.is_some() && self.owed > 0 {
            return false;
        }
        self.copies = None;
        let Some(op) = self.ops.pop_front() else { return false };
        match op {
            Op::Message(message) => self.send(message),
            Op::Execute { message, data } => {
                self.send(message);
                self.send(bare(b'S'));
                self.copies = Some((true, data));
            }
            // In a pipeline that has failed it would not be answered, so its outcome must be known.
            Op::Simple { message, inside, data } if self.sent > 0 => {
                let known = self.owed == 0 && (self.failed || self.answered == self.sent);
                if inside && !known {
                    self.ops.push_front(Op::Simple { message, inside, data });
                    let flushes = self.owed == 0 && self.wire.is_empty() && !self.flushed;
                    if flushes {
                        self.flushed = true;
                        self.send(bare(b'H'));
                    }
                    return flushes;
                }
                if !inside || self.failed {
                    self.send(bare(b'S'));
                }
                self.simple(message, data);
            }
            Op::Simple { message, data, .. } => self.simple(message, data),
        }
        true
    }

    fn simple(&mut self, message: Vec<u8>, data: Vec<Vec<u8>>) {
        self.send(message);
        self.copies = Some((false, data));
    }

    fn send(&mut self, message: Vec<u8>) {
        match message.first() {
            Some(b'Q' | b'S' | b'F') => {
                self.owed += 1;
                (self.sent, self.flushed) = (0, false);
            }
            Some(b'P' | b'B' | b'D' | b'E' | b'C') => {
                self.sent += 1;
                self.flushed = false;
            }
            _ => {}
        }
        self.wire.push_back(message);
    }

    fn hear(&mut self, raw: &[u8]) {
        let found = frame(raw, backend_limit).expect("a message is framed").expect("a message is whole");
        let text = String::from_utf8_lossy(raw);
        assert!(!text.contains(SECRET), "the agent hears what is masked: {text:?} after {:?}", self.heard);
        match Backend::decode(found).expect("a message is well-formed") {
            Backend::NoticeResponse(_) | Backend::ParameterStatus(..) => return,
            Backend::ReadyForQuery(status) => {
                self.heard.push(format!("Z{}", char::from(status)));
                self.owed = self.owed.checked_sub(1).expect("a ReadyForQuery that nobody asked for");
                (self.answered, self.failed) = (0, false);
                return;
            }
            Backend::CopyInResponse(_) => {
                let (extended, data) = self.copies.clone().expect("a COPY that nobody asked for");
                data.into_iter().for_each(|message| self.send(message));
                if extended {
                    // The Sync that was sent before has no meaning in a COPY.
                    self.owed -= 1;
                    self.send(bare(b'S'));
                }
            }
            Backend::ErrorResponse(_) => self.failed = true,
            _ => self.answered += usize::from(b"123CsInT".contains(&found.tag)),
        }
        self.heard.push(char::from(found.tag).to_string());
    }

    fn is_done(&self) -> bool {
        self.ops.is_empty() && self.wire.is_empty() && self.owed == 0
    }
}

/// What an agent would hear from the target alone.
fn directly(ops: &[Op]) -> Vec<String> {
    let (mut agent, mut target) = (Agent::new(ops.to_vec()), Target::new(true));
    loop {
        if let Some(answer) = target.said.pop_front() {
            agent.hear(&answer);
        } else if let Some(message) = agent.wire.pop_front() {
            target.take(whole(&message));
        } else if !agent.speak() {
            assert!(agent.is_done(), "the script leads nowhere: {agent:?} {target:?}");
            return agent.heard;
        }
    }
}

fn whole(raw: &[u8]) -> Frame<'_> {
    frame(raw, frontend_limit).expect("a message is framed").expect("a message is whole")
}

/// An agent, the machine, and a target.
#[derive(Debug)]
struct Conversation {
    agent: Agent,
    machine: Machine,
    analyst: Script,
    outbox: Outbox,
    target: Target,
    asked: Option<Question>,
    /// The machine has a question of its own under way.
    asks: bool,
}

impl Conversation {
    /// Whether anything happened: the agent's next message is offered, or the verdict on it given.
    fn offer(&mut self) -> bool {
        if self.asks {
            let Some(_answered) = self.machine.take_hidden() else { return false };
            self.asks = false;
            self.analyst.refresh();
            return true;
        }
        let spoke = self.agent.wire.is_empty() && self.agent.speak();
        let Some(message) = self.agent.wire.front().cloned() else { return spoke };
        let (mut reply, before) = (BytesMut::new(), self.outbox.len());
        let mut legs = ClientLegs { analyst: &mut self.analyst, outbox: &mut self.outbox, reply: &mut reply };
        let asked = self.asked.take();
        let judged = asked.is_some();
        let step = match asked.map(|question| judge(&question)) {
            None => self.machine.on_client(whole(&message), &mut legs),
            Some(verdict) => {
                let refused = verdict.is_err();
                let step = self.machine.on_verdict(whole(&message), verdict.map_err(No::from), &mut legs);
                let forwarded = since(&self.outbox, before).windows(message.len()).any(|window| window == message);
                assert!(!refused || !forwarded, "what was refused is forwarded");
                step
            }
        };
        let step =
            step.unwrap_or_else(|fault| panic!("an honest agent is blamed: {fault:?} {message:?} {:?}", self.agent));
        self.hear(&reply);
        match step {
            Step::Done => {
                self.agent.wire.pop_front();
            }
            Step::Ask(question) => self.asked = Some(question),
            Step::Resync => {
                self.machine.hide("state", &mut self.outbox);
                self.asks = true;
            }
            Step::Parse(text) => self.analyst.parsed = Some(text),
            Step::Wait => return spoke || judged || self.outbox.len() > before,
            Step::Terminate => panic!("nobody said goodbye"),
        }
        true
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        while let Some(found) = frame(bytes, backend_limit).expect("what is said is framed") {
            self.agent.hear(found.raw);
            bytes = bytes.get(found.raw.len()..).unwrap_or_default();
        }
    }

    /// What waits for the target reaches it.
    fn carry(&mut self) -> bool {
        let (bytes, _record) = self.outbox.take();
        let mut rest = &bytes[..];
        while let Some(found) = frame(rest, frontend_limit).expect("what is forwarded is framed") {
            self.target.take(found);
            rest = rest.get(found.raw.len()..).unwrap_or_default();
        }
        !bytes.is_empty()
    }

    /// The target's next message reaches the machine.
    fn answer(&mut self) -> bool {
        let Some(message) = self.target.said.pop_front() else { return false };
        let found = frame(&message, backend_limit).expect("the target frames").expect("the target is whole");
        let mut out = BytesMut::new();
        match self.machine.on_upstream(found, &mut self.analyst, &mut out) {
            Ok(Fate::Pass) => self.hear(&message),
            Ok(Fate::Replaced) => self.hear(&out),
            Err(fault) => {
                panic!("an honest target is blamed: {fault:?} {message:?} {:?} {:?}", self.agent, self.machine)
            }
        }
        true
    }

    /// Lets happen what can, in the order that is drawn.
    fn run(&mut self, draw: &mut Draw<'_>) {
        for _ in 0..TURNS {
            let first = draw.below(8);
            if first == 7 {
                self.target.mutter();
            }
            let moved = match first {
                0..3 => self.offer() || self.carry() || self.answer(),
                3..5 => self.carry() || self.answer() || self.offer(),
                _ => self.answer() || self.offer() || self.carry(),
            };
            if !moved {
                assert!(self.agent.is_done() && self.machine.is_quiet(), "nothing moves any more: {self:?}");
                return;
            }
        }
        panic!("there is no end to it: {self:?}");
    }
}

/// An honest conversation, scripted by `data`: the agent hears what it would hear without the machine, nothing that is
/// refused reaches the target, and nothing that is masked the agent.
pub(super) fn converse(data: &[u8]) {
    let mut draw = Draw(data);
    let compared = draw.below(4) != 0;
    let texts = if compared { TEXTS.split_last().map_or(TEXTS, |(_, texts)| texts) } else { TEXTS };
    let length = draw.below(OPS);
    let mut ops: Vec<Op> = (0..length).map(|_| op(&mut draw, texts)).collect();
    ops.push(Op::Message(bare(b'S')));
    let mut conversation = Conversation {
        agent: Agent::new(ops.clone()),
        machine: Machine::new(SessionId::NONE, rules()),
        analyst: Script { steady: compared, ..Script::default() },
        outbox: Outbox::default(),
        target: Target::new(false),
        asked: None,
        asks: false,
    };
    conversation.run(&mut draw);
    if compared {
        assert_eq!(conversation.agent.heard, directly(&ops), "another answer than without the machine: {ops:?}");
    }
}

/// Two peers that say anything at any time: no panic, and nothing that is refused is forwarded.
pub(super) fn besiege(data: &[u8]) {
    let mut draw = Draw(data);
    let mut machine = Machine::new(SessionId::NONE, rules());
    let (mut analyst, mut outbox) = (Script::default(), Outbox::default());
    let mut asked: Option<(Vec<u8>, Question)> = None;
    while !draw.0.is_empty() {
        let mut reply = BytesMut::new();
        if draw.below(2) == 0 {
            let message = anything(&mut draw, FROM_TARGET);
            let Ok(Some(found)) = frame(&message, backend_limit) else { continue };
            if machine.on_upstream(found, &mut analyst, &mut reply).is_err() {
                return;
            }
            continue;
        }
        let before = outbox.len();
        let (message, verdict) = match asked.take() {
            Some((message, question)) => (message, Some(judge(&question))),
            None => match op(&mut draw, TEXTS) {
                Op::Message(message) | Op::Simple { message, .. } | Op::Execute { message, .. }
                    if draw.below(8) != 0 =>
                {
                    (message, None)
                }
                _ => (anything(&mut draw, FROM_AGENT), None),
            },
        };
        let Ok(Some(found)) = frame(&message, frontend_limit) else { continue };
        let step = offer(&mut machine, found, verdict, &mut analyst, &mut outbox);
        match step {
            Err(_) | Ok(Step::Terminate) => return,
            Ok(Step::Ask(question)) => asked = Some((message, question)),
            Ok(Step::Resync) => {
                machine.hide("state", &mut outbox);
                analyst.refresh();
            }
            Ok(Step::Parse(text)) => analyst.parsed = Some(text),
            Ok(Step::Done | Step::Wait) => assert_permitted(since(&outbox, before)),
        }
    }
}

/// What was put into the outbox when that many bytes were in it.
fn since(outbox: &Outbox, before: usize) -> &[u8] {
    outbox.bytes.get(before..).unwrap_or_default()
}

fn assert_permitted(mut forwarded: &[u8]) {
    while let Ok(Some(found)) = frame(forwarded, frontend_limit) {
        let refused = match Frontend::decode(found) {
            Ok(Frontend::Query(text)) => contains(text, "deny") || contains(text, "norun"),
            Ok(Frontend::Parse { text, .. }) => contains(text, "deny"),
            _ => false,
        };
        assert!(!refused, "what is refused is forwarded: {found:?}");
        forwarded = forwarded.get(found.raw.len()..).unwrap_or_default();
    }
}

fn contains(text: &[u8], word: &str) -> bool {
    String::from_utf8_lossy(text).contains(word)
}

fn offer(
    machine: &mut Machine,
    found: Frame<'_>,
    verdict: Option<Result<Leave, Denial>>,
    analyst: &mut Script,
    outbox: &mut Outbox,
) -> Result<Step, Fault> {
    let mut legs = ClientLegs { analyst, outbox, reply: &mut BytesMut::new() };
    match verdict {
        None => machine.on_client(found, &mut legs),
        Some(verdict) => machine.on_verdict(found, verdict.map_err(No::from), &mut legs),
    }
}

const FROM_TARGET: &[u8] = b"123CDEGHINSTVZcdnst";
const FROM_AGENT: &[u8] = b"BCDEFHPQSXcdfp";

/// A message of one of these types, of any content.
fn anything(draw: &mut Draw<'_>, types: &[u8]) -> Vec<u8> {
    let tag = types.get(draw.below(types.len())).copied().unwrap_or(b'?');
    let common = match (tag, draw.below(4)) {
        (b'Z', _) => Some(draw.of(&[&b"I"[..], b"T", b"E"])),
        (b'C', 1..) => Some(&b"word\0"[..]),
        (b'D', 1..) => Some(&b"\0\x01\0\0\0\x01v"[..]),
        (b'T', 1..) => Some(&b"\0\x01c\0\0\0\0\x01\0\x01\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"[..]),
        (b'E' | b'N', 1..) => Some(&b"SERROR\0C42601\0Mno\0\0"[..]),
        (b'G' | b'H', 1..) => Some(&b"\0\0\x01\0\0"[..]),
        (b't', 1..) => Some(&b"\0\0"[..]),
        (b'S', 1..) => Some(&b"client_encoding\0UTF8\0"[..]),
        (b'1' | b'2' | b'3' | b'I' | b'n' | b's' | b'c', _) => Some(&b""[..]),
        _ => None,
    };
    let length = draw.below(64);
    let (drawn, _) = draw.0.split_at(length.min(draw.0.len()));
    let body = common.unwrap_or(drawn);
    if common.is_none() {
        draw.0 = draw.0.get(drawn.len()..).unwrap_or_default();
    }
    encoded(|out| write::message(out, tag, |out| out.extend_from_slice(body)))
}

/// The oracle of the fuzz target.
pub(in super::super) fn fuzz(data: &[u8]) {
    match data.split_first() {
        Some((0..64, rest)) => besiege(rest),
        Some((_, rest)) => converse(rest),
        None => {}
    }
}
