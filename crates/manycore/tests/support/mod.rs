//! What the tests share: a harness below a main of their own, since the test program must be
//! able to be the worker, and processes that are killed in the midst of something.

// Each test program uses its own part of this.
#![allow(dead_code, unused_macros, unused_imports)]

use libtest_mimic::{Arguments, Trial};
use manycore::{Passed, Process, Task};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{PipeWriter, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// Longer than any test waits.
pub const LONG: Duration = Duration::from_secs(60);

/// The engine's variable that names a point of its protocols at which to be killed.
pub const POINT: &str = "MANYCORE_FAIL_POINT";

/// The functions named are tests of those names.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        &[$((stringify!($test), $test as fn())),+]
    };
}
pub(crate) use tests;

/// Runs the tests that the command line asks for, and ends the program.
pub fn run(tests: &[(&'static str, fn())]) -> ! {
    let trials = tests.iter().map(|(name, run)| {
        let run = *run;
        Trial::test(*name, move || {
            run();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit()
}

/// In a process: says that it has what it was given, and keeps it until it is killed.
pub fn keep(mut said: Passed<PipeWriter>) {
    said.write_all(b"!").unwrap();
    loop {
        std::thread::park();
    }
}

/// A process that runs `task` with `handle`, and has said something.
pub fn holder<T: Serialize + DeserializeOwned + 'static>(
    task: impl Task<(T, Passed<PipeWriter>), Output = ()>,
    handle: T,
) -> Process<()> {
    let (mut said, say) = std::io::pipe().unwrap();
    let process = Process::spawn(task, (handle, Passed(say))).unwrap();
    said.read_exact(&mut [0]).unwrap();
    process
}

/// Starts a process that runs `task` with `handle`, and kills it when it has said something.
pub fn kill_one_with<T: Serialize + DeserializeOwned + 'static>(
    task: impl Task<(T, Passed<PipeWriter>), Output = ()>,
    handle: T,
) {
    let mut process = holder(task, handle);
    process.kill().unwrap();
    assert!(process.join().is_err());
}

/// Starts a process that is killed at `point`, and waits for that.
pub fn killed_at<T: Serialize + DeserializeOwned + 'static>(
    point: &str,
    task: impl Task<(T,), Output = ()>,
    handle: T,
) {
    let mut process = Process::builder().env(POINT, point).spawn(task, (handle,)).unwrap();
    process.join().unwrap_err();
    assert_eq!(process.exit_status().unwrap().unwrap().signal(), Some(9), "{point}");
}
