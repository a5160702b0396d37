//! `wal salvage`: what comes from another file comes once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use perigee_shared::link::Slot;
use perigee_shared::segment::Lane;
use perigee_shared::signal::Counts;
use simdisk::{Fault, Operation, Trouble};

use super::damage_tests::deliverable;
use super::lane_tests::request;
use super::mirror_tests::lines;
use super::tests::{Bench, LINK, assert_adds_up, logs, seal};
use super::*;

/// A request of two records that no other has.
fn two(n: u64) -> Accepted {
    request(&[(2 * n + 1, 9), (2 * n + 2, 9)])
}

fn amount(amount: Amount) -> (u64, u64, u64) {
    (amount.segments, amount.groups, amount.items)
}

const NOTHING: (u64, u64, u64) = (0, 0, 0);

/// Also what may have been delivered.
pub(super) const MAY_REPEAT: Wanted = Wanted { may_repeat: true, other_satellite: false };

/// The file of a log that has delivered 4 items, and has 16 items in two segments and 10 items in five groups.
fn old() -> Vec<u8> {
    let bench = Bench::new();
    let mut wal = bench.open();
    fill(&mut wal);
    wal.close().unwrap();
    bench.disk.content(&bench.file()).unwrap()
}

fn fill(wal: &mut Wal) {
    for n in 0..10 {
        wal.journal().append(&[two(n)]).unwrap();
        if [1, 5, 9].contains(&n) {
            seal(wal).unwrap().unwrap();
        }
    }
    deliver(wal);
    for n in 10..15 {
        wal.journal().append(&[two(n)]).unwrap();
    }
    wal.journal().settle_front().unwrap();
}

/// The oldest segment arrives.
fn deliver(wal: &mut Wal) {
    let first = wal.custody().segments(1).unwrap().remove(0).0.header;
    wal.custody().mark_sent(Slot::FIRST, first.id);
    wal.epochs().committed(LINK, Slot::FIRST, &[first.id]).unwrap();
}

/// A log that knows nothing of it, and the file beside it.
fn fresh() -> (Bench, PathBuf) {
    beside(old())
}

/// The same with this file.
fn beside(content: Vec<u8>) -> (Bench, PathBuf) {
    let bench = Bench::new();
    // Another environment has other random numbers: the log has an epoch of its own.
    drop(bench.disk.env());
    let path = bench.config.directory.join("old.redb");
    bench.disk.put(&path, content);
    (bench, path)
}

fn salvage(wal: &mut Wal, path: &Path, may_repeat: bool) -> Offered {
    wal.journal().salvage(path, Wanted { may_repeat, other_satellite: false }).unwrap()
}

#[test]
fn a_file_that_is_salvaged_twice_comes_once() {
    let (bench, path) = fresh();
    let mut wal = bench.open();
    let once = salvage(&mut wal, &path, false);
    assert_eq!((amount(once.appended), amount(once.may_repeat)), ((2, 5, 26), NOTHING), "{once:?}");
    let again = |wal: &mut Wal| {
        let again = salvage(wal, &path, false);
        assert_eq!((amount(again.appended), amount(again.may_repeat)), (NOTHING, NOTHING), "{again:?}");
        assert_eq!((again.already.items, again.damage), (once.already.items + 26, None));
    };
    again(&mut wal);
    assert_eq!(deliverable(&mut wal), logs(26));
    again(&mut wal);
    while wal.summary().segments > 0 {
        deliver(&mut wal);
    }
    wal.epochs().begin("a test").unwrap();
    again(&mut wal);
    drop(wal);
    let mut wal = bench.open();
    again(&mut wal);
    assert_eq!((wal.summary().accepted, wal.summary().delivered), (logs(26), logs(26)));
    assert_eq!(amount(salvage(&mut wal, &path, true).appended), NOTHING, "the rest was delivered");
    assert_adds_up(&wal);
}

