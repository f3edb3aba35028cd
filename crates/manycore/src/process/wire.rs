//! What a process and its starter say to each other.
//!
//! | who | says | with |
//! |---|---|---|
//! | starter, before the process runs | the call | code and arguments, limits, descriptors |
//! | process | started | nothing: it has reached `init()` and is the right program |
//! | process | refused | why it cannot run the task |
//! | process, last | returned, or raised | the result, descriptors; the failure |
//!
//! A message is a byte that says what it is, then its bytes, or, where they are many,
//! their number, and a memory file as the first descriptor. Who dies in between leaves
//! nothing: packets arrive whole or not at all, and what is on its way goes with the
//! socket.

use crate::error::{Error, Kind, Result};
use crate::passing::Table;
use manycore_engine::os::memory;
use manycore_engine::os::packets::{LARGEST, Packets};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Says {
    Call = 0,
    Started = 1,
    Refused = 2,
    Returned = 3,
    Raised = 4,
}

const ALL: [Says; 5] = [Says::Call, Says::Started, Says::Refused, Says::Returned, Says::Raised];

/// Added to the first byte of a message whose bytes are in a memory file.
const IN_FILE: u8 = 0x80;

/// Sends a message.
pub(super) fn send(packets: &Packets, says: Says, bytes: &[u8], table: &Table) -> Result<()> {
    let mut descriptors: Vec<BorrowedFd<'_>> = table.iter().map(|descriptor| descriptor.as_fd()).collect();
    let mut packet = vec![says as u8];
    if bytes.len() < LARGEST {
        packet.extend(bytes);
        return Ok(packets.send(&packet, &descriptors)?);
    }
    let mut file = File::from(memory::file()?);
    file.write_all(bytes).map_err(|error| {
        Error::new(Kind::TooLarge, format!("{} bytes for another process find no memory: {error}", bytes.len()))
    })?;
    packet[0] |= IN_FILE;
    packet.extend((bytes.len() as u64).to_le_bytes());
    descriptors.insert(0, file.as_fd());
    Ok(packets.send(&packet, &descriptors)?)
}

/// The next message; None when the other end is gone.
pub(super) fn receive(packets: &Packets) -> Result<Option<(Says, Vec<u8>, Table)>> {
    let Some(mut packet) = packets.receive()? else { return Ok(None) };
    let nonsense = || Error::new(Kind::System, "another process sent a message that nobody understands");
    let first = *packet.bytes.first().ok_or_else(nonsense)?;
    let says = *ALL.get(usize::from(first & !IN_FILE)).ok_or_else(nonsense)?;
    packet.bytes.remove(0);
    let mut descriptors = packet.descriptors.into_iter();
    let bytes = if first & IN_FILE == 0 {
        packet.bytes
    } else {
        let len = packet.bytes.try_into().map(u64::from_le_bytes).map_err(|_| nonsense())?;
        read(descriptors.next().ok_or_else(nonsense)?, len)?
    };
    Ok(Some((says, bytes, descriptors.map(Arc::new).collect())))
}

/// The first `len` bytes of a memory file that another process has written.
fn read(file: OwnedFd, len: u64) -> Result<Vec<u8>> {
    let mut file = File::from(file);
    let mut bytes = Vec::new();
    let there = file.metadata().map_or(0, |file| file.len());
    let refuse = |what: &str| Error::new(Kind::System, format!("reading {len} bytes of another process: {what}"));
    if there != len || file.rewind().is_err() {
        return Err(refuse("they are not there"));
    }
    let wanted = usize::try_from(len).map_err(|_| refuse("too many"))?;
    bytes.try_reserve_exact(wanted).map_err(|_| refuse("no memory is left"))?;
    file.read_to_end(&mut bytes).map_err(|error| refuse(&error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_size_arrive() {
        let (one, other) = Packets::pair().unwrap();
        let null: Arc<OwnedFd> = Arc::new(File::open("/dev/null").unwrap().into());
        for len in [0, 1, LARGEST - 1, LARGEST, LARGEST + 1, 3 << 20] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            send(&one, Says::Returned, &bytes, &vec![Arc::clone(&null); len % 3]).unwrap();
            let (says, arrived, table) = receive(&other).unwrap().unwrap();
            assert!(says == Says::Returned && arrived == bytes && table.len() == len % 3, "{len}");
        }
        drop(one);
        assert!(receive(&other).unwrap().is_none());
    }

    #[test]
    fn nonsense_is_an_error() {
        let (one, other) = Packets::pair().unwrap();
        let file = File::from(memory::file().unwrap());
        let mut promise = vec![Says::Returned as u8 | IN_FILE];
        promise.extend(u64::MAX.to_le_bytes());
        for (bytes, descriptors) in [
            (&[][..], &[][..]),
            (&[99], &[]),
            (&[Says::Raised as u8 | IN_FILE, 1, 2], &[file.as_fd()]),
            (&promise, &[]),
            (&promise, &[file.as_fd()]),
        ] {
            one.send(bytes, descriptors).unwrap();
            assert!(receive(&other).is_err(), "{bytes:?}");
        }
    }
}
