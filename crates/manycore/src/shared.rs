//! What a pool, its tickets and its threads have in common.

use crate::code::Code;
use crate::crew::Crew;
use crate::error::{Error, Kind, Result};
use crate::keeper::Keeper;
use crate::map::Step;
use crate::options::CallOptions;
use crate::porter::Parcels;
use manycore_engine::pool::{Function, Job, JobOptions, Loss, Message, Room, Work};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The inside of a pool.
pub(crate) struct Shared {
    pub(crate) engine: Arc<manycore_engine::pool::Pool>,
    pub(crate) crew: Crew,
    pub(crate) keeper: Keeper,
    /// How long each call may take.
    limit: Option<Duration>,
    pub(crate) workers: usize,
    /// The most calls that one chunk may have.
    pub(crate) most_calls: usize,
    /// Tasks without captures by their code, once they are placed in shared memory.
    placed: Mutex<HashMap<Vec<u8>, Arc<Function>>>,
    /// No call is accepted any more.
    closed: AtomicBool,
    /// Calls that a thread waits for now.
    active: AtomicUsize,
}

/// A task in shared memory.
pub(crate) struct Placed {
    pub(crate) name: &'static str,
    pub(crate) function: Arc<Function>,
    /// Descriptors among what it captures, and among the arguments of its calls.
    pub(crate) lent: Parcels,
}

impl Placed {
    /// Why its arguments do not travel; `item` says of which call, where there are several.
    pub(crate) fn refused(&self, error: &Error, item: Option<usize>) -> Error {
        let Placed { name, .. } = self;
        match item {
            Some(item) => error.within(&format!("item {item} for `{name}`")).at(item),
            None => error.within(&format!("the arguments for `{name}`")),
        }
    }

    /// Why its result cannot be read; `item` says of which call, where there are several.
    pub(crate) fn unread(&self, error: &Error, item: Option<usize>) -> Error {
        let Placed { name, .. } = self;
        match item {
            Some(item) => error.within(&format!("the result of `{name}` on item {item}")).at(item),
            None => error.within(&format!("the result of `{name}`")),
        }
    }

    pub(crate) fn cancelled(&self) -> Error {
        Error::new(Kind::Cancelled, format!("the call of `{}` was cancelled", self.name))
    }
}

/// A thread is in a call.
pub(crate) struct Active<'a>(&'a Shared);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
        self.0.tell_who_joins();
    }
}

impl Shared {
    pub(crate) fn new(crew: Crew, workers: usize, most_calls: usize, limit: Option<Duration>) -> Shared {
        Shared {
            engine: Arc::clone(crew.pool()),
            crew,
            keeper: Keeper::default(),
            limit,
            workers,
            most_calls,
            placed: Mutex::default(),
            closed: AtomicBool::new(false),
            active: AtomicUsize::new(0),
        }
    }

