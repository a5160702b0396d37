//! Rows of the shared tables: how they stand in PostgreSQL, and how in the spool's own tables, over which the rules work.
//!
//! Numbers of 64 bits without a sign are kept in `bigint` with the same bits. Everything is keyed by the satellite first.

use std::collections::BTreeMap;

use prost::Message;
use redb::{Key, ReadableTable, TableDefinition, WriteTransaction};
use tokio_postgres::types::ToSql;

use super::super::catalogue::CatalogueRecord;
use super::super::error::SpoolError;
use super::super::replay::ReplayRecord;
use super::super::tables::*;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cell {
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

pub(super) type Row = Vec<Cell>;

/// Rows by their keys.
pub(super) type Rows = BTreeMap<Row, Row>;

impl Cell {
    pub(super) const fn of(n: u64) -> Self {
        Self::Number(n as i64)
    }

    pub(super) fn number(&self) -> u64 {
        if let Self::Number(n) = self { *n as u64 } else { 0 }
    }

    pub(super) fn small<N: TryFrom<u64> + Default>(&self) -> N {
        N::try_from(self.number()).unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        if let Self::Bytes(bytes) = self { bytes } else { &[] }
    }

    pub(super) fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Numbers,
    Texts,
    Bytes,
}

impl Holds {
    const fn list_name(self) -> &'static str {
        match self {
            Self::Numbers => "int8[]",
            Self::Texts => "text[]",
            Self::Bytes => "bytea[]",
        }
    }

    /// Reads one value.
    pub(super) fn read(self, row: &tokio_postgres::Row, at: usize) -> Result<Cell, tokio_postgres::Error> {
        Ok(match self {
            Self::Numbers => Cell::Number(row.try_get(at)?),
            Self::Texts => Cell::Text(row.try_get(at)?),
            Self::Bytes => Cell::Bytes(row.try_get(at)?),
        })
    }
}

/// Columns with what they hold.
type Columns = &'static [(&'static str, Holds)];

/// A shared table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Of {
    Epoch,
    Committed,
    Recent,
    Groups,
    Pass,
    Contact,
    Gap,
    Dropped,
    Partial,
    PartialChunk,
    Entry,
    SegmentChunk,
    Base,
    BaseChunk,
    Place,
    EntryDead,
    Letter,
    LetterChunk,
    Catalogue,
    Kept,
    Replay,
    Alarm,
}

