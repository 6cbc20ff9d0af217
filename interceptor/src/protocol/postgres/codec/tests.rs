//! The codec against itself: decode inverts encode, however the stream is cut.
#![expect(clippy::cast_possible_truncation, reason = "the tests' messages are small")]

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// Any bytes without a zero, as a name or text.
fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(1u8..=255, 0..24)
}

fn frontend_bytes() -> impl Strategy<Value = Vec<u8>> {
    let encode = |message: Frontend<'_>| {
        let mut out = BytesMut::new();
        assert!(write::frontend(&mut out, &message));
        out.to_vec()
    };
    prop_oneof![
        text().prop_map(move |text| encode(Frontend::Query(&text))),
        (text(), text(), vec(any::<[u8; 4]>(), 0..4)).prop_map(move |(name, text, types)| {
            encode(Frontend::Parse { name: &name, text: &text, types: &types.concat() })
        }),
        (text(), text(), vec((any::<bool>(), option::of(vec(any::<u8>(), 0..9))), 0..4), any::<bool>())
            .prop_map(|(portal, statement, values, result)| bind_bytes(&portal, &statement, &values, result)),
        (text(), any::<i32>())
            .prop_map(move |(portal, max_rows)| encode(Frontend::Execute { portal: &portal, max_rows })),
        text().prop_map(move |name| encode(Frontend::Describe(Side::Portal, &name))),
        text().prop_map(move |name| encode(Frontend::Close(Side::Statement, &name))),
        vec(any::<u8>(), 0..40).prop_map(move |body| encode(Frontend::CopyData(&body))),
        (any::<u32>(), vec(option::of(vec(any::<u8>(), 0..9)), 0..4), any::<bool>())
            .prop_map(|(function, values, result)| call_bytes(function, &values, result)),
        Just(encode(Frontend::Sync)),
        Just(encode(Frontend::Flush)),
    ]
}

fn bind_bytes(portal: &[u8], statement: &[u8], values: &[(bool, Option<Vec<u8>>)], result: bool) -> Vec<u8> {
    use bytes::BufMut;
    let mut out = BytesMut::new();
    write::message(&mut out, b'B', |out| {
        crate::wire::put_cstr(out, portal);
        crate::wire::put_cstr(out, statement);
        out.put_u16(values.len() as u16);
        values.iter().for_each(|(binary, _)| out.put_u16(u16::from(*binary)));
        out.put_u16(values.len() as u16);
        for (_, value) in values {
            match value {
                None => out.put_i32(-1),
                Some(value) => {
                    out.put_i32(value.len() as i32);
                    out.put_slice(value);
                }
            }
        }
        out.put_u16(1);
        out.put_u16(u16::from(result));
    });
    out.to_vec()
}

fn call_bytes(function: u32, values: &[Option<Vec<u8>>], result: bool) -> Vec<u8> {
    use bytes::BufMut;
    let mut out = BytesMut::new();
    write::message(&mut out, b'F', |out| {
        out.put_u32(function);
        out.put_slice(&[0, 1, 0, 1]);
        out.put_u16(values.len() as u16);
        for value in values {
            out.put_i32(value.as_ref().map_or(-1, |value| value.len() as i32));
            out.put_slice(value.as_deref().unwrap_or_default());
        }
        out.put_u16(u16::from(result));
    });
    out.to_vec()
}

fn backend_bytes() -> impl Strategy<Value = Vec<u8>> {
    let encode = |message: Backend<'_>| {
        let mut out = BytesMut::new();
        assert!(write::backend(&mut out, &message));
        out.to_vec()
    };
    prop_oneof![
        (text(), text()).prop_map(move |(name, value)| encode(Backend::ParameterStatus(&name, &value))),
        prop_oneof![Just(b'I'), Just(b'T'), Just(b'E')].prop_map(move |status| encode(Backend::ReadyForQuery(status))),
        text().prop_map(move |tag| encode(Backend::CommandComplete(&tag))),
        vec(option::of(vec(any::<u8>(), 0..9)), 0..5).prop_map(|values| {
            let mut out = BytesMut::new();
            assert!(write::data_row(&mut out, values.iter().map(Option::as_deref)));
            out.to_vec()
        }),
        vec((text(), any::<(u32, i16, u32, i16, i32, u16)>()), 0..4).prop_map(|fields| {
            let mut out = BytesMut::new();
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, (table_oid, column, type_oid, type_size, type_modifier, format))| Field {
                    name,
                    table_oid: *table_oid,
                    column: *column,
                    type_oid: *type_oid,
                    type_size: *type_size,
                    type_modifier: *type_modifier,
                    format: *format,
                })
                .collect();
            assert!(write::row_description(&mut out, fields.into_iter()));
            out.to_vec()
        }),
        vec((1u8..=255, text()), 0..4).prop_map(|fields| {
            let mut out = BytesMut::new();
            assert!(write::notice(&mut out, b'E', fields.iter().map(|(code, text)| (*code, &text[..]))));
            out.to_vec()
        }),
        (any::<u32>(), vec(any::<u8>(), 4..=256))
            .prop_map(move |(process_id, secret)| encode(Backend::BackendKeyData { process_id, secret: &secret })),
    ]
}

