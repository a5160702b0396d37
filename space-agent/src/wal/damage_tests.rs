//! The log on disks that lose, change and take back what was written to them.

use perigee_proto::link::{self, DropReason};
use perigee_shared::link::Slot;
use perigee_shared::segment::Lane;
use perigee_shared::signal::Counts;
use perigee_shared::store::StoreError;
use simdisk::{Fault, Operation, Trouble};

use super::mirror_tests::lines;
use super::salvage_tests::MAY_REPEAT;
use super::tests::{Bench, LINK, assert_adds_up, logs, request, seal};
use super::*;

/// The items of all drops that the log reports, over all epochs, and whether that number is a lower bound.
pub(super) fn told(wal: &mut Wal) -> (Counts, bool) {
    let drops: Vec<link::Drop> = wal.epochs().hello("a").unwrap().into_iter().flat_map(|e| e.drops).collect();
    (
        drops.iter().map(|d| Counts::from(d.items.unwrap_or_default())).sum(),
        drops.iter().any(|d| d.counts_unknown),
    )
}

/// Items that can still be delivered.
pub(super) fn deliverable(wal: &mut Wal) -> Counts {
    while seal(wal).unwrap().is_some() {}
    let segments = wal.custody().segments(usize::MAX).unwrap();
    let whole = segments.iter().filter(|(r, _)| wal.custody().payload(&r.header).unwrap().is_some());
    whole.map(|(r, _)| r.header.items).sum()
}

#[test]
fn a_log_that_is_gone_or_empty_is_closed_with_what_lies_beside_it() {
    for empty in [false, true] {
        let bench = Bench::new();
        let mut wal = bench.open();
        for n in 0..4 {
            wal.journal().append(&[request(n, 5, 2_000)]).unwrap();
        }
        seal(&mut wal).unwrap();
        wal.journal().append(&[request(9, 5, 2_000)]).unwrap();
        let before = wal.summary();
        drop(wal);
        match empty {
            true => bench.disk.damage(&bench.file(), Vec::clear),
            false => bench.disk.env().store.remove(&bench.file()).unwrap(),
        }
        let mut wal = bench.open();
        let after = wal.summary();
        assert_eq!(after.life.start_counter, before.life.start_counter + 1, "the start counter goes on");
        assert_ne!(after.life.epoch, before.life.epoch);
        assert_eq!(told(&mut wal), (logs(20), true), "what was accepted since the last seal is not known");
        assert_eq!(after.dropped, [(DropReason::Corruption, logs(20))]);
        assert_adds_up(&wal);
    }
}

#[test]
fn a_log_that_is_gone_before_its_first_seal_is_noticed_too() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 5, 100)]).unwrap();
    drop(wal);
    bench.disk.env().store.remove(&bench.file()).unwrap();
    let mut wal = bench.open();
    assert_eq!((wal.summary().life.start_counter, told(&mut wal)), (2, (Counts::ZERO, true)));
}

#[test]
fn a_first_start_that_is_killed_half_way_is_no_damage() {
    for cut in 0.. {
        let bench = Bench::new();
        bench.disk.power_off_after(cut);
        let finished = bench.try_open().is_ok();
        bench.disk.restart_torn(cut);
        let mut wal = bench.open();
        assert!(wal.summary().life.start_counter <= 2, "cut at {cut}");
        assert_eq!(told(&mut wal).0, Counts::ZERO, "cut at {cut}");
        if finished {
            assert!(cut > 5, "a first start takes several writes, not {cut}");
            return;
        }
    }
}

#[test]
fn a_backup_of_the_log_gives_no_sequence_twice() {
    for detailed in [true, false] {
        let bench = Bench::new();
        let mut wal = bench.open();
        let mut backup = Vec::new();
        for n in 0..6 {
            wal.journal().append(&[request(n, 5, 2_000)]).unwrap();
            let id = seal(&mut wal).unwrap().unwrap().id;
            wal.custody().pass(LINK, &[Delivery::whole(id)]).unwrap();
            if n == 2 {
                backup = bench.disk.env().store.read(&bench.file()).unwrap();
            }
        }
        let before = wal.summary();
        wal.close().unwrap();
        bench.disk.damage(&bench.file(), |content| *content = backup);
        if !detailed {
            // As earlier software wrote it.
            let (env, path) = (bench.disk.env(), bench.config.directory.join("counters.json"));
            let mut mirror: serde_json::Value = perigee_shared::store::mirror::read(&env, &path).unwrap();
            mirror.as_object_mut().unwrap().retain(|key, _| key != "held" && key != "last_word");
            perigee_shared::store::mirror::write(&env, &path, &mirror).unwrap();
        }
        let mut wal = bench.try_open().unwrap();
        match detailed {
            true => assert_eq!(wal.take_quarantine(), None),
            false => assert!(wal.take_quarantine().unwrap().why.contains("older")),
        }
        assert_ne!(wal.summary().life.epoch, before.life.epoch);
        assert_eq!((wal.summary().accepted, wal.summary().delivered), (before.accepted, before.delivered));
        assert_adds_up(&wal);
    }
}

