//! The table, for the terminal and for the documentation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::row::{By, Expected};
use super::run::{ABSENT, Line};

type Themes = [(&'static str, Vec<Line>)];

/// What came of all rows on one kernel.
#[derive(Debug, Serialize, Deserialize)]
struct Kernel {
    release: String,
    /// By attempt: as an adopted agent, and as a launched one.
    rows: BTreeMap<String, (String, Option<String>)>,
}

/// The results of this kernel, for the document of another one.
pub(crate) fn results(table: &Themes) -> String {
    let lines = table.iter().flat_map(|(_, lines)| lines);
    let rows = lines.map(|line| (attempt(line), (line.result.clone(), line.launched.clone()))).collect();
    serde_json::to_string_pretty(&Kernel { release: release(), rows }).unwrap()
}

/// How the names of files about guests without BPF among their security modules end.
const BARE: &str = "-without-bpf-lsm-bypass.json";

/// What `cargo xtask vm --publish` has kept of other kernels, each with its title: the oldest first, and first with BPF
/// among the security modules.
fn others() -> Vec<(String, Kernel)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kernels");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = |path: &Path, ending: &str| path.to_string_lossy().ends_with(ending);
    let mut found: Vec<(bool, Kernel)> = files
        .filter(|path| named(path, "-bypass.json"))
        .map(|path| (named(&path, BARE), serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()))
        .collect();
    let version =
        |kernel: &Kernel| kernel.release.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    found.sort_by_key(|(bare, kernel)| (version(kernel), *bare));
    let title = |bare, release: &str| format!("Linux {release}{}", if bare { ", without L" } else { "" });
    found.into_iter().map(|(bare, kernel)| (title(bare, &kernel.release), kernel)).collect()
}

/// All lines, one a row.
pub(crate) fn table(table: &Themes) -> String {
    rows(table, &[])
}

fn rows(table: &Themes, others: &[(String, Kernel)]) -> String {
    let mut text = String::new();
    for (theme, lines) in table.iter().filter(|(_, lines)| !lines.is_empty()) {
        let titles: String = others.iter().map(|(title, _)| format!(" {title} |")).collect();
        let _ = write!(
            text,
            "\n## {theme}\n\n| attempt | adopted | launched | closed by | event |{titles}\n|---|---|---|---|---|{}\n",
            "---|".repeat(others.len())
        );
        for line in lines {
            let more: String = others.iter().map(|(_, kernel)| format!(" {} |", elsewhere(line, kernel))).collect();
            let _ = writeln!(text, "{}{more}", columns(line));
        }
    }
    text
}

/// What came of a row on another kernel.
fn elsewhere(line: &Line, kernel: &Kernel) -> String {
    let shown = |launched: &Option<String>| launched.clone().unwrap_or_else(|| "-".to_owned());
    match kernel.rows.get(&attempt(line)) {
        None => "not tried".to_owned(),
        Some((adopted, launched)) if *adopted == line.result && *launched == line.launched => "same".to_owned(),
        Some((adopted, launched)) => format!("{adopted} / {}", shown(launched)),
    }
}

/// Attempts that a document does not name.
pub(crate) fn unnamed(table: &Themes, document: &str) -> Vec<String> {
    let names = table.iter().flat_map(|(_, lines)| lines).map(attempt);
    names.filter(|name| !document.contains(&format!("\n| {name} | "))).collect()
}

/// The upstream version: what distributions and builders append says nothing here. Debian's older kernels name it only among
/// the words about the build.
fn release() -> String {
    let said = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    let (release, build) = (said("osrelease"), said("version"));
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    let version = build.split_whitespace().find(is_version).unwrap_or(release.trim());
    version.split(['-', '+']).next().unwrap_or_default().to_owned()
}

/// The whole document.
pub(crate) fn document(lines: &[(&'static str, Vec<Line>)]) -> String {
    let (release, others) = (release(), others());
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
         tried as well, **{open_launched} are open**.\n{INTRODUCTION}{}{}",
        left_open(lines, &release, &others),
        rows(lines, &others)
    )
}

/// What works somewhere, and there to whom.
fn left_open(table: &Themes, release: &str, others: &[(String, Kernel)]) -> String {
    let lines = || table.iter().flat_map(|(_, lines)| lines);
    let bare = if lines().any(|line| line.row.closed_by == "L") { "" } else { ", without L" };
    let mut text = format!("\n## What stays open\n\n{STAYS_OPEN}\n| attempt | Linux {release}{bare} |");
    others.iter().for_each(|(title, _)| text.push_str(&format!(" {title} |")));
    let _ = write!(text, "\n|---|---|{}\n", "---|".repeat(others.len()));
    for line in lines() {
        let name = attempt(line);
        let here = to_whom(&line.result, line.launched.as_deref());
        let there = others.iter().map(|(_, kernel)| {
            let found = kernel.rows.get(&name);
            found.map_or("not tried", |(adopted, launched)| to_whom(adopted, launched.as_deref()))
        });
        let cells: Vec<&str> = std::iter::once(here).chain(there).collect();
        if cells.iter().any(|cell| cell.starts_with("open")) {
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
    }
    text
}

/// To whom an attempt is open, by what came of it.
fn to_whom(adopted: &str, launched: Option<&str>) -> &'static str {
    let is_open = |result: &str| result.starts_with("**open");
    match (is_open(adopted), launched.is_some_and(is_open)) {
        (true, true) => "open to both",
        (true, false) => "open to adopted",
        (false, true) => "open to launched",
        (false, false) if adopted.starts_with(ABSENT) => ABSENT,
        (false, false) => "closed",
    }
}

const STAYS_OPEN: &str = "\
Every attempt that works on some kernel below, at some level. All others come to nothing wherever they were tried: a packet of one \
of them,\nor a result other than the table's, fails the test. [Guarantees](guarantees.md) says what that adds up to.
";

fn attempt(line: &Line) -> String {
    let by = match line.row.by {
        By::User => "",
        By::Container => " (container's root)",
        By::Root => " (root)",
    };
    format!("{}{by}", line.row.name)
}

fn columns(line: &Line) -> String {
    let row = &line.row;
    let event = match (row.event, row.expected) {
        (Some(event), _) => event.to_string(),
        (None, Expected::Captured(_) | Expected::Attributed) => "the captured connection".to_owned(),
        (None, _) => "none".to_owned(),
    };
    let launched = line.launched.as_deref().unwrap_or("-");
    format!("| {} | {} | {launched} | {} | {event} |", attempt(line), line.result, row.closed_by)
}

const INTRODUCTION: &str = include_str!("introduction.md");
