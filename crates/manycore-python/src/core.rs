//! `Core`: a pool as the written half holds it, and the road of one task into it.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use manycore_engine::Kind;
use manycore_engine::pool::{self, Chunks, Function, Job, Keeping, Pool, Room, Work};
use manycore_engine::sync::{AtomicU32, Ordering};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::buffer;
use crate::call::Call;
use crate::codec::{self, Encoder, Scratch};
use crate::feed::Feeds;
use crate::feeders::Feeders;
use crate::functions::Functions;
use crate::imap::IMapIterator;
use crate::map::Map;
use crate::options::{JobOptions, Wishes};
use crate::result::{ApplyResult, Kindred};
use crate::worker::mode;
use crate::{answers, gate, hooks, journey};

/// A pool of workers, seen from the process that gives them work.
#[pyclass(frozen, weakref, module = "manycore._engine")]
pub(crate) struct Core {
    pub(crate) pool: Arc<Pool>,
    /// Called with a seat when its worker has ended: buries it, starts another.
    pub(crate) on_exit: Py<PyAny>,
    /// Called when workers may be started in empty seats.
    pub(crate) on_vacancy: Py<PyAny>,
    functions: Functions,
    pub(crate) feeds: Feeds,
    /// No job is accepted any more; once every feed is dry, workers may go.
    pub(crate) closing: AtomicU32,
    /// The keeper must end.
    pub(crate) stopped: AtomicU32,
    /// There is something new for the keeper.
    pub(crate) called: AtomicU32,
    /// Somebody waits for everything to be done.
    pub(crate) draining: AtomicU32,
    keeper: Mutex<Option<ThreadId>>,
    /// Threads that have taken work out of the feeds, or run a synchronous job: what
    /// they hold is in no list.
    pub(crate) in_hand: AtomicU32,
    /// Everything that was accepted is done and the workers go: nothing can be run again.
    pub(crate) drained: AtomicU32,
    /// What a job wants that is told nothing.
    usual: Arc<Wishes>,
    pub(crate) feeders: Feeders,
}

/// Work that a thread has in hand.
pub(crate) struct InHand<'a>(&'a Core);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::Release);
        if self.0.closing.load(Ordering::Relaxed) != 0 && self.0.pool.is_ours() {
            self.0.close_if_dry();
            self.0.pool.nudge();
        }
    }
}

