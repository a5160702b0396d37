//! Data points: series by series, so that what hardly changes stands beside itself.
//!
//! A series is a context (resource, scope, metric) and its attributes, and known from then on: by the next points, and by the
//! next segments that lean on this one. Times are near those that followed the same time in the series before.

use rustc_hash::FxHashMap;

use super::build::Rows;
use super::dictionary::Purpose;
use super::entropy::Coder;
use super::rows::{Around, Before, Tape};
use super::schema::{Message, Role};
use super::shape::{Element, Shapes};
use super::shred::Row;
use super::state::{About, Context, Known, N, NONE, SERIES, Series, State};
use super::vocabulary::Vocabulary;
use crate::segment::CodecError;

/// The points of a series, in the order of arrival.
pub(super) type Points = Vec<Row>;

/// What makes a series: its context and its attributes, each a dictionary and an entry.
type Key = (u32, Vec<(u32, u32)>);

/// What the encoder codes: for each metric's context the points of the series that are known, in their order, and of others.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    contexts: Vec<(Vec<Points>, Vec<Points>)>,
}

/// Groups `rows` by series.
pub(super) fn plan(
    state: &State,
    contexts: &[Context],
    shapes: &Shapes,
    vocabulary: &Vocabulary,
    tape: &[u64],
    rows: &[Row],
) -> Metrics {
    let mut plan = Metrics { contexts: vec![Default::default(); contexts.len()] };
    // Where a series' points go: its place among the known or the new ones of its context.
    let mut places: FxHashMap<Key, (bool, u32)> = FxHashMap::default();
    for (context, known) in plan.contexts.iter_mut().enumerate() {
        for (number, n) in state.series_of.get(&(context as u32)).into_iter().flatten().zip(0..) {
            let attributes = state.series[*number as usize].attributes.clone();
            places.insert((context as u32, attributes), (true, n));
            known.0.push(Points::new());
        }
    }
    let mut key = (0, Vec::new());
    for row in rows {
        key.0 = row.context;
        key.1.clear();
        let is_attribute = |d| vocabulary.purpose(d) == Purpose::Attribute;
        shapes.attributes(row.shape, &tape[row.at as usize..], is_attribute, &mut key.1);
        let lists = &mut plan.contexts[row.context as usize];
        let (known, n) = match places.get(&key) {
            Some(place) => *place,
            None => {
                let place = (false, lists.1.len() as u32);
                lists.1.push(Points::new());
                places.insert(key.clone(), place);
                place
            }
        };
        let list = if known { &mut lists.0 } else { &mut lists.1 };
        list[n as usize].push(*row);
    }
    plan
}

/// What is the same for all points of a segment.
struct Section<'a, 'b> {
    given: &'a [u64],
    rows: &'b mut dyn Rows,
    tape: Tape<'a>,
    /// The time that followed a time, in the series that had it last.
    after: FxHashMap<u64, u64>,
    /// The first time and start of the last series in each scope.
    first: FxHashMap<(u32, u32), (u64, u64)>,
    last_first: (u64, u64),
    /// The type of the last point that began a series.
    last_kind: u64,
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
            after: FxHashMap::default(),
            first: FxHashMap::default(),
            last_first: (0, 0),
            last_kind: u64::from(NONE),
        };
        let nothing = (Vec::new(), Vec::new());
        for context in 0..self.contexts.len() as u32 {
            if self.contexts[context as usize].signal != 2 {
                continue;
            }
            let (old, new) = plan.contexts.get(context as usize).unwrap_or(&nothing);
            let here = old.iter().chain(new).any(|p| !p.is_empty());
            if !self.bit(coder, About::Series, 0, 0, here) {
                continue;
            }
            self.spend(1)?;
            let known = self.series_of.get(&context).cloned().unwrap_or_default();
            for (n, number) in known.iter().enumerate() {
                let points = old.get(n).map_or(&[][..], |p| &p[..]);
                if self.bit(coder, About::Series, 1, 0, !points.is_empty()) {
                    self.points(coder, &mut section, context, Some(*number), points)?;
                }
            }
            let count = self.number(coder, N::Series, new.len() as u64);
            for n in 0..count as usize {
                self.spend(SERIES)?;
                let points = new.get(n).map_or(&[][..], |p| &p[..]);
                self.points(coder, &mut section, context, None, points)?;
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
        // Out of the list while it is worked on; it is put back below.
        let mut series = match number {
            Some(n) => std::mem::take(&mut self.series[n as usize]),
            None => Series::default(),
        };
        let mut is_new = number.is_none();
        for n in 0..count as usize {
            self.spend(1)?;
            let row = points.get(n).copied();
            self.point(coder, section, context, &mut series, (is_new, n == 0), row)?;
            is_new = false;
        }
        match number {
            Some(n) => self.series[n as usize] = series,
            None => {
                self.series_of.entry(context).or_default().push(self.series.len() as u32);
                self.series.push(series);
            }
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
        let last_kind = series.last.as_ref().map(|l| l.0);
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
            || !self.is_point_of(shape, context, (!is_new).then_some(&series.attributes))
        {
            return Err(CodecError::Damaged("a point of another series"));
        }
        let known = self.point_times(coder, section, context, series, shape, is_first);
        let last = series.last.as_ref().filter(|l| l.0 == kind).map(|l| &l.1[..]);
        let older = series.before.as_ref().filter(|l| l.0 == kind && last.is_some()).map(|l| &l.1[..]);
        let around =
            Around { known: &known, time: series.time, series: (!is_new).then_some(&series.attributes) };
        let mut before = Before::new(last, older);
        self.elements(coder, shape, slots, &mut section.tape, around, &mut before)?;
        section.rows.row(self, kind, &section.tape.out)?;
        if is_new {
            let is_attribute = |d| self.is_attribute(d);
            self.shapes.attributes(shape, &section.tape.out, is_attribute, &mut series.attributes);
        }
        let mut oldest = series.before.take().map(|b| b.1).unwrap_or_default();
        oldest.clear();
        oldest.extend_from_slice(&section.tape.out);
        series.before = series.last.replace((kind, oldest));
        Ok(())
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
    fn is_point_of(&self, shape: u32, context: u32, attributes: Option<&Vec<(u32, u32)>>) -> bool {
        let of = &self.shapes.all[shape as usize];
        if of.message != self.contexts[context as usize].message() {
            return false;
        }
        let Some(attributes) = attributes else { return true };
        let mut left = attributes.iter();
        let same = of.elements.iter().all(|element| match element {
            Element::Dictionary(d) if self.is_attribute(*d) => left.next().is_some_and(|a| a.0 == *d),
            _ => true,
        });
        same && left.next().is_none()
    }
}

/// What stands for a type where a point is the first of its series.
const POINT: u64 = 6 << 40;
