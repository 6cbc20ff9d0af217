//! Secrets that an agent says in a body (a password, a token, the data of a Secret): blotted out of what recordings and approvers see. Lengths
//! stay as they are, so that what is recorded is framed as it was; a digest of all of it stands beside the command, so that a
//! grant is for these values and no others. Policies see them as they are, and so does the target.
//!
//! They are known by the names of their fields: of JSON, of forms, of lines of YAML, and of messages of gRPC whose schema is known. Not promised:
//! secrets under other names, in bodies that are not looked into, and in text over several lines of YAML.

pub mod json;

use std::sync::Arc;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use memchr::memmem;
use smol_str::SmolStr;

use super::action::digest;
use super::route;
use crate::policy::{Command, Parameter};

/// What stands in the place of each byte.
const BLOT: u8 = b'*';
/// What the names of secrets end with, without what is neither letter nor digit.
const ENDS: &[&str] = &[
    "accesskey",
    "apikey",
    "clientassertion",
    "codeverifier",
    "credential",
    "credentials",
    "encryptionkey",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "passwords",
    "privatekey",
    "samlresponse",
    "secret",
    "secretkey",
    "secrets",
    "signingkey",
    "token",
];
/// Bodies that are longer are looked into only where more than the usual names are looked for.
const LENGTH_LIMIT: usize = 256 * 1024;
/// Names of secrets that are too short to end others.
const WHOLE: &[&str] =
    &["assertion", "authorization", "cvc", "cvv", "jwt", "otp", "pass", "passwordconfirmation", "pin", "pwd", "totp"];
/// What names of tokens have that are none: where a list goes on, what a run is called, what can be shown.
const NONE: &[&str] = &["continu", "cursor", "next", "page", "progress", "resume", "sync"];

/// A field that is a secret, by its name.
pub(super) fn is_secret(name: &str) -> bool {
    let plain: SmolStr = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    WHOLE.contains(&plain.as_str())
        || (ENDS.iter().any(|end| plain.ends_with(end)) && !NONE.iter().any(|part| plain.contains(part)))
}

/// What is blotted out of the bodies of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Redaction<'a> {
    /// Names of fields that are secrets there, beside those that are everywhere.
    pub(super) more: &'a [&'a str],
    /// The type of the body, as its head has it.
    pub(super) kind: Option<&'a str>,
}

