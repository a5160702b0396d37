//! Attributes that are added to every resource of a request.

use bytes::Bytes;

use crate::otlp::protobuf::{Fields, Malformed, Value, put_bytes};

/// Attributes to add, ready for the wire. A resource that already has one of the keys keeps its own value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<(String, Vec<u8>)>);

impl Attributes {
    /// Attributes with these keys and string values.
    pub fn new(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(key, value)| ((*key).to_owned(), key_value(key, value))).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `body`, an export request of any signal, with these attributes in each resource that has something below it.
    pub fn add_to(&self, body: Bytes) -> Result<Bytes, Malformed> {
        if self.is_empty() {
            return Ok(body);
        }
        let mut out = Vec::with_capacity(body.len() + 256);
        let mut resource = Vec::new();
        for field in Fields::new(&body) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Bytes(message)) => {
                    resource.clear();
                    if self.rewrite(message, &mut resource)? {
                        put_bytes(&mut out, 1, &resource);
                    } else {
                        out.extend_from_slice(field.raw);
                    }
                }
                (1, _) => return Err(Malformed("a message field is not a message")),
                _ => out.extend_from_slice(field.raw),
            }
        }
        Ok(Bytes::from(out))
    }

    /// Appends `message`, a `ResourceSpans` or the like, to `out` with these attributes; false when nothing is below it.
    fn rewrite(&self, message: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
        self.header(message, out)?;
        let mut inhabited = false;
        for scope in Fields::new(message) {
            let scope = scope?;
            if let (2, Value::Bytes(bytes)) = (scope.number, scope.value) {
                inhabited |= !bytes.is_empty();
                out.extend_from_slice(scope.raw);
            }
        }
        Ok(inhabited)
    }

    /// Appends to `out` everything of a `ResourceSpans`, `ResourceLogs` or `ResourceMetrics` but its scopes (field 2), with
    /// these attributes in its resource, which is made when it is absent.
    fn header(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        // Several occurrences of one message field mean their concatenation.
        let mut resource = Vec::new();
        for field in Fields::new(message) {
            let field = field?;
            match (field.number, field.value) {
                (2, Value::Bytes(_)) => {}
                (1, Value::Bytes(bytes)) => resource.extend_from_slice(bytes),
                (1 | 2, _) => return Err(Malformed("a message field is not a message")),
                _ => out.extend_from_slice(field.raw),
            }
        }
        let mut present = vec![false; self.0.len()];
        for field in Fields::new(&resource) {
            let field = field?;
            if let (1, Value::Bytes(attribute)) = (field.number, field.value) {
                let key = key_of(attribute)?;
                for (there, (name, _)) in present.iter_mut().zip(&self.0) {
                    *there |= key == Some(name.as_bytes());
                }
            }
        }
        for (_, (_, bytes)) in present.iter().zip(&self.0).filter(|(there, _)| !**there) {
            put_bytes(&mut resource, 1, bytes);
        }
        put_bytes(out, 1, &resource);
        Ok(())
    }
}

/// The key of a `KeyValue`.
fn key_of(message: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut key = None;
    for field in Fields::new(message) {
        let field = field?;
        if let (1, Value::Bytes(bytes)) = (field.number, field.value) {
            key = Some(bytes);
        }
    }
    Ok(key)
}

/// A `KeyValue` with a string in it.
fn key_value(key: &str, value: &str) -> Vec<u8> {
    let mut any = Vec::new();
    put_bytes(&mut any, 1, value.as_bytes());
    let mut out = Vec::new();
    put_bytes(&mut out, 1, key.as_bytes());
    put_bytes(&mut out, 2, &any);
    out
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
    use prost::Message;

    use super::*;

    fn attribute(key: &str, value: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }),
            ..KeyValue::default()
        }
    }

    fn added(spans: &ResourceSpans) -> Vec<KeyValue> {
        let attributes = Attributes::new(&[("satellite.id", "sat-1"), ("ground.station.id", "svalbard")]);
        let mut out = Vec::new();
        attributes.header(&spans.encode_to_vec(), &mut out).unwrap();
        let out = ResourceSpans::decode(out.as_slice()).unwrap();
        assert_eq!(out.schema_url, spans.schema_url);
        out.resource.unwrap().attributes
    }

    #[test]
    fn attributes_are_added_behind_those_that_are_there() {
        let resource = Resource { attributes: vec![attribute("service.name", "a")], ..Resource::default() };
        let spans = ResourceSpans {
            resource: Some(resource),
            schema_url: "s".to_owned(),
            ..ResourceSpans::default()
        };
        let keys: Vec<_> = added(&spans).into_iter().map(|a| a.key).collect();
        assert_eq!(keys, ["service.name", "satellite.id", "ground.station.id"]);
    }

    #[test]
    fn a_resource_that_is_absent_is_made() {
        assert_eq!(added(&ResourceSpans::default()).len(), 2);
    }

    #[test]
    fn a_key_that_is_there_keeps_its_value() {
        let resource =
            Resource { attributes: vec![attribute("satellite.id", "other")], ..Resource::default() };
        let spans = ResourceSpans { resource: Some(resource), ..ResourceSpans::default() };
        assert_eq!(
            added(&spans),
            [attribute("satellite.id", "other"), attribute("ground.station.id", "svalbard")]
        );
    }
}
