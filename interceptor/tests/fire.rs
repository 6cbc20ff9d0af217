//! The whole daemon under fire: storms, crowds, floods, slow and half-closed agents, messages without end. Time and memory
//! stay within the bounds of `docs/bounds.md`, other agents are served meanwhile, and afterwards all is as it was.
//!
//! Needs root, PostgreSQL and the Python that `cargo xtask test` installs; run with `--test-threads=1`. All of it happens
//! in namespaces of the test's own, and is bounded in number.

#[cfg(test)]
#[path = "fire/crowds.rs"]
mod crowds;
#[cfg(test)]
#[path = "fire/hostile.rs"]
mod hostile;
#[cfg(test)]
#[path = "fire/kills.rs"]
mod kills;
#[cfg(test)]
#[path = "fire/parrot.rs"]
mod parrot;
#[cfg(test)]
#[path = "postgres/scene.rs"]
#[expect(dead_code, reason = "the other tests with a stage use the rest")]
mod scene;
#[cfg(test)]
#[path = "fire/watch.rs"]
mod watch;
