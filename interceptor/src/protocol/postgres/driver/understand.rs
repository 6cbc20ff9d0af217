//! What a text would do in a fresh session at a target, without sending it there.

use std::sync::Arc;

use super::super::analysis::NothingKnown;
use super::super::analyst::SessionAnalyst;
use super::super::login;
use super::super::statement::Analyst as _;
use super::catalogs::{FRESH, Library, own_parameters};
use super::handshake::session_names;
use crate::policy::Command;
use crate::protocol::Question;

/// Reads the text as a new session of its database would have it read.
pub(in super::super) async fn understand(question: Question<'_>) -> Result<Command, String> {
    let Question { text, database, target, reach, rules } = question;
    let database =
        database.ok_or("name the database that the statement would be sent to: what its names mean is asked there")?;
    let (dial, login) = reach.await?;
    let library = Library::open(dial, target, login, database);
    let (catalog, version) = library.catalog(FRESH).await?;
    let leg = library.dial.dial().await.map_err(|error| error.to_string())?;
    let leg = login::login(leg, &library.target, &library.login, &own_parameters(database)).await;
    let names = session_names(&mut leg.map_err(|error| error.to_string())?).await?;
    let known = (catalog, Arc::clone(&library.shelf), version);
    let name = Arc::clone(&library.target.name);
    let mut analyst = SessionAnalyst::new(name, Arc::clone(&library.database), known, names, rules);
    let reading = analyst.read(text, &NothingKnown);
    let analysis = &reading.analysis;
    Ok(Command {
        analysis: analysis.id,
        statement: Arc::clone(&reading.text),
        parameters: Arc::from([]),
        actions: Arc::clone(&analysis.actions),
        facts: Arc::clone(&analysis.facts),
        in_transaction: false,
    })
}
