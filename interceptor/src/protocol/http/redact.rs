//! Secrets that an agent says in a body (a password, a token, the data of a Secret): blotted out of what recordings and approvers see. Lengths
//! stay as they are, so that what is recorded is framed as it was; a digest of all of it stands beside the command, so that a
//! grant is for these values and no others. Policies see them as they are, and so does the target.
//!
//! They are known by the names of their fields: of JSON, of forms, of lines of YAML, and of messages in Protocol Buffers whose schema is known. A name hides
//! texts and numbers right under it, and lists of those; what has names of its own below is told by these, so that people see which Secret a
//! pod gets. A name may also stand as a value itself, beside the one that it names. It is the agent that chooses names: approvers are told
//! what is hidden and why, and what is hidden looks like no other value. Not promised: secrets under other names, in bodies that
//! are not looked into, and in YAML that is written with braces.

mod beside;
pub mod json;
mod reasons;
pub mod wire;
mod yaml;

use std::collections::HashMap;
use std::sync::Arc;

use aho_corasick::AhoCorasick;
use bytes::Bytes;
use memchr::memmem;
use smol_str::SmolStr;

use super::dialect::Dialect;
use super::grpc::Call;
use super::route;
use crate::policy::{Command, Parameter};
use crate::protocol::Gate;
use beside::Says;
use json::Hides;
use reasons::Reasons;

/// What stands in the place of each byte.
pub(in crate::protocol) const BLOT: u8 = b'*';
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
    "secretbinary",
    "secretkey",
    "secrets",
    "secretstring",
    "securestring",
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
pub(in crate::protocol) fn is_secret(name: &str) -> bool {
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

/// What is blotted out of the bodies of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Redaction<'a> {
    /// Names of fields that are secrets there, beside those that are everywhere.
    pub(super) more: &'a [&'a str],
    /// The type of the body, as its head has it.
    pub(super) kind: Option<&'a str>,
    /// What it calls, where its messages are known.
    pub(super) call: Option<Call<'a>>,
    /// Who knows of other bodies in Protocol Buffers.
    pub(super) dialect: Option<&'a dyn Dialect>,
}

/// A body without its secrets.
#[derive(Clone, Debug)]
pub(super) struct Redacted {
    /// As recordings have it.
    pub(super) bytes: Bytes,
    reasons: Reasons,
}

/// What stands beside a value, and says that it is a secret: its name, and what it says.
struct Said {
    says: Says,
    name: String,
    said: String,
}

