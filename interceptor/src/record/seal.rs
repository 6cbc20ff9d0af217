//! Frames sealed to recipients: the host that writes them cannot read them again.
//!
//! Each segment has a key of its own, 32 random bytes for AES-256-GCM, wrapped as an age file (<https://age-encryption.org/v1>)
//! to every recipient (X25519), which stands in the segment's header. The writer forgets the key with the segment, and begins a
//! new one at each start, and after an hour. Nonces are counted, and not used again: not for what a failed write has taken back, either.
//!
//! Sealed is what happened: the payloads of frames. In clear are, for verification and for finding one's way without a key, when,
//! in which session, how much, checkpoints, and what the spool says of its own gaps.
//!
//! Not promised: secrecy of a segment against who reads the daemon's memory, or a copy of it (a snapshot of the machine that goes on
//! twice seals with the same nonces twice).

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::iter;
use std::ops::Range;
use std::path::{Path, PathBuf};

use age::x25519;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::format::FormatError;

/// Most recipients.
pub const MAX_RECIPIENTS: usize = 16;

/// Bytes that sealing adds to a payload.
pub(super) const ADDED: usize = COUNTER + TAG;

/// Bytes of a wrapped key at most: of [`MAX_RECIPIENTS`], with room.
#[cfg(test)]
const MAX_WRAPPED: u64 = 4096;

/// Bytes of a file of identities at most.
const MAX_IDENTITIES: u64 = 64 << 10;
const COUNTER: usize = 8;
const TAG: usize = 16;
const KEY: usize = 32;

/// To whom segments are sealed.
#[derive(Clone, Default)]
pub struct Recipients(Vec<x25519::Recipient>);

impl Recipients {
    /// Reads them, as `age-keygen` prints them: `age1...`.
    ///
    /// # Errors
    /// The first that is none, in words.
    pub fn parse(list: &[String]) -> Result<Self, String> {
        if list.len() > MAX_RECIPIENTS {
            return Err(format!("at most {MAX_RECIPIENTS} recipients"));
        }
        list.iter().enumerate().map(|(at, text)| recipient(at + 1, text)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether nothing is sealed.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A key for one segment; none where nothing is sealed.
    ///
    /// # Errors
    /// Where there is no randomness, or it cannot be wrapped.
    pub(super) fn sealer(&self) -> io::Result<Option<Sealer>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut key = Zeroizing::new([0; KEY]);
        rand::fill(&mut *key).map_err(|_| io::Error::other("no random numbers for a key"))?;
        let wrapped =
            self.wrap(&*key).map_err(|error| io::Error::other(format!("the key cannot be wrapped: {error}")))?;
        let key = usable(&*key).ok_or_else(|| io::Error::other("the key cannot be used"))?;
        Ok(Some(Sealer { key, counter: 0, wrapped }))
    }

    fn wrap(&self, key: &[u8]) -> io::Result<Vec<u8>> {
        let recipients = self.0.iter().map(|one| one as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
        let mut wrapped = Vec::new();
        let mut writer = encryptor.wrap_output(&mut wrapped)?;
        writer.write_all(key)?;
        writer.finish()?;
        Ok(wrapped)
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(ToString::to_string)).finish()
    }
}

/// One of a list. What stands there is not repeated: it may be the secret key.
fn recipient(at: usize, text: &str) -> Result<x25519::Recipient, String> {
    if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
        return Err(format!("number {at} is a secret key; here belongs its public key, which begins with age1"));
    }
    let wrong =
        |reason: &str| format!("number {at}: {reason}; a recipient begins with age1, as `age-keygen` prints it");
    let recipient: x25519::Recipient = text.trim().parse().map_err(wrong)?;
    // A point that every key agrees on the same secret with: the library panics.
    let wrapped = std::panic::catch_unwind(|| Recipients(vec![recipient.clone()]).wrap(&[0; KEY]).is_ok());
    if wrapped.unwrap_or(false) { Ok(recipient) } else { Err(wrong("nothing can be sealed to it")) }
}

