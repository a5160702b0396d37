//! Alarms on board: which are kept, and that they are kept whatever else arrives. Those over PostgreSQL pass over themselves where
//! there is none.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use perigee_shared::segment::{Codec, Encoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, Signal, SignalSet};
use prost::Message;

use super::both_tests::{Site, Subject};
use super::tests::{incoming, segment};
use super::*;

fn text(text: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) })
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: text(value), ..KeyValue::default() }
}

fn record(time: u64, severity: i32, event: &str, body: &str) -> LogRecord {
    LogRecord {
        time_unix_nano: time,
        severity_number: severity,
        event_name: event.to_owned(),
        body: text(body),
        ..LogRecord::default()
    }
}

fn logs(service: &str, log_records: Vec<LogRecord>) -> ResourceLogs {
    ResourceLogs {
        resource: Some(Resource {
            attributes: vec![attribute("service.name", service)],
            ..Resource::default()
        }),
        scope_logs: vec![ScopeLogs { log_records, ..ScopeLogs::default() }],
        ..ResourceLogs::default()
    }
}

/// A whole segment of a lane with these logs.
fn sealed(satellite: &str, lane: u8, sequence: u64, resource_logs: Vec<ResourceLogs>) -> Incoming {
    let records: usize = resource_logs.iter().flat_map(|r| &r.scope_logs).map(|s| s.log_records.len()).sum();
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    let mut encoder = Encoder::new(Codec::ZstdRows, None).unwrap();
    encoder.push(Signal::Logs, &body).unwrap();
    let payload = encoder.finish().unwrap().payload;
    let (like, _) = segment(sequence, Counts::of(Signal::Logs, records as u64), 0);
    let header = Header {
        id: SegmentId { lane: Lane(lane), ..like.id },
        payload_len: payload.len() as u64,
        raw_len: body.len() as u64,
        hash: hash(&payload),
        ..(*like).clone()
    };
    let whole = 0..payload.len();
    Incoming { satellite: satellite.into(), ..incoming(&Arc::new(header), &payload, &[whole]) }
}

fn one(lane: u8, sequence: u64, record: LogRecord) -> Incoming {
    sealed("sat-1", lane, sequence, vec![logs("space-agent", vec![record])])
}

/// What is kept of each satellite, as times and names, the latest first.
fn kept(spool: &Subject<'_>, satellite: &str) -> Vec<(u64, String)> {
    let (_, digest) =
        spool.wait(async { spool.store.views().glance().await?.digest(Records::default()).await });
    let of = digest.satellites.into_iter().find(|sat| sat.satellite == satellite).unwrap();
    of.alarms.into_iter().map(|alarm| (alarm.unix_nano, alarm.name)).collect()
}

fn read_all(spool: &Subject<'_>) {
    while spool.wait(spool.store.upkeep().read_alarms()) {}
}

