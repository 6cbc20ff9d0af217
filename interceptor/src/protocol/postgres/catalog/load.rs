//! The reading of the rows that [`QUERIES`] and [`super::SESSION_QUERY`] give.
//!
//! Runs nothing itself: feed every row of every query, in order, to a [`Loader`]. Rows and cells are bounded; anything
//! unexpected is an error, since a catalog with gaps would resolve names wrongly.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock};

use super::code::{Class, Member};
use super::keys::{ForeignKey, Reaction};
use super::queries::QUERIES;
use super::{Catalog, Code, Column, Function, Look, Looked, Names, Operator, Relation, RelationKind, Type, Volatility};

/// Rows of one query, at most.
pub const MAX_ROWS: usize = 500_000;

/// Bytes of one cell (a view's definition), at most.
pub const MAX_CELL: usize = 1 << 20;

/// Why a catalog could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A row is not of the form that the query gives.
    #[error("query {0} of the catalog gave a row that cannot be read")]
    Row(usize),
    /// More than [`MAX_ROWS`], or a cell of more than [`MAX_CELL`].
    #[error("query {0} of the catalog gave more than can be held")]
    TooMuch(usize),
    /// Not every query was answered.
    #[error("the catalog has {0} of its queries answered")]
    Unfinished(usize),
}

/// Keyed by chance, so that nobody can make two catalogs look the same.
static HASHING: LazyLock<RandomState> = LazyLock::new(RandomState::new);

