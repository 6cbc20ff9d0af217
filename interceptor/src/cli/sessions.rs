//! `interceptor sessions`, `interceptor sessions kill ID`.

use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;

use super::{Context, Printer, block_on, output};
use crate::admin::client;
use crate::identity::Level;
use crate::session::Listed;
use crate::telemetry::SessionId;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List live sessions
    List,
    /// End a session; its agent is told
    Kill {
        /// Session
        id: SessionId,
    },
}

pub(super) fn run(context: &Context, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    match arguments.verb {
        None | Some(Verb::List) => list(context, out),
        Some(Verb::Kill { id }) => {
            let path = format!("/v1/sessions/{id}/kill");
            let call = client::call::<serde_json::Value>(&context.socket, Method::POST, &path, None::<&()>);
            let answer = block_on(call)?.map_err(|error| error.to_string())?;
            out.show(&answer, |_| Ok(format!("session {id} is ended")))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(context: &Context, out: &mut Printer) -> Result<ExitCode, String> {
    let call = client::get::<Vec<Listed>>(&context.socket, "/v1/sessions");
    let sessions = block_on(call)?.map_err(|error| error.to_string())?;
    out.show(&sessions, |sessions| {
        let rows = sessions.iter().map(|session| {
            [
                session.id.to_string(),
                session.identity.clone().unwrap_or_else(|| "-".to_owned()),
                session.level.map_or("-", Level::as_str).to_owned(),
                session.target.clone(),
                session.pid.to_string(),
                session.uid.to_string(),
                session.opened_at.to_string(),
                session.commands.to_string(),
                session.denied.to_string(),
                session.held.to_string(),
                session.masked.to_string(),
            ]
        });
        let header =
            ["session", "identity", "level", "target", "pid", "uid", "since", "commands", "denied", "held", "masked"];
        Ok(output::table(header, rows))
    })?;
    Ok(ExitCode::SUCCESS)
}