impl Of {
    pub(super) const ALL: [Self; 22] = [
        Self::Epoch,
        Self::Committed,
        Self::Recent,
        Self::Groups,
        Self::Pass,
        Self::Contact,
        Self::Gap,
        Self::Dropped,
        Self::Partial,
        Self::PartialChunk,
        Self::Entry,
        Self::SegmentChunk,
        Self::Base,
        Self::BaseChunk,
        Self::Place,
        Self::EntryDead,
        Self::Letter,
        Self::LetterChunk,
        Self::Catalogue,
        Self::Kept,
        Self::Replay,
        Self::Alarm,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::Committed => "committed",
            Self::Recent => "recent",
            Self::Groups => "segment_groups",
            Self::Pass => "pass",
            Self::Contact => "contact",
            Self::Gap => "gap",
            Self::Dropped => "dropped",
            Self::Partial => "partial",
            Self::PartialChunk => "partial_chunk",
            Self::Entry => "entry",
            Self::SegmentChunk => "segment_chunk",
            Self::Base => "base",
            Self::BaseChunk => "base_chunk",
            Self::Place => "place",
            Self::EntryDead => "entry_dead",
            Self::Letter => "letter",
            Self::LetterChunk => "letter_chunk",
            Self::Catalogue => "catalogue",
            Self::Kept => "kept",
            Self::Replay => "replay",
            Self::Alarm => "alarm",
        }
    }

    /// The columns of the key, in its order, then the others.
    pub(super) const fn columns(self) -> (Columns, Columns) {
        use Holds::{Bytes, Numbers, Texts};
        const RECORD: &[(&str, Holds)] = &[("record", Bytes)];
        const BYTES: &[(&str, Holds)] = &[("bytes", Bytes)];
        const SEQUENCE: &[(&str, Holds)] =
            &[("sat", Numbers), ("epoch", Numbers), ("lane", Numbers), ("sequence", Numbers)];
        match self {
            Self::Epoch => (&[("sat", Numbers), ("epoch", Numbers)], RECORD),
            Self::Committed => (SEQUENCE, &[("past", Numbers), ("top", Bytes)]),
            Self::Recent | Self::Groups | Self::Partial | Self::Base => (SEQUENCE, RECORD),
            Self::Alarm => (&[("sat", Numbers)], RECORD),
            Self::Pass | Self::Contact => (&[("sat", Numbers), ("start", Numbers)], RECORD),
            Self::Gap => (&[("sat", Numbers), ("epoch", Numbers), ("id", Numbers)], RECORD),
            Self::Dropped => (SEQUENCE, &[("past", Numbers), ("id", Numbers)]),
            Self::PartialChunk => {
                const KEY: &[(&str, Holds)] = &[
                    ("sat", Numbers),
                    ("epoch", Numbers),
                    ("lane", Numbers),
                    ("sequence", Numbers),
                    ("start", Numbers),
                ];
                (KEY, BYTES)
            }
            Self::Entry => (
                &[("sat", Numbers), ("lane", Numbers), ("entry", Numbers)],
                &[("payload", Numbers), ("open", Numbers), ("committed", Numbers), ("record", Bytes)],
            ),
            Self::SegmentChunk => (&[("sat", Numbers), ("payload", Numbers), ("piece", Numbers)], BYTES),
            Self::BaseChunk => {
                const KEY: &[(&str, Holds)] = &[
                    ("sat", Numbers),
                    ("epoch", Numbers),
                    ("lane", Numbers),
                    ("sequence", Numbers),
                    ("piece", Numbers),
                ];
                (KEY, BYTES)
            }
            Self::Place => (
                &[("sat", Numbers), ("lane", Numbers), ("exporter", Texts)],
                &[("entry", Numbers), ("request", Numbers), ("cut", Numbers)],
            ),
            Self::EntryDead => (&[("sat", Numbers), ("payload", Numbers), ("exporter", Texts)], RECORD),
            Self::Letter => (
                &[("sat", Numbers), ("id", Numbers)],
                &[("exporter", Texts), ("replay", Numbers), ("record", Bytes)],
            ),
            Self::LetterChunk => (&[("sat", Numbers), ("id", Numbers), ("piece", Numbers)], BYTES),
            Self::Catalogue => {
                (&[("sat", Numbers), ("payload", Numbers)], &[("committed", Numbers), ("record", Bytes)])
            }
            Self::Kept => (
                &[("sat", Numbers), ("payload", Numbers)],
                &[("committed", Numbers), ("bytes", Numbers), ("record", Bytes)],
            ),
            Self::Replay => (
                &[("sat", Numbers), ("id", Numbers)],
                &[("exporter", Texts), ("open", Numbers), ("record", Bytes)],
            ),
        }
    }

    /// Whether its rows are pieces that go when the row goes to which they belong.
    pub(super) const fn is_pieces(self) -> bool {
        matches!(
            self,
            Self::PartialChunk | Self::SegmentChunk | Self::BaseChunk | Self::EntryDead | Self::LetterChunk
        )
    }

    fn all_columns(self) -> impl Iterator<Item = (&'static str, Holds)> {
        let (key, rest) = self.columns();
        key.iter().chain(rest).copied()
    }

    /// The columns, as they are named in a query with `prefix`.
    pub(super) fn list(self, prefix: &str) -> String {
        let names: Vec<String> = self.all_columns().map(|(name, _)| format!("{prefix}{name}")).collect();
        names.join(", ")
    }

    /// `insert`, taking a list for each column.
    pub(super) fn upsert(self) -> String {
        let (key, rest) = self.columns();
        let lists: Vec<String> = self
            .all_columns()
            .enumerate()
            .map(|(n, (_, holds))| format!("${}::{}", n + 1, holds.list_name()))
            .collect();
        let names = |columns: &[(&'static str, Holds)]| {
            columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        };
        let set: Vec<String> = rest.iter().map(|(name, _)| format!("{name} = excluded.{name}")).collect();
        format!(
            "insert into {}({}) select * from unnest({}) on conflict ({}) do update set {}",
            self.name(),
            self.list(""),
            lists.join(", "),
            names(key),
            set.join(", ")
        )
    }

    /// `delete` of rows that begin with these first columns of the key, taking a list for each.
    pub(super) fn delete(self, columns: usize) -> String {
        let key = &self.columns().0[..columns];
        let lists: Vec<String> =
            key.iter().enumerate().map(|(n, (_, h))| format!("${}::{}", n + 1, h.list_name())).collect();
        let names: Vec<&str> = key.iter().map(|(name, _)| *name).collect();
        let same: Vec<String> = names.iter().map(|name| format!("t.{name} = k.{name}")).collect();
        format!(
            "delete from {} t using unnest({}) as k({}) where {}",
            self.name(),
            lists.join(", "),
            names.join(", "),
            same.join(" and ")
        )
    }

    /// `select` of rows that begin with these first columns of the key, taking a list for each.
    pub(super) fn by_keys(self, columns: usize) -> String {
        let key = &self.columns().0[..columns];
        let lists: Vec<String> =
            key.iter().enumerate().map(|(n, (_, h))| format!("${}::{}", n + 1, h.list_name())).collect();
        let names: Vec<&str> = key.iter().map(|(name, _)| *name).collect();
        let same: Vec<String> = names.iter().map(|name| format!("t.{name} = k.{name}")).collect();
        format!(
            "select {} from unnest({}) as k({}) join {} t on {}",
            self.list("t."),
            lists.join(", "),
            names.join(", "),
            self.name(),
            same.join(" and ")
        )
    }

    /// Reads a row of this table that has all its columns.
    pub(super) fn read(self, row: &tokio_postgres::Row) -> Result<(Row, Row), tokio_postgres::Error> {
        let keys = self.columns().0.len();
        let mut key = self
            .all_columns()
            .enumerate()
            .map(|(at, (_, holds))| holds.read(row, at))
            .collect::<Result<Row, _>>()?;
        let rest = key.split_off(keys);
        Ok((key, rest))
    }
}

