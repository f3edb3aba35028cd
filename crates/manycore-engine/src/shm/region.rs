//! One region: a mapping and typed views of what stands in it.
//!
//! # Why this file is unsafe
//!
//! It turns offsets of a mapping into references. The references lead to
//! atomics and to `Guarded` cells only, which other processes may write while
//! we borrow; payload bytes are handed out as raw pointers with a length. Every
//! offset is computed by [`Shape::layout`] from numbers that are checked against
//! the mapping's length once, at creation or attachment, and kept privately: a
//! process that damages the header afterwards moves nothing under us.

use super::arena::{Allocator, BlockRef, Label, Part, PartWords};
use super::doorbell::Doorbell;
use super::layout::{Header, Layout, MAGIC, Report, Seat, Shape};
use super::message::Message;
use super::queue::Queue;
use super::task::{Entry, Place};
use crate::error::{Error, Kind, Result};
use crate::os::memory::{Birthmark, Mapping, total_memory, write_file};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use std::collections::HashSet;
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Blocks from this size on give their memory back when too much is kept warm.
const LARGE: u64 = 1 << 20;

/// Blocks from this size on may be seen in place by a face; smaller ones never are.
const PRIVATE_FROM: u64 = 1 << 16;

/// Address space for one part, where there is plenty.
const PART_SIZE: u64 = 64 << 30;

