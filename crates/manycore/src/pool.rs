//! `Pool`: worker processes that run this program's tasks.

use crate::code::Code;
use crate::crew::Crew;
use crate::error::{Error, Kind, Result};
use crate::init;
use crate::map::Map;
use crate::registry::Registry;
use crate::task::Task;
use manycore_engine::os::cpus;
use manycore_engine::pool::{Function, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Seats of the largest pool: a limit of the shared memory's layout.
const MOST: usize = 4095;

/// Worker processes that run functions of this program.
///
/// Any number of threads may use one pool at the same time. Dropping it ends the
/// workers and waits for their end, which takes a moment when they are idle. They
/// also end when this process does, however it ends.
pub struct Pool {
    engine: Arc<manycore_engine::pool::Pool>,
    crew: Crew,
    workers: usize,
    /// Tasks without captures by their code, once they are placed in shared memory.
    placed: Mutex<HashMap<Vec<u8>, Arc<Function>>>,
}

impl Pool {
    /// A pool with a worker for each processor this process may use: as many as
    /// its affinity mask allows, and no more than the CPU quotas of its control
    /// groups are worth.
    ///
    /// # Errors
    /// See [`Pool::with_workers`].
    pub fn new() -> Result<Pool> {
        Pool::with_workers(cpus::usable().min(MOST))
    }

    /// A pool with `workers` workers.
    ///
    /// Returns when the first of them is ready.
    ///
    /// # Errors
    /// Where [`crate::init`] was not called; [`Error::is_start`] where workers do
    /// not reach it, or cannot be this program's.
    pub fn with_workers(workers: usize) -> Result<Pool> {
        init::check()?;
        let registry = Registry::get()?;
        let Some(seats) = u16::try_from(workers).ok().filter(|_| (1..=MOST).contains(&workers)) else {
            return Err(Error::new(Kind::Usage, format!("a pool has from 1 to {MOST} workers, not {workers}")));
        };
        let engine = manycore_engine::pool::Pool::new(seats)?;
        let crew = Crew::start(Arc::clone(&engine), registry.fingerprint, workers)?;
        Ok(Pool { engine, crew, workers, placed: Mutex::default() })
    }

    /// How many workers the pool keeps.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Runs `task` on every item, in the workers, and gives the results in the
    /// order of the items.
    ///
    /// `task` is a function, a closure without captures, or what [`crate::closure!`]
    /// makes of one with captures; see [`Task`]. It takes one argument.
    ///
    /// Items travel in chunks whose size follows what they turn out to cost; a
    /// chunk is about a millisecond of work, or one item.
    ///
    /// # Errors
    /// The first that failed, in the order of the items. Items after it may not have been
    /// run; none is still running when this returns.
    ///
    /// - [`Error::is_panic`]: the task panicked.
    /// - [`Error::is_worker_lost`]: its worker was killed, crashed or exited. Other
    ///   calls on this pool are not affected, and it goes on with a new worker.
    /// - [`Error::is_encoding`], [`Error::is_too_large`]: an item or a result
    ///   cannot travel.
    /// - [`Error::is_unregistered`]: the function cannot be found by the workers.
    /// - [`Error::is_closed`], [`Error::is_start`]: no worker is left.
    pub fn map<A, F, I>(&self, task: F, items: I) -> Result<Vec<F::Output>>
    where
        A: Serialize + 'static,
        F: Task<(A,), Output: DeserializeOwned>,
        I: IntoIterator<Item = A>,
    {
        if !self.engine.is_ours() {
            let message = "this pool belongs to the process that this one was forked from; make one of its own";
            return Err(Error::new(Kind::Closed, message));
        }
        let code = Code::of(&task)?;
        let function = self.function(&code)?;
        let items = Vec::from_iter(items);
        Map::new((&self.crew, &self.engine), (code.name, function), items, self.workers).run()
    }

    /// Ends every worker at once, also in the middle of a task. Calls that wait in other
    /// threads fail with [`Error::is_closed`], and so does every later one.
    pub fn terminate(&self) {
        if self.engine.is_ours() {
            self.crew.end(true);
        }
    }

    fn function(&self, code: &Code) -> Result<Arc<Function>> {
        let message = Message::of(&code.bytes);
        if code.has_captures {
            return Ok(self.engine.function(message, false)?);
        }
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = placed.get(&code.bytes) {
            return Ok(Arc::clone(function));
        }
        let function = self.engine.function(message, true)?;
        placed.insert(code.bytes.clone(), Arc::clone(&function));
        Ok(function)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A forked process has a copy of the pool, but not its workers.
        if self.engine.is_ours() {
            // Something runs only where a call was left by a panic: nobody waits for it.
            self.crew.end(self.engine.in_flight() > 0);
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("workers", &self.workers).finish_non_exhaustive()
    }
}
