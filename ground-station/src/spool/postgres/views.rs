//! What people and tools are shown of the shared ledger, from any station. Each view is read in one transaction.

use std::collections::BTreeMap;

use super::super::error::SpoolError;
use super::super::file::View;
use super::super::look::Glance;
use super::super::passes::{self, PassView};
use super::super::standing::{self, StandingView};
use super::super::views::{self, AccountView, GapView, Gaps, SatelliteView, SpoolView};
use super::rows::{List, Of};
use super::scratch::{BEHIND_ALL, Loaded, SatelliteRow};
use super::session::{ask, note, satellite_of};
use super::sql::{self, Ask, Query};
use super::{Fleet, locked};

/// Gaps, at most so many.
const GAPS: &str = "select sat, epoch, id, record from gap order by sat, epoch, id limit ($1::int8[])[1]";

/// What was shown last: while the engine does not answer, metrics still say so, and how it was.
#[derive(Default)]
pub(super) struct Last {
    overview: Option<SpoolView>,
    accounting: Option<BTreeMap<String, AccountView>>,
    standings: Option<BTreeMap<String, StandingView>>,
    gaps: Option<Gaps>,
    pub(super) links: Option<BTreeMap<String, Vec<String>>>,
}

/// What people and tools are shown.
#[derive(Clone, Copy)]
pub(in super::super) struct Views<'a>(pub(super) &'a Fleet);

