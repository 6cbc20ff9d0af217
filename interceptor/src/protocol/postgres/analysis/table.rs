//! What was found so far: actions by resource, facts, tags that were read; and the bounds of the walk.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use super::cascade::Cascades;
use super::family::Families;
use super::hidden::Behind;
use super::lineage::{ADDED, Col, Cte, Frame};
use super::made::Changes;
use super::{Missing, Scope};
use crate::policy::{Action, ActionName, Facts, Resource, ResourceKind, TagSet};
use crate::protocol::postgres::catalog::{Catalog, Names, Relation};

/// Different actions of one text, at most; past that it is opaque.
pub const MAX_ACTIONS: usize = 2048;

/// lock_not_available: what is not known now may be known a moment later.
pub(super) const LOCKED: &str = "55P03";

/// Nodes that are visited for one text, at most; past that it is opaque.
pub const MAX_STEPS: usize = 400_000;

/// Tables of a tree that are looked at count as one node, so many of them.
const MEMBERS_A_STEP: usize = 32;

/// Views within views that are followed, at most; past that the statement is opaque.
pub const MAX_VIEWS: usize = 16;

type Key = (ActionName, Resource, Option<Arc<str>>);
type Value = (BTreeSet<Arc<str>>, TagSet);

/// Actions with what is known of them, each once.
pub(super) type Actions = BTreeMap<Key, Value>;

/// What the query of a view was found to do.
#[derive(Clone)]
pub(super) struct View {
    pub(super) columns: Rc<[Col]>,
    /// Calls that change something.
    pub(super) effects: usize,
    /// See [`Walker::asks_session`].
    pub(super) asks_session: bool,
}

/// Walks over trees and keeps what they do.
pub(super) struct Walker<'a> {
    pub(super) scope: &'a Scope<'a>,
    pub(super) names: &'a Names,
    actions: Actions,
    kept: usize,
    opaques: usize,
    pub(super) functions: BTreeSet<Arc<str>>,
    /// Calls so far that do more than compute.
    pub(super) calls: usize,
    /// Those of them that change something, or reach beyond the database.
    pub(super) effects: usize,
    /// Computations so far that can fail.
    pub(super) failing: usize,
    /// Sub-queries so far.
    pub(super) sub_queries: usize,
    /// What is read stands from then on: the query of a view, the condition of a row policy.
    pub(super) standing: bool,
    /// What is stored is what the agent has given itself.
    pub(super) given: bool,
    /// Rows are put where the table says, or stay: in a plain one itself, in one partition of another.
    pub(super) placed: bool,
    pub(super) filters_on_masked: bool,
    /// A filter by such values is the agent's own, wherever it stands: what it says decides what is found.
    pub(super) steered: bool,
    /// Something was asked that the agent says: a setting, its text.
    pub(super) asks_session: bool,
    pub(super) unrestricted: bool,
    /// References to columns so far.
    pub(super) references: usize,
    pub(super) reads: TagSet,
    pub(super) frames: Vec<Frame>,
    pub(super) ctes: Vec<Cte>,
    pub(super) views: HashMap<u32, View>,
    /// Tables that were read so far, or written, and whether policies hide rows of them by what is masked.
    pub(super) hidden: HashMap<(u32, bool), bool>,
    /// Views that policies look at.
    pub(super) behind: HashMap<u32, Behind>,
    /// Views that are open outside of a policy that is followed.
    pub(super) outer_views: usize,
    /// Policies that are followed, one within another.
    pub(super) policies_open: usize,
    pub(super) open_views: Vec<u32>,
    /// What each view that was read so far reads itself.
    pub(super) below: HashMap<Resource, BTreeSet<Resource>>,
    /// What foreign keys did where the same was written before.
    pub(super) cascaded: Cascades,
    /// Names may have changed by an earlier statement of the same text.
    pub(super) names_in_doubt: bool,
    pub(super) session_bound: bool,
    pub(super) resync: super::Resync,
    pub(super) missing: Option<Missing>,
    /// See [`super::Analysis::uses_constants`].
    pub(super) uses_constants: bool,
    steps: Cell<usize>,
    /// Bytes parsed beside the text.
    beside: usize,
    overflow: Cell<bool>,
    none: TagSet,
    /// Inheritance trees that were looked at.
    pub(super) families: Families<'a>,
    /// What earlier statements of the text did to names.
    pub(super) changes: Changes,
}

