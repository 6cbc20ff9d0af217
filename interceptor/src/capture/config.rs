//! What the operator says about capture, and the checks that need no kernel.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// Governed cgroups at most.
pub(super) const MAX_CGROUPS: usize = 256;
/// Network namespaces that may be configured at most: each takes descriptors.
pub(super) const MAX_NAMESPACES: usize = 4096;
/// What `dns_label_bytes` may be: room for one name at least, and a bound.
const LABEL_BYTES: RangeInclusive<u32> = 256..=1 << 20;
/// Where `resolver = "system"` looks.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Bytes of resolv.conf that are read.
const MAX_RESOLV_CONF: usize = 64 << 10;

/// The `[capture]` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Governed cgroups, as paths below the cgroup2 mount; everything below them is governed too. Missing ones are made.
    /// An empty list, which is not the default, governs nothing: as the package is installed.
    pub cgroups: Vec<String>,
    /// Governs cgroups also where somebody other than root may move processes out of them.
    pub allow_delegated: bool,
    /// Whether the hooks of the kernel's security modules are used.
    pub security_modules: SecurityModules,
    /// cgroups, as paths below the cgroup2 mount, whose local (Unix) sockets agents may use where the hooks of security modules
    /// hold them. Datagrams to sockets of `/init.scope` (systemd's: notifications and the log) are always allowed.
    pub local_peers: Vec<String>,
    /// Devices that agents may open beside terminals and the likes of `/dev/null`: device files, or folders of them.
    pub devices: Vec<PathBuf>,
    /// The daemon's cgroup, below the cgroup2 mount; by default the one that it runs in.
    pub daemon_cgroup: Option<String>,
    /// Where links and maps are pinned: a directory on a bpffs, owned by root.
    pub pin_directory: PathBuf,
    /// TCP port of the proxy on 127.0.0.1 and ::1; 0 takes a free one.
    pub proxy_port: u16,
    /// UDP port of the DNS relay on 127.0.0.1 and ::1; 0 takes a free one.
    pub dns_port: u16,
    /// The resolver that agents may ask over UDP.
    pub resolver: Resolver,
    /// Names that agents may look up beside those of targets: `api.example`, or `*.corp.example` for all below it.
    pub dns_names: Vec<String>,
    /// Bytes that a cgroup can say in an hour by names that only a wildcard of `dns_names` covers, and twice that at once: a
    /// name that it has not asked for before counts with its labels and two bytes more, one that it has with two.
    pub dns_label_bytes: u32,
    /// The resolver that the relay forwards to, where that is another one.
    pub dns_upstream: Option<SocketAddr>,
    /// Network namespaces of agents' own (containers) that the daemon listens in at most; 0: in none, connects there are
    /// refused.
    pub namespaces: usize,
    /// Where `interceptor namespaces` is asked to open them, for a daemon that may not enter them by itself.
    pub namespaces_socket: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cgroups: vec!["/agents.slice".to_owned()],
            allow_delegated: false,
            security_modules: SecurityModules::Auto,
            local_peers: Vec::new(),
            devices: Vec::new(),
            daemon_cgroup: None,
            pin_directory: PathBuf::from("/sys/fs/bpf/interceptor"),
            proxy_port: 15_001,
            dns_port: 15_053,
            resolver: Resolver::System,
            dns_names: Vec::new(),
            dns_label_bytes: 8192,
            dns_upstream: None,
            namespaces: 256,
            namespaces_socket: PathBuf::from("/run/interceptor-namespaces.sock"),
        }
    }
}

