//! `interceptor governs`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{fs, io};

use super::{Context, Printer, REFUSED, systemd};
use crate::capture::{self, cgroup};
use crate::identity::facts::unit_of;
use crate::identity::level::{look_at, look_away, mark_enrolled};
use crate::launch::dropin;

/// By this code systemd counts a unit's `ExecCondition=` as failed; any smaller one has it skip the unit without a word.
const UNIT_FAILS: u8 = 255;

/// How often systemd is asked, and after which pause.
const TRIES: u32 = 5;
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The cgroup, as /agents.slice/billing.service; by default the one that this command runs in
    cgroup: Option<String>,
    /// End with 255 where it is not governed, and else write down that an enrolled unit starts there: for ExecCondition= in units, which
    /// then fail to start
    #[arg(long)]
    unit: bool,
    /// Look at an enrolled unit as systemd has it now, instead: fail where it is not held any more as it was enrolled
    #[arg(long, value_name = "UNIT", conflicts_with_all = ["cgroup", "unit"])]
    before: Option<String>,
}

pub(super) fn run(context: &Context, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    if let Some(unit) = &arguments.before {
        return held(unit).map(|()| ExitCode::SUCCESS);
    }
    let answer = governed(context, arguments.cgroup.as_deref());
    let refused = ExitCode::from(if arguments.unit { UNIT_FAILS } else { REFUSED });
    let answer = match answer {
        Ok((path, true)) if arguments.unit => mark(&path).map(|()| (path, true)),
        answer => answer,
    };
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

/// systemd may be busy with itself, and a unit whose look has failed is not started again by `Restart=`.
fn asked_again<T>(ask: impl Fn() -> Result<T, String>) -> Result<T, String> {
    for _ in 1..TRIES {
        if let Ok(told) = ask() {
            return Ok(told);
        }
        std::thread::sleep(PAUSE);
    }
    ask()
}

/// Whether a unit can still be held, however it has been changed since it was enrolled.
fn held(name: &str) -> Result<(), String> {
    look_away(name).map_err(|error| format!("{name}: an earlier look cannot be forgotten: {error}"))?;
    let unit = asked_again(|| systemd::unit(name))?;
    let drop_in = dropin::path(name);
    let text = fs::read_to_string(&drop_in).map_err(|error| format!("{}: {error}", drop_in.display()))?;
    let mut faults = unit.faults(&dropin::shown(&text), &super::enroll::real);
    let last = unit.last_drop_in();
    if last.as_ref() != Some(&drop_in) {
        let other = last.unwrap_or_else(|| PathBuf::from("another text of the unit"));
        let other = other.display();
        faults.push(format!("{other} comes after {}, and may undo it: give it a name before that", drop_in.display()));
    }
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    look_at(name, &drop_in).map_err(|error| format!("{name}: it cannot be written down that it was looked at: {error}"))
}

/// Writes down that the unit of this cgroup starts with its drop-in, where it has one and was looked at: else it is adopted.
fn mark(cgroup: &str) -> Result<(), String> {
    let name = unit_of(cgroup).ok_or_else(|| format!("{cgroup} is no unit's cgroup"))?;
    let failed = |error: io::Error| format!("{cgroup}: it cannot be marked: {error}");
    mark_enrolled(cgroup, (&name, &dropin::path(&name))).map_err(failed)
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
