//! The signing key of a spool, and signed checkpoints in the C2SP forms (`signed-note`, `tlog-checkpoint`).
//!
//! Specifications: <https://c2sp.org/signed-note>, <https://c2sp.org/tlog-checkpoint>. The key's name, and with it the
//! origin line of checkpoints, is derived from the public key: one key signs one spool, and that key alone is needed to
//! verify it. Not owned: when to sign.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::event::hex;
use super::merkle::{Hash, Tree};
use crate::secret::write_new;

/// Signs checkpoints. Never printed.
pub struct SigningKey {
    key: ed25519_dalek::SigningKey,
    public: PublicKey,
}

impl SigningKey {
    /// A fresh key.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut()).map_err(|_| KeyError::Randomness)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key of that seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = PublicKey::from_key(key.verifying_key());
        Self { key, public }
    }

    /// Reads the key at `path` (PKCS#8 PEM, or 32 raw bytes).
    ///
    /// # Errors
    /// When it cannot be read, is readable by everybody, or is no Ed25519 key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let file = fs::File::open(path).map_err(KeyError::io("read", path))?;
        let meta = file.metadata().map_err(KeyError::io("read", path))?;
        if meta.permissions().mode() & FORBIDDEN_MODE != 0 {
            return Err(KeyError::Exposed(path.to_owned()));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE));
        let limit = u64::try_from(MAX_KEY_FILE).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut bytes).map_err(KeyError::io("read", path))?;
        if let Ok(seed) = <&[u8; 32]>::try_from(bytes.as_slice()) {
            return Ok(Self::from_seed(seed));
        }
        let bad = || KeyError::Malformed(path.to_owned());
        let text = std::str::from_utf8(&bytes).map_err(|_| bad())?;
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(text).map_err(|_| bad())?;
        let public = PublicKey::from_key(key.verifying_key());
        Ok(Self { key, public })
    }

    /// Reads the key at `path`, or makes one there (mode 0600) with its public key beside it.
    ///
    /// # Errors
    /// As [`SigningKey::load`], or when it cannot be written.
    pub fn load_or_generate(path: &Path) -> Result<Self, KeyError> {
        if !path.try_exists().map_err(KeyError::io("look for", path))? {
            Self::generate()?.store(path)?;
        }
        let key = Self::load(path)?;
        let beside = public_path(path);
        match fs::read_to_string(&beside) {
            Ok(text) if text.trim() == key.public.to_string() => {}
            Ok(_) => return Err(KeyError::Mismatch(beside)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Beside a systemd credential nothing can be written; the public key is in every segment as well.
                if let Err(error) = write_new(&beside, format!("{}\n", key.public).as_bytes(), 0o644) {
                    tracing::warn!(path = %beside.display(), %error, key = %key.public, "the public key is not stored beside the key");
                }
            }
            Err(error) => return Err(KeyError::io("read", &beside)(error)),
        }
        Ok(key)
    }

    /// What verifies the signatures.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The signed note that says: the tree of that size has this root, and the chain has come to this where the note stands. The
    /// chain goes through all that is no frame as well: headers with their wrapped keys, earlier checkpoints.
    #[must_use]
    pub fn checkpoint(&self, tree: &Tree, chain: &Hash) -> String {
        let (root, chain) = (STANDARD.encode(tree.root()), STANDARD.encode(chain));
        let body = format!("{}\n{}\n{root}\n{CHAIN}{chain}\n", self.public.name, tree.size());
        let signature = self.key.sign(body.as_bytes());
        let mut signed = self.public.hash.to_vec();
        signed.extend_from_slice(&signature.to_bytes());
        format!("{body}\n\u{2014} {} {}\n", self.public.name, STANDARD.encode(signed))
    }

    fn store(&self, path: &Path) -> Result<(), KeyError> {
        let pem = self.key.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::Malformed(path.to_owned()))?;
        write_new(path, pem.as_bytes(), 0o600).map_err(KeyError::io("write", path))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Verifies checkpoints. Its text form is the `vkey` of C2SP signed-note: `name+hash+base64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    name: String,
    hash: [u8; 4],
}

impl PublicKey {
    /// The key of those 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        VerifyingKey::from_bytes(bytes).ok().map(Self::from_key)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Reads the text form from a file.
    ///
    /// # Errors
    /// When it cannot be read or holds no such key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let mut text = String::new();
        let limit = u64::try_from(MAX_KEY_FILE).unwrap_or(u64::MAX);
        let file = fs::File::open(path).map_err(KeyError::io("read", path))?;
        file.take(limit).read_to_string(&mut text).map_err(KeyError::io("read", path))?;
        Self::parse(&text).ok_or_else(|| KeyError::NotPublic(path.to_owned()))
    }

    /// Reads the text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(3, '+');
        let (name, hash, key) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes = STANDARD.decode(key).ok()?;
        let (algorithm, bytes) = bytes.split_first()?;
        let public = Self::from_bytes(bytes.try_into().ok()?)?;
        (*algorithm == ED25519 && public.name == name && hex(&public.hash) == hash).then_some(public)
    }

    /// The origin line of checkpoints that this key signs.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.name
    }

    /// What a signed note says, where this key signed it and it is a checkpoint of this key's spool.
    ///
    /// # Errors
    /// Which part is wrong.
    pub fn open_checkpoint(&self, note: &[u8]) -> Result<Checkpoint, NoteError> {
        let text = std::str::from_utf8(note).map_err(|_| NoteError::Malformed)?;
        let (body, signatures) = text.split_once("\n\n").ok_or(NoteError::Malformed)?;
        let signed = format!("{body}\n");
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Malformed);
        };
        if origin != self.name {
            return Err(NoteError::Origin(origin.chars().take(100).collect()));
        }
        let (chain, more) = (lines.next(), lines.next());
        let chain =
            chain.map(|line| line.strip_prefix(CHAIN).and_then(hash).ok_or(NoteError::Malformed)).transpose()?;
        if more.is_some() {
            return Err(NoteError::Malformed);
        }
        if !signatures.ends_with('\n') || !signatures.lines().any(|line| self.signed(line, signed.as_bytes())) {
            return Err(NoteError::Signature);
        }
        let number: u64 = size.parse().map_err(|_| NoteError::Malformed)?;
        let root = hash(root).ok_or(NoteError::Malformed)?;
        if number.to_string() != size {
            return Err(NoteError::Malformed);
        }
        Ok(Checkpoint { size: number, root, chain })
    }

    fn signed(&self, line: &str, body: &[u8]) -> bool {
        let signature = || {
            let (name, encoded) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
            let bytes = STANDARD.decode(encoded).ok()?;
            let signature = bytes.strip_prefix(self.hash.as_slice())?;
            (name == self.name).then_some(())?;
            Signature::from_slice(signature).ok()
        };
        signature().is_some_and(|signature| self.key.verify_strict(body, &signature).is_ok())
    }

    fn from_key(key: VerifyingKey) -> Self {
        let digest: Hash = Sha256::digest(key.as_bytes()).into();
        let name = format!("interceptor/{}", hex(digest.get(..8).unwrap_or_default()));
        let tagged = Sha256::new().chain_update(&name).chain_update([b'\n', ED25519]).chain_update(key.as_bytes());
        let tagged: Hash = tagged.finalize().into();
        let hash = tagged.first_chunk().copied().unwrap_or_default();
        Self { key, name, hash }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tagged = vec![ED25519];
        tagged.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, hex(&self.hash), STANDARD.encode(tagged))
    }
}

/// What a checkpoint says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of frames.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// The chain up to where it stands; earlier versions have not said it.
    pub chain: Option<Hash>,
}

/// Begins the line of a note that says the chain.
const CHAIN: &str = "chain ";

fn hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// Why a note is no checkpoint of a spool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It has not the form.
    #[error("is not a checkpoint")]
    Malformed,
    /// It belongs to another spool.
    #[error("belongs to {0:?}")]
    Origin(String),
    /// This key did not sign it.
    #[error("is not signed by this key")]
    Signature,
}

/// Why a key is unusable.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file operation failed.
    #[error("cannot {what} the key {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others can read or change it.
    #[error("the signing key {} can be read by others: chmod 600 it", .0.display())]
    Exposed(PathBuf),
    /// It is no Ed25519 key.
    #[error("{} is no Ed25519 key: PKCS#8 PEM or 32 raw bytes are wanted", .0.display())]
    Malformed(PathBuf),
    /// It is no public key in the text form.
    #[error("{} holds no public key of a spool: a line as `interceptor/...+...+...` is wanted, from the .pub file beside the signing key", .0.display())]
    NotPublic(PathBuf),
    /// Key and public key do not belong together.
    #[error("{} is not the public key of the signing key beside it: one of the two was replaced", .0.display())]
    Mismatch(PathBuf),
    /// No randomness.
    #[error("the operating system gives no randomness")]
    Randomness,
}

impl KeyError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// Where the public key of a signing key lies.
#[must_use]
pub fn public_path(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

/// Others may do nothing with a signing key; its group may read, as the access list of a systemd credential shows.
const FORBIDDEN_MODE: u32 = 0o037;

const ED25519: u8 = 1;

const MAX_KEY_FILE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::merkle;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.push(merkle::leaf(b"one"));
        tree.push(merkle::leaf(b"two"));
        tree
    }

    #[test]
    fn a_checkpoint_is_read_back() {
        let key = SigningKey::from_seed(&[7; 32]);
        let note = key.checkpoint(&tree(), &[3; 32]);
        let read = key.public().open_checkpoint(note.as_bytes()).unwrap();
        assert_eq!(read, Checkpoint { size: 2, root: tree().root(), chain: Some([3; 32]) });
        assert_eq!(note.split('\n').next(), Some(key.public().origin()));
    }

    #[test]
    fn no_byte_of_a_checkpoint_can_change() {
        let key = SigningKey::from_seed(&[7; 32]);
        let note = key.checkpoint(&tree(), &[3; 32]);
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(key.public().open_checkpoint(&bytes).is_err(), "byte {at}");
            assert!(key.public().open_checkpoint(&note.as_bytes()[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_key_signs_nothing_here() {
        let note = SigningKey::from_seed(&[8; 32]).checkpoint(&tree(), &[3; 32]);
        let ours = SigningKey::from_seed(&[7; 32]);
        assert!(matches!(ours.public().open_checkpoint(note.as_bytes()), Err(NoteError::Origin(_))));
    }

    #[test]
    fn the_public_key_survives_text() {
        let public = SigningKey::from_seed(&[7; 32]).public().clone();
        assert_eq!(PublicKey::parse(&public.to_string()), Some(public.clone()));
        assert_eq!(PublicKey::parse(&public.to_string().replace("interceptor", "interceptoR")), None);
    }

    #[test]
    fn keys_are_made_private_once_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool.key");
        let first = SigningKey::load_or_generate(&path).unwrap();
        let again = SigningKey::load_or_generate(&path).unwrap();
        assert_eq!(first.public(), again.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(&PublicKey::load(&public_path(&path)).unwrap(), first.public());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(SigningKey::load(&path), Err(KeyError::Exposed(_))));

        fs::write(&path, [9u8; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(SigningKey::load(&path).unwrap().public(), SigningKey::from_seed(&[9; 32]).public());
        assert!(matches!(SigningKey::load_or_generate(&path), Err(KeyError::Mismatch(_))));
    }
}
