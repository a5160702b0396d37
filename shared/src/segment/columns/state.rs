//! What encoder and decoder both know: dictionaries, shapes, contexts and models. It grows while a segment is coded; a segment
//! that leans on another begins with what that one ended with.

use rustc_hash::FxHashMap;

use super::dictionary::{Dictionary, FIXED, Form, Kind, Purpose};
use super::entropy::{Bit, Coder, NumberId, Numbers};
use super::models::{Near, Recent, Slots};
use super::schema::{Message, Role};
use super::series::SeriesList;
use super::shape::{Element, Shapes};
use crate::segment::CodecError;

/// What encloses an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Context {
    /// [`Signal`](crate::signal::Signal)'s number.
    pub(super) signal: u8,
    /// Entries of the fixed dictionaries.
    pub(super) resource: u32,
    pub(super) scope: u32,
    /// Of a metric alone, else 0.
    pub(super) metric: u32,
    pub(super) data: u32,
    /// The field that holds the items, in the scope or, of a metric, the data's field in the metric.
    pub(super) field: u32,
}

impl Context {
    /// What its items are.
    pub(super) const fn message(&self) -> Message {
        match (self.signal, Message::of_data(self.field)) {
            (1, _) => Message::Span,
            (2, Some(point)) => point,
            _ => Message::LogRecord,
        }
    }
}

/// Items of one context, one shape and one name: what is alike enough to be expected from one another.
#[derive(Debug, Clone)]
pub(super) struct Type {
    pub(super) context: u32,
    pub(super) shape: u32,
    pub(super) name: u32,
    /// The first of its slots.
    pub(super) slots: u32,
    /// The models of its times.
    pub(super) times: u32,
}

/// No name, no slots.
pub(super) const NONE: u32 = u32::MAX;

/// Above so many types, those of one shape share their slots.
const OWN_SLOTS: usize = 512;

/// There are never more dictionaries. Attributes of further keys are left whole.
pub(super) const MOST_DICTIONARIES: usize = 4096;

/// There are never more shapes. Items of further ones are left whole.
pub(super) const MOST_SHAPES: usize = 1 << 14;

/// Messages inside one another; OTLP's own are two.
const DEEPEST: u32 = 4;

/// What a decoder takes from its budget for a type, a series, a ghost and a value: about the bytes that it keeps of one, so that
/// whatever a payload says it takes some 64 times its raw length at most, and 16 MiB for the models.
const TYPE: u64 = 24;
pub(super) const SERIES: u64 = 64;
pub(super) const GHOST: u64 = 16;
pub(super) const VALUE: u64 = 4;

/// What is found out in a row before its elements are coded, by [`Role`].
pub(super) type Known = [Option<[u64; 2]>; Role::COUNT];

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) dictionaries: Vec<Dictionary>,
    pub(super) shapes: Shapes,
    pub(super) contexts: Vec<Context>,
    pub(super) types: Vec<Type>,
    types_by: FxHashMap<(u32, u32, u32), u32>,
    pub(super) slots: Slots,
    /// Models of the times of items, by [`Type`].
    pub(super) item_times: Vec<[Near; 3]>,
    /// The first slot of messages of a shape that are inside others, by shape.
    inner_slots: Vec<u32>,
    /// Those of items whose type has none of its own, by shape; and the models of their times.
    shared_slots: Vec<u32>,
    shared_times: Vec<u32>,
    /// Small decisions, by a hash of what they follow from.
    bits: Vec<Bit>,
    /// The types that came last, by a hash of what they follow from.
    next_types: Vec<Recent>,
    pub(super) series: SeriesList,
    pub(super) numbers: Numbers,
    common: [NumberId; N::Last as usize],
    /// Times of points: the first of a series, the next ones; then their starts, likewise.
    pub(super) times: [Near; 4],
    /// How many points the last series of a scope had.
    pub(super) counts: FxHashMap<u64, Recent>,
    last_context: u32,
    /// Spans of this segment so far: trace and id.
    pub(super) spans: Vec<[u64; 3]>,
    /// Within these bounds a decoder goes on: what it may spend, and the memory that it may hold.
    budget: u64,
    memory: usize,
    /// What was spent since it was last looked at how much is held, and when that is looked at though a row is not finished.
    unseen: u64,
    look_at: u64,
}

/// How much is held is looked at when so much was spent, once a row is finished.
const LOOK: u64 = 1 << 16;

/// See [`State::look_at`]; what a row spends takes so many times as many bytes until it is finished.
const LONG: u64 = 1 << 20;
const OF_ROW: u64 = 3;

