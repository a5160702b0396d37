//! Data points: series by series, so that what hardly changes stands beside itself.
//!
//! A series is a context (resource, scope, metric) and its attributes, and known from then on: by the next points, and by the
//! next segments that lean on this one. Times are near those that followed the same time in the series before.

use std::hash::{Hash, Hasher};

use hashbrown::HashTable;
use rustc_hash::{FxHashMap, FxHasher};

use super::build::Rows;
use super::dictionary::Purpose;
use super::entropy::Coder;
use super::rows::{Around, Before, Tape};
use super::schema::{Message, Role};
use super::series::{Series, SeriesList};
use super::shape::{Element, Shapes};
use super::shred::Row;
use super::state::{About, Context, Known, N, NONE, SERIES, State};
use super::vocabulary::Vocabulary;
use crate::segment::CodecError;

/// The points of a series, in the order of arrival.
pub(super) type Points = Vec<Row>;

/// What the encoder codes.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// The points of each series that is known, by its number.
    known: Vec<Points>,
    /// Those of others, by context.
    new: Vec<Vec<Points>>,
}

fn hash(key: (u32, &[(u32, u32)])) -> u64 {
    let mut hasher = FxHasher::default();
    key.hash(&mut hasher);
    hasher.finish()
}

/// The numbers of series, by what makes them one: the context and the attributes, each a dictionary and an entry.
pub(super) fn places(known: &SeriesList) -> HashTable<u32> {
    let numbers = 0..known.all.len() as u32;
    let mut table = HashTable::with_capacity(numbers.len());
    for n in numbers {
        table.insert_unique(hash(known.key(n)), n, |n| hash(known.key(*n)));
    }
    table
}

/// Series that are new in this segment.
#[derive(Default)]
struct Fresh {
    /// Of each its context, its number there, and where its attributes begin and end.
    all: Vec<(u32, u32, [u32; 2])>,
    attributes: Vec<(u32, u32)>,
    table: HashTable<u32>,
}

impl Fresh {
    /// The number that a series has in its context, which is `next` if it was not met yet.
    fn number(&mut self, key: (u32, &[(u32, u32)]), next: u32) -> u32 {
        let Self { all, attributes, table } = self;
        let found = table.find(hash(key), |n| {
            let (context, _, [start, end]) = all[*n as usize];
            (context, &attributes[start as usize..end as usize]) == key
        });
        if let Some(n) = found {
            return all[*n as usize].1;
        }
        let start = attributes.len() as u32;
        attributes.extend_from_slice(key.1);
        all.push((key.0, next, [start, attributes.len() as u32]));
        table.insert_unique(hash(key), all.len() as u32 - 1, |n| {
            let (context, _, [start, end]) = all[*n as usize];
            hash((context, &attributes[start as usize..end as usize]))
        });
        next
    }
}

/// Groups `rows` by series. `places` finds those that are `known`.
pub(super) fn plan(
    known: &SeriesList,
    places: &HashTable<u32>,
    contexts: usize,
    shapes: &Shapes,
    vocabulary: &Vocabulary,
    tape: &[u64],
    rows: &[Row],
) -> Metrics {
    let mut plan = Metrics::default();
    if rows.is_empty() {
        return plan;
    }
    plan.known.resize_with(known.all.len(), Points::new);
    plan.new.resize_with(contexts, Vec::new);
    let is_attribute = |d| vocabulary.purpose(d) == Purpose::Attribute;
    let (mut fresh, mut attributes) = (Fresh::default(), Vec::new());
    for row in rows {
        attributes.clear();
        shapes.attributes(row.shape, &tape[row.at as usize..], is_attribute, &mut attributes);
        let key = (row.context, &attributes[..]);
        if let Some(n) = places.find(hash(key), |n| known.key(*n) == key) {
            plan.known[*n as usize].push(*row);
            continue;
        }
        let new = &mut plan.new[row.context as usize];
        let number = fresh.number(key, new.len() as u32) as usize;
        match new.get_mut(number) {
            Some(points) => points.push(*row),
            None => new.push(vec![*row]),
        }
    }
    plan
}

