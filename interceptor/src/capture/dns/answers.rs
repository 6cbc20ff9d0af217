//! Answers, given again for as long as they hold: who asks for the same all the time says nothing with that, and pays
//! nothing below a wildcard.
//!
//! Each cgroup has its own: by how soon an answer comes, nobody learns what another has asked for. Bounded in number, size
//! and time. Kept is what names an address or says that there is none; what is cut off, and faults of servers, are not.

use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::query::Query;

/// Answers of one cgroup, and of all.
const OF_CGROUP: usize = 256;
const IN_ALL: usize = 4096;
/// Bytes of one.
const MAX_KEPT: usize = 1232;
/// How long one is given at most, and one that says that there is nothing.
const MOST: Duration = Duration::from_secs(300);
const MOST_OF_NOTHING: Duration = Duration::from_secs(30);

/// What was answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    kept: Mutex<HashMap<Key, Kept>>,
}

/// Whose answer it is: a cgroup's, to a name and type, and whether it may be long.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key(u64, String, u16, bool);

#[derive(Debug)]
struct Kept {
    answer: Vec<u8>,
    since: Instant,
    until: Instant,
}

impl Answers {
    /// The answer to the same question of a cgroup, where it still holds, with what is left of its time.
    pub(super) fn find(&self, cgroup: u64, query: &Query, now: Instant) -> Option<Vec<u8>> {
        let (mut message, age) = {
            let kept = self.kept.lock();
            let found = kept.get(&Key::of(cgroup, query)).filter(|found| found.until > now)?;
            (Message::from_vec(&found.answer).ok()?, now.saturating_duration_since(found.since))
        };
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(age);
        }
        message.to_vec().ok()
    }

    /// Keeps an answer for as long as it says.
    pub(super) fn keep(&self, cgroup: u64, query: &Query, answer: &[u8], now: Instant) {
        let Some(lasts) = lasts(answer).filter(|lasts| !lasts.is_zero()) else { return };
        let mut kept = self.kept.lock();
        kept.retain(|_, kept| kept.until > now);
        let own = kept.keys().filter(|key| key.0 == cgroup).count();
        if own >= OF_CGROUP || kept.len() >= IN_ALL {
            // What ends soonest gives way, of its own where it has as much as it may.
            let mine = kept.iter().filter(|(key, _)| own < OF_CGROUP || key.0 == cgroup);
            let Some(first) = mine.min_by_key(|(_, kept)| kept.until).map(|(key, _)| key.clone()) else { return };
            kept.remove(&first);
        }
        kept.insert(Key::of(cgroup, query), Kept { answer: answer.to_vec(), since: now, until: now + lasts });
    }
}

impl Key {
    fn of(cgroup: u64, query: &Query) -> Self {
        Self(cgroup, query.name.clone(), query.kind, query.extended)
    }
}

/// How long an answer may be given again; not at all where it is none that holds.
fn lasts(answer: &[u8]) -> Option<Duration> {
    let message = (answer.len() <= MAX_KEPT).then(|| Message::from_vec(answer).ok())??;
    let is_nothing = match message.metadata.response_code {
        _ if message.metadata.truncation => return None,
        ResponseCode::NoError => message.answers.is_empty(),
        ResponseCode::NXDomain => true,
        _ => return None,
    };
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    if !is_nothing {
        return message.answers.iter().map(|record| seconds(record.ttl)).min().map(|lasts| lasts.min(MOST));
    }
    // As long as the zone says (RFC 2308).
    message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(zone) => Some(seconds(record.ttl.min(zone.minimum)).min(MOST_OF_NOTHING)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str) -> Vec<u8> {
        let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    }

    fn query(name: &str) -> Query {
        Query::read(&question(name)).unwrap()
    }

    /// With an address that holds so long; a code; sections.
    fn answer(name: &str, code: u8, ttl: u8) -> Vec<u8> {
        let mut bytes = question(name);
        bytes[2] = 0x81;
        bytes[3] = 0x80 | code;
        bytes[7] = 1;
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4, 10, 0, 0, 7]);
        bytes
    }

    /// Says that there is nothing, for so long.
    fn nothing(name: &str, code: u8, ttl: u8, minimum: u8) -> Vec<u8> {
        let mut bytes = question(name);
        bytes[2] = 0x81;
        bytes[3] = 0x80 | code;
        bytes[9] = 1;
        bytes.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 0, ttl, 0, 22, 0, 0]);
        bytes.extend([0; 19]);
        bytes.push(minimum);
        bytes
    }

    #[test]
    fn an_answer_is_given_again_while_it_holds_with_what_is_left_of_its_time() {
        let (answers, start, asked) = (Answers::default(), Instant::now(), query("a.corp.example"));
        answers.keep(1, &asked, &answer("a.corp.example", 0, 60), start);
        let found = answers.find(1, &asked, start + Duration::from_secs(20)).unwrap();
        let found = Message::from_vec(&found).unwrap();
        assert_eq!(found.answers[0].ttl, 40);
        assert!(answers.find(1, &asked, start + Duration::from_secs(60)).is_none());
        assert!(answers.find(2, &asked, start).is_none() && answers.find(1, &query("b.corp.example"), start).is_none());
    }

    #[test]
    fn what_says_nothing_is_kept_as_long_as_the_zone_says() {
        assert_eq!(lasts(&nothing("a", 3, 20, 9)), Some(Duration::from_secs(9)));
        assert_eq!(lasts(&nothing("a", 0, 20, 255)), Some(Duration::from_secs(20)));
        assert_eq!(lasts(&nothing("a", 0, 255, 255)), Some(MOST_OF_NOTHING));
        assert_eq!(lasts(&answer("a", 0, 255)), Some(Duration::from_secs(255)));
        // Without a zone; a fault of the server; cut off.
        let mut bare = question("a");
        bare[3] = 0x83;
        assert_eq!((lasts(&bare), lasts(&answer("a", 2, 60)), lasts(&[])), (None, None, None));
        let mut cut = answer("a", 0, 60);
        cut[2] |= 2;
        assert_eq!(lasts(&cut), None);
    }

    #[test]
    fn what_is_kept_is_bounded_and_nobody_takes_it_from_others() {
        let (answers, now) = (Answers::default(), Instant::now());
        answers.keep(1, &query("own.corp.example"), &answer("own.corp.example", 0, 60), now);
        for number in 0..600 {
            let name = format!("n{number}.corp.example");
            answers.keep(2, &query(&name), &answer(&name, 0, 100), now);
        }
        assert_eq!(answers.kept.lock().len(), OF_CGROUP + 1);
        assert!(answers.find(1, &query("own.corp.example"), now).is_some());
        for number in 0..5000 {
            answers.keep(number, &query("a.corp.example"), &answer("a.corp.example", 0, 100), now);
        }
        assert_eq!(answers.kept.lock().len(), IN_ALL);
    }
}
