//! A lazy map: input is consumed as results are taken, within a window.
//!
//! An iterator that cannot block (over a list, a range) is pulled by whoever takes
//! results. Any other is pulled by a thread of its own: it may wait for
//! something that only happens when results are taken, and pulling it from the
//! same thread would never end.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use manycore_engine::pool::{Answer, Function, Job, Room};
use manycore_engine::sync::{AtomicU32, Ordering, full_fence};
use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList};

use crate::codec::Scratch;
use crate::core::{Core, lock, name_of};
use crate::feed::Feed;
use crate::result::value_of;
use crate::worker::mode;
use crate::{gate, hooks};

/// A feeding thread looks this often whether the pool has ended.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// The half of a lazy map that submits; outlives the iterator.
pub(crate) struct Lazy {
    job: Job,
    function: Py<PyAny>,
    chunksize: usize,
    threaded: bool,
    input: Mutex<Input>,
    /// Chunks submitted whose results were not taken yet.
    open: Mutex<usize>,
    window: Mutex<usize>,
    /// A result was taken, or the window has changed.
    moved: Condvar,
    /// 1 once nothing more will be submitted.
    dry: AtomicU32,
    /// 1 while a thread feeds: the consumer and the keeper may come at once.
    feeding: AtomicU32,
    /// 1 when another came meanwhile; the one who feeds looks again for it.
    missed: AtomicU32,
}

/// The right to feed one lazy map.
struct Turn<'a>(&'a Lazy);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.feeding.store(0, Ordering::Release);
    }
}

struct Input {
    /// Gone when exhausted, and while a thread pulls from it.
    source: Option<Py<PyIterator>>,
    placed: Option<Arc<Function>>,
    /// Pulled and not submitted for lack of room.
    chunk: Option<Py<PyList>>,
    submitted: u64,
    /// Chunks that could not be sent, and why.
    unsent: Vec<(u64, PyErr)>,
    /// What ended the input before its time.
    failure: Option<PyErr>,
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
    pub(crate) fn open_window(&self) {
        *lock(&self.window) = usize::MAX;
        self.moved.notify_all();
    }

    fn is_dry(&self) -> bool {
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
        core.pool().nudge();
    }

