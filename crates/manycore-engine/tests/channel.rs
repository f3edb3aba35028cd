//! A channel in one process: many threads, every size, damage, and forks of what lies in place.

#![cfg(not(loom))]

#[path = "support/ends.rs"]
mod ends;
use ends::{receive, segment, send, soon};
use manycore_engine::Kind;
use manycore_engine::pool::Message;
use manycore_engine::shm::channel::{Channel, Got, INLINE, Sent, Wait};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

fn twin(channel: &Channel) -> Channel {
    let [file, bell] = [channel.file(), channel.bell()].map(|fd| fd.try_clone_to_owned().unwrap());
    Channel::attach(file, bell).unwrap()
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
}

/// A message whose every byte tells its sender, number and length.
fn message(sender: u8, number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![sender];
    bytes.extend(number.to_ne_bytes());
    bytes.resize(len.max(5), sender ^ number as u8);
    bytes
}

fn check(bytes: &[u8]) -> (u8, u32) {
    let (sender, number) = (bytes[0], u32::from_ne_bytes(bytes[1..5].try_into().unwrap()));
    assert!(bytes == message(sender, number, bytes.len()), "a message is made of two");
    (sender, number)
}

fn many_to_many(capacity: Option<u32>, lengths: &[usize]) {
    const MESSAGES: u32 = 4000;
    let channel = Channel::create(capacity).unwrap();
    let received = std::thread::scope(|scope| {
        for sender in 0..3u8 {
            let channel = twin(&channel);
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    let len = lengths[number as usize % lengths.len()];
                    send(&channel, &message(sender, number, len));
                }
            });
        }
        let receivers = [(); 3].map(|()| {
            let channel = twin(&channel);
            scope.spawn(move || (0..MESSAGES).map(|_| check(&receive(&channel))).collect::<Vec<_>>())
        });
        receivers.map(|receiver| receiver.join().unwrap())
    });
    // Each message once; and each receiver sees each sender's in order.
    let mut seen = BTreeMap::new();
    for list in &received {
        let mut last = BTreeMap::new();
        for (sender, number) in list {
            assert!(last.insert(sender, number).is_none_or(|before| before < number), "out of order");
            *seen.entry((sender, number)).or_insert(0) += 1;
        }
    }
    assert_eq!(seen.len(), 3 * MESSAGES as usize);
    assert!(seen.values().all(|times| *times == 1));
    assert_eq!(channel.waiting(), 0);
}

#[test]
fn many_threads_short_messages() {
    many_to_many(None, &[5, 20, 100, 1000]);
}

#[test]
fn many_threads_every_size() {
    many_to_many(None, &[5, INLINE, INLINE + 1, 70_000, 9]);
}

#[test]
fn many_threads_little_room() {
    many_to_many(Some(2), &[5, 5000]);
}

#[test]
fn a_message_keeps_its_parts_apart() {
    let channel = Channel::create(None).unwrap();
    for len in [30, 3000, 300_000] {
        let parts = [vec![1u8; len], vec![2u8; 7], vec![3u8; len]];
        let segments = [segment(&parts[1]), segment(&parts[2])];
        let message = Message { head: &parts[0], segments: &segments };
        assert!(matches!(channel.try_send(message, Wait::No), Ok(Sent::Done(_))));
        let mut inline = Vec::new();
        let (bytes, head) = match channel.try_receive(&mut inline, Wait::No).unwrap() {
            Got::Inline(head) => (inline, head),
            Got::Block(lease) => (lease.to_vec(), lease.head()),
            other => panic!("{other:?}"),
        };
        assert_eq!(head, len);
        let (second, third) = (len.next_multiple_of(64), (len.next_multiple_of(64) + 7).next_multiple_of(64));
        assert_eq!([&bytes[..len], &bytes[second..second + 7], &bytes[third..]], [&parts[0], &parts[1], &parts[2]]);
    }
}

#[test]
fn a_full_channel_refuses_and_a_deadline_ends_a_wait() {
    let channel = Channel::create(Some(2)).unwrap();
    let now = || Some(Instant::now() + Duration::from_millis(2));
    assert!(!channel.wait_message(now()).unwrap());
    assert!(matches!(channel.try_receive(&mut Vec::new(), Wait::No).unwrap(), Got::Nothing));
    (0..2).for_each(|_| send(&channel, b"x"));
    for len in [1, 100_000] {
        assert_eq!(channel.try_send(Message::of(&vec![0; len]), Wait::No).unwrap(), Sent::Full);
    }
    assert!(!channel.wait_room(now()).unwrap());
    receive(&channel);
    assert!(channel.wait_room(now()).unwrap());
}

