//! `cargo xtask vm`: the package under a real systemd, on stock kernels, in virtual machines.
//!
//! A guest is a Debian with systemd (`system`), one of Debian's kernels with a small initrd (`kernel`, `initrd`), and a disk
//! with the package, the test programs and the suites of `vm-tests/` (`payload`; `previous`: one of an earlier revision). QEMU emulates it in software, without any
//! network (`guest`); what the suites say comes over a serial port (`report`). Everything is kept below `target/vm`, under
//! names that tell its inputs. Nothing of it is installed on this machine but QEMU and debootstrap.

mod guest;
mod initrd;
mod kernel;
mod payload;
mod previous;
mod report;
mod system;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::install::{self, For};
use crate::run::root;

use kernel::Kernel;
use report::Outcome;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernel to boot: 6.1, 6.12, newest, or all; may be given again
    #[arg(long, value_name = "KERNEL", default_value = "all")]
    kernel: Vec<String>,
    /// Run only this suite (the package is installed in any case); may be given again
    #[arg(long, value_name = "SUITE")]
    only: Vec<String>,
    /// Boot only with BPF among the security modules, or only without
    #[arg(long, value_enum, default_value = "both")]
    lsm: Lsm,
    /// Of the bypass suite only attempts with one of these in their name, with `|` between them
    #[arg(long, value_name = "PARTS", default_value = "")]
    rows: String,
    /// The short set: one kernel, the service's life, an enrolled unit, and a part of the bypass suite
    #[arg(long)]
    short: bool,
    /// The revision (of git) whose package is there before the upgrade, and in all suites before that; else this one's, by a lower number
    #[arg(long, value_name = "REVISION")]
    previous: Option<String>,
    /// Package what a release is made of, rather than the quicker build that tests use
    #[arg(long)]
    release: bool,
    /// Write what doctor says, and how the bypass suite went, to docs/kernels
    #[arg(long)]
    publish: bool,
    /// Boot nothing: write docs/doctor.md anew from docs/kernels
    #[arg(long)]
    document: bool,
}

/// Which boots of each kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Lsm {
    /// With BPF among the security modules, and without.
    Both,
    /// With.
    Bpf,
    /// Without.
    None,
}

/// A suite of `vm-tests/suites`.
struct Suite {
    name: &'static str,
    /// Part of the short set.
    short: bool,
    /// How long it may take, in seconds.
    seconds: u64,
}

/// In the order in which they run: each finds what those before it leave.
const SUITES: &[Suite] = &[
    Suite { name: "install", short: true, seconds: 600 },
    Suite { name: "doctor", short: true, seconds: 600 },
    Suite { name: "life", short: true, seconds: 600 },
    Suite { name: "evidence", short: true, seconds: 600 },
    Suite { name: "enrolled", short: true, seconds: 600 },
    Suite { name: "container", short: false, seconds: 600 },
    Suite { name: "engine", short: false, seconds: 900 },
    Suite { name: "full_disk", short: false, seconds: 600 },
    Suite { name: "demo", short: false, seconds: 900 },
    Suite { name: "launch", short: false, seconds: 1800 },
    Suite { name: "bypass", short: true, seconds: 5400 },
    Suite { name: "crowd", short: false, seconds: 3600 },
    Suite { name: "upgrade", short: false, seconds: 600 },
    Suite { name: "reboot", short: false, seconds: 600 },
    Suite { name: "remove", short: false, seconds: 600 },
];

/// Attempts of the bypass suite that are in the short set: a few of each kind.
const SHORT_ROWS: &str = "TCP, IPv4|TCP, IPv6|UDP, IPv4|ICMP|AF_VSOCK|unattended: TCP|a relay outside, at an abstract socket|\
                          in a child cgroup|a wire from a namespace";

/// Booting, and what is between the suites.
const SPARE: Duration = Duration::from_secs(300);

/// Security modules as Debian has them, with and without BPF.
const WITH_BPF: &str = "lockdown,capability,landlock,yama,apparmor,bpf";
const WITHOUT_BPF: &str = "lockdown,capability,landlock,yama,apparmor";

/// One boot.
struct Plan {
    kernel: Kernel,
    lsm: &'static str,
    suites: Vec<&'static Suite>,
}

impl Plan {
    fn name(&self) -> String {
        let bare = if self.lsm == WITHOUT_BPF { "-without-bpf-lsm" } else { "" };
        format!("{}{bare}", self.kernel.name)
    }

    fn limit(&self) -> Duration {
        SPARE + Duration::from_secs(self.suites.iter().map(|suite| suite.seconds).sum())
    }
}

/// Where everything is kept.
fn folder() -> PathBuf {
    root().join("target/vm")
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.document {
        return report::doctor();
    }
    install::ensure(For::Guests)?;
    std::fs::create_dir_all(folder())?;
    let plans = plans(arguments)?;
    if plans.is_empty() {
        bail!("no kernel could be had: nothing was tested");
    }
    let system = system::image()?;
    let rows = if arguments.short && arguments.rows.is_empty() { SHORT_ROWS } else { &arguments.rows };
    let payload = payload::build(arguments.release, rows, arguments.previous.as_deref())?;
    let mut all: Vec<(String, Vec<Outcome>)> = Vec::new();
    for plan in plans {
        let ran = guest::boot(&plan, &system, &payload)?;
        if arguments.publish {
            report::publish(&plan, &ran)?;
        }
        all.push((plan.name(), ran.outcomes));
    }
    if arguments.publish {
        report::doctor()?;
    }
    report::table(&all);
    if all.iter().any(|(_, outcomes)| outcomes.iter().any(Outcome::failed)) {
        bail!("not every suite passed");
    }
    Ok(())
}

/// The short set, as a group of `cargo xtask test`.
pub(crate) fn short() -> Result<()> {
    run(&Arguments {
        kernel: vec!["6.1".to_owned()],
        only: Vec::new(),
        lsm: Lsm::Bpf,
        rows: String::new(),
        previous: None,
        short: true,
        release: false,
        publish: false,
        document: false,
    })
}

fn plans(arguments: &Arguments) -> Result<Vec<Plan>> {
    for name in &arguments.only {
        if !SUITES.iter().any(|suite| suite.name == name) {
            let known: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
            bail!("no suite is called {name}; there are {}", known.join(", "));
        }
    }
    let wanted = |suite: &&Suite| {
        let named = arguments.only.is_empty() || arguments.only.iter().any(|only| only == suite.name);
        suite.name == "install" || (named && (suite.short || !arguments.short))
    };
    let mut plans = Vec::new();
    for kernel in kernel::wanted(&arguments.kernel, arguments.short)? {
        // A suite that mirrors lack is said to be left out, and not counted as passed.
        let Some(kernel) = kernel::fetch(kernel)? else { continue };
        let suites: Vec<_> = SUITES.iter().filter(wanted).collect();
        if arguments.short || arguments.lsm != Lsm::None {
            plans.push(Plan { kernel: kernel.clone(), lsm: WITH_BPF, suites: suites.clone() });
        }
        if !arguments.short && arguments.lsm != Lsm::Bpf {
            plans.push(Plan { kernel, lsm: WITHOUT_BPF, suites });
        }
    }
    Ok(plans)
}