#[test]
fn where_the_budget_is_used_up_the_next_one_goes_on() {
    let (mut bench, path) = fresh();
    bench.config.max_bytes = 1;
    let mut wal = bench.open();
    let none = salvage(&mut wal, &path, false);
    // One commit may exceed the budget.
    assert_eq!((none.full, none.appended.items + none.no_room.items), (None, 26), "{none:?}");
    drop(wal);
    bench.disk.delete(&bench.file());
    bench.disk.delete(&bench.config.directory.join("counters.json"));
    bench.disk.delete(&bench.config.directory.join("journal.front"));
    let mut wal = bench.open();
    wal.journal().append(&[two(99)]).unwrap();
    let none = salvage(&mut wal, &path, false);
    assert_eq!((none.full, amount(none.appended), amount(none.no_room)), (Some(1), NOTHING, (2, 5, 26)));
    seal(&mut wal).unwrap();
    deliver(&mut wal);
    assert_eq!(amount(salvage(&mut wal, &path, false).appended), (2, 5, 26));
    assert_adds_up(&wal);
}

#[test]
fn a_log_of_another_satellite_is_salvaged_only_when_that_is_asked_for() {
    let (mut bench, path) = fresh();
    bench.config.satellite = Some("other".to_owned());
    let mut wal = bench.open();
    let why = wal.journal().salvage(&path, MAY_REPEAT).unwrap_err().to_string();
    for word in ["satellite sat,", "this is other,", "--other-satellite"] {
        assert!(why.contains(word), "{why}");
    }
    assert_eq!(wal.summary().accepted, Counts::ZERO);
    wal.close().unwrap();
    // A command that finds no agent works on the log itself, which says whose it is.
    let nameless = WalConfig { satellite: None, ..bench.config.clone() };
    let mut wal = Wal::open_existing(nameless, bench.disk.env()).unwrap();
    let why = wal.journal().salvage(&path, MAY_REPEAT).unwrap_err().to_string();
    assert!(why.contains("satellite sat, and this is other,"), "{why}");
    let wanted = Wanted { other_satellite: true, ..Wanted::default() };
    assert_eq!(amount(wal.journal().salvage(&path, wanted).unwrap().appended), (2, 5, 26));
}

#[test]
fn a_log_whose_satellite_cannot_be_read_is_not_taken_for_ours() {
    let (mut bench, path) = fresh();
    bench.config.satellite = Some("other".to_owned());
    let content = bench.disk.content(&path).unwrap();
    let mut wal = bench.open();
    let mut unknown = 0;
    for at in (0..content.len()).step_by(4096) {
        bench.disk.put(&path, content.clone());
        bench.disk.damage(&path, |content| content[at..at + 4096].fill(0));
        let why = wal.journal().salvage(&path, MAY_REPEAT).unwrap_err().to_string();
        assert!(why.contains("--other-satellite"), "page {}: {why}", at / 4096);
        unknown += usize::from(why.contains("whose log it is cannot be read"));
    }
    assert!(unknown >= 2, "the header and the page of `meta`: {unknown}");
    assert_eq!(wal.summary().accepted, Counts::ZERO);
}

#[test]
fn what_damaged_pages_held_is_told_and_segments_that_are_lost_are_named() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..3 {
        wal.journal().append(&[super::tests::request(n, 1, 50_000)]).unwrap();
        seal(&mut wal).unwrap().unwrap();
    }
    wal.close().unwrap();
    let content = bench.disk.content(&bench.file()).unwrap();
    let (mut named, mut less) = (BTreeSet::new(), 0);
    let wanted = Wanted { other_satellite: true, ..MAY_REPEAT };
    for at in (4096..content.len()).step_by(4096) {
        let (bench, path) = beside(content.clone());
        bench.disk.damage(&path, |content| content[at..at + 4096].fill(0));
        let mut all = Offered::default();
        let salvage = || all = bench.open().journal().salvage(&path, wanted).unwrap();
        let said = lines("the file that was salvaged is damaged", salvage);
        assert_eq!(said, usize::from(all.damage.is_some()));
        if all.appended.items < 3 {
            less += 1;
            assert!(all.damage.is_some(), "page {}: {all:?}", at / 4096);
        }
        if let Some(Damage { pages, segments, items, tables }) = all.damage {
            assert_eq!((pages, items), (Some(1), segments.len() as u64), "page {}", at / 4096);
            assert!(segments.is_empty() || tables.contains("segment_chunks"), "{tables:?}");
            named.extend(segments);
        }
    }
    assert!(less > 0, "some pages cost something");
    assert_eq!(named.iter().collect::<Vec<_>>(), ["8/1", "8/2", "8/3"]);
}

