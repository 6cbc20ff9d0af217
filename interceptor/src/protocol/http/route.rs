//! Paths, queries and routes: what a request target means, read once, and only where everybody reads it alike.
//!
//! Servers differ in whether they resolve dots, join slashes, decode twice, take a backslash for a slash or cut at a
//! semicolon. Whatever depends on that is refused, so that a rule about `/v1/customers/7` cannot be walked around.

mod lenient;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::policy::{Action, ActionName};

/// The most segments that a path may have.
pub const SEGMENTS_LIMIT: usize = 32;
/// The most pairs that a query or a form may have.
pub const PAIRS_LIMIT: usize = 256;

/// A request target, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The segments of its path, decoded: none is empty but the last, and none is a dot or two.
    pub segments: Vec<String>,
    /// The pairs of its query, decoded, in order.
    pub query: Vec<(String, String)>,
}

/// Why a target is not taken: others may read something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// It names no path: a whole address, a host, or `*`.
    #[error("it is no path: a whole address may lead elsewhere than `Host` says")]
    Form,
    /// `%` without two hexadecimal digits, or what they stand for is no text.
    #[error("an escape in it is none, or stands for no text")]
    Escape,
    /// What is decoded is escaped again.
    #[error("it is escaped twice")]
    Twice,
    /// A slash or backslash that is one to some.
    #[error("a slash is escaped, or written as a backslash")]
    Slash,
    /// `.`, `..` or nothing between two slashes.
    #[error("a step of its path is empty, or made of dots")]
    Step,
    /// A semicolon, or a fragment.
    #[error("it has a semicolon or a fragment, at which some cut")]
    Cut,
    /// Too long to be looked at.
    #[error("it has more than {SEGMENTS_LIMIT} steps, or more than {PAIRS_LIMIT} pairs in its query")]
    TooLong,
}

impl Location {
    /// Reads a request target.
    ///
    /// # Errors
    /// [`Ambiguous`].
    pub fn read(target: &str) -> Result<Self, Ambiguous> {
        let path = target.strip_prefix('/').ok_or(Ambiguous::Form)?;
        if target.contains('#') || target.contains(';') {
            return Err(Ambiguous::Cut);
        }
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut segments = Vec::new();
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            let segment = decode(part, false)?;
            if segment.contains(['/', '\\']) {
                return Err(Ambiguous::Slash);
            }
            if segment.contains(';') {
                return Err(Ambiguous::Cut);
            }
            let is_last = parts.peek().is_none();
            if lenient::leads_up(&segment) || (segment.is_empty() && !is_last) {
                return Err(Ambiguous::Step);
            }
            segments.push(segment);
        }
        if segments.len() > SEGMENTS_LIMIT {
            return Err(Ambiguous::TooLong);
        }
        Ok(Self { segments, query: pairs(query)? })
    }

    /// The path, decoded.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}", self.segments.join("/"))
    }
}

/// The pairs of a query, or of a form that came as a body.
///
/// # Errors
/// [`Ambiguous`].
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, Ambiguous> {
    if text.contains(';') {
        return Err(Ambiguous::Cut);
    }
    let mut pairs = Vec::new();
    for part in text.split('&').filter(|part| !part.is_empty()) {
        if pairs.len() == PAIRS_LIMIT {
            return Err(Ambiguous::TooLong);
        }
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        pairs.push((decode(name, true)?, decode(value, true)?));
    }
    Ok(pairs)
}

/// A name that stands more than once, to some servers: they differ in whether the first, the last or all of them count, in
/// whether those of the query or of the body do, and some see no difference in case, or between `a.b`, `a b` and `a_b`, or take
/// `a[x]` for a part of `a`. Only a list that says that it is one, `a[]=1&a[]=2`, is read alike.
pub fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    for name in names {
        let base = name.split('[').next().unwrap_or(name);
        let base: String = base.to_lowercase().chars().map(|c| if matches!(c, '.' | ' ') { '_' } else { c }).collect();
        let before = seen.insert(base, name);
        if before.is_some_and(|before| before != name || !name.ends_with("[]")) {
            return Some(name);
        }
    }
    None
}

/// Decodes once. In a path, whatever is escaped again, and control characters, are refused.
fn decode(text: &str, in_query: bool) -> Result<String, Ambiguous> {
    let stands_for_itself = |byte: u8| byte.is_ascii_graphic() && byte != b'%' && byte != b'+';
    if text.bytes().all(stands_for_itself) {
        return Ok(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let digits = after.first_chunk::<2>().and_then(|two| std::str::from_utf8(two).ok());
                let digits = digits.filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
                let digits = digits.ok_or(Ambiguous::Escape)?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| Ambiguous::Escape)?);
                rest = after.get(2..).unwrap_or_default();
            }
            b'+' if in_query => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| Ambiguous::Escape)?;
    if in_query {
        return Ok(text);
    }
    if text.contains(char::is_control) {
        return Err(Ambiguous::Escape);
    }
    let again = text
        .split('%')
        .skip(1)
        .any(|after| after.as_bytes().first_chunk::<2>().is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)));
    if again { Err(Ambiguous::Twice) } else { Ok(text) }
}

