//! Configured targets: which destination addresses lead to which of them.
//!
//! A host name is resolved by the daemon, at start, at every reload and every [`REFRESH`]; an address that no longer
//! resolves stays for one more period. Two targets that cover one address are a configuration error, or, where it only
//! shows when names resolve, the connection is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::house::Tcp;
use super::registry::Limits;
use crate::credential::{self, Credential};
use crate::identity::Level;
use crate::mask::Rules;
use crate::policy::Command;
use crate::protocol::{Dial, Login, PROTOCOLS, Question, Registration, Target, http, kubernetes, mcp};
use crate::tls;

/// How often host names are looked up again.
pub const REFRESH: Duration = Duration::from_secs(30);
/// Addresses that one host name may have.
const ADDRESS_LIMIT: usize = 64;

/// `[[target]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// Name, as policies and listings use it.
    pub name: String,
    /// Protocol, as `postgres`.
    pub protocol: String,
    /// `host:port`, `address:port`, `[address]:port`, or without port for the protocol's own.
    pub hosts: Vec<String>,
    /// TLS on both legs.
    #[serde(default)]
    pub tls: tls::Config,
    /// What to log in with.
    pub credential: credential::Config,
    /// How well an agent has to be held to get a session: `adopted`, `enrolled` or `launched`.
    #[serde(default)]
    pub level: Level,
    /// What the protocol `http` wants to know beside.
    pub http: Option<http::Config>,
}

/// A target that is ready to be served.
#[derive(Debug)]
pub struct BoundTarget {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// The protocol.
    pub registration: &'static Registration,
    /// What logs in.
    pub credential: Credential,
    /// How well an agent has to be held.
    pub level: Level,
    /// Each host, and what the protocol sees of it: the name to verify differs.
    hosts: Vec<(Host, Arc<Target>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    name: String,
    port: u16,
}

impl BoundTarget {
    /// Checks a configured target. `authority` is the host CA, where there is one.
    ///
    /// # Errors
    /// A sentence for each thing that is wrong with it.
    pub fn bind(
        config: &TargetConfig,
        authority: Option<&Arc<tls::authority::Authority>>,
    ) -> Result<Self, Vec<String>> {
        let mut wrong = Vec::new();
        let registration = PROTOCOLS.iter().find(|known| known.name == config.protocol);
        if registration.is_none() {
            let known: Vec<&str> = PROTOCOLS.iter().map(|known| known.name).collect();
            wrong.push(format!("unknown protocol `{}`; there is {}", config.protocol, known.join(", ")));
        }
        if config.name.is_empty() || config.name.len() > 128 || config.name.contains(char::is_control) {
            wrong.push("a target's name has 1 to 128 printable characters".to_owned());
        }
        if config.hosts.is_empty() {
            wrong.push("a target needs at least one entry in `hosts`".to_owned());
        }
        let (default_port, alpn) = registration.map_or((0, &[][..]), |known| (known.default_port, known.alpn));
        let mut hosts = Vec::new();
        for text in &config.hosts {
            match Host::parse(text, default_port) {
                Some(host) => hosts.push(host),
                None => wrong.push(format!("`{text}` is no host, address, or either with a port")),
            }
        }
        let http = config.http_settings(registration).map_err(|why| wrong.extend(why)).unwrap_or_default();
        let signs = http.as_ref().is_some_and(|http| http.signs());
        let credential = config.credential.credential().map_err(|error| wrong.push(error.to_string())).ok();
        let credential = credential.map(|credential| credential.signing(signs));
        let hosts = views(config, hosts, (alpn, http), authority)
            .map_err(|error| wrong.push(error.to_string()))
            .unwrap_or_default();
        match (registration, credential) {
            (Some(registration), Some(credential)) if wrong.is_empty() => {
                Ok(Self { name: config.name.as_str().into(), registration, credential, level: config.level, hosts })
            }
            _ => Err(wrong),
        }
    }
}

impl BoundTarget {
    /// Whether it is known by this name (lower case).
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.hosts.iter().any(|(host, _)| host.name == name)
    }

    /// What the protocol sees of it under this name and port.
    #[must_use]
    pub fn view(&self, name: &str, port: u16) -> Option<Arc<Target>> {
        let found = self.hosts.iter().find(|(host, _)| host.name == name && host.port == port);
        found.map(|(_, view)| Arc::clone(view))
    }

