//! The region behind a channel: where everything stands in it, and whose its blocks are.
//!
//! See "The channel" in README.md.
//!
//! # Why this file is unsafe
//!
//! It turns offsets of a mapping into references, to atomics and `Guarded` cells
//! only, and copies payload bytes from units of the stream. Offsets are
//! computed by `Shape::layout` from numbers that are checked against the mapping's
//! length once, and kept privately.

use super::arena::{BlockRef, Label, MAX_BLOCKS, Part, PartWords, Tops};
use super::blocks::{Blocks, Home, Lease};
use super::conduit::{Conduit, Words};
use super::message::Message;
use super::queue::Line;
use super::stream::{HEADER, Header, Kind as Record, UNIT, Unit};
use crate::error::{Error, Kind, Result};
use crate::os::memory::{Mapping, total_memory};
use crate::sync::{AtomicU32, AtomicU64, Guarded, Ordering, is_gone, own_name};
use std::collections::HashSet;
use std::mem::size_of;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

/// "channel" and the version of this layout; a process of another build is refused.
const MAGIC: u64 = u64::from_le_bytes(*b"channel\x01");

/// Bytes of a sheet.
const SHEET: usize = 64 << 10;

/// Address space for sheets and for blocks, where there is plenty. It costs nothing
/// until it is written, but 2^47 bytes are all a process has, and it may want
/// thousands of channels.
const SHEETS_SIZE: u64 = 4 << 30;
const BLOCKS_SIZE: u64 = 16 << 30;
const SMALLEST: u64 = 1 << 20;

/// In a label's `holder`, beside the name of a process: it is still writing the block.
const STAGING: u64 = 1;

/// The numbers a channel is built from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// How many messages may wait; 0: no limit.
    capacity: u32,
    sheets: u32,
    labels: u32,
    part_size: u64,
}

/// The first bytes of a channel.
#[repr(C)]
#[derive(Debug)]
struct Head {
    magic: u64,
    shape: Shape,
    words: Words,
    /// As in a region of a pool.
    warm: Line<AtomicU64>,
    part: PartWords,
    tops: Tops,
    /// Bytes cut into blocks when somebody last looked for blocks of the dead.
    looked: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Layout {
    below: usize,
    labels: usize,
    sheets: usize,
    payload: usize,
    len: usize,
}

impl Shape {
    fn layout(&self) -> Result<Layout> {
        let sane = self.sheets > 0
            && (self.sheets as usize).checked_mul(SHEET / UNIT).is_some_and(|units| units < 1 << 31)
            && self.labels > 0
            && self.labels as usize <= MAX_BLOCKS
            && self.part_size.is_multiple_of(4096);
        let layout = || {
            let mut end = size_of::<Head>();
            let mut place = |align: usize, bytes: usize| {
                let start = end.checked_next_multiple_of(align)?;
                end = start.checked_add(bytes)?;
                Some(start)
            };
            let below = place(64, size_of::<AtomicU32>().checked_mul(self.sheets as usize)?)?;
            let labels = place(4096, size_of::<Label>().checked_mul(self.labels as usize)?)?;
            let sheets = place(4096, SHEET.checked_mul(self.sheets as usize)?)?;
            let payload = place(2 << 20, usize::try_from(self.part_size).ok()?)?;
            Some(Layout { below, labels, sheets, payload, len: end })
        };
        sane.then(layout).flatten().ok_or_else(|| Error::corrupt(format_args!("a channel of {self:?} cannot exist")))
    }
}

/// The mapping, which received blocks keep.
#[derive(Debug)]
pub(super) struct ChannelRegion {
    pub(super) blocks: Blocks,
    shape: Shape,
    layout: Layout,
}

/// What is copied of a record in the turn.
pub(super) enum Taken {
    Inline(usize),
    Block(Named),
}

/// A record that names a block.
pub(super) type Named = (BlockRef, u64, u64);

impl ChannelRegion {
    /// A new region for at most `capacity` messages at a time.
    pub(super) fn create(capacity: Option<u32>) -> Result<ChannelRegion> {
        let mut part_size = BLOCKS_SIZE.max(total_memory().next_power_of_two());
        let mut sheets_size = SHEETS_SIZE;
        loop {
            let shape = Shape {
                // A limit of 2^31 is none: the counts go round in 32 bits.
                capacity: capacity.filter(|capacity| *capacity < 1 << 31).map_or(0, |capacity| capacity.max(1)),
                sheets: (sheets_size / SHEET as u64) as u32,
                labels: (part_size / 4096).clamp(1 << 8, 1 << 18) as u32,
                part_size,
            };
            match ChannelRegion::with_shape(shape) {
                Err(error) if error.kind() == Kind::Os && part_size > SMALLEST => {
                    part_size /= 2;
                    sheets_size = (sheets_size / 2).max(SMALLEST);
                }
                other => return other,
            }
        }
    }

