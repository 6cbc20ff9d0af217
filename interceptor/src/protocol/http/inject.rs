//! The credential in a request: put in, in the place of whatever the agent has there.

mod sigv4;

use std::borrow::Cow;

use base64::Engine as _;
use serde::Deserialize;

use super::claims;
use super::codec::{self, Field, Fields, RequestHead};
use super::route;
use crate::clock::Timestamp;
use crate::protocol::Login;

/// How a target is shown its credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogIn {
    /// `Authorization: Bearer`, with the password as the token (RFC 6750).
    #[default]
    Bearer,
    /// `Authorization: Basic`, with user and password (RFC 7617).
    Basic,
    /// A field of that name, with the password as it is.
    Header(String),
    /// A parameter of the query of that name, with the password.
    Query(String),
    /// A signature of AWS, with the access key as user and the secret key as password.
    Sigv4(sigv4::Scope),
}

impl LogIn {
    pub(super) fn check(&self) -> Result<(), String> {
        let framing =
            ["host", "content-length", "connection", "transfer-encoding", "expect", "te", "upgrade", "trailer"];
        match self {
            Self::Header(name) if !codec::is_token(name) || framing.contains(&name.to_ascii_lowercase().as_str()) => {
                Err(format!("http.log_in: `{name}` is no name of a field that a credential could stand in"))
            }
            Self::Query(name) if name.is_empty() => Err("http.log_in: the parameter has no name".to_owned()),
            Self::Sigv4(scope) => scope.check(),
            _ => Ok(()),
        }
    }

    /// The field of its own that it stands in.
    pub(super) fn field(&self) -> Option<&str> {
        match self {
            Self::Header(name) => Some(name),
            Self::Bearer | Self::Basic | Self::Query(_) | Self::Sigv4(_) => None,
        }
    }

    /// Whether a parameter of the agent's goes for it.
    pub(super) fn replaces(&self, name: &str) -> bool {
        match self {
            Self::Query(own) => claims::parameter(own) == claims::parameter(name),
            Self::Sigv4(_) => sigv4::is_presigned(name),
            Self::Bearer | Self::Basic | Self::Header(_) => false,
        }
    }

    /// Takes the agent's own out of the query, before anybody looks at it.
    pub(super) fn clean(&self, head: &mut RequestHead) {
        if let Self::Query(name) = self
            && head.target.contains('?')
        {
            head.target = replaced(&head.target, name, None);
        }
    }

    /// Puts the credential in. Whatever the agent has in its place, and in `Authorization`, goes. `signed` is when that is, and
    /// the whole body, where it is known.
    ///
    /// # Errors
    /// A sentence: it cannot stand there.
    pub(super) fn put(
        &self,
        head: &mut RequestHead,
        login: &Login,
        signed: (Timestamp, Option<&[u8]>),
    ) -> Result<(), String> {
        if let Self::Sigv4(scope) = self {
            return scope.sign(head, login, signed);
        }
        head.fields.remove("authorization");
        let secret = login.password.as_ref().map(|password| password.expose());
        match self {
            Self::Bearer => set(&mut head.fields, "authorization", secret.map(|secret| [b"Bearer ", secret].concat())),
            Self::Basic => {
                let pair = secret.map(|secret| [login.user.as_bytes(), b":", secret].concat());
                let coded = pair.map(|pair| base64::engine::general_purpose::STANDARD.encode(pair));
                set(&mut head.fields, "authorization", coded.map(|coded| format!("Basic {coded}").into_bytes()))
            }
            Self::Header(name) => {
                let name = name.to_ascii_lowercase();
                head.fields.remove(&name);
                set(&mut head.fields, &name, secret.map(<[u8]>::to_vec))
            }
            Self::Query(name) => {
                head.target = replaced(&head.target, name, secret);
                Ok(())
            }
            Self::Sigv4(_) => Ok(()),
        }
    }

