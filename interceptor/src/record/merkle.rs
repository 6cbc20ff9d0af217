//! The Merkle tree of RFC 6962 (section 2.1) over the frames of a spool, held as the roots of its perfect subtrees.
//!
//! Owns hashing and growth. Does not give inclusion or consistency proofs: whoever has the spool can rebuild the tree.

use sha2::{Digest as _, Sha256};

/// SHA-256.
pub type Hash = [u8; 32];

/// A growing tree. Knows only what it needs to grow: one hash for each bit that is set in its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    subtrees: Vec<Hash>,
}

impl Tree {
    /// The tree of `size` leaves with those perfect subtrees, largest first; `None` where the count does not fit.
    #[must_use]
    pub fn from_parts(size: u64, subtrees: Vec<Hash>) -> Option<Self> {
        (usize::try_from(size.count_ones()) == Ok(subtrees.len())).then_some(Self { size, subtrees })
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the perfect subtrees, largest first.
    #[must_use]
    pub fn subtrees(&self) -> &[Hash] {
        &self.subtrees
    }

    /// Adds a leaf by its [`leaf`] hash.
    pub fn push(&mut self, mut hash: Hash) {
        let mut size = self.size;
        while size & 1 == 1 {
            if let Some(left) = self.subtrees.pop() {
                hash = node(&left, &hash);
            }
            size >>= 1;
        }
        self.subtrees.push(hash);
        self.size = self.size.saturating_add(1);
    }

    /// The root hash.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut from_right = self.subtrees.iter().rev();
        let Some(last) = from_right.next() else { return Sha256::digest([]).into() };
        from_right.fold(*last, |right, left| node(left, &right))
    }

    /// Becomes a copy of `other`, without a new allocation.
    pub fn copy_from(&mut self, other: &Self) {
        self.size = other.size;
        self.subtrees.clear();
        self.subtrees.extend_from_slice(&other.subtrees);
    }
}

/// Hash of a leaf.
#[must_use]
pub fn leaf(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962, word for word.
    fn defined(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => leaf(one),
            many => {
                let mut split = 1;
                while split * 2 < many.len() {
                    split *= 2;
                }
                node(&defined(&many[..split]), &defined(&many[split..]))
            }
        }
    }

    #[test]
    fn grows_as_the_rfc_defines() {
        let leaves: Vec<Vec<u8>> = (0..70u8).map(|n| vec![n; usize::from(n)]).collect();
        let mut tree = Tree::default();
        for (count, data) in leaves.iter().enumerate() {
            assert_eq!(tree.root(), defined(&leaves[..count]));
            tree.push(leaf(data));
            let copy = Tree::from_parts(tree.size(), tree.subtrees().to_vec()).unwrap();
            assert_eq!(copy, tree);
        }
    }

    #[test]
    fn a_wrong_number_of_subtrees_is_no_tree() {
        assert!(Tree::from_parts(3, vec![[0; 32]]).is_none());
        assert!(Tree::from_parts(0, vec![[0; 32]]).is_none());
    }

    /// Test vector of certificate-transparency-go.
    #[test]
    fn matches_a_known_root() {
        let mut tree = Tree::default();
        tree.push(leaf(b""));
        assert_eq!(
            crate::record::event::hex(&tree.root()),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
    }
}
