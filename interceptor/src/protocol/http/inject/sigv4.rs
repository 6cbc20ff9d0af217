//! Requests to services of AWS, signed anew: Signature Version 4, with the access key as user and the secret key as password.
//!
//! Whatever the agent has signed with goes; its unmodified client signs with a placeholder. The path and the query go out in
//! the one form that is signed. Temporary keys have the token of a session beside, which is signed and shown. Not promised: bodies
//! that are signed in pieces (`aws-chunked`, where the pieces are signed), and more than one region a target.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::protocol::Login;
use crate::protocol::http::codec::RequestHead;
use crate::protocol::http::inject::escaped;
use crate::protocol::http::route::Location;

/// What a key is good for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// As AWS writes it: `eu-central-1`.
    pub region: String,
    /// As signatures name it: `s3`, `dynamodb`, `execute-api`.
    pub service: String,
}

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// A body in pieces, of which none is signed, with a checksum behind them: what clients of today send.
const CHECKED: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
/// What an agent's signature stands in.
const SIGNED: [&str; 4] = ["authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"];
/// The same in a query.
const PRESIGNED: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
];

/// Whether an agent's signature stands there, and is taken out.
pub(super) fn is_presigned(name: &str) -> bool {
    PRESIGNED.iter().any(|known| known.eq_ignore_ascii_case(name))
}

impl Scope {
    pub(super) fn check(&self) -> Result<(), String> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if is_name(&self.region) && is_name(&self.service) {
            return Ok(());
        }
        Err("http.log_in: sigv4 needs a region and a service, as AWS writes them (`eu-central-1`, `s3`)".to_owned())
    }

    fn is_s3(&self) -> bool {
        self.service == "s3"
    }

    /// Signs a request. `body` is all of it, where all of it is known.
    ///
    /// # Errors
    /// A sentence: it cannot be signed.
    pub(super) fn sign(
        &self,
        head: &mut RequestHead,
        login: &Login,
        (now, body): (Timestamp, Option<&[u8]>),
    ) -> Result<(), String> {
        let secret = login.password.as_ref().ok_or("there is no secret key to sign with")?;
        let hash = self.hash(head, body)?;
        SIGNED.iter().for_each(|name| head.fields.remove(name));
        let stamp: String = now.to_string().chars().take(19).filter(char::is_ascii_alphanumeric).collect();
        let (date, stamp) = (stamp.get(..8).unwrap_or_default().to_owned(), format!("{stamp}Z"));
        head.fields.set("x-amz-date", stamp.clone());
        if let Some(token) = &login.session {
            super::set(&mut head.fields, "x-amz-security-token", Some(token.expose().to_vec()))?;
        }
        if self.is_s3() {
            head.fields.set("x-amz-content-sha256", hash.clone());
        }
        let (path, query) = self.place(head)?;
        let fields = signed_fields(head);
        let names = fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let lines: String = fields.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let request = format!("{}\n{path}\n{query}\n{lines}\n{names}\n{hash}", head.method);
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("{ALGORITHM}\n{stamp}\n{scope}\n{}", hexadecimal(&Sha256::digest(request)));
        let mut key = [b"AWS4", secret.expose()].concat();
        for part in [date.as_str(), &self.region, &self.service, "aws4_request"] {
            let next = mac(&key, part.as_bytes())?;
            zeroize::Zeroize::zeroize(&mut key);
            key = next;
        }
        let signature = hexadecimal(&mac(&key, text.as_bytes())?);
        zeroize::Zeroize::zeroize(&mut key);
        let value =
            format!("{ALGORITHM} Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", login.user);
        super::set(&mut head.fields, "authorization", Some(value.into_bytes()))
    }

    /// What is signed of the body.
    fn hash(&self, head: &RequestHead, body: Option<&[u8]>) -> Result<String, String> {
        let theirs = head.fields.text("x-amz-content-sha256");
        let in_pieces = head.fields.lists("content-encoding", "aws-chunked")
            || theirs.is_some_and(|hash| hash.starts_with("STREAMING-"));
        match body {
            _ if in_pieces && self.is_s3() && theirs == Some(CHECKED) => Ok(CHECKED.to_owned()),
            _ if in_pieces => {
                Err("its body is signed in pieces, which only whoever has the key can do: turn that off".to_owned())
            }
            Some(body) => Ok(hexadecimal(&Sha256::digest(body))),
            None if self.is_s3() => Ok("UNSIGNED-PAYLOAD".to_owned()),
            None => Err("its body is longer than can be signed".to_owned()),
        }
    }

    /// Path and query as they are signed. They go out so as well.
    fn place(&self, head: &mut RequestHead) -> Result<(String, String), String> {
        let location = Location::read(&head.target).map_err(|why| why.to_string())?;
        let path: String = location.segments.iter().map(|step| format!("/{}", escaped(step.as_bytes()))).collect();
        let pairs = location.query.iter().filter(|(name, _)| !is_presigned(name));
        let mut pairs: Vec<(String, String)> =
            pairs.map(|(name, value)| (escaped(name.as_bytes()), escaped(value.as_bytes()))).collect();
        pairs.sort();
        let query = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        head.target = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        // All services but S3 escape what they have received once more.
        let twice = || path.split('/').map(|step| escaped(step.as_bytes())).collect::<Vec<_>>().join("/");
        Ok((if self.is_s3() { path.clone() } else { twice() }, query))
    }
}