impl<'a> Walker<'a> {
    pub(super) fn new(scope: &'a Scope<'a>) -> Self {
        Self {
            scope,
            names: scope.names,
            actions: BTreeMap::new(),
            kept: 0,
            opaques: 0,
            functions: BTreeSet::new(),
            calls: 0,
            effects: 0,
            failing: 0,
            sub_queries: 0,
            standing: false,
            given: false,
            placed: false,
            filters_on_masked: false,
            steered: false,
            asks_session: false,
            unrestricted: false,
            references: 0,
            reads: TagSet::default(),
            frames: Vec::new(),
            ctes: Vec::new(),
            views: HashMap::new(),
            hidden: HashMap::new(),
            behind: HashMap::new(),
            outer_views: 0,
            policies_open: 0,
            open_views: Vec::new(),
            below: HashMap::new(),
            cascaded: Cascades::default(),
            names_in_doubt: false,
            session_bound: false,
            resync: super::Resync::default(),
            missing: None,
            uses_constants: false,
            steps: Cell::new(0),
            beside: 0,
            overflow: Cell::new(false),
            none: TagSet::default(),
            families: Families::default(),
            changes: Changes::default(),
        }
    }

    pub(super) fn catalog(&self) -> &'a Catalog {
        self.scope.catalog
    }

    pub(super) fn no_tags(&self) -> TagSet {
        Arc::clone(&self.none)
    }

    /// Counts a step; `false` where the walk has to end.
    pub(super) fn step(&self) -> bool {
        self.steps(1)
    }

    /// The same for so many tables of a tree.
    pub(super) fn members(&self, count: usize) -> bool {
        self.steps(count / MEMBERS_A_STEP + 1)
    }

    fn steps(&self, count: usize) -> bool {
        self.steps.set(self.steps.get().saturating_add(count));
        if self.steps.get() > MAX_STEPS {
            self.overflow.set(true);
        }
        !self.overflow.get()
    }

    /// Whether a text beside the one that is read may be parsed, too.
    pub(super) fn may_parse(&mut self, text: &str) -> bool {
        self.beside = self.beside.saturating_add(text.len());
        self.beside <= super::bounds::MAX_BESIDE
    }

    /// Keeps an action.
    pub(super) fn act(&mut self, name: ActionName, resource: Resource) {
        self.add(name, resource, None, &[], None);
    }

    /// Keeps an action with columns, their tags, or a note. The same action on the same thing is kept once.
    pub(super) fn add(
        &mut self,
        name: ActionName,
        resource: Resource,
        note: Option<&str>,
        columns: &[Arc<str>],
        tags: Option<&TagSet>,
    ) {
        if self.actions.len() >= MAX_ACTIONS {
            self.overflow.set(true);
            return;
        }
        self.kept += 1;
        self.opaques += usize::from(name == ActionName::SQL_OPAQUE);
        let entry = self.actions.entry((name, resource, note.map(Into::into))).or_default();
        entry.0.extend(columns.iter().cloned());
        if let Some(tags) = tags {
            entry.1 = union(&entry.1, &of_rules(tags));
        }
    }

    /// A name of the text itself means nothing; the first one counts. `state` is what the target would say.
    pub(super) fn missing(&mut self, state: &'static str, message: impl FnOnce() -> String) {
        if self.missing.is_none() && !self.names_in_doubt && self.open_views.is_empty() {
            let in_catalog = state.starts_with("42") || state == LOCKED;
            self.missing = Some(Missing { state, message: message(), in_catalog });
        }
    }

    /// Something whose effect cannot be known, at the widest: the database.
    pub(super) fn opaque(&mut self, note: &str) {
        self.opaque_on(self.database(), note);
    }

    /// Something of that resource whose effect cannot be known. It may read anything, and its messages quote that.
    pub(super) fn opaque_on(&mut self, resource: Resource, note: &str) {
        let all = self.scope.tags.all();
        self.saw(&all);
        self.add(ActionName::SQL_OPAQUE, resource, Some(note), &[], None);
    }

    /// Values with these tags leave for a place where they would not be masked.
    pub(super) fn leak(&mut self, tags: &TagSet, note: &str) {
        for tag in tags.iter().filter(|tag| ***tag != *ADDED) {
            let resource = Resource { kind: ResourceKind::Tag, path: vec![Arc::clone(tag)] };
            self.add(ActionName::UNMASK, resource, Some(note), &[], Some(tags));
        }
    }

    /// A lock, of rows or of the whole. One on a view is one on everything under it.
    pub(super) fn lock(&mut self, resource: &Resource) {
        let mut locked = BTreeSet::from([resource.clone()]);
        let mut waiting = vec![resource.clone()];
        while let Some(view) = waiting.pop() {
            let below = self.below.get(&view).into_iter().flatten();
            waiting.extend(below.filter(|below| locked.insert((*below).clone())).cloned());
        }
        for resource in locked {
            self.act(ActionName::SQL_LOCK, resource);
        }
    }

    /// A read of one column.
    pub(super) fn read(&mut self, table: &Resource, column: &Arc<str>, tags: &TagSet) {
        self.add(ActionName::SQL_SELECT, table.clone(), None, std::slice::from_ref(column), Some(tags));
        self.saw(tags);
    }

    /// Values with these tags take part, so that messages may carry them.
    pub(super) fn saw(&mut self, tags: &TagSet) {
        self.reads = union(&self.reads, &of_rules(tags));
    }

    /// Values with these tags decide which rows or groups are seen.
    pub(super) fn filter(&mut self, tags: &TagSet) {
        self.filters_on_masked |= !tags.is_empty();
    }

    pub(super) fn database(&self) -> Resource {
        self.resource(ResourceKind::Database, &[])
    }

    /// A resource of the database.
    pub(super) fn resource(&self, kind: ResourceKind, parts: &[&str]) -> Resource {
        let mut path: Vec<Arc<str>> = vec![self.scope.target.into(), self.scope.database.into()];
        path.extend(parts.iter().map(|part| Arc::from(*part)));
        Resource { kind, path }
    }

    /// A resource of the whole server: settings, roles, files.
    pub(super) fn server(&self, kind: ResourceKind, name: &str) -> Resource {
        Resource { kind, path: vec![self.scope.target.into(), name.into()] }
    }

    pub(super) fn table(&self, relation: &Relation) -> Resource {
        self.resource(ResourceKind::Table, &[self.schema_of(relation), &relation.name])
    }

    /// The schema as policy names it: every session's temporary one is `pg_temp`.
    pub(super) fn schema_of<'r>(&self, relation: &'r Relation) -> &'r str {
        if self.names.is_temp(&relation.schema) || self.scope.names.is_temp(&relation.schema) {
            "pg_temp"
        } else {
            &relation.schema
        }
    }

    /// Everything found, as the seam wants it.
    pub(super) fn finish(mut self, statements: u32, row_limit: Option<u64>) -> (Vec<Action>, Facts, bool) {
        if self.overflow.get() {
            let resource = self.database();
            let note: Arc<str> = "more than can be analysed".into();
            self.actions.insert((ActionName::SQL_OPAQUE, resource, Some(note)), Default::default());
        }
        let opaque = self.actions.keys().any(|(name, _, _)| *name == ActionName::SQL_OPAQUE);
        let facts = Facts {
            http: None,
            k8s: None,
            mcp: None,
            has_where: !self.unrestricted,
            row_limit,
            functions: self.functions,
            filters_on_masked: self.filters_on_masked,
            statements,
        };
        let actions = self.actions.into_iter().map(|((name, resource, note), (columns, tags))| Action {
            name,
            resource,
            columns,
            tags,
            note,
        });
        (actions.collect(), facts, opaque)
    }

    /// How often an opaque action was found.
    pub(super) fn opaques(&self) -> usize {
        self.opaques
    }

    /// Opaque actions that were found before are found again.
    pub(super) fn opaque_again(&mut self, count: usize) {
        self.opaques += count;
    }

    /// How many actions were kept, counting those that were there already.
    pub(super) fn count(&self) -> usize {
        self.kept
    }

    /// Starts with no actions; what was found so far is handed out.
    pub(super) fn set_aside(&mut self) -> Actions {
        self.cascaded.clear();
        std::mem::take(&mut self.actions)
    }

    /// Goes on where [`Walker::set_aside`] left; what was found in between is handed out.
    pub(super) fn bring_back(&mut self, outside: Actions) -> Actions {
        self.cascaded.clear();
        std::mem::replace(&mut self.actions, outside)
    }

    pub(super) fn merge_actions(&mut self, more: Actions) {
        for ((name, resource, note), (columns, tags)) in more {
            let columns: Vec<Arc<str>> = columns.into_iter().collect();
            self.add(name, resource, note.as_deref(), &columns, Some(&tags));
        }
    }

    /// The actions found so far.
    pub(super) fn copy_actions(&self) -> Vec<Action> {
        let action = |((name, resource, note), (columns, tags)): (&Key, &Value)| Action {
            name: *name,
            resource: resource.clone(),
            columns: columns.clone(),
            tags: Arc::clone(tags),
            note: note.clone(),
        };
        self.actions.iter().map(action).collect()
    }

    pub(super) fn overflowed(&self) -> bool {
        self.overflow.get()
    }
}

/// All of both; shares where it can.
pub(super) fn union(one: &TagSet, other: &TagSet) -> TagSet {
    if other.is_subset(one) {
        Arc::clone(one)
    } else if one.is_subset(other) {
        Arc::clone(other)
    } else {
        Arc::new(one.union(other).cloned().collect())
    }
}

/// Names as they mean inside of a view's definition, which names everything in full.
pub(super) fn names_of_views() -> &'static Names {
    static NAMES: LazyLock<Names> =
        LazyLock::new(|| Names { search_path: vec!["pg_catalog".into()], plain_text: true, ..Names::default() });
    &NAMES
}

/// Without the mark of columns that are added, which is no tag of a rule: nobody has the right to see what has it.
fn of_rules(tags: &TagSet) -> TagSet {
    if tags.iter().all(|tag| **tag != *ADDED) {
        return Arc::clone(tags);
    }
    Arc::new(tags.iter().filter(|tag| ***tag != *ADDED).cloned().collect())
}
