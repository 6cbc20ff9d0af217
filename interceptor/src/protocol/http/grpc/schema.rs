//! What methods there are, and of what their messages consist: read from sets of file descriptors, once.
//!
//! A library checks that the set fits together; here it is brought into the form that messages are read by. Files of an edition
//! (in the place of `proto2` or `proto3`) are refused: that library does not know them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use prost_reflect as reflect;
use reflect::prost::Message as _;
use serde::Deserialize;

/// The longest file, in bytes.
pub const FILE_LIMIT: u64 = 8 << 20;
/// Files of one target.
pub const FILES_LIMIT: usize = 64;
/// What all of them have together, in bytes.
const TOTAL_LIMIT: u64 = 32 << 20;

/// Messages that stand for a value.
const VALUES: &[&str] = &[
    "google.protobuf.BoolValue",
    "google.protobuf.BytesValue",
    "google.protobuf.DoubleValue",
    "google.protobuf.FloatValue",
    "google.protobuf.Int32Value",
    "google.protobuf.Int64Value",
    "google.protobuf.ListValue",
    "google.protobuf.StringValue",
    "google.protobuf.UInt32Value",
    "google.protobuf.UInt64Value",
    "google.protobuf.Value",
];

/// `[target.http] grpc = { ... }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Sets of file descriptors, with all that they import: `protoc --descriptor_set_out=F --include_imports`, `buf build -o F`.
    pub descriptors: Vec<PathBuf>,
}

/// The methods of a target, and their messages.
#[derive(Debug, Default)]
pub struct Schema {
    methods: HashMap<String, Method>,
    messages: Vec<Message>,
    enums: Vec<Enum>,
    /// Messages by their full names.
    names: HashMap<String, usize>,
    /// As the library has it.
    pool: reflect::DescriptorPool,
}

/// A method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// What it is called with.
    pub input: usize,
    /// What it answers.
    pub output: usize,
    /// It is called with any number of messages.
    pub streams_in: bool,
}

/// A kind of message.
#[derive(Debug, Default)]
pub struct Message {
    /// By their numbers.
    fields: Vec<Field>,
    /// Which of them are there, with a value of their own, when they are not written: places in `fields`.
    implicit: Vec<usize>,
    /// It is `google.protobuf.Any`.
    pub is_any: bool,
    /// It stands for a value that could have no name: `google.protobuf.StringValue`, `google.protobuf.Value`.
    pub is_value: bool,
}

/// A field.
#[derive(Debug)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// What the schema calls it.
    pub name: String,
    /// What it is called in JSON.
    pub json: String,
    /// What its values are.
    pub kind: Kind,
    /// How many there may be.
    pub shape: Shape,
    /// Which of the message's choices it is one of.
    pub choice: Option<usize>,
}

/// How many values a field may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// Any number.
    List,
    /// Any number, each under a key: a list of messages with a key (1) and a value (2).
    Map,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the language names them")]
pub enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    /// Which of the schema's.
    Enum(usize),
    /// Which of the schema's.
    Message(usize),
    /// A message that is not written with its length.
    Group,
}

/// The values of an enumeration.
#[derive(Debug, Default)]
pub struct Enum {
    names: BTreeMap<i32, String>,
    /// The one that is declared first.
    pub first: i32,
}

impl Enum {
    /// What a value is called; the first name of several.
    #[must_use]
    pub fn name(&self, value: i32) -> Option<&str> {
        self.names.get(&value).map(String::as_str)
    }
}

impl Message {
    /// The field of this number.
    #[must_use]
    pub fn field(&self, number: u32) -> Option<&Field> {
        let found = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        self.fields.get(found)
    }

    /// Fields that have a value of their own when they are not written.
    pub fn implicit(&self) -> impl Iterator<Item = &Field> {
        self.implicit.iter().filter_map(|place| self.fields.get(*place))
    }
}

