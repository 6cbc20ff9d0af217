//! What of a cluster's answers is a secret by its kind, whatever the configuration says: the data of Secrets, and tokens of
//! service accounts that a cluster makes.

use std::collections::BTreeSet;

use crate::mask::{Config, Transform};

/// The tag of those values: policies permit `unmask` of it, or it is masked.
pub const TAG: &str = "secret";

/// Where an object stands in an answer: alone, in a list, in what a watch says, in a table, and in a table that a watch says.
const FORMS: [&str; 5] = ["$", "$.items[*]", "$.object", "$.rows[*].object", "$.object.rows[*].object"];

/// Subresources that answer something else than the object that they are of.
pub(super) const APART: [&str; 9] =
    ["attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "scale", "token"];

/// Names by which requests say what stands in a Secret: an object's, and those of a patch. Annotations may have copies.
pub(super) const SAID: [&str; 5] =
    ["data", "stringData", "value", "annotations", "kubectl.kubernetes.io/last-applied-configuration"];
/// Where requests say again what stands in an object of any kind.
pub(super) const SAID_AGAIN: [&str; 1] = ["kubectl.kubernetes.io/last-applied-configuration"];

/// Where a `Status` says what is wrong, and of which value.
pub(super) const FAILURE: [&str; 2] = ["$.message", "$.details.causes[*].message"];

/// Where a table has the values that a server prints of an object.
const CELLS: [&str; 2] = ["$.rows[*].cells[*]", "$.object.rows[*].cells[*]"];
/// Where clients keep what they have applied last, whatever the kind.
const APPLIED: &str = ".metadata.annotations['kubectl.kubernetes.io/last-applied-configuration']";

/// What else shows the values at the paths of an entry of the configuration, in the answers of a target: copies of what was
/// applied last, and tables.
#[must_use]
pub fn beside(target: &str, own: &Config) -> Option<Config> {
    let places = own.json.iter().filter_map(|path| {
        let place = if path.starts_with('$') { "" } else { path.split_once(":$").map_or("", |(place, _)| place) };
        if place.is_empty() {
            return Some(target.to_owned());
        }
        let rest = place.strip_prefix(target)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| place.to_owned())
    });
    let places: BTreeSet<String> = places.collect();
    let json: Vec<String> = places
        .iter()
        .flat_map(|place| {
            let copies = FORMS.iter().map(move |form| format!("{place}:{form}{APPLIED}"));
            copies.chain(CELLS.iter().map(move |cells| format!("{place}:{cells}")))
        })
        .collect();
    (!json.is_empty()).then(|| Config { columns: Vec::new(), detect: Vec::new(), base64: false, json, ..own.clone() })
}

/// The masks of a target. `transform` is what the configuration makes of the tag.
#[must_use]
pub fn of(target: &str, transform: Transform) -> [Config; 2] {
    let paths = |place: &str, inner: &[&str]| -> Vec<String> {
        let whole = FORMS.iter().flat_map(|form| inner.iter().map(move |path| format!("{form}{path}")));
        whole.map(|path| format!("{target}/{place}:{path}")).collect()
    };
    // Annotations hold what was applied last, and whatever other tools keep of it.
    let mut plain = paths("core/secrets", &[".stringData.*", ".metadata.annotations.*"]);
    plain.extend(paths("core/serviceaccounts/token", &[".status.token"]));
    let data = paths("core/secrets", &[".data.*"]);
    let mask =
        |json, base64| Config { tag: TAG.to_owned(), columns: Vec::new(), json, detect: Vec::new(), base64, transform };
    [mask(plain, false), mask(data, true)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_masked_by_path_is_masked_in_copies_and_tables() {
        let own = |json: &str| Config {
            tag: "pii".into(),
            columns: Vec::new(),
            json: vec![json.into()],
            detect: Vec::new(),
            base64: true,
            transform: Transform::Token,
        };
        let found = beside("prod", &own("prod/apps/deployments:$..env[*].value")).unwrap();
        assert_eq!((found.json.len(), found.base64, found.transform), (7, false, Transform::Token));
        assert!(found.json.contains(&format!("prod/apps/deployments:$.items[*]{APPLIED}")), "{found:?}");
        assert!(found.json.contains(&"prod/apps/deployments:$.rows[*].cells[*]".to_owned()));
        assert!(beside("prod", &own("$.a")).unwrap().json.iter().all(|path| path.starts_with("prod:$")));
        assert!(beside("prod", &own("production/x/y:$.a")).is_none() && beside("prod", &own("api:$.a")).is_none());
        // Each is a path that masks can have.
        crate::mask::Rules::compile(&[found], None).unwrap();
    }
}
