//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677): bytes in, bytes out.
//!
//! Owns the messages, the derivation of keys from a password, and a memory of keys that were derived before. The
//! derivation is the price of a log-in: thousands of rounds of hashing, by design, so that a stolen verifier is hard to
//! turn back into a password. What it yields depends on password, salt and number of rounds alone, and a target keeps its
//! salt for as long as the password stays. Does not promise that the copies of a password inside HMAC are wiped.

use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use crate::secret::Secret;

/// Most rounds that are done for a target (what JDBC's driver does, CVE-2026-42198): it alone chooses the number.
const MOST_ROUNDS: u32 = 100_000;
/// Random bytes of a nonce.
const NONCE: usize = 18;
/// Keys that are remembered: one for each password and target that is in use.
const KEPT: NonZeroUsize = match NonZeroUsize::new(64) {
    Some(kept) => kept,
    None => NonZeroUsize::MIN,
};

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScramError {
    #[error("no randomness: {0}")]
    Randomness(getrandom::Error),
    #[error("the challenge is not in the form of RFC 5802")]
    Challenge,
    #[error("the challenge does not answer our nonce")]
    Nonce,
    #[error("the challenge asks for {0} rounds, more than the {MOST_ROUNDS} that are done")]
    Rounds(u32),
    #[error("it says: {0}")]
    Refused(String),
    #[error("its last message is not in the form of RFC 5802")]
    Final,
    #[error("it does not know the password")]
    Signature,
}

/// What is said of the channel below.
#[derive(Debug)]
pub(super) enum Binding {
    /// There is none.
    Unsupported,
    /// There could be one: a target that did offer it learns that somebody took the offer away.
    Unrequested,
    /// `tls-server-end-point`: the hash of the certificate.
    EndPoint(Vec<u8>),
}

impl Binding {
    const fn header(&self) -> &'static str {
        match self {
            Self::Unsupported => "n,,",
            Self::Unrequested => "y,,",
            Self::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    fn encoded(&self) -> String {
        let data = if let Self::EndPoint(data) = self { data.as_slice() } else { &[] };
        STANDARD.encode([self.header().as_bytes(), data].concat())
    }
}

/// An exchange whose first message is out.
#[derive(Debug)]
pub(super) struct Started {
    nonce: String,
    binding: Binding,
}

impl Started {
    /// Begins an exchange.
    pub(super) fn new(binding: Binding) -> Result<Self, ScramError> {
        let mut random = [0u8; NONCE];
        getrandom::fill(&mut random).map_err(ScramError::Randomness)?;
        Ok(Self { nonce: STANDARD.encode(random), binding })
    }

    /// The client-first-message. The user's name is the one of the start-up message.
    pub(super) fn message(&self) -> String {
        format!("{}n=,r={}", self.binding.header(), self.nonce)
    }

    /// Reads the server-first-message.
    pub(super) fn challenged(self, message: &[u8]) -> Result<Challenge, ScramError> {
        let text = std::str::from_utf8(message).map_err(|_| ScramError::Challenge)?;
        let mut parts = text.split(',');
        let mut part = |name: &str| parts.next().and_then(|part| part.strip_prefix(name)).ok_or(ScramError::Challenge);
        let (nonce, salt, rounds) = (part("r=")?, part("s=")?, part("i=")?);
        let rounds = Some(rounds).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let rounds = rounds.and_then(|text| text.parse().ok()).filter(|count| *count > 0);
        if parts.next().is_some() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ScramError::Challenge);
        }
        if !nonce.starts_with(&self.nonce) {
            return Err(ScramError::Nonce);
        }
        let rounds = rounds.ok_or(ScramError::Challenge)?;
        if rounds > MOST_ROUNDS {
            return Err(ScramError::Rounds(rounds));
        }
        let salt = STANDARD.decode(salt).map_err(|_| ScramError::Challenge)?;
        let without_proof = format!("c={},r={nonce}", self.binding.encoded());
        let covered = format!("n=,r={},{text},{without_proof}", self.nonce);
        Ok(Challenge { salt, rounds, without_proof, covered })
    }
}

