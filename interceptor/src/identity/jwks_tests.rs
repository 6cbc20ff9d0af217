//! Tests of the key store: what is refused, when the issuer is asked, and for how long old keys count.

use serde_json::json;

use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::testing::issuer::{KeyKind, Serving, SigningKey, TestIssuer};

fn ec(kid: &str) -> SigningKey {
    SigningKey::generate(kid, KeyKind::Ec).unwrap()
}

fn set(keys: &[Value]) -> Vec<u8> {
    json!({"keys": keys}).to_string().into_bytes()
}

struct Bench {
    store: Arc<KeyStore>,
    serving: Serving,
    issuer: TestIssuer,
    clock: Arc<ManualClock>,
}

async fn bench() -> Bench {
    let mut issuer = TestIssuer { url: String::new(), keys: vec![ec("one")] };
    let serving = issuer.serve().await.unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix(1_700_000_000)));
    let store = KeyStore::new(&config(&issuer.url, "discovery"), clock.clone()).unwrap();
    Bench { store, serving, issuer, clock }
}

fn config(url: &str, jwks: &str) -> IssuerConfig {
    let text = format!("name='t'\nkind='oidc'\nissuer='{url}'\naudience='a'\njwks='{jwks}'\noffline_hours=2");
    toml::from_str(&text).unwrap()
}

#[test]
fn unusable_keys_are_left_out() {
    let mut encryption = ec("enc").jwk;
    encryption["use"] = json!("enc");
    let mut nameless = ec("x").jwk;
    nameless.as_object_mut().unwrap().remove("kid");
    let mut no_verify = ec("ops").jwk;
    no_verify["key_ops"] = json!(["deriveKey"]);
    let odd = json!({"kty": "AKP", "kid": "pq", "alg": "ML-DSA-44"});
    let shared = json!({"kty": "oct", "kid": "hmac", "k": "AAAA", "alg": "HS256"});
    let p521 = json!({"kty": "EC", "crv": "P-521", "kid": "p521", "x": "AA", "y": "AA"});
    let keys = parse(&set(&[encryption, nameless, no_verify, odd, shared, p521, ec("good").jwk])).unwrap();
    assert_eq!(keys.keys().collect::<Vec<_>>(), ["good"]);
}

