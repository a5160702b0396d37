//! Reads past the page cache (`O_DIRECT`), and ahead of who reads in the order of the file.
//!
//! redb verifies a file page by page: it waits for one, hashes it, waits for the next. So a thread reads on meanwhile, in large
//! pieces, and every byte comes from the medium once. What is read out of order is read alone.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};

/// What direct reads are aligned to. No device in use has larger blocks.
pub(super) const BLOCK: usize = 4096;

/// A page from this size on holds one value, or a part of one. A multiple of [`BLOCK`].
pub(super) const LARGE: usize = 32 << 10;

/// A piece that is read ahead, how many there are at a time, and how far on a read may begin that still is in order.
const PIECE: usize = 1 << 20;
const PIECES: usize = 4;
const NEAR: u64 = 2 * PIECE as u64;

/// Small pages lie together: so much is read with one.
const AROUND: usize = 2 * LARGE;
const MOST_AROUND: usize = 8;

/// Whole blocks of a file.
#[derive(Debug, Default)]
struct Blocks {
    at: u64,
    buffer: Vec<u8>,
    /// Where in the buffer they are, which is aligned.
    found: Range<usize>,
}

impl Blocks {
    /// Reads so many bytes from there on, or up to the end of the file.
    fn read(&mut self, file: &File, at: u64, length: usize) -> io::Result<()> {
        (self.at, self.found) = (at, 0..0);
        self.buffer.resize(length + BLOCK, 0);
        let start = self.buffer.as_ptr().align_offset(BLOCK);
        let mut have = 0;
        while have < length {
            match file.read_at(&mut self.buffer[start + have..start + length], at + have as u64) {
                Ok(0) => break,
                // Short at the end of the file; what follows would not be aligned.
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if !have.is_multiple_of(BLOCK) {
                break;
            }
        }
        self.found = start..start + have;
        Ok(())
    }

    /// The bytes from this place of the file on; none if they are elsewhere.
    fn from(&self, place: u64) -> &[u8] {
        let skip = place.checked_sub(self.at).map(|skip| skip as usize);
        skip.and_then(|skip| self.buffer[self.found.clone()].get(skip..)).unwrap_or_default()
    }
}

/// A file past the page cache. Nothing is kept between reads.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    blocks: Blocks,
}

