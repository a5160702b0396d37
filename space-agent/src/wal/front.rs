//! The front of the journal: a small file in which a small commit costs one page. redb writes seven for it, and flash wears by
//! pages.
//!
//! A commit of up to [`SMALL`] bytes goes into `journal.front` and is synced there. Its groups stay in memory too, until the next
//! transaction of the log puts them into the table; whatever looks for a group looks in both. So the tables alone say what there
//! is, as soon as the log is opened: what the front has of later groups is taken in then (`begin.rs`).
//!
//! ```text
//! file  = 256 KiB of pages of 4,096 bytes, whole since it has its name
//! frame = mark 8 bytes | epoch u64 | number u64 | length u64 | checksum u64 | a group, see [`super::group`] | up to the next page
//! ```
//!
//! All numbers are little-endian. `checksum` is the first 8 bytes of the BLAKE3 of what stands before it; the group has its own. A
//! frame begins at a page, so that no write touches a page with something that was accepted earlier, and goes in behind the one
//! before; behind the last page comes the first. The log takes over what is in the front when that fills half of it: the frames of
//! its last transaction are still there should that one turn out not to be whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perigee_shared::env::{Env, StoreFile};
use perigee_shared::store::{StoreError, beside, io_error};

use super::group::{first_bytes, verify};
use super::{Journal, WalConfig, WalError};

/// Groups of a commit that goes into the front. A larger one costs redb little more than its own bytes.
const SMALL: usize = 32 << 10;

const PAGE: usize = 4096;
const LENGTH: usize = 256 << 10;

/// Groups that the front alone may have.
const MOST: u64 = LENGTH as u64 / 2;

const MARK: [u8; 8] = *b"\x89front\r\n";
const HEADER: usize = 40;

/// What fills a new file: not zeros, which some layers do not store.
const FILL: u8 = 0xa5;

/// Groups by number, as stored.
pub(super) type Groups = BTreeMap<u64, Arc<[u8]>>;

/// What a front holds of one epoch.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) groups: Groups,
    /// Numbers of frames that are not whole: a power cut leaves them, and so does damage.
    pub(super) torn: Vec<u64>,
    /// It is not there, not all of it can be read, or it is another log's.
    pub(super) incomplete: bool,
    /// Other epochs whose frames it has.
    others: BTreeSet<u64>,
    /// Where the frame with the highest number ends.
    end: usize,
}

impl Found {
    /// Whether any log has written into it.
    pub(super) fn is_used(&self) -> bool {
        !self.groups.is_empty() || !self.torn.is_empty() || !self.others.is_empty()
    }

    /// One that has nothing of this log, and frames of a log that this one does not name as an `earlier` life of its own, is another's.
    pub(super) fn note_another(&mut self, earlier: &BTreeSet<u64>) {
        let is_ours = !self.groups.is_empty() || !self.torn.is_empty();
        if !is_ours && !self.others.is_subset(earlier) {
            tracing::error!("journal.front beside the log is another log's; it is set aside");
            self.incomplete = true;
        }
    }
}

fn path(config: &WalConfig) -> PathBuf {
    config.directory.join("journal.front")
}

