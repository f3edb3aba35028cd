//! Bytes on their way into shared memory, and out of it.
//!
//! A message is a head and any number of segments. In a block the head comes
//! first, each segment then starts at the next multiple of [`ALIGN`]; how many
//! there are and how long each is stands in the head, which the engine does not read.
//!
//! # Why this file is unsafe
//!
//! Payload bytes are copied between ordinary memory and a mapping that others
//! may write; both sides are raw pointers with a length checked just before.

use super::blocks::{Home, Lease, copy};
use super::region::Region;
use super::task::{INLINE, Place, Slip};
use crate::error::{Error, Result};
use std::ptr::NonNull;
use std::sync::Arc;

/// Where segments start: a multiple of a cache line, enough for any vector load.
pub const ALIGN: usize = 64;

/// A borrowed run of bytes that is copied straight into a block.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    base: *const u8,
    len: usize,
}

// SAFETY: a segment is an address and a length; that the bytes stay allocated, for
// whichever thread copies them, is what `Segment::new` asks for.
unsafe impl Send for Segment {}
// SAFETY: as above; the bytes are only read.
unsafe impl Sync for Segment {}

impl Segment {
    /// The `len` bytes at `base`.
    ///
    /// # Safety
    /// They stay allocated while the segment is in use. Another thread may change
    /// them meanwhile; what arrives then is any mix of old and new.
    pub unsafe fn new(base: *const u8, len: usize) -> Segment {
        Segment { base, len }
    }

    /// Bytes of the segment.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A message to send: what a codec made of a value.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The head.
    pub head: &'a [u8],
    /// What follows it.
    pub segments: &'a [Segment],
}

impl<'a> Message<'a> {
    /// A message that is all head.
    pub fn of(head: &'a [u8]) -> Message<'a> {
        Message { head, segments: &[] }
    }

    /// Bytes of the whole message, gaps included; `None` above the address space.
    pub fn total(&self) -> Option<usize> {
        self.segments
            .iter()
            .try_fold(self.head.len(), |end, segment| end.checked_next_multiple_of(ALIGN)?.checked_add(segment.len))
    }

    /// Whether the message fits into an entry of the task table.
    pub fn fits_inline(&self) -> bool {
        self.segments.is_empty() && self.head.len() <= INLINE
    }

    /// Writes a small message into the slip of a task.
    pub(crate) fn write_inline(&self, slip: &mut Slip) {
        debug_assert!(self.fits_inline());
        slip.inline[..self.head.len()].copy_from_slice(self.head);
        let len = self.head.len() as u64;
        slip.body = Place { len, head: len, ..Place::default() };
    }

    /// Copies the message into the block that `lease` cut for it.
    pub(crate) fn write(&self, lease: &Lease) -> Result<()> {
        for (start, source, len) in self.pieces() {
            // SAFETY: a slice is allocated, and nobody is handed one of a mapping as a
            // head; a segment is by the contract of `Segment::new`.
            unsafe { lease.fill(start, source, len)? };
        }
        Ok(())
    }

    /// Copies the message to `base`.
    ///
    /// # Safety
    /// [`Message::total`] bytes can be written there, and are no part of the message.
    pub(super) unsafe fn write_at(&self, base: *mut u8) {
        for (start, source, len) in self.pieces() {
            // SAFETY: the target has room for as much as `total` counted, by contract; the
            // source is allocated, as above.
            unsafe { std::ptr::copy_nonoverlapping(source, base.add(start), len) };
        }
    }

    /// Where each part of the message goes, and where it comes from: address and length.
    fn pieces(&self) -> impl Iterator<Item = (usize, *const u8, usize)> + '_ {
        let mut end = self.head.len();
        let segments = self.segments.iter().map(move |segment| {
            let start = end.next_multiple_of(ALIGN);
            end = start + segment.len;
            (start, segment.base, segment.len)
        });
        std::iter::once((0, self.head.as_ptr(), self.head.len())).chain(segments)
    }
}

/// A received message.
#[derive(Debug)]
pub enum Payload {
    /// A small one, copied out of the task table.
    Inline(Box<[u8]>),
    /// One that lies in a block, which is ours until the lease is dropped.
    Block(Arc<Lease>),
}

impl Payload {
    /// Takes what `slip` carries; a block is held by `holder` from now on.
    pub(crate) fn take(region: &Arc<Region>, slip: &Slip, holder: u64) -> Result<Payload> {
        let place = slip.body;
        if place.block.is_null() {
            let bytes = usize::try_from(place.len).ok().and_then(|len| slip.inline.get(..len));
            return bytes
                .map(|bytes| Payload::Inline(bytes.into()))
                .ok_or_else(|| Error::corrupt(format_args!("an inline payload of {} bytes", place.len)));
        }
        region.part(place.block.part())?.hold(place.block, holder)?;
        Ok(Payload::Block(Arc::new(Lease::new(region, place.block, place.len, place.head)?)))
    }

