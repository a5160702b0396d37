//! The simulator itself: the same seed gives the same run, and nothing is lost whatever fails.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say where and show why"
)]

use std::path::Path;
use std::time::Duration;

use sim::log::{Fate, Way};
use sim::report::Told;
use sim::{Options, Report, Scenario, run};

fn scenario(text: &str) -> Scenario {
    let scenario: Scenario = perigee_shared::config::parse(text, "test.yaml", |_| None).unwrap();
    scenario.validate().unwrap();
    scenario
}

/// What holds in every simulation.
fn simulate(scenario: Scenario, keep_packets: bool) -> Report {
    let report = run(scenario, Options { keep_packets, ..Options::default() }).unwrap();
    println!("{report}");
    assert!(report.is_right(), "{report}");
    assert_eq!(report.losses, 0, "what another ledger has is no loss: {report}");
    let a = report.account;
    assert_eq!(a.accepted, a.exported + a.dropped + a.dead_letter + a.on_board + a.spool, "{}", a.line());
    report
}

/// What the ground keeps of the only pass.
fn told_once(report: &Report) -> &Told {
    let [told] = &report.told[..] else { panic!("{:?}", report.told) };
    told
}

/// Two satellites and two stations with links that are as bad as they get, and a crash of each kind of node.
const BAD: &str = "
seed: 7
duration: 1h
satellites: 2
stations: [svalbard, beijing]
telemetry: {raw_per_day: 120MB, every: 20s}
link:
  down: {rate: 2Mbit/s, delay: 10ms, loss: 1%, burst: 0.1%:10, reorder: 2%:5ms, queue: 16KiB}
  up: {rate: 64kbit/s, delay: 10ms, loss: 1%}
contacts:
- {station: svalbard, start: 10m, end: 13m}
- {station: beijing, start: 20m, end: 23m, cut: 20m3s}
- {station: svalbard, start: 40m, end: 43m}
- {satellite: 1, station: svalbard, start: 10m, end: 12m}
- {satellite: 1, station: beijing, start: 41m, end: 44m, cut: 41m20s}
ground: {export_rate: 1}
faults:
- {at: 10m2s, kind: torn, node: sat-0, down: 5s}
- {at: 11m, kind: crash, node: svalbard, down: 10s}
- {at: 30m, kind: restart, node: sat-1, down: 10s}
";

#[test]
fn the_same_seed_gives_the_same_packets_report_and_spool() {
    let once = simulate(scenario(BAD), true);
    let again = simulate(scenario(BAD), true);
    let first_other = once.kept.iter().zip(&again.kept).position(|(a, b)| a != b);
    assert_eq!(first_other, None, "{:?}", first_other.map(|n| (once.kept[n], again.kept[n])));
    assert_eq!(once, again);
    assert!(once.account.spool > 0, "there is something in the spools to compare");
    let other = simulate(Scenario { seed: 8, ..scenario(BAD) }, false);
    assert_ne!(once.packet_hash, other.packet_hash);
}

#[test]
fn every_fate_is_met_on_a_bad_link_and_follows_its_rules() {
    // Something is on its way at LOS.
    let report = simulate(scenario(&BAD.replace("cut: 20m3s", "cut: 20m200ms")), true);
    for name in ["arrives", "loss", "burst", "los"] {
        assert!(report.kept.iter().any(|p| p.fate.name() == name), "{name}");
    }
    assert!(report.kept.iter().any(|p| matches!(p.fate, Fate::Arrives { held: true, .. })));
    assert_eq!(report.violations, Vec::<String>::new());
}

#[test]
fn two_ledgers_may_each_commit_a_segment_and_a_shared_one_never() {
    let text = "
seed: 3
duration: 2h
stations: [svalbard, beijing]
telemetry: {raw_per_day: 200MB, every: 30s}
link: {down: {rate: 1Mbit/s, delay: 5ms}, up: {rate: 1Mbit/s, delay: 5ms}}
contacts:
- {station: svalbard, start: 30m, end: 35m, cut: 30m10s}
- {station: beijing, start: 31m, end: 36m}
- {station: svalbard, start: 60m, end: 61m}
";
    // What is committed at LOS and not acknowledged yet is sent to the next station again.
    let text = text.replace("start: 31m", "start: 35m1s").replace("end: 36m", "end: 37m");
    let own = simulate(scenario(&text), false);
    let shared = simulate(scenario(&format!("{text}ledger: shared\n")), false);
    assert_eq!(shared.account.handover_twice, 0);
    assert_eq!(own.reached.len(), 2);
    assert_eq!(shared.reached.len(), 1);
}

