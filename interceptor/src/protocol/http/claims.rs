//! What an agent says of itself, beside the log-in that is put in for it: that it is somebody, acts for somebody, comes from
//! somewhere, or has another log-in.
//!
//! Targets behind a proxy believe such fields, and many look at another log-in first. So fields that say who asks do not pass, nor
//! do fields that log in where interceptor does, and both are gone before policies see the request: nothing is judged that the target
//! does not get. What says for whom it acts is refused, since the target would do it with all that the log-in may do; and of a query nothing is taken out, since it would then ask for something else: it is refused. The
//! configuration may keep names, and add some. Not promised: what bodies say, names that are nobody's but one target's (`more`), and
//! short values of `token`, `key` and the like, which are any word elsewhere.

mod names;
pub(super) mod offers;

use std::borrow::Cow;

use serde::Deserialize;

use super::codec::{self, Field, Fields};
use super::inject::LogIn;

/// `claims` of `[target.http]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Claims {
    /// Fields and parameters that pass all the same: `x-forwarded-for`, `cf-access-*`.
    pub keep: Vec<String>,
    /// Fields by which the target takes whoever asks for somebody, beside those that are known; with `*` behind it, whatever
    /// begins so.
    pub more: Vec<String>,
}

/// What becomes of a field that says who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Claim {
    /// It is gone before anybody looks at the request.
    Gone,
    /// It is judged, and gone from what the target gets.
    Judged,
    /// It is judged, and passes.
    Passes,
}

/// A parameter by which Hadoop believes who asks.
const HADOOP: &str = "user.name";

impl Claims {
    /// Checks the names.
    ///
    /// # Errors
    /// A sentence for each that means nothing.
    pub(super) fn check(&self) -> Result<(), Vec<String>> {
        let is_known = |name: &str| {
            let field = names::field(name);
            let is_one = |name: &str| names::claim(name).or_else(|| names::delegation(name)).is_some();
            is_one(&field)
                || names::log_in(&field).is_some()
                || is_one(&format!("{field}-"))
                || names::is_parameter(&names::parameter(name))
                || name.eq_ignore_ascii_case(HADOOP)
        };
        let keep = self.keep.iter();
        let keep = keep.filter(|name| !is_known(name) || names::field(name) == "authorization" || !ends_at_star(name));
        let keep = keep.map(|name| format!("http.claims.keep: `{name}` passes, or never does"));
        let more = self.more.iter().filter(|name| {
            let field = names::field(name);
            field.is_empty() || !ends_at_star(name) || codec::is_reserved(&field)
        });
        let more = more.map(|name| format!("http.claims.more: `{name}` is no name of a field"));
        let wrong: Vec<String> = keep.chain(more).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Takes out of a request whatever says who asks. `logs_in`: and what logs in. The names that were found, each as it is known here.
    pub(super) fn asked(
        &self,
        fields: &mut Fields,
        (log_in, logs_in): (&LogIn, bool),
        claim: impl Fn(&str) -> Claim,
        gone: Claim,
    ) -> Vec<String> {
        let mut found = Vec::new();
        fields.0.retain(|field| {
            let is = self.name_of(field, (log_in, logs_in)).filter(|_| claim(&names::field(&field.name)) == gone);
            is.map(|name| found.push(name)).is_none()
        });
        found.dedup();
        found
    }

    /// By what a field is known that says who asks, or logs in.
    fn name_of(&self, field: &Field, (log_in, logs_in): (&LogIn, bool)) -> Option<String> {
        let name = names::field(&field.name);
        if let Some(more) = self.more.iter().find(|more| fits(more, &name)) {
            return Some(more.clone());
        }
        // It may be the agent's proof of who it is; where something is put in, it goes.
        if field.name == "authorization" {
            return None;
        }
        let known = names::claim(&name).or_else(|| names::delegation(&name));
        let known = known.or_else(|| names::log_in(&name).filter(|_| logs_in));
        let own = logs_in && log_in.field().is_some_and(|own| names::field(own) == name);
        match known {
            Some(known) if !own && !self.keeps(&name) => Some(known.to_owned()),
            // Ours takes its place, in whatever spelling it came.
            _ => (own && *field.name != *name).then(|| name.into_owned()),
        }
    }

    /// A field by which whoever asks acts for somebody else.
    pub(super) fn delegation(&self, fields: &Fields, log_in: &LogIn, claim: impl Fn(&str) -> Claim) -> Option<String> {
        let own = log_in.field().map(names::field);
        let is = |field: &&Field| {
            let name = names::field(&field.name);
            names::delegation(&name).is_some()
                && own.as_ref() != Some(&name)
                && !self.keeps(&name)
                && claim(&name) == Claim::Gone
        };
        fields.0.iter().find(is).map(|field| field.name.to_string())
    }

    /// A parameter of a query that logs in beside what is put in, or names somebody else.
    pub(super) fn log_in_of(&self, query: &[(String, String)], log_in: &LogIn) -> Option<String> {
        let keeps = |name: &str| self.keep.iter().any(|kept| names::parameter(kept) == name);
        let pairs: Vec<_> = query
            .iter()
            .filter(|(name, _)| !log_in.replaces(name) && !names::is_of_form(name))
            .map(|(name, value)| (names::parameter(name), value.as_str()))
            .filter(|(name, _)| !keeps(name))
            .collect();
        // Without the dot it is any word.
        let user = query.iter().find(|(name, _)| name.eq_ignore_ascii_case(HADOOP));
        if let Some((name, _)) = user.filter(|(name, _)| !keeps(&names::parameter(name))) {
            return Some(name.clone());
        }
        names::log_in_among(&pairs).map(Cow::into_owned)
    }

    fn keeps(&self, name: &str) -> bool {
        self.keep.iter().any(|kept| fits(kept, name))
    }
}

/// Whether a name of a field, as it is compared, is that of the configuration.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => {
            let is_word = beginning.ends_with(|c: char| !c.is_ascii_alphanumeric());
            let beginning = names::field(beginning);
            name.strip_prefix(&*beginning).is_some_and(|rest| !is_word || rest.is_empty() || rest.starts_with('-'))
        }
        None => names::field(pattern) == name,
    }
}

