//! The machine without I/O: between scripted peers, and message by message.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::codec::{Backend, Field, Side, backend_limit, frame, frontend_limit, write};
use super::model::{self, Script, judge, permit, rules};
use super::{
    ClientLegs, EXPECT_LIMIT, Fate, Fault, Leave, Machine, NAME_LIMIT, NAMED_BYTES_LIMIT, NAMES_LIMIT, No, Outbox,
    Question, Step,
};
use crate::policy::Denial;
use crate::telemetry::SessionId;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn an_honest_agent_hears_what_it_would_hear_without_the_machine(script in vec(any::<u8>(), 0..400)) {
        model::converse(&script);
    }

    #[test]
    fn peers_that_know_no_rules_get_nothing_through(script in vec(any::<u8>(), 0..400)) {
        model::besiege(&script);
    }
}

/// The machine, with both peers in the test's hand.
struct Scene {
    machine: Machine,
    analyst: Script,
    outbox: Outbox,
    asked: Option<Question>,
}

fn scene() -> Scene {
    Scene {
        machine: Machine::new(SessionId::NONE, rules()),
        analyst: Script::default(),
        outbox: Outbox::default(),
        asked: None,
    }
}

fn encoded<T>(write: impl FnOnce(&mut BytesMut) -> T) -> Vec<u8> {
    let mut out = BytesMut::new();
    let _fits = write(&mut out);
    out.to_vec()
}

fn query(text: &str) -> Vec<u8> {
    encoded(|out| write::query(out, text.as_bytes()))
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    encoded(|out| write::parse(out, name.as_bytes(), text.as_bytes()))
}

fn bind(portal: &str, statement: &str) -> Vec<u8> {
    encoded(|out| write::bind(out, portal.as_bytes(), statement.as_bytes()))
}

fn execute(portal: &str, rows: i32) -> Vec<u8> {
    encoded(|out| write::execute(out, portal.as_bytes(), rows))
}

fn describe(side: Side, name: &str) -> Vec<u8> {
    encoded(|out| write::describe(out, side, name.as_bytes()))
}

fn close(side: Side, name: &str) -> Vec<u8> {
    encoded(|out| write::close(out, side, name.as_bytes()))
}

fn bare(tag: u8) -> Vec<u8> {
    encoded(|out| write::bare(out, tag))
}

fn sync() -> Vec<u8> {
    bare(b'S')
}

fn body(tag: u8, body: &[u8]) -> Vec<u8> {
    encoded(|out| write::message(out, tag, |out| out.extend_from_slice(body)))
}

/// A message of the target: its type, with the status behind `Z` and the value behind `D`; `T0` has a column of no table.
fn spoken(word: &str) -> Vec<u8> {
    let (tag, rest) = word.split_at(1);
    match tag.as_bytes()[0] {
        b'Z' => encoded(|out| write::ready(out, rest.as_bytes()[0])),
        b'T' => {
            let field = Field {
                name: b"c",
                table_oid: u32::from(rest != "0"),
                column: i16::from(rest != "0"),
                type_oid: 25,
                type_size: -1,
                type_modifier: -1,
                format: 0,
            };
            encoded(|out| write::row_description(out, [field].into_iter()))
        }
        b'D' => encoded(|out| write::data_row(out, [Some(rest.as_bytes())].into_iter())),
        b'C' => encoded(|out| write::command_complete(out, b"WORD")),
        tag @ (b'E' | b'N') => encoded(|out| write::notice(out, tag, [(b'C', &b"22012"[..]), (b'M', &b"SECRET"[..])])),
        b'S' => encoded(|out| write::parameter_status(out, b"client_encoding", b"UTF8")),
        b'G' => body(b'G', &[0, 0, 0]),
        b'H' => body(b'H', &[0, 0, 1, 0, 0]),
        b'd' => body(b'd', b"SECRET\n"),
        b't' => body(b't', &[0, 0]),
        b'V' => body(b'V', &[255; 4]),
        tag => bare(tag),
    }
}