#[test]
fn another_satellites_log_is_put_aside() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 5, 100)]).unwrap();
    wal.close().unwrap();
    let other = WalConfig { satellite: Some("other".to_owned()), ..bench.config.clone() };
    let mut wal = Wal::open(other, bench.disk.env()).unwrap();
    assert!(wal.take_quarantine().unwrap().why.contains("satellite sat"));
    assert_eq!(wal.summary().accepted, Counts::ZERO, "its counts are not ours");
    assert_eq!(deliverable(&mut wal), Counts::ZERO);
}

#[test]
fn requests_that_were_refused_are_not_there_when_the_log_is_open_again() {
    for restart in [false, true] {
        for after in 0..2 {
            let bench = Bench::new();
            let mut wal = bench.open();
            wal.journal().append(&[request(1, 5, 100)]).unwrap();
            bench.disk.arm(Fault {
                operation: Operation::Sync,
                trouble: Trouble::InputOutput,
                after,
                times: 1,
                seed: 1,
            });
            let refused = wal.journal().append(&[request(2, 7, 100)]).is_err();
            bench.disk.heal();
            if restart {
                // Killed, not cut off from power: what was written is there.
                bench.disk.kill();
                wal = bench.open();
            }
            let expected = if refused { logs(5) } else { logs(12) };
            wal.journal().append(&[request(3, 1, 100)]).unwrap();
            assert_eq!(wal.summary().accepted, expected + logs(1), "restart {restart}, {after}");
            assert_eq!(deliverable(&mut wal), expected + logs(1));
            assert_adds_up(&wal);
        }
    }
}

#[test]
fn one_bad_page_costs_what_is_in_it_and_what_is_lost_is_counted() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..30 {
        wal.journal().append(&[request(n, 5, 6_000)]).unwrap();
        if n % 3 == 2 && n < 24 {
            seal(&mut wal).unwrap();
        }
    }
    assert_eq!(wal.summary().accepted, logs(150));
    wal.close().unwrap();
    let whole = bench.disk.env().store.read(&bench.file()).unwrap();
    let (mut pages, mut kept, mut bare) = (0, 0, 0);
    for at in (0..whole.len()).step_by(4096) {
        if whole[at..at + 4096].iter().all(|b| *b == 0) {
            continue;
        }
        let copy = Bench::new();
        let store = copy.disk.env().store;
        let mirror = bench.config.directory.join("counters.json");
        store.replace(&copy.file(), &whole).unwrap();
        store
            .replace(
                &copy.config.directory.join("counters.json"),
                &bench.disk.env().store.read(&mirror).unwrap(),
            )
            .unwrap();
        copy.disk.damage(&copy.file(), |content| content[at..at + 4096].fill(0));
        let mut wal = copy.try_open().unwrap();
        let there = deliverable(&mut wal);
        let (lost, unknown) = told(&mut wal);
        assert_adds_up(&wal);
        assert!(there + lost == logs(150) || unknown, "page {at}: {there:?} and {lost:?}");
        assert!(there.total() + lost.total() <= 150, "page {at}");
        (pages, kept, bare) = (pages + 1, kept + there.total(), bare + u32::from(there.total() == 0));
    }
    // The header, the list of tables, and lanes, consumers and cursors, which say what was delivered.
    assert!(bare <= 4, "{bare} pages of {pages} cost everything");
    assert!(kept > pages * 100, "of 150 items {} are kept on average over {pages} pages", kept / pages);
}

