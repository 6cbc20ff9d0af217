//! Expressions over a value that may not be seen, and FROM items that offer one.

use super::corpus::Corpus;

/// Relations with a tagged column (`¤` is an alias), text unless a cast makes it one.
const TAGGED: &[(&str, &str)] = &[
    ("people", "¤.ssn"),
    ("people", "¤.email"),
    ("people", "¤.card"),
    ("people", "¤.ref"),
    ("people", "¤.phone"),
    ("people", "¤.code"),
    ("people", "¤.nick"),
    ("people", "¤.dom"),
    ("people", "¤.gone"),
    ("people", "¤.salary::text"),
    ("people", "¤.born::text"),
    ("people", "¤.big::text"),
    ("people", "¤.score::text"),
    ("people", "¤.seen::text"),
    ("people", "¤.small::text"),
    ("people", "¤.key::text"),
    ("people", "encode(¤.secret, 'hex')"),
    ("people", "host(¤.addr)"),
    ("people", "(¤.doc ->> 'k')"),
    ("people", "(¤.doc #>> '{n,1,m}')"),
    ("people", "(¤.docj ->> 'k')"),
    ("people", "¤.mark::text"),
    ("people", "¤.tags[1]"),
    ("people", "(¤.couple).a"),
    ("people", "lower(¤.spans)::text"),
    ("people", "upper(¤.days)::text"),
    ("people", "¤.words::text"),
    ("people", "(¤.extra -> 'k')"),
    ("public.people", "¤.ssn"),
    ("folk", "¤.x"),
    ("folk", "¤.z"),
    ("folk_deep", "¤.deep"),
    ("folk_guarded", "¤.hidden"),
    ("folk_union", "¤.any"),
    ("folk_json", "(¤.everything ->> 'ssn')"),
    ("folk_kept", "¤.kept"),
    ("folk_kept", "¤.twice::text"),
    ("folk_base", "¤.ssn"),
    ("folk_child", "¤.ssn"),
    ("logs", "¤.ssn"),
    ("logs_low", "¤.ssn"),
    ("made", "¤.ssn"),
    ("made", "¤.loud"),
    ("booked", "¤.ssn"),
    ("orders", "¤.ssn"),
    ("strict", "¤.ssn"),
    ("twice", "¤.ssn"),
    ("agent.tagged", "¤.ssn"),
];

/// Relations without one.
const UNTAGGED: &[(&str, &str)] = &[
    ("people", "¤.name"),
    ("people", "¤.team"),
    ("people", "¤.note"),
    ("folk", "¤.name"),
    ("folk_deep", "¤.what"),
    ("folk_guarded", "¤.team"),
    ("folk_kept", "¤.name"),
    ("folk_base", "¤.label"),
    ("logs", "¤.who"),
    ("made", "¤.plain::text"),
    ("booked", "¤.v"),
    ("orders", "¤.what"),
    ("orders", "¤.amount::text"),
];

