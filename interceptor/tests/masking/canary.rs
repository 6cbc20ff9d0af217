//! The true values, each of them unique and of high entropy, and how one is found again whatever a query has made of it.
//!
//! There are two worlds: databases that differ in tagged values alone. Text that stays visible by the design of a transform
//! (the last characters under `keep_last`, and how many there are) is the same in both.

use std::collections::HashSet;
use std::fmt::Write as _;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use interceptor::testing::draw::Draw;
use interceptor::testing::postgres::Postgres;

use super::agent::{Said, Script};

/// People in each world.
const PEOPLE: usize = 4;
/// Consecutive characters of a value that must not be seen, at its ends and anywhere.
const END: usize = 5;
const PIECE: usize = 6;
/// Without vowels: no word, name or number of a server's own looks like a piece of a value.
const LETTERS: &[u8] = b"bcdfghjkmnpqrtvwxzBCDFGHJKMNPQRTVWXZ23456789";

/// Columns of text, and whether their end stays visible.
const TEXTS: &[(&str, bool)] = &[
    ("ssn", false),
    ("email", false),
    ("card", true),
    ("ref", false),
    ("phone", false),
    ("code", false),
    ("nick", false),
    ("dom", false),
    ("gone", false),
];

/// One world's values.
pub(crate) struct World {
    draw: Draw,
    longer: usize,
    texts: Vec<String>,
    /// Numbers, dates and the like, as text.
    others: Vec<String>,
    script: String,
}

impl World {
    /// Values of the world of that number.
    pub(crate) fn new(number: u64) -> Self {
        let longer = if number == 0 { 0 } else { 3 };
        let mut world = Self {
            draw: Draw::new(0x5EC2E7 + number),
            longer,
            texts: Vec::new(),
            others: Vec::new(),
            script: String::new(),
        };
        (1..=PEOPLE).for_each(|id| world.person(id));
        world.rest();
        world
    }

    /// SQL that puts the values into the tables.
    pub(crate) fn script(&self) -> &str {
        &self.script
    }

    fn text(&mut self, keeps_end: bool) -> String {
        let length = if keeps_end { 18 } else { 20 + self.longer };
        let mut text = String::from("k");
        text.extend((0..length).map(|_| char::from(LETTERS[self.draw.below(LETTERS.len())])));
        if keeps_end {
            text.push_str("t4Zq");
        }
        self.texts.push(text.clone());
        text
    }

    fn digits(&mut self, count: usize) -> String {
        let mut digits = (1 + self.draw.below(9)).to_string();
        (1..count).for_each(|_| digits.push_str(&self.draw.below(10).to_string()));
        digits
    }

