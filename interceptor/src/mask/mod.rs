//! Masking: which values are sensitive, and what stands in their place.
//!
//! Columns carry tags by `[[mask]]` globs; values are recognised by detectors. What of it an identity may see in clear
//! is policy's word ([`crate::policy::Obligations`]); [`Masker`] joins both. Nothing here knows a protocol: a caller
//! says what a value can carry ([`Carrier`]) and writes what comes out.
//!
//! Tags on columns are the defence. Detectors are a net below it: they find values as people and programs write them,
//! inside longer text, over separators, Unicode digits and invisible characters. They do not promise to find a value
//! that the agent itself has disguised in its query (reversed, encoded, compressed, cast to a number, cut over columns):
//! a computed column of a tagged one is masked whole for that reason.

mod config;
mod detect;
mod glob;
pub mod json;
mod masker;
mod path;
mod rules;
pub mod text;
mod transform;

pub use config::{Config, Transform};
pub use detect::Detector;
pub use glob::GlobError;
pub use json::{JsonMasker, JsonPaths, NotJson, Place, TreeMasker};
pub use masker::{Carrier, ColumnMask, Masker, Outcome};
pub use path::{PathError, fold};
pub use rules::{MAX_PATHS, MAX_RULES, MaskError, Rules};
pub use text::TextMasker;
