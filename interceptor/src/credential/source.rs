//! Sources of secrets: a file, a systemd credential, the daemon's environment, a program, the configuration itself.
//!
//! Files are bounded and have to be closed to everybody else (see [`crate::secret::read_file`]); one line end at the end
//! is not part of the secret.

use std::env;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

use super::exec::Exec;
use super::{MAX_PASSWORD, Misconfigured};
use crate::clock::Timestamp;
use crate::secret::{self, Secret, Unreadable};

/// The most that the token of a session may hold, in bytes.
pub(super) const MAX_SESSION: usize = 8 * 1024;
/// Where systemd puts the credentials of a service.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Where secrets come from. A second implementation stands in tests, and one day a vault.
pub trait SecretSource: Send + Sync {
    /// What the source is called in the configuration, without any secret.
    fn describe(&self) -> String;

    /// The secret as it is now.
    fn fetch(&self) -> BoxFuture<'_, Result<Secret, SourceError>>;

    /// The same, with what is known of it beside.
    fn fetch_until(&self) -> BoxFuture<'_, Result<Fetched, SourceError>> {
        Box::pin(async { self.fetch().await.map(Fetched::of) })
    }
}

/// A secret, and what is known of it.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The secret.
    pub secret: Secret,
    /// Until when it can be used, where that is known.
    pub until: Option<Timestamp>,
    /// What stands beside it, where it is a key of AWS.
    pub keys: Option<Keys>,
}

impl Fetched {
    /// A secret of which nothing else is known.
    #[must_use]
    pub fn of(secret: Secret) -> Self {
        Self { secret, until: None, keys: None }
    }
}

/// What stands beside a secret key of AWS. It only signs: nobody is shown the secret.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The access key, in the place of the configured user.
    pub user: String,
    /// The token of a session, where the keys are temporary.
    pub session: Option<Secret>,
}

/// Why a source gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file was not read.
    #[error("{0}")]
    File(#[from] Unreadable),
    /// The service has no credentials.
    #[error("{CREDENTIALS} is not set: add LoadCredential= to the service")]
    NoCredentials,
    /// The variable is missing, or not Unicode.
    #[error("the daemon's environment has no such variable")]
    NoVariable,
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is longer than [`MAX_PASSWORD`].
    #[error("it holds more than {MAX_PASSWORD} bytes")]
    TooLong,
    /// It holds a NUL, which no target takes.
    #[error("it holds a NUL byte")]
    Nul,
    /// The program that makes it has failed.
    #[error("its program ended with {0}")]
    Program(std::process::ExitStatus),
    /// It was started before, and has not ended.
    #[error("its program was started before, and has not ended yet")]
    Hangs,
    /// What the program prints is none.
    #[error("its program prints no ExecCredential with a token, nor keys of AWS, or a time that is none")]
    NoToken,
    /// What the program prints are no keys.
    #[error("its program prints keys of AWS that are none, or of another version than 1")]
    NoKeys,
    /// Keys that would be shown, where they may only sign.
    #[error("its program prints keys of AWS, which are for targets with `log_in = {{ sigv4 = ... }}` alone")]
    Keys,
    /// Somebody else could exchange the program.
    #[error("{} leads to its program, and others than root and the daemon's user can change it: chown root and chmod go-w it", .0.display())]
    Place(PathBuf),
    /// The issuer of tokens gave none.
    #[error("{0}")]
    Issuer(String),
    /// The reader was interrupted.
    #[error("reading it was interrupted")]
    Interrupted,
}

/// The text after `password =`. It may be a password that somebody put there by mistake, so it is held as a secret, is
/// read without complaint (a complaint of the reader would quote it), and refused by [`Place::source`].
#[derive(Clone)]
pub struct Place(Secret);