impl Direct {
    /// The open file `like`, which should be at `path`, if the file system has direct reads.
    pub(super) fn open(path: &Path, like: &File) -> Option<Self> {
        let file = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path).ok()?;
        let same = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        if same(file.metadata().ok()?) != same(like.metadata().ok()?) {
            return None;
        }
        let mut direct = Self { file, blocks: Blocks::default() };
        // Some accept the flag and refuse the read.
        direct.blocks.read(&direct.file, 0, BLOCK).ok()?;
        Some(direct)
    }

    pub(super) fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let first = offset - offset % BLOCK as u64;
        let length = ((offset - first) as usize + out.len()).next_multiple_of(BLOCK);
        self.blocks.read(&self.file, first, length)?;
        out.copy_from_slice(self.blocks.from(offset).get(..out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Between a stream and its thread. Channels would be 20 KiB of code.
#[derive(Debug, Default)]
struct Exchange {
    pieces: Mutex<Pieces>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Pieces {
    wanted: VecDeque<Blocks>,
    read: VecDeque<Blocks>,
    ended: bool,
}

impl Exchange {
    fn change(&self, change: impl FnOnce(&mut Pieces)) {
        change(&mut self.pieces.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits until `take` takes something.
    fn wait<T>(&self, mut take: impl FnMut(&mut Pieces) -> Option<T>) -> T {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(taken) = take(&mut pieces) {
                return taken;
            }
            pieces = self.changed.wait(pieces).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reads what is wanted until the stream ends.
    fn serve(&self, file: &File) {
        let next = |pieces: &mut Pieces| match pieces.wanted.pop_front() {
            piece if pieces.ended || piece.is_some() => Some(piece.filter(|_| !pieces.ended)),
            _ => None,
        };
        while let Some(mut piece) = self.wait(next) {
            let at = piece.at;
            // One that cannot be read has nothing: whoever wants a page of it reads that alone, and meets the error or not.
            drop(piece.read(file, at, PIECE));
            self.change(|pieces| pieces.read.push_back(piece));
        }
    }
}

/// Pieces of a file in their order, which a thread reads.
#[derive(Debug)]
struct Stream {
    /// Where the first piece begins that is here or on its way, and where the next one will.
    first: u64,
    next: u64,
    /// Those that are here; all others, up to [`PIECES`], are on their way.
    here: VecDeque<Blocks>,
    exchange: Arc<Exchange>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.exchange.change(|pieces| pieces.ended = true);
    }
}

impl Stream {
    fn start(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let exchange = Arc::new(Exchange::default());
        let reader = Arc::clone(&exchange);
        std::thread::Builder::new().name("read-ahead".to_owned()).spawn(move || reader.serve(&file))?;
        let here = (0..PIECES).map(|_| Blocks::default()).collect();
        Ok(Self { first: 0, next: 0, here, exchange })
    }

    fn ask(&mut self, mut piece: Blocks) {
        piece.at = self.next;
        self.next += PIECE as u64;
        self.exchange.change(|pieces| pieces.wanted.push_back(piece));
    }

    /// Waits for the next piece.
    fn receive(&mut self) {
        self.here.push_back(self.exchange.wait(|pieces| pieces.read.pop_front()));
    }

    fn move_to(&mut self, place: u64) {
        while self.here.len() < PIECES {
            self.receive();
        }
        (self.first, self.next) = (place, place);
        for piece in std::mem::take(&mut self.here) {
            self.ask(piece);
        }
    }

    /// The bytes from this place on, as far as they are in one piece; none if they are in no piece.
    fn from(&mut self, place: u64) -> &[u8] {
        if !(self.first..self.next).contains(&place) {
            return &[];
        }
        let index = ((place - self.first) / PIECE as u64) as usize;
        while self.here.len() <= index {
            self.receive();
        }
        // The piece before stays, for what lies a little behind.
        for _ in 1..index {
            if let Some(piece) = self.here.pop_front() {
                self.first += PIECE as u64;
                self.ask(piece);
            }
        }
        self.here[index.min(1)].from(place)
    }
}

/// A file past the page cache that mostly is read in its order, and once more afterwards, from the cache: small pages, and how large
/// ones begin. It must not change meanwhile, unless [`Ahead::forget`] is called.
#[derive(Debug)]
pub(super) struct Ahead {
    direct: Direct,
    /// The same file with the page cache.
    cached: File,
    stream: Option<Stream>,
    /// What lies around small pages that were read alone, the latest last.
    around: VecDeque<Blocks>,
    /// How many of them in a row lie one behind the other.
    run: usize,
    /// Where the last large page ends.
    last: u64,
    /// Small pages that the system was told to read into the cache, with what lies around them.
    wanted: VecDeque<u64>,
}

impl Ahead {
    pub(super) fn new(direct: Direct, cached: File) -> Self {
        let (around, wanted) = (VecDeque::new(), VecDeque::new());
        Self { direct, cached, stream: None, around, run: 0, last: 0, wanted }
    }

    /// Gives up what was read ahead: the file changes.
    pub(super) fn forget(&mut self) {
        (self.stream, self.around) = (None, VecDeque::new());
    }

    pub(super) fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        let large = out.len() >= LARGE;
        self.want(offset, large)?;
        let mut in_order = large && (self.last..=self.last + NEAR).contains(&offset);
        let mut place = offset;
        while place < end {
            let rest = &mut out[(place - offset) as usize..];
            let found = self.stream.as_mut().map(|stream| stream.from(place)).unwrap_or_default();
            if found.is_empty() {
                if std::mem::take(&mut in_order) && self.move_to(place) {
                    continue;
                }
                self.alone(place, rest)?;
                break;
            }
            let n = found.len().min(rest.len());
            rest[..n].copy_from_slice(&found[..n]);
            place += n as u64;
        }
        if large {
            (self.last, self.run) = (end, 0);
        }
        Ok(())
    }

    /// Has the system read into the cache, meanwhile, what is looked at once more.
    fn want(&mut self, offset: u64, large: bool) -> io::Result<()> {
        let (mut at, mut length) = (offset, BLOCK);
        if !large {
            (at, length) = (offset - offset % AROUND as u64, AROUND);
            if self.wanted.contains(&at) {
                return Ok(());
            }
            self.wanted.truncate(MOST_AROUND - 1);
            self.wanted.push_front(at);
        }
        let will_need = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
        Ok(posix_fadvise(&self.cached, at as i64, length as i64, will_need)?)
    }

    /// Reads ahead from there on; whether that can be.
    fn move_to(&mut self, place: u64) -> bool {
        if self.stream.is_none() {
            self.stream = Stream::start(&self.direct.file).ok();
        }
        let Some(stream) = &mut self.stream else { return false };
        stream.move_to(place - place % BLOCK as u64);
        true
    }

    fn alone(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if out.len() >= LARGE {
            return self.direct.read(offset, out);
        }
        let known =
            self.around.iter().map(|blocks| blocks.from(offset)).find(|found| found.len() >= out.len());
        if let Some(found) = known {
            out.copy_from_slice(&found[..out.len()]);
            return Ok(());
        }
        let at = offset - offset % AROUND as u64;
        let follows = self.around.back().is_some_and(|last| at == last.at + AROUND as u64);
        self.run = if follows { self.run + 1 } else { 0 };
        // Small pages in their order.
        if self.run > MOST_AROUND {
            self.move_to(at + AROUND as u64);
        }
        let old = if self.around.len() < MOST_AROUND { None } else { self.around.pop_front() };
        let mut blocks = old.unwrap_or_default();
        // An error may be that of another page.
        let read = blocks.read(&self.direct.file, at, AROUND);
        let found = blocks.from(offset).get(..out.len()).filter(|_| read.is_ok());
        match found {
            Some(found) => out.copy_from_slice(found),
            None => self.direct.read(offset, out)?,
        }
        self.around.push_back(blocks);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = 9 * PIECE + 3 * BLOCK + 1000;

    fn content() -> Vec<u8> {
        (0..LENGTH as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    fn ahead(path: &Path) -> Option<Ahead> {
        let cached = File::open(path).unwrap();
        let direct = Direct::open(path, &cached);
        if direct.is_none() {
            eprintln!("skipped: no direct reads in {}", path.display());
        }
        direct.map(|direct| Ahead::new(direct, cached))
    }

    #[test]
    fn reads_in_any_order_give_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content = content();
        std::fs::write(&path, &content).unwrap();
        let Some(mut ahead) = ahead(&path) else { return };
        let mut check = |at: usize, length: usize| {
            let mut out = vec![0; length];
            ahead.read(at as u64, &mut out).unwrap();
            assert!(out == content[at..at + length], "{length} bytes at {at}");
            ahead.stream.as_ref().map_or(0, |stream| stream.next)
        };
        // Large pages in their order, with small ones between them and far away, and what was passed.
        for page in 0..30 {
            let next = check(page * 8 * LARGE, 8 * LARGE);
            assert!(next as usize > page * 8 * LARGE, "read ahead");
            check(page * 8 * LARGE + 7, BLOCK);
            check(LENGTH - 10 * BLOCK - page * BLOCK, BLOCK);
            check((page * 8 * LARGE).saturating_sub(PIECE), LARGE);
        }
        // Small ones in their order.
        for page in 0..1000 {
            check(page * BLOCK, BLOCK);
        }
        // Backwards, out of order, over pieces, and the end.
        for page in (0..30).rev() {
            check(page * 8 * LARGE, 8 * LARGE);
        }
        for n in 0..50 {
            check(n * 7_919_333 % (LENGTH - 3 * PIECE), n * 61_007 % (3 * PIECE));
        }
        for at in (0..LENGTH - PIECE / 2).step_by(PIECE / 2) {
            check(at, PIECE / 2);
        }
        check(LENGTH - 1, 1);
        check(LENGTH - LARGE - 1, LARGE + 1);
        for length in [2, LARGE, PIECE] {
            assert!(ahead.read(LENGTH as u64 - 1, &mut vec![0; length]).is_err(), "beyond the end");
        }
    }

    #[test]
    fn what_is_changed_meanwhile_is_not_read_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, content()).unwrap();
        let Some(mut ahead) = ahead(&path) else { return };
        let mut out = vec![0; LARGE];
        ahead.read(0, &mut out).unwrap();
        ahead.read(LARGE as u64, &mut out[..BLOCK]).unwrap();
        ahead.forget();
        std::fs::write(&path, vec![7; LENGTH]).unwrap();
        ahead.read(LARGE as u64, &mut out).unwrap();
        assert!(out.iter().all(|byte| *byte == 7));
    }
}
