//! Warnings and alarms of this program as log records, kept until they are sent.
//!
//! What is kept is bounded, and so is how often one place in the code may speak. Of what happens to single requests on their way
//! in or out, and of what a rule drops, nothing is kept but alarms: a record about a record would make the next.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::OwnLevel;

/// Records that are kept at most.
const RECORDS: usize = 128;

/// A text in a record is cut to so many bytes.
const TEXT: usize = 1024;

/// Records of one place in the code at once, at most.
const BURST: u32 = 8;

/// It gets one more after each of these.
const REFILL: Duration = Duration::from_secs(600);

/// The name of an alarm among an event's fields.
pub(super) const EVENT_NAME: &str = "event.name";

/// Whose events are kept.
const OURS: [&str; 3] = ["space_agent", "ground_station", "perigee_shared"];

/// Where single requests pass on their way in and out, and where rules drop them.
const WAY: [&str; 4] = ["exporter", "export", "journal", "custody"];

/// Whether an event is of this program and not of a library.
pub(super) fn is_ours(of: &Metadata<'_>) -> bool {
    of.target().split("::").next().is_some_and(|program| OURS.contains(&program))
}

/// What is kept; clones share it.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The least severity that is kept.
    least: Option<tracing::Level>,
    kept: Arc<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    state: Mutex<State>,
    some: Notify,
}

#[derive(Debug, Default)]
struct State {
    records: VecDeque<LogRecord>,
    lost: u64,
    places: HashMap<Identifier, Place>,
}

/// A place in the code that speaks.
#[derive(Debug)]
struct Place {
    /// How often it may.
    left: u32,
    refilled: Instant,
    /// How often it was not kept since it was.
    passed_over: u64,
}

