//! The account at the end: where every accepted item is, from what was sent in, what came out, and what the stores hold.
//!
//! The products' own counters are not asked, but for the number of items that an agent has dropped by rule, since these are
//! nowhere to be found.

use std::sync::{Arc, Mutex, PoisonError};

use perigee_shared::env::Env;
use perigee_shared::segment::{Base, Decoder, Header, Lane};
use perigee_shared::signal::Counts;
use space_agent::agent::open_existing_wal;
use space_agent::config::Config;
use space_agent::wal::{BatchLimits, Encoding, Wal};

use crate::history::{History, Items};
use crate::items;
use crate::node::{Satellite, Station};

/// Where items are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// An agent has answered them with success.
    pub accepted: u64,
    /// They came out at a backend.
    pub exported: u64,
    /// Agents have dropped them by rule.
    pub dropped: u64,
    /// A ground keeps them in dead-letter.
    pub dead_letter: u64,
    /// They are on board.
    pub on_board: u64,
    /// They are in a spool and not exported yet.
    pub spool: u64,
    /// They are nowhere.
    pub lost: u64,
    /// They came twice out of one ledger, or are twice in it.
    pub twice: u64,
    /// More than one ledger has committed them.
    pub handover_twice: u64,
    /// Counted as dropped, and somewhere all the same.
    pub miscounted: u64,
    /// Came again after a crash that had left them undecided.
    pub repeated: u64,
    /// Came out and had not been answered with success: a crash took the answer.
    pub unanswered: u64,
}

impl Account {
    /// Whether nothing is missing and nothing is there twice.
    pub const fn is_right(&self) -> bool {
        self.lost == 0 && self.twice == 0 && self.miscounted == 0
    }

    /// The last line of a report.
    pub fn line(&self) -> String {
        format!(
            "accepted {} exported {} dropped {} dead-letter {} on-board {} spool {} lost {} twice {} handover-twice {}",
            self.accepted,
            self.exported,
            self.dropped,
            self.dead_letter,
            self.on_board,
            self.spool,
            self.lost,
            self.twice,
            self.handover_twice
        )
    }
}

/// What a store holds, decoded.
#[derive(Debug, Clone, Default)]
pub struct Holdings {
    /// Items by satellite.
    pub items: Vec<Items>,
    /// Items that it holds more than once.
    pub twice: u64,
    /// Items in dead-letter or dropped, by count.
    pub gone: u64,
    hash: blake3::Hasher,
}

impl Holdings {
    fn new(satellites: usize) -> Self {
        Self { items: vec![Items::default(); satellites], ..Self::default() }
    }

    fn add(&mut self, header: &Header, payload: &[u8], base: Option<&Base>) -> anyhow::Result<()> {
        for request in Decoder::new(header, payload, base)? {
            let request = request?;
            self.hash.update(&request.body);
            for id in items::ids(request.signal, &request.body)? {
                let (satellite, item) = items::parts(id);
                let of = self.items.get_mut(usize::from(satellite));
                let of = of.ok_or_else(|| anyhow::anyhow!("an item of no satellite"))?;
                self.twice += u64::from(of.insert(item));
            }
        }
        Ok(())
    }

    /// A hash over every decoded request, in order.
    pub fn hash(&self) -> blake3::Hash {
        self.hash.finalize()
    }
}

/// What a satellite's log holds; the agent must have ended.
pub(crate) fn on_board(satellite: &Satellite, satellites: usize) -> anyhow::Result<Holdings> {
    let mut held = Holdings::new(satellites);
    let mut wal = open(&satellite.config()?, &satellite.env())?;
    // What is in the journal becomes segments, which can be looked at.
    let limits = BatchLimits { items: u64::MAX, raw: 32 << 20 };
    for lane in wal.segments().unsealed().into_iter().map(|waiting| waiting.lane) {
        while let Some(batch) = wal.segments().take_batch(lane, limits, true)? {
            wal.segments().commit(batch.seal(&Encoding::default(), 0)?)?;
        }
    }
    // What the segment before leant on: the next one mostly does too.
    let (mut known, mut base): (Option<(Lane, u64)>, Option<Base>) = (None, None);
    for (record, _) in wal.custody().segments(usize::MAX)? {
        let id = record.header.id;
        let payload = wal.custody().payload(&record.header)?;
        let payload = payload.ok_or_else(|| anyhow::anyhow!("segment {id} has no payload"))?;
        let leans_on = record.header.base_sequence.map(|sequence| (id.lane, sequence));
        if known != leans_on {
            base = wal.bases().chain(id.lane, record.header.base_sequence)?.decode()?;
            known = leans_on;
        }
        held.add(&record.header, &payload, base.as_ref())?;
    }
    let dropped: Counts = wal.summary().dropped.iter().map(|(_, items)| *items).sum();
    held.gone = dropped.total();
    Ok(held)
}

