//! Requests to clusters: no input panics; whatever is asked is some action, and nothing that changes a cluster passes as
//! reading.
#![no_main]

use std::sync::Arc;

use futures_util::FutureExt as _;
use interceptor::protocol::kubernetes::REGISTRATION;
use interceptor::protocol::{Question, Target};
use interceptor::tls;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let target = Target {
        name: "prod".into(),
        host: "cluster".into(),
        agent_tls: None,
        upstream_tls: tls::Upstream::default(),
        http: interceptor::protocol::kubernetes::settings(&Default::default(), Vec::new()).ok().map(Arc::new),
    };
    let (reach, rules) = (Box::pin(std::future::pending()), Arc::default());
    let question = Question { text, database: None, target: Arc::new(target), reach, rules };
    let Some(Ok(command)) = REGISTRATION.protocol.understand(question).now_or_never() else { return };
    assert!(!command.actions.is_empty());
    let reads = ["k8s:get", "k8s:list", "k8s:watch", "k8s:log", "k8s:discover", "k8s:all_namespaces", "k8s:impersonate"];
    let only_reads = command.actions.iter().all(|action| reads.contains(&action.name.as_str()));
    let method = text.split('\n').next().unwrap_or_default().trim().split(' ').next().unwrap_or_default();
    assert!(!only_reads || matches!(method, "GET" | "HEAD"), "{text}");
    assert!(command.actions.iter().all(|action| &*action.resource.path[0] == "prod"));
});
