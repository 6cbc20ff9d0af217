//! Statements that keep the database in order. They change no row, but compute indexes and statistics anew, with whatever
//! functions those call.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, RangeVar, ReindexObjectType};

use super::family::Use;
use super::table::Walker;
use crate::policy::ActionName;
use crate::protocol::postgres::catalog::RelationKind;

impl Walker<'_> {
    /// Any statement of this kind; `false` for one that is not known.
    pub(super) fn maintain(&mut self, node: &NodeEnum) -> bool {
        match node {
            NodeEnum::VacuumStmt(vacuum) => {
                // Statistics of foreign tables are those of rows that are asked for; to vacuum, there is nothing.
                let samples = !vacuum.is_vacuumcmd || vacuum.options.iter().any(names_analyze);
                if vacuum.rels.is_empty() {
                    self.maintain_all(samples);
                }
                for node in &vacuum.rels {
                    let range = match &node.node {
                        Some(NodeEnum::VacuumRelation(relation)) => relation.relation.as_ref(),
                        _ => None,
                    };
                    self.maintain_table(range, samples);
                }
                self.resync.catalog = false;
            }
            NodeEnum::ClusterStmt(cluster) if cluster.relation.is_some() => {
                self.maintain_table(cluster.relation.as_ref(), false);
            }
            NodeEnum::ReindexStmt(reindex) if reindex.kind == ReindexObjectType::ReindexObjectTable as i32 => {
                self.maintain_table(reindex.relation.as_ref(), false);
            }
            NodeEnum::ReindexStmt(reindex) if reindex.relation.is_some() => {
                let name = reindex.relation.as_ref().map_or("", |range| &range.relname);
                self.object(ActionName::SQL_MAINTAIN, "index", name);
                self.code_anywhere();
                let all = self.scope.tags.all();
                self.saw(&all);
            }
            NodeEnum::ClusterStmt(_) | NodeEnum::ReindexStmt(_) => self.maintain_all(false),
            NodeEnum::CheckPointStmt(_) => {
                let resource = self.database();
                self.act(ActionName::SQL_MAINTAIN, resource);
            }
            NodeEnum::RefreshMatViewStmt(refresh) => {
                if let Some(relation) = refresh.relation.as_ref().and_then(|range| self.relation(range)) {
                    let columns = self.columns_of(relation);
                    let resource = self.table(relation);
                    self.act(ActionName::SQL_MAINTAIN, resource);
                    self.materialised(&columns);
                }
            }
            _ => return false,
        }
        true
    }

    fn maintain_all(&mut self, samples: bool) {
        let resource = self.database();
        self.act(ActionName::SQL_MAINTAIN, resource);
        self.code_anywhere();
        // By itself, a foreign table is left out of it.
        let parents = self.catalog().relations().filter(|relation| relation.kind != RelationKind::Foreign);
        for relation in parents.filter(|_| samples) {
            if !self.step() {
                break;
            }
            self.foreign_below(relation);
        }
        let all = self.scope.tags.all();
        self.saw(&all);
    }

    /// Keeping a table in order computes its indexes and statistics anew.
    fn maintain_table(&mut self, range: Option<&RangeVar>, samples: bool) {
        let Some(range) = range else { return self.opaque("a table that is not named") };
        if let Some(relation) = self.relation(range) {
            let resource = self.table(relation);
            self.act(ActionName::SQL_MAINTAIN, resource);
            self.code_of_members(relation, Use::Keep);
            if samples {
                self.foreign_below(relation);
            }
            self.rows_quotable(Some(relation));
        }
    }
}

/// Whether it is the option ANALYZE, whatever its value.
fn names_analyze(node: &Node) -> bool {
    matches!(&node.node, Some(NodeEnum::DefElem(option)) if option.defname.eq_ignore_ascii_case("analyze"))
}
