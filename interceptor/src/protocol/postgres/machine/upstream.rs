//! Messages of the target.

use std::sync::Arc;

use bytes::BytesMut;

use super::super::analysis::{SessionEffect, StatementInfo, Transaction};
use super::super::codec::{Backend, Frame, Notice};
use super::super::statement::{Analyst, Reading};
use super::answer::Answer;
use super::hidden::Progress;
use super::{Described, Expect, Fate, Fault, Machine, Statement};

impl Machine {
    /// Takes a message of the target. What takes its place, if anything does, is written to `out`.
    ///
    /// # Errors
    /// [`Fault::Upstream`] when it has no place here: the session has to end.
    pub(in super::super) fn on_upstream(
        &mut self,
        frame: Frame<'_>,
        analyst: &mut dyn Analyst,
        out: &mut BytesMut,
    ) -> Result<Fate, Fault> {
        // Rows of an answer that is not masked: by far the most messages, so they are not even decoded.
        if frame.tag == b'D' && self.passes(frame.tag) {
            return Ok(Fate::Pass);
        }
        let message = Backend::decode(frame)?;
        match message {
            Backend::ParameterStatus(name, value) => {
                analyst.setting(name, value);
                return Ok(Fate::Pass);
            }
            Backend::NotificationResponse { process_id, channel, payload } => {
                return Ok(super::answer::put_notification(self.masker.again(), (process_id, channel), payload, out));
            }
            Backend::NoticeResponse(notice) => return Ok(self.on_notice(&notice, out)),
            _ => {}
        }
        match self.expect.front_mut() {
            // The target says why it closes the connection.
            None if frame.tag == b'E' => Ok(Fate::Pass),
            None => Err(unexpected(frame.tag)),
            Some(Expect::Hidden(_)) => self.on_hidden(&message, analyst),
            Some(Expect::Query(_)) => self.on_query(frame, &message, analyst, out),
            Some(Expect::Execute(_)) => self.on_execute(frame, &message, analyst, out),
            Some(Expect::PoisonQuery(_) | Expect::Call) => self.on_call(&message, out, analyst),
            Some(Expect::Sync) => match message {
                Backend::ReadyForQuery(status) => {
                    self.expect.pop_front();
                    self.ready(status, analyst);
                    Ok(Fate::Pass)
                }
                // The commit of what was pipelined has failed.
                Backend::ErrorResponse(notice) => Ok(self.scrubbed(&notice, out)),
                _ => Err(unexpected(frame.tag)),
            },
            Some(_) if frame.tag == b'E' => self.on_error(&message, analyst, out),
            Some(_) => self.on_done(frame, &message, analyst),
        }
    }

    /// Whether rows (or data of a COPY, by the type of message) pass unseen just now: also in pieces.
    pub(in super::super) fn passes(&self, tag: u8) -> bool {
        match self.expect.front() {
            Some(Expect::Query(answer) | Expect::Execute(answer)) => answer.passes(tag),
            _ => false,
        }
    }

    /// Whether COPY data of the agent passes just now: also in pieces.
    pub(in super::super) fn copies(&self) -> bool {
        self.copy_in
    }

    fn on_query(
        &mut self,
        frame: Frame<'_>,
        message: &Backend<'_>,
        analyst: &mut dyn Analyst,
        out: &mut BytesMut,
    ) -> Result<Fate, Fault> {
        if let Backend::ReadyForQuery(status) = message {
            if let Some(Expect::Query(answer)) = self.expect.pop_front() {
                self.finish(&answer, analyst);
            }
            self.ready(*status, analyst);
            return Ok(Fate::Pass);
        }
        if matches!(message, Backend::PortalSuspended) {
            return Err(unexpected(frame.tag));
        }
        self.on_answer(frame, message, analyst, out)
    }

