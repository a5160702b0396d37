//! `wal salvage`: what is left in a file that was put aside.
//!
//! When a damaged log is put aside, everything that is known to be undelivered goes into the new one. What may have been delivered
//! already stays in the file, counted as lost. An operator who would rather have it twice than not at all can ask for it.

use std::collections::BTreeSet;
use std::path::Path;

use perigee_shared::segment::{Hash, Header};
use redb::ReadableTable;

use super::group::{self, Accepted, TARGET_RAW};
use super::left::{Content, Left, Owner};
use super::salvaged::{self, Identity};
use super::state::Edit;
use super::tables::*;
use super::{Journal, SegmentRecord, Wal, WalError};

/// A segment, by its place among those of the file, or a group, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Segment(usize),
    Group(u64),
}

/// So much of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Amount {
    /// Segments of which it has something.
    pub segments: u64,
    /// Commit groups of which it has something.
    pub groups: u64,
    /// Items.
    pub items: u64,
    /// What was added last.
    #[serde(skip)]
    last: Option<Unit>,
}

impl Amount {
    fn add(&mut self, unit: Unit, items: u64) {
        if self.last.replace(unit) != Some(unit) {
            match unit {
                Unit::Segment(_) => self.segments += 1,
                Unit::Group(_) => self.groups += 1,
            }
        }
        self.items += items;
    }
}

/// What became of what is in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Offered {
    /// It is in the log now.
    pub appended: Amount,
    /// Left out: the log has or had it, or it was delivered or dropped before.
    pub already: Amount,
    /// Left out: groups that segments of the same file contain.
    pub in_segments: Amount,
    /// Left out: nobody can tell whether it was delivered.
    pub may_repeat: Amount,
    /// Cannot be decoded, since it is damaged or what it depends on is lost.
    pub undecodable: Amount,
    /// Found no room.
    pub no_room: Amount,
    /// The budget, if nothing more of it is for what is salvaged.
    pub full: Option<u64>,
    /// What is wrong with the file, if anything is.
    pub damage: Option<Damage>,
}

/// What of a file cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// Pages that cannot be read; `None`: nor can what says where its tables are.
    pub pages: Option<u64>,
    /// The tables that these pages are missing in.
    pub tables: BTreeSet<String>,
    /// Segments that the file lists and whose data is damaged, each as `LANE/SEQUENCE`.
    pub segments: Vec<String>,
    /// Items in them. What else was in the damaged pages is not known.
    pub items: u64,
}

/// What is wanted of a file beyond what is known to be undelivered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Also that of which nobody can tell whether it was delivered.
    pub may_repeat: bool,
    /// Also when it is the log of another satellite.
    pub other_satellite: bool,
}

impl Journal<'_> {
    /// Appends what is in the file at `path`, which nobody writes, as if it had just come; nothing twice, however often it is asked to.
    /// It ends where the budget is used up but for what requests need that come, and goes on from there when it is asked again.
    pub fn salvage(&mut self, path: &Path, wanted: Wanted) -> Result<Offered, WalError> {
        self.0.ready()?;
        let fault = |why: String| WalError::Unsalvageable { path: path.to_owned(), why };
        if self.0.away.is_some() {
            let why = "the store is gone and the log is in memory: try again when the store is back";
            return Err(fault(why.to_owned()));
        }
        let left = Left::read(self.0.env(), path)?;
        if !wanted.other_satellite
            && let Some(ours) = self.satellite()?
            && let Some(why) = not_of(&left.owner, &ours)
        {
            return Err(fault(why));
        }
        let known = Known::of(self.0)?;
        let origin = left.certain.as_ref().map(|certain| known.origin(certain.epoch));
        if let (Some(Origin::Foreign), Some(certain)) = (origin, &left.certain) {
            self.name(certain.epoch)?;
        }
        let mut salvaging = Salvaging {
            wal: self.0,
            known,
            origin,
            may_repeat: wanted.may_repeat,
            offered: Offered::default(),
            pending: Pending::default(),
        };
        let mut content = asked_of_segments(&left);
        salvaging.segments(&left, &mut content)?;
        salvaging.groups(&left, &content)?;
        salvaging.flush()?;
        let damage = salvaging.damage(&left);
        if let Some(Damage { pages, segments, items, .. }) = &damage {
            tracing::warn!(
                file = %path.display(),
                pages,
                segments = segments.len(),
                items,
                "the file that was salvaged is damaged: what its damaged pages held was not appended"
            );
        }
        Ok(Offered { damage, ..salvaging.offered })
    }

    /// Notes a life before anything of its file comes: when this log is lost, nobody knows what came.
    fn name(&mut self, epoch: u64) -> Result<(), WalError> {
        if self.0.state().lives.contains(&epoch) {
            return Ok(());
        }
        self.0.write(|txn, _| {
            salvaged::name(txn, &[epoch])?;
            Ok(((), vec![Edit::Named(epoch)]))
        })?;
        self.0.mirror().write();
        Ok(())
    }

    /// The satellite in whose name the log's data is delivered: a command that works on the log itself has it from there.
    fn satellite(&mut self) -> Result<Option<String>, WalError> {
        let name = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let noted = self.0.read(|txn, _| {
            Ok::<_, WalError>(txn.open_table(META)?.get(META_SATELLITE)?.map(|value| name(value.value())))
        })?;
        Ok(noted.or_else(|| self.0.config().satellite.clone()))
    }
}

