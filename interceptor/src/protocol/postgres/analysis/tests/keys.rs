//! Foreign keys and other definitions that ask rows what they hold; texts of several definitions, as migrations have them.

use super::family::{Named, catalog, read, session};
use super::*;

fn filters(text: &str) -> bool {
    judge(text).facts.filters_on_masked
}

#[test]
fn a_foreign_key_reads_the_columns_of_both_sides() {
    let found = judge("ALTER TABLE orders ADD CONSTRAINT k FOREIGN KEY (note, total) REFERENCES cards (number, brand)");
    assert!(found.facts.filters_on_masked && !found.opaque);
    let found = actions(&found);
    assert!(found.contains("select public.orders(note,total)") && found.contains("alter public.cards"), "{found:?}");
    assert!(found.contains("select public.cards(brand,number)!card"), "{found:?}");
    let found = judge("ALTER TABLE users ADD FOREIGN KEY (email) REFERENCES orders NOT VALID");
    assert_eq!(tags(&found.statements[0].reads_tagged), "!pii", "its error quotes the key");
    assert!(actions(&found).contains("select public.users(email)!pii") && found.facts.filters_on_masked);
    let found = judge("ALTER TABLE orders ADD COLUMN who bigint REFERENCES users");
    assert!(actions(&found).contains("select public.users(id)") && !found.facts.filters_on_masked);
}

#[test]
fn whether_a_value_is_there_can_be_asked_by_a_foreign_key() {
    for text in [
        "CREATE TABLE mine (guess text REFERENCES users (ssn))",
        "CREATE TABLE mine (a bigint, guess text, FOREIGN KEY (a, guess) REFERENCES users (id, ssn))",
        "CREATE TEMP TABLE mine (guess text REFERENCES users (ssn))",
        "ALTER TABLE orders ADD COLUMN guess text REFERENCES users (ssn)",
        "CREATE TABLE mine (guess text REFERENCES cards (number) ON DELETE CASCADE)",
    ] {
        assert!(filters(text), "{text}");
    }
    for text in [
        "CREATE TABLE mine (owner bigint REFERENCES users ON DELETE CASCADE, card int REFERENCES cards (id))",
        "CREATE TABLE mine (a bigint, b text, FOREIGN KEY (a, b) REFERENCES users (id, name))",
        "CREATE TABLE mine (id int PRIMARY KEY, up int REFERENCES mine, other int REFERENCES mine (id))",
    ] {
        let found = judge(text);
        assert!(!found.facts.filters_on_masked && !found.opaque, "{text} {:?}", actions(&found));
    }
}

#[test]
fn definitions_that_ask_all_rows_count_as_filters() {
    let more = [
        (1, "20001 public folk r - false false - - -"),
        (2, "20001 1 secret 20002 false false -1\n20001 2 open 20004 false false -1"),
        (5, "20002 public hush d 25 0 - - -\n20003 public _hush b 20002 0 - - -\n20004 public said d 25 0 - - -"),
        (1, "20011 public logs p - false false - - -\n20012 public old r - false false - - -"),
        (
            2,
            "20011 1 ssn 25 false true -1\n20011 2 day 25 false false -1\n20012 1 ssn 25 false false -1\n20012 2 day 25 false false -1",
        ),
        (1, "20021 public days p - false false - - -\n20022 public first r - false false - - -"),
        (
            2,
            "20021 1 ssn 25 false false -1\n20021 2 day 25 false true -1\n20022 1 ssn 25 false false -1\n20022 2 day 25 false false -1",
        ),
    ];
    let (catalog, names) = (catalog(&more), Names::standard("agent"));
    let rules = Named(&[
        ["public", "folk", "secret", "pii"],
        ["public", "logs", "ssn", "pii"],
        ["public", "days", "ssn", "pii"],
        ["public", "old", "ssn", "pii"],
        ["public", "first", "ssn", "pii"],
        ["public", "users", "ssn", "pii"],
    ]);
    let filters = |text: &str| read(text, &catalog, &names, &rules).facts.filters_on_masked;
    for text in [
        "ALTER DOMAIN hush ADD CHECK (VALUE < 'm')",
        "ALTER DOMAIN hush VALIDATE CONSTRAINT c",
        "ALTER TABLE users ALTER ssn TYPE varchar(5)",
        "ALTER TABLE users ALTER ssn TYPE int USING ssn::int",
        "ALTER TABLE users ALTER ssn TYPE date",
        "ALTER TABLE logs ATTACH PARTITION old FOR VALUES FROM ('a') TO ('m')",
        "CREATE TABLE guess PARTITION OF logs FOR VALUES FROM ('k') TO ('l')",
    ] {
        assert!(filters(text), "{text}");
    }
    for text in [
        "ALTER DOMAIN said ADD CHECK (VALUE < 'm')",
        "ALTER DOMAIN hush SET DEFAULT 'x'",
        "ALTER TABLE users ALTER ssn TYPE text",
        "ALTER TABLE users ALTER name TYPE varchar(5)",
        "ALTER TABLE days ATTACH PARTITION first FOR VALUES FROM ('a') TO ('m')",
        "CREATE TABLE next PARTITION OF days FOR VALUES FROM ('k') TO ('l')",
    ] {
        assert!(!filters(text), "{text}");
    }
}

