//! Messages between this software and that of other times: what an earlier one says lacks fields, and what a later one says has more.

use formats::fixture::{path, read};
use perigee_proto::link::*;
use perigee_shared::otlp::protobuf::{put_bytes, put_tag, put_varint, varint};
use prost::Message;

/// Hello of the first version, without what it shares with today's in messages that have not changed.
#[derive(Clone, PartialEq, Message)]
struct FirstHello {
    #[prost(string, tag = "1")]
    satellite: String,
    #[prost(string, tag = "2")]
    software: String,
    #[prost(uint32, tag = "3")]
    minor_version: u32,
    #[prost(uint32, repeated, tag = "4")]
    codecs: Vec<u32>,
    #[prost(string, tag = "5")]
    contact: String,
    #[prost(message, repeated, tag = "7")]
    passes: Vec<FirstReport>,
}

/// The same of a report of a pass.
#[derive(Clone, PartialEq, Message)]
struct FirstReport {
    #[prost(string, tag = "1")]
    station: String,
    #[prost(fixed64, tag = "2")]
    start_unix_nano: u64,
    #[prost(fixed64, tag = "3")]
    end_unix_nano: u64,
    #[prost(uint64, tag = "4")]
    planned_bytes: u64,
    #[prost(uint64, tag = "5")]
    achieved_bytes: u64,
}

/// The same of Resume.
#[derive(Clone, PartialEq, Message)]
struct FirstResume {
    #[prost(string, tag = "1")]
    software: String,
    #[prost(string, tag = "2")]
    station: String,
    #[prost(uint32, tag = "3")]
    minor_version: u32,
    #[prost(uint32, repeated, tag = "4")]
    codecs: Vec<u32>,
}

/// The same of Goodbye.
#[derive(Clone, PartialEq, Message)]
struct FirstGoodbye {
    #[prost(int32, tag = "1")]
    reason: i32,
}

/// The same of what opens a segment's stream, and of its header.
#[derive(Clone, PartialEq, Message)]
struct FirstOpen {
    #[prost(message, optional, tag = "1")]
    header: Option<FirstHeader>,
    #[prost(message, repeated, tag = "2")]
    ranges: Vec<Range>,
}

#[derive(Clone, PartialEq, Message)]
struct FirstHeader {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(message, optional, tag = "3")]
    id: Option<SegmentId>,
    #[prost(uint64, tag = "4")]
    payload_len: u64,
    #[prost(bytes = "vec", tag = "6")]
    payload_hash: Vec<u8>,
}

fn report() -> PassReport {
    PassReport {
        station: "svalbard".to_owned(),
        start_unix_nano: 1,
        end_unix_nano: 2,
        planned_bytes: 3,
        achieved_bytes: 4,
        state: PassState::Cut.into(),
        connect_nano: 5,
        held_bytes: 6,
        sent_packets: 7,
        lost_packets: 8,
        round_trip_nano: 9,
        ..PassReport::default()
    }
}

fn first_report() -> FirstReport {
    FirstReport {
        station: "svalbard".to_owned(),
        start_unix_nano: 1,
        end_unix_nano: 2,
        planned_bytes: 3,
        achieved_bytes: 4,
    }
}

#[test]
fn what_is_said_today_is_read_by_the_first_version() {
    let clock = Clock { unix_nano: 1, boot_id: 2, since_boot_nano: 3, untrusted: "no".to_owned() };
    let hello = Hello {
        satellite: "sat-1".to_owned(),
        software: "space-agent 9".to_owned(),
        minor_version: 1,
        codecs: vec![1, 2, 3],
        contact: "svalbard".to_owned(),
        passes: vec![report()],
        clock: Some(clock.clone()),
        backlog: vec![LaneBacklog { lane: 8, bytes: 5, ..LaneBacklog::default() }],
        plan: Some(Plan { source: "plan".to_owned(), ..Plan::default() }),
        agent: Some(AgentState { resident_bytes: 7, ..AgentState::default() }),
        contact_start_unix_nano: 4,
        contact_end_unix_nano: 5,
        orbit: Some(Orbit { name: "SAT".to_owned(), ..Orbit::default() }),
        slot: 1,
        ..Hello::default()
    };
    let first = FirstHello {
        satellite: "sat-1".to_owned(),
        software: "space-agent 9".to_owned(),
        minor_version: 1,
        codecs: vec![1, 2, 3],
        contact: "svalbard".to_owned(),
        passes: vec![first_report()],
    };
    assert_eq!(FirstHello::decode(hello.encode_to_vec().as_slice()).unwrap(), first);
    let resume = Resume {
        software: "ground-station 9".to_owned(),
        station: "svalbard".to_owned(),
        minor_version: 1,
        codecs: vec![1, 2, 3],
        ledger: 4,
        start_counter: 5,
        clock: Some(clock),
        ..Resume::default()
    };
    let first = FirstResume {
        software: "ground-station 9".to_owned(),
        station: "svalbard".to_owned(),
        minor_version: 1,
        codecs: vec![1, 2, 3],
    };
    assert_eq!(FirstResume::decode(resume.encode_to_vec().as_slice()).unwrap(), first);
    let goodbye =
        Goodbye { reason: GoodbyeReason::ContactEnd.into(), pass: Some(report()), backlog: hello.backlog };
    let first = FirstGoodbye { reason: GoodbyeReason::ContactEnd.into() };
    assert_eq!(FirstGoodbye::decode(goodbye.encode_to_vec().as_slice()).unwrap(), first);
    let header = SegmentHeader {
        format: 1,
        payload_len: 3,
        payload_hash: vec![7; 32],
        delivery: Delivery::Live.into(),
        ..SegmentHeader::default()
    };
    let ranges = vec![Range { start: 0, end: 3 }];
    let open = SegmentOpen { header: Some(header), ranges, age_milli: Some(7) };
    let first = FirstHeader { format: 1, id: None, payload_len: 3, payload_hash: vec![7; 32] };
    let first = FirstOpen { header: Some(first), ranges: open.ranges.clone() };
    assert_eq!(FirstOpen::decode(open.encode_to_vec().as_slice()).unwrap(), first);
    // A ground of the first version keeps what it knows of the header, and a later one finds nothing said there.
    let kept = SegmentOpen::decode(first.encode_to_vec().as_slice()).unwrap();
    assert_eq!((kept.age_milli, kept.header.unwrap().delivery()), (None, Delivery::Unspecified));
}

