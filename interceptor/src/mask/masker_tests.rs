//! Tests of the masker: each transform in each carrier, and what must never be seen.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::mask::Config;
use crate::secret::Secret;

const CARD: &str = "4111111111111111";
const TEXT: Carrier = Carrier::Text { max_chars: None };

fn entry(tag: &str, detect: &[Detector], transform: Transform) -> Config {
    Config {
        tag: tag.into(),
        columns: vec!["t.*".into()],
        json: Vec::new(),
        detect: detect.to_vec(),
        base64: false,
        transform,
    }
}

fn tags(names: &[&str]) -> TagSet {
    Arc::new(names.iter().map(|name| Tag::from(*name)).collect::<BTreeSet<_>>())
}

fn masker(config: &[Config], masked: &[&str]) -> Masker {
    let rules = Rules::compile(config, Some(Secret::from("0123456789abcdef"))).unwrap();
    Masker::new(Arc::new(rules), &Obligations { masked: tags(masked) })
}

/// Looks for everything; compiled once.
static KEEPING: LazyLock<Masker> =
    LazyLock::new(|| masker(&[entry("x", &Detector::ALL, Transform::KeepLast(4))], &["x"]));
static REDACTING: LazyLock<Masker> = LazyLock::new(|| masker(&[entry("x", &Detector::ALL, Transform::Redact)], &["x"]));

fn run(masker: &mut Masker, column: &ColumnMask, carrier: Carrier, value: &str) -> Option<String> {
    let mut out = b"before".to_vec();
    match masker.apply(column, carrier, value.as_bytes(), &mut out) {
        Outcome::Unchanged => {
            assert_eq!(out, b"before");
            Some(value.to_owned())
        }
        Outcome::Null => {
            assert_eq!(out, b"before");
            None
        }
        Outcome::Replaced => Some(String::from_utf8(out.split_off(6)).unwrap()),
    }
}

fn whole(transform: Transform, computed: bool, carrier: Carrier, value: &str) -> Option<String> {
    let mut masker = masker(&[entry("card", &[], transform)], &["card"]);
    let column = masker.column(&tags(&["card"]), computed);
    assert!(column.is_whole());
    run(&mut masker, &column, carrier, value)
}

fn scanned(transform: Transform, carrier: Carrier, value: &str) -> Option<String> {
    let mut masker = match transform {
        Transform::Redact => REDACTING.clone(),
        other => masker(&[entry("x", &Detector::ALL, other)], &["x"]),
    };
    let column = masker.column(&tags(&[]), false);
    assert!(!column.is_whole() && !column.is_pass());
    run(&mut masker, &column, carrier, value)
}

#[test]
fn a_tagged_column_is_replaced_whole() {
    assert_eq!(whole(Transform::Redact, false, TEXT, CARD).unwrap(), "[masked:card]");
    assert_eq!(whole(Transform::Redact, false, TEXT, "").unwrap(), "[masked:card]", "no length leaks");
    assert_eq!(whole(Transform::KeepLast(4), false, TEXT, CARD).unwrap(), "************1111");
    assert_eq!(whole(Transform::Null, false, TEXT, CARD), None);
    let token = whole(Transform::Token, false, TEXT, CARD).unwrap();
    assert!(token.starts_with("tok_") && token.len() == 30);
    assert_eq!(whole(Transform::Token, false, TEXT, CARD).unwrap(), token);
}

#[test]
fn a_computed_column_shows_nothing() {
    for transform in [Transform::Redact, Transform::KeepLast(4), Transform::Token] {
        assert_eq!(whole(transform, true, TEXT, CARD).unwrap(), "[masked:card]");
        assert_eq!(whole(transform, true, Carrier::Json, "[1]").unwrap(), "\"[masked:card]\"");
    }
    assert_eq!(whole(Transform::Null, true, TEXT, CARD), None);
}

