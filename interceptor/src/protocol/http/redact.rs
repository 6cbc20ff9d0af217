//! Secrets that an agent says in a body (a password, a token, the data of a Secret): blotted out of what recordings and approvers see. Lengths
//! stay as they are, so that what is recorded is framed as it was; a digest of all of it stands beside the command, so that a
//! grant is for these values and no others. Policies see them as they are, and so does the target.
//!
//! They are known by the names of their fields: of JSON, of forms, of lines of YAML, and of messages of gRPC whose schema is known. A name hides
//! texts and numbers right under it, and lists of those; what has names of its own below is told by these, so that people see which Secret a
//! pod gets. Messages whose secrets are not found in their bytes are blotted out as a whole. Not promised: secrets under other names, in bodies that
//! are not looked into, and in YAML that is written with braces.

pub mod json;

use std::sync::Arc;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use memchr::memmem;
use smol_str::SmolStr;

use super::route;
use crate::policy::{Command, Parameter};
use json::Hides;

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
/// Codes that log in.
const CODES: &[&str] = &["mfacode", "otpcode", "totpcode", "twofactorcode", "verificationcode"];
/// Names of secrets that are too short to end others.
const WHOLE: &[&str] =
    &["assertion", "authorization", "cvc", "cvv", "jwt", "otp", "pass", "passwordconfirmation", "pin", "pwd", "totp"];
/// Names of tokens that are none: where a list goes on, what a run is called, what can be shown.
const NONE: &[&str] = &[
    "continuationtoken",
    "continuetoken",
    "cursortoken",
    "nexttoken",
    "pagetoken",
    "pagingtoken",
    "paginationtoken",
    "progresstoken",
    "resumetoken",
    "synctoken",
];
/// Words that are secrets where one of them ends a name of several.
const WORDS: &[&str] = &["pass", "pwd", "pin", "otp"];

/// Whether that begins as JSON does, of one document or several.
fn is_json(body: &[u8]) -> bool {
    let body = body.strip_prefix(json::BOM).unwrap_or(body);
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace() && **byte != json::SEPARATOR);
    matches!(first, Some(b'{' | b'['))
}

/// A field that is a secret, by its name.
pub(super) fn is_secret(name: &str) -> bool {
    let plain: SmolStr = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let plain = plain.trim_end_matches(|c: char| c.is_ascii_digit());
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    WHOLE.contains(&plain)
        || WORDS.iter().any(|word| ends_with_word(name, word))
        || CODES.contains(&plain)
        || (ENDS.iter().any(|end| plain.ends_with(end)) && !NONE.iter().any(|none| plain.ends_with(none)))
}

/// Whether that is the last word of a name of several: `db_pass`, `dbPass`.
fn ends_with_word(name: &str, word: &str) -> bool {
    let Some(at) = name.len().checked_sub(word.len()) else { return false };
    let (Some(before), Some(last)) = (name.get(..at), name.get(at..)) else { return false };
    let is_cut = before.ends_with(|c: char| !c.is_ascii_alphanumeric())
        || (before.ends_with(|c: char| c.is_ascii_lowercase()) && last.starts_with(|c: char| c.is_ascii_uppercase()));
    is_cut && last.eq_ignore_ascii_case(word)
}

