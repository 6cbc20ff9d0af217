//! What a statement really touched, as the server tells: the locks that a transaction holds until its end, its counters of
//! rows and calls, whether it was given a transaction id, and what stands in the catalog.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use interceptor::protocol::postgres::catalog::{
    Catalog, FIRST_NORMAL_OID, LoadError, Loader, Names, QUERIES, SESSION_QUERY, SETUP,
};

use super::wire::{Answer, Row, Session};

/// How strong a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Mode {
    /// AccessShare.
    Read,
    /// RowShare: SELECT ... FOR UPDATE, foreign keys.
    Lock,
    /// RowExclusive: INSERT, UPDATE, DELETE; sequences.
    Write,
    /// Anything stronger: DDL, maintenance, LOCK.
    Strong,
}

impl Mode {
    fn of(name: &str) -> Self {
        match name {
            "AccessShareLock" => Self::Read,
            "RowShareLock" => Self::Lock,
            "RowExclusiveLock" => Self::Write,
            _ => Self::Strong,
        }
    }
}

/// A relation, as `pg_class` names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// Schema.
    pub(crate) schema: String,
    /// Name.
    pub(crate) name: String,
    /// `relkind`.
    pub(crate) kind: String,
}

/// Rows inserted, updated and deleted.
pub(crate) type Rows = [u64; 3];

/// What one transaction has touched so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The strongest lock on each relation.
    pub(crate) locks: BTreeMap<u32, Mode>,
    /// Rows written.
    pub(crate) rows: BTreeMap<u32, Rows>,
    /// Scans that were begun.
    pub(crate) scans: BTreeMap<u32, u64>,
    /// Functions, not of the system, with their calls.
    pub(crate) calls: BTreeMap<u32, u64>,
    /// Advisory locks.
    pub(crate) advisory: BTreeSet<String>,
    /// Locks on what is no relation, of a kind that only a change takes.
    pub(crate) objects: BTreeSet<String>,
    /// It has a transaction id.
    pub(crate) writes: bool,
    /// Names of the relations.
    pub(crate) named: HashMap<u32, Named>,
}

impl Seen {
    /// Whether something of a user's was touched.
    pub(crate) fn touches(&self) -> bool {
        let relation = |oid: &u32| *oid >= FIRST_NORMAL_OID && self.named.contains_key(oid);
        self.writes || !self.calls.is_empty() || !self.advisory.is_empty() || self.locks.keys().any(relation)
    }

    /// What is new since an earlier look at the same transaction.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let grown = |oid: &u32, rows: &Rows| {
            let old = before.rows.get(oid).copied().unwrap_or_default();
            [0, 1, 2].map(|at: usize| rows.get(at).unwrap_or(&0).saturating_sub(*old.get(at).unwrap_or(&0)))
        };
        Self {
            locks: self
                .locks
                .iter()
                .filter(|(oid, mode)| before.locks.get(oid).is_none_or(|old| old < mode))
                .map(|(oid, mode)| (*oid, *mode))
                .collect(),
            rows: self
                .rows
                .iter()
                .map(|(oid, rows)| (*oid, grown(oid, rows)))
                .filter(|(_, rows)| *rows != [0; 3])
                .collect(),
            scans: grown_counts(&self.scans, &before.scans),
            calls: grown_counts(&self.calls, &before.calls),
            advisory: self.advisory.difference(&before.advisory).cloned().collect(),
            objects: self.objects.difference(&before.objects).cloned().collect(),
            writes: self.writes && !before.writes,
            named: self.named.clone(),
        }
    }

    fn lock(&mut self, oid: u32, kind: &str, mode: Mode, id: &str) {
        match kind {
            "relation" => {
                let held = self.locks.entry(oid).or_insert(mode);
                *held = mode.max(*held);
            }
            "advisory" => drop(self.advisory.insert(id.to_owned())),
            _ if mode == Mode::Strong => drop(self.objects.insert(id.to_owned())),
            _ => {}
        }
    }

    /// Whether rows of these catalogs were written.
    pub(crate) fn changed(&self, catalogs: &[u32]) -> bool {
        catalogs.iter().any(|oid| self.rows.contains_key(oid))
    }
}

fn grown_counts(now: &BTreeMap<u32, u64>, before: &BTreeMap<u32, u64>) -> BTreeMap<u32, u64> {
    let grown = |(oid, _): &(&u32, &u64)| before.get(*oid).is_none_or(|old| now.get(*oid).is_some_and(|new| old < new));
    now.iter().filter(grown).map(|(oid, count)| (*oid, *count)).collect()
}

