//! Messages in order, in memory that many processes see: sheets of records.
//!
//! See "The stream" in README.md. Storage comes from outside, so the same code
//! stands on boxed slices under loom and on a mapping in life. Of the senders one
//! at a time is here, of the receivers one at a time: their locks are `conduit.rs`'s.

use super::queue::Line;
use crate::error::{Error, Result};
use crate::sync::{AtomicU32, AtomicU64, Guarded, Ordering};

/// Bytes of a unit: what records are counted in.
pub const UNIT: usize = 16;

/// One unit of a sheet.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Unit(pub [u64; 2]);

/// The words of a stream. All zero: an empty one, whose first sheet is number 0.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Words {
    /// How many messages were sent, and where the next record will be written.
    tail: Line<AtomicU64>,
    /// How many were received, and where the next record is read.
    head: Line<AtomicU64>,
    /// The top of the stack of free sheets, plus one.
    spare: Line<AtomicU32>,
    /// How many lie there; an estimate.
    spares: AtomicU32,
    /// The last sheet that was ever in use.
    last: AtomicU32,
}

/// Two numbers that change in one store: messages, and the unit where the next
/// record stands. Both count round in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    count: u32,
    unit: u32,
}

impl Place {
    fn read(word: &AtomicU64, ordering: Ordering) -> Place {
        let value = word.load(ordering);
        Place { count: (value >> 32) as u32, unit: value as u32 }
    }

    fn word(self) -> u64 {
        u64::from(self.count) << 32 | u64::from(self.unit)
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message of so many bytes, which follow.
    Inline,
    /// A message in a block; its name and lengths follow.
    Block,
    /// No message: the stream goes on at the start of the sheet named by `len`.
    Turn,
}

/// The first half of a record's first unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    /// Bytes that follow the header; below 2^30.
    pub len: u32,
    /// The length of the message's head.
    pub head: u32,
}

/// Bytes of the header.
pub const HEADER: usize = 8;

impl Header {
    fn word(self) -> u64 {
        let kind = match self.kind {
            Kind::Inline => 1,
            Kind::Block => 2,
            Kind::Turn => 3,
        };
        kind | u64::from(self.len) << 2 | u64::from(self.head) << 32
    }

    fn from_word(word: u64) -> Option<Header> {
        let kind = match word & 3 {
            1 => Kind::Inline,
            2 => Kind::Block,
            3 => Kind::Turn,
            _ => return None,
        };
        Some(Header { kind, len: (word as u32) >> 2, head: (word >> 32) as u32 })
    }

    fn units(self) -> u32 {
        (HEADER + self.len as usize).div_ceil(UNIT) as u32
    }
}

/// A view of a stream; copied freely.
#[derive(Clone, Copy, Debug)]
pub struct Stream<'a> {
    words: &'a Words,
    units: &'a [Guarded<Unit>],
    below: &'a [AtomicU32],
}

