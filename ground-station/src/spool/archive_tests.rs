//! What is kept after its export, and replays of it: the same tests over both stores.

use std::sync::Arc;

use perigee_proto::link;
use perigee_shared::segment::{Delivery, Header};
use perigee_shared::signal::{Counts, Signal, SignalSet, TimeRange};
use proptest::prelude::*;

use super::base_tests::{expected, incoming as of_sealed, leaf, names_in, seal};
use super::both_tests::{Site, Subject};
use super::tests::{EPOCH, done, incoming, segment, settings, spans};
use super::*;

const ALL: SignalSet = SignalSet::ALL;
const KEEP: Keep = Keep { nano: u64::MAX / 4, bytes: 1 << 30 };

fn open<'s>(site: &'s Site, routes: &[(&str, SignalSet)], keep: Keep) -> Subject<'s> {
    site.open_at("svalbard", Settings { keep, ..settings(&site.dir, routes) })
}

/// Commits a segment whose items are of this time.
fn commit_at(spool: &Subject<'_>, sequence: u64, start: u64, end: u64) {
    let (header, payload) = segment(sequence, spans(5), 0);
    let header = Arc::new(Header { time: TimeRange { start, end }, ..(*header).clone() });
    let whole = 0..payload.len();
    let one = incoming(&header, &payload, std::slice::from_ref(&whole));
    assert_eq!(spool.apply(&[one]), [Applied::New]);
}

fn begin(spool: &Subject<'_>, exporter: &str, from: Option<u64>, until: Option<u64>) -> u64 {
    let wanted = ReplayWanted { exporter: exporter.to_owned(), satellite: None, from, until };
    spool.wait(spool.store.replays().replay_range(wanted))
}

fn again(spool: &Subject<'_>, exporter: &str) -> Option<Again> {
    spool.wait(spool.store.replays().next_again(exporter.into(), ALL, 1))
}

fn note(spool: &Subject<'_>, exporter: &str, again: &Again, step: ReplayStep) {
    spool.wait(spool.store.replays().again(exporter.into(), again.id, again.work.place, step));
}

/// Sends the segment to its end.
fn send(spool: &Subject<'_>, exporter: &str, again: &Again) {
    let next = again.work.number + 1;
    let items = again.work.header.items;
    let step = ReplayStep { next, fingerprint: 1, segment: true, items, ..ReplayStep::default() };
    note(spool, exporter, again, step.clone());
    // A transaction that has failed may be there all the same.
    note(spool, exporter, again, step);
}

/// Sends all of it; which sequences.
fn send_all(spool: &Subject<'_>, exporter: &str) -> Vec<u64> {
    let mut sent = Vec::new();
    while let Some(next) = again(spool, exporter) {
        send(spool, exporter, &next);
        sent.push(next.work.header.id.sequence);
    }
    sent
}

fn view(spool: &Subject<'_>) -> ReplayView {
    spool.wait(spool.store.replays().ranges()).remove(0)
}