/// Types of messages; errors with their SQLSTATE, rows with their value.
fn heard(mut bytes: &[u8]) -> String {
    let mut words = Vec::new();
    while let Some(found) = frame(bytes, backend_limit).unwrap() {
        words.push(match Backend::decode(found).unwrap() {
            Backend::ErrorResponse(notice) => {
                let hidden = notice.field(b'M').is_none_or(|text| text != b"SECRET");
                let state = String::from_utf8_lossy(notice.field(b'C').unwrap()).into_owned();
                format!("E{state}{}", if hidden { "" } else { "!" })
            }
            Backend::ReadyForQuery(status) => format!("Z{}", char::from(status)),
            Backend::DataRow(mut values) => {
                format!("D{}", String::from_utf8_lossy(values.next().unwrap().unwrap_or(b"")))
            }
            _ => char::from(found.tag).to_string(),
        });
        bytes = &bytes[found.raw.len()..];
    }
    words.join(" ")
}

impl Scene {
    /// Offers a message. A verdict that is wanted is given at once. What came of it, and what the agent hears.
    fn says(&mut self, message: &[u8]) -> String {
        let told = self.offers(message);
        match self.asked.take() {
            None => told,
            Some(question) => self.judges(message, judge(&question)),
        }
    }

    fn offers(&mut self, message: &[u8]) -> String {
        self.step(message, None).unwrap()
    }

    fn judges(&mut self, message: &[u8], verdict: Result<Leave, Denial>) -> String {
        self.step(message, Some(verdict)).unwrap()
    }

    fn step(&mut self, message: &[u8], verdict: Option<Result<Leave, Denial>>) -> Result<String, Fault> {
        let found = frame(message, frontend_limit).unwrap().unwrap();
        let mut reply = BytesMut::new();
        let mut legs = ClientLegs { analyst: &mut self.analyst, outbox: &mut self.outbox, reply: &mut reply };
        let step = match verdict {
            None => self.machine.on_client(found, &mut legs)?,
            Some(verdict) => self.machine.on_verdict(found, verdict.map_err(No::from), &mut legs)?,
        };
        let told = match step {
            Step::Done => "",
            Step::Wait => "wait",
            Step::Resync => "resync",
            Step::Parse(text) => {
                self.analyst.parsed = Some(text);
                "parse"
            }
            Step::Terminate => "bye",
            Step::Ask(question) => {
                self.asked = Some(question);
                "ask"
            }
        };
        Ok(format!("{told}{}", heard(&reply)))
    }

    /// Types of what has reached the target since the last look.
    fn sent(&mut self) -> String {
        let (bytes, _) = self.outbox.take();
        let (mut rest, mut tags) = (&bytes[..], String::new());
        while let Some(found) = frame(rest, frontend_limit).unwrap() {
            tags.push(char::from(found.tag));
            rest = &rest[found.raw.len()..];
        }
        tags
    }

    /// The target says these; what the agent hears of it.
    fn target(&mut self, words: &str) -> String {
        self.try_target(words).unwrap()
    }

    fn try_target(&mut self, words: &str) -> Result<String, Fault> {
        let mut all = BytesMut::new();
        for word in words.split(' ') {
            let message = spoken(word);
            let mut out = BytesMut::new();
            let found = frame(&message, backend_limit).unwrap().unwrap();
            match self.machine.on_upstream(found, &mut self.analyst, &mut out)? {
                Fate::Pass => all.extend_from_slice(&message),
                Fate::Replaced => all.extend_from_slice(&out),
            }
        }
        Ok(heard(&all))
    }

    /// Offers several messages that all go through at once.
    fn says_all(&mut self, messages: &[Vec<u8>]) {
        for message in messages {
            assert_eq!(self.says(message), "", "{}", String::from_utf8_lossy(message));
        }
    }

    /// Opens a transaction block.
    fn begins(mut self) -> Self {
        assert_eq!(self.says(&query("begin")), "");
        assert_eq!(self.target("C ZT"), "C ZT");
        assert_eq!(self.sent(), "Q");
        self
    }
}

#[test]
fn a_query_is_refused_without_the_target_where_nothing_is_at_stake() {
    let mut scene = scene();
    assert_eq!(scene.says(&query("deny")), "E42501 ZI");
    assert_eq!(scene.sent(), "");
    assert_eq!(scene.says(&query("select")), "");
    assert_eq!(scene.target("T Dx C ZI"), "T Dx C ZI");
}

