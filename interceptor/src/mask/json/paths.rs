//! All paths of an answer at once: one bit for each step of each path, and one word operation for each step down.
//!
//! A path of n steps has n + 1 bits beside one another, of which the first is set at the outermost value. A step down moves
//! a bit on where its step leads to that child, and leaves it where it stands if it looks at any depth. The last bit says
//! that the value is masked, with all below it.

use std::sync::Arc;

use crate::mask::masker::ColumnMask;
use crate::mask::path::{Child, JsonRule, fold};

/// Paths that apply to an answer, of which each masks something for the identity.
#[derive(Clone, Debug, Default)]
pub struct JsonPaths {
    start: Vec<u64>,
    /// How many strings in one another are looked into as JSON.
    strings: u8,
    table: Arc<Table>,
}

/// What does not change on the way down.
#[derive(Debug, Default)]
struct Table {
    /// Words of a set.
    words: usize,
    /// Bits that stay: those whose step looks at any depth.
    deep: Vec<u64>,
    /// Bits whose step leads to any child.
    any: Vec<u64>,
    /// Bits whose step leads to a child by its name.
    named: Vec<u64>,
    /// Bits that lead to a child of this name, sorted by it.
    names: Vec<(Box<[u8]>, Vec<u64>)>,
    /// Which lengths names have: a bit for each, the last for all that are longer.
    lengths: u64,
    indices: Vec<(u64, Vec<u64>)>,
    accept: Vec<u64>,
    /// What the value at the last bit of a path becomes: an index into `masks`.
    accepts: Vec<(usize, u16)>,
    /// The strictest first.
    masks: Vec<(ColumnMask, String)>,
    /// Which of them lead to base64.
    base64: Vec<bool>,
}

/// How many strings that hold JSON are looked into, one in the other; deeper ones are masked as a whole.
const STRINGS_LIMIT: u8 = 4;

impl JsonPaths {
    /// Of paths and what each does.
    pub(in crate::mask) fn new(mut found: Vec<(&JsonRule, ColumnMask)>) -> Self {
        found.sort_by_key(|(_, mask)| std::cmp::Reverse(mask.strictness()));
        let bits: usize = found.iter().map(|(rule, _)| rule.steps.len() + 1).sum();
        let words = bits.div_ceil(64);
        let empty = vec![0; words];
        let mut start = empty.clone();
        let mut paths = Table { words, ..Table::default() };
        for set in [&mut paths.deep, &mut paths.any, &mut paths.named, &mut paths.accept] {
            set.clone_from(&empty);
        }
        let mut bit = 0;
        for (rule, mask) in found {
            put(&mut start, bit);
            for step in &rule.steps {
                if step.deep {
                    put(&mut paths.deep, bit);
                }
                match &step.to {
                    Child::Any => put(&mut paths.any, bit),
                    Child::Index(index) => put(entry(&mut paths.indices, *index, &empty), bit),
                    Child::Name(name) => {
                        put(&mut paths.named, bit);
                        paths.lengths |= length_bit(name.len());
                        put(entry(&mut paths.names, name.as_bytes().into(), &empty), bit);
                    }
                }
                bit += 1;
            }
            put(&mut paths.accept, bit);
            paths.accepts.push((bit, u16::try_from(paths.masks.len()).unwrap_or(u16::MAX)));
            paths.masks.push((mask, rule.path.clone()));
            paths.base64.push(rule.base64);
            bit += 1;
        }
        paths.names.sort();
        Self { start, strings: 0, table: Arc::new(paths) }
    }

    /// The same, for answers in which strings hold JSON: what stands in one counts as if it stood in its place.
    #[must_use]
    pub fn into_strings(self) -> Self {
        Self { strings: STRINGS_LIMIT, ..self }
    }

    /// Whether each element of an outermost list is an answer of its own.
    pub(super) fn are_of_messages(&self) -> bool {
        self.strings == STRINGS_LIMIT
    }

    /// Whether strings of values with this set are looked into.
    pub(super) fn looks_into_strings(&self, set: &[u64]) -> bool {
        self.strings > 0 && self.leads_on(set)
    }

    /// The paths within a string whose value has this set; nothing where it is too deep.
    pub(super) fn within(&self, set: &[u64]) -> Option<Self> {
        let strings = self.strings.checked_sub(1).filter(|left| *left > 0)?;
        Some(Self { strings, start: set.to_vec(), ..self.clone() })
    }

