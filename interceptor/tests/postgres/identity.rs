//! Who may be the agent: facts and token together, and only as long as both hold.

use std::fs;
use std::process::{Command, Stdio};

use interceptor::clock::{Clock as _, SystemClock};
use interceptor::testing::stage::{AGENT_UID, Stage};
use interceptor::testing::world::Place;

use super::scene::{
    assert_nothing_forbidden, bounded, configuration, edited, inline, operate, psql_fails, psql_ok, reconfigure,
    recorded, reload, run_in, said, stage,
};

const QUERY: &str = "SELECT 'forbidden:identity'";

/// A stage on which a token ends when it says so.
fn without_leeway() -> Stage {
    let mut stage = stage();
    let audience = "audience = \"interceptor\"";
    reconfigure(&mut stage, audience, &format!("{audience}\nleeway_seconds = 0"));
    stage
}

/// Writes a token file of the agent, whatever it holds.
fn write_token(stage: &Stage, token: &str) {
    fs::write(stage.path("token"), token).unwrap();
}

/// The agent is told why, natively, and nothing of it reaches the server.
fn refused(stage: &Stage, words: &[&str]) {
    let told = psql_fails(stage, &[QUERY]);
    assert!(told.contains("FATAL"), "{told}");
    for word in words {
        assert!(told.contains(word), "{word} is not in {told}");
    }
    assert_nothing_forbidden(stage);
    let events = recorded(stage);
    assert!(events.contains("\"refused\"") && words.iter().all(|word| events.contains(word)), "on record: {words:?}");
}

#[test]
fn a_token_that_does_not_hold_is_refused_and_says_which_check_failed() {
    let stage = stage();
    psql_ok(&stage, &["SELECT 1"]);
    let now = SystemClock::new().now().unix();
    let token = |subject: &str, audience: &str, groups: &[&str], from: i64| {
        stage.issuer.good(subject, audience, groups, from, 3600).unwrap()
    };
    write_token(&stage, &token("svc:billing", "interceptor", &["finance"], now - 7200));
    refused(&stage, &["expired"]);
    write_token(&stage, &token("svc:other", "interceptor", &["finance"], now));
    refused(&stage, &["another subject"]);
    write_token(&stage, &token("svc:billing", "somebody-else", &["finance"], now));
    refused(&stage, &["another audience"]);
    write_token(&stage, &token("svc:billing", "interceptor", &["sales"], now));
    refused(&stage, &["lacks the group"]);
    write_token(&stage, &token("svc:billing", "interceptor", &["finance"], now + 3000));
    refused(&stage, &["not valid before"]);
    let good = token("svc:billing", "interceptor", &["finance"], now);
    let (rest, signature) = good.rsplit_once('.').unwrap();
    let forged: String = signature.chars().rev().collect();
    write_token(&stage, &format!("{rest}.{forged}"));
    refused(&stage, &["signature"]);
    write_token(&stage, "no token at all");
    refused(&stage, &["token"]);
    fs::remove_file(stage.path("token")).unwrap();
    refused(&stage, &["token"]);
    write_token(&stage, &good);
    psql_ok(&stage, &["SELECT 1"]);
}

#[test]
fn a_valid_token_is_worth_nothing_elsewhere() {
    let stage = stage();
    let mut psql = bounded(&stage.psql(&[QUERY]));
    psql.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = stage.spawn_agent_in("other", psql).unwrap().wait_with_output().unwrap();
    let told = said(&output);
    assert!(!output.status.success() && told.contains("FATAL"), "{told}");
    assert!(told.contains("cgroup") && told.contains("/other"), "it says what does not fit: {told}");
    let psql = stage.psql(&[QUERY]);
    let output = run_in(&stage, Place::Agent("billing"), Some(AGENT_UID + 1), &psql);
    let told = said(&output);
    assert!(!output.status.success() && told.contains(&format!("uid is {}", AGENT_UID + 1)), "{told}");
    // Root in the governed cgroup is not the agent either.
    let output = run_in(&stage, Place::Agent("billing"), None, &psql);
    assert!(!output.status.success() && said(&output).contains("uid is 0"), "{}", said(&output));
    assert_nothing_forbidden(&stage);
    assert!(recorded(&stage).contains("/other"));
}

#[test]
fn a_session_ends_when_its_token_does() {
    let stage = without_leeway();
    stage.write_token("svc:billing", 5).unwrap();
    let code = "c = psycopg.connect(URL, autocommit=True)\n\
                print('first', c.execute('SELECT 1').fetchone()[0], flush=True)\n\
                for n in range(30):\n\
                \x20   time.sleep(1)\n\
                \x20   try:\n\
                \x20       c.execute('SELECT 2')\n\
                \x20   except psycopg.Error as error:\n\
                \x20       print('ended', error.sqlstate, error)\n\
                \x20       break\n";
    let output = stage.run_agent(bounded(&inline(&stage, code))).unwrap();
    let text = said(&output);
    assert!(text.contains("first 1") && text.contains("ended"), "{text}");
    assert!(recorded(&stage).contains("expired at"), "{text}");
    // A fresh token, and the same agent goes on.
    stage.write_token("svc:billing", 3600).unwrap();
    psql_ok(&stage, &["SELECT 1"]);
}

