//! Writing messages: all that we say ourselves, and all that tests say.

use bytes::{BufMut, BytesMut};

use super::{Backend, Field, Formats, Frontend, Parameters, ProtocolVersion, Side, Startup};
use crate::wire::{length_prefixed, put_cstr};

/// Writes one typed message. False, with nothing written, when it would be longer than the protocol can say.
pub fn message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) -> bool {
    let start = out.len();
    out.put_u8(tag);
    let fits = length_prefixed(out, body);
    if !fits {
        out.truncate(start);
    }
    fits
}

/// Writes a start-up packet with these parameters.
pub fn startup<'a>(
    out: &mut BytesMut,
    version: ProtocolVersion,
    parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> bool {
    length_prefixed(out, |out| {
        out.put_u32(version.code());
        for (name, value) in parameters {
            put_cstr(out, name);
            put_cstr(out, value);
        }
        out.put_u8(0);
    })
}

/// Writes the request for TLS.
pub fn ssl_request(out: &mut BytesMut) {
    out.put_slice(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);
}

/// Writes the request to cancel.
pub fn cancel_request(out: &mut BytesMut, process_id: u32, secret: &[u8]) -> bool {
    length_prefixed(out, |out| {
        out.put_slice(&[0x04, 0xd2, 0x16, 0x2e]);
        out.put_u32(process_id);
        out.put_slice(secret);
    })
}

/// Writes any packet of the start-up.
pub fn startup_packet(out: &mut BytesMut, packet: &Startup<'_>) -> bool {
    match packet {
        Startup::Ssl => {
            ssl_request(out);
            true
        }
        Startup::GssEnc => {
            out.put_slice(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30]);
            true
        }
        Startup::Cancel { process_id, secret } => cancel_request(out, *process_id, secret),
        Startup::Open { version, parameters } => startup(out, *version, *parameters),
    }
}

/// Writes Query.
pub fn query(out: &mut BytesMut, text: &[u8]) -> bool {
    message(out, b'Q', |out| put_cstr(out, text))
}

/// Writes Parse without declared types.
pub fn parse(out: &mut BytesMut, name: &[u8], text: &[u8]) -> bool {
    message(out, b'P', |out| {
        put_cstr(out, name);
        put_cstr(out, text);
        out.put_u16(0);
    })
}

/// Writes Bind without parameters, results in text.
pub fn bind(out: &mut BytesMut, portal: &[u8], statement: &[u8]) -> bool {
    message(out, b'B', |out| {
        put_cstr(out, portal);
        put_cstr(out, statement);
        out.put_slice(&[0; 6]);
    })
}

/// Writes Describe.
pub fn describe(out: &mut BytesMut, side: Side, name: &[u8]) -> bool {
    sided(out, b'D', side, name)
}

/// Writes Close.
pub fn close(out: &mut BytesMut, side: Side, name: &[u8]) -> bool {
    sided(out, b'C', side, name)
}

fn sided(out: &mut BytesMut, tag: u8, side: Side, name: &[u8]) -> bool {
    message(out, tag, |out| {
        out.put_u8(side.code());
        put_cstr(out, name);
    })
}

/// Writes Execute.
pub fn execute(out: &mut BytesMut, portal: &[u8], max_rows: i32) -> bool {
    message(out, b'E', |out| {
        put_cstr(out, portal);
        out.put_i32(max_rows);
    })
}

/// Writes a message that has no body: Sync, Flush, Terminate, CopyDone, ParseComplete ...
pub fn bare(out: &mut BytesMut, tag: u8) {
    out.put_u8(tag);
    out.put_u32(4);
}

/// Writes a password, token or SASL response.
pub fn password(out: &mut BytesMut, secret: &[u8]) -> bool {
    message(out, b'p', |out| put_cstr(out, secret))
}

/// Writes an authentication request: 0 for "you are in", 3 for "your password in clear, please".
pub fn authentication(out: &mut BytesMut, code: u32) {
    message(out, b'R', |out| out.put_u32(code));
}

/// Writes ParameterStatus.
pub fn parameter_status(out: &mut BytesMut, name: &[u8], value: &[u8]) -> bool {
    message(out, b'S', |out| {
        put_cstr(out, name);
        put_cstr(out, value);
    })
}

/// Writes BackendKeyData.
pub fn backend_key(out: &mut BytesMut, process_id: u32, secret: &[u8]) -> bool {
    message(out, b'K', |out| {
        out.put_u32(process_id);
        out.put_slice(secret);
    })
}

/// Writes NegotiateProtocolVersion: the newest minor version, and the options that are not understood.
pub fn negotiate(out: &mut BytesMut, version: ProtocolVersion, options: &[&[u8]]) -> bool {
    message(out, b'v', |out| {
        out.put_u32(version.code());
        out.put_u32(u32::try_from(options.len()).unwrap_or(u32::MAX));
        for option in options {
            put_cstr(out, option);
        }
    })
}

/// Writes ReadyForQuery with `I`, `T` or `E`.
pub fn ready(out: &mut BytesMut, status: u8) {
    message(out, b'Z', |out| out.put_u8(status));
}

/// Writes an error (`E`) or notice (`N`) of these fields.
pub fn notice<'a>(out: &mut BytesMut, tag: u8, fields: impl IntoIterator<Item = (u8, &'a [u8])>) -> bool {
    message(out, tag, |out| {
        for (code, text) in fields {
            out.put_u8(code);
            put_cstr(out, text);
        }
        out.put_u8(0);
    })
}

