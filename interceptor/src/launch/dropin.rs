//! The same hold for a unit of systemd, as a drop-in: text, and how it differs from what is there. No system call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use super::seccomp::{DENIED, UNKNOWN};
use super::spec::token_folder;
use crate::capture;
use crate::identity::AgentConfig;
use crate::identity::config::Glob;
use crate::identity::level::DROP_IN;

/// What systemd says of a unit: `systemctl show`.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// Its name, as `billing.service`.
    pub name: String,
    properties: BTreeMap<String, String>,
}

impl Unit {
    /// Properties that [`Unit::read`] needs.
    pub const PROPERTIES: &str = "LoadState,User,DynamicUser,TriggeredBy,Delegate,AmbientCapabilities,RuntimeDirectory,\
        ExecCondition,Environment,IPAddressDeny,DropInPaths,FileDescriptorStoreMax,OpenFile,PermissionsStartOnly,\
        JoinsNamespaceOf,BindPaths,BindReadOnlyPaths,Id,NeedDaemonReload,PAMName,StandardInput,StandardOutput,StandardError,\
        ExecConditionEx,ExecStartPreEx,ExecStartEx,ExecStartPostEx,ExecReloadEx,ExecStopEx,ExecStopPostEx";

    /// Reads what `systemctl show` printed.
    #[must_use]
    pub fn read(name: &str, shown: &str) -> Self {
        let mut properties: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in shown.lines().filter_map(|line| line.split_once('=')) {
            // Of commands each has a line of its own.
            let known = properties.entry(key.to_owned()).or_default();
            if !known.is_empty() {
                known.push(' ');
            }
            known.push_str(value);
        }
        Self { name: name.to_owned(), properties }
    }

    fn get(&self, property: &str) -> &str {
        self.properties.get(property).map_or("", String::as_str)
    }

