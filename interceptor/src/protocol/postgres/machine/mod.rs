//! One session's conversation, without I/O: what the agent's messages mean, what the target's answers belong to, and what
//! is written to whom.
//!
//! The driver offers each message of the agent with [`Machine::on_client`] and each of the target with
//! [`Machine::on_upstream`]. Answers of the target come in the order of what was sent, so a queue of [`Expect`] says what
//! each belongs to. Messages of our own (see `hidden`) stand in the same queue, and never reach the agent.
//!
//! What is judged: each Query; each Parse, so that the target never even parses a refused text; each portal at its first
//! Execute, with its values. A portal runs its command once, so its later Executes (after a row limit) go with the same
//! permit. A refusal is answered in its place in the order; `refuse` says how.
//!
//! Bounds: [`EXPECT_LIMIT`] unanswered messages, [`NAMES_LIMIT`] prepared statements and as many portals, which hold
//! [`NAMED_BYTES_LIMIT`] each, [`CURSORS_LIMIT`] cursors, [`NAME_LIMIT`] bytes of a name. Whoever reaches a bound is held
//! back, or refused.

mod announced;
mod answer;
mod client;
mod hidden;
#[cfg(any(test, feature = "testing"))]
pub(super) mod model;
mod named;
mod refuse;
mod upstream;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::analysis::{Cursor, Known, Missing, Prepared, SessionEffect};
use super::codec::{Malformed, write};
use super::statement::Reading;
use crate::mask::{Masker, Rules};
use crate::policy::{Command, Denial, Held, Obligations, Parameter, Permit};
use crate::telemetry::SessionId;
use announced::Kept;
use answer::Answer;
use hidden::Hidden;
use named::{Named, Ticket};

pub(super) use client::Legs as ClientLegs;
pub(super) use hidden::Rows;

/// Messages that may be unanswered by the target before no more are taken from the agent.
pub(super) const EXPECT_LIMIT: usize = 16_384;

/// Prepared statements of a session, and portals, at most.
pub(super) const NAMES_LIMIT: usize = 65_536;

/// Bytes of the name of a prepared statement or portal: what the server keeps of it (NAMEDATALEN).
pub(super) const NAME_LIMIT: usize = 63;

/// Cursors of SQL that a session can read from at the same time.
pub(super) const CURSORS_LIMIT: usize = 1024;

/// Bytes that a session's prepared statements may hold together, and its portals' values.
pub(super) const NAMED_BYTES_LIMIT: usize = 64 << 20;

/// What to do after a message of the agent.
#[derive(Debug)]
pub(super) enum Step {
    /// It is dealt with: take the next.
    Done,
    /// It needs a verdict: then call [`Machine::on_verdict`] with the same message.
    Ask(Question),
    /// Offer the same message again when the target has said more.
    Wait,
    /// Ask the target for the session's state ([`Machine::hide`]), then offer the same message again.
    Resync,
    /// Have this text parsed, tell the analyst, and offer the same message again.
    Parse(Arc<str>),
    /// The agent said goodbye.
    Terminate,
}

/// What the gate is to be asked.
#[derive(Debug)]
pub(super) struct Question {
    /// The command.
    pub(super) command: Command,
    /// It only prepares: a hold need not be waited for, since the same command is asked for again before it runs.
    pub(super) prepares: bool,
}

/// Leave to forward: a permit, or for what only prepares, the knowledge that a human may permit it.
#[derive(Debug)]
pub(super) enum Leave {
    /// Forward, and meet the obligations.
    Permit(Permit),
    /// Forward what prepares it: proven by the hold, which policy alone gives, and never waited for.
    Prepare {
        /// The proof.
        _held: Held,
    },
}

/// A verdict of no, and the SQLSTATE that tells it.
#[derive(Debug)]
pub(super) struct No {
    /// Why.
    pub(super) denial: Denial,
    /// What drivers go by.
    pub(super) state: &'static str,
}

