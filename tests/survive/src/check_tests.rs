//! The checker must find what is planted, each fault alone.

use super::*;
use crate::history::Item;

fn items(ids: std::ops::Range<u64>) -> Vec<Item> {
    ids.map(|id| (id, id * 7)).collect()
}

/// A run in which everything is right: logs 0..10 accepted, committed in two segments and exported, 10..12 dropped by a rule.
fn good() -> History {
    let mut history = History::new("fault", Side::Agent, 1);
    let account = |taken: u64, delivered: u64| Account {
        taken: [0, 0, taken],
        delivered: [0, 0, delivered],
        dropped: vec![("lifetime".to_owned(), [0, 0, 2])],
        ..Account::default()
    };
    history.events.extend([
        Event::Accepted { signal: 3, items: items(0..6) },
        Event::Accepted { signal: 3, items: items(6..12) },
        Event::Refused { signal: 3, items: items(20..23) },
        Event::Reopened { side: Side::Agent },
        Event::Fault { what: "fault".to_owned(), fired: true },
        Event::Committed { segment: (1, 2, 1), items: (0..6).collect() },
        Event::Committed { segment: (1, 2, 2), items: (6..10).collect() },
        Event::Exported { items: items(0..10), noted: true },
        Event::Recovered { side: Side::Agent, ms: 40 },
        Event::Gap(Gap { reason: "lifetime".to_owned(), items: [0, 0, 2], unknown: false }),
        Event::Account { side: Side::Agent, account: account(12, 10) },
        Event::Account { side: Side::Ground, account: account(10, 10) },
        Event::End,
    ]);
    history
}

fn change(history: &mut History, mut each: impl FnMut(&mut Event)) {
    history.events.iter_mut().for_each(&mut each);
}

/// Takes items out of everything that was delivered, and their number out of the accounts as `counted` says.
fn without(range: std::ops::Range<u64>) -> History {
    let mut history = good();
    change(&mut history, |event| {
        if let Event::Exported { items, .. } = event {
            items.retain(|(id, _)| !range.contains(id));
        }
    });
    history
}

fn insert(history: &mut History, at: usize, event: Event) {
    history.events.insert(at, event);
}

fn gap(reason: &str, logs: u64, unknown: bool) -> Event {
    Event::Gap(Gap { reason: reason.to_owned(), items: [0, 0, logs], unknown })
}

fn destroyed(ids: std::ops::Range<u64>) -> Event {
    Event::Destroyed { items: ids.collect(), untold: false }
}

#[test]
fn a_run_in_which_all_is_right_is_good() {
    let verdict = check(&good());
    assert!(verdict.is_good() && verdict.counts(), "{verdict:?}");
    assert_eq!((verdict.acknowledged, verdict.recovery_ms, verdict.given_up), (12, 40, 0));
}

#[test]
fn a_lost_item_is_found_and_a_gap_covers_it_only_if_it_was_destroyed() {
    assert_eq!(check(&without(4..7)).lost, 3);

    let mut not_destroyed = without(4..7);
    insert(&mut not_destroyed, 1, gap("corruption", 3, false));
    assert_eq!(check(&not_destroyed).lost, 3, "a gap about what nobody destroyed covers nothing");

    let mut unknown = without(4..7);
    insert(&mut unknown, 1, gap("corruption", 0, true));
    assert_eq!(check(&unknown).lost, 3, "nor does one that does not know");

    let mut covered = not_destroyed.clone();
    insert(&mut covered, 1, destroyed(0..10));
    let verdict = check(&covered);
    assert_eq!((verdict.lost, verdict.given_up, verdict.uncounted), (0, 3, 0));

    let mut partly = unknown;
    insert(&mut partly, 1, destroyed(5..7));
    let verdict = check(&partly);
    assert_eq!((verdict.lost, verdict.given_up), (1, 2), "an unknown gap covers what was destroyed, no more");

    let mut unsaid = without(4..7);
    insert(&mut unsaid, 1, destroyed(0..10));
    assert_eq!(check(&unsaid).lost, 3, "what was destroyed must be reported");
}

