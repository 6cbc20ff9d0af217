//! Columns that get a tag after views or row policies were made to filter by them.

use super::family::{Named, catalog, read, session};
use super::laundered::parted;
use super::*;
use crate::protocol::postgres::analysis::lineage::ADDED;

/// `bait`, and `plain_view (id, k)` of no tags.
const BAIT: &[(usize, &str)] = &[
    (1, "23001 public bait r - false false - - -\n23002 public stash r - false false - - -"),
    (2, "23001 1 pos 23 false false -1\n23001 2 ch 25 false false -1\n23002 1 k 25 false false -1"),
];

const RULES: Named = Named(&[
    ["public", "users", "ssn", "pii"],
    ["public", "stash", "ssn", "pii"],
    ["public", "loot", "k", "pii"],
    ["sales", "stash", "k", "pii"],
]);

fn filters(text: &str) -> bool {
    let found = read(text, &catalog(BAIT), &Names::standard("agent"), &RULES);
    assert!(!found.opaque, "{text} {:?}", actions(&found));
    found.facts.filters_on_masked
}

#[test]
fn a_view_whose_columns_get_tags_may_be_filtered_by() {
    for text in [
        "CREATE OR REPLACE VIEW user_names AS SELECT id, ssn AS name FROM users",
        "CREATE OR REPLACE VIEW public.user_names AS SELECT id, upper(ssn) AS name FROM users",
        "CREATE OR REPLACE VIEW user_names (id, name) AS SELECT id, name FROM users UNION ALL SELECT id, ssn FROM users",
        "CREATE OR REPLACE VIEW user_names AS SELECT id, s.hidden AS name FROM users JOIN user_secrets s USING (id)",
    ] {
        assert!(filters(text), "{text}");
    }
    for text in [
        "CREATE OR REPLACE VIEW user_names AS SELECT id, name FROM users",
        "CREATE OR REPLACE VIEW user_names AS SELECT id, upper(name) AS name, created FROM users",
        // Nobody can have named what is new.
        "CREATE OR REPLACE VIEW user_names AS SELECT id, name, ssn FROM users",
        "CREATE OR REPLACE VIEW user_secrets AS SELECT id, ssn AS hidden, upper(email) AS loud FROM users",
        "CREATE OR REPLACE VIEW another AS SELECT id, ssn FROM users",
        "CREATE VIEW another AS SELECT id, ssn AS name FROM users",
    ] {
        assert!(!filters(text), "{text}");
    }
}

#[test]
fn a_temporary_view_hides_none_that_is_replaced() {
    let names =
        session("relation 30001 pg_temp_3 user_names v- SELECT\ncolumn 30001 1 id 23 -\ncolumn 30001 2 name 25 -");
    let text = "CREATE OR REPLACE VIEW user_names AS SELECT id, ssn AS name FROM users";
    assert!(read(text, &catalog(&[]), &names, &RULES).facts.filters_on_masked);
}

#[test]
fn a_name_that_a_rule_knows_may_be_filtered_by() {
    for text in [
        "ALTER TABLE stash RENAME COLUMN k TO ssn",
        "ALTER TABLE stash RENAME TO loot",
        "ALTER TABLE stash SET SCHEMA sales",
    ] {
        assert!(filters(text), "{text}");
    }
    for text in [
        "ALTER TABLE stash RENAME COLUMN k TO v",
        "ALTER TABLE stash RENAME TO other",
        "ALTER TABLE bait SET SCHEMA sales",
        "ALTER TABLE orders RENAME TO orders_old",
        "ALTER TABLE orders RENAME COLUMN note TO remark",
        "ALTER TABLE users ADD COLUMN phone text",
    ] {
        assert!(!filters(text), "{text}");
    }
}

