//! What stands in the body of a request, as far as it can be read: the fields of JSON and of forms.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::route;
use crate::mask::fold;

/// Bytes that the values of a body may have, each with where it stands: long keys stand before every value below them.
pub(in crate::protocol) const TOTAL_LIMIT: usize = 4 << 20;

/// What a body may have to be looked into.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct Limits {
    /// Values.
    pub(in crate::protocol) fields: usize,
    /// How deep JSON may be nested.
    pub(in crate::protocol) depth: usize,
    /// Bytes of a value.
    pub(in crate::protocol) value: usize,
}

impl Default for Limits {
    /// 512 values of 4 KiB, 32 deep.
    fn default() -> Self {
        Self { fields: 512, depth: 32, value: 4 * 1024 }
    }
}

/// What a body says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::protocol) struct Content {
    /// Its values: `customer.name=Ada`, `items.0.price=3`.
    pub(in crate::protocol) values: Vec<String>,
    /// The names of a form, or the outermost keys of JSON.
    pub(in crate::protocol) names: Vec<String>,
}

/// What the body says, or why nobody knows.
///
/// # Errors
/// A sentence: another reader may find something else in it, or nothing is known of its type.
pub(in crate::protocol) fn read(
    content_type: Option<&str>,
    encoded: bool,
    body: &[u8],
    limits: Limits,
) -> Result<Content, String> {
    if body.is_empty() {
        return Ok(Content::default());
    }
    if encoded {
        return Err("its body is compressed".to_owned());
    }
    let kind = content_type.unwrap_or_default();
    let (kind, parameters) = kind.split_once(';').unwrap_or((kind, ""));
    let parameters = parameters.trim().to_ascii_lowercase();
    if !matches!(parameters.as_str(), "" | "charset=utf-8" | "charset=\"utf-8\"") {
        return Err(format!("its body is {kind} with parameters of its own"));
    }
    let kind = kind.trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/x-www-form-urlencoded" => form(body),
        json if json == "application/json" || json.ends_with("+json") => values(body, limits),
        "" => Err("its body has no type".to_owned()),
        other => Err(format!("its body is {other}")),
    }
}

fn form(body: &[u8]) -> Result<Content, String> {
    let text = std::str::from_utf8(body).map_err(|_| "its form is no text".to_owned())?;
    if text.contains(|character: char| character.is_ascii_control()) {
        // Clients escape them. Messages of gRPC have them, and some servers look at nothing but the path.
        return Err("its form has control characters".to_owned());
    }
    let pairs = route::pairs(text).map_err(|why| format!("its form can be read in more than one way: {why}"))?;
    let values = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(Content { values, names: pairs.into_iter().map(|(name, _)| name).collect() })
}

fn values(body: &[u8], limits: Limits) -> Result<Content, String> {
    let mut found = Found::new(limits);
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = (&mut found).deserialize(&mut reader).and_then(|()| reader.end());
    read.map_err(|error| format!("its JSON cannot be read in one way: {error}"))?;
    Ok(found.done())
}

/// Values that were found, with where they stand.
pub(super) struct Found {
    limits: Limits,
    /// Bytes of all values.
    total: usize,
    values: Vec<String>,
    names: Vec<String>,
    path: Vec<String>,
}

