//! Tokens and key sets: nothing panics, nothing unsigned passes, and of what is signed only what the checks allow.
#![no_main]

use std::sync::{Arc, LazyLock};

use interceptor::clock::{ManualClock, Timestamp};
use interceptor::identity::token::Issuer;
use interceptor::identity::{jwks, strict};
use interceptor::testing::issuer::{KeyKind, SigningKey};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

const NOW: i64 = 1_700_000_000;
const URL: &str = "https://idp.example";
const LEEWAY: f64 = 60.0;

struct Bench {
    key: SigningKey,
    issuer: Issuer,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

static BENCH: LazyLock<Bench> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let key = SigningKey::generate("k", KeyKind::Ed).expect("a key");
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, json!({ "keys": [key.jwk] }).to_string()).expect("a key set");
    let config = json!({"name": "corp", "kind": "oidc", "issuer": URL, "audience": ["a", "b"], "jwks": path,
                        "algorithms": ["EdDSA"], "leeway_seconds": LEEWAY as u64});
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix(NOW)));
    let issuer = Issuer::new(serde_json::from_value(config).expect("a configuration"), clock).expect("an issuer");
    Bench {
        key,
        issuer,
        runtime: Builder::new_current_thread().enable_all().build().expect("a runtime"),
        _folder: folder,
    }
});

fn verify(token: &str) -> bool {
    BENCH.runtime.block_on(BENCH.issuer.verify(token.as_bytes())).is_ok()
}

/// What a second reading says of claims.
fn acceptable(claims: &str) -> bool {
    let Ok(Value::Object(claims)) = serde_json::from_str(claims) else { return false };
    let number = |name: &str| claims.get(name).map(|value| value.as_f64().unwrap_or(f64::NAN));
    let audience = match claims.get("aud") {
        Some(Value::String(one)) => one == "a" || one == "b",
        Some(Value::Array(all)) => all.iter().any(|one| one == "a" || one == "b"),
        _ => false,
    };
    let now = NOW as f64;
    claims.get("iss").is_some_and(|iss| iss == URL)
        && claims.get("sub").is_some_and(Value::is_string)
        && audience
        && number("exp").is_some_and(|exp| exp + LEEWAY > now)
        && number("nbf").is_none_or(|nbf| nbf.floor() <= now + LEEWAY)
        && number("iat").is_none_or(|iat| iat.floor() <= now + LEEWAY)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _object = strict::object(data);
    let _keys = jwks::parse(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert!(!verify(text), "a token of our issuer that it did not sign");
    let (header, claims) = text.split_once('\n').unwrap_or((r#"{"alg":"EdDSA","kid":"k"}"#, text));
    let Ok(token) = BENCH.key.sign_raw(BENCH.key.algorithm, header, claims) else { return };
    if verify(&token) {
        assert!(acceptable(claims), "{claims}");
        let altered = token.replacen('.', "A.", 1);
        assert!(!verify(&altered), "another header than was signed: {altered}");
    }
});