/// As Prisma, Django, Rails and others write them, sent as one text.
const MIGRATIONS: &[&str] = &[
    r#"
    -- CreateEnum
    CREATE TYPE "Role" AS ENUM ('USER', 'ADMIN');
    -- CreateTable
    CREATE TABLE "User" ("id" SERIAL NOT NULL, "email" TEXT NOT NULL, "role" "Role" NOT NULL DEFAULT 'USER'::"Role",
        "roles" "Role"[], CONSTRAINT "User_pkey" PRIMARY KEY ("id"));
    CREATE TABLE "Post" ("id" SERIAL NOT NULL, "authorId" INTEGER NOT NULL, "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
        CONSTRAINT "Post_pkey" PRIMARY KEY ("id"));
    -- CreateIndex
    CREATE UNIQUE INDEX "User_email_key" ON "User"("email");
    -- AlterTable
    ALTER TABLE "orders" ADD COLUMN "postId" INTEGER, ALTER COLUMN "note" DROP NOT NULL;
    -- AddForeignKey
    ALTER TABLE "Post" ADD CONSTRAINT "Post_authorId_fkey" FOREIGN KEY ("authorId") REFERENCES "User"("id") ON DELETE RESTRICT ON UPDATE CASCADE;
    ALTER TABLE "orders" ADD CONSTRAINT "orders_postId_fkey" FOREIGN KEY ("postId") REFERENCES "Post"("id") ON DELETE SET NULL;
    CREATE INDEX "orders_postId_idx" ON "orders"("postId");
    "#,
    r#"
    BEGIN;
    CREATE TABLE "shop_item" ("id" bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "name" varchar(100) NOT NULL);
    CREATE TABLE "shop_item_owners" ("id" bigint NOT NULL PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "item_id" bigint NOT NULL, "user_id" bigint NOT NULL);
    ALTER TABLE "shop_item" ADD COLUMN "owner_id" bigint NULL CONSTRAINT "shop_item_owner_id_4a_fk" REFERENCES "users"("id") DEFERRABLE INITIALLY DEFERRED;
    SET CONSTRAINTS "shop_item_owner_id_4a_fk" IMMEDIATE;
    ALTER TABLE "shop_item_owners" ADD CONSTRAINT "shop_item_owners_item_id_fk" FOREIGN KEY ("item_id") REFERENCES "shop_item" ("id") DEFERRABLE INITIALLY DEFERRED;
    ALTER TABLE "shop_item_owners" ADD CONSTRAINT "shop_item_owners_user_id_fk" FOREIGN KEY ("user_id") REFERENCES "users" ("id") DEFERRABLE INITIALLY DEFERRED;
    CREATE INDEX "shop_item_name_like" ON "shop_item" ("name" varchar_pattern_ops);
    COMMIT;
    "#,
    r#"
    CREATE SEQUENCE public.widgets_id_seq;
    CREATE TABLE public.widgets (id bigint NOT NULL, order_id integer, CONSTRAINT positive CHECK (order_id > 0));
    ALTER SEQUENCE public.widgets_id_seq OWNED BY public.widgets.id;
    ALTER TABLE ONLY public.widgets ALTER COLUMN id SET DEFAULT nextval('public.widgets_id_seq'::regclass);
    ALTER TABLE ONLY public.widgets ADD CONSTRAINT widgets_pkey PRIMARY KEY (id);
    CREATE INDEX index_widgets_on_order_id ON public.widgets USING btree (order_id);
    ALTER TABLE ONLY public.widgets ADD CONSTRAINT fk_rails_1 FOREIGN KEY (order_id) REFERENCES public.orders(id);
    COMMENT ON TABLE public.widgets IS 'what there is';
    "#,
];

