//! Waiting without a thread in between: whoever waits takes the helm.
//!
//! One waiting thread at a time (the helmsman) watches the workers; the others
//! sleep until it has collected something or leaves. See "Who collects" in README.md.

use super::caller::Pool;
use super::ledger::Ledger;
use crate::error::{Error, Kind, Result};
use crate::sync;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// What was waited for is there.
    Ready,
    /// Workers have ended and must be buried before it can be.
    Exits,
    /// The pause after kills is over: workers should be started in the empty seats, or the
    /// seats [left empty](Pool::leave_empty).
    Vacant,
}

/// A thread that does not hold the helm looks around this often for signals,
/// which cannot interrupt a condition variable.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// The helmsman, too, wakes up this often. Otherwise two things would go unnoticed: a signal
/// whose handler ran in another thread or just before the sleep, and a wake-up that was given
/// to a worker which is stopped (SIGSTOP).
const AIR: Duration = Duration::from_millis(500);

/// Nanoseconds of spinning before a sleep: 2 µs when spinning never paid, and at
/// most what two sleeps cost.
const SPIN: (u64, u64) = (2_000, 100_000);

/// The waiting threads, and how long spinning has been worth it.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    helm: Mutex<State>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: bool,
    followers: u32,
    /// Counts collections, so that a follower knows that it must look.
    news: u64,
    spin: u64,
}

impl Waiters {
    fn state(&self) -> MutexGuard<'_, State> {
        self.helm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may have changed. Tells those who wait without the helm; true when
    /// somebody is at the helm, who must be rung.
    #[must_use]
    pub(super) fn notify(&self) -> bool {
        let mut state = self.state();
        state.news += 1;
        if state.followers > 0 {
            self.left.notify_all();
        }
        state.taken
    }
}

/// One thread's attempt to wait.
pub(super) struct Helm<'a> {
    pool: &'a Pool,
}

impl<'a> Helm<'a> {
    pub(super) fn new(pool: &'a Pool) -> Helm<'a> {
        Helm { pool }
    }

    fn wait(&self, ready: &mut dyn FnMut(&mut Ledger) -> bool, deadline: Option<Instant>) -> Result<Woken> {
        let pool = self.pool;
        loop {
            pool.gather(pool.ledger())?;
            // Before the look at the ledger: news that come after it end the sleep below.
            let seen = pool.waiters.state().news;
            let (pause, rest) = {
                let mut ledger = pool.ledger();
                let looked = ledger.look(&pool.region, &pool.supervisor)?;
                if ready(&mut ledger) {
                    return Ok(Woken::Ready);
                }
                if !ledger.exited.is_empty() {
                    return Ok(Woken::Exits);
                }
                if looked {
                    // With short limits every sleep would be shorter than those after which signals are looked for.
                    return Err(Error::new(Kind::Interrupted, "time to look for signals"));
                }
                (ledger.pause(), ledger.rest())
            };
            if pause.is_some_and(|pause| pause.is_zero()) {
                return Ok(Woken::Vacant);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Error::new(Kind::Timeout, "the time given to a wait is over"));
            }
            let left = left.into_iter().chain(pause).chain(rest).min();
            let mut state = pool.waiters.state();
            if state.taken {
                if state.news == seen {
                    state.followers += 1;
                    let limit = left.unwrap_or(LOOK_AROUND).min(LOOK_AROUND);
                    let (mut state, timeout) =
                        pool.waiters.left.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner);
                    state.followers -= 1;
                    if timeout.timed_out() && left.is_none_or(|left| left > LOOK_AROUND) {
                        return Err(Error::new(Kind::Interrupted, "time to look for signals"));
                    }
                }
                continue;
            }
            state.taken = true;
            let spin = state.spin;
            drop(state);
            let watched = self.watch(spin, left);
            let mut state = pool.waiters.state();
            state.taken = false;
            state.news += 1;
            if let Ok(spin) = watched {
                state.spin = spin;
            }
            if state.followers > 0 {
                pool.waiters.left.notify_all();
            }
            drop(state);
            watched?;
        }
    }

    /// At the helm: spins, then sleeps, until a worker has finished something or
    /// ended. Gives the time to spin next time.
    fn watch(&self, spin: u64, left: Option<Duration>) -> Result<u64> {
        let pool = self.pool;
        let queue = pool.region.queue();
        let busy = pool.in_flight();
        let spin = spin.clamp(SPIN.0, SPIN.1);
        // Spinning is free only while a processor would have nothing else to do.
        if busy < processors() {
            let start = Instant::now();
            loop {
                for _ in 0..64 {
                    if queue.any_done() {
                        return Ok((spin * 2).min(SPIN.1));
                    }
                    sync::spin();
                }
                if start.elapsed().as_nanos() as u64 >= spin {
                    break;
                }
            }
        }
        let doorbell = pool.region.doorbell();
        doorbell.caller_sleeps();
        let events =
            if queue.any_done() { Ok(Vec::new()) } else { pool.supervisor.wait(Some(left.unwrap_or(AIR).min(AIR))) };
        doorbell.caller_woke();
        let events = events?;
        if events.is_empty() && !queue.any_done() {
            doorbell.remind(&queue);
            if left.is_none_or(|left| left > AIR) {
                return Err(Error::new(Kind::Interrupted, "time to look for signals"));
            }
        }
        pool.ledger().note(&events);
        Ok((spin / 2).max(SPIN.0))
    }
}