#[test]
fn a_parent_or_child_that_brings_tags_may_be_filtered_by() {
    let rules = Named(&[["public", "folk", "ssn", "pii"]]);
    let with = |text: &str, more: &[(usize, &str)], rules: &Named| {
        let found = read(text, &parted(more), &Names::standard("agent"), rules);
        assert!(!found.opaque, "{text} {:?}", actions(&found));
        found.facts.filters_on_masked
    };
    // `plain` is read through: it gets the rows of `folk`.
    assert!(with("ALTER TABLE folk INHERIT plain", &[], &rules));
    assert!(with("CREATE TABLE heir () INHERITS (plain, folk)", &[], &rules));
    let by_name = Named(&[["public", "fresh", "ssn", "pii"]]);
    assert!(with("CREATE TABLE fresh () INHERITS (plain)", &[], &by_name));
    assert!(!with("CREATE TABLE other () INHERITS (plain)", &[], &by_name));
    assert!(!with("CREATE TABLE heir () INHERITS (folk)", &[], &rules));
    // A child gets its parent's tags: of interest where something looks at it.
    let looked = (15, "20004 false - - -");
    assert!(with("ALTER TABLE plain INHERIT folk", &[looked], &rules));
    assert!(!with("ALTER TABLE plain INHERIT folk", &[(15, "20004 true - - -")], &rules));
    let parent = Named(&[["public", "mine", "ssn", "pii"]]);
    let attach = "ALTER TABLE mine ATTACH PARTITION folk FOR VALUES IN ('a')";
    assert!(with(attach, &[(15, "20003 false - - -")], &parent));
    assert!(!with(attach, &[], &parent));
}

/// Columns that are added belong to it.
#[test]
fn what_filters_by_a_whole_row_filters_by_what_is_added() {
    for text in [
        "CREATE POLICY p ON bait USING (ch = (SELECT substr(stash::text, pos, 1) FROM stash))",
        "CREATE VIEW spelt AS SELECT b.pos FROM bait b, stash s WHERE b.ch = substr(s::text, b.pos, 1)",
        "CREATE VIEW spelt AS SELECT b.pos FROM bait b, stash s WHERE b.ch = substr(to_jsonb(s.*)->>'k', b.pos, 1)",
        "CREATE VIEW spelt AS SELECT b.pos FROM bait b JOIN (SELECT s::text AS t FROM stash s) s ON b.ch = substr(s.t, b.pos, 1)",
        "CREATE MATERIALIZED VIEW spelt AS SELECT b.pos FROM bait b, stash s WHERE b.ch = substr(s::text, b.pos, 1)",
    ] {
        assert!(filters(text), "{text}");
    }
    for text in [
        "SELECT b.pos FROM bait b, stash s WHERE b.ch = substr(s::text, b.pos, 1)",
        "CREATE VIEW told AS SELECT o.id, to_jsonb(o) AS doc FROM orders o WHERE o.total > 0 ORDER BY o.id",
        "CREATE POLICY p ON bait USING (pos IN (SELECT id FROM orders))",
    ] {
        assert!(!filters(text), "{text}");
    }
}

#[test]
fn that_row_policies_run_is_noted() {
    let noted = |text: &str, more: &[(usize, &str)]| {
        let found = read(text, &catalog(more), &Names::standard("agent"), &Named(&[]));
        found.actions.iter().any(|action| action.note.as_deref().is_some_and(|note| note.contains("row policies")))
    };
    for text in ["SELECT 1 FROM orders", "DELETE FROM orders", "SELECT 1 FROM joined"] {
        assert!(noted(text, &[(15, "16446 true - - -")]), "{text}");
        assert!(!noted(text, &[(15, "16446 false - - -")]), "{text}");
    }
}

/// Rows of functions, of lists and of sub-selects have the columns that they have.
#[test]
fn ordinary_views_and_policies_over_what_does_not_grow_filter_by_no_tag() {
    for text in [
        "CREATE VIEW wanted AS SELECT o.id FROM orders o, unnest(ARRAY[1, 2]) x WHERE x = o.id",
        "CREATE VIEW wanted AS SELECT o.id FROM orders o, jsonb_array_elements('[]'::jsonb) e WHERE e ->> 'type' = 'x'",
        "CREATE VIEW wanted AS SELECT o.id FROM orders o JOIN (VALUES (1), (2)) AS x ON to_jsonb(x) IS NOT NULL",
        "CREATE VIEW wanted AS SELECT o.id FROM orders o, generate_series(1, 3) AS n WHERE n = o.id",
    ] {
        assert!(!filters(text), "{text}");
    }
    // A row of a table has those that it will get as well.
    assert!(filters("CREATE VIEW wanted AS SELECT b.pos FROM bait b WHERE to_jsonb(b) ->> 'ssn' = b.ch"));
}

