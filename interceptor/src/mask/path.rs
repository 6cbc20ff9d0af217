//! Paths into JSON: a subset of JSONPath (RFC 9535), each perhaps of one target or route alone.
//!
//! `[target[route]:]path`. In front stands what policies call the place: `api`, or `api/v1/customers/{id}`; without one, the
//! path is of every target. The path begins with `$`; then `.name`, `['name']`, `[0]`, `.*` and `[*]`, and with two dots in
//! front, `..name`, at any depth. Slices, filters, unions and indices from the end are refused, so that nobody believes in
//! them. Names are compared as readers compare them that see no difference in case.

/// Bytes of one entry.
const MAX_PATH: usize = 1024;
/// Steps of one path.
pub(super) const MAX_STEPS: usize = 32;

/// One entry of `json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JsonRule {
    /// The target, or the target and its route; nothing: every one.
    pub(super) place: Option<String>,
    /// The path as it is written.
    pub(super) path: String,
    pub(super) steps: Vec<Step>,
    /// What it leads to is base64.
    pub(super) base64: bool,
}

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// From any depth below, not from here alone.
    pub(super) deep: bool,
    pub(super) to: Child,
}

/// Which children a step leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Child {
    /// Those of an object under this name, as [`fold`] has it.
    Name(String),
    /// The one of an array at this place, from 0.
    Index(u64),
    /// All of them.
    Any,
}

impl JsonRule {
    pub(super) fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        let (place, path) = match text.find(":$") {
            Some(at) if !text.starts_with('$') => text.split_at_checked(at).unwrap_or_default(),
            _ => ("", text),
        };
        let path = path.strip_prefix(':').unwrap_or(path);
        let steps = steps(path)?;
        Ok(Self { place: (!place.is_empty()).then(|| place.to_owned()), path: path.to_owned(), steps, base64: false })
    }

    /// Whether it is of this target, or this route of it (`/v1/customers/{id}`).
    pub(super) fn is_of(&self, target: &str, route: Option<&str>) -> bool {
        let Some(place) = &self.place else { return true };
        place.strip_prefix(target).is_some_and(|rest| rest.is_empty() || route == Some(rest))
    }

    /// Whether it is of this target, or of any place of it.
    pub(super) fn is_within(&self, target: &str) -> bool {
        let Some(place) = &self.place else { return true };
        place.strip_prefix(target).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn steps(path: &str) -> Result<Vec<Step>, PathError> {
    let mut rest = path.strip_prefix('$').ok_or(PathError::Root)?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (deep, to, after) = step(rest)?;
        steps.push(Step { deep, to });
        if steps.len() > MAX_STEPS {
            return Err(PathError::TooLong);
        }
        rest = after;
    }
    Ok(steps)
}

fn step(text: &str) -> Result<(bool, Child, &str), PathError> {
    if let Some(rest) = text.strip_prefix("..") {
        if let Some(inside) = rest.strip_prefix('[') {
            return bracket(inside).map(|(to, rest)| (true, to, rest));
        }
        return dotted(rest).map(|(to, rest)| (true, to, rest));
    }
    if let Some(rest) = text.strip_prefix('.') {
        return dotted(rest).map(|(to, rest)| (false, to, rest));
    }
    let inside = text.strip_prefix('[').ok_or_else(|| PathError::Sign(text.chars().next().unwrap_or_default()))?;
    bracket(inside).map(|(to, rest)| (false, to, rest))
}

/// What stands behind a dot: `*`, or a name of letters, digits and `_` that does not begin with a digit.
fn dotted(text: &str) -> Result<(Child, &str), PathError> {
    if let Some(rest) = text.strip_prefix('*') {
        return Ok((Child::Any, rest));
    }
    let is_name = |sign: char| sign == '_' || sign.is_ascii_alphanumeric() || !sign.is_ascii();
    let end = text.find(|sign| !is_name(sign)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    if name.is_empty() || name.starts_with(|sign: char| sign.is_ascii_digit()) {
        return Err(PathError::Name);
    }
    match rest.chars().next() {
        None | Some('.' | '[') => Ok((Child::Name(fold(name)), rest)),
        Some(sign) => Err(PathError::Sign(sign)),
    }
}

/// What stands behind `[`.
fn bracket(text: &str) -> Result<(Child, &str), PathError> {
    let (to, rest) = match text.chars().next() {
        Some('*') => (Child::Any, text.get(1..).unwrap_or_default()),
        Some(quote @ ('\'' | '"')) => {
            let (name, rest) = quoted(text.get(1..).unwrap_or_default(), quote)?;
            (Child::Name(fold(&name)), rest)
        }
        Some('?' | '@' | '(') => return Err(PathError::Filter),
        Some('-') => return Err(PathError::FromEnd),
        _ => {
            let end = text.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(text.len());
            let (digits, rest) = text.split_at_checked(end).unwrap_or((text, ""));
            let leading = digits.len() > 1 && digits.starts_with('0');
            match (digits.parse(), rest.starts_with(':')) {
                (_, true) => return Err(PathError::Slice),
                (Ok(index), false) if !leading => (Child::Index(index), rest),
                _ => return Err(PathError::Index),
            }
        }
    };
    match rest.chars().next() {
        Some(']') => Ok((to, rest.get(1..).unwrap_or_default())),
        Some(',') => Err(PathError::Union),
        _ => Err(PathError::Open),
    }
}

/// A name in quotes, of which a backslash, a slash and quotes may be escaped.
fn quoted(text: &str, quote: char) -> Result<(String, &str), PathError> {
    let mut name = String::new();
    let mut signs = text.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            _ if sign == quote => return Ok((name, text.get(at + 1..).unwrap_or_default())),
            '\\' => match signs.next() {
                Some((_, escaped @ ('\\' | '\'' | '"' | '/'))) => name.push(escaped),
                _ => return Err(PathError::Escape),
            },
            _ => name.push(sign),
        }
    }
    Err(PathError::Open)
}

