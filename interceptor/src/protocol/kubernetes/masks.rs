//! What of a cluster's answers is a secret by its kind, whatever the configuration says: the data of Secrets, and tokens of
//! service accounts that a cluster makes.

use crate::mask::{Config, Transform};

/// The tag of those values: policies permit `unmask` of it, or it is masked.
pub const TAG: &str = "secret";

/// Where an object stands in an answer: alone, in a list, in what a watch says, in a table, and in a table that a watch says.
const FORMS: [&str; 5] = ["$", "$.items[*]", "$.object", "$.rows[*].object", "$.object.rows[*].object"];

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