#[test]
fn groups_that_are_left_out_since_segments_of_the_file_have_them_are_told_apart() {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..4 {
        wal.journal().append(&[two(n)]).unwrap();
    }
    seal(&mut wal).unwrap().unwrap();
    wal.journal().append(&[two(4)]).unwrap();
    wal.close().unwrap();
    let (bench, path) = beside(bench.disk.content(&bench.file()).unwrap());
    let all = salvage(&mut bench.open(), &path, false);
    assert_eq!((amount(all.appended), amount(all.already)), ((1, 1, 10), NOTHING), "{all:?}");
    assert_eq!(amount(all.in_segments), (0, 1, 2), "the journal still has the last group of the segment");
}

#[test]
fn it_leaves_a_part_of_the_budget_to_requests_and_goes_on_when_there_is_room() {
    let (mut bench, path) = beside(large(30));
    bench.config.max_bytes = 16 << 20;
    let mut wal = bench.open();
    let some = salvage(&mut wal, &path, false);
    assert_eq!((some.full, some.appended.items + some.no_room.items), (Some(16 << 20), 30), "{some:?}");
    for n in 100..102 {
        wal.journal().append(&[super::tests::request(n, 1, 300_000)]).unwrap();
    }
    assert!(wal.state().stored() < 16 << 20, "{some:?}");
    assert_eq!(amount(salvage(&mut wal, &path, false).appended), NOTHING, "the room is not for it");
    while seal(&mut wal).unwrap().is_some() {}
    while wal.summary().segments > 0 {
        deliver(&mut wal);
    }
    assert_eq!(salvage(&mut wal, &path, false).appended.items, some.no_room.items);
    assert_adds_up(&wal);
}

#[test]
fn segments_are_read_when_their_turn_comes_and_not_held() {
    let (bench, path) = fresh();
    let left = left::Left::read(&bench.disk.env(), &path).unwrap();
    assert!(left.segments.len() >= 2);
    assert!(left.segments.iter().all(|segment| left.decoded(segment).is_some_and(|all| !all.is_empty())));
    bench.disk.damage(&path, |content| content[4096..].fill(0));
    assert!(
        left.segments.iter().all(|segment| left.decoded(segment).is_none()),
        "nothing of them is in memory"
    );
}

/// A file of large requests, so that it takes several commits.
fn large(count: u64) -> Vec<u8> {
    let bench = Bench::new();
    let mut wal = bench.open();
    for n in 0..count {
        wal.journal().append(&[super::tests::request(n, 1, 600_000)]).unwrap();
    }
    wal.close().unwrap();
    bench.disk.content(&bench.file()).unwrap()
}

#[test]
fn a_power_cut_at_any_write_of_it_doubles_nothing_and_loses_nothing() {
    let (content, mut cuts) = (large(3), 0);
    for cut in (1..).step_by(7) {
        let (bench, path) = beside(content.clone());
        let mut wal = bench.open();
        bench.disk.power_off_after(cut);
        let done = wal.journal().salvage(&path, Wanted::default()).is_ok() && !bench.disk.is_off();
        drop(wal);
        bench.disk.restart_torn(cut);
        bench.disk.put(&path, content.clone());
        let mut wal = bench.open();
        salvage(&mut wal, &path, false);
        assert_eq!(deliverable(&mut wal), logs(3), "cut at {cut}");
        cuts += 1;
        if done {
            break;
        }
    }
    assert!(cuts > 5, "{cuts} cuts");
}

