//! The log with lanes: what is split, what each lane holds back, drops, and what a restart must not change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use perigee_proto::link::DropReason;
use perigee_shared::link::Slot;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::otlp::walk::walk;
use perigee_shared::segment::{self, Codec, Decoder, Header, Lane, SegmentId};
use perigee_shared::signal::{Counts, Signal};
use proptest::prelude::*;
use prost::Message as _;
use redb::ReadableTable;

use super::tests::{ALL, Bench, LINK, assert_adds_up, logs};
use super::*;
use crate::lanes::{Order, Policy, QuotaPolicy, RuleConfig, Rules, Severity};

const ALARMS: Lane = Lane(1);
const NOTES: Lane = Lane(9);
const INFO: i32 = 9;
const ERROR: i32 = 17;

/// A request of log records, each a time that names it and a severity.
pub(super) fn request(records: &[(u64, i32)]) -> Accepted {
    let record = |(time, severity): &(u64, i32)| LogRecord {
        time_unix_nano: *time,
        severity_number: *severity,
        ..LogRecord::default()
    };
    let log_records = records.iter().map(record).collect();
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    let walked = walk(Signal::Logs, &body).unwrap();
    Accepted { signal: Signal::Logs, body: Bytes::from(body), walked }
}

/// Log records of these severities and above go into these lanes.
fn rules(lanes: &[(Lane, Severity)]) -> Arc<Rules> {
    let rule = |(lane, least): &(Lane, Severity)| {
        (*lane, RuleConfig { severity: Some(*least), ..Default::default() })
    };
    Arc::new(Rules::try_new(lanes.iter().map(rule).collect()).unwrap())
}

/// Errors and above go into lane 1.
pub(super) fn alarms() -> Lanes {
    Lanes { rules: rules(&[(ALARMS, Severity::Error)]), ..Lanes::default() }
}

fn with_alarms(policy: Policy) -> Bench {
    let mut bench = Bench::new();
    bench.config.lanes = Lanes {
        rules: rules(&[(ALARMS, Severity::Error)]),
        policies: [(ALARMS, policy)].into(),
        ..Lanes::default()
    };
    bench
}

fn seal_at(wal: &mut Wal, lane: Lane, now: u64) -> Option<Header> {
    let batch = wal.segments().take_batch(lane, ALL, true).unwrap()?;
    Some(
        wal.segments()
            .commit(batch.seal(&Encoding { codec: Codec::ZstdRows, ..Encoding::default() }, now).unwrap())
            .unwrap(),
    )
}

fn seal(wal: &mut Wal, lane: Lane) -> Option<Header> {
    seal_at(wal, lane, 7)
}

/// The times of all records in a segment.
fn times(wal: &mut Wal, header: &Header) -> Vec<u64> {
    let payload = wal.custody().payload(header).unwrap().unwrap();
    let mut out = Vec::new();
    for request in Decoder::new(header, &payload, None).unwrap() {
        let request = ExportLogsServiceRequest::decode(request.unwrap().body).unwrap();
        let scopes = request.resource_logs.iter().flat_map(|r| &r.scope_logs);
        out.extend(scopes.flat_map(|s| &s.log_records).map(|l| l.time_unix_nano));
    }
    out
}

fn groups(wal: &mut Wal) -> usize {
    wal.read(|txn, _| {
        let journal = txn.open_table(tables::JOURNAL)?;
        let mut groups = 0;
        for entry in journal.iter()? {
            groups += usize::from(entry?.0.value().piece == 0);
        }
        Ok(groups)
    })
    .unwrap()
}

