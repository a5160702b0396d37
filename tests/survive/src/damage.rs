//! Files as they are found: with a wrong bit, a wrong page, a wrong length; and whole files that are not the right ones.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::board::Board;
use crate::flight::Flight;
use crate::history::Side;
use crate::station::Station;
use crate::subject::Subject;

/// A page of the stores, and of most disks.
const PAGE: usize = 4096;

/// What happens to the bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// One bit is another one.
    BitFlip,
    /// A page is zeros.
    ZeroPage,
    /// Two pages have changed places.
    SwappedPages,
    /// Half of a page is of another time.
    TornPage,
    /// The end is missing.
    Cut,
    /// Something follows the end.
    Grown,
}

impl Damage {
    /// Does it to `content`, somewhere where something is.
    pub fn apply(self, content: &mut Vec<u8>, rng: &mut SmallRng) {
        let used: Vec<usize> = (0..content.len() / PAGE)
            .filter(|p| content[p * PAGE..][..PAGE].iter().any(|b| *b != 0))
            .collect();
        if used.is_empty() {
            return;
        }
        let mut page = || used[rng.random_range(0..used.len())] * PAGE;
        let (one, other) = (page(), page());
        match self {
            Self::BitFlip => {
                let within: Vec<usize> = (one..one + PAGE).filter(|at| content[*at] != 0).collect();
                let at = within[rng.random_range(0..within.len())];
                content[at] ^= 1 << rng.random_range(0..8);
            }
            Self::ZeroPage => content[one..one + PAGE].fill(0),
            Self::SwappedPages => {
                let first = content[one..one + PAGE].to_vec();
                content.copy_within(other..other + PAGE, one);
                content[other..other + PAGE].copy_from_slice(&first);
            }
            Self::TornPage => content.copy_within(other + PAGE / 2..other + PAGE, one + PAGE / 2),
            Self::Cut => content.truncate(one.max(PAGE)),
            Self::Grown => content.extend((0..3 * PAGE).map(|_| rng.random::<u8>())),
        }
    }
}

/// What is in the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// Nothing.
    Missing,
    /// Nothing, nor anything beside it.
    AllMissing,
    /// A file of no bytes.
    Empty,
    /// The same file as it was some time ago, and what lies beside it as it is now.
    Older,
    /// The same file and all that lies beside it as they were some time ago.
    AllOlder,
    /// Another machine's file.
    Foreign,
}

/// Files with what is in them.
pub type Backup = BTreeMap<PathBuf, Vec<u8>>;

impl Flight {
    /// The file of the store under test.
    pub fn file(&self) -> PathBuf {
        let name = match self.side {
            Side::Agent => Board::FILE,
            Side::Ground => Station::FILE,
        };
        self.world.directory(self.side).join(name)
    }

    /// Damages the file of the store under test, or the front of its journal. Whether anything changed.
    pub fn damage(&mut self, damage: Damage) -> bool {
        let (mut path, disk) = (self.file(), self.world.disk(self.side));
        let front = path.with_file_name("journal.front");
        if disk.content(&front).is_some() && self.chance.random_bool(0.4) {
            path = front;
        }
        let before = disk.content(&path);
        // Two pages that are the same change nothing when they change places.
        for _ in 0..10 {
            disk.damage(&path, |content| damage.apply(content, &mut self.chance));
            if before != disk.content(&path) {
                return true;
            }
        }
        false
    }

    /// Puts something else in the place of the file of the store under test. `backup`: what was there before.
    pub fn replace(&mut self, with: Replaced, mut backup: Backup) -> bool {
        let (path, disk) = (self.file(), self.world.disk(self.side));
        let before = disk.content(&path);
        match with {
            Replaced::Missing => disk.delete(&path),
            Replaced::AllMissing => disk.files().iter().for_each(|file| disk.delete(file)),
            Replaced::Empty => disk.put(&path, Vec::new()),
            Replaced::Older | Replaced::Foreign => match backup.remove(&path) {
                Some(content) => disk.put(&path, content),
                None => return false,
            },
            Replaced::AllOlder => {
                disk.files().iter().for_each(|file| disk.delete(file));
                backup.into_iter().for_each(|(file, content)| disk.put(&file, content));
            }
        }
        before.is_some() && before != disk.content(&path)
    }

    /// What is on the disk now.
    pub fn backup(&self) -> Backup {
        let disk = self.world.disk(self.side);
        let content = |file: PathBuf| disk.content(&file).map(|content| (file, content));
        disk.files().into_iter().filter_map(content).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn damage_changes_what_is_there() {
        for damage in [
            Damage::BitFlip,
            Damage::ZeroPage,
            Damage::SwappedPages,
            Damage::TornPage,
            Damage::Cut,
            Damage::Grown,
        ] {
            let mut changed = 0;
            for seed in 0..20 {
                let mut rng = SmallRng::seed_from_u64(seed);
                let before: Vec<u8> = (0..8 * PAGE).map(|at| (at / PAGE) as u8).collect();
                let mut after = before.clone();
                damage.apply(&mut after, &mut rng);
                changed += u32::from(before != after);
            }
            assert!(changed > 10, "{damage:?}: {changed}");
        }
    }
}
