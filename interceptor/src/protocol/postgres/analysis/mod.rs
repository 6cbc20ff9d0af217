//! What a text of SQL would do: its effects on the database, the origin of each output column, and what it does to the
//! session that carries it.
//!
//! [`analyze`] is pure, bounded and total: it parses with the server's own grammar, resolves names as the server would
//! with the given [`Catalog`] and [`Names`], and calls `sql:opaque` whatever it does not know. It never judges: policy
//! does. It does not promise to know what triggers do (the design of the table's owner; named in a note; what foreign keys
//! write is known), nor what row policies read (so is that), which rows a statement finds, or what a statement costs. Nor
//! what another session makes of a name between the reading and the run:
//! an unqualified name counts for whatever lies behind it on the path, too, and the machine passes no computed column
//! that was judged under another catalog. Nor whether a plain write breaks a constraint of the table, which tells a bit.

mod alter;
mod bounds;
mod cascade;
mod constraint;
mod copy;
mod define;
mod expression;
mod fails;
mod family;
mod from;
mod function;
mod hidden;
mod lineage;
mod lost;
mod made;
mod maintain;
mod query;
mod statement;
mod table;
mod write;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::catalog::{Catalog, Names, Relation};
use crate::policy::{Action, ActionName, Facts, Resource, ResourceKind, Tag, TagSet};

pub use bounds::{LONG_TEXT, MAX_DEPTH, MAX_TEXT, MAX_TOKENS, Parsed};
pub use copy::{CopyDirection, CopyFormat, CopyKind};
pub use function::runs_code;
pub use statement::analyze_prepared;
pub use table::{MAX_ACTIONS, MAX_STEPS, MAX_VIEWS};

/// Statements of one text, at most; a text of more is opaque as a whole.
pub const MAX_STATEMENTS: usize = 4096;

/// Everything that gives a text its meaning.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// Name of the target: first part of every resource.
    pub target: &'a str,
    /// Name of the database: second part.
    pub database: &'a str,
    /// The database.
    pub catalog: &'a Catalog,
    /// The session's way to look up names. Where [`Names::plain_text`] is off, every text is opaque.
    pub names: &'a Names,
    /// Which columns are tagged.
    pub tags: &'a dyn ColumnTags,
    /// The session's prepared statements and cursors.
    pub known: &'a dyn Known,
    /// A text that was parsed already: it is not parsed again.
    pub parsed: Option<&'a Parsed>,
}

impl std::fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope").field("target", &self.target).field("database", &self.database).finish_non_exhaustive()
    }
}

/// Which columns carry which tags; the masking rules know.
pub trait ColumnTags {
    /// Tags of one column.
    fn tags(&self, target: &str, database: &str, schema: &str, table: &str, column: &str) -> TagSet;

    /// Every tag that any column could carry: for what cannot be traced.
    fn all(&self) -> TagSet;

    /// Whether a masked value of this tag shows nothing of the value. Of one that does, pieces of others could be put
    /// into the column and read back.
    fn hides_all(&self, _tag: &Tag) -> bool {
        false
    }
}

/// What the session has prepared and declared. The wire machine keeps it, from [`SessionEffect`]s that succeeded.
pub trait Known {
    /// The statement that SQL `PREPARE`, or a Parse message, gave this name.
    fn prepared(&self, name: &str) -> Option<Arc<Prepared>>;
    /// The query of an open cursor or portal.
    fn cursor(&self, name: &str) -> Option<Arc<Cursor>>;
}

/// Nothing prepared, nothing open.
#[derive(Clone, Copy, Debug)]
pub struct NothingKnown;

impl Known for NothingKnown {
    fn prepared(&self, _name: &str) -> Option<Arc<Prepared>> {
        None
    }

    fn cursor(&self, _name: &str) -> Option<Arc<Cursor>> {
        None
    }
}

/// A prepared statement. It is judged again at each EXECUTE, and must mean then what it meant first: the server may look
/// its names up again, or keep the plan that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The text: of the `PREPARE` itself, or of the Parse message.
    pub text: Arc<str>,
    /// What it meant when it was prepared, where that is known.
    pub first: Option<Arc<Cursor>>,
}

