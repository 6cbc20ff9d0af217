//! `interceptor doctor`.

use std::process::ExitCode;

use super::{Printer, REFUSED, output};
use crate::capture;

pub(super) fn run(out: &mut Printer) -> Result<ExitCode, String> {
    let results = capture::probe();
    out.show(&results, |results| {
        let rows = results.iter().map(|result| {
            let verdict = if result.ok { "ok" } else { "MISSING" };
            [result.name.to_string(), verdict.to_owned(), result.detail.clone(), result.cost.to_string()]
        });
        Ok(output::table(["what", "", "found", "what its absence costs"], rows))
    })?;
    Ok(if results.iter().all(|result| result.ok) { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}
