//! Where a payload's bytes go: what each column took, found out by decoding it.

use std::collections::BTreeMap;

use super::Base;
use super::dictionary::Kind;
use super::entropy::Part;
use super::schema::Message;
use super::state::State;
use super::unpack::{Parts, pass};
use crate::segment::{Codec, CodecError, Header};
use crate::signal::Signal;

/// What a column takes in a payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// Whose it is. An id that several signals share is that of the signal that carries it first.
    pub signal: Signal,
    /// The message and its field, an attribute with its key; `definitions` are dictionaries and shapes. Of text that is split,
    /// `<number>` and the like are all values of a kind, and a line in quotes is what the words of a template take.
    pub column: String,
    /// Bytes, with fractions.
    pub bytes: f64,
}

/// Templates of each text column that are told apart, the costliest.
const TEMPLATES: usize = 20;

/// Templates that are looked at; what comes later counts with the others.
const MOST_TEMPLATES: usize = 1 << 14;

/// Bytes of a template that are shown.
const SHOWN: usize = 160;

/// Counts bits while a payload is decoded; `()` counts none.
pub(super) trait Account {
    const COUNTS: bool;

    /// Counts what lies between the last call and `at` towards a field.
    fn add(&mut self, message: Message, field: u8, at: f64) -> f64;

    /// Counts a part of a text, which ends at `at`.
    fn part(&mut self, column: usize, part: Part<'_>, at: f64);

    /// Counts bits towards another field after all.
    fn transfer(&mut self, bits: f64, from: (Message, u8), to: (Message, u8));
}

impl Account for () {
    const COUNTS: bool = false;

    fn add(&mut self, _: Message, _: u8, _: f64) -> f64 {
        0.0
    }

    fn part(&mut self, _: usize, _: Part<'_>, _: f64) {}

    fn transfer(&mut self, _: f64, _: (Message, u8), _: (Message, u8)) {}
}

/// Bits of each field of each message.
struct Costs {
    bits: [[f64; 32]; 13],
    at: f64,
    /// Bits of text by column and kind.
    kinds: BTreeMap<(usize, &'static str), f64>,
    /// Bits of what is fixed in a template, by column and template.
    templates: BTreeMap<(usize, Vec<u8>), f64>,
    line: Line,
}

/// The text that is being decoded.
#[derive(Default)]
struct Line {
    template: Vec<u8>,
    bits: f64,
    at: f64,
}

impl Costs {
    fn new() -> Self {
        Self {
            bits: [[0.0; 32]; 13],
            at: 0.0,
            kinds: BTreeMap::new(),
            templates: BTreeMap::new(),
            line: Line::default(),
        }
    }

    /// Bits of the parts of text: by column, how it is shown.
    fn parts(&self) -> Vec<(usize, String, f64)> {
        let mut parts: Vec<_> =
            self.kinds.iter().map(|((c, kind), bits)| (*c, format!("<{kind}>"), *bits)).collect();
        let mut templates: Vec<_> = self.templates.iter().collect();
        templates.sort_by(|a, b| b.1.total_cmp(a.1));
        let mut shown: BTreeMap<usize, usize> = BTreeMap::new();
        for ((column, template), bits) in templates {
            let shown = shown.entry(*column).or_default();
            *shown += 1;
            let named = *shown <= TEMPLATES && !template.is_empty();
            let text = String::from_utf8_lossy(template);
            let name = if named { format!("{text:?}") } else { "other templates".to_owned() };
            parts.push((*column, name, *bits));
        }
        parts
    }
}

impl Account for Box<Costs> {
    const COUNTS: bool = true;

    fn add(&mut self, message: Message, field: u8, at: f64) -> f64 {
        let bits = at - self.at;
        self.bits[message as usize][usize::from(field) & 31] += bits;
        self.at = at;
        bits
    }

    fn transfer(&mut self, bits: f64, from: (Message, u8), to: (Message, u8)) {
        self.bits[from.0 as usize][usize::from(from.1)] -= bits;
        self.bits[to.0 as usize][usize::from(to.1)] += bits;
    }

