//! Messages of calls: no input panics; what is understood stays so once it is masked; what was masked by its path is masked no
//! further (what a detector replaces can be the beginning of something that it finds then); and messages are told apart
//! however their bytes come; without what recordings do not show, what is understood is understood as ever, but for what is hidden.
#![no_main]

use std::sync::{Arc, LazyLock};

use interceptor::mask::{Config, Detector, Masker, Rules, Transform, TreeMasker};
use interceptor::policy::Obligations;
use interceptor::protocol::http::grpc::frames::{self, Frames, Unarmoured};
use interceptor::protocol::http::grpc::{Schema, blotted, masked, understood};
use interceptor::protocol::http::redact::json::Hides;

static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let set = include_bytes!("../../src/protocol/http/grpc/testdata/shop.protoset");
    Arc::new(Schema::parse(set).expect("the set is whole"))
});

static TREES: LazyLock<[TreeMasker; 2]> = LazyLock::new(|| {
    let tree = |json: &[&str], detect: &[Detector]| {
        let json = json.iter().map(ToString::to_string).collect();
        let transform = Transform::Redact;
        let entry = Config { tag: "x".into(), columns: Vec::new(), json, detect: detect.to_vec(), base64: false, transform };
        let rules = Rules::compile(&[entry], None).expect("the rules are valid");
        let masker = Masker::new(Arc::new(rules), &Obligations { masked: Arc::new([Arc::from("x")].into()) });
        let paths = masker.json_paths("api", None);
        TreeMasker::new(masker, paths)
    };
    [tree(&["$..name", "$..codes[1]", "$..state", "$..people.*.phone"], &[]), tree(&[], &Detector::ALL)]
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [shape, message @ ..] = data else { return };
    let _any = understood(&SCHEMA, "/shop.Orders/Place", message);
    for (by_path, tree) in [true, false].into_iter().zip(&*TREES) {
        let mut tree = tree.clone();
        let mut mask = |path: &str, bytes: &[u8]| masked(&SCHEMA, path, &mut tree, bytes).expect("there is such a method");
        if let Ok(once) = mask("/shop.Orders/Place", message) {
            let twice = mask("/shop.Orders/Place", &once);
            assert!(twice.is_ok() && (!by_path || twice.as_ref() == Ok(&once)), "{once:?}: {twice:?}");
        }
        // What is sent and what is answered is of one kind here.
        if let Some(Ok(_)) = understood(&SCHEMA, "/shop.Orders/Chat", message) {
            let told = mask("/shop.Orders/Chat", message).expect("what is understood can be masked");
            understood(&SCHEMA, "/shop.Orders/Chat", &told).expect("there is one").expect("it is still understood");
        }
    }
    check_hidden(message);
    let whole = told_apart(&[message]);
    assert_eq!(whole, told_apart(&message.chunks(usize::from(*shape) + 1).collect::<Vec<_>>()));
    let mut plain = Vec::new();
    let mut reader = Unarmoured::default();
    if message.chunks(usize::from(*shape) + 1).all(|part| reader.push(part, &mut plain).is_ok()) && reader.is_whole() {
        let (mut signs, mut again) = (Vec::new(), Vec::new());
        frames::armour(&plain, &mut signs);
        Unarmoured::default().push(&signs, &mut again).expect("it is base64");
        assert_eq!(plain, again);
    }
});

/// A name of a customer, and whatever they may be called beside, is hidden; nothing else is.
fn check_hidden(message: &[u8]) {
    const PATH: &str = "/shop.Orders/Place";
    let hides = |name: &str| if name == "card_number" { Hides::Value } else { Hides::Nothing };
    let mut shown = message.to_vec();
    blotted(&SCHEMA, PATH, &mut shown, &hides);
    assert_eq!(shown.len(), message.len());
    let Some(Ok(before)) = understood(&SCHEMA, PATH, message) else { return };
    let after = understood(&SCHEMA, PATH, &shown).expect("there is one").expect("it is still understood");
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after).filter(|(before, after)| before != after) {
        assert!(before.contains("card_number"), "{before} {after}");
    }
    for told in after.iter().filter_map(|told| told.strip_prefix("customer.card_number=")) {
        assert!(matches!(told, "true" | "false" | "null") || told.bytes().all(|byte| byte == b'*'), "{told}");
    }
}

fn told_apart(parts: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let (mut frames, mut found) = (Frames::new(64), Vec::new());
    for part in parts {
        frames.push(part);
        loop {
            match frames.take() {
                Ok(Some(frame)) => found.push(frame.whole.to_vec()),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}