impl Config {
    /// Every fault that shows without a kernel, in plain words; empty when there is none.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.cgroups.len() > MAX_CGROUPS {
            faults.push(format!("cgroups: {} are too many, the limit is {MAX_CGROUPS}", self.cgroups.len()));
        }
        if self.local_peers.len() > MAX_CGROUPS {
            faults.push(format!("local_peers: {} are too many, the limit is {MAX_CGROUPS}", self.local_peers.len()));
        }
        for device in self.devices.iter().filter(|device| !below_dev(device)) {
            faults.push(format!("devices: `{}` is no path below /dev, without detours", device.display()));
        }
        for cgroup in self.cgroups.iter().chain(&self.daemon_cgroup).chain(&self.local_peers) {
            if !is_plain(cgroup) {
                faults.push(format!("`{cgroup}` is no cgroup path: absolute, not the root, without `.` and `..`"));
            }
        }
        for cgroup in &self.cgroups {
            if let Some(daemon) = &self.daemon_cgroup
                && (Path::new(daemon).starts_with(cgroup) || Path::new(cgroup).starts_with(daemon))
            {
                faults.push(format!("the daemon's cgroup `{daemon}` and the governed `{cgroup}` contain one another"));
            }
        }
        for (index, cgroup) in self.cgroups.iter().enumerate() {
            let others = self.cgroups.iter().skip(index + 1);
            for other in
                others.filter(|other| Path::new(other).starts_with(cgroup) || Path::new(cgroup).starts_with(other))
            {
                faults.push(format!("cgroups: `{cgroup}` and `{other}` contain one another"));
            }
        }
        for name in self.dns_names.iter().filter(|name| !is_name(name.strip_prefix("*.").unwrap_or(name))) {
            faults.push(format!("dns_names: `{name}` is no name; write api.example, or *.corp.example"));
        }
        if !LABEL_BYTES.contains(&self.dns_label_bytes) {
            let (least, most) = (LABEL_BYTES.start(), LABEL_BYTES.end());
            faults.push(format!("dns_label_bytes: {} is not between {least} and {most}", self.dns_label_bytes));
        }
        if !self.pin_directory.is_absolute() {
            faults.push(format!("pin_directory: `{}` is not absolute", self.pin_directory.display()));
        }
        if !self.namespaces_socket.is_absolute() {
            faults.push(format!("namespaces_socket: `{}` is not absolute", self.namespaces_socket.display()));
        }
        if self.namespaces > MAX_NAMESPACES {
            faults.push(format!("namespaces: {} are too many, the limit is {MAX_NAMESPACES}", self.namespaces));
        }
        if self.proxy_port != 0 && self.proxy_port == self.dns_port {
            faults.push("proxy_port and dns_port are the same".to_owned());
        }
        faults
    }

    /// The domains that this host looks short names up in, as its agents do.
    #[must_use]
    pub fn search(&self) -> Vec<String> {
        resolv_conf().map(|text| search(&text)).unwrap_or_default()
    }

    /// The resolver that agents may ask, looked up where the configuration says `system`; none when UDP is off.
    ///
    /// # Errors
    /// When the system's resolver is asked for and `/etc/resolv.conf` cannot be read or names none.
    pub fn resolver(&self) -> io::Result<Option<SocketAddr>> {
        match self.resolver {
            Resolver::None => Ok(None),
            Resolver::At(address) => Ok(Some(address)),
            Resolver::System => {
                let first = nameserver(&resolv_conf()?);
                first.map(Some).ok_or_else(|| io::Error::other(format!("{RESOLV_CONF} names no nameserver")))
            }
        }
    }
}

fn below_dev(path: &Path) -> bool {
    path.strip_prefix("/dev").is_ok_and(|rest| {
        let mut parts = rest.components().peekable();
        parts.peek().is_some() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
    })
}

fn resolv_conf() -> io::Result<String> {
    let text = fs::read(RESOLV_CONF)?;
    Ok(String::from_utf8_lossy(text.get(..text.len().min(MAX_RESOLV_CONF)).unwrap_or_default()).into_owned())
}

/// Whether this is an absolute path below the mount without detours.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    path.len() > 1
        && path.starts_with('/')
        && !path.ends_with('/')
        && !path.contains('\0')
        && path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..")
}

/// A name in lower case, without a last dot.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let labels = name.split('.').all(|label| (1..64).contains(&label.len()) && label.bytes().all(plain));
    name.len() < 254 && labels
}

/// Domains that short names are looked up in.
fn search(resolv_conf: &str) -> Vec<String> {
    // The last line of either kind counts.
    let mut found = resolv_conf.lines().rev().filter_map(|line| {
        let (word, domains) = line.trim().split_once(char::is_whitespace)?;
        matches!(word, "search" | "domain").then_some(domains)
    });
    let domains = found.next().unwrap_or_default().split_whitespace();
    domains.map(|name| name.trim_end_matches('.').to_ascii_lowercase()).filter(|name| is_name(name)).collect()
}

fn nameserver(resolv_conf: &str) -> Option<SocketAddr> {
    let mut words = resolv_conf.lines().map(str::split_whitespace);
    words.find_map(|mut line| {
        (line.next() == Some("nameserver")).then(|| line.next()?.parse::<IpAddr>().ok())?.map(|ip| (ip, 53).into())
    })
}

/// Whether the hooks of the kernel's security modules (LSM programs at cgroups, Linux 6.0) are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityModules {
    /// Where the kernel has them.
    #[default]
    Auto,
    /// Without them the daemon does not start.
    Required,
    /// Never.
    Off,
}

