//! Shredding: export requests become rows, each a shape and a tape of values.
//!
//! What encloses items (resource, scope, metric) becomes a context; the items are rows of a context, in the order of arrival. A
//! resource's part of a request that is not as OTLP libraries write it is left whole: it is a request of its own.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::dictionary::{self, Form, Kind, Purpose, kind_of};
use super::order::{LONGEST, Orders};
use super::schema::{Message, Rule, rule};
use super::shape::{Element, Shapes};
use super::state::{Context, MOST_SHAPES, State};
use super::vocabulary::{Known, Vocabulary};
use crate::otlp::protobuf::{Field, Fields, Value, put_varint, varint, varint_len};
use crate::signal::Signal;

/// An item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) context: u32,
    pub(super) shape: u32,
    /// Where its values begin on the tape.
    pub(super) at: u32,
}

/// Within an item it is looked at its size after so many fields.
const LOOK_AGAIN: usize = 256;

/// A part of a request is not what this codec takes apart.
struct Irregular;

/// Rows of the segment that is being made.
#[derive(Debug)]
pub(super) struct Shredder {
    pub(super) vocabulary: Vocabulary,
    pub(super) shapes: Shapes,
    pub(super) contexts: Vec<Context>,
    /// The numbers of those that were known, and of the new ones.
    known_contexts: Arc<FxHashMap<Context, u32>>,
    contexts_by: FxHashMap<Context, u32>,
    pub(super) rows: [Vec<Row>; 3],
    pub(super) tape: Vec<u64>,
    /// Requests that are left whole.
    pub(super) whole: Vec<(Signal, Vec<u8>)>,
    /// Elements of the messages that are being taken apart, the outermost first.
    elements: Vec<Element>,
    scratch: Vec<u8>,
    orders: Orders,
    /// The dictionary of the orders of so many attributes.
    order_dictionaries: [Option<u32>; LONGEST + 1],
    /// Bytes of `whole`.
    whole_bytes: usize,
    /// Bytes that all this may take.
    bound: usize,
    /// It takes more: what was handed in last is not complete.
    pub(super) is_full: bool,
}

/// Attributes one behind the other.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// The first's element, and where its value stands on the tape.
    element: usize,
    at: usize,
    length: usize,
}

/// Tags and lengths take this many bytes when nothing is longer than it must be.
fn canonical(field: &Field<'_>) -> bool {
    let tag = varint_len(u64::from(field.number) << 3);
    let value = match field.value {
        Value::Varint(v) => varint_len(v),
        Value::Fixed64(_) => 8,
        Value::Fixed32(_) => 4,
        Value::Bytes(b) => varint_len(b.len() as u64) + b.len(),
    };
    field.raw.len() == tag + value
}

impl Shredder {
    /// Continues with what `state` knows, which is found by `entries` and `known_contexts`.
    pub(super) fn new(
        state: &State,
        entries: Arc<Known>,
        known_contexts: Arc<FxHashMap<Context, u32>>,
    ) -> Self {
        Self {
            vocabulary: Vocabulary::new(&state.dictionaries, entries),
            shapes: state.shapes.clone(),
            contexts: state.contexts.clone(),
            known_contexts,
            contexts_by: FxHashMap::default(),
            rows: Default::default(),
            tape: Vec::new(),
            whole: Vec::new(),
            elements: Vec::new(),
            scratch: Vec::new(),
            orders: Orders::default(),
            order_dictionaries: [None; LONGEST + 1],
            whole_bytes: 0,
            bound: usize::MAX,
            is_full: false,
        }
    }

    /// Takes about so many bytes at most.
    pub(super) const fn bound(&mut self, bytes: usize) {
        self.bound = bytes;
    }

    /// Whether it takes more than it may: what is kept here, and what is made of it in the end. The weights were measured on
    /// requests of one kind each: empty spans, metrics with names of their own, long attributes, short lines.
    #[inline]
    fn is_over(&mut self) -> bool {
        let rows: usize = self.rows.iter().map(Vec::len).sum();
        let contexts = self.contexts_by.len();
        let size =
            self.vocabulary.size() + rows * 24 + self.tape.len() * 8 + contexts * 300 + self.whole_bytes * 3;
        self.is_full |= size > self.bound;
        self.is_full
    }

