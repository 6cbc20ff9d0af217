//! Any DataRow body is masked into a row of the same width, or refused with nothing written.
#![no_main]

use std::sync::{Arc, LazyLock};

use interceptor::mask::{Config, Detector, Masker, Rules, Transform};
use interceptor::policy::{Obligations, TagSet};
use interceptor::protocol::postgres::rows::{Field, Lineage, Lookup, Row, RowMasker};

static MASKER: LazyLock<Masker> = LazyLock::new(|| {
    let detect = Detector::ALL.to_vec();
    let entry = Config { tag: "x".into(), columns: Vec::new(), detect, transform: Transform::KeepLast(4) };
    let rules = Rules::compile(&[entry], None).expect("the rules are valid");
    Masker::new(Arc::new(rules), &Obligations { masked: tagged() })
});

fn tagged() -> TagSet {
    Arc::new([Arc::from("x")].into())
}

/// Types of the columns: text, bpchar, json, jsonb, xml, bytea, text[], int4, one that nobody knows.
const TYPES: [u32; 9] = [25, 1042, 114, 3802, 142, 17, 1009, 23, 99_999];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((shape, body)) = data.split_first() else { return };
    let field = |type_oid| Field {
        name: "c",
        table_oid: 1,
        attnum: 1,
        type_oid,
        typmod: i32::from(shape >> 2),
        format: i16::from(shape & 1),
    };
    let fields = TYPES.map(field);
    let flows = TYPES.map(|_| if shape & 2 == 0 { (TagSet::default(), false) } else { (tagged(), false) });
    let lookup = Lookup { tags: &|_, _| Some(TagSet::default()), is_text: &|_| false };
    let mut rows =
        RowMasker::new(MASKER.clone(), &fields, None, Lineage::Known(&flows), lookup).expect("known formats");
    let mut out = Vec::new();
    match rows.mask_row(body, &mut out) {
        Ok(Row::Masked) => assert_eq!(out.get(..2), body.get(..2)),
        Ok(Row::Unchanged) | Err(_) => assert!(out.is_empty()),
    }
});
