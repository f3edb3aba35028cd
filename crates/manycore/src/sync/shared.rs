//! `Shared`: plain data in shared memory, without a lock.

use super::place::Place;
use crate::error::{Error, Kind, Result};
use crate::passing;
use bytemuck::Pod;
use manycore_engine::shm::plain::{Plain, PlainBytes};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Plain data in shared memory: a `Shared<T>` is one value, a `Shared<[T]>` a row of them.
///
/// Every process that has a handle reads and writes at any time. What is written is seen by
/// those who read later; where two write, or one reads while another writes, a value of
/// up to eight bytes is one or the other, a larger one may be some of both. Whoever
/// needs more than that takes a [`Mutex`](super::Mutex), for a row one of `()`.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::Process;
/// use manycore::sync::Shared;
///
/// let row = Shared::from_slice(&[1.0f64; 1000])?;
/// let double = |row: Shared<[f64]>, start: usize| {
///     for at in start..start + 500 {
///         row.set(at, 2.0 * row.get(at).unwrap()).unwrap();
///     }
/// };
/// let mut halves = [Process::spawn(double, (row.clone(), 0))?, Process::spawn(double, (row.clone(), 500))?];
/// for half in &mut halves {
///     half.join()?;
/// }
/// assert_eq!(row.to_vec(), [2.0; 1000]);
/// # Ok(())
/// # }
/// ```
pub struct Shared<T: Content + ?Sized>(T::Inside);

/// What may be in a [`Shared`]: a [`Pod`] type, or a row of one.
pub trait Content {
    #[doc(hidden)]
    type Inside: Serialize + for<'de> Deserialize<'de> + Clone;
}

impl<T: Pod> Content for T {
    type Inside = One<T>;
}

impl<T: Pod> Content for [T] {
    type Inside = Row<T>;
}

/// One value.
#[doc(hidden)]
pub struct One<T: Pod>(Place<Plain<T>>);

/// A row of values.
#[doc(hidden)]
pub struct Row<T: Pod>(Arc<PlainBytes>, PhantomData<fn(T)>);

impl<T: Pod> Shared<T> {
    /// Puts `value` into shared memory.
    ///
    /// # Errors
    /// Where there is no memory or no descriptor left for it.
    pub fn new(value: T) -> Result<Shared<T>> {
        let place = Place::<Plain<T>>::new()?;
        place.store(bytemuck::bytes_of(&value));
        Ok(Shared(One(place)))
    }

    /// The value.
    pub fn get(&self) -> T {
        let mut value = T::zeroed();
        self.0.0.load(bytemuck::bytes_of_mut(&mut value));
        value
    }

    /// Writes another value.
    pub fn set(&self, value: T) {
        self.0.0.store(bytemuck::bytes_of(&value));
    }
}

impl<T: Pod> Shared<[T]> {
    /// A row of `len` values, all of them zero bytes. Their memory is taken now, so that no write is too much.
    ///
    /// # Errors
    /// [`Error::is_too_large`], or where there is no memory or no descriptor left for it.
    pub fn zeroed(len: usize) -> Result<Shared<[T]>> {
        Ok(Shared(Row(Arc::new(PlainBytes::create(len, size_of::<T>())?), PhantomData)))
    }

    /// Copies `values` into shared memory.
    ///
    /// # Errors
    /// As [`Shared::zeroed`].
    pub fn from_slice(values: &[T]) -> Result<Shared<[T]>> {
        let row = Shared::zeroed(values.len())?;
        row.write(0, values)?;
        Ok(row)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.0.0.count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value numbered `at`, if there is one.
    pub fn get(&self, at: usize) -> Option<T> {
        let mut value = T::zeroed();
        self.0.0.load(at, bytemuck::bytes_of_mut(&mut value)).then_some(value)
    }

    /// Writes the value numbered `at`.
    ///
    /// # Errors
    /// Where there is none.
    pub fn set(&self, at: usize, value: T) -> Result<()> {
        self.write(at, std::slice::from_ref(&value))
    }

    /// Copies the values from the one numbered `first` on into `values`.
    ///
    /// # Errors
    /// Where there are not as many.
    pub fn read(&self, first: usize, values: &mut [T]) -> Result<()> {
        if self.0.0.load(first, bytemuck::cast_slice_mut(values)) { Ok(()) } else { Err(self.outside(first, values)) }
    }

    /// Copies `values` to the place of the one numbered `first` and of those after it.
    ///
    /// # Errors
    /// Where there are not as many.
    pub fn write(&self, first: usize, values: &[T]) -> Result<()> {
        if self.0.0.store(first, bytemuck::cast_slice(values)) { Ok(()) } else { Err(self.outside(first, values)) }
    }

    /// A copy of all values.
    pub fn to_vec(&self) -> Vec<T> {
        let mut values = vec![T::zeroed(); self.len()];
        // As many as there are.
        let _ = self.read(0, &mut values);
        values
    }

    fn outside(&self, first: usize, values: &[T]) -> Error {
        let message = format!("a shared row of {} has not {} values from number {first} on", self.len(), values.len());
        Error::new(Kind::Usage, message)
    }
}

impl<T: Content + ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared(self.0.clone())
    }
}

impl<T: Pod> Clone for One<T> {
    fn clone(&self) -> One<T> {
        One(self.0.clone())
    }
}

impl<T: Pod> Clone for Row<T> {
    fn clone(&self) -> Row<T> {
        Row(Arc::clone(&self.0), PhantomData)
    }
}

impl<T: Content + ?Sized> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<T: Content + ?Sized> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Content + ?Sized> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Shared<T>, D::Error> {
        T::Inside::deserialize(deserializer).map(Shared)
    }
}

impl<T: Pod> Serialize for One<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for One<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<One<T>, D::Error> {
        Place::deserialize(deserializer).map(One)
    }
}

impl<T: Pod> Serialize for Row<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let file = passing::put(None, || Ok(Arc::clone(self.0.file())))?;
        (self.0.count() as u64, size_of::<T>() as u64, file).serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Row<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Row<T>, D::Error> {
        let (count, element, file) = <(u64, u64, u64)>::deserialize(deserializer)?;
        if element != size_of::<T>() as u64 {
            return Err(de::Error::custom("a shared row has elements of another size"));
        }
        let count = usize::try_from(count).map_err(de::Error::custom)?;
        let bytes = PlainBytes::attach(passing::get::<D::Error>(file)?, count, size_of::<T>());
        Ok(Row(Arc::new(bytes.map_err(de::Error::custom)?), PhantomData))
    }
}
