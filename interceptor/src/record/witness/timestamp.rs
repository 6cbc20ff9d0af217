//! A time stamp authority (RFC 3161): says, signed, that a checkpoint was there at a time.
//!
//! Its tokens lie beside the segments, in `witnessed/`, each with the checkpoint that it is of: `openssl ts -verify -data
//! N-H.note -in N-H.0.tsr -CAfile tsa.pem`. Here it is seen that a token was granted, and is of what was sent; not, whose it is.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use memchr::memmem;
use sha2::{Digest as _, Sha256};
use x509_parser::asn1_rs::{FromDer as _, Sequence};

use super::{Authority, Statement, WitnessError, without_secrets};
use crate::identity::fetch::{self, Fetcher, Sent};

/// Where tokens lie, below the spool.
const FOLDER: &str = "witnessed";
/// Files there; beyond, no authority is asked until somebody moves them away.
const MOST: usize = 10_000;
/// Largest token that is kept, in bytes.
const TOKEN_MAX: usize = 16 << 10;

/// Where it is, and where its tokens go.
#[derive(Debug)]
pub struct Stamping {
    url: Uri,
    fetcher: Fetcher,
    folder: PathBuf,
    /// Tells authorities from each other.
    number: usize,
    /// As `record.free_space_floor`.
    floor: u64,
}

impl Authority {
    pub(super) fn check(&self) -> Result<(), String> {
        fetch::allowed_in_clear(&self.url).map(drop).map_err(|error| format!("timestamp: {error}"))
    }
}

impl Stamping {
    pub(super) fn open(config: &Authority, number: usize, (spool, floor): (&Path, u64)) -> Result<Self, String> {
        let fetcher =
            Fetcher::new(config.ca.as_deref()).map_err(|error| format!("timestamp {}: {error}", config.url))?;
        let url = fetch::allowed_in_clear(&config.url).map_err(|error| format!("timestamp: {error}"))?;
        Ok(Self { url, fetcher, folder: spool.join(FOLDER), number, floor })
    }

    pub(super) async fn tell(&self, statement: &Statement) -> Result<(), WitnessError> {
        self.has_room()?;
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| WitnessError::Answer(error.to_string()))?;
        let query = query(&statement.note, nonce);
        let sent = Sent {
            kind: "application/timestamp-query",
            accept: "application/timestamp-reply",
            body: query.to_vec().into(),
            authorization: None,
        };
        let sent = self.fetcher.send(self.url.clone(), sent).await;
        let (status, reply) = sent.map_err(|error| WitnessError::of(&error, &self.url))?;
        if status != 200 {
            return Err(WitnessError::Answer(format!("it answered {status}")));
        }
        granted(&reply, &query).map_err(WitnessError::Answer)?;
        let name = name(statement);
        self.keep(&format!("{name}.note"), statement.note.as_bytes())?;
        self.keep(&format!("{name}{}", self.ending()), &reply)?;
        Ok(())
    }

    /// Of its tokens.
    fn ending(&self) -> String {
        format!(".{}.tsr", self.number)
    }

    /// How long ago its newest token was kept.
    pub(super) fn asked_ago(&self) -> Option<Duration> {
        let ending = self.ending();
        let kept = fs::read_dir(&self.folder).ok()?.flatten().take(MOST);
        let own = kept.filter(|entry| entry.file_name().to_string_lossy().ends_with(&ending));
        let newest = own.filter_map(|entry| entry.metadata().ok()?.modified().ok()).max()?;
        Some(newest.elapsed().unwrap_or_default())
    }

    fn has_room(&self) -> Result<(), WitnessError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        if fs::read_dir(&self.folder)?.take(MOST).count() >= MOST {
            return Err(WitnessError::Answer(format!("{} holds {MOST} files: move them away", self.folder.display())));
        }
        let free = nix::sys::statvfs::statvfs(&self.folder).map_err(io::Error::from)?;
        if free.blocks_available().saturating_mul(free.fragment_size()) < self.floor {
            return Err(WitnessError::Answer(
                "the file system is as full as record.free_space_floor lets it be".to_owned(),
            ));
        }
        Ok(())
    }

    /// Whole, or not at all.
    fn keep(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.folder.join(format!("{name}.{}.tmp", self.number));
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.folder.join(name))
    }
}

