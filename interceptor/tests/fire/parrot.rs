//! A target for more sessions than a server takes: it lets everybody in, and answers what it is asked with what the real
//! server has said to the same question. Connections of interceptor's own go to that server itself.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use interceptor::protocol::postgres::codec::{ProtocolVersion, backend_limit, frame, frontend_limit, startup, write};
use interceptor::testing::stage::{DATABASE, Stage, UPSTREAM_USER};
use interceptor::testing::world::{FAR4, Place};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

/// Where it listens, on the far side.
pub(super) const PORT: u16 = 6432;

/// Answers by question.
type Known = Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>;

/// It. Dropping it closes everything.
pub(super) struct Parrot {
    _runtime: Runtime,
}

impl Parrot {
    /// Lands on the far side of the stage.
    pub(super) fn new(stage: &Stage) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = stage.world.listen(Place::Far, (FAR4, PORT).into()).unwrap();
        let server = stage.server.socket_dir().join(format!(".s.PGSQL.{}", stage.server.port()));
        runtime.spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            let known = Known::default();
            while let Ok((stream, _)) = listener.accept().await {
                let (known, server) = (Arc::clone(&known), server.clone());
                tokio::spawn(async move { serve(stream, known, server).await });
            }
        });
        Self { _runtime: runtime }
    }
}

async fn serve(mut stream: TcpStream, known: Known, server: PathBuf) -> io::Result<()> {
    let mut input = BytesMut::with_capacity(512);
    let length = loop {
        if let Some((_, length)) = startup(&input).map_err(io::Error::other)? {
            break length;
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    };
    if input.windows(11).any(|word| word == b"interceptor") {
        let mut real = UnixStream::connect(&server).await?;
        real.write_all(&input).await?;
        copy_bidirectional(&mut stream, &mut real).await?;
        return Ok(());
    }
    input.advance(length);
    stream.write_all(&welcome()).await?;
    loop {
        while let Ok(Some(found)) = frame(&input, frontend_limit) {
            if found.tag == b'X' {
                return Ok(());
            }
            let question = found.raw.to_vec();
            input.advance(question.len());
            let answer = answer(&known, &server, &question).await?;
            stream.write_all(&answer).await?;
        }
        // A session that waits holds no buffer, here either.
        if input.is_empty() {
            input = BytesMut::new();
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

fn welcome() -> Vec<u8> {
    let mut out = BytesMut::new();
    write::authentication(&mut out, 0);
    for (name, value) in
        [("server_version", "15.0"), ("client_encoding", "UTF8"), ("standard_conforming_strings", "on")]
    {
        write::parameter_status(&mut out, name.as_bytes(), value.as_bytes());
    }
    write::backend_key(&mut out, 1, &[0, 0, 0, 1]);
    write::ready(&mut out, b'I');
    out.to_vec()
}

/// What the real server says to a query, asked once.
async fn answer(known: &Known, server: &Path, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut known = known.lock().await;
    if let Some(answer) = known.get(question) {
        return Ok(answer.clone());
    }
    let mut real = UnixStream::connect(server).await?;
    let mut packet = BytesMut::new();
    let parameters = [(&b"user"[..], UPSTREAM_USER.as_bytes()), (b"database", DATABASE.as_bytes())];
    write::startup(&mut packet, ProtocolVersion::V3_0, parameters);
    real.write_all(&packet).await?;
    until_ready(&mut real).await?;
    real.write_all(question).await?;
    let answer = until_ready(&mut real).await?;
    known.insert(question.to_vec(), answer.clone());
    Ok(answer)
}

async fn until_ready(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let (mut heard, mut seen) = (BytesMut::new(), 0);
    loop {
        while let Ok(Some(found)) = frame(&heard[seen..], backend_limit) {
            let last = found.tag == b'Z';
            seen += found.raw.len();
            if last {
                return Ok(heard[..seen].to_vec());
            }
        }
        if stream.read_buf(&mut heard).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
