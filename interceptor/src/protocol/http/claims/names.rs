//! Names by which targets take whoever asks for somebody, and how they are compared: as the most lenient of servers reads them.
//! All lists are in order, and in the form that [`field`] and [`parameter`] give.

use std::borrow::Cow;

use crate::mask::fold;

/// Fields by which a server believes who asks, for whom, or from where: proxies in front of it set them.
const CLAIMS: &[&str] = &[
    "auth-user",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "dapr-caller-app-id",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "forwarded-for",
    "iv-creds",
    "iv-groups",
    "iv-user",
    "l5d-client-id",
    "oam-remote-user",
    "proxy-client-ip",
    "proxy-user",
    "sm-user",
    "true-client-ip",
    "wl-proxy-client-cert",
    "wl-proxy-client-ip",
    "wsai",
    "wsat",
    "wscc",
    "wscs",
    "wsis",
    "wspc",
    "wspr",
    "wsra",
    "wsrh",
    "wsru",
    "wssc",
    "wssi",
    "wssn",
    "wssp",
    "x-anonymous-consumer",
    "x-apigateway-api-userinfo",
    "x-arr-clientcert",
    "x-auth-groups",
    "x-auth-roles",
    "x-auth-subject",
    "x-auth-user",
    "x-auth-userid",
    "x-auth-username",
    "x-azure-clientip",
    "x-clickhouse-user",
    "x-client-cert",
    "x-client-dn",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-current-user",
    "x-email",
    "x-endpoint-api-userinfo",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-forwarded",
    "x-forwarded-access-token",
    "x-forwarded-by",
    "x-forwarded-client-cert",
    "x-forwarded-email",
    "x-forwarded-for",
    "x-forwarded-groups",
    "x-forwarded-id-token",
    "x-forwarded-preferred-username",
    "x-forwarded-roles",
    "x-forwarded-tls-client-cert",
    "x-forwarded-tls-client-cert-info",
    "x-forwarded-user",
    "x-forwarded-username",
    "x-groups",
    "x-jwt-assertion",
    "x-jwt-claims",
    "x-jwt-payload",
    "x-original-forwarded-for",
    "x-original-user",
    "x-originating-ip",
    "x-presto-user",
    "x-principal",
    "x-proxiedentitieschain",
    "x-proxy-roles",
    "x-proxy-user",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-roles",
    "x-ssl-cert",
    "x-trino-original-user",
    "x-trino-user",
    "x-true-client-ip",
    "x-user",
    "x-user-email",
    "x-user-groups",
    "x-user-id",
    "x-user-name",
    "x-user-role",
    "x-user-roles",
    "x-userid",
    "x-userinfo",
    "x-username",
];

/// What other such fields begin with.
const FAMILIES: &[&str] = &[
    "cf-access-",
    "oidc-",
    "remote-",
    "ssl-client-",
    "tailscale-user-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-appengine-user-",
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-consumer-",
    "x-credential-",
    "x-forwarded-user-",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-openidc-",
    "x-pomerium-",
    "x-remote-",
    "x-ssl-client-",
    "x-verified-",
    "x-vouch-",
    "x-webauth-",
];

/// Fields by which whoever has logged in acts for somebody else, who may do less: without them, a request would be done with all that
/// the log-in may do.
const DELEGATIONS: &[&str] = &[
    "api-username",
    "as-user",
    "assume-user",
    "callerobjectid",
    "dropbox-api-select-admin",
    "dropbox-api-select-user",
    "es-security-runas-user",
    "mscrmcallerid",
    "on-behalf-of",
    "opendistro-security-impersonate-as",
    "run-as",
    "stripe-account",
    "sudo",
    "x-act-as",
    "x-acting-user",
    "x-on-behalf-of",
    "x-redmine-switch-user",
    "x-run-as",
    "x-scope-orgid",
    "x-sudo",
    "x-trino-role",
];

/// What other such fields begin with.
const DELEGATING: &[&str] = &["impersonate-", "x-hasura-", "x-impersonate-"];

