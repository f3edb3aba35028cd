//! Channels and pipes between processes: order, ends, deaths.
//!
//! The program brings its own main: it must be able to be the process.

#![forbid(unsafe_code)]

mod support;

use manycore::channel::{self, End, Receiver, Sender};
use manycore::{Passed, Pool, Process, Slice, closure};
use std::collections::BTreeMap;
use std::io::PipeWriter;
use std::time::Duration;
use support::{LONG, keep, kill_one_with, killed_at};

/// Runs alone in its process, since it counts.
const ALONE: &str = "MANYCORE_TEST_ALONE";

fn main() {
    manycore::init();
    if std::env::var_os(ALONE).is_some() {
        return tidy();
    }
    support::run(support::tests![
        values_arrive_in_order,
        all_kinds_of_values,
        many_to_many,
        a_bounded_channel_makes_senders_wait,
        waits_end_in_time,
        the_last_sender_ends_it,
        every_receiver_hears_the_end,
        the_last_receiver_ends_it,
        a_killed_sender_ends_it,
        a_killed_receiver_ends_it,
        a_sender_killed_on_its_way,
        a_receiver_killed_on_its_way,
        pipes_go_both_ways,
        pools_send_and_receive,
        dropped_tickets_leave_their_handles,
        nothing_is_left,
        send_and_sync,
    ]);
}

fn count(sender: Sender<u64>, range: std::ops::Range<u64>) {
    range.for_each(|number| sender.send(number).unwrap());
}

fn values_arrive_in_order() {
    let (sender, receiver) = channel::unbounded().unwrap();
    let mut process = Process::spawn(count, (sender, 0..10_000)).unwrap();
    assert_eq!(receiver.iter().map(Result::unwrap).collect::<Vec<_>>(), (0..10_000).collect::<Vec<_>>());
    process.join().unwrap();
    assert!(receiver.recv().unwrap_err().is_disconnected());
}

fn all_kinds_of_values() {
    type Value = (String, Vec<f64>, BTreeMap<u8, Option<()>>);
    let (sender, receiver) = channel::unbounded::<Value>().unwrap();
    let (back, answers) = channel::unbounded::<Value>().unwrap();
    let echo =
        |values: Receiver<Value>, back: Sender<Value>| values.iter().for_each(|v| back.send(v.unwrap()).unwrap());
    let mut process = Process::spawn(echo, (receiver, back)).unwrap();
    for len in [0, 1, 600, 5_000, 200_000] {
        let value = ("x".repeat(len), vec![0.5; len], BTreeMap::from([(1, Some(())), (2, None)]));
        sender.send(value.clone()).unwrap();
        assert!(answers.recv().unwrap() == value, "{len}");
    }
    drop(sender);
    process.join().unwrap();
    // A unit takes no bytes, and is a value all the same; rows of numbers travel as they are.
    let (sender, receiver) = channel::unbounded::<()>().unwrap();
    sender.send(()).unwrap();
    receiver.recv().unwrap();
    let (sender, receiver) = channel::unbounded::<(u8, Slice<u32>)>().unwrap();
    sender.send((1, (0..100_000).collect())).unwrap();
    assert_eq!(receiver.recv().unwrap().1[99_999], 99_999);
}

fn many_to_many() {
    let (sender, receiver) = channel::bounded(64).unwrap();
    let sum =
        |receiver: Receiver<u64>| receiver.iter().map(Result::unwrap).fold((0, 0), |(n, sum), x| (n + 1, sum + x));
    let mut senders: Vec<_> =
        (0..3).map(|part| Process::spawn(count, (sender.clone(), part * 2_000..(part + 1) * 2_000)).unwrap()).collect();
    let mut receivers: Vec<_> = (0..2).map(|_| Process::spawn(sum, (receiver.clone(),)).unwrap()).collect();
    drop((sender, receiver));
    senders.iter_mut().for_each(|process| process.join().unwrap());
    let sums: Vec<(u64, u64)> = receivers.iter_mut().map(|process| process.join().unwrap()).collect();
    assert_eq!(sums.iter().map(|(n, _)| n).sum::<u64>(), 6_000);
    assert_eq!(sums.iter().map(|(_, sum)| sum).sum::<u64>(), (0..6_000).sum());
}

