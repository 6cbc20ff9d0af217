//! A wire that misbehaves: a proxy between a client and a server of PostgreSQL that knows where messages begin, and does one
//! thing wrong at one of them. Deterministic: the same [`Plan`] does the same to the same conversation.
//!
//! The plan is for the first connection of a session; connections of interceptor's own, and cancel requests, pass as they
//! are. What reached the server's side is kept. Does not speak TLS.
#![expect(clippy::indexing_slicing, reason = "a fixture fails by panicking")]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Which way the bytes go that something is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    Up,
    /// From the server.
    Down,
}

/// What is done wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Nothing,
    /// From there on one byte at a time.
    Bytewise,
    /// From there on pieces of random lengths.
    Chunks,
    /// A pause before the message.
    Delay(Duration),
    /// Nothing more comes that way for so long, then both connections are closed.
    Stall(Duration),
    /// The receiver hears that the sender has closed; the other way goes on.
    HalfClose,
    /// Both connections are reset.
    Reset,
    /// Both connections are closed.
    Cut,
    /// One bit of the message is another, at a place that the seed says.
    Flip,
    /// The message says that it is of this length.
    Length(u32),
    /// It comes twice.
    Twice,
    /// It does not come.
    Lost,
    /// It comes after the next one.
    Late,
    /// These bytes come before it.
    Before(Vec<u8>),
}

impl Fault {
    /// Whether nothing but time passes differently: then the conversation has to be what it is without.
    #[must_use]
    pub const fn is_harmless(&self) -> bool {
        matches!(self, Self::Nothing | Self::Bytewise | Self::Chunks | Self::Delay(_))
    }
}

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In which direction.
    pub way: Way,
    /// At which message of it, the start-up packet included.
    pub at: usize,
    /// After how many bytes of the message, where the fault can be within one.
    pub within: usize,
    /// What.
    pub fault: Fault,
    /// For what is random in it.
    pub seed: u64,
}

impl Plan {
    /// Nothing goes wrong.
    #[must_use]
    pub const fn peaceful() -> Self {
        Self { way: Way::Up, at: usize::MAX, within: 0, fault: Fault::Nothing, seed: 0 }
    }
}

/// The proxy. Dropping it cuts every connection through it.
#[derive(Debug)]
pub struct Wire {
    /// Where it listens.
    pub address: SocketAddr,
    passed: Arc<Mutex<Passed>>,
    _connections: JoinSet<()>,
}

/// What has passed, message by message, on connections to which the plan applies.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    /// As it reached the server.
    pub up: Vec<Vec<u8>>,
    /// As it reached the client.
    pub down: Vec<Vec<u8>>,
}

impl Wire {
    /// Listens on loopback, and leads to the server.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn new(server: SocketAddr, plan: Plan) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let passed = Arc::new(Mutex::new(Passed::default()));
        let mut accepting = JoinSet::new();
        let keep = Arc::clone(&passed);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, server, plan.clone(), Arc::clone(&keep)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, passed, _connections: accepting })
    }

    /// What has passed so far.
    #[must_use]
    pub fn passed(&self) -> Passed {
        self.passed.lock().clone()
    }
}

async fn carry(client: TcpStream, server: SocketAddr, plan: Plan, passed: Arc<Mutex<Passed>>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _undelayed = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut first = BytesMut::new();
    while length(&first, true).is_none_or(|length| first.len() < length) {
        if !matches!(from_client.read_buf(&mut first).await, Ok(1..)) {
            break;
        }
    }
    let own = first.windows(11).any(|word| word == b"interceptor") || first.get(4..6) == Some(&[0x04, 0xd2]);
    let plan = if own { Plan::peaceful() } else { plan };
    let keep = (!own).then_some(&*passed);
    let up = Lane { way: Way::Up, from: from_client, to: to_server, first, plan: &plan, passed: keep };
    let down =
        Lane { way: Way::Down, from: from_server, to: to_client, first: BytesMut::new(), plan: &plan, passed: keep };
    let (mut up, mut down) = (Box::pin(up.run()), Box::pin(down.run()));
    // A lane that ends well closes what it writes to; the other goes on.
    let mut ended = [false, false];
    while ended != [true, true] {
        let (which, end) = tokio::select! {
            end = &mut up, if !ended[0] => (0, end),
            end = &mut down, if !ended[1] => (1, end),
        };
        ended[which] = true;
        if end.is_err() {
            return;
        }
    }
}

/// Both connections end.
struct Broken;

struct Lane<'a> {
    way: Way,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    first: BytesMut,
    plan: &'a Plan,
    passed: Option<&'a Mutex<Passed>>,
}

