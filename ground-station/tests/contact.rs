//! Whole contacts over loopback QUIC: link, ledger, spool and exporter together.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]
#![allow(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]

mod support;

use std::sync::Arc;

use ground_station::ground::Part;
use perigee_proto::link::{self, RejectReason, agent_message, ground_message};
use perigee_shared::env::{Env, Memory};
use perigee_shared::link::ranges::RangeSet;
use perigee_shared::otlp::protobuf::put_bytes;
use perigee_shared::segment::{Delivery, Header};
use prost::Message;
use support::{EPOCH, Running, Satellite, Site, get, lane, segment};

fn partial(resume: &link::Resume) -> &link::Partial {
    &resume.epochs[0].lanes[0].partials[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_committed_acknowledged_and_exported_with_their_station_and_satellite() {
    let site = Site::new();
    let ground = site.start().await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    let resume = sat.hello(1..4).await;
    assert_eq!(
        (resume.station.as_str(), resume.codecs.as_slice()),
        ("svalbard", &[1, 2, 3, 4, 5, 6, 7, 8][..])
    );
    for sequence in 1..4 {
        sat.send(&segment(sequence, 100)).await;
    }
    sat.committed(&[1, 2, 3]).await;
    let account = ground.drained("sat-1").await;
    assert_eq!((account.committed.spans, account.exported.spans), (300, 300));
    let text = site.exported();
    assert!(text.contains("\"s2-99-") && text.contains("satellite.id") && text.contains("\"svalbard\""));
    assert_eq!(text.matches("startTimeUnixNano").count(), 300);
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_read_on_while_memory_is_short() {
    let site = Site::new();
    let mut env = Env::production();
    env.memory = Arc::new(|| Some(Memory { resident: 1 << 40, used: 1 << 40 }));
    let config = site.config("", &site.file_exporter());
    let ground = Running::start_on(config, &Part::ALL, &env).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..4).await;
    let segments: Vec<_> = (1..4).map(|n| segment(n, 8_000)).collect();
    assert!(
        segments.iter().map(|s| s.header.payload_len).sum::<u64>() > 512 << 10,
        "more than is read at once"
    );
    for segment in &segments {
        sat.send(segment).await;
    }
    sat.committed(&[1, 2, 3]).await;
    let account = ground.drained("sat-1").await;
    assert_eq!((account.committed.spans, account.exported.spans), (24_000, 24_000));
    ground.stop().await;
}

/// Two ledgers that both have a segment export it twice: a backend can tell.
#[tokio::test(flavor = "multi_thread")]
async fn items_say_which_segment_they_came_in_when_that_is_wanted() {
    let site = Site::new();
    let mut config = site.config("", &site.file_exporter());
    config.segment_attribute = true;
    let ground = support::Running::start(config).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(3..4).await;
    sat.send(&segment(3, 5)).await;
    sat.committed(&[3]).await;
    ground.drained("sat-1").await;
    let name = format!("\"perigee.segment\",\"value\":{{\"stringValue\":\"{EPOCH:016x}/8/3\"}}");
    assert!(site.exported().contains(&name), "{}", site.exported());
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_say_whether_they_have_waited_when_that_is_wanted_and_known() {
    for wanted in [true, false] {
        let site = Site::new();
        let mut config = site.config("", &site.file_exporter());
        config.delivery_attribute = wanted;
        let ground = support::Running::start(config).await;
        let mut sat = site.satellite("sat-1", ground.address).await;
        sat.hello(1..4).await;
        for (sequence, delivery) in [(1, None), (2, Some(Delivery::Stored)), (3, Some(Delivery::Live))] {
            let plain = segment(sequence, 1);
            let header = Header { delivery, ..plain.header };
            sat.send(&support::Segment { header, ..plain }).await;
        }
        sat.committed(&[1, 2, 3]).await;
        ground.drained("sat-1").await;
        let exported = site.exported();
        for (sequence, word) in [(1, None), (2, Some("stored")), (3, Some("live"))] {
            let of = exported.lines().find(|line| line.contains(&format!("\"s{sequence}-0-"))).unwrap();
            let said = |word| format!("\"perigee.delivery\",\"value\":{{\"stringValue\":\"{word}\"}}");
            match word.filter(|_| wanted) {
                Some(word) => assert!(of.contains(&said(word)), "{word}: {of}"),
                None => assert!(!of.contains("perigee.delivery"), "{of}"),
            }
        }
        ground.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_cut_resumes_above_zero_and_is_exported_once() {
    let site = Site::new();
    let ground = site.start_with("  partial_sync_interval: 10ms\n").await;
    let whole = segment(1, 20_000);
    let length = whole.header.payload_len;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..2).await;
    let _stream = sat.send_part(&whole, &[0..length], length as usize / 2).await;
    let mut held = 0;
    while held < length / 2 {
        held = RangeSet::from_wire(&sat.ack().await.partials[0].partial.as_ref().unwrap().held).total();
    }
    // LOS without a Goodbye.
    drop(sat);

    let mut sat = site.satellite("sat-1", ground.address).await;
    let resume = sat.hello(1..2).await;
    let held = RangeSet::from_wire(&partial(&resume).held);
    assert_eq!(held.iter().collect::<Vec<_>>(), [0..length / 2]);
    let missing = held.missing(0..length);
    let mut stream = sat.send_part(&whole, &missing, usize::MAX).await;
    stream.finish().unwrap();
    sat.committed(&[1]).await;
    let account = ground.drained("sat-1").await;
    assert_eq!((account.exported.spans, account.segments, account.duplicates), (20_000, 1, 0));
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_synced_when_the_link_was_lost_is_kept_all_the_same() {
    let site = Site::new();
    // Nothing is due before the end of the connection.
    let ground = site.start_with("  partial_sync_interval: 1h\n").await;
    let whole = segment(1, 5_000);
    let length = whole.header.payload_len;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..3).await;
    let mut stream = sat.send_part(&whole, &[0..length], 5_000).await;
    // The acknowledgement of another segment shows that the first bytes arrived before it or are in flight.
    sat.send(&segment(2, 1)).await;
    sat.committed(&[2]).await;
    stream.reset(0_u32.into()).unwrap();
    sat.connection.close(0_u32.into(), b"");

    let mut sat = site.satellite("sat-1", ground.address).await;
    let resume = sat.hello(1..3).await;
    let held = RangeSet::from_wire(&partial(&resume).held).total();
    assert!(held > 0 && held <= 5_000, "{held}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_ledger_and_synced_partials() {
    let site = Site::new();
    let link = "  partial_sync_interval: 10ms\n";
    let ground = site.start_with(link).await;
    let (done, cut) = (segment(1, 10), segment(2, 20_000));
    let length = cut.header.payload_len;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..3).await;
    sat.send(&done).await;
    sat.committed(&[1]).await;
    let _stream = sat.send_part(&cut, &[0..length], 100_000).await;
    while sat.ack().await.partials.is_empty() {}
    ground.stop().await;

    let ground = site.start_with(link).await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    let resume = sat.hello(1..3).await;
    let committed = &resume.epochs[0].lanes[0].committed;
    assert_eq!(committed[0].sequences, Some(link::Range { start: 1, end: 2 }));
    assert_eq!(committed[0].top_hash, done.header.hash);
    assert_eq!(partial(&resume).payload_hash, cut.header.hash);
    // A segment that comes again is acknowledged again, and counted, and not exported again.
    sat.send(&done).await;
    sat.committed(&[1]).await;
    let missing = RangeSet::from_wire(&partial(&resume).held).missing(0..length);
    let mut stream = sat.send_part(&cut, &missing, usize::MAX).await;
    stream.finish().unwrap();
    sat.committed(&[2]).await;
    let account = ground.drained("sat-1").await;
    assert_eq!((account.exported.spans, account.segments, account.duplicates), (20_010, 2, 1));
    assert_eq!(site.exported().matches("startTimeUnixNano").count(), 20_010);
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_satellite_that_is_not_listed_is_told_so() {
    let site = Site::new();
    let ground = site.start().await;
    let stranger = Satellite::connect(site.dir.path(), "stranger", ground.address).await;
    let error = match stranger {
        Ok(sat) => sat.connection.closed().await,
        Err(error) => error,
    };
    assert!(error.to_string().contains("stranger is not in this station's link.satellites"), "{error}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_satellite_that_says_it_is_another_is_refused() {
    let site = Site::new();
    let ground = site.start().await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    let hello = link::Hello { satellite: "sat-2".to_owned(), ..link::Hello::default() };
    sat.say(agent_message::Body::Hello(hello)).await;
    let error = sat.connection.closed().await.to_string();
    assert!(error.contains("certificate says sat-1"), "{error}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_satellite_loses_its_open_link_and_gets_no_other() {
    let site = Site::new();
    let ground = site.start().await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..1).await;
    let mut other = site.satellite("sat-2", ground.address).await;
    other.hello(1..2).await;
    let env = perigee_shared::env::Env::production();
    let mut pki = ground_station::pki::Pki::open(site.dir.path(), &env).unwrap();
    pki.revoke(ground_station::pki::Role::Satellite, "sat-1").unwrap();
    let error = sat.connection.closed().await.to_string();
    assert!(error.contains("revoked"), "{error}");
    let again = Satellite::connect(site.dir.path(), "sat-1", ground.address).await;
    if let Ok(sat) = again {
        let error = sat.connection.closed().await.to_string();
        assert!(error.to_lowercase().contains("revoked"), "{error}");
    }
    other.send(&segment(1, 1)).await;
    other.committed(&[1]).await;
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_without_its_hash_is_rejected_and_can_come_again() {
    let site = Site::new();
    let ground = site.start().await;
    let good = segment(1, 50);
    let mut bad = good.clone();
    bad.payload[20] ^= 1;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..2).await;
    sat.send(&bad).await;
    let ground_message::Body::Reject(reject) = sat.hear().await else { panic!() };
    assert_eq!(reject.reason(), RejectReason::HashMismatch);
    sat.send(&good).await;
    sat.committed(&[1]).await;
    assert_eq!(ground.drained("sat-1").await.hash_mismatches, 1);
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_does_not_decode_is_committed_and_kept_in_dead_letter() {
    let site = Site::new();
    let ground = site.start().await;
    let mut broken = segment(1, 50);
    broken.payload = b"not zstd at all".to_vec();
    broken.header.payload_len = broken.payload.len() as u64;
    broken.header.hash = perigee_shared::segment::hash(&broken.payload);
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..3).await;
    sat.send(&broken).await;
    sat.send(&segment(2, 5)).await;
    sat.committed(&[1, 2]).await;
    let account = ground.drained("sat-1").await;
    assert_eq!((account.dead_lettered.spans, account.exported.spans), (50, 5));
    let (_, letters) = get(ground.api, "/api/v1/dead-letters").await;
    assert!(letters.contains("\"exporter\":null") && letters.contains("\"items\":50"), "{letters}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_codec_is_rejected_and_the_contact_goes_on() {
    let site = Site::new();
    let ground = site.start().await;
    let mut later = segment(1, 5);
    later.header.codec = 99;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..3).await;
    sat.send(&later).await;
    let ground_message::Body::Reject(reject) = sat.hear().await else { panic!() };
    assert_eq!(reject.reason(), RejectReason::UnknownCodec);
    sat.send(&segment(2, 5)).await;
    sat.committed(&[2]).await;
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_become_gaps_once_and_a_goodbye_is_answered() {
    let site = Site::new();
    let ground = site.start().await;
    let dropped = link::Drop {
        id: 1,
        reason: link::DropReason::Lifetime as i32,
        lane: 8,
        sequences: Some(link::Range { start: 1, end: 3 }),
        items: Some(link::Counts { spans: 70, ..link::Counts::default() }),
        time: Some(link::TimeRange { start_unix_nano: 5, end_unix_nano: 9 }),
        ..link::Drop::default()
    };
    for _ in 0..2 {
        let mut sat = site.satellite("sat-1", ground.address).await;
        let epoch = link::Epoch {
            epoch: EPOCH,
            lanes: vec![lane(3..3, 6)],
            drops: vec![dropped],
            ..link::Epoch::default()
        };
        let resume = sat.hello_epoch(epoch).await;
        assert_eq!(resume.epochs[0].drops_acknowledged, [1]);
        let more =
            link::EpochDrops { epoch: EPOCH, drops: vec![link::Drop { id: 2, ..link::Drop::default() }] };
        sat.say(agent_message::Body::Drops(more)).await;
        assert_eq!(sat.ack().await.drops[0].ids, [2]);
        sat.say(agent_message::Body::Goodbye(link::Goodbye { reason: 1, ..link::Goodbye::default() })).await;
        assert!(matches!(sat.hear().await, ground_message::Body::Goodbye(_)));
    }
    let account = ground.account("sat-1").await;
    assert_eq!(account.dropped.spans, 70);
    assert_eq!(account.dropped_by_reason["lifetime"].spans, 70);
    let (_, gaps) = get(ground.api, "/api/v1/gaps").await;
    assert!(gaps.contains("\"sequences\":[1,2]") && gaps.contains("\"start_unix_nano\":5"), "{gaps}");
    let (_, satellites) = get(ground.api, "/api/v1/satellites").await;
    assert!(satellites.contains("\"elsewhere\":[[3,5]]"), "{satellites}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_answers_and_metrics_have_the_collectors_names() {
    let site = Site::new();
    let ground = site.start().await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    sat.hello(1..2).await;
    sat.send(&segment(1, 12)).await;
    sat.committed(&[1]).await;
    ground.drained("sat-1").await;
    let (status, metrics) = get(ground.metrics, "/metrics").await;
    assert!(status.contains("200"), "{status}");
    assert!(metrics.contains("otelcol_exporter_sent_spans_total{exporter=\"file\"} 12"), "{metrics}");
    assert!(metrics.contains("perigee_ground_exported_spans{satellite=\"sat-1\"} 12"), "{metrics}");
    let (_, accounting) = get(ground.api, "/api/v1/accounting").await;
    assert!(accounting.contains("\"committed\":{\"spans\":12"), "{accounting}");
    let (status, _) = get(ground.api, "/api/v1/replay").await;
    assert!(status.contains("404"), "the open API only reads: {status}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_say_their_clocks_and_the_station_shows_the_satellites() {
    let site = Site::new();
    let ground = site.start().await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    let env = Env::production();
    let clock = link::Clock {
        unix_nano: env.unix_nano() - 1_000_000_000_000,
        boot_id: 3,
        since_boot_nano: 4,
        untrusted: "it says 1970".to_owned(),
    };
    let epochs = vec![link::Epoch { epoch: EPOCH, start_counter: 1, ..link::Epoch::default() }];
    let since_unix_nano = clock.unix_nano - 30_000_000_000;
    let waits = link::LaneBacklog { lane: 8, bytes: 5, since_unix_nano, ..link::LaneBacklog::default() };
    let hello = link::Hello {
        satellite: "sat-1".to_owned(),
        epochs,
        clock: Some(clock),
        backlog: vec![link::LaneBacklog {
            items: Some(link::Counts { spans: 1, ..Default::default() }),
            ..waits
        }],
        ..link::Hello::default()
    };
    let before = env.unix_nano();
    sat.say(agent_message::Body::Hello(hello)).await;
    let ground_message::Body::Resume(resume) = sat.hear().await else { panic!("Resume comes first") };
    let told = resume.clock.unwrap();
    assert!((before..=env.unix_nano()).contains(&told.unix_nano), "{told:?}");
    assert!(told.boot_id == env.since_boot().boot && told.untrusted.is_empty(), "{told:?}");

    let (_, satellites) = get(ground.api, "/api/v1/satellites").await;
    let satellites: serde_json::Value = serde_json::from_str(&satellites).unwrap();
    let shown = &satellites[0]["clock"];
    let offset = shown["offset_seconds"].as_f64().unwrap();
    assert!((-1_030.0..-999.0).contains(&offset), "a thousand seconds behind: {shown}");
    assert!(shown["untrusted"] == "it says 1970" && shown["drift_ppm"].is_null(), "{shown}");
    let (_, metrics) = get(ground.metrics, "/metrics").await;
    assert!(metrics.contains("perigee_satellite_clock_untrusted{satellite=\"sat-1\"} 1.0"), "{metrics}");
    let of = "perigee_satellite_clock_offset_seconds{satellite=\"sat-1\"} ";
    let offset = metrics.lines().find_map(|line| line.strip_prefix(of)).unwrap().parse::<f64>().unwrap();
    assert!((-1_030.0..-999.0).contains(&offset), "{offset}");
    let since = satellites[0]["backlog"][0]["since_unix_nano"].as_u64().unwrap();
    let waited = (env.unix_nano() - since) as f64 / 1e9;
    assert!((29.0..60.0).contains(&waited), "by this station's clock: {satellites}");

    // Its last Hello says it after a restart of the ground as well.
    ground.stop().await;
    let ground = site.start().await;
    let (_, again) = get(ground.api, "/api/v1/satellites").await;
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again[0]["clock"], satellites[0]["clock"]);
    let (_, metrics) = get(ground.metrics, "/metrics").await;
    assert!(metrics.contains(of), "{metrics}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_begins_when_data_was_accepted_on_board_and_without_that_when_it_was_sealed() {
    let site = Site::new();
    let ground = site.start().await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    let delays = async |ground: &Running| {
        let (_, api) = get(ground.api, "/api/v1/catalogue").await;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&api).unwrap();
        let (_, metrics) = get(ground.metrics, "/metrics").await;
        let count = metrics.lines().filter(|line| line.starts_with("perigee_delivery_delay_seconds_count{"));
        let count: u64 = count.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        (count, rows[0]["delay_seconds"].as_f64())
    };
    // Its clock is at 1970, and it says what that shows: sealed 3 us after 1970, told at 100 s.
    let clock = link::Clock { unix_nano: 100_000_000_000, ..link::Clock::default() };
    let lanes = vec![lane(1..4, 4)];
    let epochs = vec![link::Epoch { epoch: EPOCH, start_counter: 1, lanes, ..link::Epoch::default() }];
    let hello = link::Hello { satellite: sat.id.clone(), epochs, clock: Some(clock), ..Default::default() };
    sat.say(agent_message::Body::Hello(hello)).await;
    assert!(matches!(sat.hear().await, ground_message::Body::Resume(_)));
    sat.send(&segment(1, 5)).await;
    sat.committed(&[1]).await;
    let (count, delay) = delays(&ground).await;
    assert_eq!(count, 1);
    assert!((99.0..130.0).contains(&delay.unwrap()), "{delay:?}");
    sat.age_milli = Some(7_200_000);
    sat.send(&segment(2, 5)).await;
    sat.committed(&[2]).await;
    let (count, delay) = delays(&ground).await;
    assert_eq!(count, 2);
    assert!((7_200.0..7_230.0).contains(&delay.unwrap()), "{delay:?}");
    sat.connection.close(0_u32.into(), b"");

    // That clock was set right since, so nobody knows when a segment of 1970 was sealed.
    let mut sat = site.satellite("sat-1", ground.address).await;
    let clock = link::Clock { unix_nano: Env::production().unix_nano(), ..link::Clock::default() };
    let lanes = vec![lane(3..4, 4)];
    let epochs = vec![link::Epoch { epoch: EPOCH, start_counter: 1, lanes, ..link::Epoch::default() }];
    let hello = link::Hello { satellite: sat.id.clone(), epochs, clock: Some(clock), ..Default::default() };
    sat.say(agent_message::Body::Hello(hello)).await;
    assert!(matches!(sat.hear().await, ground_message::Body::Resume(_)));
    sat.send(&segment(3, 5)).await;
    sat.committed(&[3]).await;
    assert_eq!(delays(&ground).await, (2, None));
    ground.stop().await;
}

/// The only pass that the ground knows, once `until` holds of it.
async fn pass(ground: &support::Running, until: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    loop {
        let passes = ground.store.as_ref().unwrap().views().passes(10).await.unwrap();
        assert!(passes.len() < 2, "{passes:?}");
        if let Some(pass) = passes.first() {
            let pass = serde_json::to_value(pass).unwrap();
            if until(&pass) {
                return pass;
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn greet(sat: &mut Satellite, contact_start_unix_nano: u64) {
    let lanes = vec![lane(1..3, 3)];
    let epoch = link::Epoch { epoch: EPOCH, start_counter: 1, lanes, ..link::Epoch::default() };
    let satellite = sat.id.clone();
    let hello =
        link::Hello { satellite, epochs: vec![epoch], contact_start_unix_nano, ..link::Hello::default() };
    sat.say(agent_message::Body::Hello(hello)).await;
    assert!(matches!(sat.hear().await, ground_message::Body::Resume(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ground_keeps_a_pass_at_los_and_matches_what_the_satellite_says_of_it() {
    const OPENED: u64 = 5_000;
    let site = Site::new();
    let ground = site.start_with("  partial_sync_interval: 10ms\n").await;
    let (first, second) = (segment(1, 10), segment(2, 5_000));
    let (one, two) = (first.header.payload_len, second.header.payload_len);
    let mut sat = site.satellite("sat-1", ground.address).await;
    greet(&mut sat, OPENED).await;
    sat.send(&first).await;
    sat.committed(&[1]).await;
    let _stream = sat.send_part(&second, &[0..two], 5_000).await;
    while sat.ack().await.partials.is_empty() {}
    // LOS without Goodbye.
    sat.connection.close(0_u32.into(), b"");
    let kept = pass(&ground, |_| true).await;
    let seen = &kept["ground"];
    assert_eq!((&kept["station"], &seen["ended"]), (&"svalbard".into(), &"lost".into()), "{kept}");
    assert!(
        kept["state"].is_null() && kept["efficiency"].is_null(),
        "the satellite has said nothing: {kept}"
    );
    assert_eq!((&seen["held_bytes"], &seen["committed_segments"]), (&(one + 5_000).into(), &1.into()));

    // The same contact goes on, and this time there is time for a Goodbye.
    let mut sat = site.satellite("sat-1", ground.address).await;
    greet(&mut sat, OPENED).await;
    let mut rest = sat.send_part(&second, &[5_000..two], usize::MAX).await;
    rest.finish().unwrap();
    sat.committed(&[2]).await;
    let report = link::PassReport {
        station: "svalbard".to_owned(),
        start_unix_nano: OPENED,
        planned_bytes: 2 * (one + two),
        held_bytes: one + two,
        state: link::PassState::DeliveredAll.into(),
        planned_start_unix_nano: OPENED + 1,
        planned_end_unix_nano: OPENED + 9_000_000_001,
        guard_end_nano: 2_500_000_000,
        ..link::PassReport::default()
    };
    let goodbye = link::Goodbye { pass: Some(report), ..link::Goodbye::default() };
    sat.say(agent_message::Body::Goodbye(goodbye)).await;
    assert!(matches!(sat.hear().await, ground_message::Body::Goodbye(_)));
    sat.connection.close(0_u32.into(), b"");
    let kept = pass(&ground, |pass| pass["ground"]["connections"] == 2).await;
    let seen = &kept["ground"];
    assert_eq!(
        (&seen["held_bytes"], &seen["committed_segments"]),
        (&(one + two).into(), &2.into()),
        "{kept}"
    );
    assert_eq!((&seen["committed"]["spans"], &seen["ended"]), (&5_010.into(), &"goodbye".into()), "{kept}");
    assert_eq!((&kept["state"], &kept["efficiency"]), (&"delivered_all".into(), &0.5.into()), "{kept}");
    let planned = (&kept["planned_start_unix_nano"], &kept["planned_end_unix_nano"]);
    assert_eq!(planned, (&(OPENED + 1).into(), &(OPENED + 9_000_000_001).into()), "{kept}");
    let guards = (&kept["guard_start_seconds"], &kept["guard_end_seconds"]);
    assert_eq!(guards, (&0.0.into(), &2.5.into()), "{kept}");
    ground.stop().await;
}

/// `body` as field `number` of an agent's message, with fields beside and in it that this software does not know.
fn of_a_later_version(number: u32, body: &[u8]) -> Vec<u8> {
    let more = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        put_bytes(&mut bytes, 2000, b"more");
        bytes
    };
    let mut message = Vec::new();
    put_bytes(&mut message, number, &more(body));
    more(&message)
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_other_versions_are_served_and_what_they_do_not_say_is_unknown() {
    let site = Site::new();
    let ground = site.start().await;
    let mut sat = site.satellite("sat-1", ground.address).await;
    // The first version said no more than this of itself and of its passes.
    let report = link::PassReport {
        station: "svalbard".to_owned(),
        start_unix_nano: 5_000,
        planned_bytes: 10,
        achieved_bytes: 5,
        ..link::PassReport::default()
    };
    let epoch =
        link::Epoch { epoch: EPOCH, start_counter: 1, lanes: vec![lane(1..3, 3)], ..link::Epoch::default() };
    let hello = link::Hello {
        satellite: sat.id.clone(),
        minor_version: 1,
        epochs: vec![epoch],
        passes: vec![report],
        ..link::Hello::default()
    };
    sat.say_bytes(&of_a_later_version(1, &hello.encode_to_vec())).await;
    let ground_message::Body::Resume(resume) = sat.hear().await else { panic!("Hello is answered") };
    assert_ne!(resume.ledger, 0);
    sat.send(&segment(1, 10)).await;
    sat.committed(&[1]).await;
    let goodbye =
        link::Goodbye { reason: link::GoodbyeReason::ContactEnd.into(), ..link::Goodbye::default() };
    sat.say_bytes(&of_a_later_version(3, &goodbye.encode_to_vec())).await;
    assert!(matches!(sat.hear().await, ground_message::Body::Goodbye(_)));
    let view = ground.satellites().await.remove(0);
    let standing = &view.standing;
    assert!(standing.backlog.is_none() && standing.plan.is_none(), "{view:?}");
    // When its certificate ends the station has seen.
    let agent = standing.agent.as_ref().unwrap();
    assert!(agent.configuration.is_none() && agent.resident_bytes.is_none(), "{view:?}");
    assert!(agent.cpu_seconds.is_none() && agent.running_seconds.is_none(), "{view:?}");
    assert!(standing.next_contact.is_none() && standing.forecast.is_none(), "{view:?}");
    let pass =
        serde_json::to_value(ground.store.as_ref().unwrap().views().passes(10).await.unwrap()).unwrap();
    let reported = pass.as_array().unwrap().iter().find(|pass| pass["start_unix_nano"] == 5_000).unwrap();
    for key in ["state", "planned_start_unix_nano", "planned_end_unix_nano", "guard_start_seconds"] {
        assert!(reported[key].is_null(), "{key}: {reported}");
    }
    assert_eq!(reported["planned_bytes"], 10, "{reported}");
    ground.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ground_knows_what_waits_on_board_and_shows_no_text_of_a_peer_as_a_label() {
    let site = Site::new();
    let ground = site.start().await;
    let waits = |lane: u32, name: &str, bytes: u64| link::LaneBacklog {
        lane,
        name: name.to_owned(),
        bytes,
        items: Some(link::Counts { spans: 100, ..link::Counts::default() }),
        since_unix_nano: 7_000_000_000,
    };
    let first = segment(1, 10);
    let size = first.header.payload_len;
    let mut sat = site.satellite("sat-1", ground.address).await;
    let epoch = link::Epoch { epoch: EPOCH, lanes: vec![lane(1..2, 2)], ..link::Epoch::default() };
    let hostile = format!("evil\u{1b}[2J\n{}", "x".repeat(500));
    let hello = link::Hello {
        satellite: "sat-1".to_owned(),
        epochs: vec![epoch],
        backlog: vec![
            waits(8, "bulk", size + 50),
            waits(3, &hostile, 9),
            waits(200, "b", 1),
            waits(201, "b", u64::MAX),
            waits(999, "c", 1),
        ],
        plan: Some(link::Plan {
            source: "plan".to_owned(),
            error: "line 3".to_owned(),
            next_start_unix_nano: 99_000_000_000,
            next_station: hostile.clone(),
            ..link::Plan::default()
        }),
        agent: Some(link::AgentState { configuration: 0xab, resident_bytes: 1 << 20, ..Default::default() }),
        ..link::Hello::default()
    };
    sat.say(agent_message::Body::Hello(hello)).await;
    assert!(matches!(sat.hear().await, ground_message::Body::Resume(_)));
    sat.age_milli = Some(90_000);
    sat.send(&first).await;
    sat.committed(&[1]).await;
    let (_, text) = get(ground.metrics, "/metrics").await;
    for line in [
        "perigee_satellite_connected{satellite=\"sat-1\"} 1.0",
        "perigee_satellite_next_contact_timestamp_seconds{satellite=\"sat-1\"} 99.0",
        "perigee_satellite_backlog_bytes{satellite=\"sat-1\",lane=\"8\"} 50.0",
        "perigee_satellite_backlog_items{satellite=\"sat-1\",lane=\"8\"} 90.0",
        "perigee_satellite_backlog_oldest_timestamp_seconds{satellite=\"sat-1\",lane=\"3\"} 7.0",
        "perigee_satellite_backlog_bytes{satellite=\"sat-1\",lane=\"other\"} 1125899906842625.0",
        "perigee_satellite_memory_rss_bytes{satellite=\"sat-1\"} 1048576.0",
        "perigee_delivery_delay_seconds_bucket{le=\"60.0\",satellite=\"sat-1\",signal=\"traces\",lane=\"8\"} 0",
        "perigee_delivery_delay_seconds_bucket{le=\"300.0\",satellite=\"sat-1\",signal=\"traces\",lane=\"8\"} 1",
        "perigee_satellite_connected{satellite=\"sat-2\"} 0.0",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("evil") && !text.contains("lane=\"999\""), "{text}");
    let expiry =
        text.lines().find(|l| l.starts_with("perigee_satellite_certificate_expiry_timestamp_seconds{"));
    let expiry: f64 = expiry.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    let now = perigee_shared::env::Env::production().unix_nano() as f64 / 1e9;
    assert!((0.5..1.5).contains(&((expiry - now) / 86_400.0)), "of the certificate itself: {expiry}");
    let (_, api) = get(ground.api, "/api/v1/satellites").await;
    let satellite = &serde_json::from_str::<serde_json::Value>(&api).unwrap()[0];
    let name = satellite["backlog"][0]["name"].as_str().unwrap();
    assert!(name.len() == 63 && name.starts_with("evil[2Jxx"), "{satellite}");
    assert_eq!(
        (&satellite["plan"]["error"], &satellite["agent"]["configuration"]),
        (&"line 3".into(), &"00000000000000ab".into())
    );
    let heard = satellite["last_heard_unix_nano"].as_u64().unwrap() as f64 / 1e9;
    assert!((now - heard).abs() < 60.0, "{satellite}");

    let never = &serde_json::from_str::<serde_json::Value>(&api).unwrap()[1];
    assert_eq!((&never["satellite"], &never["last_heard_unix_nano"]), (&"sat-2".into(), &0.into()));
    assert!(never["backlog"].is_null() && never["connected"] == false, "{never}");

    // What the Goodbye says is newer than what was worked out.
    let goodbye = link::Goodbye { backlog: vec![waits(8, "bulk", 777)], ..link::Goodbye::default() };
    sat.say(agent_message::Body::Goodbye(goodbye)).await;
    assert!(matches!(sat.hear().await, ground_message::Body::Goodbye(_)));
    sat.connection.close(0_u32.into(), b"");
    pass(&ground, |_| true).await;
    let standing = ground.satellites().await.remove(0).standing;
    let waits = standing.backlog.unwrap();
    assert_eq!((waits.len(), waits[0].bytes), (1, 777));

    // An agent that says nothing of it.
    let mut old = site.satellite("sat-2", ground.address).await;
    old.hello(1..2).await;
    let (_, text) = get(ground.metrics, "/metrics").await;
    assert!(!text.contains("backlog_bytes{satellite=\"sat-2\""), "unknown is not 0: {text}");
    assert!(text.contains("perigee_satellite_connected{satellite=\"sat-2\"} 1.0"), "{text}");
    let standing = ground.satellites().await.remove(1).standing;
    assert!(standing.backlog.is_none() && standing.next_contact.is_none() && standing.plan.is_none());
    ground.stop().await;
}

/// The end waits for no satellite that has nothing to say.
#[tokio::test(flavor = "multi_thread")]
async fn a_satellite_that_never_says_hello_is_told_that_the_ground_ends() {
    let site = Site::new();
    let ground = site.start().await;
    let silent = site.satellite("sat-1", ground.address).await;
    let mut other = site.satellite("sat-2", ground.address).await;
    // It is served: the one that came later is.
    other.hello(1..2).await;
    let ((), error) = tokio::join!(ground.stop(), silent.connection.closed());
    assert!(error.to_string().contains("the ground-station ends"), "{error}");
}
