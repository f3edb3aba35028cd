//! From the bytes of a native message to objects.
//!
//! The bytes lie in memory that another process can write to, so nothing in
//! them is believed: each byte is read once, each length is held against what is
//! left before anything is allocated, and a wrong message is an error.
//!
//! # Why this file is unsafe
//!
//! Two reasons. Shared bytes cannot be a slice, so a cursor over a raw pointer
//! reads them, bounds first (`Decoder::take`). And containers are filled through
//! raw pointers (see `access.rs`) before anybody can see them: no Python code
//! runs while a message is decoded, and a tuple is not remembered before it is
//! whole.
#![allow(unsafe_code)]

use pyo3::exceptions::PyValueError;
use pyo3::ffi::{self, Py_ssize_t, PyObject};
use pyo3::prelude::*;

use super::Incoming;
use super::access::{self, Owned, SmallInts};
use super::format::{self, MAX_DEPTH, SHARED, tag};

/// What is wrong with a message.
pub(super) enum Fault {
    Short,
    Tag,
    Length,
    Text,
    Key,
    Depth,
    Reference,
    Trailing,
    Segment,
    /// An exception is set (memory ran out, or code that makes an object raised it).
    Raised,
}

impl Fault {
    /// An exception that is to come out as it is.
    #[cfg(not(Py_LIMITED_API))]
    #[cold]
    pub(super) fn raise(py: Python<'_>, error: PyErr) -> Self {
        error.restore(py);
        Self::Raised
    }

    #[cold]
    pub(super) fn into_error(self, py: Python<'_>) -> PyErr {
        let what = match self {
            Self::Raised => return PyErr::fetch(py),
            Self::Short => "it ends in the middle of a value",
            Self::Tag => "unknown tag",
            Self::Length => "a length exceeds what is left",
            Self::Text => "characters do not fit their string",
            Self::Key => "unhashable key or element",
            Self::Depth => "nested too deeply",
            Self::Reference => "a reference to nothing",
            Self::Trailing => "something follows the value",
            Self::Segment => "a segment lies outside",
        };
        PyValueError::new_err(format!("corrupt message: {what}"))
    }
}

/// The collector does not run while this lives: it would look again and again at
/// objects that cannot be garbage yet, and at lists with empty places. From 3.12
/// on it only runs between bytecodes, of which a native message has none.
pub(super) struct CollectorPaused {
    was_enabled: bool,
}

impl CollectorPaused {
    #[inline]
    pub(super) fn new(_py: Python<'_>) -> Self {
        // SAFETY: attached.
        Self { was_enabled: unsafe { ffi::PyGC_Disable() } != 0 }
    }

    /// For messages without bytecode.
    #[inline]
    pub(super) fn while_native(py: Python<'_>) -> Option<Self> {
        cfg!(any(Py_LIMITED_API, not(Py_3_12))).then(|| Self::new(py))
    }
}