#[test]
fn a_gap_that_says_too_little_or_too_much_is_found() {
    let mut little = without(4..7);
    insert(&mut little, 1, destroyed(0..10));
    insert(&mut little, 2, gap("corruption", 2, false));
    assert_eq!(check(&little).lost, 1);
    let mut much = without(4..7);
    insert(&mut much, 1, destroyed(0..10));
    insert(&mut much, 2, gap("corruption", 8, false));
    assert_eq!(check(&much).uncounted, 5);
    let mut unsure = much.clone();
    for event in &mut unsure.events {
        if let Event::Exported { items, noted } = event {
            *noted = items.iter().all(|(id, _)| *id > 9);
        }
    }
    assert_eq!(check(&unsure).uncounted, 0, "the ground could not note what the backend has");
    let mut nothing = good();
    insert(&mut nothing, 1, gap("corruption", 2, false));
    assert_eq!(check(&nothing).uncounted, 2, "nothing is missing");
}

#[test]
fn an_alarm_covers_what_it_counts_and_not_by_being_raised() {
    let alarm = |logs, unknown| Event::Alarm {
        side: Side::Ground,
        name: "perigee.ledger.lost".to_owned(),
        items: [0, 0, logs],
        unknown,
    };
    for (event, lost) in [(alarm(0, false), 3), (alarm(3, false), 0), (alarm(0, true), 0)] {
        let mut history = without(4..7);
        insert(&mut history, 1, destroyed(0..10));
        insert(&mut history, 2, event);
        assert_eq!(check(&history).lost, lost);
    }
}

#[test]
fn what_nothing_can_know_of_is_not_lost() {
    let mut history = without(4..7);
    insert(&mut history, 1, Event::Destroyed { items: (4..7).collect(), untold: true });
    let verdict = check(&history);
    assert_eq!((verdict.lost, verdict.given_up), (0, 3));
}

#[test]
fn an_altered_item_is_found_and_so_is_one_that_was_never_sent() {
    let mut altered = good();
    change(&mut altered, |event| {
        if let Event::Exported { items, .. } = event {
            items[3].1 += 1;
        }
    });
    assert_eq!(check(&altered).altered, 1);
    let mut invented = good();
    insert(&mut invented, 8, Event::Exported { items: items(99..101), noted: true });
    assert_eq!(check(&invented).altered, 2);
}

#[test]
fn a_second_commit_and_a_second_export_are_found() {
    let mut again = good();
    insert(&mut again, 8, Event::Committed { segment: (2, 2, 1), items: (2..5).collect() });
    assert_eq!(check(&again).twice, 3, "under another name");
    let mut name = good();
    insert(&mut name, 8, Event::Committed { segment: (1, 2, 1), items: Vec::new() });
    assert_eq!(check(&name).twice, 1, "a name twice");
    let mut exported = good();
    insert(&mut exported, 9, Event::Exported { items: items(0..2), noted: true });
    assert_eq!(check(&exported).twice, 2);
    insert(&mut exported, 9, Event::Restart { side: Side::Ground, power_cut: false });
    assert_eq!(check(&exported).twice, 0, "a restart leaves a request undecided");
    let mut held = good();
    insert(&mut held, 9, Event::Held { side: Side::Ground, items: [items(0..2), items(0..1)].concat() });
    assert_eq!(check(&held).twice, 1);
}

#[test]
fn a_ledger_with_more_in_it_than_there_ever_was_has_something_twice() {
    let mut history = good();
    history.events.retain(|event| !matches!(event, Event::Committed { .. }));
    assert!(check(&history).is_good());
    change(&mut history, |event| {
        if let Event::Account { side: Side::Ground, account } = event {
            (account.taken[2], account.delivered[2]) = (17, 17);
        }
    });
    assert_eq!(check(&history).twice, 5);
}

