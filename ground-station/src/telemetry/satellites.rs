//! What is known of each satellite, as metrics. What a satellite has not said has no sample: unknown is not 0.
//!
//! Labels are ids from certificates, and numbers: a lane is its number, never the name that the satellite gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use perigee_shared::segment::Header;
use perigee_shared::signal::Signal;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{OfSatellite, Stored, Text};
use crate::spool::{ClockView, Items, Pass, StandingView};

/// The largest number of a lane that an agent can be configured with. Larger ones share a label.
const LARGEST_LANE: u8 = 15;

/// Upper bounds of the buckets of delivery delays, s: from a second to a week.
const DELAYS: [f64; 12] =
    [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0, 604_800.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLane {
    satellite: Text,
    lane: Text,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    satellite: Text,
    signal: &'static str,
    reason: Text,
}

/// The label of gaps.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfGap {
    satellite: Text,
    reason: Text,
}

/// The label of a segment's delay.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfDelivery {
    satellite: Text,
    signal: &'static str,
    lane: Text,
}

/// Delays of delivery.
pub(super) type Delays = Family<OfDelivery, Histogram, fn() -> Histogram>;

pub(super) fn delays() -> Delays {
    Family::new_with_constructor(|| Histogram::new(DELAYS))
}

/// A segment was committed `after` so long: that counts once for each signal in it.
pub(super) fn observe(delays: &Delays, satellite: &str, header: &Header, after: Duration) {
    for signal in header.items.signals().iter() {
        let satellite = Text(satellite.into());
        let label = OfDelivery { satellite, signal: signal.name(), lane: lane(header.id.lane.0) };
        delays.get_or_create(&label).observe(after.as_secs_f64());
    }
}

fn lane(number: u8) -> Text {
    Text(if number <= LARGEST_LANE { number.to_string().into() } else { "other".into() })
}

type Value = Gauge<f64, AtomicU64>;

/// Registers a gauge of those satellites for which there is a value.
fn gauge<'a>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'a String, Option<f64>)>,
) {
    let family = Family::<OfSatellite, Value>::default();
    for (satellite, value) in values {
        if let Some(value) = value {
            family.get_or_create(&OfSatellite { satellite: Text(satellite.as_str().into()) }).set(value);
        }
    }
    registry.register(format!("perigee_satellite_{name}"), help, family);
}

pub(super) fn register(
    registry: &mut Registry,
    of: &Stored,
    expected: &BTreeSet<Arc<str>>,
    connected: &BTreeMap<String, u64>,
) {
    let seconds = |nano: u64| (nano != 0).then_some(nano as f64 / 1e9);
    type Of = fn(&StandingView) -> Option<u64>;
    let heard =
        |id: &String, s: &StandingView| seconds(*connected.get(id).unwrap_or(&s.last_heard_unix_nano));
    let is_connected = |id: &String| Some(f64::from(u8::from(connected.contains_key(id))));
    // One that was never heard has no link either.
    let expected = expected.iter().map(|id| id.to_string());
    let ids: BTreeSet<String> = of.standings.keys().cloned().chain(expected).collect();
    gauge(registry, "connected", "1 while a link is open", ids.iter().map(|id| (id, is_connected(id))));
    gauge(
        registry,
        "last_heard_timestamp_seconds",
        "When its data last arrived; while a link is open, the time of the last check",
        of.standings.iter().map(|(id, s)| (id, heard(id, s))),
    );
    let times: [(&str, &str, Of); 3] = [
        ("next_contact_timestamp_seconds", "Its next contact by its own plan", |s| {
            s.next_contact.as_ref().map(|next| next.start_unix_nano)
        }),
        ("certificate_expiry_timestamp_seconds", "When the certificate that it has shown ends", |s| {
            s.agent.as_ref()?.certificate_end_unix_nano
        }),
        (
            "store_full_timestamp_seconds",
            "When its store will be full if its plan holds; absent while it will not",
            |s| s.forecast.as_ref()?["full_unix_nano"].as_u64(),
        ),
    ];
    for (name, help, value) in times {
        gauge(registry, name, help, of.standings.iter().map(|(id, s)| (id, value(s).and_then(seconds))));
    }
    let plain: [(&str, &str, Of); 5] = [
        ("partial_bytes", "Bytes held for partial segments, overhead included", |s| Some(s.partial_bytes)),
        ("store_bytes", "Bytes stored on board, by its last report", |s| {
            s.forecast.as_ref()?["stored_bytes"].as_u64()
        }),
        ("store_max_bytes", "Budget of its store", |s| s.forecast.as_ref()?["max_bytes"].as_u64()),
        ("memory_rss_bytes", "Resident memory of its agent, by its last report", |s| {
            s.agent.as_ref()?.resident_bytes
        }),
        ("memory_limit_bytes", "Memory limit of its agent", |s| s.agent.as_ref()?.memory_limit_bytes),
    ];
    for (name, help, value) in plain {
        gauge(registry, name, help, of.standings.iter().map(|(id, s)| (id, value(s).map(|n| n as f64))));
    }
    type OfPass = fn(&Pass) -> Option<f64>;
    let of_pass: [(&str, &str, OfPass); 5] = [
        ("start_timestamp_seconds", "When its last pass began", |pass| Some(pass.start() as f64 / 1e9)),
        (
            "fill_ratio",
            "Bytes that the ground gained in its last pass, divided by what its plan said the pass can carry",
            Pass::fill,
        ),
        ("held_bytes", "Bytes that the ground gained in its last pass", |pass| {
            pass.held_bytes().map(|bytes| bytes as f64)
        }),
        ("connect_seconds", "From AOS by its plan until the link was up in its last pass", |pass| {
            pass.report()["connect_seconds"].as_f64()
        }),
        ("loss_ratio", "Packets of its last pass that were lost, divided by those that it sent", |pass| {
            pass.report()["loss"].as_f64()
        }),
    ];
    for (name, help, value) in of_pass {
        let last = of.standings.iter().map(|(id, s)| (id, s.last_pass.as_ref().and_then(value)));
        gauge(registry, &format!("last_pass_{name}"), help, last);
    }
    register_clocks(registry, of);
    register_backlog(registry, of);
    register_gaps(registry, of);
}

