//! Bytes through a descriptor that somebody else owns: sockets, pipes, whatever.
//!
//! Descriptors come as numbers here, because the Python face's connections are
//! numbers that a program may take, close or replace at any time, as it may with
//! the standard package's. The kernel says when nothing is open under one.
//!
//! # Why this file is unsafe
//!
//! Memory is named by address and length ([`Piece`], [`Room`]), not by slices: it
//! may be an array that another thread writes to while it is sent, which the
//! program has to answer for, and no `&[u8]` may look at that. The calls are
//! libc's, which take such addresses as they are; the kernel does the copying.

#![allow(unsafe_code)]

use super::refused;
use crate::error::{Error, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Bytes to be sent, which stay where they are for `'a`.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    start: *const u8,
    len: usize,
    _of: PhantomData<&'a [u8]>,
}

// SAFETY: an address and a length; only the kernel follows it.
unsafe impl Send for Piece<'_> {}

impl<'a> Piece<'a> {
    /// All of `bytes`.
    pub fn of(bytes: &'a [u8]) -> Piece<'a> {
        Piece { start: bytes.as_ptr(), len: bytes.len(), _of: PhantomData }
    }

    /// # Safety
    /// `len` bytes at `start` stay readable for `'a`; their values may change.
    pub unsafe fn from_raw(start: *const u8, len: usize) -> Piece<'a> {
        Piece { start, len, _of: PhantomData }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// At most the first `len` of them.
    #[must_use]
    pub fn first(self, len: usize) -> Piece<'a> {
        Piece { len: len.min(self.len), ..self }
    }

    /// What is left when `done` of them are sent.
    #[must_use]
    pub fn after(self, done: usize) -> Piece<'a> {
        let done = done.min(self.len);
        // SAFETY: at most one past the last byte.
        Piece { start: unsafe { self.start.add(done) }, len: self.len - done, _of: PhantomData }
    }
}

/// Memory to be filled, nobody else's for `'a`.
#[derive(Debug)]
pub struct Room<'a> {
    start: *mut u8,
    len: usize,
    filled: usize,
    _of: PhantomData<&'a mut [u8]>,
}

// SAFETY: an address and a length of memory that is borrowed exclusively.
unsafe impl Send for Room<'_> {}

impl<'a> Room<'a> {
    /// All of `bytes`.
    pub fn of(bytes: &'a mut [u8]) -> Room<'a> {
        Room { start: bytes.as_mut_ptr(), len: bytes.len(), filled: 0, _of: PhantomData }
    }

    /// # Safety
    /// `len` bytes at `start` may be written for `'a`, and nobody relies on their values meanwhile.
    pub unsafe fn from_raw(start: *mut u8, len: usize) -> Room<'a> {
        Room { start, len, filled: 0, _of: PhantomData }
    }

    /// How many bytes have arrived.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// How many bytes are still to come.
    pub fn left(&self) -> usize {
        self.len - self.filled
    }

    /// Fills in `bytes`, or as many of them as there is room for.
    pub fn put(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(self.left());
        // SAFETY: inside the room, which no slice can overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(self.filled), count) };
        self.filled += count;
    }

    fn vector(&self) -> libc::iovec {
        // SAFETY: `filled` is at most `len`.
        libc::iovec { iov_base: unsafe { self.start.add(self.filled) }.cast(), iov_len: self.left() }
    }

    /// Asks for this memory in large pages, where there is enough of it that it
    /// pays: a new small page costs more than the copy of its bytes.
    pub fn prefer_large_pages(&self) {
        const LARGE: usize = 2 << 20;
        if self.len < 2 * LARGE {
            return;
        }
        let page = rustix::param::page_size();
        let first = self.start.addr().next_multiple_of(page);
        let len = (self.start.addr() + self.len - first) / page * page;
        // SAFETY: whole pages inside memory that is ours; the advice changes no byte of it.
        unsafe { libc::madvise(self.start.with_addr(first).cast(), len, libc::MADV_HUGEPAGE) };
    }
}

/// What a descriptor leads to, as far as it matters how bytes go through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// A socket of a pair that [`pair`] has made.
    Paired,
    /// Another socket within the machine.
    Local,
    /// A socket to anywhere.
    Remote,
    /// A pipe.
    Pipe,
    /// A pipe of a kernel that cannot read it without waiting, a terminal, anything else.
    Other,
}

