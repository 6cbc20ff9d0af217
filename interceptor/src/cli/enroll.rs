//! `interceptor enroll UNIT`: has systemd start a service held as `interceptor exec` would start it. `interceptor enroll
//! --container ID`: governs a container that runs already.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hyper::Method;

use super::{Context, Printer, REFUSED, block_on, systemd};
use crate::admin::{Enrolled, client};
use crate::capture::{self, Ended};
use crate::identity::container;
use crate::launch::dropin::{self, Sight};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The service, as billing.service
    #[arg(required_unless_present_any = ["container", "cgroup"])]
    unit: Option<String>,
    /// A running container instead, by its id or the beginning of it: governed at once, its connections are ended
    #[arg(long, value_name = "ID", conflicts_with_all = ["unit", "cgroup", "keep"])]
    container: Option<String>,
    /// The same by its cgroup, as /system.slice/docker-....scope
    #[arg(long, value_name = "PATH", conflicts_with_all = ["unit", "keep"])]
    cgroup: Option<String>,
    /// What it shall see below /run and /tmp beside its own; all else there is hidden. Stays when it is enrolled again, until --undo
    #[arg(long, value_name = "PATH")]
    keep: Vec<PathBuf>,
    /// Remove the drop-in again; of a container, let it go
    #[arg(long)]
    undo: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    if let Some(cgroup) = running(arguments)? {
        return govern(context, cgroup, arguments, out);
    }
    let given = service(arguments.unit.as_deref().unwrap_or_default())?;
    let name = named(&given, arguments.undo)?;
    let path = dropin::path(&name);
    let before = fs::read_to_string(&path).unwrap_or_default();
    let after = if arguments.undo { String::new() } else { wanted(context, (&name, &before), arguments)? };
    let difference = dropin::difference(&before, &after);
    if difference.is_empty() {
        out.line(&format!("{}: nothing to change", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    out.line(&format!("{}:", path.display()))?;
    difference.lines().try_for_each(|line| out.line(line))?;
    if !arguments.yes && !confirmed(out)? {
        out.line("Nothing is changed. Answer y, or say --yes, to write it.")?;
        return Ok(ExitCode::from(REFUSED));
    }
    change(&path, &after).map_err(|error| format!("{}: {error}", path.display()))?;
    // What earlier versions have written, which others' drop-ins may undo.
    let _none = fs::remove_file(path.with_file_name(FORMER));
    systemd::systemctl(&["daemon-reload"])?;
    out.line(&format!("It holds from the next start on: systemctl restart {name}"))?;
    Ok(ExitCode::SUCCESS)
}

/// The unit's own name, where it was asked for by another. What was enrolled by that name, as earlier versions did, can be undone.
fn named(name: &str, undo: bool) -> Result<String, String> {
    if undo && dropin::path(name).exists() {
        return Ok(name.to_owned());
    }
    let id = systemd::unit(name)?.id().to_owned();
    if id.len() > LONGEST_NAME {
        return Err(format!("{id}: its name is too long for the unit that looks at it before it starts"));
    }
    Ok(id)
}

/// The cgroup of a container that is meant, where one is.
fn running(arguments: &Arguments) -> Result<Option<String>, String> {
    let Some(id) = &arguments.container else { return Ok(arguments.cgroup.clone()) };
    if id.len() < SHORTEST_ID {
        return Err(format!("{id}: give at least {SHORTEST_ID} characters of the container's id"));
    }
    match container::find(id).map_err(|error| error.to_string())?.as_slice() {
        [] => Err(format!("no cgroup is named after a container {id}; name its cgroup with --cgroup")),
        [one] => Ok(Some(one.clone())),
        several => Err(format!("several containers are called {id}: {}", several.join(", "))),
    }
}

/// Governs a cgroup, or lets it go, and tells the daemon. In this order: the kernel programs, the end of the connections from
/// before, the listeners.
fn govern(context: &Context, cgroup: String, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    let what = if arguments.undo { "is let go" } else { "is governed, and its connections are ended" };
    crate::capture::cgroup::cgroup_id(&cgroup).map_err(|error| format!("cgroup {cgroup}: {error}"))?;
    if !arguments.yes {
        out.line(&format!("{cgroup} {what}."))?;
        if !confirmed(out)? {
            out.line("Nothing is changed. Answer y, or say --yes, to do it.")?;
            return Ok(ExitCode::from(REFUSED));
        }
    }
    if !nix::unistd::geteuid().is_root() {
        return Err("this needs root: it attaches kernel programs, and ends connections".to_owned());
    }
    let config = context.configuration()?.capture;
    let (done, left) = if arguments.undo { (release(&config, cgroup)?, None) } else { attach(&config, cgroup)? };
    let words = said(&done);
    let call = client::call::<Enrolled>(&context.socket, Method::POST, "/v1/cgroups", Some(&done));
    let told = block_on(call)?.map_err(|error| format!("{words}; but the daemon: {error}"))?;
    out.show(&told, |told| Ok(said(told)))?;
    left.map_or(Ok(ExitCode::SUCCESS), |left| Err(format!("{}: {left}", told.cgroup)))
}

/// Whatever else fails by then, it is governed, and the daemon has to be told.
fn attach(config: &capture::Config, cgroup: String) -> Result<(Enrolled, Option<String>), String> {
    capture::govern(config, &cgroup).map_err(|error| error.to_string())?;
    let (destroyed, left) = match capture::end_open(config, &cgroup) {
        Ok(Ended { destroyed, foreign: 0 }) => (destroyed, None),
        Ok(Ended { destroyed, foreign }) => (
            destroyed,
            Some(format!(
                "its processes hold {foreign} sockets that were made elsewhere, and can use them again: restart them"
            )),
        ),
        Err(error) => (0, Some(format!("its connections from before are not all ended: {error}"))),
    };
    Ok((Enrolled { cgroup, governed: true, destroyed }, left))
}

fn release(config: &capture::Config, cgroup: String) -> Result<Enrolled, String> {
    match capture::release(config, &cgroup) {
        Ok(true) => Ok(Enrolled { cgroup, governed: false, destroyed: 0 }),
        Ok(false) => Err(format!("{cgroup} is not governed")),
        Err(error) => Err(error.to_string()),
    }
}

fn said(done: &Enrolled) -> String {
    let Enrolled { cgroup, governed, destroyed } = done;
    if *governed {
        format!("{cgroup} is governed from now on; {destroyed} connections from before are ended")
    } else {
        format!("{cgroup} is not governed any more")
    }
}

/// Name of the drop-in in earlier versions.
const FORMER: &str = "50-interceptor.conf";
/// Of a unit that is enrolled: systemd takes no longer names than 255 for the one that looks at it.
const LONGEST_NAME: usize = 255 - "interceptor-enrolled@.service".len();
/// Characters of a container's id that are asked for at least.
const SHORTEST_ID: usize = 6;

/// A plain name: it becomes part of a path.
fn service(unit: &str) -> Result<String, String> {
    let name = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("{unit:?} is no name of a unit"));
    }
    Ok(name)
}

