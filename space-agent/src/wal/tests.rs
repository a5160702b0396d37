//! The log as its users see it, on a disk in memory that fails on request.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use perigee_proto::link::{self, DropReason};
use perigee_shared::link::Slot;
use perigee_shared::otlp::walk::Walked;
use perigee_shared::segment::{Decoder, Header, Lane, SegmentId, hash};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use simdisk::Disk;

use super::*;

pub(super) const ALL: BatchLimits = BatchLimits { items: u64::MAX, raw: u64::MAX };

pub(crate) fn config(directory: &Path, consumers: &[(&str, SignalSet)]) -> WalConfig {
    WalConfig {
        directory: directory.to_owned(),
        satellite: Some("sat".to_owned()),
        max_bytes: 1 << 30,
        when_full: WhenFull::Refuse,
        ballast: 0,
        consumers: consumers.iter().map(|(name, signals)| ((*name).to_owned(), *signals)).collect(),
        lanes: Lanes::default(),
        volatile: Volatile::Refuse,
        volatile_bytes: 1 << 20,
    }
}

pub(super) struct Bench {
    pub(super) disk: Arc<Disk>,
    pub(super) directory: tempfile::TempDir,
    pub(super) config: WalConfig,
}

impl Bench {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), &[("link", SignalSet::ALL)]);
        Self { disk: Disk::new(), directory, config }
    }

    pub(super) fn open(&self) -> Wal {
        let mut wal = self.try_open().unwrap();
        assert_eq!(wal.take_quarantine(), None);
        wal
    }

    pub(super) fn try_open(&self) -> Result<Wal, WalError> {
        Wal::open(self.config.clone(), self.disk.env())
    }

    pub(super) fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("wal.redb")
    }
}

/// A request of `items` log records whose body is random, so that it does not shrink.
pub(super) fn request(n: u64, items: u64, bytes: usize) -> Accepted {
    let mut reader = blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof();
    let mut body = vec![0; bytes];
    reader.fill(&mut body);
    let walked = Walked { items, time: TimeRange { start: n + 1, end: n + 1 } };
    Accepted { signal: Signal::Logs, body: Bytes::from(body), walked }
}

pub(super) fn logs(n: u64) -> Counts {
    Counts::of(Signal::Logs, n)
}

pub(crate) fn seal(wal: &mut Wal) -> Result<Option<Header>, WalError> {
    let Some(batch) = wal.segments().take_batch(Lane::BULK, ALL, true)? else { return Ok(None) };
    wal.segments().commit(batch.seal(&Encoding::plain(), 7).unwrap()).map(Some)
}

/// `accepted = delivered + dropped + on board`, always.
pub(super) fn assert_adds_up(wal: &Wal) {
    let s = wal.summary();
    let dropped: Counts = s.dropped.iter().map(|(_, items)| *items).sum();
    assert_eq!(s.accepted, s.delivered + dropped + s.in_segments + s.in_journal, "{s:?}");
}

/// The ground in the first slot knows a later state: a new epoch begins, and the next Hello says why.
pub(super) fn contradict(wal: &mut Wal, view: &GroundView) {
    let old = wal.summary().life.epoch;
    assert_eq!(wal.epochs().reconcile(LINK, Slot::FIRST, view).unwrap(), Reconciled::NewEpoch);
    let told = wal.epochs().hello("").unwrap();
    let contradicted = |e: &&link::Epoch| e.contradicted;
    assert_eq!(told.iter().rfind(contradicted).map(|e| (e.epoch, e.closed)), Some((old, true)));
}

/// The only consumer of a [`Bench`].
pub(super) const LINK: ConsumerId = ConsumerId(0);

pub(super) fn view(wal: &Wal, committed: std::ops::Range<u64>, top: [u8; 32]) -> GroundView {
    let tops = vec![(committed.end - 1, top)];
    let lane =
        GroundLane { committed: [committed].into_iter().collect(), tops, ..GroundLane::new(Lane::BULK) };
    GroundView { epoch: wal.summary().life.epoch, lanes: vec![lane], ..GroundView::default() }
}

