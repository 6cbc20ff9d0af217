//! The host's journal, in its native protocol (systemd, "Native Journal Protocol"): one datagram, fields by lines, and with a
//! length where a value has several.

use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::{Statement, WitnessError};

/// The field with the signed note.
pub(super) const FIELD: &str = "INTERCEPTOR_CHECKPOINT";
/// Tells these messages from all others of the journal.
const MESSAGE_ID: &str = "6f1f0f2f3c5b4f7a9f0e5d7a1c2b3e4d";

/// Where it listens.
#[derive(Debug)]
pub struct Journal {
    socket: PathBuf,
}

impl Default for Journal {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/systemd/journal/socket") }
    }
}

impl Journal {
    #[cfg(test)]
    pub(super) const fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Does not wait: where the journal is behind, it is told the next time.
    pub(super) fn tell(&self, statement: &Statement) -> Result<(), WitnessError> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to(&datagram(statement)?, &self.socket)?;
        Ok(())
    }
}

fn datagram(statement: &Statement) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let frames = statement.frames();
    writeln!(out, "MESSAGE=checkpoint of {frames} frames of the recording")?;
    writeln!(
        out,
        "MESSAGE_ID={MESSAGE_ID}\nPRIORITY=5\nSYSLOG_IDENTIFIER=interceptor\nINTERCEPTOR_FRAMES={frames}\n{FIELD}"
    )?;
    out.extend_from_slice(&u64::try_from(statement.note.len()).map_err(io::Error::other)?.to_le_bytes());
    out.extend_from_slice(statement.note.as_bytes());
    out.push(b'\n');
    Ok(out)
}
