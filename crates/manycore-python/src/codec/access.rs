//! Built-in objects, seen from as near as the build allows.
//!
//! Two versions of the same dozen functions: `direct` reads the objects' own
//! memory and is compiled for one version of CPython, `stable` keeps to the
//! stable ABI. Nothing else in the codec knows which one it has.
//!
//! # Why this file is unsafe
//!
//! The safe wrappers count references and check types for every item of every
//! list; the codec has already checked the exact type of the container, holds
//! the interpreter, and runs nobody's code in between. Every function here asks
//! for the same things of its caller: an attached thread, and for each pointer
//! a live object of the *exact* type named. That is the `SAFETY` of most blocks.
#![allow(unsafe_code)]

use std::ptr::NonNull;

#[cfg(not(Py_LIMITED_API))]
use pyo3::Python;
use pyo3::ffi::{self, PyObject};
use pyo3::{Bound, PyAny};

use super::format::SMALL_INTS;

#[cfg(not(Py_LIMITED_API))]
pub(super) use direct::*;
#[cfg(Py_LIMITED_API)]
pub(super) use stable::*;

/// One reference that we own. Made and dropped only by an attached thread.
pub(super) struct Owned(NonNull<PyObject>);

impl Owned {
    /// Takes over a new reference as the C API returns it; none if it raised.
    ///
    /// # Safety
    ///
    /// `object` is null or a reference that nobody else will give back.
    #[inline]
    pub(super) unsafe fn new(object: *mut PyObject) -> Option<Self> {
        NonNull::new(object).map(Self)
    }

    /// One more reference to an object that somebody else keeps alive.
    ///
    /// # Safety
    ///
    /// `object` is a live object and the thread is attached.
    #[inline]
    pub(super) unsafe fn borrow(object: *mut PyObject) -> Self {
        // SAFETY: the caller promises a live object, which is never null.
        unsafe {
            ffi::Py_INCREF(object);
            Self(NonNull::new_unchecked(object))
        }
    }

    #[inline]
    pub(super) fn as_ptr(&self) -> *mut PyObject {
        self.0.as_ptr()
    }

    #[inline]
    pub(super) fn into_ptr(self) -> *mut PyObject {
        let object = self.0.as_ptr();
        std::mem::forget(self);
        object
    }
}

impl From<Bound<'_, PyAny>> for Owned {
    #[inline]
    fn from(object: Bound<'_, PyAny>) -> Self {
        // SAFETY: the reference is the bound one, which is given up, and never null.
        unsafe { Self(NonNull::new_unchecked(object.into_ptr())) }
    }
}

impl Owned {
    /// The reference as a safe one.
    #[cfg(not(Py_LIMITED_API))]
    #[inline]
    pub(super) fn into_bound(self, py: Python<'_>) -> Bound<'_, PyAny> {
        // SAFETY: attached, and the reference is ours to hand over.
        unsafe { Bound::from_owned_ptr(py, self.into_ptr()) }
    }
}

impl Drop for Owned {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and the codec works attached.
        unsafe { ffi::Py_DECREF(self.0.as_ptr()) }
    }
}

/// The characters of a string, in the form both ends agree on.
pub(super) struct Text {
    pub(super) tag: u8,
    pub(super) data: *const u8,
    pub(super) len: usize,
    /// The encoded copy, where the string itself could not be read.
    pub(super) _keep: Option<Owned>,
}

/// The value of an exact int that is its own tag.
#[inline]
pub(super) unsafe fn small_int(object: *mut PyObject) -> Option<u8> {
    // SAFETY: a live object, and an exact int where its value is asked for.
    unsafe {
        if ffi::Py_TYPE(object) != &raw mut ffi::PyLong_Type {
            return None;
        }
        int_value(object).filter(|value| (0..SMALL_INTS).contains(value)).map(|value| value as u8)
    }
}

#[cfg(not(Py_LIMITED_API))]
mod direct {
    use std::os::raw::c_int;

    use crate::known::Known;
    use pyo3::Python;
    use pyo3::ffi::{self, Py_ssize_t, PyObject};

