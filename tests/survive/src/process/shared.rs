//! The faults that meet stations which share a ledger: of the stations, and of the three servers.

use std::time::Duration;

use fleet::{Cluster, network};
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use rand::Rng;
use rand::rngs::SmallRng;

use super::rig::Rig;
use super::runs::go_on;
use crate::history::{Event, Side};
use crate::programs::AHEAD;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the station that takes segments.
    Station,
    /// kill -9 of the one that exports beside it.
    Exporter,
    /// The primary is killed for good, a standby leads, and the primary begins again as a standby.
    Primary,
    /// kill -9 of the primary, which comes back and recovers.
    PrimaryRestarts,
    /// kill -9 of a standby; the other one has each commit.
    Standby,
    /// kill -9 of both standbys for a while: nothing can be acknowledged.
    BothStandbys,
    /// A standby loses its disk.
    StandbyDisk,
    /// SIGSTOP of the station that takes segments, for longer than a lease.
    StationStops,
    /// SIGSTOP of the one that exports beside it.
    ExporterStops,
    /// SIGSTOP of all of the primary's processes, for longer than a station waits.
    PrimaryStops,
    /// The primary is cut off, a standby leads, and the primary is connected again: it still believes that it leads.
    PrimaryCutOff,
    /// Both standbys are cut off: nothing can be acknowledged.
    StandbysCutOff,
    /// All servers are cut off, from each other too.
    AllCutOff,
    /// The stations' clocks are two minutes apart and the servers' between them; both are killed, and come back with each other's.
    ClocksApart,
}

/// Every fault with its name.
pub const ALL: [(&str, Fault); 14] = [
    ("fleet_station_kill_9", Fault::Station),
    ("fleet_exporter_kill_9", Fault::Exporter),
    ("fleet_primary_gone", Fault::Primary),
    ("fleet_primary_kill_9", Fault::PrimaryRestarts),
    ("fleet_standby_kill_9", Fault::Standby),
    ("fleet_two_nodes_kill_9", Fault::BothStandbys),
    ("fleet_standby_disk_lost", Fault::StandbyDisk),
    ("fleet_station_sigstop", Fault::StationStops),
    ("fleet_exporter_sigstop", Fault::ExporterStops),
    ("fleet_primary_sigstop", Fault::PrimaryStops),
    ("fleet_primary_cut_off", Fault::PrimaryCutOff),
    ("fleet_standbys_cut_off", Fault::StandbysCutOff),
    ("fleet_all_cut_off", Fault::AllCutOff),
    ("fleet_clocks_apart", Fault::ClocksApart),
];

impl Fault {
    /// Whether this machine can have it; why not, if not.
    pub fn can_run(self) -> Result<(), String> {
        if !fleet::is_there() {
            return Err("needs PostgreSQL 15 or later".to_owned());
        }
        if self.is_of_network() { network::can_enter() } else { Ok(()) }
    }

    /// Whether it needs a network of its own.
    pub const fn is_of_network(self) -> bool {
        matches!(self, Self::PrimaryCutOff | Self::StandbysCutOff | Self::AllCutOff)
    }
}

/// Does something with the servers; they are waited for.
fn with_servers<T: Default>(rig: &mut Rig, work: impl FnOnce(&mut Cluster) -> T) -> T {
    let Some(shared) = &mut rig.shared else { return T::default() };
    tokio::task::block_in_place(|| work(&mut shared.cluster))
}

/// One run: load goes on while it happens again and again.
pub(super) async fn run(rig: &mut Rig, fault: Fault, chance: &mut SmallRng) -> anyhow::Result<bool> {
    let start = if fault.is_of_network() { Cluster::start_apart } else { Cluster::start };
    let Some(cluster) = tokio::task::block_in_place(start) else { return Ok(false) };
    rig.share(cluster);
    if fault == Fault::ClocksApart {
        set_clocks(rig, 60);
    }
    let load = rig.start_beside_another().await?;
    go_on(rig, 800).await;
    // What takes seconds each time happens fewer times.
    let times = match fault {
        Fault::Station | Fault::Exporter => 4,
        Fault::Primary | Fault::PrimaryRestarts | Fault::Standby | Fault::ClocksApart => 2,
        _ => 1,
    };
    for nth in 0..times {
        once(rig, fault, nth, chance).await;
        go_on(rig, chance.random_range(200..1_200)).await;
    }
    load.stop().await;
    Ok(true)
}

