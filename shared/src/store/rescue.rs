//! A reader of redb files that goes on behind what is damaged.
//!
//! redb itself stops at the first page whose checksum does not hold. Here a tree is walked from its root, each page is compared
//! with the checksum that its parent has of it, and a page that does not hold costs the entries below it alone. What comes out
//! was written, is current, and is whole. [`Rescue::scan`] looks at every page of the file besides, whatever points to it: what it
//! finds may be old or changed, so its entries need checksums and numbers of their own.
//!
//! The layout is that of redb's file format 3 (`docs/design.md` there): a header page with two commit slots; pages of 4 KiB times
//! a power of two; leaves with a table of ends, keys and values; branches with their children's checksums and numbers.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;

use twox_hash::XxHash3_128;

use crate::env::StoreFile;

/// Bit 0 says which slot is the current one.
const GOD_BYTE: usize = 9;
pub(super) const HEADER: usize = 320;
const SLOTS: [usize; 2] = [64, 192];
const SLOT: usize = 128;
/// In a slot: whether there are tables, their root, and the checksum of what stands before it.
const HAS_ROOT: usize = 1;
const ROOT: usize = 8;
const SLOT_CHECKSUM: usize = 112;
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// No tree is so high, and no page so large.
const MOST_DEPTH: usize = 64;
const LARGEST_PAGE: u64 = 1 << 32;

/// How much of a table was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every entry, or there is no such table.
    Whole,
    /// Some entries are missing.
    Part,
    /// Nothing can be said: what points to the table is damaged.
    Unknown,
}

/// A file that may be damaged.
pub struct Rescue<'a> {
    file: &'a dyn StoreFile,
    length: u64,
    /// The commits, the latest first; `None` where the header does not say.
    commits: Vec<Option<Commit>>,
    /// Pages that did not hold.
    bad: Cell<u64>,
}

/// The root of a commit's tables; `None`: it has none.
type Commit = Option<Pointer>;

/// How redb lays out every file that it makes here. The header says so too, without a checksum: a bit of it costs nothing.
const PAGE: u64 = 4096;
const REGION: u64 = PAGE << 20;

/// What a parent knows of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pointer {
    page: u64,
    checksum: u128,
}

/// Where a value lies in a file: enough to read it again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    at: u64,
    /// Bytes of the value.
    pub length: usize,
}

/// Is shown a key, its value, and where that lies.
type Each<'e> = &'e mut dyn FnMut(&[u8], &[u8], Spot);

/// Is shown a key, how its value begins, and how long that is.
type EachHead<'e> = &'e mut dyn FnMut(&[u8], &[u8], usize);

/// The widths of a table's keys and values; `None`: they vary.
type Widths = (Option<usize>, Option<usize>);

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    number(bytes, at).map(|b| u32::from_le_bytes(b) as usize)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

fn pointer_at(bytes: &[u8], at: usize) -> Option<Pointer> {
    Some(Pointer { page: u64_at(bytes, at)?, checksum: number(bytes, at + 8).map(u128::from_le_bytes)? })
}

/// Where a page is and how long: its number is 20 bits of index, 20 of region, and 5 of order at the top.
fn place(page: u64) -> (u64, u64) {
    let order = page >> 59;
    let (index, region) = (page & (0xf_ffff >> order.min(20)), page >> 20 & 0xf_ffff);
    let length = PAGE << order.min(20);
    (PAGE + region * REGION + index * length, length)
}

/// The commits that a header has, the latest first; `None` for one whose slot has not the checksum that it should have.
fn commits(header: &[u8; HEADER]) -> [Option<Commit>; 2] {
    let current = usize::from(header[GOD_BYTE] & 1);
    [current, 1 - current].map(|at| {
        let slot = &header[SLOTS[at]..SLOTS[at] + SLOT];
        let checksum = u128::from_le_bytes(number(slot, SLOT_CHECKSUM)?);
        let is_whole = checksum == XxHash3_128::oneshot(&slot[..SLOT_CHECKSUM]);
        is_whole.then(|| (slot[HAS_ROOT] != 0).then(|| pointer_at(slot, ROOT)).flatten())
    })
}