type Cells<'a> = &'a [Option<&'a str>];

/// Builds a [`Catalog`] from the rows of [`QUERIES`].
#[derive(Debug, Default)]
pub struct Loader {
    catalog: Catalog,
    names: HashMap<String, Arc<str>>,
    casts: Vec<[u32; 3]>,
    next: usize,
    /// Rows of the next query so far.
    taken: usize,
}

impl Loader {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes all rows of the next query.
    ///
    /// # Errors
    /// [`LoadError`]; the loader is of no more use then.
    pub fn rows(&mut self, rows: &[Vec<Option<String>>]) -> Result<(), LoadError> {
        for row in rows {
            self.take(&borrowed(row))?;
        }
        self.end();
        Ok(())
    }

    /// Takes one row of the next query.
    ///
    /// # Errors
    /// [`LoadError`]; the loader is of no more use then.
    pub fn take(&mut self, row: &[Option<&str>]) -> Result<(), LoadError> {
        let query = self.next;
        self.taken += 1;
        if self.taken > MAX_ROWS || row.iter().flatten().any(|cell| cell.len() > MAX_CELL) {
            return Err(LoadError::TooMuch(query));
        }
        self.row(query, row).ok_or(LoadError::Row(query))?;
        let hash = HASHING.hash_one((query, row));
        self.catalog.fingerprint = self.catalog.fingerprint.wrapping_add(hash);
        Ok(())
    }

    /// The next query has no more rows.
    pub fn end(&mut self) {
        (self.next, self.taken) = (self.next + 1, 0);
    }

    /// The catalog, once every query was answered.
    ///
    /// # Errors
    /// [`LoadError::Unfinished`].
    pub fn finish(mut self) -> Result<Catalog, LoadError> {
        if self.next != QUERIES.len() {
            return Err(LoadError::Unfinished(self.next));
        }
        for [source, target, function] in std::mem::take(&mut self.casts) {
            let builtin = |oid: u32| oid < super::FIRST_NORMAL_OID;
            if builtin(source) && builtin(target) {
                self.catalog.builtin_cast_functions.push(function);
            }
            // From a type that somebody made, only values of that one are cast.
            let of = if builtin(source) { target } else { source };
            if !builtin(of) {
                self.catalog.casts.entry(of).or_default().push(function);
            }
        }
        self.catalog.sort_members();
        Ok(self.catalog)
    }

    fn row(&mut self, query: usize, row: Cells<'_>) -> Option<()> {
        match query {
            0 => {
                let name = self.name(text(row, 0)?);
                self.catalog.schemas.insert(name);
            }
            1 => self.relation(row)?,
            2 => {
                let column = Column {
                    number: text(row, 1)?.parse().ok()?,
                    name: self.name(text(row, 2)?),
                    type_oid: number(row, 3)?,
                    primary: flag(row, 4)?,
                    partitions: flag(row, 5)?,
                    typmod: text(row, 6)?.parse().ok()?,
                    bound: false,
                    alike: false,
                    generated_from: Vec::new(),
                };
                // A relation made between the two queries is not known yet: it is unknown until the next load.
                if let Some(relation) = self.catalog.relations.get_mut(&number(row, 0)?) {
                    relation.columns.push(column);
                }
            }
            3 => self.function(row)?,
            4 => {
                let name = self.name(text(row, 1)?);
                let operator =
                    Operator { schema: self.name(text(row, 0)?), name: Arc::clone(&name), function: number(row, 2)? };
                self.catalog.operators.entry(name).or_default().push(operator);
            }
            5 => self.type_row(row)?,
            6 => self.casts.push([number(row, 0)?, number(row, 1)?, number(row, 2)?]),
            7 => self.catalog.edges.add(number(row, 0)?, number(row, 1)?),
            8 => {
                let (column, source): (i16, i16) = (text(row, 1)?.parse().ok()?, text(row, 2)?.parse().ok()?);
                let relation = self.catalog.relations.get_mut(&number(row, 0)?);
                let known = relation.and_then(|found| found.columns.iter_mut().find(|known| known.number == column));
                if let Some(known) = known {
                    known.generated_from.push(source);
                }
                if let Some(relation) = self.catalog.relations.get_mut(&number(row, 0)?) {
                    relation.bind(source);
                }
            }
            9 => {
                let name = cell(row, 4)?.map(|name| self.name(name));
                let (family, function) = (number(row, 0)?, number(row, 3)?);
                let types = [number(row, 1)?, number(row, 2)?];
                self.catalog.members.push(Member { family, types, function, name });
            }
            10 => {
                let class = Class {
                    schema: self.name(text(row, 1)?),
                    name: self.name(text(row, 2)?),
                    family: number(row, 3)?,
                    of: number(row, 4)?,
                    default: flag(row, 5)?,
                };
                self.catalog.classes.insert(number(row, 0)?, class);
            }
            11 => self.catalog.event_triggers = true,
            12 => {
                let column: i16 = text(row, 1)?.parse().ok()?;
                let name = cell(row, 2)?.map(|name| self.name(name));
                if let Some(relation) = self.catalog.relations.get_mut(&number(row, 0)?) {
                    relation.constrain(column, name);
                }
            }
            13 => {
                let kept = code(row, 1)?;
                if let Some(relation) = self.catalog.relations.get_mut(&number(row, 0)?) {
                    relation.kept = kept;
                }
            }
            14 => {
                let name = self.name(text(row, 2)?);
                let cleared = numbers(cell(row, 6)?)?;
                self.catalog.keys.add(key(
                    [0, 1, 3, 4].map(|at| cell(row, at).flatten()),
                    text(row, 5)?,
                    name,
                    cleared,
                )?);
            }
            15 => {
                let policies = flag(row, 1)?;
                let look = if cell(row, 2)?.is_some() { Some(look(row)?) } else { None };
                if let Some(relation) = self.catalog.relations.get_mut(&number(row, 0)?) {
                    relation.looked_at |= !policies;
                    relation.policies |= policies;
                    relation.hidden_by.extend(look);
                }
            }
            16 => {
                let column: i16 = text(row, 1)?.parse().ok()?;
                let relation = self.catalog.relations.get_mut(&number(row, 0)?);
                if let Some(known) = relation.and_then(|found| found.columns.iter_mut().find(|c| c.number == column)) {
                    known.alike = true;
                }
            }
            17 => self.catalog.version = number(row, 0)?,
            _ => return None,
        }
        Some(())
    }

    fn relation(&mut self, row: Cells<'_>) -> Option<()> {
        let kind = text(row, 3)?;
        let relation = Relation {
            oid: number(row, 0)?,
            schema: self.name(text(row, 1)?),
            name: self.name(text(row, 2)?),
            kind: relation_kind(kind)?,
            columns: Vec::new(),
            definition: cell(row, 4)?.map(Into::into),
            triggers: flag(row, 5)?,
            rules: flag(row, 6)?,
            code: code(row, 7)?,
            kept: Code::default(),
            looked_at: false,
            policies: false,
            hidden_by: Vec::new(),
            constraints: Vec::new(),
        };
        // A composite type has columns, but no name that a FROM could use.
        if kind != "c" {
            self.catalog.by_name.entry(Arc::clone(&relation.name)).or_default().push(relation.oid);
        }
        self.catalog.relations.insert(relation.oid, relation);
        Some(())
    }

    fn function(&mut self, row: Cells<'_>) -> Option<()> {
        let function = Function {
            oid: number(row, 0)?,
            schema: self.name(text(row, 1)?),
            name: self.name(text(row, 2)?),
            volatility: match text(row, 3)? {
                "i" => Volatility::Immutable,
                "s" => Volatility::Stable,
                "v" => Volatility::Volatile,
                _ => return None,
            },
            security_definer: flag(row, 4)?,
            language: self.name(text(row, 5)?),
            extension: cell(row, 6)?.map(|name| self.name(name)),
        };
        let same = self.catalog.functions.entry(Arc::clone(&function.name)).or_default();
        self.catalog.function_oids.insert(function.oid, (Arc::clone(&function.name), same.len()));
        same.push(function);
        Some(())
    }

    fn type_row(&mut self, row: Cells<'_>) -> Option<()> {
        let found = Type {
            oid: number(row, 0)?,
            schema: self.name(text(row, 1)?),
            name: self.name(text(row, 2)?),
            kind: text(row, 3)?.chars().next()?,
            base: number(row, 4)?,
            relation: number(row, 5)?,
            code: code(row, 6)?,
        };
        self.catalog.types_by_name.entry(Arc::clone(&found.name)).or_default().push(found.oid);
        self.catalog.types.insert(found.oid, found);
        Some(())
    }

    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return Arc::clone(known);
        }
        let name: Arc<str> = text.into();
        self.names.insert(text.to_owned(), Arc::clone(&name));
        name
    }
}

