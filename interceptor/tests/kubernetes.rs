//! Kubernetes end to end: a real API server with etcd, a real kubelet and containerd with a pod; real clients (kubectl of 2021 and
//! of 2026, Python's, Go's), the real kernel programs, the real daemon, TLS on both legs.
//!
//! Needs root, and what `cargo xtask test` builds and installs; run with `--test-threads=1`. The API server's audit log proves
//! what arrived, and what did not.

#![cfg(test)]

#[path = "kubernetes/attacks.rs"]
mod attacks;
#[path = "kubernetes/clients.rs"]
mod clients;
#[path = "kubernetes/direct.rs"]
mod direct;
#[path = "kubernetes/governed.rs"]
mod governed;
#[path = "kubernetes/masked.rs"]
mod masked;
#[path = "kubernetes/scene.rs"]
mod scene;
#[path = "kubernetes/streams.rs"]
mod streams;
#[path = "kubernetes/ways.rs"]
mod ways;
#[path = "kubernetes/yaml.rs"]
mod yaml;