#[test]
fn broken_sets_are_refused_whole() {
    let good = ec("a").jwk;
    let mut private = ec("p").jwk;
    private["d"] = json!("AAAA");
    let rsa = json!({"kty": "RSA", "kid": "r", "n": "AQAB"});
    for (keys, says) in [
        (set(&[good.clone(), ec("a").jwk]), "two keys"),
        (set(&[good.clone(), private]), "private key"),
        (set(&[good.clone(), rsa]), "has no e"),
        (set(&[json!({"kty": "EC", "crv": "P-256", "kid": "b", "x": "!", "y": "AA"})]), "malformed"),
        (set(&[json!(1)]), "not a key"),
        (set(&vec![good; KEYS_MAX + 1]), "at most"),
        (b"{}".to_vec(), "no array"),
        (b"[]".to_vec(), "unusable"),
        (br#"{"keys":[],"keys":[]}"#.to_vec(), "twice"),
        (b"<html>".to_vec(), "unusable"),
    ] {
        let error = parse(&keys).unwrap_err();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn a_key_that_names_its_algorithm_serves_no_other() {
    let mut jwk = SigningKey::generate("r", KeyKind::Rsa).unwrap().jwk;
    let keys = parse(&set(std::slice::from_ref(&jwk))).unwrap();
    assert!(keys["r"].serves(Algorithm::RS256) && keys["r"].serves(Algorithm::PS256));
    assert!(!keys["r"].serves(Algorithm::ES256) && !keys["r"].serves(Algorithm::HS256));
    jwk["alg"] = json!("RS256");
    let keys = parse(&set(&[jwk])).unwrap();
    assert!(keys["r"].serves(Algorithm::RS256) && !keys["r"].serves(Algorithm::PS256));
}

#[tokio::test]
async fn known_keys_cost_one_question() {
    let bench = bench().await;
    for _ in 0..20 {
        bench.store.key("one").await.unwrap();
    }
    assert_eq!(bench.serving.asked(), 1);
}

#[tokio::test]
async fn many_at_once_ask_once() {
    let bench = bench().await;
    let all = (0..20).map(|_| bench.store.key("one"));
    for key in futures_util::future::join_all(all).await {
        key.unwrap();
    }
    assert_eq!(bench.serving.asked(), 1);
}

#[tokio::test]
async fn unknown_ids_cannot_hammer_the_issuer_and_rotation_is_found() {
    let mut bench = bench().await;
    bench.store.key("one").await.unwrap();
    bench.clock.advance(REFRESH_INTERVAL);
    for _ in 0..20 {
        assert!(matches!(bench.store.key("two").await, Err(KeyError::Unknown { known: 1, .. })));
    }
    assert_eq!(bench.serving.asked(), 2);
    bench.issuer.keys.push(ec("two"));
    bench.serving.set_jwks(bench.issuer.jwks());
    assert!(bench.store.key("two").await.is_err());
    bench.clock.advance(REFRESH_INTERVAL);
    bench.store.key("two").await.unwrap();
    assert_eq!(bench.serving.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_silent_issuer_is_waited_for_by_all_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let clock = Arc::new(ManualClock::at(Timestamp::from_unix(1_700_000_000)));
    let store = KeyStore::new(&config(&url, "discovery"), clock.clone()).unwrap();
    let begun = tokio::time::Instant::now();
    let all = futures_util::future::join_all((0..5).map(|_| store.key("one")));
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        clock.advance(fetch::FETCH_TIME_MAX);
    };
    let (all, ()) = tokio::join!(all, meanwhile);
    assert!(all.into_iter().all(|key| matches!(key, Err(KeyError::Unavailable(_)))));
    assert!(begun.elapsed() < fetch::FETCH_TIME_MAX * 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn keys_are_taken_over_from_an_earlier_configuration_of_the_same_issuer() {
    let bench = bench().await;
    bench.store.key("one").await.unwrap();
    bench.serving.set_discovery(json!("gone"));
    let again = |jwks: &str| KeyStore::new(&config(&bench.issuer.url, jwks), bench.clock.clone()).unwrap();
    let store = again("discovery");
    store.adopt(&bench.store);
    assert!(store.warm().await.is_err());
    store.key("one").await.unwrap();
    // As old as they are, and of no other source.
    bench.clock.advance(Duration::from_secs(2 * 3600));
    assert!(store.key("one").await.unwrap_err().to_string().contains("offline_hours"));
    let elsewhere = again("https://127.0.0.1:1/keys");
    elsewhere.adopt(&bench.store);
    assert!(matches!(elsewhere.key("one").await, Err(KeyError::Unavailable(_))));
}

#[tokio::test]
async fn withdrawn_keys_end_with_the_hour() {
    let bench = bench().await;
    bench.store.key("one").await.unwrap();
    bench.serving.set_jwks(json!({"keys": []}));
    bench.clock.advance(FRESH.saturating_sub(Duration::from_secs(1)));
    bench.store.key("one").await.unwrap();
    bench.clock.advance(MUST_REFRESH);
    assert!(matches!(bench.store.key("one").await, Err(KeyError::Unknown { known: 0, .. })));
}

#[tokio::test]
async fn known_keys_outlive_the_issuer_for_offline_hours_only() {
    let bench = bench().await;
    bench.store.key("one").await.unwrap();
    bench.serving.set_discovery(json!("gone"));
    bench.clock.advance(MUST_REFRESH);
    bench.store.key("one").await.unwrap();
    bench.clock.advance(Duration::from_secs(3600));
    let error = bench.store.key("one").await.unwrap_err();
    assert!(error.to_string().contains("offline_hours"), "{error}");
}

#[tokio::test]
async fn discovery_must_name_this_issuer_and_stay_safe() {
    for (document, says) in [
        (json!({"issuer": "https://other", "jwks_uri": "http://127.0.0.1:1/"}), "another issuer"),
        (json!({"jwks_uri": "http://127.0.0.1:1/"}), "another issuer"),
        (json!({"issuer": "SELF", "jwks_uri": "http://evil.example/jwks"}), "must be https"),
        (json!({"issuer": "SELF", "jwks_uri": "file:///etc/jwks"}), "jwks_uri"),
        (json!({"issuer": "SELF"}), "no jwks_uri"),
    ] {
        let bench = bench().await;
        let document = document.to_string().replace("SELF", &bench.issuer.url);
        bench.serving.set_discovery(serde_json::from_str(&document).unwrap());
        let error = bench.store.key("one").await.unwrap_err();
        assert!(error.to_string().contains(says), "{says}: {error}");
        assert_eq!(bench.serving.asked(), 0);
    }
}

#[tokio::test]
async fn a_dead_issuer_is_an_error_that_says_so() {
    let bench = bench().await;
    let Bench { store, serving, clock, .. } = bench;
    drop(serving);
    tokio::task::yield_now().await;
    let error = store.key("one").await.unwrap_err();
    assert!(matches!(&error, KeyError::Unavailable(why) if why.contains("127.0.0.1")), "{error}");
    clock.advance(Duration::from_secs(1));
    assert_eq!(store.key("one").await.unwrap_err(), error);
}

#[tokio::test]
async fn answers_are_bounded() {
    let bench = bench().await;
    bench.serving.set_jwks(json!({"keys": [], "pad": "x".repeat(fetch::BODY_MAX)}));
    let error = bench.store.key("one").await.unwrap_err();
    assert!(error.to_string().contains("length limit"), "{error}");
}

#[tokio::test]
async fn files_are_read_again_when_they_change_and_not_while_broken() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let clock = Arc::new(ManualClock::default());
    let store = KeyStore::new(&config("https://x", path.to_str().unwrap()), clock).unwrap();
    assert!(matches!(store.key("one").await, Err(KeyError::Unavailable(_))));
    let mut issuer = TestIssuer { url: String::new(), keys: vec![ec("one")] };
    issuer.write_jwks(&path).unwrap();
    store.key("one").await.unwrap();
    issuer.keys = vec![ec("two")];
    issuer.write_jwks(&path).unwrap();
    store.key("two").await.unwrap();
    assert!(matches!(store.key("one").await, Err(KeyError::Unknown { .. })));
    std::fs::write(&path, "{").unwrap();
    assert!(matches!(store.key("two").await, Err(KeyError::Unavailable(_))));
    issuer.write_jwks(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = store.key("two").await.unwrap_err();
    assert!(error.to_string().contains("chmod"), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(store.key("two").await, Err(KeyError::Unavailable(_))));
}