    /// What a text would do at this target, in a database of it where it has such.
    ///
    /// # Errors
    /// A sentence, when it cannot be told, or the target would have to be asked and cannot be.
    pub async fn understand(&self, rules: Arc<Rules>, database: Option<&str>, text: &str) -> Result<Command, String> {
        let (host, target) = self.hosts.first().ok_or("the target has no host")?;
        let reach = Box::pin(self.reach(host));
        let question = Question { text, database, target: Arc::clone(target), reach, rules };
        self.registration.protocol.understand(question).await
    }

    async fn reach(&self, host: &Host) -> Result<(Arc<dyn Dial>, Login), String> {
        let mut found = tokio::net::lookup_host((host.name.as_str(), host.port))
            .await
            .map_err(|error| format!("{}: {error}", host.name))?;
        let destination = found.next().ok_or_else(|| format!("{} has no address", host.name))?;
        let lease = self.credential.lease().await.map_err(|error| error.to_string())?;
        let Limits { dial_seconds, lost_seconds, .. } = Limits::default();
        Ok((
            Arc::new(Tcp { destination, patience: Duration::from_secs(dial_seconds), lost_seconds }),
            Login { user: lease.user, password: lease.password, session: lease.session },
        ))
    }
}

fn views(
    config: &TargetConfig,
    hosts: Vec<Host>,
    (alpn, http): (&[&[u8]], Option<Arc<http::Settings>>),
    authority: Option<&Arc<tls::authority::Authority>>,
) -> Result<Vec<(Host, Arc<Target>)>, tls::SetupError> {
    let names = config.tls.names(hosts.iter().map(|host| host.name.as_str()))?;
    let agents = config.tls.agents(tls::Known { target: &config.name, names: &names, alpn }, authority)?;
    let name: Arc<str> = config.name.as_str().into();
    let mut views = Vec::new();
    for host in hosts {
        let upstream_tls = config.tls.upstream(&host.name, &[])?;
        let agent_tls = agents.as_ref().map(|agents| agents.for_host(&host.name));
        let target =
            Target { name: Arc::clone(&name), host: host.name.clone(), agent_tls, upstream_tls, http: http.clone() };
        views.push((host, Arc::new(target)));
    }
    Ok(views)
}

impl TargetConfig {
    /// The names by which agents ask for it inside of TLS; none where its hosts are wrong, which [`BoundTarget::bind`] says.
    #[must_use]
    pub fn names(&self) -> Vec<tls::authority::Name> {
        let hosts: Vec<Host> = self.hosts.iter().filter_map(|text| Host::parse(text, 1)).collect();
        self.tls.names(hosts.iter().map(|host| host.name.as_str())).unwrap_or_default()
    }

    /// Whether this is what paths into JSON may be limited to: the name of it, perhaps with one of its routes, or of the kinds
    /// of a cluster, or of the tools of a server.
    #[must_use]
    pub fn answers_json_at(&self, place: &str) -> bool {
        let Some(rest) = place.strip_prefix(self.name.as_str()) else { return false };
        let routes = self.http.iter().flat_map(|http| &http.routes);
        match self.protocol.as_str() {
            "http" => rest.is_empty() || routes.into_iter().any(|route| route == rest),
            "kubernetes" => rest.is_empty() || kubernetes::is_place(rest),
            "mcp" => rest.is_empty() || mcp::is_place(rest),
            _ => false,
        }
    }

    fn http_settings(&self, registration: Option<&Registration>) -> Result<Option<Arc<http::Settings>>, Vec<String>> {
        let given = self.http.clone();
        let settings = match registration.map(|known| known.name) {
            Some("http") => given.unwrap_or_default().settings(self.names()),
            Some("kubernetes") => kubernetes::settings(&given.unwrap_or_default(), self.names()),
            Some("mcp") => mcp::settings(&given.unwrap_or_default(), self.names()),
            _ if given.is_some() => {
                let why = "[target.http] is for targets with protocol = \"http\", \"kubernetes\" or \"mcp\"";
                return Err(vec![why.to_owned()]);
            }
            _ => return Ok(None),
        };
        settings.map(|settings| Some(Arc::new(settings)))
    }
}