#[test]
fn what_was_appended_is_there_after_a_power_cut() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 3, 100), request(2, 4, 5000)]).unwrap();
    drop(wal);
    bench.disk.restart();
    let mut wal = bench.open();
    assert_eq!((wal.summary().accepted, wal.segments().unsealed()[0].items), (logs(7), 7));
    let header = seal(&mut wal).unwrap().unwrap();
    assert_eq!((header.items, header.requests, header.id.sequence), (logs(7), 2, 1));
    let payload = wal.custody().payload(&header).unwrap().unwrap();
    assert_eq!(hash(&payload), header.hash);
    let back: Vec<_> = Decoder::new(&header, &payload, None).unwrap().map(|r| r.unwrap().body).collect();
    assert_eq!(back, [request(1, 3, 100).body, request(2, 4, 5000).body]);
    assert_adds_up(&wal);
}

#[test]
fn a_power_cut_at_any_write_loses_nothing_that_was_promised_and_the_counts_add_up() {
    let mut cuts = 0;
    for cut in (0..).step_by(3) {
        let bench = Bench::new();
        let mut wal = bench.open();
        bench.disk.power_off_after(cut);
        let promised = work(&mut wal);
        let finished = promised.1;
        drop(wal);
        bench.disk.restart_torn(cut);
        let wal = bench.open();
        let summary = wal.summary();
        assert!(summary.accepted.total() >= promised.0, "cut at {cut}: {summary:?}");
        assert_adds_up(&wal);
        cuts += 1;
        if finished {
            break;
        }
    }
    assert!(cuts > 20, "the work takes many writes, {cuts} of which were cut");
}

/// Appends, seals, delivers and drops; returns the items that were promised and whether it came to its end.
fn work(wal: &mut Wal) -> (u64, bool) {
    let mut promised = 0;
    let result = (|| -> Result<(), WalError> {
        for round in 0..6 {
            for n in 0..3 {
                wal.journal().append(&[request(round * 10 + n, 2, 3000)])?;
                promised += 2;
            }
            let header = seal(wal)?.unwrap();
            match round {
                1 | 2 => assert_eq!(wal.custody().pass(LINK, &[Delivery::whole(header.id)])?, 1),
                3 => wal.custody().drop_segments(vec![header], DropReason::Lifetime)?,
                _ => {}
            }
        }
        Ok(())
    })();
    (promised, result.is_ok())
}

#[test]
fn a_full_disk_refuses_and_works_again_when_there_is_room() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 1, 100)]).unwrap();
    bench.disk.set_full(true);
    assert!(matches!(wal.journal().append(&[request(2, 1, 100)]), Err(WalError::Store(StoreError::Full))));
    assert!(wal.failing().is_some());
    bench.disk.set_full(false);
    wal.journal().append(&[request(3, 1, 100)]).unwrap();
    assert_eq!(wal.summary().accepted, logs(2));
    assert_adds_up(&wal);
}

#[test]
fn a_segment_goes_when_every_consumer_of_its_signals_has_passed_it() {
    let mut bench = Bench::new();
    let traces = SignalSet::default().with(Signal::Traces);
    bench.config =
        config(bench.directory.path(), &[("link", SignalSet::ALL), ("a", SignalSet::ALL), ("b", traces)]);
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 5, 100)]).unwrap();
    let id = seal(&mut wal).unwrap().unwrap().id;
    let done = |refused| [Delivery { id, refused }];
    let [l, a, b] = ["link", "a", "b"].map(|name| wal.custody().consumer(name).unwrap());
    assert!(wal.custody().waiting(b, Lane::BULK, 0, 10).unwrap().is_empty(), "no traces in it");
    assert_eq!(
        wal.custody().first_waiting(b, Lane::BULK, 0, None).unwrap(),
        (None, 2),
        "it need not be looked at again"
    );
    assert_eq!(wal.custody().first_waiting(a, Lane::BULK, 0, None).unwrap().1, 1);
    assert_eq!(wal.custody().pass(l, &done(Counts::ZERO)).unwrap(), 0);
    assert_eq!(wal.custody().pass(l, &done(Counts::ZERO)).unwrap(), 0, "once is enough");
    drop(wal);
    let mut wal = bench.open();
    wal.custody().advance(a, id, None, 1, (logs(3), logs(2))).unwrap();
    assert_eq!(wal.custody().reached(a, Lane::BULK).unwrap().lane, (1, 1));
    assert_eq!(wal.custody().pass(a, &done(Counts::ZERO)).unwrap(), 1);
    let s = wal.summary();
    assert_eq!(
        (s.delivered, s.dropped.as_slice()),
        (logs(5), &[][..]),
        "the link has delivered what a refused"
    );
    assert_adds_up(&wal);

    bench.config.consumers.remove("a");
    let mut wal = {
        drop(wal);
        bench.open()
    };
    assert_eq!(wal.custody().abandoned(), ["a"]);
    wal.custody().release("a").unwrap();
    assert!(wal.custody().abandoned().is_empty());
}

