//! Questions about a value that show it bit by bit: which rows are seen, in which order, in which groups, and whether the
//! statement fails. `context.filters_on_masked` has to be set for each.

use super::corpus::Corpus;

/// `¤` is a value of an alias `p`, in a FROM of `@`.
const QUESTIONS: &[(&str, &str)] = &[
    ("WHERE", "SELECT p.id FROM @ WHERE ¤ < 'm'"),
    ("WHERE", "SELECT count(*) FROM @ WHERE ¤ LIKE 'k%'"),
    ("WHERE", "SELECT p.id FROM @ WHERE p.id = 1 AND NOT (¤ ~ '^kb')"),
    ("WHERE CASE", "SELECT p.id FROM @ WHERE CASE WHEN ¤ < 'm' THEN p.id > 0 ELSE false END"),
    ("WHERE IN", "SELECT p.id FROM @ WHERE 'kx' IN (SELECT ¤)"),
    ("WHERE EXISTS", "SELECT s.id FROM people s WHERE EXISTS (SELECT 1 FROM @ WHERE p.id = s.id AND ¤ < 'm')"),
    ("WHERE EXISTS", "SELECT EXISTS (SELECT 1 FROM @ WHERE ¤ < 'm')"),
    ("WHERE ANY", "SELECT s.id FROM people s WHERE 'm' > ANY (SELECT ¤ FROM @)"),
    ("HAVING", "SELECT 1 FROM @ HAVING max(¤) < 'm'"),
    ("HAVING", "SELECT p.id FROM @ GROUP BY p.id HAVING bool_or(¤ < 'm')"),
    ("JOIN ON", "SELECT s.n FROM generate_series(1, 99) s(n) JOIN @ ON ascii(¤) = s.n"),
    ("JOIN ON", "SELECT p.id FROM @ LEFT JOIN people s ON ¤ = s.name"),
    ("JOIN USING", "SELECT 1 FROM (SELECT ¤ AS v FROM @) a JOIN (VALUES ('x')) b(v) USING (v)"),
    ("NATURAL JOIN", "SELECT 1 FROM (SELECT ¤ AS v FROM @) a NATURAL JOIN (VALUES ('x')) b(v)"),
    ("semi join", "SELECT s.id FROM people s WHERE s.name IN (SELECT ¤ FROM @)"),
    ("anti join", "SELECT s.id FROM people s WHERE s.name NOT IN (SELECT ¤ FROM @)"),
    ("ORDER BY", "SELECT p.id FROM @ ORDER BY ¤"),
    ("ORDER BY", "SELECT p.id FROM @ ORDER BY ¤ USING <"),
    ("ORDER BY output", "SELECT p.id, ¤ AS o FROM @ ORDER BY o"),
    ("ORDER BY number", "SELECT p.id, ¤ FROM @ ORDER BY 2 DESC"),
    ("ORDER BY in an aggregate", "SELECT array_agg(p.id ORDER BY ¤) FROM @"),
    ("GROUP BY", "SELECT count(*) FROM @ GROUP BY ¤"),
    ("GROUP BY", "SELECT count(*) FROM @ GROUP BY ROLLUP (left(¤, 2))"),
    ("GROUP BY number", "SELECT ¤, count(*) FROM @ GROUP BY 1"),
    ("DISTINCT", "SELECT DISTINCT ¤ FROM @"),
    ("DISTINCT ON", "SELECT DISTINCT ON (left(¤, 1)) p.id FROM @"),
    ("PARTITION BY", "SELECT p.id, count(*) OVER (PARTITION BY left(¤, 1)) FROM @"),
    ("window ORDER BY", "SELECT p.id, rank() OVER (ORDER BY ¤) FROM @"),
    ("window ORDER BY", "SELECT p.id, rank() OVER w FROM @ WINDOW w AS (ORDER BY ¤)"),
    (
        "window frame",
        "SELECT p.id, count(*) OVER (ORDER BY p.id ROWS (SELECT ascii(max(¤)) FROM @) PRECEDING) FROM people p",
    ),
    ("LIMIT", "SELECT s.id FROM people s LIMIT (SELECT length(¤) - 20 FROM @ LIMIT 1)"),
    ("OFFSET", "SELECT s.n FROM generate_series(1, 200) s(n) OFFSET (SELECT ascii(¤) FROM @ LIMIT 1)"),
    (
        "FETCH FIRST",
        "SELECT s.n FROM generate_series(1, 200) s(n) FETCH FIRST (SELECT ascii(¤) FROM @ LIMIT 1) ROWS ONLY",
    ),
    ("FILTER", "SELECT count(*) FILTER (WHERE ¤ < 'm') FROM @"),
    ("FILTER", "SELECT array_agg(p.id) FILTER (WHERE ¤ < 'm') FROM @"),
    ("UNION", "SELECT ¤ FROM @ UNION SELECT 'x'"),
    ("INTERSECT", "SELECT ¤ FROM @ INTERSECT SELECT 'x'"),
    ("INTERSECT ALL", "SELECT ¤ FROM @ INTERSECT ALL SELECT 'x'"),
    ("EXCEPT", "SELECT 'x' EXCEPT SELECT ¤ FROM @"),
    ("recursive UNION", "WITH RECURSIVE r AS (SELECT ¤ AS v FROM @ UNION SELECT v FROM r) SELECT count(*) FROM r"),
    (
        "CYCLE",
        "WITH RECURSIVE r AS (SELECT p.id, ¤ AS v FROM @ UNION ALL SELECT r.id + 1, r.v FROM r WHERE r.id < 5) CYCLE v SET c USING w SELECT id FROM r",
    ),
    ("set-returning function", "SELECT 1 FROM @, generate_series(1, ascii(¤))"),
    ("set-returning function", "SELECT generate_series(1, ascii(¤)) FROM @"),
    ("set-returning function", "SELECT p.id, unnest(string_to_array(¤, NULL)) FROM @"),
    ("set-returning function", "SELECT p.id, regexp_split_to_table(¤, '') FROM @"),
    ("set-returning function", "SELECT p.id, skeys(hstore(string_to_array(¤ || 'xx', NULL), NULL)) FROM @"),
    ("TABLESAMPLE", "SELECT s.id FROM people s TABLESAMPLE bernoulli ((SELECT ascii(¤) FROM @ LIMIT 1))"),
    (
        "TABLESAMPLE REPEATABLE",
        "SELECT s.id FROM people s TABLESAMPLE bernoulli (50) REPEATABLE ((SELECT ascii(¤) FROM @ LIMIT 1))",
    ),
    ("LATERAL", "SELECT s.n FROM @, LATERAL (SELECT n FROM generate_series(1, 200) n WHERE n = ascii(¤)) s"),
    ("UPDATE", "UPDATE agent.sink SET v = 'x' FROM @ WHERE ¤ < 'm'"),
    ("DELETE", "DELETE FROM orders USING @ WHERE orders.person = p.id AND ¤ < 'm'"),
    ("INSERT SELECT", "INSERT INTO agent.sink (id) SELECT p.id FROM @ WHERE ¤ < 'm'"),
    ("ON CONFLICT", "INSERT INTO booked (id, ssn) VALUES (9, 'guess') ON CONFLICT (ssn) DO NOTHING"),
    ("ON CONFLICT", "INSERT INTO booked (id, ssn) VALUES (9, 'guess') ON CONFLICT DO NOTHING"),
    (
        "ON CONFLICT",
        "INSERT INTO booked (id, v) VALUES (9, 'v1') ON CONFLICT (v) DO UPDATE SET id = 8 WHERE booked.ssn < 'm'",
    ),
    ("MERGE", "MERGE INTO agent.sink t USING @ ON t.v = ¤ WHEN NOT MATCHED THEN INSERT (id) VALUES (1)"),
    (
        "MERGE",
        "MERGE INTO agent.sink t USING @ ON t.id = p.id WHEN NOT MATCHED AND ¤ < 'm' THEN INSERT (id) VALUES (1)",
    ),
    ("COPY", "COPY (SELECT p.id FROM @ WHERE ¤ < 'm') TO STDOUT"),
    ("EXPLAIN", "EXPLAIN SELECT 1 FROM @ WHERE ¤ < 'm'"),
    ("EXPLAIN ANALYZE", "EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) SELECT p.id FROM @ WHERE ¤ < 'm'"),
    (
        "EXPLAIN ANALYZE",
        "EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) SELECT * FROM (SELECT p.id, repeat('x', ascii(¤) * 999) FROM @) q ORDER BY 1, 2",
    ),
    ("partial index", "CREATE INDEX agent_index ON people (id) WHERE ssn < 'm'"),
    ("CHECK", "ALTER TABLE people ADD CHECK (ssn < 'm')"),
    ("division by zero", "SELECT 1 / (CASE WHEN ¤ < 'm' THEN 0 ELSE 1 END) FROM @"),
    ("division by zero", "SELECT 1 / nullif((¤ < 'm')::int, 0) FROM @"),
    ("division by zero", "SELECT 1 / (SELECT count(*) FROM @ WHERE ¤ < 'm')"),
    ("cast", "SELECT (¤)::int FROM @"),
    ("cast", "SELECT (CASE WHEN ¤ < 'm' THEN '1' ELSE 'x' END)::int FROM @"),
    ("overflow", "SELECT ascii(¤) * 99999999 FROM @"),
    ("function that fails", "SELECT chr(ascii(¤) - 107) FROM @"),
    ("function that fails", "SELECT decode(¤, 'hex') FROM @"),
    ("function that fails", "SELECT to_date(¤, 'YYYY') FROM @"),
    ("sub-select of several rows", "SELECT (SELECT n FROM generate_series(1, 2) n WHERE n = 1 OR ¤ < 'm') FROM @"),
    ("index", "SELECT (ARRAY[[1]])[ascii(¤)] FROM @ WHERE ¤ > ''"),
    ("RAISE", "SELECT CASE WHEN ¤ < 'm' THEN shout('x') END FROM @"),
    ("view of one's own", "CREATE VIEW agent.v AS SELECT p.id FROM @ WHERE ¤ < 'm'"),
    ("row policy", "CREATE POLICY p ON orders USING (EXISTS (SELECT 1 FROM @ WHERE ¤ < 'm'))"),
    ("row policy", "CREATE POLICY p ON people USING (ssn < 'm')"),
    ("view's column", "SELECT id FROM folk WHERE x < 'm'"),
    ("view's column", "SELECT id FROM folk_deep ORDER BY deep"),
];

impl Corpus {
    /// A question, and its kind.
    pub(super) fn oracle(&mut self) -> (&'static str, String) {
        let (from, value) = self.source("p");
        let text = self.text(&value);
        let at = self.draws.below(QUESTIONS.len());
        let (kind, question) = QUESTIONS[at];
        (kind, question.replace('@', &from).replace('¤', &text))
    }

    /// One question of each kind, plainly, and so many others.
    pub(crate) fn oracles(&mut self, more: usize) -> Vec<(&'static str, String)> {
        self.tagged = true;
        let plain =
            QUESTIONS.iter().map(|(kind, question)| (*kind, question.replace('@', "people p").replace('¤', "p.ssn")));
        let mut all: Vec<_> = plain.collect();
        for _ in 0..more {
            self.depth = 0;
            all.push(self.oracle());
        }
        all
    }
}
