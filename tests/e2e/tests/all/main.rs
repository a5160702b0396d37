//! End-to-end and crash tests of both programs as real processes.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod collector;
mod configuration;
mod contacts;
mod crash;
mod direct;
mod fleet;
mod full;
mod goodput;
mod hostile;
mod hostile_station;
mod lanes;
mod listeners;
mod own;
mod panics;
mod passes;
mod quarantine;
mod recode;
mod resume;
mod salvage;
mod shutdown;
mod slots;
mod stations;
mod thin;
mod top;

use e2e::{Agent, Ground, Ledger, Programs, SATELLITE};
use perigee_shared::signal::{Counts, Signal};
use serde_json::Value;

/// The programs, built with these tests.
const PROGRAMS: Programs = Programs {
    agent: env!("CARGO_BIN_EXE_e2e-space-agent"),
    ground: env!("CARGO_BIN_EXE_e2e-ground-station"),
};

/// Items by signal as the ground's API writes them.
fn items(value: &Value) -> Counts {
    let mut out = Counts::default();
    for signal in Signal::ALL {
        out[signal] = value[signal.items_name()].as_u64().unwrap_or(0);
    }
    out
}

/// When everything has left the agent and the ground has exported it: nothing acknowledged is lost, every item is somewhere
/// and nowhere twice. Returns how often ids are at the sink a second time.
async fn settle(agent: &mut Agent, ground: &mut Ground, ledger: &Ledger) -> u64 {
    agent.drained().await;
    let here = agent.account().await;
    let least = Signal::ALL.into_iter().all(|s| here.accepted[s] >= ledger.items[s]);
    assert!(least, "accepted {:?}, acknowledged {:?}", here.accepted, ledger.items);
    let most = ledger.items + ledger.undecided_items;
    let at_most = Signal::ALL.into_iter().all(|s| here.accepted[s] <= most[s]);
    assert!(at_most, "accepted {:?}, sent {most:?}", here.accepted);
    ground.exported(here.delivered).await;
    let account = ground.accounting_of(SATELLITE).await;
    let [committed, exported, dead, dropped] =
        ["committed", "exported", "dead_lettered", "dropped"].map(|k| items(&account[k]));
    assert_eq!(committed, here.delivered, "committed is what was delivered: {account:#}");
    assert_eq!(here.accepted, exported + dead + dropped, "the account of {SATELLITE}: {account:#}");
    assert_eq!(account["hash_mismatches"], 0, "{account:#}");
    assert!(
        !ground
            .metrics()
            .await
            .lines()
            .any(|l| l.starts_with("perigee_link_conflicts") && !l.ends_with(" 0"))
    );

    let arrived = ground.sink.ids();
    if dropped == Counts::default() {
        let lost: Vec<_> = ledger.acknowledged.iter().filter(|id| !arrived.contains_key(*id)).collect();
        assert!(lost.is_empty(), "{} acknowledged items are lost: {lost:?}", lost.len());
        let distinct = arrived.len() as u64;
        assert_eq!(distinct, here.accepted.total(), "as many different items as were accepted");
    }
    let invented =
        arrived.keys().filter(|id| !ledger.acknowledged.contains(*id) && !ledger.undecided.contains(*id));
    assert_eq!(invented.count(), 0, "nothing arrives that was refused or never sent");
    arrived.values().map(|n| n - 1).sum()
}
