//! Every transform on every kind of column, in text and in binary: drivers read what is left, and it is nobody's secret.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use interceptor::testing::stage::{DATABASE, Script, Stage, UPSTREAM_USER};

use super::scene::{agent, operate, psql_ok, reconfigure, stage_with};

/// Each transform, with a table of its own of the same columns.
const TRANSFORMS: [(&str, &str); 4] = [
    ("redacted", "\"redact\""),
    ("shortened", "{ keep_last = 4 }"),
    ("tokenized", "\"token\""),
    ("nulled", "\"null\""),
];

const COLUMNS: &str = "id int PRIMARY KEY, m_text text, m_varchar varchar(40), m_short varchar(5), m_char char(30), \
    m_name name, m_int int, m_big bigint, m_numeric numeric, m_float float8, m_bool bool, m_date date, m_stamp timestamptz, \
    m_interval interval, m_uuid uuid, m_jsonb jsonb, m_json json, m_xml xml, m_array text[], m_numbers int[], m_inet inet, \
    m_bytes bytea, m_range int4range, m_bits bit(8)";

/// Rows 1 and 2 hold the same secrets, row 3 others, row 4 none.
const SECRET: &str = "'zebra-73915', 'zebra-73915', 'zebra', 'zebra-73915', 'zebra-73915', 73915, 7391573915, 7391.5, 73915.25, \
    true, '1973-09-15', '1973-09-15 07:39:15+00', '73915 days', '73915739-1573-9157-3915-739157391573', \
    '{\"zebra\": 73915}', '{\"zebra\": 73915}', '<zebra>73915</zebra>', '{zebra,73915}', '{73915}', '73.91.57.39', \
    '\\x73915739', '[73915,99999)', '10110011'";

fn with_tables() -> Stage {
    let mut masks = String::new();
    for (table, transform) in TRANSFORMS {
        masks.push_str(&format!("[[mask]]\ntag = \"{table}\"\ncolumns = [\"{table}.m_*\"]\ntransform = {transform}\n"));
    }
    let stage = stage_with(&Script { configuration: masks, ..Script::default() });
    for (table, _) in TRANSFORMS {
        let other = SECRET.replace("zebra", "horse").replace("73915", "84026");
        let other =
            other.replace("1973-09-15", "1984-02-06").replace("73.91.57.39", "84.2.6.84").replace("7391.5", "8402.6");
        let sql = format!(
            "SET ROLE {UPSTREAM_USER}; CREATE TABLE {table} ({COLUMNS}); CREATE TABLE {table}_back (LIKE {table}); \
             ALTER TABLE {table}_back ALTER m_short TYPE text; \
             INSERT INTO {table} VALUES (1, {SECRET}), (2, {SECRET}), (3, {other}); \
             INSERT INTO {table} VALUES (4)"
        );
        stage.server.sql_in(DATABASE, &sql).unwrap();
    }
    stage
}

/// Reads every table in both formats, and checks each value: NULL, or of its column's type and no secret.
const READ: &str = r#"
import datetime, decimal, ipaddress, json, uuid

TYPES = {
    "m_text": str, "m_varchar": str, "m_short": str, "m_char": str, "m_name": str, "m_int": int, "m_big": int,
    "m_numeric": decimal.Decimal, "m_float": float, "m_bool": bool, "m_date": datetime.date, "m_stamp": datetime.datetime,
    "m_interval": datetime.timedelta, "m_uuid": uuid.UUID, "m_jsonb": object, "m_json": object, "m_xml": (str, bytes),
    "m_array": list, "m_numbers": list, "m_bytes": bytes, "m_inet": ipaddress.IPv4Address, "m_range": object, "m_bits": str,
}
SECRETS = ("zebra", "73915", "horse", "84026", "1973", "1984", "7391.5", "8402.6", "10110011")

for table in ("redacted", "shortened", "tokenized", "nulled"):
    for binary in (False, True):
        with psycopg.connect(URL, autocommit=True) as c:
            cursor = c.cursor(binary=binary)
            rows = cursor.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
            names = [column.name for column in cursor.description]
            for row in rows:
                for name, value in zip(names[1:], row[1:]):
                    kept = value is None or isinstance(value, TYPES[name])
                    shown = str(value)
                    # The rest that keep_last keeps is shown on purpose, and is no whole secret.
                    if not kept or any(secret in shown for secret in SECRETS):
                        print("WRONG", table, binary, row[0], name, repr(value))
            print(table, binary, [row[0] for row in rows], c.execute("SELECT 1").fetchone()[0])
            one = dict(zip(names, rows[0]))
            print(" ", {name: one[name] for name in ("m_text", "m_short", "m_int", "m_date", "m_jsonb", "m_array")})
"#;

#[test]
fn drivers_read_what_is_left_of_typed_values() {
    let stage = with_tables();
    what_is_left_of_a_typed_value_is_null_or_of_its_type(&stage);
    a_driver_that_reads_binary_only_stays_in_sync(&stage);
    copies_of_typed_columns_are_masked_and_load_again(&stage);
}

