//! Addresses that names of targets have had in answers to agents: where an agent looks a name up itself, and gets another
//! answer than the daemon did, its connection still leads to the target.
//!
//! Bounded in number: what ends soonest gives way. An address is kept for longer than the answer says, since programs do.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;

/// Addresses kept.
const LIMIT: usize = 4096;
/// How long an address is kept at least, and at most.
const LEAST: Duration = Duration::from_secs(600);
const MOST: Duration = Duration::from_secs(86_400);

/// What was learned.
#[derive(Debug, Default)]
pub struct Learned {
    /// Names by address, each with when it ends (monotonic time).
    names: Mutex<BTreeMap<IpAddr, Vec<(String, Duration)>>>,
}

impl Learned {
    /// Keeps the addresses of a name.
    pub fn add(&self, name: &str, addresses: &[(IpAddr, Duration)], now: Duration) {
        let mut names = self.names.lock();
        for (address, lasts) in addresses {
            let until = now.saturating_add((*lasts).clamp(LEAST, MOST));
            let known = names.entry(address.to_canonical()).or_default();
            known.retain(|(other, ends)| other != name && *ends > now);
            known.push((name.to_owned(), until));
        }
        while names.len() > LIMIT {
            let ends = |known: &Vec<(String, Duration)>| known.iter().map(|(_, ends)| *ends).max().unwrap_or_default();
            let Some(first) = names.iter().min_by_key(|(_, known)| ends(known)).map(|(address, _)| *address) else {
                return;
            };
            names.remove(&first);
        }
    }

    /// Names that have this address now.
    #[must_use]
    pub fn names(&self, address: IpAddr, now: Duration) -> Vec<String> {
        let names = self.names.lock();
        let known = names.get(&address.to_canonical()).map_or(&[][..], Vec::as_slice);
        known.iter().filter(|(_, ends)| *ends > now).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_known_for_a_while() {
        let learned = Learned::default();
        let (one, second) = ("10.0.0.1".parse().unwrap(), Duration::from_secs(1));
        learned.add("a", &[(one, second)], Duration::ZERO);
        learned.add("b", &[("::ffff:10.0.0.1".parse().unwrap(), second * 900)], Duration::ZERO);
        assert_eq!(learned.names(one, second), ["a", "b"]);
        assert_eq!(learned.names(one, second * 700), ["b"]);
        assert_eq!(learned.names(one, second * 901), Vec::<String>::new());
        assert_eq!(learned.names("10.0.0.2".parse().unwrap(), second), Vec::<String>::new());
    }

    #[test]
    fn what_ends_soonest_gives_way() {
        let learned = Learned::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..u32::try_from(LIMIT).unwrap() + 10 {
            learned.add("a", &[(address(number), LEAST)], Duration::from_secs(u64::from(number)));
        }
        let now = Duration::from_secs(1);
        assert!(learned.names(address(5), now).is_empty() && !learned.names(address(2000), now).is_empty());
    }
}