/// Processors this process may use, asked once.
fn processors() -> usize {
    static PROCESSORS: sync::Found = sync::Found::new();
    PROCESSORS.get(|| std::thread::available_parallelism().map_or(1, usize::from) as u64) as usize
}

/// Turns of a glance: about a microsecond.
const GLANCE: usize = 32;

impl Pool {
    /// Looks for finished tasks for about a microsecond, and collects what there is. Whoever has just submitted a
    /// small task does this before it waits: to take the helm and leave it costs as much as such a task.
    pub fn glance(&self) -> Result<()> {
        let queue = self.region.queue();
        for _ in 0..GLANCE {
            if queue.any_done() {
                break;
            }
            sync::spin();
        }
        self.collect()
    }

    /// Waits until an outcome of `job` has arrived or none is owed.
    ///
    /// # Errors
    /// [`Kind::Timeout`] after `deadline`; [`Kind::Interrupted`] when it is time to
    /// run signal handlers and call again.
    pub fn wait_for(&self, job: u64, deadline: Option<Instant>) -> Result<Woken> {
        self.helm().wait(&mut |ledger| ledger.is_ready(job), deadline)
    }

    /// Waits until a task of `priority` can be submitted.
    pub fn wait_for_room(&self, priority: i32, deadline: Option<Instant>) -> Result<Woken> {
        self.helm().wait(&mut |ledger| super::caller::has_room(ledger, priority), deadline)
    }

    /// Waits until a worker is ready to take tasks.
    pub fn wait_for_worker(&self, deadline: Option<Instant>) -> Result<Woken> {
        self.helm().wait(&mut |ledger| (0..ledger.seats.len()).any(|seat| self.region.is_ready(seat as u16)), deadline)
    }

    /// Waits until [`Pool::events`] is no longer `seen`.
    pub fn wait_for_event(&self, seen: u64, deadline: Option<Instant>) -> Result<Woken> {
        self.helm().wait(&mut |ledger| ledger.events != seen, deadline)
    }

    /// The keeper waits until an outcome of a kept job has arrived; where it has
    /// tasks to feed, until something has happened since event `hungry` and workers
    /// are about to run dry; or until `called` is true, asked after each
    /// [nudge](Pool::nudge).
    pub fn wait_as_keeper(&self, hungry: Option<u64>, called: &dyn Fn() -> bool) -> Result<Woken> {
        let runs_dry = |ledger: &mut Ledger| hungry.is_some_and(|seen| ledger.events != seen) && ledger.runs_dry();
        self.helm().wait(&mut |ledger| ledger.any_news() || called() || runs_dry(ledger), None)
    }

    /// Whether there are jobs that [`Pool::take_news`] would give.
    pub fn has_news(&self) -> bool {
        self.ledger().any_news()
    }

    /// Kept jobs for which an outcome has arrived, and others that lost a task and mind that, in the order of arrival.
    pub fn take_news(&self) -> Vec<u64> {
        self.ledger().take_news()
    }

    /// The keeper has nothing to wait for but a worker's end, the end of a pause, or a
    /// [nudge](Pool::wake_keeper); it collects nothing meanwhile, so finished
    /// tasks wake nobody.
    pub fn doze(&self) -> Result<Woken> {
        // Somebody must wait for an answer, or kills would have an idle pool start workers for ever.
        let pause = |ledger: &Ledger| ledger.pause().filter(|_| ledger.in_flight() > 0);
        let limit = {
            let ledger = self.ledger();
            pause(&ledger).into_iter().chain(ledger.rest()).min()
        };
        let events = self.supervisor.wait_as_keeper(limit)?;
        let mut ledger = self.ledger();
        ledger.note(&events);
        ledger.look(&self.region, &self.supervisor)?;
        Ok(match pause(&ledger) {
            _ if !ledger.exited.is_empty() => Woken::Exits,
            Some(Duration::ZERO) => Woken::Vacant,
            _ => Woken::Ready,
        })
    }

    /// Wakes the keeper from [`Pool::doze`].
    pub fn wake_keeper(&self) {
        self.supervisor.ring_keeper();
    }
}
