//! How much may be said by names that only a wildcard covers: pure arithmetic.
//!
//! Below a wildcard an agent makes names up, and whoever reads along at the resolver, or answers for the zone, reads them.
//! So what is passed on has a price, paid from what a cgroup has for an hour: a name that it has not asked for before costs
//! as many bytes as its labels have, and two; one that it has asked for before costs two, which is more than it tells: one of
//! [`KNOWN`] names and six types. So whatever the code is (long labels, many short ones, an order of known names), no more
//! bytes get out by names than are paid for. All cgroups together have as much as [`TOGETHER`] of them: who makes cgroups
//! gains little.
//!
//! Not counted: the moment at which a question is asked, and names that the operator has written out.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::budget::{Budget, CGROUPS};

/// Labels below a wildcard, and bytes of them with the dots between, that a name has at most.
const MAX_LABELS: usize = 6;
const MAX_BYTES: usize = 96;
/// Names of one cgroup that are remembered; the one that was not asked for the longest is new again.
const KNOWN: usize = 512;
/// Bytes that a question costs beside those of a new name.
const QUESTION: f64 = 2.0;
/// Hours' worth that may be spent at once.
const BURST: f64 = 2.0;
/// cgroups' worth that all of them have together.
const TOGETHER: f64 = 32.0;

/// The labels of a name that only a wildcard (`*.corp.example`) covers; nothing where it does not.
pub(super) fn below<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    let labels = name.strip_suffix(pattern.strip_prefix("*.")?)?.strip_suffix('.')?;
    (!labels.is_empty()).then_some(labels)
}

/// Whether a name could be one of a host or a service, by its labels below a wildcard.
pub(super) fn are_plain(labels: &str) -> bool {
    labels.len() <= MAX_BYTES && labels.split('.').count() <= MAX_LABELS
}

/// What each cgroup has said.
#[derive(Debug)]
pub(super) struct Labels {
    an_hour: f64,
    /// Names are kept as hashes that nobody outside can foresee.
    hasher: RandomState,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    all: Option<Budget>,
    cgroups: HashMap<u64, Part>,
}

/// What one cgroup has said.
#[derive(Debug)]
struct Part {
    left: Budget,
    /// Known names, each with when it was asked for last.
    known: HashMap<u64, Instant>,
}

impl Labels {
    /// So many bytes of a cgroup an hour.
    pub(super) fn new(an_hour: u32) -> Self {
        Self { an_hour: f64::from(an_hour), hasher: RandomState::new(), said: Mutex::default() }
    }

    /// Whether a cgroup may ask for a name with these labels below a wildcard now, which it then has paid for.
    pub(super) fn spend(&self, cgroup: u64, name: &str, labels: &str, now: Instant) -> bool {
        let hash = self.hasher.hash_one(name);
        let mut said = self.said.lock();
        let Said { all, cgroups } = &mut *said;
        let fresh = |worth: f64| Budget::hourly(self.an_hour * worth, self.an_hour * worth * BURST, now);
        let all = all.get_or_insert_with(|| fresh(TOGETHER));
        if !cgroups.contains_key(&cgroup) && cgroups.len() >= CGROUPS {
            forget_the_fullest(cgroups, now);
        }
        let part = cgroups.entry(cgroup).or_insert_with(|| Part { left: fresh(1.0), known: HashMap::new() });
        let is_new = !part.known.contains_key(&hash);
        let price = QUESTION + if is_new { bytes(labels) } else { 0.0 };
        if part.left.left(now) < price || all.left(now) < price {
            return false;
        }
        part.left.spend(price);
        all.spend(price);
        part.remember(hash, now);
        true
    }
}

impl Part {
    fn remember(&mut self, hash: u64, now: Instant) {
        self.known.insert(hash, now);
        while self.known.len() > KNOWN {
            let oldest = self.known.iter().filter(|(other, _)| **other != hash).min_by_key(|(_, asked)| **asked);
            let Some(oldest) = oldest.map(|(oldest, _)| *oldest) else { return };
            self.known.remove(&oldest);
        }
    }
}

/// Makes room for one more: what is given back thereby is the least, and all together still have what they have.
fn forget_the_fullest(cgroups: &mut HashMap<u64, Part>, now: Instant) {
    let left = cgroups.iter_mut().map(|(cgroup, part)| (*cgroup, part.left.left(now)));
    if let Some((fullest, _)) = left.max_by(|(_, one), (_, other)| one.total_cmp(other)) {
        cgroups.remove(&fullest);
    }
}