over_both! {
    fn an_alarm_stays_behind_many_other_items_of_its_segment_and_of_other_satellites(site) {
        let spool = site.open();
        let mut records = vec![record(7, 17, "perigee.store.failed", "the store failed")];
        records.extend((0..300).map(|n| record(100 + n, 9, "perigee.said", "nothing")));
        spool.apply(&[sealed("sat-1", 1, 1, vec![logs("space-agent", records)])]);
        assert_eq!(spool.pass("a", SignalSet::ALL), 1);
        for sequence in 1..=10 {
            let chatter = (0..150).map(|n| record(1_000 + n, 17, "app.error", "no alarm")).collect();
            spool.apply(&[sealed("sat-2", 8, sequence, vec![logs("camera", chatter)])]);
        }
        assert_eq!(spool.pass("a", SignalSet::ALL), 10);
        read_all(&spool);
        let failed = [(7, "perigee.store.failed".to_owned())];
        assert_eq!(kept(&spool, "sat-1"), failed);
        assert_eq!(kept(&spool, "sat-2"), [], "of its services and not of its agent");
        spool.close();
        assert_eq!(kept(&site.open(), "sat-1"), failed, "and over a start");
    }

    fn alarms_are_read_while_no_backend_takes_anything(site) {
        let spool = site.open();
        spool.apply(&[
            one(8, 1, record(5, 13, "perigee.listener.full", "full")),
            one(8, 2, record(6, 9, "perigee.listener.full", "no warning")),
            one(1, 1, record(7, 17, "perigee.wal.torn", "torn")),
        ]);
        read_all(&spool);
        let both = [(7, "perigee.wal.torn".to_owned()), (5, "perigee.listener.full".to_owned())];
        assert_eq!(kept(&spool, "sat-1"), both);
        // What an exporter has decoded as well is there once.
        assert_eq!(spool.pass("a", SignalSet::ALL), 3);
        assert_eq!(kept(&spool, "sat-1"), both);
    }

    fn one_that_comes_again_and_again_does_not_push_the_others_out(site) {
        let spool = site.open();
        let first = record(1, 17, "perigee.wal.lost", "lost");
        let again = (2..60).map(|n| record(n, 17, "perigee.store.failed", "failed"));
        let all = std::iter::once(first).chain(again).collect();
        spool.apply(&[sealed("sat-1", 1, 1, vec![logs("space-agent", all)])]);
        spool.pass("a", SignalSet::ALL);
        let kept = kept(&spool, "sat-1");
        assert_eq!(kept.len(), 20);
        assert_eq!(kept[0].0, 59);
        assert_eq!(kept[19], (1, "perigee.wal.lost".to_owned()));
    }

    fn of_a_hundred_thousand_records_in_a_few_bytes_each_and_of_a_large_one_little_is_kept_or_shown(site) {
        let spool = site.open();
        let large = record(1, 17, "perigee.store.failed", &"x".repeat(600 << 10));
        let mut records = vec![LogRecord::default(); 100_000];
        records.extend([large, record(2, 17, "perigee.store.failed", "the store failed")]);
        let resource = logs("space-agent", records);
        spool.apply(&[sealed("sat-1", 8, 1, vec![resource])]);
        assert_eq!(spool.pass("a", SignalSet::ALL), 1);
        let shown = |most: usize| {
            let tail = spool.wait(async { spool.store.views().glance().await?.tail(0, 4 << 20, most).await });
            tail.items.into_iter().map(|item| item.text).collect::<Vec<_>>()
        };
        let latest = shown(3);
        assert_eq!((latest[0].as_str(), latest[2].as_str()), ("the store failed", ""));
        assert!(latest[1].ends_with(" bytes: too many to be shown here"), "{latest:?}");
        assert_eq!(shown(200).len(), 200);
        assert_eq!(kept(&spool, "sat-1"), [(2, "perigee.store.failed".to_owned())]);
    }

    fn what_an_alarm_says_is_bounded_and_has_no_control_characters(site) {
        let spool = site.open();
        let mut hostile = record(3, 17, &"perigee.\u{1b}".repeat(40), &"<b>\u{7}".repeat(400));
        hostile.attributes = (0..100).map(|n| attribute(&format!("k{n}"), "x")).collect();
        let mut said = record(2, 17, "perigee.store.failed", "the store failed");
        said.attributes = vec![attribute("error", "no space")];
        spool.apply(&[sealed("sat-1", 1, 1, vec![logs("space-agent", vec![said, hostile])])]);
        read_all(&spool);
        let (_, digest) = spool.wait(async { spool.store.views().glance().await?.digest(Records::default()).await });
        let [hostile, said] = &digest.satellites[0].alarms[..] else { panic!("two were kept") };
        assert!(hostile.name.chars().count() <= 64 && hostile.text.chars().count() <= 240);
        assert!(!format!("{}{}", hostile.name, hostile.text).contains(char::is_control));
        assert_eq!(said.text, "the store failed, error: no space");
        assert!(said.committed_unix_nano > 0);
    }
}

#[test]
fn a_file_of_earlier_software_has_no_alarms_and_gets_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = tests::open(&dir);
    tests::commit(&mut spool, 1, tests::spans(1));
    assert!(spool.write(|txn| Ok(txn.tables.delete_table(tables::ALARMS)?)).unwrap());
    assert!(spool.read(alarms::all).unwrap().is_empty(), "a file without the table is read all the same");
    spool.close().unwrap();
    let spool = tests::open(&dir);
    spool.close().unwrap();
    let db = redb::Database::open(dir.path().join("spool.redb")).unwrap();
    assert!(redb::ReadableDatabase::begin_read(&db).unwrap().open_table(tables::ALARMS).is_ok());
}
