//! Sleeping and waking without lost wake-ups, and without wakes nobody needs.
//!
//! See "The doorbell" in README.md for the protocol and the proof sketch.

use super::queue::{Line, Queue};
use crate::error::{Kind, Result};
use crate::sync::{AtomicU32, Ordering, full_fence, futex_wait, futex_wake};
use std::time::Duration;

/// The words by which workers and caller wake each other.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Doorbell {
    /// Changes with every wake; sleeping workers wait on it.
    work: Line<AtomicU32>,
    /// How many workers sleep or are about to. A worker killed in its sleep
    /// leaves it too high, which costs a system call and no more.
    sleepers: Line<AtomicU32>,
    /// The seat, plus one, of the only worker that may spin for work.
    spinner: Line<AtomicU32>,
    /// 1 while the caller sleeps.
    caller_asleep: Line<AtomicU32>,
    /// 1 when no task will come any more.
    closed: Line<AtomicU32>,
}

impl Doorbell {
    /// Wakes a worker for what was just published, if one is needed. `force`
    /// wakes one even where a spinner would see the task by itself.
    pub fn published(&self, queue: &Queue<'_>, force: bool) {
        full_fence(); // Pairs with `sleep` and `stop_spinning`.
        if self.sleepers.0.load(Ordering::Relaxed) == 0 {
            return;
        }
        let spinning = u64::from(!force && self.spinner.0.load(Ordering::Relaxed) != 0);
        if queue.waiting() > spinning {
            self.wake(1);
        }
    }

    fn wake(&self, workers: u32) {
        self.work.0.fetch_add(1, Ordering::Release);
        futex_wake(&self.work.0, workers);
    }

    /// Whether the worker in `seat` may spin: at most one does, so the others
    /// leave their processors to those who have work.
    pub fn may_spin(&self, seat: u16) -> bool {
        self.spinner.0.load(Ordering::Relaxed) == 0
            && self.spinner.0.compare_exchange(0, u32::from(seat) + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The spinner in `seat` spins no longer. Whoever counted on it while it was
    /// about to leave is served here: it looks once more and wakes a sleeper for
    /// what it leaves behind.
    pub fn stop_spinning(&self, seat: u16, queue: &Queue<'_>) {
        let mine = u32::from(seat) + 1;
        if self.spinner.0.compare_exchange(mine, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.published(queue, true);
        }
    }

    /// The worker sleeps until there may be work, the queue is closed, or a
    /// signal handler ran ([`Kind::Interrupted`]).
    pub fn sleep(&self, queue: &Queue<'_>, limit: Option<Duration>) -> Result<()> {
        let seen = self.work.0.load(Ordering::Acquire);
        self.sleepers.0.fetch_add(1, Ordering::Relaxed);
        full_fence(); // Pairs with `published`: one of us sees the other.
        let outcome =
            if queue.waiting() == 0 && !self.is_closed() { futex_wait(&self.work.0, seen, limit) } else { Ok(()) };
        self.sleepers.0.fetch_sub(1, Ordering::Relaxed);
        match outcome {
            Err(error) if error.kind() == Kind::Timeout => Ok(()),
            other => other,
        }
    }

    /// No task will come any more: wakes everybody to hear it.
    pub fn close(&self) {
        self.closed.0.store(1, Ordering::Release);
        full_fence();
        self.wake(u32::MAX >> 1);
    }

    /// Whether [`Doorbell::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.closed.0.load(Ordering::Acquire) != 0
    }

    /// The caller is about to sleep; it must look for finished tasks once more
    /// after this and before it does.
    pub fn caller_sleeps(&self) {
        self.caller_asleep.0.store(1, Ordering::Relaxed);
        full_fence(); // Pairs with `finished`.
    }

    /// The caller is awake again.
    pub fn caller_woke(&self) {
        self.caller_asleep.0.store(0, Ordering::Relaxed);
    }

    /// After a finished task was pushed: whether the caller must be rung. At
    /// most one worker is told so for each sleep.
    #[must_use]
    pub fn finished(&self) -> bool {
        full_fence(); // Pairs with `caller_sleeps`.
        self.caller_asleep.0.load(Ordering::Relaxed) != 0 && self.caller_asleep.0.swap(0, Ordering::Relaxed) != 0
    }

    /// Nothing has been finished for a while: wakes another worker if tasks wait, since
    /// the one that was woken, or spins, may be stopped.
    pub fn remind(&self, queue: &Queue<'_>) {
        self.published(queue, true);
    }

    /// The worker in `seat` is dead: what it promised to the others is undone.
    pub fn bury(&self, seat: u16, queue: &Queue<'_>) {
        self.stop_spinning(seat, queue);
        // It may have been woken for a task and died before it claimed.
        self.published(queue, true);
    }
}
