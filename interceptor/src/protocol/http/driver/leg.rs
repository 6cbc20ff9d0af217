//! One leg of HTTP/1.1: bytes in, heads and pieces of bodies out. Both directions are bounded in time and memory.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::FAREWELL_TIMEOUT;
use crate::protocol::http::codec::{Chunked, HEAD_LIMIT, Length, Malformed, Piece};
use crate::tls;

/// The most that is read at once of a body, in bytes, and that a piece of one has.
const READ_SIZE: usize = 64 * 1024;
/// The most that is read at once of a head, in bytes. Between two messages no more room is kept than for a few.
const HEAD_READ: usize = 4 * 1024;
/// What is written goes out together up to here, in bytes.
const QUEUE_SIZE: usize = 16 * 1024;

/// What went wrong with a leg.
#[derive(Debug, thiserror::Error)]
pub(in crate::protocol) enum LegError {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("it closed within a message")]
    Closed,
    #[error("nothing moved for {0:?}")]
    Stalled(Duration),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{}", worded(.0))]
    Two(#[from] h2::Error),
}

/// What went wrong with HTTP/2, without what the peer may have said with it: that is any bytes.
pub(super) fn worded(error: &h2::Error) -> String {
    match (error.reason(), error.get_io()) {
        (Some(reason), _) => format!("it ended HTTP/2: {}", reason.description()),
        (None, Some(io)) => format!("its connection broke: {}", io.kind()),
        (None, None) => "it broke HTTP/2".to_owned(),
    }
}

/// What is left of a body.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left {
    Known(u64),
    Chunked(Chunked),
    UntilClose,
    Nothing,
}

impl From<Length> for Left {
    fn from(length: Length) -> Self {
        match length {
            Length::Known(0) => Self::Nothing,
            Length::Known(length) => Self::Known(length),
            Length::Chunked => Self::Chunked(Chunked::default()),
            Length::UntilClose => Self::UntilClose,
        }
    }
}

/// One leg: its two directions can be busy at once.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
}

/// What comes.
#[derive(Debug)]
pub(in crate::protocol) struct Reader {
    stream: ReadHalf<tls::Stream>,
    input: BytesMut,
    /// How long it may take to move a byte.
    stalled: Duration,
}

/// What goes.
#[derive(Debug)]
pub(in crate::protocol) struct Writer {
    stream: WriteHalf<tls::Stream>,
    queue: Vec<u8>,
    stalled: Duration,
}

impl Leg {
    /// `input` was read already.
    pub(super) fn new(stream: tls::Stream, input: BytesMut, stalled: Duration) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader: Reader { stream: reader, input, stalled },
            writer: Writer { stream: writer, queue: Vec::new(), stalled },
        }
    }
}

impl Reader {
    /// Whether nothing waits to be read that was received already.
    pub(in crate::protocol) fn is_empty(&self) -> bool {
        self.input.is_empty()
    }

    /// The next head; `None` where it closed between two messages. Waits as long as the caller lets it.
    pub(super) async fn head<T>(
        &mut self,
        read: impl Fn(&[u8]) -> Result<Option<(T, usize)>, Malformed>,
    ) -> Result<Option<T>, LegError> {
        if self.input.is_empty() && self.input.capacity() > 4 * HEAD_READ {
            self.input = BytesMut::new();
        }
        loop {
            if let Some((head, length)) = read(&self.input)? {
                self.input.advance(length);
                return Ok(Some(head));
            }
            // Only the end of a line can end a head: whoever sends byte by byte does not have it read each time.
            loop {
                let seen = self.input.len();
                if self.read(HEAD_READ).await? == 0 {
                    return if self.input.is_empty() { Ok(None) } else { Err(LegError::Closed) };
                }
                if self.input.len() >= HEAD_LIMIT || self.input.iter().skip(seen).any(|byte| *byte == b'\n') {
                    break;
                }
            }
        }
    }

