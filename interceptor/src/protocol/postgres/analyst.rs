//! One session's understanding of texts: the analysis with the session's names, and what is known of both.
//!
//! Readings are kept by text or by shape, [`READINGS_LIMIT`] of each with [`KEPT_BYTES_LIMIT`], as long as texts mean the same. Where what names
//! mean is not known (`blind`), every text is opaque but transaction control, which names nothing.
//!
//! Before a text is read, [`Analyst::is_stale`] says whether something has to be asked again: the session's own names, its
//! own catalog (DDL in this session), or the shared one (DDL elsewhere, age, or an unknown name that a newer one may know).

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;

use super::analysis::{self, Analysis, ColumnTags, Known, LONG_TEXT, Parsed, Scope, SessionEffect};
use super::catalog::{Catalog, Names, RelationKind};
use super::driver::Shelf;
use super::machine::Rows;
use super::shape::shape;
use super::statement::{Analyst, Reading};
use crate::mask::Rules;
use crate::policy::{Tag, TagSet};

/// Readings that a session keeps.
pub(super) const READINGS_LIMIT: usize = 512;

/// Texts longer than this are read each time, so that the kept ones stay small in sum.
pub(super) const KEPT_TEXT_LIMIT: usize = 64 << 10;

/// Bytes that the readings kept by text hold together, and those kept by shape.
pub(super) const KEPT_BYTES_LIMIT: usize = 2 << 20;

/// What names mean is not asked for again so soon after it could not be learned: meanwhile texts are opaque.
const MISSED: Duration = Duration::from_secs(1);

/// A session's analyst.
#[derive(Debug)]
pub(super) struct SessionAnalyst {
    target: Arc<str>,
    database: Arc<str>,
    catalog: Arc<Catalog>,
    names: Names,
    /// What `names` was read from, where that is known.
    rows: Option<Rows>,
    rules: Arc<Rules>,
    readings: Readings<Arc<str>>,
    /// Readings that hold for every text of a shape.
    shapes: Readings<Box<[u8]>>,
    /// A long text that is to be read next.
    parsed: Option<Parsed>,
    epoch: u64,
    stale_names: bool,
    stale_catalog: bool,
    /// A name was unknown or a result another one than was read, and a newer catalog could explain it.
    doubted: bool,
    blind: bool,
    /// When what names mean was asked for last, where it could not be learned.
    missed: Option<Duration>,
    shelf: Arc<Shelf>,
    /// The version of the shelf under which `catalog` holds.
    version: u64,
}

/// Readings, of which the one that was used longest ago goes first.
#[derive(Debug)]
pub(super) struct Readings<K: Hash + Eq> {
    // Bounded by `put`: a bound given to it would take its memory at once, in every idle session.
    kept: LruCache<K, Arc<Reading>>,
    bytes: usize,
    /// What they may hold.
    most: usize,
}

impl<K: Hash + Eq> Readings<K> {
    /// None, and room for that many bytes of them.
    pub(super) fn new(most: usize) -> Self {
        Self { kept: LruCache::unbounded(), bytes: 0, most }
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&Arc<Reading>>
    where
        K: Borrow<Q>,
    {
        self.kept.get(key)
    }

    pub(super) fn put(&mut self, key: K, reading: &Arc<Reading>) {
        self.bytes += reading.weight();
        let mut gone = self.kept.put(key, Arc::clone(reading));
        loop {
            self.bytes -= gone.map_or(0, |gone| gone.weight());
            if self.kept.len() <= READINGS_LIMIT && self.bytes <= self.most {
                return;
            }
            gone = self.kept.pop_lru().map(|(_, gone)| gone);
        }
    }

    fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }
}

/// Which catalog a session needs before it reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// None: what it has holds.
    Nothing,
    /// As its own transaction sees it now.
    Own,
    /// The shared one, as it is now.
    Shared,
    /// The shared one, new enough to believe that a name is unknown.
    Newer,
}

impl SessionAnalyst {
    pub(super) fn new(
        target: Arc<str>,
        database: Arc<str>,
        (catalog, shelf, version): (Arc<Catalog>, Arc<Shelf>, u64),
        names: Names,
        rules: Arc<Rules>,
    ) -> Self {
        Self {
            target,
            database,
            catalog,
            names,
            rows: None,
            rules,
            readings: Readings::new(KEPT_BYTES_LIMIT),
            shapes: Readings::new(KEPT_BYTES_LIMIT),
            parsed: None,
            epoch: 0,
            stale_names: false,
            stale_catalog: false,
            doubted: false,
            blind: false,
            missed: None,
            shelf,
            version,
        }
    }

