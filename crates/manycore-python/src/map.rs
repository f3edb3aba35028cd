//! A map over items that are all there: cut, submit, put the results in order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use manycore_engine::pool::{Answer, Chunks, Function, Job, Outcome, Room};
use manycore_engine::sync::{AtomicU32, Ordering};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyRange};

use crate::codec::{self, Incoming, Scratch};
use crate::core::{Core, lock, name_of};
use crate::worker::mode;
use crate::{gate, hooks};

/// Chunks submitted before what has arrived is looked at: results that wait for it cost memory.
const TURN: usize = 64;

/// One map job.
pub(crate) struct Map {
    job: Job,
    mode: u32,
    function: Py<PyAny>,
    total: usize,
    /// 1 once everything has been submitted.
    dry: AtomicU32,
    /// 1 when a thread found the state in another's hands.
    missed: AtomicU32,
    /// Taken out by the thread that works on it.
    state: Mutex<Option<State>>,
}

struct State {
    /// An exact list, tuple or range; gone when everything is submitted.
    items: Option<Py<PyAny>>,
    placed: Option<Arc<Function>>,
    results: Option<Py<PyList>>,
    chunks: Chunks,
    submitted: usize,
    answered: usize,
    /// The first failure; the map fails with it when everything is answered.
    failure: Option<PyErr>,
    arrived: VecDeque<Outcome>,
}

impl Map {
    /// A map of `function` over `items`, an exact list, tuple or range.
    pub(crate) fn new(
        core: &Core,
        function: &Bound<'_, PyAny>,
        items: Bound<'_, PyAny>,
        starred: bool,
        chunks: Chunks,
        kept: bool,
    ) -> Map {
        let total = items.len().unwrap_or(0);
        Map {
            job: core.pool().open_job(kept),
            mode: if starred { mode::STARMAP } else { mode::MAP },
            function: function.clone().unbind(),
            total,
            dry: AtomicU32::new(u32::from(total == 0)),
            missed: AtomicU32::new(0),
            state: Mutex::new(Some(State {
                items: Some(items.unbind()),
                placed: None,
                results: None,
                chunks,
                submitted: 0,
                answered: 0,
                failure: None,
                arrived: VecDeque::new(),
            })),
        }
    }

    pub(crate) fn job(&self) -> &Job {
        &self.job
    }

    /// Whether everything has been submitted.
    pub(crate) fn is_dry(&self) -> bool {
        self.dry.load(Ordering::Relaxed) != 0
    }

    /// Submits what there is room for. True: outcomes came meanwhile, and whoever
    /// wanted to take them must look again.
    pub(crate) fn feed(&self, py: Python<'_>, core: &Core) -> bool {
        let Some(mut state) = lock(&self.state).take() else { return false };
        while self.submit(py, core, &mut state) {}
        self.dry.store(u32::from(state.submitted >= self.total), Ordering::Relaxed);
        *lock(&self.state) = Some(state);
        self.missed.swap(0, Ordering::AcqRel) != 0
    }