/// A challenge, waiting for the keys that answer it.
#[derive(Debug)]
pub(super) struct Challenge {
    /// What the target hashes the password with.
    pub(super) salt: Vec<u8>,
    /// How often.
    pub(super) rounds: u32,
    without_proof: String,
    /// What both sides sign.
    covered: String,
}

impl Challenge {
    /// The client-final-message, and what is still to be heard.
    pub(super) fn prove(self, kept: Kept) -> (String, Proving) {
        let signature = mac(&Sha256::digest(*kept.keys.client).into(), &[self.covered.as_bytes()]);
        let mut proof = Zeroizing::new(*kept.keys.client);
        proof.iter_mut().zip(signature).for_each(|(byte, signed)| *byte ^= signed);
        let message = format!("{},p={}", self.without_proof, STANDARD.encode(*proof));
        (message, Proving { covered: self.covered, kept })
    }
}

/// An exchange in which only the target's own proof is missing.
#[derive(Debug)]
pub(super) struct Proving {
    covered: String,
    kept: Kept,
}

impl Proving {
    /// Reads the server-final-message: the target has proven that it knows the password. Only then are the keys
    /// remembered, so that an impostor, which chooses its salts, fills no memory.
    pub(super) fn finish(self, message: &[u8], memory: &Memory) -> Result<(), ScramError> {
        let text = std::str::from_utf8(message).map_err(|_| ScramError::Final)?;
        if let Some(error) = text.strip_prefix("e=") {
            return Err(ScramError::Refused(error.chars().take(80).collect()));
        }
        let signature = text.strip_prefix("v=").and_then(|text| STANDARD.decode(text).ok()).ok_or(ScramError::Final)?;
        let expected = Secret::new(mac(&self.kept.keys.server, &[self.covered.as_bytes()]).to_vec());
        if !expected.matches(&signature) {
            return Err(ScramError::Signature);
        }
        memory.keep(self.kept);
        Ok(())
    }
}

/// What a password becomes for one salt and number of rounds: as good as the password at that target, and wiped like it.
pub(super) struct Keys {
    client: Zeroizing<[u8; 32]>,
    server: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// Derives the keys: slow by design.
    pub(super) fn derive(password: &[u8], salt: &[u8], rounds: u32) -> Self {
        let normal = normal(password);
        let salted = salted(&normal, salt, rounds);
        Self {
            client: Zeroizing::new(mac(&salted, &[b"Client Key"])),
            server: Zeroizing::new(mac(&salted, &[b"Server Key"])),
        }
    }
}

/// Nothing of them is shown.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// Keys, and what they are remembered by.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    id: [u8; 32],
    keys: Arc<Keys>,
}

/// Keys that were derived before.
///
/// Why it is safe: the keys are a function of password, salt and rounds, and the entry is found by a MAC over all three
/// under a key of this process. So whoever finds an entry has the very password that it was made from, of whatever
/// credential: a rotated or another password, or a salt that the target has changed, finds nothing. Nothing is decided
/// here: the target still judges each log-in, and has to prove itself in each. It holds [`KEPT`] entries, of passwords
/// that were fetched for a session and accepted; the memory of a key that leaves is wiped.
pub(super) struct Memory {
    /// `None` where there is no randomness: then nothing is remembered.
    secret: Option<Zeroizing<[u8; 32]>>,
    kept: Mutex<LruCache<[u8; 32], Arc<Keys>>>,
}

/// The memory of this process.
pub(super) static MEMORY: LazyLock<Memory> = LazyLock::new(Memory::new);

impl Memory {
    /// An empty one.
    pub(super) fn new() -> Self {
        let mut secret = Zeroizing::new([0u8; 32]);
        let secret = getrandom::fill(secret.as_mut()).is_ok().then_some(secret);
        Self { secret, kept: Mutex::new(LruCache::new(KEPT)) }
    }

    /// The keys, where they are known.
    pub(super) fn find(&self, password: &[u8], challenge: &Challenge) -> Option<Kept> {
        let id = self.id(password, &challenge.salt, challenge.rounds)?;
        let keys = Arc::clone(self.kept.lock().get(&id)?);
        Some(Kept { id, keys })
    }

