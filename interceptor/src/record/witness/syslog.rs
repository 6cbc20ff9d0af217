//! A log server: RFC 5424 messages over TLS (RFC 5425), one connection each.

use std::fmt;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{Statement, Syslog, WitnessError};
use crate::tls::{self, Stream, Upstream};

/// Facility 13 (log audit), severity 5 (notice): RFC 5424, section 6.2.1.
const PRIORITY: u32 = 13 * 8 + 5;

/// Where it is, and how it is known.
#[derive(Debug)]
pub struct Server {
    address: String,
    upstream: Upstream,
}

impl Syslog {
    pub(super) fn check(&self) -> Result<(), String> {
        self.host().map(drop)
    }

    fn host(&self) -> Result<&str, String> {
        let parts = self.address.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        let host = parts.map(|(host, _)| host.trim_start_matches('[').trim_end_matches(']'));
        let bad = || format!("syslog: {:?} is no address like \"logs.example:6514\"", self.address);
        host.filter(|host| !host.is_empty()).ok_or_else(bad)
    }
}

impl Server {
    pub(super) fn open(config: &Syslog) -> Result<Self, String> {
        let host = config.host()?;
        let tls =
            tls::Config { ca: config.ca.clone(), server_name: config.server_name.clone(), ..tls::Config::default() };
        let upstream = tls.upstream(host, &[]).map_err(|error| format!("syslog {}: {error}", config.address))?;
        Ok(Self { address: config.address.clone(), upstream })
    }

    pub(super) async fn tell(&self, statement: &Statement) -> Result<(), WitnessError> {
        let stream = TcpStream::connect(&self.address).await?;
        let Stream::Client(mut stream) = tls::connect(Stream::Tcp(stream), &self.upstream).await? else {
            return Err(WitnessError::Answer("it does not speak TLS".to_owned()));
        };
        stream.write_all(&message(statement)).await?;
        stream.shutdown().await?;
        Ok(())
    }
}

/// With its length before it (RFC 5425, section 4.3).
fn message(statement: &Statement) -> Vec<u8> {
    let (host, time, line) = (word(&statement.host), statement.time, statement.line());
    let message = format!("<{PRIORITY}>1 {time} {host} interceptor - checkpoint - {line}");
    format!("{} {message}", message.len()).into_bytes()
}

/// A name as RFC 5424 takes it: printable ASCII, no space, at most 255.
fn word(name: &str) -> String {
    let word: String = name.chars().filter(char::is_ascii_graphic).take(255).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log server {}", self.address)
    }
}