    use super::super::format::{SMALL_INTS, tag};
    use super::{Owned, Text};

    /// An int as CPython lays it out. 3.11: the sign and the number of 30-bit
    /// digits in `ob_size`. 3.12 on: two sign bits (0 positive, 1 zero, 2
    /// negative), a reserved bit and the number of digits in `lv_tag`.
    #[repr(C)]
    struct Int {
        #[cfg(not(Py_3_12))]
        base: ffi::PyVarObject,
        #[cfg(Py_3_12)]
        base: PyObject,
        #[cfg(Py_3_12)]
        tag: usize,
        digit: u32,
    }

    /// The value of an int of at most one digit.
    #[inline]
    unsafe fn one_digit(object: *mut PyObject) -> Option<i64> {
        // SAFETY: an exact int; its memory has room for one digit even when it
        // has none. Nobody writes to ints.
        unsafe {
            let int = object.cast::<Int>();
            #[cfg(Py_3_12)]
            {
                let tag = (*int).tag;
                (tag < 2 << 3).then(|| (1 - (tag & 3) as i64) * i64::from((*int).digit))
            }
            #[cfg(not(Py_3_12))]
            match (*int).base.ob_size {
                1 => Some(i64::from((*int).digit)),
                0 => Some(0),
                -1 => Some(-i64::from((*int).digit)),
                _ => None,
            }
        }
    }

    /// The int if it fits; no exception is set either way.
    #[inline]
    pub(in crate::codec) unsafe fn int_value(object: *mut PyObject) -> Option<i64> {
        // SAFETY: an exact int.
        unsafe {
            if let Some(value) = one_digit(object) {
                return Some(value);
            }
            let mut overflow: c_int = 0;
            let value = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
            (overflow == 0).then_some(value)
        }
    }

    /// The ints below 128: CPython makes each once and never frees it.
    pub(in crate::codec) struct SmallInts([*mut PyObject; SMALL_INTS as usize]);

    // SAFETY: pointers to objects that live as long as the interpreter and are
    // only used by attached threads.
    unsafe impl Send for SmallInts {}
    // SAFETY: as above.
    unsafe impl Sync for SmallInts {}

    impl SmallInts {
        pub(in crate::codec) fn get(py: Python<'_>) -> &'static Self {
            static TABLE: Known<SmallInts> = Known::new();
            TABLE.get_or_init(py, || {
                // SAFETY: attached; small ints exist, so this cannot fail.
                SmallInts(std::array::from_fn(|value| unsafe { ffi::PyLong_FromLong(value as std::os::raw::c_long) }))
            })
        }

        /// Whether `object` is the int `value`.
        #[inline]
        pub(in crate::codec) fn is(&self, value: u8, object: *mut PyObject) -> bool {
            self.0[usize::from(value & 127)] == object
        }

        /// A new reference.
        #[inline]
        pub(in crate::codec) fn make(&self, value: u8) -> Owned {
            let object = self.0[usize::from(value & 127)];
            // Immortal since 3.12: counting would only touch another cache line.
            // SAFETY: a live object, and attached, by this table's promise.
            #[cfg(not(Py_3_12))]
            unsafe {
                ffi::Py_INCREF(object);
            }
            // SAFETY: never null; the reference is new, or need not be counted.
            unsafe { Owned::new(object).unwrap_unchecked() }
        }
    }

    /// The bytes of an int of any size. None: an exception is set.
    pub(in crate::codec) unsafe fn big_int_bytes(object: *mut PyObject) -> Option<Vec<u8>> {
        // SAFETY: an exact int; the vector has the length we name.
        unsafe {
            #[cfg(Py_3_13)]
            {
                let flags = ffi::Py_ASNATIVEBYTES_LITTLE_ENDIAN;
                let size = ffi::PyLong_AsNativeBytes(object, std::ptr::null_mut(), 0, flags);
                let mut bytes = vec![0; usize::try_from(size).ok()?];
                let size = ffi::PyLong_AsNativeBytes(object, bytes.as_mut_ptr().cast(), size, flags);
                (size >= 0).then_some(bytes)
            }
            #[cfg(not(Py_3_13))]
            {
                #[cfg(Py_3_12)]
                let digits = (*object.cast::<Int>()).tag >> 3;
                #[cfg(not(Py_3_12))]
                let digits = (*object.cast::<Int>()).base.ob_size.unsigned_abs();
                let mut bytes = vec![0; digits * 30 / 8 + 1];
                let size = bytes.len();
                let status = ffi::_PyLong_AsByteArray(object.cast(), bytes.as_mut_ptr(), size, 1, 1);
                (status >= 0).then_some(bytes)
            }
        }
    }

