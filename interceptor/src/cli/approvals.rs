//! `interceptor approvals list|show|approve|deny`.

use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;

use super::{Context, Printer, REFUSED, block_on, output};
use crate::admin::{AnswerBody, client};
use crate::approval::{Request, RequestId, State};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List commands that wait, and grants that have not been used
    List,
    /// Show everything that is known of one
    Show {
        /// Request
        id: RequestId,
    },
    /// Let it run, once
    Approve {
        /// Request
        id: RequestId,
        /// Why, for the record
        #[arg(long)]
        reason: Option<String>,
    },
    /// Refuse it
    Deny {
        /// Request
        id: RequestId,
        /// Why; the agent is told
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(super) fn run(context: &Context, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    match &arguments.verb {
        Verb::List => list(context, out),
        Verb::Show { id } => {
            let path = format!("/v1/approvals/{id}");
            let call = client::get::<Request>(&context.socket, &path);
            let request = block_on(call)?.map_err(|error| error.to_string())?;
            out.show(&request, |request| Ok(details(request)))?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Approve { id, reason } => answer(context, out, *id, true, reason.clone()),
        Verb::Deny { id, reason } => answer(context, out, *id, false, reason.clone()),
    }
}

fn list(context: &Context, out: &mut Printer) -> Result<ExitCode, String> {
    let call = client::get::<Vec<Request>>(&context.socket, "/v1/approvals");
    let requests = block_on(call)?.map_err(|error| error.to_string())?;
    out.show(&requests, |requests| {
        let rows = requests.iter().map(|request| {
            [
                request.id.to_string(),
                request.state.name().to_owned(),
                request.identity.clone(),
                request.target.clone(),
                request.statement.chars().take(60).collect(),
                request.estimated_rows.map_or_else(|| "?".to_owned(), |rows| rows.to_string()),
                request.approvers.join(", "),
                request.expires_at.to_string(),
            ]
        });
        Ok(output::table(["request", "state", "identity", "target", "statement", "rows", "approvers", "until"], rows))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn answer(
    context: &Context,
    out: &mut Printer,
    id: RequestId,
    approve: bool,
    reason: Option<String>,
) -> Result<ExitCode, String> {
    let path = format!("/v1/approvals/{id}");
    let body = AnswerBody { approve, reason };
    let call = client::call::<Request>(&context.socket, Method::POST, &path, Some(&body));
    match block_on(call)? {
        Ok(request) => {
            let word = if approve { "approved" } else { "denied" };
            out.show(&request, |request| {
                Ok(format!("{word}: {} of {} at {}", request.statement, request.identity, request.target))
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Err(client::ClientError::Refused(why)) => {
            out.line(&why)?;
            Ok(ExitCode::from(REFUSED))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn details(request: &Request) -> String {
    let facts = &request.facts;
    let mut rows = vec![
        ["request", &request.id.to_string()].map(str::to_owned),
        ["state", &state(&request.state)].map(str::to_owned),
        ["identity", &format!("{} (groups: {})", request.identity, request.groups.join(", "))].map(str::to_owned),
        ["process", &format!("pid {}, uid {}, gid {}", facts.pid, facts.uid, facts.gid)].map(str::to_owned),
        ["cgroup", &facts.cgroup].map(str::to_owned),
        ["executable", facts.exe.as_deref().unwrap_or("?")].map(str::to_owned),
        ["sha-256", facts.exe_sha256.as_deref().unwrap_or("?")].map(str::to_owned),
        ["target", &request.target].map(str::to_owned),
        ["statement", &request.statement].map(str::to_owned),
    ];
    for (index, value) in request.parameters.iter().enumerate() {
        rows.push([format!("${}", index + 1), value.clone()]);
    }
    let estimate = request.estimated_rows.map_or_else(|| "unknown".to_owned(), |rows| rows.to_string());
    rows.push(["rows (planner)".to_owned(), estimate]);
    rows.extend(request.note.iter().map(|note| ["note".to_owned(), note.clone()]));
    rows.push(["would do".to_owned(), request.actions.join("\n")]);
    rows.push(["held by".to_owned(), format!("{}: {}", request.rules.join(", "), request.reason)]);
    rows.push(["approvers".to_owned(), request.approvers.join(", ")]);
    rows.push(["opened".to_owned(), request.opened_at.to_string()]);
    rows.push(["until".to_owned(), request.expires_at.to_string()]);
    rows.push(["session".to_owned(), request.session.to_string()]);
    rows.push(["before it".to_owned(), request.recent.join("\n")]);
    output::pairs(rows)
}

fn state(state: &State) -> String {
    match state {
        State::Waiting => "waiting".to_owned(),
        State::Approved(answer) => format!("approved by {}, not run yet", answer.approver),
        State::Denied(answer) => format!("denied by {}, agent not told yet", answer.approver),
    }
}
