//! Series of data points that are known: what each is, and its last points.
//!
//! Attributes and values of all series stand one behind the other, so that a copy for the next segment is quickly made.

use super::state::{NONE, copy};

/// A point that is kept.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Its type, [`NONE`] when there is no point.
    kind: u32,
    /// Where its values begin, how many there are, and for how many there is room.
    start: u32,
    length: u32,
    room: u32,
}

impl Kept {
    const NOTHING: Self = Self { kind: NONE, start: 0, length: 0, room: 0 };
}

/// A series of data points.
#[derive(Debug, Clone, Copy)]
pub(super) struct Series {
    context: u32,
    /// The next one of its context.
    next: u32,
    /// Where its attributes begin and end.
    attributes: [u32; 2],
    /// The last two points.
    last: Kept,
    before: Kept,
    pub(super) start: u64,
    pub(super) time: u64,
    pub(super) step: u64,
}

impl Series {
    /// One of which nothing is known.
    pub(super) const fn new(context: u32) -> Self {
        let (last, before) = (Kept::NOTHING, Kept::NOTHING);
        Self { context, next: NONE, attributes: [0; 2], last, before, start: 0, time: 0, step: 0 }
    }

    /// The type of its last point.
    pub(super) const fn last_kind(&self) -> Option<u32> {
        if self.last.kind == NONE { None } else { Some(self.last.kind) }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct SeriesList {
    pub(super) all: Vec<Series>,
    /// The first and the last series of each context.
    ends: Vec<[u32; 2]>,
    /// Each a dictionary and an entry.
    attributes: Vec<(u32, u32)>,
    values: Vec<u64>,
}

impl Clone for SeriesList {
    fn clone(&self) -> Self {
        let Self { all, ends, attributes, values } = self;
        Self { all: copy(all), ends: copy(ends), attributes: copy(attributes), values: copy(values) }
    }
}

impl SeriesList {
    /// What makes a series: its context and its attributes.
    pub(super) fn key(&self, number: u32) -> (u32, &[(u32, u32)]) {
        let series = &self.all[number as usize];
        (series.context, self.attributes(series))
    }

    /// The attributes of a series.
    #[inline]
    pub(super) fn attributes(&self, series: &Series) -> &[(u32, u32)] {
        let [start, end] = series.attributes;
        &self.attributes[start as usize..end as usize]
    }

    /// Gives a new series the attributes that `append` appends.
    pub(super) fn set_attributes(&mut self, series: &mut Series, append: impl FnOnce(&mut Vec<(u32, u32)>)) {
        let start = self.attributes.len() as u32;
        append(&mut self.attributes);
        series.attributes = [start, self.attributes.len() as u32];
    }

    /// The values of the last point, and of the one before that, if they are of this type.
    #[inline]
    pub(super) fn last_two(&self, series: &Series, kind: u32) -> (Option<&[u64]>, Option<&[u64]>) {
        let values = |kept: Kept| {
            (kept.kind == kind)
                .then(|| &self.values[kept.start as usize..(kept.start + kept.length) as usize])
        };
        let last = values(series.last);
        (last, last.and_then(|_| values(series.before)))
    }

    /// Notes the values of the next point of `series`.
    pub(super) fn note(&mut self, series: &mut Series, kind: u32, values: &[u64]) {
        let mut kept = std::mem::replace(&mut series.before, series.last);
        let length = values.len() as u32;
        if kept.room < length {
            // What grows once grows again; then little is left behind.
            let room = if kept.room == 0 { length } else { length.next_power_of_two() };
            kept.start = self.values.len() as u32;
            kept.room = room;
            self.values.resize(self.values.len() + room as usize, 0);
        }
        self.values[kept.start as usize..][..values.len()].copy_from_slice(values);
        series.last = Kept { kind, length, ..kept };
    }

    /// Adds a series.
    pub(super) fn push(&mut self, series: Series) {
        let (number, context) = (self.all.len() as u32, series.context as usize);
        self.all.push(series);
        if self.ends.len() <= context {
            self.ends.resize(context + 1, [NONE; 2]);
        }
        let [first, last] = &mut self.ends[context];
        match self.all.get_mut(*last as usize) {
            Some(before) => before.next = number,
            None => *first = number,
        }
        *last = number;
    }

    /// The first series of a context, [`NONE`] if there is none.
    pub(super) fn first_of(&self, context: u32) -> u32 {
        self.ends.get(context as usize).map_or(NONE, |ends| ends[0])
    }

    /// The next series of the same context, [`NONE`] behind the last.
    pub(super) fn behind(&self, number: u32) -> u32 {
        self.all[number as usize].next
    }

    /// Bytes that they take.
    pub(super) const fn size(&self) -> usize {
        self.all.len() * size_of::<Series>()
            + self.ends.len() * 8
            + self.attributes.len() * 8
            + self.values.len() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_points_are_kept_whatever_their_length() {
        let mut list = SeriesList::default();
        let mut series = Series::new(3);
        assert_eq!(list.last_two(&series, 1), (None, None));
        for n in 0..20u64 {
            list.note(&mut series, 1, &vec![n; n as usize % 7]);
            let before = (n > 0).then(|| vec![n - 1; (n as usize + 6) % 7]);
            let kept = list.last_two(&series, 1);
            assert_eq!(kept, (Some(&vec![n; n as usize % 7][..]), before.as_deref()));
        }
        assert_eq!(list.last_two(&series, 2), (None, None), "of another type");
        assert!(list.values.len() < 40);
    }

    #[test]
    fn series_of_a_context_follow_one_another() {
        let mut list = SeriesList::default();
        for context in [2, 0, 2, 2, 0] {
            list.push(Series::new(context));
        }
        let of = |context| {
            let first = Some(list.first_of(context)).filter(|n| *n != NONE);
            let next = |n: &u32| Some(list.behind(*n)).filter(|n| *n != NONE);
            std::iter::successors(first, next).collect::<Vec<_>>()
        };
        assert_eq!((of(0), of(1), of(2), of(9)), (vec![1, 4], vec![], vec![0, 2, 3], vec![]));
    }
}