impl Redaction<'_> {
    /// A body as recordings have it; nothing where that is what it is.
    pub(super) fn body(&self, body: &[u8]) -> Option<Redacted> {
        let (mut out, mut reasons) = (body.to_vec(), Reasons::default());
        if !self.messages(&mut out) && (body.len() <= LENGTH_LIMIT || !self.more.is_empty()) && self.may_be_in(body) {
            self.text(&mut out, &mut reasons);
        }
        (out != body).then(|| Redacted { bytes: out.into(), reasons })
    }

    /// Blots out of a body in Protocol Buffers; whether it is one.
    fn messages(&self, out: &mut [u8]) -> bool {
        if let Some(call) = self.call {
            call.blot(out, &|name| self.hides(name));
            return true;
        }
        let dialect = self.dialect.filter(|_| self.is_protobuf());
        let Some(dialect) = dialect else { return false };
        let is_read = dialect.blot(out, &|name| self.hides(name));
        if !is_read && !is_json(out) {
            // It says that it is such a message, and nobody can tell where its secrets are.
            out.fill(BLOT);
        }
        is_read || !is_json(out)
    }

    fn text(&self, out: &mut [u8], reasons: &mut Reasons) {
        let kind = self.kind.unwrap_or_default().to_ascii_lowercase();
        if kind.starts_with("application/x-www-form-urlencoded") {
            self.form(out, reasons);
        } else if is_json(out) {
            json::blot_telling(out, &|name| self.hides(name), reasons);
        } else if kind.contains("yaml") {
            yaml::blot(out, &|name| self.hides(name), reasons);
        }
    }

    fn is_protobuf(&self) -> bool {
        self.kind.is_some_and(|kind| kind.to_ascii_lowercase().contains("protobuf"))
    }

    /// Blots out of a command what people need not see, and binds it to that all the same. `sent` is what was sent with it, and
    /// `shown` that as recordings have it, where that is another.
    pub(super) fn command(&self, command: &mut Command, (sent, shown): (&Bytes, Option<&Redacted>), gate: &dyn Gate) {
        let is_sent = |value: &Bytes| value.as_ptr() == sent.as_ptr() && value.len() == sent.len();
        let hidden = command.parameters.iter().map(|parameter| match &parameter.value {
            Some(value) if is_sent(value) => shown.cloned(),
            _ => self.parameter(parameter),
        });
        let hidden: Vec<Option<Redacted>> = hidden.collect();
        if hidden.iter().all(Option::is_none) {
            return;
        }
        let whole: Vec<u8> = command.parameters.iter().flat_map(|one| one.value.iter().flatten()).copied().collect();
        // Without one, a request is never the same as another.
        let bound = gate.seal(&whole).unwrap_or_else(|| format!("unknown, of analysis {}", command.analysis));
        let mut statement = format!("{}\nbody: hmac {bound}", command.statement);
        let mut reasons = Reasons::default();
        hidden.iter().flatten().for_each(|hidden| reasons.append(&hidden.reasons));
        for line in reasons.lines() {
            statement.push('\n');
            statement.push_str(&line);
        }
        command.statement = statement.into();
        let shown = command.parameters.iter().zip(hidden).map(|(parameter, hidden)| Parameter {
            value: hidden.map(|hidden| hidden.bytes).or_else(|| parameter.value.clone()),
            ..parameter.clone()
        });
        command.parameters = Arc::from_iter(shown);
    }

    fn parameter(&self, parameter: &Parameter) -> Option<Redacted> {
        let value = parameter.value.as_ref()?;
        // Beside what was sent stands what people can read of it.
        let is_told = !parameter.binary && (self.call.is_some() || self.is_protobuf());
        if is_told { self.told(value) } else { self.body(value) }
    }

    /// Values that are told a line each.
    fn told(&self, text: &[u8]) -> Option<Redacted> {
        let line = |line: &[u8]| {
            let (name, said) = line.split_at_checked(memchr::memchr(b'=', line)?)?;
            Some((String::from_utf8_lossy(name).into_owned(), std::str::from_utf8(said.get(1..)?).ok()?.to_owned()))
        };
        let beside = self.beside(text.split(|byte| *byte == b'\n').filter_map(line));
        let (mut out, mut reasons) = (text.to_vec(), Reasons::default());
        for line in out.split_mut(|byte| *byte == b'\n') {
            let Some(at) = memchr::memchr(b'=', line) else { continue };
            let name = String::from_utf8_lossy(line.get(..at).unwrap_or_default()).into_owned();
            let said = line.get_mut(at + 1..).unwrap_or_default();
            let text = std::str::from_utf8(said).unwrap_or("?");
            let found = unwrapped(&name).filter_map(value_beside).find_map(|place| found(&beside, place, text));
            let is_hidden = self.hides_path(&name);
            // What says so may be hidden itself.
            let found = found.filter(|_| !is_hidden);
            if !is_word(text) && (found.is_some() || is_hidden) {
                reasons.note(|| name.clone(), beside::is_number(text), found);
                said.fill(BLOT);
            }
        }
        (out != text).then(|| Redacted { bytes: out.into(), reasons })
    }

    /// Where it says that what stands beside it is a secret.
    fn beside(&self, pairs: impl Iterator<Item = (String, String)>) -> HashMap<String, Said> {
        let mut beside: HashMap<String, Said> = HashMap::new();
        for (path, said) in pairs {
            let steps = unwrapped(&path).map(parted).find(|(_, name)| beside::is_name(name));
            let Some((place, name)) = steps else { continue };
            let says = beside::says(name, &said, &|name| self.hides(name));
            let said = if self.hides(name) > Hides::Nothing { "...".to_owned() } else { said };
            if says > beside.get(place).map_or(Says::Nothing, |known| known.says) {
                beside.insert(place.to_owned(), Said { says, name: name.to_owned(), said });
            }
        }
        beside
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
        unwrapped(&path).any(|path| is_secret(last(path))) || self.more.iter().any(is_below)
    }

    /// Whether it is worth to be looked into. An escape may hide a name; whoever hides his own secret so shows it.
    fn may_be_in(&self, body: &[u8]) -> bool {
        const STEMS: [&str; 17] = [
            "pass",
            "secret",
            "secure",
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

    fn form(&self, out: &mut [u8], reasons: &mut Reasons) {
        let read = |pair: &[u8]| route::pairs(&String::from_utf8_lossy(pair)).ok()?.into_iter().next();
        let beside = self.beside(out.split(|byte| *byte == b'&').filter_map(read));
        for pair in out.split_mut(|byte| *byte == b'&') {
            let (name, said) = read(&*pair).unwrap_or_default();
            let Some(at) = memchr::memchr(b'=', pair) else { continue };
            let found = value_beside(&name).and_then(|place| found(&beside, place, &said));
            // A secret's own value: `password[value]`.
            let above = value_beside(&name).map_or(Hides::Nothing, |place| self.hides(last(place)));
            if found.is_some() || self.hides(last(&name)).max(above) > Hides::Nothing {
                let value = pair.get_mut(at + 1..).unwrap_or_default();
                if !value.is_empty() {
                    reasons.note(|| name.clone(), beside::is_number(&said), found);
                }
                value.fill(BLOT);
            }
        }
    }
}

/// What says of a value there that it is a secret.
fn found<'s>(beside: &'s HashMap<String, Said>, place: &str, value: &str) -> Option<(&'s str, &'s str)> {
    let said = beside.get(place)?;
    let is = said.says == Says::All || !beside::is_number(value);
    is.then_some((said.name.as_str(), said.said.as_str()))
}