/// Whether this is a header of redb with a commit.
pub(super) fn is_header(header: &[u8; HEADER]) -> bool {
    commits(header).iter().any(Option::is_some)
}

impl<'a> Rescue<'a> {
    /// Looks at the header; `None` when the file has no room for one. Where nothing of it can be read, no table is known, and pages
    /// can be scanned.
    pub fn open(file: &'a dyn StoreFile) -> Option<Self> {
        let length = file.len().ok()?;
        let mut header = [0; HEADER];
        if file.read(0, &mut header).is_err() {
            (length >= PAGE).then_some(())?;
            header.fill(0);
        }
        Some(Self { file, length, commits: commits(&header).to_vec(), bad: Cell::new(0) })
    }

    /// The same file without the commit before the latest.
    #[must_use]
    pub fn latest_alone(mut self) -> Self {
        self.commits.truncate(1);
        self
    }

    /// Shows `each` every entry of a table that can be had, in the order of the keys. The commit before the latest takes its place
    /// where the latest one's list of tables is damaged.
    pub fn table(&self, name: &str, mut each: impl FnMut(&[u8], &[u8])) -> Extent {
        self.table_spots(name, |key, value, _| each(key, value))
    }

    /// The same with where each value lies.
    pub fn table_spots(&self, name: &str, mut each: impl FnMut(&[u8], &[u8], Spot)) -> Extent {
        self.walk_table(name, &mut each)
    }

    fn walk_table(&self, name: &str, each: Each<'_>) -> Extent {
        for root in self.commits.iter().flatten().flatten() {
            let mut found = None;
            let whole = self.walk(*root, (None, None), 0, &mut |key, value, _| {
                if key == name.as_bytes() {
                    found = table_root(value);
                }
            });
            match found {
                Some((None, _)) => return Extent::Whole,
                Some((Some(root), widths)) => {
                    let any = Cell::new(false);
                    let whole = self.walk(root, widths, 0, &mut |key, value, spot| {
                        any.set(true);
                        each(key, value, spot);
                    });
                    return if whole { Extent::Whole } else { Extent::Part };
                }
                None if whole => return Extent::Whole,
                None => {}
            }
        }
        self.without_tables()
    }

    /// The latest commit may have no table at all.
    fn without_tables(&self) -> Extent {
        if self.commits.first() == Some(&Some(None)) { Extent::Whole } else { Extent::Unknown }
    }

    /// The names of the tables of the latest commit, or of the one before where that has none to be read; and whether that is all.
    pub fn tables(&self) -> (Extent, BTreeSet<String>) {
        let mut names = BTreeSet::new();
        for root in self.commits.iter().flatten().flatten() {
            let whole = self.walk(*root, (None, None), 0, &mut |name, _, _| {
                names.insert(String::from_utf8_lossy(name).into_owned());
            });
            match (whole, names.is_empty()) {
                (true, _) => return (Extent::Whole, names),
                (false, false) => return (Extent::Part, names),
                (false, true) => {}
            }
        }
        (self.without_tables(), names)
    }

    /// How many pages of the latest commit cannot be read, and the tables that they are missing in; `None`: the header does not say
    /// where its tables lie.
    pub fn damage(&self) -> Option<(u64, BTreeSet<String>)> {
        let (mut tables, mut damaged) = (Vec::new(), BTreeSet::new());
        let Some(root) = (*self.commits.first()?)? else { return Some((0, damaged)) };
        self.bad.set(0);
        self.walk(root, (None, None), 0, &mut |name, value, _| {
            tables.push((String::from_utf8_lossy(name).into_owned(), table_root(value)));
        });
        for (name, root) in tables {
            if let Some((Some(root), widths)) = root
                && !self.walk(root, widths, 0, &mut |_, _, _| {})
            {
                damaged.insert(name);
            }
        }
        Some((self.bad.get(), damaged))
    }

