//! Expressions: what they read, what they call, and the tags of what they yield.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AExpr, AExprKind, FuncCall, JsonAggConstructor, JsonBehavior, JsonExprOp, JsonValueExpr, MinMaxOp, Node, SubLink,
    SubLinkType, TypeName, XmlExprOp,
};

use super::fails::json_may_fail;
use super::from::shown;
use super::lineage::{Val, field_names, qualified_name, string};
use super::query::all_tags;
use super::table::{Walker, union};
use crate::policy::TagSet;
use crate::protocol::postgres::catalog::FIRST_NORMAL_OID;

impl Walker<'_> {
    /// Tags of an expression that may be absent.
    pub(super) fn maybe(&mut self, node: Option<&Node>) -> TagSet {
        match node {
            Some(node) => self.expression(node).tags,
            None => self.no_tags(),
        }
    }

    /// Tags of several expressions together.
    pub(super) fn expressions(&mut self, nodes: &[Node]) -> TagSet {
        let none = self.no_tags();
        nodes.iter().fold(none, |tags, node| union(&tags, &self.expression(node).tags))
    }

    /// Tags of `value AS name` lists, as in XML functions.
    pub(super) fn targets(&mut self, nodes: &[Node]) -> TagSet {
        let none = self.no_tags();
        nodes.iter().fold(none, |tags, node| {
            let more = match &node.node {
                Some(NodeEnum::ResTarget(target)) => self.maybe(target.val.as_deref()),
                _ => self.expression(node).tags,
            };
            union(&tags, &more)
        })
    }

    /// Any expression.
    pub(super) fn expression(&mut self, node: &Node) -> Val {
        if !self.step() {
            return Val::made(self.scope.tags.all());
        }
        let Some(kind) = &node.node else { return Val::made(self.no_tags()) };
        let tags = match kind {
            NodeEnum::ColumnRef(reference) => return self.column_ref(&reference.fields),
            NodeEnum::AConst(_)
            | NodeEnum::ParamRef(_)
            | NodeEnum::SqlvalueFunction(_)
            | NodeEnum::SetToDefault(_)
            | NodeEnum::String(_)
            | NodeEnum::Integer(_)
            | NodeEnum::Float(_)
            | NodeEnum::Boolean(_)
            | NodeEnum::BitString(_) => self.no_tags(),
            NodeEnum::MergeSupportFunc(_) => {
                self.syntax("merge_action");
                self.no_tags()
            }
            NodeEnum::AExpr(expression) if is_lazy(expression) => self.deciding(|walker| {
                let tags = walker.operation(expression);
                (Arc::clone(&tags), tags)
            }),
            NodeEnum::AExpr(expression) => self.operation(expression),
            NodeEnum::BoolExpr(expression) => self.deciding(|walker| walker.each(&expression.args, tells_null)),
            NodeEnum::NullTest(test) => self.maybe(test.arg.as_deref()),
            NodeEnum::BooleanTest(test) => self.maybe(test.arg.as_deref()),
            NodeEnum::TypeCast(cast) => {
                self.type_name(cast.type_name.as_ref());
                let tags = self.maybe(cast.arg.as_deref());
                // A constant fails, or does not, before anything is computed.
                let given = |arg: &Node| matches!(arg.node, Some(NodeEnum::AConst(_) | NodeEnum::ParamRef(_)));
                if !cast.arg.as_deref().is_some_and(given) {
                    self.cast_may_fail(cast.type_name.as_ref(), &tags);
                }
                tags
            }
            NodeEnum::CollateClause(collate) => self.maybe(collate.arg.as_deref()),
            NodeEnum::FuncCall(call) => self.call(call),
            NodeEnum::NamedArgExpr(named) => self.maybe(named.arg.as_deref()),
            NodeEnum::AIndirection(indirection) => {
                let mut tags = self.maybe(indirection.arg.as_deref());
                for node in &indirection.indirection {
                    match &node.node {
                        Some(NodeEnum::String(field)) => self.field_function(&field.sval, &tags),
                        Some(NodeEnum::AStar(_)) => {}
                        _ => tags = union(&tags, &self.expression(node).tags),
                    }
                }
                tags
            }
            NodeEnum::AIndices(indices) => {
                union(&self.maybe(indices.lidx.as_deref()), &self.maybe(indices.uidx.as_deref()))
            }
            NodeEnum::AArrayExpr(array) => {
                self.builtin_casts();
                self.expressions(&array.elements)
            }
            NodeEnum::RowExpr(row) => self.expressions(&row.args),
            NodeEnum::List(list) => self.expressions(&list.items),
            // Whose rows are asked for one by one, until one is found.
            NodeEnum::SubLink(link) if link.testexpr.is_some() => self.deciding(|walker| {
                let tags = walker.sub_link(link);
                (Arc::clone(&tags), tags)
            }),
            NodeEnum::SubLink(link) => self.sub_link(link),
            NodeEnum::CaseExpr(case) => self.deciding(|walker| {
                walker.builtin_casts();
                let mut deciding = walker.maybe(case.arg.as_deref());
                let mut tags = union(&deciding, &walker.maybe(case.defresult.as_deref()));
                if case.arg.is_some() {
                    walker.operator(None, "=");
                }
                for node in &case.args {
                    let Some(NodeEnum::CaseWhen(when)) = &node.node else {
                        tags = union(&tags, &walker.expression(node).tags);
                        continue;
                    };
                    let asked = walker.maybe(when.expr.as_deref());
                    tags = union(&union(&tags, &asked), &walker.maybe(when.result.as_deref()));
                    if !when.expr.as_deref().is_some_and(tells_null) {
                        deciding = union(&deciding, &asked);
                    }
                }
                (tags, deciding)
            }),
            NodeEnum::CaseWhen(when) => union(&self.maybe(when.expr.as_deref()), &self.maybe(when.result.as_deref())),
            NodeEnum::CoalesceExpr(coalesce) => self.deciding(|walker| {
                walker.builtin_casts();
                walker.each(&coalesce.args, |node| matches!(node.node, Some(NodeEnum::ColumnRef(_))))
            }),
            NodeEnum::MinMaxExpr(many) => {
                self.builtin_casts();
                self.expressions(&many.args)
            }
            NodeEnum::GroupingFunc(grouping) => self.expressions(&grouping.args),
            NodeEnum::GroupingSet(set) => self.expressions(&set.content),
            NodeEnum::MultiAssignRef(assign) => self.maybe(assign.source.as_deref()),
            NodeEnum::CurrentOfExpr(current) => {
                self.references += 1;
                self.session_bound = true;
                match self.scope.known.cursor(&current.cursor_name) {
                    Some(cursor) => Arc::clone(&cursor.reads_tagged),
                    None => self.no_tags(),
                }
            }
            NodeEnum::XmlExpr(xml) => {
                let tags = union(&self.targets(&xml.named_args), &self.expressions(&xml.args));
                self.xml_may_fail(xml, &tags);
                tags
            }
            NodeEnum::XmlSerialize(xml) => {
                self.type_name(xml.type_name.as_ref());
                self.maybe(xml.expr.as_deref())
            }
            other => {
                let tags = self.json(other);
                if json_may_fail(other) {
                    self.fails_by(&tags);
                }
                tags
            }
        };
        Val::made(tags)
    }

    /// Tags of expressions together, and of those that are not `visible`, which tell nothing that is not seen anyway.
    fn each(&mut self, nodes: &[Node], visible: fn(&Node) -> bool) -> (TagSet, TagSet) {
        let (mut tags, mut deciding) = (self.no_tags(), self.no_tags());
        for node in nodes {
            let more = self.expression(node).tags;
            tags = union(&tags, &more);
            if !visible(node) {
                deciding = union(&deciding, &more);
            }
        }
        (tags, deciding)
    }

    /// An expression of which some part decides whether another is run: all tags, and those of what decides.
    fn deciding(&mut self, read: impl FnOnce(&mut Self) -> (TagSet, TagSet)) -> TagSet {
        let (calls, failing) = (self.calls, self.failing);
        let (tags, deciding) = read(self);
        if self.calls != calls {
            self.leak(&tags, "decides what is called");
        }
        if self.failing != failing {
            // Whether the statement fails tells whether it got there.
            self.filter(&deciding);
        }
        tags
    }

    /// The SQL/JSON family; anything else is not known.
    fn json(&mut self, node: &NodeEnum) -> TagSet {
        if let Some(name) = json_function(node) {
            self.syntax(name);
        }
        match node {
            NodeEnum::JsonValueExpr(value) => self.json_value(Some(value)),
            NodeEnum::JsonIsPredicate(predicate) => self.maybe(predicate.expr.as_deref()),
            NodeEnum::JsonKeyValue(pair) => {
                union(&self.maybe(pair.key.as_deref()), &self.json_value(pair.value.as_deref()))
            }
            NodeEnum::JsonArgument(argument) => self.json_value(argument.val.as_deref()),
            NodeEnum::JsonParseExpr(parse) => {
                self.json_output(parse.output.as_ref().and_then(|output| output.type_name.as_ref()));
                self.json_value(parse.expr.as_deref())
            }
            NodeEnum::JsonScalarExpr(scalar) => {
                self.json_output(scalar.output.as_ref().and_then(|output| output.type_name.as_ref()));
                self.maybe(scalar.expr.as_deref())
            }
            NodeEnum::JsonSerializeExpr(serialize) => {
                self.json_output(serialize.output.as_ref().and_then(|output| output.type_name.as_ref()));
                self.json_value(serialize.expr.as_deref())
            }
            NodeEnum::JsonObjectConstructor(object) => {
                self.json_output(object.output.as_ref().and_then(|output| output.type_name.as_ref()));
                self.expressions(&object.exprs)
            }
            NodeEnum::JsonArrayConstructor(array) => {
                self.json_output(array.output.as_ref().and_then(|output| output.type_name.as_ref()));
                self.expressions(&array.exprs)
            }
            NodeEnum::JsonArrayQueryConstructor(array) => {
                self.json_output(array.output.as_ref().and_then(|output| output.type_name.as_ref()));
                let columns = self.sub_query(array.query.as_deref());
                all_tags(&columns)
            }
            NodeEnum::JsonObjectAgg(aggregate) => {
                let pair = aggregate.arg.as_deref();
                let tags = union(
                    &self.maybe(pair.and_then(|pair| pair.key.as_deref())),
                    &self.json_value(pair.and_then(|pair| pair.value.as_deref())),
                );
                union(&tags, &self.json_aggregate(aggregate.constructor.as_deref()))
            }
            NodeEnum::JsonArrayAgg(aggregate) => {
                let tags = self.json_value(aggregate.arg.as_deref());
                union(&tags, &self.json_aggregate(aggregate.constructor.as_deref()))
            }
            NodeEnum::JsonFuncExpr(call) => {
                self.json_output(call.output.as_ref().and_then(|output| output.type_name.as_ref()));
                let mut tags = self.json_value(call.context_item.as_deref());
                tags = union(&tags, &self.maybe(call.pathspec.as_deref()));
                tags = union(&tags, &self.expressions(&call.passing));
                tags = union(&tags, &self.json_behavior(call.on_empty.as_deref()));
                union(&tags, &self.json_behavior(call.on_error.as_deref()))
            }
            _ => {
                self.opaque("an expression that is not known");
                self.scope.tags.all()
            }
        }
    }

    pub(super) fn json_value(&mut self, value: Option<&JsonValueExpr>) -> TagSet {
        let Some(value) = value else { return self.no_tags() };
        union(&self.maybe(value.raw_expr.as_deref()), &self.maybe(value.formatted_expr.as_deref()))
    }

    pub(super) fn json_behavior(&mut self, behavior: Option<&JsonBehavior>) -> TagSet {
        self.maybe(behavior.and_then(|behavior| behavior.expr.as_deref()))
    }

    fn json_output(&mut self, name: Option<&TypeName>) {
        if name.is_some() {
            self.type_name(name);
        }
    }

    fn json_aggregate(&mut self, aggregate: Option<&JsonAggConstructor>) -> TagSet {
        let Some(aggregate) = aggregate else { return self.no_tags() };
        self.json_output(aggregate.output.as_ref().and_then(|output| output.type_name.as_ref()));
        let mut tags = self.maybe(aggregate.agg_filter.as_deref());
        self.filter(&tags);
        self.sort(&aggregate.agg_order, None);
        if let Some(window) = &aggregate.over {
            tags = union(&tags, &self.window(window));
        }
        tags
    }

    fn operation(&mut self, expression: &AExpr) -> TagSet {
        let (left, right) = (self.maybe(expression.lexpr.as_deref()), self.maybe(expression.rexpr.as_deref()));
        self.may_fail(expression, &left, &right);
        let tags = union(&left, &right);
        let names: &[&str] = match AExprKind::try_from(expression.kind) {
            Ok(AExprKind::AexprBetween | AExprKind::AexprBetweenSym) => &[">=", "<="],
            Ok(AExprKind::AexprNotBetween | AExprKind::AexprNotBetweenSym) => &["<", ">"],
            Ok(AExprKind::Undefined) | Err(_) => {
                self.opaque("an operation that is not known");
                &[]
            }
            Ok(_) => &[],
        };
        if names.is_empty() {
            match qualified_name(&expression.name) {
                Some((schema, name)) => self.operator(schema, name),
                None => self.opaque("an operator that is not known"),
            }
        }
        for name in names {
            self.operator(None, name);
        }
        tags
    }

    fn sub_link(&mut self, link: &SubLink) -> TagSet {
        let mut tags = self.maybe(link.testexpr.as_deref());
        let columns = self.sub_query(link.subselect.as_deref());
        if let Some((schema, name)) = qualified_name(&link.oper_name) {
            self.operator(schema, name);
        } else if link.sub_link_type == SubLinkType::AnySublink as i32 {
            self.operator(None, "=");
        }
        if link.sub_link_type != SubLinkType::ExistsSublink as i32 {
            tags = union(&tags, &all_tags(&columns));
        }
        tags
    }

    fn call(&mut self, call: &FuncCall) -> TagSet {
        let mut tags = self.arguments(call);
        for node in &call.agg_order {
            if let Some(NodeEnum::SortBy(sort)) = &node.node {
                tags = union(&tags, &self.maybe(sort.node.as_deref()));
            }
        }
        self.sort(&call.agg_order, None);
        if let Some(filter) = &call.agg_filter {
            let deciding = self.expression(filter).tags;
            self.filter(&deciding);
            tags = union(&tags, &deciding);
        }
        if let Some(window) = &call.over {
            tags = union(&tags, &self.window(window));
        }
        match qualified_name(&call.funcname) {
            Some((schema, name)) => {
                if super::function::gives_rows(name) {
                    self.filter(&tags);
                }
                self.function(schema, name, &call.args, &tags);
                if super::function::shows_statements(name) {
                    tags = union(&tags, &self.scope.tags.all());
                }
            }
            None => self.opaque("a function that is not known"),
        }
        tags
    }

    /// Whether it is a type of the system.
    pub(super) fn is_plain(&self, name: &TypeName) -> bool {
        let known = qualified_name(&name.names).and_then(|(schema, text)| {
            self.catalog().type_named(self.names, schema, text).filter(|_| !self.names_in_doubt)
        });
        known.is_some_and(|known| known.oid < FIRST_NORMAL_OID)
    }

    /// The type of a new column. The server takes a plain `serial` for an integer with a sequence of its own before it
    /// looks for a type of that name.
    pub(super) fn column_type(&mut self, name: Option<&TypeName>) {
        const SERIALS: [&str; 6] = ["smallserial", "serial2", "serial", "serial4", "bigserial", "serial8"];
        let serial = |name: &TypeName| {
            let plain = qualified_name(&name.names).filter(|(schema, _)| schema.is_none() && !name.pct_type);
            plain.is_some_and(|(_, text)| SERIALS.contains(&text))
        };
        if !name.is_some_and(serial) {
            self.type_name(name);
        }
    }

    /// A type that is named: what its values can set off.
    pub(super) fn type_name(&mut self, name: Option<&TypeName>) {
        let Some(name) = name else { return };
        for node in &name.typmods {
            self.expression(node);
        }
        self.builtin_casts();
        let Some((schema, text)) = qualified_name(&name.names) else {
            self.opaque("a type that is not known");
            return;
        };
        if name.pct_type {
            // `table.column%TYPE`: that column's type, which is known with its table.
            self.opaque("a type that is taken from a column");
            return;
        }
        if self.made_type(schema, text) {
            return;
        }
        if (self.names_in_doubt || self.changes.named(text)) && schema != Some("pg_catalog") {
            self.opaque(&format!("what {text} means is decided by an earlier statement of the same text"));
        }
        let names = self.names;
        match self.catalog().type_named(names, schema, text) {
            Some(known) => {
                let functions = self.catalog().code_of_types(self.scope.names, [known.oid]);
                self.run(&functions, "called by a cast or a domain");
            }
            None if schema == Some("pg_catalog") && is_grammar_type(text) => {}
            None => {
                self.missing("42704", || format!("type \"{}\" does not exist", shown(schema, text)));
                self.opaque(&format!("unknown type {text}"));
            }
        }
    }
}