/// Writes RowDescription.
pub fn row_description<'a>(out: &mut BytesMut, fields: impl ExactSizeIterator<Item = Field<'a>>) -> bool {
    let Ok(count) = u16::try_from(fields.len()) else { return false };
    message(out, b'T', |out| {
        out.put_u16(count);
        for field in fields {
            put_cstr(out, field.name);
            out.put_u32(field.table_oid);
            out.put_i16(field.column);
            out.put_u32(field.type_oid);
            out.put_i16(field.type_size);
            out.put_i32(field.type_modifier);
            out.put_u16(field.format);
        }
    })
}

/// Writes DataRow. False, with nothing written, when it has too many columns or is too long.
pub fn data_row<'a>(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<&'a [u8]>>) -> bool {
    let Ok(count) = u16::try_from(values.len()) else { return false };
    message(out, b'D', |out| {
        out.put_u16(count);
        values.for_each(|value| put_value(out, value));
    })
}

/// Writes CommandComplete.
pub fn command_complete(out: &mut BytesMut, tag: &[u8]) -> bool {
    message(out, b'C', |out| put_cstr(out, tag))
}

fn put_value(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => out.put_i32(-1),
        // A longer value makes the whole message too long, which `message` refuses.
        Some(value) => {
            out.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
            out.put_slice(value);
        }
    }
}

fn put_values(out: &mut BytesMut, formats: Formats<'_>, values: Parameters<'_>) {
    put_pairs(out, formats.codes(), 2);
    out.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
    values.for_each(|value| put_value(out, value));
}

fn put_pairs(out: &mut BytesMut, pairs: &[u8], size: usize) {
    out.put_u16(u16::try_from(pairs.len() / size).unwrap_or(u16::MAX));
    out.put_slice(pairs);
}

/// Writes any message of the agent: the inverse of [`Frontend::decode`].
pub fn frontend(out: &mut BytesMut, decoded: &Frontend<'_>) -> bool {
    match decoded {
        Frontend::Query(text) => query(out, text),
        Frontend::Parse { name, text, types } => message(out, b'P', |out| {
            put_cstr(out, name);
            put_cstr(out, text);
            put_pairs(out, types, 4);
        }),
        Frontend::Bind(bind) => message(out, b'B', |out| {
            put_cstr(out, bind.portal);
            put_cstr(out, bind.statement);
            put_values(out, bind.formats, bind.parameters);
            put_pairs(out, bind.results.codes(), 2);
        }),
        Frontend::Describe(side, name) => describe(out, *side, name),
        Frontend::Execute { portal, max_rows } => execute(out, portal, *max_rows),
        Frontend::Close(side, name) => close(out, *side, name),
        Frontend::Flush => empty(out, b'H'),
        Frontend::Sync => empty(out, b'S'),
        Frontend::Terminate => empty(out, b'X'),
        Frontend::CopyDone => empty(out, b'c'),
        Frontend::CopyFail(text) => message(out, b'f', |out| put_cstr(out, text)),
        Frontend::CopyData(body) => message(out, b'd', |out| out.put_slice(body)),
        Frontend::FunctionCall(call) => message(out, b'F', |out| {
            out.put_u32(call.function);
            put_values(out, call.formats, call.arguments);
            out.put_u16(u16::from(call.binary_result));
        }),
        Frontend::Password(body) => message(out, b'p', |out| out.put_slice(body)),
    }
}

/// Writes any message of the target: the inverse of [`Backend::decode`].
pub fn backend(out: &mut BytesMut, decoded: &Backend<'_>) -> bool {
    match decoded {
        Backend::Authentication(body) => message(out, b'R', |out| out.put_slice(body)),
        Backend::ParameterStatus(name, value) => parameter_status(out, name, value),
        Backend::BackendKeyData { process_id, secret } => backend_key(out, *process_id, secret),
        Backend::NegotiateProtocolVersion { version, options } => message(out, b'v', |out| {
            out.put_u32(*version);
            let count = options.iter().filter(|byte| **byte == 0).count();
            out.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
            out.put_slice(options);
        }),
        Backend::ReadyForQuery(status) => message(out, b'Z', |out| out.put_u8(*status)),
        Backend::RowDescription(fields) => row_description(out, *fields),
        Backend::ParameterDescription(types) => message(out, b't', |out| put_pairs(out, types, 4)),
        Backend::DataRow(values) => data_row(out, *values),
        Backend::CommandComplete(tag) => command_complete(out, tag),
        Backend::EmptyQueryResponse => empty(out, b'I'),
        Backend::NoData => empty(out, b'n'),
        Backend::ParseComplete => empty(out, b'1'),
        Backend::BindComplete => empty(out, b'2'),
        Backend::CloseComplete => empty(out, b'3'),
        Backend::PortalSuspended => empty(out, b's'),
        Backend::ErrorResponse(fields) => notice(out, b'E', fields.fields()),
        Backend::NoticeResponse(fields) => notice(out, b'N', fields.fields()),
        Backend::NotificationResponse { process_id, channel, payload } => message(out, b'A', |out| {
            out.put_u32(*process_id);
            put_cstr(out, channel);
            put_cstr(out, payload);
        }),
        Backend::CopyInResponse(rows) => copy(out, b'G', rows),
        Backend::CopyOutResponse(rows) => copy(out, b'H', rows),
        Backend::CopyBothResponse(rows) => copy(out, b'W', rows),
        Backend::CopyData(body) => message(out, b'd', |out| out.put_slice(body)),
        Backend::CopyDone => empty(out, b'c'),
        Backend::FunctionCallResponse(body) => message(out, b'V', |out| out.put_slice(body)),
    }
}

fn empty(out: &mut BytesMut, tag: u8) -> bool {
    bare(out, tag);
    true
}

fn copy(out: &mut BytesMut, tag: u8, rows: &super::Rows<'_>) -> bool {
    message(out, tag, |out| {
        out.put_u8(u8::from(rows.binary));
        put_pairs(out, rows.formats, 2);
    })
}
