//! Messages that all readers read alike are understood, others are not; what is masked is gone, and the rest is there.

use std::sync::LazyLock;

mod hidden;

use proptest::prelude::*;
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};

use super::frames::{Frames, HEAD, Unframed};
use super::wire::{self, Payload};
use super::*;
use crate::mask::{Config as MaskConfig, Detector, Masker, Rules, Transform, TreeMasker};
use crate::policy::{ActionName, Command, Obligations};
use crate::protocol::http::action::{self, Body};
use crate::protocol::http::codec::ResponseHead;
use crate::protocol::http::codec::{Field, Length};
use crate::protocol::http::dialect::Asked;
use crate::protocol::http::route::Routes;
use crate::protocol::http::scrub::{Scrub, Spellings};

const SET: &[u8] = include_bytes!("testdata/shop.protoset");
const CARD: &str = "4111 1111 1111 1111";

static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| Arc::new(Schema::parse(SET).unwrap()));

/// A message of these fields.
fn message(fields: &[(u32, Payload<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|(number, payload)| wire::put(&mut out, *number, *payload));
    out
}

const fn text(text: &str) -> Payload<'_> {
    Payload::Bytes(text.as_bytes())
}

const fn number(value: u64) -> Payload<'static> {
    Payload::Varint(value)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frames::put(&mut out, 0, message);
    out
}

fn head(path: &str, fields: &[(&str, &str)]) -> RequestHead {
    let field = |(name, value): &(&str, &str)| Field::new(name, value.as_bytes().to_vec());
    let fields = Fields(fields.iter().map(field).collect());
    RequestHead { method: "POST".into(), target: path.to_owned(), fields, length: Length::Chunked }
}

fn read(message: &[u8]) -> Result<Vec<String>, String> {
    let head = head("/shop.Orders/Place", &[("content-type", "application/grpc")]);
    let call = Call::of(Some(&SCHEMA), &head).unwrap();
    call.read(&framed(message)).map(|content| content.values)
}

fn packed(kind: &str, held: &[u8]) -> Vec<u8> {
    message(&[(1, text(&format!("type.googleapis.com/{kind}"))), (2, Payload::Bytes(held))])
}

#[test]
fn values_are_told_under_the_names_of_the_schema() {
    let customer = message(&[
        (1, text("Ada")),
        (2, text(CARD)),
        (3, Payload::Bytes(&[0, 255])),
        (4, number((-7i64).cast_unsigned())),
        (5, text("")),
    ]);
    let item = message(&[(1, text("book")), (2, Payload::Fixed64(1.5f64.to_le_bytes())), (3, number(3))]);
    let codes = [1, 0x96, 1];
    let label = message(&[(1, text("a.b=c")), (2, text("x"))]);
    let extra = packed("shop.Query", &message(&[(1, text("7")), (2, number(2))]));
    let order = message(&[
        (1, text("EUR")),
        (2, Payload::Bytes(&customer)),
        (3, Payload::Bytes(&item)),
        (3, Payload::Bytes(b"")),
        (4, Payload::Bytes(&codes)),
        (5, Payload::Bytes(&label)),
        (5, Payload::Bytes(b"")),
        (6, number(1)),
        (7, number(1)),
        (10, number(9)),
        (11, Payload::Bytes(&extra)),
        (13, Payload::Fixed64(5u64.to_le_bytes())),
    ]);
    let expected = [
        "currency=EUR",
        "customer.name=Ada",
        "customer.card_number=4111 1111 1111 1111",
        "customer.photo=AP8=",
        "customer.phone=-7",
        "customer.nickname=",
        "items.0.article=book",
        "items.0.price=1.5",
        "items.0.delta=-2",
        "items.1.article=",
        "items.1.price=0",
        "items.1.delta=0",
        "codes.0=1",
        "codes.1=150",
        "labels.\"a.b=c\"=x",
        "labels.\"\"=",
        "state=PAID",
        "urgent=true",
        "voucher=9",
        "extra.type_url=type.googleapis.com/shop.Query",
        "extra.value.id=7",
        "extra.value.state=SHIPPED",
        "stamp=5",
        // It is not written, and reads so.
        "count=0",
    ];
    assert_eq!(read(&order).unwrap(), expected);
    // A nickname may be there or not, and so may what is one of several.
    assert_eq!(read(b"").unwrap(), ["currency=", "state=NEW", "urgent=false", "stamp=0", "count=0"]);
}

