//! `interceptor governs`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use nix::sched::{CloneFlags, setns};

use super::{Context, Printer, REFUSED, systemd};
use crate::capture::{self, cgroup};
use crate::identity::facts::unit_of;
use crate::identity::level::Registry;
use crate::launch::{dropin, registration};

/// By this code systemd counts a unit's `ExecCondition=` as failed; any smaller one has it skip the unit without a word.
const UNIT_FAILS: u8 = 255;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The cgroup, as /agents.slice/billing.service; by default the one that this command runs in
    cgroup: Option<String>,
    /// End with 255 where it is not governed, or not as it was enrolled: for ExecCondition= in units, which then fail to start
    #[arg(long)]
    unit: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    if arguments.unit {
        // systemd hides from its conditions what it hides from the unit: itself, and where starts are written down.
        let host = fs::File::open("/proc/1/ns/mnt");
        let entered = host.and_then(|host| Ok(setns(host, CloneFlags::CLONE_NEWNS)?));
        if let Err(error) = entered {
            out.line(&format!("the host's files are out of sight: {error}"))?;
            return Ok(ExitCode::from(UNIT_FAILS));
        }
    }
    let answer = governed(context, arguments.cgroup.as_deref());
    let refused = ExitCode::from(if arguments.unit { UNIT_FAILS } else { REFUSED });
    match answer {
        Ok((path, true)) if arguments.unit => match held(context, &path) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(why) => {
                out.line(&why)?;
                Ok(refused)
            }
        },
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

/// Whether the unit of the cgroup starts as it was enrolled, however it has been changed since; writes down that it does.
fn held(context: &Context, path: &str) -> Result<(), String> {
    let name = unit_of(path).ok_or_else(|| format!("{path} is no unit's cgroup"))?;
    let unit = systemd::unit(&name)?;
    let drop_in = dropin::path(&name);
    let text = fs::read_to_string(&drop_in).map_err(|error| format!("{}: {error}", drop_in.display()))?;
    let mut faults = unit.faults(&dropin::shown(&text));
    if unit.last_drop_in() != Some(&drop_in) {
        let other = unit.last_drop_in().unwrap_or(Path::new("another text of the unit")).display();
        faults.push(format!("{other} comes after {}, and may undo it: give it a name before that", drop_in.display()));
    }
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    let config = context.configuration()?;
    let registry = Registry::beside(&config.admin.socket, &config.capture.pin_directory).enrolled;
    let id = cgroup::cgroup_id(path).map_err(|error| format!("{path}: {error}"))?;
    registration::enrolled(&registry, id, &name).map_err(|error| format!("{}: {error}", registry.display()))
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
