//! Segments that are not there, held against what is on record of them.
//!
//! Owns which stretches are missing, and which of them a record says were deleted. Such a record stands in a segment that is younger
//! than all that it names, and what follows a stretch has to go on from the very tree and chain that the record says it ends with.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::record::event::hex;
use crate::record::format::Header;
use crate::record::hold::Scope;
use crate::record::merkle::Tree;
use crate::record::retention::{Gone, Missing};

/// All stretches so far, and what is held.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    pub(super) stretches: Vec<Stretch>,
    held: BTreeMap<String, Scope>,
}

/// Segments in a row that are not there.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) from: u64,
    pub(super) to: u64,
    /// The first frame that is not there, and the first that is again.
    pub(super) frames: (u64, u64),
    root: String,
    chain: String,
    /// When, why, and in which frame that is said.
    pub(super) said: Option<(Timestamp, String, u64)>,
}

impl Deletions {
    /// Segments from that one on, and frames, are not there before the one with that header.
    pub(super) fn missing(&mut self, from: u64, frame: u64, header: &Header, tree: &Tree) {
        self.stretches.push(Stretch {
            from,
            to: header.segment.saturating_sub(1),
            frames: (frame, header.first),
            root: hex(&tree.root()),
            chain: hex(&header.chain),
            said: None,
        });
    }

    /// A record says what was deleted. Gives the first that was, although it was held.
    pub(super) fn deleted(
        &mut self,
        (frame, time): (u64, Timestamp),
        reason: &str,
        segments: &[Gone],
        missing: &[Missing],
    ) -> Option<String> {
        for stretch in self.stretches.iter_mut().filter(|stretch| stretch.said.is_none()) {
            let covers = missing.iter().any(|one| one.from <= stretch.from && one.to >= stretch.to);
            if covers && stretch.ends(segments, missing) {
                stretch.said = Some((time, reason.to_owned(), frame));
            }
        }
        segments.iter().find_map(|gone| {
            let held = self.held.iter().find(|(_, scope)| scope.hold(gone.segment, gone.begun, gone.ended));
            held.map(|(hold, _)| format!("segment {} was deleted although {hold} held it", gone.segment))
        })
    }

    pub(super) fn held(&mut self, hold: String, scope: Scope) {
        self.held.insert(hold, scope);
    }

    pub(super) fn released(&mut self, hold: &str) {
        self.held.remove(hold);
    }
}

impl Stretch {
    /// Whether a record says that it ends as what follows it goes on.
    fn ends(&self, segments: &[Gone], missing: &[Missing]) -> bool {
        let of_missing = missing.iter().filter(|one| one.to == self.to).map(|one| (one.frames, &one.root, &one.chain));
        let of_segment = segments.iter().filter(|gone| gone.segment == self.to);
        let of_segment = of_segment.map(|gone| (gone.first.saturating_add(gone.frames), &gone.root, &gone.chain));
        of_missing.chain(of_segment).any(|end| end == (self.frames.1, &self.root, &self.chain))
    }

    /// Which ones, in words.
    pub(super) fn words(&self) -> String {
        let (from, to) = (self.from, self.to);
        if from == to { format!("segment {from}") } else { format!("segments {from} to {to}") }
    }
}