impl Schema {
    /// Reads the files of a target; nothing where none is named.
    ///
    /// # Errors
    /// A sentence for each that cannot be used.
    pub fn load(config: &Config) -> Result<Option<Self>, Vec<String>> {
        if config.descriptors.is_empty() {
            return Ok(None);
        }
        if config.descriptors.len() > FILES_LIMIT {
            return Err(vec![format!("http.grpc.descriptors: at most {FILES_LIMIT} files")]);
        }
        let (mut wrong, mut pool, mut total) = (Vec::new(), reflect::DescriptorPool::new(), 0);
        for path in &config.descriptors {
            let added = read(path).and_then(|bytes| {
                total += bytes.len() as u64;
                if total > TOTAL_LIMIT {
                    return Err(format!("all files together have more than {TOTAL_LIMIT} bytes"));
                }
                add(&mut pool, &bytes)
            });
            if let Err(why) = added {
                wrong.push(format!("http.grpc.descriptors: {}: {why}", path.display()));
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let schema = Self::of(&pool);
        if schema.methods.is_empty() {
            return Err(vec!["http.grpc.descriptors: no service is in them".to_owned()]);
        }
        Ok(Some(schema))
    }

    /// Of one set.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(set: &[u8]) -> Result<Self, String> {
        let mut pool = reflect::DescriptorPool::new();
        add(&mut pool, set)?;
        Ok(Self::of(&pool))
    }

    /// The method at a path, `/package.Service/Method`.
    #[must_use]
    pub fn method(&self, path: &str) -> Option<&Method> {
        self.methods.get(path)
    }

    /// A message to a method, as people write it: in JSON, under the names of the schema or those of JSON.
    ///
    /// # Errors
    /// A sentence.
    pub fn written(&self, path: &str, json: &str) -> Result<Vec<u8>, String> {
        let named = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let found = named.and_then(|(service, method)| {
            self.pool.get_service_by_name(service)?.methods().find(|found| found.name() == method)
        });
        let method = found.ok_or_else(|| format!("no schema has the method {path:.200}"))?;
        let mut reader = serde_json::Deserializer::from_str(json);
        let message = reflect::DynamicMessage::deserialize(method.input(), &mut reader);
        let message = message.and_then(|message| reader.end().map(|()| message));
        message
            .map(|message| message.encode_to_vec())
            .map_err(|error| format!("it is no message of {path:.200}: {error}"))
    }

    /// A kind of message.
    #[must_use]
    pub fn message(&self, place: usize) -> Option<&Message> {
        self.messages.get(place)
    }

    /// A kind of message by its full name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// An enumeration.
    #[must_use]
    pub fn enumeration(&self, place: usize) -> Option<&Enum> {
        self.enums.get(place)
    }

    fn of(pool: &reflect::DescriptorPool) -> Self {
        let place = |(place, name): (usize, String)| (name, place);
        let names: HashMap<String, usize> =
            pool.all_messages().map(|message| message.full_name().to_owned()).enumerate().map(place).collect();
        let enums: HashMap<String, usize> =
            pool.all_enums().map(|one| one.full_name().to_owned()).enumerate().map(place).collect();
        let kind = |kind: reflect::Kind| of_kind(&kind, &names, &enums);
        let messages = pool.all_messages().map(|message| of_message(&message, kind)).collect();
        let mut methods = HashMap::new();
        for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let at = |message: reflect::MessageDescriptor| names.get(message.full_name()).copied();
            if let (Some(input), Some(output)) = (at(method.input()), at(method.output())) {
                let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
                methods.insert(path, Method { input, output, streams_in: method.is_client_streaming() });
            }
        }
        let enums = pool.all_enums().map(|one| of_enum(&one)).collect();
        Self { methods, messages, enums, names, pool: pool.clone() }
    }
}

/// A file that nobody could have put there who may not write the configuration.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let facts = fs::metadata(path).map_err(|error| error.to_string())?;
    if !facts.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if facts.mode() & 0o022 != 0 {
        return Err("others than its owner can write it, and so say what calls mean: chmod go-w".to_owned());
    }
    let owner = facts.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(format!("it belongs to user {owner}: chown root"));
    }
    if facts.len() > FILE_LIMIT {
        return Err(format!("it has more than {FILE_LIMIT} bytes"));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(format!("it has more than {FILE_LIMIT} bytes"));
    }
    Ok(bytes)
}

