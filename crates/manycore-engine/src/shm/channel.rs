//! A channel: messages from any number of processes to any number of processes.
//!
//! See "The channel" in README.md.
//!
//! # Why this file is unsafe
//!
//! It writes payload bytes into units of the stream, which `stream.rs` has checked to
//! have room for them.

use super::blocks::Lease;
use super::channel_region::{ChannelRegion, Taken, first_byte};
use super::conduit::{Turn, Watched};
use super::message::Message;
use super::stream::{Header, Kind as Record, Unit};
use crate::error::{Error, Kind, Result};
use crate::os::watch::Bell;
use crate::sync::{Guarded, own_name};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

pub use super::conduit::{Sent, Wait};

/// Longer messages go into blocks. A message in the stream is copied in a turn, while
/// others wait; one in a block costs two more turns and its receiver may use it in place.
pub const INLINE: usize = 4096;

/// Sheets that keep their memory while they are free.
const WARM_SHEETS: u32 = 32;

/// One process's end of a channel: it can send and receive.
///
/// It has two descriptors, [`Channel::file`] and [`Channel::bell`]; another process
/// that has them both can [attach](Channel::attach). A forked child may use it as it is.
#[derive(Debug)]
pub struct Channel {
    region: Arc<ChannelRegion>,
    bell: Bell,
}

/// What an attempt to receive brought.
#[derive(Debug)]
pub enum Got {
    /// No message waits.
    Nothing,
    /// Somebody else is at it, and [`Wait::No`] was said.
    Busy,
    /// A message whose bytes are in the given vector, with the length of its head.
    Inline(usize),
    /// A message in a block, which is ours until the lease is dropped.
    Block(Lease),
}

impl Channel {
    /// A new channel in which at most `capacity` messages wait (`None`: any number).
    ///
    /// # Errors
    /// [`Kind::Os`] when the system gives no memory or no descriptor.
    pub fn create(capacity: Option<u32>) -> Result<Channel> {
        Ok(Channel { region: Arc::new(ChannelRegion::create(capacity)?), bell: Bell::new()? })
    }

    /// Attaches to the channel behind `file` and `bell`, which another process made.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when `file` is something else.
    pub fn attach(file: OwnedFd, bell: OwnedFd) -> Result<Channel> {
        Ok(Channel { region: Arc::new(ChannelRegion::attach(file)?), bell: Bell::from_fd(bell) })
    }

