//! What a held command would touch, for the human who decides: the planner's own estimate.
//!
//! It is asked for on a connection of our own, in a read-only transaction and with the session's search path and role, so
//! that the agent's session is not touched and nothing is run. EXPLAIN does not run a statement, but it may run functions
//! that are declared immutable or stable: where the analysis found something that it does not know (`sql:opaque`), the
//! planner is not asked. What is dropped or emptied is counted as the last ANALYZE counted it.
//!
//! Bounds: [`PATIENCE`] for all of it, [`STATEMENTS_LIMIT`] statements. Does not promise more than an estimate, nor to see
//! what the agent's open transaction has changed in tables.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;

use super::super::catalog::Names;
use super::super::login::{self, Bounds, LoggedIn, query_with};
use super::super::statement::Reading;
use super::catalogs::{Library, own_parameters};
use crate::policy::{ActionName, Command, Parameter, ResourceKind};
use crate::protocol::Impact;

/// How long a hold waits for its estimate.
const PATIENCE: Duration = Duration::from_secs(3);

/// Statements of one text that the planner is asked about.
const STATEMENTS_LIMIT: usize = 16;

/// Bytes of a plan.
const PLAN_LIMIT: usize = 1 << 20;

/// Schema and name of a table.
type Named = (Arc<str>, Arc<str>);

/// What to ask, and under which names.
#[derive(Debug)]
pub(super) struct Asked {
    plan: Vec<String>,
    parameters: Arc<[Parameter]>,
    /// Schema and name of what is dropped or emptied.
    gone: Vec<Named>,
    search_path: String,
    role: Option<Arc<str>>,
}

impl Asked {
    /// # Errors
    /// Why nothing can be asked.
    pub(super) fn new(command: &Command, reading: &Reading, names: &Names) -> Result<Self, &'static str> {
        let analysis = &reading.analysis;
        if analysis.opaque {
            return Err("what it does cannot be known before it runs");
        }
        if analysis.statements.len() > STATEMENTS_LIMIT {
            return Err("it has too many statements");
        }
        let tables = command.actions.iter().filter(|action| action.resource.kind == ResourceKind::Table);
        if tables.clone().any(|action| action.resource.path.get(2).is_some_and(|schema| &**schema == "pg_temp")) {
            return Err("it touches temporary tables, which only its session sees");
        }
        let planned = analysis.statements.iter().filter(|statement| PLANNED.contains(&statement.kind));
        let plan: Vec<String> = match analysis.statements.as_slice() {
            // The places in it may be those of another text of the same shape.
            [_one] => planned.map(|_| reading.text.to_string()).collect(),
            _ => planned.filter_map(|known| reading.text.get(known.range.clone())).map(str::to_owned).collect(),
        };
        let gone: Vec<_> = tables
            .filter(|action| matches!(action.name, ActionName::SQL_DROP | ActionName::SQL_TRUNCATE))
            .filter_map(|action| Some((action.resource.path.get(2)?.clone(), action.resource.path.get(3)?.clone())))
            .collect();
        if plan.is_empty() && gone.is_empty() {
            return Err("the planner knows nothing of such a statement");
        }
        Ok(Self {
            plan,
            parameters: Arc::clone(&command.parameters),
            gone,
            search_path: search_path(names),
            role: (names.user != names.session_user).then(|| Arc::clone(&names.user)),
        })
    }

    /// Asks. Never fails: where there is no estimate, the note says why.
    pub(super) async fn estimate(&self, library: &Library) -> Impact {
        let answer = timeout(PATIENCE, self.ask(library)).await;
        answer
            .unwrap_or_else(|_elapsed| Err("the target did not answer in time".to_owned()))
            .unwrap_or_else(|why| Impact { rows: None, note: Some(format!("no estimate: {why}")) })
    }

    async fn ask(&self, library: &Library) -> Result<Impact, String> {
        let leg = library.dial.dial().await.map_err(|error| error.to_string())?;
        let mut parameters = own_parameters(&library.database).to_vec();
        parameters.push(("standard_conforming_strings".to_owned(), "on".to_owned()));
        let mut leg = login::login(leg, &library.target, &library.login, &parameters)
            .await
            .map_err(|error| error.for_agent().message.clone())?;
        let bounds = Bounds { rows: 10_000, bytes: PLAN_LIMIT, within: PATIENCE };
        leg.query("BEGIN READ ONLY", &bounds).await.map_err(|error| error.to_string())?;
        ask(&mut leg, LIMITS, &[], &bounds).await?;
        if let Some(role) = &self.role {
            ask(&mut leg, "SELECT pg_catalog.set_config('role', $1, true)", &[text(role)], &bounds).await?;
        }
        let path = [text(&self.search_path)];
        ask(&mut leg, "SELECT pg_catalog.set_config('search_path', $1, true)", &path, &bounds).await?;
        let mut found = Impact::default();
        let mut note = String::new();
        for statement in &self.plan {
            let sql = format!("EXPLAIN (FORMAT JSON)\n{statement}");
            let rows = ask(&mut leg, &sql, &self.parameters, &bounds).await?;
            let plan: Value = rows
                .first()
                .and_then(|row| serde_json::from_str(row.first()?.as_deref()?).ok())
                .ok_or("the plan cannot be read")?;
            add(&mut found, touched(&plan));
        }
        if !self.gone.is_empty() {
            let schemas = array(self.gone.iter().map(|name| &name.0));
            let tables = array(self.gone.iter().map(|name| &name.1));
            let rows = ask(&mut leg, COUNTED, &[schemas, tables], &bounds).await?;
            let number = |at: usize| rows.first()?.get(at)?.as_deref()?.parse::<u64>().ok();
            add(&mut found, number(0).unwrap_or(0));
            note.push_str("rows as the last ANALYZE counted them");
            if let Some(never) = number(1).filter(|never| *never > 0) {
                let _infallible = write!(note, "; {never} of the tables were never analysed");
            }
        }
        found.note = (!note.is_empty()).then_some(note);
        Ok(found)
    }
}

