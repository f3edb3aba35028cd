//! Values to bytes and back, in a serde format of our own; `format.rs` has its tags.
//!
//! A chunk is the number of its values, then the values. The number is needed:
//! a call without arguments takes no bytes.

#[cfg(test)]
mod attributes;
#[cfg(test)]
mod attributes_by_hand;
mod decoder;
mod encoder;
mod entries;
mod format;
#[cfg(test)]
mod tests;

pub(crate) use decoder::{Run, Spot};
pub(crate) use format::SLICE;

use crate::error::{Error, Kind, Panic, Place, Result};
use crate::failure::{Failure, Reason};
use crate::values::{Part, read_plain, write_plain};
use decoder::Decoder;
use encoder::{Encoder, Names, length};
use format::{BYTES, Refusal, SEGMENT};
use manycore_engine::pool::{Message, Payload, Segment, Segments};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::type_name;
use std::borrow::Cow;

/// Bytes of the largest buffer that is kept between two messages.
const KEEP: usize = 4 << 20;

/// Bytes that are there for a head from its start: small calls need no more.
const SMALL: usize = 64;

/// Begins a chunk of `count` values.
pub(crate) fn begin(buffer: &mut Vec<u8>, count: usize) {
    buffer.clear();
    length(buffer, count);
}

/// Appends a value to a chunk; its names are not known to other values.
pub(crate) fn push<T: Serialize>(buffer: &mut Vec<u8>, value: &T) -> Result<()> {
    value.serialize(&mut Encoder::new(buffer, None, None)).map_err(|error| unwritten::<T>(&error))
}

fn push_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.push(BYTES);
    length(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
}

#[cold]
fn unwritten<T>(error: &Refusal) -> Error {
    Error::new(Kind::Encoding, format!("a {} cannot be written: {error}", type_name::<T>()))
}

#[cold]
fn unread<T>(error: &Refusal) -> Error {
    Error::new(Kind::Encoding, format!("a {} cannot be read back: {error}", type_name::<T>()))
}

/// A chunk that is written: a head and, beside it, long runs of numbers.
#[derive(Debug, Default)]
pub struct Writer {
    head: Vec<u8>,
    /// None: everything goes into the head.
    parts: Option<Vec<Part>>,
    segments: Vec<Segment>,
    names: Names,
    /// Bytes of the number of values, which come first.
    counted: usize,
}

/// Where a [`Writer`] stood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    head: usize,
    parts: usize,
    names: usize,
}

impl Writer {
    /// For a message in shared memory.
    pub(crate) fn in_parts() -> Writer {
        Writer { parts: Some(Vec::new()), ..Writer::default() }
    }

    /// Begins a chunk of `count` values.
    pub(crate) fn begin(&mut self, count: usize) {
        self.clear();
        self.head.reserve(SMALL);
        length(&mut self.head, count);
        self.counted = self.head.len();
    }

    /// The chunk has `count` values, not as many as were announced.
    pub(crate) fn recount(&mut self, count: usize) {
        let mut bytes = Vec::new();
        length(&mut bytes, count);
        self.head.splice(..self.counted, bytes.iter().copied());
        self.counted = bytes.len();
    }

    /// Forgets what was written, and keeps the buffer for the next chunk, unless it is a burden.
    pub(crate) fn clear(&mut self) {
        self.parts.iter_mut().for_each(Vec::clear);
        self.segments.clear();
        self.names.truncate(0);
        if self.head.capacity() > KEEP {
            self.head = Vec::new();
        }
        self.head.clear();
    }

    #[inline]
    pub(crate) fn push<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let mut encoder = Encoder::new(&mut self.head, Some(&mut self.names), self.parts.as_mut());
        value.serialize(&mut encoder).map_err(|error| unwritten::<T>(&error))
    }

    /// Appends an argument or a result.
    pub(crate) fn push_value<T: Serialize + 'static>(&mut self, value: T) -> Result<()> {
        let mut value = Some(value);
        if write_plain(&mut value, self) {
            return Ok(());
        }
        value.map_or(Ok(()), |value| self.push(&value))
    }

    /// Appends a value that is bytes.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        push_bytes(&mut self.head, bytes);
    }

    /// Whether there may be segments beside the head.
    pub(crate) fn has_parts(&self) -> bool {
        self.parts.is_some()
    }

    /// Appends a value that is the bytes of `part`.
    pub(crate) fn push_part(&mut self, part: Part) {
        if let Some(parts) = &mut self.parts {
            self.head.push(SEGMENT);
            length(&mut self.head, part.segment().len());
            parts.push(part);
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { head: self.head.len(), parts: self.parts.as_ref().map_or(0, Vec::len), names: self.names.len() }
    }

    /// Forgets what was written since `mark`.
    pub(crate) fn reset(&mut self, mark: Mark) {
        self.head.truncate(mark.head);
        self.names.truncate(mark.names);
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
    decoder: Decoder<'a>,
    /// How many values the chunk has.
    pub(crate) count: usize,
}

impl<'a> Reader<'a> {
    /// For values without their number before them, and without segments.
    pub(crate) fn over(bytes: &'a [u8]) -> Reader<'a> {
        Reader { decoder: Decoder::new(bytes, None), count: 0 }
    }

    /// What is not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.decoder.rest
    }

    /// Reads a chunk that is all head.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Reader<'a>> {
        Reader::over(bytes).begin()
    }

    /// Reads a chunk whose head, a private copy, has come with `segments`.
    pub(crate) fn in_parts(head: &'a [u8], segments: Segments) -> Result<Reader<'a>> {
        Reader { decoder: Decoder::new(head, Some(segments)), count: 0 }.begin()
    }

    fn begin(mut self) -> Result<Reader<'a>> {
        self.count = self.decoder.length().map_err(|error| unread::<usize>(&error))?;
        Ok(self)
    }

    #[inline]
    pub(crate) fn read<T: DeserializeOwned>(&mut self) -> Result<T> {
        self.decoder.begin();
        T::deserialize(&mut self.decoder).map_err(|error| unread::<T>(&error))
    }

    /// An argument or a result.
    #[inline]
    pub(crate) fn read_value<T: DeserializeOwned + 'static>(&mut self) -> Result<T> {
        let mut value: Option<T> = None;
        read_plain(&mut value, self)?;
        value.map_or_else(|| self.read(), Ok)
    }

    /// A value that is bytes.
    pub(crate) fn read_plain<T>(&mut self) -> Result<Run<'a>> {
        match self.decoder.run_of_bytes() {
            Ok(Some(run)) => Ok(run),
            Ok(None) => Err(unread::<T>(&Refusal::new("the value is not the bytes of numbers in a row"))),
            Err(error) => Err(unread::<T>(&error)),
        }
    }

    /// Where the next value begins.
    pub(crate) fn spot(&self) -> Spot<'a> {
        self.decoder.spot()
    }

    /// Goes on behind the `count` values that begin at `spot`, however far they were read.
    pub(crate) fn pass(&mut self, spot: Spot<'a>, count: usize) -> Result<()> {
        self.decoder.pass(spot, count).map_err(|error| unread::<()>(&error))
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
