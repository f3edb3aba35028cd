//! A channel whose memory somebody overwrites between any two calls: every call returns, with a value or an error, and
//! reaches no memory but the channel's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use manycore_engine::Kind;
use manycore_engine::shm::channel::{Channel, Got, Wait};
use manycore_engine::shm::message::Message;
use manycore_fuzz::{Tape, damage};
use std::fs::File;
use std::time::{Duration, Instant};

/// Messages of these lengths: in the stream, at its limit, in blocks of several classes.
const LENGTHS: [usize; 8] = [0, 1, 300, 4096, 4097, 9000, 70_000, 1 << 20];

fuzz_target!(|data: &[u8]| {
    let mut tape = Tape(data);
    let capacity = tape.byte();
    let channel = Channel::create((capacity & 1 == 1).then_some(u32::from(capacity))).expect("a channel");
    let file = File::from(channel.file().try_clone_to_owned().expect("a descriptor"));
    let mut ends = vec![channel];
    let (mut inline, mut leases, payload) = (Vec::new(), Vec::new(), vec![7; 1 << 20]);
    for _ in 0..64 {
        if tape.is_empty() {
            break;
        }
        let end = &ends[tape.below(ends.len())];
        let soon = Some(Instant::now() + Duration::from_millis(1));
        match tape.byte() % 12 {
            0 | 1 => {
                let bytes = &payload[..LENGTHS[tape.below(LENGTHS.len())]];
                let _ = end.try_send(Message::of(bytes), Wait::No);
            }
            2 | 3 => match end.try_receive(&mut inline, Wait::No) {
                Ok(Got::Inline(head)) => assert!(head <= inline.len()),
                // What a block holds is read to its end: it must be there.
                Ok(Got::Block(lease)) if lease.len() <= 4 << 20 => {
                    assert!(lease.head() <= lease.len());
                    std::hint::black_box(lease.to_vec());
                    leases.push(lease);
                }
                Ok(Got::Block(lease)) => leases.push(lease),
                Ok(Got::Nothing | Got::Busy) | Err(_) => {}
            },
            4 => {
                leases.pop();
            }
            5 => {
                let _ = end.wait_message(soon);
            }
            6 => {
                let _ = end.wait_room(soon);
            }
            7 => {
                let _ = (end.task_done(), end.unfinished(), end.waiting(), end.is_full());
                let _ = end.wait_done(soon);
            }
            8 => {
                let _ = end.watch();
            }
            9 if ends.len() < 3 => {
                let bell = end.bell().try_clone_to_owned().expect("a descriptor");
                match Channel::attach(end.file().try_clone_to_owned().expect("a descriptor"), bell) {
                    Ok(other) => ends.push(other),
                    Err(error) => assert_eq!(error.kind(), Kind::Corrupt),
                }
            }
            10 => {
                let _ = end.before_fork();
            }
            _ => damage(&file, &mut tape),
        }
    }
});
