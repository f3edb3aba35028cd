//! A lazy map: input is consumed as results are taken, within a window.
//!
//! An iterator that cannot block (over a list, a range) is pulled by whoever takes
//! results. Any other is pulled by a thread of its own: it may wait for
//! something that only happens when results are taken, and pulling it from the
//! same thread would never end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use manycore_engine::pool::{Function, Job, Keeping, Room};
use manycore_engine::sync::{AtomicU32, Ordering, full_fence};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList};

use crate::codec::{Scratch, What};
use crate::core::{Core, lock, name_of};
use crate::imap::IMapIterator;
use crate::options::Wishes;
use crate::parts::{Heard, Lists, Part, Parts};
use crate::worker::mode;
use crate::{gate, hooks, journey};

/// A feeding thread looks this often whether the pool has ended.
pub(crate) const LOOK_AROUND: Duration = Duration::from_millis(50);

/// The half of a lazy map that submits; outlives the iterator.
pub(crate) struct Lazy {
    pub(crate) job: Job,
    function: Py<PyAny>,
    pub(crate) chunksize: usize,
    pub(crate) threaded: bool,
    pub(crate) wishes: Arc<Wishes>,
    pub(crate) input: Mutex<Input>,
    /// What chunks may be needed again for.
    pub(crate) lists: Lists,
    /// Chunks submitted whose results were not taken yet.
    pub(crate) open: Mutex<usize>,
    window: Mutex<usize>,
    /// A result was taken, or the window has changed.
    pub(crate) moved: gate::Changes,
    /// 1 once nothing more will be submitted.
    dry: AtomicU32,
    /// 1 while a thread feeds: the consumer and the keeper may come at once.
    feeding: AtomicU32,
    /// 1 when another came meanwhile; the one who feeds looks again for it.
    missed: AtomicU32,
    /// 1 once the map was cancelled.
    cancelled: AtomicU32,
}

/// The right to feed one lazy map.
struct Turn<'a>(&'a Lazy);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.feeding.store(0, Ordering::Release);
    }
}

pub(crate) struct Input {
    /// Gone when exhausted, and while a thread pulls from it.
    source: Option<Py<PyIterator>>,
    placed: Option<Arc<Function>>,
    /// Pulled and not submitted for lack of room.
    chunk: Option<Py<PyList>>,
    pub(crate) submitted: u64,
    /// Chunks that could not be sent, and why.
    pub(crate) unsent: Vec<(u64, PyErr)>,
    /// What ended the input before its time.
    pub(crate) failure: Option<PyErr>,
    aborted: bool,
}

enum Fed {
    /// A chunk was submitted.
    One,
    /// The window is full, or there is no room.
    Later,
    /// There is no more input.
    Never,
}

impl Lazy {
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        if let Ok(input) = self.input.try_lock() {
            visit.call(&input.source)?;
            visit.call(&input.chunk)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        core: &Core,
        function: &Bound<'_, PyAny>,
        source: &Bound<'_, PyAny>,
        chunksize: usize,
        window: usize,
        threaded: bool,
        wishes: Arc<Wishes>,
    ) -> PyResult<Lazy> {
        Ok(Lazy {
            job: core.pool().open_job(wishes.for_engine(false, false)),
            function: function.clone().unbind(),
            chunksize: chunksize.max(1),
            threaded,
            lists: Lists::default(),
            wishes,
            input: Mutex::new(Input {
                // A feeding thread has the iterator to itself.
                source: if threaded { None } else { Some(source.try_iter()?.unbind()) },
                placed: None,
                chunk: None,
                submitted: 0,
                unsent: Vec::new(),
                failure: None,
                aborted: false,
            }),
            open: Mutex::new(0),
            window: Mutex::new(window.max(1)),
            moved: gate::Changes::default(),
            dry: AtomicU32::new(0),
            feeding: AtomicU32::new(0),
            missed: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
        })
    }

    pub(crate) fn open_window(&self) {
        *lock(&self.window) = usize::MAX;
        self.moved.announce();
    }

    pub(crate) fn is_dry(&self) -> bool {
        self.dry.load(Ordering::Acquire) != 0
    }

    fn window_is_full(&self) -> bool {
        *lock(&self.open) >= *lock(&self.window)
    }

    /// Submits what the window and the pool have room for, from an input that
    /// cannot block. True: nothing is left.
    pub(crate) fn feed(&self, py: Python<'_>, core: &Core) -> bool {
        while !self.threaded && !self.is_dry() {
            let Some(turn) = self.turn() else { break };
            let fed = self.feed_one(py, core);
            drop(turn);
            full_fence(); // Pairs with `turn`.
            match fed {
                Fed::One => {}
                Fed::Later if self.missed.swap(0, Ordering::Relaxed) != 0 => {}
                Fed::Later => break,
                Fed::Never => self.finish(core),
            }
        }
        self.is_dry()
    }

