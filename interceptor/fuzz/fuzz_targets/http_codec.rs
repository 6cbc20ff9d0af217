//! HTTP's framing and paths: no input panics; what is read is written so that it reads the same again, with nothing behind
//! it changing that; chunks and messages of a WebSocket are read alike however they come; frames of recordings are read again;
//! and a path that was taken is left with nothing to decode.
#![no_main]

use bytes::BytesMut;
use interceptor::protocol::http::codec::frames::{self, Content};
use interceptor::protocol::http::codec::socket::{Broken, Messages, Said};
use interceptor::protocol::http::codec::{self, Chunked, Piece};
use interceptor::protocol::http::route::Location;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut out = Vec::new();
    if let Ok(Some((head, length))) = codec::request(data) {
        head.write(&mut out);
        let (again, written) = codec::request(&out).unwrap().unwrap();
        assert_eq!((&again, written), (&head, out.len()));
        assert_eq!(codec::request(&data[..length]).unwrap().unwrap().0, head);
        if let Ok(location) = Location::read(&head.target) {
            for segment in &location.segments {
                assert!(segment != "." && segment != ".." && !segment.contains(['/', '\\', ';']));
            }
        }
    }
    out.clear();
    if let Ok(Some((head, length))) = codec::response(data) {
        head.write(&mut out);
        assert_eq!(codec::response(&out).unwrap().unwrap().0, head);
        assert_eq!(codec::response(&data[..length]).unwrap().unwrap().0, head);
    }
    if let Ok(Some((frame, used))) = frames::read(data) {
        assert!(used <= data.len());
        if let Content::Data(bytes) = frame.content {
            out.clear();
            frames::put_data(&mut out, frame.stream, bytes, frame.last);
            assert_eq!(frames::read(&out).unwrap().unwrap().0, frame);
        }
    }
    for masked in [true, false] {
        let whole = messages(data, masked, usize::MAX);
        assert_eq!(messages(data, masked, 1), whole);
        // What was said is said again in one frame each.
        out.clear();
        whole.0.iter().for_each(|said| said.write(&mut out, masked.then_some([1, 2, 3, 4])));
        assert_eq!(messages(&out, masked, usize::MAX), (whole.0, None));
    }
    let whole = body(data, usize::MAX);
    assert_eq!(body(data, 1), whole);
    assert_eq!(body(data, 7), whole);
});

/// The body in chunks, and where it ends; `None` where it does not, or is none.
fn body(data: &[u8], step: usize) -> Option<(Vec<u8>, usize)> {
    let (mut reader, mut found, mut at) = (Chunked::default(), Vec::new(), 0);
    let mut there = step.min(data.len());
    loop {
        match reader.next(&data[at..there]).ok()? {
            Piece::More if there == data.len() => return None,
            Piece::More => there = there.saturating_add(step).min(data.len()),
            Piece::Skip(count) => at += count,
            Piece::Data(count) => {
                found.extend_from_slice(&data[at..at + count]);
                at += count;
            }
            Piece::End => return Some((found, at)),
        }
    }
}

/// All messages, and what broke the last.
fn messages(data: &[u8], masked: bool, step: usize) -> (Vec<Said>, Option<Broken>) {
    let (mut reader, mut input, mut said) = (Messages::new(masked, 1 << 16), BytesMut::new(), Vec::new());
    for part in data.chunks(step.min(data.len().max(1))) {
        input.extend_from_slice(part);
        loop {
            match reader.next(&mut input) {
                Ok(Some(one)) => said.push(one),
                Ok(None) => break,
                Err(broken) => return (said, Some(broken)),
            }
        }
    }
    (said, None)
}