#[test]
fn a_damaged_commit_of_it_doubles_what_is_found_only_where_the_memory_of_it_was() {
    let content = old();
    let (mut found, mut doubled) = (0, 0);
    for at in 0.. {
        let (bench, path) = beside(content.clone());
        let mut wal = bench.open();
        let before = bench.disk.env().store.read(&bench.file()).unwrap();
        salvage(&mut wal, &path, false);
        let after = bench.disk.env().store.read(&bench.file()).unwrap();
        bench.disk.kill();
        drop(wal);
        let mut pages = (4096..after.len()).step_by(4096);
        let changed = |p: &usize| before.get(*p..p + 4096) != Some(&after[*p..p + 4096]);
        let Some(page) = pages.by_ref().filter(changed).nth(at) else { break };
        bench.disk.damage(&bench.file(), |content| content[page..page + 512].fill(0));
        let mut wal = bench.try_open().unwrap();
        found += u32::from(wal.summary().accepted == logs(26));
        salvage(&mut wal, &path, false);
        let there = deliverable(&mut wal);
        assert!(there == logs(26) || there == logs(52), "page {page}: {there:?}");
        doubled += u32::from(there == logs(52));
    }
    assert!(found > doubled && doubled <= 1, "found {found} times, doubled {doubled} times");
}

#[test]
fn what_was_refused_when_the_disk_failed_comes_when_it_is_asked_for_again() {
    let (content, mut fired) = (large(3), 0);
    for seed in 0..16u64 {
        let (bench, path) = beside(content.clone());
        let mut wal = bench.open();
        let operation = [Operation::Write, Operation::Sync][seed as usize % 2];
        bench.disk.arm(Fault { operation, trouble: Trouble::InputOutput, after: seed / 2, times: 1, seed });
        let first = wal.journal().salvage(&path, Wanted::default());
        fired += bench.disk.heal();
        if seed % 3 == 0 {
            bench.disk.kill();
            drop(wal);
            wal = bench.open();
        }
        let second = salvage(&mut wal, &path, false);
        let appended = first.map_or(0, |f| f.appended.items) + second.appended.items;
        assert_eq!(deliverable(&mut wal), logs(3), "seed {seed}: {appended} appended");
    }
    assert!(fired > 5, "the disk failed {fired} times");
}

#[test]
fn what_may_have_been_delivered_is_counted_and_comes_without_what_segments_of_the_file_have() {
    let (bench, path) = fresh();
    // The list of lanes is gone, so nobody can tell what was delivered.
    bench.disk.damage(&path, |content| {
        let next = 4u64.to_le_bytes();
        let page =
            |page: &[u8]| page[0] == 1 && page[2] == 1 && page[4] == Lane::BULK.0 && page[5..13] == next;
        for at in (0..content.len() - 4096).step_by(4096) {
            if page(&content[at..]) {
                content[at..at + 4096].fill(0);
            }
        }
    });
    let mut wal = bench.open();
    let nothing = salvage(&mut wal, &path, false);
    assert_eq!(amount(nothing.appended), NOTHING, "{nothing:?}");
    assert!(nothing.may_repeat.items >= 26, "{nothing:?}");
    let all = salvage(&mut wal, &path, true);
    assert_eq!(amount(all.appended), amount(nothing.may_repeat), "it takes what was said: {all:?}");
    assert!(all.appended.items <= 30, "no item twice: {all:?}");
    let again = salvage(&mut wal, &path, true);
    assert_eq!((amount(again.appended), amount(again.may_repeat)), (NOTHING, NOTHING), "{again:?}");
    assert_eq!(deliverable(&mut wal).total(), all.appended.items);
}

