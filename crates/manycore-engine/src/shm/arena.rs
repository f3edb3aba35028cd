//! Payload blocks: who owns which bytes, and how they come back.
//!
//! See "The arena" in README.md. Every process allocates from a part of its own
//! and anybody gives a block back with one push, so no lock is shared and a
//! death holds nobody up.

use super::queue::Line;
use crate::error::{Error, Kind, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The name of one block: part, number in the part, and the generation that
/// tells this use of the block from earlier ones. Zero names no block.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockRef(u64);

const PART_BITS: u32 = 12;
const NUMBER_BITS: u32 = 20;

/// How many parts a region can have: the caller's and one for each worker.
pub const MAX_PARTS: usize = 1 << PART_BITS;
/// How many blocks a part can have.
pub const MAX_BLOCKS: usize = 1 << NUMBER_BITS;

impl BlockRef {
    fn new(part: usize, number: usize, generation: u32) -> BlockRef {
        BlockRef(part as u64 | (number as u64) << PART_BITS | u64::from(generation) << (PART_BITS + NUMBER_BITS))
    }

    #[cfg(not(loom))]
    /// The name as a number, to be kept in shared memory.
    pub(super) fn word(self) -> u64 {
        self.0
    }

    #[cfg(not(loom))]
    /// The name that [`BlockRef::word`] gave, or one that fits no block.
    pub(super) fn from_word(word: u64) -> BlockRef {
        BlockRef(word)
    }

    /// Whether this names no block.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The part the block lies in.
    pub fn part(self) -> usize {
        self.0 as usize & (MAX_PARTS - 1)
    }

    /// The block's number in its part.
    pub fn number(self) -> usize {
        (self.0 >> PART_BITS) as usize & (MAX_BLOCKS - 1)
    }

    fn generation(self) -> u32 {
        (self.0 >> (PART_BITS + NUMBER_BITS)) as u32
    }
}

const LOCAL: u64 = 0;
const HELD: u64 = 1;
const RETURNED: u64 = 2;

fn word(generation: u32, phase: u64) -> u64 {
    u64::from(generation) << 32 | phase
}

/// In [`Label::warm`]: the pages are counted.
const COUNTED: u32 = 1 << 31;

/// Bytes of a page, for that count.
const PAGE: u64 = 4096;

/// What stands in the arena about one block.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Label {
    /// Generation (high half) and phase: LOCAL (in the owner's free list), HELD
    /// (carries a payload), RETURNED (on the part's stack, or about to be).
    state: AtomicU64,
    /// Where the block starts, in bytes from the start of its part.
    offset: AtomicU64,
    /// log2 of the block's size.
    class: AtomicU32,
    /// The block below this one on the stack of returned blocks, plus one.
    below: AtomicU32,
    /// The holder of the block, or 0 while it is on its way from one to the other. Only
    /// read after a death. In a pool a worker's seat plus one, or [`HELD_BY_CALLER`];
    /// in a channel the name of a process.
    holder: AtomicU64,
    /// Pages of memory the block has, about; with [`COUNTED`] while it is free and they are
    /// counted as kept warm.
    warm: AtomicU32,
}

/// What a label says of a block the caller has taken over.
pub const HELD_BY_CALLER: u64 = u64::MAX;

/// The words of one part.
#[repr(C)]
#[derive(Debug, Default)]
pub struct PartWords {
    /// The top of the stack of returned blocks, plus one; zero when empty.
    returned: Line<AtomicU32>,
    /// How many labels are in use, and how many bytes are cut into blocks;
    /// only the owner writes them.
    count: Line<AtomicU32>,
    used: AtomicU64,
}

/// A view of one part's words; copied freely.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    index: usize,
    words: &'a PartWords,
    labels: &'a [Label],
    size: u64,
}

/// The smallest block: 512 bytes.
const FIRST_CLASS: u32 = 9;

