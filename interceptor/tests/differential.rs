//! The verdict of the PostgreSQL analysis held against what a real server does: no write and no read may be missed.
//!
//! Two corpora: statements that a seeded generator makes, and PostgreSQL's own regression suite, whose source `cargo xtask`
//! fetches (`INTERCEPTOR_REGRESS` names its folder; without it that part is left out, and says so). A part of both by
//! default; with `INTERCEPTOR_DIFFERENTIAL` set to the path of a report everything runs, and the figures are written there
//! (with `INTERCEPTOR_DIFFERENTIAL_ADD` behind those of another server).
//!
//! Needs PostgreSQL 15 or newer. Not promised: anything about statements that the server refuses, and what is touched by
//! those that cannot run in a transaction block.

#[cfg(test)]
#[path = "differential/compare.rs"]
mod compare;
#[cfg(test)]
#[path = "differential/corpus.rs"]
mod corpus;
#[cfg(test)]
#[path = "differential/report.rs"]
mod report;
#[cfg(test)]
#[path = "differential/run.rs"]
mod run;
#[cfg(test)]
#[path = "differential/script.rs"]
mod script;
#[cfg(test)]
#[path = "differential/truth.rs"]
mod truth;
#[cfg(test)]
#[path = "differential/wire.rs"]
mod wire;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::{Path, PathBuf};

    use interceptor::testing::postgres::{Options, Postgres};

    use super::corpus::{Corpus, SCHEMA};
    use super::report::{GENERATED, INTRODUCTION, Report};
    use super::run::{Place, Run, schedule};

    /// Draws of the generator: in part, and as a whole. One gives one to five statements.
    const DRAWS: (usize, usize) = (300, 4000);
    const SEED: u64 = 20_240_607;

    /// Files of the suite that are run in part.
    const SOME: &[&str] = &["test_setup", "select", "delete", "select_into", "matview", "updatable_views"];

    #[test]
    fn no_write_and_no_read_is_missed() {
        let whole = std::env::var_os("INTERCEPTOR_DIFFERENTIAL").is_some();
        let mut report = Report::default();
        let before = before();
        generated(if whole { DRAWS.1 } else { DRAWS.0 }, &mut report);
        match std::env::var_os("INTERCEPTOR_REGRESS").map(PathBuf::from) {
            Some(suite) => regression(&suite, whole, &mut report, &before),
            None => println!("left out: INTERCEPTOR_REGRESS names no regression suite of PostgreSQL"),
        }
        println!("{}", report.section());
        publish(&report, &before);
        assert_eq!(report.blind(), Vec::<String>::new());
        assert!(report.wrong().is_empty(), "{} findings:\n{}", report.wrong().len(), report.wrong().join("\n"));
    }

    /// What the figures are written behind: those of another server, or the introduction.
    fn before() -> String {
        match (std::env::var_os("INTERCEPTOR_DIFFERENTIAL_ADD"), std::env::var_os("INTERCEPTOR_DIFFERENTIAL")) {
            (Some(_), Some(target)) => std::fs::read_to_string(target).unwrap(),
            _ => INTRODUCTION.to_owned(),
        }
    }

    /// Writes the figures, and every finding and exemption beside the build.
    fn publish(report: &Report, before: &str) {
        if let Some(target) = std::env::var_os("INTERCEPTOR_DIFFERENTIAL") {
            std::fs::write(target, format!("{before}{}", report.section())).unwrap();
            std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("differential.log"), report.details()).unwrap();
        }
    }

    fn generated(draws: usize, report: &mut Report) {
        let server = server();
        report.version = server.sql("SELECT current_setting('server_version_num')::int / 10000").unwrap();
        let mut run = Run::new(place(&server)).unwrap();
        let mut corpus = Corpus::new(SEED);
        let statements: Vec<String> = (0..draws).map(|_| corpus.next()).collect();
        let script = format!("{SCHEMA}\n{};\n", statements.join(";\n"));
        let figures = run.script(GENERATED, &script, HashMap::new()).unwrap();
        report.add(GENERATED, figures);
        report.take(&mut run);
    }

    fn regression(suite: &Path, whole: bool, report: &mut Report, before: &str) {
        let server = server();
        let mut run = Run::new(place(&server)).unwrap();
        let names = schedule(suite).unwrap();
        report.scheduled = names.len();
        for name in names {
            let chosen = match std::env::var("INTERCEPTOR_DIFFERENTIAL_ONLY") {
                Ok(only) => only.split(',').any(|one| one == name),
                Err(_) => whole || SOME.contains(&name.as_str()),
            };
            if !chosen {
                continue;
            }
            let text = std::fs::read(suite.join("sql").join(format!("{name}.sql"))).unwrap();
            let environment = environment(suite, server.socket_dir());
            let figures = run.script(&name, &String::from_utf8_lossy(&text), environment);
            report.add(&name, figures.unwrap_or_else(|error| panic!("{name}: {error}")));
            report.take(&mut run);
            publish(report, before);
        }
    }

    fn server() -> Postgres {
        let settings = [
            ("log_statement", "none"),
            ("log_min_error_statement", "panic"),
            ("track_functions", "all"),
            ("statement_timeout", "60s"),
            ("max_prepared_transactions", "10"),
            ("shared_buffers", "64MB"),
            ("autovacuum", "off"),
            // Each look is a query that runs once, under whatever the statement before it has set for the planner.
            ("jit", "off"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let server = Postgres::start(Options { settings, ..Options::default() }).unwrap();
        server.sql("CREATE DATABASE regression TEMPLATE template0").unwrap();
        server
    }

    fn place(server: &Postgres) -> Place {
        Place { folder: server.socket_dir().to_owned(), port: server.port(), database: "regression".to_owned() }
    }

    /// What the suite's scripts ask for. The library of functions in C is not built: what needs it is refused.
    fn environment(suite: &Path, scratch: &Path) -> HashMap<String, String> {
        [
            ("PG_ABS_SRCDIR", suite.display().to_string()),
            ("PG_ABS_BUILDDIR", scratch.display().to_string()),
            ("PG_LIBDIR", "/nowhere".to_owned()),
            ("PG_DLSUFFIX", ".so".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}
