//! The protocol machine, driven by hand.

use perigee_proto::link::{self, Ack, CommittedRange, Epoch, Partial, Reject, ResumeEpoch, ResumeLane};
use perigee_shared::segment::hash;
use perigee_shared::signal::{Counts, TimeRange};
use prost::Message;

use super::*;

const EPOCH: u64 = 9;
const WHOLE: &[Range<u64>] = &[Range { start: 0, end: 1000 }];

fn header(sequence: u64) -> Header {
    Header {
        id: SegmentId { epoch: EPOCH, lane: Lane::BULK, sequence },
        codec: 1,
        payload_len: 1000,
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
    }
}

#[test]
fn of_a_new_budget_what_was_sent_is_taken_off() {
    let mut session = session();
    session.on_event(Event::Budget(Some(Budget::new(1500))));
    session.on_event(Event::Connected);
    let actions = session.on_event(fetched(vec![(header(0), true), (header(1), true), (header(2), true)]));
    let bytes = |actions: &[Action]| -> u64 {
        written(actions).iter().flat_map(|(_, ranges)| ranges).map(|r| r.end - r.start).sum()
    };
    assert_eq!(bytes(&actions), 1500);
    let spent = session.standing().budget.map(Budget::spent);
    assert_eq!(spent, Some(1500));
    let mut more = session.on_event(Event::Budget(Some(Budget::new(2000).less(1500))));
    more.extend(session.on_event(Event::Written(header(0).id)));
    more.extend(session.on_event(Event::Written(header(1).id)));
    assert_eq!(bytes(&more), 500, "{more:?}");
    assert_eq!(Budget::new(1000).less(1500).spent(), 1000, "a smaller one is spent");
}

fn session() -> Session {
    let epochs = vec![Epoch { epoch: EPOCH, ..Epoch::default() }];
    Session::new(Hello { epochs, ..Hello::default() }, None, Gained::default(), &Lanes::default())
}

fn fetched(headers: Vec<(Header, bool)>) -> Event {
    let looked = headers.iter().map(|(h, _)| h.id.sequence..h.id.sequence + 1).collect();
    Event::Fetched { lane: Lane::BULK, found: ToShip { headers, looked, ..ToShip::default() } }
}

fn written(actions: &[Action]) -> Vec<(u64, Vec<Range<u64>>)> {
    let write = |a: &Action| match a {
        Action::Write { header, ranges, .. } => Some((header.id.sequence, ranges.clone())),
        _ => None,
    };
    actions.iter().filter_map(write).collect()
}

fn resume(committed: Range<u64>, partial: Option<(u64, Hash, Range<u64>)>) -> Event {
    let lane = ResumeLane {
        lane: u32::from(Lane::BULK.0),
        committed: vec![CommittedRange {
            sequences: Some(link::Range { start: committed.start, end: committed.end }),
            top_hash: hash(&(committed.end - 1).to_le_bytes()).to_vec(),
            ..CommittedRange::default()
        }],
        partials: partial
            .into_iter()
            .map(|(sequence, hash, held)| Partial {
                sequence,
                payload_hash: hash.to_vec(),
                held: vec![link::Range { start: held.start, end: held.end }],
            })
            .collect(),
    };
    let epochs = vec![ResumeEpoch {
        epoch: EPOCH,
        lanes: vec![lane],
        drops_acknowledged: vec![3],
        ..ResumeEpoch::default()
    }];
    let body = ground_message::Body::Resume(Resume { epochs, ..Resume::default() });
    Event::Message(GroundMessage { body: Some(body) })
}

fn committed(sequence: u64) -> Event {
    let ack = Ack { committed: vec![header(sequence).id.into()], ..Ack::default() };
    Event::Message(GroundMessage { body: Some(ground_message::Body::Ack(ack)) })
}

fn believed(committed: Range<u64>) -> Event {
    let committed = [(Lane::BULK, std::iter::once(committed).collect())].into();
    Event::Reconciled(Reconciled::Believed { committed, deleted: 0 })
}

