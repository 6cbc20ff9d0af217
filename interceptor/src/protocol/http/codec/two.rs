//! Heads of HTTP/2 (RFC 9113, section 8.3) to those of HTTP/1.1 and back, so that all that is judged, masked and recorded is
//! the same for both.
//!
//! Frames and their compression are the library's, which refuses names in upper case, fields that belong to one connection,
//! pseudo-fields that stand twice or too late, and bodies that are longer or shorter than they say. What two readers could
//! take for two things beyond that is refused here.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode, Version};

use super::{FIELDS_LIMIT, Field, Fields, Length, Malformed, RequestHead, ResponseHead, TARGET_LIMIT, check, is_host};

/// Reads the head of a request that came over such a connection. `over`: whether all of it has come.
///
/// # Errors
/// [`Malformed`].
pub fn request(request: &http::request::Parts, scheme: &Scheme, over: bool) -> Result<RequestHead, Malformed> {
    let target = request.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if target.len() > TARGET_LIMIT || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Malformed::RequestLine);
    }
    // It would say that it comes, or goes, by another way than it does.
    if request.uri.scheme().is_some_and(|named| named != scheme) {
        return Err(Malformed::Host);
    }
    let mut fields = fields(&request.headers)?;
    let named = request.uri.authority().map(Authority::as_str);
    let host = match (named, fields.text("host")) {
        (Some(named), Some(host)) if named != host => return Err(Malformed::Host),
        (Some(host), _) | (None, Some(host)) => host.to_owned(),
        (None, None) => return Err(Malformed::Host),
    };
    if host.is_empty() || !host.bytes().all(is_host) {
        return Err(Malformed::Host);
    }
    fields.remove("host");
    fields.0.insert(0, Field::new("host", host));
    let length = length(&fields, over)?;
    Ok(RequestHead { method: request.method.as_str().into(), target: target.to_owned(), fields, length })
}

/// Reads the head of an answer.
///
/// # Errors
/// [`Malformed`].
pub fn response(response: &http::response::Parts, over: bool) -> Result<ResponseHead, Malformed> {
    let fields = fields(&response.headers)?;
    let length = length(&fields, over)?;
    let reason = response.status.canonical_reason().unwrap_or_default().into();
    Ok(ResponseHead { status: response.status.as_u16(), reason, fields, length })
}

/// Reads trailers.
///
/// # Errors
/// [`Malformed`].
pub fn fields(map: &HeaderMap) -> Result<Fields, Malformed> {
    if map.len() > FIELDS_LIMIT {
        return Err(Malformed::TooLarge);
    }
    let mut fields = Vec::with_capacity(map.len());
    // What compresses better in pieces is one field all the same (section 8.2.3).
    let mut cookies: Vec<u8> = Vec::new();
    for (name, value) in map {
        let value = value.as_bytes().trim_ascii();
        if name == "cookie" {
            if !cookies.is_empty() {
                cookies.extend_from_slice(b"; ");
            }
            cookies.extend_from_slice(value);
            continue;
        }
        fields.push(Field::new(name.as_str(), Bytes::copy_from_slice(value)));
    }
    if !cookies.is_empty() {
        fields.push(Field::new("cookie", cookies));
    }
    let fields = Fields(fields);
    check(&fields)?;
    Ok(fields)
}

impl RequestHead {
    /// The same as a head of HTTP/2.
    ///
    /// # Errors
    /// A sentence: it cannot be said there.
    pub fn to_two(&self, scheme: &Scheme) -> Result<Request<()>, String> {
        let path = PathAndQuery::try_from(self.target.as_str()).map_err(|error| error.to_string())?;
        let host = self.fields.text("host").unwrap_or_default();
        let authority = Authority::try_from(host).map_err(|error| error.to_string())?;
        if path.as_str() != self.target || authority.as_str() != host {
            return Err("its path or host is another in HTTP/2".to_owned());
        }
        let mut parts = http::uri::Parts::default();
        (parts.scheme, parts.authority, parts.path_and_query) = (Some(scheme.clone()), Some(authority), Some(path));
        let mut request = Request::new(());
        *request.method_mut() = Method::from_bytes(self.method.as_bytes()).map_err(|error| error.to_string())?;
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| error.to_string())?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.fields.to_two("host")?;
        Ok(request)
    }
}

