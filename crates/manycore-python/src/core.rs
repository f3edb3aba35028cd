//! `Core`: a pool as the written half holds it, and the road of one task into it.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use manycore_engine::pool::{Chunks, Function, Job, Pool, Room, Woken, Work};
use manycore_engine::sync::{AtomicU32, Ordering};
use manycore_engine::{Kind, Result};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyFunction, PyModule, PyTuple, PyType};

use crate::buffer;
use crate::codec::{self, Encoder, Scratch};
use crate::feed::Feeds;
use crate::imap::IMapIterator;
use crate::map::Map;
use crate::result::{ApplyResult, Call, Kindred};
use crate::worker::mode;
use crate::{gate, hooks};

/// How many functions of modules are kept in shared memory.
const FUNCTIONS: usize = 256;

/// A function of a module, kept alive so that its address stays its own, and
/// where it is in shared memory.
type Placed = (Py<PyAny>, Arc<Function>);

/// A pool of workers, seen from the process that gives them work.
#[pyclass(frozen, weakref, module = "manycore._engine")]
pub(crate) struct Core {
    pool: Arc<Pool>,
    /// Called with a seat when its worker has ended: buries it, starts another.
    on_exit: Py<PyAny>,
    functions: Mutex<HashMap<usize, Placed>>,
    pub(crate) feeds: Feeds,
    /// No job is accepted any more; once every feed is dry, workers may go.
    closing: AtomicU32,
    /// The keeper must end.
    stopped: AtomicU32,
    /// There is something new for the keeper.
    called: AtomicU32,
    /// Somebody waits for everything to be done.
    draining: AtomicU32,
    keeper: Mutex<Option<ThreadId>>,
    /// Threads that have taken work out of the feeds, or run a synchronous job: what
    /// they hold is in no list.
    in_hand: AtomicU32,
    /// Feeding threads inside the engine; None once no more may enter.
    feeders: Mutex<Option<u32>>,
    feeder_left: Condvar,
}

/// A feeding thread is inside the engine.
pub(crate) struct Inside<'a>(&'a Core);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Some(inside) = &mut *lock(&self.0.feeders) {
            *inside -= 1;
        }
        self.0.feeder_left.notify_all();
    }
}

/// Work that a thread has in hand.
struct InHand<'a>(&'a Core);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::Release);
        if self.0.closing.load(Ordering::Relaxed) != 0 {
            self.0.close_if_dry();
            self.0.pool.nudge();
        }
    }
}

