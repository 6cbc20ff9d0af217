//! `cargo xtask differential`: the whole of both corpora against a real server, and `docs/differential.md` with the figures.

use anyhow::Result;

use crate::install::{self, For, regression_suite};
use crate::run::{OPTIMISED, cargo, root, run as execute, say};

pub(crate) fn run() -> Result<()> {
    install::ensure(For::Server)?;
    let suite = regression_suite()?;
    say("holding verdicts against a server (some fifteen minutes)");
    let folder = root().join("docs");
    std::fs::create_dir_all(&folder)?;
    let mut command = cargo();
    command.args(["test", "--package", "interceptor", "--config", OPTIMISED, "--test", "differential"]);
    command.args(["--", "--nocapture"]).env("INTERCEPTOR_REGRESS", suite);
    execute(command.env("INTERCEPTOR_DIFFERENTIAL", folder.join("differential.md")))
}
