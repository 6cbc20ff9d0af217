//! Messages of the agent.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::super::analysis::{Prepared, SessionEffect};
use super::super::codec::{Bind, Call, Formats, Frame, Frontend, Parameters, Side, write};
use super::super::error::{self, Severity};
use super::super::statement::{Analyst, Reading};
use super::answer::{Answer, cannot_mask};
use super::named::Found;
use super::{
    Asked, Described, EXPECT_LIMIT, Expect, Fault, Leave, Machine, NAME_LIMIT, NAMED_BYTES_LIMIT, NAMES_LIMIT, No,
    Outbox, Portal, Question, Statement, Step,
};
use crate::policy::{Obligations, Parameter};

/// What a message is handled with: the other side of the session, and the reply to the agent.
pub(in super::super) struct Legs<'a> {
    /// Who understands texts.
    pub(in super::super) analyst: &'a mut dyn Analyst,
    /// To the target.
    pub(in super::super) outbox: &'a mut Outbox,
    /// To the agent.
    pub(in super::super) reply: &'a mut BytesMut,
}

impl Machine {
    /// Takes a message of the agent.
    ///
    /// # Errors
    /// [`Fault::Agent`] when it has no place here: the session has to end.
    pub(in super::super) fn on_client(&mut self, frame: Frame<'_>, legs: &mut Legs<'_>) -> Result<Step, Fault> {
        let message = Frontend::decode(frame).map_err(|malformed| Fault::Agent(malformed.to_string()))?;
        if self.copy_in {
            return self.copying(frame, message, legs);
        }
        match message {
            Frontend::Terminate => Ok(Step::Terminate),
            Frontend::Sync => Ok(self.sync(frame, legs)),
            Frontend::Password(_) => Err(Fault::Agent("a password has no place after the log-in".into())),
            _ if self.copy_awaited => {
                self.flush(legs.outbox);
                Ok(Step::Wait)
            }
            _ if self.refused.is_some() => Ok(self.settle_refusal(&message, legs)),
            _ if self.skip => Ok(Step::Done),
            _ if self.expect.len() >= EXPECT_LIMIT => {
                self.flush(legs.outbox);
                Ok(Step::Wait)
            }
            _ if has_long_name(&message) => {
                let hint = "the server would cut it, and two such names could be one";
                Ok(self.refuse_natively(
                    error::LONG_NAME,
                    "interceptor: a name is longer than 63 bytes",
                    Some(hint),
                    legs,
                ))
            }
            Frontend::Query(text) => Ok(self.query(text, legs)),
            Frontend::Parse { name, text, types } => Ok(self.parse(name, text, types, legs)),
            Frontend::Bind(bind) => Ok(self.bind(frame, &bind, legs)),
            Frontend::Execute { portal, .. } => Ok(self.execute(frame, portal, legs)),
            Frontend::Describe(side, name) => Ok(self.describe(frame, side, name, legs)),
            Frontend::Close(side, name) => Ok(self.close(frame, side, name, legs)),
            Frontend::Flush => {
                legs.outbox.forward(frame.raw);
                self.flushed = true;
                Ok(Step::Done)
            }
            Frontend::FunctionCall(call) => Ok(self.call(&call, legs)),
            // Outside a COPY the server ignores these, too: the agent has not yet read that its COPY failed.
            Frontend::CopyData(_) | Frontend::CopyDone | Frontend::CopyFail(_) => {
                if self.is_quiet() {
                    Ok(Step::Done)
                } else {
                    Ok(Step::Wait)
                }
            }
        }
    }

    fn copying(&mut self, frame: Frame<'_>, message: Frontend<'_>, legs: &mut Legs<'_>) -> Result<Step, Fault> {
        match message {
            Frontend::CopyData(_) => legs.outbox.forward(frame.raw),
            Frontend::CopyDone | Frontend::CopyFail(_) => {
                legs.outbox.forward(frame.raw);
                self.copy_in = false;
            }
            // As the server does: they have no meaning within a COPY.
            Frontend::Flush | Frontend::Sync => {}
            Frontend::Terminate => return Ok(Step::Terminate),
            _ => return Err(Fault::Agent("only COPY data may follow COPY FROM STDIN".into())),
        }
        Ok(Step::Done)
    }

