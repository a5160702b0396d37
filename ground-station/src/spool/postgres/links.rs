//! Which satellites have an open link, and at which station: every station shows it of all.

use std::collections::BTreeMap;

use super::super::error::SpoolError;
use super::connect::Connection;
use super::views::Last;
use super::{Fleet, Views, Watch};

/// Those of this process that are closed.
const CLOSED: &str = "delete from open_link where owner = $1 \
    and not exists(select from satellite s where s.sat = open_link.sat and s.name = any($2::text[]))";

/// Those that are open.
const OPEN: &str = "insert into open_link (sat, owner) select sat, $1 from satellite where name = any($2::text[]) \
    on conflict do nothing";

/// What processes leave that end.
const FORGET: &str =
    "delete from open_link where not exists(select from worker w where w.owner = open_link.owner)";

const ALL: &str = "select s.name, w.station, w.owner from open_link l join satellite s on s.sat = l.sat \
    join worker w on w.owner = l.owner and w.until > clock_timestamp() order by s.name, w.station";

impl Fleet {
    /// Has the others told which satellites have an open link here, as `open` says.
    pub(in super::super) fn tell_links(&self, open: impl Fn() -> Vec<String> + Send + Sync + 'static) {
        let _ = self.inner.open_links.set(Box::new(open));
    }
}

impl Watch<'_> {
    /// Tells it once.
    pub(super) async fn say_links(self, connection: &Connection) -> Result<(), tokio_postgres::Error> {
        let Some(open) = self.0.inner.open_links.get() else { return Ok(()) };
        let (owner, open) = (self.0.inner.owner, open());
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&owner, &open];
        for text in [CLOSED, OPEN] {
            let statement = connection.prepare(text).await?;
            connection.client().execute(&statement, &parameters).await?;
        }
        let forget = connection.prepare(FORGET).await?;
        connection.client().execute(&forget, &[]).await.map(drop)
    }
}

impl Views<'_> {
    /// Other stations with an open link, by satellite.
    pub(in super::super) async fn linked_elsewhere(
        self,
    ) -> Result<BTreeMap<String, Vec<String>>, SpoolError> {
        let asked = async {
            let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for row in self.0.ask_for(ALL).await? {
                if row.try_get::<_, i64>(2)? != self.0.inner.owner {
                    out.entry(row.try_get(0)?).or_default().push(row.try_get(1)?);
                }
            }
            Ok(out)
        };
        self.or_last(asked, |last: &mut Last| &mut last.links).await
    }
}
