//! What a satellite may name in one message. Its certificate is valid, its software may be anything: nothing is looked up before it
//! is counted. An agent of ours stays far below.

use std::collections::BTreeSet;

use perigee_proto::link;

/// Epochs in a Hello.
pub(super) const EPOCHS: usize = 4_096;
/// Ranges of all kinds in a Hello.
pub(super) const RANGES: usize = 65_536;
/// Drops in a message.
pub(super) const DROPS: usize = 8_192;
/// Drops that were sent and are not in the ledger yet.
pub(super) const DROPS_WAITING: usize = 65_536;
/// Pass reports in a Hello.
pub(super) const PASSES: usize = 256;
/// Ranges of a segment that a stream announces.
pub(super) const SEGMENT_RANGES: usize = 8_192;

/// What a Hello has too much of; the reason for which its link is closed.
pub(super) fn hello(hello: &link::Hello) -> Result<(), String> {
    most("epochs", hello.epochs.len(), EPOCHS)?;
    most("pass reports", hello.passes.len(), PASSES)?;
    let (mut names, mut ranges, mut drops) = (BTreeSet::new(), 0, 0);
    for epoch in &hello.epochs {
        drops += epoch.drops.len();
        if !names.insert(epoch.epoch) {
            return Err("an epoch is named twice".to_owned());
        }
        let mut lanes = BTreeSet::new();
        for lane in &epoch.lanes {
            ranges += lane.on_board.len();
            ranges += lane.acknowledged.iter().map(|a| 1 + a.sequences.len()).sum::<usize>();
            if lane.lane > u32::from(u8::MAX) || !lanes.insert(lane.lane) {
                return Err(format!("an epoch names lane {} twice, or it is no lane", lane.lane));
            }
        }
    }
    most("ranges", ranges, RANGES)?;
    most("drops", drops, DROPS)
}

/// That there are no more than so many.
pub(super) fn most(what: &str, found: usize, limit: usize) -> Result<(), String> {
    if found > limit { Err(format!("{found} {what} in a message; at most {limit} are read")) } else { Ok(()) }
}
