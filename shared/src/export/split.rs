//! Splits an OTLP request into pieces, as bytes.
//!
//! A request is a tree: resources hold scopes, scopes hold spans, log records or metrics, metrics hold data points. A piece
//! repeats of each open branch everything that is not a child (resource, scope, `schema_url`, unknown fields).

use bytes::Bytes;

use super::cut::Limits;
use crate::otlp::protobuf::{Fields, Malformed, Value, put_bytes};
use crate::otlp::tree::{POINTS, branches, leaves, message, points};
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

/// An open branch of the tree.
struct Level {
    /// The field of its parent in which it stands.
    field: u32,
    /// What every piece repeats.
    header: Vec<u8>,
    /// The header and the children of this piece.
    body: Vec<u8>,
    /// Whether an earlier piece has it.
    emitted: bool,
}

impl Level {
    fn new(field: u32, header: Vec<u8>) -> Self {
        Self { field, body: header.clone(), header, emitted: false }
    }

    fn has_children(&self) -> bool {
        self.body.len() > self.header.len()
    }
}

/// Splits one request. It hands out one piece at a time and walks the request again for each, so that what every piece
/// repeats is held once, however often it is repeated.
pub(super) struct Splitter {
    limits: Limits,
    /// Metrics are opened to fill a piece to its last item, not only when they alone are above the limits.
    exact: bool,
    levels: Vec<Level>,
    items: u64,
    /// Bytes of children in this piece, without what is repeated.
    content: usize,
    /// Pieces still to pass before the wanted one.
    skip: usize,
    found: Option<(Vec<u8>, u64)>,
}

impl Splitter {
    /// Piece number `index` of `body` with its items; `None` behind the last. There is at least one.
    pub(super) fn piece(
        limits: Limits,
        exact: bool,
        signal: Signal,
        body: &[u8],
        index: usize,
    ) -> Result<Option<(Vec<u8>, u64)>, Malformed> {
        let mut this =
            Self { limits, exact, levels: Vec::new(), items: 0, content: 0, skip: index, found: None };
        this.open(0, body, &[1])?;
        for resource in Fields::new(body) {
            let resource = resource?;
            if resource.number == 1 {
                this.resource(signal, message(&resource)?)?;
            }
        }
        if this.levels[0].has_children() || !this.levels[0].emitted {
            this.cut();
        }
        Ok(this.found)
    }

    /// Opens a branch whose children are the fields `children`.
    fn open(&mut self, field: u32, message: &[u8], children: &[u32]) -> Result<(), Malformed> {
        let mut header = Vec::new();
        for f in Fields::new(message) {
            let f = f?;
            if !children.contains(&f.number) {
                header.extend_from_slice(f.raw);
            }
        }
        self.levels.push(Level::new(field, header));
        Ok(())
    }

    /// Closes the innermost branch. One that earlier pieces have is left out when nothing came after.
    fn close(&mut self) {
        let level = self.levels.pop().expect("every close has its open");
        if level.has_children() || !level.emitted {
            let parent = self.levels.last_mut().expect("the request stays open");
            put_bytes(&mut parent.body, level.field, &level.body);
        }
    }

    fn resource(&mut self, signal: Signal, resource: &[u8]) -> Result<(), Malformed> {
        self.open(1, resource, &[2])?;
        for scope in Fields::new(resource) {
            let scope = scope?;
            if scope.number != 2 {
                continue;
            }
            let scope = message(&scope)?;
            self.open(2, scope, &[2])?;
            for item in Fields::new(scope) {
                let item = item?;
                if item.number != 2 {
                    continue;
                }
                let body = message(&item)?;
                if signal == Signal::Metrics {
                    self.metric(item.raw, body)?;
                } else {
                    self.put(item.raw, 1);
                }
            }
            self.close();
        }
        self.close();
        Ok(())
    }

    fn metric(&mut self, raw: &[u8], metric: &[u8]) -> Result<(), Malformed> {
        let items = points(metric)?;
        let mut data = Vec::new();
        for field in Fields::new(metric) {
            let field = field?;
            if POINTS.contains(&field.number) {
                data.push(field);
            }
        }
        let room = self.limits.items.saturating_sub(self.items);
        let too_large =
            items > if self.exact { room } else { self.limits.items } || raw.len() > self.limits.bytes;
        // A metric with several kinds of data means its last; it stays whole, so that it keeps its meaning.
        let [data] = data.as_slice() else {
            self.put(raw, items);
            return Ok(());
        };
        if !too_large || items < 2 {
            self.put(raw, items);
            return Ok(());
        }
        self.open(2, metric, &[data.number])?;
        let body = message(data)?;
        self.open(data.number, body, &[1])?;
        for point in Fields::new(body) {
            let point = point?;
            if point.number == 1 {
                self.put(point.raw, 1);
            }
        }
        self.close();
        self.close();
        Ok(())
    }

    /// Adds a child with so many items to the innermost branch; before it a piece ends when it would be above the limits.
    fn put(&mut self, raw: &[u8], items: u64) {
        if self.found.is_some() {
            return;
        }
        let size: usize = self.levels.iter().map(|l| l.body.len() + 8).sum();
        // What is repeated may be larger than the limit; then pieces still carry half the limit of children each, so that
        // the pieces together stay in proportion to the request.
        let full = size + raw.len() > self.limits.bytes && self.content + raw.len() > self.limits.bytes / 2;
        if self.content > 0 && (full || self.items + items > self.limits.items) {
            self.cut();
        }
        let level = self.levels.last_mut().expect("the request stays open");
        level.body.extend_from_slice(raw);
        self.items += items;
        self.content += raw.len();
    }

    /// Ends a piece; the open branches go on in the next.
    fn cut(&mut self) {
        let mut child: Option<(u32, Vec<u8>)> = None;
        for (depth, level) in self.levels.iter_mut().enumerate().rev() {
            // A branch without anything in it waits for the next piece.
            if depth > 0 && child.is_none() && !level.has_children() {
                continue;
            }
            let mut body = std::mem::replace(&mut level.body, level.header.clone());
            if let Some((field, bytes)) = child.take() {
                put_bytes(&mut body, field, &bytes);
            }
            level.emitted = true;
            child = Some((level.field, body));
        }
        let (_, body) = child.expect("the request itself is always open");
        if self.skip > 0 {
            self.skip -= 1;
        } else if self.found.is_none() {
            self.found = Some((body, self.items));
        }
        self.items = 0;
        self.content = 0;
    }
}

/// Splits a request in two by its items; `None` when it has fewer than two or cannot be read.
pub fn halve(signal: Signal, body: &Bytes) -> Option<(Bytes, Bytes)> {
    let items = items(signal, body).ok()?;
    if items < 2 {
        return None;
    }
    let limits = Limits { items: items.div_ceil(2), bytes: usize::MAX };
    let piece = |index| Splitter::piece(limits, true, signal, body, index).ok().flatten();
    let (first, _) = piece(0)?;
    // Requests one after the other mean their concatenation.
    let second: Vec<u8> = (1..).map_while(piece).flat_map(|(bytes, _)| bytes).collect();
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
