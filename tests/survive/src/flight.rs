//! One run of both stores: requests come in, segments are sealed, shipped, committed and exported, in an order that the seed
//! decides. A fault happens to one of the two somewhere on the way; [`Flight::settle`] says what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use perigee_proto::link;
use perigee_shared::segment::{Codec, Header, SegmentId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::board::Board;
use crate::history::{Event, Side};
use crate::station::{Exported, Said, Station};
use crate::subject::Keeper;
use crate::telemetry::{Request, Source};
use crate::world::World;

/// A request must be taken again within so many ms of the clock after the fault has ended.
const RECOVERY: u64 = 60_000;
/// After so many contacts in which nothing fails everything must have left the agent.
const CONTACTS: u32 = 30;
/// Segments in one contact, at most.
const SEGMENTS: usize = 1_000;

type Name = (u64, u8, u64);

fn name(id: SegmentId) -> Name {
    (id.epoch, id.lane.0, id.sequence)
}

/// See the module.
pub struct Flight {
    /// Disks, clock and history.
    pub world: World,
    /// The side whose store meets the fault.
    pub side: Side,
    /// The agent's store.
    pub board: Keeper<Board>,
    /// The ground's store.
    pub station: Keeper<Station>,
    /// What the fault leaves to chance; the work's own numbers stay what they are without it.
    pub chance: SmallRng,
    /// Ids that were accepted and are not committed.
    pub on_board: BTreeSet<u64>,
    /// Ids that were committed and are not exported.
    pub in_spool: BTreeSet<u64>,
    /// Ids that were accepted since the last segment was sealed.
    pub since_seal: BTreeSet<u64>,
    /// The fault is over: what fails now is the store's own doing.
    pub judged: bool,
    source: Source,
    codec: Codec,
    /// Sent without an answer, and what was in it.
    in_flight: BTreeMap<Name, Vec<u64>>,
    /// Segments that are known to be committed.
    committed: BTreeSet<Name>,
    /// What was in them.
    durable: BTreeSet<u64>,
}

impl Flight {
    /// Both stores are empty. `script` decides the work, `seed` the fault.
    pub fn new(fault: &str, side: Side, seed: u64, script: u64, directory: &Path) -> Self {
        let mut world = World::new(fault, side, seed, directory);
        world.rng = SmallRng::seed_from_u64(script);
        Self {
            world,
            side,
            board: Keeper::new(),
            station: Keeper::new(),
            chance: SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xfa017),
            on_board: BTreeSet::new(),
            in_spool: BTreeSet::new(),
            since_seal: BTreeSet::new(),
            judged: false,
            source: Source::new(script, 220),
            codec: if script.is_multiple_of(2) { Codec::Columns } else { Codec::ZstdRows },
            in_flight: BTreeMap::new(),
            committed: BTreeSet::new(),
            durable: BTreeSet::new(),
        }
    }

    /// Whether the power of the side under test is gone.
    pub fn is_off(&self) -> bool {
        self.world.disk(self.side).is_off()
    }

    /// Works for so many steps, or until the power goes.
    pub fn work(&mut self, steps: u32) {
        for _ in 0..steps {
            if self.is_off() {
                return;
            }
            self.step();
        }
    }

    /// Has something on board, in segments and in the journal, something in the spool, and one contact behind it.
    pub fn have_some(&mut self) {
        for _ in 0..2 {
            self.accept();
            self.seal();
            self.contact(SEGMENTS);
        }
        self.accept();
        self.seal();
        self.accept();
    }

    /// Has many pages of data in the store under test, on board or in the spool.
    pub fn have_lots(&mut self) {
        self.have_some();
        for round in 0..6 {
            for _ in 0..3 {
                let request = self.source.make(24_000);
                self.offer(vec![request]);
            }
            // On board half of it stays in the journal, on the ground all of it goes to the spool.
            match self.side {
                Side::Agent if round >= 3 => {}
                Side::Agent => self.seal(),
                Side::Ground => {
                    self.seal();
                    self.contact(SEGMENTS);
                }
            }
        }
        for _ in 0..3 {
            let request = self.source.make(24_000);
            self.offer(vec![request]);
        }
    }

    /// Another machine's, whose items are its own.
    pub fn of_another_satellite(mut self) -> Self {
        self.source = Source::of_satellite(2, self.world.rng.random(), 220);
        self
    }

    fn step(&mut self) {
        match self.world.rng.random_range(0..100) {
            0..50 => drop(self.accept()),
            50..68 => self.seal(),
            68..82 => {
                let most = self.world.rng.random_range(1..6);
                self.contact(most);
            }
            82..92 => drop(self.export(3)),
            92..94 => drop(self.board.call(&mut self.world, self.judged, Board::compact)),
            94..96 => drop(self.station.call(&mut self.world, self.judged, Station::sweep)),
            96..98 => drop(self.board.call(&mut self.world, self.judged, Board::drop_oldest)),
            98 => self.board.stop(&mut self.world),
            _ => self.station.stop(&mut self.world),
        }
        let pause = self.world.rng.random_range(0..400);
        self.world.time.advance(pause);
    }

    /// Sends some requests that share a commit. Whether they were accepted.
    pub fn accept(&mut self) -> bool {
        let count = self.world.rng.random_range(1..4);
        let requests: Vec<Request> = (0..count)
            .map(|_| {
                let bytes = if self.world.rng.random_range(0..8) == 0 { 20_000 } else { 1_200 };
                let bytes = self.world.rng.random_range(200..bytes);
                self.source.make(bytes)
            })
            .collect();
        self.offer(requests)
    }

    fn offer(&mut self, requests: Vec<Request>) -> bool {
        if !self.board.start(&mut self.world, self.judged) {
            return false;
        }
        let taken = self.board.call(&mut self.world, self.judged, |board| board.accept(&requests)).is_some();
        let answered = !self.world.disk(Side::Agent).is_off() && self.board.runs();
        for Request { signal, items, .. } in requests {
            let signal = signal as u8;
            if taken {
                self.on_board.extend(items.iter().map(|(id, _)| id));
                self.since_seal.extend(items.iter().map(|(id, _)| id));
                self.world.note(Event::Accepted { signal, items });
            } else if answered {
                self.world.note(Event::Refused { signal, items });
            } else {
                self.world.note(Event::Undecided { signal, items });
            }
        }
        taken
    }

    /// Seals what is in the journal.
    pub fn seal(&mut self) {
        let codec = self.codec;
        if let Some(Some(id)) = self.board.call(&mut self.world, self.judged, |board| board.seal(codec)) {
            self.since_seal.clear();
            self.world.note(Event::Sealed { segment: name(id) });
        }
    }

    /// A contact in which up to `most` segments are sent. Whether everything was.
    pub fn contact(&mut self, most: usize) -> bool {
        let done = self.try_contact(most).unwrap_or(false);
        self.board.call(&mut self.world, self.judged, |board| {
            board.goodbye();
            Ok(())
        });
        done
    }

    fn try_contact(&mut self, most: usize) -> Option<bool> {
        let mut again = true;
        for _ in 0..3 {
            if !again {
                break;
            }
            let hello = self.board.call(&mut self.world, self.judged, Board::hello)?;
            let resume = self.station.call(&mut self.world, self.judged, |s| s.hello(&hello))?;
            self.find_committed(&resume);
            again = self.board.call(&mut self.world, self.judged, |b| b.resume(&hello, &resume))?;
        }
        for _ in 0..most {
            let Some((header, payload)) =
                self.board.call(&mut self.world, self.judged, Board::next_to_send)?
            else {
                return Some(true);
            };
            let items = self.board.call(&mut self.world, self.judged, |b| Ok(b.decode(&header, &payload)))?;
            let ids = items.unwrap_or_default().iter().map(|(id, _)| *id).collect();
            self.in_flight.insert(name(header.id), ids);
            self.world.note(Event::Shipped { segment: name(header.id) });
            self.send(&header, &payload)?;
        }
        Some(false)
    }

    /// Sends a segment, sometimes in two parts, and does what follows from the answer.
    fn send(&mut self, header: &Header, payload: &[u8]) -> Option<()> {
        let whole = self.world.rng.random_range(0..3) > 0 || payload.len() < 2;
        let cut = if whole { payload.len() } else { self.world.rng.random_range(1..payload.len()) };
        let mut parts = vec![(0, payload[..cut].to_vec())];
        if !whole {
            parts.push((cut as u64, payload[cut..].to_vec()));
        }
        for part in parts {
            let said = self.station.call(&mut self.world, self.judged, |s| s.take(header, vec![part]))?;
            match said {
                Said::New | Said::Known => {
                    self.commit(name(header.id), said == Said::New);
                    let id = header.id;
                    return self.board.call(&mut self.world, self.judged, |b| b.committed(&[id]));
                }
                Said::HashMismatch => {
                    return self.board.call(&mut self.world, self.judged, |b| b.verify(header.id));
                }
                Said::MissingBase => {
                    let id = header.id;
                    return self.board.call(&mut self.world, self.judged, |b| b.recode(id));
                }
                Said::Part => {}
                Said::No => return Some(()),
            }
        }
        Some(())
    }

    /// A segment is durable on the ground. What is `new` twice is noted twice; what is not may have been noted under the name that
    /// it had in an earlier life of the log.
    fn commit(&mut self, segment: Name, new: bool) {
        let Some(items) = self.in_flight.remove(&segment) else { return };
        let first = self.committed.insert(segment) && !items.iter().all(|id| self.durable.contains(id));
        self.durable.extend(&items);
        for id in &items {
            self.on_board.remove(id);
            self.since_seal.remove(id);
            self.in_spool.insert(*id);
        }
        if new || first {
            self.world.note(Event::Committed { segment, items });
        }
    }

    /// What was sent without an answer may be durable after all.
    fn find_committed(&mut self, resume: &link::Resume) {
        let committed = |(epoch, lane, sequence): &Name| {
            let of = resume.epochs.iter().filter(|e| e.epoch == *epoch).flat_map(|e| &e.lanes);
            let ranges = of.filter(|l| l.lane == u32::from(*lane)).flat_map(|l| &l.committed);
            ranges.filter_map(|r| r.sequences).any(|r| (r.start..r.end).contains(sequence))
        };
        let new = |n: &&Name| committed(n) && !self.committed.contains(*n);
        let found: Vec<Name> = self.in_flight.keys().filter(new).copied().collect();
        found.into_iter().for_each(|segment| self.commit(segment, false));
    }

    /// Exports up to `most` segments. Whether nothing is left.
    pub fn export(&mut self, most: usize) -> bool {
        for _ in 0..most {
            match self.station.call(&mut self.world, self.judged, Station::export) {
                None => return false,
                Some(Exported::Nothing) => return true,
                Some(Exported::Other) => {}
                Some(Exported::Items(items, noted)) => {
                    self.in_spool.retain(|id| !items.iter().any(|(exported, _)| exported == id));
                    self.world.note(Event::Exported { items, noted });
                }
            }
        }
        false
    }

    /// kill -9 of the side under test.
    pub fn kill(&mut self) {
        match self.side {
            Side::Agent => self.board.kill(&self.world),
            Side::Ground => self.station.kill(&self.world),
        }
    }

    /// Ends the side under test in order.
    pub fn stop(&mut self) {
        match self.side {
            Side::Agent => self.board.stop(&mut self.world),
            Side::Ground => self.station.stop(&mut self.world),
        }
    }

    /// Starts the side under test.
    pub fn start(&mut self) -> bool {
        match self.side {
            Side::Agent => self.board.start(&mut self.world, self.judged),
            Side::Ground => self.station.start(&mut self.world, self.judged),
        }
    }

    /// The power of the side under test goes.
    pub fn cut_power(&mut self, torn: Option<u64>) {
        match self.side {
            Side::Agent => self.board.cut_power(&self.world, torn),
            Side::Ground => self.station.cut_power(&self.world, torn),
        }
    }

    /// What the store under test has is taken away, wholly or in part.
    pub fn destroy(&mut self) {
        let items = match self.side {
            Side::Agent => &self.on_board,
            Side::Ground => &self.in_spool,
        };
        let items = items.iter().copied().collect();
        self.world.note(Event::Destroyed { items, untold: false });
    }

    /// The fault is over: the disk works, and everything that is there must come out.
    pub fn settle(&mut self, what: &str, fired: bool) {
        self.world.note(Event::Fault { what: what.to_owned(), fired });
        self.judged = true;
        let began = self.world.time.ms();
        self.until(began, "no request was accepted", |flight| flight.accept());
        if self.side == Side::Ground {
            self.until(began, "no contact was completed", |flight| {
                flight.seal();
                flight.contact(SEGMENTS)
            });
        }
        let mut drained = false;
        for _ in 0..CONTACTS {
            self.seal();
            let sent = self.contact(SEGMENTS);
            drained = self.export(SEGMENTS) && sent && self.is_empty();
            if drained {
                break;
            }
            self.world.time.advance(1_100);
        }
        if !drained && !self.board.loops() && !self.station.loops() {
            let why = "not everything left the agent and the ground".to_owned();
            self.world.note(Event::Stuck { side: self.side, why });
        }
        // Drops that the last contact made are told in the next.
        for _ in 0..2 {
            self.contact(SEGMENTS);
        }
        self.take_stock();
    }

    /// Tries until it works, within the bound.
    fn until(&mut self, began: u64, why: &str, mut attempt: impl FnMut(&mut Self) -> bool) {
        while self.world.time.ms() < began + RECOVERY {
            if attempt(self) {
                let ms = self.world.time.ms() - began;
                self.world.note(Event::Recovered { side: self.side, ms });
                return;
            }
            self.world.time.advance(500);
        }
        if !self.board.loops() && !self.station.loops() {
            self.world.note(Event::Stuck { side: self.side, why: why.to_owned() });
        }
    }

    fn is_empty(&mut self) -> bool {
        use crate::subject::Subject;
        let board = self.board.call(&mut self.world, true, Board::account);
        board.is_some_and(|account| account.held == [0; 3])
    }

    /// Notes what both stores say and hold.
    fn take_stock(&mut self) {
        use crate::subject::Subject;
        if let Some(gaps) = self.station.call(&mut self.world, true, Station::gaps) {
            gaps.into_iter().for_each(|gap| self.world.note(Event::Gap(gap)));
        }
        if let Some(account) = self.board.call(&mut self.world, true, Board::account) {
            self.world.note(Event::Account { side: Side::Agent, account });
        }
        if let Some(account) = self.station.call(&mut self.world, true, Station::account) {
            self.world.note(Event::Account { side: Side::Ground, account });
        }
        if let Some(items) = self.board.call(&mut self.world, true, Board::held) {
            self.world.note(Event::Held { side: Side::Agent, items });
        }
        if !self.export(1)
            && let Some(items) = self.station.call(&mut self.world, true, Station::held)
        {
            self.world.note(Event::Held { side: Side::Ground, items });
        }
        self.world.note(Event::End);
    }
}
