//! One descriptor as a stream of bytes: what it is, and how patiently it is read.

use super::patience::Patience;
use super::refused;
use crate::error::Result;
use crate::os::stream::{self, Piece, Room, Stream};
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
    /// There is nothing more at the moment, and we are not to wait.
    Later,
    /// The stream has ended before the room was full.
    End,
}

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

    /// Fills `room`; keeps what has come when it returns early. Spins and sleeps only with `wait`.
    pub fn take(&self, fd: RawFd, room: &mut Room<'_>, wait: bool) -> Result<Took> {
        while room.left() > 0 {
            let count = match stream::receive_now(fd, self.stream(fd), room) {
                Err(errno) if self.must_wait(errno) => {
                    if !wait {
                        return Ok(Took::Later);
                    }
                    self.receive_patiently(fd, room)
                }
                other => other,
            };
            if count.map_err(|errno| refused("receiving from a connection", errno))? == 0 {
                return Ok(Took::End);
            }
        }
        Ok(Took::All)
    }

    fn receive_patiently(&self, fd: RawFd, room: &mut Room<'_>) -> stream::Moved {
        let budget = if self.stream(fd) == Stream::Other { None } else { self.patience.budget() };
        if let Some(budget) = budget {
            let begin = Instant::now();
            while begin.elapsed() < budget {
                for _ in 0..PAUSES {
                    sync::spin();
                }
                match stream::receive_now(fd, self.stream(fd), room) {
                    Err(errno) if self.must_wait(errno) => {}
                    other => {
                        self.patience.hit(begin.elapsed());
                        return other;
                    }
                }
            }
            self.patience.miss();
        }
        stream::receive(fd, room)
    }

    /// Fills `room` with what is on its way already, sleeping for it at once.
    pub fn fill(&self, fd: RawFd, room: &mut Room<'_>) -> Result<Took> {
        while room.left() > 0 {
            if stream::receive(fd, room).map_err(|errno| refused("receiving from a connection", errno))? == 0 {
                return Ok(Took::End);
            }
        }
        Ok(Took::All)
    }

    /// Whether `fd` can be read within `limit` (`None`: wait for ever), or has ended.
    pub fn poll(&self, fd: RawFd, limit: Option<Duration>) -> Result<bool> {
        let look = |limit| stream::wait_readable(fd, limit).map_err(|errno| refused("polling a connection", errno));
        if look(Some(Duration::ZERO))? {
            return Ok(true);
        }
        if limit == Some(Duration::ZERO) {
            return Ok(false);
        }
        let begin = Instant::now();
        let left = || limit.map(|limit| limit.saturating_sub(begin.elapsed()));
        if let Some(budget) = self.patience.budget() {
            while begin.elapsed() < budget && left() != Some(Duration::ZERO) {
                if look(Some(Duration::ZERO))? {
                    self.patience.hit(begin.elapsed());
                    return Ok(true);
                }
            }
            self.patience.miss();
        }
        look(left())
    }

    /// Sends what there is room for now; how many bytes that were.
    pub(super) fn send_now(&self, fd: RawFd, pieces: &[Piece<'_>]) -> Result<usize> {
        match stream::send_now(fd, self.stream(fd), pieces) {
            Err(errno) if self.must_wait(errno) => Ok(0),
            other => other.map_err(|errno| refused("sending through a connection", errno)),
        }
    }
}
