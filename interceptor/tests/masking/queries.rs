//! Queries over a value: every sort of select list, grouping, window, set operation and whole row.

use super::corpus::Corpus;

/// Tables whose rows are taken as a whole.
const WHOLE: &[&str] = &[
    "people",
    "folk",
    "folk_deep",
    "folk_guarded",
    "folk_union",
    "folk_json",
    "folk_kept",
    "folk_base",
    "folk_child",
    "logs",
    "logs_low",
    "made",
    "booked",
    "orders",
    "strict",
    "twice",
    "agent.tagged",
];

/// A select list over a whole row `t`.
const ROWS: &[&str] = &[
    "*",
    "t",
    "t.*",
    "(t).*",
    "t::text",
    "t.id, t",
    "ROW(t.*)",
    "ROW(t.*)::text",
    "row_to_json(t)",
    "to_jsonb(t)",
    "to_jsonb(t) - 'id'",
    "to_json(t)::text",
    "row_to_json(t, true)::text",
    "row_to_json(ROW(t.*))",
    "json_build_object('r', t)",
    "jsonb_build_array(t, 1)",
    "array_agg(t)",
    "array_agg(t)::text",
    "json_agg(t)",
    "jsonb_agg(t) -> 0",
    "jsonb_object_agg(t.id, t)",
    "json_object_agg(t.id, t)::text",
    "hstore(t)",
    "avals(hstore(t))",
    "hstore_to_json(hstore(t))",
    "concat(t)",
    "concat_ws(',', t.*)",
    "format('%s', t)",
    "quote_literal(t)",
    "string_agg(t::text, ',')",
    "xmlforest(t.*)",
    "xmlelement(name r, t)",
    "xmlagg(xmlelement(name r, t::text))",
    "md5(t::text)",
    "length(t::text)",
    "count(t)",
    "max(t::text)",
    "(SELECT s FROM (SELECT t.*) s)",
    "(SELECT row_to_json(s) FROM (SELECT t.*) s)",
    "(array_agg(t))[1]",
    "((array_agg(t))[1]).*",
    "ARRAY(SELECT t)",
    "(SELECT array_agg(e.value) FROM jsonb_each(to_jsonb(t)) e)",
    "(SELECT string_agg(e.value, ',') FROM json_each_text(row_to_json(t)) e)",
    "jsonb_path_query_array(to_jsonb(t), '$.*')",
    "jsonb_path_query(to_jsonb(t), '$.keyvalue()')",
    "jsonb_each(to_jsonb(t))",
    "(jsonb_each_text(to_jsonb(t))).value",
    "jsonb_pretty(to_jsonb(t))",
    "jsonb_populate_record(t, '{}')",
    "(jsonb_populate_record(t, '{}')).*",
    "lag(t, 0) OVER (ORDER BY t.id)",
    "first_value(t) OVER ()",
    "CASE WHEN true THEN t END",
    "coalesce(t, NULL)",
    "t IS NULL",
    "t = t",
    "hashtext(t::text)",
    "record_send(t)",
    "encode(record_send(t), 'hex')",
    "pg_column_size(t)",
    "to_tsvector('simple', t::text)",
];

impl Corpus {
    /// A query whose first columns are untagged, and the others made from a value.
    pub(super) fn query(&mut self) -> String {
        self.depth = 0;
        if self.tagged && self.draws.chance(15) {
            return self.whole_row();
        }
        let (from, value) = self.source("p");
        match self.draws.below(24) {
            0..=7 => format!("SELECT p.id, {} AS v FROM {from}", self.value(&value)),
            8 => format!("SELECT {}", self.scalar()),
            9 => format!("SELECT {} AS id, p.id AS v FROM {from}", self.value(&value)),
            10..=13 => self.aggregated(&from, &value),
            14 | 15 => self.windowed(&from, &value),
            16 => format!("SELECT * FROM (SELECT p.id, {} AS v FROM {from}) q", self.value(&value)),
            17 => format!("WITH q AS (SELECT p.id, {} AS v FROM {from}) TABLE q", self.text(&value)),
            18 => {
                let other = self.scalar();
                format!("SELECT p.id, {}::text AS v FROM {from} UNION ALL SELECT 7, {other}::text", self.text(&value))
            }
            19 => format!("SELECT 7 AS id, 'x' AS v UNION ALL SELECT p.id, {}::text FROM {from}", self.text(&value)),
            20 => format!("VALUES (1, {}), (2, 'x')", self.scalar()),
            21 => format!("SELECT p.id, {} FROM {from}", self.set(&value)),
            22 => format!("SELECT DISTINCT ON (p.id) p.id, {} AS v FROM {from} ORDER BY p.id", self.value(&value)),
            _ => format!(
                "SELECT p.id, {} AS v, {} AS w FROM {from} ORDER BY p.id LIMIT 3",
                self.value(&value),
                self.value(&value)
            ),
        }
    }

