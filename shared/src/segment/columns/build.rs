//! The inverse of shredding: rows become export requests again, one for each signal.
//!
//! Items of one resource and scope come out together, whatever request they went in with; logs in the order of their times.

use rustc_hash::FxHashMap;

use super::order::{Order, unrank};
use super::schema::Role;
use super::shape::Element;
use super::state::{Context, State};
use super::{dictionary, schema};
use crate::otlp::protobuf::{put_tag, put_varint, varint_len};
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

/// Items of a context, where they stand among all.
#[derive(Debug, Default)]
struct Bucket {
    /// Of logs one by one, of others as many as stand together.
    items: Vec<Items>,
    bytes: usize,
}

#[derive(Debug)]
struct Items {
    /// Of a log, else 0.
    time: u64,
    start: u32,
    end: u32,
}

/// Items as they come, and which of them are of which context.
#[derive(Debug)]
pub(super) struct Builder {
    /// Each as a field of what encloses it.
    items: Vec<u8>,
    buckets: Vec<Bucket>,
    orders: Orders,
    limit: usize,
}

/// For so many bytes there is room from the start, if so many may come.
const ROOM: usize = 8 << 20;

impl Builder {
    /// Builds at most `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX) as usize;
        Self {
            items: Vec::with_capacity(limit.min(ROOM)),
            buckets: Vec::new(),
            orders: Orders::default(),
            limit,
        }
    }

    /// The export request of `signal`, if there was anything of it.
    pub(super) fn request(&mut self, state: &State, signal: Signal) -> Option<Vec<u8>> {
        let mut contexts: Vec<(Context, Bucket)> = state
            .contexts
            .iter()
            .copied()
            .zip(&mut self.buckets)
            .filter(|(c, b)| c.signal == signal as u8 && b.bytes > 0)
            .map(|(c, b)| (c, std::mem::take(b)))
            .collect();
        if contexts.is_empty() {
            return None;
        }
        contexts.sort_by_key(|(c, _)| *c);
        if signal == Signal::Logs {
            contexts.iter_mut().for_each(|(_, b)| b.items.sort_by_key(|i| i.time));
        }
        let request = Assembly { state, items: &self.items };
        let resources = || contexts.chunk_by(|a, b| a.0.resource == b.0.resource);
        let mut out = Vec::with_capacity(resources().map(|r| field_len(request.resource_len(r))).sum());
        for of_resource in resources() {
            begin(&mut out, 1, request.resource_len(of_resource));
            out.extend_from_slice(request.head(dictionary::RESOURCES, of_resource[0].0.resource));
            for of_scope in scopes(of_resource) {
                begin(&mut out, 2, request.scope_len(of_scope));
                out.extend_from_slice(request.head(dictionary::SCOPES, of_scope[0].0.scope));
                of_scope.iter().for_each(|of| request.enclosed(of, &mut out));
            }
        }
        Some(out)
    }
}

/// Puts what encloses items around them, lengths first.
struct Assembly<'a> {
    state: &'a State,
    items: &'a [u8],
}

type OfContext = (Context, Bucket);

fn scopes(of_resource: &[OfContext]) -> impl Iterator<Item = &[OfContext]> {
    of_resource.chunk_by(|a, b| a.0.scope == b.0.scope)
}

/// Begins a field of fewer than 16 whose content has this length.
fn begin(out: &mut Vec<u8>, field: u32, length: usize) {
    put_tag(out, field, 2);
    put_varint(out, length as u64);
}

/// Bytes of such a field.
const fn field_len(content: usize) -> usize {
    1 + varint_len(content as u64) + content
}