/// LOS is where the plan has it, and nothing is kept free before it.
#[test]
fn the_report_of_a_pass_is_on_the_ground_at_los_where_everything_was_sent_before() {
    let told = |telemetry: &str, rate: &str, delay: &str| {
        let text = format!(
            "
duration: 5m
stations: [svalbard]
telemetry: {telemetry}
link: {{down: {{rate: {rate}, delay: {delay}}}, up: {{rate: 64kbit/s, delay: {delay}}}}}
contacts: [{{station: svalbard, start: 1m, end: 2m}}]
"
        );
        let report = simulate(scenario(&text), false);
        let Told { state, connected } = told_once(&report);
        // Less the attempts to connect around AOS. That nothing comes any more is noticed some seconds later, and counted back.
        assert!((55.0..=61.0).contains(connected), "{connected}");
        (state.clone(), report)
    };
    let state = |state: &str| Some(state.to_owned());
    for (rate, delay) in [("20Mbit/s", "5ms"), ("64kbit/s", "20ms"), ("1Mbit/s", "600ms")] {
        // Nothing more comes from 30 s before LOS on; or an item each second, which goes on to the end.
        assert_eq!(
            told("{raw_per_day: 10MB, every: 90s}", rate, delay).0,
            state("delivered_all"),
            "{rate} {delay}"
        );
        let (ended, report) = told("{raw_per_day: 1MB, every: 1s}", rate, delay);
        assert!(ended.is_some(), "{rate} {delay}: {report}");
    }
    // A pass that is used to its last byte tells of it in the next one.
    let (ended, report) = told("{item_bytes: 4KiB, compressible: false, backlog: 8MiB}", "1Mbit/s", "20ms");
    assert_eq!(ended, None);
    assert!(report.filled[0].share > 0.93, "{report}");
}

/// A ground that is killed says nothing any more. Each minute it writes down what has come of the contact until then.
#[test]
fn a_ground_that_is_killed_in_a_pass_knows_what_came_until_the_last_full_minute() {
    let text = "
duration: 6m
stations: [svalbard]
telemetry: {raw_per_day: 10MB, every: 1s}
link: {down: {rate: 1Mbit/s, delay: 5ms}, up: {rate: 64kbit/s, delay: 5ms}}
contacts: [{station: svalbard, start: 1m, end: 4m}]
faults: [{at: 3m50s, kind: crash, node: svalbard, down: 1m}]
";
    let report = simulate(scenario(text), false);
    let Told { state, connected } = told_once(&report);
    assert_eq!(*state, None);
    assert!((119.0..=121.0).contains(connected), "of 170 s: {connected}");
}

/// The signal is away for a little longer than that. A link that was not given up by then would go on as it was.
#[test]
fn a_lost_signal_is_noticed_in_three_seconds_and_two_round_trips() {
    for (delay, back) in [(20, "93180ms"), (300, "94300ms")] {
        let text = format!(
            "
duration: 4m
stations: [svalbard]
telemetry: {{item_bytes: 4KiB, compressible: false, backlog: 8MiB}}
link: {{down: {{rate: 2Mbit/s, delay: {delay}ms}}, up: {{rate: 64kbit/s, delay: {delay}ms}}}}
contacts:
- {{station: svalbard, start: 1m, end: {back}, cut: 90s}}
- {{station: svalbard, start: {back}, end: 3m}}
"
        );
        let report = simulate(scenario(&text), false);
        assert_eq!(report.connections, 2, "{delay} ms: {report}");
    }
}

/// The last data came 70 s before, and after that only what keeps a link alive.
#[test]
fn a_link_that_had_nothing_to_say_lasted_until_the_signal_was_lost() {
    let text = "
duration: 5m
stations: [svalbard]
telemetry: {raw_per_day: 10MB, every: 90s}
link: {down: {rate: 1Mbit/s, delay: 5ms}, up: {rate: 64kbit/s, delay: 5ms}}
contacts: [{station: svalbard, start: 1m, end: 4m, cut: 160s}]
";
    let report = simulate(scenario(text), false);
    let connected = &told_once(&report).connected;
    assert!((96.0..=101.0).contains(connected), "of 100 s: {connected}");
}

