//! Splits an OTLP request into pieces, as bytes.
//!
//! A request is a tree: resources hold scopes, scopes hold spans, log records or metrics, metrics hold data points. A piece
//! repeats of each open branch everything that is not a child (resource, scope, `schema_url`, unknown fields).

use std::ops::Range;

use bytes::Bytes;

use super::cut::Limits;
use crate::otlp::protobuf::{Fields, Malformed, Value, put_bytes};
use crate::otlp::tree::{LEAVES, POINT, POINTS, RESOURCES, SCOPES, branches, leaves, message, points};
use crate::signal::Signal;

/// The items of an export request, counted by its structure down to spans, log records or data points.
pub(super) fn items(signal: Signal, body: &[u8]) -> Result<u64, Malformed> {
    let mut n = 0;
    leaves(body, |leaf| {
        n += if signal == Signal::Metrics { points(leaf)? } else { 1 };
        Ok(())
    })?;
    Ok(n)
}

/// Where a child stands in the message that holds it.
struct Child {
    /// The whole field.
    raw: Range<usize>,
    /// What is in it.
    inner: Range<usize>,
}

/// An open branch of the tree.
struct Level {
    message: Bytes,
    /// How much of the message was read.
    at: usize,
    /// The field of its children.
    children: u32,
    /// What every piece repeats.
    header: Vec<u8>,
    /// The header and the children of this piece; empty without children.
    body: Vec<u8>,
    /// Whether an earlier piece has it.
    emitted: bool,
}

impl Level {
    fn new(message: Bytes, children: u32) -> Result<Self, Malformed> {
        let mut header = Vec::new();
        for field in Fields::new(&message) {
            let field = field?;
            if field.number != children {
                header.extend_from_slice(field.raw);
            }
        }
        Ok(Self { message, at: 0, children, header, body: Vec::new(), emitted: false })
    }

    /// The next child.
    fn next(&mut self) -> Result<Option<Child>, Malformed> {
        for field in Fields::new(&self.message[self.at..]) {
            let field = field?;
            let start = self.at;
            self.at += field.raw.len();
            if field.number == self.children {
                let inner = self.at - message(&field)?.len()..self.at;
                return Ok(Some(Child { raw: start..self.at, inner }));
            }
        }
        Ok(None)
    }

    fn len(&self) -> usize {
        if self.body.is_empty() { self.header.len() } else { self.body.len() }
    }

    /// Where the next child of this piece goes.
    fn end(&mut self) -> &mut Vec<u8> {
        if self.body.is_empty() {
            self.body.extend_from_slice(&self.header);
        }
        &mut self.body
    }

    /// What this piece has of it.
    fn take(&mut self) -> Vec<u8> {
        if self.body.is_empty() { self.header.clone() } else { std::mem::take(&mut self.body) }
    }
}

/// Splits one request. It hands out one piece at a time and goes on where that one ended.
pub(super) struct Splitter {
    limits: Limits,
    signal: Signal,
    /// Metrics are opened to fill a piece to its last item, not only when they alone are above the limits.
    exact: bool,
    /// The branches from the request down to where it goes on; none at its end.
    levels: Vec<Level>,
    items: u64,
    /// Bytes of children in this piece, without what is repeated.
    content: usize,
}

impl Splitter {
    pub(super) fn new(limits: Limits, exact: bool, signal: Signal, body: Bytes) -> Result<Self, Malformed> {
        let levels = vec![Level::new(body, RESOURCES)?];
        Ok(Self { limits, signal, exact, levels, items: 0, content: 0 })
    }

