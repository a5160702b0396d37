//! The faults that meet real processes.

use std::time::Duration;

use e2e::Programs;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::rig::Rig;
use super::shared;
use crate::damage::{Backup, Damage, Replaced};
use crate::history::{Event, History, Side};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The write-back of a working process fails for 3 s, then the power goes. `restarts`: kill -9 and more load before that.
    WriteBack {
        /// The process is killed and started again without a power cut in between.
        restarts: bool,
    },
    /// The file system is full for some seconds.
    Full,
    /// The file is damaged. `running`: while the process runs.
    Damaged(Damage, bool),
    /// The file is another one. `running`: while the process runs.
    Replaced(Replaced, bool),
    /// kill -9 at random moments while the link comes and goes.
    Kill,
    /// SIGSTOP for some seconds.
    Stop,
    /// kill -9 within the first start.
    FirstStart,
    /// Of stations that share a ledger, or of its servers.
    Shared(shared::Fault),
}

/// Every fault with its name.
pub fn all() -> impl Iterator<Item = (&'static str, Fault)> {
    ALONE.into_iter().chain(shared::ALL.into_iter().map(|(name, fault)| (name, Fault::Shared(fault))))
}

const ALONE: [(&str, Fault); 17] = [
    ("real_write_back", Fault::WriteBack { restarts: false }),
    ("real_write_back_restart", Fault::WriteBack { restarts: true }),
    ("real_full", Fault::Full),
    ("real_bit_flip", Fault::Damaged(Damage::BitFlip, false)),
    ("real_bit_flip_running", Fault::Damaged(Damage::BitFlip, true)),
    ("real_zero_page", Fault::Damaged(Damage::ZeroPage, false)),
    ("real_zero_page_running", Fault::Damaged(Damage::ZeroPage, true)),
    ("real_missing_file", Fault::Replaced(Replaced::Missing, false)),
    ("real_missing_file_running", Fault::Replaced(Replaced::Missing, true)),
    ("real_missing_directory", Fault::Replaced(Replaced::AllMissing, false)),
    ("real_empty_file", Fault::Replaced(Replaced::Empty, false)),
    ("real_older_file", Fault::Replaced(Replaced::Older, false)),
    ("real_older_directory", Fault::Replaced(Replaced::AllOlder, false)),
    ("real_foreign_file", Fault::Replaced(Replaced::Foreign, false)),
    ("real_kill_9", Fault::Kill),
    ("real_sigstop", Fault::Stop),
    ("real_first_start_killed", Fault::FirstStart),
];

impl Fault {
    /// Why this machine cannot have it, if so.
    pub fn is_impossible(self) -> Option<String> {
        match self {
            Self::WriteBack { .. } | Self::Full => super::volume::can_mount().err(),
            Self::Shared(fault) => fault.can_run().err(),
            _ => None,
        }
    }

    /// Whether it is meant for the store of this side.
    pub const fn meets(self, side: Side) -> bool {
        matches!(side, Side::Ground) || !matches!(self, Self::Shared(_))
    }

    /// Whether it is one for CI, where each row costs seconds.
    pub const fn is_for_ci(self) -> bool {
        matches!(
            self,
            Self::WriteBack { .. }
                | Self::Full
                | Self::Damaged(Damage::ZeroPage, true)
                | Self::Replaced(Replaced::Missing | Replaced::Older | Replaced::AllOlder, false)
                | Self::Kill
                | Self::FirstStart
                | Self::Shared(_)
        )
    }
}