impl<'a> Assembly<'a> {
    fn head(&self, dictionary: usize, entry: u32) -> &'a [u8] {
        self.state.dictionaries[dictionary].rendered(entry as usize)
    }

    fn resource_len(&self, of: &[OfContext]) -> usize {
        let scopes = scopes(of).map(|s| field_len(self.scope_len(s)));
        self.head(dictionary::RESOURCES, of[0].0.resource).len() + scopes.sum::<usize>()
    }

    fn scope_len(&self, of: &[OfContext]) -> usize {
        let enclosed = of.iter().map(|of| {
            let is_metric = of.0.signal == Signal::Metrics as u8;
            if is_metric { field_len(self.metric_len(of)) } else { of.1.bytes }
        });
        self.head(dictionary::SCOPES, of[0].0.scope).len() + enclosed.sum::<usize>()
    }

    fn metric_len(&self, of: &OfContext) -> usize {
        self.head(dictionary::METRICS, of.0.metric).len() + field_len(self.data_len(of))
    }

    fn data_len(&self, (context, bucket): &OfContext) -> usize {
        self.head(dictionary::DATA, context.data).len() + bucket.bytes
    }

    /// The items, with their metric around them if they are points.
    fn enclosed(&self, of: &OfContext, out: &mut Vec<u8>) {
        let (context, bucket) = of;
        if context.signal == Signal::Metrics as u8 {
            begin(out, 2, self.metric_len(of));
            out.extend_from_slice(self.head(dictionary::METRICS, context.metric));
            begin(out, context.field, self.data_len(of));
            out.extend_from_slice(self.head(dictionary::DATA, context.data));
        }
        for items in &bucket.items {
            out.extend_from_slice(&self.items[items.start as usize..items.end as usize]);
        }
    }
}

impl Rows for Builder {
    fn row(&mut self, state: &State, kind: u32, tape: &[u64]) -> Result<(), CodecError> {
        let of = &state.types[kind as usize];
        let number = of.context as usize;
        let shape = &state.shapes.all[of.shape as usize];
        if state.contexts[number].message() != shape.message {
            return Err(CodecError::Damaged("an item among others"));
        }
        let start = self.items.len();
        put_tag(&mut self.items, if state.contexts[number].signal == 2 { 1 } else { 2 }, 2);
        // Most items have between 128 bytes and 16 KiB.
        let length = self.items.len();
        self.items.extend_from_slice(&[0; 2]);
        let mut message = Message { state, tape, at: 0, orders: &mut self.orders, out: &mut self.items };
        message.put(of.shape, self.limit)?;
        put_length(&mut self.items, length, 2);
        if self.items.len() > self.limit {
            return Err(TOO_LARGE);
        }
        if self.buckets.len() <= number {
            self.buckets.resize_with(state.contexts.len(), Bucket::default);
        }
        let is_log = shape.message == schema::Message::LogRecord;
        let places = [Role::Time, Role::Observed].iter().filter(|_| is_log);
        let time = places.flat_map(|r| shape.place(*r)).next().map_or(0, |p| tape[p]);
        let bucket = &mut self.buckets[number];
        bucket.bytes += self.items.len() - start;
        let (start, end) = (start as u32, self.items.len() as u32);
        match bucket.items.last_mut() {
            Some(last) if last.end == start && !is_log => last.end = end,
            _ => bucket.items.push(Items { time, start, end }),
        }
        Ok(())
    }
}

const TOO_LARGE: CodecError = CodecError::TooLarge("what a payload unpacks to");

/// Writes the length of what follows it to the end into `room` bytes at `at`, or moves it to where it has room.
fn put_length(out: &mut Vec<u8>, at: usize, room: usize) {
    let length = out.len() - at - room;
    let bytes = varint_len(length as u64);
    if bytes > room {
        out.resize(out.len() + bytes - room, 0);
    }
    if bytes != room {
        out.copy_within(at + room..at + room + length, at + bytes);
        out.truncate(at + bytes + length);
    }
    let mut rest = length;
    for byte in &mut out[at..at + bytes - 1] {
        *byte = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[at + bytes - 1] = rest as u8;
}

/// How the attributes stood that an entry of a dictionary of orders tells, found once.
type Orders = FxHashMap<(u32, u64), Order>;

/// A message that is being put together from what is on a tape.
struct Message<'a> {
    state: &'a State,
    tape: &'a [u64],
    /// Where the next value stands.
    at: usize,
    orders: &'a mut Orders,
    out: &'a mut Vec<u8>,
}

