//! Chains: what stood between two values of a line before, found by the place where it begins.
//!
//! The fixed text of a template is a chain for each gap between its values. Which of the chains that were met at a place comes is
//! a decision or two however long it is, so a line costs as many as it has values, not as it has words.

use super::super::dictionary::append;
use super::super::entropy::{Bit, Coder, Symbols};
use super::history::{Guesses, LEVELS};
use super::predict::{mix, table};
use super::steps::NO_CHAIN;

/// Places that are told apart, a power of two.
const JOINTS: usize = 1 << 12;

/// Chains that are kept, and bytes of all of them. When one more comes, all are forgotten: what is in use is soon there again.
const MOST: usize = 1 << 13;
const MOST_BYTES: usize = 1 << 18;

/// Bytes of a chain; longer text is several.
pub(super) const LONGEST: usize = 1 << 10;

/// Words with letters by which a place is known.
pub(super) const NEAR: usize = 6;

/// Bytes of a short chain.
const SHORT: usize = 32;

/// Chains that are kept of a place: one symbol says which, or that it is none.
const HELD: usize = 15;

/// When so many begin at a place, new ones end where they differ from others.
const CROWD: u8 = 7;

/// Values before a place by which its chains are expected, a power of two.
const VALUES: usize = 8;

/// What follows a chain is a token of any kind.
pub(super) const ANY: u32 = u32::MAX;

/// What follows a chain is another one.
pub(super) const MORE: u32 = u32::MAX - 1;

/// How far a line is.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    /// A hash of the tokens so far, or of those near, see the module above.
    pub(super) skeleton: u64,
    /// The last words with letters.
    pub(super) words: [u32; NEAR],
    /// The last two tokens.
    pub(super) last: [u32; 2],
    /// The last token, if it says something about what follows.
    pub(super) key: u64,
}

impl State {
    /// Takes in a word with letters: what stood before those that are near is forgotten.
    pub(super) fn pass_word(&mut self, mark: u64) {
        self.words.copy_within(1.., 0);
        self.words[NEAR - 1] = mark as u32 ^ (mark >> 32) as u32;
        self.skeleton = self.words.iter().fold(12, |all, word| mix(all, u64::from(*word)));
    }

    /// By what the next token is expected.
    #[inline(always)]
    pub(super) fn contexts(self) -> [u64; 2] {
        let [last, before] = self.last.map(u64::from);
        [mix(self.skeleton, 3), mix(mix(last, before), 4)]
    }
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    start: u32,
    length: u16,
    /// The chain that came here next time, behind the same value.
    follower: u16,
    pub(super) repeats: Repeats,
    /// Some bits of the place where it was met first.
    home: u32,
    /// What follows it: the kind of a value, END, [`ANY`] or [`MORE`].
    pub(super) next: u32,
    /// How far the line is behind it, the kind of the value included.
    pub(super) state: State,
}

/// Whether a line goes on behind a chain as an earlier line did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repeats {
    pub(super) model: Bit,
    /// How often it did lately.
    credit: u8,
    /// How often it is still worth while to look.
    looks: u8,
    rest: u8,
}

impl Repeats {
    const NEW: Self = Self { model: Bit::NEW, credit: 4, looks: 16, rest: 0 };

    /// Whether to look; where that has long been in vain, now and then.
    #[inline(always)]
    pub(super) const fn looks(&mut self) -> bool {
        if self.looks == 0 {
            self.rest = self.rest.wrapping_add(1);
            if self.rest > 0 {
                return false;
            }
            self.looks = Self::NEW.looks;
        }
        self.looks -= 1;
        true
    }

    /// Whether it is likely enough to be asked.
    pub(super) const fn is_likely(self) -> bool {
        self.credit > 1
    }

    pub(super) fn learn(&mut self, repeated: bool) {
        if repeated {
            self.looks = 64;
            self.credit = (self.credit + 4).min(16);
        } else {
            self.credit = self.credit.saturating_sub(1);
        }
    }
}

impl Chain {
    /// Whether a place took it over from another one.
    pub(super) const fn is_adopted(&self, skeleton: u64) -> bool {
        self.home != skeleton as u32
    }
}

/// A place where chains begin.
#[derive(Debug, Clone, Copy)]
struct Joint {
    check: u32,
    used: u8,
    /// Which chain the next one replaces, when there is no room.
    oldest: u8,
    chains: [u16; HELD],
    /// Some bits of a hash of the value before, and the chain that last came behind it.
    behind: [(u16, u16); VALUES],
    /// Whether the chain is the one that followed before.
    follows: Bit,
    /// The same where a guess says so too.
    agrees: Bit,
    /// Which chain it is, or [`HELD`] for none.
    which: Symbols,
}

impl Joint {
    const NEW: Self = Self {
        check: 0,
        used: 0,
        oldest: 0,
        chains: [0; HELD],
        behind: [(0, NO_CHAIN); VALUES],
        follows: Bit::NEW,
        agrees: Bit::NEW,
        which: Symbols::NEW,
    };