#[test]
fn a_segment_that_the_ground_only_claims_to_have_is_sent() {
    let mut s = session();
    s.on_event(Event::Connected);
    s.on_event(fetched(vec![(header(1), false), (header(2), false)]));
    s.on_event(resume(1..3, None));
    let actions = s.on_event(believed(2..3));
    assert_eq!(written(&actions), [(1, WHOLE.to_vec())]);
}

#[test]
fn a_segment_that_was_never_on_a_wire_does_not_wait_for_resume() {
    let mut s = session();
    assert!(matches!(s.on_event(Event::Connected)[..], [Action::Send(_), Action::Fetch { .. }]));
    let headers = vec![(header(1), false), (header(2), true)];
    let actions = s.on_event(fetched(headers));
    assert_eq!(written(&actions), [(2, WHOLE.to_vec())]);
    let actions = s.on_event(resume(0..1, None));
    assert!(actions.contains(&Action::DropsKnown {
        ack: DropsAck { epoch: EPOCH, ids: vec![3], overridden: vec![] },
        highest: None
    }));
    let actions = s.on_event(believed(0..0));
    assert_eq!(written(&actions), [(1, WHOLE.to_vec())]);
}

#[test]
fn a_partial_is_resumed_where_the_ground_stopped_and_only_if_it_is_the_same() {
    for (held_hash, expected) in [(header(2).hash, 400..1000), (hash(b"other"), 0..1000)] {
        let mut s = session();
        s.on_event(Event::Connected);
        s.on_event(fetched(vec![(header(1), false), (header(2), false)]));
        s.on_event(resume(1..2, Some((2, held_hash, 0..400))));
        let actions = s.on_event(believed(1..2));
        assert_eq!(written(&actions), [(2, vec![expected])], "segment 1 is committed and not sent again");
    }
}

#[test]
fn two_segments_are_written_at_a_time_and_an_ack_passes_them() {
    let mut s = session();
    s.on_event(Event::Connected);
    let headers = (1..=4).map(|n| (header(n), true)).collect();
    let actions = s.on_event(fetched(headers));
    assert_eq!(written(&actions).len(), 2);
    assert_eq!(written(&s.on_event(Event::Written(header(1).id))), [(3, WHOLE.to_vec())]);
    assert!(!s.is_idle());
    assert!(s.on_event(committed(1)).contains(&Action::Committed { ids: vec![header(1).id], bytes: 1000 }));
    let actions = s.on_event(Event::End(Some(Box::default())));
    assert!(matches!(actions[..], [Action::Send(_)]));
    assert!(written(&s.on_event(Event::Written(header(2).id))).is_empty(), "nothing new after the end");
    s.on_event(Event::Written(header(3).id));
    s.on_event(committed(2));
    s.on_event(committed(3));
    assert!(s.is_idle());
}

#[test]
fn the_last_word_is_said_once_and_a_session_is_quiet_when_nothing_is_under_way() {
    let mut s = session();
    s.on_event(Event::Connected);
    s.on_event(fetched(vec![(header(1), true)]));
    assert!(!s.is_quiet());
    s.on_event(Event::Written(header(1).id));
    s.on_event(committed(1));
    assert!(!s.is_quiet(), "the ground has not said what it has");
    s.on_event(resume(0..1, None));
    s.on_event(believed(0..1));
    assert!(s.is_quiet());
    s.on_event(Event::Sealed);
    assert!(!s.is_quiet(), "the log is asked");
    s.on_event(fetched(vec![(header(2), true)]));
    assert!(!s.is_written());
    s.on_event(Event::Written(header(2).id));
    assert!(s.is_written() && !s.is_quiet(), "it is not on the ground");
    s.on_event(committed(2));
    assert!(s.is_quiet() && !s.standing().is_over);
    assert_eq!(s.on_event(Event::End(None)), [], "it was said before");
    assert!(s.standing().is_over);
    assert_eq!(s.on_event(Event::End(Some(Box::default()))), []);
}

