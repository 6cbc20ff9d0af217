//! A text's statements, one by one: queries and writes, session control, cursors, prepared statements, COPY.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    CopyStmt, DeclareCursorStmt, DiscardMode, ExecuteStmt, ExplainStmt, FetchStmt, LimitOption, Node, ObjectType,
    ParseResult, RawStmt, SelectStmt, TransactionStmt, TransactionStmtKind, VariableSetKind, VariableSetStmt, a_const,
};

use super::copy::{CopyDirection, CopyFormat};
use super::lineage::{Columns, Frame, string};
use super::query::{all_tags, output};
use super::table::Walker;
use super::{
    Analysis, Cursor, MAX_STATEMENTS, Output, Prepared, Resync, Scope, SessionEffect, StatementInfo, Transaction,
    bounds, next_id, opaque,
};
use crate::policy::{ActionName, ResourceKind, TagSet};

/// Names of settings that decide what later text means.
const NAMING: &[&str] =
    &["search_path", "role", "session_authorization", "standard_conforming_strings", "client_encoding", "is_superuser"];

/// Options of DECLARE, as the server numbers them.
const CURSOR_BINARY: i32 = 0x0001;
const CURSOR_HOLD: i32 = 0x0020;

/// invalid_sql_statement_name
const NO_PREPARED: &str = "26000";
/// invalid_cursor_name
const NO_CURSOR: &str = "34000";

pub(super) fn analyze(text: &str, scope: &Scope<'_>) -> Analysis {
    if !scope.names.plain_text {
        return closed(text, scope, "standard_conforming_strings is off, or client_encoding is not UTF8");
    }
    let tree;
    let tree = match scope.parsed.filter(|parsed| **parsed.text() == *text) {
        Some(parsed) => parsed.tree(),
        None => {
            tree = bounds::parse(text);
            &tree
        }
    };
    match tree.as_ref().map_err(String::as_str).and_then(|tree| limited(tree).map(|()| tree)) {
        Ok(tree) => of_tree(text, scope, tree),
        Err(why) => closed(text, scope, why),
    }
}

/// What executing a prepared statement would do now.
#[must_use]
pub fn analyze_prepared(prepared: &Prepared, scope: &Scope<'_>) -> Analysis {
    if !scope.names.plain_text {
        return closed(&prepared.text, scope, "standard_conforming_strings is off, or client_encoding is not UTF8");
    }
    match parse(&prepared.text) {
        Ok(tree) => match inner(&tree) {
            Some(node) => {
                let stmt = RawStmt { stmt: Some(Box::new(node.clone())), stmt_location: 0, stmt_len: 0 };
                of_tree(&prepared.text, scope, &ParseResult { version: tree.version, stmts: vec![stmt] })
            }
            None => closed(&prepared.text, scope, "a prepared statement that is not known"),
        },
        Err(why) => closed(&prepared.text, scope, &why),
    }
}

fn closed(text: &str, scope: &Scope<'_>, why: &str) -> Analysis {
    opaque(text, scope.target, scope.database, scope.tags, why)
}

fn parse(text: &str) -> Result<ParseResult, String> {
    let tree = bounds::parse(text)?;
    limited(&tree)?;
    Ok(tree)
}

const fn limited(tree: &ParseResult) -> Result<(), &'static str> {
    if tree.stmts.len() > MAX_STATEMENTS {
        return Err("the text has more statements than are analysed");
    }
    Ok(())
}

/// The statement that a PREPARE, or a text of one statement, stands for.
fn inner(tree: &ParseResult) -> Option<&Node> {
    let [one] = tree.stmts.as_slice() else { return None };
    let node = one.stmt.as_deref()?;
    match &node.node {
        Some(NodeEnum::PrepareStmt(prepare)) => prepare.query.as_deref(),
        _ => Some(node),
    }
}

