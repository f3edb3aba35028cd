//! The segments of a message while its head is written or read.
//!
//! serde passes a value's parts through traits that have no room for a second stream. So a
//! [`Slice`](super::Slice) goes through serde under a name that our format knows, and the two hand the bytes over in
//! the thread, for the time of that one slice. In another format (a value that writes JSON of its own) the
//! name means nothing, and the slice is its bytes.
//!
//! # Why this file is unsafe
//!
//! A segment is an address and a length. That the bytes stay where they are until they were
//! copied is this file's duty: a [`Part`] is made of an owner only, which it keeps.

#![allow(unsafe_code)]

use manycore_engine::pool::{Piece, Segment};
use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::thread::LocalKey;

/// A run of bytes to send, and who owns it.
pub struct Part {
    segment: Segment,
    _owner: Box<dyn Any + Send>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segment.fmt(f)
    }
}

impl Part {
    /// The elements of `items`.
    pub(crate) fn vec<T: bytemuck::NoUninit + Send>(items: Vec<T>) -> Part {
        let segment = segment(&items);
        Part { segment, _owner: Box::new(items) }
    }

    /// The elements `range` of `items`; whoever else has them cannot change them as long as they are shared.
    pub(crate) fn shared<T: bytemuck::NoUninit + Send + Sync>(items: Arc<Vec<T>>, range: Range<usize>) -> Part {
        let segment = segment(&items[range]);
        Part { segment, _owner: Box::new(items) }
    }

    /// The bytes `range` of `piece`; as above.
    pub(crate) fn piece(piece: Arc<Piece>, range: Range<usize>) -> Part {
        let segment = segment(&piece.bytes()[range]);
        Part { segment, _owner: Box::new(piece) }
    }

    /// The segment, good for as long as the part is kept.
    pub(crate) fn segment(&self) -> Segment {
        self.segment
    }
}

fn segment<T: bytemuck::NoUninit>(items: &[T]) -> Segment {
    let bytes: &[u8] = bytemuck::cast_slice(items);
    // SAFETY: the callers above put the owner of the bytes beside the segment, in a field that
    // nobody else reaches; vectors and pieces do not move their bytes.
    unsafe { Segment::new(bytes.as_ptr(), bytes.len()) }
}

thread_local! {
    /// What a slice hands over to the format it is written in.
    static OFFER: RefCell<Offer> = const { RefCell::new(Offer::Closed) };
    /// What the format hands over to the slice that is read.
    static RECEIVED: RefCell<Option<Piece>> = const { RefCell::new(None) };
}

enum Offer {
    /// The format is another one, or knows no segments.
    Closed,
    Asked,
    Given(Part),
}

/// Runs `write`, which may write a slice, and gives the part that the slice has handed over instead of its
/// bytes.
pub(crate) fn offered<E>(write: impl FnOnce() -> Result<(), E>) -> Result<Option<Part>, E> {
    let _before = Restore(&OFFER, Some(OFFER.replace(Offer::Asked)));
    write()?;
    Ok(match OFFER.replace(Offer::Closed) {
        Offer::Given(part) => Some(part),
        Offer::Closed | Offer::Asked => None,
    })
}

/// Hands over what a slice has to send; says whether somebody takes it.
pub(crate) fn offer(part: impl FnOnce() -> Part) -> bool {
    OFFER.with_borrow_mut(|offer| {
        let is_asked = matches!(offer, Offer::Asked);
        if is_asked {
            *offer = Offer::Given(part());
        }
        is_asked
    })
}

/// Runs `read`, which reads a slice, with `piece` for its bytes.
pub(crate) fn received<R>(piece: Piece, read: impl FnOnce() -> R) -> R {
    let _before = Restore(&RECEIVED, Some(RECEIVED.replace(Some(piece))));
    read()
}

/// The bytes of the slice that is read, where they are a segment.
pub(crate) fn take_received() -> Option<Piece> {
    RECEIVED.take()
}

/// Puts back what was there before, also after a panic.
struct Restore<T: 'static>(&'static LocalKey<RefCell<T>>, Option<T>);

impl<T> Drop for Restore<T> {
    fn drop(&mut self) {
        if let Some(before) = self.1.take() {
            self.0.replace(before);
        }
    }
}