#[test]
fn a_query_that_is_refused_in_a_block_fails_the_block() {
    let mut scene = scene().begins();
    assert_eq!(scene.says(&query("deny")), "");
    assert_eq!(scene.sent(), "Q");
    assert_eq!(scene.target("E ZE"), "E42501 ZE");
    // A block that has failed already has nothing more at stake.
    assert_eq!(scene.says(&query("deny")), "E42501 ZE");
    assert_eq!(scene.sent(), "");
}

#[test]
fn a_pipeline_that_is_refused_first_never_reaches_the_target() {
    let mut scene = scene();
    assert_eq!(scene.says(&parse("", "deny")), "E42501");
    scene.says_all(&[bind("", ""), execute("", 0), query("select"), bare(b'H')]);
    assert_eq!(scene.says(&sync()), "ZI");
    assert_eq!(scene.sent(), "");
    scene.says_all(&[parse("", "select"), sync()]);
    assert_eq!(scene.sent(), "PS");
}

#[test]
fn a_pipeline_that_is_refused_in_the_middle_fails_at_the_target() {
    let mut scene = scene();
    scene.says_all(&[parse("", "select"), bind("", ""), execute("", 0)]);
    scene.says_all(&[parse("", "deny"), bind("", ""), execute("", 0), sync()]);
    // The poison stands in for the refused Parse; what follows it never leaves.
    assert_eq!(scene.sent(), "PBEPS");
    assert_eq!(scene.target("1 2 Dx C E ZI"), "1 2 Dx C E42501 ZI");
}

#[test]
fn a_pipeline_that_is_refused_at_its_end_fails_at_the_target() {
    let mut scene = scene();
    scene.says_all(&[parse("", "norun"), bind("", ""), execute("", 0), sync()]);
    assert_eq!(scene.sent(), "PBPS");
    assert_eq!(scene.target("1 2 E ZI"), "1 2 E42501 ZI");
}

#[test]
fn a_pipeline_that_is_refused_in_a_block_fails_the_block() {
    let mut scene = scene().begins();
    scene.says_all(&[parse("", "deny"), sync()]);
    assert_eq!(scene.sent(), "PS");
    assert_eq!(scene.target("E ZE"), "E42501 ZE");
    assert_eq!(scene.says(&parse("", "deny")), "E42501");
    assert_eq!(scene.says(&sync()), "ZE");
    assert_eq!(scene.sent(), "");
}

#[test]
fn a_refusal_after_a_sync_waits_for_the_earlier_answers() {
    let mut scene = scene();
    scene.says_all(&[parse("", "begin"), bind("", ""), execute("", 0), sync()]);
    let refused = parse("", "deny");
    assert_eq!(scene.says(&refused), "wait");
    assert_eq!(scene.offers(&refused), "wait");
    // The status decides how it is worded.
    assert_eq!(scene.target("1 2 C ZT"), "1 2 C ZT");
    assert_eq!(scene.says(&refused), "");
    scene.says_all(&[sync()]);
    assert_eq!(scene.sent(), "PBESPS");
    assert_eq!(scene.target("E ZE"), "E42501 ZE");
}

#[test]
fn a_query_waits_for_the_pipeline_that_it_stands_in() {
    let mut scene = scene();
    scene.says_all(&[parse("", "select")]);
    assert_eq!(scene.says(&query("deny")), "wait");
    assert_eq!(scene.sent(), "PH");
    assert_eq!(scene.target("1"), "1");
    assert_eq!(scene.says(&query("deny")), "");
    assert_eq!(scene.sent(), "Q");
    assert_eq!(scene.target("E ZI"), "E42501 ZI");
}