/// Fields that log in, beside those that all of HTTP knows. `X-Subject-Token` is none: it is what OpenStack is asked about.
const LOG_INS: &[&str] = &[
    "api-key",
    "apikey",
    "authentication",
    "authorization",
    "circle-token",
    "dapr-api-token",
    "dd-api-key",
    "dd-application-key",
    "deploy-token",
    "es-client-authentication",
    "es-secondary-authorization",
    "fastly-key",
    "job-token",
    "ocp-apim-subscription-key",
    "private-token",
    "x-access-token",
    "x-algolia-api-key",
    "x-amz-security-token",
    "x-api-key",
    "x-api-secret",
    "x-api-token",
    "x-apikey",
    "x-auth-email",
    "x-auth-key",
    "x-auth-token",
    "x-auth-user-service-key",
    "x-authorization",
    "x-clickhouse-key",
    "x-consul-token",
    "x-figma-token",
    "x-forwarded-authorization",
    "x-functions-key",
    "x-gitlab-token",
    "x-goog-api-key",
    "x-goog-iam-authorization-token",
    "x-id-token",
    "x-jfrog-art-api",
    "x-ms-authorization-auxiliary",
    "x-ms-copy-source-authorization",
    "x-nomad-token",
    "x-nuget-apikey",
    "x-octopus-apikey",
    "x-original-authorization",
    "x-parse-master-key",
    "x-parse-session-token",
    "x-redmine-api-key",
    "x-rundeck-auth-token",
    "x-sentry-auth",
    "x-serverless-authorization",
    "x-service-token",
    "x-session-token",
    "x-sfdc-session",
    "x-shopify-access-token",
    "x-sn-apikey",
    "x-storage-token",
    "x-token",
    "x-trino-extra-credential",
    "x-user-token",
    "x-vault-token",
];

/// Parameters of a query that log in, or name somebody else.
const PARAMETERS: &[&str] = &[
    "access_token",
    "accesstoken",
    "act_as",
    "api_key",
    "api_secret",
    "api_token",
    "apikey",
    "apisecret",
    "apitoken",
    "app_key",
    "application_key",
    "auth_key",
    "auth_token",
    "authkey",
    "authorization",
    "authtoken",
    "bearer_token",
    "bearertoken",
    "client_secret",
    "clientsecret",
    "dapr_api_token",
    "dd_api_key",
    "dd_application_key",
    "doas",
    "feed_token",
    "hapikey",
    "id_token",
    "idtoken",
    "impersonate",
    "impersonate_user",
    "job_token",
    "jsessionid",
    "jwt",
    "jwt_token",
    "login_token",
    "logintoken",
    "oauth_token",
    "ocp_apim_subscription_key",
    "on_behalf_of",
    "os_password",
    "personal_access_token",
    "phpsessid",
    "private_token",
    "privatetoken",
    "rss_token",
    "run_as",
    "runas",
    "samlart",
    "samlresponse",
    "secret_key",
    "secretkey",
    "session_token",
    "sessiontoken",
    "sign_in_token",
    "subscription_key",
    "sudo",
    "wstoken",
    "x_amz_credential",
    "x_amz_security_token",
    "x_amz_signature",
    "x_api_key",
    "x_auth_token",
    "x_gitlab_token",
    "x_goog_credential",
    "x_goog_signature",
    "x_vault_token",
];

/// Those that do where they stand together: presigned addresses.
const TOGETHER: &[[&str; 2]] = &[
    ["sig", "sv"],
    ["sig", "se"],
    ["signature", "awsaccesskeyid"],
    ["signature", "googleaccessid"],
    ["signature", "key_pair_id"],
    ["signature", "ossaccesskeyid"],
    ["signature", "accesskeyid"],
    ["email", "password"],
    ["header", "payload"],
    ["j_username", "j_password"],
    ["login", "password"],
    ["os_username", "os_password"],
    ["u", "p"],
    ["user", "pass"],
    ["user", "password"],
    ["user", "pwd"],
    ["username", "passwd"],
    ["username", "password"],
];

/// Those that do at some targets, and are any word at others: which it is, their value tells.
const PERHAPS: &[&str] =
    &["access_key", "accesskey", "auth", "code", "delegation", "key", "password", "ticket", "token"];

/// Those of [`PARAMETERS`] that may as well say that nobody else is meant: `impersonate=false`.
const FLAGS: &[&str] =
    &["act_as", "doas", "impersonate", "impersonate_user", "on_behalf_of", "run_as", "runas", "sudo"];

/// Those of them that name nobody by a number: elsewhere, 0 is root.
const SWITCHES: &[&str] = &["impersonate"];

/// What JSON in base64 begins with that is a key: of Grafana, and what Laravel has encrypted.
const SEALED: &[&str] = &["eyJrIjoi", "eyJpdiI6"];

/// Whether a parameter is what a page was given to send back with its form (Laravel), which logs nobody in.
pub(super) fn is_of_form(name: &str) -> bool {
    name == "_token"
}

/// A name of a field as servers read it that see no difference in case, nor in what is neither letter nor digit: some make
/// variables of them, some undo escapes.
pub(super) fn field(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
    {
        return Cow::Borrowed(name);
    }
    let plain = unescaped(name.as_bytes());
    let folded: String = plain
        .iter()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte.to_ascii_lowercase()) } else { '-' })
        .collect();
    Cow::Owned(folded.trim_matches('-').to_owned())
}