/// What marks such rows is no tag of a rule: nobody could have the right to see it.
#[test]
fn the_mark_of_rows_that_grow_is_asked_for_by_nobody() {
    for text in [
        "CREATE MATERIALIZED VIEW wanted AS SELECT to_jsonb(u) AS row FROM users u",
        "CREATE VIEW wanted AS SELECT to_jsonb(u) AS row FROM users u",
    ] {
        let found = read(text, &catalog(BAIT), &Names::standard("agent"), &RULES);
        let shown = actions(&found);
        assert!(!shown.iter().any(|action| action.contains(ADDED)), "{text}: {shown:?}");
        assert!(found.statements.iter().all(|one| one.reads_tagged.iter().all(|tag| **tag != *ADDED)), "{text}");
    }
}

#[test]
fn a_policy_that_looks_at_what_is_masked_filters_by_it() {
    let filters = |text: &str, policy: &str| {
        let rules = Named(&[["public", "users", "ssn", "pii"], ["public", "orders", "note", "pii"]]);
        let found = read(text, &catalog(&[(15, policy)]), &Names::standard("agent"), &rules);
        assert!(!found.opaque, "{text} {:?}", actions(&found));
        found.facts.filters_on_masked
    };
    let (reads, writes) = (
        ["SELECT count(*) FROM orders", "SELECT 1 FROM joined", "COPY orders TO STDOUT", "TABLE orders"],
        ["DELETE FROM orders", "UPDATE orders SET total = 1", "INSERT INTO orders (id) VALUES (1)"],
    );
    for text in reads.iter().chain(&writes) {
        // Of its own, and of another table, a view among them; a whole row; one that is not known.
        for at in ["16446 4", "16446 row", "16467 2", "999999 1", "999999 rows"] {
            assert!(filters(text, &format!("16446 true {at} true")), "{text} {at}");
            let written = writes.contains(text);
            assert_eq!(filters(text, &format!("16446 true {at} false")), written, "{text} {at}");
        }
        for at in ["16446 1", "16446 -7", "16463 1", "16425 rows", "16467 rows", "- -"] {
            assert!(!filters(text, &format!("16446 true {at} true")), "{text} {at}");
        }
        // As the policies of what it looks at say, also around a circle.
        let others = "16446 true 16425 rows true\n16425 true 16446 1 true\n16425 true 16425 3 true";
        assert!(filters(text, others), "{text}");
        let others = "16446 true 16425 rows true\n16425 true 16446 1 true\n16446 true 16463 rows true";
        assert!(!filters(text, others), "{text}");
    }
}

/// What cannot be understood behind a policy hides rows by anything.
#[test]
fn a_policy_by_what_cannot_be_read_filters() {
    let rules = Named(&[["public", "users", "ssn", "pii"]]);
    let view = |definition: &str| (1, format!("24001 public odd v {definition} false false - - -"));
    for (definition, filters) in [(")(", true), ("SELECT", false)] {
        let (number, odd) = view(definition);
        let more = [(number, odd.as_str()), (15, "16446 true 24001 rows true")];
        let found = read("SELECT count(*) FROM orders", &catalog(&more), &Names::standard("agent"), &rules);
        assert!(!found.opaque, "{:?}", found.actions);
        assert_eq!(found.facts.filters_on_masked, filters, "{definition}");
    }
    // One that updates alone are asked for, where rows are locked.
    let more = [(15, "16446 true 16425 3 false")];
    let filters = |text: &str| read(text, &catalog(&more), &Names::standard("agent"), &rules).facts.filters_on_masked;
    assert!(!filters("SELECT id FROM orders") && filters("SELECT id FROM orders FOR UPDATE"));
}