    fn part(&mut self, column: usize, part: Part<'_>, at: f64) {
        let bits = at - std::mem::replace(&mut self.line.at, at);
        let Line { template, bits: fixed, .. } = &mut self.line;
        match part {
            Part::Before => {
                template.clear();
                *fixed = 0.0;
            }
            Part::Fixed(word) => {
                *fixed += bits;
                template.extend_from_slice(&word[..word.len().min(SHOWN.saturating_sub(template.len()))]);
            }
            Part::Value(kind) => {
                *self.kinds.entry((column, kind)).or_default() += bits;
                if template.len() < SHOWN {
                    template.extend([b"<", kind.as_bytes(), b">"].concat());
                }
            }
            Part::End => {
                if self.templates.len() >= MOST_TEMPLATES {
                    template.clear();
                }
                *self.templates.entry((column, template.clone())).or_default() += *fixed + bits;
            }
        }
    }
}

/// What each column of a payload of codec 2 or a later one takes, the largest first; together all of the payload. What zstd makes
/// of text is shared out by length. Of codec 1 nothing is known.
pub fn inspect(header: &Header, payload: &[u8], base: Option<&Base>) -> Result<Vec<Cost>, CodecError> {
    let Some(layout) = Codec::from_number(header.codec).and_then(Codec::layout) else {
        return Ok(Vec::new());
    };
    let raw_len = header.raw_len;
    let mut parts = Parts::read(layout, payload, raw_len, usize::MAX)?;
    let behind = (payload.len() as u64).saturating_sub(parts.before);
    let mut reader = parts.reader(Box::new(Costs::new()));
    let lengths = reader.lengths();
    let text: usize = lengths.iter().sum();
    let frame = if text == 0 { 0 } else { behind };
    let mut state = base.map_or_else(State::new, |b| b.state.clone());
    let whole = pass(&mut reader, &mut state, (raw_len, usize::MAX))?;

    let mut columns: BTreeMap<(u8, String), f64> = BTreeMap::new();
    let mut add = |signal: Signal, column: String, bytes: f64| {
        *columns.entry((signal as u8, column)).or_default() += bytes;
    };
    for (message, fields) in reader.costs.bits.iter().enumerate() {
        let Some(message) = Message::from_number(message as u64) else { continue };
        for (field, bits) in fields.iter().enumerate().filter(|(_, bits)| **bits > 0.0) {
            add(message.signal(), message.column(field), bits / 8.0);
        }
    }
    for (number, part, bits) in reader.costs.parts() {
        let Some(kind) = state.dictionaries.get(number).map(|d| &d.kind) else { continue };
        let Some(message) = Message::from_number(u64::from(kind.message)) else { continue };
        add(message.signal(), format!("{}: {part}", message.column_of(kind)), bits / 8.0);
        add(message.signal(), message.column(kind.field as usize), -bits / 8.0);
    }
    for (number, length) in lengths.into_iter().enumerate().filter(|(_, length)| *length > 0) {
        let share = frame as f64 * length as f64 / text as f64;
        let Some(kind) = state.dictionaries.get(number).map(|d| &d.kind) else {
            let signal = whole.last().map_or(Signal::Traces, |r| r.signal);
            add(signal, "requests left whole".to_owned(), share);
            continue;
        };
        if let Some(message) = Message::from_number(u64::from(kind.message)) {
            add(message.signal(), format!("{}: text", message.column_of(kind)), share);
            continue;
        }
        // Resources and scopes are shared out by the contexts that there are.
        for signal in Signal::ALL {
            let of = state.contexts.iter().filter(|c| c.signal == signal as u8).count();
            if of > 0 {
                let share = share * of as f64 / state.contexts.len() as f64;
                add(signal, "resource, scope and metric: text".to_owned(), share);
            }
        }
    }
    let sum: f64 = columns.values().sum();
    let mut costs: Vec<Cost> = columns
        .into_iter()
        .filter_map(|((signal, column), bytes)| {
            let bytes = bytes * payload.len() as f64 / sum;
            Some(Cost { signal: Signal::from_number(signal)?, column, bytes })
        })
        .collect();
    costs.sort_by(|a, b| b.bytes.total_cmp(&a.bytes));
    Ok(costs)
}

impl Message {
    const fn signal(self) -> Signal {
        match self {
            Self::Span | Self::Event | Self::Link | Self::Status => Signal::Traces,
            Self::LogRecord => Signal::Logs,
            _ => Signal::Metrics,
        }
    }

    /// The name of the column that a dictionary's entries are in.
    fn column_of(self, kind: &Kind) -> String {
        let column = self.column(kind.field as usize);
        if kind.key.is_empty() { column } else { format!("{column} {}", String::from_utf8_lossy(&kind.key)) }
    }

    /// The name of one of its columns.
    fn column(self, field: usize) -> String {
        let (message, fields): (_, &[(usize, &str)]) = match self {
            Self::Span => (
                "span",
                &[
                    (1, "trace_id"),
                    (2, "span_id"),
                    (3, "trace_state"),
                    (4, "parent_span_id"),
                    (5, "name"),
                    (6, "kind"),
                    (7, "start_time"),
                    (8, "end_time"),
                    (9, "attributes"),
                    (15, "status"),
                    (16, "flags"),
                ],
            ),
            Self::Event => ("event", &[(1, "time"), (2, "name"), (3, "attributes")]),
            Self::Link => ("link", &[(1, "trace_id"), (2, "span_id"), (4, "attributes")]),
            Self::Status => ("status", &[(2, "message"), (3, "code")]),
            Self::LogRecord => (
                "log",
                &[
                    (1, "time"),
                    (2, "severity_number"),
                    (3, "severity_text"),
                    (5, "body"),
                    (6, "attributes"),
                    (8, "flags"),
                    (9, "trace_id"),
                    (10, "span_id"),
                    (11, "observed_time"),
                ],
            ),
            Self::NumberPoint => (
                "point",
                &[
                    (1, "series"),
                    (2, "start_time"),
                    (3, "time"),
                    (4, "as_double"),
                    (5, "exemplars"),
                    (6, "as_int"),
                    (7, "attributes"),
                ],
            ),
            Self::HistogramPoint => (
                "histogram",
                &[
                    (4, "count"),
                    (5, "sum"),
                    (6, "bucket_counts"),
                    (7, "explicit_bounds"),
                    (11, "min"),
                    (12, "max"),
                ],
            ),
            Self::ExponentialPoint => {
                ("exponential_histogram", &[(4, "count"), (5, "sum"), (6, "scale"), (7, "zero_count")])
            }
            Self::SummaryPoint => ("summary", &[(4, "count"), (5, "sum")]),
            Self::Exemplar => {
                ("exemplar", &[(2, "time"), (3, "as_double"), (4, "span_id"), (5, "trace_id"), (6, "as_int")])
            }
            Self::Buckets => ("buckets", &[(1, "offset"), (2, "bucket_counts")]),
            Self::Quantile => ("quantile", &[(1, "quantile"), (2, "value")]),
        };
        match fields.iter().find(|(n, _)| *n == field) {
            Some((_, name)) => format!("{message}.{name}"),
            None if field == 0 => format!("{message}: definitions"),
            None => format!("{message}.field {field}"),
        }
    }
}
