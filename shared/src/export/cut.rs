//! Cuts the requests of a segment into export requests of bounded size.
//!
//! A pure function of (requests in order, signals, limits): the n-th request that comes out is the same after a
//! restart, so a durable cursor is a segment and a number. Small requests of one signal are joined (one after the other, which
//! in protobuf means their concatenation), large ones are split. Held in memory: one request and, per
//! signal, what is joined.

use std::collections::VecDeque;

use bytes::Bytes;

use super::attributes::Attributes;
use super::split::{Splitter, items};
use crate::otlp::protobuf::Malformed;
use crate::segment::Request;
use crate::signal::{Signal, SignalSet};

/// How large an export request may be. A single item may be larger than the byte limit, and what every piece of a request
/// repeats (its resource, say) is never allowed to make the pieces smaller than half of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Items.
    pub items: u64,
    /// Bytes of protobuf.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { items: 8192, bytes: 2 << 20 }
    }
}

/// What comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// A request to send.
    Request {
        /// Its signal.
        signal: Signal,
        /// The protobuf message.
        body: Bytes,
        /// Spans, log records or data points in it.
        items: u64,
    },
    /// A request whose structure cannot be read, as it was; nobody can say how many items it has.
    Undecodable {
        /// Its signal.
        signal: Signal,
        /// The bytes.
        body: Bytes,
    },
}

/// How requests are cut.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Requests of other signals are left out.
    pub signals: SignalSet,
    /// The size of what comes out.
    pub limits: Limits,
    /// Added to every resource behind the cut, so that they have no part in it.
    pub attributes: Attributes,
}

impl Plan {
    /// Equal numbers, equal cuts: kept beside a durable cursor, which means nothing under another plan.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for signal in self.signals.iter() {
            hasher.update(&[signal as u8]);
        }
        hasher.update(&self.limits.items.to_le_bytes());
        hasher.update(&(self.limits.bytes as u64).to_le_bytes());
        let mut out = [0; 8];
        out.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(out)
    }
}

/// Requests that are being joined.
#[derive(Default)]
struct Pending {
    body: Vec<u8>,
    items: u64,
}

/// The export requests of a segment, one after the other.
pub struct Cuts<I, E> {
    requests: I,
    plan: Plan,
    pending: [Pending; 3],
    /// A request that is too large.
    splitting: Option<(Request, Splitter)>,
    ready: VecDeque<Cut>,
    ended: bool,
    /// What ended the source; it comes last.
    failed: Option<E>,
}

impl<I, E> Cuts<I, E> {
    /// Cuts `requests` as `plan` says.
    pub fn new(requests: I, plan: Plan) -> Self {
        Self {
            requests,
            plan,
            pending: Default::default(),
            splitting: None,
            ready: VecDeque::new(),
            ended: false,
            failed: None,
        }
    }

    fn take(&mut self, request: Request) {
        let Limits { items: max_items, bytes: max_bytes } = self.plan.limits;
        let Request { signal, body } = request;
        if !self.plan.signals.contains(signal) {
            return;
        }
        match items(signal, &body) {
            Err(Malformed(_)) => self.ready.push_back(Cut::Undecodable { signal, body }),
            // One item cannot be split.
            Ok(items) if items <= 1 || items <= max_items && body.len() <= max_bytes => {
                self.join(signal, body, items);
            }
            Ok(_) => match Splitter::new(self.plan.limits, false, signal, body.clone()) {
                Ok(splitter) => self.splitting = Some((Request { signal, body }, splitter)),
                Err(Malformed(_)) => self.ready.push_back(Cut::Undecodable { signal, body }),
            },
        }
    }

    /// The next piece of the request that is being split.
    fn split(&mut self, request: Request, mut splitter: Splitter) {
        let Request { signal, body } = request;
        match splitter.next() {
            Ok(Some((piece, items))) => {
                self.join(signal, Bytes::from(piece), items);
                self.splitting = Some((Request { signal, body }, splitter));
            }
            Ok(None) => {}
            Err(Malformed(_)) => self.ready.push_back(Cut::Undecodable { signal, body }),
        }
    }