    fn leave_whole(&mut self, signal: Signal, body: &[u8]) {
        self.whole_bytes += body.len();
        self.whole.push((signal, body.to_vec()));
    }

    /// Takes a request apart.
    pub(super) fn push(&mut self, signal: Signal, body: &[u8]) {
        // The walk lets nothing pass that has no fields to its end; whatever it is, it is kept as it is, and all of it.
        if body.is_empty() || Fields::new(body).any(|field| field.is_err()) {
            self.leave_whole(signal, body);
            self.is_over();
            return;
        }
        for field in Fields::new(body).flatten() {
            let slot = signal as usize - 1;
            let (rows, tape) = (self.rows[slot].len(), self.tape.len());
            let taken = match field {
                Field { number: 1, value: Value::Bytes(resource), .. } => self.resource(signal, resource),
                _ => Err(Irregular),
            };
            if taken.is_err() {
                self.rows[slot].truncate(rows);
                self.tape.truncate(tape);
                self.elements.clear();
                if self.is_full {
                    return;
                }
                self.leave_whole(signal, field.raw);
            }
        }
        self.is_over();
    }

    /// `ResourceSpans`, `ResourceMetrics` or `ResourceLogs`.
    fn resource(&mut self, signal: Signal, message: &[u8]) -> Result<(), Irregular> {
        let resource = self.head(dictionary::RESOURCES, message, 2)?;
        let mut scopes = 0;
        for field in Fields::new(message).flatten() {
            if let Field { number: 2, value: Value::Bytes(scope), .. } = field {
                self.scope(signal, resource, scope)?;
                scopes += 1;
            }
        }
        if scopes == 0 { Err(Irregular) } else { Ok(()) }
    }

    fn scope(&mut self, signal: Signal, resource: u32, message: &[u8]) -> Result<(), Irregular> {
        let scope = self.head(dictionary::SCOPES, message, 2)?;
        let of = Context { signal: signal as u8, resource, scope, metric: 0, data: 0, field: 2 };
        let number = if signal == Signal::Metrics { 0 } else { self.context(of) };
        let mut items = 0;
        for field in Fields::new(message).flatten() {
            let Field { number: 2, value: Value::Bytes(item), .. } = field else { continue };
            match signal {
                Signal::Traces => self.item(signal, number, Message::Span, item)?,
                Signal::Logs => self.item(signal, number, Message::LogRecord, item)?,
                Signal::Metrics => self.metric(of, item)?,
            }
            items += 1;
        }
        if items == 0 { Err(Irregular) } else { Ok(()) }
    }

    fn metric(&mut self, of: Context, message: &[u8]) -> Result<(), Irregular> {
        let data = Fields::new(message).flatten().find_map(|f| match f.value {
            Value::Bytes(data) if Message::of_data(f.number).is_some() => Some((f.number, data)),
            _ => None,
        });
        let (field, data) = data.ok_or(Irregular)?;
        let point = Message::of_data(field).ok_or(Irregular)?;
        let metric = self.head(dictionary::METRICS, message, field)?;
        let kind = self.head(dictionary::DATA, data, 1)?;
        let number = self.context(Context { metric, data: kind, field, ..of });
        let mut items = 0;
        for f in Fields::new(message).flatten() {
            // The oneof may stand there twice, with different contents.
            items += usize::from(Message::of_data(f.number).is_some());
        }
        if items != 1 {
            return Err(Irregular);
        }
        items = 0;
        for f in Fields::new(data).flatten() {
            if let Field { number: 1, value: Value::Bytes(item), .. } = f {
                self.item(Signal::Metrics, number, point, item)?;
                items += 1;
            }
        }
        if items == 0 { Err(Irregular) } else { Ok(()) }
    }

