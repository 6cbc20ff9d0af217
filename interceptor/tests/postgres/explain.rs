//! `policy explain` of a statement: read as its target would, judged as the daemon would, never run.

use super::scene::{operate, operate_json, stage, truth};
use interceptor::testing::stage::Stage;

fn explain(stage: &Stage, code: i32, statement: &str) -> String {
    let who = ["policy", "explain", "--agent", "billing-bot", "--group", "finance"];
    let place = ["--target", "orders-db", "--database", "orders", "--statement", statement];
    operate(stage, code, &[&who[..], &place].concat())
}

#[test]
fn a_statement_is_explained_by_what_its_names_mean() {
    let stage = stage();
    let told = explain(&stage, 1, "DELETE FROM customers WHERE id = 1");
    for wanted in ["DENY", "customers-are-read-only", "customer team", "sql:delete"] {
        assert!(told.contains(wanted), "{wanted} is not in {told}");
    }
    let told = explain(&stage, 0, "SELECT id, card FROM spending");
    assert!(told.contains("PERMIT") && told.contains("masked") && told.contains("card"), "{told}");
    let told = explain(&stage, 3, "DROP TABLE scratch");
    assert!(told.contains("HOLD") && told.contains("dba-oncall"), "{told}");
    assert_eq!(truth(&stage, "SELECT count(*) FROM scratch"), "1000", "nothing ran");
    let told = explain(&stage, 1, "SELECT * FROM nowhere");
    assert!(told.contains("sql:opaque"), "{told}");
    let elsewhere = ["policy", "explain", "--agent", "billing-bot", "--target", "nowhere", "--database", "orders"];
    let told = operate(&stage, 2, &[&elsewhere[..], &["--statement", "SELECT 1"]].concat());
    assert!(told.contains("no target `nowhere`"), "{told}");
    // The configuration's own folder is the default.
    let request = ["policy", "explain", "--agent", "billing-bot", "--group", "finance", "--action", "sql:delete"];
    let json = stage.operate(&[&["--json"], &request[..], &["--resource", CUSTOMERS]].concat()).unwrap();
    assert!(String::from_utf8_lossy(&json.stdout).contains("customers-are-read-only"));
    assert!(operate_json(&stage, &["status"]).is_object());
}

const CUSTOMERS: &str = "Table::orders-db/orders/public/customers";