/// A log for each page of `content` that is not empty, opened with that page zeroed and `mirror` beside it.
fn each_page_lost(content: &[u8], mirror: &[u8]) -> Vec<(usize, Wal)> {
    let pages = (0..content.len()).step_by(4096);
    let used = pages.filter(|at| content[*at..at + 4096].iter().any(|b| *b != 0));
    let open = |at: usize| {
        let bench = Bench::new();
        bench.disk.put(&bench.file(), content.to_vec());
        bench.disk.put(&bench.config.directory.join("counters.json"), mirror.to_vec());
        bench.disk.damage(&bench.file(), |content| content[at..at + 4096].fill(0));
        // Its numbers are not those of the log that `content` is of.
        (0..3).for_each(|_| drop(bench.disk.env()));
        (at, bench.try_open().unwrap())
    };
    used.map(open).collect()
}

#[test]
fn what_is_in_a_seal_that_the_disk_took_back_is_not_sealed_again_out_of_a_damaged_log() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 5, 6_000)]).unwrap();
    seal(&mut wal).unwrap();
    for n in 2..5 {
        wal.journal().append(&[request(n, 7, 6_000)]).unwrap();
    }
    wal.journal().settle_front().unwrap();
    let before = bench.disk.content(&bench.file()).unwrap();
    assert_eq!(seal(&mut wal).unwrap().unwrap().id.sequence, 2);
    let epoch = wal.summary().life.epoch;
    let mirror = bench.disk.content(&bench.config.directory.join("counters.json")).unwrap();
    let (mut salvaged, mut named) = (0, 0);
    for (page, mut wal) in each_page_lost(&before, &mirror) {
        let there = deliverable(&mut wal);
        assert!(there == logs(5) || there == Counts::ZERO, "page {page}: {there:?}");
        assert_adds_up(&wal);
        let closed = wal.epochs().hello("a").unwrap().into_iter().find(|e| e.epoch == epoch).unwrap();
        if !closed.continued {
            continue;
        }
        let of_it = closed.drops.iter().find(|d| d.sequences == Some(link::Range { start: 2, end: 3 }));
        named += u32::from(of_it.is_some_and(|d| d.items == Some(logs(21).into()) && !d.counts_unknown));
        // Its number is not given again, under which the ground would have it for the other.
        wal.journal().append(&[request(9, 1, 100)]).unwrap();
        assert_eq!(seal(&mut wal).unwrap().unwrap().id.sequence, 3, "page {page}");
        salvaged += 1;
    }
    assert!(salvaged > 10 && named > salvaged / 2, "{named} of {salvaged} know what was in it");
}

#[test]
fn drops_whose_records_are_lost_are_told_all_the_same_unless_a_station_has_them() {
    let bench = Bench::new();
    let mut wal = bench.open();
    let stations = ["a".to_owned()];
    for n in 0..6 {
        wal.journal().append(&[request(n, 5, 6_000)]).unwrap();
        let header = seal(&mut wal).unwrap().unwrap();
        let reason = if n < 4 { DropReason::Lifetime } else { DropReason::QuotaOldest };
        wal.custody().drop_segments(vec![header], reason).unwrap();
        let epoch = wal.epochs().hello("a").unwrap().pop().unwrap().epoch;
        if n < 4 {
            let ack = link::DropsAck { epoch, ids: vec![n + 1], ..link::DropsAck::default() };
            wal.epochs().drops_acknowledged("a", &stations, &ack, None).unwrap();
        }
    }
    wal.journal().append(&[request(9, 5, 6_000)]).unwrap();
    seal(&mut wal).unwrap();
    wal.journal().settle_front().unwrap();
    let content = bench.disk.content(&bench.file()).unwrap();
    let mirror = bench.disk.content(&bench.config.directory.join("counters.json")).unwrap();
    let (mut salvaged, mut closed) = (0, 0);
    for (page, mut wal) in each_page_lost(&content, &mirror) {
        let epochs = wal.epochs().hello("a").unwrap();
        let is_salvaged = epochs.iter().any(|e| e.closed && e.continued);
        let drops: Vec<link::Drop> = epochs.into_iter().flat_map(|e| e.drops).collect();
        let of = |reason| -> Counts {
            let drops = drops.iter().filter(|d| d.reason() == reason);
            drops.map(|d| Counts::from(d.items.unwrap_or_default())).sum()
        };
        assert_eq!(of(DropReason::QuotaOldest), logs(10), "page {page}: {drops:?}");
        assert_eq!(of(DropReason::Lifetime), Counts::ZERO, "page {page}: {drops:?}");
        let again = drops.iter().find(|d| d.counts_unknown && d.reason() == DropReason::QuotaOldest);
        if let Some(again) = again {
            assert!(again.id > 6, "page {page}: the station may have the others");
            salvaged += u32::from(is_salvaged);
            closed += u32::from(!is_salvaged);
        }
    }
    assert_eq!(salvaged, 1, "one page has the records");
    assert!(closed > 0, "some pages cost the whole log");
}