/// Statements that EXPLAIN takes, and that run no other.
const PLANNED: &[&str] = &["SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"];

/// Locks that others hold are not waited for.
const LIMITS: &str = "SELECT pg_catalog.set_config('statement_timeout', '2500', true), \
     pg_catalog.set_config('lock_timeout', '500', true)";

/// Rows of tables with all their partitions, and how many of them nobody has counted.
const COUNTED: &str = "SELECT COALESCE(sum(greatest(leaf.reltuples, 0)), 0)::bigint::text, \
     count(*) FILTER (WHERE leaf.reltuples < 0)::text \
     FROM unnest($1::text[], $2::text[]) AS asked(schema, name) \
     JOIN pg_catalog.pg_namespace n ON n.nspname = asked.schema \
     JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = asked.name \
     JOIN pg_catalog.pg_class leaf ON leaf.relkind IN ('r', 'm', 'f') AND (leaf.oid = c.oid \
      OR leaf.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid::pg_catalog.regclass)))";

async fn ask(
    leg: &mut LoggedIn,
    sql: &str,
    parameters: &[Parameter],
    bounds: &Bounds,
) -> Result<Vec<Vec<Option<String>>>, String> {
    query_with(leg, sql, parameters, bounds).await.map_err(|error| error.to_string())
}

fn add(impact: &mut Impact, rows: u64) {
    impact.rows = Some(impact.rows.unwrap_or(0).saturating_add(rows));
}

fn text(value: &str) -> Parameter {
    Parameter { type_oid: 25, binary: false, value: Some(Bytes::copy_from_slice(value.as_bytes())) }
}

/// A text[] in its text form.
fn array<'a>(values: impl Iterator<Item = &'a Arc<str>>) -> Parameter {
    let quoted: Vec<String> = values.map(|value| quote(value, true)).collect();
    let value = format!("{{{}}}", quoted.join(","));
    Parameter { type_oid: 1009, binary: false, value: Some(value.into()) }
}

fn search_path(names: &Names) -> String {
    let schemas = names.search_path.iter().filter(|schema| !names.is_temp(schema));
    schemas.map(|schema| quote(schema, false)).collect::<Vec<_>>().join(", ")
}

/// In double quotes: an element of an array, or an identifier.
fn quote(text: &str, element: bool) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' if element => quoted.push_str("\\\""),
            '\\' if element => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\"\""),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Rows that a plan expects to write, or where it writes nothing, to return.
fn touched(plan: &Value) -> u64 {
    let root = plan.pointer("/0/Plan").unwrap_or(&Value::Null);
    written(root).unwrap_or_else(|| rows_of(root))
}

/// Rows that arrive at the writing nodes of a plan; `None` where there are none. serde_json has bounded its depth.
fn written(node: &Value) -> Option<u64> {
    let children = || node.get("Plans").and_then(Value::as_array).into_iter().flatten();
    let below = children().filter_map(written).reduce(u64::saturating_add);
    if node.get("Node Type").and_then(Value::as_str) != Some("ModifyTable") {
        return below;
    }
    let source = |child: &&Value| {
        !matches!(child.get("Parent Relationship").and_then(Value::as_str), Some("InitPlan" | "SubPlan"))
    };
    let own: u64 = children().filter(source).map(rows_of).fold(0, u64::saturating_add);
    Some(own.saturating_add(below.unwrap_or(0)))
}

fn rows_of(node: &Value) -> u64 {
    let rows = node.get("Plan Rows");
    rows.and_then(Value::as_u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_counts_and_else_what_is_returned() {
        let read = json!([{ "Plan": { "Node Type": "Seq Scan", "Plan Rows": 7 } }]);
        assert_eq!(touched(&read), 7);
        let write = json!([{ "Plan": { "Node Type": "ModifyTable", "Plan Rows": 0, "Plans": [
            { "Node Type": "Seq Scan", "Parent Relationship": "Outer", "Plan Rows": 40 },
            { "Node Type": "Aggregate", "Parent Relationship": "InitPlan", "Plan Rows": 1 },
        ] } }]);
        assert_eq!(touched(&write), 40);
        let inside = json!([{ "Plan": { "Node Type": "CTE Scan", "Plan Rows": 5, "Plans": [
            { "Node Type": "ModifyTable", "Parent Relationship": "InitPlan", "Plan Rows": 3, "Plans": [
                { "Node Type": "Seq Scan", "Parent Relationship": "Outer", "Plan Rows": 3 } ] } ] } }]);
        assert_eq!(touched(&inside), 3);
        assert_eq!(touched(&json!("nonsense")), 0);
    }

    #[test]
    fn names_cannot_leave_their_quotes() {
        assert_eq!(quote("a\"b\\c", false), "\"a\"\"b\\c\"");
        assert_eq!(quote("a\"b\\c", true), "\"a\\\"b\\\\c\"");
    }
}