    fn feed_one(&self, py: Python<'_>, core: &Core) -> Fed {
        if lock(&self.input).aborted {
            return Fed::Never;
        }
        if self.window_is_full() || !matches!(core.pool().room(), Ok(Room::Yes)) {
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
        let sent = hooks::whole(py, || self.send(py, core, &chunk, index, &placed));
        let mut input = lock(&self.input);
        match sent {
            Ok(true) => {
                input.submitted += 1;
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
        index: u64,
        placed: &Option<Arc<Function>>,
    ) -> PyResult<bool> {
        if core.pool().room().map_err(gate::raise)? == Room::No {
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
        let mut encoder = Scratch::take();
        encoder.encode_items(chunk, 0, chunk.len())?;
        core.send(py, &encoder, &self.job, index, mode::MAP, &function, || self.task(py, index))
    }

    fn task(&self, py: Python<'_>, index: u64) -> String {
        let name = name_of(self.function.bind(py));
        if self.chunksize == 1 { format!("{name} on item {index}") } else { format!("{name} on chunk {index}") }
    }

    /// Submits a chunk that a feeding thread has pulled, when there is room for it.
    /// False: the pool has ended.
    fn offer(&self, py: Python<'_>, core: &Core, chunk: Py<PyList>) -> PyResult<bool> {
        lock(&self.input).chunk = Some(chunk);
        loop {
            let seen = core.pool().events();
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
                Fed::Later if self.window_is_full() => py.detach(|| {
                    let open = lock(&self.open);
                    let waited = self.moved.wait_timeout(open, LOOK_AROUND);
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                }),
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

/// The iterator that `Pool.imap` and `Pool.imap_unordered` return.
#[pyclass(frozen, weakref, module = "manycore.pool")]
pub(crate) struct IMapIterator {
    core: Py<Core>,
    /// The pool, which must live as long as somebody may take results.
    _owner: Py<PyAny>,
    lazy: Arc<Lazy>,
    ordered: bool,
    /// Taken out by the thread that takes a result; others wait for it.
    taken: Mutex<Option<Taken>>,
    put_back: Condvar,
}

/// An answered chunk, or why it could not be asked.
type Arrived = Result<Answer, PyErr>;

#[derive(Default)]
struct Taken {
    /// Chunks that arrived before their turn.
    early: HashMap<u64, Arrived>,
    ready: VecDeque<Arrived>,
    next: u64,
    /// Items of the chunk in hand, last first.
    items: Vec<Py<PyAny>>,
    over: bool,
}

impl Drop for IMapIterator {
    fn drop(&mut self) {
        // Nobody will take results, and the standard package runs the rest all the
        // same: programs start a lazy map for what its tasks do.
        self.lazy.open_window();
    }
}

impl IMapIterator {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn start(
        core: &Bound<'_, Core>,
        owner: Py<PyAny>,
        function: &Bound<'_, PyAny>,
        source: &Bound<'_, PyAny>,
        ordered: bool,
        chunksize: usize,
        window: usize,
        threaded: bool,
    ) -> PyResult<Py<IMapIterator>> {
        let py = core.py();
        let lazy = Arc::new(Lazy {
            job: core.get().pool().open_job(false),
            function: function.clone().unbind(),
            chunksize: chunksize.max(1),
            threaded,
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
            moved: Condvar::new(),
            dry: AtomicU32::new(0),
            feeding: AtomicU32::new(0),
            missed: AtomicU32::new(0),
        });
        if !lazy.feed(py, core.get()) {
            core.get().feeds.add(Feed::Lazy(Arc::clone(&lazy)));
            core.get().call_keeper();
        }
        let taken = Mutex::new(Some(Taken::default()));
        let (core, put_back) = (core.clone().unbind(), Condvar::new());
        Py::new(py, IMapIterator { core, _owner: owner, lazy, ordered, taken, put_back })
    }

    /// The next chunk's answer, if it has arrived.
    fn arrived(&self, taken: &mut Taken) -> Option<Arrived> {
        let mut outcomes = VecDeque::new();
        self.lazy.job.take(&mut outcomes);
        let unsent = std::mem::take(&mut lock(&self.lazy.input).unsent);
        let arrived = outcomes
            .into_iter()
            .map(|outcome| (outcome.index, Ok(outcome.answer)))
            .chain(unsent.into_iter().map(|(index, error)| (index, Err(error))));
        if !self.ordered {
            taken.ready.extend(arrived.map(|(_, answer)| answer));
            return taken.ready.pop_front();
        }
        taken.early.extend(arrived);
        taken.early.remove(&taken.next)
    }

    /// Opens the next chunk's answer. If that is an exception, and Ctrl-C is on its
    /// way, the latter comes first, as it may be the reason; the answer stays.
    fn open(&self, py: Python<'_>, answer: Arrived, taken: &mut Taken) -> PyResult<()> {
        let index = taken.next;
        let value = answer
            .and_then(|answer| value_of(py, answer, || self.lazy.task(py, index)))
            .and_then(|value| value.cast_into::<PyList>().map_err(|_| hooks::bug("a chunk that is no list")));
        if let Err(error) = &value
            && let Err(interrupt) = py.check_signals()
        {
            let failed = Err(error.clone_ref(py));
            if self.ordered {
                taken.early.insert(index, failed);
            } else {
                taken.ready.push_front(failed);
            }
            return Err(interrupt);
        }
        taken.next += 1;
        {
            let mut open = lock(&self.lazy.open);
            *open = open.saturating_sub(1);
        }
        if self.lazy.threaded {
            self.lazy.moved.notify_all();
        }
        match value {
            Ok(list) => {
                taken.items = list.iter().rev().map(Bound::unbind).collect();
                Ok(())
            }
            Err(error) => {
                // As in the standard package: with single items the next one follows,
                // a chunk that failed ends the iteration.
                taken.over = self.lazy.chunksize > 1;
                Err(error)
            }
        }
    }

    fn take(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let core = self.core.get();
        core.check_ours()?;
        let until = gate::deadline(timeout)?;
        loop {
            let seen = core.pool().events();
            let mut taken = self.take_turn(py)?;
            let ended = core.pool().broken().is_some() && self.lazy.job.owed() == 0;
            let mut next = self.step(py, core, &mut taken);
            if ended && matches!(next, Ok(None)) && !taken.over {
                // The input may never end, if it waits for something; the pool has.
                taken.over = true;
                next = Err(core.closed_error(py, || self.lazy.task(py, taken.next)));
            }
            let over = taken.over;
            *lock(&self.taken) = Some(taken);
            self.put_back.notify_one();
            if let Some(item) = next? {
                return Ok(item);
            }
            if over {
                return Err(PyStopIteration::new_err(()));
            }
            // A threaded input ends, and an ordered result comes, by an event; while
            // something of ours is owed, the events of others need not wake us.
            let job = self.lazy.job.key();
            if self.lazy.job.owed() > 0 && !self.lazy.threaded {
                core.wait(py, || core.pool().wait_for(job, until))?;
            } else {
                core.wait(py, || core.pool().wait_for_event(seen, until))?;
            }
        }
    }

    /// What was taken so far, when no other thread has it in hand.
    fn take_turn(&self, py: Python<'_>) -> PyResult<Taken> {
        loop {
            if let Some(taken) = lock(&self.taken).take() {
                return Ok(taken);
            }
            py.detach(|| {
                let place = lock(&self.taken);
                if place.is_none() {
                    let waited = self.put_back.wait_timeout(place, LOOK_AROUND);
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                }
            });
            py.check_signals()?;
        }
    }

    /// The next item, if it is there; `over` in `taken` says that none will come.
    fn step(&self, py: Python<'_>, core: &Core, taken: &mut Taken) -> PyResult<Option<Py<PyAny>>> {
        loop {
            if let Some(item) = taken.items.pop() {
                return Ok(Some(item));
            }
            if taken.over {
                return Ok(None);
            }
            // Read before what has arrived: a dry input submits nothing after this.
            let dry = self.lazy.is_dry();
            if let Some(answer) = self.arrived(taken) {
                self.open(py, answer, taken)?;
                if !self.lazy.threaded {
                    self.lazy.feed(py, core);
                }
                continue;
            }
            if dry {
                let mut input = lock(&self.lazy.input);
                if taken.next >= input.submitted {
                    taken.over = true;
                    return input.failure.take().map_or(Ok(None), Err);
                }
                return Ok(None);
            }
            if self.lazy.threaded || !self.lazy.feed(py, core) {
                return Ok(None);
            }
        }
    }
}

#[pymethods]
impl IMapIterator {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.take(py, None)
    }

    /// Returns the next result; waits for it, for `timeout` seconds at the longest
    /// (then: TimeoutError). StopIteration when there is none.
    #[pyo3(signature = (timeout=None))]
    fn next(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        self.take(py, timeout)
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
        let Some(_inside) = core.enter_feeder() else { return Ok(false) };
        self.lazy.offer(py, core, chunk)
    }

    /// No chunk follows; `failure` is the exception that ended the input, if one did.
    #[pyo3(signature = (failure=None))]
    fn end(&self, py: Python<'_>, failure: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let core = self.core.get();
        let Some(_inside) = core.enter_feeder() else { return Ok(()) };
        self.lazy.end(py, core, failure.map(PyErr::from_value))
    }
}
