//! What processes use together, and what becomes of it when one of them dies.
//!
//! The program brings its own main: it must be able to be the process.

#![forbid(unsafe_code)]

mod support;

use manycore::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, Shared};
use manycore::{Passed, Process};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::sync::TryLockError;
use std::time::Duration;
use support::{LONG, POINT, holder, keep, killed_at};

#[manycore::main]
fn main() {
    support::run(support::tests![
        a_mutex_counts,
        a_mutex_keeps_others_out,
        a_dead_owner_poisons,
        a_change_is_whole_or_has_not_happened,
        a_panic_poisons,
        a_rwlock_counts,
        readers_share_and_writers_wait,
        a_dead_reader_does_no_harm,
        a_reader_killed_on_its_way,
        a_dead_writer_poisons,
        shared_values_are_seen,
        handles_travel_in_many_ways,
        send_and_sync,
    ]);
}

/// A structure of one's own.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Account {
    number: u64,
    balance: [i32; 3],
    last: u32,
}

fn a_mutex_counts() {
    let count = Mutex::new(Account { number: 7, balance: [0; 3], last: 0 }).unwrap();
    let add = |count: Mutex<Account>| {
        for _ in 0..2_000 {
            let mut account = count.lock().unwrap();
            account.balance.iter_mut().for_each(|balance| *balance += 1);
            account.last = std::process::id();
        }
    };
    let mut processes: Vec<_> = (0..3).map(|_| Process::spawn(add, (count.clone(),)).unwrap()).collect();
    for process in &mut processes {
        process.join().unwrap();
    }
    let account = *count.lock().unwrap();
    assert_eq!((account.number, account.balance), (7, [6_000; 3]));
    assert!(processes.iter().any(|process| process.id() == account.last));
}

fn a_mutex_keeps_others_out() {
    let mutex = Mutex::new(1u8).unwrap();
    let (mut said, say) = std::io::pipe().unwrap();
    let (line, end) = std::io::pipe().unwrap();
    let hold = |mutex: Mutex<u8>, mut said: Passed<PipeWriter>, mut line: Passed<PipeReader>| {
        let mut guard = mutex.lock().unwrap();
        *guard = 2;
        said.write_all(b"!").unwrap();
        let _ = line.read(&mut [0]);
    };
    let mut process = Process::spawn(hold, (mutex.clone(), Passed(say), Passed(line))).unwrap();
    said.read_exact(&mut [0]).unwrap();
    assert!(matches!(mutex.lock_timeout(Duration::from_millis(1)), Err(TryLockError::WouldBlock)));
    assert!(matches!(mutex.try_lock(), Err(TryLockError::WouldBlock)));
    drop(end);
    assert_eq!(*mutex.lock().unwrap(), 2);
    process.join().unwrap();
    let guard = mutex.try_lock().unwrap();
    assert!(matches!(mutex.try_lock(), Err(TryLockError::WouldBlock)));
    drop(guard);
    assert_eq!(*mutex.lock_timeout(LONG).unwrap(), 2);
}

fn a_dead_owner_poisons() {
    let mutex = Mutex::new(1u64).unwrap();
    let mut process = holder(
        |mutex: Mutex<u64>, said: Passed<PipeWriter>| {
            *mutex.lock().unwrap() = 2;
            let mut guard = mutex.lock().unwrap();
            *guard = 3;
            keep(said);
        },
        mutex.clone(),
    );
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| mutex.lock().map(|guard| *guard).map_err(|poisoned| **poisoned.get_ref()));
        process.kill().unwrap();
        assert_eq!(waiter.join().unwrap(), Err(2), "it is as it was before the dead one took it");
    });
    assert!(mutex.is_poisoned() && mutex.lock().is_err() && matches!(mutex.try_lock(), Err(TryLockError::Poisoned(_))));
    mutex.clear_poison();
    assert_eq!(*mutex.lock().unwrap(), 2);
}

