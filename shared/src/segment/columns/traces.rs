//! Spans and logs: trace by trace, each span known by its place in the tree.
//!
//! The tree is told by one small decision a step: whether the span that is open has another child. A child knows its trace and
//! its parent from that, and its times are near those of its parent and of the child before it. Logs stand behind their span.

use super::build::Rows;
use super::entropy::Coder;
use super::forest::{Forest, Node};
use super::rows::{Around, Before, Tape};
use super::schema::{Message, Role};
use super::shred::Row;
use super::state::{self, About, Known, N, NONE, State, Type};
use crate::segment::CodecError;

/// A span whose children are being coded.
#[derive(Debug, Clone, Copy)]
struct Open {
    kind: u64,
    id: u64,
    start: u64,
    end: u64,
    children: u64,
    /// The child before: its type, start and end.
    last_kind: u64,
    last_start: u64,
    last_end: u64,
}

/// What stands for a type where there is none.
const ROOT: u64 = 1 << 40;
const GHOST: u64 = 2 << 40;
const FIRST: u64 = 3 << 40;
const LOG: u64 = 4 << 40;
const LOOSE: u64 = 5 << 40;

/// Bytes of an id that are the same in all of a segment.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Ids {
    same: u64,
    value: u64,
}

impl Ids {
    /// Of all that the encoder will code.
    fn of(ids: impl Iterator<Item = u64>) -> Self {
        let (mut same, mut first) = (u64::MAX, None);
        for id in ids {
            let value = *first.get_or_insert(id);
            let differ = (value ^ id).to_le_bytes().map(|b| if b == 0 { 0xff } else { 0 });
            same &= u64::from_le_bytes(differ);
        }
        let same = if first.is_some() { same } else { 0 };
        Self { same, value: first.unwrap_or(0) & same }
    }

    fn code_self<C: Coder>(&mut self, coder: &mut C) {
        let mut mask = 0;
        for (n, byte) in self.same.to_le_bytes().iter().enumerate() {
            mask |= u64::from(byte & 1) << n;
        }
        let mask = coder.raw(mask, 8);
        let mut same = [0; 8];
        for (n, byte) in same.iter_mut().enumerate() {
            *byte = if mask >> n & 1 == 1 { 0xff } else { 0 };
        }
        self.same = u64::from_le_bytes(same);
        self.value = if mask == 0 { 0 } else { coder.raw(self.value, 64) & self.same };
    }

    #[inline]
    fn code<C: Coder>(&self, coder: &mut C, id: u64) -> u64 {
        if self.same == 0 {
            return coder.raw(id, 64);
        }
        let mut out = self.value;
        for n in 0..8 {
            if self.same >> (8 * n) & 0xff == 0 {
                out |= coder.raw(id >> (8 * n) & 0xff, 8) << (8 * n);
            }
        }
        out
    }
}

/// The tapes that the encoder is given.
pub(super) struct Given<'a> {
    pub(super) tape: &'a [u64],
    pub(super) forest: &'a Forest,
}

impl<'a> Given<'a> {
    fn row(&self, row: Option<Row>) -> &'a [u64] {
        row.map_or(&[], |r| &self.tape[r.at as usize..])
    }
}

/// What is the same for all spans of a segment.
struct Section<'a, 'b> {
    given: &'b Given<'a>,
    rows: &'b mut dyn Rows,
    tape: Tape<'a>,
    span_ids: Ids,
    /// When the last span began that has no parent here.
    last_start: u64,
    /// The last log's time.
    last_log: u64,
    /// Spans and logs so far.
    real: u64,
    logs: u64,
}

impl State {
    /// All spans and logs.
    pub(super) fn traces<C: Coder>(
        &mut self,
        coder: &mut C,
        given: &Given<'_>,
        rows: &mut dyn Rows,
    ) -> Result<(), CodecError> {
        let forest = given.forest;
        let nodes = || forest.traces.iter().flat_map(|t| &t.nodes);
        let mut trace_ids = [0, 1].map(|half| Ids::of(forest.traces.iter().map(|t| t.id[half])));
        let mut span_ids = Ids::of(nodes().map(|n| n.id));
        let count = self.number(coder, N::Traces, forest.traces.len() as u64);
        if count > 0 {
            trace_ids.iter_mut().for_each(|ids| ids.code_self(coder));
            span_ids.code_self(coder);
        }
        let mut section = Section {
            given,
            rows,
            tape: Tape::default(),
            span_ids,
            last_start: 0,
            last_log: 0,
            real: 0,
            logs: 0,
        };
        for n in 0..count as usize {
            self.spend(1)?;
            let trace = forest.traces.get(n);
            let id = trace.map_or([0; 2], |t| t.id);
            let id = [trace_ids[0].code(coder, id[0]), trace_ids[1].code(coder, id[1])];
            let bits = coder.account(Message::Span, 1);
            let (before, logs) = (section.real, section.logs);
            self.trace(coder, &mut section, id, trace.map_or(&[], |t| &t.nodes))?;
            if section.real == before && section.logs > logs {
                coder.transfer(bits, (Message::Span, 1), (Message::LogRecord, 9));
            }
        }
        for (message, n) in [(Message::Span, 0), (Message::LogRecord, 1)] {
            self.loose(coder, &mut section, message, &forest.loose[n])?;
        }
        Ok(())
    }

