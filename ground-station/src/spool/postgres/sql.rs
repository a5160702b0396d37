//! The statements, each text made once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::rows::{List, Of};

/// What is asked of one of the shared tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    /// Rows go in, in place of those with the same keys. A list for each column.
    Upsert,
    /// Rows go that begin with so many columns of the key. A list for each.
    Delete(usize),
    /// Every row of these satellites.
    OfSatellites,
    /// Every row.
    All,
    /// Rows that begin with so many columns of the key. A list for each.
    Keys(usize),
}

static TEXTS: LazyLock<BTreeMap<(Of, Ask), String>> = LazyLock::new(|| {
    let mut texts = BTreeMap::new();
    for of in Of::ALL {
        let (name, columns, keys) = (of.name(), of.list(""), of.columns().0.len());
        texts.insert((of, Ask::Upsert), of.upsert());
        for first in 1..=keys {
            texts.insert((of, Ask::Delete(first)), of.delete(first));
            texts.insert((of, Ask::Keys(first)), of.by_keys(first));
        }
        texts.insert(
            (of, Ask::OfSatellites),
            format!("select {columns} from {name} where sat = any($1::int8[])"),
        );
        texts.insert((of, Ask::All), format!("select {columns} from {name}"));
    }
    texts
});

/// The text of a statement.
pub(super) fn text(of: Of, ask: Ask) -> &'static str {
    TEXTS.get(&(of, ask)).map_or("", String::as_str)
}

/// A question whose answer is rows of a shared table, all columns of each.
pub(super) struct Query {
    pub(super) of: Of,
    pub(super) text: &'static str,
    pub(super) lists: Vec<List>,
}

impl Query {
    /// Every row of these satellites.
    pub(super) fn of_satellites(of: Of, satellites: &[i64]) -> Self {
        Self { of, text: text(of, Ask::OfSatellites), lists: vec![List::Numbers(satellites.to_vec())] }
    }

    /// Rows whose keys begin with one of these.
    pub(super) fn keys(of: Of, lists: Vec<List>) -> Self {
        Self { of, text: text(of, Ask::Keys(lists.len())), lists }
    }

    /// Rows whose keys begin with these numbers.
    pub(super) fn key(of: Of, key: &[u64]) -> Self {
        Self::keys(of, key.iter().map(|n| List::Numbers(vec![*n as i64])).collect())
    }
}

/// Locks the rows of satellites, which is the lock of everything that they have; in the order of their numbers, so that two
/// transactions never wait for each other.
pub(super) const LOCK: &str = "select sat, name, record, tally, next_payload, next_entry, next_letter, next_gap \
                               from satellite where sat = any($1::int8[]) order by sat for update";

/// The same without a lock.
pub(super) const SATELLITES: &str =
    "select sat, name, record, tally, next_payload, next_entry, next_letter, next_gap from satellite";

/// Writes the rows of satellites back.
pub(super) const UNLOCK: &str = "update satellite s set record = k.record, tally = k.tally, next_payload = k.next_payload, \
    next_entry = k.next_entry, next_letter = k.next_letter, next_gap = k.next_gap, used = k.used \
    from unnest($1::int8[], $2::bytea[], $3::bytea[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[]) \
    as k(sat, record, tally, next_payload, next_entry, next_letter, next_gap, used) where s.sat = k.sat";

/// What a commit of segments looks at, of each: satellite, epoch, lane and sequence in four lists.
pub(super) const NAMED: &str =
    "unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[]) as k(sat, epoch, lane, sequence)";

macro_rules! lazy {
    ($($(#[$meta:meta])* $name:ident = $text:expr;)*) => {
        $($(#[$meta])* pub(super) fn $name() -> &'static str {
            static TEXT: LazyLock<String> = LazyLock::new(|| $text);
            &TEXT
        })*
    };
}

lazy! {
    /// The runs that these sequences are in or that end before them, and those that begin right behind them.
    runs_around = format!(
        "select c.sat, c.epoch, c.lane, c.sequence, c.past, c.top from {NAMED} cross join lateral (\
         (select * from committed c where c.sat = k.sat and c.epoch = k.epoch and c.lane = k.lane \
          and c.sequence <= k.sequence order by c.sequence desc limit 1) union all \
         (select * from committed c where c.sat = k.sat and c.epoch = k.epoch and c.lane = k.lane \
          and c.sequence = k.sequence + 1)) c"
    );
    /// What is remembered of these sequences, in every epoch of the satellite.
    remembered = format!(
        "select r.sat, r.epoch, r.lane, r.sequence, r.record from {NAMED} \
         cross join lateral (select k.epoch union all \
         select e.epoch from epoch e where e.sat = k.sat and e.epoch <> k.epoch) e \
         join recent r on r.sat = k.sat and r.epoch = e.epoch and r.lane = k.lane and r.sequence = k.sequence"
    );
    /// The dropped range that each sequence may be in.
    dropped_around = format!(
        "select d.sat, d.epoch, d.lane, d.sequence, d.past, d.id from {NAMED} cross join lateral (\
         select * from dropped d where d.sat = k.sat and d.epoch = k.epoch and d.lane = k.lane \
         and d.sequence <= k.sequence order by d.sequence desc limit 1) d"
    );
}

macro_rules! forget {
    ($table:literal) => {
        concat!(
            "delete from ",
            $table,
            " r using unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[]) as k(sat, epoch, lane, sequence) \
             where r.sat = k.sat and r.epoch = k.epoch and r.lane = k.lane and r.sequence <= k.sequence"
        )
    };
}

/// A lane forgets what came this long before the segments that it now remembers.
pub(super) const FORGET: [&str; 2] = [forget!("recent"), forget!("segment_groups")];

/// What is refused of an entry by exporters: satellite, lane, entry.
pub(super) const DEAD_OF: &str = "select d.sat, d.payload, d.exporter, d.record from \
    unnest($1::int8[], $2::int8[], $3::int8[]) as k(sat, lane, entry) \
    join entry e on e.sat = k.sat and e.lane = k.lane and e.entry = k.entry \
    join entry_dead d on d.sat = e.sat and d.payload = e.payload";

/// What the catalogue has of an entry: satellite, lane, entry.
pub(super) const CATALOGUE_OF: &str = "select c.sat, c.payload, c.committed, c.record from \
    unnest($1::int8[], $2::int8[], $3::int8[]) as k(sat, lane, entry) \
    join entry e on e.sat = k.sat and e.lane = k.lane and e.entry = k.entry \
    join catalogue c on c.sat = e.sat and c.payload = e.payload";

/// The oldest segment that is kept of each of these satellites.
pub(super) const OLDEST_KEPT: &str = "select distinct on (sat) sat, payload, committed, bytes, record from kept \
    where sat = any($1::int8[]) order by sat, payload";

/// The pieces of an entry's payload: satellite, lane, entry.
pub(super) const PIECES_OF: &str = "select c.sat, c.payload, c.piece, c.bytes from \
    unnest($1::int8[], $2::int8[], $3::int8[]) as k(sat, lane, entry) \
    join entry e on e.sat = k.sat and e.lane = k.lane and e.entry = k.entry \
    join segment_chunk c on c.sat = e.sat and c.payload = e.payload";
