//! The schema of the shared ledger: numbered steps, each applied once, in the order of their numbers.
//!
//! Stations are updated one after the other, so a step must leave what the version before needs. A step that cannot says so in
//! `readable_from`: software of an earlier schema is refused from then on. The texts are pinned: a text that was applied is never
//! changed, and a database whose steps have other texts is refused.

use std::time::Duration;

use perigee_shared::segment::hash;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::connect::Connection;
use super::error::EngineError;

/// One step.
struct Step {
    version: i64,
    /// The earliest version of the schema whose software works with the database after this step.
    readable_from: i64,
    text: &'static str,
}

const STEPS: &[Step] = &[
    Step { version: 1, readable_from: 1, text: include_str!("001_ledger.sql") },
    Step { version: 2, readable_from: 1, text: include_str!("002_migration.sql") },
    Step { version: 3, readable_from: 1, text: include_str!("003_catalogue.sql") },
    Step { version: 4, readable_from: 1, text: include_str!("004_archive.sql") },
    Step { version: 5, readable_from: 1, text: include_str!("005_alarm.sql") },
    Step { version: 6, readable_from: 1, text: include_str!("006_catalogue_of.sql") },
    Step { version: 7, readable_from: 1, text: include_str!("007_exporter.sql") },
    Step { version: 8, readable_from: 1, text: include_str!("008_link.sql") },
    Step { version: 9, readable_from: 1, text: include_str!("009_groups.sql") },
];

/// The latest version that this software knows.
const KNOWN: i64 = STEPS[STEPS.len() - 1].version;

/// Steps that were applied; the row with version 0 is their lock.
const APPLIED: &str = "create table if not exists perigee_schema (version bigint primary key, readable_from bigint not null, \
                       hash bytea not null, software text not null)";

/// How often two stations that make the first table at once may get in each other's way.
const TRIES: u32 = 20;

/// Brings the database to the latest version that this software knows, unless it has a later one. Returns the ledger's id; a new
/// ledger gets `id`.
pub(super) async fn prepare(connection: &Connection, id: u64) -> Result<u64, EngineError> {
    let mut tries = 0;
    loop {
        match migrate(connection, id).await {
            // Stations that begin together make the same table and the same first row.
            Err(EngineError::Statement(_) | EngineError::Conflict(_)) if tries < TRIES => {
                tries += 1;
                let _ = connection.client().batch_execute("rollback").await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => {
                let _ = connection.client().batch_execute("rollback").await;
                return Err(error);
            }
            done => return done,
        }
    }
}

async fn migrate(connection: &Connection, id: u64) -> Result<u64, EngineError> {
    let client = connection.client();
    let software = concat!("ground-station ", env!("CARGO_PKG_VERSION"));
    client.batch_execute(APPLIED).await?;
    const LOCK: &str = "insert into perigee_schema values (0, 0, '', $1) on conflict (version) do nothing";
    client.execute(LOCK, &[&software]).await?;
    client.batch_execute("begin").await?;
    client.query_one("select version from perigee_schema where version = 0 for update", &[]).await?;
    let rows = client
        .query(
            "select version, readable_from, hash from perigee_schema where version > 0 order by version",
            &[],
        )
        .await?;
    let mut done = 0;
    for row in rows {
        let (version, readable, text): (i64, i64, Vec<u8>) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        done = version;
        let Some(step) = STEPS.iter().find(|step| step.version == version) else {
            if readable > KNOWN {
                return Err(too_late(version));
            }
            continue;
        };
        if text != hash(step.text.as_bytes()) {
            return Err(EngineError::refused(
                format!("step {version} of its schema is not the one that this software has"),
                "the database was made by other software; restore it from a backup or name another in storage.database",
            ));
        }
    }
    for step in STEPS.iter().filter(|step| step.version > done) {
        client.batch_execute(step.text).await?;
        let hash = hash(step.text.as_bytes()).to_vec();
        client
            .execute(
                "insert into perigee_schema values ($1, $2, $3, $4)",
                &[&step.version, &step.readable_from, &hash, &software],
            )
            .await?;
        tracing::info!(version = step.version, "the schema of the shared ledger was brought to this version");
    }
    client.execute("insert into ledger values (1, $1) on conflict (one) do nothing", &[&(id as i64)]).await?;
    let row = client.query_one("select id from ledger where one = 1", &[]).await?;
    client.batch_execute("commit").await?;
    Ok(row.try_get::<_, i64>(0)? as u64)
}

/// Whether the database still is the ledger `joined`, in a form that this software knows: another may have been put in its place, and
/// other software may have been there.
pub(super) async fn verify(client: &Client, joined: u64) -> Result<(), EngineError> {
    const WHICH: &str = "select (select id from ledger where one = 1), \
                         (select coalesce(max(readable_from), 0) from perigee_schema)";
    let another = || {
        let cause = "its database has another ledger than the one that this station joined";
        EngineError::refused(cause, "bring that one back, or restart every station so that it joins this one")
    };
    let row = match client.query_one(WHICH, &[]).await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Err(another()),
        row => row?,
    };
    let (ledger, readable): (Option<i64>, i64) = (row.try_get(0)?, row.try_get(1)?);
    if ledger != Some(joined as i64) {
        return Err(another());
    }
    if readable > KNOWN { Err(too_late(readable)) } else { Ok(()) }
}

fn too_late(version: i64) -> EngineError {
    let cause = format!("its schema is version {version}, this software knows {KNOWN}");
    EngineError::refused(cause, "update this ground-station; nothing was changed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text that was applied somewhere is never changed: add a step instead.
    #[test]
    fn the_texts_of_the_schema_are_pinned() {
        const PINNED: &[&str] = &[
            "745b8a528edc001f7e26fadcc9413d08d449e3103e3242633bf9497c3ce5ec4e",
            "d6271f09aebe2c221ed606c4f8b4fefe9ddfae89263c2d8fede2ece6dc1b7c2d",
            "334e7824bee9ac7142651ef43348afa7eb1fc32c0aa0638de4667b3fbcb1ed84",
            "f1538ef0b214adc7eb8c4c612a106f905c33a53d4bc0a7062e666f7be93b2874",
            "f972cd186a19fc699ff1d4be0594050f28ea8c2ed9494b69d1a295cd67611af5",
            "8641255bfe11b27f6c701c84bde5c39eeb0b0c136a25d3effdbc8892e79b4bda",
            "2e73b9d6461b9378ea982029a952e3021b522c0bc38b4821c64d5d4d76774f79",
            "6713c45c70d4b1ae0ddf7fcdcc2450db661d16f0be0838de32f42c85a978df32",
            "bda285191bde351c112ba6b6c6910e268e70828fce29853958893816de34c8c2",
        ];
        let hashes: Vec<String> = STEPS
            .iter()
            .map(|step| hash(step.text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect())
            .collect();
        assert_eq!(hashes, PINNED);
        assert!(STEPS.iter().zip(1..).all(|(step, version)| step.version == version));
    }
}
