//! One entry of the task table: the slip that says what to run, and later what came of it.

use super::arena::BlockRef;
use super::state::State;
use crate::sync::{AtomicU32, Guarded};

/// Bytes of a payload that travel inside the entry itself.
pub const INLINE: usize = 144;

/// The task's stretches have a limit, so the worker notes when each begins.
pub const TIMED: u64 = 1;

/// The worker leaves the result of each item in its journal, if to write it costs next to nothing.
pub const KEEPS: u64 = 2;

/// The worker leaves the result of each item in its journal, whatever it is.
pub const KEEPS_ALL: u64 = 4;

/// Where the bytes of a payload are: `block` of the arena, or inside the entry
/// when `block` is null. The first `head` of `len` bytes are the message's head.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The block, or null for a payload inside the entry.
    pub block: BlockRef,
    /// Bytes in all.
    pub len: u64,
    /// Bytes of the head.
    pub head: u64,
}

/// What a worker reports of a task. Any other number in shared memory is damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The payload is the task's result.
    Returned,
    /// The payload is what the task raised.
    Raised,
}

/// The slip of one task. Written by the caller before it publishes, by the
/// worker between claim and finish; plain data, every bit pattern is a value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slip {
    /// The job this task belongs to.
    pub job: u64,
    /// The task's number in its job.
    pub index: u64,
    /// A number of the face's own: how to call the function.
    pub mode: u32,
    /// [`Verdict`] as a number, written by the worker.
    pub verdict: u32,
    /// What the worker is asked to note while it runs the task: [`TIMED`], [`KEEPS`], [`KEEPS_ALL`].
    pub flags: u64,
    /// Nanoseconds the task ran, written by the worker.
    pub elapsed: u64,
    /// The number under which workers remember the function.
    pub function: u64,
    /// Where the function's bytes are; always a block.
    pub function_place: Place,
    /// Where the arguments are, later where the outcome is.
    pub body: Place,
    /// The payload, when `body.block` is null.
    pub inline: [u8; INLINE],
}

impl Default for Slip {
    fn default() -> Slip {
        Slip {
            job: 0,
            index: 0,
            mode: 0,
            verdict: 0,
            flags: 0,
            elapsed: 0,
            function: 0,
            function_place: Place::default(),
            body: Place::default(),
            inline: [0; INLINE],
        }
    }
}

/// One entry of the task table.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Entry {
    /// Who may touch the slip.
    pub state: State,
    /// The entry below this one on the stack of finished tasks, plus one.
    pub(super) below: AtomicU32,
    /// The slip itself.
    pub slip: Guarded<Slip>,
}

impl Entry {
    /// Reads the slip of a finished entry, which is the caller's until it frees it.
    pub fn take_outcome<R>(&self, read: impl FnOnce(&Slip) -> R) -> R {
        // SAFETY: the state is DONE, so by protocol nobody writes the slip until the
        // caller has freed and published it again. A damaged peer that writes all
        // the same tears plain numbers, each of which is checked by its reader.
        self.slip.with(|slip| read(unsafe { &*slip }))
    }

    /// Reads the slip of an entry this worker has claimed.
    pub fn read_claimed<R>(&self, read: impl FnOnce(&Slip) -> R) -> R {
        self.take_outcome(read)
    }

    /// Writes the slip: of a free entry by the caller, of a running one by the
    /// worker that claimed it.
    pub fn fill(&self, write: impl FnOnce(&mut Slip)) {
        // SAFETY: FREE gives the slip to the caller alone, who holds the pool's
        // lock, and RUNNING to the one worker whose claim succeeded.
        self.slip.with_mut(|slip| write(unsafe { &mut *slip }));
    }
}

impl Verdict {
    /// The number that stands in shared memory.
    pub fn number(self) -> u32 {
        match self {
            Verdict::Returned => 1,
            Verdict::Raised => 2,
        }
    }

    /// The verdict behind a number of shared memory.
    pub fn from_number(number: u32) -> Option<Verdict> {
        match number {
            1 => Some(Verdict::Returned),
            2 => Some(Verdict::Raised),
            _ => None,
        }
    }
}
