#![allow(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use perigee_proto::link::{self, DropReason};
use perigee_shared::env::Env;
use perigee_shared::export::Limits;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Codec, Encoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use proptest::prelude::*;

use super::file::Spool;
use super::upkeep::Bounds;
use super::*;

pub(super) const EPOCH: u64 = 7;

pub(super) fn settings(dir: &tempfile::TempDir, routes: &[(&str, SignalSet)]) -> Settings {
    Settings {
        directory: dir.path().to_owned(),
        max_bytes: 1 << 30,
        satellites: Vec::new(),
        ballast: 0,
        decoded_bases: 64 << 20,
        decoding: Default::default(),
        ledger_room: Default::default(),
        catalogue: Default::default(),
        keep: Keep::OFF,
        station: "svalbard".to_owned(),
        routes: routes.iter().map(|(name, signals)| ((*name).to_owned(), *signals)).collect(),
    }
}

/// The entry of satellite 1 in the bulk lane with this number.
pub(super) fn place(entry: u64) -> Place {
    Place(tables::EntryKey { satellite: 1, lane: 8, entry })
}

/// What was seen of a contact in which so many segments came.
pub(super) fn heard(segments: u64) -> Heard {
    Heard {
        opened: 7,
        connections: 1,
        began: Duration::from_secs(20),
        lost: Duration::from_secs(1),
        received: 3000,
        held: 2000,
        segments,
        items: spans(5),
        handover_twice: 2,
        ended: Some(Ending::Goodbye),
        goodbye: None,
    }
}

pub(super) fn done(place: Place) -> Progress {
    Progress { finished: true, ..Progress::at(place, 1) }
}

pub(super) fn open_with(dir: &tempfile::TempDir, routes: &[(&str, SignalSet)]) -> Spool {
    Spool::open(&Env::production(), settings(dir, routes)).unwrap()
}

pub(super) fn open(dir: &tempfile::TempDir) -> Spool {
    open_with(dir, &[("a", SignalSet::ALL)])
}

/// A header and its payload; `salt` makes another payload under the same name.
pub(super) fn segment(sequence: u64, items: Counts, salt: u8) -> (Arc<Header>, Vec<u8>) {
    let mut encoder = Encoder::new(Codec::ZstdRows, None).unwrap();
    let body: Vec<u8> = (0..2000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(sequence as u32) >> 16) as u8 ^ salt)
        .collect();
    encoder.push(Signal::Traces, &body).unwrap();
    let payload = encoder.finish().unwrap().payload;
    let header = Header {
        id: SegmentId { epoch: EPOCH, lane: Lane::BULK, sequence },
        codec: 1,
        payload_len: payload.len() as u64,
        raw_len: body.len() as u64,
        hash: hash(&payload),
        items,
        time: TimeRange::EMPTY,
        requests: 1,
        sealed_unix_nano: 0,
        base_sequence: None,
        is_base: false,
        delivery: None,
        made_of: None,
    };
    (Arc::new(header), payload)
}

pub(super) fn spans(n: u64) -> Counts {
    Counts::of(Signal::Traces, n)
}

pub(super) fn incoming(header: &Arc<Header>, payload: &[u8], ranges: &[std::ops::Range<usize>]) -> Incoming {
    Incoming {
        satellite: "sat-1".into(),
        header: Arc::clone(header),
        pieces: ranges
            .iter()
            .map(|r| Piece { offset: r.start as u64, bytes: payload[r.clone()].to_vec() })
            .collect(),
        max_partial_bytes: 1 << 20,
        age: None,
    }
}

pub(super) fn commit(spool: &mut Spool, sequence: u64, items: Counts) -> Applied {
    let (header, payload) = segment(sequence, items, 0);
    let whole = 0..payload.len();
    apply(spool, &[incoming(&header, &payload, &[whole])]).remove(0)
}

pub(super) fn apply(spool: &mut Spool, batch: &[Incoming]) -> Vec<Applied> {
    spool.write(|txn| intake::apply(txn, batch)).unwrap()
}

pub(super) fn usage(spool: &Spool) -> u64 {
    spool.contents().usage.total
}

pub(super) fn next(spool: &mut Spool, exporter: &str, signals: SignalSet, fingerprint: u64) -> Option<Work> {
    let found = spool.read(|view| outlet::next(view, exporter, signals, fingerprint)).unwrap()?;
    Some(spool.snapshot().unwrap().work(found).unwrap())
}

/// The payload of the next segment for the exporter `a`.
fn next_payload(spool: &mut Spool) -> Vec<u8> {
    let found = spool.read(|view| outlet::next(view, "a", SignalSet::ALL, 1)).unwrap().unwrap();
    spool.snapshot().unwrap().payload(found.payload, &found.header).unwrap()
}

