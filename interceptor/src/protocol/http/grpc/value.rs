//! Values of fields as they read.

use super::schema::{Kind, Schema};
use super::wire::{Broken, Fields, Payload};

/// How values of a kind are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Varint,
    Eight,
    Four,
    /// With a length: strings, bytes, messages.
    Length,
    /// As a group.
    None,
}

impl Kind {
    pub(super) const fn width(self) -> Width {
        match self {
            Self::Double | Self::Fixed64 | Self::Sfixed64 => Width::Eight,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => Width::Four,
            Self::String | Self::Bytes | Self::Message(_) => Width::Length,
            Self::Group => Width::None,
            _ => Width::Varint,
        }
    }
}

impl Payload<'_> {
    pub(super) const fn width(&self) -> Width {
        match self {
            Self::Varint(_) => Width::Varint,
            Self::Fixed64(_) => Width::Eight,
            Self::Bytes(_) => Width::Length,
            Self::Fixed32(_) => Width::Four,
        }
    }
}

/// The values of a packed list, one after the other.
#[derive(Debug)]
pub(super) struct Packed<'a> {
    pub(super) fields: Fields<'a>,
    width: Width,
}

impl<'a> Packed<'a> {
    pub(super) const fn of(bytes: &'a [u8], kind: Kind) -> Self {
        Self { fields: Fields::of(bytes), width: kind.width() }
    }

    pub(super) fn next(&mut self) -> Result<Option<Payload<'a>>, Broken> {
        match self.width {
            Width::Varint => Ok(self.fields.packed_varint()?.map(Payload::Varint)),
            Width::Eight => Ok(self.fields.packed_array()?.map(Payload::Fixed64)),
            Width::Four => Ok(self.fields.packed_array()?.map(Payload::Fixed32)),
            Width::Length | Width::None => Err(Broken::Tag),
        }
    }
}

/// A number, a truth value or one of an enumeration as every reader has it.
///
/// # Errors
/// Why readers may differ in what it is.
pub(super) fn text(schema: &Schema, kind: Kind, payload: Payload<'_>) -> Result<String, &'static str> {
    const RANGE: &str = "is out of its range";
    let narrow = |value: u64| i32::try_from(value.cast_signed()).map_err(|_| RANGE);
    Ok(match (kind, payload) {
        (Kind::Double, Payload::Fixed64(bytes)) => f64::from_le_bytes(bytes).to_string(),
        (Kind::Float, Payload::Fixed32(bytes)) => f32::from_le_bytes(bytes).to_string(),
        (Kind::Int32, Payload::Varint(value)) => narrow(value)?.to_string(),
        (Kind::Int64, Payload::Varint(value)) => value.cast_signed().to_string(),
        (Kind::Uint32, Payload::Varint(value)) => u32::try_from(value).map_err(|_| RANGE)?.to_string(),
        (Kind::Uint64, Payload::Varint(value)) => value.to_string(),
        (Kind::Sint32, Payload::Varint(value)) => unfolded(u64::from(u32::try_from(value).map_err(|_| RANGE)?)),
        (Kind::Sint64, Payload::Varint(value)) => unfolded(value),
        (Kind::Fixed32, Payload::Fixed32(bytes)) => u32::from_le_bytes(bytes).to_string(),
        (Kind::Sfixed32, Payload::Fixed32(bytes)) => i32::from_le_bytes(bytes).to_string(),
        (Kind::Fixed64, Payload::Fixed64(bytes)) => u64::from_le_bytes(bytes).to_string(),
        (Kind::Sfixed64, Payload::Fixed64(bytes)) => i64::from_le_bytes(bytes).to_string(),
        (Kind::Bool, Payload::Varint(0)) => "false".to_owned(),
        (Kind::Bool, Payload::Varint(1)) => "true".to_owned(),
        (Kind::Bool, Payload::Varint(_)) => return Err("is neither true nor false"),
        (Kind::Enum(place), Payload::Varint(value)) => {
            let value = narrow(value)?;
            let name = schema.enumeration(place).and_then(|one| one.name(value));
            name.ok_or("is no value of its enumeration")?.to_owned()
        }
        _ => return Err("is not written as its kind is"),
    })
}

/// What a field reads as that is not written.
pub(super) fn default(schema: &Schema, kind: Kind) -> Option<String> {
    Some(match kind {
        Kind::String | Kind::Bytes => String::new(),
        Kind::Bool => "false".to_owned(),
        Kind::Enum(place) => {
            let one = schema.enumeration(place)?;
            one.name(one.first)?.to_owned()
        }
        Kind::Message(_) | Kind::Group => return None,
        _ => "0".to_owned(),
    })
}

/// The number behind one that was folded so that small ones are short (`sint32`, `sint64`).
fn unfolded(value: u64) -> String {
    ((value >> 1).cast_signed() ^ -(value & 1).cast_signed()).to_string()
}
