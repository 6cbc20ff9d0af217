//! `interceptor ca`: the host's certificate authority, which agents trust.

mod install;

use std::process::ExitCode;

use nix::unistd::User;
use serde::Serialize;

use super::{Context, Printer, REFUSED, output};
use crate::capture::{Finding, Verdict};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::tls;
use crate::tls::authority::{Certificate, LENGTH_LIMIT, Name, RENEW_BEFORE, Role, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make it, constrained to the names and addresses of the configured targets; refuses where there is one
    Init(Owner),
    /// Show its certificates: what they may attest to, and until when
    Show,
    /// Replace it in three steps, so that agents trust the next before it signs: as it is, --switch, --finish
    Rotate(Rotation),
    /// Have this host's programs trust it: the system's store, and the bundle that launched and enrolled agents are pointed
    /// to; shows the change first, and can be undone
    Install(install::Arguments),
}

#[derive(Debug, clap::Args)]
struct Owner {
    /// User that the daemon runs as, who alone can read the key; root where there is no such user
    #[arg(long, value_name = "USER", default_value = "interceptor")]
    user: String,
}

#[derive(Debug, clap::Args)]
struct Rotation {
    /// Have the next one sign, from the next reload on
    #[arg(long, conflicts_with = "finish")]
    switch: bool,
    /// Have nobody trust the former one any more
    #[arg(long)]
    finish: bool,
    #[command(flatten)]
    owner: Owner,
}

/// The authority, as it is printed.
#[derive(Serialize)]
struct Shown {
    dir: std::path::PathBuf,
    certificates: Vec<Certificate>,
    /// What to do next.
    next: Vec<String>,
}

