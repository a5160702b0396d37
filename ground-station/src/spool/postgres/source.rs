//! A station's own file, read as rows of the shared tables.
//!
//! In the file payloads and letters are numbered over all satellites; here the satellite's number stands above the same number, so
//! their order stays and a second reading gives the same rows. Everything else only changes the number of its satellite.

use prost::Message;
use redb::{ReadableTable, WriteTransaction};

use super::super::catalogue::CatalogueRecord;
use super::super::error::SpoolError;
use super::super::file::View;
use super::super::tables::*;
use super::rows::{Cell, LETTER_BITS, Of, PAYLOAD_BITS, Row, Rows, sequence, take};
use super::scratch::{Loaded, SatelliteRow, Tally, memory, read_satellite, set_numbers};

/// A satellite's number in the file and in the shared ledger.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    pub(super) from: u32,
    pub(super) to: u32,
}

impl Moved {
    const fn payload(self, number: u64) -> u64 {
        (self.to as u64) << PAYLOAD_BITS | number
    }

    const fn letter(self, id: u64) -> u64 {
        (self.to as u64) << LETTER_BITS | id
    }
}

/// The table of the pieces that belong to rows of this one.
pub(super) const fn pieces_of(owner: Of) -> Option<Of> {
    match owner {
        Of::Entry => Some(Of::SegmentChunk),
        Of::Base => Some(Of::BaseChunk),
        Of::Partial => Some(Of::PartialChunk),
        Of::Letter => Some(Of::LetterChunk),
        _ => None,
    }
}

/// The columns with which the keys of a row's pieces begin.
pub(super) fn key_of_pieces(owner: Of, key: &Row, rest: &Row) -> Row {
    match owner {
        Of::Entry => vec![key[0].clone(), rest[0].clone()],
        _ => key.clone(),
    }
}

/// The tables that are read at once: all but pieces of payloads.
pub(super) fn whole_tables() -> impl Iterator<Item = Of> {
    Of::ALL.into_iter().filter(|of| !of.is_pieces() || *of == Of::EntryDead)
}

/// What the file has of a satellite, without the pieces of payloads.
pub(super) fn satellite(
    view: &View<'_>,
    name: &str,
    moved: Moved,
) -> Result<(SatelliteRow, Loaded), SpoolError> {
    let db = memory()?;
    let to = db.begin_write()?;
    let usage = &view.contents.usage;
    let of = |bytes: &std::collections::BTreeMap<u32, u64>| bytes.get(&moved.from).copied().unwrap_or(0);
    let tally = Tally {
        used: of(&usage.by_satellite),
        partial: of(&usage.partial),
        bases: of(&usage.bases),
        ..Tally::default()
    };
    let meta = view.tables.open_table(META)?;
    let next = |name: &str| Ok::<_, SpoolError>(meta.get(name)?.map_or(1, |v| v.value()));
    let mut row = SatelliteRow {
        number: moved.to,
        name: name.to_owned(),
        record: Vec::new(),
        tally,
        next_payload: next("next_entry")?,
        next_entry: next(&format!("entry.{}", moved.from))?,
        next_letter: next("next_letter")?,
        next_gap: next("next_gap")?,
    };
    if row.next_payload >> PAYLOAD_BITS != 0 || row.next_letter >> LETTER_BITS != 0 {
        return Err(SpoolError::damaged("its payloads or dead letters have larger numbers than fit"));
    }
    set_numbers(&to, &row)?;
    copy_ledger(view, &to, moved)?;
    copy_spool(view, &to, moved)?;
    if let Some(record) = view.tables.open_table(SATELLITES)?.get(name)? {
        let record = SatelliteRecord { number: moved.to, ..decode(record.value())? };
        to.open_table(SATELLITES)?.insert(name, record.encode_to_vec().as_slice())?;
    }
    read_satellite(&to, &mut row)?;
    let tables = whole_tables().map(|of| Ok((of, take(&to, of)?))).collect::<Result<_, SpoolError>>()?;
    to.abort()?;
    Ok((row, tables))
}

/// Copies the rows of a range, with keys and values as `$row` makes them.
macro_rules! copy {
    ($view:ident, $to:ident, $table:ident, $range:expr, |$k:ident, $v:ident| $row:expr) => {{
        let mut table = $to.open_table($table)?;
        for row in $view.tables.open_table($table)?.range($range)? {
            let (key, value) = row?;
            let ($k, $v) = (key.value(), value.value());
            let (key, value) = $row;
            table.insert(key, value)?;
        }
    }};
}

/// What says what was committed, dropped and heard, and the counts.
fn copy_ledger(view: &View<'_>, to: &WriteTransaction, moved: Moved) -> Result<(), SpoolError> {
    let Moved { from, to: satellite } = moved;
    let sequences = SequenceKey::satellites(from, from);
    let passes = PassKey { satellite: from, start: 0 }..=PassKey { satellite: from, start: u64::MAX };
    copy!(view, to, COMMITTED, sequences.clone(), |k, v| (SequenceKey { satellite, ..k }, v));
    copy!(view, to, RECENT, sequences.clone(), |k, v| (SequenceKey { satellite, ..k }, v));
    copy!(view, to, GROUPS, sequences.clone(), |k, v| (SequenceKey { satellite, ..k }, v));
    copy!(view, to, DROPPED, sequences, |k, v| (SequenceKey { satellite, ..k }, v));
    copy!(view, to, PASSES, passes.clone(), |k, v| (PassKey { satellite, ..k }, v));
    copy!(view, to, CONTACTS, passes, |k, v| (PassKey { satellite, ..k }, v));
    let drop = |epoch, id| DropKey { satellite: from, epoch, id };
    copy!(view, to, DROPS, drop(0, 0)..=drop(u64::MAX, u64::MAX), |k, v| (DropKey { satellite, ..k }, v));
    let counter = |kind, signal, reason| CounterKey { satellite: from, kind, signal, reason };
    let counters = counter(0, 0, 0)..=counter(u8::MAX, u8::MAX, u8::MAX);
    copy!(view, to, COUNTERS, counters, |k, v| (CounterKey { satellite, ..k }, v));
    let mut epochs = to.open_table(EPOCHS)?;
    for row in view.tables.open_table(EPOCHS)?.range(EpochKey::all(from))? {
        let (key, value) = row?;
        let record: EpochRecord = decode(value.value())?;
        let record = EpochRecord { next_entry: moved.payload(record.next_entry), ..record };
        epochs.insert(EpochKey { satellite, ..key.value() }, record.encode_to_vec().as_slice())?;
    }
    Ok(())
}

