//! Oracles of the fuzz targets that see more of this protocol than its public face. Never in a release build.

#![expect(clippy::expect_used, reason = "a fuzz target reports by panicking")]

use std::sync::Arc;

use bytes::BytesMut;

use super::analysis::{Analysis, Scope, StatementInfo, analyze};
use super::codec::{Startup, startup as packet, write};
use super::shape::shape;
use super::startup::{Opening, sniff};
use crate::protocol::Sniff;

/// The conversation's machine, between scripted peers.
pub fn machine(data: &[u8]) {
    super::machine::model::fuzz(data);
}

/// The analysis of a text. Where it is said to hold for every text of its shape, it does for others.
pub fn analysis(text: &str, scope: &Scope<'_>) -> Analysis {
    let analysis = analyze(text, scope);
    let Some(shape) = shape(text).filter(|_| analysis.is_of_shape()) else { return analysis };
    for (string, number) in [("''", "0"), ("'1'", "1"), ("'public.users'", "2"), ("'ssn'", "999999999")] {
        let fill = |byte: &u8| match *byte {
            1 => string.as_bytes().to_vec(),
            2 => number.as_bytes().to_vec(),
            byte => vec![byte],
        };
        let other = String::from_utf8_lossy(&shape.iter().flat_map(fill).collect::<Vec<_>>()).into_owned();
        let found = analyze(&other, scope);
        assert_eq!(found.actions, analysis.actions, "{text:?} and {other:?} do something else");
        assert_eq!(found.facts, analysis.facts, "{text:?} and {other:?}");
        assert_eq!(found.is_of_shape(), analysis.is_of_shape(), "{text:?} and {other:?}");
        let [one, another] = [&analysis, &found].map(|analysis| {
            let told = |statement: &StatementInfo| (statement.kind, statement.output.clone(), statement.effect.clone());
            analysis.statements.iter().map(told).collect::<Vec<_>>()
        });
        assert_eq!(one, another, "{text:?} and {other:?} yield something else");
    }
    analysis
}

/// The packet that opens a connection.
pub fn startup(data: &[u8]) {
    let seen = sniff(data);
    let Ok(Some((found, length))) = packet(data) else { return };
    let mut again = BytesMut::new();
    assert!(write::startup_packet(&mut again, &found), "what was read can be written");
    assert_eq!(Some(&again[..]), data.get(..length), "a packet changes when it is written again");
    let Startup::Open { version, parameters } = found else { return };
    assert_eq!(seen == Sniff::Match, version.major == 3, "{version:?} is taken for something else");
    let Ok(opening) = Opening::read(version, parameters) else { return };
    let target: Arc<str> = "t".into();
    assert!(!opening.actions(&target).is_empty(), "an opening is judged");
    // What is forwarded is read as the same by a server, but for the user, who is another there.
    let mut pairs = opening.forwarded();
    pairs.insert(0, ("user".to_owned(), "u".to_owned()));
    let pairs = pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let mut forwarded = BytesMut::new();
    if !write::startup(&mut forwarded, version, pairs) || forwarded.len() > super::codec::STARTUP_LIMIT {
        return;
    }
    let (again, _) = packet(&forwarded).expect("what is forwarded is well-formed").expect("and whole");
    let Startup::Open { version, parameters } = again else { return };
    // `Database` and `database` are one name to us, and two to a server.
    let Ok(again) = Opening::read(version, parameters) else { return };
    assert_eq!(again.database, opening.database, "another database is opened");
    let settings = |opening: &Opening| {
        let mut actions = opening.actions(&target);
        actions.retain(|action| action.resource.kind == crate::policy::ResourceKind::Setting);
        actions
    };
    assert_eq!(settings(&again), settings(&opening), "other settings are forwarded than were judged");
}
