//! Dead letters of the shared ledger.

use std::sync::Arc;
use std::time::Duration;

use perigee_shared::export::Limits;
use perigee_shared::store::guarded;
use tokio::time::Instant;

use super::super::decode::{At, Fault, Snapshot};
use super::super::error::SpoolError;
use super::super::letters::{self, LetterView, Next, Replay};
use super::super::tables::{LetterRecord, decode, header};
use super::export::{LETTERS, needs};
use super::rows::{List, Of, Rows, satellite_of_letter};
use super::scratch::Loaded;
use super::session::{Need, note};
use super::sql::Query;
use super::{Replays, Views, locked};

/// How often it is looked for letters that another station's operator wants sent again.
const LOOK: Duration = Duration::from_secs(1);

/// Letters that are looked at together, at most.
const PAGE: i64 = 256;

/// Letters that an exporter is to send again.
const TO_REPLAY: &str = "select sat, id, exporter, replay, record from letter where exporter = $1 and replay = 1 \
                         order by id limit 256";
/// Letters behind an id.
const BEHIND: &str = "select sat, id, exporter, replay, record from letter where (sat, id) > ($1, $2) \
                      order by sat, id limit $3";

fn key(id: u64) -> [u64; 2] {
    [satellite_of_letter(id), id]
}