fn of_tree(text: &str, scope: &Scope<'_>, tree: &ParseResult) -> Analysis {
    let mut reader =
        Reader { walker: Walker::new(scope), text, prepared: HashMap::new(), cursors: HashMap::new(), depth: 0 };
    let mut statements = Vec::with_capacity(tree.stmts.len());
    for raw in &tree.stmts {
        let info = reader.read(raw);
        let ends = matches!(
            info.effect,
            SessionEffect::Transaction(
                Transaction::Commit { .. } | Transaction::Rollback { .. } | Transaction::RollbackTo(_)
            )
        );
        let undone = matches!(
            info.effect,
            SessionEffect::Transaction(Transaction::Rollback { .. } | Transaction::RollbackTo(_))
        );
        reader.walker.names_in_doubt |= ((info.resync.names || info.resync.catalog) && !reader.walker.changes.only)
            || (undone && !reader.walker.changes.is_empty())
            || (ends && !scope.names.settled)
            || info.effect == SessionEffect::DiscardAll;
        statements.push(info);
    }
    if tree.stmts.is_empty() {
        let database = reader.walker.database();
        reader.walker.act(ActionName::SQL_SESSION, database);
    }
    let limit = match tree.stmts.as_slice() {
        [one] => one.stmt.as_ref().and_then(|node| limit_of(node)),
        _ => None,
    };
    let overflowed = reader.walker.overflowed();
    let uses_constants = reader.walker.uses_constants || limit.is_some();
    let session_bound = reader.walker.session_bound;
    // Of several statements the first ones run before the target finds what is missing.
    let missing = reader.walker.missing.take().filter(|_| statements.len() == 1);
    let prepares = matches!(statements.as_slice(), [StatementInfo { effect: SessionEffect::Prepare { .. }, .. }]);
    let count = u32::try_from(tree.stmts.len()).unwrap_or(u32::MAX);
    let (actions, facts, opaque) = reader.walker.finish(count, limit);
    if overflowed {
        let all = scope.tags.all();
        for info in &mut statements {
            info.output = Output::Unknown(Arc::clone(&all));
            info.reads_tagged = Arc::clone(&all);
        }
    }
    Analysis {
        id: next_id(),
        actions: actions.into(),
        facts: Arc::new(facts),
        statements,
        session_bound,
        opaque,
        uses_constants,
        prepares,
        missing,
    }
}

/// The smallest constant LIMIT of a SELECT.
fn limit_of(node: &Node) -> Option<u64> {
    let Some(NodeEnum::SelectStmt(select)) = &node.node else { return None };
    if select.limit_option == LimitOption::WithTies as i32 {
        return None;
    }
    match &select.limit_count.as_ref()?.node {
        Some(NodeEnum::AConst(constant)) => match constant.val.as_ref()? {
            a_const::Val::Ival(number) => u64::try_from(number.ival).ok(),
            _ => None,
        },
        _ => None,
    }
}

/// Reads statements in order; a later one may use what an earlier one prepared or declared.
pub(super) struct Reader<'a, 't> {
    pub(super) walker: Walker<'a>,
    text: &'t str,
    prepared: HashMap<String, Option<Arc<Prepared>>>,
    cursors: HashMap<String, Option<Arc<Cursor>>>,
    depth: usize,
}

/// EXPLAIN, EXECUTE and the like within each other, at most.
const MAX_NESTED: usize = 4;

impl Reader<'_, '_> {
    fn read(&mut self, raw: &RawStmt) -> StatementInfo {
        let range = range_of(raw, self.text.len());
        self.walker.reads = TagSet::default();
        self.walker.resync = Resync::default();
        self.walker.changes.only = false;
        let before = self.walker.count();
        let (opaque_before, kind) = (self.walker.opaques(), raw.stmt.as_ref().map_or("Unparsed", |node| kind_of(node)));
        let (output, effect) = match raw.stmt.as_deref() {
            Some(node) => self.statement(node, &range),
            None => self.unknown("a statement that is not known"),
        };
        if self.walker.count() == before {
            let database = self.walker.database();
            self.walker.act(ActionName::SQL_SESSION, database);
        }
        if self.walker.opaques() != opaque_before {
            // Whatever it was, it may have changed what names mean.
            self.walker.resync = Resync { names: true, catalog: true };
            self.walker.changes.only = false;
        }
        StatementInfo {
            kind,
            range,
            output,
            reads_tagged: Arc::clone(&self.walker.reads),
            effect,
            resync: self.walker.resync,
        }
    }

    fn unknown(&mut self, why: &str) -> (Output, SessionEffect) {
        self.walker.opaque(why);
        let all = self.walker.scope.tags.all();
        self.walker.saw(&all);
        (Output::Unknown(all), SessionEffect::None)
    }

