//! Maskers of results that were announced before: a statement that is run again, and announced in the same bytes, is masked
//! by what was made of it the first time.

use super::super::rows::RowMasker;
use crate::mask::Masker;

/// Maskers that are kept; the one that was used longest ago goes first.
const KEPT_LIMIT: usize = 8;

/// Bytes of an announcement, above which it is not kept.
const LENGTH_LIMIT: usize = 4 << 10;

/// An announced result, and what masks its rows.
#[derive(Debug)]
pub(super) struct Announced {
    key: Key,
    /// What masks its rows.
    pub(super) rows: RowMasker,
    /// Made under the catalog that the statement was judged under.
    settled: bool,
}

/// All that a masker is made of: which analysis under which names and catalog, which of its statements, and the bytes that
/// announced the columns.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    analysis: u64,
    epoch: u64,
    index: usize,
    description: Box<[u8]>,
}

impl Announced {
    pub(super) fn new(
        (analysis, epoch, index): (u64, u64, usize),
        description: &[u8],
        rows: RowMasker,
        settled: bool,
    ) -> Self {
        Self { key: Key { analysis, epoch, index, description: description.into() }, rows, settled }
    }
}

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Kept(Vec<Announced>);

impl Kept {
    /// The masker of that announcement under the same obligations, where it is there; it is given back with
    /// [`Kept::put`].
    pub(super) fn take(
        &mut self,
        (analysis, epoch, index): (u64, u64, usize),
        description: &[u8],
        masker: &Masker,
    ) -> Option<Announced> {
        let fits = |known: &Announced| {
            let key = &known.key;
            (key.analysis, key.epoch, key.index) == (analysis, epoch, index)
                && *key.description == *description
                && known.rows.masker().has_terms_of(masker)
        };
        let at = self.0.iter().position(fits)?;
        Some(self.0.remove(at))
    }

    /// Keeps a masker for the next time.
    pub(super) fn put(&mut self, announced: Announced) {
        if !announced.settled || announced.key.description.len() > LENGTH_LIMIT {
            return;
        }
        if self.0.len() >= KEPT_LIMIT {
            self.0.remove(0);
        }
        self.0.push(announced);
    }
}
