//! `Pool`: worker processes that run this program's tasks.

use crate::builder::PoolBuilder;
use crate::code::Code;
use crate::error::Result;
use crate::imap::Imap;
use crate::map::{Map, Single, only};
use crate::options::CallOptions;
use crate::shared::{Active, Placed, Shared};
use crate::task::Task;
use crate::ticket::Ticket;
use crate::values::Arguments;
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// Worker processes that run functions of this program.
///
/// | | one call | many | lazily |
/// |---|---|---|---|
/// | waits | [`apply`](Pool::apply) | [`map`](Pool::map), [`starmap`](Pool::starmap), [`map_results`](Pool::map_results) | [`imap`](Pool::imap), [`imap_unordered`](Pool::imap_unordered) |
/// | gives a [`Ticket`] | [`apply_async`](Pool::apply_async) | [`map_async`](Pool::map_async), [`starmap_async`](Pool::starmap_async) | |
///
/// What is called is a function, a closure without captures, or what [`closure!`](crate::closure!) makes
/// of one with captures; see [`Task`].
///
/// Any number of threads may use one pool at the same time. Dropping it ends the workers, at once if
/// something is still running; [`close`](Pool::close) and [`join`](Pool::join) let everything be done first.
/// The workers also end when this process does, however it ends.
///
/// # Errors
/// What a call of this pool can fail with:
///
/// - [`is_panic`](crate::Error::is_panic): the task panicked. Its worker lives on.
/// - [`is_worker_lost`](crate::Error::is_worker_lost): its worker was killed, crashed or exited. Other calls are
///   not affected, and the pool goes on with a new worker.
/// - [`is_expired`](crate::Error::is_expired): it ran longer than [`task_timeout`](PoolBuilder::task_timeout).
/// - [`is_encoding`](crate::Error::is_encoding), [`is_too_large`](crate::Error::is_too_large): an argument or a
///   result cannot travel.
/// - [`is_unregistered`](crate::Error::is_unregistered): the function cannot be found by the workers.
/// - [`is_closed`](crate::Error::is_closed), [`is_start`](crate::Error::is_start): the pool takes no more calls,
///   or no worker is left.
pub struct Pool {
    shared: Arc<Shared>,
    /// What its calls are told.
    options: CallOptions,
    /// Whether its end is the workers' end, too: not for what [`Pool::with`] gives.
    is_owner: bool,
}

/// A [`Pool`] whose calls are told more; from [`Pool::with`].
#[derive(Debug)]
pub struct Calls<'p> {
    pool: Pool,
    of: PhantomData<&'p Pool>,
}

impl Deref for Calls<'_> {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.pool
    }
}

/// What a pool has done so far. A *task* here is one call, or the chunk of calls that a map sends at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Worker processes now.
    pub workers: usize,
    /// Worker processes started so far.
    pub workers_started: u64,
    /// Worker processes that have ended so far, whatever the cause.
    pub workers_ended: u64,
    /// Tasks submitted so far.
    pub submitted: u64,
    /// Tasks that a worker has or that wait for one.
    pub in_flight: usize,
    /// Tasks that gave a result.
    pub returned: u64,
    /// Tasks that panicked, or whose result could not travel.
    pub failed: u64,
    /// Tasks whose worker was lost, or that the end of the pool has caught.
    pub lost: u64,
    /// Tasks that were cancelled.
    pub cancelled: u64,
    /// Tasks that ran longer than they may.
    pub expired: u64,
    /// The time workers spent in tasks, all together.
    pub busy: Duration,
}

impl Pool {
    /// A pool with a worker for each processor this process may use: as many as
    /// its affinity mask allows, and no more than the CPU quotas of its control
    /// groups are worth.
    ///
    /// # Errors
    /// See [`PoolBuilder::build`].
    pub fn new() -> Result<Pool> {
        Pool::builder().build()
    }

