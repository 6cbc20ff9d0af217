//! A copied stream is masked the same wherever it is cut into chunks.
#![no_main]

use std::sync::{Arc, LazyLock};

use interceptor::mask::{Config, Detector, Masker, Rules, Transform};
use interceptor::policy::{Obligations, TagSet};
use interceptor::protocol::postgres::rows::{CopyColumn, CopyError, CopyFormat, CopyMasker};

static MASKER: LazyLock<Masker> = LazyLock::new(|| {
    let detect = Detector::ALL.to_vec();
    let entry = Config { tag: "x".into(), columns: Vec::new(), json: Vec::new(), detect, base64: false, transform: Transform::Redact };
    let rules = Rules::compile(&[entry], None).expect("the rules are valid");
    Masker::new(Arc::new(rules), &Obligations { masked: Arc::new([Arc::from("x")].into()) })
});

fn copied(format: CopyFormat, chunks: &[&[u8]]) -> Result<Vec<u8>, CopyError> {
    let column = CopyColumn { name: "c", tags: TagSet::default(), computed: false, type_oid: 25, typmod: -1 };
    let columns = [column.clone(), column];
    let mut masker = CopyMasker::new(MASKER.clone(), format, 2, Some(&columns), &|_| false);
    let mut out = Vec::new();
    for chunk in chunks {
        masker.feed(chunk, &mut out)?;
    }
    masker.finish()?;
    Ok(out)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [shape, cut, body @ ..] = data else { return };
    let format = match shape % 3 {
        0 => CopyFormat::Text { header: shape & 128 != 0 },
        1 => CopyFormat::Csv { header: shape & 128 != 0 },
        _ => CopyFormat::Binary,
    };
    let (first, second) = body.split_at(usize::from(*cut).min(body.len()));
    assert_eq!(copied(format, &[body]), copied(format, &[first, second]));
});
