//! The start-up without I/O: what the agent's parameters mean, and what it would do with them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::codec::{Malformed, ProtocolVersion, StartupParameters, startup};
use crate::policy::{Action, ActionName, Resource, ResourceKind};
use crate::protocol::Sniff;

/// Parameters of one start-up packet, at most.
pub(super) const PARAMETERS_LIMIT: usize = 128;

/// How TLS begins: content type handshake, and the high byte of every version (RFC 8446, section 5.1).
pub(super) const TLS_HANDSHAKE: [u8; 2] = [0x16, 3];

/// What the first bytes say.
pub(super) fn sniff(first: &[u8]) -> Sniff {
    // A handshake record of TLS: `sslnegotiation=direct`, without a request before it.
    if first.starts_with(&TLS_HANDSHAKE) {
        return Sniff::Match;
    }
    if first == &TLS_HANDSHAKE[..1] {
        return Sniff::NeedMore;
    }
    let Some(head) = first.first_chunk::<8>() else {
        // Up to its eighth byte, a length of at most 10,000 is all that can be seen.
        let possible = first.iter().zip([0u8, 0]).all(|(byte, zero)| *byte == zero);
        return if possible { Sniff::NeedMore } else { Sniff::Mismatch };
    };
    let [_, _, _, _, major_high, major_low, _, _] = *head;
    match startup(head) {
        Err(Malformed::Length { .. } | Malformed::TooLong { .. }) => Sniff::Mismatch,
        _ if matches!(u16::from_be_bytes([major_high, major_low]), 3 | 1234) => Sniff::Match,
        _ => Sniff::Mismatch,
    }
}

/// What the agent wants to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// Version of the protocol that it asks for.
    pub(super) version: ProtocolVersion,
    /// Database: as asked for, or else the user's name, as the server has it.
    pub(super) database: String,
    /// All that it said, but for protocol options.
    pub(super) parameters: Vec<(String, String)>,
    /// Protocol options (`_pq_.`), of which none is understood.
    pub(super) options: Vec<String>,
}

/// Why an opening is refused: SQLSTATE and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) &'static str, pub(super) String);

impl Opening {
    /// Reads a start-up packet.
    pub(super) fn read(version: ProtocolVersion, parameters: StartupParameters<'_>) -> Result<Self, Refused> {
        let refuse = |text: &str| Err(Refused(super::error::PROTOCOL, text.to_owned()));
        if version.major != 3 {
            let text = format!("unsupported frontend protocol {}.{}", version.major, version.minor);
            return Err(Refused("0A000", text));
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        let mut options = Vec::new();
        for (name, value) in parameters {
            let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
                return refuse("a start-up parameter is not UTF-8");
            };
            if pairs.len() + options.len() == PARAMETERS_LIMIT {
                return refuse("too many start-up parameters");
            }
            if name.starts_with("_pq_.") {
                options.push(name.to_owned());
                continue;
            }
            if pairs.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                // Servers take the last one; which one a judge would take should not matter.
                return refuse("a start-up parameter is given twice");
            }
            pairs.push((name.to_owned(), value.to_owned()));
        }
        let find = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let Some(user) = find("user").filter(|user| !user.is_empty()) else {
            return Err(Refused(super::error::UNIDENTIFIED, "no user name is given in the start-up packet".to_owned()));
        };
        let database = find("database").filter(|name| !name.is_empty()).unwrap_or(user);
        Ok(Self { version, database, parameters: pairs, options })
    }

    /// Whether it asks for replication, however it spells that.
    pub(super) fn wants_replication(&self) -> bool {
        let off = ["", "false", "off", "no", "0", "f", "n", "of"];
        self.parameters.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("replication") && !off.contains(&value.to_ascii_lowercase().as_str())
        })
    }

    /// What goes to the target: the same, with the database spelled out (the user is another there), and without what
    /// only asks for no replication.
    pub(super) fn forwarded(&self) -> Vec<(String, String)> {
        let kept = self.parameters.iter().filter(|(name, _)| {
            !["user", "database"].contains(&name.as_str()) && (name != "replication" || self.wants_replication())
        });
        let database = ("database".to_owned(), self.database.clone());
        std::iter::once(database).chain(kept.cloned()).collect()
    }

    /// The newest version that both sides speak.
    pub(super) fn negotiated(&self) -> ProtocolVersion {
        if self.version >= ProtocolVersion::V3_2 { ProtocolVersion::V3_2 } else { ProtocolVersion::V3_0 }
    }

    /// Whether the agent has to be told that it does not get what it asked for.
    pub(super) fn must_negotiate(&self) -> bool {
        !self.options.is_empty() || self.negotiated() != self.version
    }

    /// What it would do: connect, and set what could change what its statements do.
    pub(super) fn actions(&self, target: &Arc<str>) -> Vec<Action> {
        let database =
            Resource { kind: ResourceKind::Database, path: vec![Arc::clone(target), self.database.as_str().into()] };
        let mut actions = vec![action(ActionName::SQL_CONNECT, database)];
        if self.wants_replication() {
            let target = Resource { kind: ResourceKind::Target, path: vec![Arc::clone(target)] };
            actions.push(action(ActionName::SQL_REPLICATE, target.clone()));
            let note = Some("what goes over a replication connection is not read".into());
            actions.push(Action { note, ..action(ActionName::SQL_OPAQUE, target) });
        }
        for (name, value) in &self.parameters {
            if name == "options" {
                for setting in settings(value) {
                    actions.push(set(target, setting.as_deref()));
                }
            } else if !HARMLESS.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                actions.push(set(target, Some(name)));
            }
        }
        actions
    }

    /// The command as it is judged, shown and recorded.
    pub(super) fn statement(&self) -> String {
        let mut text = "CONNECT".to_owned();
        for (name, value) in &self.parameters {
            text.push(' ');
            text.push_str(name);
            text.push('=');
            text.push_str(value);
        }
        text
    }
}

