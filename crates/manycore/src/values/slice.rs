//! `Slice`: plain values in a row, used where they arrive.

use super::plain::copy;
use super::{Part, Received, SEGMENT_FROM, Sent};
use bytemuck::Pod;
use manycore_engine::pool::Piece;
use serde::de::{self, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
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
pub struct Slice<T: Pod>(Place<T>);

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

    /// The elements in memory of this process: without a copy if that is where they are.
    pub fn into_vec(self) -> Vec<T> {
        match self.0 {
            Place::Own(items) => Arc::try_unwrap(items).unwrap_or_else(|items| items.to_vec()),
            Place::Shared(piece) => elements(&piece).to_vec(),
        }
    }

    fn part(&self) -> Part
    where
        T: Send + Sync,
    {
        match &self.0 {
            Place::Own(items) => Part::shared(Arc::clone(items)),
            Place::Shared(piece) => Part::piece(Arc::clone(piece)),
        }
    }
}

/// Never fails: see [`Place::Shared`].
fn elements<T: Pod>(piece: &Piece) -> &[T] {
    bytemuck::try_cast_slice(piece.bytes()).unwrap_or_default()
}

impl<T: Pod> Deref for Slice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Place::Own(items) => items,
            Place::Shared(piece) => elements(piece),
        }
    }
}

impl<T: Pod> DerefMut for Slice<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // While it is on its way to another process it is shared; who writes it then gets a copy.
        if let Place::Shared(piece) = &mut self.0
            && Arc::get_mut(piece).is_none()
        {
            self.0 = Place::Own(Arc::new(elements(piece).to_vec()));
        }
        match &mut self.0 {
            Place::Own(items) => Arc::<Vec<T>>::make_mut(items),
            Place::Shared(piece) => Arc::get_mut(piece)
                .and_then(|piece| bytemuck::try_cast_slice_mut(piece.bytes_mut()).ok())
                .unwrap_or_default(),
        }
    }
}

impl<T: Pod> From<Vec<T>> for Slice<T> {
    fn from(items: Vec<T>) -> Slice<T> {
        Slice(Place::Own(Arc::new(items)))
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
        let bytes: &[u8] = bytemuck::cast_slice(self);
        if !Sent::is_open() || serializer.is_human_readable() {
            return serializer.serialize_bytes(bytes);
        }
        let apart = bytes.len() >= SEGMENT_FROM && Sent::offer(|| self.part());
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&if apart { bytes.len() as u64 + 1 } else { 0 })?;
        tuple.serialize_element(&Inline(if apart { None } else { Some(bytes) }))?;
        tuple.end()
    }
}

/// The bytes that follow in the head, or nothing.
struct Inline<'a>(Option<&'a [u8]>);

impl Serialize for Inline<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(bytes) => serializer.serialize_bytes(bytes),
            None => serializer.serialize_unit(),
        }
    }
}

impl<'de, T: Pod> Deserialize<'de> for Slice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Slice<T>, D::Error> {
        if !Received::is_open() || deserializer.is_human_readable() {
            return deserializer.deserialize_byte_buf(InFull(PhantomData));
        }
        deserializer.deserialize_tuple(2, InParts(PhantomData))
    }
}

/// Reads a slice out of its bytes.
struct InFull<T>(PhantomData<T>);

impl<'de, T: Pod> Visitor<'de> for InFull<T> {
    type Value = Slice<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bytes of a row of {}", std::any::type_name::<T>())
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

impl<'de, T: Pod> de::DeserializeSeed<'de> for InFull<T> {
    type Value = Slice<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Slice<T>, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

/// Reads a slice whose bytes may lie in a segment.
struct InParts<T>(PhantomData<T>);

impl<'de, T: Pod> Visitor<'de> for InParts<T> {
    type Value = Slice<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a row of {}", std::any::type_name::<T>())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Slice<T>, A::Error> {
        use de::Error;
        let ends = || A::Error::custom("a row ends before its bytes");
        let Some(len) = parts.next_element::<u64>()?.ok_or_else(ends)?.checked_sub(1) else {
            return parts.next_element_seed(InFull(PhantomData))?.ok_or_else(ends);
        };
        let len = usize::try_from(len).map_err(A::Error::custom)?;
        let piece = Received::next(len).ok_or_else(ends)?.map_err(A::Error::custom)?;
        bytemuck::try_cast_slice::<u8, T>(piece.bytes()).map_err(A::Error::custom)?;
        parts.next_element::<()>()?.ok_or_else(ends)?;
        Ok(Slice(Place::Shared(Arc::new(piece))))
    }
}