/// Why a file is not to be taken for the log of satellite `ours`, if it is not.
fn not_of(owner: &Owner, ours: &str) -> Option<String> {
    match owner {
        Owner::Satellite(theirs) if theirs != ours => Some(format!(
            "it is the log of satellite {theirs}, and this is {ours}, in whose name its data would be delivered: salvage it \
             there, or append it here all the same with --other-satellite"
        )),
        Owner::Unknown => Some(format!(
            "whose log it is cannot be read, and its data would be delivered in the name of {ours}: if it is the log of {ours}, \
             append it with --other-satellite"
        )),
        Owner::Satellite(_) | Owner::Nobody => None,
    }
}

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Of a log that this one knows nothing of: what it says is undelivered goes into this one.
    Foreign,
    /// Of a life of this log: what was undelivered then is on board, or was.
    Ours,
    /// Of a life of this log that was lost, or of a file that a log which is lost may have had: it may be of any age.
    Lost,
}

/// What this log has, had, or has taken over.
#[derive(Debug, Default)]
struct Known {
    /// Lives that this log has had.
    epochs: BTreeSet<u64>,
    /// Payloads that are on board or were acknowledged.
    hashes: BTreeSet<Hash>,
    /// What came from other files, and lives that were lost.
    identities: BTreeSet<Identity>,
}

impl Known {
    fn of(wal: &mut Wal) -> Result<Self, WalError> {
        wal.read(|txn, state| {
            let mut known = Self { identities: salvaged::known(txn)?, ..Self::default() };
            known.epochs.insert(state.life.epoch);
            for row in txn.open_table(EPOCHS)?.iter()? {
                known.epochs.insert(row?.0.value());
            }
            let mut note = |bytes: &[u8]| {
                known.hashes.extend(bytes.chunks_exact(32).filter_map(|h| Hash::try_from(h).ok()));
            };
            for row in txn.open_table(SHIPPED)?.iter()? {
                note(row?.1.value());
            }
            if let Some(table) = if_made(txn, ACKNOWLEDGED)? {
                for row in table.iter()? {
                    note(row?.1.value());
                }
            }
            for row in txn.open_table(SEGMENTS)?.iter()? {
                note(&SegmentRecord::from_bytes(row?.1.value())?.header.hash);
            }
            Ok(known)
        })
    }

    fn has(&self, segment: &Header) -> bool {
        self.hashes.contains(&segment.hash) || self.identities.contains(&Identity::segment(&segment.hash))
    }

    fn origin(&self, epoch: u64) -> Origin {
        let is_lost = |epoch| self.identities.contains(&Identity::life(epoch));
        match self.epochs.contains(&epoch) {
            _ if is_lost(epoch) => Origin::Lost,
            true => Origin::Ours,
            false if is_lost(salvaged::ANY) => Origin::Lost,
            false => Origin::Foreign,
        }
    }
}

/// What shares the next commit.
#[derive(Default)]
struct Pending {
    requests: Vec<Accepted>,
    identities: Vec<Identity>,
    raw: usize,
    amounts: Vec<(Unit, u64)>,
}

/// A file that is salvaged.
struct Salvaging<'w> {
    wal: &'w mut Wal,
    known: Known,
    /// `None`: the file does not say.
    origin: Option<Origin>,
    may_repeat: bool,
    offered: Offered,
    pending: Pending,
}

/// What groups have for lanes that do not wait for it: it may be in segments of the file.
fn asked_of_segments(left: &Left) -> Content {
    let mut content = Content::default();
    for (number, bytes) in &left.groups {
        let lanes = left.of_lanes(*number, bytes).unwrap_or_default();
        let sealed = lanes.iter().filter(|(lane, _)| left.waits(*number, *lane) != Some(true));
        sealed.flat_map(|(_, requests)| requests).for_each(|request| content.ask(request));
    }
    content
}

fn items(requests: &[Accepted]) -> u64 {
    requests.iter().map(|r| r.walked.items).sum()
}

