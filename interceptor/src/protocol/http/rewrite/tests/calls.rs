//! Answers of gRPC in which nothing is masked: echoes of the credential are found in each message, compressed or not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::*;
use crate::protocol::http::MASK_LIMIT;
use crate::protocol::http::grpc::frames::{self, Frames};

const SECRET: &str = "s3cret-of-the-target";

static SPELLINGS: LazyLock<Spellings> = LazyLock::new(|| Spellings::of(SECRET.as_bytes()).unwrap());

fn framed(flags: u8, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frames::put(&mut out, flags, message);
    out
}

fn zipped(message: &[u8]) -> Vec<u8> {
    framed(frames::COMPRESSED, &coded("gzip", message))
}

fn following(fields: &str) -> Rewriter<'static> {
    Rewriter::new(nothing(), Some(&SPELLINGS), &head(fields)).unwrap()
}

fn passed(fields: &str, body: &[u8], step: usize) -> Result<Vec<u8>, Refused> {
    run(following(fields), body, step).map(|(out, _)| out)
}

fn messages(body: &[u8]) -> Vec<(u8, String)> {
    let mut frames = Frames::new(MASK_LIMIT);
    frames.push(body);
    let read = std::iter::from_fn(|| frames.take().unwrap());
    let read = read.map(|frame| (frame.flags, String::from_utf8(frame.message.to_vec()).unwrap())).collect();
    assert_eq!(frames.held(), 0);
    read
}

#[test]
fn echoes_are_found_in_each_message_compressed_or_not() {
    let echo = format!("Bearer {SECRET}, Basic {}", BASE64.encode(format!("me:{SECRET}")));
    let trailers = framed(frames::TRAILERS, format!("grpc-message: {SECRET}\r\n").as_bytes());
    let body = [framed(0, echo.as_bytes()), zipped(echo.as_bytes()), framed(0, b""), zipped(b""), trailers].concat();
    let clean = |text: &str| {
        let mut text = text.as_bytes().to_vec();
        assert!(SPELLINGS.blot(&mut text));
        String::from_utf8(text).unwrap()
    };
    let mut expected = vec![(0, clean(&echo)), (0, clean(&echo)), (0, String::new()), (0, String::new())];
    let native = &body[..body.len() - frames::HEAD - 16 - SECRET.len()];
    for step in [1, 3, 64, 10_000] {
        let out = passed("Content-Type: application/grpc+proto\r\nGrpc-Encoding: gzip", native, step).unwrap();
        assert_eq!(messages(&out), expected);
    }
    expected.push((frames::TRAILERS, clean(&format!("grpc-message: {SECRET}\r\n"))));
    let mut signs = Vec::new();
    body.chunks(10).for_each(|part| frames::armour(part, &mut signs));
    for step in [1, 7, 10_000] {
        let out = passed("Content-Type: application/grpc-web\r\nGrpc-Encoding: gzip", &body, step).unwrap();
        assert_eq!(messages(&out), expected);
        let out = passed("Content-Type: Application/gRPC-Web-Text\r\nGrpc-Encoding: gzip", &signs, step).unwrap();
        let mut plain = Vec::new();
        frames::Unarmoured::default().push(&out, &mut plain).unwrap();
        assert_eq!(messages(&plain), expected);
    }
}

#[test]
fn nothing_waits_at_the_end_of_a_message() {
    let (first, second) = SECRET.split_at(7);
    let mut rewriter = following("Content-Type: application/grpc\r\nContent-Length: 30\r\nDigest: x");
    let mut told = head("Content-Type: application/grpc\r\nContent-Length: 30\r\nDigest: x");
    rewriter.head(&mut told);
    assert_eq!((told.fields.get("content-length"), told.fields.get("digest")), (None, None));
    for message in [framed(0, first.as_bytes()), zipped(first.as_bytes()), framed(0, second.as_bytes())] {
        let mut out = Vec::new();
        let result = rewriter.push(&mut &message[..], &mut out);
        if message[0] == 0 {
            assert!(!result.unwrap() && out == message);
        } else {
            // Nothing has said that messages are compressed.
            assert_eq!(result, Err(Refused::Messages(Unread::Flags)));
            rewriter = following("Content-Type: application/grpc\r\nGrpc-Encoding: gzip");
            assert!(!rewriter.push(&mut &message[..], &mut out).unwrap() && out == framed(0, first.as_bytes()));
        }
    }
    assert!(!rewriter.echoed());
    // Within a message, it does.
    let mut out = Vec::new();
    rewriter.push(&mut &framed(0, SECRET.as_bytes())[..frames::HEAD + 7], &mut out).unwrap();
    assert_eq!(out.len(), frames::HEAD);
}

#[test]
fn what_cannot_be_followed_does_not_pass() {
    let deflate = "Content-Type: application/grpc\r\nGrpc-Encoding: deflate";
    let unknown = || Refused::Messages(Unread::Coding("deflate".to_owned()));
    assert_eq!(passed(deflate, &framed(1, &coded("deflate", SECRET.as_bytes())), 100), Err(unknown()));
    assert!(following(deflate).is_opaque());
    // Messages that are not compressed pass all the same, and so does an answer without any.
    assert_eq!(passed(deflate, &framed(0, b"plain"), 100).unwrap(), framed(0, b"plain"));
    assert_eq!(passed(deflate, b"", 100).unwrap(), b"");

    let gzip = "Content-Type: application/grpc\r\nGrpc-Encoding: gzip";
    assert!(!following(gzip).is_opaque());
    let long = framed(1, &vec![0; MASK_LIMIT + 1])[..frames::HEAD].to_vec();
    let bomb = zipped(&vec![0; MASK_LIMIT + 1]);
    let native = "Content-Type: application/grpc";
    for (fields, body) in [
        (gzip, framed(1, b"none")),
        (gzip, framed(1, b"")),
        (gzip, zipped(b"cut")[..20].to_vec()),
        (gzip, framed(0, b"cut")[..7].to_vec()),
        (gzip, b"\0\0\0".to_vec()),
        (gzip, framed(0x80, b"grpc-status: 0")),
        (gzip, framed(2, b"?")),
        (gzip, long),
        (gzip, bomb),
        (native, zipped(SECRET.as_bytes())),
        ("Content-Type: application/grpc-web\r\nGrpc-Encoding: gzip", framed(0x81, b"?")),
        ("Content-Type: application/grpc-web-text", b"!!!!".to_vec()),
        ("Content-Type: application/grpc\r\nGrpc-Encoding: gzip\r\nGrpc-Encoding: identity", zipped(b"x")),
        // Whatever is said to have compressed messages has some.
        ("Content-Type: application/octet-stream\r\nGrpc-Encoding: deflate", framed(1, b"x")),
        ("Content-Type: application/connect+proto\r\nConnect-Content-Encoding: br", framed(1, b"x")),
    ] {
        for step in [1, 4096] {
            assert!(passed(fields, &body, step).is_err(), "{fields}: {:?}", &body[..body.len().min(20)]);
        }
    }
    // What is not compressed may be as long as it likes, and many of what is are undone one by one.
    let body = framed(0, &vec![b'x'; 2 * MASK_LIMIT]);
    assert!(passed(native, &body, 1 << 20).unwrap() == body);
    let body = zipped(&vec![b'x'; 500_000]).repeat(20);
    assert_eq!(messages(&passed(gzip, &body, 1 << 20).unwrap()).len(), 20);
}