impl ResponseHead {
    /// The same as a head of HTTP/2.
    ///
    /// # Errors
    /// A sentence: it cannot be said there.
    pub fn to_two(&self) -> Result<Response<()>, String> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(self.status).map_err(|error| error.to_string())?;
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = self.fields.to_two("")?;
        Ok(response)
    }
}

impl Fields {
    /// All but those of one name, which is said in another way.
    ///
    /// # Errors
    /// A sentence: one cannot be said there.
    pub fn to_two(&self, but: &str) -> Result<HeaderMap, String> {
        let mut map = HeaderMap::with_capacity(self.0.len());
        for field in self.0.iter().filter(|field| field.name != but) {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|error| error.to_string())?;
            let mut value = HeaderValue::from_maybe_shared(field.value.clone()).map_err(|error| error.to_string())?;
            // Whoever can guess at it next to it could find it out by how well both compress (RFC 7541, section 7.1.3).
            value.set_sensitive(matches!(field.name.as_str(), "authorization" | "cookie" | "set-cookie"));
            map.append(name, value);
        }
        Ok(map)
    }
}

fn length(fields: &Fields, over: bool) -> Result<Length, Malformed> {
    if fields.get("transfer-encoding").is_some() {
        return Err(Malformed::Framing);
    }
    let said = super::framing(fields)?;
    Ok(if over { Length::Known(0) } else { said.unwrap_or(Length::Chunked) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str, fields: &[(&str, &str)]) -> Result<RequestHead, Malformed> {
        let mut asked = Request::builder().uri(uri).version(Version::HTTP_2);
        for (name, value) in fields {
            asked = asked.header(*name, *value);
        }
        request(&asked.body(()).unwrap().into_parts().0, &Scheme::HTTPS, false)
    }

    #[test]
    fn a_head_is_the_same_in_both() {
        let head = read("https://h.test:8443/a/b?c=d", &[("x", "1"), ("cookie", "a=1"), ("cookie", "b=2"), ("x", "2")]);
        let head = head.unwrap();
        assert_eq!((head.method.as_str(), head.target.as_str()), ("GET", "/a/b?c=d"));
        assert_eq!(head.fields.text("host"), Some("h.test:8443"));
        assert_eq!(head.fields.all("cookie").collect::<Vec<_>>(), [b"a=1; b=2"]);
        assert_eq!(head.fields.all("x").count(), 2);
        assert_eq!(head.length, Length::Chunked);
        let again = head.to_two(&Scheme::HTTPS).unwrap();
        assert_eq!(again.uri(), "https://h.test:8443/a/b?c=d");
        assert!(!again.headers().contains_key("host"));
        assert_eq!(request(&again.into_parts().0, &Scheme::HTTPS, false).unwrap(), head);
        assert_eq!(read("/a", &[("host", "h.test")]).unwrap().fields.text("host"), Some("h.test"));
    }

    #[test]
    fn what_two_could_take_for_two_things_is_refused() {
        for (uri, fields, why) in [
            ("https://h.test/", &[("host", "other.test")][..], Malformed::Host),
            ("http://h.test/", &[], Malformed::Host),
            ("/", &[], Malformed::Host),
            ("https://user@h.test/", &[], Malformed::Host),
            ("https://h.test/", &[("content-length", "1"), ("content-length", "2")], Malformed::Twice),
            ("https://h.test/", &[("content-length", "+1")], Malformed::Framing),
            ("https://h.test/", &[("content_length", "1")], Malformed::Framing),
            ("https://h.test/", &[("transfer-encoding", "chunked")], Malformed::Framing),
            ("https://h.test/", &[("x-a", "1"), ("x_a", "2")], Malformed::Twice),
            ("https://h.test/", &[("authorization", "a"), ("authorization", "b")], Malformed::Twice),
        ] {
            assert_eq!(read(uri, fields), Err(why), "{uri} {fields:?}");
        }
    }
}
