//! How much room there is for recordings, how long it will last, and when somebody has to be told.
//!
//! Owns the shares of [`Config::warn_percent`](super::Config::warn_percent) at which that is, so that nobody is surprised when a bound
//! bites. Pure but for asking the file system. Each share is told of once until it is over, and nothing more often than once a minute,
//! whatever an agent makes the spool do.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use super::Config;
use super::retention::AtLimit;

/// What room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that can still be recorded before a bound bites.
    pub left: u64,
    /// Bytes that there would be, were there nothing.
    pub of: u64,
    /// Whether the oldest recordings are deleted then; else governed commands are refused.
    pub deletes: bool,
    /// How long it lasts, as fast as it went lately; none where it does not get less.
    pub lasts: Option<Duration>,
}

impl Room {
    /// Asks the file system of the spool, which has that many bytes in its segments, some of which may be deleted for room.
    ///
    /// # Errors
    /// What the file system says.
    pub fn measure(config: &Config, spool: u64, deletable: u64) -> io::Result<Self> {
        let found = statvfs(&config.spool)?;
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        let all = found.blocks().saturating_mul(found.fragment_size());
        Ok(Self::within(config, (spool, deletable), free, all))
    }

    fn within(config: &Config, (spool, deletable): (u64, u64), free: u64, all: u64) -> Self {
        let deletes = config.retention.at_limit == AtLimit::DeleteOldest;
        let (left, of) = (free.saturating_sub(config.free_space_floor), all.saturating_sub(config.free_space_floor));
        let most = config.retention.max_bytes;
        let own = most.saturating_sub(spool);
        let (left, of) = if most != 0 && own < left { (own, most) } else { (left, of) };
        // A spool that is kept at its bound by deleting is as it should be, while there is something that may go.
        let left = if deletes { left.saturating_add(deletable).min(of) } else { left };
        Self { left, of, deletes, lasts: None }
    }

    /// Which share of it is left, in per cent.
    #[must_use]
    pub fn percent(&self) -> u8 {
        let percent = u128::from(self.left).saturating_mul(100).checked_div(u128::from(self.of)).unwrap_or(0);
        u8::try_from(percent.min(100)).unwrap_or(100)
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB left for recordings, {} % of what there could be", self.left >> 20, self.percent())?;
        match self.lasts.map(|lasts| lasts.as_secs() / 60) {
            Some(minutes) if minutes < 120 => write!(f, "; as it went lately that lasts {minutes} minutes"),
            Some(minutes) if minutes < 72 * 60 => write!(f, "; as it went lately that lasts {} hours", minutes / 60),
            Some(minutes) => write!(f, "; as it went lately that lasts {} days", minutes / 60 / 24),
            None => Ok(()),
        }
    }
}

/// Who looks at it again and again.
#[derive(Debug)]
pub struct Watch {
    /// Shares in per cent, the largest first.
    shares: Vec<u8>,
    /// How many of them it is below, as was told.
    below: usize,
    told: Option<Duration>,
    /// What was left, each minute of the last hour.
    seen: VecDeque<(Duration, u64)>,
}

impl Watch {
    /// One that tells of those shares.
    #[must_use]
    pub fn new(shares: &[u8]) -> Self {
        let mut shares = shares.to_vec();
        shares.sort_unstable_by(|one, other| other.cmp(one));
        Self { shares, below: 0, told: None, seen: VecDeque::new() }
    }

    /// Looks, at a time that never steps back. Gives the room, with how long it lasts, and what somebody has to be told.
    pub fn look(&mut self, now: Duration, room: Room) -> (Room, Option<String>) {
        let room = Room { lasts: self.lasts(now, room.left), ..room };
        let percent = room.percent();
        let below = self.shares.iter().filter(|share| percent < **share).count();
        let over = self.shares.iter().take(self.below).filter(|share| percent < share.saturating_add(CLEARLY)).count();
        let rests = self.told.is_some_and(|told| now.saturating_sub(told) < REST);
        let is = if below > self.below { below } else { over };
        if rests || is == self.below {
            return (room, None);
        }
        let worse = is > self.below;
        (self.below, self.told) = (is, Some(now));
        let then = if room.deletes { "then the oldest are deleted" } else { "then governed commands are refused" };
        let text = if worse {
            format!("room gets short: {room}; {then}")
        } else {
            format!("there is more room again: {room}")
        };
        (room, Some(text))
    }

