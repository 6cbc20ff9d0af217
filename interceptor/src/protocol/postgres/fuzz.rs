//! Oracles of the fuzz targets that see more of this protocol than its public face. Never in a release build.

#![expect(clippy::expect_used, reason = "a fuzz target reports by panicking")]

use std::sync::Arc;

use bytes::BytesMut;

use super::codec::{Startup, startup as packet, write};
use super::startup::{Opening, sniff};
use crate::protocol::Sniff;

/// The conversation's machine, between scripted peers.
pub fn machine(data: &[u8]) {
    super::machine::model::fuzz(data);
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
