//! Locks in memory that somebody has overwritten: each operation returns, with an
//! error or with a wrong answer of the right shape. The damage is done through the
//! memory file, as a peer would. See "Damage" in src/shm/README.md.

#![cfg(not(loom))]

use manycore_engine::Result;
use manycore_engine::shm::barrier::{Arrival, Barrier};
use manycore_engine::shm::condition::Condition;
use manycore_engine::shm::event::Event;
use manycore_engine::shm::lock::{Lock, RecursiveLock};
use manycore_engine::shm::mutex::Mutex;
use manycore_engine::shm::semaphore::Semaphore;
use manycore_engine::shm::slots::{Resident, Slot, Slots, SlotsId};
use manycore_engine::sync::{AtomicU64, Ordering};
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How many regions there were that this process did not make.
static OTHERS: AtomicU64 = AtomicU64::new(0);

/// The first words of a place: its tag, the words of the lock, some entries of its table.
const REACH: usize = 32;

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        Just(u64::MAX),
        0..16u64,
        any::<u32>().prop_map(u64::from),
        (any::<u32>(), 0..8u64).prop_map(|(high, low)| u64::from(high) << 32 | low),
        (0..8u64, 0..8u64).prop_map(|(high, low)| high << 32 | low),
    ]
}

fn words() -> impl Strategy<Value = Vec<(usize, u64)>> {
    prop::collection::vec((1..REACH, word()), 1..8)
}

/// Overwrites words of the lock in `slot`; its tag, which is only read on arrival, stays.
fn damage<T: Resident>(slot: &Slot<T>, words: &[(usize, u64)]) {
    let (slots, offset) = slot.address();
    let file = File::from(slots.file().try_clone_to_owned().unwrap());
    for (at, word) in words {
        file.write_all_at(&word.to_ne_bytes(), (offset + at * 8) as u64).unwrap();
    }
}

/// The end of a wait that is not to last.
fn now() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(1))
}

/// One attempt is one nap at most: what matters is that it returns.
fn attempt<T>(outcome: Result<T>) -> Option<T> {
    outcome.ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutexes_and_locks(damaged in words(), deep: bool) {
        let (mutex, lock) = (Slot::<Mutex>::new().unwrap(), Slot::<Lock>::new().unwrap());
        let recursive = Slot::<RecursiveLock>::new().unwrap();
        if deep {
            attempt(recursive.lock(now()));
        }
        damage(&mutex, &damaged);
        damage(&lock, &damaged);
        damage(&recursive, &damaged);
        for _ in 0..2 {
            attempt(mutex.lock(now()));
            mutex.unlock();
            attempt(lock.lock(now()));
            let _ = (lock.is_mine(), lock.is_locked(), lock.release());
            attempt(recursive.lock(now()));
            attempt(recursive.try_lock());
            let _ = (recursive.depth(), recursive.is_mine(), recursive.release());
        }
    }

    #[test]
    fn semaphores_and_events(damaged in words(), value in 0u32..3) {
        let (semaphore, event) = (Slot::<Semaphore>::new().unwrap(), Slot::<Event>::new().unwrap());
        semaphore.begin(value, 3);
        attempt(semaphore.try_acquire());
        damage(&semaphore, &damaged);
        damage(&event, &damaged);
        for _ in 0..2 {
            attempt(semaphore.acquire(now()));
            attempt(semaphore.try_acquire());
            let _ = (semaphore.take_free(), semaphore.give_free(), semaphore.held(), semaphore.value());
            attempt(semaphore.release());
            attempt(event.wait(now()));
            event.set();
            event.clear();
        }
    }

    #[test]
    fn conditions(damaged in words(), more in words(), count in 0u32..5) {
        let condition = Slot::<Condition>::new().unwrap();
        let joined = attempt(condition.join()).unwrap();
        damage(&condition, &damaged);
        attempt(condition.notify(count));
        attempt(condition.wait(joined, now()));
        damage(&condition, &more);
        if let Some(index) = attempt(condition.join()) {
            attempt(condition.wait(index, now()));
            attempt(condition.leave(index));
        }
        attempt(condition.leave(usize::MAX));
        let _ = (condition.waiting(), condition.sleeping());
    }

    #[test]
    fn barriers(damaged in words(), more in words(), acts: bool) {
        let barrier = Slot::<Barrier>::new().unwrap();
        barrier.begin(3);
        let before = attempt(barrier.arrive(acts, now()));
        damage(&barrier, &damaged);
        for arrival in [before, attempt(barrier.arrive(acts, now())), attempt(barrier.arrive(acts, now()))] {
            match arrival {
                Some(Arrival::Wait(index, _)) => {
                    attempt(barrier.wait(index, now()));
                    damage(&barrier, &more);
                    attempt(barrier.give_up(index));
                    attempt(barrier.withdraw(index));
                }
                Some(Arrival::Last(_)) => drop(attempt(barrier.open())),
                _ => {}
            }
        }
        attempt(barrier.abort());
        attempt(barrier.reset());
        let _ = (barrier.parties(), barrier.waiting(), barrier.is_broken());
    }

    /// A region whose beginning was overwritten is refused, or is what it was.
    #[test]
    fn attaching_checks_the_header(damaged in prop::collection::vec((0u64..6, word()), 1..4)) {
        let slot = Slot::<Mutex>::new().unwrap();
        let (slots, _) = slot.address();
        let other = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let mut bytes = vec![0u8; 4096];
        File::from(slots.file().try_clone_to_owned().unwrap()).read_exact_at(&mut bytes, 0).unwrap();
        // As a region of another process, and each time another one: what is attached stays.
        let number = (1 << 32) + OTHERS.fetch_add(1, Ordering::Relaxed);
        let id = SlotsId { creator: slots.id().creator, number };
        bytes[16..24].copy_from_slice(&id.number.to_ne_bytes());
        let original = bytes.clone();
        for (at, word) in &damaged {
            bytes[*at as usize * 8..][..8].copy_from_slice(&word.to_ne_bytes());
        }
        other.write_all_at(&bytes, 0).unwrap();
        prop_assert_eq!(Slots::attach(id, other.into()).is_ok(), bytes[..24] == original[..24]);
    }
}
