//! A map over items that are all there: cut, submit, put the results in order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use manycore_engine::dispatch::{self, Again};
use manycore_engine::pool::{Answer, Chunks, Function, Job, Keeping, Left, Loss, Outcome, Room};
use manycore_engine::sync::{AtomicU32, Ordering};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyRange};

use crate::answers::{Each, left_behind, outcomes_of};
use crate::codec::{self, Incoming, Scratch, What};
use crate::core::{Core, lock, name_of};
use crate::options::Wishes;
use crate::worker::mode;
use crate::{gate, hooks, journey};

/// Chunks submitted before what has arrived is looked at: results that wait for it cost memory.
const TURN: usize = 64;

/// One map job.
pub(crate) struct Map {
    job: Job,
    mode: u32,
    function: Py<PyAny>,
    total: usize,
    wishes: Arc<Wishes>,
    /// 1 once everything has been submitted.
    dry: AtomicU32,
    /// 1 when a thread found the state in another's hands.
    missed: AtomicU32,
    /// 1 once the map was cancelled; 2 when that has taken effect.
    cancelled: AtomicU32,
    /// Taken out by the thread that works on it.
    state: Mutex<Option<State>>,
}

struct State {
    /// An exact list, tuple or range; gone when everything is answered, since a worker's death may call for it again.
    items: Option<Py<PyAny>>,
    placed: Option<Arc<Function>>,
    results: Option<Py<PyList>>,
    chunks: Chunks,
    /// Items that were cut into chunks so far.
    submitted: usize,
    /// Items that wait to be run again.
    again: Again,
    answered: usize,
    /// The first failure; the map fails with it when everything is answered.
    failure: Option<PyErr>,
    arrived: VecDeque<Outcome>,
}

impl Map {
    /// A map of `function` over `items`, an exact list, tuple or range. One that is `kept` is settled by the keeper; any
    /// other that somebody may stop waiting for `minds_losses`.
    pub(crate) fn new(
        core: &Core,
        function: &Bound<'_, PyAny>,
        items: Bound<'_, PyAny>,
        starred: bool,
        chunks: Chunks,
        wishes: Arc<Wishes>,
        (kept, minds_losses): (bool, bool),
    ) -> Map {
        let total = items.len().unwrap_or(0);
        let each = if wishes.is_each() { mode::EACH } else { 0 };
        Map {
            job: core.pool().open_job(wishes.for_engine(kept, minds_losses)),
            mode: if starred { mode::STARMAP } else { mode::MAP } | each,
            function: function.clone().unbind(),
            total,
            dry: AtomicU32::new(u32::from(total == 0)),
            missed: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
            state: Mutex::new(Some(State {
                items: Some(items.unbind()),
                placed: None,
                results: None,
                chunks,
                submitted: 0,
                again: Again::new(wishes.retries),
                answered: 0,
                failure: None,
                arrived: VecDeque::new(),
            })),
            wishes,
        }
    }

    /// Higher first.
    pub(crate) fn priority(&self) -> i32 {
        self.wishes.priority
    }

    pub(crate) fn job(&self) -> &Job {
        &self.job
    }

    /// Whether everything has been submitted.
    pub(crate) fn is_dry(&self) -> bool {
        self.dry.load(Ordering::Relaxed) != 0
    }

    fn put_back(&self, state: State) {
        let dry = state.submitted >= self.total && state.again.is_empty();
        self.dry.store(u32::from(dry), Ordering::Relaxed);
        *lock(&self.state) = Some(state);
    }

    /// Submits what there is room for. True: outcomes came meanwhile, and whoever
    /// wanted to take them must look again.
    pub(crate) fn feed(&self, py: Python<'_>, core: &Core) -> bool {
        let Some(mut state) = lock(&self.state).take() else { return false };
        while self.submit(py, core, &mut state) {}
        self.put_back(state);
        self.missed.swap(0, Ordering::AcqRel) != 0
    }

