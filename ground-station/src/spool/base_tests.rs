//! Segments that lean on others, and what they lean on.

use std::path::Path;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use perigee_proto::link::{self, RejectReason};
use perigee_shared::env::Env;
use perigee_shared::segment::{Base, Codec, Encoder, Header, Lane, Request, Requests, SegmentId, hash};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use prost::Message;
use redb::ReadableDatabase as _;
use simdisk::Disk;

use super::file::Spool;
use super::format_tests::back_to_format_1;
use super::*;

const EPOCH: u64 = 7;
/// Spans in each segment.
const SPANS: u64 = 20;

fn settings(directory: &Path) -> Settings {
    Settings {
        directory: directory.to_owned(),
        max_bytes: 1 << 30,
        satellites: Vec::new(),
        ballast: 0,
        decoded_bases: 64 << 20,
        decoding: Default::default(),
        ledger_room: Default::default(),
        catalogue: Default::default(),
        keep: Keep::OFF,
        station: "svalbard".to_owned(),
        routes: [("a".to_owned(), SignalSet::ALL)].into(),
    }
}

fn open(dir: &tempfile::TempDir) -> Spool {
    Spool::open(&Env::production(), settings(dir.path())).unwrap()
}

pub(super) struct Sealed {
    header: Header,
    payload: Vec<u8>,
    base: Base,
}

