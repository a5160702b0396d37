//! The agent's store as a subject: what the receiver, the batcher and the shipper ask of it, without them.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use perigee_proto::link;
use perigee_shared::env::Env;
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::link::{MINOR_VERSION, Slot};
use perigee_shared::segment::{Codec, Decoder, Header, Lane, SegmentId};
use perigee_shared::signal::{Counts, SignalSet};
use space_agent::lanes::Lanes;
use space_agent::wal::{
    Accepted, BatchLimits, ConsumerId, Encoding, GroundLane, GroundView, Recoder, Reconciled, SealError,
    Sending, Volatile, Wal, WalConfig, WalError, WhenFull,
};

use crate::history::{Account, Item, Side};
use crate::subject::{Failure, Quarantined, Subject};
use crate::telemetry::{Request, items, three};

/// The satellite.
pub const SATELLITE: &str = "sat-1";
/// Its only station.
pub const STATION: &str = "svalbard";
const CONSUMER: &str = "link";
const EVERYTHING: BatchLimits = BatchLimits { items: u64::MAX, raw: 32 << 20 };

/// See the module.
pub struct Board {
    wal: Wal,
    env: Env,
    /// In this connection.
    taken: RangeSet,
}

impl From<WalError> for Failure {
    fn from(e: WalError) -> Self {
        // What the store says of its own content does not change by asking again.
        Self { broken: false, why: e.to_string() }
    }
}

fn failed(why: impl std::fmt::Display) -> Failure {
    Failure { why: why.to_string(), broken: false }
}

impl Subject for Board {
    const SIDE: Side = Side::Agent;
    const PANIC_ENDS_PROCESS: bool = false;
    const FILE: &'static str = "wal.redb";

    fn open(env: &Env, directory: &Path) -> Result<(Self, Option<Quarantined>), Failure> {
        let config = WalConfig {
            directory: directory.to_owned(),
            satellite: Some(SATELLITE.to_owned()),
            max_bytes: 1 << 30,
            when_full: WhenFull::Refuse,
            ballast: 0,
            consumers: [(CONSUMER.to_owned(), SignalSet::ALL)].into(),
            lanes: Lanes::default(),
            volatile: Volatile::Refuse,
            volatile_bytes: 0,
        };
        let mut wal = Wal::open(config, env.clone())?;
        let quarantine = wal.take_quarantine();
        let board = Self { wal, env: env.clone(), taken: RangeSet::default() };
        Ok((board, quarantine.map(|q| Quarantined { why: q.why })))
    }

    fn close(self) -> Result<(), Failure> {
        Ok(self.wal.close()?)
    }

    fn after_failure(&mut self) {}

    fn account(&mut self) -> Result<Account, Failure> {
        let summary = self.wal.summary();
        let name =
            |reason: link::DropReason| reason.as_str_name().trim_start_matches("DROP_REASON_").to_lowercase();
        let dropped = summary.dropped.iter().map(|(reason, items)| (name(*reason), three(*items)));
        Ok(Account {
            taken: three(summary.accepted),
            delivered: three(summary.delivered),
            dead: [0; 3],
            held: three(summary.in_segments + summary.in_journal),
            dropped: dropped.filter(|(_, items)| *items != [0; 3]).collect(),
        })
    }

    fn held(&mut self) -> Result<Vec<Item>, Failure> {
        while self.seal(Codec::ZstdRows)?.is_some() {}
        let mut out = Vec::new();
        for (record, _) in self.wal.custody().segments(usize::MAX)? {
            let payload = self.wal.custody().payload(&record.header)?.unwrap_or_default();
            out.extend(self.decode(&record.header, &payload).unwrap_or_default());
        }
        Ok(out)
    }
}

impl Board {
    /// Makes requests durable in one commit.
    pub fn accept(&mut self, requests: &[Request]) -> Result<(), Failure> {
        let accepted = |r: &Request| Accepted { signal: r.signal, body: r.body.clone(), walked: r.walked };
        Ok(self.wal.journal().append(&requests.iter().map(accepted).collect::<Vec<_>>())?)
    }

