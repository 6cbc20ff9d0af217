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

pub(super) fn parted(more: &[(usize, &str)]) -> Catalog {
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
    assert!(filters(&parted(&[(12, "20002 1 -")])));
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
    assert!(filters(text, &[(12, "20004 1 -")]) && !filters(text, &[]));
    // By the columns of that one, if it is known.
    let other =
        [(2, "20004 2 id 23 true false -1"), (12, "20004 1 plain_ssn_key\n20004 1 -\n20004 2 k\n20004 2 plain_pkey")];
    assert!(!filters(text, &other) && filters("ALTER TABLE plain VALIDATE CONSTRAINT plain_ssn_key", &other));
    assert!(filters("ALTER TABLE plain VALIDATE CONSTRAINT unknown", &other));
    assert!(filters(text, &[(12, "20004 0 k")]), "a check of the whole row");
    let pair = |check: &str| {
        format!("ALTER TABLE plain ADD CONSTRAINT n CHECK ({check}) NOT VALID; ALTER TABLE plain VALIDATE CONSTRAINT n")
    };
    assert!(!filters(&pair("id > 0"), &other) && filters(&pair("ssn > 'm'"), &other));
    // Whether values are NULL is no secret.
    assert!(!filters(
        "ALTER TABLE plain VALIDATE CONSTRAINT n",
        &[other[0], (12, "20004 1 plain_ssn_key\n20004 -1 n")]
    ));
    // What a foreign key refers to is asked, too.
    let key = [(2, "20003 3 id 23 true false -1"), (12, "20003 3 k"), (14, "20003 20004 k 3 1 aa -")];
    assert!(filters("ALTER TABLE folk VALIDATE CONSTRAINT k", &key));
    assert!(!filters("ALTER TABLE folk VALIDATE CONSTRAINT k", &key[..2]));
}

/// A constraint that was not enforced (18) is checked for all rows once it is.
#[test]
fn to_enforce_a_constraint_asks_the_rows() {
    let rules = Named(&[["public", "plain", "ssn", "pii"]]);
    let filters = |text: &str| {
        read(text, &parted(&[(12, "20004 1 k")]), &Names::standard("agent"), &rules).facts.filters_on_masked
    };
    assert!(filters("ALTER TABLE plain ALTER CONSTRAINT k ENFORCED"));
    for text in ["NOT ENFORCED", "DEFERRABLE INITIALLY DEFERRED", "NOT DEFERRABLE"] {
        assert!(!filters(&format!("ALTER TABLE plain ALTER CONSTRAINT k {text}")), "{text}");
    }
}

#[test]
fn what_is_generated_in_a_partition_is_generated_in_others() {
    let by_parent = Named(&[["public", "mine", "ssn", "pii"]]);
    let columns = "20001 3 loud 25 false false -1\n20002 3 loud 25 false false -1\n20003 3 loud 25 false false -1";
    let attach = "ALTER TABLE mine ATTACH PARTITION folk FOR VALUES IN ('a')";
    let generated = "20001 3 1\n20002 3 1\n20003 3 1";
    assert!(!unmasks(attach, &parted(&[(2, columns), (8, generated)]), &by_parent));
    // By what no rule names there.
    let by_child = Named(&[["public", "folk", "ssn", "pii"]]);
    assert!(unmasks(attach, &parted(&[(2, columns), (8, generated)]), &by_child));
    assert!(unmasks(attach, &parted(&[(2, columns), (8, "20003 3 1")]), &by_child));
    // A key is updated of a table with more partitions than are compared.
    let oids = 40_000..40_600;
    let lines = |of: fn(u32) -> String| oids.clone().map(of).collect::<Vec<_>>().join("\n");
    let many = [
        (1, lines(|oid| format!("{oid} public part{oid} r - false false - - -"))),
        (
            2,
            lines(|oid| {
                format!("{oid} 1 ssn 25 false false -1\n{oid} 2 day 25 false false -1\n{oid} 3 loud 25 false false -1")
            }),
        ),
        (7, lines(|oid| format!("{oid} 20001"))),
        (8, lines(|oid| format!("{oid} 3 1"))),
    ];
    let mut more = vec![(2, columns), (8, generated)];
    more.extend(many.iter().map(|(query, rows)| (*query, rows.as_str())));
    let text = "UPDATE mine SET day = 'b'";
    assert!(!unmasks(text, &parted(&more), &by_parent));
    assert!(unmasks(text, &parted(&more), &Named(&[["public", "part40001", "ssn", "pii"]])));
}