over_both! {
    fn whether_a_segment_has_waited_is_what_was_said_when_its_last_bytes_came(site) {
        let spool = open(site, &[("a", ALL)], KEEP);
        let said = |sequence, delivery| {
            let (header, payload) = segment(sequence, spans(5), 0);
            (Arc::new(Header { delivery, ..(*header).clone() }), payload)
        };
        let expected = [None, Some(Delivery::Stored), Some(Delivery::Live), Some(Delivery::Stored)];
        for (sequence, delivery) in (1..=3).zip(expected) {
            let (header, payload) = said(sequence, delivery);
            let whole = 0..payload.len();
            assert_eq!(spool.apply(&[incoming(&header, &payload, &[whole])]), [Applied::New]);
        }
        // Cut in the contact in which it was accepted; the rest of it waits for the next one.
        let (live, payload) = said(4, Some(Delivery::Live));
        let first = incoming(&live, &payload, std::slice::from_ref(&(0..100)));
        assert!(matches!(spool.apply(&[first])[..], [Applied::Held(_)]));
        let (stored, _) = said(4, Some(Delivery::Stored));
        let rest = 100..payload.len();
        assert_eq!(spool.apply(&[incoming(&stored, &payload, &[rest])]), [Applied::New]);
        spool.close();
        let spool = open(site, &[("a", ALL)], KEEP);
        let mut exported = Vec::new();
        while let Some(work) = spool.next("a", ALL, 1) {
            exported.push(work.header.delivery);
            spool.progress("a", &done(work.place));
        }
        assert_eq!(exported, expected);
        spool.sweep();
        begin(&spool, "a", None, None);
        let mut replayed = Vec::new();
        while let Some(next) = again(&spool, "a") {
            replayed.push(next.work.header.delivery);
            send(&spool, "a", &next);
        }
        assert_eq!(replayed, expected);
    }

    fn what_is_kept_goes_to_an_exporter_that_came_later_and_no_cursor_moves(site) {
        let spool = open(site, &[("a", ALL)], KEEP);
        for sequence in 1..=3 {
            spool.commit(sequence, spans(5));
        }
        assert_eq!(spool.pass("a", ALL), 3);
        spool.sweep();
        assert_eq!((spool.usage(), spool.overview().segments), (0, 0));
        assert!(spool.overview().kept_bytes > 3 * 100);
        spool.close();
        let spool = open(site, &[("a", ALL), ("b", ALL)], KEEP);
        assert!(spool.next("b", ALL, 1).is_none(), "the spool has nothing for it");
        let kept = spool.overview().kept_bytes;
        begin(&spool, "b", None, None);
        assert!(again(&spool, "a").is_none(), "it is of another exporter");
        assert_eq!(send_all(&spool, "b"), [1, 2, 3]);
        let done = view(&spool);
        assert_eq!((done.state, done.segments, done.total_segments), ("done", 3, 3));
        assert_eq!((done.items.spans, done.total_items.spans, done.missing_segments), (15, 15, 0));
        let account = spool.account();
        assert_eq!((account.replayed.spans, account.exported.spans, account.committed.spans), (15, 15, 15));
        assert_eq!(spool.overview().kept_bytes, kept, "it stays for the next one");
        spool.commit(4, spans(5));
        assert_eq!(spool.next("a", ALL, 1).unwrap().header.id.sequence, 4);
        assert_eq!(spool.next("b", ALL, 1).unwrap().header.id.sequence, 4);
    }

    fn a_range_is_what_its_exporter_has_passed_of_that_time_and_goes_on_after_a_restart(site) {
        let routes = [("a", ALL), ("slow", ALL)];
        let spool = open(site, &routes, KEEP);
        for sequence in 1..=5 {
            commit_at(&spool, sequence, sequence * 100, sequence * 100 + 99);
        }
        begin(&spool, "a", None, None);
        assert_eq!(send_all(&spool, "a"), [0; 0], "all of it comes by itself");
        assert_eq!(spool.pass("a", ALL), 5);
        begin(&spool, "a", Some(250), Some(450));
        let first = again(&spool, "a").unwrap();
        assert_eq!((first.work.header.id.sequence, first.work.first.least()), (2, 0));
        let step = ReplayStep {
            next: first.work.number,
            request: 3,
            fingerprint: 1,
            items: spans(2),
            refused: spans(1),
            ..ReplayStep::default()
        };
        note(&spool, "a", &first, step);
        spool.close();
        let spool = open(site, &routes, KEEP);
        let first = again(&spool, "a").unwrap();
        assert_eq!((first.work.header.id.sequence, first.work.first.least()), (2, 3));
        let other_cut = spool.wait(spool.store.replays().next_again("a".into(), ALL, 2)).unwrap();
        assert_eq!(other_cut.work.first.least(), 0, "under another cut the number means nothing");
        assert_eq!(send_all(&spool, "a"), [2, 3, 4]);
        assert_eq!((view(&spool).items.spans, view(&spool).refused.spans), (17, 1));
        assert_eq!(spool.pass("slow", ALL), 5, "what another exporter has to do stays");
    }

    fn a_signal_that_its_exporter_has_not_passed_comes_by_itself(site) {
        let traces = SignalSet::default().with(Signal::Traces);
        let logs = SignalSet::default().with(Signal::Logs);
        let spool = open(site, &[("a", traces), ("b", logs)], KEEP);
        spool.commit(1, spans(3) + Counts::of(Signal::Logs, 2));
        assert_eq!(spool.pass("a", traces), 1);
        spool.close();
        let spool = open(site, &[("a", traces), ("b", logs), ("new", ALL)], KEEP);
        begin(&spool, "new", None, None);
        let next = again(&spool, "new").unwrap();
        assert_eq!(next.work.first.signals(), traces, "logs still wait for it");
        assert_eq!(view(&spool).total_items.spans, 3);
        assert_eq!(view(&spool).total_items.log_records, 0);
    }

    fn the_oldest_go_when_it_is_too_much_or_too_old_and_a_replay_says_so(site) {
        let size = segment(1, spans(5), 0).1.len() as u64;
        let three = Keep { bytes: 3 * size + 10, ..KEEP };
        let spool = open(site, &[("a", ALL)], three);
        for sequence in 1..=5 {
            commit_at(&spool, sequence, sequence, sequence);
        }
        assert_eq!(spool.pass("a", ALL), 5);
        spool.sweep();
        spool.wait(spool.store.upkeep().trim_kept());
        assert!(spool.overview().kept_bytes <= 3 * size + 10);
        begin(&spool, "a", None, None);
        assert_eq!(send_all(&spool, "a"), [3, 4, 5]);
        assert_eq!((view(&spool).missing_segments, view(&spool).total_segments), (2, 3));
        spool.close();
        // It makes room for what is still to be exported, and refuses nothing.
        let max_bytes = 3 * size;
        let spool = site.open_at("svalbard", Settings { max_bytes, keep: three, ..settings(&site.dir, &[("a", ALL)]) });
        spool.commit(6, spans(5));
        spool.wait(spool.store.upkeep().trim_kept());
        assert!(spool.overview().kept_bytes + spool.usage() <= max_bytes);
        assert!(!spool.store.status().borrow().full);
        begin(&spool, "a", None, None);
        assert_eq!(send_all(&spool, "a").last(), Some(&5));
        spool.close();
        let spool = open(site, &[("a", ALL)], Keep { nano: 1, ..KEEP });
        spool.wait(spool.store.upkeep().trim_kept());
        assert_eq!(spool.overview().kept_bytes, 0);
        spool.close();
        let spool = open(site, &[("a", ALL)], Keep::OFF);
        assert_eq!(spool.pass("a", ALL), 1);
        spool.sweep();
        assert_eq!(spool.overview().kept_bytes, 0, "by default nothing is kept");
    }

    fn what_others_depended_on_stays_as_long_as_a_kept_segment_needs_it(site) {
        let first = seal(1, None);
        let (second, third) = (seal(2, Some(&first)), leaf(3, Some(&first)));
        let spool = open(site, &[("a", ALL)], KEEP);
        for sealed in [&first, &second, &third] {
            assert_eq!(spool.apply(&[of_sealed(sealed)]), [Applied::New]);
        }
        assert_eq!(spool.pass("a", ALL), 3);
        spool.sweep();
        // The satellite needs none of them any more.
        spool.hello_of_bases(None);
        spool.commit(4, spans(1));
        spool.pass("a", ALL);
        spool.sweep();
        let view = spool.overview();
        assert_eq!((view.bases, view.base_bytes, view.used_bytes), (1, 0, 0), "it counts as kept");
        begin(&spool, "a", None, None);
        for sequence in 1..=3 {
            let next = again(&spool, "a").unwrap();
            assert_eq!(names_in(next.work.requests().unwrap()), expected(sequence));
            send(&spool, "a", &next);
        }
        spool.close();
        let spool = open(site, &[("a", ALL)], Keep { nano: 1, ..KEEP });
        // The store does it by itself too, and may be at it.
        let gone = || {
            spool.wait(spool.store.upkeep().trim_kept());
            let view = spool.overview();
            (view.bases, view.kept_bytes) == (0, 0)
        };
        assert!((0..10_000).any(|_| gone()));
    }

    fn what_another_ledger_has_acknowledged_too_is_counted_once(site) {
        let spool = open(site, &[("a", ALL)], Keep::OFF);
        for sequence in [1, 2, 3, 7] {
            spool.commit(sequence, spans(1));
        }
        let own = u64::from_str_radix(&spool.overview().ledger, 16).unwrap();
        let acknowledged = |ledger, start, end| link::Acknowledged {
            ledger,
            sequences: vec![link::Range { start, end }],
            ..link::Acknowledged::default()
        };
        let hello = |spool: &Subject<'_>, acknowledged: Vec<link::Acknowledged>| {
            let lane = link::Lane { lane: 8, next_sequence: 8, acknowledged, ..link::Lane::default() };
            let epoch = link::Epoch { epoch: EPOCH, lanes: vec![lane], ..link::Epoch::default() };
            let hello = link::Hello { epochs: vec![epoch], ..link::Hello::default() };
            let before = spool.account().handover_twice;
            let answer = spool.wait(spool.store.intake().ledger("sat-1".into(), Arc::new(hello)));
            let counted = spool.account().handover_twice;
            assert_eq!(answer.handover_twice, counted - before, "for the record of the pass");
            assert_eq!(spool.wait(spool.store.views().satellites())[0].handover_twice, counted);
            counted
        };
        assert_eq!(hello(&spool, vec![acknowledged(own, 1, 4)]), 0, "it is this ledger");
        assert_eq!(hello(&spool, vec![acknowledged(own ^ 1, 4, 7)]), 0, "only the other one has those");
        assert_eq!(hello(&spool, vec![acknowledged(own ^ 1, 3, 7), acknowledged(own ^ 2, 2, 4)]), 2);
        spool.close();
        let spool = open(site, &[("a", ALL)], Keep::OFF);
        assert_eq!(hello(&spool, vec![acknowledged(own ^ 1, 2, 8)]), 3, "one more, and none again");
        assert_eq!(hello(&spool, Vec::new()), 3);
        assert_eq!(hello(&spool, vec![acknowledged(own ^ 1, 0, u64::MAX)]), 4, "what does not exist is not looked for");
        assert_eq!(spool.account().duplicates, 0);
    }

    fn a_replay_can_be_ended_and_a_name_that_is_not_there_is_said(site) {
        let spool = open(site, &[("a", ALL)], KEEP);
        spool.commit(1, spans(5));
        spool.pass("a", ALL);
        let id = begin(&spool, "a", None, None);
        assert!(again(&spool, "a").is_some());
        assert!(spool.wait(spool.store.replays().cancel_range(id)));
        assert!(!spool.wait(spool.store.replays().cancel_range(id)));
        assert_eq!(view(&spool).state, "cancelled");
        let next = begin(&spool, "a", None, None);
        assert!(next > id);
        assert_eq!(send_all(&spool, "a"), [1]);
        for (exporter, satellite) in [("nobody", None), ("a", Some("sat-9".to_owned()))] {
            let wanted = ReplayWanted { exporter: exporter.to_owned(), satellite, ..ReplayWanted::default() };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let refused = runtime.block_on(spool.store.replays().replay_range(wanted));
            assert!(matches!(refused, Err(SpoolError::Unknown(_))));
        }
    }

    fn prop_replays_leave_every_count_and_every_cursor_as_it_is(site) {
        let runner = proptest::test_runner::Config { cases: 8, failure_persistence: None, ..Default::default() };
        let mut runner = proptest::test_runner::TestRunner::new(runner);
        let dates = std::cell::Cell::new(0);
        runner.run(&proptest::collection::vec(deeds(), 1..24), |deeds| {
            dates.set(dates.get() + 1);
            follow(site, dates.get() * 1000, &deeds);
            Ok(())
        }).unwrap();
    }
}

