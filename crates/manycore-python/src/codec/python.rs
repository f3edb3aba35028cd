//! The codec as Python sees it, for its tests and for whoever stores messages.
//!
//! # Why this file is unsafe
//!
//! It makes an `Incoming` out of a copy of some bytes, and so makes its promise.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use super::by_value::What;
use super::pickle::set_extra_reducers;
use super::{Encoder, Incoming, Items, decode, decode_call, decode_into, format};

thread_local! {
    static SPARE: Cell<Option<Encoder>> = const { Cell::new(None) };
}

/// This thread's encoder, taken out while it is used: encoding may run code that
/// encodes something else, which then has one of its own.
pub(crate) struct Scratch(Option<Encoder>);

impl Scratch {
    pub(crate) fn take() -> Self {
        Self(Some(SPARE.take().unwrap_or_else(Encoder::new)))
    }
}

impl Deref for Scratch {
    type Target = Encoder;

    fn deref(&self) -> &Encoder {
        self.0.as_ref().expect("taken only by drop")
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Encoder {
        self.0.as_mut().expect("taken only by drop")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(mut encoder) = self.0.take() {
            encoder.clear();
            // The thread may be ending; then the encoder does too.
            let _ = SPARE.try_with(|spare| spare.set(Some(encoder)));
        }
    }
}

/// The message of a value: how long its head is, and all its bytes.
#[pyfunction(name = "encode")]
pub(crate) fn encode_py<'py>(value: &Bound<'py, PyAny>) -> PyResult<(usize, Bound<'py, PyBytes>)> {
    let mut encoder = Scratch::take();
    encoder.encode(value)?;
    flatten(value.py(), &encoder)
}

/// The message of `items[start:end]` of a list or tuple.
#[pyfunction(name = "encode_items")]
pub(crate) fn encode_items_py<'py>(
    items: &Bound<'py, PyAny>,
    start: usize,
    end: usize,
) -> PyResult<(usize, Bound<'py, PyBytes>)> {
    let mut encoder = Scratch::take();
    encoder.encode_items(items, start..end, What::Items(start))?;
    flatten(items.py(), &encoder)
}

/// The message of a call's arguments.
#[pyfunction(name = "encode_call", signature = (args, kwargs=None))]
pub(crate) fn encode_call_py<'py>(
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<(usize, Bound<'py, PyBytes>)> {
    let mut encoder = Scratch::take();
    encoder.encode_call(args, kwargs)?;
    flatten(args.py(), &encoder)
}

/// The length of the head, and the whole message in one piece.
pub(crate) fn flatten<'py>(py: Python<'py>, encoder: &Encoder) -> PyResult<(usize, Bound<'py, PyBytes>)> {
    let bytes = PyBytes::new_with(py, encoder.total_len(), |bytes| {
        let mut at = encoder.head().len();
        bytes[..at].copy_from_slice(encoder.head());
        for segment in encoder.segments() {
            let start = format::align(at).expect("the total length was computed");
            at = start + segment.len;
            // SAFETY: the segment keeps its bytes, and we keep the interpreter.
            unsafe { std::ptr::copy_nonoverlapping(segment.ptr, bytes[start..at].as_mut_ptr(), segment.len) };
        }
        Ok(())
    })?;
    Ok((encoder.head().len(), bytes))
}

/// The value of a message.
#[pyfunction(name = "decode")]
pub(crate) fn decode_py<'py>(py: Python<'py>, head_len: usize, message: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    decode(py, &received(head_len, message))
}

/// The items of a list message, decoded one by one.
#[pyfunction(name = "decode_items")]
pub(crate) fn decode_items_py(py: Python<'_>, head_len: usize, message: &[u8]) -> PyResult<Items> {
    Items::new(py, received(head_len, message))
}

/// The items of a list message, put into a part of a list.
#[pyfunction(name = "decode_into")]
pub(crate) fn decode_into_py(
    py: Python<'_>,
    head_len: usize,
    message: &[u8],
    list: &Bound<'_, PyList>,
    start: usize,
    n: usize,
) -> PyResult<()> {
    decode_into(py, &received(head_len, message), list, start, n)
}

/// The arguments of a call's message.
#[pyfunction(name = "decode_call")]
pub(crate) fn decode_call_py<'py>(
    py: Python<'py>,
    head_len: usize,
    message: &[u8],
) -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>)> {
    decode_call(py, &received(head_len, message))
}

/// A copy of a message, as it would arrive: aligned, writable, nobody else's.
fn received(head_len: usize, message: &[u8]) -> Incoming {
    let mut lines = vec![Line { _bytes: [0; format::ALIGN] }; message.len().div_ceil(format::ALIGN)];
    let ptr = lines.as_mut_ptr().cast::<u8>();
    // SAFETY: the lines have room for the message, and are ours.
    unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), ptr, message.len()) };
    Incoming { ptr, head_len, len: message.len(), owner: Some(Arc::new(lines)) }
}

/// Sixty-four bytes where a segment may start.
#[derive(Clone)]
#[repr(align(64))]
struct Line {
    _bytes: [u8; format::ALIGN],
}

/// Extra reducers by type, in a dict that stays the caller's and can be referred to weakly.
#[pyfunction]
pub(crate) fn set_reducers(reducers: &Bound<'_, PyDict>) -> PyResult<()> {
    set_extra_reducers(reducers)
}
