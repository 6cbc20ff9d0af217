//! What `kubectl` and its servers do, and what nobody of them does.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn syn(id: u32, pairs: &[(&str, &str)]) -> Frame {
    let pairs = pairs.iter().map(|(name, value)| ((*name).into(), value.as_bytes().to_vec())).collect();
    let headers = Headers::new(pairs).unwrap();
    Frame::SynStream { id, associated: 0, priority: 0, fin: false, unidirectional: false, headers }
}

fn opens(id: u32, what: &str) -> Frame {
    syn(id, &[("streamtype", what)])
}

fn forwards(id: u32, what: &str, port: &str, request: &str) -> Frame {
    syn(id, &[("streamtype", what), ("port", port), ("requestid", request)])
}

fn reply(id: u32) -> Frame {
    Frame::SynReply { id, fin: false, headers: Headers::default() }
}

fn data(id: u32, text: &'static str) -> Frame {
    Frame::Data { id, fin: false, payload: Bytes::from_static(text.as_bytes()) }
}

fn fin(id: u32) -> Frame {
    Frame::Data { id, fin: true, payload: Bytes::new() }
}

const fn reset(id: u32) -> Frame {
    Frame::Reset { id, status: 5 }
}

/// A command whose streams are accepted: error 1, stdin 3, stdout 5, stderr 7, resize 9.
fn command() -> Streams {
    let mut streams = Streams::command();
    for (id, what) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr"), (9, "resize")] {
        let kind = streams.agent(&opens(id, what)).unwrap();
        assert_eq!(streams.target(&reply(id)), Ok(kind));
    }
    streams
}

#[test]
fn a_command_is_run() {
    let mut streams = command();
    for (id, kind) in [(3, Kind::Stdin), (9, Kind::Resize)] {
        assert_eq!(streams.agent(&data(id, "ls\n")), Ok(kind));
    }
    for (id, kind) in [(5, Kind::Stdout), (7, Kind::Stderr), (1, Kind::Error)] {
        assert_eq!(streams.target(&data(id, "a")), Ok(kind));
        assert_eq!(streams.target(&fin(id)), Ok(kind));
    }
    assert_eq!(streams.target(&fin(3)), Ok(Kind::Stdin));
    assert_eq!(streams.held(), 5);
    // What the agent ends as well is closed; what it resets, too.
    assert_eq!(streams.agent(&fin(3)), Ok(Kind::Stdin));
    for (id, kind) in [(1, Kind::Error), (5, Kind::Stdout), (7, Kind::Stderr), (9, Kind::Resize)] {
        assert_eq!(streams.agent(&reset(id)), Ok(kind));
    }
    assert_eq!(streams.agent(&Frame::GoAway { last: 0, status: 0 }), Ok(Kind::Control));
    assert_eq!(streams.target(&Frame::Ping(2)), Ok(Kind::Control));
    assert_eq!(streams.held(), 0);
    // Of each, there is one in all its time.
    assert_eq!(Streams::command().agent(&opens(1, "stdin")), Ok(Kind::Stdin));
    assert_eq!(streams.agent(&opens(11, "stdin")), Err(Broken::Gone));
}

#[test]
fn ports_are_forwarded() {
    let mut streams = Streams::ports();
    for number in 0..300u32 {
        let (error, id, request) = (4 * number + 1, 4 * number + 3, number.to_string());
        let (failed, connected) = (Kind::PortError { port: 8080 }, Kind::Data { port: 8080 });
        assert_eq!(streams.agent(&forwards(error, "error", "8080", &request)), Ok(failed));
        assert_eq!(streams.target(&reply(error)), Ok(failed));
        assert_eq!(streams.agent(&fin(error)), Ok(failed));
        assert_eq!(streams.agent(&forwards(id, "data", "8080", &request)), Ok(connected));
        assert_eq!(streams.target(&reply(id)), Ok(connected));
        assert_eq!(streams.agent(&data(id, "GET / HTTP/1.0\r\n\r\n")), Ok(connected));
        assert_eq!(streams.target(&data(id, "200")), Ok(connected));
        assert_eq!(streams.target(&fin(id)), Ok(connected));
        // The client resets what the server ended, and its other half goes on writing for a while.
        assert_eq!(streams.agent(&reset(id)), Ok(connected));
        assert_eq!(streams.agent(&data(id, "more")), Ok(Kind::Stale));
        assert_eq!(streams.target(&data(error, "{}")), Ok(failed));
        assert_eq!(streams.target(&fin(error)), Ok(failed));
        assert_eq!(streams.held(), 0);
    }
}