    /// A sub-select that gives one value.
    pub(super) fn scalar(&mut self) -> String {
        let (from, value) = self.source("s");
        let text = self.text(&value);
        match self.draws.below(6) {
            0 | 1 => format!("(SELECT {text} FROM {from} LIMIT 1)"),
            2 => format!("(SELECT max({text}) FROM {from})"),
            3 => format!("(SELECT string_agg({text}, ',') FROM {from})"),
            4 => format!("(array(SELECT {text} FROM {from}))[1]"),
            _ => format!("(SELECT {text} FROM {from} ORDER BY s.id OFFSET 0 FETCH FIRST 1 ROW ONLY)"),
        }
    }

    fn whole_row(&mut self) -> String {
        let table = self.draws.one(WHOLE);
        let list = self.draws.one(ROWS);
        match self.draws.below(8) {
            0..=4 => format!("SELECT {list} FROM {table} t"),
            5 => format!("TABLE {table}"),
            6 => format!("SELECT {list} FROM (SELECT * FROM {table}) t"),
            _ => format!("WITH t AS (TABLE {table}) SELECT {list} FROM t"),
        }
    }

    fn aggregated(&mut self, from: &str, value: &str) -> String {
        let text = self.text(value);
        let aggregate = self.draws.one(&[
            "max(¤)",
            "min(¤)",
            "string_agg(¤, ',')",
            "string_agg(¤, ',' ORDER BY p.id)",
            "string_agg(DISTINCT ¤, ',')",
            "array_agg(¤)",
            "array_agg(¤) FILTER (WHERE p.id > 0)",
            "json_agg(¤)",
            "jsonb_agg(¤)",
            "json_object_agg(p.id, ¤)",
            "jsonb_object_agg(p.id::text || ¤, 1)",
            "xmlagg(xmlelement(name x, ¤))",
            "mode() WITHIN GROUP (ORDER BY ¤)",
            "percentile_disc(0.5) WITHIN GROUP (ORDER BY ¤)",
            "percentile_disc(ARRAY[0, 0.5, 1]) WITHIN GROUP (ORDER BY ¤)",
            "rank('m') WITHIN GROUP (ORDER BY ¤)",
            "count(¤)",
            "count(DISTINCT ¤)",
            "bool_or(¤ > 'm')",
            "every(¤ > 'm')",
            "sum(length(¤))",
            "avg(ascii(¤))",
            "bit_xor(hashtext(¤))",
            "array_agg(ROW(p.id, ¤))",
            "(array_agg(¤))[1]",
            "array_to_string(array_agg(¤), '')",
            "hstore(array_agg(p.id::text), array_agg(¤))",
        ]);
        let aggregate = aggregate.replace('¤', &text);
        match self.draws.below(5) {
            0 => format!("SELECT {aggregate} AS v FROM {from}"),
            1 => format!("SELECT p.id, {aggregate} AS v FROM {from} GROUP BY p.id"),
            2 => format!("SELECT p.id, {aggregate} AS v FROM {from} GROUP BY GROUPING SETS ((p.id), ())"),
            3 => format!("SELECT p.id, {aggregate} AS v FROM {from} GROUP BY ROLLUP (p.id) HAVING count(*) > 0"),
            _ => format!("SELECT p.id % 2 AS id, {aggregate} AS v FROM {from} GROUP BY CUBE (1)"),
        }
    }

    fn windowed(&mut self, from: &str, value: &str) -> String {
        let text = self.text(value);
        let call = self.draws.one(&[
            "lag(¤) OVER (ORDER BY p.id)",
            "lead(¤, 1, 'none') OVER (ORDER BY p.id)",
            "first_value(¤) OVER ()",
            "last_value(¤) OVER (ORDER BY p.id)",
            "nth_value(¤, 2) OVER ()",
            "max(¤) OVER (PARTITION BY p.id)",
            "string_agg(¤, ',') OVER w",
            "array_agg(¤) OVER (ORDER BY p.id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
            "first_value(ROW(¤, p.id)) OVER w",
            "count(¤) OVER w",
        ]);
        format!("SELECT p.id, {} AS v FROM {from} WINDOW w AS (ORDER BY p.id)", call.replace('¤', &text))
    }

    /// A call that gives several rows.
    fn set(&mut self, value: &str) -> String {
        let text = self.text(value);
        let call = self.draws.one(&[
            "unnest(ARRAY[¤])",
            "unnest(string_to_array(¤, NULL))",
            "string_to_table(¤, NULL)",
            "regexp_split_to_table(¤, '')",
            "regexp_matches(¤, '.', 'g')",
            "jsonb_array_elements(jsonb_build_array(¤))",
            "json_array_elements_text(json_build_array(¤))",
            "jsonb_each(jsonb_build_object('k', ¤))",
            "json_object_keys(json_build_object(¤, 1))",
            "jsonb_path_query(to_jsonb(¤), '$')",
            "skeys(hstore(¤, 'x'))",
            "svals(hstore('x', ¤))",
            "each(hstore('x', ¤))",
            "ts_parse('default', ¤)",
            "unnest(to_tsvector('simple', ¤))",
            "generate_series(1, ascii(¤))",
            "generate_subscripts(string_to_array(¤, NULL), 1)",
        ]);
        call.replace('¤', &text)
    }
}
