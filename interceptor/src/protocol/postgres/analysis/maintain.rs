//! Statements that keep the database in order. They change no row, but compute indexes and statistics anew, with whatever
//! functions those call.

use pg_query::NodeEnum;
use pg_query::protobuf::{RangeVar, ReindexObjectType};

use super::table::Walker;
use crate::policy::ActionName;

impl Walker<'_> {
    /// Any statement of this kind; `false` for one that is not known.
    pub(super) fn maintain(&mut self, node: &NodeEnum) -> bool {
        match node {
            NodeEnum::VacuumStmt(vacuum) => {
                if vacuum.rels.is_empty() {
                    self.maintain_all();
                }
                for node in &vacuum.rels {
                    let range = match &node.node {
                        Some(NodeEnum::VacuumRelation(relation)) => relation.relation.as_ref(),
                        _ => None,
                    };
                    self.maintain_table(range);
                }
                self.resync.catalog = false;
            }
            NodeEnum::ClusterStmt(cluster) if cluster.relation.is_some() => {
                self.maintain_table(cluster.relation.as_ref());
            }
            NodeEnum::ReindexStmt(reindex) if reindex.kind == ReindexObjectType::ReindexObjectTable as i32 => {
                self.maintain_table(reindex.relation.as_ref());
            }
            NodeEnum::ReindexStmt(reindex) if reindex.relation.is_some() => {
                let name = reindex.relation.as_ref().map_or("", |range| &range.relname);
                self.object(ActionName::SQL_MAINTAIN, "index", name);
                self.code_anywhere();
                let all = self.scope.tags.all();
                self.saw(&all);
            }
            NodeEnum::ClusterStmt(_) | NodeEnum::ReindexStmt(_) => self.maintain_all(),
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

    fn maintain_all(&mut self) {
        let resource = self.database();
        self.act(ActionName::SQL_MAINTAIN, resource);
        self.code_anywhere();
        for relation in self.catalog().relations() {
            self.foreign_below(relation);
        }
        let all = self.scope.tags.all();
        self.saw(&all);
    }

    /// Keeping a table in order computes its indexes and statistics anew.
    fn maintain_table(&mut self, range: Option<&RangeVar>) {
        let Some(range) = range else { return self.opaque("a table that is not named") };
        if let Some(relation) = self.relation(range) {
            let resource = self.table(relation);
            self.act(ActionName::SQL_MAINTAIN, resource);
            self.code_of_tree(relation);
            self.rows_quotable(Some(relation));
        }
    }
}