/// The number of the analysis of an opening that would do that, and the actions, shared.
pub(super) fn analyzed(actions: Vec<Action>) -> Analyzed {
    static KNOWN: Mutex<Openings> = Mutex::new(Openings { known: VecDeque::new(), next: u64::MAX });
    KNOWN.lock().number(actions)
}

type Analyzed = (u64, Arc<[Action]>);

/// Openings that were seen. Those that would do the same have the same number, so that they share a decision: the facts
/// of all openings are the same.
struct Openings {
    /// The one that was used last first.
    known: VecDeque<Analyzed>,
    /// Numbers come down from the top, where those of texts, which go up, never get.
    next: u64,
}

impl Openings {
    fn number(&mut self, actions: Vec<Action>) -> Analyzed {
        // Compared whole.
        let found = self.known.iter().position(|(_, same)| **same == *actions);
        let found = found.and_then(|at| self.known.remove(at)).unwrap_or_else(|| {
            self.next = self.next.wrapping_sub(1);
            (self.next, actions.into())
        });
        if found.1.len() <= KNOWN_ACTIONS {
            self.known.truncate(KNOWN_OPENINGS - 1);
            self.known.push_front(found.clone());
        }
        found
    }
}

/// Openings whose number is remembered, and the most actions of one of them.
const KNOWN_OPENINGS: usize = 64;
const KNOWN_ACTIONS: usize = 16;

/// Parameters that change nothing about what statements do.
const HARMLESS: &[&str] = &[
    "user",
    "database",
    "replication",
    "application_name",
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "IntervalStyle",
    "extra_float_digits",
    "bytea_output",
    "client_min_messages",
    "jit",
];

fn action(name: ActionName, resource: Resource) -> Action {
    Action { name, resource, columns: BTreeSet::new(), tags: Arc::default(), note: None }
}

fn set(target: &Arc<str>, name: Option<&str>) -> Action {
    match name {
        Some(name) => {
            let path = vec![Arc::clone(target), name.to_ascii_lowercase().into()];
            action(ActionName::SQL_SET, Resource { kind: ResourceKind::Setting, path })
        }
        None => {
            let resource = Resource { kind: ResourceKind::Target, path: vec![Arc::clone(target)] };
            let note = Some("a command-line option of the server in the start-up's options".into());
            Action { note, ..action(ActionName::SQL_OPAQUE, resource) }
        }
    }
}

