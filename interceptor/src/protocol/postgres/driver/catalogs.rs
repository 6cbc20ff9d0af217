//! What is known of each target's databases, shared by all sessions.
//!
//! A catalog is loaded over a connection of its own, so that no agent's session is touched, and by one session at a time
//! for each database. DDL that is seen in any session makes all sessions of that database ask again before they read
//! another text. What others change past interceptor is seen after [`FRESH`] and one load, at most after [`STALE`]: past
//! that age nothing is read until a load succeeds. A name that is unknown is looked up again where the catalog is older
//! than [`DOUBTED`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use tokio::sync::Mutex;

use super::super::catalog::{Catalog, Loader, QUERIES, SETUP};
use super::super::login::{self, Bounds};
use super::super::shared::Shared;
use crate::clock::{Clock, SystemClock};
use crate::protocol::{Dial, Login, Target};

/// Past this age a catalog is loaded again, while sessions go on with the old one.
pub(super) const FRESH: Duration = Duration::from_secs(60);

/// Past this age sessions wait for a newer catalog, and take nothing for known where there is none.
pub(super) const STALE: Duration = Duration::from_secs(300);

/// An unknown name is believed to be unknown where the catalog is no older than this.
pub(super) const DOUBTED: Duration = Duration::from_secs(2);

/// How long a session waits for the catalog.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Databases that are kept; of more, each session keeps its own, where all of them are in use.
pub(super) const KEPT_LIMIT: usize = 256;

static SHELVES: LazyLock<parking_lot::Mutex<Shelves>> = LazyLock::new(Default::default);
static CLOCK: LazyLock<SystemClock> = LazyLock::new(SystemClock::new);

/// Every database that is known.
#[derive(Default)]
struct Shelves {
    /// By target, database and place: a target may have several hosts, that need not be the same server.
    kept: HashMap<(Arc<str>, String, String), Arc<Shelf>>,
    /// By target and database: several hosts may be the same server, so that DDL is told to all of them.
    families: HashMap<(Arc<str>, String), Weak<Family>>,
}

/// The shelves of one database of a target, whatever the place.
type Family = parking_lot::Mutex<Vec<Weak<Shelf>>>;

impl Shelves {
    fn shelf(&mut self, target: &Arc<str>, database: &str, place: String) -> Arc<Shelf> {
        let key = (Arc::clone(target), database.to_owned(), place);
        if let Some(known) = self.kept.get(&key) {
            return Arc::clone(known);
        }
        if self.kept.len() >= KEPT_LIMIT {
            // Those that no session uses.
            self.kept.retain(|_, shelf| Arc::strong_count(shelf) > 1);
        }
        let shelf = Arc::new(Shelf { family: self.family(target, database), ..Shelf::default() });
        let mut family = shelf.family.lock();
        family.retain(|member| member.strong_count() > 0);
        family.push(Arc::downgrade(&shelf));
        drop(family);
        if self.kept.len() < KEPT_LIMIT {
            self.kept.insert(key, Arc::clone(&shelf));
        }
        shelf
    }

    fn family(&mut self, target: &Arc<str>, database: &str) -> Arc<Family> {
        let key = (Arc::clone(target), database.to_owned());
        if let Some(known) = self.families.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        self.families.retain(|_, family| family.strong_count() > 0);
        let family = Arc::default();
        self.families.insert(key, Arc::downgrade(&family));
        family
    }
}

/// The catalog of one database, and whether it still holds.
#[derive(Debug, Default)]
pub(in super::super) struct Shelf {
    family: Arc<Family>,
    kept: parking_lot::Mutex<Kept>,
    loading: Mutex<()>,
    /// When its load began, in milliseconds of [`CLOCK`]: looked at with each command, so without a lock.
    began: AtomicU64,
    /// Grows when the catalog is another, or may no longer hold.
    version: AtomicU64,
    /// What sessions have read.
    pub(in super::super) readings: Shared,
}

#[derive(Debug, Default)]
struct Kept {
    catalog: Option<Arc<Catalog>>,
    /// When its load began.
    began: Duration,
    /// When DDL was last seen.
    changed: Option<Duration>,
}