#[test]
fn a_mismatch_is_verified_and_sent_once_more() {
    let mut s = session();
    s.on_event(Event::Connected);
    s.on_event(fetched(vec![(header(1), true)]));
    s.on_event(Event::Written(header(1).id));
    let reject = Reject { segment: Some(header(1).id.into()), reason: RejectReason::HashMismatch as i32 };
    let reject = || Event::Message(GroundMessage { body: Some(ground_message::Body::Reject(reject)) });
    assert!(s.on_event(reject()).contains(&Action::Verify(header(1).id)));
    let actions = s.on_event(Event::Verified { id: header(1).id, whole: true });
    assert_eq!(actions, [Action::Fetch { lane: Lane::BULK, taken: RangeSet::default(), smaller: None }]);
    let actions = s.on_event(fetched(vec![(header(1), false)]));
    assert!(written(&actions).is_empty(), "it was on a wire, so it waits for Resume");
}

#[test]
fn a_segment_that_was_encoded_anew_after_it_was_fetched_is_fetched_once_more() {
    let mut s = session();
    s.on_event(Event::Connected);
    assert_eq!(written(&s.on_event(fetched(vec![(header(1), true)]))), [(1, WHOLE.to_vec())]);
    let actions = s.on_event(Event::Changed(header(1).id));
    assert_eq!(actions, [Action::Fetch { lane: Lane::BULK, taken: RangeSet::default(), smaller: None }]);
    let anew = Header { payload_len: 700, hash: hash(b"anew"), ..header(1) };
    assert_eq!(written(&s.on_event(fetched(vec![(anew, true)]))), [(1, vec![Range { start: 0, end: 700 }])]);
}

#[test]
fn what_the_ground_could_not_read_is_encoded_anew_before_it_is_sent_and_costs_no_budget() {
    let mut s = session();
    s.on_event(Event::Connected);
    s.on_event(believed(0..0));
    s.on_event(Event::Budget(Some(Budget::new(1500))));
    s.on_event(fetched(vec![(header(2), false)]));
    let id = header(2).id;
    let actions = s.on_event(Event::Unreadable(id));
    assert!(actions.contains(&Action::Recode { id, codec: Codec::Columns }), "{actions:?}");
    assert_eq!(written(&actions), []);
    s.on_event(Event::Recoded { id, done: true });
    let anew = Header { payload_len: 1500, hash: hash(b"anew"), ..header(2) };
    assert_eq!(
        written(&s.on_event(fetched(vec![(anew, false)]))),
        [(2, vec![Range { start: 0, end: 1500 }])]
    );
}

#[test]
fn what_is_under_way_in_another_slot_is_not_sent_and_goes_on_where_the_ledger_has_it() {
    let mut s = Session::new(
        Hello { epochs: vec![Epoch { epoch: EPOCH, ..Epoch::default() }], ..Hello::default() },
        Some(Budget::new(1500)),
        Gained::default(),
        &Lanes::default(),
    );
    s.on_event(Event::Connected);
    s.on_event(fetched((1..=3).map(|n| (header(n), true)).collect()));
    let spent = |s: &Session| s.standing().budget.map(Budget::spent);
    assert_eq!(spent(&s), Some(1500));
    // No byte of segments 1 and 2 was sent: the whole of segment 3 fits into the budget.
    let actions = s.on_event(Event::Elsewhere(header(2).id));
    assert_eq!(written(&actions), [(3, vec![Range { start: 0, end: 500 }])]);
    s.on_event(Event::Elsewhere(header(1).id));
    assert!(s.standing().is_elsewhere && spent(&s) == Some(500));
    s.on_event(Event::Written(header(3).id));
    assert!(!s.on_event(committed(3)).iter().any(|a| matches!(a, Action::Fetch { .. })), "nothing is free");
    // The other connection has ended: its ledger has a part of 1.
    s.on_event(Event::Left([(header(1).id, (header(1).hash, std::iter::once(0..300).collect()))].into()));
    let actions = s.on_event(Event::Sealed);
    let taken = std::iter::once(3..4).collect();
    assert_eq!(
        actions,
        [Action::Fetch { lane: Lane::BULK, taken, smaller: None }],
        "1 and 2 are asked for again"
    );
    let actions = s.on_event(fetched(vec![(header(1), true), (header(2), true)]));
    let rest = |start, end| vec![Range { start, end }];
    assert_eq!(written(&actions), [(1, rest(300, 1000)), (2, rest(0, 300))]);
    assert!(!s.standing().is_elsewhere);
}

