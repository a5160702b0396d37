//! Dictionaries: every string, attribute and opaque field is an entry of one, and is sent once.
//!
//! A dictionary holds one kind of field: a string field of a message, the attributes of one key and type, or fields that the
//! codec does not take apart. An entry is kept *rendered*, as the field's bytes in its message, so that a whole attribute is
//! found by one look and put back by one copy. What is sent of an entry is its *content*: the bytes behind what all entries
//! have in common, which is always the rendered field's end.

use std::hash::{Hash, Hasher};
use std::ops::Range;

use super::entropy::{Coder, NumberId, Numbers};
use super::order::LONGEST;
use super::pattern::{Patterns, Split};
use super::schema::Message;
use super::state::copy;
use crate::otlp::protobuf::{Field, Fields, Value, put_bytes, put_tag, put_varint, varint, varint_len};
use crate::segment::CodecError;

/// What the entries are. The numbers are persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Form {
    /// A length-delimited field; the content is what is in it.
    Field = 1,
    /// A `KeyValue` of one key; the content is its value.
    Attribute = 2,
    /// An `AnyValue`; the content is its value.
    Any = 3,
    /// A field of any kind; the content is all of it.
    Raw = 4,
    /// No field: the rank of the order of so many attributes as `field` says, a varint.
    Order = 5,
}

/// The type of a value in an `AnyValue`: its field number there. The numbers are persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Type {
    /// Not a single scalar: the `AnyValue` message as it is.
    Other = 0,
    String = 1,
    Bool = 2,
    Int = 3,
    Double = 4,
    Bytes = 7,
}

impl Type {
    const ALL: [Self; 6] = [Self::Other, Self::String, Self::Bool, Self::Int, Self::Double, Self::Bytes];

    /// Whether entries differ by a number and not by text.
    pub(super) const fn is_number(self) -> bool {
        matches!(self, Self::Bool | Self::Int | Self::Double)
    }
}

/// What entries are for, beside being fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Name,
    Attribute,
    Other,
}

/// What all entries of a dictionary have in common.
#[derive(Debug, Clone, Eq)]
pub(super) struct Kind {
    /// The message that the field is in, [`Message`]'s number; 0 for what encloses items.
    pub(super) message: u8,
    pub(super) form: Form,
    pub(super) field: u32,
    pub(super) value: Type,
    /// The attribute's key.
    pub(super) key: Vec<u8>,
}

impl Kind {
    const fn fixed(&self) -> (u8, Form, u32, Type, usize) {
        (self.message, self.form, self.field, self.value, self.key.len())
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        // An empty vector points to no memory. Where vectors of 32 bytes are compared under a mask, looking there takes a hundred
        // nanoseconds, though nothing is read.
        self.fixed() == other.fixed() && (self.key.is_empty() || self.key == other.key)
    }
}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.fixed().hash(hasher);
        hasher.write(&self.key);
    }
}

/// Dictionaries that are always there: the fields of a resource's, a scope's, a metric's and a metric's data's message other
/// than what they enclose.
pub(super) const RESOURCES: usize = 0;
pub(super) const SCOPES: usize = 1;
pub(super) const METRICS: usize = 2;
pub(super) const DATA: usize = 3;
pub(super) const FIXED: usize = 4;

impl Kind {
    /// The kind of the fixed dictionary `number`.
    pub(super) const fn enclosing(number: usize) -> Self {
        Self { message: 0, form: Form::Raw, field: number as u32, value: Type::Other, key: Vec::new() }
    }

    /// The kind of fields of `message` that are not taken apart.
    pub(super) const fn raw(message: u8) -> Self {
        Self { message, form: Form::Raw, field: 0, value: Type::Other, key: Vec::new() }
    }

    /// The kind of the orders of `length` attributes.
    pub(super) const fn order(length: usize) -> Self {
        Self { message: 0, form: Form::Order, field: length as u32, value: Type::Int, key: Vec::new() }
    }

