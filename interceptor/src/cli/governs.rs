//! `interceptor governs`.

use std::process::ExitCode;

use super::{Context, Printer, REFUSED};
use crate::capture::{self, cgroup};

/// By this code systemd counts a unit's `ExecCondition=` as failed; any smaller one has it skip the unit without a word.
const UNIT_FAILS: u8 = 255;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The cgroup, as /agents.slice/billing.service; by default the one that this command runs in
    cgroup: Option<String>,
    /// End with 255 where it is not governed: for ExecCondition= in units, which then fail to start
    #[arg(long)]
    unit: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    let answer = governed(context, arguments.cgroup.as_deref());
    let refused = ExitCode::from(if arguments.unit { UNIT_FAILS } else { REFUSED });
    match answer {
        Ok((path, true)) => {
            out.line(&format!("{path} is governed"))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok((path, false)) => {
            out.line(&format!("{path} is not governed: is it in [capture] cgroups, and did the daemon start?"))?;
            Ok(refused)
        }
        // Whatever cannot be looked at is not known to be governed.
        Err(why) if arguments.unit => {
            out.line(&why)?;
            Ok(refused)
        }
        Err(why) => Err(why),
    }
}

fn governed(context: &Context, named: Option<&str>) -> Result<(String, bool), String> {
    let config = context.configuration()?;
    let path = match named {
        Some(path) => path.to_owned(),
        None => cgroup::own().map_err(|error| error.to_string())?,
    };
    let governed = capture::is_governed(&config.capture, &path).map_err(|error| format!("{path}: {error}"))?;
    Ok((path, governed))
}