/// A list of values, as a parameter of a query.
pub(super) enum List {
    /// A single text, where no list is wanted.
    Text(String),
    Numbers(Vec<i64>),
    Texts(Vec<String>),
    Bytes(Vec<Vec<u8>>),
}

impl List {
    pub(super) fn empty(holds: Holds) -> Self {
        match holds {
            Holds::Numbers => Self::Numbers(Vec::new()),
            Holds::Texts => Self::Texts(Vec::new()),
            Holds::Bytes => Self::Bytes(Vec::new()),
        }
    }

    pub(super) fn push(&mut self, cell: Cell) {
        match (self, cell) {
            (Self::Numbers(list), Cell::Number(n)) => list.push(n),
            (Self::Texts(list), Cell::Text(text)) => list.push(text),
            (Self::Bytes(list), Cell::Bytes(bytes)) => list.push(bytes),
            _ => unreachable!("a column holds one type"),
        }
    }

    pub(super) fn parameter(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Text(text) => text,
            Self::Numbers(list) => list,
            Self::Texts(list) => list,
            Self::Bytes(list) => list,
        }
    }
}

/// Turns rows into a list for each of the first `columns` columns of the table.
pub(super) fn lists(of: Of, columns: usize, rows: impl Iterator<Item = Row>) -> Vec<List> {
    let mut lists: Vec<List> = of.all_columns().take(columns).map(|(_, h)| List::empty(h)).collect();
    for row in rows {
        lists.iter_mut().zip(row).for_each(|(list, cell)| list.push(cell));
    }
    lists
}

