//! Bodies through every coding and every cut. Nothing that is masked comes out, and what comes out has the same shape.

mod calls;

use std::io::Write as _;
use std::sync::{Arc, LazyLock};

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::mask::{Config, Detector, Rules, Transform};
use crate::policy::Obligations;
use crate::protocol::http::codec;

const CARD: &str = "4111111111111111";
const CODINGS: &[&str] = &["", "gzip", "x-gzip", "deflate", "deflate, raw", "br", "zstd"];

fn plan(json: &[&str], detect: &[Detector]) -> Plan {
    let json = json.iter().map(ToString::to_string).collect();
    let entry = Config {
        tag: "x".into(),
        columns: Vec::new(),
        json,
        detect: detect.to_vec(),
        base64: false,
        transform: Transform::Redact,
    };
    let rules = Arc::new(Rules::compile(&[entry], None).unwrap());
    let masked = Arc::new([Arc::from("x")].into());
    Plan::new(Masker::new(rules, &Obligations { masked }), "api", Some("/v1/{id}"))
}

fn nothing() -> Plan {
    Plan::new(Masker::new(Arc::default(), &Obligations::default()), "api", None)
}

static CARDS: LazyLock<Plan> = LazyLock::new(|| plan(&[], &[Detector::Card, Detector::Email]));

fn head(fields: &str) -> ResponseHead {
    let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    codec::response(text.as_bytes()).unwrap().unwrap().0
}

fn coded(coding: &str, body: &[u8]) -> Vec<u8> {
    let level = Compression::new(6);
    match coding {
        "gzip" | "x-gzip" => {
            let mut to = GzEncoder::new(Vec::new(), level);
            to.write_all(body).unwrap();
            to.finish().unwrap()
        }
        "deflate" => {
            let mut to = ZlibEncoder::new(Vec::new(), level);
            to.write_all(body).unwrap();
            to.finish().unwrap()
        }
        "deflate, raw" => {
            let mut to = DeflateEncoder::new(Vec::new(), level);
            to.write_all(body).unwrap();
            to.finish().unwrap()
        }
        "br" => {
            let mut out = Vec::new();
            brotli::BrotliCompress(&mut &*body, &mut out, &brotli::enc::BrotliEncoderParams::default()).unwrap();
            out
        }
        "zstd" => zstd::encode_all(body, 3).unwrap(),
        _ => body.to_vec(),
    }
}

type Counts = Vec<(String, u64)>;

/// What comes out, and what was counted. No step makes more than it may.
fn run(mut rewriter: Rewriter<'_>, body: &[u8], step: usize) -> Result<(Vec<u8>, Counts), Refused> {
    let mut whole = Vec::new();
    for piece in body.chunks(step) {
        let mut rest = piece;
        loop {
            let mut out = Vec::new();
            let more = rewriter.push(&mut rest, &mut out)?;
            assert!(out.len() <= 16 * coding::STEP, "{}", out.len());
            whole.extend_from_slice(&out);
            if !more {
                break;
            }
        }
        assert!(rest.is_empty());
    }
    rewriter.finish(&mut whole)?;
    Ok((whole, rewriter.take_counts()))
}

fn through(plan: &Plan, kind: &str, coding: &str, body: &[u8], step: usize) -> Result<(String, Counts), Refused> {
    let named = coding.split(',').next().unwrap();
    let head = head(&format!("Content-Type: {kind}\r\nContent-Encoding: {named}"));
    let rewriter = Rewriter::new(plan.clone(), None, &head).unwrap();
    run(rewriter, &coded(coding, body), step).map(|(out, counts)| (String::from_utf8(out).unwrap(), counts))
}

#[test]
fn every_coding_is_undone_and_what_is_in_it_masked() {
    let json = format!("{{\"a\":[\"{CARD}\"],\"b\":{CARD},\"n\":[{}1]}}", "1, ".repeat(40_000));
    let xml = format!("<a>{CARD}</a>");
    for (kind, body) in [
        ("application/json", json.as_str()),
        ("application/vnd.api+json; charset=UTF-8", &json),
        ("application/x-ndjson", "{\"a\":\"4111111111111111\"}\n{\"a\":1}\n"),
        ("text/event-stream", "data: 4111111111111111\n\ndata: {\"a\":\"4111111111111111\"}\n\n"),
        ("text/plain", "a 4111-1111-1111-1111 b\n"),
        ("text/html; charset=\"utf-8\"", "<p>4111111111111111</p>"),
        ("application/xml", &xml),
    ] {
        for coding in CODINGS {
            let (out, counts) = through(&CARDS, kind, coding, body.as_bytes(), 1000).unwrap();
            assert!(!out.contains("1111") && out.contains("[masked:x]"), "{kind} {coding}: {out:.100}");
            assert_eq!(counts.last().unwrap().0, "body");
            for step in [1, 7, usize::MAX] {
                assert!(through(&CARDS, kind, coding, body.as_bytes(), step).unwrap() == (out.clone(), counts.clone()));
            }
            assert!(through(&CARDS, kind, coding, b"", 1).is_ok());
        }
    }
}

