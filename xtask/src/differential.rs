//! `cargo xtask differential`: the whole of both corpora against a real server, and `docs/differential.md` with the figures.

use anyhow::Result;

use crate::install::{self, For, Newest, regression_suite};
use crate::run::{OPTIMISED, cargo, root, run as execute, say};

pub(crate) fn run() -> Result<()> {
    install::ensure(For::Server)?;
    let suite = regression_suite()?;
    say("holding verdicts against a server (some fifteen minutes)");
    let folder = root().join("docs");
    std::fs::create_dir_all(&folder)?;
    let all = || {
        let mut command = cargo();
        command.args(["test", "--package", "interceptor", "--config", OPTIMISED, "--test", "differential"]);
        command.args(["--", "--nocapture"]).env("INTERCEPTOR_DIFFERENTIAL", folder.join("differential.md"));
        command
    };
    execute(all().env("INTERCEPTOR_REGRESS", suite))?;
    let newest = Newest::install()?;
    say("the same at PostgreSQL 18");
    let mut command = all();
    newest.serve_plain(&mut command);
    let suite = newest.regression_suite()?;
    execute(command.env("INTERCEPTOR_REGRESS", suite).env("INTERCEPTOR_DIFFERENTIAL_ADD", "1"))
}