#[test]
fn the_budget_refuses_or_drops_and_counts_what_it_drops() {
    for when_full in [WhenFull::Refuse, WhenFull::DropOldest, WhenFull::DropNewest] {
        let mut bench = Bench::new();
        (bench.config.max_bytes, bench.config.when_full) = (100_000, when_full);
        let mut wal = bench.open();
        let mut refused = 0;
        for n in 0..60 {
            match wal.journal().append(&[request(n, 1, 10_000)]) {
                Ok(()) => {}
                Err(WalError::Full { .. }) => refused += 1,
                Err(e) => panic!("{e}"),
            }
            if n % 2 == 1 {
                seal(&mut wal).unwrap();
            }
            assert!(wal.summary().stored_bytes <= 100_000 + 11_000, "{when_full:?}");
            assert_adds_up(&wal);
        }
        let summary = wal.summary();
        let dropped: Counts = summary.dropped.iter().map(|(_, items)| *items).sum();
        assert_eq!(refused > 0, when_full == WhenFull::Refuse);
        assert_eq!(wal.journal().is_full(), when_full == WhenFull::Refuse);
        assert_eq!(dropped.total() > 0, when_full != WhenFull::Refuse);
        let epochs = wal.epochs().hello("svalbard").unwrap();
        let reported: Counts = epochs[0].drops.iter().map(|d| Counts::from(d.items.unwrap())).sum();
        assert_eq!(reported, dropped, "{when_full:?}");
        assert!(
            epochs[0].drops.len() <= 2,
            "drops that say the same are one record: {:?}",
            epochs[0].drops.len()
        );
        assert!(epochs[0].drops.iter().all(|d| d.time.is_some()));
        // It fails where there was room before.
        let _ = wal.custody().drop_oldest();
        assert!(!wal.journal().is_full(), "{when_full:?}: there is room again");
        while wal.summary().stored_bytes < 100_000 - 100_000 / 16 {
            wal.journal().append(&[request(60, 1, 10_000)]).unwrap();
        }
        assert!(!wal.journal().is_full(), "{when_full:?}: nothing was refused since");
        let summary = wal.summary();
        assert_adds_up(&wal);
        drop(wal);
        let wal = bench.open();
        assert_eq!(wal.summary().dropped, summary.dropped, "drops survive a restart");
        assert_adds_up(&wal);
    }
}

#[test]
fn a_drop_is_repeated_to_each_station_until_it_knows_it_and_again_when_it_has_forgotten() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 5, 100)]).unwrap();
    let header = seal(&mut wal).unwrap().unwrap();
    wal.custody().drop_segments(vec![header.clone()], DropReason::Lifetime).unwrap();
    let stations = ["a".to_owned(), "b".to_owned()];
    let drops = |wal: &mut Wal, station| wal.epochs().hello(station).unwrap().pop().unwrap().drops;
    let known = drops(&mut wal, "a");
    let id = known[0].id;
    assert_eq!((known.len(), known[0].sequences.unwrap().start), (1, header.id.sequence));
    let ack = link::DropsAck { epoch: header.id.epoch, ids: vec![id], overridden: vec![] };
    wal.epochs().drops_acknowledged("a", &stations, &ack, Some(id)).unwrap();
    assert!(drops(&mut wal, "a").is_empty());
    assert_eq!(drops(&mut wal, "b"), known);
    wal.epochs().drops_acknowledged("b", &stations, &ack, Some(id)).unwrap();
    assert!(drops(&mut wal, "b").is_empty());
    let nothing = link::DropsAck { ids: vec![], ..ack.clone() };
    let again = wal.epochs().drops_acknowledged("a", &stations, &nothing, Some(id - 1)).unwrap();
    assert_eq!(again, known, "at once");
    assert_eq!(drops(&mut wal, "a"), known, "its ledger is an older one");
    assert!(drops(&mut wal, "b").is_empty());
}

