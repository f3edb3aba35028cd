//! Tasks that fork, and come back in both processes: the child's answer is nobody's.
//!
//! # Why this file is unsafe
//!
//! It forks as a C library in a task may. The child allocates nothing and takes no lock before it is
//! back in this crate's hands, in a process of one thread.

#![allow(unsafe_code)]

mod support;

use manycore::{Pool, Process};

unsafe extern "C" {
    safe fn fork() -> i32;
}

fn main() {
    manycore::init();
    support::run(support::tests![a_worker_answers_once, a_process_answers_once]);
}

/// 1 in the process that was asked, 0 in its child.
fn both(_: ()) -> u32 {
    u32::from(fork() > 0)
}

fn a_worker_answers_once() {
    let pool = Pool::with_workers(1).unwrap();
    for _ in 0..5 {
        assert_eq!(pool.apply(both, ((),)).unwrap(), 1);
    }
    // Children that went on as workers would take from these, and answer in the parent's place.
    for _ in 0..5 {
        assert_eq!(pool.map(|x: u64| x * x, 0..1_000).unwrap(), (0..1_000).map(|x| x * x).collect::<Vec<_>>());
    }
    assert_eq!(pool.statistics().workers_started, 1);
}

fn a_process_answers_once() {
    for _ in 0..5 {
        assert_eq!(Process::spawn(both, ((),)).unwrap().join().unwrap(), 1);
    }
}