    fn sync(&mut self, frame: Frame<'_>, legs: &mut Legs<'_>) -> Step {
        if self.expect.len() >= EXPECT_LIMIT || self.copy_awaited {
            self.flush(legs.outbox);
            return Step::Wait;
        }
        if self.touched.1 && !self.in_block() {
            // It commits.
            let _others_ask_again = legs.analyst.announce();
        }
        if self.skip && !self.open {
            // The target knows nothing of this pipeline. It is quiet, or the refusal would not have been answered yet.
            write::ready(legs.reply, self.status);
        } else {
            legs.outbox.forward(frame.raw);
            self.expect.push_back(Expect::Sync);
        }
        self.skip = false;
        self.open = false;
        self.segment += 1;
        Step::Done
    }

    /// Whether texts can be read now. A step says what has to happen first.
    fn ready_to_read(&mut self, legs: &mut Legs<'_>) -> Result<(), Step> {
        if self.barriers > 0 {
            self.flush(legs.outbox);
            return Err(Step::Wait);
        }
        // A failed transaction answers no question; `stale_in_failed` says what may pass then.
        if legs.analyst.is_stale() && !self.has_failed() {
            if !self.is_quiet() {
                self.flush(legs.outbox);
                return Err(Step::Wait);
            }
            return Err(Step::Resync);
        }
        Ok(())
    }

    /// Whether a text must be refused because a failed transaction hides what its names mean. What ends the transaction
    /// needs no names; the target would refuse all else.
    fn stale_in_failed(&self, reading: &Reading, legs: &Legs<'_>) -> bool {
        let ends = |effect: &SessionEffect| matches!(effect, SessionEffect::Transaction(_));
        self.has_failed()
            && legs.analyst.is_stale()
            && !reading.analysis.statements.iter().all(|statement| ends(&statement.effect))
    }

    /// Reads a text. Where a newer catalog could know an unknown name of it, that is asked for first, once.
    fn read(&mut self, text: &str, legs: &mut Legs<'_>) -> Result<Arc<Reading>, Step> {
        if !legs.analyst.is_parsed(text) {
            return Err(Step::Parse(text.into()));
        }
        let reading = legs.analyst.read(text, &*self);
        if !std::mem::take(&mut self.doubted) && legs.analyst.doubt(&reading) {
            self.doubted = true;
            self.ready_to_read(legs)?;
        }
        Ok(reading)
    }

    fn query(&mut self, text: &[u8], legs: &mut Legs<'_>) -> Step {
        // Its answer tells the transaction's status, by which a refusal is worded: so nothing else may be under way.
        if !self.is_quiet() {
            self.flush(legs.outbox);
            return Step::Wait;
        }
        if let Err(step) = self.ready_to_read(legs)
            && !(matches!(step, Step::Resync) && says_nothing(text, legs))
        {
            return step;
        }
        let Ok(text) = std::str::from_utf8(text) else {
            self.refuse_with(NOT_UTF8.0, NOT_UTF8.1, Some(NOT_UTF8.2));
            return self.settle_simple(legs);
        };
        let reading = match self.read(text, legs) {
            Ok(reading) => reading,
            Err(step) => return step,
        };
        if self.stale_in_failed(&reading, legs) {
            return self.refuse_failed(true, legs);
        }
        let (command, prepares) = (self.command(&reading, &self.no_parameters), reading.analysis.prepares);
        self.version = legs.analyst.read_under();
        self.asked = Some(Asked::Query(reading));
        Step::Ask(Question { command, prepares })
    }

    fn parse(&mut self, name: &[u8], text: &[u8], types: &[u8], legs: &mut Legs<'_>) -> Step {
        if let Err(step) = self.ready_to_read(legs)
            && !(matches!(step, Step::Resync) && says_nothing(text, legs))
        {
            return step;
        }
        if self.statements.len() >= NAMES_LIMIT
            || self.statements.weight() + text.len() + types.len() > NAMED_BYTES_LIMIT
        {
            let hint = "close the prepared statements that are no longer needed";
            return self.refuse_natively(error::LIMIT, "interceptor: too many prepared statements", Some(hint), legs);
        }
        // Names that SQL could not say are of no use to anybody, and could not be told apart in a record.
        if std::str::from_utf8(name).is_err() {
            return self.refuse_natively(
                error::NO_STATEMENT,
                "interceptor: a statement's name is not UTF-8",
                None,
                legs,
            );
        }
        let Ok(text) = std::str::from_utf8(text) else {
            return self.refuse_natively(NOT_UTF8.0, NOT_UTF8.1, Some(NOT_UTF8.2), legs);
        };
        // Its values are read before any statement runs, and by no name that the text says.
        if types.as_chunks::<4>().0.iter().any(|oid| legs.analyst.runs_code(u32::from_be_bytes(*oid))) {
            let message = "interceptor: the declared type of a parameter runs code";
            let hint = "declare a type of the system, and cast it in the statement";
            return self.refuse_natively(error::DENIED, message, Some(hint), legs);
        }
        let reading = match self.read(text, legs) {
            Ok(reading) => reading,
            Err(step) => return step,
        };
        if self.stale_in_failed(&reading, legs) {
            return self.refuse_failed(false, legs);
        }
        let command = self.command(&reading, &self.no_parameters);
        self.asked = Some(Asked::Parse(reading));
        Step::Ask(Question { command, prepares: true })
    }

