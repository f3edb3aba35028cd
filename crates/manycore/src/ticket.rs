//! The caller's half of an asynchronous call.

use crate::error::{Error, Kind, Result};
use crate::failure;
use crate::keeper::Kept;
use crate::map::{Machine, Step};
use crate::shared::Shared;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A result that will come: of [`Pool::apply_async`](crate::Pool::apply_async),
/// [`map_async`](crate::Pool::map_async) or [`starmap_async`](crate::Pool::starmap_async).
///
/// Wait for it with [`get`](Ticket::get), or `.await` it in any async runtime: the pool wakes the future,
/// no thread waits for it. A ticket that is dropped lets its tasks run, and their results go. When the
/// [`Pool`](crate::Pool) is dropped before its tasks are done, the result is an error ([`Error::is_closed`]).
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// let pool = manycore::Pool::with_workers(1)?;
/// let sum = pool.apply_async(|a: u32, b: u32| a + b, (1, 2))?;
/// let squares = pool.map_async(|x: u32| x * x, 0..4)?;
/// assert_eq!(sum.get()?, 3);
/// assert_eq!(squares.get()?, [0, 1, 4, 9]);
/// # Ok(())
/// # }
/// ```
#[must_use = "a ticket that is dropped lets its tasks run, and nobody hears of their errors"]
pub struct Ticket<T> {
    call: Arc<Call<T>>,
}

/// A [`Ticket`] that is awaited. Dropping it does not cancel the call.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// let pool = manycore::Pool::with_workers(1)?;
/// let sum = async {
///     let one = pool.apply_async(|| 1, ())?;
///     let two = pool.apply_async(|| 2, ())?;
///     manycore::Result::Ok(one.await? + two.await?)
/// };
/// assert_eq!(smol::block_on(sum)?, 3);
/// # Ok(())
/// # }
/// ```
#[must_use = "a future does nothing unless it is polled"]
pub struct TicketFuture<T> {
    call: Arc<Call<T>>,
}

struct Call<T> {
    shared: Arc<Shared>,
    key: u64,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// Until it is done.
    machine: Option<Box<dyn Machine<T>>>,
    /// From then on, until it is taken.
    result: Option<Result<T>>,
    waker: Option<Waker>,
}

impl<T> Call<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the job on as far as it goes without waiting.
    fn advance(&self) -> Step {
        let mut state = self.state();
        let Some(machine) = &mut state.machine else { return Step::Done };
        // Values are written and read by their own code, which may panic: in the thread that
        // waits for them, and not in one that serves others.
        let step = catch_unwind(AssertUnwindSafe(|| machine.advance()));
        let done = match step {
            Ok(Step::Done) => state.machine.take().map(Machine::finish),
            Ok(step) => return step,
            Err(payload) => {
                state.machine = None;
                let said = failure::said(&*payload);
                let message = format!("an argument or a result panicked when it was written or read: {said}");
                Some(Err(Error::new(Kind::Encoding, message)))
            }
        };
        state.result = done;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Step::Done
    }

    /// See [`Machine::needs_care`].
    fn needs_care(&self) -> bool {
        self.state().machine.as_ref().is_some_and(|machine| machine.needs_care())
    }

    /// The result of a job that is done.
    fn take(&self) -> Result<T> {
        let taken = || Err(Error::new(Kind::Usage, "the result of this call was taken before"));
        self.state().result.take().unwrap_or_else(taken)
    }

    /// The job cannot be brought on any more.
    fn fail(&self, error: Error) {
        let mut state = self.state();
        // A result that has come says more.
        if state.machine.take().is_some() {
            state.result = Some(Err(error));
        }
    }
}

impl<T: Send> Kept for Call<T> {
    fn tend(&self) -> Step {
        self.advance()
    }
}

