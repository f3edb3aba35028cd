//! Values to bytes and back: the only file that names serde's format.
//!
//! A chunk is the number of its values, then the values. The number is needed:
//! a unit takes no bytes.

use crate::error::{Error, Kind, Panic, Place, Result};
use crate::failure::{Failure, Reason};
use crate::values::{Part, Received, Sent, read_plain, write_plain};
use manycore_engine::pool::{Message, Payload, Piece, Segment, Segments};
use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;

/// Bytes of the largest buffer that is kept between two messages.
const KEEP: usize = 4 << 20;

/// Bytes that are there for a head from its start: small calls need no more.
const SMALL: usize = 64;

/// Appends to a buffer that is used again. postcard's own flavor for any
/// `Extend<u8>` pushes byte by byte.
struct Tail<'a>(&'a mut Vec<u8>);

impl Flavor for Tail<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Begins a chunk of `count` values.
pub(crate) fn begin(buffer: &mut Vec<u8>, count: usize) -> Result<()> {
    buffer.clear();
    push(buffer, &count)
}

/// Appends a value to a chunk.
pub(crate) fn push<T: Serialize>(buffer: &mut Vec<u8>, value: &T) -> Result<()> {
    postcard::serialize_with_flavor(value, Tail(buffer)).map_err(|error| {
        Error::new(Kind::Encoding, format!("a {} cannot be written: {error}", std::any::type_name::<T>()))
    })
}

/// A chunk that is written: a head and, beside it, long runs of numbers.
#[derive(Debug, Default)]
pub struct Writer {
    head: Vec<u8>,
    /// None: everything goes into the head.
    parts: Option<Vec<Part>>,
    segments: Vec<Segment>,
    /// Bytes of the number of values, which come first.
    counted: usize,
}

/// Where a [`Writer`] stood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    head: usize,
    parts: usize,
}

impl Writer {
    /// For a message in shared memory.
    pub(crate) fn in_parts() -> Writer {
        Writer { parts: Some(Vec::new()), ..Writer::default() }
    }

    /// Begins a chunk of `count` values.
    pub(crate) fn begin(&mut self, count: usize) -> Result<()> {
        self.clear();
        self.head.reserve(SMALL);
        self.push(&count)?;
        self.counted = self.head.len();
        Ok(())
    }

    /// The chunk has `count` values, not as many as were announced.
    pub(crate) fn recount(&mut self, count: usize) -> Result<()> {
        let mut bytes = Vec::new();
        push(&mut bytes, &count)?;
        self.head.splice(..self.counted, bytes.iter().copied());
        self.counted = bytes.len();
        Ok(())
    }

    /// Forgets what was written, and keeps the buffer for the next chunk, unless it is a burden.
    pub(crate) fn clear(&mut self) {
        self.parts.iter_mut().for_each(Vec::clear);
        self.segments.clear();
        if self.head.capacity() > KEEP {
            self.head = Vec::new();
        }
        self.head.clear();
    }

    pub(crate) fn push<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let _sent = self.parts.as_mut().map(Sent::into);
        push(&mut self.head, value)
    }

    /// Appends an argument or a result.
    pub(crate) fn push_value<T: Serialize + 'static>(&mut self, value: T) -> Result<()> {
        let mut value = Some(value);
        if write_plain(&mut value, self)? {
            return Ok(());
        }
        value.map_or(Ok(()), |value| self.push(&value))
    }

    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        push(&mut self.head, &bytes.len())?;
        self.head.extend_from_slice(bytes);
        Ok(())
    }

    /// Whether there may be segments beside the head.
    pub(crate) fn has_parts(&self) -> bool {
        self.parts.is_some()
    }

    pub(crate) fn push_part(&mut self, part: Part) {
        if let Some(parts) = &mut self.parts {
            parts.push(part);
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { head: self.head.len(), parts: self.parts.as_ref().map_or(0, Vec::len) }
    }

    /// Forgets what was written since `mark`.
    pub(crate) fn reset(&mut self, mark: Mark) {
        self.head.truncate(mark.head);
        self.parts.iter_mut().for_each(|parts| parts.truncate(mark.parts));
    }

    /// Bytes so far, gaps between segments not counted.
    pub(crate) fn len(&self) -> usize {
        let parts = self.parts.iter().flatten();
        self.head.len().saturating_add(parts.map(|part| part.segment().len()).sum())
    }

    /// The message; what it borrows stays until the next chunk begins.
    pub(crate) fn message(&mut self) -> Message<'_> {
        self.segments.clear();
        self.segments.extend(self.parts.iter().flatten().map(Part::segment));
        Message { head: &self.head, segments: &self.segments }
    }

    /// The head, which is everything where there are no segments.
    pub(crate) fn swap_head(&mut self, buffer: &mut Vec<u8>) {
        std::mem::swap(&mut self.head, buffer);
    }
}

/// The values of a chunk, one after the other.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    segments: Option<Segments>,
    /// How many values the chunk has.
    pub(crate) count: usize,
}