    fn hex(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(b"0123456789abcdef"[self.draw.below(16)])).collect()
    }

    fn date(&mut self) -> String {
        format!("{}-{:02}-{:02}", 1801 + self.draw.below(190), 1 + self.draw.below(12), 1 + self.draw.below(28))
    }

    fn other(&mut self, value: String) -> String {
        self.others.push(value.clone());
        value
    }

    fn person(&mut self, id: usize) {
        let mut set = String::new();
        for (column, keeps_end) in TEXTS {
            let value = self.text(*keeps_end);
            let _ = write!(set, "{column} = '{value}', ");
        }
        let salary = format!("{}.{}", self.digits(9), self.digits(4));
        let (salary, born, big) = (self.other(salary), self.date(), self.digits(17));
        let (born, big, score) = (self.other(born), self.other(big), self.digits(14));
        let (seen, key) = (self.date(), [8, 4, 4, 4, 12].map(|count| self.hex(count)).join("-"));
        let addr = format!("10.{}.{}.{}", 100 + self.draw.below(99), self.draw.below(250), 100 + self.draw.below(99));
        let (score, addr, secret) = (self.other(score), self.other(addr), self.hex(40));
        let small = 1000 + self.draw.below(30000);
        self.texts.extend([secret.clone(), key.clone()]);
        let [doc, docj, mark, tag, one, two, word, extra] = std::array::from_fn(|_| self.text(false));
        let (span, day) = (self.digits(9), self.date());
        let (span, day) = (self.other(span), self.other(day));
        let _ = writeln!(
            self.script,
            "UPDATE people SET {set} salary = {salary}, born = '{born}', big = {big}, score = {score}, \
             seen = '{seen} 10:11:12.131415', small = {small}, key = '{key}', secret = '\\x{secret}', addr = '{addr}', \
             doc = '{{\"k\": \"{doc}\", \"n\": [1, {{\"m\": \"{doc}\"}}]}}', docj = '{{\"k\": \"{docj}\"}}', \
             tags = ARRAY['{tag}', 'x'], couple = ('{one}', '{two}'), \
             spans = '[{span}, {span}]', days = '[{day}, {day}]', words = to_tsvector('simple', '{word}'), \
             extra = 'k => {extra}' WHERE id = {id};\n\
             DO $$ BEGIN UPDATE people SET mark = '<m>{mark}</m>' WHERE id = {id}; EXCEPTION WHEN feature_not_supported THEN NULL; END $$;"
        );
    }

    fn rest(&mut self) {
        for (table, columns, values) in [
            ("orders", "", ""),
            ("folk_base", "id, label, ssn", "1, 'label'"),
            ("folk_child", "id, label, ssn", "2, 'label'"),
            ("logs", "id, day, who, ssn", "2, '2020-01-01', 'who'"),
            ("logs", "id, day, who, ssn", "5, '2020-01-01', 'who'"),
            ("made", "id, ssn", "1"),
            ("booked", "id, v, ssn", "1, 'v1'"),
            ("booked", "id, v, ssn", "2, 'v2'"),
            ("strict", "id, v, ssn", "1, 'v'"),
            ("agent.tagged", "id, ssn", "1"),
        ] {
            let value = self.text(false);
            let _ = if columns.is_empty() {
                writeln!(self.script, "UPDATE orders SET ssn = '{value}' || id;")
            } else {
                writeln!(self.script, "INSERT INTO {table} ({columns}) VALUES ({values}, '{value}');")
            };
        }
        let twice = self.text(false);
        let _ = writeln!(self.script, "INSERT INTO twice VALUES (1, '{twice}', 'v'), (2, '{twice}', 'v');");
        self.script.push_str("REFRESH MATERIALIZED VIEW folk_kept; ANALYZE;\n");
    }
}

/// Finds values of both worlds.
pub(crate) struct Finder {
    /// In what was said, in lower case.
    folded: Needles,
    /// In what was said, exactly.
    exact: Needles,
    /// In letters and digits alone, in lower case.
    squeezed: Needles,
    /// In numbers, one blank after each.
    codes: Needles,
    /// Whole cells.
    cells: HashSet<Vec<u8>>,
}

struct Needles {
    search: AhoCorasick,
    names: Vec<(usize, String)>,
}

#[derive(Default)]
struct Making(Vec<(Vec<u8>, String)>);

impl Making {
    fn add(&mut self, needle: impl Into<Vec<u8>>, name: impl Into<String>) {
        self.0.push((needle.into(), name.into()));
    }

    fn finish(self) -> Needles {
        let needles = self.0.iter().map(|(needle, _)| needle);
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(needles).unwrap();
        Needles { search, names: self.0.into_iter().map(|(needle, name)| (needle.len(), name)).collect() }
    }
}

impl Needles {
    fn find(&self, hay: &[u8]) -> Option<String> {
        let found = self.search.find(hay)?;
        let (length, name) = &self.names[found.pattern().as_usize()];
        let shown = String::from_utf8_lossy(&hay[found.start()..found.start() + length]).into_owned();
        Some(format!("{name}: {shown}"))
    }
}

impl Finder {
    /// A finder of these worlds' values; the server says what hashes and binary forms they have.
    pub(crate) fn new(worlds: &[World], server: &Postgres, databases: &[&str]) -> Self {
        let (mut folded, mut exact, mut squeezed, mut codes) =
            (Making::default(), Making::default(), Making::default(), Making::default());
        let mut cells = HashSet::new();
        for (world, database) in worlds.iter().zip(databases) {
            for text in &world.texts {
                pieces(text, &mut folded, &mut squeezed);
                encodings(text, &mut folded, &mut exact, &mut codes);
                cells.insert(text.as_bytes().to_vec());
            }
            for other in &world.others {
                folded.add(other.as_bytes(), "a value");
                let whole: String = other.chars().take_while(|sign| *sign != '.').collect();
                if whole.len() > 8 {
                    squeezed.add(whole.replace('-', ""), "a number");
                }
            }
            for hash in hashes(server, database) {
                folded.add(hash, "a hash");
            }
            for (_, cell) in super::agent::binary_cells(server, database) {
                // Smaller ones are any number.
                if cell.len() >= 4 {
                    cells.insert(cell.clone());
                    let framed = [&u32::try_from(cell.len()).unwrap().to_be_bytes()[..], &cell].concat();
                    exact.add(framed, "a binary value");
                }
            }
        }
        Self {
            folded: folded.finish(),
            exact: exact.finish(),
            squeezed: squeezed.finish(),
            codes: codes.finish(),
            cells,
        }
    }