/// Whether it only asks which columns are NULL, which everybody sees.
fn tells_null(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::NullTest(test)) => {
            test.arg.as_ref().is_some_and(|arg| matches!(arg.node, Some(NodeEnum::ColumnRef(_))))
        }
        Some(NodeEnum::BoolExpr(all)) => all.args.iter().all(tells_null),
        _ => false,
    }
}

/// Whether the server need not compute all of its operands: rows are compared from the left, and lists and bounds one by one.
fn is_lazy(expression: &AExpr) -> bool {
    let row = |side: Option<&Node>| {
        side.is_some_and(|side| matches!(side.node, Some(NodeEnum::RowExpr(_) | NodeEnum::List(_))))
    };
    let bounds = matches!(
        AExprKind::try_from(expression.kind),
        Ok(AExprKind::AexprIn
            | AExprKind::AexprBetween
            | AExprKind::AexprNotBetween
            | AExprKind::AexprBetweenSym
            | AExprKind::AexprNotBetweenSym)
    );
    bounds || row(expression.lexpr.as_deref()) || row(expression.rexpr.as_deref())
}

/// The function that an older server takes it for.
fn json_function(node: &NodeEnum) -> Option<&'static str> {
    Some(match node {
        NodeEnum::JsonParseExpr(_) => "json",
        NodeEnum::JsonScalarExpr(_) => "json_scalar",
        NodeEnum::JsonSerializeExpr(_) => "json_serialize",
        NodeEnum::JsonObjectConstructor(_) => "json_object",
        NodeEnum::JsonArrayConstructor(_) | NodeEnum::JsonArrayQueryConstructor(_) => "json_array",
        NodeEnum::JsonObjectAgg(_) => "json_objectagg",
        NodeEnum::JsonArrayAgg(_) => "json_arrayagg",
        NodeEnum::JsonFuncExpr(call) => match JsonExprOp::try_from(call.op) {
            Ok(JsonExprOp::JsonExistsOp) => "json_exists",
            Ok(JsonExprOp::JsonQueryOp) => "json_query",
            _ => "json_value",
        },
        _ => return None,
    })
}