impl Drop for CollectorPaused {
    #[inline]
    fn drop(&mut self) {
        if self.was_enabled {
            // SAFETY: attached, as all of the codec is.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}

/// A cursor over a message, and the objects it may refer to again.
///
/// Holds objects, so it is dropped by an attached thread; the raw pointer keeps
/// it from being sent to another.
pub(super) struct Decoder {
    base: *const u8,
    at: usize,
    head_len: usize,
    len: usize,
    /// Where the next segment starts.
    segment_at: usize,
    pub(super) small_ints: &'static SmallInts,
    /// Shared objects by offset of their tag, ascending; none: not whole yet.
    shared: Vec<(usize, Option<Owned>)>,
    /// Whether code of anybody's may run while the message is read, and see what was made so far.
    pub(super) open: bool,
    /// Values that are read before they are put anywhere.
    #[cfg(not(Py_LIMITED_API))]
    pub(super) stack: Vec<Owned>,
    #[cfg(not(Py_LIMITED_API))]
    pub(super) shapes: Vec<super::build::Shape>,
    /// What keeps large buffers; none: they are copied out.
    #[cfg(not(Py_LIMITED_API))]
    pub(super) owner: Option<crate::buffer::Owner>,
}

/// Small ints one after the other.
#[cfg(not(Py_LIMITED_API))]
pub(super) struct SmallRun {
    word: u64,
    len: usize,
}

#[cfg(not(Py_LIMITED_API))]
impl Iterator for SmallRun {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        self.len = self.len.checked_sub(1)?;
        let value = self.word as u8;
        self.word >>= 8;
        Some(value)
    }
}

impl Decoder {
    /// # Safety
    ///
    /// `incoming` tells the truth, and its memory stays as long as this lives.
    pub(super) unsafe fn new(py: Python<'_>, incoming: &Incoming) -> Result<Self, Fault> {
        if incoming.head_len > incoming.len {
            return Err(Fault::Length);
        }
        Ok(Self {
            base: incoming.ptr,
            at: 0,
            head_len: incoming.head_len,
            len: incoming.len,
            segment_at: incoming.head_len,
            small_ints: SmallInts::get(py),
            shared: Vec::new(),
            open: false,
            #[cfg(not(Py_LIMITED_API))]
            stack: Vec::new(),
            #[cfg(not(Py_LIMITED_API))]
            shapes: Vec::new(),
            #[cfg(not(Py_LIMITED_API))]
            owner: None,
        })
    }

    /// The message may call anybody's code, and views of it may be kept by `incoming`'s owner.
    #[cfg(not(Py_LIMITED_API))]
    pub(super) fn open(&mut self, incoming: &Incoming) {
        self.open = true;
        if self.len - self.head_len >= super::incoming::COPY_ALL {
            self.owner = incoming.owner.clone();
        }
    }

    /// Where the byte stands that was read last.
    #[inline]
    pub(super) fn last(&self) -> usize {
        self.at - 1
    }

    #[inline]
    pub(super) fn left(&self) -> usize {
        self.head_len - self.at
    }

    /// The address of the next `len` bytes, which are behind us afterwards.
    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<*const u8, Fault> {
        if len > self.left() {
            return Err(Fault::Short);
        }
        // SAFETY: `at + len` lies within the head, by the line above.
        let start = unsafe { self.base.add(self.at) };
        self.at += len;
        Ok(start)
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        let start = self.take(1)?;
        // SAFETY: one readable byte. Volatile: what is checked is what is used.
        Ok(unsafe { start.read_volatile() })
    }

    /// The next byte, still to be read: only good for choosing a way.
    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        // SAFETY: one more byte lies within the head.
        (self.left() > 0).then(|| unsafe { self.base.add(self.at).read_volatile() })
    }

    /// The next value, if it is a small int; it is behind us then.
    #[cfg(not(Py_LIMITED_API))]
    #[inline]
    pub(super) fn small_int(&mut self) -> Option<u8> {
        let value = self.peek().filter(|tag| *tag < 0x80)?;
        self.at += 1;
        Some(value)
    }

    /// The small ints that follow, eight at most and not more than `most`: they are behind us then.
    #[cfg(not(Py_LIMITED_API))]
    #[inline]
    pub(super) fn next_small_ints(&mut self, most: usize) -> SmallRun {
        if self.left() < 8 {
            return SmallRun { word: 0, len: 0 };
        }
        // SAFETY: eight readable bytes, and no alignment is asked for.
        let word = u64::from_le(unsafe { self.base.add(self.at).cast::<u64>().read_unaligned() });
        let others = word & 0x8080_8080_8080_8080;
        let len = (others.trailing_zeros() as usize / 8).min(most);
        self.at += len;
        SmallRun { word, len }
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let start = self.take(N)?;
        // SAFETY: `N` readable bytes, and arrays of bytes have no alignment.
        Ok(unsafe { start.cast::<[u8; N]>().read() })
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<usize, Fault> {
        let first = self.byte()?;
        if first < 0x80 { Ok(usize::from(first)) } else { self.long_varint(first) }
    }

    #[cold]
    fn long_varint(&mut self, first: u8) -> Result<usize, Fault> {
        let mut value = usize::from(first & 0x7F);
        let mut shift = 7;
        loop {
            let byte = self.byte()?;
            let bits = usize::from(byte & 0x7F);
            if shift >= usize::BITS || (bits << shift) >> shift != bits {
                return Err(Fault::Length);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
            shift += 7;
        }
    }

    /// A number of values to come, `owed` more being due to the containers
    /// around. Each takes a byte at least, so the sum of all promises is bounded
    /// by the message and so is what is allocated for them.
    #[inline]
    pub(super) fn count(&mut self, owed: usize, values_each: usize) -> Result<usize, Fault> {
        let count = self.varint()?;
        let room = self.left().saturating_sub(owed);
        if count > room / values_each { Err(Fault::Length) } else { Ok(count) }
    }

    /// The next segment, if it has `len` bytes.
    pub(super) fn segment(&mut self, len: usize) -> Result<*mut u8, Fault> {
        let start = format::align(self.segment_at).ok_or(Fault::Segment)?;
        let end = start.checked_add(len).ok_or(Fault::Segment)?;
        if end > self.len {
            return Err(Fault::Segment);
        }
        self.segment_at = end;
        // SAFETY: within the message, by the check above.
        Ok(unsafe { self.base.add(start) }.cast_mut())
    }

    /// The rest of the head.
    pub(super) fn rest(&mut self) -> (*mut u8, usize) {
        let len = self.left();
        // SAFETY: `at` lies within the head.
        (unsafe { self.base.add(self.at) }.cast_mut(), len)
    }

    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.left() == 0 { Ok(()) } else { Err(Fault::Trailing) }
    }

    #[inline]
    pub(super) fn remember(&mut self, tag: u8, offset: usize, object: &Owned) {
        if tag & SHARED != 0 {
            // SAFETY: attached; the object lives.
            let object = unsafe { Owned::borrow(object.as_ptr()) };
            self.shared.push((offset, Some(object)));
        }
    }

    /// Room for an object that nobody may refer to before it is whole.
    #[inline]
    pub(super) fn announce(&mut self, tag: u8, offset: usize) -> Option<usize> {
        (tag & SHARED != 0).then(|| {
            self.shared.push((offset, None));
            self.shared.len() - 1
        })
    }

    #[inline]
    pub(super) fn fulfil(&mut self, place: Option<usize>, object: &Owned) {
        if let Some(place) = place {
            // SAFETY: attached; the object lives.
            self.shared[place].1 = Some(unsafe { Owned::borrow(object.as_ptr()) });
        }
    }

    pub(super) fn referred(&self, offset: usize) -> Result<Owned, Fault> {
        let place = self.shared.binary_search_by_key(&offset, |entry| entry.0).map_err(|_| Fault::Reference)?;
        let object = self.shared[place].1.as_ref().ok_or(Fault::Reference)?;
        // SAFETY: attached; the list of shared objects keeps it alive.
        Ok(unsafe { Owned::borrow(object.as_ptr()) })
    }

    /// One value.
    #[inline]
    pub(super) fn value(&mut self, depth: u32, owed: usize) -> Result<Owned, Fault> {
        let tag = self.byte()?;
        if tag < 0x80 { Ok(self.small_ints.make(tag)) } else { self.tagged(tag, depth, owed) }
    }

    /// The value whose tag was just read.
    pub(super) fn tagged(&mut self, tag: u8, depth: u32, owed: usize) -> Result<Owned, Fault> {
        let offset = self.last();
        // SAFETY: attached; singletons live for ever.
        let single = |object: *mut PyObject| Ok(unsafe { Owned::borrow(object) });
        match tag {
            // SAFETY: as above.
            tag::NONE => return single(unsafe { ffi::Py_None() }),
            // SAFETY: as above.
            tag::FALSE => return single(unsafe { ffi::Py_False() }),
            // SAFETY: as above.
            tag::TRUE => return single(unsafe { ffi::Py_True() }),
            tag::INT_1 => {
                let value = i8::from_le_bytes(self.array()?);
                return int(i64::from(value));
            }
            tag::INT_2 => {
                let value = i16::from_le_bytes(self.array()?);
                return int(i64::from(value));
            }
            tag::INT_4 => {
                let value = i32::from_le_bytes(self.array()?);
                return int(i64::from(value));
            }
            tag::INT_8 => return int(i64::from_le_bytes(self.array()?)),
            tag::INT_BIG => return self.big_int(),
            tag::FLOAT => {
                let value = f64::from_le_bytes(self.array()?);
                // SAFETY: attached.
                return new(unsafe { ffi::PyFloat_FromDouble(value) });
            }
            tag::REF => {
                let offset = self.varint()?;
                return self.referred(offset);
            }
            // SAFETY: attached.
            tag::EMPTY_TUPLE => return new(unsafe { ffi::PyTuple_New(0) }),
            #[cfg(not(Py_LIMITED_API))]
            _ if self.open => return self.tagged_open(tag, offset, depth, owed),
            _ => {}
        }
        match tag & !SHARED {
            tag::LIST => self.list(tag, offset, depth, owed),
            tag::TUPLE => self.tuple(tag, offset, depth, owed),
            tag::DICT => self.dict(tag, offset, depth, owed),
            tag::SET => self.set(tag, offset, depth, owed),
            tag::FROZENSET => self.frozenset(tag, offset, depth, owed),
            _ => self.leaf(tag, offset),
        }
    }

    fn list(&mut self, tag: u8, offset: usize, depth: u32, owed: usize) -> Result<Owned, Fault> {
        let len = self.count(owed, 1)?;
        self.list_of(len, tag, offset, depth, owed)
    }

    pub(super) fn list_of(
        &mut self,
        len: usize,
        tag: u8,
        offset: usize,
        depth: u32,
        owed: usize,
    ) -> Result<Owned, Fault> {
        let depth = deeper(depth)?;
        // SAFETY: attached; the length is bounded by the message.
        let list = new(unsafe { ffi::PyList_New(len as Py_ssize_t) })?;
        self.remember(tag, offset, &list);
        for index in 0..len {
            let item = self.value(depth, owed + (len - index - 1))?;
            // SAFETY: a new list of `len` places, and this one is empty.
            unsafe { access::list_fill(list.as_ptr(), index, item) };
        }
        Ok(list)
    }

    fn tuple(&mut self, tag: u8, offset: usize, depth: u32, owed: usize) -> Result<Owned, Fault> {
        let len = self.count(owed, 1)?;
        self.tuple_of(len, tag, offset, depth, owed)
    }

    pub(super) fn tuple_of(
        &mut self,
        len: usize,
        tag: u8,
        offset: usize,
        depth: u32,
        owed: usize,
    ) -> Result<Owned, Fault> {
        let depth = deeper(depth)?;
        if len == 0 {
            return Err(Fault::Length);
        }
        let place = self.announce(tag, offset);
        // SAFETY: attached; the length is bounded by the message.
        let tuple = new(unsafe { ffi::PyTuple_New(len as Py_ssize_t) })?;
        for index in 0..len {
            let item = self.value(depth, owed + (len - index - 1))?;
            // SAFETY: a new tuple of `len` places that nobody else has.
            unsafe { access::tuple_fill(tuple.as_ptr(), index, item) };
        }
        self.fulfil(place, &tuple);
        Ok(tuple)
    }

    fn dict(&mut self, tag: u8, offset: usize, depth: u32, owed: usize) -> Result<Owned, Fault> {
        let depth = deeper(depth)?;
        let len = self.count(owed, 2)?;
        // SAFETY: attached.
        let dict = new(unsafe { ffi::PyDict_New() })?;
        self.remember(tag, offset, &dict);
        for index in 0..len {
            let owed = owed + 2 * (len - index - 1);
            let key = self.value(depth, owed + 1)?;
            let value = self.value(depth, owed)?;
            // SAFETY: live objects. Keys are built-in: hashing runs no Python code.
            let status = unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), value.as_ptr()) };
            if status != 0 {
                return Err(unhashable());
            }
        }
        Ok(dict)
    }

    fn set(&mut self, tag: u8, offset: usize, depth: u32, owed: usize) -> Result<Owned, Fault> {
        // SAFETY: attached.
        let set = new(unsafe { ffi::PySet_New(std::ptr::null_mut()) })?;
        // No element contains its set, so whether it is remembered before or
        // after the elements only matters to a corrupt message.
        self.remember(tag, offset, &set);
        self.elements(&set, depth, owed)?;
        Ok(set)
    }

    fn frozenset(&mut self, tag: u8, offset: usize, depth: u32, owed: usize) -> Result<Owned, Fault> {
        let place = self.announce(tag, offset);
        // SAFETY: attached.
        let set = new(unsafe { ffi::PyFrozenSet_New(std::ptr::null_mut()) })?;
        self.elements(&set, depth, owed)?;
        self.fulfil(place, &set);
        Ok(set)
    }

    fn elements(&mut self, set: &Owned, depth: u32, owed: usize) -> Result<(), Fault> {
        let depth = deeper(depth)?;
        let len = self.count(owed, 1)?;
        for index in 0..len {
            let item = self.value(depth, owed + (len - index - 1))?;
            // SAFETY: live objects, and a frozenset here is still ours alone.
            // Elements are built-in: hashing runs no Python code.
            let status = unsafe { ffi::PySet_Add(set.as_ptr(), item.as_ptr()) };
            if status != 0 {
                return Err(unhashable());
            }
        }
        Ok(())
    }
}

#[inline]
pub(super) fn new(object: *mut PyObject) -> Result<Owned, Fault> {
    // SAFETY: every caller passes what a C function returned as a new reference.
    unsafe { Owned::new(object) }.ok_or(Fault::Raised)
}

#[inline]
fn int(value: i64) -> Result<Owned, Fault> {
    // SAFETY: attached.
    new(unsafe { ffi::PyLong_FromLongLong(value) })
}

#[inline]
pub(super) fn deeper(depth: u32) -> Result<u32, Fault> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(Fault::Depth) }
}

#[cold]
fn unhashable() -> Fault {
    // SAFETY: attached.
    unsafe {
        if ffi::PyErr_ExceptionMatches(ffi::PyExc_TypeError) == 0 {
            return Fault::Raised;
        }
        ffi::PyErr_Clear();
    }
    Fault::Key
}
