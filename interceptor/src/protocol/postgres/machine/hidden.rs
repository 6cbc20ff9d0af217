//! Questions of our own on the agent's connection, of which the agent sees nothing.
//!
//! They go by the extended protocol under names of our own, so that the agent's unnamed statement and portal live on, and
//! only when nothing else is under way. Between pipelines each ends with its own Sync; inside of one with Flush, since a
//! Sync would commit what the agent has begun: there a failure fails the agent's pipeline, as any would.
//!
//! What the agent has set holds for them, too. Where the planner is forbidden its usual means, a plan seems so dear that
//! the target compiles it, which takes half a second; so, outside of the agent's transactions, a question is asked under
//! `jit = off`, which its own Sync undoes.

use bytes::BytesMut;

use super::super::codec::{Backend, Side, write};
use super::{Expect, Fault, Machine, Outbox};

/// Rows of an answer; `None` is NULL.
pub(in super::super) type Rows = Vec<Vec<Option<String>>>;

/// The statement and the portal of our own.
const NAME: &[u8] = b"interceptor_hidden";

/// Goes before a question that is a transaction of its own, and ends with it.
const UNCOMPILED: &[u8] = b"SELECT pg_catalog.set_config('jit', 'off', true)";

/// Answers to Close that end a question without a Sync of its own: two before it, two after it.
const CLOSES: u8 = 4;

/// Rows of one answer, at most; more end the session.
const ROWS_LIMIT: usize = 500_000;

/// Bytes of one answer, at most; more end the session.
const BYTES_LIMIT: usize = 64 << 20;

/// A question that is under way.
#[derive(Debug)]
pub(super) struct Hidden {
    synced: bool,
    /// The answer to [`UNCOMPILED`] is still to come.
    setting: bool,
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
        // Within the agent's transaction the setting would last to the end of that.
        let setting = synced && !self.in_block();
        outbox.hide(|out| {
            // What an earlier one that failed has left: the target took no message after its error, and so closed nothing.
            put_closes(out);
            if setting {
                put_statement(out, UNCOMPILED);
            }
            put_statement(out, sql.as_bytes());
            write::bare(out, if synced { b'S' } else { b'H' });
        });
        self.hidden = None;
        let hidden = Hidden { synced, setting, closes: 0, rows: Vec::new(), bytes: 0, failed: None };
        self.expect.push_back(Expect::Hidden(hidden));
    }

    /// The answer to the last question, once it is there.
    pub(in super::super) fn take_hidden(&mut self) -> Option<Result<Rows, String>> {
        self.hidden.take()
    }
}

/// Runs a statement and leaves nothing of it behind.
fn put_statement(out: &mut BytesMut, sql: &[u8]) {
    write::parse(out, NAME, sql);
    write::bind(out, NAME, NAME);
    write::execute(out, NAME, 0);
    put_closes(out);
}

fn put_closes(out: &mut BytesMut) {
    write::close(out, Side::Portal, NAME);
    write::close(out, Side::Statement, NAME);
}

impl Hidden {
    /// Takes a message of the answer.
    pub(super) fn take(&mut self, message: &Backend<'_>) -> Result<Progress, Fault> {
        match message {
            Backend::ParseComplete | Backend::BindComplete => {}
            Backend::CommandComplete(_) => {
                if std::mem::take(&mut self.setting) {
                    self.rows.clear();
                }
            }
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
                if self.closes == CLOSES && !self.synced {
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