impl<'a> Reader<'a> {
    /// For values without their number before them, and without segments.
    pub(crate) fn over(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, segments: None, count: 0 }
    }

    /// What is not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads a chunk that is all head.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Reader<'a>> {
        Reader::over(bytes).begin()
    }

    /// Reads a chunk whose head, a private copy, has come with `segments`.
    pub(crate) fn in_parts(head: &'a [u8], segments: Segments) -> Result<Reader<'a>> {
        Reader { segments: Some(segments), ..Reader::over(head) }.begin()
    }

    fn begin(mut self) -> Result<Reader<'a>> {
        self.count = self.read()?;
        Ok(self)
    }

    pub(crate) fn read<T: DeserializeOwned>(&mut self) -> Result<T> {
        let _received = self.segments.is_some().then(|| Received::from(&mut self.segments));
        let (value, rest) = postcard::take_from_bytes(self.rest).map_err(|error| {
            Error::new(Kind::Encoding, format!("a {} cannot be read back: {error}", std::any::type_name::<T>()))
        })?;
        self.rest = rest;
        Ok(value)
    }

    /// An argument or a result.
    pub(crate) fn read_value<T: DeserializeOwned + 'static>(&mut self) -> Result<T> {
        let mut value: Option<T> = None;
        read_plain(&mut value, self)?;
        value.map_or_else(|| self.read(), Ok)
    }

    pub(crate) fn read_bytes(&mut self) -> Result<&'a [u8]> {
        let len: usize = self.read()?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or_else(|| {
            Error::new(Kind::Encoding, format!("{len} bytes were announced and {} came", self.rest.len()))
        })?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn next_segment(&mut self, len: u64) -> Result<Piece> {
        let segments = self.segments.as_mut().zip(usize::try_from(len).ok());
        let (segments, len) =
            segments.ok_or_else(|| Error::new(Kind::Encoding, format!("a segment of {len} bytes has not come")))?;
        Ok(segments.next(len)?)
    }
}

/// The head of a received message. One that lies in shared memory is copied first: others
/// may write there while serde reads.
pub(crate) fn head_of(payload: &Payload) -> Cow<'_, [u8]> {
    match payload {
        Payload::Inline(bytes) => Cow::Borrowed(bytes),
        Payload::Block(_) => Cow::Owned(payload.head_to_vec()),
    }
}

/// The bytes of a failure.
pub(crate) fn write_failure(failure: &Failure, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.clear();
    push_failure(failure, buffer)
}

fn push_failure(failure: &Failure, buffer: &mut Vec<u8>) -> Result<()> {
    let panic = failure.panic.as_ref().map(|panic| {
        let place = panic.place().map(|place| (place.file(), place.line(), place.column()));
        (panic.message(), place, panic.backtrace())
    });
    push(buffer, &(failure.reason as u8, failure.offset, &failure.message, panic))
}

/// A failure out of its bytes.
pub(crate) fn read_failure(bytes: &[u8]) -> Result<Failure> {
    Reader::over(bytes).read_failure()
}

impl Reader<'_> {
    /// A failure that stands in the place of a result.
    pub(crate) fn read_failure(&mut self) -> Result<Failure> {
        type Told = (String, Option<(String, u32, u32)>, Option<String>);
        let (reason, offset, message, panic) = self.read::<(u8, usize, String, Option<Told>)>()?;
        let panic = panic.map(|(message, place, backtrace)| {
            Panic::new(message, place.map(|(file, line, column)| Place::new(file, line, column)), backtrace)
        });
        Ok(Failure { reason: Reason::from_number(reason), offset, message, panic })
    }
}

impl Writer {
    /// Writes a failure, alone.
    pub(crate) fn failure(&mut self, failure: &Failure) -> Result<()> {
        self.clear();
        push_failure(failure, &mut self.head)
    }

    /// Writes a failure in the place of a result.
    pub(crate) fn push_failure(&mut self, failure: &Failure) -> Result<()> {
        push_failure(failure, &mut self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_reads_back() {
        let mut bytes = Vec::new();
        begin(&mut bytes, 2).unwrap();
        push(&mut bytes, &("one".to_owned(), 1u64)).unwrap();
        push(&mut bytes, &("two".to_owned(), u64::MAX)).unwrap();
        let mut reader = Reader::new(&bytes).unwrap();
        assert_eq!(reader.count, 2);
        assert_eq!(reader.read::<(String, u64)>().unwrap(), ("one".to_owned(), 1));
        assert_eq!(reader.read::<(String, u64)>().unwrap(), ("two".to_owned(), u64::MAX));
        assert!(reader.read::<(String, u64)>().unwrap_err().is_encoding());
    }

    #[test]
    fn a_failure_reads_back() {
        let mut bytes = vec![1, 2, 3];
        let panic = Panic::new("boom".to_owned(), Some(Place::new("a.rs".to_owned(), 3, 5)), Some("main".to_owned()));
        write_failure(&Failure::panicked(panic.clone(), 7), &mut bytes).unwrap();
        let failure = read_failure(&bytes).unwrap();
        assert_eq!(
            (failure.reason, failure.offset, failure.message.as_str()),
            (Reason::Panic, 7, "boom (at a.rs:3:5)")
        );
        assert_eq!(failure.panic, Some(panic));
        write_failure(&Failure::of(&Error::new(Kind::Encoding, "no"), 1), &mut bytes).unwrap();
        let failure = read_failure(&bytes).unwrap();
        assert_eq!((failure.reason, failure.message.as_str(), failure.panic), (Reason::Encoding, "no", None));
    }
}
