//! interceptor's own questions to a target: one simple query, its rows as text, within bounds.
//!
//! For catalog look-ups and EXPLAIN. Does not promise to keep what a target sends on its own accord (notices,
//! notifications, changed parameters): on a connection that the agent shares, ask before the agent is told that it is
//! ready, or lose those.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::failure::Complaint;
use super::reader::{ReadError, Reader};
use super::{LoggedIn, LoginError};
use crate::policy::Parameter;
use crate::tls::Stream;

/// One row; `None` is NULL.
pub(crate) type Row = Vec<Option<String>>;

/// How much an answer may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Rows.
    pub(crate) rows: usize,
    /// Bytes of the whole answer, which is also the largest message.
    pub(crate) bytes: usize,
    /// From the question to ReadyForQuery.
    pub(crate) within: Duration,
}

impl Default for Bounds {
    /// 100,000 rows, 32 MiB, 30 s.
    fn default() -> Self {
        Self { rows: 100_000, bytes: 32 << 20, within: Duration::from_secs(30) }
    }
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    /// The target said no. The connection is in sync, and can be used further.
    #[error("the target refused interceptor's query: {0}")]
    Refused(Complaint),
    /// The connection is not usable any more.
    #[error("interceptor's query failed: {0}")]
    Broken(String),
}

impl QueryError {
    fn late(bounds: &Bounds) -> Self {
        Self::Broken(format!("there was no answer within {} s", bounds.within.as_secs_f32()))
    }
}

/// Asks `sql` (one or more statements that return rows or nothing) on a leg that is ready for a query; `leftover` holds
/// what was read from it before, and after.
///
/// # Errors
/// [`QueryError`] says whether the leg is still usable.
pub(crate) async fn query(
    stream: &mut Stream,
    leftover: &mut BytesMut,
    sql: &str,
    bounds: &Bounds,
) -> Result<Vec<Row>, QueryError> {
    let mut rows = Vec::new();
    query_each(stream, leftover, sql, bounds, &mut |row| {
        rows.push(row.iter().map(|cell| cell.map(str::to_owned)).collect());
        Ok(())
    })
    .await?;
    Ok(rows)
}

/// What takes each row of an answer as it comes; its refusal, in words, ends the connection.
pub(crate) type Take<'a> = dyn FnMut(&[Option<&str>]) -> Result<(), String> + Send + 'a;

/// As [`query`], without keeping the rows.
///
/// # Errors
/// [`QueryError`] says whether the leg is still usable.
pub(crate) async fn query_each(
    stream: &mut Stream,
    leftover: &mut BytesMut,
    sql: &str,
    bounds: &Bounds,
    take: &mut Take<'_>,
) -> Result<(), QueryError> {
    let mut request = BytesMut::new();
    frontend::query(sql, &mut request).map_err(|_nul| QueryError::Broken("the query holds a NUL".into()))?;
    let asked = converse(stream, leftover, &request, bounds, take);
    timeout(bounds.within, asked).await.unwrap_or_else(|_elapsed| Err(QueryError::late(bounds)))
}

/// Asks one statement with bind values, by the extended protocol; else as [`query`].
///
/// # Errors
/// [`QueryError`] says whether the leg is still usable.
pub(crate) async fn query_with(
    leg: &mut LoggedIn,
    sql: &str,
    parameters: &[Parameter],
    bounds: &Bounds,
) -> Result<Vec<Row>, QueryError> {
    let request = bound(sql, parameters)?;
    let mut rows = Vec::new();
    let mut take = |row: &[Option<&str>]| {
        rows.push(row.iter().map(|cell| cell.map(str::to_owned)).collect());
        Ok(())
    };
    let asked = converse(&mut leg.stream, &mut leg.leftover, &request, bounds, &mut take);
    timeout(bounds.within, asked).await.unwrap_or_else(|_elapsed| Err(QueryError::late(bounds)))?;
    Ok(rows)
}

fn bound(sql: &str, parameters: &[Parameter]) -> Result<BytesMut, QueryError> {
    let mut request = BytesMut::new();
    let types = parameters.iter().map(|parameter| parameter.type_oid);
    let formats = parameters.iter().map(|parameter| i16::from(parameter.binary));
    frontend::parse("", sql, types, &mut request).map_err(broken)?;
    let put = |parameter: &Parameter, out: &mut BytesMut| {
        Ok(match &parameter.value {
            Some(value) => {
                out.extend_from_slice(value);
                IsNull::No
            }
            None => IsNull::Yes,
        })
    };
    let text_results = std::iter::once(0);
    frontend::bind("", "", formats, parameters, put, text_results, &mut request)
        .map_err(|_bind| QueryError::Broken("the values cannot be bound".into()))?;
    frontend::execute("", 0, &mut request).map_err(broken)?;
    frontend::sync(&mut request);
    Ok(request)
}

impl LoggedIn {
    /// [`query`] on this leg.
    pub(crate) async fn query(&mut self, sql: &str, bounds: &Bounds) -> Result<Vec<Row>, QueryError> {
        query(&mut self.stream, &mut self.leftover, sql, bounds).await
    }

    /// [`query_each`] on this leg.
    pub(crate) async fn query_each(
        &mut self,
        sql: &str,
        bounds: &Bounds,
        take: &mut Take<'_>,
    ) -> Result<(), QueryError> {
        query_each(&mut self.stream, &mut self.leftover, sql, bounds, take).await
    }
}

async fn converse(
    stream: &mut Stream,
    leftover: &mut BytesMut,
    request: &[u8],
    bounds: &Bounds,
    take: &mut Take<'_>,
) -> Result<(), QueryError> {
    stream.write_all(request).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut reader = Reader::new(stream, leftover, bounds.bytes, bounds.bytes);
    let (mut rows, mut refused) = (0, None);
    loop {
        match reader.message().await.map_err(|error: ReadError| broken(LoginError::from(error)))? {
            Message::DataRow(_) if rows == bounds.rows => {
                return Err(QueryError::Broken(format!("the answer has more than {} rows", bounds.rows)));
            }
            Message::DataRow(body) => {
                rows += 1;
                take(&row(&body)?).map_err(QueryError::Broken)?;
            }
            Message::ErrorResponse(body) => refused = Some(Complaint::read(&body)),
            Message::RowDescription(_)
            | Message::ParseComplete
            | Message::BindComplete
            | Message::CommandComplete(_)
            | Message::EmptyQueryResponse
            | Message::NoticeResponse(_)
            | Message::NotificationResponse(_)
            | Message::ParameterStatus(_) => {}
            Message::ReadyForQuery(_) => return refused.map_or(Ok(()), |why| Err(QueryError::Refused(why))),
            _ => return Err(QueryError::Broken("the target sent a message that has no place in an answer".into())),
        }
    }
}

fn row(body: &DataRowBody) -> Result<Vec<Option<&str>>, QueryError> {
    let storage: &Bytes = body.buffer_bytes();
    let mut ranges = body.ranges();
    let mut values = Vec::with_capacity(ranges.size_hint().0);
    while let Some(range) = ranges.next().map_err(broken)? {
        values.push(match range {
            None => None,
            Some(range) => {
                let bytes =
                    storage.get(range).ok_or_else(|| QueryError::Broken("a value lies outside its row".into()))?;
                let text = std::str::from_utf8(bytes);
                Some(text.map_err(|_| QueryError::Broken("a value is not UTF-8: set client_encoding".into()))?)
            }
        });
    }
    Ok(values)
}

fn broken(error: impl std::fmt::Display) -> QueryError {
    QueryError::Broken(error.to_string())
}