pub(super) fn progress(spool: &mut Spool, exporter: &str, progress: &Progress) {
    spool.write(|txn| outlet::progress(txn, exporter, progress)).unwrap();
}

pub(super) fn letters(spool: &mut Spool) -> Vec<LetterView> {
    spool.read(|view| letters::list(view, 0, 10)).unwrap()
}

pub(super) fn next_replay(spool: &mut Spool, exporter: &str) -> Option<Replay> {
    match spool.read(|view| letters::next_replays(view, exporter, Limits::default())).unwrap() {
        letters::Next::Whole(mut replays) => (!replays.is_empty()).then(|| replays.remove(0)),
        letters::Next::Damaged(id) => panic!("letter {id} is damaged"),
    }
}

pub(super) fn replayed(spool: &mut Spool, id: u64, refused: Option<&str>) {
    spool.write(|txn| letters::replayed(txn, id, refused)).unwrap();
}

pub(super) fn hello(
    spool: &mut Spool,
    on_board: std::ops::Range<u64>,
    drops: Vec<link::Drop>,
) -> link::ResumeEpoch {
    let lane = link::Lane {
        lane: 8,
        on_board: vec![link::Range { start: on_board.start, end: on_board.end }],
        next_sequence: on_board.end,
        ..link::Lane::default()
    };
    let epoch = link::Epoch { epoch: EPOCH, lanes: vec![lane], drops, ..link::Epoch::default() };
    let hello = link::Hello { epochs: vec![epoch], ..link::Hello::default() };
    spool.write(|txn| ledger::hello(txn, "sat-1", &hello.clone().into())).unwrap().epochs.remove(0)
}

pub(super) fn dropped(id: u64, sequences: std::ops::Range<u64>, items: u64) -> link::Drop {
    link::Drop {
        id,
        reason: DropReason::QuotaOldest as i32,
        lane: 8,
        sequences: Some(link::Range { start: sequences.start, end: sequences.end }),
        items: Some(spans(items).into()),
        ..link::Drop::default()
    }
}

pub(super) fn account(spool: &mut Spool) -> AccountView {
    spool.read(views::accounting).unwrap().remove("sat-1").unwrap()
}

pub(super) fn pass(spool: &mut Spool, exporter: &str, signals: SignalSet) -> u64 {
    let mut passed = 0;
    while let Some(work) = next(spool, exporter, signals, 1) {
        progress(spool, exporter, &done(work.place));
        passed += 1;
    }
    passed
}

#[test]
fn partial_segments_are_given_up_when_they_alone_fill_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let half = |spool: &mut Spool, sequence, bytes: usize| {
        let (header, payload) = segment(sequence, spans(1), 0);
        apply(spool, &[incoming(&header, &payload, &[0..bytes])]);
    };
    for (sequence, bytes) in [(2, 90), (3, 30), (4, 100)] {
        half(&mut spool, sequence, bytes);
    }
    commit(&mut spool, 1, spans(1));
    let limit = 200;
    assert!(usage(&spool) > limit);
    assert!(!intake::relieve(&mut spool, limit).unwrap(), "an exporter will make room");
    pass(&mut spool, "a", SignalSet::ALL);
    half(&mut spool, 5, 50);
    assert!(intake::relieve(&mut spool, limit).unwrap());
    assert_eq!(usage(&spool), 100, "those of which least was held have gone");
    let held = hello(&mut spool, 2..6, Vec::new()).lanes.remove(0).partials;
    assert_eq!(held.iter().map(|p| p.sequence).collect::<Vec<_>>(), [4]);
    assert!(!intake::relieve(&mut spool, limit).unwrap(), "there is room");
}

#[test]
fn partial_segments_that_keep_a_spool_full_are_given_up_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    for sequence in 1..4 {
        let (header, payload) = segment(sequence, spans(1), 0);
        apply(&mut spool, &[incoming(&header, &payload, &[0..65])]);
    }
    assert_eq!(usage(&spool), 195);
    let bounds = Bounds { max_bytes: 200, reserve: 0, satellites: Vec::new() };
    assert!(!bounds.measure(&mut spool, false).relieved, "links may fill it");
    let level = bounds.measure(&mut spool, true);
    assert!(level.relieved && level.used < bounds.full_at(true), "links read on: {}", level.used);
}