impl Place {
    pub(super) fn source(&self) -> Result<Arc<dyn SecretSource>, Misconfigured> {
        let text = self.0.expose_str().unwrap_or_default();
        let Some((scheme, rest)) = text.split_once(':') else { return Err(Misconfigured::Literal) };
        Ok(match scheme {
            "file" => {
                let path = PathBuf::from(rest);
                if !path.is_absolute() {
                    return Err(Misconfigured::Name { scheme: "file", needs: "an absolute path" });
                }
                Arc::new(File(path))
            }
            "systemd" => {
                // One plain component: the name must not lead out of the directory.
                let mut parts = Path::new(rest).components();
                if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                    return Err(Misconfigured::Name { scheme: "systemd", needs: "the name of a credential" });
                }
                Arc::new(Systemd { name: rest.to_owned(), directory: env::var_os(CREDENTIALS).map(PathBuf::from) })
            }
            "env" => {
                if rest.is_empty() || rest.contains(['=', '\0']) {
                    return Err(Misconfigured::Name { scheme: "env", needs: "the name of a variable" });
                }
                Arc::new(Env(rest.to_owned()))
            }
            "exec" => match Exec::parse(rest) {
                Some(exec) => Arc::new(exec),
                None => return Err(Misconfigured::Name { scheme: "exec", needs: "the absolute path of a program" }),
            },
            "plain" => Arc::new(Plain(Secret::from(rest))),
            _ => return Err(Misconfigured::Literal),
        })
    }
}

impl From<&str> for Place {
    fn from(text: &str) -> Self {
        Self(Secret::from(text))
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place(..)")
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlaceVisitor)
    }
}

/// A number or a truth value may be a password, too: it is read, and refused like any literal.
struct PlaceVisitor;

impl Visitor<'_> for PlaceVisitor {
    type Value = Place;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("where the password is, as \"file:/path\"")
    }

    fn visit_str<E>(self, text: &str) -> Result<Place, E> {
        Ok(Place::from(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Place, E> {
        Ok(Place(Secret::new(text.into_bytes())))
    }

    fn visit_bool<E>(self, _value: bool) -> Result<Place, E> {
        Ok(Place::from(""))
    }

    fn visit_i64<E>(self, _value: i64) -> Result<Place, E> {
        Ok(Place::from(""))
    }

    fn visit_u64<E>(self, _value: u64) -> Result<Place, E> {
        Ok(Place::from(""))
    }

    fn visit_f64<E>(self, _value: f64) -> Result<Place, E> {
        Ok(Place::from(""))
    }
}

struct File(PathBuf);

impl SecretSource for File {
    fn describe(&self) -> String {
        format!("file:{}", self.0.display())
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Secret, SourceError>> {
        Box::pin(read(self.0.clone()))
    }
}

struct Systemd {
    name: String,
    directory: Option<PathBuf>,
}

impl SecretSource for Systemd {
    fn describe(&self) -> String {
        format!("systemd:{}", self.name)
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Secret, SourceError>> {
        Box::pin(async move {
            let directory = self.directory.as_ref().ok_or(SourceError::NoCredentials)?;
            read(directory.join(&self.name)).await
        })
    }
}

#[cfg(test)]
pub(super) fn systemd(name: &str, directory: Option<PathBuf>) -> Arc<dyn SecretSource> {
    Arc::new(Systemd { name: name.to_owned(), directory })
}

struct Env(String);

impl SecretSource for Env {
    fn describe(&self) -> String {
        format!("env:{}", self.0)
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Secret, SourceError>> {
        Box::pin(async move {
            let value = env::var(&self.0).map_err(|_| SourceError::NoVariable)?;
            Ok(Secret::new(value.into_bytes()))
        })
    }
}

struct Plain(Secret);

impl SecretSource for Plain {
    fn describe(&self) -> String {
        "plain:..".into()
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Secret, SourceError>> {
        Box::pin(async move { Ok(self.0.clone()) })
    }
}

/// Off the runtime's threads, as a network file system may stall.
async fn read(path: PathBuf) -> Result<Secret, SourceError> {
    // Two more than a password: its line end.
    let limit = (MAX_PASSWORD + 2) as u64;
    let reading = tokio::task::spawn_blocking(move || secret::read_file(&path, limit));
    let whole = match reading.await {
        Ok(read) => read.map_err(|error| match error {
            Unreadable::TooLarge(_) => SourceError::TooLong,
            Unreadable::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                SourceError::File(Unreadable::Io(io::Error::new(error.kind(), "there is no such file")))
            }
            error => SourceError::File(error),
        })?,
        Err(_interrupted) => return Err(SourceError::Interrupted),
    };
    let bytes = whole.expose();
    let line = bytes.strip_suffix(b"\n").map_or(bytes, |line| line.strip_suffix(b"\r").unwrap_or(line));
    Ok(Secret::new(line.to_vec()))
}