/// A segment of spans whose names tell where they come from; `on` is what it leans on.
pub(super) fn seal(sequence: u64, on: Option<&Sealed>) -> Sealed {
    let span = |n: u64| Span {
        trace_id: vec![n as u8 + 1; 16],
        span_id: (sequence * 1000 + n + 1).to_be_bytes().to_vec(),
        name: format!("s{sequence}-{n}"),
        start_time_unix_nano: 1_700_000_000_000_000_000 + n,
        end_time_unix_nano: 1_700_000_000_000_500_000 + n,
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { spans: (0..SPANS).map(span).collect(), ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    let mut encoder = Encoder::new(Codec::Columns, on.map(|on| &on.base)).unwrap();
    encoder.push(Signal::Traces, &body).unwrap();
    let encoded = encoder.finish().unwrap();
    let header = Header {
        id: SegmentId { epoch: EPOCH, lane: Lane::BULK, sequence },
        codec: Codec::Columns as u32,
        payload_len: encoded.payload.len() as u64,
        raw_len: body.len() as u64,
        hash: hash(&encoded.payload),
        items: Counts::of(Signal::Traces, SPANS),
        time: TimeRange::EMPTY,
        requests: 1,
        sealed_unix_nano: 0,
        base_sequence: on.map(|on| on.header.id.sequence),
        is_base: true,
        delivery: None,
        made_of: None,
    };
    Sealed { header, payload: encoded.payload, base: encoded.base.unwrap() }
}

/// One that nothing leans on.
pub(super) fn leaf(sequence: u64, on: Option<&Sealed>) -> Sealed {
    let sealed = seal(sequence, on);
    Sealed { header: Header { is_base: false, ..sealed.header }, ..sealed }
}

pub(super) fn incoming(sealed: &Sealed) -> Incoming {
    Incoming {
        satellite: "sat-1".into(),
        header: Arc::new(sealed.header.clone()),
        pieces: [Piece { offset: 0, bytes: sealed.payload.clone() }].into(),
        max_partial_bytes: 1 << 20,
        age: None,
    }
}

fn commit(spool: &mut Spool, sealed: &Sealed) -> Applied {
    apply(spool, &[incoming(sealed)]).unwrap().remove(0)
}

fn apply(spool: &mut Spool, batch: &[Incoming]) -> Result<Vec<Applied>, SpoolError> {
    bases::trim(spool)?;
    spool.write(|txn| intake::apply(txn, batch))
}

fn next(spool: &mut Spool) -> Result<Option<outlet::Found>, SpoolError> {
    spool.read(|view| outlet::next(view, "a", SignalSet::ALL, 1))
}

/// The exporter `a` is done with a segment.
fn pass(spool: &mut Spool, place: Place) -> Result<(), SpoolError> {
    let done = Progress { finished: true, ..Progress::at(place, 1) };
    spool.write(|txn| outlet::progress(txn, "a", &done))
}

/// The entry of the satellite with this number.
fn place(entry: u64) -> Place {
    Place(tables::EntryKey { satellite: 1, lane: 8, entry })
}

fn usage(spool: &Spool) -> u64 {
    spool.contents().usage.total
}

fn overview(spool: &mut Spool) -> SpoolView {
    spool.read(views::overview).unwrap()
}

fn replay(spool: &mut Spool) -> u64 {
    letters::replay(spool, None).unwrap()
}

/// A Hello of a lane whose next sequence is 100.
fn hello(spool: &mut Spool, oldest_base: Option<u64>) {
    hello_with(spool, link::Epoch { lanes: vec![lane(oldest_base)], ..epoch() });
}

fn epoch() -> link::Epoch {
    link::Epoch { epoch: EPOCH, start_counter: 1, ..link::Epoch::default() }
}

fn lane(oldest_base: Option<u64>) -> link::Lane {
    link::Lane { lane: 8, next_sequence: 100, oldest_base, ..link::Lane::default() }
}

fn hello_with(spool: &mut Spool, epoch: link::Epoch) {
    let hello = link::Hello { epochs: vec![epoch], ..link::Hello::default() };
    spool.write(|txn| ledger::hello(txn, "sat-1", &hello.clone().into())).unwrap();
}

fn export_all(spool: &mut Spool) -> u64 {
    let mut passed = 0;
    while let Some(found) = next(spool).unwrap() {
        pass(spool, found.place).unwrap();
        passed += 1;
    }
    outlet::sweep(spool).unwrap();
    passed
}

/// The spans of the next segment to be exported.
fn names(spool: &mut Spool) -> Vec<String> {
    let found = next(spool).unwrap().unwrap();
    let work = spool.snapshot().unwrap().work(found).unwrap();
    names_in(work.requests().unwrap())
}

pub(super) fn names_in(requests: Requests<'_>) -> Vec<String> {
    let spans = |r: Request| ExportTraceServiceRequest::decode(r.body).unwrap().resource_spans;
    let spans = requests.map(Result::unwrap).flat_map(spans);
    let mut names: Vec<String> =
        spans.flat_map(|r| r.scope_spans).flat_map(|s| s.spans).map(|s| s.name).collect();
    names.sort();
    names
}

pub(super) fn expected(sequence: u64) -> Vec<String> {
    let mut names: Vec<String> = (0..SPANS).map(|n| format!("s{sequence}-{n}")).collect();
    names.sort();
    names
}

fn bases(spool: &mut Spool) -> u64 {
    overview(spool).bases
}

#[test]
fn a_segment_decodes_after_what_it_leans_on_was_exported_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let first = seal(1, None);
    let (second, third) = (leaf(2, Some(&first)), leaf(3, Some(&first)));
    {
        let mut spool = open(&dir);
        assert_eq!(commit(&mut spool, &first), Applied::New);
        assert_eq!(export_all(&mut spool), 1);
        let view = overview(&mut spool);
        assert_eq!((view.segments, view.bases, view.used_bytes), (0, 1, first.header.payload_len));
    }
    let mut spool = open(&dir);
    assert_eq!(usage(&spool), first.header.payload_len);
    assert_eq!(commit(&mut spool, &second), Applied::New);
    assert_eq!(commit(&mut spool, &third), Applied::New);
    assert!(spool.snapshot().unwrap().verify().unwrap().is_empty());
    assert_eq!(names(&mut spool), expected(2));
    pass(&mut spool, place(2)).unwrap();
    assert_eq!(names(&mut spool), expected(3));
}

#[test]
fn a_run_of_segments_that_lean_on_one_decodes_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let first = seal(1, None);
    for sealed in [&first, &leaf(2, Some(&first)), &leaf(3, Some(&first))] {
        commit(&mut spool, sealed);
    }
    // What an exporter decodes is remembered as what later segments lean on.
    assert_eq!(names(&mut spool), expected(1));
    spool
        .write(|txn| {
            txn.tables.open_table(tables::BASE_CHUNKS)?.retain(|_, _| false)?;
            Ok(())
        })
        .unwrap();
    for entry in [2, 3] {
        let before = entry - 1;
        pass(&mut spool, place(before)).unwrap();
        assert_eq!(names(&mut spool), expected(entry));
    }
}