fn bytes(labels: &str) -> f64 {
    // A name has 253 at most.
    f64::from(u16::try_from(labels.len()).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HOUR: u32 = 8192;

    /// What of these questions one cgroup gets through, as (bytes of labels, questions).
    fn passed(labels: &Labels, cgroup: u64, names: impl IntoIterator<Item = String>, now: Instant) -> (usize, usize) {
        let paid = |name: &String| labels.spend(cgroup, &format!("{name}.corp.example"), name, now);
        names.into_iter().filter(paid).fold((0, 0), |(bytes, count), name| (bytes + name.len(), count + 1))
    }

    /// As tools that tunnel through DNS do.
    fn base32(length: usize) -> impl Iterator<Item = String> {
        (0_u64..).map(move |number| {
            let digit = |place: usize| {
                let mixed = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (place % 12)) ^ (number >> (place % 7));
                char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::try_from(mixed % 32).unwrap()])
            };
            format!("{number}{}", (0..length).map(digit).collect::<String>())
        })
    }

    /// Each letter as a label of its own.
    fn in_letters(name: &str) -> String {
        name.chars().map(String::from).collect::<Vec<_>>().join(".")
    }

    #[test]
    fn labels_are_what_the_wildcard_does_not_say() {
        assert_eq!(below("*.corp.example", "a.b.corp.example"), Some("a.b"));
        for other in ["corp.example", ".corp.example", "acorp.example", "a.corp.example.evil", ""] {
            assert_eq!(below("*.corp.example", other), None, "{other}");
        }
        assert_eq!(below("corp.example", "a.corp.example"), None);
        assert!(are_plain("_grpc._tcp.orders.shop.svc.cluster") && are_plain(&"a".repeat(63)));
        assert!(!are_plain("a.b.c.d.e.f.g"));
        assert!(!are_plain(&["a".repeat(48), "b".repeat(48)].join(".")));
    }

    #[test]
    fn hundreds_of_services_are_found_at_once_and_again() {
        let (labels, now) = (Labels::new(HOUR), Instant::now());
        let services = || (0..500).map(|number| format!("payments-service-{number}.shop"));
        assert_eq!(passed(&labels, 1, services(), now).1, 500);
        assert_eq!(passed(&labels, 1, services(), now).1, 500);
    }

    #[test]
    fn whatever_the_code_is_it_is_paid_for() {
        for code in 0..4 {
            let (labels, start) = (Labels::new(HOUR), Instant::now());
            let attack = || -> Box<dyn Iterator<Item = String>> {
                match code {
                    // Long labels; many short ones; one letter each; an order of names that are known.
                    0 => Box::new(base32(40).take(20_000)),
                    1 => Box::new(base32(1).map(|name| in_letters(&name)).take(20_000)),
                    2 => Box::new((b'a'..=b'z').cycle().map(|letter| char::from(letter).to_string()).take(20_000)),
                    _ => Box::new((0..20_000).map(|number| format!("n{}", number * 7919 % 400))),
                }
            };
            let (bytes, questions) = passed(&labels, 1, attack(), start);
            // A question tells no more than its price, and 13 bits beside its labels at the most.
            let told = if code < 2 { bytes + questions } else { questions * 13 / 8 };
            assert!(told <= 2 * 8192, "{code}: {bytes} {questions}");
            let later = start + Duration::from_secs(3600);
            let (bytes, questions) = passed(&labels, 1, attack().map(|name| name + "x"), later);
            let told = if code < 2 { bytes + questions } else { questions * 13 / 8 };
            assert!(told <= 8192, "an hour later, {code}: {bytes} {questions}");
            assert!(questions > 100, "{code}: {questions}");
        }
    }

    #[test]
    fn names_that_were_forgotten_are_new_again() {
        let (labels, start) = (Labels::new(1 << 20), Instant::now());
        let name = |number: u64| format!("name-{number}");
        for number in 0..=512 {
            let at = start + Duration::from_millis(number);
            assert_eq!(passed(&labels, 1, [name(number)], at).1, 1);
        }
        let said = labels.said.lock();
        let known = &said.cgroups[&1].known;
        assert_eq!(known.len(), KNOWN);
        let hash = |number| labels.hasher.hash_one(format!("{}.corp.example", name(number)));
        assert!(!known.contains_key(&hash(0)) && known.contains_key(&hash(1)) && known.contains_key(&hash(512)));
    }

    #[test]
    fn many_cgroups_say_little_more_and_are_not_remembered_for_ever() {
        let (labels, now) = (Labels::new(HOUR), Instant::now());
        let long = || base32(60).take(400);
        let all: usize = (0..3000).map(|cgroup| passed(&labels, cgroup, long(), now).0).sum();
        assert!(all <= 32 * 2 * 8192, "{all}");
        assert!(labels.said.lock().cgroups.len() <= CGROUPS);
        // Another one has its own again, an hour later.
        assert!(passed(&labels, 9999, long(), now + Duration::from_secs(3600)).1 > 100);
    }

    #[test]
    fn one_that_is_busy_is_not_forgotten_for_others() {
        let (labels, now) = (Labels::new(HOUR), Instant::now());
        passed(&labels, 7, base32(60).take(400), now);
        for cgroup in 10_000..12_000 {
            labels.spend(cgroup, "a.corp.example", "a", now);
        }
        assert_eq!(passed(&labels, 7, base32(60).map(|name| name + "y").take(400), now).1, 0);
    }
}
