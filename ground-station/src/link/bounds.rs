//! What a satellite may have under way. What one message holds is bounded before it is decoded, in `perigee_shared::link::bounds`;
//! an agent of ours stays far below.

use std::collections::BTreeSet;
use std::time::Duration;

use perigee_proto::link;

/// Drops that were sent and are not in the ledger yet.
pub(super) const DROPS_WAITING: usize = 16_384;
/// Drops in one contact.
pub(super) const DROPS_A_CONTACT: usize = 65_536;
/// Ranges of all segments that are arriving.
pub(super) const OPEN_RANGES: usize = 65_536;
/// Segments in one contact, after which the satellite is to connect again.
pub(super) const SEGMENTS_A_CONTACT: u64 = 65_536;
/// Connections of one satellite.
pub(super) const CONNECTIONS: usize = 4;
/// A connection without Hello goes after this time when others wait for its place.
pub(super) const SILENT: Duration = Duration::from_secs(3);

/// Rows that work on the store's thread may take without a pause after it.
const ROWS_AT_ONCE: usize = 1_024;
/// The pause after each further row. A row takes 2 to 15 us, so that no satellite has more than a part of the thread.
const PAUSE_A_ROW: Duration = Duration::from_micros(40);

/// It waits no longer than this.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often the log has a line about what one satellite does wrong.
pub(super) const SAID_EVERY: Duration = Duration::from_secs(10);

/// How long a satellite that has had work on `rows` done waits before more of its work is begun.
pub(super) fn pause(rows: usize) -> Duration {
    PAUSE_A_ROW * u32::try_from(rows.saturating_sub(ROWS_AT_ONCE)).unwrap_or(u32::MAX)
}

/// Rows that a Hello is about.
pub(super) fn rows(hello: &link::Hello) -> usize {
    let of_lane = |l: &link::Lane| {
        1 + l.on_board.len() + l.acknowledged.iter().map(|a| a.sequences.len()).sum::<usize>()
    };
    let of_epoch = |e: &link::Epoch| 1 + e.drops.len() + e.lanes.iter().map(of_lane).sum::<usize>();
    hello.passes.len() + hello.epochs.iter().map(of_epoch).sum::<usize>()
}

/// What a Hello says twice; the reason for which its link is closed.
pub(super) fn hello(hello: &link::Hello) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for epoch in &hello.epochs {
        if !names.insert(epoch.epoch) {
            return Err("an epoch is named twice".to_owned());
        }
        let mut lanes = BTreeSet::new();
        for lane in &epoch.lanes {
            if lane.lane > u32::from(u8::MAX) || !lanes.insert(lane.lane) {
                return Err(format!("an epoch names lane {} twice, or it is no lane", lane.lane));
            }
        }
    }
    Ok(())
}

/// That there are no more than so many.
pub(super) fn most(what: &str, found: usize, limit: usize) -> Result<(), String> {
    if found > limit { Err(format!("{found} {what}; at most {limit} are accepted")) } else { Ok(()) }
}

#[cfg(test)]
#[path = "../../../tests/security.rs"]
mod security;

#[cfg(test)]
mod tests {
    use perigee_shared::link::{bounds, transport, wire};

    use super::security::{bounds as said, code};
    use super::*;
    use crate::link::{access, connection};
    use crate::spool::{KEPT_PASSES, LONGEST_NAME, LONGEST_TEXT, ledger as kept};

    #[test]
    fn the_table_in_security_md_is_what_the_code_has() {
        let code = code([
            ("bytes of a handshake that is not accepted yet", access::INCOMING),
            ("bytes of all handshakes that are not accepted yet", access::INCOMING_IN_ALL),
            ("seconds from a handshake to its Hello", connection::HELLO_TIMEOUT.as_secs()),
            ("seconds without Hello, when others wait for the place", SILENT.as_secs()),
            ("bytes of a message", wire::MAX_MESSAGE as u64),
            ("epochs in a message", bounds::EPOCHS as u64),
            ("lanes in a message", bounds::LANES as u64),
            ("ranges in a message", bounds::RANGES as u64),
            ("ledgers in a message", bounds::LEDGERS as u64),
            ("drops in a message", bounds::DROPS as u64),
            ("pass reports in a message", bounds::PASSES as u64),
            ("stations of an orbit in a message", bounds::SITES as u64),
            ("partial segments in a message", bounds::PARTIALS as u64),
            ("segments in an acknowledgement", bounds::SEGMENTS as u64),
            ("ranges of a segment", bounds::SEGMENT_RANGES as u64),
            ("segment streams of a connection", u64::from(transport::MAX_SEGMENT_STREAMS)),
            ("ranges of all open segments of a connection", OPEN_RANGES as u64),
            ("drops of a satellite that wait for the ledger", DROPS_WAITING as u64),
            ("drops of a satellite in a contact", DROPS_A_CONTACT as u64),
            ("segments of a satellite in a contact, then it connects again", SEGMENTS_A_CONTACT),
            ("connections of a satellite", CONNECTIONS as u64),
            ("epochs of a satellite in the ledger", kept::EPOCHS_KEPT as u64),
            ("drops of a satellite in the ledger", kept::DROPS_KEPT as u64),
            ("runs of segments of a satellite in the ledger", kept::RUNS_KEPT as u64),
            ("remembered segments of a satellite in the ledger", kept::RECENT_KEPT_IN_ALL as u64),
            ("characters of a name that a satellite says", LONGEST_NAME as u64),
            ("characters of another text that a satellite says", LONGEST_TEXT as u64),
            ("passes of a satellite that are kept", KEPT_PASSES as u64),
        ]);
        assert_eq!(said("ground-station"), code);
    }
}