#[test]
fn what_is_ended_or_reset_is_stale_and_nothing_else() {
    let mut streams = command();
    assert_eq!(streams.agent(&fin(3)), Ok(Kind::Stdin));
    for frame in [data(3, "rm"), fin(3), data(3, "")] {
        assert_eq!(streams.agent(&frame), Ok(Kind::Stale));
    }
    assert_eq!(streams.target(&reset(5)), Ok(Kind::Stdout));
    for frame in [data(5, "x"), fin(5), reset(5), reply(5)] {
        assert_eq!(streams.target(&frame), Ok(Kind::Stale));
    }
    assert_eq!(streams.agent(&reset(5)), Ok(Kind::Stale));
    // A stream that the target refuses, and one that the agent gave up before it was accepted.
    let mut streams = Streams::ports();
    streams.agent(&forwards(1, "data", "1", "0")).unwrap();
    assert_eq!(streams.target(&reset(1)), Ok(Kind::Data { port: 1 }));
    streams.agent(&forwards(3, "data", "1", "0")).unwrap();
    streams.agent(&reset(3)).unwrap();
    assert_eq!((streams.target(&reply(3)), streams.held()), (Ok(Kind::Stale), 0));
    // One that was opened for one direction only is not closed before the other side ends it.
    let mut once = forwards(5, "data", "1", "0");
    if let Frame::SynStream { fin, .. } = &mut once {
        *fin = true;
    }
    streams.agent(&once).unwrap();
    assert_eq!((streams.agent(&data(5, "x")), streams.held()), (Ok(Kind::Stale), 1));
    assert_eq!(streams.target(&Frame::SynReply { id: 5, fin: true, headers: Headers::default() }).map(|_| ()), Ok(()));
    assert_eq!(streams.held(), 0);
}

#[test]
fn an_agent_does_what_clients_do() {
    for (frame, why) in [
        // Streams are opened once, in order, with odd numbers.
        (opens(2, "stdin"), Broken::Number),
        (opens(10, "stdin"), Broken::Number),
        (opens(9, "stdin"), Broken::Number),
        (opens(7, "stdin"), Broken::Number),
        (opens(11, "stdin"), Broken::Twice),
        (reply(3), Broken::Agent),
        // Data goes where it is read.
        (data(5, "x"), Broken::Way),
        (data(7, "x"), Broken::Way),
        (data(1, "x"), Broken::Way),
        (data(11, "x"), Broken::Unknown),
        (data(2, "x"), Broken::Unknown),
        (reset(11), Broken::Unknown),
        (reset(4), Broken::Unknown),
        (Frame::Headers { id: 3, fin: false, headers: Headers::default() }, Broken::Late),
    ] {
        assert_eq!(command().agent(&frame), Err(why), "{frame:?}");
    }
    let mut streams = Streams::command();
    streams.agent(&opens(1, "stdin")).unwrap();
    assert_eq!(streams.agent(&data(1, "x")), Err(Broken::Early));
    let Frame::SynStream { id, priority, fin, headers, .. } = opens(3, "stdout") else { panic!("no stream") };
    for (associated, unidirectional) in [(1, false), (0, true)] {
        let headers = headers.clone();
        let frame = Frame::SynStream { id, associated, priority, fin, unidirectional, headers };
        assert_eq!(streams.agent(&frame), Err(Broken::Shape));
    }
}

#[test]
fn a_target_does_what_servers_do() {
    for (frame, why) in [
        (opens(2, "stdin"), Broken::Target),
        (opens(11, "stdin"), Broken::Target),
        (reply(3), Broken::Twice),
        (reply(11), Broken::Unknown),
        (data(3, "x"), Broken::Way),
        (data(9, "x"), Broken::Way),
        (data(11, "x"), Broken::Unknown),
        (reset(11), Broken::Unknown),
        (Frame::Headers { id: 3, fin: false, headers: Headers::default() }, Broken::Late),
    ] {
        assert_eq!(command().target(&frame), Err(why), "{frame:?}");
    }
    let mut streams = Streams::command();
    streams.agent(&opens(1, "stdout")).unwrap();
    assert_eq!(streams.target(&data(1, "x")), Err(Broken::Early));
}