/// A lock whose holder cannot leave it half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl Core {
    /// A pool with `seats` empty seats. `on_exit(seat)` is called, by whichever
    /// thread notices, when the worker in a seat has ended.
    #[new]
    fn new(py: Python<'_>, seats: u16, on_exit: Py<PyAny>) -> PyResult<Core> {
        codec::prepare(py)?;
        Ok(Core {
            pool: Pool::new(seats).map_err(gate::raise)?,
            on_exit,
            functions: Mutex::default(),
            feeds: Feeds::default(),
            closing: AtomicU32::new(0),
            stopped: AtomicU32::new(0),
            called: AtomicU32::new(0),
            draining: AtomicU32::new(0),
            keeper: Mutex::default(),
            in_hand: AtomicU32::new(0),
            feeders: Mutex::new(Some(0)),
            feeder_left: Condvar::new(),
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&self.on_exit)?;
        if let Ok(functions) = self.functions.try_lock() {
            for (function, _) in functions.values() {
                visit.call(function)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let functions = std::mem::take(&mut *lock(&self.functions));
        drop(functions);
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
    /// nobody knows). Answers its tasks; says whether another may be started.
    #[pyo3(signature = (seat, exitcode))]
    fn bury(&self, seat: u16, exitcode: Option<i32>) -> PyResult<bool> {
        self.pool.bury(seat, hooks::exit_of(exitcode)).map_err(gate::raise)
    }

    /// Whether tasks wait that no worker has claimed.
    #[getter]
    fn has_waiting(&self) -> bool {
        self.pool.has_waiting() || !self.is_dry()
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
        self.expel_feeders(py);
        Ok(())
    }

    /// Every worker has ended: the memory that no result needs goes back at once.
    fn retire(&self) -> PyResult<()> {
        self.pool.retire().map_err(gate::raise)
    }

    /// Waits until every job accepted so far is fed, answered and called back for.
    /// For a closed pool; nobody may be left to take results, so none is waited for.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        self.draining.store(1, Ordering::Relaxed);
        let is_keeper = *lock(&self.keeper) == Some(std::thread::current().id());
        loop {
            let seen = self.pool.events();
            self.feeds.open_windows();
            self.pump(py)?;
            if self.is_dry() && self.pool.in_flight() == 0 && (is_keeper || !self.feeds.has_kept()) {
                return Ok(());
            }
            self.wait(py, || self.pool.wait_for_event(seen, None))?;
        }
    }

    /// Buries the workers that have ended; does not sleep.
    fn watch(&self, py: Python<'_>) -> PyResult<()> {
        self.look_around(py)
    }

    /// The keeper's loop: does what nobody waits for, until the pool is stopped.
    /// A pool has one keeper; a second one returns at once.
    fn keep(&self, py: Python<'_>) {
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
        self.stopped.store(1, Ordering::Relaxed);
        self.called.store(0, Ordering::Relaxed);
        self.call_keeper();
    }

    /// Submits `function(*args, **kwargs)`; `owner` is kept alive until it is answered.
    #[pyo3(signature = (owner, function, args, kwargs=None, callback=None, error_callback=None))]
    #[allow(clippy::too_many_arguments)]
    fn apply_async(
        slf: &Bound<'_, Self>,
        owner: Py<PyAny>,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
    ) -> PyResult<Py<ApplyResult>> {
        slf.get().check_ours()?;
        let call = Call::new(slf.get(), function, args, kwargs, callback.is_some() || error_callback.is_some());
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
        let map = Map::new(self, function, items, starred, Chunks::new(chunksize, workers), false);
        loop {
            let seen = self.pool.events();
            match map.advance(py, self) {
                Some(outcome) => return hooks::after_signals(py, outcome),
                None => map.wait(py, self, seen, None)?,
            }
        }
    }

    /// Starts a map; see `apply_async` and `map`.
    #[pyo3(signature = (owner, function, items, starred, workers, chunksize=None, callback=None, error_callback=None))]
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
    ) -> PyResult<Py<ApplyResult>> {
        slf.get().check_ours()?;
        let kept = callback.is_some() || error_callback.is_some();
        let map = Map::new(slf.get(), function, items, starred, Chunks::new(chunksize, workers), kept);
        ApplyResult::start(slf, owner, Kindred::Map(Box::new(map)), callback, error_callback)
    }

    /// Starts a lazy map over the iterator `source`; one `threaded` is fed from a
    /// thread that works with a `Feeder`.
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
    ) -> PyResult<Py<IMapIterator>> {
        slf.get().check_ours()?;
        IMapIterator::start(slf, owner, function, source, ordered, chunksize, window, threaded)
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
        let job = self.pool.open_job(false);
        while !self.submit_call(py, &job, function, args, kwargs)? {
            self.wait(py, || self.pool.wait_for_room(None))?;
        }
        let mut outcomes = std::collections::VecDeque::new();
        loop {
            self.wait(py, || self.pool.wait_for(job.key(), None))?;
            job.take(&mut outcomes);
            if let Some(outcome) = outcomes.pop_front() {
                let value = crate::result::value_of(py, outcome.answer, || name_of(function));
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

    /// Lets a feeding thread in, unless the pool has ended.
    pub(crate) fn enter_feeder(&self) -> Option<Inside<'_>> {
        let mut feeders = lock(&self.feeders);
        *feeders.as_mut()? += 1;
        Some(Inside(self))
    }

    /// Waits until no feeding thread is inside. The interpreter ends such threads
    /// at exit wherever they take its lock again, which must not be here.
    fn expel_feeders(&self, py: Python<'_>) {
        py.detach(|| {
            let mut feeders = lock(&self.feeders);
            while feeders.is_some_and(|inside| inside > 0) {
                feeders = self.feeder_left.wait(feeders).unwrap_or_else(PoisonError::into_inner);
            }
            *feeders = None;
        });
    }

    /// Waits by `call`, burying workers meanwhile, until it says Ready once.
    pub(crate) fn wait(&self, py: Python<'_>, call: impl Fn() -> Result<Woken> + Send + Sync) -> PyResult<()> {
        while gate::enter(py, &call)? == Woken::Exits {
            self.bury_exited(py)?;
        }
        Ok(())
    }

    fn bury_exited(&self, py: Python<'_>) -> PyResult<()> {
        let mut seats = self.pool.take_exited().into_iter();
        while let Some(seat) = seats.next() {
            if let Err(error) = self.on_exit.call1(py, (seat,)) {
                // A signal's handler may raise in the midst of it; nobody may forget a death.
                self.pool.put_back_exited(std::iter::once(seat).chain(seats));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Collects what workers have finished; does not sleep.
    pub(crate) fn collect(&self) -> PyResult<()> {
        self.pool.collect().map_err(gate::raise)
    }

    /// Looks, without sleeping, for workers that have ended.
    pub(crate) fn look_around(&self, py: Python<'_>) -> PyResult<()> {
        if self.pool.look_for_exits().map_err(gate::raise)? {
            self.bury_exited(py)?;
        }
        Ok(())
    }

    /// Submits from every feed what there is room for.
    pub(crate) fn pump(&self, py: Python<'_>) -> PyResult<()> {
        if !self.feeds.is_dry() {
            let _in_hand = self.take_in_hand();
            self.feeds.pump(py, self);
        }
        Ok(())
    }

    fn take_in_hand(&self) -> InHand<'_> {
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

    fn keep_once(&self, py: Python<'_>) -> PyResult<()> {
        let seen = self.pool.events();
        self.serve(py);
        self.pump(py)?;
        let hungry = (!self.feeds.is_dry()).then_some(seen);
        let awake = hungry.is_some() || self.feeds.has_kept();
        let called = || self.called.load(Ordering::Relaxed) != 0 || self.stopped.load(Ordering::Relaxed) != 0;
        self.wait(py, || {
            if called() {
                Ok(Woken::Ready)
            } else if awake {
                self.pool.wait_as_keeper(hungry, &called)
            } else {
                self.pool.doze()
            }
        })
    }

    /// Calls back for what has arrived, and for what failed before it was submitted.
    fn serve(&self, py: Python<'_>) {
        for key in self.pool.take_news().into_iter().chain(self.feeds.take_again()) {
            self.feeds.serve(py, self, key);
        }
        self.feeds.serve_failed(py, self);
        if self.draining.load(Ordering::Relaxed) != 0 {
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
            Some(loss) => hooks::lost(py, &loss, task),
            None => PyValueError::new_err("Pool not running"),
        }
    }

    /// `function` in shared memory. One of a module always pickles to the same
    /// name, so it is placed once for the life of the pool; anything else may have
    /// changed since the last job and is placed anew.
    pub(crate) fn function(&self, function: &Bound<'_, PyAny>) -> PyResult<Arc<Function>> {
        let address = function.as_ptr() as usize;
        if let Some((_, known)) = lock(&self.functions).get(&address) {
            return Ok(Arc::clone(known));
        }
        let lasting = is_lasting(function);
        let mut encoder = Scratch::take();
        encoder.encode_pickled(function)?;
        let placed = encoder.with_message(|message| self.pool.function(message, lasting)).map_err(gate::raise)?;
        if lasting {
            let mut functions = lock(&self.functions);
            let full = functions.len() >= FUNCTIONS;
            let old = if full { std::mem::take(&mut *functions) } else { HashMap::new() };
            functions.insert(address, (function.clone().unbind(), Arc::clone(&placed)));
            drop(functions);
            // Only now: what is dropped may run any code.
            drop(old);
        }
        Ok(placed)
    }

    /// Submits one call. False when there is no room; nothing has happened then.
    pub(crate) fn submit_call(
        &self,
        py: Python<'_>,
        job: &Job,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<bool> {
        if self.pool.room().map_err(gate::raise)? == Room::No {
            return Ok(false);
        }
        let placed = self.function(function)?;
        let mut encoder = Scratch::take();
        encoder.encode_call(args, kwargs)?;
        self.send(py, &encoder, job, 0, mode::CALL, &placed, || name_of(function))
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
        mode: u32,
        function: &Arc<Function>,
        task: impl FnOnce() -> String,
    ) -> PyResult<bool> {
        let sent = encoder.with_message(|message| {
            let work = Work { index, mode, function, message };
            gate::copying(py, encoder.total_len(), || self.pool.submit(job, work))
        });
        match sent {
            Ok(room) => Ok(room == Room::Yes),
            Err(error) if error.kind() == Kind::Closed => Err(self.closed_error(py, task)),
            Err(error) => Err(gate::raise(error)),
        }
    }
}

/// Whether pickle writes `function` as a name that never changes.
fn is_lasting(function: &Bound<'_, PyAny>) -> bool {
    if codec::has_extra_reducers(function.py()) {
        return false;
    }
    if function.is_exact_instance_of::<PyFunction>() {
        return true;
    }
    if function.is_exact_instance_of::<PyCFunction>() {
        let owner = function.getattr("__self__");
        return owner.is_ok_and(|owner| owner.is_none() || owner.is_instance_of::<PyModule>());
    }
    function.is_instance_of::<PyType>() && function.get_type().is(function.py().get_type::<PyType>())
}

/// How many processors this process may use: its affinity, cut down by the CPU
/// quotas of its control groups.
#[pyfunction]
pub(crate) fn usable_cpu_count() -> usize {
    manycore_engine::os::cpus::usable()
}
