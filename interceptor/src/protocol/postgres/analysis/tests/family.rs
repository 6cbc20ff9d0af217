//! What a table has from those that it inherits from, and from those that inherit from it.

use std::fmt::Write as _;

use super::*;

/// Rules that name single columns: schema, table, column, tag.
pub(super) struct Named(pub(super) &'static [[&'static str; 4]]);

impl ColumnTags for Named {
    fn tags(&self, _: &str, _: &str, schema: &str, table: &str, column: &str) -> TagSet {
        let named = self.0.iter().filter(|rule| rule[..3] == [schema, table, column]);
        Arc::new(named.map(|rule| Arc::from(rule[3])).collect())
    }

    fn all(&self) -> TagSet {
        Arc::new(self.0.iter().map(|rule| Arc::from(rule[3])).collect())
    }
}

/// The fixture's catalog, with more rows to some of the questions; cells are parted by spaces, `-` is none.
pub(super) fn catalog(more: &[(usize, &str)]) -> Catalog {
    let mut queries: Vec<Vec<Vec<Option<String>>>> =
        serde_json::from_str(include_str!("../../testdata/catalog.json")).unwrap();
    for (query, rows) in more {
        queries[*query].extend(rows.lines().map(cells));
    }
    let mut loader = Loader::new();
    for rows in &queries {
        loader.rows(rows).unwrap();
    }
    loader.finish().unwrap()
}

fn cells(row: &str) -> Vec<Option<String>> {
    row.split_whitespace().map(|cell| (cell != "-").then(|| cell.to_owned())).collect()
}

pub(super) fn session(more: &str) -> Names {
    let base = "path pg_temp_3 - - - -\npath pg_catalog - - - -\npath public - - - -\nuser agent agent - - -\ntext on UTF8 - - -\n";
    Names::from_rows(&(base.to_owned() + more).lines().map(cells).collect::<Vec<_>>()).unwrap()
}

pub(super) fn read(text: &str, catalog: &Catalog, names: &Names, tags: &dyn ColumnTags) -> Analysis {
    let scope = Scope { target: "db", database: "shop", catalog, names, tags, known: &NothingKnown, parsed: None };
    analyze(text, &scope)
}

fn shows(analysis: &Analysis) -> String {
    output(&analysis.statements[0].output).unwrap_or_default()
}

/// `first` and `second` above `merged`, `first` alone above `other`, each with a column `x`.
const TWO_PARENTS: &[(usize, &str)] = &[
    (
        1,
        "20001 public first r - false false - - -\n20002 public second r - false false - - -\n\
         20003 public merged r - true false - - -\n20004 public other r - false false - - -",
    ),
    (
        2,
        "20001 1 x 25 false false -1\n20002 1 x 25 false false -1\n20003 1 x 25 false false -1\n20003 2 y 25 false false -1\n20004 1 x 25 false false -1",
    ),
    (7, "20003 20001\n20003 20002\n20004 20001"),
];

#[test]
fn tags_of_either_parent_are_those_of_a_child_and_of_the_other_parent() {
    let (catalog, names) = (catalog(TWO_PARENTS), Names::standard("agent"));
    let by_second = Named(&[["public", "second", "x", "pii"]]);
    for table in ["first", "second", "merged", "ONLY first"] {
        assert_eq!(shows(&read(&format!("SELECT x FROM {table}"), &catalog, &names, &by_second)), "x!pii", "{table}");
    }
    assert_eq!(shows(&read("SELECT x FROM other", &catalog, &names, &by_second)), "x");
    let by_child = Named(&[["public", "merged", "x", "pii"], ["public", "merged", "y", "card"]]);
    for table in ["first", "second", "merged"] {
        assert_eq!(shows(&read(&format!("SELECT x FROM {table}"), &catalog, &names, &by_child)), "x!pii", "{table}");
    }
    // What is quoted of a row may be of the child's own columns.
    let quoted = |text: &str| tags(&read(text, &catalog, &names, &by_child).statements[0].reads_tagged);
    assert_eq!(quoted("VACUUM second"), "!card!pii");
    assert_eq!(quoted("VACUUM other"), "");
}

#[test]
fn triggers_of_a_child_are_noted_for_its_parents() {
    let (catalog, names) = (catalog(TWO_PARENTS), Names::standard("agent"));
    let noted = |text: &str| {
        let found = read(text, &catalog, &names, &Named(&[]));
        found.actions.iter().any(|action| action.note.as_deref() == Some("triggers of the table run"))
    };
    assert!(noted("DELETE FROM second") && noted("UPDATE first SET x = 'a'") && !noted("DELETE FROM other"));
}

