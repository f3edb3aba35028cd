//! `Slice`: plain values in a row, used where they arrive.

use super::plain::copy;
use super::{Part, SEGMENT_FROM, offer, take_received};
use crate::codec::SLICE;
use bytemuck::Pod;
use manycore_engine::pool::Piece;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, Deref, DerefMut, Range, RangeBounds};
use std::sync::Arc;

/// A row of plain values: numbers, or structures of numbers that derive `bytemuck::Pod`.
///
/// It derefs to `[T]`. Made from a `Vec`, it holds that. When it travels to another process,
/// as an argument, a result or anywhere in one, its bytes are copied once, into
/// shared memory; there the receiver's slice reads and writes them in place. That memory is the receiver's
/// own until the slice is dropped, which gives it back.
///
/// A `Vec` of numbers that is an argument or a result as such does not go through serde
/// either, but it is copied out of shared memory again. Inside a tuple or a
/// structure it does go through serde, number by number; use a slice there.
///
/// With serde formats other than this crate's own, a slice is its bytes. Processors of a different byte
/// order do not read each other's.
///
/// A received slice reads memory that the process it came from could still write, if it broke
/// this crate's protocol; workers that run hostile code with a hole in it should
/// send `Vec`s, of which the receiver has a copy of its own.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::{Pool, Slice};
///
/// fn doubled(mut row: Slice<f64>) -> Slice<f64> {
///     row.iter_mut().for_each(|x| *x *= 2.0);
///     row
/// }
///
/// let pool = Pool::with_workers(1)?;
/// let row: Slice<f64> = (0..100_000).map(f64::from).collect();
/// let result = pool.apply(doubled, (row,))?;
/// assert_eq!((result.len(), result[99_999]), (100_000, 199_998.0));
/// # Ok(())
/// # }
/// ```
pub struct Slice<T: Pod> {
    place: Place<T>,
    /// The elements of the place that are this slice's.
    range: Range<usize>,
}

/// Bytes, used where they arrive.
pub type Bytes = Slice<u8>;

enum Place<T> {
    Own(Arc<Vec<T>>),
    /// Whole elements, aligned for them: checked when it was received.
    Shared(Arc<Piece>),
}

impl<T: Pod> Slice<T> {
    /// An empty slice.
    pub fn new() -> Slice<T> {
        Vec::new().into()
    }

    /// The elements in memory of this process: without a copy if that is where they are, and no other slice
    /// has them.
    pub fn into_vec(self) -> Vec<T> {
        let whole = self.range == (0..self.place.elements().len());
        match self.place {
            Place::Own(items) if whole => Arc::try_unwrap(items).unwrap_or_else(|items| items.to_vec()),
            place => place.elements()[self.range].to_vec(),
        }
    }

    /// Some of the elements, without a copy. The first to write in a slice that shares its elements with
    /// others gets a copy of its own.
    ///
    /// ```
    /// let row: manycore::Slice<u8> = (0..10).collect();
    /// let mut middle = row.slice(3..5);
    /// middle[0] = 100;
    /// assert_eq!((row[3], &middle[..]), (3, &[100, 4][..]));
    /// ```
    ///
    /// # Panics
    /// Where the range is not inside of the slice.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Slice<T> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.len(),
        };
        assert!(start <= end && end <= self.len(), "{start} to {end} of a slice of {} elements", self.len());
        let place = match &self.place {
            Place::Own(items) => Place::Own(Arc::clone(items)),
            Place::Shared(piece) => Place::Shared(Arc::clone(piece)),
        };
        Slice { place, range: self.range.start + start..self.range.start + end }
    }

    /// The elements in slices of `size`, the last one with what is left, without a copy: items for a map.
    ///
    /// # Panics
    /// Where `size` is 0.
    pub fn chunks_of(&self, size: usize) -> impl Iterator<Item = Slice<T>> + '_ {
        assert!(size > 0, "a slice in slices of no elements");
        (0..self.len()).step_by(size).map(move |start| self.slice(start..self.len().min(start + size)))
    }

    fn part(&self) -> Part
    where
        T: Send + Sync,
    {
        match &self.place {
            Place::Own(items) => Part::shared(Arc::clone(items), self.range.clone()),
            Place::Shared(piece) => {
                let size = size_of::<T>();
                Part::piece(Arc::clone(piece), self.range.start * size..self.range.end * size)
            }
        }
    }
}

