//! Telemetry with ids: requests whose every item can be recognised wherever it turns up.
//!
//! An item's id is the satellite's number and the item's own, in one number. It is a span's `span_id`, the number behind `#` in a
//! log record's body, and that in a metric's name.

use std::fmt::Write as _;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use perigee_shared::otlp::protobuf::{put_bytes, put_tag, put_varint, varint_len};
use perigee_shared::signal::Signal;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// Bits of an id that are the item's.
const ITEM_BITS: u32 = 40;

/// Words that telemetry is made of.
const WORDS: [&str; 16] = [
    "attitude",
    "battery",
    "camera",
    "downlink",
    "eclipse",
    "gyroscope",
    "heater",
    "magnetorquer",
    "orbit",
    "payload",
    "reaction-wheel",
    "solar-panel",
    "star-tracker",
    "temperature",
    "thruster",
    "transponder",
];

/// The id of item `n` of a satellite.
pub fn id(satellite: u16, n: u64) -> u64 {
    u64::from(satellite) << ITEM_BITS | n
}

/// The satellite and the item of an id.
pub fn parts(id: u64) -> (u16, u64) {
    ((id >> ITEM_BITS) as u16, id & ((1 << ITEM_BITS) - 1))
}

/// What telemetry looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of one item.
    pub item_bytes: usize,
    /// Whether it repeats itself as telemetry does; else it is random bytes.
    pub compressible: bool,
}

/// Makes the requests of one satellite.
#[derive(Debug)]
pub struct Generator {
    satellite: u16,
    shape: Shape,
    rng: SmallRng,
    next: u64,
    requests: u64,
    text: String,
}

/// An export request and the items in it.
#[derive(Debug)]
pub struct Made {
    /// What kind of request it is.
    pub signal: Signal,
    /// The protobuf message.
    pub body: Bytes,
    /// The number of its first item.
    pub first: u64,
    /// How many there are.
    pub count: u64,
}

impl Generator {
    /// The same seed makes the same requests.
    pub fn new(satellite: u16, shape: Shape, seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed ^ u64::from(satellite).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self { satellite, shape, rng, next: 0, requests: 0, text: String::new() }
    }

    /// A request of about `bytes`; signals come in turn.
    pub fn make(&mut self, bytes: usize, unix_nano: u64) -> Made {
        let signal = Signal::ALL[(self.requests % 3) as usize];
        self.requests += 1;
        let first = self.next;
        let count = (bytes / self.shape.item_bytes).max(1) as u64;
        self.next += count;
        let mut items = Vec::with_capacity(bytes + 256);
        for n in 0..count {
            let item = self.item(signal, first + n, unix_nano + n);
            put_bytes(&mut items, 2, &item);
        }
        Made { signal, body: request(&items).into(), first, count }
    }

    fn item(&mut self, signal: Signal, n: u64, time: u64) -> Vec<u8> {
        let id = id(self.satellite, n);
        let mut out = Vec::with_capacity(self.shape.item_bytes + 64);
        let place = self.rng.random_range(0..WORDS.len());
        let word = WORDS[place];
        match signal {
            Signal::Traces => {
                let mut trace = [0; 16];
                self.rng.fill_bytes(&mut trace);
                put_bytes(&mut out, 1, &trace);
                put_bytes(&mut out, 2, &id.to_be_bytes());
                put_bytes(&mut out, 5, word.as_bytes());
                fixed(&mut out, 7, time);
                fixed(&mut out, 8, time + self.rng.random_range(1_000..1_000_000));
                self.fill(&mut out, 9, place);
            }
            Signal::Logs => {
                fixed(&mut out, 1, time);
                put_bytes(&mut out, 3, b"INFO");
                self.text.clear();
                let _ = write!(self.text, "{word} #{id}");
                let mut body = Vec::new();
                put_bytes(&mut body, 1, self.text.as_bytes());
                put_bytes(&mut out, 5, &body);
                self.fill(&mut out, 6, place);
            }
            Signal::Metrics => {
                self.text.clear();
                let _ = write!(self.text, "{word}#{id}");
                put_bytes(&mut out, 1, self.text.as_bytes());
                let mut point = Vec::with_capacity(self.shape.item_bytes);
                fixed(&mut point, 3, time);
                fixed(&mut point, 4, self.rng.random_range(-40.0f64..80.0).to_bits());
                self.fill(&mut point, 7, place);
                let mut gauge = Vec::with_capacity(point.len() + 8);
                put_bytes(&mut gauge, 1, &point);
                put_bytes(&mut out, 5, &gauge);
            }
        }
        out
    }

    /// Attributes up to the size of an item. What an instrumented place in a program writes has the same keys each time, in the
    /// same order, those from number `place` on, and the same text around its numbers. Codec 2 makes some 22 bytes of an item of
    /// 512; of real captures (`bench bytes`) it makes 1 to 22.
    fn fill(&mut self, out: &mut Vec<u8>, number: u32, place: usize) {
        const OVERHEAD: usize = 24;
        let left = self.shape.item_bytes.saturating_sub(out.len() + OVERHEAD);
        if !self.shape.compressible {
            let mut random = vec![0; left];
            self.rng.fill_bytes(&mut random);
            attribute(out, number, "noise", 7, &random);
            return;
        }
        let end = out.len() + left;
        for (n, key) in WORDS.iter().cycle().skip(place).enumerate() {
            if out.len() >= end {
                break;
            }
            let [one, two] = [place * 3 + n, place + n * 5].map(|word| WORDS[word % WORDS.len()]);
            // One value that hardly comes twice, others of a few that there are.
            let value = self.rng.random_range(0..if n == 0 { 1_000 } else { 10 });
            self.text.clear();
            let _ = write!(self.text, "{one} and {two} of {value}");
            attribute(out, number, key, 1, self.text.as_bytes());
        }
    }
}

