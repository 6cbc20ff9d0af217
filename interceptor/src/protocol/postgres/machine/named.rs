//! Names of prepared statements and portals, with the changes that the target has not confirmed yet.
//!
//! A change that was forwarded counts for what follows in the same pipeline: were it to fail, the target would discard
//! what follows. After a Sync that is not so; then whoever asks has to wait for the target's word.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

/// Bytes that any name is counted for beside itself and its value.
const ENTRY: usize = 256;

/// Names and what they stand for.
#[derive(Debug)]
pub(super) struct Named<T> {
    confirmed: HashMap<Bytes, T>,
    /// In the order of their tickets.
    forwarded: VecDeque<Change<T>>,
    /// The tickets of each name in `forwarded`, so that a long pipeline is not looked through for each of its names.
    tickets: HashMap<Bytes, VecDeque<Ticket>>,
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
        let (confirmed, forwarded, tickets) = (HashMap::new(), VecDeque::new(), HashMap::new());
        Self { confirmed, forwarded, tickets, next: 0, weigh, weight: 0 }
    }

    /// Bytes that all names and values hold.
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    fn weight_of(&self, name: &Bytes, value: Option<&T>) -> usize {
        ENTRY + name.len() + value.map_or(0, self.weigh)
    }

    fn put(&mut self, name: Bytes, value: Option<T>) {
        if let Some(old) = self.confirmed.remove(&name) {
            self.weight -= self.weight_of(&name, Some(&old));
        }
        if let Some(value) = value {
            self.weight += self.weight_of(&name, Some(&value));
            self.confirmed.insert(name, value);
        }
    }

    /// The change of a name that was forwarded last.
    fn last(&self, name: &[u8]) -> Option<&Change<T>> {
        let ticket = self.tickets.get(name)?.back()?;
        self.forwarded.get(self.place(*ticket)?)
    }

    fn place(&self, ticket: Ticket) -> Option<usize> {
        self.forwarded.binary_search_by_key(&ticket, |change| change.ticket).ok()
    }

    /// What `name` stands for in pipeline `segment`.
    pub(super) fn find(&self, name: &[u8], segment: u64) -> Found<T> {
        let found = match self.last(name) {
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
        let name = Bytes::copy_from_slice(name);
        self.weight += self.weight_of(&name, value.as_ref());
        self.tickets.entry(name.clone()).or_default().push_back(ticket);
        self.forwarded.push_back(Change { ticket, segment, name, value });
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
        let change = self.forwarded.remove(self.place(ticket)?)?;
        self.weight -= self.weight_of(&change.name, change.value.as_ref());
        if let Some(tickets) = self.tickets.get_mut(&change.name) {
            // Answers come in order, so it is the first, but where one is dropped behind an error.
            if tickets.front() == Some(&ticket) {
                tickets.pop_front();
            } else {
                tickets.retain(|known| *known != ticket);
            }
            if tickets.is_empty() {
                self.tickets.remove(&change.name);
            }
        }
        Some(change)
    }

    /// Says what a name stands for from now on.
    pub(super) fn set(&mut self, name: &[u8], value: Option<T>) {
        self.put(Bytes::copy_from_slice(name), value);
    }

    /// Changes something about a confirmed name, or one that was forwarded last; not how many bytes it holds.
    pub(super) fn update(&mut self, name: &[u8], change: impl FnOnce(&mut T)) {
        let last = self.tickets.get(name).and_then(VecDeque::back);
        let place = last.and_then(|ticket| self.place(*ticket));
        let value = match place {
            Some(place) => self.forwarded.get_mut(place).and_then(|change| change.value.as_mut()),
            None => self.confirmed.get_mut(name),
        };
        if let Some(value) = value {
            change(value);
        }
    }

    /// Forgets confirmed names unless `keep` says otherwise.
    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        let (weigh, weight) = (self.weigh, &mut self.weight);
        self.confirmed.retain(|name, value| {
            let kept = keep(value);
            if !kept {
                *weight -= ENTRY + name.len() + weigh(value);
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
        match self.last(name) {
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
        assert_eq!(named.weight(), ENTRY + 1 + 1);
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

    #[test]
    fn a_long_pipeline_is_not_looked_through_for_each_name() {
        let mut named = Named::new(|value: &usize| *value);
        let names: Vec<String> = (0..200_000).map(|number| number.to_string()).collect();
        let tickets: Vec<Ticket> = names.iter().map(|name| named.forward(name.as_bytes(), Some(7), 1)).collect();
        // Looked through one by one, this takes minutes.
        assert!(names.iter().all(|name| named.find(name.as_bytes(), 1) == Found::Is(7)));
        tickets.into_iter().for_each(|ticket| named.confirm(ticket));
        assert!(named.tickets.is_empty() && named.forwarded.is_empty());
        assert_eq!(named.len(), names.len());
        named.retain(|_| false);
        assert_eq!(named.weight(), 0);
    }
}
