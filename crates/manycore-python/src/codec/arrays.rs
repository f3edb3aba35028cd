//! NumPy's arrays and scalars of numbers, without asking them.
//!
//! NumPy is not imported here: whoever has an array has NumPy, and who receives one would import it to unpickle it.
//! Arrays of other things (objects, records, dates, strings), those with gaps, and subclasses say themselves what they
//! consist of.
//!
//! # Why this file is unsafe
//!
//! As `encode.rs`. An array's memory is reached through the buffer protocol, with the length that this states, and its
//! type of item is one of those known to hold no references.
#![allow(unsafe_code)]

use std::os::raw::c_char;

use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::access::Owned;
use super::classes::Special;
use super::decode::{Decoder, Fault, new};
use super::encode::{Encoder, Stop};
use super::format::tag;
use super::incoming::COPY_ONE;
use super::reduce::INLINE;
use super::segment::Segment;
use crate::buffer::View;
use crate::known::{Known, name};

/// NumPy's letters for the types of numbers: bool, ints, floats, complex.
const LETTERS: &[u8] = b"?bBhHiIlLqQefdgFDG";
/// An array's items are in Fortran's order; otherwise in C's.
const FORTRAN: u8 = 1;
/// Its bytes are the next segment.
const APART: u8 = 2;
/// They may not be written to.
const READ_ONLY: u8 = 4;
/// More dimensions no array has.
const MOST_DIMENSIONS: usize = 64;

/// One type of item.
struct Kind {
    dtype: Py<PyAny>,
    scalar: Py<PyAny>,
    size: usize,
}

/// What is needed of NumPy.
struct Numpy {
    array: Py<PyAny>,
    /// Makes a scalar of a type of item and bytes, as in a scalar's pickle.
    make_scalar: Py<PyAny>,
    kinds: Vec<Kind>,
}

