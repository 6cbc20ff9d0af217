//! The packets before the first typed message: start-up, and the requests for TLS, GSS and cancellation.

use super::{Malformed, STARTUP_LIMIT};
use crate::wire::Reader;

/// What a connection can open with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Startup<'a> {
    /// Start TLS, please.
    Ssl,
    /// Start GSSAPI encryption, please.
    GssEnc,
    /// Stop what another session is doing.
    Cancel {
        /// The target's process id, as that session was told.
        process_id: u32,
        /// Its secret, as that session was told: 4 bytes in 3.0, up to 256 in 3.2.
        secret: &'a [u8],
    },
    /// Open a session.
    Open {
        /// The version that the agent would like.
        version: ProtocolVersion,
        /// What it says about itself.
        parameters: StartupParameters<'a>,
    },
}

/// Version of the protocol: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolVersion {
    /// 3 for everything that is spoken today.
    pub major: u16,
    /// 0, or 2 since PostgreSQL 18.
    pub minor: u16,
}

impl ProtocolVersion {
    /// 3.0.
    pub const V3_0: Self = Self { major: 3, minor: 0 };
    /// 3.2: cancel keys of variable length.
    pub const V3_2: Self = Self { major: 3, minor: 2 };

    /// As it stands in a packet.
    #[must_use]
    pub fn code(self) -> u32 {
        (u32::from(self.major) << 16) | u32::from(self.minor)
    }
}

/// Names and values of a start-up packet, checked for layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartupParameters<'a> {
    body: &'a [u8],
}

impl<'a> Iterator for StartupParameters<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = Reader::new(self.body);
        let name = reader.cstr().filter(|name| !name.is_empty())?;
        let value = reader.cstr()?;
        self.body = reader.rest();
        Some((name, value))
    }
}

const MAJOR_OF_REQUESTS: u16 = 1234;
const CANCEL: u16 = 5678;
const SSL: u16 = 5679;
const GSSENC: u16 = 5680;

/// The longest cancel key of protocol 3.2.
pub(super) const SECRET_LIMIT: usize = 256;

/// The packet at the start of `buffer`, and how many bytes it takes.
///
/// # Errors
/// [`Malformed`] when it is none that a client may send.
pub fn startup(buffer: &[u8]) -> Result<Option<(Startup<'_>, usize)>, Malformed> {
    let mut reader = Reader::new(buffer);
    let Some(length) = reader.i32() else { return Ok(None) };
    let length = usize::try_from(length).ok().filter(|length| *length >= 8).ok_or(Malformed::Length { tag: 0 })?;
    if length > STARTUP_LIMIT {
        return Err(Malformed::TooLong { tag: 0, length, limit: STARTUP_LIMIT });
    }
    let Some(body) = reader.bytes(length - 4) else { return Ok(None) };
    let packet = packet(body).ok_or(Malformed::Layout { tag: 0 })?;
    Ok(Some((packet, length)))
}

fn packet(body: &[u8]) -> Option<Startup<'_>> {
    let mut reader = Reader::new(body);
    let (major, minor) = (reader.u16()?, reader.u16()?);
    match (major, minor) {
        (MAJOR_OF_REQUESTS, SSL) => reader.is_empty().then_some(Startup::Ssl),
        (MAJOR_OF_REQUESTS, GSSENC) => reader.is_empty().then_some(Startup::GssEnc),
        (MAJOR_OF_REQUESTS, CANCEL) => {
            let process_id = reader.u32()?;
            let secret = reader.rest();
            (4..=SECRET_LIMIT).contains(&secret.len()).then_some(Startup::Cancel { process_id, secret })
        }
        (MAJOR_OF_REQUESTS, _) => None,
        _ => {
            let parameters = StartupParameters { body: reader.rest() };
            let mut walk = parameters;
            while walk.next().is_some() {}
            // What is left is the empty name that ends the list, and nothing behind it.
            (walk.body == [0]).then_some(Startup::Open { version: ProtocolVersion { major, minor }, parameters })
        }
    }
}
