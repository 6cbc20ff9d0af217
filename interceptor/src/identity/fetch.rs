//! Asking an issuer for documents and tokens: https, or http to loopback; one answer, bounded in size and time.
//!
//! Redirects are not followed and proxies not used: the configured URL is the one that is asked.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Largest document, in bytes.
pub const BODY_MAX: usize = 1024 * 1024;
/// Longest that one document may take.
pub const FETCH_TIME_MAX: Duration = Duration::from_secs(10);

/// Why a document was not fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The URL may not be used.
    #[error("{0}")]
    Url(String),
    /// No usable certificate authority.
    #[error("certificate authorities: {0}")]
    Roots(String),
    /// No connection, or it broke.
    #[error("{url}: {error}")]
    Transport {
        /// What was asked for.
        url: String,
        /// Why.
        error: String,
    },
    /// An answer other than 200.
    #[error("{url}: answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// No answer in time.
    #[error("{0}: no answer within {FETCH_TIME_MAX:?}")]
    Timeout(String),
}

/// The parsed URL, where its scheme is https, or http to a loopback address.
///
/// # Errors
/// When it is no such URL.
pub fn allowed(url: &str) -> Result<Uri, FetchError> {
    let uri = allowed_in_clear(url)?;
    if uri.scheme_str() == Some("https") || uri.host().is_some_and(loopback) {
        return Ok(uri);
    }
    Err(refused(url, "must be https: http is accepted for loopback addresses only"))
}

/// The parsed URL, where its scheme is https or http: of those whose answers are signed, and who are told no secret.
///
/// # Errors
/// When it is no such URL.
pub fn allowed_in_clear(url: &str) -> Result<Uri, FetchError> {
    let refuse = |why: &str| refused(url, why);
    let uri: Uri = url.parse().map_err(|_| refuse("is not a URL"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(refuse("needs a scheme and a host, as https://idp.example"));
    };
    if authority.as_str().contains('@') {
        return Err(refuse("must not carry credentials"));
    }
    if matches!(scheme, "https" | "http") { Ok(uri) } else { Err(refuse("must be https")) }
}

fn refused(url: &str, why: &str) -> FetchError {
    FetchError::Url(format!("{}: {why}", super::error::quote(url)))
}

fn loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A form to be sent. Not shown: it may hold a secret.
pub struct Form {
    /// The form, escaped.
    pub body: String,
    /// `Authorization`, where there is one.
    pub authorization: Option<String>,
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Form(..)")
    }
}

/// What is sent. Not shown: it may hold a secret.
pub struct Sent {
    /// Media type of the body.
    pub kind: &'static str,
    /// Media type of the answer.
    pub accept: &'static str,
    /// The body.
    pub body: Bytes,
    /// `Authorization`, where there is one.
    pub authorization: Option<String>,
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sent").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// A client with its certificate authorities.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Fetcher {
    /// A client that trusts the authorities in the PEM file `ca`, or else the system's.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn new(ca: Option<&Path>) -> Result<Self, FetchError> {
        let fault = |error: String| FetchError::Roots(error);
        let mut roots = rustls::RootCertStore::empty();
        if let Some(path) = ca {
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| fault(format!("{}: {error}", path.display())))?;
            for certificate in certificates {
                roots.add(certificate).map_err(|error| fault(format!("{}: {error}", path.display())))?;
            }
            if roots.is_empty() {
                return Err(fault(format!("{} holds no certificate", path.display())));
            }
        } else {
            // Without system roots every https fetch fails with a certificate error; loopback http still works.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| fault(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// The body of a 200 answer.
    ///
    /// # Errors
    /// When there is none, in bounds.
    pub async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let (status, body) = self.bounded(Request::get(allowed(url)?).body(Full::default()), url).await?;
        if status == 200 { Ok(body) } else { Err(FetchError::Status { url: url.to_owned(), status }) }
    }

    /// The status of the answer to a form, and its body.
    ///
    /// # Errors
    /// When there is none, in bounds.
    pub async fn post(&self, url: &str, form: Form) -> Result<(u16, Bytes), FetchError> {
        let sent = Sent {
            kind: "application/x-www-form-urlencoded",
            accept: "application/json",
            body: form.body.into(),
            authorization: form.authorization,
        };
        self.send(allowed(url)?, sent).await
    }

    /// The status of the answer to something that is posted to a URL, which was found to be allowed, and its body.
    ///
    /// # Errors
    /// When there is none, in bounds.
    pub async fn send(&self, to: Uri, sent: Sent) -> Result<(u16, Bytes), FetchError> {
        let url = to.to_string();
        let mut request = Request::post(to).header(CONTENT_TYPE, sent.kind).header(ACCEPT, sent.accept);
        if let Some(text) = &sent.authorization {
            let value = HeaderValue::from_str(text).map(|mut value| {
                value.set_sensitive(true);
                value
            });
            request = request.header(AUTHORIZATION, value.map_err(|_| FetchError::Url("it is no field".to_owned()))?);
        }
        self.bounded(request.body(Full::new(sent.body)), &url).await
    }

    async fn bounded(
        &self,
        request: Result<Request<Full<Bytes>>, http::Error>,
        url: &str,
    ) -> Result<(u16, Bytes), FetchError> {
        let request = request.map_err(|error| FetchError::Url(error.to_string()))?;
        tokio::time::timeout(FETCH_TIME_MAX, self.ask(request, url))
            .await
            .unwrap_or_else(|_| Err(FetchError::Timeout(url.to_owned())))
    }

    async fn ask(&self, request: Request<Full<Bytes>>, url: &str) -> Result<(u16, Bytes), FetchError> {
        let transport = |error: String| FetchError::Transport { url: url.to_owned(), error };
        let answer = self.client.request(request).await.map_err(|error| transport(causes(&error)))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
        Ok((status, body.map_err(|error| transport(causes(error.as_ref())))?.to_bytes()))
    }
}