/// A name as it is to readers that see no difference in case: Go's, and many that map names to fields. Signs that only
/// some of them take for the same (`ſ` and `s`, the Kelvin sign and `k`) are one here.
#[must_use]
pub fn fold(name: &str) -> String {
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// Why a path cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Too much of it.
    #[error("it has more than {MAX_PATH} bytes, or more than {MAX_STEPS} steps")]
    TooLong,
    /// It does not begin as paths do.
    #[error("a path begins with `$`, perhaps with a target or a route in front: `api/v1/customers/{{id}}:$.email`")]
    Root,
    /// A sign that has no place there.
    #[error("{0:?} has no place there: a step is `.name`, `['name']`, `[0]`, `[*]`, `.*` or `..name`")]
    Sign(char),
    /// A name that cannot stand behind a dot.
    #[error("a name behind a dot has letters, digits and `_`, and begins with none of the digits: write ['a name']")]
    Name,
    /// `[?@.a == 1]`.
    #[error("filters are not supported: mask all elements, `[*]`")]
    Filter,
    /// `[-1]`.
    #[error("places counted from the end are not supported: mask all elements, `[*]`")]
    FromEnd,
    /// `[0:2]`.
    #[error("slices are not supported: mask all elements, `[*]`")]
    Slice,
    /// `['a','b']`.
    #[error("several at once are not supported: write one path for each")]
    Union,
    /// `[01]`, `[]`.
    #[error("between brackets stands a number, a name in quotes, or `*`")]
    Index,
    /// An escape that is none.
    #[error("in a name in quotes, a backslash stands before a quote, a slash or a backslash alone")]
    Escape,
    /// No `]` or quote.
    #[error("a bracket or a quote has no end")]
    Open,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        let rule = JsonRule::parse(text).unwrap();
        let steps = rule.steps.iter().map(|step| {
            let deep = if step.deep { ".." } else { "" };
            match &step.to {
                Child::Name(name) => format!("{deep}{name}"),
                Child::Index(index) => format!("{deep}#{index}"),
                Child::Any => format!("{deep}*"),
            }
        });
        format!("{}|{}", rule.place.unwrap_or_default(), steps.collect::<Vec<_>>().join("/"))
    }

    #[test]
    fn paths_are_read_as_the_standard_has_them() {
        for (text, steps) in [
            ("$", "|"),
            ("$.items[*].email", "|items/*/email"),
            ("$..SSN", "|..ssn"),
            ("$['a.b'][\"c'd\"]", "|a.b/c'd"),
            (r"$['it\'s']", "|it's"),
            ("$[0].*..[*]..['x']..[3]", "|#0/*/..*/..x/..#3"),
            ("api:$.a", "api|a"),
            ("api/v1/customers/{id}:$.a", "api/v1/customers/{id}|a"),
            ("$['api:$x'].a", "|api:$x/a"),
            ("$.übung", "|übung"),
        ] {
            assert_eq!(parsed(text), steps, "{text}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_with_a_sentence() {
        let long = format!("${}", ".a".repeat(MAX_STEPS + 1));
        for (text, error) in [
            ("items.email", PathError::Root),
            ("api:items", PathError::Root),
            ("", PathError::Root),
            ("$items", PathError::Sign('i')),
            ("$.a-b", PathError::Sign('-')),
            ("$.a b", PathError::Sign(' ')),
            ("$.", PathError::Name),
            ("$..", PathError::Name),
            ("$.1", PathError::Name),
            ("$[?@.a]", PathError::Filter),
            ("$[(@.length-1)]", PathError::Filter),
            ("$[-1]", PathError::FromEnd),
            ("$[0:2]", PathError::Slice),
            ("$[:2]", PathError::Slice),
            ("$['a','b']", PathError::Union),
            ("$[0,1]", PathError::Union),
            ("$[]", PathError::Index),
            ("$[01]", PathError::Index),
            ("$[a]", PathError::Index),
            (r"$['\u0061']", PathError::Escape),
            ("$['a'", PathError::Open),
            ("$['a", PathError::Open),
            ("$[0", PathError::Open),
            (&long, PathError::TooLong),
        ] {
            let found = JsonRule::parse(text).unwrap_err();
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().is_empty());
        }
    }

    #[test]
    fn a_place_is_a_target_or_one_of_its_routes() {
        let is_of = |text: &str, target: &str, route: Option<&str>| JsonRule::parse(text).unwrap().is_of(target, route);
        assert!(is_of("$.a", "api", None) && is_of("$.a", "api", Some("/v1")));
        assert!(is_of("api:$.a", "api", None) && is_of("api:$.a", "api", Some("/v1")));
        assert!(!is_of("api:$.a", "ap", None) && !is_of("api:$.a", "apis", None));
        assert!(is_of("api/v1:$.a", "api", Some("/v1")));
        assert!(!is_of("api/v1:$.a", "api", None) && !is_of("api/v1:$.a", "api", Some("/v1/x")));
    }

    #[test]
    fn names_that_some_reader_takes_for_the_same_are_one() {
        for other in ["Email", "EMAIL", "emaIl"] {
            assert_eq!(fold(other), "email");
        }
        assert_eq!((fold("ſſn"), fold("\u{212a}ey"), fold("Ü")), ("ssn".into(), "key".into(), "ü".into()));
    }
}
