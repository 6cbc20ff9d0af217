//! Life as a service: killed, restarted, stopped and reloaded under load, with a small service manager in systemd's place.
//! Not one packet leaves past the daemon, nobody is taken for another, and whoever connects meanwhile waits, or is refused
//! at once where nobody will come back.
//!
//! Needs root, and says so by failing.
#![cfg(test)]

#[path = "service/attribution.rs"]
mod attribution;
#[path = "service/down.rs"]
mod down;
#[path = "service/kept.rs"]
mod kept;
#[path = "service/life.rs"]
mod life;
#[path = "service/metrics.rs"]
mod metrics;
#[path = "service/own_user.rs"]
mod own_user;
#[path = "service/reload.rs"]
mod reload;
#[path = "service/restart.rs"]
mod restart;
#[path = "service/scene.rs"]
mod scene;
#[path = "service/unit.rs"]
mod unit;

#[test]
#[ignore = "started by the other tests, in the daemon's cgroup"]
fn daemon() {
    interceptor::testing::answering::run();
}