/// What `State::common` are for.
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
pub(super) enum N {
    Definitions,
    Kinds,
    KeyLength,
    ShapeLength,
    Elements,
    Contexts,
    Types,
    Traces,
    Loose,
    Series,
    Points,
    Lists,
    Whole,
    Last,
}

/// Small decisions are kept in so many places.
const BITS: usize = 1 << 14;

/// What type comes next is kept in so many places.
const NEXT_TYPES: usize = 1 << 13;

/// What a small decision is about.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum About {
    Child,
    Root,
    Ghost,
    Log,
    Series,
    Shape,
    Reference,
    Value,
}

/// A copy with room for what a small segment adds, so that it need not be copied once more for that.
pub(super) fn copy<T: Copy>(from: &[T]) -> Vec<T> {
    let mut copy = Vec::with_capacity(from.len() + from.len() / 8);
    copy.extend_from_slice(from);
    copy
}

const fn mix(a: u64, b: u64) -> u64 {
    (a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            dictionaries: (0..FIXED).map(|n| Dictionary::new(Kind::enclosing(n))).collect(),
            shapes: Shapes::default(),
            contexts: Vec::new(),
            types: Vec::new(),
            types_by: FxHashMap::default(),
            slots: Slots::default(),
            item_times: Vec::new(),
            inner_slots: Vec::new(),
            shared_slots: Vec::new(),
            shared_times: Vec::new(),
            bits: vec![Bit::NEW; BITS],
            next_types: vec![Recent::NEW; NEXT_TYPES],
            series: SeriesList::default(),
            numbers: Numbers::default(),
            common: [NumberId::NEW; N::Last as usize],
            times: [Near::new(), Near::new(), Near::new(), Near::new()],
            counts: FxHashMap::default(),
            last_context: 0,
            spans: Vec::new(),
            budget: u64::MAX,
            memory: usize::MAX,
            unseen: 0,
            look_at: LONG,
        }
    }

    /// Bytes that it takes, roughly, with what an encoder finds entries by.
    pub(super) fn size(&self) -> usize {
        self.size_with(Dictionary::memory)
    }

    fn size_with(&self, dictionary: impl Fn(&Dictionary) -> usize) -> usize {
        let entries: usize = self.dictionaries.iter().map(dictionary).sum();
        let models = self.slots.size() + self.numbers.size() + self.item_times.len() * size_of::<[Near; 3]>();
        let known = self.counts.len() * (size_of::<Recent>() + 8)
            + self.shapes.size()
            + self.series.size()
            + self.types.len() * 64
            + self.contexts.len() * 48;
        entries + known + models + self.numbers.text.size() + BITS * 4 + NEXT_TYPES * size_of::<Recent>()
    }

    /// Gives up what is only needed to code more: requests can still be put together, nothing can lean on it.
    pub(super) fn forget_models(&mut self) {
        let kept = Self {
            dictionaries: std::mem::take(&mut self.dictionaries),
            shapes: std::mem::take(&mut self.shapes),
            contexts: std::mem::take(&mut self.contexts),
            types: std::mem::take(&mut self.types),
            bits: Vec::new(),
            next_types: Vec::new(),
            ..Self::new()
        };
        *self = kept;
    }

    /// Bytes that requests are put together from, roughly.
    pub(super) fn rendered_size(&self) -> usize {
        let entries: usize = self.dictionaries.iter().map(|d| d.size() + d.len() * size_of::<u32>()).sum();
        entries + self.shapes.size() + self.types.len() * size_of::<Type>()
    }

    /// A small decision that follows from `a` and `b`.
    #[inline]
    pub(super) fn bit<C: Coder>(&mut self, coder: &mut C, about: About, a: u64, b: u64, bit: bool) -> bool {
        let hash = mix(mix(about as u64 + 1, a), b);
        coder.bit(&mut self.bits[(hash >> 32) as usize % BITS], bit)
    }

    pub(super) fn number<C: Coder>(&mut self, coder: &mut C, of: N, value: u64) -> u64 {
        self.numbers.code(&mut self.common[of as usize], coder, value)
    }

    /// Begins a segment that may spend and hold so much.
    pub(super) fn begin(&mut self, budget: u64, memory: usize, layout: u8) {
        self.spans.clear();
        self.numbers.text.begin(layout, budget);
        (self.budget, self.memory) = (budget, memory);
        (self.unseen, self.look_at) = (0, LONG);
    }

    /// Takes `bytes` from what may still come out.
    pub(super) fn spend(&mut self, bytes: u64) -> Result<(), CodecError> {
        self.budget =
            self.budget.checked_sub(bytes).ok_or(CodecError::TooLarge("what a payload unpacks to"))?;
        self.unseen = self.unseen.saturating_add(bytes);
        if self.unseen >= self.look_at {
            self.look_at = self.unseen.saturating_mul(2);
            return self.holds(self.unseen.saturating_mul(OF_ROW) as usize);
        }
        Ok(())
    }

    /// Looks now and then, between rows, whether a decoder holds more than it may; `beside`: bytes that are not in here.
    #[inline]
    pub(super) fn hold(&mut self, beside: impl FnOnce() -> usize) -> Result<(), CodecError> {
        if self.unseen < LOOK {
            return Ok(());
        }
        (self.unseen, self.look_at) = (0, LONG);
        self.holds(beside())
    }

    fn holds(&self, beside: usize) -> Result<(), CodecError> {
        if self.memory == usize::MAX {
            return Ok(());
        }
        let own = self.size_with(|d| d.size() + d.len() * size_of::<u64>()) + self.spans.len() * 24;
        if own.saturating_add(beside) > self.memory { Err(CodecError::TakesMemory) } else { Ok(()) }
    }

    /// An entry of dictionary `number`.
    pub(super) fn entry<C: Coder>(
        &mut self,
        coder: &mut C,
        number: usize,
        index: u64,
    ) -> Result<u64, CodecError> {
        let dictionary = &mut self.dictionaries[number];
        let before = dictionary.size();
        let index = coder.entry(number, index, dictionary.len() as u64);
        let index = dictionary.code(coder, &mut self.numbers, number, index, None)?;
        let grown = dictionary.size() - before;
        self.spend(grown as u64)?;
        Ok(index)
    }

    /// An entry of dictionary `number` at a place that has seen entries before.
    #[inline(never)]
    pub(super) fn entry_at<C: Coder>(
        &mut self,
        coder: &mut C,
        number: usize,
        slot: usize,
        index: u64,
    ) -> Result<u64, CodecError> {
        let known = self.dictionaries[number].len() as u64;
        let index = coder.entry(number, index, known);
        // A slot may be another dictionary's too, and have seen the number that an entry here is about to get.
        let seen = if index < known { index } else { u64::MAX };
        if let Some(index) = self.slots[slot].recent.code(coder, seen) {
            return if index < known {
                Ok(index)
            } else {
                Err(CodecError::Damaged("an entry that no dictionary has"))
            };
        }
        let dictionary = &mut self.dictionaries[number];
        let before = dictionary.size();
        // Which orders are likely is known of the place; elsewhere all places of a dictionary are alike.
        let likely = (dictionary.kind.form == Form::Order).then_some(&mut self.slots[slot].number);
        let index = dictionary.code(coder, &mut self.numbers, number, index, likely)?;
        let grown = dictionary.size() - before;
        self.slots[slot].recent.push(index);
        self.spend(grown as u64)?;
        Ok(index)
    }

    /// Dictionaries, shapes and contexts that are new in this segment.
    pub(super) fn definitions<C: Coder>(
        &mut self,
        coder: &mut C,
        kinds: &[Kind],
        shapes: &Shapes,
        contexts: &[Context],
    ) -> Result<(), CodecError> {
        let known = self.dictionaries.len();
        let count = self.count(coder, kinds.len().saturating_sub(known), MOST_DICTIONARIES - known)?;
        for n in known..known + count {
            let kind = self.kind(coder, kinds.get(n))?;
            coder.account(Message::from_number(u64::from(kind.message)).unwrap_or(Message::Span), 0);
            self.dictionaries.push(Dictionary::new(kind));
            self.spend(1)?;
        }
        let known = self.shapes.all.len();
        let count = self.count(coder, shapes.all.len().saturating_sub(known), MOST_SHAPES - known)?;
        for n in known..known + count {
            let elements = if C::ENCODES { shapes.elements(n as u32) } else { Vec::new() };
            self.shape(coder, shapes.all.get(n).map(|s| (s.message, &elements[..])), n)?;
            self.spend(1)?;
            self.hold(|| 0)?;
        }
        let known = self.contexts.len();
        let count = self.count(coder, contexts.len().saturating_sub(known), usize::MAX)?;
        for n in known..known + count {
            let context = self.context(coder, contexts.get(n))?;
            coder.account(context.message(), 0);
            self.contexts.push(context);
            self.spend(1)?;
            self.hold(|| 0)?;
        }
        self.holds(0)
    }

    fn count<C: Coder>(&mut self, coder: &mut C, count: usize, most: usize) -> Result<usize, CodecError> {
        let count = self.number(coder, N::Definitions, count as u64);
        if count > (most as u64).min(self.budget) {
            return Err(CodecError::TooLarge("the number of definitions"));
        }
        Ok(count as usize)
    }

    fn kind<C: Coder>(&mut self, coder: &mut C, given: Option<&Kind>) -> Result<Kind, CodecError> {
        let numbers = given
            .map_or([0; 4], |k| [u64::from(k.message), k.form as u64, u64::from(k.field), k.value as u64]);
        let numbers = numbers.map(|n| self.number(coder, N::Kinds, n));
        let text = given.map_or(&[][..], |k| &k.key);
        let length = self.number(coder, N::KeyLength, text.len() as u64);
        let mut key = Vec::new();
        coder.text(0, text, length, &mut key)?;
        let [message, form, field, value] = numbers;
        Kind::from_numbers(message, form, field, value, key).ok_or(CodecError::Damaged("a dictionary's kind"))
    }

    fn shape<C: Coder>(
        &mut self,
        coder: &mut C,
        given: Option<(Message, &[Element])>,
        expected: usize,
    ) -> Result<(), CodecError> {
        let message = self.number(coder, N::Kinds, given.map_or(0, |g| g.0 as u64));
        let message = Message::from_number(message).ok_or(CodecError::Damaged("a shape's message"))?;
        let given = given.map_or(&[][..], |g| g.1);
        let length = self.number(coder, N::ShapeLength, given.len() as u64);
        self.spend(length.saturating_mul(size_of::<Element>() as u64))?;
        let mut elements = Vec::new();
        for n in 0..length as usize {
            let parts = given.get(n).map_or([0; 3], |e| e.parts());
            let kind = self.number(coder, N::Kinds, parts[0]);
            let parts = [
                kind,
                if matches!(kind, 1 | 11) { 0 } else { self.number(coder, N::Kinds, parts[1]) },
                if matches!(kind, 1 | 7 | 8 | 11) { self.number(coder, N::Elements, parts[2]) } else { 0 },
            ];
            let element = Element::from_parts(parts, self.dictionaries.len(), expected);
            elements.push(element.ok_or(CodecError::Damaged("a shape's element"))?);
        }
        if !self.are_ordered(&elements) {
            return Err(CodecError::Damaged("an order of what is not there"));
        }
        let dictionaries = &self.dictionaries;
        let number = self.shapes.number(message, &elements, |d| dictionaries[d as usize].kind.purpose());
        coder.account(message, 0);
        if number as usize != expected {
            return Err(CodecError::Damaged("a shape that is not new"));
        }
        if self.shapes.all[expected].depth > DEEPEST {
            return Err(CodecError::TooLarge("the nesting of messages"));
        }
        Ok(())
    }

    /// Whether so many attributes stand behind each order as it orders.
    fn are_ordered(&self, elements: &[Element]) -> bool {
        elements.iter().enumerate().all(|(n, element)| {
            let Element::Order(d) = element else { return true };
            let kind = &self.dictionaries[*d as usize].kind;
            let behind = elements[n + 1..]
                .iter()
                .take_while(|e| matches!(e, Element::Dictionary(d) if self.is_attribute(*d)));
            kind.form == Form::Order && behind.take(kind.field as usize).count() == kind.field as usize
        })
    }

    /// Whether a dictionary's entries are attributes.
    pub(super) fn is_attribute(&self, dictionary: u32) -> bool {
        self.dictionaries[dictionary as usize].kind.purpose() == Purpose::Attribute
    }

    fn context<C: Coder>(&mut self, coder: &mut C, given: Option<&Context>) -> Result<Context, CodecError> {
        let given = given.copied().unwrap_or(Context {
            signal: 0,
            resource: 0,
            scope: 0,
            metric: 0,
            data: 0,
            field: 0,
        });
        let signal = self.number(coder, N::Contexts, u64::from(given.signal));
        let mut context = Context { signal: signal as u8, metric: 0, data: 0, ..given };
        context.resource = self.entry(coder, super::dictionary::RESOURCES, u64::from(given.resource))? as u32;
        context.scope = self.entry(coder, super::dictionary::SCOPES, u64::from(given.scope))? as u32;
        context.field = self.number(coder, N::Contexts, u64::from(given.field)) as u32;
        match signal {
            1 | 3 if context.field == 2 => {}
            2 if Message::of_data(context.field).is_some() => {
                context.metric =
                    self.entry(coder, super::dictionary::METRICS, u64::from(given.metric))? as u32;
                context.data = self.entry(coder, super::dictionary::DATA, u64::from(given.data))? as u32;
            }
            _ => return Err(CodecError::Damaged("a context")),
        }
        Ok(context)
    }

    /// The type of an item, given those of what it follows from, the nearest first.
    pub(super) fn kind_of_item<C: Coder>(
        &mut self,
        coder: &mut C,
        context: u32,
        shape: u32,
        name: u64,
        after: [u64; 2],
    ) -> Result<u32, CodecError> {
        let mut known = u64::from(u32::MAX);
        let mut name = name;
        if C::ENCODES {
            name = self.coded_name(coder, shape, name);
            known = self.types_by.get(&(context, shape, name as u32)).map_or(known, |t| u64::from(*t));
        }
        let place = |key: u64| (key >> 32) as usize % NEXT_TYPES;
        let places = [place(mix(mix(7, after[0]), after[1])), place(mix(11, after[0]))];
        for n in 0..2 {
            if let Some(found) = self.next_types[places[n]].code(coder, known) {
                if n == 1 {
                    self.next_types[places[0]].push(found);
                }
                return Ok(found as u32);
            }
        }
        let count = self.types.len() as u64;
        let number = self.number(coder, N::Types, if known >= count { 0 } else { known + 1 });
        let number = match number {
            0 => self.define_type(coder, context, shape, name)?,
            n if n <= count => n - 1,
            _ => return Err(CodecError::Damaged("a type that is not known")),
        };
        for place in places {
            self.next_types[place].push(number);
        }
        Ok(number as u32)
    }

    /// The decoder's number of a name.
    fn coded_name<C: Coder>(&self, coder: &mut C, shape: u32, name: u64) -> u64 {
        match self.name_of(shape) {
            Some(d) => coder.entry(d, name, self.dictionaries[d].len() as u64),
            None => u64::from(NONE),
        }
    }

    /// The dictionary of a shape's name.
    fn name_of(&self, shape: u32) -> Option<usize> {
        match self.shapes.parts(shape).iter().find(|p| p.role == Some(Role::Name))?.element {
            Element::Dictionary(d) => Some(d as usize),
            _ => None,
        }
    }

    fn define_type<C: Coder>(
        &mut self,
        coder: &mut C,
        context: u32,
        shape: u32,
        name: u64,
    ) -> Result<u64, CodecError> {
        let step = u64::from(context).wrapping_sub(u64::from(self.last_context));
        let step = self.numbers.code_signed(&mut self.common[N::Contexts as usize], coder, step);
        let context = u64::from(self.last_context).wrapping_add(step);
        let shape = self.number(coder, N::Elements, u64::from(shape));
        if context >= self.contexts.len() as u64 || shape >= self.shapes.all.len() as u64 {
            return Err(CodecError::Damaged("a type that is not known"));
        }
        let (context, shape) = (context as u32, shape as u32);
        self.last_context = context;
        let name = match self.name_of(shape) {
            Some(d) => {
                // Its number is the decoder's already.
                let before = self.dictionaries[d].size();
                let name = self.dictionaries[d].code(coder, &mut self.numbers, d, name, None)?;
                let grown = self.dictionaries[d].size() - before;
                self.spend(grown as u64)?;
                name as u32
            }
            None => NONE,
        };
        let width = self.shapes.range(shape).len();
        let number = self.types.len() as u32;
        let (slots, times) = if self.types.len() < OWN_SLOTS {
            (self.slots.grow(width), new_times(&mut self.item_times))
        } else {
            let slots = first_of(&mut self.shared_slots, shape, || self.slots.grow(width));
            let item_times = &mut self.item_times;
            (slots, first_of(&mut self.shared_times, shape, || new_times(item_times)))
        };
        self.types.push(Type { context, shape, name, slots, times });
        self.types_by.insert((context, shape, name), number);
        self.spend(TYPE)?;
        Ok(u64::from(number))
    }

    /// The slots of messages of `shape` inside others.
    pub(super) fn slots_inside(&mut self, shape: u32) -> u32 {
        let width = self.shapes.range(shape).len();
        first_of(&mut self.inner_slots, shape, || self.slots.grow(width))
    }
}

fn new_times(all: &mut Vec<[Near; 3]>) -> u32 {
    all.push([Near::new(), Near::new(), Near::new()]);
    all.len() as u32 - 1
}

fn first_of(firsts: &mut Vec<u32>, shape: u32, new: impl FnOnce() -> u32) -> u32 {
    let shape = shape as usize;
    if firsts.len() <= shape {
        firsts.resize(shape + 1, NONE);
    }
    if firsts[shape] == NONE {
        firsts[shape] = new();
    }
    firsts[shape]
}