    /// How the session looks up names.
    pub(super) const fn names(&self) -> &Names {
        &self.names
    }

    /// Which catalog is needed.
    pub(super) fn wanted(&self) -> Wanted {
        if self.stale_catalog {
            Wanted::Own
        } else if self.version != self.shelf.version() || self.shelf.is_stale() {
            Wanted::Shared
        } else if self.doubted {
            Wanted::Newer
        } else {
            Wanted::Nothing
        }
    }

    /// Whether the names that the session knows have to be asked for, now that it is to have this catalog.
    pub(super) fn wants_names(&self, catalog: Option<&Arc<Catalog>>) -> bool {
        let same = catalog.is_none_or(|newer| Arc::ptr_eq(newer, &self.catalog));
        self.stale_names || self.stale_catalog || self.blind || !same
    }

    /// The catalog that it has holds under this version of the shelf, or the name in doubt stays unknown.
    pub(super) fn confirmed(&mut self, version: Option<u64>) {
        self.doubted = false;
        self.version = version.unwrap_or(self.version);
    }

    /// The state of the session, as the target says: rows of the session query, or `None` when it could not be learned;
    /// and the catalog that was wanted, with the version of the shelf under which it holds.
    pub(super) fn resynced(&mut self, rows: Option<Rows>, catalog: Option<(Arc<Catalog>, u64)>) {
        // Without a newer catalog an unknown name stays unknown; without one that holds nothing is known.
        let loaded = matches!(self.wanted(), Wanted::Nothing | Wanted::Newer) || catalog.is_some();
        (self.stale_names, self.stale_catalog, self.doubted) = (false, false, false);
        let (catalog, version) = catalog.unzip();
        if let Some(version) = version {
            self.version = version;
        }
        let same = catalog.as_ref().is_none_or(|newer| Arc::ptr_eq(newer, &self.catalog));
        if same && rows.is_some() && rows == self.rows && loaded && !self.blind {
            return;
        }
        let names = rows.as_ref().and_then(|rows| Names::from_rows(rows).ok());
        let missed = names.is_none() || !loaded;
        self.missed = missed.then(Shelf::now);
        if missed && self.blind {
            // Nothing was known before, and nothing is: what waits for a verdict is what it was.
            return;
        }
        self.blind = missed;
        self.names = names.unwrap_or_default();
        self.rows = rows;
        if let Some(catalog) = catalog {
            self.catalog = catalog;
        }
        self.epoch += 1;
        self.readings.clear();
        self.shapes.clear();
    }

    fn scope<'a>(&'a self, known: &'a dyn Known, tags: &'a dyn ColumnTags) -> Scope<'a> {
        Scope {
            target: &self.target,
            database: &self.database,
            catalog: &self.catalog,
            names: &self.names,
            tags,
            known,
            parsed: self.parsed.as_ref(),
        }
    }

    fn analyze(&self, text: &str, known: &dyn Known) -> Analysis {
        let analysis = analysis::analyze(text, &self.scope(known, &Tags(&self.rules)));
        let names_nothing =
            || analysis.statements.iter().all(|statement| matches!(statement.effect, SessionEffect::Transaction(_)));
        if self.blind && !names_nothing() {
            return self.blank(text, "what names mean in this session is not known just now");
        }
        analysis
    }

    /// A text that [`Analyst::is_parsed`] asked for. The one before is given back.
    pub(super) const fn set_parsed(&mut self, parsed: Option<Parsed>) -> Option<Parsed> {
        std::mem::replace(&mut self.parsed, parsed)
    }

    /// Bytes that the readings hold, about.
    pub(super) const fn weight(&self) -> usize {
        self.readings.bytes + self.shapes.bytes
    }

    fn keep(&mut self, reading: &Arc<Reading>) {
        if reading.analysis.session_bound || reading.text.len() > KEPT_TEXT_LIMIT {
            return;
        }
        self.readings.put(Arc::clone(&reading.text), reading);
    }

    fn blank(&self, text: &str, why: &str) -> Analysis {
        analysis::opaque(text, &self.target, &self.database, &Tags(&self.rules), why)
    }

    fn reading(&self, text: &str, analysis: Analysis) -> Arc<Reading> {
        Arc::new(Reading::new(text.into(), Arc::new(analysis), self.epoch))
    }
}