impl<T: Pod> Place<T> {
    fn elements(&self) -> &[T] {
        match self {
            Place::Own(items) => items,
            // Never fails: see `Place::Shared`.
            Place::Shared(piece) => bytemuck::try_cast_slice(piece.bytes()).unwrap_or_default(),
        }
    }

    /// The elements, to write: None where others have them, too.
    fn elements_mut(&mut self) -> Option<&mut [T]> {
        match self {
            Place::Own(items) => Arc::get_mut(items).map(Vec::as_mut_slice),
            Place::Shared(piece) => bytemuck::try_cast_slice_mut(Arc::get_mut(piece)?.bytes_mut()).ok(),
        }
    }
}

impl<T: Pod> Deref for Slice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // Never misses: the range was inside when the slice was made, and places do not shrink.
        self.place.elements().get(self.range.clone()).unwrap_or_default()
    }
}

impl<T: Pod> DerefMut for Slice<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // Others have the elements: slices of them, or a message on its way.
        if self.place.elements_mut().is_none() {
            *self = Slice::from(&**self);
        }
        let range = self.range.clone();
        self.place.elements_mut().and_then(|elements| elements.get_mut(range)).unwrap_or_default()
    }
}

impl<T: Pod> From<Vec<T>> for Slice<T> {
    fn from(items: Vec<T>) -> Slice<T> {
        Slice { range: 0..items.len(), place: Place::Own(Arc::new(items)) }
    }
}

impl<T: Pod> From<&[T]> for Slice<T> {
    fn from(items: &[T]) -> Slice<T> {
        items.to_vec().into()
    }
}

impl<T: Pod> FromIterator<T> for Slice<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Slice<T> {
        Vec::from_iter(items).into()
    }
}

impl<T: Pod> From<Slice<T>> for Vec<T> {
    fn from(slice: Slice<T>) -> Vec<T> {
        slice.into_vec()
    }
}

impl<T: Pod> Default for Slice<T> {
    fn default() -> Slice<T> {
        Slice::new()
    }
}

/// A copy in memory of this process.
impl<T: Pod> Clone for Slice<T> {
    fn clone(&self) -> Slice<T> {
        Slice::from(&**self)
    }
}

impl<T: Pod + PartialEq> PartialEq for Slice<T> {
    fn eq(&self, other: &Slice<T>) -> bool {
        **self == **other
    }
}

impl<T: Pod + Eq> Eq for Slice<T> {}

impl<T: Pod + fmt::Debug> fmt::Debug for Slice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Pod + Send + Sync> Serialize for Slice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(SLICE, &Written(self))
    }
}

/// What a slice is under its name.
struct Written<'a, T: Pod>(&'a Slice<T>);

impl<T: Pod + Send + Sync> Serialize for Written<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: &[u8] = bytemuck::cast_slice(self.0);
        if bytes.len() >= SEGMENT_FROM && offer(|| self.0.part()) {
            return serializer.serialize_unit();
        }
        serializer.serialize_bytes(bytes)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Slice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Slice<T>, D::Error> {
        deserializer.deserialize_newtype_struct(SLICE, InFull(PhantomData))
    }
}

/// Reads a slice out of its bytes.
struct InFull<T>(PhantomData<T>);

impl<'de, T: Pod> Visitor<'de> for InFull<T> {
    type Value = Slice<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bytes of a row of {}", std::any::type_name::<T>())
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Slice<T>, D::Error> {
        let Some(piece) = take_received() else { return deserializer.deserialize_byte_buf(self) };
        let range = 0..bytemuck::try_cast_slice::<u8, T>(piece.bytes()).map_err(de::Error::custom)?.len();
        Ok(Slice { place: Place::Shared(Arc::new(piece)), range })
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Slice<T>, E> {
        copy(bytes).map(Slice::from).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Slice<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(byte) = bytes.next_element()? {
            all.push(byte);
        }
        self.visit_bytes(&all)
    }
}