#[test]
fn ordinary_migrations_are_understood() {
    for text in MIGRATIONS {
        let found = judge(text);
        let notes: Vec<_> = found.actions.iter().filter_map(|action| action.note.as_deref()).collect();
        assert!(!found.opaque && !found.facts.filters_on_masked, "{text} {notes:?}");
    }
    assert!(
        actions(&judge(MIGRATIONS[0])).is_superset(
            &[
                "create public.User",
                "alter public.User",
                "select public.User(id)",
                "alter public.orders",
                "create public/Role"
            ]
            .map(|text| text.replace("public/Role", "type/Role"))
            .into()
        )
    );
}

#[test]
fn what_a_text_has_made_is_tagged_by_its_name() {
    let (catalog, names) = (catalog(&[]), Names::standard("agent"));
    let rules = Named(&[["public", "fresh", "ssn", "pii"]]);
    let filters = |text: &str| read(text, &catalog, &names, &rules).facts.filters_on_masked;
    let made = "CREATE TABLE fresh (id int PRIMARY KEY, ssn text UNIQUE); CREATE TABLE mine ";
    assert!(filters(&format!("{made} (a text REFERENCES fresh (ssn))")));
    assert!(!filters(&format!("{made} (a int REFERENCES fresh)")));
    assert!(filters("CREATE TABLE fresh (ssn text PRIMARY KEY); CREATE TABLE mine (a text REFERENCES fresh)"));
}

#[test]
fn what_a_text_has_made_or_changed_is_not_read_by_it() {
    for text in [
        "CREATE TABLE fresh (id int); SELECT * FROM fresh",
        "CREATE TABLE fresh (id int); INSERT INTO fresh VALUES (1)",
        "CREATE TABLE fresh (id int); SELECT fresh('x')",
        "CREATE TABLE fresh (id int); SELECT 'x'::fresh",
        "CREATE TABLE fresh (id int); SELECT nextval('fresh_id_seq')",
        "ALTER TABLE users ADD COLUMN x int; SELECT * FROM users",
        "ALTER TABLE users ADD COLUMN x int; SELECT * FROM user_names",
        "ALTER TABLE users ADD COLUMN x int; UPDATE users SET name = 'a'",
        "CREATE INDEX ON events_2024 (id); INSERT INTO events VALUES (1)",
        "ALTER TABLE cards ADD FOREIGN KEY (user_id) REFERENCES users; DELETE FROM users WHERE id = 1",
        "CREATE INDEX orders ON users (id); SELECT * FROM orders",
        "CREATE TABLE fresh (id int); ROLLBACK; ALTER TABLE orders ADD COLUMN x int",
        "CREATE TEMP TABLE fresh (id int); ALTER TABLE fresh ADD COLUMN x int",
        "CREATE TABLE fresh () INHERITS (users); ALTER TABLE fresh ADD COLUMN x int",
        "CREATE TABLE fresh (id int); ALTER TABLE fresh RENAME TO old; CREATE INDEX ON fresh (id)",
        "CREATE TYPE mood2 AS ENUM ('a'); DROP TYPE mood2; SELECT 'a'::mood2",
        "CREATE TABLE users (id int); SELECT id FROM users",
    ] {
        assert!(opaque(text), "{text}");
    }
    // Where it is put, or found, is not sure.
    let text = "CREATE TABLE fresh (id int); CREATE INDEX ON fresh (id)";
    assert!(!opaque(text));
    assert!(read(text, &CATALOG, &session(""), &Tags).opaque);
    assert!(read(text, &catalog(&[(11, "told")]), &Names::standard("agent"), &Tags).opaque);
    let found = judge("ALTER TABLE users ADD COLUMN x int; SELECT id FROM orders; CREATE INDEX ON users (name)");
    assert!(!found.opaque, "{:?}", actions(&found));
}