fn add(pool: &mut reflect::DescriptorPool, set: &[u8]) -> Result<(), String> {
    const MADE_SO: &str =
        "make it with `protoc --descriptor_set_out=FILE --include_imports ...`, or with `buf build -o FILE`";
    let wrong = |why: String| format!("it is no complete set of file descriptors ({why:.300}): {MADE_SO}");
    let files = reflect::prost_types::FileDescriptorSet::decode(set).map_err(|error| wrong(error.to_string()))?.file;
    // The library would end the program.
    if let Some(file) = files.iter().find(|file| !matches!(file.syntax(), "" | "proto2" | "proto3")) {
        let name = file.name();
        return Err(format!("{name:.200} is of an edition, which is not supported yet: write `syntax = \"proto3\"`"));
    }
    pool.decode_file_descriptor_set(set).map_err(|error| wrong(error.to_string()))?;
    if pool.files().len() == 0 {
        return Err(format!("there is no file descriptor in it: {MADE_SO}"));
    }
    Ok(())
}

fn of_message(message: &reflect::MessageDescriptor, kind: impl Fn(reflect::Kind) -> Kind) -> Message {
    let choices: Vec<String> = message.oneofs().map(|choice| choice.name().to_owned()).collect();
    let mut fields: Vec<(Field, bool)> = Vec::new();
    for field in message.fields() {
        let shape = match (field.is_map(), field.is_list()) {
            (true, _) => Shape::Map,
            (_, true) => Shape::List,
            _ => Shape::One,
        };
        let choice = field.containing_oneof();
        let choice = choice.and_then(|of| choices.iter().position(|name| name == of.name()));
        let read = Field {
            number: field.number(),
            name: field.name().to_owned(),
            json: field.json_name().to_owned(),
            kind: if field.is_group() { Kind::Group } else { kind(field.kind()) },
            shape,
            choice,
        };
        fields.push((read, shape == Shape::One && !field.supports_presence()));
    }
    fields.sort_by_key(|(field, _)| field.number);
    let implicit = fields.iter().enumerate().filter(|(_, (_, implicit))| *implicit).map(|(place, _)| place).collect();
    let is_any = message.full_name() == "google.protobuf.Any";
    let is_value = VALUES.contains(&message.full_name());
    Message { fields: fields.into_iter().map(|(field, _)| field).collect(), implicit, is_any, is_value }
}

fn of_enum(one: &reflect::EnumDescriptor) -> Enum {
    let mut names = BTreeMap::new();
    for value in one.values() {
        names.entry(value.number()).or_insert_with(|| value.name().to_owned());
    }
    Enum { names, first: one.default_value().number() }
}

fn of_kind(kind: &reflect::Kind, messages: &HashMap<String, usize>, enums: &HashMap<String, usize>) -> Kind {
    match kind {
        reflect::Kind::Double => Kind::Double,
        reflect::Kind::Float => Kind::Float,
        reflect::Kind::Int32 => Kind::Int32,
        reflect::Kind::Int64 => Kind::Int64,
        reflect::Kind::Uint32 => Kind::Uint32,
        reflect::Kind::Uint64 => Kind::Uint64,
        reflect::Kind::Sint32 => Kind::Sint32,
        reflect::Kind::Sint64 => Kind::Sint64,
        reflect::Kind::Fixed32 => Kind::Fixed32,
        reflect::Kind::Fixed64 => Kind::Fixed64,
        reflect::Kind::Sfixed32 => Kind::Sfixed32,
        reflect::Kind::Sfixed64 => Kind::Sfixed64,
        reflect::Kind::Bool => Kind::Bool,
        reflect::Kind::String => Kind::String,
        reflect::Kind::Bytes => Kind::Bytes,
        // A place that there is not: whatever has it cannot be looked into.
        reflect::Kind::Enum(one) => Kind::Enum(enums.get(one.full_name()).copied().unwrap_or(usize::MAX)),
        reflect::Kind::Message(message) => {
            Kind::Message(messages.get(message.full_name()).copied().unwrap_or(usize::MAX))
        }
    }
}