#[test]
fn a_plan_that_changes_every_second_costs_no_connection_and_loses_nothing() {
    let text = "
duration: 20m
stations: [svalbard]
telemetry: {raw_per_day: 20MB, every: 5s}
link: {down: {rate: 1Mbit/s, delay: 5ms}, up: {rate: 64kbit/s, delay: 5ms}, replanned: true, replanned_every: 1s}
contacts:
- {station: svalbard, start: 2m, end: 8m}
- {station: svalbard, start: 10m, end: 17m}
";
    let report = simulate(scenario(text), false);
    // The last plan ends five seconds too early, and once it has run out the station is tried: that link has the last three.
    assert_eq!((report.connections, report.missed.len()), (3, 0), "{report}");
    let lasted: Vec<u64> = report.told.iter().map(|told| told.connected as u64).collect();
    assert_eq!(lasted, [3, 409, 359], "{report}");
    assert_eq!((report.account.lost, report.resent_bytes), (0, 0), "{report}");
}

/// One contact ends where the one with another station begins.
const SWITCH: &str = "
duration: 5m
stations: [svalbard, beijing]
telemetry: {item_bytes: 4KiB, compressible: false, backlog: 8MiB}
link: {down: {rate: 4Mbit/s, delay: 20ms}, up: {rate: 64kbit/s, delay: 20ms}}
contacts:
- {station: svalbard, start: 1m, end: 2m}
- {station: beijing, start: 2m, end: 3m}
";

#[test]
fn a_switch_of_stations_takes_at_most_300_ms_and_a_round_trip() {
    for ledger in ["own", "shared"] {
        let scenario = scenario(&format!("{SWITCH}ledger: {ledger}\n"));
        let report = run(scenario, Options { first_bytes: true, ..Options::default() }).unwrap();
        println!("{ledger}: {report}");
        assert!(report.is_right(), "{report}");
        let switch = report.first_bytes[1].unwrap();
        assert!(switch <= Duration::from_millis(300 + 40), "{ledger}: {switch:?}");
    }
}

/// Two stations see one satellite, which has two contacts at once.
const BOTH: &str = "
duration: 6m
stations: [svalbard, beijing]
telemetry: {item_bytes: 4KiB, compressible: false, backlog: 16MiB}
agent: {simultaneous: 2}
link: {down: {rate: 1Mbit/s, delay: 20ms}, up: {rate: 64kbit/s, delay: 20ms}}
";

#[test]
fn two_stations_in_view_take_different_segments_of_one_satellite() {
    for ledger in ["own", "shared"] {
        let text = format!(
            "{BOTH}ledger: {ledger}
contacts:
- {{station: svalbard, start: 1m, end: 3m}}
- {{station: beijing, start: 1m, end: 3m}}
"
        );
        let report = simulate(scenario(&text), false);
        assert_eq!(report.connections, 2, "{ledger}");
        assert_eq!(report.resent_bytes, 0, "{ledger}: each segment goes in one slot");
        assert_eq!(report.account.handover_twice, 0, "{ledger}");
        let share = report.goodput_share(1_000_000);
        assert!(share > 0.93, "{ledger}: both links are full: {share}");
    }
}

#[test]
fn a_switch_of_stations_is_make_before_break() {
    for ledger in ["own", "shared"] {
        let text = format!(
            "{BOTH}ledger: {ledger}
contacts:
- {{station: svalbard, start: 1m, end: 2m}}
- {{station: beijing, start: 1m50s, end: 2m55s}}
- {{station: svalbard, start: 2m45s, end: 4m}}
"
        );
        // No segment is whole in a contact's last round trip: its acknowledgement would not come back, and it would go to the other
        // ledger too. A pass of 70 s is eight of these segments.
        let report = simulate(scenario(&text), false);
        assert_eq!(report.connections, 3, "{ledger}");
        // What had come of the segments that were open when a contact ended goes once more where the ledger is another one, and
        // where it is shared only what came after the last acknowledgement.
        let share = report.goodput_share(1_000_000) * (1.0 + report.resent_share());
        assert!(share > 0.93, "{ledger}: a link is up at all times, and sometimes two: {share}");
        let most = if ledger == "own" { 0.15 } else { 0.03 };
        assert!(report.resent_share() < most, "{ledger}: {}", report.resent_share());
        assert_eq!(report.account.handover_twice, 0, "{ledger}");
    }
}