#[test]
fn what_a_station_had_of_a_drop_is_delivered_whenever_it_says_so() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 5, 100)]).unwrap();
    let header = seal(&mut wal).unwrap().unwrap();
    wal.custody().drop_segments(vec![header.clone()], DropReason::Lifetime).unwrap();
    let stations = ["a".to_owned()];
    let id = wal.epochs().hello("a").unwrap().pop().unwrap().drops[0].id;
    for (had, dropped) in [(0, 5), (2, 3), (2, 3), (5, 0), (3, 0)] {
        let overridden = vec![link::DropOverride { id, items: Some(logs(had).into()) }];
        let ack = link::DropsAck { epoch: header.id.epoch, ids: vec![id], overridden };
        wal.epochs().drops_acknowledged("a", &stations, &ack, Some(id)).unwrap();
        assert_eq!(wal.summary().delivered, logs(5 - dropped), "{had}");
        assert_adds_up(&wal);
    }
}

#[test]
fn a_station_that_claims_everything_is_believed_what_it_was_sent_or_has_acknowledged() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..6 {
        wal.journal().append(&[request(n, 1, 100)]).unwrap();
        seal(&mut wal).unwrap();
    }
    let ids: Vec<SegmentId> =
        wal.custody().waiting(LINK, Lane::BULK, 0, 9).unwrap().iter().map(|h| h.id).collect();
    let claims = |wal: &mut Wal, station: &str, ledger| {
        wal.bases().greets(Slot::FIRST, station);
        let all = view(wal, 1..7, [0; 32]);
        let lanes = vec![GroundLane { tops: Vec::new(), ..all.lanes[0].clone() }];
        match wal.epochs().reconcile(LINK, Slot::FIRST, &GroundView { ledger, lanes, ..all }).unwrap() {
            Reconciled::Believed { deleted, .. } => deleted,
            _ => panic!("nothing contradicts"),
        }
    };
    assert_eq!(claims(&mut wal, "svalbard", 7), 0);
    ids[..3].iter().for_each(|id| wal.custody().mark_sent(Slot::FIRST, *id));
    // One is acknowledged by a station with the same ledger, and by another one everything is.
    assert_eq!(claims(&mut wal, "mallory", 8), 0);
    assert_eq!(wal.epochs().committed(LINK, Slot::FIRST, &ids).unwrap(), 0, "nor by acknowledging it");
    assert_eq!(claims(&mut wal, "kiruna", 7), 3, "the ledger is the same");
    // What was sent before a start is offered again.
    wal.custody().mark_sent(Slot::FIRST, ids[3]);
    drop(wal);
    let mut wal = bench.open();
    assert_eq!(claims(&mut wal, "svalbard", 7), 0);
    wal.custody().mark_sent(Slot::FIRST, ids[3]);
    assert_eq!(wal.epochs().committed(LINK, Slot::FIRST, &ids[3..4]).unwrap(), 1);
    assert_eq!(wal.custody().waiting(LINK, Lane::BULK, 0, 9).unwrap().len(), 2);
    assert_adds_up(&wal);
}

#[test]
fn a_commit_overrides_a_drop() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..3 {
        wal.journal().append(&[request(n, 5, 100)]).unwrap();
        seal(&mut wal).unwrap();
        let epoch = wal.summary().life.epoch;
        wal.custody().mark_sent(Slot::FIRST, SegmentId { epoch, lane: Lane::BULK, sequence: n + 1 });
    }
    let headers = wal.custody().waiting(LINK, Lane::BULK, 0, 2).unwrap();
    let top = headers[1].hash;
    wal.custody().drop_segments(headers, DropReason::QuotaOldest).unwrap();
    assert_eq!(wal.summary().delivered, Counts::ZERO);
    let view = view(&wal, 1..2, top);
    let view = GroundView { lanes: vec![GroundLane { tops: Vec::new(), ..view.lanes[0].clone() }], ..view };
    wal.epochs().reconcile(LINK, Slot::FIRST, &view).unwrap();
    let s = wal.summary();
    assert_eq!((s.delivered, s.dropped[0].1), (logs(5), logs(5)), "segment 1 is on the ground after all");
    assert_adds_up(&wal);
}