/// Where what was made just fits, a decoder has nothing to say, and is asked again.
#[test]
fn lengths_that_fill_a_step_are_whole() {
    for coding in ["gzip", "deflate", "br", "zstd"] {
        for length in [65_535, 65_536, 65_537, 131_072, 196_608] {
            let body = format!("\"{}\"", "x".repeat(length - 2));
            let (told, _) =
                through(&plan(&["$.a"], &[]), "application/json", coding, body.as_bytes(), 1 << 20).unwrap();
            assert!(told == body, "{coding} {length}");
        }
    }
}

#[test]
fn what_is_broken_or_cut_off_does_not_end_well() {
    let body = format!("[{}1]", "\"some text of the body\",".repeat(3000));
    for coding in CODINGS.iter().filter(|coding| !coding.is_empty()) {
        let bytes = coded(coding, body.as_bytes());
        let named = coding.split(',').next().unwrap();
        let fields = format!("Content-Type: application/json\r\nContent-Encoding: {named}");
        let rewriter = || Rewriter::new(CARDS.clone(), None, &head(&fields)).unwrap();
        assert!(run(rewriter(), &bytes, 100).is_ok());
        for cut in [1, 2, 10, bytes.len() / 2, bytes.len() - 1] {
            assert!(run(rewriter(), &bytes[..cut], 100).is_err(), "{coding} cut at {cut}");
        }
        let behind = [&bytes[..], b"behind"].concat();
        assert_eq!(run(rewriter(), &behind, 100).unwrap_err(), Refused::Broken, "{coding}");
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 0x55;
        let _no_panic = run(rewriter(), &flipped, 100);
    }
    // Members and frames one behind the other are one body.
    for coding in ["gzip", "zstd"] {
        let bytes = [coded(coding, b"[\"4111"), coded(coding, b"111111111111\"]")].concat();
        let fields = format!("Content-Type: application/json\r\nContent-Encoding: {coding}");
        let (out, _) = run(Rewriter::new(CARDS.clone(), None, &head(&fields)).unwrap(), &bytes, 3).unwrap();
        assert_eq!(out, b"[\"[masked:x]\"]");
    }
}

#[test]
fn bombs_pass_in_bounded_steps_and_are_held_nowhere() {
    let bomb = format!("[{}1]", " ".repeat(8 << 20));
    for coding in CODINGS.iter().filter(|coding| !coding.is_empty()) {
        let bytes = coded(coding, bomb.as_bytes());
        assert!(bytes.len() < bomb.len() / 200, "{coding}: {}", bytes.len());
        let named = coding.split(',').next().unwrap();
        let fields = format!("Content-Type: application/json\r\nContent-Encoding: {named}");
        let mut rewriter = Rewriter::new(CARDS.clone(), None, &head(&fields)).unwrap();
        let (mut rest, mut total, mut out) = (bytes.as_slice(), 0, Vec::new());
        while rewriter.push(&mut rest, &mut out).unwrap() {
            // What a decoder may look back at is counted, and as bounded.
            let window = rewriter.decoder.held();
            assert!(window <= 16 << 20 && (window > 0 || total == 0), "{coding}: {window}");
            let held = rewriter.held() - window;
            assert!(out.len() <= coding::STEP + 4096 && held <= 2 * coding::STEP, "{coding}: {held}");
            total += out.len();
            out.clear();
        }
        rewriter.finish(&mut out).unwrap();
        assert_eq!(total + out.len(), bomb.len(), "{coding}");
    }
    // A window that would have to be held is not.
    let mut far = zstd::Encoder::new(Vec::new(), 1).unwrap();
    far.window_log(25).unwrap();
    far.long_distance_matching(true).unwrap();
    far.write_all(&vec![b' '; 64 << 20]).unwrap();
    let bytes = far.finish().unwrap();
    let fields = "Content-Type: application/json\r\nContent-Encoding: zstd";
    let rewriter = Rewriter::new(CARDS.clone(), None, &head(fields)).unwrap();
    assert_eq!(run(rewriter, &bytes, 1000).unwrap_err(), Refused::Broken);
}