#[test]
fn parts_of_segments_that_nobody_sent_take_no_memory() {
    let mut s = session();
    s.on_event(Event::Connected);
    s.on_event(fetched(vec![(header(1), true)]));
    (1..100).for_each(|n| drop(s.on_event(holds(n, 0..500))));
    assert_eq!(s.into_gained().2.into_keys().collect::<Vec<_>>(), [header(1).id]);
}

#[test]
fn a_ground_without_room_is_sent_nothing_more() {
    let mut s = session();
    s.on_event(Event::Connected);
    s.on_event(fetched((1..=3).map(|n| (header(n), true)).collect()));
    let reject = Reject { segment: Some(header(1).id.into()), reason: RejectReason::Quota as i32 };
    s.on_event(Event::Message(GroundMessage { body: Some(ground_message::Body::Reject(reject)) }));
    assert!(written(&s.on_event(Event::Written(header(2).id))).is_empty());
}

#[test]
fn a_byte_budget_ends_what_is_begun() {
    let mut s = Session::new(Hello::default(), Some(Budget::new(1500)), Gained::default(), &Lanes::default());
    s.on_event(Event::Connected);
    let headers = (1..=4).map(|n| (header(n), true)).collect();
    let begun = written(&s.on_event(fetched(headers)));
    assert_eq!(begun.len(), 2);
    assert_eq!((begun[0].1.as_slice(), begun[1].1.first()), (WHOLE, Some(&(0..500))));
    assert!(written(&s.on_event(Event::Written(header(1).id))).is_empty());
}

#[test]
fn a_part_of_the_budget_is_kept_for_what_is_urgent() {
    let alarms = br#"[[1, {"severity": "error"}]]"#;
    let rules = crate::lanes::Rules::from_bytes(alarms).expect("rules").into();
    let policies = [(Lane(1), crate::lanes::Policy::default())].into();
    let lanes = Lanes { rules, policies, ..Lanes::default() };
    let mut s = Session::new(Hello::default(), Some(Budget::new(2000)), Gained::default(), &lanes);
    s.on_event(Event::Connected);
    let begun = written(&s.on_event(fetched((1..=4).map(|n| (header(n), true)).collect())));
    // Of 2,000 bytes bulk may have 1,800.
    assert_eq!((begun.len(), begun[1].1.first()), (2, Some(&(0..800))));
    s.on_event(Event::Written(header(1).id));
    assert!(written(&s.on_event(Event::Written(header(2).id))).is_empty());
    assert!(s.standing().budget.is_some_and(Budget::is_spent));
    let mut alarm = header(1);
    alarm.id.lane = Lane(1);
    let headers = vec![(alarm.clone(), true)];
    let found = ToShip { headers, ..ToShip::default() };
    let begun = written(&s.on_event(Event::Fetched { lane: Lane(1), found }));
    assert_eq!((begun[0].0, begun[0].1.first()), (alarm.id.sequence, Some(&(0..200))));
}

fn holds(sequence: u64, held: Range<u64>) -> Event {
    let partial = Partial {
        sequence,
        payload_hash: header(sequence).hash.to_vec(),
        held: vec![link::Range { start: held.start, end: held.end }],
    };
    let partial = link::PartialAck { epoch: EPOCH, lane: u32::from(Lane::BULK.0), partial: Some(partial) };
    let ack = Ack { partials: vec![partial], ..Ack::default() };
    Event::Message(GroundMessage { body: Some(ground_message::Body::Ack(ack)) })
}

