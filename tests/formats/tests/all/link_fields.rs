//! Whether the pinned messages leave out anything that `link.proto` has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use formats::fixture::path;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto};

/// Messages by their full names.
type Messages = BTreeMap<String, DescriptorProto>;

/// A message and the number of a field in it.
type Seen = BTreeSet<(String, i32)>;

fn messages() -> Messages {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = protox::compile(["perigee/link.proto"], [proto]).unwrap().file;
    let of = |file: prost_types::FileDescriptorProto| {
        let package = file.package().to_owned();
        file.message_type.into_iter().map(move |m| (format!(".{package}.{}", m.name()), m))
    };
    files.into_iter().flat_map(of).collect()
}

fn varint(bytes: &mut &[u8]) -> u64 {
    prost::encoding::decode_varint(bytes).unwrap()
}

/// Notes the fields that the message `name` in `bytes` has, and those of the messages in it.
fn note(messages: &Messages, name: &str, mut bytes: &[u8], seen: &mut Seen) {
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let number = (key >> 3) as i32;
        let length = match key & 7 {
            0 => {
                varint(&mut bytes);
                0
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("{name}: wire type {other}"),
        };
        let (value, rest) = bytes.split_at(length);
        bytes = rest;
        seen.insert((name.to_owned(), number));
        let field = messages[name].field.iter().find(|f| f.number() == number).unwrap();
        if field.r#type() == Type::Message {
            note(messages, field.type_name(), value, seen);
        }
    }
}

#[test]
fn every_field_of_every_message_is_in_some_pinned_message() {
    let messages = messages();
    let mut seen = Seen::new();
    for entry in std::fs::read_dir(path("link")).unwrap() {
        let file = entry.unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        let (name, body) = match file.file_stem().unwrap().to_str().unwrap() {
            "segment-header" => ("SegmentHeader", &bytes[..]),
            name if name.starts_with("segment-open") => ("SegmentOpen", &bytes[4..]),
            name if ["ack", "resume", "ground", "reject"].iter().any(|of| name.starts_with(of)) => {
                ("GroundMessage", &bytes[4..])
            }
            _ => ("AgentMessage", &bytes[4..]),
        };
        note(&messages, &format!(".perigee.link.v1.{name}"), body, &mut seen);
    }
    let fields = |(name, m): (&String, &DescriptorProto)| {
        let of = |f: &FieldDescriptorProto| (name.clone(), f.number());
        m.field.iter().map(of).collect::<Vec<_>>()
    };
    let all: Seen = messages.iter().flat_map(fields).collect();
    let missing: Vec<_> = all.difference(&seen).collect();
    assert!(missing.is_empty(), "set these in a message that is pinned: {missing:?}");
}