impl From<Denial> for No {
    fn from(denial: Denial) -> Self {
        Self { state: super::error::state_of(&denial), denial }
    }
}

/// What happens to a message of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It passes as it is.
    Pass,
    /// What was written instead, if anything, takes its place.
    Replaced,
}

/// Who broke the protocol, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The agent.
    Agent(String),
    /// The target.
    Upstream(String),
}

/// What goes to the target: messages of the agent, which are recorded, and our own, which are not.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: BytesMut,
    /// What to record, where that is not all.
    record: Option<BytesMut>,
}

impl Outbox {
    /// Appends a message of the agent.
    pub(super) fn forward(&mut self, raw: &[u8]) {
        self.bytes.extend_from_slice(raw);
        if let Some(record) = &mut self.record {
            record.extend_from_slice(raw);
        }
    }

    /// Appends messages of our own.
    pub(super) fn hide(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if self.record.is_none() {
            self.record = Some(self.bytes.clone());
        }
        write(&mut self.bytes);
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What to send, and what of it to record.
    pub(super) fn take(&mut self) -> (Bytes, Bytes) {
        let bytes = self.bytes.split().freeze();
        let record = self.record.take().map_or_else(|| bytes.clone(), BytesMut::freeze);
        (bytes, record)
    }
}

/// What the target has yet to answer.
#[derive(Debug)]
enum Expect {
    Query(Answer),
    Execute(Answer),
    Parse(Ticket),
    Bind(Ticket),
    CloseStatement(Ticket),
    ClosePortal(Ticket),
    Describe(Described),
    Sync,
    Call,
    /// A statement of ours that fails in the extended protocol; the refusal takes the place of its error.
    Poison(Bytes),
    /// The same as a simple query.
    PoisonQuery(Bytes),
    Hidden(Hidden),
}

/// What a Describe is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Described {
    /// The agent wants to know.
    Statement,
    /// The agent wants to know of this portal.
    Portal(Bytes),
    /// The agent wants to know of the portal that it executes next, and so does the masking.
    Both,
    /// Ours: for the masking of the Execute that follows.
    Hidden,
}

/// A prepared statement of the extended protocol, or of SQL.
#[derive(Clone, Debug)]
struct Statement {
    prepared: Arc<Prepared>,
    /// Absent for those of SQL's PREPARE, which only EXECUTE can run here.
    reading: Option<Arc<Reading>>,
    types: Arc<[u32]>,
    /// Bytes that it holds, about.
    weight: usize,
}

impl Statement {
    fn new(prepared: Arc<Prepared>, reading: Option<Arc<Reading>>, types: Arc<[u32]>) -> Self {
        let first = prepared.first.as_ref().map_or(0, |first| first.weight());
        // The text of a reading is the one that was prepared.
        let text = reading.as_ref().map_or(prepared.text.len(), |reading| reading.weight());
        let weight = first + text + size_of_val(&*types);
        Self { prepared, reading, types, weight }
    }

    /// Whether it still does and yields what it did when it was prepared. The target may look names up again, or use the
    /// plan that it has: both have to be the same.
    fn still_means(&self, now: &Reading) -> bool {
        let run =
            |effect: &SessionEffect| matches!(effect, SessionEffect::Fetch { .. } | SessionEffect::Execute { .. });
        if now.analysis.statements.iter().all(|statement| run(&statement.effect)) {
            // What they name is looked up only when they run, and read again then.
            return true;
        }
        match (&self.prepared.first, now.cursor()) {
            (Some(first), Some(now)) => first.means(&now),
            (None, None) => true,
            _ => false,
        }
    }
}

/// A portal of the extended protocol.
#[derive(Clone, Debug)]
struct Portal {
    reading: Arc<Reading>,
    parameters: Arc<[Parameter]>,
    /// Once its permit is spent: what that obliges to, and the catalog's version under which it was judged.
    spent: Option<(Obligations, u64)>,
}

