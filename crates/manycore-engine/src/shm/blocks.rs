//! Where the blocks of a region lie, and whose pages they are.
//!
//! # Why this file is unsafe
//!
//! It turns the names of blocks into addresses. The start of the payload and the
//! size of its parts were checked against the mapping's length when the region was
//! created or attached, and are kept privately; where a block lies in its part is
//! read from shared memory and checked at each use. Addresses leave as raw pointers.

use super::arena::{BlockRef, Part};
use super::message::Message;
use super::task::Place;
use crate::error::{Error, Result};
use crate::os::memory::{Mapping, total_memory};
use crate::sync::{AtomicU64, Ordering, own_name};
use std::collections::HashSet;
use std::fmt::Debug;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Blocks from this size on give their memory back when too much is kept warm.
const LARGE: u64 = 1 << 20;

/// Blocks from this size on may be seen in place by a face; smaller ones never are.
const PRIVATE_FROM: u64 = 1 << 16;

/// A mapping, its file, and the blocks in it.
#[derive(Debug)]
pub struct Blocks {
    pub(super) mapping: Mapping,
    pub(super) file: OwnedFd,
    /// Where part 0 starts, and how long each part is.
    payload: usize,
    part_size: u64,
    /// Bytes of free large blocks that may stay warm.
    keep_warm: AtomicU64,
    /// Blocks whose pages are this process's own now; see [`Blocks::privatize`].
    private: Mutex<HashSet<BlockRef>>,
}

impl Blocks {
    /// Blocks in parts of `part_size` bytes from `payload` on, which all lie inside
    /// the mapping of `file`.
    pub(super) fn new(mapping: Mapping, file: OwnedFd, payload: usize, part_size: u64) -> Blocks {
        let keep_warm = AtomicU64::new(total_memory() / 16);
        Blocks { mapping, file, payload, part_size, keep_warm, private: Mutex::default() }
    }

    /// The first byte of a held block, for as many bytes as its size, which is
    /// at least `len`.
    ///
    /// A raw pointer on purpose: who may touch the bytes is decided by who holds
    /// the block, and a damaged peer may write them at any time.
    pub(super) fn bytes(&self, part: Part<'_>, block: BlockRef, len: u64) -> Result<NonNull<u8>> {
        let (offset, size) = part.extent(block)?;
        if len > size {
            return Err(Error::corrupt(format_args!("a payload of {len} bytes in a block of {size}")));
        }
        let start = self.place(block, offset);
        // SAFETY: `extent` checked that the block lies inside its part, and whoever
        // made `self` that the part lies inside the mapping.
        Ok(unsafe { self.mapping.base().add(start) })
    }

    /// Gives a block back to its part, from any process. Memory of large blocks
    /// goes back to the kernel where enough of it is kept warm already.
    pub(super) fn give_back(&self, part: Part<'_>, block: BlockRef, warm: &AtomicU64) -> Result<()> {
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
            // Blocks are up to twice as large as what was ever in them.
            let bytes = part.warmth(block)?.min(size);
            let before = warm.fetch_add(bytes, Ordering::Relaxed);
            let keeps = before.saturating_add(bytes) <= self.keep_warm.load(Ordering::Relaxed);
            if !keeps {
                self.mapping.discard(self.place(block, offset), size as usize);
                warm.fetch_sub(bytes, Ordering::Relaxed);
            }
            part.set_warm(block, keeps)?;
        }
        part.give_back(block)
    }

    /// Before a fork: makes the pages of large blocks that `holder` holds this
    /// process's own, at their addresses.
    ///
    /// Received arrays are views of blocks. The child inherits the views, and
    /// must neither write into the parent's nor see the block's next payload.
    pub(super) fn privatize(&self, part: Part<'_>, holder: u64) -> Result<()> {
        let mut private = self.private();
        for block in part.held_by(holder) {
            // Gone meanwhile: then there is nothing to keep.
            let Ok((offset, size)) = part.extent(block) else { continue };
            // Smaller ones share their page, and no view of them is ever given out.
            if size >= PRIVATE_FROM && !private.contains(&block) {
                self.mapping.privatize(self.place(block, offset), size as usize)?;
                private.insert(block);
            }
        }
        Ok(())
    }

    /// Nobody allocates from the parts any more: the memory of `part`'s blocks that
    /// carry nothing goes back to the kernel now, that of the others as they are dropped.
    pub(super) fn retire(&self, index: usize, part: Part<'_>) {
        self.keep_warm.store(0, Ordering::Relaxed);
        let start = self.payload + index * self.part_size as usize;
        for (offset, size) in part.unused() {
            // Whole pages only, so small blocks beside each other stay.
            self.mapping.discard(start + offset as usize, size as usize);
        }
    }

    /// Whether no page of the mapping is this process's own; false in doubt.
    pub(super) fn is_all_shared(&self) -> bool {
        self.private.try_lock().is_ok_and(|private| private.is_empty())
    }

    fn private(&self) -> MutexGuard<'_, HashSet<BlockRef>> {
        self.private.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, block: BlockRef, offset: u64) -> usize {
        self.payload + block.part() * self.part_size as usize + offset as usize
    }
}

