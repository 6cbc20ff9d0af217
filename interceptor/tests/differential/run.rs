//! One corpus on one server: each statement is judged, run in a transaction of its own where that can be, looked at, and
//! compared. What a file sets, prepares or declares carries on within it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use interceptor::policy::{ActionName, Tag, TagSet};
use interceptor::protocol::postgres::analysis::{
    Analysis, ColumnTags, Cursor, Known, Prepared, Scope, SessionEffect, Transaction, analyze,
};
use interceptor::protocol::postgres::catalog::{Catalog, Names};

use super::compare::{Case, Finding};
use super::script::{Script, Step};
use super::truth::{Mirror, Seen, commit, look, meaning, names};
use super::wire::{Answer, Row, Session};

/// Figures of one file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Statements that were sent.
    pub(crate) tried: usize,
    /// That the server refused: nothing came of them.
    pub(crate) refused: usize,
    /// That ran where the server could not be asked: outside of a transaction block, or ending one.
    pub(crate) unobserved: usize,
    /// Judged opaque, of those that ran.
    pub(crate) opaque: usize,
    /// That the server understood, and the parser did not.
    pub(crate) unparsed: usize,
    /// Judged otherwise without the catalog.
    pub(crate) needed_catalog: usize,
    /// Opaque, though the server touched nothing that would not have been named.
    pub(crate) needless: usize,
    /// That touched something of a user's, as the server saw it.
    pub(crate) touched: usize,
    /// Of these, where a verdict that names nothing would have been found wrong.
    pub(crate) would_show: usize,
    /// psql's own commands, and what only they could run.
    pub(crate) skipped: usize,
    /// Findings, by kind.
    pub(crate) found: BTreeMap<Finding, usize>,
}

impl Figures {
    /// Adds those of another file.
    pub(crate) fn add(&mut self, other: &Self) {
        self.tried += other.tried;
        self.refused += other.refused;
        self.unobserved += other.unobserved;
        self.opaque += other.opaque;
        self.unparsed += other.unparsed;
        self.needed_catalog += other.needed_catalog;
        self.needless += other.needless;
        self.touched += other.touched;
        self.would_show += other.would_show;
        self.skipped += other.skipped;
        for (finding, count) in &other.found {
            *self.found.entry(*finding).or_default() += count;
        }
    }

    /// Statements that ran.
    pub(crate) const fn ran(&self) -> usize {
        self.tried - self.refused
    }

    /// How often that was found.
    pub(crate) fn count(&self, finding: Finding) -> usize {
        self.found.get(&finding).copied().unwrap_or(0)
    }
}

/// Where a corpus runs.
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    pub(crate) database: String,
}

/// The run of a corpus.
pub(crate) struct Run {
    place: Place,
    outside: Session,
    mirror: Mirror,
    /// Why texts were opaque, and how often needlessly.
    pub(crate) reasons: BTreeMap<String, (usize, usize)>,
    /// Whatever must not be, in words.
    pub(crate) wrong: Vec<String>,
    /// Exemptions that were made use of, in words, some of each.
    pub(crate) exempt: BTreeMap<&'static str, Vec<String>>,
    /// Texts that only the server could parse.
    pub(crate) unparsed: Vec<String>,
}

/// State of one file's session.
struct Client {
    session: Session,
    names: Names,
    rows: Vec<Row>,
    memory: Memory,
    /// What the open transaction had touched when it was last looked at.
    before: Seen,
    /// What names mean is known already.
    settled: bool,
}

#[derive(Default)]
struct Memory {
    prepared: HashMap<String, Arc<Prepared>>,
    cursors: HashMap<String, (Arc<Cursor>, bool)>,
}

impl Known for Memory {
    fn prepared(&self, name: &str) -> Option<Arc<Prepared>> {
        self.prepared.get(name).cloned()
    }

    fn cursor(&self, name: &str) -> Option<Arc<Cursor>> {
        self.cursors.get(name).map(|(cursor, _)| Arc::clone(cursor))
    }
}

