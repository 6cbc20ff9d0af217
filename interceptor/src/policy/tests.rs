//! Attacks on the judge, and what must always hold.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::evaluate::MAX_ACTIONS;
use super::*;
use crate::clock::Timestamp;
use crate::identity::Attested;

/// Monday, 2026-11-23 13:46:40 UTC.
const NOW: Timestamp = Timestamp::from_unix(1_795_441_600);

fn attested(name: &str, groups: &[&str]) -> Attested {
    crate::testing::agents::attested(name, groups, NOW)
}

fn act(name: ActionName, kind: ResourceKind, path: &[&str]) -> Action {
    Action {
        name,
        resource: Resource { kind, path: path.iter().map(|part| Arc::from(*part)).collect() },
        columns: BTreeSet::new(),
        tags: Arc::default(),
        note: None,
    }
}

fn on_table(name: ActionName, table: &str) -> Action {
    act(name, ResourceKind::Table, &["db", "orders", "public", table])
}

fn command(actions: Vec<Action>) -> Command {
    static ANALYSIS: AtomicU64 = AtomicU64::new(1);
    Command {
        analysis: ANALYSIS.fetch_add(1, Ordering::Relaxed),
        statement: "".into(),
        parameters: Arc::from([]),
        actions: actions.into(),
        facts: Arc::new(Facts { statements: 1, ..Facts::default() }),
        in_transaction: false,
    }
}