    pub(in crate::codec) unsafe fn make_big_int(bytes: &[u8]) -> Option<Owned> {
        // SAFETY: attached; the slice is ours.
        unsafe {
            #[cfg(Py_3_13)]
            let object =
                ffi::PyLong_FromNativeBytes(bytes.as_ptr().cast(), bytes.len(), ffi::Py_ASNATIVEBYTES_LITTLE_ENDIAN);
            #[cfg(not(Py_3_13))]
            let object = ffi::_PyLong_FromByteArray(bytes.as_ptr(), bytes.len(), 1, 1);
            Owned::new(object)
        }
    }

    /// None for a string of the days before 3.12 that cannot be made ready.
    #[inline]
    pub(in crate::codec) unsafe fn text(object: *mut PyObject) -> Option<Text> {
        // SAFETY: an exact str; its data is as long as its length says.
        unsafe {
            if ffi::PyUnicode_READY(object) != 0 {
                ffi::PyErr_Clear();
                return None;
            }
            let len = ffi::PyUnicode_GET_LENGTH(object) as usize;
            let data = ffi::PyUnicode_DATA(object).cast::<u8>();
            #[cfg(not(Py_3_14))]
            let is_ascii = ffi::PyUnicode_IS_ASCII(object) != 0;
            let (tag, width) = match ffi::PyUnicode_KIND(object) {
                #[cfg(not(Py_3_14))]
                ffi::PyUnicode_1BYTE_KIND if is_ascii => (tag::ASCII, 1),
                #[cfg(Py_3_14)]
                ffi::PyUnicode_1BYTE_KIND if std::slice::from_raw_parts(data, len).is_ascii() => (tag::ASCII, 1),
                ffi::PyUnicode_1BYTE_KIND => (tag::TEXT_1, 1),
                ffi::PyUnicode_2BYTE_KIND => (tag::TEXT_2, 2),
                ffi::PyUnicode_4BYTE_KIND => (tag::TEXT_4, 4),
                _ => return None,
            };
            Some(Text { tag, data, len: len * width, _keep: None })
        }
    }

    /// A string of `len` bytes at `data`, which another process may be writing
    /// to: copied first, then held against what the interpreter believes of such a
    /// string. `Ok(None)`: it is not one.
    #[inline]
    pub(in crate::codec) unsafe fn make_text(tag: u8, data: *const u8, len: usize) -> Result<Option<Owned>, ()> {
        let (width, most) = match tag {
            tag::ASCII => (1, 0x7F),
            tag::TEXT_1 => (1, 0xFF),
            tag::TEXT_2 => (2, 0xFFFF),
            _ => (4, 0x10_FFFF),
        };
        if !len.is_multiple_of(width) {
            return Ok(None);
        }
        // SAFETY: the caller checked that `len` bytes can be read. The new string
        // has room for `len / width` characters of that width and is seen by
        // nobody yet; an empty one is shared, and nothing is written to it.
        unsafe {
            if tag == tag::ASCII && len == 1 {
                // One object per character, as everywhere in the interpreter.
                let byte = data.read_volatile();
                if byte > 0x7F {
                    return Ok(None);
                }
                return Owned::new(ffi::PyUnicode_FromOrdinal(c_int::from(byte))).map(Some).ok_or(());
            }
            if len == 0 && tag != tag::ASCII {
                return Ok(None);
            }
            let text = Owned::new(ffi::PyUnicode_New((len / width) as Py_ssize_t, most)).ok_or(())?;
            let inside = ffi::PyUnicode_DATA(text.as_ptr()).cast::<u8>();
            std::ptr::copy_nonoverlapping(data, inside, len);
            let canonical = match tag {
                tag::ASCII => std::slice::from_raw_parts(inside, len).is_ascii(),
                tag::TEXT_1 => !std::slice::from_raw_parts(inside, len).is_ascii(),
                tag::TEXT_2 => {
                    std::slice::from_raw_parts(inside.cast::<u16>(), len / 2).iter().any(|unit| *unit > 0xFF)
                }
                _ => {
                    let units = std::slice::from_raw_parts(inside.cast::<u32>(), len / 4);
                    units.iter().any(|unit| *unit > 0xFFFF) && units.iter().all(|unit| *unit <= 0x10_FFFF)
                }
            };
            if !canonical {
                return Ok(None);
            }
            if tag == tag::TEXT_1 && len == 1 {
                let byte = *inside;
                return Owned::new(ffi::PyUnicode_FromOrdinal(c_int::from(byte))).map(Some).ok_or(());
            }
            Ok(Some(text))
        }
    }

