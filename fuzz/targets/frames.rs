//! Frames of connections: whatever comes through a descriptor ends in messages or an error, and no byte is read twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use manycore_engine::connection::{Link, Receipt, Room, Step, Took, Wait, pair};
use manycore_fuzz::Tape;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

/// So much a socket or pipe takes without a reader.
const MOST: usize = 32 << 10;

fn ends(kind: u8) -> (OwnedFd, OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    match kind % 3 {
        0 => pair().expect("a pair"),
        1 => socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("two sockets"),
        _ => rustix::pipe::pipe().expect("a pipe"),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut tape = Tape(data);
    let (kind, size, limit) = (tape.byte(), tape.below(300), tape.byte());
    let (reader, writer) = ends(kind);
    let (fd, link) = (reader.as_raw_fd(), Link::default());
    let mut writer = Some(File::from(writer));
    let (mut sent, mut got) = (0, 0);
    let limit = (limit & 1 == 1).then_some(u64::from(limit) * 4);
    loop {
        let mut small = vec![0; size];
        let mut receipt = Receipt::new(&mut small, limit);
        // A message comes in pieces; in between the reader finds that there is no more.
        let step = loop {
            match receipt.advance(&link, fd, Wait::Not).expect("reading from a socket or pipe works") {
                Step::Later if tape.is_empty() || sent >= MOST => {
                    writer = None;
                }
                Step::Later => {
                    let len = 1 + usize::from(tape.byte());
                    let bytes = tape.bytes(len);
                    if let Some(writer) = &mut writer {
                        writer.write_all(bytes).expect("there is room");
                        sent += bytes.len();
                    }
                }
                step => break step,
            }
        };
        match step {
            Step::Later => unreachable!("handled above"),
            Step::Whole(len) => {
                assert!(len <= size && limit.is_none_or(|limit| len as u64 <= limit));
                got += receipt.small(len).len();
            }
            Step::Announced(len) => {
                assert!(len > size as u64 && limit.is_none_or(|limit| len <= limit));
                let begun = receipt.begun().len();
                assert!(begun as u64 <= len);
                // The rest is taken as it comes: what was announced may never come.
                drop(writer.take());
                let mut left = len - begun as u64;
                while left > 0 {
                    let mut body = vec![0; left.min(4096) as usize];
                    let mut room = Room::of(&mut body);
                    let took = link.fill(fd, &mut room).expect("reading works");
                    got += room.filled();
                    left -= room.filled() as u64;
                    if took == Took::End {
                        return;
                    }
                }
            }
            Step::Unwanted | Step::End | Step::Torn => break,
        }
    }
    assert!(got <= sent);
});