impl Analyst for SessionAnalyst {
    fn read(&mut self, text: &str, known: &dyn Known) -> Arc<Reading> {
        if let Some(kept) = self.readings.get(text) {
            return Arc::clone(kept);
        }
        let shape = shape(text);
        if let Some(alike) = shape.as_ref().and_then(|shape| self.shapes.get(shape)) {
            return Arc::new(Reading { text: text.into(), ..Reading::clone(alike) });
        }
        if let Some(shape) = shape.as_ref().filter(|_| !self.blind)
            && let Some(alike) = self.shelf.readings.find(&self.catalog, &self.rules, &self.names, shape)
        {
            let reading = Arc::new(Reading { text: text.into(), epoch: self.epoch, ..Reading::clone(&alike) });
            self.shapes.put(shape.clone(), &reading);
            return reading;
        }
        let reading = self.reading(text, self.analyze(text, known));
        match shape.filter(|_| reading.analysis.is_of_shape()) {
            Some(shape) => {
                if !self.blind {
                    self.shelf.readings.keep(&self.catalog, &self.rules, &self.names, (&shape, &reading));
                }
                self.shapes.put(shape, &reading);
            }
            None => self.keep(&reading),
        }
        reading
    }

    fn is_parsed(&self, text: &str) -> bool {
        text.len() <= LONG_TEXT
            || self.readings.kept.contains(text)
            || self.parsed.as_ref().is_some_and(|parsed| **parsed.text() == *text)
    }

    fn opaque(&mut self, what: &str, why: &str) -> Arc<Reading> {
        self.reading(what, self.blank(what, why))
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn version(&self) -> u64 {
        self.shelf.version()
    }

    fn read_under(&self) -> u64 {
        self.version
    }

    fn announce(&self) -> u64 {
        self.shelf.mark_changed()
    }

    fn is_stale(&self) -> bool {
        let missed = self.missed.is_some_and(|at| Shelf::now().saturating_sub(at) < MISSED);
        !missed && (self.stale_names || self.blind || self.wanted() != Wanted::Nothing)
    }

    fn names_nothing(&self, text: &str) -> bool {
        // How text is read has to be known, all the same.
        !self.stale_names
            && text.len() <= LONG_TEXT
            && self.reading(text, self.analyze(text, &analysis::NothingKnown)).names_nothing()
    }

    fn touch(&mut self, names: bool, catalog: bool) {
        self.stale_names |= names;
        self.stale_catalog |= catalog;
        if catalog {
            let _others_ask_again = self.shelf.mark_changed();
        }
    }

    fn doubt(&mut self, reading: &Reading) -> bool {
        self.doubted = !self.blind && reading.analysis.missing.as_ref().is_some_and(|missing| missing.in_catalog);
        self.doubted
    }

    fn surprise(&mut self) {
        self.doubted |= !self.blind;
    }

    fn column_tags(&self, table: u32, column: i16, traced: bool) -> Option<TagSet> {
        let temporary = self.names.temporary.iter().find(|relation| relation.oid == table);
        let relation = temporary.or_else(|| self.catalog.relation(table))?;
        if matches!(relation.kind, RelationKind::View | RelationKind::Materialized) && !traced {
            return None;
        }
        let column = relation.columns.iter().find(|known| known.number == column)?;
        if !column.generated_from.is_empty() && !traced {
            return None;
        }
        let tags = &Tags(&self.rules);
        Some(analysis::tags_of_column(&self.scope(&analysis::NothingKnown, tags), relation, &column.name))
    }

    fn column_type(&self, table: u32, column: i16) -> Option<u32> {
        let temporary = self.names.temporary.iter().find(|relation| relation.oid == table);
        let relation = temporary.or_else(|| self.catalog.relation(table))?;
        relation.columns.iter().find(|known| known.number == column).map(|column| column.type_oid)
    }

    fn is_text(&self, type_oid: u32) -> bool {
        self.catalog.type_of(type_oid).is_some_and(|found| &*found.name == "citext")
    }

    fn runs_code(&self, type_oid: u32) -> bool {
        analysis::runs_code(&self.catalog, &self.names, type_oid)
    }

    fn setting(&mut self, name: &[u8], value: &[u8]) {
        let plain = match name {
            b"client_encoding" => matches!(value, b"UTF8" | b"SQL_ASCII"),
            b"standard_conforming_strings" => value == b"on",
            _ => return,
        };
        // What was reported counts at once; what else it means is asked before the next text is read.
        if plain != self.names.plain_text {
            self.stale_names = true;
        }
    }
}

/// The masking rules, as the analysis asks them.
struct Tags<'a>(&'a Rules);

impl ColumnTags for Tags<'_> {
    fn tags(&self, target: &str, database: &str, schema: &str, table: &str, column: &str) -> TagSet {
        self.0.tags(target, database, schema, table, column)
    }

    fn all(&self) -> TagSet {
        self.0.known_tags()
    }

    fn hides_all(&self, tag: &Tag) -> bool {
        self.0.hides_all(tag)
    }
}
