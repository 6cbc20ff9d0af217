//! What the agents in Rust share: what was expected, and whether it came.

use std::fmt::Debug;
use std::io::{self, Write as _};
use std::process::ExitCode;

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

pub(crate) const CARD: &str = "4111111111111111";
pub(crate) const RULE: &str = "customers-are-read-only";

/// An error of the server, or of what stands before it.
pub(crate) struct Refusal {
    pub(crate) state: String,
    pub(crate) severity: String,
    pub(crate) message: String,
    pub(crate) detail: String,
    pub(crate) hint: String,
}

/// Lines on standard output, and how many of them say that something is wrong.
pub(crate) struct Report {
    pub(crate) direct: bool,
    failures: u32,
}

impl Report {
    pub(crate) fn check<T: PartialEq + Debug>(&mut self, name: &str, expected: T, got: T) -> io::Result<()> {
        if expected == got {
            return writeln!(io::stdout(), "ok {name}");
        }
        self.failures += 1;
        writeln!(io::stdout(), "FAIL {name}: expected {expected:?} got {got:?}")
    }

    pub(crate) fn masked<T: PartialEq + Debug>(&mut self, name: &str, masked: T, clear: T, got: T) -> io::Result<()> {
        let expected = if self.direct { clear } else { masked };
        self.check(name, expected, got)
    }

    pub(crate) fn refused(&mut self, name: &str, refusal: Option<Refusal>, rule: &str) -> io::Result<()> {
        let state = refusal.as_ref().map(|refusal| refusal.state.as_str());
        self.check(&format!("{name}: sqlstate"), Some("42501"), state)?;
        let Some(said) = refusal.filter(|_| !self.direct) else { return Ok(()) };
        let all = format!("{} {} {}", said.message, said.detail, said.hint);
        self.check(&format!("{name}: names the rule"), true, all.contains(rule))?;
        self.check(&format!("{name}: has the session"), true, said.detail.contains("session"))?;
        self.check(&format!("{name}: severity"), "ERROR", &said.severity)
    }
}

/// Asks the test for something, and waits until it is done; so that nobody waits, a line is read in any case.
pub(crate) fn please(wish: &str) -> io::Result<()> {
    writeln!(io::stdout(), "please {wish}")?;
    io::stdin().read_line(&mut String::new()).map(drop)
}

/// Runs an agent: `PROGRAM URL [--direct]`.
pub(crate) async fn main(run: impl AsyncFnOnce(&str, &mut Report) -> Outcome) -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let mut report = Report { direct: arguments.iter().any(|argument| argument == "--direct"), failures: 0 };
    let url = arguments.get(1).map(String::as_str).unwrap_or_default();
    let done = run(url, &mut report).await;
    if let Err(error) = &done {
        let _nobody_reads = writeln!(io::stdout(), "FAIL ran through: {error} {error:?}");
    }
    if done.is_ok() && report.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
