//! The shipped Cedar schema, and the constants that are derived from it once.
//!
//! Owns the schema text and its parsed form. Does not promise stable names across major versions of the program.

use std::collections::HashMap;
use std::sync::OnceLock;

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, Schema};

use super::action::{ActionName, ResourceKind};

/// Every name that a policy may use, as shipped.
pub const SCHEMA: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/interceptor.cedarschema"));

/// The parsed schema and what evaluation needs of it.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// For validation.
    pub(super) schema: Schema,
    /// Each action with the groups that it is in.
    pub(super) actions: HashMap<ActionName, Entity>,
    /// The uid of each action.
    pub(super) action_uids: HashMap<ActionName, EntityUid>,
    /// Groups that each action is in, itself included.
    pub(super) action_groups: HashMap<ActionName, Vec<EntityUid>>,
    types: HashMap<ResourceKind, EntityTypeName>,
    machine: EntityTypeName,
    group: EntityTypeName,
}

impl Vocabulary {
    /// The vocabulary, parsed at the first call.
    ///
    /// # Errors
    /// Says what is wrong with the shipped schema; a test shows that nothing is.
    pub(super) fn shipped() -> Result<&'static Self, String> {
        static SHIPPED: OnceLock<Result<Vocabulary, String>> = OnceLock::new();
        SHIPPED.get_or_init(Self::parse).as_ref().map_err(Clone::clone)
    }

    fn parse() -> Result<Self, String> {
        let (schema, _warnings) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| error.to_string())?;
        let entities = schema.action_entities().map_err(|error| error.to_string())?;
        let action_type = type_name("Action")?;
        let mut vocabulary = Self {
            schema,
            actions: HashMap::new(),
            action_uids: HashMap::new(),
            action_groups: HashMap::new(),
            types: HashMap::new(),
            machine: type_name("Machine")?,
            group: type_name("Group")?,
        };
        for action in ActionName::all() {
            let uid = EntityUid::from_type_name_and_id(action_type.clone(), EntityId::new(action.as_str()));
            let entity = entities.get(&uid).ok_or_else(|| format!("the schema lacks action {action}"))?;
            let mut groups: Vec<_> = entities.ancestors(&uid).into_iter().flatten().cloned().collect();
            groups.push(uid.clone());
            vocabulary.actions.insert(action, entity.clone());
            vocabulary.action_uids.insert(action, uid);
            vocabulary.action_groups.insert(action, groups);
        }
        for kind in ResourceKind::ALL {
            vocabulary.types.insert(*kind, type_name(kind.as_str())?);
        }
        Ok(vocabulary)
    }

    /// The uid of a resource of that kind, from an id that is already escaped.
    pub(super) fn resource(&self, kind: ResourceKind, id: &str) -> Option<EntityUid> {
        Some(EntityUid::from_type_name_and_id(self.types.get(&kind)?.clone(), EntityId::new(id)))
    }

    /// The uid of a machine identity.
    pub(super) fn machine(&self, name: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.machine.clone(), EntityId::new(name))
    }

    /// The uid of a group.
    pub(super) fn group(&self, name: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.group.clone(), EntityId::new(name))
    }

    /// The resource kind that an entity type stands for.
    pub(super) fn kind(&self, name: &EntityTypeName) -> Option<ResourceKind> {
        self.types.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    /// Whether that is the type of groups.
    pub(super) fn is_group(&self, name: &EntityTypeName) -> bool {
        *name == self.group
    }
}

fn type_name(name: &str) -> Result<EntityTypeName, String> {
    name.parse().map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &[&str] = &[
        "sql:read",
        "sql:write",
        "sql:ddl",
        "sql:admin",
        "http:read",
        "http:write",
        "k8s:read",
        "k8s:write",
        "k8s:connect",
        "mcp:talk",
        "mcp:use",
    ];

    #[test]
    fn the_schema_parses_and_knows_every_action_and_kind() {
        let vocabulary = Vocabulary::shipped().unwrap();
        assert_eq!(vocabulary.actions.len(), ActionName::all().count());
        for kind in ResourceKind::ALL {
            assert_eq!(vocabulary.kind(vocabulary.resource(*kind, "x").unwrap().type_name()), Some(*kind));
        }
        // And the other way round: no action of the schema is unknown to the program.
        for uid in vocabulary.schema.actions() {
            let id = uid.id().unescaped();
            assert!(ActionName::parse(id).is_some() || GROUPS.contains(&id), "{id}");
        }
    }

    #[test]
    fn opaque_and_set_are_in_no_group() {
        let vocabulary = Vocabulary::shipped().unwrap();
        use ActionName as A;
        let alone =
            [A::SQL_OPAQUE, A::SQL_SET, A::HTTP_OPAQUE, A::K8S_OPAQUE, A::K8S_ALL_NAMESPACES, A::MCP_OPAQUE, A::UNMASK];
        for action in alone {
            assert_eq!(vocabulary.action_groups[&action].len(), 1, "{action}");
        }
        assert_eq!(vocabulary.action_groups[&ActionName::SQL_DROP].len(), 2);
    }
}