/// One station had committed a segment when its acknowledgement was lost. The segment is damaged, and another one hears of that first.
#[test]
fn a_station_that_knows_of_a_drop_is_told_when_another_one_has_it_after_all() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 5, 100)]).unwrap();
    let header = seal(&mut wal).unwrap().unwrap();
    let stations = ["a".to_owned(), "b".to_owned()];
    wal.custody().drop_segments(vec![header.clone()], DropReason::Corruption).unwrap();
    let drops = |wal: &mut Wal, station| wal.epochs().hello(station).unwrap().pop().unwrap().drops;
    let id = drops(&mut wal, "b")[0].id;
    let ack = link::DropsAck { epoch: header.id.epoch, ids: vec![id], overridden: vec![] };
    wal.epochs().drops_acknowledged("b", &stations, &ack, Some(id)).unwrap();
    let whole = view(&wal, 1..2, header.hash);
    let hears = |wal: &mut Wal| {
        wal.bases().greets(Slot::FIRST, "a");
        wal.epochs().reconcile(LINK, Slot::FIRST, &whole).unwrap();
        assert_eq!((wal.summary().delivered, wal.summary().dropped[0].1), (logs(5), Counts::ZERO));
    };
    hears(&mut wal);
    for station in ["a", "b"] {
        let told = drops(&mut wal, station);
        assert_eq!(told.len(), 1, "{station}");
        assert_eq!((told[0].id, told[0].overridden), (id, told[0].items));
        wal.epochs().drops_acknowledged(station, &stations, &ack, Some(id)).unwrap();
    }
    hears(&mut wal);
    assert!(drops(&mut wal, "a").is_empty() && drops(&mut wal, "b").is_empty(), "once");
    assert_adds_up(&wal);
}

#[test]
fn what_the_ground_has_is_deleted_and_a_ground_that_knows_more_begins_a_new_epoch() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..3 {
        wal.journal().append(&[request(n, 1, 100)]).unwrap();
        seal(&mut wal).unwrap();
    }
    let headers = wal.custody().waiting(LINK, Lane::BULK, 0, 9).unwrap();
    let right = view(&wal, 1..3, headers[1].hash);
    let deleted = |wal: &mut Wal| match wal.epochs().reconcile(LINK, Slot::FIRST, &right).unwrap() {
        Reconciled::Believed { deleted, .. } => deleted,
        _ => panic!("nothing contradicts"),
    };
    assert_eq!(deleted(&mut wal), 0, "nothing was sent");
    headers[..2].iter().for_each(|header| wal.custody().mark_sent(Slot::FIRST, header.id));
    assert_eq!(deleted(&mut wal), 2);
    let epoch = wal.summary().life.epoch;
    drop(wal);
    for wrong in [1..5, 1..4] {
        let before = bench.disk.content(&bench.file()).unwrap();
        let mut wal = bench.open();
        let wrong = view(&wal, wrong, [0; 32]);
        contradict(&mut wal, &wrong);
        let left = wal.custody().waiting(LINK, Lane::BULK, 0, 9).unwrap();
        assert_eq!((left.len(), left[0].id.epoch), (1, wal.summary().life.epoch), "nothing was deleted");
        let epochs = wal.epochs().hello("a").unwrap();
        assert_eq!(epochs.len(), 2);
        assert!(epochs[0].epoch == epoch && epochs[0].closed && !epochs[1].closed);
        assert!(epochs[0].start_counter < epochs[1].start_counter);
        let [lost] = &epochs[0].drops[..] else { panic!("one gap for what the later state had: {epochs:?}") };
        assert!(lost.counts_unknown && lost.reason() == DropReason::Corruption && lost.sequences.is_none());
        assert!(lost.id > 1_000, "the later state may have told of drops with the next ids");
        assert_adds_up(&wal);
        drop(wal);
        bench.disk.put(&bench.file(), before);
    }
}

#[test]
fn of_what_an_earlier_log_has_on_board_the_ground_keeps_what_it_knows_the_hash_of() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..3 {
        wal.journal().append(&[request(n, 5, 100)]).unwrap();
        seal(&mut wal).unwrap();
    }
    let headers = wal.custody().waiting(LINK, Lane::BULK, 0, 9).unwrap();
    // The later log had another third segment, and a ground has both; that it has the second one, it does not say with its hash.
    let mut later = view(&wal, 1..6, [0; 32]);
    later.lanes[0].tops.extend([(1, headers[0].hash), (3, [9; 32])]);
    contradict(&mut wal, &later);
    let check = |wal: &mut Wal| {
        let left = wal.custody().waiting(LINK, Lane::BULK, 0, 9).unwrap();
        let left: Vec<_> =
            left.iter().map(|header| (header.id.epoch, header.id.sequence, header.hash)).collect();
        let epoch = wal.summary().life.epoch;
        assert_eq!(left, [(epoch, 2, headers[1].hash), (epoch, 3, headers[2].hash)]);
        assert_eq!(wal.summary().delivered, logs(5));
        assert_adds_up(wal);
    };
    check(&mut wal);
    drop(wal);
    check(&mut bench.open());
}

