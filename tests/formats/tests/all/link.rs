//! Every message of the link, with every field set.

#![allow(clippy::needless_update, reason = "a field that is added later is not set in what is pinned")]

use formats::fixture::read;
use perigee_proto::link::{self, *};
use perigee_shared::link::wire::frame;
use perigee_shared::segment::{Delivery, Header};
use prost::Message;
use serde_json::Value;

const EPOCH: u64 = 0xfedc_ba98_7654_3210;
const TIME: u64 = 1_700_000_000_123_456_789;

/// The bytes of `data/link/NAME.bin` are `message` behind its length: read as it, and written from it.
fn assert_pinned<M: Message + Default + PartialEq + std::fmt::Debug>(name: &str, message: &M) {
    let bytes = read(&format!("link/{name}.bin")).unwrap();
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap());
    assert_eq!(length as usize, bytes.len() - 4, "{name}");
    assert_eq!(&M::decode(&bytes[4..]).unwrap(), message, "{name} is read");
    assert_eq!(frame(message), bytes, "{name} is written");
}

fn agent(body: agent_message::Body) -> AgentMessage {
    AgentMessage { body: Some(body), ..Default::default() }
}

fn ground(body: ground_message::Body) -> GroundMessage {
    GroundMessage { body: Some(body), ..Default::default() }
}

fn range(start: u64, end: u64) -> Range {
    Range { start, end, ..Default::default() }
}

fn counts(n: u64) -> Counts {
    Counts { spans: n, metric_points: n + 1, log_records: n + 300, ..Default::default() }
}

fn time() -> TimeRange {
    TimeRange { start_unix_nano: TIME, end_unix_nano: TIME + 1_000_000, ..Default::default() }
}

fn segment_id() -> SegmentId {
    SegmentId { epoch: EPOCH, lane: 8, sequence: 70_001, ..Default::default() }
}

fn drop_of(id: u64, reason: DropReason) -> Drop {
    Drop {
        id,
        reason: reason as i32,
        lane: 3,
        sequences: Some(range(id * 10, id * 10 + 5)),
        items: Some(counts(id)),
        counts_unknown: true,
        time: Some(time()),
        dropped_unix_nano: TIME + id,
        ..Default::default()
    }
}

fn every_drop() -> Vec<Drop> {
    let reasons = [
        DropReason::QuotaOldest,
        DropReason::QuotaNewest,
        DropReason::Lifetime,
        DropReason::Filter,
        DropReason::Corruption,
        DropReason::BackendRefused,
        DropReason::Operator,
    ];
    reasons.into_iter().zip(1..).map(|(reason, id)| drop_of(id, reason)).collect()
}

fn partial() -> Partial {
    Partial {
        sequence: 70_002,
        payload_hash: vec![0xa5; 32],
        held: vec![range(0, 65_536), range(131_072, 200_000)],
        ..Default::default()
    }
}

fn header() -> SegmentHeader {
    SegmentHeader {
        format: 1,
        codec: 2,
        id: Some(segment_id()),
        payload_len: 123_456,
        raw_len: 7_654_321,
        payload_hash: (0..32).collect(),
        items: Some(counts(500)),
        time: Some(time()),
        requests: 17,
        sealed_unix_nano: TIME + 5,
        base_sequence: Some(69_990),
        base: true,
        ..Default::default()
    }
}

fn hello() -> Hello {
    let lane = |lane, oldest_base| Lane {
        lane,
        on_board: vec![range(5, 9), range(20, 21)],
        next_sequence: 30,
        oldest_base,
        ..Default::default()
    };
    let epoch = |epoch, start_counter, closed| Epoch {
        epoch,
        start_counter,
        started_unix_nano: TIME,
        lanes: vec![lane(1, None), lane(8, Some(4))],
        drops: every_drop(),
        closed,
        ..Default::default()
    };
    let pass = PassReport {
        station: "svalbard".to_owned(),
        start_unix_nano: TIME,
        end_unix_nano: TIME + 480_000_000_000,
        planned_bytes: 48_000_000,
        achieved_bytes: 30_000_000,
        sent_bytes: 31_000_000,
        committed_segments: 120,
        connected_nano: 470_000_000_000,
        backlog_bytes: 9_000_000,
        backlog_since_unix_nano: TIME - 1,
        ..Default::default()
    };
    let forecast = Forecast {
        made_unix_nano: TIME,
        stored_bytes: 5_000_000,
        max_bytes: 1 << 30,
        growth_bytes_per_second: 12.5,
        planned_bytes: 90_000_000,
        plan_until_unix_nano: TIME + 4,
        full_unix_nano: TIME + 3,
        empty_unix_nano: TIME + 2,
        backlog_since_unix_nano: TIME - 1,
        ..Default::default()
    };
    Hello {
        satellite: "sat-1".to_owned(),
        software: "space-agent 0.1.0".to_owned(),
        minor_version: 1,
        codecs: vec![1, 2],
        contact: "pass 17".to_owned(),
        epochs: vec![epoch(1, 1, true), epoch(EPOCH, 2, false)],
        passes: vec![pass],
        forecast: Some(forecast),
        ..Default::default()
    }
}