impl Redaction<'_> {
    /// A body as recordings have it; nothing where that is what it is.
    pub(super) fn body(&self, body: &[u8]) -> Option<Bytes> {
        if (body.len() > LENGTH_LIMIT && self.more.is_empty()) || !self.may_be_in(body) {
            return None;
        }
        let mut out = body.to_vec();
        let kind = self.kind.unwrap_or_default().to_ascii_lowercase();
        if kind.starts_with("application/x-www-form-urlencoded") {
            self.form(&mut out);
        } else if matches!(body.trim_ascii_start().first(), Some(b'{' | b'[')) {
            json::blot(&mut out, &|name| self.hides(name));
        } else if kind.contains("yaml") {
            self.lines(&mut out);
        }
        (out != body).then(|| out.into())
    }

    /// Blots out of a command what people need not see, and binds it to that all the same. `sent` is what was sent with it, and
    /// `shown` that as recordings have it, where that is another.
    pub(super) fn command(&self, command: &mut Command, (sent, shown): (&Bytes, Option<&Bytes>)) {
        let values = self.values(command);
        let is_sent = |value: &Bytes| value.as_ptr() == sent.as_ptr() && value.len() == sent.len();
        let hidden = command.parameters.iter().map(|parameter| match &parameter.value {
            Some(value) if is_sent(value) => shown.cloned(),
            _ => self.parameter(parameter, &values),
        });
        let hidden: Vec<Option<Bytes>> = hidden.collect();
        if hidden.iter().all(Option::is_none) {
            return;
        }
        let whole: Vec<u8> = command.parameters.iter().flat_map(|one| one.value.iter().flatten()).copied().collect();
        command.statement = format!("{}\nbody: sha256 {}", command.statement, digest(&whole, 16)).into();
        let shown = command.parameters.iter().zip(hidden).map(|(parameter, hidden)| Parameter {
            value: hidden.or_else(|| parameter.value.clone()),
            ..parameter.clone()
        });
        command.parameters = Arc::from_iter(shown);
    }

    /// What was sent with a command, before it was redacted, as recordings have it; nothing where that is what it is.
    pub(super) fn sent(&self, bytes: &[u8], command: &Command) -> Option<Bytes> {
        self.body(bytes).or_else(|| blotted(bytes, &self.values(command)))
    }

    fn values(&self, command: &Command) -> Vec<Vec<u8>> {
        let is_binary = self.kind.is_some_and(|kind| kind.contains("protobuf"));
        let http = command.facts.http.as_ref().filter(|http| is_binary || http.grpc.is_some());
        http.map_or_else(Vec::new, |http| self.secrets(http.fields.iter().map(String::as_str)))
    }

    fn secrets<'f>(&self, fields: impl Iterator<Item = &'f str>) -> Vec<Vec<u8>> {
        /// Bytes that are fewer stand everywhere by chance.
        const SHORTEST: usize = 4;
        let is_secret = |(name, _): &(&str, &str)| name.split('.').any(|step| self.hides(step));
        let secret = fields.filter_map(|field| field.split_once('=')).filter(is_secret);
        // Bytes are told in base64.
        let both = secret.flat_map(|(_, value)| [Some(value.as_bytes().to_vec()), BASE64.decode(value).ok()]);
        both.flatten().filter(|value| value.len() >= SHORTEST).collect()
    }

    fn parameter(&self, parameter: &Parameter, values: &[Vec<u8>]) -> Option<Bytes> {
        let value = parameter.value.as_ref()?;
        if !values.is_empty() && !parameter.binary {
            return self.told(value);
        }
        self.body(value).or_else(|| blotted(value, values))
    }

    /// Values that are told a line each.
    fn told(&self, text: &[u8]) -> Option<Bytes> {
        let mut out = text.to_vec();
        for line in out.split_mut(|byte| *byte == b'\n') {
            let Some(at) = memchr::memchr(b'=', line) else { continue };
            let name = String::from_utf8_lossy(line.get(..at).unwrap_or_default()).into_owned();
            if name.split('.').any(|step| self.hides(step)) {
                line.get_mut(at + 1..).unwrap_or_default().fill(BLOT);
            }
        }
        (out != text).then(|| out.into())
    }

    fn hides(&self, name: &str) -> bool {
        is_secret(name) || self.more.iter().any(|more| more.eq_ignore_ascii_case(name))
    }

    /// Whether it is worth to be looked into. An escape may hide a name; whoever hides his own secret so shows it.
    fn may_be_in(&self, body: &[u8]) -> bool {
        const STEMS: [&str; 14] = [
            "pass",
            "secret",
            "token",
            "key",
            "credential",
            "assertion",
            "authorization",
            "verifier",
            "samlresponse",
            "cv",
            "jwt",
            "otp",
            "pin",
            "pwd",
        ];
        static FINDER: std::sync::LazyLock<Option<AhoCorasick>> =
            std::sync::LazyLock::new(|| AhoCorasick::builder().ascii_case_insensitive(true).build(STEMS).ok());
        let known = FINDER.as_ref().is_none_or(|finder| finder.is_match(body));
        known || self.more.iter().any(|more| memmem::find(body, more.as_bytes()).is_some())
    }

    fn form(&self, out: &mut [u8]) {
        for pair in out.split_mut(|byte| *byte == b'&') {
            let Some(at) = memchr::memchr(b'=', pair) else { continue };
            let Some((name, value)) = pair.split_at_mut_checked(at + 1) else { continue };
            let name = String::from_utf8_lossy(name.get(..at).unwrap_or_default());
            let name = route::pairs(&name).ok().and_then(|pairs| pairs.into_iter().next()).map(|(name, _)| name);
            let name = name.unwrap_or_default();
            let step = name.trim_end_matches(']').rsplit(['[', '.']).next().unwrap_or_default();
            if self.hides(step) {
                value.fill(BLOT);
            }
        }
    }

    fn lines(&self, out: &mut [u8]) {
        let mut below = None;
        for line in out.split_mut(|byte| *byte == b'\n') {
            let indent = line.iter().take_while(|byte| matches!(byte, b' ' | b'-')).count();
            let is_below = below.is_some_and(|outer| indent > outer);
            if !is_below {
                below = None;
            }
            let Some(at) = memchr::memchr(b':', line) else {
                if is_below {
                    line.iter_mut().skip(indent).for_each(|byte| *byte = BLOT);
                }
                continue;
            };
            let name = String::from_utf8_lossy(line.get(indent..at).unwrap_or_default())
                .trim_matches(['"', '\'', ' '])
                .to_owned();
            if is_below || self.hides(&name) {
                let rest = line.get_mut(at + 1..).unwrap_or_default();
                let is_block = rest.trim_ascii().is_empty() || matches!(rest.trim_ascii().first(), Some(b'|' | b'>'));
                if is_block {
                    below = below.or(Some(indent));
                } else {
                    rest.iter_mut().filter(|byte| !matches!(byte, b' ' | b'\r')).for_each(|byte| *byte = BLOT);
                }
            }
        }
    }
}

