//! `Barrier`: all or none.

use super::place::Place;
use super::{deadline, patiently};
use crate::error::{Error, Kind, Result};
use manycore_engine::Kind as Engine;
use manycore_engine::shm::barrier::{self, Arrival};
use manycore_engine::shm::lobby::Call;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, Instant};

/// A point that so many threads of any processes pass together.
///
/// When one of those who wait dies, or does not want to wait any longer, the others will never be
/// all: the barrier is broken then, for all who wait and all who come, until it is
/// [reset](Barrier::reset).
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::Process;
/// use manycore::sync::Barrier;
///
/// let both = Barrier::new(2)?;
/// let mut process = Process::spawn(|both: Barrier| both.wait().is_ok(), (both.clone(),))?;
/// both.wait()?;
/// assert!(process.join()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Barrier(Place<barrier::Barrier>);

impl Barrier {
    /// A barrier for so many, at least 1.
    ///
    /// # Errors
    /// Where that is none or more than 2³¹, or no memory or descriptor is left for it.
    pub fn new(parties: usize) -> Result<Barrier> {
        let Some(parties) = u32::try_from(parties).ok().filter(|parties| (1..=1 << 31).contains(parties)) else {
            return Err(Error::new(Kind::Usage, format!("a barrier is for 1 to 2^31, not for {parties}")));
        };
        let place = Place::<barrier::Barrier>::new()?;
        place.begin(parties);
        Ok(Barrier(place))
    }

    /// Waits until all are there. Gives each of them another number, from 0 on.
    ///
    /// # Errors
    /// [`Error::is_broken`]: one of them has died or gone, or somebody called
    /// [`Barrier::abort`] or [`Barrier::reset`].
    pub fn wait(&self) -> Result<usize> {
        self.wait_until(None)
    }

    /// As [`Barrier::wait`], for `limit` at the longest.
    ///
    /// # Errors
    /// Also [`Error::is_timeout`]; the barrier is broken then.
    pub fn wait_timeout(&self, limit: Duration) -> Result<usize> {
        self.wait_until(deadline(limit))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<usize> {
        let (index, number) = match patiently(|| self.0.arrive(false, deadline)) {
            Ok(Arrival::Passed(number) | Arrival::Last(number)) => return Ok(number as usize),
            Ok(Arrival::Wait(index, number)) => (index, number as usize),
            Ok(Arrival::Broken) => return Err(broken()),
            Err(error) if error.kind() == Engine::Timeout => {
                self.abort()?;
                return Err(late());
            }
            Err(error) => return Err(error.into()),
        };
        let call = match patiently(|| self.0.wait(index, deadline)) {
            Ok(call) => call,
            Err(error) if error.kind() == Engine::Timeout => match patiently(|| self.0.give_up(index))? {
                Call::Come => Call::Come,
                Call::Away => return Err(late()),
            },
            Err(error) => return Err(error.into()),
        };
        match call {
            Call::Come => Ok(number),
            Call::Away => Err(broken()),
        }
    }

    /// Breaks the barrier: waiting parties are turned away, and so are all that come later.
    ///
    /// # Errors
    /// Where shared memory is damaged.
    pub fn abort(&self) -> Result<()> {
        Ok(patiently(|| self.0.abort())?)
    }

    /// Turns away the waiting parties, and begins anew, broken or not.
    ///
    /// # Errors
    /// As [`Barrier::abort`].
    pub fn reset(&self) -> Result<()> {
        Ok(patiently(|| self.0.reset())?)
    }

    /// For how many it is.
    pub fn parties(&self) -> usize {
        self.0.parties() as usize
    }

    /// How many wait now.
    pub fn waiting(&self) -> usize {
        self.0.waiting() as usize
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.0.is_broken()
    }
}

fn broken() -> Error {
    let message = "the barrier is broken: somebody who waited there has died or gone; reset it to use it again";
    Error::new(Kind::Broken, message)
}

fn late() -> Error {
    Error::new(Kind::Timeout, "not all have come to the barrier in time; it is broken now, reset it to use it again")
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Barrier");
        shown.field("parties", &self.parties()).field("waiting", &self.waiting()).field("broken", &self.is_broken());
        shown.finish_non_exhaustive()
    }
}