#[test]
fn what_cannot_be_looked_into_passes_only_where_it_is_empty() {
    let by_path = plan(&["$..a"], &[]);
    for (plan, fields, why) in [
        (&*CARDS, "X: y", "of no type"),
        (&CARDS, "Content-Type: application/octet-stream", "octet-stream"),
        (&CARDS, "Content-Type: application/json; charset=utf-16", "utf-16"),
        (&CARDS, "Content-Type: text/plain; charset=utf-8; charset=latin1", "latin1"),
        (&CARDS, "Content-Type: text/plain; x=\"; charset=utf-8\"", "cannot be looked into"),
        (&CARDS, "Content-Type: application/jsonp", "jsonp"),
        (&CARDS, "Content-Type: application/json\r\nContent-Encoding: gzip, br", "gzip, br"),
        (&CARDS, "Content-Type: application/json\r\nContent-Encoding: compress", "compress"),
        (&CARDS, "Content-Type: application/json\r\nContent-Range: bytes 0-3/9", "only a part"),
        (&by_path, "Content-Type: text/csv", "is no JSON"),
        (&by_path, "Content-Type: application/xml", "is no JSON"),
    ] {
        let rewriter = || Rewriter::new(plan.clone(), None, &head(fields)).unwrap();
        let refused = run(rewriter(), b"[1]", 1).unwrap_err().to_string();
        assert!(refused.contains(why), "{fields}: {refused}");
        assert!(run(rewriter(), b"\xff", 1).unwrap_err().to_string().contains(why));
        assert!(run(rewriter(), b"", 1).is_ok());
    }
    for bad in [&b"[\"\xff\"]"[..], b"[\"\xc3\"]", b"[\"\xed\xa0\x80\"]", b"[\"\xc0\xaf\"]", b"[\"\xf0\x9f\x98"] {
        for step in [1, 2, 99] {
            let rewriter = Rewriter::new(CARDS.clone(), None, &head("Content-Type: application/json")).unwrap();
            assert_eq!(run(rewriter, bad, step).unwrap_err(), Refused::Charset, "{bad:?}");
        }
    }
    let long = vec![b'x'; MASK_LIMIT + 1];
    assert_eq!(through(&CARDS, "application/xml", "", &long, 4096).unwrap_err(), Refused::Long);
    assert!(through(&CARDS, "application/xml", "", &long[1..], 4096).is_ok());
}

#[test]
fn heads_no_longer_vouch_for_other_bytes() {
    let fields = "Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\nETag: \"a\"\r\n\
                  Content-MD5: x\r\nDigest: x\r\nContent-Digest: x\r\nRepr-Digest: x\r\nAccept-Ranges: bytes\r\nVary: *";
    let mut told = head(fields);
    Rewriter::new(CARDS.clone(), None, &told).unwrap().head(&mut told);
    let names: Vec<&str> = told.fields.0.iter().map(|field| field.name.as_str()).collect();
    assert_eq!((names, told.length), (vec!["content-type", "vary"], Length::Chunked));
    // Where nothing is masked, only what is decoded has another length.
    let spellings = Spellings::of(b"the-secret").unwrap();
    let plain = head("Content-Type: application/json\r\nContent-Length: 9\r\nETag: \"a\"");
    let mut told = plain.clone();
    Rewriter::new(nothing(), Some(&spellings), &plain).unwrap().head(&mut told);
    assert_eq!(told, plain);
    assert!(Rewriter::new(nothing(), None, &plain).is_none());
}

#[test]
fn echoes_are_found_in_what_was_decoded() {
    let spellings = Spellings::of(b"the-secret").unwrap();
    for coding in CODINGS {
        let fields = format!("Content-Type: image/png\r\nContent-Encoding: {}", coding.split(',').next().unwrap());
        for step in [1, 5, 1000] {
            let mut rewriter = Rewriter::new(nothing(), Some(&spellings), &head(&fields)).unwrap();
            let bytes = coded(coding, b"\xff<the-secret>\0 dGhlLXNlY3JldA==");
            let mut out = Vec::new();
            for piece in bytes.chunks(step) {
                let mut rest = piece;
                while rewriter.push(&mut rest, &mut out).unwrap() {}
            }
            rewriter.finish(&mut out).unwrap();
            assert!(rewriter.echoed() && out.starts_with(b"\xff<**********>\0 "), "{coding}: {out:?}");
            assert!(!String::from_utf8_lossy(&out).contains("dGhlLXNl"));
        }
    }
}

