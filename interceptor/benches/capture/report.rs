//! The figures as a table for people, and as JSON for programs.

use std::fmt::Write as _;

use serde_json::json;

use super::Failure;
use super::roles::Round;
use super::routes::Row;

/// One measure of a round.
type Of = fn(&Round) -> u64;

/// Median, and the least, over the rounds, in nanoseconds.
fn figures(row: &Row, of: Of) -> (u64, u64) {
    let mut values: Vec<u64> = row.rounds.iter().map(of).collect();
    values.sort_unstable();
    (values.get(values.len() / 2).copied().unwrap_or_default(), values.first().copied().unwrap_or_default())
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a connect")]
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

/// Ratios of each round to direct of the same round: the median.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a connect")]
fn ratio(row: &Row, direct: &Row, of: Of) -> f64 {
    let pairs = row.rounds.iter().zip(&direct.rounds);
    let mut ratios: Vec<f64> = pairs.map(|(one, other)| of(one) as f64 / of(other).max(1) as f64).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or_default()
}

const MEASURES: [(&str, Of); 2] = [("connect", |round| round.connect), ("trip", |round| round.trip)];

pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text =
        "| route | connect | ratio to direct | round trip of one byte | ratio to direct |\n|---|---:|---:|---:|---:|\n"
            .to_owned();
    let Some(direct) = rows.first() else { return text };
    for row in rows {
        let mut cells = vec![row.route.to_owned()];
        for (_, of) in MEASURES {
            let (median, least) = figures(row, of);
            cells.push(format!("{:.1} us (least {:.1})", microseconds(median), microseconds(least)));
            cells.push(format!("{:.2}", ratio(row, direct, of)));
        }
        let _to_memory = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

pub(crate) fn json(rows: &[Row]) -> Result<String, Failure> {
    let Some(direct) = rows.first() else { return Err("nothing was measured".into()) };
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let measures = MEASURES.map(|(name, of)| {
                let (median, least) = figures(row, of);
                (name.to_owned(), json!({ "median_ns": median, "least_ns": least, "ratio": ratio(row, direct, of) }))
            });
            json!({ "route": row.route, "rounds": row.rounds, "measures": serde_json::Map::from_iter(measures) })
        })
        .collect();
    Ok(format!("{}\n", serde_json::to_string_pretty(&rows)?))
}
