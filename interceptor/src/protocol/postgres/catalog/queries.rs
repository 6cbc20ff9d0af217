//! The questions that describe a database and a session (PostgreSQL 13 to 18).
//!
//! Temporary things of other sessions are left out, so that what they make changes nothing for anybody else; those of
//! the session itself are in [`SESSION_QUERY`].

/// Those of them that are computed anew where a relation is kept in order.
macro_rules! objects_in_order {
    ($is:literal) => {
        concat!(
            "SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS kind, i.indexrelid AS object, i.indrelid AS owner \
             FROM pg_catalog.pg_index i WHERE i.indrelid",
            $is,
            " UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, s.oid, s.stxrelid \
             FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid",
            $is
        )
    };
}

/// What runs where a relation is read: a view's query, policies of a table.
macro_rules! objects_that_look {
    ($at:literal) => {
        concat!(
            "SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass AS kind, r.oid AS object FROM pg_catalog.pg_rewrite r \
             WHERE r.ev_type = '1' AND r.ev_class = ",
            $at,
            " UNION ALL SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid FROM pg_catalog.pg_policy p \
             WHERE p.polrelid = ",
            $at
        )
    };
}

/// Objects that belong to a relation and hold expressions or operator classes, where the relation is as the text says.
macro_rules! objects_of_relations {
    ($is:literal) => {
        concat!(
            "SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass AS kind, a.oid AS object, a.adrelid AS owner \
             FROM pg_catalog.pg_attrdef a WHERE a.adrelid",
            $is,
            " UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid, k.conrelid \
             FROM pg_catalog.pg_constraint k WHERE k.conrelid",
            $is,
            " UNION ALL SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid, p.polrelid \
             FROM pg_catalog.pg_policy p WHERE p.polrelid",
            $is,
            " UNION ALL SELECT w.kind, w.object, w.owner FROM ( \
              WITH RECURSIVE looks(owner, at) AS ( \
               SELECT p.polrelid, v.refobjid FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_depend v \
                ON v.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND v.objid = p.oid \
                AND v.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND v.refobjid <> p.polrelid WHERE p.polrelid",
            $is,
            " UNION SELECT w.owner, d.refobjid FROM looks w CROSS JOIN LATERAL (",
            objects_that_look!("w.at"),
            ") AS s JOIN pg_catalog.pg_depend d ON d.classid = s.kind AND d.objid = s.object \
                 AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> w.at) \
              SELECT s.kind, s.object, x.owner FROM looks x CROSS JOIN LATERAL (",
            objects_that_look!("x.at"),
            ") AS s) AS w",
            " UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, y.partrelid, y.partrelid \
             FROM pg_catalog.pg_partitioned_table y WHERE y.partrelid",
            $is,
            " UNION ALL ",
            objects_in_order!($is)
        )
    };
}

/// The same of a type: itself, and its constraints.
macro_rules! objects_of_types {
    ($is:literal) => {
        concat!(
            "SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass AS kind, k.oid AS object, k.contypid AS owner \
             FROM pg_catalog.pg_constraint k WHERE k.contypid",
            $is,
            " UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, y.oid, y.oid FROM pg_catalog.pg_type y \
             WHERE y.typtype IN ('b','d','r','m') AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_type e \
              WHERE e.oid = y.typelem AND e.typarray = y.oid) AND y.oid",
            $is
        )
    };
}

/// What such objects depend on that can run: functions, those behind operators, types, operator classes.
macro_rules! code {
    () => {
        "JOIN pg_catalog.pg_depend d ON d.classid = o.kind AND d.objid = o.object AND d.refclassid IN ( \
          'pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass, \
          'pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_opclass'::pg_catalog.regclass) \
         LEFT JOIN pg_catalog.pg_operator q ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass \
          AND q.oid = d.refobjid"
    };
}

/// The function, type, or operator class of [`code`], one of them.
macro_rules! function {
    () => {
        "CASE WHEN d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass THEN d.refobjid ELSE q.oprcode::pg_catalog.oid END::text"
    };
}
macro_rules! kind {
    () => {
        "CASE WHEN d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass THEN d.refobjid END::text"
    };
}
macro_rules! class {
    () => {
        "CASE WHEN d.refclassid = 'pg_catalog.pg_opclass'::pg_catalog.regclass THEN d.refobjid END::text"
    };
}