/// The segment that a key begins with.
pub(super) fn sequence(r: &[Cell]) -> SequenceKey {
    SequenceKey { satellite: r[0].small(), epoch: r[1].number(), lane: r[2].small(), sequence: r[3].number() }
}

fn sequence_cells(k: SequenceKey) -> Row {
    vec![Cell::of(k.satellite.into()), Cell::of(k.epoch), Cell::of(k.lane.into()), Cell::of(k.sequence)]
}

/// Puts rows into a table whose values are bytes.
fn put<K: for<'a> Key<SelfType<'a> = K> + 'static>(
    tables: &WriteTransaction,
    to: TableDefinition<'static, K, &'static [u8]>,
    rows: &Rows,
    key: impl Fn(&[Cell]) -> K,
    value: usize,
) -> Result<(), SpoolError> {
    let mut table = tables.open_table(to)?;
    for (k, v) in rows {
        table.insert(key(k), v[value].bytes())?;
    }
    Ok(())
}

/// Puts rows of PostgreSQL into the spool's own table.
pub(super) fn fill(tables: &WriteTransaction, of: Of, rows: &Rows) -> Result<(), SpoolError> {
    match of {
        Of::Epoch => {
            put(tables, EPOCHS, rows, |k| EpochKey { satellite: k[0].small(), epoch: k[1].number() }, 0)
        }
        Of::Pass => put(tables, PASSES, rows, pass_key, 0),
        Of::Contact => put(tables, CONTACTS, rows, pass_key, 0),
        Of::Gap => put(tables, DROPS, rows, gap_key, 0),
        Of::Partial => put(tables, PARTIALS, rows, sequence, 0),
        Of::PartialChunk => put(tables, PARTIAL_CHUNKS, rows, |k| sequence(k).partial_at(k[4].number()), 0),
        Of::Entry => put(tables, ENTRIES, rows, entry_key, 3),
        Of::SegmentChunk => put(tables, SEGMENT_CHUNKS, rows, chunk_key, 0),
        Of::Base => put(tables, BASES, rows, sequence, 0),
        Of::Groups => put(tables, GROUPS, rows, sequence, 0),
        Of::BaseChunk => put(tables, BASE_CHUNKS, rows, |k| sequence(k).base_chunk(k[4].small()), 0),
        Of::Letter => {
            let mut table = tables.open_table(LETTERS)?;
            for (k, v) in rows {
                table.insert(k[1].number(), v[2].bytes())?;
            }
            Ok(())
        }
        Of::LetterChunk => put(tables, LETTER_CHUNKS, rows, chunk_key, 0),
        Of::Catalogue => put(tables, CATALOGUE, rows, |k| k[1].number(), 1),
        Of::Kept => put(tables, KEPT, rows, |k| k[1].number(), 2),
        Of::Alarm => put(tables, ALARMS, rows, |k| k[0].small(), 0),
        Of::Replay => {
            let mut table = tables.open_table(REPLAYS)?;
            for (k, v) in rows {
                let mut record: ReplayRecord = decode(v[2].bytes())?;
                record.cancelled |= record.is_open() && v[1].number() == 0;
                table.insert(k[1].number(), record.encode_to_vec().as_slice())?;
            }
            Ok(())
        }
        Of::Committed => {
            let mut table = tables.open_table(COMMITTED)?;
            for (k, v) in rows {
                let top = v[1].bytes().try_into().map_err(|_| wrong(of))?;
                table.insert(sequence(k), Run { end: v[0].number(), top })?;
            }
            Ok(())
        }
        Of::Recent => {
            let mut table = tables.open_table(RECENT)?;
            for (k, v) in rows {
                let value: &[u8; 56] = v[0].bytes().try_into().map_err(|_| wrong(of))?;
                table.insert(sequence(k), value)?;
            }
            Ok(())
        }
        Of::Dropped => {
            let mut table = tables.open_table(DROPPED)?;
            for (k, v) in rows {
                table.insert(sequence(k), DroppedRun { end: v[0].number(), id: v[1].number() })?;
            }
            Ok(())
        }
        Of::Place => {
            let mut table = tables.open_table(CURSORS)?;
            for (k, v) in rows {
                let cursor = Cursor { entry: v[0].number(), request: v[1].number(), cut: v[2].number() };
                table.insert((k[2].text(), k[0].small(), k[1].small()), cursor)?;
            }
            Ok(())
        }
        Of::EntryDead => {
            let mut table = tables.open_table(ENTRY_DEAD)?;
            for (k, v) in rows {
                let value: &[u8; 24] = v[0].bytes().try_into().map_err(|_| wrong(of))?;
                table.insert((k[1].number(), k[2].text()), value)?;
            }
            Ok(())
        }
    }
}

