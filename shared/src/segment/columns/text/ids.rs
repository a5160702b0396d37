//! Ids in text: those of the segment's spans are references; others are their bytes once, and then known.

use super::super::entropy::Coder;
use super::super::positions::Positions;
use super::history::Step;
use super::predict::{Hit, Predictor, mix};
use super::values::{Place, Slots};

/// Ids from text that are kept.
const KEPT: usize = 1 << 14;

/// Spans of the segment before that are still known, about.
const KEPT_SPANS: usize = 1 << 13;

/// An id as text shows it: digits, of which there are so many. Two halves take less room than a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Id([u64; 2], u8);

impl Id {
    const fn new(id: u128, digits: u8) -> Self {
        Self([(id >> 64) as u64, id as u64], digits)
    }

    fn whole(self) -> u128 {
        u128::from(self.0[0]) << 64 | u128::from(self.0[1])
    }
}

/// Where an id is known from. The numbers are persisted.
const NEW: u64 = 0;
const KNOWN: u64 = 1;
const OWN_TRACE: u64 = 2;
const OWN_SPAN: u64 = 3;
const TRACE: u64 = 4;
const SPAN: u64 = 5;

/// What the encoder looks ids up in.
#[derive(Debug, Clone, Default)]
struct Lookup {
    kept: Positions,
    traces: Positions,
    spans: Positions,
    /// How many of the segment's are in.
    known_traces: usize,
    known_spans: usize,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Ids {
    kept: Vec<Id>,
    /// How many were ever kept.
    count: u64,
    /// Traces of this segment and the last ones of its base, and their first spans.
    traces: Vec<(u128, u32)>,
    spans: Vec<u64>,
    last_trace: u64,
    lookup: Lookup,
}

fn from_halves(id: [u64; 2]) -> u128 {
    u128::from(id[0].swap_bytes()) << 64 | u128::from(id[1].swap_bytes())
}

/// The ids of the record that text is of.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Own {
    pub(super) trace: Option<u128>,
    pub(super) span: Option<u64>,
}

impl Own {
    pub(super) fn new(trace: Option<[u64; 2]>, span: Option<u64>) -> Self {
        Self { trace: trace.map(from_halves), span: span.map(u64::swap_bytes) }
    }
}

impl Ids {
    /// Begins a segment. The last spans of the one before it are still known.
    pub(super) fn begin(&mut self) {
        let surplus = self.spans.len().saturating_sub(KEPT_SPANS) as u32;
        let past = self.traces.partition_point(|t| t.1 < surplus);
        let from = self.traces.get(past).map_or(self.spans.len(), |t| t.1 as usize);
        self.traces.drain(..past);
        self.spans.drain(..from);
        self.traces.iter_mut().for_each(|t| t.1 -= from as u32);
        self.last_trace = self.traces.len() as u64;
        self.lookup.traces.clear();
        self.lookup.spans.clear();
        (self.lookup.known_traces, self.lookup.known_spans) = (0, 0);
    }

    pub(super) const fn size(&self) -> usize {
        self.kept.len() * 2 * size_of::<Id>()
            + self.spans.len() * 8
            + self.traces.len() * size_of::<(u128, u32)>()
    }

    /// A span of the segment.
    pub(super) fn span(&mut self, [a, b, id]: [u64; 3]) {
        let trace = from_halves([a, b]);
        if self.traces.last().is_none_or(|t| t.0 != trace) {
            self.traces.push((trace, self.spans.len() as u32));
        }
        self.spans.push(id.swap_bytes());
    }

    /// Brings the lookup to what is known.
    fn look(&mut self) {
        let Self { kept, traces, spans, lookup, .. } = self;
        // A base that came from decoding has none yet.
        if lookup.kept.is_empty() {
            (0..kept.len()).for_each(|n| lookup.kept.insert(n as u32, |n| kept[n as usize]));
        }
        for n in lookup.known_traces..traces.len() {
            lookup.traces.insert(n as u32, |n| traces[n as usize].0);
        }
        for n in lookup.known_spans..spans.len() {
            lookup.spans.insert(n as u32, |n| spans[n as usize]);
        }
        (lookup.known_traces, lookup.known_spans) = (traces.len(), spans.len());
    }

    #[inline(never)]
    fn find(&mut self, own: Own, id: u128, digits: u8) -> (u64, u64) {
        if digits == 32 && own.trace == Some(id) {
            return (OWN_TRACE, 0);
        }
        if digits == 16 && own.span == Some(id as u64) {
            return (OWN_SPAN, 0);
        }
        self.look();
        if let Some(n) = self.lookup.kept.find(&Id::new(id, digits), |n| self.kept[n as usize]) {
            return (KNOWN, u64::from(n));
        }
        if digits == 32
            && let Some(n) = self.lookup.traces.find(&id, |n| self.traces[n as usize].0)
        {
            return (TRACE, u64::from(n));
        }
        if digits == 16
            && let Some(n) = self.lookup.spans.find(&(id as u64), |n| self.spans[n as usize])
        {
            return (SPAN, u64::from(n));
        }
        (NEW, 0)
    }