    /// Seals what waits in the journal, as the batcher does. A group that does not decode is dropped.
    pub fn seal(&mut self, codec: Codec) -> Result<Option<SegmentId>, Failure> {
        let lane = Lane::BULK;
        let Some(batch) = self.wal.segments().take_batch(lane, EVERYTHING, true)? else { return Ok(None) };
        let mut encoding = Encoding { codec, ..Encoding::default() };
        if codec == Codec::Columns {
            let base = self.wal.bases().to_depend_on(lane);
            let known = self.wal.bases().chain(lane, base)?.decode().map_err(failed)?;
            encoding.base = base.zip(known.map(Arc::new));
            encoding.to_lean_on = encoding.base.is_none();
        }
        match batch.seal(&encoding, self.env.unix_nano()) {
            Ok(sealed) => Ok(Some(self.wal.segments().commit(sealed)?.id)),
            Err(SealError::Journal { group, .. }) => {
                self.wal.journal().drop_group(group)?;
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn consumer(&mut self) -> Result<ConsumerId, Failure> {
        self.wal.custody().consumer(CONSUMER).ok_or_else(|| failed("the link is no consumer"))
    }

    /// A connection comes up.
    pub fn hello(&mut self) -> Result<link::Hello, Failure> {
        self.taken = RangeSet::default();
        self.wal.bases().greets(Slot::FIRST, STATION);
        let epochs = self.wal.epochs().hello(STATION)?;
        Ok(link::Hello {
            satellite: SATELLITE.to_owned(),
            software: "survive".to_owned(),
            minor_version: MINOR_VERSION,
            codecs: Codec::ALL.into_iter().map(|c| c as u32).collect(),
            contact: "survive".to_owned(),
            epochs,
            ..link::Hello::default()
        })
    }

    /// Takes in the ground's answer to `hello`. Whether a new epoch began, which needs another Hello.
    pub fn resume(&mut self, hello: &link::Hello, resume: &link::Resume) -> Result<bool, Failure> {
        let current = hello.epochs.last().map_or(0, |e| e.epoch);
        self.wal.bases().ground_reads(&resume.codecs)?;
        let mut view = GroundView {
            ledger: resume.ledger,
            start_counter: resume.start_counter,
            epoch: current,
            ..GroundView::default()
        };
        for epoch in &resume.epochs {
            if let Some(told) = hello.epochs.iter().find(|told| told.epoch == epoch.epoch) {
                view.inherit(told, epoch);
            }
            let stations = [STATION.to_owned()];
            let link::ResumeEpoch { epoch: of, drops_acknowledged: ids, overridden, highest_drop, .. } =
                epoch.clone();
            let ack = link::DropsAck { epoch: of, ids, overridden };
            self.wal.epochs().drops_acknowledged(STATION, &stations, &ack, highest_drop)?;
            if epoch.epoch == current {
                view.lanes = epoch.lanes.iter().filter_map(GroundLane::of).collect();
            }
        }
        let consumer = self.consumer()?;
        let reconciled = self.wal.epochs().reconcile(consumer, Slot::FIRST, &view)?;
        Ok(reconciled == Reconciled::NewEpoch)
    }

    /// The next segment to send.
    pub fn next_to_send(&mut self) -> Result<Option<(Header, Bytes)>, Failure> {
        let consumer = self.consumer()?;
        loop {
            let found = self.wal.queues().to_ship(consumer, Slot::FIRST, Lane::BULK, &self.taken, 1)?;
            found.looked.iter().for_each(|range| self.taken.insert(range));
            let Some((header, _)) = found.headers.into_iter().next() else {
                if found.more {
                    continue;
                }
                return Ok(None);
            };
            if let Sending::Payload(payload, ..) = self.wal.recoding().begin_sending(Slot::FIRST, &header)? {
                return Ok(Some((header, payload)));
            }
        }
    }

    /// What is in a segment that is on board; `None` when it does not decode.
    pub fn decode(&mut self, header: &Header, payload: &[u8]) -> Option<Vec<Item>> {
        let base = self.wal.bases().chain(header.id.lane, header.base_sequence).ok()?.decode().ok()?;
        let mut out = Vec::new();
        for request in Decoder::new(header, payload, base.as_ref()).ok()? {
            let request = request.ok()?;
            out.extend(items(request.signal, &request.body));
        }
        Some(out)
    }

    /// The ground has said that these are durable.
    pub fn committed(&mut self, ids: &[SegmentId]) -> Result<(), Failure> {
        let consumer = self.consumer()?;
        self.wal.epochs().committed(consumer, Slot::FIRST, ids)?;
        Ok(())
    }

    /// The ground has said that the bytes do not have their hash.
    pub fn verify(&mut self, id: SegmentId) -> Result<(), Failure> {
        self.wal.custody().verify(id)?;
        Ok(())
    }

    /// The ground does not have what a segment leans on: it is encoded again without, and sent again.
    pub fn recode(&mut self, id: SegmentId) -> Result<(), Failure> {
        let Some(recoding) = self.wal.recoding().prepare(id)? else { return Ok(()) };
        let recoded = Recoder::default().run(recoding, Codec::ZstdRows, usize::MAX).map_err(failed)?;
        if self.wal.recoding().replace(recoded)? {
            self.taken.remove(id.sequence..id.sequence + 1);
        }
        Ok(())
    }

    /// The connection has ended.
    pub fn goodbye(&mut self) {
        self.wal.recoding().end_sending(Slot::FIRST);
    }

    /// Drops a segment by a rule, as a lifetime does.
    pub fn drop_oldest(&mut self) -> Result<Counts, Failure> {
        let Some((record, _)) = self.wal.custody().segments(1)?.pop() else { return Ok(Counts::ZERO) };
        let items = record.header.items;
        self.wal.custody().drop_segments(vec![record.header], link::DropReason::Lifetime)?;
        Ok(items)
    }

    /// Gives bytes back to the volume.
    pub fn compact(&mut self) -> Result<(), Failure> {
        self.wal.file().compact(true)?;
        Ok(())
    }
}