    /// The right to feed, unless another thread has it, which then looks once more
    /// before it leaves.
    fn turn(&self) -> Option<Turn<'_>> {
        let free = || self.feeding.swap(1, Ordering::Acquire) == 0;
        if free() {
            return Some(Turn(self));
        }
        self.missed.store(1, Ordering::Relaxed);
        full_fence(); // The other sees this, or we see that it has left.
        // Lazily: a turn that is made ends when it is dropped.
        free().then(|| Turn(self))
    }

    fn finish(&self, core: &Core) {
        self.dry.store(1, Ordering::Release);
        // Whoever awaits a result must see that none follows.
        Python::attach(|py| core.feeds.tell_watcher(py, self.job.key()));
        core.pool().nudge();
    }

    fn feed_one(&self, py: Python<'_>, core: &Core) -> Fed {
        if lock(&self.input).aborted {
            return Fed::Never;
        }
        if self.window_is_full() || !matches!(core.pool().room(self.wishes.priority), Ok(Room::Yes)) {
            return Fed::Later;
        }
        let (chunk, source) = {
            let mut input = lock(&self.input);
            (input.chunk.take(), input.source.take())
        };
        let pulled = match (chunk, &source) {
            (Some(chunk), _) => Ok(Some(chunk)),
            (None, Some(source)) => self.pull(py, source),
            // Another thread pulls at this moment.
            (None, None) => return Fed::Later,
        };
        let mut input = lock(&self.input);
        input.source = source;
        let chunk = match pulled {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Fed::Never,
            Err(error) => {
                input.failure = Some(error);
                return Fed::Never;
            }
        };
        let (index, placed) = (input.submitted, input.placed.clone());
        drop(input);
        // Before it can be taken, which counts it off.
        *lock(&self.open) += 1;
        let whole = Part { chunk: index, items: 0..chunk.bind(py).len() };
        if self.keeps_lists() {
            // Before it can be answered.
            self.lists.keep(py, index, &chunk);
        }
        let sent = hooks::whole(py, || self.send(py, core, &chunk, &whole, index, &placed));
        let mut input = lock(&self.input);
        match sent {
            Ok(true) => {
                input.submitted += 1;
                drop(input);
                Fed::One
            }
            Ok(false) => {
                *lock(&self.open) -= 1;
                input.chunk = Some(chunk);
                Fed::Later
            }
            Err(error) if core.pool().broken().is_some() => {
                *lock(&self.open) -= 1;
                input.failure = Some(error);
                Fed::Never
            }
            Err(error) => {
                // The others can be sent all the same.
                input.unsent.push((index, error));
                input.submitted += 1;
                drop(input);
                core.pool().nudge();
                Fed::One
            }
        }
    }

    fn pull(&self, py: Python<'_>, source: &Py<PyIterator>) -> PyResult<Option<Py<PyList>>> {
        let chunk = PyList::empty(py);
        let mut source = source.bind(py).clone();
        while chunk.len() < self.chunksize {
            match source.next() {
                Some(item) => chunk.append(item?)?,
                None => break,
            }
        }
        Ok((!chunk.is_empty()).then(|| chunk.unbind()))
    }

    fn send(
        &self,
        py: Python<'_>,
        core: &Core,
        chunk: &Py<PyList>,
        part: &Part,
        index: u64,
        placed: &Option<Arc<Function>>,
    ) -> PyResult<bool> {
        if core.pool().room(self.wishes.priority).map_err(gate::raise)? == Room::No {
            return Ok(false);
        }
        let function = match placed {
            Some(function) => Arc::clone(function),
            None => {
                let function = core.function(self.function.bind(py))?;
                lock(&self.input).placed = Some(Arc::clone(&function));
                function
            }
        };
        let chunk = chunk.bind(py);
        journey::submitting(py, core.file(), || {
            let mut encoder = Scratch::take();
            let first = (part.chunk as usize).saturating_mul(self.chunksize).saturating_add(part.items.start);
            encoder.encode_items(chunk, part.items.clone(), What::Items(first))?;
            let each = if self.wishes.is_each() { mode::EACH } else { 0 };
            let keeps = if part.items.len() > 1 { Keeping::All } else { Keeping::Nothing };
            core.send(py, &encoder, &self.job, index, (mode::MAP | each, keeps), &function, || self.task(py, index))
        })
    }

    /// Submits the parts of chunks that are run again. Gives the chunks that are answered because they cannot be sent.
    pub(crate) fn feed_parts(&self, py: Python<'_>, core: &Core, parts: &mut Parts) -> Vec<Heard> {
        let mut heard = Vec::new();
        while let Some((part, list)) = parts.next(py, &self.lists) {
            let (number, placed) = { (parts.number(), lock(&self.input).placed.clone()) };
            match core.run_again(py, || hooks::whole(py, || self.send(py, core, &list, &part, number, &placed))) {
                Ok(true) => parts.sent(part),
                Ok(false) => {
                    parts.put_back(part);
                    break;
                }
                Err(error) => {
                    let answered = parts.refused(py, &self.lists, &part, &error);
                    heard.push(answered);
                }
            }
        }
        heard
    }

    /// Nothing more is to be run.
    pub(crate) fn cancel(&self, core: &Core) -> PyResult<()> {
        self.cancelled.store(1, Ordering::Release);
        lock(&self.input).aborted = true;
        core.pool().cancel(self.job.key(), true).map_err(gate::raise)?;
        self.finish(core);
        self.moved.announce();
        Ok(())
    }

    /// Whether items are kept until they are answered.
    pub(crate) fn keeps_lists(&self) -> bool {
        Parts::needs_lists(&self.wishes, self.chunksize)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) != 0
    }

    /// How items of a chunk are named.
    pub(crate) fn name(&self, py: Python<'_>, part: &Part) -> String {
        let first = part.chunk * self.chunksize as u64 + part.items.start as u64;
        let name = name_of(self.function.bind(py));
        match part.items.len() {
            1 => format!("{name} on item {first}"),
            count => format!("{name} on items {first} to {}", first + count as u64 - 1),
        }
    }

    pub(crate) fn task(&self, py: Python<'_>, index: u64) -> String {
        let name = name_of(self.function.bind(py));
        if self.chunksize == 1 { format!("{name} on item {index}") } else { format!("{name} on chunk {index}") }
    }

    /// Submits a chunk that a feeding thread has pulled, when there is room for it.
    /// False: the pool has ended.
    fn offer(&self, py: Python<'_>, core: &Core, chunk: Py<PyList>) -> PyResult<bool> {
        lock(&self.input).chunk = Some(chunk);
        loop {
            let (seen, moved) = (core.pool().events(), self.moved.seen());
            if core.pool().broken().is_some() {
                lock(&self.input).aborted = true;
            }
            match self.feed_one(py, core) {
                Fed::One => return Ok(true),
                Fed::Never => {
                    let failure = lock(&self.input).failure.take();
                    self.end(py, core, failure.or_else(|| Some(core.closed_error(py, || self.task(py, 0)))))?;
                    return Ok(false);
                }
                Fed::Later if self.window_is_full() => self.moved.wait(py, moved, LOOK_AROUND),
                Fed::Later => core.wait(py, || core.pool().wait_for_event(seen, None))?,
            }
        }
    }

    /// The input of a feeding thread has ended, by `failure` if not by itself.
    fn end(&self, py: Python<'_>, core: &Core, failure: Option<PyErr>) -> PyResult<()> {
        let old = std::mem::replace(&mut lock(&self.input).failure, failure);
        drop(old);
        self.finish(core);
        core.pump(py)
    }
}