    /// What entries of this kind are for, beside being fields.
    pub(super) const fn purpose(&self) -> Purpose {
        match self.form {
            Form::Attribute => Purpose::Attribute,
            // A span's name.
            Form::Field if self.message == Message::Span as u8 && self.field == 5 => Purpose::Name,
            _ => Purpose::Other,
        }
    }

    /// From persisted numbers.
    pub(super) fn from_numbers(
        message: u64,
        form: u64,
        field: u64,
        value: u64,
        key: Vec<u8>,
    ) -> Option<Self> {
        let form = [Form::Field, Form::Attribute, Form::Any, Form::Raw, Form::Order]
            .into_iter()
            .find(|f| *f as u64 == form)?;
        if form == Form::Order {
            return Some(Self::order(usize::try_from(field).ok().filter(|n| *n <= LONGEST)?));
        }
        let value = Type::ALL.into_iter().find(|v| *v as u64 == value)?;
        let field = u32::try_from(field).ok().filter(|f| *f < 1 << 29 && (*f > 0 || form == Form::Raw))?;
        let message = Message::from_number(message)? as u8;
        Some(Self { message, form, field, value, key })
    }

    /// Whether entries differ by a number and not by text.
    pub(super) const fn is_number(&self) -> bool {
        !matches!(self.form, Form::Field | Form::Raw) && self.value.is_number()
    }

    /// Whether entries are text that may be taken apart: that of logs. The texts of spans are few, and what is new in them zstd
    /// does as well.
    pub(super) fn is_taken_apart(&self) -> bool {
        self.message == Message::LogRecord as u8
            && (self.form == Form::Field || (self.value == Type::String && self.form != Form::Raw))
    }

    /// Whether entries are bodies of logs.
    pub(super) fn is_body(&self) -> bool {
        self.message == Message::LogRecord as u8 && self.form == Form::Any
    }

    /// Whether entries are text.
    fn is_text(&self) -> bool {
        self.form == Form::Field || self.value == Type::String
    }

    /// The field with this content.
    pub(super) fn render(&self, content: &[u8], out: &mut Vec<u8>) {
        let inner = match self.value {
            Type::Other => content.len(),
            Type::String | Type::Bytes => 1 + varint_len(content.len() as u64) + content.len(),
            Type::Bool | Type::Int | Type::Double => 1 + content.len(),
        };
        let any = |out: &mut Vec<u8>| {
            match self.value {
                Type::Other => {}
                Type::String | Type::Bytes => {
                    put_tag(out, self.value as u32, 2);
                    put_varint(out, content.len() as u64);
                }
                Type::Bool | Type::Int => put_tag(out, self.value as u32, 0),
                Type::Double => put_tag(out, self.value as u32, 1),
            }
            out.extend_from_slice(content);
        };
        match self.form {
            Form::Raw | Form::Order => out.extend_from_slice(content),
            Form::Field => put_bytes(out, self.field, content),
            Form::Any => {
                put_tag(out, self.field, 2);
                put_varint(out, inner as u64);
                any(out);
            }
            Form::Attribute => {
                let key = 1 + varint_len(self.key.len() as u64) + self.key.len();
                put_tag(out, self.field, 2);
                put_varint(out, (key + 1 + varint_len(inner as u64) + inner) as u64);
                put_bytes(out, 1, &self.key);
                put_tag(out, 2, 2);
                put_varint(out, inner as u64);
                any(out);
            }
        }
    }
}

/// The type of the value in the `AnyValue` message `any`, and its content.
fn scalar(any: &[u8]) -> (Type, &[u8]) {
    let other = (Type::Other, any);
    let mut fields = Fields::new(any);
    let (Some(Ok(Field { number, value, raw })), None) = (fields.next(), fields.next()) else { return other };
    match (number, value) {
        (1, Value::Bytes(text)) => (Type::String, text),
        (7, Value::Bytes(bytes)) => (Type::Bytes, bytes),
        (2, Value::Varint(_)) => (Type::Bool, &raw[1..]),
        (3, Value::Varint(_)) => (Type::Int, &raw[1..]),
        (4, Value::Fixed64(_)) => (Type::Double, &raw[1..]),
        _ => other,
    }
}

