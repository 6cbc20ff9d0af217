//! The cluster itself, without interceptor: what clients see where nobody stands between.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use interceptor::testing::cluster::{Cluster, FRONT_PORT, PORT, Secrets};
use interceptor::testing::stage::CLUSTER;
use interceptor::testing::world::World;

use super::ways::{self, KUBECTLS, Way};

/// The cluster's administrator, beside it.
struct Direct<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
    port: u16,
}

impl Way for Direct<'_> {
    fn program(&self, name: &str) -> Command {
        let mut command = self.cluster.administer(name);
        command.arg(format!("--server=https://{CLUSTER}:{}", self.port));
        command
    }

    fn start(&self, mut command: Command) -> Child {
        self.cluster.beside(&mut command);
        command.spawn().unwrap()
    }

    fn folder(&self) -> &Path {
        &self.folder
    }
}

#[test]
fn a_cluster_does_what_clients_ask() {
    let world = World::new(&[CLUSTER]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secrets = Secrets::draw(&folder.path().join("secrets")).unwrap();
    let mut cluster = Cluster::start(&world, secrets).unwrap_or_else(|error| panic!("no cluster: {error}"));
    cluster.start_front().unwrap_or_else(|error| panic!("no front: {error}"));
    cluster.start_node().unwrap_or_else(|error| panic!("no node: {error}"));
    let way = |port| Direct { cluster: &cluster, folder: folder.path().to_owned(), port };
    for name in KUBECTLS {
        let way = way(PORT);
        cluster.kubectl(&["delete", "configmap", "settings", "--ignore-not-found"]).unwrap();
        ways::objects_are_made_and_read(&way, name);
        ways::objects_are_changed(&way, name);
        ways::watches_go_on(&way, name, &cluster);
        ways::logs_are_followed(&way, name);
        ways::streams_work(&way, name);
    }
    // As newer servers have it.
    ways::streams_work(&way(FRONT_PORT), "kubectl-new");
    let told = cluster.log("front");
    for protocol in ["v5.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"] {
        assert!(told.contains(protocol), "{protocol}: {told}");
    }
    ways::streams_work(&way(FRONT_PORT), "kubectl");
    assert_eq!(cluster.log("front"), told, "the old kubectl's streams are left alone");
}
