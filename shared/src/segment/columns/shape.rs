//! Shapes: which fields a message has, in which order. A message is its shape and, in that order, its values.
//!
//! Values stand one behind the other on a *tape* of `u64`: for a dictionary field the index of its entry, for a number its bits,
//! for an id its bytes as one or two little-endian numbers, for a list its length and then its numbers, for a repeated message
//! how many there are and then the values of each. What a value is follows from the shape alone.

use std::hash::{Hash, Hasher};
use std::ops::Range;

use hashbrown::HashTable;
use rustc_hash::FxHasher;

use super::dictionary::Purpose;
use super::schema::{Message, Role, role};

/// One field of a shape, or a run of equal ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Element {
    /// An entry of this dictionary.
    Dictionary(u32),
    /// A varint in this field.
    Varint(u8),
    Fixed32(u8),
    Fixed64(u8),
    Id8(u8),
    Id16(u8),
    /// A message of this shape in this field.
    One(u8, u32),
    /// A run of messages of this shape.
    Many(u8, u32),
    Fixed64List(u8),
    VarintList(u8),
    /// How the attributes that follow stood: an entry of this dictionary.
    Order(u32),
}

impl Element {
    /// The field, 0 for a dictionary: there it follows from the dictionary.
    pub(super) const fn field(self) -> u8 {
        match self {
            Self::Dictionary(_) | Self::Order(_) => 0,
            Self::Varint(f)
            | Self::Fixed32(f)
            | Self::Fixed64(f)
            | Self::Id8(f)
            | Self::Id16(f)
            | Self::One(f, _)
            | Self::Many(f, _)
            | Self::Fixed64List(f)
            | Self::VarintList(f) => f,
        }
    }

    /// As three numbers: kind, field, dictionary or shape. The kinds are persisted.
    pub(super) const fn parts(self) -> [u64; 3] {
        let field = self.field() as u64;
        match self {
            Self::Dictionary(d) => [1, 0, d as u64],
            Self::Varint(_) => [2, field, 0],
            Self::Fixed32(_) => [3, field, 0],
            Self::Fixed64(_) => [4, field, 0],
            Self::Id8(_) => [5, field, 0],
            Self::Id16(_) => [6, field, 0],
            Self::One(_, s) => [7, field, s as u64],
            Self::Many(_, s) => [8, field, s as u64],
            Self::Fixed64List(_) => [9, field, 0],
            Self::VarintList(_) => [10, field, 0],
            Self::Order(d) => [11, 0, d as u64],
        }
    }

    /// The inverse of [`Element::parts`], if dictionary and shape are among so many that are known.
    pub(super) fn from_parts(parts: [u64; 3], dictionaries: usize, shapes: usize) -> Option<Self> {
        let [kind, field, of] = parts;
        let field = u8::try_from(field).ok()?;
        let index = u32::try_from(of).ok()?;
        let known = |limit: usize| (index as usize) < limit;
        Some(match kind {
            1 if known(dictionaries) => Self::Dictionary(index),
            2 => Self::Varint(field),
            3 => Self::Fixed32(field),
            4 => Self::Fixed64(field),
            5 => Self::Id8(field),
            6 => Self::Id16(field),
            7 if known(shapes) => Self::One(field, index),
            8 if known(shapes) => Self::Many(field, index),
            9 => Self::Fixed64List(field),
            10 => Self::VarintList(field),
            11 if known(dictionaries) => Self::Order(index),
            _ => return None,
        })
    }
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) message: Message,
    /// Its elements among those of all shapes.
    first: u32,
    end: u32,
    /// Where on the tape the value of each role stands, from the message's beginning.
    places: [Option<u16>; Role::COUNT],
    /// Its values on the tape, when their number is always the same.
    width: Option<u32>,
    /// How many messages are inside one another, this one included.
    pub(super) depth: u32,
}

impl Shape {
    /// Whether it has a value of this role.
    pub(super) const fn has(&self, role: Role) -> bool {
        self.places[role as usize].is_some()
    }

    /// Where on the tape the value of this role stands.
    pub(super) fn place(&self, role: Role) -> Option<usize> {
        self.places[role as usize].map(usize::from)
    }
}

/// An element of a shape.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) element: Element,
    /// No two elements of a shape have the same.
    pub(super) role: Option<Role>,
}

/// Every shape, by its number. Nothing in it points elsewhere, so that a copy of it is quickly made.
#[derive(Debug, Clone, Default)]
pub(super) struct Shapes {
    pub(super) all: Vec<Shape>,
    /// The elements of all shapes, one shape's behind the other's.
    parts: Vec<Part>,
    by_content: HashTable<u32>,
}

fn hash<'a>(message: Message, elements: impl IntoIterator<Item = &'a Element>) -> u64 {
    let mut hasher = FxHasher::default();
    (message as u8).hash(&mut hasher);
    elements.into_iter().for_each(|element| element.hash(&mut hasher));
    hasher.finish()
}