#[test]
fn what_readers_could_read_in_two_ways_is_not_understood() {
    let deep = (0..40).fold(Vec::new(), |inner, _| message(&[(12, Payload::Bytes(&inner))]));
    let many = message(&vec![(4, number(1)); 600]);
    let long = "x".repeat(5000);
    let entry = |fields: &[(u32, Payload<'_>)]| message(&[(5, Payload::Bytes(&message(fields)))]);
    let twice = [entry(&[(1, text("a")), (2, text("b"))]), entry(&[(2, text("c")), (1, text("a"))])].concat();
    let people = message(&[(1, number(3)), (2, Payload::Bytes(b""))]);
    let people = message(&[(14, Payload::Bytes(&people)), (14, Payload::Bytes(&people))]);
    let extra = |bytes: &[u8]| message(&[(11, Payload::Bytes(bytes))]);
    for (bytes, why) in [
        (message(&[(1, text("EUR")), (1, text("USD"))]), "`currency` stands twice"),
        (message(&[(2, Payload::Bytes(b"")), (2, Payload::Bytes(b""))]), "`customer` stands twice"),
        (message(&[(8, text("a")), (10, number(1))]), "is one of several"),
        (message(&[(8, text("a")), (8, text("a"))]), "is one of several"),
        (message(&[(99, number(1))]), "has no field 99"),
        (message(&[(1, number(1))]), "`currency` is not written as its kind is"),
        (message(&[(7, text("x"))]), "`urgent` is not written as its kind is"),
        (message(&[(13, number(1))]), "`stamp` is not written as its kind is"),
        (message(&[(1, Payload::Bytes(&[0xff]))]), "is no UTF-8"),
        (message(&[(6, number(77))]), "is no value of its enumeration"),
        (message(&[(6, number(1 << 32))]), "out of its range"),
        (message(&[(7, number(2))]), "neither true nor false"),
        (message(&[(4, number(1 << 40))]), "out of its range"),
        (message(&[(16, number(1 << 32))]), "out of its range"),
        (message(&[(4, number(1)), (4, Payload::Bytes(&[1]))]), "in several pieces"),
        (message(&[(4, Payload::Bytes(&[1])), (4, number(1))]), "in several pieces"),
        (message(&[(4, Payload::Bytes(&[1])), (4, Payload::Bytes(&[1]))]), "in several pieces"),
        (message(&[(4, Payload::Bytes(&[0x80]))]), "ends within a field"),
        (message(&[(4, Payload::Bytes(&[0x81, 0]))]), "longer than it needs"),
        (vec![0x38, 0x81, 0x00], "longer than it needs"),
        (vec![0x0a, 0x83, 0x00, b'E', b'U', b'R'], "longer than it needs"),
        (vec![0x8a, 0x00, 0x01, b'E'], "longer than it needs"),
        (vec![0x0a, 0x05, b'E'], "ends within a field"),
        (vec![0x0b, 0x0c], "has a group"),
        (vec![0x00], "no number"),
        (twice, "a key that another has"),
        (people, "a key that another has"),
        (entry(&[(1, text("a")), (1, text("b"))]), "twice"),
        (entry(&[(1, text("a")), (2, text("b")), (3, text("c"))]), "more than a key and a value"),
        (entry(&[(1, Payload::Bytes(&[0xff]))]), "no UTF-8"),
        (extra(&packed("shop.Unknown", b"")), "a type that its schema has not"),
        (extra(&message(&[(1, text("shop.Query"))])), "a type that its schema has not"),
        (extra(&message(&[(2, text("x"))])), "has no type"),
        (extra(&packed("shop.Query", &[0xff])), "ends within a field"),
        (extra(&[packed("shop.Query", b""), packed("shop.Order", b"")].concat()), "twice"),
        (deep, "nested deeper"),
        (many, "more than 512 values"),
        (message(&[(1, text(&long))]), "more than 4096 bytes"),
    ] {
        let found = read(&bytes).unwrap_err();
        assert!(found.contains(why), "{why}: {found}");
    }
}

/// What stands before a message, and how it is compressed, cannot be used to say something else.
#[test]
fn a_body_is_one_message_that_is_not_compressed() {
    use std::io::Write as _;
    let zip = |bytes: &[u8]| {
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        zip.write_all(bytes).unwrap();
        zip.finish().unwrap()
    };
    let order = message(&[(1, text("EUR"))]);
    let kind = ("content-type", "application/grpc");
    let head_of = |fields: &[(&str, &str)]| head("/shop.Orders/Place", fields);
    let (plain, zipped) = (head_of(&[kind]), head_of(&[kind, ("grpc-encoding", "gzip")]));
    let call = |head: &RequestHead| Call::of(Some(&SCHEMA), head);
    let mut compressed = Vec::new();
    frames::put(&mut compressed, 1, &zip(&order));
    // It passes without compression, and that is what was judged.
    assert_eq!(call(&zipped).unwrap().plain(compressed.clone().into()), framed(&order));
    assert_eq!(call(&zipped).unwrap().read(&framed(&order)).unwrap().values[0], "currency=EUR");
    for (head, body, why) in [
        (&plain, compressed.clone(), "compressed in a way"),
        (&plain, [framed(&order), framed(&order)].concat(), "more stands behind it"),
        (&plain, [framed(&order), vec![0]].concat(), "more stands behind it"),
        (&plain, framed(&order)[..6].to_vec(), "no message"),
        (&plain, vec![0, 0, 0], "no message"),
        (&plain, vec![2, 0, 0, 0, 0], "compressed in a way"),
        (&plain, vec![0x80, 0, 0, 0, 0], "compressed in a way"),
        (&plain, vec![0, 0xff, 0, 0, 0], "more than are looked into"),
        (&zipped, [&[1, 0, 0, 0, 3][..], b"xyz"].concat(), "broken, or too long"),
    ] {
        let call = call(head).unwrap();
        assert_eq!(call.plain(body.clone().into()), body);
        let found = call.read(&body).unwrap_err();
        assert!(found.contains(why), "{why}: {found}");
    }
    let mut bomb = Vec::new();
    frames::put(&mut bomb, 1, &zip(&vec![0; 64 << 20]));
    assert!(call(&zipped).unwrap().read(&bomb).unwrap_err().contains("broken, or too long"));
    // What could be read by other rules is not known.
    for fields in [
        &[("content-type", "application/grpc+json")][..],
        &[("content-type", "application/grpc;json")],
        &[("content-type", "application/grpc; charset=utf-8")],
        &[("content-type", "application/grpc+proto+json")],
        &[("content-type", "application/json")],
        &[kind, ("grpc-encoding", "snappy")],
        &[kind, ("grpc-encoding", "identity, gzip")],
        &[kind, ("grpc-encoding", "identity"), ("grpc-encoding", "gzip")],
        &[kind, ("content-type", "application/grpc+json")],
        &[kind, ("content-encoding", "gzip")],
        &[],
    ] {
        assert!(call(&head_of(fields)).is_none(), "{fields:?}");
    }
    for path in
        ["/shop.Orders/Place?x=1", "/shop.Orders/Pl%61ce", "/shop.Orders/place", "/shop.Orders/Pay", "/Orders/Place"]
    {
        assert!(call(&head(path, &[kind])).is_none(), "{path}");
    }
    let get = RequestHead { method: "GET".into(), ..plain.clone() };
    assert!(call(&get).is_none() && Call::of(None, &plain).is_none());
    for kind in ["application/grpc+proto", "application/grpc-web", "application/grpc-web+proto"] {
        assert!(call(&head_of(&[("content-type", kind)])).unwrap().read(&framed(&order)).is_ok(), "{kind}");
    }
}

#[test]
fn the_form_in_base64_is_one_run_of_it() {
    let order = message(&[(1, text("EUR"))]);
    let head = head("/shop.Orders/Place", &[("content-type", "application/grpc-web-text+proto")]);
    let call = Call::of(Some(&SCHEMA), &head).unwrap();
    let mut body = Vec::new();
    frames::armour(&framed(&order), &mut body);
    assert_eq!(call.read(&body).unwrap().values[0], "currency=EUR");
    assert_eq!(call.plain(body.clone().into()), body);
    let mut two = Vec::new();
    framed(&order).chunks(4).for_each(|part| frames::armour(part, &mut two));
    for body in [two, [&body[..], b"\n"].concat(), body[..body.len() - 1].to_vec(), b"AAAAAAB=".to_vec()] {
        assert!(call.read(&body).is_err(), "{}", String::from_utf8_lossy(&body));
    }
    let stream = RequestHead { target: "/shop.Orders/Upload".to_owned(), ..head };
    assert!(Call::of(Some(&SCHEMA), &stream).is_none());
}

#[test]
fn base64_of_answers_may_pause_anywhere() {
    let bytes: Vec<u8> = (0..200).collect();
    for size in [1, 2, 3, 7, 200] {
        let mut signs = Vec::new();
        bytes.chunks(size).for_each(|part| frames::armour(part, &mut signs));
        for cut in [1, 3, 5, 1000] {
            let (mut reader, mut out) = (frames::Unarmoured::default(), Vec::new());
            signs.chunks(cut).for_each(|part| reader.push(part, &mut out).unwrap());
            assert!(reader.is_whole());
            assert_eq!(out, bytes);
        }
    }
    for bad in ["AA=A", "A===", "====", "AA\nA"] {
        assert_eq!(frames::Unarmoured::default().push(bad.as_bytes(), &mut Vec::new()), Err(Unframed::Base64), "{bad}");
    }
}

#[test]
fn sets_that_cannot_be_used_say_what_to_do() {
    let broken = Schema::parse(b"\xff\xff").unwrap_err();
    assert!(broken.contains("protoc --descriptor_set_out"), "{broken}");
    assert!(Schema::parse(b"").unwrap_err().contains("no file descriptor"));
    // A file without those that it imports, and one of an edition.
    let mut set = prost_reflect::prost_types::FileDescriptorSet::decode(SET).unwrap();
    set.file.retain(|file| file.name() == "shop.proto");
    assert!(Schema::parse(&set.encode_to_vec()).unwrap_err().contains("--include_imports"));
    set.file[0].syntax = Some("editions".to_owned());
    assert!(Schema::parse(&set.encode_to_vec()).unwrap_err().contains("edition"));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shop.protoset");
    std::fs::write(&path, SET).unwrap();
    let config = |path: &std::path::Path| Config { descriptors: vec![path.to_owned()] };
    assert!(Schema::load(&config(&path)).unwrap().unwrap().method("/shop.Orders/Place").is_some());
    assert!(Schema::load(&Config::default()).unwrap().is_none());
    let missing = Schema::load(&config(&directory.path().join("no"))).unwrap_err().concat();
    assert!(missing.contains("/no: "), "{missing}");
    assert!(Schema::load(&config(directory.path())).unwrap_err().concat().contains("not a regular file"));
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&path, open).unwrap();
    assert!(Schema::load(&config(&path)).unwrap_err().concat().contains("chmod go-w"));
    let many = Config { descriptors: vec![path; schema::FILES_LIMIT + 1] };
    assert!(Schema::load(&many).unwrap_err().concat().contains("at most 64"));
}

fn tree(json: &[&str], detect: &[Detector], transform: Transform) -> TreeMasker {
    let json = json.iter().map(ToString::to_string).collect();
    let entry =
        MaskConfig { tag: "x".into(), columns: Vec::new(), json, detect: detect.to_vec(), base64: false, transform };
    let rules = Rules::compile(&[entry], None).unwrap();
    let masker = Masker::new(Arc::new(rules), &Obligations { masked: Arc::new([Arc::from("x")].into()) });
    let paths = masker.json_paths("api", None);
    TreeMasker::new(masker, paths)
}

fn spoken(method: &str) -> Spoken {
    Spoken { schema: Arc::clone(&SCHEMA), output: SCHEMA.method(method).unwrap().output }
}

fn masked(json: &[&str], transform: Transform, bytes: &[u8]) -> Vec<u8> {
    masks::masked(&spoken("/shop.Orders/Place"), &mut tree(json, &[], transform), bytes).unwrap()
}

/// As JSON, by the library.
fn shown(bytes: &[u8]) -> String {
    let pool = DescriptorPool::decode(SET).unwrap();
    let kind = pool.get_message_by_name("shop.Placed").unwrap();
    DynamicMessage::decode(kind, bytes).unwrap().to_string()
}

fn placed(order: &[u8]) -> Vec<u8> {
    message(&[(1, text("o-7")), (2, Payload::Bytes(order)), (3, text("thanks"))])
}

#[test]
fn answers_are_masked_by_path() {
    let customer = message(&[
        (1, text("Ada")),
        (2, text(CARD)),
        (3, Payload::Bytes(&[0, 255])),
        (4, number(4917)),
        // It is given twice, and an older reader may take either.
        (2, text(CARD)),
    ]);
    let person = message(&[(1, number(3)), (2, Payload::Bytes(&customer))]);
    let label = message(&[(2, text("secret")), (1, text("env"))]);
    let order = message(&[
        (2, Payload::Bytes(&customer)),
        (4, Payload::Bytes(&[1, 2, 3])),
        (4, number(4)),
        (5, Payload::Bytes(&label)),
        (6, number(2)),
        (7, number(1)),
        (11, Payload::Bytes(&packed("shop.Customer", &customer))),
        (13, Payload::Fixed64([9; 8])),
        (14, Payload::Bytes(&person)),
        (15, text("one")),
        (15, text("two")),
        (99, text("new")),
    ]);
    let answer = placed(&order);
    let whole = shown(&answer);
    assert_eq!(whole.matches("4111").count(), 3, "{whole}");

    // By the name of the schema, or by that in JSON, wherever it stands.
    for path in ["$..card_number", "$..cardNumber", "$..CARD_NUMBER"] {
        let told = shown(&masked(&[path], Transform::KeepLast(4), &answer));
        assert_eq!((told.matches("***************1111").count(), told.contains("4111")), (3, false), "{told}");
        assert!(told.contains("Ada") && told.contains("thanks"), "{told}");
    }
    let told = shown(&masked(&["$.order.customer"], Transform::Redact, &answer));
    assert!(told.contains("name:\"[masked:x]\"") && told.contains("photo:\"[masked:x]\""), "{told}");
    // What is the default of its kind, the library does not show.
    assert!(told.matches("phone:4917").count() == 2 && told.contains("secret"), "{told}");
    let told =
        shown(&masked(&["$.order.codes[1]", "$.order.codes[3]", "$.order.notes[0]"], Transform::Redact, &answer));
    assert!(told.contains("codes:[1,0,3,0]") && told.contains("[\"[masked:x]\",\"two\"]"), "{told}");
    let told = shown(&masked(&["$.order.labels.env", "$.order.people[*].name"], Transform::Redact, &answer));
    assert!(!told.contains("secret") && told.contains("key:\"env\",value:\"[masked:x]\""), "{told}");
    let told = shown(&masked(&["$.order.people['3'].name"], Transform::Null, &answer));
    assert_eq!(told.matches("name:\"Ada\"").count(), 2, "{told}");
    let told = shown(&masked(&["$.order.extra.value.name"], Transform::Redact, &answer));
    assert!(told.contains("shop.Customer") && told.contains("[masked:x]"), "{told}");
    let told = shown(&masked(&["$.order.state", "$.order.urgent", "$.order.stamp"], Transform::Redact, &answer));
    assert!(!["SHIPPED", "urgent", "stamp"].iter().any(|gone| told.contains(gone)), "{told}");

    // What the schema does not know goes where something is masked, and stays where nothing is.
    assert!(!masked(&["$.order.state"], Transform::Redact, &answer).windows(3).any(|part| part == b"new"));
    assert!(masked(&["$.told"], Transform::Redact, &answer).windows(3).any(|part| part == b"new"));
    let mut counting = tree(&["$..name"], &[], Transform::Redact);
    masks::masked(&spoken("/shop.Orders/Place"), &mut counting, &answer).unwrap();
    assert_eq!(counting.take_counts(), (vec![("$..name".to_owned(), 3)], 1));
}

#[test]
fn answers_are_masked_by_detectors() {
    let customer = message(&[
        (1, text("pays with 4111 1111 1111 1111 today")),
        (3, Payload::Bytes(CARD.as_bytes())),
        (4, number(4_111_111_111_111_111)),
    ]);
    let label = message(&[(1, text(CARD)), (2, text("x"))]);
    let unknown = packed("shop.Later", CARD.as_bytes());
    let order = message(&[
        (2, Payload::Bytes(&customer)),
        (5, Payload::Bytes(&label)),
        (11, Payload::Bytes(&unknown)),
        (13, Payload::Fixed64(4_111_111_111_111_111u64.to_le_bytes())),
        (15, text("nothing")),
    ]);
    let mut tree = tree(&[], &[Detector::Card], Transform::Redact);
    let out = masks::masked(&spoken("/shop.Orders/Place"), &mut tree, &placed(&order)).unwrap();
    let text = String::from_utf8_lossy(&out).into_owned();
    assert!(!text.contains("4111") && text.contains("pays with [masked:x] today"), "{text}");
    let pool = DescriptorPool::decode(SET).unwrap();
    let told = DynamicMessage::decode(pool.get_message_by_name("shop.Placed").unwrap(), &out[..]).unwrap().to_string();
    assert!(!told.contains("phone") && !told.contains("stamp") && told.contains("nothing"), "{told}");
    assert_eq!(tree.take_counts().1, 6);
}

#[test]
fn what_cannot_be_masked_does_not_pass() {
    let masked = |bytes: &[u8]| {
        let mut tree = tree(&["$..name"], &[], Transform::Redact);
        masks::masked(&spoken("/shop.Orders/Place"), &mut tree, bytes).unwrap_err()
    };
    let deep = (0..150).fold(Vec::new(), |inner, _| message(&[(12, Payload::Bytes(&inner))]));
    assert_eq!(masked(&placed(&deep)), Unread::Depth);
    assert_eq!(masked(&[0x0b]), Unread::Broken(wire::Broken::Group));
    assert_eq!(masked(&[0x0a, 9]), Unread::Broken(wire::Broken::Ends));
    assert_eq!(masked(&message(&[(1, Payload::Bytes(&[0xff]))])), Unread::Charset);
    // What is written as another kind, readers do not know: it goes.
    let mut tree = tree(&["$..name"], &[], Transform::Redact);
    let out = masks::masked(&spoken("/shop.Orders/Place"), &mut tree, &message(&[(1, number(7))])).unwrap();
    assert_eq!((out, tree.take_counts().1), (Vec::new(), 1));
}

fn answer(form: Form, gzip: bool, bytes: &[u8], size: usize) -> Result<Vec<u8>, Unread> {
    let mut answer = Answer::new(spoken("/shop.Orders/Place"), tree(&["$.told"], &[], Transform::Redact), form, gzip);
    let mut out = Vec::new();
    for part in bytes.chunks(size) {
        answer.push(part, &mut out)?;
        while answer.is_pending() {
            answer.push(b"", &mut out)?;
        }
    }
    answer.finish().map(|()| out)
}

#[test]
fn messages_of_answers_pass_one_by_one_however_they_come() {
    use std::io::Write as _;
    let hidden = framed(&message(&[(1, text("o-7")), (3, text("[masked:x]"))]));
    let told = message(&[(1, text("o-7")), (3, text("secret"))]);
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    zip.write_all(&told).unwrap();
    let mut zipped = Vec::new();
    frames::put(&mut zipped, 1, &zip.finish().unwrap());
    let mut trailers = Vec::new();
    frames::put(&mut trailers, 0x80, b"grpc-message: secret\r\nGrpc-Status: 0\r\ngrpc-status-details-bin: secret\r\n");
    let mut status = Vec::new();
    frames::put(&mut status, 0x80, b"Grpc-Status: 0\r\n");
    let three = [framed(&told), framed(b""), framed(&told)].concat();
    for size in [1, 7, 10_000] {
        let expected = [&hidden[..], &framed(b""), &hidden].concat();
        assert_eq!(answer(Form::Native, false, &three, size).unwrap(), expected);
        assert_eq!(answer(Form::Native, true, &zipped, size).unwrap(), hidden);
        let web = [&framed(&told)[..], &trailers].concat();
        let expected = [&hidden[..], &status].concat();
        assert_eq!(answer(Form::Web, false, &web, size).unwrap(), expected);
        let mut signs = Vec::new();
        web.chunks(10).for_each(|part| frames::armour(part, &mut signs));
        assert_eq!(answer(Form::WebText, false, &signs, size).unwrap(), expected);
        for (form, bytes, why) in [
            (Form::Native, &zipped, Unread::Flags),
            (Form::Native, &trailers, Unread::Flags),
            (Form::Native, &vec![7, 0, 0, 0, 0], Unread::Flags),
            (Form::Web, &[&trailers[..], &framed(b"")].concat(), Unread::Flags),
            (Form::Native, &framed(&told)[..8].to_vec(), Unframed::Ends.into()),
            (Form::Native, &vec![0, 0, 1, 0, 0], Unframed::Ends.into()),
            (Form::Native, &vec![0, 0x7f, 0, 0, 0], Unframed::Long(0x7f00_0000).into()),
            (Form::WebText, &b"!!!!".to_vec(), Unframed::Base64.into()),
        ] {
            assert_eq!(answer(form, false, bytes, size), Err(why), "{form:?} {bytes:?}");
        }
    }
}

/// What a request with this first line, these fields and this body is.
fn command(line: &str, fields: &[(&str, &str)], body: &[u8], schema: Option<&Arc<Schema>>) -> Command {
    let (method, target) = line.split_once(' ').unwrap();
    let head = RequestHead { method: method.into(), ..head(target, fields) };
    let (location, body) = (Location::read(&head.target).unwrap(), Body::Whole(Bytes::copy_from_slice(body)));
    let (target, routes): (Arc<str>, _) = ("shop".into(), Routes::default());
    let called = Called::of(schema, &head, &location);
    action::command(&Asked { target: &target, routes: &routes, head: &head, location: &location, body: &body, called })
}

fn is_opaque(command: &Command) -> bool {
    command.actions.iter().any(|action| action.name == ActionName::HTTP_OPAQUE)
}

#[test]
fn a_call_in_disguise_is_opaque_and_known_as_a_call() {
    let usd = framed(&message(&[(1, text("USD")), (4, text("&currency=EUR&"))]));
    let call = ("content-type", "application/grpc");
    let known = command("POST /shop.Orders/Place", &[call], &framed(&message(&[(1, text("EUR"))])), Some(&SCHEMA));
    assert!(!is_opaque(&known) && known.facts.http.as_ref().unwrap().grpc.is_some());
    for line in [
        "POST /shop.Orders/Place",
        "POST /shop.Orders/Place?x=1",
        "POST /shop.Orders/%50lace",
        "GET /shop.Orders/Place",
    ] {
        for kind in [
            "application/x-www-form-urlencoded",
            "application/json",
            "application/proto",
            "application/connect+json",
            "application/GRPC",
            "",
        ] {
            for body in [&b""[..], b"{}", &usd, &framed(b"")] {
                let command = command(line, &[("content-type", kind)], body, Some(&SCHEMA));
                let grpc = command.facts.http.as_ref().unwrap().grpc.as_ref();
                assert!(is_opaque(&command), "{line} {kind} {body:?}");
                assert_eq!(grpc.map(|grpc| (&*grpc.service, &*grpc.method)), Some(("shop.Orders", "Place")), "{line}");
            }
        }
    }
    let empty = command("POST /shop.Orders/Place", &[call], b"", Some(&SCHEMA));
    assert!(is_opaque(&empty), "it takes one message");
    // Without a schema, bytes of a message are never a form.
    for body in [&usd[..], &framed(b"")] {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        assert!(is_opaque(&command("POST /shop.Orders/Place", &form, body, None)));
    }
}

#[test]
fn what_people_are_shown_of_a_message_is_a_line_a_value() {
    let long = "x".repeat(1000);
    let sent = message(&[(1, text("EUR\ncurrency=USD\u{202e}")), (8, text(&long))]);
    let command =
        command("POST /shop.Orders/Place", &[("content-type", "application/grpc")], &framed(&sent), Some(&SCHEMA));
    let shown = String::from_utf8(command.parameters[1].value.clone().unwrap().to_vec()).unwrap();
    assert!(shown.contains("currency=EUR\\ncurrency=USD\\u{202e}\n"), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() < 330), "{shown}");
    assert!(!shown.contains(&long) && shown.contains("more characters, which are not shown"), "{shown}");
}

