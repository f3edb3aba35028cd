//! Values in shared memory that are nothing but their bytes.
//!
//! # Why this file is unsafe
//!
//! It reads and writes memory that another process may write at the same time. So
//! there is never a reference to a value: its bytes go in and out by atomics, always
//! of the same size at the same place. What comes out may be torn, if nobody takes care
//! that it is not, but it is bytes, and belongs to the reader. Ranges are checked
//! before the first access.

#![allow(unsafe_code)]

use crate::error::{Error, Kind, Result};
use crate::os::memory::Mapping;
use crate::sync::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::cell::UnsafeCell;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::slice;
use std::sync::Arc;

/// Room for a `T`, of which only the bytes are looked at. Zero bytes at first.
#[repr(transparent)]
pub struct Plain<T>(UnsafeCell<Padded<T>>);

/// Whole words.
#[repr(C, align(8))]
struct Padded<T>(MaybeUninit<T>);

// SAFETY: nothing but bytes, and every access is atomic.
unsafe impl<T> Send for Plain<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Plain<T> {}

impl<T> Plain<T> {
    /// Copies the bytes of the value into `bytes`, which are as many.
    pub fn load(&self, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), size_of::<T>(), "the length of a shared value");
        for (part, word) in bytes.chunks_mut(8).zip(self.words()) {
            part.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes()[..part.len()]);
        }
    }

    /// Copies `bytes`, which are as many as those of the value, into it.
    pub fn store(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), size_of::<T>(), "the length of a shared value");
        for (part, word) in bytes.chunks(8).zip(self.words()) {
            let mut whole = [0; 8];
            whole[..part.len()].copy_from_slice(part);
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: whole words by the alignment of `Padded`, all of them inside the cell.
        unsafe { slice::from_raw_parts(self.0.get().cast(), size_of::<Padded<T>>() / 8) }
    }
}

impl<T> Default for Plain<T> {
    fn default() -> Plain<T> {
        Plain(UnsafeCell::new(Padded(MaybeUninit::zeroed())))
    }
}

impl<T> fmt::Debug for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plain({} bytes)", size_of::<T>())
    }
}

/// Bytes in a memory file of their own, in elements of one size.
#[derive(Debug)]
pub struct PlainBytes {
    mapping: Mapping,
    file: Arc<OwnedFd>,
    len: usize,
    /// Bytes of an element.
    element: usize,
}

impl PlainBytes {
    /// `count` elements of `element` bytes each, all of them zero.
    ///
    /// # Errors
    /// [`Kind::TooLarge`], or [`Kind::Os`] where the system has no room for them.
    pub fn create(count: usize, element: usize) -> Result<PlainBytes> {
        let len = count.checked_mul(element).ok_or_else(|| too_large(count, element))?;
        let (file, mapping) = Mapping::reserve(padded(len).ok_or_else(|| too_large(count, element))?)?;
        Ok(PlainBytes { mapping, file: Arc::new(file), len, element })
    }

    /// What `create` has made with the same numbers, in another process.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] where `file` is something else.
    pub fn attach(file: Arc<OwnedFd>, count: usize, element: usize) -> Result<PlainBytes> {
        let len = count.checked_mul(element).ok_or_else(|| too_large(count, element))?;
        let mapping = Mapping::attach(&file)?;
        if padded(len) != Some(mapping.len()) {
            return Err(Error::corrupt(format_args!("{count} shared elements do not have {} bytes", mapping.len())));
        }
        Ok(PlainBytes { mapping, file, len, element })
    }

