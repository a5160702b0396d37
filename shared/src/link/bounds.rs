//! What a link message may hold. The peer's certificate is valid, its software may be anything: what a message repeats is counted
//! before it is decoded, since two bytes of it can become a hundred in memory.

use perigee_proto::link::{AgentMessage, GroundMessage, SegmentOpen};

use crate::otlp::protobuf::{Fields, Value};

/// Epochs of a satellite in one message.
pub const EPOCHS: usize = 256;
/// Lanes of all epochs in one message.
pub const LANES: usize = 8_192;
/// Ranges of all kinds in one message.
pub const RANGES: usize = 65_536;
/// Ledgers whose acknowledgements a Hello repeats.
pub const LEDGERS: usize = 8_192;
/// Drops in one message.
pub const DROPS: usize = 8_192;
/// Pass reports in a Hello.
pub const PASSES: usize = 256;
/// Stations of an orbit in a Hello.
pub const SITES: usize = 32;
/// Elevations of the mask of one of them that are said, and kept.
pub const MASK: usize = 72;
/// Partial segments in one message.
pub const PARTIALS: usize = 8_192;
/// Segments that an Ack names.
pub const SEGMENTS: usize = 16_384;
/// Ranges of one segment: what its stream announces, and what is held of it.
pub const SEGMENT_RANGES: usize = 8_192;

/// What is counted.
#[derive(Clone, Copy)]
enum Kind {
    Epoch,
    Lane,
    Range,
    Ledger,
    Drop,
    Pass,
    Site,
    Partial,
    Segment,
    SegmentRange,
}

/// Each kind with its name and bound, in the order of [`Kind`].
const BOUNDS: [(&str, usize); 10] = [
    ("epochs", EPOCHS),
    ("lanes", LANES),
    ("ranges", RANGES),
    ("ledgers", LEDGERS),
    ("drops", DROPS),
    ("pass reports", PASSES),
    ("stations of an orbit", SITES),
    ("partial segments", PARTIALS),
    ("segments", SEGMENTS),
    ("ranges of a segment", SEGMENT_RANGES),
];