    fn lasts(&mut self, now: Duration, left: u64) -> Option<Duration> {
        let newest = self.seen.back().map(|(time, _)| *time);
        if newest.is_none_or(|newest| now.saturating_sub(newest) >= MINUTE) {
            self.seen.push_back((now, left));
            if self.seen.len() > MINUTES {
                self.seen.pop_front();
            }
        }
        let (time, then) = self.seen.front()?;
        let (passed, used) = (now.saturating_sub(*time), then.saturating_sub(left));
        if passed < MINUTE || used == 0 {
            return None;
        }
        let seconds = u128::from(left).saturating_mul(passed.as_secs().into()) / u128::from(used);
        Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)))
    }
}

const MINUTE: Duration = Duration::from_secs(60);
/// Over how long the estimate looks back.
const MINUTES: usize = 60;
/// Per cent by which a share has to be exceeded, for it to be over.
const CLEARLY: u8 = 2;
/// Between two things that are told.
const REST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::super::retention;
    use super::*;

    const GIB: u64 = 1 << 30;

    fn room(left: u64) -> Room {
        Room { left, of: 1000, deletes: false, lasts: None }
    }

    #[test]
    fn each_share_is_told_once_and_its_end_when_it_is_clearly_over() {
        let mut watch = Watch::new(&[5, 25, 10]);
        let mut at = |minute: u64, left: u64| watch.look(MINUTE * u32::try_from(minute).unwrap(), room(left)).1;
        assert_eq!(at(0, 900), None);
        assert!(at(1, 240).unwrap().starts_with("room gets short"));
        // To and fro around a share is told no more.
        for minute in 2..20 {
            assert_eq!(at(minute, 245 + minute % 2 * 10), None, "{minute}");
        }
        assert!(at(21, 90).unwrap().contains("9 %"));
        assert_eq!(at(22, 91), None);
        assert!(at(23, 40).unwrap().contains("refused"));
        assert!(at(24, 130).unwrap().starts_with("there is more room again"));
        assert!(at(25, 900).unwrap().contains("90 %"));
        assert_eq!(at(26, 900), None);
        assert!(at(27, 1).is_some());
    }

    #[test]
    fn nothing_is_told_twice_a_minute() {
        let (mut watch, second) = (Watch::new(&[25]), Duration::from_secs(1));
        let told = (0..600).filter(|n| watch.look(second * *n, room(if n % 2 == 0 { 10 } else { 900 })).1.is_some());
        assert!(told.count() <= 10);
    }

    #[test]
    fn how_long_it_lasts_is_what_the_last_hour_says() {
        let mut watch = Watch::new(&[]);
        assert_eq!(watch.look(Duration::ZERO, room(1000)).0.lasts, None);
        assert_eq!(watch.look(MINUTE * 10, room(900)).0.lasts, Some(MINUTE * 90));
        assert_eq!(watch.look(MINUTE * 11, room(1000)).0.lasts, None, "it does not get less");
        let text = Room { lasts: Some(MINUTE * 300), ..room(500) }.to_string();
        assert!(text.contains("5 hours") && text.contains("50 %"), "{text}");
        assert_eq!(Room { of: 0, ..room(7) }.percent(), 0);
    }

    #[test]
    fn the_bound_that_bites_first_counts() {
        let mut config = Config { free_space_floor: GIB, ..Config::default() };
        assert_eq!(Room::within(&config, (GIB, GIB), 3 * GIB, 9 * GIB).left, 2 * GIB);
        config.retention = retention::Config { max_bytes: 2 * GIB, ..retention::Config::default() };
        let bound = Room::within(&config, (GIB + 5, GIB), 3 * GIB, 9 * GIB);
        assert_eq!((bound.left, bound.of), (GIB - 5, 2 * GIB));
        config.retention.at_limit = AtLimit::DeleteOldest;
        assert_eq!(Room::within(&config, (2 * GIB - 5, GIB), 3 * GIB, 9 * GIB).left, GIB + 5, "kept by deleting");
        let stuck = Room::within(&config, (2 * GIB - 5, 0), 3 * GIB, 9 * GIB);
        assert_eq!((stuck.left, stuck.percent()), (5, 0), "all of it is held, or young");
        assert_eq!(Room::within(&config, (0, 0), 0, GIB).percent(), 0);
    }
}