/// What the agent makes itself may be made to refuse values, so that each tells a bit.
#[test]
fn a_value_that_is_stored_where_it_can_be_refused_counts_as_a_filter() {
    let more = [
        (
            1,
            "20001 public mine r - false false - - -\n20002 public free r - false false - - -\n\
             20003 public parts p - false false - - -\n20004 public part r - false false - - -",
        ),
        (
            2,
            "20001 1 ssn 25 false false -1\n20001 2 id 23 false false -1\n20002 1 ssn 25 false false -1\n\
             20002 2 id 23 false false -1\n20002 3 email 1043 false false 9\n20003 1 ssn 25 false true -1\n\
             20004 1 ssn 25 false false -1",
        ),
        (7, "20004 20003"),
        (12, "20001 1 -"),
    ];
    let (catalog, names) = (catalog(&more), Names::standard("agent"));
    struct BySsn;
    impl ColumnTags for BySsn {
        fn tags(&self, _: &str, _: &str, _: &str, _: &str, column: &str) -> TagSet {
            set(if matches!(column, "ssn" | "email") { &["pii"] } else { &[] })
        }
        fn all(&self) -> TagSet {
            set(&["pii"])
        }
        fn hides_all(&self, _tag: &crate::policy::Tag) -> bool {
            true
        }
    }
    let filters = |text: &str| read(text, &catalog, &names, &BySsn).facts.filters_on_masked;
    for text in [
        "INSERT INTO mine (ssn) SELECT ssn FROM users",
        "UPDATE mine SET ssn = u.ssn FROM users u WHERE u.id = mine.id",
        "INSERT INTO free (email) SELECT email FROM users",
        "INSERT INTO part SELECT ssn FROM users",
        "INSERT INTO parts SELECT ssn FROM users",
        "INSERT INTO mine (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET ssn = (SELECT ssn FROM users LIMIT 1)",
        "MERGE INTO mine m USING users u ON m.id = u.id WHEN NOT MATCHED THEN INSERT (ssn) VALUES (u.ssn)",
    ] {
        assert!(filters(text), "{text}");
    }
    for text in [
        "INSERT INTO free (ssn) SELECT ssn FROM users WHERE id = 1",
        "INSERT INTO free (ssn) SELECT upper(ssn) FROM users WHERE id = 1",
        "INSERT INTO mine (id, ssn) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET ssn = excluded.ssn",
        "INSERT INTO mine AS m (id, ssn) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET ssn = COALESCE(excluded.ssn, m.ssn)",
        "UPDATE mine SET ssn = $1 WHERE id = 2",
        "INSERT INTO parts VALUES ($1)",
    ] {
        assert!(!filters(text), "{text}");
    }
}

/// It decides who sees which rows from then on, so that rows tell what it asks.
#[test]
fn a_policy_is_what_its_conditions_are() {
    for text in [
        "CREATE POLICY p ON orders USING (user_id = current_setting('app.user', true)::bigint) WITH CHECK (total > 0)",
        "CREATE POLICY p ON orders FOR SELECT TO PUBLIC USING (user_id IN (SELECT id FROM users WHERE name = CURRENT_USER))",
        "ALTER POLICY p ON orders USING (true)",
        "CREATE POLICY p ON orders USING (total < random() OR clock_timestamp() > now())",
        "CREATE COLLATION plainly (provider = libc, locale = 'C')",
        "CREATE TEXT SEARCH CONFIGURATION words (PARSER = pg_catalog.default)",
    ] {
        let found = judge(text);
        assert!(!found.opaque && !found.facts.filters_on_masked, "{text} {:?}", actions(&found));
    }
    let found = actions(&judge("CREATE POLICY p ON orders USING (user_id IN (SELECT id FROM users))"));
    assert!(found.contains("alter public.orders") && found.contains("create policy/p"), "{found:?}");
    assert!(found.contains("select public.users(id)"), "{found:?}");
    for text in [
        "CREATE POLICY p ON users USING (ssn < 'm')",
        "CREATE POLICY p ON orders USING (EXISTS (SELECT 1 FROM users u WHERE u.id = user_id AND u.ssn < 'm'))",
        "ALTER POLICY p ON users WITH CHECK (ssn < 'm')",
    ] {
        assert!(filters(text) && !opaque(text), "{text}");
    }
    for text in [
        "CREATE POLICY p ON orders USING (wipe() = 1)",
        "ALTER POLICY p ON orders USING (query_to_xml('SELECT 1', true, true, '') IS NULL)",
        "CREATE POLICY p ON nowhere USING (true)",
        // Whoever reads the table would do it unseen.
        "CREATE POLICY p ON orders USING (pg_notify('c', note) IS NULL)",
        "CREATE POLICY p ON orders USING (nextval('counter') > 0)",
        "ALTER POLICY p ON orders WITH CHECK (set_config('role', 'x', false) IS NULL)",
    ] {
        assert!(opaque(text), "{text}");
    }
}