    /// Whether nothing is masked by its path.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.masks.is_empty()
    }

    pub(super) fn words(&self) -> usize {
        self.table.words
    }

    pub(super) fn start(&self) -> &[u64] {
        &self.start
    }

    pub(super) fn masks(&self) -> &[(ColumnMask, String)] {
        &self.table.masks
    }

    pub(super) fn is_base64(&self, index: u16) -> bool {
        self.table.base64.get(usize::from(index)).copied().unwrap_or(false)
    }

    pub(super) fn mask(&self, index: u16) -> Option<&ColumnMask> {
        self.table.masks.get(usize::from(index)).map(|(mask, _)| mask)
    }

    /// The strictest mask of a value, and what it is in any case because something above it is masked.
    pub(super) fn strictest(&self, set: &[u64], above: Option<u16>) -> Option<u16> {
        if !meets(set, &self.table.accept) {
            return above;
        }
        let own = self.table.accepts.iter().filter(|(bit, _)| has(set, *bit)).map(|(_, mask)| *mask).min();
        own.into_iter().chain(above).min()
    }

    /// Whether names of children matter to a set.
    pub(super) fn wants_names(&self, set: &[u64]) -> bool {
        meets(set, &self.table.named)
    }

    /// Whether anything below a value with this set can be masked.
    pub(super) fn leads_on(&self, set: &[u64]) -> bool {
        set.iter().any(|word| *word != 0)
    }

    /// The set of a child of an array.
    pub(super) fn element(&self, set: &[u64], index: u64, next: &mut Vec<u64>) {
        let wanted = self.table.indices.iter().find(|(of, _)| *of == index).map(|(_, bits)| bits.as_slice());
        self.descend(set, wanted, next);
    }

    /// The set of a child of an object, whose key (decoded; `plain`: ASCII) this is.
    pub(super) fn field(&self, set: &[u64], key: &[u8], next: &mut Vec<u64>, folded: &mut Vec<u8>) {
        let wanted = if self.wants_names(set) { self.wanted(key, folded) } else { None };
        self.descend(set, wanted, next);
    }

    fn wanted(&self, key: &[u8], folded: &mut Vec<u8>) -> Option<&[u64]> {
        folded.clear();
        if key.is_ascii() {
            if self.table.lengths & length_bit(key.len()) == 0 {
                return None;
            }
            folded.extend_from_slice(key);
            folded.make_ascii_lowercase();
        } else {
            folded.extend_from_slice(fold(&String::from_utf8_lossy(key)).as_bytes());
        }
        let found = self.table.names.binary_search_by(|(name, _)| (**name).cmp(folded)).ok()?;
        self.table.names.get(found).map(|(_, bits)| bits.as_slice())
    }

    fn descend(&self, set: &[u64], wanted: Option<&[u64]>, next: &mut Vec<u64>) {
        next.clear();
        let mut carry = 0;
        let wanted = wanted.unwrap_or_default().iter().copied().chain(std::iter::repeat(0));
        for (((word, deep), any), wanted) in set.iter().zip(&self.table.deep).zip(&self.table.any).zip(wanted) {
            let moved = word & (any | wanted);
            next.push((moved << 1) | carry | (word & deep));
            carry = moved >> 63;
        }
    }
}

fn length_bit(length: usize) -> u64 {
    1 << length.min(63)
}

fn put(set: &mut [u64], bit: usize) {
    if let Some(word) = set.get_mut(bit / 64) {
        *word |= 1 << (bit % 64);
    }
}

fn has(set: &[u64], bit: usize) -> bool {
    set.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
}

fn meets(one: &[u64], other: &[u64]) -> bool {
    one.iter().zip(other).any(|(one, other)| one & other != 0)
}

fn entry<'a, K: PartialEq>(list: &'a mut Vec<(K, Vec<u64>)>, key: K, empty: &[u64]) -> &'a mut [u64] {
    let at = list.iter().position(|(of, _)| *of == key).unwrap_or_else(|| {
        list.push((key, empty.to_vec()));
        list.len() - 1
    });
    list.get_mut(at).map(|(_, set)| set.as_mut_slice()).unwrap_or_default()
}