#[test]
fn code_of_a_child_is_that_of_a_read_of_its_parents() {
    let wipe = CATALOG.functions(&Names::standard("agent"), None, "wipe").next().unwrap().oid;
    let rows = format!("20005 public checked r - false false {wipe} - -");
    let mut more = TWO_PARENTS.to_vec();
    more.extend([(1, rows.as_str()), (2, "20005 1 x 25 false false -1"), (7, "20005 20001")]);
    let (catalog, names) = (catalog(&more), Names::standard("agent"));
    assert!(actions(&read("SELECT x FROM first", &catalog, &names, &Named(&[]))).contains("opaque public.wipe"));
    assert!(
        actions(&read("INSERT INTO checked VALUES ('a')", &catalog, &names, &Named(&[])))
            .contains("opaque public.wipe")
    );
    assert!(!read("SELECT x FROM second", &catalog, &names, &Named(&[])).opaque);
}

#[test]
fn an_heir_that_is_not_known_is_opaque() {
    let (catalog, names) = (catalog(&[(7, "29999 16425")]), Names::standard("agent"));
    let found = read("SELECT id FROM users", &catalog, &names, &Named(&[]));
    assert!(found.opaque && found.missing.is_some_and(|missing| missing.in_catalog));
}

#[test]
fn a_temporary_heir_of_this_session_is_one() {
    let catalog = catalog(&[]);
    let names = session(
        "relation 30001 pg_temp_3 mine rt -\ncolumn 30001 1 id 20 -\ncolumn 30001 2 note 25 -\ncolumn 30001 3 own 25 -\n\
         heir 30001 16425 - - -",
    );
    let rules = Named(&[["pg_temp", "mine", "note", "pii"], ["public", "users", "id", "card"]]);
    let found = read("SELECT note FROM users", &catalog, &names, &rules);
    assert_eq!(shows(&found), "note!pii");
    assert_eq!(shows(&read("SELECT id FROM mine", &catalog, &names, &rules)), "id!card");
    // Through a view, too, whose names are others.
    let found = read("SELECT name FROM user_names", &catalog, &names, &Named(&[["pg_temp", "mine", "name", "pii"]]));
    assert_eq!(shows(&found), "name!pii");
    let found = read("DELETE FROM users WHERE id = 1", &catalog, &names, &rules);
    assert!(found.actions.iter().any(|action| action.note.is_some()));
    assert_eq!(shows(&read("SELECT note FROM users", &catalog, &Names::standard("agent"), &rules)), "note");
}

#[test]
fn a_generated_column_of_a_temporary_table_has_the_tags_of_its_sources() {
    let names = session(
        "relation 30001 pg_temp_3 mine r -\ncolumn 30001 1 ssn 25 -\ncolumn 30001 2 loud 25 -\ngenerated 30001 2 1 - -",
    );
    let rules = Named(&[["pg_temp", "mine", "ssn", "pii"]]);
    assert_eq!(shows(&read("SELECT loud FROM mine", &catalog(&[]), &names, &rules)), "~loud!pii");
}

#[test]
fn what_a_child_generates_otherwise_is_what_its_parent_shows() {
    let more = [
        (1, "20001 public first r - false false - - -\n20002 public child r - false false - - -"),
        (
            2,
            "20001 1 x 25 false false -1\n20001 2 loud 25 false false -1\n20002 1 x 25 false false -1\n20002 2 loud 25 false false -1\n20002 3 y 25 false false -1",
        ),
        (7, "20002 20001"),
        (8, "20001 2 1\n20002 2 3"),
    ];
    let rules = Named(&[["public", "child", "y", "pii"]]);
    assert_eq!(shows(&read("SELECT loud FROM first", &catalog(&more), &Names::standard("agent"), &rules)), "~loud!pii");
}

#[test]
fn temporary_types_are_found_and_their_code_runs() {
    let checked = CATALOG.functions(&Names::standard("agent"), None, "checked").next().unwrap().oid;
    let names = session(&format!(
        "type 30002 short_text d 25 0\ninner 30002 {checked} - - -\ntype 30003 plain d 25 0\n\
         relation 30001 pg_temp_3 mine r -\ncolumn 30001 1 v 30002 -\n"
    ));
    let opaque = |text: &str| read(text, &catalog(&[]), &names, &Named(&[])).opaque;
    assert!(
        opaque("SELECT 'a'::short_text") && opaque("SELECT 'a'::pg_temp.short_text") && opaque("SELECT v FROM mine")
    );
    assert!(!opaque("SELECT 'a'::pg_temp_3.plain") && !opaque("SELECT 'a'::public.short_text"));
    // One of another session is not known.
    let of_another = [(2, "16453 3 odd 39999 false false -1")];
    assert!(read("SELECT id FROM audit", &catalog(&of_another), &names, &Named(&[])).opaque);
}

#[test]
fn operators_of_a_temporary_schema_are_not_those_of_the_system() {
    let names = session("");
    let opaque = |text: &str| read(text, &catalog(&[]), &names, &Named(&[])).opaque;
    assert!(opaque("SELECT 1 OPERATOR(pg_temp.=) 1") && opaque("SELECT 1 OPERATOR(pg_temp_3.=) 1"));
    assert!(opaque("SELECT 1 OPERATOR(public.=) 1") && !opaque("SELECT 1 OPERATOR(pg_catalog.=) 1"));
}