    /// Shows every entry below a page; whether nothing was damaged.
    fn walk(&self, at: Pointer, widths: Widths, depth: usize, each: Each<'_>) -> bool {
        self.walk_below(at, widths, depth, each).unwrap_or_else(|| {
            self.bad.set(self.bad.get() + 1);
            false
        })
    }

    /// The same; `None`: this page itself is damaged.
    fn walk_below(&self, at: Pointer, widths: Widths, depth: usize, each: Each<'_>) -> Option<bool> {
        let page = self.page(at.page)?;
        let whole = |end: Option<usize>| {
            end.and_then(|end| page.get(..end)).is_some_and(|b| XxHash3_128::oneshot(b) == at.checksum)
        };
        match page.first() {
            Some(&LEAF) => {
                let leaf = Leaf::read(&page, widths).filter(|l| whole(l.end()))?;
                leaf.each(place(at.page).0, each);
                Some(true)
            }
            Some(&BRANCH) if depth < MOST_DEPTH => {
                let children = branch(&page, widths.0).filter(|b| whole(Some(b.end)))?.pointers;
                // Every child is looked at, whatever is wrong with the one before.
                let below = |all, child| self.walk(child, widths, depth + 1, each) & all;
                Some(children.into_iter().fold(true, below))
            }
            _ => None,
        }
    }

    /// Shows `each` every entry of a table of a file that is known to be whole: its key, how its value begins, up to `most` bytes, and
    /// how long it is. Nothing else is read, nor is anything verified. `None`: the table must be read otherwise.
    pub fn heads(&self, name: &str, most: usize, mut each: impl FnMut(&[u8], &[u8], usize)) -> Option<()> {
        let mut found = None;
        let whole = self.walk((*self.commits.first()?)??, (None, None), 0, &mut |key, value, _| {
            if key == name.as_bytes() {
                found = table_root(value);
            }
        });
        match found.filter(|_| whole)? {
            (None, _) => Some(()),
            (Some(root), widths) => self.walk_heads(root.page, widths, most, 0, &mut each),
        }
    }

    fn walk_heads(
        &self,
        number: u64,
        widths: Widths,
        most: usize,
        depth: usize,
        each: EachHead<'_>,
    ) -> Option<()> {
        let (at, length) = place(number);
        let mut page = vec![0; PAGE as usize];
        self.file.read(at, &mut page).ok()?;
        if page[0] == BRANCH && depth < MOST_DEPTH {
            if length > PAGE {
                page = self.page(number)?;
            }
            let children = branch(&page, widths.0)?.pointers;
            return children
                .into_iter()
                .try_for_each(|child| self.walk_heads(child.page, widths, most, depth + 1, each));
        }
        let leaf = Leaf::read(&page, widths).filter(|_| page[0] == LEAF)?;
        for n in 0..leaf.pairs {
            let (key, value) = leaf.place(n)?;
            let length = value.len().min(most);
            let head = match page.get(value.start..value.start + length) {
                Some(head) => head.to_vec(),
                None => {
                    let mut head = vec![0; length];
                    self.file.read(at + value.start as u64, &mut head).ok()?;
                    head
                }
            };
            each(page.get(key)?, &head, value.len());
        }
        Some(())
    }

    fn page(&self, number: u64) -> Option<Vec<u8>> {
        let (at, length) = place(number);
        // The last page may be cut off.
        let length = length.min(LARGEST_PAGE).min(self.length.checked_sub(at)?);
        let mut page = vec![0; length as usize];
        self.file.read(at, &mut page).ok()?;
        Some(page)
    }

    /// Shows `each` every entry that looks like one of a table with keys of `width` bytes and values of any length, in any page of
    /// the file: current, old, or changed.
    pub fn scan(&self, width: usize, mut each: impl FnMut(&[u8], &[u8])) {
        self.scan_spots(width, |key, value, _| each(key, value));
    }

    /// The same with where each value lies.
    pub fn scan_spots(&self, width: usize, mut each: impl FnMut(&[u8], &[u8], Spot)) {
        self.scan_pages(width, &mut each);
    }