#[test]
fn a_damaged_file_is_moved_aside_and_its_epoch_closed_with_what_is_known() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..4 {
        wal.journal().append(&[request(n, 5, 20_000)]).unwrap();
    }
    seal(&mut wal).unwrap();
    let before = wal.summary();
    drop(wal);
    bench.disk.damage(&bench.file(), |content| content[..4096].fill(0x5a));
    let mut wal = bench.try_open().unwrap();
    let quarantine = wal.take_quarantine().unwrap();
    assert!(bench.disk.files().contains(&quarantine.moved_to.unwrap()));
    let after = wal.summary();
    assert_eq!((after.accepted, after.in_segments), (before.accepted, Counts::ZERO));
    assert_eq!(after.dropped, [(DropReason::Corruption, logs(20))]);
    assert!(after.life.epoch != before.life.epoch && after.life.start_counter > before.life.start_counter);
    let epochs = wal.epochs().hello("a").unwrap();
    assert_eq!((epochs[0].epoch, epochs[0].closed), (before.life.epoch, true));
    let lost: Vec<_> =
        epochs[0].drops.iter().map(|drop| (drop.items.unwrap(), drop.counts_unknown)).collect();
    let segment = (logs(20).into(), false);
    assert_eq!(
        lost,
        [segment, (Counts::ZERO.into(), true)],
        "more may have been accepted since the last seal"
    );
    assert_adds_up(&wal);
    wal.journal().append(&[request(9, 1, 10)]).unwrap();
    assert_adds_up(&wal);
}

#[test]
fn a_later_format_is_refused_and_stays_where_it_is() {
    let bench = Bench::new();
    let mut wal = bench.open();
    let later = tables::FRONT_FORMAT + 1;
    wal.write(|txn, _| Ok((tables::set_numbers(txn, &[(tables::META_FORMAT, later)])?, Vec::new()))).unwrap();
    wal.close().unwrap();
    let before = bench.disk.env().store.read(&bench.file()).unwrap();
    for _ in 0..2 {
        let Err(WalError::Store(StoreError::Format { found, known, .. })) = bench.try_open() else {
            panic!("a later format is refused")
        };
        assert_eq!((found, known), (later, tables::FRONT_FORMAT));
    }
    assert!(bench.disk.env().store.read(&bench.file()).unwrap() == before, "nothing in it has changed");
}

#[test]
fn a_look_at_a_log_makes_nothing() {
    let bench = Bench::new();
    assert!(Wal::open_existing(bench.config.clone(), bench.disk.env()).is_err());
    assert!(bench.disk.files().is_empty());
    drop(bench.open());
    assert!(Wal::open_existing(bench.config.clone(), bench.disk.env()).is_ok());
}

#[test]
fn a_damaged_segment_is_found_dropped_and_counted() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 5, 100)]).unwrap();
    let header = seal(&mut wal).unwrap().unwrap();
    assert_eq!(wal.scrub().all().unwrap(), (1, 0));
    wal.write(|txn, _| {
        txn.open_table(tables::CHUNKS)?.insert(tables::Place::of(header.id).piece(0), &b"other"[..])?;
        Ok(((), Vec::new()))
    })
    .unwrap();
    assert_eq!(wal.scrub().all().unwrap(), (1, 1));
    assert_eq!(wal.summary().dropped, [(DropReason::Corruption, logs(5))]);
    assert_adds_up(&wal);
}

