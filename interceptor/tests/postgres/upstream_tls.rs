//! The leg to the server: every mode of TLS, every way to log in, and what an agent is told where either fails.

use std::fs;

use interceptor::testing::certificates::{Authority, Validity};
use interceptor::testing::postgres::ServerTls;
use interceptor::testing::stage::{DATABASE, HOST, Script, Stage, UPSTREAM_USER};

use super::scene::{
    agent, assert_nothing_forbidden, configuration, edited, psql_fails, psql_ok, recorded, reload, stage, stage_with,
    wait_for,
};

/// What the stage's configuration says of the target.
const TLS: &str = "tls = { upstream = \"disable\" }";

/// How the target is configured.
struct Way {
    /// The `tls` table; `{ca}`, `{other}`, `{client}` and `{stranger}` stand for paths without their ending.
    tls: &'static str,
    user: &'static str,
    with_password: bool,
}

const fn way(tls: &'static str, user: &'static str) -> Way {
    Way { tls, user, with_password: true }
}

const fn without_password(tls: &'static str, user: &'static str) -> Way {
    Way { tls, user, with_password: false }
}

/// A stage, and the configuration that it began with.
struct Set {
    stage: Stage,
    before: String,
}

impl Set {
    /// Configures the target; new sessions use it from then on.
    fn configure(&self, way: &Way) {
        let path = |name: &str| self.stage.path(name).display().to_string();
        let mut tls = way.tls.to_owned();
        for name in ["ca", "other", "client", "stranger"] {
            tls = tls.replace(&format!("{{{name}}}"), &path(name));
        }
        let password = path("orders_rw.password");
        let before = format!("credential = {{ user = \"{UPSTREAM_USER}\", password = \"file:{password}\" }}");
        let credential = match way.with_password {
            true => format!("credential = {{ user = \"{}\", password = \"file:{password}\" }}", way.user),
            false => format!("credential = {{ user = \"{}\" }}", way.user),
        };
        let text = edited(&edited(&self.before, TLS, &format!("tls = {{ {tls} }}")), &before, &credential);
        reload(&self.stage, &text);
    }

    /// A session works, and was logged in by this mechanism.
    fn passes(&self, way: &Way, mechanism: &str) {
        self.configure(way);
        let notes = || recorded(&self.stage).matches(&format!("logged in at the target by {mechanism}\"")).count();
        let seen = notes();
        let answer = psql_ok(
            &self.stage,
            &["SELECT current_user::text || '/' || session_user::text", "SELECT card FROM customers"],
        );
        assert!(answer.contains(&format!("{0}/{0}", way.user)), "{}: {answer}", way.tls);
        assert!(answer.contains("************1111"), "{}: {answer}", way.tls);
        assert!(notes() > seen, "{} as {}: not by {mechanism}", way.tls, way.user);
    }

    /// There is no session: the agent is told natively, with this SQLSTATE and words; the record says more.
    fn fails(&self, way: &Way, state: &str, words: &str, on_record: &str) {
        self.configure(way);
        let told = psql_fails(&self.stage, &["SELECT 'forbidden:upstream'"]);
        let about = format!("{} as {}", way.tls, way.user);
        // libpq shows no SQLSTATE of a refused connection; the record has it not either: the words tell the cases apart.
        assert!(told.contains("FATAL") && told.contains(words) && told.contains("session: "), "{about}: {told}");
        assert_no_secret(&self.stage, &told);
        wait_for(on_record, || recorded(&self.stage).contains(on_record).then_some(()));
        assert_eq!(sqlstate(&self.stage), state, "{about}");
        assert_nothing_forbidden(&self.stage);
    }
}

/// What psycopg, which does show it, says of a refused connection.
fn sqlstate(stage: &Stage) -> String {
    let steps = super::scene::wire(stage, &["start 3.0", "ready"]);
    let error = steps.iter().find_map(|line| line.strip_prefix("E "));
    error.unwrap_or_else(|| panic!("no error in {steps:?}")).to_owned()
}

/// Neither the password, nor where it is kept, nor whose it is.
fn assert_no_secret(stage: &Stage, told: &str) {
    let password = fs::read_to_string(stage.path("orders_rw.password")).unwrap();
    for secret in [password.trim(), "orders_rw.password", "client.key"] {
        assert!(!told.contains(secret), "{secret} is told: {told}");
    }
}

/// A server with TLS, a certificate for its name, and a user for each way to log in.
fn with_tls() -> Set {
    let (ca, other) = (Authority::new("the stage's CA").unwrap(), Authority::new("somebody else's CA").unwrap());
    let server = ca.issue(HOST, &[HOST], Validity::Now).unwrap();
    let hba = [
        "host all u_md5 all md5",
        "host all u_clear all password",
        "host all u_trust all trust",
        "hostssl all u_cert all cert",
    ];
    let stage = stage_with(&Script {
        server_tls: Some(ServerTls { cert: server.cert, key: server.key, client_ca: Some(ca.pem()) }),
        hba: hba.map(str::to_owned).into(),
        ..Script::default()
    });
    fs::write(stage.path("ca.pem"), ca.pem()).unwrap();
    fs::write(stage.path("other.pem"), other.pem()).unwrap();
    for (authority, name) in [(&ca, "client"), (&other, "stranger")] {
        authority.issue("u_cert", &[], Validity::Now).unwrap().write(stage.directory.path(), name).unwrap();
    }
    let password = fs::read_to_string(stage.path("orders_rw.password")).unwrap();
    let mut sql = String::new();
    for (user, encryption) in
        [("u_md5", "md5"), ("u_clear", "scram-sha-256"), ("u_trust", "scram-sha-256"), ("u_cert", "scram-sha-256")]
    {
        sql.push_str(&format!(
            "SET password_encryption = '{encryption}'; CREATE ROLE {user} LOGIN PASSWORD '{password}'; "
        ));
        sql.push_str(&format!("GRANT {UPSTREAM_USER} TO {user}; "));
    }
    stage.server.sql_in(DATABASE, &sql).unwrap();
    let before = configuration(&stage);
    Set { stage, before }
}