#[test]
fn a_missing_base_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let first = seal(1, None);
    let second = leaf(2, Some(&first));
    let missing = Applied::Rejected(RejectReason::MissingBase);
    assert_eq!(commit(&mut spool, &second), missing);
    // Committed, but not as something to lean on.
    assert_eq!(commit(&mut spool, &leaf(5, None)), Applied::New);
    let mut other = leaf(6, Some(&first));
    other.header.base_sequence = Some(5);
    assert_eq!(commit(&mut spool, &other), missing);
    assert_eq!(commit(&mut spool, &first), Applied::New);
    assert_eq!(commit(&mut spool, &second), Applied::New);
}

#[test]
fn a_base_and_what_leans_on_it_may_come_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let first = seal(1, None);
    let second = leaf(2, Some(&first));
    let applied = apply(&mut spool, &[incoming(&first), incoming(&second)]).unwrap();
    assert_eq!(applied, [Applied::New, Applied::New]);
}

#[test]
fn a_base_goes_when_the_satellite_has_passed_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let first = seal(1, None);
    let second = seal(2, Some(&first));
    let third = seal(3, None);
    for sealed in [&first, &second, &third] {
        commit(&mut spool, sealed);
    }
    export_all(&mut spool);
    hello(&mut spool, Some(1));
    assert_eq!(bases(&mut spool), 3);
    hello(&mut spool, Some(3));
    assert_eq!((bases(&mut spool), usage(&spool)), (1, third.header.payload_len));
    assert_eq!(commit(&mut spool, &leaf(4, Some(&third))), Applied::New);
    assert_eq!(commit(&mut spool, &leaf(5, Some(&second))), Applied::Rejected(RejectReason::MissingBase));
    export_all(&mut spool);
    hello(&mut spool, None);
    assert_eq!((bases(&mut spool), usage(&spool)), (0, 0));
}

#[test]
fn a_base_stays_while_a_segment_in_the_spool_leans_on_it_through_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let first = seal(1, None);
    let second = seal(2, Some(&first));
    let third = leaf(3, Some(&second));
    let fourth = seal(4, None);
    for sealed in [&first, &second, &third, &fourth] {
        commit(&mut spool, sealed);
    }
    hello(&mut spool, None);
    assert_eq!(bases(&mut spool), 2, "nothing leans on the last");
    assert_eq!(names(&mut spool), expected(1));
    drop(spool);
    let mut spool = open(&dir);
    assert_eq!(bases(&mut spool), 2);
    assert_eq!(export_all(&mut spool), 4);
    assert_eq!((bases(&mut spool), usage(&spool)), (0, 0), "the sweep takes them along");
}

#[test]
fn a_base_that_the_satellite_did_not_know_to_be_committed_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let first = seal(1, None);
    commit(&mut spool, &first);
    // It has not heard of the commit.
    let on_board = vec![link::Range { start: 1, end: 3 }];
    let lanes = vec![link::Lane { on_board, ..lane(None) }];
    hello_with(&mut spool, link::Epoch { lanes, ..epoch() });
    // It was on board then.
    let second = seal(2, None);
    commit(&mut spool, &second);
    export_all(&mut spool);
    assert_eq!(bases(&mut spool), 2);
    assert_eq!(commit(&mut spool, &leaf(3, Some(&first))), Applied::New);
    assert_eq!(commit(&mut spool, &leaf(4, Some(&second))), Applied::New);
    hello(&mut spool, Some(2));
    assert_eq!(bases(&mut spool), 2);
    export_all(&mut spool);
    assert_eq!(bases(&mut spool), 1);
}

#[test]
fn bases_go_with_their_epoch() {
    for ends in ["closed", "forgotten"] {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(&dir);
        hello(&mut spool, Some(1));
        commit(&mut spool, &seal(1, None));
        export_all(&mut spool);
        assert_eq!(bases(&mut spool), 1);
        let next = link::Epoch { epoch: EPOCH + 1, start_counter: 2, ..link::Epoch::default() };
        match ends {
            "closed" => {
                hello_with(&mut spool, link::Epoch { closed: true, lanes: vec![lane(Some(1))], ..epoch() });
            }
            _ => hello_with(&mut spool, next),
        }
        assert_eq!(bases(&mut spool), 0, "{ends}");
    }
}

