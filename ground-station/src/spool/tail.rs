//! The latest items, decoded for people: of segments that wait for an exporter, of those that were decoded for one lately, and of bases,
//! which stay longer.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::ops::ControlFlow;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use perigee_shared::export::{Cut, Cuts, Limits, Plan};
use perigee_shared::segment::{Header, Request};
use perigee_shared::signal::{Signal, SignalSet};
use prost::Message;
use redb::ReadableTable;
use serde::Serialize;

use super::decode::{At, Fault, Seen, Snapshot};
use super::error::SpoolError;
use super::file::View;
use super::standing::clean;
use super::tables::*;
use super::views::names;

/// Segments of a lane, and bases, that are looked at, at most.
const SEGMENTS: usize = 64;

/// Characters of a text that are shown.
const SHOWN: usize = 240;

/// Bytes of OTLP that are taken apart at once: what is small on the wire may take a hundred times its size.
pub(super) const AT_ONCE: usize = 256 << 10;

/// An item for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ItemView {
    /// The number of its segment in the order of commits.
    pub number: u64,
    /// Whose it is.
    pub satellite: String,
    /// Its lane.
    pub lane: u8,
    /// Its signal.
    pub signal: &'static str,
    /// `service.name` of its resource.
    pub service: String,
    /// Its own time, ns since the Unix epoch.
    pub unix_nano: u64,
    /// The severity number of a log record; 17 of a span that failed.
    pub severity: u32,
    /// `event.name` of a log record, or the name of a span or metric.
    pub name: String,
    /// What it says: a body, a status, a value.
    pub text: String,
}

/// The latest items.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    /// The number of the newest segment that was looked at; 0: none.
    pub newest: u64,
    /// Items, of the newest segment first.
    pub items: Vec<ItemView>,
}

/// Where items can be had from.
enum Source {
    /// An exporter has had it decoded.
    Seen(Seen),
    /// It is still to be decoded.
    Segment(Candidate),
}

/// A segment that can be decoded.
struct Candidate {
    satellite: u32,
    header: Header,
    is_entry: bool,
    key: SequenceKey,
}

/// Items of segments with a number above `after`, of the newest ones, until `bytes` of OTLP are decoded; of each at most `each`.
pub(super) fn tail(
    view: &View<'_>,
    snapshot: &Snapshot,
    after: u64,
    bytes: u64,
    each: usize,
) -> Result<Tail, SpoolError> {
    let names = names(view.tables)?;
    let mut found: BTreeMap<u64, Source> =
        candidates(view, after)?.into_iter().map(|(number, c)| (number, Source::Segment(c))).collect();
    found.extend(snapshot.decoded.seen(after).into_iter().map(|seen| (seen.number, Source::Seen(seen))));
    let mut out = Tail::default();
    let mut left = bytes;
    while let Some((number, source)) = found.pop_last() {
        out.newest = out.newest.max(number);
        let length = match &source {
            Source::Seen(seen) => seen.requests.iter().map(|request| request.body.len() as u64).sum(),
            Source::Segment(candidate) => candidate.header.raw_len,
        };
        let Some(rest) = left.checked_sub(length) else {
            // One that is larger than all that may be decoded must not hide the others.
            if length > bytes {
                continue;
            }
            break;
        };
        left = rest;
        let mut items = Latest { most: each, items: VecDeque::new() };
        match source {
            Source::Seen(seen) => {
                let like = like(number, &seen.satellite, seen.lane);
                seen.requests.iter().for_each(|request| show(request, &like, &mut items));
            }
            Source::Segment(candidate) => {
                let Some(satellite) = names.get(&candidate.satellite) else { continue };
                let like = like(number, satellite, candidate.header.id.lane.0);
                let at = if candidate.is_entry { At::Payload(number) } else { At::Base(candidate.key) };
                let show = |request: &Request| show(request, &like, &mut items);
                match snapshot.glimpse(candidate.satellite, &candidate.header, at, show) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(Fault::Store(error)) => return Err(error.into()),
                    // What is wrong with it is for its exporter and the scrub to say.
                    Err(_) => continue,
                }
            }
        }
        out.items.extend(items.items.into_iter().rev());
    }
    Ok(out)
}