#[test]
fn a_renewed_token_keeps_the_session_alive() {
    let stage = without_leeway();
    stage.write_token("svc:billing", 5).unwrap();
    let code = "c = psycopg.connect(URL, autocommit=True)\n\
                for n in range(14):\n\
                \x20   print(n, c.execute('SELECT 1').fetchone(), flush=True)\n\
                \x20   time.sleep(1)\n";
    let mut command = bounded(&inline(&stage, code));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let agent = stage.spawn_agent(command).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    stage.write_token("svc:billing", 3600).unwrap();
    let output = agent.wait_with_output().unwrap();
    assert!(output.status.success() && said(&output).contains("13 (1,)"), "{}", said(&output));
}

/// psql with this as its password, and this in its environment as `AGENT_TOKEN`.
fn psql_with(stage: &Stage, place: Place<'_>, password: &str, variable: Option<&str>) -> (bool, String) {
    let mut psql = Command::new("psql");
    psql.args(["-X", "-v", "VERBOSITY=verbose", &edited(&stage.url(), "the-shared-password", password), "-c", QUERY]);
    if let Some(variable) = variable {
        psql.env("AGENT_TOKEN", variable);
    }
    let output = run_in(stage, place, Some(AGENT_UID), &psql);
    (output.status.success(), said(&output))
}

#[test]
fn a_token_comes_as_the_password_or_in_the_environment() {
    let stage = stage();
    let (before, from) = (configuration(&stage), format!("file:{}", stage.path("token").display()));
    let (good, other) = (stage.token("svc:billing", 3600).unwrap(), stage.token("svc:other", 3600).unwrap());
    let (billing, elsewhere) = (Place::Agent("billing"), Place::Agent("other"));
    let refused = |told: (bool, String), words: &[&str]| {
        assert!(!told.0 && told.1.contains("FATAL"), "{}", told.1);
        for word in words {
            assert!(told.1.contains(word), "{word} is not in {}", told.1);
        }
        assert!(!told.1.contains("eyJ"), "the token is not told: {}", told.1);
    };

    reload(&stage, &edited(&before, &from, "connection"));
    refused(psql_with(&stage, billing, "the-shared-password", None), &["not a signed JWT"]);
    refused(psql_with(&stage, billing, &other, None), &["another subject"]);
    refused(psql_with(&stage, elsewhere, &good, None), &["billing-bot", "/other"]);
    assert_nothing_forbidden(&stage);

    reload(&stage, &edited(&before, &from, "env:AGENT_TOKEN"));
    refused(psql_with(&stage, billing, "the-shared-password", None), &["AGENT_TOKEN was not set"]);
    refused(psql_with(&stage, billing, &good, Some(&other)), &["another subject"]);
    refused(psql_with(&stage, elsewhere, "x", Some(&good)), &["billing-bot", "/other"]);
    assert_nothing_forbidden(&stage);
    assert!(psql_with(&stage, billing, "the-shared-password", Some(&good)).0);
    reload(&stage, &edited(&before, &from, "connection"));
    assert!(psql_with(&stage, billing, &good, None).0);
    let record = recorded(&stage);
    assert!(!record.contains(&good) && !record.contains(&other) && !stage.log().contains(&good));
}

#[test]
fn whoami_says_what_is_wrong_with_a_token() {
    let stage = stage();
    let mut command = Command::new("sleep");
    command.arg("60");
    let mut agent = stage.spawn_agent(command).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    let pid = agent.id().to_string();
    let explained = |code: i32, words: &[&str]| {
        for arguments in [&["whoami", "--pid", &pid][..], &["--json", "whoami", "--pid", &pid]] {
            let told = operate(&stage, code, arguments);
            // A table breaks lines in the middle of a sentence.
            let told: String = told.split_whitespace().collect::<Vec<_>>().join(" ");
            for word in words {
                assert!(told.contains(word), "{word} is not in {told}");
            }
            assert!(!told.contains("eyJ"), "the token itself is never shown: {told}");
        }
    };
    explained(0, &["billing-bot"]);
    stage.write_token("svc:billing", -7200).unwrap();
    explained(1, &["the token expired", "obtain a new token"]);
    stage.write_token("svc:other", 3600).unwrap();
    explained(1, &["another subject", "svc:other"]);
    write_token(&stage, "no token at all");
    explained(1, &["not a signed JWT"]);
    fs::remove_file(stage.path("token")).unwrap();
    explained(1, &["No such file", "token.from"]);
    stage.write_token("svc:billing", 3600).unwrap();
    explained(0, &["billing-bot"]);
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[test]
fn whoami_explains() {
    let stage = stage();
    let sleeper = || {
        let mut command = Command::new("sleep");
        command.arg("60");
        command
    };
    let mut agent = stage.spawn_agent(sleeper()).unwrap();
    let mut other = stage.spawn_agent_in("other", sleeper()).unwrap();
    // The processes are under way before their exec; the facts of cgroup and user hold from then on.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let told = operate(&stage, 0, &["whoami", "--pid", &agent.id().to_string()]);
    assert!(told.contains("billing-bot") && told.contains("finance"), "{told}");
    let told = operate(&stage, 1, &["whoami", "--pid", &other.id().to_string()]);
    assert!(told.contains("billing-bot") && told.contains("/other"), "{told}");
    for child in [&mut agent, &mut other] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