fn resume() -> Resume {
    let committed = |start, end| CommittedRange {
        sequences: Some(range(start, end)),
        top_hash: vec![end as u8; 32],
        ..Default::default()
    };
    let lane = ResumeLane {
        lane: 8,
        committed: vec![committed(1, 5), committed(7, 70_000)],
        partials: vec![partial()],
        ..Default::default()
    };
    let epoch = ResumeEpoch {
        epoch: EPOCH,
        lanes: vec![lane],
        drops_acknowledged: vec![1, 2, 300],
        ..Default::default()
    };
    Resume {
        software: "ground-station 0.1.0".to_owned(),
        station: "svalbard".to_owned(),
        minor_version: 1,
        codecs: vec![1, 2],
        epochs: vec![epoch],
        ..Default::default()
    }
}

fn ack() -> Ack {
    Ack {
        committed: vec![segment_id()],
        partials: vec![PartialAck { epoch: EPOCH, lane: 8, partial: Some(partial()), ..Default::default() }],
        drops: vec![DropsAck { epoch: EPOCH, ids: vec![4, 500], ..Default::default() }],
        ..Default::default()
    }
}

fn epoch_drops() -> EpochDrops {
    EpochDrops { epoch: EPOCH, drops: every_drop(), ..Default::default() }
}

fn segment_open() -> SegmentOpen {
    SegmentOpen {
        header: Some(header()),
        ranges: vec![range(0, 65_536), range(100_000, 123_456)],
        ..Default::default()
    }
}

fn goodbye(reason: GoodbyeReason) -> Goodbye {
    Goodbye { reason: reason as i32, ..Default::default() }
}

#[test]
fn what_an_agent_says_is_read_and_written_as_ever() {
    use agent_message::Body;
    assert_pinned("hello", &agent(Body::Hello(hello())));
    assert_pinned("drops", &agent(Body::Drops(epoch_drops())));
    for (name, reason) in [
        ("contact-end", GoodbyeReason::ContactEnd),
        ("shutdown", GoodbyeReason::Shutdown),
        ("nothing-left", GoodbyeReason::NothingLeft),
    ] {
        assert_pinned(&format!("agent-goodbye-{name}"), &agent(Body::Goodbye(goodbye(reason))));
    }
}

#[test]
fn what_a_ground_says_is_read_and_written_as_ever() {
    use ground_message::Body;
    assert_pinned("resume", &ground(Body::Resume(resume())));
    assert_pinned("ack", &ground(Body::Ack(ack())));
    assert_pinned("ground-goodbye", &ground(Body::Goodbye(goodbye(GoodbyeReason::Shutdown))));
    for (name, reason) in [
        ("hash-mismatch", RejectReason::HashMismatch),
        ("missing-base", RejectReason::MissingBase),
        ("unknown-codec", RejectReason::UnknownCodec),
        ("quota", RejectReason::Quota),
    ] {
        let reject = Reject { segment: Some(segment_id()), reason: reason as i32, ..Default::default() };
        assert_pinned(&format!("reject-{name}"), &ground(Body::Reject(reject)));
    }
}

#[test]
fn what_opens_a_segment_s_stream_is_read_and_written_as_ever() {
    assert_pinned("segment-open", &segment_open());
}

/// The agent says when it sends a segment whether that has waited. Both programs work without it.
#[test]
fn whether_a_segment_has_waited_is_told() {
    let header = SegmentHeader { delivery: link::Delivery::Live as i32, ..header() };
    let open = SegmentOpen { header: Some(header.clone()), ..segment_open() };
    assert_pinned("segment-open-live", &open);
    assert_eq!(Header::try_from(header).unwrap().delivery, Some(Delivery::Live));
    let earlier = Header::from_bytes(&read("link/segment-header.bin").unwrap()).unwrap();
    assert_eq!(earlier.delivery, None, "earlier software does not say");
}