    fn on_execute(
        &mut self,
        frame: Frame<'_>,
        message: &Backend<'_>,
        analyst: &mut dyn Analyst,
        out: &mut BytesMut,
    ) -> Result<Fate, Fault> {
        match message {
            Backend::ErrorResponse(_) => self.on_error(message, analyst, out),
            Backend::RowDescription(_) => Err(unexpected(frame.tag)),
            Backend::CommandComplete(_) | Backend::EmptyQueryResponse | Backend::PortalSuspended => {
                let fate = self.on_answer(frame, message, analyst, out)?;
                if let Some(Expect::Execute(answer)) = self.expect.pop_front() {
                    self.finish(&answer, analyst);
                }
                Ok(fate)
            }
            _ => self.on_answer(frame, message, analyst, out),
        }
    }

    /// What is common to the answers of a Query and an Execute.
    fn on_answer(
        &mut self,
        frame: Frame<'_>,
        message: &Backend<'_>,
        analyst: &mut dyn Analyst,
        out: &mut BytesMut,
    ) -> Result<Fate, Fault> {
        let alone = self.expect.len() == 1;
        let simple = matches!(self.expect.front(), Some(Expect::Query(_)));
        let Some(Expect::Query(answer) | Expect::Execute(answer)) = self.expect.front_mut() else {
            return Err(unexpected(frame.tag));
        };
        match message {
            Backend::RowDescription(fields) => answer.describe((*fields, frame.body), analyst, &mut self.kept)?,
            Backend::DataRow(_) => return answer.row(frame, out),
            Backend::CopyOutResponse(rows) => answer.copy_out(rows, analyst)?,
            Backend::CopyData(_) => return answer.copy_data(frame, out),
            Backend::CopyDone => answer.copy_done()?,
            Backend::CopyInResponse(_) => {
                // What cannot be read may be a COPY.
                let announced = answer.reading().copy_in || answer.reading().analysis.opaque;
                if !alone || !announced {
                    return Err(Fault::Upstream("it wants COPY data where none was announced".into()));
                }
                self.copy_in = true;
                // A Query can hold another COPY.
                self.copy_awaited &= simple;
            }
            Backend::CommandComplete(_) | Backend::EmptyQueryResponse => {
                self.cells.append(&mut answer.take_masked());
                let settled = answer.is_settled(analyst);
                let done = answer.next(&mut self.kept);
                self.apply(&done, settled, analyst);
            }
            Backend::PortalSuspended => {
                self.cells.append(&mut answer.take_masked());
                answer.give_back(&mut self.kept);
            }
            Backend::ErrorResponse(notice) => {
                answer.failed = true;
                self.copy_in = false;
                let settles = answer.settles();
                let fate = answer.scrub(notice, b'E', out);
                return Ok(if settles && fate == Fate::Pass { self.scrubbed(notice, out) } else { fate });
            }
            _ => return Err(unexpected(frame.tag)),
        }
        Ok(Fate::Pass)
    }

    /// What a statement that succeeded did to the session.
    fn apply(&mut self, (reading, index): &(Arc<Reading>, usize), settled: bool, analyst: &mut dyn Analyst) {
        let Some(statement) = reading.analysis.statements.get(*index) else { return };
        self.touch(statement, analyst);
        match &statement.effect {
            SessionEffect::Prepare { name, prepared } => {
                let prepared = Arc::clone(prepared);
                let statement = Statement::new(prepared, None, Arc::from([]));
                let room = self.statements.len() < super::NAMES_LIMIT
                    && self.statements.weight() + statement.weight <= super::NAMED_BYTES_LIMIT;
                // What is not kept is not known, whatever had the name before.
                self.statements.set(name.as_bytes(), room.then_some(statement));
            }
            SessionEffect::Deallocate { name: Some(name) } => self.statements.set(name.as_bytes(), None),
            SessionEffect::Deallocate { name: None } => self.statements.retain(|_| false),
            SessionEffect::DeclareCursor { name, cursor, hold, .. } => {
                let room = settled && self.cursors.len() < super::CURSORS_LIMIT;
                self.cursors.set(name.as_bytes(), room.then(|| (Arc::clone(cursor), *hold)));
            }
            SessionEffect::Close { name: Some(name) } => {
                self.cursors.set(name.as_bytes(), None);
                self.portals.set(name.as_bytes(), None);
            }
            SessionEffect::Close { name: None } => {
                self.cursors.retain(|_| false);
                self.portals.retain(|_| false);
            }
            SessionEffect::DiscardAll => {
                self.cursors.retain(|_| false);
                self.portals.retain(|_| false);
                self.statements.retain(|_| false);
                // The tables that go were this session's alone.
                analyst.touch(true, false);
            }
            // What others, or an earlier transaction, had prepared comes into effect.
            SessionEffect::Transaction(Transaction::TwoPhase) => analyst.touch(true, true),
            SessionEffect::Transaction(_) => {
                // It may have undone what the transaction had changed.
                let (names, catalog) = self.touched;
                analyst.touch(names, catalog);
            }
            _ => {}
        }
    }