#[test]
fn events_are_masked_one_by_one_and_pass_at_once() {
    let both = plan(&["$.email"], &[Detector::Card]);
    for (events, expected) in [
        ("data: {\"email\":\"ada\"}\n\n", "data: {\"email\":\"[masked:x]\"}\n\n"),
        ("data:{\"email\":\"ada\"}\r\n\r\n", "data: {\"email\":\"[masked:x]\"}\n\r\n"),
        ("id: 7\nevent: x\ndata: {\"id\":1}\nretry: 5\n\n", "id: 7\nevent: x\ndata: {\"id\":1}\nretry: 5\n\n"),
        (
            "data: {\ndata: \"email\":\ndata\ndata: \"a\"}\nid: 1\n\n",
            "data: {\ndata: \"email\":\ndata: \ndata: \"[masked:x]\"}\nid: 1\n\n",
        ),
        ("\u{feff}data: {\"email\":1}\n\n", "\u{feff}data: {\"email\":null}\n\n"),
        ("data: [DONE]\n\n", "data: [DONE]\n\n"),
        ("data: email=ada\n\n", "data: [masked]\n\n"),
        ("data: {\"email\":\"a\n\ndata: da\"}\n\n", "data: [masked]\n\ndata: [masked]\n\n"),
        (": 4111111111111111\rid: 4111111111111111\r\r", ": [masked:x]\rid: [masked:x]\r\r"),
        ("data: 1\nx: 4111111111111111\n\n", "data: 1\n:\n\n"),
        (": {\"email\":\"ada\"}\nid: ada@x.example\n\n", ":\n:\n\n"),
        ("event: {\"email\":\"ada\"}\nDATA: {\"email\":\"ada\"}\ndata : x\n\n", ":\n:\n:\n\n"),
        (
            ": keep-alive 12:30\nevent: order.paid\nid: 1764306370-0\nretry: 5\n\n",
            ": keep-alive 12:30\nevent: order.paid\nid: 1764306370-0\nretry: 5\n\n",
        ),
        (
            "data: {\"email\":\"a\"}\nx: 4111111111111111\r\n\r\ndata: 2",
            "data: {\"email\":\"[masked:x]\"}\n:\r\n\r\ndata: 2",
        ),
        ("data: {\"email\":\"a\"}", "data: {\"email\":\"[masked:x]\"}\n"),
        ("\n\n:\n\n", "\n\n:\n\n"),
        ("data\n\ndata:\n\n", "data\n\ndata:\n\n"),
    ] {
        for step in [1, 2, 3, 1000] {
            let (out, _) = through(&both, "text/event-stream", "", events.as_bytes(), step).unwrap();
            assert_eq!(out, expected, "{events:?} in steps of {step}");
        }
    }
    let text = &*CARDS;
    let (out, _) = through(text, "text/event-stream", "", b"x: {4111111111111111}\n\n", 9).unwrap();
    assert_eq!(out, "x: {[masked:x]}\n\n");
    let (out, counts) =
        through(text, "text/event-stream", "", b"data: hi 4111 1111\ndata: 1111 1111 there\n\n", 9).unwrap();
    assert_eq!((out.as_str(), counts), ("data: hi [masked:x] there\n\n", vec![("body".to_owned(), 1)]));
    // Each as soon as it is complete, and comments, by which connections are kept open, before that.
    let fields = head("Content-Type: text/event-stream");
    let mut rewriter = Rewriter::new(both.clone(), None, &fields).unwrap();
    let mut out = Vec::new();
    assert!(!rewriter.push(&mut &b": ping\ndata: 1\n"[..], &mut out).unwrap() && !rewriter.is_opaque());
    assert_eq!(out, b": ping\n");
    rewriter.push(&mut &b"\n"[..], &mut out).unwrap();
    assert_eq!(out, b": ping\ndata: 1\n\n");
    assert_eq!(rewriter.held(), 0);
    let endless = format!("data: {}", "x".repeat(events::EVENT_LIMIT));
    assert_eq!(through(&both, "text/event-stream", "", endless.as_bytes(), 999).unwrap_err(), Refused::Event);
    let endless = "data: x\n".repeat(events::EVENT_LIMIT / 8);
    assert_eq!(through(&both, "text/event-stream", "", endless.as_bytes(), 999).unwrap_err(), Refused::Event);
}