/// The agent says how old a segment's oldest item is. Both programs work without it.
#[test]
fn how_long_a_segment_has_been_on_board_is_told() {
    assert_pinned("segment-open-age", &SegmentOpen { age_milli: Some(86_400_123), ..segment_open() });
    let earlier = SegmentOpen::decode(&read("link/segment-open.bin").unwrap()[4..]).unwrap();
    assert_eq!(earlier.age_milli, None, "earlier software does not say");
}

#[test]
fn a_header_is_read_and_written_as_ever() {
    let bytes = read("link/segment-header.bin").unwrap();
    let read = Header::from_bytes(&bytes).unwrap();
    assert_eq!(read, Header::try_from(header()).unwrap());
    assert_eq!(SegmentHeader::decode(&*bytes).unwrap(), header());
    assert_eq!(read.to_bytes(), bytes);
}

/// Fields that came with WAL format 4 and spool format 2. Both programs work without them.
#[test]
fn what_ledgers_have_acknowledged_is_told() {
    let acknowledged = Acknowledged {
        ledger: 0x0102_0304_0506_0708,
        station: "svalbard".to_owned(),
        sequences: vec![range(1, 7), range(9, 300)],
        top_hash: (0..32).collect(),
        ..Default::default()
    };
    let lane = Lane { lane: 8, next_sequence: 301, acknowledged: vec![acknowledged], ..Default::default() };
    let epoch = Epoch { epoch: EPOCH, lanes: vec![lane], ..Default::default() };
    let hello = Hello { satellite: "sat-1".to_owned(), epochs: vec![epoch], ..Default::default() };
    assert_pinned("hello-acknowledged", &agent(agent_message::Body::Hello(hello)));
    let resume = Resume {
        station: "svalbard".to_owned(),
        ledger: 0x0102_0304_0506_0708,
        start_counter: 12,
        ..Default::default()
    };
    assert_pinned("resume-ledger", &ground(ground_message::Body::Resume(resume)));
}

/// The bound of a gap where a station has lost its spool. Without it the number of items is unknown.
#[test]
fn how_many_items_a_ledger_has_acknowledged_is_told() {
    let acknowledged = Acknowledged {
        ledger: 0x0102_0304_0506_0708,
        station: "svalbard".to_owned(),
        sequences: vec![range(1, 7)],
        top_hash: (0..32).collect(),
        items: Some(counts(70)),
        ..Default::default()
    };
    let lane = Lane { lane: 8, next_sequence: 7, acknowledged: vec![acknowledged], ..Default::default() };
    let epoch = Epoch { epoch: EPOCH, lanes: vec![lane], ..Default::default() };
    let hello = Hello { satellite: "sat-1".to_owned(), epochs: vec![epoch], ..Default::default() };
    assert_pinned("hello-acknowledged-items", &agent(agent_message::Body::Hello(hello)));
}

/// By these an earlier state of a log knows what a later one has delivered.
#[test]
fn what_a_segment_was_made_of_is_told() {
    let groups = |first, end| Groups { first, end, checksum: 0x0102_0304_0506_0708, ..Default::default() };
    let made_of = Some(groups(300, 70_000));
    let header = SegmentHeader { made_of, ..header() };
    let open = SegmentOpen { header: Some(header), ..segment_open() };
    assert_pinned("segment-open-made-of", &open);
    let (sequences, top_hash) = (Some(range(7, 8)), (0..32).collect());
    let committed = vec![CommittedRange { sequences, top_hash, made_of, ..Default::default() }];
    let lane = ResumeLane { lane: 8, committed, ..Default::default() };
    let epoch = ResumeEpoch { epoch: EPOCH, lanes: vec![lane], ..Default::default() };
    let resume = Resume { station: "svalbard".to_owned(), epochs: vec![epoch], ..Default::default() };
    assert_pinned("resume-made-of", &ground(ground_message::Body::Resume(resume)));
    let lane = Lane { lane: 8, compare: vec![range(7, 71)], ..Default::default() };
    let asks = Epoch { epoch: EPOCH, lanes: vec![lane], ..Default::default() };
    let hello = Hello { satellite: "sat-1".to_owned(), epochs: vec![asks], ..Default::default() };
    assert_pinned("hello-made-of", &agent(agent_message::Body::Hello(hello)));
}

