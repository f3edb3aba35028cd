//! The sending end of a channel.

use super::end::Line;
use crate::codec::Writer;
use crate::error::{Error, Kind, Result};
use crate::sync::deadline;
use manycore_engine::shm::channel::{Sent, Wait};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Of so many values sent, one looks whether there is still a receiver: a look takes as
/// long as sending two or three.
const LOOK: u32 = 64;

thread_local! {
    /// Where values are written, kept for its memory.
    static SPARE: Cell<Option<Writer>> = const { Cell::new(None) };
}

/// The sending end of a channel; see [the module](super).
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::{Pool, channel, closure};
///
/// let (sender, receiver) = channel::unbounded()?;
/// let pool = Pool::with_workers(2)?;
/// pool.map(closure!(move(sender) |x: u64| sender.send(x * x).unwrap()), 0..4)?;
/// let mut squares: Vec<u64> = (0..4).map(|_| receiver.recv().unwrap()).collect();
/// squares.sort();
/// assert_eq!(squares, [0, 1, 4, 9]);
/// # Ok(())
/// # }
/// ```
pub struct Sender<T> {
    end: Arc<Sending>,
    values: PhantomData<fn(T)>,
}

/// This process's copies of one end.
struct Sending {
    /// None once it is dropped.
    line: Option<Line>,
    sent: AtomicU32,
}

/// A value on its way, and how long it may take.
enum Patience {
    None,
    Until(Option<Instant>),
}

impl<T: Serialize + DeserializeOwned + 'static> Sender<T> {
    /// Sends `value`. Of a bounded channel that is full, waits as long as it takes.
    ///
    /// # Errors
    /// - [`Error::is_disconnected`]: nobody is left who could receive it. Not every one of the
    ///   last values before that gets this error.
    /// - [`Error::is_encoding`], [`Error::is_too_large`]: it cannot travel.
    pub fn send(&self, value: T) -> Result<()> {
        self.write(value, |writer| self.pass(writer, Patience::Until(None))).map(|_| ())
    }

    /// As [`Sender::send`], and waits for `limit` at the longest.
    ///
    /// # Errors
    /// Also [`Error::is_timeout`].
    pub fn send_timeout(&self, value: T, limit: Duration) -> Result<()> {
        if self.write(value, |writer| self.pass(writer, Patience::Until(deadline(limit))))? {
            return Ok(());
        }
        Err(Error::new(Kind::Timeout, format!("the channel is full for longer than {limit:?}")))
    }

    /// As [`Sender::send`], and does not wait: false where the channel is full.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn try_send(&self, value: T) -> Result<bool> {
        self.write(value, |writer| self.pass(writer, Patience::None))
    }

    /// Writes `value` and runs `send` on what came of it.
    fn write(&self, value: T, send: impl FnOnce(&mut Writer) -> Result<bool>) -> Result<bool> {
        let mut writer = SPARE.take().unwrap_or_else(Writer::in_parts);
        writer.begin(1);
        let sent = writer.push_value(value).and_then(|()| send(&mut writer));
        writer.clear();
        // The thread may be ending; then the buffer does too.
        let _ = SPARE.try_with(|spare| spare.set(Some(writer)));
        sent
    }

    fn pass(&self, writer: &mut Writer, patience: Patience) -> Result<bool> {
        let line = self.line()?;
        let channel = &line.core.channel;
        if self.end.sent.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK) {
            self.look(line)?;
        }
        let message = writer.message();
        let mut wait = Wait::No;
        loop {
            let reason = match channel.try_send(message, wait) {
                Ok(Sent::Done(_)) => return Ok(true),
                Ok(reason) => reason,
                Err(error) if error.kind() == manycore_engine::Kind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if let Sent::Busy = reason {
                wait = Wait::Until(None);
                continue;
            }
            let Patience::Until(until) = patience else {
                self.look(line)?;
                return Ok(false);
            };
            let waited = match reason {
                Sent::Full => channel.wait_room(until),
                _ => channel.wait_memory(until),
            };
            wait = Wait::No;
            match waited {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) if error.kind() == manycore_engine::Kind::Interrupted => self.look(line)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether anybody is left to receive.
    fn look(&self, line: &Line) -> Result<()> {
        if line.is_cut()? {
            return Err(Error::new(Kind::Disconnected, "every receiver of the channel is gone"));
        }
        Ok(())
    }
}

impl<T> Sender<T> {
    pub(super) fn over(line: Line) -> Sender<T> {
        Sender { end: Arc::new(Sending { line: Some(line), sent: AtomicU32::new(0) }), values: PhantomData }
    }

    fn line(&self) -> Result<&Line> {
        self.end.line.as_ref().ok_or_else(|| Error::new(Kind::Closed, "the sender is being dropped"))
    }

    /// How many values wait to be received, about.
    pub fn len(&self) -> usize {
        self.line().map_or(0, |line| line.core.channel.waiting() as usize)
    }

    /// Whether no value waits to be received.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many values may wait; None: any number.
    pub fn capacity(&self) -> Option<usize> {
        self.line().ok().and_then(|line| line.core.channel.capacity()).map(|capacity| capacity as usize)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            let core = Arc::clone(&line.core);
            // First the end of the line, so that whoever is nudged finds it cut.
            drop(line);
            core.nudge();
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { end: Arc::clone(&self.end), values: PhantomData }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<T> Serialize for Sender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.line().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Sender<T>, D::Error> {
        Line::deserialize(deserializer).map(Sender::over)
    }
}