#[test]
fn an_error_in_the_middle_discards_up_to_the_sync() {
    let mut scene = scene();
    scene.says_all(&[parse("a", "select"), bind("", "a"), execute("", 0)]);
    assert_eq!(scene.target("1 E"), "1 E22012!");
    scene.says_all(&[bind("", "a"), parse("b", "deny"), query("select"), sync()]);
    assert_eq!(scene.sent(), "PBES");
    assert_eq!(scene.target("ZI"), "ZI");
    // What was done before the error stays.
    scene.says_all(&[bind("", "a"), sync()]);
    // The answer to the Bind decides whether this one is still looked at.
    assert_eq!(scene.offers(&bind("", "b")), "wait");
    assert_eq!(scene.target("2 ZI"), "2 ZI");
    assert_eq!(scene.offers(&bind("", "b")), "E26000");
}

#[test]
fn a_verdict_for_a_pipeline_that_has_failed_meanwhile_counts_for_nothing() {
    for text in ["select", "deny"] {
        let mut scene = scene();
        scene.says_all(&[parse("a", "select"), bare(b'H')]);
        let message = parse("b", text);
        assert_eq!(scene.offers(&message), "ask");
        assert_eq!(scene.target("E"), "E22012!");
        let question = scene.asked.take().unwrap();
        assert_eq!(scene.judges(&message, judge(&question)), "");
        scene.says_all(&[sync()]);
        assert_eq!(scene.sent(), "PHS");
        assert_eq!(scene.target("ZI"), "ZI");
    }
}

#[test]
fn names_are_unsettled_across_a_sync() {
    let mut scene = scene();
    scene.says_all(&[parse("a", "select"), bind("p", "a"), sync()]);
    for message in [bind("q", "a"), describe(Side::Statement, "a"), describe(Side::Portal, "p"), execute("p", 0)] {
        assert_eq!(scene.says(&message), "wait");
    }
    assert_eq!(scene.target("1 2 ZI"), "1 2 ZI");
    scene.says_all(&[bind("q", "a"), describe(Side::Statement, "a")]);
    // The portal has ended with its transaction.
    scene.says_all(&[execute("p", 0), sync()]);
    assert_eq!(scene.sent(), "PBSBDPS");
    assert_eq!(scene.target("2 t n E ZI"), "2 t n E34000 ZI");
}

#[test]
fn a_name_that_is_closed_is_gone_for_what_follows() {
    let mut scene = scene();
    scene.says_all(&[parse("a", "select"), bind("p", "a"), execute("p", 1), close(Side::Portal, "p")]);
    scene.says_all(&[close(Side::Statement, "a"), bind("q", "a"), sync()]);
    assert_eq!(scene.sent(), "PBECCPS");
    assert_eq!(scene.target("1 2 Dx s 3 3 E ZI"), "1 2 Dx s 3 3 E26000 ZI");
}

#[test]
fn a_portal_that_was_suspended_goes_on_with_its_permit() {
    let mut scene = scene();
    scene.says_all(&[parse("", "masked"), bind("", ""), execute("", 1), bare(b'H')]);
    assert_eq!(scene.sent(), "PBDEH");
    assert_eq!(scene.target("1 2 T DSECRET s"), "1 2 D[masked:x] s");
    // Not asked again, and masked all the same.
    assert_eq!(scene.offers(&execute("", 1)), "");
    scene.says_all(&[sync()]);
    assert_eq!(scene.sent(), "DES");
    assert_eq!(scene.target("T DSECRET C ZI"), "D[masked:x] C ZI");
    // Bound anew, it needs a new permit.
    scene.says_all(&[bind("", "")]);
    assert_eq!(scene.offers(&execute("", 1)), "ask");
}

#[test]
fn what_is_bound_to_the_session_goes_on_as_it_was_read_when_it_ran() {
    let mut scene = scene();
    scene.says_all(&[parse("", "bound"), bind("", "")]);
    let message = execute("", 1);
    assert_eq!(scene.offers(&message), "ask");
    // The second reading is one of masked columns.
    scene.asked = None;
    assert_eq!(scene.judges(&message, Ok(Leave::Permit(permit(&["x"])))), "");
    assert_eq!(scene.target("1 2 T DSECRET s"), "1 2 D[masked:x] s");
    scene.says_all(&[execute("", 0), sync()]);
    assert_eq!(scene.target("T DSECRET C ZI"), "D[masked:x] C ZI");
}