fn wanted(context: &Context, (name, before): (&str, &str), arguments: &Arguments) -> Result<String, String> {
    let config = context.configuration()?;
    let unit = systemd::unit(name)?;
    // What it is shown by us is among what systemd says.
    let mut kept = dropin::shown(before);
    kept.extend_from_slice(&arguments.keep);
    if !systemd::is_loaded("interceptor-enrolled@any.service")? {
        return Err("interceptor-enrolled@.service is not installed, which looks at the unit before it starts: it comes with the package"
            .to_owned());
    }
    if unit.is_stale() {
        return Err(format!("systemd has another text of {name} than the disk: `systemctl daemon-reload` first"));
    }
    match unit.faults(&kept, &real).as_slice() {
        [] => {
            let mut keep = dropin::tokens(&unit, config.agents.iter().map(|agent| &agent.value), &config.capture);
            keep.extend_from_slice(&arguments.keep);
            let program = program(&context.config)?;
            let plain = dropin::shown(&dropin::text(&unit, &config.capture, &program, Sight::default())?);
            // What was kept before stays.
            let before = dropin::shown(before).into_iter().filter(|path| !plain.contains(path) && !keep.contains(path));
            let before: Vec<_> = before.collect();
            keep.extend(before);
            let environment = super::exec::trust(&config, &mut keep)?;
            let mut seen = HashSet::new();
            keep.retain(|path| seen.insert(path.clone()));
            let sight = Sight { keep: &keep, environment: &environment };
            dropin::text(&unit, &config.capture, &program, sight)
        }
        faults => Err(faults.join("\n")),
    }
}

/// Where a path leads; where it leads nowhere, itself.
pub(super) fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_none| path.to_owned())
}

/// This program, with its configuration, as units name it.
fn program(config: &Path) -> Result<String, String> {
    let own = std::env::current_exe().map_err(|error| format!("where this program lies: {error}"))?;
    let config = std::path::absolute(config).map_err(|error| format!("{}: {error}", config.display()))?;
    let words = [own, config].map(|path| path.display().to_string());
    // What systemd reads as something else.
    if let Some(odd) = words.iter().find(|word| word.contains(|c: char| c.is_whitespace() || "\"'\\$%;".contains(c))) {
        return Err(format!("{odd}: a unit cannot name it; use a plain path"));
    }
    let [own, config] = words;
    Ok(if config == crate::config::DEFAULT_PATH { own } else { format!("{own} --config {config}") })
}

pub(super) fn confirmed(out: &mut Printer) -> Result<bool, String> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    out.line("Write it? [y/N]")?;
    out.flush().map_err(|error| error.to_string())?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| error.to_string())?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Writes the drop-in as a whole, or removes it with its folder.
fn change(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    if text.is_empty() {
        fs::remove_file(path)?;
        // Others may have drop-ins there.
        let _kept = fs::remove_dir(folder);
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let next = path.with_extension("new");
    fs::write(&next, text)?;
    fs::rename(next, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path() {
        assert_eq!(service("billing").unwrap(), "billing.service");
        assert_eq!(service("billing@1.service").unwrap(), "billing@1.service");
        for odd in ["../x.service", "a/b", ".service", "a b.service", ""] {
            assert!(service(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_change_can_be_undone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.service.d/zz-interceptor.conf");
        change(&path, "[Service]\n").unwrap();
        change(&path, "[Service]\nUser=x\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[Service]\nUser=x\n");
        change(&path, "").unwrap();
        assert!(!path.parent().unwrap().exists());
    }
}