impl Shelf {
    /// Which state of the catalog is the newest: a session that has read under another one has to ask again.
    pub(in super::super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// DDL was run, so that what is kept may no longer hold, here and for all that may be the same database.
    /// Gives the version from then on.
    pub(in super::super) fn mark_changed(&self) -> u64 {
        let version = self.doubt();
        let members: Vec<Arc<Self>> = self.family.lock().iter().filter_map(Weak::upgrade).collect();
        for other in members.iter().filter(|other| !std::ptr::eq(Arc::as_ptr(other), self)) {
            let _theirs = other.doubt();
        }
        version
    }

    /// The clock that ages go by.
    pub(in super::super) fn now() -> Duration {
        CLOCK.monotonic()
    }

    fn doubt(&self) -> u64 {
        self.kept.lock().changed = Some(CLOCK.monotonic());
        self.version.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether what is kept is too old to be relied on.
    pub(in super::super) fn is_stale(&self) -> bool {
        self.age() > STALE
    }

    fn age(&self) -> Duration {
        CLOCK.monotonic().saturating_sub(Duration::from_millis(self.began.load(Ordering::Acquire)))
    }

    /// What is kept, where it holds and is no older than that.
    fn holds(&self, age: Duration) -> Option<Arc<Catalog>> {
        let kept = self.kept.lock();
        let now = CLOCK.monotonic();
        let catalog = kept.catalog.as_ref().filter(|_| kept.changed.is_none())?;
        (now.saturating_sub(kept.began) <= age).then(|| Arc::clone(catalog))
    }

    fn put(&self, catalog: Catalog, began: Duration) -> Arc<Catalog> {
        let mut kept = self.kept.lock();
        kept.began = began;
        self.began.store(u64::try_from(began.as_millis()).unwrap_or(0), Ordering::Release);
        kept.changed = kept.changed.filter(|changed| *changed >= began);
        if let Some(same) = kept.catalog.as_ref().filter(|old| old.fingerprint() == catalog.fingerprint()) {
            return Arc::clone(same);
        }
        let catalog = Arc::new(catalog);
        kept.catalog = Some(Arc::clone(&catalog));
        self.version.fetch_add(1, Ordering::AcqRel);
        catalog
    }
}

/// A database, and the means to look into it.
#[derive(Clone, Debug)]
pub(super) struct Library {
    pub(super) shelf: Arc<Shelf>,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) target: Arc<Target>,
    pub(super) login: Login,
    pub(super) database: Arc<str>,
}

impl Library {
    /// The shelf of a database, which all its sessions share.
    pub(super) fn open(dial: Arc<dyn Dial>, target: Arc<Target>, login: Login, database: &str) -> Self {
        let shelf = SHELVES.lock().shelf(&target.name, database, dial.place());
        Self { shelf, dial, target, login, database: database.into() }
    }

    /// The catalog, no older than that, and the version of the shelf under which it holds.
    ///
    /// # Errors
    /// When it cannot be loaded, or not within [`PATIENCE`]: also where others were waited for, that load it for all.
    pub(super) async fn catalog(&self, age: Duration) -> Result<(Arc<Catalog>, u64), String> {
        let loaded = tokio::time::timeout(PATIENCE, self.loaded(age)).await;
        loaded.unwrap_or_else(|_elapsed| Err(format!("the catalog was not there within {} s", PATIENCE.as_secs())))
    }

    async fn loaded(&self, age: Duration) -> Result<(Arc<Catalog>, u64), String> {
        // Read before the catalog: what changes meanwhile makes the session ask again.
        let version = self.shelf.version();
        if let Some(catalog) = self.shelf.holds(age) {
            return Ok((catalog, version));
        }
        let _alone = self.shelf.loading.lock().await;
        let version = self.shelf.version();
        if let Some(catalog) = self.shelf.holds(age) {
            return Ok((catalog, version));
        }
        let began = CLOCK.monotonic();
        let loaded = self.fetch().await?;
        let catalog = self.shelf.put(loaded, began);
        // Another catalog is a new version, which this session has with it, unless DDL came in between.
        let newer = self.shelf.version();
        let changed = self.shelf.kept.lock().changed.is_some();
        Ok((catalog, if changed { version } else { newer }))
    }