const FULL: &str = "upstream = \"verify-full\", ca = \"{ca}.pem\"";
const UNSAFE: &str = "could not log in at the target safely";
const NO_TLS: &str = "could not reach the target over TLS as configured";

#[test]
fn a_verified_server_is_logged_in_to_by_whatever_it_asks_for() {
    let set = with_tls();
    set.passes(&way(FULL, UPSTREAM_USER), "SCRAM-SHA-256-PLUS");
    cancels(&set.stage);
    set.passes(&way(FULL, "u_md5"), "md5");
    set.passes(&way(FULL, "u_clear"), "password");
    set.passes(&way(FULL, "u_trust"), "none");
    let certificate = "upstream = \"verify-full\", ca = \"{ca}.pem\", cert = \"{client}.crt\", key = \"{client}.key\"";
    set.passes(&without_password(certificate, "u_cert"), "none");
    // Of a verified authority, whatever the name is.
    let ca = "upstream = \"verify-ca\", ca = \"{ca}.pem\", server_name = \"elsewhere.internal\"";
    set.passes(&way(ca, UPSTREAM_USER), "SCRAM-SHA-256-PLUS");

    set.fails(&way(FULL, "u_cert"), "28000", "refused the credential", "requires a valid client certificate");
    let stranger = "upstream = \"verify-full\", ca = \"{ca}.pem\", cert = \"{stranger}.crt\", key = \"{stranger}.key\"";
    set.fails(&without_password(stranger, "u_cert"), "08001", NO_TLS, "the other side refused TLS");
    set.fails(&way(FULL, "u_nobody"), "28000", "refused the credential", "password authentication failed");
    set.fails(&without_password(FULL, UPSTREAM_USER), "28000", UNSAFE, "none is configured");
    let elsewhere = "upstream = \"verify-full\", ca = \"{ca}.pem\", server_name = \"elsewhere.internal\"";
    set.fails(&way(elsewhere, UPSTREAM_USER), "08001", NO_TLS, "no subjectAltName for `elsewhere.internal`");
    let other = "upstream = \"verify-full\", ca = \"{other}.pem\"";
    set.fails(&way(other, UPSTREAM_USER), "08001", NO_TLS, "no certificate authority in");
    let other = "upstream = \"verify-ca\", ca = \"{other}.pem\"";
    set.fails(&way(other, "u_clear"), "08001", NO_TLS, "no certificate authority in");
}

/// A cancel request goes over TLS, too.
fn cancels(stage: &Stage) {
    let code = "import threading\n\
                with psycopg.connect(URL, autocommit=True) as c:\n\
                \x20   threading.Timer(0.5, c.cancel_safe).start()\n\
                \x20   try:\n\
                \x20       c.execute('SELECT pg_sleep(60)')\n\
                \x20   except psycopg.Error as error:\n\
                \x20       print(error.sqlstate)\n";
    assert_eq!(agent(stage, code), "57014\n");
}

#[test]
fn an_unverified_server_gets_no_password_that_it_could_use() {
    let set = with_tls();
    set.passes(&way("upstream = \"require\"", UPSTREAM_USER), "SCRAM-SHA-256-PLUS");
    set.passes(&way("upstream = \"require\", unverified_password = \"bound\"", UPSTREAM_USER), "SCRAM-SHA-256-PLUS");
    set.passes(&way("upstream = \"require\", unverified_password = \"hash\"", "u_md5"), "md5");
    set.passes(&way("upstream = \"disable\"", UPSTREAM_USER), "SCRAM-SHA-256");
    set.passes(&without_password("upstream = \"disable\"", "u_trust"), "none");

    set.fails(&way("upstream = \"require\"", "u_md5"), "28000", UNSAFE, "the target asks for md5");
    set.fails(&way("upstream = \"require\"", "u_clear"), "28000", UNSAFE, "the target asks for a password in clear");
    set.fails(&way("upstream = \"require\"", "u_trust"), "28000", UNSAFE, "the target asks for no password");
    set.fails(&way("upstream = \"disable\"", "u_clear"), "28000", UNSAFE, "the target asks for a password in clear");
    // Nothing that was refused weakens what comes after it.
    set.passes(&way(FULL, UPSTREAM_USER), "SCRAM-SHA-256-PLUS");
}

#[test]
fn a_server_without_tls_is_never_gone_on_with_in_clear() {
    let stage = stage();
    Authority::new("any").unwrap().as_leaf().write(stage.directory.path(), "ca").unwrap();
    fs::rename(stage.path("ca.crt"), stage.path("ca.pem")).unwrap();
    let before = configuration(&stage);
    let set = Set { stage, before };
    for tls in ["upstream = \"require\"", FULL, "upstream = \"verify-ca\", ca = \"{ca}.pem\""] {
        set.fails(&way(tls, UPSTREAM_USER), "08001", NO_TLS, "the target does not offer TLS");
    }
    set.passes(&way("upstream = \"disable\"", UPSTREAM_USER), "SCRAM-SHA-256");
}
