//! `interceptor reload`: the daemon takes its configuration and policies anew. Root also does what the daemon may not: attach kernel
//! programs to cgroups that are new, and take them from those that are not named any more.

use std::fmt;
use std::process::ExitCode;

use hyper::Method;
use serde::Serialize;
use serde_json::Value;

use super::{Context, Printer, REFUSED, block_on};
use crate::admin::Enrolled;
use crate::admin::client::{self, ClientError};
use crate::capture::{self, CaptureError, Reloaded};

/// Why nothing was changed.
enum Failure {
    /// The daemon says no, or a cgroup cannot be governed.
    Refused(String),
    Failed(String),
}

impl From<CaptureError> for Failure {
    fn from(error: CaptureError) -> Self {
        Self::Refused(format!("nothing was changed: [capture] cgroups: {error}"))
    }
}

/// What has come of it.
#[derive(Serialize)]
struct Answer {
    /// The daemon's words.
    loaded: String,
    /// Cgroups that are not governed any more.
    released: Vec<String>,
    /// Cgroups that are governed although they are not configured any more.
    held: Vec<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.loaded)?;
        for cgroup in &self.released {
            write!(f, "\ncgroup {cgroup} is not governed any more")?;
        }
        for cgroup in &self.held {
            write!(
                f,
                "\ncgroup {cgroup} is not configured any more, and stays governed, since processes run there: reload again when \
                 they have ended, or let it go: interceptor enroll --undo --cgroup {cgroup}"
            )?;
        }
        Ok(())
    }
}

pub(super) fn run(context: &Context, out: &mut Printer) -> Result<ExitCode, String> {
    match reload(context) {
        Ok(answer) => {
            let told = answer.released.iter().try_for_each(|cgroup| let_go(context, cgroup));
            out.show(&answer, |answer| Ok(answer.to_string()))?;
            told.map(|()| ExitCode::SUCCESS)
        }
        Err(Failure::Refused(why)) => {
            out.line(&why)?;
            Ok(ExitCode::from(REFUSED))
        }
        Err(Failure::Failed(why)) => Err(why),
    }
}

fn reload(context: &Context) -> Result<Answer, Failure> {
    let config = if nix::unistd::geteuid().is_root() { context.configuration().ok() } else { None };
    let (loaded, changes) = match config {
        Some(config) => capture::regovern(&config.capture, || tell(context))?,
        // The daemon says what is wrong with it.
        None => (tell(context)?, Reloaded::default()),
    };
    Ok(Answer { loaded, released: changes.released, held: changes.held })
}

fn tell(context: &Context) -> Result<String, Failure> {
    let call = client::call::<Value>(&context.socket, Method::POST, "/v1/reload", None::<&()>);
    match block_on(call).map_err(Failure::Failed)? {
        Ok(answer) => Ok(answer.get("loaded").and_then(Value::as_str).unwrap_or("loaded").to_owned()),
        Err(ClientError::Refused(why)) => Err(Failure::Refused(why)),
        Err(error) => Err(Failure::Failed(error.to_string())),
    }
}

/// Has the daemon close what listens for it, and note that.
fn let_go(context: &Context, cgroup: &str) -> Result<(), String> {
    let done = Enrolled { cgroup: cgroup.to_owned(), governed: false, destroyed: 0 };
    let call = client::call::<Enrolled>(&context.socket, Method::POST, "/v1/cgroups", Some(&done));
    let told = block_on(call)?;
    told.map(drop).map_err(|error| format!("cgroup {cgroup} is not governed any more; but the daemon: {error}"))
}