/// Which resolver agents may ask: `"system"`, `"none"`, an address, or an address with a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Resolver {
    /// The first nameserver of `/etc/resolv.conf`.
    #[default]
    System,
    /// None: all UDP is refused.
    None,
    /// This one.
    At(SocketAddr),
}

/// A resolver that is neither a keyword nor an address.
#[derive(Debug, thiserror::Error)]
#[error("a resolver is \"system\", \"none\", an IP address, or an address with a port")]
pub struct BadResolver;

impl TryFrom<String> for Resolver {
    type Error = BadResolver;

    fn try_from(text: String) -> Result<Self, BadResolver> {
        match text.as_str() {
            "system" => Ok(Self::System),
            "none" => Ok(Self::None),
            other => other
                .parse::<SocketAddr>()
                .or_else(|_| other.parse::<IpAddr>().map(|ip| (ip, 53).into()))
                .map(Self::At)
                .map_err(|_| BadResolver),
        }
    }
}

impl From<Resolver> for String {
    fn from(resolver: Resolver) -> Self {
        match resolver {
            Resolver::System => "system".to_owned(),
            Resolver::None => "none".to_owned(),
            Resolver::At(address) => address.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_unknown_keys_are_refused() {
        assert_eq!(Config::default().faults(), Vec::<String>::new());
        assert!(toml::from_str::<Config>("cgroup = ['/a']").unwrap_err().to_string().contains("unknown field"));
        let config: Config = toml::from_str("cgroups = ['/a/b']\nresolver = '10.0.0.2'").unwrap();
        assert_eq!(config.resolver().unwrap(), Some("10.0.0.2:53".parse().unwrap()));
    }

    #[test]
    fn dangerous_cgroups_are_faults() {
        for path in ["/", "", "a", "/a/", "/a/../b", "/a//b", "/."] {
            let config = Config { cgroups: vec![path.to_owned()], ..Config::default() };
            assert_eq!(config.faults().len(), 1, "{path}");
        }
        for (agents, daemon) in [("/a", "/a/daemon"), ("/d/a", "/d"), ("/a", "/a")] {
            let config = Config {
                cgroups: vec![agents.to_owned()],
                daemon_cgroup: Some(daemon.to_owned()),
                ..Config::default()
            };
            assert_eq!(config.faults().len(), 1, "{agents} {daemon}");
        }
        assert_eq!(Config { cgroups: Vec::new(), ..Config::default() }.faults(), Vec::<String>::new());
        // What runs in the inner one would be sent to the proxy twice.
        for (one, other, faults) in [("/a", "/a/b", 1), ("/a/b", "/a", 1), ("/a", "/a", 1), ("/a", "/ab", 0)] {
            let config = Config { cgroups: vec![one.to_owned(), other.to_owned()], ..Config::default() };
            assert_eq!(config.faults().len(), faults, "{one} {other}");
        }
        let many = (0..=MAX_CGROUPS).map(|number| format!("/a{number}")).collect();
        let many = Config { cgroups: many, ..Config::default() };
        assert_eq!(many.faults().len(), 1);
    }

    #[test]
    fn what_names_may_say_is_bounded() {
        for (bytes, faults) in [(0, 1), (255, 1), (256, 0), (1 << 20, 0), (u32::MAX, 1)] {
            let config = Config { dns_label_bytes: bytes, ..Config::default() };
            assert_eq!(config.faults().len(), faults, "{bytes}");
        }
    }

    #[test]
    fn devices_lie_below_dev() {
        for (path, faults) in [("/dev/dri", 0), ("/dev/nvidia0", 0), ("/dev", 1), ("/dev/../etc", 1), ("dev/x", 1)] {
            let config = Config { devices: vec![path.into()], ..Config::default() };
            assert_eq!(config.faults().len(), faults, "{path}");
        }
        let config: Config = toml::from_str("security_modules = 'required'\nlocal_peers = ['a']").unwrap();
        assert_eq!((config.security_modules, config.faults().len()), (SecurityModules::Required, 1));
    }

    #[test]
    fn the_first_nameserver_counts() {
        let text = "# c\nsearch x\nnameserver bad\nnameserver 10.1.1.1\nnameserver ::1\n";
        assert_eq!(nameserver(text), Some("10.1.1.1:53".parse().unwrap()));
        assert_eq!(nameserver("options x"), None);
        assert!(Resolver::try_from("nope".to_owned()).is_err());
        assert_eq!(Resolver::try_from("[::1]:54".to_owned()).unwrap(), Resolver::At("[::1]:54".parse().unwrap()));
    }
}