#[test]
fn a_chain_is_followed_to_its_beginning_and_one_that_is_too_long_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let mut last = seal(1, None);
    assert_eq!(commit(&mut spool, &last), Applied::New);
    for sequence in 2..=16 {
        last = seal(sequence, Some(&last));
        assert_eq!(commit(&mut spool, &last), Applied::New);
    }
    export_all(&mut spool);
    let longest = seal(17, Some(&last));
    assert_eq!(commit(&mut spool, &longest), Applied::New, "it leans on 16");
    assert_eq!(names(&mut spool), expected(17));
    let too_long = leaf(18, Some(&longest));
    assert_eq!(commit(&mut spool, &too_long), Applied::Rejected(RejectReason::MissingBase));
    assert!(spool.snapshot().unwrap().verify().unwrap().is_empty());
}

#[test]
fn a_segment_that_does_not_decode_keeps_what_it_leans_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let first = seal(1, None);
    commit(&mut spool, &first);
    commit(&mut spool, &leaf(2, Some(&first)));
    spool.write(|txn| outlet::condemn(txn, place(2), "not by this software")).unwrap();
    export_all(&mut spool);
    hello(&mut spool, None);
    assert_eq!(bases(&mut spool), 1);
    // It decodes after all.
    assert_eq!(replay(&mut spool), 1);
    assert_eq!(names(&mut spool), expected(2));
    export_all(&mut spool);
    hello(&mut spool, None);
    assert_eq!((bases(&mut spool), usage(&spool)), (0, 0));
}

#[test]
fn bases_are_bounded_and_the_earliest_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let segments: Vec<Sealed> = (1..40).map(|n| seal(n, None)).collect();
    let bytes: u64 = segments.iter().map(|s| s.header.payload_len).sum();
    for (max_bytes, satellites) in [(bytes, Vec::new()), (1 << 30, vec![("sat-1".to_owned(), bytes)])] {
        let settings =
            Settings { max_bytes, satellites, ..settings(&dir.path().join(max_bytes.to_string())) };
        std::fs::create_dir_all(&settings.directory).unwrap();
        let mut spool = Spool::open(&Env::production(), settings).unwrap();
        // The later sequences come first, so that the earliest is not the smallest.
        for sealed in segments.iter().rev() {
            assert_eq!(commit(&mut spool, sealed), Applied::New);
            export_all(&mut spool);
            assert!(overview(&mut spool).base_bytes <= bytes / 4);
        }
        assert!(bases(&mut spool) > 5);
        let missing = Applied::Rejected(RejectReason::MissingBase);
        assert_eq!(commit(&mut spool, &leaf(50, segments.last())), missing);
        assert_eq!(commit(&mut spool, &leaf(51, segments.first())), Applied::New);
    }
}

#[test]
fn verification_finds_a_damaged_base() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let first = seal(1, None);
    commit(&mut spool, &first);
    commit(&mut spool, &leaf(2, Some(&first)));
    export_all(&mut spool);
    spool
        .write(|txn| {
            let key = tables::SequenceKey { satellite: 1, epoch: EPOCH, lane: 8, sequence: 1 };
            txn.tables.open_table(tables::BASE_CHUNKS)?.insert(key.base_chunk(0), &b"other"[..])?;
            Ok(())
        })
        .unwrap();
    let wrong = spool.snapshot().unwrap().verify().unwrap();
    assert!(wrong.len() == 1 && wrong[0].contains("base"), "{wrong:?}");
}