/// What binds a grant to secrets without saying them: whoever has the rest could try out what they are, without the key, which this
/// process alone has. Nothing where there is no chance to be had.
fn bound(whole: &[u8]) -> Option<String> {
    static KEY: std::sync::LazyLock<Option<[u8; 32]>> = std::sync::LazyLock::new(|| {
        let mut key = [0; 32];
        getrandom::fill(&mut key).ok().map(|()| key)
    });
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(KEY.as_ref()?).ok()?;
    mac.update(whole);
    Some(mac.finalize().into_bytes().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
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
        } else if is_json(body) {
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
        // Without one, a request is never the same as another.
        let bound = bound(&whole).unwrap_or_else(|| format!("unknown, of analysis {}", command.analysis));
        command.statement = format!("{}\nbody: hmac {bound}", command.statement).into();
        let shown = command.parameters.iter().zip(hidden).map(|(parameter, hidden)| Parameter {
            value: hidden.or_else(|| parameter.value.clone()),
            ..parameter.clone()
        });
        command.parameters = Arc::from_iter(shown);
    }

    /// What was sent with a command, before it was redacted, as recordings have it; nothing where that is what it is.
    pub(super) fn sent(&self, bytes: &[u8], command: &Command) -> Option<Bytes> {
        self.both(bytes, &self.values(command))
    }

    fn both(&self, bytes: &[u8], values: &[Secret]) -> Option<Bytes> {
        let without = blotted(bytes, values);
        self.body(without.as_deref().unwrap_or(bytes)).or(without)
    }

    fn values(&self, command: &Command) -> Vec<Secret> {
        let is_binary = self.kind.is_some_and(|kind| kind.to_ascii_lowercase().contains("protobuf"));
        let http = command.facts.http.as_ref().filter(|http| is_binary || http.grpc.is_some());
        http.map_or_else(Vec::new, |http| self.secrets(http.fields.iter().map(String::as_str)))
    }

    fn secrets<'f>(&self, fields: impl Iterator<Item = &'f str>) -> Vec<Secret> {
        let secret = fields.filter_map(|field| field.split_once('=')).filter(|(name, _)| self.hides_path(name));
        // Bytes are told in base64.
        let both = |(_, value): (&str, &str)| Secret { told: value.into(), bytes: BASE64.decode(value).ok() };
        secret.filter(|(_, value)| !is_word(value)).map(both).collect()
    }

    fn parameter(&self, parameter: &Parameter, values: &[Secret]) -> Option<Bytes> {
        let value = parameter.value.as_ref()?;
        if !values.is_empty() && !parameter.binary {
            return self.told(value);
        }
        self.both(value, values)
    }

    /// Values that are told a line each.
    fn told(&self, text: &[u8]) -> Option<Bytes> {
        let mut out = text.to_vec();
        for line in out.split_mut(|byte| *byte == b'\n') {
            let Some(at) = memchr::memchr(b'=', line) else { continue };
            let name = String::from_utf8_lossy(line.get(..at).unwrap_or_default()).into_owned();
            let said = line.get_mut(at + 1..).unwrap_or_default();
            if self.hides_path(&name) && !std::str::from_utf8(said).is_ok_and(is_word) {
                said.fill(BLOT);
            }
        }
        (out != text).then(|| out.into())
    }

    fn hides(&self, name: &str) -> Hides {
        if self.more.iter().any(|more| more.eq_ignore_ascii_case(name)) {
            Hides::All
        } else if is_secret(name) {
            Hides::Value
        } else {
            Hides::Nothing
        }
    }

    /// The same of a name with all that it stands in: `items.0.password`. Keys may have dots themselves.
    fn hides_path(&self, path: &str) -> bool {
        // Keys that have dots stand in quotes.
        let path = path.replace('"', "");
        let folded = format!(".{}.", path.to_ascii_lowercase());
        let is_below = |more: &&str| folded.contains(&format!(".{}.", more.to_ascii_lowercase()));
        let is_place = |step: &&str| step.is_empty() || step.bytes().any(|byte| !byte.is_ascii_digit());
        let last = path.rsplit('.').find(is_place).unwrap_or_default();
        is_secret(last) || self.more.iter().any(is_below)
    }

    /// Whether it is worth to be looked into. An escape may hide a name; whoever hides his own secret so shows it.
    fn may_be_in(&self, body: &[u8]) -> bool {
        const STEMS: [&str; 16] = [
            "pass",
            "secret",
            "token",
            "key",
            "credential",
            "assertion",
            "authorization",
            "verifier",
            "saml",
            "code",
            "signature",
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
            if self.hides(step) > Hides::Nothing {
                value.fill(BLOT);
            }
        }
    }

    fn lines(&self, out: &mut [u8]) {
        let mut lines = Lines::default();
        for line in out.split_mut(|byte| *byte == b'\n') {
            self.line(line, &mut lines);
        }
    }

    fn line(&self, line: &mut [u8], lines: &mut Lines) {
        let indent = line.iter().take_while(|byte| matches!(byte, b' ' | b'-')).count();
        if line.trim_ascii().is_empty() {
            return;
        }
        let dashes = line.iter().take(indent).any(|byte| *byte == b'-');
        lines.at(indent, dashes);
        let text = line.get_mut(indent..).unwrap_or_default();
        if lines.text.is_some() {
            return blot(text);
        }
        let Some(at) = key_of(text) else {
            if lines.all.is_some() || lines.list.is_some() {
                blot(text);
            }
            return;
        };
        let name =
            String::from_utf8_lossy(text.get(..at).unwrap_or_default()).trim_matches(['"', '\'', ' ']).to_owned();
        let rest = text.get_mut(at + 1..).unwrap_or_default();
        let said = String::from_utf8_lossy(rest).trim().trim_matches(['"', '\'']).to_owned();
        let mut hides = self.hides(&name);
        if matches!(name.as_str(), "name" | "key") && self.hides(&said) > Hides::Nothing {
            lines.named = Some(indent);
        } else if name == "value" && lines.named == Some(indent) {
            hides = hides.max(Hides::Value);
        }
        if lines.all.is_none() && (hides == Hides::Nothing || (!said.is_empty() && is_word(&said))) {
            return;
        }
        let is_block = matches!(said.chars().next(), Some('|' | '>'));
        if said.is_empty() {
            if hides == Hides::All {
                lines.all = lines.all.or(Some(indent));
            } else if hides == Hides::Value {
                lines.list = Some(indent);
            }
            return;
        }
        lines.text = Some(indent);
        if !is_block {
            blot(rest);
        }
    }
}

