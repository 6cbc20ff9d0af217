//! TLS on the leg from the agent: a certificate that clients verify, what a client may ask for, and what it may not smuggle.

use std::fs;
use std::process::{Command, Output};

use interceptor::testing::certificates::{Authority, Validity};
use interceptor::testing::stage::{HOST, Stage};

use super::drivers::{converse, prepare, programs_over};
use super::scene::{
    CLEAR, assert_nothing_forbidden, bounded, configuration, edited, inline, operate, psql, psql_ok, reload, said,
    stage, truth, wire,
};

const QUERY: &str = "SELECT card FROM customers WHERE id = 1";

/// A stage whose target shows agents a certificate of `ca.pem`, with `other.pem` beside it.
fn with_certificate() -> Stage {
    let stage = stage();
    let ca = Authority::new("the host's CA").unwrap();
    ca.issue(HOST, &[HOST], Validity::Now).unwrap().write(stage.directory.path(), "agent").unwrap();
    fs::write(stage.path("ca.pem"), ca.pem()).unwrap();
    fs::write(stage.path("other.pem"), Authority::new("another CA").unwrap().pem()).unwrap();
    let (cert, key) = (stage.path("agent.crt"), stage.path("agent.key"));
    let tls = format!(
        "tls = {{ upstream = \"disable\", agent_cert = \"{}\", agent_key = \"{}\" }}",
        cert.display(),
        key.display()
    );
    reload(&stage, &edited(&configuration(&stage), "tls = { upstream = \"disable\" }", &tls));
    stage
}

/// psql with these parameters in its connection string.
fn psql_over(stage: &Stage, parameters: &str, statements: &[&str]) -> Output {
    let mut psql = Command::new("psql");
    psql.args(["-X", "-v", "VERBOSITY=verbose", &edited(&stage.url(), CLEAR, parameters)]);
    for statement in statements {
        psql.args(["-c", statement]);
    }
    stage.run_agent(bounded(&psql)).unwrap()
}

fn verified(stage: &Stage, ca: &str) -> String {
    format!("sslmode=verify-full&sslrootcert={}", stage.path(ca).display())
}

#[test]
fn agents_have_tls_where_they_ask_for_it() {
    let stage = with_certificate();
    psql_has_tls_where_it_asks_for_it(&stage);
    a_client_that_is_not_content_leaves_by_itself(&stage);
    clear_text_behind_a_request_for_tls_is_an_attack(&stage);
    tls_is_taken_without_a_request_where_it_names_the_protocol(&stage);
    drivers_pass_over_verified_tls(&stage);
    a_new_certificate_is_shown_after_a_reload(&stage);
}

fn psql_has_tls_where_it_asks_for_it(stage: &Stage) {
    for parameters in ["sslmode=require", "sslmode=prefer", &verified(stage, "ca.pem")] {
        let output = psql_over(stage, parameters, &["\\conninfo", QUERY]);
        let told = said(&output);
        assert!(output.status.success() && told.contains("TLSv1.3"), "{parameters}: {told}");
        assert!(told.contains("************1111"), "{parameters}: {told}");
    }
    let script = stage.path("read.pgbench");
    fs::write(&script, format!("{QUERY} \\gset\nINSERT INTO scratch (id, what) VALUES (70000, ':card');\n")).unwrap();
    let mut pgbench = Command::new("pgbench");
    pgbench.args(["-n", "-t", "2", "-f"]).arg(script);
    pgbench.arg(edited(&stage.url(), CLEAR, &verified(stage, "ca.pem")));
    let output = stage.run_agent(bounded(&pgbench)).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(truth(stage, "SELECT DISTINCT what FROM scratch WHERE id = 70000"), "************1111");
    // TLS is offered, not demanded: on this leg the kernel says who the agent is.
    let told = psql_ok(stage, &["\\conninfo", QUERY]);
    assert!(!told.contains("TLSv1.3") && told.contains("************1111"), "{told}");
    let denied = psql_over(stage, "sslmode=require", &["DELETE FROM customers WHERE id = 1 /* forbidden:tls */"]);
    assert!(!denied.status.success() && said(&denied).contains("42501"), "{}", said(&denied));
    assert_nothing_forbidden(stage);
}

fn a_client_that_is_not_content_leaves_by_itself(stage: &Stage) {
    let output = psql_over(stage, &verified(stage, "other.pem"), &["SELECT 'forbidden:tls'"]);
    assert!(!output.status.success() && said(&output).contains("certificate verify failed"), "{}", said(&output));
    // Agents are known without a password, so that there is nothing to bind to the channel.
    let output = psql_over(stage, "sslmode=require&channel_binding=require", &["SELECT 'forbidden:tls'"]);
    assert!(!output.status.success() && said(&output).contains("channel binding required"), "{}", said(&output));
    let output = psql_over(stage, "sslmode=require&channel_binding=prefer", &[QUERY]);
    assert!(output.status.success(), "{}", said(&output));
    assert_nothing_forbidden(stage);
}