#[derive(Debug, Clone, Copy)]
enum Deed {
    Commit,
    Pass(bool),
    Replay(bool),
    SendAgain(bool),
    Trim,
    Restart,
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => Just(Deed::Commit),
        3 => any::<bool>().prop_map(Deed::Pass),
        2 => any::<bool>().prop_map(Deed::Replay),
        3 => any::<bool>().prop_map(Deed::SendAgain),
        1 => Just(Deed::Trim),
        1 => Just(Deed::Restart),
    ]
}

/// Sequences from `base` on. Each exporter is handed every segment once, whatever is replayed; a replay sends what was passed when it
/// was asked for, each segment once and in order.
fn follow(site: &Site, base: u64, deeds: &[Deed]) {
    let routes = [("a", ALL), ("b", ALL)];
    let name = |b: bool| if b { "b" } else { "a" };
    let mut spool = open(site, &routes, KEEP);
    let (mut committed, mut passed, mut sent) = (0, [0u64; 2], 0u64);
    spool.commit(base, spans(1));
    for exporter in ["a", "b"] {
        while let Some(work) = spool.next(exporter, ALL, 1) {
            spool.progress(exporter, &done(work.place));
        }
        send_all(&spool, exporter);
    }
    let before = spool.account();
    for deed in deeds {
        match *deed {
            Deed::Commit => {
                committed += 1;
                assert_eq!(spool.commit(base + committed, spans(1)), Applied::New);
            }
            Deed::Pass(b) => {
                if let Some(work) = spool.next(name(b), ALL, 1) {
                    passed[usize::from(b)] += 1;
                    assert_eq!(work.header.id.sequence, base + passed[usize::from(b)]);
                    spool.progress(name(b), &done(work.place));
                }
            }
            Deed::Replay(b) => {
                begin(&spool, name(b), None, None);
                // What earlier cases have left is kept too.
                assert!(view(&spool).total_segments > passed[usize::from(b)], "what was passed is among it");
            }
            Deed::SendAgain(b) => {
                if let Some(next) = again(&spool, name(b)) {
                    let sequence = next.work.header.id.sequence;
                    assert!(sequence <= base + passed[usize::from(b)], "only what was passed");
                    send(&spool, name(b), &next);
                    sent += 1;
                }
            }
            Deed::Trim => {
                spool.sweep();
                spool.wait(spool.store.upkeep().trim_kept());
            }
            Deed::Restart => {
                spool.close();
                spool = open(site, &routes, KEEP);
            }
        }
    }
    let account = spool.account();
    assert_eq!(account.replayed.spans - before.replayed.spans, sent);
    assert_eq!(account.committed.spans - before.committed.spans, committed);
    let exported = passed[0].min(passed[1]);
    assert_eq!(account.exported.spans - before.exported.spans, exported);
    assert_eq!(account.in_spool.spans, committed - exported);
    spool.close();
}
