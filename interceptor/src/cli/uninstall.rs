//! `interceptor uninstall`: detaches everything, when asked, and says what is left for others to do.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Context, Printer, REFUSED};
use crate::identity::level::{DROP_IN, Registry, forget};
use crate::{capture, launch};

pub(super) fn run(context: &Context, out: &mut Printer) -> Result<ExitCode, String> {
    let config = context.configuration()?;
    // It would attach all of it again.
    if UnixStream::connect(&context.socket).is_ok() {
        out.line("the daemon runs: stop it first (`systemctl stop interceptor`), which also drops the sockets that are kept for it")?;
        return Ok(ExitCode::from(REFUSED));
    }
    let governed = capture::all_governed(&config.capture).map_err(|error| error.to_string())?;
    let removed = capture::uninstall(&config.capture).map_err(|error| error.to_string())?;
    out.line(&format!("{removed} kernel programs detached; governed processes are free again"))?;
    governed.iter().for_each(|cgroup| forget(cgroup));
    let registry = Registry::beside(&config.admin.socket, &config.capture.pin_directory);
    if let Err(error) = launch::sweep(&registry.launched) {
        out.line(&format!("{}: {error}", registry.launched.display()))?;
    }
    for unit in enrolled(&registry.units).map_err(|error| format!("{}: {error}", registry.units.display()))? {
        out.line(&format!("{unit} is still enrolled; `interceptor enroll --undo {unit}` takes that back"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Units with our drop-in.
fn enrolled(units: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(units) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let folders = entries.collect::<io::Result<Vec<_>>>()?.into_iter().map(|entry| entry.path());
    let ours = folders.filter(|folder: &PathBuf| folder.join(DROP_IN).is_file());
    let mut units: Vec<String> =
        ours.filter_map(|folder| folder.file_name()?.to_str()?.strip_suffix(".d").map(str::to_owned)).collect();
    units.sort();
    Ok(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_with_the_drop_in_are_found() {
        let root = tempfile::tempdir().unwrap();
        for (unit, file) in [("b.service.d", DROP_IN), ("a.service.d", DROP_IN), ("c.service.d", "other.conf")] {
            fs::create_dir(root.path().join(unit)).unwrap();
            fs::write(root.path().join(unit).join(file), "").unwrap();
        }
        assert_eq!(enrolled(root.path()).unwrap(), ["a.service", "b.service"]);
        assert!(enrolled(&root.path().join("none")).unwrap().is_empty());
    }
}
