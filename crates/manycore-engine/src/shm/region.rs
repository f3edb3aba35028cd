//! One region: a mapping and typed views of what stands in it.
//!
//! # Why this file is unsafe
//!
//! It turns offsets of a mapping into references. The references lead to
//! atomics and to `Guarded` cells only, which other processes may write while
//! we borrow; payload bytes are the business of `blocks.rs`. Every offset is computed by [`Shape::layout`] from numbers that are checked against
//! the mapping's length once, at creation or attachment, and kept privately: a
//! process that damages the header afterwards moves nothing under us.

use super::arena::{Allocator, BlockRef, Label, Part, PartWords};
use super::blocks::{Blocks, Home, Lease};
use super::doorbell::Doorbell;
use super::journal::Left;
use super::layout::{Header, Layout, MAGIC, Report, Seat, Shape};
use super::message::Message;
use super::queue::Queue;
use super::task::{Entry, Place};
use crate::error::{Error, Kind, Result};
use crate::os::memory::{Birthmark, Mapping, total_memory};
use crate::sync::{AtomicU32, Ordering};
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Address space for one part, where there is plenty.
const PART_SIZE: u64 = 64 << 30;

/// One mapping shared by a caller and its workers.
#[derive(Debug)]
pub struct Region {
    blocks: Blocks,
    shape: Shape,
    layout: Layout,
    /// A forked child inherits the value and the mapping, but holds no block.
    birthmark: Birthmark,
}

impl Region {
    /// A new region for `seats` workers and `entries` tasks in flight.
    ///
    /// Asks for a large address range, which costs nothing until it is written,
    /// and for half of it again while the system refuses (a limit on address space).
    pub fn create(seats: u32, entries: u32) -> Result<Region> {
        let total = total_memory().max(1 << 30);
        let parts = u64::from(seats) + 1;
        // 2^45 bytes is a quarter of what x86-64 gives a process.
        let ceiling = ((1u64 << 45) / parts).max(1 << 26);
        let mut part_size = PART_SIZE.max(total.next_power_of_two()).min(ceiling) & !4095;
        loop {
            let labels = (part_size / 4096).clamp(1 << 12, 1 << 18) as u32;
            let shape = Shape { seats, entries, labels, part_size };
            match Region::with_shape(shape) {
                Err(error) if error.kind() == Kind::Os && part_size > 1 << 26 => part_size /= 2,
                other => return other,
            }
        }
    }

    fn with_shape(shape: Shape) -> Result<Region> {
        let layout = shape.layout()?;
        let (file, mapping) = Mapping::create(layout.len)?;
        let header = mapping.base().cast::<Header>();
        // SAFETY: the mapping is at least a header long (`layout`), page aligned,
        // and no other process has it yet. Everything else starts as zero bytes,
        // which is a free entry, an empty seat and an empty part.
        unsafe {
            (&raw mut (*header.as_ptr()).shape).write(shape);
            (&raw mut (*header.as_ptr()).magic).write(MAGIC);
        }
        Region::over(file, mapping, shape, layout)
    }

    /// Attaches to the region behind `file`, which another process created.
    pub fn attach(file: OwnedFd) -> Result<Region> {
        let mapping = Mapping::attach(&file)?;
        if mapping.len() < size_of::<Header>() {
            return Err(Error::corrupt("the region is shorter than its header"));
        }
        let header = mapping.base().cast::<Header>();
        // SAFETY: the header lies inside the mapping (checked above); these two
        // fields are written before the descriptor is shared and never again, and
        // they are read as plain numbers, for which every bit pattern is a value.
        let (magic, shape) =
            unsafe { ((&raw const (*header.as_ptr()).magic).read(), (&raw const (*header.as_ptr()).shape).read()) };
        if magic != MAGIC {
            return Err(Error::corrupt("this is not a region of this build of manycore"));
        }
        let layout = shape.layout()?;
        if layout.len != mapping.len() {
            return Err(Error::corrupt("the region has not the length its header says"));
        }
        Region::over(file, mapping, shape, layout)
    }

    /// The region in a mapping whose header was checked, or just written.
    fn over(file: OwnedFd, mapping: Mapping, shape: Shape, layout: Layout) -> Result<Region> {
        let birthmark = Birthmark::new()?;
        Ok(Region { blocks: Blocks::new(mapping, file, layout.payload, shape.part_size), shape, layout, birthmark })
    }

    /// Whether this is the process that created or attached the region, and not one
    /// forked from it.
    pub fn is_ours(&self) -> bool {
        self.birthmark.is_here()
    }

