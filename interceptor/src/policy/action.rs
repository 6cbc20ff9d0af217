//! What an agent asks for, in the field's terms.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Name of a Cedar action, such as `sql:select`. Only names of the shipped schema exist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ActionName(&'static str);

impl ActionName {
    /// Log in to a database.
    pub const SQL_CONNECT: Self = Self("sql:connect");
    /// Read rows.
    pub const SQL_SELECT: Self = Self("sql:select");
    /// Show a setting, or use the session without touching data: SHOW, BEGIN, COMMIT, DEALLOCATE, CLOSE, EXPLAIN ...
    pub const SQL_SESSION: Self = Self("sql:session");
    /// Add rows.
    pub const SQL_INSERT: Self = Self("sql:insert");
    /// Change rows, or advance a sequence.
    pub const SQL_UPDATE: Self = Self("sql:update");
    /// Remove rows.
    pub const SQL_DELETE: Self = Self("sql:delete");
    /// Lock rows or tables, or take advisory locks.
    pub const SQL_LOCK: Self = Self("sql:lock");
    /// LISTEN and NOTIFY.
    pub const SQL_NOTIFY: Self = Self("sql:notify");
    /// Remove all rows of a table.
    pub const SQL_TRUNCATE: Self = Self("sql:truncate");
    /// Create an object.
    pub const SQL_CREATE: Self = Self("sql:create");
    /// Alter an object, or comment on it.
    pub const SQL_ALTER: Self = Self("sql:alter");
    /// Drop an object.
    pub const SQL_DROP: Self = Self("sql:drop");
    /// VACUUM, ANALYZE, REINDEX, CLUSTER, CHECKPOINT, REFRESH MATERIALIZED VIEW.
    pub const SQL_MAINTAIN: Self = Self("sql:maintain");
    /// Change a setting: SET, RESET, set_config, ALTER SYSTEM.
    pub const SQL_SET: Self = Self("sql:set");
    /// GRANT, REVOKE, and role management.
    pub const SQL_GRANT: Self = Self("sql:grant");
    /// SET ROLE, SET SESSION AUTHORIZATION.
    pub const SQL_SET_ROLE: Self = Self("sql:set_role");
    /// Read a file of the server.
    pub const SQL_FILE_READ: Self = Self("sql:file_read");
    /// Write a file of the server.
    pub const SQL_FILE_WRITE: Self = Self("sql:file_write");
    /// Run a program on the server.
    pub const SQL_PROGRAM: Self = Self("sql:program");
    /// Signal another session: pg_cancel_backend, pg_terminate_backend.
    pub const SQL_SIGNAL: Self = Self("sql:signal");
    /// Start replication.
    pub const SQL_REPLICATE: Self = Self("sql:replicate");
    /// Anything whose effect cannot be known before it runs.
    pub const SQL_OPAQUE: Self = Self("sql:opaque");
    /// Ask for a resource of a web service.
    pub const HTTP_GET: Self = Self("http:GET");
    /// Ask for what stands about a resource.
    pub const HTTP_HEAD: Self = Self("http:HEAD");
    /// Ask what may be done with a resource.
    pub const HTTP_OPTIONS: Self = Self("http:OPTIONS");
    /// Have a resource process something.
    pub const HTTP_POST: Self = Self("http:POST");
    /// Put a resource in its place.
    pub const HTTP_PUT: Self = Self("http:PUT");
    /// Change a resource.
    pub const HTTP_PATCH: Self = Self("http:PATCH");
    /// Remove a resource.
    pub const HTTP_DELETE: Self = Self("http:DELETE");
    /// Say something on a WebSocket.
    pub const HTTP_MESSAGE: Self = Self("http:message");
    /// A request of which not everything is known that a target may read in it.
    pub const HTTP_OPAQUE: Self = Self("http:opaque");
    /// Read one object of a cluster.
    pub const K8S_GET: Self = Self("k8s:get");
    /// Read all objects of a kind, of one namespace or of all.
    pub const K8S_LIST: Self = Self("k8s:list");
    /// Follow what changes in objects of a kind.
    pub const K8S_WATCH: Self = Self("k8s:watch");
    /// Read what a container has printed.
    pub const K8S_LOG: Self = Self("k8s:log");
    /// Ask what the cluster is and offers: its version, its health, its kinds.
    pub const K8S_DISCOVER: Self = Self("k8s:discover");
    /// Make an object.
    pub const K8S_CREATE: Self = Self("k8s:create");
    /// Put an object in the place of another.
    pub const K8S_UPDATE: Self = Self("k8s:update");
    /// Change parts of an object; or make it, by server-side apply.
    pub const K8S_PATCH: Self = Self("k8s:patch");
    /// Remove an object, or evict a pod.
    pub const K8S_DELETE: Self = Self("k8s:delete");
    /// Change how many replicas there are, by whatever request.
    pub const K8S_SCALE: Self = Self("k8s:scale");
    /// Remove all objects of a kind; beside `k8s:delete`.
    pub const K8S_DELETE_COLLECTION: Self = Self("k8s:deletecollection");
    /// Run a program in a container.
    pub const K8S_EXEC: Self = Self("k8s:exec");
    /// Join a program that runs in a container.
    pub const K8S_ATTACH: Self = Self("k8s:attach");
    /// Reach ports of a pod.
    pub const K8S_PORT_FORWARD: Self = Self("k8s:portforward");
    /// Send a request through the API server to a node, a pod or a service.
    pub const K8S_PROXY: Self = Self("k8s:proxy");
    /// Act as another user, group or service account.
    pub const K8S_IMPERSONATE: Self = Self("k8s:impersonate");
    /// Reach into every namespace at once; beside `k8s:list` and its like.
    pub const K8S_ALL_NAMESPACES: Self = Self("k8s:all_namespaces");
    /// A request to a cluster of which not everything is known.
    pub const K8S_OPAQUE: Self = Self("k8s:opaque");
    /// Call a tool of a server of the Model Context Protocol.
    pub const MCP_CALL: Self = Self("mcp:call");
    /// Read a resource of such a server, or follow how it changes.
    pub const MCP_READ: Self = Self("mcp:read");
    /// Take a prompt from such a server.
    pub const MCP_PROMPT: Self = Self("mcp:prompt");
    /// Ask such a server what tools, resources and prompts it has.
    pub const MCP_LIST: Self = Self("mcp:list");
    /// Begin, keep and end a session with such a server; whatever touches nothing else.
    pub const MCP_SESSION: Self = Self("mcp:session");
    /// Answer what such a server asks its client: for words of a model, for input of a person, for its folders.
    pub const MCP_RESPOND: Self = Self("mcp:respond");
    /// A request to such a server of which not everything is known.
    pub const MCP_OPAQUE: Self = Self("mcp:opaque");
    /// See values of a tag in clear.
    pub const UNMASK: Self = Self("unmask");