#[test]
fn a_log_that_is_gone_gives_no_id_of_a_drop_again_that_a_station_may_have() {
    let bench = Bench::new();
    let mut wal = bench.open();
    let mut headers = Vec::new();
    for n in 0..3 {
        wal.journal().append(&[request(n, 5, 2_000)]).unwrap();
        headers.push(seal(&mut wal).unwrap().unwrap());
    }
    for header in headers.drain(..2) {
        wal.custody().drop_segments(vec![header], DropReason::Lifetime).unwrap();
        wal.epochs().hello("a").unwrap();
    }
    let epoch = wal.summary().life.epoch;
    assert_eq!(wal.epochs().drops_recorded(), 3, "both are told, and not in the file beside the log");
    drop(wal);
    bench.disk.delete(&bench.file());
    let mut wal = bench.open();
    let closed = wal.epochs().hello("a").unwrap().into_iter().find(|e| e.epoch == epoch).unwrap();
    let drops: Vec<_> = closed.drops.iter().map(|d| (d.id > 2, d.items, d.counts_unknown)).collect();
    let (segments, more) = (Some(logs(15).into()), Some(Counts::ZERO.into()));
    assert_eq!(drops, [(true, segments, false), (true, more, true)]);
}

#[test]
fn a_flipped_bit_at_run_time_delivers_nothing_wrong_and_never_ends_the_log() {
    for seed in 0..40u64 {
        let bench = Bench::new();
        let mut wal = bench.open();
        for n in 0..20 {
            wal.journal().append(&[request(n, 5, 6_000)]).unwrap();
            if n % 4 == 3 && n < 16 {
                seal(&mut wal).unwrap();
            }
        }
        let size = bench.disk.env().store.size(&bench.file()).unwrap().0;
        let bit = request(seed, 1, 8).body.iter().fold(0u64, |a, b| a << 8 | u64::from(*b)) % (size * 8);
        bench.disk.damage(&bench.file(), |content| content[bit as usize / 8] ^= 1 << (bit % 8));
        for n in 20..30 {
            // It may be refused while the log is put in order.
            drop(wal.journal().append(&[request(n, 5, 6_000)]));
            drop(wal.scrub().all());
        }
        wal.journal().append(&[request(30, 5, 6_000)]).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let accepted = wal.summary().accepted;
        let there = deliverable(&mut wal);
        let (lost, unknown) = told(&mut wal);
        assert_adds_up(&wal);
        assert!(there + lost == accepted || unknown, "seed {seed}: {there:?} and {lost:?} of {accepted:?}");
    }
}

#[test]
fn a_file_that_is_deleted_under_the_log_is_a_failed_store() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 5, 100)]).unwrap();
    bench.disk.env().store.remove(&bench.file()).unwrap();
    assert!(matches!(
        wal.journal().append(&[request(2, 5, 100)]),
        Err(WalError::Store(StoreError::Damaged(_)))
    ));
    assert!(wal.failing().is_some());
    wal.journal().append(&[request(3, 1, 100)]).unwrap();
    assert_eq!(wal.take_quarantine().unwrap().moved_to, None);
    assert_eq!(wal.summary().life.start_counter, 2);
    assert_adds_up(&wal);
}

#[test]
fn a_file_that_something_else_cuts_or_overwrites_is_not_called_whole() {
    for cut in [false, true] {
        let bench = Bench::new();
        let mut wal = bench.open();
        for n in 0..4 {
            wal.journal().append(&[request(n, 5, 2_000)]).unwrap();
        }
        seal(&mut wal).unwrap();
        assert_eq!(wal.scrub().all().unwrap().1, 0);
        bench.disk.damage(&bench.file(), |file| if cut { file.truncate(9_000) } else { file.fill(0) });
        let error = wal.scrub().all().unwrap_err().to_string();
        assert!(error.contains("cut or overwritten"), "{error}");
        assert!(wal.failing().is_some());
        wal.journal().append(&[request(9, 5, 100)]).unwrap();
        let summary = wal.summary();
        assert_eq!(summary.dropped, [(DropReason::Corruption, logs(20))]);
        assert_adds_up(&wal);
    }
}