    fn bind(&mut self, frame: Frame<'_>, bind: &Bind<'_>, legs: &mut Legs<'_>) -> Step {
        let known = self.statements.latest(bind.statement).and_then(|statement| statement.reading.as_deref());
        let nameless = known.is_some_and(Reading::names_nothing);
        if let Err(step) = self.ready_to_read(legs)
            && !(nameless && matches!(step, Step::Resync))
        {
            return step;
        }
        let statement = match self.statements.find(bind.statement, self.segment) {
            Found::Is(statement) => statement,
            Found::Unsettled => return Step::Wait,
            Found::Nothing => return self.no_statement(bind.statement, legs),
        };
        let values = frame.raw.len() + bind.parameters.len() * size_of::<Parameter>();
        if self.portals.len() >= NAMES_LIMIT || self.portals.weight() + values > NAMED_BYTES_LIMIT {
            let hint = "close the portals that are no longer needed";
            return self.refuse_natively(error::LIMIT, "interceptor: too many portals", Some(hint), legs);
        }
        let epoch = legs.analyst.epoch();
        if let Some(reading) = statement.reading.as_ref().filter(|reading| reading.epoch == epoch) {
            // What is bound to the session is read again when it runs.
            let reading = Arc::clone(reading);
            self.bound(frame, bind, &statement, reading, legs.outbox);
            return Step::Done;
        }
        if statement.reading.is_none() {
            let message = format!("\"{}\" was prepared with PREPARE", String::from_utf8_lossy(bind.statement));
            return self.refuse_natively(error::NO_STATEMENT, &message, Some("run it with EXECUTE"), legs);
        }
        // The target plans now, with what the names mean now.
        let reading = match self.read(&statement.prepared.text, legs) {
            Ok(reading) => reading,
            Err(step) => return step,
        };
        if self.stale_in_failed(&reading, legs) {
            return self.refuse_failed(false, legs);
        }
        if reading.analysis.missing.is_none() && !statement.still_means(&reading) {
            return self.means_another(bind.statement, legs);
        }
        let command = self.command(&reading, &self.no_parameters);
        self.asked = Some(Asked::Bind(statement, reading));
        Step::Ask(Question { command, prepares: true })
    }

    fn bound(
        &mut self,
        frame: Frame<'_>,
        bind: &Bind<'_>,
        statement: &Statement,
        reading: Arc<Reading>,
        outbox: &mut Outbox,
    ) {
        let portal = Portal {
            reading,
            parameters: self.parameters(bind.formats, bind.parameters, &statement.types),
            spent: None,
        };
        let ticket = self.portals.forward(bind.portal, Some(portal), self.segment);
        outbox.forward(frame.raw);
        self.forwarded(Expect::Bind(ticket));
    }

    fn parameters(&self, formats: Formats<'_>, values: Parameters<'_>, types: &[u32]) -> Arc<[Parameter]> {
        if values.len() == 0 {
            return Arc::clone(&self.no_parameters);
        }
        values
            .enumerate()
            .map(|(index, value)| Parameter {
                type_oid: types.get(index).copied().unwrap_or(0),
                binary: formats.is_binary(index),
                value: value.map(Bytes::copy_from_slice),
            })
            .collect()
    }