    /// Every action of the SQL family.
    pub const SQL: &'static [Self] = &[
        Self::SQL_CONNECT,
        Self::SQL_SELECT,
        Self::SQL_SESSION,
        Self::SQL_INSERT,
        Self::SQL_UPDATE,
        Self::SQL_DELETE,
        Self::SQL_LOCK,
        Self::SQL_NOTIFY,
        Self::SQL_TRUNCATE,
        Self::SQL_CREATE,
        Self::SQL_ALTER,
        Self::SQL_DROP,
        Self::SQL_MAINTAIN,
        Self::SQL_SET,
        Self::SQL_GRANT,
        Self::SQL_SET_ROLE,
        Self::SQL_FILE_READ,
        Self::SQL_FILE_WRITE,
        Self::SQL_PROGRAM,
        Self::SQL_SIGNAL,
        Self::SQL_REPLICATE,
        Self::SQL_OPAQUE,
    ];

    /// Every action of the HTTP family.
    pub const HTTP: &'static [Self] = &[
        Self::HTTP_GET,
        Self::HTTP_HEAD,
        Self::HTTP_OPTIONS,
        Self::HTTP_POST,
        Self::HTTP_PUT,
        Self::HTTP_PATCH,
        Self::HTTP_DELETE,
        Self::HTTP_MESSAGE,
        Self::HTTP_OPAQUE,
    ];

    /// Every action of the Kubernetes family.
    pub const K8S: &'static [Self] = &[
        Self::K8S_GET,
        Self::K8S_LIST,
        Self::K8S_WATCH,
        Self::K8S_LOG,
        Self::K8S_DISCOVER,
        Self::K8S_CREATE,
        Self::K8S_UPDATE,
        Self::K8S_PATCH,
        Self::K8S_DELETE,
        Self::K8S_SCALE,
        Self::K8S_DELETE_COLLECTION,
        Self::K8S_EXEC,
        Self::K8S_ATTACH,
        Self::K8S_PORT_FORWARD,
        Self::K8S_PROXY,
        Self::K8S_IMPERSONATE,
        Self::K8S_ALL_NAMESPACES,
        Self::K8S_OPAQUE,
    ];

    /// Every action of the family of the Model Context Protocol.
    pub const MCP: &'static [Self] = &[
        Self::MCP_CALL,
        Self::MCP_READ,
        Self::MCP_PROMPT,
        Self::MCP_LIST,
        Self::MCP_SESSION,
        Self::MCP_RESPOND,
        Self::MCP_OPAQUE,
    ];

    /// Every action that there is.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::SQL.iter().chain(Self::HTTP).chain(Self::K8S).chain(Self::MCP).chain([&Self::UNMASK]).copied()
    }

    /// The action of that name, where the schema has one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::all().find(|known| known.0 == name)
    }

    /// The action of a method of HTTP, as it stands in a request, where policies know it.
    #[must_use]
    pub fn http(method: &str) -> Option<Self> {
        // Those in lower case are no methods.
        let is_method = method.bytes().all(|byte| byte.is_ascii_uppercase());
        let named = |known: &&Self| known.0.strip_prefix("http:") == Some(method);
        Self::HTTP.iter().find(named).copied().filter(|_| is_method)
    }

    /// The name as Cedar writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for ActionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for ActionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Kind of a resource, and the Cedar entity type of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ResourceKind {
    /// A whole target.
    Target,
    /// A database of a target.
    Database,
    /// A schema of a database.
    Schema,
    /// A table, view, materialised view, foreign table or sequence in a schema.
    Table,
    /// A function, procedure or aggregate in a schema.
    Function,
    /// Any other object of a database: type, index, trigger, extension, publication ...
    Object,
    /// A server setting.
    Setting,
    /// A role of the server.
    Role,
    /// A file or program of the server.
    Path,
    /// A notification channel.
    Channel,
    /// A pattern of paths of a web service.
    Route,
    /// A namespace of a cluster, as the place of what lies in it.
    Namespace,
    /// An object of a cluster, or all of a kind.
    KubernetesObject,
    /// A tool of a server of the Model Context Protocol.
    Tool,
    /// A class of sensitive data.
    Tag,
}

