//! Computations that fail for some values and not for others: whether a statement fails tells what it computes with, bit by
//! bit, although its message is withheld. Over a tagged value they count as a filter.
//!
//! What is not known to be total counts as able to fail; where a tagged value decides whether it is computed at all, so does
//! that. Not seen: that a whole does not fit into memory, that arrays do not fit together, that a value is NULL where none may
//! be. Whether a value is refused where it is stored is looked at there.

use pg_query::NodeEnum;
use pg_query::protobuf::{AExpr, AExprKind, FuncCall, TypeName, XmlExpr, XmlExprOp};

use super::function::constant;
use super::lineage::{qualified_name, string};
use super::table::{Walker, union};
use crate::policy::TagSet;

/// Functions of the system, and of extensions that are trusted, that yield something for whatever they are given.
const TOTAL: &[&str] = &[
    "array_agg",
    "array_to_json",
    "array_to_string",
    "ascii",
    "avg",
    "bit_length",
    "bool_and",
    "bool_or",
    "btrim",
    "char_length",
    "character_length",
    "concat",
    "concat_ws",
    "count",
    "cume_dist",
    "dense_rank",
    "every",
    "first_value",
    "hashtext",
    "hashtextextended",
    "initcap",
    "isfinite",
    "json_agg",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "jsonb_pretty",
    "last_value",
    "left",
    "length",
    "lower",
    "ltrim",
    "max",
    "md5",
    "min",
    "mode",
    "octet_length",
    "percent_rank",
    "pg_typeof",
    "position",
    "quote_ident",
    "quote_literal",
    "quote_nullable",
    "rank",
    "reverse",
    "right",
    "row_to_json",
    "rtrim",
    "starts_with",
    "string_agg",
    "strpos",
    "sum",
    "to_json",
    "to_jsonb",
    "translate",
    "upper",
    "xmlagg",
];

/// The same, where only their first argument is tagged.
const TOTAL_IN_FIRST: &[&str] =
    &["lag", "lead", "nth_value", "regexp_replace", "split_part", "substr", "substring", "to_char"];

/// The same, where their first argument is not.
const TOTAL_BUT_FIRST: &[&str] = &["date_part", "date_trunc", "extract", "format"];

/// Operators that yield something for whatever they are given.
const OPERATORS: &[&str] =
    &["=", "<>", "<", "<=", ">", ">=", "||", "->", "->>", "#>", "#>>", "@>", "<@", "?", "?|", "?&", "&&"];

/// Types that any value can be cast to.
const TYPES: &[&str] = &["text", "varchar", "bpchar", "name"];

impl Walker<'_> {
    /// Arguments of a call: the tags of all. Where it can fail because of them, they decide.
    pub(super) fn arguments(&mut self, call: &FuncCall) -> TagSet {
        let (first, rest) = match call.args.split_first() {
            Some((first, rest)) => (self.expression(first).tags, self.expressions(rest)),
            None => (self.no_tags(), self.no_tags()),
        };
        let name = qualified_name(&call.funcname).map_or("", |(_, name)| name);
        let total = TOTAL.contains(&name)
            || (rest.is_empty() && TOTAL_IN_FIRST.contains(&name))
            || (first.is_empty() && TOTAL_BUT_FIRST.contains(&name));
        let tags = union(&first, &rest);
        if !total || (name == "format" && !self.is_plain_format(call)) {
            self.fails_by(&tags);
        }
        tags
    }

    /// A computation of something with these tags can fail.
    pub(super) fn fails_by(&mut self, tags: &TagSet) {
        self.failing += 1;
        self.filter(tags);
    }

    /// Whether a format takes no width from its arguments, which has to be a number.
    fn is_plain_format(&mut self, call: &FuncCall) -> bool {
        self.uses_constants = true;
        call.args.first().and_then(constant).is_some_and(|format| !format.contains('*'))
    }

    /// An operation, whose operands have these tags.
    pub(super) fn may_fail(&mut self, expression: &AExpr, left: &TagSet, right: &TagSet) {
        let name = expression.name.last().and_then(string).unwrap_or_default();
        let total = match AExprKind::try_from(expression.kind) {
            Ok(AExprKind::AexprLike | AExprKind::AexprIlike) => right.is_empty() && self.is_plain_pattern(expression),
            Ok(AExprKind::AexprSimilar) => false,
            // An invalid pattern fails for every value.
            Ok(AExprKind::AexprOp | AExprKind::AexprOpAny | AExprKind::AexprOpAll) if is_pattern(name) => {
                right.is_empty()
            }
            Ok(AExprKind::AexprOp | AExprKind::AexprOpAny | AExprKind::AexprOpAll) => OPERATORS.contains(&name),
            Ok(AExprKind::Undefined) | Err(_) => false,
            // IN, IS DISTINCT FROM, NULLIF, BETWEEN.
            Ok(_) => true,
        };
        if !total {
            self.fails_by(&union(left, right));
        }
    }

    /// Whether a pattern of LIKE cannot end in the middle of an escape, which only fails where all before it matches.
    fn is_plain_pattern(&mut self, expression: &AExpr) -> bool {
        self.uses_constants = true;
        expression.rexpr.as_deref().and_then(constant).is_some_and(|pattern| !pattern.contains('\\'))
    }

    /// A cast of something with these tags.
    pub(super) fn cast_may_fail(&mut self, kind: Option<&TypeName>, tags: &TagSet) {
        let plain = kind.filter(|kind| kind.array_bounds.is_empty() && self.is_plain(kind));
        let total = plain.and_then(|kind| qualified_name(&kind.names)).is_some_and(|(_, name)| TYPES.contains(&name));
        if !total {
            self.fails_by(tags);
        }
    }

    /// An XML expression of something with these tags.
    pub(super) fn xml_may_fail(&mut self, xml: &XmlExpr, tags: &TagSet) {
        if matches!(
            XmlExprOp::try_from(xml.op),
            Ok(XmlExprOp::IsXmlparse | XmlExprOp::IsXmlpi | XmlExprOp::Undefined) | Err(_)
        ) {
            self.fails_by(tags);
        }
    }
}

/// Matches a regular expression on its right.
fn is_pattern(name: &str) -> bool {
    matches!(name, "~" | "~*" | "!~" | "!~*")
}

/// What of the SQL/JSON family can fail: paths, casts, and keys that are to be unique.
pub(super) fn json_may_fail(node: &NodeEnum) -> bool {
    match node {
        NodeEnum::JsonFuncExpr(_) | NodeEnum::JsonParseExpr(_) => true,
        NodeEnum::JsonScalarExpr(scalar) => scalar.output.is_some(),
        NodeEnum::JsonSerializeExpr(serialize) => serialize.output.is_some(),
        NodeEnum::JsonObjectConstructor(object) => object.unique || object.output.is_some(),
        NodeEnum::JsonObjectAgg(aggregate) => aggregate.unique,
        _ => false,
    }
}