#[test]
fn targets_are_told_of_codings_that_can_be_undone() {
    let accepted = |value: &str| {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{value}\r\n\r\n");
        accepted(&codec::request(text.as_bytes()).unwrap().unwrap().0.fields)
    };
    assert_eq!(accepted("Accept-Encoding: GZIP;q=0.5, br, zstd, dcb, compress, *"), "GZIP;q=0.5, br, zstd");
    assert_eq!(accepted("Accept-Encoding: deflate\r\nAccept-Encoding: x-gzip"), "deflate, x-gzip");
    assert_eq!((accepted("X: y").as_str(), accepted("Accept-Encoding: sdch").as_str()), ("identity", "identity"));
}

/// A document in which what begins with `~` stands at a masked path, and nothing else.
fn document() -> impl Strategy<Value = Value> {
    let secret = "~[a-z0-9]{14}[\"\\\\é😀/\u{1}]?";
    let harmless =
        prop_oneof![Just(json!(null)), any::<bool>().prop_map(Value::from), "[ -z]{0,9}".prop_map(Value::from)];
    let row = (secret, secret, harmless.clone(), prop::collection::vec(secret, 0..3), "(email|EMAIL|Email)").prop_map(
        |(one, other, harmless, many, name)| json!({"id": 7, name: one, "x": harmless, "deep": [{"ssn": {"a": many, "b": other}}]}),
    );
    prop::collection::vec(row, 0..5).prop_map(|rows| json!({"items": rows, "next": null}))
}

/// JSON with any sign of any string as an escape.
fn escaped(text: &str, seed: u64) -> String {
    let mut state = seed | 1;
    let mut out = String::new();
    let (mut within, mut kept) = (false, 0);
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if kept > 0 {
            kept -= 1;
        } else if sign == '\\' {
            kept = if signs.peek() == Some(&'u') { 5 } else { 1 };
        } else if sign == '"' {
            within = !within;
        } else if within && state.is_multiple_of(3) {
            let mut units = [0; 2];
            sign.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04X}")));
            continue;
        }
        out.push(sign);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn nothing_that_is_masked_comes_out_in_any_coding_cut_or_escape(
        documents in prop::collection::vec(document(), 1..3), seed in any::<u64>(), step in 1usize..300, how in 0usize..21,
    ) {
        static BY_PATH: LazyLock<Plan> = LazyLock::new(|| plan(&["api:$.items[*].email", "$..ssn"], &[]));
        let (coding, kind) = (CODINGS[how % CODINGS.len()], how / CODINGS.len());
        let texts: Vec<String> = documents.iter().map(|one| escaped(&one.to_string(), seed)).collect();
        for (text, one) in texts.iter().zip(&documents) {
            prop_assert_eq!(&serde_json::from_str::<Value>(text).unwrap(), one);
        }
        let (kind, body) = match kind {
            0 => ("application/json", texts.join("\n")),
            1 => ("application/x-ndjson", texts.join("\n") + "\n"),
            _ => ("text/event-stream", texts.iter().map(|text| format!("id: 1\ndata: {text}\n\n")).collect()),
        };
        let (out, counts) = through(&BY_PATH, kind, coding, body.as_bytes(), step).unwrap();
        prop_assert_eq!(&through(&BY_PATH, kind, "", body.as_bytes(), usize::MAX).unwrap().0, &out);
        prop_assert!(!out.contains('~'), "{}", out);
        let values: Vec<Value> = out.lines().filter_map(|line| {
            serde_json::from_str(line.strip_prefix("data: ").unwrap_or(line)).ok()
        }).collect();
        prop_assert_eq!(values.len(), documents.len());
        let mut masked = 0;
        for (shown, told) in values.iter().zip(&documents) {
            for (shown, told) in shown["items"].as_array().unwrap().iter().zip(told["items"].as_array().unwrap()) {
                let shape = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
                prop_assert_eq!(shape(shown), shape(told));
                prop_assert_eq!(&shown["x"], &told["x"]);
                let many = told["deep"][0]["ssn"]["a"].as_array().unwrap().len();
                prop_assert_eq!(shown["deep"][0]["ssn"]["a"].as_array().unwrap().len(), many);
                masked += 2 + many as u64;
            }
        }
        prop_assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), masked);
    }
}
