//! From objects to a message.
//!
//! Built-in types only, and only exactly those: at the first object of any other
//! type everything written so far is dropped and pickle writes the *whole*
//! message, so that two objects are the same object afterwards exactly when
//! pickle would have it so.
//!
//! Objects met twice: one that only its container holds cannot be met again, so
//! it costs nothing. The others are remembered by address until the message is
//! done; whoever contains them keeps them alive, since no code but ours runs.
//!
//! # Why this file is unsafe
//!
//! It walks objects by raw pointers, see `access.rs`. Every pointer here is
//! borrowed from its container, and the root from the caller; the thread is
//! attached throughout and never lets go of the interpreter in between, so no
//! container changes while it is walked.
#![allow(unsafe_code)]

use pyo3::exceptions::PyOverflowError;
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::access::{self, Owned};
use super::decode::CollectorPaused;
use super::format::{self, MAX_DEPTH, NATIVE, NATIVE_CALL, SHARED, SMALL_INTS, tag};
use super::memo::Memo;
use super::pickle;
use super::segment::Segment;

/// Why the native encoder stopped.
enum Stop {
    /// Not ours: let pickle do it.
    Foreign,
    /// An exception is set.
    Raised,
}

/// Encodes one message at a time into memory that it keeps for the next.
pub(crate) struct Encoder {
    pub(super) head: Vec<u8>,
    pub(super) segments: Vec<Segment>,
    memo: Memo,
    total_len: usize,
}

/// A head buffer larger than this is given back when the message is done.
const KEEP_HEAD: usize = 16 << 20;

/// Small ints that are written without looking at the room for each.
const SMALL_RUN: usize = 64;

/// In the memo instead of an offset: whoever meets this object calls for pickle.
const FORBIDDEN: u32 = u32::MAX;

impl Encoder {
    /// Allocates nothing yet.
    pub(crate) const fn new() -> Self {
        Self { head: Vec::new(), segments: Vec::new(), memo: Memo::new(), total_len: 0 }
    }

    /// Any value.
    pub(crate) fn encode(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.clear();
        self.head.push(NATIVE);
        // SAFETY: attached, and the caller holds the value.
        let outcome = unsafe { self.value(value.as_ptr(), 0) };
        self.finish(value.py(), outcome, || Ok(value.clone()))
    }

    /// `items[start..end]` of an exact list or tuple, as one list.
    pub(crate) fn encode_items(&mut self, items: &Bound<'_, PyAny>, start: usize, end: usize) -> PyResult<()> {
        self.clear();
        self.head.push(NATIVE);
        // SAFETY: attached, and the caller holds the items.
        let outcome = unsafe { self.items(items.as_ptr(), start, end) };
        self.finish(items.py(), outcome, || {
            let slice = PyList::empty(items.py());
            for index in start..end {
                slice.append(items.get_item(index)?)?;
            }
            Ok(slice.into_any())
        })
    }

    /// The arguments of one call. Empty keywords are the same as none.
    pub(crate) fn encode_call(
        &mut self,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.clear();
        self.head.push(NATIVE_CALL);
        let kwargs = kwargs.filter(|kwargs| !kwargs.is_empty());
        // SAFETY: attached, and the caller holds both.
        let outcome = unsafe {
            self.value(args.as_ptr(), 0).and_then(|()| match kwargs {
                Some(kwargs) => self.value(kwargs.as_ptr(), 0),
                None => {
                    self.head.push(tag::NONE);
                    Ok(())
                }
            })
        };
        self.finish(args.py(), outcome, || Ok((args, kwargs).into_pyobject(args.py())?.into_any()))
    }

    /// Any value, by pickle even if we could do it ourselves.
    pub(crate) fn encode_pickled(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.clear();
        pickle::encode(self, value).and_then(|()| self.measure()).inspect_err(|_| self.clear())
    }

    /// The message's first part. Like the segments, good until the next message.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// What follows the head, each from the next multiple of 64 bytes on.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The whole message, padding included.
    pub(crate) fn total_len(&self) -> usize {
        self.total_len
    }

