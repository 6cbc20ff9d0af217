//! Answers that are rewritten on their way: no input panics, no step makes more than it may, and what comes out does not
//! depend on how the bytes came. JSON that went in comes out as JSON, without what stands at a masked path.
#![no_main]

use std::sync::{Arc, LazyLock};

use interceptor::mask::{Config, Detector, Masker, Rules, Transform};
use interceptor::policy::Obligations;
use interceptor::protocol::http::codec;
use interceptor::protocol::http::rewrite::{Plan, Rewriter};

static PLANS: LazyLock<[Plan; 3]> = LazyLock::new(|| {
    let plan = |json: &[&str], detect: &[Detector], transform| {
        let json = json.iter().map(ToString::to_string).collect();
        let entry = Config { tag: "x".into(), columns: Vec::new(), json, detect: detect.to_vec(), base64: false, transform };
        let rules = Rules::compile(&[entry], None).expect("the rules are valid");
        let masker = Masker::new(Arc::new(rules), &Obligations { masked: Arc::new([Arc::from("x")].into()) });
        Plan::new(masker, "api", None)
    };
    [
        plan(&["$..a", "$.b[*].c", "$[1]"], &[], Transform::Redact),
        plan(&["$.a..b"], &[], Transform::KeepLast(4)),
        plan(&[], &Detector::ALL, Transform::Redact),
    ]
});

const KINDS: [&str; 5] = ["application/json", "application/x-ndjson", "text/event-stream", "text/plain", "application/xml"];
const CODINGS: [&str; 5] = ["identity", "gzip", "deflate", "br", "zstd"];

fn rewritten(shape: u8, pieces: &[&[u8]]) -> Option<Vec<u8>> {
    let plan = &PLANS[usize::from(shape) % 3];
    let kind = KINDS[usize::from(shape / 3) % 5];
    let coding = CODINGS[usize::from(shape / 15) % 5];
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Encoding: {coding}\r\n\r\n");
    let (head, _) = codec::response(head.as_bytes()).ok()??;
    let mut rewriter = Rewriter::new(plan.clone(), None, &head)?;
    let mut whole = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let mut out = Vec::new();
            let more = rewriter.push(&mut rest, &mut out).ok()?;
            assert!(out.len() <= 4 << 20);
            whole.append(&mut out);
            if !more {
                break;
            }
        }
        // A bomb is none of this target's business.
        if whole.len() > 4 << 20 {
            return None;
        }
    }
    rewriter.finish(&mut whole).ok()?;
    Some(whole)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [shape, cut, body @ ..] = data else { return };
    let (first, second) = body.split_at(usize::from(*cut).min(body.len()));
    let whole = rewritten(*shape, &[body]);
    assert_eq!(whole, rewritten(*shape, &[first, second]));
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(whole, rewritten(*shape, &bytes));
    if shape / 15 % 5 == 0 && shape / 3 % 5 == 0 {
        let Ok(read) = serde_json::from_slice::<serde_json::Value>(body) else { return };
        let shown = whole.expect("what is JSON for others is JSON here");
        let shown: serde_json::Value = serde_json::from_slice(&shown).expect("JSON stays JSON");
        if shape % 3 == 0
            && let (Some(read), Some(shown)) = (read.get("a"), shown.get("a"))
        {
            assert!(!read.is_string() || shown == "[masked:x]");
        }
    }
});
