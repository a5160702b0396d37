//! How full the shared spool is, whether the engine answers, and that this worker lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use perigee_shared::link::ranges::RangeSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::super::bases;
use super::super::error::SpoolError;
use super::super::file::Txn;
use super::super::intake;
use super::super::tables::{PartialRecord, decode};
use super::super::upkeep::{Status, say_full};
use super::catalogue::PRUNE;
use super::error::EngineError;
use super::rows::{Cell, List, Of, sequence};
use super::scratch::{Changes, SatelliteRow};
use super::session::Need;
use super::sql::Query;
use super::{BASES_NEEDED, Fleet, locked};

/// How often it is looked what other stations have done.
const LOOK: Duration = Duration::from_millis(500);

/// Workers that have been silent for this long are forgotten.
const FORGET: &str = "delete from worker where until < clock_timestamp() - interval '1 hour'";

/// Whether there is something to export.
const WAITING: &str = "select exists(select from entry) or exists(select from replay where open = 1) \
    or exists(select from letter where replay = 1)";

/// This worker lives on.
pub(super) const BEAT: &str = "insert into worker (owner, station, until) \
    values ($1, $2, clock_timestamp() + $3 * interval '1 millisecond') \
    on conflict (owner) do update set until = excluded.until";

/// Bytes in use, and a number that grows with every commit.
const LEVEL: &str =
    "select coalesce(sum(used), 0)::int8, coalesce(sum(next_payload), 0)::int8 from satellite";

/// Satellites above their own bound.
const FULL: &str = "select s.name from satellite s join unnest($1::text[], $2::int8[]) as k(name, most) \
    on k.name = s.name where s.used >= k.most";

/// Partial segments, when they alone fill the spool.
const ALONE: &str = "select sat, epoch, lane, sequence, record from partial where not exists(select from entry) \
                     and (select coalesce(sum(used), 0) from satellite) >= ($1::int8[])[1]";

/// When this worker could say that it lives.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Life {
    /// The last time.
    last: Option<Instant>,
    /// Since then never too late.
    since: Option<Instant>,
}

impl Life {
    /// It was begun to be said at `begun`, and is known at `done`.
    fn said(&mut self, begun: Instant, done: Instant, lease: Duration) {
        if self.last.is_none_or(|last| done.duration_since(last) > lease) {
            self.since = Some(done);
        }
        self.last = Some(begun);
    }

    /// Whether nobody can have taken this worker for dead.
    fn is_known(&self, now: Instant, lease: Duration) -> bool {
        self.last.is_some_and(|last| now.duration_since(last) <= lease)
    }

    /// Whether everybody who lives could say so since this worker could.
    fn is_steady(&self, now: Instant, lease: Duration) -> bool {
        self.is_known(now, lease) && self.since.is_some_and(|since| now.duration_since(since) >= lease)
    }
}

/// What watches over the engine: how full the spool is, whether it answers, and that this worker lives.
#[derive(Clone, Copy)]
pub(super) struct Watch<'a>(pub(super) &'a Fleet);