#[test]
fn two_contacts_at_once_lose_and_repeat_nothing_over_crashes_and_bad_links() {
    for ledger in ["own", "shared"] {
        let text = format!(
            "
seed: 11
duration: 1h
stations: [svalbard, beijing, kourou]
ledger: {ledger}
telemetry: {{raw_per_day: 600MB, every: 10s}}
agent: {{simultaneous: 2}}
link:
  down: {{rate: 1Mbit/s, delay: 10ms, loss: 1%, burst: 0.1%:10, queue: 16KiB}}
  up: {{rate: 64kbit/s, delay: 10ms, loss: 1%}}
contacts:
- {{station: svalbard, start: 10m, end: 13m}}
- {{station: beijing, start: 11m, end: 15m, cut: 12m3s}}
- {{station: kourou, start: 12m, end: 16m}}
- {{station: svalbard, start: 40m, end: 44m, cut: 43m}}
- {{station: beijing, start: 41m, end: 45m}}
faults:
- {{at: 11m30s, kind: torn, node: sat-0, down: 5s}}
- {{at: 42m, kind: crash, node: beijing, down: 10s}}
"
        );
        let report = simulate(scenario(&text), false);
        assert!(report.account.exported * 10 > report.account.accepted * 6, "{ledger}: {report}");
    }
}

/// Most of what waits is in the journal when a contact begins. Requests come less often than what lies ready lasts.
#[test]
fn a_thin_link_is_filled_with_segments_that_are_sealed_as_others_leave() {
    let text = "
duration: 16m
stations: [svalbard]
telemetry: {raw_per_day: 140MB, every: 10s, compressible: false}
link: {down: {rate: 64kbit/s, delay: 20ms}, up: {rate: 64kbit/s, delay: 20ms}}
contacts:
- {station: svalbard, start: 10m, end: 11m}
- {station: svalbard, start: 12m, end: 13m}
- {station: svalbard, start: 14m, end: 15m}
";
    let report = simulate(scenario(text), true);
    assert_eq!((report.connections, report.missed.len()), (3, 0), "{report}");
    // After the last one stations are tried.
    for los in [11, 13].map(|minute| Duration::from_secs(60 * minute)) {
        let sent = report.kept.iter().filter(|p| p.way == Way::Down && p.sent > los).map(|p| p.sent - los);
        let last = sent.take_while(|after| *after < Duration::from_secs(50)).max();
        // Two round trips with what queues on the way.
        assert!(
            last <= Some(Duration::from_millis(600)),
            "a cut segment is not sent into the void: {last:?}"
        );
    }
    let share = report.goodput_share(64_000);
    assert!(share > 0.9, "{share}");
}

/// What is sealed in a contact depends on what that station has, and is encoded again for another one only where it did not go.
#[test]
fn a_thin_link_to_two_ledgers_carries_little_more_than_to_one() {
    let held = |ledger: &str| {
        let text = format!(
            "
duration: 100m
stations: [svalbard, beijing]
ledger: {ledger}
telemetry: {{raw_per_day: 200MB, every: 5s}}
link: {{down: {{rate: 64kbit/s, delay: 20ms}}, up: {{rate: 64kbit/s, delay: 20ms}}}}
contacts:
- {{station: svalbard, start: 10m, end: 12m}}
- {{station: beijing, start: 30m, end: 32m}}
- {{station: svalbard, start: 50m, end: 52m}}
- {{station: beijing, start: 70m, end: 72m}}
- {{station: svalbard, start: 90m, end: 92m}}
"
        );
        let report = simulate(scenario(&text), false);
        (report.account.exported, report.held_bytes)
    };
    let (shared, own) = (held("shared"), held("own"));
    assert_eq!(shared.0, own.0, "everything that was there");
    // Without bases it is 1.7 times as much.
    assert!(own.1 * 10 < shared.1 * 14, "{own:?} {shared:?}");
}

