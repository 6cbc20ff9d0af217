//! The loop: the agent's messages one by one, each with its verdict.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::{Instant, timeout};

use super::super::analyst::Wanted;
use super::super::cancel::Waiting;
use super::super::catalog::{Catalog, Loader, QUERIES, SESSION_QUERY, SETUP};
use super::super::codec::{frame, frontend_limit};
use super::super::error::{self, Severity};
use super::super::machine::{ClientLegs, Fault, Leave, No, Question, Rows, Step, refusal};
use super::catalogs::{DOUBTED, FRESH, Library};
use super::legs::{Legs, Stop};
use super::{estimate, parsing};
use crate::policy::{Command, Denial, Retry};
use crate::protocol::{Close, Failure, Gate, Impact, Observation, Verdict};
use crate::telemetry::SessionId;

/// How long the target may take for a question of ours on the agent's connection.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a session reads messages before others have their turn.
const LONGEST_TURN: Duration = Duration::from_millis(1);

/// A session that is ready for commands.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) gate: &'a dyn Gate,
    pub(super) legs: Legs<'a>,
    pub(super) library: Library,
    pub(super) session: SessionId,
    /// Woken by cancel requests.
    pub(super) waiting: Arc<Waiting>,
}

impl Session<'_> {
    /// Serves commands until the session ends, and tells the agent why.
    pub(super) async fn run(mut self: Box<Self>) -> Result<Close, Failure> {
        let stop = match self.converse().await {
            Ok(never) => match never {},
            Err(stop) => stop,
        };
        Box::pin(self.end(stop)).await
    }

    /// Tells both sides why.
    async fn end(mut self: Box<Self>, stop: Stop) -> Result<Close, Failure> {
        // Whatever the agent has still to read; bounded, since it may not read at all.
        let (state, denial, close) = match stop {
            Stop::AgentClosed => {
                let _bounded = timeout(super::FAREWELL_TIMEOUT, self.legs.drain()).await;
                self.close().await;
                return Ok(Close::Agent);
            }
            Stop::UpstreamClosed => {
                let denial =
                    self.note("the target closed the connection", "it may have been restarted", "connect again");
                (error::NO_TARGET, denial, Ok(Close::Upstream))
            }
            Stop::Ended(denial) => (error::ENDED, denial, Ok(Close::Ended)),
            Stop::Overfull(denial) => (error::MEMORY, denial.clone(), Err(Failure::Overfull(denial))),
            Stop::Unrecorded(denial) => (error::INTERNAL, denial.clone(), Err(Failure::Denied(denial))),
            Stop::Failed(failure) => {
                let state = if matches!(failure, Failure::Agent(_)) { error::PROTOCOL } else { error::NO_TARGET };
                let denial = self.note("this session", &failure.to_string(), "connect again");
                (state, denial, Err(failure))
            }
        };
        let recordable = !matches!(&close, Err(Failure::Denied(_)));
        self.farewell(state, &denial, recordable).await;
        self.close().await;
        close
    }

    fn note(&self, what: &str, reason: &str, remedy: &str) -> Denial {
        Denial { retry: Retry::Later, ..refusal(self.session, what, reason, remedy) }
    }

    /// Tells the agent why its session ends: on record where there is one, else past it, since silence helps nobody.
    async fn farewell(&mut self, state: &str, denial: &Denial, recordable: bool) {
        let mut words = BytesMut::new();
        error::put_denial(&mut words, Severity::Fatal, state, denial);
        let told = async {
            if recordable {
                if self.legs.is_between_messages() {
                    self.legs.staged.extend_from_slice(&words);
                }
                if !matches!(self.legs.drain().await, Err(Stop::Unrecorded(_))) {
                    return;
                }
            }
            let _best_effort = self.legs.tell_unrecorded(&words).await;
        };
        let _bounded = timeout(super::FAREWELL_TIMEOUT, told).await;
    }

    async fn close(&mut self) {
        let both = async {
            self.legs.leave_upstream().await;
            self.legs.leave_agent().await;
        };
        let _bounded = timeout(super::FAREWELL_TIMEOUT, both).await;
    }

    async fn converse(&mut self) -> Result<std::convert::Infallible, Stop> {
        let mut busy = Duration::ZERO;
        loop {
            // Whoever has much to say does not keep its worker from the other sessions.
            if busy >= LONGEST_TURN {
                tokio::task::yield_now().await;
                busy = Duration::ZERO;
            }
            let masked = self.legs.machine.take_masked();
            if !masked.is_empty() {
                let cells = Observation::Masked { cells: masked };
                self.gate.observe(cells).await.map_err(Stop::Unrecorded)?;
            }
            if self.legs.machine.is_quiet()
                && let Some(denial) = self.legs.leave.take()
            {
                return Err(Stop::Ended(denial));
            }
            if !self.legs.has_room() {
                self.legs.turn().await?;
                continue;
            }
            if self.legs.pass_piece() {
                continue;
            }
            let began = Instant::now();
            let mut offered = self.offer(None)?;
            busy = busy.saturating_add(began.elapsed());
            if let Offered::Step(Step::Parse(text)) = offered {
                offered = self.offer_parsed(text).await?;
            }
            match offered {
                // What it has asked for before it closed its end is answered, as a server would.
                Offered::Nothing if self.legs.agent_has_left() && !self.legs.machine.owes_an_answer() => {
                    return Err(Stop::AgentClosed);
                }
                Offered::Nothing | Offered::Step(Step::Wait) => self.legs.turn().await?,
                // What has to be parsed now is another text than a moment ago.
                Offered::Step(Step::Done | Step::Parse(_)) => {}
                Offered::Step(Step::Ask(question)) => self.ask(question).await?,
                Offered::Step(Step::Resync) => self.resync().await?,
                Offered::Step(Step::Terminate) => return Err(Stop::AgentClosed),
            }
        }
    }

    /// Offers the agent's next message to the machine, or the verdict on it.
    fn offer(&mut self, verdict: Option<Result<Leave, No>>) -> Result<Offered, Stop> {
        let legs = &mut self.legs;
        let found = frame(&legs.agent_in, frontend_limit);
        let Some(found) = found.map_err(|malformed| Fault::Agent(malformed.to_string()))? else {
            return Ok(Offered::Nothing);
        };
        let length = found.raw.len();
        let mut sides = ClientLegs { analyst: &mut legs.analyst, outbox: &mut legs.outbox, reply: &mut legs.staged };
        let step = match verdict {
            None => legs.machine.on_client(found, &mut sides)?,
            Some(verdict) => legs.machine.on_verdict(found, verdict, &mut sides)?,
        };
        if matches!(step, Step::Done | Step::Terminate) {
            legs.agent_in.advance(length);
        }
        Ok(Offered::Step(step))
    }

    /// Has a long text parsed apart, and offers its message again.
    async fn offer_parsed(&mut self, text: Arc<str>) -> Result<Offered, Stop> {
        let (parsed, turn) = self.legs.until(parsing::parse(text), true).await?;
        self.legs.analyst.set_parsed(Some(parsed));
        let offered = self.offer(None);
        // Whatever comes next may take long, and the tree is large.
        parsing::forget(self.legs.analyst.set_parsed(None), turn);
        offered
    }

    /// Gets the verdict on the message at hand.
    async fn ask(&mut self, Question { command, prepares }: Question) -> Result<(), Stop> {
        self.library.refresh();
        let verdict = match self.legs.until_soon(self.gate.judge(&command)).await? {
            Ok(Verdict::Permit(permit)) => Ok(Leave::Permit(permit)),
            Ok(Verdict::Hold(held)) if prepares => Ok(Leave::Prepare { _held: held }),
            Ok(Verdict::Hold(held)) => {
                let canceled = self.note("the wait for an approval", "canceled on request", "send the command again");
                let waiting = Arc::clone(&self.waiting);
                let (cancel, _wait) = waiting.begin();
                let impact = self.impact(&command).await?;
                let hold = async {
                    tokio::select! {
                        biased;
                        verdict = self.gate.hold(&command, held, impact) => verdict.map_err(No::from),
                        () = cancel => Err(No { denial: canceled, state: error::CANCELED }),
                        // Who answers may take longer than the daemon waits; the request lives on.
                        denial = self.gate.leaving() => Err(No { denial, state: error::ENDED }),
                    }
                };
                self.legs.until(hold, false).await?.map(Leave::Permit)
            }
            Ok(Verdict::Ended(denial)) => {
                self.gate.observe(Observation::Denied(denial.clone())).await.map_err(Stop::Unrecorded)?;
                return Err(Stop::Ended(denial));
            }
            Err(denial) => Err(denial.into()),
        };
        if let Err(No { denial, .. }) = &verdict {
            let told = Observation::Denied(denial.clone());
            self.gate.observe(told).await.map_err(Stop::Unrecorded)?;
        }
        self.offer(Some(verdict))?;
        Ok(())
    }

    /// What an approver should know of a command that is held.
    async fn impact(&mut self, command: &Command) -> Result<Impact, Stop> {
        let unknown = |why: &str| Ok(Impact { rows: None, note: Some(format!("no estimate: {why}")) });
        if self.legs.machine.has_changed_catalog() {
            return unknown("its transaction has changed objects that only it sees");
        }
        let Some(reading) = self.legs.machine.asked() else { return unknown("it is no statement of SQL") };
        let asked = match estimate::Asked::new(command, reading, self.legs.analyst.names()) {
            Ok(asked) => asked,
            Err(why) => return unknown(why),
        };
        let library = self.library.clone();
        self.legs.until(asked.estimate(&library), true).await
    }

    /// Asks the target what the session's names mean now.
    async fn resync(&mut self) -> Result<(), Stop> {
        let catalog = match self.legs.analyst.wanted() {
            Wanted::Nothing => None,
            Wanted::Own => self.own_catalog().await?,
            // What its own transaction has changed is not in the shared one.
            Wanted::Shared | Wanted::Newer if self.legs.machine.has_changed_catalog() => self.own_catalog().await?,
            Wanted::Shared => self.shared_catalog(FRESH).await?,
            Wanted::Newer => self.shared_catalog(DOUBTED).await?,
        };
        let version = catalog.as_ref().map(|(_, version)| *version);
        let given_up = catalog.is_none() && self.legs.analyst.wanted() == Wanted::Shared;
        if !given_up && !self.legs.analyst.wants_names(catalog.as_ref().map(|(catalog, _)| catalog)) {
            self.legs.analyst.confirmed(version);
            return Ok(());
        }
        let rows = self.session_names().await?;
        self.legs.analyst.resynced(rows, catalog);
        Ok(())
    }

    /// What the session's names mean; `None` where that cannot be had. In the agent's transaction a savepoint keeps a question
    /// that fails from failing it: for a lock that another session holds, or for a function that it may not call.
    async fn session_names(&mut self) -> Result<Option<Rows>, Stop> {
        if !self.legs.machine.is_synced() || !self.legs.machine.in_block() {
            return Ok(self.hidden(SESSION_QUERY).await?.ok());
        }
        if self.hidden("SAVEPOINT interceptor_names").await?.is_err() {
            return Ok(None);
        }
        let rows = self.hidden(SESSION_QUERY).await?.ok();
        let undone = self.hidden("ROLLBACK TO SAVEPOINT interceptor_names").await?.is_ok()
            && self.hidden("RELEASE SAVEPOINT interceptor_names").await?.is_ok();
        Ok(rows.filter(|_| undone))
    }

    async fn shared_catalog(&mut self, age: Duration) -> Result<Option<(Arc<Catalog>, u64)>, Stop> {
        let loaded = self.legs.until(self.library.catalog(age), true).await?;
        Ok(loaded.inspect_err(|error| tracing::warn!(session = %self.session, %error, "no catalog")).ok())
    }

    /// The catalog as this session sees it; `None` where it cannot be had.
    async fn own_catalog(&mut self) -> Result<Option<(Arc<Catalog>, u64)>, Stop> {
        if !self.legs.machine.is_synced() {
            // What a pipeline has changed can be seen only by a savepoint inside of it, which there is none.
            return Ok(None);
        }
        if self.legs.machine.in_block() {
            let version = self.library.shelf.version();
            return Ok(self.catalog_inside().await?.map(|catalog| (catalog, version)));
        }
        self.shared_catalog(FRESH).await
    }

    /// The catalog as the open transaction sees it, with what it has changed. A savepoint keeps the settings that are
    /// needed for it apart.
    async fn catalog_inside(&mut self) -> Result<Option<Arc<Catalog>>, Stop> {
        if self.hidden("SAVEPOINT interceptor_catalog").await?.is_err() {
            return Ok(None);
        }
        let mut loader = Some(Loader::new());
        if self.hidden(&SETUP.replace("false)", "true)")).await?.is_err() {
            loader = None;
        }
        for query in QUERIES {
            let Some(reading) = &mut loader else { break };
            let taken = match self.hidden(query).await? {
                Ok(rows) => reading.rows(&rows).is_ok(),
                Err(_refused) => false,
            };
            if !taken {
                loader = None;
            }
        }
        let undone = self.hidden("ROLLBACK TO SAVEPOINT interceptor_catalog").await?.is_ok()
            && self.hidden("RELEASE SAVEPOINT interceptor_catalog").await?.is_ok();
        let catalog = loader.and_then(|loader| loader.finish().ok()).filter(|_| undone);
        Ok(catalog.map(Arc::new))
    }

    /// Asks the target something of our own, on the agent's connection.
    async fn hidden(&mut self, sql: &str) -> Result<Result<Rows, String>, Stop> {
        self.legs.machine.hide(sql, &mut self.legs.outbox);
        let answered = async {
            loop {
                if let Some(answer) = self.legs.machine.take_hidden() {
                    if let Err(why) = &answer {
                        tracing::warn!(session = %self.session, %why, "the target refused a question of interceptor's");
                    }
                    return Ok(answer);
                }
                self.legs.turn().await?;
            }
        };
        let late = || Fault::Upstream("it did not answer interceptor's question in time".into()).into();
        timeout(ANSWER_TIMEOUT, answered).await.unwrap_or_else(|_elapsed| Err(late()))
    }
}

/// What became of an offer.
enum Offered {
    /// No whole message is there.
    Nothing,
    Step(Step),
}