/// Text of text.
const TEXT: &[&str] = &[
    "¤",
    "upper(¤)",
    "lower(¤)",
    "reverse(¤)",
    "left(¤, 9)",
    "right(¤, 9)",
    "substr(¤, 2, 9)",
    "substring(¤ from 2 for 8)",
    "substring(¤ from '.(.*)')",
    "(¤ || '!')",
    "concat('<', ¤, '>')",
    "concat_ws(',', ¤, 'x')",
    "format('%s', ¤)",
    "format('%L', ¤)",
    "quote_literal(¤)",
    "quote_ident(¤)",
    "quote_nullable(¤)",
    "repeat(¤, 2)",
    "lpad(¤, 60, '.')",
    "rpad(¤, 60)",
    "btrim(¤)",
    "replace(¤, 'a', 'b')",
    "translate(¤, 'aeiou', 'AEIOU')",
    "regexp_replace(¤, 'x', 'y', 'g')",
    "(regexp_match(¤, '.*'))[1]",
    "split_part(¤, '_', 1)",
    "overlay(¤ placing 'Q' from 1 for 1)",
    "initcap(¤)",
    "normalize(¤)",
    "md5(¤)",
    "encode(convert_to(¤, 'UTF8'), 'hex')",
    "encode(convert_to(¤, 'UTF8'), 'base64')",
    "encode(convert_to(¤, 'UTF8'), 'escape')",
    "encode(sha256(convert_to(¤, 'UTF8')), 'hex')",
    "convert_from(convert_to(¤, 'LATIN1'), 'LATIN1')",
    "convert_to(¤, 'UTF8')::text",
    "(¤)::varchar",
    "(¤)::bpchar::text",
    "(¤)::name::text",
    "(¤)::citext::text",
    "(¤)::secretive::text",
    "cast(¤ AS varchar(30))",
    "¤ COLLATE \"C\"",
    "coalesce(¤, 'none')",
    "nullif(¤, 'none')",
    "greatest(¤, '')",
    "CASE WHEN true THEN ¤ ELSE 'none' END",
    "CASE 1 WHEN 1 THEN ¤ END",
    "(ARRAY[¤, 'x'])[1]",
    "(SELECT ¤)",
    "(SELECT s.v FROM (SELECT ¤ AS v) s)",
    "(SELECT max(s.v) FROM (VALUES (¤)) s(v))",
    "(ROW(¤, 1)::pair).a",
    "to_json(¤) #>> '{}'",
    "to_jsonb(¤) #>> '{}'",
    "json_build_object('k', ¤) ->> 'k'",
    "jsonb_build_array(¤) ->> 0",
    "json_build_object(¤, 1)::text",
    "jsonb_object(ARRAY['k', ¤]) ->> 'k'",
    "jsonb_set('{}', '{k}', to_jsonb(¤)) ->> 'k'",
    "jsonb_path_query_first(to_jsonb(¤), '$') #>> '{}'",
    "jsonb_path_query_array(jsonb_build_array(¤), '$[*]')::text",
    "jsonb_pretty(to_jsonb(¤))",
    "to_jsonb(ARRAY[¤])::text",
    "array_to_string(ARRAY[¤], ',')",
    "array_to_json(ARRAY[¤])::text",
    "array_to_string(string_to_array(¤, NULL), ',')",
    "array_to_string(array_append(ARRAY['x'], ¤), '')",
    "(string_to_array(¤, NULL))::text",
    "hstore('k', ¤) -> 'k'",
    "hstore(ROW(¤)) ::text",
    "to_tsvector('simple', ¤)::text",
    "array_to_string(tsvector_to_array(to_tsvector('simple', ¤)), '')",
    "xmlelement(name x, ¤)::text",
    "xmlforest(¤ AS x)::text",
    "xmlelement(name x, xmlattributes(¤ AS y))::text",
    "xmlpi(name x, ¤)::text",
    "xmlcomment(¤)::text",
    "xmlconcat(xmlelement(name x, ¤), xmlelement(name y))::text",
    "xmlserialize(content xmlelement(name x, ¤) AS text)",
    "(xpath('//text()', xmlelement(name x, ¤)))[1]::text",
    "(SELECT string_agg(c, '' ORDER BY 1) FROM (SELECT ¤ AS c) s)",
    "numrange(length(¤), NULL)::text",
    "ROW(¤, 1)::text",
    "ascii(¤)::text",
    "length(¤)::text",
    "octet_length(¤)::text",
    "hashtext(¤)::text",
    "hashtextextended(¤, 1)::text",
    "to_hex(ascii(¤))",
    "chr(ascii(¤))",
    "position('k' in ¤)::text",
    "strpos(¤, 'x')::text",
    "(¤ < 'm')::text",
    "(¤ LIKE 'k%')::text",
    "(¤ ~ '^k')::text",
    "starts_with(¤, 'kb')::text",
    "(¤ IN ('a', 'b'))::text",
    "(¤ = ANY (ARRAY['x', 'y']))::text",
    "(¤ IS DISTINCT FROM 'x')::text",
    "(ROW(¤, 1) < ROW('m', 1))::text",
    "(¤ BETWEEN 'a' AND 'm')::text",
    "EXISTS (SELECT 1 WHERE ¤ < 'm')::text",
    "soundex(¤)",
    "metaphone(¤, 20)",
    "levenshtein(¤, 'kxz')::text",
    "pg_typeof(¤)::text",
    "to_char(length(¤), '999')",
    "bit_length(¤)::text",
    "pg_column_size(¤)::text",
    "bit_count(convert_to(¤, 'UTF8'))::text",
    "get_byte(convert_to(¤, 'UTF8'), 3)::text",
    "set_byte(convert_to(¤, 'UTF8'), 0, 65)::text",
    "sha512(convert_to(¤, 'UTF8'))::text",
    "crypt(¤, 'aa')",
    "digest(¤, 'sha1')::text",
    "pgp_sym_decrypt(pgp_sym_encrypt(¤, 'k'), 'k')",
    "(¤)::xml::text",
    "ts_headline('simple', ¤, to_tsquery('simple', 'x'))",
    "unistr(¤)",
    "parse_ident(¤, false)::text",
    "echo(¤)",
    "shout(¤)",
];