impl Lane<'_> {
    async fn run(mut self) -> Result<(), Broken> {
        let mut buffer = std::mem::take(&mut self.first);
        let mut random = Random(self.plan.seed | 1);
        let (mut index, mut pieces, mut late) = (0, Pieces::Whole, None);
        loop {
            let untagged = self.way == Way::Up && index == 0;
            while let Some(length) = length(&buffer, untagged && index == 0).filter(|length| buffer.len() >= *length) {
                let message = buffer.split_to(length).to_vec();
                let chosen = self.plan.way == self.way && self.plan.at == index;
                index += 1;
                if chosen {
                    self.strike(message, &mut pieces, &mut late, &mut random).await?;
                } else {
                    self.send(&message, pieces, &mut random).await?;
                    if let Some(message) = late.take() {
                        self.send(&message, pieces, &mut random).await?;
                    }
                }
            }
            match self.from.read_buf(&mut buffer).await {
                Ok(1..) => {}
                Ok(0) => break,
                Err(_) => return Err(Broken),
            }
        }
        // What is no whole message passes, too.
        self.send(&buffer, pieces, &mut random).await?;
        self.to.shutdown().await.map_err(|_| Broken)
    }

    /// Does to this message what was planned.
    async fn strike(
        &mut self,
        mut message: Vec<u8>,
        pieces: &mut Pieces,
        late: &mut Option<Vec<u8>>,
        random: &mut Random,
    ) -> Result<(), Broken> {
        let within = self.plan.within.min(message.len());
        match &self.plan.fault {
            Fault::Nothing => {}
            Fault::Bytewise => *pieces = Pieces::Bytes,
            Fault::Chunks => *pieces = Pieces::Random,
            Fault::Delay(pause) => tokio::time::sleep(*pause).await,
            Fault::Stall(pause) => {
                self.send(&message[..within], *pieces, random).await?;
                tokio::time::sleep(*pause).await;
                return Err(Broken);
            }
            Fault::HalfClose => {
                self.send(&message[..within], *pieces, random).await?;
                self.to.shutdown().await.map_err(|_| Broken)?;
                // Whatever else comes that way is lost.
                let mut lost = [0; 4096];
                while matches!(self.from.read(&mut lost).await, Ok(1..)) {}
                return Ok(());
            }
            Fault::Reset => {
                self.send(&message[..within], *pieces, random).await?;
                let sockets = (self.to.as_ref(), self.from.as_ref());
                let _reset = (sockets.0.set_zero_linger(), sockets.1.set_zero_linger());
                return Err(Broken);
            }
            Fault::Cut => {
                self.send(&message[..within], *pieces, random).await?;
                return Err(Broken);
            }
            Fault::Flip => {
                let place = usize::try_from(random.next()).unwrap_or(0) % message.len();
                message[place] ^= 1 << (random.next() % 8);
            }
            Fault::Length(length) => {
                let start = usize::from(!(self.way == Way::Up && self.plan.at == 0));
                message[start..start + 4].copy_from_slice(&length.to_be_bytes());
            }
            Fault::Twice => self.send(&message.clone(), *pieces, random).await?,
            Fault::Lost => return Ok(()),
            Fault::Late => {
                *late = Some(message);
                return Ok(());
            }
            Fault::Before(bytes) => self.send(bytes, *pieces, random).await?,
        }
        self.send(&message, *pieces, random).await
    }

    async fn send(&mut self, mut bytes: &[u8], pieces: Pieces, random: &mut Random) -> Result<(), Broken> {
        if let Some(passed) = self.passed.filter(|_| !bytes.is_empty()) {
            let mut passed = passed.lock();
            let list = if self.way == Way::Up { &mut passed.up } else { &mut passed.down };
            list.push(bytes.to_vec());
        }
        while !bytes.is_empty() {
            let piece = match pieces {
                Pieces::Whole => bytes.len(),
                Pieces::Bytes => 1,
                Pieces::Random => usize::try_from(random.next() % 23).unwrap_or(0) + 1,
            };
            let piece = piece.min(bytes.len());
            self.to.write_all(&bytes[..piece]).await.map_err(|_| Broken)?;
            bytes.advance(piece);
            if piece < bytes.len() {
                // So that it goes out by itself.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Pieces {
    Whole,
    Bytes,
    Random,
}

/// Bytes of the message at the start of the buffer, where that is known.
fn length(buffer: &[u8], untagged: bool) -> Option<usize> {
    let start = usize::from(!untagged);
    let field = buffer.get(start..start + 4)?.first_chunk::<4>()?;
    Some(start + usize::try_from(u32::from_be_bytes(*field)).ok()?.max(4))
}

/// Numbers that look random: xorshift, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next one.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Descriptors that this process has open.
#[must_use]
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