    fn with_shape(shape: Shape) -> Result<ChannelRegion> {
        let layout = shape.layout()?;
        let (file, mapping) = Mapping::create(layout.len)?;
        let head = mapping.base().cast::<Head>();
        // SAFETY: the mapping is at least a head long (`layout`), page aligned, and no
        // other process has it yet. Everything else starts as zero bytes, which is an
        // empty channel.
        unsafe {
            (&raw mut (*head.as_ptr()).shape).write(shape);
            (&raw mut (*head.as_ptr()).magic).write(MAGIC);
        }
        Ok(ChannelRegion::over(file, mapping, shape, layout))
    }

    /// The region behind `file`, which another process made.
    pub(super) fn attach(file: OwnedFd) -> Result<ChannelRegion> {
        let mapping = Mapping::attach(&file)?;
        if mapping.len() < size_of::<Head>() {
            return Err(Error::corrupt("the channel is shorter than its head"));
        }
        let head = mapping.base().cast::<Head>();
        // SAFETY: the head lies inside the mapping (checked above); these two fields are
        // written before the descriptor is shared and never again, and they are read as
        // plain numbers, for which every bit pattern is a value.
        let (magic, shape) =
            unsafe { ((&raw const (*head.as_ptr()).magic).read(), (&raw const (*head.as_ptr()).shape).read()) };
        if magic != MAGIC {
            return Err(Error::corrupt("this is not a channel of this build of manycore"));
        }
        let layout = shape.layout()?;
        if layout.len != mapping.len() {
            return Err(Error::corrupt("the channel has not the length its head says"));
        }
        Ok(ChannelRegion::over(file, mapping, shape, layout))
    }

    fn over(file: OwnedFd, mapping: Mapping, shape: Shape, layout: Layout) -> ChannelRegion {
        let blocks = Blocks::new(mapping, file, layout.payload, shape.part_size);
        ChannelRegion { blocks, shape, layout }
    }

    /// Bytes of the longest message.
    pub(super) fn part_size(&self) -> u64 {
        self.shape.part_size
    }

    /// Gives the memory of a sheet that was left to the kernel.
    pub(super) fn discard_sheet(&self, sheet: u32) {
        self.blocks.mapping.discard(self.layout.sheets + sheet as usize * SHEET, SHEET);
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping starts with a head (checked at creation and attachment)
        // and lives as long as `self`. What others write there while we borrow are
        // atomics; `magic` and `shape` are never written again.
        unsafe { self.blocks.mapping.base().cast::<Head>().as_ref() }
    }

    /// `count` values of `T` at `offset`.
    ///
    /// Private: called with offsets of `self.layout` only, which were checked against
    /// the mapping's length, and with types made of atomics and `Guarded` cells, for
    /// which zero and every other bit pattern is a value.
    fn table<T>(&self, offset: usize, count: usize) -> &[T] {
        debug_assert!(offset + count * size_of::<T>() <= self.blocks.mapping.len());
        // SAFETY: see above: in range, aligned by `layout`, shareable, and alive as long
        // as the mapping, which `&self` borrows.
        unsafe {
            let first = self.blocks.mapping.base().as_ptr().add(offset).cast::<T>();
            std::slice::from_raw_parts(first, count)
        }
    }

    pub(super) fn capacity(&self) -> Option<u32> {
        (self.shape.capacity != 0).then_some(self.shape.capacity)
    }

    pub(super) fn conduit(&self) -> Conduit<'_> {
        let sheets = self.shape.sheets as usize;
        let units = self.table::<Guarded<Unit>>(self.layout.sheets, sheets * (SHEET / UNIT));
        let below = self.table::<AtomicU32>(self.layout.below, sheets);
        Conduit::new(&self.head().words, units, below, self.capacity())
    }

