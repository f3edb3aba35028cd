//! Workers that die, callers that die, and programs that are wrong.
//!
//! Scenarios that need a process of their own run in this same program, started
//! again with `SCENARIO` set; such a process succeeds by exit code 0.

#![forbid(unsafe_code)]

mod support;

use manycore::{Error, Pool};
use rustix::process::{Pid, Signal, getpid, kill_process};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn square(x: u64) -> u64 {
    x * x
}

fn process(_: u32) -> i32 {
    getpid().as_raw_nonzero().get()
}

fn slow(x: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(20));
    x
}

fn kill_itself(x: u32) -> u32 {
    if x == 3 {
        kill_process(getpid(), Signal::KILL).unwrap();
    }
    x
}

fn exit(code: i32) {
    std::process::exit(code)
}

fn abort(_: ()) {
    std::process::abort()
}

/// Says that it runs, and keeps a processor busy for longer than any test waits.
fn spin(limit: Duration) {
    println!("busy {}", std::process::id());
    let start = Instant::now();
    while start.elapsed() < limit {
        std::hint::spin_loop();
    }
    println!("spun out");
}

/// What a program that a task starts finds open, and whether it takes itself for a worker.
fn start_a_program(_: ()) -> (String, bool) {
    let listed = Command::new("sh").args(["-c", "for fd in /proc/$$/fd/*; do readlink $fd; done"]).output().unwrap();
    (String::from_utf8_lossy(&listed.stdout).into_owned(), scenario("ordinary").status().unwrap().success())
}

fn main() {
    let scenario = std::env::var("SCENARIO").unwrap_or_default();
    let is_worker = std::env::var_os("MANYCORE_INVITATION").is_some();
    match scenario.as_str() {
        "never" => return expect(Pool::new(), |error| error.to_string().contains("first line of main")),
        "late" if is_worker => drop(Pool::new()),
        "other end" if is_worker => std::process::exit(3),
        "killed" if is_worker => kill_starts(0..6),
        "killed later" if is_worker => kill_starts(2..8),
        "crashing" if is_worker => std::process::abort(),
        "stuck" if is_worker => std::thread::sleep(Duration::from_secs(120)),
        _ => {}
    }
    manycore::init();
    match scenario.as_str() {
        "late" => expect(Pool::new(), |error| {
            error.is_start()
                && error.to_string().contains("made a pool or a process before it reached manycore::init()")
        }),
        "other end" => expect(Pool::new(), |error| error.is_start() && error.to_string().contains("code 3")),
        "killed" => assert_eq!(Pool::with_workers(2).unwrap().map(square, 0..9).unwrap()[8], 64),
        "killed later" => killed_later(),
        "crashing" => expect(Pool::new(), |error| error.is_start() && error.to_string().contains("SIGABRT")),
        "stuck" => expect(Pool::new(), |error| error.is_start() && error.to_string().contains("within 10 seconds")),
        "ordinary" => {
            let pool = Pool::with_workers(1).unwrap();
            assert_eq!(pool.map(square, [4]).unwrap(), [16]);
        }
        "busy" => drop(Pool::with_workers(2).unwrap().map(spin, [Duration::from_secs(60); 2])),
        "tidy" => tidy(),
        _ => tests(),
    }
}

fn tests() {
    support::run(support::tests![
        a_killed_worker_fails_its_call,
        an_idle_worker_is_replaced,
        every_worker_killed_at_once,
        the_call_of_another_thread_goes_on,
        a_task_may_not_exit,
        a_crash_has_a_name,
        workers_end_with_a_killed_caller,
        terminate_ends_calls_of_other_threads,
        what_a_task_starts_is_no_worker,
        nothing_is_left,
        init_forgotten,
        init_too_late,
        init_never_reached_by_a_worker,
        init_never_reached_by_a_worker_that_stays,
        workers_that_crash_in_their_start,
        workers_killed_in_their_start,
        workers_killed_in_their_start_later,
        sync_and_send,
    ]);
}

fn nothing_is_left() {
    succeeds("tidy");
}

fn init_forgotten() {
    succeeds("never");
}

fn init_too_late() {
    succeeds("late");
}

fn init_never_reached_by_a_worker() {
    succeeds("other end");
}

fn init_never_reached_by_a_worker_that_stays() {
    succeeds("stuck");
}

fn workers_that_crash_in_their_start() {
    succeeds("crashing");
}

fn workers_killed_in_their_start() {
    succeeds_counting("killed");
}

fn workers_killed_in_their_start_later() {
    succeeds_counting("killed later");
}