#[test]
fn a_request_is_split_while_it_is_sealed_and_each_lane_keeps_a_position_of_its_own() {
    let bench = with_alarms(Policy::default());
    let mut wal = bench.open();
    wal.journal().append(&[request(&[(1, INFO), (2, ERROR), (3, INFO)]), request(&[(4, ERROR)])]).unwrap();
    wal.journal().append(&[request(&[(5, INFO)])]).unwrap();
    let waiting: Vec<(Lane, u64)> = wal.segments().unsealed().iter().map(|u| (u.lane, u.items)).collect();
    assert_eq!(waiting, [(ALARMS, 2), (Lane::BULK, 3)]);
    let alarms = seal(&mut wal, ALARMS).unwrap();
    assert_eq!((alarms.items, alarms.requests, alarms.id.lane), (logs(2), 2, ALARMS));
    assert_eq!((alarms.time.start, alarms.time.end), (2, 4));
    assert_eq!(times(&mut wal, &alarms), [2, 4]);
    assert_eq!(wal.summary().in_journal, logs(3));
    assert_adds_up(&wal);
    drop(wal);

    let mut wal = bench.open();
    assert_adds_up(&wal);
    assert_eq!(seal(&mut wal, ALARMS), None, "it has passed them");
    let bulk = seal(&mut wal, Lane::BULK).unwrap();
    assert_eq!(times(&mut wal, &bulk), [1, 3, 5]);
    assert_eq!((wal.segments().unsealed().len(), wal.summary().in_journal), (0, Counts::ZERO));
    assert_adds_up(&wal);
}

#[test]
fn groups_leave_the_journal_when_every_lane_that_has_something_in_them_has_passed() {
    let bench = with_alarms(Policy::default());
    let mut wal = bench.open();
    wal.journal().append(&[request(&[(1, INFO), (2, ERROR)])]).unwrap();
    for n in 0..300 {
        wal.journal().append(&[request(&[(n, INFO)])]).unwrap();
    }
    let held =
        |wal: &mut Wal| wal.segments().unsealed().iter().map(|u| (u.lane, u.held_back)).collect::<Vec<_>>();
    let both = held(&mut wal);
    assert_eq!((both[0].0, both[0].1), (ALARMS, both[1].1), "an alarm holds back what came after it too");
    seal(&mut wal, Lane::BULK).unwrap();
    assert_eq!(groups(&mut wal), 301, "the alarm in the first still needs it");
    assert_eq!(held(&mut wal), [both[0]]);
    seal(&mut wal, ALARMS).unwrap();
    assert_eq!((groups(&mut wal), held(&mut wal).len()), (0, 0));
    assert_eq!(wal.summary().stored_bytes, wal.summary().segment_bytes);
    assert_adds_up(&wal);
}

#[test]
fn rules_hold_for_the_groups_that_come_after_them() {
    let mut bench = with_alarms(Policy::default());
    let mut wal = bench.open();
    wal.journal().append(&[request(&[(1, INFO), (2, ERROR)])]).unwrap();
    drop(wal);
    bench.config.lanes = Lanes { rules: rules(&[(NOTES, Severity::Info)]), ..Lanes::default() };
    let mut wal = bench.open();
    wal.journal().append(&[request(&[(3, INFO), (4, ERROR)])]).unwrap();
    let alarms = seal(&mut wal, ALARMS).unwrap();
    assert_eq!(times(&mut wal, &alarms), [2], "as it was when it came");
    drop(wal);
    bench.config.lanes = Lanes::default();
    let mut wal = bench.open();
    wal.journal().append(&[request(&[(5, ERROR)])]).unwrap();
    assert_adds_up(&wal);
    // What came before and after a start lies in segments of its own.
    for expected in [1, 5] {
        let bulk = seal(&mut wal, Lane::BULK).unwrap();
        assert_eq!(times(&mut wal, &bulk), [expected]);
    }
    let notes = seal(&mut wal, NOTES).unwrap();
    assert_eq!(times(&mut wal, &notes), [3, 4]);
    assert_adds_up(&wal);
}