/// Seals the frames of one segment.
pub(super) struct Sealer {
    key: LessSafeKey,
    /// Frames that were sealed with the key, written or not.
    counter: u64,
    wrapped: Vec<u8>,
}

impl Sealer {
    /// The wrapped key, for the header.
    pub(super) fn wrapped(&self) -> &[u8] {
        &self.wrapped
    }

    /// Appends the payload, sealed, and bound to those bytes of `out`. After an error the rest of `out` means nothing.
    pub(super) fn seal(&mut self, out: &mut Vec<u8>, context: Range<usize>, payload: &[u8]) -> Result<(), Unspecified> {
        let counter = self.counter;
        self.counter = counter.checked_add(1).ok_or(Unspecified)?;
        out.extend_from_slice(&counter.to_le_bytes());
        let start = out.len();
        out.extend_from_slice(payload);
        let (before, plain) = out.split_at_mut_checked(start).ok_or(Unspecified)?;
        let context = Aad::from(before.get(context).ok_or(Unspecified)?);
        let tag = self.key.seal_in_place_separate_tag(nonce(counter), context, plain)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("counter", &self.counter).finish_non_exhaustive()
    }
}

/// Who may open segments.
#[derive(Clone, Default)]
pub struct Identities(Vec<x25519::Identity>);

impl Identities {
    /// Reads files as `age-keygen` writes them: a line `AGE-SECRET-KEY-1...` for each identity, and comments.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn load(files: &[PathBuf]) -> Result<Self, IdentityError> {
        let mut all = Vec::new();
        for path in files {
            let before = all.len();
            let failed = |source| IdentityError::Io { path: path.clone(), source };
            let text = read(path).map_err(failed)?;
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
                all.push(line.parse().map_err(|_| IdentityError::Line(path.clone()))?);
            }
            if all.len() == before {
                return Err(IdentityError::Line(path.clone()));
            }
        }
        Ok(Self(all))
    }

    /// What opens the frames of a segment with this wrapped key; none where it is sealed to others.
    ///
    /// # Errors
    /// Where it is no wrapped key.
    pub fn opener(&self, wrapped: &[u8]) -> Result<Option<Opener>, FormatError> {
        let identities = self.0.iter().map(|one| one as &dyn age::Identity);
        let opened = age::Decryptor::new(wrapped).map_err(|_| FormatError::Header)?.decrypt(identities);
        let mut opened = match opened {
            Err(age::DecryptError::NoMatchingKeys) => return Ok(None),
            opened => opened.map_err(|_| FormatError::Header)?,
        };
        let mut key = Zeroizing::new([0; KEY]);
        opened.read_exact(&mut *key).map_err(|_| FormatError::Header)?;
        let ends = opened.read(&mut [0]).is_ok_and(|more| more == 0);
        usable(&*key).filter(|_| ends).map(|key| Some(Opener(key))).ok_or(FormatError::Header)
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identities").field(&self.0.len()).finish()
    }
}

/// Opens the frames of one segment.
pub struct Opener(LessSafeKey);

