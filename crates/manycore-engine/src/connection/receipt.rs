//! A message on its way in: its head, and its body if that is small.

use super::link::{Link, PADDED, Took, Wait};
use crate::error::Result;
use crate::os::transfer::Room;
use std::os::fd::RawFd;

/// How far a message has come; what has come is kept between calls.
#[derive(Debug)]
pub struct Receipt<'a> {
    /// The head, and through a pair the first bytes of the body with it.
    first: [u8; PADDED],
    have: usize,
    /// The longest body that is wanted.
    limit: Option<u64>,
    small: &'a mut [u8],
    got: usize,
}

/// What is known of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more at the moment.
    Later,
    /// It is here, so many bytes long; see [`Receipt::small`].
    Whole(usize),
    /// Its body has so many bytes; the first of them are [`Receipt::begun`].
    Announced(u64),
    /// Its body is longer than wanted, or of no possible length. It is still there.
    Unwanted,
    /// The stream has ended between two messages, or between a head and its body.
    End,
    /// The stream has ended in the midst of something.
    Torn,
}

impl<'a> Receipt<'a> {
    /// A message of at most `limit` bytes, received into `small` if it fits.
    pub fn new(small: &'a mut [u8], limit: Option<u64>) -> Receipt<'a> {
        Receipt { first: [0; PADDED], have: 0, limit, small, got: 0 }
    }

    /// The head's length and the body's, once they are here; negative is impossible.
    fn announced(&self) -> Option<(usize, i64)> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = self.first;
        match i32::from_be_bytes([a, b, c, d]) {
            _ if self.have < 4 => None,
            -1 if self.have < 12 => None,
            -1 => Some((12, i64::from_be_bytes([e, f, g, h, i, j, k, l]))),
            short => Some((4, short.into())),
        }
    }

    /// Receives as much as there is, and waits for the rest as `wait` says.
    pub fn advance(&mut self, link: &Link, fd: RawFd, wait: Wait) -> Result<Step> {
        let shortest = link.shortest(fd);
        let (head, size) = loop {
            if let Some(announced) = self.announced().filter(|_| self.have >= shortest) {
                break announced;
            }
            let (start, end) = match self.have {
                0..4 => (0, shortest.max(4)),
                have if have < shortest => (0, shortest),
                _ => (4, 12),
            };
            let mut room = Room::of(&mut self.first[self.have..end]);
            let took = link.take(fd, &mut room, wait);
            self.have += room.filled();
            if let Some(step) = early(took?, self.have - start) {
                return Ok(step);
            }
        };
        let Ok(size) = u64::try_from(size) else { return Ok(Step::Unwanted) };
        if self.limit.is_some_and(|limit| size > limit) {
            return Ok(Step::Unwanted);
        }
        // Through a pair so much of the body has come along with the head.
        let begun = usize::try_from(size).unwrap_or(usize::MAX).min(self.have - head);
        let Some(body) = usize::try_from(size).ok().and_then(|size| self.small.get_mut(..size)) else {
            return Ok(Step::Announced(size));
        };
        let whole = body.len();
        if self.got < begun {
            body[..begun].copy_from_slice(&self.first[head..head + begun]);
            self.got = begun;
        }
        let mut room = Room::of(&mut body[self.got..]);
        let took = link.take(fd, &mut room, wait);
        self.got += room.filled();
        Ok(early(took?, self.got).unwrap_or(Step::Whole(whole)))
    }

    /// The body that [`Step::Whole`] speaks of.
    pub fn small(&self, len: usize) -> &[u8] {
        &self.small[..len]
    }

    /// What has been received of the body that [`Step::Announced`] speaks of.
    pub fn begun(&self) -> &[u8] {
        match self.announced() {
            Some((head, size)) => {
                let end = usize::try_from(size).unwrap_or(usize::MAX).min(self.have - head);
                &self.first[head..head + end]
            }
            None => &[],
        }
    }
}

/// Where `took` ends the receipt, after `got` bytes of the part at hand.
fn early(took: Took, got: usize) -> Option<Step> {
    match took {
        Took::All => None,
        Took::Later => Some(Step::Later),
        Took::End if got == 0 => Some(Step::End),
        Took::End => Some(Step::Torn),
    }
}
