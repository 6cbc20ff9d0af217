//! `interceptor status`.

use std::process::ExitCode;

use super::{Context, Printer, REFUSED, block_on, output};
use crate::admin::{Status, client};
use crate::capture::Namespace;
use crate::identity::Level;
use crate::record::witness::WitnessState;

pub(super) fn run(context: &Context, out: &mut Printer) -> Result<ExitCode, String> {
    let status: Status = block_on(client::get(&context.socket, "/v1/status"))?.map_err(|error| error.to_string())?;
    out.show(&status, |status| {
        let rows = [
            ["version".to_owned(), status.version.clone()],
            ["started".to_owned(), status.started_at.to_string()],
            ["governed cgroups".to_owned(), status.governed.join(", ")],
            ["security modules".to_owned(), status.without_modules.clone().unwrap_or_else(|| "held".to_owned())],
            ["network namespaces".to_owned(), namespaces(&status.namespaces)],
            ["targets".to_owned(), status.targets.join(", ")],
            ["host CA".to_owned(), status.ca.clone().unwrap_or_else(|| "none".to_owned())],
            ["policies".to_owned(), status.policies.clone()],
            ["live sessions".to_owned(), sessions(status)],
            ["waiting for approval".to_owned(), status.waiting.to_string()],
            [
                "room for recordings".to_owned(),
                status.recorder_room.clone().unwrap_or_else(|| "not known yet".to_owned()),
            ],
            ["recorder".to_owned(), status.recorder_fault.clone().unwrap_or_else(|| "records".to_owned())],
            ["witnesses".to_owned(), witnesses(&status.witnesses)],
        ];
        Ok(output::pairs(rows))
    })?;
    Ok(if status.recorder_fault.is_none() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

/// `interceptor metrics`.
pub(super) fn metrics(context: &Context, out: &mut Printer) -> Result<ExitCode, String> {
    let text: String = block_on(client::get(&context.socket, "/v1/metrics"))?.map_err(|error| error.to_string())?;
    out.show(&text, |text| Ok(text.trim_end().to_owned()))?;
    Ok(ExitCode::SUCCESS)
}

/// How many, and of which levels.
fn sessions(status: &Status) -> String {
    let of_level = |(level, count): (&Level, &usize)| format!("{count} {level}");
    let levels: Vec<String> = status.levels.iter().rev().map(of_level).collect();
    if levels.is_empty() { status.sessions.to_string() } else { format!("{} ({})", status.sessions, levels.join(", ")) }
}

/// One a line, with what it was told last.
fn witnesses(all: &[WitnessState]) -> String {
    let line = |one: &WitnessState| match (one.told_at, &one.failing) {
        (_, Some(why)) => format!("{}: not told: {why}", one.name),
        (Some(at), None) => format!("{}: told at {at} of {} frames", one.name, one.frames.unwrap_or_default()),
        (None, None) => format!("{}: not told since the daemon started", one.name),
    };
    if all.is_empty() { "none".to_owned() } else { all.iter().map(line).collect::<Vec<_>>().join("\n") }
}

/// One a line, beside the host's own.
fn namespaces(open: &[Namespace]) -> String {
    let line = |one: &Namespace| format!("{} of {} ({} captured)", one.inode, one.cgroup, one.captured);
    if open.is_empty() { "the host's".to_owned() } else { open.iter().map(line).collect::<Vec<_>>().join("\n") }
}