fn wrong(of: Of) -> SpoolError {
    SpoolError::damaged(&format!("a row of the shared table `{}` cannot be read", of.name()))
}

fn pass_key(k: &[Cell]) -> PassKey {
    PassKey { satellite: k[0].small(), start: k[1].number() }
}

fn gap_key(k: &[Cell]) -> DropKey {
    DropKey { satellite: k[0].small(), epoch: k[1].number(), id: k[2].number() }
}

fn entry_key(k: &[Cell]) -> EntryKey {
    EntryKey { satellite: k[0].small(), lane: k[1].small(), entry: k[2].number() }
}

fn chunk_key(k: &[Cell]) -> ChunkKey {
    ChunkKey { of: k[1].number(), piece: k[2].small() }
}

/// The satellite in the number of a payload.
pub(super) const fn satellite_of_payload(payload: u64) -> u64 {
    payload >> PAYLOAD_BITS
}

/// The satellite in the id of a letter.
pub(super) const fn satellite_of_letter(id: u64) -> u64 {
    id >> LETTER_BITS
}

/// Payloads and letters are numbered by satellite: the satellite's number stands above so many bits.
pub(super) const PAYLOAD_BITS: u32 = 36;
/// See [`PAYLOAD_BITS`]. Ids of letters are shown to people and stay below 2^53 for two million satellites.
pub(super) const LETTER_BITS: u32 = 32;

