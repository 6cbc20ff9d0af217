//! What systemd says, and is told.

use std::process::Command;

use crate::launch::dropin::Unit;

/// What it says of a unit.
pub(super) fn unit(name: &str) -> Result<Unit, String> {
    Ok(Unit::read(name, &systemctl(&["show", name, "--property", Unit::PROPERTIES])?))
}

/// Whether it knows the unit, or its template.
pub(super) fn is_loaded(name: &str) -> Result<bool, String> {
    Ok(systemctl(&["show", name, "--property", "LoadState"])?.trim() == "LoadState=loaded")
}

pub(super) fn systemctl(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.map_err(|error| format!("systemctl: {error}; units are enrolled where systemd runs"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("systemctl {}: {}", arguments.join(" "), why.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