    fn scan_pages(&self, width: usize, each: Each<'_>) {
        let mut at = PAGE;
        while at + PAGE <= self.length {
            let mut page = vec![0; PAGE as usize];
            let widths = (Some(width), None);
            if self.file.read(at, &mut page).is_ok()
                && page[0] == LEAF
                && let Some(end) = Leaf::read(&page, widths).and_then(|leaf| leaf.end())
                && end as u64 <= (self.length - at).min(LARGEST_PAGE)
            {
                page.resize(end.max(page.len()), 0);
                if self.file.read(at, &mut page[..end]).is_ok()
                    && let Some(leaf) = Leaf::read(&page, widths)
                {
                    leaf.each(at, each);
                }
            }
            at += PAGE;
        }
    }

    /// The values at these places, one behind the other.
    pub fn values(&self, spots: &[Spot]) -> Option<Vec<u8>> {
        let mut out = vec![0; spots.iter().map(|spot| spot.length).sum()];
        let mut rest = &mut out[..];
        for spot in spots {
            let (value, behind) = rest.split_at_mut_checked(spot.length)?;
            self.file.read(spot.at, value).ok()?;
            rest = behind;
        }
        Some(out)
    }
}

/// A table's root, `None` when it is empty, and its widths.
fn table_root(definition: &[u8]) -> Option<(Option<Pointer>, Widths)> {
    let (root, key, value) = (9, 42, 47);
    let width =
        |at: usize| Some(if *definition.get(at)? != 0 { Some(u32_at(definition, at + 1)?) } else { None });
    let pointer = if *definition.get(root)? != 0 { Some(pointer_at(definition, root + 1)?) } else { None };
    Some((pointer, (width(key)?, width(value)?)))
}

/// A leaf: `type u8 | u8 | pairs u16 | ends of keys u32* | ends of values u32* | keys | values`; ends of what has a fixed width are
/// left out.
struct Leaf<'p> {
    page: &'p [u8],
    pairs: usize,
    widths: Widths,
}

impl<'p> Leaf<'p> {
    fn read(page: &'p [u8], widths: Widths) -> Option<Self> {
        let pairs = u16::from_le_bytes(number(page, 2)?) as usize;
        let leaf = Self { page, pairs, widths };
        // Ends never go back.
        let mut last = leaf.keys();
        for n in 0..pairs {
            let end = leaf.key_end(n)?;
            (last <= end).then_some(())?;
            last = end;
        }
        for n in 0..pairs {
            let end = leaf.value_end(n)?;
            (last <= end).then_some(())?;
            last = end;
        }
        (pairs > 0).then_some(leaf)
    }

    /// Where the keys begin.
    fn keys(&self) -> usize {
        let tables = usize::from(self.widths.0.is_none()) + usize::from(self.widths.1.is_none());
        4 + 4 * self.pairs * tables
    }

    fn key_end(&self, n: usize) -> Option<usize> {
        match self.widths.0 {
            Some(width) => width.checked_mul(n + 1)?.checked_add(self.keys()),
            None => u32_at(self.page, 4 + 4 * n),
        }
    }

    fn value_end(&self, n: usize) -> Option<usize> {
        match self.widths.1 {
            Some(width) => width.checked_mul(n + 1)?.checked_add(self.key_end(self.pairs - 1)?),
            None => u32_at(self.page, 4 + 4 * n + if self.widths.0.is_none() { 4 * self.pairs } else { 0 }),
        }
    }

    fn end(&self) -> Option<usize> {
        self.value_end(self.pairs - 1)
    }

    /// Where a key and its value are.
    fn place(&self, n: usize) -> Option<(Range<usize>, Range<usize>)> {
        let key = if n == 0 { self.keys() } else { self.key_end(n - 1)? }..self.key_end(n)?;
        let start = if n == 0 { self.key_end(self.pairs - 1)? } else { self.value_end(n - 1)? };
        Some((key, start..self.value_end(n)?))
    }

