//! The verdict held against the truth. Whatever the server touched must be named by an action of the right sort, or the
//! text must be opaque; what a table's owner designed is exempt, by kind, and only where the server's own catalog says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use interceptor::policy::{ActionName, ResourceKind};
use interceptor::protocol::postgres::analysis::{Analysis, SessionEffect};
use interceptor::protocol::postgres::catalog::{FIRST_NORMAL_OID, Names, RelationKind};

use super::truth::{Mirror, Mode, Named, Seen, Tie};

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Finding {
    /// Something was written, locked, made or called that the verdict does not name.
    WriteMissed,
    /// Something was read that the verdict does not name.
    ReadMissed,
    /// What names mean changed, and the verdict does not ask for them again.
    ChangeMissed,
    /// Touched by the design of an owner, or by the server for itself.
    Exempt(&'static str),
}

/// Exemptions, with why each is one.
pub(crate) const EXEMPTIONS: &[(&str, &str)] = &[
    (PLAN, "The lock of a write that EXPLAIN plans and does not run; the verdict names the table as read."),
    (FAMILY, "Parents, children and partitions of a relation that the verdict names for the same sort of action."),
    (
        DEFAULT,
        "Sequences that a column owns or that its default, or that of its domain, draws from, of a table that the verdict names as written.",
    ),
    (
        KEY,
        "Tables joined by foreign keys to one that the verdict names as written, of which no row is written; the verdict notes that triggers run.",
    ),
    (TRIGGER, "What triggers of a written table do; the verdict notes that triggers run."),
    (EVENT, "What event triggers do when a definition changes."),
    (POLICY, "Tables that a row policy of a named table looks at."),
    (MADE, "What a statement makes and names itself, with what belongs to it: transient copies, owned sequences."),
    (
        DEFINED,
        "Relations that a definition locks beside those that it names, without reading or writing a row of them.",
    ),
    (
        SHOWN,
        "Relations that functions and views of the system open to show definitions or sizes, without a scan; sequences whose last value `pg_sequences` shows.",
    ),
    (CURRENT, "Sequences of which `currval` and `lastval` tell what the session itself drew last."),
    (SYSTEM, "Catalogs that functions and commands of the server look into for themselves."),
    (ASKED, "A transaction id that is there because the statement asks which one it has."),
];

const PLAN: &str = "plan";
const FAMILY: &str = "inheritance";
const DEFAULT: &str = "default";
const KEY: &str = "foreign key";
const TRIGGER: &str = "trigger";
const EVENT: &str = "event trigger";
const POLICY: &str = "row policy";
const MADE: &str = "made";
const DEFINED: &str = "definition";
const SHOWN: &str = "shown";
const CURRENT: &str = "current value";
const SYSTEM: &str = "system catalog";
const ASKED: &str = "transaction id";

/// Everything that a comparison looks at.
pub(crate) struct Case<'a> {
    pub(crate) analysis: &'a Analysis,
    pub(crate) seen: &'a Seen,
    pub(crate) mirror: &'a Mirror,
    pub(crate) names: &'a Names,
    /// The transaction was this statement's alone, so that what it read of the system is its own.
    pub(crate) alone: bool,
}

type Found = Vec<(Finding, String)>;