/// A pattern of paths: `/v1/customers/{id}`; `{rest*}` at its end stands for one step or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    text: String,
    steps: Vec<Step>,
}

/// Ordered by how much it says: the most specific first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Literal(String),
    One,
    Rest,
}

impl Route {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("route `{text}`: {why}");
        let path = text.strip_prefix('/').ok_or_else(|| wrong("it begins with a slash"))?;
        let parts: Vec<&str> = path.split('/').collect();
        let mut steps = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            steps.push(match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(name) if name.ends_with('*') && is_last => Step::Rest,
                Some(name) if is_name(name) => Step::One,
                Some(_) => {
                    return Err(wrong("in braces stands a name of letters, digits and `_`; a `*` at the very end"));
                }
                None => {
                    Step::Literal(literal(part, is_last).ok_or_else(|| wrong("it is no path that a request can have"))?)
                }
            });
        }
        if steps.len() > SEGMENTS_LIMIT {
            return Err(wrong("it has too many steps"));
        }
        Ok(Self { text: text.to_owned(), steps })
    }

    /// The steps of the pattern, as policies name a route.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.text.strip_prefix('/').unwrap_or(&self.text).split('/')
    }

    /// Whether a path is one of those.
    #[must_use]
    pub fn is_match(&self, segments: &[String]) -> bool {
        let mut segments = segments.iter();
        for step in &self.steps {
            let Some(segment) = segments.next() else { return false };
            match step {
                Step::Literal(text) if text == segment => {}
                Step::One if !segment.is_empty() => {}
                Step::Rest => return true,
                _ => return false,
            }
        }
        segments.next().is_none()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The routes of a target, the most specific first.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    all: Vec<Route>,
    /// The same as lenient servers may read them.
    patterns: Vec<lenient::Pattern>,
    are_plain: bool,
    known: Arc<RwLock<Known>>,
}

/// What plain requests on a route ask for, made once: at most one for each method that policies know, for each route.
type Known = HashMap<(ActionName, Option<usize>), Arc<[Action]>>;

impl Routes {
    /// Reads patterns. Two that match the same paths are one too many.
    ///
    /// # Errors
    /// A sentence for each that is wrong.
    pub fn parse(texts: &[String]) -> Result<Self, Vec<String>> {
        let (mut routes, mut wrong) = (Vec::<Route>::new(), Vec::new());
        for text in texts {
            match Route::parse(text) {
                Ok(route) => match routes.iter().find(|known| known.steps == route.steps) {
                    Some(known) => wrong.push(format!("routes `{known}` and `{route}` are the same")),
                    None => routes.push(route),
                },
                Err(why) => wrong.push(why),
            }
        }
        routes.sort_by(|one, other| one.steps.cmp(&other.steps));
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let (patterns, are_plain) = (routes.iter().map(lenient::Pattern::of).collect(), lenient::are_plain(&routes));
        Ok(Self { all: routes, patterns, are_plain, known: Arc::default() })
    }

    /// The route of a path: step by step, what is written out goes before what stands for anything.
    #[must_use]
    pub fn find(&self, segments: &[String]) -> Option<&Route> {
        self.all.get(self.position(segments)?)
    }

    /// Others that some server could take the path for, or none: it is judged on them as well.
    #[must_use]
    pub fn beside(&self, segments: &[String]) -> Vec<Option<&Route>> {
        if self.all.is_empty() || (self.are_plain && lenient::is_plain(segments)) {
            return Vec::new();
        }
        let found = lenient::beside(&self.patterns, self.position(segments), segments);
        let routes = found.patterns.iter().filter_map(|at| self.all.get(*at)).map(Some);
        routes.chain(found.none.then_some(None)).collect()
    }

    /// What a request there asks for that asks for this alone: one and the same list for all of them, so that whoever has seen
    /// it need not look into it again. `make` makes it; it is asked with the same for the same.
    pub(super) fn plain(&self, name: ActionName, segments: &[String], make: impl FnOnce() -> Action) -> Arc<[Action]> {
        let key = (name, self.position(segments));
        if let Some(known) = self.known.read().get(&key) {
            return Arc::clone(known);
        }
        Arc::clone(self.known.write().entry(key).or_insert_with(|| Arc::from([make()])))
    }