/// With a file in which the starts of workers are counted.
fn succeeds_counting(name: &str) {
    let file = std::env::temp_dir().join(format!("manycore-starts-{}-{name}", std::process::id()));
    File::create(&file).unwrap();
    let output = scenario(name).env("COUNT", &file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// Kills this worker if its number is one of `which`. Starts are counted in the file that `COUNT` names, a byte each.
fn kill_starts(which: std::ops::Range<u64>) {
    let mut file = File::options().append(true).open(std::env::var_os("COUNT").unwrap()).unwrap();
    file.write_all(b"x").unwrap();
    if which.contains(&(file.stream_position().unwrap() - 1)) {
        kill_process(getpid(), Signal::KILL).unwrap();
    }
}

/// Two workers that were ready are killed, and then more starts than may fail: every call is answered, also one that
/// only the keeper looks after.
fn killed_later() {
    let pool = Pool::with_workers(2).unwrap();
    let both = loop {
        let seen = processes(&pool);
        if seen.len() == 2 {
            break seen;
        }
    };
    both.into_iter().for_each(kill);
    // Until they are dead they may still take tasks, and lose them.
    let may_be_lost = |error: Error| assert!(error.is_worker_lost(), "{error}");
    let tickets: Vec<_> = (0..10).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
    while pool.map(square, 0..100).map_err(may_be_lost).is_err() {}
    for (x, ticket) in (0..10).zip(tickets) {
        if let Ok(answer) = ticket.get().map_err(may_be_lost) {
            assert_eq!(answer, x * x);
        }
    }
}

fn scenario(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("SCENARIO", name);
    command
}

fn succeeds(name: &str) {
    let output = scenario(name).output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

fn expect(pool: Result<Pool, Error>, is_right: impl Fn(&Error) -> bool) {
    let error = pool.expect_err("a pool without workers");
    assert!(is_right(&error), "{error}");
}

fn processes(pool: &Pool) -> BTreeSet<i32> {
    pool.map(process, 0..200).unwrap().into_iter().collect()
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn a_killed_worker_fails_its_call() {
    let pool = Pool::with_workers(2).unwrap();
    for _ in 0..5 {
        let error = pool.map(kill_itself, 0..8).unwrap_err();
        let text = error.to_string();
        assert!(error.is_worker_lost() && error.item().is_some_and(|item| item <= 3), "{text}");
        assert!(text.contains("kill_itself") && text.contains("signal 9 (SIGKILL)"), "{text}");
        assert_eq!(pool.map(square, 0..100).unwrap().len(), 100);
    }
}

fn an_idle_worker_is_replaced() {
    let pool = Pool::with_workers(1).unwrap();
    let before = processes(&pool);
    before.iter().copied().for_each(kill);
    let after = processes(&pool);
    assert!(after.len() == 1 && before.is_disjoint(&after));
}

fn every_worker_killed_at_once() {
    let pool = Pool::with_workers(3).unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| pool.map(slow, 0..50));
        processes(&pool).into_iter().for_each(kill);
        // Whether a task was lost is a matter of timing; that there is an answer is not.
        if let Err(error) = call.join().unwrap() {
            assert!(error.is_worker_lost(), "{error}");
        }
    });
    assert_eq!(pool.map(slow, 0..3).unwrap(), [0, 1, 2]);
}

fn the_call_of_another_thread_goes_on() {
    let pool = Pool::with_workers(2).unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| pool.map(slow, 0..30));
        for _ in 0..3 {
            assert!(pool.map(kill_itself, [3]).unwrap_err().is_worker_lost());
        }
        assert_eq!(call.join().unwrap().unwrap(), (0..30).collect::<Vec<_>>());
    });
}

fn a_task_may_not_exit() {
    let pool = Pool::with_workers(2).unwrap();
    let error = pool.map(exit, [7]).unwrap_err();
    assert!(error.is_worker_lost() && error.to_string().contains("exited with code 7"), "{error}");
    assert_eq!(pool.map(square, [6]).unwrap(), [36]);
}

fn a_crash_has_a_name() {
    let error = Pool::with_workers(1).unwrap().map(abort, [()]).unwrap_err();
    assert!(error.is_worker_lost() && error.to_string().contains("SIGABRT"), "{error}");
}

fn workers_end_with_a_killed_caller() {
    let mut caller = scenario("busy").stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(caller.stdout.take().unwrap());
    for _ in 0..2 {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.starts_with("busy "), "{line}");
    }
    caller.kill().unwrap();
    caller.wait().unwrap();
    // The pipe ends when the last process that may write to it has ended.
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

fn terminate_ends_calls_of_other_threads() {
    let pool = Pool::with_workers(2).unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| pool.map(slow, 0..10_000));
        // A round trip, so that the other call has most likely begun; if not, it
        // finds the pool terminated.
        pool.map(square, [1]).unwrap();
        pool.terminate();
        assert!(call.join().unwrap().unwrap_err().is_closed());
    });
    assert!(pool.map(square, [1]).unwrap_err().is_closed());
}

fn what_a_task_starts_is_no_worker() {
    let (open, is_ordinary) = Pool::with_workers(1).unwrap().map(start_a_program, [()]).unwrap().pop().unwrap();
    assert!(is_ordinary);
    assert!(!open.contains("memfd") && !open.contains("eventfd"), "{open}");
}

/// Runs alone in its process, since it counts.
fn tidy() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let children = || std::fs::read_to_string("/proc/thread-self/children").unwrap();
    let before = descriptors();
    for round in 0..5 {
        let pool = Pool::with_workers(2).unwrap();
        pool.map(square, 0..1000).unwrap();
        if round % 2 == 0 {
            pool.map(kill_itself, 0..8).unwrap_err();
        }
        drop(pool);
        assert_eq!((descriptors(), children()), (before, String::new()));
    }
    expect(Pool::with_workers(0), |error| error.to_string().contains("from 1 to"));
    assert_eq!(descriptors(), before);
}

fn sync_and_send() {
    fn check<T: Send + Sync>() {}
    check::<Pool>();
    check::<Error>();
}