    /// Shows the collector what the map refers to.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        if let Ok(state) = self.state.try_lock()
            && let Some(state) = &*state
        {
            visit.call(&state.items)?;
            visit.call(&state.results)?;
        }
        Ok(())
    }

    /// Whether the map has no items.
    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Takes what has arrived and submits what there is room for. The outcome,
    /// once everything is answered. One thread at a time.
    pub(crate) fn advance(&self, py: Python<'_>, core: &Core) -> Option<PyResult<Py<PyAny>>> {
        // Out of the lock while Python code may run.
        let mut state = {
            let mut place = lock(&self.state);
            if place.is_none() {
                self.missed.store(1, Ordering::Release);
            }
            place.take()?
        };
        let outcome = self.step(py, core, &mut state);
        self.dry.store(u32::from(state.submitted >= self.total), Ordering::Relaxed);
        *lock(&self.state) = Some(state);
        outcome
    }

    fn step(&self, py: Python<'_>, core: &Core, state: &mut State) -> Option<PyResult<Py<PyAny>>> {
        loop {
            self.hear(state);
            // Before results are read: the workers must not run dry meanwhile.
            let more = self.submit(py, core, state);
            if state.arrived.is_empty() && !more {
                break;
            }
            self.absorb(py, state);
        }
        if state.answered < self.total {
            return None;
        }
        Some(match state.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(state.results.take().map_or_else(|| PyList::empty(py).unbind().into_any(), Py::into_any)),
        })
    }

    /// Submits what there is room for, a turn's worth at most. True: there may be room for more.
    fn submit(&self, py: Python<'_>, core: &Core, state: &mut State) -> bool {
        for _ in 0..TURN {
            let Some(items) = &state.items else { return false };
            let items = items.bind(py);
            let owed = self.job.owed() as usize;
            let size = state.chunks.next(self.total - state.submitted, owed);
            if size == 0 {
                return false;
            }
            let (range, placed) = (state.submitted..state.submitted + size, &mut state.placed);
            match hooks::whole(py, || self.submit_chunk(py, core, items, range.clone(), placed, &mut state.chunks)) {
                Ok(true) => state.submitted += size,
                Ok(false) => return false,
                Err(error) => {
                    // Nothing that follows can be submitted either, or it would fail
                    // alike: what was submitted is still waited for.
                    state.failure.get_or_insert(error);
                    state.answered += self.total - state.submitted;
                    state.submitted = self.total;
                }
            }
            if state.submitted >= self.total {
                state.items = None;
            }
        }
        true
    }

    fn submit_chunk(
        &self,
        py: Python<'_>,
        core: &Core,
        items: &Bound<'_, PyAny>,
        range: Range<usize>,
        placed: &mut Option<Arc<Function>>,
        chunks: &mut Chunks,
    ) -> PyResult<bool> {
        if core.pool().room().map_err(gate::raise)? == Room::No {
            return Ok(false);
        }
        let function = match placed {
            Some(function) => Arc::clone(function),
            None => Arc::clone(placed.insert(core.function(self.function.bind(py))?)),
        };
        let mut encoder = Scratch::take();
        if items.is_exact_instance_of::<PyRange>() {
            let chunk = range.clone().map(|index| items.get_item(index)).collect::<PyResult<Vec<_>>>()?;
            let chunk = PyList::new(py, chunk)?;
            encoder.encode_items(&chunk, 0, range.len())?;
        } else {
            encoder.encode_items(items, range.start, range.end)?;
        }
        let (start, size) = (range.start, range.len());
        chunks.weigh_arguments(size, encoder.total_len());
        let index = (start as u64) << 32 | size as u64;
        core.send(py, &encoder, &self.job, index, self.mode, &function, || self.task(py, start, size))
    }

    /// Takes what has arrived, and learns from it how large chunks should be.
    fn hear(&self, state: &mut State) {
        self.job.take(&mut state.arrived);
        for outcome in &state.arrived {
            let size = outcome.index as u32 as usize;
            state.chunks.learn(size, outcome.elapsed);
            if let Answer::Returned(payload) = &outcome.answer {
                state.chunks.weigh_results(size, payload.len());
            }
        }
    }

    /// Puts what has arrived among the results.
    fn absorb(&self, py: Python<'_>, state: &mut State) {
        while let Some(outcome) = state.arrived.pop_front() {
            let (start, size) = ((outcome.index >> 32) as usize, outcome.index as u32 as usize);
            let settled = hooks::whole(py, || match &outcome.answer {
                Answer::Returned(payload) => {
                    let results = self.results(py, &mut state.results)?;
                    codec::decode_into(py, &Incoming::of(payload), results, start, size)
                }
                Answer::Raised(payload) => Err(hooks::raised(py, payload)),
                Answer::Lost(loss) => Err(hooks::lost(py, loss, || self.task(py, start, size))),
            });
            state.answered += size;
            if let Err(error) = settled {
                state.failure.get_or_insert(error);
            }
        }
    }

    /// The list of results, made when the first of them has arrived.
    fn results<'a, 'py>(&self, py: Python<'py>, place: &'a mut Option<Py<PyList>>) -> PyResult<&'a Bound<'py, PyList>> {
        let list = match place {
            Some(list) => list,
            None => place.insert(codec::blank(py, self.total)?.unbind()),
        };
        Ok(list.bind(py))
    }

    /// Waits until something has happened for this map since event `seen`.
    pub(crate) fn wait(&self, py: Python<'_>, core: &Core, seen: u64, until: Option<Instant>) -> PyResult<()> {
        if self.job.owed() > 0 {
            core.wait(py, || core.pool().wait_for(self.job.key(), until))
        } else {
            core.wait(py, || core.pool().wait_for_event(seen, until))
        }
    }

    fn task(&self, py: Python<'_>, start: usize, size: usize) -> String {
        let name = name_of(self.function.bind(py));
        if size == 1 {
            format!("{name} on item {start}")
        } else {
            format!("{name} on items {start} to {}", start + size - 1)
        }
    }
}
