//! Draws for generators: the same seed gives the same draws, and so do the choices of an earlier run, which is how a case is
//! made smaller.

/// Draws by a seed, or by given choices.
#[derive(Clone, Debug)]
pub struct Draw {
    state: u64,
    given: Option<Vec<usize>>,
    made: Vec<usize>,
}

impl Draw {
    /// Starts from a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed, given: None, made: Vec::new() }
    }

    /// Makes these choices again, and where they end always the first one. Generators put what is simplest first.
    #[must_use]
    pub const fn again(choices: Vec<usize>) -> Self {
        Self { state: 0, given: Some(choices), made: Vec::new() }
    }

    /// A number below `limit`; 0 where there is none.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = limit.max(1);
        let choice = match &self.given {
            Some(given) => given.get(self.made.len()).copied().unwrap_or(0) % limit,
            None => usize::try_from(self.next() % u64::try_from(limit).unwrap_or(1)).unwrap_or(0),
        };
        self.made.push(choice);
        choice
    }

    /// One of these.
    pub fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let at = self.below(of.len());
        of.get(at).copied().unwrap_or_default()
    }

    /// Whether something happens that does so in that share of all draws.
    pub fn chance(&mut self, percent: usize) -> bool {
        // Not happening is the simplest.
        self.below(100) >= 100 - percent.min(100)
    }

    /// The choices since the start, or since this was last asked.
    pub fn take_choices(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.made)
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_its_choices_give_the_same() {
        let draws = |draw: &mut Draw| (0..50).map(|limit| draw.below(limit)).collect::<Vec<_>>();
        let (mut one, mut other) = (Draw::new(7), Draw::new(7));
        let drawn = draws(&mut one);
        assert_eq!(drawn, draws(&mut other));
        let choices = one.take_choices();
        assert_eq!(draws(&mut Draw::again(choices)), drawn);
        assert!(draws(&mut Draw::again(Vec::new())).iter().all(|choice| *choice == 0));
        assert_ne!(draws(&mut Draw::new(8)), drawn);
    }
}
