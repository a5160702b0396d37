//! Requests whose every item has an id and a digest: made by the simulator's generator, recognised wherever they come out.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use perigee_shared::otlp::walk::{Walked, walk};
use perigee_shared::signal::{Counts, Signal};
use prost::Message;
use sim::items::{Generator, Shape, ids};

use crate::history::{Item, Three};

/// The id of what cannot be read.
const UNREADABLE: Item = (u64::MAX, 0);

/// A request and what is in it.
#[derive(Debug, Clone)]
pub struct Request {
    /// What kind of request it is.
    pub signal: Signal,
    /// OTLP protobuf.
    pub body: Bytes,
    /// What the walk finds in it.
    pub walked: Walked,
    /// Its items.
    pub items: Vec<Item>,
}

/// Makes requests; the same seed makes the same ones.
pub struct Source {
    generator: Generator,
    now: u64,
}

impl Source {
    /// Items of about `item_bytes` each.
    pub fn new(seed: u64, item_bytes: usize) -> Self {
        Self::of_satellite(1, seed, item_bytes)
    }

    /// The same for another satellite.
    pub fn of_satellite(satellite: u16, seed: u64, item_bytes: usize) -> Self {
        let compressible = !seed.is_multiple_of(3);
        Self {
            generator: Generator::new(satellite, Shape { item_bytes, compressible }, seed),
            now: 1_700_000_000_000_000_000,
        }
    }

    /// A request of about `bytes`.
    pub fn make(&mut self, bytes: usize) -> Request {
        self.now += 1_000_000_000;
        let made = self.generator.make(bytes, self.now);
        let walked = walk(made.signal, &made.body).unwrap_or(Walked { items: 0, ..EMPTY });
        Request { signal: made.signal, walked, items: items(made.signal, &made.body), body: made.body }
    }
}

const EMPTY: Walked = Walked { items: 0, time: perigee_shared::signal::TimeRange::EMPTY };

/// Counts as a history has them.
pub fn three(counts: Counts) -> Three {
    Signal::ALL.map(|signal| counts[signal])
}

/// Every item of a request with the digest of all that belongs to it: its resource, its scope and itself. What cannot be read
/// is an item with an id that nobody has sent.
pub fn items(signal: Signal, body: &[u8]) -> Vec<Item> {
    let Some(single) = singles(signal, body) else { return vec![UNREADABLE] };
    let item = |body: Vec<u8>| {
        let id = ids(signal, &body).ok().filter(|ids| ids.len() == 1).map(|ids| ids[0])?;
        let mut digest = [0; 8];
        digest.copy_from_slice(&blake3::hash(&body).as_bytes()[..8]);
        Some((id, u64::from_le_bytes(digest)))
    };
    single.into_iter().map(|body| item(body).unwrap_or(UNREADABLE)).collect()
}

/// Each item as a request of its own.
fn singles(signal: Signal, body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    match signal {
        Signal::Traces => {
            for mut resource in ExportTraceServiceRequest::decode(body).ok()?.resource_spans {
                for mut scope in std::mem::take(&mut resource.scope_spans) {
                    for span in std::mem::take(&mut scope.spans) {
                        let scope = ScopeSpans { spans: vec![span], ..scope.clone() };
                        let resource = ResourceSpans { scope_spans: vec![scope], ..resource.clone() };
                        out.push(
                            ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec(),
                        );
                    }
                }
            }
        }
        Signal::Metrics => {
            for mut resource in ExportMetricsServiceRequest::decode(body).ok()?.resource_metrics {
                for mut scope in std::mem::take(&mut resource.scope_metrics) {
                    for metric in std::mem::take(&mut scope.metrics) {
                        let scope = ScopeMetrics { metrics: vec![metric], ..scope.clone() };
                        let resource = ResourceMetrics { scope_metrics: vec![scope], ..resource.clone() };
                        out.push(
                            ExportMetricsServiceRequest { resource_metrics: vec![resource] }.encode_to_vec(),
                        );
                    }
                }
            }
        }
        Signal::Logs => {
            for mut resource in ExportLogsServiceRequest::decode(body).ok()?.resource_logs {
                for mut scope in std::mem::take(&mut resource.scope_logs) {
                    for record in std::mem::take(&mut scope.log_records) {
                        let scope = ScopeLogs { log_records: vec![record], ..scope.clone() };
                        let resource = ResourceLogs { scope_logs: vec![scope], ..resource.clone() };
                        out.push(ExportLogsServiceRequest { resource_logs: vec![resource] }.encode_to_vec());
                    }
                }
            }
        }
    }
    Some(out)
}