    /// The next piece with its items; `None` behind the last. There is at least one.
    pub(super) fn next(&mut self) -> Result<Option<(Vec<u8>, u64)>, Malformed> {
        while let Some(level) = self.levels.last_mut() {
            let Some(Child { raw, inner }) = level.next()? else {
                if let Some(last) = self.close() {
                    return Ok(Some(last));
                }
                continue;
            };
            let inner = level.message.slice(inner);
            let (opened, items) = match self.levels.len() {
                1 => (Some(SCOPES), 0),
                2 => (Some(LEAVES), 0),
                3 if self.signal == Signal::Metrics => self.metric(raw.len(), &inner)?,
                // What holds the points of a metric that was opened.
                4 => (Some(POINT), 0),
                _ => (None, 1),
            };
            if let Some(children) = opened {
                self.levels.push(Level::new(inner, children)?);
            } else if let Some(piece) = self.put(raw, items) {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// The items of a metric, and the field of its data when it must be opened.
    fn metric(&self, size: usize, metric: &[u8]) -> Result<(Option<u32>, u64), Malformed> {
        let items = points(metric)?;
        let mut kinds = Fields::new(metric).filter_map(Result::ok).map(|field| field.number);
        let mut data = || kinds.find(|number| POINTS.contains(number));
        let room = self.limits.items.saturating_sub(self.items);
        let too_large = items > if self.exact { room } else { self.limits.items } || size > self.limits.bytes;
        // A metric with several kinds of data means its last; it stays whole, so that it keeps its meaning.
        let only = data().filter(|_| data().is_none());
        Ok((only.filter(|_| too_large && items > 1), items))
    }

    /// Closes the innermost branch, which is left out when earlier pieces have it and nothing came after. The request's own is
    /// the last piece.
    fn close(&mut self) -> Option<(Vec<u8>, u64)> {
        let mut level = self.levels.pop()?;
        if level.body.is_empty() && level.emitted {
            return None;
        }
        let taken = level.take();
        let Some(parent) = self.levels.last_mut() else { return Some((taken, self.items)) };
        let field = parent.children;
        put_bytes(parent.end(), field, &taken);
        None
    }

    /// Adds a child with so many items to the innermost branch. Before it a piece ends when it would be above the limits.
    fn put(&mut self, raw: Range<usize>, items: u64) -> Option<(Vec<u8>, u64)> {
        let size: usize = self.levels.iter().map(|level| level.len() + 8).sum();
        // What is repeated may be larger than the limit; then pieces still carry half the limit of children each, so that
        // the pieces together stay in proportion to the request.
        let full = size + raw.len() > self.limits.bytes && self.content + raw.len() > self.limits.bytes / 2;
        let ends = self.content > 0 && (full || self.items + items > self.limits.items);
        let piece = ends.then(|| self.cut());
        self.items += items;
        self.content += raw.len();
        let level = self.levels.last_mut().expect("what is put stands in a branch");
        let child = level.message.slice(raw);
        level.end().extend_from_slice(&child);
        piece
    }

    /// Ends a piece; the open branches go on in the next.
    fn cut(&mut self) -> (Vec<u8>, u64) {
        let mut child: Option<Vec<u8>> = None;
        for (depth, level) in self.levels.iter_mut().enumerate().rev() {
            // A branch without anything in it waits for the next piece.
            if depth > 0 && child.is_none() && level.body.is_empty() {
                continue;
            }
            if let Some(child) = child.take() {
                let field = level.children;
                put_bytes(level.end(), field, &child);
            }
            level.emitted = true;
            child = Some(level.take());
        }
        self.content = 0;
        (child.expect("the request itself is always open"), std::mem::take(&mut self.items))
    }
}

/// Splits a request in two by its items; `None` when it has fewer than two or cannot be read.
pub fn halve(signal: Signal, body: &Bytes) -> Option<(Bytes, Bytes)> {
    let items = items(signal, body).ok()?;
    if items < 2 {
        return None;
    }
    let limits = Limits { items: items.div_ceil(2), bytes: usize::MAX };
    let mut splitter = Splitter::new(limits, true, signal, body.clone()).ok()?;
    let (first, _) = splitter.next().ok()??;
    // Requests one after the other mean their concatenation.
    let mut second = Vec::new();
    while let Some((piece, _)) = splitter.next().ok()? {
        second.extend(piece);
    }
    (!second.is_empty()).then(|| (Bytes::from(first), Bytes::from(second)))
}

/// A request without metrics that have no data points, scopes and resources that have no items; some backends refuse the whole
/// request for one of them, and halving, which goes by items, never finds it. `None`: there is none, or the request cannot be read.
pub fn without_empty(signal: Signal, body: &Bytes) -> Option<Bytes> {
    let keep: Keep<'_> = &|leaf| Ok(signal != Signal::Metrics || points(leaf)? > 0);
    if !has_empty(body, 0, keep).ok()? {
        return None;
    }
    prune(body, 0, keep).ok().map(Bytes::from)
}

/// A request's points of delta temporality, and the others; `None` when one of them is all of it.
pub(super) fn by_temporality(signal: Signal, body: &Bytes) -> Option<[Bytes; 2]> {
    if signal != Signal::Metrics {
        return None;
    }
    let (mut delta, mut other) = (false, false);
    leaves(body, |metric| {
        if points(metric)? > 0 {
            *if is_delta(metric)? { &mut delta } else { &mut other } = true;
        }
        Ok(())
    })
    .ok()?;
    let part = |of: bool| prune(body, 0, &|metric| Ok(is_delta(metric)? == of)).ok().map(Bytes::from);
    (delta && other).then(|| Some([part(false)?, part(true)?])).flatten()
}

/// Whether a metric's points tell what has changed since the one before.
fn is_delta(metric: &[u8]) -> Result<bool, Malformed> {
    const TEMPORALITY: u32 = 2;
    const DELTA: u64 = 1;
    // Sums and histograms have one; field 2 of a summary or a gauge is none.
    const OF: [u32; 3] = [7, 9, 10];
    let mut delta = false;
    for field in Fields::new(metric) {
        let field = field?;
        if !OF.contains(&field.number) {
            continue;
        }
        for inner in Fields::new(message(&field)?) {
            let inner = inner?;
            if inner.number == TEMPORALITY {
                delta = inner.value == Value::Varint(DELTA);
            }
        }
    }
    Ok(delta)
}

/// Whether a span, a log record or a metric is to stay.
type Keep<'a> = &'a dyn Fn(&[u8]) -> Result<bool, Malformed>;

/// A request (depth 0), a resource's branch (1) or a scope's (2), without children that hold nothing that is to stay.
fn prune(branch: &[u8], depth: usize, keep: Keep<'_>) -> Result<Vec<u8>, Malformed> {
    let children = [1, 2, 2][depth];
    let mut out = Vec::with_capacity(branch.len());
    for field in Fields::new(branch) {
        let field = field?;
        if field.number != children {
            out.extend_from_slice(field.raw);
        } else if depth == 2 {
            if keep(message(&field)?)? {
                out.extend_from_slice(field.raw);
            }
        } else if holds(message(&field)?, depth + 1, keep)? {
            put_bytes(&mut out, field.number, &prune(message(&field)?, depth + 1, keep)?);
        }
    }
    Ok(out)
}

/// Whether [`prune`] would take anything out of a branch.
fn has_empty(branch: &[u8], depth: usize, keep: Keep<'_>) -> Result<bool, Malformed> {
    for child in branches(branch, [1, 2, 2][depth]) {
        let child = child?;
        if !holds(child, depth + 1, keep)? || depth < 2 && has_empty(child, depth + 1, keep)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn holds(branch: &[u8], depth: usize, keep: Keep<'_>) -> Result<bool, Malformed> {
    if depth == 3 {
        return keep(branch);
    }
    for child in branches(branch, 2) {
        if holds(child?, depth + 1, keep)? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::cut::tests::{decoded_items, metric_with_points, request};

    #[test]
    fn points_of_both_temporalities_go_apart_and_none_is_lost() {
        use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
        use opentelemetry_proto::tonic::metrics::v1::metric::Data;
        use opentelemetry_proto::tonic::metrics::v1::{
            Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
        };
        use prost::Message;
        let point = |n| NumberDataPoint { time_unix_nano: n, ..Default::default() };
        let sum = |n, temporality| {
            Data::Sum(Sum {
                data_points: vec![point(n)],
                aggregation_temporality: temporality,
                is_monotonic: true,
            })
        };
        let histogram = |n, aggregation_temporality| {
            let data_points = vec![HistogramDataPoint { time_unix_nano: n, ..Default::default() }];
            Data::Histogram(Histogram { data_points, aggregation_temporality })
        };
        let gauge = |n| Data::Gauge(Gauge { data_points: vec![point(n)] });
        let request = |all: Vec<Vec<(&str, Data)>>| {
            let scopes = |metrics: Vec<(&str, Data)>| ScopeMetrics {
                metrics: metrics
                    .into_iter()
                    .map(|(name, data)| Metric {
                        name: name.to_owned(),
                        data: Some(data),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            };
            let resource_metrics = all
                .into_iter()
                .map(|m| ResourceMetrics {
                    scope_metrics: vec![scopes(m)],
                    schema_url: "s".to_owned(),
                    ..Default::default()
                })
                .collect();
            Bytes::from(ExportMetricsServiceRequest { resource_metrics }.encode_to_vec())
        };
        let mixed = request(vec![
            vec![("a", sum(1, 1)), ("b", sum(2, 2)), ("c", gauge(3))],
            vec![("d", histogram(4, 1))],
            vec![("e", histogram(5, 2))],
        ]);
        let [cumulative, delta] = by_temporality(Signal::Metrics, &mixed).unwrap();
        assert_eq!(
            cumulative,
            request(vec![vec![("b", sum(2, 2)), ("c", gauge(3))], vec![("e", histogram(5, 2))]])
        );
        assert_eq!(delta, request(vec![vec![("a", sum(1, 1))], vec![("d", histogram(4, 1))]]));
        assert_eq!(by_temporality(Signal::Metrics, &cumulative), None);
        assert_eq!(by_temporality(Signal::Metrics, &delta), None);
        assert_eq!(by_temporality(Signal::Logs, &mixed), None);
    }

    #[test]
    fn halving_goes_down_to_single_items() {
        for signal in Signal::ALL {
            let mut work = vec![request(signal, &[3, 1, 5])];
            let mut single = 0;
            while let Some(body) = work.pop() {
                if let Some((a, b)) = halve(signal, &body) {
                    let whole = decoded_items(signal, &body);
                    let (a_items, b_items) = (decoded_items(signal, &a), decoded_items(signal, &b));
                    assert_eq!(a_items.len(), whole.len().div_ceil(2));
                    assert_eq!([a_items, b_items].concat(), whole);
                    work.extend([b, a]);
                } else {
                    assert_eq!(decoded_items(signal, &body).len(), 1);
                    single += 1;
                }
            }
            assert_eq!(single, 9, "{signal}");
        }
    }

    #[test]
    fn a_metric_is_split_at_its_points_and_keeps_what_it_is() {
        let body = metric_with_points(10);
        let (a, b) = halve(Signal::Metrics, &body).unwrap();
        let items = [decoded_items(Signal::Metrics, &a), decoded_items(Signal::Metrics, &b)];
        assert_eq!((items[0].len(), items[1].len()), (5, 5));
        assert_eq!(items.concat(), decoded_items(Signal::Metrics, &body));
    }

    #[test]
    fn metrics_without_points_are_taken_out_and_the_rest_stays_as_it_is() {
        let good = metric_with_points(3);
        // Resource {scope {metric {name, sum {}}}} and a resource with nothing in it.
        let empty: &[u8] = b"\x0a\x09\x12\x07\x12\x05\x0a\x01e\x3a\x00\x0a\x00";
        let both = Bytes::from([empty, &good, empty].concat());
        assert_eq!(without_empty(Signal::Metrics, &both), Some(good.clone()));
        assert_eq!(without_empty(Signal::Metrics, &Bytes::from_static(empty)), Some(Bytes::new()));
        assert_eq!(without_empty(Signal::Metrics, &good), None);
        assert_eq!(without_empty(Signal::Metrics, &Bytes::from_static(b"\x0a\xff")), None);
    }

    #[test]
    fn what_has_no_items_is_taken_out_of_every_signal() {
        // A scope and a resource with names and nothing else, beside and inside what has items.
        let (scope, resource): (&[u8], &[u8]) = (b"\x12\x05\x0a\x03\x0a\x01s", b"\x0a\x04\x1a\x02su");
        for signal in Signal::ALL {
            let good = request(signal, &[3, 4]);
            assert_eq!(without_empty(signal, &good), None);
            let mut with_scopes = Vec::new();
            for part in branches(&good, 1) {
                put_bytes(&mut with_scopes, 1, &[part.unwrap(), scope].concat());
            }
            let both = Bytes::from([resource, &with_scopes, resource].concat());
            assert_eq!(without_empty(signal, &both), Some(good), "{signal}");
            assert_eq!(without_empty(signal, &Bytes::from_static(resource)), Some(Bytes::new()));
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_halved() {
        assert!(halve(Signal::Logs, &Bytes::from_static(b"\xff\xff")).is_none());
        assert!(halve(Signal::Logs, &Bytes::new()).is_none());
    }
}