#[test]
fn a_copy_from_the_agent_takes_its_data_and_nothing_else() {
    let mut scene = scene();
    scene.says_all(&[query("copyin")]);
    for message in [sync(), describe(Side::Portal, ""), parse("", "select"), query("select")] {
        assert_eq!(scene.says(&message), "wait");
    }
    assert_eq!(scene.target("G"), "G");
    assert!(scene.machine.copies());
    // Sync and Flush have no meaning here.
    scene.says_all(&[body(b'd', b"x\n"), sync(), bare(b'H'), bare(b'c')]);
    assert_eq!(scene.sent(), "Qdc");
    assert_eq!(scene.target("C ZI"), "C ZI");

    scene.says_all(&[query("copyin")]);
    assert_eq!(scene.target("G"), "G");
    let fault = scene.step(&query("select"), None).unwrap_err();
    assert!(matches!(fault, Fault::Agent(_)), "{fault:?}");
}

#[test]
fn a_copy_from_the_agent_that_fails_leaves_both_in_step() {
    // The target fails in the middle: what the agent still sends goes nowhere.
    let mut scene = scene();
    scene.says_all(&[parse("", "copyin"), bind("", ""), execute("", 0)]);
    assert_eq!(scene.says(&sync()), "wait");
    assert_eq!(scene.target("1 2 G"), "1 2 G");
    scene.says_all(&[sync(), body(b'd', b"x\n")]);
    assert_eq!(scene.target("E"), "E22012!");
    scene.says_all(&[body(b'd', b"x\n"), bare(b'c'), sync()]);
    assert_eq!(scene.sent(), "PBEHdS");
    assert_eq!(scene.target("ZI"), "ZI");
    // What it did before it failed is not known.
    assert_eq!(scene.says(&query("select")), "resync");

    // The agent gives it up.
    let mut scene = self::scene();
    scene.says_all(&[query("copyin")]);
    assert_eq!(scene.target("G"), "G");
    scene.says_all(&[body(b'f', b"enough\0")]);
    assert_eq!(scene.target("E ZI"), "E22012! ZI");
    scene.says_all(&[body(b'd', b"late\n"), bare(b'c')]);
    assert_eq!(scene.sent(), "Qf");
}

#[test]
fn an_earlier_error_does_not_end_the_wait_for_a_copy() {
    let mut scene = scene();
    scene.says_all(&[parse("a", "copyin"), bind("p", "a"), execute("p", 0)]);
    assert_eq!(scene.target("1 2 E"), "1 2 E22012!");
    scene.says_all(&[sync()]);
    assert_eq!(scene.target("ZI"), "ZI");
    scene.analyst.stale = false;
    scene.says_all(&[parse("b", "fail"), sync(), bind("p", "a"), execute("p", 0)]);
    assert_eq!(scene.target("E ZI 2"), "E22012! ZI 2");
    assert_eq!(scene.says(&sync()), "wait");
    assert_eq!(scene.target("G"), "G");
}

#[test]
fn a_query_with_two_copies_keeps_what_follows_waiting() {
    let mut scene = scene();
    scene.says_all(&[query("copyin;copyin")]);
    assert_eq!(scene.target("G"), "G");
    scene.says_all(&[bare(b'c')]);
    assert_eq!(scene.says(&sync()), "wait");
    assert_eq!(scene.target("C G"), "C G");
    scene.says_all(&[bare(b'c')]);
    assert_eq!(scene.target("C ZI"), "C ZI");
    scene.says_all(&[sync()]);
}

#[test]
fn a_copy_to_the_agent_passes_or_is_masked() {
    let mut scene = scene();
    scene.says_all(&[query("copyout")]);
    assert_eq!(scene.target("H d c C ZI"), "H d c C ZI");
    scene.says_all(&[query("copymasked")]);
    assert_eq!(scene.target("H"), "H");
    let data = spoken("d");
    let mut out = BytesMut::new();
    let found = frame(&data, backend_limit).unwrap().unwrap();
    assert_eq!(scene.machine.on_upstream(found, &mut scene.analyst, &mut out).unwrap(), Fate::Replaced);
    assert!(!String::from_utf8_lossy(&out).contains("SECRET"), "{out:?}");
    assert_eq!(scene.target("c C ZI"), "c C ZI");
    // A COPY in both directions is replication, which is refused at the start.
    scene.says_all(&[query("copyout")]);
    assert!(scene.try_target("W").is_err());
}