impl<'a> Message<'a> {
    /// Appends a message of `shape` whose values come next, as long as there are not more than `limit` bytes.
    fn put(&mut self, shape: u32, limit: usize) -> Result<(), CodecError> {
        let parts = self.state.shapes.parts(shape);
        let dictionaries = &self.state.dictionaries;
        let mut next = 0;
        while let Some(part) = parts.get(next) {
            next += 1;
            if self.out.len() > limit {
                return Err(TOO_LARGE);
            }
            // An empty message at the end has no value.
            let value = self.tape.get(self.at).copied().unwrap_or(0);
            match part.element {
                Element::Dictionary(d) => dictionaries[d as usize].append(value as usize, self.out),
                Element::Order(d) => {
                    let dictionary = &dictionaries[d as usize];
                    let length = dictionary.kind.field as usize;
                    let order = self.orders.entry((d, value));
                    let order = order.or_insert_with(|| unrank(dictionary.rank(value as usize), length));
                    for place in &order[..length] {
                        let place = usize::from(*place);
                        if let Element::Dictionary(d) = parts[next + place].element {
                            let entry = self.tape[self.at + 1 + place] as usize;
                            dictionaries[d as usize].append(entry, self.out);
                        }
                    }
                    next += length;
                    self.at += length;
                }
                Element::Varint(field) => {
                    put_tag(self.out, u32::from(field), 0);
                    put_varint(self.out, value);
                }
                Element::Fixed32(field) => {
                    put_tag(self.out, u32::from(field), 5);
                    self.out.extend_from_slice(&(value as u32).to_le_bytes());
                }
                Element::Fixed64(field) => {
                    put_tag(self.out, u32::from(field), 1);
                    self.out.extend_from_slice(&value.to_le_bytes());
                }
                Element::Id8(field) => {
                    begin(self.out, u32::from(field), 8);
                    self.out.extend_from_slice(&value.to_le_bytes());
                }
                Element::Id16(field) => {
                    begin(self.out, u32::from(field), 16);
                    self.at += 1;
                    let id = u128::from(self.tape[self.at]) << 64 | u128::from(value);
                    self.out.extend_from_slice(&id.to_le_bytes());
                }
                Element::One(field, inner) => {
                    self.inside(field, inner, limit)?;
                    continue;
                }
                Element::Many(field, inner) => {
                    self.at += 1;
                    for _ in 0..value {
                        self.inside(field, inner, limit)?;
                    }
                    continue;
                }
                Element::Fixed64List(field) => {
                    begin(self.out, u32::from(field), value as usize * 8);
                    for number in self.list(value) {
                        self.out.extend_from_slice(&number.to_le_bytes());
                    }
                }
                Element::VarintList(field) => {
                    let numbers = self.list(value);
                    begin(self.out, u32::from(field), numbers.iter().map(|n| varint_len(*n)).sum());
                    for number in numbers {
                        put_varint(self.out, *number);
                    }
                }
            }
            self.at += 1;
        }
        Ok(())
    }

    /// The numbers of a list whose length stands before them.
    fn list(&mut self, length: u64) -> &'a [u64] {
        let start = self.at + 1;
        self.at += length as usize;
        &self.tape[start..start + length as usize]
    }

    /// A message of `shape` in `field`.
    fn inside(&mut self, field: u8, shape: u32, limit: usize) -> Result<(), CodecError> {
        put_tag(self.out, u32::from(field), 2);
        let length = self.out.len();
        self.out.push(0);
        self.put(shape, limit)?;
        put_length(self.out, length, 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Encoder, Reader, walk};
    use super::*;
    use crate::otlp::protobuf::put_bytes;

    #[test]
    fn an_item_that_repeats_a_long_entry_is_not_built_beyond_the_limit() {
        const LIMIT: u64 = 1 << 20;
        let (mut any, mut attribute) = (Vec::new(), Vec::new());
        put_bytes(&mut any, 1, &vec![b'x'; LIMIT as usize / 2]);
        put_bytes(&mut attribute, 1, b"key");
        put_bytes(&mut attribute, 2, &any);
        let (mut span, mut scope, mut resource, mut request) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        put_bytes(&mut span, 1, &[1; 16]);
        put_bytes(&mut span, 2, &[2; 8]);
        for _ in 0..100 {
            put_bytes(&mut span, 9, &attribute);
        }
        put_bytes(&mut scope, 2, &span);
        put_bytes(&mut resource, 2, &scope);
        put_bytes(&mut request, 1, &resource);
        let mut encoder = Encoder::new(None);
        encoder.push(Signal::Traces, &request).expect("well formed");
        let (payload, _) = encoder.finish().expect("encodes");

        let mut reader = Reader::new(super::super::LAYOUT, &payload, LIMIT).expect("a payload");
        let mut builder = Builder::new(LIMIT);
        let refused = walk(&mut reader, &mut State::new(), LIMIT, &mut builder);
        assert!(matches!(refused, Err(CodecError::TooLarge(_))), "{refused:?}");
        assert!(builder.items.len() < 2 * LIMIT as usize, "{} bytes were built", builder.items.len());
    }
}