#[test]
fn a_ledger_is_told_what_it_has_acknowledged() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.bases().greets(Slot::FIRST, "svalbard");
    let mut hashes = Vec::new();
    for n in 0..4 {
        wal.journal().append(&[request(n, 5, 100)]).unwrap();
        hashes.push(seal(&mut wal).unwrap().unwrap());
    }
    let epoch = wal.summary().life.epoch;
    let view = GroundView { ledger: 77, start_counter: 9, epoch, ..GroundView::default() };
    wal.epochs().reconcile(LINK, Slot::FIRST, &view).unwrap();
    assert_eq!(wal.summary().life.start_counter, 10, "a log that knew of no earlier one counts on");
    hashes.iter().for_each(|header| wal.custody().mark_sent(Slot::FIRST, header.id));
    wal.epochs().committed(LINK, Slot::FIRST, &[hashes[0].id, hashes[1].id, hashes[3].id]).unwrap();
    drop(wal);
    let mut wal = bench.open();
    let lane = wal.epochs().hello("b").unwrap().pop().unwrap().lanes.remove(0);
    let range = |start, end| link::Range { start, end };
    let expected = link::Acknowledged {
        ledger: 77,
        station: "svalbard".to_owned(),
        sequences: vec![range(1, 3), range(4, 5)],
        top_hash: hashes[3].hash.to_vec(),
        items: Some([0, 1, 3].iter().map(|n: &usize| hashes[*n].items).sum::<Counts>().into()),
    };
    assert_eq!(lane.acknowledged, [expected]);
    assert_eq!(lane.on_board, [range(3, 4)]);
}

/// Appends while operations fail from any one on, and opens the log again in this process, or after a `kill` in the next one: nothing
/// is lost, and nothing is said to be. How often the disk failed.
fn failed_at_any(operation: Operation, trouble: Trouble, kill: bool) -> u64 {
    let mut fired = 0;
    // A volume that is full takes what has its room already: the header, for one.
    for (after, times) in [1, 2, 3, 40].into_iter().flat_map(|times| (0..30).map(move |after| (after, times)))
    {
        let bench = Bench::new();
        let mut wal = bench.open();
        let mut accepted = 0;
        for n in 0..6 {
            wal.journal().append(&[request(n, 1, 50_000)]).unwrap();
            accepted += 1;
        }
        seal(&mut wal).unwrap();
        bench.disk.arm(Fault { operation, trouble, after, times, seed: after });
        for n in 10..16 {
            accepted += u64::from(wal.journal().append(&[request(n, 1, 50_000)]).is_ok());
            if bench.disk.fired() == times {
                break;
            }
        }
        fired += u64::from(bench.disk.heal() > 0);
        if kill {
            bench.disk.kill();
            drop(wal);
            wal = bench.open();
        } else {
            wal.journal().append(&[request(99, 1, 50_000)]).unwrap();
            accepted += 1;
        }
        assert_eq!(told(&mut wal), (Counts::ZERO, false), "write {after}, killed: {kill}");
        assert_eq!(wal.summary().accepted, logs(accepted), "write {after}, killed: {kill}");
        assert_eq!(deliverable(&mut wal), logs(accepted), "write {after}, killed: {kill}");
    }
    fired
}

#[test]
fn a_volume_that_something_else_fills_leaves_no_gap_of_what_was_never_lost() {
    for kill in [false, true] {
        assert!(failed_at_any(Operation::Write, Trouble::NoSpace, kill) > 60);
    }
}

#[test]
fn a_commit_that_was_refused_is_no_gap_though_the_disk_has_half_of_it() {
    assert!(failed_at_any(Operation::Sync, Trouble::WriteBack, false) > 20);
}