    fn execute(&mut self, frame: Frame<'_>, name: &[u8], legs: &mut Legs<'_>) -> Step {
        let nameless = self.portals.latest(name).is_some_and(|portal| portal.reading.names_nothing());
        if let Err(step) = self.ready_to_read(legs)
            && !(nameless && matches!(step, Step::Resync))
        {
            return step;
        }
        let portal = match self.portals.find(name, self.segment) {
            Found::Is(portal) => portal,
            Found::Unsettled => return Step::Wait,
            Found::Nothing => {
                let message = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
                let hint = "through interceptor, a cursor of SQL is read with FETCH";
                return self.refuse_natively(error::NO_PORTAL, &message, Some(hint), legs);
            }
        };
        if let Some(obligations) = portal.spent {
            self.run(frame, name, portal.reading, obligations, legs);
            return Step::Done;
        }
        let mut reading = portal.reading;
        if reading.analysis.session_bound {
            reading = match self.read(&reading.text, legs) {
                Ok(reading) => reading,
                Err(step) => return step,
            };
        } else if reading.epoch != legs.analyst.epoch() {
            // Planned under the old meaning of names, or resolved under the new: it cannot be known which.
            let message = "interceptor: what names mean may have changed since this portal was made";
            return self.refuse_natively(error::NO_PORTAL, message, Some("bind the statement again"), legs);
        }
        if self.stale_in_failed(&reading, legs) {
            return self.refuse_failed(false, legs);
        }
        let (command, prepares) = (self.command(&reading, &portal.parameters), reading.analysis.prepares);
        self.version = legs.analyst.read_under();
        self.asked = Some(Asked::Execute(reading));
        Step::Ask(Question { command, prepares })
    }

    fn run(
        &mut self,
        frame: Frame<'_>,
        portal: &[u8],
        reading: Arc<Reading>,
        (obligations, version): (Obligations, u64),
        legs: &mut Legs<'_>,
    ) {
        let outbox = &mut *legs.outbox;
        if !obligations.masked.is_empty() {
            // The columns as they are now, in the formats of this portal: no earlier description says both.
            if matches!(self.expect.back(), Some(Expect::Describe(Described::Portal(name))) if name == portal) {
                // The agent has just asked for them itself.
                self.expect.pop_back();
                self.expect.push_back(Expect::Describe(Described::Both));
            } else {
                outbox.hide(|out| {
                    write::describe(out, Side::Portal, portal);
                });
                self.forwarded(Expect::Describe(Described::Hidden));
            }
        }
        let quotable = self.masked;
        self.masked |= reading.quotes(&obligations.masked);
        self.barriers += usize::from(reading.barrier);
        let copy_in = reading.copy_in;
        outbox.forward(frame.raw);
        let masker = self.masker(&obligations);
        let answer = Answer::new(reading, obligations, masker, quotable, version);
        self.forwarded(Expect::Execute(answer));
        if copy_in {
            // In a COPY the target ignores Sync: so it must be known whether there is one before a Sync is forwarded.
            self.copy_awaited = true;
            self.flush(outbox);
        }
    }

    fn describe(&mut self, frame: Frame<'_>, side: Side, name: &[u8], legs: &mut Legs<'_>) -> Step {
        let segment = self.segment;
        let known = self.statements.latest(name).and_then(|statement| statement.reading.as_deref());
        let nameless = known.is_some_and(Reading::names_nothing);
        if side == Side::Statement
            && let Err(step) = self.ready_to_read(legs)
            && !(nameless && matches!(step, Step::Resync))
        {
            return step;
        }
        let found = match side {
            Side::Statement => match self.statements.find(name, segment) {
                // The target looks its names up again, and plans with what it finds.
                Found::Is(statement) => match self.holds(name, &statement, legs.analyst) {
                    Ok(true) => true,
                    Ok(false) => return self.means_another(name, legs),
                    Err(step) => return step,
                },
                Found::Nothing => return self.no_statement(name, legs),
                Found::Unsettled => false,
            },
            // A portal, or a cursor of SQL: its columns' names and types are all that it tells.
            Side::Portal => !matches!(self.portals.find(name, segment), Found::Unsettled),
        };
        if !found {
            return Step::Wait;
        }
        legs.outbox.forward(frame.raw);
        self.forwarded(Expect::Describe(match side {
            Side::Statement => Described::Statement,
            Side::Portal => Described::Portal(Bytes::copy_from_slice(name)),
        }));
        Step::Done
    }

    fn close(&mut self, frame: Frame<'_>, side: Side, name: &[u8], legs: &mut Legs<'_>) -> Step {
        if self.barriers > 0 {
            self.flush(legs.outbox);
            return Step::Wait;
        }
        let expect = match side {
            Side::Statement => Expect::CloseStatement(self.statements.forward(name, None, self.segment)),
            Side::Portal => {
                self.cursors.set(name, None);
                Expect::ClosePortal(self.portals.forward(name, None, self.segment))
            }
        };
        legs.outbox.forward(frame.raw);
        self.forwarded(expect);
        Step::Done
    }