/// A lock whose holder cannot leave it half changed. It is taken only by a thread that is attached
/// to the interpreter, for a moment: so it is free whenever another thread forks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl Core {
    /// A pool with `seats` empty seats. `on_exit(seat)` is called, by whichever
    /// thread notices, when the worker in a seat has ended; `on_vacancy()` when the
    /// pause is over after which workers may be started in place of killed ones.
    #[new]
    fn new(py: Python<'_>, seats: u16, on_exit: Py<PyAny>, on_vacancy: Py<PyAny>) -> PyResult<Core> {
        codec::prepare(py)?;
        Ok(Core {
            pool: Pool::new(seats).map_err(gate::raise)?,
            on_exit,
            on_vacancy,
            functions: Functions::default(),
            feeds: Feeds::default(),
            closing: AtomicU32::new(0),
            stopped: AtomicU32::new(0),
            called: AtomicU32::new(0),
            draining: AtomicU32::new(0),
            keeper: Mutex::default(),
            in_hand: AtomicU32::new(0),
            drained: AtomicU32::new(0),
            usual: Arc::default(),
            feeders: Feeders::new(),
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&self.on_exit)?;
        visit.call(&self.on_vacancy)?;
        self.functions.traverse(&visit)
    }

    fn __clear__(&self) {
        self.functions.clear();
    }

    /// The descriptors a worker that is not forked needs: memory and bell.
    fn handles(&self) -> (i32, i32) {
        (self.pool.region().file().as_raw_fd(), self.pool.bell().as_raw_fd())
    }

    /// To be called before this process forks: arrays received from this pool become
    /// this process's own, so that the child has copies and not the same memory.
    fn before_fork(&self) -> PyResult<()> {
        if self.pool.is_ours() { self.pool.before_fork().map_err(gate::raise) } else { Ok(()) }
    }

    /// Takes an empty seat for a worker about to start.
    fn take_seat(&self) -> PyResult<u16> {
        self.check_ours()?;
        self.pool.take_seat().map_err(gate::raise)
    }

    /// The worker for `seat` could not be started.
    fn leave_seat(&self, seat: u16) {
        self.pool.leave_seat(seat);
    }

    /// Process `pid` sits in `seat`; `pidfd`, which stays the caller's, tells its end.
    fn enlist(&self, seat: u16, pid: u32, pidfd: i32) -> PyResult<()> {
        let pidfd = buffer::duplicate(pidfd)?;
        self.pool.enlist(seat, pid, pidfd).map_err(gate::raise)
    }

    /// The worker in `seat` ended with `exitcode` (as Process.exitcode, None if
    /// nobody knows), and has left `words` about where it was. Answers its tasks; says whether another may be started.
    #[pyo3(signature = (seat, exitcode, words=None))]
    fn bury(&self, seat: u16, exitcode: Option<i32>, words: Option<&str>) -> PyResult<bool> {
        self.pool.bury_with(seat, hooks::exit_of(exitcode), words.map(Arc::from)).map_err(gate::raise)
    }

    /// Workers say where they are when they get SIGSTKFLT, and end: those of tasks that take too long are sent it.
    fn expect_last_words(&self) {
        self.pool.set_last_words();
    }

    /// What was done so far, by name.
    fn statistics(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        self.check_ours()?;
        let done = self.pool.statistics();
        let counts = PyDict::new(py);
        counts.set_item("submitted", done.submitted)?;
        counts.set_item("in_flight", self.pool.in_flight())?;
        counts.set_item("returned", done.returned)?;
        counts.set_item("raised", done.raised)?;
        counts.set_item("lost", done.lost)?;
        counts.set_item("cancelled", done.cancelled)?;
        counts.set_item("expired", done.expired)?;
        counts.set_item("workers_ended", done.ended)?;
        counts.set_item("busy", done.running as f64 / 1e9)?;
        Ok(counts.unbind())
    }

    /// Whether workers may be started now: not during the pause after some were killed in their start.
    #[getter]
    fn may_hire(&self) -> bool {
        self.pool.may_hire()
    }

    /// How many workers in a row were killed in their start.
    #[getter]
    fn killed_starts(&self) -> u32 {
        self.pool.killed_starts()
    }

    /// Seats that are empty now are to stay so.
    fn leave_empty(&self) {
        self.pool.leave_empty();
    }

    /// Whether tasks wait that no worker has claimed.
    #[getter]
    fn has_waiting(&self) -> bool {
        self.pool.is_ours() && (self.pool.has_waiting() || !self.is_dry())
    }

    /// No job is accepted any more. Workers end when those accepted are done.
    fn close(&self) {
        if !self.pool.is_ours() {
            return;
        }
        self.closing.store(1, Ordering::Relaxed);
        self.close_if_dry();
    }

    /// Answers every open task with ProcessError and lets idle workers go.
    fn terminate(&self, py: Python<'_>) -> PyResult<()> {
        if !self.pool.is_ours() {
            return Ok(());
        }
        self.closing.store(1, Ordering::Relaxed);
        py.detach(|| self.pool.terminate()).map_err(gate::raise)?;
        self.feeds.abort(py, self);
        self.feeders.expel(py);
        Ok(())
    }

    /// Ends what the tasks have started that `terminate` has caught running; the workers were told to end before.
    fn end_kin(&self, py: Python<'_>) {
        if self.pool.is_ours() {
            py.detach(|| self.pool.end_kin());
        }
    }

    /// Every worker has ended: the memory that no result needs goes back at once.
    fn retire(&self) -> PyResult<()> {
        if self.pool.is_ours() { self.pool.retire().map_err(gate::raise) } else { Ok(()) }
    }

    /// Waits until every job accepted so far is fed, answered and called back for.
    /// For a closed pool; nobody may be left to take results, so none is waited for.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        if !self.pool.is_ours() {
            return Ok(());
        }
        self.draining.store(1, Ordering::Relaxed);
        let is_keeper = *lock(&self.keeper) == Some(std::thread::current().id());
        loop {
            let seen = self.pool.events();
            self.feeds.open_windows();
            self.revive(py)?;
            self.pump(py)?;
            // What is news, and what is kept, is the keeper's to do.
            let served = || !self.pool.has_news() && !self.feeds.has_kept();
            if self.is_dry() && self.pool.in_flight() == 0 && (is_keeper || served()) {
                self.drained.store(1, Ordering::SeqCst);
                // Whoever runs something again says so first, and looks then.
                if self.is_dry() && self.pool.in_flight() == 0 {
                    return Ok(());
                }
                self.drained.store(0, Ordering::SeqCst);
            }
            self.wait(py, || self.pool.wait_for_event(seen, None))?;
        }
    }

    /// Buries the workers that have ended; does not sleep.
    fn watch(&self, py: Python<'_>) -> PyResult<()> {
        // A forked child would take the news of their deaths from the process whose they are.
        if self.pool.is_ours() { self.look_around(py) } else { Ok(()) }
    }

    /// The keeper's loop: does what nobody waits for, until the pool is stopped.
    /// A pool has one keeper; a second one returns at once.
    fn keep(&self, py: Python<'_>) {
        if !self.pool.is_ours() {
            return;
        }
        {
            let mut keeper = lock(&self.keeper);
            if keeper.is_some() {
                return;
            }
            *keeper = Some(std::thread::current().id());
        }
        while self.stopped.load(Ordering::Relaxed) == 0 {
            self.called.store(0, Ordering::Relaxed);
            if let Err(error) = self.keep_once(py) {
                // Workers cannot be replaced, or worse. Nobody waits here, so the
                // exception is shown, and those who wait elsewhere get an answer.
                error.write_unraisable(py, None);
                if let Err(error) = self.pool.terminate() {
                    gate::raise(error).write_unraisable(py, None);
                }
                break;
            }
        }
        // Callbacks are owed for everything that was accepted.
        self.serve(py);
        self.feeds.serve_all(py, self);
    }

    /// Ends the keeper, whatever it waits for.
    fn stop(&self) {
        if !self.pool.is_ours() {
            return;
        }
        self.stopped.store(1, Ordering::Relaxed);
        self.called.store(0, Ordering::Relaxed);
        self.call_keeper();
    }

    /// Submits `function(*args, **kwargs)`; `owner` is kept alive until it is answered.
    #[pyo3(signature = (owner, function, args, kwargs=None, callback=None, error_callback=None, options=None))]
    #[allow(clippy::too_many_arguments)]
    fn apply_async(
        slf: &Bound<'_, Self>,
        owner: Py<PyAny>,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        options: Option<&Bound<'_, JobOptions>>,
    ) -> PyResult<Py<ApplyResult>> {
        slf.get().check_ours()?;
        let wishes = Wishes::of(options, &slf.get().usual);
        let kept = callback.is_some() || error_callback.is_some() || wishes.retries > 0;
        let call = Call::new(slf.get(), function, args, kwargs, wishes, kept);
        ApplyResult::start(slf, owner, Kindred::Call(call), callback, error_callback)
    }

    /// Runs `function` over `items` in workers and returns the list of results.
    #[pyo3(signature = (function, items, starred, workers, chunksize=None))]
    fn map(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
        items: Bound<'_, PyAny>,
        starred: bool,
        workers: usize,
        chunksize: Option<usize>,
    ) -> PyResult<Py<PyAny>> {
        self.check_ours()?;
        let _in_hand = self.take_in_hand();
        let chunks = Chunks::new(chunksize, workers);
        let map = Map::new(self, function, items, starred, chunks, Arc::clone(&self.usual), (false, false));
        loop {
            let seen = self.pool.events();
            match map.advance(py, self) {
                Some(outcome) => return hooks::after_signals(py, outcome),
                None => map.wait(py, self, seen, None)?,
            }
        }
    }

    /// Starts a map; see `apply_async` and `map`.
    #[pyo3(signature = (
        owner, function, items, starred, workers, chunksize=None, callback=None, error_callback=None, options=None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn map_async(
        slf: &Bound<'_, Self>,
        owner: Py<PyAny>,
        function: &Bound<'_, PyAny>,
        items: Bound<'_, PyAny>,
        starred: bool,
        workers: usize,
        chunksize: Option<usize>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        options: Option<&Bound<'_, JobOptions>>,
    ) -> PyResult<Py<ApplyResult>> {
        slf.get().check_ours()?;
        let kept = callback.is_some() || error_callback.is_some();
        let (chunks, wishes) = (Chunks::new(chunksize, workers), Wishes::of(options, &slf.get().usual));
        let map = Map::new(slf.get(), function, items, starred, chunks, wishes, (kept, true));
        ApplyResult::start(slf, owner, Kindred::Map(Arc::new(map)), callback, error_callback)
    }

    /// Starts a lazy map over the iterator `source`; one `threaded` is fed from a
    /// thread that works with a `Feeder`.
    #[pyo3(signature = (owner, function, source, ordered, chunksize, window, threaded, options=None))]
    #[allow(clippy::too_many_arguments)]
    fn imap(
        slf: &Bound<'_, Self>,
        owner: Py<PyAny>,
        function: &Bound<'_, PyAny>,
        source: &Bound<'_, PyAny>,
        ordered: bool,
        chunksize: usize,
        window: usize,
        threaded: bool,
        options: Option<&Bound<'_, JobOptions>>,
    ) -> PyResult<Py<IMapIterator>> {
        slf.get().check_ours()?;
        IMapIterator::start(
            slf,
            owner,
            function,
            source,
            ordered,
            chunksize,
            window,
            threaded,
            Wishes::of(options, &slf.get().usual),
        )
    }

    /// Runs `function(*args, **kwargs)` in a worker and returns what it returns.
    #[pyo3(signature = (function, args, kwargs=None))]
    fn apply<'py>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.check_ours()?;
        let _in_hand = self.take_in_hand();
        let job = self.pool.open_job(pool::JobOptions::default());
        while !self.submit_call(py, &job, 0, function, args, kwargs)? {
            self.wait(py, || self.pool.wait_for_room(0, None))?;
        }
        let mut outcomes = std::collections::VecDeque::new();
        loop {
            self.wait(py, || self.pool.wait_for(job.key(), None))?;
            job.take(&mut outcomes);
            if let Some(outcome) = outcomes.pop_front() {
                let value = answers::value_of(py, &outcome.answer, None, || name_of(function));
                return hooks::after_signals(py, value);
            }
        }
    }
}