    fn touch(&mut self, statement: &StatementInfo, analyst: &mut dyn Analyst) {
        let resync = statement.resync;
        analyst.touch(resync.names, resync.catalog);
        self.touched = (self.touched.0 | resync.names, self.touched.1 | resync.catalog);
    }

    /// An answer has ended, well or not.
    fn finish(&mut self, answer: &Answer, analyst: &mut dyn Analyst) {
        let reading = answer.reading();
        self.barriers = self.barriers.saturating_sub(usize::from(reading.barrier));
        self.copy_awaited &= !reading.copy_in;
        if reading.analysis.opaque || (answer.failed && reading.barrier) {
            // What it did before it failed is not known.
            analyst.touch(true, true);
            self.touched = (true, true);
        }
    }

    fn on_call(&mut self, message: &Backend<'_>, out: &mut BytesMut, analyst: &mut dyn Analyst) -> Result<Fate, Fault> {
        match message {
            Backend::ReadyForQuery(status) => {
                let ended = self.expect.pop_front();
                if matches!(ended, Some(Expect::Call)) {
                    analyst.touch(true, true);
                }
                self.ready(*status, analyst);
                Ok(Fate::Pass)
            }
            Backend::FunctionCallResponse(_) if matches!(self.expect.front(), Some(Expect::Call)) => Ok(Fate::Pass),
            Backend::ErrorResponse(notice) => match self.expect.front() {
                Some(Expect::PoisonQuery(refusal)) => {
                    out.extend_from_slice(refusal);
                    Ok(Fate::Replaced)
                }
                _ => Ok(self.scrubbed(notice, out)),
            },
            _ => Err(Fault::Upstream("a message that has no place in the answer to a call".into())),
        }
    }

    /// Answers of one message.
    fn on_done(&mut self, frame: Frame<'_>, message: &Backend<'_>, analyst: &mut dyn Analyst) -> Result<Fate, Fault> {
        let out_of_place = || Fault::Upstream("an answer to something else than it was asked".into());
        let fate = match (self.expect.front(), message) {
            (Some(Expect::Parse(ticket)), Backend::ParseComplete) => {
                self.statements.confirm(*ticket);
                Fate::Pass
            }
            (Some(Expect::Bind(ticket)), Backend::BindComplete) => {
                self.portals.confirm(*ticket);
                Fate::Pass
            }
            (Some(Expect::CloseStatement(ticket)), Backend::CloseComplete) => {
                self.statements.confirm(*ticket);
                Fate::Pass
            }
            (Some(Expect::ClosePortal(ticket)), Backend::CloseComplete) => {
                self.portals.confirm(*ticket);
                Fate::Pass
            }
            (Some(Expect::Describe(Described::Hidden)), Backend::NoData) => Fate::Replaced,
            (Some(Expect::Describe(Described::Statement)), Backend::ParameterDescription(_)) => return Ok(Fate::Pass),
            (Some(Expect::Describe(Described::Statement | Described::Portal(_))), Backend::RowDescription(_))
            | (Some(Expect::Describe(_)), Backend::NoData) => Fate::Pass,
            (Some(Expect::Describe(asked)), Backend::RowDescription(fields)) => {
                let fate = if *asked == Described::Both { Fate::Pass } else { Fate::Replaced };
                let Some(Expect::Execute(answer)) = self.expect.get_mut(1) else { return Err(out_of_place()) };
                answer.describe((*fields, frame.body), analyst, &mut self.kept)?;
                fate
            }
            _ => return Err(out_of_place()),
        };
        self.expect.pop_front();
        Ok(fate)
    }

