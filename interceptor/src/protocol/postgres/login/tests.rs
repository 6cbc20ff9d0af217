//! Tests of the log-in: hostile targets in memory here, a real server in [`real`].

mod hostile;
mod real;

use std::sync::Arc;

use crate::protocol::{Login, Target};
use crate::secret::Secret;
use crate::tls::{Config, Mode, Unverified, Upstream};

fn target(upstream_tls: Upstream) -> Target {
    Target { name: Arc::from("orders-db"), host: "localhost".into(), agent_tls: None, http: None, upstream_tls }
}

fn clear(unverified_password: Unverified) -> Target {
    let config = Config { upstream: Mode::Disable, unverified_password, ..Config::default() };
    target(config.upstream("db.test", &[]).unwrap())
}

fn credential(user: &str, password: Option<&str>) -> Login {
    Login { user: user.into(), password: password.map(Secret::from), session: None }
}

fn parameters(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