#[test]
fn the_format_rises_with_the_first_thing_that_needs_it() {
    let mut bench = Bench::new();
    let format = |wal: &mut Wal| {
        wal.read(|txn, _| Ok(tables::number(&txn.open_table(tables::META)?, tables::META_FORMAT)?))
            .unwrap()
            .unwrap()
    };
    let mut wal = bench.open();
    assert_eq!(format(&mut wal), tables::FIRST_FORMAT);
    wal.journal().append(&[request(&[(1, ERROR)])]).unwrap();
    assert_eq!(format(&mut wal), tables::FRONT_FORMAT);
    drop(wal);
    let rules = with_alarms(Policy::default()).config.lanes;
    let mut empty = Bench::new();
    empty.config.lanes = rules.clone();
    assert_eq!(format(&mut empty.open()), tables::RULES_FORMAT);
    bench.config.lanes = rules;
    let mut wal = bench.open();
    assert_eq!(format(&mut wal), tables::FRONT_FORMAT, "it never falls");
    let bulk = seal(&mut wal, Lane::BULK).unwrap();
    assert_eq!(times(&mut wal, &bulk), [1], "it came before the rules");
}

#[test]
fn a_lane_is_handed_out_in_its_order_without_what_was_taken_or_passed() {
    for (order, expected) in
        [(Order::OldestFirst, [2, 4, 5]), (Order::NewestFirst, [5, 4, 2]), (Order::EarliestExpiry, [2, 4, 5])]
    {
        let bench = with_alarms(Policy { order, ..Policy::default() });
        let mut wal = bench.open();
        for n in 1..=5 {
            wal.journal().append(&[request(&[(n, ERROR)])]).unwrap();
            seal_at(&mut wal, ALARMS, 100 - n).unwrap();
        }
        let passed = SegmentId { epoch: wal.summary().life.epoch, lane: ALARMS, sequence: 3 };
        wal.custody().mark_sent(Slot::FIRST, SegmentId { sequence: 5, ..passed });
        wal.custody().pass(LINK, &[Delivery { id: passed, refused: Counts::ZERO }]).unwrap();
        let taken: RangeSet = std::iter::once(1..2).collect();
        let consumer = LINK;
        let mut find = || wal.queues().to_ship(consumer, Slot::FIRST, ALARMS, &taken, 9).unwrap();
        assert!(
            find().headers.iter().all(|(_, fresh)| !fresh),
            "no ground has said that it knows no later state"
        );
        let view = GroundView { epoch: passed.epoch, ..GroundView::default() };
        wal.epochs().reconcile(consumer, Slot::FIRST, &view).unwrap();
        let found = wal.queues().to_ship(consumer, Slot::FIRST, ALARMS, &taken, 9).unwrap();
        let sequences: Vec<u64> = found.headers.iter().map(|(h, _)| h.id.sequence).collect();
        assert_eq!((sequences, found.more), (expected.to_vec(), false), "{order:?}");
        assert!(found.headers.iter().all(|(h, fresh)| *fresh == (h.id.sequence != 5)));
        let two = wal.queues().to_ship(consumer, Slot::FIRST, ALARMS, &taken, 2).unwrap();
        assert_eq!((two.headers.len(), two.more, two.looked.total()), (2, true, 2));
    }
}

#[test]
fn smaller_segments_and_those_of_which_the_ground_has_a_part_are_found_behind_larger_ones() {
    for (order, expected) in [(Order::OldestFirst, [1, 3, 4, 6]), (Order::NewestFirst, [6, 4, 3, 1])] {
        let bench = with_alarms(Policy { order, ..Policy::default() });
        let mut wal = bench.open();
        let mut sizes = Vec::new();
        for (n, records) in [(1, 1), (2, 300), (3, 1), (4, 300), (5, 300), (6, 1)] {
            let records: Vec<_> = (0..records).map(|at| (n * 1_000 + at * at, ERROR)).collect();
            wal.journal().append(&[request(&records)]).unwrap();
            sizes.push(seal_at(&mut wal, ALARMS, 7).unwrap().payload_len);
        }
        let small = sizes[0].max(sizes[2]).max(sizes[5]);
        assert!(sizes[1].min(sizes[3]).min(sizes[4]) > small, "{sizes:?}");
        let find = |wal: &mut Wal, bytes, taken: &[u64], most| {
            let smaller = Smaller { bytes, parts: std::iter::once(4..5).collect() };
            let taken = taken.iter().map(|n| *n..n + 1).collect();
            let slot = Slot::FIRST;
            let found = wal.queues().smaller_to_ship(LINK, slot, ALARMS, &taken, &smaller, most).unwrap();
            let sequences: Vec<u64> = found.headers.iter().map(|(h, _)| h.id.sequence).collect();
            assert_eq!(found.looked.total(), sequences.len() as u64, "larger ones may be asked for later");
            (sequences, found.more)
        };
        assert_eq!(find(&mut wal, small, &[], 9), (expected.to_vec(), false), "{order:?}");
        assert_eq!(find(&mut wal, small, &[], 2), (expected[..2].to_vec(), true));
        assert_eq!(find(&mut wal, 1, &[], 9), (vec![4], false));
        assert_eq!(find(&mut wal, 1, &[4], 9), (vec![], false));
    }
}

