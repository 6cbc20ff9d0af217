//! Tokens among the protocols that are offered for a WebSocket (`Sec-WebSocket-Protocol`), where browsers have no other place for them.
//!
//! They stand behind a name that says so (`bearer, TOKEN`; `base64url.bearer.authorization.k8s.io.TOKEN`; `header-TOKEN`), or are known by how
//! they look. Not found: what neither has such a name nor looks like a secret.

use super::names;

/// The field.
pub(in crate::protocol::http) const FIELD: &str = "sec-websocket-protocol";

/// Protocols that say of the next one that it is a token.
const ANNOUNCING: &[&str] = &[
    "access-token",
    "access_token",
    "accesstoken",
    "api-key",
    "api_key",
    "apikey",
    "auth",
    "authentication",
    "authorization",
    "basic",
    "bearer",
    "id_token",
    "jwt",
    "token",
    "x-api-key",
];
/// What protocols begin with, or have within, that have a token behind that.
const PREFIXED: &[&str] = &["authorization.", "basic.", "bearer.", "bearer-", "header-", "jwt.", "token."];
const WITHIN: &[&str] = &[".bearer.", ".token.", ".jwt.", "-key.", "_key.", "-token.", "_token."];
/// What has a name like that without a token: each is there to say that tokens are understood.
const NONE: &[&str] = &["v1.token.websocket.jupyter.org"];

/// Whether a token stands in a value of that field.
pub(in crate::protocol::http) fn has_token(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|name| is_token(&String::from_utf8_lossy(name.trim_ascii())))
}

fn is_token(name: &str) -> bool {
    let folded = name.to_ascii_lowercase();
    let is_listed = |list: &[&str]| list.contains(&&*folded);
    if is_listed(NONE) {
        return false;
    }
    is_listed(ANNOUNCING)
        || PREFIXED.iter().any(|prefix| folded.starts_with(prefix))
        || WITHIN.iter().any(|within| folded.contains(within))
        || names::is_uuid(name)
        || name.split(|c: char| !c.is_ascii_alphanumeric()).any(is_drawn)
}

/// Whether nobody would think of that word: long, of letters and digits.
fn is_drawn(word: &str) -> bool {
    const SHORTEST: usize = 16;
    let has = |is: fn(&u8) -> bool| word.bytes().any(|byte| is(&byte));
    word.len() >= SHORTEST && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_from_protocols() {
        for offered in [
            "bearer, x",
            "Authorization,x",
            "access_token, eyJhbGciOiJIUzI1NiJ9.e30.x",
            "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.dG9rZW4",
            "v1.kernel.websocket.jupyter.org, v1.token.websocket.jupyter.org.abc",
            "graphql-ws, header-eyJ4LWFwaS1rZXkiOiJhIn0",
            "aws-appsync-event-ws, Header-e30",
            "realtime, openai-insecure-api-key.sk-1, openai-beta.realtime-v1",
            "phoenix, base64url.bearer.phx.YQ",
            "token, abc",
            "jwt, abc",
            "graphql-ws, 4f9c1d2e3b4a59687f",
            "chat, 0f8fad5b-d9cb-469f-a165-70867728950e",
            "x, eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2ln",
        ] {
            assert!(has_token(offered.as_bytes()), "{offered}");
        }
        for offered in [
            "graphql-ws, graphql-transport-ws",
            "v4.channel.k8s.io, v5.channel.k8s.io, SPDY/3.1+portforward.k8s.io",
            "base64.channel.k8s.io",
            "v1.kernel.websocket.jupyter.org, v1.token.websocket.jupyter.org",
            "aws-appsync-event-ws",
            "json.reliable.webpubsub.azure.v1",
            "openai-beta.realtime-v1, realtime",
            "mqtt, mqttv3.1, v12.stomp, wamp.2.msgpack",
            "ocpp1.6, ocpp2.0.1",
            "mcp-2025-06-18",
            "vite-hmr, actioncable-v1-json, actioncable-unsupported",
            "gremlin-2025-11-25-preview",
            "",
        ] {
            assert!(!has_token(offered.as_bytes()), "{offered}");
        }
    }
}
