//! `interceptor policy`: test policies against case files, and explain decisions. Works offline, on a copy of the policies.
//!
//! Owns arguments, listings and exit codes: 0 all is well (`explain`: permitted), 1 a case failed (`explain`: denied),
//! 2 the input cannot be used, 3 (`explain`) held. Does not print to standard output itself.

pub mod cases;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};

use crate::policy::evaluate::Verdict;
use crate::policy::{Explanation, TagSet};
use cases::{Analyse, Ask, AskAlone, AskedAction, CaseError, Outcome};

/// Where the policies are, unless told otherwise.
pub const DEFAULT_DIR: &str = "/etc/interceptor/policies";

/// `interceptor policy ...`
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// The subcommands.
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// Run the *.cases.toml files of a folder: each states requests and the decisions that are expected
    Test(TestArgs),
    /// Say what policy decides on a request, by which rules, and what would change the answer
    Explain(Box<ExplainArgs>),
}

/// `interceptor policy test [DIR]`
#[derive(Clone, Debug, Args)]
pub struct TestArgs {
    /// Folder with policies and case files; that of the configuration where absent
    pub dir: Option<PathBuf>,
}

/// `interceptor policy explain`
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Folder with the policies; that of the configuration where absent
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// File with the request, as a case states it (TOML, or JSON where the name ends in .json)
    #[arg(long, conflicts_with_all = ["agent", "group", "action", "resource", "statement", "context"])]
    pub request: Option<PathBuf>,
    /// Name of the machine identity
    #[arg(long)]
    pub agent: Option<String>,
    /// A group that it is in; may be repeated
    #[arg(long)]
    pub group: Vec<String>,
    /// An action: sql:drop; may be repeated
    #[arg(long, requires = "resource", conflicts_with = "statement")]
    pub action: Vec<String>,
    /// The resource: Table::orders-db/orders/public/customers
    #[arg(long)]
    pub resource: Option<String>,
    /// A statement, or the head of a request ("GET /v1/x"), to be analysed as its target would: a database is asked what names
    /// mean, and runs nothing
    #[arg(long, requires = "target")]
    pub statement: Option<String>,
    /// Name of the target
    #[arg(long)]
    pub target: Option<String>,
    /// Database of the target, where it has such
    #[arg(long)]
    pub database: Option<String>,
    /// A circumstance: has_where=true, row_limit=10, in_transaction=true, session.commands=5, machine.unit="x.service"
    #[arg(long, value_name = "KEY=VALUE")]
    pub context: Vec<String>,
    /// A tag that the mask rules know; may be repeated
    #[arg(long)]
    pub tag: Vec<String>,
}

impl PolicyArgs {
    /// Whether the policies' folder is named, or is where it is by default.
    #[must_use]
    pub fn has_folder(&self) -> bool {
        let named = match &self.command {
            PolicyCommand::Test(args) => args.dir.as_ref(),
            PolicyCommand::Explain(args) => args.dir.as_ref(),
        };
        named.is_some() || Path::new(DEFAULT_DIR).exists()
    }

    /// Fills in what the configuration says where the arguments say nothing.
    pub fn settle(&mut self, policies: &Path, tags: &TagSet) {
        match &mut self.command {
            PolicyCommand::Test(args) => drop(args.dir.get_or_insert_with(|| policies.to_path_buf())),
            PolicyCommand::Explain(args) => {
                args.dir.get_or_insert_with(|| policies.to_path_buf());
                if args.tag.is_empty() {
                    args.tag = tags.iter().map(ToString::to_string).collect();
                }
            }
        }
    }
}

/// Runs the subcommand and returns the exit code. `analyse` reads statements; without it, they are refused.
///
/// # Errors
/// When `out` cannot be written.
pub fn run(args: &PolicyArgs, json: bool, out: &mut dyn Write, analyse: Option<Analyse<'_>>) -> io::Result<u8> {
    match &args.command {
        PolicyCommand::Test(args) => test(args, json, out, analyse),
        PolicyCommand::Explain(args) => explain(args, json, out, analyse),
    }
}

fn test(args: &TestArgs, as_json: bool, out: &mut dyn Write, analyse: Option<Analyse<'_>>) -> io::Result<u8> {
    let outcomes = match cases::run_folder(folder(args.dir.as_ref()), analyse) {
        Ok(outcomes) => outcomes,
        Err(error) => return unusable(as_json, out, &error),
    };
    let failed = outcomes.iter().filter(|outcome| !outcome.failures.is_empty()).count();
    if as_json {
        let passed = outcomes.len() - failed;
        json(out, &serde_json::json!({ "passed": passed, "failed": failed, "cases": outcomes }))?;
    } else {
        writeln!(out, "{}", listing(&outcomes))?;
        writeln!(out, "{} cases, {failed} failed", outcomes.len())?;
    }
    Ok(u8::from(failed > 0))
}

fn folder(named: Option<&PathBuf>) -> &Path {
    named.map_or(Path::new(DEFAULT_DIR), PathBuf::as_path)
}

fn listing(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["", "case", "decision", "by", "not as expected"]);
    for outcome in outcomes {
        table.add_row([
            if outcome.failures.is_empty() { "ok" } else { "FAILED" },
            &format!("{}\n{}", outcome.name, outcome.file),
            outcome.verdict.map_or("-", Verdict::as_str),
            &outcome.rules.join("\n"),
            &outcome.failures.join("\n"),
        ]);
    }
    table
}