/// An open cursor: what it yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Columns.
    pub output: Output,
    /// Tagged columns that its query reads.
    pub reads_tagged: TagSet,
    /// What a FETCH runs.
    pub actions: Arc<[Action]>,
}

impl Output {
    /// Bytes that it holds, about.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Columns(columns) => columns.len() * (size_of::<OutputColumn>() + COLUMN_WEIGHT),
            Self::None | Self::Unknown(_) => 0,
        }
    }
}

/// Bytes that a column is counted for beside itself: its names.
const COLUMN_WEIGHT: usize = 64;

impl Cursor {
    /// Bytes that it holds, about.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.output.weight()
    }

    /// Whether it does and yields the same, to policy and masking.
    #[must_use]
    pub fn means(&self, other: &Self) -> bool {
        let same = |(one, other): (&OutputColumn, &OutputColumn)| {
            one.name == other.name && one.tags == other.tags && one.computed == other.computed
        };
        let output = match (&self.output, &other.output) {
            (Output::Columns(one), Output::Columns(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(same)
            }
            (one, other) => one == other,
        };
        // A statement that does nothing else is said to use the session.
        let actions = |cursor: &'_ Self| -> Vec<Action> {
            cursor.actions.iter().filter(|action| action.name != ActionName::SQL_SESSION).cloned().collect()
        };
        output && self.reads_tagged == other.reads_tagged && actions(self) == actions(other)
    }
}

/// What one text would do.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// Unique for the life of the process.
    pub id: u64,
    /// All effects of all statements.
    pub actions: Arc<[Action]>,
    /// Facts of the whole text.
    pub facts: Arc<Facts>,
    /// Each statement, in order.
    pub statements: Vec<StatementInfo>,
    /// It names a prepared statement or cursor, so it means something only in this session, now: not to be cached.
    pub session_bound: bool,
    /// Some effect could not be known.
    pub opaque: bool,
    /// The value of some constant decided something: texts of the same shape may do something else.
    pub uses_constants: bool,
    /// It only prepares what is judged again when it runs: a hold need not be waited for.
    pub prepares: bool,
    /// The first name that means nothing here: the target would refuse the text for it.
    pub missing: Option<Missing>,
}

impl Analysis {
    /// Whether it holds for every text of the same shape, in this session, as long as names mean the same.
    #[must_use]
    pub fn is_of_shape(&self) -> bool {
        let plain = ["SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt"];
        let one = matches!(self.statements.as_slice(), [statement] if plain.contains(&statement.kind));
        one && !self.uses_constants && !self.session_bound && !self.opaque && self.missing.is_none()
    }
}

/// A name that means nothing, as the target would say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// SQLSTATE: `42P01`, `42703` ...
    pub state: &'static str,
    /// `relation "orders" does not exist`.
    pub message: String,
    /// Whether a newer catalog could know it.
    pub in_catalog: bool,
}

/// One statement of a text.
#[derive(Clone, Debug)]
pub struct StatementInfo {
    /// Name of its parse node: `SelectStmt`; `Unparsed` for what does not parse.
    pub kind: &'static str,
    /// Where it stands in the text, in bytes.
    pub range: Range<usize>,
    /// What it sends back.
    pub output: Output,
    /// Tags of every column that it reads anywhere: if not empty, error and notice texts may carry values.
    pub reads_tagged: TagSet,
    /// What it does to the session.
    pub effect: SessionEffect,
    /// What to ask the server again once it succeeded.
    pub resync: Resync,
}

/// Rows that a statement sends back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// No rows.
    None,
    /// These columns, in order. Should the server describe another number of them: mask everything.
    Columns(Vec<OutputColumn>),
    /// Rows of unknown columns, which may hold anything with these tags: mask everything, if there are any.
    Unknown(TagSet),
}

