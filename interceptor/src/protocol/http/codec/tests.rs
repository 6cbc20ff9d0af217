//! Tests of framing: what is read, that it is read alike however the bytes came, and what smugglers send.

use proptest::prelude::*;

use super::*;

fn asked(text: &str) -> Result<Option<(RequestHead, usize)>, Malformed> {
    request(text.as_bytes())
}

fn told(text: &str) -> Result<Option<(ResponseHead, usize)>, Malformed> {
    response(text.as_bytes())
}

#[test]
fn heads_are_read_and_written_as_they_were() {
    let text = "POST /a?b=c HTTP/1.1\r\nHost: h:80\r\nX-A:  1 \t\r\nx-a: 2\r\nContent-Length: 3\r\n\r\nabc";
    let (head, length) = asked(text).unwrap().unwrap();
    assert_eq!(
        (&*head.method, &*head.target, head.length, length),
        ("POST", "/a?b=c", Length::Known(3), text.len() - 3)
    );
    assert_eq!(head.fields.all("x-a").collect::<Vec<_>>(), [b"1", b"2"]);
    let mut out = Vec::new();
    head.write(&mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "POST /a?b=c HTTP/1.1\r\nhost: h:80\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 3\r\n\r\n"
    );
    let (head, _) = told("HTTP/1.1 404 Not Found\r\n\r\n").unwrap().unwrap();
    assert_eq!((head.status, &*head.reason, head.length), (404, "Not Found", Length::UntilClose));
    assert_eq!(told("HTTP/1.1 200\r\n\r\n").unwrap().unwrap().0.reason, "");
    assert_eq!(told("HTTP/1.1 200 \r\nTransfer-Encoding: Chunked\r\n\r\n").unwrap().unwrap().0.length, Length::Chunked);
}

/// What is known to have been read in two ways by two readers.
#[test]
fn what_smugglers_send_is_refused() {
    use Malformed::{Field, Framing, Host, LineEnd, RequestLine, TooLarge, Twice, Version};
    let many = "A: b\r\n".repeat(FIELDS_LIMIT + 1);
    for (head, why) in [
        // Both lengths, in either order; lengths that are lists, signed, or no digits.
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", Framing),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3", Framing),
        ("Content-Length: 3, 3", Framing),
        ("Content-Length: +3", Framing),
        ("Content-Length: -3", Framing),
        ("Content-Length: 0x3", Framing),
        ("Content-Length: 3 3", Framing),
        ("Content-Length:", Framing),
        ("Content-Length: 9999999999999999", Framing),
        ("Content-Length: 3\r\nContent-Length: 3", Twice),
        ("Content-Length: 3\r\ncontent-length: 4", Twice),
        // Encodings that one reader knows, and another does not.
        ("Transfer-Encoding: xchunked", Framing),
        ("Transfer-Encoding: chunked, identity", Framing),
        ("Transfer-Encoding: identity", Framing),
        ("Transfer-Encoding: gzip, chunked", Framing),
        ("Transfer-Encoding: \"chunked\"", Framing),
        ("Transfer-Encoding:", Framing),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Twice),
        ("Transfer-Encoding : chunked", Field),
        ("Transfer-Encoding\t: chunked", Field),
        (" Transfer-Encoding: chunked", Field),
        ("Transfer-Encoding: \x0bchunked", Field),
        ("Transfer-Encoding: chunked\x00", Field),
        ("X: y\r\n Transfer-Encoding: chunked", Field),
        ("X: y\r\n\tfolded", Field),
        ("X: y\nTransfer-Encoding: chunked", LineEnd),
        ("X: y\rTransfer-Encoding: chunked", LineEnd),
        ("X: y\r\r\nA: b", LineEnd),
        (": empty", Field),
        ("no colon", Field),
        ("X\u{e9}: y", Field),
        ("(X): y", Field),
        // Whom it is for.
        ("Host: other", Twice),
        ("Content-Type: a\r\nContent-Type: b", Twice),
        // One name to servers that hand fields on as variables.
        ("Content-Length: 3\r\nContent_Length: 30", Twice),
        ("Transfer_Encoding: chunked\r\nContent-Length: 3", Framing),
        ("X-Tenant: mine\r\nX_Tenant: theirs", Twice),
        ("X_My-Tenant: mine\r\nX-My_Tenant: theirs", Twice),
        (&many, TooLarge),
    ] {
        let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{}\r\n\r\n", head.trim_end());
        assert_eq!(asked(&text).map(|_| ()), Err(why), "{head:?}");
        // The same of a target's answers, but for what is only said when asking.
        let text = format!("HTTP/1.1 200 OK\r\nHost: h\r\n{}\r\n\r\n", head.trim_end());
        assert_eq!(told(&text).map(|_| ()), Err(why), "{head:?}");
    }
    for (line, why) in [
        ("GET  / HTTP/1.1", RequestLine),
        ("GET /a b HTTP/1.1", RequestLine),
        ("GET\t/ HTTP/1.1", RequestLine),
        ("GET /", RequestLine),
        ("GET / http/1.1", RequestLine),
        ("GET / HTTP/1.0", Version),
        ("GET / HTTP/2.0", Version),
        ("GET / HTTP/1.1 ", RequestLine),
        ("G(T / HTTP/1.1", RequestLine),
        (" GET / HTTP/1.1", RequestLine),
        ("\r\nGET / HTTP/1.1", Field),
        ("GET /\u{e9} HTTP/1.1", RequestLine),
    ] {
        assert_eq!(asked(&format!("{line}\r\nHost: h\r\n\r\n")).map(|_| ()), Err(why), "{line:?}");
    }
    for host in
        ["", "Host:\r\n", "Host: a b\r\n", "Host: a/b\r\n", "Host: user@h\r\n", "Host: a,b\r\n", "Host: h?x\r\n"]
    {
        assert_eq!(asked(&format!("GET / HTTP/1.1\r\n{host}\r\n")).map(|_| ()), Err(Host), "{host:?}");
    }
    for line in
        ["HTTP/1.1 99 x", "HTTP/1.1 600 x", "HTTP/1.1 2000 x", "HTTP/1.1 20x x", "HTTP/1.0 200 OK", "ICY 200 OK"]
    {
        assert!(told(&format!("{line}\r\n\r\n")).is_err(), "{line}");
    }
}