/// What no secret is: `automountServiceAccountToken: false`.
fn is_word(value: &str) -> bool {
    matches!(value, "" | "true" | "false" | "null")
}

/// Below which columns of YAML something is hidden.
#[derive(Default)]
struct Lines {
    /// A text, which goes on over several lines.
    text: Option<usize>,
    /// Everything.
    all: Option<usize>,
    /// What has no names of its own.
    list: Option<usize>,
    /// A name was that of a secret: of the values that stand beside it.
    named: Option<usize>,
}

impl Lines {
    /// Forgets what does not reach this line.
    fn at(&mut self, indent: usize, dashes: bool) {
        for below in [&mut self.text, &mut self.all, &mut self.list] {
            *below = below.filter(|outer| indent > *outer);
        }
        self.named = self.named.filter(|column| indent > *column || (indent == *column && !dashes));
    }
}

/// Where a name of a line of YAML ends. What is quoted may have colons.
fn key_of(text: &[u8]) -> Option<usize> {
    let quote = text.first().copied().filter(|byte| matches!(byte, b'"' | b'\''));
    let from = quote.map_or(Some(0), |quote| Some(memchr::memchr(quote, text.get(1..)?)? + 2))?;
    let ends = |at: &usize| text.get(at + 1).is_none_or(u8::is_ascii_whitespace);
    memchr::memchr_iter(b':', text.get(from..)?).map(|at| at + from).find(ends)
}

fn blot(text: &mut [u8]) {
    text.iter_mut().filter(|byte| !matches!(byte, b' ' | b'\r')).for_each(|byte| *byte = BLOT);
}

/// A value that is to be blotted out of bytes.
struct Secret {
    told: Vec<u8>,
    /// What it would stand for in base64.
    bytes: Option<Vec<u8>>,
}

