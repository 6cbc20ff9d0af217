//! The server's own regression suite, once direct and once through the driver with everything permitted: the results
//! have to be alike, byte for byte.
//!
//! Not alike are the tests in [`DIFFER`], each for a reason that lies in what the driver is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ScriptedGate;
use super::real::Stage;
use crate::mask::Rules;

/// Names the folder that `cargo xtask regress` makes: `sql`, `expected`, `data`, `schedule`, `pg_regress`, `regress.so`.
const SUITE: &str = "INTERCEPTOR_REGRESS";

/// Tests whose result differs, and why.
const DIFFER: &[(&str, &str)] = &[
    ("transactions", "25P02 has a detail; another session's DDL has names asked for inside of a transaction"),
    ("temp", "the question what names mean makes the temporary schema"),
];

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
    tokio::task::spawn_blocking(move || command.status().unwrap()).await.unwrap();
    out.join("results")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's source: `cargo xtask regress`"]
async fn the_servers_own_suite_ends_alike() {
    let suite = PathBuf::from(std::env::var_os(SUITE).unwrap());
    let direct = Stage::new(ScriptedGate::open(), Rules::default()).await;
    let wanted = run(&suite, direct.server.port(), "direct").await;
    drop(direct);
    let through = Stage::new(ScriptedGate::open(), Rules::default()).await;
    let found = run(&suite, through.port, "through").await;
    let mut differ = BTreeSet::new();
    let mut compared = 0;
    for file in std::fs::read_dir(&wanted).unwrap() {
        let name = file.unwrap().file_name();
        let path = Path::new(&name);
        if path.extension().is_none_or(|extension| extension != "out") {
            continue;
        }
        compared += 1;
        let read = |folder: &Path| {
            let bytes = std::fs::read(folder.join(&name)).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        // The folder's own name stands in some results.
        let own = (wanted.display().to_string(), found.display().to_string());
        if read(&wanted).map(|text| text.replace(&own.0, &own.1)) != read(&found) {
            differ.insert(path.file_stem().unwrap().to_string_lossy().into_owned());
        }
    }
    for (name, why) in DIFFER {
        println!("{name} differs: {why}");
        differ.remove(*name);
    }
    assert!(compared > 0, "none ran");
    assert!(differ.is_empty(), "{} of {compared}: {differ:?}", differ.len());
}
