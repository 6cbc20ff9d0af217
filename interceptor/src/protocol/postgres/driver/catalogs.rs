//! What is known of each target's databases, shared by all sessions.
//!
//! A catalog is loaded over a connection of its own, so that the agent's session is not touched, and by one session at a
//! time for each database. It is loaded again after DDL seen here, and when it is older than [`FRESH`]: what others
//! change meanwhile is seen late, and shows as a name that is unknown, or as columns that the server says are others.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::Mutex;

use super::super::catalog::{Catalog, Loader, QUERIES, SETUP};
use super::super::login::{self, Bounds};
use crate::clock::{Clock, SystemClock};
use crate::protocol::{Dial, Login, Target};

/// How old a catalog may be when a session begins.
pub(super) const FRESH: Duration = Duration::from_secs(60);

/// Databases that are kept; more are loaded each time.
pub(super) const KEPT_LIMIT: usize = 256;

type Slot = Arc<Mutex<Option<(Duration, Arc<Catalog>)>>>;

type Kept = parking_lot::Mutex<HashMap<(Arc<str>, String), Slot>>;

static KEPT: LazyLock<Kept> = LazyLock::new(Default::default);
static CLOCK: LazyLock<SystemClock> = LazyLock::new(SystemClock::new);

/// The catalog of a database, fresh enough.
pub(super) async fn load(
    dial: &Arc<dyn Dial>,
    target: &Target,
    login: &Login,
    database: &str,
) -> Result<Arc<Catalog>, String> {
    let slot = slot(target, database);
    let mut kept = slot.lock().await;
    let now = CLOCK.monotonic();
    if let Some((loaded, catalog)) = kept.as_ref().filter(|(loaded, _)| now.saturating_sub(*loaded) <= FRESH) {
        let _age = loaded;
        return Ok(Arc::clone(catalog));
    }
    let catalog = Arc::new(fetch(dial, target, login, database).await?);
    *kept = Some((now, Arc::clone(&catalog)));
    Ok(catalog)
}

/// The catalog of a database as it is now.
pub(super) async fn reload(
    dial: &Arc<dyn Dial>,
    target: &Target,
    login: &Login,
    database: &str,
) -> Result<Arc<Catalog>, String> {
    let slot = slot(target, database);
    let mut kept = slot.lock().await;
    let catalog = Arc::new(fetch(dial, target, login, database).await?);
    *kept = Some((CLOCK.monotonic(), Arc::clone(&catalog)));
    Ok(catalog)
}

fn slot(target: &Target, database: &str) -> Slot {
    let mut kept = KEPT.lock();
    let key = (Arc::clone(&target.name), database.to_owned());
    if kept.len() >= KEPT_LIMIT && !kept.contains_key(&key) {
        return Slot::default();
    }
    Arc::clone(kept.entry(key).or_default())
}

async fn fetch(dial: &Arc<dyn Dial>, target: &Target, login: &Login, database: &str) -> Result<Catalog, String> {
    let leg = dial.dial().await.map_err(|error| error.to_string())?;
    let parameters = [
        ("database".to_owned(), database.to_owned()),
        ("client_encoding".to_owned(), "UTF8".to_owned()),
        ("application_name".to_owned(), "interceptor".to_owned()),
    ];
    let mut leg = login::login(leg, target, login, &parameters).await.map_err(|error| error.to_string())?;
    let bounds = Bounds { rows: super::super::catalog::MAX_ROWS, ..Bounds::default() };
    let mut loader = Loader::new();
    leg.query(SETUP, &bounds).await.map_err(|error| error.to_string())?;
    for query in QUERIES {
        let rows = leg.query(query, &bounds).await.map_err(|error| error.to_string())?;
        loader.rows(&rows).map_err(|error| error.to_string())?;
    }
    loader.finish().map_err(|error| error.to_string())
}
