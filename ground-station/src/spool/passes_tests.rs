//! Passes as satellites tell of them and as stations see them, over both stores.

use std::sync::Arc;
use std::time::Duration;

use perigee_proto::link::{Clock, Forecast, Hello, PassReport, Plan};
use perigee_shared::env::Env;

use super::both_tests::{Site, Subject};
use super::tests::heard;
use super::*;

const HOUR: u64 = 3_600_000_000_000;

fn report(start: u64, station: &str) -> PassReport {
    PassReport { start_unix_nano: start, station: station.to_owned(), held_bytes: 7, ..PassReport::default() }
}

impl Subject<'_> {
    fn tell(&self, passes: Vec<PassReport>) {
        let hello = Arc::new(Hello { passes, ..Hello::default() });
        self.wait(self.store.intake().ledger("sat-1".into(), hello));
    }

    /// Each pass, the latest first: the station that the report names, when it says that the pass began, and whether it was seen.
    fn all(&self) -> Vec<(String, Option<u64>, bool)> {
        let passes = self.wait(async { self.store.views().glance().await?.passes(None, None, 9).await }).rows;
        let shown = passes.into_iter().map(|PassView { pass, .. }| {
            let station = pass.report()["station"].as_str().unwrap_or_default().to_owned();
            (station, pass.report()["start_unix_nano"].as_u64(), pass.ground.is_some())
        });
        shown.collect()
    }
}

over_both! {
    fn a_clock_that_was_wrong_once_hides_no_later_pass(site) {
        let spool = site.open();
        let now = Env::production().unix_nano();
        let (ahead, cold, right) = (now + 20 * 8_766 * HOUR, 60_000_000_000, now - HOUR / 6);
        spool.tell(vec![report(ahead, "svalbard")]);
        // Whoever tells again of a pass tells of the same one.
        spool.tell(vec![report(ahead, "svalbard"), report(cold, "svalbard")]);
        spool.tell(vec![report(cold, "svalbard"), report(right, "svalbard")]);
        let mut said: Vec<_> = spool.all().into_iter().map(|(_, start, _)| start.unwrap()).collect();
        assert_eq!(said.len(), 3);
        // It ended after the others were told.
        let just_now = Heard { opened: now + 1, began: Duration::ZERO, lost: Duration::ZERO, ..heard(1) };
        spool.tell(vec![report(now + 1, "svalbard")]);
        spool.wait(spool.store.intake().heard("sat-1".into(), just_now));
        let standing = spool.wait(spool.store.views().standings()).remove("sat-1").unwrap();
        assert_eq!(standing.last_pass.unwrap().report()["start_unix_nano"], now + 1);
        said.insert(0, now + 1);
        assert_eq!(spool.all().into_iter().map(|(_, start, _)| start.unwrap()).collect::<Vec<_>>(), said);
    }

    fn a_contact_that_goes_on_has_a_record_that_grows_and_is_not_the_last_pass(site) {
        let spool = site.open();
        let hour = |hours: u64| Duration::from_secs(3_600 * hours);
        let of = |opened, connections, segments, ended| Heard {
            opened, connections, ended, began: hour(1), lost: Duration::ZERO, ..heard(segments)
        };
        let tell = |heard: Heard| spool.wait(spool.store.intake().heard("sat-1".into(), heard));
        let last = || spool.wait(spool.store.views().standings()).remove("sat-1").unwrap().last_pass;
        tell(Heard { began: hour(9), lost: hour(8), ..of(1, 1, 1, Some(Ending::Goodbye)) });
        let before = last();
        tell(of(2, 1, 10, None));
        tell(of(2, 0, 5, None));
        assert_eq!(last(), before, "it is not over");
        let seen = |n: usize| {
            let passes = spool.wait(async { spool.store.views().glance().await?.passes(None, None, 9).await }).rows;
            assert_eq!(passes.len(), 2);
            passes[n].pass.ground.clone().unwrap()
        };
        let ground = seen(0);
        assert_eq!((ground.committed_segments, ground.connections, ground.ended), (15, 1, None));
        // This program was killed, and the satellite has come again.
        tell(of(2, 1, 7, None));
        tell(of(2, 0, 2, Some(Ending::Lost)));
        let ground = seen(0);
        assert_eq!((ground.committed_segments, ground.connections, ground.ended), (24, 2, Some(Ending::Lost)));
        assert_eq!((ground.received_bytes, ground.connected_seconds.round()), (12_000, 14_400.0));
        assert_eq!(last().unwrap().ground.unwrap(), ground);
    }

    fn the_next_contact_is_told_by_this_stations_clock_whatever_the_satellite_plans_by(site) {
        let spool = site.open();
        let env = Env::production();
        let now = env.unix_nano();
        let read = Reading { wall: now, since_boot: env.since_boot(), round_trip: Duration::ZERO };
        // It plans by a clock that is two hours ahead, or by one that is right while its wall clock is in 1970.
        for (plans_by, shows, full) in [(now + 2 * HOUR, now + 2 * HOUR, 5 * HOUR), (now, HOUR, 3 * HOUR)] {
            let start = now + 3 * HOUR;
            let hello = Arc::new(Hello {
                plan: Some(Plan { next_start_unix_nano: start, ..Plan::default() }),
                forecast: Some(Forecast { made_unix_nano: plans_by, full_unix_nano: now + full, ..Forecast::default() }),
                clock: Some(Clock { unix_nano: shows, boot_id: 1, ..Clock::default() }),
                ..Hello::default()
            });
            spool.wait(spool.store.intake().ledger("sat-1".into(), Greeting { hello, read: Some(read) }));
            let standing = spool.wait(spool.store.views().standings()).remove("sat-1").unwrap();
            assert_eq!(standing.next_contact.unwrap().start_unix_nano, start + now - plans_by);
            let forecast = standing.forecast.unwrap();
            assert_eq!((&forecast["made_unix_nano"], &forecast["full_unix_nano"]), (&now.into(), &(now + 3 * HOUR).into()));
            assert_eq!(forecast["empty_unix_nano"], serde_json::Value::Null);
        }
    }

    fn a_pass_over_an_antenna_with_another_name_is_one_pass(site) {
        let spool = site.open();
        let now = Env::production().unix_nano();
        let seen = |opened| Heard { opened, ..heard(1) };
        for opened in [now - 3 * HOUR, now - 2 * HOUR] {
            spool.wait(spool.store.intake().heard("sat-1".into(), seen(opened)));
        }
        spool.tell(vec![report(now - 3 * HOUR, "svalbard-dish-2"), report(now - 2 * HOUR, "svalbard")]);
        let expected = [("svalbard-dish-2", now - 3 * HOUR), ("svalbard", now - 2 * HOUR)];
        let mut all = spool.all();
        all.sort_by_key(|(_, start, _)| *start);
        assert_eq!(all, expected.map(|(station, start)| (station.to_owned(), Some(start), true)));
    }
}
