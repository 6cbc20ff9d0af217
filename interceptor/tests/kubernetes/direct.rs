//! The cluster itself, without interceptor: what clients see where nobody stands between.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use interceptor::testing::cluster::Cluster;
use interceptor::testing::stage::CLUSTER;
use interceptor::testing::world::World;

use super::ways::{self, KUBECTLS, Way};

/// The cluster's administrator, beside it.
struct Direct<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
}

impl Way for Direct<'_> {
    fn program(&self, name: &str) -> Command {
        self.cluster.administer(name)
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
    let mut cluster = Cluster::start(&world).unwrap_or_else(|error| panic!("no cluster: {error}"));
    cluster.start_node().unwrap_or_else(|error| panic!("no node: {error}"));
    let folder = tempfile::tempdir().unwrap();
    let way = Direct { cluster: &cluster, folder: folder.path().to_owned() };
    for name in KUBECTLS {
        cluster.kubectl(&["delete", "configmap", "settings", "--ignore-not-found"]).unwrap();
        ways::objects_are_made_read_and_changed(&way, name);
        ways::watches_go_on(&way, name, &cluster);
        ways::commands_run_in_pods(&way, name);
        ways::terminals_work(&way, name);
        ways::files_are_copied(&way, name);
        ways::ports_are_forwarded(&way, name);
        ways::logs_are_followed(&way, name);
    }
}
