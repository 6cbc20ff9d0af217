//! Tests of the catalog: what is found where, and that nothing unexpected is read.

use std::sync::Arc;

use super::{Catalog, LoadError, Loader, Names, QUERIES, Relation, RelationKind};

fn load() -> Catalog {
    let queries: Vec<Vec<Vec<Option<String>>>> =
        serde_json::from_str(include_str!("../testdata/catalog.json")).expect("the fixture is JSON");
    let mut loader = Loader::new();
    for rows in &queries {
        loader.rows(rows).unwrap();
    }
    loader.finish().unwrap()
}

#[test]
fn names_are_found_along_the_path() {
    let catalog = load();
    let mut names = Names::standard("agent");
    assert_eq!(&*catalog.resolve(&names, None, "orders").unwrap().schema, "public");
    names.search_path.insert(0, "sales".into());
    assert_eq!(&*catalog.resolve(&names, None, "orders").unwrap().schema, "sales");
    assert!(catalog.resolve(&names, None, "Orders").is_none());
    assert_eq!(catalog.resolve(&names, None, "user_copy").unwrap().kind, RelationKind::Materialized);
    assert_eq!(catalog.functions(&names, None, "lower").filter(|found| !found.builtin()).count(), 0);
    names.search_path.push("evil".into());
    assert_eq!(catalog.functions(&names, None, "lower").filter(|found| !found.builtin()).count(), 1);
}

#[test]
fn inheritance_goes_both_ways() {
    let catalog = load();
    let names = Names::standard("agent");
    let parent = catalog.resolve(&names, None, "events").unwrap().oid;
    let child = catalog.resolve(&names, None, "events_2024").unwrap().oid;
    let oids = |relations: &[&Relation]| relations.iter().map(|relation| relation.oid).collect::<Vec<_>>();
    let (of_parent, of_child) = (catalog.tree(&names, parent), catalog.tree(&names, child));
    assert_eq!((oids(&of_parent.below), oids(&of_parent.above)), (vec![child], vec![]));
    assert_eq!((oids(&of_child.below), oids(&of_child.above)), (vec![], vec![parent]));
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let row = |cells: &[&str]| vec![cells.iter().map(|cell| Some((*cell).to_owned())).collect::<Vec<_>>()];
    let mut loader = Loader::new();
    loader.rows(&row(&["public"])).unwrap();
    assert_eq!(loader.rows(&row(&["1", "public", "t", "?", "", "f", "f", ""])), Err(LoadError::Row(1)));
    assert_eq!(Loader::new().finish().err(), Some(LoadError::Unfinished(0)));
    assert_eq!(Loader::new().rows(&row(&[&"x".repeat(super::MAX_CELL + 1)])), Err(LoadError::TooMuch(0)));
    assert!(Names::from_rows(&row(&["path", "public"])).is_err());
    assert!(Names::from_rows(&row(&["user", "a", "b", "x"])).is_err());
    assert_eq!(QUERIES.len(), 18);
    assert_eq!(Names::standard("a").search_path.first(), Some(&Arc::from("pg_catalog")));
}