    /// A private copy of a message in a block that somebody else holds and keeps
    /// unchanged meanwhile, and the length of its head.
    pub(crate) fn copy_of(region: &Region, place: Place) -> Result<(Vec<u8>, usize)> {
        let base = region.locate(place.block, place.len)?;
        if place.head > place.len {
            return Err(Error::corrupt("a message shorter than its head"));
        }
        // SAFETY: `bytes` checked that the block has `len` bytes.
        Ok((unsafe { copy(base, place.len as usize) }, place.head as usize))
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        match self {
            Payload::Inline(bytes) => NonNull::from(&**bytes).cast(),
            Payload::Block(lease) => lease.base(),
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        match self {
            Payload::Inline(bytes) => bytes.len(),
            Payload::Block(lease) => lease.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the head.
    pub fn head_len(&self) -> usize {
        match self {
            Payload::Inline(bytes) => bytes.len(),
            Payload::Block(lease) => lease.head(),
        }
    }

    /// A private copy of the head.
    pub fn head_to_vec(&self) -> Vec<u8> {
        // SAFETY: a head is no longer than its payload (`Lease::new`).
        unsafe { copy(self.base(), self.head_len()) }
    }

    /// A private copy of the whole message.
    pub fn to_vec(&self) -> Vec<u8> {
        // SAFETY: a payload is `len` bytes long at `base`.
        unsafe { copy(self.base(), self.len()) }
    }
}

/// The segments of a received message, one after the other. How long each is stands
/// in the head, so whoever reads that asks for them in turn.
#[derive(Debug)]
pub struct Segments {
    lease: Option<Arc<Lease>>,
    end: usize,
}

/// A run of bytes of a received message, used in place. Its block goes back when the
/// last piece of it does.
///
/// A piece derefs to ordinary slices, although the block lies in memory that others map,
/// because the block is the receiver's alone: whoever follows the protocol writes it
/// no more. A peer that does so nevertheless changes what is read here, as a wild pointer
/// in this process would; where that is to be ruled out, take a copy.
#[derive(Debug)]
pub struct Piece {
    lease: Arc<Lease>,
    start: usize,
    len: usize,
}

impl Segments {
    /// Those of `payload`; an inline one has none.
    pub fn of(payload: &Payload) -> Segments {
        match payload {
            Payload::Inline(_) => Segments { lease: None, end: 0 },
            Payload::Block(lease) => Segments { lease: Some(Arc::clone(lease)), end: lease.head() },
        }
    }

    /// The next segment, which has `len` bytes and starts at a multiple of [`ALIGN`].
    ///
    /// # Errors
    /// [`crate::Kind::Corrupt`] where the message is shorter.
    pub fn next(&mut self, len: usize) -> Result<Piece> {
        let lease = self.lease.as_ref();
        let start = self.end.checked_next_multiple_of(ALIGN);
        let inside = |start: usize| start.checked_add(len).filter(|end| lease.is_some_and(|all| *end <= all.len()));
        let (Some(lease), Some(start), Some(end)) = (lease, start, start.and_then(inside)) else {
            return Err(Error::corrupt(format_args!("a message is shorter than its segment of {len} bytes")));
        };
        self.end = end;
        Ok(Piece { lease: Arc::clone(lease), start, len })
    }
}

impl Piece {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: inside the block (checked by `next`), which stays held as long as the
        // lease lives. Initialised: memory of a file. Nobody writes it meanwhile: no other
        // piece covers it (`next` only goes forward), and by protocol a held block is its
        // holder's alone (see above for the peer that breaks it).
        unsafe { std::slice::from_raw_parts(self.lease.base().as_ptr().add(self.start), self.len) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; and `&mut self` is the only way to this run of bytes.
        unsafe { std::slice::from_raw_parts_mut(self.lease.base().as_ptr().add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::arena::Allocator;

    /// New pages are written through the file, warm ones through the mapping: both
    /// must show the same in every mapping.
    #[test]
    fn a_large_message_arrives_whole_in_new_pages_and_in_warm_ones() {
        let region = Arc::new(Region::create(1, 8).unwrap());
        let other = Arc::new(Region::attach(region.file().try_clone_to_owned().unwrap()).unwrap());
        let mut allocator = Allocator::take_over(region.part(1).unwrap()).unwrap();
        let mut blocks = Vec::new();
        for round in 0..3u8 {
            let large: Vec<u8> = (0..(3 << 20) + 13).map(|at: u32| at as u8 ^ round).collect();
            let small = [round; 77];
            // SAFETY: both live until the message is written.
            let segments =
                unsafe { [Segment::new(large.as_ptr(), large.len()), Segment::new(small.as_ptr(), small.len())] };
            let message = Message { head: b"head", segments: &segments };
            let lease = region.lease(&mut allocator, 1, message).unwrap();
            message.write(&lease).unwrap();
            let (arrived, head) = Payload::copy_of(&other, lease.place()).unwrap();
            assert_eq!((head, arrived.len()), (4, message.total().unwrap()));
            assert!(arrived[..4] == *b"head" && arrived[ALIGN..][..large.len()] == large);
            assert!(arrived.ends_with(&small));
            blocks.push(lease.block().number());
        }
        assert_eq!(blocks, [0, 0, 0], "the block is used again, so the later rounds met warm pages");
    }
}