    /// Whether systemd has another text of it than the disk.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.get("NeedDaemonReload") == "yes"
    }

    /// Why the unit cannot be held, each with what to do; none where it can. `kept` is what it may see below `/run` and `/tmp`, `real`
    /// tells where a path leads.
    #[must_use]
    pub fn faults(&self, kept: &[PathBuf], real: &dyn Fn(&Path) -> PathBuf) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |wrong: bool, text: &str| {
            if wrong {
                faults.push(format!("{}: {text}", self.name));
            }
        };
        fault(!self.name.ends_with(".service"), "only services can be enrolled");
        fault(self.get("LoadState") != "loaded", "systemd knows no such unit");
        let user = self.get("User");
        let root = matches!(user, "root" | "0") || (user.is_empty() && self.get("DynamicUser") != "yes");
        fault(root, "it runs as root, and nothing holds root: give it a user of its own (User=)");
        let sockets = words(self.get("TriggeredBy")).any(|unit| unit.ends_with(".socket"));
        fault(sockets, "systemd hands it sockets that were made outside of its cgroup: have it open its own");
        fault(self.get("Delegate") == "yes", "it may move its processes between cgroups (Delegate=)");
        fault(
            !self.get("AmbientCapabilities").trim().is_empty(),
            "it is given capabilities (AmbientCapabilities=): it would start without them, so remove them first",
        );
        fault(
            self.conditions().any(|condition| !condition.contains(GOVERNED)),
            "it runs something before it is known to be governed (ExecCondition=): use ExecStartPre=",
        );
        fault(!self.get("PAMName").trim().is_empty(), "a session of its own takes it out of its cgroup (PAMName=)");
        let opened = ["StandardInput", "StandardOutput", "StandardError"].into_iter();
        for stream in opened.filter(|stream| OPENED.iter().any(|kind| self.get(stream).starts_with(kind))) {
            fault(true, &format!("systemd opens what it is given there, which may be a socket ({stream}=)"));
        }
        for variable in words(self.get("Environment")) {
            let name = variable.split('=').next().unwrap_or_default();
            let text = format!("what root runs before it starts would obey {name}: set it in a script that it runs");
            fault(LOADS.contains(&name), &text);
        }
        let stores = !matches!(self.get("FileDescriptorStoreMax"), "" | "0");
        fault(
            stores,
            "systemd keeps descriptors for it, and connections from before with them (FileDescriptorStoreMax=)",
        );
        fault(!self.get("OpenFile").trim().is_empty(), "systemd opens files for it, which may be sockets (OpenFile=)");
        fault(self.get("PermissionsStartOnly") == "yes", "some of its commands run as root (PermissionsStartOnly=)");
        let joins = !self.get("JoinsNamespaceOf").trim().is_empty();
        fault(joins, "it shares its /tmp with other units (JoinsNamespaceOf=)");
        for command in COMMANDS.iter().filter(|command| self.runs_as_root(command)) {
            fault(true, &format!("it runs commands as root (+ or ! in {}=)", command.trim_end_matches("Ex")));
        }
        let is_strange = |path: &PathBuf| self.is_strange(path, kept) || self.is_strange(&real(path), kept);
        for path in self.binds().filter(is_strange) {
            fault(
                true,
                &format!("it is shown {0} (BindPaths=): where it may see that, say --keep {0}", path.display()),
            );
        }
        faults
    }

    /// Its name, whatever alias it was asked for by.
    #[must_use]
    pub fn id(&self) -> &str {
        Some(self.get("Id")).filter(|id| !id.is_empty()).unwrap_or(&self.name)
    }

    /// What it runs to ask whether it is to start, each as systemd shows it.
    fn conditions(&self) -> impl Iterator<Item = &str> {
        let shown = if self.get("ExecConditionEx").is_empty() { "ExecCondition" } else { "ExecConditionEx" };
        self.get(shown).split("path=").skip(1)
    }

    fn runs_as_root(&self, command: &str) -> bool {
        let flags = self.get(command).split("flags=").skip(1).filter_map(|rest| rest.split([';', '}']).next());
        flags.flat_map(str::split_whitespace).any(|flag| matches!(flag, "privileged" | "no-setuid" | "ambient"))
    }

    /// What is bound into its sight, by where it is outside.
    fn binds(&self) -> impl Iterator<Item = PathBuf> {
        bound(self.get("BindPaths")).chain(bound(self.get("BindReadOnlyPaths")))
    }

    /// Whether sockets of others may be there, that nobody has said it may see.
    fn is_strange(&self, path: &Path, kept: &[PathBuf]) -> bool {
        let own = self.runtime_directories().any(|own| path.starts_with(own));
        let holds_sockets =
            ["/run", "/var/run", "/tmp", "/var/tmp", "/dev"].iter().any(|place| path.starts_with(place));
        let hides_nothing = matches!(path.to_str(), Some("/" | "/var")) || path.to_string_lossy().contains('\\');
        !own && (holds_sockets || hides_nothing) && !kept.iter().any(|kept| path.starts_with(kept))
    }

    fn runtime_directories(&self) -> impl Iterator<Item = PathBuf> {
        words(self.get("RuntimeDirectory")).map(|name| Path::new("/run").join(name))
    }

    /// The last drop-in that systemd has read of it, which has the last word.
    #[must_use]
    pub fn last_drop_in(&self) -> Option<PathBuf> {
        words(self.get("DropInPaths")).last().map(PathBuf::from)
    }
}

/// Words of a list, as systemd shows it: in quotes, with backslashes, where they hold more than plain characters.
fn words(list: &str) -> impl Iterator<Item = String> {
    let mut rest = list.chars();
    std::iter::from_fn(move || {
        let (mut word, mut is_quoted, mut begun) = (String::new(), false, false);
        loop {
            match rest.next() {
                Some('"') => (is_quoted, begun) = (!is_quoted, true),
                Some('\\') => word.extend(rest.next()),
                Some(space) if space.is_whitespace() && !is_quoted => {
                    if begun {
                        return Some(word);
                    }
                }
                Some(other) => {
                    begun = true;
                    word.push(other);
                }
                None => return begun.then_some(word),
            }
        }
    })
}