fn open(config: &Config, env: &Env) -> anyhow::Result<Wal> {
    Ok(open_existing_wal(config, env)?)
}

/// What a ground's spool holds; the ground must have ended.
pub(crate) async fn in_spool(station: &Station, satellites: usize) -> anyhow::Result<Holdings> {
    let settings = ground_station::ground::settings(&station.config()?);
    let store = ground_station::spool::Store::open(&station.env(), settings, 0)?;
    let held = Arc::new(Mutex::new((Holdings::new(satellites), Ok(()))));
    let shown = Arc::clone(&held);
    let each = move |_: &str, header: &Header, payload: &[u8], base: Option<&Base>| {
        let (held, result) = &mut *shown.lock().unwrap_or_else(PoisonError::into_inner);
        if result.is_ok() {
            *result = held.add(header, payload, base);
        }
    };
    store.views().segments(each).await?;
    let accounts = store.views().accounting().await?;
    store.close().await;
    let held = Arc::into_inner(held).ok_or_else(|| anyhow::anyhow!("the spool is still being read"))?;
    let (mut held, result) = held.into_inner().unwrap_or_else(PoisonError::into_inner);
    result?;
    for account in accounts.values() {
        let dead = account.dead_lettered;
        held.gone += dead.spans + dead.metric_points + dead.log_records;
    }
    Ok(held)
}

/// Draws up the account: `board` by satellite, `spools` by ledger.
pub fn account(history: &History, board: &[Holdings], spools: &[Holdings]) -> Account {
    let mut out = Account::default();
    for (number, origin) in history.origins.iter().enumerate() {
        out.accepted += origin.accepted.len();
        let mut missing = 0;
        let mut missing_of = |n: u64| {
            let exported = history.outputs.iter().filter(|o| o.exported[number].contains(n)).count();
            let committed = history
                .outputs
                .iter()
                .zip(spools)
                .filter(|(o, s)| o.exported[number].contains(n) || s.items[number].contains(n))
                .count();
            out.handover_twice += u64::from(committed > 1);
            if exported > 0 {
                out.exported += 1;
            } else if committed > 0 {
                out.spool += 1;
            } else if board[number].items[number].contains(n) {
                out.on_board += 1;
            } else {
                missing += 1;
            }
        };
        origin.accepted.iter().for_each(&mut missing_of);
        let dropped = board[number].gone;
        out.dropped += dropped.min(missing);
        out.miscounted += dropped.saturating_sub(missing);
        out.lost += missing.saturating_sub(dropped);
        for output in &history.outputs {
            out.unanswered +=
                output.exported[number].iter().filter(|n| !origin.accepted.contains(*n)).count() as u64;
        }
    }
    out.dead_letter = spools.iter().map(|s| s.gone).sum::<u64>().min(out.lost);
    out.lost -= out.dead_letter;
    out.twice =
        history.outputs.iter().map(|o| o.twice).sum::<u64>() + spools.iter().map(|s| s.twice).sum::<u64>();
    out.repeated = history.outputs.iter().map(|o| o.repeated).sum();
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn held(items: &[u64], gone: u64) -> Holdings {
        let mut held = Holdings::new(1);
        for n in items {
            held.items[0].insert(*n);
        }
        Holdings { gone, ..held }
    }

    fn exported(ids: &[u64]) -> String {
        ids.iter().fold("logs: 1 log_records, 1 bytes\n".to_owned(), |s, n| s + &format!("  \"#{n}\"\n"))
    }

    #[test]
    fn every_item_is_in_one_place_and_what_is_nowhere_is_lost() {
        let mut history = History::new(1, 2);
        history.accepted(0, 0, 10, 1, Duration::ZERO);
        history.exported(0, &exported(&[0, 1, 2]), Duration::ZERO);
        history.exported(1, &exported(&[2, 3, 20]), Duration::ZERO);
        let spools = [held(&[1, 4], 0), held(&[5], 0)];
        let account = account(&history, &[held(&[3, 6, 7], 1)], &spools);
        assert_eq!(
            account.line(),
            "accepted 10 exported 4 dropped 1 dead-letter 0 on-board 2 spool 2 lost 1 twice 0 handover-twice 1"
        );
        assert!(!account.is_right() && account.unanswered == 1);
    }

    #[test]
    fn a_drop_that_did_not_happen_is_a_wrong_count() {
        let mut history = History::new(1, 1);
        history.accepted(0, 0, 1, 1, Duration::ZERO);
        let account = account(&history, &[held(&[0], 1)], &[held(&[], 0)]);
        assert_eq!((account.miscounted, account.lost, account.is_right()), (1, 0, false));
    }
}