    fn call(&mut self, call: &Call<'_>, legs: &mut Legs<'_>) -> Step {
        if !self.is_quiet() {
            self.flush(legs.outbox);
            return Step::Wait;
        }
        // Function and arguments are part of what is judged, shown to a human, and granted.
        let text = format!("FunctionCall {}", call.function);
        let reading = legs.analyst.opaque(&text, "the fast path names functions by number only");
        let command = self.command(&reading, &self.parameters(call.formats, call.arguments, &[]));
        self.asked = Some(Asked::Call);
        Step::Ask(Question { command, prepares: false })
    }

    /// Whether a prepared statement still means what it meant.
    fn holds(&self, name: &[u8], statement: &Statement, analyst: &mut dyn Analyst) -> Result<bool, Step> {
        let text = &statement.prepared.text;
        Ok(match &statement.reading {
            Some(reading) if reading.epoch == analyst.epoch() => true,
            Some(_) if !analyst.is_parsed(text) => return Err(Step::Parse(Arc::clone(text))),
            Some(_) => statement.still_means(&analyst.read(text, self)),
            // One of SQL's PREPARE: what its EXECUTE would find.
            None => {
                let name = String::from_utf8_lossy(name).replace('"', "\"\"");
                !analyst.read(&format!("EXECUTE \"{name}\""), self).analysis.opaque
            }
        })
    }

    /// The version of the catalog under which a reading was judged, whose own changes are told to others from now on.
    fn judged_under(&self, reading: &Reading, legs: &Legs<'_>) -> u64 {
        if !reading.changes_catalog(self.touched.1) {
            return self.version;
        }
        // Its own change alone lies between: whatever others have changed since it was read does not go unseen.
        let announced = legs.analyst.announce();
        if self.version.checked_add(1) == Some(announced) { announced } else { self.version }
    }

    fn means_another(&mut self, name: &[u8], legs: &mut Legs<'_>) -> Step {
        let mut refusal = BytesMut::new();
        error::put_outdated(&mut refusal, &String::from_utf8_lossy(name), self.session);
        self.refused = Some(refusal.freeze());
        self.settle_extended(legs)
    }

    fn no_statement(&mut self, name: &[u8], legs: &mut Legs<'_>) -> Step {
        let message = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
        self.refuse_natively(error::NO_STATEMENT, &message, None, legs)
    }