/// A frame's header in `page`: epoch, number and length. A mark that is damaged hides nothing: the checksum is of the right one.
fn header(page: &[u8]) -> Option<(u64, u64, usize)> {
    let (head, sum) = page.get(..HEADER)?.split_at(HEADER - 8);
    if first_bytes(blake3::hash(&[&MARK, &head[8..]].concat())) != sum {
        return None;
    }
    let number = |at: usize| head[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    Some((number(8)?, number(16)?, usize::try_from(number(24)?).ok()?))
}

/// Where the next frame goes: pages are never cut.
const fn next_page(at: usize) -> usize {
    at.next_multiple_of(PAGE) % LENGTH
}

fn parse(bytes: &[u8], epoch: u64) -> Found {
    let mut found = Found::default();
    let (mut last, mut numbers, mut pages) = (0, BTreeSet::new(), Pages::default());
    for (at, page) in (0..).step_by(PAGE).zip(bytes.chunks(PAGE)) {
        let Some((of, number, length)) = header(page) else {
            found.incomplete |= pages.are_undone(at, page);
            continue;
        };
        let end = at + HEADER + length.min(LENGTH);
        pages = Pages { end, was_new: false };
        if of != epoch {
            found.others.insert(of);
            continue;
        }
        // One of them has taken another's place.
        found.incomplete |= !numbers.insert(number);
        if number >= last {
            (last, found.end) = (number, end);
        }
        match bytes.get(at + HEADER..end).filter(|group| verify(number, group).is_ok()) {
            Some(group) => drop(found.groups.insert(number, group.into())),
            None => found.torn.push(number),
        }
    }
    found.torn.retain(|number| !found.groups.contains_key(number));
    found.incomplete |= bytes.get(next_page(found.end)..).is_some_and(was_overwritten);
    found
}

/// Pages in which no frame begins.
#[derive(Default)]
struct Pages {
    /// Where the last frame before them ends.
    end: usize,
    /// The one before is as it was when the file was made.
    was_new: bool,
}

impl Pages {
    /// Whether the page at `at` shows that one has the content from before it was written. Pages are written one behind the other, and what
    /// is left of an earlier frame lies behind a later one.
    fn are_undone(&mut self, at: usize, page: &[u8]) -> bool {
        let is_new = page.iter().all(|byte| *byte == FILL);
        let was_new = std::mem::replace(&mut self.was_new, is_new && at >= self.end);
        at >= self.end && !is_new && (was_new || page.starts_with(&[FILL; HEADER]))
    }
}

/// Whether the page behind the latest frame, which begins another frame or was never written, does neither.
fn was_overwritten(pages: &[u8]) -> bool {
    let is_zero = pages.iter().take(PAGE).all(|byte| *byte == 0);
    is_zero || pages.starts_with(&MARK) && header(pages).is_none()
}

/// What the front beside a log has of an epoch, read from the medium.
pub(super) fn read(env: &Env, config: &WalConfig, epoch: u64) -> Result<Found, StoreError> {
    let path = path(config);
    if !env.store.exists(&path) {
        return Ok(Found { incomplete: true, ..Found::default() });
    }
    let mut incomplete = false;
    let mut read = || -> io::Result<Vec<u8>> {
        let file = env.store.open(&path)?;
        file.read_medium(true)?;
        let mut bytes = vec![0; (file.len()? as usize).min(LENGTH)];
        incomplete = bytes.len() < LENGTH;
        // A page that cannot be read costs what is on it.
        for (page, out) in bytes.chunks_mut(PAGE).enumerate() {
            let offset = (page * PAGE) as u64;
            if let Err(error) = file.read(offset, out).or_else(|_| file.read(offset, out)) {
                tracing::error!(%error, page, path = %path.display(), "a page of the journal's front cannot be read");
                out.fill(0);
                incomplete = true;
            }
        }
        Ok(bytes)
    };
    let bytes = read().map_err(|e| io_error(&path, &e))?;
    let found = parse(&bytes, epoch);
    Ok(Found { incomplete: incomplete || found.incomplete, ..found })
}

/// Puts a new front in the place of one that is not whole.
pub(super) fn replace(env: &Env, config: &WalConfig) {
    let path = path(config);
    let aside = beside(&path, ".quarantined");
    let replaced = match env.store.exists(&path) {
        true => env.store.rename(&path, &aside).and_then(|()| make(env, &path)),
        false => make(env, &path),
    };
    if let Err(error) = replaced {
        tracing::warn!(%error, path = %path.display(), "a new front of the journal could not be created");
    }
}

/// The file, open for appending.
pub(super) struct Front {
    file: Box<dyn StoreFile>,
    path: PathBuf,
    at: usize,
    frame: Vec<u8>,
}

/// What a log knows of its front.
#[derive(Default)]
pub(super) enum Access {
    /// It was not needed yet.
    #[default]
    Unopened,
    Open(Front),
    /// It failed, or cannot be made: every commit goes into the tables until the log is opened again.
    Off,
}

impl Front {
    fn open(env: &Env, config: &WalConfig, epoch: u64) -> Result<Self, StoreError> {
        let path = path(config);
        let failed = |e: io::Error| io_error(&path, &e);
        if !env.store.size(&path).is_ok_and(|(length, _)| length == LENGTH as u64) {
            make(env, &path).map_err(failed)?;
        }
        let at = next_page(read(env, config, epoch)?.end);
        let file = env.store.open(&path).map_err(failed)?;
        Ok(Self { file, path, at, frame: Vec::new() })
    }

    /// Adds groups; they are synced when this returns.
    fn append<'a>(&mut self, epoch: u64, groups: impl Iterator<Item = (u64, &'a [u8])>) -> io::Result<()> {
        if !self.file.is_at(&self.path) || self.file.len()? < LENGTH as u64 {
            return Err(io::Error::other("it was deleted, moved or cut"));
        }
        for (number, group) in groups {
            let frame = &mut self.frame;
            frame.clear();
            frame.extend_from_slice(&MARK);
            for n in [epoch, number, group.len() as u64] {
                frame.extend_from_slice(&n.to_le_bytes());
            }
            frame.extend_from_slice(&first_bytes(blake3::hash(frame)));
            frame.extend_from_slice(group);
            frame.resize(frame.len().next_multiple_of(PAGE), 0);
            if self.at + frame.len() > LENGTH {
                self.at = 0;
            }
            self.file.write(self.at as u64, frame)?;
            self.at = next_page(self.at + frame.len());
        }
        self.file.sync_data()
    }
}