impl Watch<'_> {
    /// See [`Life::is_steady`].
    pub(super) fn is_steady(self) -> bool {
        locked(&self.0.inner.life).is_steady(Instant::now(), self.0.inner.lease)
    }

    /// See [`Life::is_known`].
    pub(super) fn is_known(self) -> bool {
        locked(&self.0.inner.life).is_known(Instant::now(), self.0.inner.lease)
    }

    /// Looks around until the store ends.
    pub(super) async fn run(self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat = tokio::time::interval(self.0.inner.lease / 4);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut prune = tokio::time::interval(PRUNE);
        prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let closing = self.0.inner.closing.clone();
        loop {
            let done = tokio::select! {
                biased;
                () = closing.cancelled() => return,
                _ = beat.tick() => closing.run_until_cancelled(self.beat()).await,
                _ = prune.tick() => closing.run_until_cancelled(self.prune()).await,
                _ = look.tick() => closing.run_until_cancelled(self.look_and_hand_in()).await,
            };
            if let Some(Err(error)) = done {
                tracing::warn!(%error, "the shared ledger could not be looked at");
            }
        }
    }

    async fn prune(self) -> Result<(), SpoolError> {
        self.0.upkeep().prune_catalogue().await?;
        self.0.upkeep().trim_kept().await
    }

    async fn look_and_hand_in(self) -> Result<(), SpoolError> {
        self.look_around().await?;
        self.0.intake().hand_in().await
    }

    /// Says that this worker lives. While there is something to export, exporters look again: a lane whose worker has died is heard
    /// of by nobody.
    pub(super) async fn beat(self) -> Result<(), SpoolError> {
        let (owner, station) = (self.0.inner.owner, self.0.settings().station.clone());
        let lease = self.0.inner.lease.as_millis() as f64;
        let begun = Instant::now();
        let waiting = self
            .0
            .patiently(move |fleet| {
                let station = station.clone();
                async move {
                    let connection = fleet.connection().await?;
                    let (beat, forget) = (connection.prepare(BEAT).await?, connection.prepare(FORGET).await?);
                    let waiting = connection.prepare(WAITING).await?;
                    let work = async {
                        connection.client().execute(&beat, &[&owner, &station, &lease]).await?;
                        connection.client().execute(&forget, &[]).await?;
                        fleet.watch().say_links(&connection).await?;
                        connection.client().query_one(&waiting, &[]).await
                    };
                    Ok(fleet.watched(&connection, work).await??.try_get::<_, bool>(0)?)
                }
            })
            .await?;
        locked(&self.0.inner.life).said(begun, Instant::now(), self.0.inner.lease);
        if waiting {
            self.0.wake();
        }
        Ok(())
    }

    /// Refuses to join while the migration of a station's own file is not finished. This worker has registered before it asks: a
    /// migration that begins now sees it.
    pub(super) async fn check_migration(self) -> Result<(), SpoolError> {
        const UNFINISHED: &str = "select exists(select from migration where done = 0)";
        let unfinished = self
            .0
            .patiently(|fleet| async move {
                let connection = fleet.connection().await?;
                let asked = connection.client().query_one(UNFINISHED, &[]);
                Ok(fleet.watched(&connection, asked).await??.try_get::<_, bool>(0)?)
            })
            .await?;
        if !unfinished {
            return Ok(());
        }
        self.leave().await?;
        let cause = "a station's own file is being migrated into it and is not all there";
        Err(EngineError::refused(cause, "run `ground-station spool migrate` again until it has finished")
            .into())
    }

    /// Gives every lane to whoever wants it.
    pub(super) async fn leave(self) -> Result<(), SpoolError> {
        let connection = self.0.connection().await?;
        let owner: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&self.0.inner.owner];
        let gone = connection.client().execute("delete from worker where owner = $1", &owner);
        self.0.watched(&connection, gone).await??;
        Ok(())
    }

    /// Looks how full it is and whether others have committed something.
    pub(super) async fn look_around(self) -> Result<(), SpoolError> {
        let bounds = &self.0.inner.bounds;
        let (names, most): (Vec<String>, Vec<i64>) =
            bounds.satellites.iter().map(|(name, most)| (name.clone(), *most as i64)).unzip();
        let (used, commits, full) = self
            .0
            .patiently(move |fleet| {
                let (names, most) = (names.clone(), most.clone());
                async move {
                    let connection = fleet.connection().await?;
                    fleet.watched(&connection, connection.check()).await??;
                    let (level, full) = (connection.prepare(LEVEL).await?, connection.prepare(FULL).await?);
                    let client = connection.client();
                    let work = async {
                        let level = client.query_one(&level, &[]).await?;
                        let full = if names.is_empty() {
                            Vec::new()
                        } else {
                            client.query(&full, &[&names, &most]).await?
                        };
                        Ok::<_, tokio_postgres::Error>((level, full))
                    };
                    let (level, full) = fleet.watched(&connection, work).await??;
                    let full =
                        full.iter().map(|row| row.try_get::<_, String>(0)).collect::<Result<_, _>>()?;
                    Ok((level.try_get::<_, i64>(0)? as u64, level.try_get::<_, i64>(1)? as u64, full))
                }
            })
            .await?;
        self.note_used(|status| {
            status.used = used;
            status.full_satellites = full;
            if status.commits != commits {
                status.commits = commits;
                status.version += 1;
            }
        });
        if self.0.outlet().hear_of_exporters().await? {
            self.0.outlet().settle_all().await?;
        }
        let is_full = self.0.inner.status.borrow().full;
        let full_at = bounds.full_at(is_full);
        if used >= full_at { self.relieve(full_at).await } else { Ok(()) }
    }

    /// Takes note of what a transaction has done.
    pub(super) fn after(self, changes: &Changes) {
        if !changes.entered.is_empty() {
            let logs = changes.entered.iter().filter(|(_, logs)| *logs);
            logs.for_each(|(entry, _)| self.0.inner.unread.push(*entry));
            self.0.wake();
        }
        locked(&self.0.inner.freed).extend(&changes.left);
        self.note_level(changes);
        for satellite in &changes.satellites {
            if bases::is_above_bound(&self.0.settings(), &satellite.name, satellite.tally.bases) {
                let (fleet, number) = (self.0.clone(), satellite.number);
                self.0.inner.running.spawn(async move {
                    let need = |satellites: &[u32]| Need::all_of(BASES_NEEDED, satellites);
                    let trim =
                        |txn: &mut Txn<'_>, row: &SatelliteRow| bases::trim_one(txn, row.number, &row.name);
                    if let Err(error) = fleet.insist_on(number, need, trim).await {
                        tracing::warn!(%error, "bases above their bound could not be deleted");
                    }
                });
            }
        }
    }

    /// Takes note of what a transaction of this station has changed, until the next look around.
    fn note_level(self, changes: &Changes) {
        let bounds = &self.0.inner.bounds.satellites;
        self.note_used(|status| {
            status.used = status.used.saturating_add_signed(changes.grown);
            for satellite in &changes.satellites {
                let bound = bounds.iter().find(|(name, _)| *name == satellite.name);
                if bound.is_some_and(|(_, most)| satellite.tally.used >= *most) {
                    status.full_satellites.insert(satellite.name.clone());
                } else {
                    status.full_satellites.remove(&satellite.name);
                }
            }
        });
    }

    fn note_used(self, change: impl FnOnce(&mut Status)) {
        let bounds = &self.0.inner.bounds;
        self.0.inner.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            status.full = status.used >= bounds.full_at(before.full);
            if status.full && !before.full {
                say_full(&self.0.inner.said, "the shared spool", status.used, bounds.max_bytes);
            }
            *status != before
        });
    }

    /// Gives up partial segments when they fill the spool and there is nothing to export: nothing else would make room. Those of
    /// which least is held go, until half of the room is free; their bytes are sent again.
    async fn relieve(self, limit: u64) -> Result<(), SpoolError> {
        let least =
            move || Query { of: Of::Partial, text: ALONE, lists: vec![List::Numbers(vec![limit as i64])] };
        let mut partials = Vec::new();
        for row in self.0.rows(least).await? {
            let (key, rest) = Of::Partial.read(&row)?;
            let held = RangeSet::from_wire(&decode::<PartialRecord>(rest[0].bytes())?.held).total();
            partials.push((held, key));
        }
        partials.sort_unstable();
        let mut above = self.0.inner.status.borrow().used.saturating_sub(limit / 2);
        let (mut given_up, mut of) = (0u64, BTreeMap::<u32, Vec<_>>::new());
        for (held, key) in partials {
            if above == 0 {
                break;
            }
            above = above.saturating_sub(held);
            given_up += 1;
            let named: Vec<u64> = key.iter().map(Cell::number).collect();
            let at = sequence(&key);
            of.entry(at.satellite).or_default().push((named, at));
        }
        // At once for each satellite: links read on as soon as there is room, and would fill what the next transaction empties.
        for (satellite, partials) in of {
            let partials = Arc::new(partials);
            let named = Arc::clone(&partials);
            let need = move |_: &[u32]| {
                Need::rows(named.iter().map(|(key, _)| Query::key(Of::Partial, key)).collect())
            };
            let give_up = move |txn: &mut Txn<'_>, _: &_| {
                partials.iter().try_for_each(|(_, at)| intake::delete_partial(txn, *at).map(drop))
            };
            self.0.insist_on(satellite, need, give_up).await?;
        }
        if given_up > 0 {
            tracing::error!(
                event.name = "perigee.spool.relieved",
                partials = given_up,
                "the shared spool was full of partial segments alone; some were given up and are sent again"
            );
            self.0.inner.status.send_modify(|status| status.relieved += 1);
        }
        Ok(())
    }

    /// The engine has answered.
    pub(super) fn is_well(self) {
        self.0.inner.status.send_if_modified(|status| {
            let was = status.failing.take();
            if was.is_some() {
                tracing::info!(event.name = "perigee.fleet.back", "the shared ledger answers again");
            }
            was.is_some()
        });
    }

    /// How often the engine was found unfit.
    pub(super) fn refusals(self) -> u64 {
        self.0.inner.refusals.load(Ordering::Relaxed)
    }

    /// The engine does not answer; why.
    pub(super) fn is_failing(self, error: &SpoolError) {
        if matches!(error, SpoolError::Engine(EngineError::Refused { .. })) {
            self.0.inner.refusals.fetch_add(1, Ordering::Relaxed);
        }
        let text = error.to_string();
        self.0.inner.status.send_if_modified(|status| {
            if status.failing.as_ref() == Some(&text) {
                return false;
            }
            tracing::error!(
                event.name = "perigee.fleet.away",
                error = text,
                "the shared ledger cannot be written; links stop reading and nothing is dropped"
            );
            status.failing = Some(text);
            true
        });
    }

    /// The engine takes its time.
    pub(super) fn is_slow(self, why: &str) {
        self.is_failing(&EngineError::Away(why.to_owned()).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_outage_nothing_is_taken_from_others_before_they_could_say_that_they_live() {
        let lease = Duration::from_secs(15);
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let mut life = Life::default();
        assert!(!life.is_steady(at(0), lease));
        for second in (0..=40).step_by(4) {
            life.said(at(second), at(second), lease);
            assert_eq!(life.is_steady(at(second), lease), second >= 15, "{second}");
        }
        assert!(!life.is_steady(at(56), lease), "it may be taken for dead itself");
        // What it said at 44 s was heard at 70 s.
        life.said(at(44), at(70), lease);
        life.said(at(74), at(74), lease);
        assert!(!life.is_steady(at(74), lease));
        for second in (78..=90).step_by(4) {
            life.said(at(second), at(second), lease);
        }
        assert!(life.is_steady(at(90), lease));
    }
}
