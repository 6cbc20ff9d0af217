//! Values that are moved within a tree to where no rule names them; code that is there for servers alone; references of a
//! table to itself.

use super::family::{Named, catalog, read, session};
use super::*;

/// `mine`, partitioned by `day`, above `mine_d`; `folk` beside it, and a table `plain` below nothing.
const PARTED: &[(usize, &str)] = &[
    (
        1,
        "20001 public mine p - false false - - -\n20002 public mine_d r - false false - - -\n\
         20003 public folk r - false false - - -\n20004 public plain r - false false - - -",
    ),
    (
        2,
        "20001 1 ssn 25 false false -1\n20001 2 day 25 false true -1\n20002 1 ssn 25 false false -1\n\
         20002 2 day 25 false false -1\n20003 1 ssn 25 false false -1\n20003 2 day 25 false false -1\n\
         20004 1 ssn 25 false false -1",
    ),
    (7, "20002 20001"),
];

fn parted(more: &[(usize, &str)]) -> Catalog {
    catalog(&[PARTED, more].concat())
}

fn unmasks(text: &str, catalog: &Catalog, rules: &Named) -> bool {
    actions(&read(text, catalog, &Names::standard("agent"), rules)).contains("unmask pii")
}

#[test]
fn a_partition_brings_no_tags_that_others_would_lack() {
    let by_child = Named(&[["public", "folk", "ssn", "pii"]]);
    let by_parent = Named(&[["public", "folk", "ssn", "pii"], ["public", "mine", "ssn", "pii"]]);
    let attach = "ALTER TABLE mine ATTACH PARTITION folk FOR VALUES IN ('a')";
    assert!(unmasks(attach, &parted(&[]), &by_child));
    assert!(!unmasks(attach, &parted(&[]), &by_parent));
    let attached = parted(&[(7, "20003 20001")]);
    for text in [
        "INSERT INTO mine SELECT ssn, 'b' FROM folk",
        "UPDATE mine SET ssn = f.ssn FROM folk f",
        "UPDATE mine SET day = 'b'",
    ] {
        assert!(unmasks(text, &attached, &by_child), "{text}");
        assert!(!unmasks(text, &attached, &by_parent), "{text}");
    }
    for text in ["UPDATE folk SET ssn = ssn", "INSERT INTO folk SELECT ssn, 'a' FROM folk", "UPDATE mine SET ssn = 'x'"]
    {
        assert!(!unmasks(text, &attached, &by_child), "{text}");
    }
}

#[test]
fn what_a_partition_refuses_its_parent_does() {
    let rules = Named(&[["public", "mine", "ssn", "pii"], ["public", "plain", "ssn", "pii"]]);
    let filters = |catalog: &Catalog| {
        read("INSERT INTO mine (ssn) SELECT ssn FROM plain", catalog, &Names::standard("agent"), &rules)
            .facts
            .filters_on_masked
    };
    assert!(!filters(&parted(&[])));
    assert!(filters(&parted(&[(12, "20002 1")])));
}

#[test]
fn what_was_generated_stays_tagged() {
    let more = [
        (1, "20005 public made r - false false - - -"),
        (2, "20005 1 ssn 25 false false -1\n20005 2 loud 25 false false -1"),
        (8, "20005 2 1"),
    ];
    let catalog = parted(&more);
    let by_source = Named(&[["public", "made", "ssn", "pii"]]);
    let by_both = Named(&[["public", "made", "ssn", "pii"], ["public", "made", "loud", "pii"]]);
    let text = "ALTER TABLE made ALTER COLUMN loud DROP EXPRESSION";
    assert!(unmasks(text, &catalog, &by_source) && !unmasks(text, &catalog, &by_both));
    assert!(!unmasks("ALTER TABLE made ALTER COLUMN loud DROP DEFAULT", &catalog, &by_source));
}