impl Case<'_> {
    /// Compares; nothing is found where all is well.
    pub(crate) fn compare(&self) -> Found {
        let mut found = Found::new();
        if self.analysis.opaque {
            return found;
        }
        for (oid, mode) in &self.seen.locks {
            self.relation(*oid, *mode, &mut found);
        }
        for oid in self.seen.calls.keys() {
            self.call(*oid, &mut found);
        }
        if self.seen.writes && !self.acts(|_| true) {
            let asks = ["pg_catalog.txid_current", "pg_catalog.pg_current_xact_id"];
            let asks = asks.iter().any(|name| self.analysis.facts.functions.contains(*name));
            let finding = if asks { Finding::Exempt(ASKED) } else { Finding::WriteMissed };
            found.push((finding, "a transaction id".to_owned()));
        }
        if !self.seen.advisory.is_empty() && !self.acts(|name| name == ActionName::SQL_LOCK) {
            found.push((Finding::WriteMissed, "an advisory lock".to_owned()));
        }
        if !self.seen.objects.is_empty() && !self.acts(|_| true) {
            found.push((Finding::WriteMissed, format!("locks on {:?}", self.seen.objects)));
        }
        found
    }

    /// Whether a verdict that names nothing would be found wrong here: what is never found shows nothing.
    pub(crate) fn would_show(&self) -> bool {
        let (actions, facts) = (Arc::from([]), Arc::default());
        let nothing = Analysis { actions, facts, opaque: false, ..self.analysis.clone() };
        let found = Case { analysis: &nothing, ..*self }.compare();
        found.iter().any(|(finding, _)| matches!(finding, Finding::WriteMissed | Finding::ReadMissed))
    }

    /// Whether some action does more than read, and is of that sort.
    fn acts(&self, sort: impl Fn(ActionName) -> bool) -> bool {
        self.analysis.actions.iter().any(|action| changes(action.name) && sort(action.name))
    }

    fn defines(&self) -> bool {
        self.acts(|name| !writes_rows(name) && name != ActionName::SQL_LOCK)
    }

    fn relation(&self, oid: u32, mode: Mode, found: &mut Found) {
        let before = self.before(oid);
        let Some(named) = before.clone().or_else(|| self.seen.named.get(&oid).cloned()) else {
            // It was made and is gone again: an index, a transient copy.
            if oid >= FIRST_NORMAL_OID {
                let finding = if self.defines() { Finding::Exempt(MADE) } else { Finding::WriteMissed };
                found.push((finding, format!("relation {oid}, which is gone")));
            }
            return;
        };
        let kind = self.seen.named.get(&oid).map_or(&named.kind, |now| &now.kind);
        if !matches!(kind.as_str(), "r" | "p" | "v" | "m" | "f" | "S") {
            return;
        }
        let rows = self.seen.rows.get(&oid).copied().unwrap_or_default();
        let what = format!("{mode:?} {}.{} {rows:?}", named.schema, named.name);
        if oid < FIRST_NORMAL_OID {
            let of_the_look = ["pg_locks", "pg_class", "pg_namespace", "pg_proc"].contains(&&*named.name);
            if self.alone && !of_the_look && self.actions_on(&named).is_empty() {
                found.push((Finding::Exempt(SYSTEM), what));
            }
            return;
        }
        let actions = self.actions_on(&named);
        let wanted = Wanted::of(mode, rows);
        if wanted.iter().all(|wanted| actions.iter().any(|action| wanted.is_met_by(*action))) {
            return;
        }
        if before.is_none() && self.defines() {
            found.push((Finding::Exempt(MADE), what));
            return;
        }
        let missed = if mode == Mode::Read { Finding::ReadMissed } else { Finding::WriteMissed };
        found.push((self.exemption(oid, mode, &wanted).map_or(missed, Finding::Exempt), what));
    }

    /// The relation as it was before the statement.
    fn before(&self, oid: u32) -> Option<Named> {
        let temporary = self.names.temporary.iter().find(|relation| relation.oid == oid);
        let relation = temporary.or_else(|| self.mirror.catalog.relation(oid))?;
        let kind = match relation.kind {
            RelationKind::Table => "r",
            RelationKind::Partitioned => "p",
            RelationKind::View => "v",
            RelationKind::Materialized => "m",
            RelationKind::Foreign => "f",
            RelationKind::Sequence => "S",
            RelationKind::Composite => "c",
        };
        Some(Named { schema: relation.schema.to_string(), name: relation.name.to_string(), kind: kind.to_owned() })
    }

    fn actions_on(&self, named: &Named) -> BTreeSet<ActionName> {
        let schema = if self.names.is_temp(&named.schema) || named.schema.starts_with("pg_temp_") {
            "pg_temp"
        } else {
            &named.schema
        };
        let on =
            |path: &[std::sync::Arc<str>]| matches!(path, [_, _, one, two] if **one == *schema && **two == *named.name);
        let tables = self.analysis.actions.iter().filter(|action| action.resource.kind == ResourceKind::Table);
        tables.filter(|action| on(&action.resource.path)).map(|action| action.name).collect()
    }

    fn call(&self, oid: u32, found: &mut Found) {
        let known = self.mirror.catalog.function(oid);
        if known.is_some_and(|function| function.extension.is_some()) {
            return;
        }
        let what = known.map_or_else(
            || format!("function {oid}"),
            |function| format!("function {}.{}", function.schema, function.name),
        );
        let all: BTreeSet<Tie> = [Tie::Family, Tie::Key, Tie::Default].into();
        let finding = if self.notes_triggers() && self.has_triggers(&self.reach(&self.named_as(changes), &all)) {
            Finding::Exempt(TRIGGER)
        } else if self.defines() && self.ties(Tie::Event).next().is_some() {
            Finding::Exempt(EVENT)
        } else {
            Finding::WriteMissed
        };
        found.push((finding, what));
    }

    fn exemption(&self, oid: u32, mode: Mode, wanted: &[Wanted]) -> Option<&'static str> {
        let written = self.named_as(changes);
        let all = self.named_as(|_| true);
        let rows = self.seen.rows.get(&oid).copied().unwrap_or_default();
        let plans = self.analysis.statements.iter().all(|one| one.effect == SessionEffect::Explain { analyze: false });
        if plans && rows == [0; 3] && all.contains(&oid) {
            return Some(PLAN);
        }
        let calls = |starts: &[&str]| {
            let functions = &self.analysis.facts.functions;
            functions.iter().any(|name| starts.iter().any(|start| name.starts_with(start)))
        };
        let still = rows == [0; 3] && !self.seen.scans.contains_key(&oid);
        let of_system = self.analysis.actions.iter().any(|action| {
            matches!(action.resource.path.as_slice(), [_, _, schema, _] if matches!(&**schema, "pg_catalog" | "information_schema"))
        });
        // The last two look at which partitions a table has, and by what.
        let showing = [
            "pg_catalog.pg_get_",
            "pg_catalog.pg_relation_",
            "pg_catalog.pg_partition_tree",
            "pg_catalog.satisfies_hash_partition",
        ];
        if mode == Mode::Read && still && (of_system || calls(&showing)) {
            return Some(SHOWN);
        }
        let sequence = still && mode == Mode::Write && self.seen.named.get(&oid).is_some_and(|named| named.kind == "S");
        // It locks each as a writer would. Whoever draws from one is given a transaction id, sooner or later.
        if sequence && !self.seen.writes && self.reads_sequences() {
            return Some(SHOWN);
        }
        if still && mode == Mode::Write && calls(&["pg_catalog.currval", "pg_catalog.lastval"]) {
            return sequence.then_some(CURRENT);
        }
        let reaches =
            |from: &BTreeSet<u32>, ties: &[Tie]| self.reach(from, &ties.iter().copied().collect()).contains(&oid);
        // Of the same tree some relation is named for each sort of action that there is.
        let of_tree = |wanted: &Wanted| {
            let from = self.named_as(|action| wanted.is_met_by(action));
            !from.contains(&oid) && reaches(&from, &[Tie::Family])
        };
        if wanted.iter().all(of_tree) {
            return Some(FAMILY);
        }
        if plans && rows == [0; 3] && reaches(&all, &[Tie::Family]) {
            return Some(PLAN);
        }
        if reaches(&written, &[Tie::Family, Tie::Default]) {
            return Some(DEFAULT);
        }
        // What keys write has to be named.
        if (self.notes_triggers() || self.defines())
            && rows == [0; 3]
            && reaches(&written, &[Tie::Family, Tie::Default, Tie::Key])
        {
            return Some(KEY);
        }
        if mode == Mode::Read && reaches(&all, &[Tie::Family, Tie::Policy]) {
            return Some(POLICY);
        }
        let around = self.reach(&written, &[Tie::Family, Tie::Default, Tie::Key].into());
        if self.notes_triggers() && self.has_triggers(&around) {
            return Some(TRIGGER);
        }
        if self.defines() && self.ties(Tie::Event).next().is_some() {
            return Some(EVENT);
        }
        (self.defines() && rows == [0; 3] && (still || mode != Mode::Read)).then_some(DEFINED)
    }

    /// Whether the verdict names the system's own list of sequences, and nothing that draws from one.
    fn reads_sequences(&self) -> bool {
        let listed = |path: &[std::sync::Arc<str>]| matches!(path, [_, _, schema, name] if &**schema == "pg_catalog" && &**name == "pg_sequences");
        let draws = |name: &std::sync::Arc<str>| matches!(&**name, "pg_catalog.nextval" | "pg_catalog.setval");
        self.analysis.actions.iter().any(|action| listed(&action.resource.path))
            && !self.analysis.facts.functions.iter().any(draws)
    }

    fn notes_triggers(&self) -> bool {
        self.analysis.actions.iter().any(|action| action.note.as_deref().is_some_and(|note| note.contains("trigger")))
    }

    fn ties(&self, kind: Tie) -> impl Iterator<Item = (u32, u32)> {
        self.mirror.ties.iter().filter(move |tie| tie.0 == kind).map(|tie| (tie.1, tie.2))
    }

    fn has_triggers(&self, relations: &BTreeSet<u32>) -> bool {
        self.ties(Tie::Trigger).any(|(relation, _)| relations.contains(&relation))
    }

    /// Relations, as they were before, that an action of that sort names.
    fn named_as(&self, sort: impl Fn(ActionName) -> bool) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        for action in self.analysis.actions.iter().filter(|action| sort(action.name)) {
            let [_, _, schema, name] = action.resource.path.as_slice() else { continue };
            let relation = self.mirror.catalog.resolve(self.names, Some(schema), name);
            found.extend(relation.map(|relation| relation.oid));
        }
        found
    }

    fn reach(&self, from: &BTreeSet<u32>, ties: &BTreeSet<Tie>) -> BTreeSet<u32> {
        let mut edges: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (tie, one, other) in &self.mirror.ties {
            if ties.contains(tie) {
                edges.entry(*one).or_default().push(*other);
                if matches!(tie, Tie::Family | Tie::Key) {
                    edges.entry(*other).or_default().push(*one);
                }
            }
        }
        let mut reached = from.clone();
        let mut waiting: Vec<u32> = from.iter().copied().collect();
        while let Some(oid) = waiting.pop() {
            waiting.extend(edges.get(&oid).into_iter().flatten().copied().filter(|next| reached.insert(*next)));
        }
        reached
    }
}