    fn session(&mut self) {
        let database = self.walker.database();
        self.walker.act(ActionName::SQL_SESSION, database);
    }

    /// One statement.
    fn statement(&mut self, node: &Node, range: &Range<usize>) -> (Output, SessionEffect) {
        self.depth += 1;
        let result = if self.depth > MAX_NESTED {
            self.unknown("statements nest deeper than is analysed")
        } else {
            self.dispatch(node, range)
        };
        self.depth -= 1;
        result
    }

    fn dispatch(&mut self, node: &Node, range: &Range<usize>) -> (Output, SessionEffect) {
        let Some(kind) = &node.node else { return self.unknown("a statement that is not known") };
        match kind {
            NodeEnum::SelectStmt(select) => {
                let columns = self.walker.select(select);
                (if into(select) { Output::None } else { output(&columns) }, SessionEffect::None)
            }
            NodeEnum::InsertStmt(insert) => {
                let columns = self.walker.insert(insert);
                (returned(insert.returning_clause.is_some(), &columns), SessionEffect::None)
            }
            NodeEnum::UpdateStmt(update) => {
                let columns = self.walker.update(update);
                (returned(update.returning_clause.is_some(), &columns), SessionEffect::None)
            }
            NodeEnum::DeleteStmt(delete) => {
                let columns = self.walker.delete(delete);
                (returned(delete.returning_clause.is_some(), &columns), SessionEffect::None)
            }
            NodeEnum::MergeStmt(merge) => {
                let columns = self.walker.merge(merge);
                (returned(merge.returning_clause.is_some(), &columns), SessionEffect::None)
            }
            NodeEnum::TransactionStmt(transaction) => {
                self.session();
                if !transaction.gid.is_empty() {
                    // It outlives the session, holds locks, and can be another's.
                    let resource = self.walker.object_named("prepared transaction", &transaction.gid);
                    self.walker.act(ActionName::SQL_MAINTAIN, resource);
                }
                match transaction_of(transaction) {
                    Some(transaction) => (Output::None, SessionEffect::Transaction(transaction)),
                    None => self.unknown("a statement that is not known"),
                }
            }
            NodeEnum::VariableSetStmt(set) => {
                self.set(set);
                (Output::None, SessionEffect::None)
            }
            NodeEnum::VariableShowStmt(_) => {
                self.session();
                (Output::Unknown(TagSet::default()), SessionEffect::None)
            }
            NodeEnum::ExplainStmt(explain) => self.explain(explain, range),
            NodeEnum::PrepareStmt(prepare) => {
                self.session();
                let text: Arc<str> = self.text.get(range.clone()).unwrap_or_default().into();
                for node in &prepare.argtypes {
                    match &node.node {
                        Some(NodeEnum::TypeName(name)) => self.walker.type_name(Some(name)),
                        _ => self.walker.opaque("a type that is not known"),
                    }
                }
                let (first, _) = self.meaning(prepare.query.as_deref());
                let prepared = Arc::new(Prepared { text, first: Some(Arc::new(first)) });
                self.walker.session_bound = true;
                self.prepared.insert(prepare.name.clone(), Some(Arc::clone(&prepared)));
                (Output::None, SessionEffect::Prepare { name: prepare.name.as_str().into(), prepared })
            }
            NodeEnum::ExecuteStmt(execute) => self.execute(execute),
            NodeEnum::DeallocateStmt(deallocate) => {
                self.session();
                self.walker.session_bound = true;
                let name =
                    (!deallocate.isall && !deallocate.name.is_empty()).then(|| Arc::from(deallocate.name.as_str()));
                (Output::None, SessionEffect::Deallocate { name })
            }
            NodeEnum::DeclareCursorStmt(declare) => self.declare(declare),
            NodeEnum::FetchStmt(fetch) => self.fetch(fetch),
            NodeEnum::ClosePortalStmt(close) => {
                self.session();
                self.walker.session_bound = true;
                let name = (!close.portalname.is_empty()).then(|| Arc::from(close.portalname.as_str()));
                (Output::None, SessionEffect::Close { name })
            }
            NodeEnum::CopyStmt(copy) => self.copy(copy, range),
            NodeEnum::DiscardStmt(discard) => {
                self.session();
                self.walker.resync.names = true;
                let all = discard.target == DiscardMode::DiscardAll as i32;
                if all || discard.target == DiscardMode::DiscardTemp as i32 {
                    self.walker.discard_temporary();
                }
                if all {
                    let resource = self.walker.server(ResourceKind::Setting, "*");
                    self.walker.act(ActionName::SQL_SET, resource);
                }
                (Output::None, if all { SessionEffect::DiscardAll } else { SessionEffect::None })
            }
            NodeEnum::CreateTableAsStmt(create) => {
                self.walker.standing = create.objtype == ObjectType::ObjectMatview as i32;
                let columns = match create.query.as_deref() {
                    Some(node) => self.rows(node, range),
                    None => Columns::unknown(self.walker.scope.tags.all()),
                };
                self.walker.standing = false;
                self.walker.create_table_as(create, &columns);
                (Output::None, SessionEffect::None)
            }
            NodeEnum::ListenStmt(listen) => self.channel(&listen.conditionname),
            NodeEnum::NotifyStmt(notify) => self.channel(&notify.conditionname),
            NodeEnum::ConstraintsSetStmt(_) | NodeEnum::UnlistenStmt(_) => {
                self.session();
                (Output::None, SessionEffect::None)
            }
            NodeEnum::CallStmt(call) => match &call.funccall {
                Some(call) => {
                    let node = Node { node: Some(NodeEnum::FuncCall(call.clone())) };
                    let tags = self.walker.expression(&node).tags;
                    self.walker.opaque("a procedure");
                    (Output::Unknown(tags), SessionEffect::None)
                }
                None => self.unknown("a statement that is not known"),
            },
            NodeEnum::DoStmt(_) => self.unknown("a DO block decides when it runs what it does"),
            other => {
                if self.walker.define(other) {
                    (Output::None, SessionEffect::None)
                } else {
                    self.unknown("a statement that is not known")
                }
            }
        }
    }

