//! From objects to a message.
//!
//! A message is written in one of two ways. *Quickly*: plain data and instances of ordinary
//! classes, of which everything is read where it lies. No code but ours runs meanwhile, so nothing
//! changes, and an object that only its container holds cannot be met again: it costs nothing
//! to be sure that it was met once. *Carefully*: as soon as an object says itself what it
//! consists of, code of anybody's runs. Then every object is remembered and kept alive, as pickle does,
//! containers are walked as things that may change, and what is met again among its own
//! parts is written as pickle would. The first such object starts the message again; the
//! next message begins the way the last one ended.
//!
//! What neither way can do goes by pickle, whole, which also finds the right words for an error.
//!
//! # Why this file is unsafe
//!
//! It walks objects by raw pointers, see `access.rs`. Every pointer here is
//! borrowed from its container, and the root from the caller; the thread is
//! attached throughout and, while a message is written quickly, never lets go of the
//! interpreter in between, so no container changes while it is walked. The careful way holds what it walks.
#![allow(unsafe_code)]

use std::ops::Range;

use pyo3::exceptions::{PyException, PyOverflowError};
use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::access::{self, Owned};
use super::by_value::What;
use super::decode::CollectorPaused;
use super::format::{self, MAX_DEPTH, NATIVE, NATIVE_CALL, OPEN, OPEN_CALL, SHARED, SMALL_INTS, tag};
use super::memo::Memo;
use super::pickle;
use super::segment::Segment;
#[cfg(not(Py_LIMITED_API))]
use super::{classes::Classes, instance::Shape};
use crate::journey;

/// Why the native encoder stopped.
#[cfg_attr(Py_LIMITED_API, allow(dead_code))]
pub(super) enum Stop {
    /// Not ours: let pickle do it.
    Foreign,
    /// Code of somebody's has to be called: begin again, carefully.
    Careful,
    /// Something was found out about a class, and code may have run for it: begin again.
    Again,
    /// An exception is set.
    Raised,
}

/// Encodes one message at a time into memory that it keeps for the next.
pub(crate) struct Encoder {
    pub(super) head: Vec<u8>,
    pub(super) segments: Vec<Segment>,
    pub(super) memo: Memo,
    total_len: usize,
    /// Whether something in the message goes by value that pickle would have sent by name, or not at all.
    pub(super) by_value: bool,
    pub(super) what: What,
    /// Whether this message is written carefully.
    pub(super) careful: bool,
    /// Whether code of anybody's has run for this message, and for the one before.
    pub(super) code_ran: bool,
    expect_code: bool,
    /// What is remembered by its address while code runs.
    pub(super) keep: Vec<Owned>,
    /// The collector does not run while instances are read quickly.
    pub(super) paused: Option<CollectorPaused>,
    #[cfg(not(Py_LIMITED_API))]
    pub(super) classes: Classes,
    #[cfg(not(Py_LIMITED_API))]
    pub(super) shapes: Vec<Shape>,
    /// Names and values of the instances that are being written.
    #[cfg(not(Py_LIMITED_API))]
    pub(super) fields: Vec<(*mut PyObject, *mut PyObject)>,
}

/// A head buffer larger than this is given back when the message is done.
const KEEP_HEAD: usize = 16 << 20;

/// Room for more references than this is given back as well.
const KEEP_HELD: usize = 1 << 17;

/// As many times a message is begun again because a class was new; then it is written carefully.
const NEW_CLASSES: u32 = 16;

/// Small ints that are written without looking at the room for each.
const SMALL_RUN: usize = 64;

/// In the memo instead of an offset: whoever meets this object calls for pickle.
const FORBIDDEN: u32 = u32::MAX;

impl Encoder {
    /// Allocates nothing yet.
    pub(crate) const fn new() -> Self {
        Self {
            head: Vec::new(),
            segments: Vec::new(),
            memo: Memo::new(),
            total_len: 0,
            by_value: false,
            what: What::Value,
            careful: false,
            code_ran: false,
            expect_code: false,
            keep: Vec::new(),
            paused: None,
            #[cfg(not(Py_LIMITED_API))]
            classes: Classes::new(),
            #[cfg(not(Py_LIMITED_API))]
            shapes: Vec::new(),
            #[cfg(not(Py_LIMITED_API))]
            fields: Vec::new(),
        }
    }

