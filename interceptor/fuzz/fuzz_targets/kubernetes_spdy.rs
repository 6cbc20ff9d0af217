//! Frames of SPDY: no input panics; they are read alike however they come; what is read is written so that it reads the
//! same again; frames made of the input are, too.
#![no_main]

use bytes::{Bytes, BytesMut};
use interceptor::protocol::kubernetes::spdy::{Broken, Decoder, Encoder, Frame, Headers};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let whole = read(data, usize::MAX);
    assert_eq!(read(data, 1), whole);
    assert_eq!(read(data, 7), whole);
    again(&whole.0);
    let mut rest = data;
    let made: Vec<Frame> = std::iter::from_fn(|| make(&mut rest)).collect();
    again(&made);
});

/// Written and read again, they are the same: a block that is longer than it was may be too long.
fn again(frames: &[Frame]) {
    let (mut encoder, mut out, mut written) = (Encoder::new(), Vec::new(), Vec::new());
    for frame in frames {
        let before = out.len();
        match encoder.write(frame, &mut out) {
            Ok(()) => written.push(frame.clone()),
            Err(broken) => {
                assert_eq!((broken, out.len()), (Broken::Long, before));
                break;
            }
        }
    }
    let written = (joined(written), None);
    assert_eq!(read(&out, usize::MAX), written);
    assert_eq!(read(&out, 5), written);
}

/// All frames, pieces of data put together, and what broke the last.
fn read(data: &[u8], step: usize) -> (Vec<Frame>, Option<Broken>) {
    let (mut decoder, mut input, mut frames) = (Decoder::new(), BytesMut::new(), Vec::new());
    for part in data.chunks(step) {
        input.extend_from_slice(part);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(broken) => return (joined(frames), Some(broken)),
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

/// A frame out of a few bytes: its kind, its stream, a flag, and what else there is.
fn make(rest: &mut &[u8]) -> Option<Frame> {
    let (&[kind, id, length], more) = rest.split_first_chunk::<3>()?;
    let (payload, after) = more.split_at_checked(usize::from(length)).unwrap_or((more, &[]));
    *rest = after;
    let (id, fin) = (u32::from(id).max(1), kind & 0x80 != 0);
    let number = u32::from(length).max(1);
    Some(match kind % 9 {
        0 => Frame::SynStream {
            id,
            associated: u32::from(kind >> 6 & 1),
            priority: length & 7,
            fin,
            unidirectional: kind & 0x20 != 0,
            headers: headers(payload)?,
        },
        1 => Frame::SynReply { id, fin, headers: headers(payload)? },
        2 => Frame::Headers { id, fin, headers: headers(payload)? },
        3 => Frame::Reset { id, status: number },
        4 => Frame::Settings {
            clear: fin,
            entries: payload.iter().take(20).map(|byte| (byte & 3, u32::from(*byte), number)).collect(),
        },
        5 => Frame::Ping(id),
        6 => Frame::GoAway { last: id, status: number },
        7 => Frame::WindowUpdate { id, delta: number },
        _ => Frame::Data { id, fin, payload: Bytes::copy_from_slice(payload) },
    })
}

/// Lines of a name and a value.
fn headers(payload: &[u8]) -> Option<Headers> {
    let pair = |line: &[u8]| {
        let at = line.iter().position(|byte| *byte == b'=').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        Some((String::from_utf8(name.to_vec()).ok()?, value.get(1..).unwrap_or_default().to_vec()))
    };
    let pairs = payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(pair);
    Headers::new(pairs.collect::<Option<_>>()?).ok()
}