#[test]
fn nothing_is_acknowledged_that_stands_on_pages_whose_write_back_failed() {
    let mut fired = 0;
    for seed in 0..120u64 {
        let bench = Bench::new();
        let mut wal = bench.open();
        let mut acknowledged = 0;
        let mut one = |wal: &mut Wal, n: u64| {
            acknowledged += u64::from(wal.journal().append(&[request(n, 1, 3_000)]).is_ok());
        };
        for n in 0..6 {
            one(&mut wal, n);
        }
        seal(&mut wal).unwrap();
        let fault = Fault {
            operation: Operation::Sync,
            trouble: Trouble::WriteBack,
            after: seed % 3,
            times: 1 + seed % 2,
            seed,
        };
        bench.disk.arm(fault);
        for n in 10..16 {
            one(&mut wal, n);
            drop(seal(&mut wal));
        }
        fired += bench.disk.heal();
        for n in 20..26 {
            one(&mut wal, n);
        }
        if seed % 4 == 0 {
            // Killed and started again without a power cut: the cache outlives the process.
            bench.disk.kill();
            drop(wal);
            wal = bench.open();
        }
        for n in 30..34 {
            one(&mut wal, n);
        }
        drop(wal);
        bench.disk.kill();
        bench.disk.restart();
        let mut wal = bench.open();
        assert_eq!(deliverable(&mut wal).total(), acknowledged, "seed {seed}");
        assert_adds_up(&wal);
    }
    assert!(fired > 100, "write-back failed {fired} times");
}

#[test]
fn a_commit_that_was_called_safe_and_is_damaged_costs_no_group_beside_the_damage() {
    let mut torn = 0;
    for at in 0..400u64 {
        let bench = Bench::new();
        let mut wal = bench.open();
        for n in 0..4 {
            wal.journal().append(&[request(n, 5, 3_000)]).unwrap();
        }
        wal.journal().settle_front().unwrap();
        let before = bench.disk.env().store.read(&bench.file()).unwrap();
        wal.journal().append(&[request(9, 5, 3_000)]).unwrap();
        wal.journal().settle_front().unwrap();
        let after = bench.disk.env().store.read(&bench.file()).unwrap();
        bench.disk.kill();
        drop(wal);
        // A page that the last commit has written.
        let pages: Vec<usize> = (4096..before.len())
            .step_by(4096)
            .filter(|p| before[*p..p + 4096] != after[*p..p + 4096])
            .collect();
        let Some(page) = pages.get(at as usize) else { break };
        bench.disk.damage(&bench.file(), |content| content[*page..page + 512].fill(0));
        let mut wal = bench.try_open().unwrap();
        let there = deliverable(&mut wal);
        let unknown = told(&mut wal).1;
        assert!(there == logs(25) || there == logs(20) && unknown, "page {page}: {there:?}");
        torn += u32::from(there == logs(25));
        assert_adds_up(&wal);
    }
    assert!(torn > 0, "the group is found though what pointed to it is damaged");
}

#[test]
fn a_copy_of_the_log_is_whole_and_is_a_backup_when_it_is_put_back() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..4 {
        wal.journal().append(&[request(n, 5, 6_000)]).unwrap();
    }
    seal(&mut wal).unwrap();
    wal.journal().append(&[request(4, 5, 6_000)]).unwrap();
    let copy = wal.file().backup().unwrap();
    wal.journal().append(&[request(5, 5, 6_000)]).unwrap();
    let path = bench.config.directory.join("copy");
    copy.write(&bench.disk.env(), &path).unwrap();
    assert!(copy.write(&bench.disk.env(), &path).is_err(), "a file that is there is not replaced");
    let other = Bench::new();
    let content = bench.disk.content(&path).unwrap();
    other.disk.put(&other.file(), content);
    let mut there = other.open();
    assert_eq!(there.summary().accepted, logs(25));
    assert_eq!(deliverable(&mut there), logs(25));
}

