//! Attacks on the verification of tokens: each must fail, at the check that is meant to stop it.

use std::sync::LazyLock;

use serde_json::json;

use super::*;
use crate::clock::ManualClock;
use crate::testing::issuer::{KeyKind, SigningKey, TestIssuer};

const NOW: i64 = 1_700_000_000;
const URL: &str = "https://idp.example";

struct Keys {
    rsa: SigningKey,
    ec: SigningKey,
    ed: SigningKey,
    stranger: SigningKey,
}

/// RSA keys are slow to make: once for all tests.
static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    rsa: SigningKey::generate("rsa", KeyKind::Rsa).unwrap(),
    ec: SigningKey::generate("ec", KeyKind::Ec).unwrap(),
    ed: SigningKey::generate("ed", KeyKind::Ed).unwrap(),
    stranger: SigningKey::generate("ec", KeyKind::Ec).unwrap(),
});

struct Bench {
    issuer: Issuer,
    clock: Arc<ManualClock>,
    dir: tempfile::TempDir,
}

fn bench_with(extra: &str) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let keys = json!({"keys": [KEYS.rsa.jwk, KEYS.ec.jwk, KEYS.ed.jwk]});
    std::fs::write(&path, keys.to_string()).unwrap();
    let text = format!(
        "name='corp'\nkind='oidc'\nissuer='{URL}'\naudience=['interceptor','other']\njwks='{}'\n{extra}",
        path.display()
    );
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix(NOW)));
    let issuer = Issuer::new(toml::from_str(&text).unwrap(), clock.clone()).unwrap();
    Bench { issuer, clock, dir }
}

fn bench() -> Bench {
    bench_with("")
}

fn claims() -> Value {
    json!({"iss": URL, "aud": "interceptor", "sub": "svc:billing", "groups": ["finance", "staff"], "jti": "t1",
           "iat": NOW, "nbf": NOW, "exp": NOW + 600})
}

/// The good claims with one changed; null removes it.
fn with(name: &str, value: Value) -> Value {
    let mut all = claims();
    let map = all.as_object_mut().unwrap();
    if value.is_null() {
        map.remove(name)
    } else {
        map.insert(name.to_owned(), value)
    };
    all
}

async fn fails(bench: &Bench, token: &str) -> TokenError {
    let error = bench.issuer.verify(token.as_bytes()).await.unwrap_err();
    // No message gives away a piece of the token: not its signature, not its encoded claims.
    let text = error.to_string();
    for part in token.split('.').filter(|part| part.len() > 16) {
        assert!(!text.contains(part), "{text}");
    }
    error
}

async fn fails_claims(claims: Value) -> TokenError {
    fails(&bench(), &KEYS.ec.sign(&claims).unwrap()).await
}

fn wanted(text: &str) -> TokenConfig {
    toml::from_str(&format!("issuer='corp'\nfrom='connection'\nsubject='svc:billing'\n{text}")).unwrap()
}

#[tokio::test]
async fn good_tokens_of_each_key_pass() {
    let bench = bench();
    for key in [&KEYS.rsa, &KEYS.ec, &KEYS.ed] {
        let verified = bench.issuer.verify(key.sign(&claims()).unwrap().as_bytes()).await.unwrap();
        assert_eq!(verified.facts.subject, "svc:billing");
        assert_eq!(verified.facts.issuer, "corp");
        assert_eq!(verified.facts.id.as_deref(), Some("t1"));
        assert_eq!(verified.facts.expires_at, Timestamp::from_unix(NOW + 630));
    }
    let header = r#"{"alg":"PS256","kid":"rsa"}"#;
    let pss = KEYS.rsa.sign_raw(Algorithm::PS256, header, &claims().to_string()).unwrap();
    assert!(bench.issuer.verify(pss.as_bytes()).await.is_ok());
}