impl Names {
    /// Reads the rows of [`SESSION_QUERY`].
    ///
    /// # Errors
    /// [`LoadError`]: nothing about the session's names is known then.
    pub fn from_rows(rows: &[Vec<Option<String>>]) -> Result<Self, LoadError> {
        let query = QUERIES.len();
        if rows.len() > MAX_ROWS {
            return Err(LoadError::TooMuch(query));
        }
        let mut names = Self::default();
        let mut complete = 0;
        for row in rows {
            complete += names.row(&borrowed(row)).ok_or(LoadError::Row(query))?;
        }
        if complete == 2 { Ok(names) } else { Err(LoadError::Row(query)) }
    }

    /// Reads one row; says how many of the rows that must be there exactly once this is.
    fn row(&mut self, row: Cells<'_>) -> Option<u32> {
        match text(row, 0)? {
            "path" => self.search_path.push(text(row, 1)?.into()),
            "user" => {
                self.user = text(row, 1)?.into();
                self.session_user = text(row, 2)?.into();
                return Some(1);
            }
            "text" => {
                self.plain_text = text(row, 1)? == "on" && matches!(text(row, 2)?, "UTF8" | "SQL_ASCII");
                return Some(1);
            }
            "relation" => self.temporary.push(Relation {
                oid: number(row, 1)?,
                schema: text(row, 2)?.into(),
                name: text(row, 3)?.into(),
                kind: relation_kind(text(row, 4)?.get(..1)?)?,
                columns: Vec::new(),
                definition: cell(row, 5)?.map(Into::into),
                // Flags stand after the kind.
                triggers: text(row, 4)?.get(1..)?.contains('t'),
                rules: text(row, 4)?.get(1..)?.contains('r'),
                code: Code::default(),
                kept: Code::default(),
                looked_at: false,
                policies: false,
                hidden_by: Vec::new(),
                constraints: Vec::new(),
            }),
            "type" => self.types.push(Type {
                oid: number(row, 1)?,
                schema: "pg_temp".into(),
                name: text(row, 2)?.into(),
                kind: text(row, 3)?.chars().next()?,
                base: number(row, 4)?,
                relation: number(row, 5)?,
                code: Code::default(),
            }),
            "code" => {
                let oid = number(row, 1)?;
                let relation = self.temporary.iter_mut().find(|known| known.oid == oid)?;
                one_of(&mut relation.code, row)?;
                // Which of it keeps its indexes in order is not told.
                one_of(&mut relation.kept, row)?;
            }
            "inner" => {
                let oid = number(row, 1)?;
                one_of(&mut self.types.iter_mut().find(|known| known.oid == oid)?.code, row)?;
            }
            "heir" => self.heirs.add(number(row, 1)?, number(row, 2)?),
            "generated" => {
                let oid = number(row, 1)?;
                let (column, source): (i16, i16) = (text(row, 2)?.parse().ok()?, text(row, 3)?.parse().ok()?);
                let relation = self.temporary.iter_mut().find(|known| known.oid == oid)?;
                relation.columns.iter_mut().find(|known| known.number == column)?.generated_from.push(source);
                relation.bind(source);
            }
            "bound" => {
                let (oid, column): (u32, i16) = (number(row, 1)?, text(row, 2)?.parse().ok()?);
                let relation = self.temporary.iter_mut().find(|known| known.oid == oid)?;
                relation.constrain(column, cell(row, 3)?.map(Into::into));
            }
            "key" => {
                let (reactions, name) = text(row, 5)?.split_once(':')?;
                self.keys.add(key([1, 2, 3, 4].map(|at| cell(row, at).flatten()), reactions, name.into(), Vec::new())?);
            }
            "column" => {
                let oid = number(row, 1)?;
                let (flags, typmod) = cell(row, 5)?.and_then(|flags| flags.split_once(':')).unwrap_or(("", "-1"));
                let relation = self.temporary.iter_mut().find(|known| known.oid == oid)?;
                relation.columns.push(Column {
                    number: text(row, 2)?.parse().ok()?,
                    name: text(row, 3)?.into(),
                    type_oid: number(row, 4)?,
                    primary: flags.contains('p'),
                    partitions: flags.contains('k'),
                    typmod: typmod.parse().ok()?,
                    bound: false,
                    // Not asked for.
                    alike: true,
                    generated_from: Vec::new(),
                });
            }
            _ => return None,
        }
        Some(0)
    }
}