/// A name of a form, or a path, with its last step: `a.b.name`, `a[b][name]`.
fn parted(name: &str) -> (&str, &str) {
    let whole = name.trim_end_matches(']');
    whole.rfind(['[', '.']).and_then(|at| Some((whole.get(..at)?, whole.get(at + 1..)?))).unwrap_or(("", whole))
}

/// The last step of a name of a form, or of a path, that is none of a list: `a[password][0]`, `passwords[]`.
fn last(name: &str) -> &str {
    let mut steps = name.rsplit(['[', ']', '.']);
    steps.find(|step| step.bytes().any(|byte| !byte.is_ascii_digit())).unwrap_or_default()
}

/// A path, and what it is without the last names by which messages hold one value that could have none (`google.protobuf.StringValue`,
/// `Value`).
fn unwrapped(path: &str) -> impl Iterator<Item = &str> {
    const HOLDERS: &[&str] = &["value", "values", "string_value", "number_value", "list_value"];
    let is_holder = |step: &str| {
        HOLDERS.contains(&step) || beside::value(step).is_some() || step.bytes().all(|byte| byte.is_ascii_digit())
    };
    std::iter::successors(Some(path), move |path| {
        path.rsplit_once('.').filter(|(_, step)| is_holder(step)).map(|(outer, _)| outer)
    })
}

/// Where the name of a value would stand, if that is one; one of a list as well.
fn value_beside(path: &str) -> Option<&str> {
    let (mut place, mut name) = parted(path);
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        (place, name) = parted(place);
    }
    beside::value(name).map(|_| place)
}