    /// The entry for all fields of `message` but number `enclosed`.
    fn head(&mut self, number: usize, message: &[u8], enclosed: u32) -> Result<u32, Irregular> {
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        for field in Fields::new(message) {
            let field = field.map_err(|_| Irregular)?;
            match field.value {
                Value::Bytes(_) if field.number == enclosed => {}
                _ if field.number == enclosed => return Err(Irregular),
                _ => head.extend_from_slice(field.raw),
            }
        }
        let (_, entry) =
            self.vocabulary.entry(0, number as u32, &head, || (Kind::enclosing(number), head.len()));
        self.scratch = head;
        Ok(entry)
    }

    fn context(&mut self, of: Context) -> u32 {
        if let Some(number) = self.known_contexts.get(&of) {
            return *number;
        }
        let next = self.contexts.len() as u32;
        let number = *self.contexts_by.entry(of).or_insert(next);
        if number == next {
            self.contexts.push(of);
        }
        number
    }

    fn item(&mut self, signal: Signal, context: u32, message: Message, body: &[u8]) -> Result<(), Irregular> {
        if self.is_over() {
            return Err(Irregular);
        }
        let at = u32::try_from(self.tape.len()).map_err(|_| Irregular)?;
        let shape = if self.shapes.all.len() < MOST_SHAPES - 4096 {
            self.message(message, body)?
        } else {
            self.left_whole(message, body)
        };
        self.rows[signal as usize - 1].push(Row { context, shape, at });
        Ok(())
    }

    /// An item that is not taken apart, since too many shapes are known.
    fn left_whole(&mut self, message: Message, body: &[u8]) -> u32 {
        let kind = || (Kind::raw(message as u8), body.len());
        let (dictionary, entry) = self.vocabulary.entry(message as u8, u32::MAX, body, kind);
        self.tape.push(u64::from(entry));
        let vocabulary = &self.vocabulary;
        self.shapes.number(message, &[Element::Dictionary(dictionary)], |d| vocabulary.purpose(d))
    }

    /// Puts the values of a message on the tape; returns its shape.
    fn message(&mut self, message: Message, body: &[u8]) -> Result<u32, Irregular> {
        if self.shapes.all.len() >= MOST_SHAPES - 64 {
            return Err(Irregular);
        }
        let first = self.elements.len();
        // Where the count of the run stands that the last element is.
        let mut run = 0;
        let mut attributes = Run::default();
        for field in Fields::new(body) {
            let field = field.map_err(|_| Irregular)?;
            let rule = rule(message, field.number).filter(|_| canonical(&field));
            let number = field.number as u8;
            let element = match (rule, field.value) {
                (Some(Rule::Attribute), Value::Bytes(_)) => self.dictionary(message, Form::Attribute, &field),
                (Some(Rule::Text), Value::Bytes(_)) => self.dictionary(message, Form::Field, &field),
                (Some(Rule::Any), Value::Bytes(_)) => self.dictionary(message, Form::Any, &field),
                (Some(Rule::Varint), Value::Varint(v)) => self.number(Element::Varint(number), v),
                (Some(Rule::Fixed64), Value::Fixed64(v)) => self.number(Element::Fixed64(number), v),
                (Some(Rule::Fixed32), Value::Fixed32(v)) => {
                    self.number(Element::Fixed32(number), u64::from(v))
                }
                (Some(Rule::Id8), Value::Bytes(id)) if id.len() == 8 => {
                    self.number(Element::Id8(number), little_endian(id))
                }
                (Some(Rule::Id16), Value::Bytes(id)) if id.len() == 16 => {
                    self.tape.push(little_endian(&id[..8]));
                    self.number(Element::Id16(number), little_endian(&id[8..]))
                }
                (Some(Rule::One(inner)), Value::Bytes(bytes)) => {
                    Element::One(number, self.message(inner, bytes)?)
                }
                (Some(Rule::Many(inner)), Value::Bytes(bytes)) => {
                    let at = self.tape.len();
                    self.tape.push(1);
                    let element = Element::Many(number, self.message(inner, bytes)?);
                    if self.elements.len() > first && self.elements.last() == Some(&element) {
                        self.tape.remove(at);
                        self.tape[run] += 1;
                        continue;
                    }
                    run = at;
                    element
                }
                (Some(Rule::Fixed64List), Value::Bytes(bytes)) if bytes.len().is_multiple_of(8) => {
                    self.tape.push(bytes.len() as u64 / 8);
                    self.tape.extend(bytes.chunks_exact(8).map(little_endian));
                    Element::Fixed64List(number)
                }
                (Some(Rule::VarintList), Value::Bytes(bytes)) => match varints(bytes) {
                    Some(values) => {
                        self.tape.push(values.len() as u64);
                        self.tape.extend(values);
                        Element::VarintList(number)
                    }
                    None => self.dictionary(message, Form::Raw, &field),
                },
                _ => self.dictionary(message, Form::Raw, &field),
            };
            if let Element::Dictionary(d) = element
                && self.vocabulary.purpose(d) == Purpose::Attribute
            {
                let (element, at) = (self.elements.len(), self.tape.len() - 1);
                if attributes.length == 0 {
                    attributes = Run { element, at, length: 0 };
                }
                // Only those that stand together are put in order.
                attributes.length += usize::from(attributes.element + attributes.length == element);
            }
            self.elements.push(element);
            if self.elements.len().is_multiple_of(LOOK_AGAIN) && self.is_over() {
                return Err(Irregular);
            }
        }
        if (2..=LONGEST).contains(&attributes.length) {
            self.put_in_order(attributes);
        }
        let elements = &self.elements[first..];
        let vocabulary = &self.vocabulary;
        let shape = self.shapes.number(message, elements, |d| vocabulary.purpose(d));
        self.elements.truncate(first);
        Ok(shape)
    }

