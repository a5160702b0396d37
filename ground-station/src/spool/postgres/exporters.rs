//! Which exporters there are, at this station and at the others.
//!
//! A segment stays until every exporter has it. Stations may have different ones, if only while one of them has its new configuration
//! and another one does not have it yet, so each says what it has, and nobody lets go of a segment that another one's exporter wants. An
//! exporter that was taken out of every configuration is given up by deleting its row.

use perigee_shared::signal::{Signal, SignalSet};

use super::super::error::SpoolError;
use super::Outlet;
use super::export::mask;

/// This station has these exporters.
const TELL: &str = "insert into exporter (name, signals, station) \
    select name, signals, $3 from unnest($1::text[], $2::int8[]) as x(name, signals) \
    on conflict (name) do update set signals = excluded.signals, station = excluded.station, told = clock_timestamp()";

const ALL: &str = "select name, signals, station, to_char(told at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') from exporter";

/// An exporter of some station.
struct Told {
    name: String,
    signals: SignalSet,
    station: String,
    /// When that one joined.
    time: String,
}

impl Outlet<'_> {
    /// Says which exporters this station has. Warns of those that it does not have.
    pub(super) async fn tell_exporters(self) -> Result<(), SpoolError> {
        let station = self.0.settings().station.clone();
        let (names, masks): (Vec<String>, Vec<i64>) =
            self.0.inner.routes.iter().map(|(name, signals)| (name.clone(), mask(*signals))).unzip();
        self.0
            .patiently(move |fleet| {
                let (names, masks, station) = (names.clone(), masks.clone(), station.clone());
                async move {
                    let connection = fleet.connection().await?;
                    let statement = connection.prepare(TELL).await?;
                    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                        [&names, &masks, &station];
                    fleet
                        .watched(&connection, connection.client().execute(&statement, &parameters))
                        .await??;
                    Ok(())
                }
            })
            .await?;
        let all = self.told().await?;
        for Told { name, station, time, .. } in &all {
            if !self.0.inner.routes.contains_key(name) {
                tracing::warn!(
                    exporter = name,
                    station,
                    time,
                    "another station has an exporter that this one does not have: what it wants stays in the ledger until it has \
                     it; if no station is to have it any more, delete its row from the table exporter"
                );
            }
        }
        self.go_by(all);
        Ok(())
    }

    /// Looks which exporters there are; whether one has gone.
    pub(super) async fn hear_of_exporters(self) -> Result<bool, SpoolError> {
        Ok(self.go_by(self.told().await?))
    }

    fn go_by(self, all: Vec<Told>) -> bool {
        let mut routes = self.0.inner.routes.clone();
        for Told { name, signals, .. } in all {
            let of_name = routes.entry(name).or_default();
            *of_name = signals.iter().fold(*of_name, SignalSet::with);
        }
        let settings = self.0.settings();
        let gone = |(name, signals): (&String, &SignalSet)| {
            routes.get(name).is_none_or(|now| !signals.without(*now).is_empty())
        };
        let has_gone = settings.routes.iter().any(gone);
        if routes != settings.routes {
            self.0.inner.scratch.set_routes(routes);
        }
        has_gone
    }

    async fn told(self) -> Result<Vec<Told>, SpoolError> {
        let rows = self.0.ask_for(ALL).await?;
        let told = |row: &tokio_postgres::Row| {
            let bits: i64 = row.try_get(1)?;
            let has = Signal::ALL.into_iter().filter(|signal| bits & 1 << *signal as u8 != 0);
            let signals = has.fold(SignalSet::default(), SignalSet::with);
            Ok(Told { name: row.try_get(0)?, signals, station: row.try_get(2)?, time: row.try_get(3)? })
        };
        rows.iter().map(told).collect()
    }
}