/// A message: which of its fields hold messages that are counted or hold some.
pub struct Shape(&'static [(u32, Option<Kind>, Shape)]);

const LEAF: Shape = Shape(&[]);
const DROP_LIST: Shape = Shape(&[(2, Some(Kind::Drop), LEAF)]);
const LANE: Shape =
    Shape(&[(2, Some(Kind::Range), LEAF), (5, Some(Kind::Ledger), Shape(&[(3, Some(Kind::Range), LEAF)]))]);
const EPOCH: Shape = Shape(&[(4, Some(Kind::Lane), LANE), (5, Some(Kind::Drop), LEAF)]);
const ORBIT: Shape = Shape(&[(10, Some(Kind::Site), LEAF)]);
const HELLO: Shape = Shape(&[
    (6, Some(Kind::Epoch), EPOCH),
    (7, Some(Kind::Pass), LEAF),
    (10, Some(Kind::Lane), LEAF),
    (15, None, ORBIT),
]);
const GOODBYE: Shape = Shape(&[(3, Some(Kind::Lane), LEAF)]);
const PARTIAL: Shape = Shape(&[(3, Some(Kind::Range), LEAF)]);
const RESUME_LANE: Shape = Shape(&[(2, Some(Kind::Range), LEAF), (3, Some(Kind::Partial), PARTIAL)]);
const RESUME_EPOCH: Shape = Shape(&[(2, Some(Kind::Lane), RESUME_LANE), (4, Some(Kind::Drop), LEAF)]);
const RESUME: Shape = Shape(&[(5, Some(Kind::Epoch), RESUME_EPOCH)]);
const ACK: Shape = Shape(&[
    (1, Some(Kind::Segment), LEAF),
    (2, Some(Kind::Partial), Shape(&[(3, None, PARTIAL)])),
    (3, Some(Kind::Epoch), Shape(&[(3, Some(Kind::Drop), LEAF)])),
]);

/// A message whose parts are counted.
pub trait Bounded {
    /// Where they are.
    const SHAPE: Shape;
}

impl Bounded for AgentMessage {
    const SHAPE: Shape = Shape(&[(1, None, HELLO), (2, None, DROP_LIST), (3, None, GOODBYE)]);
}

impl Bounded for GroundMessage {
    const SHAPE: Shape = Shape(&[(1, None, RESUME), (2, None, ACK)]);
}

impl Bounded for SegmentOpen {
    const SHAPE: Shape = Shape(&[(2, Some(Kind::SegmentRange), LEAF)]);
}

/// What `message` has too much of, if anything.
pub fn check<M: Bounded>(message: &[u8]) -> Result<(), String> {
    count(&M::SHAPE, message, &mut [0; BOUNDS.len()])
}

fn count(Shape(fields): &Shape, message: &[u8], counts: &mut [usize; BOUNDS.len()]) -> Result<(), String> {
    for field in Fields::new(message) {
        let field = field.map_err(|error| error.to_string())?;
        let Some((_, kind, shape)) = fields.iter().find(|(number, ..)| *number == field.number) else {
            continue;
        };
        let Value::Bytes(inner) = field.value else { continue };
        if let Some(kind) = kind {
            let (what, most) = BOUNDS[*kind as usize];
            counts[*kind as usize] += 1;
            if counts[*kind as usize] > most {
                return Err(format!("it has more than {most} {what}"));
            }
        }
        count(shape, inner, counts)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use perigee_proto::link;
    use prost::Message;

    use super::*;

    fn agent(body: link::agent_message::Body) -> Vec<u8> {
        AgentMessage { body: Some(body) }.encode_to_vec()
    }

    fn ground(body: link::ground_message::Body) -> Vec<u8> {
        GroundMessage { body: Some(body) }.encode_to_vec()
    }

    #[test]
    fn every_kind_is_counted_wherever_it_stands() {
        use link::{agent_message::Body as A, ground_message::Body as G};
        let range = |n: usize| vec![link::Range::default(); n];
        let lane = |lane: link::Lane| link::Epoch { lanes: vec![lane], ..Default::default() };
        let hello = |epoch| agent(A::Hello(link::Hello { epochs: vec![epoch], ..Default::default() }));
        let epochs = vec![link::Epoch::default(); EPOCHS + 1];
        let lanes = link::Epoch { lanes: vec![link::Lane::default(); LANES + 1], ..Default::default() };
        let drops = vec![link::Drop::default(); DROPS + 1];
        let waits = vec![link::LaneBacklog::default(); LANES + 1];
        let acknowledged = vec![link::Acknowledged { sequences: range(RANGES + 1), ..Default::default() }];
        let passes = vec![link::PassReport::default(); PASSES + 1];
        let sites = vec![link::Site::default(); SITES + 1];
        let orbit = Some(link::Orbit { sites, ..Default::default() });
        let partial = link::Partial { held: range(RANGES + 1), ..Default::default() };
        for (message, what) in [
            (agent(A::Hello(link::Hello { epochs, ..Default::default() })), "epochs"),
            (agent(A::Hello(link::Hello { passes, ..Default::default() })), "pass reports"),
            (agent(A::Hello(link::Hello { orbit, ..Default::default() })), "stations of an orbit"),
            (hello(lanes), "lanes"),
            (hello(lane(link::Lane { on_board: range(RANGES + 1), ..Default::default() })), "ranges"),
            (hello(lane(link::Lane { acknowledged, ..Default::default() })), "ranges"),
            (hello(link::Epoch { drops: drops.clone(), ..Default::default() }), "drops"),
            (agent(A::Hello(link::Hello { backlog: waits.clone(), ..Default::default() })), "lanes"),
            (agent(A::Goodbye(link::Goodbye { backlog: waits, ..Default::default() })), "lanes"),
            (agent(A::Drops(link::EpochDrops { epoch: 1, drops })), "drops"),
        ] {
            let error = check::<AgentMessage>(&message).unwrap_err();
            assert!(error.ends_with(&format!(" {what}")), "{error} for {what}");
        }
        let committed = vec![link::SegmentId::default(); SEGMENTS + 1];
        let held = vec![link::PartialAck { partial: Some(partial), ..Default::default() }];
        let partials = vec![link::Partial::default(); PARTIALS + 1];
        let lanes = vec![link::ResumeLane { partials, ..Default::default() }];
        let epochs = vec![link::ResumeEpoch { lanes, ..Default::default() }];
        for (message, what) in [
            (ground(G::Ack(link::Ack { committed, ..Default::default() })), "segments"),
            (ground(G::Ack(link::Ack { partials: held, ..Default::default() })), "ranges"),
            (ground(G::Resume(link::Resume { epochs, ..Default::default() })), "partial segments"),
        ] {
            let error = check::<GroundMessage>(&message).unwrap_err();
            assert!(error.ends_with(&format!(" {what}")), "{error} for {what}");
        }
        let open = SegmentOpen { ranges: range(SEGMENT_RANGES + 1), ..SegmentOpen::default() };
        assert!(check::<SegmentOpen>(&open.encode_to_vec()).is_err());
    }

    #[test]
    fn what_is_within_the_bounds_passes() {
        let epochs = vec![link::Epoch::default(); EPOCHS];
        let hello = link::Hello { epochs, ..Default::default() };
        assert_eq!(check::<AgentMessage>(&agent(link::agent_message::Body::Hello(hello))), Ok(()));
        assert_eq!(check::<AgentMessage>(&[]), Ok(()));
        assert!(check::<AgentMessage>(&[0x0a, 0x05]).is_err(), "cut off");
    }
}
