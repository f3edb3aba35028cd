//! Pools and processes in tests whose main belongs to libtest, and to nextest: one line.

#![forbid(unsafe_code)]

use manycore::{Pool, Process, Stdio};
use std::io::Read;

manycore::test_support!();

/// A second one does no harm: macros of different authors may each bring it.
mod inner {
    manycore::test_support!();
}

#[test]
fn a_pool_works() {
    let pool = Pool::with_workers(2).unwrap();
    assert_eq!(pool.map(|x: u64| x * x, 0..100).unwrap(), (0..100).map(|x| x * x).collect::<Vec<_>>());
}

#[test]
fn a_process_works() {
    assert_eq!(Process::spawn(|a: u8, b: u8| a + b, (40, 2)).unwrap().join().unwrap(), 42);
}

#[test]
fn a_panic_is_an_error() {
    let boom = || -> u8 { panic!("as it should") };
    let error = Process::builder().stderr(Stdio::Null).spawn(boom, ()).unwrap().join().unwrap_err();
    assert!(error.panic().is_some_and(|panic| panic.message() == "as it should"), "{error}");
}

/// What the harness says about itself does not get into the output of a process.
#[test]
fn the_output_is_the_tasks_own() {
    let mut process = Process::builder().stdout(Stdio::Piped).spawn(|| println!("mine"), ()).unwrap();
    let mut text = String::new();
    process.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    process.join().unwrap();
    assert_eq!(text, "mine\n");
}

#[test]
fn processes_inside_processes() {
    let outer = |x: u64| Pool::with_workers(1).unwrap().map(|x: u64| x + 1, [x]).unwrap();
    assert_eq!(Process::spawn(outer, (1,)).unwrap().join().unwrap(), [2]);
}