/// Makes the file `path`, whose every page has its room on the medium.
fn make(env: &Env, path: &Path) -> io::Result<()> {
    let new = beside(path, ".new");
    env.store.remove(&new)?;
    let file = env.store.open(&new)?;
    let mut pages = vec![FILL; LENGTH];
    file.set_len(LENGTH as u64)?;
    file.write(0, &pages)?;
    file.sync_data()?;
    file.read_back(0, &mut pages)?;
    match pages.iter().all(|byte| *byte == FILL) {
        true => env.store.rename(&new, path),
        false => Err(io::Error::other("the disk reported data as written that is not there")),
    }
}

impl Journal<'_> {
    /// Whether a commit of so many bytes may go into the front.
    pub(super) fn is_small(&self, bytes: usize) -> bool {
        bytes <= SMALL && self.0.away.is_none()
    }

    /// Whether there is a front; makes one, or opens it.
    pub(super) fn open_front(&mut self) -> bool {
        if matches!(self.0.front, Access::Unopened) {
            let opened = Front::open(self.0.env(), self.0.config(), self.0.state().life.epoch);
            self.note_front(opened.map(Access::Open).map_err(|e| e.to_string()));
        }
        matches!(self.0.front, Access::Open(_))
    }

    /// Adds groups to the front; whether they are safe there. When they are not, they belong into the tables.
    pub(super) fn append_to_front<'a>(
        &mut self,
        groups: impl Iterator<Item = (u64, &'a [u8])> + Clone,
    ) -> bool {
        let framed = |length: usize| (HEADER + length).next_multiple_of(PAGE) as u64;
        let waiting: u64 = self.0.state().front.values().map(|group| framed(group.len())).sum();
        let new: u64 = groups.clone().map(|(_, group)| framed(group.len())).sum();
        // What is deleted under a running agent is noticed by the log itself.
        if waiting + new > MOST || !self.0.log.is_there() {
            return false;
        }
        let epoch = self.0.state().life.epoch;
        match std::mem::take(&mut self.0.front) {
            Access::Open(mut front) => {
                let appended = front.append(epoch, groups);
                self.note_front(appended.map(|()| Access::Open(front)).map_err(|e| e.to_string()))
            }
            other => {
                self.0.front = other;
                false
            }
        }
    }

    fn note_front(&mut self, access: Result<Access, String>) -> bool {
        let works = access.is_ok();
        self.0.front = access.unwrap_or_else(|error| {
            tracing::error!(
                event.name = "perigee.wal.front_failed",
                error,
                "the front of the journal failed: until the log is opened again each commit goes into the log itself, which writes \
                 seven pages"
            );
            Access::Off
        });
        works
    }

    /// Puts what is in the front alone into the tables.
    pub(super) fn settle_front(&mut self) -> Result<(), WalError> {
        if self.0.state().front.is_empty() {
            return Ok(());
        }
        self.0.write(|_, _| Ok(((), Vec::new())))
    }
}
