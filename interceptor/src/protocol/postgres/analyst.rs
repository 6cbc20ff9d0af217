//! One session's understanding of texts: the analysis with the session's names, and what is known of both.
//!
//! Readings are kept by text, [`READINGS_LIMIT`] of them, as long as texts mean the same. Where what names mean is not
//! known (`blind`), every text is opaque but transaction control, which names nothing.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::analysis::{self, Analysis, ColumnTags, Known, Scope, SessionEffect};
use super::catalog::{Catalog, Names, RelationKind};
use super::machine::Rows;
use super::statement::{Analyst, Reading};
use crate::mask::Rules;
use crate::policy::TagSet;

/// Readings that a session keeps.
pub(super) const READINGS_LIMIT: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Texts longer than this are read each time, so that the kept ones stay small in sum.
pub(super) const KEPT_TEXT_LIMIT: usize = 64 << 10;

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
    readings: LruCache<Arc<str>, Arc<Reading>>,
    epoch: u64,
    stale_names: bool,
    stale_catalog: bool,
    blind: bool,
}

impl SessionAnalyst {
    pub(super) fn new(
        target: Arc<str>,
        database: Arc<str>,
        catalog: Arc<Catalog>,
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
            readings: LruCache::new(READINGS_LIMIT),
            epoch: 0,
            stale_names: false,
            stale_catalog: false,
            blind: false,
        }
    }

    /// Whether the catalog has to be loaded again.
    pub(super) const fn wants_catalog(&self) -> bool {
        self.stale_catalog
    }

    /// The state of the session, as the target says: rows of the session query, or `None` when it could not be learned.
    pub(super) fn resynced(&mut self, rows: Option<Rows>, catalog: Option<Arc<Catalog>>) {
        let loaded = !self.stale_catalog || catalog.is_some();
        if rows.is_some() && rows == self.rows && !self.blind && !self.stale_catalog {
            self.stale_names = false;
            return;
        }
        let names = rows.as_ref().and_then(|rows| Names::from_rows(rows).ok());
        self.blind = names.is_none() || !loaded;
        self.names = names.unwrap_or_default();
        self.rows = rows;
        if let Some(catalog) = catalog {
            self.catalog = catalog;
        }
        (self.stale_names, self.stale_catalog) = (false, false);
        self.epoch += 1;
        self.readings.clear();
    }

    fn analyze(&self, text: &str, known: &dyn Known) -> Analysis {
        let scope = Scope {
            target: &self.target,
            database: &self.database,
            catalog: &self.catalog,
            names: &self.names,
            tags: &Tags(&self.rules),
            known,
        };
        let analysis = analysis::analyze(text, &scope);
        let names_nothing =
            || analysis.statements.iter().all(|statement| matches!(statement.effect, SessionEffect::Transaction(_)));
        if self.blind && !names_nothing() {
            return self.blank(text, "what names mean in this session is not known just now");
        }
        analysis
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
        let reading = self.reading(text, self.analyze(text, known));
        if !reading.analysis.session_bound && text.len() <= KEPT_TEXT_LIMIT {
            self.readings.put(Arc::clone(&reading.text), Arc::clone(&reading));
        }
        reading
    }

    fn opaque(&mut self, what: &str, why: &str) -> Arc<Reading> {
        self.reading(what, self.blank(what, why))
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn is_stale(&self) -> bool {
        self.stale_names || self.stale_catalog
    }

    fn touch(&mut self, names: bool, catalog: bool) {
        self.stale_names |= names;
        self.stale_catalog |= catalog;
    }

    fn column_tags(&self, table: u32, column: i16, traced: bool) -> Option<TagSet> {
        let temporary = self.names.temporary.iter().find(|relation| relation.oid == table);
        let relation = temporary.or_else(|| self.catalog.relation(table))?;
        if matches!(relation.kind, RelationKind::View | RelationKind::Materialized) && !traced {
            return None;
        }
        let column = relation.columns.iter().find(|known| known.number == column)?;
        Some(self.rules.tags(&self.target, &self.database, &relation.schema, &relation.name, &column.name))
    }

    fn column_type(&self, table: u32, column: i16) -> Option<u32> {
        let temporary = self.names.temporary.iter().find(|relation| relation.oid == table);
        let relation = temporary.or_else(|| self.catalog.relation(table))?;
        relation.columns.iter().find(|known| known.number == column).map(|column| column.type_oid)
    }

    fn is_text(&self, type_oid: u32) -> bool {
        self.catalog.type_of(type_oid).is_some_and(|found| &*found.name == "citext")
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
}
