//! Names that stand as values themselves, beside those that they name: `{"name": "DB_PASSWORD", "value": ...}`.

use super::json::Hides;

/// Names of what says in words what the value beside it is called: variables of environments are written so, tags, parameters.
const NAMES: &[&str] = &["key", "name", "parameterkey", "parametername"];
/// Names of what says of which kind that is: they say much else elsewhere, so few words count.
const KINDS: &[&str] = &["attribute", "field", "property", "type", "variable"];
/// Those words, without what is neither letter nor digit.
const SECRETS: &[&str] = &[
    "apikey",
    "clientsecret",
    "credential",
    "credentials",
    "currentpassword",
    "cvc",
    "cvv",
    "dbpassword",
    "newpassword",
    "oldpassword",
    "otp",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "pin",
    "privatekey",
    "secret",
    "secretaccesskey",
    "secretkey",
    "secretstring",
    "securestring",
    "totp",
    "unicodepwd",
    "userpassword",
];
/// Those that are secrets where they are texts: of numbers, they are what is traded.
const TOKENS: &[&str] = &[
    "accesstoken",
    "apitoken",
    "authtoken",
    "bearertoken",
    "idtoken",
    "jwt",
    "refreshtoken",
    "securitytoken",
    "sessiontoken",
    "token",
];
/// Names of such values.
const VALUES: &[&str] = &["parametervalue", "stringvalue", "value", "values"];

/// What something says of the values beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Says {
    /// Nothing.
    Nothing,
    /// Texts are secrets.
    Texts,
    /// Numbers are as well.
    All,
}

/// Whether what stands under that name may say what the value beside it is of.
#[must_use]
pub fn is_name(name: &str) -> bool {
    [NAMES, KINDS].iter().any(|list| listed(list, name).is_some())
}

/// Whether that is the name of such a value.
#[must_use]
pub fn is_value(name: &str) -> bool {
    value(name).is_some()
}

/// That name, in lower case.
pub(super) fn value(name: &str) -> Option<&'static str> {
    listed(VALUES, name)
}

/// What stands under a name says of the values beside it.
pub(super) fn says(name: &str, said: &str, hides: &dyn Fn(&str) -> Hides) -> Says {
    if listed(NAMES, name).is_some() {
        return if hides(said) > Hides::Nothing { Says::All } else { Says::Nothing };
    }
    if listed(KINDS, name).is_none() {
        return Says::Nothing;
    }
    let plain: String = said.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    if SECRETS.contains(&&*plain) {
        Says::All
    } else if TOKENS.contains(&&*plain) {
        Says::Texts
    } else {
        Says::Nothing
    }
}

fn listed(list: &[&'static str], name: &str) -> Option<&'static str> {
    list.iter().find(|known| known.eq_ignore_ascii_case(name)).copied()
}

/// Whether that is a number, as forms and lines have it.
pub(super) fn is_number(value: &str) -> bool {
    value.trim().parse::<f64>().is_ok()
}