#[test]
fn to_validate_a_constraint_asks_the_rows() {
    let rules = Named(&[["public", "plain", "ssn", "pii"]]);
    let filters = |text: &str, more: &[(usize, &str)]| {
        read(text, &parted(more), &Names::standard("agent"), &rules).facts.filters_on_masked
    };
    let text = "ALTER TABLE plain VALIDATE CONSTRAINT k";
    assert!(filters(text, &[(12, "20004 1")]) && !filters(text, &[]));
}

#[test]
fn code_is_that_of_a_table_and_of_those_below() {
    let wipe = CATALOG.functions(&Names::standard("agent"), None, "wipe").next().unwrap().oid;
    let rows = format!("20011 public upper r - true false {wipe} - -\n20012 public lower r - false false - - -");
    let parts = format!("20021 public keyed p - false false {wipe} - -\n20022 public part r - false false - - -");
    let columns = "20011 1 x 25 false false -1\n20012 1 x 25 false false -1\n20021 1 x 25 false true -1\n20022 1 x 25 false false -1";
    let catalog = parted(&[(1, &rows), (1, &parts), (2, columns), (7, "20012 20011\n20022 20021")]);
    let opaque = |text: &str| read(text, &catalog, &Names::standard("agent"), &Named(&[])).opaque;
    assert!(opaque("SELECT x FROM upper") && opaque("SELECT x FROM keyed"));
    for text in ["SELECT x FROM lower", "INSERT INTO lower VALUES ('a')", "DELETE FROM lower", "SELECT x FROM part"] {
        assert!(!opaque(text), "{text}");
    }
    // Whether the row fits is computed; the same where a partition is made.
    assert!(opaque("INSERT INTO part VALUES ('a')"));
    assert!(opaque("CREATE TABLE other PARTITION OF keyed FOR VALUES IN ('b')"));
    assert!(!opaque("CREATE TABLE other PARTITION OF mine FOR VALUES IN ('b')"));
    let found = read("DELETE FROM lower", &catalog, &Names::standard("agent"), &Named(&[]));
    assert!(found.actions.iter().all(|action| action.note.as_deref() != Some("triggers of the table run")));
}

#[test]
fn foreign_tables_are_asked_for_statistics_alone() {
    let more = [
        (1, "20031 public far f - false false - - -\n20032 public near r - false false - - -"),
        (1, "20033 public alone f - false false - - -"),
        (2, "20031 1 x 25 false false -1\n20032 1 x 25 false false -1\n20033 1 x 25 false false -1"),
    ];
    let opaque = |text: &str, more: &[(usize, &str)]| {
        read(text, &parted(more), &Names::standard("agent"), &Named(&[])).actions.iter().any(|action| {
            action.resource.path.last().is_some_and(|name| matches!(&**name, "far" | "alone"))
                && action.name == ActionName::SQL_OPAQUE
        })
    };
    let below = [more.as_slice(), &[(7, "20031 20032")]].concat();
    for text in ["VACUUM", "ANALYZE", "VACUUM near", "VACUUM (ANALYZE) near", "REINDEX TABLE near", "TRUNCATE near"] {
        assert!(!opaque(text, &more), "{text}");
    }
    for text in ["VACUUM", "VACUUM near", "REINDEX TABLE near", "CLUSTER near USING near_pkey"] {
        assert!(!opaque(text, &below), "{text}");
    }
    for text in [
        "ANALYZE",
        "ANALYZE near",
        "VACUUM ANALYZE",
        "VACUUM (VERBOSE, ANALYZE) near",
        "ANALYZE alone",
        "TRUNCATE near",
    ] {
        assert!(opaque(text, &below), "{text}");
    }
}

