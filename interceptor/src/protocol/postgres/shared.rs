//! Readings that the sessions of a database share, so that a session that is opened for one statement need not read what
//! the one before it has read.
//!
//! Shared is only what depends on nothing of the session but its names, and those have to be the same: the very catalog,
//! the very masking rules, the same path, users and settings, and no temporary relations. Of texts only those are shared
//! whose analysis holds for every text of their shape. Bounds: [`MEANINGS`] states of names with [`BYTES`] each.

use std::sync::Arc;

use parking_lot::Mutex;

use super::analyst::Readings;
use super::catalog::{Catalog, Names};
use super::statement::Reading;
use crate::mask::Rules;

/// States of names that readings are shared in, and bytes that the readings of each hold.
const MEANINGS: usize = 4;
const BYTES: usize = 256 << 10;

/// The shared readings of a database.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Vec<Meaning>>);

/// Readings, and all that they depend on beside their texts, and beside target and database, which are the shelf's.
#[derive(Debug)]
struct Meaning {
    catalog: Arc<Catalog>,
    rules: Arc<Rules>,
    names: Names,
    readings: Readings<Box<[u8]>>,
}

impl Meaning {
    /// Taken apart, so that nothing that decides what a name means can be forgotten here.
    fn is(&self, catalog: &Arc<Catalog>, rules: &Arc<Rules>, names: &Names) -> bool {
        let Names { search_path, user, session_user, temporary, types, heirs, keys, plain_text, settled } = names;
        Arc::ptr_eq(&self.catalog, catalog)
            && Arc::ptr_eq(&self.rules, rules)
            && temporary.is_empty()
            && types.is_empty()
            && heirs.is_empty()
            && keys.is_empty()
            && self.names.temporary.is_empty()
            && self.names.search_path == *search_path
            && self.names.user == *user
            && self.names.session_user == *session_user
            && self.names.plain_text == *plain_text
            && self.names.settled == *settled
    }
}

impl Shared {
    /// The reading of another text of this shape, where one is known.
    pub(super) fn find(
        &self,
        catalog: &Arc<Catalog>,
        rules: &Arc<Rules>,
        names: &Names,
        shape: &[u8],
    ) -> Option<Arc<Reading>> {
        let mut meanings = self.0.lock();
        let same = meanings.iter_mut().find(|meaning| meaning.is(catalog, rules, names))?;
        same.readings.get(shape).map(Arc::clone)
    }

    /// Shares a reading, if others may have it.
    pub(super) fn keep(
        &self,
        catalog: &Arc<Catalog>,
        rules: &Arc<Rules>,
        names: &Names,
        (shape, reading): (&[u8], &Arc<Reading>),
    ) {
        if !names.temporary.is_empty() || !names.types.is_empty() || !reading.analysis.is_of_shape() {
            return;
        }
        let mut meanings = self.0.lock();
        if let Some(same) = meanings.iter_mut().find(|meaning| meaning.is(catalog, rules, names)) {
            same.readings.put(shape.into(), reading);
            return;
        }
        // The one that was begun last stays first; an older catalog is of no more use to anybody.
        meanings.truncate(MEANINGS - 1);
        let (catalog, rules) = (Arc::clone(catalog), Arc::clone(rules));
        let mut fresh = Meaning { catalog, rules, names: names.clone(), readings: Readings::new(BYTES) };
        fresh.readings.put(shape.into(), reading);
        meanings.insert(0, fresh);
    }
}

#[cfg(test)]
mod tests {
    use super::super::analysis::NothingKnown;
    use super::super::analyst::SessionAnalyst;
    use super::super::catalog::{Code, Loader, Relation, RelationKind};
    use super::super::driver::Shelf;
    use super::super::statement::Analyst as _;
    use super::*;
    use crate::mask::{Config, Transform};

    fn catalog() -> Arc<Catalog> {
        let queries: Vec<Vec<Vec<Option<String>>>> =
            serde_json::from_str(include_str!("testdata/catalog.json")).unwrap();
        let mut loader = Loader::new();
        queries.iter().for_each(|rows| loader.rows(rows).unwrap());
        Arc::new(loader.finish().unwrap())
    }

    fn rules() -> Arc<Rules> {
        let (tag, columns) = ("pii".to_owned(), vec!["*.email".to_owned()]);
        let entry =
            Config { tag, columns, json: Vec::new(), detect: Vec::new(), base64: false, transform: Transform::Redact };
        Arc::new(Rules::compile(&[entry], None).unwrap())
    }

    /// What sessions have in common.
    struct House {
        catalog: Arc<Catalog>,
        shelf: Arc<Shelf>,
        rules: Arc<Rules>,
    }

