//! What an agent is started with, worked out from the configuration: no system call but looking up the user.

use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Uid, User};

use crate::capture;
use crate::identity::AgentConfig;
use crate::identity::config::{Glob, Source};
use crate::identity::facts::unit_of;

/// What is asked for on the command line.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// User that the agent runs as, where its `match` does not say.
    pub user: Option<String>,
    /// Paths below `/run` and `/tmp` that it shall see.
    pub keep: Vec<PathBuf>,
    /// Variables that its programs are given.
    pub environment: Vec<(&'static str, PathBuf)>,
}

/// What an agent is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The `[[agent]]`.
    pub agent: String,
    /// cgroup of its own, below the cgroup2 mount.
    pub cgroup: String,
    /// User id; never 0.
    pub uid: Uid,
    /// The only group id.
    pub gid: Gid,
    /// Name of the user, where it has one.
    pub user: Option<String>,
    /// Home of the user.
    pub home: PathBuf,
    /// What it sees of `/run` and `/tmp`.
    pub keep: Vec<PathBuf>,
    /// Variables that it is given.
    pub environment: Vec<(&'static str, PathBuf)>,
}

impl Spec {
    /// What this agent is to be started with. `instance` tells it from others of the same agent.
    ///
    /// # Errors
    /// What is missing or contradicts itself, and what to do.
    pub fn new(
        agent: &AgentConfig,
        capture: &capture::Config,
        request: &Request,
        instance: u32,
    ) -> Result<Self, String> {
        let user = user(agent, request)?;
        let gid = group(agent, &user)?;
        let cgroup = cgroup(agent, capture, instance)?;
        let mut keep = request.keep.clone();
        keep.extend(token_folder(agent, user.uid, unit_of(&cgroup).as_deref()));
        let detour = |path: &Path| path.components().any(|part| part == Component::ParentDir);
        if let Some(odd) = keep.iter().find(|path| !path.is_absolute() || detour(path)) {
            return Err(format!("--keep {}: an absolute path without `..` is needed", odd.display()));
        }
        if let Some(device) =
            keep.iter().find(|path| is_device(path) && !capture.devices.iter().any(|at| path.starts_with(at)))
        {
            return Err(format!("--keep {}: name it in `[capture] devices` as well", device.display()));
        }
        Ok(Self {
            agent: agent.name.clone(),
            cgroup,
            uid: user.uid,
            gid,
            user: (!user.name.is_empty()).then_some(user.name),
            home: user.dir,
            keep,
            environment: request.environment.clone(),
        })
    }
}

/// Whether it lies among devices: what is below `/dev`, but for memory and queues that are shared.
fn is_device(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm") && !path.starts_with("/dev/mqueue")
}

fn user(agent: &AgentConfig, request: &Request) -> Result<User, String> {
    let wanted = &agent.matches.uid;
    let found = match (&request.user, wanted.as_slice()) {
        (Some(name), _) => by_name(name)?,
        (None, [uid]) => by_id(*uid)?,
        (None, []) => return Err(format!("agent {}: its `match` names no uid; say --user USER", agent.name)),
        (None, _) => return Err(format!("agent {}: its `match` names several uids; say --user USER", agent.name)),
    };
    if found.uid.is_root() {
        return Err("an agent does not run as root: nothing would hold it".to_owned());
    }
    if !wanted.is_empty() && !wanted.contains(&found.uid.as_raw()) {
        return Err(format!("agent {}: its `match` does not allow uid {}", agent.name, found.uid));
    }
    Ok(found)
}

fn by_name(name: &str) -> Result<User, String> {
    if let Ok(uid) = name.parse() {
        return by_id(uid);
    }
    let found = User::from_name(name).map_err(|error| format!("user {name}: {error}"))?;
    found.ok_or_else(|| format!("there is no user {name}"))
}

/// A user id need not have a name.
fn by_id(uid: u32) -> Result<User, String> {
    let found = User::from_uid(Uid::from_raw(uid)).map_err(|error| format!("user {uid}: {error}"))?;
    Ok(found.unwrap_or_else(|| User {
        name: String::new(),
        passwd: c"".to_owned(),
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(uid),
        gecos: c"".to_owned(),
        dir: PathBuf::from("/"),
        shell: PathBuf::new(),
    }))
}

fn group(agent: &AgentConfig, user: &User) -> Result<Gid, String> {
    let gid = match agent.matches.gid.as_slice() {
        [] => user.gid,
        allowed if allowed.contains(&user.gid.as_raw()) => user.gid,
        [first, ..] => Gid::from_raw(*first),
    };
    if gid.as_raw() == 0 {
        return Err(format!("agent {}: it does not run with root's group", agent.name));
    }
    Ok(gid)
}

/// Where the token lies, where it is a file: the folder, so that a token that is replaced by rename is followed.
pub(super) fn token_folder(agent: &AgentConfig, uid: Uid, unit: Option<&str>) -> Option<PathBuf> {
    let Source::File(path) = &agent.token.from else { return None };
    let path = path.replace("{agent}", &agent.name).replace("{uid}", &uid.to_string());
    let path = path.replace("{unit}", unit.unwrap_or_default());
    let path = Path::new(&path);
    Some(path.parent().unwrap_or(path).to_owned())
}

