//! Tests of the configuration: what is read, what is refused, and what globs match.

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    #[serde(default)]
    issuer: Vec<IssuerConfig>,
    #[serde(default)]
    agent: Vec<AgentConfig>,
}

const CORP: &str = "[[issuer]]\nname='corp'\nkind='oidc'\nissuer='https://idp.example'\naudience='interceptor'\n";

fn agent(name: &str, matches: &str, token: &str) -> String {
    format!("[[agent]]\nname='{name}'\nmatch={{{matches}}}\ntoken={{issuer='corp',subject='svc',{token}}}\n")
}

fn read(text: &str) -> Result<Root, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

fn faults(text: &str) -> Vec<String> {
    let root = read(text).unwrap();
    validate(&root.issuer, &root.agent).iter().map(ToString::to_string).collect()
}

fn glob(pattern: &str, text: &str) -> bool {
    pattern.parse::<Glob>().unwrap().is_match(text)
}

#[test]
fn the_example_is_read() {
    let text = CORP.to_owned()
        + &agent(
            "billing-bot",
            "cgroup='/agents.slice/billing-*.service', uid=1001, exe_sha256=['0000000000000000000000000000000000000000000000000000000000000000']",
            "from='file:/run/credentials/{unit}/token', groups=['finance']",
        );
    let root = read(&text).unwrap();
    assert!(validate(&root.issuer, &root.agent).is_empty());
    assert_eq!(root.agent[0].matches.uid, [1001]);
    assert_eq!(root.agent[0].token.from, Source::File("/run/credentials/{unit}/token".to_owned()));
    let issuer = &root.issuer[0];
    assert_eq!((issuer.leeway_seconds, issuer.max_lifetime_seconds, issuer.offline_hours), (30, 86_400, 24));
    assert_eq!(issuer.algorithms.len(), 4);
    assert_eq!(issuer.jwks, JwksSource::Discovery);
}

#[test]
fn bad_values_are_refused_where_they_stand() {
    let issuer = |extra: &str| read(&format!("{CORP}{extra}\n")).unwrap_err();
    for (extra, says) in [
        ("algorithms=['HS256']", "can also forge"),
        ("algorithms=['none']", "no signature"),
        ("algorithms=['RS257']", "unknown algorithm"),
        ("algorithms=[]", "empty"),
        ("leeway_seconds=301", "between 0 and 300"),
        ("max_lifetime_seconds=0", "between 1"),
        ("offline_hours=0", "between 1"),
        ("jwks='http://idp.example/jwks'", "must be https"),
        ("jwks='jwks.json'", "scheme"),
        ("surprise=1", "unknown field"),
    ] {
        let error = issuer(extra);
        assert!(error.contains(says) && error.contains("line 6"), "{extra}: {error}");
    }
    for kind in ["saml", "spiffe"] {
        let error = read(&CORP.replace("'oidc'", &format!("'{kind}'"))).unwrap_err();
        assert!(error.contains("not supported yet"), "{error}");
    }
    let agent = |matches: &str, token: &str| read(&agent("a", matches, token)).unwrap_err();
    for (matches, says) in [
        ("cgroup='agents.slice/*'", "starts with /"),
        ("cgroup='/a[!b]c'", "character classes"),
        ("cgroup='/a{b'", "bad glob"),
        ("cgroup=''", "empty glob"),
        ("cgroup=[]", "list is empty"),
        ("exe='python3'", "starts with /"),
        ("uid='root'", "invalid type"),
        ("uid=-1", "invalid value"),
        ("exe_sha256='abc'", "64 hexadecimal"),
        ("pid=1", "unknown field"),
    ] {
        let error = agent(matches, "from='connection'");
        assert!(error.contains(says), "{matches}: {error}");
    }
    for (from, says) in [
        ("file:token", "absolute"),
        ("file:/run/{user}/token", "placeholders"),
        ("env:", "name of a variable"),
        ("vault:x", "a token comes from"),
    ] {
        let error = agent("uid=1", &format!("from='{from}'"));
        assert!(error.contains(says), "{from}: {error}");
    }
}

#[test]
fn an_agent_needs_a_fact_that_binds() {
    for matches in ["", "exe='/usr/bin/python3'"] {
        let found = faults(&(CORP.to_owned() + &agent("a", matches, "from='connection'")));
        assert!(found.len() == 1 && found[0].contains("at least one of"), "{found:?}");
    }
}

#[test]
fn references_and_doubles_are_found_all_at_once() {
    let text = agent("a", "uid=1", "from='connection'") + &agent("a", "uid=1", "from='env:T'");
    let found = faults(&text);
    for says in ["no [[issuer]] is named", "used twice", "nothing tells it from"] {
        assert!(found.iter().any(|fault| fault.contains(says)), "{says}: {found:?}");
    }
    let twice = faults(&(CORP.to_owned() + CORP));
    assert!(twice[0].contains("used twice"), "{twice:?}");
    let plain = faults(&CORP.replace("https:", "http:"));
    assert!(plain[0].contains("must be https"), "{plain:?}");
}

#[test]
fn stars_stop_at_slashes() {
    let service = "/agents.slice/billing-*.service";
    assert!(glob(service, "/agents.slice/billing-1.service"));
    for other in [
        "/agents.slice/billing-1.service/child",
        "/agents.slice/billing-x/evil.service",
        "/agents.slice/billing-1.service/",
        "/x/agents.slice/billing-1.service",
        "/agents.slice/billing-1xservice",
        "/agents.slice/Billing-1.service",
        "agents.slice/billing-1.service",
    ] {
        assert!(!glob(service, other), "{other}");
    }
    assert!(!glob("/a?b", "/a/b"));
    assert!(!glob("/a/*", "/a/b/c"));
    assert!(!glob("/a/*", "/a"));
    assert!(glob("/a/**", "/a/b/c"));
    assert!(!glob("/a/**", "/a"));
    assert!(!glob("/a/**", "/ab/c"));
    assert!(glob("/a/{b,c}.service", "/a/c.service"));
    assert!(!glob("/a/{b,c}.service", "/a/d.service"));
}

#[test]
fn backslashes_are_themselves() {
    // As systemd escapes a dash.
    assert!(glob(r"/a.slice/b\x2dc.service", r"/a.slice/b\x2dc.service"));
    assert!(!glob(r"/a.slice/b\x2dc.service", "/a.slice/bx2dc.service"));
}
