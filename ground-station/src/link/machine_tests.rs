#![allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
#![allow(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]

use perigee_shared::link::bounds::{DROPS, SEGMENT_RANGES};
use perigee_shared::segment::{Lane, hash};
use perigee_shared::signal::{Counts, TimeRange};

use super::*;

const SYNC: usize = 1000;

fn machine() -> Machine {
    Machine::new(Settings {
        satellite: "sat-1".into(),
        station: "svalbard".to_owned(),
        sync_bytes: SYNC,
        sync_interval: Duration::from_secs(1),
        max_partial_bytes: 1 << 20,
    })
}

fn hello() -> Event {
    let hello = link::Hello { satellite: "sat-1".to_owned(), ..link::Hello::default() };
    Event::Control(link::AgentMessage { body: Some(agent_message::Body::Hello(hello)) })
}

fn resumed(now: Instant) -> Machine {
    let mut machine = machine();
    assert!(matches!(machine.on_event(now, hello()).as_slice(), [Action::Ledger(_)]));
    assert!(!machine.wants_data(), "segments wait for Resume");
    assert!(matches!(machine.on_event(now, Event::Ledger(Answer::default())).as_slice(), [Action::Send(_)]));
    assert!(machine.wants_data());
    machine
}

fn open(sequence: u64, payload_len: u64, ranges: &[Range<u64>]) -> link::SegmentOpen {
    let header = Header {
        id: SegmentId { epoch: 1, lane: Lane::BULK, sequence },
        codec: 1,
        payload_len,
        raw_len: 1,
        hash: hash(&sequence.to_le_bytes()),
        items: Counts::ZERO,
        time: TimeRange::EMPTY,
        requests: 1,
        sealed_unix_nano: 0,
        base_sequence: None,
        is_base: false,
        delivery: None,
        made_of: None,
    };
    link::SegmentOpen {
        header: Some((&header).into()),
        ranges: ranges.iter().map(|r| link::Range { start: r.start, end: r.end }).collect(),
        age_milli: Some(5_000),
    }
}

fn bytes(n: usize) -> Bytes {
    Bytes::from(vec![7; n])
}

fn batch(actions: &[Action]) -> &[Incoming] {
    let commits: Vec<_> = actions
        .iter()
        .filter_map(|a| if let Action::Commit(batch) = a { Some(batch.as_slice()) } else { None })
        .collect();
    assert!(commits.len() <= 1, "one hand-over at a time");
    commits.first().copied().unwrap_or_default()
}

fn ack(actions: &[Action]) -> link::Ack {
    for action in actions {
        if let Action::Send(link::GroundMessage { body: Some(ground_message::Body::Ack(ack)) }) = action {
            return ack.clone();
        }
    }
    panic!("no Ack in {actions:?}")
}

#[tokio::test]
async fn bytes_are_placed_by_the_ranges_of_their_stream() {
    let now = Instant::now();
    let mut m = resumed(now);
    m.on_event(now, Event::Opened(0, open(1, 500, &[100..150, 200..300])));
    // The second piece arrives first and spans both ranges.
    m.on_event(now, Event::Data(0, 40, bytes(30)));
    m.on_event(now, Event::Data(0, 0, bytes(40)));
    m.on_event(now, Event::Data(0, 70, bytes(80)));
    let actions = m.on_event(now, Event::Ended(0));
    let [incoming] = batch(&actions) else { panic!("{actions:?}") };
    let mut held = RangeSet::default();
    for piece in incoming.pieces.iter() {
        held.insert(piece.offset..piece.offset + piece.bytes.len() as u64);
    }
    assert_eq!(held.iter().collect::<Vec<_>>(), [100..150, 200..300]);
}