impl Stream {
    /// Looks at `fd`. Never an error: what is not open shows when it is used.
    pub fn of(fd: RawFd) -> Stream {
        // SAFETY: `stat` is plain data, filled in by the kernel.
        let (status, mode) = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            (libc::fstat(fd, &raw mut stat), stat.st_mode & libc::S_IFMT)
        };
        match mode {
            _ if status != 0 => Stream::Other,
            libc::S_IFIFO => Stream::Pipe,
            libc::S_IFSOCK if option(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX) => match option(fd, MARK) {
                Some(1) => Stream::Paired,
                _ => Stream::Local,
            },
            libc::S_IFSOCK => Stream::Remote,
            _ => Stream::Other,
        }
    }

    fn is_socket(self) -> bool {
        matches!(self, Stream::Paired | Stream::Local | Stream::Remote)
    }
}

/// An option that means nothing to a socket within the machine, but belongs to the
/// socket itself: whoever gets a descriptor of it, by whatever way, can see it.
const MARK: libc::c_int = libc::SO_RXQ_OVFL;

/// Two connected sockets that every [`Stream::of`] will know for such a pair.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let attempt = "creating a pair of sockets";
    let made = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (first, second) = made.map_err(refused(attempt))?;
    for end in [&first, &second] {
        set_option(end.as_raw_fd(), MARK, 1).map_err(|errno| Error::os(attempt, errno))?;
    }
    Ok((first, second))
}

/// One system call's outcome: so many bytes, or an `errno`.
pub type Moved = std::result::Result<usize, i32>;

