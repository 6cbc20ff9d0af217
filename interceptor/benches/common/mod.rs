//! What the benchmarks share: where their figures go, and how they end.

use std::path::PathBuf;
use std::process::ExitCode;

/// What can go wrong.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where the figures go, beside the terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct Files {
    /// Writes the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// `cargo bench` says so
    #[arg(long, hide = true)]
    bench: bool,
}

impl Files {
    pub(crate) fn write(&self, markdown: &str, json: &str) -> Result<(), Failure> {
        for (path, text) in [(&self.markdown, markdown), (&self.json, json)] {
            if let Some(path) = path {
                std::fs::write(path, text)?;
            }
        }
        Ok(())
    }
}

/// How a benchmark ends.
pub(crate) fn end(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}
