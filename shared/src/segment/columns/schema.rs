//! The messages that the codec takes apart, with field numbers and types of opentelemetry-proto 1.x.

/// A message with columns of its own. The numbers are persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Message {
    Span = 1,
    Event = 2,
    Link = 3,
    Status = 4,
    LogRecord = 5,
    NumberPoint = 6,
    HistogramPoint = 7,
    ExponentialPoint = 8,
    SummaryPoint = 9,
    Exemplar = 10,
    Buckets = 11,
    Quantile = 12,
}

impl Message {
    /// How many dictionaries there may be beside those of attributes: one of raw fields for each message, and the orders.
    pub(super) const COUNT: usize = 64;

    const ALL: [Self; 12] = [
        Self::Span,
        Self::Event,
        Self::Link,
        Self::Status,
        Self::LogRecord,
        Self::NumberPoint,
        Self::HistogramPoint,
        Self::ExponentialPoint,
        Self::SummaryPoint,
        Self::Exemplar,
        Self::Buckets,
        Self::Quantile,
    ];

    pub(super) fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|m| *m as u64 == number)
    }

    /// What the data points of a metric are, by the field of `Metric` that holds them.
    pub(super) const fn of_data(field: u32) -> Option<Self> {
        match field {
            5 | 7 => Some(Self::NumberPoint),
            9 => Some(Self::HistogramPoint),
            10 => Some(Self::ExponentialPoint),
            11 => Some(Self::SummaryPoint),
            _ => None,
        }
    }
}

/// How a field is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Varint,
    Fixed32,
    Fixed64,
    /// A string, or bytes that repeat, in a dictionary of its own.
    Text,
    /// 8 bytes, or none.
    Id8,
    /// 16 bytes, or none.
    Id16,
    /// A `KeyValue`.
    Attribute,
    /// An `AnyValue`.
    Any,
    One(Message),
    Many(Message),
    /// Packed fixed64 that count something.
    Fixed64List,
    /// Packed varints that count something.
    VarintList,
}

/// Fields with a higher number have no rule.
const HIGHEST: usize = 16;

/// The rules of each message's fields.
static RULES: [[Option<Rule>; HIGHEST + 1]; Message::ALL.len() + 1] = {
    let mut rules = [[None; HIGHEST + 1]; Message::ALL.len() + 1];
    let mut n = 0;
    while n < Message::ALL.len() {
        let mut field = 0;
        while field <= HIGHEST {
            rules[Message::ALL[n] as usize][field] = rule_of(Message::ALL[n], field as u32);
            field += 1;
        }
        n += 1;
    }
    rules
};

/// How field `number` of `message` is kept; `None` for one that the codec does not know.
#[inline]
pub(super) fn rule(message: Message, number: u32) -> Option<Rule> {
    RULES[message as usize].get(number as usize).copied().flatten()
}