impl Views<'_> {
    /// The answer, which is kept, or the last one when the engine is gone for now.
    pub(super) async fn or_last<R: Clone>(
        self,
        asked: impl Future<Output = Result<R, SpoolError>>,
        place: fn(&mut Last) -> &mut Option<R>,
    ) -> Result<R, SpoolError> {
        let answer = self.0.or_cut_off(asked).await;
        let mut last = locked(&self.0.inner.shown);
        let last = place(&mut last);
        match (answer, last.as_ref()) {
            (Ok(answer), _) => {
                *last = Some(answer.clone());
                Ok(answer)
            }
            (Err(error), Some(last)) if error.is_retryable() => Ok(last.clone()),
            (Err(error), _) => Err(error),
        }
    }

    /// Every satellite, and every row of these tables.
    pub(super) async fn everything(
        self,
        queries: impl Fn() -> Vec<Query> + Send + Sync + 'static,
    ) -> Result<(Vec<SatelliteRow>, Loaded), SpoolError> {
        let queries = std::sync::Arc::new(queries);
        self.0
            .patiently(move |fleet| {
                let queries = queries();
                async move {
                    let connection = fleet.connection().await?;
                    let work = async {
                        let client = connection.client();
                        client.batch_execute("begin isolation level repeatable read read only").await?;
                        let statement = connection.prepare(sql::SATELLITES).await?;
                        let rows = client.query(&statement, &[]).await?;
                        let satellites = rows.iter().map(satellite_of).collect::<Result<Vec<_>, _>>()?;
                        let mut loaded = Loaded::new();
                        for query in &queries {
                            note(query.of, &ask(&connection, query).await?, &mut loaded)?;
                        }
                        Ok::<_, SpoolError>((satellites, loaded))
                    };
                    let read = fleet.watched(&connection, work).await?;
                    fleet.watched(&connection, connection.client().batch_execute("rollback")).await??;
                    read
                }
            })
            .await
    }

    async fn show<R: Send + 'static>(
        self,
        tables: &'static [Of],
        work: impl FnOnce(&View<'_>) -> Result<R, SpoolError> + Send + 'static,
    ) -> Result<R, SpoolError> {
        let all = move || {
            tables
                .iter()
                .map(|of| Query { of: *of, text: sql::text(*of, Ask::All), lists: Vec::new() })
                .collect()
        };
        let (satellites, loaded) = self.everything(all).await?;
        let scratch = self.0.inner.scratch.clone();
        self.0.inner.env.cpu(move || scratch.view(satellites, loaded)?.look(work)).await
    }

    /// Everything but payloads, as it is now.
    pub(in super::super) async fn glance(self) -> Result<Glance, SpoolError> {
        const NEEDED: [Of; 12] = [
            Of::Epoch,
            Of::Committed,
            Of::Dropped,
            Of::Partial,
            Of::Pass,
            Of::Contact,
            Of::Gap,
            Of::Entry,
            Of::Base,
            Of::Letter,
            Of::Place,
            Of::Alarm,
        ];
        let scrub = locked(&self.0.inner.scrub).done;
        let all = || {
            let query = |of| Query { of, text: sql::text(of, Ask::All), lists: Vec::new() };
            NEEDED.map(query).into()
        };
        let (satellites, loaded) = self.0.or_cut_off(self.everything(all)).await?;
        let (scratch, fleet) = (self.0.inner.scratch.clone(), self.0.clone());
        let made = move || scratch.view(satellites, loaded).map(|shown| shown.glance(scrub, fleet));
        self.0.inner.env.cpu(made).await
    }

    pub(in super::super) async fn satellites(self) -> Result<Vec<SatelliteView>, SpoolError> {
        const NEEDED: &[Of] = &[Of::Epoch, Of::Committed, Of::Dropped, Of::Partial, Of::Pass, Of::Contact];
        self.0.or_cut_off(self.show(NEEDED, views::satellites)).await
    }

    pub(in super::super) async fn standings(self) -> Result<BTreeMap<String, StandingView>, SpoolError> {
        let asked = self.show(&[Of::Pass, Of::Contact], standing::standings);
        self.or_last(asked, |last| &mut last.standings).await
    }

    pub(in super::super) async fn overview(self) -> Result<SpoolView, SpoolError> {
        self.or_last(self.overview_now(), |last| &mut last.overview).await
    }

    async fn overview_now(self) -> Result<SpoolView, SpoolError> {
        let scrub = locked(&self.0.inner.scrub).done;
        let all = || {
            let tables = [Of::Entry, Of::Base, Of::Letter, Of::Place];
            tables.map(|of| Query { of, text: sql::text(of, Ask::All), lists: Vec::new() }).into()
        };
        let (satellites, loaded) = self.everything(all).await?;
        let commits: u64 = satellites.iter().map(|row| row.next_payload.saturating_sub(1)).sum();
        let scratch = self.0.inner.scratch.clone();
        let shown = move || scratch.view(satellites, loaded)?.look(views::overview);
        let mut view: SpoolView = self.0.inner.env.cpu(shown).await?;
        view.next_entry = commits + 1;
        for exporter in &mut view.exporters {
            // A number stands for the satellite's own count.
            let own = exporter.entry & ((1 << super::rows::PAYLOAD_BITS) - 1);
            exporter.entry = if exporter.entry == BEHIND_ALL { commits + 1 } else { own };
        }
        Ok(SpoolView { scrub, kept_bytes: self.kept_bytes().await?, ..view })
    }

    pub(in super::super) async fn passes(self, limit: usize) -> Result<Vec<PassView>, SpoolError> {
        self.0.or_cut_off(self.show(&[Of::Pass, Of::Contact], move |view| passes::passes(view, limit))).await
    }

    pub(in super::super) async fn gaps(self, limit: usize) -> Result<Vec<GapView>, SpoolError> {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let some = move || vec![Query { of: Of::Gap, text: GAPS, lists: vec![List::Numbers(vec![most])] }];
        let (satellites, loaded) = self.0.or_cut_off(self.everything(some)).await?;
        self.0.inner.scratch.view(satellites, loaded)?.look(|view| views::gaps(view, limit))
    }

    pub(in super::super) async fn gap_counts(self) -> Result<Gaps, SpoolError> {
        self.or_last(self.show(&[Of::Gap], views::gap_counts), |last| &mut last.gaps).await
    }

    pub(in super::super) async fn accounting(self) -> Result<BTreeMap<String, AccountView>, SpoolError> {
        self.or_last(self.show(&[], views::accounting), |last| &mut last.accounting).await
    }
}