impl Portal {
    fn weight(&self) -> usize {
        let values = self.parameters.iter().filter_map(|parameter| parameter.value.as_ref()).map(Bytes::len);
        values.sum::<usize>() + size_of_val(&*self.parameters)
    }
}

/// The conversation.
#[derive(Debug)]
pub(super) struct Machine {
    session: SessionId,
    rules: Arc<Rules>,
    /// As the target last said: `I`, `T` or `E`.
    status: u8,
    expect: VecDeque<Expect>,
    statements: Named<Statement>,
    portals: Named<Portal>,
    /// What each yields, and whether it outlives its transaction.
    cursors: Named<(Arc<Cursor>, bool)>,
    /// Number of the pipeline: it grows with each Sync.
    segment: u64,
    /// Something was forwarded since the last Sync.
    open: bool,
    /// A Flush of ours followed what was forwarded last.
    flushed: bool,
    /// The agent's messages are discarded up to its next Sync.
    skip: bool,
    /// The target waits for COPY data.
    copy_in: bool,
    /// COPY FROM STDIN is not answered yet: what follows would be taken for its data.
    copy_awaited: bool,
    /// Unanswered statements that what follows must wait for.
    barriers: usize,
    /// What statements of the open transaction may have changed: undone by a rollback.
    touched: (bool, bool),
    /// Some statement of the open transaction read what is masked: errors at its end may quote it.
    masked: bool,
    /// For the obligations of the latest permit, which hold for notifications, too: those come without a command.
    masker: Masker,
    /// Maskers of results that may be announced again.
    kept: Kept,
    /// The catalog's version under which the verdict that is waited for was asked for.
    version: u64,
    /// What the verdict that is waited for is about.
    asked: Option<Asked>,
    /// A newer catalog was asked for, since the message at hand has an unknown name.
    doubted: bool,
    /// A refusal that waits for earlier answers, so that it is known how to word the end.
    refused: Option<Bytes>,
    no_parameters: Arc<[Parameter]>,
    /// The answer to the last question of ours.
    hidden: Option<Result<Rows, String>>,
    /// What was masked since it was last asked for.
    cells: Vec<(String, u64)>,
}

/// What the gate was asked.
#[derive(Debug)]
enum Asked {
    Query(Arc<Reading>),
    Parse(Arc<Reading>),
    Bind(Statement, Arc<Reading>),
    Execute(Arc<Reading>),
    Call,
}

impl Asked {
    /// The text that it is about.
    fn reading(&self) -> Option<&Arc<Reading>> {
        match self {
            Self::Query(reading) | Self::Parse(reading) | Self::Bind(_, reading) | Self::Execute(reading) => {
                Some(reading)
            }
            Self::Call => None,
        }
    }

    /// A name in it that means nothing.
    fn missing(&self) -> Option<&Missing> {
        self.reading()?.analysis.missing.as_ref()
    }
}

impl Machine {
    /// A session that is ready for its first command.
    pub(super) fn new(session: SessionId, rules: Arc<Rules>) -> Self {
        let masker = Masker::new(Arc::clone(&rules), &Obligations::default());
        Self {
            session,
            rules,
            status: b'I',
            expect: VecDeque::new(),
            statements: Named::new(|statement| statement.weight),
            portals: Named::new(Portal::weight),
            cursors: Named::new(|(cursor, _)| cursor.weight()),
            segment: 0,
            open: false,
            flushed: false,
            skip: false,
            copy_in: false,
            copy_awaited: false,
            barriers: 0,
            touched: (false, false),
            masked: false,
            masker,
            kept: Kept::default(),
            version: 0,
            asked: None,
            doubted: false,
            refused: None,
            no_parameters: Arc::from([]),
            hidden: None,
            cells: Vec::new(),
        }
    }

