//! A small OIDC issuer: makes keys, writes or serves their JWKS, and signs whatever it is told to.
//!
//! For tests and the demonstration. It signs nonsense as gladly as sense: that is what attacks on a verifier need.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rcgen::KeyPair;
use serde_json::{Value, json};

/// What goes wrong in a fixture.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, 2048 bits.
    Rsa,
    /// P-256.
    Ec,
    /// Ed25519.
    Ed,
}

/// A signing key with its id.
#[derive(Debug)]
pub struct SigningKey {
    /// Its `kid`.
    pub kid: String,
    /// What signs with it unless a header says otherwise.
    pub algorithm: Algorithm,
    /// The public half, as the JWKS lists it.
    pub jwk: Value,
    encoding: EncodingKey,
}

impl SigningKey {
    /// A fresh key.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn generate(kid: &str, kind: KeyKind) -> Result<Self, Failure> {
        let (scheme, algorithm) = match kind {
            KeyKind::Rsa => (&rcgen::PKCS_RSA_SHA256, Algorithm::RS256),
            KeyKind::Ec => (&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
            KeyKind::Ed => (&rcgen::PKCS_ED25519, Algorithm::EdDSA),
        };
        let pair = KeyPair::generate_for(scheme)?;
        let public = pair.public_key_raw();
        let (encoding, decoding) = match kind {
            KeyKind::Rsa => {
                (EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes())?, DecodingKey::from_rsa_der(public))
            }
            KeyKind::Ec => (EncodingKey::from_ec_der(&pair.serialize_der()), DecodingKey::from_ec_der(public)),
            KeyKind::Ed => (EncodingKey::from_ed_der(&pair.serialize_der()), DecodingKey::from_ed_der(public)),
        };
        let mut jwk = serde_json::to_value(Jwk::from_decoding_key(&decoding, Some(algorithm))?)?;
        if let Some(fields) = jwk.as_object_mut() {
            // RSA keys serve RS256 and PS256 alike.
            fields.remove("alg");
            fields.insert("kid".to_owned(), kid.into());
            fields.insert("use".to_owned(), "sig".into());
        }
        Ok(Self { kid: kid.to_owned(), algorithm, jwk, encoding })
    }

    /// Signs header and claims exactly as they are given.
    ///
    /// # Errors
    /// When the key does not do that algorithm.
    pub fn sign_raw(&self, algorithm: Algorithm, header: &str, claims: &str) -> Result<String, Failure> {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.encoding, algorithm)?;
        Ok(format!("{signed}.{signature}"))
    }

    /// Signs claims under a plain header with this key's `kid`.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn sign(&self, claims: &Value) -> Result<String, Failure> {
        let header = json!({"typ": "JWT", "alg": format!("{:?}", self.algorithm), "kid": self.kid});
        self.sign_raw(self.algorithm, &header.to_string(), &claims.to_string())
    }
}

/// An issuer: a URL and its keys.
#[derive(Debug)]
pub struct TestIssuer {
    /// The `iss` of its tokens.
    pub url: String,
    /// Its keys; [`TestIssuer::token`] signs with the first.
    pub keys: Vec<SigningKey>,
}

impl TestIssuer {
    /// An issuer with one key.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn new(url: &str, kind: KeyKind) -> Result<Self, Failure> {
        Ok(Self { url: url.to_owned(), keys: vec![SigningKey::generate("key-1", kind)?] })
    }

    /// The JWKS document.
    #[must_use]
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(|key| key.jwk.clone()).collect::<Vec<_>>()})
    }

    /// Writes the JWKS document, replacing the file by rename.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_jwks(&self, path: &Path) -> Result<(), Failure> {
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, self.jwks().to_string())?;
        std::fs::rename(&fresh, path)?;
        Ok(())
    }

    /// A token of this issuer: `iss`, and every claim given (which may override it).
    ///
    /// # Errors
    /// When there is no key, or `claims` is no object.
    pub fn token(&self, claims: Value) -> Result<String, Failure> {
        let key = self.keys.first().ok_or("the issuer has no key")?;
        let mut all = json!({"iss": self.url});
        match (all.as_object_mut(), claims) {
            (Some(all), Value::Object(claims)) => all.extend(claims),
            _ => return Err("claims are a JSON object".into()),
        }
        key.sign(&all)
    }

    /// A token that is good from `now` (Unix seconds) for `life` seconds.
    ///
    /// # Errors
    /// As [`TestIssuer::token`].
    pub fn good(&self, subject: &str, audience: &str, groups: &[&str], now: i64, life: i64) -> Result<String, Failure> {
        let (issued, expires) = (now, now.saturating_add(life));
        self.token(json!({
            "sub": subject, "aud": audience, "groups": groups, "iat": issued, "nbf": issued, "exp": expires,
        }))
    }

    /// Serves discovery and JWKS on a loopback port until the returned value is dropped. The issuer's URL becomes
    /// that address, and the keys are served as they are now.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn serve(&mut self) -> Result<Serving, Failure> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        self.url = format!("http://{address}");
        let documents = std::sync::Arc::new(parking_lot::Mutex::new(Documents {
            discovery: json!({"issuer": self.url, "jwks_uri": format!("{}/jwks", self.url)}),
            jwks: self.jwks(),
            asked: 0,
        }));
        let (discovery, jwks) = (documents.clone(), documents.clone());
        let app = axum::Router::new()
            .route(
                "/.well-known/openid-configuration",
                axum::routing::get(async move || axum::Json(discovery.lock().discovery.clone())),
            )
            .route(
                "/jwks",
                axum::routing::get(async move || {
                    let mut documents = jwks.lock();
                    documents.asked = documents.asked.saturating_add(1);
                    axum::Json(documents.jwks.clone())
                }),
            );
        let task = tokio::spawn(async move {
            let _ended = axum::serve(listener, app).await;
        });
        Ok(Serving { address, documents, task })
    }
}

#[derive(Debug)]
struct Documents {
    discovery: Value,
    jwks: Value,
    asked: usize,
}

/// A served issuer; ends when dropped.
#[derive(Debug)]
pub struct Serving {
    /// Where it listens.
    pub address: SocketAddr,
    documents: std::sync::Arc<parking_lot::Mutex<Documents>>,
    task: tokio::task::JoinHandle<()>,
}

impl Serving {
    /// How often the JWKS was asked for.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.documents.lock().asked
    }

    /// Replaces the served JWKS.
    pub fn set_jwks(&self, jwks: Value) {
        self.documents.lock().jwks = jwks;
    }

    /// Replaces the served discovery document.
    pub fn set_discovery(&self, discovery: Value) {
        self.documents.lock().discovery = discovery;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}