impl<T: Send + 'static> Ticket<T> {
    /// Submits what there is room for, and leaves the rest to the keeper.
    pub(crate) fn start(shared: &Arc<Shared>, key: u64, machine: Box<dyn Machine<T>>) -> Result<Ticket<T>> {
        shared.start_keeper()?;
        let state = State { machine: Some(machine), result: None, waker: None };
        let ticket = Ticket { call: Arc::new(Call { shared: Arc::clone(shared), key, state: Mutex::new(state) }) };
        ticket.leave();
        Ok(ticket)
    }

    /// Leaves to the keeper what is not submitted yet, what tasks may ask for, and what may have to be run again: the
    /// ticket may be dropped before.
    fn leave(&self) {
        let is_kept = match self.call.advance() {
            Step::Done => false,
            Step::Owed => self.call.needs_care(),
            Step::Hungry | Step::Full => true,
        };
        if is_kept {
            self.call.shared.keep(self.call.key, self.call.clone());
        }
    }

    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let Call { shared, key, .. } = &*self.call;
        let _active = shared.stay();
        shared.release(*key);
        match shared.drive(*key, deadline, || self.call.advance()) {
            Ok(true) => true,
            Ok(false) => {
                self.leave();
                false
            }
            Err(error) => {
                self.call.fail(error);
                true
            }
        }
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// As for the call without `_async`; [`Error::is_cancelled`] when it was cancelled, and [`Error::is_closed`]
    /// when the pool was terminated or dropped first.
    pub fn get(self) -> Result<T> {
        self.wait_until(None);
        self.call.take()
    }

    /// Waits for the result for at most `timeout`.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// use std::time::Duration;
    ///
    /// let pool = manycore::Pool::with_workers(1)?;
    /// let nap = || std::thread::sleep(Duration::from_millis(50));
    /// let mut ticket = pool.apply_async(nap, ())?;
    /// assert!(ticket.get_timeout(Duration::from_millis(1)).unwrap_err().is_timeout());
    /// ticket.get_timeout(Duration::from_secs(60))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::is_timeout`] when it has not come by then; the call goes on, and may be asked for again.
    /// Otherwise as [`Ticket::get`]. A result can be taken once.
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<T> {
        if self.wait(Some(timeout)) {
            return self.call.take();
        }
        Err(Error::new(Kind::Timeout, format!("no result within {timeout:?}; the call goes on")))
    }

    /// Waits until the result is there, for at most `timeout` where one is given. Says whether it is.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(1)?;
    /// let ticket = pool.apply_async(|| 1, ())?;
    /// assert!(ticket.wait(None) && ticket.is_ready());
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        self.wait_until(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// Whether the result is there. Does not wait.
    pub fn is_ready(&self) -> bool {
        let Call { shared, .. } = &*self.call;
        // Nothing else may be looking: collects, and buries, what there is.
        shared.crew.look();
        let step = self.call.advance();
        if matches!(step, Step::Hungry | Step::Full) {
            shared.keep(self.call.key, self.call.clone());
        }
        step == Step::Done
    }

    /// Cancels the call: what waits in the queue never runs; the workers that run a part of it are killed
    /// and replaced. Says whether there was anything to cancel: not so, if the result is there.
    ///
    /// The result then is an error, [`Error::is_cancelled`], which is there as soon as none of the call's
    /// tasks runs any more. Other calls are not affected.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(1)?;
    /// let ticket = pool.apply_async(|| loop { std::thread::park() }, ())?;
    /// assert!(ticket.cancel());
    /// let result: manycore::Result<()> = ticket.get();
    /// assert!(result.unwrap_err().is_cancelled());
    /// assert_eq!(pool.apply(|| 1, ())?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel(&self) -> bool {
        if self.call.advance() == Step::Done {
            return false;
        }
        let mut state = self.call.state();
        match &mut state.machine {
            Some(machine) => machine.cancel(),
            None => return false,
        }
        drop(state);
        // For a call without tasks in flight that was its end.
        self.call.advance();
        true
    }
}

impl<T: Send + 'static> IntoFuture for Ticket<T> {
    type Output = Result<T>;
    type IntoFuture = TicketFuture<T>;

    fn into_future(self) -> TicketFuture<T> {
        TicketFuture { call: self.call }
    }
}

impl<T: Send + 'static> Future for TicketFuture<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let call = &self.call;
        {
            let mut state = call.state();
            if state.machine.is_some() {
                state.waker = Some(context.waker().clone());
            }
        }
        // After the waker is there: whoever brings the job to its end from here on finds it.
        let collected = call.shared.engine.collect();
        let is_done = call.advance() == Step::Done;
        if let Err(error) = collected
            && !is_done
        {
            // Nothing comes any more: shared memory is damaged, or another process's.
            call.fail(error.into());
            call.state().waker = None;
            return Poll::Ready(call.take());
        }
        if is_done {
            call.state().waker = None;
            return Poll::Ready(call.take());
        }
        call.shared.keep(call.key, call.clone());
        Poll::Pending
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("key", &self.call.key).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for TicketFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketFuture").field("key", &self.call.key).finish_non_exhaustive()
    }
}