/// A column that a statement sends back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputColumn {
    /// Name, where it is evident.
    pub name: Option<Arc<str>>,
    /// Classes of sensitive data in it.
    pub tags: TagSet,
    /// Made from columns, rather than being one: mask it whole.
    pub computed: bool,
    /// The one column that it is.
    pub source: Option<Source>,
}

/// A column of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `pg_class.oid`.
    pub relation: u32,
    /// `pg_attribute.attnum`.
    pub attribute: i16,
    /// Name.
    pub column: Arc<str>,
}

/// What to ask the server again after a statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resync {
    /// Names may mean something else: search path, role, temporary objects, lexing. Run the session query.
    pub names: bool,
    /// The catalog may have changed. Load it.
    pub catalog: bool,
}

/// Transaction control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END; with AND CHAIN a new one begins.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT.
    Savepoint(Arc<str>),
    /// RELEASE.
    Release(Arc<str>),
    /// ROLLBACK TO.
    RollbackTo(Arc<str>),
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    TwoPhase,
}

/// What a statement does to the session that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEffect {
    /// Nothing beyond [`Resync`].
    None,
    /// Transaction control.
    Transaction(Transaction),
    /// PREPARE.
    Prepare {
        /// Its name.
        name: Arc<str>,
        /// What to keep under it.
        prepared: Arc<Prepared>,
    },
    /// EXECUTE. The actions, output and tags are those of the prepared statement.
    Execute {
        /// Its name.
        name: Arc<str>,
    },
    /// DEALLOCATE; `None` for all.
    Deallocate {
        /// Its name.
        name: Option<Arc<str>>,
    },
    /// DECLARE CURSOR.
    DeclareCursor {
        /// Its name.
        name: Arc<str>,
        /// What to keep under it.
        cursor: Arc<Cursor>,
        /// WITH HOLD: outlives the transaction.
        hold: bool,
        /// BINARY.
        binary: bool,
    },
    /// FETCH or MOVE.
    Fetch {
        /// The cursor.
        name: Arc<str>,
    },
    /// CLOSE; `None` for all.
    Close {
        /// The cursor.
        name: Option<Arc<str>>,
    },
    /// COPY. The columns are the statement's [`Output`] in both directions.
    Copy {
        /// Which way the data goes over the wire.
        direction: CopyDirection,
        /// How it is written.
        format: CopyFormat,
    },
    /// EXPLAIN.
    Explain {
        /// ANALYZE: the statement runs.
        analyze: bool,
    },
    /// DISCARD ALL: prepared statements, cursors and settings are gone.
    DiscardAll,
}

/// Finds what a text would do. Total: whatever it cannot know is `sql:opaque`.
#[must_use]
pub fn analyze(text: &str, scope: &Scope<'_>) -> Analysis {
    statement::analyze(text, scope)
}

/// Tags of a column of a relation, with all that its tree gives it.
#[must_use]
pub fn tags_of_column(scope: &Scope<'_>, relation: &Relation, column: &str) -> TagSet {
    table::Walker::new(scope).tags_of(relation, column)
}

/// An analysis that says only that nothing is known, and why: for text that never gets as far as [`analyze`].
#[must_use]
pub fn opaque(text: &str, target: &str, database: &str, tags: &dyn ColumnTags, why: &str) -> Analysis {
    let tags = tags.all();
    let action = Action {
        name: ActionName::SQL_OPAQUE,
        resource: Resource { kind: ResourceKind::Database, path: vec![target.into(), database.into()] },
        columns: BTreeSet::new(),
        tags: Arc::clone(&tags),
        note: Some(why.into()),
    };
    Analysis {
        id: next_id(),
        actions: vec![action].into(),
        facts: Arc::new(Facts { statements: 1, filters_on_masked: !tags.is_empty(), ..Facts::default() }),
        statements: vec![StatementInfo {
            kind: "Unparsed",
            range: 0..text.len(),
            output: Output::Unknown(Arc::clone(&tags)),
            reads_tagged: tags,
            effect: SessionEffect::None,
            resync: Resync { names: true, catalog: true },
        }],
        session_bound: false,
        opaque: true,
        uses_constants: true,
        prepares: false,
        missing: None,
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests;