fn explain(args: &ExplainArgs, as_json: bool, out: &mut dyn Write, analyse: Option<Analyse<'_>>) -> io::Result<u8> {
    let policies = match cases::load_folder(folder(args.dir.as_ref())) {
        Ok(policies) => policies,
        Err(error) => return unusable(as_json, out, &error),
    };
    let tags: TagSet = Arc::new(args.tag.iter().map(|tag| Arc::from(tag.as_str())).collect::<BTreeSet<_>>());
    let explanation = match asked(args).and_then(|ask| ask.explain(&policies, &tags, analyse)) {
        Ok(explanation) => explanation,
        Err(reason) => {
            let path = args.request.clone().unwrap_or_else(|| "the request".into());
            return unusable(as_json, out, &CaseError::Format { path, message: reason });
        }
    };
    if as_json {
        json(out, &explanation)?;
    } else {
        show(out, &explanation)?;
    }
    Ok(match explanation.verdict {
        Verdict::Permit => 0,
        Verdict::Deny => 1,
        Verdict::Hold => 3,
    })
}

/// The request that the arguments state.
fn asked(args: &ExplainArgs) -> Result<Ask, String> {
    if let Some(path) = &args.request {
        let text = cases::read(path).map_err(|error| error.to_string())?;
        return if path.extension().is_some_and(|ending| ending == "json") {
            serde_json::from_str(&text).map(|alone: AskAlone| alone.ask).map_err(|error| error.to_string())
        } else {
            toml::from_str(&text).map(|alone: AskAlone| alone.ask).map_err(|error| error.to_string())
        };
    }
    let mut ask = circumstances(&args.context)?;
    ask.agent = args.agent.clone().ok_or("name the machine identity with --agent, or give --request FILE")?;
    ask.groups.clone_from(&args.group);
    ask.target.clone_from(&args.target);
    ask.database.clone_from(&args.database);
    ask.statement.clone_from(&args.statement);
    let resource = args.resource.clone().unwrap_or_default();
    ask.actions.extend(args.action.iter().map(|name| AskedAction {
        name: name.clone(),
        resource: resource.clone(),
        columns: args_of(&args.context, "columns"),
        tags: args_of(&args.context, "tags"),
        note: None,
    }));
    Ok(ask)
}

/// `columns=a,b` and `tags=a,b` belong to the action.
fn args_of(context: &[String], key: &str) -> BTreeSet<Arc<str>> {
    let values = context.iter().filter_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    values.flat_map(|list| list.split(',')).filter(|value| !value.is_empty()).map(Arc::from).collect()
}

/// `has_where=true` as the TOML `facts.has_where = true`, and `session.commands=5` as it stands.
fn circumstances(context: &[String]) -> Result<Ask, String> {
    let mut text = String::new();
    for pair in context {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
            return Err(format!("{key:?} is no circumstance"));
        }
        if key == "columns" || key == "tags" {
            continue;
        }
        let facts = ["has_where", "row_limit", "functions", "filters_on_masked", "statements"].contains(&key);
        let key = if facts { format!("facts.{key}") } else { key.to_owned() };
        if value.contains(['\n', '\r']) {
            return Err(format!("{pair:?} contains a line break"));
        }
        text.push_str(&format!("{key} = {value}\n"));
    }
    toml::from_str(&text).map(|alone: AskAlone| alone.ask).map_err(|error| error.to_string())
}

fn show(out: &mut dyn Write, explanation: &Explanation) -> io::Result<()> {
    writeln!(out, "{}", explanation.verdict.as_str().to_uppercase())?;
    let mut line = |what: &str, text: &str| if text.is_empty() { Ok(()) } else { writeln!(out, "  {what:<10} {text}") };
    line("rules", &explanation.rules.join(", "))?;
    line("approvers", &explanation.approvers.join(", "))?;
    line("reason", explanation.reason.as_deref().unwrap_or_default())?;
    line("remedy", explanation.remedy.as_deref().unwrap_or_default())?;
    line("masked", &explanation.masked.join(", "))?;
    for action in &explanation.actions {
        writeln!(out, "\n{}: {}", action.action, action.verdict.as_str())?;
        if let Some(fault) = &action.fault {
            writeln!(out, "  could not be judged: {fault}")?;
        }
        for rule in &action.rules {
            let reason = rule.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            writeln!(out, "  by {} {} ({}){reason}", rule.effect, rule.id, rule.place)?;
        }
        if action.rules.is_empty() && action.fault.is_none() {
            writeln!(out, "  nothing permits it")?;
        }
        for change in &action.changes {
            writeln!(out, "  {}, it would be: {}", change.what, change.verdict.as_str())?;
        }
        for near in &action.near {
            writeln!(out, "  near: {} ({}) fails on {}", near.rule.id, near.rule.place, near.fails.join("; "))?;
        }
    }
    Ok(())
}

fn unusable(as_json: bool, out: &mut dyn Write, error: &CaseError) -> io::Result<u8> {
    if as_json {
        let errors = match error {
            CaseError::Policies(errors) => serde_json::json!(errors),
            other => serde_json::json!([{ "message": other.to_string() }]),
        };
        json(out, &serde_json::json!({ "errors": errors }))?;
    } else {
        writeln!(out, "{error}")?;
    }
    Ok(2)
}

fn json<T: serde::Serialize>(out: &mut dyn Write, value: &T) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}
