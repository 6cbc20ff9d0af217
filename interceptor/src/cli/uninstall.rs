//! `interceptor uninstall`.

use std::process::ExitCode;

use super::{Context, Printer};
use crate::{capture, config};

pub(super) fn run(context: &Context, out: &mut Printer) -> Result<ExitCode, String> {
    let config = config::read(&context.config)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let removed = capture::uninstall(&config.capture).map_err(|error| error.to_string())?;
    out.line(&format!("{removed} kernel programs detached; governed processes are free again"))?;
    Ok(ExitCode::SUCCESS)
}
