//! What goes wrong with which operation.

use std::io;

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// An operation on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A read.
    Read,
    /// A write into the file's length.
    Write,
    /// `fdatasync`
    Sync,
    /// The file becomes longer.
    Grow,
}

/// How an operation goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It fails with EIO and does nothing. A sync that fails so leaves pages dirty, and the next one may succeed.
    InputOutput,
    /// It fails with ENOSPC and does nothing.
    NoSpace,
    /// A write does the first part of its bytes and then fails with EIO.
    Short,
    /// A sync fails with EIO and some dirty pages are clean after it, though the medium does not have them: the next sync
    /// succeeds, reading shows what was written, and a power cut shows that it never arrived.
    WriteBack,
    /// A sync answers that it is done and does nothing.
    Lie,
    /// A sync answers that it is done, and of the pages that were written for the first time the medium lacks some: a layer below
    /// had no room for them and did not say so.
    Unsaid,
}

/// Operations that go wrong.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which operations.
    pub operation: Operation,
    /// What happens to them.
    pub trouble: Trouble,
    /// So many of these operations still go well.
    pub after: u64,
    /// So many go wrong then.
    pub times: u64,
    /// Decides what is left to chance.
    pub seed: u64,
}

/// A fault that waits or is at work.
#[derive(Debug)]
pub(crate) struct Armed {
    fault: Fault,
    rng: SmallRng,
    pub(crate) fired: u64,
}

impl Armed {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { rng: SmallRng::seed_from_u64(fault.seed), fault, fired: 0 }
    }

    /// What happens to this operation, if anything.
    pub(crate) fn meets(&mut self, operation: Operation) -> Option<Trouble> {
        if operation != self.fault.operation {
            return None;
        }
        if self.fault.after > 0 {
            self.fault.after -= 1;
            return None;
        }
        if self.fault.times == 0 {
            return None;
        }
        self.fault.times -= 1;
        self.fired += 1;
        Some(self.fault.trouble)
    }

    pub(crate) fn rng(&mut self) -> &mut SmallRng {
        &mut self.rng
    }
}

impl Trouble {
    /// The error that the program sees.
    pub(crate) fn error(self) -> io::Error {
        const EIO: i32 = 5;
        match self {
            Self::NoSpace => io::ErrorKind::StorageFull.into(),
            _ => io::Error::from_raw_os_error(EIO),
        }
    }
}