impl Shapes {
    /// The number of this shape, which it is given if it is new. `purpose` says what a dictionary is for.
    pub(super) fn number(
        &mut self,
        message: Message,
        elements: &[Element],
        purpose: impl Fn(u32) -> Purpose,
    ) -> u32 {
        let hashed = hash(message, elements);
        let same = |n: &u32| {
            self.all[*n as usize].message == message && self.parts(*n).iter().map(|p| &p.element).eq(elements)
        };
        if let Some(found) = self.by_content.find(hashed, same) {
            return *found;
        }
        let shape = self.describe(message, elements, purpose);
        let number = self.all.len() as u32;
        self.all.push(shape);
        let (all, parts) = (&self.all, &self.parts);
        self.by_content.insert_unique(hashed, number, |n| {
            let shape = &all[*n as usize];
            hash(shape.message, parts[shape.first as usize..shape.end as usize].iter().map(|p| &p.element))
        });
        number
    }

    /// The elements of a shape.
    #[inline]
    pub(super) fn parts(&self, shape: u32) -> &[Part] {
        &self.parts[self.range(shape)]
    }

    /// Where the elements of a shape stand among those of all.
    #[inline]
    pub(super) fn range(&self, shape: u32) -> Range<usize> {
        let Shape { first, end, .. } = self.all[shape as usize];
        first as usize..end as usize
    }

    /// An element of any shape, by its place in its [`Shapes::range`].
    #[inline]
    pub(super) fn part(&self, at: usize) -> Part {
        self.parts[at]
    }

    /// A copy of a shape's elements.
    pub(super) fn elements(&self, shape: u32) -> Vec<Element> {
        self.parts(shape).iter().map(|p| p.element).collect()
    }

    /// Bytes that they take.
    pub(super) const fn size(&self) -> usize {
        self.all.len() * (size_of::<Shape>() + 8) + self.parts.len() * size_of::<Part>()
    }

    /// Appends the attributes of a message of `shape`, each a dictionary and an entry, whose values begin the tape.
    pub(super) fn attributes(
        &self,
        shape: u32,
        tape: &[u64],
        is_attribute: impl Fn(u32) -> bool,
        out: &mut Vec<(u32, u32)>,
    ) {
        let mut at = 0;
        for Part { element, .. } in self.parts(shape) {
            if let Element::Dictionary(d) = element
                && is_attribute(*d)
            {
                out.push((*d, tape[at] as u32));
            }
            at = self.behind(*element, tape, at);
        }
    }

    /// Where the values behind those of `element` begin, which begin at `at`.
    fn behind(&self, element: Element, tape: &[u64], at: usize) -> usize {
        match element {
            Element::Id16(_) => at + 2,
            Element::Fixed64List(_) | Element::VarintList(_) => at + 1 + tape[at] as usize,
            Element::One(_, shape) => self.behind_message(shape, tape, at),
            Element::Many(_, shape) => {
                (0..tape[at]).fold(at + 1, |at, _| self.behind_message(shape, tape, at))
            }
            _ => at + 1,
        }
    }

    fn behind_message(&self, shape: u32, tape: &[u64], at: usize) -> usize {
        match self.all[shape as usize].width {
            Some(width) => at + width as usize,
            None => self.parts(shape).iter().fold(at, |at, part| self.behind(part.element, tape, at)),
        }
    }

    /// What is to be known of a shape, whose elements it appends.
    fn describe(
        &mut self,
        message: Message,
        elements: &[Element],
        purpose: impl Fn(u32) -> Purpose,
    ) -> Shape {
        let (first, mut places) = (self.parts.len() as u32, [None; Role::COUNT]);
        let (mut width, mut depth) = (Some(0u32), 1);
        for element in elements {
            let mut role_here = None;
            let of = match *element {
                Element::Dictionary(d) => (purpose(d) == Purpose::Name).then_some(Role::Name),
                Element::Fixed64(f) | Element::Id8(f) | Element::Id16(f) => role(message, u32::from(f)),
                _ => None,
            };
            let place = width.and_then(|w| u16::try_from(w).ok());
            if let (Some(of), Some(place)) = (of, place)
                && places[of as usize].is_none()
            {
                (role_here, places[of as usize]) = (Some(of), Some(place));
            }
            self.parts.push(Part { element: *element, role: role_here });
            if let Element::One(_, inner) | Element::Many(_, inner) = *element {
                depth = depth.max(self.all[inner as usize].depth + 1);
            }
            let own = match *element {
                Element::Many(..) | Element::Fixed64List(_) | Element::VarintList(_) => None,
                Element::One(_, shape) => self.all[shape as usize].width,
                Element::Id16(_) => Some(2),
                _ => Some(1),
            };
            width = width.zip(own).and_then(|(a, b)| a.checked_add(b)).filter(|w| *w < 1 << 20);
        }
        Shape { message, first, end: self.parts.len() as u32, places, width, depth }
    }
}
