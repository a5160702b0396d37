//! Splitting a request into lanes, as bytes.
//!
//! The part of a lane has the items of that lane in their order; what is above them (resource, scope, `schema_url`, unknown
//! fields) is repeated in each part. A metric stays whole: its points go where the metric goes.

use perigee_shared::otlp::protobuf::{Fields, Malformed, put_bytes};
use perigee_shared::otlp::tree::{LEAVES, RESOURCES, SCOPES, message, points};
use perigee_shared::segment::Lane;
use perigee_shared::signal::Signal;

use super::MAX_LANE;
use super::rules::{Mask, Rules};

/// What a request has for one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The lane.
    pub lane: Lane,
    /// Items.
    pub items: u64,
    /// Bytes, about: those of its part, or for bulk what the other lanes leave.
    pub raw: u64,
}

/// The part of a request that belongs to one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it, as it is.
    Whole,
    /// This request.
    Some(Vec<u8>),
    /// None of it.
    Nothing,
}

/// Items and bytes by lane while a request is walked.
#[derive(Default)]
struct Tally {
    items: [u64; MAX_LANE as usize + 1],
    raw: [u64; MAX_LANE as usize + 1],
    /// Bytes of all items that are not bulk.
    moved: u64,
}

/// The lanes that have an item in a branch, one bit each.
type Seen = u16;

impl Tally {
    fn item(&mut self, lane: Lane, items: u64, raw: usize) -> Seen {
        self.items[lane.0 as usize] += items;
        self.raw[lane.0 as usize] += raw as u64;
        self.moved += raw as u64;
        1 << lane.0
    }

    /// A branch has ended: each lane that is in it repeats its header.
    fn header(&mut self, seen: Seen, bytes: usize) {
        for (lane, raw) in self.raw.iter_mut().enumerate() {
            if seen & (1 << lane) != 0 {
                *raw += bytes as u64;
            }
        }
    }

    fn shares(self, total: u64, bytes: usize) -> Vec<Share> {
        let mut out = Vec::new();
        let mut items_left = total;
        for lane in (1..=MAX_LANE).map(Lane).filter(|l| *l != Lane::BULK) {
            let (items, raw) = (self.items[lane.0 as usize], self.raw[lane.0 as usize]);
            if items > 0 {
                out.push(Share { lane, items, raw });
                items_left = items_left.saturating_sub(items);
            }
        }
        if items_left > 0 || out.is_empty() {
            out.push(Share { lane: Lane::BULK, items: items_left, raw: bytes as u64 - self.moved });
        }
        // What one lane has alone stays as it is, empty branches and all.
        if let [only] = out.as_mut_slice() {
            only.raw = bytes as u64;
        }
        out
    }
}

impl Rules {
    /// What a request of `total` items has for each lane; a lane without items is not in it. A request that cannot be read is
    /// bulk.
    pub fn shares(&self, signal: Signal, body: &[u8], total: u64) -> Vec<Share> {
        let mut tally = Tally::default();
        if self.tally(signal, body, &mut tally).is_err() {
            tally = Tally::default();
        }
        tally.shares(total, body.len())
    }

    fn tally(&self, signal: Signal, body: &[u8], tally: &mut Tally) -> Result<(), Malformed> {
        let rules = self.for_signal(signal);
        for resource in Fields::new(body) {
            let resource = resource?;
            if resource.number != RESOURCES || rules == 0 {
                continue;
            }
            let branch = message(&resource)?;
            let rules = self.for_resource(rules, branch)?;
            if rules == 0 {
                continue;
            }
            let (mut seen, mut header) = (0, branch.len());
            for scope in Fields::new(branch) {
                let scope = scope?;
                if scope.number == SCOPES {
                    header -= scope.raw.len();
                    seen |= self.tally_scope(signal, rules, message(&scope)?, tally)?;
                }
            }
            tally.header(seen, header);
        }
        Ok(())
    }

