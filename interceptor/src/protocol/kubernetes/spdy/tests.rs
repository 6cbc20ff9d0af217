//! Round trips however the bytes come, vectors of the Go implementation that Kubernetes uses, and a hostile corpus.

use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

/// All frames, pieces of data put together, and what broke the last.
fn read(bytes: &[u8], step: usize) -> (Vec<Frame>, Option<Broken>) {
    let (mut decoder, mut input, mut frames) = (Decoder::new(), BytesMut::new(), Vec::new());
    for part in bytes.chunks(step) {
        input.extend_from_slice(part);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(broken) => {
                    assert_eq!(decoder.next(&mut input), Err(broken), "it stays broken");
                    return (joined(frames), Some(broken));
                }
            }
        }
    }
    (joined(frames), None)
}

fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut all: Vec<Frame> = Vec::new();
    for frame in frames {
        match (all.last_mut(), frame) {
            (Some(Frame::Data { id, fin, payload }), Frame::Data { id: next, fin: ends, payload: more })
                if *id == next && !*fin =>
            {
                *payload = [payload.as_ref(), &more].concat().into();
                *fin = ends;
            }
            (_, frame) => all.push(frame),
        }
    }
    all
}

fn written(frames: &[Frame]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(), Vec::new());
    frames.iter().for_each(|frame| encoder.write(frame, &mut out).unwrap());
    out
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers::new(pairs.iter().map(|(name, value)| ((*name).into(), value.as_bytes().to_vec())).collect()).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|digit| u8::try_from(digit).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn data(id: u32, fin: bool, payload: &[u8]) -> Frame {
    Frame::Data { id, fin, payload: Bytes::copy_from_slice(payload) }
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let headers = || {
        btree_map("[a-z0-9:_-]{1,12}", vec(any::<u8>(), 0..300), 0..6)
            .prop_map(|pairs| Headers::new(pairs.into_iter().collect()).unwrap())
    };
    let (id, number) = (|| 1..CONTROL, || 0..CONTROL);
    prop_oneof![
        (id(), number(), 0..8u8, any::<(bool, bool)>(), headers()).prop_map(
            |(id, associated, priority, (fin, unidirectional), headers)| Frame::SynStream {
                id,
                associated,
                priority,
                fin,
                unidirectional,
                headers
            }
        ),
        (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply { id, fin, headers }),
        (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers { id, fin, headers }),
        (id(), 1..=u32::MAX).prop_map(|(id, status)| Frame::Reset { id, status }),
        (any::<bool>(), vec((0..4u8, 0..=U24, any::<u32>()), 0..4))
            .prop_map(|(clear, entries)| Frame::Settings { clear, entries }),
        any::<u32>().prop_map(Frame::Ping),
        (number(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (number(), id()).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        (1..4u32, any::<bool>(), vec(any::<u8>(), 0..200)).prop_map(|(id, fin, payload)| data(id, fin, &payload)),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_however_it_comes(frames in vec(any_frame(), 0..20), step in 1..200usize) {
        let out = written(&frames);
        let frames = joined(frames);
        for step in [step, 1, usize::MAX] {
            prop_assert_eq!(read(&out, step), (frames.clone(), None));
        }
    }

    #[test]
    fn bytes_of_any_kind_are_read_alike_however_they_come(bytes in vec(any::<u8>(), 0..200), step in 1..50usize) {
        prop_assert_eq!(read(&bytes, step), read(&bytes, usize::MAX));
    }

    #[test]
    fn a_byte_that_is_another_breaks_or_is_read_alike(
        frames in vec(any_frame(), 1..5), at in any::<prop::sample::Index>(), other in any::<u8>(), step in 1..50usize
    ) {
        let mut out = written(&frames);
        let at = at.index(out.len());
        out[at] = other;
        prop_assert_eq!(read(&out, step), read(&out, usize::MAX));
    }
}

/// Written by `spdy.Framer` of moby/spdystream 0.2.0, a frame a line, by a program of ours.
const GO: &str = "
    80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff
    800300010000001700000003000000000000c22e555c92929907000000ffff
    800300010000001900000005000000000000c22ac5565c92925f5a02000000ffff
    800300020000000e000000016260606000000000ffff
    800300020100000c00000003026100000000ffff
    00000003000000066c73202d6c0a
    0000000301000000
    800300010300001d0000000700000001a00082aa6129c82f0267220b030b0300000000ffff
    800300080100001700000007828a711641524326389718301802000000ffff
    80030003000000080000000500000005
    80030004010000140000000201000007000100000000000400000064
    800300060000000400000001
    80030009000000080000000300001000
    80030007000000080000000700000002";

#[test]
fn what_go_writes_is_read() {
    let opens = |id, of| Frame::SynStream {
        id,
        associated: 0,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers: headers(&[("streamtype", of)]),
    };
    let frames = [
        opens(1, "error"),
        opens(3, "stdin"),
        opens(5, "stdout"),
        Frame::SynReply { id: 1, fin: false, headers: headers(&[]) },
        Frame::SynReply { id: 3, fin: true, headers: headers(&[]) },
        data(3, true, b"ls -l\n"),
        Frame::SynStream {
            id: 7,
            associated: 1,
            priority: 5,
            fin: true,
            unidirectional: true,
            headers: headers(&[("port", "8080")]),
        },
        Frame::Headers { id: 7, fin: true, headers: headers(&[("requestid", "0\x001")]) },
        Frame::Reset { id: 5, status: 5 },
        Frame::Settings { clear: true, entries: vec![(1, 7, 65_536), (0, 4, 100)] },
        Frame::Ping(1),
        Frame::WindowUpdate { id: 3, delta: 4096 },
        Frame::GoAway { last: 7, status: 2 },
    ];
    for step in [1, 7, usize::MAX] {
        assert_eq!(read(&hex(GO), step), (frames.to_vec(), None));
    }
    // A block points back to those before it: without the first, the second is none.
    let second = &hex(GO.lines().nth(2).unwrap());
    assert_eq!(read(second, 1), (vec![], Some(Broken::Compression)));
}

#[test]
fn data_is_given_out_as_it_comes_and_ends_once() {
    let (mut decoder, mut input) = (Decoder::new(), BytesMut::from(&b"\0\0\0\x01\x01\x02\0\0"[..]));
    assert_eq!(decoder.next(&mut input), Ok(None));
    assert!(!decoder.between());
    input.extend_from_slice(b"a");
    assert_eq!(decoder.next(&mut input), Ok(Some(data(1, false, b"a"))));
    input.extend_from_slice(&[b'x'; (128 << 10) - 1]);
    for (length, fin) in [(PIECE_LIMIT, false), (PIECE_LIMIT - 1, true)] {
        let Some(Frame::Data { fin: ends, payload, .. }) = decoder.next(&mut input).unwrap() else { panic!("no data") };
        assert_eq!((payload.len(), ends), (length, fin));
    }
    assert!(decoder.between() && input.is_empty() && decoder.held() == 0);
    // Where there is nothing to wait for, nothing is waited for.
    input.extend_from_slice(b"\0\0\0\x01\0\0\0\0\0\0\0\x03\x01\0\0\0");
    assert_eq!(decoder.next(&mut input), Ok(Some(data(1, false, b""))));
    assert_eq!(decoder.next(&mut input), Ok(Some(data(3, true, b""))));
}

#[test]
fn data_that_is_too_long_for_a_frame_is_split_and_ends_once() {
    let long = data(1, true, &vec![7; (1 << 24) + 5]);
    let out = written(std::slice::from_ref(&long));
    assert_eq!(out[..8], *b"\0\0\0\x01\0\xff\xff\xff");
    assert_eq!(out[8 + 0xFF_FFFF..][..8], *b"\0\0\0\x01\x01\0\0\x06");
    assert_eq!(read(&out, 1 << 20), (vec![long], None));
    let just = data(1, true, &vec![7; (1 << 24) - 1]);
    assert_eq!(written(&[just])[..8], *b"\0\0\0\x01\x01\xff\xff\xff");
}

#[test]
fn what_no_peer_has_a_reason_to_send_is_broken() {
    for (bytes, why) in [
        (&b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01"[..], Broken::Version),
        (b"\x83\x03\0\x06\0\0\0\x04\0\0\0\x01", Broken::Version),
        (b"\x80\x03\0\0\0\0\0\0", Broken::Kind),
        (b"\x80\x03\0\x05\0\0\0\0", Broken::Kind),
        (b"\x80\x03\0\x0a\0\0\0\x06", Broken::Kind),
        (b"\x80\x03\x01\x06\0\0\0\x04", Broken::Kind),
        // Flags.
        (b"\0\0\0\x01\x02\0\0\0", Broken::Flags),
        (b"\x80\x03\0\x01\x04\0\0\x10", Broken::Flags),
        (b"\x80\x03\0\x02\x02\0\0\x10", Broken::Flags),
        (b"\x80\x03\0\x03\x01\0\0\x08", Broken::Flags),
        (b"\x80\x03\0\x06\x01\0\0\x04", Broken::Flags),
        (b"\x80\x03\0\x04\0\0\0\x0c\0\0\0\x01\x04\0\0\x07\0\0\0\0", Broken::Flags),
        // Lengths, of which none waits for what it claims.
        (b"\x80\x03\0\x01\0\0\0\x09", Broken::Length),
        (b"\x80\x03\0\x02\0\0\0\x03", Broken::Length),
        (b"\x80\x03\0\x03\0\0\0\x07", Broken::Length),
        (b"\x80\x03\0\x03\0\xff\xff\xff", Broken::Length),
        (b"\x80\x03\0\x06\0\0\0\x05", Broken::Length),
        (b"\x80\x03\0\x01\0\xff\xff\xff", Broken::Long),
        (b"\x80\x03\0\x08\0\0\x40\x05", Broken::Long),
        (b"\x80\x03\0\x04\0\0\x04\x05", Broken::Long),
        (b"\x80\x03\0\x04\0\0\0\x08\0\0\0\x01\0\0\0\0", Broken::Length),
        (b"\x80\x03\0\x04\0\0\0\x05\0\0\0\0\0", Broken::Length),
        (b"\x80\x03\0\x04\0\0\0\x0c\0\0\0\0\0\0\0\x01\0\0\0\0", Broken::Length),
        // Times eight, this is none.
        (b"\x80\x03\0\x04\0\0\0\x04\x20\0\0\0", Broken::Length),
        // Stream 0.
        (b"\0\0\0\0\0\0\0\x01", Broken::Stream),
        (b"\x80\x03\0\x01\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0", Broken::Stream),
        (b"\x80\x03\0\x02\0\0\0\x04\0\0\0\0", Broken::Stream),
        (b"\x80\x03\0\x08\0\0\0\x04\0\0\0\0", Broken::Stream),
        (b"\x80\x03\0\x03\0\0\0\x08\0\0\0\0\0\0\0\x01", Broken::Stream),
        // Bits that are reserved.
        (b"\x80\x03\0\x01\0\0\0\x0a\x80\0\0\x01\0\0\0\0\0\0", Broken::Reserved),
        (b"\x80\x03\0\x01\0\0\0\x0a\0\0\0\x01\x80\0\0\0\0\0", Broken::Reserved),
        (b"\x80\x03\0\x01\0\0\0\x0a\0\0\0\x01\0\0\0\0\x01\0", Broken::Reserved),
        (b"\x80\x03\0\x01\0\0\0\x0a\0\0\0\x01\0\0\0\0\0\x01", Broken::Reserved),
        (b"\x80\x03\0\x03\0\0\0\x08\x80\0\0\x01\0\0\0\x01", Broken::Reserved),
        (b"\x80\x03\0\x07\0\0\0\x08\x80\0\0\x01\0\0\0\x01", Broken::Reserved),
        (b"\x80\x03\0\x09\0\0\0\x08\0\0\0\x01\x80\0\0\x01", Broken::Reserved),
        (b"\x80\x03\0\x03\0\0\0\x08\0\0\0\x01\0\0\0\0", Broken::Value),
        (b"\x80\x03\0\x09\0\0\0\x08\0\0\0\x01\0\0\0\0", Broken::Value),
        // No block at all.
        (b"\x80\x03\0\x02\0\0\0\x04\0\0\0\x01", Broken::Compression),
        (b"\x80\x03\0\x02\0\0\0\x08\0\0\0\x01\0\0\xff\xff", Broken::Compression),
    ] {
        for step in [1, usize::MAX] {
            assert_eq!(read(bytes, step), (vec![], Some(why)), "{bytes:?}");
        }
    }
}

#[test]
fn what_cannot_be_read_cannot_be_written() {
    let mut out = Vec::new();
    let mut encoder = Encoder::new();
    for (frame, why) in [
        (data(0, false, b"x"), Broken::Stream),
        (data(CONTROL | 1, false, b"x"), Broken::Reserved),
        (Frame::Reset { id: 1, status: 0 }, Broken::Value),
        (Frame::Reset { id: 0, status: 1 }, Broken::Stream),
        (Frame::SynReply { id: CONTROL, fin: false, headers: headers(&[]) }, Broken::Reserved),
        (Frame::GoAway { last: CONTROL, status: 0 }, Broken::Reserved),
        (Frame::WindowUpdate { id: 1, delta: 0 }, Broken::Value),
        (Frame::WindowUpdate { id: 1, delta: CONTROL }, Broken::Reserved),
        (Frame::Settings { clear: false, entries: vec![(4, 1, 1)] }, Broken::Flags),
        (Frame::Settings { clear: false, entries: vec![(0, 1 << 24, 1)] }, Broken::Reserved),
        (Frame::Settings { clear: false, entries: vec![(0, 1, 1); SETTINGS_LIMIT + 1] }, Broken::Long),
    ] {
        assert_eq!((encoder.write(&frame, &mut out), out.len()), (Err(why), 0), "{frame:?}");
    }
    let syn = |priority, headers| Frame::SynStream {
        id: 1,
        associated: 0,
        priority,
        fin: false,
        unidirectional: false,
        headers,
    };
    assert_eq!(encoder.write(&syn(8, headers(&[])), &mut out), Err(Broken::Reserved));
    encoder.write(&syn(7, headers(&[])), &mut out).unwrap();
    // Noise of 60 KiB is no shorter than that: then what was compressed is lost, and all that would follow it.
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let noise = Headers::new(vec![("a".into(), noise.take(60_000).collect())]).unwrap();
    let length = out.len();
    for headers in std::iter::once(noise).chain(vec![headers(&[]); 20]) {
        assert_eq!((encoder.write(&syn(0, headers), &mut out), out.len()), (Err(Broken::Long), length));
    }
    encoder.write(&Frame::Ping(1), &mut out).unwrap();
}

#[test]
fn what_was_said_is_not_shown() {
    let secret = headers(&[("streamtype", "hunter2")]);
    let shown = format!("{:?} {:?}", data(1, true, b"hunter2"), Frame::SynReply { id: 1, fin: true, headers: secret });
    assert_eq!(shown, "Data(1, fin true, 7 bytes) SynReply(1, fin true, {\"streamtype\": 7})");
    let (mut decoder, mut encoder) = (Decoder::new(), Encoder::new());
    let mut out = Vec::new();
    encoder.write(&Frame::SynReply { id: 1, fin: true, headers: headers(&[("a", "hunter2")]) }, &mut out).unwrap();
    decoder.next(&mut BytesMut::from(&out[..])).unwrap();
    assert!(decoder.held() > 0 && !format!("{decoder:?} {encoder:?}").contains("hunter2"));
}