    #[inline]
    pub(in crate::codec) unsafe fn float_value(object: *mut PyObject) -> f64 {
        // SAFETY: an exact float.
        unsafe { ffi::PyFloat_AS_DOUBLE(object) }
    }

    #[inline]
    pub(in crate::codec) unsafe fn list_len(list: *mut PyObject) -> usize {
        // SAFETY: an exact list.
        unsafe { ffi::PyList_GET_SIZE(list) as usize }
    }

    /// Borrowed from the list.
    #[inline]
    pub(in crate::codec) unsafe fn list_item(list: *mut PyObject, at: usize) -> *mut PyObject {
        // SAFETY: an exact list longer than `at`.
        unsafe { ffi::PyList_GET_ITEM(list, at as Py_ssize_t) }
    }

    /// Fills a place of a new list that was never filled before.
    #[inline]
    pub(in crate::codec) unsafe fn list_fill(list: *mut PyObject, at: usize, item: Owned) {
        // SAFETY: a new list longer than `at`, and the place is empty.
        unsafe { ffi::PyList_SET_ITEM(list, at as Py_ssize_t, item.into_ptr()) }
    }

    #[inline]
    pub(in crate::codec) unsafe fn tuple_len(tuple: *mut PyObject) -> usize {
        // SAFETY: an exact tuple.
        unsafe { ffi::PyTuple_GET_SIZE(tuple) as usize }
    }

    /// Borrowed from the tuple.
    #[inline]
    pub(in crate::codec) unsafe fn tuple_item(tuple: *mut PyObject, at: usize) -> *mut PyObject {
        // SAFETY: an exact tuple longer than `at`.
        unsafe { ffi::PyTuple_GET_ITEM(tuple, at as Py_ssize_t) }
    }

    /// Fills a place of a new tuple that was never filled before.
    #[inline]
    pub(in crate::codec) unsafe fn tuple_fill(tuple: *mut PyObject, at: usize, item: Owned) {
        // SAFETY: a new tuple longer than `at`, and the place is empty.
        unsafe { ffi::PyTuple_SET_ITEM(tuple, at as Py_ssize_t, item.into_ptr()) }
    }

    /// Where the item at `at` of an exact list (else tuple) longer than that stands.
    #[inline]
    pub(in crate::codec) unsafe fn place(container: *mut PyObject, at: usize, is_list: bool) -> *mut *mut PyObject {
        // SAFETY: the exact type is as said, and both hold their items in a row.
        unsafe {
            if is_list {
                (*container.cast::<ffi::PyListObject>()).ob_item.add(at)
            } else {
                (&raw mut (*container.cast::<ffi::PyTupleObject>()).ob_item).cast::<*mut PyObject>().add(at)
            }
        }
    }

