//! What a received message can be read as: a value, the items of a list one by
//! one, the arguments of a call.
//!
//! # Why this file is unsafe
//!
//! `Incoming` is where an address from the engine enters the codec, and
//! references that the decoder counted by hand leave it as safe objects.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use manycore_engine::pool::{Journal, Progress};
use manycore_engine::sync::{AtomicU32, Ordering};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi::{self, Py_ssize_t};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::Encoder;
use super::access::Owned;
use super::decode::{CollectorPaused, Decoder, Fault};
use super::format::{self, NATIVE, NATIVE_CALL, OPEN, OPEN_CALL, PICKLED, PICKLED_APART, tag};
use super::pickle;
#[cfg(not(Py_LIMITED_API))]
use super::recycle::Shells;
use crate::buffer::{Owner, View};

/// One received message.
///
/// Whoever makes one promises: `len` bytes at `ptr` can be read and written for as
/// long as `owner` lives (without an owner: as long as this lives), and are this
/// message's alone. What they say is not believed.
pub(crate) struct Incoming {
    pub(crate) ptr: *mut u8,
    /// How many of the bytes are the head.
    pub(crate) head_len: usize,
    pub(crate) len: usize,
    /// Without one, large buffers are copied out.
    pub(crate) owner: Option<Owner>,
}

/// The value of a message.
pub(crate) fn decode<'py>(py: Python<'py>, incoming: &Incoming) -> PyResult<Bound<'py, PyAny>> {
    let (mut decoder, kind) = open(py, incoming)?;
    match kind {
        NATIVE | OPEN => {
            let _paused = paused(py, incoming, kind);
            let value = decoder.value(0, 0).map_err(|fault| fault.into_error(py))?;
            decoder.finish().map_err(|fault| fault.into_error(py))?;
            Ok(bound(py, value))
        }
        PICKLED | PICKLED_APART => unpickle(py, incoming, decoder, kind),
        _ => Err(Fault::Tag.into_error(py)),
    }
}

/// The arguments of a call, ready for `f(*args, **kwargs)`.
pub(crate) fn decode_call<'py>(
    py: Python<'py>,
    incoming: &Incoming,
) -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>)> {
    let (mut decoder, kind) = open(py, incoming)?;
    let (args, kwargs) = match kind {
        NATIVE_CALL | OPEN_CALL => {
            let _paused = paused(py, incoming, kind);
            let mut next = |owed| decoder.value(0, owed).map(|value| bound(py, value));
            let args = next(1).map_err(|fault| fault.into_error(py))?;
            let kwargs = next(0).map_err(|fault| fault.into_error(py))?;
            decoder.finish().map_err(|fault| fault.into_error(py))?;
            (args, kwargs)
        }
        PICKLED | PICKLED_APART => unpickle(py, incoming, decoder, kind)?.extract()?,
        _ => return Err(Fault::Tag.into_error(py)),
    };
    let args = args.cast_into::<PyTuple>().map_err(|_| corrupt("arguments that are no tuple"))?;
    if kwargs.is_none() {
        return Ok((args, None));
    }
    let kwargs = kwargs.cast_into::<PyDict>().map_err(|_| corrupt("keywords that are no dict"))?;
    Ok((args, Some(kwargs)))
}