/// What newer servers have: since when, and the text.
const NEWER: &[(u32, &str)] = &[
    (16, "any_value(¤) OVER ()"),
    (16, "JSON_OBJECT('k': ¤)::text"),
    (16, "JSON_ARRAY(¤)::text"),
    (16, "(SELECT JSON_ARRAYAGG(¤)::text)"),
    (16, "(SELECT JSON_OBJECTAGG('k': ¤)::text)"),
    (17, "JSON_VALUE(to_jsonb(¤), '$')"),
    (17, "JSON_QUERY(to_jsonb(¤), '$' WITH WRAPPER)::text"),
    (17, "JSON_EXISTS(to_jsonb(¤), '$')::text"),
    (17, "JSON_SERIALIZE(JSON_SCALAR(¤))"),
    (17, "(SELECT j.v FROM JSON_TABLE(to_jsonb(¤), '$' COLUMNS (v text PATH '$')) j)"),
    (17, "to_bin(ascii(¤))"),
    (18, "casefold(¤)"),
    (18, "encode(reverse(convert_to(¤, 'UTF8')), 'hex')"),
    (18, "crc32(convert_to(¤, 'UTF8'))::text"),
    (18, "array_to_string(array_reverse(string_to_array(¤, NULL)), '')"),
    (18, "array_to_string(array_sort(string_to_array(¤, NULL)), '')"),
];

/// Last step: other types for the way out. The first is none.
const LAST: &[&str] = &[
    "¤",
    "(¤)::varchar(40)",
    "(¤)::bpchar",
    "(¤)::name",
    "(¤)::citext",
    "convert_to(¤, 'UTF8')",
    "to_json(¤)",
    "to_jsonb(¤)",
    "ARRAY[¤]",
    "ARRAY[ARRAY[¤]]",
    "ROW(¤)",
    "ROW(¤, 'x')::pair",
    "xmlelement(name x, ¤)",
    "hstore('k', ¤)",
    "to_tsvector('simple', ¤)",
    "string_to_array(¤, NULL)",
    "ascii(¤)",
    "hashtext(¤)",
    "(¤)::secretive",
    "convert_to(¤, 'UTF8')::bytea",
    "('{' || to_json(¤)::text || '}')::text[]",
    "quote_literal(¤)::json",
];

/// Number of the functions of one group of `TEXT` that keep the value as it is, or nearly.
const MILD: usize = 52;

impl Corpus {
    /// A relation and its value, under an alias. `None` for the name stands for any.
    pub(super) fn relation(&mut self, alias: &str) -> (String, String) {
        let (table, value) = self.pick(if self.tagged { TAGGED } else { UNTAGGED });
        (format!("{table} {alias}"), value.replace('¤', alias))
    }

