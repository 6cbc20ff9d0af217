//! Session ids, and logging set-up. Logs never carry values of rows, tokens or credentials.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The id of one governed connection. It appears in denials, logs, listings and every frame of the recording.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u128);

impl SessionId {
    /// A fresh id: 48 bits of milliseconds, then randomness, so that ids sort by time (RFC 9562, version 7 layout).
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate(now: crate::clock::Timestamp) -> Result<Self, getrandom::Error> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random)?;
        let millis = u128::from(u64::try_from(now.0 / 1000).unwrap_or(0)) & 0xffff_ffff_ffff;
        let tail = u128::from_be_bytes(random) & ((1 << 80) - 1);
        let tail = (tail & !(0xf << 76)) | (0x7 << 76);
        let tail = (tail & !(0b11 << 62)) | (0b10 << 62);
        Ok(Self((millis << 80) | tail))
    }

    /// The id of what belongs to no session: start-up, policy loads, refused connections before identification.
    pub const NONE: Self = Self(0);

    /// The sixteen bytes, most significant first.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The inverse of [`SessionId::to_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// A session id is 32 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("a session id is 32 hexadecimal digits")]
pub struct BadSessionId;

impl FromStr for SessionId {
    type Err = BadSessionId;

    fn from_str(text: &str) -> Result<Self, BadSessionId> {
        if text.len() != 32 {
            return Err(BadSessionId);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| BadSessionId)
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Sends `tracing` events to standard error: JSON lines when `json`, text otherwise. `RUST_LOG` filters, `info` is the
/// default. A second call changes nothing.
pub fn start_logging(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let _already_set = if json { builder.json().try_init() } else { builder.try_init() };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn ids_sort_by_time_and_survive_text() {
        let early = SessionId::generate(Timestamp::from_unix(1_000)).unwrap();
        let late = SessionId::generate(Timestamp::from_unix(2_000)).unwrap();
        assert!(early < late);
        assert_eq!(late.to_string().parse::<SessionId>().unwrap(), late);
    }
}
