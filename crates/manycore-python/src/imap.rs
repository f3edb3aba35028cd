//! The results of a lazy map, as they are taken.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use manycore_engine::pool::Answer;
use pyo3::exceptions::PyStopIteration;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::answers::{Each, value_of};
use crate::core::{Core, lock};
use crate::feed::Feed;
use crate::lazy::{LOOK_AROUND, Lazy};
use crate::options::Wishes;
use crate::parts::{Heard, Parts};
use crate::{gate, hooks};

/// The iterator that `Pool.imap` and `Pool.imap_unordered` return.
#[pyclass(frozen, weakref, module = "manycore.pool")]
pub(crate) struct IMapIterator {
    pub(crate) core: Py<Core>,
    /// The pool, which must live as long as somebody may take results.
    _owner: Py<PyAny>,
    pub(crate) lazy: Arc<Lazy>,
    ordered: bool,
    /// Taken out by the thread that takes a result; others wait for it.
    taken: Mutex<Option<Taken>>,
    put_back: gate::Changes,
}

/// An answered chunk.
enum Arrived {
    Whole(Answer),
    /// Item by item.
    Items(Vec<Each>),
    /// It could not be asked, or what it was answered was raised once already, but not to the end.
    Failed(PyErr),
}

#[derive(Default)]
struct Taken {
    /// Chunks that arrived before their turn.
    early: HashMap<u64, Arrived>,
    ready: VecDeque<Arrived>,
    next: u64,
    /// Items of the chunk in hand, last first.
    items: Vec<Each>,
    /// Chunks of which a part is run again.
    parts: Option<Parts>,
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
        wishes: Arc<Wishes>,
    ) -> PyResult<Py<IMapIterator>> {
        let py = core.py();
        let lazy = Lazy::new(core.get(), function, source, chunksize, window, threaded, wishes)?;
        let lazy = Arc::new(lazy);
        if !lazy.feed(py, core.get()) {
            core.get().feeds.add(Feed::Lazy(Arc::clone(&lazy)));
            core.get().call_keeper();
        }
        let taken = Mutex::new(Some(Taken::default()));
        let (core, put_back) = (core.clone().unbind(), gate::Changes::default());
        Py::new(py, IMapIterator { core, _owner: owner, lazy, ordered, taken, put_back })
    }

    /// The next chunk's answer, if it has arrived.
    fn arrived(&self, py: Python<'_>, core: &Core, taken: &mut Taken) -> Option<Arrived> {
        let (lazy, mut outcomes) = (&self.lazy, VecDeque::new());
        lazy.job.take(&mut outcomes);
        let Taken { early, ready, parts, .. } = taken;
        let parts = parts.get_or_insert_with(|| Parts::new(Arc::clone(&lazy.wishes)));
        let mut put = |index: u64, arrived: Arrived| match self.ordered {
            true => drop(early.insert(index, arrived)),
            false => ready.push_back(arrived),
        };
        let mut hear = |heard: Heard| match heard {
            Heard::Whole(index, answer) => put(index, Arrived::Whole(answer)),
            Heard::Items(index, items) => put(index, Arrived::Items(items)),
            Heard::Partly => {}
        };
        outcomes.into_iter().for_each(|outcome| hear(parts.hear(py, outcome, lazy, core)));
        if parts.is_waiting() {
            lazy.feed_parts(py, core, parts).into_iter().for_each(&mut hear);
        }
        let unsent = std::mem::take(&mut lock(&lazy.input).unsent);
        unsent.into_iter().for_each(|(index, error)| put(index, Arrived::Failed(error)));
        if self.ordered { taken.early.remove(&taken.next) } else { taken.ready.pop_front() }
    }

    /// Opens the next chunk's answer. If that is an exception, and Ctrl-C is on its
    /// way, the latter comes first, as it may be the reason; the answer stays.
    fn open(&self, py: Python<'_>, answer: Arrived, taken: &mut Taken) -> PyResult<()> {
        let (index, lazy) = (taken.next, &self.lazy);
        let value = match answer {
            Arrived::Items(items) => Ok(items),
            Arrived::Failed(error) => Err(error),
            Arrived::Whole(answer) => value_of(py, &answer, lazy.wishes.limit, || lazy.task(py, index))
                .and_then(|value| value.cast_into::<PyList>().map_err(|_| hooks::bug("a chunk that is no list")))
                .map(|list| list.iter().map(|item| Ok(item.unbind())).collect()),
        };
        if let Err(error) = &value
            && let Err(interrupt) = py.check_signals()
        {
            let failed = Arrived::Failed(error.clone_ref(py));
            if self.ordered {
                taken.early.insert(index, failed);
            } else {
                taken.ready.push_front(failed);
            }
            return Err(interrupt);
        }
        taken.next += 1;
        {
            let mut open = lock(&lazy.open);
            *open = open.saturating_sub(1);
        }
        if lazy.threaded {
            lazy.moved.announce();
        }
        match value {
            Ok(mut items) => {
                items.reverse();
                taken.items = items;
                Ok(())
            }
            Err(error) if lazy.wishes.as_values => {
                taken.items = vec![Err(error)];
                Ok(())
            }
            Err(error) => {
                // As in the standard package: with single items the next one follows,
                // a chunk that failed ends the iteration.
                taken.over = lazy.chunksize > 1;
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
            let next = self.step_or_end(py, core, &mut taken);
            let over = taken.over;
            let is_waiting = taken.parts.as_ref().is_some_and(Parts::is_waiting);
            *lock(&self.taken) = Some(taken);
            self.put_back.announce();
            if let Some(item) = next? {
                return Ok(item);
            }
            if over {
                return Err(PyStopIteration::new_err(()));
            }
            // A threaded input ends, and an ordered result comes, by an event; while
            // something of ours is owed, the events of others need not wake us.
            let job = self.lazy.job.key();
            if self.lazy.job.owed() > 0 && !self.lazy.threaded && !is_waiting {
                core.wait(py, || core.pool().wait_for(job, until))?;
            } else {
                core.wait(py, || core.pool().wait_for_event(seen, until))?;
            }
        }
    }

    /// As `step`; fails where the pool has ended and nothing more will come.
    fn step_or_end(&self, py: Python<'_>, core: &Core, taken: &mut Taken) -> PyResult<Option<Py<PyAny>>> {
        let ended = core.pool().broken().is_some() && self.lazy.job.owed() == 0;
        let next = self.step(py, core, taken);
        if ended && matches!(next, Ok(None)) && !taken.over {
            // The input may never end, if it waits for something; the pool has.
            taken.over = true;
            return Err(core.closed_error(py, || self.lazy.task(py, taken.next)));
        }
        next
    }

    /// What was taken so far, when no other thread has it in hand.
    fn take_turn(&self, py: Python<'_>) -> PyResult<Taken> {
        loop {
            let seen = self.put_back.seen();
            if let Some(taken) = lock(&self.taken).take() {
                return Ok(taken);
            }
            self.put_back.wait(py, seen, LOOK_AROUND);
            py.check_signals()?;
        }
    }

    /// The next item, if it is there; `over` in `taken` says that none will come.
    fn step(&self, py: Python<'_>, core: &Core, taken: &mut Taken) -> PyResult<Option<Py<PyAny>>> {
        loop {
            if self.lazy.is_cancelled() && !taken.over {
                (taken.over, taken.items) = (true, Vec::new());
                return Err(hooks::cancelled(py, || self.lazy.task(py, taken.next)));
            }
            match taken.items.pop() {
                Some(Ok(item)) => return Ok(Some(item)),
                Some(Err(error)) if self.lazy.wishes.as_values => return Ok(Some(error.into_value(py).into_any())),
                Some(Err(error)) => {
                    if let Err(interrupt) = py.check_signals() {
                        taken.items.push(Err(error));
                        return Err(interrupt);
                    }
                    return Err(error);
                }
                None if taken.over => return Ok(None),
                None => {}
            }
            // Read before what has arrived: a dry input submits nothing after this.
            let dry = self.lazy.is_dry();
            if let Some(answer) = self.arrived(py, core, taken) {
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
    // Its function is often one of the module that has it among its variables.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.core)?;
        visit.call(&self._owner)?;
        // What another one refers to as well is not ours alone to give up.
        if Arc::strong_count(&self.lazy) == 1 {
            self.lazy.traverse(&visit)?;
        }
        Ok(())
    }

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

    fn __aiter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// The next result, in an event loop of asyncio's.
    fn __anext__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Ok(hooks::awaiting(slf.py())?.getattr("next_of")?.call1((slf,))?.unbind())
    }

    /// Has `call` called once, without arguments, by the pool's own thread, when something has come that may be a result.
    fn _when_something_comes(&self, py: Python<'_>, call: Py<PyAny>) -> PyResult<()> {
        let core = self.core.get();
        core.check_ours()?;
        let former = core.feeds.watch(self.lazy.job.key(), call);
        drop(former);
        core.pool().keep(self.lazy.job.key(), true);
        core.look_around(py)?;
        core.call_keeper();
        Ok(())
    }

    /// Whether the next result is there, and the result. StopIteration when there is none. Does not wait.
    fn _next_if_ready(&self, py: Python<'_>) -> PyResult<(bool, Option<Py<PyAny>>)> {
        let core = self.core.get();
        core.check_ours()?;
        core.collect()?;
        let mut taken = self.take_turn(py)?;
        let next = self.step_or_end(py, core, &mut taken);
        let over = taken.over;
        *lock(&self.taken) = Some(taken);
        self.put_back.announce();
        match next? {
            Some(item) => Ok((true, Some(item))),
            None if over => Err(PyStopIteration::new_err(())),
            None => Ok((false, None)),
        }
    }

    /// Cancels what is left: tasks that wait never run, workers that run one are killed and replaced. Says whether
    /// there was anything to cancel. Whoever takes the next result then gets TaskCancelled, and no result follows.
    fn cancel(&self, py: Python<'_>) -> PyResult<bool> {
        let core = self.core.get();
        core.check_ours()?;
        let is_over = { lock(&self.taken).as_ref().is_some_and(|taken| taken.over) };
        if is_over || self.lazy.is_cancelled() {
            return Ok(false);
        }
        self.lazy.cancel(core)?;
        core.pump(py)?;
        Ok(true)
    }

    /// Whether it was cancelled.
    fn cancelled(&self) -> bool {
        self.lazy.is_cancelled()
    }
}
