//! What needs a human: each rule, and their order.

use serde_json::json;

use super::*;
use crate::spool::{
    AccountView, AgentView, ClockView, ExporterDigest, NamesakeView, NextContact, Pass, PlanView, SpoolView,
    StandingView,
};

const NOW: u64 = 1_000 * 86_400 * S;

/// A satellite that needs nobody.
fn fine() -> SatelliteDigest {
    SatelliteDigest {
        satellite: "sat-1".to_owned(),
        software: String::new(),
        station: "svalbard".to_owned(),
        contact: String::new(),
        contacts: 1,
        connected: false,
        spool_bytes: 0,
        standing: StandingView {
            last_heard_unix_nano: NOW - 3_600 * S,
            next_contact: Some(NextContact {
                station: "kiruna".to_owned(),
                start_unix_nano: NOW + 3_600 * S,
            }),
            plan: None,
            backlog: None,
            forecast: None,
            agent: None,
            partial_bytes: 0,
            last_pass: None,
            clock: None,
            namesakes: Vec::new(),
        },
        account: AccountView::default(),
        partials: Vec::new(),
        alarms: Vec::new(),
    }
}

fn with(change: impl FnOnce(&mut SatelliteDigest)) -> SatelliteDigest {
    let mut sat = fine();
    change(&mut sat);
    sat
}

fn alarm(name: &str, severity: u32, time: u64, committed: u64) -> AlarmView {
    AlarmView {
        unix_nano: time,
        committed_unix_nano: committed,
        severity,
        name: name.to_owned(),
        text: "it says so".to_owned(),
    }
}

fn clock(offset_seconds: f64, untrusted: &str) -> ClockView {
    ClockView {
        heard_unix_nano: NOW,
        offset_seconds,
        error_seconds: 0.5,
        drift_ppm: None,
        untrusted: untrusted.to_owned(),
    }
}

/// A satellite whose clock is this.
fn at(clock: ClockView) -> SatelliteDigest {
    with(|sat| sat.standing.clock = Some(clock))
}

/// Levels and the beginning of each text.
fn said(notes: &[Note]) -> Vec<(Level, &str)> {
    notes.iter().map(|note| (note.level, note.text.as_str())).collect()
}

/// The one note of a satellite.
fn only(sat: &SatelliteDigest) -> (Level, String) {
    let notes = of_satellite(sat, NOW);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(!notes[0].remedy.is_empty());
    (notes[0].level, notes[0].text.clone())
}

#[test]
fn a_contact_that_did_not_begin_is_an_alarm_until_something_is_heard() {
    let late = |by: u64| NextContact { station: "kiruna".to_owned(), start_unix_nano: NOW - by };
    let sat = |by: u64| with(|sat| sat.standing.next_contact = Some(late(by)));
    assert_eq!(of_satellite(&fine(), NOW), []);
    assert_eq!(of_satellite(&sat(LATE), NOW), [], "it may still come");
    let (level, text) = only(&sat(LATE + S));
    assert_eq!(
        (level, text.as_str()),
        (Level::Alarm, "the contact over kiruna should have begun 2 min ago; nothing was heard")
    );
    let heard = with(|sat| {
        sat.standing.next_contact = Some(late(LATE + S));
        sat.standing.last_heard_unix_nano = NOW - LATE;
    });
    assert_eq!(of_satellite(&heard, NOW), []);
    let connected = SatelliteDigest { connected: true, ..sat(LATE + S) };
    assert_eq!(of_satellite(&connected, NOW), []);
}

#[test]
fn another_station_with_this_name_is_a_warning_for_a_week() {
    let heard = |ago: u64| {
        with(|sat| {
            sat.standing.namesakes =
                vec![NamesakeView { ledger: "00f1".to_owned(), heard_unix_nano: NOW - ago }];
        })
    };
    let (level, text) = only(&heard(6 * 86_400 * S));
    assert_eq!(level, Level::Warning);
    assert_eq!(text, "another ground-station has this one's name and the ledger 00f1 of its own");
    assert_eq!(of_satellite(&heard(7 * 86_400 * S), NOW), []);
}

#[test]
fn plan_and_last_pass_are_named_by_how_grave_they_are() {
    let error = Some("line 3 is odd".to_owned());
    let plan =
        with(|sat| sat.standing.plan = Some(PlanView { source: "plan".to_owned(), hash: None, error }));
    assert_eq!(only(&plan).0, Level::Warning);
    let ended = |state: &str| {
        let pass = Pass::new(json!({ "state": state }), None);
        of_satellite(&with(|sat| sat.standing.last_pass = Some(pass)), NOW)
    };
    for (state, level) in [
        ("unreachable", Some(Level::Warning)),
        ("refused", Some(Level::Warning)),
        ("cut", Some(Level::Note)),
        ("ended_by_plan", None),
        ("delivered_all", None),
    ] {
        assert_eq!(ended(state).first().map(|note| note.level), level, "{state}");
    }
}