/// What is still to be exported, and what that depends on.
fn copy_spool(view: &View<'_>, to: &WriteTransaction, moved: Moved) -> Result<(), SpoolError> {
    let Moved { from, to: satellite } = moved;
    let sequences = SequenceKey::satellites(from, from);
    copy!(view, to, PARTIALS, sequences.clone(), |k, v| (SequenceKey { satellite, ..k }, v));
    let mut bases = to.open_table(BASES)?;
    for row in view.tables.open_table(BASES)?.range(sequences)? {
        let (key, value) = row?;
        let record: BaseRecord = decode(value.value())?;
        // What the file keeps after its export stays in the file.
        if record.only_kept {
            continue;
        }
        let record = BaseRecord { entry: moved.payload(record.entry), kept_for: 0, ..record };
        bases.insert(SequenceKey { satellite, ..key.value() }, record.encode_to_vec().as_slice())?;
    }
    let (mut entries, mut dead) = (to.open_table(ENTRIES)?, to.open_table(ENTRY_DEAD)?);
    let refused = view.tables.open_table(ENTRY_DEAD)?;
    let first = EntryKey { satellite: from, lane: 0, entry: 0 };
    let last = EntryKey { satellite: from, lane: u8::MAX, entry: u64::MAX };
    for row in view.tables.open_table(ENTRIES)?.range(first..=last)? {
        let (key, value) = row?;
        let record: SegmentRecord = decode(value.value())?;
        for row in refused.range((record.payload, "")..(record.payload + 1, ""))? {
            let (of, items) = row?;
            dead.insert((moved.payload(record.payload), of.value().1), items.value())?;
        }
        let payload = moved.payload(record.payload);
        let record = SegmentRecord { number: satellite, payload, ..record };
        entries.insert(EntryKey { satellite, ..key.value() }, record.encode_to_vec().as_slice())?;
    }
    let mut cursors = to.open_table(CURSORS)?;
    for row in view.tables.open_table(CURSORS)?.iter()? {
        let (key, value) = row?;
        let (exporter, of, lane) = key.value();
        if of == from {
            cursors.insert((exporter, satellite, lane), value.value())?;
        }
    }
    let mut catalogue = to.open_table(CATALOGUE)?;
    for row in view.tables.open_table(CATALOGUE)?.iter()? {
        let (payload, value) = row?;
        let mut record: CatalogueRecord = decode(value.value())?;
        if record.satellite == from {
            record.satellite = satellite;
            catalogue.insert(moved.payload(payload.value()), record.encode_to_vec().as_slice())?;
        }
    }
    if let Some(alarms) = view.tables.open_table(ALARMS)?.get(from)? {
        to.open_table(ALARMS)?.insert(satellite, alarms.value())?;
    }
    let mut letters = to.open_table(LETTERS)?;
    for row in view.tables.open_table(LETTERS)?.iter()? {
        let (id, value) = row?;
        let record: LetterRecord = decode(value.value())?;
        if record.number == from {
            let record = LetterRecord { number: satellite, ..record };
            letters.insert(moved.letter(id.value()), record.encode_to_vec().as_slice())?;
        }
    }
    Ok(())
}

/// The pieces that belong to a row of the shared table `owner`.
pub(super) fn pieces(view: &View<'_>, owner: Of, of: (&Row, &Row), moved: Moved) -> Result<Rows, SpoolError> {
    let key = key_of_pieces(owner, of.0, of.1);
    let mut out = Rows::new();
    let mut add = |at: u64, bytes: &[u8]| {
        let mut key = key.clone();
        key.push(Cell::of(at));
        out.insert(key, vec![Cell::Bytes(bytes.to_vec())]);
    };
    let numbered = |bits: u32| ChunkKey::all(key[1].number() & ((1 << bits) - 1));
    let named = || SequenceKey { satellite: moved.from, ..sequence(&key) };
    match owner {
        Of::Entry => {
            for row in view.tables.open_table(SEGMENT_CHUNKS)?.range(numbered(PAYLOAD_BITS))? {
                let (key, value) = row?;
                add(key.value().piece.into(), value.value());
            }
        }
        Of::Letter => {
            for row in view.tables.open_table(LETTER_CHUNKS)?.range(numbered(LETTER_BITS))? {
                let (key, value) = row?;
                add(key.value().piece.into(), value.value());
            }
        }
        Of::Base => {
            for row in view.tables.open_table(BASE_CHUNKS)?.range(named().base())? {
                let (key, value) = row?;
                add(key.value().piece.into(), value.value());
            }
        }
        Of::Partial => {
            for row in view.tables.open_table(PARTIAL_CHUNKS)?.range(named().partial())? {
                let (key, value) = row?;
                add(key.value().offset, value.value());
            }
        }
        _ => {}
    }
    Ok(out)
}