/// A list with `len` places for `decode_into`. Whoever makes one gives it to nobody before
/// every place is filled.
///
/// The places are empty, not None: to write a million Nones first is to wait for two
/// thousand new pages, while the workers have nothing to do yet.
pub(crate) fn blank(py: Python<'_>, len: usize) -> PyResult<Bound<'_, PyList>> {
    // SAFETY: attached; a new reference to a list, or none and an exception. Empty places
    // are what the interpreter itself leaves in a list that it is filling.
    unsafe {
        let list = ffi::PyList_New(len as Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, list).map(|list| list.cast_into_unchecked())
    }
}

/// A list message, straight into `list[start..start + n]`, places that `blank` left empty.
pub(crate) fn decode_into(
    py: Python<'_>,
    incoming: &Incoming,
    list: &Bound<'_, PyList>,
    start: usize,
    n: usize,
) -> PyResult<()> {
    let mut items = Stream::new(py, incoming)?;
    if items.len != n || start.checked_add(n).is_none_or(|end| end > list.len()) {
        return Err(corrupt("another number of items than asked for"));
    }
    let _paused = paused(py, incoming, if items.is_open() { OPEN } else { NATIVE });
    let mut index = start;
    loop {
        #[cfg(not(Py_LIMITED_API))]
        {
            index += items.fill(list, index);
        }
        let Some(item) = items.next(py) else { return Ok(()) };
        list.set_item(index, item?)?;
        index += 1;
    }
}

/// The items of a list message, decoded one at a time: the caller uses one and
/// drops it while its memory is still warm. Objects shared between items are
/// shared all the same. Must not outlive the message.
struct Stream {
    source: Source,
    len: usize,
    at: usize,
    /// What the next item may be decoded into.
    #[cfg(not(Py_LIMITED_API))]
    shells: Shells,
    /// Whether items are large enough for the collector to run inside of one.
    large: bool,
}

/// Bytes of an average item from which on pausing the collector pays: it looks
/// after 700 new containers, and to pause it for each row costs a tenth of the row.
const LARGE_ITEM: usize = 1024;

enum Source {
    Native(Decoder),
    Loaded(Py<PyList>),
}

impl Stream {
    fn new(py: Python<'_>, incoming: &Incoming) -> PyResult<Self> {
        let (mut decoder, kind) = open(py, incoming)?;
        let over = |source, len, large| Self {
            source,
            len,
            at: 0,
            #[cfg(not(Py_LIMITED_API))]
            shells: Shells::default(),
            large,
        };
        if kind == NATIVE || kind == OPEN {
            // A list that something in it refers to has another tag, and has to
            // exist before its items.
            let mut streamed = || -> Result<Option<usize>, Fault> {
                if decoder.peek() != Some(tag::LIST) {
                    return Ok(None);
                }
                decoder.byte()?;
                decoder.count(0, 1).map(Some)
            };
            if let Some(len) = streamed().map_err(|fault| fault.into_error(py))? {
                if len == 0 {
                    decoder.finish().map_err(|fault| fault.into_error(py))?;
                }
                let large = incoming.head_len / len.max(1) > LARGE_ITEM;
                return Ok(over(Source::Native(decoder), len, large));
            }
        }
        drop(decoder);
        let list = decode(py, incoming)?.cast_into::<PyList>().map_err(|_| corrupt("not a list"))?;
        let len = list.len();
        Ok(over(Source::Loaded(list.unbind()), len, false))
    }

    /// Whether code of anybody's may run while an item is read.
    fn is_open(&self) -> bool {
        matches!(&self.source, Source::Native(decoder) if decoder.open)
    }

    /// Puts the small ints that come next into empty places of `list` from `index` on; how many.
    /// The last item of all is left to `next`.
    #[cfg(not(Py_LIMITED_API))]
    #[inline]
    fn fill(&mut self, list: &Bound<'_, PyList>, index: usize) -> usize {
        let Source::Native(decoder) = &mut self.source else { return 0 };
        let (ints, mut filled) = (decoder.small_ints, 0);
        for value in decoder.next_small_ints((self.len - self.at).saturating_sub(1)) {
            // SAFETY: a list as `blank` makes it, and this place is empty.
            unsafe { super::access::list_fill(list.as_ptr(), index + filled, ints.make(value)) };
            filled += 1;
        }
        self.at += filled;
        filled
    }

    fn next<'py>(&mut self, py: Python<'py>) -> Option<PyResult<Bound<'py, PyAny>>> {
        if self.at == self.len {
            return None;
        }
        self.at += 1;
        match &mut self.source {
            Source::Loaded(list) => Some(list.bind(py).get_item(self.at - 1)),
            Source::Native(decoder) => {
                let owed = self.len - self.at;
                let _paused = if self.large && !decoder.open { CollectorPaused::while_native(py) } else { None };
                #[cfg(not(Py_LIMITED_API))]
                let mut item = if decoder.open { decoder.value(1, owed) } else { self.shells.next(decoder, owed) };
                #[cfg(Py_LIMITED_API)]
                let mut item = decoder.value(1, owed);
                if self.at == self.len && item.is_ok() {
                    item = decoder.finish().and(item);
                }
                Some(item.map(|item| bound(py, item)).map_err(|fault| {
                    self.at = self.len;
                    fault.into_error(py)
                }))
            }
        }
    }
}

/// A received list as a Python iterator, so that a loop written in Python can run
/// over it: the interpreter calls a function from there for a third of what a
/// call from here costs.
#[pyclass(frozen, module = "manycore._engine")]
pub(crate) struct Items {
    /// Whether an item is being read: reading may run the collector, and that any code.
    busy: AtomicU32,
    cursor: UnsafeCell<Cursor>,
}

/// What is noted while the items of a task are handed out, for the day the worker dies.
struct Notes {
    progress: Progress,
    journal: Option<Journal>,
    /// The list into which the loop puts the results.
    results: Option<Py<PyList>>,
    /// How many of them are in the journal.
    left: usize,
    /// Whether all of them go there, or only small ones of plain data.
    all: bool,
    encoder: Encoder,
}