#[test]
fn what_the_first_version_says_is_read_today_and_what_it_does_not_say_is_absent() {
    let first =
        FirstHello { satellite: "sat-1".to_owned(), passes: vec![first_report()], ..FirstHello::default() };
    let hello = Hello::decode(first.encode_to_vec().as_slice()).unwrap();
    let report = PassReport {
        station: "svalbard".to_owned(),
        start_unix_nano: 1,
        end_unix_nano: 2,
        planned_bytes: 3,
        achieved_bytes: 4,
        ..PassReport::default()
    };
    assert_eq!(report.state(), PassState::Unspecified);
    let expected = Hello { satellite: "sat-1".to_owned(), passes: vec![report], ..Hello::default() };
    assert_eq!(hello, expected);
    assert!(hello.clock.is_none() && hello.plan.is_none() && hello.agent.is_none() && hello.orbit.is_none());
    let first = FirstResume { station: "svalbard".to_owned(), codecs: vec![1], ..FirstResume::default() };
    let resume = Resume::decode(first.encode_to_vec().as_slice()).unwrap();
    assert_eq!((resume.ledger, resume.start_counter, resume.clock), (0, 0, None));
    let first = FirstGoodbye { reason: GoodbyeReason::Shutdown.into() };
    let goodbye = Goodbye::decode(first.encode_to_vec().as_slice()).unwrap();
    assert_eq!(
        (goodbye.reason(), goodbye.pass, goodbye.backlog),
        (GoodbyeReason::Shutdown, None, Vec::new())
    );
}

/// `message` and what a later version says beside it: a number, eight bytes, four bytes, and a message.
fn with_more(message: &[u8]) -> Vec<u8> {
    let mut out = message.to_vec();
    put_tag(&mut out, 2001, 0);
    put_varint(&mut out, u64::MAX);
    put_tag(&mut out, 2002, 1);
    out.extend([0xff; 8]);
    put_tag(&mut out, 2003, 5);
    out.extend([0xff; 4]);
    put_bytes(&mut out, 2004, b"\x08\x01");
    out
}

/// Each message that is pinned, with more in its body and around it, reads as it does without.
#[test]
fn what_a_later_version_says_beside_is_passed_over() {
    let mut looked = 0;
    for entry in std::fs::read_dir(path("link")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // The length is not of interest.
        let message = &read(&format!("link/{name}")).unwrap()[4..];
        match name.split(['-', '.']).next().unwrap() {
            "hello" | "drops" | "agent" => assert_passed_over::<AgentMessage>(&name, message),
            "resume" | "ack" | "reject" | "ground" => assert_passed_over::<GroundMessage>(&name, message),
            _ => continue,
        }
        looked += 1;
    }
    assert!(looked > 20, "{looked}");
}

/// `message` has one field, its body.
fn assert_passed_over<M: Message + Default + PartialEq + std::fmt::Debug>(name: &str, message: &[u8]) {
    let (tag, at) = varint(message).unwrap();
    let (length, more) = varint(&message[at..]).unwrap();
    let body = &message[at + more..];
    assert_eq!((tag & 7, length as usize), (2, body.len()), "{name}");
    let mut later = Vec::new();
    put_bytes(&mut later, (tag >> 3) as u32, &with_more(body));
    let later = with_more(&later);
    assert_eq!(M::decode(later.as_slice()).unwrap(), M::decode(message).unwrap(), "{name}");
}
