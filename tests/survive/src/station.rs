//! The ground's store as a subject: what the link and an exporter ask of it, without them.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ground_station::spool::{
    Applied, Incoming, Items, Letter, Piece, Progress, Settings, SpoolError, Store, Work,
};
use perigee_proto::link::{self, RejectReason};
use perigee_shared::env::Env;
use perigee_shared::export::cut::Plan;
use perigee_shared::export::{Attributes, Cut, Cuts, Limits};
use perigee_shared::link::MINOR_VERSION;
use perigee_shared::segment::{Codec, Decoder, Header};
use perigee_shared::signal::{Counts, SignalSet};
use tokio::runtime::Runtime;

use crate::board::{SATELLITE, STATION};
use crate::history::{Account, Gap, Item, Side, Three};
use crate::subject::{Failure, Quarantined, Subject};
use crate::telemetry::items;

const EXPORTER: &str = "backend";

/// The store tries for ever; a caller here gives up after so long by its clock, which only such waits move.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
pub struct Station {
    runtime: Runtime,
    store: Store,
    /// The backend has it and the place was not moved yet: that is tried until it is.
    pending: Option<Progress>,
}

/// What the ground says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is durable, and was not before.
    New,
    /// It is durable.
    Known,
    /// Some of its bytes are.
    Part,
    /// Its bytes do not have its hash.
    HashMismatch,
    /// It depends on a segment that the ground does not have.
    MissingBase,
    /// Anything else: the agent keeps it.
    No,
}

/// What an exporter has done with one request.
pub enum Exported {
    /// The backend has these, and the store has noted it or not.
    Items(Vec<Item>, bool),
    /// Something went to dead-letter, or nothing of it was for this exporter.
    Other,
    /// There is nothing to export.
    Nothing,
}

impl From<SpoolError> for Failure {
    fn from(e: SpoolError) -> Self {
        Self { broken: !e.is_retryable(), why: e.to_string() }
    }
}

impl Subject for Station {
    const SIDE: Side = Side::Ground;
    const PANIC_ENDS_PROCESS: bool = false;
    const FILE: &'static str = "spool.redb";

