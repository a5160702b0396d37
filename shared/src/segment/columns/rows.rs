//! Rows: the values of one item, each expected by the place in its shape.

use super::entropy::Coder;
use super::schema::{Message, Role, is_double, is_time};
use super::shape::{Element, Part};
use super::state::{About, Known, N, State, VALUE};
use crate::segment::CodecError;

/// A tape that is read while values go in, and written either way.
#[derive(Debug, Default)]
pub(super) struct Tape<'a> {
    /// What the encoder is given; empty for the decoder.
    given: &'a [u64],
    at: usize,
    /// What the decoder will have: dictionary entries by its numbers.
    pub(super) out: Vec<u64>,
}

impl<'a> Tape<'a> {
    /// Begins with other values.
    pub(super) fn restart(&mut self, given: &'a [u64]) {
        self.given = given;
        self.at = 0;
        self.out.clear();
    }

    #[inline]
    fn next(&mut self) -> u64 {
        let value = self.given.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        value
    }

    /// A value further on.
    #[inline]
    pub(super) fn peek(&self, place: usize) -> u64 {
        self.given.get(self.at + place).copied().unwrap_or(0)
    }
}

/// The points of a series before this one, of the same shape.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Before<'a> {
    last: Option<&'a [u64]>,
    at: usize,
    before: Option<&'a [u64]>,
    before_at: usize,
}

impl<'a> Before<'a> {
    pub(super) const fn new(last: Option<&'a [u64]>, before: Option<&'a [u64]>) -> Self {
        Self { last, at: 0, before, before_at: 0 }
    }

    #[inline]
    fn next(&mut self) -> (Option<u64>, Option<u64>) {
        if self.last.is_none() {
            return (None, None);
        }
        let value = (
            self.last.and_then(|t| t.get(self.at)).copied(),
            self.before.and_then(|t| t.get(self.before_at)).copied(),
        );
        self.at += 1;
        self.before_at += 1;
        value
    }

    fn skip_list(&mut self) {
        let skip = |tape: Option<&[u64]>, at: usize| {
            at + 1 + tape.and_then(|t| t.get(at)).map_or(0, |n| *n as usize)
        };
        (self.at, self.before_at) = (skip(self.last, self.at), skip(self.before, self.before_at));
    }
}

/// What surrounds a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    /// What is known of the message.
    pub(super) known: &'a Known,
    /// A time that times are near.
    pub(super) time: u64,
    /// The attributes of the series that it is of.
    pub(super) series: Option<&'a [(u32, u32)]>,
}

impl State {
    /// The values of a message of `shape` whose first slot is `slots`.
    pub(super) fn elements<C: Coder>(
        &mut self,
        coder: &mut C,
        shape: u32,
        slots: u32,
        tape: &mut Tape<'_>,
        around: Around<'_>,
        before: &mut Before<'_>,
    ) -> Result<(), CodecError> {
        let message = self.shapes.all[shape as usize].message;
        let parts = self.shapes.range(shape);
        self.spend(VALUE * parts.len() as u64 + 1)?;
        let mut attributes = around.series.unwrap_or_default().iter();
        for (part, slot) in parts.zip(slots as usize..) {
            let Part { element, role } = self.shapes.part(part);
            if let Some(role) = role
                && let Some(value) = around.known[role as usize]
            {
                // An id of 16 bytes takes two places.
                let wide = usize::from(matches!(element, Element::Id16(_)));
                for half in &value[..=wide] {
                    tape.next();
                    before.next();
                    tape.out.push(*half);
                }
                continue;
            }
            match element {
                Element::Dictionary(d) => {
                    before.next();
                    if around.series.is_some()
                        && self.is_attribute(d)
                        && let Some((_, entry)) = attributes.next()
                    {
                        tape.next();
                        tape.out.push(u64::from(*entry));
                        continue;
                    }
                    let index = self.entry_at(coder, d as usize, slot, tape.next())?;
                    tape.out.push(index);
                }
                Element::Order(d) => {
                    before.next();
                    let index = self.entry_at(coder, d as usize, slot, tape.next())?;
                    tape.out.push(index);
                }
                Element::Id8(_) => {
                    before.next();
                    let id = coder.raw(tape.next(), 64);
                    tape.out.push(id);
                }
                Element::Id16(_) => {
                    for _ in 0..2 {
                        before.next();
                        let half = tape.next();
                        let half = match self.slots[slot].recent.code(coder, half) {
                            Some(half) => half,
                            None => {
                                let half = coder.raw(half, 64);
                                self.slots[slot].recent.push(half);
                                half
                            }
                        };
                        tape.out.push(half);
                    }
                }
                Element::Varint(field) | Element::Fixed32(field) | Element::Fixed64(field) => {
                    let of = Place { message, field: u32::from(field), slot };
                    let value = self.scalar(coder, of, tape.next(), around.time, before.next());
                    let narrow = matches!(element, Element::Fixed32(_));
                    tape.out.push(if narrow { value & u64::from(u32::MAX) } else { value });
                }
                Element::One(_, inner) => self.inside(coder, inner, tape, around, before)?,
                Element::Many(_, inner) => {
                    let count = self.slots[slot].code(coder, &mut self.numbers, tape.next());
                    self.spend(count)?;
                    tape.out.push(count);
                    // What was there before does not stand beside these.
                    let mut none = Before::default();
                    for _ in 0..count {
                        self.inside(coder, inner, tape, around, &mut none)?;
                    }
                    *before = none;
                }
                Element::Fixed64List(_) | Element::VarintList(_) => {
                    self.list(coder, slot, tape, before)?;
                }
            }
            if coder.accounts() {
                coder.account(message, self.column(element));
            }
        }
        Ok(())
    }

