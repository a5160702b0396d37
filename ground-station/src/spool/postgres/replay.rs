//! What the shared ledger keeps after its export, and replays of ranges of time.
//!
//! What is kept is bounded once a minute and not with each commit, since no station knows what the others add; bases that only kept
//! segments need are not counted. A replay has a lease, as dead letters have: one worker sends it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perigee_shared::signal::SignalSet;
use perigee_shared::store::guarded;
use prost::Message;
use tokio::time::Instant;

use super::super::archive;
use super::super::bases;
use super::super::catalogue::CatalogueRecord;
use super::super::decode::{Fault, Work};
use super::super::error::SpoolError;
use super::super::file::Txn;
use super::super::outlet::{Found, ahead};
use super::super::replay::{
    self, Again, REMEMBERED, ReplayRecord, ReplayStep, ReplayView, ReplayWanted, Sought,
};
use super::super::tables::decode;
use super::export::{REPLAYS, needs};
use super::rows::{List, Of, PAYLOAD_BITS, satellite_of_payload};
use super::scratch::{Loaded, Shown};
use super::session::{Lease, Need, note};
use super::sql::{self, Ask, Query};
use super::{BASES_NEEDED, Fleet, Upkeep, Views, locked};

/// How often it is looked for replays that another station's operator has asked for.
const LOOK: Duration = Duration::from_secs(1);

/// Rows of the catalogue that are looked at together.
const PAGE: usize = 256;

/// The oldest that is kept, so many: whether the catalogue knows it is the last column.
const OLDEST: &str = "select k.sat, k.payload, k.committed, k.bytes, \
    exists(select from catalogue c where c.sat = k.sat and c.payload = k.payload), \
    (select coalesce(sum(bytes), 0)::int8 from kept) \
    from kept k order by k.committed, k.sat, k.payload limit 256";

/// Rows of the catalogue from a payload on: that satellite or 0 for all, the payload's satellite, the payload, how many.
const FROM: &str = "select sat, payload, committed, record from catalogue \
    where (($1::int8[])[1] = 0 or sat = ($1::int8[])[1]) and (sat, payload) >= (($1::int8[])[2], ($1::int8[])[3]) \
    order by sat, payload limit ($1::int8[])[4]";

/// An exporter's places, under all its names.
const PLACES: &str =
    "select sat, lane, exporter, entry, request, cut from place where exporter = any($1::text[])";

/// The replay of an exporter that was asked for first and goes on.
const OPEN: &str =
    "select sat, id, exporter, open, record from replay where exporter = $1 and open = 1 order by id limit 1";

/// A replay, which nobody else changes until this transaction ends.
const LOCKED: &str =
    "select sat, id, exporter, open, record from replay where sat = 0 and id = any($1::int8[]) for update";

const BEGIN: &str = "insert into replay (sat, exporter, open, record) values (0, $1, 1, $2) returning id";
const FORGET: &str = "delete from replay where open = 0 and id <= $1";
const CANCEL: &str = "update replay set open = 0 where sat = 0 and id = $1 and open = 1";

type Names = BTreeMap<u32, String>;

/// What is sent again: dead letters, and ranges of time.
#[derive(Clone, Copy)]
pub(in super::super) struct Replays<'a>(pub(super) &'a Fleet);

