//! Secrets in messages that stand for values, as recordings have them.

use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    ServiceDescriptorProto,
};

use super::*;
use crate::protocol::http::redact::{self, json::Hides};

const PATH: &str = "/vault.Vault/Put";

/// `Put(Login)`, with fields of the kinds that come with the language.
fn schema() -> Schema {
    let fields = [
        ("user", 1, "StringValue"),
        ("password", 2, "StringValue"),
        ("pin", 3, "Int64Value"),
        ("config", 4, "Struct"),
        ("key", 5, "StringValue"),
        ("value", 6, "Value"),
        ("secret", 7, "Struct"),
    ];
    let field = |(name, number, kind): (&str, i32, &str)| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional as i32),
        r#type: Some(Type::Message as i32),
        type_name: Some(format!(".google.protobuf.{kind}")),
        ..FieldDescriptorProto::default()
    };
    let login = DescriptorProto {
        name: Some("Login".to_owned()),
        field: fields.into_iter().map(field).collect(),
        ..DescriptorProto::default()
    };
    let put = MethodDescriptorProto {
        name: Some("Put".to_owned()),
        input_type: Some(".vault.Login".to_owned()),
        output_type: Some(".vault.Login".to_owned()),
        ..MethodDescriptorProto::default()
    };
    let vault = ServiceDescriptorProto {
        name: Some("Vault".to_owned()),
        method: vec![put],
        ..ServiceDescriptorProto::default()
    };
    let imported = ["google/protobuf/struct.proto", "google/protobuf/wrappers.proto"];
    let file = FileDescriptorProto {
        name: Some("vault.proto".to_owned()),
        package: Some("vault".to_owned()),
        dependency: imported.map(str::to_owned).to_vec(),
        message_type: vec![login],
        service: vec![vault],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    };
    let mut set = FileDescriptorSet::decode(&*DescriptorPool::global().encode_to_vec()).unwrap();
    set.file.retain(|file| imported.contains(&file.name()));
    set.file.push(file);
    Schema::parse(&set.encode_to_vec()).unwrap()
}

fn hides(name: &str) -> Hides {
    if redact::is_secret(name) { Hides::Value } else { Hides::Nothing }
}

/// A message as it stands on record.
fn hidden(schema: &Schema, json: &str) -> Vec<u8> {
    let mut message = schema.written(PATH, json).unwrap();
    let length = message.len();
    blotted(schema, PATH, &mut message, &hides);
    assert_eq!(message.len(), length);
    message
}

/// The same, told.
fn shown(json: &str) -> Vec<String> {
    let schema = schema();
    understood(&schema, PATH, &hidden(&schema, json)).unwrap().unwrap()
}

#[test]
fn what_stands_for_a_value_is_hidden_by_its_name() {
    let told = shown(
        r#"{"user":"ada","password":"s3c","pin":"1234","config":{"password":"s3c","size":"big","more":{"token":"s3c"},"secrets":["s3c",null]}}"#,
    );
    assert!(told.iter().all(|one| !one.contains("s3c") && !one.contains("1234")), "{told:?}");
    for kept in ["user.value=ada", "config.fields.size.string_value=big", "password.value=***"] {
        assert!(told.iter().any(|one| one == kept), "{kept}: {told:?}");
    }
    let told = shown(r#"{"key":"DB_PASSWORD","value":["s3c",true]}"#);
    assert!(told.iter().all(|one| !one.contains("s3c")), "{told:?}");
    // What has names of its own is told by these.
    let told = shown(r#"{"key":"HOME","value":"/root","secret":{"name":"db"}}"#);
    for kept in ["value.string_value=/root", "secret.fields.name.string_value=db"] {
        assert!(told.iter().any(|one| one == kept), "{kept}: {told:?}");
    }
}

/// A value in a value costs no more the deeper it stands.
#[test]
fn nested_values_are_looked_at_once() {
    let (schema, depth) = (schema(), 40);
    let has_secret = |json: &str| hidden(&schema, json).windows(3).any(|three| three == b"s3c");
    let json = format!(r#"{{"key":"a","value":{}"s3c"{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert!(has_secret(&json));
    assert!(!has_secret(&json.replacen(r#""a""#, r#""token""#, 1)));
}

#[test]
fn base64_that_is_written_in_an_odd_way_is_hidden_whole() {
    let head = head("/shop.Orders/Place", &[("content-type", "application/grpc-web-text")]);
    let call = Call::of(Some(&SCHEMA), &head).unwrap();
    let (mut signs, plain) = (Vec::new(), framed(&message(&[(1, text("EUR"))])));
    frames::armour(&plain, &mut signs);
    let known = signs.clone();
    call.blot(&mut signs, &hides);
    assert_eq!(signs, known);
    signs.extend(b"\n!=");
    call.blot(&mut signs, &hides);
    assert!(signs.iter().all(|byte| *byte == b'*'));
}
