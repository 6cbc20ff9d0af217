//! Cookies between the agent and a target that is logged in to for it.
//!
//! What a target sets as a cookie once it has seen the credential is often as good as the credential, and lives longer: an agent
//! could carry it to where the target is reached without anybody in between. And what an agent brings as a cookie may be the log-in
//! of somebody else, which many targets look at first. So neither passes, unless the configuration says so. Not promised: tokens that
//! a target hands out in other fields or in bodies.

use serde::Deserialize;

use super::codec::Fields;

/// `cookies` of `[target.http]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cookies {
    /// They pass, both ways.
    Keep,
    /// They do not.
    #[default]
    Drop,
}

impl Cookies {
    /// Takes those of the agent out of a request.
    pub(super) fn asked(self, fields: &mut Fields) {
        self.removed(fields, &["cookie", "cookie2"]);
    }

    /// Takes those of the target out of an answer, or of its trailers.
    pub(super) fn answered(self, fields: &mut Fields) {
        self.removed(fields, &["set-cookie", "set-cookie2"]);
    }

    fn removed(self, fields: &mut Fields, names: &[&str]) {
        if self == Self::Drop {
            fields.0.retain(|field| !names.iter().any(|name| super::codec::is_alike(&field.name, name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec;
    use super::*;

    #[test]
    fn cookies_pass_where_the_configuration_says_so_alone() {
        let asked = "GET / HTTP/1.1\r\nHost: h\r\nCookie: a=b\r\nX-Cookie: c\r\n\r\n";
        let answered =
            "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nSet-Cookie2: e\r\nContent-Length: 0\r\n\r\n";
        for (cookies, of_request, of_answer) in [(Cookies::Keep, 3, 4), (Cookies::Drop, 2, 1)] {
            let mut fields = codec::request(asked.as_bytes()).unwrap().unwrap().0.fields;
            cookies.asked(&mut fields);
            assert_eq!((fields.0.len(), fields.get("x-cookie").is_some()), (of_request, true), "{cookies:?}");
            let mut fields = codec::response(answered.as_bytes()).unwrap().unwrap().0.fields;
            cookies.answered(&mut fields);
            assert_eq!(fields.0.len(), of_answer, "{cookies:?}");
        }
        assert_eq!(Cookies::default(), Cookies::Drop);
    }
}