#[test]
fn a_store_that_fills_is_a_warning_and_within_a_day_an_alarm() {
    let of = |forecast| only(&with(|sat| sat.standing.forecast = Some(forecast)));
    let full = |at: u64| of(json!({ "full_unix_nano": at }));
    assert_eq!(full(NOW + 25 * 3_600 * S).0, Level::Warning);
    let (level, text) = full(NOW + 3 * 3_600 * S);
    assert_eq!(
        (level, text.as_str()),
        (Level::Alarm, "forecast: its store is full in about 3.0 h if its plan holds")
    );
    assert_eq!(full(NOW - S), (Level::Alarm, "its store is full by its forecast".to_owned()));
    assert_eq!(of(json!({"stored_bytes": 90, "max_bytes": 100})).0, Level::Warning);
    let room = with(|sat| sat.standing.forecast = Some(json!({"stored_bytes": 89, "max_bytes": 100})));
    assert_eq!(of_satellite(&room, NOW), []);
}

#[test]
fn memory_and_clock_of_an_agent_are_named() {
    let agent = |resident| {
        with(|sat| {
            sat.standing.agent = Some(AgentView {
                configuration: None,
                resident_bytes: Some(resident),
                memory_limit_bytes: Some(100),
                cpu_seconds: None,
                running_seconds: None,
                certificate_end_unix_nano: None,
            });
        })
    };
    assert_eq!(of_satellite(&agent(89), NOW), []);
    assert_eq!(only(&agent(90)).0, Level::Warning);
    assert_eq!(only(&at(clock(0.0, "it is 1970"))).0, Level::Warning);
    assert_eq!(only(&at(clock(-1.6, ""))).0, Level::Note);
    assert_eq!(of_satellite(&at(clock(1.4, "")), NOW), [], "as far as that is known");
}

#[test]
fn an_alarm_on_board_needs_a_human_for_a_day_or_until_it_is_over() {
    let with_alarms = |alarms: Vec<AlarmView>| with(|sat| sat.alarms = alarms);
    let day = 86_400 * S;
    let failed = || alarm("perigee.store.failed", 17, 5, NOW - 3_600 * S);
    let (level, text) = only(&with_alarms(vec![failed()]));
    assert_eq!(
        (level, text.as_str()),
        (Level::Alarm, "its agent raised perigee.store.failed (came 60 min ago): it says so")
    );
    // Once for each name, and the gravest first.
    let notes = with_alarms(vec![failed(), failed(), alarm("perigee.listener.full", 13, 6, NOW - S)]);
    let levels: Vec<Level> = of_satellite(&notes, NOW).iter().map(|note| note.level).collect();
    assert_eq!(levels, [Level::Alarm, Level::Warning]);
    let old = alarm("perigee.store.failed", 17, NOW, NOW - day);
    assert_eq!(of_satellite(&with_alarms(vec![old]), NOW), []);
    // The one that ends another is none, and an older one ends nothing.
    let volatile = || alarm("perigee.wal.volatile", 17, 100, NOW - 20 * S);
    let returned = |time| alarm("perigee.wal.returned", 13, time, NOW - 10 * S);
    assert_eq!(of_satellite(&with_alarms(vec![returned(101), volatile()]), NOW), []);
    assert!(only(&with_alarms(vec![returned(99), volatile()])).1.contains("perigee.wal.volatile"));
    // One of another name is shown as it is.
    assert!(only(&with_alarms(vec![alarm("custom", 21, 1, NOW)])).1.contains("custom"));
}

#[test]
fn what_is_gravest_comes_first() {
    let sat = with(|sat| {
        sat.account.lost.spans = 1;
        sat.account.dead_lettered.spans = 2;
        sat.account.dropped.spans = 3;
        for reason in ["lifetime", "quota_oldest"] {
            sat.account.dropped_by_reason.insert(reason.to_owned(), Items::default());
        }
        sat.alarms = vec![alarm("perigee.store.failed", 17, 5, NOW)];
    });
    let notes = of_satellite(&sat, NOW);
    let said = said(&notes);
    assert_eq!(said[0].0, Level::Alarm);
    assert_eq!(said[1], (Level::Warning, "2 items in dead letters"));
    assert_eq!(said[2], (Level::Note, "1 item lost or given up here"));
    assert_eq!(said[3], (Level::Note, "3 items dropped on board: lifetime, quota oldest"));
    assert_eq!(gravest(&notes), Level::Alarm);
    assert_eq!(gravest(&[]), Level::Fine);
    assert!(Level::Alarm > Level::Warning && Level::Warning > Level::Note && Level::Note > Level::Fine);
}

