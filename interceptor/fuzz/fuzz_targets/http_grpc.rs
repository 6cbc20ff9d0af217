//! Messages of calls: no input panics; what is understood stays so once it is masked; what was masked by its path is masked no
//! further (what a detector replaces can be the beginning of something that it finds then); and messages are told apart
//! however their bytes come.
#![no_main]

use std::sync::{Arc, LazyLock};

use interceptor::mask::{Config, Detector, Masker, Rules, Transform, TreeMasker};
use interceptor::policy::Obligations;
use interceptor::protocol::http::grpc::frames::{self, Frames, Unarmoured};
use interceptor::protocol::http::grpc::{Schema, masked, understood};

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
