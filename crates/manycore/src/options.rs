//! What a call can be told beyond its arguments.

use crate::error::{Error, Kind, Result};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a call, or every call of a map, is told beyond its arguments; for [`Pool::with`](crate::Pool::with).
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::{CallOptions, Pool};
/// use std::time::Duration;
///
/// let pool = Pool::with_workers(2)?;
/// let careful = CallOptions::new().task_timeout(Duration::from_secs(5)).retries(2).priority(1);
/// assert_eq!(pool.with(careful).map(|x: u64| x * x, 0..4)?, [0, 1, 4, 9]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "options do nothing until a pool is given them"]
pub struct CallOptions {
    pub(crate) limit: Option<Duration>,
    pub(crate) priority: i32,
    pub(crate) retries: u32,
    pub(crate) retry_if: Option<Arc<RetryIf>>,
}

pub(crate) type RetryIf = dyn Fn(&Error) -> bool + Send + Sync;

impl CallOptions {
    /// What every call is told unless it is told something else: the pool's time limit, no retries, priority 0.
    pub fn new() -> CallOptions {
        CallOptions::default()
    }

    /// Limits the time of each call, in the place of the pool's own limit
    /// ([`PoolBuilder::task_timeout`](crate::PoolBuilder::task_timeout)).
    pub fn task_timeout(mut self, limit: Duration) -> CallOptions {
        self.limit = Some(limit);
        self
    }

    /// Calls of a higher priority, 0 unless it is said, are begun first; among equals, those that were made first.
    /// What runs already is not interrupted.
    pub fn priority(mut self, priority: i32) -> CallOptions {
        self.priority = priority;
        self
    }

    /// A call whose worker was lost, or that took longer than it may, is run again, so many times at most. The calls of a
    /// map then travel one by one, which costs a microsecond or two each, and what was written of their arguments is kept
    /// until they are answered.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// use manycore::{CallOptions, Pool, closure, sync::Mutex};
    ///
    /// let pool = Pool::with_workers(2)?;
    /// let crashes = Mutex::new(1u32)?;
    /// let fragile = closure!(move(crashes) |x: u64| {
    ///     let mut left = crashes.lock().unwrap();
    ///     if x == 3 && *left > 0 {
    ///         *left -= 1;
    ///         drop(left);
    ///         std::process::abort();
    ///     }
    ///     x
    /// });
    /// assert_eq!(pool.with(CallOptions::new().retries(1)).map(fragile, 0..10)?, Vec::from_iter(0..10));
    /// # Ok(())
    /// # }
    /// ```
    pub fn retries(mut self, retries: u32) -> CallOptions {
        self.retries = retries;
        self
    }

    /// Other failures after which a call is run again, as long as it has [`retries`](CallOptions::retries): those that
    /// `condition` says yes to, such as panics with a certain message. It is asked in the thread that hears of the
    /// failure. Calls that were cancelled, and those of a pool that has ended, are never run again.
    pub fn retry_if(mut self, condition: impl Fn(&Error) -> bool + Send + Sync + 'static) -> CallOptions {
        self.retry_if = Some(Arc::new(condition));
        self
    }

    /// Refuses what cannot be meant.
    pub(crate) fn check(&self) -> Result<()> {
        if self.limit == Some(Duration::ZERO) {
            return Err(Error::new(Kind::Usage, "a task must be allowed some time"));
        }
        Ok(())
    }

    /// Whether a call that failed with `error` may be run again, if it has retries left.
    pub(crate) fn may_retry(&self, error: &Error) -> bool {
        let is_ended = error.is_cancelled() || error.is_closed() || error.is_start();
        let condition = self.retry_if.as_ref();
        !is_ended && (error.is_worker_lost() || error.is_expired() || condition.is_some_and(|asked| asked(error)))
    }
}

impl fmt::Debug for CallOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CallOptions { limit, priority, retries, .. } = self;
        let mut text = f.debug_struct("CallOptions");
        text.field("task_timeout", limit).field("priority", priority).field("retries", retries).finish_non_exhaustive()
    }
}