impl Found {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, total: 0, values: Vec::new(), names: Vec::new(), path: Vec::new() }
    }

    /// A value, where the path leads that it is within.
    pub(super) fn value<E: serde::de::Error>(&mut self, value: &str) -> Result<(), E> {
        if self.values.len() == self.limits.fields {
            return Err(E::custom(format!("it has more than {} values", self.limits.fields)));
        }
        if value.len() > self.limits.value {
            return Err(E::custom(format!("a value has more than {} bytes", self.limits.value)));
        }
        let length = value.len() + self.path.iter().map(|step| step.len() + 1).sum::<usize>();
        self.total += length;
        if self.total > TOTAL_LIMIT {
            return Err(E::custom(format!("its values, with where they stand, have more than {TOTAL_LIMIT} bytes")));
        }
        self.values.push(format!("{}={value}", self.path.join(".")));
        Ok(())
    }

    /// One step down.
    pub(super) fn within<E: serde::de::Error>(&mut self, step: String) -> Result<(), E> {
        if self.path.len() == self.limits.depth {
            return Err(E::custom(format!("it is nested deeper than {}", self.limits.depth)));
        }
        self.path.push(step);
        Ok(())
    }

    /// One step up.
    pub(super) fn leave(&mut self) {
        self.path.pop();
    }

    pub(super) fn done(self) -> Content {
        Content { values: self.values, names: self.names }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Found {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Found {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.value(&value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.value(&value.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.value(&value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.value(&value.to_string())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.value(value)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.value("null")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0usize.. {
            self.within(index.to_string())?;
            let more = items.next_element_seed(&mut *self)?;
            self.leave();
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            // Which of two values counts is the reader's taste; and some (Go's) see no difference between A and a.
            if !seen.insert(fold(&key)) {
                return Err(A::Error::custom("a key stands twice in one object"));
            }
            if self.path.is_empty() {
                self.names.push(key.clone());
            }
            self.within(step(key))?;
            entries.next_value_seed(&mut *self)?;
            self.leave();
        }
        Ok(())
    }
}

/// A key as a step of a path. One that could be taken for more than a step, or for a value, stands in quotes.
pub(super) fn step(key: String) -> String {
    if key.is_empty() || key.contains(['.', '=', '"']) { serde_json::Value::String(key).to_string() } else { key }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Vec<String>, String> {
        read(Some("application/json; charset=utf-8"), false, text.as_bytes(), Limits::default())
            .map(|content| content.values)
    }

    #[test]
    fn values_are_told_with_where_they_stand() {
        let text = r#"{"a": {"b": [1, "x", null, true, -2, 1.5]}, "c": ""}"#;
        let expected = ["a.b.0=1", "a.b.1=x", "a.b.2=null", "a.b.3=true", "a.b.4=-2", "a.b.5=1.5", "c="];
        assert_eq!(json(text).unwrap(), expected);
        assert_eq!(json("3").unwrap(), ["=3"]);
        // No key passes for a path, nor for a path with a value.
        let text = r#"{"a.b": 7, "a": {"b": 8, "": 9}, "a.b=7": 0, "\"x\"": 1}"#;
        assert_eq!(json(text).unwrap(), [r#""a.b"=7"#, "a.b=8", r#"a.""=9"#, r#""a.b=7"=0"#, r#""\"x\""=1"#]);
        let form = read(Some("application/x-www-form-urlencoded"), false, b"a=1&b=x+y", Limits::default()).unwrap();
        assert_eq!((form.values, form.names), (vec!["a=1".into(), "b=x y".into()], vec!["a".into(), "b".into()]));
        let nested =
            read(Some("application/json"), false, br#"{"a": {"b": 1}, "c": [{"d": 2}]}"#, Limits::default()).unwrap();
        assert_eq!(nested.names, ["a", "c"]);
        assert_eq!(read(None, false, b"", Limits::default()).unwrap(), Content::default());
    }

    #[test]
    fn what_others_could_read_in_another_way_is_opaque() {
        let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
        let many = format!("[{}1]", "1,".repeat(Limits::default().fields));
        let long = format!("\"{}\"", "x".repeat(Limits::default().value + 1));
        let heavy = format!("{{\"{}\":[{}1]}}", "k".repeat(20_000), "1,".repeat(300));
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"amount":1,"Amount":2}"#,
            "{\"argument\u{17f}\":1,\"arguments\":2}",
            &heavy,
            "{",
            "{} x",
            "{'a':1}",
            "\u{feff}{}",
            "NaN",
            &deep,
            &many,
            &long,
        ] {
            assert!(json(text).is_err(), "{text:.40}");
        }
        assert!(json("\"\\ud800\"").is_err());
        for kind in [
            "",
            "text/plain",
            "application/json; charset=utf-16",
            "application/json; charset=utf-8; x=y",
            "multipart/form-data; boundary=x",
        ] {
            assert!(read(Some(kind), false, b"{}", Limits::default()).is_err(), "{kind}");
        }
        assert!(read(Some("application/json"), true, b"{}", Limits::default()).is_err());
        assert!(read(Some("application/x-www-form-urlencoded"), false, b"a=1;b=2", Limits::default()).is_err());
    }
}