#[test]
fn accounts_that_do_not_add_up_or_disagree_are_found() {
    let with = |side: Side, edit: fn(&mut Account)| {
        let mut history = good();
        change(&mut history, |event| match event {
            Event::Account { side: of, account } if *of == side => edit(account),
            _ => {}
        });
        check(&history).uncounted
    };
    assert_eq!(with(Side::Agent, |a| a.delivered[2] = 7), 3);
    assert_eq!(with(Side::Agent, |a| (a.taken[2], a.delivered[2]) = (9, 7)), 3, "less than was answered");
    assert_eq!(with(Side::Agent, |a| (a.taken[2], a.held[2]) = (20, 8)), 8, "more than was sent");
    assert_eq!(with(Side::Ground, |a| a.dead[2] = 4), 4);
    assert_eq!(with(Side::Ground, |a| a.dropped.clear()), 2, "the ground does not know of the drop");
    assert_eq!(with(Side::Agent, |a| (a.dropped[0].1[2], a.held[2]) = (1, 1)), 1, "nor the agent");
    let lost = |a: &mut Account| {
        a.delivered[2] -= 3;
        a.dropped.push(("station_lost".to_owned(), [0, 0, 3]));
    };
    assert_eq!(with(Side::Ground, lost), 0, "what the station lost it says");
}

#[test]
fn what_was_refused_and_delivered_is_found_and_shown_apart_when_a_power_cut_came_first() {
    let mut refused = good();
    insert(&mut refused, 9, Event::Exported { items: items(20..22), noted: true });
    let verdict = check(&refused);
    assert_eq!((verdict.refused_delivered, verdict.refused_then_cut), (2, 0));
    insert(&mut refused, 4, Event::Restart { side: Side::Agent, power_cut: false });
    assert_eq!(check(&refused).refused_delivered, 2, "a kill is no excuse");
    insert(&mut refused, 4, Event::Restart { side: Side::Agent, power_cut: true });
    let verdict = check(&refused);
    assert_eq!((verdict.refused_delivered, verdict.refused_then_cut), (0, 2));
    let mut later = good();
    insert(&mut later, 9, Event::Exported { items: items(20..22), noted: true });
    insert(&mut later, 6, Event::Restart { side: Side::Agent, power_cut: true });
    assert_eq!(check(&later).refused_delivered, 2, "it was opened again before the power cut");
}

#[test]
fn an_undecided_request_may_be_there_or_not() {
    let mut there = good();
    insert(&mut there, 1, Event::Undecided { signal: 3, items: items(30..33) });
    assert!(check(&there).is_good());
    insert(&mut there, 9, Event::Exported { items: items(30..33), noted: true });
    assert!(check(&there).is_good());
}

#[test]
fn a_side_that_does_not_go_on_loops_or_panics_is_found() {
    let why = || "why".to_owned();
    let with = |event: Event| {
        let mut history = good();
        insert(&mut history, 6, event);
        check(&history)
    };
    assert_eq!(with(Event::Stuck { side: Side::Agent, why: why() }).stuck, 1);
    assert_eq!(with(Event::CrashLoop { side: Side::Agent, why: why() }).crash_loops, 1);
    assert_eq!(with(Event::Panic { side: Side::Ground, why: why(), handled: false }).panics, 1);
    assert!(with(Event::Panic { side: Side::Ground, why: why(), handled: true }).is_good());
    let mut unfinished = good();
    unfinished.events.pop();
    assert_eq!(check(&unfinished).stuck, 1, "a history without an end");
}

#[test]
fn a_whole_file_that_is_moved_aside_is_a_false_alarm() {
    let quarantined = || Event::Alarm {
        side: Side::Agent,
        name: "quarantined: DB corrupted".to_owned(),
        items: [0; 3],
        unknown: false,
    };
    let mut history = good();
    insert(&mut history, 1, quarantined());
    assert_eq!(check(&history).false_alarms, 1);
    insert(&mut history, 1, destroyed(0..0));
    assert!(check(&history).is_good());
}

#[test]
fn a_fault_that_did_not_happen_or_met_nothing_is_no_run() {
    let mut idle = good();
    change(&mut idle, |event| {
        if let Event::Fault { fired, .. } = event {
            *fired = false;
        }
    });
    assert!(!check(&idle).counts());
    let mut empty = History::new("fault", Side::Ground, 1);
    empty.events.extend([Event::Fault { what: "fault".to_owned(), fired: true }, Event::End]);
    assert!(check(&empty).fired && !check(&empty).counts());
}

#[test]
fn a_history_comes_back_from_its_file_as_it_was() {
    let history = without(1..3);
    let mut file = Vec::new();
    history.write(&mut file).unwrap();
    assert_eq!(History::read(file.as_slice()).unwrap(), history);
}
