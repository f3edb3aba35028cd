//! Events, conditions, semaphores and barriers between processes, and those who die at them.
//!
//! The program brings its own main: it must be able to be the process.

#![forbid(unsafe_code)]

mod support;

use manycore::sync::{Barrier, Condvar, Event, Mutex, Permit, Semaphore, Shared};
use manycore::{Passed, Pool, Process};
use std::io::{PipeWriter, Read};
use std::time::Duration;
use support::{LONG, keep, kill_one_with};

const SHORT: Duration = Duration::from_millis(1);

#[manycore::main]
fn main() {
    support::run(support::tests![
        an_event_wakes_everybody,
        an_event_is_waited_for_in_time,
        a_condition_is_waited_for,
        one_is_notified_or_all_are,
        a_condition_is_waited_for_in_time,
        a_notification_of_the_dead_goes_on,
        a_semaphore_lets_so_many_in,
        permits_are_waited_for_in_time,
        permits_of_the_dead_come_back,
        a_semaphore_counts_events,
        a_barrier_lets_all_through,
        a_late_barrier_is_broken,
        a_dead_party_breaks_it,
        send_and_sync,
    ]);
}

fn an_event_wakes_everybody() {
    let (go, here) = (Event::new().unwrap(), Semaphore::new(0).unwrap());
    let wait = |go: Event, here: Semaphore| {
        here.release();
        go.wait();
        go.is_set()
    };
    let mut waiters: Vec<_> = (0..3).map(|_| Process::spawn(wait, (go.clone(), here.clone())).unwrap()).collect();
    (0..3).for_each(|_| here.acquire().forget());
    assert!(waiters.iter_mut().all(|waiter| waiter.is_alive().unwrap()) && !go.is_set());
    go.set();
    assert!(waiters.iter_mut().all(|waiter| waiter.join().unwrap()));
}

fn an_event_is_waited_for_in_time() {
    let go = Event::new().unwrap();
    assert!(!go.wait_timeout(SHORT));
    go.set();
    assert!(go.wait_timeout(LONG));
    go.wait();
    go.clear();
    assert!(!go.is_set() && !go.wait_timeout(SHORT));
    // Whoever dies as it waits does no harm.
    kill_one_with(
        |go: Event, said: Passed<PipeWriter>| {
            std::thread::spawn(|| keep(said));
            go.wait();
        },
        go.clone(),
    );
    go.set();
    assert!(go.wait_timeout(LONG));
}

fn a_condition_is_waited_for() {
    let (turn, changed) = (Mutex::new(0u32).unwrap(), Condvar::new().unwrap());
    // Two take turns: even and odd.
    let play = |turn: Mutex<u32>, changed: Condvar, mine: u32| {
        let mut guard = turn.lock().unwrap();
        while *guard < 200 {
            if *guard % 2 == mine {
                *guard += 1;
                changed.notify_one();
            } else {
                guard = changed.wait(guard).unwrap();
            }
        }
        changed.notify_one();
    };
    let mut players: Vec<_> =
        (0..2).map(|mine| Process::spawn(play, (turn.clone(), changed.clone(), mine)).unwrap()).collect();
    players.iter_mut().for_each(|player| player.join_timeout(LONG).unwrap());
    assert_eq!(*turn.lock().unwrap(), 200);
}

fn one_is_notified_or_all_are() {
    let (gate, changed) = (Mutex::new([0u32; 2]).unwrap(), Condvar::new().unwrap());
    let wait = |gate: Mutex<[u32; 2]>, changed: Condvar| {
        let mut guard = gate.lock().unwrap();
        guard[0] += 1;
        changed.notify_all();
        let mut guard = changed.wait_while(guard, |[_, open]| *open == 0).unwrap();
        guard[1] -= 1;
        guard[0] -= 1;
        changed.notify_all();
    };
    let mut waiters: Vec<_> = (0..3).map(|_| Process::spawn(wait, (gate.clone(), changed.clone())).unwrap()).collect();
    let mut guard = changed.wait_while(gate.lock().unwrap(), |[here, _]| *here < 3).unwrap();
    guard[1] = 1;
    changed.notify_all();
    let mut guard = changed.wait_while(guard, |[here, _]| *here > 2).unwrap();
    assert_eq!(*guard, [2, 0], "one was let through");
    guard[1] = 2;
    changed.notify_all();
    drop(guard);
    waiters.iter_mut().for_each(|waiter| waiter.join_timeout(LONG).unwrap());
    assert_eq!(*gate.lock().unwrap(), [0, 0]);
}

fn a_condition_is_waited_for_in_time() {
    let (value, changed) = (Mutex::new(1u8).unwrap(), Condvar::new().unwrap());
    let mut guard = value.lock().unwrap();
    *guard = 2;
    let (guard, is_late) = changed.wait_timeout(guard, SHORT).unwrap();
    assert!(is_late && *guard == 2);
    // A poisoned mutex is told after the wait.
    drop(guard);
    kill_one_with(
        |value: Mutex<u8>, said: Passed<PipeWriter>| {
            let _guard = value.lock().unwrap();
            keep(said);
        },
        value.clone(),
    );
    let guard = value.lock().unwrap_err().into_inner();
    assert!(changed.wait_timeout(guard, SHORT).is_err());
}

