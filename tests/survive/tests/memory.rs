//! Both stores on a disk in memory that does what disks do. Seeds are those of `bench survive`, which repeats a run.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use survive::{Campaign, Side, check, faults};

/// Runs every fault whose name `meant` accepts, on both stores; every promise must be kept in each run.
fn holds(seeds: u64, meant: impl Fn(&str) -> bool) {
    let mut campaign = Campaign::new().unwrap();
    let mut broken = Vec::new();
    let mut any = false;
    for (name, kind) in faults::ALL.into_iter().filter(|(name, _)| meant(name)) {
        for side in [Side::Agent, Side::Ground] {
            any = true;
            let row = campaign.row(name, kind, side, 0..seeds);
            println!("{row:?}");
            if !row.is_good() {
                let repeat: Vec<String> = row.bad_seeds.iter().map(|seed| row.repeat(*seed)).collect();
                broken.push(format!("{row:?}\n    {}", repeat.join("\n    ")));
            }
        }
    }
    assert!(any, "no fault has such a name");
    assert!(broken.is_empty(), "promises were broken:\n{}", broken.join("\n"));
}

#[test]
fn a_power_cut_at_any_operation_and_one_more_in_recovery_cost_nothing() {
    holds(100, |name| name.starts_with("power_loss"));
}

#[test]
fn a_kill_at_any_operation_costs_nothing() {
    holds(60, |name| name == "kill_9");
}

#[test]
fn a_first_start_that_is_killed_is_no_damage() {
    holds(40, |name| name == "first_start_killed");
}

#[test]
fn an_operation_that_fails_costs_nothing_and_what_was_refused_is_not_delivered() {
    holds(12, |name| name.starts_with("eio") || name.starts_with("enospc") || name == "short_write");
    holds(24, |name| name == "failed_sync" || name == "unsaid_loss");
}

#[test]
fn a_full_disk_costs_nothing() {
    holds(10, |name| name == "disk_full");
}

#[test]
fn nothing_is_acknowledged_that_leans_on_pages_whose_write_back_failed() {
    holds(20, |name| name.starts_with("write_back"));
}

#[test]
fn a_disk_that_lies_about_syncs_costs_what_is_reported() {
    holds(8, |name| name == "lying_sync");
}

#[test]
fn a_wrong_bit_is_never_delivered_and_what_it_costs_is_reported() {
    holds(6, |name| name.starts_with("bit_flip"));
}

#[test]
fn a_wrong_page_is_never_delivered_and_what_it_costs_is_reported() {
    holds(3, |name| name.starts_with("zero_page") || name.starts_with("swapped") || name.starts_with("torn"));
}

#[test]
fn a_file_of_the_wrong_length_is_noticed_and_what_it_costs_is_reported() {
    holds(3, |name| name.starts_with("cut_file") || name.starts_with("grown_file"));
}

#[test]
fn a_file_that_is_gone_empty_older_or_anothers_is_noticed_and_what_it_costs_is_reported() {
    holds(6, |name| ["missing", "empty", "older", "foreign"].iter().any(|begin| name.starts_with(begin)));
}

/// Runs that once broke a promise, of faults that have more seeds than the others try.
#[test]
fn what_broke_once_holds() {
    let mut campaign = Campaign::new().unwrap();
    let runs = [("cut_file_running", vec![18, 73, 152, 167]), ("lying_sync", vec![84])];
    for (fault, seeds) in runs {
        let (name, kind) = faults::ALL.into_iter().find(|(name, _)| *name == fault).unwrap();
        let row = campaign.row(name, kind, Side::Ground, seeds.into_iter());
        assert!(row.is_good(), "{row:?}");
    }
}

#[test]
fn a_clock_that_jumps_costs_nothing() {
    holds(8, |name| name == "clock_jump");
}

#[test]
fn the_same_seed_makes_the_same_history() {
    for (name, kind) in faults::ALL.into_iter().step_by(4) {
        for side in [Side::Agent, Side::Ground] {
            let one = Campaign::new().unwrap().fly(name, kind, side, 3);
            let two = Campaign::new().unwrap().fly(name, kind, side, 3);
            assert_eq!(check(&one), check(&two), "{name} on the {}", side.name());
            let accepted = |history: &survive::History| {
                let mut all = history.events.clone();
                // A quarantined file's name has the directory in it, which is another one.
                all.retain(|event| !matches!(event, survive::Event::Alarm { .. }));
                all
            };
            assert_eq!(accepted(&one), accepted(&two), "{name} on the {}", side.name());
        }
    }
}
