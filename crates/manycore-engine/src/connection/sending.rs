//! A message on its way out.
//!
//! Short ones are one write. Of large ones the pages are lent to the kernel: see
//! "Lending" in README.md.

use super::link::{Link, PADDED};
use super::refused;
use crate::error::Result;
use crate::os::transfer::{self, Piece, Stream};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// What stands around a body: its length before it, in the form every version
/// understands, and behind it what makes it long enough.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    head: [u8; 12],
    head_len: usize,
    padding: usize,
}

impl Envelope {
    /// For a body of `size` bytes that goes through `fd`.
    pub fn new(link: &Link, fd: RawFd, size: usize) -> Envelope {
        let mut head = [0; 12];
        let mut head_len = 4;
        if let Ok(short) = i32::try_from(size) {
            head[..4].copy_from_slice(&short.to_be_bytes());
        } else {
            head[..4].copy_from_slice(&(-1i32).to_be_bytes());
            head[4..].copy_from_slice(&(size as u64).to_be_bytes());
            head_len = 12;
        }
        Envelope { head, head_len, padding: link.shortest(fd).saturating_sub(head_len.saturating_add(size)) }
    }

    /// What goes before the body.
    pub fn head(&self) -> Piece<'_> {
        Piece::of(&self.head[..self.head_len])
    }

    /// What goes behind it.
    pub fn padding(&self) -> Piece<'static> {
        static NOTHING: [u8; PADDED] = [0; PADDED];
        Piece::of(&NOTHING[..self.padding.min(PADDED)])
    }
}

/// A short message in one piece, written from front to end.
#[derive(Debug)]
pub struct Short {
    bytes: [u8; Short::LONGEST],
    len: usize,
}

impl Short {
    const LONGEST: usize = 512;
    const HEAD: usize = 4;

    /// A message with an empty body.
    #[expect(clippy::new_without_default, reason = "an empty message is no one's default")]
    pub fn new() -> Short {
        Short { bytes: [0; Short::LONGEST], len: Short::HEAD }
    }

    /// Adds `bytes` to the body; false if they make it too long, and then nothing is added.
    #[must_use]
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        let end = self.len.saturating_add(bytes.len());
        let Some(room) = self.bytes.get_mut(self.len..end) else { return false };
        room.copy_from_slice(bytes);
        self.len = end;
        true
    }

    /// All of the message, to be sent through `fd`.
    pub fn piece(&mut self, link: &Link, fd: RawFd) -> Piece<'_> {
        let body = self.len - Short::HEAD;
        self.bytes[..Short::HEAD].copy_from_slice(&i32::try_from(body).unwrap_or(-1).to_be_bytes());
        Piece::of(&self.bytes[..self.len.max(link.shortest(fd))])
    }
}

/// What a socket is asked to hold while pages are lent, and so much goes to it at once: 6.7 GB/s with it, 3.1 with the
/// usual 208 KiB, and no more with 2 MiB.
const CAPACITY: usize = 1 << 20;
/// What a pipe is asked to hold. A user may have 64 MiB in pipes, and this stays with the pipe.
const PIPE_CAPACITY: usize = 512 << 10;
/// A sent socket buffer holds at most this; see "Lending" in README.md.
const LARGEST_COPY: usize = 128 << 10;
/// Pages are lent where at least so many times the part that must be copied anyway is sent.
const WORTH: usize = 3;

/// Pieces being sent, in order; resumes where it was interrupted.
#[derive(Debug)]
pub struct Sending<'a> {
    /// What is left; the first one is cut as it goes.
    pieces: &'a mut [Piece<'a>],
    /// How much of the first piece may still be lent.
    lendable: usize,
    /// Whether `lendable` speaks of the first piece already.
    measured: bool,
    refused: bool,
    /// By which pages get to a socket, and how many bytes are in it.
    ferry: Option<(OwnedFd, OwnedFd)>,
    aboard: usize,
    /// The last call sent less than it was given, and it waits for room: so a signal came.
    cut_short: bool,
}