    fn channel(&mut self, name: &str) -> (Output, SessionEffect) {
        let name = if name.is_empty() { "*" } else { name };
        let resource = self.walker.resource(ResourceKind::Channel, &[name]);
        self.walker.act(ActionName::SQL_NOTIFY, resource);
        (Output::None, SessionEffect::None)
    }

    fn set(&mut self, set: &VariableSetStmt) {
        let name = set.name.to_ascii_lowercase();
        self.walker.expressions_of_set(&set.args);
        match VariableSetKind::try_from(set.kind) {
            Ok(VariableSetKind::VarSetMulti) => self.session(),
            Ok(VariableSetKind::VarResetAll) => self.walker.setting("*"),
            Ok(VariableSetKind::Undefined) | Err(_) => self.walker.opaque("a SET that is not known"),
            Ok(_) if matches!(name.as_str(), "role" | "session_authorization") => {
                let role = set.args.first().and_then(super::function::constant).unwrap_or("default");
                let resource = self.walker.server(ResourceKind::Role, role);
                self.walker.act(ActionName::SQL_SET_ROLE, resource);
                self.walker.resync.names = true;
            }
            Ok(_) => self.walker.setting(&name),
        }
    }

    fn explain(&mut self, explain: &ExplainStmt, range: &Range<usize>) -> (Output, SessionEffect) {
        let analyze = option(explain, "analyze").unwrap_or(false);
        let outside = self.walker.set_aside();
        // An explained DECLARE opens nothing.
        let cursors = self.cursors.clone();
        match explain.query.as_deref() {
            Some(node) => drop(self.statement(node, range)),
            None => drop(self.unknown("a statement that is not known")),
        }
        self.cursors = cursors;
        let inside = self.walker.bring_back(outside);
        for ((name, resource, note), (columns, tags)) in inside {
            let writes = matches!(name, ActionName::SQL_INSERT | ActionName::SQL_UPDATE | ActionName::SQL_DELETE);
            // The plan alone shows what is there, and changes nothing.
            let name = if writes && !analyze { ActionName::SQL_SELECT } else { name };
            let columns: Vec<Arc<str>> = columns.into_iter().collect();
            self.walker.add(name, resource, note.as_deref(), &columns, Some(&tags));
        }
        if analyze || option(explain, "costs").unwrap_or(true) {
            // It tells how much memory values take, and how wide they are.
            let reads = Arc::clone(&self.walker.reads);
            self.walker.filter(&reads);
        }
        self.session();
        (Output::Unknown(TagSet::default()), SessionEffect::Explain { analyze })
    }