#[test]
fn a_full_store_drops_by_rule_and_every_drop_is_counted() {
    let text = "
duration: 6h
stations: [svalbard]
telemetry: {raw_per_day: 400MB, every: 10s, compressible: false}
agent: {max_bytes: 16MiB, when_full: drop_oldest}
link: {down: {rate: 1Mbit/s, delay: 5ms}, up: {rate: 1Mbit/s, delay: 5ms}}
contacts:
- {station: svalbard, start: 1h, end: 1h2m}
- {station: svalbard, start: 4h, end: 4h2m}
- {station: svalbard, start: 5h50m, end: 5h52m}
";
    // What the ground had of what was dropped, and could not say before LOS, it says in the next contact; nothing is dropped after the last.
    let report = simulate(scenario(text), false);
    assert!(report.account.dropped > 0 && report.account.exported > 0);
}

/// Two days of a satellite whose clock is wrong in every way, with items that live for 12 hours. Without a known time the station is tried for
/// 20 s every two minutes; a pass has five.
const WRONG_CLOCKS: &str = "
seed: 9
duration: 48h
stations: [svalbard]
telemetry: {raw_per_day: 2MB, every: 30m}
link: {down: {rate: 4Mbit/s, delay: 50ms}, up: {rate: 1Mbit/s, delay: 50ms}}
passes: {per_day: 6, shortest: 5m, longest: 6m}
agent: {lifetime: 12h, probe_interval: 100s, probe_duration: 20s}
clocks:
- {at: 10h, node: sat-0, to: right}
- {at: 14h, node: sat-0, to: 20y}
- {at: 18h, node: sat-0, to: -20y}
- {at: 19h, node: sat-0, to: right}
- {at: 20h, node: sat-0, to: x-1}
- {at: 44h, node: sat-0, to: right}
faults:
- {at: 5h, kind: crash, node: sat-0, down: 5m, clock: 1970-01-01T00:00:00Z}
- {at: 12h, kind: torn, node: sat-0, down: 1m}
- {at: 16h, kind: restart, node: sat-0, down: 1s}
- {at: 45h, kind: crash, node: sat-0, down: 1m, clock: 2046-01-01T00:00:00Z}
";

#[test]
fn under_wrong_clocks_nothing_is_lost_or_expires_early_and_no_contact_is_missed_that_trying_would_have_met() {
    let report = simulate(scenario(WRONG_CLOCKS), false);
    assert_eq!((report.account.lost, report.account.dropped), (0, 0), "{report}");
    assert_eq!(report.missed, Vec::<usize>::new(), "{report}");
    assert!(report.account.exported * 10 > report.account.accepted * 9, "{report}");
}

/// A day of hand-overs with two contacts at once, a new plan in each pass, and a clock that is wrong for some hours: a day like those of
/// `scenarios/month-handovers.yaml`.
const HANDOVERS: &str = "
seed: 12
duration: 26h
stations: [svalbard, beijing, alaska]
ledger: own
telemetry: {raw_per_day: 20MB, every: 2m}
link:
  down: {rate: 4Mbit/s, delay: 4ms, loss: 0.1%, queue: 64KiB}
  up: {rate: 1Mbit/s, delay: 4ms}
  replanned: true
passes: {per_day: 14, shortest: 5m, longest: 9m, handover: 80%}
agent: {lifetime: 12h, probe_interval: 50s, probe_duration: 20s, simultaneous: 2}
clocks:
- {at: 5h, node: sat-0, to: right}
- {at: 10h, node: sat-0, to: 20y}
- {at: 11h, node: sat-0, to: -20y}
- {at: 12h, node: sat-0, to: right}
- {at: 18h, node: sat-0, to: right}
faults:
- {at: 3h, kind: crash, node: sat-0, down: 5m, clock: 1970-01-01T00:00:00Z}
- {at: 14h, kind: restart, node: beijing, down: 30s}
- {at: 16h, kind: torn, node: sat-0, down: 1m, clock: 2046-01-01T00:00:00Z}
- {at: 20h, kind: crash, node: sat-0, down: 1m}
";

