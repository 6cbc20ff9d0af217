//! The table, for the terminal and for the documentation.

use std::fmt::Write as _;

use super::row::{By, Expected};
use super::run::{ABSENT, Line};

/// All lines, one a row.
pub(crate) fn table(table: &[(&'static str, Vec<Line>)]) -> String {
    let mut text = String::new();
    for (theme, lines) in table.iter().filter(|(_, lines)| !lines.is_empty()) {
        let _ = write!(
            text,
            "\n## {theme}\n\n| attempt | adopted | launched | closed by | event |\n|---|---|---|---|---|\n"
        );
        for line in lines {
            let _ = writeln!(text, "{}", columns(line));
        }
    }
    text
}

/// The whole document.
pub(crate) fn document(lines: &[(&'static str, Vec<Line>)]) -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // The upstream version: what distributions and builders append says nothing here.
    let release = release.trim().split('-').next().unwrap_or_default();
    let count =
        |wanted: fn(&Line) -> bool| lines.iter().flat_map(|(_, lines)| lines).filter(|line| wanted(line)).count();
    let absent = count(|line| line.result.starts_with(ABSENT));
    let open = count(|line| line.row.expected == Expected::Open && !line.result.starts_with(ABSENT));
    let untried = count(|line| line.row.expected == Expected::Untried);
    let launched = count(|line| line.launched.is_some());
    let open_launched = count(|line| line.row.launched == Some(Expected::Open));
    let all = count(|_| true);
    let closed = all - absent - open - untried;
    format!(
        "# Ways round the capture\n\nLinux {release}: {all} attempts. Adopted: {closed} come to nothing, **{open} are open**, \
         {absent} need what this kernel or host does\nnot have, {untried} were not tried. Launched: {launched} of them were \
         tried as well, **{open_launched} are open**.\n{INTRODUCTION}{}",
        table(lines)
    )
}

fn columns(line: &Line) -> String {
    let row = &line.row;
    let by = match row.by {
        By::User => "",
        By::Container => " (container's root)",
        By::Root => " (root)",
    };
    let event = match (row.event, row.expected) {
        (Some(event), _) => event.to_string(),
        (None, Expected::Captured(_) | Expected::Attributed) => "the captured connection".to_owned(),
        (None, _) => "none".to_owned(),
    };
    let launched = line.launched.as_deref().unwrap_or("-");
    format!("| {}{by} | {} | {launched} | {} | {event} |", row.name, line.result, row.closed_by)
}

const INTRODUCTION: &str = include_str!("introduction.md");