/// What no secret is: `automountServiceAccountToken: false`.
fn is_word(value: &str) -> bool {
    matches!(value, "" | "true" | "false" | "null")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::kubernetes::Kubernetes;

    fn named<'a>(more: &'a [&'a str]) -> Redaction<'a> {
        Redaction { more, kind: None, call: None, dialect: None }
    }

    fn shown(kind: &str, more: &[&str], body: &str) -> String {
        let hidden = Redaction { kind: Some(kind), ..named(more) }.body(body.as_bytes());
        hidden.map_or_else(|| body.to_owned(), |hidden| String::from_utf8(hidden.bytes.to_vec()).unwrap())
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
        let more = [applied];
        let redaction = named(&more);
        assert!(redaction.hides_path(&format!("metadata.annotations.\"{applied}\"")));
        let told =
            |text: &str| redaction.told(text.as_bytes()).map(|told| String::from_utf8(told.bytes.to_vec()).unwrap());
        assert_eq!(told("spec.automountServiceAccountToken=false\nspec.name=x"), None);
        assert_eq!(told("spec.password=falsehood").unwrap(), "spec.password=*********");
        let env = "e.0.name=DB_PASSWORD\ne.0.value=s3c\ne.1.name=HOME\ne.1.value=/\ne.2.value.0=s3c\ne.2.type=token\ne.2.id=x";
        let expected = env.replace("s3c", "***");
        assert_eq!(told(env).unwrap(), expected);
        // What messages hold one value in.
        let held = "password.value=s3c\nconfig.fields.password.string_value=s3c\nconfig.fields.pin.list_value.values.0.number_value=17\n\
                    a.name.value=DB_PASSWORD\na.value.value=s3c\nb.name.value=HOME\nb.value.value=/\n\
                    config.fields.password.struct_value.fields.user.string_value=ada\nc.value.value=x";
        assert_eq!(told(held).unwrap(), held.replace("s3c", "***").replace("17", "**"));
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
                r#"{"user":"ada","password":"******","pin":"**","a":[{"token":"*"}]}"#,
            ),
            (
                "application/json",
                r#"{"secret":["x",true,-1.5e3,{"a":"b"}],"next":"y"}"#,
                r#"{"secret":["*",true,"****",{"a":"b"}],"next":"y"}"#,
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
            // Parameters and tags of AWS, credentials of Keycloak, lists.
            (
                "application/x-amz-json-1.1",
                r#"{"Name":"/db/password","Value":"s3c","Type":"String"}"#,
                r#"{"Name":"/db/password","Value":"***","Type":"String"}"#,
            ),
            (
                "application/x-amz-json-1.1",
                r#"{"Value":"s3c","Name":"/db/url","Type":"SecureString"}"#,
                r#"{"Value":"***","Name":"/db/url","Type":"SecureString"}"#,
            ),
            (
                "application/x-amz-json-1.1",
                r#"{"Tags":[{"Key":"DbPassword","Value":"s3c"},{"Key":"team","Value":"shop"}],"SecretString":"s3c"}"#,
                r#"{"Tags":[{"Key":"DbPassword","Value":"***"},{"Key":"team","Value":"shop"}],"SecretString":"***"}"#,
            ),
            (
                "application/json",
                r#"{"credentials":[{"type":"password","value":"s3c","temporary":false}],"username":"ada"}"#,
                r#"{"credentials":[{"type":"password","value":"***","temporary":false}],"username":"ada"}"#,
            ),
            (
                "application/json",
                r#"{"values":["s3c",{"a":"b"},7],"name":"api_token","value":{"c":"d"}}"#,
                r#"{"values":["***",{"a":"b"},*],"name":"api_token","value":{"c":"d"}}"#,
            ),
            (
                "application/x-www-form-urlencoded",
                "P.member.1.ParameterKey=DbPassword&P.member.1.ParameterValue=s3c&P.member.2.ParameterKey=a&P.member.2.ParameterValue=b",
                "P.member.1.ParameterKey=DbPassword&P.member.1.ParameterValue=***&P.member.2.ParameterKey=a&P.member.2.ParameterValue=b",
            ),
            (
                "application/x-www-form-urlencoded",
                "e%5B0%5D[value]=s3c&e[0][name]=token&e[1][name]=size&e[1][value]=x",
                "e%5B0%5D[value]=***&e[0][name]=token&e[1][name]=size&e[1][value]=x",
            ),
            (
                "application/x-www-form-urlencoded",
                "password[]=s3c&user[password][0]=s3c&user[pin]=&e[0][value][]=s3c&e[0][name]=token&n[]=1",
                "password[]=***&user[password][0]=***&user[pin]=&e[0][value][]=***&e[0][name]=token&n[]=1",
            ),
            (
                "application/yaml",
                "e:\n- value: s3c\n  name: DB_PASSWORD # x\n- value: /\n  name: HOME\n- a:\n    value: b\n  name: token\n  value: s3c\n",
                "e:\n- value: ***\n  name: DB_PASSWORD # x\n- value: /\n  name: HOME\n- a:\n    value: b\n  name: token\n  value: ***\n",
            ),
            ("application/vnd.x.protobuf+json", r#"{"password":"s3c"}"#, r#"{"password":"***"}"#),
            (
                "application/yaml",
                "credentials:\n- type: password\n  value: s3c\n- Key: size\n  Value: x\n",
                "credentials:\n- type: password\n  value: ***\n- Key: size\n  Value: *\n",
            ),
        ] {
            assert_eq!(shown(kind, &[], body), expected);
        }
        let secret = r#"{"kind":"Secret","data":{"a":"eA=="},"metadata":{"name":"x"}}"#;
        assert_eq!(shown("application/json", &["data"], secret), secret.replace("eA==", "****"));
        let secret = "kind: Secret\ndata:\n  a: eA==\n  b:\n    c: |\n      d: e\nmetadata:\n  name: x\n";
        let expected = "kind: Secret\ndata:\n  a: ****\n  b:\n    c: |\n      ** *\nmetadata:\n  name: x\n";
        assert_eq!(shown("application/yaml", &["data"], secret), expected);
    }

    fn told_of(kind: &str, body: &str) -> Vec<String> {
        let hidden = Redaction { kind: Some(kind), ..named(&[]) }.body(body.as_bytes());
        hidden.map(|hidden| hidden.reasons.lines().collect()).unwrap_or_default()
    }

    /// It is the agent that chooses names: what it could hide so looks like nothing else, and people are told.
    #[test]
    fn what_is_hidden_looks_like_no_number_and_approvers_are_told() {
        for (body, expected, told) in [
            (
                r#"[{"op":"replace","path":"/spec/replicas","value":500,"type":"token"}]"#,
                r#"[{"op":"replace","path":"/spec/replicas","value":500,"type":"token"}]"#,
                &[][..],
            ),
            (
                r#"{"amount":{"value":9500000,"currency":"EUR","type":"token"}}"#,
                r#"{"amount":{"value":9500000,"currency":"EUR","type":"token"}}"#,
                &[],
            ),
            (
                r#"{"amount":{"value":9500000,"name":"token"},"a":[{"pin":42},{"pin":7}]}"#,
                r#"{"amount":{"value":"*****","name":"token"},"a":[{"pin":""},{"pin":7}]}"#,
                &["hidden: amount.value (beside name: token), a number", "hidden: a.0.pin, a number"],
            ),
            (
                r#"{"type":"API token","value":"s3c","secrets":[["a"],["b"]],"password\n":"x"}"#,
                r#"{"type":"API token","value":"***","secrets":[["*"],["*"]],"password\n":"*"}"#,
                &["hidden: value (beside type: API token)", "hidden: secrets", r"hidden: password\n"],
            ),
            (
                r#"{"type":"text-token","value":"x","field":"csrf_token","values":["y"]}"#,
                r#"{"type":"text-token","value":"x","field":"csrf_token","values":["y"]}"#,
                &[],
            ),
        ] {
            assert_eq!(shown("application/json", &[], body), expected);
            assert_eq!(told_of("application/json", body), told);
        }
        let form = told_of("application/x-www-form-urlencoded", "a[name]=token&a[value]=s3c&user[password]=x&b=1");
        assert_eq!(form, ["hidden: a[value] (beside name: token)", "hidden: user[password]"]);
        let yaml = told_of("application/yaml", "a: b\npassword: x\ntokens:\n  - name: token\n    value: y\n");
        assert_eq!(yaml, ["hidden: line 5: tokens.value (beside name: token)", "hidden: line 2: password"]);
        let yaml =
            told_of("application/yaml", "e:\n- name: token\n  value: 10\namount:\n  name: token\n  value: 9500000\n");
        let expected = [
            "hidden: line 3: e.value (beside name: token), a number",
            "hidden: line 6: amount.value (beside name: token), a number",
        ];
        assert_eq!(yaml, expected);
    }

    /// Whoever hides much so that one thing is not seen says so in the first line, and what is the least like a secret comes before the rest.
    #[test]
    fn what_is_hidden_among_much_is_told() {
        let kind = "application/json";
        let many = |count: usize| (0..count).map(|at| format!(r#""a{at}":{{"pin":"x"}},"#)).collect::<String>();
        let body = format!(r#"{{{}"amount":{{"name":"token","value":9500000}}}}"#, many(30));
        let told = told_of(kind, &body);
        assert_eq!(told.first().unwrap(), "hidden: 6 places more than are told here");
        assert_eq!(told.get(1).unwrap(), "hidden: amount.value (beside name: token), a number");
        assert_eq!(told.len(), 26);
        // Of what is alike, one.
        let list = (0..3000).map(|at| format!(r#"{{"pin":{}}},"#, 1000 + at)).collect::<String>();
        let body = format!(r#"{{"cards":[{list}{{}}],"password":"x"}}"#);
        let expected = ["hidden: cards.0.pin, a number, and 2999 more like it", "hidden: password"];
        assert_eq!(told_of(kind, &body), expected);
        let body = format!("{{{}{}\"z\":1}}", many(5000), r#""pin":12345,"#);
        assert_eq!(told_of(kind, &body).first().unwrap(), "hidden: 4976 places more than are told here");
        assert_eq!(told_of(kind, &body).get(1).unwrap(), "hidden: pin, a number");
        // However it is written, and whatever stands before it.
        let pins = |count: usize| (0..count).map(|at| format!(r#""c{at}":{{"pin":10}},"#)).collect::<String>();
        let amount = |values: &str| format!(r#"{{{}"amount":{{"name":"token",{values}}}}}"#, pins(30));
        for values in
            [r#""value":9500000"#, r#""value":"x","value":9500000"#, r#""value":["x",9500000]"#, r#""value":"9500000""#]
        {
            let told = told_of(kind, &amount(values));
            assert_eq!(told.get(1).unwrap(), "hidden: amount.value (beside name: token), a number", "{values}");
        }
        let told = told_of(kind, r#"{"passwords":["a",95,"b"]}"#);
        assert_eq!(told, ["hidden: passwords, a number", "hidden: passwords, and 1 more like it"]);
    }

    #[test]
    fn the_value_of_a_secret_may_stand_below_it() {
        let body =
            r#"{"parameters":{"adminPassword":{"value":"s3c"},"size":{"value":"x"}},"secret":{"from":{"value":"y"}}}"#;
        assert_eq!(shown("application/json", &[], body), body.replace("s3c", "***"));
        let body = "adminPassword[value]=s3c&pin[value][]=s3c&pin[value][0]=s3c&size[value]=x&secret[from][value]=y";
        assert_eq!(shown("application/x-www-form-urlencoded", &[], body), body.replace("s3c", "***"));
        let body = "passwords:\n- value:\n    a\n- s3c\n";
        assert_eq!(shown("application/yaml", &[], body), body.replace("s3c", "***").replace("   a", "   *"));
        let body = "adminPassword:\n  value: s3c\nsize:\n  value: x\n";
        assert_eq!(shown("application/yaml", &[], body), body.replace("s3c", "***"));
    }

    #[test]
    fn what_says_that_it_is_a_message_and_is_none_is_hidden_whole() {
        let kind = Some("application/vnd.kubernetes.protobuf");
        let redaction = Redaction { kind, dialect: Some(&Kubernetes), ..named(&["data"]) };
        let hidden = |body: &[u8]| redaction.body(body).map(|hidden| hidden.bytes.to_vec());
        assert_eq!(hidden(b"\x12\x05s3cre").unwrap(), b"*******");
        assert_eq!(hidden(br#"{"data":{"p":"eA=="}}"#).unwrap(), br#"{"data":{"p":"****"}}"#);
        assert_eq!(hidden(b"k8s\0\x0a\x08\x0a\x02v1\x12\x02xy"), None);
    }

    /// What is hidden itself is no reason that people are told.
    #[test]
    fn what_is_hidden_is_not_told_as_a_reason() {
        for (kind, body) in [
            ("application/json", r#"{"stringData":{"name":"token","value":"x"}}"#),
            ("application/yaml", "stringData:\n  name: token\n  value: x\n"),
        ] {
            let hidden = Redaction { kind: Some(kind), ..named(&["stringData"]) }.body(body.as_bytes()).unwrap();
            assert!(hidden.reasons.lines().all(|line| !line.contains("token")), "{:?}", hidden.reasons);
        }
        let more = ["string_data"];
        let told = named(&more).told(b"string_data.name=token\nstring_data.value=x").unwrap();
        assert!(told.reasons.lines().all(|line| !line.contains("token")), "{:?}", told.reasons);
    }

    /// What stands in one document says nothing of another.
    #[test]
    fn documents_of_yaml_are_apart() {
        let body = "--- password: s3c\n";
        assert_eq!(shown("application/yaml", &[], body), body.replace("s3c", "***"));
        let body = "name: token\nvalue: s3c\n--- # next\nvalue: /\nname: HOME\n---\nvalue: s3c\nname: token\n";
        assert_eq!(shown("application/yaml", &[], body), body.replace("s3c", "***"));
    }

    /// Each byte is read a few times at most, however deep it stands.
    #[test]
    fn deep_bodies_are_read_once() {
        let calls = std::cell::Cell::new(0);
        let hides = |name: &str| {
            calls.set(calls.get() + 1);
            if is_secret(name) { Hides::Value } else { Hides::Nothing }
        };
        let depth = 62;
        let inner = r#"{"name":"a"},"#.repeat(1000);
        let begin = r#"{"name":"token","value":["#.repeat(depth);
        let mut body = [begin.as_bytes(), inner.as_bytes(), br#""s3c""#, "]}".repeat(depth).as_bytes()].concat();
        json::blot(&mut body, &hides);
        assert!(!body.windows(3).any(|three| three == b"s3c"));
        assert!(calls.get() < 5 * (1000 + depth), "{}", calls.get());
    }
}