/// An action that must be there.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Any,
    Change,
    Insert,
    Update,
    Delete,
}

impl Wanted {
    fn of(mode: Mode, rows: [u64; 3]) -> Vec<Self> {
        let [inserted, updated, deleted] = rows;
        let mut wanted = vec![if mode == Mode::Read { Self::Any } else { Self::Change }];
        wanted.extend((inserted > 0).then_some(Self::Insert));
        wanted.extend((updated > 0).then_some(Self::Update));
        wanted.extend((deleted > 0).then_some(Self::Delete));
        wanted
    }

    fn is_met_by(self, action: ActionName) -> bool {
        let bulk = !writes_rows(action) && changes(action) && action != ActionName::SQL_LOCK;
        match self {
            Self::Any => true,
            Self::Change => changes(action),
            // An update can move a row to another partition.
            Self::Insert => bulk || matches!(action, ActionName::SQL_INSERT | ActionName::SQL_UPDATE),
            Self::Update => bulk || action == ActionName::SQL_UPDATE,
            Self::Delete => bulk || matches!(action, ActionName::SQL_DELETE | ActionName::SQL_UPDATE),
        }
    }
}

fn writes_rows(name: ActionName) -> bool {
    matches!(name, ActionName::SQL_INSERT | ActionName::SQL_UPDATE | ActionName::SQL_DELETE)
}

fn changes(name: ActionName) -> bool {
    !matches!(name, ActionName::SQL_SELECT | ActionName::SQL_SESSION | ActionName::SQL_OPAQUE | ActionName::UNMASK)
}
