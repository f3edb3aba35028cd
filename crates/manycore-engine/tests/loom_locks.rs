//! Semaphore, event, condition and barrier, in every order: somebody who waits for
//! ever is a deadlock, which loom reports. See src/shm/README.md.

mod support;

use manycore_engine::shm::barrier::{Arrival, Barrier};
use manycore_engine::shm::condition::Condition;
use manycore_engine::shm::event::Event;
use manycore_engine::shm::lobby::Call;
use manycore_engine::shm::lock::RecursiveLock;
use manycore_engine::shm::semaphore::Semaphore;
use manycore_engine::{Kind, Result};
use support::{Shared, Till, model, process};

/// Waits as a face does: again, after each interruption.
fn patiently<T>(mut wait: impl FnMut() -> Result<T>) -> T {
    loop {
        match wait() {
            Err(error) if error.kind() == Kind::Interrupted => support::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

fn semaphore(value: u32, most: u32) -> Shared<Semaphore> {
    let semaphore = Semaphore::default();
    semaphore.begin(value, most);
    Shared::new(semaphore)
}

/// One unit, two who take it and give it back.
#[test]
fn a_unit_goes_round() {
    model(2, || {
        let semaphore = semaphore(1, 1);
        let turn = |semaphore: &Semaphore| {
            patiently(|| semaphore.acquire(None));
            assert!(patiently(|| semaphore.release()));
        };
        let other = process(&semaphore, turn);
        turn(&semaphore);
        other.join().unwrap();
        assert_eq!(semaphore.value(), 1);
        assert!(!semaphore.counts_events());
    });
}

/// One counts events for another.
#[test]
fn events_are_counted() {
    model(3, || {
        let semaphore = semaphore(0, 10);
        let other = process(&semaphore, |semaphore| {
            assert!(patiently(|| semaphore.release()));
            assert!(patiently(|| semaphore.release()));
        });
        patiently(|| semaphore.acquire(None));
        patiently(|| semaphore.acquire(None));
        other.join().unwrap();
        assert_eq!(semaphore.value(), 0);
    });
}

/// The step from units that somebody holds to units that nobody does, while another takes one.
#[cfg(loom)] // Plain threads are one process, which may release what it has taken.
#[test]
fn held_units_become_events() {
    model(2, || {
        let semaphore = semaphore(1, 10);
        let taker = process(&semaphore, |semaphore| patiently(|| semaphore.try_acquire()));
        assert!(patiently(|| semaphore.release()));
        let taken = taker.join().unwrap();
        assert_eq!(semaphore.value(), 2 - u32::from(taken));
        assert!(semaphore.counts_events());
    });
}

/// What a dead process held comes back, once, for whoever waits.
#[cfg(loom)]
#[test]
fn units_come_back_from_the_dead() {
    model(2, || {
        let semaphore = semaphore(1, 1);
        let mortal = process(&semaphore, |semaphore| {
            patiently(|| semaphore.acquire(None));
            manycore_engine::sync::die();
        });
        patiently(|| semaphore.acquire(None));
        assert!(patiently(|| semaphore.release()));
        mortal.join().unwrap();
        assert!(patiently(|| semaphore.try_acquire()));
        assert!(!patiently(|| semaphore.try_acquire()));
    });
}

/// Two wait for one flag.
#[test]
fn a_flag_is_seen_by_all() {
    model(2, || {
        let event = Shared::new(Event::default());
        let waiters = [(); 2].map(|()| process(&event, |event| patiently(|| event.wait(None))));
        event.set();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert!(event.is_set());
    });
}

/// The flag is cleared as soon as it is set: whoever waited goes on all the same.
#[test]
fn a_short_flag_lets_go_who_waits() {
    model(3, || {
        let event = Shared::new(Event::default());
        let waiter = process(&event, |event| patiently(|| event.wait(None)));
        while !event.is_awaited() {
            support::thread::yield_now();
        }
        event.set();
        event.clear();
        waiter.join().unwrap();
        assert!(!event.is_set());
    });
}

/// A condition beside a lock, and what it is about.
#[derive(Default)]
struct Board {
    lock: RecursiveLock,
    condition: Condition,
    till: Till,
}

impl Board {
    fn lock(&self) {
        let _ = patiently(|| self.lock.lock(None));
    }

    /// Waits for a notification that goes to nobody else.
    fn wait(&self) {
        self.lock();
        let index = patiently(|| self.condition.join());
        assert!(self.lock.release());
        patiently(|| self.condition.wait(index, None));
        self.lock();
        self.till.add();
        assert!(self.lock.release());
    }

    /// Notifies, once so many wait.
    fn notify(&self, waiting: u32, count: u32) {
        loop {
            self.lock();
            let enough = self.condition.waiting() >= waiting;
            if enough {
                assert_eq!(patiently(|| self.condition.notify(count)), count);
            }
            assert!(self.lock.release());
            if enough {
                return;
            }
            support::thread::yield_now();
        }
    }
}

#[test]
fn a_notification_arrives() {
    model(2, || {
        let board = Shared::new(Board::default());
        let waiter = process(&board, Board::wait);
        board.notify(1, 1);
        waiter.join().unwrap();
        assert_eq!(board.till.add(), 2);
    });
}

/// One gives up; the notification is either his, which he learns, or goes to the other.
#[test]
fn one_leaves_as_one_is_notified() {
    model(2, || {
        let board = Shared::new(Board::default());
        let mine = patiently(|| board.condition.join());
        let other = process(&board, |board| patiently(|| board.condition.notify(1)));
        let told = patiently(|| board.condition.leave(mine));
        assert_eq!(other.join().unwrap(), u32::from(told));
        assert_eq!(board.condition.waiting(), 0);
    });
}

/// A notified one dies before he goes; the next one gets the notification.
#[cfg(loom)]
#[test]
fn a_notification_survives() {
    model(2, || {
        let board = Shared::new(Board::default());
        let mortal = process(&board, |board| {
            let index = patiently(|| board.condition.join());
            manycore_engine::sync::die();
            index
        });
        mortal.join().unwrap();
        let waiter = process(&board, |board| {
            let index = patiently(|| board.condition.join());
            patiently(|| board.condition.wait(index, None));
        });
        assert_eq!(patiently(|| board.condition.notify(1)), 1);
        waiter.join().unwrap();
    });
}

fn barrier(parties: u32) -> Shared<Barrier> {
    let barrier = Barrier::default();
    barrier.begin(parties);
    Shared::new(barrier)
}

/// Arrives, acts if it must, and waits: the number, or none where it is broken.
fn meet(barrier: &Barrier, acts: bool) -> Option<u32> {
    match patiently(|| barrier.arrive(acts, None)) {
        Arrival::Passed(number) => Some(number),
        Arrival::Last(number) => {
            patiently(|| barrier.open());
            Some(number)
        }
        Arrival::Wait(index, number) => (patiently(|| barrier.wait(index, None)) == Call::Come).then_some(number),
        Arrival::Broken => None,
    }
}

/// Twice in a row, and nobody is let through early or kept.
#[test]
fn all_go_on_together() {
    model(2, || {
        let barrier = barrier(2);
        let twice = |barrier: &Barrier| [meet(barrier, false).unwrap(), meet(barrier, false).unwrap()];
        let other = process(&barrier, twice);
        let mine = twice(&barrier);
        let others = other.join().unwrap();
        assert!((0..2).all(|round| mine[round] + others[round] == 1));
        assert_eq!(barrier.waiting(), 0);
    });
}

#[test]
fn the_last_one_acts_first() {
    model(2, || {
        let barrier = barrier(2);
        let other = process(&barrier, |barrier| meet(barrier, true));
        let mine = meet(&barrier, true);
        assert_eq!(mine.unwrap() + other.join().unwrap().unwrap(), 1);
    });
}

/// One breaks the barrier while another waits or comes.
#[test]
fn a_broken_barrier_keeps_nobody() {
    model(3, || {
        let barrier = barrier(2);
        let other = process(&barrier, |barrier| meet(barrier, false));
        patiently(|| barrier.abort());
        assert_eq!(other.join().unwrap(), None);
        assert!(barrier.is_broken());
    });
}

/// One that waits dies: the other, who waits for a third, is turned away.
#[cfg(loom)]
#[test]
fn a_death_breaks_the_barrier() {
    model(2, || {
        let barrier = barrier(3);
        let mortal = process(&barrier, |barrier| {
            let arrival = patiently(|| barrier.arrive(false, None));
            manycore_engine::sync::die();
            arrival
        });
        assert_eq!(meet(&barrier, false), None);
        assert!(barrier.is_broken());
        assert_ne!(mortal.join().unwrap(), Arrival::Passed(2));
    });
}
