//! The watchdog: the thread of a pool whose tasks have a limited time.

use crate::error::{Error, Kind, Result};
use crate::shared::Shared;
use manycore_engine::pool::Sightings;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often it looks, at least and at most: an eighth of the limit, within these. So a task
/// ends late by an eighth of its time, and looking costs microseconds.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));

/// Ends tasks that run for longer than `limit`. Sleeps while none is in flight.
pub(crate) struct Watchdog {
    limit: Duration,
    sleeps: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub(crate) fn new(limit: Duration) -> Watchdog {
        Watchdog { limit, sleeps: AtomicBool::new(false), state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread, which ends with the pool.
    pub(crate) fn start(&self, shared: Arc<Shared>) -> Result<()> {
        let watch = move || shared.watchdog.iter().for_each(|watchdog| watchdog.run(&shared));
        let thread = thread::Builder::new().name("manycore-watchdog".to_owned()).spawn(watch);
        self.state().thread = Some(thread.map_err(|error| {
            Error::new(Kind::System, format!("starting a thread that watches the time tasks take: {error}"))
        })?);
        Ok(())
    }

    /// A task may have been submitted.
    pub(crate) fn poke(&self) {
        if self.sleeps.load(Ordering::SeqCst) {
            // Under the lock: between its look and its sleep it has it.
            let _state = self.state();
            self.changed.notify_all();
        }
    }

    pub(crate) fn stop(&self) {
        let thread = {
            let mut state = self.state();
            state.stopped = true;
            self.changed.notify_all();
            state.thread.take()
        };
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    fn run(&self, shared: &Shared) {
        let mut sightings = Sightings::default();
        let look = (self.limit / 8).clamp(LOOK.0, LOOK.1);
        loop {
            {
                let state = self.state();
                if state.stopped {
                    return;
                }
                // Said first, looked then; whoever submits looks second.
                self.sleeps.store(true, Ordering::SeqCst);
                if shared.engine.in_flight() == 0 {
                    drop(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
                } else {
                    self.sleeps.store(false, Ordering::SeqCst);
                    drop(self.changed.wait_timeout(state, look).unwrap_or_else(PoisonError::into_inner));
                }
                self.sleeps.store(false, Ordering::SeqCst);
            }
            shared.crew.expire(&mut sightings, self.limit);
        }
    }
}