/// What blocks come from and go back to.
pub trait Home: Debug + Send + Sync {
    /// The first byte of a held block, which has at least `len` bytes.
    fn locate(&self, block: BlockRef, len: u64) -> Result<NonNull<u8>>;

    /// Gives a block back, from any process.
    fn give_back(&self, block: BlockRef) -> Result<()>;

    /// Where the blocks lie.
    fn blocks(&self) -> &Blocks;
}

/// A held block in the hands of one process; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    home: Arc<dyn Home>,
    block: BlockRef,
    base: NonNull<u8>,
    len: usize,
    head: usize,
    /// A large block of which the memory file has no pages yet, as far as we know.
    cold: bool,
    /// A forked child inherits the value but not the block.
    process: u64,
}

// SAFETY: a lease is an address range and the duty to give it back; the holder
// decides who reads or writes the bytes, and `give_back` may run in any thread.
unsafe impl Send for Lease {}
// SAFETY: as above; `&Lease` gives out the address only.
unsafe impl Sync for Lease {}

impl Lease {
    /// Takes charge of a held block with `len` bytes of payload, of which the
    /// first `head` are the message's head.
    pub fn new<H: Home + 'static>(home: &Arc<H>, block: BlockRef, len: u64, head: u64) -> Result<Lease> {
        let base = home.locate(block, len)?;
        let (len, head) = (len as usize, head as usize);
        if head > len {
            return Err(Error::corrupt("a message shorter than its head"));
        }
        Ok(Lease { home: Arc::<H>::clone(home), block, base, len, head, cold: false, process: own_name() })
    }

    /// Takes charge of a block that was just allocated from `part` for `message`; `warm`
    /// is the region's count of bytes kept warm.
    pub(super) fn cut<H: Home + 'static>(
        home: &Arc<H>,
        part: Part<'_>,
        block: BlockRef,
        message: Message<'_>,
        warm: &AtomicU64,
    ) -> Result<Lease> {
        let total = message.total().map_or(u64::MAX, |total| total as u64);
        let counted = part.warm_up(block, total)?;
        let (_, size) = part.extent(block)?;
        if let Some(bytes) = counted {
            warm.fetch_sub(bytes.min(size), Ordering::Relaxed);
        }
        let mut lease = Lease::new(home, block, total, message.head.len() as u64)?;
        lease.cold = size >= LARGE && counted.is_none();
        Ok(lease)
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
    /// The kernel lets one process at a time write to a file. A process that does not get the turn writes
    /// through the mapping: two cores then make 4.1 GB/s of new pages, not 2.9.
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
            let Blocks { mapping, file, .. } = self.home.blocks();
            let offset = self.base.addr().get() - mapping.base().addr().get() + start;
            if self.cold {
                // SAFETY: the source is allocated, by this function's contract; the target is as long (checked
                // above), ours, and new, so that the source is not in it.
                return unsafe { mapping.fill_new(file.as_fd(), offset, source, len) };
            }
            mapping.map_around(offset, len);
        }
        // SAFETY: the target lies in the payload (checked above), which is ours; the
        // source may overlap it (a result that is an argument), so `copy`.
        unsafe { std::ptr::copy(source, self.base.as_ptr().add(start), len) };
        Ok(())
    }

    /// A private copy of the payload.
    pub fn to_vec(&self) -> Vec<u8> {
        // SAFETY: a lease has its length at its base.
        unsafe { copy(self.base, self.len) }
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
        unsafe { std::ptr::drop_in_place(&raw mut this.home) };
        block
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.process == own_name() {
            // Fails only on a damaged region, where there is nothing to give back to.
            let _ = self.home.give_back(self.block);
        }
    }
}

/// A private copy of `len` bytes.
///
/// # Safety
/// They must be readable.
pub(super) unsafe fn copy(base: NonNull<u8>, len: usize) -> Vec<u8> {
    let mut copy = Vec::with_capacity(len);
    // SAFETY: the caller vouches for the source; the target is new and as long,
    // and filled completely before its length is set.
    unsafe {
        std::ptr::copy_nonoverlapping(base.as_ptr(), copy.as_mut_ptr(), len);
        copy.set_len(len);
    }
    copy
}