    /// Has the catalog loaded again in the background where it is no longer fresh.
    pub(super) fn refresh(&self) {
        if self.shelf.age() <= FRESH || self.shelf.loading.try_lock().is_err() {
            return;
        }
        let library = self.clone();
        tokio::spawn(async move {
            if let Err(error) = library.catalog(FRESH).await {
                tracing::warn!(target = %library.target.name, database = %library.database, %error, "the catalog stays old");
            }
        });
    }

    async fn fetch(&self) -> Result<Catalog, String> {
        let leg = self.dial.dial().await.map_err(|error| error.to_string())?;
        let mut leg = login::login(leg, &self.target, &self.login, &own_parameters(&self.database))
            .await
            .map_err(|error| error.to_string())?;
        let bounds = Bounds { rows: super::super::catalog::MAX_ROWS, ..Bounds::default() };
        let mut loader = Loader::new();
        leg.query(SETUP, &bounds).await.map_err(|error| error.to_string())?;
        for query in QUERIES {
            let mut take = |row: &[Option<&str>]| loader.take(row).map_err(|error| error.to_string());
            leg.query_each(query, &bounds, &mut take).await.map_err(|error| error.to_string())?;
            loader.end();
        }
        loader.finish().map_err(|error| error.to_string())
    }
}

/// Start-up parameters of a connection of our own.
pub(super) fn own_parameters(database: &str) -> [(String, String); 3] {
    [
        ("database".to_owned(), database.to_owned()),
        ("client_encoding".to_owned(), "UTF8".to_owned()),
        ("application_name".to_owned(), "interceptor".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::tls;

    #[derive(Debug)]
    struct At(&'static str);

    impl Dial for At {
        fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
            Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
        }

        fn place(&self) -> String {
            self.0.to_owned()
        }
    }

    #[test]
    fn two_servers_of_one_target_do_not_share_what_is_known() {
        let target = Arc::new(Target {
            name: "two servers".into(),
            host: "h".into(),
            agent_tls: None,
            http: None,
            upstream_tls: tls::Upstream::default(),
        });
        let login = Login { user: "u".to_owned(), password: None, session: None };
        let open =
            |place, database| Library::open(Arc::new(At(place)), Arc::clone(&target), login.clone(), database).shelf;
        assert!(Arc::ptr_eq(&open("one:5432", "d"), &open("one:5432", "d")));
        assert!(!Arc::ptr_eq(&open("one:5432", "d"), &open("two:5432", "d")));
        assert!(!Arc::ptr_eq(&open("one:5432", "d"), &open("one:5432", "e")));
        // They may be one server all the same: what is changed at one place is in doubt at all.
        let (one, two, other) = (open("one:5432", "d"), open("two:5432", "d"), open("one:5432", "e"));
        let versions = || (one.version(), two.version(), other.version());
        let before = versions();
        two.mark_changed();
        assert_eq!(versions(), (before.0 + 1, before.1 + 1, before.2));
        assert!(one.holds(FRESH).is_none());
    }

    #[test]
    fn what_no_session_uses_makes_room_and_nobody_is_left_out() {
        let mut shelves = Shelves::default();
        let target: Arc<str> = "t".into();
        let used = shelves.shelf(&target, "d", "used".to_owned());
        for place in 0..KEPT_LIMIT * 2 {
            shelves.shelf(&target, "d", place.to_string());
        }
        assert!(shelves.kept.len() <= KEPT_LIMIT);
        assert!(Arc::ptr_eq(&used, &shelves.shelf(&target, "d", "used".to_owned())));
        let all: Vec<_> = (0..=KEPT_LIMIT).map(|place| shelves.shelf(&target, "d", format!("held {place}"))).collect();
        let before: Vec<u64> = all.iter().map(|shelf| shelf.version()).collect();
        used.mark_changed();
        assert!(all.iter().zip(before).all(|(shelf, before)| shelf.version() > before), "kept or not, all are told");
        assert!(used.family.lock().len() <= KEPT_LIMIT * 2 + 2);
    }
}