/// Whole messages of a stream that arrives in pieces.
fn collect(stream: &[u8], cuts: &[usize], limit: fn(u8) -> usize) -> Vec<Vec<u8>> {
    let mut buffer = BytesMut::new();
    let mut messages = Vec::new();
    let mut position = 0;
    for cut in cuts.iter().copied().chain([stream.len()]) {
        let end = (position + cut).min(stream.len());
        buffer.extend_from_slice(&stream[position..end]);
        position = end;
        while let Some(found) = frame(&buffer, limit).unwrap() {
            let length = found.raw.len();
            messages.push(buffer.split_to(length).to_vec());
        }
    }
    assert!(buffer.is_empty());
    messages
}

proptest! {
    #[test]
    fn what_the_agent_says_survives(message in frontend_bytes()) {
        let found = frame(&message, frontend_limit).unwrap().unwrap();
        let decoded = Frontend::decode(found).unwrap();
        let mut again = BytesMut::new();
        prop_assert!(write::frontend(&mut again, &decoded));
        prop_assert_eq!(&again[..], &message[..]);
    }

    #[test]
    fn what_the_target_says_survives(message in backend_bytes()) {
        let found = frame(&message, backend_limit).unwrap().unwrap();
        let decoded = Backend::decode(found).unwrap();
        let mut again = BytesMut::new();
        prop_assert!(write::backend(&mut again, &decoded));
        prop_assert_eq!(&again[..], &message[..]);
    }

    #[test]
    fn any_split_gives_the_same_messages(messages in vec(frontend_bytes(), 1..6), cuts in vec(0usize..40, 0..12)) {
        let stream = messages.concat();
        prop_assert_eq!(collect(&stream, &cuts, frontend_limit), messages);
    }

    #[test]
    fn whatever_decodes_encodes_to_itself(tag in any::<u8>(), body in vec(any::<u8>(), 0..64)) {
        let mut raw = vec![tag];
        raw.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        raw.extend_from_slice(&body);
        let found = frame(&raw, frontend_limit).unwrap().unwrap();
        let mut again = BytesMut::new();
        if let Ok(decoded) = Frontend::decode(found) {
            prop_assert!(write::frontend(&mut again, &decoded));
            prop_assert_eq!(&again[..], &raw[..]);
        }
        again.clear();
        if let Ok(decoded) = Backend::decode(found) {
            prop_assert!(write::backend(&mut again, &decoded));
            prop_assert_eq!(&again[..], &raw[..]);
        }
    }

    #[test]
    fn start_up_packets_survive(parameters in vec((vec(1u8..=255, 1..9), text()), 0..5), minor in 0u16..4) {
        let mut out = BytesMut::new();
        let version = ProtocolVersion { major: 3, minor };
        let pairs = parameters.iter().map(|(name, value)| (&name[..], &value[..]));
        prop_assert!(write::startup(&mut out, version, pairs));
        for cut in 0..out.len() {
            prop_assert_eq!(startup(&out[..cut]), Ok(None));
        }
        let (packet, length) = startup(&out).unwrap().unwrap();
        prop_assert_eq!(length, out.len());
        let mut again = BytesMut::new();
        prop_assert!(write::startup_packet(&mut again, &packet));
        prop_assert_eq!(again, out);
    }
}

#[test]
fn lengths_are_bounded_before_the_body_arrives() {
    let header = |tag: u8, length: u32| [&[tag][..], &length.to_be_bytes()[..]].concat();
    assert_eq!(peek(&header(b'Q', 3)), Err(Malformed::Length { tag: b'Q' }));
    assert_eq!(peek(&header(b'Q', u32::MAX)), Err(Malformed::Length { tag: b'Q' }));
    for (tag, limit) in [(b'Q', STATEMENT_LIMIT), (b'B', MESSAGE_LIMIT), (b'S', SMALL_LIMIT), (b'?', SMALL_LIMIT)] {
        let found = frame(&header(tag, limit as u32), frontend_limit).map(|_| ());
        assert_eq!(found, Err(Malformed::TooLong { tag, length: limit + 1, limit }));
        assert_eq!(frame(&header(tag, limit as u32 - 1), frontend_limit), Ok(None));
    }
    let packet = |length: u32| startup(&length.to_be_bytes()).map(|_| ()).is_err();
    assert!(packet(7) && packet(10_001) && !packet(10_000) && !packet(8));
}

#[test]
fn bytes_left_over_are_errors() {
    for raw in [&b"S\0\0\0\x05x"[..], b"Q\0\0\0\x07a\0b", b"Z\0\0\0\x06II", b"E\0\0\0\x0a\0\0\0\0\0\0"] {
        let found = frame(raw, frontend_limit).unwrap().unwrap();
        assert!(Frontend::decode(found).is_err());
    }
    assert!(startup(b"\0\0\0\x0a\0\x03\0\0\0x").is_err());
    assert!(startup(b"\0\0\0\x09\x04\xd2\x16\x2fx").is_err());
}