fn a_bounded_channel_makes_senders_wait() {
    let (sender, receiver) = channel::bounded(2).unwrap();
    assert_eq!((sender.capacity(), receiver.capacity()), (Some(2), Some(2)));
    assert!(sender.try_send(1).unwrap() && sender.try_send(2).unwrap() && !sender.try_send(3).unwrap());
    assert!(sender.send_timeout(3, Duration::from_millis(1)).unwrap_err().is_timeout());
    assert_eq!((sender.len(), receiver.len()), (2, 2));
    let mut process = Process::spawn(count, (sender.clone(), 3..6)).unwrap();
    drop(sender);
    assert_eq!(receiver.iter().map(Result::unwrap).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    process.join().unwrap();
    assert!(channel::bounded::<u8>(0).is_err() && channel::bounded::<u8>(usize::MAX).is_err());
}

fn waits_end_in_time() {
    let (sender, receiver) = channel::unbounded().unwrap();
    assert!(receiver.recv_timeout(Duration::from_millis(1)).unwrap_err().is_timeout());
    assert!(receiver.try_recv().unwrap().is_none() && receiver.is_empty());
    sender.send(5).unwrap();
    assert_eq!((receiver.recv_timeout(LONG).unwrap(), receiver.try_recv().unwrap()), (5, None));
}

fn the_last_sender_ends_it() {
    let (sender, receiver) = channel::unbounded().unwrap();
    let other = sender.clone();
    sender.send(1).unwrap();
    drop(sender);
    assert_eq!(receiver.recv().unwrap(), 1);
    assert!(receiver.try_recv().unwrap().is_none(), "one is left");
    drop(other);
    assert!(receiver.try_recv().unwrap_err().is_disconnected());
    assert!(receiver.recv().unwrap_err().is_disconnected());
    assert!(receiver.recv_timeout(LONG).unwrap_err().is_disconnected());
}

fn every_receiver_hears_the_end() {
    let (sender, receiver) = channel::unbounded::<u64>().unwrap();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..4).map(|_| scope.spawn(|| receiver.recv().unwrap_err())).collect();
        drop(sender);
        assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap().is_disconnected()));
    });
}

fn the_last_receiver_ends_it() {
    let (sender, receiver) = channel::unbounded().unwrap();
    drop(receiver);
    assert!(sender.send(1).unwrap_err().is_disconnected());
    let (sender, receiver) = channel::bounded(1).unwrap();
    sender.send(1).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| sender.send(2));
        drop(receiver);
        assert!(waiter.join().unwrap().unwrap_err().is_disconnected());
    });
    // Of an endless one, too, after some more values.
    let (sender, receiver) = channel::unbounded().unwrap();
    sender.send(0).unwrap();
    drop(receiver);
    assert!((0..100).any(|number| sender.send(number).is_err_and(|error| error.is_disconnected())));
}

fn a_killed_sender_ends_it() {
    let (sender, receiver) = channel::unbounded::<u64>().unwrap();
    let task = |sender: Sender<u64>, said: Passed<PipeWriter>| {
        sender.send(7).unwrap();
        keep(said);
    };
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| (receiver.recv().unwrap(), receiver.recv().unwrap_err()));
        kill_one_with(task, sender);
        let (value, error) = waiter.join().unwrap();
        assert!(value == 7 && error.is_disconnected(), "{error}");
    });
}

fn a_killed_receiver_ends_it() {
    let (sender, receiver) = channel::bounded::<u64>(1).unwrap();
    sender.send(1).unwrap();
    let task = |_receiver: Receiver<u64>, said: Passed<PipeWriter>| keep(said);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| sender.send(2));
        kill_one_with(task, receiver);
        assert!(waiter.join().unwrap().unwrap_err().is_disconnected());
    });
}

fn a_sender_killed_on_its_way() {
    for (point, arrives) in [
        ("send-mid-payload", false),
        ("send-before-commit", false),
        ("send-after-commit", true),
        ("send-before-wake", true),
    ] {
        let (sender, receiver) = channel::unbounded::<Vec<u8>>().unwrap();
        killed_at(point, |sender: Sender<Vec<u8>>| sender.send(vec![7; 100_000]).unwrap(), sender.clone());
        sender.send(vec![8]).unwrap();
        let first = receiver.recv_timeout(LONG).unwrap();
        assert_eq!(first.len(), if arrives { 100_000 } else { 1 }, "{point}");
        drop(sender);
        assert_eq!(receiver.iter().count(), usize::from(arrives), "{point}");
    }
}