    /// The memory file, to pass to another process.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.blocks.file.as_fd()
    }

    /// The numbers the region was built from.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping starts with a header (checked at creation and
        // attachment) and lives as long as `self`. What others write there while
        // we borrow are atomics; `magic` and `shape` are never written again.
        unsafe { self.blocks.mapping.base().cast::<Header>().as_ref() }
    }

    /// `count` values of `T` at `offset`.
    ///
    /// Private: called with offsets of `self.layout` only, which were checked
    /// against the mapping's length, and with types made of atomics and
    /// `Guarded` cells, for which zero and every other bit pattern is a value.
    fn table<T>(&self, offset: usize, count: usize) -> &[T] {
        debug_assert!(offset + count * size_of::<T>() <= self.blocks.mapping.len());
        // SAFETY: see above: in range, aligned by `layout`, shareable, and alive
        // as long as the mapping, which `&self` borrows.
        unsafe {
            let first = self.blocks.mapping.base().as_ptr().add(offset).cast::<T>();
            std::slice::from_raw_parts(first, count)
        }
    }

    /// The words by which the processes wake each other.
    pub fn doorbell(&self) -> &Doorbell {
        &self.header().doorbell
    }

    /// The work queue over the task table.
    pub fn queue(&self) -> Queue<'_> {
        let count = self.shape.entries as usize;
        let entries = self.table::<Entry>(self.layout.entries, count);
        Queue::new(&self.header().queue, entries, self.table::<AtomicU32>(self.layout.ring, count))
    }

    /// Part `index` of the arena.
    pub fn part(&self, index: usize) -> Result<Part<'_>> {
        if index >= self.shape.parts() {
            return Err(Error::corrupt(format_args!("there is no part {index}")));
        }
        let count = self.shape.labels as usize;
        let words = &self.table::<PartWords>(self.layout.parts, self.shape.parts())[index];
        let labels = self.table::<Label>(self.layout.labels + index * count * size_of::<Label>(), count);
        Ok(Part::new(index, words, labels, self.shape.part_size))
    }

    /// A block of part `part` for `message`, cut by `allocator`, the part's owner.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] when the message does not fit into what is left of the part.
    pub fn lease(self: &Arc<Self>, allocator: &mut Allocator, part: usize, message: Message<'_>) -> Result<Lease> {
        let total = message.total().ok_or_else(|| {
            Error::new(Kind::TooLarge, "a message is larger than the address space; send less at once")
        })? as u64;
        let part = self.part(part)?;
        let block = allocator.allocate(part, total)?;
        Lease::cut(self, part, block, message, &self.header().warm.0)
    }

    /// Before a fork: makes the pages of large blocks that `holder` holds this
    /// process's own; see "A fork" in README.md.
    pub fn privatize(&self, holder: u64) -> Result<()> {
        (0..self.shape.parts()).try_for_each(|index| self.blocks.privatize(self.part(index)?, holder))
    }

    /// Every worker is gone and none will come: the memory of blocks that carry
    /// nothing goes back to the kernel now, that of the others as they are dropped.
    pub fn retire(&self) -> Result<()> {
        (0..self.shape.parts()).try_for_each(|index| {
            self.blocks.retire(index, self.part(index)?);
            Ok(())
        })
    }

    /// Seat `seat` of a worker.
    fn seat(&self, seat: u16) -> Result<&Seat> {
        self.table::<Seat>(self.layout.seats, self.shape.seats as usize)
            .get(usize::from(seat))
            .ok_or_else(|| Error::corrupt(format_args!("there is no seat {seat}")))
    }

    /// The caller prepares `seat` for a worker about to start.
    pub fn open_seat(&self, seat: u16) -> Result<()> {
        self.seat(seat)?.phase.store(1, Ordering::Release);
        Ok(())
    }

    /// The worker in `seat` has started and takes tasks from now on.
    pub fn seat_ready(&self, seat: u16) -> Result<()> {
        self.seat(seat)?.phase.store(2, Ordering::Release);
        Ok(())
    }

    /// Whether the worker in `seat` got as far as taking tasks.
    pub fn is_ready(&self, seat: u16) -> bool {
        self.seat(seat).is_ok_and(|seat| seat.phase.load(Ordering::Acquire) == 2)
    }

    /// The worker in `seat` could not start; the held block `block` says why.
    pub fn seat_failed(&self, seat: u16, block: BlockRef, len: u64, head: u64) -> Result<()> {
        let seat = self.seat(seat)?;
        // SAFETY: the phase is 1, so this worker alone writes the report; the
        // caller reads it after the worker's end, and only in phase 3.
        seat.report.with_mut(|report| unsafe { report.write(Report { block, len, head }) });
        seat.phase.store(3, Ordering::Release);
        Ok(())
    }

    /// What the worker that sat in `seat` said about its failed start: block,
    /// length and length of the head.
    pub fn failure(&self, seat: u16) -> Option<(BlockRef, u64, u64)> {
        let seat = self.seat(seat).ok()?;
        if seat.phase.load(Ordering::Acquire) != 3 {
            return None;
        }
        // SAFETY: the worker wrote the report before phase 3 and is dead now.
        let report = seat.report.with(|report| unsafe { report.read() });
        Some((report.block, report.len, report.head))
    }

    /// The worker in `seat` says how far its task has come.
    pub fn set_reached(&self, seat: u16, reached: u64) {
        if let Ok(seat) = self.seat(seat) {
            seat.reached.store(reached, Ordering::Relaxed);
        }
    }

    /// The worker in `seat` has claimed the task at `position`, at the moment `now`.
    pub fn begin_task(&self, seat: u16, position: u64, now: u64) {
        if let Ok(seat) = self.seat(seat) {
            seat.since.store(now, Ordering::Relaxed);
            seat.reached.store(0, Ordering::Relaxed);
            seat.left.1.store(0, Ordering::Relaxed);
            // Release: whoever reads this task's position reads nothing older in the two words before.
            seat.task.store(position.wrapping_add(1), Ordering::Release);
        }
    }

    /// The worker in `seat` begins another stretch of its task, at the moment `now`.
    pub fn begin_stretch(&self, seat: u16, reached: u64, now: u64) {
        if let Ok(seat) = self.seat(seat) {
            seat.since.store(now, Ordering::Relaxed);
            // Release: whoever reads this number reads no older moment.
            seat.reached.store(reached, Ordering::Release);
        }
    }

    /// The journal of the worker in `seat` is `block`.
    pub(super) fn set_journal(&self, seat: u16, block: BlockRef) -> Result<()> {
        self.seat(seat)?.journal.store(block.word(), Ordering::Relaxed);
        Ok(())
    }

    /// The task of the worker in `seat` has left `count` messages, of `bytes` bytes, in the worker's journal.
    pub(super) fn set_left(&self, seat: u16, bytes: u64, count: u64) {
        if let Ok(seat) = self.seat(seat) {
            seat.left.0.store(bytes, Ordering::Relaxed);
            // Release: after the bytes themselves. The caller reads them after it has seen the worker's end.
            seat.left.1.store(count, Ordering::Release);
        }
    }

    /// What the dead worker in `seat` has left of the task at `position`; None where it cannot be read.
    pub fn left(&self, seat: u16, position: u64) -> Option<Left> {
        let seat = self.seat(seat).ok()?;
        if seat.task.load(Ordering::Acquire) != position.wrapping_add(1) {
            return None;
        }
        let (count, bytes) = (seat.left.1.load(Ordering::Acquire), seat.left.0.load(Ordering::Relaxed));
        if count == 0 {
            return Some(Left::default());
        }
        Left::read(self, BlockRef::from_word(seat.journal.load(Ordering::Relaxed)), bytes, count).ok()
    }

    /// How far the worker in `seat` has come with the task at `position`, and since when; None where it has noted
    /// nothing of that task. Any numbers, if it is damaged.
    pub fn stretch(&self, seat: u16, position: u64) -> Option<(u64, u64)> {
        let seat = self.seat(seat).ok()?;
        if seat.task.load(Ordering::Acquire) != position.wrapping_add(1) {
            return None;
        }
        // In this order: a moment that is too new for its number makes nothing end early.
        let reached = seat.reached.load(Ordering::Acquire);
        Some((reached, seat.since.load(Ordering::Relaxed)))
    }

    /// What every worker is told; written once, before the first worker is started.
    pub fn set_welcome(&self, place: Place) {
        // SAFETY: no other process has the region yet, and `Pool::set_welcome`, the only
        // caller, comes here once.
        self.header().welcome.0.with_mut(|welcome| unsafe { welcome.write(place) });
    }

    /// Where the block is that every worker is told to read; null if there is none.
    pub fn welcome(&self) -> Place {
        // SAFETY: written before this process had the region and never again; plain
        // numbers, of which every pattern is a value and which are checked when used.
        self.header().welcome.0.with(|welcome| unsafe { welcome.read() })
    }

    /// Functions below the given number are needed no more.
    pub fn set_oldest_function(&self, function: u64) {
        self.header().oldest_function.0.store(function, Ordering::Relaxed);
    }

    /// The oldest function that may still be needed.
    pub fn oldest_function(&self) -> u64 {
        self.header().oldest_function.0.load(Ordering::Relaxed)
    }
}

impl Home for Region {
    fn locate(&self, block: BlockRef, len: u64) -> Result<NonNull<u8>> {
        self.blocks.bytes(self.part(block.part())?, block, len)
    }

    fn give_back(&self, block: BlockRef) -> Result<()> {
        self.blocks.give_back(self.part(block.part())?, block, &self.header().warm.0)
    }

    fn blocks(&self) -> &Blocks {
        &self.blocks
    }
}
