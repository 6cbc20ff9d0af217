//! The shipped policies do what their case files say, and the command that says so tells the truth.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use interceptor::cli::policy::cases::{Analyse, Statement, run_folder};
use interceptor::cli::policy::{PolicyArgs, run};
use interceptor::policy::{Action, ActionName, Command, Facts, Policies, Resource, ResourceKind};

#[derive(Parser)]
struct Cli {
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    policy: PolicyArgs,
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

fn run_cli(args: &[&str], analyse: Option<Analyse<'_>>) -> (u8, String) {
    let cli = Cli::try_parse_from(["policy"].iter().chain(args)).unwrap_or_else(|error| panic!("{error}"));
    let mut out = Vec::new();
    let code = run(&cli.policy, cli.json, &mut out, analyse).unwrap();
    (code, String::from_utf8(out).unwrap())
}

#[test]
fn every_shipped_case_comes_out_as_it_says() {
    let outcomes = run_folder(&shipped(), None).unwrap_or_else(|error| panic!("{error}"));
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.failures.is_empty()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(outcomes.len() >= 45, "only {} cases", outcomes.len());
    // Every rule that decides verdicts decides one of the cases.
    let seen: BTreeSet<&str> = outcomes.iter().flat_map(|outcome| outcome.rules.iter().map(String::as_str)).collect();
    // A permit that only counts once a human approved, and one that only unmasks, decide no verdict.
    let quiet = ["migration-opaque", "support-sees-pii"];
    for id in together().ids().filter(|id| !quiet.contains(id)) {
        assert!(seen.contains(id), "no case shows {id}");
    }
}

/// All shipped policies, as the daemon loads them.
fn together() -> Policies {
    let files = ["baseline", "baseline-kubernetes", "baseline-mcp", "analyst-readonly", "migration-bot"]
        .map(|name| (name, fs::read_to_string(shipped().join(format!("{name}.cedar"))).unwrap()));
    Policies::load(&files).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

#[test]
fn every_shipped_rule_has_an_id_and_every_forbid_explains_itself() {
    assert!(together().ids().all(|id| !id.contains('#')));
    for name in ["baseline", "baseline-kubernetes", "baseline-mcp", "analyst-readonly", "migration-bot"] {
        let text = fs::read_to_string(shipped().join(format!("{name}.cedar"))).unwrap();
        let count = |needle: &str| text.lines().filter(|line| line.starts_with(needle)).count();
        assert_eq!(count("forbid"), count("@reason"), "{name}");
        assert_eq!(count("forbid"), count("@remedy"), "{name}");
    }
}

#[test]
fn a_case_that_fails_shows_in_the_listing_and_in_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.cedar"), "@id(\"all\") permit (principal, action, resource);").unwrap();
    let case = |expect: &str| {
        format!(
            "[[case]]\nname = \"reading\"\nagent = \"x\"\nexpect = \"{expect}\"\n\
             actions = [{{ name = \"sql:select\", resource = \"Table::d/o/p/t\" }}]\n"
        )
    };
    let dir = folder.path().to_str().unwrap();
    fs::write(folder.path().join("a.cases.toml"), case("permit")).unwrap();
    let (code, text) = run_cli(&["test", dir], None);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("1 cases, 0 failed"), "{text}");

    fs::write(folder.path().join("a.cases.toml"), case("deny")).unwrap();
    let (code, text) = run_cli(&["test", dir], None);
    assert_eq!(code, 1);
    assert!(text.contains("FAILED") && text.contains("expected deny, got permit"), "{text}");
    let (_, json) = run_cli(&["test", dir, "--json"], None);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["failed"], &json["cases"][0]["verdict"]), (&1.into(), &"permit".into()));
}

#[test]
fn what_cannot_be_run_is_an_error_and_never_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    assert_eq!(run_cli(&["test", dir], None).0, 2, "a folder without cases");

    let statement = "[[case]]\nname = \"x\"\nagent = \"x\"\nexpect = \"deny\"\ntarget = \"d\"\ndatabase = \"o\"\n\
                     statement = \"DROP TABLE t\"\n";
    fs::write(folder.path().join("a.cases.toml"), statement).unwrap();
    let (code, text) = run_cli(&["test", dir], None);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no analysis"), "{text}");

    let bad = "\npermit (principal, action == Action::\"sql:dorp\", resource);";
    fs::write(folder.path().join("bad.cedar"), bad).unwrap();
    let (code, text) = run_cli(&["test", dir], None);
    assert_eq!(code, 2);
    assert!(text.contains("bad.cedar:2:") && text.contains("sql:dorp"), "{text}");
}

