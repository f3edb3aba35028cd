//! A worker's loop: take a task, call the function, give the outcome.

use std::cell::Cell;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use manycore_engine::Kind;
use manycore_engine::os::limits;
use manycore_engine::pool::{ForkGuard, Journal, Next, Region, Task, Verdict, Worker};
use pyo3::exceptions::{PyException, PyKeyboardInterrupt};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::buffer::adopt;
use crate::codec::{self, Encoder, Incoming, Items, What};
use crate::core::Core;
use crate::{gate, hooks, journey};

/// How a task's arguments are given to its function.
pub(crate) mod mode {
    /// The message is one call: `f(*args, **kwargs)`.
    pub(crate) const CALL: u32 = 0;
    /// The message is a list: `f(x)` for each.
    pub(crate) const MAP: u32 = 1;
    /// The message is a list: `f(*x)` for each.
    pub(crate) const STARMAP: u32 = 2;
    /// With one of the two: each call has an answer of its own, a pair of whether it returned, and what.
    pub(crate) const EACH: u32 = 4;
}

/// Functions of single jobs a worker remembers at once; beyond that it reads
/// the oldest again. They may hold large objects.
const PASSING: usize = 4;
/// Functions of modules a worker remembers; they are small.
const LASTING: usize = 1024;

/// A worker process's seat in a pool.
#[pyclass(unsendable, module = "manycore._engine", name = "Worker")]
pub(crate) struct PoolWorker {
    worker: Worker,
    encoder: Encoder,
    lasting: HashMap<u64, Py<PyAny>>,
    passing: Vec<(u64, Py<PyAny>)>,
    /// The loops over the items of a chunk, which are Python's.
    run_map: Py<PyAny>,
    run_starred: Py<PyAny>,
    run_kept: Py<PyAny>,
    run_each: Py<PyAny>,
}

impl PoolWorker {
    fn seated(py: Python<'_>, region: Arc<Region>, seat: u16, bell: OwnedFd) -> PyResult<PoolWorker> {
        let loops = py.import("manycore._worker")?;
        let worker = Worker::sit(region, seat, bell).map_err(gate::raise)?;
        Ok(PoolWorker {
            worker,
            encoder: Encoder::new(),
            lasting: HashMap::new(),
            passing: Vec::new(),
            run_map: loops.getattr("run_map")?.unbind(),
            run_starred: loops.getattr("run_starred")?.unbind(),
            run_kept: loops.getattr("run_kept")?.unbind(),
            run_each: loops.getattr("run_each")?.unbind(),
        })
    }
}

#[pymethods]
impl PoolWorker {
    /// The worker in `seat` of a pool whose memory and bell came as descriptors,
    /// which this object closes.
    #[staticmethod]
    fn attach(py: Python<'_>, region: i32, bell: i32, seat: u16) -> PyResult<PoolWorker> {
        let (region, bell) = (adopt(region), adopt(bell));
        PoolWorker::seated(py, Arc::new(Region::attach(region).map_err(gate::raise)?), seat, bell)
    }

    /// The worker in `seat` of the pool `core`, in a process forked from its own.
    #[staticmethod]
    fn inherit(py: Python<'_>, core: &Core, seat: u16) -> PyResult<PoolWorker> {
        let bell = core.pool().bell().try_clone_to_owned()?;
        // A mapping of its own: in the inherited one some blocks may be private to the
        // caller, and a lock may have been held at the fork.
        let file = core.pool().region().file().try_clone_to_owned()?;
        let region = Arc::new(Region::attach(file).map_err(gate::raise)?);
        PoolWorker::seated(py, region, seat, bell)
    }

    /// Tells the caller that this worker takes tasks from now on.
    fn ready(&self) -> PyResult<()> {
        self.worker.ready().map_err(gate::raise)
    }

    /// What to call before this process forks.
    fn fork_guard(&self) -> WorkerForkGuard {
        WorkerForkGuard(self.worker.fork_guard())
    }

    /// Tells the caller that `exception` kept this worker from starting.
    fn fail(&mut self, py: Python<'_>, exception: Bound<'_, PyAny>) -> PyResult<()> {
        let parts = hooks::describe(py, &PyErr::from_value(exception))?;
        self.encoder.encode(&parts)?;
        let worker = &mut self.worker;
        self.encoder.with_message(|message| worker.fail(message)).map_err(gate::raise)
    }