impl Replays<'_> {
    pub(in super::super) async fn replay_range(
        self,
        wanted: ReplayWanted,
        signals: SignalSet,
    ) -> Result<u64, SpoolError> {
        let mut job = ReplayRecord::new(&wanted, self.0.inner.env.unix_nano());
        let (mut at, names) = (job.clone(), self.names().await?);
        loop {
            let (sought, is_end) = self.sought(&names, &at, signals, 0).await?;
            at.go_on(sought.next);
            match sought.found {
                Some(found) => job.count(&found),
                None if is_end => break,
                None => {}
            }
        }
        let (exporter, record) = (wanted.exporter, job.encode_to_vec());
        let id = self
            .0
            .patiently(move |fleet| {
                let (exporter, record) = (exporter.clone(), record.clone());
                async move {
                    let connection = fleet.connection().await?;
                    let client = connection.client();
                    let work = async {
                        let row = client.query_one(BEGIN, &[&exporter, &record]).await?;
                        let id = row.try_get::<_, i64>(0)?;
                        client.execute(FORGET, &[&(id - REMEMBERED as i64)]).await?;
                        Ok::<_, tokio_postgres::Error>(id)
                    };
                    Ok(fleet.watched(&connection, work).await??)
                }
            })
            .await?;
        self.0.wake();
        Ok(id as u64)
    }

    pub(in super::super) async fn ranges(self) -> Result<Vec<ReplayView>, SpoolError> {
        let all = || Query { of: Of::Replay, text: sql::text(Of::Replay, Ask::All), lists: Vec::new() };
        let rows = self.0.or_cut_off(self.0.rows(all)).await?;
        self.shown_of(Of::Replay, &rows)?.look(|view| replay::list(view.tables))
    }

    pub(in super::super) async fn cancel_range(self, id: u64) -> Result<bool, SpoolError> {
        let id = id as i64;
        let cancelled = self
            .0
            .patiently(move |fleet| async move {
                let connection = fleet.connection().await?;
                let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&id];
                Ok(fleet.watched(&connection, connection.client().execute(CANCEL, &parameters)).await??)
            })
            .await?;
        Ok(cancelled > 0)
    }

    fn shown_of(self, of: Of, rows: &[tokio_postgres::Row]) -> Result<Shown, SpoolError> {
        let mut loaded = Loaded::new();
        note(of, rows, &mut loaded)?;
        self.0.inner.scratch.view(Vec::new(), loaded)
    }

    /// Every satellite by its number.
    async fn names(self) -> Result<Names, SpoolError> {
        self.0
            .patiently(|fleet| async move {
                let connection = fleet.connection().await?;
                let asked = connection.client().query("select sat, name from satellite", &[]);
                let rows = fleet.watched(&connection, asked).await??;
                let pair =
                    |row: &tokio_postgres::Row| Ok((row.try_get::<_, i64>(0)? as u32, row.try_get(1)?));
                rows.iter().map(pair).collect()
            })
            .await
    }

    pub(in super::super) async fn next_again(
        self,
        exporter: Arc<str>,
        signals: SignalSet,
        fingerprint: u64,
    ) -> Result<Option<Again>, SpoolError> {
        loop {
            let version = self.0.inner.status.borrow().version;
            {
                let mut searches = locked(&self.0.inner.searches);
                let looked = &mut searches.entry(Arc::clone(&exporter)).or_default().replays_looked;
                if looked.is_some_and(|(at, seen)| seen == version && at.elapsed() < LOOK) {
                    return Ok(None);
                }
                *looked = Some((Instant::now(), version));
            }
            let name = exporter.to_string();
            let open = move || Query { of: Of::Replay, text: OPEN, lists: vec![List::Text(name.clone())] };
            let rows = self.0.rows(open).await?;
            if rows.is_empty() || self.0.outlet().take(&exporter, REPLAYS).await?.is_none() {
                return Ok(None);
            }
            let found =
                self.shown_of(Of::Replay, &rows)?.look(|v| replay::first_open(v.tables, &exporter))?;
            let Some((id, job)) = found else { continue };
            // There may be more.
            locked(&self.0.inner.searches).entry(Arc::clone(&exporter)).or_default().replays_looked = None;
            if let Some(work) = self.segment_of(&exporter, id, job, signals, fingerprint).await? {
                return Ok(Some(Again { id, work }));
            }
        }
    }

    /// The next segment of a replay; none when it has ended.
    async fn segment_of(
        self,
        exporter: &Arc<str>,
        id: u64,
        mut job: ReplayRecord,
        signals: SignalSet,
        fingerprint: u64,
    ) -> Result<Option<Work>, SpoolError> {
        let (names, mut missing) = (self.names().await?, 0);
        let Some(any) = names.keys().next().copied() else {
            return self.cancel_range(id).await.map(|_| None);
        };
        loop {
            let (mut sought, is_end) = self.sought(&names, &job, signals, fingerprint).await?;
            missing += std::mem::take(&mut sought.missing);
            let found = sought.found.take();
            if found.is_none() && !is_end {
                job.go_on(sought.next);
                continue;
            }
            sought.missing = missing;
            let place = found.as_ref().map(|found| found.payload);
            let work = match found {
                Some(found) => self.work_again(found).await?,
                None => None,
            };
            let unusable = place.is_some() && work.is_none();
            if let Some(step) = ReplayStep::of(&sought, place, unusable, fingerprint) {
                missing = 0;
                job.go_on(step.next);
                self.again(Arc::clone(exporter), id, any, step).await?;
            }
            if work.is_some() || place.is_none() {
                return Ok(work);
            }
        }
    }

    /// Verifies and decodes a segment; none when it cannot be used.
    async fn work_again(self, found: Found) -> Result<Option<Work>, SpoolError> {
        let (satellite, payload) = (satellite_of_payload(found.payload), found.payload);
        let turn = self.0.settings().decoding.take(needs(&found.header)).await;
        let mut loaded = Loaded::new();
        let pieces = self.0.rows(move || Query::key(Of::SegmentChunk, &[satellite, payload])).await?;
        note(Of::SegmentChunk, &pieces, &mut loaded)?;
        self.0.outlet().add_bases(satellite as u32, &found.header, false, &mut loaded).await?;
        let scratch = self.0.inner.scratch.clone();
        let work = move || {
            let shown = scratch.view(Vec::new(), loaded)?;
            let snapshot = shown.snapshot()?;
            match guarded(|| snapshot.work_again(found)) {
                Ok(work) => Ok(Some(work.in_turn(turn))),
                Err(Fault::Store(error)) => Err(error.into()),
                Err(_) => Ok(None),
            }
        };
        self.0.inner.env.cpu(work).await
    }

    /// Looks for the next segment in a page of the catalogue, and whether that was the last page.
    async fn sought(
        self,
        names: &Names,
        job: &ReplayRecord,
        signals: SignalSet,
        fingerprint: u64,
    ) -> Result<(Sought, bool), SpoolError> {
        let wanted = names.iter().find(|(_, name)| **name == job.satellite).map_or(0, |(sat, _)| *sat);
        let next = job.next().max(u64::from(wanted) << PAYLOAD_BITS);
        let asked: Vec<i64> =
            vec![wanted.into(), satellite_of_payload(next) as i64, next as i64, PAGE as i64];
        let from = move || Query { of: Of::Catalogue, text: FROM, lists: vec![List::Numbers(asked.clone())] };
        let rows = self.0.rows(from).await?;
        let mut page: Vec<(u64, CatalogueRecord)> = Vec::new();
        for row in &rows {
            let (key, rest) = Of::Catalogue.read(row)?;
            page.push((key[1].number(), decode(rest[1].bytes())?));
        }
        let column = |of: fn(&(u64, CatalogueRecord)) -> Option<u64>| -> Vec<i64> {
            page.iter().filter_map(of).map(|n| n as i64).collect()
        };
        let kept = [column(|row| Some(satellite_of_payload(row.0))), column(|row| Some(row.0))];
        let entries = [
            column(|row| Some(row.1.entry()?.satellite.into())),
            column(|row| Some(row.1.entry()?.lane.into())),
            column(|row| Some(row.1.entry()?.entry)),
        ];
        let mut exporters = vec![job.exporter.clone()];
        exporters.extend(SignalSet::ALL.iter().map(|signal| ahead(&job.exporter, signal)));
        let mut loaded = Loaded::new();
        for (of, lists) in [(Of::Kept, kept.to_vec()), (Of::Entry, entries.to_vec())] {
            let rows = self
                .0
                .rows(move || Query::keys(of, lists.iter().cloned().map(List::Numbers).collect()))
                .await?;
            note(of, &rows, &mut loaded)?;
        }
        let places =
            move || Query { of: Of::Place, text: PLACES, lists: vec![List::Texts(exporters.clone())] };
        note(Of::Place, &self.0.rows(places).await?, &mut loaded)?;
        let shown = self.0.inner.scratch.view(Vec::new(), loaded)?;
        let is_end = page.len() < PAGE;
        let rows = page.into_iter().map(Ok);
        let sought = shown.look(|view| replay::seek(view.tables, names, job, signals, fingerprint, rows))?;
        Ok((sought, is_end))
    }

    pub(in super::super) async fn again(
        self,
        exporter: Arc<str>,
        id: u64,
        satellite: u32,
        step: ReplayStep,
    ) -> Result<(), SpoolError> {
        let Some(fence) = self.0.outlet().take(&exporter, REPLAYS).await? else {
            return Err(super::EngineError::TakenOver { satellite: REPLAYS.0, lane: REPLAYS.1 }.into());
        };
        let (of, lane) = REPLAYS;
        let lease = Lease { satellite: of, lane, exporter, owner: self.0.inner.owner, fence };
        let exporter = Arc::clone(&lease.exporter);
        let need = move |_: &[u32]| {
            let query = Query { of: Of::Replay, text: LOCKED, lists: vec![List::Numbers(vec![id as i64])] };
            Need { lease: Some(lease.clone()), ..Need::rows(vec![query]) }
        };
        let done =
            self.0.insist_on(satellite, need, move |txn, _| replay::note(txn, id, satellite, &step)).await;
        if matches!(done, Err(SpoolError::Engine(super::EngineError::TakenOver { .. }))) {
            self.0.outlet().forget_lease(&exporter, REPLAYS);
        }
        done
    }
}