    fn with_attributes(&self, cut: Cut) -> Cut {
        match cut {
            Cut::Request { signal, body, items } => match self.plan.attributes.add_to(body.clone()) {
                Ok(body) => Cut::Request { signal, body, items },
                Err(Malformed(_)) => Cut::Undecodable { signal, body },
            },
            undecodable => undecodable,
        }
    }

    fn join(&mut self, signal: Signal, body: Bytes, items: u64) {
        let pending = &self.pending[signal as usize - 1];
        if pending.items + items > self.plan.limits.items
            || pending.body.len() + body.len() > self.plan.limits.bytes
        {
            self.flush(signal);
        }
        let pending = &mut self.pending[signal as usize - 1];
        pending.items += items;
        // Nothing is copied of what fills a request by itself.
        if pending.body.is_empty() {
            pending.body = Vec::from(body);
        } else {
            pending.body.extend_from_slice(&body);
        }
    }

    fn flush(&mut self, signal: Signal) {
        let Pending { body, items } = std::mem::take(&mut self.pending[signal as usize - 1]);
        if !body.is_empty() {
            self.ready.push_back(Cut::Request { signal, body: Bytes::from(body), items });
        }
    }
}

impl<I, E> Iterator for Cuts<I, E>
where
    I: Iterator<Item = Result<Request, E>>,
{
    type Item = Result<Cut, E>;

    /// An error of the source comes last, behind everything that was read before it.
    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.ended {
            if let Some((request, splitter)) = self.splitting.take() {
                self.split(request, splitter);
                continue;
            }
            match self.requests.next() {
                Some(Ok(request)) => self.take(request),
                end => {
                    self.ended = true;
                    self.failed = end.and_then(Result::err);
                    Signal::ALL.into_iter().for_each(|signal| self.flush(signal));
                }
            }
        }
        self.ready
            .pop_front()
            .map(|cut| Ok(self.with_attributes(cut)))
            .or_else(|| self.failed.take().map(Err))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest as LogsRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest as MetricsRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest as TraceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::metrics::v1::{
        Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn resource(n: usize) -> Option<Resource> {
        let value = AnyValue { value: Some(any_value::Value::StringValue(format!("service-{n}"))) };
        let attribute =
            KeyValue { key: "service.name".to_owned(), value: Some(value), ..KeyValue::default() };
        Some(Resource { attributes: vec![attribute], ..Resource::default() })
    }

    fn scope(n: usize) -> Option<InstrumentationScope> {
        Some(InstrumentationScope { name: format!("scope-{n}"), ..InstrumentationScope::default() })
    }

    fn metric(name: &str, points: usize) -> Metric {
        let data_points = (0..points)
            .map(|p| NumberDataPoint { time_unix_nano: p as u64 + 1, ..NumberDataPoint::default() })
            .collect();
        let sum = Sum { data_points, aggregation_temporality: 2, is_monotonic: true };
        Metric {
            name: name.to_owned(),
            unit: "By".to_owned(),
            data: Some(Data::Sum(sum)),
            ..Metric::default()
        }
    }

    /// A request with one resource for each of `sizes`, which says how many items it has.
    pub(in crate::export) fn request(signal: Signal, sizes: &[usize]) -> Bytes {
        let schema_url = "https://schema".to_owned();
        let sizes = sizes.iter().copied().enumerate();
        Bytes::from(match signal {
            Signal::Traces => {
                let spans = |n: usize| {
                    (0..n).map(|s| Span { name: format!("span-{s}"), ..Span::default() }).collect()
                };
                let resource_spans = sizes
                    .map(|(r, n)| ResourceSpans {
                        resource: resource(r),
                        scope_spans: vec![ScopeSpans {
                            scope: scope(r),
                            spans: spans(n),
                            ..Default::default()
                        }],
                        schema_url: schema_url.clone(),
                    })
                    .collect();
                TraceRequest { resource_spans }.encode_to_vec()
            }
            Signal::Logs => {
                let records = |n: usize| {
                    (0..n).map(|l| LogRecord { time_unix_nano: l as u64 + 1, ..Default::default() }).collect()
                };
                let resource_logs = sizes
                    .map(|(r, n)| ResourceLogs {
                        resource: resource(r),
                        scope_logs: vec![ScopeLogs {
                            scope: scope(r),
                            log_records: records(n),
                            ..Default::default()
                        }],
                        schema_url: schema_url.clone(),
                    })
                    .collect();
                LogsRequest { resource_logs }.encode_to_vec()
            }
            Signal::Metrics => {
                let resource_metrics = sizes
                    .map(|(r, n)| ResourceMetrics {
                        resource: resource(r),
                        scope_metrics: vec![ScopeMetrics {
                            scope: scope(r),
                            metrics: vec![metric("a", n / 3), metric("b", n - n / 3)],
                            ..Default::default()
                        }],
                        schema_url: schema_url.clone(),
                    })
                    .collect();
                MetricsRequest { resource_metrics }.encode_to_vec()
            }
        })
    }

    pub(in crate::export) fn metric_with_points(points: usize) -> Bytes {
        let scope_metrics = vec![ScopeMetrics { metrics: vec![metric("m", points)], ..Default::default() }];
        let resource_metrics =
            vec![ResourceMetrics { resource: resource(0), scope_metrics, ..Default::default() }];
        Bytes::from(MetricsRequest { resource_metrics }.encode_to_vec())
    }

    /// Every item with all that it stands in, as text.
    pub(in crate::export) fn decoded_items(signal: Signal, body: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        match signal {
            Signal::Traces => {
                for r in TraceRequest::decode(body).unwrap().resource_spans {
                    for s in r.scope_spans {
                        let at = (&r.resource, &r.schema_url, &s.scope);
                        out.extend(s.spans.iter().map(|i| format!("{at:?} {i:?}")));
                    }
                }
            }
            Signal::Logs => {
                for r in LogsRequest::decode(body).unwrap().resource_logs {
                    for s in r.scope_logs {
                        let at = (&r.resource, &r.schema_url, &s.scope);
                        out.extend(s.log_records.iter().map(|i| format!("{at:?} {i:?}")));
                    }
                }
            }
            Signal::Metrics => {
                for r in MetricsRequest::decode(body).unwrap().resource_metrics {
                    for s in r.scope_metrics {
                        for m in s.metrics {
                            let Some(Data::Sum(sum)) = &m.data else { panic!("only sums are made here") };
                            let kind = (sum.aggregation_temporality, sum.is_monotonic);
                            let at = (&r.resource, &r.schema_url, &s.scope, &m.name, &m.unit, kind);
                            out.extend(sum.data_points.iter().map(|i| format!("{at:?} {i:?}")));
                        }
                    }
                }
            }
        }
        out
    }

    fn cut(requests: &[(Signal, Bytes)], limits: Limits, attributes: Attributes) -> Vec<Cut> {
        let source = requests
            .iter()
            .map(|(signal, body)| Ok::<_, String>(Request { signal: *signal, body: body.clone() }));
        let plan = Plan { signals: SignalSet::ALL, limits, attributes };
        Cuts::new(source, plan).map(Result::unwrap).collect()
    }

    fn requests() -> impl Strategy<Value = Vec<(Signal, Bytes)>> {
        let signal = prop::sample::select(&Signal::ALL[..]);
        let sizes = prop::collection::vec(0usize..12, 0..5);
        let one = (signal, sizes).prop_map(|(signal, sizes)| (signal, request(signal, &sizes)));
        prop::collection::vec(one, 0..8)
    }

    proptest! {
        #[test]
        fn prop_items_are_conserved_in_order_and_limits_hold(
            requests in requests(), max_items in 1u64..20, bytes in 200usize..4000,
        ) {
            let limits = Limits { items: max_items, bytes };
            let cuts = cut(&requests, limits, Attributes::default());
            for signal in Signal::ALL {
                let of = |s: Signal, body: &Bytes| if s == signal { decoded_items(s, body) } else { Vec::new() };
                let before: Vec<_> = requests.iter().flat_map(|(s, body)| of(*s, body)).collect();
                let mut after = Vec::new();
                for cut in &cuts {
                    let Cut::Request { signal: s, body, items: counted } = cut else { panic!() };
                    prop_assert_eq!(decoded_items(*s, body).len() as u64, *counted);
                    prop_assert!(*counted <= max_items);
                    // What a piece repeats comes on top of half the limit.
                    prop_assert!(body.len() <= bytes + 300, "{} {bytes}", body.len());
                    after.extend(of(*s, body));
                }
                prop_assert_eq!(before, after);
            }
            prop_assert_eq!(cut(&requests, limits, Attributes::default()), cuts, "the same again");
        }

        #[test]
        fn prop_any_bytes_come_out_once(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..6)) {
            let requests: Vec<_> = bodies.iter().map(|b| (Signal::Traces, Bytes::from(b.clone()))).collect();
            let out: usize = cut(&requests, Limits { items: 1 << 20, bytes: 1 << 20 }, Attributes::default())
                .into_iter()
                .map(|cut| match cut {
                    Cut::Request { body, .. } | Cut::Undecodable { body, .. } => body.len(),
                })
                .sum();
            prop_assert_eq!(out, bodies.iter().map(Vec::len).sum::<usize>());
        }
    }

    #[test]
    fn small_requests_are_joined_and_mean_what_they_meant() {
        let body = request(Signal::Traces, &[2]);
        let cuts = cut(&vec![(Signal::Traces, body.clone()); 10], Limits::default(), Attributes::default());
        let [Cut::Request { body: joined, items: 20, .. }] = cuts.as_slice() else {
            panic!("{}", cuts.len())
        };
        let one = TraceRequest::decode(body).unwrap();
        let resource_spans = std::iter::repeat_n(one.resource_spans, 10).flatten().collect();
        assert_eq!(TraceRequest::decode(joined.clone()).unwrap(), TraceRequest { resource_spans });
    }

    #[test]
    fn attributes_reach_every_piece() {
        let requests = [(Signal::Logs, request(Signal::Logs, &[10, 10]))];
        let limits = Limits { items: 3, bytes: 1 << 20 };
        let cuts = cut(&requests, limits, Attributes::new(&[("satellite.id", "sat-1")]));
        assert!(cuts.len() >= 7);
        for cut in cuts {
            let Cut::Request { body, .. } = cut else { panic!() };
            for logs in LogsRequest::decode(body).unwrap().resource_logs {
                let attributes = logs.resource.unwrap().attributes;
                assert_eq!(attributes.last().unwrap().key, "satellite.id");
                assert_eq!(attributes.len(), 2);
            }
        }
    }

    #[test]
    fn a_large_resource_is_not_repeated_for_every_item() {
        let mut spans = ResourceSpans { resource: resource(0), ..ResourceSpans::default() };
        spans.schema_url = "x".repeat(5000);
        let span = Span { name: "s".repeat(100), ..Span::default() };
        spans.scope_spans = vec![ScopeSpans { spans: vec![span; 100], ..ScopeSpans::default() }];
        let body = Bytes::from(TraceRequest { resource_spans: vec![spans] }.encode_to_vec());
        let limits = Limits { items: 8192, bytes: 4000 };
        let cuts = cut(&[(Signal::Traces, body)], limits, Attributes::default());
        assert!(cuts.len() <= 6, "{}", cuts.len());
    }

    #[test]
    fn what_cannot_be_walked_comes_out_whole_and_disturbs_nothing() {
        let bad = Bytes::from_static(b"\x0a\xff");
        let good = request(Signal::Traces, &[1]);
        let requests =
            [(Signal::Traces, good.clone()), (Signal::Traces, bad.clone()), (Signal::Traces, good)];
        let cuts = cut(&requests, Limits::default(), Attributes::default());
        assert!(cuts.contains(&Cut::Undecodable { signal: Signal::Traces, body: bad }));
        let items = |cut: &Cut| if let Cut::Request { items, .. } = cut { *items } else { 0 };
        assert_eq!(cuts.iter().map(items).sum::<u64>(), 2);
    }

    #[test]
    fn an_error_of_the_source_comes_last() {
        let good = Request { signal: Signal::Logs, body: request(Signal::Logs, &[1]) };
        let plan = Plan { signals: SignalSet::ALL, ..Plan::default() };
        let mut cuts = Cuts::new(vec![Ok(good), Err("damaged")].into_iter(), plan);
        assert!(matches!(cuts.next(), Some(Ok(Cut::Request { items: 1, .. }))));
        assert_eq!(cuts.next(), Some(Err("damaged")));
        assert_eq!(cuts.next(), None);
    }
}
