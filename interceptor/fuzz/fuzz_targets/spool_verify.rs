//! A spool that lost or changed a frame is not whole, and reading it never panics.
#![no_main]

use std::fs;
use std::sync::{Arc, LazyLock};

use interceptor::clock::SystemClock;
use interceptor::record::format::{Entry, Header, Kind};
use interceptor::record::reader::Reader;
use interceptor::record::verify::{Options, Report, Verifier};
use interceptor::record::{Config, Event, PublicKey, Recorder, rotation};
use interceptor::telemetry::SessionId;

struct Spool {
    key: PublicKey,
    newest: Vec<u8>,
    segments: Vec<Vec<u8>>,
    folder: tempfile::TempDir,
}

/// In clear, sealed to somebody else, and that with another signing key behind the first.
static SPOOLS: LazyLock<[Spool; 3]> = LazyLock::new(|| [spool(false, false), spool(true, false), spool(true, true)]);

/// Nobody has the identity.
const SOMEBODY: &str = "age1cwv6ayg5vkafp7dg9qwv8q58l9pz8lr3hdmxy3g0wuxlkdv4f9pq5da5qq";

/// A spool of a few small segments, closed in good order.
fn spool(sealed: bool, rotated: bool) -> Spool {
    let folder = tempfile::tempdir().expect("a folder");
    let (spool, key) = (folder.path().join("spool"), folder.path().join("key"));
    let recipients = if sealed { vec![SOMEBODY.to_owned()] } else { Vec::new() };
    let config =
        Config { spool: spool.clone(), key, free_space_floor: 0, segment_bytes: 4096, recipients, ..Config::default() };
    let recorder = Recorder::open(&config, Arc::new(SystemClock::new())).expect("a recorder");
    let first = PublicKey::load(&config.public_key()).expect("a key");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for number in 0..40_u8 {
            let text = format!("{number} {}", "x".repeat(usize::from(number) * 9));
            let session = SessionId::from_bytes([number % 3 + 1; 16]);
            recorder.append(session, Event::Note { text }).await.expect("a frame");
        }
        recorder.close().await.expect("a close");
        if rotated {
            rotation::rotate(&config, Arc::new(SystemClock::new()), None).expect("another key");
        }
    });
    let read = |number: usize| fs::read(spool.join(format!("{number:010}.spool"))).ok();
    Spool {
        key: first,
        newest: fs::read(spool.join("checkpoint")).expect("a checkpoint"),
        segments: (0..).map_while(read).collect(),
        folder,
    }
}

fn verify(spool: &Spool, segments: &[Vec<u8>]) -> Report {
    let mut verifier = Verifier::new(&spool.key, Some(&spool.newest), &Options::default());
    for (number, segment) in segments.iter().enumerate() {
        let last = number + 1 == segments.len();
        if !verifier.segment(number as u64, last, &segment[..]).expect("memory is read") {
            break;
        }
    }
    verifier.finish()
}

/// Every frame that can be read, as it is stored.
fn frames(segments: &[Vec<u8>]) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    for segment in segments {
        let Ok(Some((_, _, mut at))) = Header::decode(segment) else { continue };
        while let Ok(Some((entry, _, length))) = Entry::decode(&segment[at..]) {
            if entry.kind == Kind::Frame {
                found.push((entry.sequence, segment[at..at + length].to_vec()));
            }
            at += length;
        }
    }
    found
}

/// One change: what, where, and with what.
fn change(segments: &mut Vec<Vec<u8>>, [what, which, high, low, with]: [u8; 5]) {
    let which = usize::from(which) % segments.len();
    let place = usize::from(u16::from_be_bytes([high, low])) % segments[which].len().max(1);
    let length = usize::from(with) + 1;
    let segment = &mut segments[which];
    match what % 7 {
        0 => segment[place] ^= with,
        1 => segment.truncate(place),
        2 => drop(segment.drain(place..(place + length).min(segment.len()))),
        3 => {
            let copy = segment[place..(place + length).min(segment.len())].to_vec();
            drop(segment.splice(place..place, copy));
        }
        4 => {
            let other = usize::from(with) % segments.len();
            segments.swap(which, other);
        }
        5 => drop(segments.remove(which)),
        _ => segment.extend_from_slice(&[with; 3]),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let spool = &SPOOLS[usize::from(*which) % SPOOLS.len()];
    let mut segments = spool.segments.clone();
    for step in data.as_chunks::<5>().0.iter().take(4) {
        if segments.is_empty() || segments.iter().any(Vec::is_empty) {
            break;
        }
        change(&mut segments, *step);
    }
    let report = verify(spool, &segments);
    assert!(report.is_whole() || segments != spool.segments, "{report:?}");
    if report.is_whole() {
        assert_eq!(frames(&segments), frames(&spool.segments), "{report:?}");
    }
    // The reader shows what it can, and says what it cannot.
    let altered = spool.folder.path().join("altered");
    drop(fs::remove_dir_all(&altered));
    fs::create_dir(&altered).expect("a folder");
    for (number, segment) in segments.iter().enumerate() {
        fs::write(altered.join(format!("{number:010}.spool")), segment).expect("a segment");
    }
    if let Ok(reader) = Reader::open(&altered) {
        assert!(reader.frames(None).count() <= 200);
        let (_sessions, _errors) = reader.sessions();
    }
});