/// What is the same for all points of a segment.
struct Section<'a, 'b> {
    given: &'a [u64],
    rows: &'b mut dyn Rows,
    tape: Tape<'a>,
    series: SeriesList,
    /// The time that followed a time, in the series that had it last.
    after: FxHashMap<u64, u64>,
    /// The first time and start of the last series in each scope.
    first: FxHashMap<(u32, u32), (u64, u64)>,
    last_first: (u64, u64),
    /// The type of the last point that began a series.
    last_kind: u64,
}

impl Section<'_, '_> {
    /// Bytes that are held beside the state.
    fn size(&self) -> usize {
        let Self { rows, series, after, first, .. } = self;
        rows.size() + series.size() + after.capacity() * 17 + first.capacity() * 25
    }
}

impl State {
    /// All data points.
    pub(super) fn metrics<C: Coder>(
        &mut self,
        coder: &mut C,
        given: &[u64],
        plan: &Metrics,
        rows: &mut dyn Rows,
    ) -> Result<(), CodecError> {
        let mut section = Section {
            given,
            rows,
            tape: Tape::default(),
            series: std::mem::take(&mut self.series),
            after: FxHashMap::default(),
            first: FxHashMap::default(),
            last_first: (0, 0),
            last_kind: u64::from(NONE),
        };
        let result = self.contexts_of_metrics(coder, &mut section, plan);
        self.series = section.series;
        result
    }

