//! The inverse of shredding: rows become export requests again, one for each signal.
//!
//! Items of one resource and scope come out together, whatever request they went in with; logs in the order of their times.

use std::ops::Range;

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

    /// Bytes that they take.
    fn size(&self) -> usize;
}

/// For the encoder, which has the items already.
pub(super) struct Nothing;

impl Rows for Nothing {
    fn row(&mut self, _: &State, _: u32, _: &[u64]) -> Result<(), CodecError> {
        Ok(())
    }

    fn size(&self) -> usize {
        0
    }
}

/// Items of a context, where they stand among all.
#[derive(Debug)]
struct Items {
    /// Of a log, else 0.
    time: u64,
    start: u32,
    end: u32,
}

/// Rows as they come, and which of them are of which context. They are put together as requests when somebody wants those: until
/// then text stands in its dictionary alone.
#[derive(Debug)]
pub(super) struct Builder {
    /// Of each row its type, how many values it has, and those, see [`put`].
    rows: Vec<u8>,
    count: usize,
    /// By context; of logs one by one, of others as many as stand together.
    buckets: Vec<Vec<Items>>,
    /// In all of them.
    runs: usize,
    limit: usize,
}

/// The shortest item, with its tag.
const SHORTEST: usize = 2;

/// A row takes this many times the bytes of its item at most: a value is an element of it, and has as many bytes, or a place in a
/// dictionary whose entry has.
const WIDEST: usize = 4;

/// Bytes of a number of a row at most.
const LONGEST: usize = 9;

/// Appends a number of a row: as many bytes as a varint has, the first of which says in its lowest bits how many, or that byte
/// and eight. So it is written and read in one piece.
#[inline(always)]
fn put(rows: &mut Vec<u8>, value: u64) {
    let bytes = (value | 1).ilog2() / 7 + 1;
    if bytes > 8 {
        rows.push(u8::MAX);
        rows.extend_from_slice(&value.to_le_bytes());
        return;
    }
    let end = rows.len() + bytes as usize;
    let marked = value << bytes | ((1 << (bytes - 1)) - 1);
    rows.extend_from_slice(&marked.to_le_bytes());
    rows.truncate(end);
}

/// The number that [`put`] has written at `at`, which is moved behind it.
#[inline(always)]
fn take(rows: &[u8], at: &mut usize) -> Option<u64> {
    let word = |at: usize| Some(u64::from_le_bytes(*rows.get(at..)?.first_chunk()?));
    let marked = word(*at)?;
    // Most have one byte, and then where the next one begins is known before this one is.
    if marked & 1 == 0 {
        *at += 1;
        return Some((marked & 0xff) >> 1);
    }
    let bytes = marked.trailing_ones() + 1;
    if bytes > 8 {
        let value = word(*at + 1)?;
        *at += LONGEST;
        return Some(value);
    }
    *at += bytes as usize;
    let beyond = 64 - 8 * bytes;
    Some(marked << beyond >> beyond >> bytes)
}

