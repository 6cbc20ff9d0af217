//! The figures as a table for people, and as JSON for programs.

use std::fmt::Write as _;

use serde_json::json;

use super::Failure;

/// What was measured of a scenario on a route: medians.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) scenario: &'static str,
    pub(crate) route: &'static str,
    /// Requests in a second.
    pub(crate) rate: f64,
    /// Processor time of the proxy for each, in microseconds; none for direct.
    pub(crate) cpu: Option<f64>,
    /// Of each round, to direct in the same round.
    pub(crate) ratio: f64,
}

pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text =
        "| scenario | route | requests/s | ratio to direct | proxy's CPU a request |\n|---|---|---:|---:|---:|\n"
            .to_owned();
    for Row { scenario, route, rate, cpu, ratio } in rows {
        let cpu = cpu.map_or_else(String::new, |cpu| format!("{cpu:.1} us"));
        let _to_memory = writeln!(text, "| {scenario} | {route} | {rate:.0} | {ratio:.2} | {cpu} |");
    }
    text
}

pub(crate) fn json(rows: &[Row]) -> Result<String, Failure> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "scenario": row.scenario, "route": row.route, "requests_per_second": row.rate,
                "ratio_to_direct": row.ratio, "cpu_microseconds_per_request": row.cpu,
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&rows)? + "\n")
}
