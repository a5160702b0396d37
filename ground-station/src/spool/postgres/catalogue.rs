//! The catalogue of the shared ledger: the same rows as in a station's own file, in the order of their commits over all satellites.
//!
//! A commit writes its row; what is too old or too much goes once a minute, and not with each commit, since no station knows what the
//! others add.

use std::time::Duration;

use super::super::catalogue::{CatalogueRecord, Keep, ROW};
use super::super::error::SpoolError;
use super::super::tables::decode;
use super::rows::{List, Of, satellite_of_payload};
use super::sql::Query;
use super::{Upkeep, Views};

/// How often the oldest rows are deleted.
pub(super) const PRUNE: Duration = Duration::from_secs(60);

/// Rows before a place, latest first: the place's commit, satellite and payload, and how many.
const BEFORE: &str = "select sat, payload, committed, record from catalogue \
    where (committed, sat, payload) < (($1::int8[])[1], ($1::int8[])[2], ($1::int8[])[3]) \
    order by committed desc, sat desc, payload desc limit ($1::int8[])[4]";

/// The same of a satellite, which is the last number.
const BEFORE_OF: &str = "select sat, payload, committed, record from catalogue \
    where sat = ($1::int8[])[5] and (committed, payload) < (($1::int8[])[1], ($1::int8[])[3]) \
    order by committed desc, payload desc limit ($1::int8[])[4]";

/// Rows of a satellite since a time, latest first: satellite, time, how many.
const SINCE: &str = "select sat, payload, committed, record from catalogue \
    where sat = ($1::int8[])[1] and committed >= ($1::int8[])[2] order by committed desc limit ($1::int8[])[3]";

/// Rows that are too old.
const OLD: &str = "delete from catalogue where committed < $1";

/// Rows behind the latest so many.
const TOO_MANY: &str = "delete from catalogue c using (select committed, sat, payload from catalogue \
    order by committed desc, sat desc, payload desc offset $1 limit 1) o \
    where (c.committed, c.sat, c.payload) <= (o.committed, o.sat, o.payload)";

impl Views<'_> {
    /// Rows that were committed before the one with the number `after`, latest first, at most `most`.
    pub(in super::super) async fn catalogue_before(
        self,
        satellite: Option<u32>,
        after: Option<u64>,
        most: usize,
    ) -> Result<Vec<(u64, CatalogueRecord)>, SpoolError> {
        let [committed, sat, payload] = match after {
            None => [i64::MAX; 3],
            Some(number) => {
                let key = [satellite_of_payload(number), number];
                let rows = self.0.or_cut_off(self.0.rows(move || Query::key(Of::Catalogue, &key))).await?;
                // What was before a row that is gone is gone too.
                let Some(row) = rows.first() else { return Ok(Vec::new()) };
                let (key, rest) = Of::Catalogue.read(row)?;
                [rest[0].number() as i64, key[0].number() as i64, key[1].number() as i64]
            }
        };
        let mut asked = vec![committed, sat, payload, i64::try_from(most).unwrap_or(i64::MAX)];
        asked.extend(satellite.map(i64::from));
        let text = if satellite.is_some() { BEFORE_OF } else { BEFORE };
        self.catalogue_rows(move || query(text, &asked)).await
    }

    /// Rows of a satellite that were committed since `from`, latest first, at most `most`.
    pub(in super::super) async fn catalogue_since(
        self,
        satellite: u32,
        from: u64,
        most: usize,
    ) -> Result<Vec<(u64, CatalogueRecord)>, SpoolError> {
        let asked = vec![satellite.into(), i64::try_from(from).unwrap_or(i64::MAX), most as i64];
        self.catalogue_rows(move || query(SINCE, &asked)).await
    }

    async fn catalogue_rows(
        self,
        query: impl Fn() -> Query + Send + Sync + 'static,
    ) -> Result<Vec<(u64, CatalogueRecord)>, SpoolError> {
        let rows = self.0.or_cut_off(self.0.rows(query)).await?;
        let read = |row: &tokio_postgres::Row| {
            let (key, rest) = Of::Catalogue.read(row)?;
            Ok((key[1].number(), decode(rest[1].bytes())?))
        };
        rows.iter().map(read).collect()
    }
}

impl Upkeep<'_> {
    /// Deletes the rows that are older than is wanted, and those that are too many.
    pub(super) async fn prune_catalogue(self) -> Result<(), SpoolError> {
        let Keep { nano, bytes } = self.0.settings().catalogue;
        let oldest = i64::try_from(self.0.inner.env.unix_nano().saturating_sub(nano)).unwrap_or(i64::MAX);
        let most = i64::try_from(bytes / ROW).unwrap_or(i64::MAX);
        self.0
            .patiently(move |fleet| async move {
                let connection = fleet.connection().await?;
                let (old, many) = (connection.prepare(OLD).await?, connection.prepare(TOO_MANY).await?);
                let work = async {
                    connection.client().execute(&old, &[&oldest]).await?;
                    connection.client().execute(&many, &[&most]).await
                };
                fleet.watched(&connection, work).await??;
                Ok(())
            })
            .await
    }
}

fn query(text: &'static str, numbers: &[i64]) -> Query {
    Query { of: Of::Catalogue, text, lists: vec![List::Numbers(numbers.to_vec())] }
}