    #[inline(always)]
    fn chains(&self) -> &[u16] {
        &self.chains[..usize::from(self.used).min(HELD)]
    }

    /// Adds one, in the place of the oldest if there is no room.
    fn add(&mut self, number: u16) {
        let used = usize::from(self.used);
        let place = if used < HELD {
            self.used += 1;
            used
        } else {
            self.oldest = (self.oldest + 1) % HELD as u8;
            usize::from(self.oldest)
        };
        self.chains[place] = number;
    }

    /// Where among them the one with this number is.
    #[inline(always)]
    fn position(&self, number: u32) -> Option<usize> {
        self.chains().iter().position(|n| u32::from(*n) == number)
    }
}

/// Where a place is kept, and what tells it from others there.
const fn place(skeleton: u64) -> (usize, u32) {
    ((skeleton >> 40) as usize % JOINTS, skeleton as u32)
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Chains {
    /// Whether the segment is of codec 7, where places take over chains of others.
    pub(super) adopts: bool,
    joints: Box<[Joint; JOINTS]>,
    /// Whether a guess is right, by how much it is trusted; and the same where none of the place's own chains comes.
    guessed: Box<[Bit; LEVELS]>,
    adopted: Box<[Bit; LEVELS]>,
    all: Vec<Chain>,
    /// Their bytes, one behind the other, and behind them [`SHORT`] zeros.
    bytes: Vec<u8>,
}

impl Default for Chains {
    fn default() -> Self {
        Self {
            adopts: false,
            joints: table(Joint::NEW),
            guessed: table(Bit::NEW),
            adopted: table(Bit::NEW),
            all: Vec::new(),
            bytes: vec![0; SHORT],
        }
    }
}

impl Chains {
    pub(super) const fn size(&self) -> usize {
        JOINTS * size_of::<Joint>() + self.all.len() * size_of::<Chain>() + self.bytes.len()
    }

    /// The place that a line has come to.
    #[inline(always)]
    fn joint(&mut self, skeleton: u64) -> usize {
        let (at, check) = place(skeleton);
        if self.joints[at].check != check {
            self.joints[at] = Joint { check, ..Joint::NEW };
        }
        at
    }

    /// Whether many chains begin at a place.
    pub(super) fn is_crowded(&mut self, skeleton: u64) -> bool {
        let at = self.joint(skeleton);
        self.joints[at].used >= CROWD
    }

    /// Whether more than one chain begins at a place, or in codec 7 none that is known.
    pub(super) fn is_open(&mut self, skeleton: u64) -> bool {
        let at = self.joint(skeleton);
        let used = self.joints[at].used;
        used > 1 || (used == 0 && self.adopts)
    }

    /// Whether one of the chains of a place `fits`. Changes nothing, since the decoder does not ask.
    pub(super) fn any(&self, skeleton: u64, fits: impl FnMut(&Chain, &[u8]) -> bool) -> bool {
        let (at, check) = place(skeleton);
        self.joints[at].check == check && self.find(at, fits).is_some()
    }

    /// Which of the chains of a place `fits`.
    #[inline(always)]
    fn find(&self, at: usize, mut fits: impl FnMut(&Chain, &[u8]) -> bool) -> Option<usize> {
        let mut fits = |n: &u16| self.all.get(usize::from(*n)).is_some_and(|c| fits(c, self.text(c)));
        self.joints[at].chains().iter().position(&mut fits)
    }

    /// The chain that came last at a place behind `value`.
    #[inline(always)]
    fn previous(&self, at: usize, value: u64) -> u16 {
        let (check, chain) = self.joints[at].behind[(value >> 61) as usize % VALUES];
        if check == (value >> 32) as u16 { chain } else { NO_CHAIN }
    }

    /// Notes that a chain came at a place behind `value`.
    #[inline(always)]
    fn came(&mut self, at: usize, value: u64, number: u16) {
        let previous = usize::from(self.previous(at, value));
        if let Some(previous) = self.all.get_mut(previous) {
            previous.follower = number;
        }
        self.joints[at].behind[(value >> 61) as usize % VALUES] = ((value >> 32) as u16, number);
    }

    pub(super) fn repeats(&mut self, chain: u16) -> Option<&mut Repeats> {
        self.all.get_mut(usize::from(chain)).map(|c| &mut c.repeats)
    }

    fn text(&self, chain: &Chain) -> &[u8] {
        &self.bytes[chain.start as usize..][..usize::from(chain.length)]
    }

    /// The number of the chain that comes at a place behind `value`; its text is appended to `out`. `None` if none of them does,
    /// and it is to be told to [`Chains::learn`]. The encoder takes one that `fits`. In codec 7 it may be one of another
    /// place, which a guess says.
    #[inline(always)]
    pub(super) fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        skeleton: u64,
        value: u64,
        guesses: &Guesses,
        mut fits: impl FnMut(&Chain, &[u8]) -> bool,
        out: &mut Vec<u8>,
    ) -> Option<u16> {
        let at = self.joint(skeleton);
        let own = match self.joints[at].used {
            0 => None,
            _ => self.own(coder, at, value, guesses, &mut fits),
        };
        let number = match own {
            None if self.adopts => self.adopt(coder, at, guesses, fits)?,
            own => own?,
        };
        self.came(at, value, number);
        let chain = self.get(number)?;
        let start = chain.start as usize;
        append::<SHORT>(&self.bytes, start..start + usize::from(chain.length), out);
        Some(number)
    }

    /// The chain with this number.
    #[inline(always)]
    pub(super) fn get(&self, number: u16) -> Option<&Chain> {
        self.all.get(usize::from(number))
    }

    /// Which of a place's own chains comes.
    #[inline(always)]
    fn own<C: Coder>(
        &mut self,
        coder: &mut C,
        at: usize,
        value: u64,
        guesses: &Guesses,
        fits: impl FnMut(&Chain, &[u8]) -> bool,
    ) -> Option<u16> {
        let given = if C::ENCODES { self.find(at, fits).unwrap_or(HELD) } else { HELD };
        let previous = usize::from(self.previous(at, value));
        let follower = self.all.get(previous).map_or(NO_CHAIN, |c| c.follower);
        let joint = &mut self.joints[at];
        let mut expected = joint.position(u32::from(follower));
        let mut found = None;
        for guess in guesses.all() {
            let Some(n) = joint.position(guess.value) else { continue };
            let model = &mut self.guessed[usize::from(guess.level) % LEVELS];
            // What is more likely is asked first, and a guess that tells less than the symbol is not asked.
            if expected == Some(n) {
                expected = None;
                found = coder.bit(&mut joint.agrees, given == n).then_some(n);
            } else {
                if let Some(first) = expected.filter(|_| joint.follows.probability() >= model.probability()) {
                    expected = None;
                    found = coder.bit(&mut joint.follows, given == first).then_some(first);
                }
                if found.is_none() && model.probability() > joint.which.probability(n) {
                    found = coder.bit(model, given == n).then_some(n);
                }
            }
            if found.is_some() {
                break;
            }
        }
        if let Some(first) = expected.filter(|_| found.is_none()) {
            found = coder.bit(&mut joint.follows, given == first).then_some(first);
        }
        let n = found.unwrap_or_else(|| coder.symbol(&mut joint.which, given));
        joint.chains().get(n).copied()
    }

    /// The chain of another place that a guess says, if it is what comes: then the line goes on as it did there.
    #[inline(never)]
    fn adopt<C: Coder>(
        &mut self,
        coder: &mut C,
        at: usize,
        guesses: &Guesses,
        mut fits: impl FnMut(&Chain, &[u8]) -> bool,
    ) -> Option<u16> {
        for guess in guesses.all() {
            let Some(chain) = self.all.get(guess.value as usize).filter(|c| c.next < MORE) else { continue };
            if self.joints[at].position(guess.value).is_some() {
                continue;
            }
            let fit = C::ENCODES && fits(chain, self.text(chain));
            if coder.bit(&mut self.adopted[usize::from(guess.level) % LEVELS], fit) {
                let number = guess.value as u16;
                self.joints[at].add(number);
                return Some(number);
            }
        }
        None
    }

    /// Keeps a chain that came at a place behind `value`: its text, what follows it, and how far the line is then. Its number.
    pub(super) fn learn(&mut self, skeleton: u64, value: u64, text: &[u8], next: u32, state: State) -> u16 {
        let start = self.bytes.len() - SHORT;
        if self.all.len() >= MOST || start + text.len() > MOST_BYTES {
            *self = Self { adopts: self.adopts, ..Self::default() };
            return NO_CHAIN;
        }
        self.bytes.truncate(start);
        self.bytes.extend_from_slice(text);
        self.bytes.resize(self.bytes.len() + SHORT, 0);
        let (number, length) = (self.all.len() as u16, text.len() as u16);
        let (start, follower, repeats) = (start as u32, NO_CHAIN, Repeats::NEW);
        let home = skeleton as u32;
        self.all.push(Chain { start, length, follower, repeats, home, next, state });
        let at = self.joint(skeleton);
        let (mut joint, mut used) = (self.joints[at], 0);
        for n in self.joints[at].chains() {
            // Where a line is looked at again behind this text, chains that go beyond it are of no use.
            if next < MORE || !self.text(&self.all[usize::from(*n)]).starts_with(text) {
                joint.chains[used] = *n;
                used += 1;
            }
        }
        if used < joint.chains().len() {
            joint.which = Symbols::NEW;
        }
        joint.used = used as u8;
        joint.add(number);
        self.joints[at] = joint;
        self.came(at, value, number);
        number
    }
}