/// The fields that are signed: sorted, with single blanks.
fn signed_fields(head: &RequestHead) -> Vec<(String, String)> {
    let counts = |name: &str| matches!(name, "host" | "content-type") || name.starts_with("x-amz-");
    let mut fields: Vec<(String, String)> = Vec::new();
    for field in head.fields.0.iter().filter(|field| counts(&field.name)) {
        let text = String::from_utf8_lossy(&field.value);
        let value = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        match fields.iter_mut().find(|(name, _)| *name == field.name) {
            Some((_, values)) => *values = format!("{values},{value}"),
            None => fields.push((field.name.to_string(), value)),
        }
    }
    fields.sort();
    fields
}

fn mac(key: &[u8], text: &[u8]) -> Result<Vec<u8>, String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|error| error.to_string())?;
    mac.update(text);
    Ok(mac.finalize().into_bytes().to_vec())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::codec;
    use crate::secret::Secret;

    /// 2013-05-24 00:00:00, as in the examples of S3's reference.
    const S3: i64 = 1_369_353_600;
    /// 2015-08-30 12:36:00, as in those of the general one.
    const GENERAL: i64 = 1_440_938_160;

    fn signed(
        scope: (&str, &str),
        text: &str,
        (user, secret): (&str, &str),
        at: i64,
        body: Option<&[u8]>,
    ) -> RequestHead {
        let scope = Scope { region: scope.0.into(), service: scope.1.into() };
        let mut head = codec::request(text.as_bytes()).unwrap().unwrap().0;
        let login = Login { user: user.into(), password: Some(Secret::from(secret)), session: None };
        scope.sign(&mut head, &login, (Timestamp::from_unix(at), body)).unwrap();
        head
    }

    fn signature(head: &RequestHead) -> &str {
        head.fields.text("authorization").unwrap().rsplit("Signature=").next().unwrap()
    }

    #[test]
    fn the_examples_of_the_reference_come_out() {
        let key = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let host = "Host: examplebucket.s3.amazonaws.com\r\n\r\n";
        for (line, expected) in [
            ("GET /?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            ("GET /?prefix=J&max-keys=2", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ] {
            let text = format!("{line} HTTP/1.1\r\nX-Amz-Security-Token: theirs\r\nX-Amz-Date: theirs\r\n{host}");
            let head = signed(("us-east-1", "s3"), &text, key, S3, Some(b""));
            assert_eq!(signature(&head), expected, "{line}");
            assert!(head.fields.text("authorization").unwrap().contains("AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3"));
            assert!(head.fields.get("x-amz-security-token").is_none());
        }
        let key = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let text = "GET /?Action=ListUsers&Version=2010-05-08 HTTP/1.1\r\nHost: iam.amazonaws.com\r\n\
                    Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n\r\n";
        let head = signed(("us-east-1", "iam"), text, key, GENERAL, Some(b""));
        assert_eq!(signature(&head), "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
    }

    #[test]
    fn the_agents_signature_goes_and_what_is_signed_is_what_goes_out() {
        let key = ("A", "secret-key");
        let text = "GET /a%20b/c?z=1&X-Amz-Signature=theirs&x-amz-credential=theirs&y=%2f HTTP/1.1\r\nHost: h\r\n\
                    Authorization: AWS4-HMAC-SHA256 Credential=theirs\r\n\r\n";
        let head = signed(("eu-west-1", "execute-api"), text, key, S3, Some(b""));
        assert_eq!(head.target, "/a%20b/c?y=%2F&z=1");
        assert!(!format!("{head:?}").contains("theirs") && !format!("{head:?}").contains("secret-key"));
        let head = signed(("eu-west-1", "s3"), text, key, S3, None);
        assert_eq!(head.fields.text("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    }

    /// The signature is what botocore 1.44 makes of the same (`S3SigV4Auth`, 2013-05-24 00:00:00).
    #[test]
    fn the_token_of_a_session_is_signed_and_shown_and_not_on_record() {
        let scope = Scope { region: "us-east-1".into(), service: "s3".into() };
        let text =
            "GET /?prefix=J HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\nX-Amz-Security-Token: theirs\r\n\r\n";
        let mut head = codec::request(text.as_bytes()).unwrap().unwrap().0;
        let session = Some(Secret::from("the-token/of+a==session"));
        let password = Some(Secret::from("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"));
        let login = Login { user: "ASIAIOSFODNN7EXAMPLE".into(), password, session };
        scope.sign(&mut head, &login, (Timestamp::from_unix(S3), Some(b""))).unwrap();
        assert_eq!(head.fields.text("x-amz-security-token"), Some("the-token/of+a==session"));
        let shown = head.fields.text("authorization").unwrap();
        assert!(shown.contains("host;x-amz-content-sha256;x-amz-date;x-amz-security-token"), "{shown}");
        assert_eq!(signature(&head), "34ee403aeb6788844698feeda1363273ef363e90f929cc7f11b9bb5710b4bd42");
        let (log_in, mut out) = (super::super::LogIn::Sigv4(scope), Vec::new());
        head.write_as(&mut out, &log_in.shown_target(&head), |field| log_in.shown(field));
        let shown = String::from_utf8_lossy(&out);
        assert!(!shown.contains("of+a") && shown.contains("x-amz-security-token: REDACTED"), "{shown}");
    }

    #[test]
    fn what_cannot_be_signed_does_not_go() {
        let scope = |service: &str| Scope { region: "eu-west-1".into(), service: service.into() };
        let login = Login { user: "A".into(), password: Some(Secret::from("secret-key")), session: None };
        let head = |fields: &str| {
            codec::request(format!("PUT /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes()).unwrap().unwrap().0
        };
        let now = Timestamp::from_unix(S3);
        assert!(scope("sqs").sign(&mut head(""), &login, (now, None)).is_err());
        let streamed = "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n";
        assert!(scope("s3").sign(&mut head(streamed), &login, (now, None)).is_err());
        assert!(scope("s3").sign(&mut head("Content-Encoding: aws-chunked\r\n"), &login, (now, None)).is_err());
        let checked = "Content-Encoding: aws-chunked\r\nx-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\n";
        assert!(scope("sqs").sign(&mut head(checked), &login, (now, Some(b"x"))).is_err());
        let mut passes = head(checked);
        scope("s3").sign(&mut passes, &login, (now, Some(b"x"))).unwrap();
        assert_eq!(passes.fields.text("x-amz-content-sha256"), Some(CHECKED));
        let nobody = Login { user: "A".into(), password: None, session: None };
        assert!(scope("s3").sign(&mut head(""), &nobody, (now, Some(b""))).is_err());
        assert!(scope("").check().is_err() && scope("S3/x").check().is_err() && scope("s3").check().is_ok());
    }
}