    fn position(&self, segments: &[String]) -> Option<usize> {
        self.all.iter().position(|route| route.is_match(segments))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A step that is written out, as requests have it when they are decoded.
fn literal(part: &str, is_last: bool) -> Option<String> {
    let read = Location::read(&format!("/{part}")).ok()?;
    let [segment] = <[String; 1]>::try_from(read.segments).ok()?;
    let odd = !read.query.is_empty() || segment.contains(['{', '}', '*', '?']) || (segment.is_empty() && !is_last);
    (!odd).then_some(segment)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(target: &str) -> Result<String, Ambiguous> {
        Location::read(target).map(|location| location.path())
    }

    #[test]
    fn paths_are_decoded_once() {
        for (target, read) in [
            ("/", "/"),
            ("/v1/customers/7", "/v1/customers/7"),
            ("/v1/customers/", "/v1/customers/"),
            ("/a%20b/c%2Ed", "/a b/c.d"),
            ("/%C3%BC", "/ü"),
            ("/100%25", "/100%"),
            ("/a...b/.hidden", "/a...b/.hidden"),
            ("/a?x=/../b", "/a"),
        ] {
            assert_eq!(path(target).unwrap(), read, "{target}");
        }
    }

    #[test]
    fn whatever_two_servers_could_read_in_two_ways_is_refused() {
        use Ambiguous::{Cut, Escape, Form, Slash, Step, Twice};
        for (target, why) in [
            ("http://other/", Form),
            ("other:443", Form),
            ("*", Form),
            ("", Form),
            ("/a/../b", Step),
            ("/a/./b", Step),
            ("/a/%2e%2E/b", Step),
            ("/..", Step),
            ("/a/..%20/b", Step),
            ("/a/%20../b", Step),
            ("/a/%20/b", Step),
            ("/a/%EF%BC%8E%EF%BC%8E/b", Step),
            ("/a/x%EF%BC%8F..%EF%BC%8Fb", Step),
            ("/a%E2%88%95../b", Step),
            ("//b", Step),
            ("/a//b", Step),
            ("/a%2Fb", Slash),
            ("/a%5c..%5cb", Slash),
            ("/a\\b", Slash),
            ("/a%252e%252e/b", Twice),
            ("/a%25%32%66b", Twice),
            ("/a%00", Escape),
            ("/a%0d%0aX:1", Escape),
            ("/a%c0%af", Escape),
            ("/a%zz", Escape),
            ("/a%", Escape),
            ("/admin;x=1/b", Cut),
            ("/admin%3b/b", Cut),
            ("/a#b", Cut),
            ("/a?x=1;y=2", Cut),
            ("/a?x=%zz", Escape),
        ] {
            assert_eq!(Location::read(target).unwrap_err(), why, "{target}");
        }
        assert_eq!(Location::read(&"/a".repeat(33)).unwrap_err(), Ambiguous::TooLong);
        assert_eq!(Location::read(&format!("/?{}", "a&".repeat(257))).unwrap_err(), Ambiguous::TooLong);
    }

    #[test]
    fn queries_are_pairs() {
        let location = Location::read("/?a=1&b=x+y%26z&c&&=d&a=2").unwrap();
        let pairs: Vec<(&str, &str)> = location.query.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(pairs, [("a", "1"), ("b", "x y&z"), ("c", ""), ("", "d"), ("a", "2")]);
    }

    #[test]
    fn a_name_that_servers_could_take_for_another_is_repeated() {
        for (query, is) in [
            ("a=1&b=2", None),
            ("a[]=1&a[]=2", None),
            ("a[x]=1&b[x]=2", None),
            ("a=1&a=1", Some("a")),
            ("a=1&A=2", Some("A")),
            ("a=1&%61=2", Some("a")),
            ("a=1&a[]=2", Some("a[]")),
            ("a[]=1&a=2", Some("a")),
            ("a[x]=1&a[y]=2", Some("a[y]")),
            ("a.b=1&a_b=2", Some("a_b")),
            ("a+b=1&a.b=2", Some("a.b")),
        ] {
            let pairs = pairs(query).unwrap();
            assert_eq!(repeated(pairs.iter().map(|(name, _)| name.as_str())), is, "{query}");
        }
    }

    #[test]
    fn the_most_specific_route_is_found_whatever_their_order() {
        let texts = ["/v1/{rest*}", "/v1/{kind}/{id}", "/v1/customers/{id}", "/v1/customers/me", "/", "/v1/customers/"];
        let mut texts: Vec<String> = texts.map(str::to_owned).into();
        for _ in 0..texts.len() {
            texts.rotate_left(1);
            let routes = Routes::parse(&texts).unwrap();
            let found = |target: &str| routes.find(&Location::read(target).unwrap().segments).map(ToString::to_string);
            for (target, route) in [
                ("/v1/customers/me", Some("/v1/customers/me")),
                ("/v1/customers/7", Some("/v1/customers/{id}")),
                ("/v1/orders/7", Some("/v1/{kind}/{id}")),
                ("/v1/orders/7/items", Some("/v1/{rest*}")),
                ("/v1/customers/", Some("/v1/customers/")),
                ("/v1", None),
                ("/", Some("/")),
                ("/V1/customers/7", None),
            ] {
                assert_eq!(found(target).as_deref(), route, "{target}");
            }
        }
    }

    #[test]
    fn patterns_that_no_request_can_have_are_refused() {
        for text in ["v1", "/a/../b", "/a//b", "/{}", "/{a b}", "/{rest*}/b", "/a*", "/a{id}", "/a?b=1", "/a;b", "/%zz"]
        {
            assert!(Route::parse(text).is_err(), "{text}");
        }
        let same = Routes::parse(&["/a/{x}".to_owned(), "/a/{y}".to_owned()]).unwrap_err();
        assert!(same[0].contains("are the same"), "{same:?}");
    }

    fn shown(route: Option<&Route>) -> String {
        route.map_or_else(|| "-".to_owned(), ToString::to_string)
    }

    #[test]
    fn a_path_is_on_every_route_that_some_server_could_take_it_for() {
        let texts =
            ["/v1/{rest*}", "/v1/customers/{id}", "/v1/customers/me", "/v1/customers", "/admin", "/a/Keys/", "/a/keys"];
        let routes = Routes::parse(&texts.map(str::to_owned)).unwrap();
        let of_v1 = ["/v1/customers/me", "/v1/customers/{id}", "/v1/{rest*}"];
        for (target, beside) in [
            ("/v1/customers/me", &[][..]),
            ("/v1/customers/7", &[]),
            ("/v1/customers/ada.l@x.example", &[]),
            ("/v1/Orders/7", &[]),
            ("/v1/customers/Me", &["/v1/customers/me"]),
            ("/v1/customers/me/", &["/v1/customers/me", "/v1/customers/{id}"]),
            ("/v1/customers/", &["/v1/customers"]),
            ("/v1/customers/7/", &["/v1/customers/{id}"]),
            ("/v1/CUSTOMERS/7", &["/v1/customers/{id}"]),
            ("/V1/customers/me", &of_v1),
            ("/ADMIN", &["/admin"]),
            ("/admin/", &["/admin"]),
            ("/admin.", &["/admin"]),
            ("/admin.json", &["/admin"]),
            ("/admin%20", &["/admin"]),
            ("/admin%3fx", &["/admin"]),
            ("/admin%23/x", &["/admin"]),
            ("/%EF%BD%81dmin", &["/admin"]),
            ("/v1%EF%BC%8Fcustomers/me", &of_v1),
            ("/administrators", &[]),
            ("/V1/", &["/v1/{rest*}"]),
            ("/a/keys", &[]),
            ("/a/Keys/", &[]),
        ] {
            let location = Location::read(target).unwrap();
            let found: Vec<String> = routes.beside(&location.segments).into_iter().map(shown).collect();
            assert_eq!(found, beside, "{target}");
        }
        // What is read as another path may be on a route that says less, or on none.
        let texts = ["/users/{id}", "/users/{id}/keys", "/api/v1/{x}/public", "/api/{v}/{x}", "/files/{name}/open"];
        let routes = Routes::parse(&texts.map(str::to_owned)).unwrap();
        for (target, beside) in [
            ("/users/7%EF%BC%8Fkeys", &["/users/{id}/keys"][..]),
            ("/api/v1/7%3F/public", &["/api/{v}/{x}"]),
            ("/files/7%3F/open", &["-"]),
            ("/files/a.txt/open", &[]),
            ("/users/7%3F", &[]),
            ("/users/Ada%20L.", &[]),
        ] {
            let location = Location::read(target).unwrap();
            let found: Vec<String> = routes.beside(&location.segments).into_iter().map(shown).collect();
            assert_eq!(found, beside, "{target}");
        }
        assert!(Routes::default().beside(&["ADMIN".to_owned()]).is_empty());
    }

    proptest! {
        /// What is taken says the same again: nothing in it is left to be decoded, resolved or joined.
        #[test]
        fn a_path_that_was_read_reads_as_itself(target in "/[a-z%2eEfF./\\\\;?#]{0,24}") {
            if let Ok(location) = Location::read(&target) {
                for segment in &location.segments {
                    let escaped: String = segment.bytes().map(|byte| format!("%{byte:02X}")).collect();
                    prop_assert_eq!(&Location::read(&format!("/{escaped}")).unwrap().segments, &vec![segment.clone()]);
                    prop_assert!(segment != "." && segment != ".." && !segment.contains(['/', '\\', ';']));
                }
            }
        }
    }
}