    /// The first value that is found in what was said.
    pub(crate) fn find(&self, script: &Script) -> Option<String> {
        let mut all = Vec::new();
        let mut numbers = String::new();
        for said in &script.said {
            let Said::Cell { bytes, number } = said else {
                all.extend_from_slice(said.bytes());
                all.push(b'\n');
                continue;
            };
            if bytes.len() >= 4 && self.cells.contains(bytes) {
                return Some(format!("a whole value: {}", String::from_utf8_lossy(bytes)));
            }
            if let Some(number) = number {
                let _ = write!(numbers, "{number} ");
            }
            all.extend_from_slice(bytes);
            all.push(b'\n');
        }
        let lower = all.to_ascii_lowercase();
        let squeezed: Vec<u8> = lower.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
        let found = self.exact.find(&all).or_else(|| self.exact.find(&script.raw));
        let found = found.or_else(|| self.folded.find(&lower)).or_else(|| self.squeezed.find(&squeezed));
        found.or_else(|| self.codes.find(&in_numbers(&lower))).or_else(|| self.codes.find(numbers.as_bytes()))
    }
}

/// Runs of characters, forwards and backwards; also with whatever stands between them left out.
fn pieces(text: &str, folded: &mut Making, squeezed: &mut Making) {
    let forwards = text.to_ascii_lowercase().into_bytes();
    let backwards: Vec<u8> = forwards.iter().rev().copied().collect();
    let shown = if text.ends_with("t4Zq") { 4 } else { 0 };
    for (way, name) in [(&forwards, "a piece"), (&backwards, "a piece backwards")] {
        for piece in way.windows(PIECE) {
            folded.add(piece, name);
            if piece.iter().all(u8::is_ascii_alphanumeric) {
                squeezed.add(piece, format!("{name}, split"));
            }
        }
    }
    folded.add(&forwards[..END], "the start");
    if shown == 0 {
        folded.add(&forwards[forwards.len() - END..], "the end");
    }
}

fn encodings(text: &str, folded: &mut Making, exact: &mut Making, codes: &mut Making) {
    for piece in text.as_bytes().windows(PIECE) {
        let hex = |bytes: &mut dyn Iterator<Item = &u8>| bytes.map(|byte| format!("{byte:02x}")).collect::<String>();
        folded.add(hex(&mut piece.iter()), "hexadecimal");
        folded.add(hex(&mut piece.iter().rev()), "hexadecimal backwards");
        let list = |bytes: &mut dyn Iterator<Item = &u8>| bytes.map(|byte| format!("{byte} ")).collect::<String>();
        codes.add(list(&mut piece.iter()), "code points");
        codes.add(list(&mut piece.iter().rev()), "code points backwards");
    }
    for from in 0..3 {
        let whole = base64::engine::general_purpose::STANDARD_NO_PAD.encode(&text.as_bytes()[from..]);
        // The last sign may hold bits of what follows.
        for piece in whole.as_bytes()[..whole.len() - 1].windows(8) {
            exact.add(piece, "base64");
        }
    }
}

/// Hashes of every text, as the server makes them.
fn hashes(server: &Postgres, database: &str) -> Vec<String> {
    let columns: Vec<String> = TEXTS.iter().map(|(column, _)| format!("{column}::text")).collect();
    let query = format!(
        "SELECT md5(v), encode(sha224(v::bytea), 'hex'), encode(sha256(v::bytea), 'hex'), encode(sha384(v::bytea), 'hex'), \
         encode(sha512(v::bytea), 'hex'), lower(encode(sha256(v::bytea), 'base64')), hashtext(v)::text || ' ', \
         hashtextextended(v, 0)::text FROM people, unnest(ARRAY[{}]) v",
        columns.join(", ")
    );
    let rows = server.sql_in(database, &query).unwrap();
    let cells = rows.lines().flat_map(|line| line.split('|')).map(|cell| cell.trim().to_owned());
    cells.filter(|cell| cell.len() > 8).collect()
}

/// The numbers in it, one blank after each.
fn in_numbers(hay: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in hay {
        if byte.is_ascii_digit() {
            out.push(*byte);
        } else if out.last().is_some_and(|last| *last != b' ') {
            out.push(b' ');
        }
    }
    out
}
