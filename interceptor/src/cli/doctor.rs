//! `interceptor doctor`.

mod door;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Context, Printer, REFUSED, output};
use crate::capture::{self, Finding, Scope, Verdict};
use crate::config;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Look at what this configuration is to govern, too; without it at that of --config, where there is one
    #[arg(long = "for", value_name = "CONFIG")]
    wanted: Option<PathBuf>,
}

pub(super) fn run(context: &Context, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    let config = configuration(&context.config, arguments.wanted.as_deref())?;
    let scope = config.as_ref().map_or_else(Scope::default, |config| Scope {
        capture: Some(&config.capture),
        spool: Some((
            &config.record.spool,
            config.record.free_space_floor,
            config.record.warn_percent.iter().copied().max().unwrap_or(0),
        )),
    });
    let mut findings = capture::probe(scope);
    findings.extend(config.as_ref().map(super::ca::findings).unwrap_or_default());
    if let Some(config) = &config {
        let socket = if arguments.wanted.is_some() { &config.admin.socket } else { &context.socket };
        findings.push(door::finding(socket, &config.capture)?);
    }
    out.show(&findings, |findings| Ok(shown(findings)))?;
    let runs = findings.iter().all(|found| found.verdict != Verdict::Missing);
    Ok(if runs { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

/// The configuration that is named must be right. The usual one need not be there.
fn configuration(usual: &Path, named: Option<&Path>) -> Result<Option<config::Config>, String> {
    let path = match named {
        Some(path) => path,
        None if usual.exists() => usual,
        None => return Ok(None),
    };
    let lines =
        |problems: Vec<config::Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    config::read(path).map(Some).map_err(lines)
}

fn shown(findings: &[Finding]) -> String {
    let rows = findings.iter().map(|found| {
        let verdict = match found.verdict {
            Verdict::Ok => "ok",
            Verdict::Weak => "weak",
            Verdict::Missing => "MISSING",
        };
        [found.name.clone(), verdict.to_owned(), found.detail.clone(), found.cost.clone(), found.remedy.clone()]
    });
    let table = output::table(["what", "", "found", "what that costs", "how to get it"], rows);
    let count = |verdict| findings.iter().filter(|found| found.verdict == verdict).count();
    let (weak, missing) = (count(Verdict::Weak), count(Verdict::Missing));
    let conclusion = match missing {
        0 => "The daemon can run here.".to_owned(),
        _ => format!("The daemon cannot run here as it is: {missing} missing."),
    };
    format!("{table}\n{conclusion} Held less well than it could be: {weak}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_is_named_must_be_there_and_right() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("interceptor.toml");
        assert!(configuration(&path, None).unwrap().is_none());
        assert!(configuration(&path, Some(&path)).unwrap_err().contains("cannot be read"));
        std::fs::write(&path, "[capture]\ncgroups = ['/bots']\n").unwrap();
        assert_eq!(configuration(&path, None).unwrap().unwrap().capture.cgroups, ["/bots"]);
        std::fs::write(&path, "[capture]\ncgroup = 1\n").unwrap();
        assert!(configuration(&path, None).unwrap_err().contains("unknown field"));
    }

    #[test]
    fn the_conclusion_counts_what_is_missing() {
        let found =
            |verdict| Finding { name: "x".into(), verdict, detail: "d".into(), cost: "c".into(), remedy: "r".into() };
        assert!(shown(&[found(Verdict::Weak)]).ends_with("can run here. Held less well than it could be: 1."));
        assert!(shown(&[found(Verdict::Missing)]).contains("cannot run here as it is: 1 missing"));
    }
}