    /// The keys, derived.
    pub(super) fn derive(&self, password: &[u8], salt: &[u8], rounds: u32) -> Kept {
        let id = self.id(password, salt, rounds).unwrap_or_default();
        Kept { id, keys: Arc::new(Keys::derive(password, salt, rounds)) }
    }

    fn keep(&self, kept: Kept) {
        if self.secret.is_some() {
            self.kept.lock().put(kept.id, kept.keys);
        }
    }

    fn id(&self, password: &[u8], salt: &[u8], rounds: u32) -> Option<[u8; 32]> {
        let secret = self.secret.as_ref()?;
        // With the length of the password in front, no two inputs are one text.
        let length = (password.len() as u64).to_be_bytes();
        Some(mac(secret, &[&length, password, &rounds.to_be_bytes(), salt]))
    }
}

/// RFC 5802, section 2.2, `Hi`: PBKDF2 with one block. The state after the key is made once and copied, which halves it.
fn salted(password: &[u8], salt: &[u8], rounds: u32) -> Zeroizing<[u8; 32]> {
    let keyed = keyed(password);
    let mut step: [u8; 32] = keyed.clone().chain_update(salt).chain_update([0, 0, 0, 1]).finalize().into_bytes().into();
    let mut salted = Zeroizing::new(step);
    for _ in 1..rounds {
        step = keyed.clone().chain_update(step).finalize().into_bytes().into();
        salted.iter_mut().zip(step).for_each(|(byte, more)| *byte ^= more);
    }
    step.zeroize();
    salted
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(keyed(key), |mac, part| mac.chain_update(part)).finalize().into_bytes().into()
}

/// HMAC under a key of any length (RFC 2104: a longer one is hashed, a shorter one filled up with zeros).
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    let hashed: Zeroizing<[u8; 32]>;
    let mut block = Zeroizing::new([0u8; BLOCK]);
    let key = if key.len() > BLOCK {
        hashed = Zeroizing::new(Sha256::digest(key).into());
        hashed.as_slice()
    } else {
        key
    };
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    Hmac::new((&*block).into())
}