/// Types that the grammar itself names, which exist in every database.
fn is_grammar_type(name: &str) -> bool {
    matches!(
        name,
        "int2"
            | "int4"
            | "int8"
            | "float4"
            | "float8"
            | "numeric"
            | "bool"
            | "bpchar"
            | "varchar"
            | "bit"
            | "varbit"
            | "timestamp"
            | "timestamptz"
            | "time"
            | "timetz"
            | "interval"
            | "xml"
            | "json"
            | "text"
    )
}

/// The name that the server gives to a column without one, and whether the expression itself has it (rather than its
/// type). `None` where it is not known here.
pub(super) fn name_of(node: &Node) -> Option<(Arc<str>, bool)> {
    let kind = node.node.as_ref()?;
    let strong = |name: &str| Some((Arc::from(name), true));
    match kind {
        NodeEnum::ColumnRef(reference) => match field_names(&reference.fields) {
            Some((names, _)) => strong(names.last()?),
            None => None,
        },
        NodeEnum::AIndirection(indirection) => {
            let field = indirection.indirection.iter().rev().find_map(string);
            field.map_or_else(|| name_of(indirection.arg.as_ref()?), strong)
        }
        NodeEnum::FuncCall(call) => strong(string(call.funcname.last()?)?),
        NodeEnum::AExpr(expression) if expression.kind == AExprKind::AexprNullif as i32 => strong("nullif"),
        NodeEnum::TypeCast(cast) => match cast.arg.as_ref().and_then(|arg| name_of(arg)) {
            Some((name, true)) => Some((name, true)),
            // A sub-select has its column's name, which is not looked for here.
            None if matches!(cast.arg.as_ref()?.node, Some(NodeEnum::SubLink(_))) => None,
            _ => Some((string(cast.type_name.as_ref()?.names.last()?)?.into(), false)),
        },
        NodeEnum::CollateClause(collate) => name_of(collate.arg.as_ref()?),
        NodeEnum::GroupingFunc(_) => strong("grouping"),
        NodeEnum::MergeSupportFunc(_) => strong("merge_action"),
        NodeEnum::SubLink(link) => match SubLinkType::try_from(link.sub_link_type) {
            Ok(SubLinkType::ExistsSublink) => strong("exists"),
            Ok(SubLinkType::ArraySublink) => strong("array"),
            Ok(SubLinkType::ExprSublink) => None,
            _ => Some(("?column?".into(), false)),
        },
        NodeEnum::CaseExpr(case) => match case.defresult.as_ref().map(|result| (name_of(result), result)) {
            Some((Some((name, true)), _)) => Some((name, true)),
            Some((None, _)) => None,
            _ => Some(("case".into(), false)),
        },
        NodeEnum::AArrayExpr(_) => strong("array"),
        NodeEnum::RowExpr(_) => strong("row"),
        NodeEnum::CoalesceExpr(_) => strong("coalesce"),
        NodeEnum::MinMaxExpr(many) => strong(if many.op == MinMaxOp::IsGreatest as i32 { "greatest" } else { "least" }),
        NodeEnum::XmlSerialize(_) => strong("xmlserialize"),
        NodeEnum::XmlExpr(xml) => match XmlExprOp::try_from(xml.op) {
            Ok(XmlExprOp::IsXmlconcat) => strong("xmlconcat"),
            Ok(XmlExprOp::IsXmlelement) => strong("xmlelement"),
            Ok(XmlExprOp::IsXmlforest) => strong("xmlforest"),
            Ok(XmlExprOp::IsXmlparse) => strong("xmlparse"),
            Ok(XmlExprOp::IsXmlpi) => strong("xmlpi"),
            Ok(XmlExprOp::IsXmlroot) => strong("xmlroot"),
            Ok(XmlExprOp::IsDocument) => Some(("?column?".into(), false)),
            _ => None,
        },
        NodeEnum::JsonParseExpr(_) => strong("json"),
        NodeEnum::JsonScalarExpr(_) => strong("json_scalar"),
        NodeEnum::JsonSerializeExpr(_) => strong("json_serialize"),
        NodeEnum::JsonObjectConstructor(_) => strong("json_object"),
        NodeEnum::JsonArrayConstructor(_) | NodeEnum::JsonArrayQueryConstructor(_) => strong("json_array"),
        NodeEnum::JsonObjectAgg(_) => strong("json_objectagg"),
        NodeEnum::JsonArrayAgg(_) => strong("json_arrayagg"),
        NodeEnum::JsonFuncExpr(call) => match JsonExprOp::try_from(call.op) {
            Ok(JsonExprOp::JsonExistsOp) => strong("json_exists"),
            Ok(JsonExprOp::JsonQueryOp) => strong("json_query"),
            Ok(JsonExprOp::JsonValueOp) => strong("json_value"),
            _ => None,
        },
        NodeEnum::AConst(_)
        | NodeEnum::ParamRef(_)
        | NodeEnum::AExpr(_)
        | NodeEnum::BoolExpr(_)
        | NodeEnum::NullTest(_)
        | NodeEnum::BooleanTest(_) => Some(("?column?".into(), false)),
        _ => None,
    }
}