#[test]
fn headers_say_what_a_stream_is_for_and_nothing_else() {
    for frame in [
        syn(1, &[]),
        opens(1, "data"),
        opens(1, "Stdin"),
        opens(1, "stdin\0stdout"),
        opens(1, ""),
        syn(1, &[("streamtype", "stdin"), ("port", "1")]),
        syn(1, &[("x", "stdin")]),
    ] {
        assert_eq!(Streams::command().agent(&frame), Err(Broken::Headers), "{frame:?}");
    }
    for (what, port, request) in [
        ("stdin", "80", "0"),
        ("data", "0", "0"),
        ("data", "080", "0"),
        ("data", "+80", "0"),
        ("data", "80 ", "0"),
        ("data", "80\x0022", "0"),
        ("data", "65616", "0"),
        ("data", "-1", "0"),
        ("data", "", "0"),
        ("data", "80", ""),
        ("data", "80", "00"),
        ("data", "80", "18446744073709551616"),
    ] {
        let frame = forwards(1, what, port, request);
        assert_eq!(Streams::ports().agent(&frame), Err(Broken::Headers), "{what} {port} {request}");
    }
    for frame in [
        syn(1, &[("streamtype", "data"), ("port", "80")]),
        syn(1, &[("streamtype", "data"), ("port", "80"), ("requestid", "0"), ("x", "")]),
    ] {
        assert_eq!(Streams::ports().agent(&frame), Err(Broken::Headers));
    }
}

#[test]
fn a_request_has_one_port_and_two_streams_at_a_time() {
    let mut streams = Streams::ports();
    streams.agent(&forwards(1, "error", "80", "7")).unwrap();
    assert_eq!(streams.agent(&forwards(3, "data", "22", "7")), Err(Broken::Twice));
    assert_eq!(streams.agent(&forwards(3, "error", "80", "7")), Err(Broken::Twice));
    assert_eq!(streams.agent(&forwards(3, "data", "80", "7")), Ok(Kind::Data { port: 80 }));
    assert_eq!(streams.agent(&forwards(5, "data", "80", "7")), Err(Broken::Twice));
    assert_eq!(streams.agent(&forwards(5, "data", "22", "8")), Ok(Kind::Data { port: 22 }));
}

#[test]
fn no_more_are_open_than_are_held() {
    let mut streams = Streams::ports();
    let opens = |id: u32| forwards(id, "data", "80", &id.to_string());
    for id in (1..).step_by(2).take(Streams::LIMIT) {
        streams.agent(&opens(id)).unwrap();
    }
    assert_eq!((streams.agent(&opens(1001)), streams.held()), (Err(Broken::Many), Streams::LIMIT));
    // Where one is closed, there is room; the number that was refused was not used.
    streams.target(&reset(1)).unwrap();
    assert_eq!(streams.agent(&opens(1001)), Ok(Kind::Data { port: 80 }));
}

proptest! {
    /// Whatever comes: what a side says it sends is sent on streams that are open, and no data goes the wrong way.
    #[test]
    fn nothing_goes_on_where_it_is_not_read(steps in vec((any::<bool>(), 0..6u8, 0..12u32, 0..5usize), 0..200)) {
        let kinds = ["error", "stdin", "stdout", "stderr", "resize"];
        let (mut streams, mut ended) = (Streams::command(), std::collections::HashSet::new());
        for (agent, what, id, kind) in steps {
            let frame = match what {
                0 => opens(id, kinds[kind]),
                1 => reply(id),
                2 => data(id, "x"),
                3 => fin(id),
                4 => reset(id),
                _ => data(id, ""),
            };
            let said = if agent { streams.agent(&frame) } else { streams.target(&frame) };
            let Ok(kind) = said else { continue };
            prop_assert!(streams.held() <= 5);
            if what == 2 && kind != Kind::Stale {
                prop_assert_eq!(agent, matches!(kind, Kind::Stdin | Kind::Resize));
                prop_assert!(!ended.contains(&(agent, id)));
            }
            match what {
                3 => { ended.insert((agent, id)); }
                4 => ended.extend([(true, id), (false, id)]),
                _ => {}
            }
        }
    }
}
