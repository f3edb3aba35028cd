//! Two ends that send to each other.

use super::{Receiver, Sender, unbounded};
use crate::error::Result;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One of two ends, which sends `S` to the other one and receives `R` from it.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::Process;
/// use manycore::channel::{End, pipe};
///
/// let (mine, yours) = pipe::<u64, String>()?;
/// let answer = |end: End<String, u64>| {
///     while let Ok(number) = end.recv() {
///         end.send(format!("{number}!")).unwrap();
///     }
/// };
/// let mut process = Process::spawn(answer, (yours,))?;
/// mine.send(42)?;
/// assert_eq!(mine.recv()?, "42!");
/// drop(mine);
/// process.join()
/// # }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct End<S, R> {
    /// To the other end.
    pub sender: Sender<S>,
    /// From the other end.
    pub receiver: Receiver<R>,
}

/// Two ends that send to each other, any number of values at a time.
///
/// # Errors
/// As [`unbounded`].
pub fn pipe<S, R>() -> Result<(End<S, R>, End<R, S>)>
where
    S: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    let (to_other, from_one) = unbounded()?;
    let (to_one, from_other) = unbounded()?;
    Ok((End { sender: to_other, receiver: from_other }, End { sender: to_one, receiver: from_one }))
}

impl<S: Serialize + DeserializeOwned + 'static, R: DeserializeOwned + 'static> End<S, R> {
    /// Sends `value` to the other end.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn send(&self, value: S) -> Result<()> {
        self.sender.send(value)
    }

    /// The next value from the other end; waits for it as long as it takes.
    ///
    /// # Errors
    /// As [`Receiver::recv`].
    pub fn recv(&self) -> Result<R> {
        self.receiver.recv()
    }

    /// As [`End::recv`], and waits for `limit` at the longest.
    ///
    /// # Errors
    /// As [`Receiver::recv_timeout`].
    pub fn recv_timeout(&self, limit: Duration) -> Result<R> {
        self.receiver.recv_timeout(limit)
    }

    /// As [`End::recv`], and does not wait: None where no value waits.
    ///
    /// # Errors
    /// As [`Receiver::try_recv`].
    pub fn try_recv(&self) -> Result<Option<R>> {
        self.receiver.try_recv()
    }
}