    /// Puts attributes in the order of their dictionaries, behind an element that says how they stood.
    fn put_in_order(&mut self, run: Run) {
        let mut dictionaries = [0; LONGEST];
        let mut entries = [0; LONGEST];
        for n in 0..run.length {
            if let Element::Dictionary(d) = self.elements[run.element + n] {
                dictionaries[n] = d;
            }
            entries[n] = self.tape[run.at + n];
        }
        let (order, rank) = self.orders.of(&dictionaries[..run.length]);
        for n in 0..run.length {
            let place = usize::from(order[n]);
            self.elements[run.element + place] = Element::Dictionary(dictionaries[n]);
            self.tape[run.at + place] = entries[n];
        }
        let vocabulary = &mut self.vocabulary;
        let dictionary = *self.order_dictionaries[run.length]
            .get_or_insert_with(|| vocabulary.dictionary(&Kind::order(run.length)));
        self.scratch.clear();
        put_varint(&mut self.scratch, rank);
        let length = self.scratch.len();
        let of = || (Kind::order(run.length), length);
        let (_, entry) = self.vocabulary.entry(0, dictionary, &self.scratch, of);
        self.elements.insert(run.element, Element::Order(dictionary));
        self.tape.insert(run.at, u64::from(entry));
    }

    fn number(&mut self, element: Element, value: u64) -> Element {
        self.tape.push(value);
        element
    }

    fn dictionary(&mut self, message: Message, form: Form, field: &Field<'_>) -> Element {
        let scratch = &mut self.scratch;
        let (dictionary, entry) = self.vocabulary.entry(message as u8, u32::MAX, field.raw, || {
            let (kind, content) = kind_of(message, form, field, scratch);
            (kind, content.len())
        });
        self.tape.push(u64::from(entry));
        Element::Dictionary(dictionary)
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// The varints that `bytes` are, if each is as short as can be.
fn varints(mut bytes: &[u8]) -> Option<Vec<u64>> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let (value, length) = varint(bytes).ok()?;
        if length != varint_len(value) {
            return None;
        }
        values.push(value);
        bytes = &bytes[length..];
    }
    Some(values)
}