/// Another session changes what a text means, just while it is read: nobody knows which meaning the target will take.
#[test]
fn what_was_read_while_others_changed_the_catalog_passes_nothing() {
    let mut scene = scene();
    scene.says_all(&[query("select")]);
    assert_eq!(scene.target("T0 DSECRET C ZI"), "T DSECRET C ZI");
    scene.says_all(&[query("overtaken")]);
    assert_eq!(scene.target("T0 DSECRET C ZI"), "T D[masked] C ZI");
    // Read again, nobody in between, it passes again.
    scene.says_all(&[query("select")]);
    assert_eq!(scene.target("T0 DSECRET C ZI"), "T DSECRET C ZI");
}

#[test]
fn errors_at_the_end_of_what_was_masked_quote_nothing() {
    // The commit as a command of its own.
    let pipeline = vec![parse("", "commit"), bind("", ""), execute("", 0), sync()];
    for (commit, said, told) in [(vec![query("commit")], "E ZI", "E22012 ZI"), (pipeline, "1 2 E ZI", "1 2 E22012 ZI")]
    {
        let mut scene = scene().begins();
        scene.says_all(&[query("masked")]);
        assert_eq!(scene.target("T DSECRET C ZT"), "T D[masked:x] C ZT");
        scene.says_all(&commit);
        assert_eq!(scene.target(said), told);
    }
    // The commit of a pipeline, also of one that was sent before the end of another.
    let mut scene = scene();
    scene.says_all(&[parse("a", "masked"), sync()]);
    assert_eq!(scene.target("1 ZI"), "1 ZI");
    scene.says_all(&[parse("b", "select"), sync(), bind("", "a"), execute("", 0), sync()]);
    assert_eq!(scene.target("1 ZI 2 T DSECRET C"), "1 ZI 2 D[masked:x] C");
    assert_eq!(scene.target("E ZI"), "E22012 ZI");
    // After that, nothing is withheld any more.
    scene.says_all(&[query("select")]);
    assert_eq!(scene.target("E ZI"), "E22012! ZI");
}

#[test]
fn questions_of_our_own_are_not_heard() {
    // Between pipelines.
    let mut scene = scene();
    scene.machine.hide("state", &mut scene.outbox);
    assert_eq!(scene.sent(), "CCPBECCPBECCS");
    assert_eq!(scene.target("3 3 1 2 Doff C 3 3 1 2 Dx C 3 3 N ZI"), "N");
    assert_eq!(scene.machine.take_hidden(), Some(Ok(vec![vec![Some("x".to_owned())]])));
    scene.machine.hide("state", &mut scene.outbox);
    assert_eq!(scene.target("E ZI"), "");
    assert_eq!(scene.machine.take_hidden(), Some(Err("SECRET".to_owned())));

    // Inside of one, where a failure is the agent's, too.
    scene.says_all(&[parse("", "set"), bind("", ""), execute("", 0)]);
    assert_eq!(scene.says(&parse("", "select")), "wait");
    assert_eq!(scene.target("1 2 C"), "1 2 C");
    assert_eq!(scene.says(&parse("", "select")), "resync");
    let _earlier = scene.sent();
    scene.machine.hide("state", &mut scene.outbox);
    assert_eq!(scene.sent(), "CCPBECCH");
    assert_eq!(scene.target("3 3 1 2 Dx C 3 3"), "");
    assert!(matches!(scene.machine.take_hidden(), Some(Ok(_))));
    scene.machine.hide("state", &mut scene.outbox);
    assert_eq!(scene.target("E"), "E22012!");
    assert!(matches!(scene.machine.take_hidden(), Some(Err(_))));
    scene.says_all(&[parse("", "select"), sync()]);
    assert_eq!(scene.sent(), "CCPBECCHS");
    assert_eq!(scene.target("ZI"), "ZI");
}