/// `ResourceX { resource, scope_x { items } }` in an export request: the three signals number these fields alike.
fn request(items: &[u8]) -> Vec<u8> {
    let mut resource = Vec::new();
    attribute(&mut resource, 1, "service.name", 1, b"simulated");
    let mut of_resource = Vec::with_capacity(items.len() + 64);
    put_bytes(&mut of_resource, 1, &resource);
    put_bytes(&mut of_resource, 2, items);
    let mut out = Vec::with_capacity(of_resource.len() + 8);
    put_bytes(&mut out, 1, &of_resource);
    out
}

fn fixed(out: &mut Vec<u8>, number: u32, value: u64) {
    put_tag(out, number, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// A `KeyValue` whose value is field `kind` of `AnyValue`.
fn attribute(out: &mut Vec<u8>, number: u32, key: &str, kind: u32, value: &[u8]) {
    let any = field_len(value.len());
    put_tag(out, number, 2);
    put_varint(out, (field_len(key.len()) + field_len(any)) as u64);
    put_bytes(out, 1, key.as_bytes());
    put_tag(out, 2, 2);
    put_varint(out, any as u64);
    put_bytes(out, kind, value);
}

/// What a field of a low number takes with so many bytes in it.
const fn field_len(bytes: usize) -> usize {
    1 + varint_len(bytes as u64) + bytes
}

/// The number behind the `#` of a text.
fn behind_hash(text: &str) -> Option<u64> {
    let rest = text.rsplit_once('#')?.1;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The ids of the items in a request.
pub fn ids(signal: Signal, body: &[u8]) -> anyhow::Result<Vec<u64>> {
    let ids: Vec<Option<u64>> = match signal {
        Signal::Traces => ExportTraceServiceRequest::decode(body)?
            .resource_spans
            .iter()
            .flat_map(|r| &r.scope_spans)
            .flat_map(|s| &s.spans)
            .map(|span| span.span_id.as_slice().try_into().ok().map(u64::from_be_bytes))
            .collect(),
        Signal::Logs => ExportLogsServiceRequest::decode(body)?
            .resource_logs
            .iter()
            .flat_map(|r| &r.scope_logs)
            .flat_map(|s| &s.log_records)
            .map(|log| match log.body.as_ref()?.value.as_ref()? {
                Value::StringValue(text) => behind_hash(text),
                _ => None,
            })
            .collect(),
        Signal::Metrics => ExportMetricsServiceRequest::decode(body)?
            .resource_metrics
            .iter()
            .flat_map(|r| &r.scope_metrics)
            .flat_map(|s| &s.metrics)
            .map(|metric| behind_hash(&metric.name))
            .collect(),
    };
    ids.into_iter().collect::<Option<_>>().ok_or_else(|| anyhow::anyhow!("an item without an id"))
}

/// The id in the line that a `debug` exporter writes for an item.
pub fn id_of_line(signal: Signal, line: &str) -> Option<u64> {
    match signal {
        Signal::Traces => u64::from_str_radix(line.rsplit_once(' ')?.1, 16).ok(),
        Signal::Logs => behind_hash(line),
        Signal::Metrics => behind_hash(line.rsplit_once(" at ")?.0),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use perigee_shared::env::Env;
    use perigee_shared::export::{Client, DebugConfig, ExporterConfig};
    use perigee_shared::otlp::walk::walk;

    use super::*;

    #[tokio::test]
    async fn every_item_is_recognised_in_a_request_and_in_what_an_exporter_writes() {
        let lines = Arc::new(Mutex::new(Vec::<String>::new()));
        let sink = Arc::clone(&lines);
        let mut env = Env::production();
        env.output = Arc::new(move |text| sink.lock().unwrap().extend(text.lines().map(str::to_owned)));
        let config: DebugConfig = perigee_shared::config::parse("verbosity: normal", "", |_| None).unwrap();
        let client = Client::try_new("debug", &ExporterConfig::Debug(config), &env).unwrap();
        for compressible in [true, false] {
            let mut generator = Generator::new(3, Shape { item_bytes: 400, compressible }, 1);
            for _ in 0..3 {
                let made = generator.make(10_000, 1_700_000_000_000_000_000);
                assert_eq!(walk(made.signal, &made.body).unwrap().items, 25);
                assert!((9_000..11_500).contains(&made.body.len()), "{}", made.body.len());
                let expected: Vec<u64> = (made.first..made.first + made.count).map(|n| id(3, n)).collect();
                assert_eq!(ids(made.signal, &made.body).unwrap(), expected);
                lines.lock().unwrap().clear();
                client.send(made.signal, &made.body).await;
                let shown = lines.lock().unwrap();
                let found: Vec<u64> =
                    shown[1..].iter().map(|line| id_of_line(made.signal, line).unwrap()).collect();
                assert_eq!(found, expected);
            }
        }
        assert_eq!(parts(id(7, 9)), (7, 9));
    }
}