    /// An error in the extended protocol: the target discards what follows up to the next Sync, and so does the queue.
    fn on_error(
        &mut self,
        message: &Backend<'_>,
        analyst: &mut dyn Analyst,
        out: &mut BytesMut,
    ) -> Result<Fate, Fault> {
        let Backend::ErrorResponse(notice) = message else { return Err(unexpected(b'E')) };
        let fate = match self.expect.front_mut() {
            Some(Expect::Poison(refusal)) => {
                out.extend_from_slice(refusal);
                Fate::Replaced
            }
            Some(Expect::Execute(answer)) => {
                answer.failed = true;
                let settles = answer.settles();
                let fate = answer.scrub(notice, b'E', out);
                if settles && fate == Fate::Pass { self.scrubbed(notice, out) } else { fate }
            }
            // Parameters and expressions that are computed early can be quoted, too.
            _ => self.scrubbed(notice, out),
        };
        while let Some(dropped) = self.expect.pop_front_if(|next| !matches!(next, Expect::Sync)) {
            match dropped {
                Expect::Parse(ticket) | Expect::CloseStatement(ticket) => self.statements.forget(ticket),
                Expect::Bind(ticket) | Expect::ClosePortal(ticket) => self.portals.forget(ticket),
                Expect::Execute(answer) => self.finish(&answer, analyst),
                _ => {}
            }
        }
        self.copy_in = false;
        // Where no Sync was forwarded yet, all that comes before it is discarded here already.
        self.skip |= self.expect.is_empty();
        Ok(fate)
    }

    fn on_hidden(&mut self, message: &Backend<'_>, analyst: &mut dyn Analyst) -> Result<Fate, Fault> {
        let Some(Expect::Hidden(hidden)) = self.expect.front_mut() else { return Err(unexpected(0)) };
        match hidden.take(message)? {
            Progress::More => return Ok(Fate::Replaced),
            Progress::Answered(answer) => {
                self.expect.pop_front();
                self.hidden = Some(answer);
                if let Backend::ReadyForQuery(status) = message {
                    self.ready(*status, analyst);
                }
            }
            Progress::Broke => {
                self.expect.pop_front();
                self.hidden = Some(Err("the pipeline that it stood in has failed".into()));
                self.skip = true;
                return Ok(Fate::Pass);
            }
        }
        Ok(Fate::Replaced)
    }

    /// The target is ready, in this status.
    fn ready(&mut self, status: u8, analyst: &mut dyn Analyst) {
        self.status = status;
        if status != b'T' {
            // Portals end with their transaction, also with one that failed.
            self.portals.retain(|_| false);
            self.cursors.retain(|(_, hold)| *hold);
            let (names, catalog) = self.touched;
            analyst.touch(names, catalog);
        }
        if status == b'I' {
            self.touched = (false, false);
            // What was pipelined behind it may be masked, too.
            let masks =
                |expect: &Expect| matches!(expect, Expect::Query(answer) | Expect::Execute(answer) if answer.masks());
            self.masked = self.masked && self.expect.iter().any(masks);
        }
    }

    fn on_notice(&mut self, notice: &Notice<'_>, out: &mut BytesMut) -> Fate {
        match self.expect.front_mut() {
            Some(Expect::Query(answer) | Expect::Execute(answer)) => answer.scrub(notice, b'N', out),
            _ => self.scrubbed_as(b'N', notice, out),
        }
    }

    /// An error that belongs to no one statement: masked where any answer of the transaction was.
    fn scrubbed(&self, notice: &Notice<'_>, out: &mut BytesMut) -> Fate {
        self.scrubbed_as(b'E', notice, out)
    }

    fn scrubbed_as(&self, tag: u8, notice: &Notice<'_>, out: &mut BytesMut) -> Fate {
        if !self.masked {
            return Fate::Pass;
        }
        super::answer::put_scrubbed(notice, tag, out);
        Fate::Replaced
    }
}

fn unexpected(tag: u8) -> Fault {
    Fault::Upstream(format!("message '{}' has no place here", tag.escape_ascii()))
}
