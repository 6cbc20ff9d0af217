//! The host CA: made, shown, rotated, and what agents see of it; names of other targets, and clients that do not trust it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Output};

use interceptor::testing::certificates::Authority;
use interceptor::testing::stage::{HOST, Stage};
use serde_json::Value;

use super::scene::{
    CLEAR, assert_nothing_forbidden, bounded, configuration, edited, inline, operate, operate_json, recorded, reload,
    said, stage,
};

const QUERY: &str = "SELECT card FROM customers WHERE id = 1";
const TOLD: &str = "************1111";

/// A stage whose daemon has a host CA, in `ca/`.
fn with_host_ca() -> Stage {
    let stage = stage();
    let text = format!("{}\n[ca]\ndir = \"{}\"\n", configuration(&stage), stage.path("ca").display());
    fs::write(stage.path("interceptor.toml"), &text).unwrap();
    let refused = operate(&stage, 1, &["reload"]);
    assert!(refused.contains("ca.key"), "without its key the configuration does not load: {refused}");
    operate(&stage, 0, &["ca", "init", "--user", "root"]);
    operate(&stage, 0, &["reload"]);
    stage
}

/// psql that verifies the certificate against these authorities.
fn psql(stage: &Stage, authorities: &str, statement: &str) -> Output {
    let verified = format!("sslmode=verify-full&sslrootcert={}", stage.path(authorities).display());
    let mut psql = Command::new("psql");
    psql.args(["-X", &edited(&stage.url(), CLEAR, &verified), "-c", statement]);
    stage.run_agent(bounded(&psql)).unwrap()
}

fn passes(stage: &Stage, authorities: &str) -> bool {
    let output = psql(stage, authorities, QUERY);
    assert_eq!(output.status.success(), said(&output).contains(TOLD), "{}", said(&output));
    output.status.success()
}

#[test]
fn agents_that_trust_the_host_ca_verify_targets_by_it() {
    let mut stage = with_host_ca();
    it_is_made_once_and_shown(&stage);
    assert!(passes(&stage, "ca/ca.pem") && passes(&stage, "ca/bundle.pem"));
    who_does_not_trust_it_is_an_event(&stage);
    the_name_of_another_target_is_refused_and_on_record(&stage);
    a_target_beyond_its_names_is_a_mistake_in_the_configuration(&stage);
    a_rotation_interrupts_nobody_who_trusts_both(&stage);
    a_key_that_others_can_read_is_not_used(&mut stage);
    assert_nothing_forbidden(&stage);
}

fn it_is_made_once_and_shown(stage: &Stage) {
    let key = fs::metadata(stage.path("ca/ca.key")).unwrap();
    assert_eq!(key.mode() & 0o7777, 0o600);
    let refused = operate(stage, 2, &["ca", "init", "--user", "root"]);
    assert!(refused.contains("agents trust it"), "{refused}");
    let shown = operate_json(stage, &["ca", "show"]);
    let names: Vec<&str> =
        shown["certificates"][0]["names"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!((names, &shown["certificates"][0]["role"]), (vec![HOST], &Value::from("signing")));
    assert!(operate(stage, 0, &["status"]).contains("interceptor CA of"));
}

fn who_does_not_trust_it_is_an_event(stage: &Stage) {
    fs::write(stage.path("pinned.pem"), Authority::new("the real one").unwrap().pem()).unwrap();
    let output = psql(stage, "pinned.pem", "SELECT 'forbidden:pinned'");
    assert!(!output.status.success() && said(&output).contains("certificate verify failed"), "{}", said(&output));
    let event = refusals(stage).find(|denial| denial["reason"].to_string().contains("does not trust"));
    let event = event.unwrap_or_else(|| panic!("no event: {}", recorded(stage))).to_string();
    assert!(event.contains(HOST) && event.contains("UnknownCA") && event.contains("ca install"), "{event}");
    assert!(stage.log().contains("an agent has no TLS"));
}

fn the_name_of_another_target_is_refused_and_on_record(stage: &Stage) {
    let code = format!(
        "import socket, ssl\n\
         for name in ('billing-db.internal', '{HOST}', None):\n\
         \x20   context = ssl._create_unverified_context()\n\
         \x20   context.set_alpn_protocols(['postgresql'])\n\
         \x20   try:\n\
         \x20       s = context.wrap_socket(socket.create_connection(('{HOST}', 5432)), server_hostname=name)\n\
         \x20       print(name, 'open', s.version(), s.session_reused)\n\
         \x20   except ssl.SSLError as error:\n\
         \x20       print(name, 'refused', error.reason)\n"
    );
    let told = said(&stage.run_agent(bounded(&inline(stage, &code))).unwrap());
    assert!(told.contains("billing-db.internal refused TLSV1_UNRECOGNIZED_NAME"), "{told}");
    assert!(told.contains(&format!("{HOST} open TLSv1.3 False")) && told.contains("None open TLSv1.3 False"), "{told}");
    let event = refusals(stage).find(|denial| denial["reason"].to_string().contains("billing-db.internal"));
    assert!(event.is_some_and(|event| event["reason"].to_string().contains("orders-db")), "{}", recorded(stage));
}

fn a_target_beyond_its_names_is_a_mistake_in_the_configuration(stage: &Stage) {
    let before = configuration(stage);
    let alias = edited(&before, "tls = { upstream", "tls = { agent_names = [\"db.elsewhere\"], upstream");
    fs::write(stage.path("interceptor.toml"), alias).unwrap();
    let refused = operate(stage, 1, &["check"]);
    assert!(refused.contains("the host CA is not for `db.elsewhere`") && refused.contains("ca rotate"), "{refused}");
    reload(stage, &before);
}

fn a_rotation_interrupts_nobody_who_trusts_both(stage: &Stage) {
    fs::copy(stage.path("ca/ca.pem"), stage.path("first.pem")).unwrap();
    operate(stage, 0, &["ca", "rotate", "--user", "root"]);
    operate(stage, 0, &["reload"]);
    fs::copy(stage.path("ca/ca.pem"), stage.path("both.pem")).unwrap();
    assert!(passes(stage, "first.pem") && passes(stage, "both.pem"), "the first still signs");
    operate(stage, 0, &["ca", "rotate", "--switch"]);
    operate(stage, 0, &["reload"]);
    assert!(passes(stage, "both.pem") && !passes(stage, "first.pem"), "the next signs");
    operate(stage, 0, &["ca", "rotate", "--finish"]);
    assert!(passes(stage, "ca/ca.pem") && passes(stage, "ca/bundle.pem"));
    assert_eq!(operate_json(stage, &["ca", "show"])["certificates"].as_array().unwrap().len(), 1);
}

fn a_key_that_others_can_read_is_not_used(stage: &mut Stage) {
    fs::set_permissions(stage.path("ca/ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = operate(stage, 1, &["check"]);
    assert!(refused.contains("ca.key: mode 0644 opens it to everybody"), "{refused}");
    assert!(passes(stage, "ca/ca.pem"), "the last good configuration stays in force");
}

/// What was refused, as it is on record.
fn refusals(stage: &Stage) -> impl Iterator<Item = Value> {
    let events: Vec<Value> = recorded(stage).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    events.into_iter().filter_map(|event| find(&event, "denial").cloned())
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).or_else(|| value.as_object()?.values().find_map(|inner| find(inner, key)))
}
