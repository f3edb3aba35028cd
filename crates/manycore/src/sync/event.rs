//! `Event`: a flag to wait for.

use super::place::Place;
use super::{deadline, fail, patiently};
use crate::error::Result;
use manycore_engine::Kind;
use manycore_engine::shm::event;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, Instant};

/// A flag that any process sets and clears, and any number wait for.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::Process;
/// use manycore::sync::Event;
///
/// let go = Event::new()?;
/// let mut process = Process::spawn(|go: Event| go.wait(), (go.clone(),))?;
/// go.set();
/// process.join()
/// # }
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Event(Place<event::Event>);

impl Event {
    /// A flag that is not set.
    ///
    /// # Errors
    /// Where there is no memory or no descriptor left for it.
    pub fn new() -> Result<Event> {
        Ok(Event(Place::new()?))
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.is_set()
    }

    /// Sets the event, and wakes all processes and threads that wait for it.
    pub fn set(&self) {
        self.0.set();
    }

    /// Clears it.
    pub fn clear(&self) {
        self.0.clear();
    }

    /// Waits until it is set, or was set meanwhile.
    ///
    /// # Panics
    /// Where the kernel has no memory for a wait.
    pub fn wait(&self) {
        self.wait_until(None);
    }

    /// As [`Event::wait`], for `limit` at the longest; whether it was set.
    ///
    /// # Panics
    /// As [`Event::wait`].
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        self.wait_until(deadline(limit))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        match patiently(|| self.0.wait(deadline)) {
            Ok(()) => true,
            Err(error) if error.kind() == Kind::Timeout => false,
            Err(error) => fail("waiting for an event", &error),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("set", &self.is_set()).finish_non_exhaustive()
    }
}
