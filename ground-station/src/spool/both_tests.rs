//! What both stores promise, through the one interface: the same tests over a station's own file and over PostgreSQL. Those over
//! PostgreSQL pass over themselves, and say so, on a machine that has none.
#![allow(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use perigee_proto::link::{self, RejectReason};
use perigee_shared::env::Env;
use perigee_shared::export::Limits;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::segment::{Header, SegmentId, hash};
use perigee_shared::signal::{Counts, Signal, SignalSet};
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::base_tests::{expected, leaf, names_in, seal};
use super::postgres::{FleetSettings, Replication};
use super::tests::{
    EPOCH, Model, Step, done, dropped, heard, incoming, place, segment, settings, spans, steps,
};
use super::*;

/// Where a store is kept, over several openings of it.
pub(super) struct Site {
    pub(super) dir: tempfile::TempDir,
    fleet: Option<FleetSettings>,
    runtime: Runtime,
}

/// An open store, asked synchronously.
pub(super) struct Subject<'s> {
    site: &'s Site,
    pub(super) store: Store,
}

impl Site {
    fn new(fleet: Option<FleetSettings>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self { dir: tempfile::tempdir().unwrap(), fleet, runtime: runtime.unwrap() }
    }

    pub(super) fn redb() -> Option<Self> {
        Some(Self::new(None))
    }

    /// `None` where there is no PostgreSQL.
    pub(super) fn postgres() -> Option<Self> {
        let (host, database) = fleet::shared_database()?;
        Some(Self::new(Some(FleetSettings {
            hosts: vec![host],
            database,
            user: "perigee".to_owned(),
            password: None,
            password_file: None,
            tls: None,
            replication: Replication::None,
            connections: 4,
            lease: Duration::from_secs(15),
        })))
    }

    pub(super) fn open(&self) -> Subject<'_> {
        self.open_with(&[("a", SignalSet::ALL)])
    }

    pub(super) fn open_with(&self, routes: &[(&str, SignalSet)]) -> Subject<'_> {
        self.open_at("svalbard", settings(&self.dir, routes))
    }

    pub(super) fn open_at(&self, station: &str, settings: Settings) -> Subject<'_> {
        let settings = Settings { station: station.to_owned(), ..settings };
        let env = Env::production();
        let store = self.runtime.block_on(async {
            match self.fleet.clone() {
                Some(fleet) => Store::join(&env, settings, fleet, 0).await,
                None => Store::open(&env, settings, 0),
            }
        });
        Subject { site: self, store: store.unwrap() }
    }
}

