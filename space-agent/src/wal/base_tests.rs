//! Segments that lean on one another: what stays on board for them, what the ground is told, and what happens when a ground does
//! not have what they lean on.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use perigee_shared::link::Slot;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::otlp::walk::walk;
use perigee_shared::segment::{Codec, Decoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Signal, SignalSet};
use prost::Message as _;

use super::tests::{ALL, Bench, LINK, assert_adds_up};
use super::*;

/// Log records with these numbers in their bodies, more than enough to be worth leaning on.
fn request(numbers: std::ops::Range<u64>) -> Accepted {
    let record = |n: u64| LogRecord {
        time_unix_nano: 1_700_000_000_000_000_000 + n * 1_000_000,
        body: Some(AnyValue {
            value: Some(any_value::Value::StringValue(format!("pass {n} over station {n}"))),
        }),
        severity_text: format!("a severity of length {}", n % 50),
        ..LogRecord::default()
    };
    let scope_logs = vec![ScopeLogs { log_records: numbers.map(record).collect(), ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    let body = Bytes::from(ExportLogsServiceRequest { resource_logs }.encode_to_vec());
    let walked = walk(Signal::Logs, &body).unwrap();
    Accepted { signal: Signal::Logs, body, walked }
}

/// Seals a segment that leans on what the log says it may.
fn seal(wal: &mut Wal, numbers: std::ops::Range<u64>, to_lean_on: bool) -> Header {
    wal.journal().append(&[request(numbers)]).unwrap();
    let sequence = wal.bases().current(Lane::BULK);
    let base = wal.bases().chain(Lane::BULK, sequence).unwrap().decode().unwrap();
    let base = sequence.zip(base.map(Arc::new));
    let batch = wal.segments().take_batch(Lane::BULK, ALL, true).unwrap().unwrap();
    let encoding = Encoding { codec: Codec::Columns, base, to_lean_on, ..Encoding::default() };
    wal.segments().commit(batch.seal(&encoding, 7).unwrap()).unwrap()
}

fn committed(wal: &mut Wal, header: &Header) {
    wal.custody().mark_sent(Slot::FIRST, header.id);
    assert_eq!(wal.epochs().committed(LINK, Slot::FIRST, &[header.id]).unwrap(), 1);
}

fn oldest_base(wal: &mut Wal) -> Option<u64> {
    wal.epochs().hello("a").unwrap().pop().unwrap().lanes[0].oldest_base
}

/// How many records a segment on board decodes to.
fn records(wal: &mut Wal, header: &Header) -> usize {
    let payload = wal.custody().payload(header).unwrap().unwrap();
    let base = wal.bases().chain(Lane::BULK, header.base_sequence).unwrap().decode().unwrap();
    Decoder::new(header, &payload, base.as_ref())
        .unwrap()
        .map(|r| walk(Signal::Logs, &r.unwrap().body).unwrap().items as usize)
        .sum()
}

#[test]
fn a_segment_leans_on_one_that_the_ground_has_and_is_smaller_for_it() {
    let bench = Bench::new();
    let mut wal = bench.open();
    let first = seal(&mut wal, 0..200, true);
    assert_eq!((first.is_base, first.base_sequence), (true, None));
    let early = seal(&mut wal, 200..400, false);
    assert_eq!(early.base_sequence, None, "the ground does not have the first one yet");
    committed(&mut wal, &first);
    let leaning = seal(&mut wal, 400..600, false);
    assert_eq!(leaning.base_sequence, Some(1));
    assert!(leaning.payload_len * 4 < early.payload_len * 3, "{} {}", leaning.payload_len, early.payload_len);
    assert_eq!(records(&mut wal, &leaning), 200);
    assert_eq!(oldest_base(&mut wal), Some(1));
    drop(wal);
    bench.disk.restart();
    let mut wal = bench.open();
    assert_eq!((wal.bases().current(Lane::BULK), records(&mut wal, &leaning)), (Some(1), 200));
    assert_adds_up(&wal);
}

#[test]
fn a_base_goes_when_nothing_leans_on_it_any_more() {
    let bench = Bench::new();
    let mut wal = bench.open();
    let first = seal(&mut wal, 0..200, true);
    committed(&mut wal, &first);
    let leaning = seal(&mut wal, 200..400, false);
    // The next base leans on nothing.
    wal.journal().append(&[request(400..600)]).unwrap();
    let batch = wal.segments().take_batch(Lane::BULK, ALL, true).unwrap().unwrap();
    let encoding = Encoding { codec: Codec::Columns, to_lean_on: true, ..Encoding::default() };
    let second = wal.segments().commit(batch.seal(&encoding, 7).unwrap()).unwrap();
    committed(&mut wal, &second);
    assert_eq!((wal.bases().current(Lane::BULK), oldest_base(&mut wal)), (Some(3), Some(1)));
    committed(&mut wal, &leaning);
    assert_eq!(oldest_base(&mut wal), Some(3));
    assert!(wal.bases().chain(Lane::BULK, Some(1)).is_err());
    let stored = wal.summary().stored_bytes;
    drop(wal);
    assert_eq!(bench.open().summary().stored_bytes, stored, "what is kept counts, and is counted anew");
}

#[test]
fn bases_that_lean_on_one_another_stay_together() {
    let mut wal = Bench::new().open();
    for n in 0..4 {
        let header = seal(&mut wal, n * 100..n * 100 + 100, true);
        committed(&mut wal, &header);
    }
    let last = seal(&mut wal, 400..500, false);
    assert_eq!((last.base_sequence, oldest_base(&mut wal)), (Some(4), Some(1)));
    assert_eq!(wal.bases().chain(Lane::BULK, Some(4)).unwrap().len(), 4);
    assert_eq!(records(&mut wal, &last), 100);
}

#[test]
fn a_segment_that_is_encoded_anew_leans_on_nothing_and_is_no_contradiction() {
    let mut wal = Bench::new().open();
    let first = seal(&mut wal, 0..200, true);
    committed(&mut wal, &first);
    let leaning = seal(&mut wal, 200..400, false);
    for codec in [Codec::Columns, Codec::ZstdRows] {
        let recoding = wal.recoding().prepare(leaning.id).unwrap().unwrap();
        assert!(
            wal.recoding().replace(Recoder::default().run(recoding, codec, usize::MAX).unwrap()).unwrap()
        );
        let header = wal.custody().segments(10).unwrap().pop().unwrap().0.header;
        let payload = wal.custody().payload(&header).unwrap().unwrap();
        assert_eq!((header.base_sequence, header.codec, header.hash), (None, codec as u32, hash(&payload)));
        assert_eq!((header.id, header.items), (leaning.id, leaning.items));
        assert_eq!(records(&mut wal, &header), 200);
        assert_adds_up(&wal);
    }
    // A station that has committed it as it was first is as right as one that has it as it is now.
    let consumer = LINK;
    let now = wal.custody().segments(10).unwrap().pop().unwrap().0.header.hash;
    for top in [leaning.hash, now] {
        let committed = std::iter::once(1..3).collect();
        let lane = GroundLane { committed, tops: vec![(2, top)], ..GroundLane::new(Lane::BULK) };
        let view = GroundView { epoch: wal.summary().life.epoch, lanes: vec![lane], ..GroundView::default() };
        assert!(matches!(
            wal.epochs().reconcile(consumer, Slot::FIRST, &view).unwrap(),
            Reconciled::Believed { .. }
        ));
    }
    let gone = wal.recoding().prepare(SegmentId { sequence: 9, ..leaning.id }).unwrap();
    assert!(gone.is_none());
}

#[test]
fn what_is_being_sent_or_has_its_requests_counted_is_not_encoded_anew_on_request() {
    let mut wal = Bench::new().open();
    let first = seal(&mut wal, 0..200, true);
    committed(&mut wal, &first);
    let leaning = seal(&mut wal, 200..400, false);
    let ask = |wal: &mut Wal, link: &str| wal.recoding().asked(leaning.id, Codec::Columns, link).unwrap();
    assert!(matches!(ask(&mut wal, "another"), Asked::Cannot(Cannot::Waits(_))));
    assert!(matches!(wal.recoding().begin_sending(Slot::FIRST, &leaning).unwrap(), Sending::Payload(..)));
    assert!(matches!(ask(&mut wal, "link"), Asked::Cannot(Cannot::BeingSent)));
    wal.recoding().end_sending(Slot::FIRST);
    let Asked::Can(recoding) = ask(&mut wal, "link") else { panic!("it waits for the link alone") };
    let recoded = Recoder::default().run(*recoding, Codec::Columns, usize::MAX).unwrap();
    assert_eq!(wal.recoding().replace_as_asked(recoded).unwrap(), Ok(()));
    assert!(matches!(ask(&mut wal, "link"), Asked::IsSo));
    assert!(
        matches!(wal.recoding().begin_sending(Slot::FIRST, &leaning).unwrap(), Sending::Changed),
        "its header was read before"
    );
    let now = wal.custody().segments(10).unwrap().pop().unwrap().0.header;
    assert!(matches!(wal.recoding().begin_sending(Slot::FIRST, &now).unwrap(), Sending::Payload(..)));
    assert_eq!((now.base_sequence, records(&mut wal, &now)), (None, 200));
    committed(&mut wal, &now);
    assert!(matches!(ask(&mut wal, "link"), Asked::Cannot(Cannot::NotOnBoard)));
    assert!(matches!(wal.recoding().begin_sending(Slot::FIRST, &now).unwrap(), Sending::Gone));
    assert_adds_up(&wal);
}

#[test]
fn in_a_new_epoch_nothing_leans_on_what_the_ground_has_of_the_old_one() {
    let mut wal = Bench::new().open();
    let first = seal(&mut wal, 0..200, true);
    committed(&mut wal, &first);
    let leaning = seal(&mut wal, 200..400, false);
    wal.epochs().begin("a test").unwrap();
    assert_eq!((wal.bases().current(Lane::BULK), oldest_base(&mut wal)), (None, None));
    // It still decodes here, so that it can be encoded anew.
    let renamed = wal.custody().segments(1).unwrap().pop().unwrap().0.header;
    assert_ne!(renamed.id.epoch, leaning.id.epoch);
    assert_eq!(records(&mut wal, &renamed), 200);
    let recoding = wal.recoding().prepare(renamed.id).unwrap().unwrap();
    assert!(
        wal.recoding()
            .replace(Recoder::default().run(recoding, Codec::Columns, usize::MAX).unwrap())
            .unwrap()
    );
    assert_eq!(oldest_base(&mut wal), None);
    assert!(wal.bases().chain(Lane::BULK, Some(1)).is_err(), "nothing needs it any more");
}

/// What a station has committed of the lane, and what then may be leaned on.
fn hears(wal: &mut Wal, station: &str, committed: std::ops::Range<u64>) -> Option<u64> {
    wal.bases().greets(Slot::FIRST, station);
    let committed = std::iter::once(committed).collect::<RangeSet>();
    let lane = GroundLane { committed, ..GroundLane::new(Lane::BULK) };
    let view = GroundView { epoch: wal.summary().life.epoch, lanes: vec![lane], ..GroundView::default() };
    let consumer = LINK;
    wal.epochs().reconcile(consumer, Slot::FIRST, &view).unwrap();
    wal.bases().to_depend_on(Lane::BULK)
}

#[test]
fn nothing_leans_on_a_base_that_the_next_station_will_not_have() {
    let mut wal = Bench::new().open();
    wal.bases().greets(Slot::FIRST, "svalbard");
    let first = seal(&mut wal, 0..200, true);
    committed(&mut wal, &first);
    assert_eq!(wal.bases().to_depend_on(Lane::BULK), Some(1));
    assert_eq!(hears(&mut wal, "beijing", 0..0), None, "it has a ledger of its own");
    assert_eq!(hears(&mut wal, "svalbard", 1..2), Some(1), "it is connected");
    wal.recoding().end_sending(Slot::FIRST);
    assert_eq!(wal.bases().to_depend_on(Lane::BULK), None, "whose turn is next is not known");
    assert_eq!(hears(&mut wal, "beijing", 1..2), Some(1), "the two have one ledger now");
    assert_eq!(hears(&mut wal, "svalbard", 0..0), None, "it has lost its ledger");
    wal.journal().append(&[request(200..400)]).unwrap();
    let batch = wal.segments().take_batch(Lane::BULK, ALL, true).unwrap().unwrap();
    let encoding = Encoding { codec: Codec::Columns, to_lean_on: true, ..Encoding::default() };
    let second = wal.segments().commit(batch.seal(&encoding, 7).unwrap()).unwrap();
    committed(&mut wal, &second);
    assert_eq!(wal.bases().to_depend_on(Lane::BULK), Some(2), "and has what is new");
}

#[test]
fn nothing_that_an_exporter_counts_requests_of_leans_on_what_one_of_two_ledgers_has() {
    let mut bench = Bench::new();
    bench.config.consumers.insert("out".to_owned(), SignalSet::ALL);
    let mut wal = bench.open();
    wal.bases().greets(Slot::FIRST, "svalbard");
    let first = seal(&mut wal, 0..200, true);
    wal.custody().mark_sent(Slot::FIRST, first.id);
    wal.epochs().committed(LINK, Slot::FIRST, &[first.id]).unwrap();
    assert_eq!(wal.bases().to_depend_on(Lane::BULK), Some(1), "there is one ledger, as far as is known");
    hears(&mut wal, "beijing", 0..0);
    assert_eq!(hears(&mut wal, "svalbard", 1..2), None, "it would be encoded again for the other one");
}

#[test]
fn what_leans_on_a_base_of_another_ledger_is_not_sent_as_it_is() {
    let mut wal = Bench::new().open();
    wal.bases().greets(Slot::FIRST, "svalbard");
    let first = seal(&mut wal, 0..200, true);
    committed(&mut wal, &first);
    let leaning = seal(&mut wal, 200..400, false);
    assert_eq!(leaning.base_sequence, Some(1));
    let sends = |wal: &mut Wal, header: &Header| {
        let found = wal.queues().to_ship(LINK, Slot::FIRST, Lane::BULK, &RangeSet::default(), 9).unwrap();
        let is_fresh = found.headers[0].1;
        (is_fresh, matches!(wal.recoding().begin_sending(Slot::FIRST, header).unwrap(), Sending::Payload(..)))
    };
    hears(&mut wal, "beijing", 0..0);
    assert_eq!(sends(&mut wal, &leaning), (false, false), "it could not be read");
    wal.bases().greets(Slot::FIRST, "svalbard");
    assert_eq!(sends(&mut wal, &leaning), (false, false), "Resume has not come");
    hears(&mut wal, "svalbard", 1..2);
    assert_eq!(sends(&mut wal, &leaning), (true, true));
}

#[test]
fn that_stations_have_ledgers_of_their_own_is_known_after_a_start() {
    for (stations, expected) in [
        ([("svalbard", 7), ("beijing", 8)], None),
        ([("svalbard", 7), ("beijing", 7)], Some(2)),
        ([("svalbard", 7), ("svalbard", 8)], Some(2)),
    ] {
        let bench = Bench::new();
        let mut wal = bench.open();
        for (at, (station, ledger)) in (0..).zip(stations) {
            wal.bases().greets(Slot::FIRST, station);
            let epoch = wal.summary().life.epoch;
            wal.epochs()
                .reconcile(LINK, Slot::FIRST, &GroundView { ledger, epoch, ..GroundView::default() })
                .unwrap();
            let header = seal(&mut wal, at * 200..(at + 1) * 200, true);
            committed(&mut wal, &header);
        }
        drop(wal);
        assert_eq!(bench.open().bases().to_depend_on(Lane::BULK), expected, "{stations:?}");
    }
}

#[test]
fn a_codec_that_the_ground_does_not_read_is_not_used() {
    let bench = Bench::new();
    let mut wal = bench.open();
    assert_eq!(wal.bases().codec_for_ground(Codec::Columns), Codec::Columns);
    assert_eq!(
        wal.bases().codec_for_ground(Codec::ColumnsText),
        Codec::Columns,
        "nobody has said that it is read"
    );
    wal.bases().ground_reads(&[1]).unwrap();
    assert_eq!(wal.bases().codec_for_ground(Codec::Columns), Codec::ZstdRows);
    assert_eq!(wal.bases().codec_for_ground(Codec::ColumnsText), Codec::ZstdRows);
    wal.bases().ground_reads(&[1, 2]).unwrap();
    assert_eq!(wal.bases().codec_for_ground(Codec::Columns), Codec::Columns);
    assert_eq!(wal.bases().codec_for_ground(Codec::ColumnsText), Codec::Columns);
    wal.bases().ground_reads(&[1, 2, 3]).unwrap();
    assert_eq!(wal.bases().codec_for_ground(Codec::ColumnsText), Codec::ColumnsTokens);
    wal.bases().ground_reads(&[1, 2, 3, 4]).unwrap();
    assert_eq!(wal.bases().codec_for_ground(Codec::ColumnsText), Codec::ColumnsChains);
    wal.bases().ground_reads(&[1, 2, 3, 4, 5]).unwrap();
    assert_eq!(wal.bases().codec_for_ground(Codec::ColumnsText), Codec::ColumnsNear);
    wal.bases().ground_reads(&[1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!(wal.bases().codec_for_ground(Codec::ColumnsText), Codec::ColumnsRecent);
    wal.bases().ground_reads(&[1, 2, 3, 4, 5, 6, 7]).unwrap();
    assert_eq!(wal.bases().codec_for_ground(Codec::ColumnsText), Codec::ColumnsSteps);
    wal.bases().ground_reads(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    assert_eq!(wal.bases().codec_for_ground(Codec::Columns), Codec::Columns);
    assert_eq!(wal.bases().codec_for_ground(Codec::ZstdRows), Codec::ZstdRows);
    drop(wal);
    let mut wal = bench.open();
    assert_eq!(
        wal.bases().codec_for_ground(Codec::ColumnsText),
        Codec::ColumnsText,
        "before the next contact"
    );
}

#[test]
fn a_power_cut_at_any_write_leaves_every_segment_with_what_it_leans_on() {
    for cut in (0..).step_by(3) {
        let bench = Bench::new();
        let mut wal = bench.open();
        bench.disk.power_off_after(cut);
        let finished = lean_on_one_another(&mut wal);
        drop(wal);
        bench.disk.restart_torn(cut);
        let mut wal = bench.open();
        for (record, _) in wal.custody().segments(10).unwrap() {
            assert!(records(&mut wal, &record.header) > 0, "cut at {cut}");
        }
        wal.epochs().hello("a").unwrap();
        assert_adds_up(&wal);
        if finished {
            assert!(cut > 60, "the work takes many writes, not {cut}");
            return;
        }
    }
}

/// What may fail at any point; whether it came to its end.
fn lean_on_one_another(wal: &mut Wal) -> bool {
    let consumer = LINK;
    let mut one = |numbers: std::ops::Range<u64>| -> Result<SegmentId, WalError> {
        wal.journal().append(&[request(numbers)])?;
        let sequence = wal.bases().current(Lane::BULK);
        let base = wal.bases().chain(Lane::BULK, sequence)?.decode().unwrap();
        let base = sequence.zip(base.map(Arc::new));
        let batch = wal.segments().take_batch(Lane::BULK, ALL, true)?.ok_or(WalError::Consumers)?;
        let encoding = Encoding { codec: Codec::Columns, base, to_lean_on: true, ..Encoding::default() };
        let id = wal.segments().commit(batch.seal(&encoding, 7).unwrap())?.id;
        wal.custody().mark_sent(Slot::FIRST, id);
        wal.epochs().committed(consumer, Slot::FIRST, &[id])?;
        wal.epochs().hello("a")?;
        Ok(id)
    };
    (0..3).all(|n| one(n * 100..n * 100 + 100).is_ok())
}

/// What a codec may not hold together goes into several segments, and what it may not hold at all into one of codec 1.
#[test]
fn a_codec_takes_no_more_memory_than_it_may() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..3 {
        wal.journal().append(&[request(n * 1000..n * 1000 + 200)]).unwrap();
    }
    let mut seal = |memory| {
        let batch = wal.segments().take_batch(Lane::BULK, ALL, true).unwrap()?;
        let encoding = Encoding { codec: Codec::Columns, memory: Some(memory), ..Encoding::default() };
        Some(wal.segments().commit(batch.seal(&encoding, 7).unwrap()).unwrap())
    };
    // A line takes some 600 bytes.
    let header = seal(300_000).unwrap();
    assert_eq!((header.items[Signal::Logs], header.codec), (400, Codec::Columns as u32));
    let header = seal(30_000).unwrap();
    assert_eq!((header.items[Signal::Logs], header.codec), (200, Codec::ZstdRows as u32));
    assert!(seal(30_000).is_none(), "all of it is sealed");
    assert_adds_up(&wal);
}
