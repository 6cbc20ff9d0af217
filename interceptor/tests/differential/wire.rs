//! A client of the plainest kind: one connection over a Unix socket, the simple query protocol, nothing interpreted.
//!
//! Blocking, and trusted by the server. What goes in as text goes out as it is; COPY is answered from what was given.

use std::collections::HashMap;
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A row, as text.
pub(crate) type Row = Vec<Option<String>>;

/// A connection.
pub(crate) struct Session {
    stream: BufReader<UnixStream>,
    /// Transaction status of the last answer: `I`, `T` or `E`.
    pub(crate) status: char,
    parameters: HashMap<String, String>,
}

/// What came back for one text.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Names of the columns of the last result.
    pub(crate) columns: Vec<String>,
    /// Its rows.
    pub(crate) rows: Vec<Row>,
    /// SQLSTATE and message, where it failed.
    pub(crate) error: Option<(String, String)>,
}

impl Session {
    /// Connects to the server whose socket lies in that folder.
    pub(crate) fn open(folder: &Path, port: u16, database: &str, settings: &[(&str, &str)]) -> io::Result<Self> {
        let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}")))?;
        let mut session = Self { stream: BufReader::new(stream), status: 'I', parameters: HashMap::new() };
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        let named = [("user", "postgres"), ("database", database)];
        for (name, value) in named.iter().chain(settings) {
            for part in [name, value] {
                body.extend_from_slice(part.as_bytes());
                body.push(0);
            }
        }
        body.push(0);
        session.send(None, &body)?;
        match session.answer(&mut Vec::new)?.error {
            None => Ok(session),
            Some((state, message)) => Err(io::Error::other(format!("{state}: {message}"))),
        }
    }

    /// Whether a backslash in a plain string is a backslash.
    pub(crate) fn plain_strings(&self) -> bool {
        self.parameters.get("standard_conforming_strings").is_none_or(|value| value == "on")
    }

    /// Runs a text. `data` is asked for what a COPY from the client is given.
    pub(crate) fn run(&mut self, text: &str, data: &mut dyn FnMut() -> Vec<u8>) -> io::Result<Answer> {
        let mut body = text.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)?;
        self.answer(data)
    }

    /// Runs a text after another one that must succeed, both sent at once.
    pub(crate) fn run_after(
        &mut self,
        first: &str,
        text: &str,
        data: &mut dyn FnMut() -> Vec<u8>,
    ) -> io::Result<Answer> {
        for text in [first, text] {
            let mut body = text.as_bytes().to_vec();
            body.push(0);
            self.send(Some(b'Q'), &body)?;
        }
        match self.answer(&mut Vec::new)?.error {
            None => self.answer(data),
            Some((state, message)) => Err(io::Error::other(format!("{state}: {message}: {first}"))),
        }
    }

    /// Rows of a query that must succeed.
    pub(crate) fn rows(&mut self, text: &str) -> io::Result<Vec<Row>> {
        let answer = self.run(text, &mut Vec::new)?;
        match answer.error {
            None => Ok(answer.rows),
            Some((state, message)) => Err(io::Error::other(format!("{state}: {message}: {text}"))),
        }
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(body.len() + 5);
        out.extend(kind);
        out.extend(u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(body);
        self.stream.get_mut().write_all(&out)
    }

    fn answer(&mut self, data: &mut dyn FnMut() -> Vec<u8>) -> io::Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut body = vec![0; usize::try_from(length.saturating_sub(4)).unwrap_or(0)];
            self.stream.read_exact(&mut body)?;
            let mut body = Body(&body);
            match head[0] {
                b'R' if body.number() != 0 => return Err(io::Error::other("the server wants a password")),
                b'S' => drop(self.parameters.insert(body.text(), body.text())),
                b'T' => {
                    let count = body.short();
                    answer.rows.clear();
                    answer.columns = (0..count).map(|_| body.field()).collect();
                }
                b'D' => {
                    let count = body.short();
                    answer.rows.push((0..count).map(|_| body.cell()).collect());
                }
                b'E' => answer.error = Some(body.error()),
                b'G' => {
                    self.send(Some(b'd'), &data())?;
                    self.send(Some(b'c'), &[])?;
                }
                b'Z' => {
                    self.status = char::from(body.0.first().copied().unwrap_or(b'I'));
                    return Ok(answer);
                }
                _ => {}
            }
        }
    }
}

/// The rest of a message. The server is trusted to write whole ones.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self) -> u32 {
        self.take(4).iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
    }

    fn short(&mut self) -> u32 {
        self.take(2).iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
    }

    fn text(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let text = String::from_utf8_lossy(self.take(end)).into_owned();
        self.take(1);
        text
    }

    fn field(&mut self) -> String {
        let name = self.text();
        self.take(18);
        name
    }

    fn cell(&mut self) -> Option<String> {
        let length = self.number();
        (length != u32::MAX)
            .then(|| String::from_utf8_lossy(self.take(usize::try_from(length).unwrap_or(usize::MAX))).into_owned())
    }

    fn error(&mut self) -> (String, String) {
        let (mut state, mut message) = (String::new(), String::new());
        while let Some(&kind) = self.take(1).first() {
            match kind {
                0 => break,
                b'C' => state = self.text(),
                b'M' => message = self.text(),
                _ => drop(self.text()),
            }
        }
        (state, message)
    }
}