impl<'a> Part<'a> {
    /// A view of part `index`, which has `size` bytes.
    pub fn new(index: usize, words: &'a PartWords, labels: &'a [Label], size: u64) -> Part<'a> {
        Part { index, words, labels, size }
    }

    fn label(&self, block: BlockRef) -> Result<&'a Label> {
        self.labels
            .get(block.number())
            .ok_or_else(|| Error::corrupt(format_args!("block {} of part {} is not there", block.number(), self.index)))
    }

    /// Where a held block lies: offset in the part and size, both inside the part.
    pub fn extent(&self, block: BlockRef) -> Result<(u64, u64)> {
        let label = self.label(block)?;
        if label.state.load(Ordering::Acquire) != word(block.generation(), HELD) {
            return Err(Error::corrupt(format_args!("block {} of part {} is not in use", block.number(), self.index)));
        }
        let offset = label.offset.load(Ordering::Relaxed);
        let class = label.class.load(Ordering::Relaxed);
        1u64.checked_shl(class)
            .and_then(|size| Some((size, offset.checked_add(size)?)))
            .filter(|(_, end)| class < 63 && *end <= self.size)
            .map(|(size, _)| (offset, size))
            .ok_or_else(|| Error::corrupt(format_args!("block {} lies outside part {}", block.number(), self.index)))
    }

    /// Writes down the holder of `block`, for the day the holder dies.
    pub fn hold(&self, block: BlockRef, holder: u64) -> Result<()> {
        self.label(block)?.holder.store(holder, Ordering::Relaxed);
        Ok(())
    }

    /// `block` was allocated for `bytes` of payload. Gives how many bytes of its memory were
    /// counted as kept warm, and are no more; None where it was cold. Only its holder asks.
    pub fn warm_up(&self, block: BlockRef, bytes: u64) -> Result<Option<u64>> {
        let warm = &self.label(block)?.warm;
        let before = warm.load(Ordering::Relaxed);
        let counted = (before & COUNTED != 0).then_some(before & !COUNTED);
        let pages = u32::try_from(bytes.div_ceil(PAGE)).unwrap_or(u32::MAX) & !COUNTED;
        warm.store(pages.max(counted.unwrap_or(0)), Ordering::Relaxed);
        Ok(counted.map(|pages| u64::from(pages) * PAGE))
    }

    /// Bytes of memory that `block` has, about: the most a payload had in it since its
    /// memory last went back to the kernel.
    pub fn warmth(&self, block: BlockRef) -> Result<u64> {
        Ok(u64::from(self.label(block)?.warm.load(Ordering::Relaxed) & !COUNTED) * PAGE)
    }

    /// Says of `block`, before it is given back, whether its memory is counted as kept warm or went
    /// back to the kernel.
    pub fn set_warm(&self, block: BlockRef, warm: bool) -> Result<()> {
        let word = &self.label(block)?.warm;
        let pages = word.load(Ordering::Relaxed);
        word.store(if warm { pages | COUNTED } else { 0 }, Ordering::Relaxed);
        Ok(())
    }

    /// The blocks that carry a payload, and the holder of each.
    pub fn held(&self) -> impl Iterator<Item = (BlockRef, u64)> + '_ {
        let count = (self.words.count.0.load(Ordering::Acquire) as usize).min(self.labels.len());
        self.labels[..count].iter().enumerate().filter_map(move |(number, label)| {
            let state = label.state.load(Ordering::Acquire);
            let generation = (state >> 32) as u32;
            let held = state == word(generation, HELD);
            held.then(|| (BlockRef::new(self.index, number, generation), label.holder.load(Ordering::Relaxed)))
        })
    }

    /// The blocks that `holder` holds.
    pub fn held_by(&self, holder: u64) -> impl Iterator<Item = BlockRef> + '_ {
        self.held().filter_map(move |(block, by)| (by == holder).then_some(block))
    }

    /// Where the blocks lie that carry no payload: offset in the part and size.
    /// Only for a part whose owner is gone.
    pub fn unused(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let count = (self.words.count.0.load(Ordering::Acquire) as usize).min(self.labels.len());
        self.labels[..count].iter().filter_map(|label| {
            let held = label.state.load(Ordering::Acquire) & u64::from(u32::MAX) == HELD;
            let size = 1u64.checked_shl(label.class.load(Ordering::Relaxed))?;
            let offset = label.offset.load(Ordering::Relaxed);
            let inside = offset.checked_add(size).is_some_and(|end| end <= self.size);
            (!held && inside).then_some((offset, size))
        })
    }

    /// Takes the top of the stack of returned blocks. Only the owner does, so the
    /// top it read cannot leave and come back before its exchange (no ABA).
    fn pop_returned(&self) -> Result<Option<u32>> {
        loop {
            let top = self.words.returned.0.load(Ordering::Acquire);
            if top == 0 {
                return Ok(None);
            }
            let number = top - 1;
            let label = self.labels.get(number as usize).ok_or_else(|| {
                Error::corrupt(format_args!("the returned blocks of part {} lead nowhere", self.index))
            })?;
            let below = label.below.load(Ordering::Relaxed);
            if self.words.returned.0.compare_exchange(top, below, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                let generation = (label.state.load(Ordering::Acquire) >> 32) as u32;
                label.state.store(word(generation, LOCAL), Ordering::Relaxed);
                return Ok(Some(number));
            }
        }
    }

    /// Gives a held block back to its owner, from any process: one exchange that
    /// says so, one push. A block that was given back already is left alone.
    pub fn give_back(&self, block: BlockRef) -> Result<()> {
        let label = self.label(block)?;
        let (held, returned) = (word(block.generation(), HELD), word(block.generation(), RETURNED));
        // AcqRel: our last reads of the payload stay before the owner's next write.
        if label.state.compare_exchange(held, returned, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Ok(());
        }
        let mut top = self.words.returned.0.load(Ordering::Relaxed);
        loop {
            label.below.store(top, Ordering::Relaxed);
            let next = block.number() as u32 + 1;
            match self.words.returned.0.compare_exchange_weak(top, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => top = now,
            }
        }
    }
}