/// An error with what caused it: the outermost alone seldom says what went wrong.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source()).take(6);
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_loopback_are_asked() {
        for url in ["https://idp.example/x", "http://127.0.0.1:8080/jwks", "http://[::1]:1/", "http://localhost/"] {
            assert!(allowed(url).is_ok(), "{url}");
        }
        for url in [
            "http://idp.example/",
            "http://127.0.0.1.evil.example/",
            "http://localhost.evil.example/",
            "http://127.0.0.1@evil.example/",
            "https://user:pass@idp.example/",
            "ftp://idp.example/",
            "file:///etc/passwd",
            "idp.example",
            "",
        ] {
            assert!(allowed(url).is_err(), "{url}");
        }
    }

    /// Answers every connection with `answer`, over TLS, and gives its address and its certificate (PEM).
    async fn serve(answer: String) -> (std::net::SocketAddr, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(socket).await else { continue };
                let _request = stream.read(&mut [0; 4096]).await;
                let _sent = stream.write_all(answer.as_bytes()).await;
                let _closed = stream.shutdown().await;
            }
        });
        (address, made.cert.pem())
    }

    fn trusting(pem: &str) -> (tempfile::NamedTempFile, Fetcher) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pem).unwrap();
        let fetcher = Fetcher::new(Some(file.path())).unwrap();
        (file, fetcher)
    }

    #[tokio::test]
    async fn the_configured_authority_alone_is_trusted() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        let (address, pem) = serve(answer.to_owned()).await;
        let url = format!("https://{address}/jwks");
        let (_file, fetcher) = trusting(&pem);
        assert_eq!(fetcher.get(&url).await.unwrap(), "{}");
        let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap().cert.pem();
        for fetcher in [trusting(&other).1, Fetcher::new(None).unwrap()] {
            let error = fetcher.get(&url).await.unwrap_err();
            assert!(error.to_string().contains("certificate"), "{error}");
        }
    }

    #[tokio::test]
    async fn redirects_and_errors_are_no_answers() {
        for status in [301, 302, 307, 204, 404, 500] {
            let location = "location: http://127.0.0.1:1/\r\n";
            let (address, pem) = serve(format!("HTTP/1.1 {status} X\r\n{location}content-length: 0\r\n\r\n")).await;
            let error = trusting(&pem).1.get(&format!("https://{address}/")).await.unwrap_err();
            assert!(matches!(error, FetchError::Status { status: got, .. } if got == status), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let error = Fetcher::new(None).unwrap().get(&url).await.unwrap_err();
        assert_eq!(error, FetchError::Timeout(url));
    }

    #[test]
    fn authorities_must_be_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Fetcher::new(Some(file.path())), Err(FetchError::Roots(_))));
        assert!(matches!(Fetcher::new(Some(Path::new("/nonexistent"))), Err(FetchError::Roots(_))));
    }
}
