//! Any DataRow body is masked into a row of the same width, or refused with nothing written; each value as if it stood
//! alone, and nothing of a tagged value is left.
#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use interceptor::mask::{Config, Detector, Masker, Rules, Transform};
use interceptor::policy::{Obligations, TagSet};
use interceptor::protocol::postgres::codec::{Backend, backend_limit, frame, write};
use interceptor::protocol::postgres::rows::{Field, Lineage, Lookup, Row, RowMasker};

static MASKER: LazyLock<Masker> = LazyLock::new(|| {
    let detect = Detector::ALL.to_vec();
    let entry = Config { tag: "x".into(), columns: Vec::new(), json: Vec::new(), detect, base64: false, transform: Transform::KeepLast(4) };
    let rules = Rules::compile(&[entry], None).expect("the rules are valid");
    Masker::new(Arc::new(rules), &Obligations { masked: tagged() })
});

fn tagged() -> TagSet {
    Arc::new([Arc::from("x")].into())
}

/// Types of the columns: text, bpchar, json, jsonb, xml, bytea, text[], int4, one that nobody knows.
const TYPES: [u32; 9] = [25, 1042, 114, 3802, 142, 17, 1009, 23, 99_999];

/// A masker for columns of these types.
fn masker(shape: u8, types: &[u32]) -> RowMasker {
    let field = |type_oid: &u32| Field {
        name: "c",
        table_oid: 1,
        attnum: 1,
        type_oid: *type_oid,
        typmod: i32::from(shape >> 2),
        format: i16::from(shape & 1),
    };
    let fields: Vec<_> = types.iter().map(field).collect();
    let flow = if shape & 2 == 0 { (TagSet::default(), false) } else { (tagged(), false) };
    let flows = vec![flow; types.len()];
    let lookup = Lookup { tags: &|_, _| Some(TagSet::default()), is_text: &|_| false };
    RowMasker::new(MASKER.clone(), &fields, None, Lineage::Known(&flows), lookup).expect("known formats")
}

fn values(body: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let mut raw = BytesMut::new();
    write::message(&mut raw, b'D', |out| out.extend_from_slice(body));
    let Ok(Backend::DataRow(values)) = Backend::decode(frame(&raw, backend_limit).ok()??) else { return None };
    Some(values.map(|value| value.map(<[u8]>::to_vec)).collect())
}

fn masked(masker: &mut RowMasker, body: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let mut out = Vec::new();
    match masker.mask_row(body, &mut out) {
        Ok(Row::Masked) => Some(values(&out).expect("a masked row is laid out as one")),
        Ok(Row::Unchanged) => {
            assert!(out.is_empty());
            values(body)
        }
        Err(_) => {
            assert!(out.is_empty());
            None
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((shape, body)) = data.split_first() else { return };
    let Some(row) = masked(&mut masker(*shape, &TYPES), body) else { return };
    let before = values(body).expect("what is masked is a row");
    assert_eq!(row.len(), before.len());
    for ((value, original), oid) in row.iter().zip(&before).zip(TYPES) {
        let mut alone = BytesMut::new();
        write::data_row(&mut alone, [original.as_deref()].into_iter());
        let single = masked(&mut masker(*shape, &[oid]), &alone[5..]).expect("a value alone is a row");
        assert_eq!(&single[0], value, "type {oid}");
        let Some(original) = original else {
            assert_eq!(*value, None);
            continue;
        };
        // Of a tagged value at most a third is shown: what is longer than that cannot be found in what is left.
        let shown = value.as_deref().unwrap_or_default();
        let tells = original.iter().any(|byte| !b"*[]masked:x\"{},null".contains(byte));
        if shape & 2 != 0 && tells && original.len() >= 8 {
            assert!(!shown.windows(original.len()).any(|window| window == original), "type {oid}: {original:?}");
        }
    }
});