/// One mapping shared by a caller and its workers.
#[derive(Debug)]
pub struct Region {
    mapping: Mapping,
    file: OwnedFd,
    shape: Shape,
    layout: Layout,
    /// Bytes of free large blocks that may stay warm.
    keep_warm: AtomicU64,
    /// Blocks whose pages are this process's own now; see [`Region::privatize`].
    private: Mutex<HashSet<BlockRef>>,
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
        let keep_warm = AtomicU64::new(total_memory() / 16);
        let birthmark = Birthmark::new()?;
        Ok(Region { mapping, file, shape, layout, keep_warm, private: Mutex::default(), birthmark })
    }

    /// Whether this is the process that created or attached the region, and not one
    /// forked from it.
    pub fn is_ours(&self) -> bool {
        self.birthmark.is_here()
    }

    /// The memory file, to pass to another process.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The numbers the region was built from.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping starts with a header (checked at creation and
        // attachment) and lives as long as `self`. What others write there while
        // we borrow are atomics; `magic` and `shape` are never written again.
        unsafe { self.mapping.base().cast::<Header>().as_ref() }
    }

    /// `count` values of `T` at `offset`.
    ///
    /// Private: called with offsets of `self.layout` only, which were checked
    /// against the mapping's length, and with types made of atomics and
    /// `Guarded` cells, for which zero and every other bit pattern is a value.
    fn table<T>(&self, offset: usize, count: usize) -> &[T] {
        debug_assert!(offset + count * size_of::<T>() <= self.mapping.len());
        // SAFETY: see above: in range, aligned by `layout`, shareable, and alive
        // as long as the mapping, which `&self` borrows.
        unsafe {
            let first = self.mapping.base().as_ptr().add(offset).cast::<T>();
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

    /// The first byte of a held block, for as many bytes as its size, which is
    /// at least `len`.
    ///
    /// A raw pointer on purpose: who may touch the bytes is decided by who holds
    /// the block, and a damaged peer may write them at any time.
    pub fn bytes(&self, block: BlockRef, len: u64) -> Result<NonNull<u8>> {
        let (offset, size) = self.part(block.part())?.extent(block)?;
        if len > size {
            return Err(Error::corrupt(format_args!("a payload of {len} bytes in a block of {size}")));
        }
        let start = self.place(block, offset);
        // SAFETY: `extent` checked that the block lies inside its part, and the
        // layout that the part lies inside the mapping.
        Ok(unsafe { self.mapping.base().add(start) })
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
        let was_warm = part.set_warm(block, false)?;
        let mut lease = Lease::new(self, block, total, message.head.len() as u64)?;
        let (_, size) = part.extent(block)?;
        if was_warm {
            self.header().warm.0.fetch_sub(size, Ordering::Relaxed);
        }
        lease.cold = size >= LARGE && !was_warm;
        Ok(lease)
    }

    /// Gives a block back to its part, from any process. Memory of large blocks
    /// goes back to the kernel where enough of it is kept warm already.
    pub fn give_back(&self, block: BlockRef) -> Result<()> {
        let part = self.part(block.part())?;
        let Ok((offset, size)) = part.extent(block) else { return Ok(()) };
        if size < PRIVATE_FROM {
            return part.give_back(block);
        }
        // Held until the block is on its way: a fork in another thread must not make
        // pages private of a block that is no longer ours.
        let mut private = self.private();
        if private.remove(&block) {
            self.mapping.restore(&self.file, self.place(block, offset), size as usize)?;
        }
        if size >= LARGE {
            let warm = self.header().warm.0.fetch_add(size, Ordering::Relaxed);
            if warm.saturating_add(size) > self.keep_warm.load(Ordering::Relaxed) {
                self.mapping.discard(self.place(block, offset), size as usize);
                self.header().warm.0.fetch_sub(size, Ordering::Relaxed);
            } else {
                part.set_warm(block, true)?;
            }
        }
        part.give_back(block)
    }

    /// Before a fork: makes the pages of large blocks that `holder` holds this
    /// process's own, at their addresses.
    ///
    /// Received arrays are views of blocks. The child inherits the views, and
    /// must neither write into the parent's nor see the block's next payload.
    pub fn privatize(&self, holder: u32) -> Result<()> {
        let mut private = self.private();
        for index in 0..self.shape.parts() {
            let part = self.part(index)?;
            for block in part.held_by(holder) {
                // Gone meanwhile: then there is nothing to keep.
                let Ok((offset, size)) = part.extent(block) else { continue };
                // Smaller ones share their page, and no view of them is ever given out.
                if size >= PRIVATE_FROM && !private.contains(&block) {
                    self.mapping.privatize(self.place(block, offset), size as usize)?;
                    private.insert(block);
                }
            }
        }
        Ok(())
    }

    /// Every worker is gone and none will come: the memory of blocks that carry
    /// nothing goes back to the kernel now, that of the others as they are dropped.
    pub fn retire(&self) -> Result<()> {
        self.keep_warm.store(0, Ordering::Relaxed);
        for index in 0..self.shape.parts() {
            let start = self.layout.payload + index * self.shape.part_size as usize;
            for (offset, size) in self.part(index)?.unused() {
                // Whole pages only, so small blocks beside each other stay.
                self.mapping.discard(start + offset as usize, size as usize);
            }
        }
        Ok(())
    }

    fn private(&self) -> MutexGuard<'_, HashSet<BlockRef>> {
        self.private.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, block: BlockRef, offset: u64) -> usize {
        self.layout.payload + block.part() * self.shape.part_size as usize + offset as usize
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

    /// How far the task of the worker in `seat` has come; any number, if it is damaged.
    pub fn reached(&self, seat: u16) -> u64 {
        self.seat(seat).map_or(0, |seat| seat.reached.load(Ordering::Relaxed))
    }

    /// The worker in `seat` says how far its task has come.
    pub fn set_reached(&self, seat: u16, reached: u64) {
        if let Ok(seat) = self.seat(seat) {
            seat.reached.store(reached, Ordering::Relaxed);
        }
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

/// A held block in the hands of one process; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    region: Arc<Region>,
    block: BlockRef,
    base: NonNull<u8>,
    len: usize,
    head: usize,
    /// A large block of which the memory file has no pages yet, as far as we know.
    cold: bool,
}

// SAFETY: a lease is an address range and the duty to give it back; the holder
// decides who reads or writes the bytes, and `give_back` may run in any thread.
unsafe impl Send for Lease {}
// SAFETY: as above; `&Lease` gives out the address only.
unsafe impl Sync for Lease {}

impl Lease {
    /// Takes charge of a held block with `len` bytes of payload, of which the
    /// first `head` are the message's head.
    pub fn new(region: &Arc<Region>, block: BlockRef, len: u64, head: u64) -> Result<Lease> {
        let base = region.bytes(block, len)?;
        let (len, head) = (len as usize, head as usize);
        if head > len {
            return Err(Error::corrupt("a message shorter than its head"));
        }
        Ok(Lease { region: Arc::clone(region), block, base, len, head, cold: false })
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes of payload.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the message's head.
    pub fn head(&self) -> usize {
        self.head
    }

    /// Copies the `len` bytes at `source` to `start` in the payload.
    ///
    /// New pages are written by the kernel and warm ones through the mapping: measured a
    /// core, new pages 2.8 GB/s by `pwrite` against 1.7 through the mapping; warm ones
    /// 18 GB/s through the mapping, 5 to 7 where this process has to map them first.
    ///
    /// # Safety
    /// The bytes at `source` stay allocated during the call, and nobody else uses the
    /// payload. They may be a part of this very payload, and may change meanwhile.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when they do not fit; [`Kind::Os`] when memory has run out.
    pub(super) unsafe fn fill(&self, start: usize, source: *const u8, len: usize) -> Result<()> {
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::corrupt("a block is shorter than the message it was cut for"));
        }
        if len as u64 >= LARGE {
            let mapping = &self.region.mapping;
            let offset = self.base.addr().get() - mapping.base().addr().get() + start;
            if self.cold {
                // SAFETY: the source is allocated, by this function's contract.
                return unsafe { write_file(&self.region.file, offset, source, len) };
            }
            mapping.map_around(offset, len);
        }
        // SAFETY: the target lies in the payload (checked above), which is ours; the
        // source may overlap it (a result that is an argument), so `copy`.
        unsafe { std::ptr::copy(source, self.base.as_ptr().add(start), len) };
        Ok(())
    }

    /// The block's name; the lease stays in charge.
    pub fn block(&self) -> BlockRef {
        self.block
    }

    /// Where the message is, as it stands in a slip.
    pub fn place(&self) -> Place {
        Place { block: self.block, len: self.len as u64, head: self.head as u64 }
    }

    /// Hands the block on: it is not given back when `self` goes.
    pub fn pass_on(self) -> BlockRef {
        let block = self.block;
        let mut this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never used or dropped again, so the `Arc` is dropped once.
        unsafe { std::ptr::drop_in_place(&raw mut this.region) };
        block
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.region.is_ours() {
            // Fails only on a damaged region, where there is nothing to give back to.
            let _ = self.region.give_back(self.block);
        }
    }
}