#[test]
fn what_waits_is_told_by_lane_sealed_or_not_and_the_same_after_a_restart() {
    let bench = with_alarms(Policy::default());
    let mut wal = bench.open();
    wal.journal().append(&[request(&[(1, INFO), (2, ERROR), (3, INFO)])]).unwrap();
    let alarms = seal_at(&mut wal, ALARMS, 77).unwrap();
    wal.journal().append(&[request(&[(4, ERROR)])]).unwrap();
    let told = |wal: &mut Wal| {
        let lanes = wal.passes().backlog().unwrap();
        lanes
            .into_iter()
            .map(|l| {
                assert!(l.since_unix_nano > 0);
                (l.lane, Counts::from(l.items.unwrap()), l.bytes)
            })
            .collect()
    };
    let before: Vec<_> = told(&mut wal);
    assert_eq!((before[0].0, before[0].1), (1, logs(2)), "one in a segment, one in the journal");
    assert!(before[0].2 > alarms.payload_len, "{before:?}");
    assert_eq!((before[1].0, before[1].1), (8, logs(2)));
    assert!(wal.passes().oldest().unwrap().is_some());
    drop(wal);
    let mut wal = bench.open();
    assert_eq!(told(&mut wal), before);
    wal.custody().pass(LINK, &[Delivery { id: alarms.id, refused: Counts::ZERO }]).unwrap();
    let after: Vec<_> = told(&mut wal);
    assert_eq!((after[0].1, after[0].2), (logs(1), before[0].2 - alarms.payload_len));
}

#[test]
fn a_quota_drops_the_oldest_or_the_newest_of_its_lane_alone() {
    for (when_full, left, reason) in [
        (QuotaPolicy::DropOldest, [4, 5], DropReason::QuotaOldest),
        (QuotaPolicy::DropNewest, [1, 2], DropReason::QuotaNewest),
    ] {
        let mut bench = with_alarms(Policy::default());
        let mut wal = bench.open();
        let one = |n| request(&[(n, ERROR), (n, INFO)]);
        wal.journal().append(&[one(1)]).unwrap();
        let size = seal(&mut wal, ALARMS).unwrap().payload_len;
        drop(wal);
        let quota = Some(size * 2 + size / 2);
        bench.config.lanes.policies = [(ALARMS, Policy { quota, when_full, ..Policy::default() })].into();
        let mut wal = bench.open();
        for n in 2..=5 {
            wal.journal().append(&[one(n)]).unwrap();
            seal(&mut wal, ALARMS).unwrap();
            assert_adds_up(&wal);
        }
        seal(&mut wal, Lane::BULK).unwrap();
        let consumer = LINK;
        let found = wal.queues().to_ship(consumer, Slot::FIRST, ALARMS, &RangeSet::default(), 9).unwrap();
        let sequences: Vec<u64> = found.headers.iter().map(|(h, _)| h.id.sequence).collect();
        assert_eq!(sequences, left, "{when_full:?}");
        let summary = wal.summary();
        assert_eq!(summary.dropped, [(reason, logs(3))]);
        assert_eq!(summary.lanes[1].segments, 1, "bulk has no quota");
        let drops = wal.epochs().hello("a").unwrap().pop().unwrap().drops;
        // The segment from before the restart may have been on a wire, so it has a record of its own.
        assert!(drops.len() <= 2, "drops that touch are one record: {drops:?}");
        assert!(drops.iter().all(|d| d.lane == u32::from(ALARMS.0)));
        assert_adds_up(&wal);
    }
}