#[test]
fn a_partial_survives_a_crash_and_is_completed_out_of_order() {
    let dir = tempfile::tempdir().unwrap();
    let (header, payload) = segment(1, spans(5), 0);
    let n = payload.len();
    {
        let mut spool = open(&dir);
        let out = apply(&mut spool, &[incoming(&header, &payload, &[n / 2..n - 10, 0..100])]);
        let held: RangeSet = [0..100, n as u64 / 2..n as u64 - 10].into_iter().collect();
        assert_eq!(out, [Applied::Held(held)]);
        // Dropped without being closed.
    }
    let mut spool = open(&dir);
    assert_eq!(usage(&spool), (n - 10 - n / 2 + 100) as u64);
    let resume = hello(&mut spool, 1..2, Vec::new());
    assert_eq!(RangeSet::from_wire(&resume.lanes[0].partials[0].held).ranges(), 2);
    // What is held already comes again too.
    let out = apply(&mut spool, &[incoming(&header, &payload, &[50..n / 2 + 20, n - 10..n])]);
    assert_eq!(out, [Applied::New]);
    assert_eq!(next_payload(&mut spool), payload);
    assert_eq!(usage(&spool), n as u64);
    assert!(spool.read(views::satellites).unwrap()[0].epochs[0].lanes[0].partials.is_empty());
}

#[test]
fn a_large_segment_is_kept_in_pieces_and_comes_back_equal() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    let payload: Vec<u8> = (0..1_500_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (header, _) = segment(1, spans(1), 0);
    let header = Header { payload_len: payload.len() as u64, hash: hash(&payload), ..(*header).clone() };
    let header = Arc::new(header);
    let middle = 700_001;
    let mut first = incoming(&header, &payload, &[middle..payload.len()]);
    first.max_partial_bytes = 1 << 30;
    assert!(matches!(apply(&mut spool, &[first])[0], Applied::Held(_)));
    assert_eq!(apply(&mut spool, &[incoming(&header, &payload, &[0..middle])]), [Applied::New]);
    assert_eq!(next_payload(&mut spool), payload);
}

#[test]
fn a_cursor_means_the_same_after_a_crash_and_nothing_under_another_cut() {
    let dir = tempfile::tempdir().unwrap();
    {
        let mut spool = open(&dir);
        commit(&mut spool, 1, spans(5));
        commit(&mut spool, 2, spans(6));
        progress(&mut spool, "a", &Progress { request: 3, ..Progress::at(place(1), 1) });
    }
    let mut spool = open(&dir);
    let work = next(&mut spool, "a", SignalSet::ALL, 1).unwrap();
    assert_eq!((work.place, work.first.least()), (place(1), 3));
    let work = next(&mut spool, "a", SignalSet::ALL, 2).unwrap();
    assert_eq!((work.place, work.first.least()), (place(1), 0));
}

#[test]
fn an_exporter_that_is_taken_out_holds_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    {
        let mut spool = open_with(&dir, &[("a", SignalSet::ALL), ("down", SignalSet::ALL)]);
        commit(&mut spool, 1, spans(5));
        pass(&mut spool, "a", SignalSet::ALL);
        assert_eq!(account(&mut spool).exported.spans, 0);
    }
    let mut spool = open(&dir);
    assert_eq!((account(&mut spool).exported.spans, usage(&spool)), (5, 0));
}

#[test]
fn dead_letters_are_kept_listed_and_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    commit(&mut spool, 1, spans(5));
    let body = Bytes::from(vec![3; 600_000]);
    let letter =
        Letter { signal: Signal::Traces, body: body.clone(), items: spans(2), reason: "no".to_owned() };
    progress(&mut spool, "a", &Progress { letters: vec![letter], ..done(place(1)) });
    outlet::sweep(&mut spool).unwrap();
    let now = account(&mut spool);
    assert_eq!((now.exported.spans, now.dead_lettered.spans), (3, 2));
    drop(spool);

    let mut spool = open(&dir);
    assert_eq!(usage(&spool), 600_000);
    let view = letters(&mut spool).remove(0);
    assert_eq!((view.items, view.exporter.as_deref(), view.reason.as_str()), (2, Some("a"), "no"));
    assert!(next_replay(&mut spool, "a").is_none(), "only when it is asked for");
    assert_eq!(letters::replay(&mut spool, Some(&[view.id, 99])).unwrap(), 1);
    assert!(next_replay(&mut spool, "b").is_none());
    let replay = next_replay(&mut spool, "a").unwrap();
    assert_eq!(replay.letter.body, body);
    replayed(&mut spool, replay.id, Some("still no"));
    assert!(next_replay(&mut spool, "a").is_none());
    assert_eq!(letters(&mut spool)[0].reason, "still no");
    letters::replay(&mut spool, None).unwrap();
    replayed(&mut spool, replay.id, None);
    let now = account(&mut spool);
    assert_eq!((now.exported.spans, now.dead_lettered.spans, usage(&spool)), (5, 0, 0));
}

#[test]
fn a_damaged_file_is_put_aside_and_a_new_one_begins() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("spool.redb"), vec![0x17; 100_000]).unwrap();
    let mut spool = open(&dir);
    let aside = spool.quarantined().unwrap().moved_to.clone().unwrap();
    assert_eq!(std::fs::metadata(aside).unwrap().len(), 100_000);
    assert_eq!(commit(&mut spool, 1, spans(1)), Applied::New);
}