    /// Columns of a query or of EXECUTE, as CREATE TABLE AS and COPY take them.
    fn rows(&mut self, node: &Node, range: &Range<usize>) -> Columns {
        let (output, _) = self.statement(node, range);
        match output {
            Output::None => Columns::of(Vec::new()),
            Output::Columns(list) => Columns::of(list.into_iter().map(super::lineage::Col::from).collect()),
            Output::Unknown(tags) => Columns::unknown(tags),
        }
    }

    /// What a statement within another does and yields.
    fn meaning(&mut self, node: Option<&Node>) -> (Cursor, SessionEffect) {
        let outside = self.walker.set_aside();
        let before = std::mem::take(&mut self.walker.reads);
        let (output, effect) = match node {
            Some(node) => self.statement(node, &(0..0)),
            None => self.unknown("a statement that is not known"),
        };
        let actions = self.walker.copy_actions().into();
        let reads_tagged = std::mem::replace(&mut self.walker.reads, before);
        let inside = self.walker.bring_back(outside);
        self.walker.merge_actions(inside);
        self.walker.saw(&reads_tagged);
        (Cursor { output, reads_tagged, actions }, effect)
    }

    fn execute(&mut self, execute: &ExecuteStmt) -> (Output, SessionEffect) {
        self.walker.session_bound = true;
        let tags = self.walker.expressions(&execute.params);
        self.walker.saw(&tags);
        let effect = SessionEffect::Execute { name: execute.name.as_str().into() };
        let known = match self.prepared.get(&execute.name) {
            Some(own) => own.clone(),
            None => self.walker.scope.known.prepared(&execute.name),
        };
        let tree = known.as_ref().filter(|prepared| self.walker.may_parse(&prepared.text));
        let tree = tree.map(|prepared| parse(&prepared.text));
        let node = match &tree {
            Some(Ok(tree)) => inner(tree),
            _ => None,
        };
        let output = match node {
            Some(node) => {
                let (now, inner) = self.meaning(Some(node));
                if inner != SessionEffect::None {
                    self.walker.opaque("a prepared statement that acts on the session");
                }
                let first = known.as_ref().and_then(|prepared| prepared.first.as_ref());
                if first.is_some_and(|first| !first.means(&now)) {
                    self.unknown("what its names mean has changed since it was prepared");
                }
                now.output
            }
            None => {
                self.walker.missing(NO_PREPARED, || format!("prepared statement \"{}\" does not exist", execute.name));
                self.unknown("a prepared statement that is not known").0
            }
        };
        // Parameters may turn up in any column.
        (if tags.is_empty() { output } else { Output::Unknown(super::table::union(&tags, &self.walker.reads)) }, effect)
    }

    fn declare(&mut self, declare: &DeclareCursorStmt) -> (Output, SessionEffect) {
        self.walker.session_bound = true;
        let outside = self.walker.set_aside();
        let columns = match declare.query.as_deref() {
            Some(node) => self.rows(node, &(0..0)),
            None => Columns::unknown(self.walker.scope.tags.all()),
        };
        let actions = self.walker.copy_actions();
        let inside = self.walker.bring_back(outside);
        self.walker.merge_actions(inside);
        self.session();
        let cursor = Arc::new(Cursor {
            output: output(&columns),
            reads_tagged: Arc::clone(&self.walker.reads),
            actions: actions.into(),
        });
        self.cursors.insert(declare.portalname.clone(), Some(Arc::clone(&cursor)));
        let effect = SessionEffect::DeclareCursor {
            name: declare.portalname.as_str().into(),
            cursor,
            hold: declare.options & CURSOR_HOLD != 0,
            binary: declare.options & CURSOR_BINARY != 0,
        };
        (Output::None, effect)
    }