fn a_notification_of_the_dead_goes_on() {
    let (value, changed) = (Mutex::new(0u8).unwrap(), Condvar::new().unwrap());
    let wait = |value: Mutex<u8>, changed: Condvar, said: Passed<PipeWriter>| {
        let guard = value.lock().unwrap();
        std::thread::spawn(|| keep(said));
        drop(changed.wait(guard));
    };
    let (mut said, say) = std::io::pipe().unwrap();
    let mut process = Process::spawn(wait, (value.clone(), changed.clone(), Passed(say))).unwrap();
    said.read_exact(&mut [0]).unwrap();
    // Free again when it waits, the first in the queue; there it dies.
    drop(value.lock().unwrap());
    process.kill().unwrap();
    assert!(process.join().is_err());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| *changed.wait_while(value.lock().unwrap(), |value| *value == 0).unwrap());
        *value.lock().unwrap() = 7;
        changed.notify_one();
        assert_eq!(waiter.join().unwrap(), 7);
    });
}

fn a_semaphore_lets_so_many_in() {
    let (two, inside) = (Semaphore::new(2).unwrap(), Shared::<[u32]>::zeroed(2).unwrap());
    let count = Mutex::new(0u32).unwrap();
    let work = |two: Semaphore, count: Mutex<u32>, most: Shared<[u32]>| {
        let _permit = two.acquire();
        {
            let mut count = count.lock().unwrap();
            *count += 1;
            most.set(0, most.get(0).unwrap().max(*count)).unwrap();
        }
        std::thread::yield_now();
        *count.lock().unwrap() -= 1;
    };
    let pool = Pool::with_workers(4).unwrap();
    pool.starmap(work, (0..400).map(|_| (two.clone(), count.clone(), inside.clone()))).unwrap();
    assert!((1..=2).contains(&inside.get(0).unwrap()));
    assert_eq!((two.available(), *count.lock().unwrap()), (2, 0));
}

fn permits_are_waited_for_in_time() {
    let one = Semaphore::new(1).unwrap();
    let permit = one.acquire();
    assert!(one.try_acquire().is_none() && one.acquire_timeout(SHORT).is_none() && one.available() == 0);
    drop(permit);
    assert!(one.try_acquire().is_some() && one.acquire_timeout(LONG).is_some());
    one.acquire().forget();
    assert!(one.try_acquire().is_none());
    one.release();
    assert!(one.try_acquire().is_some());
    assert!(Semaphore::new(1 << 31).is_err());
}

fn permits_of_the_dead_come_back() {
    let two = Semaphore::new(2).unwrap();
    for _ in 0..3 {
        kill_one_with(
            |two: Semaphore, said: Passed<PipeWriter>| {
                let _permits = (two.acquire(), two.acquire());
                keep(said);
            },
            two.clone(),
        );
        let (one, other) = (two.acquire_timeout(LONG), two.acquire_timeout(LONG));
        assert!(one.is_some() && other.is_some() && two.try_acquire().is_none());
    }
    assert_eq!(two.available(), 2);
}

fn a_semaphore_counts_events() {
    let events = Semaphore::new(0).unwrap();
    let mut process = Process::spawn(|events: Semaphore| (0..100).for_each(|_| events.release()), (events.clone(),));
    (0..100).for_each(|_| events.acquire().forget());
    process.as_mut().unwrap().join().unwrap();
    assert_eq!(events.available(), 0);
}

fn a_barrier_lets_all_through() {
    let all = Barrier::new(3).unwrap();
    let meet = |all: Barrier| (0..50).map(|_| all.wait().unwrap()).collect::<Vec<_>>();
    let mut others: Vec<_> = (0..2).map(|_| Process::spawn(meet, (all.clone(),)).unwrap()).collect();
    let mine = meet(all.clone());
    let others: Vec<_> = others.iter_mut().map(|other| other.join_timeout(LONG).unwrap()).collect();
    for round in 0..50 {
        let mut numbers = [mine[round], others[0][round], others[1][round]];
        numbers.sort();
        assert_eq!(numbers, [0, 1, 2]);
    }
    assert_eq!((all.parties(), all.waiting(), all.is_broken()), (3, 0, false));
    assert!(Barrier::new(0).is_err() && Barrier::new(usize::MAX).is_err());
}

fn a_late_barrier_is_broken() {
    let both = Barrier::new(2).unwrap();
    assert!(both.wait_timeout(SHORT).unwrap_err().is_timeout());
    assert!(both.is_broken() && both.wait().unwrap_err().is_broken());
    both.reset().unwrap();
    let mut process = Process::spawn(|both: Barrier| both.wait().is_ok(), (both.clone(),)).unwrap();
    both.wait_timeout(LONG).unwrap();
    assert!(process.join().unwrap());
    both.abort().unwrap();
    assert!(both.wait().unwrap_err().is_broken());
}

fn a_dead_party_breaks_it() {
    let three = Barrier::new(3).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| three.wait());
        let wait = |three: Barrier, said: Passed<PipeWriter>| {
            std::thread::spawn(|| keep(said));
            drop(three.wait());
        };
        // Says so as it is about to wait; to be killed when it does.
        let (mut said, say) = std::io::pipe().unwrap();
        let mut process = Process::spawn(wait, (three.clone(), Passed(say))).unwrap();
        said.read_exact(&mut [0]).unwrap();
        while three.waiting() < 2 {
            std::thread::yield_now();
        }
        process.kill().unwrap();
        assert!(other.join().unwrap().unwrap_err().is_broken());
    });
    assert!(three.is_broken());
}

fn send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Event>();
    check::<Condvar>();
    check::<Semaphore>();
    check::<Permit<'_>>();
    check::<Barrier>();
}
