//! What this host offers to capture, primitive by primitive: what is missing, what that costs, and how to get it. Changes
//! nothing.
//!
//! Programs are judged by loading trivial ones, not by what files say of the kernel. What cannot be looked at is a finding.

mod cgroups;
mod host;
mod kernel;
mod programs;
mod reach;
mod time;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Config;
use host::Host;

/// How a finding counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// The daemon runs; something is held less well.
    Weak,
    /// The daemon cannot run, or cannot govern what it is told to.
    Missing,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// How it counts.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What that costs; empty where nothing is missing.
    pub cost: String,
    /// How to get it; empty where nothing is missing.
    pub remedy: String,
}

/// What is to be governed and recorded, where that is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope<'a> {
    /// `[capture]`.
    pub capture: Option<&'a Config>,
    /// Where recordings go, how many bytes must be free there, and below which share of the rest, in per cent, that is short.
    pub spool: Option<(&'a Path, u64, u8)>,
}

/// Looks at the kernel and the host; needs root to see everything.
#[must_use]
pub fn probe(scope: Scope<'_>) -> Vec<Finding> {
    let host = Host { root: PathBuf::from("/") };
    let mut findings = vec![kernel::privileges(&host), kernel::version(&host)];
    findings.extend(programs::types());
    findings.push(programs::ours());
    findings.push(programs::lsm());
    findings.extend([kernel::type_information(), kernel::lockdown(&host), kernel::bpffs()]);
    findings.extend([cgroups::hierarchy(&host), cgroups::net_classes(&host)]);
    if let Some(capture) = scope.capture {
        findings.extend(cgroups::configured(capture));
    }
    findings.extend(reach::all(&host));
    findings.extend([kernel::systemd(), kernel::clock(&host)]);
    if let Some((spool, floor, short)) = scope.spool {
        findings.push(kernel::room(spool, floor, short));
    }
    findings
}

/// What is asked, and what an answer that is not as it should be costs.
#[derive(Clone, Copy, Debug)]
struct Question {
    name: &'static str,
    cost: &'static str,
    remedy: &'static str,
}

impl Question {
    fn ok(self, detail: impl Into<String>) -> Finding {
        let none = String::new;
        Finding {
            name: self.name.to_owned(),
            verdict: Verdict::Ok,
            detail: detail.into(),
            cost: none(),
            remedy: none(),
        }
    }

    fn weak(self, detail: impl Into<String>) -> Finding {
        self.lacking(Verdict::Weak, detail.into())
    }

    fn missing(self, detail: impl Into<String>) -> Finding {
        self.lacking(Verdict::Missing, detail.into())
    }

    fn lacking(self, verdict: Verdict, detail: String) -> Finding {
        let Self { name, cost, remedy } = self;
        Finding { name: name.to_owned(), verdict, detail, cost: cost.to_owned(), remedy: remedy.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_looked_at_and_every_lack_has_its_cost_and_remedy() {
        let capture = Config::default();
        let spool = std::env::temp_dir();
        let findings = probe(Scope { capture: Some(&capture), spool: Some((&spool, 1, 0)) });
        assert!(findings.len() > 20, "{findings:?}");
        for found in findings {
            let lacks = found.verdict != Verdict::Ok;
            assert!(!found.name.is_empty() && !found.detail.is_empty(), "{found:?}");
            assert!(lacks != found.cost.is_empty() && lacks != found.remedy.is_empty(), "{found:?}");
        }
    }
}