    /// Shows the collector what the map refers to.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        self.wishes.traverse(visit)?;
        if let Ok(state) = self.state.try_lock()
            && let Some(state) = &*state
        {
            visit.call(&state.items)?;
            visit.call(&state.results)?;
        }
        Ok(())
    }

    /// How many items are not answered; None while another thread has the map in hand.
    pub(crate) fn left(&self) -> Option<usize> {
        lock(&self.state).as_ref().map(|state| self.total - state.answered)
    }

    /// Whether the map has no items.
    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Nothing more is to be run. Takes effect with the next step, at which the map fails.
    pub(crate) fn cancel(&self) {
        let _ = self.cancelled.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Whether [`Map::cancel`] has taken effect.
    pub(crate) fn has_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) == 2
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
        self.step(py, core, &mut state);
        let outcome = self.finish(py, &mut state);
        self.put_back(state);
        outcome
    }

    /// As `advance`, for a map whose result somebody else takes, or nobody. False: another thread has it in hand.
    pub(crate) fn tend(&self, py: Python<'_>, core: &Core) -> bool {
        let Some(mut state) = ({ lock(&self.state).take() }) else { return false };
        self.step(py, core, &mut state);
        self.put_back(state);
        true
    }

    /// Whether everything is answered; false in doubt.
    pub(crate) fn is_answered(&self) -> bool {
        lock(&self.state).as_ref().is_some_and(|state| state.answered >= self.total)
    }

    fn step(&self, py: Python<'_>, core: &Core, state: &mut State) {
        loop {
            if self.cancelled.load(Ordering::Acquire) == 1 {
                self.take_back(py, core, state);
            }
            self.hear(state);
            // Before results are read: the workers must not run dry meanwhile.
            let more = self.submit(py, core, state);
            if state.arrived.is_empty() && !more {
                break;
            }
            self.absorb(py, core, state);
        }
    }

    /// The outcome, once everything is answered.
    fn finish(&self, py: Python<'_>, state: &mut State) -> Option<PyResult<Py<PyAny>>> {
        if state.answered < self.total {
            return None;
        }
        state.items = None;
        Some(match state.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(state.results.take().map_or_else(|| PyList::empty(py).unbind().into_any(), Py::into_any)),
        })
    }

    /// Takes every task back; what runs is ended.
    fn take_back(&self, py: Python<'_>, core: &Core, state: &mut State) {
        let cancelled = hooks::cancelled(py, || self.task(py, 0..self.total));
        self.abandon(state, 0, cancelled.clone_ref(py));
        // Also where something has failed: whoever cancels wants to hear that it was cancelled.
        state.failure = Some(cancelled);
        if let Err(error) = core.pool().cancel(self.job.key(), true) {
            state.failure = Some(gate::raise(error));
        }
        self.cancelled.store(2, Ordering::Release);
    }

    /// Submits what there is room for, a turn's worth at most. True: there may be room for more.
    fn submit(&self, py: Python<'_>, core: &Core, state: &mut State) -> bool {
        for _ in 0..TURN {
            let Some((range, again)) = self.cut(state) else { return false };
            let Some(items) = &state.items else { return false };
            let items = items.bind(py);
            let (place, placed) = (range.clone(), &mut state.placed);
            match hooks::whole(py, || self.submit_chunk(py, core, items, place.clone(), placed, &mut state.chunks)) {
                Ok(true) if again => {}
                Ok(true) => state.submitted += range.len(),
                Ok(false) => {
                    if again {
                        state.again.put_back(range);
                    }
                    return false;
                }
                Err(error) => self.refused(py, core, state, range, again, error),
            }
        }
        true
    }

    /// The items of the next chunk, and whether they are run again; None: there are none, or outcomes must come first.
    fn cut(&self, state: &mut State) -> Option<(Range<usize>, bool)> {
        let owed = self.job.owed() as usize;
        if let Some(range) = state.again.take() {
            let size = state.chunks.next(range.len(), owed);
            if size == 0 {
                state.again.put_back(range);
                return None;
            }
            if size < range.len() {
                state.again.put_back(range.start + size..range.end);
            }
            return Some((range.start..range.start + size, true));
        }
        let size = state.chunks.next(self.total - state.submitted, owed);
        (size > 0).then(|| (state.submitted..state.submitted + size, false))
    }

    /// The chunk `range` could not be sent.
    fn refused(&self, py: Python<'_>, core: &Core, state: &mut State, range: Range<usize>, again: bool, error: PyErr) {
        if !self.wishes.as_values || core.pool().broken().is_some() {
            // Nothing that follows can be submitted either, or it would fail
            // alike: what was submitted is still waited for.
            return self.abandon(state, if again { range.len() } else { 0 }, error);
        }
        if !again {
            state.submitted = range.end;
        }
        if range.len() > 1 {
            // One of them is to blame; alone, the others can be sent.
            range.for_each(|item| state.again.wait(item..item + 1));
        } else {
            self.answer(py, state, range.start, Err(error));
        }
    }

    /// Nothing more is submitted, because of `error`; `in_hand` items were on their way.
    fn abandon(&self, state: &mut State, in_hand: usize, error: PyErr) {
        state.failure.get_or_insert(error);
        state.answered += self.total - state.submitted + state.again.abandon() + in_hand;
        state.submitted = self.total;
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
        if core.pool().room(self.wishes.priority).map_err(gate::raise)? == Room::No {
            return Ok(false);
        }
        let function = match placed {
            Some(function) => Arc::clone(function),
            None => Arc::clone(placed.insert(core.function(self.function.bind(py))?)),
        };
        journey::submitting(py, core.file(), || {
            let mut encoder = Scratch::take();
            if items.is_exact_instance_of::<PyRange>() {
                let chunk = range.clone().map(|index| items.get_item(index)).collect::<PyResult<Vec<_>>>()?;
                let chunk = PyList::new(py, chunk)?;
                encoder.encode_items(&chunk, 0..range.len(), What::Items(range.start))?;
            } else {
                encoder.encode_items(items, range.clone(), What::Items(range.start))?;
            }
            let (start, size) = (range.start, range.len());
            chunks.weigh_arguments(size, encoder.total_len());
            let index = (start as u64) << 32 | size as u64;
            let keeps = if size > 1 { chunks.keeping() } else { Keeping::Nothing };
            core.send(py, &encoder, &self.job, index, (self.mode, keeps), &function, || self.task(py, range.clone()))
        })
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
    fn absorb(&self, py: Python<'_>, core: &Core, state: &mut State) {
        while let Some(outcome) = state.arrived.pop_front() {
            let (start, size) = ((outcome.index >> 32) as usize, outcome.index as u32 as usize);
            let chunk = start..start + size;
            match &outcome.answer {
                Answer::Lost(loss) => self.lose(py, core, state, chunk, loss, outcome.reached, outcome.left.as_deref()),
                Answer::Returned(payload) if self.wishes.is_each() => {
                    match hooks::whole(py, || outcomes_of(py, &Incoming::of(payload), size)) {
                        Ok(outcomes) => {
                            let (done, last) = (start + outcomes.len(), chunk.end);
                            outcomes
                                .into_iter()
                                .enumerate()
                                .for_each(|(at, one)| self.hear_one(py, state, start + at, one));
                            // A worker that could not read an argument has answered that item, and none behind it.
                            state.again.wait(done..last);
                        }
                        Err(error) => self.fail(py, state, chunk, &error),
                    }
                }
                Answer::Returned(payload) => {
                    let placed = hooks::whole(py, || {
                        let results = self.results(py, &mut state.results)?;
                        codec::decode_into(py, &Incoming::of(payload), results, start, size)
                    });
                    match placed {
                        Ok(()) => state.answered += size,
                        Err(error) => self.fail(py, state, chunk, &error),
                    }
                }
                Answer::Raised(payload) => {
                    let error = hooks::whole(py, || Ok(hooks::raised(py, payload))).unwrap_or_else(|error| error);
                    self.fail(py, state, chunk, &error);
                }
            }
        }
    }

    /// A chunk was lost: what its worker has left is there, one item is to blame, and the others are run again.
    #[allow(clippy::too_many_arguments)]
    fn lose(
        &self,
        py: Python<'_>,
        core: &Core,
        state: &mut State,
        chunk: Range<usize>,
        loss: &Loss,
        reached: u64,
        left: Option<&Left>,
    ) {
        let values = hooks::whole(py, || Ok(left_behind(py, left, self.wishes.is_each()))).unwrap_or_default();
        let goes_on = loss.may_be_retried() && core.goes_on() && self.cancelled.load(Ordering::Acquire) == 0;
        let verdict = state.again.lost(&dispatch::Loss {
            chunk: chunk.clone(),
            left: values.len(),
            reached,
            repeats: state.chunks.keeping() != Keeping::All,
            goes_on,
        });
        for (item, value) in verdict.done.zip(values) {
            self.hear_one(py, state, item, value);
        }
        if !verdict.failed.is_empty() {
            let named = if goes_on { verdict.failed.clone() } else { chunk };
            let error = hooks::lost(py, loss, self.wishes.limit, || self.task(py, named));
            self.fail(py, state, verdict.failed, &error);
        }
    }

    /// One call of a chunk has an answer of its own.
    fn hear_one(&self, py: Python<'_>, state: &mut State, item: usize, outcome: Each) {
        if let Err(error) = &outcome
            && self.wishes.may_retry(py, error).unwrap_or(false)
            && state.again.retry(item)
        {
            return;
        }
        self.answer(py, state, item, outcome);
    }

    /// Answers one item, for good.
    fn answer(&self, py: Python<'_>, state: &mut State, item: usize, outcome: Each) {
        let value = match outcome {
            Err(error) if self.wishes.as_values => Ok(error.into_value(py).into_any()),
            outcome => outcome,
        };
        let placed = value.and_then(|value| self.results(py, &mut state.results)?.set_item(item, value));
        state.answered += 1;
        if let Err(error) = placed {
            state.failure.get_or_insert(error);
        }
    }

    /// Answers items with a failure, for good.
    fn fail(&self, py: Python<'_>, state: &mut State, items: Range<usize>, error: &PyErr) {
        if self.wishes.as_values {
            return items.for_each(|item| self.answer(py, state, item, Err(error.clone_ref(py))));
        }
        state.answered += items.len();
        state.failure.get_or_insert_with(|| error.clone_ref(py));
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

    fn task(&self, py: Python<'_>, items: Range<usize>) -> String {
        let name = name_of(self.function.bind(py));
        match items.len() {
            1 => format!("{name} on item {}", items.start),
            _ => format!("{name} on items {} to {}", items.start, items.end.saturating_sub(1)),
        }
    }
}