    /// What an element's bytes are accounted under: its field, or the field of its dictionary.
    fn column(&self, element: Element) -> u8 {
        match element {
            Element::Order(_) => 0,
            Element::Dictionary(d) => (self.dictionaries[d as usize].kind.field & 31) as u8,
            other => other.field() & 31,
        }
    }

    fn inside<C: Coder>(
        &mut self,
        coder: &mut C,
        shape: u32,
        tape: &mut Tape<'_>,
        around: Around<'_>,
        before: &mut Before<'_>,
    ) -> Result<(), CodecError> {
        let mut known = Known::default();
        let of = &self.shapes.all[shape as usize];
        if let (Some(trace), Some(span)) = (of.place(Role::Trace), of.place(Role::Span)) {
            let id = [tape.peek(trace), tape.peek(trace + 1), tape.peek(span)];
            if let Some(id) = self.reference(coder, id)? {
                known[Role::Trace as usize] = Some([id[0], id[1]]);
                known[Role::Span as usize] = Some([id[2], 0]);
            }
        }
        let slots = self.slots_inside(shape);
        let around = Around { known: &known, series: None, ..around };
        self.elements(coder, shape, slots, tape, around, before)
    }

    /// A span of this segment, if it is one.
    fn reference<C: Coder>(&mut self, coder: &mut C, span: [u64; 3]) -> Result<Option<[u64; 3]>, CodecError> {
        let found = if C::ENCODES { coder.find_span(&self.spans, span) } else { None };
        if !self.bit(coder, About::Reference, 0, 0, found.is_some()) {
            return Ok(None);
        }
        let bits = usize::BITS - self.spans.len().leading_zeros();
        let number = coder.raw(found.unwrap_or(0), bits);
        let span = self.spans.get(number as usize);
        span.map(|s| Some(*s)).ok_or(CodecError::Damaged("a span that is not there"))
    }

    /// A number in its place.
    #[inline(never)]
    fn scalar<C: Coder>(
        &mut self,
        coder: &mut C,
        of: Place,
        value: u64,
        time: u64,
        before: (Option<u64>, Option<u64>),
    ) -> u64 {
        let numbers = &mut self.numbers;
        let seen = self.slots[of.slot].recent.last();
        if is_double(of.message, of.field) {
            let doubles = self.slots.doubles(of.slot);
            let value = match before {
                (Some(last), Some(older)) => {
                    let on = 2.0 * f64::from_bits(last) - f64::from_bits(older);
                    doubles.code(coder, numbers, value, &[last, on.to_bits()])
                }
                (Some(last), None) => doubles.code(coder, numbers, value, &[last]),
                _ => doubles.code(coder, numbers, value, &[seen]),
            };
            self.slots[of.slot].recent.push(value);
            return value;
        }
        if is_time(of.message, of.field) {
            let value = self.slots.near(of.slot).code_time(coder, numbers, value, &[time, seen]);
            self.slots[of.slot].recent.push(value);
            return value;
        }
        match before {
            (Some(last), Some(older)) => {
                let on = last.wrapping_add(last.wrapping_sub(older));
                self.slots.near(of.slot).code(coder, numbers, value, &[last, on])
            }
            (Some(last), None) => self.slots.near(of.slot).code(coder, numbers, value, &[last]),
            _ => self.slots[of.slot].code(coder, numbers, value),
        }
    }

    /// A list of numbers, expected near those of the point before.
    fn list<C: Coder>(
        &mut self,
        coder: &mut C,
        slot: usize,
        tape: &mut Tape<'_>,
        before: &mut Before<'_>,
    ) -> Result<(), CodecError> {
        let mut then = *before;
        before.skip_list();
        let length = self.slots[slot].code(coder, &mut self.numbers, tape.next());
        self.spend(length.saturating_mul(VALUE))?;
        tape.out.push(length);
        let (last_length, older_length) = then.next();
        let (same, older_same) = (last_length == Some(length), older_length == Some(length));
        for n in 0..length as usize {
            let (last, older) = then.next();
            let value = tape.next();
            let value = match (last.filter(|_| same), older.filter(|_| older_same)) {
                (Some(last), Some(older)) => {
                    let on = last.wrapping_add(last.wrapping_sub(older));
                    self.slots.near(slot).code(coder, &mut self.numbers, value, &[last, on])
                }
                (Some(last), None) => self.slots.near(slot).code(coder, &mut self.numbers, value, &[last]),
                _ => {
                    let zero = self.bit(coder, About::Value, slot as u64, n.min(31) as u64, value == 0);
                    if zero { 0 } else { self.number(coder, N::Lists, value) }
                }
            };
            tape.out.push(value);
        }
        Ok(())
    }
}

/// Where a number stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    message: Message,
    field: u32,
    slot: usize,
}
