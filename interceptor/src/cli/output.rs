//! Printing: tables for people, JSON for programs, and nothing recorded that could drive a terminal.

use std::io::{self, BufWriter, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Standard output, buffered.
pub(crate) struct Printer {
    out: BufWriter<io::Stdout>,
    json: bool,
}

impl Printer {
    /// Prints to standard output.
    pub(crate) fn stdout(json: bool) -> Self {
        Self { out: BufWriter::new(io::stdout()), json }
    }

    /// Prints one line.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), String> {
        writeln!(self.out, "{}", plain(text)).map_err(|error| error.to_string())
    }

    /// Prints a value as JSON, or as what `table` makes of it.
    pub(crate) fn show<T: Serialize>(
        &mut self,
        value: &T,
        table: impl FnOnce(&T) -> Result<String, String>,
    ) -> Result<(), String> {
        if self.json {
            let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
            writeln!(self.out, "{text}").map_err(|error| error.to_string())
        } else {
            let text = table(value)?;
            writeln!(self.out, "{text}").map_err(|error| error.to_string())
        }
    }
}

impl Write for Printer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Columns of a terminal that does not know its own width: serial consoles say 0.
const WIDTH: u16 = 80;

fn blank(preset: &str) -> Table {
    let mut table = Table::new();
    table.load_preset(preset).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width() == Some(0) {
        table.set_width(WIDTH);
    }
    table
}

/// A table with a header.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = blank(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| plain(&cell)));
    }
    table.to_string()
}

/// Names and values, one pair below the other.
pub(crate) fn pairs(rows: impl IntoIterator<Item = [String; 2]>) -> String {
    let mut table = blank(presets::NOTHING);
    for row in rows {
        table.add_row(row.map(|cell| plain(&cell)));
    }
    table.to_string()
}

/// Text without control characters but line breaks: an agent chooses statements, names and comments, and must not
/// drive the terminal of whoever reads them.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_text_cannot_drive_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\u{9b}c\nd"), "a\u{fffd}[2Jb\u{fffd}c\nd");
    }
}