impl Subject<'_> {
    pub(super) fn wait<R>(&self, work: impl Future<Output = Result<R, SpoolError>>) -> R {
        self.site.runtime.block_on(work).unwrap()
    }

    pub(super) fn close(self) {
        self.site.runtime.block_on(self.store.close());
    }

    pub(super) fn apply(&self, batch: &[Incoming]) -> Vec<Applied> {
        self.wait(async {
            let mut taken = Vec::new();
            for incoming in batch {
                taken.push(self.store.intake().put_payload(incoming.clone()).await?);
            }
            self.store.intake().commit(taken).await
        })
    }

    pub(super) fn commit(&self, sequence: u64, items: Counts) -> Applied {
        let (header, payload) = segment(sequence, items, 0);
        let whole = 0..payload.len();
        self.apply(&[incoming(&header, &payload, &[whole])]).remove(0)
    }

    pub(super) fn next(&self, exporter: &str, signals: SignalSet, fingerprint: u64) -> Option<Work> {
        self.wait(self.store.outlet().next(exporter.into(), signals, fingerprint))
    }

    pub(super) fn progress(&self, exporter: &str, progress: &Progress) {
        self.wait(self.store.outlet().progress(exporter.into(), progress.clone()));
    }

    fn put_aside(&self, exporter: &str, place: Place, signals: SignalSet) {
        self.wait(self.store.outlet().put_aside(exporter.into(), place, signals));
    }

    pub(super) fn pass(&self, exporter: &str, signals: SignalSet) -> u64 {
        let mut passed = 0;
        while let Some(work) = self.next(exporter, signals, 1) {
            self.progress(exporter, &done(work.place));
            passed += 1;
        }
        passed
    }

    pub(super) fn account(&self) -> AccountView {
        self.wait(self.store.views().accounting()).remove("sat-1").unwrap()
    }

    pub(super) fn overview(&self) -> SpoolView {
        self.wait(self.store.views().overview())
    }

    pub(super) fn usage(&self) -> u64 {
        self.overview().used_bytes
    }

    pub(super) fn sweep(&self) {
        self.wait(self.store.outlet().sweep());
    }

    /// Satellites and sequences of the catalogue, in parts of so many rows.
    fn catalogue(&self, mut wanted: Wanted, part: usize) -> Vec<(String, u64)> {
        let (views, mut seen) = (self.store.views(), Vec::new());
        loop {
            let read = self.wait(async { views.glance().await?.catalogue(wanted.clone(), part).await });
            seen.extend(read.rows.into_iter().map(|row| (row.satellite, row.sequence)));
            let Some(next) = read.next else { return seen };
            wanted.after = next.parse().ok();
        }
    }

    fn letters(&self) -> Vec<LetterView> {
        self.wait(self.store.views().letters(0, 10))
    }

    fn next_replay(&self, exporter: &str) -> Option<Replay> {
        let mut replays = self.wait(self.store.replays().next_replays(exporter.into(), Limits::default()));
        (!replays.is_empty()).then(|| replays.remove(0))
    }

    fn replay(&self, ids: Option<&[u64]>) -> u64 {
        self.wait(self.store.replays().replay(ids.map(<[u64]>::to_vec)))
    }

    fn replayed(&self, id: u64, refused: Option<&str>) {
        self.wait(self.store.replays().replayed([id].into(), refused.map(str::to_owned)));
    }

    pub(super) fn hello_with(&self, epochs: Vec<link::Epoch>) -> Answer {
        let hello = link::Hello { epochs, ..link::Hello::default() };
        self.wait(self.store.intake().ledger("sat-1".into(), Arc::new(hello)))
    }

    fn hello(&self, on_board: Range<u64>, drops: Vec<link::Drop>) -> link::ResumeEpoch {
        let lane = link::Lane {
            lane: 8,
            on_board: vec![link::Range { start: on_board.start, end: on_board.end }],
            next_sequence: on_board.end,
            ..link::Lane::default()
        };
        let epoch = link::Epoch { epoch: EPOCH, lanes: vec![lane], drops, ..link::Epoch::default() };
        self.hello_with(vec![epoch]).epochs.remove(0)
    }

    fn drops(&self, drops: link::EpochDrops) -> link::DropsAck {
        self.wait(self.store.intake().drops("sat-1".into(), Arc::new(drops)))
    }

    /// A Hello of a lane whose next sequence is 100.
    pub(super) fn hello_of_bases(&self, oldest_base: Option<u64>) {
        let lane = link::Lane { lane: 8, next_sequence: 100, oldest_base, ..link::Lane::default() };
        let epoch =
            link::Epoch { epoch: EPOCH, start_counter: 1, lanes: vec![lane], ..link::Epoch::default() };
        self.hello_with(vec![epoch]);
    }
}

