//! Why there is no session at a target, whose fault that is, and what the agent may read of it.

use std::fmt;
use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorResponseBody;

use super::reader::ReadError;
use crate::policy::Fault;
use crate::tls::{self, HandshakeError, Unverified};

/// The most that is kept of one field of a target's error, in characters.
const MAX_FIELD: usize = 1000;

/// Why a log-in failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// The agent's start-up parameters cannot be passed on.
    #[error("the agent's start-up message cannot be passed on: {0}")]
    Startup(&'static str),
    /// The target has no TLS, and the configuration wants it.
    #[error("the target does not offer TLS: switch it on there, or set tls.upstream = \"disable\"")]
    NoTls,
    /// Bytes in clear came along with the answer to SSLRequest.
    #[error("the target, or somebody on the path, sent bytes in clear before TLS")]
    Smuggled,
    /// TLS failed.
    #[error("{0}")]
    Tls(#[from] HandshakeError),
    /// The target wants a password, and none is configured.
    #[error("the target asks for a password ({0}), and none is configured: set credential.password")]
    NoPassword(&'static str),
    /// The target asks for less proof than the configuration allows.
    #[error(
        "the target asks for {method}, and its certificate was not verified, so that nothing weaker than {least} is used: \
         set tls.upstream = \"verify-full\", or lower tls.unverified_password"
    )]
    Weak {
        /// What the target asks for.
        method: &'static str,
        /// What is demanded.
        least: &'static str,
    },
    /// The target asks for something that is not spoken here.
    #[error("the target asks for {0}, which interceptor does not speak: use SCRAM, md5, a password or a certificate")]
    Unsupported(String),
    /// The password cannot be sent.
    #[error("the configured password cannot be used: it holds a NUL")]
    Password,
    /// The target failed to prove that it knows the password.
    #[error("the SCRAM exchange failed, the target may be an impostor: {0}")]
    Unproven(String),
    /// The target refused the credential (SQLSTATE class 28).
    #[error("the target refused the credential: {0}")]
    Refused(Complaint),
    /// The target refused the session for another reason.
    #[error("the target refused the session: {0}")]
    Rejected(Complaint),
    /// The target broke the protocol, or one of our bounds.
    #[error("the target broke the protocol: {0}")]
    Protocol(String),
    /// The target was too slow.
    #[error("the target did not finish the log-in in time")]
    TimedOut,
    /// The target closed the connection.
    #[error("the target closed the connection during the log-in")]
    Closed,
    /// The leg broke.
    #[error("the connection to the target broke: {0}")]
    Io(io::Error),
}

impl LoginError {
    /// Whose fault it is.
    pub(crate) const fn fault(&self) -> Fault {
        match self {
            Self::Startup(_) => Fault::Agent,
            Self::NoTls
            | Self::NoPassword(_)
            | Self::Weak { .. }
            | Self::Unsupported(_)
            | Self::Password
            | Self::Refused(_)
            | Self::Tls(HandshakeError::Certificate(_) | HandshakeError::Alert(_) | HandshakeError::NotConfigured(_)) => {
                Fault::Operator
            }
            Self::Tls(_)
            | Self::Smuggled
            | Self::Unproven(_)
            | Self::Rejected(_)
            | Self::Protocol(_)
            | Self::TimedOut
            | Self::Closed
            | Self::Io(_) => Fault::Upstream,
        }
    }

    /// What the agent may read, for its ErrorResponse. A rejection that is not about the credential is passed on as the
    /// target put it; of the credential itself, and of the path to the target, the agent learns nothing: that stands in
    /// `Display`, for the log and the record.
    pub(crate) fn for_agent(&self) -> Complaint {
        let (sqlstate, message) = match self {
            Self::Rejected(complaint) => return complaint.clone(),
            Self::Startup(why) => ("08P01", format!("the start-up message cannot be passed on: {why}")),
            Self::Refused(_) => ("28000", "the target refused the credential that interceptor holds for it".into()),
            Self::NoPassword(_) | Self::Weak { .. } | Self::Unsupported(_) | Self::Password | Self::Unproven(_) => {
                ("28000", "interceptor could not log in at the target safely".into())
            }
            Self::NoTls | Self::Smuggled | Self::Tls(_) => {
                ("08001", "interceptor could not reach the target over TLS as configured".into())
            }
            Self::Protocol(_) => ("08P01", "the target broke the protocol during the log-in".into()),
            Self::TimedOut => ("08001", "the target did not finish the log-in in time".into()),
            Self::Closed | Self::Io(_) => ("08001", "the connection to the target broke during the log-in".into()),
        };
        let hint = match self.fault() {
            Fault::Operator => Some("This is for interceptor's operator to mend; its log says how.".into()),
            _ => None,
        };
        Complaint { severity: "FATAL".into(), sqlstate: sqlstate.into(), message, detail: None, hint }
    }
}

impl From<io::Error> for LoginError {
    fn from(error: io::Error) -> Self {
        tls::alert(&error).map_or(Self::Io(error), Self::Tls)
    }
}

impl From<ReadError> for LoginError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => error.into(),
            ReadError::Closed => Self::Closed,
            ReadError::Protocol(why) => Self::Protocol(why),
        }
    }
}

impl From<Complaint> for LoginError {
    fn from(complaint: Complaint) -> Self {
        Self::Rejected(complaint)
    }
}

pub(super) const fn proof_name(least: Unverified) -> &'static str {
    match least {
        Unverified::Clear => "a password in clear",
        Unverified::Hash => "md5",
        Unverified::Proof => "SCRAM-SHA-256 with at least 4096 rounds",
        Unverified::Bound => "SCRAM-SHA-256-PLUS",
    }
}

/// What a target says in an ErrorResponse: bounded, and without control characters, so that it can go into a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// `FATAL`, `ERROR`...
    pub(crate) severity: String,
    /// Five digits and upper-case letters.
    pub(crate) sqlstate: String,
    /// The primary message.
    pub(crate) message: String,
    /// Detail.
    pub(crate) detail: Option<String>,
    /// Hint.
    pub(crate) hint: Option<String>,
}

impl Complaint {
    /// Reads an ErrorResponse; what cannot be read is left out.
    pub(super) fn read(body: &ErrorResponseBody) -> Self {
        let mut complaint = Self {
            severity: "FATAL".into(),
            sqlstate: "XX000".into(),
            message: "the target gave no reason".into(),
            detail: None,
            hint: None,
        };
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let value = printable(field.value_bytes());
            match field.type_() {
                b'V' if ["ERROR", "FATAL", "PANIC"].contains(&value.as_str()) => complaint.severity = value,
                b'C' if is_sqlstate(&value) => complaint.sqlstate = value,
                b'M' => complaint.message = value,
                b'D' => complaint.detail = Some(value),
                b'H' => complaint.hint = Some(value),
                _ => {}
            }
        }
        complaint
    }

    /// As the reason of a failed log-in, before the target accepted the credential.
    pub(super) fn before_authentication(self) -> LoginError {
        if self.sqlstate.starts_with("28") { LoginError::Refused(self) } else { LoginError::Rejected(self) }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.sqlstate, self.message)?;
        self.detail.iter().chain(&self.hint).try_for_each(|more| write!(f, "; {more}"))
    }
}

fn is_sqlstate(text: &str) -> bool {
    text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().take(MAX_FIELD).map(|char| if char.is_control() { ' ' } else { char }).collect()
}