impl Views<'_> {
    /// Bytes of the segments that are kept.
    pub(super) async fn kept_bytes(self) -> Result<u64, SpoolError> {
        self.0
            .patiently(|fleet| async move {
                let connection = fleet.connection().await?;
                let asked =
                    connection.client().query_one("select coalesce(sum(bytes), 0)::int8 from kept", &[]);
                Ok(fleet.watched(&connection, asked).await??.try_get::<_, i64>(0)? as u64)
            })
            .await
    }
}

impl Upkeep<'_> {
    /// Gives up what is kept for longer than is wanted, or is above its bounds; the oldest first.
    pub(in super::super) async fn trim_kept(self) -> Result<(), SpoolError> {
        let keep = self.0.settings().keep;
        let oldest = self.0.inner.env.unix_nano().saturating_sub(keep.nano) as i64;
        loop {
            let (used, limit) = (self.0.inner.status.borrow().used, self.0.inner.bounds.limit());
            let rows = self.0.ask_for(OLDEST).await?;
            let mut of = BTreeMap::<u32, Vec<u64>>::new();
            let mut left: Option<u64> = None;
            for row in &rows {
                let number = |at: usize| row.try_get::<_, i64>(at);
                let all = left.unwrap_or(number(5)? as u64);
                let fits = all <= keep.bytes && all + used <= limit;
                if fits && number(2)? >= oldest && row.try_get::<_, bool>(4)? {
                    break;
                }
                left = Some(all.saturating_sub(number(3)? as u64));
                of.entry(number(0)? as u32).or_default().push(number(1)? as u64);
            }
            if of.is_empty() {
                return Ok(());
            }
            for (satellite, payloads) in of {
                let keys = payloads.clone();
                let need = move |_: &[u32]| {
                    let satellites = keys.iter().map(|_| satellite.into()).collect();
                    let payloads = keys.iter().map(|payload| *payload as i64).collect();
                    let lists = vec![List::Numbers(satellites), List::Numbers(payloads)];
                    Need::rows(vec![Query::keys(Of::Kept, lists)])
                };
                let give_up = move |txn: &mut Txn<'_>, _: &_| {
                    payloads.iter().try_for_each(|payload| archive::give_up(txn, *payload))
                };
                self.0.insist_on(satellite, need, give_up).await?;
                let need = |satellites: &[u32]| Need::all_of(BASES_NEEDED, satellites);
                self.0.insist_on(satellite, need, |txn, row| bases::forget_passed(txn, row.number)).await?;
            }
        }
    }
}
