//! Targets that lie, stall, flood, downgrade or impersonate.

use std::time::Duration;

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::super::*;
use super::{clear, credential, parameters, target};
use crate::policy::Fault;
use crate::tls::{Config, Mode, Unverified};

const PASSWORD: &str = "hunter2-hunter2";

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    out.extend(body);
    out
}

fn auth(code: u32, rest: &[u8]) -> Vec<u8> {
    frame(b'R', &[&code.to_be_bytes(), rest].concat())
}

fn error(fields: &[(u8, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (tag, value) in fields {
        body.push(*tag);
        body.extend(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    frame(b'E', &body)
}

fn ready() -> Vec<u8> {
    [auth(0, b""), frame(b'Z', b"I")].concat()
}

fn sasl(mechanisms: &[&str]) -> Vec<u8> {
    let list: String = mechanisms.iter().map(|name| format!("{name}\0")).collect();
    auth(10, format!("{list}\0").as_bytes())
}

/// Plays the target: reads the start-up message, then sends `first`. The outcome, and all that was sent after start-up.
async fn against(
    unverified: Unverified,
    password: Option<&str>,
    first: Vec<u8>,
) -> (Result<LoggedIn, LoginError>, Vec<u8>) {
    script(unverified, password, async move |far: &mut DuplexStream| {
        let _gone = far.write_all(&first).await;
    })
    .await
}

/// As [`against`], with a target that goes on talking.
async fn script(
    unverified: Unverified,
    password: Option<&str>,
    act: impl AsyncFnOnce(&mut DuplexStream),
) -> (Result<LoggedIn, LoginError>, Vec<u8>) {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (target, login_as) = (clear(unverified), credential("rw", password));
    let playing = async {
        let length = far.read_u32().await.unwrap();
        let mut startup = vec![0; length as usize - 4];
        far.read_exact(&mut startup).await.unwrap();
        act(&mut far).await;
        far.shutdown().await.unwrap();
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).await.unwrap();
        sent
    };
    let asking = async {
        let outcome = login(Stream::Memory(near), &target, &login_as, &[]).await;
        // What a success keeps open would keep the far end reading.
        match outcome {
            Ok(mut logged_in) => {
                let (unused, _) = tokio::io::duplex(1);
                logged_in.stream = Stream::Memory(unused);
                Ok(logged_in)
            }
            Err(error) => Err(error),
        }
    };
    tokio::join!(asking, playing)
}

fn holds_password(bytes: &[u8]) -> bool {
    bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes())
}

/// The heart of it: a target that was not verified gets not a byte out of us below the least proof.
#[tokio::test]
async fn a_downgrade_gets_nothing() {
    let md5 = auth(5, b"salt");
    let scram = sasl(&["SCRAM-SHA-256"]);
    for (least, demand) in [
        (Unverified::Proof, auth(3, b"")),
        (Unverified::Proof, md5.clone()),
        (Unverified::Proof, ready()),
        (Unverified::Hash, auth(3, b"")),
    ] {
        let (outcome, sent) = against(least, Some(PASSWORD), demand).await;
        let error = outcome.unwrap_err();
        assert!(matches!(error, LoginError::Weak { .. }), "{error}");
        assert_eq!(error.fault(), Fault::Operator);
        assert_eq!(sent, b"");
    }
    let config = Config { upstream: Mode::Require, unverified_password: Unverified::Bound, ..Config::default() };
    let upstream = config.upstream("db.test", &[]).unwrap();
    let login_as = credential("rw", Some(PASSWORD));
    let mut bound = Authentication::new(&login_as, upstream.least_proof(), Some(vec![1; 32]));
    let request = Message::parse(&mut BytesMut::from(&scram[..])).unwrap().unwrap();
    assert!(matches!(bound.answer(request).await, Err(LoginError::Weak { .. })));
}

#[tokio::test]
async fn what_the_operator_allows_is_sent() {
    let (outcome, sent) = against(Unverified::Clear, Some(PASSWORD), [auth(3, b""), ready()].concat()).await;
    assert_eq!(outcome.unwrap().mechanism, "password");
    assert!(holds_password(&sent));
    let (outcome, sent) = against(Unverified::Hash, Some(PASSWORD), [auth(5, b"salt"), ready()].concat()).await;
    assert_eq!(outcome.unwrap().mechanism, "md5");
    assert!(!holds_password(&sent) && sent.windows(3).any(|window| window == b"md5"));
    let (outcome, _) = against(Unverified::Hash, Some(PASSWORD), ready()).await;
    assert_eq!(outcome.unwrap().mechanism, "none");
    // Without a password there is nothing to lose, and nothing to prove.
    let (outcome, _) = against(Unverified::Proof, None, ready()).await;
    assert_eq!(outcome.unwrap().mechanism, "none");
}

#[tokio::test]
async fn without_a_password_no_method_is_answered() {
    for demand in [auth(3, b""), auth(5, b"salt"), sasl(&["SCRAM-SHA-256"])] {
        let (outcome, sent) = against(Unverified::Clear, None, demand).await;
        assert!(matches!(outcome, Err(LoginError::NoPassword(_))));
        assert_eq!(sent, b"");
    }
}

#[tokio::test]
async fn unknown_methods_are_named() {
    for (demand, named) in [
        (auth(7, b""), "GSSAPI"),
        (auth(9, b""), "SSPI"),
        (auth(2, b""), "Kerberos"),
        (auth(6, b""), "SCM"),
        (sasl(&["OAUTHBEARER", "X\n"]), "SASL OAUTHBEARER, X,"),
        (sasl(&["SCRAM-SHA-256-PLUS"]), "SCRAM-SHA-256-PLUS alone"),
    ] {
        let (outcome, sent) = against(Unverified::Clear, Some(PASSWORD), demand).await;
        let error = outcome.unwrap_err();
        assert!(matches!(error, LoginError::Unsupported(_)) && error.to_string().contains(named), "{error}");
        assert_eq!(sent, b"");
    }
    let (outcome, _) = against(Unverified::Clear, Some(PASSWORD), auth(99, b"")).await;
    assert!(matches!(outcome, Err(LoginError::Protocol(_))));
}

/// SCRAM up to the server's first message, made from the client's nonce by `challenge`; then `last`.
async fn scram(
    least: Unverified,
    challenge: impl Fn(&str) -> String,
    last: Vec<u8>,
) -> (Result<LoggedIn, LoginError>, Vec<u8>) {
    script(least, Some(PASSWORD), async move |far: &mut DuplexStream| {
        far.write_all(&sasl(&["SCRAM-SHA-256"])).await.unwrap();
        let mut initial = vec![0; 5];
        far.read_exact(&mut initial).await.unwrap();
        let length = u32::from_be_bytes(initial[1..5].try_into().unwrap());
        let mut body = vec![0; length as usize - 4];
        far.read_exact(&mut body).await.unwrap();
        let nonce = String::from_utf8(body).unwrap().rsplit_once("r=").unwrap().1.to_owned();
        let _gone = far.write_all(&auth(11, challenge(&nonce).as_bytes())).await;
        let _gone = far.write_all(&last).await;
    })
    .await
}

fn honest(nonce: &str) -> String {
    format!("r={nonce}server,s=c2FsdHNhbHRzYWx0,i=4096")
}

#[tokio::test]
async fn a_scram_server_that_does_not_know_the_password_is_an_impostor() {
    let wrong = auth(12, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let no_signature = auth(12, b"e=other-error");
    for last in [[wrong, ready()].concat(), [no_signature, ready()].concat(), ready()] {
        let (outcome, sent) = scram(Unverified::Proof, honest, last).await;
        let error = outcome.unwrap_err();
        assert!(matches!(error, LoginError::Unproven(_)), "{error}");
        assert_eq!(error.fault(), Fault::Upstream);
        assert!(!holds_password(&sent));
    }
}

#[tokio::test]
async fn a_scram_server_may_not_choose_the_price() {
    let cheap = |nonce: &str| honest(nonce).replace("4096", "1");
    let (outcome, sent) = scram(Unverified::Proof, cheap, Vec::new()).await;
    assert!(matches!(outcome, Err(LoginError::Weak { .. })), "{outcome:?}");
    assert_eq!(sent, b"");
    for challenge in [
        |nonce: &str| honest(nonce).replace("4096", "100001"),
        |nonce: &str| honest(nonce).replace("4096", "4294967295"),
        |nonce: &str| honest(nonce).replace("r=", "r=x"),
        |nonce: &str| honest(nonce).replace("s=", "q="),
        |nonce: &str| format!("{},i=1", honest(nonce)),
    ] {
        let (outcome, sent) = scram(Unverified::Proof, challenge, Vec::new()).await;
        assert!(matches!(outcome, Err(LoginError::Unproven(_))), "{outcome:?}");
        assert_eq!(sent, b"");
    }
}

#[tokio::test]
async fn a_target_that_changes_its_mind_gets_nothing_more() {
    let restart = [auth(3, b""), auth(5, b"salt"), sasl(&["SCRAM-SHA-256"]), auth(12, b"v=AAAA")];
    for next in restart {
        let demand = [sasl(&["SCRAM-SHA-256"]), next].concat();
        let (outcome, sent) = against(Unverified::Clear, Some(PASSWORD), demand).await;
        assert!(matches!(outcome, Err(LoginError::Protocol(_))), "{outcome:?}");
        assert!(!holds_password(&sent));
    }
    let twice = [auth(5, b"salt"), auth(3, b"")].concat();
    let (outcome, sent) = against(Unverified::Clear, Some(PASSWORD), twice).await;
    assert!(matches!(outcome, Err(LoginError::Protocol(_))));
    assert!(!holds_password(&sent));
}

#[tokio::test]
async fn floods_and_lying_lengths_end_at_a_bound() {
    let notices = frame(b'N', &[&b"M"[..], &[b'x'; 1000], &[0, 0]].concat()).repeat(300);
    let parameter = frame(b'S', b"a\0b\0");
    let many = [auth(0, b""), parameter.repeat(MAX_PARAMETERS + 1), frame(b'Z', b"I")].concat();
    let just = [auth(0, b""), parameter.repeat(MAX_PARAMETERS), frame(b'Z', b"I")].concat();
    for (bytes, named) in [
        (notices.clone(), "too much"),
        ([auth(0, b""), notices].concat(), "too much"),
        (many, "too many parameters"),
        (vec![b'R', 0x7f, 0xff, 0xff, 0xff], "too large"),
        (vec![b'R', 0xff, 0xff, 0xff, 0xff], "length"),
        (vec![b'R', 0, 0, 0, 3], "length"),
        ([auth(0, b""), frame(b'v', &[0; 8])].concat(), "not asked for"),
        ([auth(0, b""), frame(b'!', b"")].concat(), "unknown message"),
        ([auth(0, b""), frame(b'Z', b"T")].concat(), "no place"),
        ([auth(0, b""), auth(3, b"")].concat(), "no place"),
        ([auth(0, b""), frame(b'Z', b"Ix")].concat(), "length"),
        ([auth(0, b""), frame(b'S', b"a\0\xff\0")].concat(), "UTF-8"),
        (frame(b'Z', b"I"), "something else"),
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "too large"),
    ] {
        let (outcome, _) = against(Unverified::Proof, None, bytes).await;
        let error = outcome.unwrap_err();
        assert!(matches!(error, LoginError::Protocol(_)) && error.to_string().contains(named), "{named}: {error}");
    }
    assert_eq!(against(Unverified::Proof, None, just).await.0.unwrap().parameters.len(), MAX_PARAMETERS);
    for cut in [Vec::new(), auth(0, b"")[..7].to_vec(), auth(0, b"")] {
        assert!(matches!(against(Unverified::Proof, None, cut).await.0, Err(LoginError::Closed)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_stalls_is_given_up() {
    for said in [Vec::new(), auth(0, b"")] {
        let (near, mut far) = tokio::io::duplex(1024);
        far.write_all(&said).await.unwrap();
        let outcome = login(Stream::Memory(near), &clear(Unverified::Proof), &credential("rw", None), &[]).await;
        assert!(matches!(outcome, Err(LoginError::TimedOut)));
    }
    // Nobody reads what we send: a start-up message that does not fit.
    let (near, _far) = tokio::io::duplex(4);
    let outcome = login(Stream::Memory(near), &clear(Unverified::Proof), &credential("rw", None), &[]).await;
    assert!(matches!(outcome, Err(LoginError::TimedOut)));
}

#[tokio::test]
async fn an_answer_to_ssl_request_is_one_byte() {
    let config = Config { upstream: Mode::Require, ..Config::default() };
    let target = target(config.upstream("db.test", &[]).unwrap());
    for (answer, expected) in [
        (&b"N"[..], "does not offer TLS"),
        (b"SX", "before TLS"),
        (b"N\0", "before TLS"),
        (b"E\0\0", "SSLRequest"),
        (b"H", "SSLRequest"),
        (b"", "closed"),
    ] {
        let (near, mut far) = tokio::io::duplex(1024);
        far.write_all(answer).await.unwrap();
        far.shutdown().await.unwrap();
        let outcome = login(Stream::Memory(near), &target, &credential("rw", Some(PASSWORD)), &[]).await;
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).await.unwrap();
        assert_eq!(sent.len(), 8, "nothing but SSLRequest was sent");
    }
}

#[tokio::test]
async fn errors_are_the_operators_or_are_passed_on() {
    let refused = error(&[
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        (b'C', "28P01"),
        (b'M', "password authentication failed for user \"rw\""),
    ]);
    let (outcome, _) = against(Unverified::Proof, None, refused.clone()).await;
    let failure = outcome.unwrap_err();
    assert!(matches!(&failure, LoginError::Refused(why) if why.sqlstate == "28P01"));
    assert_eq!(failure.fault(), Fault::Operator);
    assert!(failure.to_string().contains("\"rw\"") && !failure.for_agent().to_string().contains("rw\""));

    let missing = error(&[
        (b'V', "FATAL"),
        (b'C', "3D000"),
        (b'M', "database \"x\ny\" does not exist"),
        (b'D', "d"),
        (b'H', "h"),
    ]);
    let (outcome, _) = against(Unverified::Proof, None, [auth(0, b""), missing].concat()).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.fault(), Fault::Upstream);
    assert_eq!(failure.for_agent().to_string(), "FATAL 3D000: database \"x y\" does not exist; d; h");

    // After AuthenticationOk the credential was accepted: what follows is not about it.
    let (outcome, _) = against(Unverified::Proof, None, [auth(0, b""), refused].concat()).await;
    assert!(matches!(outcome, Err(LoginError::Rejected(_))));
    let odd = [error(&[(b'C', "28\n01"), (b'V', "LOG"), (b'M', &"x".repeat(9000))]), frame(b'E', b"M")];
    for bytes in odd {
        let (outcome, _) = against(Unverified::Proof, None, bytes).await;
        let complaint = outcome.unwrap_err().for_agent();
        assert_eq!((complaint.severity.as_str(), complaint.sqlstate.as_str()), ("FATAL", "XX000"));
        assert!(complaint.message.len() <= 1000);
    }
}

#[test]
fn start_up_names_our_user_and_leaves_extensions_behind() {
    let given = parameters(&[("user", "agent"), ("database", "orders"), ("_pq_.x", "1"), ("user", "root")]);
    let message = startup(&credential("rw", None), &given).unwrap();
    assert_eq!(&message[4..], b"\0\x03\0\0user\0rw\0database\0orders\0\0");
    for bad in [("", "x"), ("a\0b", "x"), ("a", "x\0user\0root"), ("a", &*"x".repeat(MAX_STARTUP))] {
        let error = startup(&credential("rw", None), &parameters(&[bad])).unwrap_err();
        assert_eq!(error.fault(), Fault::Agent);
    }
}

#[tokio::test]
async fn what_follows_ready_for_query_is_kept() {
    let key = frame(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]);
    let bytes = [auth(0, b""), frame(b'S', b"a\0b\0"), key, frame(b'Z', b"I"), b"rest".to_vec()].concat();
    let logged_in = against(Unverified::Proof, None, bytes).await.0.unwrap();
    assert_eq!((logged_in.process_id, logged_in.secret_key), (7, 9));
    assert_eq!(logged_in.parameters, parameters(&[("a", "b")]));
    assert_eq!(&logged_in.leftover[..], b"rest");
}

async fn ask(answer: Vec<u8>, bounds: Bounds) -> Result<Vec<Row>, QueryError> {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    far.write_all(&answer).await.unwrap();
    query(&mut Stream::Memory(near), &mut BytesMut::new(), "SELECT 1", &bounds).await
}

#[tokio::test(start_paused = true)]
async fn answers_are_bounded() {
    let row = frame(b'D', &[0, 2, 0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff]);
    let end = [frame(b'C', b"SELECT\0"), frame(b'Z', b"I")].concat();
    let bounds = Bounds { rows: 3, bytes: 1000, within: Duration::from_secs(1) };
    let rows = ask([row.repeat(3), end.clone()].concat(), bounds).await.unwrap();
    assert_eq!(rows, vec![vec![Some("x".to_owned()), None]; 3]);
    for (answer, named) in [
        (row.repeat(4), "more than 3 rows"),
        (frame(b'D', &[0; 1001]), "too large"),
        (frame(b'N', &[0; 600]).repeat(2), "too much"),
        (frame(b'D', &[0, 1, 0, 0, 0, 9, b'x']), "EOF"),
        (frame(b'D', &[0, 1, 0, 0, 0, 1, 0xff]), "UTF-8"),
        (frame(b'G', &[0, 0, 0]), "no place"),
        (frame(b'H', &[0, 0, 0]), "no place"),
        (Vec::new(), "within 1 s"),
    ] {
        let error = ask(answer, bounds).await.unwrap_err();
        assert!(matches!(&error, QueryError::Broken(why) if why.contains(named)), "{named}: {error}");
    }
    let refused = [error(&[(b'C', "42P01"), (b'M', "no table")]), frame(b'Z', b"E")].concat();
    assert!(matches!(ask(refused, bounds).await, Err(QueryError::Refused(why)) if why.sqlstate == "42P01"));
}

#[tokio::test]
async fn a_cancel_request_carries_the_key_and_ends_with_the_leg() {
    let (near, mut far) = tokio::io::duplex(64);
    let target = clear(Unverified::Proof);
    let reading = async {
        let mut request = [0; 16];
        far.read_exact(&mut request).await.unwrap();
        drop(far);
        request
    };
    let (outcome, request) = tokio::join!(cancel(Stream::Memory(near), &target, 7, 9), reading);
    outcome.unwrap();
    assert_eq!(request, [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 7, 0, 0, 0, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_request_is_bounded_in_time() {
    let (near, _far) = tokio::io::duplex(64);
    let target = clear(Unverified::Proof);
    let outcome = timeout(CANCEL_TIMEOUT * 2, cancel(Stream::Memory(near), &target, 7, 9)).await.unwrap();
    assert!(matches!(outcome, Err(LoginError::TimedOut)));
}

/// However the bytes arrive, they mean the same.
#[tokio::test]
async fn a_byte_at_a_time_is_as_good_as_all_at_once() {
    let key = frame(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]);
    let bytes = [auth(0, b""), frame(b'N', &[0]), frame(b'S', b"a\0b\0"), key, frame(b'Z', b"I")].concat();
    let (outcome, _) = script(Unverified::Proof, None, async move |far: &mut DuplexStream| {
        for byte in bytes {
            far.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    let logged_in = outcome.unwrap();
    assert_eq!((logged_in.process_id, logged_in.secret_key), (7, 9));
    assert_eq!(logged_in.parameters, parameters(&[("a", "b")]));
}

proptest! {
    /// Whatever a target says, a log-in ends, and the password stays here.
    #[test]
    fn garbage_ends_a_log_in(
        frames in vec((select(&b"RRRRSKNEZvT!"[..]), vec(any::<u8>(), 0..24), 0u32..13), 0..6),
        tail in vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = Vec::new();
        for (tag, body, code) in frames {
            bytes.extend(if tag == b'R' { auth(code, &body) } else { frame(tag, &body) });
        }
        bytes.extend(tail);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_, sent) = runtime.block_on(against(Unverified::Proof, Some(PASSWORD), bytes.clone()));
        prop_assert!(!holds_password(&sent));
        prop_assert!(!sent.windows(3).any(|window| window == b"md5"));
        let bounds = Bounds { rows: 3, bytes: 1000, within: Duration::from_millis(1) };
        let _answer = runtime.block_on(ask(bytes, bounds));
    }
}
