//! The admin API on a Unix socket: root and one group, and nothing that runs in a governed cgroup.

use std::path::PathBuf;

use serde::Deserialize;

/// `[admin]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The socket; its directory is created with mode 0750.
    pub socket: PathBuf,
    /// Unix group whose members may use it besides root.
    pub group: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/interceptor/admin.sock"), group: None }
    }
}