    /// The next piece of a body; `None` where it has ended. Nothing is lost where this is dropped while it waits.
    pub(super) async fn piece(&mut self, left: &mut Left) -> Result<Option<Bytes>, LegError> {
        loop {
            match left {
                Left::Nothing => return Ok(None),
                Left::Known(more) => {
                    if self.more(*more).await? == 0 {
                        return Err(LegError::Closed);
                    }
                    let here = usize::try_from(*more).unwrap_or(usize::MAX).min(self.input.len());
                    *more -= here as u64;
                    if *more == 0 {
                        *left = Left::Nothing;
                    }
                    return Ok(Some(self.input.split_to(here).freeze()));
                }
                Left::Chunked(reader) => match reader.next(&self.input)? {
                    Piece::Data(count) => return Ok(Some(self.input.split_to(count).freeze())),
                    Piece::Skip(count) => self.input.advance(count),
                    Piece::End => *left = Left::Nothing,
                    Piece::More => {
                        if timeout(self.stalled, self.fill()).await.map_err(|_| LegError::Stalled(self.stalled))?? == 0
                        {
                            return Err(LegError::Closed);
                        }
                    }
                },
                Left::UntilClose => {
                    if self.more(u64::MAX).await? == 0 {
                        *left = Left::Nothing;
                        return Ok(None);
                    }
                    return Ok(Some(self.input.split().freeze()));
                }
            }
        }
    }

    /// Resolves when the peer has closed, or broken; reads ahead as far as a head may go meanwhile.
    pub(in crate::protocol) async fn gone(&mut self) {
        while self.input.len() < HEAD_LIMIT {
            if !matches!(self.read(HEAD_READ).await, Ok(1..)) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// What is there to be read, of so much that is expected, after waiting for it where there was nothing.
    async fn more(&mut self, expected: u64) -> Result<usize, LegError> {
        if self.input.is_empty() {
            let most = usize::try_from(expected).unwrap_or(READ_SIZE).clamp(HEAD_READ, READ_SIZE);
            timeout(self.stalled, self.read(most)).await.map_err(|_| LegError::Stalled(self.stalled))??;
        }
        Ok(self.input.len())
    }

    /// What was received and not read.
    pub(in crate::protocol) const fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Receives more; nothing where it closed. Waits as long as it takes.
    pub(in crate::protocol) async fn fill(&mut self) -> Result<usize, LegError> {
        self.read(READ_SIZE).await
    }

    async fn read(&mut self, most: usize) -> Result<usize, LegError> {
        self.input.reserve(most);
        Ok(self.stream.read_buf(&mut self.input).await?)
    }
}

impl Writer {
    /// Puts bytes behind those that wait. What is long goes out at once.
    pub(in crate::protocol) async fn put(&mut self, bytes: &[u8]) -> Result<(), LegError> {
        if self.queue.len() + bytes.len() <= QUEUE_SIZE {
            self.queue.extend_from_slice(bytes);
            return Ok(());
        }
        self.drain().await?;
        self.write(bytes).await
    }

    /// Where a head is written to, behind what waits.
    pub(super) const fn head(&mut self) -> &mut Vec<u8> {
        &mut self.queue
    }

    /// Sends all that waits.
    pub(in crate::protocol) async fn flush(&mut self) -> Result<(), LegError> {
        self.drain().await?;
        timeout(self.stalled, self.stream.flush()).await.map_err(|_| LegError::Stalled(self.stalled))??;
        Ok(())
    }

    /// A piece of a body, in a chunk of its own where it goes in chunks. An empty chunk would be the last.
    pub(super) async fn piece(&mut self, piece: &[u8], chunked: bool) -> Result<(), LegError> {
        if piece.is_empty() {
            return Ok(());
        }
        if chunked {
            self.put(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        }
        self.put(piece).await?;
        if chunked {
            self.put(b"\r\n").await?;
        }
        Ok(())
    }

    pub(super) async fn shut(&mut self) {
        let _best_effort = timeout(FAREWELL_TIMEOUT, self.stream.shutdown()).await;
    }

    async fn drain(&mut self) -> Result<(), LegError> {
        let mut queue = std::mem::take(&mut self.queue);
        let written = self.write(&queue).await;
        queue.clear();
        self.queue = queue;
        written
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), LegError> {
        let stalled = self.stalled;
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = timeout(stalled, self.stream.write(rest)).await.map_err(|_| LegError::Stalled(stalled))??;
            if written == 0 {
                return Err(LegError::Closed);
            }
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}