/// A name of a parameter, which was decoded once, likewise: some cut it at a bracket or a zero byte, some decode it again, and
/// some make names of variables of it, of which a line at the beginning may be a bracket that stood there.
pub(super) fn parameter(name: &str) -> Cow<'_, str> {
    match parameter_as_it_begins(name) {
        Cow::Borrowed(name) => Cow::Borrowed(name.trim_start_matches('_')),
        Cow::Owned(name) => Cow::Owned(name.trim_start_matches('_').to_owned()),
    }
}

/// The same with the lines that it begins with.
pub(super) fn parameter_as_it_begins(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
        return Cow::Borrowed(name);
    }
    let plain = String::from_utf8_lossy(&unescaped(name.as_bytes())).into_owned();
    let begins = |c: char| c.is_alphanumeric() || c == '_';
    let plain = plain.trim_start_matches(|c: char| c != '[' && !begins(c));
    let plain = plain.split('\0').next().unwrap_or_default();
    // A bracket that nothing closes is any character; one at the very beginning cuts nothing off.
    let plain = match plain.split_once('[') {
        Some((before, inner)) if !before.is_empty() && inner.contains(']') => before,
        _ => plain.trim_start_matches(|c: char| !begins(c)).trim_end_matches(']'),
    };
    let plain = plain.trim_matches(|c: char| c.is_whitespace() || c.is_control() || c == '+');
    Cow::Owned(fold(plain).chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect())
}

/// Undoes escapes, however often they are escaped again.
fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut bytes = name.to_vec();
    for _ in 0..ESCAPES_LIMIT {
        let before = bytes.len();
        bytes = once(&bytes);
        if bytes.len() == before {
            break;
        }
    }
    bytes
}

/// How often a name may be escaped again.
const ESCAPES_LIMIT: usize = 4;

fn once(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some((first, after)) = rest.split_first() {
        let digits = after.first_chunk::<2>().filter(|two| *first == b'%' && two.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    out
}

/// The name, or the beginning of names, by which this field (as [`field`] has it) says who asks.
pub(super) fn claim(name: &str) -> Option<&'static str> {
    listed(CLAIMS, name).or_else(|| of_family(FAMILIES, name))
}

/// The same of a field by which whoever asks acts for somebody else.
pub(super) fn delegation(name: &str) -> Option<&'static str> {
    listed(DELEGATIONS, name).or_else(|| of_family(DELEGATING, name))
}

/// The same of a field that logs in.
pub(super) fn log_in(name: &str) -> Option<&'static str> {
    listed(LOG_INS, name)
}

/// Whether a parameter (as [`parameter`] has it) may log in, whatever its value.
pub(super) fn is_parameter(name: &str) -> bool {
    listed(PARAMETERS, name).is_some()
        || listed(PERHAPS, name).is_some()
        || TOGETHER.iter().flatten().any(|one| *one == name)
}

/// The parameter of those that logs in.
pub(super) fn log_in_among<'a>(pairs: &[(Cow<'a, str>, &str)]) -> Option<Cow<'a, str>> {
    let has = |name: &str| pairs.iter().any(|(other, _)| other == name);
    let together = |name: &str| {
        let is_pair = |[one, other]: &&[&str; 2]| *one == name && has(other);
        // A page of what somebody has is no password.
        let is_page = |name: &str| pairs.iter().filter(|(other, _)| other == name).all(|(_, value)| is_count(value));
        // The head of a JWT, or of AppSync, is JSON in base64.
        let has_head = || pairs.iter().any(|(other, value)| other == "header" && is_object_in_base64(value));
        TOGETHER.iter().find(is_pair).is_some_and(|[_, other]| match *other {
            "p" => !is_page("p"),
            "payload" => has_head(),
            _ => true,
        })
    };
    let perhaps = |name: &str, value: &str| {
        let is_other = match name {
            // Tickets that log in say so: `ST-`, `PT-`.
            "key" | "ticket" => is_uuid(value),
            // Where a list goes on: JSON in base64, of which a token has three.
            "token" => {
                value.starts_with("eyJ") && !value.contains('.') && !SEALED.iter().any(|one| value.starts_with(one))
            }
            _ => false,
        };
        listed(PERHAPS, name).is_some() && looks_secret(value) && !is_other
    };
    let is = |(name, value): &&(Cow<'a, str>, &str)| {
        (listed(PARAMETERS, name).is_some() && !is_nobody(name, value)) || together(name) || perhaps(name, value)
    };
    pairs.iter().find(is).map(|(name, _)| name.clone())
}