#[test]
fn a_later_format_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir));
    let path = dir.path().join("spool.redb");
    {
        let db = redb::Database::open(&path).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(tables::META).unwrap().insert("format", 3).unwrap();
        txn.commit().unwrap();
    }
    let error = Spool::open(&Env::production(), settings(&dir, &[])).err().unwrap().to_string();
    assert!(error.contains("format 3") && path.exists(), "{error}");
}

#[test]
fn a_spool_that_is_open_elsewhere_is_not_quarantined() {
    let dir = tempfile::tempdir().unwrap();
    let _running = open(&dir);
    let error = Spool::open(&Env::production(), settings(&dir, &[])).err().unwrap().to_string();
    assert!(error.contains("another process has") && error.contains("open"), "{error}");
}

#[test]
fn verification_finds_what_was_changed_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir);
    commit(&mut spool, 1, spans(1));
    commit(&mut spool, 2, spans(1));
    assert!(spool.snapshot().unwrap().verify().unwrap().is_empty());
    spool
        .write(|txn| {
            let chunk = tables::ChunkKey { of: 2, piece: 0 };
            txn.tables.open_table(tables::SEGMENT_CHUNKS)?.insert(chunk, &b"other"[..])?;
            Ok(())
        })
        .unwrap();
    let wrong = spool.snapshot().unwrap().verify().unwrap();
    assert!(wrong.len() == 1 && wrong[0].starts_with("2: "), "{wrong:?}");
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Commit(u64),
    Drop(u64, u64),
    Hello,
    Export(bool),
    Crash,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1u64..20).prop_map(Step::Commit),
        2 => (1u64..20, 1u64..4).prop_map(|(from, n)| Step::Drop(from, n)),
        1 => Just(Step::Hello),
        2 => any::<bool>().prop_map(Step::Export),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..30)
}

/// What the spool should know: a set of sequences, and each drop with its sequences. A sequence has as many items as its
/// number.
#[derive(Default)]
pub(super) struct Model {
    pub(super) committed: BTreeSet<u64>,
    pub(super) duplicates: u64,
    pub(super) drops: BTreeMap<u64, std::ops::Range<u64>>,
}

impl Model {
    pub(super) fn dropped(&self) -> u64 {
        let missing = self.drops.values().flat_map(Clone::clone).filter(|s| !self.committed.contains(s));
        missing.sum()
    }

    fn check(&self, spool: &mut Spool) {
        let account = account(spool);
        let total: u64 = self.committed.iter().sum();
        assert_eq!((account.committed.spans, account.duplicates), (total, self.duplicates));
        assert_eq!(account.exported.spans + account.in_spool.spans, total);
        assert_eq!(account.dropped.spans, self.dropped());
        let resume = hello(spool, 1..20, Vec::new());
        let ranges: Vec<link::Range> =
            resume.lanes[0].committed.iter().map(|r| r.sequences.unwrap()).collect();
        let expected: RangeSet = self.committed.iter().map(|s| *s..s + 1).collect();
        assert_eq!(ranges, expected.to_wire());
        for range in &resume.lanes[0].committed {
            let (top, _) = segment(range.sequences.unwrap().end - 1, spans(0), 0);
            assert_eq!(range.top_hash, top.hash);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn prop_the_ledger_behaves_like_a_set_and_every_item_is_counted_once(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(&dir);
        hello(&mut spool, 1..20, Vec::new());
        let mut model = Model::default();
        let mut free: BTreeSet<u64> = (1..20).collect();
        for step in steps {
            match step {
                Step::Commit(sequence) => {
                    let new = model.committed.insert(sequence);
                    let expected = if new { Applied::New } else { Applied::Duplicate };
                    model.duplicates += u64::from(!new);
                    prop_assert_eq!(commit(&mut spool, sequence, spans(sequence)), expected);
                }
                Step::Drop(from, n) => {
                    // A satellite drops a sequence once.
                    let range = from..(from + n).min(20);
                    if range.clone().all(|s| free.remove(&s)) {
                        let id = model.drops.len() as u64 + 1;
                        model.drops.insert(id, range.clone());
                        let drops = vec![dropped(id, range.clone(), range.sum())];
                        let drops = link::EpochDrops { epoch: EPOCH, drops };
                        spool.write(|txn| ledger::drops(txn, "sat-1", &drops)).unwrap();
                    }
                }
                Step::Hello => drop(hello(&mut spool, 1..20, Vec::new())),
                Step::Export(sweep) => {
                    pass(&mut spool, "a", SignalSet::ALL);
                    if sweep {
                        outlet::sweep(&mut spool).unwrap();
                    }
                }
                Step::Crash => {
                    drop(spool);
                    spool = open(&dir);
                }
            }
            model.check(&mut spool);
        }
    }
}