impl Memory {
    fn apply(&mut self, effect: &SessionEffect) {
        match effect {
            SessionEffect::Prepare { name, prepared } => {
                self.prepared.insert(name.to_string(), Arc::clone(prepared));
            }
            SessionEffect::Deallocate { name: Some(name) } => drop(self.prepared.remove(&**name)),
            SessionEffect::Deallocate { name: None } => self.prepared.clear(),
            SessionEffect::DeclareCursor { name, cursor, hold, .. } => {
                self.cursors.insert(name.to_string(), (Arc::clone(cursor), *hold));
            }
            SessionEffect::Close { name: Some(name) } => drop(self.cursors.remove(&**name)),
            SessionEffect::Close { name: None } => self.cursors.clear(),
            SessionEffect::DiscardAll => *self = Self::default(),
            SessionEffect::Transaction(Transaction::Commit { .. } | Transaction::Rollback { .. }) => {
                self.cursors.retain(|_, (_, hold)| *hold);
            }
            _ => {}
        }
    }
}

/// One column of everything is tagged: tags must not hide what is named.
struct NoTags;

impl ColumnTags for NoTags {
    fn tags(&self, _: &str, _: &str, _: &str, _: &str, _: &str) -> TagSet {
        TagSet::default()
    }

    fn all(&self) -> TagSet {
        TagSet::default()
    }

    fn hides_all(&self, _: &Tag) -> bool {
        true
    }
}

const SETTINGS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("datestyle", "Postgres, MDY"),
    ("timezone", "PST8PDT"),
    ("intervalstyle", "postgres_verbose"),
];

/// The server cannot do this within a transaction block, or within one that somebody else ends.
const NOT_WITHIN: &[&str] = &["25001", "2D000", "25P01", "3B001"];

impl Run {
    /// Connects the onlooker.
    pub(crate) fn new(place: Place) -> io::Result<Self> {
        let outside = Session::open(&place.folder, place.port, &place.database, &[("statement_timeout", "0")])?;
        Ok(Self {
            place,
            outside,
            mirror: Mirror::new(),
            reasons: BTreeMap::new(),
            wrong: Vec::new(),
            exempt: BTreeMap::new(),
            unparsed: Vec::new(),
        })
    }

    fn client(&self) -> io::Result<Client> {
        let mut session = Session::open(&self.place.folder, self.place.port, &self.place.database, SETTINGS)?;
        let (names, rows) = names(&mut session)?;
        Ok(Client { session, names, rows, memory: Memory::default(), before: Seen::default(), settled: false })
    }

