//! Inheritance trees: which tables' rows are seen through which, partitions included.

use std::collections::{BTreeSet, HashMap};

use super::{Catalog, Names, Relation};

/// Who inherits from whom.
#[derive(Clone, Debug, Default)]
pub struct Edges {
    parents: HashMap<u32, Vec<u32>>,
    children: HashMap<u32, Vec<u32>>,
}

/// The tables that have to do with one through inheritance; itself is not among them.
#[derive(Debug, Default)]
pub struct Tree<'a> {
    /// Those whose rows are its own, too.
    pub below: Vec<&'a Relation>,
    /// Those through which its rows are seen: above it, and above what is below it.
    pub above: Vec<&'a Relation>,
    /// Some are not known: made since, or not to be seen.
    pub others: bool,
}

impl Edges {
    /// One table inherits from another.
    pub fn add(&mut self, child: u32, parent: u32) {
        self.parents.entry(child).or_default().push(parent);
        self.children.entry(parent).or_default().push(child);
    }

    /// Whether nobody does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    fn has(&self, oid: u32) -> bool {
        self.parents.contains_key(&oid) || self.children.contains_key(&oid)
    }
}

impl Catalog {
    /// The tree around a relation, with the session's temporary heirs.
    #[must_use]
    pub fn tree<'a>(&'a self, names: &'a Names, oid: u32) -> Tree<'a> {
        self.tree_without(names, oid, None)
    }

    /// The same once another relation is gone.
    #[must_use]
    pub fn tree_without<'a>(&'a self, names: &'a Names, oid: u32, gone: Option<u32>) -> Tree<'a> {
        if !self.edges.has(oid) && !names.heirs.has(oid) {
            return Tree::default();
        }
        let both = [&self.edges, &names.heirs];
        let below = reach([oid].into(), &both.map(|edges| &edges.children), gone);
        let above = reach(below.clone(), &both.map(|edges| &edges.parents), gone);
        let mut tree = Tree::default();
        for member in &above {
            match self.any_relation(names, *member) {
                _ if *member == oid => {}
                Some(relation) if below.contains(member) => tree.below.push(relation),
                Some(relation) => tree.above.push(relation),
                None => tree.others = true,
            }
        }
        tree
    }

    /// A relation of the database or of the session's own.
    pub(super) fn any_relation<'a>(&'a self, names: &'a Names, oid: u32) -> Option<&'a Relation> {
        self.relation(oid).or_else(|| names.temporary.iter().find(|relation| relation.oid == oid))
    }
}

/// All that can be reached, with what it starts from.
fn reach(from: BTreeSet<u32>, edges: &[&HashMap<u32, Vec<u32>>; 2], gone: Option<u32>) -> BTreeSet<u32> {
    let mut waiting: Vec<u32> = from.iter().copied().collect();
    let mut found = from;
    while let Some(oid) = waiting.pop() {
        let next = edges.iter().filter_map(|edges| edges.get(&oid)).flatten();
        waiting.extend(next.copied().filter(|next| Some(*next) != gone && found.insert(*next)));
    }
    found
}