    /// The memory file, to pass to another process.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.region.blocks.file.as_fd()
    }

    /// The other descriptor to pass. To wait for a message by it, see [`Channel::watch`].
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// How many messages may wait.
    pub fn capacity(&self) -> Option<u32> {
        self.region.capacity()
    }

    /// How many messages wait.
    pub fn waiting(&self) -> u32 {
        self.region.conduit().stream().waiting()
    }

    /// Whether as many messages wait as may.
    pub fn is_full(&self) -> bool {
        self.region.conduit().is_full()
    }

    /// Sends `message` if there is room.
    ///
    /// The message is visible to receivers, whole, from one store on: a sender that is
    /// killed before it has sent nothing.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] for a message that will never fit. [`Kind::Timeout`] and
    /// [`Kind::Interrupted`] as [`Wait::Until`] says and while it waits for its turn;
    /// nothing was sent then.
    pub fn try_send(&self, message: Message<'_>, wait: Wait) -> Result<Sent> {
        let region = &self.region;
        let Some(total) = message.total().filter(|total| *total as u64 <= region.part_size()) else {
            let size = region.part_size();
            return Err(Error::new(
                Kind::TooLarge,
                format!("a message is larger than the {size} bytes of its channel"),
            ));
        };
        if total <= INLINE {
            let header = Header { kind: Record::Inline, len: total as u32, head: message.head.len() as u32 };
            return self.send_record(header, wait, |units| {
                let base = first_byte(units);
                // SAFETY: the stream gave units for the header and `total` bytes, in
                // which this sender alone writes now.
                unsafe { message.write_at(base) };
            });
        }
        if self.is_full() {
            return Ok(Sent::Full);
        }
        let Some(turn) = self.sending(wait)? else { return Ok(Sent::Busy) };
        let lease = match region.allocate(message, total as u64) {
            Ok(lease) => lease,
            Err(error) if error.kind() == Kind::TooLarge && region.part().held().next().is_some() => {
                return Ok(Sent::NoRoom);
            }
            Err(error) => return Err(error),
        };
        drop(turn);
        crate::fault::point("send-mid-payload");
        message.write(&lease)?;
        let header = Header { kind: Record::Block, len: 24, head: 0 };
        let sent = self.send_record(header, wait, |units| {
            let words = [lease.block().word(), total as u64, message.head.len() as u64];
            // SAFETY: as above, for 24 bytes; the target is aligned to 8.
            unsafe { first_byte(units).cast::<[u64; 3]>().write(words) };
        })?;
        if let Sent::Done(_) = sent {
            lease.pass_on();
        }
        Ok(sent)
    }

    fn send_record(&self, header: Header, wait: Wait, fill: impl FnOnce(&[Guarded<Unit>])) -> Result<Sent> {
        let conduit = self.region.conduit();
        let Some(turn) = self.sending(wait)? else { return Ok(Sent::Busy) };
        let sent = conduit.send(&turn, header, fill, &self.bell)?;
        drop(turn);
        if let Sent::Done(count) = sent {
            crate::fault::point("send-before-wake");
            conduit.sent(count);
        }
        Ok(sent)
    }

    /// The turn to send; what a sender left that died in its own is put right.
    fn sending(&self, wait: Wait) -> Result<Option<Turn<'_>>> {
        let turn = self.region.conduit().sending(wait)?;
        if turn.as_ref().is_some_and(Turn::is_recovered) {
            self.region.rebuild()?;
            self.region.conduit().ring_or_silence(&self.bell);
        }
        Ok(turn)
    }

    /// Receives the next message, if one waits. A short one is copied to `inline`.
    ///
    /// The message is ours from one store on: a receiver that is killed before leaves
    /// it for the next.
    ///
    /// # Errors
    /// As [`Channel::try_send`] while it waits for its turn; nothing was received then.
    pub fn try_receive(&self, inline: &mut Vec<u8>, wait: Wait) -> Result<Got> {
        let region = &*self.region;
        let conduit = region.conduit();
        if conduit.stream().waiting() == 0 {
            return Ok(Got::Nothing);
        }
        let Some(turn) = conduit.receiving(wait)? else { return Ok(Got::Busy) };
        let recovered = turn.is_recovered();
        let received = conduit.receive(&turn, |header, units| region.read(header, units, inline));
        drop(turn);
        if recovered {
            // The one before may have died between its commit and what follows it.
            conduit.received(conduit.stream().received(), &self.bell)?;
        }
        let Some(received) = received? else { return Ok(Got::Nothing) };
        crate::fault::point("receive-before-wake");
        if let Some(sheet) = received.left {
            if conduit.stream().spare_sheets() >= WARM_SHEETS {
                region.discard_sheet(sheet);
            }
            conduit.stream().free_sheet(sheet)?;
        }
        conduit.received(received.count, &self.bell)?;
        match received.value {
            Taken::Inline(head) => Ok(Got::Inline(head)),
            Taken::Block((block, len, head)) => Ok(Got::Block(Lease::new(&self.region, block, len, head)?)),
        }
    }

    /// Waits until a message waits: true; or `deadline` has passed: false. Another
    /// receiver may be faster.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] when a signal handler ran, and also now and then without one:
    /// look for signals and call again.
    pub fn wait_message(&self, deadline: Option<Instant>) -> Result<bool> {
        self.region.conduit().wait_message(deadline)
    }

    /// Waits until fewer messages wait than may, as [`Channel::wait_message`] does.
    pub fn wait_room(&self, deadline: Option<Instant>) -> Result<bool> {
        self.region.conduit().wait_room(deadline)
    }

    /// After [`Sent::NoRoom`]: waits until another message was received, or a tenth of a
    /// second has passed, since blocks come back in silence; false after `deadline`.
    pub fn wait_memory(&self, deadline: Option<Instant>) -> Result<bool> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        let conduit = self.region.conduit();
        conduit.wait_change(conduit.stream().received(), left)?;
        Ok(true)
    }

    /// Reports one received message as done; false if none was left to be.
    pub fn task_done(&self) -> bool {
        self.region.conduit().task_done()
    }

    /// How many messages were sent and not reported as done.
    pub fn unfinished(&self) -> u32 {
        self.region.conduit().unfinished()
    }

    /// Waits until every message was reported as done, as [`Channel::wait_message`] does.
    pub fn wait_done(&self, deadline: Option<Instant>) -> Result<bool> {
        self.region.conduit().wait_done(deadline)
    }

    /// A descriptor that is readable exactly while messages wait, from now on. It
    /// costs every first message and every last one a system call, so it is silent
    /// until somebody asks.
    pub fn watch(&self) -> Result<BorrowedFd<'_>> {
        self.region.conduit().watch(&self.bell)?;
        Ok(self.bell())
    }

    /// To be called before this process forks; see "A fork" in README.md.
    pub fn before_fork(&self) -> Result<()> {
        self.region.blocks.privatize(self.region.part(), own_name())
    }

    /// To be called in a forked child: gives a channel of its own if this one's
    /// mapping has pages that are the parent's copies, or may have.
    pub fn after_fork(&self) -> Result<Option<Channel>> {
        if self.region.blocks.is_all_shared() {
            return Ok(None);
        }
        let duplicate = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|error| Error::os("attaching to a channel after a fork", error.raw_os_error().unwrap_or(0)))
        };
        Channel::attach(duplicate(self.file())?, duplicate(self.bell())?).map(Some)
    }
}

impl Watched for Bell {
    fn ring(&self) {
        Bell::ring(self);
    }

    fn silence(&self) {
        Bell::silence(self);
    }
}