#[test]
fn only_one_piece_of_gzip_is_undone() {
    let zipped = |text: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut out, text).unwrap();
        out.finish().unwrap()
    };
    assert_eq!(frames::unzipped(&zipped(b"one"), 3), Ok(b"one".to_vec()));
    let (two, cut) = ([zipped(b"one"), zipped(b"two")].concat(), &zipped(b"one")[..15]);
    for broken in [&two[..], cut, b"", &[zipped(b""), b"x".to_vec()].concat()] {
        assert_eq!(frames::unzipped(broken, 100), Err(Unframed::Coding), "{broken:?}");
    }
    assert_eq!(frames::unzipped(&zipped(b"long"), 3), Err(Unframed::Coding));
}

#[test]
fn trailers_that_stand_in_a_body_pass_without_cookies_and_without_the_credential() {
    let spellings = Spellings::of(b"the-secret").unwrap();
    let fields = Fields(vec![Field::new("content-type", "application/grpc-web+proto".to_owned())]);
    let head = ResponseHead { status: 200, reason: "".into(), fields, length: Length::Chunked };
    let mut body = framed(b"message");
    let told = b"grpc-status: 0\r\nSet-Cookie: session=1\r\nx-echo: the-secret\r\nset-cookie: other=2\r\n";
    frames::put(&mut body, frames::TRAILERS, told);
    let mut expected = framed(b"message");
    frames::put(&mut expected, frames::TRAILERS, b"grpc-status: 0\r\nx-echo: **********\r\n");
    for size in 1..body.len() {
        let (mut passing, mut scrub, mut out) = (Passing::of(&head).unwrap(), Scrub::new(&spellings), Vec::new());
        for piece in body.chunks(size) {
            passing.push(piece, &mut scrub, &mut out).unwrap();
            while passing.is_pending() {
                passing.push(b"", &mut scrub, &mut out).unwrap();
            }
        }
        passing.finish().unwrap();
        assert_eq!(out, expected, "{size}");
    }
}