/// Bytes without these values, wherever they stand.
fn blotted(bytes: &[u8], values: &[Vec<u8>]) -> Option<Bytes> {
    if values.is_empty() {
        return None;
    }
    let mut out = bytes.to_vec();
    for value in values {
        let found: Vec<usize> = memmem::find_iter(bytes, value).collect();
        for at in found {
            if let Some(part) = out.get_mut(at..at + value.len()) {
                part.fill(BLOT);
            }
        }
    }
    (out != bytes).then(|| out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(kind: &str, more: &[&str], body: &str) -> String {
        let hidden = Redaction { more, kind: Some(kind) }.body(body.as_bytes());
        hidden.map_or_else(|| body.to_owned(), |hidden| String::from_utf8(hidden.to_vec()).unwrap())
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in [
            "password",
            "userPassword",
            "client_secret",
            "access_token",
            "refreshToken",
            "api-key",
            "PIN",
            "private_key",
            "secret",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "name",
            "next_page_token",
            "nextToken",
            "pageToken",
            "progressToken",
            "max_tokens",
            "passenger",
            "spinning",
            "secretary",
            "key",
            "continuationToken",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn bodies_keep_their_length_and_what_is_no_secret() {
        for (kind, body, expected) in [
            (
                "application/json",
                r#"{"user":"ada","password":"s3\"cr","pin":1234,"a":[{"token":"x"}]}"#,
                r#"{"user":"ada","password":"******","pin":0000,"a":[{"token":"*"}]}"#,
            ),
            (
                "application/json",
                r#"{"secret":{"a":["x",true],"b":-1.5e3},"next":"y"}"#,
                r#"{"secret":{"a":["*",true],"b":-0.0e0},"next":"y"}"#,
            ),
            (
                "application/json",
                r#" {"p\u0061ssword" : "x", "password": "" , "n": 1}"#,
                r#" {"p\u0061ssword" : "*", "password": "" , "n": 1}"#,
            ),
            ("application/json", r#"{"password":"x"#, r#"{"password":"*"#),
            ("application/json", r#"{"maxTokens":5,"nextToken":"abc"}"#, r#"{"maxTokens":5,"nextToken":"abc"}"#),
            (
                "application/x-www-form-urlencoded",
                "grant_type=password&password=s3+c&user%5Bpassword%5D=x&user[password]=y",
                "grant_type=password&password=****&user%5Bpassword%5D=*&user[password]=*",
            ),
            (
                "application/yaml",
                "user: ada\npassword: s3c\nsecrets:\n  a: b\n  c: |\n    dd\nend: x\n",
                "user: ada\npassword: ***\nsecrets:\n  a: *\n  c: |\n    **\nend: x\n",
            ),
            ("text/plain", "password=x", "password=x"),
        ] {
            assert_eq!(shown(kind, &[], body), expected);
        }
        let secret = r#"{"kind":"Secret","data":{"a":"eA=="},"metadata":{"name":"x"}}"#;
        assert_eq!(shown("application/json", &["data"], secret), secret.replace("eA==", "****"));
    }
}
