//! Which of a satellite's contacts that are open at once a connection is of.

/// See the module. A satellite with one contact at a time has the first slot alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The only one of a satellite that has one contact at a time.
    pub const FIRST: Self = Self(0);

    /// The second one, which is the last.
    const SECOND: Self = Self(1);

    /// How many there are.
    pub const COUNT: usize = 2;

    /// The first `count` slots.
    pub fn first(count: usize) -> impl Iterator<Item = Self> {
        [Self::FIRST, Self::SECOND].into_iter().take(count)
    }

    /// The slot that Hello names. One beyond the last is the last: whatever a satellite says, it has no more.
    pub fn from_wire(slot: u32) -> Self {
        if slot == 0 { Self::FIRST } else { Self::SECOND }
    }

    /// As in Hello.
    pub fn to_wire(self) -> u32 {
        u32::from(self.0)
    }

    /// From 0 on.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_two_whatever_a_satellite_says() {
        let slots: Vec<Slot> = Slot::first(9).collect();
        assert_eq!(slots.len(), 2);
        for (said, slot) in [(0, slots[0]), (1, slots[1]), (2, slots[1]), (u32::MAX, slots[1])] {
            assert_eq!(Slot::from_wire(said), slot);
            assert_eq!(slots[slot.index()], slot);
        }
        assert_eq!(slots[1].to_wire(), 1);
    }
}