impl ResourceKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::Target,
        Self::Database,
        Self::Schema,
        Self::Table,
        Self::Function,
        Self::Object,
        Self::Setting,
        Self::Role,
        Self::Path,
        Self::Channel,
        Self::Route,
        Self::Namespace,
        Self::KubernetesObject,
        Self::Tool,
        Self::Tag,
    ];

    /// The kind of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }

    /// The name, as Cedar writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Target => "Target",
            Self::Database => "Database",
            Self::Schema => "Schema",
            Self::Table => "Table",
            Self::Function => "Function",
            Self::Object => "Object",
            Self::Setting => "Setting",
            Self::Role => "Role",
            Self::Path => "Path",
            Self::Channel => "Channel",
            Self::Route => "Route",
            Self::Namespace => "Namespace",
            Self::KubernetesObject => "KubernetesObject",
            Self::Tool => "Tool",
            Self::Tag => "Tag",
        }
    }

    /// How many parts a path of this kind may have, from the target down.
    #[must_use]
    pub const fn depth(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Target | Self::Tag => 1..=1,
            Self::Database | Self::Namespace | Self::Tool => 2..=2,
            Self::Schema => 3..=3,
            Self::Table | Self::Function => 4..=4,
            Self::Setting | Self::Role | Self::Path | Self::Channel => 2..=4,
            // A trigger, rule or policy also names its table.
            Self::Object => 2..=5,
            // The target, and the steps of the pattern.
            Self::Route => 2..=33,
            // Namespace, group, resource, and a name where one is meant.
            Self::KubernetesObject => 4..=5,
        }
    }
}

/// What an action touches. Cedar id: [`Resource::id`]; parents: every shorter path, up to the target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Resource {
    /// Cedar entity type.
    pub kind: ResourceKind,
    /// From the target down: `[target, database, schema, name]` for a table, `[target, name]` for a role.
    pub path: Vec<Arc<str>>,
}

impl Resource {
    /// The Cedar id: the parts joined by `/`. In a part, `%` is written `%25` and `/` is written `%2F`, so that
    /// different paths never have the same id.
    #[must_use]
    pub fn id(&self) -> String {
        Self::join(&self.path)
    }

