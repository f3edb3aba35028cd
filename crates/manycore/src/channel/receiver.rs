//! The receiving end of a channel.

use super::end::Line;
use crate::codec::{Reader, head_of};
use crate::error::{Error, Kind, Result};
use crate::sync::deadline;
use manycore_engine::pool::{Payload, Segments};
use manycore_engine::shm::channel::{Got, Wait};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of the largest buffer that is kept between two values.
const KEEP: usize = 1 << 16;

thread_local! {
    /// Where short values are copied to, kept for its memory.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The receiving end of a channel; see [the module](super).
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::Process;
/// use manycore::channel::{self, Receiver};
///
/// let (sender, receiver) = channel::unbounded::<u64>()?;
/// let sum = |numbers: Receiver<u64>| numbers.iter().map(Result::unwrap).sum::<u64>();
/// let mut adders = [Process::spawn(sum, (receiver.clone(),))?, Process::spawn(sum, (receiver,))?];
/// for number in 0..100 {
///     sender.send(number)?;
/// }
/// drop(sender); // so that they end
/// assert_eq!(adders[0].join()? + adders[1].join()?, 4950);
/// # Ok(())
/// # }
/// ```
pub struct Receiver<T> {
    line: Arc<Line>,
    values: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + 'static> Receiver<T> {
    /// The next value; waits for it as long as it takes.
    ///
    /// # Errors
    /// - [`Error::is_disconnected`]: no value waits, and nobody is left who could send one.
    /// - [`Error::is_encoding`]: what was sent is no `T`. It is gone.
    pub fn recv(&self) -> Result<T> {
        // Without a deadline nothing else ends the wait.
        self.receive(|| None)?.ok_or_else(disconnected)
    }

    /// As [`Receiver::recv`], and waits for `limit` at the longest.
    ///
    /// # Errors
    /// Also [`Error::is_timeout`].
    pub fn recv_timeout(&self, limit: Duration) -> Result<T> {
        let late = || Error::new(Kind::Timeout, format!("no value has come for {limit:?}"));
        self.receive(|| deadline(limit))?.ok_or_else(late)
    }

    /// As [`Receiver::recv`], and does not wait: None where no value waits.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let (sender, receiver) = manycore::channel::unbounded::<u8>()?;
    /// assert_eq!(receiver.try_recv()?, None);
    /// drop(sender);
    /// assert!(receiver.try_recv().unwrap_err().is_disconnected());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Receiver::recv`].
    pub fn try_recv(&self) -> Result<Option<T>> {
        loop {
            if let Some(value) = self.attempt()? {
                return Ok(Some(value));
            }
            if !self.line.is_cut()? {
                return Ok(None);
            }
            // The last value may have been sent before the line was cut, and after the attempt.
            if self.is_empty() {
                return Err(disconnected());
            }
        }
    }

    /// The values as they come, until nobody is left who could send one.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { receiver: self, is_over: false }
    }

    /// The next value; None after the deadline, for which `until` is asked when there is need
    /// to wait.
    fn receive(&self, until: impl FnOnce() -> Option<Instant>) -> Result<Option<T>> {
        if let Some(value) = self.attempt()? {
            return Ok(Some(value));
        }
        let (channel, until) = (&self.line.core.channel, until());
        loop {
            match channel.wait_message(until) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) if error.kind() == manycore_engine::Kind::Interrupted => self.look()?,
                Err(error) => return Err(error.into()),
            }
            if let Some(value) = self.attempt()? {
                return Ok(Some(value));
            }
        }
    }

    /// Takes a value if one waits.
    fn attempt(&self) -> Result<Option<T>> {
        let mut buffer = SPARE.take();
        let value = loop {
            match self.line.core.channel.try_receive(&mut buffer, Wait::Until(None)) {
                Ok(Got::Nothing | Got::Busy) => break Ok(None),
                Ok(Got::Inline(_)) if buffer.is_empty() => {
                    // A nudge: a sender has gone.
                    if let Err(error) = self.look() {
                        break Err(error);
                    }
                }
                Ok(Got::Inline(_)) => break read(&buffer, &Payload::Inline(Box::default())).map(Some),
                Ok(Got::Block(lease)) => {
                    let payload = Payload::Block(Arc::new(lease));
                    break read(&head_of(&payload), &payload).map(Some);
                }
                Err(error) if error.kind() == manycore_engine::Kind::Interrupted => {}
                Err(error) => break Err(error.into()),
            }
        };
        buffer.shrink_to(KEEP);
        // The thread may be ending; then the buffer does too.
        let _ = SPARE.try_with(|spare| spare.set(buffer));
        value
    }

    /// Whether anybody is left to send, where no value waits.
    fn look(&self) -> Result<()> {
        if self.line.is_cut()? && self.is_empty() {
            // Others may wait, too.
            self.line.core.nudge();
            return Err(disconnected());
        }
        Ok(())
    }
}

/// The value in `head`, whose segments are those of `payload`.
fn read<T: DeserializeOwned + 'static>(head: &[u8], payload: &Payload) -> Result<T> {
    Reader::in_parts(head, Segments::of(payload))?.read_value()
}

fn disconnected() -> Error {
    Error::new(Kind::Disconnected, "the channel is empty, and every sender of it is gone")
}

impl<T> Receiver<T> {
    pub(super) fn over(line: Line) -> Receiver<T> {
        Receiver { line: Arc::new(line), values: PhantomData }
    }

    /// How many values wait, about.
    pub fn len(&self) -> usize {
        self.line.core.channel.waiting() as usize
    }

    /// Whether no value waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many values may wait; None: any number.
    pub fn capacity(&self) -> Option<usize> {
        self.line.core.channel.capacity().map(|capacity| capacity as usize)
    }
}

/// The values of a [`Receiver`] as they come.
#[derive(Debug)]
pub struct Iter<'a, T> {
    receiver: &'a Receiver<T>,
    is_over: bool,
}

impl<T: DeserializeOwned + 'static> Iterator for Iter<'_, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        if self.is_over {
            return None;
        }
        match self.receiver.recv() {
            Err(error) if error.is_disconnected() => {
                self.is_over = true;
                None
            }
            received => Some(received),
        }
    }
}

impl<'a, T: DeserializeOwned + 'static> IntoIterator for &'a Receiver<T> {
    type Item = Result<T>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver { line: Arc::clone(&self.line), values: PhantomData }
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<T> Serialize for Receiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.line.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Receiver<T>, D::Error> {
        Line::deserialize(deserializer).map(Receiver::over)
    }
}
