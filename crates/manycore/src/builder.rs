//! What a pool can be told before it starts.

use crate::code::Code;
use crate::crew::Crew;
use crate::error::{Error, Kind, Result};
use crate::init;
use crate::pool::Pool;
use crate::porter::{Parcels, Porter};
use crate::registry::Registry;
use crate::shared::Shared;
use crate::task::Task;
use crate::values::Arguments;
use crate::welcome::Welcome;
use manycore_engine::os::cpus;
use manycore_engine::pool::Message;
use std::sync::Arc;
use std::time::Duration;

/// Seats of the largest pool: a limit of the shared memory's layout.
const MOST: usize = 4095;

/// What a [`Pool`] is told before it starts; from [`Pool::builder`].
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use std::time::Duration;
///
/// let pool = manycore::Pool::builder()
///     .workers(2)
///     .initializer(|level: u8| assert!(level < 10), (3,))
///     .max_tasks_per_worker(1000)
///     .task_timeout(Duration::from_secs(30))
///     .memory_limit(1 << 30)
///     .build()?;
/// assert_eq!(pool.apply(|x: u64| x + 1, (1,))?, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it is built"]
pub struct PoolBuilder {
    workers: Option<usize>,
    welcome: Welcome,
    limit: Option<Duration>,
    error: Option<Error>,
    porter: Option<Porter>,
    /// Descriptors among the initializer's arguments.
    lent: Parcels,
}

impl PoolBuilder {
    /// How many workers, from 1 to 4095; as many as this process may use processors unless it is said.
    pub fn workers(mut self, workers: usize) -> PoolBuilder {
        self.workers = Some(workers);
        self
    }

    /// Every worker runs `task` before its first call; what it gives is dropped. A worker whose initializer
    /// panics takes no calls, and the pool then fails with what it said.
    pub fn initializer<Args, F>(self, task: F, arguments: Args) -> PoolBuilder
    where
        Args: Arguments,
        F: Task<Args>,
    {
        const { F::IS_SENDABLE };
        self.welcome(|welcome| welcome.initialize(&Code::of(&task)?, arguments))
    }

    /// Every worker that ends normally runs `task` as its last call; what it gives is dropped. Workers end normally when
    /// the pool is closed and joined, and when another one takes their place; not when they are killed, as by
    /// [`terminate`](Pool::terminate) or the end of a pool that was not joined. A finalizer that panics costs nothing but
    /// its own effect: the worker says so on its standard error.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::builder().workers(1).finalizer(|| println!("a worker goes"), ()).build()?;
    /// assert_eq!(pool.apply(|x: u64| x + 1, (1,))?, 2);
    /// pool.close();
    /// pool.join()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn finalizer<Args, F>(self, task: F, arguments: Args) -> PoolBuilder
    where
        Args: Arguments,
        F: Task<Args>,
    {
        const { F::IS_SENDABLE };
        self.welcome(|welcome| welcome.finalize(&Code::of(&task)?, arguments))
    }

    /// Has `write` put a call into the welcome.
    fn welcome(mut self, write: impl FnOnce(&mut Welcome) -> Result<()>) -> PoolBuilder {
        let porter = self.porter.take().map_or_else(Porter::new, Ok);
        let written = porter.and_then(|porter| {
            // Every worker makes the call, also those that come later.
            let written = porter.lend(&mut self.lent, false, || write(&mut self.welcome));
            self.porter = Some(porter);
            written
        });
        if let Err(error) = written {
            self.error = Some(error);
        }
        self
    }

    /// A worker is replaced by a new one when it has run so many calls, at least 1. Those of a map that
    /// travelled together with the last one are done first.
    pub fn max_tasks_per_worker(mut self, calls: usize) -> PoolBuilder {
        self.welcome.most_calls = Some(calls);
        self
    }

    /// Limits the time of each call, also of each call of a map. One that takes longer fails with
    /// [`Error::is_expired`], never earlier than that, and its worker is killed and replaced.
    pub fn task_timeout(mut self, limit: Duration) -> PoolBuilder {
        self.limit = Some(limit);
        self
    }

    /// So many bytes of memory a worker may have for itself: its data, heap and stacks (`RLIMIT_DATA`), the
    /// program's own included, shared memory not. What asks for more gets none, which ends most programs:
    /// the task fails with [`Error::is_worker_lost`].
    pub fn memory_limit(mut self, bytes: u64) -> PoolBuilder {
        self.welcome.memory = Some(bytes);
        self
    }

    /// A worker that has more than so many bytes of memory (its resident set, shared memory included) after a task is
    /// replaced by a new one, at least 1. It has given its result before, so nothing is lost.
    pub fn max_worker_rss(mut self, bytes: u64) -> PoolBuilder {
        self.welcome.most_resident = Some(bytes);
        self
    }

    /// Starts the workers, and returns when the first of them is ready.
    ///
    /// # Errors
    /// Where [`init`](crate::init) was not called, or a number is out of range; [`Error::is_start`] where workers do
    /// not get as far as `init`, or their initializer panics; [`Error::is_different_build`].
    pub fn build(self) -> Result<Pool> {
        init::check()?;
        let registry = Registry::get()?;
        if let Some(error) = self.error {
            return Err(error);
        }
        let workers = self.workers.unwrap_or_else(|| cpus::usable().min(MOST));
        let usage = |message| Err(Error::new(Kind::Usage, message));
        let Some(seats) = u16::try_from(workers).ok().filter(|_| (1..=MOST).contains(&workers)) else {
            return usage(format!("a pool has from 1 to {MOST} workers, not {workers}"));
        };
        if self.welcome.most_calls == Some(0) {
            return usage("a worker must be allowed at least one call".to_owned());
        }
        if self.welcome.most_resident == Some(0) {
            return usage("a worker must be allowed some memory".to_owned());
        }
        if self.limit == Some(Duration::ZERO) {
            return usage("a task must be allowed some time".to_owned());
        }
        let engine = manycore_engine::pool::Pool::new(seats)?;
        engine.set_welcome(Message::of(&self.welcome.to_bytes()?))?;
        let porter = self.porter.map_or_else(Porter::new, Ok)?;
        let crew = Crew::start(engine, registry.fingerprint, workers, (porter, self.lent))?;
        let most_calls = self.welcome.most_calls.unwrap_or(usize::MAX);
        let shared = Arc::new(Shared::new(crew, workers, most_calls, self.limit));
        Ok(Pool::over(shared))
    }
}
