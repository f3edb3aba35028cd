//! Values from any number of processes to any number of processes.
//!
//! As `std::sync::mpsc`, but between processes, and with any number of receivers: each
//! value is received once, by one of them. Values are written with serde; what one sender
//! sends, a receiver gets in that order.
//!
//! ```
//! # fn main() -> manycore::Result<()> {
//! # manycore::init();
//! use manycore::Process;
//! use manycore::channel::{self, Sender};
//!
//! let (sender, receiver) = channel::unbounded::<(u32, String)>()?;
//! let count = |sender: Sender<(u32, String)>| {
//!     for number in 0..3 {
//!         sender.send((number, number.to_string())).unwrap();
//!     }
//! };
//! let mut process = Process::spawn(count, (sender,))?;
//! // Ends when nobody is left who could send.
//! let received: Vec<_> = receiver.iter().collect::<manycore::Result<_>>()?;
//! assert_eq!(received[2], (2, "2".to_owned()));
//! process.join()
//! # }
//! ```
//!
//! ```compile_fail
//! // What serde cannot read back is not sent.
//! manycore::channel::unbounded::<std::time::Instant>();
//! ```
//!
//! **Ends.** A [`Sender`] and a [`Receiver`] can be cloned, and given to a
//! [`Process`](crate::Process) or [`Pool`](crate::Pool) as part of an argument. When the last
//! sender of all processes is gone, dropped or dead, receivers get what was sent, then
//! [`Error::is_disconnected`](crate::Error::is_disconnected); a death is noticed within a tenth of a second. When the
//! last receiver is gone, so do senders, after some more values at the most.
//!
//! **Deaths.** A value is sent, or received, whole, or not at all, whoever is killed in
//! the midst of it, and nobody waits for the dead.

mod end;
mod pipe;
mod receiver;
mod sender;

pub use pipe::{End, pipe};
pub use receiver::{Iter, Receiver};
pub use sender::Sender;

use crate::error::{Error, Kind, Result};
use end::{Core, Line};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// A channel in which any number of values may wait.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// let (sender, receiver) = manycore::channel::unbounded()?;
/// sender.send("hello".to_owned())?;
/// assert_eq!(receiver.recv()?, "hello");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Where there is no memory or no descriptor left for it.
pub fn unbounded<T: Serialize + DeserializeOwned + 'static>() -> Result<(Sender<T>, Receiver<T>)> {
    open(None)
}

/// A channel in which at most `capacity` values wait, at least 1; who sends more waits for
/// a receiver.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// let (sender, receiver) = manycore::channel::bounded(1)?;
/// assert!(sender.try_send(1)?);
/// assert!(!sender.try_send(2)?, "it is full");
/// assert_eq!(receiver.recv()?, 1);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`unbounded`], and where `capacity` is 0 or more than 2³¹.
pub fn bounded<T: Serialize + DeserializeOwned + 'static>(capacity: usize) -> Result<(Sender<T>, Receiver<T>)> {
    match u32::try_from(capacity) {
        Ok(capacity @ 1..=0x7fff_ffff) => open(Some(capacity)),
        _ => Err(Error::new(Kind::Usage, format!("in a channel between 1 and 2^31 values may wait, not {capacity}"))),
    }
}

fn open<T: Serialize + DeserializeOwned + 'static>(capacity: Option<u32>) -> Result<(Sender<T>, Receiver<T>)> {
    let core = Arc::new(Core::create(capacity)?);
    let (read, write) = Line::pair(&core)?;
    Ok((Sender::over(write), Receiver::over(read)))
}
