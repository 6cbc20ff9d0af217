//! What values and tables set off unseen: casts, checks, input and output, comparisons.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Catalog, FIRST_NORMAL_OID, Names};

/// Types that are followed from one, at most; past that what they run is unknown.
const MAX_TYPES: usize = 65_536;

/// What an expression, or whatever holds one, can run: not of the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// Functions, also those behind operators.
    pub functions: Vec<u32>,
    /// Types, which bring code of their own.
    pub types: Vec<u32>,
    /// Operator classes.
    pub classes: Vec<u32>,
}

/// A member of an operator family: a support function, or an operator.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) family: u32,
    pub(super) types: [u32; 2],
    pub(super) function: u32,
    /// The symbol of an operator.
    pub(super) name: Option<Arc<str>>,
}

/// An operator class that `initdb` did not make.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) schema: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) family: u32,
    /// The type that it is for.
    pub(super) of: u32,
    /// What the type sorts or is grouped by where nothing else is said.
    pub(super) default: bool,
}

/// Members of operator families, by what sets them off.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    /// By a type that somebody made, or whose default somebody made.
    by_type: HashMap<u32, Vec<u32>>,
    by_family: HashMap<u32, Vec<([u32; 2], u32)>>,
    /// By sorting with an operator of that name.
    by_operator: HashMap<Arc<str>, BTreeSet<u32>>,
    /// Those that an index, a type or a sort calls by its number, never by a symbol: no text can.
    support: BTreeSet<u32>,
    /// Between types of the system, in families of the system: wherever these meet.
    builtin: BTreeSet<u32>,
}

/// Functions that something can set off.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Functions {
    /// Their OIDs, not of the system.
    pub known: BTreeSet<u32>,
    /// There may be others.
    pub others: bool,
}

impl Catalog {
    /// Once all members and classes are known.
    pub(super) fn sort_members(&mut self) {
        let normal = |oid: u32| oid >= FIRST_NORMAL_OID;
        let mut sorted = Comparisons::default();
        let mut symbols: HashMap<u32, BTreeSet<Arc<str>>> = HashMap::new();
        for member in &self.members {
            symbols.entry(member.family).or_default().extend(member.name.clone());
            if !normal(member.function) {
                continue;
            }
            if member.name.is_none() {
                sorted.support.insert(member.function);
            }
            sorted.by_family.entry(member.family).or_default().push((member.types, member.function));
            for end in member.types.into_iter().filter(|end| normal(*end)) {
                sorted.by_type.entry(end).or_default().push(member.function);
            }
            if !normal(member.family) && !member.types.into_iter().any(normal) {
                sorted.builtin.insert(member.function);
            }
        }
        for (family, names) in symbols {
            let functions = sorted.by_family.get(&family).into_iter().flatten().map(|(_, function)| *function);
            let functions: BTreeSet<u32> = functions.collect();
            for name in names.into_iter().filter(|_| !functions.is_empty()) {
                sorted.by_operator.entry(name).or_default().extend(&functions);
            }
        }
        for class in self.classes.values().filter(|class| class.default) {
            let functions: Vec<u32> = sorted.of_class(class).collect();
            sorted.by_type.entry(class.of).or_default().extend(functions);
        }
        self.comparisons = sorted;
    }

    /// Functions that values of these types can set off: checks of domains, casts from and to them, input and output,
    /// comparisons; for the types themselves, what they are made of, and the columns of composites.
    #[must_use]
    pub fn code_of_types(&self, names: &Names, types: impl IntoIterator<Item = u32>) -> Functions {
        self.code_of(names, [&Code { types: types.into_iter().collect(), ..Code::default() }])
    }

