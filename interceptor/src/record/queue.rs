//! What waits to be written, in two lines: a light one, which whoever asks may write at once, and a heavy one, which the
//! recorder's thread makes ready beside it.
//!
//! What a session records keeps its order: as long as something heavy of it waits, all that follows waits behind that. What
//! different sessions record has no order between them, so that a command does not wait for what others have been sent. A
//! flush waits for all that came before it. Bounded by whoever queues.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use super::RecordError;
use super::event::Event;
use super::pack::{Packer, Payload};
use crate::clock::Timestamp;
use crate::telemetry::SessionId;

/// Data of that many bytes is heavy.
const HEAVY: usize = 16 << 10;
/// Bytes of the heavy line that are made ready at a time: while they are written, nothing else is.
const SLICE: u64 = 512 << 10;

/// Tells whoever waits.
pub(super) type Ack = oneshot::Sender<Result<u64, RecordError>>;

/// What is to be written.
#[expect(clippy::large_enum_variant, reason = "nearly all are events: a box would be an allocation for each")]
#[derive(Debug)]
pub(super) enum What {
    /// Everything before it, signed and forced to the disk.
    Flush,
    Event(Event),
    /// An event that is ready.
    Packed(Payload<Vec<u8>>),
}

/// One thing that waits.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) session: SessionId,
    pub(super) time: Timestamp,
    pub(super) what: What,
    pub(super) ack: Option<Ack>,
    /// Its share of the bound.
    pub(super) cost: u32,
}

impl Job {
    fn is_heavy(&self) -> bool {
        matches!(&self.what, What::Event(Event::Data { bytes, .. }) if bytes.len() >= HEAVY)
    }

    /// Bytes of it in memory.
    pub(super) fn weight(&self) -> usize {
        match &self.what {
            What::Flush => 0,
            What::Event(event) => event.weight(),
            What::Packed(payload) => payload.bytes.len(),
        }
    }

    /// Whether somebody waits for it as an event.
    pub(super) fn is_waited_for(&self) -> bool {
        self.ack.is_some() && !matches!(self.what, What::Flush)
    }

    /// Makes it ready, where that is much work. What cannot be is left for who writes it, and says so.
    pub(super) fn prepare(&mut self, packer: &mut Packer) {
        if self.is_heavy()
            && let What::Event(event) = &self.what
            && let Ok(payload) = packer.keep(event)
        {
            self.what = What::Packed(payload);
        }
    }
}

/// Both lines, and who sleeps.
#[derive(Default)]
pub(super) struct Queue {
    light: VecDeque<Job>,
    heavy: VecDeque<Job>,
    /// How many jobs of a session are in the heavy line, or were taken from it and are not with the writer yet.
    behind: HashMap<SessionId, usize>,
    /// Whether the thread sleeps.
    pub(super) waiting: bool,
    /// Whether it wakes up by itself soon.
    pub(super) ticking: bool,
    /// Whether there is something to do for it at once.
    pub(super) woken: bool,
    /// Whether somebody waits for one of the light ones.
    pub(super) waited_for: bool,
    pub(super) closed: bool,
}

impl Queue {
    /// Puts a job into its line. Whether that is the light one.
    pub(super) fn push(&mut self, job: Job) -> bool {
        let flushes = matches!(job.what, What::Flush) && !self.behind.is_empty();
        if !job.is_heavy() && !flushes && !self.is_behind(job.session) {
            self.waited_for |= job.is_waited_for();
            self.light.push_back(job);
            return true;
        }
        let (session, waited_for) = (job.session, job.is_waited_for());
        *self.behind.entry(session).or_default() += 1;
        self.heavy.push_back(job);
        // A flush has no session, and is nobody's to be put before anything.
        if waited_for && session != SessionId::NONE {
            let (mut own, others): (VecDeque<_>, VecDeque<_>) =
                self.heavy.drain(..).partition(|job| job.session == session);
            own.extend(others);
            self.heavy = own;
        }
        false
    }

    /// Whether something heavy of a session is not written yet: what it records now has to come behind.
    pub(super) fn is_behind(&self, session: SessionId) -> bool {
        self.behind.contains_key(&session)
    }

    /// Takes the light line, behind what is there.
    pub(super) fn take_light(&mut self, into: &mut VecDeque<Job>) {
        self.waited_for = false;
        if into.is_empty() {
            std::mem::swap(into, &mut self.light);
        } else {
            into.append(&mut self.light);
        }
    }

    /// Takes some of the heavy line, to be made ready; all of it once nothing else can come.
    pub(super) fn take_heavy(&mut self) -> Vec<Job> {
        let (mut taken, mut cost) = (Vec::new(), 0u64);
        while self.closed || cost < SLICE {
            let Some(job) = self.heavy.pop_front() else { break };
            cost = cost.saturating_add(job.cost.into());
            taken.push(job);
        }
        self.woken |= !self.heavy.is_empty();
        taken
    }

