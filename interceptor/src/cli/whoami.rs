//! `interceptor whoami --pid N`: the identity that a process would get, and why, or why not.
//!
//! Owns the rendering alone; what is rendered comes from `identity::Attestor::explain`. Foreign text (paths, names) is
//! escaped, so that a process cannot write to the terminal of whoever looks at it.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};

use crate::identity::explain::{AgentView, Outcome, TokenState, WhoAmI};

/// Writes `who` as one JSON document.
///
/// # Errors
/// When `out` cannot be written.
pub fn json(who: &WhoAmI, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, who)?;
    writeln!(out)
}

/// Writes `who` for people.
///
/// # Errors
/// When `out` cannot be written.
pub fn table(who: &WhoAmI, out: &mut dyn Write) -> io::Result<()> {
    verdict(who, out)?;
    writeln!(out, "\nfacts")?;
    let mut facts = empty(&["fact", "value", "read from"]);
    for fact in &who.facts {
        let value = fact.value.as_deref().map_or_else(|| "-".to_owned(), shown);
        facts.add_row([fact.name.clone(), value, fact.source.clone()]);
    }
    writeln!(out, "{facts}")?;
    for agent in &who.agents {
        writeln!(out, "\nagent {}", shown(&agent.name))?;
        writeln!(out, "{}", agent_table(agent))?;
    }
    if who.agents.is_empty() {
        writeln!(out, "\nno [[agent]] is configured")?;
    }
    Ok(())
}

fn verdict(who: &WhoAmI, out: &mut dyn Write) -> io::Result<()> {
    let pid = who.pid;
    match &who.outcome {
        Outcome::Identity { name, groups, expires_at } => {
            writeln!(out, "process {pid} is {}", shown(name))?;
            writeln!(out, "  groups   {}", if groups.is_empty() { "-".to_owned() } else { shown(&groups.join(", ")) })?;
            writeln!(out, "  until    {expires_at}")
        }
        Outcome::Depends { agents } => {
            writeln!(out, "process {pid} is {}, if its token is", shown(&agents.join(" or ")))?;
            writeln!(out, "  the token comes with the connection, as its password")
        }
        Outcome::Refused { error } => {
            writeln!(out, "process {pid} has no identity")?;
            writeln!(out, "  reason   {}", shown(&error.reason))?;
            writeln!(out, "  remedy   {}", shown(&error.remedy))
        }
    }
}

fn agent_table(agent: &AgentView) -> Table {
    let mut table = empty(&["", "asks for", "wanted", "found"]);
    for criterion in &agent.criteria {
        let found = criterion.got.as_deref().map_or_else(|| "-".to_owned(), shown);
        table.add_row([mark(criterion.holds), &criterion.name, &shown(&criterion.expected), &found]);
    }
    let (sign, state) = match &agent.token {
        TokenState::Valid => (mark(true), "valid".to_owned()),
        TokenState::Refused(why) => (mark(false), shown(why)),
        TokenState::WithConnection => ("?", "comes with the connection".to_owned()),
    };
    table.add_row([sign, "token", &shown(&agent.token_from), &state]);
    table
}

const fn mark(holds: bool) -> &'static str {
    if holds { "yes" } else { "NO" }
}

fn empty(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

/// Foreign text without control characters.
fn shown(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::explain::{Criterion, Fact};

    #[test]
    fn a_process_cannot_write_to_the_terminal() {
        let nasty = "/tmp/\u{1b}]0;pwned\u{7}\n\u{9b}31m".to_owned();
        let who = WhoAmI {
            pid: 7,
            facts: vec![Fact { name: "exe".into(), value: Some(nasty.clone()), source: "/proc".into() }],
            agents: vec![AgentView {
                name: "bot".into(),
                criteria: vec![Criterion {
                    name: "exe".into(),
                    expected: "/usr/bin/x".into(),
                    got: Some(nasty.clone()),
                    holds: false,
                }],
                token_from: "connection".into(),
                token: TokenState::Refused(nasty),
            }],
            outcome: Outcome::Depends { agents: vec!["bot".into()] },
        };
        let mut out = Vec::new();
        table(&who, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains("if its token is") && text.contains("NO"), "{text}");
    }
}
