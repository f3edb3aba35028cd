//! Shared memory as a Python buffer.
//!
//! # Why this file is unsafe
//!
//! A buffer is an address that Python keeps for as long as it likes. `View` is
//! the one object that hands such addresses out, and it holds the owner of the
//! memory for exactly that long.
#![allow(unsafe_code)]

use std::any::Any;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::raw::c_int;
use std::sync::Arc;

use manycore_engine::connection::Room;
use pyo3::exceptions::{PyBufferError, PyMemoryError};
use pyo3::ffi;
use pyo3::prelude::*;

/// Whatever keeps a message's memory mapped and ours.
pub(crate) type Owner = Arc<dyn Any + Send + Sync>;

/// A writable piece of a received message. An array made from it keeps it alive,
/// it keeps the block, and the block goes back when the last one dies.
#[pyclass(frozen, module = "manycore._engine")]
pub(crate) struct View {
    ptr: *mut u8,
    len: usize,
    _owner: Owner,
}

// SAFETY: the address is only handed out, never followed here, and what it
// points to lives as long as the owner, who may be dropped by any thread.
unsafe impl Send for View {}
// SAFETY: as above; Python's own rules say who may write to a buffer.
unsafe impl Sync for View {}

impl View {
    /// # Safety
    ///
    /// `len` bytes at `ptr` can be read and written until the last clone of
    /// `owner` is dropped, and nobody else's use of them relies on their value.
    pub(crate) unsafe fn new(ptr: *mut u8, len: usize, owner: Owner) -> Self {
        Self { ptr, len, _owner: owner }
    }
}

#[pymethods]
impl View {
    fn __len__(&self) -> usize {
        self.len
    }

    // SAFETY: called by Python with a buffer to fill in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no buffer to fill in"));
        }
        let piece = slf.get();
        // SAFETY: the buffer holds a reference to this object, this object the
        // owner, and the owner the memory, of which no more than `len` is shown.
        let status = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), piece.ptr.cast(), piece.len as ffi::Py_ssize_t, 0, flags)
        };
        if status == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// A `bytes` or `bytearray` that is being received: nobody else has it yet.
pub(crate) struct Landing {
    object: Py<PyAny>,
    start: *mut u8,
    len: usize,
}

// SAFETY: an address into an object that `self` alone refers to.
unsafe impl Send for Landing {}

impl Landing {
    /// A new `bytes` of `len` bytes, with whatever is in its memory.
    pub(crate) fn bytes(py: Python<'_>, len: usize) -> PyResult<Self> {
        let size = ffi::Py_ssize_t::try_from(len).map_err(|_| PyMemoryError::new_err(()))?;
        // SAFETY: attached; a null object is the exception that the call has set.
        let object = unsafe {
            let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size);
            Bound::from_owned_ptr_or_err(py, object)?
        };
        // SAFETY: a bytes object, just made.
        let start = unsafe { ffi::PyBytes_AsString(object.as_ptr()) }.cast();
        Ok(Self { object: object.unbind(), start, len })
    }

    /// A new `bytearray` of `len` bytes, with whatever is in its memory.
    pub(crate) fn bytearray(py: Python<'_>, len: usize) -> PyResult<Self> {
        let size = ffi::Py_ssize_t::try_from(len).map_err(|_| PyMemoryError::new_err(()))?;
        // SAFETY: attached; a null object is the exception that the call has set.
        let object = unsafe {
            let object = ffi::PyByteArray_FromStringAndSize(std::ptr::null(), size);
            Bound::from_owned_ptr_or_err(py, object)?
        };
        // SAFETY: a bytearray object, just made.
        let start = unsafe { ffi::PyByteArray_AsString(object.as_ptr()) }.cast();
        Ok(Self { object: object.unbind(), start, len })
    }

    /// Everything from `offset` on, to be filled.
    pub(crate) fn room(&mut self, offset: usize) -> Room<'_> {
        let offset = offset.min(self.len);
        // SAFETY: inside the object, which nobody else can see or resize.
        unsafe { Room::from_raw(self.start.add(offset), self.len - offset) }
    }

    /// Puts `bytes` at `offset`; they fit, or as many as fit are put there.
    pub(crate) fn put(&mut self, offset: usize, bytes: &[u8]) {
        let offset = offset.min(self.len);
        let count = bytes.len().min(self.len - offset);
        // SAFETY: inside the object (both bounds taken above), which no slice can overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(offset), count) };
    }

    /// The object; what was not filled holds what was in its memory.
    pub(crate) fn into_object(self) -> Py<PyAny> {
        self.object
    }
}

/// Takes charge of a descriptor that came with a worker's start.
pub(crate) fn adopt(fd: i32) -> OwnedFd {
    // SAFETY: the written half passes the number of a descriptor that was opened
    // for this worker and gives it up with this call.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A descriptor of our own for what `fd`, which stays its holder's, leads to.
pub(crate) fn duplicate(fd: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: the caller holds `fd` open for the length of this call.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}