#[test]
fn a_type_keeps_its_form() {
    for transform in [Transform::Redact, Transform::KeepLast(4), Transform::Token, Transform::Null] {
        assert_eq!(whole(transform, false, Carrier::Other, "42"), None);
        assert_eq!(whole(transform, false, Carrier::Opaque, "{a}"), None);
    }
    for transform in [Transform::Redact, Transform::KeepLast(4), Transform::Token] {
        let json = whole(transform, false, Carrier::Json, r#"{"pan":"4111111111111111"}"#).unwrap();
        assert!(serde_json::from_str::<String>(&json).is_ok() && !json.contains("111"), "{json}");
        assert!(!whole(transform, false, Carrier::Xml, "<a>4111</a>").unwrap().contains("11</a>"));
    }
    let narrow = |max| whole(Transform::Redact, false, Carrier::Text { max_chars: Some(max) }, CARD).unwrap();
    assert_eq!((narrow(13), narrow(12), narrow(2)), ("[masked:card]".into(), "***".into(), "**".into()));
    let token = whole(Transform::Token, false, Carrier::Text { max_chars: Some(16) }, CARD).unwrap();
    assert_eq!(token, "[masked:card]", "a token that is cut would not be one");
}

#[test]
fn the_strictest_tag_decides() {
    let config = [
        entry("keep", &[], Transform::KeepLast(4)),
        entry("token", &[], Transform::Token),
        entry("redact", &[], Transform::Redact),
        entry("null", &[], Transform::Null),
    ];
    let all = ["keep", "token", "redact", "null"];
    let mut masker = masker(&config, &all);
    let mut with = |names: &[&str]| {
        let column = masker.column(&tags(names), false);
        run(&mut masker, &column, TEXT, CARD)
    };
    assert_eq!(with(&all), None);
    assert_eq!(with(&all[..3]).unwrap(), "[masked:redact]");
    assert!(with(&all[..2]).unwrap().starts_with("tok_"));
    assert_eq!(with(&all[..1]).unwrap(), "************1111");
}

#[test]
fn only_masked_tags_matter() {
    let config =
        [entry("card", &[Detector::Card], Transform::Redact), entry("mail", &[Detector::Email], Transform::Redact)];
    let mut partly = masker(&config, &["mail"]);
    let column = partly.column(&tags(&["card"]), false);
    assert_eq!(run(&mut partly, &column, TEXT, "4111111111111111 a@b.co").unwrap(), "4111111111111111 [masked:mail]");
    let idle = masker(&config, &[]);
    assert!(idle.is_idle() && !idle.scans());
    assert!(idle.column(&tags(&["card", "mail"]), true).is_pass() && idle.unknown_column().is_pass());
    assert!(partly.unknown_column().is_whole(), "what is not known is masked as soon as anything is");
    let other = masker(&config, &["gone"]);
    assert!(other.column(&tags(&["gone"]), false).is_whole(), "a tag without an entry is redacted");
}

#[test]
fn a_detected_value_is_replaced_alone() {
    assert_eq!(
        scanned(Transform::Redact, TEXT, "pay 4111 1111 1111 1111 to a@b.co!").unwrap(),
        "pay [masked:x] to [masked:x]!"
    );
    assert_eq!(scanned(Transform::KeepLast(4), TEXT, "pay 4111111111111111!").unwrap(), "pay ************1111!");
    assert_eq!(scanned(Transform::Null, TEXT, CARD), None);
    assert_eq!(scanned(Transform::Null, TEXT, "pay 4111111111111111").unwrap(), "pay [masked:x]");
    assert_eq!(scanned(Transform::Redact, TEXT, "nothing here").unwrap(), "nothing here");
    assert_eq!(scanned(Transform::Redact, Carrier::Opaque, "{1,4111111111111111}"), None);
    assert_eq!(scanned(Transform::Redact, Carrier::Other, CARD).unwrap(), CARD);
    let token = scanned(Transform::Token, TEXT, "pay 4111111111111111").unwrap();
    assert!(token.starts_with("pay tok_"));
    let narrow = Carrier::Text { max_chars: Some(8) };
    assert_eq!(scanned(Transform::Redact, narrow, "a@b.co!!").unwrap(), "[masked:");
}

#[test]
fn json_stays_json() {
    for (value, expected) in [
        (r#"{"pan": "4111111111111111", "n": 1}"#, r#"{"pan": "[masked:x]", "n": 1}"#),
        (r#"{"pan": 4111111111111111}"#, r#"{"pan": "[masked:x]"}"#),
        (r#"["\u0034111111111111111"]"#, r#"["[masked:x]"]"#),
        (r#"["4111\u002d1111\u002d1111-1111"]"#, r#"["[masked:x]"]"#),
        (r#"["\ud835\udfd2111111111111111"]"#, r#"["[masked:x]"]"#),
        (r#"{"a@b.co": true}"#, r#"{"[masked:x]": true}"#),
        (r#""line\nnext a@b.co \"q\"""#, r#""line\nnext [masked:x] \"q\"""#),
        (r#"{"inner": "{\"pan\": \"4111111111111111\"}"}"#, r#"{"inner": "{\"pan\": \"[masked:x]\"}"}"#),
        (r#"["\\", "plain", -1.5e3, null]"#, r#"["\\", "plain", -1.5e3, null]"#),
    ] {
        assert_eq!(scanned(Transform::Redact, Carrier::Json, value).unwrap(), expected);
        serde_json::from_str::<serde_json::Value>(expected).unwrap();
    }
    let pem = r#"{"k": "-----BEGIN PRIVATE KEY-----\nMIIE", "b": [1]}"#;
    assert_eq!(scanned(Transform::Redact, Carrier::Json, pem).unwrap(), r#"{"k": "[masked:x]", "b": [1]}"#);
    assert_eq!(scanned(Transform::Redact, Carrier::Json, r#"{"broken \" 4111111111111111"#).unwrap(), "\"[masked]\"");
}

#[test]
fn xml_references_hide_nothing() {
    assert_eq!(scanned(Transform::Redact, Carrier::Xml, "<a>a@b.co</a>").unwrap(), "<a>[masked:x]</a>");
    assert_eq!(scanned(Transform::Redact, Carrier::Xml, "<a>&#52;111111111111111</a>").unwrap(), "[masked]");
    assert_eq!(scanned(Transform::Redact, Carrier::Xml, "<a>a&#x40;b.co</a>").unwrap(), "[masked]");
    assert_eq!(scanned(Transform::Redact, Carrier::Xml, "<a>&#228;</a>").unwrap(), "<a>&#228;</a>");
}

/// Prints what a value costs; an unoptimised build says little, so nothing is asserted.
#[test]
fn figures() {
    use crate::clock::{Clock, SystemClock};
    let mut masker = masker(&[entry("x", &Detector::ALL, Transform::Redact)], &["x"]);
    let column = masker.column(&tags(&[]), false);
    for (name, value) in [
        ("short word", "Springfield"),
        ("uuid", "550e8400-e29b-41d4-a716-446655440000"),
        ("sentence", "The quick brown fox jumps over the lazy dog, and then it sleeps."),
        ("time", "2024-01-15 12:30:45.123456+00"),
        ("card", CARD),
    ] {
        const TURNS: u32 = 20_000;
        let mut out = Vec::new();
        let clock = SystemClock::default();
        let from = clock.monotonic();
        for _ in 0..TURNS {
            out.clear();
            std::hint::black_box(masker.apply(&column, TEXT, value.as_bytes(), &mut out));
        }
        println!("{name}: {:?} a value", (clock.monotonic() - from) / TURNS);
    }
}

proptest! {
    #[test]
    fn a_masked_column_never_shows_its_value(
        value in "[^*\\p{Z}\\p{C}]{4,60}",
        transform in prop_oneof![
            (1_u8..=20).prop_map(Transform::KeepLast),
            Just(Transform::Redact),
            Just(Transform::Token),
            Just(Transform::Null),
        ],
        computed: bool,
        carrier in prop_oneof![
            Just(TEXT), Just(Carrier::Json), Just(Carrier::Xml), Just(Carrier::Opaque), Just(Carrier::Other),
            (1_usize..40).prop_map(|max| Carrier::Text { max_chars: Some(max) }),
        ],
    ) {
        prop_assume!(!"[masked:card]".contains(&value));
        if let Some(shown) = whole(transform, computed, carrier, &value) {
            prop_assert!(!shown.contains(&value), "{shown}");
            if matches!(transform, Transform::Redact) || computed {
                prop_assert!(["[masked:card]", "\"[masked:card]\"", "***", "**", "*"].contains(&shown.as_str()));
            }
        }
    }

    #[test]
    fn a_card_in_any_json_is_never_shown(before in "[^\\p{N}\\p{C}]{0,20}", after in "[^\\p{N}\\p{C}]{0,20}", escape: bool) {
        // Other digits beside it could become part of the number.
        let mut json = serde_json::to_string(&format!("{before} | {CARD} | {after}")).unwrap();
        if escape {
            json = json.replace('4', "\\u0034");
        }
        let shown = scanned(Transform::Redact, Carrier::Json, &json).unwrap();
        let text: String = serde_json::from_str(&shown).unwrap();
        prop_assert!(!text.contains(CARD) && text.contains("[masked:x]"));
    }

    #[test]
    fn any_bytes_pass_through_any_carrier(value in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut masker = KEEPING.clone();
        let column = masker.column(&tags(&[]), false);
        for carrier in [TEXT, Carrier::Json, Carrier::Xml, Carrier::Opaque] {
            let mut out = Vec::new();
            let outcome = masker.apply(&column, carrier, &value, &mut out);
            prop_assert_eq!(outcome == Outcome::Replaced, !out.is_empty());
        }
    }
}
