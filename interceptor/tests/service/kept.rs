//! What the manager hands over is believed only where it is what its name says, and the daemon's own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use interceptor::testing::world::Place;

use super::scene::Scene;

const PROXY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 15_001);

/// The daemon serves, on sockets of its own, and the manager keeps those and no others.
fn assert_serves(scene: &Scene) {
    let daemon = scene.start();
    let told = scene.agent("out([attempt(lambda: told(host, 7000, family)) for host, family in WAYS])");
    assert!(told.as_array().unwrap().iter().all(|told| told["ok"]["pid"].is_u64()), "{told}");
    scene.all_kept();
    daemon.kill().unwrap();
}

#[test]
fn what_is_no_such_socket_is_not_used() {
    /// Makes the impostor.
    type Make = fn(&Scene) -> OwnedFd;
    let impostors: [(&str, &str, Make); 8] = [
        ("no socket at all", "proxy4", |_| std::fs::File::open("/dev/null").unwrap().into()),
        ("of another kind", "proxy4", |scene| datagrams(scene, "127.0.0.1:15001").into()),
        ("of another family", "proxy4", |scene| listener(scene, "[::1]:15001").into()),
        ("at another address", "proxy4", |scene| listener(scene, "127.0.0.2:15001").into()),
        ("at another port", "proxy4", |scene| listener(scene, "127.0.0.1:15002").into()),
        ("which does not listen", "proxy4", |scene| connected(scene).into()),
        ("of another namespace", "proxy4", |scene| {
            scene.world.listen(Place::Far, SocketAddr::from(PROXY)).unwrap().into()
        }),
        ("a listener among datagrams", "dns6", |scene| listener(scene, "[::1]:15053").into()),
    ];
    for (what, name, make) in impostors {
        eprintln!("     {what}");
        let scene = Scene::new();
        scene.manager.plant(name, make(&scene));
        assert_serves(&scene);
        assert!(scene.manager.said().contains(&"FDSTOREREMOVE=1".to_owned()), "{:?}", scene.manager.said());
    }
}

#[test]
fn a_socket_at_the_right_place_is_not_used_where_the_daemon_has_not_made_it() {
    let scene = Scene::new();
    // The kernel programs are there, and know no socket any more.
    scene.start().kill().unwrap();
    scene.manager.forget();
    let theirs = listener(&scene, "127.0.0.1:15001");
    scene.manager.plant("proxy4", theirs.try_clone().unwrap());
    let error = scene.try_start().unwrap_err();
    assert!(error.contains("in use"), "{error}");
    let refused = scene.agent("out(attempt(lambda: told(FAR4, 7000)))");
    assert_eq!(refused["errno"], 111, "{refused}");
    theirs.set_nonblocking(true).unwrap();
    assert_eq!(theirs.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // Where whoever planted it lets go, the daemon gets its port.
    drop(theirs);
    scene.manager.forget();
    scene.manager.plant("proxy4", listener(&scene, "127.0.0.1:15001"));
    assert_serves(&scene);
}

#[test]
fn what_is_not_needed_any_more_is_dropped() {
    let mut scene = Scene::new();
    scene.start().kill().unwrap();
    scene.all_kept();
    scene.manager.plant("of-an-older-version", std::fs::File::open("/dev/null").unwrap());
    assert_serves(&scene);
    // Another port: the old sockets are of no use.
    scene.config.proxy_port = 15_101;
    let daemon = scene.start();
    let told = scene.agent("out([attempt(lambda: told(host, 7000, family)) for host, family in WAYS])");
    assert!(told.as_array().unwrap().iter().all(|told| told["ok"]["pid"].is_u64()), "{told}");
    scene.all_kept();
    daemon.kill().unwrap();
    // Names are not relayed any more.
    scene.config.resolver = interceptor::capture::Resolver::None;
    let daemon = scene.start();
    scene.keeps(&["proxy4", "proxy6"]);
    daemon.kill().unwrap();
}

fn listener(scene: &Scene, address: &str) -> TcpListener {
    scene.world.listen(Place::Outside, address.parse().unwrap()).unwrap()
}

fn datagrams(scene: &Scene, address: &str) -> UdpSocket {
    scene.world.datagrams(Place::Outside, address.parse().unwrap()).unwrap()
}

/// A connection whose own end is at the proxy's address.
fn connected(scene: &Scene) -> TcpStream {
    scene.world.connection(Place::Outside, PROXY.into()).unwrap()
}
