//! The server's own regression suite, once direct and once through the driver with everything permitted: the results
//! have to be alike, byte for byte.
//!
//! Not alike are the tests in [`DIFFER`], each for a reason that lies in what the driver is. Where the lines are known
//! that this is seen in, all others have to be alike all the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ScriptedGate;
use super::real::Stage;
use crate::mask::Rules;

/// Names the folder that `cargo xtask regress` makes: `sql`, `expected`, `data`, `schedule`, `pg_regress`, `regress.so`.
const SUITE: &str = "INTERCEPTOR_REGRESS";

/// Names the file that the outcome is written to.
const REPORT: &str = "INTERCEPTOR_REGRESS_REPORT";

const INTRODUCTION: &str = "# PostgreSQL's own suite, direct and through interceptor\n\n\
`cargo xtask regress` writes this file. The regression suite of the server runs twice with everything permitted: at the\n\
server itself, and through the driver. Each result has to be the same, byte for byte;\n\
of those that are not alike, all lines but those that the reason is seen in. Of `transactions`, which differs at another\n\
place each time where it does, no line has to be.\n";

/// A test whose result differs.
struct Differ {
    test: &'static str,
    why: &'static str,
    /// Lines that may differ, may be there or not: those that this holds for.
    lines: fn(&str) -> bool,
}

/// Tests whose result differs, and why.
const DIFFER: &[Differ] = &[
    Differ {
        test: "transactions",
        why: "another session's DDL has names asked for inside of a transaction",
        // It was seen where tests ran beside it, at another statement each time: what follows it differs as well.
        lines: |_| true,
    },
    Differ {
        test: "temp",
        why: "the question what names mean makes the temporary schema, so that a transaction which is to be prepared has not made it",
        lines: |line| {
            [
                "cannot PREPARE a transaction that has operated on temporary objects",
                "prepared transactions are disabled",
            ]
            .iter()
            .any(|known| line.contains(known))
                || line.contains("max_prepared_transactions")
        },
    },
    Differ {
        test: "psql",
        why: "a statement that nobody prepared is refused by the driver, which names the session",
        lines: |line| line.starts_with("DETAIL:  session: "),
    },
    Differ {
        test: "lock",
        why: "reading the catalog takes read locks on the tables of views (pg_get_viewdef), which NOWAIT meets",
        lines: |line| {
            line.contains("could not obtain lock on relation") || line.contains("current transaction is aborted")
        },
    },
    Differ {
        test: "event_trigger_login",
        why: "it counts log-ins: the catalog is read by one of its own; and what a target says while it logs in is not passed on",
        lines: |line| line == "NOTICE:  You are welcome!" || line.trim().parse::<u32>().is_ok(),
    },
];

impl Differ {
    /// The known test of that name, where nothing but such lines differ.
    fn explains(test: &str, wanted: &str, found: &str) -> Option<&'static Self> {
        let known = DIFFER.iter().find(|known| known.test == test)?;
        let others = |text: &'_ str| text.lines().filter(|line| !(known.lines)(line)).map(str::to_owned).collect();
        let (wanted, found): (Vec<String>, Vec<String>) = (others(wanted), others(found));
        (wanted == found).then_some(known)
    }
}

#[test]
fn only_known_lines_are_explained() {
    let temp = "ERROR:  cannot PREPARE a transaction that has operated on temporary objects\nROLLBACK\n";
    let other = "ERROR:  prepared transactions are disabled\nHINT:  Set max_prepared_transactions to a nonzero value.\nROLLBACK\n";
    assert!(Differ::explains("temp", temp, other).is_some());
    assert!(Differ::explains("temp", temp, &other.replace("ROLLBACK", "COMMIT")).is_none());
    assert!(Differ::explains("select", temp, other).is_none());
    assert!(Differ::explains("psql", "x\n", "x\nDETAIL:  session: 0\n").is_some());
    assert!(Differ::explains("psql", "x\n", "y\nDETAIL:  session: 0\n").is_none());
}

/// What each server's part begins with.
const PART: &str = "\n## PostgreSQL ";