    /// Functions that such code runs, and that values of its types can set off.
    #[must_use]
    pub fn code_of<'c>(&self, names: &Names, code: impl IntoIterator<Item = &'c Code>) -> Functions {
        let mut found = Functions::default();
        let mut seen = BTreeSet::new();
        let mut waiting = Vec::new();
        for code in code {
            self.take(code, &mut found, &mut waiting);
        }
        while let Some(oid) = waiting.pop() {
            if oid == 0 || self.is_bare(oid) || !seen.insert(oid) {
                continue;
            }
            if seen.len() > MAX_TYPES {
                found.others = true;
                break;
            }
            found.known.extend(self.casts.get(&oid).into_iter().chain(self.comparisons.by_type.get(&oid)).flatten());
            let Some(known) = names.types.iter().find(|known| known.oid == oid).or_else(|| self.types.get(&oid)) else {
                // One of another session, or made since.
                found.others |= oid >= FIRST_NORMAL_OID;
                continue;
            };
            waiting.push(known.base);
            self.take(&known.code, &mut found, &mut waiting);
            if let Some(relation) = self.any_relation(names, known.relation) {
                waiting.extend(relation.columns.iter().map(|column| column.type_oid));
            }
        }
        found
    }

    /// A type, and all that are made of it: domains over it, arrays, ranges and composites.
    #[must_use]
    pub fn types_made_of(&self, oid: u32) -> BTreeSet<u32> {
        let mut users: HashMap<u32, Vec<u32>> = HashMap::new();
        for known in self.types.values() {
            let fields = self.relations.get(&known.relation).into_iter().flat_map(|relation| &relation.columns);
            for part in fields.map(|column| column.type_oid).chain([known.base]).chain(known.code.types.iter().copied())
            {
                users.entry(part).or_default().push(known.oid);
            }
        }
        let (mut found, mut waiting) = (BTreeSet::from([oid]), vec![oid]);
        while let Some(part) = waiting.pop() {
            waiting.extend(users.get(&part).into_iter().flatten().copied().filter(|user| found.insert(*user)));
        }
        found
    }

    fn take(&self, code: &Code, found: &mut Functions, waiting: &mut Vec<u32>) {
        found.known.extend(&code.functions);
        waiting.extend(&code.types);
        for oid in &code.classes {
            match self.classes.get(oid) {
                Some(class) => found.known.extend(self.comparisons.of_class(class)),
                None => found.others |= *oid >= FIRST_NORMAL_OID,
            }
        }
    }

    /// Whether it is a type of the system to which nobody has added anything.
    fn is_bare(&self, oid: u32) -> bool {
        oid < FIRST_NORMAL_OID && !self.casts.contains_key(&oid) && !self.comparisons.by_type.contains_key(&oid)
    }

    /// Functions of every operator class of that name which a session could mean; none for one of the system, `None`
    /// where there is no such class.
    #[must_use]
    pub fn code_of_class(&self, names: &Names, schema: Option<&str>, name: &str) -> Option<BTreeSet<u32>> {
        let reached = |class: &&Class| match schema {
            Some(schema) => *class.schema == *schema,
            None => names.search_path.contains(&class.schema),
        };
        let mut found = BTreeSet::new();
        let mut any = schema.is_none_or(|schema| schema == "pg_catalog");
        for class in self.classes.values().filter(|class| *class.name == *name).filter(reached) {
            any = true;
            found.extend(self.comparisons.of_class(class));
        }
        any.then_some(found)
    }

    /// Functions that sorting by an operator of that name can run.
    pub fn code_of_order(&self, name: &str) -> impl Iterator<Item = u32> + '_ {
        self.comparisons.by_operator.get(name).into_iter().flatten().copied()
    }

    /// Whether it is there for operator classes or types to call: what these are declared to be, nobody looks at.
    #[must_use]
    pub fn is_support(&self, function: u32) -> bool {
        self.comparisons.support.contains(&function)
    }

    /// Comparisons that somebody added between types of the system: they can run wherever such types meet.
    pub fn comparisons_of_builtins(&self) -> impl Iterator<Item = u32> + '_ {
        self.comparisons.builtin.iter().copied()
    }
}

impl Comparisons {
    fn of_class<'a>(&'a self, class: &'a Class) -> impl Iterator<Item = u32> + 'a {
        let members = self.by_family.get(&class.family).into_iter().flatten();
        members.filter(|(types, _)| types.contains(&class.of)).map(|(_, function)| *function)
    }
}