struct Cursor {
    stream: Stream,
    notes: Option<Box<Notes>>,
    /// With a length: stop before an item that is not a tuple of so many.
    expected: Option<usize>,
    /// The item that was not.
    odd: Option<Py<PyAny>>,
    /// What the stream reads from.
    _incoming: Incoming,
}

// SAFETY: addresses are the same in every thread, and what holds the memory they lead
// to goes with them. Everything else is touched by an attached thread, and one at a
// time: see `enter`. PyO3's own guard for such classes asks for the thread's number at
// each item, a sixth of a short row.
unsafe impl Send for Items {}
// SAFETY: as above.
unsafe impl Sync for Items {}

impl Items {
    pub(crate) fn new(py: Python<'_>, incoming: Incoming) -> PyResult<Self> {
        let stream = Stream::new(py, &incoming)?;
        let cursor = Cursor { stream, notes: None, expected: None, odd: None, _incoming: incoming };
        Ok(Self { busy: AtomicU32::new(0), cursor: UnsafeCell::new(cursor) })
    }

    /// The items of a task. `notes` gives, where there are several: what is told of each item, the journal for what
    /// [`Items::keep`] names, and whether all results go there.
    pub(crate) fn watched(
        py: Python<'_>,
        incoming: Incoming,
        notes: impl FnOnce() -> PyResult<(Progress, Option<Journal>, bool)>,
    ) -> PyResult<Self> {
        let mut items = Items::new(py, incoming)?;
        let cursor = items.cursor.get_mut();
        if cursor.stream.len > 1 {
            let (progress, journal, all) = notes()?;
            let (results, left, encoder) = (None, 0, Encoder::new());
            cursor.notes = Some(Box::new(Notes { progress, journal, results, left, all, encoder }));
        }
        Ok(items)
    }

    /// The journal, once the task is over.
    pub(crate) fn take_journal(&self, py: Python<'_>) -> Option<Journal> {
        self.with(py, |cursor| cursor.notes.take()).ok()??.journal.take()
    }

    /// Runs `work` on the cursor, unless this is called from the midst of such work.
    #[inline]
    fn with<R>(&self, _py: Python<'_>, work: impl FnOnce(&mut Cursor) -> R) -> PyResult<R> {
        if !self.enter() {
            return Err(PyRuntimeError::new_err("the items of a message are being read already"));
        }
        // SAFETY: attached, and `enter` has let nobody else in.
        let result = work(unsafe { &mut *self.cursor.get() });
        self.busy.store(0, Ordering::Release);
        Ok(result)
    }

    /// Takes the flag. Where attached threads exclude each other, an exchange would
    /// only cost its twenty cycles.
    #[inline]
    fn enter(&self) -> bool {
        if cfg!(Py_GIL_DISABLED) {
            return self.busy.swap(1, Ordering::Acquire) == 0;
        }
        let free = self.busy.load(Ordering::Relaxed) == 0;
        self.busy.store(1, Ordering::Relaxed);
        free
    }
}

impl Notes {
    /// The item `number` is about to be handed out, so those before it are done.
    fn note(&mut self, py: Python<'_>, number: usize) {
        if let (Some(journal), Some(results)) = (&mut self.journal, &self.results) {
            let results = results.bind(py);
            while self.left < results.len().min(number) && !journal.is_stopped() {
                let encoded = results.get_item(self.left).and_then(|result| self.encoder.encode(&result));
                match encoded {
                    Ok(()) if !self.all && !self.encoder.is_small_and_plain() => journal.stop(),
                    Ok(()) => self.encoder.with_message(|message| journal.append(message)),
                    // It will not travel at the end of the task either, or only from there.
                    Err(_) => journal.stop(),
                }
                self.encoder.clear();
                self.left += 1;
            }
        }
        if number > 0 {
            self.progress.reach(number as u64);
        }
    }
}

impl Cursor {
    #[inline]
    fn next<'py>(&mut self, py: Python<'py>) -> Option<PyResult<Bound<'py, PyAny>>> {
        if let Some(notes) = &mut self.notes {
            notes.note(py, self.stream.at - usize::from(self.odd.is_some()));
        }
        let Some(expected) = self.expected else {
            let odd = self.odd.take().map(|odd| Ok(odd.into_bound(py)));
            return odd.or_else(|| self.stream.next(py));
        };
        if self.odd.is_some() {
            return None;
        }
        let item = self.stream.next(py)?;
        let alike = |item: &Bound<'_, PyAny>| item.cast_exact::<PyTuple>().is_ok_and(|tuple| tuple.len() == expected);
        if item.as_ref().is_ok_and(|item| !alike(item)) {
            self.odd = item.ok().map(Bound::unbind);
            return None;
        }
        Some(item)
    }
}

