//! `interceptor check`.

use std::process::ExitCode;

use super::{Context, Printer, REFUSED};
use crate::app;

pub(super) fn run(context: &Context, out: &mut Printer) -> Result<ExitCode, String> {
    match app::check(&context.config) {
        Ok(summary) => {
            out.line(&summary)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            for problem in &problems {
                out.line(&problem.to_string())?;
            }
            let count = problems.len();
            out.line(&format!("{count} problem{}", if count == 1 { "" } else { "s" }))?;
            Ok(ExitCode::from(REFUSED))
        }
    }
}