/// One run, in a network of its own if it needs that.
pub async fn run(
    programs: Programs,
    name: &str,
    fault: Fault,
    side: Side,
    seed: u64,
) -> anyhow::Result<History> {
    if !matches!(fault, Fault::Shared(fault) if fault.is_of_network()) {
        return run_here(programs, name, fault, side, seed).await;
    }
    // A network belongs to threads, so these are the run's own too.
    let name = name.to_owned();
    let apart = tokio::task::spawn_blocking(move || {
        let apart = std::thread::spawn(move || {
            fleet::network::enter().map_err(anyhow::Error::msg)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(run_here(programs, &name, fault, side, seed))
        });
        apart.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    apart.await?
}

async fn run_here(
    programs: Programs,
    name: &str,
    fault: Fault,
    side: Side,
    seed: u64,
) -> anyhow::Result<History> {
    let mut chance = SmallRng::seed_from_u64(seed);
    let volume = match fault {
        Fault::WriteBack { .. } => Some((192, 512)),
        // What a run stores is a part of it: a volume that is full of the store itself stays full.
        Fault::Full => Some((320, 256)),
        _ => None,
    };
    let mut rig = Rig::new(programs, name, side, seed, volume).await?;
    // What is to be lost must be there: on board without a link, or in the spool without a backend.
    let keeps = match fault {
        Fault::Kill | Fault::Stop | Fault::FirstStart | Fault::Shared(_) => false,
        // Of a later state that no ground has met nobody knows.
        Fault::Replaced(Replaced::AllOlder, _) => side == Side::Ground,
        _ => true,
    };
    if keeps && side == Side::Ground {
        rig.set_backend(false);
    }
    let fired = match fault {
        Fault::FirstStart => first_start(&mut rig, side, &mut chance).await?,
        Fault::Shared(fault) => shared::run(&mut rig, fault, &mut chance).await?,
        fault => {
            rig.start_all().await?;
            if keeps && side == Side::Agent {
                // The ground has met the satellite: it alone knows of a log whose whole directory is gone.
                rig.meet().await?;
                rig.link.cut();
            }
            match fault {
                Fault::WriteBack { restarts } => write_back(&mut rig, side, restarts, &mut chance).await?,
                Fault::Full => full(&mut rig, side).await?,
                Fault::Damaged(damage, running) => {
                    damaged(&mut rig, side, damage, running, &mut chance).await?
                }
                Fault::Replaced(with, running) => replaced(&mut rig, programs, side, with, running).await?,
                Fault::Kill => kill(&mut rig, side, &mut chance).await?,
                Fault::Stop => stop(&mut rig, side, &mut chance).await?,
                Fault::FirstStart | Fault::Shared(_) => unreachable!("above"),
            }
        }
    };
    rig.settle(name, fired).await?;
    let history = std::mem::take(&mut *super::load::noted(&rig.history));
    Ok(history)
}

/// Lets the world go on for so long; what ends is started again.
pub(super) async fn go_on(rig: &mut Rig, ms: u64) {
    // Not a wait for anything: load runs for this long.
    for _ in 0..ms.div_ceil(100) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.tend().await;
    }
}

const FAILED: [&str; 5] = ["os error 5", "Input/output", "os error 28", "No space", "is full"];

async fn write_back(
    rig: &mut Rig,
    side: Side,
    restarts: bool,
    chance: &mut SmallRng,
) -> anyhow::Result<bool> {
    let load = rig.load(2, 6_000);
    go_on(rig, 1_500).await;
    for _ in 0..1 + chance.random_range(0..2) {
        if let Some(volume) = &rig.volume {
            volume.fill()?;
        }
        go_on(rig, 3_000).await;
        if let Some(volume) = &rig.volume {
            volume.free()?;
        }
        go_on(rig, chance.random_range(2_000..4_000)).await;
    }
    let fired = rig.said(side, &FAILED);
    if restarts {
        rig.kill(side).await;
        rig.start(side);
        go_on(rig, chance.random_range(2_000..4_000)).await;
    }
    rig.cut_power().await?;
    load.stop().await;
    Ok(fired)
}

async fn full(rig: &mut Rig, side: Side) -> anyhow::Result<bool> {
    let load = rig.load(2, 6_000);
    go_on(rig, 1_000).await;
    if let Some(volume) = &rig.volume {
        volume.fill_inside()?;
    }
    go_on(rig, 4_000).await;
    let fired = rig.said(side, &FAILED);
    if let Some(volume) = &rig.volume {
        volume.free_inside()?;
    }
    go_on(rig, 2_000).await;
    load.stop().await;
    rig.cut_power().await?;
    Ok(fired)
}

/// Has some hundred KiB in the store under test.
async fn have_some(rig: &mut Rig, side: Side) {
    let load = rig.load(3, 6_000);
    go_on(rig, 800).await;
    load.stop().await;
    if side == Side::Ground {
        // Until it is in the spool; what is not by then is not destroyed there.
        go_on(rig, 1_500).await;
    }
}

/// What the store under test holds is taken away, wholly or in part.
fn destroy(rig: &mut Rig) {
    let items = rig.inside();
    rig.note(Event::Destroyed { items, untold: false });
}

async fn damaged(
    rig: &mut Rig,
    side: Side,
    damage: Damage,
    running: bool,
    chance: &mut SmallRng,
) -> anyhow::Result<bool> {
    have_some(rig, side).await;
    if !running {
        rig.kill(side).await;
    }
    destroy(rig);
    let path = rig.file();
    let before = std::fs::read(&path)?;
    let mut content = before.clone();
    damage.apply(&mut content, chance);
    write_changes(&path, &before, &content)?;
    if running {
        let load = rig.load(2, 3_000);
        go_on(rig, 2_000).await;
        load.stop().await;
        // What came meanwhile may depend on what is damaged.
        destroy(rig);
        rig.kill(side).await;
    }
    Ok(before != content)
}

/// Writes the pages that differ: a running process writes others.
fn write_changes(path: &std::path::Path, before: &[u8], after: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    const PAGE: usize = 4096;
    let file = std::fs::File::options().write(true).open(path)?;
    for (n, page) in after.chunks(PAGE).enumerate() {
        if before.get(n * PAGE..n * PAGE + page.len()) != Some(page) {
            file.write_all_at(page, (n * PAGE) as u64)?;
        }
    }
    if after.len() < before.len() {
        file.set_len(after.len() as u64)?;
    }
    Ok(())
}

async fn replaced(
    rig: &mut Rig,
    programs: Programs,
    side: Side,
    with: Replaced,
    running: bool,
) -> anyhow::Result<bool> {
    have_some(rig, side).await;
    let path = rig.file();
    let backup: Backup = match with {
        Replaced::Older | Replaced::AllOlder => {
            rig.kill(side).await;
            let files = std::fs::read_dir(rig.store(side))?.map(|entry| {
                let path = entry?.path();
                Ok((path.clone(), std::fs::read(&path)?))
            });
            let backup = files.collect::<std::io::Result<_>>()?;
            rig.start(side);
            rig.answers(side, Duration::from_secs(20)).await.map_err(anyhow::Error::msg)?;
            have_some(rig, side).await;
            backup
        }
        Replaced::Foreign => [(path.clone(), Box::pin(foreign(programs, side)).await?)].into(),
        _ => Backup::new(),
    };
    if !running {
        rig.kill(side).await;
    }
    destroy(rig);
    match with {
        Replaced::Missing => std::fs::remove_file(&path)?,
        Replaced::AllMissing => std::fs::remove_dir_all(rig.store(side))?,
        Replaced::Empty | Replaced::Older | Replaced::Foreign => {
            std::fs::remove_file(&path)?;
            std::fs::write(&path, backup.get(&path).map_or(&[][..], |content| content))?;
        }
        Replaced::AllOlder => {
            std::fs::remove_dir_all(rig.store(side))?;
            std::fs::create_dir_all(rig.store(side))?;
            for (path, content) in &backup {
                std::fs::write(path, content)?;
            }
        }
    }
    if running {
        let load = rig.load(2, 3_000);
        go_on(rig, 2_000).await;
        load.stop().await;
        rig.kill(side).await;
    }
    Ok(true)
}

/// The file of another satellite or station.
async fn foreign(programs: Programs, side: Side) -> anyhow::Result<Vec<u8>> {
    let mut other = Rig::new(programs, "", side, 99, None).await?;
    match side {
        Side::Agent => other.link.cut(),
        Side::Ground => other.set_backend(false),
    }
    other.of_another_satellite();
    other.start_all().await?;
    have_some(&mut other, side).await;
    for side in [Side::Agent, Side::Ground] {
        other.kill(side).await;
    }
    Ok(std::fs::read(other.file())?)
}

async fn kill(rig: &mut Rig, side: Side, chance: &mut SmallRng) -> anyhow::Result<bool> {
    let other = if side == Side::Agent { Side::Ground } else { Side::Agent };
    let load = rig.load(1, 3_000);
    for _ in 0..6 {
        go_on(rig, chance.random_range(100..900)).await;
        rig.kill(side).await;
        rig.start(side);
        if chance.random_bool(0.3) {
            rig.kill(other).await;
            rig.start(other);
        }
        if chance.random_bool(0.5) {
            rig.link.cut();
            go_on(rig, chance.random_range(100..500)).await;
            rig.link.restore();
        }
    }
    load.stop().await;
    Ok(true)
}

async fn stop(rig: &mut Rig, side: Side, chance: &mut SmallRng) -> anyhow::Result<bool> {
    let load = rig.load(1, 3_000);
    go_on(rig, 500).await;
    let process = if side == Side::Agent { &rig.agent.process } else { &rig.ground.process };
    process.signal(nix::sys::signal::Signal::SIGSTOP);
    // Nothing is tended meanwhile: it does not answer, and has not ended.
    tokio::time::sleep(Duration::from_millis(chance.random_range(1_000..6_000))).await;
    let process = if side == Side::Agent { &rig.agent.process } else { &rig.ground.process };
    process.signal(nix::sys::signal::Signal::SIGCONT);
    go_on(rig, 500).await;
    load.stop().await;
    Ok(true)
}

async fn first_start(rig: &mut Rig, side: Side, chance: &mut SmallRng) -> anyhow::Result<bool> {
    for _ in 0..12 {
        rig.start(side);
        tokio::time::sleep(Duration::from_millis(chance.random_range(0..90))).await;
        rig.kill(side).await;
        rig.tend().await;
        // The next one is a first start again.
        if rig.store(side).exists() && !rig.said(side, &["quarantine"]) {
            rig.start(side);
            rig.answers(side, Duration::from_secs(20)).await.map_err(anyhow::Error::msg)?;
            rig.kill(side).await;
            rig.tend().await;
            std::fs::remove_dir_all(rig.store(side))?;
        }
    }
    let other = if side == Side::Agent { Side::Ground } else { Side::Agent };
    rig.start(other);
    rig.start(side);
    for side in [Side::Agent, Side::Ground] {
        rig.answers(side, Duration::from_secs(20)).await.map_err(anyhow::Error::msg)?;
    }
    rig.send(2_000).await;
    Ok(true)
}
