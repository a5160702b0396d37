//! The inverse of shredding: rows become export requests again, one for each signal.
//!
//! Items of one resource and scope come out together, whatever request they went in with; logs in the order of their times.

use super::dictionary;
use super::order::unrank;
use super::schema::{Message, Role};
use super::shape::Element;
use super::state::{Context, State};
use crate::otlp::protobuf::{put_bytes, put_tag, put_varint, varint_len};
use crate::segment::CodecError;
use crate::signal::Signal;

/// Takes rows as they are coded.
pub(super) trait Rows {
    /// A row of a type: its values as the decoder knows them.
    fn row(&mut self, state: &State, kind: u32, tape: &[u64]) -> Result<(), CodecError>;
}

/// For the encoder, which has the items already.
pub(super) struct Nothing;

impl Rows for Nothing {
    fn row(&mut self, _: &State, _: u32, _: &[u64]) -> Result<(), CodecError> {
        Ok(())
    }
}

/// The items of a context, as fields of what encloses them.
#[derive(Debug, Default)]
struct Bucket {
    items: Vec<u8>,
    /// Of logs: their time and where they begin.
    times: Vec<(u64, u32)>,
}

/// Items as they come, by their context.
#[derive(Debug)]
pub(super) struct Builder {
    buckets: Vec<Bucket>,
    item: Vec<u8>,
    left: u64,
}

impl Builder {
    /// Builds at most `limit` bytes.
    pub(super) const fn new(limit: u64) -> Self {
        Self { buckets: Vec::new(), item: Vec::new(), left: limit }
    }

    /// The export request of `signal`, if there was anything of it. What it was made of is gone then.
    pub(super) fn request(&mut self, state: &State, signal: Signal) -> Option<Vec<u8>> {
        let mut contexts: Vec<(Context, Bucket)> = state
            .contexts
            .iter()
            .copied()
            .zip(&mut self.buckets)
            .filter(|(c, b)| c.signal == signal as u8 && !b.items.is_empty())
            .map(|(c, b)| (c, std::mem::take(b)))
            .collect();
        if contexts.is_empty() {
            return None;
        }
        contexts.sort_by_key(|(c, _)| *c);
        let head = |dictionary: usize, entry: u32| state.dictionaries[dictionary].rendered(entry as usize);
        let bytes = |of: &[(Context, Bucket)]| of.iter().map(|(_, b)| b.items.len() + 64).sum::<usize>();
        let mut out = Vec::with_capacity(bytes(&contexts));
        for of_resource in contexts.chunk_by(|a, b| a.0.resource == b.0.resource) {
            let mut resource = Vec::with_capacity(bytes(of_resource));
            resource.extend_from_slice(head(dictionary::RESOURCES, of_resource[0].0.resource));
            for of_scope in of_resource.chunk_by(|a, b| a.0.scope == b.0.scope) {
                let mut length = head(dictionary::SCOPES, of_scope[0].0.scope).len();
                let mut metrics = Vec::new();
                for (context, bucket) in of_scope {
                    if signal != Signal::Metrics {
                        length += bucket.items.len();
                        continue;
                    }
                    let kind = head(dictionary::DATA, context.data);
                    let mut metric = head(dictionary::METRICS, context.metric).to_vec();
                    put_tag(&mut metric, context.field, 2);
                    put_varint(&mut metric, (kind.len() + bucket.items.len()) as u64);
                    metric.extend_from_slice(kind);
                    metric.extend_from_slice(&bucket.items);
                    put_bytes(&mut metrics, 2, &metric);
                }
                put_tag(&mut resource, 2, 2);
                put_varint(&mut resource, (length + metrics.len()) as u64);
                resource.extend_from_slice(head(dictionary::SCOPES, of_scope[0].0.scope));
                resource.extend_from_slice(&metrics);
                for (_, bucket) in of_scope.iter().filter(|_| signal != Signal::Metrics) {
                    bucket.write(&mut resource);
                }
            }
            put_bytes(&mut out, 1, &resource);
        }
        Some(out)
    }
}

impl Bucket {
    fn write(&self, out: &mut Vec<u8>) {
        if self.times.is_sorted_by_key(|(time, _)| *time) {
            out.extend_from_slice(&self.items);
            return;
        }
        let ends = self.times.iter().skip(1).map(|t| t.1 as usize).chain([self.items.len()]);
        let mut parts: Vec<(u64, std::ops::Range<usize>)> =
            self.times.iter().zip(ends).map(|((time, start), end)| (*time, *start as usize..end)).collect();
        parts.sort_by_key(|(time, _)| *time);
        for (_, range) in parts {
            out.extend_from_slice(&self.items[range]);
        }
    }
}