impl Salvaging<'_> {
    /// Offers what is in the segments, one at a time, and notes in `content` which items they have.
    fn segments(&mut self, left: &Left, content: &mut Content) -> Result<(), WalError> {
        for (segment, number) in left.segments.iter().zip(0..) {
            let (unit, hash) = (Unit::Segment(number), segment.header.hash);
            let all = segment.header.items.total();
            let decoded = left.decoded(segment);
            content.note(decoded.as_deref().unwrap_or_default());
            let is_known = self.known.has(&segment.header)
                || match segment.on_board {
                    true => self.origin == Some(Origin::Ours),
                    false => left.was_gone(segment) || left.acknowledged.contains(&hash),
                };
            match decoded {
                _ if is_known => self.offered.already.add(unit, all),
                None => self.offered.undecodable.add(unit, all),
                Some(requests) => {
                    let is_certain = segment.on_board && self.origin == Some(Origin::Foreign);
                    let identity = Identity::segment(&hash);
                    for (part, number) in group::runs(&requests).zip(0..) {
                        self.offer(unit, identity.part(number), part.to_vec(), is_certain)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// `content`: what is in the segments of the file, wherever that is now.
    fn groups(&mut self, left: &Left, content: &Content) -> Result<(), WalError> {
        let all_else_is_gone = left.is_whole() && self.offered.undecodable.segments == 0;
        for (number, bytes) in &left.groups {
            let unit = Unit::Group(*number);
            let Ok(lanes) = left.of_lanes(*number, bytes) else {
                self.offered.undecodable.add(unit, 0);
                continue;
            };
            let identity = Identity::group(*number, bytes);
            let is_known = self.known.identities.contains(&identity.of_lane(None));
            for (lane, mut requests) in lanes {
                let waits = left.waits(*number, lane) == Some(true);
                if is_known || waits && self.origin == Some(Origin::Ours) {
                    self.offered.already.add(unit, items(&requests));
                    continue;
                }
                if !waits {
                    let sealed: Vec<Accepted>;
                    (sealed, requests) = requests.into_iter().partition(|request| content.has(request));
                    if !sealed.is_empty() {
                        self.offered.in_segments.add(unit, items(&sealed));
                    }
                    if all_else_is_gone {
                        if !requests.is_empty() {
                            self.offered.already.add(unit, items(&requests));
                        }
                        continue;
                    }
                }
                let is_certain = waits && self.origin == Some(Origin::Foreign);
                self.offer(unit, identity.of_lane(lane), requests, is_certain)?;
            }
        }
        Ok(())
    }

    /// What of the file cannot be read, and is not in this log anyway.
    fn damage(&self, left: &Left) -> Option<Damage> {
        let (pages, tables) = match &left.damage {
            Some((pages, tables)) => (Some(*pages), tables.clone()),
            None => (None, BTreeSet::new()),
        };
        let mut out = Damage { pages, tables, ..Damage::default() };
        let is_ours = self.origin == Some(Origin::Ours);
        for header in left.missing.iter().filter(|header| !is_ours && !self.known.has(header)) {
            out.segments.push(format!("{}/{}", header.id.lane.0, header.id.sequence));
            out.items += header.items.total();
        }
        (pages != Some(0) || !out.segments.is_empty()).then_some(out)
    }

    /// Appends `requests`, all in one commit, unless they are there already or may not be repeated.
    fn offer(
        &mut self,
        unit: Unit,
        identity: Identity,
        requests: Vec<Accepted>,
        is_certain: bool,
    ) -> Result<(), WalError> {
        if requests.is_empty() {
            return Ok(());
        }
        let (items, raw) = (items(&requests), requests.iter().map(|r| r.body.len()).sum::<usize>());
        if self.known.identities.contains(&identity) {
            self.offered.already.add(unit, items);
            return Ok(());
        }
        if !is_certain && !self.may_repeat {
            self.offered.may_repeat.add(unit, items);
            return Ok(());
        }
        if self.pending.raw + raw > TARGET_RAW {
            self.flush()?;
        }
        if self.offered.full.is_some() {
            self.offered.no_room.add(unit, items);
            return Ok(());
        }
        self.pending.requests.extend(requests);
        self.pending.identities.push(identity);
        self.pending.raw += raw;
        self.pending.amounts.push((unit, items));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), WalError> {
        let Pending { requests, identities, amounts, .. } = std::mem::take(&mut self.pending);
        if requests.is_empty() {
            return Ok(());
        }
        let into = match self.wal.journal().append_salvaged(&requests, &identities) {
            Ok(()) => &mut self.offered.appended,
            Err(WalError::Full { budget }) => {
                self.offered.full = Some(budget);
                &mut self.offered.no_room
            }
            Err(error) => return Err(error),
        };
        amounts.into_iter().for_each(|(unit, items)| into.add(unit, items));
        Ok(())
    }
}
