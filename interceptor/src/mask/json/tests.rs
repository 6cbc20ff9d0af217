//! JSON in pieces: the same output wherever it is cut, the same shape, and nothing of what is masked.

use std::fmt;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::super::path::{Child, JsonRule, Step, fold};
use super::*;
use crate::mask::{Config, Detector, Rules, Transform};
use crate::policy::Obligations;
use crate::secret::Secret;

const CARD: &str = "4111111111111111";

fn entry(tag: &str, json: &[&str], detect: &[Detector], transform: Transform) -> Config {
    let json = json.iter().map(ToString::to_string).collect();
    Config { tag: tag.into(), columns: Vec::new(), json, detect: detect.to_vec(), base64: false, transform }
}

fn masker(entries: &[Config], masked: &[&str]) -> JsonMasker {
    let rules = Arc::new(Rules::compile(entries, Some(Secret::from("0123456789abcdef"))).unwrap());
    let masked = Arc::new(masked.iter().map(|tag| Arc::from(*tag)).collect());
    let masker = Masker::new(rules, &Obligations { masked });
    let paths = masker.json_paths("api", Some("/v1/{id}"));
    JsonMasker::new(masker, paths)
}

fn by_path(paths: &[&str]) -> JsonMasker {
    masker(&[entry("x", paths, &[], Transform::Redact)], &["x"])
}

