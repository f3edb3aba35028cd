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

use pyo3::exceptions::PyBufferError;
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