    /// The memory file, to pass to another process.
    pub fn file(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    /// How many elements there are.
    pub fn count(&self) -> usize {
        self.len.checked_div(self.element).unwrap_or(0)
    }

    /// Copies elements from the one numbered `first` on into `bytes`, whole ones. False:
    /// there are not as many.
    #[must_use]
    pub fn load(&self, first: usize, bytes: &mut [u8]) -> bool {
        let Some(range) = self.range(first, bytes.len()) else { return false };
        macro_rules! load {
            ($atomic:ty, $size:literal) => {
                for (part, cell) in bytes.as_chunks_mut::<$size>().0.iter_mut().zip(self.cells::<$atomic>(range)) {
                    *part = cell.load(Ordering::Relaxed).to_ne_bytes();
                }
            };
        }
        match self.unit() {
            8 => load!(AtomicU64, 8),
            4 => load!(AtomicU32, 4),
            2 => load!(AtomicU16, 2),
            _ => load!(AtomicU8, 1),
        }
        true
    }

    /// Copies `bytes`, whole elements, to where the element numbered `first` is and the
    /// ones after it. False, and nothing was done: there are not as many.
    #[must_use]
    pub fn store(&self, first: usize, bytes: &[u8]) -> bool {
        let Some(range) = self.range(first, bytes.len()) else { return false };
        macro_rules! store {
            ($atomic:ty, $number:ty, $size:literal) => {
                for (part, cell) in bytes.as_chunks::<$size>().0.iter().zip(self.cells::<$atomic>(range)) {
                    cell.store(<$number>::from_ne_bytes(*part), Ordering::Relaxed);
                }
            };
        }
        match self.unit() {
            8 => store!(AtomicU64, u64, 8),
            4 => store!(AtomicU32, u32, 4),
            2 => store!(AtomicU16, u16, 2),
            _ => store!(AtomicU8, u8, 1),
        }
        true
    }

    /// Bytes of the atomics by which these elements are read and written, by everybody.
    fn unit(&self) -> usize {
        [8, 4, 2].into_iter().find(|unit| self.element.is_multiple_of(*unit)).unwrap_or(1)
    }

    /// The bytes of whole elements from `first` on.
    fn range(&self, first: usize, len: usize) -> Option<Range<usize>> {
        let start = first.checked_mul(self.element)?;
        let end = start.checked_add(len).filter(|end| *end <= self.len)?;
        (self.element > 0 && len.is_multiple_of(self.element)).then_some(start..end)
    }

    /// The cells in `range`, which `range` above has checked.
    fn cells<A>(&self, range: Range<usize>) -> &[A] {
        assert!(range.end <= self.mapping.len() && range.start.is_multiple_of(size_of::<A>()));
        // SAFETY: inside the mapping and aligned, the mapping itself being at a page
        // (checked just now); `A` is an atomic, the same for all who read and write here.
        unsafe {
            slice::from_raw_parts(self.mapping.base().as_ptr().add(range.start).cast(), range.len() / size_of::<A>())
        }
    }
}

/// The length of the file: not zero, and whole words.
fn padded(len: usize) -> Option<usize> {
    len.max(1).checked_next_multiple_of(8)
}

fn too_large(count: usize, element: usize) -> Error {
    Error::new(Kind::TooLarge, format!("{count} elements of {element} bytes are more than the address space has"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded() {
        fn check<const N: usize>() {
            let plain = Plain::<[u8; N]>::default();
            let (mut out, bytes) = ([1; N], std::array::from_fn::<u8, N, _>(|at| at as u8 + 1));
            plain.load(&mut out);
            assert_eq!(out, [0; N]);
            plain.store(&bytes);
            plain.load(&mut out);
            assert_eq!(out, bytes);
        }
        check::<0>();
        check::<1>();
        check::<7>();
        check::<8>();
        check::<29>();
    }

    #[test]
    fn elements_of_every_size() {
        for element in [1, 2, 3, 4, 6, 8, 12, 24] {
            let bytes = PlainBytes::create(5, element).unwrap();
            let other = PlainBytes::attach(Arc::clone(bytes.file()), 5, element).unwrap();
            let some: Vec<u8> = (1..=2 * element as u8).collect();
            assert!(bytes.store(2, &some));
            let mut all = vec![1; 5 * element];
            assert!(other.load(0, &mut all));
            let expected = [&vec![0; 2 * element][..], &some, &vec![0; element]].concat();
            assert_eq!(all, expected, "{element}");
            assert_eq!(other.count(), 5);
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let bytes = PlainBytes::create(5, 4).unwrap();
        for (first, len) in [(4, 8), (5, 4), (usize::MAX, 4), (usize::MAX / 4, 4), (0, 24), (0, 3)] {
            assert!(!bytes.store(first, &vec![7; len]) && !bytes.load(first, &mut vec![0; len]), "{first} {len}");
        }
        assert!(bytes.store(5, &[]));
        assert!(PlainBytes::attach(Arc::clone(bytes.file()), 7, 4).is_err_and(|error| error.kind() == Kind::Corrupt));
        assert!(PlainBytes::create(usize::MAX, 8).is_err_and(|error| error.kind() == Kind::TooLarge));
        let nothing = PlainBytes::create(3, 0).unwrap();
        assert!(nothing.count() == 0 && !nothing.load(0, &mut [0]));
    }
}
