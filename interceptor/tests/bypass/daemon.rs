//! The daemon's part: this test program once more, in the daemon's cgroup.

use interceptor::capture::Config;
use interceptor::testing::answering::{self, Answering};
use interceptor::testing::world::World;

pub(crate) type Daemon = Answering;

#[test]
#[ignore = "started by the other test, in the daemon's cgroup"]
fn runs() {
    answering::run();
}

/// # Errors
/// With its words, where it does not start.
pub(crate) fn start(world: &World, config: &Config) -> Result<Daemon, String> {
    Answering::start(world, config, "daemon::runs")
}
