//! Questions of our own on the agent's connection, of which the agent sees nothing.
//!
//! They go by the extended protocol under names of our own, so that the agent's unnamed statement and portal live on, and
//! only when nothing else is under way. Between pipelines each ends with its own Sync; inside of one with Flush, since a
//! Sync would commit what the agent has begun: there a failure fails the agent's pipeline, as any would.

use super::super::codec::{Backend, Side, write};
use super::{Expect, Fault, Machine, Outbox};

/// Rows of an answer; `None` is NULL.
pub(in super::super) type Rows = Vec<Vec<Option<String>>>;

/// The statement and the portal of our own.
const NAME: &[u8] = b"interceptor_hidden";

/// Rows of one answer, at most; more end the session.
const ROWS_LIMIT: usize = 500_000;

/// Bytes of one answer, at most; more end the session.
const BYTES_LIMIT: usize = 64 << 20;

/// A question that is under way.
#[derive(Debug)]
pub(super) struct Hidden {
    synced: bool,
    closes: u8,
    rows: Rows,
    bytes: usize,
    failed: Option<String>,
}

/// What an answer's message means for the question.
pub(super) enum Progress {
    /// There is more to come.
    More,
    /// It is answered: rows, or the target's refusal.
    Answered(Result<Rows, String>),
    /// It failed inside the agent's pipeline, and that with it.
    Broke,
}

impl Machine {
    /// Asks the target something, when it is quiet and the agent is not in a failed transaction. The answer comes out of
    /// [`Machine::take_hidden`].
    pub(in super::super) fn hide(&mut self, sql: &str, outbox: &mut Outbox) {
        let synced = !self.open;
        outbox.hide(|out| {
            write::parse(out, NAME, sql.as_bytes());
            write::bind(out, NAME, NAME);
            write::execute(out, NAME, 0);
            write::close(out, Side::Portal, NAME);
            write::close(out, Side::Statement, NAME);
            write::bare(out, if synced { b'S' } else { b'H' });
        });
        self.hidden = None;
        self.expect.push_back(Expect::Hidden(Hidden { synced, closes: 0, rows: Vec::new(), bytes: 0, failed: None }));
    }

    /// The answer to the last question, once it is there.
    pub(in super::super) fn take_hidden(&mut self) -> Option<Result<Rows, String>> {
        self.hidden.take()
    }
}

impl Hidden {
    /// Takes a message of the answer.
    pub(super) fn take(&mut self, message: &Backend<'_>) -> Result<Progress, Fault> {
        match message {
            Backend::ParseComplete | Backend::BindComplete | Backend::CommandComplete(_) => {}
            Backend::DataRow(values) => {
                let row: Vec<_> = values.map(|value| value.map(|text| String::from_utf8_lossy(text).into())).collect();
                self.bytes += row.iter().flatten().map(String::len).sum::<usize>() + size_of_val(&*row);
                self.rows.push(row);
                if self.rows.len() > ROWS_LIMIT || self.bytes > BYTES_LIMIT {
                    return Err(Fault::Upstream("it answers interceptor's question with more than can be held".into()));
                }
            }
            Backend::CloseComplete => {
                self.closes += 1;
                if self.closes == 2 && !self.synced {
                    return Ok(Progress::Answered(Ok(std::mem::take(&mut self.rows))));
                }
            }
            Backend::ErrorResponse(notice) => {
                if !self.synced {
                    return Ok(Progress::Broke);
                }
                let text = notice.field(b'M').unwrap_or(b"it does not say why");
                self.failed = Some(String::from_utf8_lossy(text).into_owned());
            }
            Backend::ReadyForQuery(_) if self.synced => {
                let rows = std::mem::take(&mut self.rows);
                return Ok(Progress::Answered(self.failed.take().map_or(Ok(rows), Err)));
            }
            _ => return Err(Fault::Upstream("a message that has no place in the answer to a question".into())),
        }
        Ok(Progress::More)
    }
}