#[test]
fn a_damaged_group_of_the_journal_is_dropped_and_counted_and_the_rest_is_sealed() {
    let bench = Bench::new();
    for damaged in 1..=3 {
        let mut wal = bench.open();
        let (accepted, dropped) = (wal.summary().accepted, wal.summary().dropped);
        let first = common::next_number(wal.state());
        for n in 0..3 {
            wal.journal().append(&[request(n, 5, 100)]).unwrap();
        }
        let number = first + damaged - 1;
        wal.write(|txn, _| {
            let mut journal = txn.open_table(tables::JOURNAL)?;
            let mut group = group::read(&journal, number)?;
            group.truncate(group.len() - 3);
            journal.insert(tables::GroupPiece { group: number, piece: 0 }, group.as_slice())?;
            Ok(((), Vec::new()))
        })
        .unwrap();
        let batch = wal.segments().take_batch(Lane::BULK, ALL, true).unwrap().unwrap();
        let error = batch.seal(&Encoding::default(), 7).unwrap_err();
        assert!(matches!(error, SealError::Journal { group, .. } if group == number), "{error}");
        wal.journal().drop_group(number).unwrap();
        assert_adds_up(&wal);
        drop(wal);

        let mut wal = bench.open();
        let lost = dropped.first().map_or(Counts::ZERO, |(_, items)| *items) + logs(5);
        assert_eq!(wal.summary().dropped, [(DropReason::Corruption, lost)]);
        assert_eq!(wal.summary().accepted, accepted + logs(15));
        assert_eq!(wal.state().next_group, first + 3, "no number is given twice");
        let mut sealed = Counts::ZERO;
        while let Some(header) = seal(&mut wal).unwrap() {
            sealed += header.items;
        }
        assert_eq!(sealed, logs(10));
        assert_adds_up(&wal);
        let drops: Vec<_> = wal.epochs().hello("a").unwrap().into_iter().flat_map(|e| e.drops).collect();
        assert_eq!(drops.last().map(|d| d.reason), Some(DropReason::Corruption as i32));
    }
}

#[test]
fn sealed_groups_leave_the_journal_together_and_the_file_shrinks_when_it_is_compacted() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..40 {
        wal.journal().append(&[request(n, 1, 200_000)]).unwrap();
        if n % 4 == 3 {
            let id = seal(&mut wal).unwrap().unwrap().id;
            wal.custody().pass(LINK, &[Delivery { id, refused: Counts::ZERO }]).unwrap();
        }
    }
    assert!(wal.summary().stored_bytes < 5 << 20, "sealed groups are deleted in time: {:?}", wal.summary());
    let (before, after) = wal.file().compact(true).unwrap().unwrap();
    assert!(after < before, "{before} {after}");
    assert_adds_up(&wal);
}

#[test]
fn a_large_request_is_not_added_to_a_batch_that_has_enough_without_it() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for (n, bytes) in [(0, 700_000), (1, 900_000), (2, 100_000), (3, 2_000_000)] {
        wal.journal().append(&[request(n, 1, bytes)]).unwrap();
    }
    let limits = BatchLimits { items: u64::MAX, raw: 1_000_000 };
    let mut sealed = Vec::new();
    while let Some(batch) = wal.segments().take_batch(Lane::BULK, limits, sealed.len() == 3).unwrap() {
        let batch = batch.seal(&Encoding::plain(), 1).unwrap();
        sealed.push(wal.segments().commit(batch).unwrap().raw_len);
    }
    assert_eq!(sealed, [700_000, 1_000_000, 2_000_000]);
    assert_adds_up(&wal);
}

#[test]
fn a_journal_is_listed_by_how_its_groups_begin_as_by_the_whole_of_them() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for (n, bytes) in [100, 40_000, 300_000, 5_000, 70_000, 900_000, 20_000, 261_000].into_iter().enumerate()
    {
        let n = n as u64;
        wal.journal().append(&[request(n, 2, bytes), request(100 + n, 1, bytes / 2)]).unwrap();
    }
    let listed = |wal: &mut Wal| {
        let file = wal.env().store.open(&bench.file()).unwrap();
        let both = wal.log.read(|txn, _| {
            let journal = txn.open_table(tables::JOURNAL).map_err(StoreError::from)?;
            let of_table = group::Listed::of_table(&journal)?;
            Ok::<_, StoreError>((of_table.0, group::Listed::of_file(&*file, &journal).map(|l| l.0)))
        });
        let (of_table, of_file) = both.unwrap();
        assert_eq!(format!("{:?}", Some(&of_table)), format!("{:?}", of_file.as_ref()));
        of_table.len()
    };
    let groups = listed(&mut wal);
    assert!(groups >= 7, "{groups}");
    drop(wal);
    let mut wal = bench.open();
    // One of the commits has two.
    assert_eq!((listed(&mut wal), wal.summary().accepted), (9, logs(24)));
    seal(&mut wal).unwrap().unwrap();
    wal.journal().append(&[request(200, 1, 50_000)]).unwrap();
    listed(&mut wal);
    assert_adds_up(&wal);
}