#[test]
fn what_a_file_that_was_put_aside_still_holds_can_be_had_and_nothing_that_is_known_comes_twice() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..6 {
        wal.journal().append(&[request(n, 5, 6_000)]).unwrap();
        wal.journal().settle_front().unwrap();
        seal(&mut wal).unwrap();
    }
    let first = wal.custody().segments(1).unwrap().remove(0).0.header;
    wal.custody().mark_sent(Slot::FIRST, first.id);
    wal.epochs().committed(LINK, Slot::FIRST, &[first.id]).unwrap();
    wal.close().unwrap();
    // The list of lanes is gone, so nobody can tell what was delivered.
    let lost = bench.disk.content(&bench.file()).unwrap();
    let lanes = find_leaf(&lost);
    bench.disk.damage(&bench.file(), |content| content[lanes..lanes + 4096].fill(0));
    let mut wal = bench.try_open().unwrap();
    let aside = wal.take_quarantine().unwrap().moved_to.unwrap();
    let before = wal.summary().accepted;
    assert_eq!(deliverable(&mut wal), Counts::ZERO);
    let nothing = wal.journal().salvage(&aside, Wanted::default()).unwrap();
    assert_eq!(nothing.appended.items, 0);
    let all = wal.journal().salvage(&aside, MAY_REPEAT).unwrap();
    assert!(all.appended.items >= 25 && all.appended.items <= 30, "{all:?}");
    assert_eq!(wal.summary().accepted.total(), before.total() + all.appended.items);
    assert_adds_up(&wal);
    assert!(wal.journal().salvage(std::path::Path::new("/none"), MAY_REPEAT).is_err());
}

/// Bits of the first page that redb has no checksum of.
#[test]
fn a_damaged_header_costs_nothing_and_without_it_everything_can_be_had() {
    let written = || {
        let bench = Bench::new();
        let mut wal = bench.open();
        for n in 0..4 {
            wal.journal().append(&[request(n, 5, 6_000)]).unwrap();
            wal.journal().settle_front().unwrap();
        }
        seal(&mut wal).unwrap();
        wal.journal().append(&[request(9, 5, 6_000)]).unwrap();
        wal.journal().settle_front().unwrap();
        wal.close().unwrap();
        bench
    };
    for byte in [0, 2, 12, 16, 21] {
        let bench = written();
        bench.disk.damage(&bench.file(), |file| file[byte] ^= 1);
        let mut wal = bench.try_open().unwrap();
        assert_eq!((deliverable(&mut wal), told(&mut wal).0), (logs(25), Counts::ZERO), "byte {byte}");
        assert_adds_up(&wal);
    }
    let bench = written();
    bench.disk.damage(&bench.file(), |file| file[..4096].fill(0));
    let mut wal = bench.try_open().unwrap();
    let aside = wal.take_quarantine().unwrap().moved_to.unwrap();
    let there = deliverable(&mut wal);
    assert!(there.total() <= 5, "what was delivered cannot be known: the front alone has {there:?}");
    let (lost, unknown) = told(&mut wal);
    assert!(there + lost == logs(25) || unknown, "{lost:?}");
    let why = wal.journal().salvage(&aside, MAY_REPEAT).unwrap_err().to_string();
    assert!(why.contains("whose log it is cannot be read") && why.contains("--other-satellite"), "{why}");
    let wanted = Wanted { other_satellite: true, ..MAY_REPEAT };
    let all = wal.journal().salvage(&aside, wanted).unwrap();
    assert!(all.appended.items + there.total() >= 25, "{all:?}");
    assert_eq!(all.damage.map(|damage| damage.pages), Some(None));
    assert!(deliverable(&mut wal).total() >= 25);
}

/// Where the page of the table `lanes` is: one pair of a lane and two numbers.
fn find_leaf(content: &[u8]) -> usize {
    let next = 7u64.to_le_bytes();
    let is_it = |page: &&[u8]| {
        page[0] == 1 && page[2] == 1 && page[3] == 0 && page[4] == Lane::BULK.0 && page[5..13] == next
    };
    content.chunks_exact(4096).position(|page| is_it(&page)).unwrap() * 4096
}

/// The epoch that a link is told which has `taken` segments under way, and how many more it gets.
fn to_ship(wal: &mut Wal, taken: std::ops::Range<u64>) -> (u64, usize) {
    let taken = [taken].into_iter().collect();
    let found = wal.queues().to_ship(LINK, Slot::FIRST, Lane::BULK, &taken, 9).unwrap();
    (found.epoch, found.headers.len())
}

