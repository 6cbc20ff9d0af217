//! SQL as `sqlparser` reads it: an independent second opinion on what a text touches, and what dialects without a
//! parser of their own stand on.
//!
//! It names tables and tells reads from writes. It does not resolve names, follow views or know functions, and never
//! decides anything: where it disagrees with a verdict, a test fails.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    FromTable, Insert, ObjectName, ObjectNamePart, Query, Statement, TableFactor, TableObject, TableWithJoins, Visit,
    Visitor,
};
use sqlparser::dialect::Dialect;
use sqlparser::parser::Parser;

/// Bytes of a text that is read, at most.
pub const MAX_TEXT: usize = 1 << 20;

/// Depth of nesting that is read, at most.
const MAX_DEPTH: usize = 50;

/// What a text touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Every relation that is named, but for common table expressions.
    pub relations: BTreeSet<Vec<String>>,
    /// Those that are written, dropped, emptied or altered.
    pub written: BTreeSet<Vec<String>>,
    /// Statements.
    pub statements: usize,
}

/// Reads a text; `None` where this parser cannot.
#[must_use]
pub fn read(text: &str, dialect: &dyn Dialect) -> Option<Reading> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let parser = Parser::new(dialect).with_recursion_limit(MAX_DEPTH);
    let statements = parser.try_with_sql(text).ok()?.parse_statements().ok()?;
    let mut reader = Reader::default();
    let _ = statements.visit(&mut reader);
    reader.reading.statements = statements.len();
    let (ctes, called) = (reader.ctes, reader.called);
    // A name that some WITH defines may mean that: it is no disagreement.
    let defined = |name: &[String]| matches!(name, [one] if ctes.contains(one));
    reader.reading.relations.retain(|name| !defined(name) && !called.contains(name));
    Some(reader.reading)
}

#[derive(Default)]
struct Reader {
    reading: Reading,
    ctes: BTreeSet<String>,
    /// Functions that stand where a relation could.
    called: BTreeSet<Vec<String>>,
}

impl Reader {
    fn write(&mut self, name: &ObjectName) {
        self.reading.written.insert(parts(name));
    }

    fn write_factor(&mut self, factor: &TableFactor) {
        if let TableFactor::Table { name, .. } = factor {
            self.write(name);
        }
    }

    fn write_joins(&mut self, table: &TableWithJoins) {
        self.write_factor(&table.relation);
    }
}

impl Visitor for Reader {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        self.reading.relations.insert(parts(relation));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: Some(_), .. } = factor {
            self.called.insert(parts(name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.ctes.insert(folded(&cte.alias.name.value, cte.alias.name.quote_style.is_some()));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        match statement {
            Statement::Insert(Insert { table: TableObject::TableName(name), .. }) => self.write(name),
            Statement::Update(update) => self.write_joins(&update.table),
            Statement::Delete(delete) => {
                let (FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables)) = &delete.from;
                for table in tables {
                    self.write_joins(table);
                }
            }
            Statement::Merge(merge) => self.write_factor(&merge.table),
            Statement::Truncate(truncate) => {
                for table in &truncate.table_names {
                    self.write(&table.name);
                }
            }
            Statement::AlterTable(alter) => self.write(&alter.name),
            Statement::Drop { object_type: sqlparser::ast::ObjectType::Table, names, .. } => {
                for name in names {
                    self.write(name);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The parts of a name, folded to lower case where they are not quoted.
fn parts(name: &ObjectName) -> Vec<String> {
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(ident) => folded(&ident.value, ident.quote_style.is_some()),
        ObjectNamePart::Function(function) => function.name.value.clone(),
    };
    name.0.iter().map(part).collect()
}

fn folded(name: &str, quoted: bool) -> String {
    if quoted { name.replace("\"\"", "\"") } else { name.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use sqlparser::dialect::PostgreSqlDialect;

    use super::read;

    #[test]
    fn tells_reads_from_writes() {
        let reading =
            read("WITH c AS (SELECT 1) INSERT INTO \"A\".b SELECT * FROM X.y, c, f(1)", &PostgreSqlDialect {}).unwrap();
        let name = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        assert_eq!(reading.written, [name(&["A", "b"])].into());
        assert_eq!(reading.relations, [name(&["A", "b"]), name(&["x", "y"])].into());
    }

    #[test]
    fn what_it_cannot_read_is_nothing() {
        assert_eq!(read("SELEC 1", &PostgreSqlDialect {}), None);
        assert_eq!(read(&"(".repeat(10_000), &PostgreSqlDialect {}), None);
        assert_eq!(read(&"x".repeat(super::MAX_TEXT + 1), &PostgreSqlDialect {}), None);
    }
}