    impl House {
        fn new() -> Self {
            Self { catalog: catalog(), shelf: Arc::default(), rules: rules() }
        }

        /// The number of the analysis of a text in a new session.
        fn read(&self, names: Names, text: &str) -> u64 {
            let known = (Arc::clone(&self.catalog), Arc::clone(&self.shelf), 0);
            let mut analyst = SessionAnalyst::new("t".into(), "d".into(), known, names, Arc::clone(&self.rules));
            let reading = analyst.read(text, &NothingKnown);
            assert_eq!((&*reading.text, reading.epoch), (text, 0));
            reading.analysis.id
        }
    }

    const TEXT: &str = "SELECT email FROM users WHERE id = 1";

    #[test]
    fn sessions_alike_share_what_they_read() {
        let house = House::new();
        let first = house.read(Names::standard("a"), TEXT);
        assert_eq!(house.read(Names::standard("a"), TEXT), first);
        assert_eq!(house.read(Names::standard("a"), "SELECT email FROM users WHERE id = 20"), first, "of one shape");
        assert_ne!(house.read(Names::standard("a"), "SELECT ssn FROM users WHERE id = 1"), first);
    }

    #[test]
    fn whatever_else_a_name_could_mean_is_read_anew() {
        let mut house = House::new();
        let first = house.read(Names::standard("a"), TEXT);
        let relation = |name: &str| Relation {
            oid: 1,
            schema: "pg_temp_1".into(),
            name: name.into(),
            kind: RelationKind::Table,
            columns: Vec::new(),
            definition: None,
            triggers: false,
            rules: false,
            code: Code::default(),
            kept: Code::default(),
            looked_at: false,
            policies: false,
            hidden_by: Vec::new(),
            constraints: Vec::new(),
        };
        let standard = || Names::standard("a");
        let others = [
            Names { search_path: vec!["public".into()], ..standard() },
            Names { user: "b".into(), ..standard() },
            Names { session_user: "b".into(), ..standard() },
            Names { temporary: vec![relation("users")], ..standard() },
            Names { temporary: vec![relation("other")], ..standard() },
            Names { plain_text: false, ..standard() },
            Names { settled: false, ..standard() },
        ];
        for names in others {
            assert_ne!(house.read(names.clone(), TEXT), first, "{names:?}");
        }
        assert!(house.shelf.readings.0.lock().iter().all(|meaning| meaning.names.temporary.is_empty()));
        house.rules = rules();
        assert_ne!(house.read(standard(), TEXT), first, "other rules");
        let mut house = House { rules: Arc::clone(&house.rules), ..House::new() };
        let first = house.read(standard(), TEXT);
        house.catalog = catalog();
        assert_ne!(house.read(standard(), TEXT), first, "another catalog");
        house.shelf = Arc::default();
        assert_ne!(house.read(standard(), TEXT), first, "another database");
    }

    /// What names prepared statements, is opaque, or names what is not there is the session's own.
    #[test]
    fn what_does_not_hold_for_others_is_not_shared() {
        let house = House::new();
        for text in
            ["EXECUTE p", "DO 'x'", "SELECT nothing FROM nowhere", "BEGIN", "SELECT email FROM users LIMIT 1; BEGIN"]
        {
            let first = house.read(Names::standard("a"), text);
            assert_ne!(house.read(Names::standard("a"), text), first, "{text}");
        }
        assert!(house.shelf.readings.0.lock().is_empty());
    }

    #[test]
    fn no_more_is_shared_than_there_is_room_for() {
        let house = House::new();
        for user in 0..MEANINGS * 2 {
            house.read(Names::standard(&user.to_string()), TEXT);
        }
        assert_eq!(house.shelf.readings.0.lock().len(), MEANINGS);
        let last = (MEANINGS * 2 - 1).to_string();
        assert_eq!(house.read(Names::standard(&last), TEXT), house.read(Names::standard(&last), TEXT));
        let mut kept = Readings::new(BYTES);
        let reading = {
            let known = (Arc::clone(&house.catalog), Arc::clone(&house.shelf), 0);
            let names = Names::standard("a");
            let mut analyst = SessionAnalyst::new("t".into(), "d".into(), known, names, Arc::clone(&house.rules));
            analyst.read(&format!("SELECT email AS {} FROM users", "x".repeat(60)), &NothingKnown)
        };
        for number in 0..2000u32 {
            kept.put(Box::from(number.to_be_bytes()), &reading);
        }
        assert!(kept.get(&0u32.to_be_bytes()[..]).is_none());
        assert!(kept.get(&1999u32.to_be_bytes()[..]).is_some());
    }
}