/// Looks at the transaction of a session. What the look itself locks is of the system.
pub(crate) fn look(session: &mut Session) -> io::Result<Seen> {
    let changed: Vec<String> = CATALOGS.iter().flat_map(|(of, _)| of.iter().map(u32::to_string)).collect();
    let rows = session.rows(&format!(
        "WITH held AS MATERIALIZED (SELECT locktype, coalesce(relation, classid, 0::oid) AS oid, mode, \
          pg_catalog.concat_ws('/', classid, objid, objsubid) AS id FROM pg_catalog.pg_locks \
          WHERE pid = pg_catalog.pg_backend_pid() AND granted AND mode <> 'SIReadLock' \
          AND locktype IN ('relation', 'advisory', 'object')) \
         SELECT 'l', oid, locktype, mode, id, 0, 0, 0, 0 FROM held \
         UNION ALL SELECT 'r', c.oid, n.nspname, c.relname, c.relkind::text, \
          pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid), pg_catalog.pg_stat_get_xact_tuples_updated(c.oid), \
          pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid), pg_catalog.pg_stat_get_xact_numscans(c.oid) \
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
          WHERE c.oid IN (SELECT oid FROM held WHERE locktype = 'relation') OR c.oid IN ({}) \
         UNION ALL SELECT 'f', p.oid, '', '', '', pg_catalog.pg_stat_get_xact_function_calls(p.oid), 0, 0, 0 \
          FROM pg_catalog.pg_proc p \
          WHERE p.oid >= {FIRST_NORMAL_OID} AND pg_catalog.pg_stat_get_xact_function_calls(p.oid) > 0 \
         UNION ALL SELECT 'x', 0, '', '', '', 0, 0, 0, 0 WHERE pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL",
        changed.join(",")
    ))?;
    let mut seen = Seen::default();
    for row in &rows {
        let [Some(what), Some(oid), Some(one), Some(two), Some(three), counts @ ..] = row.as_slice() else { continue };
        let oid: u32 = oid.parse().unwrap_or(0);
        let count = |at: usize| {
            let text = counts.get(at).and_then(Option::as_deref);
            text.and_then(|text| text.parse().ok()).unwrap_or(0_u64)
        };
        match what.as_str() {
            "l" => seen.lock(oid, one, Mode::of(two), three),
            "r" => {
                let written = [count(0), count(1), count(2)];
                if written != [0; 3] {
                    seen.rows.insert(oid, written);
                }
                if count(3) > 0 {
                    seen.scans.insert(oid, count(3));
                }
                let named = Named { schema: one.clone(), name: two.clone(), kind: three.clone() };
                seen.named.insert(oid, named);
            }
            "f" => drop(seen.calls.insert(oid, count(0))),
            _ => seen.writes = true,
        }
    }
    Ok(seen)
}

/// For each query of the catalog, and for [`EDGES`], the system catalogs that its rows come from.
const CATALOGS: &[(&[u32], usize)] = &[
    (&[NAMESPACE], 0),
    (&[CLASS, NAMESPACE, REWRITE, DEPEND, 2604, CONSTRAINT, POLICY, INDEX, ATTRIBUTE, 3350, 3381, OPERATOR], 1),
    (&[CLASS, NAMESPACE, ATTRIBUTE, INDEX], 2),
    (&[1255, NAMESPACE, 2612, 3079], 3),
    (&[OPERATOR, NAMESPACE], 4),
    (&[TYPE, NAMESPACE, CONSTRAINT, DEPEND, 3541, OPERATOR], 5),
    (&[2605], 6),
    (&[INHERITS, CLASS, NAMESPACE], 7),
    (&[CLASS, NAMESPACE, ATTRIBUTE, DEPEND, 2604], 8),
    (&[2602, 2603, OPERATOR], 9),
    (&[2616, NAMESPACE], 10),
    (&[3466], 11),
    (&[CONSTRAINT, INDEX, DEPEND], 12),
    (&[INDEX, DEPEND, OPERATOR, 3381], 13),
    (&[CONSTRAINT, CLASS, NAMESPACE], 14),
    (&[DEPEND, CLASS, NAMESPACE], 15),
    (&[ATTRIBUTE, INDEX, 3456, CLASS, NAMESPACE], 16),
    (&[INHERITS, CONSTRAINT, TRIGGER, DEPEND, POLICY, ATTRIBUTE, TYPE, 3466], QUERIES.len()),
];

const CLASS: u32 = 1259;
const NAMESPACE: u32 = 2615;
const REWRITE: u32 = 2618;
const DEPEND: u32 = 2608;
const CONSTRAINT: u32 = 2606;
const POLICY: u32 = 3256;
const ATTRIBUTE: u32 = 1249;
const INHERITS: u32 = 2611;
const INDEX: u32 = 2610;
const OPERATOR: u32 = 2617;
const TRIGGER: u32 = 2620;
const TYPE: u32 = 1247;

