//! Values without parts, both ways: ints, strings, bytes.
//!
//! # Why this file is unsafe
//!
//! As in `encode.rs`, objects are raw pointers of an exact type, alive while they are read; as in `decode.rs`,
//! bytes are an address with so many behind it.
#![allow(unsafe_code)]

use pyo3::ffi::{self, Py_ssize_t, PyObject};
use pyo3::prelude::*;

use super::access::{self, Owned};
use super::decode::{Decoder, Fault, new};
use super::encode::{Encoder, Stop};
use super::format::{self, SHARED, tag};
use super::segment::Segment;

impl Encoder {
    /// An int that is not its own tag.
    pub(super) unsafe fn int(&mut self, object: *mut PyObject) -> Result<(), Stop> {
        // SAFETY: an exact int.
        let Some(value) = (unsafe { access::int_value(object) }) else {
            // SAFETY: as above.
            let bytes = unsafe { access::big_int_bytes(object) }.ok_or(Stop::Raised)?;
            self.head.push(tag::INT_BIG);
            self.varint(bytes.len());
            self.head.extend_from_slice(&bytes);
            return Ok(());
        };
        let bytes = value.to_le_bytes();
        let (tag, len) = if i8::try_from(value).is_ok() {
            (tag::INT_1, 1)
        } else if i16::try_from(value).is_ok() {
            (tag::INT_2, 2)
        } else if i32::try_from(value).is_ok() {
            (tag::INT_4, 4)
        } else {
            (tag::INT_8, 8)
        };
        self.head.push(tag);
        self.head.extend_from_slice(&bytes[..len]);
        Ok(())
    }

    #[inline]
    pub(super) unsafe fn text(&mut self, object: *mut PyObject) -> Result<(), Stop> {
        // SAFETY: an exact str, alive while its characters are copied.
        unsafe {
            if self.met(object)? {
                return Ok(());
            }
            let text = access::text(object).ok_or(Stop::Foreign)?;
            self.head.push(text.tag);
            self.varint(text.len);
            self.raw(text.data, text.len);
        }
        Ok(())
    }

    pub(super) unsafe fn bytes(&mut self, object: *mut PyObject) -> Result<(), Stop> {
        // SAFETY: an exact bytes, alive while it is copied; if it is not, the
        // segment holds it.
        unsafe {
            if self.met(object)? {
                return Ok(());
            }
            let len = ffi::PyBytes_Size(object) as usize;
            if len < format::APART {
                self.head.push(tag::BYTES);
                self.varint(len);
                self.raw(ffi::PyBytes_AsString(object).cast(), len);
                return Ok(());
            }
            self.head.push(tag::BYTES_APART);
            self.varint(len);
            let object = Bound::from_borrowed_ptr(Python::assume_attached(), object);
            self.segments.push(Segment::of_bytes(object.cast_unchecked()));
        }
        Ok(())
    }

    pub(super) unsafe fn bytearray(&mut self, object: *mut PyObject) -> Result<(), Stop> {
        // SAFETY: an exact bytearray, alive while it is copied; if it is not, the
        // segment holds it and forbids it to resize.
        unsafe {
            if self.met(object)? {
                return Ok(());
            }
            let len = ffi::PyByteArray_Size(object) as usize;
            if len < format::APART {
                self.head.push(tag::BYTEARRAY);
                self.varint(len);
                self.raw(ffi::PyByteArray_AsString(object).cast(), len);
                return Ok(());
            }
            self.head.push(tag::BYTEARRAY_APART);
            self.varint(len);
            let py = Python::assume_attached();
            let segment = Segment::of_buffer(&Bound::from_borrowed_ptr(py, object)).map_err(|error| {
                error.restore(py);
                Stop::Raised
            })?;
            self.segments.push(segment);
        }
        Ok(())
    }