#[test]
fn columns_sum_up_to_the_payloads() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let first = seal(1, None);
    let second = leaf(2, Some(&first));
    commit(&mut spool, &first);
    export_all(&mut spool);
    commit(&mut spool, &second);
    let rows = {
        let mut encoder = Encoder::new(Codec::ZstdRows, None).unwrap();
        encoder.push(Signal::Logs, &[0; 100]).unwrap();
        let payload = encoder.finish().unwrap().payload;
        let header = Header {
            id: SegmentId { sequence: 3, ..first.header.id },
            codec: Codec::ZstdRows as u32,
            payload_len: payload.len() as u64,
            raw_len: 100,
            hash: hash(&payload),
            base_sequence: None,
            is_base: false,
            ..first.header.clone()
        };
        Sealed { header, payload, base: first.base.clone() }
    };
    commit(&mut spool, &rows);
    let view = spool.snapshot().unwrap().columns(true).unwrap();
    let total: u64 = [&first, &second, &rows].map(|s| s.header.payload_len).iter().sum();
    assert_eq!((view.segments, view.of_segments, view.payload_bytes), (3, 3, total));
    let sum = |columns: &[ColumnView]| columns.iter().map(|c| c.bytes).sum::<f64>();
    assert!((sum(&view.columns) - total as f64).abs() < 1e-6 * total as f64);
    let names: Vec<&str> = view.each.iter().map(|s| s.segment.as_str()).collect();
    assert_eq!(names, ["0000000000000007/8/1", "0000000000000007/8/2", "0000000000000007/8/3"]);
    for segment in &view.each {
        assert!((sum(&segment.columns) - segment.payload_bytes as f64).abs() < 1e-6 * total as f64);
    }
    let ids = view.columns.iter().find(|c| c.column == "span.span_id").unwrap();
    assert_eq!(ids.signal, Some("traces"));
    assert!(ids.bytes_per_item.unwrap() > 0.0 && ids.share > 0.0);
    assert!(view.columns.iter().any(|c| c.signal.is_none() && c.column.contains("codec 1")));
}

#[test]
fn a_spool_of_the_version_without_bases_opens() {
    let dir = tempfile::tempdir().unwrap();
    let first = seal(1, None);
    let mut spool = open(&dir);
    commit(&mut spool, &leaf(90, None));
    drop(spool);
    back_to_format_1(&dir.path().join("spool.redb"));
    std::fs::remove_file(dir.path().join("ledger.json")).unwrap();
    {
        let db = redb::Database::open(dir.path().join("spool.redb")).unwrap();
        let txn = db.begin_write().unwrap();
        assert!(txn.delete_table(tables::BASES).unwrap() && txn.delete_table(tables::BASE_CHUNKS).unwrap());
        txn.commit().unwrap();
        assert!(db.begin_read().unwrap().open_table(tables::BASES).is_err());
    }
    let mut spool = open(&dir);
    assert_eq!(names(&mut spool), expected(90));
    hello(&mut spool, Some(1));
    assert_eq!(commit(&mut spool, &first), Applied::New);
    assert_eq!(commit(&mut spool, &leaf(2, Some(&first))), Applied::New);
    assert_eq!(export_all(&mut spool), 3);
}

#[test]
fn a_power_cut_at_any_write_keeps_a_base_and_its_segment_together() {
    let first = seal(1, None);
    let second = seal(2, Some(&first));
    let third = leaf(3, Some(&second));
    for cut in 0..300 {
        let disk = Disk::new();
        let work = || -> Result<(), SpoolError> {
            let mut spool = Spool::open(&disk.env(), settings(Path::new("/virtual")))?;
            disk.power_off_after(cut);
            for sealed in [&first, &second, &third] {
                apply(&mut spool, &[incoming(sealed)])?;
            }
            if let Some(found) = next(&mut spool)? {
                pass(&mut spool, found.place)?;
                outlet::sweep(&mut spool)?;
            }
            let epoch = link::Epoch { lanes: vec![lane(None)], ..epoch() };
            let hello = link::Hello { epochs: vec![epoch], ..link::Hello::default() };
            spool.write(|txn| ledger::hello(txn, "sat-1", &hello.clone().into()))?;
            spool.close()
        };
        let finished = work().is_ok();
        assert!(finished || cut < 299, "the last cut is behind everything");
        disk.restart_torn(cut);
        let mut spool = Spool::open(&disk.env(), settings(Path::new("/virtual"))).unwrap();
        assert!(spool.quarantined().is_none(), "cut at {cut}");
        assert_eq!(spool.snapshot().unwrap().verify().unwrap(), Vec::<String>::new(), "cut at {cut}");
        let account = spool.read(views::accounting).unwrap().remove("sat-1").unwrap_or_default();
        assert_eq!(bases(&mut spool), account.segments.min(2), "cut at {cut}");
        // What was not committed comes again, and finds what it leans on.
        for sealed in [&first, &second, &third] {
            assert!(matches!(commit(&mut spool, sealed), Applied::New | Applied::Duplicate), "cut at {cut}");
        }
        if finished {
            assert_eq!(account.segments, 3);
        }
    }
}