/// A signature that was found right once counts for the same bytes and the same key only, and for nothing but itself.
#[tokio::test]
async fn what_is_remembered_of_a_token_makes_no_other_pass() {
    let bench = bench();
    let token = KEYS.ec.sign(&claims()).unwrap();
    for _ in 0..2 {
        bench.issuer.verify(token.as_bytes()).await.unwrap();
    }
    assert_eq!(bench.issuer.signatures.0.lock().len(), 1);
    // One altered character of any part.
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let altered = format!("{signed}.{other}{}", signature.chars().skip(1).collect::<String>());
    assert!(matches!(fails(&bench, &altered).await, TokenError::Signature { .. }));
    let foreign = KEYS.stranger.sign(&claims()).unwrap();
    let (_, foreign) = foreign.rsplit_once('.').unwrap();
    assert!(matches!(fails(&bench, &format!("{signed}.{foreign}")).await, TokenError::Signature { .. }));
    assert_eq!(bench.issuer.signatures.0.lock().len(), 1, "what is wrong is not remembered");
    // Another key under the same id.
    let keys = |key: &SigningKey| json!({"keys": [key.jwk]}).to_string() + "\n";
    let path = bench.dir.path().join("jwks.json");
    std::fs::write(&path, keys(&KEYS.stranger)).unwrap();
    assert!(matches!(fails(&bench, &token).await, TokenError::Signature { .. }));
    // No key.
    std::fs::write(&path, keys(&KEYS.rsa)).unwrap();
    assert!(matches!(fails(&bench, &token).await, TokenError::Keys { .. }));
    // Back, but too late.
    std::fs::write(&path, keys(&KEYS.ec)).unwrap();
    bench.issuer.verify(token.as_bytes()).await.unwrap();
    bench.clock.advance(std::time::Duration::from_secs(630));
    assert!(matches!(fails(&bench, &token).await, TokenError::Expired { .. }));
}

#[tokio::test]
async fn remembered_signatures_are_bounded() {
    let bench = bench();
    let key = bench.issuer.keys().key("ec").await.unwrap();
    for number in 0..SIGNATURES_KEPT {
        bench.issuer.signatures.0.lock().put(Sha256::digest(number.to_be_bytes()).into(), Arc::clone(&key));
    }
    bench.issuer.verify(KEYS.ec.sign(&claims()).unwrap().as_bytes()).await.unwrap();
    assert_eq!(bench.issuer.signatures.0.lock().len(), SIGNATURES_KEPT);
}

#[tokio::test]
async fn unsigned_tokens_are_refused() {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = encode(&json!({"alg": alg, "kid": "ec"}).to_string());
        let body = encode(&claims().to_string());
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{body}.{signature}");
            assert_eq!(fails(&bench(), &token).await, TokenError::Unsigned, "{alg}");
        }
    }
}

#[tokio::test]
async fn the_public_key_is_no_shared_secret() {
    // The classic: HS256 with the text of the RSA public key as the secret.
    let modulus = KEYS.rsa.jwk["n"].as_str().unwrap();
    let secret = URL_SAFE_NO_PAD.decode(modulus).unwrap();
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let mut header = jsonwebtoken::Header::new(algorithm);
        header.kid = Some("rsa".to_owned());
        let key = jsonwebtoken::EncodingKey::from_secret(&secret);
        let token = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
        assert_eq!(fails(&bench(), &token).await, TokenError::Symmetric(format!("{algorithm:?}")));
    }
}