impl Builder {
    /// Of items with at most `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        let limit = u32::try_from(limit).map_or(u32::MAX as usize / WIDEST, |n| n as usize);
        // Memory that is not written to costs nothing, and what grows is copied.
        Self { rows: Vec::with_capacity(limit / 2), count: 0, buckets: Vec::new(), runs: 0, limit }
    }

    /// What was built; `state` is how the last row left it. It comes out with at most `left` bytes.
    pub(super) fn finish(mut self, state: &State, left: u64) -> Built {
        let mut order: Vec<(Context, Vec<Items>)> =
            state.contexts.iter().copied().zip(self.buckets).filter(|(_, items)| !items.is_empty()).collect();
        order.sort_by_key(|(context, _)| *context);
        let logs = order.iter_mut().filter(|(context, _)| context.signal == Signal::Logs as u8);
        logs.for_each(|(_, items)| items.sort_by_key(|i| i.time));
        // A number is read as eight bytes.
        self.rows.extend_from_slice(&[0; 8]);
        self.rows.shrink_to_fit();
        Built { rows: self.rows, order, limit: self.limit.min(usize::try_from(left).unwrap_or(usize::MAX)) }
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
        let start = self.rows.len() as u32;
        self.rows.reserve((tape.len() + 2) * LONGEST);
        put(&mut self.rows, u64::from(kind));
        put(&mut self.rows, tape.len() as u64);
        tape.iter().for_each(|value| put(&mut self.rows, *value));
        self.count += 1;
        if self.count > self.limit / SHORTEST || self.rows.len() > self.limit * WIDEST {
            return Err(TOO_LARGE);
        }
        if self.buckets.len() <= number {
            self.buckets.resize_with(state.contexts.len(), Vec::new);
        }
        let is_log = shape.message == schema::Message::LogRecord;
        let places = [Role::Time, Role::Observed].iter().filter(|_| is_log);
        let time = places.flat_map(|r| shape.place(*r)).next().map_or(0, |p| tape[p]);
        let bucket = &mut self.buckets[number];
        let end = self.rows.len() as u32;
        match bucket.last_mut() {
            Some(last) if last.end == start && !is_log => last.end = end,
            _ => {
                bucket.push(Items { time, start, end });
                self.runs += 1;
            }
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.rows.len() + self.runs * size_of::<Items>() + self.buckets.len() * size_of::<Vec<Items>>()
    }
}

const TOO_LARGE: CodecError = CodecError::TooLarge("what a payload unpacks to");

/// Every row of a payload, in the order in which they leave it.
#[derive(Debug)]
pub(super) struct Built {
    rows: Vec<u8>,
    order: Vec<(Context, Vec<Items>)>,
    limit: usize,
}

/// Where the next request begins.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    context: usize,
    items: usize,
    /// Bytes of rows that are done among these items.
    done: usize,
    /// Bytes of requests that came out, without what later ones repeat.
    spent: usize,
    scratch: Scratch,
}

/// What is used for one item after the other.
#[derive(Debug, Default)]
struct Scratch {
    orders: Orders,
    tape: Vec<u64>,
    /// Bytes of the last item: the length of the next one most likely takes as many bytes as its.
    last: usize,
}

/// Items of a context, as they stand in a buffer.
type OfContext = (Context, Range<usize>);

