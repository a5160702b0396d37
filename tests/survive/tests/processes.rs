//! Real processes on real file systems. What needs mounts says so and is skipped where there are none.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use e2e::Programs;
use survive::process::{self, Fault};
use survive::{Row, Side, check};

const PROGRAMS: Programs = Programs {
    agent: env!("CARGO_BIN_EXE_survive-space-agent"),
    ground: env!("CARGO_BIN_EXE_survive-ground-station"),
};

/// Runs every fault for CI that `meant` accepts, once on each side; every promise must be kept.
async fn holds(meant: impl Fn(Fault) -> bool) {
    let mut broken = Vec::new();
    for (name, fault) in process::all().filter(|(_, fault)| fault.is_for_ci() && meant(*fault)) {
        if let Some(why) = fault.is_impossible() {
            eprintln!("{name} is skipped: {why}");
            continue;
        }
        for side in [Side::Agent, Side::Ground].into_iter().filter(|side| fault.meets(*side)) {
            let seed = e2e::seed(name);
            let history = Box::pin(process::run(PROGRAMS, name, fault, side, seed)).await.unwrap();
            let mut row = Row::new(name, side);
            row.add(seed, &check(&history));
            println!("{row:?}");
            if !row.is_good() {
                broken.push(format!("{row:?}\n    {}", row.repeat(seed)));
            }
        }
    }
    assert!(broken.is_empty(), "promises were broken:\n{}", broken.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_that_leans_on_pages_whose_write_back_failed() {
    holds(|fault| fault == Fault::WriteBack { restarts: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_after_a_failed_write_back_trusts_the_medium_and_not_the_cache() {
    holds(|fault| fault == Fault::WriteBack { restarts: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_system_costs_nothing() {
    holds(|fault| fault == Fault::Full).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_under_a_running_process_is_reported() {
    holds(|fault| matches!(fault, Fault::Damaged(..))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_gone_or_older_is_reported() {
    holds(|fault| matches!(fault, Fault::Replaced(..))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_either_side_under_a_link_that_comes_and_goes_costs_nothing() {
    holds(|fault| fault == Fault::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_that_is_killed_is_no_damage() {
    holds(|fault| fault == Fault::FirstStart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stations_that_share_a_ledger_lose_nothing_whichever_of_them_or_of_its_servers_ends_or_hangs() {
    holds(|fault| matches!(fault, Fault::Shared(fault) if !fault.is_of_network())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stations_that_share_a_ledger_lose_nothing_when_its_servers_are_cut_off() {
    holds(|fault| matches!(fault, Fault::Shared(fault) if fault.is_of_network())).await;
}
