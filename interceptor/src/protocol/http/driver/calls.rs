//! The messages of an agent in a call that takes a stream of them: each is judged as it comes, and passes alone.
//!
//! What is denied ends the call with a status, whether its answer has begun or not; what is held holds back what comes behind.

use bytes::Bytes;

use super::agent::Asking;
use super::agent_failed;
use super::exchange::Unsent;
use super::served::{Holding, Served};
use super::upstream::Sending;
use crate::policy::{Command, Denial, Permit};
use crate::protocol::http::BODY_LIMIT;
use crate::protocol::http::codec::RequestHead;
use crate::protocol::http::grpc::Call;
use crate::protocol::http::grpc::frames::{Frame, Frames};
use crate::protocol::http::rewrite::Plan;
use crate::protocol::http::route::Location;
use crate::protocol::http::transcript::Transcript;
use crate::protocol::{Direction, Impact, Observation, Verdict};

/// A call, as it was permitted.
pub(super) struct Relay<'a> {
    pub(super) served: &'a Served<'a>,
    pub(super) call: Call<'a>,
    pub(super) head: &'a RequestHead,
    pub(super) location: &'a Location,
    /// What is masked of its answer.
    pub(super) plan: Plan,
}

impl Relay<'_> {
    /// Passes messages on until the agent has said all.
    pub(super) async fn run(
        &self,
        asking: &mut Asking<'_>,
        sending: &mut Sending,
        (transcript, mut held, over): (Transcript, Holding<'_>, bool),
    ) -> Result<(), Unsent> {
        if over {
            return sending.end().await.map_err(Unsent::Target);
        }
        let mut frames = Frames::new(BODY_LIMIT);
        while !asking.is_over() {
            sending.flush().await.map_err(Unsent::Target)?;
            let Some(piece) = asking.piece().await.map_err(|error| Unsent::Agent(agent_failed(error)))? else { break };
            frames.push(&piece);
            held.set(frames.held()).map_err(Unsent::Agent)?;
            loop {
                let next = frames.take().map_err(|why| self.broken(&why.to_string()))?;
                let Some(frame) = next else { break };
                let (bytes, shown) = self.permitted(&frame, &mut held).await?;
                self.record(transcript.piece(shown.as_ref().unwrap_or(&bytes))).await?;
                sending.piece(bytes).await.map_err(Unsent::Target)?;
            }
            held.set(frames.held()).map_err(Unsent::Agent)?;
        }
        if frames.held() > 0 {
            return Err(self.broken("it ends within a message"));
        }
        let mut recorded = Vec::new();
        transcript.put_end(&mut recorded, None);
        self.record(recorded.into()).await?;
        sending.end().await.map_err(Unsent::Target)
    }

    /// What may pass of a message, and what recordings have of it where that is another.
    async fn permitted(&self, frame: &Frame, held: &mut Holding<'_>) -> Result<(Bytes, Option<Bytes>), Unsent> {
        let (bytes, read) = self.call.one(frame);
        let told = read.as_ref().map_or(0, |content| content.values.iter().map(String::len).sum());
        held.set(frame.whole.len() + bytes.len() + told).map_err(Unsent::Agent)?;
        let mut command = self.served.heard(self.head, self.location, &bytes, read);
        let redaction = self.served.redaction(self.head, self.location);
        let shown = redaction.body(&bytes);
        redaction.command(&mut command, (&bytes, shown.as_ref()), self.served.gate);
        let permit = self.judged(&command).await.map_err(Unsent::Denied)?;
        let (obligations, _recorded) = permit.spend();
        // The answer is masked as the call was permitted.
        if !self.plan.is_for(&obligations) {
            return Err(self.broken("what may be seen of its answer is other than when it was begun: call again"));
        }
        Ok((bytes, shown.map(|shown| shown.bytes)))
    }

    async fn judged(&self, command: &Command) -> Result<Permit, Denial> {
        let gate = self.served.gate;
        match gate.judge(command).await? {
            Verdict::Permit(permit) => Ok(permit),
            Verdict::Ended(denial) => Err(denial),
            Verdict::Hold(held) => gate.hold(command, held, Impact::default()).await,
        }
    }

    async fn record(&self, bytes: Bytes) -> Result<(), Unsent> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.served.observe(Observation::Data(Direction::FromAgent, bytes)).await.map_err(Unsent::Agent)
    }

    fn broken(&self, why: &str) -> Unsent {
        Unsent::Denied(self.served.agents_fault(&format!("a message to {:.200}", self.location.path()), why))
    }
}