    /// The collector looks at `tuple` from now on; it leaves those alone that had
    /// nothing in them worth a look.
    #[inline]
    pub(in crate::codec) unsafe fn track(tuple: *mut PyObject) {
        // SAFETY: an exact, whole tuple.
        unsafe {
            if ffi::PyObject_GC_IsTracked(tuple) == 0 {
                ffi::PyObject_GC_Track(tuple.cast());
            }
        }
    }
}

#[cfg(Py_LIMITED_API)]
mod stable {
    use std::os::raw::{c_int, c_long};

    use pyo3::Python;
    use pyo3::ffi::{self, Py_ssize_t, PyObject};

    use super::super::format::tag;
    use super::{Owned, Text};

    /// The int if it fits; no exception is set either way.
    #[inline]
    pub(in crate::codec) unsafe fn int_value(object: *mut PyObject) -> Option<i64> {
        let mut overflow: c_int = 0;
        // SAFETY: an exact int.
        let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow) };
        (overflow == 0).then_some(value)
    }

    /// The ints below 128, by call: counting a reference is a call as well here.
    pub(in crate::codec) struct SmallInts;

    impl SmallInts {
        pub(in crate::codec) fn get(_py: Python<'_>) -> &'static Self {
            &SmallInts
        }

        /// A new reference.
        #[inline]
        pub(in crate::codec) fn make(&self, value: u8) -> Owned {
            // SAFETY: attached; small ints exist, so this cannot fail.
            unsafe { Owned::new(ffi::PyLong_FromLong(c_long::from(value))).unwrap_unchecked() }
        }
    }

    /// The bytes of an int of any size. None: an exception is set.
    pub(in crate::codec) unsafe fn big_int_bytes(object: *mut PyObject) -> Option<Vec<u8>> {
        // SAFETY: an exact int; formats and arguments match; results are checked.
        unsafe {
            let bits = Owned::new(ffi::PyObject_CallMethod(object, c"bit_length".as_ptr(), std::ptr::null()))?;
            let size = ffi::PyLong_AsSsize_t(bits.as_ptr()) / 8 + 1;
            let method = Owned::new(ffi::PyObject_GetAttrString(object, c"to_bytes".as_ptr()))?;
            let args = Owned::new(ffi::Py_BuildValue(c"(ns)".as_ptr(), size, c"little".as_ptr()))?;
            let named = Owned::new(ffi::Py_BuildValue(c"{sO}".as_ptr(), c"signed".as_ptr(), ffi::Py_True()))?;
            let bytes = Owned::new(ffi::PyObject_Call(method.as_ptr(), args.as_ptr(), named.as_ptr()))?;
            let data = ffi::PyBytes_AsString(bytes.as_ptr()).cast::<u8>();
            Some(std::slice::from_raw_parts(data, size as usize).to_vec())
        }
    }

    pub(in crate::codec) unsafe fn make_big_int(bytes: &[u8]) -> Option<Owned> {
        // SAFETY: attached; formats and arguments match; results are checked.
        unsafe {
            let method =
                Owned::new(ffi::PyObject_GetAttrString((&raw mut ffi::PyLong_Type).cast(), c"from_bytes".as_ptr()))?;
            let data = ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as Py_ssize_t);
            let data = Owned::new(data)?;
            let args = Owned::new(ffi::Py_BuildValue(c"(Os)".as_ptr(), data.as_ptr(), c"little".as_ptr()))?;
            let named = Owned::new(ffi::Py_BuildValue(c"{sO}".as_ptr(), c"signed".as_ptr(), ffi::Py_True()))?;
            Owned::new(ffi::PyObject_Call(method.as_ptr(), args.as_ptr(), named.as_ptr()))
        }
    }

    /// None if memory ran out: pickle says so.
    #[inline]
    pub(in crate::codec) unsafe fn text(object: *mut PyObject) -> Option<Text> {
        // SAFETY: an exact str. The UTF-8 stays with the string, or with `keep`.
        unsafe {
            let mut len: Py_ssize_t = 0;
            let data = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut len);
            if !data.is_null() {
                let ascii = len == ffi::PyUnicode_GetLength(object);
                return Some(Text {
                    tag: if ascii { tag::ASCII } else { tag::TEXT_UTF8 },
                    data: data.cast(),
                    len: len as usize,
                    _keep: None,
                });
            }
            ffi::PyErr_Clear();
            let bytes =
                Owned::new(ffi::PyUnicode_AsEncodedString(object, c"utf-8".as_ptr(), c"surrogatepass".as_ptr()));
            let Some(bytes) = bytes else {
                ffi::PyErr_Clear();
                return None;
            };
            Some(Text {
                tag: tag::TEXT_UTF8,
                data: ffi::PyBytes_AsString(bytes.as_ptr()).cast(),
                len: ffi::PyBytes_Size(bytes.as_ptr()) as usize,
                _keep: Some(bytes),
            })
        }
    }

    /// A string of `len` bytes at `data`, which another process may be writing
    /// to: copied first, because the decoder of UTF-8 looks twice.
    /// `Ok(None)`: it is not a string.
    #[inline]
    pub(in crate::codec) unsafe fn make_text(_tag: u8, data: *const u8, len: usize) -> Result<Option<Owned>, ()> {
        let mut near = [0u8; 64];
        let far;
        // SAFETY: the caller checked that `len` bytes can be read.
        let copy = unsafe {
            if len <= near.len() {
                std::ptr::copy_nonoverlapping(data, near.as_mut_ptr(), len);
                near.as_ptr()
            } else {
                let mut bytes = Vec::<u8>::with_capacity(len);
                std::ptr::copy_nonoverlapping(data, bytes.as_mut_ptr(), len);
                bytes.set_len(len);
                far = bytes;
                far.as_ptr()
            }
        };
        // SAFETY: attached; `copy` is ours and `len` long.
        unsafe {
            let text = Owned::new(ffi::PyUnicode_DecodeUTF8(copy.cast(), len as Py_ssize_t, c"surrogatepass".as_ptr()));
            if text.is_none() && ffi::PyErr_ExceptionMatches(ffi::PyExc_UnicodeDecodeError) != 0 {
                ffi::PyErr_Clear();
                return Ok(None);
            }
            text.map(Some).ok_or(())
        }
    }

    #[inline]
    pub(in crate::codec) unsafe fn float_value(object: *mut PyObject) -> f64 {
        // SAFETY: an exact float.
        unsafe { ffi::PyFloat_AsDouble(object) }
    }

    #[inline]
    pub(in crate::codec) unsafe fn list_len(list: *mut PyObject) -> usize {
        // SAFETY: an exact list.
        unsafe { ffi::PyList_Size(list) as usize }
    }

    /// Borrowed from the list.
    #[inline]
    pub(in crate::codec) unsafe fn list_item(list: *mut PyObject, at: usize) -> *mut PyObject {
        // SAFETY: an exact list longer than `at`.
        unsafe { ffi::PyList_GetItem(list, at as Py_ssize_t) }
    }

    /// Fills a place of a new list that was never filled before.
    #[inline]
    pub(in crate::codec) unsafe fn list_fill(list: *mut PyObject, at: usize, item: Owned) {
        // SAFETY: a list longer than `at`, so this cannot fail.
        unsafe { ffi::PyList_SetItem(list, at as Py_ssize_t, item.into_ptr()) };
    }

    #[inline]
    pub(in crate::codec) unsafe fn tuple_len(tuple: *mut PyObject) -> usize {
        // SAFETY: an exact tuple.
        unsafe { ffi::PyTuple_Size(tuple) as usize }
    }

    /// Borrowed from the tuple.
    #[inline]
    pub(in crate::codec) unsafe fn tuple_item(tuple: *mut PyObject, at: usize) -> *mut PyObject {
        // SAFETY: an exact tuple longer than `at`.
        unsafe { ffi::PyTuple_GetItem(tuple, at as Py_ssize_t) }
    }

    /// Fills a place of a new tuple that was never filled before.
    #[inline]
    pub(in crate::codec) unsafe fn tuple_fill(tuple: *mut PyObject, at: usize, item: Owned) {
        // SAFETY: nobody else has the tuple and it is longer than `at`, so this
        // cannot fail.
        unsafe { ffi::PyTuple_SetItem(tuple, at as Py_ssize_t, item.into_ptr()) };
    }
}