#[test]
fn a_head_without_end_ends() {
    assert_eq!(request(&vec![b'A'; HEAD_LIMIT - 1]), Ok(None));
    assert_eq!(request(&vec![b'A'; HEAD_LIMIT]), Err(Malformed::TooLarge));
    assert_eq!(request(b"GET / HTTP/1.1\nHost: h"), Err(Malformed::LineEnd), "at once, not at the end");
    let lines = format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(FIELDS_LIMIT + 8));
    assert_eq!(request(lines.as_bytes()), Err(Malformed::TooLarge));
    assert_eq!(
        request(format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(TARGET_LIMIT)).as_bytes()),
        Err(Malformed::RequestLine)
    );
}

#[test]
fn what_belongs_to_one_connection_goes_no_further() {
    let text = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nX-Kept: 2\r\nTE: trailers\r\nProxy-Authorization: x\r\n\r\n";
    let mut fields = asked(text).unwrap().unwrap().0.fields;
    fields.end_to_end();
    let names: Vec<&str> = fields.0.iter().map(|field| &*field.name).collect();
    assert_eq!(names, ["host", "x-kept"]);
}

/// All of a chunked body, and how many bytes it had, from bytes that come in parts of that size.
fn unchunked(bytes: &[u8], size: usize) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
    let (mut reader, mut body, mut at, mut there) = (Chunked::default(), Vec::new(), 0, 0);
    loop {
        match reader.next(&bytes[at..there])? {
            Piece::More if there == bytes.len() => return Ok(None),
            Piece::More => there = (there + size).min(bytes.len()),
            Piece::Skip(count) => at += count,
            Piece::Data(count) => {
                body.extend_from_slice(&bytes[at..at + count]);
                at += count;
            }
            Piece::End => return Ok(Some((body, at))),
        }
    }
}

#[test]
fn chunks_are_read_however_they_come() {
    let text = b"4\r\nWiki\r\n5\r\npedia\r\n00e\r\n in\r\n\r\nchunks.\r\n0\r\nX-Trailer: y\r\n\r\nGET";
    for size in 1..text.len() {
        let (body, used) = unchunked(text, size).unwrap().unwrap();
        assert_eq!((String::from_utf8(body).unwrap().as_str(), used), ("Wikipedia in\r\n\r\nchunks.", text.len() - 3));
    }
    assert_eq!(unchunked(b"4\r\nWi", 100), Ok(None));
}

#[test]
fn chunks_that_two_readers_end_elsewhere_are_refused() {
    for text in [
        "4;ext=1\r\nWiki\r\n0\r\n\r\n",
        "4 \r\nWiki\r\n0\r\n\r\n",
        " 4\r\nWiki\r\n0\r\n\r\n",
        "0x4\r\nWiki\r\n0\r\n\r\n",
        "+4\r\nWiki\r\n0\r\n\r\n",
        "-1\r\n",
        "\r\n",
        "4\nWiki\r\n0\r\n\r\n",
        "4\r\nWiki\n0\r\n\r\n",
        "4\r\nWikip\r\n0\r\n\r\n",
        "3\r\nWiki\r\n0\r\n\r\n",
        "4\r\nWiki\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
        "4\r\nWiki\r\n0\r\nX: y\n\r\n",
        "4\r\nWiki\r\n0\r\n folded\r\n\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000000\r\n",
    ] {
        for size in [1, 3, 100] {
            assert_eq!(unchunked(text.as_bytes(), size), Err(Malformed::Chunk), "{text:?}");
        }
    }
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(2000));
    assert_eq!(unchunked(trailers.as_bytes(), 100), Err(Malformed::Chunk));
}

proptest! {
    /// Whatever is taken is written so that it reads the same again, and the reading does not depend on what follows.
    #[test]
    fn what_is_read_reads_the_same_again(
        lines in prop::collection::vec("[A-Za-z:\\- \t\r\n0-9,;]{0,24}", 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..16),
    ) {
        let text = format!("POST /a HTTP/1.1\r\nHost: h\r\n{}\r\n\r\n", lines.join("\r\n"));
        if let Ok(Some((head, length))) = request(text.as_bytes()) {
            let mut out = Vec::new();
            head.write(&mut out);
            prop_assert_eq!(request(&out).unwrap().unwrap().0, head.clone());
            let longer = [&text.as_bytes()[..length], &tail].concat();
            prop_assert_eq!(request(&longer).unwrap().unwrap(), (head, length));
        }
    }

    /// Nothing shorter than a head is taken for one: more bytes never change what was read.
    #[test]
    fn a_part_of_a_head_is_no_head(cut in 0usize..60) {
        let text = b"GET /abc HTTP/1.1\r\nHost: example.internal\r\nX-Y: zzz\r\n\r\n";
        if cut < text.len() {
            prop_assert_eq!(request(&text[..cut]), Ok(None));
        }
    }

    #[test]
    fn bytes_never_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = request(&bytes);
        let _ = response(&bytes);
        let _ = unchunked(&bytes, 7);
    }
}