/// How relations hang together by their owners' design: inheritance, foreign keys, sequences of defaults, row policies;
/// and where triggers stand, with the functions that they call.
const EDGES: &str = "SELECT 'family', inhparent::text, inhrelid::text FROM pg_catalog.pg_inherits \
     UNION ALL SELECT 'key', conrelid::text, confrelid::text FROM pg_catalog.pg_constraint WHERE contype = 'f' \
     UNION ALL SELECT 'default', d.refobjid::text, d.objid::text FROM pg_catalog.pg_depend d \
      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid AND d.deptype IN ('a', 'i') \
     UNION ALL SELECT 'default', a.adrelid::text, d.refobjid::text FROM pg_catalog.pg_depend d \
      JOIN pg_catalog.pg_attrdef a ON a.oid = d.objid AND d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass \
      WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> a.adrelid \
     UNION ALL SELECT 'default', a.attrelid::text, d.refobjid::text FROM pg_catalog.pg_attribute a \
      JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typdefaultbin IS NOT NULL AND t.typtype = 'd' \
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid \
      JOIN pg_catalog.pg_class s ON s.oid = d.refobjid AND s.relkind = 'S' \
      WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped \
     UNION ALL SELECT 'policy', p.polrelid::text, d.refobjid::text FROM pg_catalog.pg_depend d \
      JOIN pg_catalog.pg_policy p ON p.oid = d.objid AND d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass \
      WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> p.polrelid \
     UNION ALL SELECT 'trigger', tgrelid::text, tgfoid::text FROM pg_catalog.pg_trigger WHERE NOT tgisinternal \
     UNION ALL SELECT 'event', '0', evtfoid::text FROM pg_catalog.pg_event_trigger";

/// One way in which two things hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Tie {
    /// Inheritance, partitions.
    Family,
    /// A foreign key.
    Key,
    /// A sequence that a default, the column's or its domain's, draws from, or that a column owns.
    Default,
    /// A row policy that looks at another table.
    Policy,
    /// A trigger, to its function.
    Trigger,
    /// An event trigger.
    Event,
}

/// The catalog as the server has it, loaded again in the parts that changed.
pub(crate) struct Mirror {
    rows: Vec<Vec<Row>>,
    stale: BTreeSet<usize>,
    /// As the analysis takes it.
    pub(crate) catalog: Catalog,
    /// By kind: from one to the other.
    pub(crate) ties: Vec<(Tie, u32, u32)>,
}

impl Mirror {
    /// Nothing is loaded yet.
    pub(crate) fn new() -> Self {
        Self {
            rows: vec![Vec::new(); QUERIES.len() + 1],
            stale: (0..=QUERIES.len()).collect(),
            catalog: Catalog::default(),
            ties: Vec::new(),
        }
    }

    /// What was written there has to be read again.
    pub(crate) fn doubt(&mut self, seen: Option<&Seen>) {
        for (catalogs, query) in CATALOGS {
            if seen.is_none_or(|seen| seen.changed(catalogs)) {
                self.stale.insert(*query);
            }
        }
    }

    /// Whether something has to be read again.
    pub(crate) fn is_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Reads again what has to be. Within an open transaction nothing of it stays behind.
    pub(crate) fn refresh(&mut self, session: &mut Session, within: bool) -> io::Result<()> {
        if within {
            session.rows("SAVEPOINT \"a look\"")?;
        }
        session.rows(&if within { SETUP.replace("false", "true") } else { SETUP.to_owned() })?;
        for query in std::mem::take(&mut self.stale) {
            let rows = session.rows(QUERIES.get(query).copied().unwrap_or(EDGES))?;
            if let Some(kept) = self.rows.get_mut(query) {
                *kept = rows;
            }
        }
        if within {
            session.rows("ROLLBACK TO \"a look\"; RELEASE \"a look\"")?;
        }
        self.catalog = self.build().map_err(io::Error::other)?;
        let number = |cell: Option<&Option<String>>| cell?.as_ref()?.parse().ok();
        let edges = self.rows.last().into_iter().flatten();
        self.ties = edges
            .filter_map(|row| Some((tie(row.first()?.as_deref()?)?, number(row.get(1))?, number(row.get(2))?)))
            .collect();
        Ok(())
    }

    fn build(&self) -> Result<Catalog, LoadError> {
        let mut loader = Loader::new();
        for rows in self.rows.iter().take(QUERIES.len()) {
            loader.rows(rows)?;
        }
        loader.finish()
    }
}

fn tie(kind: &str) -> Option<Tie> {
    Some(match kind {
        "family" => Tie::Family,
        "key" => Tie::Key,
        "default" => Tie::Default,
        "policy" => Tie::Policy,
        "trigger" => Tie::Trigger,
        "event" => Tie::Event,
        _ => return None,
    })
}

/// The counters that a transaction sees start at zero only once those of earlier ones are handed on.
const FLUSH: &str = "SELECT pg_catalog.pg_stat_force_next_flush()";

/// What names mean in a session, with the rows that say so.
pub(crate) fn names(session: &mut Session) -> io::Result<(Names, Vec<Row>)> {
    let rows = session.rows(&if session.status == 'T' {
        format!("SAVEPOINT \"a look\"; {SESSION_QUERY}; ROLLBACK TO \"a look\"; RELEASE \"a look\"")
    } else {
        format!("{FLUSH}; {SESSION_QUERY}")
    })?;
    Ok((meaning(&rows)?, rows))
}

/// Commits, and asks what names mean then.
pub(crate) fn commit(session: &mut Session) -> io::Result<Answer> {
    session.run(&format!("COMMIT; {FLUSH}; {SESSION_QUERY}"), &mut Vec::new)
}

/// Reads the rows that say what names mean.
pub(crate) fn meaning(rows: &[Row]) -> io::Result<Names> {
    let names = Names::from_rows(rows).map_err(io::Error::other)?;
    Ok(Names { settled: true, ..names })
}