fn run(mut masker: JsonMasker, text: &[u8], step: usize) -> Result<String, NotJson> {
    let mut out = Vec::new();
    for piece in text.chunks(step.max(1)) {
        masker.push(piece, &mut out)?;
    }
    masker.finish(&mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

/// At every cut alike.
fn everywhere(masker: &JsonMasker, text: &str) -> Result<String, NotJson> {
    let whole = run(masker.clone(), text.as_bytes(), usize::MAX);
    for step in [1, 2, 3, 5, 7, 16] {
        let cut = run(masker.clone(), text.as_bytes(), step);
        assert_eq!(cut.is_ok(), whole.is_ok(), "{text:.200} in steps of {step}: {cut:?} {whole:?}");
        assert!(cut == whole || cut.is_err(), "{text:.200} in steps of {step}");
    }
    whole
}

fn masked(paths: &[&str], text: &str) -> String {
    everywhere(&by_path(paths), text).unwrap()
}

#[test]
fn values_at_a_path_are_replaced_and_all_else_stays_as_it_stands() {
    let m = "\"[masked:x]\"";
    for (paths, text, expected) in [
        (&["$.a"][..], r#" { "a" : "s" , "b" : "s" } "#, format!(r#" {{ "a" : {m} , "b" : "s" }} "#)),
        (
            &["$.a"],
            r#"{"a":1,"A":true,"a":null,"\u0061":"s","b":{"a":"s"}}"#,
            format!(r#"{{"a":null,"A":null,"a":null,"\u0061":{m},"b":{{"a":"s"}}}}"#),
        ),
        (
            &["$..a"],
            r#"{"b":[{"c":{"a":"s"}},"a",{"a":[1,["s"],{"k":"s","e":{}}]}]}"#,
            format!(r#"{{"b":[{{"c":{{"a":{m}}}}},"a",{{"a":[null,[{m}],{{"k":{m},"e":{{}}}}]}}]}}"#),
        ),
        (
            &["$.items[*].email"],
            r#"{"items":[{"email":"s","id":1},{"id":2,"EMAIL":"s"}],"email":"s"}"#,
            format!(r#"{{"items":[{{"email":{m},"id":1}},{{"id":2,"EMAIL":{m}}}],"email":"s"}}"#),
        ),
        (
            &["$[1]", "$[3].k"],
            r#"["a","s","b",{"k":"s"},{"k":"b"}]"#,
            format!(r#"["a",{m},"b",{{"k":{m}}},{{"k":"b"}}]"#),
        ),
        (&["$"], r#"{"a":["s",-1.5e3]}"#, format!(r#"{{"a":[{m},null]}}"#)),
        (&["$"], r#""s""#, m.to_owned()),
        (&["$"], "12", "null".to_owned()),
        (&["$..*"], r#"{"a":"s"}"#, format!(r#"{{"a":{m}}}"#)),
        (
            &["$.a..b"],
            r#"{"a":{"b":"s","c":[{"b":"s"}]},"b":"s"}"#,
            format!(r#"{{"a":{{"b":{m},"c":[{{"b":{m}}}]}},"b":"s"}}"#),
        ),
        (&["$.a.a"], r#"{"a":{"a":{"a":"s"}},"aa":"s"}"#, format!(r#"{{"a":{{"a":{{"a":{m}}}}},"aa":"s"}}"#)),
        (
            &["$.ssn"],
            "{\"\u{17f}\u{17f}n\":\"s\",\"\\u017fsN\":\"s\"}",
            format!("{{\"\u{17f}\u{17f}n\":{m},\"\\u017fsN\":{m}}}"),
        ),
        (&["$.ü"], r#"{"Ü":"s","\u00dc":"s"}"#, format!(r#"{{"Ü":{m},"\u00dc":{m}}}"#)),
        (&["$['a\"b']"], r#"{"a\"b":"s"}"#, format!(r#"{{"a\"b":{m}}}"#)),
        (&["$.a"], "{\"a\":\"s\"}\n{\"a\":\"s\"}\n", format!("{{\"a\":{m}}}\n{{\"a\":{m}}}\n")),
        (&["$.a"], "\u{1e}{\"a\":\"s\"}\n\u{1e}3\n", format!("\u{1e}{{\"a\":{m}}}\n\u{1e}3\n")),
        (&["$.a"], "\u{feff}{\"a\":\"s\"}", format!("\u{feff}{{\"a\":{m}}}")),
        (&["$.a"], "", String::new()),
        (&["$.b"], r#"{"a":"s"}"#, r#"{"a":"s"}"#.to_owned()),
    ] {
        assert_eq!(masked(paths, text), expected, "{paths:?}");
    }
}

#[test]
fn every_transform_leaves_json() {
    let text = r#"{"a":"4111-1111-1111-1234","b":"\"\u00e4\u0000\ud83d\ude00 \"\"\"","c":7,"d":""}"#;
    for (transform, expected) in [
        (Transform::KeepLast(4), r#"{"a":"***************1234","b":"******\"\"","c":null,"d":""}"#),
        (Transform::Null, r#"{"a":null,"b":null,"c":null,"d":null}"#),
        (Transform::Redact, r#"{"a":"[masked:x]","b":"[masked:x]","c":null,"d":"[masked:x]"}"#),
    ] {
        let masker = masker(&[entry("x", &["$.*"], &[], transform)], &["x"]);
        assert_eq!(everywhere(&masker, text).unwrap(), expected);
    }
    let tokens = masker(&[entry("x", &["$.*"], &[], Transform::Token)], &["x"]);
    let (one, other) =
        (everywhere(&tokens, r#"{"a":"s\u0065"}"#).unwrap(), everywhere(&tokens, r#"{"b":"se"}"#).unwrap());
    assert!(one.starts_with(r#"{"a":"tok_"#) && one.get(5..) == other.get(5..), "{one} {other}");
}

#[test]
fn what_is_not_masked_for_the_identity_passes_and_the_strictest_counts() {
    let entries = [
        entry("a", &["$.a", "api:$.t", "other:$.o", "api/v1/{id}:$.r", "api/v2:$.n"], &[], Transform::KeepLast(4)),
        entry("b", &["$..a", "$.b"], &[], Transform::Redact),
    ];
    let text = r#"{"a":"123456789012","b":"s","t":"123456789012","o":"o","r":"123456789012","n":"n"}"#;
    let show = |masked: &[&str]| everywhere(&masker(&entries, masked), text).unwrap();
    assert_eq!(show(&[]), text);
    assert_eq!(show(&["a"]), r#"{"a":"********9012","b":"s","t":"********9012","o":"o","r":"********9012","n":"n"}"#);
    assert_eq!(
        show(&["a", "b"]),
        r#"{"a":"[masked:b]","b":"[masked:b]","t":"********9012","o":"o","r":"********9012","n":"n"}"#
    );
}

#[test]
fn detectors_look_at_each_name_string_and_number() {
    let entries = [entry("card", &["$.p"], &[Detector::Card, Detector::Email], Transform::Redact)];
    let text = format!(
        "{{\"a\":\"paid with {CARD} and \\u0034{}\",\"n\":{CARD},\"{CARD}\":1,\"p\":\"{CARD}\",\"e\":\"ada\\u0040x.org\",\"f\":1.5}}",
        CARD.strip_prefix('4').unwrap()
    );
    let expected = "{\"a\":\"paid with [masked:card] and [masked:card]\",\"n\":\"[masked:card]\",\"[masked:card]\":1,\"p\":\"[masked:card]\",\"e\":\"[masked:card]\",\"f\":1.5}";
    let mut masker = masker(&entries, &["card"]);
    assert_eq!(everywhere(&masker, &text).unwrap(), expected);
    let mut out = Vec::new();
    masker.push(text.as_bytes(), &mut out).unwrap();
    assert_eq!(masker.take_counts(), (vec![("$.p".to_owned(), 1)], 4));
    assert_eq!(masker.take_counts(), (Vec::new(), 0));
}

#[test]
fn what_is_no_json_fails_at_once_and_for_good() {
    for text in [
        "{",
        "[",
        "\"a",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "[1,",
        "tru",
        "-",
        "1.",
        "1e",
        "1e+",
        "}",
        "]",
        ",",
        ":",
        "{]",
        "[}",
        "[1}",
        "{\"a\":1]",
        "{1:2}",
        "{a:1}",
        "{'a':1}",
        "['a']",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "[1 2]",
        "[1,]",
        "{\"a\":1,}",
        "[,1]",
        "{,}",
        "01",
        "-01",
        "+1",
        ".5",
        "0x10",
        "1_0",
        "NaN",
        "Infinity",
        "undefined",
        "True",
        "/*c*/1",
        "//c\n1",
        "[1]//",
        "\"\\x\"",
        "\"\\u00g0\"",
        "\"\n\"",
        "\"\u{1}\"",
        "\u{feff}\u{feff}1",
        " \u{feff}1",
        "[\u{1e}1]",
        "{\"a\":\u{1e}1}",
        "\u{b}1",
        "1;2",
        "nulL",
        "[1]]",
        "{}}",
        "<html>",
        "callback({})",
        ")]}',\n{}",
        "\0",
    ] {
        let failed = everywhere(&by_path(&["$.a"]), text);
        assert!(failed.is_err(), "{text}: {failed:?}");
    }
    let mut masker = by_path(&["$.a"]);
    let mut out = Vec::new();
    assert_eq!(masker.push(b"[1, x", &mut out), Err(NotJson::Byte(4)));
    assert_eq!(masker.push(b"[1]", &mut out), Err(NotJson::Byte(4)));
    assert_eq!(masker.finish(&mut out), Err(NotJson::Byte(4)));
    masker.reset();
    assert_eq!(masker.push(b"[1]", &mut out), Ok(()));
}

#[test]
fn depth_lengths_and_what_is_held_are_bounded() {
    let deep = |count: usize| format!("{}1{}", "[".repeat(count), "]".repeat(count));
    assert!(everywhere(&by_path(&["$..a"]), &deep(DEPTH_LIMIT)).is_ok());
    assert_eq!(everywhere(&by_path(&["$..a"]), &deep(DEPTH_LIMIT + 1)), Err(NotJson::Depth));
    let number = "1".repeat(NUMBER_LIMIT);
    assert!(everywhere(&by_path(&["$.a"]), &number).is_ok());
    assert_eq!(everywhere(&by_path(&["$.a"]), &format!("{number}1")), Err(NotJson::Long));
    let name = "n".repeat(NAME_LIMIT);
    assert_eq!(run(by_path(&["$.a"]), format!("{{\"{name}\":1}}").as_bytes(), 999), Err(NotJson::Long));
    assert!(run(by_path(&["$[0].a"]), format!("{{\"{name}\":1}}").as_bytes(), 999).is_ok(), "nobody looks at it");
    // A string that is too long to be looked into is replaced; one that nobody looks into passes at any length.
    let long = "s".repeat(STRING_LIMIT);
    let text = format!("{{\"a\":\"{long}\",\"b\":\"{long}\",\"c\":1}}");
    for step in [usize::MAX, 1000, STRING_LIMIT] {
        let out = run(by_path(&["$.a"]), text.as_bytes(), step).unwrap();
        assert_eq!(out, format!("{{\"a\":\"[masked]\",\"b\":\"{long}\",\"c\":1}}"));
    }
    let mut masker = by_path(&["$.a"]);
    let mut out = Vec::new();
    for _ in 0..64 {
        masker.push(if out.is_empty() { b"{\"b\":\"" } else { &[b'x'; 65536] }, &mut out).unwrap();
        assert_eq!(masker.held(), 0);
    }
    masker.push(b"\",\"a\":\"", &mut out).unwrap();
    for _ in 0..64 {
        masker.push(&[b'x'; 65536], &mut out).unwrap();
        assert!(masker.held() <= STRING_LIMIT);
    }
}

#[test]
fn paths_of_more_than_a_word_of_bits_are_all_followed() {
    let paths: Vec<String> = (0..60).map(|n| format!("$.a[*].b.k{n}")).chain(["$..deep.x".to_owned()]).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let fields: Vec<String> = (0..62).map(|n| format!("\"k{n}\":\"s\"")).collect();
    let text = format!("{{\"a\":[1,{{\"b\":{{{}}}}}],\"q\":{{\"deep\":{{\"x\":\"s\"}}}}}}", fields.join(","));
    let out = masked(&paths, &text);
    assert_eq!((out.matches("[masked:x]").count(), out.matches("\"s\"").count()), (61, 2), "{out}");
}

/// JSON with names that may stand twice.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Null,
    Bool(bool),
    Number(i64),
    Text(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl<'de> Visitor<'de> for Reads {
            type Value = Tree;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
                Ok(Tree::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
                Ok(Tree::Number(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
                Ok(Tree::Number(i64::try_from(value).unwrap()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
                Ok(Tree::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(Tree::Array(all))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    all.push(entry);
                }
                Ok(Tree::Object(all))
            }
        }
        deserializer.deserialize_any(Reads)
    }
}

/// What the standard says, step by step and slowly.
fn slowly(tree: &Tree, paths: &[&[Step]], above: bool) -> Tree {
    let whole = above || paths.iter().any(|steps| steps.is_empty());
    let below = |name: Option<&str>, index: Option<usize>| -> Vec<&[Step]> {
        let mut next = Vec::new();
        for steps in paths {
            let Some((first, rest)) = steps.split_first() else { continue };
            if first.deep {
                next.push(*steps);
            }
            let leads = match &first.to {
                Child::Any => true,
                Child::Name(wanted) => name.is_some_and(|name| fold(name) == *wanted),
                Child::Index(wanted) => index.is_some_and(|index| index as u64 == *wanted),
            };
            if leads {
                next.push(rest);
            }
        }
        next
    };
    match tree {
        Tree::Text(_) if whole => Tree::Text("[masked:x]".to_owned()),
        Tree::Number(_) | Tree::Bool(_) if whole => Tree::Null,
        Tree::Array(items) => {
            let masked = |(at, item)| slowly(item, &below(None, Some(at)), whole);
            Tree::Array(items.iter().enumerate().map(masked).collect())
        }
        Tree::Object(fields) => {
            let masked =
                |(name, value): &(String, Tree)| (name.clone(), slowly(value, &below(Some(name), None), whole));
            Tree::Object(fields.iter().map(masked).collect())
        }
        other => other.clone(),
    }
}

/// Writes it with spaces and escapes as a seed has them.
fn written(tree: &Tree, seed: &mut u64, out: &mut String) {
    let mut draw = |of: u64| {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed % of
    };
    out.push_str(["", " ", "\n\t"][usize::try_from(draw(3)).unwrap()]);
    let mut text = |value: &str, out: &mut String| {
        out.push('"');
        for sign in value.chars() {
            let mut units = [0; 2];
            match draw(4) {
                0 => sign.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
                1 => sign.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04X}"))),
                _ if matches!(sign, '"' | '\\' | '/') => out.extend(['\\', sign]),
                _ if sign < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(sign))),
                _ => out.push(sign),
            }
        }
        out.push('"');
    };
    match tree {
        Tree::Null => out.push_str("null"),
        Tree::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Tree::Number(value) => out.push_str(&value.to_string()),
        Tree::Text(value) => text(value, out),
        Tree::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { " ," });
                written(item, seed, out);
            }
            out.push(']');
        }
        Tree::Object(fields) => {
            out.push('{');
            for (at, (name, value)) in fields.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                let mut named = String::new();
                written(&Tree::Text(name.clone()), seed, &mut named);
                out.push_str(&named);
                out.push_str(" :");
                written(value, seed, out);
            }
            out.push('}');
        }
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::Bool),
        (-9_999_999i64..9_999_999).prop_map(Tree::Number),
        "[a-zA-Z\"\\\\/\u{1}äß😀 ]{0,12}".prop_map(Tree::Text),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Tree::Array),
            prop::collection::vec(("[abAB]|\u{17f}|é|É|email", inner), 0..6).prop_map(Tree::Object),
        ]
    })
}

fn paths() -> impl Strategy<Value = Vec<String>> {
    let step = prop_oneof!["[.]{1,2}(a|b|s|é|EMAIL|[*])", "(|[.]{2})\\[('a'|\"b\"|[*]|[0-3])\\]"];
    prop::collection::vec(prop::collection::vec(step, 1..4).prop_map(|steps| format!("${}", steps.concat())), 1..5)
}

/// Looks for everything by everything; compiled once.
static DETECTING: LazyLock<JsonMasker> =
    LazyLock::new(|| masker(&[entry("x", &["$..a"], &Detector::ALL, Transform::Redact)], &["x"]));

proptest! {
    #[test]
    fn paths_mean_what_the_standard_says_however_it_is_written_and_cut(
        tree in trees(), paths in paths(), seed in 1u64.., step in 1usize..40,
    ) {
        let rules: Vec<JsonRule> = paths.iter().map(|path| JsonRule::parse(path).unwrap()).collect();
        let steps: Vec<&[Step]> = rules.iter().map(|rule| rule.steps.as_slice()).collect();
        let mut text = String::new();
        written(&tree, &mut { seed }, &mut text);
        let listed: Vec<&str> = paths.iter().map(String::as_str).collect();
        let masker = by_path(&listed);
        let whole = run(masker.clone(), text.as_bytes(), usize::MAX).unwrap();
        prop_assert_eq!(&run(masker, text.as_bytes(), step).unwrap(), &whole);
        let read: Tree = serde_json::from_str(&whole).unwrap();
        prop_assert_eq!(read, slowly(&tree, &steps, false), "{} {:?}", text, paths);
    }

    #[test]
    fn whatever_comes_is_json_here_where_it_is_for_others(
        text in "([{}\\[\\],:\" \n0-9a-eE.+-]|\"a\":|true|null|\\\\u00|\\\\\"|1e5|é){0,24}", step in 1usize..9,
    ) {
        let whole = run(DETECTING.clone(), text.as_bytes(), usize::MAX);
        let cut = run(DETECTING.clone(), text.as_bytes(), step);
        prop_assert_eq!(whole.is_ok(), cut.is_ok());
        if whole.is_ok() {
            prop_assert_eq!(&whole, &cut);
        }
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text);
        if theirs.is_ok() {
            prop_assert!(whole.is_ok(), "{}: {:?}", text, whole);
        }
        if let Ok(out) = whole {
            // Several values may follow one another here, with or without a space between.
            for read in serde_json::Deserializer::from_str(&out).into_iter::<Tree>() {
                let fine = read.as_ref().err().is_none_or(|error| {
                    let told = error.to_string();
                    told.contains("trailing characters") || told.contains("number out of range") || told.contains("surrogate")
                        || told.contains("invalid type: floating point")
                });
                prop_assert!(fine, "{} {:?}", text, read);
            }
        }
    }
}

#[test]
fn json_in_a_string_counts_as_if_it_stood_there() {
    let inside = |path: &str, text: &str| {
        let plain = by_path(&[path]);
        let nested = JsonMasker::new(plain.masker.again(), plain.paths.clone().into_strings());
        everywhere(&nested, text).unwrap()
    };
    let text = r#"{"r":{"c":[{"t":"{\"email\":\"a@b\",\"n\": 1}"}]}}"#;
    let masked = r#"{"r":{"c":[{"t":"{\"email\":\"[masked:x]\",\"n\": 1}"}]}}"#;
    for path in ["$.r..email", "$.r.c[*].t.email", "$..EMAIL"] {
        assert_eq!(inside(path, text), masked, "{path}");
    }
    // Only on its way, and only where it was told to.
    assert_eq!(inside("$.q..email", text), text);
    assert_eq!(inside("$.r.email", text), text);
    assert_eq!(self::masked(&["$.r..email"], text), text);
    // In whatever spelling, and string in string.
    for text in [
        r#"{"r":"\u007b\"\\u0065mail\":\"a@b\"}"}"#,
        r#"{"r":"\ufeff [{\"email\":\"a@b\"}]"}"#,
        r#"{"r":"\"{\\\"email\\\":\\\"a@b\\\"}\""}"#,
        r#"{"r":"{\"email\":\"a@b\"}\n{\"x\":1}"}"#,
    ] {
        assert!(!inside("$.r..email", text).contains("a@b"), "{text}");
    }
    // What begins as JSON and is none, or is too deep, does not pass; a quotation is text.
    assert_eq!(inside("$.r..email", r#"{"r":"{'email': 'a@b'}"}"#), r#"{"r":"[masked]"}"#);
    let deep = (0..5).fold(r#"{"email":"a@b"}"#.to_owned(), |inner, _| serde_json::to_string(&inner).unwrap());
    assert!(!inside("$.r..email", &format!("{{\"r\":{deep}}}")).contains("a@b"));
    let quote = r#"{"r":"\"so\" he said"}"#;
    assert_eq!(inside("$.r..email", quote), quote);
}

#[test]
fn what_is_masked_in_a_string_is_counted_once() {
    let entries =
        [entry("x", &["$.r..email"], &[], Transform::Redact), entry("card", &[], &[Detector::Card], Transform::Redact)];
    let plain = masker(&entries, &["x", "card"]);
    let mut nested = JsonMasker::new(plain.masker.again(), plain.paths.clone().into_strings());
    let text = format!(r#"{{"r":"{{\"email\":\"a@b\",\"n\":\"{CARD}\",\"e\":[{{\"email\":1}}]}}"}}"#);
    let mut out = Vec::new();
    nested.push(text.as_bytes(), &mut out).unwrap();
    assert_eq!(nested.take_counts(), (vec![("$.r..email".to_owned(), 2)], 1), "{}", String::from_utf8_lossy(&out));
}
