//! `storage.volatile: accept`: with its store gone for good the agent runs on in memory, within a bound, and says so.
//!
//! The log in memory is a log like any other, with an epoch of its own, on files that are gone when the process ends. The store is
//! tried from time to time. When one can be made again, what is left in memory is appended to it, and a new epoch begins.

use std::sync::Arc;

use perigee_proto::link::{self, DropReason};
use perigee_shared::env::Env;
use perigee_shared::segment::{Decoder, Lane};
use perigee_shared::signal::{Counts, TimeRange};
use perigee_shared::store::{Database, Done, Memory, StoreError};
use prost::Message;
use serde::Deserialize;

use super::group::{self, Accepted};
use super::state::{Edit, State};
use super::tables::{CONSUMERS, EPOCHS, JOURNAL};
use super::{Notes, Wal, WalConfig, WalError, drops};

/// How long a store fails before it is taken for gone, in ns.
const GONE_AFTER: u64 = 60_000_000_000;

/// How often a store that is gone is tried, in ns.
const TRY_EVERY: u64 = 60_000_000_000;

/// How long the store waits then for answers to what was sent from memory, in ns: what is appended to it is sent once more.
const ANSWERED_WITHIN: u64 = 60_000_000_000;

/// Requests that are appended together when the store is back.
const TOGETHER: usize = 64;

/// What happens when the store is gone for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Volatile {
    /// Requests are refused, retryably; when the store is given up, the agent ends.
    #[default]
    Refuse,
    /// Requests are accepted into memory, where a crash or a power cut loses them.
    Accept,
}

/// The store that is gone, while the log is in memory.
pub(super) struct Away {
    env: Env,
    config: WalConfig,
    why: String,
    next_try: u64,
}

/// What became of what was accepted without a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InMemory {
    /// The log is in memory now.
    pub now: bool,
    /// Items accepted while it was.
    pub accepted: Counts,
    /// Of those, items that were appended to a store when there was one again.
    pub stored: Counts,
}

/// A log in memory, with the settings of `config`.
pub(super) fn in_memory(env: &Env, config: &WalConfig) -> Result<Database<State>, StoreError> {
    let mut env = env.clone();
    env.store = Arc::new(Memory::default());
    let config =
        WalConfig { max_bytes: config.max_bytes.min(config.volatile_bytes), ballast: 0, ..config.clone() };
    let directory = config.directory.clone();
    Database::open(env, &directory, config, 0)
}

/// Begins a log in memory when the store cannot be opened at all.
pub(super) fn open(config: WalConfig, env: &Env, error: &StoreError) -> Result<Wal, WalError> {
    let mut wal = Wal::with(in_memory(env, &config)?)?;
    let next_try = env.since_boot().nano.saturating_add(TRY_EVERY);
    leave(&mut wal, Away { env: env.clone(), config, why: error.to_string(), next_try }, 0)?;
    Ok(wal)
}

/// Goes on in memory when the store is gone and that is allowed; else `error` stands.
pub(super) fn survive(wal: &mut Wal, error: StoreError) -> Result<(), WalError> {
    let now = wal.env().since_boot().nano;
    let since = *wal.failing_since.get_or_insert(now);
    let is_gone = matches!(error, StoreError::GivenUp(_)) || now.saturating_sub(since) >= GONE_AFTER;
    if wal.away.is_some() || wal.config().volatile == Volatile::Refuse || !is_gone {
        if let StoreError::GivenUp(why) = &error {
            wal.given_up.send_replace(Some(why.clone()));
        }
        return Err(error.into());
    }
    let (env, config) = (wal.env().clone(), wal.config().clone());
    let (known, consumers) = (wal.state().life.start_counter, wal.state().consumers.clone());
    let memory = in_memory(&env, &config)?;
    let next_try = env.since_boot().nano.saturating_add(TRY_EVERY);
    wal.log = memory;
    // Consumers keep their numbers, which the shipper and the exporters hold.
    wal.log.write::<_, WalError>(|txn, _| {
        let mut table = txn.open_table(CONSUMERS)?;
        for (name, id) in &consumers {
            table.insert(name.as_str(), *id)?;
        }
        Ok(Done { out: (), change: vec![Edit::Consumers(consumers)] })
    })?;
    leave(wal, Away { env, config, why: error.to_string(), next_try }, known)
}

fn leave(wal: &mut Wal, away: Away, known: u64) -> Result<(), WalError> {
    tracing::error!(
        event.name = "perigee.wal.volatile",
        why = away.why,
        bytes = wal.config().max_bytes,
        "the store is gone; requests are accepted into memory, where a crash or a power cut loses them"
    );
    wal.away = Some(away);
    (wal.opening, wal.notes) = (0, Notes::default());
    wal.ready()?;
    wal.epochs().count_from(known + 1)
}

