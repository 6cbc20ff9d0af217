//! What foreign keys write: which tables and columns, whose code runs, where rows are moved, over several levels.

use super::family::{Named, catalog, read, session};
use super::laundered::parted;
use super::*;

/// `head (id, day)`, to which `part (id, head, day)` refers, to which `leaf (id, part, tenant)` refers.
const LEVELS: &[(usize, &str)] = &[
    (
        1,
        "21001 public head r - true false - - -\n21002 public part r - true false - - -\n\
         21003 public leaf r - true false - - -",
    ),
    (
        2,
        "21001 1 id 23 true false -1\n21001 2 day 25 false false -1\n21002 1 id 23 true false -1\n\
         21002 2 head 23 false false -1\n21002 3 day 25 false false -1\n21003 1 id 23 true false -1\n\
         21003 2 part 23 false false -1\n21003 3 tenant 23 false false -1",
    ),
];

fn judge_with(text: &str, more: &[(usize, &str)], rules: &Named) -> Analysis {
    read(text, &catalog(&[LEVELS, more].concat()), &Names::standard("agent"), rules)
}

fn found(text: &str, keys: &str) -> BTreeSet<String> {
    let found = judge_with(text, &[(14, keys)], &Named(&[]));
    assert!(!found.opaque, "{text} {:?}", found.actions);
    actions(&found)
}

