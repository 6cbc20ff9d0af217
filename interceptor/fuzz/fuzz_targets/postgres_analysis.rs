//! Any text of SQL is analysed, in bounded time; what the analysis says holds for every text of the same shape, where it
//! says so.
#![no_main]

use std::sync::{Arc, LazyLock};

use interceptor::policy::TagSet;
use interceptor::protocol::postgres::analysis::{ColumnTags, NothingKnown, Output, Scope};
use interceptor::protocol::postgres::catalog::{Catalog, Loader, Names};
use interceptor::protocol::postgres::fuzz;

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let queries: Vec<Vec<Vec<Option<String>>>> =
        serde_json::from_str(include_str!("../../src/protocol/postgres/testdata/catalog.json")).expect("JSON");
    let mut loader = Loader::new();
    queries.iter().for_each(|rows| loader.rows(rows).expect("rows of the query"));
    loader.finish().expect("a whole catalog")
});

struct Tags;

impl ColumnTags for Tags {
    fn tags(&self, _: &str, _: &str, _: &str, table: &str, column: &str) -> TagSet {
        if (table, column) == ("users", "ssn") { self.all() } else { TagSet::default() }
    }

    fn all(&self) -> TagSet {
        Arc::new([Arc::from("pii")].into())
    }
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let names = Names::standard("agent");
    let scope =
        Scope { target: "db", database: "shop", catalog: &CATALOG, names: &names, tags: &Tags, known: &NothingKnown, parsed: None };
    let analysis = fuzz::analysis(text, &scope);
    // Without an action there would be nothing to judge.
    assert!(!analysis.actions.is_empty());
    for statement in &analysis.statements {
        assert!(text.get(statement.range.clone()).is_some(), "{statement:?}");
        let Output::Columns(columns) = &statement.output else { continue };
        for column in columns.iter().filter(|column| !column.tags.is_empty()) {
            assert!(column.tags.is_subset(&statement.reads_tagged), "{statement:?}");
        }
    }
    let opaque = analysis.actions.iter().any(|action| action.name.as_str() == "sql:opaque");
    assert_eq!(analysis.opaque, opaque, "{:?}", analysis.actions);
});