impl Built {
    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        let items: usize = self.order.iter().map(|(_, items)| items.capacity()).sum();
        self.rows.capacity() + items * size_of::<Items>()
    }

    /// The next export request: of one signal, and with no further item once it has `piece` bytes.
    pub(super) fn next(
        &self,
        state: &State,
        at: &mut Cursor,
        piece: usize,
    ) -> Option<Result<(Signal, Vec<u8>), CodecError>> {
        let signal = Signal::from_number(self.order.get(at.context)?.0.signal)?;
        let before = self.before(at);
        let request = self.fill(state, at, piece, signal).and_then(|(parts, items)| {
            let assembly = Assembly { state, items: &items };
            let out = assembly.request(&parts);
            let repeated = parts.first().map_or(0, |(first, _)| assembly.shared(before, first, AROUND));
            at.spent += out.len().saturating_sub(repeated);
            if at.spent > self.limit {
                Err(CodecError::Damaged("longer than its header says"))
            } else {
                Ok(out)
            }
        });
        Some(request.map(|request| (signal, request)))
    }

    /// The context of the last item that came out.
    fn before(&self, at: &Cursor) -> Option<Context> {
        let last = at.context.checked_sub(usize::from(at.items == 0 && at.done == 0))?;
        self.order.get(last).map(|(context, _)| *context)
    }

    /// Renders items until there are enough of them, and moves behind them.
    fn fill(
        &self,
        state: &State,
        at: &mut Cursor,
        piece: usize,
        signal: Signal,
    ) -> Result<(Vec<OfContext>, Vec<u8>), CodecError> {
        let likely = self.limit.saturating_sub(at.spent).min(piece);
        let (mut parts, mut out): (Vec<OfContext>, _) = (Vec::new(), Vec::with_capacity(likely));
        let mut before = self.before(at);
        // What encloses the items, and how much of it no earlier request has.
        let (mut heads, mut fresh) = (0, 0);
        while let Some((context, all)) = self.order.get(at.context)
            && context.signal == signal as u8
        {
            let assembly = Assembly { state, items: &[] };
            let all_heads = assembly.enclosing(context, 0).iter().sum::<usize>();
            heads += all_heads - assembly.shared(parts.last().map(|p| p.0), context, 0);
            fresh += all_heads - assembly.shared(before, context, 0);
            before = Some(*context);
            let room = self.limit.saturating_sub(at.spent + fresh);
            let start = out.len();
            while let Some(items) = all.get(at.items) {
                let (first, length) = (items.start as usize, (items.end - items.start) as usize);
                while at.done < length && (out.is_empty() || heads + out.len() < piece) {
                    at.done += render(state, (&self.rows, first + at.done), &mut at.scratch, room, &mut out)?;
                }
                if at.done < length {
                    break;
                }
                (at.items, at.done) = (at.items + 1, 0);
            }
            if out.len() > start {
                parts.push((*context, start..out.len()));
            }
            if at.items < all.len() {
                break;
            }
            (at.context, at.items) = (at.context + 1, 0);
        }
        Ok((parts, out))
    }
}

/// Appends the item of the row at `at` as a field of what encloses it. Returns the bytes of the row.
fn render(
    state: &State,
    (rows, mut at): (&[u8], usize),
    Scratch { orders, tape, last }: &mut Scratch,
    most: usize,
    out: &mut Vec<u8>,
) -> Result<usize, CodecError> {
    let first = at;
    let mut number = || take(rows, &mut at).ok_or(CodecError::Damaged("a row"));
    let (kind, count) = (number()?, number()?);
    tape.resize(count as usize, 0);
    for value in &mut *tape {
        *value = number()?;
    }
    let of = &state.types[kind as usize];
    put_tag(out, if state.contexts[of.context as usize].signal == 2 { 1 } else { 2 }, 2);
    let (length, room) = (out.len(), varint_len(*last as u64));
    out.resize(length + room, 0);
    Message { state, tape, at: 0, orders, out }.put(of.shape, most)?;
    *last = out.len() - length - room;
    put_length(out, length, room);
    if out.len() > most {
        return Err(TOO_LARGE);
    }
    Ok(at - first)
}

/// Puts what encloses items around them, lengths first.
struct Assembly<'a> {
    state: &'a State,
    items: &'a [u8],
}

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

/// Bytes of the tag and the length of what encloses items, at most.
const AROUND: usize = 6;

impl<'a> Assembly<'a> {
    fn request(&self, parts: &[OfContext]) -> Vec<u8> {
        let resources = || parts.chunk_by(|a, b| a.0.resource == b.0.resource);
        let mut out = Vec::with_capacity(resources().map(|r| field_len(self.resource_len(r))).sum());
        for of_resource in resources() {
            begin(&mut out, 1, self.resource_len(of_resource));
            out.extend_from_slice(self.head(dictionary::RESOURCES, of_resource[0].0.resource));
            for of_scope in scopes(of_resource) {
                begin(&mut out, 2, self.scope_len(of_scope));
                out.extend_from_slice(self.head(dictionary::SCOPES, of_scope[0].0.scope));
                of_scope.iter().for_each(|of| self.enclosed(of, &mut out));
            }
        }
        out
    }