#[test]
fn to_keep_a_table_in_order_runs_its_indexes_alone() {
    let wipe = CATALOG.functions(&Names::standard("agent"), None, "wipe").next().unwrap().oid;
    let rows =
        format!("20041 public defaulted r - false false {wipe} - -\n20042 public indexed r - false false {wipe} - -");
    let (columns, kept) = ("20041 1 x 25 false false -1\n20042 1 x 25 false false -1", format!("20042 {wipe} - -"));
    let opaque = |text: &str, kept: &str| {
        let catalog = parted(&[(1, &rows), (2, columns), (13, kept)]);
        actions(&read(text, &catalog, &Names::standard("agent"), &Named(&[]))).contains("opaque public.wipe")
    };
    assert!(opaque("SELECT x FROM defaulted", &kept) && opaque("INSERT INTO defaulted VALUES ('a')", &kept));
    for text in ["VACUUM defaulted", "ANALYZE defaulted", "REINDEX TABLE defaulted"] {
        assert!(!opaque(text, &kept), "{text}");
    }
    for text in ["VACUUM indexed", "ANALYZE indexed", "REINDEX TABLE indexed", "VACUUM"] {
        assert!(opaque(text, &kept), "{text}");
    }
}

/// As large extensions have them: declared with nothing, which is volatile.
#[test]
fn support_functions_of_extensions_only_compute() {
    let functions = "21001 public shape_analyze v false c shapes\n21002 public shape_sort v false c shapes\n\
                     21003 public shape_code v false plpgsql shapes\n21004 public own_sort v false c -\n\
                     21005 public shape_eq v false c shapes";
    let types = |function: &str| format!("21000 public shape b 0 0 {function} - -");
    let columns = "20004 2 form 21000 false false -1";
    let opaque = |function: &str, members: &str| {
        let catalog = parted(&[(3, functions), (5, &types(function)), (2, columns), (9, members)]);
        read("SELECT form FROM plain ORDER BY form", &catalog, &Names::standard("agent"), &Named(&[])).opaque
    };
    assert!(!opaque("21001", "0 21000 21000 21001 -"));
    assert!(!opaque("-", "21010 21000 21000 21002 -"));
    // What has a symbol is called by it, and what is not of C or of an extension can be anything.
    assert!(opaque("-", "21010 21000 21000 21005 ="));
    assert!(opaque("21003", "0 21000 21000 21003 -"));
    assert!(opaque("-", "21010 21000 21000 21004 -"));
    assert!(opaque("21001", ""));
}

#[test]
fn a_cast_is_one_from_the_type_that_somebody_made() {
    let wipe = CATALOG.functions(&Names::standard("agent"), None, "wipe").next().unwrap().oid;
    let types = "21000 public shape b 0 0 - - -\n21100 public layer b 0 0 - - -";
    let columns = "20004 2 form 21000 false false -1\n20003 3 layer 21100 false false -1";
    let opaque = |text: &str, casts: &str| {
        let catalog = parted(&[(5, types), (2, columns), (6, casts)]);
        read(text, &catalog, &Names::standard("agent"), &Named(&[])).opaque
    };
    let between = format!("21100 21000 {wipe}");
    assert!(opaque("SELECT layer FROM folk", &between) && !opaque("SELECT form FROM plain", &between));
    let from_text = format!("25 21000 {wipe}");
    assert!(opaque("SELECT form FROM plain", &from_text) && opaque("SELECT ssn::shape FROM plain", &from_text));
    assert!(opaque("SELECT form FROM plain", &format!("21000 25 {wipe}")));
}

