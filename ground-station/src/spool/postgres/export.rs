//! The way out: lanes are leased, so that any number of workers share an exporter and none sends what another sends.
//!
//! A worker is a row with a time until which it lives, by the clock of the database. A lane's place names its owner and a fence that
//! grows with each owner. Whoever moves a cursor shows owner and fence in the same transaction: a worker that was taken for dead,
//! and woke up, moves nothing. A place whose owner has no living row belongs to the next worker that asks. While the engine is away
//! nobody can say that it lives: a worker takes from others what ran out only when it has lived for a whole lease itself, in which
//! they could say so.
//!
//! A worker that is alone keeps every lane and takes segments in the order of commits. With others beside it, it stays in a lane for
//! some segments and then leaves it to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use perigee_shared::segment::Header;
use perigee_shared::signal::SignalSet;
use perigee_shared::store::guarded;
use tokio::time::Instant;

use super::super::bases;
use super::super::decode::{Fault, Work};
use super::super::error::SpoolError;
use super::super::outlet::{self, Found, LeftOut, Place, Progress, Reached};
use super::super::scrub::At;
use super::super::tables::{BaseRecord, Cursor, EntryKey, SegmentRecord, SequenceKey, decode, header};
use super::super::turns::Turns;
use super::error::EngineError;
use super::rows::{Cell, Of, Row};
use super::scratch::Loaded;
use super::session::{Lease, Need, note};
use super::sql::{self, Query};
use super::watch::BEAT;
use super::{BASES_NEEDED, Fleet, locked};
use crate::memory::{Turn, to_decode};

/// Segments of a lane that a worker sends before it leaves the lane to the others.
const STAY: u32 = 64;

/// Bytes that decoding a segment may take here: its rows are held as they came and in tables, and it is not known before which of
/// its bases are decoded already.
pub(super) fn needs(header: &Header) -> u64 {
    const BASES: u64 = 16 << 20;
    to_decode(header) + 3 * header.payload_len + if header.base_sequence.is_some() { BASES } else { 0 }
}

/// Lanes that are looked at again with every commit; with more, at most once in [`LOOK`].
const FEW: usize = 64;
/// See [`FEW`].
const LOOK: Duration = Duration::from_millis(100);

/// Lanes are looked at again after so long, whatever was heard.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);

/// Lanes with something for an exporter that no other worker has, and the next segment of each. Lanes without entries cost
/// nothing: each step goes to the next lane that has one.
const LANES: &str = "with recursive l as (\
    (select sat, lane from entry order by sat, lane limit 1) union all \
    select n.sat, n.lane from l cross join lateral (select e.sat, e.lane from entry e \
    where (e.sat, e.lane) > (l.sat, l.lane) order by e.sat, e.lane limit 1) n) \
    select l.sat, l.lane, h.committed from l \
    left join place p on p.sat = l.sat and p.lane = l.lane and p.exporter = $1 \
    left join worker w on w.owner = p.owner and (w.until > clock_timestamp() or not $4) \
    cross join lateral (select e.committed from entry e where e.sat = l.sat and e.lane = l.lane \
    and e.entry >= coalesce(p.entry, 0) and e.open & $2 <> 0 order by e.entry limit 1) h \
    where w.owner is null or w.owner = $3";

/// Workers that live, besides this one.
const OTHERS: &str = "select count(*) from worker where until > clock_timestamp() and owner <> $1";

/// Takes a lane that nobody living has; again by its owner, the fence stays.
const TAKE: &str = "insert into place (sat, lane, exporter, owner, fence) values ($1, $2, $3, $4, 1) \
    on conflict (sat, lane, exporter) do update set owner = $4, \
    fence = case when place.owner = $4 then place.fence else place.fence + 1 end \
    where place.owner is null or place.owner = $4 or not exists(\
    select from worker w where w.owner = place.owner and (w.until > clock_timestamp() or not $5)) returning fence";

/// Leaves a lane to others.
const LEAVE: &str =
    "update place set owner = null where sat = $1 and lane = $2 and exporter = $3 and owner = $4";