    /// The id of a path; see [`Resource::id`].
    #[must_use]
    pub fn join(path: &[Arc<str>]) -> String {
        let mut id = String::with_capacity(path.iter().map(|part| part.len() + 1).sum());
        for (index, part) in path.iter().enumerate() {
            if index > 0 {
                id.push('/');
            }
            for character in part.chars() {
                match character {
                    '%' => id.push_str("%25"),
                    '/' => id.push_str("%2F"),
                    other => id.push(other),
                }
            }
        }
        id
    }

    /// The inverse of [`Resource::id`]; `None` where the id has an escape other than those two, or a path of that kind
    /// cannot have so many parts.
    #[must_use]
    pub fn from_id(kind: ResourceKind, id: &str) -> Option<Self> {
        let path = id.split('/').map(unescape).collect::<Option<Vec<_>>>()?;
        kind.depth().contains(&path.len()).then_some(Self { kind, path })
    }
}

/// `Table::"orders-db/orders/public/customers"`, as policies write it; control characters are escaped.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::\"", self.kind.as_str())?;
        for character in self.id().chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                other if other.is_control() => write!(f, "{}", other.escape_unicode())?,
                other => write!(f, "{other}")?,
            }
        }
        f.write_str("\"")
    }
}

fn unescape(part: &str) -> Option<Arc<str>> {
    let mut pieces = part.split('%');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (character, rest) =
            piece.strip_prefix("25").map(|rest| ('%', rest)).or_else(|| Some(('/', piece.strip_prefix("2F")?)))?;
        plain.push(character);
        plain.push_str(rest);
    }
    Some(plain.into())
}

/// A class of sensitive data: `pii`, `card`, `secret` ...
pub type Tag = Arc<str>;

/// A set of tags, shared.
pub type TagSet = Arc<BTreeSet<Tag>>;

/// One thing that a command would do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Action {
    /// What is done.
    pub name: ActionName,
    /// To what.
    pub resource: Resource,
    /// Columns read or written, by name; empty where columns do not apply.
    pub columns: BTreeSet<Arc<str>>,
    /// Tags of those columns.
    pub tags: TagSet,
    /// Why, where the action is not evident from the text (`sql:opaque`: what could not be known).
    pub note: Option<Arc<str>>,
}

/// Facts of a whole command, that policies see as `context`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Every UPDATE, DELETE and row-reading SELECT in it is restricted by a WHERE (or has nothing to restrict).
    pub has_where: bool,
    /// The smallest constant LIMIT of the outermost query.
    pub row_limit: Option<u64>,
    /// Functions called, qualified (`pg_catalog.lower`).
    pub functions: BTreeSet<Arc<str>>,
    /// A tagged column decides which rows or groups are seen: WHERE, JOIN, ORDER BY, GROUP BY, ON CONFLICT ...; or a
    /// computation with it may fail; or EXPLAIN measures it.
    pub filters_on_masked: bool,
    /// Statements in the command.
    pub statements: u32,
    /// Of a request to a web service: what stands in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Arc<HttpFacts>>,
    /// Of a request to a cluster: what it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s: Option<Arc<KubernetesFacts>>,
    /// Of a request to a server of the Model Context Protocol: what it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcp: Option<Arc<McpFacts>>,
}

/// What stands in a request to a web service, decoded; that policies see as `context.http`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpFacts {
    /// `Host`, in lower case.
    pub host: String,
    /// The path.
    pub path: String,
    /// The query, as `name=value`.
    pub query: BTreeSet<String>,
    /// The fields of the head, as `name: value`, the names in lower case; no secrets.
    pub headers: BTreeSet<String>,
    /// The values of the body, as `customer.name=Ada`.
    pub fields: BTreeSet<String>,
    /// Bytes of the body; as many as there can be where that is not known.
    pub size: u64,
    /// What a call of gRPC calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcFacts>,
}

/// What a call of gRPC calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcFacts {
    /// The service, with its package: `shop.Orders`.
    pub service: String,
    /// Its method: `Place`.
    pub method: String,
}