#[test]
fn what_is_computed_only_for_some_values_and_can_fail_counts_as_a_filter() {
    for text in [
        "SELECT CASE WHEN ssn < 'm' THEN 1 / (id - id) ELSE 1 END FROM users",
        "SELECT CASE ssn WHEN 'x' THEN name::int END FROM users",
        "SELECT COALESCE(NULLIF(ssn, 'x'), (1 / (id - id))::text) FROM users",
        "SELECT ssn = 'x' AND 1 / (id - id) = 1 FROM users",
        "SELECT ssn BETWEEN 'a' AND (1 / (id - id))::text FROM users",
        "SELECT ssn IN (name, (1 / (id - id))::text) FROM users",
        "SELECT (ssn, 1) < ('m', 1 / (id - id)) FROM users",
        "SELECT ssn = ANY (SELECT (1 / (id - id))::text FROM orders) FROM users",
        "SELECT format('%*s', ssn, 'x') FROM users",
        "SELECT json_array_length(to_json(ssn)) FROM users",
    ] {
        assert!(filters(text), "{text}");
    }
    for text in [
        "SELECT CASE WHEN ssn IS NULL THEN round(id / 2.0, 2) END, COALESCE(ssn, id::text), COALESCE(email, '1'::int::text) FROM users",
        "SELECT CASE WHEN ssn LIKE '%x' THEN 'one' ELSE lower(name) END, format('%s %s', ssn, id) FROM users",
        "SELECT (SELECT email FROM users WHERE id = $1::int), id + 1, created::date FROM users WHERE id IN (SELECT user_id + 1 FROM orders)",
        "SELECT ssn IN ('a', 'b'), (ssn, 1) = ('x', 2) FROM users",
    ] {
        assert!(!filters(text), "{text}");
    }
    for text in [
        "SELECT (ssn, 1) < ('m', nextval('counter')) FROM users",
        "SELECT ssn BETWEEN 'a' AND nextval('counter')::text FROM users",
        "SELECT ssn IN (name, nextval('counter')::text) FROM users",
        "SELECT ssn IN (SELECT nextval('counter')::text FROM orders) FROM users",
    ] {
        assert!(actions(&judge(text)).contains("unmask pii"), "{text}");
    }
}

#[test]
fn a_star_of_merge_is_the_source_and_then_the_target() {
    let found = judge(
        "MERGE INTO orders o USING (SELECT id, upper(ssn) AS s FROM users) u ON o.id = u.id \
         WHEN MATCHED THEN UPDATE SET note = 'x' RETURNING *",
    );
    assert_eq!(output(&found.statements[0].output).unwrap(), "id ~s!pii id user_id total note");
    let found = judge(
        "MERGE INTO users u USING orders o ON o.id = u.id WHEN MATCHED THEN DELETE RETURNING old.ssn, u.ssn, o.note",
    );
    assert_eq!(output(&found.statements[0].output).unwrap(), "ssn!pii ssn!pii note");
}

#[test]
fn what_other_sessions_run_is_shown_as_a_secret() {
    let found = judge("SELECT * FROM pg_stat_get_activity(NULL)");
    assert_eq!(output(&found.statements[0].output).unwrap(), "?!card!pii");
}