    fn trace<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        id: [u64; 2],
        nodes: &[Node],
    ) -> Result<(), CodecError> {
        let mut open: Vec<Open> = Vec::new();
        let mut root = Open {
            kind: ROOT,
            id: 0,
            start: section.last_start,
            end: section.last_start,
            children: 0,
            last_kind: FIRST,
            last_start: section.last_start,
            last_end: section.last_start,
        };
        let mut next = 0;
        loop {
            let node = nodes.get(next);
            let depth = node.map(|n| n.depth as usize);
            let more = loop {
                let level = open.len();
                let (about, parent) = match open.last() {
                    Some(parent) => (About::Child, parent),
                    None => (About::Root, &root),
                };
                let (a, b) = (parent.kind << 2 | parent.children.min(3), parent.last_kind);
                if self.bit(coder, about, a, b, depth == Some(level)) {
                    break true;
                }
                if open.pop().is_none() {
                    break false;
                }
            };
            coder.account(Message::Span, 4);
            if !more {
                return Ok(());
            }
            next += 1;
            self.spend(1)?;
            let has_parent = !open.is_empty();
            let mut parent = open.last().copied().unwrap_or(root);
            let child = self.node(coder, section, id, &parent, has_parent, node)?;
            parent.children += 1;
            parent.last_kind = child.kind;
            parent.last_start = child.start;
            parent.last_end = child.end;
            match open.last_mut() {
                Some(last) => *last = parent,
                None => {
                    section.last_start = child.start;
                    root = parent;
                }
            }
            open.push(child);
        }
    }

    fn node<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        trace: [u64; 2],
        parent: &Open,
        has_parent: bool,
        node: Option<&Node>,
    ) -> Result<Open, CodecError> {
        let row = node.and_then(|n| n.row);
        let ghost = !has_parent && self.bit(coder, About::Ghost, 0, parent.last_kind, row.is_none());
        let id = section.span_ids.code(coder, node.map_or(0, |n| n.id));
        let bits = coder.account(Message::Span, 2);
        let logs = section.logs;
        let (kind, start, end) = if ghost {
            self.spend(state::GHOST)?;
            (GHOST, parent.last_start, parent.last_end)
        } else {
            self.span(coder, section, [trace[0], trace[1], id], parent, has_parent, row)?
        };
        let span = [trace[0], trace[1], id];
        self.spans.push(span);
        self.numbers.text.span(span);
        let child =
            Open { kind, id, start, end, children: 0, last_kind: FIRST, last_start: start, last_end: start };
        self.logs(coder, section, span, &child, node.map_or(&[], |n| &n.logs))?;
        if ghost {
            let to = if section.logs > logs { (Message::LogRecord, 10) } else { (Message::Span, 4) };
            coder.transfer(bits, (Message::Span, 2), to);
        }
        Ok(child)
    }

    fn span<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        id: [u64; 3],
        parent: &Open,
        has_parent: bool,
        row: Option<Row>,
    ) -> Result<(u64, u64, u64), CodecError> {
        let kind = self.item_type(coder, section, row, [parent.kind, parent.last_kind])?;
        let shape = self.types[kind].shape;
        let of = &self.shapes.all[shape as usize];
        if of.message != Message::Span
            || !of.has(Role::Trace)
            || !of.has(Role::Span)
            || of.has(Role::Parent) != has_parent
        {
            return Err(CodecError::Damaged("a span that has no place in its trace"));
        }
        let (start_place, end_place) = (of.place(Role::Start), of.place(Role::Time));
        let mut known = Known::default();
        known[Role::Trace as usize] = Some([id[0], id[1]]);
        known[Role::Span as usize] = Some([id[2], 0]);
        known[Role::Parent as usize] = Some([parent.id, 0]);
        known[Role::Name as usize] = self.name_known(kind);
        let (mut start, mut end) = (parent.last_start, parent.last_end);
        let times = &mut self.item_times[self.types[kind].times as usize];
        if let Some(place) = start_place {
            let near = [parent.last_end, parent.start, parent.last_start];
            start = times[0].code_time(coder, &mut self.numbers, section.tape.peek(place), &near);
            known[Role::Start as usize] = Some([start, 0]);
            end = start;
        }
        coder.account(Message::Span, 7);
        if let Some(place) = end_place {
            let near = [start, parent.end];
            let near = if has_parent && parent.kind != GHOST { &near[..] } else { &near[..1] };
            end = times[1].code_time(coder, &mut self.numbers, section.tape.peek(place), near);
            known[Role::Time as usize] = Some([end, 0]);
        }
        coder.account(Message::Span, 8);
        self.numbers.text.record(start, kind as u64, Some([id[0], id[1]]), Some(id[2]));
        self.item(coder, section, kind, Around { known: &known, time: start, series: None })?;
        section.real += 1;
        Ok((kind as u64, start, end))
    }

    /// The values of a span or a log of a type, which are a row then.
    fn item<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        kind: usize,
        around: Around<'_>,
    ) -> Result<(), CodecError> {
        let Type { shape, slots, .. } = self.types[kind];
        self.elements(coder, shape, slots, &mut section.tape, around, &mut Before::default())?;
        section.rows.row(self, kind as u32, &section.tape.out)?;
        self.hold(|| section.rows.size())
    }

    fn name_known(&self, kind: usize) -> Option<[u64; 2]> {
        let name = self.types[kind].name;
        (name != NONE).then_some([u64::from(name), 0])
    }

    /// The type of `row`, which the tape then begins with.
    fn item_type<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        row: Option<Row>,
        after: [u64; 2],
    ) -> Result<usize, CodecError> {
        let given = section.given.row(row);
        section.tape.restart(given);
        let (context, shape) = row.map_or((0, 0), |r| (r.context, r.shape));
        let place = row.and_then(|_| self.shapes.all[shape as usize].place(Role::Name));
        let name = place.map_or(u64::from(NONE), |p| section.tape.peek(p));
        let kind = self.kind_of_item(coder, context, shape, name, after)? as usize;
        coder.account(self.shapes.all[self.types[kind].shape as usize].message, 5);
        Ok(kind)
    }

    /// The logs of a span.
    fn logs<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        span: [u64; 3],
        of: &Open,
        logs: &[Row],
    ) -> Result<(), CodecError> {
        let mut last = LOG;
        // A ghost tells nothing of when its logs are.
        let mut near = if of.kind == GHOST { [section.last_log; 3] } else { [of.start, of.end, of.start] };
        for n in 0.. {
            let row = logs.get(n).copied();
            let more = self.bit(coder, About::Log, of.kind, n.min(3) as u64, row.is_some());
            coder.account(Message::LogRecord, 10);
            if !more {
                return Ok(());
            }
            self.spend(1)?;
            let kind = self.item_type(coder, section, row, [of.kind | LOG, last])?;
            let shape = &self.shapes.all[self.types[kind].shape as usize];
            if shape.message != Message::LogRecord || !shape.has(Role::Trace) || !shape.has(Role::Span) {
                return Err(CodecError::Damaged("a log that has no place in its span"));
            }
            let mut known = Known::default();
            known[Role::Trace as usize] = Some([span[0], span[1]]);
            known[Role::Span as usize] = Some([span[2], 0]);
            near[2] = self.log(coder, section, kind, known, near)?;
            last = kind as u64;
        }
        Ok(())
    }

    /// A log whose type is known; returns its time.
    fn log<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        kind: usize,
        mut known: Known,
        near: [u64; 3],
    ) -> Result<u64, CodecError> {
        let shape = self.types[kind].shape;
        let of = &self.shapes.all[shape as usize];
        let (time_place, observed_place) = (of.place(Role::Time), of.place(Role::Observed));
        let mut time = near[2];
        let times = &mut self.item_times[self.types[kind].times as usize];
        if let Some(place) = time_place {
            time = times[0].code_time(coder, &mut self.numbers, section.tape.peek(place), &near);
            known[Role::Time as usize] = Some([time, 0]);
        }
        if let Some(place) = observed_place {
            let observed = section.tape.peek(place);
            // Some libraries leave the time out; then this one is all there is.
            let observed = if time_place.is_some() {
                times[1].code_time(coder, &mut self.numbers, observed, &[time])
            } else {
                times[2].code_time(coder, &mut self.numbers, observed, &near)
            };
            known[Role::Observed as usize] = Some([observed, 0]);
            if time_place.is_none() {
                time = observed;
            }
        }
        coder.account(Message::LogRecord, 1);
        section.last_log = time;
        section.logs += 1;
        let (trace, span) = (known[Role::Trace as usize], known[Role::Span as usize]);
        self.numbers.text.record(time, kind as u64, trace, span.map(|s| s[0]));
        self.item(coder, section, kind, Around { known: &known, time, series: None })?;
        Ok(time)
    }

    /// Spans or logs that are in no trace.
    fn loose<C: Coder>(
        &mut self,
        coder: &mut C,
        section: &mut Section<'_, '_>,
        message: Message,
        given: &[Row],
    ) -> Result<(), CodecError> {
        let count = self.number(coder, N::Loose, given.len() as u64);
        let mut last = FIRST;
        for n in 0..count as usize {
            self.spend(1)?;
            let row = given.get(n).copied();
            let kind = self.item_type(coder, section, row, [LOOSE | message as u64, last])?;
            if self.shapes.all[self.types[kind].shape as usize].message != message {
                return Err(CodecError::Damaged("an item among others"));
            }
            last = kind as u64;
            if message == Message::LogRecord {
                let near = [section.last_log; 3];
                self.log(coder, section, kind, Known::default(), near)?;
                continue;
            }
            let mut known = Known::default();
            known[Role::Name as usize] = self.name_known(kind);
            self.numbers.text.record(0, kind as u64, None, None);
            self.item(coder, section, kind, Around { known: &known, time: 0, series: None })?;
        }
        Ok(())
    }
}