#[test]
fn a_status_in_a_head_says_nothing_in_words_and_nothing_else_does() {
    let fields = |status: &[(&str, &str)]| {
        let field = |(name, value): &(&str, &str)| Field::new(name, (*value).to_owned());
        Fields(
            [&[("content-type", "application/grpc"), ("customer-phone", "4917")], status]
                .concat()
                .iter()
                .map(field)
                .collect(),
        )
    };
    let mut whole = fields(&[("grpc-status", "7"), ("grpc-message", "no"), ("grpc-status-details-bin", "AAAA")]);
    conceal(&mut whole);
    let names: Vec<&str> = whole.0.iter().map(|field| &*field.name).collect();
    assert_eq!(names, ["content-type", "grpc-status"]);
    let mut first = fields(&[]);
    conceal(&mut first);
    assert_eq!(first.0.len(), 2);
}

#[test]
fn frames_are_found_however_they_come() {
    let all = [framed(b"one"), framed(b""), framed(b"three")].concat();
    for size in 1..all.len() {
        let (mut frames, mut found) = (Frames::new(5), Vec::new());
        for part in all.chunks(size) {
            frames.push(part);
            while let Some(frame) = frames.take().unwrap() {
                assert_eq!(frame.whole.len(), frame.message.len() + HEAD);
                found.push(frame.message);
            }
        }
        assert_eq!(found, [&b"one"[..], b"", b"three"]);
        assert_eq!(frames.held(), 0);
    }
}

