//! An issuer's keys over the network: discovered, rotated, kept while the issuer is down, and said to be missing.

use std::fs;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use interceptor::testing::certificates::{Authority, Validity};
use interceptor::testing::issuer::{KeyKind, SigningKey};
use interceptor::testing::stage::{IDP, Stage};
use interceptor::testing::world::{FAR4, Place};
use serde_json::json;

use super::scene::{
    assert_nothing_forbidden, configuration, edited, operate, psql, psql_fails, psql_ok, python, reload, stage,
    wait_for,
};

const QUERY: &str = "SELECT 'forbidden:keys'";

/// The issuer's web server, on the far side under the issuer's name. Ends with its value.
struct Server(Option<Child>);

impl Server {
    fn start(stage: &Stage) -> Self {
        let path = |name: &str| stage.path(name).display().to_string();
        let log = fs::File::create(stage.path("idp.log")).unwrap();
        let arguments = [FAR4.to_string(), "443".to_owned(), path("idp"), path("idp.crt"), path("idp.key")];
        let mut command = python(stage, "idp.py", &arguments.each_ref().map(String::as_str));
        let errors = log.try_clone().unwrap();
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let server = Self(Some(stage.world.spawn_in(Place::Far, command).unwrap()));
        wait_for("the issuer to serve", || asked(stage, "serving").checked_sub(1));
        server
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How often the issuer was asked for a path since it started.
fn asked(stage: &Stage, path: &str) -> usize {
    fs::read_to_string(stage.path("idp.log")).unwrap_or_default().lines().filter(|line| *line == path).count()
}

/// A stage with what its issuer's web server serves, and certificates for it; `idp-ca.pem` is the right authority.
fn with_documents() -> Stage {
    let stage = stage();
    let ca = Authority::new("the issuer's CA").unwrap();
    ca.issue(IDP, &[IDP], Validity::Now).unwrap().write(stage.directory.path(), "idp").unwrap();
    fs::write(stage.path("idp-ca.pem"), ca.pem()).unwrap();
    fs::write(stage.path("other-ca.pem"), Authority::new("another CA").unwrap().pem()).unwrap();
    fs::create_dir_all(stage.path("idp/.well-known")).unwrap();
    describe(&stage, &stage.issuer.url);
    publish(&stage);
    stage
}

/// Writes the discovery document.
fn describe(stage: &Stage, issuer: &str) {
    let document = json!({"issuer": issuer, "jwks_uri": format!("{}/keys", stage.issuer.url)});
    fs::write(stage.path("idp/.well-known/openid-configuration"), document.to_string()).unwrap();
}

/// Serves the keys that the issuer has now.
fn publish(stage: &Stage) {
    stage.issuer.write_jwks(&stage.path("idp/keys")).unwrap();
}

/// Has the daemon look for keys there; `lines` stand in place of the stage's JWKS file.
fn look_for_keys(stage: &Stage, lines: &str) {
    let file = format!("jwks = \"{}\"", stage.path("jwks.json").display());
    let before = configuration(stage);
    let text = if before.contains(&file) {
        edited(&before, &file, &format!("# jwks\n{lines}\n# end"))
    } else {
        replaced(&before, lines)
    };
    reload(stage, &text);
}

/// The configuration with other lines where [`look_for_keys`] has put some before.
fn replaced(text: &str, lines: &str) -> String {
    let (head, rest) = text.split_once("# jwks\n").unwrap();
    let (_, tail) = rest.split_once("\n# end").unwrap();
    format!("{head}# jwks\n{lines}\n# end{tail}")
}

fn trusting(stage: &Stage, ca: &str) -> String {
    format!("ca = \"{}\"", stage.path(ca).display())
}

/// The agent is told why there is no session, and nothing of it reaches the server.
fn refused(stage: &Stage, words: &[&str]) {
    let told = psql_fails(stage, &[QUERY]);
    for word in ["FATAL", "session: "].iter().chain(words) {
        assert!(told.contains(word), "{word} is not in {told}");
    }
    assert_nothing_forbidden(stage);
}

/// Lets the issuer sign with a fresh key, and the agent hold such a token. The old key stays published.
fn rotate(stage: &mut Stage, kid: &str) {
    stage.issuer.keys.insert(0, SigningKey::generate(kid, KeyKind::Ec).unwrap());
    publish(stage);
    stage.write_token("svc:billing", 3600).unwrap();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test may look at the clock")]
fn keys_are_discovered_rotated_and_outlive_their_issuer() {
    let mut stage = with_documents();
    let mut server = Server::start(&stage);
    look_for_keys(&stage, &trusting(&stage, "idp-ca.pem"));
    assert_eq!((asked(&stage, "/.well-known/openid-configuration"), asked(&stage, "/keys")), (1, 1));
    for _ in 0..3 {
        psql_ok(&stage, &["SELECT 1"]);
    }
    assert_eq!(asked(&stage, "/keys"), 1, "known keys are not asked for again");

    // Down: what is known serves on, also over a reload.
    server.stop();
    psql_ok(&stage, &["SELECT 1"]);
    operate(&stage, 0, &["reload"]);
    let tried_again = Instant::now();
    psql_ok(&stage, &["SELECT 1"]);
    assert!(stage.log().contains("keys are not there yet") || stage.log().contains("could not be refreshed"));

    // Rotated: a key id that is not known asks the issuer, but not all the time.
    let server = Server::start(&stage);
    rotate(&mut stage, "key-2");
    assert!(tried_again.elapsed() < Duration::from_secs(25), "the machine is too slow for this test");
    for _ in 0..4 {
        refused(&stage, &["do not include key id", "key-2", "try again in a minute"]);
    }
    assert_eq!(asked(&stage, "/keys"), 0, "the last answer is too young to be asked for again");
    sleep(Duration::from_secs(31).saturating_sub(tried_again.elapsed()));
    psql_ok(&stage, &["SELECT 1"]);
    assert_eq!(asked(&stage, "/keys"), 1);
    rotate(&mut stage, "key-3");
    refused(&stage, &["do not include key id", "key-3"]);
    assert_eq!(asked(&stage, "/keys"), 1);
    // An operator who cannot wait reloads.
    operate(&stage, 0, &["reload"]);
    psql_ok(&stage, &["SELECT 1"]);
    drop(server);
}

#[test]
fn keys_that_were_never_had_are_said_to_be_missing() {
    let stage = with_documents();
    // Nobody listens.
    look_for_keys(&stage, &trusting(&stage, "idp-ca.pem"));
    refused(&stage, &["its keys are not available", "onnection refused", "retry: yes"]);
    let server = Server::start(&stage);
    // It is asked again by itself.
    wait_for("the keys", || psql(&stage, &["SELECT 1"]).status.success().then_some(()));

    look_for_keys(&stage, &trusting(&stage, "other-ca.pem"));
    refused(&stage, &["its keys are not available", "certificate"]);
    // Of an issuer that says it is another, or has no such document, nothing is taken.
    describe(&stage, "https://idp.other.example");
    look_for_keys(&stage, &trusting(&stage, "idp-ca.pem"));
    refused(&stage, &["its keys are not available", "describes another issuer"]);
    fs::remove_file(stage.path("idp/.well-known/openid-configuration")).unwrap();
    operate(&stage, 0, &["reload"]);
    refused(&stage, &["its keys are not available", "answered 404"]);
    // Keys at a URL of their own need no discovery.
    look_for_keys(&stage, &format!("jwks = \"{}/keys\"\n{}", stage.issuer.url, trusting(&stage, "idp-ca.pem")));
    psql_ok(&stage, &["SELECT 1"]);
    fs::write(stage.path("idp/keys"), "{\"keys\": [{\"kty\": \"EC\", \"crv\": \"P-256\", \"kid\": \"key-1\"}]}")
        .unwrap();
    operate(&stage, 0, &["reload"]);
    psql_ok(&stage, &["SELECT 1"]);
    assert!(stage.log().contains("has no x"), "{}", stage.log());
    drop(server);
}
