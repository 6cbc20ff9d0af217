//! The figures as a table for people, JSON for programs, and a chart.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::Failure;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Transactions a second; more is better.
    Rate,
    /// Transfers a second; more is better.
    Transfers,
    /// KiB of memory for each session; less is better.
    KibPerSession,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    /// Ratio to direct.
    pub(crate) ratio: Option<f64>,
    /// Processor time of the proxy, in microseconds, for a transaction or a transfer.
    pub(crate) cpu_us: Option<f64>,
    /// p50, p95, p99 in microseconds.
    pub(crate) latency_us: Option<[u64; 3]>,
}

/// One scenario over all routes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) routes: BTreeMap<&'static str, Figure>,
}

impl Row {
    pub(crate) fn new(name: &str, unit: Unit) -> Self {
        Self { name: name.to_owned(), unit, routes: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, route: &'static str, value: f64, cpu_us: Option<f64>, latency_us: Option<[u64; 3]>) {
        let ratio = self.routes.get("direct").map(|direct| value / direct.value);
        self.routes.insert(route, Figure { value, ratio, cpu_us, latency_us });
    }
}

/// Routes in the order in which they are shown.
const ROUTES: [&str; 6] = ["direct", "pgbouncer", "haproxy", "envoy", "interceptor", "masking"];

/// The table.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(std::iter::once("scenario").chain(ROUTES));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for row in rows {
        let cells = ROUTES.map(|route| row.routes.get(route).map_or_else(String::new, |figure| cell(row.unit, figure)));
        table.add_row(std::iter::once(row.name.clone()).chain(cells));
    }
    table
}

fn cell(unit: Unit, figure: &Figure) -> String {
    let mut text = match (unit, figure.ratio) {
        (Unit::KibPerSession, _) => return format!("{:.1} KiB", figure.value),
        (Unit::Rate, None) => format!("{:.0}/s", figure.value),
        (Unit::Transfers, None) => format!("{:.2}/s", figure.value),
        (_, Some(ratio)) if (ratio - 1.0).abs() < f64::EPSILON => match unit {
            Unit::Rate => format!("{:.0}/s", figure.value),
            _ => format!("{:.2}/s", figure.value),
        },
        (_, Some(ratio)) => format!("{ratio:.2}"),
    };
    if let Some([p50, _, p99]) = figure.latency_us {
        let _infallible = write!(text, "\n{p50} / {p99} us");
    }
    if let Some(cpu) = figure.cpu_us {
        let _infallible = match unit {
            Unit::Transfers => write!(text, "\n{:.0} ms cpu", cpu / 1000.0),
            _ => write!(text, "\n{cpu:.1} us cpu"),
        };
    }
    text
}

/// The table as a document.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = format!("| scenario | {} |\n|---|{}\n", ROUTES.join(" | "), "---:|".repeat(ROUTES.len()));
    for row in rows {
        let cell = |route| row.routes.get(route).map_or_else(String::new, |figure| cell(row.unit, figure));
        let cells = ROUTES.map(|route| cell(route).replace('\n', "<br>"));
        let _infallible = writeln!(text, "| {} | {} |", row.name, cells.join(" | "));
    }
    text
}

/// The figures for programs.
pub(crate) fn json(rows: &[Row]) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(rows)? + "\n")
}

/// Bars of the ratios to direct.
pub(crate) fn chart(rows: &[Row]) -> String {
    const COLOURS: [(&str, &str); 5] = [
        ("pgbouncer", "#9aa5b1"),
        ("haproxy", "#b8c4ce"),
        ("envoy", "#d5dbe1"),
        ("interceptor", "#c2410c"),
        ("masking", "#ea9a6b"),
    ];
    let shown: Vec<&Row> = rows.iter().filter(|row| row.unit != Unit::KibPerSession).collect();
    let (left, width, bar, gap) = (250.0, 420.0, 9.0, 12.0);
    let mut body = String::new();
    let mut y = 62.0;
    for row in &shown {
        let bars: Vec<_> =
            COLOURS.iter().filter_map(|(route, colour)| Some((route, colour, row.routes.get(route)?))).collect();
        let middle = y + bar * f64::from(u32::try_from(bars.len()).unwrap_or(0)) / 2.0 + 4.0;
        let _infallible =
            writeln!(body, "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>", left - 8.0, row.name);
        for (_, colour, figure) in bars {
            let ratio = figure.ratio.unwrap_or(0.0).min(1.05);
            let _infallible = writeln!(
                body,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text class=\"n\" x=\"{:.1}\" y=\"{:.1}\">{:.2}</text>",
                ratio * width,
                bar - 1.5,
                left + ratio * width + 4.0,
                y + bar - 2.0,
                figure.ratio.unwrap_or(0.0)
            );
            y += bar;
        }
        y += gap;
    }
    let mut legend = String::new();
    let mut x = left;
    for (route, colour) in COLOURS {
        let _infallible = writeln!(
            legend,
            "<rect x=\"{x}\" y=\"34\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"43\">{route}</text>",
            x + 14.0
        );
        x += 100.0;
    }
    let (total, line) = (left + width + 60.0, left + width);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {total} {:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <style>.n{{font-size:8px;fill:#555}}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"20\" font-size=\"14\">PostgreSQL through proxies: throughput as a share of direct (longer is better)</text>\n\
         {legend}<line x1=\"{line}\" y1=\"54\" x2=\"{line}\" y2=\"{y:.0}\" stroke=\"#333\" stroke-dasharray=\"3 3\"/>\n{body}</svg>\n",
        y + 10.0
    )
}
