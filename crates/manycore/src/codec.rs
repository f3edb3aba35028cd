//! Values to bytes and back: the only file that names serde's format.
//!
//! A chunk is the number of its values, then the values. The number is needed:
//! a unit takes no bytes.

use crate::error::{Error, Kind, Panic, Place, Result};
use crate::failure::{Failure, Reason};
use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

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

/// The values of a chunk, one after the other.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// How many values the chunk has.
    pub(crate) count: usize,
}

impl<'a> Reader<'a> {
    /// For values without their number before them.
    pub(crate) fn over(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, count: 0 }
    }

    /// What is not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn new(bytes: &'a [u8]) -> Result<Reader<'a>> {
        let mut reader = Reader::over(bytes);
        reader.count = reader.read()?;
        Ok(reader)
    }

    pub(crate) fn read<T: DeserializeOwned>(&mut self) -> Result<T> {
        let (value, rest) = postcard::take_from_bytes(self.rest).map_err(|error| {
            Error::new(Kind::Encoding, format!("a {} cannot be read back: {error}", std::any::type_name::<T>()))
        })?;
        self.rest = rest;
        Ok(value)
    }
}

/// The bytes of a failure.
pub(crate) fn write_failure(failure: &Failure, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.clear();
    let panic = failure.panic.as_ref().map(|panic| {
        let place = panic.place().map(|place| (place.file(), place.line(), place.column()));
        (panic.message(), place, panic.backtrace())
    });
    push(buffer, &(failure.reason as u8, failure.offset, &failure.message, panic))
}

/// A failure out of its bytes.
pub(crate) fn read_failure(bytes: &[u8]) -> Result<Failure> {
    type Told = (String, Option<(String, u32, u32)>, Option<String>);
    let (reason, offset, message, panic) = Reader::over(bytes).read::<(u8, usize, String, Option<Told>)>()?;
    let panic = panic.map(|(message, place, backtrace)| {
        Panic::new(message, place.map(|(file, line, column)| Place::new(file, line, column)), backtrace)
    });
    Ok(Failure { reason: Reason::from_number(reason), offset, message, panic })
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
