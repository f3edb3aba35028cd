//! Sending and receiving as a face does.

// Each test file uses its own part of this one.
#![allow(dead_code)]
#![allow(unsafe_code)]

use manycore_engine::Kind;
use manycore_engine::pool::{Message, Segment};
use manycore_engine::shm::channel::{Channel, Got, Sent, Wait};
use std::time::{Duration, Instant};

/// Nothing here takes longer, unless it hangs.
pub fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(30))
}

/// Sends a message that is all head.
pub fn send(channel: &Channel, bytes: &[u8]) {
    loop {
        match channel.try_send(Message::of(bytes), Wait::Until(soon())) {
            Ok(Sent::Done(_)) => return,
            Ok(Sent::Full) => drop(channel.wait_room(soon())),
            Ok(other) => panic!("{other:?}"),
            Err(error) if error.kind() == Kind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A segment that borrows `bytes`, which the caller keeps until it was sent.
pub fn segment(bytes: &[u8]) -> Segment {
    // SAFETY: by what is said above, which these tests do.
    unsafe { Segment::new(bytes.as_ptr(), bytes.len()) }
}

/// The next message, if one waits.
pub fn try_receive(channel: &Channel) -> Option<Vec<u8>> {
    let mut inline = Vec::new();
    loop {
        match channel.try_receive(&mut inline, Wait::Until(soon())) {
            Ok(Got::Inline(_)) => return Some(inline),
            Ok(Got::Block(lease)) => return Some(lease.to_vec()),
            Ok(Got::Nothing) => return None,
            Ok(Got::Busy) => panic!("busy"),
            Err(error) if error.kind() == Kind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The next message, as soon as it comes.
pub fn receive(channel: &Channel) -> Vec<u8> {
    loop {
        if let Some(bytes) = try_receive(channel) {
            return bytes;
        }
        match channel.wait_message(soon()) {
            Ok(waits) => assert!(waits, "no message comes"),
            Err(error) => assert_eq!(error.kind(), Kind::Interrupted),
        }
    }
}
