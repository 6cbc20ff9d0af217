//! What honest tools ask is not opaque: psql's listings, pg_dump, and `testdata/honest.txt`, against a real server.

use super::ScriptedGate;
use super::real::Stage;
use crate::mask::Rules;
use crate::policy::ActionName;

const SETUP: &str = include_str!("../../testdata/attacks.sql");

const CORPUS: &str = include_str!("../../testdata/honest.txt");

const DUMPED: &str = include_str!("../../testdata/dumped.sql");

const LISTINGS: &str = "\\d\n\\d+\n\\d people\n\\d+ people\n\\d+ through\n\\d+ logs\n\\d+ boxes\n\\d+ frozen\n\\d counter\n\\dt+ *.*\n\
    \\di+\n\\ds\n\\dv+\n\\dm\n\\df+\n\\df *.touch\n\\da\n\\do\n\\dT+\n\\dD+\n\\dC\n\\dn+\n\\du+\n\\dp\n\\ddp\n\\l+\n\\db+\n\\dx+\n\\dy\n\\dL\n\
    \\dF+\n\\dFd\n\\dFp\n\\des+\n\\det\n\\dew\n\\deu\n\\dE\n\\dP+\n\\dRp+\n\\dRs\n\\dX\n\\drds\n\\dconfig\n\\dA+\n\\dAc\n\\dAf\n\\dAo\n\\dAp\n\\dO\n\\dc\n\\dd\n\
    \\sv through\n\\sf touch\n\\z\n\\dg\n\\dl\n\\encoding\n\\conninfo\n";

fn opaque(stage: &Stage) -> Vec<String> {
    let judged = stage.gate.judged.lock();
    let mut found: Vec<String> = judged
        .iter()
        .flat_map(|command| {
            let opaque = command.actions.iter().filter(|action| action.name == ActionName::SQL_OPAQUE);
            opaque.map(|action| format!("{:?} {}: {}", action.note, action.resource.id(), command.statement))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_tools_are_understood() {
    let stage = Stage::new(ScriptedGate::open(), Rules::default()).await;
    stage.server.sql(SETUP).unwrap();
    stage.psql(LISTINGS).await;
    let listed = opaque(&stage);
    assert!(stage.gate.statements().len() > 60);
    stage.gate.judged.lock().clear();
    let arguments = ["--format=plain", &stage.url()];
    let dump = stage.client("pg_dump", &arguments, "").await;
    let dumped = opaque(&stage);
    let statements = stage.gate.statements().len();
    stage.gate.judged.lock().clear();
    let said = stage.psql(CORPUS).await;
    let others = opaque(&stage);
    // pg_dump sets what `pg_settings` names: which setting that is, a WHERE decides.
    let known = "SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings";
    let mut all = [listed, dumped, others].concat();
    all.retain(|found| !found.contains(known));
    let errors: Vec<&str> = said.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(all.is_empty(), "{} opaque\n{}\n{errors:?}", all.len(), all.join("\n"));
    assert!(dump.status.success() && statements > 30, "{statements} {}", String::from_utf8_lossy(&dump.stderr));
    assert!(errors.is_empty(), "{errors:?}");
}

/// What it writes is understood, but what brings code of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pg_dump_writes_is_understood() {
    let stage = Stage::new(ScriptedGate::open(), Rules::default()).await;
    stage.server.sql("CREATE ROLE clerk; CREATE ROLE boss").unwrap();
    stage.server.sql(DUMPED).unwrap();
    let dump = stage.client("pg_dump", &["--format=plain", "--inserts", &stage.url()], "").await;
    let text = String::from_utf8(dump.stdout).unwrap();
    stage.server.sql("DROP PUBLICATION news; DROP SCHEMA shop CASCADE; DROP OWNED BY clerk").unwrap();
    stage.gate.judged.lock().clear();
    let said = stage.psql(&text).await;
    let errors: Vec<&str> = said.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let statements = stage.gate.statements().len();
    assert!(statements > 120, "{statements}");
    const CODE: &[&str] = &["AGGREGATE", "CAST", "FUNCTION", "OPERATOR", "PROCEDURE", "RULE", "TRIGGER"];
    let code = |found: &String| CODE.iter().any(|kind| found.contains(&format!(": CREATE {kind} ")));
    let (known, others): (Vec<String>, Vec<String>) = opaque(&stage).into_iter().partition(code);
    assert!(others.is_empty(), "{} opaque\n{}", others.len(), others.join("\n"));
    assert_eq!(known.len(), CODE.len() + 1, "{}", known.join("\n"));
}