    /// Runs tasks until the pool is closed and empty, or `limit` of them are done, or the process has more than
    /// `max_rss` bytes of memory after one.
    ///
    /// What ends a process in Python (SystemExit, KeyboardInterrupt) ends this
    /// worker when a task raises it; the caller then counts the task as lost.
    #[pyo3(signature = (limit=None, max_rss=None))]
    fn run(&mut self, py: Python<'_>, limit: Option<u64>, max_rss: Option<u64>) -> PyResult<()> {
        let mut done = 0;
        while limit.is_none_or(|limit| done < limit) {
            let Some(task) = self.next(py)? else { return Ok(()) };
            self.execute(py, task)?;
            done += 1;
            if max_rss.is_some_and(|most| limits::resident().is_ok_and(|bytes| bytes > most)) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Makes the arrays a worker has received its own before it forks.
#[pyclass(frozen, module = "manycore._engine")]
pub(crate) struct WorkerForkGuard(ForkGuard);

#[pymethods]
impl WorkerForkGuard {
    fn __call__(&self) -> PyResult<()> {
        self.0.before_fork().map_err(gate::raise)
    }
}

impl PoolWorker {
    fn next(&mut self, py: Python<'_>) -> PyResult<Option<Task>> {
        if let Some(task) = self.worker.try_next().map_err(gate::raise)? {
            return Ok(Some(task));
        }
        self.forget();
        loop {
            let worker = &mut self.worker;
            match py.detach(|| worker.wait()) {
                Ok(Next::Task(task)) => return Ok(Some(task)),
                Ok(Next::Again) => {}
                Ok(Next::End) => return Ok(None),
                Err(error) if error.kind() == Kind::Interrupted => {}
                Err(error) => return Err(gate::raise(error)),
            }
            match py.check_signals() {
                // Ctrl-C reaches every process of the terminal. An idle worker has
                // nothing to interrupt; what becomes of it is the caller's decision.
                Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => {}
                other => other?,
            }
        }
    }

    /// Drops functions whose jobs are over; they may hold large objects.
    fn forget(&mut self) {
        if !self.passing.is_empty() {
            let oldest = self.worker.oldest_function();
            self.passing.retain(|(number, _)| *number >= oldest);
        }
    }

    fn function(&mut self, py: Python<'_>, task: &Task) -> PyResult<Py<PyAny>> {
        let known = if task.function & 1 == 1 {
            self.lasting.get(&task.function)
        } else {
            self.passing.iter().find(|(number, _)| *number == task.function).map(|(_, function)| function)
        };
        if let Some(function) = known {
            return Ok(function.clone_ref(py));
        }
        let (bytes, head) = self.worker.function(task).map_err(gate::raise)?;
        let function = codec::decode(py, &Incoming::of_copy(bytes, head))?.unbind();
        if task.function & 1 == 1 {
            if self.lasting.len() >= LASTING {
                self.lasting.clear();
            }
            self.lasting.insert(task.function, function.clone_ref(py));
        } else {
            if self.passing.len() >= PASSING {
                self.passing.remove(0);
            }
            self.passing.push((task.function, function.clone_ref(py)));
        }
        Ok(function)
    }

    fn execute(&mut self, py: Python<'_>, mut task: Task) -> PyResult<()> {
        let outcome = self.call(py, &mut task);
        let exception = match outcome {
            Ok(value) => match self.send(&task, Verdict::Returned, &value) {
                Ok(()) => return Ok(()),
                Err(_) if task.mode & mode::EACH != 0 => {
                    let mended = self.mend(py, &value)?;
                    return self.send(&task, Verdict::Returned, &mended);
                }
                Err(reason) => hooks::encoding_error(py, &reason, &value),
            },
            Err(exception) => exception,
        };
        if !exception.is_instance_of::<PyException>(py) {
            return Err(exception);
        }
        let parts = hooks::describe(py, &exception)?;
        self.send(&task, Verdict::Raised, &parts)
    }

    /// Calls the function on what the task brought. Of the message nothing is
    /// left afterwards but what the function kept.
    fn call<'py>(&mut self, py: Python<'py>, task: &mut Task) -> PyResult<Bound<'py, PyAny>> {
        let function = self.function(py, task)?;
        let function = function.bind(py);
        let body = task.take_body();
        if task.mode == mode::CALL {
            let incoming = Incoming::of(&body);
            let (args, kwargs) = codec::decode_call(py, &incoming)?;
            drop((incoming, body));
            return function.call(args, kwargs.as_ref());
        }
        let (worker, keeps) = (&mut self.worker, Cell::new(false));
        let notes = || {
            let mut journal = worker.journal(task).map_err(gate::raise)?;
            journal.iter_mut().for_each(Journal::begin);
            keeps.set(journal.is_some());
            Ok((worker.progress(task), journal, task.keeps_all()))
        };
        let items = Bound::new(py, Items::watched(py, Incoming::own(body), notes)?)?;
        let keeps = keeps.get();
        let starred = task.mode & mode::STARMAP != 0;
        let answers = match (task.mode & mode::EACH != 0, keeps, starred) {
            (true, ..) => self.run_each.bind(py).call1((function, &items, starred)),
            (_, true, _) => self.run_kept.bind(py).call1((function, &items, starred)),
            (.., true) => self.run_starred.bind(py).call1((function, &items)),
            _ => self.run_map.bind(py).call1((function, &items)),
        };
        if keeps && let Some(journal) = items.get().take_journal(py) {
            self.worker.put_back(journal);
        }
        answers
    }

    /// The answers of a chunk that cannot travel together: each that cannot travel at all is replaced by the reason.
    fn mend<'py>(&mut self, py: Python<'py>, answers: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let file = self.worker.region().file().as_raw_fd();
        let mended = PyList::empty(py);
        for pair in answers.cast::<PyList>()?.iter() {
            match journey::sending(py, file, || self.encoder.encode(&pair)) {
                Ok(()) => mended.append(pair)?,
                Err(reason) => {
                    let error = hooks::encoding_error(py, &reason, &pair.get_item(1)?);
                    mended.append((false, hooks::describe(py, &error)?))?;
                }
            }
            self.encoder.clear();
        }
        Ok(mended.into_any())
    }

    fn send(&mut self, task: &Task, verdict: Verdict, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let file = self.worker.region().file().as_raw_fd();
        journey::sending(value.py(), file, || match value.cast_exact::<PyList>() {
            Ok(list) if task.mode != mode::CALL => self.encoder.encode_items(list, 0..list.len(), What::Results),
            _ => self.encoder.encode(value),
        })?;
        let (worker, bytes) = (&mut self.worker, self.encoder.total_len());
        let sent = self
            .encoder
            .with_message(|message| gate::copying(value.py(), bytes, || worker.finish(task, verdict, message)));
        self.encoder.clear();
        sent.map_err(gate::raise)
    }
}