/// Columns in constraints, but those against NULL, and in indexes that can refuse a value or compute with it. Of those
/// against NULL that are yet to be validated (18), the name alone.
macro_rules! bound {
    ($is:literal) => {
        concat!(
            "SELECT k.conrelid AS a, u.number::int4 AS b, k.conname::text AS name FROM pg_catalog.pg_constraint k \
             CROSS JOIN LATERAL pg_catalog.unnest(k.conkey) AS u(number) WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') \
              AND k.conrelid",
            $is,
            " UNION SELECT k.conrelid, -1, k.conname::text FROM pg_catalog.pg_constraint k WHERE k.contype = 'n' \
              AND NOT k.convalidated AND k.conrelid",
            $is,
            " UNION SELECT i.indrelid, d.refobjsubid, NULL FROM pg_catalog.pg_index i \
             JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = i.indexrelid \
              AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0 \
             WHERE (i.indisunique OR i.indisexclusion OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) AND i.indrelid",
            $is
        )
    };
}

/// All of it by owner, as lists.
macro_rules! code_by_owner {
    ($objects:expr) => {
        concat!(
            "(SELECT o.owner, pg_catalog.string_agg(DISTINCT ",
            function!(),
            ", ',') AS code, pg_catalog.string_agg(DISTINCT ",
            kind!(),
            ", ',') AS types, pg_catalog.string_agg(DISTINCT ",
            class!(),
            ", ',') AS classes FROM (",
            $objects,
            ") AS o ",
            code!(),
            " GROUP BY o.owner) AS x"
        )
    };
}

/// To be run first on the connection that loads: view definitions then name everything in full, and nothing is compiled
/// for queries that run once. Nor does the server go on with what nobody waits for any more: whoever holds a lock for long
/// would have it collect connections of ours until it has no room.
pub const SETUP: &str = "SELECT pg_catalog.set_config('search_path', '', false), \
     pg_catalog.set_config('jit', 'off', false), pg_catalog.set_config('lock_timeout', '2000', false), \
     pg_catalog.set_config('statement_timeout', '45000', false)";

