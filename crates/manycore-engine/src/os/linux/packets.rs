//! Two ends that exchange packets, and descriptors with them.
//!
//! A descriptor that travels (SCM_RIGHTS) is the receiver's own, as if it had opened
//! it: nothing is known by number only, and what is on its way when a process dies is
//! closed by the kernel. Packets arrive whole or not at all.

use super::refused;
use crate::error::{Error, Kind, Result};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of the largest packet; more travels better in a memory file.
pub const LARGEST: usize = 32 << 10;

/// Descriptors in one packet of the kernel, which takes 253.
const DESCRIPTORS: usize = 200;

/// Before the bytes: whether further packets belong to the message.
const LAST: u8 = 0;
const MORE: u8 = 1;

/// One of two ends.
#[derive(Debug)]
pub struct Packets(OwnedFd);

/// What has arrived.
#[derive(Debug, Default)]
pub struct Packet {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The descriptors, closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

impl Packets {
    /// Two ends, each of which sends to the other.
    pub fn pair() -> Result<(Packets, Packets)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(refused("creating a pair of sockets"))?;
        Ok((Packets(one), Packets(other)))
    }

    /// The end behind a descriptor that came from another process.
    pub fn from_fd(fd: OwnedFd) -> Packets {
        Packets(fd)
    }

    /// Sends at most [`LARGEST`] bytes, and any number of descriptors. Sleeps while
    /// the other end has too much to receive.
    ///
    /// # Errors
    /// [`Kind::TooLarge`]; [`Kind::Closed`] when the other end is gone.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        if bytes.len() > LARGEST {
            let message = format!("{} bytes do not fit into a packet of {LARGEST}", bytes.len());
            return Err(Error::new(Kind::TooLarge, message));
        }
        let (first, last) = descriptors.split_at(descriptors.len().saturating_sub(1) / DESCRIPTORS * DESCRIPTORS);
        for group in first.chunks(DESCRIPTORS) {
            self.send_one(MORE, &[], group, SendFlags::empty())?;
        }
        self.send_one(LAST, bytes, last, SendFlags::empty())
    }

    /// As [`Packets::send`], for one packet and never sleeping: where the other end has
    /// too much to receive, that is an error.
    pub fn send_now(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        self.send_one(LAST, bytes, descriptors, SendFlags::DONTWAIT)
    }

    fn send_one(&self, follow: u8, bytes: &[u8], descriptors: &[BorrowedFd<'_>], flags: SendFlags) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Error::new(Kind::TooLarge, "more descriptors than a packet takes"));
        }
        let follow = [follow];
        let parts = [IoSlice::new(&follow), IoSlice::new(bytes)];
        loop {
            match sendmsg(&self.0, &parts, &mut control, flags | SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    return Err(Error::new(Kind::Closed, "the process at the other end is gone"));
                }
                Err(errno) => return Err(refused("sending to another process (sendmsg)")(errno)),
            }
        }
    }

    /// The next message; None when the other end is gone. Sleeps until one of the two.
    pub fn receive(&self) -> Result<Option<Packet>> {
        let mut packet = Packet::default();
        let mut buffer = vec![0; LARGEST + 1];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = match recvmsg(&self.0, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags) {
                Ok(received) => received,
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => return Ok(None),
                Err(errno) => return Err(refused("receiving from another process (recvmsg)")(errno)),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    packet.descriptors.extend(descriptors);
                }
            }
            if received.flags.intersects(ReturnFlags::CTRUNC) {
                let message = "a process cannot receive the descriptors sent to it: it has too many open already";
                return Err(Error::new(Kind::Os, message));
            }
            match buffer.get(..received.bytes).and_then(<[u8]>::split_first) {
                None if received.bytes == 0 => return Ok(None),
                Some((&MORE, _)) => {}
                Some((&LAST, bytes)) if !received.flags.intersects(ReturnFlags::TRUNC) => {
                    packet.bytes.extend_from_slice(bytes);
                    return Ok(Some(packet));
                }
                _ => return Err(Error::new(Kind::Corrupt, "another process sent a packet that nobody understands")),
            }
        }
    }
}

impl AsFd for Packets {
    /// Readable when there is something to receive, or the other end is gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn bytes_and_descriptors_arrive() {
        let (one, other) = Packets::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        one.send(b"first", &[writer.as_fd()]).unwrap();
        one.send(&[7; LARGEST], &[]).unwrap();
        drop(writer);
        let Packet { bytes, mut descriptors } = other.receive().unwrap().unwrap();
        assert_eq!((bytes.as_slice(), descriptors.len()), (&b"first"[..], 1));
        File::from(descriptors.remove(0)).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert_eq!(other.receive().unwrap().unwrap().bytes, [7; LARGEST]);
        drop(one);
        assert!(other.receive().unwrap().is_none());
        assert_eq!(other.send(b"x", &[]).unwrap_err().kind(), Kind::Closed);
    }

    #[test]
    fn more_descriptors_than_a_packet_takes() {
        let (one, other) = Packets::pair().unwrap();
        for count in [0, 1, DESCRIPTORS, DESCRIPTORS + 1, 2 * DESCRIPTORS + 50] {
            one.send(b"many", &vec![one.as_fd(); count]).unwrap();
            let packet = other.receive().unwrap().unwrap();
            assert_eq!((packet.bytes.as_slice(), packet.descriptors.len()), (&b"many"[..], count));
        }
    }

    #[test]
    fn what_is_too_large_or_nonsense_is_an_error() {
        let (one, other) = Packets::pair().unwrap();
        assert_eq!(one.send(&[0; LARGEST + 1], &[]).unwrap_err().kind(), Kind::TooLarge);
        rustix::io::write(&one, &[9, 9]).unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), Kind::Corrupt);
        rustix::io::write(&one, &[0; LARGEST + 2]).unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), Kind::Corrupt);
    }
}