/// Makes a test of each for both stores.
macro_rules! over_both {
    ($($(#[$meta:meta])* fn $name:ident($site:ident) $body:block)*) => {
        mod bodies {
            use super::*;
            $($(#[$meta])* pub(super) fn $name($site: &Site) $body)*
        }
        mod over_redb {
            $(#[test] fn $name() { super::Site::redb().iter().for_each(super::bodies::$name); })*
        }
        mod over_postgres {
            $(#[test] fn $name() { super::Site::postgres().iter().for_each(super::bodies::$name); })*
        }
    };
}

over_both! {
    fn a_segment_that_comes_twice_is_committed_once(site) {
        let spool = site.open();
        assert_eq!(spool.commit(1, spans(5)), Applied::New);
        assert_eq!(spool.commit(1, spans(5)), Applied::Duplicate);
        let account = spool.account();
        assert_eq!((account.committed.spans, account.segments, account.duplicates), (5, 1, 1));
    }

    fn a_segment_that_comes_again_under_a_new_epoch_is_committed_once(site) {
        let spool = site.open();
        spool.commit(1, spans(5));
        let (header, payload) = segment(1, spans(5), 0);
        let named = |id| Arc::new(Header { id, ..(*header).clone() });
        let renamed = named(SegmentId { epoch: header.id.epoch + 1, ..header.id });
        spool.hello(1..2, Vec::new());
        let whole = [0..payload.len()];
        for _ in 0..2 {
            assert_eq!(spool.apply(&[incoming(&renamed, &payload, &whole)]), [Applied::Duplicate]);
        }
        let other = named(SegmentId { sequence: 2, ..renamed.id });
        assert_eq!(spool.apply(&[incoming(&other, &payload, &whole)]), [Applied::New], "another sequence");
        assert_eq!(spool.account().committed.spans, 10);
    }

    fn another_payload_under_a_committed_name_is_a_conflict(site) {
        let spool = site.open();
        spool.commit(1, spans(5));
        let (header, payload) = segment(1, spans(5), 9);
        let whole = 0..payload.len();
        assert_eq!(spool.apply(&[incoming(&header, &payload, &[whole])]), [Applied::Conflict]);
    }

    fn a_partial_survives_and_is_completed_out_of_order(site) {
        let (header, payload) = segment(1, spans(5), 0);
        let n = payload.len();
        let spool = site.open();
        let out = spool.apply(&[incoming(&header, &payload, &[n / 2..n - 10, 0..100])]);
        let held: RangeSet = [0..100, n as u64 / 2..n as u64 - 10].into_iter().collect();
        assert_eq!(out, [Applied::Held(held)]);
        spool.close();
        let spool = site.open();
        assert_eq!(spool.usage(), (n - 10 - n / 2 + 100) as u64);
        let resume = spool.hello(1..2, Vec::new());
        assert_eq!(RangeSet::from_wire(&resume.lanes[0].partials[0].held).ranges(), 2);
        // What is held already comes again too.
        let out = spool.apply(&[incoming(&header, &payload, &[50..n / 2 + 20, n - 10..n])]);
        assert_eq!(out, [Applied::New]);
        assert_eq!(spool.next("a", SignalSet::ALL, 1).unwrap().header.hash, header.hash);
        assert_eq!(spool.usage(), n as u64);
        assert!(spool.wait(spool.store.views().satellites())[0].epochs[0].lanes[0].partials.is_empty());
        assert!(spool.wait(spool.store.upkeep().verify()).is_empty());
    }

    fn a_large_segment_comes_in_two_parts_and_is_whole(site) {
        let spool = site.open();
        let payload: Vec<u8> = (0..1_500_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (header, _) = segment(1, spans(1), 0);
        let header = Header { payload_len: payload.len() as u64, hash: hash(&payload), ..(*header).clone() };
        let header = Arc::new(header);
        let middle = 700_001;
        let mut first = incoming(&header, &payload, &[middle..payload.len()]);
        first.max_partial_bytes = 1 << 30;
        assert!(matches!(spool.apply(&[first])[0], Applied::Held(_)));
        assert_eq!(spool.apply(&[incoming(&header, &payload, &[0..middle])]), [Applied::New]);
        let (kept, seen) = (Arc::new(std::sync::Mutex::new(Vec::new())), payload.clone());
        let keep = Arc::clone(&kept);
        spool.wait(spool.store.views().segments(move |_, _, bytes, _| keep.lock().unwrap().extend_from_slice(bytes)));
        assert!(*kept.lock().unwrap() == seen);
    }

    fn another_payload_of_a_partial_begins_at_zero(site) {
        let spool = site.open();
        let (header, payload) = segment(1, spans(5), 0);
        spool.apply(&[incoming(&header, &payload, &[0..100])]);
        let (header, payload) = segment(1, spans(5), 1);
        let out = spool.apply(&[incoming(&header, &payload, &[100..200])]);
        assert_eq!(out, [Applied::Held([100..200].into_iter().collect())]);
        assert_eq!(spool.usage(), 100);
        let n = payload.len();
        assert_eq!(spool.apply(&[incoming(&header, &payload, &[0..100, 200..n])]), [Applied::New]);
        assert_eq!(spool.next("a", SignalSet::ALL, 1).unwrap().header.hash, header.hash);
    }

    fn a_wrong_hash_leaves_nothing(site) {
        let spool = site.open();
        let (header, mut payload) = segment(1, spans(5), 0);
        payload[7] ^= 1;
        let whole = 0..payload.len();
        let out = spool.apply(&[incoming(&header, &payload, &[whole])]);
        assert_eq!(out, [Applied::Rejected(RejectReason::HashMismatch)]);
        assert_eq!((spool.usage(), spool.account().hash_mismatches), (0, 1));
        assert!(spool.next("a", SignalSet::ALL, 1).is_none());
        assert_eq!(spool.commit(1, spans(5)), Applied::New);
    }

    fn partials_have_a_quota_and_leave_when_they_are_not_on_board_any_more(site) {
        let spool = site.open();
        let hold = |sequence| {
            let (header, payload) = segment(sequence, spans(5), 0);
            let mut incoming = incoming(&header, &payload, &[0..100]);
            incoming.max_partial_bytes = 5000;
            spool.apply(&[incoming]).remove(0)
        };
        assert!(matches!(hold(1), Applied::Held(_)));
        assert_eq!(hold(2), Applied::Rejected(RejectReason::Quota));
        assert_eq!(spool.usage(), 100);
        spool.hello(2..3, Vec::new());
        assert_eq!(spool.usage(), 0);
        assert!(matches!(hold(2), Applied::Held(_)));
    }

    fn a_commit_overrides_a_drop_whichever_comes_first(site) {
        let spool = site.open();
        spool.commit(1, spans(10));
        spool.hello(4..4, vec![dropped(1, 1..4, 60)]);
        assert_eq!(spool.account().dropped.spans, 50);
        spool.commit(3, spans(20));
        assert_eq!(spool.account().dropped.spans, 30);
        // The same drop again, after a lost acknowledgement.
        let resume = spool.hello(4..4, vec![dropped(1, 1..4, 60)]);
        assert_eq!(resume.drops_acknowledged, [1]);
        assert_eq!(spool.account().dropped.spans, 30);
        assert_eq!(spool.wait(spool.store.views().gaps(10))[0].items.spans, 30);
        let counted = || spool.wait(spool.store.views().gap_counts()).into_values().sum::<u64>();
        assert_eq!(counted(), 1);
        spool.commit(2, spans(30));
        assert_eq!(counted(), 0, "everything has come all the same");
    }

    fn a_cursor_means_the_same_later_and_nothing_under_another_cut(site) {
        let spool = site.open();
        spool.commit(1, spans(5));
        spool.commit(2, spans(6));
        spool.progress("a", &Progress { request: 3, ..Progress::at(place(1), 1) });
        spool.close();
        let spool = site.open();
        let work = spool.next("a", SignalSet::ALL, 1).unwrap();
        assert_eq!((work.place, work.first.least()), (place(1), 3));
        let work = spool.next("a", SignalSet::ALL, 2).unwrap();
        assert_eq!((work.place, work.first.least()), (place(1), 0));
    }

    fn a_segment_leaves_when_every_exporter_of_its_signals_has_passed_it(site) {
        let traces = SignalSet::default().with(Signal::Traces);
        let logs = SignalSet::default().with(Signal::Logs);
        let spool = site.open_with(&[("a", traces), ("b", traces), ("c", logs)]);
        let mixed = spans(10) + Counts::of(Signal::Logs, 4);
        spool.commit(1, mixed);
        spool.commit(2, spans(7));
        assert_eq!(spool.pass("a", traces), 2);
        assert_eq!(spool.account().exported.spans, 0, "b has them still to send");
        assert_eq!(spool.pass("b", traces), 2);
        let now = spool.account();
        assert_eq!((now.exported.spans, now.in_spool.spans, now.in_spool.log_records), (17, 0, 4));
        assert_eq!(spool.pass("c", logs), 1, "a segment without logs is not its business");
        assert_eq!(spool.account().exported.log_records, 4);
        spool.sweep();
        assert_eq!((spool.usage(), spool.overview().segments), (0, 0));
        assert_eq!(spool.commit(2, spans(7)), Applied::Duplicate, "the ledger does not forget");
    }

    fn what_is_put_aside_holds_back_its_signal_of_its_lane_and_nothing_else(site) {
        let spool = site.open();
        let logs = SignalSet::default().with(Signal::Logs);
        let mixed = spans(10) + Counts::of(Signal::Logs, 4);
        spool.commit(1, mixed);
        spool.commit(2, spans(7));
        spool.commit(3, mixed);
        // Its first request is done; the second, of logs, is not decided.
        spool.progress("a", &Progress { request: 1, ..Progress::at(place(1), 1) });
        spool.put_aside("a", place(1), logs);
        for n in 1..=3 {
            let work = spool.next("a", SignalSet::ALL, 1).unwrap();
            let first = work.first;
            let spans_from = u64::from(n == 1);
            assert_eq!(work.place, place(n));
            assert_eq!((first.of(Signal::Traces), first.of(Signal::Logs)), (spans_from, u64::MAX));
            spool.progress("a", &Progress { signals: first.signals(), ..done(place(n)) });
        }
        assert!(spool.next("a", SignalSet::ALL, 1).is_none());
        let now = spool.account();
        assert_eq!((now.exported.spans, now.in_spool.log_records), (27, 8));
        spool.close();

        // Whoever comes next finds the same.
        let spool = site.open();
        let work = spool.next("a", SignalSet::ALL, 1).unwrap();
        let first = work.first;
        assert_eq!((work.place, first.of(Signal::Logs), first.of(Signal::Traces)), (place(1), 1, u64::MAX));
        spool.progress("a", &done(place(1)));
        let work = spool.next("a", SignalSet::ALL, 1).unwrap();
        let first = work.first;
        assert_eq!((work.place, first.of(Signal::Logs), first.of(Signal::Traces)), (place(3), 0, u64::MAX));
        spool.progress("a", &done(place(3)));
        assert_eq!(spool.account().exported.log_records, 8);
        spool.commit(4, mixed);
        assert_eq!(spool.next("a", SignalSet::ALL, 1).unwrap().first.least(), 0);
        spool.progress("a", &done(place(4)));
        spool.sweep();
        assert_eq!((spool.usage(), spool.account().exported.spans), (0, 37));
    }

    fn requests_put_aside_and_taken_back_are_each_decided_once_and_in_their_order(site) {
        let fleet = site.fleet.is_some();
        let config = ProptestConfig { cases: if fleet { 6 } else { 32 }, failure_persistence: None, ..ProptestConfig::default() };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let sides = prop::collection::vec(side(), 1..60);
        runner.run(&sides, |sides| {
            let site = if fleet { Site::postgres() } else { Site::redb() };
            put_aside(&site.unwrap(), sides);
            Ok(())
        }).unwrap();
    }

    fn an_exporter_that_is_taken_out_holds_nothing_back(site) {
        let spool = site.open_with(&[("a", SignalSet::ALL), ("down", SignalSet::ALL)]);
        spool.commit(1, spans(5));
        spool.pass("a", SignalSet::ALL);
        assert_eq!(spool.account().exported.spans, 0);
        spool.close();
        let (spool, alone) = (site.open(), site.fleet.is_none());
        assert_eq!((spool.account().exported.spans == 5, spool.usage() == 0), (alone, alone), "another station may have it");
    }

    fn dead_letters_are_kept_listed_and_replayed(site) {
        let spool = site.open();
        spool.commit(1, spans(5));
        let body = Bytes::from(vec![3; 600_000]);
        let letter =
            Letter { signal: Signal::Traces, body: body.clone(), items: spans(2), reason: "no".to_owned() };
        let large = Letter { body: vec![7; 64 << 20].into(), items: spans(0), ..letter.clone() };
        spool.progress("a", &Progress { letters: vec![letter, large.clone()], ..done(place(1)) });
        spool.sweep();
        let now = spool.account();
        assert_eq!((now.exported.spans, now.dead_lettered.spans), (3, 2));
        spool.close();

        let spool = site.open();
        assert!((600_000..700_000).contains(&spool.usage()), "what is large for little is packed");
        let view = spool.letters().remove(0);
        assert_eq!((view.items, view.exporter.as_deref(), view.reason.as_str()), (2, Some("a"), "no"));
        assert!(spool.next_replay("a").is_none(), "only when it is asked for");
        assert_eq!(spool.replay(Some(&[view.id, 99])), 1);
        assert!(spool.next_replay("b").is_none());
        let replay = spool.next_replay("a").unwrap();
        assert_eq!(replay.letter.body, body);
        spool.replayed(replay.id, Some("still no"));
        assert!(spool.next_replay("a").is_none());
        assert_eq!(spool.letters()[0].reason, "still no");
        spool.replay(None);
        assert!(spool.next_replay("a").is_some());
        spool.replayed(replay.id, None);
        let replay = spool.next_replay("a").unwrap();
        assert!(replay.letter.body == large.body);
        spool.replayed(replay.id, None);
        let now = spool.account();
        assert_eq!((now.exported.spans, now.dead_lettered.spans, spool.usage()), (5, 0, 0));
        assert!(spool.letters().is_empty());
    }

    fn a_segment_that_does_not_decode_is_kept_whole(site) {
        let spool = site.open();
        spool.commit(1, spans(5));
        spool.wait(spool.store.outlet().condemn(place(1), "damaged".to_owned()));
        let now = spool.account();
        assert_eq!((now.dead_lettered.spans, now.in_spool.spans), (5, 0));
        assert!(spool.next("a", SignalSet::ALL, 1).is_none());
        // It decodes after all: later software, say.
        assert_eq!(spool.replay(None), 1);
        let now = spool.account();
        assert_eq!((now.dead_lettered.spans, now.in_spool.spans), (0, 5));
        assert_eq!(spool.pass("a", SignalSet::ALL), 1);
        assert_eq!(spool.account().exported.spans, 5);
    }

    fn a_segment_without_items_passes_through(site) {
        let spool = site.open();
        assert_eq!(spool.commit(1, Counts::ZERO), Applied::New);
        assert!(spool.next("a", SignalSet::ALL, 1).is_none());
        spool.sweep();
        assert_eq!(spool.usage(), 0);
        assert_eq!(spool.commit(1, Counts::ZERO), Applied::Duplicate);
    }

    fn an_urgent_lane_goes_first(site) {
        let spool = site.open();
        spool.commit(1, spans(5));
        let bulk = spool.next("a", SignalSet::ALL, 1).unwrap().place;
        let elsewhere = |at| spool.wait(spool.store.outlet().goes_elsewhere("a".into(), SignalSet::ALL, 1, at));
        assert!(!elsewhere(bulk));
        let (header, payload) = segment(1, spans(1), 3);
        let id = SegmentId { lane: perigee_shared::segment::Lane(1), ..header.id };
        let urgent = Arc::new(Header { id, ..(*header).clone() });
        let whole = 0..payload.len();
        assert_eq!(spool.apply(&[incoming(&urgent, &payload, &[whole])]), [Applied::New]);
        assert!(elsewhere(bulk));
        let work = spool.next("a", SignalSet::ALL, 1).unwrap();
        assert_eq!(work.header.id, id);
        spool.progress("a", &done(work.place));
        assert_eq!(spool.next("a", SignalSet::ALL, 1).unwrap().place, bulk);
    }

    fn what_a_satellite_says_is_shown(site) {
        let spool = site.open();
        spool.commit(1, spans(5));
        spool.hello(1..4, vec![dropped(1, 3..4, 60)]);
        spool.wait(spool.store.intake().heard("sat-1".into(), heard(1)));
        let view = spool.wait(spool.store.views().satellites()).remove(0);
        assert_eq!((view.satellite.as_str(), view.station.as_str(), view.contacts), ("sat-1", "svalbard", 1));
        let lane = &view.epochs[0].lanes[0];
        assert_eq!((lane.committed.as_slice(), lane.on_board.as_slice()), (&[(1, 1)][..], &[(2, 3)][..]));
        let pass = spool.wait(spool.store.views().passes(10)).remove(0);
        let ground = pass.pass.ground.unwrap();
        assert_eq!((ground.committed.spans, ground.handover_twice), (5, 2));
        assert_eq!(spool.wait(spool.store.views().standings()).len(), 1);
        assert_eq!(spool.wait(spool.store.views().columns(true)).segments, 1);
        let overview = spool.overview();
        assert_eq!((overview.segments, overview.next_entry), (1, 2));
        assert_eq!(overview.exporters[0].backlog_segments, 1);
    }

    fn a_digest_with_what_was_read_before_is_the_same_as_one_without(site) {
        let (spool, mut records) = (site.open(), Records::default());
        let mut last_passes = Vec::new();
        let pass = |start| link::PassReport { start_unix_nano: start, ..link::PassReport::default() };
        for step in 0..6 {
            let hello = |passes| link::Hello { passes, ..link::Hello::default() };
            match step {
                0 => drop(spool.commit(1, spans(5))),
                1 => drop(spool.wait(spool.store.intake().ledger("sat-1".into(), Arc::new(hello(vec![pass(5)]))))),
                2 => drop(spool.wait(spool.store.intake().ledger("sat-2".into(), Arc::new(hello(vec![pass(6)]))))),
                3 => {
                    let (header, payload) = segment(2, spans(5), 0);
                    spool.apply(&[incoming(&header, &payload, &[0..100])]);
                }
                4 => spool.wait(spool.store.intake().heard("sat-1".into(), heard(1))),
                _ => spool.wait(spool.store.intake().heard("sat-1".into(), Heard { opened: 9, ..heard(3) })),
            }
            let glance = spool.wait(spool.store.views().glance());
            let anew = spool.wait(glance.digest(Records::default())).1.satellites;
            let (read, digest) = spool.wait(glance.digest(records));
            assert_eq!(digest.satellites, anew, "step {step}");
            last_passes.push(format!("{:?}", anew[0].standing.last_pass));
            records = read;
        }
        last_passes.dedup();
        assert_eq!(last_passes.len(), 4, "none, the report, and two links: {last_passes:?}");
    }

    fn a_segment_decodes_after_what_it_leans_on_was_exported_and_deleted(site) {
        let first = seal(1, None);
        let second = seal(2, Some(&first));
        let third = leaf(3, Some(&second));
        let whole = |sealed: &super::base_tests::Sealed| super::base_tests::incoming(sealed);
        let spool = site.open();
        assert_eq!(spool.apply(&[whole(&second)]), [Applied::Rejected(RejectReason::MissingBase)]);
        assert_eq!(spool.apply(&[whole(&first), whole(&second)]), [Applied::New, Applied::New]);
        assert_eq!(spool.pass("a", SignalSet::ALL), 2);
        spool.sweep();
        assert_eq!((spool.overview().segments, spool.overview().bases), (0, 2));
        spool.close();
        let spool = site.open();
        assert_eq!(spool.apply(&[whole(&third)]), [Applied::New]);
        assert!(spool.wait(spool.store.upkeep().verify()).is_empty());
        let work = spool.next("a", SignalSet::ALL, 1).unwrap();
        assert_eq!(names_in(work.requests().unwrap()), expected(3));
        // The satellite has passed them, the segment that needs them is still here.
        spool.hello_of_bases(None);
        assert_eq!(spool.overview().bases, 2);
        spool.progress("a", &done(work.place));
        spool.sweep();
        assert_eq!((spool.overview().bases, spool.usage()), (0, 0));
    }

    fn the_scrub_goes_round(site) {
        let spool = site.open();
        for sequence in 1..=3 {
            spool.commit(sequence, spans(1));
        }
        while !spool.wait(spool.store.upkeep().scrub()).finished {}
        let view = spool.overview().scrub;
        assert_eq!((view.checked, view.damaged, view.rounds), (3, 0, 1));
    }

    fn the_catalogue_says_what_was_committed_and_who_has_it(site) {
        let spool = site.open();
        for sequence in 1..=4 {
            assert_eq!(spool.commit(sequence, spans(1)), Applied::New);
            let (header, payload) = segment(sequence, spans(1), 5);
            let other = incoming(&header, &payload, &[0..payload.len()]);
            assert_eq!(spool.apply(&[Incoming { satellite: "sat-2".into(), ..other }]), [Applied::New]);
        }
        let all: Vec<(String, u64)> =
            (1..=4).rev().flat_map(|n| [("sat-2".to_owned(), n), ("sat-1".to_owned(), n)]).collect();
        assert_eq!(spool.catalogue(Wanted::default(), 3), all);
        let one = Wanted { satellite: Some("sat-1".to_owned()), ..Wanted::default() };
        assert_eq!(spool.catalogue(one.clone(), 3), all.iter().filter(|row| row.0 == "sat-1").cloned().collect::<Vec<_>>());
        let nobody = Wanted { satellite: Some("sat-9".to_owned()), ..Wanted::default() };
        let timed = Wanted { from: Some(1), ..Wanted::default() };
        assert_eq!((spool.catalogue(nobody, 3), spool.catalogue(timed, 3)), (Vec::new(), Vec::new()));
        let rows = |wanted: &Wanted| spool.wait(async {
            spool.store.views().glance().await?.catalogue(wanted.clone(), 100).await
        }).rows;
        assert!(rows(&one).iter().all(|row| row.waits_for == ["a"] && row.backends.is_empty()));
        assert_eq!(spool.pass("a", SignalSet::ALL), 8);
        spool.sweep();
        assert!(rows(&one).iter().all(|row| row.backends == ["a"] && row.waits_for.is_empty()));
        assert_eq!(spool.commit(1, spans(1)), Applied::Duplicate);
        assert_eq!(rows(&Wanted::default()).len(), 8, "what has left the spool, each once");
        let delays = spool.wait(async { spool.store.views().glance().await?.portrait("sat-1".to_owned(), 0).await });
        assert!(delays.unwrap().delays.is_empty(), "nobody knows when these were sealed");
    }

    fn the_ledger_has_one_id_and_a_resume_tells_it(site) {
        let spool = site.open();
        let ledger = spool.hello_with(Vec::new()).ledger;
        assert_ne!(ledger, 0);
        assert_eq!(spool.overview().ledger, format!("{ledger:016x}"));
        spool.close();
        assert_eq!(site.open().hello_with(Vec::new()).ledger, ledger);
    }

    fn the_ledger_behaves_like_a_set_and_every_item_is_counted_once(site) {
        let (fleet, whole) = (site.fleet.is_some(), steps());
        let cases = if fleet { 6 } else { 24 };
        let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        runner.run(&whole, |steps| {
            let site = if fleet { Site::postgres() } else { Site::redb() };
            follow(&site.unwrap(), steps);
            Ok(())
        }).unwrap();
    }
}

fn check(model: &Model, spool: &Subject<'_>) {
    let account = spool.account();
    let total: u64 = model.committed.iter().sum();
    assert_eq!((account.committed.spans, account.duplicates), (total, model.duplicates));
    assert_eq!(account.exported.spans + account.in_spool.spans, total);
    assert_eq!(account.dropped.spans, model.dropped());
    let resume = spool.hello(1..20, Vec::new());
    let ranges: Vec<link::Range> = resume.lanes[0].committed.iter().map(|r| r.sequences.unwrap()).collect();
    let expected: RangeSet = model.committed.iter().map(|s| *s..s + 1).collect();
    assert_eq!(ranges, expected.to_wire());
    for range in &resume.lanes[0].committed {
        let (top, _) = segment(range.sequences.unwrap().end - 1, spans(0), 0);
        assert_eq!(range.top_hash, top.hash);
    }
}

fn follow(site: &Site, steps: Vec<Step>) {
    let mut spool = site.open();
    spool.hello(1..20, Vec::new());
    let mut model = Model::default();
    let mut free: BTreeSet<u64> = (1..20).collect();
    for step in steps {
        match step {
            Step::Commit(sequence) => {
                let new = model.committed.insert(sequence);
                let expected = if new { Applied::New } else { Applied::Duplicate };
                model.duplicates += u64::from(!new);
                assert_eq!(spool.commit(sequence, spans(sequence)), expected);
            }
            Step::Drop(from, n) => {
                let range = from..(from + n).min(20);
                if range.clone().all(|s| free.remove(&s)) {
                    let id = model.drops.len() as u64 + 1;
                    model.drops.insert(id, range.clone());
                    let drops = vec![dropped(id, range.clone(), range.sum())];
                    spool.drops(link::EpochDrops { epoch: EPOCH, drops });
                }
            }
            Step::Hello => drop(spool.hello(1..20, Vec::new())),
            Step::Export(sweep) => {
                spool.pass("a", SignalSet::ALL);
                if sweep {
                    spool.sweep();
                }
            }
            Step::Crash => {
                spool.close();
                spool = site.open();
            }
        }
        check(&model, &spool);
    }
}

/// What happens to the requests of an exporter.
#[derive(Debug, Clone, Copy)]
enum Side {
    Commit,
    /// So many are decided, and the next one is not.
    Send(u64),
    /// One that was put aside has its turn again.
    Back,
    Restart,
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![
        4 => Just(Side::Commit),
        6 => (0..6u64).prop_map(Side::Send),
        3 => Just(Side::Back),
        1 => Just(Side::Restart),
    ]
}

/// The signals of the requests that the segment with this sequence is cut into.
fn requests_of(sequence: u64) -> Vec<Signal> {
    let n = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (0..1 + n % 4).map(|at| Signal::ALL[(n >> (4 + 2 * at)) as usize % 3]).collect()
}

/// Follows the steps, then sends what is left.
fn put_aside(site: &Site, sides: Vec<Side>) {
    let mut spool = site.open();
    let (mut committed, mut aside) = (0, BTreeSet::new());
    let mut decided: Vec<(u64, u64, Signal)> = Vec::new();
    let set = |aside: &BTreeSet<Signal>| aside.iter().fold(SignalSet::default(), |all, s| all.with(*s));
    for side in sides.into_iter().chain([Side::Restart, Side::Send(u64::MAX)]) {
        match side {
            Side::Commit => {
                committed += 1;
                let items = requests_of(committed).into_iter().map(|signal| Counts::of(signal, 1));
                spool.commit(committed, items.fold(Counts::ZERO, |all, one| all + one));
            }
            Side::Restart => {
                spool.close();
                spool = site.open();
                aside.clear();
            }
            Side::Back => {
                aside.pop_first();
                spool.put_aside("a", place(1), set(&aside));
            }
            Side::Send(mut left) => {
                'sending: while let Some(work) = spool.next("a", SignalSet::ALL, 1) {
                    let entry = work.place.0.entry;
                    let requests = requests_of(entry);
                    let mut progress =
                        Progress { signals: work.first.signals(), ..Progress::at(work.place, 1) };
                    for (number, signal) in (0..).zip(&requests) {
                        if number < work.first.of(*signal) {
                            continue;
                        }
                        if left == 0 {
                            aside.insert(*signal);
                            spool.put_aside("a", work.place, set(&aside));
                            break 'sending;
                        }
                        left -= 1;
                        decided.push((entry, number, *signal));
                        progress.request = number + 1;
                        progress.finished = number + 1 == requests.len() as u64;
                        spool.progress("a", &progress);
                    }
                    if !progress.finished {
                        progress.finished = true;
                        spool.progress("a", &progress);
                    }
                }
            }
        }
    }
    for signal in Signal::ALL {
        let of =
            |all: Vec<(u64, u64, Signal)>| -> Vec<_> { all.into_iter().filter(|d| d.2 == signal).collect() };
        let all = (1..=committed).flat_map(|sequence| {
            (0..).zip(requests_of(sequence)).map(move |(number, signal)| (sequence, number, signal))
        });
        assert_eq!(of(decided.clone()), of(all.collect()), "{signal}");
    }
    spool.sweep();
    assert_eq!(spool.usage(), 0);
}