#[test]
fn an_epoch_tells_that_a_ground_contradicted_it_and_that_it_is_in_memory() {
    let closed =
        Epoch { epoch: EPOCH, closed: true, continued: true, contradicted: true, ..Default::default() };
    let epochs = vec![closed, Epoch { epoch: EPOCH, in_memory: true, ..Default::default() }];
    let hello = Hello { satellite: "sat-1".to_owned(), epochs, ..Default::default() };
    assert_pinned("hello-contradicted", &agent(agent_message::Body::Hello(hello)));
}

/// Fields that came with WAL format 4 and spool format 2 as well.
#[test]
fn what_the_ground_has_of_a_drop_is_told() {
    let items = Counts { spans: 3, metric_points: 400, log_records: 5, ..Default::default() };
    let overridden = vec![DropOverride { id: 500, items: Some(items), ..Default::default() }];
    let drops = DropsAck { epoch: EPOCH, ids: vec![4, 500], overridden, ..Default::default() };
    let epoch = ResumeEpoch {
        epoch: EPOCH,
        drops_acknowledged: drops.ids.clone(),
        overridden: drops.overridden.clone(),
        highest_drop: Some(500),
        ..Default::default()
    };
    let ack = Ack { drops: vec![drops], ..Default::default() };
    assert_pinned("ack-overridden", &ground(ground_message::Body::Ack(ack)));
    let resume = Resume { epochs: vec![epoch], ..Default::default() };
    assert_pinned("resume-overridden", &ground(ground_message::Body::Resume(resume)));
}

/// The same.
#[test]
fn what_an_epoch_goes_on_with_is_told() {
    let items = Counts { spans: 3, metric_points: 400, log_records: 5, ..Default::default() };
    let drop = Drop { id: 500, overridden: Some(items), ..Default::default() };
    let epoch =
        Epoch { epoch: EPOCH, drops: vec![drop], closed: true, continued: true, ..Default::default() };
    let hello = Hello { satellite: "sat-1".to_owned(), epochs: vec![epoch], ..Default::default() };
    assert_pinned("hello-continued", &agent(agent_message::Body::Hello(hello)));
}

fn clock() -> Clock {
    Clock {
        unix_nano: TIME,
        boot_id: EPOCH,
        since_boot_nano: 86_400_000_000_000,
        untrusted: "it is before the build".to_owned(),
        ..Default::default()
    }
}

fn lane_backlog() -> Vec<LaneBacklog> {
    let lane = |lane: u32, name: &str| LaneBacklog {
        lane,
        name: name.to_owned(),
        bytes: 4_000_000,
        items: Some(counts(70)),
        since_unix_nano: TIME - 5,
        ..Default::default()
    };
    vec![lane(1, "alarms"), lane(8, "bulk")]
}