fn a_change_is_whole_or_has_not_happened() {
    let mutex = Mutex::new([1u64; 100]).unwrap();
    killed_at("kept-storing", |mutex: Mutex<[u64; 100]>| *mutex.lock().unwrap() = [2; 100], mutex.clone());
    assert_eq!(**mutex.lock().unwrap_err().get_ref(), [1; 100]);
    let lock = RwLock::new([1u64; 100]).unwrap();
    killed_at("kept-storing", |lock: RwLock<[u64; 100]>| *lock.write().unwrap() = [2; 100], lock.clone());
    assert_eq!(**lock.read().unwrap_err().get_ref(), [1; 100]);
}

fn a_panic_poisons() {
    let mutex = Mutex::new(1u64).unwrap();
    let panics = |mutex: Mutex<u64>| -> () {
        let mut guard = mutex.lock().unwrap();
        *guard = 2;
        panic!("with it in hand");
    };
    let mut process = Process::builder().stderr(manycore::Stdio::Null).spawn(panics, (mutex.clone(),)).unwrap();
    assert!(process.join().unwrap_err().is_panic());
    assert_eq!(**mutex.lock().unwrap_err().get_ref(), 1);
}

fn a_rwlock_counts() {
    let lock = RwLock::new([0u64; 2]).unwrap();
    let work = |lock: RwLock<[u64; 2]>| {
        for _ in 0..500 {
            lock.write().unwrap().iter_mut().for_each(|value| *value += 1);
            let read = lock.read().unwrap();
            assert_eq!(read[0], read[1]);
        }
    };
    let mut processes: Vec<_> = (0..3).map(|_| Process::spawn(work, (lock.clone(),)).unwrap()).collect();
    for process in &mut processes {
        process.join().unwrap();
    }
    assert_eq!(*lock.read().unwrap(), [1_500; 2]);
}

fn read_and_keep(lock: RwLock<u8>, said: Passed<PipeWriter>) {
    let _guard = lock.read().unwrap();
    keep(said);
}

fn readers_share_and_writers_wait() {
    let lock = RwLock::new(5u8).unwrap();
    let mut reader = holder(read_and_keep, lock.clone());
    assert_eq!((*lock.read().unwrap(), *lock.try_read().unwrap(), *lock.read_timeout(LONG).unwrap()), (5, 5, 5));
    assert!(matches!(lock.try_write(), Err(TryLockError::WouldBlock)));
    assert!(matches!(lock.write_timeout(Duration::from_millis(1)), Err(TryLockError::WouldBlock)));
    reader.kill().unwrap();
    assert!(reader.join().is_err());
    *lock.write().unwrap() = 6;
    let guard = lock.write().unwrap();
    assert!(matches!(lock.try_read(), Err(TryLockError::WouldBlock)));
    assert!(matches!(lock.read_timeout(Duration::from_millis(1)), Err(TryLockError::WouldBlock)));
    drop(guard);
    assert_eq!(*lock.read().unwrap(), 6);
}

fn a_dead_reader_does_no_harm() {
    let lock = RwLock::new(5u8).unwrap();
    let mut reader = holder(read_and_keep, lock.clone());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| *lock.write().unwrap() = 6);
        reader.kill().unwrap();
        writer.join().unwrap();
    });
    assert!(!lock.is_poisoned() && *lock.read().unwrap() == 6);
}

fn a_reader_killed_on_its_way() {
    let lock = RwLock::new(5u8).unwrap();
    killed_at("rwlock-coming-in", |lock: RwLock<u8>| drop(lock.read()), lock.clone());
    assert_eq!(*lock.write_timeout(LONG).unwrap(), 5);
    // Where a writer waits, a reader wakes it as it leaves; this one dies of it.
    let (mut said, say) = std::io::pipe().unwrap();
    let leave = |lock: RwLock<u8>, mut said: Passed<PipeWriter>| {
        let guard = lock.read().unwrap();
        said.write_all(b"!").unwrap();
        // Where even another reader has to wait, a writer does.
        while lock.try_read().is_ok() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(5));
        drop(guard);
    };
    let process = Process::builder().env(POINT, "rwlock-leaving").spawn(leave, (lock.clone(), Passed(say)));
    said.read_exact(&mut [0]).unwrap();
    *lock.write_timeout(LONG).unwrap() = 6;
    // A writer that sleeps in the moment of the look gets out without a wake.
    let mut process = process.unwrap();
    let status = (process.join().is_err(), process.exit_status().unwrap().unwrap());
    assert!(status.1.signal() == Some(9) || status.1.success(), "{status:?}");
    assert_eq!(*lock.read().unwrap(), 6);
}