#[test]
fn a_table_refers_to_itself_whatever_else_there_is() {
    let texts = [
        "CREATE TABLE node (id int PRIMARY KEY, up int REFERENCES node, other int REFERENCES node (id))",
        "CREATE TABLE public.node (id int PRIMARY KEY, up int, FOREIGN KEY (up) REFERENCES public.node)",
        "CREATE TEMP TABLE node (id int PRIMARY KEY, up int REFERENCES node)",
    ];
    let triggered = parted(&[(11, "note")]);
    let heirs = session("relation 30001 pg_temp_3 beside r -\ncolumn 30001 1 x 25 -\n");
    for text in texts {
        for (catalog, names) in [(&triggered, &Names::standard("agent")), (&parted(&[]), &heirs)] {
            let found = read(text, catalog, names, &Named(&[]));
            assert!(!found.opaque && found.missing.is_none(), "{text} {:?}", actions(&found));
        }
    }
    let other = "CREATE TABLE node (id int PRIMARY KEY, up int REFERENCES nodes)";
    assert!(read(other, &triggered, &Names::standard("agent"), &Named(&[])).opaque);
    // One of that name is there, and is found first.
    let rules = Named(&[["pg_temp", "node", "id", "pii"]]);
    let hidden = session("relation 30001 pg_temp_3 node r -\ncolumn 30001 1 id 25 p:-1\n");
    assert!(read(texts[0], &parted(&[]), &hidden, &rules).facts.filters_on_masked);
}

#[test]
fn a_key_that_the_text_has_made_is_what_is_referred_to() {
    let rules = Named(&[["public", "plain", "ssn", "pii"]]);
    let catalog = parted(&[(2, "20004 2 id 23 true false -1")]);
    let filters = |text: &str| read(text, &catalog, &Names::standard("agent"), &rules).facts.filters_on_masked;
    let refers = "CREATE TABLE one (a int REFERENCES plain); CREATE TABLE two (a int REFERENCES plain)";
    assert!(!filters(refers));
    let swapped = "ALTER TABLE plain DROP CONSTRAINT k, ADD CONSTRAINT j PRIMARY KEY USING INDEX i";
    assert!(filters(&format!("{swapped}; {refers}")));
}

#[test]
fn a_partition_is_asked_by_the_indexes_of_its_parent() {
    let rules = Named(&[["public", "folk", "ssn", "pii"], ["public", "mine", "ssn", "pii"]]);
    let filters = |more: &[(usize, &str)]| {
        let text = "ALTER TABLE mine ATTACH PARTITION folk FOR VALUES IN ('a')";
        read(text, &parted(more), &Names::standard("agent"), &rules).facts.filters_on_masked
    };
    assert!(filters(&[(12, "20001 1")]) && !filters(&[]));
}

#[test]
fn event_triggers_see_what_is_made_of_queries() {
    let rules = Named(&[["public", "plain", "ssn", "pii"]]);
    let saw = |text: &str, catalog: &Catalog| {
        !read(text, catalog, &Names::standard("agent"), &rules).statements[0].reads_tagged.is_empty()
    };
    for text in
        ["CREATE TABLE copy AS SELECT 1 AS x", "SELECT 1 AS x INTO copy", "CREATE MATERIALIZED VIEW v AS SELECT 1 AS x"]
    {
        assert!(saw(text, &parted(&[(11, "note")])) && !saw(text, &parted(&[])), "{text}");
    }
}

#[test]
fn what_the_text_has_made_holds_nothing_yet() {
    let rules = Named(&[["public", "folk", "ssn", "pii"]]);
    let text = "CREATE TABLE fresh (id int); ALTER TABLE fresh ADD CONSTRAINT c CHECK (id > 0) NOT VALID; \
                ALTER TABLE fresh VALIDATE CONSTRAINT c";
    let found = read(text, &parted(&[]), &Names::standard("agent"), &rules);
    assert!(!found.facts.filters_on_masked && !found.opaque);
    let attach = "CREATE TABLE other (ssn text, day text) PARTITION BY LIST (day); \
                  ALTER TABLE other ATTACH PARTITION folk FOR VALUES IN ('a')";
    assert!(unmasks(attach, &parted(&[]), &rules));
}

#[test]
fn a_new_partition_asks_no_other_server() {
    let more = [(1, "20006 public cold f - false false - - -"), (7, "20006 20001")];
    let text = "CREATE TABLE other PARTITION OF mine FOR VALUES IN ('b')";
    assert!(!read(text, &parted(&more), &Names::standard("agent"), &Named(&[])).opaque);
}
