//! `interceptor namespaces`: opens network namespaces for a daemon that may not enter them.

use std::process::ExitCode;

use super::Context;
use crate::capture::Doorkeeper;
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// User that the daemon runs as
    #[arg(long, value_name = "USER", default_value = "interceptor")]
    user: String,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<ExitCode, String> {
    telemetry::start_logging(false);
    let config = context.configuration()?.capture;
    let daemon = super::prepare::user(&arguments.user)?.uid.as_raw();
    let keeper = Doorkeeper::take_over(&config, daemon).map_err(|error| error.to_string())?;
    match keeper.serve() {
        Ok(never) => match never {},
        Err(error) => Err(format!("nobody can be waited for: {error}")),
    }
}