#[test]
fn what_the_ground_has_gained_counts_once_over_the_connections_of_a_contact() {
    let mut s = session();
    s.on_event(Event::Connected);
    s.on_event(fetched(vec![(header(1), false), (header(2), false), (header(3), true)]));
    assert!(!s.standing().is_drained);
    // Of segment 2 it held 400 bytes before this contact.
    s.on_event(resume(0..1, Some((2, header(2).hash, 0..400))));
    s.on_event(believed(0..0));
    s.on_event(committed(1));
    s.on_event(holds(2, 0..700));
    s.on_event(holds(2, 0..700));
    assert_eq!(s.standing().held, 1000 + 300);

    // The connection is lost. What it has kept besides, Resume says.
    let epochs = vec![Epoch { epoch: EPOCH, ..Epoch::default() }];
    let hello = Hello { epochs, ..Hello::default() };
    let mut s = Session::new(hello, None, s.into_gained().0, &Lanes::default());
    s.on_event(Event::Connected);
    s.on_event(resume(1..2, Some((2, header(2).hash, 0..900))));
    assert_eq!(s.standing().held, 1000 + 500);
    s.on_event(fetched(vec![(header(2), false)]));
    s.on_event(believed(0..0));
    s.on_event(Event::Written(header(2).id));
    s.on_event(committed(2));
    s.on_event(resume(3..4, None));
    s.on_event(believed(3..4));
    assert_eq!(s.standing().held, 2000 + 600, "3 was committed and never acknowledged");
    assert!(s.standing().is_drained);
}

#[test]
fn a_ground_that_rejects_what_it_was_not_sent_or_answers_again_costs_nothing() {
    let mut session = session();
    session.on_event(Event::Connected);
    for reason in [
        RejectReason::HashMismatch,
        RejectReason::MissingBase,
        RejectReason::UnknownCodec,
        RejectReason::Quota,
        RejectReason::Unspecified,
    ] {
        for sequence in 0..1_000 {
            let segment = Some(header(sequence).id.into());
            let body = ground_message::Body::Reject(Reject { segment, reason: reason.into() });
            assert_eq!(session.on_event(Event::Message(GroundMessage { body: Some(body) })), []);
        }
    }
    assert!(session.recoded.is_empty() && session.resent_once.is_empty() && !session.refused);
    let reconciles = |actions: Vec<Action>| actions.iter().any(|a| matches!(a, Action::Reconcile(_)));
    assert!(reconciles(session.on_event(resume(0..1, None))));
    assert_eq!(session.on_event(resume(0..2, None)), [], "the second is not looked at");
}

#[test]
fn a_ground_that_contradicts_the_log_too_often_is_left_alone() {
    let mut session = session();
    session.on_event(Event::Connected);
    let rest = Duration::from_secs(60);
    let actions = session.on_event(Event::Reconciled(Reconciled::Refused(rest)));
    assert_eq!(actions, [Action::LeaveAlone(rest)]);
}

/// A session of a pass that carries so many bytes, after Resume, with these segments in the log.
fn in_pass(
    waits: Waits,
    room: u64,
    partials: &[(u64, Range<u64>)],
    on_board: &[Header],
) -> (Session, Vec<Action>) {
    let mut s = session().waiting(waits);
    s.set_room(Some(room));
    s.on_event(Event::Connected);
    s.on_event(fetched(Vec::new()));
    s.on_event(resume(0..1, None));
    for (sequence, held) in partials {
        let header = on_board.iter().find(|h| h.id.sequence == *sequence).unwrap();
        s.partials.insert(header.id, (header.hash, std::iter::once(held.clone()).collect()));
    }
    s.on_event(believed(0..1));
    s.on_event(Event::Sealed);
    let actions = s.on_event(fetched(on_board.iter().map(|h| (h.clone(), true)).collect()));
    (s, actions)
}

fn sized(sequence: u64, payload_len: u64) -> Header {
    Header { payload_len, ..header(sequence) }
}