fn a_dead_writer_poisons() {
    let lock = RwLock::new(5u8).unwrap();
    let mut writer = holder(
        |lock: RwLock<u8>, said: Passed<PipeWriter>| {
            let mut guard = lock.write().unwrap();
            *guard = 6;
            keep(said);
        },
        lock.clone(),
    );
    writer.kill().unwrap();
    assert_eq!(**lock.read().unwrap_err().get_ref(), 5);
    assert_eq!(**lock.write().unwrap_err().get_ref(), 5);
    assert!(lock.is_poisoned() && lock.read().is_err() && lock.try_write().is_err());
    lock.clear_poison();
    *lock.write().unwrap() = 7;
    assert_eq!(*lock.read().unwrap(), 7);
}

fn shared_values_are_seen() {
    let (one, row) = (Shared::new(0.5f64).unwrap(), Shared::<[u16]>::zeroed(1_000).unwrap());
    let change = |one: Shared<f64>, row: Shared<[u16]>| {
        one.set(2.0 * one.get());
        row.write(10, &[1, 2, 3]).unwrap();
        (row.len(), row.get(999), row.get(1_000))
    };
    let seen = Process::spawn(change, (one.clone(), row.clone())).unwrap().join().unwrap();
    assert_eq!(seen, (1_000, Some(0), None));
    assert_eq!((one.get(), &row.to_vec()[9..14]), (1.0, &[0, 1, 2, 3, 0][..]));
    assert!(row.set(1_000, 1).is_err() && row.write(999, &[1, 2]).is_err() && row.read(998, &mut [0; 3]).is_err());
    assert!(Shared::<[u64]>::zeroed(usize::MAX).unwrap_err().is_too_large());
    assert!(Shared::<[u64]>::from_slice(&[]).unwrap().is_empty());
}

fn handles_travel_in_many_ways() {
    let (mutex, row) = (Mutex::new(1u32).unwrap(), Shared::from_slice(&[1u8, 2, 3]).unwrap());
    // The same one several times, in structures, and in what comes back.
    let give = |handles: Vec<(Mutex<u32>, Shared<[u8]>)>| {
        handles.iter().for_each(|(mutex, _)| *mutex.lock().unwrap() += 1);
        (handles[0].0.clone(), handles[1].1.clone(), Mutex::new(9u32).unwrap())
    };
    let handles = (0..10).map(|_| (mutex.clone(), row.clone())).collect::<Vec<_>>();
    let (same, other_row, new) = Process::spawn(give, (handles,)).unwrap().join().unwrap();
    *same.lock().unwrap() += 1;
    other_row.set(0, 7).unwrap();
    // What a process made lives on in the handle that came out of it.
    assert_eq!((*mutex.lock().unwrap(), row.get(0), *new.lock().unwrap()), (12, Some(7), 9));
    // Captured by a closure.
    let captured = mutex.clone();
    let task = manycore::closure!(move(captured) |by: u32| *captured.lock().unwrap() += by);
    Process::spawn(task, (5,)).unwrap().join().unwrap();
    assert_eq!(*mutex.lock().unwrap(), 17);
}

fn send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Mutex<u64>>();
    check::<RwLock<u64>>();
    check::<Shared<u64>>();
    check::<Shared<[u64]>>();
    check::<MutexGuard<'_, u64>>();
    check::<RwLockReadGuard<'_, u64>>();
    check::<RwLockWriteGuard<'_, u64>>();
}