#[test]
fn statements_are_analysed_where_an_analysis_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let analyse = |statement: &Statement<'_>| {
        assert_eq!((statement.target, statement.database, statement.text), ("d", Some("o"), "DROP TABLE t"));
        let path = [statement.target, "o", "public", "t"].map(Arc::from).to_vec();
        let drop = Action {
            name: ActionName::SQL_DROP,
            resource: Resource { kind: ResourceKind::Table, path },
            columns: BTreeSet::new(),
            tags: Arc::default(),
            note: None,
        };
        Ok(Command {
            analysis: 1,
            statement: statement.text.into(),
            parameters: Arc::from([]),
            actions: Arc::from([drop]),
            facts: Arc::new(Facts::default()),
            in_transaction: false,
        })
    };
    let ddl = "@id(\"ddl\") permit (principal, action in Action::\"sql:ddl\", resource);";
    fs::write(folder.path().join("a.cedar"), ddl).unwrap();
    let dir = folder.path().to_str().unwrap();
    let asked = ["explain", "--dir", dir, "--agent", "x", "--statement", "DROP TABLE t"];
    let place = ["--target", "d", "--database", "o"];
    let (code, text) = run_cli(&[&asked[..], &place[..]].concat(), Some(&analyse));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("by permit ddl") && text.contains("Table::\"d/o/public/t\""), "{text}");
}

fn explain(agent: &str, action: &str, table: &str, more: &[&str]) -> (u8, String) {
    let dir = shipped();
    let resource = format!("Table::orders-db/orders/public/{table}");
    let asked = ["explain", "--dir", dir.to_str().unwrap(), "--agent", agent, "--action", action];
    run_cli(&[&asked[..], &["--resource", &resource], more].concat(), None)
}

#[test]
fn explain_tells_who_may_approve() {
    let drop = |context| explain("migration-bot", "sql:drop", "old", &["--context", context]);
    let (code, text) = drop("machine.unit=\"migrate.service\"");
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("approvers  dba-oncall"), "{text}");
    assert!(text.contains("approved by a human, it would be: permit"), "{text}");
    let (code, text) = drop("machine.unit=\"other.service\"");
    assert_eq!(code, 1, "{text}");
    let (code, text) = drop("machine.unti=\"x\"");
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("unti"), "{text}");
    assert_eq!(drop("unknown=1").0, 2);
}

#[test]
fn explain_tells_what_would_change_the_answer() {
    let more = ["--json", "--tag", "pii", "--context", "tags=pii", "--context", "row_limit=10"];
    let (code, json) = explain("x", "sql:select", "customers", &more);
    assert_eq!(code, 1);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let changes = json["actions"][0]["changes"].as_array().unwrap();
    assert!(changes.iter().any(|change| change["what"] == "in group \"analysts\"" && change["verdict"] == "permit"));
    assert!(json["actions"][0]["near"].as_array().unwrap().iter().any(|near| near["rule"]["id"] == "analyst-read"));
}

#[test]
fn a_request_can_stand_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let dir = shipped();
    let ask =
        |path: &Path| run_cli(&["explain", "--dir", dir.to_str().unwrap(), "--request", path.to_str().unwrap()], None);
    let toml = folder.path().join("r.toml");
    let request = "agent = \"migration-bot\"\nmachine = { unit = \"migrate.service\" }\nat = 2026-11-23T12:00:00Z\n\
                   actions = [{ name = \"sql:create\", resource = \"Table::orders-db/orders/public/t\" }]\n";
    fs::write(&toml, request).unwrap();
    let (code, text) = ask(&toml);
    assert_eq!(code, 0, "{text}");
    fs::write(&toml, format!("unknown = 1\n{request}")).unwrap();
    assert_eq!(ask(&toml).0, 2);
    let json = folder.path().join("r.json");
    let request = r#"{"agent": "x", "actions": [{"name": "sql:session", "resource": "Database::orders-db/orders"}]}"#;
    fs::write(&json, request).unwrap();
    assert_eq!(ask(&json).0, 0);
}