    /// What recordings show of the target of a request that goes there.
    pub(super) fn shown_target<'a>(&self, head: &'a RequestHead) -> Cow<'a, str> {
        match self {
            Self::Query(name) => Cow::Owned(replaced(&head.target, name, Some(REDACTED.as_bytes()))),
            Self::Header(_) | Self::Bearer | Self::Basic | Self::Sigv4(_) => Cow::Borrowed(&head.target),
        }
    }

    /// What they show of the value of one of its fields.
    pub(super) fn shown<'a>(&self, field: &'a Field) -> &'a [u8] {
        match self {
            Self::Header(name) if codec::is_alike(&field.name, &name.to_ascii_lowercase()) => REDACTED.as_bytes(),
            _ => shown(field),
        }
    }
}

/// What recordings show of the value of any field.
pub(super) fn shown(field: &Field) -> &[u8] {
    if super::action::is_hidden(field) { REDACTED.as_bytes() } else { &field.value }
}

const REDACTED: &str = "REDACTED";

fn set(fields: &mut Fields, name: &str, value: Option<Vec<u8>>) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    // A line break in a secret would be another field.
    if !value.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ' || *byte > 127) {
        return Err("the credential has characters that no field can have".to_owned());
    }
    fields.set(name, value);
    Ok(())
}

/// The target with this parameter, and no other that a server could take for it, however that is written.
fn replaced(target: &str, name: &str, value: Option<&[u8]>) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let own = claims::parameter(name);
    let is_it = |part: &str| {
        route::pairs(part).is_ok_and(|pairs| pairs.iter().any(|(found, _)| claims::parameter(found) == own))
    };
    let mut parts: Vec<String> =
        query.split('&').filter(|part| !part.is_empty() && !is_it(part)).map(str::to_owned).collect();
    if let Some(value) = value {
        parts.push(format!("{}={}", escaped(name.as_bytes()), escaped(value)));
    }
    if parts.is_empty() { path.to_owned() } else { format!("{path}?{}", parts.join("&")) }
}

fn escaped(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    bytes.iter().map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const NOW: (Timestamp, Option<&[u8]>) = (Timestamp(0), None);

    fn head(text: &str) -> RequestHead {
        codec::request(text.as_bytes()).unwrap().unwrap().0
    }

    fn login(password: &str) -> Login {
        Login { user: "svc".into(), password: Some(Secret::from(password)), session: None }
    }

    #[test]
    fn the_agents_own_goes_and_ours_stands_in_its_place() {
        let asked = "GET /a?x=1&%6bey=theirs&key=theirs HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer theirs\r\nX-Key: theirs\r\n\r\n";
        for (log_in, name, value) in [
            (LogIn::Bearer, "authorization", "Bearer s3cret"),
            (LogIn::Basic, "authorization", "Basic c3ZjOnMzY3JldA=="),
            (LogIn::Header("X-Key".into()), "x-key", "s3cret"),
        ] {
            let mut head = head(asked);
            log_in.put(&mut head, &login("s3cret"), NOW).unwrap();
            assert_eq!(head.fields.all(name).collect::<Vec<_>>(), [value.as_bytes()]);
            assert_eq!(head.fields.get("authorization").is_some(), name == "authorization");
            let mut out = Vec::new();
            head.write_as(&mut out, &log_in.shown_target(&head), |field| log_in.shown(field));
            let shown = String::from_utf8_lossy(&out);
            assert!(!shown.contains("s3cret") && shown.contains(&format!("{name}: REDACTED\r\n")), "{shown}");
        }
        let mut head = head(asked);
        let query = LogIn::Query("key".into());
        query.put(&mut head, &login("s3 cret&"), NOW).unwrap();
        assert_eq!(head.target, "/a?x=1&key=s3%20cret%26");
        assert_eq!(query.shown_target(&head), "/a?x=1&key=REDACTED");
    }

    #[test]
    fn a_secret_is_no_field_of_its_own() {
        let mut head = head("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(LogIn::Bearer.put(&mut head, &login("a\r\nX-Admin: 1"), NOW).is_err());
        for name in ["Host", "content-length", "a b", ""] {
            assert!(LogIn::Header(name.into()).check().is_err(), "{name}");
        }
        assert!(LogIn::Query(String::new()).check().is_err());
    }
}
