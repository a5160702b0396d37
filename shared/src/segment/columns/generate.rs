//! OTLP of every kind for tests: each message, field and value that the walk accepts, and fields that OTLP does not know.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::otlp::protobuf::{put_bytes, put_tag, put_varint};
use crate::signal::Signal;

/// Makes requests; the same seed makes the same ones.
pub(super) struct Generator {
    pub(super) rng: SmallRng,
}

/// What a field may hold.
#[derive(Clone, Copy)]
enum Of {
    Varint,
    Fixed32,
    Fixed64,
    Time,
    Double,
    Text,
    Id(usize),
    Doubles,
    Counts,
    Varints,
    KeyValue,
    Any,
    Message(&'static [(u32, Of)]),
}

const EXEMPLAR: &[(u32, Of)] =
    &[(2, Of::Time), (3, Of::Double), (4, Of::Id(8)), (5, Of::Id(16)), (6, Of::Fixed64), (7, Of::KeyValue)];
const BUCKETS: &[(u32, Of)] = &[(1, Of::Varint), (2, Of::Varints)];
const EVENT: &[(u32, Of)] = &[(1, Of::Time), (2, Of::Text), (3, Of::KeyValue), (4, Of::Varint)];
const LINK: &[(u32, Of)] =
    &[(1, Of::Id(16)), (2, Of::Id(8)), (3, Of::Text), (4, Of::KeyValue), (5, Of::Varint), (6, Of::Fixed32)];
const STATUS: &[(u32, Of)] = &[(2, Of::Text), (3, Of::Varint)];
const QUANTILE: &[(u32, Of)] = &[(1, Of::Double), (2, Of::Double)];

const SPAN: &[(u32, Of)] = &[
    (1, Of::Id(16)),
    (2, Of::Id(8)),
    (3, Of::Text),
    (4, Of::Id(8)),
    (5, Of::Text),
    (6, Of::Varint),
    (7, Of::Time),
    (8, Of::Time),
    (9, Of::KeyValue),
    (10, Of::Varint),
    (11, Of::Message(EVENT)),
    (12, Of::Varint),
    (13, Of::Message(LINK)),
    (14, Of::Varint),
    (15, Of::Message(STATUS)),
    (16, Of::Fixed32),
];
const LOG: &[(u32, Of)] = &[
    (1, Of::Time),
    (2, Of::Varint),
    (3, Of::Text),
    (5, Of::Any),
    (6, Of::KeyValue),
    (7, Of::Varint),
    (8, Of::Fixed32),
    (9, Of::Id(16)),
    (10, Of::Id(8)),
    (11, Of::Time),
    (12, Of::Text),
];
const NUMBER: &[(u32, Of)] = &[
    (2, Of::Time),
    (3, Of::Time),
    (4, Of::Double),
    (5, Of::Message(EXEMPLAR)),
    (6, Of::Fixed64),
    (7, Of::KeyValue),
    (8, Of::Varint),
];
const HISTOGRAM: &[(u32, Of)] = &[
    (2, Of::Time),
    (3, Of::Time),
    (4, Of::Fixed64),
    (5, Of::Double),
    (6, Of::Counts),
    (7, Of::Doubles),
    (8, Of::Message(EXEMPLAR)),
    (9, Of::KeyValue),
    (10, Of::Varint),
    (11, Of::Double),
    (12, Of::Double),
];
const EXPONENTIAL: &[(u32, Of)] = &[
    (1, Of::KeyValue),
    (2, Of::Time),
    (3, Of::Time),
    (4, Of::Fixed64),
    (5, Of::Double),
    (6, Of::Varint),
    (7, Of::Fixed64),
    (8, Of::Message(BUCKETS)),
    (9, Of::Message(BUCKETS)),
    (10, Of::Varint),
    (11, Of::Message(EXEMPLAR)),
    (12, Of::Double),
    (13, Of::Double),
    (14, Of::Double),
];
const SUMMARY: &[(u32, Of)] = &[
    (2, Of::Time),
    (3, Of::Time),
    (4, Of::Fixed64),
    (5, Of::Double),
    (6, Of::Message(QUANTILE)),
    (7, Of::KeyValue),
    (8, Of::Varint),
];

/// A request that the walk accepts.
pub(super) fn request(g: &mut Generator) -> (Signal, Vec<u8>) {
    let signal = Signal::ALL[g.below(3)];
    let mut out = Vec::new();
    for _ in 0..g.below(3) {
        let mut resource = Vec::new();
        g.head(&mut resource, &[(1, Of::KeyValue)]);
        for _ in 0..g.rarely_none(3) {
            let mut scope = Vec::new();
            g.head(&mut scope, &[(1, Of::Text), (2, Of::Text), (3, Of::KeyValue), (4, Of::Varint)]);
            for _ in 0..g.rarely_none(4) {
                let item = match signal {
                    Signal::Traces => g.item(SPAN),
                    Signal::Logs => g.item(LOG),
                    Signal::Metrics => g.metric(),
                };
                put_bytes(&mut scope, 2, &item);
            }
            put_bytes(&mut resource, 2, &scope);
        }
        put_bytes(&mut out, 1, &resource);
        g.sometimes_unknown(&mut out);
    }
    (signal, out)
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed) }
    }

    fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n)
    }

    fn rarely_none(&mut self, most: usize) -> usize {
        if self.below(20) == 0 { 0 } else { 1 + self.below(most) }
    }

    /// What encloses items: a message of these fields, and a schema URL.
    fn head(&mut self, out: &mut Vec<u8>, fields: &'static [(u32, Of)]) {
        if self.below(4) > 0 {
            let message = self.message(fields);
            put_bytes(out, 1, &message);
        }
        if self.below(3) == 0 {
            let url = self.text();
            put_bytes(out, 3, &url);
        }
        self.sometimes_unknown(out);
    }

    fn metric(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for field in [1, 2, 3] {
            let text = self.text();
            put_bytes(&mut out, field, &text);
        }
        let kinds = [(5, NUMBER), (7, NUMBER), (9, HISTOGRAM), (10, EXPONENTIAL), (11, SUMMARY)];
        // Now and then none, or two of the oneof.
        for _ in 0..[1, 1, 1, 1, 1, 1, 1, 0, 2][self.below(9)] {
            let (field, points) = kinds[self.below(5)];
            let mut data = Vec::new();
            for _ in 0..self.rarely_none(4) {
                let point = self.item(points);
                put_bytes(&mut data, 1, &point);
            }
            if field == 7 && self.below(2) == 0 {
                put_tag(&mut data, 2, 0);
                put_varint(&mut data, 2);
            }
            put_bytes(&mut out, field, &data);
        }
        self.sometimes_unknown(&mut out);
        out
    }

    /// Fields in the order of their numbers, as libraries write them, or in any order, some of them more than once.
    fn item(&mut self, fields: &'static [(u32, Of)]) -> Vec<u8> {
        if self.below(2) == 0 {
            return self.message(fields);
        }
        let mut out = Vec::new();
        for (number, of) in fields {
            for _ in 0..[0, 1, 1, 1, 2][self.below(5)] {
                self.field(&mut out, *number, *of, 2);
            }
        }
        out
    }

    fn message(&mut self, fields: &'static [(u32, Of)]) -> Vec<u8> {
        self.nested(fields, 2)
    }

    fn nested(&mut self, fields: &'static [(u32, Of)], depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..self.below(fields.len() + 2) {
            let (number, of) = fields[self.below(fields.len())];
            self.field(&mut out, number, of, depth);
        }
        self.sometimes_unknown(&mut out);
        out
    }

    fn sometimes_unknown(&mut self, out: &mut Vec<u8>) {
        if self.below(12) == 0 {
            let number = [100, 1000, 99_999][self.below(3)];
            let of = [Of::Varint, Of::Fixed32, Of::Fixed64, Of::Text][self.below(4)];
            self.field(out, number, of, 0);
        }
    }

    fn field(&mut self, out: &mut Vec<u8>, number: u32, of: Of, depth: usize) {
        match of {
            Of::Varint => {
                put_tag(out, number, 0);
                let value = self.number();
                put_varint(out, value);
            }
            Of::Fixed32 => {
                put_tag(out, number, 5);
                out.extend((self.number() as u32).to_le_bytes());
            }
            Of::Fixed64 => self.eight(out, number, Self::number),
            Of::Time => self.eight(out, number, Self::time),
            Of::Double => self.eight(out, number, Self::double),
            Of::Text => {
                let text = self.text();
                put_bytes(out, number, &text);
            }
            Of::Id(length) => {
                let id = [vec![self.below(4) as u8; length], Vec::new(), self.bytes(length)];
                put_bytes(out, number, &id[[0, 0, 0, 1, 2][self.below(5)]]);
            }
            Of::Doubles | Of::Counts => {
                let length = self.below(5);
                let numbers: Vec<u8> = (0..length)
                    .flat_map(|_| {
                        let value = if matches!(of, Of::Counts) { self.number() } else { self.double() };
                        value.to_le_bytes()
                    })
                    .collect();
                put_bytes(out, number, &numbers);
            }
            Of::Varints => {
                let mut numbers = Vec::new();
                for _ in 0..self.below(6) {
                    let value = self.number();
                    put_varint(&mut numbers, value);
                }
                put_bytes(out, number, &numbers);
            }
            Of::KeyValue => {
                let inner = self.key_value(depth);
                put_bytes(out, number, &inner);
            }
            Of::Any => {
                let inner = self.any(depth);
                put_bytes(out, number, &inner);
            }
            Of::Message(fields) => {
                let inner = self.nested(fields, depth);
                put_bytes(out, number, &inner);
            }
        }
    }

    fn eight(&mut self, out: &mut Vec<u8>, number: u32, value: impl Fn(&mut Self) -> u64) {
        put_tag(out, number, 1);
        out.extend(value(self).to_le_bytes());
    }

    fn key_value(&mut self, depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let key = [&b"a"[..], b"b", b"http.method", b"k\xff", b""][self.below(5)];
        let value = self.any(depth);
        match self.below(12) {
            0 => {}
            1 => put_bytes(&mut out, 1, key),
            2 => {
                put_bytes(&mut out, 2, &value);
                put_bytes(&mut out, 1, key);
            }
            _ => {
                put_bytes(&mut out, 1, key);
                put_bytes(&mut out, 2, &value);
            }
        }
        out
    }

    fn any(&mut self, depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        match self.below(if depth == 0 { 6 } else { 8 }) {
            0 => {}
            1 => self.field(&mut out, 2, Of::Varint, 0),
            2 => self.field(&mut out, 3, Of::Varint, 0),
            3 => self.field(&mut out, 4, Of::Double, 0),
            4 => self.field(&mut out, 7, Of::Text, 0),
            5 => self.field(&mut out, 1, Of::Text, 0),
            list => {
                let mut inner = Vec::new();
                for _ in 0..self.below(4) {
                    let element = if list == 6 { self.any(depth - 1) } else { self.key_value(depth - 1) };
                    put_bytes(&mut inner, 1, &element);
                }
                put_bytes(&mut out, list as u32 - 1, &inner);
            }
        }
        out
    }

    fn number(&mut self) -> u64 {
        let shift = self.below(64);
        [0, 1, 7, u64::MAX, i64::MIN as u64, self.rng.random::<u64>() >> shift][self.below(6)]
    }

    fn time(&mut self) -> u64 {
        let base = 1_700_000_000_000_000_000;
        let near = self.rng.random_range(0..10_000_000_000u64);
        [0, base, base + near, (base + near) / 1000 * 1000, (base + near) & !255, u64::MAX][self.below(6)]
    }

    fn double(&mut self) -> u64 {
        let bits = self.rng.random::<u64>();
        let cents = self.rng.random_range(-100_000..100_000i64) as f64 / 100.0;
        let values =
            [0.0, -0.0, 1.5, 734.66, cents, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, 1e300, 5e-324];
        let n = self.below(values.len() + 2);
        values.get(n).map_or(bits, |v| v.to_bits())
    }

    fn text(&mut self) -> Vec<u8> {
        let length = self.below(300);
        let number = self.number();
        match self.below(8) {
            0 => Vec::new(),
            1 => self.bytes(length),
            2 => format!("served item id={number} in 00{} ms", number % 7).into_bytes(),
            3 => format!("http://host/{}/x?y={}", number % 5, number % 100).into_bytes(),
            n => [&b"GET"[..], b"POST", b"frontend", b"1\x002"][n - 4].to_vec(),
        }
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.rng.random()).collect()
    }
}