#[pymethods]
impl Items {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.with(py, |cursor| cursor.next(py))?.transpose()
    }

    /// What is put into the list `results` is left where it is found if this worker dies: a result for each item, put
    /// there before the next item is asked for.
    fn keep(&self, py: Python<'_>, results: Bound<'_, PyList>) -> PyResult<()> {
        self.with(py, |cursor| {
            if let Some(notes) = &mut cursor.notes {
                notes.results = Some(results.unbind());
            }
        })
    }

    /// Stop before an item that is not a tuple of `length`; None: go on, with it.
    fn expect(&self, py: Python<'_>, length: Option<usize>) -> PyResult<()> {
        self.with(py, |cursor| cursor.expected = length)
    }
}

fn open(py: Python<'_>, incoming: &Incoming) -> PyResult<(Decoder, u8)> {
    // SAFETY: `Incoming` promises its memory, and no decoder outlives the borrow.
    let decoder = unsafe { Decoder::new(py, incoming) };
    decoder
        .and_then(|mut decoder| {
            let kind = decoder.byte()?;
            #[cfg(not(Py_LIMITED_API))]
            if kind == OPEN || kind == OPEN_CALL {
                decoder.open(incoming);
            }
            Ok((decoder, kind))
        })
        .map_err(|fault| fault.into_error(py))
}

/// Pauses the collector where it would be in the way: in a native message before 3.12, in a large one that runs code.
#[inline]
fn paused(py: Python<'_>, incoming: &Incoming, kind: u8) -> Option<CollectorPaused> {
    if kind == NATIVE || kind == NATIVE_CALL {
        return CollectorPaused::while_native(py);
    }
    (incoming.head_len >= format::APART).then(|| CollectorPaused::new(py))
}

#[inline]
fn bound(py: Python<'_>, object: Owned) -> Bound<'_, PyAny> {
    // SAFETY: a reference of ours, handed over.
    unsafe { Bound::from_owned_ptr(py, object.into_ptr()) }
}

#[cold]
fn corrupt(what: &str) -> PyErr {
    PyValueError::new_err(format!("corrupt message: {what}"))
}

/// Segments that together have fewer bytes are copied out, so that the block goes
/// back at once instead of being held by a few small arrays.
pub(super) const COPY_ALL: usize = 64 * 1024;
/// A view of fewer bytes costs more than their copy.
pub(super) const COPY_ONE: usize = 2 * 1024;

fn unpickle<'py>(py: Python<'py>, incoming: &Incoming, mut decoder: Decoder, kind: u8) -> PyResult<Bound<'py, PyAny>> {
    let mut layout = || -> Result<_, Fault> {
        let count = decoder.count(0, 1)?;
        let mut pieces = Vec::with_capacity(count);
        for _ in 0..count {
            let len = decoder.varint()?;
            pieces.push((decoder.segment(len)?, len));
        }
        let stream = match kind {
            PICKLED => decoder.rest(),
            _ if pieces.is_empty() => return Err(Fault::Segment),
            _ => pieces.remove(0),
        };
        Ok((stream, pieces))
    };
    let (stream, pieces) = layout().map_err(|fault| fault.into_error(py))?;
    let mut buffers = None;
    if !pieces.is_empty() {
        let total: usize = pieces.iter().map(|(_, len)| len).sum();
        let list = PyList::empty(py);
        for (ptr, len) in pieces {
            let owner = incoming.owner.as_ref().filter(|_| total >= COPY_ALL && len >= COPY_ONE);
            // SAFETY: the piece lies within the message, which is readable, and
            // writable and ours alone as long as the owner lives.
            let buffer = unsafe {
                let object = match owner {
                    None => ffi::PyByteArray_FromStringAndSize(ptr.cast(), len as Py_ssize_t),
                    Some(owner) => {
                        let view = Bound::new(py, View::new(ptr, len, owner.clone()))?;
                        ffi::PyMemoryView_FromObject(view.as_ptr())
                    }
                };
                Bound::from_owned_ptr_or_err(py, object)?
            };
            list.append(buffer)?;
        }
        buffers = Some(list);
    }
    // Small pickles are not worth the collector's notice.
    let _paused = (stream.1 >= format::APART).then(|| CollectorPaused::new(py));
    // SAFETY: the stream lies within the message, which outlives this call.
    unsafe { pickle::load(py, stream.0, stream.1, buffers) }
}