impl<'a> Sending<'a> {
    /// Nothing is sent yet. What `pieces` hold must not change until everything is.
    pub fn new(pieces: &'a mut [Piece<'a>]) -> Sending<'a> {
        Sending { pieces, lendable: 0, measured: false, refused: false, ferry: None, aboard: 0, cut_short: false }
    }

    /// Sends what there is room for now; whether that was everything.
    ///
    /// # Errors
    /// As [`Sending::advance`].
    pub fn start(&mut self, link: &Link, fd: RawFd) -> Result<bool> {
        let sent = link.send_now(fd, self.pieces)?;
        self.done(sent);
        Ok(self.pieces.is_empty())
    }

    /// Sends what is left, waiting for room.
    ///
    /// # Errors
    /// [`crate::Kind::Interrupted`]: call it again. After any other error the stream ends in the midst of this message.
    pub fn advance(&mut self, link: &Link, fd: RawFd) -> Result<()> {
        while let Some(piece) = self.pieces.first().copied() {
            if !self.measured {
                self.lendable = self.lendable_part(link, fd, piece);
                self.measured = true;
            }
            let sent = match self.lendable {
                0 => self.copy(fd),
                lendable => match self.lend(link, fd, piece.first(lendable)) {
                    Ok(sent) => {
                        self.lendable -= sent;
                        Ok(sent)
                    }
                    Err(errno) if declined(errno) => {
                        // What is aboard was never taken off `pieces`: it is sent again, as a copy.
                        (self.lendable, self.refused, self.ferry, self.aboard) = (0, true, None, 0);
                        Ok(0)
                    }
                    Err(errno) => Err(errno),
                },
            };
            let sent = sent.map_err(|errno| refused("sending through a connection", errno))?;
            self.done(sent);
            if std::mem::take(&mut self.cut_short) {
                // The next call would sleep again, and the signal's handler wait for it.
                return Err(refused("sending through a connection", Errno::INTR.raw_os_error()));
            }
        }
        Ok(())
    }

    /// How much of `piece` may be lent: what a copy of the rest pushes out of the kernel.
    fn lendable_part(&self, link: &Link, fd: RawFd, piece: Piece<'_>) -> usize {
        if self.refused || piece.len() < CAPACITY {
            return 0;
        }
        let copied = match link.stream(fd) {
            Stream::Pipe => transfer::pipe_capacity(fd, PIPE_CAPACITY),
            Stream::Paired | Stream::Local => {
                transfer::socket_capacity(fd, CAPACITY).map(|capacity| capacity + LARGEST_COPY)
            }
            Stream::Remote | Stream::Other => None,
        };
        copied.filter(|copied| piece.len() / WORTH > *copied).map_or(0, |copied| piece.len() - copied)
    }

    fn copy(&mut self, fd: RawFd) -> transfer::Moved {
        // A piece to be lent must not be copied along with the one before it.
        let together = 1 + self.pieces[1..].iter().take_while(|piece| piece.len() < CAPACITY).count();
        let together = &self.pieces[..together.min(transfer::AT_ONCE)];
        let sent = transfer::send(fd, together)?;
        self.cut_short = sent < together.iter().map(Piece::len).sum();
        Ok(sent)
    }

    fn lend(&mut self, link: &Link, fd: RawFd, piece: Piece<'_>) -> transfer::Moved {
        if link.stream(fd) == Stream::Pipe {
            return transfer::lend_to_pipe(fd, piece.first(CAPACITY));
        }
        if self.ferry.is_none() {
            let ferry = transfer::own_pipe().map_err(|error| error.os_code().unwrap_or(0))?;
            transfer::pipe_capacity(ferry.1.as_raw_fd(), CAPACITY);
            self.ferry = Some(ferry);
        }
        let Some((exit, entrance)) = &self.ferry else { return Ok(0) };
        if self.aboard == 0 {
            self.aboard = transfer::lend_to_pipe(entrance.as_raw_fd(), piece.first(CAPACITY))?;
        }
        let sent = transfer::forward(exit, fd, self.aboard)?;
        self.cut_short = sent < self.aboard;
        self.aboard -= sent.min(self.aboard);
        Ok(sent)
    }

    /// Takes `sent` bytes off what is left.
    fn done(&mut self, mut sent: usize) {
        loop {
            match self.pieces.first_mut() {
                Some(piece) if piece.is_empty() || sent >= piece.len() => {
                    sent -= piece.len();
                    let pieces = std::mem::take(&mut self.pieces);
                    self.pieces = &mut pieces[1..];
                    self.measured = false;
                }
                Some(piece) => {
                    *piece = piece.after(sent);
                    return;
                }
                None => return,
            }
        }
    }
}

/// Whether the kernel will not have pages lent, for whatever reason. A copy tells what is wrong if anything is.
fn declined(errno: i32) -> bool {
    ![Errno::INTR, Errno::AGAIN, Errno::PIPE, Errno::CONNRESET, Errno::BADF].contains(&Errno::from_raw_os_error(errno))
}