    /// Runs a script of psql.
    pub(crate) fn script(
        &mut self,
        name: &str,
        text: &str,
        environment: HashMap<String, String>,
    ) -> io::Result<Figures> {
        let mut script = Script::new(text, environment);
        let mut client = self.client()?;
        let mut figures = Figures::default();
        loop {
            match script.next(client.session.plain_strings()) {
                Step::End => return Ok(figures),
                Step::Skipped => figures.skipped += 1,
                Step::Connect => client = self.client()?,
                Step::Statement { end, .. } if end == "gdesc" => figures.skipped += 1,
                Step::Statement { text, end, argument } => {
                    if text.trim().is_empty() {
                        continue;
                    }
                    let mut data = None;
                    let mut copied = || data.get_or_insert_with(|| script.data()).clone();
                    let answer = match self.statement(name, &text, &mut copied, &mut client, &mut figures) {
                        Ok(answer) => answer,
                        Err(error) => {
                            // The statement ended its own session.
                            figures.unobserved += 1;
                            client = self.client().map_err(|_| error)?;
                            self.mirror.doubt(None);
                            continue;
                        }
                    };
                    match end.as_str() {
                        "gset" => {
                            for (column, cell) in answer.columns.iter().zip(answer.rows.first().into_iter().flatten()) {
                                script.set(format!("{argument}{column}"), cell.clone().unwrap_or_default());
                            }
                        }
                        "gexec" => {
                            for text in answer.rows.iter().flatten().flatten() {
                                self.statement(name, text, &mut Vec::new, &mut client, &mut figures)?;
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn statement(
        &mut self,
        file: &str,
        text: &str,
        data: &mut dyn FnMut() -> Vec<u8>,
        client: &mut Client,
        figures: &mut Figures,
    ) -> io::Result<Answer> {
        figures.tried += 1;
        if client.session.status == 'E' {
            let answer = client.session.run(text, data)?;
            figures.refused += usize::from(answer.error.is_some());
            // A savepoint may have brought it back, with an id that what failed was given.
            client.before.writes = true;
            self.settle(client)?;
            return Ok(answer);
        }
        if self.mirror.is_stale() {
            if client.session.status == 'T' {
                self.mirror.refresh(&mut client.session, true)?;
            } else {
                self.mirror.refresh(&mut self.outside, false)?;
            }
        }
        let analysis = judge(text, &self.mirror.catalog, &client.names, &client.memory);
        let (known, old) = (client.names.clone(), client.rows.clone());
        let (answer, seen) = self.observe(text, data, client, &analysis)?;
        if answer.error.is_some() {
            figures.refused += 1;
            self.settle(client)?;
            return Ok(answer);
        }
        figures.unobserved += usize::from(seen.is_none());
        let bare = judge(text, &Catalog::default(), &Names::standard("postgres"), &client.memory);
        figures.needed_catalog += usize::from(!analysis.opaque && bare.actions != analysis.actions);
        let alone = client.session.status == 'I';
        let case =
            seen.as_ref().map(|seen| Case { analysis: &analysis, seen, mirror: &self.mirror, names: &known, alone });
        if let Some(case) = case.as_ref().filter(|case| case.seen.touches()) {
            figures.touched += 1;
            figures.would_show += usize::from(case.would_show());
        }
        let needless = case.as_ref().is_some_and(|case| case.seen.calls.is_empty() && !case.seen.writes);
        let found = case.map(|case| case.compare()).unwrap_or_default();
        if analysis.opaque {
            figures.opaque += 1;
            let unparsed = analysis.statements.iter().any(|statement| statement.kind == "Unparsed");
            if unparsed {
                figures.unparsed += 1;
                self.unparsed.push(text.trim().to_owned());
            }
            figures.needless += usize::from(needless);
            self.reason(&analysis, needless);
        }
        let found = found.into_iter().chain(self.settled(&analysis, seen.as_ref(), client, &old)?);
        for (finding, what) in found.collect::<Vec<_>>() {
            *figures.found.entry(finding).or_default() += 1;
            let shown = || format!("{file}: {}\n    {finding:?}: {what}\n    {:?}", one_line(text), shown(&analysis));
            match finding {
                Finding::Exempt(why) => {
                    let some = self.exempt.entry(why).or_default();
                    if some.len() < 20 {
                        some.push(shown());
                    }
                }
                _ => self.wrong.push(shown()),
            }
        }
        for statement in &analysis.statements {
            client.memory.apply(&statement.effect);
        }
        Ok(answer)
    }

    /// Runs a text, in a transaction of its own where none is open, and looks.
    fn observe(
        &self,
        text: &str,
        data: &mut dyn FnMut() -> Vec<u8>,
        client: &mut Client,
        analysis: &Analysis,
    ) -> io::Result<(Answer, Option<Seen>)> {
        let session = &mut client.session;
        let controls = analysis.statements.iter().any(|statement| {
            matches!(statement.effect, SessionEffect::Transaction(_))
                || statement.kind == "VariableSetStmt" && text.to_ascii_lowercase().contains("transaction")
        });
        if controls {
            let answer = session.run(text, data)?;
            if session.status == 'I' {
                client.before = Seen { advisory: std::mem::take(&mut client.before.advisory), ..Seen::default() };
            }
            return Ok((answer, None));
        }
        if session.status == 'T' {
            let answer = session.run(text, data)?;
            if session.status != 'T' {
                return Ok((answer, None));
            }
            let now = look(session)?;
            let new = now.since(&client.before);
            client.before = now;
            return Ok((answer, Some(new)));
        }
        let answer = session.run_after("BEGIN", text, data)?;
        if session.status == 'T' {
            let seen = look(session)?;
            let end = commit(session)?;
            if end.error.is_none() {
                client.names = meaning(&end.rows)?;
                client.rows = end.rows;
                client.settled = true;
            }
            // What is checked at the end can still fail there.
            let error = answer.error.or(end.error);
            let own = seen.advisory.difference(&client.before.advisory).cloned().collect();
            client.before = Seen { advisory: seen.advisory.clone(), ..Seen::default() };
            return Ok((Answer { error, ..answer }, Some(Seen { advisory: own, ..seen })));
        }
        session.run("ROLLBACK", &mut Vec::new)?;
        match &answer.error {
            Some((state, _)) if NOT_WITHIN.contains(&state.as_str()) => {
                let answer = session.run(text, data)?;
                Ok((answer, None))
            }
            _ => Ok((answer, None)),
        }
    }

    /// Asks again what names mean, and says where the verdict would not have.
    fn settled(
        &mut self,
        analysis: &Analysis,
        seen: Option<&Seen>,
        client: &mut Client,
        old: &[Row],
    ) -> io::Result<Vec<(Finding, String)>> {
        let mut found = Vec::new();
        let resync = |of: fn(&interceptor::protocol::postgres::analysis::Resync) -> bool| {
            analysis.statements.iter().any(|statement| of(&statement.resync))
        };
        let ends =
            analysis.statements.iter().any(|statement| matches!(statement.effect, SessionEffect::Transaction(_)));
        self.settle(client)?;
        let new: Vec<_> = client.rows.iter().filter(|row| !old.contains(row)).collect();
        let gone: Vec<_> = old.iter().filter(|row| !client.rows.contains(row)).collect();
        // With the catalog the names are asked for, too.
        let announced = resync(|resync| resync.names || resync.catalog) || ends;
        let same = new.is_empty() && gone.is_empty();
        if !announced && !same {
            found.push((Finding::ChangeMissed, format!("names: {new:?} instead of {gone:?}")));
        }
        match seen {
            Some(seen) if !ends => {
                let old = self.mirror.catalog.fingerprint();
                self.mirror.doubt(Some(seen));
                if self.mirror.is_stale() && !resync(|resync| resync.names || resync.catalog) {
                    let within = client.session.status == 'T';
                    let session = if within { &mut client.session } else { &mut self.outside };
                    self.mirror.refresh(session, within)?;
                    if self.mirror.catalog.fingerprint() != old {
                        found.push((Finding::ChangeMissed, "the catalog".to_owned()));
                    }
                }
            }
            Some(_) | None => {
                let harmless = analysis.statements.iter().all(|statement| {
                    matches!(
                        statement.effect,
                        SessionEffect::Transaction(
                            Transaction::Begin | Transaction::Savepoint(_) | Transaction::Release(_)
                        )
                    ) || statement.kind == "VariableSetStmt"
                });
                if !harmless {
                    self.mirror.doubt(None);
                }
            }
        }
        Ok(found)
    }

    /// Asks the session again what names mean.
    fn settle(&mut self, client: &mut Client) -> io::Result<()> {
        if client.session.status == 'I' && !client.before.locks.is_empty() {
            client.before = Seen { advisory: std::mem::take(&mut client.before.advisory), ..Seen::default() };
        }
        if std::mem::take(&mut client.settled) {
            return Ok(());
        }
        if client.session.status == 'I' || client.session.status == 'T' && !client.before.named.is_empty() {
            (client.names, client.rows) = names(&mut client.session)?;
        }
        Ok(())
    }

    fn reason(&mut self, analysis: &Analysis, needless: bool) {
        let opaque = analysis.actions.iter().filter(|action| action.name == ActionName::SQL_OPAQUE);
        for action in opaque {
            let note = action.note.as_deref().unwrap_or("");
            let on = action.resource.path.get(2..).unwrap_or_default().join(".");
            let note = note.split(&[':', '"'][..]).next().unwrap_or_default();
            let key = match (note, on.starts_with("pg_catalog.")) {
                (note, true) => format!("{on}: {note}"),
                (note, false) if note.starts_with("unknown ") => {
                    note.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
                }
                (note, false) if note.starts_with("what ") => {
                    "what a name means is decided by an earlier statement".to_owned()
                }
                (note, false) => note.to_owned(),
            };
            let counts = self.reasons.entry(key).or_default();
            counts.0 += 1;
            counts.1 += usize::from(needless);
        }
    }
}

fn judge(text: &str, catalog: &Catalog, names: &Names, known: &dyn Known) -> Analysis {
    analyze(text, &Scope { target: "t", database: "regression", catalog, names, tags: &NoTags, known, parsed: None })
}

fn shown(analysis: &Analysis) -> Vec<String> {
    analysis
        .actions
        .iter()
        .map(|action| format!("{} {}", action.name, action.resource.path.get(2..).unwrap_or_default().join(".")))
        .collect()
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(400).collect()
}

/// The files of a regression suite, in the order of its schedule.
pub(crate) fn schedule(suite: &Path) -> io::Result<Vec<String>> {
    let text = std::fs::read_to_string(suite.join("parallel_schedule"))?;
    let tests = text.lines().filter_map(|line| line.strip_prefix("test:"));
    Ok(tests.flat_map(str::split_whitespace).map(str::to_owned).collect())
}