/// The last items of those that come.
struct Latest {
    most: usize,
    items: VecDeque<ItemView>,
}

impl Latest {
    fn push(&mut self, item: ItemView) {
        if self.items.len() == self.most {
            self.items.pop_front();
        }
        self.items.push_back(item);
    }
}

/// An item that has nothing yet but where it comes from.
fn like(number: u64, satellite: &str, lane: u8) -> ItemView {
    ItemView {
        number,
        satellite: satellite.to_owned(),
        lane,
        signal: "",
        service: String::new(),
        unix_nano: 0,
        severity: 0,
        name: String::new(),
        text: String::new(),
    }
}

/// Segments in the spool and bases by their numbers.
fn candidates(view: &View<'_>, after: u64) -> Result<BTreeMap<u64, Candidate>, SpoolError> {
    let mut found = BTreeMap::new();
    for row in view.tables.open_table(BASES)?.iter()? {
        let (key, value) = row?;
        let record = decode::<BaseRecord>(value.value())?;
        if record.entry <= after {
            continue;
        }
        if let Some(header) = header(record.header) {
            let key = key.value();
            found.insert(record.entry, Candidate { satellite: key.satellite, header, is_entry: false, key });
            if found.len() > SEGMENTS {
                found.pop_first();
            }
        }
    }
    let entries = view.tables.open_table(ENTRIES)?;
    for (satellite, lane) in view.contents.lanes.keys() {
        let all = EntryKey { satellite: *satellite, lane: *lane, entry: 0 }.and_later();
        let newest = entries.range(all)?.rev().take(SEGMENTS).try_for_each(|row| {
            let read = || {
                let record = decode::<SegmentRecord>(row?.1.value())?;
                Ok::<_, SpoolError>((record.payload, record.header()?))
            };
            match read() {
                Ok((payload, _)) if payload <= after => ControlFlow::Break(Ok(())),
                Ok((payload, header)) => {
                    let (satellite, key) = (*satellite, SequenceKey::new(*satellite, header.id));
                    found.insert(payload, Candidate { satellite, header, is_entry: true, key });
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(Err(error)),
            }
        });
        if let ControlFlow::Break(stopped) = newest {
            stopped?;
        }
        while found.len() > SEGMENTS {
            found.pop_first();
        }
    }
    Ok(found)
}

/// The items of a request; one that cannot be read shows nothing, and of one item that is large only that it is.
fn show(request: &Request, like: &ItemView, out: &mut Latest) {
    let limits = Limits { bytes: AT_ONCE, ..Limits::default() };
    let plan = Plan { signals: SignalSet::ALL, limits, ..Plan::default() };
    let one = std::iter::once(Ok::<_, Infallible>(request.clone()));
    for cut in Cuts::new(one, plan).map_while(Result::ok) {
        match cut {
            Cut::Request { signal, body, .. } if body.len() <= 2 * AT_ONCE => {
                show_piece(signal, &body, like, out)
            }
            Cut::Request { signal, body, .. } => {
                let text = format!("{} bytes: too many to be shown here", body.len());
                out.push(ItemView { signal: signal.name(), text, ..like.clone() });
            }
            Cut::Undecodable { .. } => {}
        }
    }
}

fn show_piece(signal: Signal, body: &[u8], like: &ItemView, out: &mut Latest) {
    let of = |resource: &Option<Resource>| ItemView {
        signal: signal.name(),
        service: resource.as_ref().map_or_else(String::new, |r| attribute(&r.attributes, "service.name")),
        ..like.clone()
    };
    match signal {
        Signal::Traces => {
            for all in ExportTraceServiceRequest::decode(body).unwrap_or_default().resource_spans {
                let like = of(&all.resource);
                for span in all.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    let millis =
                        span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) as f64 / 1e6;
                    let (code, said) = span.status.map_or((0, String::new()), |s| (s.code, s.message));
                    let failed = if code == 2 { " failed: " } else { "" };
                    out.push(ItemView {
                        unix_nano: span.start_time_unix_nano,
                        severity: if code == 2 { 17 } else { 0 },
                        name: clean(&span.name, SHOWN),
                        text: clean(&format!("{millis:.3} ms{failed}{said}"), SHOWN),
                        ..like.clone()
                    });
                }
            }
        }
        Signal::Metrics => {
            for all in ExportMetricsServiceRequest::decode(body).unwrap_or_default().resource_metrics {
                let like = of(&all.resource);
                for metric in all.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                    show_metric(&metric, &like, out);
                }
            }
        }
        Signal::Logs => {
            for all in ExportLogsServiceRequest::decode(body).unwrap_or_default().resource_logs {
                let like = of(&all.resource);
                for record in all.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
                    let time = record.time_unix_nano;
                    let named = attribute(&record.attributes, "event.name");
                    out.push(ItemView {
                        unix_nano: if time == 0 { record.observed_time_unix_nano } else { time },
                        severity: record.severity_number.unsigned_abs(),
                        name: if record.event_name.is_empty() {
                            named
                        } else {
                            clean(&record.event_name, SHOWN)
                        },
                        text: value(record.body.as_ref()),
                        ..like.clone()
                    });
                }
            }
        }
    }
}

