//! Bytes of a message that stay where they are until the message is copied out.
//!
//! # Why this file is unsafe
//!
//! A segment is an address. Whatever owns the bytes is held next to it, in a way
//! that also forbids it to move them.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// One run of bytes, and what keeps it alive and in place.
pub(crate) struct Segment {
    pub(crate) ptr: *const u8,
    pub(crate) len: usize,
    _keep: Keep,
}

// SAFETY: the bytes belong to an object that `_keep` holds; letting go of it is
// done attached, by whichever thread.
unsafe impl Send for Segment {}

enum Keep {
    /// Bytes do not change.
    Bytes { _object: Py<PyAny> },
    /// An object that has exported its buffer refuses to be resized.
    Buffer { _exported: Exported },
}

impl Segment {
    /// The bytes of a contiguous buffer, in whatever order they lie.
    pub(super) fn of_buffer(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let exported = Exported::new(object)?;
        let (ptr, len) = (exported.0.buf.cast_const().cast(), exported.0.len as usize);
        Ok(Self { ptr, len, _keep: Keep::Buffer { _exported: exported } })
    }

    pub(super) fn of_bytes(bytes: &Bound<'_, PyBytes>) -> Self {
        let slice = bytes.as_bytes();
        let object = bytes.clone().into_any().unbind();
        Self { ptr: slice.as_ptr(), len: slice.len(), _keep: Keep::Bytes { _object: object } }
    }
}

/// A buffer in Python's sense, given back when dropped. Not PyO3's, which refuses
/// arrays without dimensions. Boxed: exporters may point into it.
struct Exported(Box<ffi::Py_buffer>);

impl Exported {
    fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut buffer = Box::new(ffi::Py_buffer::new());
        // SAFETY: attached; a live object fills in a buffer of ours.
        let status = unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *buffer, ffi::PyBUF_ANY_CONTIGUOUS) };
        if status == 0 { Ok(Self(buffer)) } else { Err(PyErr::fetch(object.py())) }
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        // Without an interpreter the memory is gone or about to be.
        // SAFETY: filled in by `new`, given back once.
        Python::try_attach(|_| unsafe { ffi::PyBuffer_Release(&raw mut *self.0) });
    }
}