/// From where on an exporter looks in a lane: its place, or what it has ahead of that with all of the signals that it wants.
macro_rules! head {
    ($columns:literal) => {
        concat!(
            "select ",
            $columns,
            " from place p cross join lateral (select greatest(p.entry, coalesce(min(coalesce(a.entry, 0)), 0)) as entry \
             from unnest($5::text[]) as x(name) left join place a on a.sat = p.sat and a.lane = p.lane and a.exporter = x.name) f \
             cross join lateral (select * from entry e where e.sat = p.sat and e.lane = p.lane and e.entry >= f.entry \
             and e.open & $4 <> 0 order by e.entry limit 1) e where p.sat = $1 and p.lane = $2 and p.exporter = $3"
        )
    };
}

/// The next segment of a lane and the exporter's place.
const HEAD: &str = head!("e.entry, e.payload, e.committed, e.record, p.entry, p.request, p.cut");

/// Its bytes.
const HEAD_BYTES: &str = concat!(
    "select c.sat, c.payload, c.piece, c.bytes from segment_chunk c where c.sat = $1 and c.payload = (",
    head!("e.payload"),
    ")"
);

/// What an exporter has ahead of its place in a lane.
const AHEAD: &str = "select p.exporter, p.entry, p.request, p.cut from place p where p.sat = $1 and p.lane = $2 \
    and p.exporter = any($3::text[])";

/// Satellites with segments that every exporter which still wants something of them has passed.
const PASSED: &str = "select distinct e.sat from entry e where not exists(\
    select from unnest($1::text[], $2::int8[]) as x(name, mask) \
    left join place p on p.sat = e.sat and p.lane = e.lane and p.exporter = x.name \
    where x.mask & e.open <> 0 and (p.entry is null or p.entry <= e.entry))";

/// Moves a place on within a segment: nothing else changes, so the satellite is not locked.
const STEP: &str = "update place p set entry = $6, request = $7, cut = $8 where p.sat = $1 and p.lane = $2 and p.exporter = $3 \
    and p.owner = $4 and p.fence = $5 and p.entry <= $6";

/// Dead letters have a lease too, under a number that no satellite has.
pub(super) const LETTERS: (u32, u8) = (0, 0);

/// So do replays of ranges.
pub(super) const REPLAYS: (u32, u8) = (0, 1);

/// Satellite and lane.
type LaneOf = (u32, u8);

/// Where an exporter is, in memory.
#[derive(Default)]
pub(super) struct Search {
    /// Lanes with something to send, and when the next segment of each was committed.
    lanes: BTreeMap<LaneOf, u64>,
    /// Those that this worker has, with their fences.
    held: BTreeMap<LaneOf, i64>,
    /// A lane that is in it is not left to others.
    aside: LeftOut,
    /// The lane that it is in, and segments sent of it without a pause.
    at: Option<(LaneOf, u32)>,
    /// Other workers that live.
    others: i64,
    turns: Turns,
    looked: Option<Instant>,
    version: u64,
    /// When it was looked for dead letters that are to be sent again, and the version then.
    pub(super) letters_looked: Option<(Instant, u64)>,
    /// The same for replays.
    pub(super) replays_looked: Option<(Instant, u64)>,
}

impl Search {
    fn is_stale(&self, version: u64) -> bool {
        let Some(looked) = self.looked else { return true };
        let since = looked.elapsed();
        since >= LOOK_ANYWAY
            || version != self.version && (self.lanes.len() <= FEW || since >= LOOK)
            || self.lanes.is_empty() && since >= LOOK
    }

    /// The lane whose turn it is.
    fn pick(&mut self, signals: SignalSet) -> Option<LaneOf> {
        let aside = &self.aside;
        let open = |lane: &LaneOf| !aside.wanted(*lane, signals).is_empty();
        let urgencies: BTreeSet<u8> = self.lanes.keys().filter(|l| open(l)).map(|(_, lane)| *lane).collect();
        let turn = self.turns.next(&urgencies)?;
        let of_turn = || self.lanes.iter().filter(|(at, _)| at.1 == turn && open(at));
        if self.others > 0
            && let Some((at, sent)) = self.at
            && at.1 == turn
            && sent < STAY
            && self.lanes.contains_key(&at)
            && open(&at)
        {
            return Some(at);
        }
        let elsewhere =
            of_turn().filter(|(at, _)| self.others == 0 || self.at.is_none_or(|(was, _)| was != **at));
        let first = elsewhere.min_by_key(|(_, committed)| **committed).or_else(|| of_turn().next());
        first.map(|(at, _)| *at)
    }
}

/// A bit for each signal.
pub(super) fn mask(signals: SignalSet) -> i64 {
    signals.iter().fold(0, |bits, signal| bits | 1 << signal as u8)
}