/// The kind of dictionary that `field` of `message` belongs to, and its content there. Falls back to the raw field when
/// rendering would not give the same bytes again. `rendered` is a buffer.
pub(super) fn kind_of<'a>(
    message: Message,
    form: Form,
    field: &Field<'a>,
    rendered: &mut Vec<u8>,
) -> (Kind, &'a [u8]) {
    let of = |form, value, key: &[u8]| Kind {
        message: message as u8,
        form,
        field: if form == Form::Raw { 0 } else { field.number },
        value,
        key: key.to_vec(),
    };
    let raw = (of(Form::Raw, Type::Other, b""), field.raw);
    let Value::Bytes(bytes) = field.value else { return raw };
    let (kind, content) = match form {
        Form::Raw | Form::Order => return raw,
        Form::Field => (of(form, Type::Other, b""), bytes),
        Form::Any => {
            let (value, content) = scalar(bytes);
            (of(form, value, b""), content)
        }
        Form::Attribute => {
            let mut fields = Fields::new(bytes);
            let (Some(Ok(key)), Some(Ok(any)), None) = (fields.next(), fields.next(), fields.next()) else {
                return raw;
            };
            let (1, Value::Bytes(key), 2, Value::Bytes(any)) = (key.number, key.value, any.number, any.value)
            else {
                return raw;
            };
            let (value, content) = scalar(any);
            (of(form, value, key), content)
        }
    };
    rendered.clear();
    kind.render(content, rendered);
    if rendered == field.raw { (kind, content) } else { raw }
}

/// Bytes of a short entry.
const SHORT: usize = 48;

/// Appends a part of `bytes`, behind which are `N` more. Most parts are short, and a copy whose length is fixed needs no call.
#[inline(always)]
pub(super) fn append<const N: usize>(bytes: &[u8], part: Range<usize>, out: &mut Vec<u8>) {
    match bytes[part.start..].first_chunk::<N>() {
        Some(more) if part.len() <= N => {
            let end = out.len() + part.len();
            out.extend_from_slice(more);
            out.truncate(end);
        }
        _ => out.extend_from_slice(&bytes[part]),
    }
}

/// Buffers for one entry after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Scratch {
    given: Vec<u8>,
    content: Vec<u8>,
    split: Split,
}

impl Scratch {
    fn clear(&mut self) {
        self.given.clear();
        self.content.clear();
        self.split.clear();
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Dictionary {
    pub(super) kind: Kind,
    /// The rendered entries, one behind the other, and behind them [`SHORT`] zeros.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Which entry, or that it is a new one.
    index: NumberId,
    /// How long a new entry's content is, or how far its number is from the last new one's.
    content: NumberId,
    last: u64,
    patterns: Patterns,
}

impl Clone for Dictionary {
    fn clone(&self) -> Self {
        let Self { kind, bytes, ends, index, content, last, patterns } = self;
        Self {
            kind: kind.clone(),
            bytes: copy(bytes),
            ends: copy(ends),
            index: *index,
            content: *content,
            last: *last,
            patterns: patterns.clone(),
        }
    }
}

impl Dictionary {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            bytes: vec![0; SHORT],
            ends: Vec::new(),
            index: NumberId::NEW,
            content: NumberId::NEW,
            last: 0,
            patterns: Patterns::new(),
        }
    }

    /// How many entries it has.
    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of its entries.
    pub(super) const fn size(&self) -> usize {
        self.bytes.len() - SHORT
    }

    /// Bytes that it takes, what the encoder keeps to find its entries included.
    pub(super) const fn memory(&self) -> usize {
        self.bytes.len() * 2 + self.ends.len() * 40 + self.patterns.size()
    }

    /// An entry as a field.
    #[inline]
    pub(super) fn rendered(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.bytes[start..self.ends[index] as usize]
    }