/// Fields that tell the ground how a satellite stands, and what becomes of a pass. Both programs work without them.
#[test]
fn how_a_satellite_stands_is_told() {
    let pass = PassReport {
        station: "svalbard".to_owned(),
        start_unix_nano: TIME,
        state: PassState::Cut as i32,
        connect_nano: 1_200_000_000,
        held_bytes: 1_700_000,
        sent_packets: 1_300,
        lost_packets: 17,
        round_trip_nano: 41_000_000,
        ..Default::default()
    };
    let hello = Hello {
        satellite: "sat-1".to_owned(),
        passes: vec![pass.clone()],
        clock: Some(clock()),
        backlog: lane_backlog(),
        plan: Some(Plan {
            source: "plan".to_owned(),
            hash: EPOCH,
            error: "line 3: a contact ends before it begins".to_owned(),
            next_start_unix_nano: TIME + 9,
            next_station: "kourou".to_owned(),
            ..Default::default()
        }),
        agent: Some(AgentState {
            configuration: EPOCH,
            resident_bytes: 30 << 20,
            memory_limit_bytes: 128 << 20,
            cpu_nano: 77_000_000_000,
            running_nano: 86_000_000_000_000,
            certificate_end_unix_nano: TIME + 11,
            ..Default::default()
        }),
        contact_start_unix_nano: TIME,
        ..Default::default()
    };
    assert_pinned("hello-standing", &agent(agent_message::Body::Hello(hello)));
    let hello = Hello {
        satellite: "sat-1".to_owned(),
        contact_end_unix_nano: TIME + 480_000_000_000,
        ..Default::default()
    };
    assert_pinned("hello-contact-end", &agent(agent_message::Body::Hello(hello)));
    let site = |station: &str, mask: Vec<f32>| Site {
        station: station.to_owned(),
        latitude: 78.23,
        longitude: 15.39,
        altitude: 450.0,
        mask,
        ..Default::default()
    };
    let orbit = Orbit {
        name: "SAT (100001)".to_owned(),
        epoch_unix_nano: TIME,
        mean_motion: 15.0563,
        eccentricity: 0.0011,
        inclination: 97.59,
        ascending_node: 42.1,
        perigee: 80.0,
        anomaly: 280.2,
        drag: 0.0002,
        sites: vec![site("svalbard", vec![5.0]), site("kourou", vec![2.5; 72])],
        minimum_pass_nano: 120_000_000_000,
        ..Default::default()
    };
    let hello = Hello { satellite: "sat-1".to_owned(), orbit: Some(orbit), ..Default::default() };
    assert_pinned("hello-orbit", &agent(agent_message::Body::Hello(hello)));
    let hello = Hello { satellite: "sat-1".to_owned(), slot: 1, ..Default::default() };
    assert_pinned("hello-slot", &agent(agent_message::Body::Hello(hello)));
    let goodbye = Goodbye {
        reason: GoodbyeReason::ContactEnd as i32,
        pass: Some(pass),
        backlog: lane_backlog(),
        ..Default::default()
    };
    assert_pinned("agent-goodbye-pass", &agent(agent_message::Body::Goodbye(goodbye)));
    let goodbye =
        Goodbye { reason: GoodbyeReason::ContactEnd as i32, pass: Some(planned()), ..Default::default() };
    assert_pinned("agent-goodbye-plan", &agent(agent_message::Body::Goodbye(goodbye)));
    let resume = Resume { station: "svalbard".to_owned(), clock: Some(clock()), ..Default::default() };
    assert_pinned("resume-clock", &ground(ground_message::Body::Resume(resume)));
}

/// A report with the times of its plan.
fn planned() -> PassReport {
    PassReport {
        station: "svalbard".to_owned(),
        start_unix_nano: TIME,
        planned_bytes: 48_000_000,
        state: PassState::EndedByPlan as i32,
        connect_nano: 1_200_000_000,
        held_bytes: 1_700_000,
        planned_start_unix_nano: TIME + 1_000_000_000,
        planned_end_unix_nano: TIME + 481_000_000_000,
        guard_start_nano: 2_000_000_000,
        guard_end_nano: 7_000_000_000,
        ..Default::default()
    }
}

/// A report as software before the times of the plan has it: the fields that both have.
#[derive(Clone, PartialEq, Message)]
struct EarlierReport {
    #[prost(string, tag = "1")]
    station: String,
    #[prost(fixed64, tag = "2")]
    start_unix_nano: u64,
    #[prost(uint64, tag = "4")]
    planned_bytes: u64,
    #[prost(int32, tag = "11")]
    state: i32,
    #[prost(uint64, tag = "12")]
    connect_nano: u64,
    #[prost(uint64, tag = "13")]
    held_bytes: u64,
}

#[test]
fn a_report_with_the_times_of_its_plan_and_one_without_are_read_by_either_software() {
    let new = planned();
    let earlier = EarlierReport::decode(new.encode_to_vec().as_slice()).unwrap();
    assert_eq!((earlier.start_unix_nano, earlier.planned_bytes), (TIME, 48_000_000));
    assert_eq!((earlier.state, earlier.held_bytes), (new.state, new.held_bytes));
    let read = PassReport::decode(earlier.encode_to_vec().as_slice()).unwrap();
    let unplanned = PassReport {
        planned_start_unix_nano: 0,
        planned_end_unix_nano: 0,
        guard_start_nano: 0,
        guard_end_nano: 0,
        ..new.clone()
    };
    assert_eq!(read, unplanned);
    let shown = perigee_shared::contact::report::shown_pass;
    let plan = |report: &PassReport| {
        let keys =
            ["planned_start_unix_nano", "planned_end_unix_nano", "guard_start_seconds", "guard_end_seconds"];
        keys.map(|key| shown(report)[key].clone())
    };
    let (start, end) = (TIME + 1_000_000_000, TIME + 481_000_000_000);
    assert_eq!(plan(&new), [start.into(), end.into(), Value::from(2.0), Value::from(7.0)]);
    assert!(plan(&read).iter().all(Value::is_null), "unknown, not the year 1970");
}
