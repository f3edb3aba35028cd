//! The segments of a message while its head is written or read.
//!
//! serde passes a value's parts through traits that have no room for a second stream, so
//! the segments wait in the thread: [`Sent`] and [`Received`] put them there for the time of
//! one value. Another format that is used inside of it (a value that writes JSON of its
//! own) takes no notice: a [`Slice`](super::Slice) in a format for humans is written in full.
//!
//! # Why this file is unsafe
//!
//! A segment is an address and a length. That the bytes stay where they are until they were
//! copied is this file's duty: a [`Part`] is made of an owner only, which it keeps.

#![allow(unsafe_code)]

use crate::error::Result;
use manycore_engine::pool::{Piece, Segment, Segments};
use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

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
    static SENT: RefCell<Option<Vec<Part>>> = const { RefCell::new(None) };
    static RECEIVED: RefCell<Option<Segments>> = const { RefCell::new(None) };
}

/// While this lives, slices of values that are written in this thread become parts.
pub(crate) struct Sent<'a>(&'a mut Vec<Part>);

impl<'a> Sent<'a> {
    pub(crate) fn into(parts: &'a mut Vec<Part>) -> Sent<'a> {
        SENT.set(Some(std::mem::take(parts)));
        Sent(parts)
    }

    /// Hands over what a slice has to send; says whether somebody takes it.
    pub(crate) fn offer(part: impl FnOnce() -> Part) -> bool {
        SENT.with_borrow_mut(|sent| sent.as_mut().map(|parts| parts.push(part())).is_some())
    }

    /// Whether a value is being written that may have parts.
    pub(crate) fn is_open() -> bool {
        SENT.with_borrow(Option::is_some)
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        *self.0 = SENT.take().unwrap_or_default();
    }
}

/// While this lives, slices of values that are read in this thread take their segments from here.
pub(crate) struct Received<'a>(&'a mut Option<Segments>);

impl<'a> Received<'a> {
    pub(crate) fn from(segments: &'a mut Option<Segments>) -> Received<'a> {
        RECEIVED.set(segments.take());
        Received(segments)
    }

    /// The next segment, of `len` bytes; None where no message is being read.
    pub(crate) fn next(len: usize) -> Option<Result<Piece>> {
        RECEIVED.with_borrow_mut(|received| Some(received.as_mut()?.next(len).map_err(Into::into)))
    }

    /// Whether a message is being read.
    pub(crate) fn is_open() -> bool {
        RECEIVED.with_borrow(Option::is_some)
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        *self.0 = RECEIVED.take();
    }
}