    /// Appends an entry as a field.
    #[inline]
    pub(super) fn append(&self, index: usize, out: &mut Vec<u8>) {
        let field = self.rendered(index);
        let end = self.ends[index] as usize;
        append::<SHORT>(&self.bytes, end - field.len()..end, out);
    }

    /// The rank that entry `index` of a dictionary of orders is.
    pub(super) fn rank(&self, index: usize) -> u64 {
        varint(self.rendered(index)).map_or(0, |v| v.0)
    }

    /// The entries as fields.
    pub(super) fn entries(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|n| self.rendered(n))
    }

    /// Codes which entry; one that is new is sent. `number` is this dictionary's. What is known of which entries are likely
    /// stands in `likely`, else with the dictionary.
    pub(super) fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        numbers: &mut Numbers,
        number: usize,
        index: u64,
        likely: Option<&mut NumberId>,
    ) -> Result<u64, CodecError> {
        let known = self.len() as u64;
        let likely = likely.unwrap_or(&mut self.index);
        let given = if index >= known { 0 } else { index + 1 };
        let expected = if self.kind.is_body() { numbers.text.entry(coder, number, given) } else { Err(None) };
        let index = expected.unwrap_or_else(|pair| {
            let n = numbers.code(likely, coder, given);
            numbers.text.learn_entry(pair, n);
            n
        });
        let index = index.checked_sub(1).unwrap_or(known);
        if index > known {
            return Err(CodecError::Damaged("an entry that no dictionary has"));
        }
        if index == known {
            self.define(coder, numbers, number)?;
        }
        Ok(index)
    }

    fn define<C: Coder>(
        &mut self,
        coder: &mut C,
        numbers: &mut Numbers,
        number: usize,
    ) -> Result<(), CodecError> {
        let mut scratch = std::mem::take(&mut numbers.scratch);
        scratch.clear();
        coder.content(number, &mut scratch.given);
        self.content(coder, numbers, number, &mut scratch)?;
        self.bytes.truncate(self.size());
        let needed = scratch.content.len() + self.kind.key.len() + 2 * SHORT;
        if self.bytes.capacity() - self.bytes.len() < needed {
            // Room for all that comes at once: a copy while it grows would take as much again.
            let left = coder.text_left(number);
            self.bytes.reserve(needed + left + left / 8);
        }
        self.kind.render(&scratch.content, &mut self.bytes);
        numbers.scratch = scratch;
        let end = self.bytes.len();
        self.bytes.resize(end + SHORT, 0);
        self.ends.push(u32::try_from(end).map_err(|_| CodecError::TooLarge("a dictionary"))?);
        Ok(())
    }

    /// The content of a new entry.
    fn content<C: Coder>(
        &mut self,
        coder: &mut C,
        numbers: &mut Numbers,
        number: usize,
        scratch: &mut Scratch,
    ) -> Result<(), CodecError> {
        let Scratch { given, content, split } = scratch;
        match self.kind.value {
            Type::Bool | Type::Int if self.kind.is_number() => {
                let value = varint(given).map_or(0, |v| v.0);
                let delta = value.wrapping_sub(self.last);
                let delta = numbers.code_signed(&mut self.content, coder, delta);
                self.last = self.last.wrapping_add(delta);
                put_varint(content, self.last);
            }
            Type::Double if self.kind.is_number() => {
                let value = given[..].try_into().map_or(0, u64::from_le_bytes);
                content.extend_from_slice(&coder.raw(value, 64).to_le_bytes());
            }
            _ if self.kind.is_text() => {
                if !self.kind.is_taken_apart() || !numbers.text.code(coder, number, given, content)? {
                    self.patterns.code(coder, numbers, number, given, split, content)?;
                }
            }
            _ => {
                let length = numbers.code(&mut self.content, coder, given.len() as u64);
                coder.text(number, given, length, content)?;
            }
        }
        Ok(())
    }
}