fn register_clocks(registry: &mut Registry, of: &Stored) {
    type OfClock = fn(&ClockView) -> Option<f64>;
    let gauges: [(&str, &str, OfClock); 4] = [
        (
            "offset_seconds",
            "Offset of a satellite's wall clock from this station's, when it was last heard",
            |c| Some(c.offset_seconds),
        ),
        ("offset_error_seconds", "Uncertainty of that offset", |c| Some(c.error_seconds)),
        ("drift_ppm", "By how much a satellite's clock gains, in parts per million", |c| {
            c.drift_ppm.map(|[drift, _]| drift)
        }),
        ("untrusted", "1 while a satellite says that its wall clock cannot be right", |c| {
            Some(f64::from(u8::from(!c.untrusted.is_empty())))
        }),
    ];
    for (name, help, value) in gauges {
        let of_clock = of.standings.iter().map(|(id, s)| (id, s.clock.as_ref().and_then(value)));
        gauge(registry, &format!("clock_{name}"), help, of_clock);
    }
}

fn register_backlog(registry: &mut Registry, of: &Stored) {
    let [bytes, items, oldest]: [Family<OfLane, Value>; 3] = Default::default();
    for (id, standing) in &of.standings {
        for waits in standing.backlog.iter().flatten() {
            let label = OfLane { satellite: Text(id.as_str().into()), lane: lane(waits.lane) };
            bytes.get_or_create(&label).inc_by(waits.bytes as f64);
            items.get_or_create(&label).inc_by(waits.items.total() as f64);
            if let Some(since) = waits.since_unix_nano {
                let since = since as f64 / 1e9;
                let before = oldest.get(&label).map(|gauge| gauge.get());
                oldest.get_or_create(&label).set(before.map_or(since, |before| before.min(since)));
            }
        }
    }
    for (name, help, family) in [
        ("bytes", "Waiting on board by lane, by its last report, minus what was committed since", bytes),
        ("items", "Waiting on board by lane, by its last report, minus what was committed since", items),
        (
            "oldest_timestamp_seconds",
            "Since when the oldest of a lane waits, by this station's clock",
            oldest,
        ),
    ] {
        registry.register(format!("perigee_satellite_backlog_{name}"), help, family);
    }
}

fn register_gaps(registry: &mut Registry, of: &Stored) {
    let gaps = Family::<OfReason, Value>::default();
    for (id, account) in &of.accounts {
        let lost = ("station_lost", account.lost);
        let dropped = account.dropped_by_reason.iter().map(|(reason, items)| (reason.as_str(), *items));
        for (reason, items) in dropped.chain(std::iter::once(lost).filter(|(_, n)| *n != Items::default())) {
            for signal in Signal::ALL {
                let (satellite, reason) = (Text(id.as_str().into()), Text(reason.into()));
                let label = OfReason { satellite, signal: signal.name(), reason };
                gaps.get_or_create(&label).inc_by(items.of(signal) as f64);
            }
        }
    }
    let help = "Items that will not be exported, by reason, without those that were committed all the same";
    registry.register("perigee_satellite_gap_items", help, gaps);
    let counts = Family::<OfGap, Value>::default();
    for ((id, reason), count) in &of.gaps {
        let label = OfGap { satellite: Text(id.as_str().into()), reason: Text(reason.as_str().into()) };
        counts.get_or_create(&label).set(*count as f64);
    }
    let help = "Gaps by reason, also those of which nobody knows how many items they had";
    registry.register("perigee_satellite_gaps", help, counts);
}