    fn contexts_of_metrics<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        plan: &Metrics,
    ) -> Result<(), CodecError> {
        for context in 0..self.contexts.len() as u32 {
            if self.contexts[context as usize].signal != 2 {
                continue;
            }
            let new = plan.new.get(context as usize).map_or(&[][..], |new| &new[..]);
            let of_known = |n: u32| plan.known.get(n as usize).map_or(&[][..], |p| &p[..]);
            let behind = |list: &SeriesList, n: u32| Some(list.behind(n)).filter(|n| *n != NONE);
            let first = Some(section.series.first_of(context)).filter(|n| *n != NONE);
            let here = C::ENCODES
                && (!new.is_empty()
                    || std::iter::successors(first, |n| behind(&section.series, *n))
                        .any(|n| !of_known(n).is_empty()));
            if !self.bit(coder, About::Series, 0, 0, here) {
                continue;
            }
            self.spend(1)?;
            let mut next = first;
            while let Some(number) = next {
                let points = of_known(number);
                if self.bit(coder, About::Series, 1, 0, !points.is_empty()) {
                    self.points(coder, section, context, Some(number), points)?;
                }
                next = behind(&section.series, number);
            }
            let count = self.number(coder, N::Series, new.len() as u64);
            for n in 0..count as usize {
                self.spend(SERIES)?;
                let points = new.get(n).map_or(&[][..], |p| &p[..]);
                self.points(coder, section, context, None, points)?;
            }
        }
        Ok(())
    }

    fn points<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        context: u32,
        number: Option<u32>,
        points: &[Row],
    ) -> Result<(), CodecError> {
        let of = self.contexts[context as usize];
        let scope = u64::from(of.resource) << 32 | u64::from(of.scope);
        let count = self.recent_count(coder, scope, points.len() as u64);
        if count == 0 {
            return Err(CodecError::Damaged("a series without points"));
        }
        coder.account(Message::NumberPoint, 0);
        let mut series = number.map_or(Series::new(context), |n| section.series.all[n as usize]);
        let mut is_new = number.is_none();
        for n in 0..count as usize {
            self.spend(1)?;
            let row = points.get(n).copied();
            self.point(coder, section, context, &mut series, (is_new, n == 0), row)?;
            is_new = false;
        }
        match number {
            Some(n) => section.series.all[n as usize] = series,
            None => section.series.push(series),
        }
        Ok(())
    }

    fn recent_count<C: Coder>(&mut self, coder: &mut C, scope: u64, count: u64) -> u64 {
        let recent = self.counts.entry(scope).or_default();
        if let Some(count) = recent.code(coder, count) {
            return count;
        }
        let count = self.number(coder, N::Points, count);
        self.counts.entry(scope).or_default().push(count);
        count
    }

    fn point<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        context: u32,
        series: &mut Series,
        (is_new, is_first): (bool, bool),
        row: Option<Row>,
    ) -> Result<(), CodecError> {
        let given: &[u64] = row.map_or(&[], |r| &section.given[r.at as usize..]);
        section.tape.restart(given);
        let shape = row.map_or(0, |r| r.shape);
        let last_kind = series.last_kind();
        let same = last_kind.map(|k| self.types[k as usize].shape) == Some(shape);
        let kind = match last_kind {
            Some(kind) if self.bit(coder, About::Shape, u64::from(context), 0, same) => kind,
            _ => {
                let after = [POINT | u64::from(context), section.last_kind];
                self.kind_of_item(coder, context, shape, u64::from(NONE), after)?
            }
        };
        section.last_kind = u64::from(kind);
        coder.account(Message::NumberPoint, 1);
        let (shape, slots) = (self.types[kind as usize].shape, self.types[kind as usize].slots);
        if self.types[kind as usize].context != context
            || !self.is_point_of(shape, context, (!is_new).then(|| section.series.attributes(series)))
        {
            return Err(CodecError::Damaged("a point of another series"));
        }
        let known = self.point_times(coder, section, context, series, shape, is_first);
        let (last, older) = section.series.last_two(series, kind);
        let attributes = (!is_new).then(|| section.series.attributes(series));
        let around = Around { known: &known, time: series.time, series: attributes };
        let mut before = Before::new(last, older);
        self.elements(coder, shape, slots, &mut section.tape, around, &mut before)?;
        section.rows.row(self, kind, &section.tape.out)?;
        if is_new {
            let is_attribute = |d| self.is_attribute(d);
            let of = &section.tape.out;
            section.series.set_attributes(series, |to| self.shapes.attributes(shape, of, is_attribute, to));
        }
        section.series.note(series, kind, &section.tape.out);
        self.hold(|| section.size())
    }

    /// The times of a point.
    fn point_times<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        context: u32,
        series: &mut Series,
        shape: u32,
        is_first: bool,
    ) -> Known {
        let mut known = Known::default();
        let of = &self.shapes.all[shape as usize];
        let (time_place, start_place) = (of.place(Role::Time), of.place(Role::Start));
        let Context { resource, scope, .. } = self.contexts[context as usize];
        let (first_time, first_start) =
            section.first.get(&(resource, scope)).copied().unwrap_or(section.last_first);
        if let Some(place) = time_place {
            let given = section.tape.peek(place);
            let on = series.time.wrapping_add(series.step);
            let time = if is_first {
                self.times[0].code_time(coder, &mut self.numbers, given, &[first_time, on])
            } else {
                let after = section.after.get(&series.time).copied().unwrap_or(on);
                self.times[1].code_time(coder, &mut self.numbers, given, &[after, on])
            };
            section.after.insert(series.time, time);
            series.step = if series.time == 0 { 0 } else { time.wrapping_sub(series.time) };
            known[Role::Time as usize] = Some([time, 0]);
            if let Some(place) = start_place {
                self.point_start(coder, section.tape.peek(place), series, is_first, first_start, &mut known);
            }
            coder.account(Message::NumberPoint, 3);
            series.time = time;
        } else if let Some(place) = start_place {
            self.point_start(coder, section.tape.peek(place), series, is_first, first_start, &mut known);
        }
        if is_first {
            section.last_first = (series.time, series.start);
            section.first.insert((resource, scope), section.last_first);
        }
        known
    }

    fn point_start<C: Coder>(
        &mut self,
        coder: &mut C,
        given: u64,
        series: &mut Series,
        is_first: bool,
        first_start: u64,
        known: &mut Known,
    ) {
        let model = if is_first { 2 } else { 3 };
        let near = [if series.start == 0 { first_start } else { series.start }, series.time];
        series.start = self.times[model].code_time(coder, &mut self.numbers, given, &near);
        known[Role::Start as usize] = Some([series.start, 0]);
    }

    /// Whether a shape is that of a point in `context` with these attributes.
    fn is_point_of(&self, shape: u32, context: u32, attributes: Option<&[(u32, u32)]>) -> bool {
        let of = &self.shapes.all[shape as usize];
        if of.message != self.contexts[context as usize].message() {
            return false;
        }
        let Some(attributes) = attributes else { return true };
        let mut left = attributes.iter();
        let same = self.shapes.parts(shape).iter().all(|part| match part.element {
            Element::Dictionary(d) if self.is_attribute(d) => left.next().is_some_and(|a| a.0 == d),
            _ => true,
        });
        same && left.next().is_none()
    }
}

/// What stands for a type where a point is the first of its series.
const POINT: u64 = 6 << 40;
