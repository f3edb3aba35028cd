//! Files, sockets and what processes share, on their way to the workers of a pool.
//!
//! The program brings its own main: it must be able to be the worker.

#![forbid(unsafe_code)]

mod support;

use manycore::sync::{Mutex, Shared};
use manycore::{Passed, Pool, closure};
use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::sync::OnceLock;

/// Runs alone in its process, since it counts.
const ALONE: &str = "MANYCORE_TEST_ALONE";

fn main() {
    manycore::init();
    match std::env::var(ALONE).as_deref() {
        Ok("tidy") => return tidy(),
        Ok("asked") => return asked(),
        _ => {}
    }
    support::run(support::tests![
        shared_things_are_arguments,
        and_are_captured,
        and_are_given_to_the_initializer,
        and_come_back,
        files_and_pipes_are_arguments,
        files_are_captured,
        results_are_no_files,
        a_killed_worker_loses_its_own_only,
        killed_as_it_asks,
        nothing_is_left,
    ]);
}

fn killed_as_it_asks() {
    succeeds("asked", Some("porter-asked"));
}

fn nothing_is_left() {
    succeeds("tidy", None);
}

fn pool() -> Pool {
    Pool::with_workers(2).unwrap()
}

fn shared_things_are_arguments() {
    let (pool, count) = (pool(), Mutex::new(0u64).unwrap());
    let rows: Vec<Shared<[u32]>> = (0..20).map(|_| Shared::zeroed(10).unwrap()).collect();
    let work = |count: Mutex<u64>, row: Shared<[u32]>, value: u32| {
        *count.lock().unwrap() += 1;
        (0..row.len()).for_each(|at| row.set(at, value).unwrap());
    };
    let calls = (0..1_000u32).map(|call| (count.clone(), rows[call as usize % 20].clone(), call % 20));
    pool.starmap(work, calls).unwrap();
    assert_eq!(*count.lock().unwrap(), 1_000);
    assert!((0..20).all(|number| rows[number].to_vec() == [number as u32; 10]));
    // One by one, too.
    let add = |count: Mutex<u64>| *count.lock().unwrap() += 1;
    pool.imap(add, (0..100).map(|_| count.clone())).unwrap().for_each(|done| done.unwrap());
    pool.apply(add, (count.clone(),)).unwrap();
    assert_eq!(*count.lock().unwrap(), 1_101);
}

fn and_are_captured() {
    let (pool, count) = (pool(), Mutex::new(0u64).unwrap());
    for _ in 0..3 {
        let captured = count.clone();
        let add = closure!(move(captured) |by: u64| *captured.lock().unwrap() += by);
        pool.map(add, [1; 100]).unwrap();
    }
    assert_eq!(*count.lock().unwrap(), 300);
}

static GIVEN: OnceLock<Mutex<u64>> = OnceLock::new();

fn and_are_given_to_the_initializer() {
    let count = Mutex::new(0u64).unwrap();
    let keep = |count: Mutex<u64>| drop(GIVEN.set(count));
    let pool = Pool::builder().workers(2).max_tasks_per_worker(10).initializer(keep, (count.clone(),)).build().unwrap();
    pool.map(|by: u64| *GIVEN.get().unwrap().lock().unwrap() += by, [1; 200]).unwrap();
    assert_eq!(*count.lock().unwrap(), 200);
}

fn and_come_back() {
    let count = Mutex::new(1u64).unwrap();
    let back = pool().map(|count: Mutex<u64>| count, [count.clone()]).unwrap();
    *back[0].lock().unwrap() += 1;
    assert_eq!(*count.lock().unwrap(), 2);
}

fn files_and_pipes_are_arguments() {
    let pool = pool();
    let (readers, writers): (Vec<_>, Vec<_>) = (0..50).map(|_| std::io::pipe().unwrap()).unzip();
    let say = |mut writer: Passed<PipeWriter>, number: usize| writer.write_all(number.to_string().as_bytes()).unwrap();
    pool.starmap(say, writers.into_iter().map(Passed).zip(0..)).unwrap();
    for (number, mut reader) in readers.into_iter().enumerate() {
        // It ends, so nobody has the other end any more.
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, number.to_string());
    }
}

fn files_are_captured() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let pool = pool();
    let writer = Passed(writer);
    let say = closure!(move(writer) |_: ()| (&writer.0).write_all(b"x").unwrap());
    pool.map(say, [(); 500]).unwrap();
    drop(pool);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text.len(), 500);
}

fn results_are_no_files() {
    let error = pool().map(|_: ()| Passed(File::open("/dev/null").unwrap()), [()]).unwrap_err();
    assert!(error.is_encoding(), "{error}");
}

fn a_killed_worker_loses_its_own_only() {
    let (pool, count) = (pool(), Mutex::new(0u64).unwrap());
    let die = |count: Mutex<u64>, _file: Passed<File>| -> () {
        let _guard = count.lock();
        std::process::abort()
    };
    for _ in 0..3 {
        let null = Passed(File::open("/dev/null").unwrap());
        assert!(pool.apply(die, (count.clone(), null)).unwrap_err().is_worker_lost());
        assert!(count.lock().is_err(), "it died with it in hand");
        count.clear_poison();
        let add = |count: Mutex<u64>| *count.lock().unwrap() += 1;
        pool.map(add, vec![count.clone(); 50]).unwrap();
    }
    assert_eq!(*count.lock().unwrap(), 150);
}

/// Runs a part of this program alone, its workers killed at `point`.
fn succeeds(name: &str, point: Option<&str>) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.env(ALONE, name).envs(point.map(|point| ("MANYCORE_FAIL_POINT", point)));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every worker that asks for a descriptor dies of it.
fn asked() {
    let pool = pool();
    let (mut reader, writer) = std::io::pipe().unwrap();
    for _ in 0..3 {
        let writer = Passed(writer.try_clone().unwrap());
        let error = pool.apply(|_: Passed<PipeWriter>| (), (writer,)).unwrap_err();
        assert!(error.is_worker_lost() && error.to_string().contains("SIGKILL"), "{error}");
        assert_eq!(pool.map(|x: u8| x + 1, 0..100).unwrap().len(), 100);
    }
    // What was given out to the dead is closed.
    drop((writer, pool));
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

fn tidy() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    // The region of places stays open while there is a handle.
    let _count = Mutex::new(0u64).unwrap();
    let before = (descriptors(), threads());
    for _ in 0..5 {
        let (pool, row) = (pool(), Shared::from_slice(&[1u8; 100]).unwrap());
        let files: Vec<_> = (0..100).map(|_| (Passed(File::open("/dev/null").unwrap()), row.clone())).collect();
        pool.starmap(|file: Passed<File>, row: Shared<[u8]>| drop((file, row)), files).unwrap();
        // Calls that nobody waits for, and of which some never run.
        let sleep = |_: Passed<File>| std::thread::sleep(std::time::Duration::from_secs(60));
        let tickets: Vec<_> =
            (0..20).map(|_| pool.apply_async(sleep, (Passed(File::open("/dev/null").unwrap()),)).unwrap()).collect();
        pool.terminate();
        drop((tickets, pool, row));
        assert_eq!((descriptors(), threads()), before);
    }
}