    /// Shows `each` every entry; the page lies at `at` in its file.
    fn each(&self, at: u64, each: Each<'_>) {
        for (key, value) in (0..self.pairs).filter_map(|n| self.place(n)) {
            let spot = Spot { at: at + value.start as u64, length: value.len() };
            if let (Some(key), Some(value)) = (self.page.get(key), self.page.get(value)) {
                each(key, value, spot);
            }
        }
    }
}

struct Branch {
    pointers: Vec<Pointer>,
    end: usize,
}

/// A branch: `type u8 | u8 | keys u16 | u32 | checksums u128* | page numbers u64* | ends of keys u32* | keys`.
fn branch(page: &[u8], key_width: Option<usize>) -> Option<Branch> {
    let keys = u16::from_le_bytes(number(page, 2)?) as usize;
    let children = keys + 1;
    let (checksums, numbers) = (8, 8 + 16 * children);
    let pointer = |n: usize| {
        let checksum = u128::from_le_bytes(number(page, checksums + 16 * n)?);
        Some(Pointer { page: u64_at(page, numbers + 8 * n)?, checksum })
    };
    let pointers = (0..children).map(pointer).collect::<Option<Vec<_>>>()?;
    let ends = numbers + 8 * children;
    let end = match key_width {
        Some(width) => width.checked_mul(keys)?.checked_add(ends)?,
        None => u32_at(page, ends + 4 * keys.checked_sub(1)?)?,
    };
    Some(Branch { pointers, end })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use redb::{ReadableDatabase, TableDefinition};

    use super::*;
    use crate::env::StoreDriver;
    use crate::store::Files;

    const SMALL: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("small");
    const LARGE: TableDefinition<'_, (u64, u16), &[u8]> = TableDefinition::new("large");

    fn value(n: u64) -> Vec<u8> {
        let mut out = vec![0; 40 + (n as usize * 977) % 20_000];
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    fn made(path: &std::path::Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let db = redb::Database::create(path).unwrap();
        for part in 0..6 {
            let txn = db.begin_write().unwrap();
            for n in part * 50..part * 50 + 50 {
                txn.open_table(SMALL).unwrap().insert(format!("name {n}").as_str(), (n, n * n)).unwrap();
                txn.open_table(LARGE).unwrap().insert((n, 0), value(n).as_slice()).unwrap();
            }
            txn.commit().unwrap();
        }
        drop(db.begin_read().unwrap());
        (0..300).map(|n| (<(u64, u16) as redb::Value>::as_bytes(&(n, 0)), value(n))).collect()
    }

    fn read(path: &std::path::Path, name: &str) -> (Extent, BTreeMap<Vec<u8>, Vec<u8>>) {
        let file = Files::default().open(path).unwrap();
        let mut out = BTreeMap::new();
        let Some(rescue) = Rescue::open(&*file) else { return (Extent::Unknown, out) };
        let extent = rescue.table(name, |key, value| {
            out.insert(key.to_vec(), value.to_vec());
        });
        (extent, out)
    }

    #[test]
    fn a_whole_file_gives_what_redb_gives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let all = made(&path);
        assert_eq!(read(&path, "large"), (Extent::Whole, all.clone()));
        let (extent, small) = read(&path, "small");
        assert_eq!((extent, small.len()), (Extent::Whole, 300));
        assert_eq!(read(&path, "none").0, Extent::Whole);
        let file = Files::default().open(&path).unwrap();
        let mut scanned: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        Rescue::open(&*file).unwrap().scan(10, |key, value| {
            scanned.entry(key.to_vec()).or_default().push(value.to_vec());
        });
        let found =
            |(key, value): (&Vec<u8>, &Vec<u8>)| scanned.get(key).is_some_and(|all| all.contains(value));
        assert!(all.iter().all(found), "a scan finds every entry, among others");
    }

    #[test]
    fn a_damaged_header_costs_no_entry_as_long_as_a_commit_slot_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let all = made(&path);
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(u32_at(&whole, 12), Some(PAGE as usize));
        assert_eq!((u32_at(&whole, 16), u32_at(&whole, 20)), (Some(0), Some((REGION / PAGE) as usize)));
        let current = SLOTS[usize::from(whole[GOD_BYTE] & 1)];
        for damage in [0..4, 8..9, 12..16, 16..20, 20..24, 24..64] {
            let mut damaged = whole.clone();
            damaged[damage.clone()].iter_mut().for_each(|byte| *byte ^= 0xa5);
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(read(&path, "large"), (Extent::Whole, all.clone()), "{damage:?}");
        }
        let mut damaged = whole.clone();
        damaged[current + ROOT] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let (_, found) = read(&path, "large");
        assert!(
            found.iter().all(|(key, value)| all.get(key) == Some(value)) && found.len() >= 250,
            "the commit before"
        );
        let mut damaged = whole.clone();
        damaged[..4096].fill(0);
        std::fs::write(&path, &damaged).unwrap();
        assert_eq!(read(&path, "large"), (Extent::Unknown, BTreeMap::new()));
        let file = Files::default().open(&path).unwrap();
        let mut scanned = BTreeMap::new();
        Rescue::open(&*file)
            .unwrap()
            .scan(10, |key, value| drop(scanned.insert(key.to_vec(), value.to_vec())));
        assert!(all.keys().all(|key| scanned.contains_key(key)));
    }

    #[test]
    fn the_tables_of_a_file_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        made(&path);
        let file = Files::default().open(&path).unwrap();
        let (extent, names) = Rescue::open(&*file).unwrap().tables();
        assert_eq!(
            (extent, Vec::from_iter(names)),
            (Extent::Whole, vec!["large".to_owned(), "small".to_owned()])
        );
    }

    #[test]
    fn how_values_begin_is_read_without_the_rest_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let all = made(&path);
        let file = Files::default().open(&path).unwrap();
        let rescue = Rescue::open(&*file).unwrap();
        let mut heads = Vec::new();
        let done = rescue.heads("large", 100, |key, head, length| {
            heads.push((key.to_vec(), head.to_vec(), length));
        });
        let head = |value: &Vec<u8>| value[..value.len().min(100)].to_vec();
        let expected: Vec<_> =
            all.iter().map(|(key, value)| (key.clone(), head(value), value.len())).collect();
        heads.sort();
        assert_eq!((done, heads), (Some(()), expected));
        assert_eq!(rescue.heads("none", 100, |_, _, _| panic!("an entry")), None);
    }

    #[test]
    fn a_page_that_is_zeroed_costs_its_own_entries_and_no_entry_is_ever_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let all = made(&path);
        let whole = std::fs::read(&path).unwrap();
        let (mut parts, mut all_gone) = (0, 0);
        for at in (4096..whole.len()).step_by(4096) {
            let mut damaged = whole.clone();
            damaged[at..at + 4096].fill(0);
            if damaged == whole || (at / 4096) % 4 != 0 && whole[at] != BRANCH {
                continue;
            }
            std::fs::write(&path, &damaged).unwrap();
            let (extent, found) = read(&path, "large");
            assert!(found.iter().all(|(key, value)| all.get(key) == Some(value)), "page at {at}");
            assert_eq!(extent == Extent::Whole, found.len() == all.len(), "page at {at}");
            if extent == Extent::Part {
                (parts, all_gone) = (parts + 1, all_gone + usize::from(found.is_empty()));
            }
        }
        assert!(parts > 100, "{parts} pages had entries");
        assert_eq!(all_gone, 1, "the root");
    }

    #[test]
    fn a_flipped_bit_anywhere_gives_no_wrong_entry_and_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let all = made(&path);
        let whole = std::fs::read(&path).unwrap();
        for n in 0..100u64 {
            let bit = blake3::hash(&n.to_le_bytes()).as_bytes()[..8]
                .iter()
                .fold(0u64, |a, b| a << 8 | u64::from(*b));
            // Half of them in the header.
            let bit = (bit % (if n % 2 == 0 { HEADER } else { whole.len() } as u64 * 8)) as usize;
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &damaged).unwrap();
            let (_, found) = read(&path, "large");
            assert!(found.iter().all(|(key, value)| all.get(key) == Some(value)), "bit {bit}");
        }
    }
}