/// Variables that have a program load, or write, what others say, before it has begun.
const LOADS: [&str; 12] = [
    "LD_PRELOAD",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_ORIGIN_PATH",
    "LD_DEBUG",
    "LD_DEBUG_OUTPUT",
    "LD_PROFILE",
    "LD_PROFILE_OUTPUT",
    "LD_DYNAMIC_WEAK",
    "GLIBC_TUNABLES",
    "GCONV_PATH",
    "MALLOC_TRACE",
];

/// Ways to give a unit's streams something that systemd opens.
const OPENED: [&str; 5] = ["file", "append", "truncate", "fd", "socket"];

/// Commands of a unit, as systemd shows them with their prefixes.
const COMMANDS: [&str; 6] =
    ["ExecStartPreEx", "ExecStartEx", "ExecStartPostEx", "ExecReloadEx", "ExecStopEx", "ExecStopPostEx"];

/// The sources of `BindPaths=`, as written, or as systemd shows them.
fn bound(list: &str) -> impl Iterator<Item = PathBuf> {
    words(list).map(|word| word.trim_start_matches('-').split(':').next().map(PathBuf::from).unwrap_or_default())
}

/// What a drop-in of ours shows to its unit.
#[must_use]
pub fn shown(text: &str) -> Vec<PathBuf> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(key, _)| matches!(*key, "BindPaths" | "BindReadOnlyPaths"))
        .flat_map(|(_, list)| bound(list))
        .collect()
}

/// Where the drop-in of a unit lies.
#[must_use]
pub fn path(unit: &str) -> PathBuf {
    PathBuf::from("/etc/systemd/system").join(format!("{unit}.d")).join(DROP_IN)
}

/// Where the tokens lie of the agents that the unit is, or may be: they have to stay in sight.
#[must_use]
pub fn tokens<'a>(
    unit: &Unit,
    agents: impl Iterator<Item = &'a AgentConfig>,
    capture: &capture::Config,
) -> Vec<PathBuf> {
    let slice = slice_path(capture).unwrap_or_default();
    let cgroup = format!("{slice}/{}", unit.name);
    let uid = User::from_name(unit.get("User")).ok().flatten().map_or(Uid::from_raw(u32::MAX), |user| user.uid);
    let is = |agent: &&AgentConfig| {
        let matches = &agent.matches;
        let named = |globs: &[Glob], text: &str| globs.iter().any(|glob| glob.is_match(text));
        named(&matches.unit, &unit.name) || named(&matches.cgroup, &cgroup)
    };
    agents.filter(is).filter_map(|agent| token_folder(agent, uid, Some(&unit.name))).collect()
}

/// What a unit asks before it starts.
const GOVERNED: &str = "governs --unit";

/// For a unit that is kept from addresses.
const LOOPBACK: &str = "\
# The unit denies itself addresses (IPAddressDeny=). interceptor is at the loopback, and decides about what lies behind it.
IPAddressAllow=localhost
";

/// What a unit sees beside its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight<'a> {
    /// Paths below `/run` and `/tmp`.
    pub keep: &'a [PathBuf],
    /// Variables, where it sets none of that name itself.
    pub environment: &'a [(&'static str, PathBuf)],
}