fn set_of(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_keys_remove_and_change_is_named_over_all_levels() {
    let cascades = "21002 21001 k 2 1 cc -\n21003 21002 k 2 1 cc -";
    assert_eq!(
        found("DELETE FROM head WHERE id = 1", cascades),
        set_of(&["delete public.head", "delete public.leaf", "delete public.part", "select public.head(id)"])
    );
    assert_eq!(
        found("UPDATE head SET id = 2 WHERE id = 1", cascades),
        set_of(&["update public.head(id)", "update public.part(head)", "select public.head(id)"])
    );
    // What refers to it refers to another column, or to nothing of it.
    for (text, expected) in [
        ("UPDATE head SET day = 'x' WHERE id = 1", &["select public.head(id)", "update public.head(day)"][..]),
        ("UPDATE part SET head = 1 WHERE id = 1", &["select public.part(id)", "update public.part(head)"]),
        ("DELETE FROM leaf", &["delete public.leaf"]),
        ("INSERT INTO head VALUES (1)", &["insert public.head(id)"]),
    ] {
        assert_eq!(found(text, cascades), set_of(expected), "{text}");
    }
    let refuses = "21002 21001 k 2 1 aa -\n21003 21002 k 2 1 rr -";
    assert_eq!(found("DELETE FROM head", refuses), set_of(&["delete public.head"]));
}

#[test]
fn what_is_cleared_is_changed() {
    // ON DELETE SET NULL (part), of a key of two columns.
    let some = "21003 21002 k 2,3 1,2 an 2";
    assert!(found("DELETE FROM part", some).contains("update public.leaf(part)"));
    let all = "21003 21002 k 2,3 1,2 dd -";
    assert!(found("DELETE FROM part", all).contains("update public.leaf(part,tenant)"));
    assert!(found("UPDATE part SET id = 1", all).contains("update public.leaf(part,tenant)"));
    // Of a cascade those alone that have changed.
    let along = "21003 21002 k 2,3 1,2 ca -";
    assert!(found("UPDATE part SET id = 1", along).contains("update public.leaf(part)"));
    // A row that is removed by a key sets a level further down to NULL.
    let mixed = "21002 21001 k 2 1 ac -\n21003 21002 k 2 1 an -";
    assert!(found("DELETE FROM head", mixed).contains("update public.leaf(part)"));
}

#[test]
fn tables_that_refer_to_themselves_and_in_circles_come_to_an_end() {
    let circle = "21001 21001 k 1 1 cc -\n21002 21001 k 2 1 cc -\n21001 21002 k 1 1 cc -";
    let found = found("DELETE FROM head WHERE id = 1", circle);
    assert!(found.contains("delete public.part") && found.contains("delete public.head"));
    let unknown = judge_with("DELETE FROM head", &[(14, "29999 21001 k 2 1 ac -")], &Named(&[]));
    assert!(unknown.opaque, "who refers to it is not known");
}

#[test]
fn code_and_rules_of_the_table_that_refers_run() {
    let wipe = CATALOG.functions(&Names::standard("agent"), None, "wipe").next().unwrap().oid;
    let coded = format!("22001 public coded r - true false {wipe} - -\n22002 public ruled r - true true - - -");
    let columns = "22001 1 up 23 false false -1\n22002 1 up 23 false false -1";
    let judge = |text: &str, keys: &str| judge_with(text, &[(1, &coded), (2, columns), (14, keys)], &Named(&[]));
    assert!(actions(&judge("DELETE FROM head", "22001 21001 k 1 1 ad -")).contains("opaque public.wipe"));
    assert!(actions(&judge("DELETE FROM head", "22002 21001 k 1 1 ac -")).contains("opaque public.ruled"));
    assert!(!judge("DELETE FROM head", "22001 21001 k 1 1 aa -\n22002 21001 k 1 1 ca -").opaque);
    assert!(judge("UPDATE head SET id = 1", "22002 21001 k 1 1 ca -").opaque);
}

/// The day of `mine`, by which it is partitioned, refers to that of `head`.
#[test]
fn a_key_that_moves_rows_between_partitions_takes_values_along() {
    let unmasks = |text: &str, key: &str, rules: &Named| {
        let more = [LEVELS, &[(7, "20003 20001"), (14, key)]].concat();
        actions(&read(text, &parted(&more), &Names::standard("agent"), rules)).contains("unmask pii")
    };
    let by_child = Named(&[["public", "folk", "ssn", "pii"]]);
    let by_parent = Named(&[["public", "folk", "ssn", "pii"], ["public", "mine", "ssn", "pii"]]);
    for (text, reactions) in [
        ("UPDATE head SET day = 'b'", "ca"),
        ("UPDATE head SET day = 'b'", "da"),
        ("UPDATE head SET day = 'b'", "na"),
        ("DELETE FROM head", "an"),
        ("DELETE FROM head", "ad"),
        ("INSERT INTO head VALUES (1, 'b') ON CONFLICT (id) DO UPDATE SET day = excluded.day", "ca"),
        ("MERGE INTO head USING plain ON id = 1 WHEN MATCHED THEN UPDATE SET day = 'b'", "ca"),
        ("WITH moved AS (UPDATE head SET day = 'b' RETURNING id) SELECT id FROM moved", "ca"),
    ] {
        let key = format!("20001 21001 k 2 2 {reactions} -");
        assert!(unmasks(text, &key, &by_child), "{text} {reactions}");
        assert!(!unmasks(text, &key, &by_parent), "{text} {reactions}");
    }
    for (text, reactions) in [
        ("UPDATE head SET id = 2", "ca"),
        ("UPDATE head SET day = 'b'", "aa"),
        ("DELETE FROM head", "ac"),
        ("INSERT INTO head VALUES (1, 'b')", "cc"),
    ] {
        assert!(!unmasks(text, &format!("20001 21001 k 2 2 {reactions} -"), &by_child), "{text} {reactions}");
    }
    // Over a table between them.
    let levels = "21002 21001 k 3 2 ca -\n20001 21002 k 2 3 ca -";
    assert!(unmasks("UPDATE head SET day = 'b'", levels, &by_child));
}

#[test]
fn a_value_goes_on_into_what_refers_to_it() {
    let rules = Named(&[["public", "head", "day", "pii"]]);
    let unmasks = |text: &str, keys: &str| actions(&judge_with(text, &[(14, keys)], &rules)).contains("unmask pii");
    let key = "21002 21001 k 3 2 ca -";
    let text = "UPDATE head SET day = h.day FROM head h WHERE h.id = 2";
    assert!(unmasks(text, key) && !unmasks(text, "21002 21001 k 3 2 aa -"));
    assert!(!unmasks("UPDATE head SET day = $1 WHERE id = 1", key), "the agent's own");
    let generated = judge_with("UPDATE head SET id = 7", &[(8, "21001 2 1"), (14, key)], &Named(&[]));
    assert!(actions(&generated).contains("update public.part(day)"), "it is generated from what is set");
}

#[test]
fn trees_on_both_sides_are_looked_at() {
    // A key to a partition of `mine`; one of `mine` itself.
    let keys = |key: &str, text: &str| {
        let more = [LEVELS, &[(14, key)]].concat();
        actions(&read(text, &parted(&more), &Names::standard("agent"), &Named(&[])))
    };
    let (to_part, to_whole) = ("21002 20002 k 3 2 cc -", "21002 20001 k 3 2 cc -");
    assert!(keys(to_part, "DELETE FROM mine").contains("delete public.part"));
    assert!(keys(to_part, "UPDATE mine SET ssn = 'x'").iter().all(|action| !action.contains("part")));
    assert!(keys(to_whole, "DELETE FROM mine").contains("delete public.part"));
    // What is moved is removed there and put in again: to a key of that part alone, and before version 15 to all.
    let moves = "UPDATE mine SET day = 'b'";
    assert!(!keys(to_whole, moves).contains("delete public.part"));
    assert!(keys(to_part, moves).contains("delete public.part"));
    let inherited = "21002 20002 k 3 2 cci -";
    assert!(!keys(inherited, moves).contains("delete public.part"));
    assert!(keys(inherited, "DELETE FROM mine_d").contains("delete public.part"));
    let older = |text: &str| {
        let more = [LEVELS, &[(14, to_whole), (17, "140012")]].concat();
        actions(&read(text, &parted(&more), &Names::standard("agent"), &Named(&[]))).contains("delete public.part")
    };
    assert!(older(moves) && !older("UPDATE mine SET ssn = 'b'"));
    // Of what is above nothing is moved, nor for ON CONFLICT.
    assert!(!older("UPDATE mine_d SET day = 'b'"));
    assert!(!older("INSERT INTO mine VALUES ('a', 'b') ON CONFLICT (ssn) DO UPDATE SET day = 'c'"));
    // A table below the one that refers: its triggers and code.
    let wipe = CATALOG.functions(&Names::standard("agent"), None, "wipe").next().unwrap().oid;
    let below = format!("22001 public below r - false false {wipe} - -");
    let found = judge_with(
        "DELETE FROM head",
        &[(1, &below), (2, "22001 1 id 23 false false -1"), (7, "22001 21002"), (14, "21002 21001 k 2 1 ac -")],
        &Named(&[]),
    );
    assert!(actions(&found).contains("opaque public.wipe"));
}

#[test]
fn views_and_temporary_tables_have_keys_too() {
    let found = judge_with("DELETE FROM user_names WHERE id = 1", &[(14, "21002 16425 k 1 1 ac -")], &Named(&[]));
    assert!(actions(&found).contains("delete public.part") && !found.opaque);
    let names = session(
        "relation 30001 pg_temp_3 one rt -\ncolumn 30001 1 id 23 -\nrelation 30002 pg_temp_3 two rt -\n\
         column 30002 1 up 23 -\nkey 30002 30001 1 1 nc:two_up_fkey",
    );
    let judge = |text: &str| actions(&read(text, &catalog(&[]), &names, &Named(&[])));
    assert!(judge("DELETE FROM one").contains("delete pg_temp.two"));
    assert!(judge("UPDATE one SET id = 3").contains("update pg_temp.two(up)"));
    assert!(!judge("DELETE FROM two").contains("delete pg_temp.one"));
}

/// As object-relational mappers write them, all day.
#[test]
fn ordinary_writes_stay_ordinary() {
    let keys = "21002 21001 part_head_fkey 2 1 cc -\n21003 21002 leaf_part_fkey 2 1 cn -";
    let rules = Named(&[["public", "users", "ssn", "pii"]]);
    for text in [
        "DELETE FROM head WHERE head.id IN ($1, $2)",
        "DELETE FROM \"public\".\"head\" WHERE (\"public\".\"head\".\"id\" = $1 AND 1=1) RETURNING \"public\".\"head\".\"id\"",
        "UPDATE part SET head = $1 WHERE id = $2",
        "UPDATE head SET id = $1, day = $2 WHERE id = $3",
        "INSERT INTO part (id, head, day) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET day = excluded.day",
    ] {
        let found = judge_with(text, &[(14, keys)], &rules);
        assert!(!found.opaque && !found.facts.filters_on_masked, "{text} {:?}", found.actions);
        assert!(!found.actions.iter().any(|action| action.name == ActionName::UNMASK), "{text}");
    }
    // Set to what the row was found by, it has not changed.
    let upsert = "INSERT INTO head (id, day) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET id = excluded.id, day = excluded.day";
    assert!(!found(upsert, keys).iter().any(|action| action.contains("part")));
    for other in [
        "INSERT INTO head (id, day) VALUES ($1, $2) ON CONFLICT (day) DO UPDATE SET id = excluded.id",
        "INSERT INTO head (id, day) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET id = excluded.id + 1",
        "INSERT INTO head (id, day) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET id = $3",
    ] {
        assert!(found(other, keys).contains("update public.part(head)"), "{other}");
    }
    // So it has of text and dates, where equal values are the same.
    let upsert = "INSERT INTO head (day) VALUES ($1) ON CONFLICT (day) DO UPDATE SET day = excluded.day";
    let changes = |upsert: &str, more: &[(usize, &str)]| {
        let more = [&[(14, "21002 21001 k 3 2 ca -")], more].concat();
        actions(&judge_with(upsert, &more, &rules)).contains("update public.part(day)")
    };
    assert!(!changes(upsert, &[]) && changes(upsert, &[(16, "21001 2")]));
    for (kind, same) in [("1082", true), ("1184", true), ("16", true), ("1700", false), ("1042", false), ("701", false)]
    {
        let column = format!("21001 9 at {kind} false false -1\n21002 9 at {kind} false false -1");
        let more = [(2, column.as_str()), (14, "21002 21001 k 9 9 ca -")];
        let upsert = upsert.replace("day", "at");
        assert_eq!(actions(&judge_with(&upsert, &more, &rules)).contains("update public.part(at)"), !same, "{kind}");
    }
    // A value that stays goes nowhere.
    let secret = Named(&[["public", "users", "ssn", "pii"], ["public", "head", "day", "pii"]]);
    let copies = "INSERT INTO head (day) SELECT ssn FROM users ON CONFLICT (day) DO UPDATE SET day = excluded.day";
    let found = judge_with(copies, &[(14, "21002 21001 k 3 2 ca -")], &secret);
    assert!(!actions(&found).contains("unmask pii"));
}

/// What another statement of the same text has added is not known.
#[test]
fn what_a_text_has_changed_is_not_written_by_keys_or_views() {
    let key = "21002 21001 k 2 1 ac -";
    for text in [
        "ALTER TABLE leaf ADD CONSTRAINT x FOREIGN KEY (part) REFERENCES part ON DELETE CASCADE; DELETE FROM head WHERE id = 1",
        "DELETE FROM head WHERE id = 1; ALTER TABLE leaf ADD FOREIGN KEY (part) REFERENCES part ON DELETE CASCADE; DELETE FROM head WHERE id = 1",
        "SELECT 1 FROM user_names; ALTER TABLE leaf ADD FOREIGN KEY (part) REFERENCES users ON DELETE CASCADE; DELETE FROM user_names WHERE id = 1",
        "CREATE TABLE more (up int REFERENCES part ON DELETE CASCADE); DELETE FROM head WHERE id = 1",
    ] {
        assert!(judge_with(text, &[(14, key)], &Named(&[])).opaque, "{text}");
    }
    for text in [
        "ALTER TABLE leaf ADD FOREIGN KEY (part) REFERENCES part ON DELETE CASCADE; DELETE FROM orders WHERE id = 1",
        "ALTER TABLE leaf ADD COLUMN x int; DELETE FROM head WHERE id = 1",
    ] {
        assert!(!judge_with(text, &[(14, key)], &Named(&[])).opaque, "{text}");
    }
}

#[test]
fn a_batch_of_the_same_removal_is_counted_once() {
    let oids = 40_000..40_300;
    let lines = |of: fn(u32) -> String| oids.clone().map(of).collect::<Vec<_>>().join("\n");
    let (tables, columns, keys) = (
        lines(|oid| format!("{oid} public of{oid} r - true false - - -")),
        lines(|oid| format!("{oid} 1 up 23 false false -1")),
        lines(|oid| format!("{oid} 21001 k 1 1 ac -")),
    );
    let batch = (0..1000).map(|id| format!("DELETE FROM head WHERE id = {id}")).collect::<Vec<_>>().join(";");
    let found =
        judge_with(&batch, &[(1, &tables), (2, &columns), (14, &keys)], &Named(&[["public", "of40000", "up", "pii"]]));
    assert!(!found.opaque);
    assert!(actions(&found).contains("delete public.of40299"));
    // What one of them may quote the others may as well.
    assert!(found.statements.iter().all(|statement| tags(&statement.reads_tagged) == "!pii"));
}

#[test]
fn keys_that_do_nothing_cost_nothing() {
    let keys = (0..5000).map(|oid| format!("{} 21001 k{oid} 2 1 aa -", 50_000 + oid)).collect::<Vec<_>>().join("\n");
    let batch = (0..1000).map(|id| format!("DELETE FROM head WHERE id = {id}")).collect::<Vec<_>>().join(";");
    assert!(!judge_with(&batch, &[(14, &keys)], &Named(&[])).opaque);
    // A key is looked for by its name.
    let text = format!("ALTER TABLE leaf {}", vec!["VALIDATE CONSTRAINT k1"; 2000].join(","));
    assert!(!judge_with(&text, &[(14, &keys)], &Named(&[])).opaque);
}
