//! `interceptor run`.

use std::process::ExitCode;

use super::{Context, FAILED, Printer, REFUSED};
use crate::{app, telemetry};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Log as JSON lines
    #[arg(long)]
    log_json: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    telemetry::start_logging(arguments.log_json);
    match app::run(&context.config) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(app::StartError::Problems(problems)) => {
            for problem in &problems {
                out.line(&problem.to_string())?;
            }
            Ok(ExitCode::from(REFUSED))
        }
        Err(error) => {
            tracing::error!(%error, "the daemon ends");
            Ok(ExitCode::from(FAILED))
        }
    }
}