/// The text of the drop-in. `program` is this one, with the options by which it finds its configuration.
///
/// # Errors
/// When no slice is governed that a unit could be put into.
pub fn text(unit: &Unit, capture: &capture::Config, program: &str, sight: Sight<'_>) -> Result<String, String> {
    let slice = slice(capture)?;
    let unknown: Vec<String> = UNKNOWN.iter().map(|(call, _)| format!("{}:ENOSYS", bare(call))).collect();
    let denied: Vec<&str> = DENIED.iter().map(|(call, _)| bare(call)).collect();
    let mut binds = String::new();
    for path in unit.runtime_directories().chain(sight.keep.iter().cloned()) {
        binds.push_str(&format!("BindPaths=-{}\n", path.display()));
    }
    // systemd's program for that drops what goes to the daemon as well.
    let loopback = if unit.get("IPAddressDeny").trim().is_empty() { "" } else { LOOPBACK };
    let set = unit.get("Environment");
    let is_set = |name: &str| set.split_whitespace().any(|word| word.trim_matches('"').split('=').next() == Some(name));
    for (name, path) in sight.environment.iter().filter(|(name, _)| !is_set(name)) {
        binds.push_str(&format!("Environment=\"{name}={}\"\n", path.display()));
    }
    Ok(format!(
        "\
# Written by `interceptor enroll {name}`; `interceptor enroll --undo {name}` removes it.
[Unit]
# When the host starts, and whenever the slice is made anew.
Wants=interceptor.service
# Looks whether this text still holds, whatever else the unit has been given since: where it does not, the unit does not start.
Requires=interceptor-enrolled@{name}.service
After=interceptor.service interceptor-enrolled@{name}.service
[Service]
# Governed: every connection goes to interceptor. Where it is not, the unit does not start.
Slice={slice}
ExecCondition=+{program} {GOVERNED}
# Root's, as the unit's other commands are run: what the unit's files of variables say, it may not load.
UnsetEnvironment={loads}
{loopback}# No privilege, and no way to one.
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LimitCORE=1
KeyringMode=private
PAMName=
# No sockets and no system calls that the kernel programs do not see. What the unit says of families by itself does not count.
RestrictAddressFamilies=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
SystemCallArchitectures=
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=~{denied}
SystemCallFilter=~{unknown}
# No socket of a local daemon in sight, but for those that logs and states are reported to.
PrivateTmp=yes
PrivateIPC=yes
PrivateDevices=yes
TemporaryFileSystem=/run:mode=755,size=16M /dev/shm:mode=1777
BindPaths=-/run/systemd/notify -/run/systemd/journal/socket -/run/systemd/journal/dev-log
# Root's alone: for the condition above.
BindPaths=-/run/interceptor-enrolled
BindReadOnlyPaths=-/run/systemd/resolve/stub-resolv.conf -/run/systemd/resolve/resolv.conf -/run/resolvconf/resolv.conf
{binds}",
        name = unit.name,
        loads = LOADS.join(" "),
        denied = denied.join(" "),
        unknown = unknown.join(" "),
    ))
}