    fn fetch(&mut self, fetch: &FetchStmt) -> (Output, SessionEffect) {
        self.walker.session_bound = true;
        let known = match self.cursors.get(&fetch.portalname) {
            Some(own) => own.clone(),
            None => self.walker.scope.known.cursor(&fetch.portalname),
        };
        let effect = SessionEffect::Fetch { name: fetch.portalname.as_str().into() };
        let Some(cursor) = known else {
            self.walker.missing(NO_CURSOR, || format!("cursor \"{}\" does not exist", fetch.portalname));
            let (output, _) = self.unknown("a cursor that is not known");
            return (output, effect);
        };
        self.session();
        for action in cursor.actions.iter() {
            let columns: Vec<Arc<str>> = action.columns.iter().cloned().collect();
            self.walker.add(action.name, action.resource.clone(), action.note.as_deref(), &columns, Some(&action.tags));
        }
        self.walker.saw(&cursor.reads_tagged);
        (if fetch.ismove { Output::None } else { cursor.output.clone() }, effect)
    }

    fn copy(&mut self, copy: &CopyStmt, range: &Range<usize>) -> (Output, SessionEffect) {
        let columns =
            if let Some(query) = copy.query.as_deref() { self.rows(query, range) } else { self.copy_table(copy) };
        let direction = match (copy.filename.is_empty(), copy.is_program, copy.is_from) {
            (true, false, true) => CopyDirection::In,
            (true, false, false) => CopyDirection::Out,
            (_, program, from) => {
                let resource = self.walker.server(ResourceKind::Path, &copy.filename);
                let action = match (program, from) {
                    (true, _) => ActionName::SQL_PROGRAM,
                    (false, true) => ActionName::SQL_FILE_READ,
                    (false, false) => ActionName::SQL_FILE_WRITE,
                };
                self.walker.act(action, resource);
                if !from {
                    let tags = all_tags(&columns);
                    self.walker.leak(&tags, "copied out of the database");
                }
                CopyDirection::None
            }
        };
        // Should anything else come all the same, it is masked whole.
        let output = if direction == CopyDirection::Out { output(&columns) } else { Output::None };
        (output, SessionEffect::Copy { direction, format: CopyFormat::of(copy) })
    }

    fn copy_table(&mut self, copy: &CopyStmt) -> Columns {
        let walker = &mut self.walker;
        let relation = copy.relation.as_ref().and_then(|range| walker.relation(range));
        let Some(relation) = relation else {
            walker.opaque("a COPY of what is not known");
            return Columns::unknown(walker.scope.tags.all());
        };
        let all = walker.columns_of(relation);
        walker.foreign_below(relation);
        let named: Vec<&str> = copy.attlist.iter().filter_map(string).collect();
        let pick = |name: &&str| all.list.iter().find(|column| column.name.as_deref() == Some(*name)).cloned();
        let list: Vec<_> = if named.is_empty() { all.list.to_vec() } else { named.iter().filter_map(pick).collect() };
        if !named.is_empty() && list.len() != named.len() {
            walker.opaque("a COPY of columns that are not known");
            return Columns::unknown(walker.scope.tags.all());
        }
        let columns = Columns { list: list.into(), rest: all.rest.clone() };
        if copy.is_from {
            let names: Vec<Arc<str>> = columns.list.iter().filter_map(|column| column.name.clone()).collect();
            walker.write(ActionName::SQL_INSERT, relation, &names);
            if let Some(condition) = &copy.where_clause {
                let rte =
                    super::lineage::Rte { alias: Arc::clone(&relation.name), schema: None, columns: all, table: true };
                walker.frames.push(Frame { items: vec![super::from::item(rte)], lateral: false });
                walker.expression(condition);
                walker.frames.pop();
            }
        } else {
            walker.reads_from(relation, None);
            walker.whole(&columns);
            walker.unrestricted = true;
        }
        columns
    }
}

/// Whether an option of EXPLAIN is on, where it is given.
fn option(explain: &ExplainStmt, name: &str) -> Option<bool> {
    let given = explain.options.iter().rev().find_map(|node| match &node.node {
        Some(NodeEnum::DefElem(option)) if option.defname == name => Some(option),
        _ => None,
    })?;
    let value = given.arg.as_ref().and_then(|arg| match arg.node.as_ref()? {
        NodeEnum::String(text) => Some(text.sval.to_ascii_lowercase()),
        NodeEnum::Boolean(flag) => Some(flag.boolval.to_string()),
        NodeEnum::Integer(number) => Some(number.ival.to_string()),
        _ => None,
    });
    Some(!matches!(value.as_deref(), Some("false" | "off" | "0")))
}