    fn head(&self, dictionary: usize, entry: u32) -> &'a [u8] {
        self.state.dictionaries[dictionary].rendered(entry as usize)
    }

    /// Bytes of each thing that encloses items of a context, with `around` for its tag and length.
    fn enclosing(&self, of: &Context, around: usize) -> [usize; 3] {
        let head = |dictionary, entry| self.head(dictionary, entry).len() + around;
        let metric = match of.signal == Signal::Metrics as u8 {
            true => head(dictionary::METRICS, of.metric) + head(dictionary::DATA, of.data),
            false => 0,
        };
        [head(dictionary::RESOURCES, of.resource), head(dictionary::SCOPES, of.scope), metric]
    }

    /// Those of them that enclose items of `before` as well.
    fn shared(&self, before: Option<Context>, of: &Context, around: usize) -> usize {
        let Some(before) = before.filter(|before| before.signal == of.signal) else { return 0 };
        let same = [before.resource == of.resource, before.scope == of.scope, before == *of];
        let shared = self.enclosing(of, around).into_iter().zip(same).take_while(|(_, same)| *same);
        shared.map(|(bytes, _)| bytes).sum()
    }

    fn resource_len(&self, of: &[OfContext]) -> usize {
        let scopes = scopes(of).map(|s| field_len(self.scope_len(s)));
        self.head(dictionary::RESOURCES, of[0].0.resource).len() + scopes.sum::<usize>()
    }

    fn scope_len(&self, of: &[OfContext]) -> usize {
        let enclosed = of.iter().map(|of| {
            let is_metric = of.0.signal == Signal::Metrics as u8;
            if is_metric { field_len(self.metric_len(of)) } else { of.1.len() }
        });
        self.head(dictionary::SCOPES, of[0].0.scope).len() + enclosed.sum::<usize>()
    }

    fn metric_len(&self, of: &OfContext) -> usize {
        self.head(dictionary::METRICS, of.0.metric).len() + field_len(self.data_len(of))
    }

    fn data_len(&self, (context, items): &OfContext) -> usize {
        self.head(dictionary::DATA, context.data).len() + items.len()
    }

    /// The items, with their metric around them if they are points.
    fn enclosed(&self, of: &OfContext, out: &mut Vec<u8>) {
        let (context, items) = of;
        if context.signal == Signal::Metrics as u8 {
            begin(out, 2, self.metric_len(of));
            out.extend_from_slice(self.head(dictionary::METRICS, context.metric));
            begin(out, context.field, self.data_len(of));
            out.extend_from_slice(self.head(dictionary::DATA, context.data));
        }
        out.extend_from_slice(&self.items[items.clone()]);
    }
}

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
    use super::super::Encoder;
    use super::super::unpack::Unpacked;
    use super::*;
    use crate::otlp::protobuf::put_bytes;

    #[test]
    fn numbers_of_rows_come_back_in_as_many_bytes_as_varints_have() {
        let edges = (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([u64::MAX]);
        let numbers: Vec<u64> = edges.collect();
        let mut rows = Vec::new();
        for number in &numbers {
            let before = rows.len();
            put(&mut rows, *number);
            assert_eq!(rows.len() - before, varint_len(*number).min(LONGEST), "{number}");
        }
        rows.extend_from_slice(&[0; 8]);
        let mut at = 0;
        for number in &numbers {
            assert_eq!(take(&rows, &mut at), Some(*number));
        }
        assert_eq!(at, rows.len() - 8);
        assert_eq!(take(&rows[..at + 7], &mut at), None, "nothing is read beyond the end");
    }

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

        let unpacked = Unpacked::new(super::super::LAYOUT, None, &payload[..], LIMIT, true, usize::MAX)
            .expect("a payload");
        let mut cursor = Default::default();
        let refused = unpacked.next(&mut cursor, usize::MAX);
        assert!(matches!(refused, Some(Err(CodecError::TooLarge(_)))), "{refused:?}");
        assert!(unpacked.next(&mut cursor, usize::MAX).is_none(), "nothing comes behind an error");
    }
}