fn load(text: &str) -> Policies {
    Policies::load(&[("p.cedar", text)]).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn errors(text: &str) -> Vec<PolicyError> {
    Policies::load(&[("p.cedar", text)]).expect_err("it must be refused")
}

fn ask(policies: &Policies, command: &Command) -> Decision {
    ask_as(policies, command, &attested("bot", &["finance"]), &Arc::default())
}

fn ask_as(policies: &Policies, command: &Command, principal: &Attested, tags: &TagSet) -> Decision {
    let session = SessionFacts { commands: 3, age_seconds: 60 };
    policies.evaluate(&Request { principal, target: "db", command, session, now: NOW, tags })
}

fn denied(decision: Decision) -> Denied {
    match decision {
        Decision::Deny(denied) => denied,
        other => panic!("{other:?}"),
    }
}

fn held(decision: Decision) -> Held {
    match decision {
        Decision::Hold(held) => held,
        other => panic!("{other:?}"),
    }
}

fn permitted(decision: Decision) -> Permitted {
    match decision {
        Decision::Permit(permitted) => permitted,
        other => panic!("{other:?}"),
    }
}

const READ_ALL: &str = "@id(\"read\") permit (principal, action in Action::\"sql:read\", resource);\n";
const ALL: &str = "@id(\"all\") permit (principal, action, resource);\n";
const HOLD_DROP: &str = "@id(\"hold-drop\") @reason(\"dropping loses data\") @approval(\"dba, security\")
    forbid (principal, action == Action::\"sql:drop\", resource) unless { context.approved };\n";

#[test]
fn nothing_is_permitted_by_default() {
    let none: [(&str, &str); 0] = [];
    let policies = Policies::load(&none).unwrap();
    let denied = denied(ask(&policies, &command(vec![on_table(ActionName::SQL_SELECT, "t")])));
    assert!(denied.rules.is_empty());
    assert_eq!(denied.action, "sql:select on Table::\"db/orders/public/t\"");
    assert_eq!((denied.retry, denied.fault), (Retry::Never, Fault::Agent));
}

#[test]
fn every_action_must_be_permitted() {
    let policies = load(READ_ALL);
    let select = on_table(ActionName::SQL_SELECT, "t");
    assert_eq!(permitted(ask(&policies, &command(vec![select.clone()]))).rules(), ["read"]);
    let both = command(vec![select, on_table(ActionName::SQL_DELETE, "t")]);
    assert_eq!(denied(ask(&policies, &both)).action, "sql:delete on Table::\"db/orders/public/t\"");
}

#[test]
fn a_command_without_actions_or_with_too_many_is_refused() {
    let policies = load(ALL);
    for count in [0, MAX_ACTIONS + 1] {
        let actions = vec![on_table(ActionName::SQL_SELECT, "t"); count];
        assert_eq!(denied(ask(&policies, &command(actions))).fault, Fault::Interceptor);
    }
}

#[test]
fn a_permit_for_a_group_of_requests_does_not_give_opaque_ones() {
    let groups = ["http:read", "http:write"].map(|group| format!("Action::\"{group}\""));
    let policies = load(&format!("permit (principal, action in [{}], resource);", groups.join(", ")));
    for name in ActionName::HTTP.iter().copied() {
        for (kind, path) in [(ResourceKind::Route, &["db", "v1", "{id}"][..]), (ResourceKind::Target, &["db"])] {
            let decision = ask(&policies, &command(vec![act(name, kind, path)]));
            assert_eq!(matches!(decision, Decision::Deny(_)), name == ActionName::HTTP_OPAQUE, "{name}");
        }
    }
}

/// The steps of a route look like a database and a schema, and are none.
#[test]
fn a_route_lies_in_its_target_alone() {
    let asked = command(vec![act(ActionName::HTTP_GET, ResourceKind::Route, &["db", "orders", "public", "t"])]);
    for (scope, given) in [
        ("resource in Target::\"db\"", true),
        ("resource == Route::\"db/orders/public/t\"", true),
        ("resource in Target::\"other\"", false),
        ("resource == Route::\"db/orders/public\"", false),
        ("resource in Database::\"db/orders\"", false),
        ("resource in Schema::\"db/orders/public\"", false),
    ] {
        let decision = ask(&load(&format!("permit (principal, action, {scope});")), &asked);
        assert_eq!(matches!(decision, Decision::Permit(_)), given, "{scope}");
    }
}

#[test]
fn policies_see_what_stands_in_a_request() {
    let http = HttpFacts {
        host: "api".into(),
        path: "/v1/7".into(),
        query: ["x=1".to_owned()].into(),
        headers: ["accept: a".to_owned()].into(),
        fields: ["a.b=c".to_owned()].into(),
        size: 12,
        grpc: Some(GrpcFacts { service: "shop.Orders".into(), method: "Place".into() }),
    };
    let asked = command(vec![act(ActionName::HTTP_POST, ResourceKind::Route, &["db", "v1", "{id}"])]);
    let facts = Facts { http: Some(Arc::new(http)), ..Facts::default() };
    let with = Command { facts: Arc::new(facts), ..asked.clone() };
    for (condition, holds) in [
        ("context.http.host == \"api\"", true),
        ("context.http.path like \"/v1/*\"", true),
        ("context.http.query.contains(\"x=1\")", true),
        ("context.http.headers.contains(\"accept: a\")", true),
        ("context.http.fields.contains(\"a.b=c\")", true),
        ("context.http.size < 13", true),
        ("context.http.size < 12", false),
        ("context.http has grpc && context.http.grpc.service == \"shop.Orders\"", true),
        ("context.http has grpc && context.http.grpc.method == \"Cancel\"", false),
        ("resource is Route && resource.name == \"/v1/{id}\"", true),
    ] {
        let policies =
            load(&format!("permit (principal, action, resource) when {{ context has http && {condition} }};"));
        assert_eq!(matches!(ask(&policies, &with), Decision::Permit(_)), holds, "{condition}");
        assert!(matches!(ask(&policies, &asked), Decision::Deny(_)), "{condition}");
    }
}

#[test]
fn a_permit_for_a_group_of_actions_gives_neither_opaque_nor_set() {
    let groups = ["sql:read", "sql:write", "sql:ddl", "sql:admin"].map(|group| format!("Action::\"{group}\""));
    let policies = load(&format!("permit (principal, action in [{}], resource);", groups.join(", ")));
    for name in ActionName::SQL.iter().copied() {
        let decision = ask(&policies, &command(vec![on_table(name, "t")]));
        let ungrouped = [ActionName::SQL_OPAQUE, ActionName::SQL_SET].contains(&name);
        assert_eq!(matches!(decision, Decision::Deny(_)), ungrouped, "{name}");
    }
}

#[test]
fn a_hold_names_approvers_and_becomes_a_permit_when_approved() {
    let policies = load(&format!("{ALL}{HOLD_DROP}"));
    let held = held(ask(&policies, &command(vec![on_table(ActionName::SQL_DROP, "t")])));
    assert_eq!(held.approvers, ["dba", "security"]);
    assert_eq!((&*held.rules, held.reason.as_str()), (&["hold-drop".to_owned()][..], "dropping loses data"));
    let permitted = held.approve(&Approval::of("r1".into()));
    assert_eq!(permitted.rules(), ["all"]);
    let (_, recorded) = permitted.into_permit(Recorded::at(9)).spend();
    assert_eq!(recorded.position(), 9);
}

#[test]
fn a_hold_never_makes_up_for_a_missing_permit_or_a_plain_forbid() {
    let drop = command(vec![on_table(ActionName::SQL_DROP, "t")]);
    assert_eq!(&*denied(ask(&load(HOLD_DROP), &drop)).rules, ["hold-drop"]);
    let forbid = "@id(\"never\") forbid (principal, action in Action::\"sql:ddl\", resource);";
    let policies = load(&format!("{ALL}{HOLD_DROP}{forbid}"));
    assert!(denied(ask(&policies, &drop)).rules.contains(&"never".to_owned()));
}

#[test]
fn one_approver_must_be_good_for_everything_that_holds() {
    let grant = |group: &str| {
        format!(
            "@id(\"hold-grant\") @approval(\"{group}\")
             forbid (principal, action == Action::\"sql:grant\", resource) unless {{ context.approved }};"
        )
    };
    let both = command(vec![on_table(ActionName::SQL_DROP, "t"), on_table(ActionName::SQL_GRANT, "t")]);
    let policies = load(&format!("{ALL}{HOLD_DROP}{}", grant("security")));
    let held = held(ask(&policies, &both));
    assert_eq!(held.approvers, ["security"]);
    assert_eq!(&*held.rules, ["hold-drop", "hold-grant"]);
    let policies = load(&format!("{ALL}{HOLD_DROP}{}", grant("board")));
    let denied = denied(ask(&policies, &both));
    assert!(denied.reason.contains("no single group"), "{}", denied.reason);
}

#[test]
fn a_policy_that_fails_denies_whatever_others_permit() {
    let failing = "@id(\"overflow\") forbid (principal, action, resource)
        when { context.session.commands + 9223372036854775807 > 0 };";
    let policies = load(&format!("{ALL}{failing}"));
    let denied = denied(ask(&policies, &command(vec![on_table(ActionName::SQL_SELECT, "t")])));
    assert_eq!((denied.fault, &*denied.rules), (Fault::Operator, &["overflow".to_owned()][..]));
    assert!(denied.reason.contains("overflow"), "{}", denied.reason);
}

#[test]
fn names_that_imitate_paths_do_not_match() {
    let policies = load("permit (principal, action, resource in Schema::\"db/a/b\");");
    let inside = act(ActionName::SQL_SELECT, ResourceKind::Table, &["db", "a", "b", "t"]);
    permitted(ask(&policies, &command(vec![inside])));
    for path in [
        ["db", "a/b", "c", "t"],
        ["db", "a", "b/t", "t"],
        ["db", "a%2Fb", "b", "t"],
        ["db", "a", "b\n", "t"],
        ["db", "a", "B", "t"],
        ["db", "", "a/b", "t"],
        ["db", "a", "b\"", "t"],
        ["db", "a", "b::t", "t"],
        ["db", "a", "\u{432}", "t"],
    ] {
        let action = act(ActionName::SQL_SELECT, ResourceKind::Table, &path);
        denied(ask(&policies, &command(vec![action])));
    }
}

#[test]
fn odd_names_are_named_in_policies_by_their_escaped_ids() {
    for (name, id) in [
        ("a/b", "a%2Fb"),
        ("%", "%25"),
        ("\"", "\\\""),
        ("x::y", "x::y"),
        ("naïve 表", "naïve 表"),
        ("", ""),
        ("\n", "\\n"),
    ] {
        let policies = load(&format!("permit (principal, action, resource == Table::\"db/orders/public/{id}\");"));
        permitted(ask(&policies, &command(vec![on_table(ActionName::SQL_SELECT, name)])));
        denied(ask(&policies, &command(vec![on_table(ActionName::SQL_SELECT, &format!("{name}_"))])));
    }
}

#[test]
fn a_resource_outside_the_target_or_of_the_wrong_shape_is_refused() {
    let policies = load(ALL);
    for (kind, path) in [
        (ResourceKind::Table, &["other", "orders", "public", "t"][..]),
        (ResourceKind::Table, &["db", "orders", "t"]),
        (ResourceKind::Target, &[]),
        (ResourceKind::Database, &["db", "orders", "public"]),
        (ResourceKind::Role, &["db"]),
    ] {
        let denied = denied(ask(&policies, &command(vec![act(ActionName::SQL_SELECT, kind, path)])));
        assert_eq!(denied.fault, Fault::Interceptor);
    }
    // A tag is no place: only unmask is for tags.
    denied(ask(&policies, &command(vec![act(ActionName::SQL_SELECT, ResourceKind::Tag, &["pii"])])));
}

#[test]
fn every_attribute_of_the_schema_can_be_read() {
    let policies = load(
        "permit (principal, action, resource) when {
            principal.name == \"bot\" && principal.uid == 1001 && principal.gid == 1001
            && principal.cgroup like \"/agents.slice/*\" && principal has unit && principal.unit == \"bot.service\"
            && principal has exe && principal.exe == \"/usr/bin/python3\" && !(principal has exe_sha256)
            && principal.ancestry.contains(\"/usr/lib/systemd/systemd\")
            && principal.issuer == \"corp\" && principal.subject == \"svc:bot\" && principal in Group::\"finance\"
        };
        forbid (principal, action, resource) unless {
            resource.name == \"t\" && resource.target == \"db\"
            && resource has database && resource.database == \"orders\"
            && resource has schema && resource.schema == \"public\"
            && resource in Target::\"db\" && resource in Database::\"db/orders\"
        };
        forbid (principal, action, resource) unless {
            context.target == \"db\" && !context.has_where && !(context has row_limit)
            && context.functions.isEmpty() && !context.filters_on_masked && context.statements == 1
        };
        forbid (principal, action, resource) unless {
            !context.in_transaction && context.columns.contains(\"c\") && context.tags.contains(\"pii\")
            && context has note && context.note == \"why\"
            && context.time.hour == 13 && context.time.weekday == 1
            && context.time.now > datetime(\"2026-11-23T13:46:39Z\")
            && context.time.now < datetime(\"2026-11-23T13:46:41Z\")
            && context.session.commands == 3 && context.session.age_seconds == 60
        };"
        .replace("resource.name == \"t\" &&", "resource is Table && resource.name == \"t\" &&")
        .as_str(),
    );
    let mut action = on_table(ActionName::SQL_SELECT, "t");
    action.columns = BTreeSet::from(["c".into()]);
    action.tags = Arc::new(BTreeSet::from(["pii".into()]));
    action.note = Some("why".into());
    permitted(ask(&policies, &command(vec![action])));
}

#[test]
fn tags_are_masked_unless_unmask_is_permitted() {
    let unmask = "permit (principal, action == Action::\"unmask\", resource == Tag::\"pii\")
        when { context.target == \"db\" };";
    let policies = load(&format!("{READ_ALL}{unmask}"));
    let tags: TagSet = Arc::new(["pii", "card"].into_iter().map(Arc::from).collect());
    let command = command(vec![on_table(ActionName::SQL_SELECT, "t")]);
    let permitted = permitted(ask_as(&policies, &command, &attested("bot", &[]), &tags));
    assert_eq!(*permitted.obligations().masked, BTreeSet::from([Tag::from("card")]));
}

#[test]
fn a_command_that_would_let_tagged_values_out_needs_unmask() {
    let unmask = "@id(\"see\") permit (principal in Group::\"support\", action == Action::\"unmask\", resource == Tag::\"pii\");";
    let policies = load(&format!("{READ_ALL}{unmask}"));
    let mut leak = act(ActionName::UNMASK, ResourceKind::Tag, &["pii"]);
    leak.note = Some("it is copied".into());
    let command = command(vec![on_table(ActionName::SQL_SELECT, "t"), leak]);
    let denied = denied(ask(&policies, &command));
    assert_eq!(
        (denied.action.as_str(), denied.reason.as_str()),
        ("unmask on Tag::\"pii\"", "no policy permits it (it is copied)")
    );
    permitted(ask_as(&policies, &command, &attested("bot", &["support"]), &Arc::default()));
}

#[test]
fn a_denial_stays_short_and_on_one_line() {
    let mut action = on_table(ActionName::SQL_DROP, &"x\n".repeat(100_000));
    action.note = Some("é".repeat(100_000).into());
    let denied = denied(ask(&load(READ_ALL), &command(vec![action])));
    assert!(denied.action.chars().count() <= evaluate::MAX_TEXT + 1 && denied.reason.chars().count() < 500);
    assert!(!denied.action.contains('\n'));
}

#[test]
fn what_nobody_could_mean_is_a_load_error_with_its_line() {
    for (text, line, says) in [
        ("\npermit (principal, action == Action::\"sql:slect\", resource);", 2, "sql:slect"),
        ("permit (principal, action, resource) when {\n context.has_were };", 2, "has_were"),
        ("permit (principal, action, resource is Tabel);", 1, "Tabel"),
        ("permit (principal, action, resource)", 1, "unexpected end"),
        ("@aproval(\"dba\")\nforbid (principal, action, resource) unless { context.approved };", 1, "@aproval"),
        ("@approval(\"dba\")\npermit (principal, action, resource) when { context.approved };", 1, "permit"),
        ("\n\n@approval(\"dba\")\nforbid (principal, action, resource);", 3, "context.approved"),
        ("forbid (principal, action, resource) unless { context.approved };", 1, "no @approval"),
        ("@approval(\"dba,\") forbid (principal, action, resource) unless { context.approved };", 1, "empty group"),
        ("@approval forbid (principal, action, resource) unless { context.approved };", 1, "empty"),
        ("@id(\"a\\nb\") permit (principal, action, resource);", 1, "control"),
        (
            "@approval(\"d\") forbid (principal, action == Action::\"unmask\", resource) unless { context.approved };",
            1,
            "unmask",
        ),
        ("permit (principal == ?principal, action, resource);", 1, "templates"),
        ("permit (principal, action, resource == Table::\"db/public/t\");", 1, "never be the id"),
        ("permit (principal, action, resource) when { resource in Schema::\"db/a%/b\" };", 1, "never be the id"),
        ("permit (principal, action, resource) when { context == context };", 1, "as a whole"),
        ("forbid (principal, action == Action::\"sql:drop\", resource is Tag);", 1, "impossible"),
        ("forbid (principal, action, resource) when { false };", 1, "false"),
        ("forbid (principal, action, resource) when { context.note == \"\u{202e}\" };", 1, "note"),
        ("permit (principal, action, resource) when { principal.unit == \"x\" };", 1, "unit"),
        (
            "@id(\"x\") permit (principal, action, resource);\n@id(\"x\") forbid (principal, action, resource);",
            2,
            "taken",
        ),
    ] {
        let errors = errors(text);
        assert!(errors.iter().any(|error| error.line == line), "{text}\n{errors:#?}");
        assert!(errors.iter().any(|error| error.to_string().contains(says)), "{text}\n{errors:#?}");
        assert!(errors.iter().all(|error| error.file == "p.cedar"));
    }
}

#[test]
fn all_errors_come_at_once_and_nothing_is_kept() {
    let files = [
        ("a.cedar", "permit (principal, action == Action::\"nope\", resource);"),
        ("b.cedar", "permit (principal, action, resource)"),
        ("c.cedar", "@x(\"y\") permit (principal, action, resource);"),
        ("d.cedar", "permit (principal, action, resource);"),
    ];
    let errors = Policies::load(&files).unwrap_err();
    let named: BTreeSet<_> = errors.iter().map(|error| error.file.as_str()).collect();
    assert_eq!(named, BTreeSet::from(["a.cedar", "b.cedar", "c.cedar"]));
}

#[test]
fn policies_without_an_id_are_numbered_in_order() {
    let policies = load(
        "permit (principal, action, resource);\n@id(\"x\") permit (principal, action, resource);\nforbid (principal, action == Action::\"sql:drop\", resource);",
    );
    assert_eq!(policies.ids().collect::<Vec<_>>(), ["p.cedar#1", "x", "p.cedar#3"]);
    let clash = "@id(\"p.cedar#2\") permit (principal, action, resource);\npermit (principal, action, resource);";
    assert!(errors(clash)[0].message.contains("taken"));
}

#[test]
fn digest_and_generation_tell_loads_apart() {
    let (one, two) = (load(ALL), load(ALL));
    assert_eq!(one.digest(), two.digest());
    assert_ne!(one.generation(), two.generation());
    assert_ne!(one.digest(), load(READ_ALL).digest());
}

#[test]
fn kept_decisions_end_with_what_they_depend_on() {
    let cache = DecisionCache::new(64);
    let (permissive, strict) = (load(ALL), load(READ_ALL));
    let command = command(vec![on_table(ActionName::SQL_DELETE, "t")]);
    let tags = Arc::default();
    let bot = attested("bot", &[]);
    let request = Request {
        principal: &bot,
        target: "db",
        command: &command,
        session: SessionFacts::default(),
        now: NOW,
        tags: &tags,
    };
    permitted(cache.decide(&permissive, &request));
    permitted(cache.decide(&permissive, &request));
    assert_eq!(cache.len(), 2, "of the analysis, and of what it does");
    denied(cache.decide(&strict, &request));
    let mut other = bot.clone();
    other.facts.exe_sha256 = Some("ab".into());
    permitted(cache.decide(&permissive, &Request { principal: &other, ..request }));
    let known: TagSet = Arc::new(BTreeSet::from(["pii".into()]));
    permitted(cache.decide(&permissive, &Request { tags: &known, ..request }));
    for analysis in 0..1000 {
        let command = Command { analysis, ..command.clone() };
        permitted(cache.decide(&permissive, &Request { command: &command, ..request }));
    }
    assert!(cache.len() <= 64);
}

#[test]
fn another_analysis_of_what_is_known_is_decided_the_same_and_of_what_differs_is_not() {
    let cache = DecisionCache::default();
    let policies = load(&format!(
        "{ALL}forbid (principal, action, resource) when {{ context.filters_on_masked }};
         forbid (principal, action, resource) when {{ context.in_transaction }};
         forbid (principal, action == Action::\"sql:delete\", resource == Table::\"db/orders/public/kept\");"
    ));
    let (bot, tags) = (attested("bot", &[]), Arc::default());
    let known = command(vec![on_table(ActionName::SQL_DELETE, "t")]);
    let session = SessionFacts::default();
    let ask = |analysis: u64, command: &Command| {
        let command = Command { analysis, ..command.clone() };
        let request = Request { principal: &bot, target: "db", command: &command, session, now: NOW, tags: &tags };
        cache.decide(&policies, &request)
    };
    permitted(ask(1, &known));
    permitted(ask(2, &known));
    assert_eq!(cache.len(), 3, "each analysis, and what both do");
    let filters = Facts { filters_on_masked: true, ..Facts::default() };
    denied(ask(3, &Command { facts: Arc::new(filters), ..known.clone() }));
    denied(ask(4, &Command { in_transaction: true, ..known.clone() }));
    denied(ask(5, &command(vec![on_table(ActionName::SQL_DELETE, "t"), on_table(ActionName::SQL_DELETE, "kept")])));
    permitted(ask(6, &known));
    // What an agent makes large is not kept for others.
    let kept = cache.len();
    permitted(ask(7, &command((0..40).map(|at| on_table(ActionName::SQL_DELETE, &format!("t{at}"))).collect())));
    permitted(ask(8, &command(vec![on_table(ActionName::SQL_DELETE, &"t".repeat(5000))])));
    assert_eq!(cache.len(), kept + 2, "their analyses alone");
}

#[test]
fn decisions_that_look_at_the_moment_or_failed_are_not_kept() {
    let bot = attested("bot", &[]);
    let tags = Arc::default();
    let command = command(vec![on_table(ActionName::SQL_DELETE, "t")]);
    for text in [
        "forbid (principal, action, resource) when { context.session.commands > 5 };",
        "forbid (principal == Machine::\"bot\", action, resource) when { context.session.commands > 5 };",
    ] {
        let policies = load(&format!("{ALL}{text}"));
        let cache = DecisionCache::default();
        let ask = |commands| {
            let session = SessionFacts { commands, age_seconds: 0 };
            let request = Request { principal: &bot, target: "db", command: &command, session, now: NOW, tags: &tags };
            cache.decide(&policies, &request)
        };
        permitted(ask(5));
        denied(ask(6));
        assert!(cache.is_empty());
    }
}

#[test]
fn no_approval_is_promised_where_something_else_forbids_as_well() {
    let policies = load(&format!(
        "{HOLD_DROP}@id(\"z-never\") @reason(\"tables stay\") @remedy(\"leave it\") forbid (principal, action == Action::\"sql:drop\", resource);"
    ));
    let bot = attested("bot", &[]);
    let tags = Arc::default();
    let command = command(vec![on_table(ActionName::SQL_DROP, "t")]);
    let session = SessionFacts::default();
    let request = Request { principal: &bot, target: "db", command: &command, session, now: NOW, tags: &tags };
    let denied = denied(policies.evaluate(&request));
    assert_eq!((denied.reason.as_str(), denied.remedy.as_deref()), ("tables stay", Some("leave it")));
    assert_eq!(denied.rules.first().map(String::as_str), Some("z-never"));
}

#[test]
fn decisions_on_requests_are_kept_where_nobody_looks_at_the_request() {
    let bot = attested("bot", &[]);
    let tags: TagSet = Arc::new(BTreeSet::from(["pii".into()]));
    let ask = |cache: &DecisionCache, policies: &Policies, path: &str, what: ActionName| {
        let resource = Resource { kind: ResourceKind::Target, path: vec!["db".into()] };
        let action = Action { name: what, resource, columns: BTreeSet::new(), tags: Arc::default(), note: None };
        let http = HttpFacts { path: path.to_owned(), ..HttpFacts::default() };
        let number = u64::try_from(path.len()).unwrap();
        let facts = Arc::new(Facts { http: Some(Arc::new(http)), ..Facts::default() });
        let command = Command { analysis: number, facts, ..command(vec![action]) };
        let session = SessionFacts::default();
        cache.decide(
            policies,
            &Request { principal: &bot, target: "db", command: &command, session, now: NOW, tags: &tags },
        )
    };
    let (get, post) = (ActionName::HTTP_GET, ActionName::HTTP_POST);
    let open = load(&format!(
        "{ALL}@id(\"posts\") forbid (principal, action == Action::\"http:POST\", resource) when {{ context has http && context.http.path == \"/no\" }};"
    ));
    let cache = DecisionCache::default();
    for path in ["/", "/a", "/ab", "/no"] {
        permitted(ask(&cache, &open, path, get));
    }
    assert_eq!(cache.len(), 1, "one for all that do the same");
    // Where one policy looks at it, each is judged.
    permitted(ask(&cache, &open, "/yes", post));
    denied(ask(&cache, &open, "/no", post));
    permitted(ask(&cache, &open, "/on", post));
    assert_eq!(cache.len(), 1);
    // So does one that says who may see what.
    let masks = load(
        "permit (principal, action == Action::\"http:GET\", resource); permit (principal, action == Action::\"unmask\", resource) when { context has http && context.http.path == \"/open\" };",
    );
    let cache = DecisionCache::default();
    assert_eq!(permitted(ask(&cache, &masks, "/open", get)).obligations.masked.len(), 0);
    assert_eq!(permitted(ask(&cache, &masks, "/shut", get)).obligations.masked.len(), 1);
    assert!(cache.is_empty());
}

#[test]
fn a_call_is_judged_by_its_arguments_and_not_by_those_of_the_last_one() {
    let bot = attested("bot", &[]);
    let tags = TagSet::default();
    let ask = |cache: &DecisionCache, policies: &Policies, tool: &str, amount: &str| {
        let resource = Resource { kind: ResourceKind::Tool, path: vec!["db".into(), tool.into()] };
        let name = ActionName::MCP_CALL;
        let action = Action { name, resource, columns: BTreeSet::new(), tags: Arc::default(), note: None };
        let mcp = McpFacts { arguments: [amount.to_owned()].into(), ..McpFacts::default() };
        let facts = Arc::new(Facts { mcp: Some(Arc::new(mcp)), ..Facts::default() });
        let command = Command { facts, ..command(vec![action]) };
        let session = SessionFacts::default();
        cache.decide(
            policies,
            &Request { principal: &bot, target: "db", command: &command, session, now: NOW, tags: &tags },
        )
    };
    let policies = load(
        "permit (principal, action == Action::\"mcp:call\", resource in Target::\"db\");
         forbid (principal, action == Action::\"mcp:call\", resource == Tool::\"db/a%2Fb\")
         when { context has mcp && context.mcp.arguments.contains(\"amount=5000\") };
         forbid (principal, action == Action::\"mcp:call\", resource) when { resource is Tool && resource.name == \"no\" };",
    );
    let cache = DecisionCache::default();
    permitted(ask(&cache, &policies, "a/b", "amount=5"));
    denied(ask(&cache, &policies, "a/b", "amount=5000"));
    permitted(ask(&cache, &policies, "other", "amount=5000"));
    denied(ask(&cache, &policies, "no", "amount=5"));
}

#[test]
fn an_explanation_says_what_would_change_the_answer() {
    let policies = load(&format!(
        "{HOLD_DROP}
        @id(\"dba-ddl\") permit (principal in Group::\"dba\", action in Action::\"sql:ddl\", resource);
        @id(\"writes\") permit (principal, action == Action::\"sql:delete\", resource) when {{ context.has_where }};"
    ));
    let bot = attested("bot", &[]);
    let tags = Arc::default();
    let command = command(vec![on_table(ActionName::SQL_DROP, "t"), on_table(ActionName::SQL_DELETE, "t")]);
    let request = Request {
        principal: &bot,
        target: "db",
        command: &command,
        session: SessionFacts::default(),
        now: NOW,
        tags: &tags,
    };
    let explanation = policies.explain(&request);
    assert_eq!(explanation.verdict, evaluate::Verdict::Deny);
    let drop = &explanation.actions[0];
    assert_eq!(drop.rules[0].place, "p.cedar:1");
    assert!(
        drop.changes.iter().any(|c| c.what == "in group \"dba\"" && c.verdict == evaluate::Verdict::Hold),
        "{drop:#?}"
    );
    let delete = &explanation.actions[1];
    assert!(delete.rules.is_empty());
    assert!(delete.changes.iter().any(|c| c.what == "with a WHERE" && c.verdict == evaluate::Verdict::Permit));
    assert_eq!(delete.near[0].rule.id, "writes");
    assert!(delete.near[0].fails[0].starts_with("conditions"));
}

/// Prints what a decision costs; the bound is far above, to catch only a change of order.
#[test]
#[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
fn a_thousand_policies_stay_fast() {
    let mut text = String::from(READ_ALL);
    for number in 0..1000 {
        text.push_str(&format!(
            "@id(\"r{number}\") permit (principal in Group::\"g{number}\", action in Action::\"sql:write\",
             resource in Database::\"db/d{number}\") when {{ context.has_where }};\n"
        ));
    }
    let started = std::time::Instant::now();
    let policies = load(&text);
    println!("load 1001 policies: {:?}", started.elapsed());
    let (bot, tags) = (attested("bot", &["g1", "g2"]), Arc::new(["pii", "card"].into_iter().map(Tag::from).collect()));
    let command = command(vec![on_table(ActionName::SQL_SELECT, "t")]);
    let request = Request {
        principal: &bot,
        target: "db",
        command: &command,
        session: SessionFacts::default(),
        now: NOW,
        tags: &tags,
    };
    let measure = |what: &str, ask: &dyn Fn() -> Decision| {
        let started = std::time::Instant::now();
        for _ in 0..500 {
            permitted(ask());
        }
        let each = started.elapsed() / 500;
        println!("{what}: {each:?}");
        each
    };
    let cache = DecisionCache::default();
    assert!(measure("uncached, one action and two tags", &|| policies.evaluate(&request)).as_millis() < 5);
    assert!(measure("cached", &|| cache.decide(&policies, &request)).as_micros() < 500);
}

/// A policy in pieces, so that it can be written in two ways.
#[derive(Clone, Debug)]
struct Pieces {
    kind: Kind,
    scope: [&'static str; 3],
    condition: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Permit,
    Forbid,
    Hold,
}

impl Pieces {
    /// As one writes it.
    fn text(&self) -> String {
        self.written(&self.scope.join(", "), "")
    }

    /// With the scope moved into conditions: this cannot be sliced.
    fn unsliced(&self) -> String {
        let restrictions = self.scope.iter().filter(|part| part.contains(' '));
        let conditions: String = restrictions.map(|part| format!("when {{ {part} }} ")).collect();
        self.written("principal, action, resource", &conditions)
    }

    fn written(&self, scope: &str, conditions: &str) -> String {
        let condition = self.condition;
        match self.kind {
            Kind::Permit => format!("permit ({scope}) {conditions}{condition};\n"),
            Kind::Forbid => format!("forbid ({scope}) {conditions}{condition};\n"),
            Kind::Hold => {
                format!("@approval(\"dba\") forbid ({scope}) {conditions}{condition} unless {{ context.approved }};\n")
            }
        }
    }
}

fn all(rules: &[Pieces]) -> String {
    rules.iter().map(Pieces::text).collect()
}

fn rule() -> impl Strategy<Value = Pieces> {
    let kind = prop::sample::select(vec![Kind::Permit, Kind::Forbid, Kind::Hold]);
    let principal =
        prop::sample::select(vec!["principal", "principal in Group::\"finance\"", "principal == Machine::\"x\""]);
    let action = prop::sample::select(vec![
        "action",
        "action in Action::\"sql:read\"",
        "action in Action::\"sql:ddl\"",
        "action == Action::\"sql:drop\"",
        "action in [Action::\"sql:write\", Action::\"sql:ddl\"]",
    ]);
    let resource = prop::sample::select(vec![
        "resource",
        "resource in Schema::\"db/orders/public\"",
        "resource == Table::\"db/orders/public/t\"",
        "resource is Table",
        "resource is Table in Database::\"db/orders\"",
    ]);
    let condition = prop::sample::select(vec!["", "when { context.has_where }", "unless { context.in_transaction }"]);
    (kind, principal, action, resource, condition).prop_map(|(kind, principal, action, resource, condition)| Pieces {
        kind,
        scope: [principal, action, resource],
        condition,
    })
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let name = prop::sample::select(ActionName::SQL.to_vec());
    prop::collection::vec((name, prop::sample::select(vec!["t", "u"])).prop_map(|(n, t)| on_table(n, t)), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_further_forbid_never_loosens(
        rules in prop::collection::vec(rule(), 0..5), further in rule(), actions in actions(), has_where: bool,
    ) {
        prop_assume!(further.kind != Kind::Permit);
        let mut command = command(actions);
        command.facts = Arc::new(Facts { has_where, statements: 1, ..Facts::default() });
        let strictness = |decision: &Decision| match decision {
            Decision::Permit(_) => 0,
            Decision::Hold(_) => 1,
            Decision::Deny(_) => 2,
        };
        let before = ask(&load(&all(&rules)), &command);
        let after = ask(&load(&format!("{}{}", all(&rules), further.text())), &command);
        prop_assert!(strictness(&after) >= strictness(&before), "{before:?} became {after:?}");
    }

    #[test]
    fn no_hold_where_a_plain_forbid_applies(rules in prop::collection::vec(rule(), 1..6), actions in actions()) {
        let command = command(actions);
        // With everything permitted, only a plain forbid can deny.
        let forbids: Vec<_> = rules.iter().filter(|rule| rule.kind == Kind::Forbid).cloned().collect();
        let forbidden = matches!(ask(&load(&format!("{ALL}{}", all(&forbids))), &command), Decision::Deny(_));
        let decision = ask(&load(&format!("{ALL}{}", all(&rules))), &command);
        prop_assert_eq!(matches!(decision, Decision::Deny(_)), forbidden);
    }

    #[test]
    fn slicing_agrees_with_asking_all(rules in prop::collection::vec(rule(), 0..6), actions in actions()) {
        let command = command(actions);
        let unsliced: String = rules.iter().map(Pieces::unsliced).collect();
        let (one, other) = (ask(&load(&all(&rules)), &command), ask(&load(&unsliced), &command));
        prop_assert_eq!(std::mem::discriminant(&one), std::mem::discriminant(&other));
    }
}

#[test]
fn whatever_loads_is_shallow_enough_to_evaluate() {
    let chain = |terms: usize| {
        let terms = vec!["!context.has_where"; terms].join(" && ");
        Policies::load(&[("p.cedar", format!("permit (principal, action, resource) when {{ {terms} }};"))])
    };
    let deepest = (1..100).take_while(|terms| chain(*terms).is_ok()).last().unwrap();
    assert!(deepest >= 16, "{deepest}");
    let policies = chain(deepest).unwrap();
    permitted(ask(&policies, &command(vec![on_table(ActionName::SQL_SELECT, "t")])));
    assert!(chain(deepest + 1).unwrap_err()[0].message.contains("nested"));
    // A chain of clauses nests as well.
    let clauses = "when { !context.has_where } ".repeat(100);
    assert!(errors(&format!("permit (principal, action, resource) {clauses};"))[0].message.contains("nested"));
}