impl Opener {
    /// The payload, where it is unaltered and stands where it was written.
    pub(super) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (counter, sealed) = sealed.split_first_chunk::<COUNTER>()?;
        let mut opened = sealed.to_vec();
        let length =
            self.0.open_in_place(nonce(u64::from_le_bytes(*counter)), Aad::from(context), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

/// Why identities cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read the identity {path}: {source}", path = path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no identity of age: a line that begins with AGE-SECRET-KEY-1, as `age-keygen` writes it, not encrypted", .0.display())]
    Line(PathBuf),
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    // All of its room at once: what a text has grown out of would not be wiped.
    let most = usize::try_from(MAX_IDENTITIES).unwrap_or_default();
    let mut text = Zeroizing::new(String::with_capacity(most + 1));
    let read = std::fs::File::open(path)?.take(MAX_IDENTITIES + 1).read_to_string(&mut text)?;
    if read > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

fn usable(key: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    for (byte, value) in iter::zip(&mut nonce, counter.to_le_bytes()) {
        *byte = value;
    }
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (Sealer, Opener) {
        let identity = x25519::Identity::generate();
        let recipients = Recipients::parse(&[identity.to_public().to_string()]).unwrap();
        let sealer = recipients.sealer().unwrap().unwrap();
        let opener = Identities(vec![identity]).opener(sealer.wrapped()).unwrap().unwrap();
        (sealer, opener)
    }

    #[test]
    fn a_payload_opens_where_it_stands_alone() {
        let (mut sealer, opener) = sealed();
        let mut out = b"context".to_vec();
        sealer.seal(&mut out, 0..7, b"payload").unwrap();
        let payload = out.split_off(7);
        assert_eq!(payload.len(), 7 + ADDED);
        assert_eq!(opener.open(b"context", &payload).as_deref(), Some(b"payload".as_slice()));
        assert_eq!(opener.open(b"contexT", &payload), None);
        assert_eq!(sealed().1.open(b"context", &payload), None);
        for at in 0..payload.len() {
            let mut altered = payload.clone();
            altered[at] ^= 1;
            assert_eq!(opener.open(b"context", &altered), None, "byte {at}");
            assert_eq!(opener.open(b"context", &payload[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn wrapped_keys_fit_into_a_header() {
        let recipient = x25519::Identity::generate().to_public().to_string();
        let recipients = Recipients::parse(&vec![recipient; MAX_RECIPIENTS]).unwrap();
        let wrapped = recipients.sealer().unwrap().unwrap().wrapped().len();
        assert!(u64::try_from(wrapped).unwrap() <= MAX_WRAPPED, "{wrapped}");
    }

    #[test]
    fn a_damaged_key_is_not_somebody_elses() {
        let identity = x25519::Identity::generate();
        let recipients = Recipients::parse(&[identity.to_public().to_string()]).unwrap();
        let wrapped = recipients.sealer().unwrap().unwrap().wrapped().to_vec();
        let (own, other) = (Identities(vec![identity]), Identities(vec![x25519::Identity::generate()]));
        assert!(matches!(own.opener(&wrapped), Ok(Some(_))));
        assert!(matches!(other.opener(&wrapped), Ok(None)));
        assert!(matches!(Identities::default().opener(&wrapped), Ok(None)));
        let mut altered = wrapped.clone();
        *altered.last_mut().unwrap() ^= 1;
        for damaged in [&altered[..], &wrapped[..wrapped.len() - 1], b"age"] {
            assert!(matches!(own.opener(damaged), Err(FormatError::Header)), "{} bytes", damaged.len());
        }
    }

    #[test]
    fn what_is_no_recipient_is_not_repeated() {
        let secret = x25519::Identity::generate().to_string();
        let secret = age::secrecy::ExposeSecret::expose_secret(&secret).to_owned();
        // Thirty-two bytes of zero.
        let low = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqsm80u2".to_owned();
        for odd in [secret, low, "age1xyz".to_owned()] {
            let error = Recipients::parse(std::slice::from_ref(&odd)).unwrap_err();
            assert!(error.contains("number 1") && !error.contains(&odd), "{error}");
        }
    }

    #[test]
    fn what_is_no_identity_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("identity");
        for text in ["", "# only a comment\n", "age1xyz\n", "-----BEGIN AGE ENCRYPTED FILE-----\n"] {
            std::fs::write(&file, text).unwrap();
            let error = Identities::load(std::slice::from_ref(&file)).unwrap_err().to_string();
            assert!(error.contains("AGE-SECRET-KEY-1"), "{error}");
        }
        assert!(matches!(Identities::load(&[directory.path().join("none")]), Err(IdentityError::Io { .. })));
    }
}