    /// Bytes that the conversation holds, about.
    pub(super) fn weight(&self) -> usize {
        let named = self.statements.weight() + self.portals.weight() + self.cursors.weight();
        named + self.expect.len() * size_of::<Expect>()
    }

    /// Whether an answer is under way that the agent need say nothing more for.
    pub(super) fn owes_an_answer(&self) -> bool {
        !self.expect.is_empty() && !self.open && !self.copy_in
    }

    /// Whether the target owes no answer.
    pub(super) fn is_quiet(&self) -> bool {
        self.expect.is_empty()
    }

    /// Whether a transaction block is open, failed or not.
    pub(super) fn in_block(&self) -> bool {
        self.status != b'I'
    }

    /// Whether the block, if any, has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.status == b'E'
    }

    /// Whether the open transaction may have changed the catalog.
    pub(super) fn has_changed_catalog(&self) -> bool {
        self.in_block() && self.touched.1
    }

    /// Whether the agent is between pipelines.
    pub(super) fn is_synced(&self) -> bool {
        !self.open
    }

    /// The text that the verdict which is waited for is about.
    pub(super) fn asked(&self) -> Option<&Arc<Reading>> {
        self.asked.as_ref()?.reading()
    }

    /// What was masked since this was last called.
    pub(super) fn take_masked(&mut self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.cells)
    }

    /// What masks under these obligations.
    fn masker(&mut self, obligations: &Obligations) -> Masker {
        if !self.masker.is_for(obligations) {
            self.masker = Masker::new(Arc::clone(&self.rules), obligations);
        }
        self.masker.again()
    }

    fn command(&self, reading: &Reading, parameters: &Arc<[Parameter]>) -> Command {
        Command {
            analysis: reading.analysis.id,
            statement: Arc::clone(&reading.text),
            parameters: Arc::clone(parameters),
            actions: Arc::clone(&reading.analysis.actions),
            facts: Arc::clone(&reading.analysis.facts),
            in_transaction: self.in_block(),
        }
    }

    /// Asks the target to send the answers that it holds back until the end of the pipeline.
    fn flush(&mut self, outbox: &mut Outbox) {
        if self.open && !self.flushed && !self.expect.is_empty() {
            self.flushed = true;
            outbox.hide(|out| write::bare(out, b'H'));
        }
    }

    fn forwarded(&mut self, expect: Expect) {
        self.open = true;
        self.flushed = false;
        self.expect.push_back(expect);
    }
}

/// The names that SQL can speak of.
impl Known for Machine {
    fn prepared(&self, name: &str) -> Option<Arc<Prepared>> {
        self.statements.latest(name.as_bytes()).map(|statement| Arc::clone(&statement.prepared))
    }

    fn cursor(&self, name: &str) -> Option<Arc<Cursor>> {
        let portal = self.portals.latest(name.as_bytes());
        match (self.cursors.latest(name.as_bytes()), portal) {
            (Some((cursor, _)), None) => Some(Arc::clone(cursor)),
            // What it runs is looked up by name only when it runs.
            (None, Some(portal)) if portal.reading.analysis.session_bound => None,
            (None, Some(portal)) => portal.reading.cursor(),
            // Both, or neither: it is not known which the target means.
            _ => None,
        }
    }
}

impl From<Malformed> for Fault {
    /// For messages of the target; those of the agent are mapped where they are read.
    fn from(malformed: Malformed) -> Self {
        Self::Upstream(malformed.to_string())
    }
}

/// A refusal of our own making: what, why, and what to do.
pub(super) fn refusal(session: SessionId, what: &str, reason: &str, remedy: &str) -> Denial {
    Denial {
        fault: crate::policy::Fault::Agent,
        what: what.to_owned(),
        rule: None,
        reason: reason.to_owned(),
        remedy: Some(remedy.to_owned()),
        retry: crate::policy::Retry::Never,
        session,
    }
}

#[cfg(test)]
mod tests;