/// Of a checkpoint's files: how many frames, and which of those that are of so many.
fn name(statement: &Statement) -> String {
    let hash: [u8; 32] = Sha256::digest(&statement.note).into();
    let [a, b, c, d, ..] = hash;
    format!("{:020}-{:08x}", statement.frames(), u32::from_be_bytes([a, b, c, d]))
}

/// `TimeStampReq` (RFC 3161, section 2.4.1) with the SHA-256 of the note, a nonce, and the wish for the certificate.
fn query(note: &str, nonce: [u8; 8]) -> [u8; 69] {
    // Version 1; the algorithm, SHA-256 with NULL; a hash of 32 bytes follows.
    const BEFORE: [u8; 24] = [
        0x30, 0x43, 0x02, 0x01, 0x01, 0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04,
        0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
    ];
    // Positive, and of eight bytes.
    let [first, rest @ ..] = nonce;
    let hash: [u8; 32] = Sha256::digest(note).into();
    let mut out = [0; 69];
    let parts: [&[u8]; 6] = [&BEFORE, &hash, &[0x02, 0x08, (first & 0x7f) | 0x40], &rest, &[0x01, 0x01], &[0xff]];
    for (place, byte) in out.iter_mut().zip(parts.concat()) {
        *place = byte;
    }
    out
}

/// Whether a `TimeStampResp` (section 2.4.2) grants what was asked: its token repeats the imprint and the nonce.
fn granted(reply: &[u8], query: &[u8; 69]) -> Result<(), String> {
    let malformed = |_| "its answer is no time stamp".to_owned();
    if reply.len() > TOKEN_MAX {
        return Err(format!("its answer has more than {TOKEN_MAX} bytes"));
    }
    let (_, response) = Sequence::from_der(reply).map_err(malformed)?;
    let (token, status) = Sequence::from_der(&response.content).map_err(malformed)?;
    let (_, number) = u32::from_der(&status.content).map_err(malformed)?;
    // granted, grantedWithMods
    if number > 1 {
        return Err(format!("it refuses, with status {number}"));
    }
    let [imprint, nonce] = [query.get(22..56), query.get(56..66)].map(Option::unwrap_or_default);
    let repeats = |part: &[u8]| memmem::find(token, part).is_some();
    if repeats(imprint) && repeats(nonce) { Ok(()) } else { Err("its token is of something else".to_owned()) }
}

impl fmt::Display for Stamping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the time stamp authority {}", without_secrets(&self.url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_counts_where_it_repeats_what_was_asked() {
        let asked = query("note", [0xff; 8]);
        assert_eq!((asked[1] as usize + 2, asked.last()), (asked.len(), Some(&0xff)));
        let reply = |status: u8, token: &[u8]| {
            let mut content = vec![0x30, 3, 2, 1, status];
            content.extend_from_slice(token);
            [vec![0x30, u8::try_from(content.len()).unwrap()], content].concat()
        };
        let token = asked.get(22..66).unwrap();
        assert_eq!(granted(&reply(0, token), &asked), Ok(()));
        assert_eq!(granted(&reply(1, token), &asked), Ok(()));
        assert!(granted(&reply(2, token), &asked).unwrap_err().contains("refuses"));
        assert!(granted(&reply(0, token), &query("note", [1; 8])).unwrap_err().contains("something else"));
        assert!(granted(&reply(0, token), &query("other", [0xff; 8])).is_err());
        assert!(granted(&reply(0, &[]), &asked).is_err());
        assert!(granted(b"<html>", &asked).is_err());
        assert!(granted(&vec![0x30; TOKEN_MAX + 1], &asked).is_err());
    }
}