/// The order in which segments are begun, and whether they are late, when each is on the ground before the next is begun.
fn begun(s: &mut Session, actions: Vec<Action>) -> Vec<(u64, bool)> {
    let (mut actions, mut out) = (std::collections::VecDeque::from(actions), Vec::new());
    while let Some(action) = actions.pop_front() {
        if let Action::Write { header, late, .. } = action {
            out.push((header.id.sequence, late));
            if !late && header.payload_len == 1000 {
                actions.extend(s.on_event(Event::Written(header.id)));
                actions.extend(s.on_event(committed(header.id.sequence)));
            }
        }
    }
    out
}

#[test]
fn what_a_pass_would_not_finish_waits_for_smaller_ones_and_has_its_turn_in_the_third() {
    let mut waited = crate::shipper::waits::Waited::default();
    let large = sized(1, 50_000);
    let mut order = Vec::new();
    for pass in 0..7 {
        let small = (2 + pass * 3..5 + pass * 3).map(header);
        let on_board: Vec<Header> = std::iter::once(large.clone()).chain(small).collect();
        let (mut s, actions) = in_pass(waited.begin(), 10_000, &[(1, 0..pass * 7_000)], &on_board);
        // The large one is 0, the small ones are 1 to 3.
        let name = |n: u64| if n == 1 { 0 } else { n - 1 - pass * 3 };
        let begun = begun(&mut s, actions);
        let late = begun.iter().filter(|(_, late)| *late).map(|(n, _)| name(*n)).collect();
        order.push((begun.iter().map(|(n, _)| name(*n)).collect(), late));
        waited.end(s.into_gained().1);
    }
    // While there is no smaller one it goes too, behind what comes later.
    let waits: (Vec<u64>, Vec<u64>) = (vec![1, 2, 3, 0], vec![0]);
    // It takes all of the pass.
    let turn = (vec![0, 1], vec![1]);
    // In the seventh pass the ground holds 42,000 bytes of it: it is finished, and two small ones are.
    let last = (vec![0, 1, 2, 3], vec![3]);
    assert_eq!(order, [waits.clone(), waits.clone(), turn.clone(), waits.clone(), waits, turn, last]);
}

#[test]
fn a_smaller_segment_is_looked_for_in_the_log_before_a_large_one_is_begun() {
    let found = |headers: Vec<Header>| {
        let looked = headers.iter().map(|h| h.id.sequence..h.id.sequence + 1).collect();
        let headers = headers.into_iter().map(|h| (h, true)).collect();
        Event::Fetched {
            lane: Lane::BULK,
            found: ToShip { headers, looked, more: true, ..ToShip::default() },
        }
    };
    let mut s = session();
    s.set_room(Some(10_000));
    s.on_event(Event::Connected);
    let asked = |actions: &[Action]| {
        actions.iter().find_map(|a| match a {
            Action::Fetch { smaller: Some(smaller), .. } => Some(smaller.bytes),
            _ => None,
        })
    };
    let actions = s.on_event(found(vec![sized(1, 50_000), sized(2, 60_000)]));
    assert_eq!((written(&actions), asked(&actions)), (vec![], Some(10_000)));
    let actions = s.on_event(found(vec![sized(40, 9_000)]));
    assert_eq!((written(&actions)[0].0, asked(&actions)), (40, Some(1_000)), "the rest may carry another");
    let actions = s.on_event(found(Vec::new()));
    assert_eq!((written(&actions)[0].0, asked(&actions)), (1, None), "there is none");
    s.on_event(Event::Written(header(40).id));
    assert!(written(&s.on_event(committed(40))).is_empty(), "the log is asked for what is next");
    let actions = s.on_event(found(Vec::new()));
    assert_eq!((written(&actions)[0].0, asked(&actions)), (2, None), "it has none");
}

