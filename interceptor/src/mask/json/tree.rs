//! Values that stand in one another as those of JSON do, and are written otherwise: whoever walks them says where each stands.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::STRING_LIMIT;
use super::paths::JsonPaths;
use crate::mask::detect::SHORTEST;
use crate::mask::masker::{Carrier, ColumnMask, Masker, Outcome};

/// Where a value stands, as far as paths see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    set: Vec<u64>,
    mask: Option<u16>,
}

impl Place {
    /// Whether the value is masked by its path, with all below it.
    #[must_use]
    pub const fn is_masked(&self) -> bool {
        self.mask.is_some()
    }
}

/// Masks values one by one: by path, and by detectors.
#[derive(Clone, Debug)]
pub struct TreeMasker {
    masker: Masker,
    paths: JsonPaths,
    scan: ColumnMask,
    masked: Vec<u64>,
    found: u64,
    folded: Vec<u8>,
}

impl TreeMasker {
    /// One for answers under these obligations.
    #[must_use]
    pub fn new(masker: Masker, paths: JsonPaths) -> Self {
        let scan = masker.column(&masker.no_tags(), false);
        let masked = vec![0; paths.masks().len()];
        Self { masker, paths, scan, masked, found: 0, folded: Vec::new() }
    }

    /// The outermost value.
    #[must_use]
    pub fn root(&self) -> Place {
        let set = self.paths.start().to_vec();
        let mask = self.paths.strictest(&set, None);
        Place { set, mask }
    }

    /// A field of it, under whichever of these names a path knows it.
    pub fn field(&mut self, of: &Place, names: &[&str]) -> Place {
        let mut all = vec![0; self.paths.words()];
        let mut next = Vec::new();
        for name in names {
            self.paths.field(&of.set, name.as_bytes(), &mut next, &mut self.folded);
            all.iter_mut().zip(&next).for_each(|(all, next)| *all |= next);
        }
        let mask = self.paths.strictest(&all, of.mask);
        Place { set: all, mask }
    }

    /// An element of it.
    #[must_use]
    pub fn element(&self, of: &Place, index: u64) -> Place {
        let mut set = Vec::new();
        self.paths.element(&of.set, index, &mut set);
        let mask = self.paths.strictest(&set, of.mask);
        Place { set, mask }
    }

    /// Whether nothing is masked there, nor below.
    #[must_use]
    pub fn passes(&self, place: &Place) -> bool {
        place.mask.is_none() && !self.masker.scans() && !self.paths.leads_on(&place.set)
    }

    /// What becomes of a text. Appends to `out` only where that is [`Outcome::Replaced`].
    pub fn text(&mut self, place: &Place, value: &[u8], out: &mut Vec<u8>) -> Outcome {
        let Some((index, mask)) = place.mask.and_then(|index| Some((index, self.paths.mask(index)?))) else {
            return self.scanned(value, Carrier::Text { max_chars: None }, out);
        };
        let plain = if self.paths.is_base64(index) { BASE64.decode(value).ok() } else { None };
        let is_base64 = plain.is_some();
        let mut text = Vec::new();
        let carrier = Carrier::Text { max_chars: None };
        let outcome = self.masker.apply(mask, carrier, plain.as_deref().unwrap_or(value), &mut text);
        if is_base64 {
            out.extend_from_slice(BASE64.encode(&text).as_bytes());
        } else {
            out.append(&mut text);
        }
        self.note(Some(index));
        outcome
    }

    /// What becomes of bytes, which may be text: where they are none, nothing can stand in their place.
    pub fn bytes(&mut self, place: &Place, value: &[u8], out: &mut Vec<u8>) -> Outcome {
        if place.is_masked() || std::str::from_utf8(value).is_ok() {
            return self.text(place, value, out);
        }
        self.scanned(value, Carrier::Opaque, out)
    }

    /// Whether a number is masked, that reads so.
    pub fn number(&mut self, place: &Place, shown: &str) -> bool {
        if place.is_masked() {
            self.note(place.mask);
            return true;
        }
        self.scanned(shown.as_bytes(), Carrier::Opaque, &mut Vec::new()) != Outcome::Unchanged
    }

    /// What becomes of the name of a field that the answer has chosen.
    pub fn name(&mut self, value: &[u8], out: &mut Vec<u8>) -> Outcome {
        self.scanned(value, Carrier::Text { max_chars: None }, out)
    }

    /// Counts what was taken away because nobody knows what it is.
    pub fn note_unknown(&mut self) {
        self.found += 1;
    }

    /// How many values were masked since it was asked last: by path, and otherwise.
    pub fn take_counts(&mut self) -> (Vec<(String, u64)>, u64) {
        let counts = self.masked.iter_mut().map(std::mem::take);
        let named = self.paths.masks().iter().zip(counts).filter(|(_, count)| *count > 0);
        (named.map(|((_, path), count)| (path.clone(), count)).collect(), std::mem::take(&mut self.found))
    }

    fn scanned(&mut self, value: &[u8], carrier: Carrier, out: &mut Vec<u8>) -> Outcome {
        if !self.masker.scans() || value.len() < SHORTEST {
            return Outcome::Unchanged;
        }
        let outcome =
            if value.len() > STRING_LIMIT { Outcome::Null } else { self.masker.apply(&self.scan, carrier, value, out) };
        if outcome != Outcome::Unchanged {
            self.note(None);
        }
        outcome
    }

    fn note(&mut self, mask: Option<u16>) {
        match mask.and_then(|mask| self.masked.get_mut(usize::from(mask))) {
            Some(count) => *count += 1,
            None => self.found += 1,
        }
    }
}
