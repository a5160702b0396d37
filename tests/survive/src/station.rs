//! The ground's store as a subject: what the link and an exporter ask of it, without them.

use std::path::Path;
use std::sync::Arc;

use perigee_proto::link::{self, RejectReason};
use perigee_shared::env::Env;
use perigee_shared::export::cut::Plan;
use perigee_shared::export::{Attributes, Cut, Cuts, Limits};
use perigee_shared::link::MINOR_VERSION;
use perigee_shared::segment::{Codec, CodecError, Decoder, Header, Request};
use perigee_shared::signal::{Counts, SignalSet};

use ground_station::spool::{
    Applied, Incoming, Items, Letter, Piece, Progress, Settings, Spool, SpoolError, Work,
};

use crate::board::{SATELLITE, STATION};
use crate::history::{Account, Gap, Item, Side, Three};
use crate::subject::{Failure, Quarantined, Subject};
use crate::telemetry::items;

const EXPORTER: &str = "backend";

/// See the module.
pub struct Station {
    spool: Spool,
    /// What the last call failed with.
    error: Option<SpoolError>,
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
    /// It leans on a segment that the ground does not have.
    MissingBase,
    /// Anything else: the agent keeps it.
    No,
}

/// What an exporter has done with one request.
pub enum Exported {
    /// The backend has these.
    Items(Vec<Item>),
    /// Something went to dead-letter, or nothing of it was for this exporter.
    Other,
    /// There is nothing to export.
    Nothing,
}

impl From<SpoolError> for Failure {
    fn from(e: SpoolError) -> Self {
        Self { broken: matches!(e, SpoolError::Open { .. } | SpoolError::Gone), why: e.to_string() }
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
            station: STATION.to_owned(),
            routes: [(EXPORTER.to_owned(), SignalSet::ALL)].into(),
        };
        let spool = Spool::open(env, settings)?;
        let quarantined = spool.quarantined().map(|path| Quarantined { why: path.display().to_string() });
        Ok((Self { spool, error: None, pending: None }, quarantined))
    }

    fn close(self) -> Result<(), Failure> {
        Ok(self.spool.close()?)
    }

    fn after_failure(&mut self) {
        if let Some(error) = self.error.take().filter(SpoolError::is_retryable) {
            // As the spool's interface does it: what cannot be opened again yet is tried with the next call.
            let _ = self.spool.recover(&error);
        }
    }

    fn account(&mut self) -> Result<Account, Failure> {
        let mut all = self.note(|s| s.spool.accounting())?;
        let of = all.remove(SATELLITE).unwrap_or_default();
        Ok(Account {
            taken: counts(of.committed),
            delivered: counts(of.exported),
            dead: counts(of.dead_lettered),
            held: counts(of.in_spool),
            dropped: of.dropped_by_reason.into_iter().map(|(reason, n)| (reason, counts(n))).collect(),
        })
    }

    fn held(&mut self) -> Result<Vec<Item>, Failure> {
        let mut out = Vec::new();
        self.note(|s| {
            s.spool.each_segment(|_, header, payload, base| {
                if let Ok(requests) = Decoder::new(header, payload, base) {
                    requests.flatten().for_each(|r| out.extend(items(r.signal, &r.body)));
                }
            })
        })?;
        Ok(out)
    }
}

fn counts(of: Items) -> Three {
    [of.spans, of.metric_points, of.log_records]
}

impl Station {
    /// Keeps the error of a call for [`Subject::after_failure`].
    fn note<R>(&mut self, work: impl FnOnce(&mut Self) -> Result<R, SpoolError>) -> Result<R, Failure> {
        work(self).map_err(|error| {
            let failure = Failure {
                broken: matches!(error, SpoolError::Open { .. } | SpoolError::Gone),
                why: error.to_string(),
            };
            self.error = Some(error);
            failure
        })
    }

    /// Answers a Hello.
    pub fn hello(&mut self, hello: &link::Hello) -> Result<link::Resume, Failure> {
        let epochs = self.note(|s| s.spool.hello(SATELLITE, hello))?;
        Ok(link::Resume {
            software: "survive".to_owned(),
            station: STATION.to_owned(),
            minor_version: MINOR_VERSION,
            codecs: Codec::ALL.into_iter().map(|c| c as u32).collect(),
            epochs,
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
        };
        let applied = self.note(|s| s.spool.apply(&[incoming]))?;
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
        let Some(work) = self.note(|s| s.spool.next(EXPORTER, SignalSet::ALL, fingerprint))? else {
            return Ok(Exported::Nothing);
        };
        let requests: Vec<Result<Request, CodecError>> = match self.requests(&work) {
            Ok(requests) => requests,
            Err(SpoolError::Undecodable(error)) => {
                self.note(|s| s.spool.condemn(work.entry, &error.to_string()))?;
                return Ok(Exported::Other);
            }
            Err(error) => return self.note(|_| Err(error)),
        };
        self.spool.mark_checked(work.entry);
        let mut done = Vec::new();
        let mut progress = Progress { entry: work.entry, fingerprint, finished: true, ..Progress::default() };
        for cut in Cuts::new(requests.into_iter(), plan) {
            match cut {
                Ok(Cut::Request { signal, body, .. }) => done.extend(items(signal, &body)),
                Ok(Cut::Undecodable { signal, body }) => {
                    let reason = "the request cannot be read".to_owned();
                    progress.letters.push(Letter { signal, body, items: Counts::ZERO, reason });
                }
                Err(error) => {
                    self.note(|s| s.spool.condemn(work.entry, &error.to_string()))?;
                    return Ok(Exported::Other);
                }
            }
        }
        self.pending = Some(progress);
        let moved = self.move_on();
        // Nobody asks a backend back what it has: it is exported, whether the place was moved or not.
        match moved {
            Err(failure) if done.is_empty() => Err(failure),
            _ if done.is_empty() => Ok(Exported::Other),
            _ => Ok(Exported::Items(done)),
        }
    }

    /// Moves the place behind what the backend has.
    fn move_on(&mut self) -> Result<(), Failure> {
        if let Some(progress) = self.pending.clone() {
            self.note(|s| s.spool.progress(EXPORTER, &progress))?;
            self.pending = None;
        }
        Ok(())
    }

    fn requests(&self, work: &Work) -> Result<Vec<Result<Request, CodecError>>, SpoolError> {
        let snapshot = self.spool.snapshot()?;
        match snapshot.requests(work.number, &work.header, &work.payload, work.checked)? {
            Some(all) => Ok(all.into_iter().map(Ok).collect()),
            None => Ok(Decoder::new(&work.header, &work.payload, None)?.collect()),
        }
    }

    /// Deletes what was exported.
    pub fn sweep(&mut self) -> Result<(), Failure> {
        self.note(|s| s.spool.sweep())
    }

    /// What is missing.
    pub fn gaps(&mut self) -> Result<Vec<Gap>, Failure> {
        let gap = |g: ground_station::spool::GapView| Gap {
            reason: g.reason,
            items: counts(g.items),
            unknown: g.unknown,
        };
        Ok(self.note(|s| s.spool.gaps(usize::MAX))?.into_iter().map(gap).collect())
    }
}