/// Takes the rows of the spool's own table.
pub(super) fn take(tables: &WriteTransaction, of: Of) -> Result<Rows, SpoolError> {
    let mut out = Rows::new();
    macro_rules! each {
        ($table:ident, |$k:ident, $v:ident| $row:expr) => {
            for row in tables.open_table($table)?.iter()? {
                let (key, value) = row?;
                let ($k, $v) = (key.value(), value.value());
                let (key, rest) = $row;
                out.insert(key, rest);
            }
        };
    }
    let bytes = |v: &[u8]| vec![Cell::Bytes(v.to_vec())];
    match of {
        Of::Epoch => each!(EPOCHS, |k, v| (vec![Cell::of(k.satellite.into()), Cell::of(k.epoch)], bytes(v))),
        Of::Pass => each!(PASSES, |k, v| (vec![Cell::of(k.satellite.into()), Cell::of(k.start)], bytes(v))),
        Of::Contact => {
            each!(CONTACTS, |k, v| (vec![Cell::of(k.satellite.into()), Cell::of(k.start)], bytes(v)));
        }
        Of::Gap => each!(DROPS, |k, v| {
            (vec![Cell::of(k.satellite.into()), Cell::of(k.epoch), Cell::of(k.id)], bytes(v))
        }),
        Of::Partial => each!(PARTIALS, |k, v| (sequence_cells(k), bytes(v))),
        Of::PartialChunk => each!(PARTIAL_CHUNKS, |k, v| {
            let at =
                SequenceKey { satellite: k.satellite, epoch: k.epoch, lane: k.lane, sequence: k.sequence };
            let mut key = sequence_cells(at);
            key.push(Cell::of(k.offset));
            (key, bytes(v))
        }),
        Of::Entry => each!(ENTRIES, |k, v| {
            let record: SegmentRecord = decode(v)?;
            let open = record.open().signals().iter().fold(0, |bits, s| bits | 1u64 << s as u8);
            let key = vec![Cell::of(k.satellite.into()), Cell::of(k.lane.into()), Cell::of(k.entry)];
            let mut rest = vec![Cell::of(record.payload), Cell::of(open), Cell::of(record.committed)];
            rest.extend(bytes(v));
            (key, rest)
        }),
        Of::SegmentChunk => each!(SEGMENT_CHUNKS, |k, v| {
            let satellite = satellite_of_payload(k.of);
            (vec![Cell::of(satellite), Cell::of(k.of), Cell::of(k.piece.into())], bytes(v))
        }),
        Of::Groups => each!(GROUPS, |k, v| (sequence_cells(k), bytes(v))),
        Of::Base => each!(BASES, |k, v| (sequence_cells(k), bytes(v))),
        Of::BaseChunk => each!(BASE_CHUNKS, |k, v| {
            let at =
                SequenceKey { satellite: k.satellite, epoch: k.epoch, lane: k.lane, sequence: k.sequence };
            let mut key = sequence_cells(at);
            key.push(Cell::of(k.piece.into()));
            (key, bytes(v))
        }),
        Of::Committed => each!(COMMITTED, |k, v| {
            (sequence_cells(k), vec![Cell::of(v.end), Cell::Bytes(v.top.to_vec())])
        }),
        Of::Recent => each!(RECENT, |k, v| (sequence_cells(k), bytes(v))),
        Of::Dropped => each!(DROPPED, |k, v| (sequence_cells(k), vec![Cell::of(v.end), Cell::of(v.id)])),
        Of::Place => each!(CURSORS, |k, v| {
            let (exporter, satellite, lane) = k;
            let key =
                vec![Cell::of(satellite.into()), Cell::of(lane.into()), Cell::Text(exporter.to_owned())];
            (key, vec![Cell::of(v.entry), Cell::of(v.request), Cell::of(v.cut)])
        }),
        Of::EntryDead => each!(ENTRY_DEAD, |k, v| {
            let (payload, exporter) = k;
            let satellite = Cell::of(satellite_of_payload(payload));
            (vec![satellite, Cell::of(payload), Cell::Text(exporter.to_owned())], bytes(v))
        }),
        Of::Letter => each!(LETTERS, |id, v| {
            let record: LetterRecord = decode(v)?;
            let key = vec![Cell::of(satellite_of_letter(id)), Cell::of(id)];
            let mut rest = vec![Cell::Text(record.exporter), Cell::of(record.replay.into())];
            rest.extend(bytes(v));
            (key, rest)
        }),
        Of::Catalogue => each!(CATALOGUE, |payload, v| {
            let committed = decode::<CatalogueRecord>(v)?.committed;
            let key = vec![Cell::of(satellite_of_payload(payload)), Cell::of(payload)];
            (key, vec![Cell::of(committed), Cell::Bytes(v.to_vec())])
        }),
        Of::Kept => each!(KEPT, |payload, v| {
            let record: SegmentRecord = decode(v)?;
            let key = vec![Cell::of(satellite_of_payload(payload)), Cell::of(payload)];
            (key, vec![Cell::of(record.committed), Cell::of(record.bytes()), Cell::Bytes(v.to_vec())])
        }),
        Of::Alarm => each!(ALARMS, |satellite, v| (vec![Cell::of(satellite.into())], bytes(v))),
        Of::Replay => each!(REPLAYS, |id, v| {
            let record: ReplayRecord = decode(v)?;
            let mut rest = vec![Cell::Text(record.exporter.clone()), Cell::of(record.is_open().into())];
            rest.extend(bytes(v));
            (vec![Cell::of(0), Cell::of(id)], rest)
        }),
        Of::LetterChunk => each!(LETTER_CHUNKS, |k, v| {
            let satellite = satellite_of_letter(k.of);
            (vec![Cell::of(satellite), Cell::of(k.of), Cell::of(k.piece.into())], bytes(v))
        }),
    }
    Ok(out)
}