    fn tally_scope(
        &self,
        signal: Signal,
        rules: Mask,
        branch: &[u8],
        tally: &mut Tally,
    ) -> Result<Seen, Malformed> {
        let rules = self.for_scope(rules, branch)?;
        let (mut seen, mut header) = (0, branch.len());
        if rules == 0 {
            return Ok(seen);
        }
        for leaf in Fields::new(branch) {
            let leaf = leaf?;
            if leaf.number == LEAVES {
                header -= leaf.raw.len();
                let item = message(&leaf)?;
                let lane = self.lane(rules, item)?;
                if lane != Lane::BULK {
                    let items = if signal == Signal::Metrics { points(item)? } else { 1 };
                    seen |= tally.item(lane, items, leaf.raw.len());
                }
            }
        }
        tally.header(seen, header);
        Ok(seen)
    }

    /// The part of a request of `total` items that belongs to `lane`. The parts of all lanes together have every item once.
    pub fn part(&self, signal: Signal, body: &[u8], total: u64, lane: Lane) -> Part {
        let shares = self.shares(signal, body, total);
        if !shares.iter().any(|s| s.lane == lane) {
            return Part::Nothing;
        }
        if shares.len() == 1 {
            return Part::Whole;
        }
        // What has more than one share was read to its end.
        self.cut(signal, body, lane).map_or(Part::Nothing, Part::Some)
    }

    fn cut(&self, signal: Signal, body: &[u8], lane: Lane) -> Result<Vec<u8>, Malformed> {
        let rules = self.for_signal(signal);
        let mut out = Vec::new();
        for field in Fields::new(body) {
            let field = field?;
            if field.number != RESOURCES {
                out.extend_from_slice(field.raw);
            } else if let Some(kept) = self.cut_resource(rules, message(&field)?, lane)? {
                put_bytes(&mut out, RESOURCES, &kept);
            }
        }
        Ok(out)
    }

    /// A resource's branch with what belongs to `lane`; `None` when nothing does.
    fn cut_resource(&self, rules: Mask, branch: &[u8], lane: Lane) -> Result<Option<Vec<u8>>, Malformed> {
        let rules = self.for_resource(rules, branch)?;
        let (mut out, mut found) = (Vec::new(), false);
        for field in Fields::new(branch) {
            let field = field?;
            if field.number != SCOPES {
                out.extend_from_slice(field.raw);
            } else if let Some(kept) = self.cut_scope(rules, message(&field)?, lane)? {
                put_bytes(&mut out, SCOPES, &kept);
                found = true;
            }
        }
        Ok(found.then_some(out))
    }

