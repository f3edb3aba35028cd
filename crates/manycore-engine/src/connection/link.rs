//! One descriptor as a stream of bytes: what it is, and how patiently it is read.

use super::patience::Patience;
use super::refused;
use crate::error::Result;
use crate::os::transfer::{self, Piece, Room, Stream};
use crate::sync::{self, AtomicU32, Ordering};
use rustix::io::Errno;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// What has been learned about a descriptor; its holder keeps the number.
#[derive(Debug, Default)]
pub struct Link {
    /// 0: not looked at yet.
    stream: AtomicU32,
    patience: Patience,
}

/// What [`Link::take`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// The room is full.
    All,
    /// There is nothing more, and we are not to wait longer.
    Later,
    /// The stream has ended before the room was full.
    End,
}

/// How to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Not,
    /// For the moment in which a message that is answered at once comes.
    Spinning,
    /// Asleep; comes up for air now and then, with nothing.
    Sleeping,
}

/// A signal's handler may run in another thread, or just before a sleep: nobody is woken then. So a sleeper looks
/// around this often.
const AIR: Duration = Duration::from_millis(500);

/// Messages through a pair have at least so many bytes, head included, so that one
/// call receives the whole of a small one: 1 µs less there and back.
pub(super) const PADDED: usize = 64;

/// Turns of the processor's own pause between two looks: a look takes a lock that the
/// sender needs (3.4 instead of 4.2 µs there and back).
const PAUSES: u32 = 4;

impl Link {
    /// What `fd` leads to.
    pub(super) fn stream(&self, fd: RawFd) -> Stream {
        match self.stream.load(Ordering::Relaxed) {
            1 => Stream::Paired,
            2 => Stream::Local,
            3 => Stream::Remote,
            4 => Stream::Pipe,
            5 => Stream::Other,
            _ => self.remember(Stream::of(fd)),
        }
    }

    fn remember(&self, stream: Stream) -> Stream {
        let code = match stream {
            Stream::Paired => 1,
            Stream::Local => 2,
            Stream::Remote => 3,
            Stream::Pipe => 4,
            Stream::Other => 5,
        };
        self.stream.store(code, Ordering::Relaxed);
        stream
    }

    /// Whether `fd` leads to a peer of this version: it is an end of a pair, or a pipe.
    pub fn is_near(&self, fd: RawFd) -> bool {
        matches!(self.stream(fd), Stream::Paired | Stream::Pipe)
    }

    /// How short a message may be on the way; shorter ones are padded.
    pub fn shortest(&self, fd: RawFd) -> usize {
        if self.stream(fd) == Stream::Paired { PADDED } else { 0 }
    }

    /// The descriptor is another one from now on.
    pub fn forget(&self) {
        self.stream.store(0, Ordering::Relaxed);
    }

    /// After `errno` from a call that does not wait: whether one that waits may do better.
    fn must_wait(&self, errno: i32) -> bool {
        let errno = Errno::from_raw_os_error(errno);
        // A kernel that cannot tell will not learn it; nor will a number that leads elsewhere by now.
        if [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOTSOCK, Errno::INVAL, Errno::SPIPE].contains(&errno) {
            self.remember(Stream::Other);
            return true;
        }
        errno == Errno::AGAIN
    }

    /// Fills `room`; what has come is in it also when this returns early.
    pub fn take(&self, fd: RawFd, room: &mut Room<'_>, wait: Wait) -> Result<Took> {
        while room.left() > 0 {
            let count = match transfer::receive_now(fd, self.stream(fd), room) {
                Err(errno) if self.must_wait(errno) => match wait {
                    Wait::Not => return Ok(Took::Later),
                    Wait::Spinning if self.stream(fd) == Stream::Other => return Ok(Took::Later),
                    Wait::Spinning => match self.spin(None, || self.look(fd, room)) {
                        Some(count) => count,
                        None => return Ok(Took::Later),
                    },
                    Wait::Sleeping if !transfer::waits(fd) => Err(errno),
                    Wait::Sleeping => match transfer::wait_readable(fd, Some(AIR)) {
                        Ok(true) => transfer::receive(fd, room),
                        Ok(false) => return Ok(Took::Later),
                        Err(errno) => Err(errno),
                    },
                },
                other => other,
            };
            if count.map_err(|errno| refused("receiving from a connection", errno))? == 0 {
                return Ok(Took::End);
            }
        }
        Ok(Took::All)
    }

    fn look(&self, fd: RawFd, room: &mut Room<'_>) -> Option<transfer::Moved> {
        match transfer::receive_now(fd, self.stream(fd), room) {
            Err(errno) if self.must_wait(errno) => None,
            other => Some(other),
        }
    }

    /// Asks `look` again and again for as long as that has been worth it lately, at most `limit`.
    fn spin<T>(&self, limit: Option<Duration>, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let budget = self.patience.budget()?;
        let budget = limit.map_or(budget, |limit| limit.min(budget));
        let begin = Instant::now();
        while begin.elapsed() < budget {
            for _ in 0..PAUSES {
                sync::spin();
            }
            if let Some(found) = look() {
                self.patience.hit(begin.elapsed());
                return Some(found);
            }
        }
        self.patience.miss();
        None
    }

    /// Fills `room` with what is on its way already, sleeping for it at once.
    pub fn fill(&self, fd: RawFd, room: &mut Room<'_>) -> Result<Took> {
        while room.left() > 0 {
            if transfer::receive(fd, room).map_err(|errno| refused("receiving from a connection", errno))? == 0 {
                return Ok(Took::End);
            }
        }
        Ok(Took::All)
    }

    /// Whether `fd` can be read, or has ended; waits for it as `wait` says, at most `limit` (`None`:
    /// no limit).
    pub fn poll(&self, fd: RawFd, limit: Option<Duration>, wait: Wait) -> Result<bool> {
        let look = |limit| transfer::wait_readable(fd, limit).map_err(|errno| refused("polling a connection", errno));
        match wait {
            Wait::Not => look(Some(Duration::ZERO)),
            Wait::Spinning => {
                let look = || Some(look(Some(Duration::ZERO))).filter(|found| !matches!(found, Ok(false)));
                self.spin(limit, look).unwrap_or(Ok(false))
            }
            Wait::Sleeping => look(Some(limit.map_or(AIR, |limit| limit.min(AIR)))),
        }
    }

    /// Sends what there is room for now; how many bytes that were.
    pub(super) fn send_now(&self, fd: RawFd, pieces: &[Piece<'_>]) -> Result<usize> {
        match transfer::send_now(fd, self.stream(fd), pieces) {
            Err(errno) if self.must_wait(errno) => Ok(0),
            other => other.map_err(|errno| refused("sending through a connection", errno)),
        }
    }
}
