//! Bytes of a message that stay where they are until the message is copied out.
//!
//! # Why this file is unsafe
//!
//! A segment is an address. Whatever owns the bytes is held next to it, in a way
//! that also forbids it to move them.
#![allow(unsafe_code)]

use std::os::raw::c_int;

use manycore_engine::connection::{Piece, Room};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// One run of bytes, and what keeps it alive and in place.
pub(crate) struct Segment {
    pub(crate) ptr: *const u8,
    pub(crate) len: usize,
    #[cfg_attr(Py_LIMITED_API, allow(dead_code))]
    keep: Keep,
}

// SAFETY: the bytes belong to an object that `keep` holds; letting go of it is
// done attached, by whichever thread.
unsafe impl Send for Segment {}

#[cfg_attr(Py_LIMITED_API, allow(dead_code))]
enum Keep {
    /// Bytes do not change.
    Bytes { _object: Py<PyAny> },
    /// An object that has exported its buffer refuses to be resized.
    Buffer { exported: Exported },
}

impl Segment {
    /// The bytes of a contiguous buffer, in whatever order they lie.
    pub(super) fn of_buffer(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let exported = Exported::new(object, ffi::PyBUF_ANY_CONTIGUOUS)?;
        let (ptr, len) = (exported.0.buf.cast_const().cast(), exported.len());
        Ok(Self { ptr, len, keep: Keep::Buffer { exported } })
    }

    /// Whether the bytes may not be written to.
    #[cfg(not(Py_LIMITED_API))]
    pub(super) fn is_read_only(&self) -> bool {
        match &self.keep {
            Keep::Bytes { .. } => true,
            Keep::Buffer { exported } => exported.0.readonly != 0,
        }
    }

    /// How long each dimension is; of bytes, which have no shape, nothing is known.
    #[cfg(not(Py_LIMITED_API))]
    pub(super) fn shape(&self) -> &[ffi::Py_ssize_t] {
        match &self.keep {
            Keep::Buffer { exported: Exported(buffer) } if !buffer.shape.is_null() && buffer.ndim > 0 => {
                // SAFETY: exported with its shape, so many lengths, which stay until it is given back.
                unsafe { std::slice::from_raw_parts(buffer.shape, buffer.ndim as usize) }
            }
            _ => &[],
        }
    }

    /// Whether the items lie in C's order, or Fortran's.
    #[cfg(not(Py_LIMITED_API))]
    pub(super) fn is_in_order(&self, order: std::os::raw::c_char) -> bool {
        match &self.keep {
            // SAFETY: an exported buffer.
            Keep::Buffer { exported } => unsafe { ffi::PyBuffer_IsContiguous(&raw const *exported.0, order) != 0 },
            Keep::Bytes { .. } => true,
        }
    }

    /// Copies `len` bytes from `data` into a new object that nobody else has; false if it has not so many.
    #[cfg(not(Py_LIMITED_API))]
    pub(super) fn fill(object: &Bound<'_, PyAny>, data: *const u8, len: usize) -> PyResult<bool> {
        let exported = Exported::new(object, ffi::PyBUF_ANY_CONTIGUOUS | ffi::PyBUF_WRITABLE)?;
        if exported.len() != len {
            return Ok(false);
        }
        // SAFETY: writable, and as long as `data`, which the caller may read; a new object overlaps nothing.
        unsafe { std::ptr::copy_nonoverlapping(data, exported.0.buf.cast::<u8>(), len) };
        Ok(true)
    }

    pub(super) fn of_bytes(bytes: &Bound<'_, PyBytes>) -> Self {
        let slice = bytes.as_bytes();
        let object = bytes.clone().into_any().unbind();
        Self { ptr: slice.as_ptr(), len: slice.len(), keep: Keep::Bytes { _object: object } }
    }
}

/// A buffer in Python's sense, given back when dropped. Not PyO3's, which refuses
/// arrays without dimensions. Boxed: exporters may point into it.
pub(crate) struct Exported(Box<ffi::Py_buffer>);

// SAFETY: an address and a length; giving it back is done attached, by whichever thread.
unsafe impl Send for Exported {}

impl Exported {
    /// What `object` exports for `flags`, which ask for bytes without a gap.
    fn new(object: &Bound<'_, PyAny>, flags: c_int) -> PyResult<Self> {
        let mut buffer = Box::new(ffi::Py_buffer::new());
        // SAFETY: attached; a live object fills in a buffer of ours.
        let status = unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *buffer, flags) };
        if status == 0 { Ok(Self(buffer)) } else { Err(PyErr::fetch(object.py())) }
    }

    /// The bytes of an object, in C order.
    pub(crate) fn bytes_of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::new(object, ffi::PyBUF_SIMPLE)
    }

    /// The bytes of an object in whatever order they lie, as pickle writes them.
    pub(crate) fn memory_of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::new(object, ffi::PyBUF_ANY_CONTIGUOUS)
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len as usize
    }

    /// The bytes, as something to send.
    pub(crate) fn piece(&self) -> Piece<'_> {
        // SAFETY: exported, hence in place and readable, for as long as `self` lives.
        unsafe { Piece::from_raw(self.0.buf.cast_const().cast(), self.len()) }
    }

    /// `len` bytes from `offset` on, as something to fill; None if there are not so many.
    pub(crate) fn room(&mut self, offset: usize, len: usize) -> Option<Room<'_>> {
        let end = offset.checked_add(len)?;
        if self.0.readonly != 0 || end > self.len() {
            return None;
        }
        // SAFETY: writable and inside the exported range (checked above), which stays
        // in place while `self` lives; Python's own rules say who else may use it.
        Some(unsafe { Room::from_raw(self.0.buf.cast::<u8>().add(offset), len) })
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        // Without an interpreter the memory is gone or about to be.
        // SAFETY: filled in by `new`, given back once.
        Python::try_attach(|_| unsafe { ffi::PyBuffer_Release(&raw mut *self.0) });
    }
}