/// Whether the most lenient decoder finds the beginning of an object of JSON in it: `eyJob3N0...`, `e30`.
fn is_object_in_base64(value: &str) -> bool {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let sign = |byte: u8| match byte {
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        byte if byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/') => Some(byte),
        _ => None,
    };
    let mut signs: Vec<u8> = value.bytes().filter_map(sign).collect();
    signs.resize(signs.len().next_multiple_of(4), b'A');
    let decoded = STANDARD_NO_PAD.decode(signs).unwrap_or_default();
    decoded.trim_ascii_start().first() == Some(&b'{')
}

/// Whether a parameter that could say for whom somebody acts says that it is nobody.
fn is_nobody(name: &str, value: &str) -> bool {
    let value = value.trim();
    listed(FLAGS, name).is_some()
        && (value.is_empty()
            || value.eq_ignore_ascii_case("false")
            || (value == "0" && listed(SWITCHES, name).is_some()))
}

/// Whether that is a number of a page.
fn is_count(value: &str) -> bool {
    const DIGITS: usize = 6;
    value.len() <= DIGITS && value.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether that is the identity of a thing (RFC 9562).
pub(super) fn is_uuid(value: &str) -> bool {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let groups = value.split('-');
    groups.clone().map(str::len).eq(GROUPS) && groups.flat_map(str::bytes).all(|byte| byte.is_ascii_hexdigit())
}

/// Whether that looks like what nobody thinks out: long, without blanks, of letters and digits; what could be a path or a time is
/// none.
fn looks_secret(value: &str) -> bool {
    const SHORTEST: usize = 20;
    const LETTERS: usize = 4;
    let has = |is: fn(&u8) -> bool| value.bytes().any(|byte| is(&byte));
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=:".contains(&byte);
    let is_base64 = || {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        value.bytes().all(fits) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase)
    };
    value.len() >= SHORTEST
        && value.bytes().all(fits)
        && has(u8::is_ascii_digit)
        && value.bytes().filter(u8::is_ascii_alphabetic).count() >= LETTERS
        && (!value.contains('/') || is_base64())
}