    /// To be held while a new call is made.
    pub(crate) fn enter(&self) -> Result<Active<'_>> {
        if !self.engine.is_ours() {
            let message = "this pool belongs to the process that this one was forked from; make one of its own";
            return Err(Error::new(Kind::Closed, message));
        }
        let active = self.stay();
        if self.closed.load(Ordering::SeqCst) {
            let message = "the pool was closed and takes no more calls; make a new one to go on";
            return Err(self.crew.broken().unwrap_or_else(|| Error::new(Kind::Closed, message)));
        }
        Ok(active)
    }

    /// To be held while a call that was accepted is waited for.
    pub(crate) fn stay(&self) -> Active<'_> {
        self.active.fetch_add(1, Ordering::SeqCst);
        Active(self)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Something that a `join` waits for may be over.
    pub(crate) fn tell_who_joins(&self) {
        if self.closed.load(Ordering::SeqCst) {
            self.engine.nudge();
        }
    }

    /// Waits until all that was accepted is done, then for the workers' end.
    pub(crate) fn join(&self) -> Result<()> {
        if !self.engine.is_ours() {
            return Ok(());
        }
        if !self.closed.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Usage, "the pool still takes calls; close or terminate it, then join it"));
        }
        loop {
            let seen = self.engine.events();
            if self.engine.in_flight() == 0 && self.active.load(Ordering::SeqCst) == 0 && self.keeper.is_idle() {
                break;
            }
            // A pool that is broken has answered everything.
            if self.crew.wait(|pool| pool.wait_for_event(seen, None)).is_err() {
                break;
            }
        }
        self.crew.end(false);
        // What is offered from now on (by a lazy map that was not read to its end) is refused.
        let ended = self.engine.terminate();
        self.keeper.stop(&self.engine);
        Ok(ended?)
    }

    /// Ends everything now.
    pub(crate) fn terminate(&self) {
        if self.engine.is_ours() {
            self.close();
            self.crew.end(true);
        }
    }

    /// Ends the pool's threads.
    pub(crate) fn stop(&self) {
        self.keeper.stop(&self.engine);
    }

    /// The task in shared memory, where it is once a pool, or once a job if it has captures.
    pub(crate) fn place(&self, code: impl FnOnce() -> Result<Code>) -> Result<Placed> {
        let mut lent = Parcels::default();
        // Every worker may bring it up.
        let code = self.crew.porter().lend(&mut lent, false, code)?;
        let message = Message::of(&code.bytes);
        if code.has_captures {
            return Ok(Placed { name: code.name, function: self.engine.function(message, false)?, lent });
        }
        let mut placed = self.placed();
        if let Some(function) = placed.get(&code.bytes) {
            return Ok(Placed { name: code.name, function: Arc::clone(function), lent });
        }
        let function = self.engine.function(message, true)?;
        placed.insert(code.bytes.clone(), Arc::clone(&function));
        Ok(Placed { name: code.name, function, lent })
    }

    fn placed(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<Function>>> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job whose calls have the pool's limit, unless they have one of their own.
    pub(crate) fn open_job(&self, options: &CallOptions) -> Job {
        let limit = options.limit.or(self.limit);
        self.engine.open_job(JobOptions { limit, priority: options.priority, ..JobOptions::default() })
    }

    /// Submits a task of a job of `priority` if there is room for it.
    pub(crate) fn submit(&self, job: &Job, priority: i32, work: Work<'_>) -> Result<Room> {
        let submitted = match self.engine.room(priority)? {
            Room::Yes => self.engine.submit(job, work),
            Room::No => Ok(Room::No),
        };
        submitted.map_err(|error| {
            let closed = error.kind() == manycore_engine::Kind::Closed;
            closed.then(|| self.crew.broken()).flatten().unwrap_or_else(|| error.into())
        })
    }

    /// Brings job `key` on by `step` until it is done, or `deadline` is over: then false.
    pub(crate) fn drive(&self, key: u64, deadline: Option<Instant>, mut step: impl FnMut() -> Step) -> Result<bool> {
        if step() == Step::Done {
            return Ok(true);
        }
        self.engine.glance()?;
        loop {
            let seen = self.engine.events();
            let woken = match step() {
                Step::Done => return Ok(true),
                Step::Owed | Step::Hungry => self.crew.wait(|pool| pool.wait_for(key, deadline)),
                // Others fill the pool.
                Step::Full => self.crew.wait(|pool| pool.wait_for_event(seen, deadline)),
            };
            match woken {
                Ok(()) => {}
                Err(error) if error.is_timeout() => return Ok(false),
                // A pool that breaks answers every task first: those answers say more.
                Err(error) => return if step() == Step::Done { Ok(true) } else { Err(error) },
            }
        }
    }

    /// The error for a task of `count` items that was lost when it had `reached` one of them.
    pub(crate) fn lost(&self, loss: &Loss, task: &str, first: Option<usize>, reached: u64, count: usize) -> Error {
        // Another process's word: it may say anything.
        let reached = usize::try_from(reached).unwrap_or(usize::MAX).min(count.saturating_sub(1));
        let item = first.map(|first| first + reached);
        match loss {
            Loss::Cancelled | Loss::Expired { .. } => Error::lost(loss, task, item),
            _ => match self.engine.broken() {
                Some(_) => self.crew.broken().unwrap_or_else(|| Error::ended(loss)),
                None => Error::lost(loss, task, item),
            },
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("workers", &self.workers).finish_non_exhaustive()
    }
}