#[test]
fn what_was_taken_over_when_the_file_was_put_aside_is_not_in_what_may_repeat() {
    let bench = Bench::new();
    let mut wal = bench.open();
    fill(&mut wal);
    wal.close().unwrap();
    // A page without which the file is damaged, and that has nothing of what is on board.
    let content = bench.disk.content(&bench.file()).unwrap();
    let path = bench.config.directory.join("wal.redb.quarantined-1");
    let mut taken_over = 0;
    for at in (4096..content.len()).step_by(4096) {
        bench.disk.files().iter().filter(|f| f.to_string_lossy().contains("quarantined")).for_each(|f| {
            bench.disk.delete(f);
        });
        bench.disk.put(&bench.file(), content.clone());
        bench.disk.damage(&bench.file(), |content| content[at..at + 4096].fill(0));
        let Ok(mut wal) = bench.try_open() else { continue };
        if wal.take_quarantine().is_none() {
            continue;
        }
        let before = deliverable(&mut wal);
        // Whose log it is may be damaged.
        let wanted = Wanted { other_satellite: true, ..MAY_REPEAT };
        let all = wal.journal().salvage(&path, wanted).unwrap();
        if before == logs(26) {
            taken_over += 1;
            assert!(all.appended.items <= 4, "page {}: {all:?}", at / 4096);
        }
        let there = deliverable(&mut wal);
        assert!(there.total() <= 30, "page {}: {there:?} of 30 items, {all:?}", at / 4096);
        assert_eq!(amount(wal.journal().salvage(&path, wanted).unwrap().appended), NOTHING);
    }
    assert!(taken_over > 0, "some pages cost nothing");
}

#[test]
fn a_backup_of_a_log_that_was_lost_comes_with_may_repeat_alone() {
    let bench = Bench::new();
    let mut wal = bench.open();
    fill(&mut wal);
    let path = bench.config.directory.join("backup.redb");
    wal.file().backup().unwrap().write(&bench.disk.env(), &path).unwrap();
    assert_eq!(amount(salvage(&mut wal, &path, true).appended), NOTHING, "this log has all of it");
    drop(wal);
    bench.disk.delete(&bench.file());
    let mut wal = bench.open();
    let kept = deliverable(&mut wal);
    let nothing = salvage(&mut wal, &path, false);
    assert_eq!(amount(nothing.appended), NOTHING, "{nothing:?}");
    let all = salvage(&mut wal, &path, true);
    assert_eq!(amount(all.appended), amount(nothing.may_repeat));
    assert_eq!(deliverable(&mut wal), logs(26), "what the front had kept is left out: {kept:?}, {all:?}");
}

/// Takes the log away, in one of three ways; what lies beside it stays.
fn lose(bench: &Bench, how: usize) {
    match how {
        0 => bench.disk.delete(&bench.file()),
        1 => bench.disk.damage(&bench.file(), |content| content[..4096].fill(0)),
        _ => bench.disk.damage(&bench.file(), |content| content.truncate(content.len() / 3)),
    }
}

/// Every lane's segments arrive.
fn deliver_all(wal: &mut Wal) {
    while seal(wal).unwrap().is_some() {}
    while wal.summary().segments > 0 {
        deliver(wal);
    }
}

#[test]
fn a_file_of_a_life_that_was_lost_comes_with_may_repeat_alone_however_many_logs_are_lost_after_it() {
    for how in 0..3 {
        let bench = Bench::new();
        let mut wal = bench.open();
        fill(&mut wal);
        wal.close().unwrap();
        let path = bench.config.directory.join("moved.redb");
        bench.disk.put(&path, bench.disk.content(&bench.file()).unwrap());
        bench.disk.delete(&bench.file());
        let mut wal = bench.open();
        let first = salvage(&mut wal, &path, false);
        assert_eq!(amount(first.appended), NOTHING, "{first:?}");
        assert!(first.may_repeat.segments == 2, "{first:?}");
        for round in 0..4 {
            if round == 1 {
                // What came from it is lost with the log that has it, and may have been delivered.
                assert!(salvage(&mut wal, &path, true).appended.items >= 16);
                deliver_all(&mut wal);
            }
            wal.close().unwrap();
            lose(&bench, how);
            wal = bench.try_open().unwrap();
            let again = salvage(&mut wal, &path, false);
            assert_eq!(amount(again.appended), NOTHING, "{how}, round {round}: {again:?}");
            assert!(again.may_repeat.segments == 2, "{how}, round {round}: {again:?}");
        }
    }
}

