//! Paths and routes: no input panics; what is read says the same again; and whatever route a server takes a path for that sees no
//! difference in case, or between a slash at its end and none, is one that the path is judged on, or says less than that.
#![no_main]

use std::sync::LazyLock;

use interceptor::protocol::http::route::{Location, Route, Routes};

static ROUTES: LazyLock<Routes> = LazyLock::new(|| {
    let texts = ["/", "/a", "/a/{x}", "/a/b", "/a/B/{x}", "/A/{x}/c", "/admin", "/a/{rest*}", "/c/d/", "/c.json"];
    Routes::parse(&texts.map(str::to_owned)).expect("they are routes")
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(location) = Location::read(text) else { return };
    for segment in &location.segments {
        assert!(segment != "." && segment != ".." && !segment.contains(['/', '\\', ';']));
    }
    // With every character escaped, it is the same path to whoever reads it.
    let escaped = |text: &String| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let path: Vec<String> = location.segments.iter().map(escaped).collect();
    let query: Vec<String> =
        location.query.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
    if let Ok(again) = Location::read(&format!("/{}?{}", path.join("/"), query.join("&"))) {
        assert_eq!((&again.segments, &again.query), (&location.segments, &location.query));
    }
    let on = ROUTES.find(&location.segments);
    let beside = ROUTES.beside(&location.segments).into_iter().flatten();
    let judged: Vec<String> = on.into_iter().chain(beside).map(ToString::to_string).collect();
    let path = text.split('?').next().unwrap_or_default();
    for other in [path.to_ascii_lowercase(), path.to_ascii_uppercase(), path.trim_end_matches('/').to_owned()] {
        let Ok(other) = Location::read(&other) else { continue };
        if let Some(route) = ROUTES.find(&other.segments) {
            // A route that has the other path as well says more than what is found for it.
            let lower = |text: &str| text.trim_end_matches('/').to_ascii_lowercase();
            let has_both = on
                .and_then(|on| Route::parse(&lower(&on.to_string())).ok())
                .is_some_and(|own| Location::read(&lower(path)).is_ok_and(|lower| own.is_match(&lower.segments)));
            assert!(has_both || judged.contains(&route.to_string()), "{text}: {route} is not in {judged:?}");
        }
    }
});