/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// As servers do it: prepared where SASLprep allows it (RFC 4013), else as it is.
fn normal(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    Zeroizing::new(prepared.map_or_else(|| password.to_vec(), |text| text.into_owned().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const PASSWORD: &[u8] = b"foobar";
    const SERVER_FIRST: &[u8] = b"r=9IZ2O01zb9IgiIZ1WJ/zgpJBjx/oIRLs02gGSHcw1KEty3eY,s=fs3IXBy7U7+IvVjZ,i=4096";
    const SERVER_FINAL: &[u8] = b"v=U+ppxD5XUKtradnv8e2MkeupiA8FU87Sg8CXzXHDAzw=";

    fn started() -> Started {
        Started { nonce: "9IZ2O01zb9IgiIZ1WJ/zgpJB".to_owned(), binding: Binding::Unsupported }
    }

    fn challenge() -> Challenge {
        started().challenged(SERVER_FIRST).unwrap()
    }

    fn proving(memory: &Memory) -> Proving {
        challenge().prove(memory.derive(PASSWORD, &challenge().salt, 4096)).1
    }

    /// An exchange of psql with a server, as the tests of postgres-protocol keep it.
    #[test]
    fn says_what_psql_said() {
        let memory = Memory::new();
        assert_eq!(started().message(), "n,,n=,r=9IZ2O01zb9IgiIZ1WJ/zgpJB");
        let (message, proving) = challenge().prove(memory.derive(PASSWORD, &challenge().salt, 4096));
        let proof =
            "c=biws,r=9IZ2O01zb9IgiIZ1WJ/zgpJBjx/oIRLs02gGSHcw1KEty3eY,p=AmNKosjJzS31NTlQYNs5BTeQjdHdk7lOflDo5re2an8=";
        assert_eq!(message, proof);
        proving.finish(SERVER_FINAL, &memory).unwrap();
        // What is remembered says the same.
        let known = memory.find(PASSWORD, &challenge()).unwrap();
        assert_eq!(challenge().prove(known).0, proof);
    }

    #[test]
    fn the_derivation_is_pbkdf2() {
        // RFC 7914, section 11.
        let known = "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc";
        assert_eq!(hex(&*salted(b"passwd", b"salt", 1)), known);
        let long = [b'p'; BLOCK + 1];
        assert_eq!(salted(&long, b"s", 3), salted(&Sha256::digest(long), b"s", 3));
    }

    /// Soft hyphens go, wide letters become plain ones; what SASLprep forbids stays as it is.
    #[test]
    fn passwords_are_prepared_as_servers_do_it() {
        assert_eq!(*normal("I\u{ad}X".as_bytes()), b"IX");
        assert_eq!(*normal("\u{2168}".as_bytes()), b"IX");
        assert_eq!(*normal(b"a\x07b"), b"a\x07b");
        assert_eq!(*normal(b"a\xffb"), b"a\xffb");
    }

    #[test]
    fn only_the_same_password_salt_and_rounds_find_a_key() {
        let memory = Memory::new();
        proving(&memory).finish(SERVER_FINAL, &memory).unwrap();
        assert!(memory.find(PASSWORD, &challenge()).is_some());
        for other in [&b"foobaz"[..], b"fooba", b"foobarx", b""] {
            assert!(memory.find(other, &challenge()).is_none());
        }
        for (from, to) in [("fs3I", "fs3J"), ("4096", "4097")] {
            let changed = String::from_utf8(SERVER_FIRST.to_vec()).unwrap().replace(from, to);
            let changed = started().challenged(changed.as_bytes()).unwrap();
            assert!(memory.find(PASSWORD, &changed).is_none());
        }
        assert!(Memory::new().find(PASSWORD, &challenge()).is_none(), "another process has another key");
        // Where password ends and the rest begins is part of the name.
        assert_ne!(memory.id(b"ab", b"c", 1), memory.id(b"a", b"bc", 1));
    }

    #[test]
    fn who_does_not_know_the_password_is_not_remembered() {
        let memory = Memory::new();
        for last in
            [&b"v=AAAA"[..], b"v=", b"e=other-error", b"v=U+ppxD5XUKtradnv8e2MkeupiA8FU87Sg8CXzXHDAzw=,x", b"\xff", b""]
        {
            assert!(proving(&memory).finish(last, &memory).is_err());
            assert!(memory.kept.lock().is_empty());
        }
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let memory = Memory::new();
        for number in 0..100u8 {
            memory.keep(memory.derive(&[number], b"salt", 1));
        }
        assert_eq!(memory.kept.lock().len(), KEPT.get());
    }

    #[test]
    fn challenges_are_read_strictly() {
        let text = String::from_utf8(SERVER_FIRST.to_vec()).unwrap();
        for (from, to) in [
            ("r=", "m=x,r="),
            ("i=4096", "i=0"),
            ("i=4096", "i=+4096"),
            ("i=4096", "i="),
            ("i=4096", "i=100001"),
            ("i=4096", "i=4096,x=y"),
            (",i=4096", ""),
            ("s=fs3I", "s=?"),
            ("r=9IZ2", "r=8IZ2"),
            ("ty3eY", "ty3e Y"),
        ] {
            let outcome = started().challenged(text.replace(from, to).as_bytes());
            assert!(outcome.is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn the_channel_is_part_of_the_proof() {
        let nonce = "9IZ2O01zb9IgiIZ1WJ/zgpJB".to_owned();
        for (binding, first, encoded) in [
            (Binding::Unrequested, "y,,n=", "eSws"),
            (Binding::EndPoint(vec![1, 2, 3]), "p=tls-server-end-point,,n=", "cD10bHMtc2VydmVyLWVuZC1wb2ludCwsAQID"),
        ] {
            let started = Started { nonce: nonce.clone(), binding };
            assert!(started.message().starts_with(first));
            let challenge = started.challenged(SERVER_FIRST).unwrap();
            assert!(challenge.without_proof.starts_with(&format!("c={encoded},r=")));
            assert!(challenge.covered.ends_with(&challenge.without_proof));
        }
        assert_ne!(
            Started::new(Binding::Unsupported).unwrap().nonce,
            Started::new(Binding::Unsupported).unwrap().nonce
        );
    }
}