    fn pick<'a>(&mut self, of: &'a [(&'a str, &'a str)]) -> (&'a str, &'a str) {
        let at = self.draws.below(of.len());
        of[at]
    }

    fn pick_newer(&mut self) -> (u32, &'static str) {
        let at = self.draws.below(NEWER.len());
        NEWER[at]
    }

    /// Text made from a text.
    pub(super) fn text(&mut self, value: &str) -> String {
        let mut text = value.to_owned();
        for _ in 0..self.draws.below(4) {
            let among = if !self.mild && self.draws.chance(60) { TEXT } else { &TEXT[..MILD] };
            text = self.draws.one(among).replace('¤', &text);
        }
        if self.version > 15 && !self.mild && self.draws.chance(8) {
            let (since, newer) = self.pick_newer();
            if since <= self.version {
                text = newer.replace('¤', &text);
            }
        }
        text
    }

    /// Anything made from a text.
    pub(super) fn value(&mut self, value: &str) -> String {
        let text = self.text(value);
        if self.draws.chance(40) { self.draws.one(LAST).replace('¤', &text) } else { text }
    }

    /// A FROM item that offers `id` and a value, and what the value is called there.
    pub(super) fn source(&mut self, alias: &str) -> (String, String) {
        self.depth += 1;
        if self.depth > 4 {
            return self.relation(alias);
        }
        let kind = self.draws.below(40);
        if kind < 16 {
            return self.relation(alias);
        }
        let inner = format!("i{}", self.depth);
        let (from, value) = self.source(&inner);
        let value = self.text(&value);
        let id = format!("{inner}.id");
        let v = format!("{alias}.v");
        let item = match kind {
            16 | 17 => format!("(SELECT {id}, {value} AS v FROM {from}) {alias}"),
            18 => format!("(SELECT {id}, {value} FROM {from}) {alias}(id, v)"),
            19 => format!("(WITH w AS (SELECT {id}, {value} AS v FROM {from}) SELECT * FROM w) {alias}"),
            20 => format!("(WITH w(id, v) AS MATERIALIZED (SELECT {id}, {value} FROM {from}) TABLE w) {alias}"),
            21 => format!(
                "(WITH RECURSIVE w AS (SELECT {id}, {value} AS v FROM {from} UNION ALL SELECT w.id + 10, w.v FROM w WHERE w.id < 10) SELECT * FROM w) {alias}"
            ),
            22 => format!("(SELECT 0 AS id, NULL::text AS v UNION ALL SELECT {id}, {value} FROM {from}) {alias}"),
            23 => format!("(SELECT {id}, {value}::text AS v FROM {from} UNION ALL SELECT 0, 'x') {alias}"),
            24 => format!("orders o{alias} CROSS JOIN LATERAL (SELECT {id}, {value} AS v FROM {from} LIMIT 1) {alias}"),
            25 => {
                format!("(SELECT {id}, {value} AS v FROM {from}) {alias} JOIN (SELECT 1 AS id) one_{alias} USING (id)")
            }
            26 => format!(
                "(SELECT {id}, {value} AS v FROM {from}) {alias} NATURAL LEFT JOIN (SELECT 1 AS id) one_{alias}"
            ),
            27 => format!("(VALUES (1, (SELECT {value} FROM {from} LIMIT 1))) {alias}(id, v)"),
            28 => format!("(SELECT max({id}) AS id, string_agg({value}, ',') AS v FROM {from}) {alias}"),
            29 => format!("(SELECT {id}, first_value({value}) OVER (ORDER BY {id}) AS v FROM {from}) {alias}"),
            30 => format!(
                "(SELECT {id}, (r).f2 AS v FROM (SELECT {id}, ROW(1, {value}) AS r FROM {from}) {inner}) {alias}"
            ),
            31 => format!(
                "(SELECT {id}, u AS v FROM (SELECT {id}, ARRAY[{value}] AS a FROM {from}) {inner}, unnest({inner}.a) u) {alias}"
            ),
            32 => format!(
                "(SELECT {id}, j.v FROM (SELECT {id}, json_build_object('v', {value}) AS d FROM {from}) {inner}, json_to_record({inner}.d) AS j(v text)) {alias}"
            ),
            33 => format!(
                "(SELECT {id}, e.value AS v FROM (SELECT {id}, jsonb_build_object('v', {value}) AS d FROM {from}) {inner}, jsonb_each_text({inner}.d) e) {alias}"
            ),
            34 => {
                format!("ROWS FROM (generate_series(1, 1), unnest(ARRAY(SELECT {value} FROM {from}))) {alias}(id, v)")
            }
            35 => format!(
                "(SELECT {id}, x.v FROM (SELECT {id}, xmlelement(name r, {value}) AS d FROM {from}) {inner}, XMLTABLE('/r' PASSING {inner}.d COLUMNS v text PATH '.') x) {alias}"
            ),
            36 => format!(
                "((SELECT {id}, {value} AS v FROM {from}) {alias}_a CROSS JOIN (SELECT 1 AS one) {alias}_b) {alias}"
            ),
            37 => format!("(SELECT * FROM (SELECT {id}, {value} AS v FROM {from}) {inner} ORDER BY 1 LIMIT 2) {alias}"),
            38 => format!(
                "(SELECT {inner}.id, {} AS v FROM people {inner} TABLESAMPLE bernoulli (100)) {alias}",
                if self.tagged { "ssn" } else { "note" }
            ),
            _ => format!("(SELECT {id}, lag({value}, 0) OVER () AS v FROM {from}) {alias}"),
        };
        // A join's alias hides what is inside, and TABLESAMPLE and plain joins need what they stand on to be tables.
        (item, v)
    }
}