/// Runs the suite at this port, and gives the folder of its results.
async fn run(suite: &Path, port: u16, name: &str) -> PathBuf {
    let out = suite.join(name);
    let _none_yet = std::fs::remove_dir_all(&out);
    std::fs::create_dir_all(out.join("results")).unwrap();
    // The server writes there, as another user.
    std::process::Command::new("chmod").args(["-R", "a+rwX"]).arg(&out).status().unwrap();
    let mut command = Command::new(suite.join("pg_regress"));
    command.arg(format!("--inputdir={}", suite.display())).arg(format!("--outputdir={}", out.display()));
    command.arg(format!("--dlpath={}", suite.display())).arg(format!("--schedule={}/schedule", suite.display()));
    command.args(["--host=127.0.0.1", &format!("--port={port}"), "--user=postgres", "--max-connections=8"]);
    command.args(["--bindir=", "--dbname=regression"]).current_dir(&out);
    let log = std::fs::File::create(out.join("log")).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    let status = tokio::task::spawn_blocking(move || command.status().unwrap()).await.unwrap();
    // 1: tests failed, as some do here also at the server itself. Whatever else ends it leaves results out.
    assert!(matches!(status.code(), Some(0 | 1)), "{name}: {status}");
    out.join("results")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's source: `cargo xtask regress`"]
async fn the_servers_own_suite_ends_alike() {
    let suite = PathBuf::from(std::env::var_os(SUITE).unwrap());
    let direct = Stage::new(ScriptedGate::open(), Rules::default()).await;
    let version = direct.server.sql("SELECT current_setting('server_version_num')::int / 10000").unwrap();
    let wanted = run(&suite, direct.server.port(), "direct").await;
    drop(direct);
    let through = Stage::new(ScriptedGate::open(), Rules::default()).await;
    let found = run(&suite, through.port, "through").await;
    let outcome = Outcome::of(&wanted, &found);
    let section = outcome.section(&version);
    println!("{section}");
    if let Some(report) = std::env::var_os(REPORT) {
        let before = std::fs::read_to_string(&report).unwrap_or_default();
        std::fs::write(report, with_part(&before, &version, &section)).unwrap();
    }
    assert!(outcome.compared > 0, "none ran");
    assert!(
        outcome.unexplained.is_empty(),
        "{} of {}: {:?}",
        outcome.unexplained.len(),
        outcome.compared,
        outcome.unexplained
    );
}

/// The report with this part in the place of what it said of that server.
fn with_part(report: &str, version: &str, section: &str) -> String {
    let others = report.split(PART).skip(1).filter(|part| part.lines().next() != Some(version));
    let mut parts: Vec<String> = others.map(|part| format!("{PART}{part}")).collect();
    parts.push(section.to_owned());
    parts.sort_unstable();
    parts.iter().fold(INTRODUCTION.to_owned(), |text, part| text + part.trim_end() + "\n")
}

#[test]
fn each_server_has_its_own_part() {
    let first = with_part("", "15", "\n## PostgreSQL 15\n\nold\n");
    let both = with_part(&first, "18", "\n## PostgreSQL 18\n\nother\n");
    let again = with_part(&both, "15", "\n## PostgreSQL 15\n\nnew\n");
    assert!(again.starts_with(INTRODUCTION) && !again.contains("old"), "{again}");
    assert!(again.ends_with("\n## PostgreSQL 15\n\nnew\n\n## PostgreSQL 18\n\nother\n"), "{again}");
}

/// How the results of both runs compare.
#[derive(Default)]
struct Outcome {
    compared: usize,
    alike: usize,
    explained: Vec<(&'static str, &'static str)>,
    unexplained: BTreeSet<String>,
}

impl Outcome {
    fn of(wanted: &Path, found: &Path) -> Self {
        let mut outcome = Self::default();
        for file in std::fs::read_dir(wanted).unwrap() {
            let name = file.unwrap().file_name();
            let path = Path::new(&name);
            if path.extension().is_none_or(|extension| extension != "out") {
                continue;
            }
            outcome.compared += 1;
            let read = |folder: &Path| {
                let bytes = std::fs::read(folder.join(&name)).ok()?;
                Some(String::from_utf8_lossy(&bytes).into_owned())
            };
            // The folder's own name stands in some results.
            let own = (wanted.display().to_string(), found.display().to_string());
            let test = path.file_stem().unwrap().to_string_lossy().into_owned();
            let (wanted, found) = (read(wanted).map(|text| text.replace(&own.0, &own.1)), read(found));
            let known = || Differ::explains(&test, wanted.as_deref()?, found.as_deref()?);
            if wanted == found {
                outcome.alike += 1;
            } else if let Some(known) = known() {
                outcome.explained.push((known.test, known.why));
            } else {
                outcome.unexplained.insert(test);
            }
        }
        outcome.explained.sort_unstable();
        outcome
    }

    /// As Markdown.
    fn section(&self, version: &str) -> String {
        let mut text = format!("{PART}{version}\n\nOf {} results {} are alike.\n", self.compared, self.alike);
        if self.alike < self.compared {
            text.push_str("\n| not alike | why |\n|---|---|\n");
        }
        for (name, why) in &self.explained {
            text.push_str(&format!("| {name} | {why} |\n"));
        }
        for name in &self.unexplained {
            text.push_str(&format!("| {name} | not known |\n"));
        }
        text
    }
}