#[test]
fn a_row_is_put_into_the_table_itself_unless_that_is_partitioned() {
    let tables = "21001 public upper r - false false - - -\n21002 public lower r - false false - - -";
    let columns = "21001 1 ssn 25 false false -1\n21001 2 id 23 true false -1\n21002 1 ssn 25 false false -1\n21002 2 id 23 true false -1";
    let more = [(1, tables), (2, columns), (7, "21002 21001"), (12, "21002 1 lower_ssn_key")];
    let rules = Named(&[
        ["public", "upper", "ssn", "pii"],
        ["public", "folk", "ssn", "pii"],
        ["public", "mine", "ssn", "card"],
    ]);
    let catalog = parted(&more);
    for text in [
        "INSERT INTO upper SELECT ssn FROM folk",
        "INSERT INTO upper SELECT ssn, 1 FROM folk ON CONFLICT (id) DO UPDATE SET ssn = excluded.ssn",
    ] {
        let found = read(
            text,
            &catalog,
            &Names::standard("agent"),
            &Named(&[["public", "lower", "ssn", "pii"], ["public", "folk", "ssn", "pii"]]),
        );
        assert!(!actions(&found).contains("unmask pii") && !found.facts.filters_on_masked, "{text}");
        assert!(!unmasks(text, &catalog, &rules), "{text}");
    }
    // An update can be of the rows of either.
    assert!(!unmasks("UPDATE upper SET ssn = f.ssn FROM folk f", &catalog, &rules));
    let by_lower = Named(&[["public", "lower", "ssn", "pii"], ["public", "folk", "ssn", "pii"]]);
    let found = read("UPDATE upper SET ssn = f.ssn FROM folk f", &catalog, &Names::standard("agent"), &by_lower);
    assert!(found.facts.filters_on_masked);
    // No row moves to another partition for a conflict, and what was given is no secret.
    let attached = parted(&[
        (2, "20001 3 id 23 true false -1\n20002 3 id 23 true false -1\n20003 3 id 23 true false -1"),
        (7, "20003 20001"),
    ]);
    let by_child = Named(&[["public", "folk", "ssn", "pii"]]);
    let upsert = |values: &str, set: &str| {
        format!("INSERT INTO mine (ssn, day, id) {values} ON CONFLICT (id, day) DO UPDATE SET {set}")
    };
    for set in ["ssn = excluded.ssn", "ssn = excluded.ssn, day = excluded.day, id = excluded.id", "day = 'b'"] {
        assert!(!unmasks(&upsert("VALUES ($1, $2, $3)", set), &attached, &by_child), "{set}");
    }
    for set in ["day = mine.ssn", "ssn = (SELECT max(ssn) FROM folk)"] {
        assert!(unmasks(&upsert("VALUES ($1, $2, $3)", set), &attached, &by_child), "{set}");
    }
    assert!(unmasks(&upsert("SELECT 'x', ssn, 1 FROM folk", "day = excluded.day"), &attached, &by_child));
    assert!(unmasks("UPDATE mine SET day = 'b'", &attached, &by_child));
    // Of a column that is put together, each part counts.
    let parts = "INSERT INTO mine (ssn[1], ssn[2], id) VALUES ('x', (SELECT ssn FROM mine LIMIT 1), 1) \
                 ON CONFLICT (id) DO UPDATE SET day = excluded.ssn";
    let named = Named(&[["public", "mine", "ssn", "pii"]]);
    assert!(
        read(parts, &attached, &Names::standard("agent"), &named).actions.iter().any(|action| {
            action.name == ActionName::UNMASK && action.note.as_deref() == Some("copied into mine.day")
        })
    );
}

/// As `pg_dump` writes it for each index of a partitioned table.
#[test]
fn an_index_becomes_part_of_another() {
    let (catalog, names) = (parted(&[]), Names::standard("agent"));
    let rules = Named(&[["public", "mine", "ssn", "pii"]]);
    let text = "ALTER INDEX public.mine_pkey ATTACH PARTITION public.mine_d_pkey";
    for text in [text.to_owned(), format!("{text}; CREATE INDEX ON plain (ssn)")] {
        let found = read(&text, &catalog, &names, &rules);
        assert!(!found.opaque && !found.facts.filters_on_masked, "{text} {:?}", found.actions);
        assert!(
            actions(&found).contains("alter index/mine_pkey") && actions(&found).contains("alter index/mine_d_pkey")
        );
    }
    assert!(read("ALTER TABLE mine ATTACH PARTITION gone DEFAULT", &catalog, &names, &rules).opaque);
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
    assert!(filters(&[(12, "20001 1 -")]) && !filters(&[]));
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
