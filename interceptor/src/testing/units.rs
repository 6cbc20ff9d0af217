//! The units that are packaged: tests start what they start as they say.

use std::fs;
use std::path::PathBuf;

/// The daemon's.
pub const DAEMON: &str = "interceptor.service";
/// That of what opens network namespaces for it.
pub const DOORKEEPER: &str = "interceptor-namespaces.service";

/// Where a unit lies.
#[must_use]
pub fn path(unit: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(unit)
}

/// The values of a setting, in order.
///
/// # Panics
/// When there is no such unit.
#[expect(clippy::panic, reason = "a fixture fails by panicking")]
#[must_use]
pub fn values(unit: &str, name: &str) -> Vec<String> {
    let text = fs::read_to_string(path(unit)).unwrap_or_else(|error| panic!("{unit}: {error}"));
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// The capabilities of a unit's process, as setpriv names them.
///
/// # Panics
/// When it has others than it could get.
#[must_use]
pub fn capabilities(unit: &str) -> Vec<String> {
    let ambient = values(unit, "AmbientCapabilities");
    assert_eq!(ambient, values(unit, "CapabilityBoundingSet"), "what it has, and what it could get");
    ambient.iter().filter_map(|name| name.strip_prefix("CAP_")).map(str::to_ascii_lowercase).collect()
}