#[test]
fn a_segment_whose_lifetime_is_over_is_dropped_and_the_next_end_is_known() {
    let bench = with_alarms(Policy { lifetime: Some(Duration::from_secs(1000)), ..Policy::default() });
    let mut wal = bench.open();
    // Whatever the wall clock said when it was sealed.
    for (n, sealed) in [(1, 0), (2, u64::MAX)] {
        wal.journal().append(&[request(&[(n, ERROR), (n, INFO)])]).unwrap();
        seal_at(&mut wal, ALARMS, sealed).unwrap();
    }
    seal_at(&mut wal, Lane::BULK, 0).unwrap();
    // The clock of the test goes on by a second at each look, wherever the log is opened.
    let first = wal.queues().expire().unwrap().unwrap();
    assert!((900..1000).contains(&first.as_secs()), "{first:?}");
    assert!(wal.queues().expire().unwrap().unwrap() < first);
    while wal.summary().dropped.is_empty() {
        wal.queues().expire().unwrap();
    }
    assert_eq!(wal.summary().dropped, [(DropReason::Lifetime, logs(1))]);
    wal.journal().append(&[request(&[(3, ERROR)])]).unwrap();
    seal_at(&mut wal, ALARMS, 0).unwrap();
    while wal.summary().dropped == [(DropReason::Lifetime, logs(1))] {
        wal.queues().expire().unwrap();
    }
    let left = wal.queues().expire().unwrap().unwrap();
    assert!((900..1000).contains(&left.as_secs()), "{left:?}");
    assert_eq!(wal.summary().dropped, [(DropReason::Lifetime, logs(2))]);
    assert_eq!(wal.summary().in_segments, logs(3), "bulk has no lifetime");
    assert_adds_up(&wal);
}

#[test]
fn a_power_cut_at_any_write_splits_as_before_and_the_counts_add_up() {
    let mut cuts = 0;
    for cut in (0..).step_by(5) {
        let bench = with_alarms(Policy { quota: Some(200), ..Policy::default() });
        let mut wal = bench.open();
        bench.disk.power_off_after(cut);
        let (promised, finished) = work(&mut wal);
        drop(wal);
        bench.disk.restart_torn(cut);
        let mut wal = bench.open();
        assert!(wal.summary().accepted.total() >= promised, "cut at {cut}");
        assert_adds_up(&wal);
        for lane in [ALARMS, Lane::BULK] {
            seal(&mut wal, lane);
            assert_adds_up(&wal);
        }
        assert_eq!(wal.summary().in_journal, Counts::ZERO, "cut at {cut}");
        cuts += 1;
        if finished {
            break;
        }
    }
    assert!(cuts > 20, "{cuts}");
}