#[test]
fn what_came_from_another_log_and_was_lost_with_this_one_does_not_come_by_itself() {
    for how in 0..3 {
        let (bench, path) = fresh();
        let mut wal = bench.open();
        assert_eq!(salvage(&mut wal, &path, false).appended.items, 26);
        deliver_all(&mut wal);
        bench.disk.kill();
        drop(wal);
        lose(&bench, how);
        let mut wal = bench.try_open().unwrap();
        let again = salvage(&mut wal, &path, false);
        assert_eq!((again.appended.items, again.may_repeat.items), (0, 26), "{how}: {again:?}");
        let all = salvage(&mut wal, &path, true);
        assert_eq!((all.appended.items, all.may_repeat.items), (26, 0), "{how}: {all:?}");
    }
}

#[test]
fn what_came_from_another_log_after_a_backup_does_not_come_again_when_that_is_put_back() {
    let (bench, path) = fresh();
    let mut wal = bench.open();
    wal.journal().append(&[two(50)]).unwrap();
    let backup = bench.config.directory.join("backup.redb");
    wal.file().backup().unwrap().write(&bench.disk.env(), &backup).unwrap();
    assert_eq!(salvage(&mut wal, &path, false).appended.items, 26);
    deliver_all(&mut wal);
    wal.close().unwrap();
    bench.disk.put(&bench.file(), bench.disk.content(&backup).unwrap());
    let mut wal = bench.open();
    let again = salvage(&mut wal, &path, false);
    assert_eq!((again.appended.items, again.may_repeat.items), (0, 26), "{again:?}");
}

#[test]
fn when_a_wrong_copy_was_put_back_the_rest_comes_from_the_file_that_was_moved_away() {
    for with_front in [false, true] {
        let bench = Bench::new();
        let mut wal = bench.open();
        wal.journal().append(&[two(50)]).unwrap();
        seal(&mut wal).unwrap();
        wal.journal().append(&[two(51)]).unwrap();
        let [copy, moved] = ["copy.redb", "moved.redb"].map(|name| bench.config.directory.join(name));
        wal.file().backup().unwrap().write(&bench.disk.env(), &copy).unwrap();
        for n in 52..55 {
            wal.journal().append(&[two(n)]).unwrap();
        }
        wal.journal().settle_front().unwrap();
        // This one stays in the front, if that is left.
        wal.journal().append(&[two(55)]).unwrap();
        wal.close().unwrap();
        bench.disk.put(&moved, bench.disk.content(&bench.file()).unwrap());
        bench.disk.put(&bench.file(), bench.disk.content(&copy).unwrap());
        if !with_front {
            bench.disk.delete(&bench.config.directory.join("journal.front"));
        }
        let mut wal = bench.open();
        let before = deliverable(&mut wal);
        assert!(before == logs(4) || with_front, "the copy has two of six requests: {before:?}");
        let rest = 12 - before.total();
        let offered = salvage(&mut wal, &moved, false);
        assert_eq!((amount(offered.appended), offered.may_repeat.items), (NOTHING, rest), "{offered:?}");
        assert_eq!(salvage(&mut wal, &moved, true).appended.items, rest, "what only the moved file has");
        assert_eq!(deliverable(&mut wal), logs(12), "each once");
        assert_eq!(amount(salvage(&mut wal, &moved, true).appended), NOTHING);
        assert_adds_up(&wal);
    }
}