    /// Lets go of every object, and of memory that only a giant message needs.
    pub(crate) fn clear(&mut self) {
        self.head.clear();
        self.head.shrink_to(KEEP_HEAD);
        self.segments.clear();
        self.memo.clear();
        self.total_len = 0;
    }

    fn finish<'py>(
        &mut self,
        py: Python<'py>,
        outcome: Result<(), Stop>,
        whole: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        match outcome {
            Ok(()) => self.measure(),
            Err(Stop::Foreign) => self.encode_pickled(&whole()?),
            Err(Stop::Raised) => {
                self.clear();
                Err(PyErr::fetch(py))
            }
        }
    }

    fn measure(&mut self) -> PyResult<()> {
        let mut end = self.head.len();
        for segment in &self.segments {
            end = format::align(end)
                .and_then(|start| start.checked_add(segment.len))
                .ok_or_else(|| PyOverflowError::new_err("message larger than the address space"))?;
        }
        self.total_len = end;
        Ok(())
    }

    unsafe fn items(&mut self, items: *mut PyObject, start: usize, end: usize) -> Result<(), Stop> {
        // SAFETY: the types are checked here; the caller holds the items.
        unsafe {
            let kind = ffi::Py_TYPE(items);
            let is_list = kind == &raw mut ffi::PyList_Type;
            let is_tuple = kind == &raw mut ffi::PyTuple_Type;
            let len = match (is_list, is_tuple) {
                (true, _) if !SHARED_BY_THREADS => access::list_len(items),
                (_, true) => access::tuple_len(items),
                _ => return Err(Stop::Foreign),
            };
            if start > end || end > len {
                return Err(Stop::Foreign);
            }
            // An item that contains the whole of `items` would meet its own
            // siblings again, which only `items` holds and nobody remembers.
            self.memo.insert(items.addr(), FORBIDDEN);
            self.head.push(tag::LIST);
            self.varint(end - start);
            if is_list { self.list_items(items, start, end, 1) } else { self.tuple_items(items, start, end, 1) }
        }
    }

    /// Whether the object was met before; then a reference to it is written.
    /// Otherwise it is remembered as what is written next, if need be.
    #[inline]
    unsafe fn met(&mut self, object: *mut PyObject) -> Result<bool, Stop> {
        // A count of one is no proof where other threads count on their own.
        // SAFETY: a live object.
        if !SHARED_BY_THREADS && unsafe { ffi::Py_REFCNT(object) } == 1 {
            return Ok(false);
        }
        let here = match u32::try_from(self.head.len()) {
            Ok(here) if here != FORBIDDEN => here,
            _ => return Err(Stop::Foreign),
        };
        let Some(offset) = self.memo.insert(object.addr(), here) else {
            return Ok(false);
        };
        if offset == FORBIDDEN || self.head[offset as usize] == tag::OPEN_TUPLE {
            return Err(Stop::Foreign);
        }
        self.head[offset as usize] |= SHARED;
        self.head.push(tag::REF);
        self.varint(offset as usize);
        Ok(true)
    }

    /// One value of any type.
    #[inline]
    unsafe fn value(&mut self, object: *mut PyObject, depth: u32) -> Result<(), Stop> {
        // SAFETY: a live object, whose exact type decides what is asked of it.
        unsafe {
            if ffi::Py_TYPE(object) == &raw mut ffi::PyLong_Type {
                if let Some(value @ 0..SMALL_INTS) = access::int_value(object) {
                    self.head.push(value as u8);
                    return Ok(());
                }
                return self.int(object);
            }
            self.other(object, depth)
        }
    }

    /// One value that is no int.
    unsafe fn other(&mut self, object: *mut PyObject, depth: u32) -> Result<(), Stop> {
        // SAFETY: as above.
        unsafe {
            let kind = ffi::Py_TYPE(object);
            if kind == &raw mut ffi::PyUnicode_Type {
                return self.text(object);
            }
            if kind == &raw mut ffi::PyFloat_Type {
                let mut bytes = [tag::FLOAT; 9];
                bytes[1..].copy_from_slice(&access::float_value(object).to_le_bytes());
                self.head.extend_from_slice(&bytes);
                return Ok(());
            }
            if object == ffi::Py_None() {
                self.head.push(tag::NONE);
                return Ok(());
            }
            if kind == &raw mut ffi::PyBool_Type {
                self.head.push(if object == ffi::Py_True() { tag::TRUE } else { tag::FALSE });
                return Ok(());
            }
            if kind == &raw mut ffi::PyBytes_Type {
                return self.bytes(object);
            }
            if kind == &raw mut ffi::PyTuple_Type {
                return self.tuple(object, depth);
            }
            if kind == &raw mut ffi::PyFrozenSet_Type {
                return self.set(object, depth, tag::FROZENSET);
            }
            if kind == &raw mut ffi::PyComplex_Type {
                return self.complex(object);
            }
            if SHARED_BY_THREADS {
                return Err(Stop::Foreign);
            }
            if kind == &raw mut ffi::PyList_Type {
                return self.list(object, depth);
            }
            if kind == &raw mut ffi::PyDict_Type {
                return self.dict(object, depth);
            }
            if kind == &raw mut ffi::PySet_Type {
                return self.set(object, depth, tag::SET);
            }
            if kind == &raw mut ffi::PyByteArray_Type {
                return self.bytearray(object);
            }
            Err(Stop::Foreign)
        }
    }

    /// An int that is not its own tag.
    unsafe fn int(&mut self, object: *mut PyObject) -> Result<(), Stop> {
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
    unsafe fn text(&mut self, object: *mut PyObject) -> Result<(), Stop> {
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

    unsafe fn bytes(&mut self, object: *mut PyObject) -> Result<(), Stop> {
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

    unsafe fn bytearray(&mut self, object: *mut PyObject) -> Result<(), Stop> {
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

    unsafe fn complex(&mut self, object: *mut PyObject) -> Result<(), Stop> {
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

    unsafe fn list(&mut self, object: *mut PyObject, depth: u32) -> Result<(), Stop> {
        // SAFETY: an exact list, and nobody changes its length meanwhile.
        unsafe {
            if self.met(object)? {
                return Ok(());
            }
            let len = access::list_len(object);
            self.head.push(tag::LIST);
            self.varint(len);
            self.list_items(object, 0, len, deeper(depth)?)
        }
    }

    #[inline]
    unsafe fn list_items(&mut self, list: *mut PyObject, start: usize, end: usize, depth: u32) -> Result<(), Stop> {
        // SAFETY: an exact list of at least `end` items.
        unsafe { self.each(start, end, depth, |index| access::list_item(list, index)) }
    }

    #[inline]
    unsafe fn tuple_items(&mut self, tuple: *mut PyObject, start: usize, end: usize, depth: u32) -> Result<(), Stop> {
        // SAFETY: an exact tuple of at least `end` items.
        unsafe { self.each(start, end, depth, |index| access::tuple_item(tuple, index)) }
    }

    /// Every item from `start` to `end`: runs of small ints in one go, the others one by one.
    #[inline]
    unsafe fn each(
        &mut self,
        mut index: usize,
        end: usize,
        depth: u32,
        item: impl Fn(usize) -> *mut PyObject,
    ) -> Result<(), Stop> {
        while index < end {
            let object = item(index);
            // SAFETY: an item of the container, alive as long as that, whose exact type
            // decides what is asked of it.
            let first = unsafe {
                if ffi::Py_TYPE(object) != &raw mut ffi::PyLong_Type {
                    self.other(object, depth)?;
                    None
                } else if let Some(value @ 0..SMALL_INTS) = access::int_value(object) {
                    Some(value as u8)
                } else {
                    self.int(object)?;
                    None
                }
            };
            let Some(first) = first else {
                index += 1;
                continue;
            };
            let run = (end - index).min(SMALL_RUN);
            self.head.reserve(run);
            let start = self.head.len();
            let room = self.head.spare_capacity_mut();
            room[0].write(first);
            let mut written = 1;
            while written < run {
                // SAFETY: as above.
                let Some(value) = (unsafe { access::small_int(item(index + written)) }) else { break };
                room[written].write(value);
                written += 1;
            }
            // SAFETY: as many bytes were written behind the end.
            unsafe { self.head.set_len(start + written) };
            index += written;
        }
        Ok(())
    }

    unsafe fn tuple(&mut self, object: *mut PyObject, depth: u32) -> Result<(), Stop> {
        // SAFETY: an exact tuple; tuples do not change.
        unsafe {
            let len = access::tuple_len(object);
            if len == 0 {
                self.head.push(tag::EMPTY_TUPLE);
                return Ok(());
            }
            if self.met(object)? {
                return Ok(());
            }
            let here = self.head.len();
            self.head.push(tag::OPEN_TUPLE);
            self.varint(len);
            self.tuple_items(object, 0, len, deeper(depth)?)?;
            self.head[here] = tag::TUPLE;
        }
        Ok(())
    }

    unsafe fn dict(&mut self, object: *mut PyObject, depth: u32) -> Result<(), Stop> {
        // SAFETY: an exact dict that nobody changes; keys and values are its own.
        unsafe {
            if self.met(object)? {
                return Ok(());
            }
            let depth = deeper(depth)?;
            let len = ffi::PyDict_Size(object) as usize;
            self.head.push(tag::DICT);
            self.varint(len);
            let mut left = len;
            let mut position = 0;
            let mut key = std::ptr::null_mut();
            let mut value = std::ptr::null_mut();
            while ffi::PyDict_Next(object, &raw mut position, &raw mut key, &raw mut value) != 0 {
                left = left.checked_sub(1).ok_or(Stop::Foreign)?;
                self.value(key, depth)?;
                self.value(value, depth)?;
            }
            if left == 0 { Ok(()) } else { Err(Stop::Foreign) }
        }
    }

    unsafe fn set(&mut self, object: *mut PyObject, depth: u32, tag: u8) -> Result<(), Stop> {
        // SAFETY: an exact set or frozenset that nobody changes. The iterator's
        // reference to each item goes at once: the set's own is enough, and the
        // count says whether there are others.
        unsafe {
            if self.met(object)? {
                return Ok(());
            }
            let depth = deeper(depth)?;
            let len = ffi::PySet_Size(object) as usize;
            self.head.push(tag);
            self.varint(len);
            // The iterator is the one object made here that counts towards a collection,
            // whose finalizers could change a container that is being walked.
            let _paused = CollectorPaused::while_native(Python::assume_attached());
            let iterator = Owned::new(ffi::PyObject_GetIter(object)).ok_or(Stop::Raised)?;
            let mut left = len;
            while let Some(item) = Owned::new(ffi::PyIter_Next(iterator.as_ptr())) {
                let item_in_set = item.as_ptr();
                drop(item);
                left = left.checked_sub(1).ok_or(Stop::Foreign)?;
                self.value(item_in_set, depth)?;
            }
            if !ffi::PyErr_Occurred().is_null() {
                return Err(Stop::Raised);
            }
            if left == 0 { Ok(()) } else { Err(Stop::Foreign) }
        }
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
    unsafe fn raw(&mut self, data: *const u8, len: usize) {
        // SAFETY: the caller's promise.
        self.head.extend_from_slice(unsafe { std::slice::from_raw_parts(data, len) });
    }
}

/// Whether other threads run Python while we do: then nothing that can change is
/// walked by us, and no reference count proves anything. Lists and dicts go by
/// pickle on such builds until they are measured there.
const SHARED_BY_THREADS: bool = cfg!(Py_GIL_DISABLED);

#[inline]
fn deeper(depth: u32) -> Result<u32, Stop> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(Stop::Foreign) }
}
