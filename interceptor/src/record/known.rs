//! JSON of actions that was written before.
//!
//! Commands of one analysis share their actions, and say the same of them in each frame: it is made into text once. The
//! frames are what they would be without, to the byte.

use std::sync::Arc;

use lru::LruCache;
use serde::Serialize;
use serde_json::value::RawValue;

use super::event::{Actions, Event, Parameters, RecordedVerdict};
use super::format::{self, FormatError};
use crate::policy::Action;

/// Texts that are kept, and the longest of them: a megabyte at most.
const KEPT: usize = 256;
const LONGEST: usize = 4 << 10;

/// Texts by the actions that they are of.
///
/// Found by address: an entry holds its actions, so that no others can come to lie there.
#[derive(Debug)]
pub(super) struct KnownActions(LruCache<usize, (Arc<[Action]>, Box<RawValue>)>);

impl Default for KnownActions {
    fn default() -> Self {
        Self(LruCache::unbounded())
    }
}

impl KnownActions {
    /// As [`format::encode_event`].
    pub(super) fn encode(&mut self, event: &Event, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let Event::Command { statement, parameters, actions: Actions::Live(actions), in_transaction, verdict } = event
        else {
            return format::encode_event(event, out);
        };
        let Some(actions) = self.text(actions) else { return format::encode_event(event, out) };
        let (in_transaction, verdict) = (*in_transaction, verdict.as_ref());
        format::encode_json(&Command { event: "command", statement, parameters, actions, in_transaction, verdict }, out)
    }

    /// The text of actions; `None` where it is not to be kept.
    fn text(&mut self, actions: &Arc<[Action]>) -> Option<&RawValue> {
        let address = Arc::as_ptr(actions).cast::<Action>().addr();
        // Nothing lies at the address of no actions, which others may share.
        if actions.is_empty() {
            return None;
        }
        if !self.0.contains(&address) {
            let text = serde_json::value::to_raw_value(actions).ok().filter(|text| text.get().len() <= LONGEST)?;
            self.0.put(address, (Arc::clone(actions), text));
            while self.0.len() > KEPT {
                self.0.pop_lru();
            }
        }
        self.0.get(&address).map(|(_, text)| &**text)
    }
}

/// [`Event::Command`], with its actions in JSON.
#[derive(Serialize)]
struct Command<'a> {
    event: &'static str,
    statement: &'a str,
    parameters: &'a Parameters,
    actions: &'a RawValue,
    in_transaction: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'a RecordedVerdict>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ActionName, Parameter, Resource, ResourceKind};
    use crate::record::Effect;

    fn actions(table: &str, columns: usize) -> Arc<[Action]> {
        let path = ["t", "d", "s", table].map(Arc::from).to_vec();
        let columns = (0..columns).map(|n| format!("a \"column\" {n}").into()).collect();
        let resource = Resource { kind: ResourceKind::Table, path };
        let note = Some("so\n".into());
        Arc::from([Action { name: ActionName::SQL_SELECT, resource, columns, tags: Arc::default(), note }])
    }

    fn command(actions: &Arc<[Action]>, verdict: bool) -> Event {
        let rules: Arc<[String]> = Arc::from(["a".to_owned()]);
        let parameter = Parameter { type_oid: 23, binary: false, value: Some("x\u{1}".into()) };
        Event::Command {
            statement: "SELECT \"a\"\n".into(),
            parameters: Parameters::Live(Arc::from([parameter])),
            actions: Actions::Live(Arc::clone(actions)),
            in_transaction: true,
            verdict: verdict.then_some(RecordedVerdict { effect: Effect::Permit, rules, reason: None }),
        }
    }

    /// Encodes both ways.
    fn same(known: &mut KnownActions, event: &Event) {
        let (mut with, mut without) = (vec![9], vec![9, 9]);
        known.encode(event, &mut with).unwrap();
        format::encode_event(event, &mut without).unwrap();
        assert_eq!(String::from_utf8(with), String::from_utf8(without));
    }

    #[test]
    fn frames_are_what_they_would_be_without() {
        let mut known = KnownActions::default();
        let several = [actions("one", 1), actions("two", 3), Arc::from([]), actions("long", 1000)];
        for _ in 0..2 {
            for actions in &several {
                same(&mut known, &command(actions, true));
                same(&mut known, &command(actions, false));
            }
        }
        same(&mut known, &Event::Note { text: "a note".into() });
        assert_eq!(known.0.len(), 2, "no empty and no long ones");
    }

    #[test]
    fn what_is_gone_is_taken_for_no_other() {
        let mut known = KnownActions::default();
        for number in 0..KEPT * 2 {
            // Freed after each turn, so that the allocator gives the same place again where nobody holds it.
            same(&mut known, &command(&actions(&number.to_string(), 1), true));
        }
        assert_eq!(known.0.len(), KEPT);
    }
}