pub(super) fn run(context: &Context, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    let config = context.configuration()?;
    let store = Store::new(&config.ca.clone().unwrap_or_default());
    let now = SystemClock::new().now();
    let next = match &arguments.what {
        What::Init(owner) => {
            let made = store.init(&host(), &names(&config), user(owner)?.as_ref(), now);
            made.and_then(|()| store.refresh_bundle()).map_err(|error| error.to_string())?;
            let section = format!("[ca]\ndir = \"{}\"", directory(&config).display());
            let section = config.ca.is_none().then(|| format!("add to {}: {section}", context.config.display()));
            section.into_iter().chain([RELOAD.to_owned(), INSTALL.to_owned()]).collect()
        }
        What::Rotate(rotation) => rotate(&store, &config, rotation)?,
        What::Show => to_be_replaced(&store),
        What::Install(arguments) => return install::run(&store, arguments, out),
    };
    let certificates = store.certificates().map_err(|error| error.to_string())?;
    let ended = certificates.iter().any(|one| one.role == Role::Signing && now >= one.not_after);
    out.show(&Shown { dir: directory(&config), certificates, next }, |shown| Ok(table(shown)))?;
    Ok(if ended { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

const RELOAD: &str = "interceptor reload";
const INSTALL: &str = "interceptor ca install";
const ROTATE: &str = "interceptor ca rotate";
/// Of an authority that an earlier version has made.
const BY_ITSELF: &str = "it signs by itself: Java does not look at its constraints";

fn rotate(store: &Store, config: &Config, rotation: &Rotation) -> Result<Vec<String>, String> {
    let now = SystemClock::new().now();
    let done = match rotation {
        Rotation { switch: true, .. } => store.switch(),
        Rotation { finish: true, .. } => store.finish(),
        Rotation { owner, .. } => store.begin(&host(), &names(config), user(owner)?.as_ref(), now),
    };
    done.and_then(|()| store.refresh_bundle()).map_err(|error| error.to_string())?;
    let steps: &[&str] = match rotation {
        Rotation { switch: true, .. } => &[RELOAD, "once no agent has begun before: interceptor ca rotate --finish"],
        Rotation { finish: true, .. } => &[INSTALL],
        Rotation { .. } => {
            &[INSTALL, "start agents anew that read it when they begin", "interceptor ca rotate --switch"]
        }
    };
    Ok(steps.iter().map(ToString::to_string).collect())
}

/// What to do where the one that signs should be another, and none is under way.
fn to_be_replaced(store: &Store) -> Vec<String> {
    let known = store.certificates().unwrap_or_default();
    let is_old = known.iter().any(|one| one.role == Role::Signing && one.signs_by_itself);
    let is_followed = known.iter().any(|one| one.role == Role::Next);
    let next = (is_old && !is_followed).then(|| format!("{ROTATE} ({BY_ITSELF})"));
    next.into_iter().collect()
}

fn table(shown: &Shown) -> String {
    let rows = shown.certificates.iter().map(|one| {
        let role = match one.role {
            Role::Signing if one.signs_by_itself => "signs by itself",
            Role::Signing => "signs",
            Role::Next => "next",
            Role::Former => "former",
        };
        let attests = one.names.iter().chain(&one.addresses).cloned().collect::<Vec<_>>().join("\n");
        [role.to_owned(), one.subject.clone(), one.not_after.to_string(), attests, one.sha256.clone()]
    });
    let mut text = output::table(["", "subject", "until", "attests to", "SHA-256"], rows);
    for step in &shown.next {
        text.push_str(&format!("\nnext: {step}"));
    }
    text
}

fn directory(config: &Config) -> std::path::PathBuf {
    config.ca.clone().unwrap_or_default().dir
}

/// The names of all targets at which agents may have TLS, with a certificate of ours.
fn names(config: &Config) -> Vec<Name> {
    let targets = config.targets.iter().map(|target| &target.value);
    let ours = targets.filter(|target| target.tls.agent == tls::Agent::Offer && target.tls.agent_cert.is_none());
    let mut names: Vec<Name> = ours.flat_map(|target| target.names()).collect();
    names.sort();
    names.dedup();
    names
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default()
}

/// Who is to read the key; nobody but who runs this where it is not root.
fn user(owner: &Owner) -> Result<Option<User>, String> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    User::from_name(&owner.user).map_err(|error| format!("user {}: {error}", owner.user))
}

/// What `doctor` says of it; nothing where the configuration has none.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let Some(ca) = &config.ca else { return Vec::new() };
    let store = Store::new(ca);
    let found = |verdict, detail: String, cost: &str, remedy: &str| {
        let (name, cost, remedy) = ("host CA".to_owned(), cost.to_owned(), remedy.to_owned());
        vec![Finding { name, verdict, detail, cost, remedy }]
    };
    let authority = match store.load(std::sync::Arc::new(SystemClock::new())) {
        Ok(authority) => authority,
        Err(error) => {
            return found(Verdict::Missing, error.to_string(), "the daemon does not start", "interceptor ca init");
        }
    };
    let (certificate, now) = (authority.certificate(), SystemClock::new().now());
    let until = format!("{} until {}", certificate.subject, certificate.not_after);
    let outside: Vec<String> =
        names(config).iter().filter(|name| !certificate.permits(name)).map(ToString::to_string).collect();
    if now >= certificate.not_after {
        found(Verdict::Missing, until, "agents have no TLS", ROTATE)
    } else if !outside.is_empty() {
        let detail = format!("it may not attest to {}", outside.join(", "));
        found(Verdict::Missing, detail, "the daemon does not start", ROTATE)
    } else if certificate.not_after.since(now) < RENEW_BEFORE {
        found(Verdict::Weak, until, "then agents have no TLS", ROTATE)
    } else if certificate.signs_by_itself {
        let cost = "whoever steals its key can pretend to be any host to agents in Java";
        found(Verdict::Weak, format!("{until}; {BY_ITSELF}"), cost, ROTATE)
    } else if certificate.der().len() > LENGTH_LIMIT {
        let detail = format!("{until}; it has {} bytes, for the names of all targets", certificate.der().len());
        found(Verdict::Weak, detail, "handshakes are longer than some clients (Java) take", ROTATE)
    } else if !install::is_installed(&store) {
        let detail = format!("{until}, not in the system's store");
        found(Verdict::Weak, detail, "agents that were neither launched nor enrolled do not trust it", INSTALL)
    } else {
        found(Verdict::Ok, until, "", "")
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, GeneralSubtree, IsCa, KeyPair, NameConstraints};

    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn an_authority_of_an_earlier_version_is_spoken_of_until_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let ca = tls::authority::Config { dir: dir.path().join("ca") };
        let config = Config { ca: Some(ca.clone()), ..Config::default() };
        let (store, now) = (Store::new(&ca), Timestamp::from_unix(1_800_000_000));
        let names = [Name::parse("db.internal").unwrap()];
        store.init("host-1", &names, None, now).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let permitted_subtrees = vec![GeneralSubtree::DnsName("db.internal".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
        std::fs::write(store.certificates_path(), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(ca.dir.join("ca.key"), key.serialize_pem()).unwrap();

        let found = findings(&config).remove(0);
        assert!(found.verdict == Verdict::Weak && found.detail.contains(BY_ITSELF), "{found:?}");
        assert_eq!(found.remedy, ROTATE);
        let shown = || {
            let (certificates, next) = (store.certificates().unwrap(), to_be_replaced(&store));
            table(&Shown { dir: ca.dir.clone(), certificates, next })
        };
        assert!(shown().contains("signs by itself") && shown().contains("next: interceptor ca rotate"), "{}", shown());
        store.begin("host-1", &names, None, now).unwrap();
        assert!(shown().contains("signs by itself") && !shown().contains("next: "), "{}", shown());
        store.switch().unwrap();
        store.finish().unwrap();
        assert!(!shown().contains("by itself") && !findings(&config).remove(0).detail.contains(BY_ITSELF));
    }
}