const fn rule_of(message: Message, number: u32) -> Option<Rule> {
    use Rule::{
        Any, Attribute, Fixed32, Fixed64, Fixed64List, Id8, Id16, Many, One, Text, Varint, VarintList,
    };
    Some(match (message, number) {
        (Message::Span, 1) => Id16,
        (Message::Span, 2 | 4) => Id8,
        (Message::Span, 3 | 5) => Text,
        (Message::Span, 6 | 10 | 12 | 14) => Varint,
        (Message::Span, 7 | 8) => Fixed64,
        (Message::Span, 9) => Attribute,
        (Message::Span, 11) => Many(Message::Event),
        (Message::Span, 13) => Many(Message::Link),
        (Message::Span, 15) => One(Message::Status),
        (Message::Span, 16) => Fixed32,

        (Message::Event, 1) => Fixed64,
        (Message::Event, 2) => Text,
        (Message::Event, 3) => Attribute,
        (Message::Event, 4) => Varint,

        (Message::Link, 1) => Id16,
        (Message::Link, 2) => Id8,
        (Message::Link, 3) => Text,
        (Message::Link, 4) => Attribute,
        (Message::Link, 5) => Varint,
        (Message::Link, 6) => Fixed32,

        (Message::Status, 2) => Text,
        (Message::Status, 3) => Varint,

        (Message::LogRecord, 1 | 11) => Fixed64,
        (Message::LogRecord, 2 | 7) => Varint,
        (Message::LogRecord, 3 | 12) => Text,
        (Message::LogRecord, 5) => Any,
        (Message::LogRecord, 6) => Attribute,
        (Message::LogRecord, 8) => Fixed32,
        (Message::LogRecord, 9) => Id16,
        (Message::LogRecord, 10) => Id8,

        (Message::NumberPoint, 2 | 3 | 4 | 6) => Fixed64,
        (Message::NumberPoint, 5) => Many(Message::Exemplar),
        (Message::NumberPoint, 7) => Attribute,
        (Message::NumberPoint, 8) => Varint,

        (Message::HistogramPoint, 2 | 3 | 4 | 5 | 11 | 12) => Fixed64,
        (Message::HistogramPoint, 6) => Fixed64List,
        (Message::HistogramPoint, 7) => Text,
        (Message::HistogramPoint, 8) => Many(Message::Exemplar),
        (Message::HistogramPoint, 9) => Attribute,
        (Message::HistogramPoint, 10) => Varint,

        (Message::ExponentialPoint, 1) => Attribute,
        (Message::ExponentialPoint, 2 | 3 | 4 | 5 | 7 | 12 | 13 | 14) => Fixed64,
        (Message::ExponentialPoint, 6 | 10) => Varint,
        (Message::ExponentialPoint, 8 | 9) => One(Message::Buckets),
        (Message::ExponentialPoint, 11) => Many(Message::Exemplar),

        (Message::SummaryPoint, 2..=5) => Fixed64,
        (Message::SummaryPoint, 6) => Many(Message::Quantile),
        (Message::SummaryPoint, 7) => Attribute,
        (Message::SummaryPoint, 8) => Varint,

        (Message::Exemplar, 2 | 3 | 6) => Fixed64,
        (Message::Exemplar, 4) => Id8,
        (Message::Exemplar, 5) => Id16,
        (Message::Exemplar, 7) => Attribute,

        (Message::Buckets, 1) => Varint,
        (Message::Buckets, 2) => VarintList,

        (Message::Quantile, 1 | 2) => Fixed64,
        _ => return None,
    })
}

/// What a value is, beyond its type: how it is predicted follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Role {
    Trace,
    Span,
    Parent,
    Name,
    /// When a span or an aggregation interval began.
    Start,
    /// When a span ended, a point was taken, or a log record happened.
    Time,
    /// When a log record was seen.
    Observed,
}

impl Role {
    /// How many there are.
    pub(super) const COUNT: usize = 7;
}

/// The role of field `number` of an item, or of what refers to a span.
pub(super) const fn role(message: Message, number: u32) -> Option<Role> {
    Some(match (message, number) {
        (Message::Span | Message::Link, 1) | (Message::LogRecord, 9) | (Message::Exemplar, 5) => Role::Trace,
        (Message::Span | Message::Link, 2) | (Message::LogRecord, 10) | (Message::Exemplar, 4) => Role::Span,
        (Message::Span, 4) => Role::Parent,
        (Message::Span, 5) => Role::Name,
        (Message::Span, 7)
        | (
            Message::NumberPoint
            | Message::HistogramPoint
            | Message::ExponentialPoint
            | Message::SummaryPoint,
            2,
        ) => Role::Start,
        (Message::Span, 8)
        | (Message::LogRecord, 1)
        | (
            Message::NumberPoint
            | Message::HistogramPoint
            | Message::ExponentialPoint
            | Message::SummaryPoint,
            3,
        ) => Role::Time,
        (Message::LogRecord, 11) => Role::Observed,
        _ => return None,
    })
}

/// Whether field `number` holds a floating-point number.
pub(super) const fn is_double(message: Message, number: u32) -> bool {
    matches!(
        (message, number),
        (Message::NumberPoint, 4)
            | (Message::HistogramPoint, 5 | 11 | 12)
            | (Message::ExponentialPoint, 5 | 12 | 13 | 14)
            | (Message::SummaryPoint, 5)
            | (Message::Exemplar, 3)
            | (Message::Quantile, 1 | 2)
    )
}

/// Whether field `number` holds ns since the Unix epoch that no [`Role`] covers.
pub(super) const fn is_time(message: Message, number: u32) -> bool {
    matches!((message, number), (Message::Event, 1) | (Message::Exemplar, 2))
}
