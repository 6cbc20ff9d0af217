//! Tests of result masking: types, formats, malformed rows, COPY.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::*;
use crate::mask::{Config, Detector, Rules, Transform};
use crate::policy::{Obligations, Tag};
use crate::secret::Secret;

const CARD: &str = "4111111111111111";

fn tags(names: &[&str]) -> TagSet {
    Arc::new(names.iter().map(|name| Tag::from(*name)).collect::<BTreeSet<_>>())
}

/// Tag `pii` with a transform, tag `found` for everything that is detected.
fn masker(transform: Transform, masked: &[&str]) -> Masker {
    let pii = Config {
        tag: "pii".into(),
        columns: vec!["t.*".into()],
        json: Vec::new(),
        detect: Vec::new(),
        base64: false,
        transform,
    };
    let found = Config {
        tag: "found".into(),
        columns: Vec::new(),
        json: Vec::new(),
        detect: Detector::ALL.to_vec(),
        base64: false,
        transform: Transform::Redact,
    };
    let rules = Rules::compile(&[pii, found], Some(Secret::from("0123456789abcdef"))).unwrap();
    Masker::new(Arc::new(rules), &Obligations { masked: tags(masked) })
}

fn field(name: &str, type_oid: u32, binary: bool) -> Field<'_> {
    Field { name, table_oid: 7, attnum: 1, type_oid, typmod: -1, format: i16::from(binary) }
}

fn lookup() -> Lookup<'static> {
    Lookup { tags: &|_, _| Some(TagSet::default()), is_text: &|oid| oid == 99_999 }
}

fn encode(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        match value {
            None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(value) => {
                body.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend_from_slice(value);
            }
        }
    }
    body
}

/// An independent reader of DataRow bodies.
fn decode(body: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut at = 2;
    let count = u16::from_be_bytes([body[0], body[1]]);
    let values = (0..count)
        .map(|_| {
            let length = i32::from_be_bytes(body[at..at + 4].try_into().unwrap());
            at += 4;
            let length = usize::try_from(length).ok()?;
            at += length;
            Some(body[at - length..at].to_vec())
        })
        .collect();
    assert_eq!(at, body.len());
    values
}