#[tokio::test]
async fn algorithms_off_the_list_are_refused() {
    let strict = bench_with("algorithms=['RS256']");
    let error = fails(&strict, &KEYS.ec.sign(&claims()).unwrap()).await;
    assert!(matches!(&error, TokenError::AlgorithmNotAllowed { expected, .. } if expected == "RS256"), "{error}");
    let header = r#"{"alg":"RS512","kid":"rsa"}"#;
    let token = KEYS.rsa.sign_raw(Algorithm::RS512, header, &claims().to_string()).unwrap();
    assert!(matches!(fails(&bench(), &token).await, TokenError::AlgorithmNotAllowed { .. }));
    let odd = KEYS.ec.sign_raw(Algorithm::ES256, r#"{"alg":"es256","kid":"ec"}"#, &claims().to_string()).unwrap();
    assert!(matches!(fails(&bench(), &odd).await, TokenError::AlgorithmNotAllowed { .. }));
}

#[tokio::test]
async fn the_key_decides_which_algorithms_it_serves() {
    for (alg, kid) in [("RS256", "ec"), ("ES256", "rsa"), ("EdDSA", "ec"), ("ES256", "ed"), ("PS256", "ed")] {
        let header = json!({"alg": alg, "kid": kid}).to_string();
        let token = KEYS.ec.sign_raw(Algorithm::ES256, &header, &claims().to_string()).unwrap();
        assert!(matches!(fails(&bench(), &token).await, TokenError::WrongKeyType { .. }), "{alg} {kid}");
    }
}

#[tokio::test]
async fn key_ids_come_from_the_issuer() {
    let bench = bench();
    let error = fails(&bench, &KEYS.stranger.sign(&claims()).unwrap()).await;
    assert_eq!(error, TokenError::Signature { issuer: "corp".to_owned() });
    for kid in ["nobody", "../../../../dev/null", "' OR 1=1 --", "ec\u{0}", "EC", " ec"] {
        let header = json!({"alg": "ES256", "kid": kid}).to_string();
        let token = KEYS.ec.sign_raw(Algorithm::ES256, &header, &claims().to_string()).unwrap();
        let error = fails(&bench, &token).await;
        assert!(matches!(error, TokenError::Keys { error: KeyError::Unknown { known: 3, .. }, .. }), "{kid}");
    }
    for header in [r#"{"alg":"ES256"}"#, r#"{"alg":"ES256","kid":""}"#, r#"{"alg":"ES256","kid":7}"#] {
        let token = KEYS.ec.sign_raw(Algorithm::ES256, header, &claims().to_string()).unwrap();
        assert_eq!(fails(&bench, &token).await, TokenError::NoKeyId, "{header}");
    }
}

#[tokio::test]
async fn keys_and_demands_in_the_header_are_refused() {
    let sign =
        |header: Value| KEYS.stranger.sign_raw(Algorithm::ES256, &header.to_string(), &claims().to_string()).unwrap();
    let bench = bench();
    for (name, value) in [("jwk", KEYS.stranger.jwk.clone()), ("jku", json!("https://evil")), ("x5u", json!("x"))] {
        let mut header = json!({"alg": "ES256", "kid": "ec"});
        header[name] = value;
        assert_eq!(fails(&bench, &sign(header)).await, TokenError::KeyInHeader(name));
    }
    assert_eq!(fails(&bench, &sign(json!({"alg": "ES256", "kid": "ec", "crit": ["x"]}))).await, TokenError::Critical);
    for name in ["cty", "enc", "zip"] {
        let mut header = json!({"alg": "ES256", "kid": "ec"});
        header[name] = json!("JWT");
        assert_eq!(fails(&bench, &sign(header)).await, TokenError::Nested);
    }
    for typ in ["logout+jwt", "secevent+jwt", "dpop+jwt", ""] {
        let header = json!({"alg": "ES256", "kid": "ec", "typ": typ});
        assert!(matches!(fails(&bench, &sign(header)).await, TokenError::Type(_)), "{typ}");
    }
}

#[tokio::test]
async fn one_changed_byte_anywhere_is_refused() {
    let bench = bench();
    for key in [&KEYS.ec, &KEYS.ed, &KEYS.rsa] {
        let token = key.sign(&claims()).unwrap();
        for at in (0..token.len()).step_by(7) {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(bench.issuer.verify(&bytes).await.is_err(), "byte {at} of {token}");
        }
    }
}

#[tokio::test]
async fn only_the_one_canonical_form_is_read() {
    let bench = bench();
    let good = KEYS.ec.sign(&claims()).unwrap();
    assert!(bench.issuer.verify(good.as_bytes()).await.is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    let (header, body, signature) = (parts[0], parts[1], parts[2]);
    let variants = [
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        format!("{good}\0"),
        format!("{good}="),
        format!("{header}=.{body}.{signature}"),
        format!("{header}.{body}==.{signature}"),
        format!("{header}.\t{body}.{signature}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{header}..{body}.{signature}"),
        format!("{header}.{body}"),
        format!("{header}.{body}."),
        format!("{header}..{signature}"),
        format!(".{body}.{signature}"),
        format!("Bearer {good}"),
        good.replace(['-', '_'], "+") + "/",
        String::new(),
        "..".to_owned(),
        ".".to_owned(),
    ];
    for variant in variants {
        fails(&bench, &variant).await;
    }
    assert!(bench.issuer.verify(b"\xff\xfe.a.b").await.is_err());
    assert_eq!(fails(&bench, &format!("{header}.a.b.c.{signature}")).await, TokenError::Nested);
}

#[tokio::test]
async fn trailing_bits_do_not_give_a_second_spelling() {
    // 64 bytes of signature leave four unused bits in the last character.
    let good = KEYS.ec.sign(&claims()).unwrap();
    let mut stem = good.clone();
    let last = stem.pop().unwrap();
    let mut others = 0;
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars().filter(|c| *c != last) {
        let variant = format!("{stem}{other}");
        assert!(bench().issuer.verify(variant.as_bytes()).await.is_err(), "{other}");
        others += 1;
        if others == 16 {
            break;
        }
    }
}

#[tokio::test]
async fn huge_tokens_are_not_even_parsed() {
    let bench = bench();
    assert_eq!(fails(&bench, &"a".repeat(TOKEN_MAX + 1)).await, TokenError::TooLarge);
    let deep = format!("{}1{}", r#"{"a":"#.repeat(2000), "}".repeat(2000));
    let token = KEYS.ec.sign_raw(Algorithm::ES256, r#"{"alg":"ES256","kid":"ec"}"#, &deep).unwrap();
    assert!(matches!(fails(&bench, &token).await, TokenError::Unreadable { .. }));
}

#[tokio::test]
async fn repeated_names_are_refused() {
    let doubled = claims().to_string().replacen('{', r#"{"sub":"svc:admin","#, 1);
    let token = KEYS.ec.sign_raw(Algorithm::ES256, r#"{"alg":"ES256","kid":"ec"}"#, &doubled).unwrap();
    let error = fails(&bench(), &token).await;
    assert_eq!(error, TokenError::Unreadable { part: "claims", error: StrictError::Duplicate("\"sub\"".to_owned()) });
    let header = r#"{"alg":"none","alg":"ES256","kid":"ec"}"#;
    let token = KEYS.ec.sign_raw(Algorithm::ES256, header, &claims().to_string()).unwrap();
    assert!(matches!(fails(&bench(), &token).await, TokenError::Unreadable { part: "header", .. }));
}

#[tokio::test]
async fn a_token_within_a_token_is_not_looked_into() {
    let inner = KEYS.ec.sign(&claims()).unwrap();
    let header = r#"{"alg":"ES256","kid":"ec","cty":"JWT"}"#;
    let outer = KEYS.ec.sign_raw(Algorithm::ES256, header, &inner).unwrap();
    assert_eq!(fails(&bench(), &outer).await, TokenError::Nested);
    let plain = KEYS.ec.sign_raw(Algorithm::ES256, r#"{"alg":"ES256","kid":"ec"}"#, &inner).unwrap();
    assert!(matches!(fails(&bench(), &plain).await, TokenError::Unreadable { .. }));
}

#[tokio::test]
async fn issuer_and_audience_are_exact() {
    for issuer in ["https://idp.example/", "https://IDP.example", "https://idp.example.evil", "http://idp.example"] {
        let error = fails_claims(with("iss", json!(issuer))).await;
        assert!(matches!(&error, TokenError::Issuer { got, .. } if got.contains(issuer)), "{error}");
        assert!(error.to_string().contains(URL), "{error}");
    }
    assert_eq!(fails_claims(with("iss", Value::Null)).await, TokenError::MissingClaim("iss"));
    assert_eq!(fails_claims(with("iss", json!([URL]))).await, TokenError::BadClaim("iss"));
    for audience in [json!("interceptor2"), json!([]), json!(["x", "Interceptor"]), json!("")] {
        assert!(matches!(fails_claims(with("aud", audience)).await, TokenError::Audience { .. }));
    }
    assert_eq!(fails_claims(with("aud", Value::Null)).await, TokenError::MissingClaim("aud"));
    assert_eq!(fails_claims(with("aud", json!({"interceptor": 1}))).await, TokenError::BadClaim("aud"));
    assert_eq!(fails_claims(with("aud", json!(["interceptor", 1]))).await, TokenError::BadClaim("aud"));
    let listed = KEYS.ec.sign(&with("aud", json!(["x", "other"]))).unwrap();
    assert!(bench().issuer.verify(listed.as_bytes()).await.is_ok());
}

#[tokio::test]
async fn time_is_checked_with_bounded_skew() {
    use std::time::Duration;
    let bench = bench();
    let token = KEYS.ec.sign(&claims()).unwrap();
    bench.clock.advance(Duration::from_secs(629));
    assert!(bench.issuer.verify(token.as_bytes()).await.is_ok());
    bench.clock.advance(Duration::from_secs(1));
    assert!(matches!(fails(&bench, &token).await, TokenError::Expired { ago: 30, .. }));
    assert!(matches!(fails_claims(with("nbf", json!(NOW + 31))).await, TokenError::NotYetValid { .. }));
    assert!(matches!(fails_claims(with("iat", json!(NOW + 31))).await, TokenError::IssuedInFuture { .. }));
    let skewed = KEYS.ec.sign(&with("nbf", json!(NOW + 30))).unwrap();
    assert!(self::bench().issuer.verify(skewed.as_bytes()).await.is_ok());
}

#[tokio::test]
async fn times_must_be_times() {
    assert_eq!(fails_claims(with("exp", Value::Null)).await, TokenError::MissingClaim("exp"));
    for exp in [json!("1700000600"), json!(-1), json!(u64::MAX), json!(1e300), json!([NOW + 600]), json!(true)] {
        assert_eq!(fails_claims(with("exp", exp.clone())).await, TokenError::BadClaim("exp"), "{exp}");
    }
    for exp in [json!(NOW + 86_400 + 31), json!(LATEST)] {
        assert!(matches!(fails_claims(with("exp", exp)).await, TokenError::LivesTooLong { .. }));
    }
    // Without iat the life counts from now; an old iat does not make a long life short.
    let mut long = with("exp", json!(NOW + 86_400 + 31));
    long.as_object_mut().unwrap().remove("iat");
    assert!(matches!(fails_claims(long).await, TokenError::LivesTooLong { .. }));
    assert!(matches!(fails_claims(with("iat", json!(0))).await, TokenError::LivesTooLong { .. }));
    let mut backwards = with("exp", json!(NOW - 10));
    backwards["nbf"] = json!(NOW);
    assert_eq!(fails_claims(backwards).await, TokenError::Times);
    let fraction = KEYS.ec.sign(&with("exp", json!(1_700_000_600.5))).unwrap();
    let verified = bench().issuer.verify(fraction.as_bytes()).await.unwrap();
    assert_eq!(verified.facts.expires_at, Timestamp::from_unix(NOW + 630));
}

#[tokio::test]
async fn names_and_groups_are_bounded() {
    assert_eq!(fails_claims(with("sub", Value::Null)).await, TokenError::MissingClaim("sub"));
    assert_eq!(fails_claims(with("sub", json!(""))).await, TokenError::BadClaim("sub"));
    assert_eq!(fails_claims(with("sub", json!("x".repeat(NAME_MAX + 1)))).await, TokenError::BadClaim("sub"));
    let many: Vec<String> = (0..=GROUPS_MAX).map(|n| n.to_string()).collect();
    assert_eq!(fails_claims(with("groups", json!(many))).await, TokenError::TooManyGroups);
    for groups in [json!([1]), json!({"a": 1}), json!(7), json!("g".repeat(NAME_MAX + 1))] {
        assert_eq!(fails_claims(with("groups", groups)).await, TokenError::BadClaim("groups claim"));
    }
}

#[tokio::test]
async fn an_agent_admits_its_own_subject_and_groups_only() {
    let verified = bench().issuer.verify(KEYS.ec.sign(&claims()).unwrap().as_bytes()).await.unwrap();
    let groups = admit(&verified, &wanted("groups=['finance']\noptional_groups=['staff','root']")).unwrap();
    assert_eq!(*groups, ["finance".to_owned(), "staff".to_owned()]);
    assert!(admit(&verified, &wanted("")).unwrap().is_empty());
    assert_eq!(
        admit(&verified, &wanted("groups=['finance','root']")),
        Err(TokenError::MissingGroup("\"root\"".to_owned()))
    );
    let mut other = wanted("");
    other.subject = "svc:bill".to_owned();
    assert!(matches!(admit(&verified, &other), Err(TokenError::Subject { .. })));
    assert!(admit(&verified, &wanted("claims={jti='t1'}")).is_ok());
    assert!(admit(&verified, &wanted("claims={groups='staff'}")).is_ok());
    assert_eq!(admit(&verified, &wanted("claims={jti='t2'}")), Err(TokenError::Claim("\"jti\"".to_owned())));
    assert!(admit(&verified, &wanted("claims={missing=true}")).is_err());
}

#[tokio::test]
async fn groups_are_found_by_path() {
    let nested = bench_with("groups_claim='realm_access.roles'");
    let token = KEYS.ec.sign(&with("realm_access", json!({"roles": ["finance"]}))).unwrap();
    let verified = nested.issuer.verify(token.as_bytes()).await.unwrap();
    assert_eq!(*admit(&verified, &wanted("groups=['finance']")).unwrap(), ["finance".to_owned()]);
    assert!(admit(&verified, &wanted("groups=['staff']")).is_err());
}

#[tokio::test]
async fn another_issuer_with_the_same_key_id_is_told_apart() {
    let evil = TestIssuer { url: URL.to_owned(), keys: vec![SigningKey::generate("rsa", KeyKind::Ed).unwrap()] };
    let token = evil.good("svc:billing", "interceptor", &[], NOW, 60).unwrap();
    assert!(matches!(fails(&bench(), &token).await, TokenError::WrongKeyType { .. }));
}