/// The next segment of a lane, as it was read.
struct Head {
    entry: u64,
    payload: u64,
    committed: u64,
    record: SegmentRecord,
    reached: Reached,
    loaded: Loaded,
}

/// The way out: what exporters are handed, and how far they are.
#[derive(Clone, Copy)]
pub(in super::super) struct Outlet<'a>(pub(super) &'a Fleet);

impl Outlet<'_> {
    pub(in super::super) async fn next(
        self,
        exporter: Arc<str>,
        signals: SignalSet,
        fingerprint: u64,
    ) -> Result<Option<Work>, SpoolError> {
        // Damage is believed when it was read twice.
        let mut doubted = None;
        let mut turn = None;
        loop {
            self.look_for_lanes(&exporter, signals).await?;
            let Some(lane) = self.search(&exporter, |search| search.pick(signals)) else { return Ok(None) };
            if self.take(&exporter, lane).await?.is_none() {
                self.search(&exporter, |search| search.lanes.remove(&lane));
                continue;
            }
            let wanted = self.search(&exporter, |search| search.aside.wanted(lane, signals));
            let Some(head) = self.head(&exporter, lane, wanted, fingerprint).await? else {
                // Somebody else was there: the lane is taken anew when there is something again.
                self.search(&exporter, |search| {
                    if !search.aside.has(lane) {
                        search.held.remove(&lane);
                    }
                    search.lanes.remove(&lane);
                });
                continue;
            };
            let is_first = self.search(&exporter, |search| {
                search.lanes.insert(lane, head.committed);
                search.pick(signals) == Some(lane)
            });
            if !is_first {
                continue;
            }
            let place = Place(EntryKey { satellite: lane.0, lane: lane.1, entry: head.entry });
            let need = needs(&head.record.header()?);
            let settings = self.0.settings();
            let decoding = &settings.decoding;
            let taken = turn.take().filter(|turn: &Turn| turn.covers(need));
            let Some(turn_now) = taken.or_else(|| decoding.try_take(need)) else {
                drop(head);
                turn = Some(decoding.take(need).await);
                continue;
            };
            let fault = match self.work(place, head, wanted).await? {
                Ok(work) => {
                    self.search(&exporter, |search| match &mut search.at {
                        Some((at, _)) if *at == lane => {}
                        at => *at = Some((lane, 0)),
                    });
                    return Ok(Some(work.in_turn(turn_now)));
                }
                Err(fault) => fault,
            };
            if matches!(fault, Fault::Payload | Fault::Base(_)) && doubted != Some(place) {
                doubted = Some(place);
                continue;
            }
            self.mend(At::Entry(place.0), fault).await?;
        }
    }

    pub(in super::super) async fn goes_elsewhere(
        self,
        exporter: Arc<str>,
        signals: SignalSet,
        _fingerprint: u64,
        place: Place,
    ) -> Result<bool, SpoolError> {
        self.look_for_lanes(&exporter, signals).await?;
        let here = (place.0.satellite, place.0.lane);
        Ok(self.search(&exporter, |search| search.pick(signals)).is_some_and(|lane| lane != here))
    }

    pub(in super::super) async fn put_aside(
        self,
        exporter: Arc<str>,
        place: Place,
        signals: SignalSet,
    ) -> Result<(), SpoolError> {
        self.search(&exporter, |search| {
            search.aside.set(place, signals);
            search.looked = None;
        });
        Ok(())
    }

    pub(in super::super) async fn only(self, exporter: Arc<str>, place: Place) -> Result<(), SpoolError> {
        self.search(&exporter, |search| search.aside.all_but(place));
        Ok(())
    }

    /// Settles what the exporters of this configuration have passed: one may have been taken out of it.
    pub(super) async fn settle_all(self) -> Result<(), SpoolError> {
        let settings = self.0.settings();
        let routes = &settings.routes;
        if routes.is_empty() {
            return Ok(());
        }
        let (names, masks): (Vec<String>, Vec<i64>) =
            routes.iter().map(|(name, signals)| (name.clone(), mask(*signals))).unzip();
        let passed = self
            .0
            .patiently(move |fleet| {
                let (names, masks) = (names.clone(), masks.clone());
                async move {
                    let connection = fleet.connection().await?;
                    let statement = connection.prepare(PASSED).await?;
                    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&names, &masks];
                    let asked = connection.client().query(&statement, &parameters);
                    let rows = fleet.watched(&connection, asked).await??;
                    Ok(rows.iter().map(|row| row.try_get::<_, i64>(0)).collect::<Result<Vec<_>, _>>()?)
                }
            })
            .await?;
        if !passed.is_empty() {
            outlet::say_given_up();
        }
        for satellite in passed {
            let need = |satellites: &[u32]| {
                Need::all_of(&[Of::Entry, Of::Place, Of::EntryDead, Of::Base], satellites)
            };
            self.0.insist_on(satellite as u32, need, |txn, _| outlet::settle_passed(txn)).await?;
        }
        Ok(())
    }

    fn search<R>(self, exporter: &Arc<str>, work: impl FnOnce(&mut Search) -> R) -> R {
        work(locked(&self.0.inner.searches).entry(Arc::clone(exporter)).or_default())
    }

    /// Looks which lanes have something to send, unless that is known.
    async fn look_for_lanes(self, exporter: &Arc<str>, signals: SignalSet) -> Result<(), SpoolError> {
        let version = self.0.inner.status.borrow().version;
        if !self.search(exporter, |search| search.is_stale(version)) {
            return Ok(());
        }
        let (name, owner, mask) = (exporter.to_string(), self.0.inner.owner, mask(signals));
        let (rows, others) = self
            .0
            .patiently(move |fleet| {
                let name = name.clone();
                async move {
                    let connection = fleet.connection().await?;
                    let (lanes, others) =
                        (connection.prepare(LANES).await?, connection.prepare(OTHERS).await?);
                    let (client, steady) = (connection.client(), fleet.watch().is_steady());
                    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
                        [&name, &mask, &owner, &steady];
                    let parameters_of_others: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&owner];
                    let both = async {
                        tokio::join!(
                            client.query(&lanes, &parameters),
                            client.query_one(&others, &parameters_of_others)
                        )
                    };
                    let (rows, others) = fleet.watched(&connection, both).await?;
                    Ok((rows?, others?.try_get::<_, i64>(0)?))
                }
            })
            .await?;
        let mut lanes = BTreeMap::new();
        for row in rows {
            let (satellite, lane, committed): (i64, i64, i64) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            lanes.insert((satellite as u32, lane as u8), committed as u64);
        }
        self.search(exporter, |search| {
            search.lanes = lanes;
            search.others = others;
            search.looked = Some(Instant::now());
            search.version = version;
        });
        Ok(())
    }

    /// Takes a lane, unless another living worker has it; the fence.
    pub(super) async fn take(self, exporter: &Arc<str>, lane: LaneOf) -> Result<Option<i64>, SpoolError> {
        let (held, left) = self.search(exporter, |search| {
            let held = search.held.get(&lane).copied();
            // Beside others, one lane at a time.
            let left = search
                .at
                .map(|(at, _)| at)
                .filter(|at| search.others > 0 && *at != lane && lane.0 != LETTERS.0);
            let left = left.filter(|at| !search.aside.has(*at));
            (held, left.filter(|at| search.held.remove(at).is_some()))
        });
        if let Some(left) = left {
            self.leave_lane(exporter, left).await?;
            self.search(exporter, |search| search.at = None);
        }
        // A worker that could not say that it lives may have been replaced, or talk to a server that leads no more: it asks anew.
        if held.is_some() && self.0.watch().is_known() {
            return Ok(held);
        }
        let (name, owner) = (exporter.to_string(), self.0.inner.owner);
        let (station, lease) = (self.0.settings().station.clone(), self.0.inner.lease.as_millis() as f64);
        let taken = self
            .0
            .patiently(move |fleet| {
                let (name, station) = (name.clone(), station.clone());
                async move {
                    let connection = fleet.connection().await?;
                    let (beat, statement) =
                        (connection.prepare(BEAT).await?, connection.prepare(TAKE).await?);
                    let (satellite, lane) = (i64::from(lane.0), i64::from(lane.1));
                    let asked = async {
                        // While nobody answered its time may have run out, and then another one would take the lane at once.
                        connection.client().execute(&beat, &[&owner, &station, &lease]).await?;
                        // An outage may have ended just now.
                        let steady = fleet.watch().is_steady();
                        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                            [&satellite, &lane, &name, &owner, &steady];
                        connection.client().query_opt(&statement, &parameters).await
                    };
                    let row = fleet.watched(&connection, asked).await??;
                    Ok(row.map(|row| row.try_get::<_, i64>(0)).transpose()?)
                }
            })
            .await?;
        self.search(exporter, |search| match taken {
            Some(fence) => search.held.insert(lane, fence),
            None => search.held.remove(&lane),
        });
        Ok(taken)
    }

    /// Another worker has it now.
    pub(super) fn forget_lease(self, exporter: &Arc<str>, lane: LaneOf) {
        self.search(exporter, |search| search.held.remove(&lane));
    }

    async fn leave_lane(self, exporter: &Arc<str>, lane: LaneOf) -> Result<(), SpoolError> {
        let (name, owner) = (exporter.to_string(), self.0.inner.owner);
        self.0
            .patiently(move |fleet| {
                let name = name.clone();
                async move {
                    let connection = fleet.connection().await?;
                    let statement = connection.prepare(LEAVE).await?;
                    let (satellite, lane) = (i64::from(lane.0), i64::from(lane.1));
                    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
                        [&satellite, &lane, &name, &owner];
                    let asked = connection.client().execute(&statement, &parameters);
                    fleet.watched(&connection, asked).await??;
                    Ok(())
                }
            })
            .await
    }

    /// Reads the next segment of a lane, with its bytes.
    async fn head(
        self,
        exporter: &Arc<str>,
        lane: LaneOf,
        wanted: SignalSet,
        fingerprint: u64,
    ) -> Result<Option<Head>, SpoolError> {
        let (name, mask) = (exporter.to_string(), mask(wanted));
        let (row, pieces, ahead) = self
            .0
            .patiently(move |fleet| {
                let name = name.clone();
                async move {
                    let connection = fleet.connection().await?;
                    let (head, bytes, ahead) = (
                        connection.prepare(HEAD).await?,
                        connection.prepare(HEAD_BYTES).await?,
                        connection.prepare(AHEAD).await?,
                    );
                    let client = connection.client();
                    let (satellite, lane) = (i64::from(lane.0), i64::from(lane.1));
                    let names: Vec<String> =
                        wanted.iter().map(|signal| outlet::ahead(&name, signal)).collect();
                    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                        [&satellite, &lane, &name, &mask, &names];
                    let of_ahead: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                        [&satellite, &lane, &names];
                    let three = async {
                        tokio::join!(
                            client.query_opt(&head, &parameters),
                            client.query(&bytes, &parameters),
                            client.query(&ahead, &of_ahead)
                        )
                    };
                    let (row, pieces, ahead) = fleet.watched(&connection, three).await?;
                    Ok((row?, pieces?, ahead?))
                }
            })
            .await?;
        let Some(row) = row else { return Ok(None) };
        let cursor_in = |row: &tokio_postgres::Row, at: usize| -> Result<Cursor, SpoolError> {
            let number = |at: usize| row.try_get::<_, i64>(at).map(|n| n as u64);
            Ok(Cursor { entry: number(at)?, request: number(at + 1)?, cut: number(at + 2)? })
        };
        let mut cursors = BTreeMap::from([(exporter.to_string(), cursor_in(&row, 4)?)]);
        for row in ahead {
            cursors.insert(row.try_get(0)?, cursor_in(&row, 1)?);
        }
        let reached = Reached::read(exporter, fingerprint, |name| Ok(cursors.get(name).copied()))?;
        let mut loaded = Loaded::new();
        note(Of::SegmentChunk, &pieces, &mut loaded)?;
        let number = |at: usize| row.try_get::<_, i64>(at).map(|n| n as u64);
        Ok(Some(Head {
            entry: number(0)?,
            payload: number(1)?,
            committed: number(2)?,
            record: decode(row.try_get::<_, &[u8]>(3)?)?,
            reached,
            loaded,
        }))
    }

    /// Verifies and decodes it.
    async fn work(
        self,
        place: Place,
        head: Head,
        wanted: SignalSet,
    ) -> Result<Result<Work, Fault>, SpoolError> {
        let Head { entry, payload, record, reached, mut loaded, .. } = head;
        let segment = record.header()?;
        self.add_bases(place.0.satellite, &segment, false, &mut loaded).await?;
        let first = reached.first(entry, wanted);
        let SegmentRecord { satellite, station, .. } = record;
        let found = Found { place, satellite, station, header: segment, payload, first };
        let scratch = self.0.inner.scratch.clone();
        let work = move || {
            let shown = scratch.view(Vec::new(), loaded)?;
            let snapshot = shown.snapshot()?;
            Ok(guarded(|| snapshot.work(found)))
        };
        self.0.inner.env.cpu(work).await
    }

    /// Reads the bases that a segment needs; the bytes of those that are not kept decoded, or of all.
    pub(super) async fn add_bases(
        self,
        satellite: u32,
        segment: &Header,
        bytes_of_all: bool,
        loaded: &mut Loaded,
    ) -> Result<(), SpoolError> {
        let (mut next, mut known) = (segment.base_sequence, false);
        for _ in 0..=bases::LONGEST_CHAIN {
            let Some(sequence) = next else { break };
            let key = SequenceKey::new(satellite, segment.id).at(sequence);
            let named = [u64::from(satellite), key.epoch, key.lane.into(), sequence];
            let rows = self.0.rows(move || Query::key(Of::Base, &named)).await?;
            note(Of::Base, &rows, loaded)?;
            known |= !bytes_of_all && self.0.inner.scratch.decoded().knows(key);
            if !known {
                let pieces = self.0.rows(move || Query::key(Of::BaseChunk, &named)).await?;
                note(Of::BaseChunk, &pieces, loaded)?;
            }
            let row: Vec<Cell> = named.iter().map(|n| Cell::of(*n)).collect();
            let base = loaded.get(&Of::Base).and_then(|rows| rows.get(&row));
            let record = base.and_then(|v| decode::<BaseRecord>(v[0].bytes()).ok());
            next = record.and_then(|record| header(record.header)).and_then(|header| header.base_sequence);
        }
        Ok(())
    }

    pub(in super::super) async fn progress(
        self,
        exporter: Arc<str>,
        progress: Progress,
    ) -> Result<(), SpoolError> {
        let at = progress.place.0;
        let lane = (at.satellite, at.lane);
        let Some(fence) = self.take(&exporter, lane).await? else {
            return Err(EngineError::TakenOver { satellite: at.satellite, lane: at.lane }.into());
        };
        let lease = Lease {
            satellite: at.satellite,
            lane: at.lane,
            exporter: Arc::clone(&exporter),
            owner: self.0.inner.owner,
            fence,
        };
        let plain = progress.is_of_all(&exporter, &self.0.settings())
            && !progress.finished
            && progress.letters.is_empty()
            && progress.rejected.total() == 0;
        let moved = plain && self.step(&lease, &progress).await?;
        if !moved {
            self.settle(lease, &progress).await.inspect_err(|error| {
                if matches!(error, SpoolError::Engine(EngineError::TakenOver { .. })) {
                    self.search(&exporter, |search| {
                        search.held.remove(&lane);
                        search.lanes.remove(&lane);
                        search.at = None;
                    });
                }
            })?;
        }
        self.search(&exporter, |search| {
            search.turns.sent(at.lane, progress.items);
            match &mut search.at {
                Some((here, sent)) if *here == lane => *sent += u32::from(progress.finished),
                here => *here = Some((lane, 1)),
            }
        });
        Ok(())
    }

    /// Moves the place within a segment; false when that was not to be done.
    async fn step(self, lease: &Lease, progress: &Progress) -> Result<bool, SpoolError> {
        let (lease, at) = (lease.clone(), progress.place.0.entry as i64);
        let (request, cut) = (progress.request as i64, progress.fingerprint as i64);
        let moved = self
            .0
            .patiently(move |fleet| {
                let lease = lease.clone();
                async move {
                    let connection = fleet.connection().await?;
                    let statement = connection.prepare(STEP).await?;
                    let exporter: &str = &lease.exporter;
                    let (satellite, lane) = (i64::from(lease.satellite), i64::from(lease.lane));
                    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
                        [&satellite, &lane, &exporter, &lease.owner, &lease.fence, &at, &request, &cut];
                    let asked = connection.client().execute(&statement, &parameters);
                    Ok(fleet.watched(&connection, asked).await??)
                }
            })
            .await?;
        Ok(moved == 1)
    }

    /// Moves the place, keeps what was refused and settles what every exporter has passed.
    async fn settle(self, lease: Lease, progress: &Progress) -> Result<(), SpoolError> {
        let (at, progress, exporter) = (progress.place.0, progress.clone(), Arc::clone(&lease.exporter));
        let key = [u64::from(at.satellite), at.lane.into(), at.entry];
        let keeps = self.0.settings().keep.is_on();
        let need = move |_: &[u32]| {
            let lists = || Query::key(Of::Entry, &key).lists;
            let queries = vec![
                Query::key(Of::Entry, &key),
                Query::key(Of::Place, &key[..2]),
                Query { of: Of::EntryDead, text: sql::DEAD_OF, lists: lists() },
                Query { of: Of::Catalogue, text: sql::CATALOGUE_OF, lists: lists() },
                Query::key(Of::Alarm, &key[..1]),
            ];
            let then = keeps.then(|| Box::new(bases_of_entries) as super::session::Then);
            Need { lease: Some(lease.clone()), then, ..Need::rows(queries) }
        };
        self.0.insist_on(at.satellite, need, move |txn, _| outlet::progress(txn, &exporter, &progress)).await
    }

    pub(in super::super) async fn condemn(self, place: Place, reason: String) -> Result<(), SpoolError> {
        let (need, satellite) = (need_of_entry(place.0, true), place.0.satellite);
        self.0.insist_on(satellite, need, move |txn, _| outlet::condemn(txn, place, &reason)).await
    }

    /// Takes out what was found damaged or not to decode.
    pub(super) async fn mend(self, at: At, fault: Fault) -> Result<(), SpoolError> {
        match (fault, at) {
            (Fault::Payload, At::Entry(entry)) => {
                let need = need_of_entry(entry, false);
                self.0.insist_on(entry.satellite, need, move |txn, _| outlet::lose(txn, Place(entry))).await
            }
            (Fault::Base(key), _) | (Fault::Payload, At::Base(key)) => {
                let base = [u64::from(key.satellite), key.epoch, key.lane.into(), key.sequence];
                let need = move |_: &[u32]| Need::rows(vec![Query::key(Of::Base, &base)]);
                self.0.insist_on(key.satellite, need, move |txn, _| bases::discard(txn, key)).await
            }
            (Fault::Undecodable(error), At::Entry(entry)) => {
                let reason = error.to_string();
                tracing::error!(
                    event.name = "perigee.spool.undecodable",
                    reason,
                    "a committed segment does not decode; it is kept in dead-letter"
                );
                self.condemn(Place(entry), reason).await
            }
            (Fault::Undecodable(_), At::Base(_)) => Ok(()),
            (Fault::Store(error), _) => Err(error.into()),
        }
    }

    /// Deletes bases that nothing needs any more, of the satellites of which segments have left.
    pub(in super::super) async fn sweep(self) -> Result<(), SpoolError> {
        let freed = std::mem::take(&mut *locked(&self.0.inner.freed));
        for satellite in freed {
            let need = |satellites: &[u32]| Need::all_of(BASES_NEEDED, satellites);
            self.0.insist_on(satellite, need, |txn, row| bases::forget_passed(txn, row.number)).await?;
        }
        Ok(())
    }
}