/// Where the owner of a part keeps its free blocks, by class. What was put there
/// last is taken first: its pages are the warmest.
pub trait Shelf {
    /// Puts block `number` there.
    fn put(&mut self, part: Part<'_>, class: u32, number: u32);

    /// Takes a block of `class`, if there is one.
    fn take(&mut self, part: Part<'_>, class: u32) -> Result<Option<u32>>;
}

/// Blocks of this class and larger may be cold: 1 MiB.
const LARGE_CLASS: u32 = 20;

/// Free lists in private memory, for a part that one process allocates from.
#[derive(Debug)]
struct Lists([Vec<u32>; 64]);

impl Shelf for Lists {
    fn put(&mut self, _: Part<'_>, class: u32, number: u32) {
        // A class beyond the list is damage; the block is then lost, not used.
        if let Some(list) = self.0.get_mut(class as usize) {
            list.push(number);
        }
    }

    fn take(&mut self, part: Part<'_>, class: u32) -> Result<Option<u32>> {
        let Some(list) = self.0.get_mut(class as usize) else { return Ok(None) };
        // The last one given back is the warmest, unless it was the one too many whose
        // memory went back to the kernel: then a warm one lies below it.
        let is_warm = |number: &u32| {
            part.labels.get(*number as usize).is_some_and(|label| label.warm.load(Ordering::Relaxed) & COUNTED != 0)
        };
        let warm = if class >= LARGE_CLASS { list.iter().rposition(is_warm) } else { None };
        Ok(warm.map(|at| list.remove(at)).or_else(|| list.pop()))
    }
}

/// Tops of free lists that lie in the region, plus one; the links stand in the labels.
///
/// For a part that many processes allocate from. All of it is used under one lock.
#[repr(C)]
#[derive(Debug)]
pub struct Tops([AtomicU32; 64]);

impl Default for Tops {
    fn default() -> Tops {
        Tops(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl Tops {
    /// Forgets every block; they are found again by [`Part::take_over`].
    pub fn clear(&self) {
        self.0.iter().for_each(|top| top.store(0, Ordering::Relaxed));
    }
}

impl Shelf for &Tops {
    fn put(&mut self, part: Part<'_>, class: u32, number: u32) {
        if let (Some(top), Some(label)) = (self.0.get(class as usize), part.labels.get(number as usize)) {
            label.below.store(top.load(Ordering::Relaxed), Ordering::Relaxed);
            top.store(number + 1, Ordering::Relaxed);
        }
    }

    fn take(&mut self, part: Part<'_>, class: u32) -> Result<Option<u32>> {
        let Some(top) = self.0.get(class as usize) else { return Ok(None) };
        let Some(number) = top.load(Ordering::Relaxed).checked_sub(1) else { return Ok(None) };
        let label = part.labels.get(number as usize);
        let free = label.filter(|label| label.state.load(Ordering::Relaxed) & u64::from(u32::MAX) == LOCAL);
        let label =
            free.ok_or_else(|| Error::corrupt(format_args!("the free blocks of part {} lead nowhere", part.index)))?;
        top.store(label.below.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(Some(number))
    }
}

impl Part<'_> {
    /// A block for `len` bytes in the hands of `holder`; free ones are on `shelf`.
    /// Only the owner of the part asks, or the holder of the lock that stands for it.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] when the part has neither such a block nor room for one.
    pub fn allocate(&self, shelf: &mut impl Shelf, holder: u64, len: u64) -> Result<BlockRef> {
        let class = len.checked_next_power_of_two().map_or(u32::MAX, u64::trailing_zeros).max(FIRST_CLASS);
        let number = match shelf.take(*self, class)? {
            Some(number) => number,
            None => cut(*self, class).ok_or_else(|| self.full(len))?,
        };
        let label = self
            .labels
            .get(number as usize)
            .ok_or_else(|| Error::corrupt(format_args!("part {} lost block {number}", self.index)))?;
        let mut generation = ((label.state.load(Ordering::Relaxed) >> 32) as u32).wrapping_add(1);
        if generation == 0 {
            generation = 1; // So that no block is ever named zero.
        }
        label.holder.store(holder, Ordering::Relaxed);
        label.state.store(word(generation, HELD), Ordering::Release);
        Ok(BlockRef::new(self.index, number as usize, generation))
    }

    /// Bytes cut into blocks so far. For whoever allocates.
    pub fn used(&self) -> u64 {
        self.words.used.load(Ordering::Relaxed)
    }

    #[cold]
    fn full(&self, len: u64) -> Error {
        Error::new(
            Kind::TooLarge,
            format!(
                "a payload of {len} bytes does not fit into the shared memory that is left (part of {} bytes); \
                 send less at once, or drop results that are no longer needed",
                self.size
            ),
        )
    }

    /// Puts what others gave back on `shelf`, in the order in which they gave it;
    /// the stack has the last on top, and so must the shelf. `scratch` comes and
    /// goes empty.
    pub fn collect(&self, shelf: &mut impl Shelf, scratch: &mut Vec<u32>) -> Result<()> {
        let drained = drain(*self, |number| scratch.push(number));
        for number in scratch.drain(..).rev() {
            shelf.put(*self, self.labels[number as usize].class.load(Ordering::Relaxed), number);
        }
        drained
    }

    /// Fills an empty `shelf`, for who takes over from an owner that is gone or that
    /// died at its work. Blocks for whose holder `orphaned` is true are free from now on.
    ///
    /// One that its last holder had marked as returned and not pushed when it
    /// died stays unused until the region goes.
    pub fn take_over(&self, shelf: &mut impl Shelf, orphaned: impl Fn(BlockRef, u64) -> bool) -> Result<()> {
        // First the stack, so that the scan below meets each of its blocks once.
        drain(*self, |_| ())?;
        let count = (self.words.count.0.load(Ordering::Acquire) as usize).min(self.labels.len());
        for (number, label) in self.labels[..count].iter().enumerate() {
            let state = label.state.load(Ordering::Acquire);
            let generation = (state >> 32) as u32;
            let orphan = state == word(generation, HELD)
                && orphaned(BlockRef::new(self.index, number, generation), label.holder.load(Ordering::Relaxed));
            if orphan {
                label.state.store(word(generation, LOCAL), Ordering::Relaxed);
            }
            if orphan || state == word(generation, LOCAL) {
                shelf.put(*self, label.class.load(Ordering::Relaxed), number as u32);
            }
        }
        Ok(())
    }
}

/// The owner's half of a part that one process allocates from.
#[derive(Debug)]
pub struct Allocator {
    free: Lists,
    /// What was just taken off the stack; kept for its memory.
    returned: Vec<u32>,
}

impl Default for Allocator {
    fn default() -> Allocator {
        Allocator { free: Lists(std::array::from_fn(|_| Vec::new())), returned: Vec::new() }
    }
}

impl Allocator {
    /// Takes over a part whose owner is gone, or a new one. Blocks the caller
    /// holds stay held and come back when it gives them back; every other one is
    /// free from now on.
    pub fn take_over(part: Part<'_>) -> Result<Allocator> {
        let mut allocator = Allocator::default();
        part.take_over(&mut allocator.free, |_, holder| holder != HELD_BY_CALLER)?;
        Ok(allocator)
    }

    /// A block for `len` bytes of `part`, which must always be the same one.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] when the part has neither such a block nor room for one.
    pub fn allocate(&mut self, part: Part<'_>, len: u64) -> Result<BlockRef> {
        part.collect(&mut self.free, &mut self.returned)?;
        part.allocate(&mut self.free, 0, len)
    }
}

/// Takes every returned block off the stack of `part`; at most as many as there
/// can be, or a damaged stack would keep us here for ever.
fn drain(part: Part<'_>, mut taken: impl FnMut(u32)) -> Result<()> {
    for _ in 0..part.labels.len() {
        let Some(number) = part.pop_returned()? else { return Ok(()) };
        taken(number);
    }
    match part.words.returned.0.load(Ordering::Relaxed) {
        0 => Ok(()),
        _ => Err(Error::corrupt(format_args!("the returned blocks of part {} go round in a circle", part.index))),
    }
}

/// Cuts a new block off the unused end of `part`.
fn cut(part: Part<'_>, class: u32) -> Option<u32> {
    let count = part.words.count.0.load(Ordering::Relaxed);
    let label = part.labels.get(count as usize)?;
    let size = 1u64.checked_shl(class)?;
    // A page for itself from 4 KiB on, so that its memory can go back to the kernel.
    let offset = part.words.used.load(Ordering::Relaxed).checked_next_multiple_of(size.min(4096))?;
    let end = offset.checked_add(size).filter(|end| *end <= part.size)?;
    // The bytes first, the count last: a death in between wastes address space only.
    part.words.used.store(end, Ordering::Relaxed);
    label.offset.store(offset, Ordering::Relaxed);
    label.class.store(class, Ordering::Relaxed);
    label.state.store(word(0, LOCAL), Ordering::Relaxed);
    part.words.count.0.store(count + 1, Ordering::Release);
    Some(count)
}