fn returned(returning: bool, columns: &Columns) -> Output {
    if returning { output(columns) } else { Output::None }
}

/// Whether it makes a table: INTO stands in the first term of a set operation.
pub(super) fn into(select: &SelectStmt) -> bool {
    let mut select = select;
    while let Some(left) = &select.larg {
        select = left;
    }
    select.into_clause.is_some()
}

pub(super) fn decides_names(setting: &str) -> bool {
    setting == "*" || NAMING.contains(&setting)
}

fn transaction_of(statement: &TransactionStmt) -> Option<Transaction> {
    use TransactionStmtKind as Kind;
    let savepoint = || Arc::from(statement.savepoint_name.as_str());
    Some(match Kind::try_from(statement.kind).ok()? {
        Kind::TransStmtBegin | Kind::TransStmtStart => Transaction::Begin,
        Kind::TransStmtCommit => Transaction::Commit { chain: statement.chain },
        Kind::TransStmtRollback => Transaction::Rollback { chain: statement.chain },
        Kind::TransStmtSavepoint => Transaction::Savepoint(savepoint()),
        Kind::TransStmtRelease => Transaction::Release(savepoint()),
        Kind::TransStmtRollbackTo => Transaction::RollbackTo(savepoint()),
        Kind::TransStmtPrepare | Kind::TransStmtCommitPrepared | Kind::TransStmtRollbackPrepared => {
            Transaction::TwoPhase
        }
        Kind::Undefined => return None,
    })
}

fn range_of(raw: &RawStmt, len: usize) -> Range<usize> {
    let start = usize::try_from(raw.stmt_location).unwrap_or(0).min(len);
    let own = usize::try_from(raw.stmt_len).unwrap_or(0);
    let end = if own == 0 { len } else { start.saturating_add(own).min(len) };
    start..end
}

/// Name of the parse node of the statements that people know; `Utility` for the rest.
fn kind_of(node: &Node) -> &'static str {
    match &node.node {
        Some(NodeEnum::SelectStmt(_)) => "SelectStmt",
        Some(NodeEnum::InsertStmt(_)) => "InsertStmt",
        Some(NodeEnum::UpdateStmt(_)) => "UpdateStmt",
        Some(NodeEnum::DeleteStmt(_)) => "DeleteStmt",
        Some(NodeEnum::MergeStmt(_)) => "MergeStmt",
        Some(NodeEnum::TransactionStmt(_)) => "TransactionStmt",
        Some(NodeEnum::VariableSetStmt(_)) => "VariableSetStmt",
        Some(NodeEnum::VariableShowStmt(_)) => "VariableShowStmt",
        Some(NodeEnum::ExplainStmt(_)) => "ExplainStmt",
        Some(NodeEnum::PrepareStmt(_)) => "PrepareStmt",
        Some(NodeEnum::ExecuteStmt(_)) => "ExecuteStmt",
        Some(NodeEnum::DeallocateStmt(_)) => "DeallocateStmt",
        Some(NodeEnum::DeclareCursorStmt(_)) => "DeclareCursorStmt",
        Some(NodeEnum::FetchStmt(_)) => "FetchStmt",
        Some(NodeEnum::ClosePortalStmt(_)) => "ClosePortalStmt",
        Some(NodeEnum::CopyStmt(_)) => "CopyStmt",
        Some(NodeEnum::TruncateStmt(_)) => "TruncateStmt",
        Some(NodeEnum::DropStmt(_)) => "DropStmt",
        Some(NodeEnum::CreateStmt(_)) => "CreateStmt",
        Some(NodeEnum::AlterTableStmt(_)) => "AlterTableStmt",
        Some(NodeEnum::DoStmt(_)) => "DoStmt",
        Some(NodeEnum::CallStmt(_)) => "CallStmt",
        Some(NodeEnum::ConstraintsSetStmt(_)) => "ConstraintsSetStmt",
        Some(_) => "Utility",
        None => "Unparsed",
    }
}