fn moved(count: isize) -> Moved {
    usize::try_from(count).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// Receives what is there into `room`; 0 is the end of the stream.
///
/// # Errors
/// EAGAIN if there is nothing; EOPNOTSUPP if only a call that may wait can tell.
pub fn receive_now(fd: RawFd, stream: Stream, room: &mut Room<'_>) -> Moved {
    let vector = room.vector();
    // SAFETY: the kernel writes at most the vector's length to where it points.
    let count = unsafe {
        match stream {
            _ if stream.is_socket() => libc::recv(fd, vector.iov_base, vector.iov_len, libc::MSG_DONTWAIT),
            Stream::Pipe => libc::preadv2(fd, &raw const vector, 1, -1, libc::RWF_NOWAIT),
            _ => return Err(libc::EOPNOTSUPP),
        }
    };
    let count = moved(count)?;
    room.filled += count.min(room.left());
    Ok(count)
}

/// Receives into `room`, waiting for the first byte; 0 is the end of the stream.
pub fn receive(fd: RawFd, room: &mut Room<'_>) -> Moved {
    let vector = room.vector();
    // SAFETY: as above.
    let count = moved(unsafe { libc::read(fd, vector.iov_base, vector.iov_len) })?;
    room.filled += count.min(room.left());
    Ok(count)
}

/// Sends what there is room for, of at most as many pieces as the kernel takes at once.
///
/// # Errors
/// EAGAIN if there is no room; EOPNOTSUPP if only a call that may wait can tell.
pub fn send_now(fd: RawFd, stream: Stream, pieces: &[Piece<'_>]) -> Moved {
    if let [piece] = pieces
        && stream.is_socket()
    {
        // SAFETY: the kernel reads what the piece promises is there.
        return moved(unsafe { libc::send(fd, piece.start.cast(), piece.len, libc::MSG_DONTWAIT) });
    }
    let (vectors, count) = vectors(pieces);
    // SAFETY: the kernel reads what the vectors name, which the pieces promise is there.
    moved(unsafe {
        match stream {
            _ if stream.is_socket() => {
                let mut message: libc::msghdr = std::mem::zeroed();
                message.msg_iov = vectors.as_ptr().cast_mut();
                message.msg_iovlen = count as _;
                libc::sendmsg(fd, &raw const message, libc::MSG_DONTWAIT)
            }
            Stream::Pipe => libc::pwritev2(fd, vectors.as_ptr(), count as _, -1, libc::RWF_NOWAIT),
            _ => return Err(libc::EOPNOTSUPP),
        }
    })
}

/// Sends, waiting for room; perhaps not everything.
pub fn send(fd: RawFd, pieces: &[Piece<'_>]) -> Moved {
    let (vectors, count) = vectors(pieces);
    // SAFETY: as above.
    moved(unsafe { libc::writev(fd, vectors.as_ptr(), count as _) })
}

/// Pieces that one call takes; the kernel's limit is 1024.
pub const AT_ONCE: usize = 16;

fn vectors(pieces: &[Piece<'_>]) -> ([libc::iovec; AT_ONCE], usize) {
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; AT_ONCE];
    let mut count = 0;
    for (vector, piece) in vectors.iter_mut().zip(pieces) {
        *vector = libc::iovec { iov_base: piece.start.cast_mut().cast(), iov_len: piece.len };
        count += 1;
    }
    (vectors, count)
}

/// Puts the pages of `piece` themselves into a pipe, waiting for room.
///
/// Until the reader has them, what it will read changes with the memory.
pub fn lend_to_pipe(fd: RawFd, piece: Piece<'_>) -> Moved {
    let vector = libc::iovec { iov_base: piece.start.cast_mut().cast(), iov_len: piece.len };
    // SAFETY: the kernel holds the pages itself; it reads them and never writes.
    moved(unsafe { libc::vmsplice(fd, &raw const vector, 1, 0) })
}

/// Moves `len` bytes from a pipe of ours to `to` without a copy, waiting for room.
pub fn forward(pipe: &OwnedFd, to: RawFd, len: usize) -> Moved {
    let none = std::ptr::null_mut();
    // SAFETY: no memory of ours is named.
    moved(unsafe { libc::splice(pipe.as_raw_fd(), none, to, none, len, 0) })
}

/// Waits until `fd` has something to receive or has ended, at most `limit` (`None`: for ever).
pub fn wait_readable(fd: RawFd, limit: Option<Duration>) -> std::result::Result<bool, i32> {
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: one entry and a time limit, both on our stack.
    moved(unsafe { libc::ppoll(&raw mut entry, 1, limit, std::ptr::null()) } as isize).map(|ready| ready > 0)
}

/// Whether calls on `fd` wait; a program may have made it one whose calls do not.
pub fn waits(fd: RawFd) -> bool {
    // SAFETY: no memory is named.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags < 0 || flags & libc::O_NONBLOCK == 0
}

/// How many bytes a pipe holds when it is full; it is enlarged to `wanted` if that is allowed.
pub fn pipe_capacity(fd: RawFd, wanted: usize) -> Option<usize> {
    // SAFETY: neither call names memory.
    let size = |command, argument: libc::c_int| unsafe { libc::fcntl(fd, command, argument) };
    let capacity = usize::try_from(size(libc::F_GETPIPE_SZ, 0)).ok()?;
    if capacity >= wanted {
        return Some(capacity);
    }
    let enlarged = size(libc::F_SETPIPE_SZ, libc::c_int::try_from(wanted).unwrap_or(libc::c_int::MAX));
    Some(usize::try_from(enlarged).unwrap_or(capacity))
}

/// How many bytes, overhead included, a local socket holds before sending waits;
/// enlarged to `wanted` as far as that is allowed.
pub fn socket_capacity(fd: RawFd, wanted: usize) -> Option<usize> {
    let capacity = usize::try_from(option(fd, libc::SO_SNDBUF)?).ok()?;
    if capacity >= wanted {
        return Some(capacity);
    }
    // The kernel doubles what it is given, for its overhead.
    let half = libc::c_int::try_from(wanted / 2).unwrap_or(libc::c_int::MAX);
    let _ = set_option(fd, libc::SO_SNDBUF, half);
    usize::try_from(option(fd, libc::SO_SNDBUF)?).ok()
}

fn option(fd: RawFd, name: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel fills in an integer of the length it is told.
    let status = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut len) };
    (status == 0).then_some(value)
}

fn set_option(fd: RawFd, name: libc::c_int, value: libc::c_int) -> std::result::Result<(), i32> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: an integer is handed in, with its length.
    let status = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, (&raw const value).cast(), len) };
    moved(status as isize).map(|_| ())
}

/// A pipe within this process: (read end, write end), kept from programs it starts.
pub fn own_pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(refused("creating a pipe"))
}