fn what_is_left_of_a_typed_value_is_null_or_of_its_type(stage: &Stage) {
    let told = agent(stage, READ);
    assert!(!told.contains("WRONG"), "{told}");
    for (table, _) in TRANSFORMS {
        for binary in ["False", "True"] {
            assert!(told.contains(&format!("{table} {binary} [1, 2, 3, 4] 1")), "{told}");
        }
    }
    let rest = "'m_int': None, 'm_date': None, ";
    for expected in [
        format!(
            "{{'m_text': '[masked:redacted]', 'm_short': '***', {rest}'m_jsonb': '[masked:redacted]', 'm_array': None}}"
        ),
        format!(
            "{{'m_text': '********915', 'm_short': '****a', {rest}'m_jsonb': '[masked:shortened]', 'm_array': None}}"
        ),
        format!("{{'m_text': None, 'm_short': None, {rest}'m_jsonb': None, 'm_array': None}}"),
    ] {
        assert_eq!(told.matches(&expected).count(), 2, "{expected}: {told}");
    }
    assert_eq!(told.matches("{'m_text': 'tok_").count(), 2, "{told}");
}

fn a_driver_that_reads_binary_only_stays_in_sync(stage: &Stage) {
    // What asyncpg asks about types that it does not know, and how a pool cleans up, is part of it.
    let code = "import asyncio, asyncpg\n\
                async def main():\n\
                \x20   async with asyncpg.create_pool(URL, min_size=1, max_size=1) as pool:\n\
                \x20       for table in ('redacted', 'shortened', 'tokenized', 'nulled'):\n\
                \x20           async with pool.acquire() as c:\n\
                \x20               rows = await c.fetch(f'SELECT * FROM {table} ORDER BY id')\n\
                \x20               print(table, [row['id'] for row in rows], rows[0]['m_uuid'], await c.fetchval('SELECT 2'))\n\
                asyncio.run(main())\n";
    let told = agent(stage, code);
    let lines: Vec<String> = TRANSFORMS.iter().map(|(table, _)| format!("{table} [1, 2, 3, 4] None 2")).collect();
    assert_eq!(told.lines().collect::<Vec<_>>(), lines);
}

fn copies_of_typed_columns_are_masked_and_load_again(stage: &Stage) {
    for (table, _) in TRANSFORMS {
        for options in ["", " (FORMAT csv)", " (FORMAT csv, HEADER)"] {
            let told = psql_ok(stage, &[&format!("COPY {table} TO STDOUT{options}")]);
            for secret in ["zebra", "73915", "horse", "84026", "1973", "1984"] {
                assert!(!told.contains(secret), "{table}{options} shows {secret}: {told}");
            }
            // What comes out has the types of the table, and the server takes it back; but how wide a varchar is, a COPY
            // does not say.
            fs::write(stage.path("copy"), &told).unwrap();
            let load = format!("\\copy {table}_back from '{}'{options}", stage.path("copy").display());
            let told = psql_ok(stage, &[&load]);
            assert!(told.contains("COPY 4"), "{table}{options}: {told}");
        }
        let code = format!(
            "with psycopg.connect(URL, autocommit=True) as c:\n\
             \x20   with c.cursor().copy('COPY {table} TO STDOUT (FORMAT binary)') as copy:\n\
             \x20       data = b''.join(bytes(block) for block in copy)\n\
             \x20   cursor = c.cursor()\n\
             \x20   with cursor.copy('COPY {table}_back FROM STDIN (FORMAT binary)') as copy:\n\
             \x20       copy.write(data)\n\
             \x20   print(cursor.statusmessage, any(s in data for s in (b'zebra', b'73915', b'horse', b'84026')))\n"
        );
        assert_eq!(agent(stage, &code), "COPY 4 False\n", "{table}");
    }
}

/// The tokens of `m_text` in rows 1 to 3.
fn tokens(stage: &Stage) -> Vec<String> {
    let told = psql_ok(stage, &["COPY (SELECT m_text FROM tokenized WHERE id < 4 ORDER BY id) TO STDOUT"]);
    let lines: Vec<String> = told.lines().map(str::to_owned).collect();
    assert!(lines.len() == 3 && lines.iter().all(|line| line.starts_with("tok_") && line.len() == 30), "{told}");
    lines
}

#[test]
fn a_token_stands_for_its_value_everywhere() {
    let mut stage = with_tables();
    let first = tokens(&stage);
    assert_eq!(first[0], first[1], "the same value");
    assert_ne!(first[0], first[2], "another value");
    assert_eq!(tokens(&stage), first, "in another session");
    operate(&stage, 0, &["reload"]);
    assert_eq!(tokens(&stage), first, "after a reload");
    let told = agent(
        &stage,
        "with psycopg.connect(URL) as c:\n\
         \x20   for binary in (False, True):\n\
         \x20       print(c.cursor(binary=binary).execute('SELECT m_text FROM tokenized WHERE id = 2').fetchone()[0])\n",
    );
    assert_eq!(told.lines().collect::<Vec<_>>(), [first[0].as_str(), first[0].as_str()], "in either format");
    // Whoever gives a key has the same tokens after a restart, too.
    let key = stage.path("token.key");
    fs::write(&key, [7_u8; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let masking = format!("[masking]\ntoken_key = \"{}\"\n\n[policy]", key.display());
    reconfigure(&mut stage, "[policy]", &masking);
    let keyed = tokens(&stage);
    assert_ne!(keyed, first, "another key");
    stage.stop_daemon().unwrap();
    stage.start_daemon().unwrap();
    assert_eq!(tokens(&stage), keyed, "after a restart");
}