#[test]
fn a_day_of_hand_overs_under_wrong_clocks_loses_and_misses_nothing_and_repeats_little() {
    let report = simulate(scenario(HANDOVERS), false);
    assert!(report.passes > 25, "{report}");
    assert_eq!((report.account.lost, report.account.dropped), (0, 0), "{report}");
    assert_eq!(report.missed, Vec::<usize>::new(), "{report}");
    assert!(report.resent_share() <= 0.02, "{report}");
    assert!(report.account.exported * 10 > report.account.accepted * 9, "{report}");
}

#[test]
fn a_first_boot_in_1970_reaches_a_station_whose_certificate_began_after_the_build() {
    let text = "
duration: 90m
stations: [svalbard]
telemetry: {raw_per_day: 10MB, every: 1m}
link: {down: {rate: 1Mbit/s, delay: 5ms}, up: {rate: 1Mbit/s, delay: 5ms}}
contacts: [{station: svalbard, start: 40m, end: 48m}]
agent: {probe_interval: 1m}
clocks: [{at: 0s, node: sat-0, to: 1970-01-01T00:00:00Z}]
";
    let report = simulate(scenario(text), false);
    assert!(report.missed.is_empty() && report.account.exported * 3 > report.account.accepted, "{report}");
}

#[test]
fn what_is_older_than_its_lifetime_by_trusted_clocks_is_dropped_though_the_satellite_was_off_meanwhile() {
    let off = |clock: &str| {
        let text = format!(
            "
duration: 60h
stations: [svalbard]
telemetry: {{raw_per_day: 1MB, every: 1h}}
link: {{down: {{rate: 1Mbit/s, delay: 5ms}}, up: {{rate: 1Mbit/s, delay: 5ms}}}}
contacts: [{{station: svalbard, start: 59h, end: 59h10m}}]
agent: {{lifetime: 30h, probe_interval: 1h}}
faults: [{{at: 20h, kind: crash, node: sat-0, down: 24h{clock}}}]
"
        );
        simulate(scenario(&text), false).account.dropped
    };
    let (trusted, in_1970) = (off(""), off(", clock: 1970-01-01T00:00:00Z"));
    assert!(trusted > 0, "what was sealed in the first hours was off for a day");
    assert_eq!(in_1970, 0, "nobody knows for how long it was off");
}

#[test]
fn a_byte_budget_and_a_guard_time_are_kept() {
    let text = "
duration: 10m
stations: [svalbard]
telemetry: {item_bytes: 4KiB, compressible: false, backlog: 16MiB}
link: {down: {rate: 20Mbit/s, delay: 5ms}, up: {rate: 1Mbit/s, delay: 5ms}, byte_budget: 10MB, guard: 2s}
contacts: [{station: svalbard, start: 1m, end: 2m}]
";
    let report = simulate(scenario(text), false);
    assert!((9_900_000..=10_000_000).contains(&report.held_bytes), "{}", report.held_bytes);
}

#[test]
fn a_killed_ground_is_noticed_within_a_round_trip_of_its_return() {
    let text = "
duration: 5m
stations: [svalbard]
telemetry: {item_bytes: 4KiB, compressible: false, backlog: 16MiB}
link: {down: {rate: 20Mbit/s, delay: 20ms}, up: {rate: 1Mbit/s, delay: 20ms}}
contacts: [{station: svalbard, start: 1m, end: 2m}]
faults: [{at: 90s, kind: crash, node: svalbard, down: 1s}]
";
    let report = simulate(scenario(text), false);
    // A second without a ground, one before the next attempt, and what the crash took.
    let share = report.goodput_share(20_000_000);
    assert!(share > 0.88, "{share}");
    assert!(report.filled.len() == 1 && (report.filled[0].share - share).abs() < 1e-9, "{:?}", report.filled);
    assert_eq!(report.connections, 2);
}

#[test]
fn every_scenario_file_is_right() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut found = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        Scenario::load(&entry.unwrap().path()).unwrap();
        found += 1;
    }
    assert!(found >= 6);
}

#[test]
fn the_smallest_scenario_delivers_what_was_there_at_aos() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/one-contact.yaml");
    let report = simulate(Scenario::load(&file).unwrap(), false);
    assert!(report.account.exported * 2 > report.account.accepted, "half an hour of one");
    assert_eq!(report.connections, 1);
}