    #[inline(never)]
    fn keep<C: Coder>(&mut self, id: Id) -> u32 {
        let at = (self.count % KEPT as u64) as usize;
        self.count += 1;
        if at < self.kept.len() {
            if C::ENCODES {
                self.lookup.kept.remove(at as u32, |n| self.kept[n as usize]);
            }
            self.kept[at] = id;
        } else {
            self.kept.push(id);
        }
        if C::ENCODES {
            self.lookup.kept.insert(at as u32, |n| self.kept[n as usize]);
        }
        at as u32
    }

    /// An id of so many digits in its place. `None` for one that is not known where it should be.
    #[expect(clippy::too_many_arguments, reason = "a value, where it stands, and what is near")]
    pub(super) fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        predictor: &mut Predictor,
        slots: &mut Slots,
        mut place: Place<'_>,
        own: Own,
        id: u128,
        digits: u8,
    ) -> Option<u128> {
        predictor.is_surprised = false;
        let (id, at) = self.known_or_new(coder, predictor, slots, &mut place, own, id, digits)?;
        match at {
            Some(at) => {
                slots.saw(place.own, id as u64);
                place.history.take(Step::Id, at, predictor.is_surprised);
            }
            None => place.history.take(Step::Other, id as u32 ^ (id >> 64) as u32, false),
        }
        Some(id)
    }

    /// An id, and where it is kept if it is one that is guessed.
    #[expect(clippy::too_many_arguments, reason = "a value, where it stands, and what is near")]
    fn known_or_new<C: Coder>(
        &mut self,
        coder: &mut C,
        predictor: &mut Predictor,
        slots: &mut Slots,
        place: &mut Place<'_>,
        own: Own,
        id: u128,
        digits: u8,
    ) -> Option<(u128, Option<u32>)> {
        let is_short = digits < 16 && place.history.has_steps();
        let slot = place.slot;
        let (from, number) = if C::ENCODES { self.find(own, id, digits) } else { (0, 0) };
        let from = predictor.tree(coder, mix(slot, 11), 3, from);
        let contexts = [mix(slot, 12), mix(mix(slot, place.variable), 13)];
        let pair = if is_short { predictor.pair(contexts) } else { predictor.pair_of_place(contexts) };
        let certain = !is_short || predictor.is_certain(pair);
        let guesses = place.history.guess(Step::Id, place.step, place.first, certain);
        let id = match from {
            OWN_TRACE => return Some((own.trace?, None)),
            OWN_SPAN => return Some((u128::from(own.span?), None)),
            KNOWN => {
                let at = match predictor.code(coder, 1, pair, number as u32, guesses) {
                    Hit::First(at) | Hit::Other(at) => at,
                    Hit::Missed => {
                        let newest = self.count.checked_sub(1)?;
                        let back = newest.wrapping_sub(number) % KEPT as u64;
                        let back = predictor.number(coder, mix(slot, 14), 3, back);
                        let at = (newest.wrapping_sub(back) % KEPT as u64) as u32;
                        predictor.learn(pair, at);
                        at
                    }
                };
                // Cells are shared by what has the same hash.
                let known = self.kept.get(at as usize).filter(|known| known.1 == digits)?;
                return Some((known.whole(), is_short.then_some(at)));
            }
            NEW => {
                predictor.is_surprised = true;
                let near = match is_short {
                    true => slots.near_hex(coder, predictor, [place.own, slot], id as u64, digits),
                    false => None,
                };
                match near {
                    Some(id) => u128::from(id),
                    None => {
                        let low = coder.raw(id as u64, u32::from(digits.min(16)) * 4);
                        let high = coder.raw((id >> 64) as u64, u32::from(digits.saturating_sub(16)) * 4);
                        u128::from(high) << 64 | u128::from(low)
                    }
                }
            }
            TRACE => {
                let step = number.wrapping_sub(self.last_trace);
                let step = predictor.signed(coder, mix(slot, 15), 3, step);
                self.last_trace = self.last_trace.wrapping_add(step);
                self.traces.get(usize::try_from(self.last_trace).ok()?)?.0
            }
            SPAN => {
                let first = self.traces.get(self.last_trace as usize).map_or(0, |t| u64::from(t.1));
                let step = predictor.signed(coder, mix(slot, 16), 3, number.wrapping_sub(first));
                let at = first.wrapping_add(step);
                let span = *self.spans.get(usize::try_from(at).ok()?)?;
                // What comes next is near that one.
                self.last_trace =
                    self.traces.partition_point(|t| u64::from(t.1) <= at).saturating_sub(1) as u64;
                u128::from(span)
            }
            _ => return None,
        };
        let at = self.keep::<C>(Id::new(id, digits));
        predictor.learn(pair, at);
        Some((id, is_short.then_some(at)))
    }
}
