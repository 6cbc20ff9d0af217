//! ErrorResponse and NoticeResponse under masking: the server quotes values in them.
//!
//! `SELECT card::int FROM customers` fails with the card number in its message, a unique violation with the key. Where a
//! command touches a masked column, all text that the server wrote about it goes; the severity, the SQLSTATE, the
//! position in the command and the names of objects stay. Elsewhere the text is scanned, as a value is.

use super::{Malformed, Row};
use crate::mask::{Carrier, Masker, Outcome};
use crate::policy::TagSet;

/// What the agent reads in place of a message.
const WITHHELD: &[u8] =
    b"[masked: the server's message may quote a value of a masked column; the SQLSTATE is unchanged]";

/// Masks the body of an ErrorResponse or NoticeResponse. `sensitive` says whether the command reads or writes any column
/// whose tag is masked, or nobody knows what it reads. Appends the new body to `out` where anything changed.
///
/// # Errors
/// [`Malformed`] for a body that is not fields of text and a zero at the end; `out` is as before.
pub fn mask_notice(masker: &mut Masker, sensitive: bool, body: &[u8], out: &mut Vec<u8>) -> Result<Row, Malformed> {
    if masker.is_idle() || !(sensitive || masker.scans()) {
        return Ok(Row::Unchanged);
    }
    let start = out.len();
    let masked = rewrite(masker, sensitive, body, out);
    if masked != Ok(Row::Masked) {
        out.truncate(start);
    }
    masked
}

fn rewrite(masker: &mut Masker, sensitive: bool, body: &[u8], out: &mut Vec<u8>) -> Result<Row, Malformed> {
    let untagged = masker.column(&TagSet::default(), false);
    let mut row = Row::Unchanged;
    let mut rest = body;
    loop {
        let (kind, after) = rest.split_first().ok_or(Malformed::Length)?;
        if *kind == 0 {
            out.push(0);
            return if after.is_empty() { Ok(row) } else { Err(Malformed::Trailing) };
        }
        let end = after.iter().position(|byte| *byte == 0).ok_or(Malformed::Length)?;
        let (text, after) = after.split_at_checked(end).ok_or(Malformed::Length)?;
        rest = after.get(1..).unwrap_or_default();
        if names_no_value(*kind) {
            field(*kind, text, out);
        } else if sensitive {
            row = Row::Masked;
            // The message has to be there; detail, hint, context and inner query do not.
            if *kind == b'M' {
                field(*kind, WITHHELD, out);
            }
        } else {
            out.push(*kind);
            match masker.apply(&untagged, Carrier::Text { max_chars: None }, text, out) {
                Outcome::Unchanged => out.extend_from_slice(text),
                Outcome::Replaced | Outcome::Null => row = Row::Masked,
            }
            out.push(0);
        }
    }
}

fn field(kind: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(text);
    out.push(0);
}

/// Severity (twice), SQLSTATE, positions, names of schema, table, column, type and constraint, place in the source.
fn names_no_value(kind: u8) -> bool {
    b"SVCPpstcdnFLR".contains(&kind)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mask::{Config, Detector, Rules, Transform};
    use crate::policy::Obligations;

    const ERROR: &[u8] = b"SERROR\0C22003\0Mvalue \"4111111111111111\" is out of range\0Da@b.co\0Fnumutils.c\0\0";

    fn masker(masked: &[&str]) -> Masker {
        let detect = vec![Detector::Card, Detector::Email];
        let entry = Config {
            tag: "x".into(),
            columns: Vec::new(),
            json: Vec::new(),
            detect,
            base64: false,
            transform: Transform::Null,
        };
        let rules = Rules::compile(&[entry], None).unwrap();
        let masked = Arc::new(masked.iter().map(|tag| Arc::from(*tag)).collect());
        Masker::new(Arc::new(rules), &Obligations { masked })
    }

    fn masked(tags: &[&str], sensitive: bool) -> Vec<u8> {
        let mut out = Vec::new();
        match mask_notice(&mut masker(tags), sensitive, ERROR, &mut out).unwrap() {
            Row::Masked => out,
            Row::Unchanged => ERROR.to_vec(),
        }
    }

    #[test]
    fn messages_about_masked_columns_are_withheld() {
        let expected = [b"SERROR\0C22003\0M" as &[u8], WITHHELD, b"\0Fnumutils.c\0\0"].concat();
        assert_eq!(masked(&["x"], true), expected);
        assert_eq!(masked(&["other"], true), expected);
    }

    #[test]
    fn other_messages_are_scanned() {
        let expected = b"SERROR\0C22003\0Mvalue \"[masked:x]\" is out of range\0D\0Fnumutils.c\0\0";
        assert_eq!(masked(&["x"], false), expected);
        assert_eq!(masked(&["other"], false), ERROR);
        assert_eq!(masked(&[], true), ERROR, "nothing is masked for this identity");
    }

    #[test]
    fn a_malformed_message_is_an_error() {
        for (body, error) in [
            (&ERROR[..ERROR.len() - 1], Malformed::Length),
            (b"Mno end", Malformed::Length),
            (b"", Malformed::Length),
            (b"Mx\0\0y", Malformed::Trailing),
        ] {
            let mut out = Vec::new();
            assert_eq!(mask_notice(&mut masker(&["x"]), true, body, &mut out), Err(error));
            assert!(out.is_empty());
        }
    }
}