fn field() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        (0u64..4).prop_map(|value| (value, None)),
        any::<u64>().prop_map(|value| (value, None)),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| (1, Some(bytes))),
        "[a-z]{0,6}".prop_map(|text| (1, Some(text.into_bytes()))),
        (1u32..6, 0u64..3).prop_map(|(of, value)| (1, Some(message(&[(of, number(value))])))),
        (1u32..6, "[a-z]{0,3}").prop_map(|(of, value)| (1, Some(message(&[(of, text(&value))])))),
    ];
    (1u32..18, payload, 0..12u8).prop_map(|(of, (value, bytes), kind)| match (kind, bytes) {
        (0, _) => message(&[(of, Payload::Fixed64(value.to_le_bytes()))]),
        (1, _) => message(&[(of, Payload::Fixed32([1; 4]))]),
        (2, None) => vec![u8::try_from(of.min(15) << 3).unwrap(), 0x80, 0x00],
        (_, Some(bytes)) => message(&[(of, Payload::Bytes(&bytes))]),
        (_, None) => message(&[(of, number(value))]),
    })
}

proptest! {
    /// Another reader finds the same in whatever is understood, and writes it so that it is understood as the same.
    #[test]
    fn what_is_understood_is_what_others_read(fields in prop::collection::vec(field(), 0..5)) {
        let bytes = fields.concat();
        let Ok(values) = read(&bytes) else { return Ok(()) };
        let pool = DescriptorPool::decode(SET).unwrap();
        let kind = pool.get_message_by_name("shop.Order").unwrap();
        let other = DynamicMessage::decode(kind, &bytes[..]).unwrap();
        prop_assert_eq!(other.unknown_fields().count(), 0);
        let mut again = read(&other.encode_to_vec()).unwrap();
        let mut values = values;
        values.sort();
        again.sort();
        prop_assert_eq!(values, again);
    }

    /// Nothing is left of what is masked, whatever a target says, and what is left is a message.
    #[test]
    fn what_is_masked_is_gone(fields in prop::collection::vec(field(), 0..6)) {
        let order = [fields.concat(), message(&[(1, text("visible"))])].concat();
        let mut everything = tree(&["$.order.*"], &[], Transform::Redact);
        let Ok(out) = masks::masked(&spoken("/shop.Orders/Place"), &mut everything, &placed(&order)) else { return Ok(()) };
        let pool = DescriptorPool::decode(SET).unwrap();
        let kind = pool.get_message_by_name("shop.Placed").unwrap();
        let told = DynamicMessage::decode(kind, &out[..]).unwrap().to_string();
        prop_assert!(told.contains("thanks") && !told.contains("visible"), "{}", told);
        let sees = told.split('"').skip(1).step_by(2).filter(|text| !text.is_empty());
        for text in sees {
            prop_assert!(matches!(text, "o-7" | "thanks" | "[masked:x]") || text.len() < 8, "{}", told);
        }
    }
}

