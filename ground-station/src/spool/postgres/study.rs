//! Looking through the segments and bases of the shared spool, one after the other, so that memory is bounded.

use std::path::PathBuf;
use std::sync::Arc;

use perigee_shared::segment::{Base, Header};
use perigee_shared::signal::Signal;
use perigee_shared::store::guarded;
use perigee_shared::store::scrub::Step;

use super::super::alarms;
use super::super::columns::ColumnsView;
use super::super::decode::{self, Fault, Snapshot};
use super::super::error::SpoolError;
use super::super::file::Txn;
use super::super::scrub::{At, Scrubbed};
use super::super::tables::{BaseRecord, EntryKey, SegmentRecord, SequenceKey, decode, header};
use super::error::EngineError;
use super::export::needs;
use super::rows::{Cell, List, Of, Row};
use super::scratch::{Loaded, SatelliteRow, Shown};
use super::session::{Need, note};
use super::sql::Query;
use super::{Fleet, Views, locked};

/// Bytes that the scrub reads at once.
const STEP: u64 = 4 << 20;

/// Rows that are read together.
const PAGE: i64 = 64;

/// Bytes of segments whose columns are looked at.
const COLUMNS: u64 = 64 << 20;

/// Segments whose columns are looked at, and those that are shown one by one.
const LATEST: (i64, i64) = (1000, 100);

/// Entries behind one: satellite, lane, entry, and how many.
const ENTRIES: &str = "select sat, lane, entry, payload, open, committed, record from entry \
                       where (sat, lane, entry) > (($1::int8[])[1], ($1::int8[])[2], ($1::int8[])[3]) \
                       order by sat, lane, entry limit ($1::int8[])[4]";
/// Bases behind one: satellite, epoch, lane, sequence, and how many.
const BASES: &str = "select sat, epoch, lane, sequence, record from base \
                     where (sat, epoch, lane, sequence) > (($1::int8[])[1], ($1::int8[])[2], ($1::int8[])[3], \
                     ($1::int8[])[4]) order by sat, epoch, lane, sequence limit ($1::int8[])[5]";
/// Entries in the order of commits, the latest first.
const NEWEST: &str = "select sat, lane, entry, payload, open, committed, record from entry \
                      order by committed desc, sat desc, entry desc limit ($1::int8[])[1]";

/// The scrub under way.
#[derive(Default)]
pub(super) struct Round {
    pub(super) done: Scrubbed,
    at: Option<Behind>,
}

/// The last that was looked at; entries go first.
#[derive(Debug, Clone, PartialEq)]
enum Behind {
    Entry([i64; 3]),
    Base([i64; 4]),
}

/// A segment or a base.
struct Looked {
    at: At,
    satellite: u32,
    header: Header,
    row: (Row, Row),
}

impl Looked {
    fn of_entry((key, rest): (Row, Row)) -> Result<Self, SpoolError> {
        let record: SegmentRecord = decode(rest[3].bytes())?;
        let at = EntryKey { satellite: key[0].small(), lane: key[1].small(), entry: key[2].number() };
        Ok(Self { at: At::Entry(at), satellite: at.satellite, header: record.header()?, row: (key, rest) })
    }

    fn of_base((key, rest): (Row, Row)) -> Result<Self, SpoolError> {
        let record: BaseRecord = decode(rest[0].bytes())?;
        let header =
            header(record.header).ok_or_else(|| SpoolError::damaged("a base's header cannot be read"))?;
        let satellite = key[0].small();
        Ok(Self { at: At::Base(SequenceKey::new(satellite, header.id)), satellite, header, row: (key, rest) })
    }

    fn of(&self) -> Of {
        if matches!(self.at, At::Entry(_)) { Of::Entry } else { Of::Base }
    }
}

fn numbers(key: &[Cell]) -> Vec<i64> {
    key.iter().map(|cell| cell.number() as i64).collect()
}