#[test]
fn what_never_fits_is_refused() {
    let channel = Channel::create(None).unwrap();
    let part = vec![0; 1 << 20];
    let segments = vec![segment(&part); 1 << 20];
    let error = channel.try_send(Message { head: b"", segments: &segments }, Wait::No).unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge);
}

#[test]
fn the_bell_is_heard_while_messages_wait() {
    let channel = Channel::create(None).unwrap();
    send(&channel, b"before anybody watched");
    let fd = channel.watch().unwrap();
    let other = twin(&channel);
    assert!(is_readable(fd));
    send(&other, b"two");
    receive(&other);
    assert!(is_readable(fd));
    receive(&channel);
    assert!(!is_readable(fd));
    send(&other, b"three");
    assert!(is_readable(fd));
}

#[test]
fn work_is_reported_as_done() {
    let channel = Channel::create(None).unwrap();
    assert!(!channel.task_done());
    assert!(channel.wait_done(soon()).unwrap());
    (0..100).for_each(|_| send(&channel, b"x"));
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(channel.wait_done(soon()).unwrap()));
        (0..100).for_each(|_| assert!(channel.task_done()));
    });
    assert!(!channel.task_done());
}

/// Blocks that were received are used again, the last given back first.
#[test]
fn memory_goes_round() {
    let channel = Channel::create(None).unwrap();
    let mut places = std::collections::BTreeSet::new();
    for _ in 0..50 {
        send(&channel, &[7; 200_000]);
        let Got::Block(lease) = channel.try_receive(&mut Vec::new(), Wait::No).unwrap() else { panic!() };
        places.insert(lease.base());
    }
    assert_eq!(places.len(), 1);
}

/// Before a fork, what lies in place becomes this process's own: a message that comes
/// to lie in the same block does not show, and the block is whole for the next.
#[test]
fn a_fork_leaves_what_lies_in_place() {
    let channel = Channel::create(None).unwrap();
    send(&channel, &[1; 100_000]);
    let Got::Block(lease) = channel.try_receive(&mut Vec::new(), Wait::No).unwrap() else { panic!() };
    assert!(channel.after_fork().unwrap().is_none());
    channel.before_fork().unwrap();
    // As in a forked child, whose mapping of the block is a copy.
    let child = channel.after_fork().unwrap().expect("a mapping of its own");
    assert_eq!(lease.to_vec(), [1; 100_000]);
    send(&child, &[2; 100_000]);
    assert_eq!(receive(&channel), [2; 100_000]);
    drop(lease);
    send(&child, &[3; 100_000]);
    assert_eq!(receive(&channel), [3; 100_000]);
    assert!(channel.after_fork().unwrap().is_none());
}

/// A value somebody might find in memory that was overwritten.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), Just(u64::MAX), 0..16u64, any::<u32>().prop_map(|high| u64::from(high) << 32 | 1)]
}

fn damage(channel: &Channel, words: &[(u64, u64)]) {
    let file = File::from(channel.file().try_clone_to_owned().unwrap());
    words.iter().for_each(|(at, word)| file.write_all_at(&word.to_ne_bytes(), at * 8).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is overwritten, sending and receiving return.
    #[test]
    fn damage_is_an_error(
        near in prop::collection::vec((0u64..512, word()), 0..12),
        far in prop::collection::vec((0u64..1 << 18, word()), 0..200),
        capacity in prop::option::of(1u32..9),
    ) {
        let channel = Channel::create(capacity).unwrap();
        let other = twin(&channel);
        let mut inline = Vec::new();
        let mut use_it = || {
            let mut kept = Vec::new();
            for len in [5, 5000, 600, 70_000, 8] {
                let _ = channel.try_send(Message::of(&vec![1; len]), Wait::No);
                let _ = channel.task_done();
            }
            for _ in 0..3 {
                if let Ok(Got::Block(lease)) = other.try_receive(&mut inline, Wait::No) {
                    kept.push(lease);
                }
            }
            let _ = (channel.waiting(), channel.is_full(), channel.unfinished());
        };
        use_it();
        damage(&channel, &near);
        damage(&channel, &far);
        use_it();
        use_it();
        let _ = other.before_fork();
    }

    /// A damaged head: refused, or harmless to what attaching reads.
    #[test]
    fn attaching_checks_the_head(damaged in prop::collection::vec((0u64..8, word()), 1..4)) {
        let channel = Channel::create(Some(3)).unwrap();
        damage(&channel, &damaged);
        let [file, bell] = [channel.file(), channel.bell()].map(|fd| fd.try_clone_to_owned().unwrap());
        match Channel::attach(file, bell) {
            Ok(attached) => prop_assert_eq!(attached.file().as_fd().try_clone_to_owned().is_ok(), true),
            Err(error) => prop_assert_eq!(error.kind(), Kind::Corrupt),
        }
    }
}