fn of_family(families: &[&'static str], name: &str) -> Option<&'static str> {
    let at = families.partition_point(|family| *family <= name);
    families.get(at.checked_sub(1)?).copied().filter(|family| name.starts_with(family))
}

fn listed(list: &[&'static str], name: &str) -> Option<&'static str> {
    list.binary_search(&name).ok().and_then(|at| list.get(at).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_order_and_in_the_form_that_is_looked_for() {
        for list in [CLAIMS, FAMILIES, DELEGATIONS, DELEGATING, LOG_INS, PARAMETERS, PERHAPS, FLAGS] {
            assert!(list.is_sorted(), "{list:?}");
        }
        assert!([CLAIMS, DELEGATIONS, LOG_INS].concat().iter().all(|name| field(name) == *name));
        assert!(PARAMETERS.iter().all(|name| parameter(name) == *name));
        // The one that is found is the only one that can be.
        assert!(
            [FAMILIES, DELEGATING].iter().all(|families| families.windows(2).all(|two| !two[1].starts_with(two[0])))
        );
    }

    #[test]
    fn names_are_what_the_most_lenient_server_reads() {
        for name in ["X-User", "x_user", "X.User", "x-user%20", "x%2duser", "x%252Duser", "-x-user", "x~user_"] {
            assert_eq!(field(name), "x-user", "{name}");
        }
        for name in
            ["api_key", "API_KEY", "api_key[]", "api_key\0x", " api_key ", "api.key", "api%5Fkey", "api%255Fkey"]
        {
            assert_eq!(parameter(name), "api_key", "{name}");
        }
        for name in ["[api_key]", "_api_key", "?api_key", "api[key", "api_key[a]b", "\0api_key"] {
            assert_eq!(parameter(name), "api_key", "{name}");
        }
        assert_eq!(parameter("to\u{212a}en"), "token");
    }

    #[test]
    fn ordinary_names_are_none() {
        for name in [
            "x-user-agent",
            "x-amzn-trace-id",
            "x-request-id",
            "x-subject-token",
            "accept",
            "traceparent",
            "x-goog-api-client",
        ] {
            assert!(claim(name).is_none() && log_in(name).is_none(), "{name}");
        }
        for (name, value) in [
            ("key", "customers/7"),
            ("key", "reports/2025/11/summary-0001.csv"),
            ("key", "2025-11-28T05:06:10Z"),
            ("key", "0f8fad5b-d9cb-469f-a165-70867728950e"),
            ("auth", "https://id.example.com/realms/r2"),
            ("token", "eyJwYWdlIjoyLCJzaXplIjo1MH0"),
            ("signature", "MEUCIQDx0aBcDeFg1234567890"),
            ("token", "next"),
            ("code", "DE"),
            ("password_hint", "x"),
            ("page_token", "abcdefghijklmnop1234567"),
            ("next_token", "abcdefghijklmnop1234567"),
            ("nextToken", "abcdefghijklmnop1234567"),
            ("pageToken", "abcdefghijklmnop1234567"),
            ("NextToken", "abcdefghijklmnop1234567"),
            ("continuationToken", "abcdefghijklmnop1234567"),
            ("continuation-token", "abcdefghijklmnop1234567"),
            ("continue", "abcdefghijklmnop1234567"),
            ("cursor", "abcdefghijklmnop1234567"),
            ("csrf_token", "abcdefghijklmnop1234567"),
            ("_csrf", "abcdefghijklmnop1234567"),
            ("authenticity_token", "abcdefghijklmnop1234567"),
            ("csrfmiddlewaretoken", "abcdefghijklmnop1234567"),
            ("__RequestVerificationToken", "abcdefghijklmnop1234567"),
            ("sync_token", "abcdefghijklmnop1234567"),
            ("state", "abcdefghijklmnop1234567"),
            ("ticket", "OPS-1234"),
            ("ticket", "0f8fad5b-d9cb-469f-a165-70867728950e"),
            ("run_as", ""),
            ("impersonate", "false"),
            ("impersonate", "0"),
            ("sudo", "False"),
            ("access_key", ""),
            ("accesskey", "h"),
            ("session_id", "0f8fad5b-d9cb-469f-a165-70867728950e"),
        ] {
            assert!(log_in_among(&[(parameter(name), value)]).is_none(), "{name}");
        }
        for (name, value) in [
            ("key", "AIzaSyD-1234567890abcdefgh"),
            ("token", "0f8fad5b-d9cb-469f-a165-70867728950e"),
            ("code", "Q0d3X0/xTz91Lm+4bN8vKpR2sTuVwXyZ=="),
            ("sudo", "1"),
            ("doAs", "x"),
            ("ticket", "ST-1856339-aA5Yuvrxzpv8Tau1cYQ7"),
            ("ticket", "PT-0f8fad5b-d9cb-469f-a165-70867728950e"),
            ("run_as", "0"),
            ("run_as", "admin"),
            ("impersonate", "true"),
            ("access_key", "AKIAIOSFODNN7EXAMPLE"),
            ("access_token", ""),
            ("SAMLResponse", "x"),
            ("JSESSIONID", "x"),
            ("wstoken", "x"),
            ("token", "eyJrIjoiT0tTcG1pUlY2RnVKZTFVaDFsNFZXdE9ZWmNrMkZYbk"),
        ] {
            assert!(log_in_among(&[(parameter(name), value)]).is_some(), "{name}");
        }
        for (pairs, is) in [
            ([("sv", "1"), ("sig", "x")], true),
            ([("u", "alice"), ("p", "2")], false),
            ([("u", "alice"), ("p", "s3cret")], true),
            ([("user", "alice"), ("password", "x")], true),
            ([("signature", "x"), ("ossaccesskeyid", "y")], true),
            ([("username", "alice"), ("password", "x")], true),
            ([("username", "alice"), ("state", "x")], false),
            ([("header", "e30"), ("payload", "e30")], true),
            ([("header", "eyJob3N0IjoiYSJ9"), ("payload", "x")], true),
            ([("header", "IAp7 Imhvc3QiOiJhIn0="), ("payload", "x")], true),
            ([("header", "true"), ("payload", "full")], false),
            ([("header", ""), ("payload", "x")], false),
            // A code logs somebody in once, and a key of a function does so for as long as it likes, whatever stands beside it.
            ([("code", "4/0AX4XfWh1234567890abcdef"), ("state", "x")], true),
            ([("code", "Q0d3X0/xTz91Lm+4bN8vKpR2sTuVwXyZ=="), ("state", "x")], true),
            ([("code", "DE"), ("state", "BY")], false),
        ] {
            let pairs = pairs.map(|(name, value)| (Cow::Borrowed(name), value));
            assert_eq!(log_in_among(&pairs).is_some(), is, "{pairs:?}");
        }
        let twice = [("u", "alice"), ("p", "s3cret"), ("p", "2")].map(|(name, value)| (Cow::Borrowed(name), value));
        assert!(log_in_among(&twice).is_some(), "a page hides no password");
    }
}
