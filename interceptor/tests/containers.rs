//! Agents in network namespaces of their own: containers of a real runtime, and namespaces that a test makes.
//!
//! Needs root, and says so by failing. `daemon` is the capture alone, told what to do by the test; `engine` is the whole
//! program with a PostgreSQL, and agents in containers of crun. What an agent tries is a Python program.
#![cfg(test)]

#[path = "containers/attacks.rs"]
mod attacks;
#[path = "containers/churn.rs"]
mod churn;
#[path = "containers/daemon.rs"]
mod daemon;
#[path = "containers/engine.rs"]
mod engine;
#[path = "containers/engines.rs"]
mod engines;
#[path = "containers/listeners.rs"]
mod listeners;
#[path = "containers/packaged.rs"]
mod packaged;
#[path = "containers/scene.rs"]
mod scene;