/// The items in lines of OTLP JSON, as the `file` exporter writes them.
pub fn items_of_json(signal: Signal, text: &str) -> Vec<Item> {
    let one = |line: &str| -> Option<Vec<Item>> {
        let body = match signal {
            Signal::Traces => serde_json::from_str::<ExportTraceServiceRequest>(line).ok()?.encode_to_vec(),
            Signal::Metrics => {
                serde_json::from_str::<ExportMetricsServiceRequest>(line).ok()?.encode_to_vec()
            }
            Signal::Logs => serde_json::from_str::<ExportLogsServiceRequest>(line).ok()?.encode_to_vec(),
        };
        Some(items(signal, &body))
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.flat_map(|line| one(line).unwrap_or_else(|| vec![UNREADABLE])).collect()
}

#[cfg(test)]
mod tests {
    use perigee_shared::segment::{Codec, Decoder, Encoder, Header, Lane, SegmentId, hash};
    use perigee_shared::signal::TimeRange;

    use super::*;

    #[test]
    fn an_item_has_the_same_digest_behind_every_codec_and_another_one_when_a_byte_differs() {
        let mut source = Source::new(1, 200);
        let requests: Vec<Request> = (0..6).map(|_| source.make(2_000)).collect();
        let mut expected: Vec<Item> = requests.iter().flat_map(|r| r.items.clone()).collect();
        assert!(expected.len() > 30 && expected.iter().all(|(id, _)| *id != u64::MAX));
        for codec in Codec::ALL {
            let mut encoder = Encoder::new(codec, None).unwrap();
            requests.iter().for_each(|r| encoder.push(r.signal, &r.body).unwrap());
            let payload = encoder.finish().unwrap().payload;
            let header = Header {
                id: SegmentId { epoch: 1, lane: Lane::BULK, sequence: 1 },
                codec: codec as u32,
                payload_len: payload.len() as u64,
                raw_len: requests.iter().map(|r| r.body.len() as u64).sum(),
                hash: hash(&payload),
                items: Counts::ZERO,
                time: TimeRange::EMPTY,
                requests: 6,
                sealed_unix_nano: 0,
                base_sequence: None,
                is_base: false,
                delivery: None,
                made_of: None,
            };
            let decoder = Decoder::new(&header, &payload, None).unwrap();
            let mut found: Vec<Item> =
                decoder.flat_map(|r| r.map(|r| items(r.signal, &r.body)).unwrap()).collect();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{codec:?}");
        }
        let mut other = requests[0].body.to_vec();
        let at = other.windows(9).position(|w| w == b"simulated").unwrap();
        other[at] = b'S';
        let changed = items(requests[0].signal, &other);
        assert!(changed.iter().zip(&requests[0].items).all(|(a, b)| a.0 == b.0 && a.1 != b.1));
        assert_eq!(items(Signal::Logs, b"\xff\xff"), [UNREADABLE]);
    }

    #[test]
    fn lines_of_json_have_the_items_that_went_in() {
        let mut source = Source::new(2, 300);
        for _ in 0..3 {
            let request = source.make(3_000);
            let line = match request.signal {
                Signal::Traces => {
                    serde_json::to_string(&ExportTraceServiceRequest::decode(&*request.body).unwrap())
                }
                Signal::Metrics => {
                    serde_json::to_string(&ExportMetricsServiceRequest::decode(&*request.body).unwrap())
                }
                Signal::Logs => {
                    serde_json::to_string(&ExportLogsServiceRequest::decode(&*request.body).unwrap())
                }
            };
            assert_eq!(items_of_json(request.signal, &format!("{}\n\n", line.unwrap())), request.items);
        }
        assert_eq!(items_of_json(Signal::Logs, "{"), [UNREADABLE]);
    }
}