/// Looked up once for each of its columns and for each of its members, this takes minutes.
#[test]
fn a_large_tree_is_looked_through_once() {
    let (mut relations, mut columns, mut edges) = (String::new(), String::new(), String::new());
    for number in 0..4000 {
        let oid = 40_000 + number;
        writeln!(relations, "{oid} public part{number} r - false false - - -").unwrap();
        (1..=10).for_each(|at| writeln!(columns, "{oid} {at} c{at} 25 false false -1").unwrap());
        if number > 0 {
            writeln!(edges, "{oid} {}", if number < 2000 { oid - 1 } else { 40_000 }).unwrap();
        }
    }
    let catalog = catalog(&[(1, &relations), (2, &columns), (7, &edges)]);
    let rules = Named(&[["public", "part3999", "c10", "pii"], ["public", "part1999", "c9", "card"]]);
    let names = Names::standard("agent");
    assert_eq!(shows(&read("SELECT c10, c9, c8 FROM part0", &catalog, &names, &rules)), "c10!pii c9!card c8");
    assert!(!read("INSERT INTO part0 (c1) VALUES ('a')", &catalog, &names, &rules).opaque);
    assert_eq!(shows(&read("SELECT c10 FROM part3999", &catalog, &names, &rules)), "c10!pii");
}

#[test]
fn a_text_that_names_many_large_trees_is_opaque() {
    let (mut relations, mut columns, mut edges) = (String::new(), String::new(), String::new());
    for oid in 40_000..42_000 {
        writeln!(relations, "{oid} public part{oid} r - false false - - -").unwrap();
        (1..=10).for_each(|at| writeln!(columns, "{oid} {at} c{at} 25 false false -1").unwrap());
        writeln!(edges, "{oid} {}", oid - 1).unwrap();
    }
    let edges = edges.split_once('\n').unwrap().1;
    let catalog = catalog(&[(1, &relations), (2, &columns), (7, edges)]);
    let text = |count: u32| (41_000..41_000 + count).map(|oid| format!("SELECT * FROM part{oid};")).collect::<String>();
    let opaque = |text: &str| read(text, &catalog, &Names::standard("agent"), &Named(&[])).opaque;
    assert!(!opaque(&text(10)) && opaque(&text(900)));
}

#[test]
fn who_leaves_its_parent_keeps_what_rules_name() {
    let (catalog, names) = (catalog(TWO_PARENTS), Names::standard("agent"));
    let unmasks = |text: &str, rules: &Named| actions(&read(text, &catalog, &names, rules)).contains("unmask pii");
    let leave = "ALTER TABLE merged NO INHERIT second";
    assert!(unmasks(leave, &Named(&[["public", "second", "x", "pii"]])));
    assert!(unmasks("DROP TABLE merged", &Named(&[["public", "merged", "x", "pii"]])));
    // What `first` has from `second` it has through `merged` alone.
    for leave in ["DROP TABLE merged", "ALTER TABLE merged NO INHERIT first", "ALTER TABLE merged NO INHERIT second"] {
        assert!(unmasks(leave, &Named(&[["public", "second", "x", "pii"]])), "{leave}");
    }
    let both =
        Named(&[["public", "second", "x", "pii"], ["public", "first", "x", "pii"], ["public", "merged", "x", "pii"]]);
    for leave in ["DROP TABLE merged", "ALTER TABLE merged NO INHERIT first", leave, "DROP TABLE other"] {
        assert!(!unmasks(leave, &both), "{leave}");
    }
}

/// Nobody else knows them.
#[test]
fn what_is_stored_is_not_tagged_by_temporary_heirs_of_this_session() {
    let catalog = catalog(&[(1, "20001 public mine r - false false - - -"), (2, "20001 1 ssn 25 false false -1")]);
    let names = session(
        "relation 30001 pg_temp_3 heir r -\ncolumn 30001 1 ssn 25 -\nheir 30001 20001 - - -\nheir 30001 16425 - - -",
    );
    let rules = Named(&[["public", "users", "ssn", "pii"]]);
    assert_eq!(shows(&read("SELECT ssn FROM mine", &catalog, &names, &rules)), "ssn!pii");
    for text in [
        "INSERT INTO mine SELECT ssn FROM users",
        "UPDATE mine SET ssn = u.ssn FROM users u WHERE u.id = 1",
        "CREATE MATERIALIZED VIEW kept AS SELECT ssn FROM mine",
        "REFRESH MATERIALIZED VIEW user_copy",
        "ALTER TABLE heir NO INHERIT users",
    ] {
        assert!(actions(&read(text, &catalog, &names, &rules)).contains("unmask pii"), "{text}");
    }
    for text in ["INSERT INTO heir SELECT ssn FROM users", "CREATE VIEW seen AS SELECT ssn FROM mine"] {
        assert!(!actions(&read(text, &catalog, &names, &rules)).contains("unmask pii"), "{text}");
    }
    assert!(
        !actions(&read("REFRESH MATERIALIZED VIEW user_copy", &catalog, &Names::standard("a"), &rules))
            .contains("unmask pii")
    );
}