    fn open(env: &Env, directory: &Path) -> Result<(Self, Option<Quarantined>), Failure> {
        let settings = Settings {
            directory: directory.to_owned(),
            max_bytes: 1 << 30,
            satellites: Vec::new(),
            ballast: 0,
            decoded_bases: 8 << 20,
            decoding: Default::default(),
            ledger_room: Default::default(),
            catalogue: Default::default(),
            keep: ground_station::spool::Keep::OFF,
            station: STATION.to_owned(),
            routes: [(EXPORTER.to_owned(), SignalSet::ALL)].into(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.map_err(|e| Failure { why: e.to_string(), broken: true })?;
        let store = runtime.block_on(async { Store::open(env, settings, 0) })?;
        let mut station = Self { runtime, store, pending: None };
        let overview = station.ask(|store| async move { store.views().overview().await })?;
        Ok((station, overview.quarantined.map(|why| Quarantined { why })))
    }

    fn close(self) -> Result<(), Failure> {
        self.runtime.block_on(self.store.close());
        Ok(())
    }

    fn after_failure(&mut self) {}

    fn account(&mut self) -> Result<Account, Failure> {
        let mut all = self.ask(|store| async move { store.views().accounting().await })?;
        let of = all.remove(SATELLITE).unwrap_or_default();
        let mut dropped: Vec<(String, Three)> =
            of.dropped_by_reason.into_iter().map(|(reason, n)| (reason, counts(n))).collect();
        let lost = counts(of.lost);
        if lost != [0; 3] {
            dropped.push(("station_lost".to_owned(), lost));
        }
        Ok(Account {
            taken: counts(of.committed),
            delivered: counts(of.exported),
            dead: counts(of.dead_lettered),
            held: counts(of.in_spool),
            dropped,
        })
    }

    fn held(&mut self) -> Result<Vec<Item>, Failure> {
        let out = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&out);
        self.ask(|store| async move {
            let each = move |_: &str, header: &Header, payload: &[u8], base: Option<&_>| {
                if let Ok(requests) = Decoder::new(header, payload, base) {
                    let mut out = all.lock().unwrap_or_else(PoisonError::into_inner);
                    requests.flatten().for_each(|r| out.extend(items(r.signal, &r.body)));
                }
            };
            store.views().segments(each).await
        })?;
        Ok(std::mem::take(&mut *out.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn counts(of: Items) -> Three {
    [of.spans, of.metric_points, of.log_records]
}

impl Station {
    /// Asks the store; one that goes on trying is a failure here.
    fn ask<R, F>(&mut self, question: impl FnOnce(Store) -> F) -> Result<R, Failure>
    where
        F: Future<Output = Result<R, SpoolError>>,
    {
        let store = self.store.clone();
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, question(store)).await });
        match answer {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                let why = self.store.status().borrow().failing.clone();
                Err(Failure { why: why.unwrap_or_else(|| "no answer".to_owned()), broken: false })
            }
        }
    }

    /// Answers a Hello.
    pub fn hello(&mut self, hello: &link::Hello) -> Result<link::Resume, Failure> {
        let hello = Arc::new(hello.clone());
        let answer = self.ask(|store| async move { store.intake().ledger(SATELLITE.into(), hello).await })?;
        Ok(link::Resume {
            software: "survive".to_owned(),
            station: STATION.to_owned(),
            minor_version: MINOR_VERSION,
            codecs: Codec::ALL.into_iter().map(|c| c as u32).collect(),
            epochs: answer.epochs,
            ledger: answer.ledger,
            start_counter: answer.start_counter,
            clock: None,
        })
    }

    /// Takes in bytes of a segment.
    pub fn take(&mut self, header: &Header, pieces: Vec<(u64, Vec<u8>)>) -> Result<Said, Failure> {
        let pieces = pieces.into_iter().map(|(offset, bytes)| Piece { offset, bytes });
        let incoming = Incoming {
            satellite: SATELLITE.into(),
            header: Arc::new(header.clone()),
            pieces: pieces.collect(),
            max_partial_bytes: 1 << 26,
            age: None,
        };
        let applied = self.ask(|store| async move {
            let taken = store.intake().put_payload(incoming).await?;
            store.intake().commit(vec![taken]).await
        })?;
        Ok(match applied.first() {
            Some(Applied::New) => Said::New,
            Some(Applied::Duplicate) => Said::Known,
            Some(Applied::Held(_)) => Said::Part,
            Some(Applied::Rejected(RejectReason::HashMismatch)) => Said::HashMismatch,
            Some(Applied::Rejected(RejectReason::MissingBase)) => Said::MissingBase,
            _ => Said::No,
        })
    }

    /// Exports a segment as an exporter does: what does not decode goes to dead-letter, the rest to the backend.
    pub fn export(&mut self) -> Result<Exported, Failure> {
        self.move_on()?;
        let plan =
            Plan { signals: SignalSet::ALL, limits: Limits::default(), attributes: Attributes::default() };
        let fingerprint = plan.fingerprint();
        let found = self.ask(|store| async move {
            store.outlet().next(EXPORTER.into(), SignalSet::ALL, fingerprint).await
        })?;
        let Some(work) = found else { return Ok(Exported::Nothing) };
        self.send(work, plan, fingerprint)
    }

    fn send(&mut self, work: Work, plan: Plan, fingerprint: u64) -> Result<Exported, Failure> {
        let place = work.place;
        let mut done = Vec::new();
        let mut progress = Progress { finished: true, ..Progress::at(place, fingerprint) };
        let mut undecodable = None;
        match work.requests() {
            Err(error) => undecodable = Some(error.to_string()),
            Ok(requests) => {
                for cut in Cuts::new(requests, plan) {
                    match cut {
                        Ok(Cut::Request { signal, body, .. }) => done.extend(items(signal, &body)),
                        Ok(Cut::Undecodable { signal, body }) => {
                            let reason = "the request cannot be read".to_owned();
                            progress.letters.push(Letter { signal, body, items: Counts::ZERO, reason });
                        }
                        Err(error) => undecodable = Some(error.to_string()),
                    }
                }
            }
        }
        if let Some(why) = undecodable {
            self.ask(|store| async move { store.outlet().condemn(place, why).await })?;
            return Ok(Exported::Other);
        }
        self.pending = Some(progress);
        let moved = self.move_on();
        // Nobody asks a backend back what it has: it is exported, whether the place was moved or not.
        match moved {
            Err(failure) if done.is_empty() => Err(failure),
            _ if done.is_empty() => Ok(Exported::Other),
            moved => Ok(Exported::Items(done, moved.is_ok())),
        }
    }

    /// Moves the place behind what the backend has.
    fn move_on(&mut self) -> Result<(), Failure> {
        if let Some(progress) = self.pending.clone() {
            self.ask(|store| async move { store.outlet().progress(EXPORTER.into(), progress).await })?;
            self.pending = None;
        }
        Ok(())
    }

    /// Deletes what was exported.
    pub fn sweep(&mut self) -> Result<(), Failure> {
        self.ask(|store| async move { store.outlet().sweep().await })
    }

    /// What is missing.
    pub fn gaps(&mut self) -> Result<Vec<Gap>, Failure> {
        let gap = |g: ground_station::spool::GapView| Gap {
            reason: g.reason,
            items: counts(g.items),
            unknown: g.unknown,
        };
        let gaps = self.ask(|store| async move { store.views().gaps(usize::MAX).await })?;
        Ok(gaps.into_iter().map(gap).collect())
    }
}