/// What a request to a cluster asks for, that policies see as `context.k8s`. What is said of objects is said of the body: of a
/// whole object, or of what a patch puts in; of every object in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesFacts {
    /// Version of the API: `v1`.
    pub version: String,
    /// Nothing is changed, only tried.
    pub dry_run: bool,
    /// Which labels are asked for (`labelSelector`), as it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// `json`, `merge`, `strategic` or `apply`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// Labels of the object, as `app=web`.
    pub labels: BTreeSet<String>,
    /// `spec.replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Images of containers and volumes, wherever they stand.
    pub images: BTreeSet<String>,
    /// Service accounts that pods are to run as.
    pub service_accounts: BTreeSet<String>,
    /// Secrets that pods are to see.
    pub secrets: BTreeSet<String>,
    /// Something is asked for that leads out of a container; `privileges` says what.
    pub privileged: bool,
    /// A token is made: of a service account (`TokenRequest`, a Secret of that type), or one to join the cluster.
    pub makes_token: bool,
    /// `privileged`, `hostNetwork`, `hostPath=/`, `capability=SYS_ADMIN` ...
    pub privileges: BTreeSet<String>,
    /// Container of a pod, where one is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Program that is to run in a container: the first word of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The whole command line, quoted as shells do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Standard input is open.
    pub stdin: bool,
    /// There is a terminal.
    pub tty: bool,
    /// Ports of a pod that are to be reached; empty while they are not known.
    pub ports: BTreeSet<i64>,
}

/// What a request to a server of the Model Context Protocol asks for, that policies see as `context.mcp`. Where a body has
/// several messages, which is `mcp:opaque` as well, it is what their first one says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct McpFacts {
    /// Method of the message, as `tools/call`; that of HTTP where there is no message.
    pub method: String,
    /// Name of the tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Values of the arguments of a tool or a prompt, as `customer.id=7`.
    pub arguments: BTreeSet<String>,
    /// Address of the resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Name of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
}

/// A bind value, as the agent sent it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parameter {
    /// Type OID that the agent declared, or 0.
    pub type_oid: u32,
    /// Whether `value` is in the binary format.
    pub binary: bool,
    /// The value, or `None` for NULL.
    pub value: Option<Bytes>,
}

/// One command, as a protocol understood it: the unit of verdict, hold, grant and record.
#[derive(Clone, Debug)]
pub struct Command {
    /// Identity of the analysis: equal numbers mean the same `actions` and `facts`, so decisions can be cached by it.
    pub analysis: u64,
    /// The statement exactly as it will be forwarded.
    pub statement: Arc<str>,
    /// Bind values, exactly as they will be forwarded.
    pub parameters: Arc<[Parameter]>,
    /// All that it would do; each must be permitted.
    pub actions: Arc<[Action]>,
    /// Facts of the whole.
    pub facts: Arc<Facts>,
    /// Whether a transaction is open.
    pub in_transaction: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(parts: &[&str]) -> Vec<Arc<str>> {
        parts.iter().map(|part| Arc::from(*part)).collect()
    }

    #[test]
    fn a_slash_in_a_name_is_not_a_step() {
        assert_ne!(Resource::join(&path(&["t", "a/b"])), Resource::join(&path(&["t", "a", "b"])));
        assert_ne!(Resource::join(&path(&["t", "a%2Fb"])), Resource::join(&path(&["t", "a/b"])));
        assert_ne!(Resource::join(&path(&["t", ""])), Resource::join(&path(&["t"])));
        assert_eq!(Resource::join(&path(&["t", "a/b%"])), "t/a%2Fb%25");
    }

    #[test]
    fn an_unknown_escape_or_depth_is_no_id() {
        assert_eq!(Resource::from_id(ResourceKind::Table, "t/d/s/a%2f"), None);
        assert_eq!(Resource::from_id(ResourceKind::Table, "t/d/s/a%"), None);
        assert_eq!(Resource::from_id(ResourceKind::Table, "t/d/s"), None);
        assert!(Resource::from_id(ResourceKind::Table, "t/d/s/a").is_some());
    }

    #[test]
    fn a_resource_prints_on_one_line() {
        let resource = Resource { kind: ResourceKind::Role, path: path(&["t", "a\n\"b\\"]) };
        assert_eq!(resource.to_string(), r#"Role::"t/a\u{a}\"b\\""#);
    }

    proptest! {
        #[test]
        fn ids_are_unambiguous(parts in prop::collection::vec("[ab/%25F\\PC\n\"]{0,6}", 4)) {
            let resource = Resource { kind: ResourceKind::Table, path: parts.iter().map(|p| p.as_str().into()).collect() };
            prop_assert_eq!(Resource::from_id(ResourceKind::Table, &resource.id()), Some(resource));
        }
    }
}