/// The bases that the entries may need: to keep an entry is to keep them.
fn bases_of_entries(loaded: &Loaded) -> Vec<Query> {
    let entries = loaded.get(&Of::Entry).into_iter().flatten();
    let base = |(key, rest): (&Row, &Row)| {
        let record: SegmentRecord = decode(rest[3].bytes()).ok()?;
        let id = record.header().ok().filter(|header| header.base_sequence.is_some())?.id;
        Some(Query::key(Of::Base, &[key[0].number(), id.epoch, id.lane.0.into()]))
    };
    entries.filter_map(base).collect()
}

/// What is looked at to take an entry out; with its bytes, when they are to be kept.
fn need_of_entry(at: EntryKey, bytes: bool) -> impl Fn(&[u32]) -> Need + Send + Sync + 'static {
    let key = [u64::from(at.satellite), at.lane.into(), at.entry];
    move |_| {
        let lists = || Query::key(Of::Entry, &key).lists;
        let mut queries = vec![
            Query::key(Of::Entry, &key),
            Query { of: Of::EntryDead, text: sql::DEAD_OF, lists: lists() },
        ];
        if bytes {
            queries.push(Query { of: Of::SegmentChunk, text: sql::PIECES_OF, lists: lists() });
        } else {
            // Whether exporters have a part of it.
            queries.push(Query::key(Of::Place, &key[..2]));
        }
        Need::rows(queries)
    }
}