impl Captured {
    /// Keeps records of this severity and above.
    pub(super) fn new(least: OwnLevel) -> Self {
        let least = match least {
            OwnLevel::Off => None,
            OwnLevel::Error => Some(tracing::Level::ERROR),
            OwnLevel::Warn => Some(tracing::Level::WARN),
        };
        Self { least, kept: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.kept.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is a record.
    pub async fn some(&self) {
        while self.state().records.is_empty() {
            self.kept.some.notified().await;
        }
    }

    /// Takes what is kept; with it, how many records were lost since the last time.
    pub fn take(&self) -> (Vec<LogRecord>, u64) {
        let mut state = self.state();
        (std::mem::take(&mut state.records).into(), std::mem::take(&mut state.lost))
    }

    /// Puts records back that could not be sent, before those that came meanwhile, as far as there is room.
    pub fn put_back(&self, records: Vec<LogRecord>, lost: u64) {
        let mut state = self.state();
        state.lost += lost;
        for record in records.into_iter().rev() {
            if state.records.len() < RECORDS {
                state.records.push_front(record);
            } else {
                state.lost += 1;
            }
        }
    }

    fn wants(&self, of: &Metadata<'_>) -> bool {
        let mut modules = of.target().split("::");
        self.least.is_some_and(|least| *of.level() <= least)
            && is_ours(of)
            && (of.fields().field(EVENT_NAME).is_some() || !modules.any(|module| WAY.contains(&module)))
    }

    fn keep(&self, of: &Metadata<'_>, now: Instant, record: impl FnOnce() -> LogRecord) {
        let mut state = self.state();
        let place = state.places.entry(of.callsite());
        let place = place.or_insert(Place { left: BURST, refilled: now, passed_over: 0 });
        let refills = now.saturating_duration_since(place.refilled).as_secs() / REFILL.as_secs();
        if refills > 0 {
            place.left = BURST.min(place.left.saturating_add(u32::try_from(refills).unwrap_or(BURST)));
            place.refilled = now;
        }
        if place.left == 0 {
            place.passed_over += 1;
            return;
        }
        place.left -= 1;
        let passed_over = std::mem::take(&mut place.passed_over);
        if state.records.len() >= RECORDS {
            state.lost += 1;
            return;
        }
        let mut record = record();
        if passed_over > 0 {
            let count = Value::IntValue(i64::try_from(passed_over).unwrap_or(i64::MAX));
            record.attributes.push(attribute("perigee.repeated", count));
        }
        state.records.push_back(record);
        drop(state);
        self.kept.some.notify_one();
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

impl<S: Subscriber> Layer<S> for Captured {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let of = event.metadata();
        if self.wants(of) {
            self.keep(of, Instant::now(), || record(event));
        }
    }
}

/// What an event says.
fn record(event: &Event<'_>) -> LogRecord {
    let of = event.metadata();
    let severity =
        if *of.level() == tracing::Level::ERROR { SeverityNumber::Error } else { SeverityNumber::Warn };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let mut said = Said(LogRecord {
        time_unix_nano: now,
        observed_time_unix_nano: now,
        severity_number: severity as i32,
        severity_text: of.level().to_string(),
        ..LogRecord::default()
    });
    event.record(&mut said);
    said.0
}

struct Said(LogRecord);

impl Said {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", value) => self.0.body = Some(AnyValue { value: Some(value) }),
            (EVENT_NAME, Value::StringValue(name)) => {
                // Where a backend does not show the field.
                self.0.attributes.push(attribute(EVENT_NAME, Value::StringValue(name.clone())));
                self.0.event_name = name;
            }
            (name, value) => self.0.attributes.push(attribute(name, value)),
        }
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::StringValue(value[..value.floor_char_boundary(TEXT)].to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::BoolValue(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::DoubleValue(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.record_i64(field, value),
            Err(_) => self.record_str(field, &value.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn capture(logs: OwnLevel, events: impl FnOnce()) -> (Vec<LogRecord>, u64) {
        let captured = Captured::new(logs);
        let subscriber = tracing_subscriber::registry().with(captured.clone());
        tracing::subscriber::with_default(subscriber, events);
        captured.take()
    }

    fn bodies(records: &[LogRecord]) -> Vec<String> {
        let body = |r: &LogRecord| match r.body.as_ref().and_then(|b| b.value.as_ref()) {
            Some(Value::StringValue(text)) => text.clone(),
            other => panic!("{other:?}"),
        };
        records.iter().map(body).collect()
    }

    #[test]
    fn an_alarm_keeps_its_name_its_severity_and_what_it_says() {
        let (records, lost) = capture(OwnLevel::Warn, || {
            tracing::info!("not this");
            tracing::error!(event.name = "perigee.store.failed", bytes = 7u64, why = %"no \u{1f6f0}", "the disk");
            tracing::warn!(on = true, "a warning");
            tracing::error!(target: "quinn", "of a library");
        });
        assert_eq!((bodies(&records), lost), (vec!["the disk".to_owned(), "a warning".to_owned()], 0));
        let alarm = &records[0];
        assert_eq!((alarm.severity_number, &*alarm.severity_text), (17, "ERROR"));
        assert_eq!(alarm.event_name, "perigee.store.failed");
        let expected = [
            attribute(EVENT_NAME, Value::StringValue("perigee.store.failed".into())),
            attribute("bytes", Value::IntValue(7)),
            attribute("why", Value::StringValue("no \u{1f6f0}".into())),
        ];
        assert_eq!(alarm.attributes, expected);
        assert_eq!(records[1].severity_number, 13);
    }

    #[test]
    fn what_is_about_single_requests_is_not_kept_but_alarms_are() {
        let (records, _) = capture(OwnLevel::Warn, || {
            tracing::warn!(target: "ground_station::exporter::deliver", "refused for good");
            tracing::warn!(target: "perigee_shared::export", { event.name = "perigee.exporter.kept" }, "kept");
            tracing::warn!(target: "space_agent::journal", "answered requests wait");
            tracing::warn!(target: "space_agent::wal::custody", "dropped segments");
        });
        assert_eq!(bodies(&records), ["kept"]);
        let (records, _) = capture(OwnLevel::Error, || tracing::warn!("a warning"));
        assert_eq!(records, []);
    }

    #[test]
    fn one_place_that_speaks_without_end_leaves_room_for_others() {
        let (records, lost) = capture(OwnLevel::Warn, || {
            for n in 0..100_000 {
                tracing::warn!(n, "again");
            }
            tracing::error!("something else");
        });
        assert_eq!((records.len(), lost), (BURST as usize + 1, 0));
        assert_eq!(bodies(&records)[BURST as usize], "something else");
    }

    #[test]
    fn it_speaks_again_later_and_says_how_often_it_did() {
        // The place of some event.
        static SEEN: Mutex<Option<&'static Metadata<'static>>> = Mutex::new(None);
        struct Seen;
        impl<S: Subscriber> Layer<S> for Seen {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                *SEEN.lock().unwrap() = Some(event.metadata());
            }
        }
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Seen), || {
            tracing::warn!("any")
        });
        let captured = Captured::new(OwnLevel::Warn);
        let (of, begin) = (SEEN.lock().unwrap().unwrap(), Instant::now());
        for _ in 0..20 {
            captured.keep(of, begin, LogRecord::default);
        }
        captured.keep(of, begin + REFILL, LogRecord::default);
        captured.keep(of, begin + REFILL, LogRecord::default);
        let (records, _) = captured.take();
        assert_eq!(records.len(), BURST as usize + 1);
        let repeated = attribute("perigee.repeated", Value::IntValue(20 - i64::from(BURST)));
        assert_eq!(records[BURST as usize].attributes, [repeated]);
    }

    #[test]
    fn more_than_there_is_room_for_is_counted() {
        let captured = Captured::new(OwnLevel::Warn);
        captured.put_back(vec![LogRecord::default(); RECORDS + 3], 2);
        let (records, lost) = captured.take();
        assert_eq!((records.len(), lost), (RECORDS, 5));
    }
}
