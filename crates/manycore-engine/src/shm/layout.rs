//! Where everything stands in a region: computed from four numbers in the
//! header, checked when a process attaches, never read again.

use super::arena::{Label, MAX_BLOCKS, MAX_PARTS, PartWords};
use super::doorbell::Doorbell;
use super::queue::{Line, Words};
use super::task::{Entry, Place};
use crate::error::{Error, Result};
use crate::shm::arena::BlockRef;
use crate::sync::{AtomicU32, AtomicU64, Guarded};
use std::mem::size_of;

/// "manycore" and the version of this layout; a process of another build is refused.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"manycore") ^ 2 << 56;

/// The numbers a region is built from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Seats for workers.
    pub seats: u32,
    /// Entries of the task table.
    pub entries: u32,
    /// Labels for blocks in each part.
    pub labels: u32,
    /// Bytes of payload in each part; address space, not memory.
    pub part_size: u64,
}

/// The first bytes of a region.
#[repr(C)]
#[derive(Debug)]
pub struct Header {
    pub(super) magic: u64,
    pub(super) shape: Shape,
    /// Bytes of free blocks whose pages are kept warm, in all parts.
    pub(super) warm: Line<AtomicU64>,
    /// Workers forget functions below this number.
    pub(super) oldest_function: Line<AtomicU64>,
    /// What every worker is told; a block of the caller's, or none.
    pub(super) welcome: Line<Guarded<Place>>,
    pub(super) doorbell: Doorbell,
    pub(super) queue: Words,
}

/// Where one worker sits.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Seat {
    /// 0 empty, 1 starting, 2 ready, 3 could not start (and `report` says why).
    pub(super) phase: AtomicU32,
    /// What the worker says about its failed start.
    pub(super) report: Guarded<Report>,
    /// How far the worker's task has come, in a unit of the face's.
    pub(super) reached: AtomicU64,
    /// When the worker's task, or its present stretch, began: nanoseconds of the machine's clock.
    pub(super) since: AtomicU64,
    /// The position of the task that `reached` and `since` speak of, plus one.
    pub(super) task: AtomicU64,
    /// The block of the worker's journal.
    pub(super) journal: AtomicU64,
    /// What the worker's task has left in the journal: bytes, and how many messages they are.
    pub(super) left: (AtomicU64, AtomicU64),
}

/// The message of a worker that could not start: one held block.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub(super) block: BlockRef,
    pub(super) len: u64,
    pub(super) head: u64,
}

/// Byte offsets of the tables of a region.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub(super) seats: usize,
    pub(super) entries: usize,
    pub(super) ring: usize,
    pub(super) parts: usize,
    pub(super) labels: usize,
    pub(super) payload: usize,
    /// Length of the whole region.
    pub len: usize,
}

impl Shape {
    /// Parts of the arena: the caller's is number 0, the worker in seat `s` owns `s + 1`.
    pub fn parts(&self) -> usize {
        self.seats as usize + 1
    }

    /// The layout, or an error where the numbers cannot be true.
    pub fn layout(&self) -> Result<Layout> {
        let sane = self.parts() <= MAX_PARTS
            && self.entries > 0
            && self.labels as usize <= MAX_BLOCKS
            && self.part_size.is_multiple_of(4096);
        let layout = || {
            let mut end = size_of::<Header>();
            let mut place = |align: usize, bytes: usize| {
                let start = end.checked_next_multiple_of(align)?;
                end = start.checked_add(bytes)?;
                Some(start)
            };
            let seats = place(64, size_of::<Seat>().checked_mul(self.seats as usize)?)?;
            let entries = place(64, size_of::<Entry>().checked_mul(self.entries as usize)?)?;
            let ring = place(64, size_of::<AtomicU32>().checked_mul(self.entries as usize)?)?;
            let parts = place(64, size_of::<PartWords>().checked_mul(self.parts())?)?;
            let labels = place(4096, size_of::<Label>().checked_mul(self.labels as usize)?.checked_mul(self.parts())?)?;
            let payload = place(2 << 20, usize::try_from(self.part_size).ok()?.checked_mul(self.parts())?)?;
            Some(Layout { seats, entries, ring, parts, labels, payload, len: end })
        };
        sane.then(layout).flatten().ok_or_else(|| Error::corrupt(format_args!("a region of {self:?} cannot exist")))
    }
}