    /// Any value.
    pub(crate) fn encode(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        // SAFETY: attached, and the caller holds the value.
        let body = |this: &mut Self| unsafe { this.value(value.as_ptr(), 0) };
        self.run(value.py(), NATIVE, What::Value, body, || Ok(value.clone()))
    }

    /// `items[range]` of an exact list or tuple, as one list.
    pub(crate) fn encode_items(&mut self, items: &Bound<'_, PyAny>, range: Range<usize>, what: What) -> PyResult<()> {
        // SAFETY: attached, and the caller holds the items.
        let body = |this: &mut Self| unsafe { this.items(items.as_ptr(), range.start, range.end) };
        self.run(items.py(), NATIVE, what, body, || {
            let slice = PyList::empty(items.py());
            for index in range.clone() {
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
        let kwargs = kwargs.filter(|kwargs| !kwargs.is_empty());
        // SAFETY: attached, and the caller holds both.
        let body = |this: &mut Self| unsafe {
            this.value(args.as_ptr(), 0)?;
            match kwargs {
                Some(kwargs) => this.value(kwargs.as_ptr(), 0),
                None => {
                    this.head.push(tag::NONE);
                    Ok(())
                }
            }
        };
        self.run(args.py(), NATIVE_CALL, What::Call, body, || Ok((args, kwargs).into_pyobject(args.py())?.into_any()))
    }

    /// Any value, by pickle even if we could do it ourselves.
    pub(crate) fn encode_pickled(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.pickled(value, What::Value)
    }

    fn pickled(&mut self, value: &Bound<'_, PyAny>, what: What) -> PyResult<()> {
        self.clear();
        self.what = what;
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

    /// Whether another message of the same value may differ from this one.
    pub(crate) fn is_by_value(&self) -> bool {
        self.by_value
    }

    /// Lets go of every object, and of memory that only a giant message needs.
    pub(crate) fn clear(&mut self) {
        self.head.clear();
        self.head.shrink_to(KEEP_HEAD);
        self.memo.clear();
        self.total_len = 0;
        self.by_value = false;
        self.what = What::Value;
        self.careful = false;
        self.code_ran = false;
        self.paused = None;
        #[cfg(not(Py_LIMITED_API))]
        {
            self.classes.next_message();
            self.shapes.clear();
            self.fields.clear();
        }
        // Letting go may run any code, which cannot reach this encoder: it is borrowed here.
        self.segments.clear();
        self.keep.clear();
        self.keep.shrink_to(KEEP_HELD);
    }

    /// Writes a message of this kind: quickly, else carefully, else by pickle.
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        kind: u8,
        what: What,
        body: impl Fn(&mut Self) -> Result<(), Stop>,
        whole: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let mut new_classes = 0;
        while !self.expect_code {
            self.clear();
            self.head.push(kind);
            let outcome = body(self);
            self.paused = None;
            match outcome {
                Ok(()) => return self.measure(),
                Err(Stop::Again) if new_classes < NEW_CLASSES => new_classes += 1,
                Err(Stop::Again | Stop::Careful) => self.expect_code = true,
                Err(Stop::Foreign) => return self.pickled(&whole()?, what),
                Err(Stop::Raised) => {
                    self.clear();
                    return Err(PyErr::fetch(py));
                }
            }
        }
        self.clear();
        self.head.push(if kind == NATIVE_CALL { OPEN_CALL } else { OPEN });
        self.careful = true;
        let stopped = journey::pickling(py, || {
            let error = match body(self) {
                Ok(()) => return Ok(None),
                Err(Stop::Raised) => Some(PyErr::fetch(py)),
                Err(_) => None,
            };
            journey::lost(py);
            Ok(Some(error))
        })?;
        self.expect_code = self.code_ran;
        match stopped {
            None => self.measure(),
            Some(Some(error)) if !error.is_instance_of::<PyException>(py) => {
                self.clear();
                Err(error)
            }
            // What cannot be pickled raises again, with pickle's own words.
            Some(_) => self.pickled(&whole()?, what),
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
            if self.careful {
                self.each_carefully(items, start, end, 1)
            } else if is_list {
                self.list_items(items, start, end, 1)
            } else {
                self.tuple_items(items, start, end, 1)
            }
        }
    }

    /// Whether the object was met before; then a reference to it is written.
    /// Otherwise it is remembered as what is written next, if need be.
    #[inline]
    pub(super) unsafe fn met(&mut self, object: *mut PyObject) -> Result<bool, Stop> {
        // A count of one is no proof where other threads count on their own.
        // SAFETY: a live object.
        if !SHARED_BY_THREADS && !self.careful && unsafe { ffi::Py_REFCNT(object) } == 1 {
            return Ok(false);
        }
        let here = self.here()?;
        let Some(offset) = self.memo.insert(object.addr(), here) else {
            if self.careful {
                // SAFETY: a live object, and attached.
                self.keep.push(unsafe { Owned::borrow(object) });
            }
            return Ok(false);
        };
        self.refer(offset)
    }

    /// Where the next byte goes, as the memo has it.
    #[inline]
    pub(super) fn here(&self) -> Result<u32, Stop> {
        match u32::try_from(self.head.len()) {
            Ok(here) if here != FORBIDDEN => Ok(here),
            _ => Err(Stop::Foreign),
        }
    }

    /// A reference to the object whose tag is at `offset`.
    pub(super) fn refer(&mut self, offset: u32) -> Result<bool, Stop> {
        if offset == FORBIDDEN {
            return Err(Stop::Foreign);
        }
        if self.head[offset as usize] == tag::OPEN_TUPLE {
            return Err(Stop::Careful);
        }
        self.head[offset as usize] |= SHARED;
        self.head.push(tag::REF);
        self.varint(offset as usize);
        Ok(true)
    }

    /// One value of any type.
    #[inline]
    pub(super) unsafe fn value(&mut self, object: *mut PyObject, depth: u32) -> Result<(), Stop> {
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
            #[cfg(not(Py_LIMITED_API))]
            return self.foreign(object, depth);
            #[cfg(Py_LIMITED_API)]
            Err(Stop::Foreign)
        }
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
            if self.careful {
                return self.list_carefully(object, len, deeper(depth)?);
            }
            self.list_items(object, 0, len, deeper(depth)?)
        }
    }

    #[inline]
    unsafe fn list_items(&mut self, list: *mut PyObject, start: usize, end: usize, depth: u32) -> Result<(), Stop> {
        // SAFETY: an exact list of at least `end` items.
        unsafe { self.each(start, end, depth, |index| access::list_item(list, index)) }
    }

    #[inline]
    pub(super) unsafe fn tuple_items(
        &mut self,
        tuple: *mut PyObject,
        start: usize,
        end: usize,
        depth: u32,
    ) -> Result<(), Stop> {
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
            if self.careful {
                return self.tuple_carefully(object, len, deeper(depth)?);
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
            if self.careful {
                return self.dict_carefully(object, deeper(depth)?);
            }
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
            if self.careful {
                return self.set_carefully(object, deeper(depth)?, tag);
            }
            if self.met(object)? {
                return Ok(());
            }
            let depth = deeper(depth)?;
            let len = ffi::PySet_Size(object) as usize;
            // A frozenset is, like a tuple, not referred to before it is whole.
            let here = self.head.len();
            self.head.push(if tag == tag::FROZENSET { tag::OPEN_TUPLE } else { tag });
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
            if left != 0 {
                return Err(Stop::Foreign);
            }
            if tag == tag::FROZENSET {
                self.head[here] = tag;
            }
            Ok(())
        }
    }
}

/// Whether other threads run Python while we do: then nothing that can change is
/// walked by us, and no reference count proves anything. Lists and dicts go by
/// pickle on such builds until they are measured there.
pub(super) const SHARED_BY_THREADS: bool = cfg!(Py_GIL_DISABLED);

#[inline]
pub(super) fn deeper(depth: u32) -> Result<u32, Stop> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(Stop::Foreign) }
}