impl Views<'_> {
    pub(in super::super) async fn segments(
        self,
        each: impl FnMut(&str, &Header, &[u8], Option<&Base>) + Send + 'static,
    ) -> Result<(), SpoolError> {
        let all = || Query { of: Of::Entry, text: NEWEST, lists: vec![List::Numbers(vec![i64::MAX])] };
        let rows = self.0.rows(all).await?;
        let mut each = each;
        for row in rows.iter().rev() {
            let looked = Looked::of_entry(Of::Entry.read(row)?)?;
            let shown = self.0.upkeep().shown(&looked).await?;
            let work = move || {
                guarded(|| shown.snapshot()?.each_segment(&mut each))?;
                Ok::<_, SpoolError>(each)
            };
            each = self.0.inner.env.cpu(work).await?;
        }
        Ok(())
    }

    pub(in super::super) async fn columns(self, each: bool) -> Result<ColumnsView, SpoolError> {
        let most = if each { LATEST.1 } else { LATEST.0 };
        let latest = move || Query { of: Of::Entry, text: NEWEST, lists: vec![List::Numbers(vec![most])] };
        let rows = self.0.rows(latest).await?;
        let (mut loaded, mut bytes) = (Loaded::new(), 0);
        for row in &rows {
            let looked = Looked::of_entry(Of::Entry.read(row)?)?;
            bytes += looked.header.payload_len;
            if bytes > COLUMNS {
                break;
            }
            self.0.upkeep().add(&looked, true, &mut loaded).await?;
        }
        let of_segments = self.overview().await?.segments;
        let (satellites, _) = self.everything(Vec::new).await?;
        let scratch = self.0.inner.scratch.clone();
        let view = move || {
            let shown = scratch.view(satellites, loaded)?;
            guarded(|| shown.snapshot()?.columns(each))
        };
        let view = self.0.inner.env.cpu(view).await?;
        Ok(ColumnsView { of_segments: of_segments.max(view.segments), ..view })
    }
}

/// What keeps the store in order: verifying, copying, scrubbing, making room.
#[derive(Clone, Copy)]
pub(in super::super) struct Upkeep<'a>(pub(super) &'a Fleet);