/// Bytes without these values, wherever they stand; without anything where one of them is not found, is so short that it stands everywhere,
/// or there are so many that to look for them would take long.
fn blotted(bytes: &[u8], values: &[Secret]) -> Option<Bytes> {
    const SHORTEST: usize = 4;
    const WORK_LIMIT: usize = 128 * 1024 * 1024;
    if values.is_empty() {
        return None;
    }
    let nothing = || Some(vec![BLOT; bytes.len()].into());
    if values.len().saturating_mul(2 * bytes.len()) > WORK_LIMIT {
        return nothing();
    }
    let mut out = bytes.to_vec();
    for value in values {
        let mut is_found = false;
        let forms = [Some(&value.told), value.bytes.as_ref()].into_iter().flatten();
        for form in forms.filter(|form| form.len() >= SHORTEST) {
            for at in memmem::find_iter(bytes, form) {
                is_found = true;
                out.get_mut(at..at + form.len()).unwrap_or_default().fill(BLOT);
            }
        }
        if !is_found {
            return nothing();
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
            "db_pass",
            "dbPass",
            "password1",
            "otp_code",
            "syncedSecret",
            "next_password",
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
            "compass",
            "shopping",
            "code",
            "zip_code",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn words_stay_and_what_is_in_quotes_or_a_code_does_not() {
        let applied = "kubectl.kubernetes.io/last-applied-configuration";
        let redaction = Redaction { more: &[applied], kind: None };
        assert!(redaction.hides_path(&format!("metadata.annotations.\"{applied}\"")));
        assert!(redaction.secrets(["spec.automountServiceAccountToken=false"].into_iter()).is_empty());
        assert!(!redaction.secrets(["spec.password=false-hood"].into_iter()).is_empty());
        let yaml = "automountServiceAccountToken: false\n";
        assert_eq!(shown("application/yaml", &[], yaml), yaml);
        let body = r#"{"mfa_code":"123456"}"#;
        assert_ne!(shown("application/json", &[], body), body);
    }

    #[test]
    fn bodies_keep_their_length_and_what_is_no_secret() {
        for (kind, body, expected) in [
            (
                "application/json",
                r#"{"user":"ada","password":"s3\"cr","pin":1234,"a":[{"token":"x"}]}"#,
                r#"{"user":"ada","password":"******","pin":1000,"a":[{"token":"*"}]}"#,
            ),
            (
                "application/json",
                r#"{"secret":["x",true,-1.5e3,{"a":"b"}],"next":"y"}"#,
                r#"{"secret":["*",true,-1.0e0,{"a":"b"}],"next":"y"}"#,
            ),
            (
                "application/json",
                r#"{"volumes":[{"secret":{"secretName":"x"}}],"imagePullSecrets":[{"name":"y"}],"serviceAccountToken":{"path":"z"}}"#,
                r#"{"volumes":[{"secret":{"secretName":"x"}}],"imagePullSecrets":[{"name":"y"}],"serviceAccountToken":{"path":"z"}}"#,
            ),
            (
                "application/json",
                r#"{"env":[{"name":"DB_PASSWORD","value":"s3c"},{"value":"x","name":"API_TOKEN"},{"name":"HOME","value":"/"}]}"#,
                r#"{"env":[{"name":"DB_PASSWORD","value":"***"},{"value":"*","name":"API_TOKEN"},{"name":"HOME","value":"/"}]}"#,
            ),
            (
                "application/json",
                r#" {"p\u0061ssword" : "x", "password": "" , "n": 1}"#,
                r#" {"p\u0061ssword" : "*", "password": "" , "n": 1}"#,
            ),
            ("application/json", r#"{"password":"x"#, r#"{"password":"*"#),
            (
                "application/x-ndjson",
                "\u{feff}{\"a\":1}\n\u{1e}{\"password\":\"x\"}\n{no\n{\"token\":\"y\"}",
                "\u{feff}{\"a\":1}\n\u{1e}{\"password\":\"*\"}\n{no\n{\"token\":\"*\"}",
            ),
            ("application/json", r#"{"maxTokens":5,"nextToken":"abc"}"#, r#"{"maxTokens":5,"nextToken":"abc"}"#),
            (
                "application/x-www-form-urlencoded",
                "grant_type=password&password=s3+c&user%5Bpassword%5D=x&user[password]=y",
                "grant_type=password&password=****&user%5Bpassword%5D=*&user[password]=*",
            ),
            (
                "application/yaml",
                "user: ada\npassword: s3c\nsecrets:\n- a\n- b: c\ntoken: |\n  d: e\n\n  f\nend: x\n",
                "user: ada\npassword: ***\nsecrets:\n- *\n- b: c\ntoken: |\n  ** *\n\n  *\nend: x\n",
            ),
            (
                "application/yaml",
                "env:\n- name: DB_PASSWORD\n  value: s3c\n- name: HOME\n  value: /root\nsecret:\n  secretName: x\n",
                "env:\n- name: DB_PASSWORD\n  value: ***\n- name: HOME\n  value: /root\nsecret:\n  secretName: x\n",
            ),
            ("text/plain", "password=x", "password=x"),
        ] {
            assert_eq!(shown(kind, &[], body), expected);
        }
        let secret = r#"{"kind":"Secret","data":{"a":"eA=="},"metadata":{"name":"x"}}"#;
        assert_eq!(shown("application/json", &["data"], secret), secret.replace("eA==", "****"));
        let secret = "kind: Secret\ndata:\n  a: eA==\n  b:\n    c: |\n      d: e\nmetadata:\n  name: x\n";
        let expected = "kind: Secret\ndata:\n  a: ****\n  b:\n    c: |\n      ** *\nmetadata:\n  name: x\n";
        assert_eq!(shown("application/yaml", &["data"], secret), expected);
    }

    #[test]
    fn what_is_not_found_in_a_message_hides_all_of_it() {
        let redaction =
            Redaction { more: &["data", "last.applied/x"], kind: Some("application/vnd.kubernetes.Protobuf") };
        let blotted = |bytes: &[u8], fields: &[&str]| {
            blotted(bytes, &redaction.secrets(fields.iter().copied())).map(|bytes| bytes.to_vec())
        };
        assert_eq!(blotted(b"..hunter-2..", &["password=hunter-2"]).unwrap(), b"..********..");
        assert_eq!(blotted(b"..hunter-2..", &["data.a.b=aHVudGVyLTI="]).unwrap(), b"..********..");
        assert_eq!(
            blotted(b"..hunter-2..", &["metadata.annotations.last.applied/x=hunter-2"]).unwrap(),
            b"..********.."
        );
        // Numbers, short values, and what is coded once more.
        for field in ["pin=1234", "password=abc", "token=elsewhere"] {
            assert_eq!(blotted(b"..abc..", &[field]).unwrap(), b"*******");
        }
        let many: Vec<String> = (0..20_000).map(|number| format!("password=value-{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(blotted(&[b'x'; 8192], &many).unwrap().iter().all(|byte| *byte == BLOT));
        for field in ["name=abc", "password=", "spec.volumes.0.secret.secretName=abc", "metadata.name=data"] {
            assert!(blotted(b"..abc..", &[field]).is_none(), "{field}");
        }
    }
}