impl Replays<'_> {
    async fn behind(self, after: u64, limit: i64) -> Result<Rows, SpoolError> {
        let [satellite, id] = key(after).map(|n| n as i64);
        let rows = self
            .0
            .patiently(move |fleet| async move {
                let connection = fleet.connection().await?;
                let statement = connection.prepare(BEHIND).await?;
                let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&satellite, &id, &limit];
                Ok(fleet.watched(&connection, connection.client().query(&statement, &parameters)).await??)
            })
            .await?;
        let mut loaded = Loaded::new();
        note(Of::Letter, &rows, &mut loaded)?;
        Ok(loaded.remove(&Of::Letter).unwrap_or_default())
    }

    pub(in super::super) async fn next_replays(
        self,
        exporter: Arc<str>,
        limits: Limits,
    ) -> Result<Vec<Replay>, SpoolError> {
        loop {
            let version = self.0.inner.status.borrow().version;
            {
                let mut searches = locked(&self.0.inner.searches);
                let looked = &mut searches.entry(Arc::clone(&exporter)).or_default().letters_looked;
                if looked.is_some_and(|(at, seen)| seen == version && at.elapsed() < LOOK) {
                    return Ok(Vec::new());
                }
                *looked = Some((Instant::now(), version));
            }
            let name = exporter.to_string();
            let rows = self
                .0
                .rows(move || Query {
                    of: Of::Letter,
                    text: TO_REPLAY,
                    lists: vec![List::Text(name.clone())],
                })
                .await?;
            // One worker sends them.
            if rows.is_empty() || self.0.outlet().take(&exporter, LETTERS).await?.is_none() {
                return Ok(Vec::new());
            }
            let mut loaded = Loaded::new();
            note(Of::Letter, &rows, &mut loaded)?;
            self.add_bodies(&mut loaded, limits).await?;
            let shown = self.0.inner.scratch.view(Vec::new(), loaded)?;
            // There may be more.
            locked(&self.0.inner.searches).entry(Arc::clone(&exporter)).or_default().letters_looked = None;
            match shown.look(|view| letters::next_replays(view, &exporter, limits))? {
                Next::Whole(replays) => return Ok(replays),
                Next::Damaged(id) => self.lose_letter(id).await?,
            }
        }
    }

    /// Reads the bodies of as many letters as one request may have; the others are left out.
    async fn add_bodies(self, loaded: &mut Loaded, limits: Limits) -> Result<(), SpoolError> {
        let Some(rows) = loaded.get_mut(&Of::Letter) else { return Ok(()) };
        let (mut length, mut ids) = (0, Vec::new());
        for (key, rest) in rows.iter() {
            length += decode::<LetterRecord>(rest[2].bytes())?.length() as usize;
            if !ids.is_empty() && length > limits.bytes {
                break;
            }
            ids.push(key[1].number());
        }
        rows.retain(|key, _| ids.contains(&key[1].number()));
        for id in ids {
            let pieces = self.0.rows(move || Query::key(Of::LetterChunk, &key(id))).await?;
            note(Of::LetterChunk, &pieces, loaded)?;
        }
        Ok(())
    }

    async fn lose_letter(self, id: u64) -> Result<(), SpoolError> {
        let need = move |_: &[u32]| Need::rows(vec![Query::key(Of::Letter, &key(id))]);
        self.0.insist_on(satellite_of_letter(id) as u32, need, move |txn, _| letters::lose(txn, id)).await
    }

    pub(in super::super) async fn replayed(
        self,
        ids: Arc<[u64]>,
        refused: Option<String>,
    ) -> Result<(), SpoolError> {
        for id in ids.iter().copied() {
            let (need, refused) =
                (move |_: &[u32]| Need::rows(vec![Query::key(Of::Letter, &key(id))]), refused.clone());
            let work = move |txn: &mut super::super::file::Txn<'_>, _: &_| {
                letters::replayed(txn, id, refused.as_deref())
            };
            self.0.insist_on(satellite_of_letter(id) as u32, need, work).await?;
        }
        Ok(())
    }

    pub(in super::super) async fn discard(self, ids: Vec<u64>) -> Result<u64, SpoolError> {
        let mut discarded = 0;
        for id in ids {
            let need = move |_: &[u32]| Need::rows(vec![Query::key(Of::Letter, &key(id))]);
            let work = move |txn: &mut super::super::file::Txn<'_>, _: &_| letters::give_up(txn, id);
            discarded += u64::from(self.0.insist_on(satellite_of_letter(id) as u32, need, work).await?);
        }
        Ok(discarded)
    }

    pub(in super::super) async fn replay(self, ids: Option<Vec<u64>>) -> Result<u64, SpoolError> {
        let (mut after, mut replayed) = (0, 0);
        loop {
            let rows = match &ids {
                Some(ids) => {
                    let ids = ids.clone();
                    let lists = move || {
                        let satellites = ids.iter().map(|id| satellite_of_letter(*id) as i64).collect();
                        vec![
                            List::Numbers(satellites),
                            List::Numbers(ids.iter().map(|id| *id as i64).collect()),
                        ]
                    };
                    let rows = self.0.rows(move || Query::keys(Of::Letter, lists())).await?;
                    let mut loaded = Loaded::new();
                    note(Of::Letter, &rows, &mut loaded)?;
                    loaded.remove(&Of::Letter).unwrap_or_default()
                }
                None => self.behind(after, PAGE).await?,
            };
            let Some(last) = rows.keys().next_back().map(|key| key[1].number()) else { break };
            for (key, rest) in rows {
                let record: LetterRecord = decode(rest[2].bytes())?;
                replayed += u64::from(self.replay_one(key[1].number(), record).await?);
            }
            after = last;
            if ids.is_some() {
                break;
            }
        }
        self.0.wake();
        Ok(replayed)
    }

    async fn replay_one(self, id: u64, letter: LetterRecord) -> Result<bool, SpoolError> {
        let satellite = satellite_of_letter(id) as u32;
        let need = move |_: &[u32]| Need::rows(vec![Query::key(Of::Letter, &key(id))]);
        if !letter.exporter.is_empty() {
            return self.0.insist_on(satellite, need, move |txn, _| letters::mark(txn, id)).await;
        }
        let Some(header) = header(letter.header.clone()) else { return Ok(false) };
        let mut loaded = Loaded::new();
        let pieces = self.0.rows(move || Query::key(Of::LetterChunk, &key(id))).await?;
        note(Of::LetterChunk, &pieces, &mut loaded)?;
        self.0.outlet().add_bases(satellite, &header, false, &mut loaded).await?;
        let shown = self.0.inner.scratch.view(Vec::new(), loaded)?;
        let bytes: Arc<[u8]> = shown.look(|view| letters::bytes(view, id, &letter))?.into();
        let (payload, of) = (Arc::clone(&bytes), header.clone());
        let decoded = move || {
            let look = |s: Snapshot| s.look_through(satellite, &of, At::Bytes(&payload));
            guarded(|| look(shown.snapshot().map_err(Fault::from)?))
        };
        let _turn = self.0.settings().decoding.take(needs(&header)).await;
        match self.0.inner.env.cpu(decoded).await {
            Ok(()) => {}
            Err(Fault::Payload) => return self.lose_letter(id).await.map(|()| false),
            Err(Fault::Base(_) | Fault::Undecodable(_)) => return Ok(false),
            Err(Fault::Store(error)) => return Err(error.into()),
        }
        let work = move |txn: &mut super::super::file::Txn<'_>, _: &_| {
            letters::back_into_spool(txn, id, &letter, &header, &bytes)
        };
        self.0.insist_on(satellite, need, work).await.map(|()| true)
    }
}

impl Views<'_> {
    pub(in super::super) async fn letters(
        self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<LetterView>, SpoolError> {
        let rows = self.0.replays().behind(after, i64::try_from(limit).unwrap_or(i64::MAX)).await?;
        let shown = self.0.inner.scratch.view(Vec::new(), Loaded::from([(Of::Letter, rows)]))?;
        shown.look(|view| letters::list(view, after, limit))
    }
}
