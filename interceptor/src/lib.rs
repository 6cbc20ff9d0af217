//! interceptor: every connection of a governed agent is captured in the kernel, identified, judged command by
//! command, masked and recorded. `ARCHITECTURE.md` shows the flow; modules stand here in layer order, lowest first.

// Layer 1: strangers to each other, importing nothing of ours.
pub mod clock;
pub mod secret;
pub mod telemetry;
pub mod tls;
mod turn;
pub mod wire;

// Layer 2: who is calling.
pub mod capture;
pub mod identity;

// Layer 3: the pure judge.
pub mod policy;

// Layer 4: what a decision sets in motion.
pub mod approval;
pub mod credential;
pub mod mask;
pub mod record;

// Layer 5: what is asked, in each protocol's own words.
pub mod protocol;

// Layer 6: where a protocol meets a verdict.
pub mod session;

// Beside the flow: how an agent is started.
pub mod launch;

// Layer 7: the program.
pub mod admin;
pub mod app;
pub mod cli;
pub mod config;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