/// Whether a `*` stands nowhere but at the end.
fn ends_at_star(name: &str) -> bool {
    !name.strip_suffix('*').unwrap_or(name).contains('*')
}

/// A name of a field as the most lenient of servers reads it.
pub(super) fn field(name: &str) -> Cow<'_, str> {
    names::field(name)
}

/// A name of a parameter, which was decoded once, as the most lenient of servers reads it.
pub(super) fn parameter(name: &str) -> Cow<'_, str> {
    names::parameter(name)
}

/// The same with the lines that it begins with.
pub(super) fn parameter_as_it_begins(name: &str) -> Cow<'_, str> {
    names::parameter_as_it_begins(name)
}

/// Whether a field logs in, so that its value is a secret.
pub(super) fn is_log_in(name: &str) -> bool {
    names::log_in(&names::field(name)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(names: &[&str]) -> Fields {
        Fields(names.iter().map(|name| Field::new(&name.to_ascii_lowercase(), "x")).collect())
    }

    fn left(claims: &Claims, logs_in: bool, names: &[&str]) -> Vec<String> {
        let mut fields = fields(names);
        claims.asked(&mut fields, (&LogIn::Bearer, logs_in), |_| Claim::Gone, Claim::Gone);
        fields.0.iter().map(|field| field.name.to_string()).collect()
    }

    const CLAIMED: &[&str] = &[
        "Impersonate-User",
        "X-Remote-User",
        "X-Remote-Group",
        "X-Remote-Extra-Scopes",
        "X-Forwarded-User",
        "X-Forwarded-Email",
        "X-Forwarded-Groups",
        "X-Forwarded-Preferred-Username",
        "X-Forwarded-Access-Token",
        "X-Auth-Request-User",
        "Remote-User",
        "X-User",
        "X-WEBAUTH-USER",
        "X-Trino-User",
        "X-ClickHouse-User",
        "es-security-runas-user",
        "Sudo",
        "OIDC_CLAIM_sub",
        "X-Amzn-Oidc-Identity",
        "X-Goog-Authenticated-User-Email",
        "Cf-Access-Jwt-Assertion",
        "Tailscale-User-Login",
        "X-MS-Client-Principal",
        "X-MS-CLIENT-PRINCIPAL-ID",
        "X-Forwarded-For",
        "Forwarded",
        "X-Real-IP",
        "X_Forwarded_For",
        "x.real.ip",
        "X-User%20",
        "X-User%00",
    ];
    const LOGGED_IN: &[&str] =
        &["X-Api-Key", "X-Auth-Token", "Private-Token", "X-ClickHouse-Key", "X-Vault-Token", "authorization_"];
    const ORDINARY: &[&str] = &[
        "host",
        "authorization",
        "accept",
        "content-type",
        "user-agent",
        "x-user-agent",
        "x-request-id",
        "x-subject-token",
        "idempotency-key",
        "if-match",
        "traceparent",
        "x-amz-date",
        "x-amz-content-sha256",
    ];

    #[test]
    fn what_says_who_asks_is_gone_and_what_does_not_stays() {
        assert_eq!(left(&Claims::default(), true, &[CLAIMED, LOGGED_IN, ORDINARY].concat()), ORDINARY);
        let kept = left(&Claims::default(), false, &[CLAIMED, LOGGED_IN, ORDINARY].concat());
        assert_eq!(kept.len(), LOGGED_IN.len() + ORDINARY.len(), "{kept:?}");
    }

    #[test]
    fn the_configuration_keeps_and_adds_names() {
        let claims: Claims = toml::from_str(
            "keep = ['X-Forwarded-For', 'cf-access-*', 'key']\nmore = ['X-Acting-For', 'x-corp-*', 'x-acme-u*']",
        )
        .unwrap();
        claims.check().unwrap();
        let names = [
            "X-Forwarded-For",
            "Cf-Access-Client-Id",
            "X-Acting-For",
            "X_Corp_Who",
            "X-Corporate",
            "X-Acme-User",
            "X-Real-IP",
        ];
        assert_eq!(left(&claims, true, &names), ["x-forwarded-for", "cf-access-client-id", "x-corporate"]);
        let query = [("key".to_owned(), "AIzaSyD-1234567890abcdefgh".to_owned())];
        assert!(claims.log_in_of(&query, &LogIn::Bearer).is_none());
        assert!(Claims::default().log_in_of(&query, &LogIn::Bearer).is_some());
        for text in
            ["keep = ['accept']", "keep = ['authorization']", "more = ['*']", "more = ['x-*-user']", "more = ['host']"]
        {
            assert!(toml::from_str::<Claims>(text).unwrap().check().is_err(), "{text}");
        }
        assert!(toml::from_str::<Claims>("kept = []").is_err());
    }

    #[test]
    fn what_is_put_in_takes_the_place_of_the_agents() {
        let log_in = LogIn::Header("X-Api-Key".into());
        let mut asked = fields(&["x-api-key", "x.api.key", "x-auth-token"]);
        let gone = Claims::default().asked(&mut asked, (&log_in, true), |_| Claim::Gone, Claim::Gone);
        assert_eq!((gone, asked), (vec!["x-api-key".to_owned(), "x-auth-token".to_owned()], fields(&["x-api-key"])));
        let query = |name: &str| vec![(name.to_owned(), "AKIAIOSFODNN7EXAMPLE1".to_owned())];
        let sigv4: LogIn = toml::from_str::<std::collections::BTreeMap<String, LogIn>>(
            "a = { sigv4 = { region = 'r', service = 's3' } }",
        )
        .unwrap()
        .remove("a")
        .unwrap();
        assert!(Claims::default().log_in_of(&query("X-Amz-Signature"), &sigv4).is_none());
        assert!(Claims::default().log_in_of(&query("X_Amz_Signature"), &sigv4).is_some(), "it is not taken out");
        for (name, is) in
            [("_token", false), ("token", true), ("[token]", true), ("_token[]", true), ("_api_key", true)]
        {
            assert_eq!(Claims::default().log_in_of(&query(name), &LogIn::Bearer).is_some(), is, "{name}");
        }
        for name in ["X-Amz-Signature", "user.name", "accessToken", "access_token", "Access_Token[]", "api_key\0"] {
            assert!(Claims::default().log_in_of(&query(name), &LogIn::Bearer).is_some(), "{name}");
        }
    }
}