fn rows(masker: Masker, fields: &[Field<'_>], flows: &[(TagSet, bool)]) -> RowMasker {
    RowMasker::new(masker, fields, None, Lineage::Known(flows), lookup()).unwrap()
}

/// What a single tagged value of this type becomes.
fn one(transform: Transform, type_oid: u32, binary: bool, value: &[u8]) -> Option<Vec<u8>> {
    let mut rows = rows(masker(transform, &["pii"]), &[field("c", type_oid, binary)], &[(tags(&["pii"]), false)]);
    let mut out = Vec::new();
    assert_eq!(rows.mask_row(&encode(&[Some(value)]), &mut out), Ok(Row::Masked));
    decode(&out).remove(0)
}

/// What a single untagged value of this type becomes.
fn scanned(type_oid: u32, binary: bool, value: &[u8]) -> Option<Vec<u8>> {
    let mut rows = rows(masker(Transform::Redact, &["found"]), &[field("c", type_oid, binary)], &[(tags(&[]), false)]);
    let mut out = Vec::new();
    match rows.mask_row(&encode(&[Some(value)]), &mut out).unwrap() {
        Row::Unchanged => Some(value.to_vec()),
        Row::Masked => decode(&out).remove(0),
    }
}

#[test]
fn each_type_is_replaced_by_what_it_can_carry() {
    for oid in [25, 1043, 1042, 19, 705, 99_999] {
        for binary in [false, true] {
            assert_eq!(one(Transform::Redact, oid, binary, CARD.as_bytes()).unwrap(), b"[masked:pii]");
            assert_eq!(one(Transform::KeepLast(4), oid, binary, CARD.as_bytes()).unwrap(), b"************1111");
        }
    }
    assert_eq!(one(Transform::KeepLast(4), 1042, false, b"4111111111111111    ").unwrap(), b"************1111");
    assert_eq!(one(Transform::Redact, 114, true, b"{\"a\":1}").unwrap(), b"\"[masked:pii]\"");
    assert_eq!(one(Transform::Redact, 3802, false, b"{\"a\":1}").unwrap(), b"\"[masked:pii]\"");
    assert_eq!(one(Transform::Redact, 3802, true, b"\x01{\"a\":1}").unwrap(), b"\x01\"[masked:pii]\"");
    assert_eq!(one(Transform::Redact, 3802, true, b"\x02{\"a\":1}"), None, "another version is not understood");
    assert_eq!(one(Transform::Redact, 142, false, b"<a/>").unwrap(), b"[masked:pii]");
    assert_eq!(one(Transform::Redact, 18, false, b"x").unwrap(), b"*");
    // bool, int4, numeric, date, uuid, inet, bytea, text[], record, int4range, an enum.
    for oid in [16, 23, 1700, 1082, 2950, 869, 17, 1009, 2249, 3904, 50_000] {
        for transform in [Transform::Redact, Transform::KeepLast(4), Transform::Token, Transform::Null] {
            assert_eq!(one(transform, oid, false, b"12345678"), None, "type {oid}");
            assert_eq!(one(transform, oid, true, b"12345678"), None, "type {oid}");
        }
    }
}

#[test]
fn a_marker_fits_the_width_of_its_type() {
    let narrow = Field { typmod: 4 + 5, ..field("c", 1043, false) };
    let mut rows = rows(masker(Transform::Redact, &["pii"]), &[narrow], &[(tags(&["pii"]), false)]);
    let mut out = Vec::new();
    rows.mask_row(&encode(&[Some(b"abcde")]), &mut out).unwrap();
    assert_eq!(decode(&out), [Some(b"***".to_vec())]);
}

#[test]
fn untagged_values_are_looked_at() {
    assert_eq!(scanned(25, false, b"card 4111111111111111.").unwrap(), b"card [masked:found].");
    assert_eq!(scanned(25, true, b"clean").unwrap(), b"clean");
    assert_eq!(scanned(3802, true, b"\x01{\"a\":4111111111111111}").unwrap(), b"\x01{\"a\":\"[masked:found]\"}");
    assert_eq!(scanned(1009, false, b"{a,4111111111111111}"), None, "an array goes whole");
    assert_eq!(scanned(1009, false, b"{a,b}").unwrap(), b"{a,b}");
    assert_eq!(scanned(2249, false, b"(1,\"a@b.co\")"), None);
    assert_eq!(scanned(17, false, b"\\x61406220612e636f"), Some(b"\\x61406220612e636f".to_vec()));
    assert_eq!(scanned(17, false, b"\\x6140622e636f"), None, "a@b.co in hexadecimal");
    assert_eq!(scanned(17, false, b"a@b.co\\000"), None, "and in the escape format");
    assert_eq!(scanned(17, true, b"a@b.co"), None);
    assert_eq!(scanned(20, false, CARD.as_bytes()).unwrap(), CARD.as_bytes(), "numbers are not looked at");
}

#[test]
fn rows_without_a_mask_are_not_touched() {
    let fields = [field("a", 25, false), field("b", 23, true)];
    let plain = [(tags(&[]), false), (tags(&["pii"]), true)];
    let mut none = rows(masker(Transform::Redact, &[]), &fields, &plain);
    assert!(none.is_identity());
    assert_eq!(none.mask_row(&encode(&[Some(CARD.as_bytes()), None]), &mut Vec::new()), Ok(Row::Unchanged));
    let numbers = rows(masker(Transform::Redact, &["found"]), &[field("b", 23, true)], &[(tags(&[]), false)]);
    assert!(numbers.is_identity(), "detectors have nothing to look at");
    let mut some = rows(masker(Transform::Redact, &["pii"]), &fields, &plain);
    assert!(!some.is_identity());
    let mut out = b"kept".to_vec();
    assert_eq!(some.mask_row(&encode(&[Some(b"x"), None]), &mut out), Ok(Row::Unchanged), "NULL stays NULL");
    assert_eq!(out, b"kept");
    assert!(some.take_counts().is_empty());
    some.mask_row(&encode(&[Some(b"x"), Some(b"1234")]), &mut out).unwrap();
    assert_eq!(decode(&out[4..]), [Some(b"x".to_vec()), None]);
    assert_eq!(some.take_counts(), [("b".to_owned(), 1)]);
    assert!(some.take_counts().is_empty());
}

#[test]
fn what_is_not_known_is_masked_whole() {
    let masked = |lineage: Lineage<'_>, field: Field<'_>, known: Option<TagSet>| {
        let lookup = Lookup { tags: &|_, _| known.clone(), is_text: &|_| false };
        let mut rows = RowMasker::new(masker(Transform::Token, &["pii"]), &[field], None, lineage, lookup).unwrap();
        let mut out = Vec::new();
        rows.mask_row(&encode(&[Some(b"value")]), &mut out).unwrap();
        if out.is_empty() { "value".to_owned() } else { String::from_utf8(decode(&out).remove(0).unwrap()).unwrap() }
    };
    let text = field("c", 25, false);
    let computed = Field { table_oid: 0, attnum: 0, ..text };
    let one = [(tags(&[]), false)];
    let two = [(tags(&[]), false), (tags(&[]), false)];
    let known = Some(tags(&[]));
    assert_eq!(masked(Lineage::Known(&one), text, known.clone()), "value");
    assert_eq!(masked(Lineage::Known(&one), computed, None), "value");
    assert_eq!(masked(Lineage::Known(&two), text, known.clone()), "[masked]", "another width than analysed");
    assert_eq!(masked(Lineage::Known(&[]), text, known.clone()), "[masked]");
    assert_eq!(masked(Lineage::Known(&one), text, None), "[masked]", "a table that the catalog does not know");
    assert_eq!(masked(Lineage::Unknown, text, known), "value");
    assert_eq!(masked(Lineage::Unknown, text, None), "[masked]");
    assert_eq!(masked(Lineage::Unknown, computed, Some(tags(&[]))), "[masked]");
    let tagged = [(tags(&["pii"]), false)];
    assert!(masked(Lineage::Known(&tagged), text, Some(tags(&[]))).starts_with("tok_"));
    assert_eq!(masked(Lineage::Known(&tagged), computed, None), "[masked:pii]", "the server knows no origin");
    // Either source of a tag is enough.
    assert!(masked(Lineage::Known(&one), text, Some(tags(&["pii"]))).starts_with("tok_"));
    assert!(masked(Lineage::Unknown, text, Some(tags(&["pii"]))).starts_with("tok_"));
    assert_eq!(masked(Lineage::Known(&[(tags(&["pii"]), true)]), computed, None), "[masked:pii]");
    assert_eq!(masked(Lineage::Known(&[(tags(&[]), true)]), text, Some(tags(&["pii"]))), "[masked:pii]");
}

#[test]
fn formats_come_from_bind() {
    let fields = [field("a", 3802, false), field("b", 3802, false)];
    let flows = [(tags(&["pii"]), false), (tags(&["pii"]), false)];
    let with = |formats: &[i16]| {
        RowMasker::new(masker(Transform::Redact, &["pii"]), &fields, Some(formats), Lineage::Known(&flows), lookup())
    };
    let body = encode(&[Some(b"\x01{}"), Some(b"\x01{}")]);
    for (formats, binary) in [(&[] as &[i16], [false; 2]), (&[1], [true; 2]), (&[0, 1], [false, true])] {
        let mut out = Vec::new();
        with(formats).unwrap().mask_row(&body, &mut out).unwrap();
        assert_eq!(decode(&out).into_iter().map(|value| value.unwrap()[0] == 1).collect::<Vec<_>>(), binary);
    }
    assert_eq!(with(&[2]).unwrap_err(), Malformed::Format(2));
    assert_eq!(with(&[0, 0, 0]).unwrap_err(), Malformed::Formats { columns: 2, codes: 3 });
}

#[test]
fn a_malformed_row_is_an_error() {
    let fields = [field("a", 25, false), field("b", 25, false)];
    let flows = [(tags(&["pii"]), false), (tags(&[]), false)];
    let mut rows = rows(masker(Transform::Redact, &["pii"]), &fields, &flows);
    let good = encode(&[Some(b"secret"), Some(b"plain")]);
    for (body, error) in [
        (encode(&[Some(b"secret")]), Malformed::Count { expected: 2, found: 1 }),
        (encode(&[]), Malformed::Count { expected: 2, found: 0 }),
        (good[..good.len() - 1].to_vec(), Malformed::Length),
        ([good.as_slice(), b"x"].concat(), Malformed::Trailing),
        (b"".to_vec(), Malformed::Length),
        ([&good[..2], &[0xff, 0xff, 0xff, 0xfe]].concat(), Malformed::Length),
        ([&good[..2], &[0x7f, 0xff, 0xff, 0xff]].concat(), Malformed::Length),
    ] {
        let mut out = b"kept".to_vec();
        assert_eq!(rows.mask_row(&body, &mut out), Err(error));
        assert_eq!(out, b"kept", "nothing of it is forwarded");
    }
}

fn copy(format: CopyFormat, masked: &[&str], types: &[u32]) -> CopyMasker {
    let columns: Vec<_> = types
        .iter()
        .enumerate()
        .map(|(index, type_oid)| CopyColumn {
            name: "c",
            tags: tags(if index == 0 { &["pii"] } else { &[] }),
            computed: false,
            type_oid: *type_oid,
            typmod: -1,
        })
        .collect();
    CopyMasker::new(masker(Transform::Redact, masked), format, types.len(), Some(&columns), &|_| false)
}

/// The output is the same wherever the stream is cut.
fn copied(format: CopyFormat, masked: &[&str], types: &[u32], data: &[u8]) -> Result<Vec<u8>, CopyError> {
    let run = |chunks: &mut dyn Iterator<Item = &[u8]>| {
        let mut masker = copy(format, masked, types);
        let mut out = Vec::new();
        for chunk in chunks {
            masker.feed(chunk, &mut out)?;
        }
        masker.finish().map(|()| out)
    };
    let whole = run(&mut [data].into_iter());
    for size in 1..data.len() {
        assert_eq!(run(&mut data.chunks(size)), whole, "in chunks of {size}");
    }
    whole
}

#[test]
fn copied_text_is_masked() {
    let text = CopyFormat::Text { header: false };
    let data = b"secret\t1\tfine\n\\N\t2\ta\\tb a@b.co\\\\\nse\\tcret\t\\N\t\n";
    let out = copied(text, &["pii", "found"], &[25, 23, 25], data).unwrap();
    assert_eq!(out, b"[masked:pii]\t1\tfine\n\\N\t2\ta\\tb [masked:found]\\\\\n[masked:pii]\t\\N\t\n");
    assert_eq!(copied(text, &["pii"], &[23, 23], b"1\t2\n").unwrap(), b"\\N\t2\n");
    assert_eq!(copied(text, &["pii"], &[0], b"x\n").unwrap(), b"\\N\n", "an unknown type");
    assert_eq!(
        copied(CopyFormat::Text { header: true }, &["pii"], &[25], b"name\nx\n").unwrap(),
        b"name\n[masked:pii]\n"
    );
    assert_eq!(copied(text, &["found"], &[25, 25], b"x\ta\\x40b.co\n"), Err(CopyError::Escape));
    assert_eq!(copied(text, &["pii"], &[25], b"x"), Err(CopyError::Partial));
    let count = CopyError::Row(Malformed::Count { expected: 1, found: 2 });
    assert_eq!(copied(text, &["pii"], &[25], b"x\ty\n"), Err(count));
}

#[test]
fn copied_csv_is_masked() {
    let csv = CopyFormat::Csv { header: false };
    let data = b"\"se,\"\"c\"\"\nret\",1,\"hi \"\"a@b.co\"\"\"\n,2,\n\"\",,x\n";
    let out = copied(csv, &["pii", "found"], &[25, 23, 25], data).unwrap();
    assert_eq!(out, b"\"[masked:pii]\",1,\"hi \"\"[masked:found]\"\"\"\n,2,\n\"[masked:pii]\",,x\n");
    assert_eq!(copied(csv, &["pii"], &[23, 23], b"1,2\n").unwrap(), b",2\n");
    assert_eq!(
        copied(CopyFormat::Csv { header: true }, &["pii"], &[25], b"\"na\nme\"\nx\n").unwrap(),
        b"\"na\nme\"\n\"[masked:pii]\"\n"
    );
    assert_eq!(copied(csv, &["pii"], &[25], b"a\"b\"\n"), Err(CopyError::Quotes));
    assert_eq!(copied(csv, &["pii"], &[25], b"\"x\n"), Err(CopyError::Partial));
}

#[test]
fn copied_binary_is_masked() {
    let stream = |rows: &[&[Option<&[u8]>]]| {
        let rows = rows.iter().flat_map(|row| encode(row)).collect::<Vec<_>>();
        [b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0" as &[u8], &rows, b"\xff\xff"].concat()
    };
    let data = stream(&[&[Some(b"secret"), Some(b"ok")], &[None, Some(b"a@b.co")]]);
    let masked = stream(&[&[Some(b"[masked:pii]"), Some(b"ok")], &[None, Some(b"[masked:found]")]]);
    assert_eq!(copied(CopyFormat::Binary, &["pii", "found"], &[25, 25], &data).unwrap(), masked);
    assert_eq!(copied(CopyFormat::Binary, &["pii"], &[25, 25], &data[..data.len() - 2]), Err(CopyError::Partial));
    assert_eq!(
        copied(CopyFormat::Binary, &["pii"], &[25], b"PGCOPX\n\xff\r\n\0\0\0\0\0\0\0\0\0"),
        Err(CopyError::Header)
    );
    let more = [data.as_slice(), b"x"].concat();
    assert_eq!(copied(CopyFormat::Binary, &["pii"], &[25, 25], &more), Err(CopyError::Row(Malformed::Trailing)));
}

#[test]
fn unknown_copy_columns_are_masked_whole() {
    for columns in [None, Some(&[] as &[CopyColumn<'_>])] {
        let text = CopyFormat::Text { header: false };
        let mut masker = CopyMasker::new(masker(Transform::Redact, &["pii"]), text, 2, columns, &|_| false);
        let mut out = Vec::new();
        masker.feed(b"a\tb\n", &mut out).unwrap();
        assert_eq!(out, b"\\N\t\\N\n");
        assert_eq!(masker.take_counts(), [("column 1".to_owned(), 1), ("column 2".to_owned(), 1)]);
    }
}

#[test]
fn a_row_without_end_is_bounded() {
    let mut masker = copy(CopyFormat::Text { header: false }, &["pii"], &[25]);
    let chunk = vec![b'x'; MAX_COPY_ROW];
    masker.feed(&chunk, &mut Vec::new()).unwrap();
    assert_eq!(masker.feed(b"x", &mut Vec::new()), Err(CopyError::RowTooLong));
}

#[test]
fn copy_options_that_change_the_form_are_refused() {
    let parse = CopyFormat::parse;
    assert_eq!(parse(&[]), Ok(CopyFormat::Text { header: false }));
    assert_eq!(parse(&[("header", None), ("format", Some("csv"))]), Ok(CopyFormat::Csv { header: true }));
    assert_eq!(parse(&[("format", Some("binary"))]), Ok(CopyFormat::Binary));
    for option in [
        ("delimiter", Some("|")),
        ("null", Some("")),
        ("quote", Some("'")),
        ("escape", Some("\\")),
        ("encoding", Some("sjis")),
        ("force_quote", Some("*")),
        ("format", Some("xml")),
        ("format", None),
        ("header", Some("match")),
    ] {
        assert_eq!(parse(&[option]), Err(Unsupported(option.0.to_owned())));
    }
    assert!(parse(&[("format", Some("binary")), ("header", None)]).is_err());
}

fn any_row() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
    proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)), 4)
}

