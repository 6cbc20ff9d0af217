//! The `[[mask]]` table of the configuration. Compiled, and judged, by [`super::Rules`].

use serde::Deserialize;

use super::detect::Detector;

/// One `[[mask]]` entry: a tag, the columns and values that carry it, and what stands in their place.
///
/// ```toml
/// [[mask]]
/// tag       = "card"
/// columns   = ["orders-db:orders.public.customers.card_*", "public.customers.card", "*.pan"]
/// json      = ["api/v1/customers/{id}:$.card", "$..pan"]
/// detect    = ["card"]
/// transform = { keep_last = 4 }
/// ```
///
/// A column glob is `[target:][[database.]schema.]table.column`. What is left out matches everything. In a part, `*`
/// stands for any run of characters and `?` for one; a part in double quotes is taken literally (`""` is a quote),
/// which also is how a name with a dot, a colon or a star is written. Names are compared exactly as the catalog stores
/// them: `Customers` is not `customers`.
///
/// An entry of `json` is `[target[route]:]path`: a path into JSON that a web service answers (a subset of RFC 9535: `$`,
/// `.name`, `['name']`, `[0]`, `.*`, `[*]`, and `..name` at any depth), of all targets, of one, or of one of its routes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the tag: a letter, then letters, digits, `-` or `_`; 32 characters at most. Policies name it.
    pub tag: String,
    /// Globs of the columns that carry it.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Paths into JSON whose values carry it.
    #[serde(default)]
    pub json: Vec<String>,
    /// Kinds of values that carry it wherever they appear.
    #[serde(default)]
    pub detect: Vec<Detector>,
    /// Values at its paths into JSON are base64, and so is what stands in their place.
    #[serde(default)]
    pub base64: bool,
    /// What stands in place of a value. Entries of one tag agree on it.
    #[serde(default)]
    pub transform: Transform,
}

/// What stands in place of a masked value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// A constant that names the tag and shows nothing of the value, not even its length: `[masked:card]`.
    #[default]
    Redact,
    /// The last characters stay, never more than a third of the value; the others become `*`.
    KeepLast(u8),
    /// The same value becomes the same token, so that joins and counts still work: `tok_` and 26 characters of a keyed
    /// hash. Whoever can write to the column can find out whether a guess is right.
    Token,
    /// NULL; inside longer text, as [`Transform::Redact`].
    Null,
}

impl Transform {
    /// Whether `self` hides at least as much as `other`.
    #[must_use]
    pub fn is_stricter(self, other: Self) -> bool {
        self.rank() > other.rank()
    }

    pub(super) fn rank(self) -> u16 {
        match self {
            // A smaller rest hides more.
            Self::KeepLast(kept) => 255 - u16::from(kept),
            Self::Token => 256,
            Self::Redact => 257,
            Self::Null => 258,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn every_transform_can_be_written() {
        for (text, expected) in [
            ("transform = \"redact\"", Transform::Redact),
            ("transform = \"token\"", Transform::Token),
            ("transform = \"null\"", Transform::Null),
            ("transform = { keep_last = 4 }", Transform::KeepLast(4)),
            ("", Transform::Redact),
        ] {
            assert_eq!(parse(&format!("tag = \"card\"\n{text}")).unwrap().transform, expected);
        }
        assert!(parse("tag = \"card\"\ntransform = \"clear\"").is_err());
        assert!(parse("tag = \"card\"\ncolumn = [\"a.b\"]").is_err(), "an unknown key is an error");
    }

    #[test]
    fn every_detector_can_be_written() {
        let all =
            "tag=\"x\"\ndetect=[\"card\",\"email\",\"iban\",\"us_ssn\",\"phone\",\"jwt\",\"api_key\",\"private_key\"]";
        assert_eq!(parse(all).unwrap().detect, Detector::ALL);
        assert_eq!(parse("tag=\"x\"\ndetect=[\"ssn\"]").unwrap().detect, [Detector::UsSsn]);
        assert!(parse("tag=\"x\"\ndetect=[\"fingerprint\"]").is_err());
    }

    #[test]
    fn strictness_is_null_redact_token_keep() {
        let order =
            [Transform::KeepLast(8), Transform::KeepLast(4), Transform::Token, Transform::Redact, Transform::Null];
        for pair in order.windows(2) {
            assert!(pair[1].is_stricter(pair[0]) && !pair[0].is_stricter(pair[1]));
        }
    }
}