fn a_receiver_killed_on_its_way() {
    for (point, left) in [("receive-before-commit", 2), ("receive-after-commit", 1), ("receive-before-wake", 1)] {
        let (sender, receiver) = channel::bounded::<u64>(2).unwrap();
        (1..=2).for_each(|number| sender.send(number).unwrap());
        killed_at(point, |receiver: Receiver<u64>| drop(receiver.recv()), receiver.clone());
        assert_eq!(receiver.len(), left, "{point}");
        assert_eq!(sender.try_send(3).unwrap(), left == 1, "{point}");
        drop(sender);
        assert_eq!(receiver.iter().map(Result::unwrap).last(), Some(if left == 1 { 3 } else { 2 }), "{point}");
    }
}

fn pipes_go_both_ways() {
    let (mine, yours) = channel::pipe::<u64, String>().unwrap();
    let answer = |end: End<String, u64>| {
        while let Ok(number) = end.recv() {
            end.send(number.to_string()).unwrap();
        }
    };
    let mut process = Process::spawn(answer, (yours,)).unwrap();
    for number in 0..1_000 {
        mine.send(number).unwrap();
        assert_eq!(mine.recv_timeout(LONG).unwrap(), number.to_string());
    }
    assert!(mine.try_recv().unwrap().is_none());
    drop(mine);
    process.join().unwrap();
}

fn pools_send_and_receive() {
    let pool = Pool::with_workers(2).unwrap();
    let (sender, receiver) = channel::unbounded().unwrap();
    // Captured, and as an argument; the pool lives on when the channel has ended.
    let captured = sender.clone();
    pool.map(closure!(move(captured) |number: u64| captured.send(number).unwrap()), 0..100).unwrap();
    pool.starmap(
        |sender: Sender<u64>, number: u64| sender.send(number).unwrap(),
        (100..200).map(|n| (sender.clone(), n)),
    )
    .unwrap();
    drop(sender);
    let mut numbers: Vec<u64> = (0..200).map(|_| receiver.recv_timeout(LONG).unwrap()).collect();
    numbers.sort();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    // The workers are idle, and have forgotten what the closure captured.
    assert!(receiver.recv_timeout(LONG).unwrap_err().is_disconnected());
    assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
}

fn dropped_tickets_leave_their_handles() {
    let pool = Pool::with_workers(1).unwrap();
    let (sender, receiver) = channel::unbounded().unwrap();
    let (go, gate) = channel::unbounded::<()>().unwrap();
    // Keeps the only worker from the others until their tickets are gone.
    let first = pool.apply_async(|gate: Receiver<()>| gate.recv().unwrap(), (gate,)).unwrap();
    for number in 0..3u64 {
        let captured = sender.clone();
        drop(pool.apply_async(closure!(move(captured) |number: u64| captured.send(number).unwrap()), (number,)));
        let task = |sender: Sender<u64>, number: u64| sender.send(number + 3).unwrap();
        drop(pool.apply_async(task, (sender.clone(), number)));
    }
    drop(sender);
    go.send(()).unwrap();
    first.get().unwrap();
    let mut numbers: Vec<u64> = (0..6).map(|_| receiver.recv_timeout(LONG).unwrap()).collect();
    numbers.sort();
    assert_eq!(numbers, (0..6).collect::<Vec<_>>());
    assert!(receiver.recv_timeout(LONG).unwrap_err().is_disconnected());
}

fn nothing_is_left() {
    let output = std::process::Command::new(std::env::current_exe().unwrap()).env(ALONE, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn tidy() {
    let open = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
        (descriptors, std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd").count())
    };
    let before = open();
    for _ in 0..5 {
        let (sender, receiver) = channel::bounded(8).unwrap();
        let mut process = Process::spawn(count, (sender, 0..100)).unwrap();
        assert_eq!(receiver.iter().count(), 100);
        process.join().unwrap();
        let (mine, yours) = channel::pipe::<u8, u8>().unwrap();
        kill_one_with(|_end: End<u8, u8>, said: Passed<PipeWriter>| keep(said), yours.clone());
        drop((receiver, process, mine, yours));
        assert_eq!(open(), before);
    }
}

fn send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Sender<String>>();
    check::<Receiver<std::rc::Rc<u8>>>();
    check::<End<u8, String>>();
}
