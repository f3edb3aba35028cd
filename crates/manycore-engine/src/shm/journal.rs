//! What a worker leaves of a task before it is finished: the result of each item, as it is produced.
//!
//! A worker that is killed in the midst of a chunk takes its own memory with it. So it copies the result of every
//! item into a block of its part, and counts it in its seat. Whoever buries the worker reads the results that were
//! counted. See "The journal" in README.md.
//!
//! # Why this file is unsafe
//!
//! It copies messages to addresses in the mapping, which were checked against the block's length just before.

use super::arena::{Allocator, BlockRef};
use super::blocks::Home;
use super::message::Message;
use super::region::Region;
use super::task::Place;
use crate::error::{Error, Result};
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of a journal: twice what the results of a chunk have that a pool has cut by itself.
const CAPACITY: u64 = 4 << 20;

/// What stands before each message: its length, and that of its head.
const PREFIX: usize = 16;

/// The journal of one worker. Its block belongs to the worker for life, so that its pages stay warm; the next worker
/// in the seat takes it over with the part.
#[derive(Debug)]
pub struct Journal {
    region: Arc<Region>,
    seat: u16,
    base: NonNull<u8>,
    used: usize,
    count: u64,
    /// A message did not fit, and none may follow: messages are counted, not named.
    is_full: bool,
}

// SAFETY: the address leads into the mapping that `region` keeps, and the bytes there are this value's alone.
unsafe impl Send for Journal {}
// SAFETY: as above; nothing is written or read through a shared reference.
unsafe impl Sync for Journal {}

/// The messages that a worker has left, in the order of the items.
#[derive(Debug, Default)]
pub struct Left {
    bytes: Vec<u8>,
    count: usize,
}

impl Journal {
    /// A journal for the worker in `seat`, cut by `allocator`, the owner of part `seat + 1`.
    pub(crate) fn new(region: &Arc<Region>, seat: u16, allocator: &mut Allocator) -> Result<Journal> {
        let block = allocator.allocate(region.part(usize::from(seat) + 1)?, CAPACITY)?;
        let base = region.locate(block, CAPACITY)?;
        region.set_journal(seat, block)?;
        Ok(Journal { region: Arc::clone(region), seat, base, used: 0, count: 0, is_full: false })
    }

    /// A new task begins, which has left nothing. (The count in the seat was set to zero when it was claimed.)
    pub fn begin(&mut self) {
        (self.used, self.count, self.is_full) = (0, 0, false);
    }

    /// Leaves the message of the next item.
    pub fn append(&mut self, message: Message<'_>) {
        let room = CAPACITY as usize - self.used;
        let fits = message.total().filter(|total| total.checked_add(PREFIX).is_some_and(|len| len <= room));
        let Some(total) = fits.filter(|_| !self.is_full) else {
            self.is_full = true;
            return;
        };
        let (total_word, head_word) = ((total as u64).to_ne_bytes(), (message.head.len() as u64).to_ne_bytes());
        // SAFETY: the prefix and the message fit into what is left of the block, and the block is this journal's alone.
        unsafe {
            let start = self.base.as_ptr().add(self.used);
            start.copy_from_nonoverlapping(total_word.as_ptr(), 8);
            start.add(8).copy_from_nonoverlapping(head_word.as_ptr(), 8);
            message.write_at(start.add(PREFIX));
        }
        self.used += PREFIX + total;
        self.count += 1;
        self.region.set_left(self.seat, self.used as u64, self.count);
    }

    /// Whether nothing more can be left of this task.
    pub fn is_stopped(&self) -> bool {
        self.is_full
    }

    /// Nothing more is left of this task: what would follow has no message.
    pub fn stop(&mut self) {
        self.is_full = true;
    }
}

impl Left {
    /// A private copy of what lies in `block`: `bytes` bytes that hold `count` messages, as the dead worker has said.
    pub(super) fn read(region: &Region, block: BlockRef, bytes: u64, count: u64) -> Result<Left> {
        if bytes > CAPACITY || count > bytes {
            return Err(Error::corrupt(format_args!("a journal of {bytes} bytes and {count} messages")));
        }
        let (bytes, _) = super::message::Payload::copy_of(region, Place { block, len: bytes, head: bytes })?;
        Ok(Left { bytes, count: count as usize })
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The messages, each with the length of its head. Ends early where the bytes cannot be true.
    pub fn messages(&self) -> impl Iterator<Item = (&[u8], usize)> {
        let mut rest = &self.bytes[..];
        let word =
            |bytes: &[u8]| bytes.try_into().ok().map(u64::from_ne_bytes).and_then(|word| usize::try_from(word).ok());
        std::iter::from_fn(move || {
            let (prefix, behind) = rest.split_at_checked(PREFIX)?;
            let (total, head) = (word(&prefix[..8])?, word(&prefix[8..])?);
            let (message, behind) = behind.split_at_checked(total)?;
            rest = behind;
            (head <= total).then_some((message, head))
        })
        .take(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_read_and_what_cannot_be_true_is_not() {
        let region = Arc::new(Region::create(1, 8).unwrap());
        let mut allocator = Allocator::take_over(region.part(1).unwrap()).unwrap();
        let mut journal = Journal::new(&region, 0, &mut allocator).unwrap();
        region.begin_task(0, 5, 0);
        assert!(region.left(0, 5).unwrap().is_empty() && region.left(0, 4).is_none());
        for number in 0..100u8 {
            journal.append(Message::of(&vec![number; usize::from(number)]));
        }
        let left = region.left(0, 5).unwrap();
        let lengths: Vec<usize> = left.messages().map(|(message, head)| message.len().min(head)).collect();
        assert!(left.len() == 100 && lengths == (0..100).collect::<Vec<_>>());
        // One that does not fit is the last, though others would.
        journal.append(Message::of(&vec![0; CAPACITY as usize]));
        journal.append(Message::of(b"small"));
        assert_eq!(region.left(0, 5).unwrap().len(), 100);
        region.begin_task(0, 6, 0);
        journal.begin();
        assert!(region.left(0, 6).unwrap().is_empty());
        region.set_left(0, CAPACITY + 1, 1);
        assert!(region.left(0, 6).is_none(), "more than a journal has");
        region.set_left(0, 20, 3);
        assert_eq!(region.left(0, 6).unwrap().messages().count(), 1);
    }
}