impl Host {
    fn parse(text: &str, default_port: u16) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Self { name: address.ip().to_string(), port: address.port() });
        }
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Some(Self { name: address.to_string(), port: default_port });
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok()?),
            None => (text, default_port),
        };
        let valid = !name.is_empty()
            && name.len() <= 253
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        (valid && port != 0).then(|| Self { name: name.to_ascii_lowercase(), port })
    }
}

/// Destination address to target.
#[derive(Debug, Default)]
pub struct Routes {
    by_address: BTreeMap<SocketAddr, Route>,
}

/// What stands behind an address.
#[derive(Clone, Debug)]
pub enum Route {
    /// One target, and what the protocol sees of it under the host name that led here.
    To(Arc<BoundTarget>, Arc<Target>),
    /// Several targets resolve to that address: nobody can say which is meant.
    Ambiguous(Vec<String>),
}

impl Routes {
    /// Looks every host up. Names that do not resolve keep the addresses they had in `before`.
    pub async fn resolve(targets: &[Arc<BoundTarget>], before: &Self) -> Self {
        let mut routes = Self::default();
        for target in targets {
            for (host, view) in &target.hosts {
                let mut found: BTreeSet<SocketAddr> = BTreeSet::new();
                match tokio::net::lookup_host((host.name.as_str(), host.port)).await {
                    Ok(addresses) => found.extend(addresses.take(ADDRESS_LIMIT)),
                    Err(error) => {
                        tracing::warn!(target = %target.name, host = %host.name, %error, "host does not resolve");
                        found.extend(before.addresses_of(view));
                    }
                }
                for address in found {
                    routes.add(address, target, view);
                }
            }
        }
        routes
    }

    /// What stands behind an address.
    #[must_use]
    pub fn find(&self, destination: SocketAddr) -> Option<&Route> {
        let canonical = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        self.by_address.get(&canonical)
    }

    fn add(&mut self, address: SocketAddr, target: &Arc<BoundTarget>, view: &Arc<Target>) {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let name = target.name.to_string();
        match self.by_address.get_mut(&address) {
            None => {
                self.by_address.insert(address, Route::To(Arc::clone(target), Arc::clone(view)));
            }
            Some(Route::To(other, _)) if other.name == target.name => {}
            Some(Route::Ambiguous(names)) => names.push(name),
            Some(route @ Route::To(..)) => {
                let Route::To(other, _) = &*route else { return };
                *route = Route::Ambiguous(vec![other.name.to_string(), name]);
            }
        }
    }

    fn addresses_of(&self, view: &Target) -> Vec<SocketAddr> {
        let same =
            |route: &Route| matches!(route, Route::To(_, known) if known.name == view.name && known.host == view.host);
        self.by_address.iter().filter(|(_, route)| same(route)).map(|(address, _)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_into_json_are_of_a_target_or_a_route_that_there_is() {
        let text = "name = 'api'\nprotocol = 'http'\nhosts = ['a']\ncredential = { user = 'x' }\n[http]\nroutes = ['/v1/{id}']";
        let target: TargetConfig = toml::from_str(text).unwrap();
        assert!(target.answers_json_at("api") && target.answers_json_at("api/v1/{id}"));
        for wrong in ["ap", "apis", "api/v1", "api/v1/{name}", "/v1/{id}", ""] {
            assert!(!target.answers_json_at(wrong), "{wrong}");
        }
        let other: TargetConfig =
            toml::from_str("name = 'api'\nprotocol = 'postgres'\nhosts = ['a']\ncredential = { user = 'x' }").unwrap();
        assert!(!other.answers_json_at("api"));
    }

    #[test]
    fn hosts_are_names_or_addresses_with_or_without_port() {
        let parsed = |text| Host::parse(text, 5432).map(|host| format!("{} {}", host.name, host.port));
        assert_eq!(parsed("Orders-DB.internal:5433").unwrap(), "orders-db.internal 5433");
        assert_eq!(parsed("orders-db").unwrap(), "orders-db 5432");
        assert_eq!(parsed("10.0.0.1").unwrap(), "10.0.0.1 5432");
        assert_eq!(parsed("[::1]:7").unwrap(), "::1 7");
        assert_eq!(parsed("::1").unwrap(), "::1 5432");
        for bad in ["", ":5432", "a b", "host:0", "host:99999", "host:port"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