#[test]
fn with_its_store_gone_for_good_a_log_runs_on_in_memory_if_that_is_allowed_and_returns() {
    let mut bench = Bench::new();
    bench.config.volatile = Volatile::Accept;
    let mut wal = bench.open();
    wal.journal().append(&[request(1, 5, 100)]).unwrap();
    let before = wal.summary();
    bench.disk.set_full(true);
    let mut refused = 0;
    while !wal.summary().in_memory.now {
        refused += u32::from(wal.journal().append(&[lane_tests::request(&[(2, 9)])]).is_err());
        assert!(refused < 200, "the store is gone after a minute");
    }
    assert!(refused > 10, "it is tried for a while");
    let first = wal.summary().in_memory.accepted;
    for n in 3..6 {
        wal.journal().append(&[lane_tests::request(&[(n, 9), (n + 1, 9)])]).unwrap();
        if n == 4 {
            seal(&mut wal).unwrap();
        }
    }
    let there = wal.summary().in_memory;
    assert_eq!((there.now, there.accepted), (true, first + logs(6)));
    let memory = wal.summary().life;
    assert!(memory.start_counter > before.life.start_counter);
    let told = wal.epochs().hello("").unwrap();
    assert!(told.last().is_some_and(|own| own.in_memory && !own.closed), "what it does not name is not lost");
    assert_eq!(to_ship(&mut wal, 0..9), (memory.epoch, 0), "a link is told that sequences begin anew");
    assert_adds_up(&wal);
    bench.disk.set_full(false);
    for _ in 0..200 {
        if !wal.summary().in_memory.now {
            break;
        }
        drop(wal.journal().append(&[]));
    }
    let back = wal.summary().in_memory;
    assert_eq!((back.now, back.accepted, back.stored), (false, there.accepted, there.accepted));
    assert_eq!(deliverable(&mut wal), logs(5) + there.accepted, "nothing was lost");
    let life = wal.summary().life;
    assert_ne!(life.epoch, before.life.epoch, "a new epoch");
    assert_eq!(to_ship(&mut wal, 0..9), (life.epoch, 0));
    let told = wal.epochs().hello("").unwrap();
    let closed: Vec<u64> = told.iter().filter(|e| e.closed && !e.in_memory).map(|e| e.epoch).collect();
    assert!([before.life.epoch, memory.epoch].iter().all(|epoch| closed.contains(epoch)), "none is lost");
    assert!(told.last().is_some_and(|own| !own.in_memory));
    assert_adds_up(&wal);
    drop(wal);
    assert_eq!(bench.open().summary().accepted, logs(5) + there.accepted);
}

#[test]
fn what_is_in_memory_when_the_agent_ends_goes_into_the_store_if_that_is_back_and_else_it_is_said_to_be_lost()
{
    for is_back in [true, false] {
        let mut bench = Bench::new();
        bench.disk.set_full(true);
        bench.config.volatile = Volatile::Accept;
        let mut wal = bench.open();
        wal.journal().append(&[request(1, 5, 100)]).unwrap();
        bench.disk.set_full(!is_back);
        let ended = wal.close().map_err(|e| e.to_string());
        bench.disk.set_full(false);
        assert_eq!(bench.open().summary().accepted, if is_back { logs(5) } else { Counts::ZERO });
        assert_eq!(ended.is_ok(), is_back);
        assert!(
            ended.err().is_none_or(|why| why.contains("5 items that were accepted into memory are lost"))
        );
    }
}

#[test]
fn a_store_that_cannot_be_opened_at_the_start_is_an_error_or_a_log_in_memory() {
    let mut bench = Bench::new();
    bench.disk.set_full(true);
    assert!(bench.try_open().is_err());
    bench.config.volatile = Volatile::Accept;
    let mut wal = bench.open();
    assert!(wal.summary().in_memory.now);
    wal.journal().append(&[request(1, 5, 100)]).unwrap();
    assert_eq!(deliverable(&mut wal), logs(5));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_and_is_opened_again_is_no_previous_process_and_has_one_line() {
    let fail = || {
        let bench = Bench::new();
        let mut wal = bench.open();
        for n in 0..5 {
            bench.disk.arm(Fault {
                operation: Operation::Sync,
                trouble: Trouble::InputOutput,
                after: 0,
                times: 1,
                seed: 1,
            });
            wal.journal().append(&[request(2 * n, 1, 50_000)]).unwrap_err();
            bench.disk.heal();
            wal.journal().append(&[request(2 * n + 1, 1, 50_000)]).unwrap();
        }
    };
    assert_eq!(lines("did not close the file", fail), 0);
    assert_eq!(lines("the store is open again", fail), 1);
}
