//! Names of prepared statements and portals, with the changes that the target has not confirmed yet.
//!
//! A change that was forwarded counts for what follows in the same pipeline: were it to fail, the target would discard
//! what follows. After a Sync that is not so; then whoever asks has to wait for the target's word.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

/// Names and what they stand for.
#[derive(Debug)]
pub(super) struct Named<T> {
    confirmed: HashMap<Bytes, T>,
    forwarded: VecDeque<Change<T>>,
    next: u64,
    weigh: fn(&T) -> usize,
    weight: usize,
}

#[derive(Debug)]
struct Change<T> {
    ticket: Ticket,
    segment: u64,
    name: Bytes,
    value: Option<T>,
}

/// A change that was forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// Answer to a look-up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// That is what it stands for.
    Is(T),
    /// Nothing has this name.
    Nothing,
    /// It depends on what the target says to an earlier pipeline.
    Unsettled,
}

impl<T: Clone> Named<T> {
    /// No names. `weigh` says how many bytes a value holds.
    pub(super) fn new(weigh: fn(&T) -> usize) -> Self {
        Self { confirmed: HashMap::new(), forwarded: VecDeque::new(), next: 0, weigh, weight: 0 }
    }

    /// Bytes that all values hold.
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    fn put(&mut self, name: Bytes, value: Option<T>) {
        let old = match value {
            Some(value) => {
                self.weight += (self.weigh)(&value);
                self.confirmed.insert(name, value)
            }
            None => self.confirmed.remove(&name),
        };
        self.weight -= old.as_ref().map_or(0, self.weigh);
    }
    /// What `name` stands for in pipeline `segment`.
    pub(super) fn find(&self, name: &[u8], segment: u64) -> Found<T> {
        let found = match self.forwarded.iter().rev().find(|change| change.name == name) {
            Some(change) if change.segment != segment => return Found::Unsettled,
            Some(change) => change.value.as_ref(),
            None => self.confirmed.get(name),
        };
        found.map_or(Found::Nothing, |value| Found::Is(value.clone()))
    }

    /// A change goes to the target.
    pub(super) fn forward(&mut self, name: &[u8], value: Option<T>, segment: u64) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.weight += value.as_ref().map_or(0, self.weigh);
        self.forwarded.push_back(Change { ticket, segment, name: Bytes::copy_from_slice(name), value });
        ticket
    }

    /// The target did it.
    pub(super) fn confirm(&mut self, ticket: Ticket) {
        if let Some(change) = self.take(ticket) {
            self.put(change.name, change.value);
        }
    }

    /// The target did not do it.
    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.take(ticket);
    }

    fn take(&mut self, ticket: Ticket) -> Option<Change<T>> {
        let index = self.forwarded.iter().position(|change| change.ticket == ticket)?;
        let change = self.forwarded.remove(index)?;
        self.weight -= change.value.as_ref().map_or(0, self.weigh);
        Some(change)
    }

    /// Says what a name stands for from now on.
    pub(super) fn set(&mut self, name: &[u8], value: Option<T>) {
        self.put(Bytes::copy_from_slice(name), value);
    }

    /// Changes something about a confirmed name, or one that was forwarded last; not how many bytes it holds.
    pub(super) fn update(&mut self, name: &[u8], change: impl FnOnce(&mut T)) {
        let forwarded = self.forwarded.iter_mut().rev().find(|change| change.name == name);
        let value = match forwarded {
            Some(change) => change.value.as_mut(),
            None => self.confirmed.get_mut(name),
        };
        if let Some(value) = value {
            change(value);
        }
    }

    /// Forgets confirmed names unless `keep` says otherwise.
    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        let (weigh, weight) = (self.weigh, &mut self.weight);
        self.confirmed.retain(|_, value| {
            let kept = keep(value);
            if !kept {
                *weight -= weigh(value);
            }
            kept
        });
    }

    /// How many names there are, at most.
    pub(super) fn len(&self) -> usize {
        self.confirmed.len() + self.forwarded.len()
    }

    /// What a confirmed or last forwarded name stands for, whatever the pipeline.
    pub(super) fn latest(&self, name: &[u8]) -> Option<&T> {
        match self.forwarded.iter().rev().find(|change| change.name == name) {
            Some(change) => change.value.as_ref(),
            None => self.confirmed.get(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_in_its_own_pipeline_only() {
        let mut named = Named::new(|value: &usize| *value);
        named.set(b"a", Some(1));
        let ticket = named.forward(b"a", Some(2), 7);
        assert_eq!(named.find(b"a", 7), Found::Is(2));
        assert_eq!(named.find(b"a", 8), Found::Unsettled);
        named.forget(ticket);
        assert_eq!(named.find(b"a", 8), Found::Is(1));
        assert_eq!(named.weight(), 1);
    }

    #[test]
    fn a_failed_change_does_not_undo_a_later_one() {
        let mut named = Named::new(|value: &usize| *value);
        let first = named.forward(b"", Some(1), 1);
        let second = named.forward(b"", Some(2), 2);
        named.forget(first);
        named.confirm(second);
        assert_eq!(named.find(b"", 3), Found::Is(2));
        let closed = named.forward(b"", None, 3);
        named.confirm(closed);
        assert_eq!(named.find(b"", 3), Found::Nothing);
        assert_eq!(named.weight(), 0);
    }
}