#[test]
fn our_own_messages_are_not_recorded() {
    let mut scene = scene();
    scene.says_all(&[query("select")]);
    scene.machine.hide("state", &mut scene.outbox);
    let (bytes, record) = scene.outbox.take();
    assert_eq!(&record[..], query("select"));
    assert!(bytes.len() > record.len());
}

#[test]
fn settings_and_notices_come_at_any_time() {
    let mut scene = scene();
    assert_eq!(scene.target("S N"), "S N");
    scene.analyst.stale = false;
    scene.says_all(&[parse("", "select"), bind("", ""), execute("", 0), sync()]);
    assert_eq!(scene.target("S 1 N 2 Dx S N C S ZI S"), "S 1 N 2 Dx S N C S ZI S");
    assert_eq!(scene.says(&query("select")), "resync");
}

#[test]
fn answers_that_nobody_asked_for_end_the_session() {
    for (said, asked) in [
        ("ZI", None),
        ("C", None),
        ("Dx", None),
        ("1", None),
        ("T Dx C ZI ZI", Some(query("select"))),
        ("s", Some(query("select"))),
        ("1 1", Some(parse("", "select"))),
        ("2", Some(parse("", "select"))),
        ("ZI", Some(parse("", "select"))),
        ("C", Some(sync())),
        ("Dx", Some(query("masked"))),
        ("G", Some(describe(Side::Portal, ""))),
        ("V", Some(query("select"))),
    ] {
        let mut scene = scene();
        scene.says_all(asked.as_slice());
        let fault = scene.try_target(said).unwrap_err();
        assert!(matches!(fault, Fault::Upstream(_)), "{said}: {fault:?}");
    }
    // Before it closes the connection the target may say why.
    assert_eq!(scene().target("E"), "E22012!");
}

#[test]
fn what_has_no_place_after_the_log_in_ends_the_session() {
    let mut scene = scene();
    for message in [body(b'p', b"x\0"), body(b'?', b""), body(b'Q', b"no end"), body(b'S', b"more")] {
        assert!(matches!(scene.step(&message, None), Err(Fault::Agent(_))));
    }
    assert_eq!(scene.says(&bare(b'X')), "bye");
    assert_eq!(scene.sent(), "");
}

#[test]
fn an_unknown_name_is_looked_up_once_and_refused_as_the_target_would() {
    let mut scene = scene();
    for (message, told) in [(query("unknown"), "E42P01 ZI"), (parse("", "unknown"), "E42P01")] {
        assert_eq!(scene.says(&message), "resync");
        scene.analyst.stale = false;
        assert_eq!(scene.says(&message), told);
    }
    assert_eq!(scene.says(&sync()), "ZI");
    assert_eq!(scene.sent(), "");
}

#[test]
fn a_long_text_is_parsed_before_it_is_read() {
    for message in [query("long"), parse("s", "long")] {
        let mut scene = scene();
        assert_eq!(scene.offers(&message), "parse");
        assert_eq!(scene.offers(&message), "ask");
        assert_eq!(scene.sent(), "");
    }
    // It is planned anew with what names mean now.
    let mut scene = scene();
    let (long, other) = (parse("s", "long;select"), parse("t", "long"));
    for message in [&long, &other] {
        assert_eq!(scene.says(message), "parse");
        assert_eq!(scene.says(message), "");
    }
    scene.says_all(&[sync()]);
    scene.target("1 1 ZI");
    scene.analyst.refresh();
    assert_eq!(scene.offers(&bind("", "s")), "parse");
    assert_eq!(scene.offers(&bind("", "s")), "ask");
}

#[test]
fn a_function_call_stands_alone() {
    let mut scene = scene();
    scene.says_all(&[parse("", "select")]);
    let call = body(b'F', &[0; 10]);
    assert_eq!(scene.says(&call), "wait");
    assert_eq!(scene.target("1"), "1");
    scene.says_all(std::slice::from_ref(&call));
    assert_eq!(scene.target("V ZI"), "V ZI");
    // Nobody knows what it did.
    assert_eq!(scene.says(&query("select")), "resync");
}

