//! The cluster itself, without interceptor: what clients see where nobody stands between.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use interceptor::testing::cluster::{Cluster, FRONT_PORT, PORT, Secrets};
use interceptor::testing::stage::CLUSTER;
use interceptor::testing::world::{Place, World};

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
    let served = || cluster.log("front").matches(" for /api/").count();
    let before = served();
    for protocol in ["v5.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"] {
        assert!(told.contains(protocol), "{protocol}: {told}");
    }
    ways::streams_work(&way(FRONT_PORT), "kubectl");
    assert_eq!(served(), before, "the old kubectl's streams are left alone");
    // All of it ends with it: the pod as well, which the node's programs did not start within their own cgroup.
    let namespace = namespace(&world);
    assert!(inside(&namespace).iter().any(|command| command.contains("httpd")), "{:?}", inside(&namespace));
    drop(cluster);
    assert_eq!(inside(&namespace), Vec::<String>::new());
}

/// Not a test by itself: what [`what_a_killed_test_leaves_is_swept_away`] kills.
#[test]
#[ignore = "it waits to be killed"]
fn waits_to_be_killed() {
    let world = World::new(&[CLUSTER]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secrets = Secrets::draw(&folder.path().join("secrets")).unwrap();
    let mut cluster = Cluster::start(&world, secrets).unwrap();
    cluster.start_node().unwrap();
    println!("\nready {} {} {}", world.cgroup(Place::Far), folder.path().display(), namespace(&world));
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn what_a_killed_test_leaves_is_swept_away() {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "direct::waits_to_be_killed", "--ignored", "--nocapture"]);
    let mut test = test.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(test.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.starts_with("ready ")).expect("a cluster that is ready");
    test.kill().unwrap();
    test.wait().unwrap();
    let mut words = line.split(' ').skip(1);
    let (group, secrets) = (words.next().unwrap(), PathBuf::from(words.next().unwrap()));
    let namespace = words.next().unwrap();
    let name = group.trim_start_matches('/').split('/').next().unwrap();
    let left = || {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let mounts = table.lines().filter_map(|line| line.split(' ').nth(1));
        let groups = mounts.filter(|mount| mount.contains("cgroup")).map(|mount| Path::new(mount).join(name));
        groups.chain([std::env::temp_dir().join(name)]).filter(|path| path.exists()).collect::<Vec<_>>()
    };
    // Six programs, the pod's sandbox, and what runs in the pod.
    assert!(inside(namespace).len() >= 8 && left().len() >= 2, "{:?} {:?}", inside(namespace), left());
    drop(World::new(&[CLUSTER]).unwrap());
    assert_eq!((inside(namespace), left()), (Vec::new(), Vec::new()));
    fs::remove_dir_all(secrets).unwrap();
}

/// The network namespace of the far side.
fn namespace(world: &World) -> String {
    let mut readlink = Command::new("readlink");
    readlink.arg("/proc/self/ns/net");
    let output = world.output(Place::Far, None, readlink, Duration::from_secs(10)).unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What runs in a network namespace.
fn inside(namespace: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let inside =
        all.filter(|process| fs::read_link(process.join("ns/net")).is_ok_and(|found| found == Path::new(namespace)));
    inside.map(|process| fs::read_to_string(process.join("cmdline")).unwrap_or_default().replace('\0', " ")).collect()
}