/// The queries, in the order in which a [`super::Loader`] takes their rows. All columns are text.
pub const QUERIES: &[&str] = &[
    // 0: schemas
    "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(temp|toast)'",
    // 1: relations; what a server is asked for each of thousands of rows takes longer than one join. The definition of a
    // view is read under a lock on what it reads: where somebody holds another, it is empty, and so cannot be understood.
    concat!(
        "SELECT c.oid::text, n.nspname::text, c.relname::text, c.relkind::text, \
         CASE WHEN c.relkind IN ('v','m') AND c.oid >= 16384 THEN CASE WHEN held.view IS NOT NULL THEN '' \
           ELSE COALESCE(pg_catalog.pg_get_viewdef(c.oid), '') END END, \
         c.relhastriggers::text, \
         (EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1'))::text, \
         x.code, x.types, x.classes \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace LEFT JOIN ",
        code_by_owner!(objects_of_relations!(" <> 0")),
        " ON x.owner = c.oid \
         LEFT JOIN (SELECT DISTINCT r.ev_class AS view FROM pg_catalog.pg_locks l \
           JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = l.relation \
           JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid \
           WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' \
            AND l.database IN (0, (SELECT b.oid FROM pg_catalog.pg_database b WHERE b.datname = pg_catalog.current_database())) \
            AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()) AS held ON held.view = c.oid \
         WHERE c.relkind IN ('r','p','v','m','f','S','c') AND n.nspname !~ '^pg_(temp|toast)'"
    ),
    // 2: columns, their length, whether they are of the primary key, and whether their table is partitioned by them
    "SELECT a.attrelid::text, a.attnum::text, a.attname::text, a.atttypid::text, \
     COALESCE(a.attnum = ANY (pk.indkey), false)::text, \
     COALESCE(y.partexprs IS NOT NULL OR a.attnum = ANY (y.partattrs), false)::text, a.atttypmod::text \
     FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN pg_catalog.pg_index pk ON pk.indrelid = c.oid AND pk.indisprimary \
     LEFT JOIN pg_catalog.pg_partitioned_table y ON y.partrelid = c.oid \
     WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r','p','v','m','f','S','c') \
     AND n.nspname !~ '^pg_(temp|toast)' ORDER BY a.attrelid, a.attnum",
    // 3: functions
    "SELECT p.oid::text, n.nspname::text, p.proname::text, p.provolatile::text, p.prosecdef::text, l.lanname::text, \
     e.name FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
     JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
     LEFT JOIN (SELECT d.objid, pg_catalog.min(e.extname::text) AS name FROM pg_catalog.pg_depend d \
       JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass \
       AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' GROUP BY d.objid) AS e \
      ON e.objid = p.oid WHERE n.nspname !~ '^pg_(temp|toast)'",
    // 4: operators not of the system
    "SELECT n.nspname::text, o.oprname::text, o.oprcode::oid::text \
     FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace WHERE o.oid >= 16384 \
     AND n.nspname !~ '^pg_(temp|toast)'",
    // 5: types
    concat!(
        "SELECT t.oid::text, n.nspname::text, t.typname::text, t.typtype::text, \
         CASE t.typtype WHEN 'd' THEN t.typbasetype::text WHEN 'r' THEN COALESCE(g.rngsubtype, 0)::text \
          ELSE t.typelem::text END, t.typrelid::text, x.code, x.types, x.classes \
         FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
         LEFT JOIN pg_catalog.pg_range g ON g.rngtypid = t.oid LEFT JOIN ",
        code_by_owner!(objects_of_types!(" <> 0")),
        " ON x.owner = t.oid WHERE n.nspname !~ '^pg_(temp|toast)'"
    ),
    // 6: casts not of the system, by function; but those that the server makes with each range (of language internal),
    // which run what the type itself does
    "SELECT c.castsource::text, c.casttarget::text, c.castfunc::text FROM pg_catalog.pg_cast c \
     WHERE c.oid >= 16384 AND c.castfunc <> 0 AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_proc p \
      WHERE p.oid = c.castfunc AND p.prolang = 12 AND p.prosrc = 'multirange_constructor1')",
    // 7: inheritance and partitions
    "SELECT i.inhrelid::text, i.inhparent::text FROM pg_catalog.pg_inherits i \
     JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r','p','f') AND n.nspname !~ '^pg_(temp|toast)'",
    // 8: what columns are generated from; which object depends on it is another one since version 15
    "SELECT a.attrelid::text, a.attnum::text, d.refobjsubid::text FROM pg_catalog.pg_attribute a \
     JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum \
     JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
      AND d.refobjid = a.attrelid AND d.refobjsubid > 0 AND d.refobjsubid <> a.attnum \
     WHERE a.attgenerated <> '' AND NOT a.attisdropped AND n.nspname !~ '^pg_(temp|toast)' AND ( \
      (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.oid) OR \
      (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = a.attrelid AND d.objsubid = a.attnum))",
    // 9: members of operator families that the system did not make: family, types, function, symbol. Of those of somebody's
    // own family, all: which of the system's operators it takes for its own decides what sorts by them. With them, of no
    // family, what types call to collect statistics and to read what stands behind their names.
    "SELECT a.amprocfamily::text, a.amproclefttype::text, a.amprocrighttype::text, a.amproc::pg_catalog.oid::text, NULL \
     FROM pg_catalog.pg_amproc a WHERE a.amprocfamily >= 16384 OR a.amproc::pg_catalog.oid >= 16384 \
     UNION ALL SELECT a.amopfamily::text, a.amoplefttype::text, a.amoprighttype::text, o.oprcode::pg_catalog.oid::text, \
      o.oprname::text FROM pg_catalog.pg_amop a JOIN pg_catalog.pg_operator o ON o.oid = a.amopopr \
     WHERE a.amopfamily >= 16384 OR o.oid >= 16384 OR o.oprcode::pg_catalog.oid >= 16384 \
     UNION ALL SELECT '0', t.oid::text, t.oid::text, u.function::text, NULL FROM pg_catalog.pg_type t \
      CROSS JOIN LATERAL (VALUES (t.typanalyze::pg_catalog.oid), (t.typmodin::pg_catalog.oid), \
       (t.typmodout::pg_catalog.oid)) AS u(function) WHERE t.oid >= 16384 AND u.function >= 16384 \
       AND t.typnamespace NOT IN (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname ~ '^pg_(temp|toast)')",
    // 10: operator classes not of the system; only those of these methods sort and group
    "SELECT k.oid::text, n.nspname::text, k.opcname::text, k.opcfamily::text, k.opcintype::text, \
     (k.opcdefault AND m.amname IN ('btree', 'hash'))::text \
     FROM pg_catalog.pg_opclass k JOIN pg_catalog.pg_namespace n ON n.oid = k.opcnamespace \
     JOIN pg_catalog.pg_am m ON m.oid = k.opcmethod WHERE k.oid >= 16384",
    // 11: event triggers
    "SELECT evtname::text FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D'",
    // 12: columns of which a value can be refused, and by which constraint
    concat!(
        "SELECT r.a::text, r.b::text, r.name FROM (",
        bound!(" <> 0"),
        ") AS r JOIN pg_catalog.pg_class c ON c.oid = r.a JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname !~ '^pg_(temp|toast)'"
    ),
    // 13: what indexes and statistics call
    concat!(
        "SELECT c.oid::text, x.code, x.types, x.classes FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN ",
        code_by_owner!(objects_in_order!(" <> 0")),
        " ON x.owner = c.oid WHERE n.nspname !~ '^pg_(temp|toast)'"
    ),
    // 14: foreign keys, with what they do where a row is changed and where one is removed, and to which columns (version
    // 15). Those that are not enforced (18) do nothing, nor do those that a partition has from its parent: what refers is
    // changed through that one.
    "SELECT k.conrelid::text, k.confrelid::text, k.conname::text, pg_catalog.array_to_string(k.conkey, ','), \
     pg_catalog.array_to_string(k.confkey, ','), CASE WHEN p.oid IS NOT NULL \
       OR (k.confupdtype IN ('a', 'r') AND k.confdeltype IN ('a', 'r')) \
       OR pg_catalog.to_jsonb(k.*) ->> 'conenforced' = 'false' THEN 'aa' \
      ELSE k.confupdtype::text || k.confdeltype::text END || CASE WHEN k.conparentid <> 0 THEN 'i' ELSE '' END, \
     CASE WHEN k.confdeltype IN ('n', 'd') \
      THEN pg_catalog.translate(pg_catalog.to_jsonb(k.*) ->> 'confdelsetcols', '[] ', '') END \
     FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN pg_catalog.pg_constraint p ON p.oid = k.conparentid AND p.confrelid = k.confrelid \
     WHERE k.contype = 'f' AND n.nspname !~ '^pg_(temp|toast)'",
    // 15: relations that views or row policies read, of whatever session; tables whose rows policies hide, and what these look
    // at: columns as the server says that they depend on them; whole rows, of which it does not say whose they are
    "SELECT c.oid::text, 'false', NULL, NULL, NULL FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname !~ '^pg_(temp|toast)' AND c.oid IN (SELECT d.refobjid FROM pg_catalog.pg_depend d \
      LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = d.objid \
      WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid >= 16384 AND d.deptype = 'n' \
       AND d.classid IN ('pg_catalog.pg_rewrite'::pg_catalog.regclass, 'pg_catalog.pg_policy'::pg_catalog.regclass) \
       AND r.ev_class IS DISTINCT FROM d.refobjid) \
     UNION ALL SELECT DISTINCT c.oid::text, 'true', d.refobjid::text, CASE WHEN q.whole THEN 'row' \
       WHEN d.refobjsubid = 0 THEN 'rows' ELSE d.refobjsubid::text END, (p.polcmd IN ('*', 'r'))::text \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN (pg_catalog.pg_policy p CROSS JOIN LATERAL (SELECT \
        pg_catalog.concat(p.polqual::text, p.polwithcheck::text) ~ ':varattno 0 ' AS whole) AS q \
       JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.objid = p.oid \
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
        AND (d.refobjsubid <> 0 OR d.refobjid <> p.polrelid OR q.whole)) ON p.polrelid = c.oid \
     WHERE c.relrowsecurity AND n.nspname !~ '^pg_(temp|toast)'",
    // 16: columns of which equal values need not be the same, by their collation or an index's
    "SELECT x.a::text, x.b::text FROM ( \
      SELECT a.attrelid AS a, a.attnum::int4 AS b, a.attcollation AS c FROM pg_catalog.pg_attribute a \
       WHERE a.attnum > 0 AND NOT a.attisdropped \
      UNION SELECT i.indrelid, u.number::int4, u.kind FROM pg_catalog.pg_index i CROSS JOIN LATERAL \
       ROWS FROM (pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indcollation::oid[])) AS u(number, kind) \
       WHERE u.number > 0) AS x \
     JOIN pg_catalog.pg_collation k ON k.oid = x.c AND NOT k.collisdeterministic \
     JOIN pg_catalog.pg_class c ON c.oid = x.a JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname !~ '^pg_(temp|toast)'",
    // 17: the version
    "SELECT pg_catalog.current_setting('server_version_num')",
];