#[test]
fn without_a_certificate_tls_is_declined_natively() {
    let stage = stage();
    let output = psql_over(&stage, "sslmode=require", &["SELECT 'forbidden:tls'"]);
    assert!(!output.status.success() && said(&output).contains("server does not support SSL"), "{}", said(&output));
    let output = psql_over(&stage, "sslmode=prefer", &[QUERY]);
    assert!(output.status.success(), "{}", said(&output));
    assert_nothing_forbidden(&stage);
}

fn clear_text_behind_a_request_for_tls_is_an_attack(stage: &Stage) {
    let query = "query SELECT 'forbidden:smuggled'";
    // Together with the request: said in clear, it would be taken for what was said inside of TLS.
    assert_eq!(wire(stage, &["ssl", "start 3.0", query, "end"]), ["E 08P01", "closed"]);
    assert_eq!(wire(stage, &["gss", "start 3.0", query, "end"]), ["E 08P01", "closed"]);
    // After the answer: where TLS is announced, nothing but TLS is read.
    let told = wire(stage, &["ssl", "answer", "start 3.0", query, "end"]);
    assert_eq!(told.first().map(String::as_str), Some("S"), "{told:?}");
    assert!(!told.iter().any(|line| line.starts_with(['R', 'Z', 'D'])), "{told:?}");
    // As it should be, and the same again inside.
    let told = wire(stage, &["gss", "answer", "ssl", "answer", "tls", "start 3.0", "ready", "query SELECT 5", "ready"]);
    assert_eq!(&told[..2], ["N", "S"]);
    assert!(told.contains(&"D 5".to_owned()) && told.ends_with(&["Z I".to_owned()]), "{told:?}");
    let told = wire(stage, &["ssl", "answer", "tls", "ssl", "end"]);
    assert_eq!(told.last().map(String::as_str), Some("closed"), "{told:?}");
    assert_nothing_forbidden(stage);
    assert!(psql(stage, &[QUERY]).status.success());
}

fn tls_is_taken_without_a_request_where_it_names_the_protocol(stage: &Stage) {
    let direct = edited(&stage.url(), CLEAR, &format!("{}&sslnegotiation=direct", verified(stage, "ca.pem")));
    let code = format!(
        "for url in ('{direct}', '{direct}'.replace('ca.pem', 'other.pem')):\n\
         \x20   try:\n\
         \x20       c = psycopg.connect(url)\n\
         \x20       print('direct', c.pgconn.used_password, c.execute('SELECT card FROM customers WHERE id = 1').fetchone())\n\
         \x20   except psycopg.Error as error:\n\
         \x20       print('refused', error)\n"
    );
    let told = said(&stage.run_agent(bounded(&inline(stage, &code))).unwrap());
    assert!(told.contains("direct") && told.contains("************1111"), "{told}");
    assert!(told.contains("refused") && told.contains("certificate verify failed"), "{told}");
    // Without the name of the protocol, or with another one, it may be meant for somebody else.
    let code = format!(
        "import socket, ssl\n\
         for names in ([], ['http/1.1'], ['postgresql']):\n\
         \x20   context = ssl._create_unverified_context()\n\
         \x20   if names: context.set_alpn_protocols(names)\n\
         \x20   try:\n\
         \x20       s = context.wrap_socket(socket.create_connection(('{HOST}', 5432)), server_hostname='{HOST}')\n\
         \x20       s.sendall(b'\\0\\0\\0\\x08\\x04\\xd2\\x16\\x2f')\n\
         \x20       print(names, 'open', s.selected_alpn_protocol(), s.recv(9))\n\
         \x20   except OSError as error:\n\
         \x20       print(names, 'refused', error)\n"
    );
    let told = said(&stage.run_agent(bounded(&inline(stage, &code))).unwrap());
    let line = |start: &str| told.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    assert!(line("[]").contains("refused") || line("[]").ends_with("b''"), "{told}");
    assert!(line("['http/1.1']").contains("refused"), "{told}");
    // Inside of TLS, TLS is not asked for again.
    assert!(line("['postgresql']").contains("open postgresql b''"), "{told}");
}

fn drivers_pass_over_verified_tls(stage: &Stage) {
    prepare(stage);
    for (name, command) in programs_over(stage, &verified(stage, "other.pem")) {
        let told = converse(stage, &command);
        assert!(!told.status.success() && told.passed() == 0, "{name} does not verify {}", told.complaint());
    }
    for (name, command) in programs_over(stage, &verified(stage, "ca.pem")) {
        let told = converse(stage, &command);
        assert!(told.status.success() && told.passed() >= 40, "{name} {}", told.complaint());
    }
    assert_nothing_forbidden(stage);
}

fn a_new_certificate_is_shown_after_a_reload(stage: &Stage) {
    let ca = Authority::new("the next CA").unwrap();
    ca.issue(HOST, &[HOST], Validity::Now).unwrap().write(stage.directory.path(), "agent").unwrap();
    fs::write(stage.path("next.pem"), ca.pem()).unwrap();
    let shown = |ca: &str| psql_over(stage, &verified(stage, ca), &[QUERY]).status.success();
    assert!(shown("ca.pem") && !shown("next.pem"), "files are read when the configuration is");
    operate(stage, 0, &["reload"]);
    assert!(shown("next.pem") && !shown("ca.pem"));
}
