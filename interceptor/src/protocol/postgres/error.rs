//! The words of a refusal, as ErrorResponse: the one place that maps what went wrong to SQLSTATE and severity.
//!
//! An agent that reads the message, detail and hint learns what was refused, by which rule, why, what to do about it,
//! whether to ask again, and which session's record shows it. Values and secrets are never part of it.

use std::fmt::Write as _;

use bytes::BytesMut;

use super::analysis::Missing;
use super::codec::write;
use crate::policy::{Denial, Fault, Retry};
use crate::telemetry::SessionId;

/// How severe an error is: whether the session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// The command failed.
    Error,
    /// The session ends.
    Fatal,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// insufficient_privilege
pub(super) const DENIED: &str = "42501";
/// invalid_authorization_specification
pub(super) const UNIDENTIFIED: &str = "28000";
/// protocol_violation
pub(super) const PROTOCOL: &str = "08P01";
/// connection_failure
pub(super) const NO_TARGET: &str = "08006";
/// admin_shutdown
pub(super) const ENDED: &str = "57P01";
/// invalid_sql_statement_name
pub(super) const NO_STATEMENT: &str = "26000";
/// feature_not_supported
const OUTDATED: &str = "0A000";
/// invalid_cursor_name
pub(super) const NO_PORTAL: &str = "34000";
/// system_error: interceptor itself failed
pub(super) const INTERNAL: &str = "58000";
/// connection_exception: the agent was waited for in vain, as when a server's authentication_timeout passes
pub(super) const LATE: &str = "08000";
/// too_many_connections
pub(super) const CROWDED: &str = "53300";
/// out_of_memory
pub(super) const MEMORY: &str = "53200";
/// query_canceled
pub(super) const CANCELED: &str = "57014";
/// name_too_long
pub(super) const LONG_NAME: &str = "42622";
/// program_limit_exceeded
pub(super) const LIMIT: &str = "54000";

/// The SQLSTATE of a refused command.
pub(super) const fn state_of(denial: &Denial) -> &'static str {
    match denial.fault {
        Fault::Agent | Fault::Operator => DENIED,
        Fault::Identity => UNIDENTIFIED,
        Fault::Upstream => NO_TARGET,
        Fault::Interceptor => INTERNAL,
    }
}

/// Writes a refusal.
pub(super) fn put_denial(out: &mut BytesMut, severity: Severity, state: &str, denial: &Denial) {
    let mut message = format!("interceptor: {}", denial.what);
    let _infallible = write!(message, ": {}", denial.reason);
    let rule = denial.rule.as_deref().unwrap_or("none");
    let retry = match denial.retry {
        Retry::Never => "no: the same command will be refused again",
        Retry::Later => "yes, later: this can heal",
        Retry::AfterApproval => "yes, once a human has approved it",
    };
    let detail = format!("rule: {rule}; retry: {retry}; session: {}", denial.session);
    let hint = denial.remedy.as_deref();
    put(out, severity, state, &message, Some(&detail), hint);
}

/// Writes the error that the target would give for a name that means nothing, so that whoever looks whether something
/// exists gets the answer; the detail says that the target was not asked.
pub(super) fn put_missing(out: &mut BytesMut, missing: &Missing, denial: &Denial) {
    let rule = denial.rule.as_deref().unwrap_or("none");
    let detail = format!(
        "interceptor did not forward it: {}; rule: {rule}; retry: no, unless the name comes to exist; session: {}",
        denial.what, denial.session
    );
    put(out, Severity::Error, missing.state, &missing.message, Some(&detail), None);
}

/// Writes the error that the target gives for a prepared statement whose result would be another one now. Drivers know it
/// by its code and by its text or its routine, and prepare again.
pub(super) fn put_outdated(out: &mut BytesMut, statement: &str, session: SessionId) {
    let detail = format!(
        "interceptor: what the names in prepared statement \"{statement}\" mean has changed; session: {session}"
    );
    let fields = [
        (b'S', Severity::Error.as_str()),
        (b'V', Severity::Error.as_str()),
        (b'C', OUTDATED),
        (b'M', "cached plan must not change result type"),
        (b'D', &detail),
        (b'H', "prepare it again"),
        (b'R', "RevalidateCachedQuery"),
    ];
    write::notice(out, b'E', fields.map(|(code, text)| (code, text.as_bytes())));
}

/// Writes an error of our own.
pub(super) fn put(
    out: &mut BytesMut,
    severity: Severity,
    state: &str,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    let fields = [
        Some((b'S', severity.as_str())),
        Some((b'V', severity.as_str())),
        Some((b'C', state)),
        Some((b'M', message)),
        detail.map(|detail| (b'D', detail)),
        hint.map(|hint| (b'H', hint)),
    ];
    write::notice(out, b'E', fields.into_iter().flatten().map(|(code, text)| (code, text.as_bytes())));
}

#[cfg(test)]
mod tests {
    use super::super::codec::{Backend, backend_limit, frame};
    use super::*;

    #[test]
    fn a_refusal_says_what_why_and_what_next() {
        let denial = Denial {
            fault: Fault::Agent,
            what: "sql:drop on Table::\"orders\"".into(),
            rule: Some("no-drop".into()),
            reason: "tables are dropped by migrations".into(),
            remedy: Some("ask the migration bot".into()),
            retry: Retry::Never,
            session: SessionId::NONE,
        };
        let mut out = BytesMut::new();
        put_denial(&mut out, Severity::Error, state_of(&denial), &denial);
        let Backend::ErrorResponse(notice) = Backend::decode(frame(&out, backend_limit).unwrap().unwrap()).unwrap()
        else {
            panic!("not an error");
        };
        let field = |code| String::from_utf8_lossy(notice.field(code).unwrap()).into_owned();
        assert_eq!(field(b'C'), "42501");
        assert!(field(b'M').contains("orders") && field(b'M').contains("migrations"));
        assert!(field(b'D').contains("no-drop") && field(b'D').contains(&SessionId::NONE.to_string()));
        assert_eq!(field(b'H'), "ask the migration bot");
    }
}