fn station() -> Digest {
    let spool = SpoolView {
        ledger: String::new(),
        next_entry: 1,
        used_bytes: 0,
        max_bytes: 100,
        file_bytes: 0,
        file_length_bytes: 0,
        segments: 0,
        bases: 0,
        base_bytes: 0,
        dead_letters: 0,
        kept_bytes: 0,
        quarantined: None,
        scrub: Default::default(),
        exporters: Vec::new(),
    };
    Digest { satellites: Vec::new(), spool, exporters: Vec::new() }
}

fn failing(for_nano: u64, misconfigured: bool) -> (String, Failing) {
    let since_unix_nano = NOW - for_nano;
    let failing = Failing { since_unix_nano, last_unix_nano: NOW, reason: "no".to_owned(), misconfigured };
    ("otlp".to_owned(), failing)
}

#[test]
fn what_is_wrong_with_a_station_is_named() {
    let (none, status) = (station(), Status::default());
    let of = |digest: &Digest, status: &Status, troubles: &[(String, Failing)]| {
        let notes = of_station(digest, status, troubles, None, &[], NOW);
        assert!(notes.iter().all(|note| !note.remedy.is_empty()));
        notes.into_iter().map(|note| note.level).collect::<Vec<_>>()
    };
    assert_eq!(of(&none, &status, &[]), []);
    let with = |change: fn(&mut Status)| {
        let mut status = Status::default();
        change(&mut status);
        status
    };
    let failing_disk = with(|status| status.failing = Some("no space".to_owned()));
    assert_eq!(of(&none, &failing_disk, &[]), [Level::Alarm]);
    assert_eq!(of(&none, &with(|status| status.full = true), &[]), [Level::Alarm]);
    let full = with(|status| status.full_satellites = ["sat-1".to_owned()].into());
    assert_eq!(of(&none, &full, &[]), [Level::Warning]);
    for (trouble, level) in [
        (failing(BEHIND, false), Level::Warning),
        (failing(BEHIND + S, false), Level::Alarm),
        (failing(S, true), Level::Alarm),
    ] {
        assert_eq!(of(&none, &status, &[trouble]), [level]);
    }
    let behind = |age: u64| {
        let exporter = ExporterDigest {
            name: "otlp".to_owned(),
            signals: Vec::new(),
            waiting_segments: 1,
            and_more: false,
            waiting_bytes: 1,
            oldest_unix_nano: Some(NOW - age),
        };
        Digest { exporters: vec![exporter], ..station() }
    };
    assert_eq!(of(&behind(BEHIND), &status, &[]), []);
    assert_eq!(of(&behind(BEHIND + S), &status, &[]), [Level::Warning]);
    // That it fails says it already.
    assert_eq!(of(&behind(BEHIND + S), &status, &[failing(S, false)]), [Level::Warning]);
    let mut letters = station();
    letters.spool.dead_letters = 3;
    letters.spool.quarantined = Some("spool.redb.1".to_owned());
    assert_eq!(
        of(&letters, &full, &[failing(S, true)]),
        [Level::Alarm, Level::Warning, Level::Warning, Level::Warning]
    );
    let task = of_station(&none, &status, &[], Some("link".to_owned()), &[], NOW);
    assert_eq!(said(&task), [(Level::Alarm, "a task does not run: link")]);
    let ends =
        [("this station's certificate", NOW + 40 * 86_400 * S), ("the console's certificate", NOW + S)];
    let ends = of_station(&none, &status, &[], None, &ends, NOW);
    assert_eq!(ends.len(), 1);
    assert!(
        ends[0].level == Level::Alarm && ends[0].text.starts_with("the console's certificate ends in 1 s")
    );
}

#[test]
fn a_certificate_is_named_a_month_before_its_end_and_an_alarm_a_week_before() {
    assert_eq!(certificate("it", NOW + 31 * 86_400 * S, NOW), None);
    let of = |days: u64| certificate("it", NOW + days * 86_400 * S, NOW).map(|note| note.level);
    assert_eq!(of(29), Some(Level::Warning));
    assert_eq!(of(6), Some(Level::Alarm));
    assert!(certificate("it", NOW - S, NOW).is_some_and(|note| note.text.starts_with("it ended")));
}

#[test]
fn each_alarm_of_the_documentation_has_a_remedy_and_no_other_has() {
    let documented: BTreeSet<&str> = include_str!("../../../docs/operations.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `perigee."))
        .filter_map(|rest| rest.split_once("` | "))
        .filter(|(_, of)| of.starts_with("agent |") || of.starts_with("both |"))
        .map(|(name, _)| name)
        .collect();
    assert!(documented.len() > 20, "the table was found");
    let known: BTreeSet<&str> =
        REMEDIES.iter().filter_map(|(name, _)| name.strip_prefix("perigee.")).collect();
    assert_eq!(known, documented);
    assert!(REMEDIES.iter().all(|(name, _)| !remedy(name).is_empty()));
    assert!(ENDS.iter().all(|(end, of)| !remedy(end).is_empty() && !remedy(of).is_empty()));
    assert_eq!(remedy("app.error"), "");
}