#[test]
fn what_comes_in_the_pass_goes_before_a_large_segment_that_was_begun_for_want_of_a_smaller_one() {
    let (mut s, actions) = in_pass(Waits::default(), 10_000, &[], &[sized(1, 50_000), sized(2, 60_000)]);
    assert_eq!(begun(&mut s, actions), [(1, true), (2, true)]);
    s.on_event(Event::Written(header(2).id));
    s.on_event(Event::Sealed);
    let actions = s.on_event(fetched(vec![(sized(3, 6_000), true)]));
    assert_eq!(begun(&mut s, actions), [(3, false)]);
    s.on_event(Event::Written(header(3).id));
    s.on_event(Event::Sealed);
    let actions = s.on_event(fetched(vec![(sized(4, 6_000), true)]));
    assert_eq!(begun(&mut s, actions), [(4, true)], "it would not be finished behind the one before");
}

#[test]
fn a_large_segment_is_not_begun_before_resume_where_another_may_be_finished() {
    let mut s = session();
    s.set_room(Some(10_000));
    s.on_event(Event::Connected);
    let (part, fresh) = (sized(1, 50_000), sized(2, 50_000));
    assert!(written(&s.on_event(fetched(vec![(part.clone(), false), (fresh, true)]))).is_empty());
    s.on_event(resume(0..1, Some((1, part.hash, 0..45_000))));
    let actions = s.on_event(believed(0..1));
    let rest = |n: u64, range: Range<u64>| (n, vec![range]);
    assert_eq!(written(&actions), [rest(1, 45_000..50_000), rest(2, 0..50_000)]);
    assert!(matches!(actions[0], Action::Write { late: false, .. }));
    assert!(matches!(actions[1], Action::Write { late: true, .. }));
    // Where nothing is known of the rest of the pass, everything goes in its order.
    let mut s = session();
    s.on_event(Event::Connected);
    let actions = s.on_event(fetched(vec![(sized(1, 1 << 40), true), (header(2), true)]));
    assert_eq!(written(&actions).iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2]);
}

/// A ground of the first version names no ledger, has no clock and acknowledges segments alone; one of a later version says more than this
/// software knows.
#[test]
fn grounds_of_other_versions_are_served() {
    let body = |s: &Event| match s {
        Event::Message(message) => message.encode_to_vec(),
        other => panic!("{other:?}"),
    };
    // Field 2000 of the whole and of its body, with a number.
    let later = |message: Vec<u8>| {
        use perigee_shared::otlp::protobuf::{put_bytes, put_tag, put_varint, varint};
        let more = |mut bytes: Vec<u8>| {
            put_tag(&mut bytes, 2000, 0);
            put_varint(&mut bytes, 7);
            bytes
        };
        let (tag, at) = varint(&message).unwrap();
        let length = varint(&message[at..]).unwrap().1;
        let mut out = Vec::new();
        put_bytes(&mut out, (tag >> 3) as u32, &more(message[at + length..].to_vec()));
        more(out)
    };
    for is_later in [false, true] {
        let said = |event: &Event| {
            let bytes = body(event);
            let bytes = if is_later { later(bytes) } else { bytes };
            Event::Message(GroundMessage::decode(bytes.as_slice()).unwrap())
        };
        let mut s = session();
        s.on_event(Event::Connected);
        s.on_event(fetched(vec![(header(1), false), (header(2), false), (header(3), false)]));
        let actions = s.on_event(said(&resume(1..2, Some((2, header(2).hash, 0..400)))));
        let view = actions.iter().find_map(|a| match a {
            Action::Reconcile(view) => Some(view),
            _ => None,
        });
        assert_eq!(view.map(|v| (v.ledger, v.start_counter, v.epoch)), Some((0, 0, EPOCH)));
        assert_eq!(s.ledger(), 0, "it names none");
        let actions = s.on_event(believed(1..2));
        let rest = 400..1000;
        assert_eq!(written(&actions), [(2, vec![rest]), (3, WHOLE.to_vec())]);
        s.on_event(Event::Written(header(2).id));
        let actions = s.on_event(said(&committed(2)));
        let ids = vec![header(2).id];
        assert!(actions.contains(&Action::Committed { ids, bytes: 1000 }), "{actions:?}");
    }
}
