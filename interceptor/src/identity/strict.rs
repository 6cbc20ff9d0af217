//! JSON as a signed document must be read: a name that occurs twice in one object is an error, never "the last wins".
//!
//! Two parsers that disagree on duplicates see two different tokens. Owns parsing and look-up by path; judges nothing.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Parses one JSON object; nothing but white space may follow. Depth is bounded by `serde_json` (128).
///
/// # Errors
/// When the text is not JSON, is not an object, or repeats a name. The message carries names, never values.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, StrictError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict.deserialize(&mut deserializer).map_err(|error| StrictError::from(&error))?;
    deserializer.end().map_err(|error| StrictError::from(&error))?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(StrictError::NotAnObject),
    }
}

/// The claim at `path`: a top-level name that equals the whole path, or else names separated by dots.
#[must_use]
pub fn lookup<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(found) = claims.get(path) {
        return Some(found);
    }
    let mut names = path.split('.');
    let first = claims.get(names.next()?)?;
    names.try_fold(first, |value, name| value.as_object()?.get(name))
}

/// Why a document was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrictError {
    /// One object holds the same name twice.
    #[error("the name {0} occurs twice")]
    Duplicate(String),
    /// Some other JSON value than an object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// Not JSON; line and column of the first fault.
    #[error("it is not JSON (line {line}, column {column})")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
}

impl From<&serde_json::Error> for StrictError {
    fn from(error: &serde_json::Error) -> Self {
        // serde_json passes our own message through, with the position behind it.
        let text = error.to_string();
        if let Some(name) = text.strip_prefix(DUPLICATE) {
            let name = name.rsplit_once(" at line ").map_or(name, |(name, _)| name);
            return Self::Duplicate(name.to_owned());
        }
        Self::Syntax { line: error.line(), column: error.column() }
    }
}

const DUPLICATE: &str = "duplicate name ";

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Self)?;
            if map.contains_key(&name) {
                return Err(de::Error::custom(format_args!("{DUPLICATE}{}", super::error::quote(&name))));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_refused_at_any_depth_and_however_spelt() {
        for text in [r#"{"a":1,"a":2}"#, r#"{"x":{"a":1,"a":1}}"#, r#"{"x":[{"a":1,"\u0061":2}]}"#] {
            assert_eq!(object(text.as_bytes()), Err(StrictError::Duplicate("\"a\"".into())), "{text}");
        }
        assert!(object(br#"{"a":1,"b":{"a":1}}"#).is_ok());
    }

    #[test]
    fn only_one_whole_object_is_read() {
        assert_eq!(object(b"[1]"), Err(StrictError::NotAnObject));
        assert!(matches!(object(b"{} {}"), Err(StrictError::Syntax { .. })));
        assert!(matches!(object(b"{\"a\":1"), Err(StrictError::Syntax { .. })));
        assert!(matches!(object("[".repeat(10_000).as_bytes()), Err(StrictError::Syntax { .. })));
    }

    #[test]
    fn paths_prefer_the_whole_name() {
        let claims = object(br#"{"a.b":1,"a":{"b":2,"c":{"d":3}}}"#).unwrap();
        assert_eq!(lookup(&claims, "a.b"), Some(&Value::from(1)));
        assert_eq!(lookup(&claims, "a.c.d"), Some(&Value::from(3)));
        assert_eq!(lookup(&claims, "a.x"), None);
        assert_eq!(lookup(&claims, "a.b.c"), None);
    }
}