    /// Jobs that were taken from the heavy line are with the writer.
    pub(super) fn handed_over<'a>(&mut self, jobs: impl IntoIterator<Item = &'a Job>) {
        for job in jobs {
            if let Some(count) = self.behind.get_mut(&job.session) {
                *count -= 1;
                if *count == 0 {
                    self.behind.remove(&job.session);
                }
            }
        }
    }

    /// How many jobs wait in it.
    pub(super) fn len(&self) -> usize {
        self.light.len() + self.heavy.len()
    }

    /// Whether nothing waits, nor is on its way to the writer.
    pub(super) fn is_empty(&self) -> bool {
        self.light.is_empty() && self.behind.is_empty()
    }

    /// Lets go of everything: nobody writes it any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.light.clear();
        self.heavy.clear();
        self.behind.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Direction;

    fn session(number: u8) -> SessionId {
        SessionId::from_bytes([number; 16])
    }

    fn job(of: u8, time: i64, what: What, ack: Option<Ack>) -> Job {
        let cost = match &what {
            What::Event(Event::Data { bytes, .. }) => u32::try_from(bytes.len()).unwrap(),
            _ => 100,
        };
        Job { session: session(of), time: Timestamp(time), what, ack, cost }
    }

    fn data(size: usize) -> What {
        What::Event(Event::Data { direction: Direction::ToAgent, bytes: vec![b'x'; size].into() })
    }

    fn note() -> What {
        What::Event(Event::Note { text: "a note".into() })
    }

    /// As the thread does: the light line, then a slice of the heavy one.
    fn turn(queue: &mut Queue, written: &mut VecDeque<Job>) {
        let slice = queue.take_heavy();
        queue.take_light(written);
        queue.handed_over(&slice);
        written.extend(slice);
    }

    #[test]
    fn a_command_overtakes_what_others_were_sent_and_nothing_of_its_own() {
        let (mut queue, mut written) = (Queue::default(), VecDeque::new());
        assert!(!queue.push(job(1, 1, data(HEAVY), None)));
        assert!(!queue.push(job(2, 2, data(HEAVY), None)));
        let (ack, _answer) = oneshot::channel();
        assert!(queue.push(job(3, 3, note(), Some(ack))) && queue.waited_for);
        let (ack, _answer) = oneshot::channel();
        assert!(!queue.push(job(2, 4, note(), Some(ack))), "its own data comes first");
        queue.take_light(&mut written);
        assert_eq!(written.iter().map(|job| job.time.0).collect::<Vec<_>>(), [3]);
        turn(&mut queue, &mut written);
        assert_eq!(written.iter().map(|job| job.time.0).collect::<Vec<_>>(), [3, 2, 4, 1], "and before that of others");
        assert!(queue.is_empty() && !queue.is_behind(session(2)));
    }

    #[test]
    fn what_is_on_its_way_to_the_writer_is_not_overtaken() {
        let mut queue = Queue::default();
        queue.push(job(1, 1, data(HEAVY), None));
        let slice = queue.take_heavy();
        assert!(!queue.is_empty() && !queue.push(job(1, 2, note(), None)));
        queue.handed_over(&slice);
        assert!(queue.is_behind(session(1)), "the second one waits");
        let rest = queue.take_heavy();
        queue.handed_over(&rest);
        assert!(queue.push(job(1, 3, note(), None)));
    }

    #[test]
    fn slices_are_bounded_until_it_is_closed() {
        let mut queue = Queue::default();
        let many = usize::try_from(SLICE).unwrap() * 3 / HEAVY;
        for _ in 0..many {
            queue.push(job(1, 0, data(HEAVY), None));
        }
        assert_eq!((queue.take_heavy().len(), queue.woken), (many / 3, true));
        queue.closed = true;
        assert_eq!(queue.take_heavy().len(), many - many / 3);
    }

    #[test]
    fn what_is_ready_says_what_it_was() {
        let mut packer = Packer::new().unwrap();
        let mut heavy = job(1, 1, data(HEAVY), None);
        heavy.prepare(&mut packer);
        let What::Packed(payload) = &heavy.what else { panic!("{heavy:?}") };
        assert!(payload.packed && payload.bytes.len() < HEAVY && payload.unpacked as usize >= HEAVY);
        let mut light = job(1, 1, note(), None);
        light.prepare(&mut packer);
        assert!(matches!(light.what, What::Event(Event::Note { .. })));
    }

    proptest! {
        /// Whoever takes whenever: each session's jobs come in their order, and a flush behind all that was there.
        #[test]
        fn order_is_kept(steps in prop::collection::vec((0u8..4, 0u8..6), 1..80)) {
            let (mut queue, mut written, mut slice) = (Queue::default(), VecDeque::new(), Vec::new());
            let mut answers = Vec::new();
            for (time, (of, kind)) in steps.iter().enumerate() {
                let time = i64::try_from(time).unwrap();
                let (ack, answer) = oneshot::channel();
                answers.push(answer);
                match kind {
                    0 => _ = queue.push(job(*of, time, data(HEAVY * 9), None)),
                    1 => _ = queue.push(job(*of, time, note(), None)),
                    2 => _ = queue.push(job(*of, time, note(), Some(ack))),
                    3 => _ = queue.push(Job { session: SessionId::NONE, ..job(0, time, What::Flush, Some(ack)) }),
                    // An appender, at whatever time; and the thread, in two steps.
                    4 if slice.is_empty() => queue.take_light(&mut written),
                    4 => {
                        queue.take_light(&mut written);
                        queue.handed_over(&slice);
                        written.extend(slice.drain(..));
                    }
                    _ => slice.extend(queue.take_heavy()),
                }
            }
            queue.take_light(&mut written);
            queue.handed_over(&slice);
            written.extend(slice.drain(..));
            while !queue.is_empty() {
                turn(&mut queue, &mut written);
            }
            for one in 0..4 {
                let own: Vec<i64> = written.iter().filter(|job| job.session == session(one)).map(|job| job.time.0).collect();
                prop_assert!(own.is_sorted(), "{own:?}");
            }
            for (place, flush) in written.iter().enumerate().filter(|(_, job)| matches!(job.what, What::Flush)) {
                prop_assert!(written.iter().skip(place).all(|job| job.time.0 >= flush.time.0));
            }
            let pushed = steps.iter().filter(|(_, kind)| *kind < 4).count();
            prop_assert_eq!(written.len(), pushed);
        }
    }
}