fn numpy(py: Python<'_>) -> PyResult<&'static Numpy> {
    static NUMPY: Known<Numpy> = Known::new();
    NUMPY
        .get_or_try_init(py, || {
            let numpy = py.import("numpy")?;
            let dtype = numpy.getattr("dtype")?;
            let kind = |letter: &u8| -> PyResult<Kind> {
                let dtype = dtype.call1((char::from(*letter).to_string(),))?;
                let size = dtype.getattr("itemsize")?.extract()?;
                Ok(Kind { scalar: dtype.getattr("type")?.unbind(), dtype: dtype.unbind(), size })
            };
            let kinds = LETTERS.iter().map(kind).collect::<PyResult<Vec<_>>>()?;
            let make_scalar =
                numpy.getattr("float64")?.call1((0.0,))?.call_method0("__reduce__")?.get_item(0)?.unbind();
            Ok(Numpy { array: numpy.getattr("ndarray")?.unbind(), make_scalar, kinds })
        })
        .map(|numpy| {
            // SAFETY: `Known` is static and never gives its value up.
            unsafe { &*std::ptr::from_ref(numpy) }
        })
}

/// Whether this is the type of arrays, or of scalars of one kind.
pub(super) fn special(py: Python<'_>, kind: *mut PyTypeObject) -> Option<Special> {
    // SAFETY: a live type, whose name ends in a zero.
    let name = unsafe { std::ffi::CStr::from_ptr((*kind).tp_name) };
    if !name.to_bytes().starts_with(b"numpy.") {
        return None;
    }
    let numpy = numpy(py).ok()?;
    if numpy.array.as_ptr() == kind.cast() {
        return Some(Special::Array);
    }
    let place = numpy.kinds.iter().position(|known| known.scalar.as_ptr() == kind.cast())?;
    // Bools are two objects, and say so themselves.
    (LETTERS[place] != b'?').then_some(Special::Scalar(place as u8))
}

impl Encoder {
    /// An array exactly of NumPy's class.
    pub(super) unsafe fn array(&mut self, object: *mut PyObject, depth: u32) -> Result<(), Stop> {
        // SAFETY: attached; a live array. The segment keeps its bytes in place while they are read.
        unsafe {
            if (self.careful || ffi::Py_REFCNT(object) != 1) && self.known(object)? {
                return Ok(());
            }
            let py = Python::assume_attached();
            let array: Bound<'_, PyAny> = Bound::from_borrowed_ptr(py, object);
            let Some(place) = kind_of(&array) else { return self.reduce(object, std::ptr::null_mut(), depth) };
            let Ok(segment) = Segment::of_buffer(&array) else {
                return self.reduce(object, std::ptr::null_mut(), depth);
            };
            let shape = segment.shape();
            let is_fortran = shape.len() > 1 && !segment.is_in_order(b'C' as c_char);
            if self.met(object)? {
                return Ok(());
            }
            let apart = segment.len >= INLINE;
            self.head.push(tag::ARRAY);
            self.head.push(place as u8);
            let read_only = segment.is_read_only();
            let how = [(is_fortran, FORTRAN), (apart, APART), (read_only, READ_ONLY)];
            self.head.push(how.into_iter().map(|(is, flag)| if is { flag } else { 0 }).sum());
            self.varint(shape.len());
            for length in shape {
                self.varint(*length as usize);
            }
            if apart {
                self.segments.push(segment);
            } else {
                self.raw(segment.ptr, segment.len);
            }
        }
        Ok(())
    }

    /// A scalar of a kind.
    pub(super) unsafe fn scalar(&mut self, object: *mut PyObject, place: u8, depth: u32) -> Result<(), Stop> {
        // SAFETY: as above.
        unsafe {
            if (self.careful || ffi::Py_REFCNT(object) != 1) && self.known(object)? {
                return Ok(());
            }
            let scalar: Bound<'_, PyAny> = Bound::from_borrowed_ptr(Python::assume_attached(), object);
            let Ok(segment) = Segment::of_buffer(&scalar) else {
                return self.reduce(object, std::ptr::null_mut(), depth);
            };
            if self.met(object)? {
                return Ok(());
            }
            self.head.push(tag::SCALAR);
            self.head.push(place);
            self.head.push(segment.len as u8);
            self.raw(segment.ptr, segment.len);
        }
        Ok(())
    }
}

/// Which of the known kinds an array's items have.
fn kind_of(array: &Bound<'_, PyAny>) -> Option<usize> {
    let py = array.py();
    let numpy = numpy(py).ok()?;
    let dtype = array.getattr(name!(py, "dtype")).ok()?;
    let same = numpy.kinds.iter().position(|kind| kind.dtype.is(&dtype));
    same.or_else(|| {
        // One that pickle has made is another object.
        if !dtype.getattr(name!(py, "metadata")).ok()?.is_none() {
            return None;
        }
        let letter = dtype.getattr(name!(py, "char")).ok()?.cast_into::<PyString>().ok()?;
        let place = LETTERS.iter().position(|known| letter.to_str().is_ok_and(|text| text.as_bytes() == [*known]))?;
        dtype.eq(numpy.kinds[place].dtype.bind(py)).ok()?.then_some(place)
    })
}

/// An array whose bytes are in place.
fn finished(array: Bound<'_, PyAny>, how: u8) -> PyResult<Owned> {
    if how & READ_ONLY != 0 {
        array.call_method1(name!(array.py(), "setflags"), (false,))?;
    }
    Ok(array.into())
}

impl Decoder {
    /// What follows an ARRAY.
    pub(super) fn array_of(&mut self, py: Python<'_>) -> Result<Owned, Fault> {
        let raise = |error: PyErr| Fault::raise(py, error);
        let numpy = numpy(py).map_err(raise)?;
        let kind = numpy.kinds.get(usize::from(self.byte()?)).ok_or(Fault::Tag)?;
        let how = self.byte()?;
        let dimensions = self.varint()?;
        if dimensions > MOST_DIMENSIONS || how & !(FORTRAN | APART | READ_ONLY) != 0 {
            return Err(Fault::Length);
        }
        let mut shape = Vec::with_capacity(dimensions);
        let mut len = Some(kind.size);
        for _ in 0..dimensions {
            let length = self.varint()?;
            shape.push(length);
            len = if length == 0 { Some(0) } else { len.and_then(|len| len.checked_mul(length)) };
        }
        if shape.contains(&0) {
            len = Some(0);
        }
        let len = len.ok_or(Fault::Length)?;
        let data = if how & APART == 0 { self.take(len)?.cast_mut() } else { self.segment(len)? };
        let shape = PyTuple::new(py, shape).map_err(raise)?;
        let order = if how & FORTRAN == 0 { name!(py, "C") } else { name!(py, "F") };
        let class = numpy.array.bind(py);
        if let Some(owner) = self.owner.as_ref().filter(|_| how & APART != 0 && len >= COPY_ONE) {
            // SAFETY: the bytes lie within the message, and are writable and ours alone as long as the owner lives.
            let view = unsafe { View::new(data, len, owner.clone()) };
            let view = Bound::new(py, view).map_err(raise)?;
            // SAFETY: attached; a view of the buffer that was just made.
            let view = unsafe { new(ffi::PyMemoryView_FromObject(view.as_ptr()))? }.into_bound(py);
            let array = class.call1((shape, &kind.dtype, view, 0, py.None(), order)).map_err(raise)?;
            return finished(array, how).map_err(raise);
        }
        let array = if how & FORTRAN == 0 {
            class.call1((shape, &kind.dtype))
        } else {
            class.call1((shape, &kind.dtype, py.None(), 0, py.None(), order))
        };
        let array = array.map_err(raise)?;
        if len > 0 {
            let filled = Segment::fill(&array, data, len).map_err(raise)?;
            if !filled {
                return Err(Fault::Length);
            }
        }
        finished(array, how).map_err(raise)
    }

    /// What follows a SCALAR.
    pub(super) fn scalar(&mut self, py: Python<'_>) -> Result<Owned, Fault> {
        let raise = |error: PyErr| Fault::raise(py, error);
        let numpy = numpy(py).map_err(raise)?;
        let kind = numpy.kinds.get(usize::from(self.byte()?)).ok_or(Fault::Tag)?;
        let len = usize::from(self.byte()?);
        if len != kind.size {
            return Err(Fault::Length);
        }
        let data = self.take(len)?;
        // SAFETY: attached; `len` readable bytes. The arguments live as long as the call.
        unsafe {
            let bytes = new(ffi::PyBytes_FromStringAndSize(data.cast(), len as ffi::Py_ssize_t))?;
            let mut args = [kind.dtype.as_ptr(), bytes.as_ptr()];
            new(ffi::PyObject_Vectorcall(numpy.make_scalar.as_ptr(), args.as_mut_ptr(), 2, std::ptr::null_mut()))
        }
    }
}