impl<'a> Stream<'a> {
    /// A view over `words`, the units of all sheets, and one link for each sheet.
    pub fn new(words: &'a Words, units: &'a [Guarded<Unit>], below: &'a [AtomicU32]) -> Stream<'a> {
        debug_assert!(!below.is_empty() && units.len().is_multiple_of(below.len()));
        Stream { words, units, below }
    }

    fn sheet_size(&self) -> u32 {
        (self.units.len() / self.below.len()) as u32
    }

    /// How many messages were sent, counting round.
    pub fn sent(&self) -> u32 {
        Place::read(&self.words.tail.0, Ordering::Acquire).count
    }

    /// How many messages were received, counting round.
    pub fn received(&self) -> u32 {
        Place::read(&self.words.head.0, Ordering::Acquire).count
    }

    /// How many messages wait.
    pub fn waiting(&self) -> u32 {
        // The head is read first: it never passes the tail, so the difference is not negative.
        let received = self.received();
        self.sent().wrapping_sub(received)
    }

    /// Writes a record and commits it by one store; gives how many messages have
    /// been sent with it. `fill` gets the record's units, with room for the header and
    /// `header.len` bytes. `None` when every sheet is in use. For the sender whose turn it is.
    pub fn send(&self, header: Header, fill: impl FnOnce(&[Guarded<Unit>])) -> Result<Option<u32>> {
        // Only senders write it, and the lock has shown us the last one's.
        let tail = Place::read(&self.words.tail.0, Ordering::Relaxed);
        let units = header.units();
        let Some(at) = self.room(tail.unit, units)? else { return Ok(None) };
        let record = self.slice(at, units)?;
        fill(record);
        self.write_header(record, header);
        crate::fault::point("send-before-commit");
        let count = tail.count.wrapping_add(1);
        // Release: whoever sees the count sees the record.
        self.words.tail.0.store(Place { count, unit: at + units }.word(), Ordering::Release);
        Ok(Some(count))
    }

    /// Where a record of `units` fits: at `unit`, or at the start of a new sheet, to
    /// which the stream turns. One unit of each sheet is kept for the turn.
    fn room(&self, unit: u32, units: u32) -> Result<Option<u32>> {
        let size = self.sheet_size();
        if units >= size {
            return Err(Error::corrupt(format_args!("a record of {units} units in sheets of {size}")));
        }
        if unit % size + units < size {
            return Ok(Some(unit));
        }
        let Some(sheet) = self.new_sheet()? else { return Ok(None) };
        self.write_header(self.slice(unit, 1)?, Header { kind: Kind::Turn, len: sheet, head: 0 });
        Ok(Some(sheet * size))
    }

    /// A free sheet. Only the sender whose turn it is takes one, so the top it read
    /// cannot leave and come back before its exchange (no ABA).
    fn new_sheet(&self) -> Result<Option<u32>> {
        loop {
            let top = self.words.spare.0.load(Ordering::Acquire);
            let Some(sheet) = top.checked_sub(1) else { break };
            let below = self.below.get(sheet as usize).ok_or_else(|| Error::corrupt("the free sheets lead nowhere"))?;
            let next = below.load(Ordering::Relaxed);
            if self.words.spare.0.compare_exchange(top, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                self.words.spares.fetch_sub(1, Ordering::Relaxed);
                return Ok(Some(sheet));
            }
        }
        let sheet = self.words.last.load(Ordering::Relaxed).wrapping_add(1);
        if sheet as usize >= self.below.len() {
            return Ok(None);
        }
        self.words.last.store(sheet, Ordering::Relaxed);
        Ok(Some(sheet))
    }

    /// Reads the next record with `read` and commits that by one store, if there is
    /// one and `read` gives no error. Gives also the sheet that was left for good,
    /// which must be [given back](Stream::free_sheet). For the receiver whose turn it is.
    pub fn receive<R>(&self, read: impl FnOnce(Header, &[Guarded<Unit>]) -> Result<R>) -> Result<Option<Received<R>>> {
        let head = Place::read(&self.words.head.0, Ordering::Relaxed);
        // Acquire: pairs with `send`.
        if self.sent() == head.count {
            return Ok(None);
        }
        let (at, header) = self.record(head.unit)?;
        let value = read(header, self.slice(at, header.units())?)?;
        crate::fault::point("receive-before-commit");
        let count = head.count.wrapping_add(1);
        self.words.head.0.store(Place { count, unit: at + header.units() }.word(), Ordering::Release);
        crate::fault::point("receive-after-commit");
        let size = self.sheet_size();
        let left = (at / size != head.unit / size).then_some(head.unit / size);
        Ok(Some(Received { value, count, left }))
    }

    /// The record that stands at `unit`, or where the stream turns from there.
    fn record(&self, unit: u32) -> Result<(u32, Header)> {
        let mut at = unit;
        let mut header = self.read_header(at)?;
        if header.kind == Kind::Turn {
            at = header.len.checked_mul(self.sheet_size()).ok_or_else(|| lost(at))?;
            header = self.read_header(at)?;
        }
        let size = self.sheet_size();
        let inside = header.kind != Kind::Turn && at % size + header.units() < size;
        if inside { Ok((at, header)) } else { Err(lost(at)) }
    }

    /// Shows `each` the records that are sent and not received. For the sender whose
    /// turn it is: receivers may go on meanwhile, but what they leave stays as it was.
    pub fn walk(&self, mut each: impl FnMut(Header, &[Guarded<Unit>])) -> Result<()> {
        let tail = Place::read(&self.words.tail.0, Ordering::Relaxed);
        let mut at = Place::read(&self.words.head.0, Ordering::Acquire);
        // No more records than units, whatever the counts say.
        for _ in 0..self.units.len() {
            if at.count == tail.count {
                return Ok(());
            }
            let (unit, header) = self.record(at.unit)?;
            each(header, self.slice(unit, header.units())?);
            at = Place { count: at.count.wrapping_add(1), unit: unit + header.units() };
        }
        Err(Error::corrupt("the messages that wait go round in a circle"))
    }

    /// Gives a sheet back that was left; from any process.
    pub fn free_sheet(&self, sheet: u32) -> Result<()> {
        let below =
            self.below.get(sheet as usize).ok_or_else(|| Error::corrupt("a sheet that is not there was left"))?;
        let mut top = self.words.spare.0.load(Ordering::Relaxed);
        loop {
            below.store(top, Ordering::Relaxed);
            // Release: our reads of the sheet stay before the next sender's writes.
            match self.words.spare.0.compare_exchange_weak(top, sheet + 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => top = now,
            }
        }
        self.words.spares.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// How many free sheets have memory, about.
    pub fn spare_sheets(&self) -> u32 {
        self.words.spares.load(Ordering::Relaxed)
    }

    fn slice(&self, at: u32, units: u32) -> Result<&'a [Guarded<Unit>]> {
        let start = at as usize;
        self.units.get(start..start + units as usize).ok_or_else(|| lost(at))
    }

    fn write_header(&self, record: &[Guarded<Unit>], header: Header) {
        // SAFETY: the record lies behind the tail, where the sender whose turn it is
        // alone writes and nobody reads; loom's cells say so too.
        record[0].with_mut(|unit| unsafe { (*unit).0[0] = header.word() });
    }

    fn read_header(&self, at: u32) -> Result<Header> {
        let unit = &self.slice(at, 1)?[0];
        // SAFETY: it lies between head and tail, where nobody writes; a damaged peer's
        // write gives another number, which is checked.
        let word = unit.with(|unit| unsafe { (*unit).0[0] });
        Header::from_word(word).ok_or_else(|| lost(at))
    }
}

#[cold]
fn lost(at: u32) -> Error {
    Error::corrupt(format_args!("no message stands at unit {at}, where one was sent"))
}

/// A message that was taken from a stream.
#[derive(Debug)]
pub struct Received<R> {
    /// What was made of it.
    pub value: R,
    /// How many have been received with it, counting round.
    pub count: u32,
    /// The sheet that is empty now.
    pub left: Option<u32>,
}