/// State of one session that decides what names mean; read its rows with [`super::Names::from_rows`].
pub const SESSION_QUERY: &str = concat!(
    "SELECT kind, a, b, c, d, e FROM ( \
     SELECT 0 AS part, 'path' AS kind, x.name::text AS a, NULL::text AS b, NULL::text AS c, NULL::text AS d, \
      NULL::text AS e, x.place AS place \
      FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY AS x(name, place) \
     UNION ALL SELECT 1, 'user', current_user::text, session_user::text, NULL, NULL, NULL, 0 \
     UNION ALL SELECT 2, 'text', pg_catalog.current_setting('standard_conforming_strings'), \
      pg_catalog.current_setting('client_encoding'), NULL, NULL, NULL, 0 \
     UNION ALL SELECT 3, 'relation', c.oid::text, n.nspname::text, c.relname::text, \
      c.relkind::text || CASE WHEN c.relhastriggers THEN 't' ELSE '' END || CASE WHEN EXISTS (SELECT 1 \
       FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1') THEN 'r' ELSE '' END, \
      CASE WHEN c.relkind = 'v' THEN pg_catalog.pg_get_viewdef(c.oid) END, 0 \
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
      WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r','p','v','m','f','S','c') \
     UNION ALL SELECT 3, 'type', t.oid::text, t.typname::text, t.typtype::text, \
      CASE t.typtype WHEN 'd' THEN t.typbasetype::text WHEN 'r' THEN COALESCE((SELECT g.rngsubtype \
       FROM pg_catalog.pg_range g WHERE g.rngtypid = t.oid), 0)::text ELSE t.typelem::text END, t.typrelid::text, 0 \
      FROM pg_catalog.pg_type t WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND t.typnamespace = pg_catalog.pg_my_temp_schema() \
     UNION ALL SELECT 4, 'column', a.attrelid::text, a.attnum::text, a.attname::text, a.atttypid::text, \
      CASE WHEN a.attnum = ANY (pk.indkey) THEN 'p' ELSE '' END || CASE WHEN y.partrelid IS NOT NULL \
       AND (y.partexprs IS NOT NULL OR a.attnum = ANY (y.partattrs)) THEN 'k' ELSE '' END || ':' || a.atttypmod::text, a.attnum \
      FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
      LEFT JOIN pg_catalog.pg_index pk ON pk.indrelid = c.oid AND pk.indisprimary \
      LEFT JOIN pg_catalog.pg_partitioned_table y ON y.partrelid = c.oid \
      WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r','p','v','m','f','S','c') \
      AND a.attnum > 0 AND NOT a.attisdropped \
     UNION ALL SELECT 5, 'heir', i.inhrelid::text, i.inhparent::text, NULL, NULL, NULL, 0 \
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid \
      WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r','p','f') \
     UNION ALL SELECT 5, 'bound', r.a::text, r.b::text, r.name, NULL, NULL, 0 FROM pg_catalog.pg_class c CROSS JOIN LATERAL (",
    bound!(" = c.oid"),
    ") AS r WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r','p','f') \
     UNION ALL SELECT 5, 'key', k.conrelid::text, k.confrelid::text, pg_catalog.array_to_string(k.conkey, ','), \
      pg_catalog.array_to_string(k.confkey, ','), pg_catalog.concat(k.confupdtype, k.confdeltype, CASE WHEN k.conparentid OPERATOR(pg_catalog.<>) 0 THEN 'i' END, ':', k.conname), 0 \
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f' \
      WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r','p','f') \
     UNION ALL SELECT 5, 'generated', a.attrelid::text, a.attnum::text, d.refobjsubid::text, NULL, NULL, 0 \
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
      JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum \
      JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
       AND d.refobjid = a.attrelid AND d.refobjsubid > 0 AND d.refobjsubid <> a.attnum \
      WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND c.relnamespace = pg_catalog.pg_my_temp_schema() AND a.attgenerated <> '' AND NOT a.attisdropped AND ( \
       (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.oid) OR \
       (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = a.attrelid AND d.objsubid = a.attnum)) \
     UNION ALL SELECT 5, 'code', o.owner::text, ",
    function!(),
    ", ",
    kind!(),
    ", ",
    class!(),
    ", NULL, 0 FROM pg_catalog.pg_class c CROSS JOIN LATERAL (",
    objects_of_relations!(" = c.oid"),
    ") AS o ",
    code!(),
    " WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r','p','v','m','f','S') \
     UNION ALL SELECT 5, 'inner', o.owner::text, ",
    function!(),
    ", ",
    kind!(),
    ", ",
    class!(),
    ", NULL, 0 FROM pg_catalog.pg_type t CROSS JOIN LATERAL (",
    objects_of_types!(" = t.oid"),
    ") AS o ",
    code!(),
    " WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND t.typnamespace = pg_catalog.pg_my_temp_schema()) AS state ORDER BY part, place"
);