/// Settings in a string of command-line options; `None` for an option that is no setting. Split as the server splits:
/// at white space, unless a backslash precedes it.
fn settings(options: &str) -> Vec<Option<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.extend(characters.next()),
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => word.push(other),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    let name = |setting: &str| setting.split_once('=').map(|(name, _)| name.trim().replace('-', "_"));
    let mut found = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        found.push(match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next().as_deref().and_then(name),
            Some(setting) => name(setting),
            None => None,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::codec::{Startup, write};
    use super::*;

    fn opening(pairs: &[(&str, &str)]) -> Result<Opening, Refused> {
        let mut out = BytesMut::new();
        write::startup(&mut out, ProtocolVersion::V3_0, pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        let Some((Startup::Open { version, parameters }, _)) = startup(&out).unwrap() else { panic!("no start-up") };
        Opening::read(version, parameters)
    }

    fn names(opening: &Opening) -> Vec<String> {
        let actions = opening.actions(&"t".into());
        actions.iter().map(|action| format!("{} {}", action.name, action.resource.id())).collect()
    }

    #[test]
    fn settings_at_the_start_are_judged_like_any_other() {
        let opening = opening(&[
            ("user", "a"),
            ("application_name", "x"),
            ("search_path", "evil"),
            ("options", "-c role=admin --session-replication-role=replica -c statement_timeout=1\\ s -F"),
        ]);
        let found = names(&opening.unwrap());
        assert_eq!(found[0], "sql:connect t/a");
        assert!(found.contains(&"sql:set t/search_path".to_owned()));
        assert!(found.contains(&"sql:set t/role".to_owned()));
        assert!(found.contains(&"sql:set t/session_replication_role".to_owned()));
        assert!(found.contains(&"sql:opaque t".to_owned()));
    }

    #[test]
    fn openings_that_would_do_the_same_share_a_number_and_no_others_do() {
        let read = |pairs: &[(&str, &str)]| opening(pairs).unwrap();
        let mut openings = Openings { known: VecDeque::new(), next: 0 };
        let mut number = |target: &str, opening: &Opening| openings.number(opening.actions(&target.into())).0;
        let plain = read(&[("user", "a"), ("database", "d"), ("application_name", "x")]);
        let alike = read(&[("user", "b"), ("database", "d"), ("application_name", "y")]);
        let first = number("t", &plain);
        assert_eq!(first, number("t", &alike), "what they would do is the same");
        let others = [
            number("u", &plain),
            number("t", &read(&[("user", "a"), ("database", "e")])),
            number("t", &read(&[("user", "a"), ("database", "d"), ("search_path", "x")])),
            number("t", &read(&[("user", "a"), ("database", "d"), ("replication", "database")])),
        ];
        let different: std::collections::BTreeSet<u64> = others.iter().copied().chain([first]).collect();
        assert_eq!(different.len(), 5);
        // Those with many actions, and those that came too long ago, get another.
        let many: String = (0..KNOWN_ACTIONS).map(|n| format!("-c s{n}=1 ")).collect();
        let many = read(&[("user", "a"), ("options", &many)]);
        assert_ne!(number("t", &many), number("t", &many));
        for n in 0..KNOWN_OPENINGS {
            number(&format!("target {n}"), &plain);
        }
        assert_ne!(first, number("t", &plain));
    }

    #[test]
    fn replication_is_seen_however_it_is_spelled() {
        for value in ["true", "on", "database", "1", "yes", "TRUE"] {
            assert!(opening(&[("user", "a"), ("replication", value)]).unwrap().wants_replication(), "{value}");
        }
        assert!(!opening(&[("user", "a"), ("replication", "off")]).unwrap().wants_replication());
    }

    #[test]
    fn the_database_is_spelled_out_since_the_user_changes() {
        let opening = opening(&[("user", "a"), ("client_encoding", "UTF8")]).unwrap();
        assert_eq!(opening.forwarded()[0], ("database".into(), "a".into()));
        assert!(!opening.forwarded().iter().any(|(name, _)| name == "user"));
    }

    #[test]
    fn ambiguous_packets_are_refused() {
        assert!(opening(&[("user", "a"), ("User", "b")]).is_err());
        assert!(opening(&[("database", "a")]).is_err());
        assert!(opening(&[("user", "")]).is_err());
    }

    #[test]
    fn other_protocols_are_told_apart() {
        assert_eq!(sniff(b"\0\0\0\x08\x04\xd2\x16\x2f"), Sniff::Match);
        assert_eq!(sniff(b"\0\0"), Sniff::NeedMore);
        assert_eq!(sniff(b"GET "), Sniff::Mismatch);
        assert_eq!(sniff(b"\x16\x03\x01\x02\0\x01\0\x01"), Sniff::Match);
        assert_eq!(sniff(b"\x16"), Sniff::NeedMore);
        assert_eq!(sniff(b"\x16\x02\x01\x02\0\x01\0\x01"), Sniff::Mismatch);
        assert_eq!(sniff(b"\0\0\0\x09\0\x02\0\0"), Sniff::Mismatch);
    }
}
