//! The form of COPY data: enough to take a row apart and put it together again.

use pg_query::NodeEnum;
use pg_query::protobuf::{CopyStmt, Node};

/// Which way COPY data goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyDirection {
    /// From the client: COPY FROM STDIN.
    In,
    /// To the client: COPY TO STDOUT.
    Out,
    /// Not at all: a file or program of the server.
    None,
}

/// How a row is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyKind {
    /// Tab-separated, with backslash escapes.
    Text,
    /// Comma-separated, quoted.
    Csv,
    /// Binary tuples.
    Binary,
    /// Something that is not known: mask everything.
    Unknown,
}

/// The options of COPY that decide how a row is written, with the server's defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFormat {
    /// Kind.
    pub kind: CopyKind,
    /// Between columns; one byte.
    pub delimiter: u8,
    /// What stands for NULL.
    pub null: String,
    /// Csv: around a value.
    pub quote: u8,
    /// Csv: before a quote.
    pub escape: u8,
    /// The first line names the columns.
    pub header: bool,
}

impl CopyFormat {
    pub(super) fn of(statement: &CopyStmt) -> Self {
        let find = |name: &str| statement.options.iter().rev().filter_map(option).find(|(key, _)| *key == name);
        let kind = match find("format") {
            None => CopyKind::Text,
            Some((_, Some(value))) => match value.to_ascii_lowercase().as_str() {
                "text" => CopyKind::Text,
                "csv" => CopyKind::Csv,
                "binary" => CopyKind::Binary,
                _ => CopyKind::Unknown,
            },
            Some((_, None)) => CopyKind::Unknown,
        };
        let csv = kind == CopyKind::Csv;
        let byte = |name: &str, otherwise: u8| match find(name) {
            Some((_, Some(value))) => match value.as_bytes() {
                [one] => Some(*one),
                _ => None,
            },
            Some((_, None)) => None,
            None => Some(otherwise),
        };
        let delimiter = byte("delimiter", if csv { b',' } else { b'\t' });
        let quote = byte("quote", b'"');
        let escape = byte("escape", quote.unwrap_or(b'"'));
        let null = match find("null") {
            Some((_, value)) => value,
            None => Some(if csv { String::new() } else { "\\N".to_owned() }),
        };
        let header = find("header").is_some_and(|(_, value)| {
            !value.is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "false" | "off" | "0"))
        });
        let odd_encoding = find("encoding").is_some();
        match (delimiter, quote, escape, null) {
            (Some(delimiter), Some(quote), Some(escape), Some(null)) if !odd_encoding => {
                Self { kind, delimiter, null, quote, escape, header }
            }
            _ => Self {
                kind: CopyKind::Unknown,
                delimiter: b'\t',
                null: String::new(),
                quote: b'"',
                escape: b'"',
                header: false,
            },
        }
    }
}

/// Name and value of an option.
fn option(node: &Node) -> Option<(&str, Option<String>)> {
    let Some(NodeEnum::DefElem(element)) = &node.node else { return None };
    let value = element.arg.as_ref().and_then(|arg| match arg.node.as_ref()? {
        NodeEnum::String(text) => Some(text.sval.clone()),
        NodeEnum::Boolean(flag) => Some(flag.boolval.to_string()),
        NodeEnum::Integer(number) => Some(number.ival.to_string()),
        _ => None,
    });
    Some((&element.defname, value))
}
