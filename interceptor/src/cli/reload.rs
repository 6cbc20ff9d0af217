//! `interceptor reload`.

use std::process::ExitCode;

use hyper::Method;

use super::{Context, Printer, REFUSED, block_on};
use crate::admin::client;

pub(super) fn run(context: &Context, out: &mut Printer) -> Result<ExitCode, String> {
    let call = client::call::<serde_json::Value>(&context.socket, Method::POST, "/v1/reload", None::<&()>);
    match block_on(call)? {
        Ok(answer) => {
            out.show(&answer, |answer| {
                Ok(answer.get("loaded").and_then(|text| text.as_str()).unwrap_or("loaded").to_owned())
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Err(client::ClientError::Refused(why)) => {
            out.line(&why)?;
            Ok(ExitCode::from(REFUSED))
        }
        Err(error) => Err(error.to_string()),
    }
}