/// Appends and seals; returns the items that were promised and whether it came to its end.
fn work(wal: &mut Wal) -> (u64, bool) {
    let mut promised = 0;
    let result = (|| -> Result<(), WalError> {
        for round in 0..8 {
            for n in 0..3 {
                wal.journal().append(&[request(&[(round * 10 + n, INFO), (round * 10 + n, ERROR)])])?;
                promised += 2;
            }
            let lane = if round % 3 == 0 { Lane::BULK } else { ALARMS };
            if let Some(batch) = wal.segments().take_batch(lane, ALL, true)? {
                wal.segments().commit(
                    batch.seal(&Encoding { codec: Codec::ZstdRows, ..Encoding::default() }, 7).unwrap(),
                )?;
            }
        }
        Ok(())
    })();
    (promised, result.is_ok())
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<i32>),
    Seal(Lane),
    Restart,
    Rules(Vec<(Lane, Severity)>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let severities = prop::collection::vec(prop::sample::select(vec![5, INFO, 13, ERROR]), 1..6);
    let lanes = || prop::sample::select(vec![ALARMS, Lane::BULK, NOTES]);
    let least = prop::sample::select(vec![Severity::Info, Severity::Warn, Severity::Error]);
    let rule = (prop::sample::select(vec![ALARMS, NOTES]), least);
    let step = prop_oneof![
        5 => severities.prop_map(Step::Append),
        3 => lanes().prop_map(Step::Seal),
        1 => Just(Step::Restart),
        1 => prop::collection::vec(rule, 0..3).prop_map(Step::Rules),
    ];
    prop::collection::vec(step, 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn prop_every_item_is_sealed_once_in_the_lane_that_the_rules_of_its_time_name(steps in steps()) {
        let mut bench = Bench::new();
        let mut wal = bench.open();
        let mut current: Vec<(Lane, Severity)> = Vec::new();
        let mut expected: BTreeMap<u64, Lane> = BTreeMap::new();
        let mut sealed: Vec<Header> = Vec::new();
        for step in steps {
            match step {
                Step::Append(severities) => {
                    let records: Vec<_> = (expected.len() as u64 + 1..).zip(severities).collect();
                    for (time, severity) in &records {
                        let takes = |(_, least): &&(Lane, Severity)| *severity >= *least as i32;
                        let lane = current.iter().filter(takes).map(|(lane, _)| *lane).min();
                        expected.insert(*time, lane.unwrap_or(Lane::BULK));
                    }
                    wal.journal().append(&[request(&records)]).unwrap();
                }
                Step::Seal(lane) => sealed.extend(seal(&mut wal, lane)),
                Step::Restart => {
                    drop(wal);
                    wal = bench.open();
                }
                Step::Rules(new) => {
                    drop(wal);
                    bench.config.lanes = Lanes { rules: rules(&new), ..Lanes::default() };
                    current = new;
                    wal = bench.open();
                }
            }
            assert_adds_up(&wal);
        }
        while let Some(waiting) = wal.segments().unsealed().first().copied() {
            sealed.extend(seal(&mut wal, waiting.lane));
        }
        let mut found: BTreeMap<u64, Lane> = BTreeMap::new();
        for header in &sealed {
            for time in times(&mut wal, header) {
                prop_assert!(found.insert(time, header.id.lane).is_none(), "{time} twice");
            }
        }
        prop_assert_eq!(found, expected);
        assert_adds_up(&wal);
    }
}

#[test]
fn a_segment_that_is_under_way_in_one_slot_is_not_handed_out_to_the_other() {
    let bench = with_alarms(Policy::default());
    let mut wal = bench.open();
    for n in 1..=4 {
        wal.journal().append(&[request(&[(n, ERROR)])]).unwrap();
        seal_at(&mut wal, ALARMS, n).unwrap();
    }
    let slots: Vec<Slot> = Slot::first(2).collect();
    for (slot, station) in slots.iter().zip(["svalbard", "kiruna"]) {
        wal.bases().greets(*slot, station);
    }
    let found = |wal: &mut Wal, slot| {
        let found = wal.queues().to_ship(LINK, slot, ALARMS, &RangeSet::default(), 2).unwrap();
        (found.headers.iter().map(|(h, _)| h.id.sequence).collect::<Vec<_>>(), found.more, found.elsewhere)
    };
    let headers = wal.custody().waiting(LINK, ALARMS, 0, 9).unwrap();
    let begin = |wal: &mut Wal, slot, n: usize| wal.recoding().begin_sending(slot, &headers[n]).unwrap();
    assert_eq!(found(&mut wal, slots[1]), (vec![1, 2], true, false));
    assert!(matches!(begin(&mut wal, slots[0], 0), Sending::Payload(..)));
    // It asked before the other one began.
    assert!(matches!(begin(&mut wal, slots[1], 0), Sending::Elsewhere));
    assert!(matches!(begin(&mut wal, slots[1], 1), Sending::Payload(..)));
    assert_eq!(found(&mut wal, slots[1]), (vec![2, 3], true, true));
    assert_eq!(found(&mut wal, slots[0]), (vec![1, 3], true, true));
    // The station in the first slot has a ledger of its own and has not named it: it is not believed to have 2.
    assert_eq!(wal.epochs().committed(LINK, slots[0], &[headers[1].id]).unwrap(), 0);
    assert_eq!(wal.epochs().committed(LINK, slots[1], &[headers[1].id]).unwrap(), 1);
    assert_eq!(found(&mut wal, slots[0]), (vec![1, 3], true, false));
    // What one gives up, and what the end of its connection leaves, the other may have.
    assert!(matches!(begin(&mut wal, slots[0], 2), Sending::Payload(..)));
    wal.recoding().give_up_sending(slots[1], headers[2].id);
    assert_eq!(found(&mut wal, slots[1]), (vec![4], false, true), "it was not its own");
    wal.recoding().give_up_sending(slots[0], headers[2].id);
    assert_eq!(found(&mut wal, slots[1]), (vec![3, 4], false, true));
    wal.recoding().end_sending(slots[0]);
    assert_eq!(found(&mut wal, slots[1]), (vec![1, 3], true, false));
    assert_adds_up(&wal);
}

#[test]
fn two_stations_that_share_a_ledger_are_believed_what_either_was_sent() {
    let bench = with_alarms(Policy::default());
    let mut wal = bench.open();
    for n in 1..=2 {
        wal.journal().append(&[request(&[(n, ERROR)])]).unwrap();
        seal_at(&mut wal, ALARMS, n).unwrap();
    }
    let slots: Vec<Slot> = Slot::first(2).collect();
    let headers = wal.custody().waiting(LINK, ALARMS, 0, 9).unwrap();
    let epoch = wal.summary().life.epoch;
    for (slot, station) in slots.iter().zip(["svalbard", "kiruna"]) {
        wal.bases().greets(*slot, station);
        let view = GroundView { ledger: 7, epoch, ..GroundView::default() };
        wal.epochs().reconcile(LINK, *slot, &view).unwrap();
    }
    assert!(matches!(wal.recoding().begin_sending(slots[0], &headers[0]).unwrap(), Sending::Payload(..)));
    let (committed, tops) = (std::iter::once(1..2).collect(), vec![(1, headers[0].hash)]);
    let lanes = vec![GroundLane { committed, tops, ..GroundLane::new(ALARMS) }];
    let view = GroundView { ledger: 7, epoch, lanes, ..GroundView::default() };
    let reconciled = wal.epochs().reconcile(LINK, slots[1], &view).unwrap();
    assert!(matches!(reconciled, Reconciled::Believed { deleted: 1, .. }), "{reconciled:?}");
    // The acknowledgement in the first slot comes behind it.
    assert_eq!(wal.epochs().committed(LINK, slots[0], &[headers[0].id]).unwrap(), 0);
    assert_adds_up(&wal);
}

#[test]
fn a_segment_says_whether_it_has_waited_for_a_contact() {
    let bench = with_alarms(Policy::default());
    let mut wal = bench.open();
    let said = |wal: &mut Wal, header: &Header| match wal.recoding().begin_sending(Slot::FIRST, header) {
        Ok(Sending::Payload(_, delivery, _)) => delivery,
        other => panic!("{other:?}"),
    };
    let append = |wal: &mut Wal, n| wal.journal().append(&[request(&[(n, INFO), (n, ERROR)])]).unwrap();
    append(&mut wal, 1);
    let sealed_before = seal(&mut wal, ALARMS).unwrap();
    wal.recoding().contact_opens();
    wal.bases().greets(Slot::FIRST, "svalbard");
    append(&mut wal, 2);
    let mixed = seal(&mut wal, Lane::BULK).unwrap();
    let alarm = seal(&mut wal, ALARMS).unwrap();
    assert_eq!(said(&mut wal, &sealed_before), segment::Delivery::Stored);
    assert_eq!(said(&mut wal, &mixed), segment::Delivery::Stored, "one item of it has waited");
    assert_eq!(said(&mut wal, &alarm), segment::Delivery::Live);
    assert_eq!(alarm.delivery, None, "it is said when it is sent, not kept");
    wal.recoding().end_sending(Slot::FIRST);
    wal.recoding().contact_opens();
    assert_eq!(said(&mut wal, &alarm), segment::Delivery::Stored, "it waits for the next contact");
}