#[tokio::test]
async fn partials_are_synced_after_so_many_bytes_and_after_so_long() {
    let now = Instant::now();
    let mut m = resumed(now);
    let whole: &[Range<u64>] = &[0..5000];
    m.on_event(now, Event::Opened(0, open(1, 5000, whole)));
    assert!(m.on_event(now, Event::Data(0, 0, bytes(SYNC / 2))).is_empty());
    let actions = m.on_event(now, Event::Data(0, SYNC as u64 / 2, bytes(SYNC / 2)));
    assert_eq!(batch(&actions)[0].pieces[0].bytes.len(), SYNC);
    let held: RangeSet = [0..SYNC as u64].into_iter().collect();
    let actions = m.on_event(now, Event::Applied(vec![Applied::Held(held)]));
    assert_eq!(ack(&actions).partials[0].partial.as_ref().unwrap().held[0].end, SYNC as u64);

    m.on_event(now, Event::Data(0, SYNC as u64, bytes(1)));
    let due = m.deadline().unwrap();
    assert_eq!(due, now + Duration::from_secs(1));
    assert!(m.on_event(due - Duration::from_millis(1), Event::Tick).is_empty());
    assert_eq!(batch(&m.on_event(due, Event::Tick)).len(), 1);
}

#[tokio::test]
async fn what_becomes_whole_during_a_commit_is_handed_over_and_acknowledged_together() {
    let now = Instant::now();
    let mut m = resumed(now);
    for stream in 0..4 {
        m.on_event(now, Event::Opened(stream, open(stream + 1, 10, &[0..10])));
        m.on_event(now, Event::Data(stream, 0, bytes(10)));
        let actions = m.on_event(now, Event::Ended(stream));
        assert_eq!(batch(&actions).len(), usize::from(stream == 0));
    }
    let actions = m.on_event(now, Event::Applied(vec![Applied::New]));
    assert_eq!((ack(&actions).committed.len(), batch(&actions).len()), (1, 3));
    let actions = m.on_event(now, Event::Applied(vec![Applied::New, Applied::Duplicate, Applied::New]));
    assert_eq!(ack(&actions).committed.len(), 3);
    assert!(m.is_idle());
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_durable() {
    let now = Instant::now();
    let mut m = resumed(now);
    m.on_event(now, Event::Opened(0, open(1, 10, &[0..10])));
    let mut actions = m.on_event(now, Event::Data(0, 0, bytes(10)));
    actions.extend(m.on_event(now, Event::Ended(0)));
    actions.extend(m.on_event(now, Event::Lost));
    assert!(!actions.iter().any(|a| matches!(a, Action::Send(_))));
}

#[tokio::test]
async fn a_full_buffer_stops_reading_until_the_spool_has_answered() {
    let now = Instant::now();
    let mut m = resumed(now);
    m.on_event(now, Event::Opened(0, open(1, 1 << 20, &[0..1 << 20])));
    m.on_event(now, Event::Data(0, 0, bytes(SYNC)));
    m.on_event(now, Event::Data(0, SYNC as u64, bytes(SYNC)));
    assert!(!m.wants_data());
    let actions = m.on_event(now, Event::Applied(vec![Applied::Held(RangeSet::default())]));
    assert_eq!(batch(&actions).len(), 1);
    assert!(m.wants_data());
}

#[tokio::test]
async fn the_end_of_a_connection_hands_over_what_arrived() {
    let now = Instant::now();
    let mut m = resumed(now);
    m.on_event(now, Event::Opened(0, open(1, 100, &[0..100])));
    m.on_event(now, Event::Data(0, 50, bytes(20)));
    let actions = m.on_event(now, Event::Lost);
    assert_eq!(batch(&actions)[0].pieces[0].offset, 50);
}

#[tokio::test]
async fn what_comes_after_a_goodbye_is_taken_and_the_last_goodbye_counts() {
    let now = Instant::now();
    let mut m = resumed(now);
    let goodbye = |backlog_bytes| {
        let pass = Some(link::PassReport { backlog_bytes, ..link::PassReport::default() });
        let goodbye = agent_message::Body::Goodbye(link::Goodbye { pass, ..link::Goodbye::default() });
        Event::Control(link::AgentMessage { body: Some(goodbye) })
    };
    let backlog = |m: &Machine| m.haul().goodbye.as_ref().unwrap().pass.as_ref().unwrap().backlog_bytes;
    assert!(matches!(m.on_event(now, goodbye(7)).as_slice(), [Action::Send(_)]), "it is answered");
    assert!(m.wants_data());
    m.on_event(now, Event::Opened(0, open(1, 10, &[0..10])));
    m.on_event(now, Event::Data(0, 0, bytes(10)));
    assert_eq!(batch(&m.on_event(now, Event::Ended(0))).len(), 1);
    let actions = m.on_event(now, Event::Applied(vec![Applied::New]));
    assert_eq!((ack(&actions).committed.len(), backlog(&m)), (1, 7));
    assert!(m.on_event(now, goodbye(0)).is_empty(), "one answer is enough");
    assert_eq!((backlog(&m), m.haul().segments), (0, 1));
    // One that comes when this station has said that it ends counts no more than before.
    let mut m = resumed(now);
    m.on_event(now, Event::Shutdown);
    assert!(m.on_event(now, goodbye(7)).is_empty() && m.haul().goodbye.is_none());
}

#[tokio::test]
async fn a_goodbye_waits_for_what_is_under_way() {
    let now = Instant::now();
    let mut m = resumed(now);
    m.on_event(now, Event::Opened(0, open(1, 10, &[0..10])));
    m.on_event(now, Event::Data(0, 0, bytes(10)));
    let goodbye = agent_message::Body::Goodbye(link::Goodbye { reason: 3, ..link::Goodbye::default() });
    assert!(m.on_event(now, Event::Control(link::AgentMessage { body: Some(goodbye) })).is_empty());
    m.on_event(now, Event::Ended(0));
    let actions = m.on_event(now, Event::Applied(vec![Applied::New]));
    let last = actions.last().unwrap();
    let Action::Send(link::GroundMessage { body: Some(ground_message::Body::Goodbye(said)) }) = last else {
        panic!("{actions:?}")
    };
    assert_eq!(said.reason, 3);
}

#[tokio::test]
async fn what_breaks_the_protocol_closes_the_connection() {
    let now = Instant::now();
    let closed = |event: Event, mut m: Machine| {
        let actions = m.on_event(now, event);
        assert!(matches!(actions.as_slice(), [Action::Close(Close::Protocol, _)]), "{actions:?}");
    };
    closed(hello(), resumed(now));
    let drops = agent_message::Body::Drops(link::EpochDrops::default());
    closed(Event::Control(link::AgentMessage { body: Some(drops) }), machine());
    for ranges in [&[10..5][..], &[0..5, 3..8], &[0..5, 5..8], &[0..101], &[5..9, 0..2]] {
        closed(Event::Opened(0, open(1, 100, ranges)), resumed(now));
    }
    closed(Event::Opened(0, link::SegmentOpen::default()), resumed(now));
    let mut m = resumed(now);
    m.on_event(now, Event::Opened(0, open(1, 100, &[0..10])));
    closed(Event::Data(0, 5, bytes(6)), m);
    let mut m = resumed(now);
    m.on_event(now, Event::Opened(0, open(1, 100, &[0..10])));
    closed(Event::Data(0, u64::MAX, bytes(6)), m);
}

#[tokio::test]
async fn a_rejected_segment_leaves_nothing_behind() {
    let now = Instant::now();
    let mut m = resumed(now);
    m.on_event(now, Event::Opened(0, open(1, 10_000, &[0..10_000])));
    m.on_event(now, Event::Data(0, 0, bytes(SYNC)));
    m.on_event(now, Event::Data(0, SYNC as u64, bytes(10)));
    let actions = m.on_event(now, Event::Applied(vec![Applied::Rejected(RejectReason::Quota)]));
    assert!(matches!(actions.as_slice(), [Action::Send(_), Action::Stop(0)]), "{actions:?}");
    assert!(m.on_event(now, Event::Data(0, 2000, bytes(10))).is_empty());
    assert!(m.is_idle() && m.wants_data());
}

#[tokio::test]
async fn a_conflict_is_neither_acknowledged_nor_rejected() {
    let now = Instant::now();
    let mut m = resumed(now);
    m.on_event(now, Event::Opened(0, open(1, 10, &[0..10])));
    m.on_event(now, Event::Data(0, 0, bytes(10)));
    m.on_event(now, Event::Ended(0));
    let actions = m.on_event(now, Event::Applied(vec![Applied::Conflict]));
    assert!(matches!(actions.as_slice(), [Action::Conflict(_)]), "{actions:?}");
}

#[tokio::test]
async fn a_message_of_a_later_minor_version_is_ignored() {
    let now = Instant::now();
    let mut m = resumed(now);
    assert!(m.on_event(now, Event::Control(link::AgentMessage { body: None })).is_empty());
    assert!(m.wants_data());
}

#[tokio::test]
async fn a_message_that_names_too_much_closes_its_link_before_anything_is_looked_up() {
    let now = Instant::now();
    let lane = |lane| link::Lane { lane, ..link::Lane::default() };
    let epoch = |epoch: u64| link::Epoch { epoch, ..link::Epoch::default() };
    let lanes = |lanes: Vec<link::Lane>| vec![link::Epoch { lanes, ..epoch(1) }];
    let drop = |id| link::Drop { id, ..link::Drop::default() };
    for (epochs, taken) in [
        (lanes(vec![lane(1), lane(8)]), true),
        (lanes(vec![lane(8), lane(8)]), false),
        (lanes(vec![lane(256)]), false),
        (vec![epoch(1), epoch(1)], false),
    ] {
        let hello = link::Hello { satellite: "sat-1".to_owned(), epochs, ..link::Hello::default() };
        let body = Some(agent_message::Body::Hello(hello));
        let actions = machine().on_event(now, Event::Control(link::AgentMessage { body }));
        let closed = matches!(actions.as_slice(), [Action::Close(Close::Protocol, _)]);
        assert_eq!(closed, !taken, "{actions:?}");
    }
    let mut m = resumed(now);
    let drops = link::EpochDrops { epoch: 1, drops: (0..DROPS as u64).map(drop).collect() };
    let told = || {
        let body = Some(agent_message::Body::Drops(drops.clone()));
        Event::Control(link::AgentMessage { body })
    };
    for _ in 0..bounds::DROPS_WAITING / DROPS {
        assert!(matches!(m.on_event(now, told()).as_slice(), [Action::Drops(_)]));
    }
    assert!(matches!(m.on_event(now, told()).as_slice(), [Action::Close(Close::Protocol, _)]));
    let mut m = resumed(now);
    let most: Vec<_> = (0..SEGMENT_RANGES as u64).map(|n| 2 * n..2 * n + 1).collect();
    for n in 0..bounds::OPEN_RANGES / SEGMENT_RANGES {
        let opened = m.on_event(now, Event::Opened(n as u64, open(n as u64 + 1, 1 << 20, &most)));
        assert!(opened.is_empty(), "{opened:?}");
    }
    let opened = m.on_event(now, Event::Opened(99, open(99, 1 << 20, &most)));
    assert!(matches!(opened.as_slice(), [Action::Close(Close::Protocol, _)]));
}

#[test]
fn a_station_that_ends_while_the_ledger_is_asked_says_goodbye_and_no_resume() {
    let (mut machine, now) = (machine(), Instant::now());
    machine.on_event(now, hello());
    assert!(matches!(machine.on_event(now, Event::Shutdown).as_slice(), [Action::Send(_)]));
    assert!(machine.on_event(now, Event::Ledger(Answer::default())).is_empty());
}