/// The name of a function for a message about its task.
pub(crate) fn name_of(function: &Bound<'_, PyAny>) -> String {
    let name = function.getattr("__qualname__").and_then(|name| name.extract::<String>());
    name.or_else(|_| function.repr().map(|text| text.to_string())).unwrap_or_else(|_| "a task".to_owned())
}

impl Core {
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Submits from every feed what there is room for.
    pub(crate) fn pump(&self, py: Python<'_>) -> PyResult<()> {
        if !self.feeds.is_dry() {
            let _in_hand = self.take_in_hand();
            self.feeds.pump(py, self);
        }
        Ok(())
    }

    pub(crate) fn take_in_hand(&self) -> InHand<'_> {
        self.in_hand.fetch_add(1, Ordering::Acquire);
        InHand(self)
    }

    /// Whether everything accepted is in shared memory.
    fn is_dry(&self) -> bool {
        // The lists first: what leaves them is counted before.
        self.feeds.is_dry() && self.in_hand.load(Ordering::Acquire) == 0
    }

    fn close_if_dry(&self) {
        if self.is_dry() {
            self.pool.close();
        }
    }

    /// There is something new for the keeper.
    pub(crate) fn call_keeper(&self) {
        if self.called.swap(1, Ordering::Relaxed) == 0 {
            self.pool.wake_keeper();
            self.pool.nudge();
        }
    }

    /// The pool's verbs are for the process that made it: a forked child has the
    /// value, and would publish from a stale account.
    pub(crate) fn check_ours(&self) -> PyResult<()> {
        if self.pool.is_ours() {
            return Ok(());
        }
        Err(PyValueError::new_err("Pool not running: it belongs to the process this one was forked from"))
    }

    /// Why a task cannot be submitted any more.
    pub(crate) fn closed_error(&self, py: Python<'_>, task: impl FnOnce() -> String) -> PyErr {
        match self.pool.broken() {
            Some(loss) => hooks::lost(py, &loss, None, task),
            None => PyValueError::new_err("Pool not running"),
        }
    }

    /// `function` in shared memory. One of a module always pickles to the same
    /// name, so it is placed once for the life of the pool; anything else may have
    /// changed since the last job and is placed anew.
    pub(crate) fn function(&self, function: &Bound<'_, PyAny>) -> PyResult<Arc<Function>> {
        if let Some(known) = self.functions.get(function) {
            return Ok(known);
        }
        codec::by_value::settle(function)?;
        let mut encoder = Scratch::take();
        journey::placing(function.py(), self.file(), || encoder.encode_pickled(function))?;
        // What goes by value carries variables, which change.
        let lasting = !encoder.is_by_value() && codec::is_lasting(function);
        let placed = encoder.with_message(|message| self.pool.function(message, lasting)).map_err(gate::raise)?;
        if lasting {
            self.functions.keep(function, &placed);
        }
        Ok(placed)
    }

    /// Submits one call. False when there is no room; nothing has happened then.
    pub(crate) fn submit_call(
        &self,
        py: Python<'_>,
        job: &Job,
        priority: i32,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<bool> {
        if self.pool.room(priority).map_err(gate::raise)? == Room::No {
            return Ok(false);
        }
        let placed = self.function(function)?;
        journey::submitting(py, self.file(), || {
            let mut encoder = Scratch::take();
            encoder.encode_call(args, kwargs)?;
            self.send(py, &encoder, job, 0, (mode::CALL, Keeping::Nothing), &placed, || name_of(function))
        })
    }

    /// The memory file that messages lie in.
    pub(crate) fn file(&self) -> i32 {
        self.pool.region().file().as_raw_fd()
    }

    /// Submits the message in `encoder` as task `index` of `job`. False when
    /// another thread took the last room.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn send(
        &self,
        py: Python<'_>,
        encoder: &Encoder,
        job: &Job,
        index: u64,
        (mode, keeps): (u32, Keeping),
        function: &Arc<Function>,
        task: impl FnOnce() -> String,
    ) -> PyResult<bool> {
        let sent = encoder.with_message(|message| {
            let work = Work { index, mode, keeps, function, message };
            gate::copying(py, encoder.total_len(), || self.pool.submit(job, work))
        });
        match sent {
            Ok(room) => Ok(room == Room::Yes),
            Err(error) if error.kind() == Kind::Closed => Err(self.closed_error(py, task)),
            Err(error) => Err(gate::raise(error)),
        }
    }
}
