//! What both ends of a channel have: the engine's channel, and a line to the other side.
//!
//! The line is a pipe in which nobody ever writes. Senders hold the one end of it, receivers the
//! other; so the kernel counts them, in all processes, the dead and those that are
//! still on their way. Whoever waits looks now and then whether the other end is there.
//! So that it need not wait for the next look, the last sender of a process leaves a
//! message without bytes, a *nudge*; a process that finds the line cut leaves one for the next.

use crate::error::Result;
use crate::passing;
use manycore_engine::os::watch;
use manycore_engine::pool::Message;
use manycore_engine::shm::channel::{Channel, Wait};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a nudge may wait for its turn. Without it the others notice a little later.
const NUDGE: Duration = Duration::from_millis(50);

/// The engine's channel, once in each process.
pub(super) struct Core {
    pub(super) channel: Channel,
    /// The number of the memory file, which no other one has while this one is open.
    id: u64,
    file: Arc<OwnedFd>,
    bell: Arc<OwnedFd>,
}

/// The channels of this process.
static OPEN: Mutex<Vec<(u64, Weak<Core>)>> = Mutex::new(Vec::new());

impl Core {
    pub(super) fn create(capacity: Option<u32>) -> Result<Core> {
        Core::over(Channel::create(capacity)?)
    }

    fn over(channel: Channel) -> Result<Core> {
        let [file, bell] = [channel.file(), channel.bell()].map(|descriptor| descriptor.try_clone_to_owned());
        let (file, bell) = (Arc::new(file.map_err(refused)?), Arc::new(bell.map_err(refused)?));
        let id = number_of(&file).map_err(refused)?;
        Ok(Core { channel, id, file, bell })
    }

    /// The channel `id`, which this process may have already.
    fn attach<E: de::Error>(id: u64, file: u64, bell: u64) -> std::result::Result<Arc<Core>, E> {
        let mut open = open();
        open.retain(|(_, core)| core.strong_count() > 0);
        if let Some(core) = open.iter().find(|(other, _)| *other == id).and_then(|(_, core)| core.upgrade()) {
            return Ok(core);
        }
        let [file, bell] =
            [passing::get::<E>(file)?, passing::get::<E>(bell)?].map(|descriptor| descriptor.try_clone());
        let channel = Channel::attach(file.map_err(E::custom)?, bell.map_err(E::custom)?).map_err(E::custom)?;
        let core = Arc::new(Core::over(channel).map_err(E::custom)?);
        if core.id != id {
            return Err(E::custom("a channel has come with another one's memory"));
        }
        open.push((id, Arc::downgrade(&core)));
        Ok(core)
    }

    /// Makes one waiting receiver look whether any sender is left.
    pub(super) fn nudge(&self) {
        let until = Instant::now().checked_add(NUDGE);
        let _ = self.channel.try_send(Message::of(&[]), Wait::Until(until));
    }

    /// Notes it among the channels of this process.
    fn announce(self: &Arc<Core>) {
        let mut open = open();
        if open.iter().all(|(id, core)| *id != self.id || core.strong_count() == 0) {
            open.push((self.id, Arc::downgrade(self)));
        }
    }
}

fn open() -> MutexGuard<'static, Vec<(u64, Weak<Core>)>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number_of(file: &OwnedFd) -> std::io::Result<u64> {
    Ok(File::from(file.try_clone()?).metadata()?.ino())
}

fn refused(error: std::io::Error) -> crate::error::Error {
    crate::error::Error::new(crate::error::Kind::System, format!("opening a channel: {error}"))
}

/// One end of the line, with the channel. The other end's holders see it go with its
/// last copy.
pub(super) struct Line {
    pub(super) core: Arc<Core>,
    end: Arc<OwnedFd>,
}

impl Line {
    /// The receivers' end and the senders'.
    pub(super) fn pair(core: &Arc<Core>) -> Result<(Line, Line)> {
        core.announce();
        let (read, write) = std::io::pipe().map_err(refused)?;
        let line = |end: OwnedFd| Line { core: Arc::clone(core), end: Arc::new(end) };
        Ok((line(read.into()), line(write.into())))
    }

    /// Whether nobody holds the other end any more.
    pub(super) fn is_cut(&self) -> Result<bool> {
        // In a pipe without messages the only event is that its other end has gone.
        let [event] = watch::readable([self.end.as_fd()], Some(Duration::ZERO))?;
        Ok(event)
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let core = &self.core;
        let file = passing::put(None, || Ok(Arc::clone(&core.file)))?;
        let bell = passing::put(None, || Ok(Arc::clone(&core.bell)))?;
        let end = passing::put(None, || Ok(Arc::clone(&self.end)))?;
        (core.id, file, bell, end).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Line, D::Error> {
        let (id, file, bell, end) = <(u64, u64, u64, u64)>::deserialize(deserializer)?;
        Ok(Line { core: Core::attach::<D::Error>(id, file, bell)?, end: passing::take::<D::Error>(end)? })
    }
}