fn bare(constant: &'static str) -> &'static str {
    constant.strip_prefix("SYS_").unwrap_or(constant)
}

/// A governed slice, as a path.
fn slice_path(capture: &capture::Config) -> Option<&str> {
    capture.cgroups.iter().map(String::as_str).find(|path| path.ends_with(".slice"))
}

/// The name of a governed slice: systemd derives a slice's cgroup from it.
fn slice(capture: &capture::Config) -> Result<&str, String> {
    let found = slice_path(capture).and_then(|path| path.rsplit('/').next());
    found.ok_or_else(|| "no slice is governed: name one in [capture], as cgroups = [\"/agents.slice\"]".to_owned())
}

/// The lines that go and come, for people to look at first.
#[must_use]
pub fn difference(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let mut shown = String::new();
    for line in old.iter().filter(|line| !new.contains(line)) {
        shown.push_str(&format!("- {line}\n"));
    }
    for line in new.iter().filter(|line| !old.contains(line)) {
        shown.push_str(&format!("+ {line}\n"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "LoadState=loaded\nUser=billing\nDynamicUser=no\nTriggeredBy=\nDelegate=no\n\
                        AmbientCapabilities=\nRuntimeDirectory=billing cache\n";

    fn config(cgroups: &[&str]) -> capture::Config {
        capture::Config { cgroups: cgroups.iter().map(ToString::to_string).collect(), ..capture::Config::default() }
    }

    #[test]
    fn what_cannot_be_held_is_named() {
        assert_eq!(Unit::read("billing.service", GOOD).faults(&[], &Path::to_path_buf), Vec::<String>::new());
        for (from, to, why) in [
            ("User=billing", "User=", "runs as root"),
            ("User=billing", "User=root", "runs as root"),
            ("LoadState=loaded", "LoadState=not-found", "no such unit"),
            ("TriggeredBy=", "TriggeredBy=billing.timer billing.socket", "hands it sockets"),
            ("Delegate=no", "Delegate=yes", "between cgroups"),
            ("AmbientCapabilities=", "AmbientCapabilities=cap_net_raw", "given capabilities"),
            ("RuntimeDirectory=", "ExecCondition={ path=/bin/x ; argv[]=/bin/x }\nRuntimeDirectory=", "ExecStartPre="),
            ("Delegate=no", "FileDescriptorStoreMax=16", "keeps descriptors"),
            ("Delegate=no", "PAMName=login", "out of its cgroup"),
            ("Delegate=no", "StandardOutput=file", "StandardOutput="),
            ("Delegate=no", "Environment=A=b \"LD_PRELOAD=/x y.so\"", "LD_PRELOAD"),
            ("TriggeredBy=", "TriggeredBy=\"a\\\\x2db.socket\"", "sockets that were made outside"),
            // A line for each, as systemd prints them.
            (
                "Delegate=no",
                "ExecStartPreEx={ path=/bin/x ; argv[]=/bin/x ; flags=privileged ; pid=0 }\n\
                 ExecStartPreEx={ path=/bin/true ; argv[]=/bin/true ; flags= ; pid=0 }",
                "as root",
            ),
            (
                "Delegate=no",
                "ExecConditionEx={ path=/bin/x ; argv[]=/bin/x ; flags=privileged ; pid=0 }\n\
                 ExecConditionEx={ path=/usr/bin/interceptor ; argv[]=/usr/bin/interceptor governs --unit ; flags=privileged ; pid=0 }",
                "ExecStartPre=",
            ),
            ("User=billing\nDynamicUser=no", "User=root\nDynamicUser=yes", "runs as root"),
            (
                "Delegate=no",
                "ExecConditionEx={ path=/bin/x ; argv[]=/bin/x ; flags=privileged ; pid=0 } \
                 { path=/usr/bin/interceptor ; argv[]=/usr/bin/interceptor governs --unit ; flags=privileged ; pid=0 }",
                "ExecStartPre=",
            ),
            ("Delegate=no", "OpenFile=/run/docker.sock:docker:", "opens files"),
            ("Delegate=no", "PermissionsStartOnly=yes", "run as root"),
            ("Delegate=no", "JoinsNamespaceOf=other.service", "shares its /tmp"),
            (
                "Delegate=no",
                "ExecStartPreEx={ path=/bin/x ; argv[]=/bin/x ; flags= ; start_time=[n/a] }\n\
                ExecReloadEx={ path=/bin/x ; argv[]=/bin/x ; flags=ignore-failure privileged ; pid=0 }",
                "in ExecReload=",
            ),
            ("Delegate=no", "BindPaths=/var/lib/x:/x:rbind /run/docker.sock:/d.sock:rbind", "--keep /run/docker.sock"),
            ("Delegate=no", "BindReadOnlyPaths=-/var/run:/r:norbind", "--keep /var/run"),
            ("Delegate=no", "BindPaths=/:/host:rbind", "--keep /"),
        ] {
            let faults = Unit::read("billing.service", &GOOD.replace(from, to)).faults(&[], &Path::to_path_buf);
            assert!(faults.len() == 1 && faults[0].contains(why), "{to}: {faults:?}");
        }
        let dynamic = GOOD.replace("User=billing", "User=").replace("DynamicUser=no", "DynamicUser=yes");
        assert_eq!(Unit::read("billing.service", &dynamic).faults(&[], &Path::to_path_buf), Vec::<String>::new());
        assert!(!Unit::read("billing.timer", GOOD).faults(&[], &Path::to_path_buf).is_empty());
    }

    #[test]
    fn what_it_may_see_is_no_fault_and_what_comes_after_ours_is_named() {
        let shown = "BindPaths=/run/billing/x:/x:rbind /run/docker.sock:/d.sock:rbind\n";
        let unit = Unit::read("billing.service", &format!("{GOOD}{shown}"));
        let text = "[Service]\nBindPaths=-/run/systemd/notify -/run/docker.sock\n";
        assert_eq!(unit.faults(&super::shown(text), &Path::to_path_buf), Vec::<String>::new());
        let paths = format!("{} /run/systemd/system/billing.service.d/zzz.conf", path("billing.service").display());
        let unit = Unit::read("billing.service", &format!("{GOOD}DropInPaths={paths}\n"));
        assert!(unit.last_drop_in().is_some_and(|last| last.ends_with("zzz.conf")));
        assert_eq!(Unit::read("billing.service", GOOD).last_drop_in(), None);
    }

    #[test]
    fn the_text_names_a_governed_slice_and_what_stays_in_sight() {
        let unit = Unit::read("billing.service", GOOD);
        let keep = [PathBuf::from("/run/tokens/billing")];
        let governed = config(&["/plain", "/agents.slice/agents-bots.slice"]);
        let unit = Unit {
            properties: [("Environment".to_owned(), "A=b CURL_CA_BUNDLE=/own.pem".to_owned())]
                .into_iter()
                .chain(unit.properties)
                .collect(),
            ..unit
        };
        let environment = ["SSL_CERT_FILE", "CURL_CA_BUNDLE"].map(|name| (name, PathBuf::from("/etc/ca/bundle.pem")));
        let sight = Sight { keep: &keep, environment: &environment };
        let text = text(&unit, &governed, "/usr/bin/interceptor", sight).unwrap();
        assert!(!text.contains("CURL_CA_BUNDLE"), "what the unit sets itself stays");
        for line in [
            "Slice=agents-bots.slice",
            "ExecCondition=+/usr/bin/interceptor governs --unit",
            "After=interceptor.service interceptor-enrolled@billing.service.service",
            "BindPaths=-/run/billing",
            "BindPaths=-/run/cache",
            "BindPaths=-/run/tokens/billing",
            "Environment=\"SSL_CERT_FILE=/etc/ca/bundle.pem\"",
            "SystemCallFilter=~io_uring_setup:ENOSYS io_uring_enter:ENOSYS io_uring_register:ENOSYS clone3:ENOSYS",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("~ptrace pidfd_getfd") && !text.contains("IPAddressAllow"));
        let fenced = Unit::read("billing.service", &format!("{GOOD}IPAddressDeny=::/0 0.0.0.0/0\n"));
        let fenced = super::text(&fenced, &governed, "x", sight).unwrap();
        assert!(fenced.lines().any(|line| line == "IPAddressAllow=localhost"), "{fenced}");
        assert!(super::text(&unit, &config(&["/plain"]), "x", Sight::default()).is_err());
    }

    #[test]
    fn tokens_of_the_agents_that_it_is_stay_in_sight() {
        let agent = |matches: &str, from: &str| -> AgentConfig {
            let token = format!("token = {{ issuer = 'i', from = '{from}', subject = 's' }}");
            toml::from_str(&format!("name = 'bot'\nmatch = {{ {matches} }}\n{token}")).unwrap()
        };
        let agents = [
            agent("unit = 'billing.service'", "file:/run/tokens/{unit}/token"),
            agent("cgroup = '/agents.slice/*'", "file:/run/{agent}/token"),
            agent("unit = 'other.service'", "file:/run/other/token"),
            agent("unit = 'billing.service'", "env:TOKEN"),
        ];
        let unit = Unit::read("billing.service", GOOD);
        let found = tokens(&unit, agents.iter(), &config(&["/agents.slice"]));
        assert_eq!(found, [PathBuf::from("/run/tokens/billing.service"), PathBuf::from("/run/bot")]);
    }

    #[test]
    fn a_difference_shows_what_goes_and_comes() {
        assert_eq!(difference("a\nb\n", "b\nc\n"), "- a\n+ c\n");
        assert_eq!(difference("a\n", "a\n"), "");
    }
}