    /// Takes the verdict on the message that [`Step::Ask`] was about.
    ///
    /// # Errors
    /// [`Fault::Agent`] when the message is not the one that was asked about.
    pub(in super::super) fn on_verdict(
        &mut self,
        frame: Frame<'_>,
        verdict: Result<Leave, No>,
        legs: &mut Legs<'_>,
    ) -> Result<Step, Fault> {
        let message = Frontend::decode(frame).map_err(|malformed| Fault::Agent(malformed.to_string()))?;
        let asked = self.asked.take();
        if self.skip {
            // While the verdict was waited for, an earlier message of this pipeline failed: the target discards this one.
            return Ok(Step::Done);
        }
        let leave = match verdict {
            Ok(leave) => leave,
            Err(No { denial, state }) => {
                let mut refusal = BytesMut::new();
                match asked.as_ref().and_then(Asked::missing) {
                    Some(missing) => error::put_missing(&mut refusal, missing, &denial),
                    None => error::put_denial(&mut refusal, Severity::Error, state, &denial),
                }
                self.refused = Some(refusal.freeze());
                return Ok(self.settle_refusal(&message, legs));
            }
        };
        match (asked, &message, leave) {
            (Some(Asked::Query(reading)), Frontend::Query(_), leave) => {
                let obligations = runs(leave, &reading)?;
                if let Some(refused) = self.unmaskable(&reading, &obligations, &message, legs) {
                    return Ok(refused);
                }
                let (quotable, version) = (self.masked, self.judged_under(&reading, legs));
                self.masked |= reading.quotes(&obligations.masked);
                self.barriers += usize::from(reading.barrier);
                self.copy_awaited = reading.copy_in;
                legs.outbox.forward(frame.raw);
                let masker = self.masker(&obligations);
                let answer = Answer::new(reading, obligations, masker, quotable, version);
                self.expect.push_back(Expect::Query(answer));
                self.after_query();
            }
            (Some(Asked::Parse(reading)), Frontend::Parse { name, types, .. }, leave) => {
                spend(leave);
                let types = types.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid)).collect();
                let prepared = Arc::new(Prepared { text: Arc::clone(&reading.text), first: reading.cursor() });
                let statement = Statement::new(prepared, Some(reading), types);
                let ticket = self.statements.forward(name, Some(statement), self.segment);
                legs.outbox.forward(frame.raw);
                self.forwarded(Expect::Parse(ticket));
            }
            (Some(Asked::Bind(statement, reading)), Frontend::Bind(bind), leave) => {
                spend(leave);
                // Its next Bind need not be asked for again.
                self.statements.update(bind.statement, |known| known.reading = Some(Arc::clone(&reading)));
                self.bound(frame, bind, &statement, reading, legs.outbox);
            }
            (Some(Asked::Execute(reading)), Frontend::Execute { portal, .. }, leave) => {
                let obligations = runs(leave, &reading)?;
                if let Some(refused) = self.unmaskable(&reading, &obligations, &message, legs) {
                    return Ok(refused);
                }
                let terms = (obligations, self.judged_under(&reading, legs));
                self.portals.update(portal, |known| {
                    // What is bound to the session was read again: its later Executes yield what it means now.
                    known.reading = Arc::clone(&reading);
                    known.spent = Some(terms.clone());
                });
                self.run(frame, portal, reading, terms, legs);
            }
            (Some(Asked::Call), Frontend::FunctionCall(_), Leave::Permit(permit)) => {
                let (obligations, _) = permit.spend();
                if !obligations.masked.is_empty() {
                    let why = "interceptor: what a FunctionCall returns cannot be masked";
                    self.refuse_with(error::DENIED, why, Some("use SELECT"));
                    return Ok(self.settle_refusal(&message, legs));
                }
                legs.outbox.forward(frame.raw);
                self.expect.push_back(Expect::Call);
                self.after_query();
            }
            _ => return Err(Fault::Agent("a verdict on another message than was asked about".into())),
        }
        Ok(Step::Done)
    }

    /// Refuses what is permitted under obligations that cannot be met.
    fn unmaskable(
        &mut self,
        reading: &Reading,
        obligations: &Obligations,
        message: &Frontend<'_>,
        legs: &mut Legs<'_>,
    ) -> Option<Step> {
        let why = cannot_mask(reading).filter(|_| !obligations.masked.is_empty())?;
        self.refuse_with(error::DENIED, &format!("interceptor: {why}"), Some("use COPY's own defaults, or SELECT"));
        Some(self.settle_refusal(message, legs))
    }

    /// After what the target answers with ReadyForQuery of its own accord.
    pub(super) fn after_query(&mut self) {
        self.open = false;
        self.segment += 1;
    }
}

/// Whether a statement's or portal's name is longer than the server keeps: of such it takes the first bytes for the whole.
fn has_long_name(message: &Frontend<'_>) -> bool {
    let long = |name: &[u8]| name.len() > NAME_LIMIT;
    match message {
        Frontend::Bind(bind) => long(bind.portal) || long(bind.statement),
        Frontend::Parse { name, .. }
        | Frontend::Execute { portal: name, .. }
        | Frontend::Describe(_, name)
        | Frontend::Close(_, name) => long(name),
        _ => false,
    }
}

/// What only prepares has no answer that obligations could apply to.
fn spend(leave: Leave) {
    if let Leave::Permit(permit) = leave {
        let (_no_answer, _recorded) = permit.spend();
    }
}

/// Whether a text names nothing, so that nothing need be asked of the target first: within a transaction that would be a
/// query, before which `SET TRANSACTION` has to come.
fn says_nothing(text: &[u8], legs: &Legs<'_>) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| legs.analyst.names_nothing(text))
}

/// What the answer to what runs must undergo. What only prepares has no rows.
fn runs(leave: Leave, reading: &Reading) -> Result<Obligations, Fault> {
    match leave {
        Leave::Permit(permit) => {
            let (obligations, _recorded) = permit.spend();
            Ok(obligations)
        }
        Leave::Prepare { .. } if reading.analysis.prepares => Ok(Obligations::default()),
        Leave::Prepare { .. } => Err(Fault::Agent("leave to prepare what would run".into())),
    }
}

/// What cannot be read cannot be judged, nor shown to a human as what it is.
const NOT_UTF8: (&str, &str, &str) =
    ("22021", "interceptor: the text is not UTF-8, so it cannot be judged", "set client_encoding to UTF8");