/// A cgroup that the agent's `match` accepts, below a governed one.
fn cgroup(agent: &AgentConfig, capture: &capture::Config, instance: u32) -> Result<String, String> {
    let name: String =
        agent.name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    let own = format!("{name}-{instance}");
    let matches = &agent.matches;
    let mut paths: Vec<String> = matches.cgroup.iter().map(|glob| filled(glob, &own, instance)).collect();
    if matches.cgroup.is_empty() {
        let units = matches.unit.iter().map(|glob| filled(glob, &own, instance));
        let leaves: Vec<String> = if matches.unit.is_empty() { vec![format!("{own}.scope")] } else { units.collect() };
        for cgroup in &capture.cgroups {
            paths.extend(leaves.iter().map(|leaf| format!("{cgroup}/{leaf}")));
        }
    }
    let fits = |path: &&String| {
        capture::is_plain(path)
            && !path.contains(['*', '?', '{'])
            && (matches.cgroup.is_empty() || matches.cgroup.iter().any(|glob| glob.is_match(path)))
            && capture.cgroups.iter().any(|governed| {
                path.strip_prefix(governed.as_str()).is_some_and(|rest| rest.starts_with('/') && rest.len() > 1)
            })
    };
    paths.iter().find(fits).cloned().ok_or_else(|| {
        let governed = capture.cgroups.join(", ");
        format!("agent {}: no cgroup that its `match` accepts lies below a governed one ({governed})", agent.name)
    })
}

/// The glob with its stars filled in.
fn filled(glob: &Glob, own: &str, instance: u32) -> String {
    glob.as_str().replace("**", own).replace('*', &instance.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(matches: &str) -> AgentConfig {
        let text = format!(
            "name = 'bot/1'\nmatch = {{ {matches} }}\n\
             token = {{ issuer = 'i', from = 'file:/run/{{agent}}/token', subject = 's' }}"
        );
        toml::from_str(&text).unwrap()
    }

    fn spec(matches: &str, user: Option<&str>) -> Result<Spec, String> {
        let capture =
            capture::Config { cgroups: vec!["/agents.slice".into(), "/bots".into()], ..capture::Config::default() };
        let request = Request { user: user.map(str::to_owned), ..Request::default() };
        Spec::new(&agent(matches), &capture, &request, 42)
    }

    #[test]
    fn the_cgroup_is_one_that_the_match_accepts() {
        for (matches, cgroup) in [
            ("uid = 7", "/agents.slice/bot_1-42.scope"),
            ("uid = 7, cgroup = '/agents.slice/billing-*.service'", "/agents.slice/billing-42.service"),
            ("uid = 7, cgroup = '/bots/**'", "/bots/bot_1-42"),
            ("uid = 7, cgroup = ['/elsewhere/x', '/bots/x']", "/bots/x"),
            ("uid = 7, unit = 'billing-*.service'", "/agents.slice/billing-42.service"),
        ] {
            assert_eq!(spec(matches, None).unwrap().cgroup, cgroup, "{matches}");
        }
        for matches in ["'/elsewhere/x'", "'/agents.slice'", "'/agents.slicex/a'", "'/bots/{a,b}'", "'/bots/?'"] {
            let refused = spec(&format!("uid = 7, cgroup = {matches}"), None).unwrap_err();
            assert!(refused.contains("no cgroup"), "{refused}");
        }
    }

    #[test]
    fn nobody_is_started_as_root_or_as_somebody_else() {
        let nameless = spec("uid = 61999", None).unwrap();
        assert_eq!((nameless.uid.as_raw(), nameless.gid.as_raw(), nameless.user), (61999, 61999, None));
        assert_eq!(spec("uid = 61999, gid = 5", None).unwrap().gid.as_raw(), 5);
        assert_eq!(spec("cgroup = '/bots/x'", Some("61998")).unwrap().uid.as_raw(), 61998);
        for (matches, user, why) in [
            ("cgroup = '/bots/x'", None, "say --user"),
            ("uid = [7, 8]", None, "several uids"),
            ("uid = 7", Some("8"), "does not allow uid 8"),
            ("uid = 0", None, "root"),
            ("cgroup = '/bots/x'", Some("root"), "root"),
            ("uid = 61999, gid = 0", None, "root's group"),
            ("cgroup = '/bots/x'", Some("no such user"), "there is no user"),
        ] {
            let refused = spec(matches, user).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn the_token_stays_in_sight() {
        assert_eq!(spec("uid = 7", None).unwrap().keep, [PathBuf::from("/run/bot/1")]);
        let mut agent = agent("uid = 7");
        agent.token.from = "file:/run/{unit}/{uid}/token".parse().unwrap();
        let folder = token_folder(&agent, Uid::from_raw(7), Some("a.service"));
        assert_eq!(folder, Some(PathBuf::from("/run/a.service/7")));
        let request = Request { keep: vec!["/run/a/../b".into()], ..Request::default() };
        let detour = Spec::new(&agent, &capture::Config::default(), &request, 42).unwrap_err();
        assert!(detour.contains("without `..`"), "{detour}");
    }
}