    /// A pool with `workers` workers.
    ///
    /// # Errors
    /// See [`PoolBuilder::build`].
    pub fn with_workers(workers: usize) -> Result<Pool> {
        Pool::builder().workers(workers).build()
    }

    /// A pool that is told more: an initializer, limits.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    pub(crate) fn over(shared: Arc<Shared>) -> Pool {
        Pool { shared, options: CallOptions::new(), is_owner: true }
    }

    /// The pool as one whose calls are told `options`: time limit, retries, priority. It has every verb.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// use manycore::CallOptions;
    ///
    /// let pool = manycore::Pool::with_workers(1)?;
    /// let waiting = pool.map_async(|x: u64| x, 0..1000)?;
    /// let urgent = pool.with(CallOptions::new().priority(1));
    /// assert_eq!(urgent.apply(|x: u64| x + 1, (1,))?, 2);
    /// assert_eq!(waiting.get()?.len(), 1000);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with(&self, options: CallOptions) -> Calls<'_> {
        let pool = Pool { shared: Arc::clone(&self.shared), options, is_owner: false };
        Calls { pool, of: PhantomData }
    }

    /// To be held while a new call is made.
    fn enter(&self) -> Result<Active<'_>> {
        self.options.check()?;
        self.shared.enter()
    }

    /// How many workers the pool keeps.
    pub fn workers(&self) -> usize {
        self.shared.workers
    }

    /// Runs `task` once, in a worker, and waits for its result.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// fn add(a: u32, b: u32) -> u32 {
    ///     a + b
    /// }
    ///
    /// let pool = manycore::Pool::with_workers(1)?;
    /// assert_eq!(pool.apply(add, (1, 2))?, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`Pool`].
    pub fn apply<Args, F>(&self, task: F, arguments: Args) -> Result<F::Output>
    where
        Args: Arguments,
        F: Task<Args, Output: DeserializeOwned + 'static>,
    {
        const { F::IS_SENDABLE };
        let _active = self.enter()?;
        only(Map::single(&self.shared, &self.options, self.place(&task)?, arguments).run()?)
    }

    /// Runs `task` on every item, in the workers, and gives the results in the
    /// order of the items.
    ///
    /// Items travel in chunks whose size follows what they turn out to cost; a
    /// chunk is about a millisecond of work, or one item.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(2)?;
    /// assert_eq!(pool.map(|x: u64| x * x, 0..4)?, [0, 1, 4, 9]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first that failed, in the order of the items; see [`Pool`] and [`Error::item`](crate::Error::item).
    /// Items after it may not have been run; none is still running when this returns.
    pub fn map<A, F, I>(&self, task: F, items: I) -> Result<Vec<F::Output>>
    where
        (A,): Arguments,
        F: Task<(A,), Output: DeserializeOwned + 'static>,
        I: IntoIterator<Item = A>,
    {
        const { F::IS_SENDABLE };
        self.starmap(task, items.into_iter().map(|item| (item,)))
    }

    /// As [`map`](Pool::map), for tasks of several arguments: each item is the tuple of them.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(2)?;
    /// assert_eq!(pool.starmap(|a: u32, b: u32| a + b, [(1, 2), (3, 4)])?, [3, 7]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`map`](Pool::map).
    pub fn starmap<Args, F, I>(&self, task: F, items: I) -> Result<Vec<F::Output>>
    where
        Args: Arguments,
        F: Task<Args, Output: DeserializeOwned + 'static>,
        I: IntoIterator<Item = Args>,
    {
        const { F::IS_SENDABLE };
        let _active = self.enter()?;
        let items = Vec::from_iter(items);
        Map::new(&self.shared, &self.options, self.place(&task)?, items).run()
    }

    /// As [`map`](Pool::map), but every item has a result of its own, so that a failure costs the item that failed and no
    /// other: all items are run. Each travels alone, which costs a microsecond or two an item more than `map`.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(2)?;
    /// let halves = pool.map_results(|x: u64| if x % 2 == 0 { x / 2 } else { std::process::abort() }, 0..4)?;
    /// assert_eq!(halves.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false]);
    /// assert_eq!(halves[3].as_ref().unwrap_err().item(), Some(3));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where no call can be made at all; otherwise each result is one of its own, see [`Pool`].
    pub fn map_results<A, F, I>(&self, task: F, items: I) -> Result<Vec<Result<F::Output>>>
    where
        (A,): Arguments,
        F: Task<(A,), Output: DeserializeOwned + 'static>,
        I: IntoIterator<Item = A>,
    {
        const { F::IS_SENDABLE };
        Ok(self.imap(task, items)?.collect())
    }

    /// As [`map`](Pool::map), lazily: an iterator over the results, in the order of the items. Items are
    /// read as results are taken, at most [`Imap::buffersize`] ahead, so they may be without end.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(2)?;
    /// let squares = pool.imap(|x: u64| x * x, 0..)?.take_while(|square| square.as_ref().is_ok_and(|x| *x < 30));
    /// assert_eq!(squares.collect::<manycore::Result<Vec<_>>>()?, [0, 1, 4, 9, 16, 25]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where no call can be made at all; otherwise each result is one of its own, see [`Pool`].
    pub fn imap<'p, A, F, I>(&self, task: F, items: I) -> Result<Imap<'p, (A,), F::Output>>
    where
        (A,): Arguments,
        F: Task<(A,), Output: DeserializeOwned + 'static>,
        I: IntoIterator<Item = A, IntoIter: 'p>,
    {
        const { F::IS_SENDABLE };
        self.lazy(&task, items.into_iter().map(|item| (item,)), true)
    }

    /// As [`imap`](Pool::imap), with the results in the order in which they come.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(2)?;
    /// let sum = pool.imap_unordered(|x: u64| x * x, 0..4)?.sum::<manycore::Result<u64>>()?;
    /// assert_eq!(sum, 14);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`imap`](Pool::imap).
    pub fn imap_unordered<'p, A, F, I>(&self, task: F, items: I) -> Result<Imap<'p, (A,), F::Output>>
    where
        (A,): Arguments,
        F: Task<(A,), Output: DeserializeOwned + 'static>,
        I: IntoIterator<Item = A, IntoIter: 'p>,
    {
        const { F::IS_SENDABLE };
        self.lazy(&task, items.into_iter().map(|item| (item,)), false)
    }

    fn lazy<'p, Args, F>(
        &self,
        task: &F,
        items: impl Iterator<Item = Args> + 'p,
        ordered: bool,
    ) -> Result<Imap<'p, Args, F::Output>>
    where
        Args: Arguments,
        F: Task<Args, Output: DeserializeOwned + 'static>,
    {
        let _active = self.enter()?;
        Ok(Imap::new(&self.shared, &self.options, self.place(task)?, items, ordered))
    }

    /// Runs `task` once, in a worker, and gives a ticket for its result at once.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(1)?;
    /// let ticket = pool.apply_async(|a: u32, b: u32| a + b, (1, 2))?;
    /// // Meanwhile, something else.
    /// assert_eq!(ticket.get()?, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the call cannot be made at all; what becomes of it, says the ticket.
    pub fn apply_async<Args, F>(&self, task: F, arguments: Args) -> Result<Ticket<F::Output>>
    where
        Args: Arguments + Send,
        F: Task<Args, Output: DeserializeOwned + Send + 'static>,
    {
        const { F::IS_SENDABLE };
        let _active = self.enter()?;
        let map = Map::single(&self.shared, &self.options, self.place(&task)?, arguments);
        Ticket::start(&self.shared, map.key(), Box::new(Single(map)))
    }

    /// As [`map`](Pool::map), but gives a ticket for the results at once. Items are read before it returns.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(2)?;
    /// let ticket = pool.map_async(|x: u64| x * x, 0..4)?;
    /// assert_eq!(ticket.get()?, [0, 1, 4, 9]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`apply_async`](Pool::apply_async).
    pub fn map_async<A, F, I>(&self, task: F, items: I) -> Result<Ticket<Vec<F::Output>>>
    where
        (A,): Arguments + Send,
        F: Task<(A,), Output: DeserializeOwned + Send + 'static>,
        I: IntoIterator<Item = A>,
    {
        const { F::IS_SENDABLE };
        self.starmap_async(task, items.into_iter().map(|item| (item,)))
    }

    /// As [`starmap`](Pool::starmap), but gives a ticket for the results at once. Items are read before it
    /// returns.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(2)?;
    /// let ticket = pool.starmap_async(|a: u32, b: u32| a + b, [(1, 2), (3, 4)])?;
    /// assert_eq!(ticket.get()?, [3, 7]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`apply_async`](Pool::apply_async).
    pub fn starmap_async<Args, F, I>(&self, task: F, items: I) -> Result<Ticket<Vec<F::Output>>>
    where
        Args: Arguments + Send,
        F: Task<Args, Output: DeserializeOwned + Send + 'static>,
        I: IntoIterator<Item = Args>,
    {
        const { F::IS_SENDABLE };
        let _active = self.enter()?;
        let items = Vec::from_iter(items);
        let map = Map::new(&self.shared, &self.options, self.place(&task)?, items);
        Ticket::start(&self.shared, map.key(), Box::new(map))
    }

    /// What the pool has done so far.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(2)?;
    /// pool.apply(|| (), ())?;
    /// assert_eq!((pool.statistics().workers, pool.statistics().returned), (2, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn statistics(&self) -> Statistics {
        let engine = self.shared.engine.statistics();
        let (workers, workers_started) = self.shared.crew.count();
        Statistics {
            workers,
            workers_started,
            workers_ended: engine.ended,
            submitted: engine.submitted,
            in_flight: self.shared.engine.in_flight(),
            returned: engine.returned,
            failed: engine.raised,
            lost: engine.lost,
            cancelled: engine.cancelled,
            expired: engine.expired,
            busy: Duration::from_nanos(engine.running),
        }
    }

    /// Takes no more calls. Those that were made go on; wait for them with [`join`](Pool::join).
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(1)?;
    /// let ticket = pool.apply_async(|| 1, ())?;
    /// pool.close();
    /// assert!(pool.apply(|| 2, ()).unwrap_err().is_closed());
    /// pool.join()?;
    /// assert!(ticket.is_ready());
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self) {
        self.shared.close();
    }

    /// Waits until every call that was made is done, and the workers have ended. Tickets keep their results.
    /// What is left of an [`Imap`] fails with [`Error::is_closed`](crate::Error::is_closed).
    ///
    /// # Errors
    /// Where the pool was neither closed nor terminated before.
    pub fn join(&self) -> Result<()> {
        self.shared.join()
    }

    /// Ends every worker at once, also in the middle of a task. Calls that wait in other
    /// threads, and tickets, fail with [`Error::is_closed`](crate::Error::is_closed), and so does every later one.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(1)?;
    /// let ticket = pool.apply_async(|| loop { std::thread::park() }, ())?;
    /// pool.terminate();
    /// let result: manycore::Result<()> = ticket.get();
    /// assert!(result.unwrap_err().is_closed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn terminate(&self) {
        self.shared.terminate();
    }

    fn place<Args: 'static, F: Task<Args>>(&self, task: &F) -> Result<Placed> {
        self.shared.place(|| Code::of(task))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A forked process has a copy of the pool, but neither its workers nor its threads.
        if self.is_owner && self.shared.engine.is_ours() {
            self.shared.close();
            // Nobody waits for what still runs but holders of tickets, who get an error.
            self.shared.crew.end(self.shared.engine.in_flight() > 0 || !self.shared.keeper.is_idle());
            // Tickets that are asked for from now on hear that the pool is gone.
            let _ = self.shared.engine.terminate();
            self.shared.stop();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("workers", &self.workers()).finish_non_exhaustive()
    }
}