impl Rows for Builder {
    fn row(&mut self, state: &State, kind: u32, tape: &[u64]) -> Result<(), CodecError> {
        let of = &state.types[kind as usize];
        self.item.clear();
        message(state, of.shape, tape, 0, &mut self.item);
        let length = self.item.len() as u64;
        let whole = 1 + varint_len(length) as u64 + length;
        self.left = self.left.checked_sub(whole).ok_or(CodecError::TooLarge("what a payload unpacks to"))?;
        let number = of.context as usize;
        let shape = &state.shapes.all[of.shape as usize];
        if state.contexts[number].message() != shape.message {
            return Err(CodecError::Damaged("an item among others"));
        }
        if self.buckets.len() <= number {
            self.buckets.resize_with(state.contexts.len(), Bucket::default);
        }
        let bucket = &mut self.buckets[number];
        if shape.message == Message::LogRecord {
            let time =
                [Role::Time, Role::Observed].iter().find_map(|r| shape.place(*r)).map_or(0, |p| tape[p]);
            bucket.times.push((time, bucket.items.len() as u32));
        }
        let field = if state.contexts[number].signal == 2 { 1 } else { 2 };
        put_bytes(&mut bucket.items, field, &self.item);
        Ok(())
    }
}

/// Appends a message of `shape` whose values begin at `at`; returns where the next ones begin.
fn message(state: &State, shape: u32, tape: &[u64], mut at: usize, out: &mut Vec<u8>) -> usize {
    let parts = state.shapes.parts(shape);
    let mut next = 0;
    while let Some(part) = parts.get(next) {
        next += 1;
        // An empty message at the end has no value.
        let value = tape.get(at).copied().unwrap_or(0);
        match part.element {
            Element::Dictionary(d) => {
                out.extend_from_slice(state.dictionaries[d as usize].rendered(value as usize));
            }
            Element::Order(d) => {
                let dictionary = &state.dictionaries[d as usize];
                let length = dictionary.kind.field as usize;
                let order = unrank(dictionary.rank(value as usize), length);
                for place in &order[..length] {
                    let place = usize::from(*place);
                    if let Element::Dictionary(d) = parts[next + place].element {
                        let entry = tape[at + 1 + place] as usize;
                        out.extend_from_slice(state.dictionaries[d as usize].rendered(entry));
                    }
                }
                next += length;
                at += length;
            }
            Element::Varint(field) => {
                put_tag(out, u32::from(field), 0);
                put_varint(out, value);
            }
            Element::Fixed32(field) => {
                put_tag(out, u32::from(field), 5);
                out.extend_from_slice(&(value as u32).to_le_bytes());
            }
            Element::Fixed64(field) => {
                put_tag(out, u32::from(field), 1);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Element::Id8(field) => put_bytes(out, u32::from(field), &value.to_le_bytes()),
            Element::Id16(field) => {
                put_tag(out, u32::from(field), 2);
                out.push(16);
                out.extend_from_slice(&value.to_le_bytes());
                at += 1;
                out.extend_from_slice(&tape[at].to_le_bytes());
            }
            Element::One(field, inner) => {
                at = inside(state, field, inner, tape, at, out);
                continue;
            }
            Element::Many(field, inner) => {
                at += 1;
                for _ in 0..value {
                    at = inside(state, field, inner, tape, at, out);
                }
                continue;
            }
            Element::Fixed64List(field) => {
                put_tag(out, u32::from(field), 2);
                put_varint(out, value * 8);
                for number in &tape[at + 1..at + 1 + value as usize] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                at += value as usize;
            }
            Element::VarintList(field) => {
                let numbers = &tape[at + 1..at + 1 + value as usize];
                put_tag(out, u32::from(field), 2);
                put_varint(out, numbers.iter().map(|n| varint_len(*n) as u64).sum());
                for number in numbers {
                    put_varint(out, *number);
                }
                at += value as usize;
            }
        }
        at += 1;
    }
    at
}

/// A message of `shape` in `field`.
fn inside(state: &State, field: u8, shape: u32, tape: &[u64], at: usize, out: &mut Vec<u8>) -> usize {
    put_tag(out, u32::from(field), 2);
    let start = out.len();
    out.push(0);
    let at = message(state, shape, tape, at, out);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
        return at;
    }
    let more = varint_len(length as u64) - 1;
    out.resize(out.len() + more, 0);
    out.copy_within(start + 1..start + 1 + length, start + 1 + more);
    let mut rest = length as u64;
    for byte in &mut out[start..start + more] {
        *byte = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[start + more] = rest as u8;
    at
}