#[test]
fn where_nothing_tells_which_log_was_lost_any_file_may_be_of_it() {
    let bench = Bench::new();
    let mut wal = bench.open();
    wal.journal().append(&[two(50)]).unwrap();
    seal(&mut wal).unwrap();
    fill(&mut wal);
    wal.close().unwrap();
    let path = bench.config.directory.join("moved.redb");
    bench.disk.put(&path, bench.disk.content(&bench.file()).unwrap());
    bench.disk.damage(&bench.file(), |content| content.fill(0));
    bench.disk.delete(&bench.config.directory.join("counters.json"));
    for round in 0..2 {
        let mut wal = bench.try_open().unwrap();
        let offered = salvage(&mut wal, &path, false);
        assert_eq!(amount(offered.appended), NOTHING, "round {round}: {offered:?}");
        assert!(offered.may_repeat.items >= 16, "round {round}: {offered:?}");
        // What this log has had itself is known all the same.
        wal.journal().append(&[two(60)]).unwrap();
        wal.close().unwrap();
        bench.disk.delete(&bench.file());
    }
}

#[test]
fn of_a_group_that_one_lane_has_sealed_the_others_part_comes() {
    let mut bench = Bench::new();
    bench.config.lanes = lane_tests::alarms();
    let mut wal = bench.open();
    for n in 0..3 {
        wal.journal().append(&[request(&[(2 * n + 1, 9), (2 * n + 2, 17)])]).unwrap();
    }
    let batch = wal.segments().take_batch(Lane(1), super::tests::ALL, true).unwrap().unwrap();
    wal.segments().commit(batch.seal(&Encoding::plain(), 7).unwrap()).unwrap();
    deliver(&mut wal);
    wal.close().unwrap();
    let content = bench.disk.content(&bench.file()).unwrap();
    let (other, path) = beside(content);
    let mut wal = other.open();
    let some = salvage(&mut wal, &path, false);
    assert_eq!((some.appended.items, some.may_repeat.items + some.already.items), (3, 3), "{some:?}");
    assert_eq!(amount(salvage(&mut wal, &path, false).appended), NOTHING);
    assert_eq!(deliverable(&mut wal), logs(3));
}

#[test]
fn a_file_that_is_no_agents_log_is_refused() {
    let (bench, path) = fresh();
    let mut wal = bench.open();
    let directory = bench.directory.path();
    let spool = directory.join("spool.redb");
    let db = redb::Database::create(&spool).unwrap();
    let txn = db.begin_write().unwrap();
    for name in ["satellites", "entries", "segment_chunks", "meta"] {
        txn.open_table(redb::TableDefinition::<u64, &[u8]>::new(name)).unwrap().insert(1, &b"x"[..]).unwrap();
    }
    txn.commit().unwrap();
    drop(db);
    bench.disk.put(&spool, std::fs::read(&spool).unwrap());
    bench.disk.put(&path, b"no database at all".to_vec());
    for (file, why) in [
        (spool, "it is a ground station's spool, not an agent's log"),
        (path, "it is not an agent's log, or nothing of one is left in it"),
        (directory.join("none"), "there is no such file"),
    ] {
        let error = wal.journal().salvage(&file, MAY_REPEAT).unwrap_err().to_string();
        assert_eq!(error, format!("cannot salvage {}: {why}", file.display()));
    }
    assert_eq!(wal.summary().accepted, Counts::ZERO);
}

#[test]
fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
    let bench = Bench::new();
    let mut wal = bench.open();
    let all: Vec<_> = (0..100).map(salvaged::Identity::life).collect();
    wal.write(|txn, _| {
        salvaged::remember(txn, 0, [salvaged::Identity::life(u64::MAX)])?;
        for (group, part) in (1..).zip(all.chunks(7)) {
            salvaged::remember(txn, group, part.iter().copied())?;
        }
        salvaged::trim(&mut txn.open_table(tables::SALVAGED)?, 90)?;
        Ok(((), Vec::new()))
    })
    .unwrap();
    let known = wal.read(|txn, _| Ok(salvaged::known(txn)?)).unwrap();
    assert_eq!(known.len(), 90);
    assert!(known.contains(&salvaged::Identity::life(u64::MAX)), "a life that was lost stays");
    assert!(all[..11].iter().all(|id| !known.contains(id)) && all[11..].iter().all(|id| known.contains(id)));
}