fn show_metric(metric: &Metric, like: &ItemView, out: &mut Latest) {
    let unit = &metric.unit;
    let mut push = |unix_nano: u64, attributes: &[KeyValue], said: String| {
        let labels: Vec<String> =
            attributes.iter().take(8).map(|kv| format!("{}={}", kv.key, value(kv.value.as_ref()))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!(" ({})", labels.join(", ")) };
        out.push(ItemView {
            unix_nano,
            name: clean(&metric.name, SHOWN),
            text: clean(&format!("{said} {unit}{labels}"), SHOWN),
            ..like.clone()
        });
    };
    let number = |point: &NumberDataPoint| match point.value {
        Some(number_data_point::Value::AsDouble(n)) => n.to_string(),
        Some(number_data_point::Value::AsInt(n)) => n.to_string(),
        None => "no value".to_owned(),
    };
    match &metric.data {
        Some(Data::Gauge(data)) => {
            data.data_points.iter().for_each(|p| push(p.time_unix_nano, &p.attributes, number(p)));
        }
        Some(Data::Sum(data)) => {
            data.data_points.iter().for_each(|p| push(p.time_unix_nano, &p.attributes, number(p)));
        }
        Some(Data::Histogram(data)) => data.data_points.iter().for_each(|p| {
            push(
                p.time_unix_nano,
                &p.attributes,
                format!("{} values, sum {}", p.count, p.sum.unwrap_or(0.0)),
            );
        }),
        Some(Data::ExponentialHistogram(data)) => data.data_points.iter().for_each(|p| {
            push(
                p.time_unix_nano,
                &p.attributes,
                format!("{} values, sum {}", p.count, p.sum.unwrap_or(0.0)),
            );
        }),
        Some(Data::Summary(data)) => data.data_points.iter().for_each(|p| {
            push(p.time_unix_nano, &p.attributes, format!("{} values, sum {}", p.count, p.sum));
        }),
        None => {}
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> String {
    attributes.iter().find(|kv| kv.key == key).map_or_else(String::new, |kv| value(kv.value.as_ref()))
}

/// A value in one line.
pub(super) fn value(of: Option<&AnyValue>) -> String {
    let text = match of.and_then(|v| v.value.as_ref()) {
        None => String::new(),
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(b)) => b.to_string(),
        Some(Value::IntValue(n)) => n.to_string(),
        Some(Value::DoubleValue(n)) => n.to_string(),
        Some(Value::BytesValue(bytes)) => format!("{} bytes", bytes.len()),
        Some(Value::ArrayValue(list)) => format!("a list of {}", list.values.len()),
        Some(Value::KvlistValue(map)) => {
            let pairs = map.values.iter().take(16);
            let pairs: Vec<String> =
                pairs.map(|kv| format!("{}={}", kv.key, shallow(kv.value.as_ref()))).collect();
            pairs.join(", ")
        }
        Some(_) => String::new(),
    };
    clean(&text, SHOWN)
}

/// A value inside another one: nothing nests further.
fn shallow(of: Option<&AnyValue>) -> String {
    match of.and_then(|v| v.value.as_ref()) {
        Some(Value::KvlistValue(map)) => format!("a map of {}", map.values.len()),
        _ => value(of),
    }
}