    /// A scope's branch with what belongs to `lane`; `None` when nothing does.
    fn cut_scope(&self, rules: Mask, branch: &[u8], lane: Lane) -> Result<Option<Vec<u8>>, Malformed> {
        let rules = self.for_scope(rules, branch)?;
        let (mut out, mut found) = (Vec::new(), false);
        for field in Fields::new(branch) {
            let field = field?;
            if field.number != LEAVES {
                out.extend_from_slice(field.raw);
            } else if self.lane(rules, message(&field)?)? == lane {
                out.extend_from_slice(field.raw);
                found = true;
            }
        }
        Ok(found.then_some(out))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{
        AnyValue, InstrumentationScope, KeyValue, any_value::Value,
    };
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
    use perigee_shared::otlp::walk::walk;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::lanes::rules::{RuleConfig, Severity, SignalName, SpanStatus};

    /// A tree of (service, scopes of (name, items)); an item's number is its severity, status or metric.
    type Tree = Vec<(String, Vec<(String, Vec<u8>)>)>;

    fn resource(service: &str) -> Option<Resource> {
        let value = Some(AnyValue { value: Some(Value::StringValue(service.into())) });
        let attributes = vec![KeyValue { key: "service.name".into(), value, ..Default::default() }];
        Some(Resource { attributes, ..Default::default() })
    }

    fn scope(name: &str) -> Option<InstrumentationScope> {
        Some(InstrumentationScope { name: name.into(), ..Default::default() })
    }

    fn logs(tree: &Tree) -> Vec<u8> {
        let record = |n: &u8| LogRecord {
            severity_number: i32::from(*n),
            time_unix_nano: 100 + u64::from(*n),
            ..Default::default()
        };
        let scope_logs = |(name, items): &(String, Vec<u8>)| ScopeLogs {
            scope: scope(name),
            log_records: items.iter().map(record).collect(),
            schema_url: "schema".into(),
        };
        let resource_logs = tree
            .iter()
            .map(|(service, scopes)| ResourceLogs {
                resource: resource(service),
                scope_logs: scopes.iter().map(scope_logs).collect(),
                schema_url: "schema".into(),
            })
            .collect();
        ExportLogsServiceRequest { resource_logs }.encode_to_vec()
    }

    /// Every log record with all that is above it.
    fn read_logs(body: &[u8]) -> Vec<(String, String, u8)> {
        let mut out = Vec::new();
        for r in ExportLogsServiceRequest::decode(body).unwrap().resource_logs {
            let service = format!("{:?}{}", r.resource, r.schema_url);
            for s in r.scope_logs {
                let scope = format!("{:?}{}", s.scope, s.schema_url);
                out.extend(
                    s.log_records.iter().map(|l| (service.clone(), scope.clone(), l.severity_number as u8)),
                );
            }
        }
        out
    }

    fn rules(rules: Vec<(u8, RuleConfig)>) -> Rules {
        Rules::try_new(rules.into_iter().map(|(lane, rule)| (Lane(lane), rule)).collect()).unwrap()
    }

    fn rule(change: impl FnOnce(&mut RuleConfig)) -> RuleConfig {
        let mut rule = RuleConfig::default();
        change(&mut rule);
        rule
    }

    fn some_rules() -> Rules {
        let service = BTreeMap::from([("service.name".to_owned(), "fd*".to_owned())]);
        rules(vec![
            (1, rule(|r| r.severity = Some(Severity::Error))),
            (
                2,
                rule(|r| {
                    r.resource_attributes = service;
                    r.scope = Some("guard".into());
                }),
            ),
            (
                9,
                rule(|r| {
                    r.signal = Some(SignalName::Logs);
                    r.scope = Some("noise".into());
                }),
            ),
        ])
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let items = prop::collection::vec(0u8..24, 0..5);
        let scope = (prop::sample::select(vec!["guard", "noise", ""]).prop_map(str::to_owned), items);
        let scopes = prop::collection::vec(scope, 0..4);
        let service = prop::sample::select(vec!["fdir", "camera"]).prop_map(str::to_owned);
        prop::collection::vec((service, scopes), 0..4)
    }

    proptest! {
        #[test]
        fn prop_a_split_has_every_item_once_in_order_with_all_that_is_above_it(tree in tree()) {
            let (rules, body) = (some_rules(), logs(&tree));
            let whole = read_logs(&body);
            let total = whole.len() as u64;
            let shares = rules.shares(Signal::Logs, &body, total);
            prop_assert_eq!(shares.iter().map(|s| s.items).sum::<u64>(), total);
            let mut left = whole.clone();
            for lane in (1..=MAX_LANE).map(Lane) {
                let share = shares.iter().find(|s| s.lane == lane);
                let part = match rules.part(Signal::Logs, &body, total, lane) {
                    Part::Whole => body.clone(),
                    Part::Some(part) => part,
                    Part::Nothing => {
                        prop_assert!(share.is_none());
                        continue;
                    }
                };
                let share = share.unwrap();
                prop_assert_eq!(walk(Signal::Logs, &part).unwrap().items, share.items);
                prop_assert!(part.len() as u64 <= share.raw + 100, "{} {:?}", part.len(), share);
                // In order, and nothing that is not there.
                let mut at = 0;
                for item in read_logs(&part) {
                    let found = left[at..].iter().position(|i| *i == item);
                    prop_assert!(found.is_some(), "{item:?}");
                    at += found.unwrap();
                    left.remove(at);
                }
            }
            prop_assert!(left.is_empty(), "{left:?}");
        }

        #[test]
        fn prop_bytes_that_are_no_request_are_bulk_or_split_and_never_panic(
            tree in tree(), at in any::<prop::sample::Index>(), to in any::<u8>(),
        ) {
            let mut body = logs(&tree);
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = to;
            }
            let total = walk(Signal::Logs, &body).map_or(5, |w| w.items);
            let rules = some_rules();
            let shares = rules.shares(Signal::Logs, &body, total);
            prop_assert!(!shares.is_empty());
            for lane in (1..=MAX_LANE).map(Lane) {
                let part = rules.part(Signal::Logs, &body, total, lane);
                prop_assert_eq!(part == Part::Nothing, !shares.iter().any(|s| s.lane == lane));
            }
        }
    }