    pub(super) fn part(&self) -> Part<'_> {
        let labels = self.table::<Label>(self.layout.labels, self.shape.labels as usize);
        Part::new(0, &self.head().part, labels, self.shape.part_size)
    }

    /// Copies what `record` says, and makes a block this process's.
    pub(super) fn read(&self, header: Header, units: &[Guarded<Unit>], inline: &mut Vec<u8>) -> Result<Taken> {
        let (len, base) = (header.len as usize, first_byte(units));
        if header.kind == Record::Inline {
            if header.head > header.len {
                return Err(Error::corrupt("a message shorter than its head"));
            }
            inline.clear();
            inline.reserve(len);
            // SAFETY: the stream checked that the units have room for the header and
            // `len` bytes; nobody writes between head and tail, and a damaged peer that
            // does spoils its message only. The vector has room for them.
            unsafe {
                std::ptr::copy_nonoverlapping(base, inline.as_mut_ptr(), len);
                inline.set_len(len);
            }
            return Ok(Taken::Inline(header.head as usize));
        }
        let (block, len, head) = named(header, units).ok_or_else(|| Error::corrupt("a record that names no block"))?;
        // Before the commit: who finds the block held by a process that died looks
        // whether its message still waits.
        self.part().hold(block, own_name())?;
        Ok(Taken::Block((block, len, head)))
    }

    /// A block for the `len` bytes of `message`, held by this process. In a turn to send.
    pub(super) fn allocate(self: &Arc<Self>, message: Message<'_>, len: u64) -> Result<Lease> {
        let part = self.part();
        let head = self.head();
        let mut tops = &head.tops;
        part.collect(&mut tops, &mut Vec::new())?;
        // Blocks of the dead are looked for each time an eighth more was cut than the last
        // time, so that all looks together cost no more than a few looks at the last state.
        let (used, looked) = (part.used(), head.looked.load(Ordering::Relaxed));
        if used >= looked.saturating_add(looked / 8).saturating_add(1 << 20) {
            head.looked.store(used, Ordering::Relaxed);
            self.bury()?;
            part.collect(&mut tops, &mut Vec::new())?;
        }
        let holder = own_name() | STAGING;
        let block = match part.allocate(&mut tops, holder, len) {
            Err(error) if error.kind() == Kind::TooLarge => {
                self.bury()?;
                part.collect(&mut tops, &mut Vec::new())?;
                part.allocate(&mut tops, holder, len)?
            }
            other => other?,
        };
        Lease::cut(self, part, block, message, &head.warm.0)
    }

    /// Gives back what dead processes hold. In a turn to send.
    fn bury(&self) -> Result<()> {
        let part = self.part();
        let mut last = (0, false);
        let mut gone = |holder: u64| {
            if last.0 != holder {
                last = (holder, is_gone(holder & !STAGING));
            }
            last.1
        };
        let orphans: Vec<BlockRef> = part.held().filter_map(|(block, by)| gone(by).then_some(block)).collect();
        if orphans.is_empty() {
            return Ok(());
        }
        let queued = self.queued()?;
        orphans.into_iter().filter(|block| !queued.contains(block)).try_for_each(|block| self.give_back(block))
    }

    /// After a death in a turn to send: the free lists are made anew.
    pub(super) fn rebuild(&self) -> Result<()> {
        let queued = self.queued()?;
        let mut tops = &self.head().tops;
        tops.clear();
        let orphaned = |block: BlockRef, by: u64| !queued.contains(&block) && is_gone(by & !STAGING);
        self.part().take_over(&mut tops, orphaned)
    }

    /// The blocks of messages that wait. In a turn to send.
    fn queued(&self) -> Result<HashSet<BlockRef>> {
        let stream = self.conduit().stream();
        // A receiver that goes on may give the memory of a sheet back under us, which
        // looks like damage; then it has gone on, and we look again.
        loop {
            let received = stream.received();
            let mut blocks = HashSet::new();
            let walked = stream.walk(|header, units| blocks.extend(named(header, units).map(|(block, ..)| block)));
            match walked {
                Err(_) if stream.received() != received => {}
                other => return other.map(|()| blocks),
            }
        }
    }
}

impl Home for ChannelRegion {
    fn locate(&self, block: BlockRef, len: u64) -> Result<NonNull<u8>> {
        self.blocks.bytes(self.part(), block, len)
    }

    fn give_back(&self, block: BlockRef) -> Result<()> {
        self.blocks.give_back(self.part(), block, &self.head().warm.0)
    }

    fn blocks(&self) -> &Blocks {
        &self.blocks
    }
}

/// Where the bytes of a record start that follow its header. Units are contiguous.
pub(super) fn first_byte(units: &[Guarded<Unit>]) -> *mut u8 {
    units.as_ptr().cast_mut().cast::<u8>().wrapping_add(HEADER)
}

/// The block a record names, the length of its message, and of that one's head.
fn named(header: Header, units: &[Guarded<Unit>]) -> Option<Named> {
    if header.kind != Record::Block || header.len != 24 {
        return None;
    }
    // SAFETY: the stream gave units for the header and 24 bytes, aligned to 8; they
    // are read once, as plain numbers.
    let [block, len, head] = unsafe { first_byte(units).cast::<[u64; 3]>().read() };
    Some((BlockRef::from_word(block), len, head))
}