impl Relation {
    /// A column of which values can be refused; 0 stands for all.
    fn bind(&mut self, number: i16) {
        for column in self.columns.iter_mut().filter(|column| number == 0 || column.number == number) {
            column.bound = true;
        }
    }

    /// The same by a constraint of that name.
    fn constrain(&mut self, number: i16, name: Option<Arc<str>>) {
        self.bind(number);
        self.constraints.extend(name.map(|name| (name, number)));
    }
}

/// A foreign key: the tables and columns of both sides, what it does where a row is changed and where one is removed, with a
/// sign where it is there for another key; and which columns are cleared, if not all.
fn key(
    [referring, referred, columns, keys]: [Option<&str>; 4],
    reactions: &str,
    name: Arc<str>,
    cleared: Vec<i16>,
) -> Option<ForeignKey> {
    let mut reactions = reactions.chars();
    let columns = numbers(columns)?;
    Some(ForeignKey {
        name,
        referring: referring?.parse().ok()?,
        referred: referred?.parse().ok()?,
        keys: numbers(keys)?,
        on_update: reaction(reactions.next()?)?,
        on_delete: reaction(reactions.next()?)?,
        inherited: reactions.next() == Some('i'),
        cleared: if cleared.is_empty() { columns.clone() } else { cleared },
        columns,
    })
}

const fn reaction(sign: char) -> Option<Reaction> {
    Some(match sign {
        'a' | 'r' => Reaction::Nothing,
        'c' => Reaction::Cascade,
        'n' | 'd' => Reaction::Clear,
        _ => return None,
    })
}

/// Numbers of columns.
fn numbers(list: Option<&str>) -> Option<Vec<i16>> {
    list.map_or(Some(Vec::new()), |list| list.split(',').map(|number| number.trim().parse().ok()).collect())
}

/// The one function, type or operator class of a row of the session's.
fn one_of(code: &mut Code, row: Cells<'_>) -> Option<()> {
    let take = |at| cell(row, at)?.map_or(Some(None), |oid| oid.parse::<u32>().ok().map(Some));
    code.functions.extend(take(2)?);
    code.types.extend(take(3)?);
    code.classes.extend(take(4)?);
    Some(())
}

/// What a row policy looks at.
fn look(row: Cells<'_>) -> Option<Look> {
    let at = match text(row, 3)? {
        "rows" => Looked::Rows,
        "row" => Looked::Row,
        number => Looked::Column(number.parse().ok()?),
    };
    Some(Look { relation: number(row, 2)?, at, reading: flag(row, 4)? })
}

/// The same as lists, from that cell on.
fn code(row: Cells<'_>, at: usize) -> Option<Code> {
    Some(Code {
        functions: oids(cell(row, at)?)?,
        types: oids(cell(row, at + 1)?)?,
        classes: oids(cell(row, at + 2)?)?,
    })
}

fn relation_kind(text: &str) -> Option<RelationKind> {
    Some(match text {
        "r" => RelationKind::Table,
        "p" => RelationKind::Partitioned,
        "v" => RelationKind::View,
        "m" => RelationKind::Materialized,
        "f" => RelationKind::Foreign,
        "S" => RelationKind::Sequence,
        "c" => RelationKind::Composite,
        _ => return None,
    })
}

/// The cell at a place; `None` outside of the row.
fn cell<'a>(row: Cells<'a>, at: usize) -> Option<Option<&'a str>> {
    row.get(at).copied()
}

fn borrowed(row: &[Option<String>]) -> Vec<Option<&str>> {
    row.iter().map(Option::as_deref).collect()
}

fn text<'a>(row: Cells<'a>, at: usize) -> Option<&'a str> {
    cell(row, at)?
}

fn number(row: Cells<'_>, at: usize) -> Option<u32> {
    text(row, at)?.parse().ok()
}

fn flag(row: Cells<'_>, at: usize) -> Option<bool> {
    match text(row, at)? {
        "t" | "true" => Some(true),
        "f" | "false" => Some(false),
        _ => None,
    }
}

fn oids(list: Option<&str>) -> Option<Vec<u32>> {
    list.map_or(Some(Vec::new()), |list| list.split(',').map(|oid| oid.parse().ok()).collect())
}