#[test]
fn what_is_hidden_is_blotted_out_where_it_stands() {
    use crate::protocol::http::redact::json::Hides;
    let hides =
        |name: &str| if matches!(name, "cardNumber" | "phone" | "token") { Hides::Value } else { Hides::Nothing };
    let secrets = |card: &str, label: &str, phone: u64| {
        let customer = message(&[(1, text("4111")), (2, text(card)), (4, number(phone))]);
        let label = message(&[(1, text("token")), (2, text(label))]);
        let plain = message(&[(1, text("4111")), (2, text("4111"))]);
        // Twice, as lenient readers take it.
        let customer = [message(&[(2, text(card))]), customer].concat();
        let extra = packed("shop.Customer", &message(&[(2, text(card)), (4, number(phone))]));
        let order = [(2, &customer), (5, &label), (5, &plain), (11, &extra)]
            .map(|(number, held)| (number, Payload::Bytes(held)));
        message(&[&order[..], &[(99, text("4111")), (1, text("EUR"))]].concat())
    };
    for (card, label, phone, shown) in [
        ("4111", "s3c", 300, ("****", "***", 128)),
        ("", "true", 7, ("", "true", 1)),
        ("4", "x", u64::MAX, ("*", "*", u64::MAX)),
    ] {
        let native = head("/shop.Orders/Place", &[("content-type", "application/grpc")]);
        let call = Call::of(Some(&SCHEMA), &native).unwrap();
        let (mut body, expected) = (framed(&secrets(card, label, phone)), framed(&secrets(shown.0, shown.1, shown.2)));
        call.blot(&mut body, &hides);
        assert_eq!(body, expected, "{card}");
        // A message that breaks off, and one behind it that is compressed.
        let cut = [&expected[..], b"\x01\0\0\0\x034111"].concat();
        let mut again = [&framed(&secrets(card, label, phone))[..], b"\x01\0\0\0\x034111"].concat();
        call.blot(&mut again, &hides);
        assert_eq!(again, cut);
        let web = head("/shop.Orders/Place", &[("content-type", "application/grpc-web-text")]);
        let call = Call::of(Some(&SCHEMA), &web).unwrap();
        let armoured = |body: &[u8]| {
            let mut out = Vec::new();
            frames::armour(body, &mut out);
            out
        };
        let mut body = armoured(&framed(&secrets(card, label, phone)));
        call.blot(&mut body, &hides);
        assert_eq!(body, armoured(&expected));
    }
    let broken = [message(&[(1, text("EUR"))]), b"\x12\x7f\x0a\x04card".to_vec()].concat();
    let mut out = framed(&broken);
    blotted(&SCHEMA, "/shop.Orders/Place", &mut out[HEAD..], &hides);
    assert!(
        out.len() == HEAD + broken.len() && out.ends_with(&[b'*'; 8]) && out.windows(3).any(|three| three == b"EUR")
    );
}