/// Tries the store from time to time while the log is in memory, and returns to it.
pub(super) fn try_to_return(wal: &mut Wal) -> Result<(), WalError> {
    let now = wal.env().since_boot().nano;
    let Some(away) = wal.away.as_mut().filter(|away| away.next_try <= now) else { return Ok(()) };
    if now < away.next_try.saturating_add(ANSWERED_WITHIN) && wal.notes.sent.is_waiting() {
        return Ok(());
    }
    away.next_try = now.saturating_add(TRY_EVERY);
    let directory = away.config.directory.clone();
    let opened =
        Database::<State>::open(away.env.clone(), &directory, away.config.clone(), away.config.ballast);
    let Ok(store) = opened else { return Ok(()) };
    if wal
        .state()
        .consumers
        .iter()
        .any(|(name, id)| store.contents().consumers.get(name).is_some_and(|n| n != id))
    {
        tracing::error!(
            "the store is back, but its consumers have other numbers: restart the agent to use it"
        );
        return Ok(());
    }
    let (told, left) = (wal.epochs().hello("")?, left_in_memory(wal)?);
    let summary = wal.summary();
    let lost = (summary.in_segments + summary.in_journal).saturating_sub(items_of(&left));
    wal.in_memory.accepted += summary.accepted;
    wal.log = store;
    (wal.away, wal.failing_since) = (None, None);
    (wal.opening, wal.notes) = (0, Notes::default());
    wal.ready()?;
    wal.epochs().begin("the store is back")?;
    close(wal, told, lost)?;
    for part in left.chunks(TOGETHER) {
        wal.journal().append(part)?;
        wal.in_memory.stored += items_of(part);
    }
    wal.unasked.send_replace(());
    tracing::warn!(event.name = "perigee.wal.returned", "the store is back; what was in memory is in it now");
    Ok(())
}

fn items_of(requests: &[Accepted]) -> Counts {
    requests.iter().map(|r| Counts::of(r.signal, r.walked.items)).sum()
}

/// Goes on telling of the epochs of a log that was in memory, and of what it dropped: that is delivered or in the store now. `lost`: what
/// it had and could not be read.
fn close(wal: &mut Wal, told: Vec<link::Epoch>, lost: Counts) -> Result<(), WalError> {
    let now = wal.env().unix_nano();
    wal.write(|txn, state| {
        let mut tally = state.tally.clone();
        if let Some(own) = told.last().filter(|_| lost.total() > 0) {
            tracing::error!(
                event.name = "perigee.wal.corruption",
                lost_items = lost.total(),
                "items that were accepted into memory cannot be read there: they are reported as lost"
            );
            let drop = drops::of_unsealed(DropReason::Corruption, Lane::BULK, lost, TimeRange::EMPTY, now);
            let above = own.drops.iter().map(|told| told.id + 1).max().unwrap_or(0);
            tally.next_drop = tally.next_drop.max(above);
            drops::append(txn, &mut tally, own.epoch, drop, &[])?;
            tally.accepted += lost;
            tally.drop(DropReason::Corruption, lost);
        }
        for mut epoch in told {
            for drop in std::mem::take(&mut epoch.drops) {
                drops::insert(txn, epoch.epoch, &drop, &[])?;
                let (reason, items) =
                    (DropReason::try_from(drop.reason).unwrap_or_default(), drops::left(&drop));
                tally.accepted += items;
                tally.drop(reason, items);
                tally.drops += 1;
            }
            epoch.lanes.iter_mut().for_each(|lane| lane.on_board.clear());
            let closed = link::Epoch { closed: true, in_memory: false, ..epoch };
            txn.open_table(EPOCHS)?.insert(closed.epoch, closed.encode_to_vec().as_slice())?;
        }
        tally.store(txn)?;
        Ok(((), vec![Edit::Tally(tally)]))
    })
}

/// The process ends: the store is tried once more, and what stays in memory is lost.
pub(super) fn end(wal: &mut Wal) -> Result<(), WalError> {
    wal.away.iter_mut().for_each(|away| away.next_try = 0);
    try_to_return(wal)?;
    let summary = wal.summary();
    let left = (summary.in_segments + summary.in_journal).total();
    match &wal.away {
        Some(Away { why, .. }) if left > 0 => {
            let lost = format!(
                "{left} items that were accepted into memory are lost, since the store is still gone: {why}"
            );
            Err(StoreError::GivenUp(lost).into())
        }
        _ => Ok(()),
    }
}

/// What was accepted without a store.
pub(super) fn accepted(wal: &Wal) -> InMemory {
    let now = wal.away.is_some();
    let more = if now { wal.state().tally.accepted } else { Counts::ZERO };
    InMemory { now, accepted: wal.in_memory.accepted + more, stored: wal.in_memory.stored }
}

/// The requests of a log in memory that are still to be delivered.
fn left_in_memory(wal: &mut Wal) -> Result<Vec<Accepted>, WalError> {
    let mut out = Vec::new();
    for (record, _) in wal.custody().segments(usize::MAX)? {
        let Some(payload) = wal.custody().payload(&record.header)? else { continue };
        let chain = wal.bases().chain(record.header.id.lane, record.header.base_sequence)?;
        let Ok(base) = chain.decode() else { continue };
        let Ok(requests) = Decoder::new(&record.header, &payload, base.as_ref()) else { continue };
        for request in requests.flatten() {
            if let Ok(walked) = perigee_shared::otlp::walk::walk(request.signal, &request.body) {
                out.push(Accepted { signal: request.signal, body: request.body, walked });
            }
        }
    }
    out.extend(wal.read(|txn, state| {
        let journal = txn.open_table(JOURNAL)?;
        let mut waiting = Vec::new();
        for group in &state.unsealed {
            let bytes = state.group(&journal, group.number)?;
            waiting.extend(group::requests(group.number, &bytes).unwrap_or_default());
        }
        Ok(waiting)
    })?);
    Ok(out)
}