    #[test]
    fn the_most_urgent_lane_that_takes_an_item_has_it() {
        let tree: Tree = vec![
            ("fdir".into(), vec![("guard".into(), vec![17, 9]), ("noise".into(), vec![9])]),
            ("camera".into(), vec![("guard".into(), vec![9, 21])]),
        ];
        let shares = some_rules().shares(Signal::Logs, &logs(&tree), 5);
        let shares: Vec<(u8, u64)> = shares.iter().map(|s| (s.lane.0, s.items)).collect();
        assert_eq!(shares, [(1, 2), (2, 1), (9, 1), (8, 1)]);
    }

    #[test]
    fn spans_go_by_their_status_and_metrics_whole_by_their_name() {
        let spans = [2, 0, 1].map(|code| Span {
            status: (code != 0).then(|| Status { code, ..Default::default() }),
            ..Default::default()
        });
        let scope_spans = vec![ScopeSpans { spans: spans.to_vec(), ..Default::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..Default::default() }];
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        for (status, items) in [(SpanStatus::Error, 1), (SpanStatus::Ok, 1), (SpanStatus::Unset, 1)] {
            let rules = rules(vec![(1, rule(|r| r.status = Some(status)))]);
            assert_eq!(rules.shares(Signal::Traces, &body, 3)[0].items, items, "{status:?}");
            let Part::Some(part) = rules.part(Signal::Traces, &body, 3, Lane(1)) else { panic!() };
            let part = ExportTraceServiceRequest::decode(&part[..]).unwrap();
            let code = part.resource_spans[0].scope_spans[0].spans[0].status.as_ref().map_or(0, |s| s.code);
            assert_eq!(code, status as i32);
        }

        let metric = |name: &str, points| Metric {
            name: name.into(),
            data: Some(Data::Gauge(Gauge { data_points: vec![NumberDataPoint::default(); points] })),
            ..Default::default()
        };
        let metrics = vec![metric("battery.low", 3), metric("temperature", 2)];
        let scope_metrics = vec![ScopeMetrics { metrics, ..Default::default() }];
        let resource_metrics = vec![ResourceMetrics { scope_metrics, ..Default::default() }];
        let body = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec();
        let rules = rules(vec![(1, rule(|r| r.metric = Some("battery.*".into())))]);
        let shares = rules.shares(Signal::Metrics, &body, 5);
        assert_eq!(shares.iter().map(|s| (s.lane.0, s.items)).collect::<Vec<_>>(), [(1, 3), (8, 2)]);
        assert_eq!(rules.part(Signal::Logs, &body, 5, Lane(1)), Part::Nothing, "a rule about metrics");
    }

    #[test]
    fn what_one_lane_has_alone_is_not_copied() {
        let body = logs(&vec![("fdir".into(), vec![("x".into(), vec![20, 21])])]);
        assert_eq!(some_rules().part(Signal::Logs, &body, 2, Lane(1)), Part::Whole);
        assert_eq!(some_rules().part(Signal::Logs, &body, 2, Lane::BULK), Part::Nothing);
    }
}