#[test]
fn whoever_sends_without_end_is_held_back() {
    let mut scene = scene();
    let message = describe(Side::Portal, "");
    for _ in 0..EXPECT_LIMIT {
        assert_eq!(scene.says(&message), "");
    }
    let _sent = scene.sent();
    // Also where the pipeline ends just here: the answers that make room have to be asked for.
    assert_eq!(scene.says(&sync()), "wait");
    assert_eq!(scene.sent(), "H");
    assert_eq!(scene.says(&message), "wait");
    assert_eq!(scene.sent(), "");
    assert_eq!(scene.target("n"), "n");
    assert_eq!(scene.says(&sync()), "");
}

#[test]
fn names_are_limited_in_number_and_weight() {
    let mut scene = scene();
    for index in 0..NAMES_LIMIT {
        assert_eq!(scene.says(&parse(&index.to_string(), "select")), "");
        assert_eq!(scene.target("1"), "1");
    }
    scene.says_all(&[sync()]);
    assert_eq!(scene.target("ZI"), "ZI");
    assert_eq!(scene.says(&parse("more", "select")), "E54000");
    assert_eq!(scene.says(&sync()), "ZI");
    scene.says_all(&[close(Side::Statement, "0"), sync()]);
    assert_eq!(scene.target("3 ZI"), "3 ZI");
    scene.says_all(&[parse("more", "select"), sync()]);

    let mut scene = self::scene();
    let long = format!("select{}", " ".repeat(NAMED_BYTES_LIMIT / 5));
    for index in 0..4 {
        assert_eq!(scene.says(&parse(&index.to_string(), &long)), "");
    }
    assert_eq!(scene.says(&parse("4", &long)), "");
    assert_eq!(scene.says(&sync()), "");
    assert_eq!(scene.target("1 1 1 1 E ZI"), "1 1 1 1 E54000 ZI");
}

#[test]
fn values_that_are_null_weigh_something_too() {
    let mut scene = scene();
    scene.says_all(&[parse("s", "select"), sync()]);
    assert_eq!(scene.target("1 ZI"), "1 ZI");
    let mut refused = None;
    for index in 0..200 {
        let nulls = encoded(|out| {
            write::message(out, b'B', |out| {
                out.extend_from_slice(format!("p{index}\0s\0\0\0").as_bytes());
                out.extend_from_slice(&u16::MAX.to_be_bytes());
                out.extend_from_slice(&[0xff; 4].repeat(usize::from(u16::MAX)));
                out.extend_from_slice(&[0, 0]);
            })
        });
        assert_eq!(scene.says(&nulls), "");
        if scene.sent().ends_with('P') {
            refused = Some(index);
            break;
        }
    }
    // The poison that fails the pipeline at the target: the portal is refused.
    assert!(refused.is_some_and(|index| index > 2), "{refused:?}");
    assert!(scene.machine.weight() <= 2 * NAMED_BYTES_LIMIT);
}

#[test]
fn statements_that_sql_prepares_are_limited_in_weight() {
    let mut scene = scene();
    let long = "x".repeat(NAMED_BYTES_LIMIT / 8);
    for index in 0..10 {
        assert_eq!(scene.says(&query(&format!("prepare{index}{long}"))), "");
        assert_eq!(scene.target("C ZI"), "C ZI");
    }
    let weight = scene.machine.weight();
    assert!((NAMED_BYTES_LIMIT / 2..=NAMED_BYTES_LIMIT).contains(&weight), "{weight}");
}

#[test]
fn names_that_the_server_would_cut_are_refused() {
    let (fits, long) = ("n".repeat(NAME_LIMIT), "n".repeat(NAME_LIMIT + 1));
    for message in [
        parse(&long, "select"),
        bind(&long, ""),
        bind("", &long),
        describe(Side::Statement, &long),
        describe(Side::Portal, &long),
        execute(&long, 0),
        close(Side::Statement, &long),
        close(Side::Portal, &long),
    ] {
        let mut scene = scene();
        assert_eq!(scene.says(&message), "E42622");
        assert_eq!(scene.says(&sync()), "ZI");
        assert_eq!(scene.sent(), "");
    }
    scene().says_all(&[parse(&fits, "select"), bind(&fits, &fits), execute(&fits, 0), sync()]);
}