async fn once(rig: &mut Rig, fault: Fault, nth: u32, chance: &mut SmallRng) {
    let which = chance.random_range(0..2);
    let stopped = chance.random_range(2_500..6_000);
    match fault {
        Fault::Station => {
            rig.kill(Side::Ground).await;
            rig.start(Side::Ground);
        }
        Fault::Exporter => {
            kill_other(rig).await;
            // Its lanes are free again when its lease is over, or when it is back.
            go_on(rig, chance.random_range(0..3_000)).await;
            rig.start_other();
        }
        Fault::Primary => {
            let was = with_servers(rig, Cluster::fail_over);
            go_on(rig, chance.random_range(0..2_000)).await;
            with_servers(rig, |cluster| cluster.rebuild(was));
        }
        Fault::PrimaryRestarts => {
            with_servers(rig, |cluster| {
                cluster.primary().signal("KILL");
                cluster.primary().begin();
            });
        }
        Fault::Standby => {
            with_servers(rig, |cluster| cluster.standby(which).signal("KILL"));
            go_on(rig, chance.random_range(500..2_500)).await;
            with_servers(rig, |cluster| cluster.standby(which).begin());
        }
        Fault::BothStandbys => {
            with_servers(rig, |cluster| (0..2).for_each(|n| cluster.standby(n).signal("KILL")));
            go_on(rig, stopped).await;
            with_servers(rig, |cluster| (0..2).for_each(|n| cluster.standby(n).begin()));
        }
        Fault::StandbyDisk => {
            with_servers(rig, |cluster| cluster.standby(which).signal("KILL"));
            go_on(rig, 500).await;
            with_servers(rig, |cluster| cluster.rebuild(which));
        }
        Fault::StationStops => {
            rig.ground.process.signal(SIGSTOP);
            // Nothing is tended meanwhile: it does not answer, and has not ended.
            tokio::time::sleep(Duration::from_millis(stopped)).await;
            may_be_replaced(rig);
            rig.ground.process.signal(SIGCONT);
        }
        Fault::ExporterStops => {
            signal_other(rig, SIGSTOP);
            go_on(rig, stopped).await;
            may_be_replaced(rig);
            signal_other(rig, SIGCONT);
        }
        Fault::PrimaryStops => {
            with_servers(rig, |cluster| cluster.primary().signal_all("STOP"));
            go_on(rig, stopped).await;
            with_servers(rig, |cluster| cluster.primary().signal_all("CONT"));
        }
        Fault::PrimaryCutOff => {
            with_servers(rig, |cluster| cluster.primary().plug(false));
            go_on(rig, stopped).await;
            // The worker that finds the next primary last has been silent for longer than a lease of 2 s.
            may_be_replaced(rig);
            let was = with_servers(rig, Cluster::succeed);
            go_on(rig, chance.random_range(0..4_000)).await;
            with_servers(rig, |cluster| cluster.standby(was).plug(true));
            go_on(rig, stopped).await;
            // Ended in order it would wait for standbys that have left it.
            with_servers(rig, |cluster| {
                cluster.standby(was).signal("KILL");
                cluster.rebuild(was);
            });
        }
        Fault::StandbysCutOff => {
            with_servers(rig, |cluster| (0..2).for_each(|n| cluster.standby(n).plug(false)));
            go_on(rig, stopped).await;
            with_servers(rig, |cluster| (0..2).for_each(|n| cluster.standby(n).plug(true)));
        }
        Fault::AllCutOff => {
            with_servers(rig, |cluster| cluster.plug_all(false));
            go_on(rig, stopped).await;
            with_servers(rig, |cluster| cluster.plug_all(true));
        }
        Fault::ClocksApart => {
            rig.kill(Side::Ground).await;
            kill_other(rig).await;
            set_clocks(rig, if nth.is_multiple_of(2) { -60 } else { 60 });
            rig.start(Side::Ground);
            go_on(rig, chance.random_range(0..3_000)).await;
            rig.start_other();
        }
    }
}

async fn kill_other(rig: &mut Rig) {
    if let Some(shared) = &mut rig.shared {
        shared.other.process.kill().await;
    }
    may_be_replaced(rig);
}

/// From their next start on, the one station's clock is so many seconds ahead, and the other one's as much behind.
fn set_clocks(rig: &mut Rig, ahead: i64) {
    rig.ground.process.set(AHEAD, &ahead.to_string());
    if let Some(shared) = &mut rig.shared {
        shared.other.process.set(AHEAD, &(-ahead).to_string());
    }
}

/// A worker was killed, or not heard of for a lease: what it was sending is sent by another one too, from now on.
fn may_be_replaced(rig: &mut Rig) {
    rig.read_sinks();
    rig.note(Event::Restart { side: Side::Ground, power_cut: false });
}

fn signal_other(rig: &Rig, signal: nix::sys::signal::Signal) {
    if let Some(shared) = &rig.shared {
        shared.other.process.signal(signal);
    }
}