impl Upkeep<'_> {
    /// The next entries or bases behind one; none: the round is done.
    async fn page(self, behind: &Behind) -> Result<Vec<Looked>, SpoolError> {
        let (of, text, mut key) = match behind {
            Behind::Entry(key) => (Of::Entry, ENTRIES, key.to_vec()),
            Behind::Base(key) => (Of::Base, BASES, key.to_vec()),
        };
        key.push(PAGE);
        let rows = self.0.rows(move || Query { of, text, lists: vec![List::Numbers(key.clone())] }).await?;
        let make = if of == Of::Entry { Looked::of_entry } else { Looked::of_base };
        rows.iter().map(|row| make(of.read(row)?)).collect()
    }

    /// One segment or base with everything that it needs, and nothing else.
    async fn shown(self, looked: &Looked) -> Result<Shown, SpoolError> {
        let mut loaded = Loaded::new();
        self.add(looked, true, &mut loaded).await?;
        self.0.inner.scratch.view(Vec::new(), loaded)
    }

    async fn add(self, looked: &Looked, bytes_of_all: bool, loaded: &mut Loaded) -> Result<(), SpoolError> {
        let (key, rest) = looked.row.clone();
        let mut named: Vec<u64> = key.iter().map(Cell::number).collect();
        let pieces = if looked.of() == Of::Entry {
            named = vec![named[0], rest[0].number()];
            Of::SegmentChunk
        } else {
            Of::BaseChunk
        };
        loaded.entry(looked.of()).or_default().insert(key, rest);
        let rows = self.0.rows(move || Query::key(pieces, &named)).await?;
        note(pieces, &rows, loaded)?;
        self.0.outlet().add_bases(looked.satellite, &looked.header, bytes_of_all, loaded).await
    }

    /// Shows `each` every segment and then every base, with a snapshot that has it.
    async fn each_one<S: Send + 'static>(
        self,
        mut state: S,
        each: impl Fn(&mut S, &Looked, Snapshot) -> Result<(), SpoolError> + Send + Sync + 'static,
    ) -> Result<S, SpoolError> {
        let each = Arc::new(each);
        let mut behind = Behind::Entry([i64::MIN; 3]);
        loop {
            let page = self.page(&behind).await?;
            let Some(last) = page.last().map(|looked| numbers(&looked.row.0)) else {
                if matches!(behind, Behind::Base(_)) {
                    return Ok(state);
                }
                behind = Behind::Base([i64::MIN; 4]);
                continue;
            };
            behind = behind.at(&last);
            for looked in page {
                let _turn = self.0.settings().decoding.take(needs(&looked.header)).await;
                let (shown, each) = (self.shown(&looked).await?, Arc::clone(&each));
                let work = move || {
                    let looked_at = guarded(|| each(&mut state, &looked, shown.snapshot()?));
                    looked_at.map(|()| state)
                };
                state = self.0.inner.env.cpu(work).await?;
            }
        }
    }

    pub(in super::super) async fn verify(self) -> Result<Vec<String>, SpoolError> {
        self.each_one(Vec::new(), |wrong: &mut Vec<String>, looked, snapshot| {
            let prefix = match looked.at {
                At::Entry(_) => looked.row.1[0].number(),
                At::Base(_) => decode::<BaseRecord>(looked.row.1[0].bytes())?.entry,
            };
            // What it needs is looked at by itself.
            let own = format!("{prefix}: ");
            wrong.extend(snapshot.verify()?.into_iter().filter(|line| line.starts_with(&own)));
            Ok(())
        })
        .await
    }

    /// Looks through the next segments that wait, and keeps the alarms in them. Whether more of them wait.
    pub(in super::super) async fn read_alarms(self) -> Result<bool, SpoolError> {
        let (unread, mut left) = (&self.0.inner.unread, alarms::BYTES);
        let taken = unread.take(alarms::SEGMENTS);
        for (at, entry) in taken.iter().enumerate() {
            if left == 0 {
                taken[at..].iter().for_each(|entry| unread.push(*entry));
                break;
            }
            let named = [u64::from(entry.satellite), entry.lane.into(), entry.entry];
            let rows = self.0.rows(move || Query::key(Of::Entry, &named)).await?;
            let Some(row) = rows.first() else { continue };
            let looked = Looked::of_entry(Of::Entry.read(row)?)?;
            let record: SegmentRecord = decode(looked.row.1[3].bytes())?;
            if record.open()[Signal::Logs] == 0 || looked.header.raw_len > alarms::LARGEST {
                continue;
            }
            left = left.saturating_sub(looked.header.raw_len);
            let mut loaded = Loaded::new();
            self.add(&looked, false, &mut loaded).await?;
            let (scratch, satellite) = (self.0.inner.scratch.clone(), entry.satellite);
            let read = move || {
                let shown = scratch.view(Vec::new(), loaded)?;
                let mut found = alarms::Found::new();
                let read =
                    || alarms::read(&shown.snapshot()?, satellite, &record, &looked.header, &mut found);
                Ok::<_, SpoolError>((guarded(read)?, found.remove(&satellite)))
            };
            let (was_room, found) = self.0.inner.env.cpu(read).await?;
            if !was_room {
                unread.push(*entry);
                left = 0;
            }
            if let Some(found) = found {
                let need = |satellites: &[u32]| Need::all_of(&[Of::Alarm], satellites);
                let note = move |txn: &mut Txn<'_>, row: &SatelliteRow| alarms::note(txn, row.number, &found);
                self.0.insist_on(satellite, need, note).await?;
            }
        }
        Ok(!unread.is_empty())
    }

    pub(in super::super) async fn scrub(self) -> Result<Step, SpoolError> {
        let mut behind = locked(&self.0.inner.scrub).at.clone().unwrap_or(Behind::Entry([i64::MIN; 3]));
        let (mut checked, mut bytes, mut damaged) = (0, 0, 0);
        let mut finished = false;
        let page = self.page(&behind).await?;
        if page.is_empty() {
            finished = matches!(behind, Behind::Base(_));
            behind = Behind::Base([i64::MIN; 4]);
        }
        for looked in page {
            behind = behind.at(&numbers(&looked.row.0));
            let shown = self.shown(&looked).await?;
            (checked, bytes) = (checked + 1, bytes + looked.header.payload_len);
            let payload = looked.row.1[0].clone();
            let (at, header) = (looked.at, looked.header);
            let check = move || {
                let snapshot = shown.snapshot().map_err(Fault::from)?;
                match at {
                    At::Entry(_) => snapshot.check(&header, decode::At::Payload(payload.number())),
                    At::Base(key) => snapshot.check(&header, decode::At::Base(key)),
                }
            };
            match self.0.inner.env.cpu(move || guarded(check)).await {
                Ok(()) => {}
                Err(Fault::Store(error)) => return Err(error.into()),
                Err(fault) => {
                    damaged += 1;
                    self.0.outlet().mend(at, fault).await?;
                }
            }
            if bytes >= STEP {
                break;
            }
        }
        let mut round = locked(&self.0.inner.scrub);
        round.done.checked += checked;
        round.done.bytes += bytes;
        round.done.damaged += damaged;
        round.done.rounds += u64::from(finished);
        round.at = (!finished).then_some(behind);
        Ok(Step { bytes, finished })
    }

    /// Gives up what can be decoded again.
    pub(in super::super) fn forget_decoded(self) {
        self.0.inner.scratch.decoded().give_up();
    }

    pub(in super::super) async fn backup(self, _: PathBuf) -> Result<u64, SpoolError> {
        const WHY: &str = "the ledger is in PostgreSQL, which has its own backups: use pg_dump, or pg_basebackup with an archive \
                           of its WAL";
        Err(EngineError::NotHere(WHY).into())
    }
}

impl Behind {
    fn at(&self, key: &[i64]) -> Self {
        match self {
            Self::Entry(_) => Self::Entry(std::array::from_fn(|n| key[n])),
            Self::Base(_) => Self::Base(std::array::from_fn(|n| key[n])),
        }
    }
}