static FOUR: LazyLock<Masker> = LazyLock::new(|| masker(Transform::KeepLast(4), &["pii", "found"]));

/// Tagged text, untagged text, tagged jsonb, untagged number.
fn four(masker: Masker) -> RowMasker {
    let fields = [field("a", 25, false), field("b", 25, true), field("c", 3802, true), field("d", 23, true)];
    let flows = [(tags(&["pii"]), false), (tags(&[]), false), (tags(&["pii"]), false), (tags(&[]), false)];
    rows(masker, &fields, &flows)
}

fn refs(values: &[Option<Vec<u8>>]) -> Vec<Option<&[u8]>> {
    values.iter().map(Option::as_deref).collect()
}

proptest! {
    #[test]
    fn a_masked_row_keeps_its_width_and_hides_its_values(values in any_row()) {
        let mut rows = four(FOUR.clone());
        let body = encode(&refs(&values));
        let mut out = Vec::new();
        let shown = match rows.mask_row(&body, &mut out).unwrap() {
            Row::Unchanged => decode(&body),
            Row::Masked => decode(&out),
        };
        prop_assert_eq!(shown.len(), values.len());
        for (index, (shown, value)) in shown.iter().zip(&values).enumerate() {
            prop_assert!(value.is_some() || shown.is_none());
            let Some(value) = value else { continue };
            if index == 3 {
                prop_assert_eq!(shown.as_ref(), Some(value));
            } else if index % 2 == 0 && value.len() >= 4 && value.iter().any(|byte| *byte != b'*') && shown.is_some() {
                let shown = shown.as_deref().unwrap();
                prop_assert!(!shown.windows(value.len()).any(|part| part == value.as_slice()));
            }
        }
    }

    #[test]
    fn nothing_changes_where_nothing_is_masked(values in any_row()) {
        let mut rows = four(masker(Transform::Redact, &[]));
        let mut out = Vec::new();
        prop_assert_eq!(rows.mask_row(&encode(&refs(&values)), &mut out), Ok(Row::Unchanged));
        prop_assert!(out.is_empty());
    }

    #[test]
    fn any_mutation_of_a_row_parses_or_errs(values in any_row(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let mut body = encode(&refs(&values));
        let place = at.index(body.len());
        body[place] = byte;
        body.truncate(cut.index(body.len()) + 1);
        let mut out = Vec::new();
        match four(FOUR.clone()).mask_row(&body, &mut out) {
            Ok(Row::Masked) => prop_assert_eq!(decode(&out).len(), 4),
            Ok(Row::Unchanged) => {
                prop_assert!(out.is_empty());
                prop_assert_eq!(decode(&body).len(), 4);
            }
            Err(_) => prop_assert!(out.is_empty()),
        }
    }

    #[test]
    fn copied_text_keeps_its_clean_values(values in proptest::collection::vec("\\PC{0,12}|[\\\\\t\n\r\u{b}]{0,4}", 1..6)) {
        let escaped: Vec<String> = values.iter().map(|value| {
            value.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r").replace('\u{b}', "\\v")
        }).collect();
        let line = format!("secret\t{}\n", escaped.join("\t"));
        let mut masker = copy(CopyFormat::Text { header: false }, &["pii"], &vec![25; values.len() + 1]);
        let mut out = Vec::new();
        masker.feed(line.as_bytes(), &mut out).unwrap();
        prop_assert_eq!(String::from_utf8(out).unwrap(), line.replacen("secret", "[masked:pii]", 1));
    }
}