    pub(super) unsafe fn complex(&mut self, object: *mut PyObject) -> Result<(), Stop> {
        // SAFETY: an exact complex.
        unsafe {
            if self.met(object)? {
                return Ok(());
            }
            self.head.push(tag::COMPLEX);
            self.head.extend_from_slice(&ffi::PyComplex_RealAsDouble(object).to_le_bytes());
            self.head.extend_from_slice(&ffi::PyComplex_ImagAsDouble(object).to_le_bytes());
        }
        Ok(())
    }

    #[inline]
    pub(super) fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.head.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.head.push(value as u8);
    }

    /// # Safety
    ///
    /// `len` bytes at `data` can be read and do not change meanwhile.
    #[inline]
    pub(super) unsafe fn raw(&mut self, data: *const u8, len: usize) {
        // SAFETY: the caller's promise.
        self.head.extend_from_slice(unsafe { std::slice::from_raw_parts(data, len) });
    }
}

impl Decoder {
    /// A value without parts.
    pub(super) fn leaf(&mut self, tag: u8, offset: usize) -> Result<Owned, Fault> {
        let object = self.leaf_alone(tag & !SHARED)?;
        self.remember(tag, offset, &object);
        Ok(object)
    }

    fn leaf_alone(&mut self, tag: u8) -> Result<Owned, Fault> {
        match tag {
            tag::COMPLEX => {
                let real = f64::from_le_bytes(self.array()?);
                let imaginary = f64::from_le_bytes(self.array()?);
                // SAFETY: attached.
                new(unsafe { ffi::PyComplex_FromDoubles(real, imaginary) })
            }
            #[cfg(not(Py_LIMITED_API))]
            tag::ASCII | tag::TEXT_1 | tag::TEXT_2 | tag::TEXT_4 => self.text(tag),
            #[cfg(Py_LIMITED_API)]
            tag::ASCII | tag::TEXT_UTF8 => self.text(tag),
            tag::BYTES => {
                let len = self.varint()?;
                let data = self.take(len)?;
                // Filled afterwards, as pickle does: from bytes, the interpreter would make
                // every single byte of the same value the same object.
                // SAFETY: attached; then `len` readable bytes into as many of an object that
                // nobody has seen, or none into the one empty object.
                unsafe {
                    let bytes = new(ffi::PyBytes_FromStringAndSize(std::ptr::null(), len as Py_ssize_t))?;
                    std::ptr::copy_nonoverlapping(data, ffi::PyBytes_AsString(bytes.as_ptr()).cast(), len);
                    Ok(bytes)
                }
            }
            tag::BYTEARRAY => {
                let len = self.varint()?;
                let data = self.take(len)?;
                // SAFETY: as above.
                new(unsafe { ffi::PyByteArray_FromStringAndSize(data.cast(), len as Py_ssize_t) })
            }
            tag::BYTES_APART => {
                let len = self.varint()?;
                let data = self.segment(len)?;
                // SAFETY: as above.
                new(unsafe { ffi::PyBytes_FromStringAndSize(data.cast(), len as Py_ssize_t) })
            }
            tag::BYTEARRAY_APART => {
                let len = self.varint()?;
                let data = self.segment(len)?;
                // SAFETY: as above.
                new(unsafe { ffi::PyByteArray_FromStringAndSize(data.cast(), len as Py_ssize_t) })
            }
            _ => Err(Fault::Tag),
        }
    }

    #[inline]
    fn text(&mut self, tag: u8) -> Result<Owned, Fault> {
        let len = self.varint()?;
        let data = self.take(len)?;
        // SAFETY: `len` readable bytes.
        match unsafe { access::make_text(tag, data, len) } {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(Fault::Text),
            Err(()) => Err(Fault::Raised),
        }
    }

    pub(super) fn big_int(&mut self) -> Result<Owned, Fault> {
        let len = self.varint()?;
        let data = self.take(len)?;
        let mut copy = vec![0; len];
        // SAFETY: `len` readable bytes into as many of ours; then attached.
        unsafe {
            std::ptr::copy_nonoverlapping(data, copy.as_mut_ptr(), len);
            access::make_big_int(&copy).ok_or(Fault::Raised)
        }
    }
}