/// What a feeding thread works with; does not keep the iterator alive.
///
/// The thread's loop is Python's: while it waits in the input's own code, nothing
/// of ours is on its stack, so that the interpreter can end it at exit.
#[pyclass(frozen, module = "manycore._engine")]
pub(crate) struct Feeder {
    core: Py<Core>,
    lazy: Arc<Lazy>,
}

#[pymethods]
impl Feeder {
    /// The feeder of a threaded `iterator`.
    #[new]
    fn new(py: Python<'_>, iterator: &IMapIterator) -> Feeder {
        Feeder { core: iterator.core.clone_ref(py), lazy: Arc::clone(&iterator.lazy) }
    }

    /// Items of a chunk.
    #[getter]
    fn chunksize(&self) -> usize {
        self.lazy.chunksize
    }

    /// Submits the list `chunk`; waits for room. False: the pool has ended.
    fn offer(&self, py: Python<'_>, chunk: Py<PyList>) -> PyResult<bool> {
        let core = self.core.get();
        let Some(_inside) = core.feeders.enter() else { return Ok(false) };
        self.lazy.offer(py, core, chunk)
    }

    /// No chunk follows; `failure` is the exception that ended the input, if one did.
    #[pyo3(signature = (failure=None))]
    fn end(&self, py: Python<'_>, failure: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let core = self.core.get();
        let Some(_inside) = core.feeders.enter() else { return Ok(()) };
        self.lazy.end(py, core, failure.map(PyErr::from_value))
    }
}
