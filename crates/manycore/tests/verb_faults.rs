//! Workers that die, hang and are ended in the midst of every verb, and calls that are taken back.
//!
//! Scenarios that need a process of their own run in this same program, started again with
//! `SCENARIO` set; such a process succeeds by exit code 0.

#![forbid(unsafe_code)]

mod support;

use manycore::{Error, Imap, Pool, Result, Ticket};
use rustix::process::{Pid, Signal, getpid, kill_process, test_kill_process};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

fn square(x: u64) -> u64 {
    x * x
}

fn process(_: u64) -> i32 {
    getpid().as_raw_nonzero().get()
}

/// Dies of SIGKILL on 3.
fn die(x: u64) -> u64 {
    if x == 3 {
        kill_process(getpid(), Signal::KILL).unwrap();
    }
    x
}

/// Hangs on 3.
fn hang(x: u64) -> u64 {
    loop {
        if x != 3 {
            return x;
        }
        std::thread::park();
    }
}

/// Panics on 3.
fn panic(x: u64) -> u64 {
    assert!(x != 3, "not three");
    x
}

/// Ends its process on 3.
fn exit(x: u64) -> u64 {
    if x == 3 {
        std::process::exit(9);
    }
    x
}

/// Crashes on 3.
fn crash(x: u64) -> u64 {
    if x == 3 {
        std::process::abort();
    }
    x
}

fn slow(x: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(2));
    x
}

/// Says who runs it in the folder, and never ends.
fn stay(path: String) {
    std::fs::write(format!("{path}.new"), process(0).to_string()).unwrap();
    std::fs::rename(format!("{path}.new"), path).unwrap();
    loop {
        std::thread::park();
    }
}

fn touch(path: String) {
    std::fs::write(path, "").unwrap();
}

fn main() {
    manycore::init();
    match std::env::var("SCENARIO").unwrap_or_default().as_str() {
        "tidy" => return tidy(),
        "busy" => return busy(),
        _ => {}
    }
    support::run(support::tests![
        a_killed_worker_in_every_verb,
        an_exit_in_every_verb,
        a_crash_in_every_verb,
        a_panic_in_every_verb,
        a_hang_in_every_verb,
        time_is_for_each_call,
        each_item_has_its_own_result,
        a_hang_that_nobody_waits_for,
        a_worker_that_nobody_waits_for_is_replaced,
        random_kills_under_every_verb,
        cancelled_before_it_runs,
        cancelled_while_it_runs,
        cancelled_while_a_thread_waits,
        cancelled_in_the_midst_of_a_map,
        cancelled_as_it_ends,
        a_pool_dropped_with_work_in_flight,
        terminated_in_every_verb,
        threads_share_the_verbs,
        nothing_is_left,
        workers_end_with_a_killed_caller,
    ]);
}

fn a_killed_worker_in_every_verb() {
    every_verb(&pool(), die, |error| error.is_worker_lost() && says(error, "SIGKILL"));
}

fn an_exit_in_every_verb() {
    every_verb(&pool(), exit, |error| error.is_worker_lost() && says(error, "code 9"));
}

fn a_crash_in_every_verb() {
    every_verb(&pool(), crash, |error| error.is_worker_lost() && says(error, "SIGABRT"));
}

fn a_panic_in_every_verb() {
    every_verb(&pool(), panic, |error| error.is_panic() && says(error, "not three"));
}

fn a_hang_in_every_verb() {
    every_verb(&hasty(), hang, |error| error.is_expired() && says(error, "ran longer"));
}

fn nothing_is_left() {
    assert!(scenario("tidy").status().unwrap().success());
}

fn scenario(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("SCENARIO", name);
    command
}

fn says(error: &Error, text: &str) -> bool {
    error.to_string().contains(text)
}

fn pool() -> Pool {
    Pool::with_workers(2).unwrap()
}

/// A pool whose calls may take less than half a second: longer than any here that ends by itself is
/// held up by others of the machine.
fn hasty() -> Pool {
    Pool::builder().workers(2).task_timeout(Duration::from_millis(400)).build().unwrap()
}

/// Runs `task`, which fails on 3, by every verb; others are not affected, and the pool goes on.
fn every_verb(
    pool: &Pool,
    task: impl Fn(u64) -> u64 + Copy + Send + Sync + 'static,
    is_right: impl Fn(&Error) -> bool,
) {
    let check = |error: Error, item: Option<usize>| {
        assert!(is_right(&error) && error.item() == item, "{:?}: {error}", error.item());
    };
    let bystanders: Vec<_> = (0..40).map(|x| pool.apply_async(slow, (x,)).unwrap()).collect();
    check(pool.apply(task, (3,)).unwrap_err(), None);
    check(pool.map(task, 0..8).unwrap_err(), Some(3));
    // In the midst of a chunk.
    check(pool.map(task, (100..5000).chain([3])).unwrap_err(), Some(4900));
    check(pool.starmap(task, [(2,), (3,), (4,)]).unwrap_err(), Some(1));
    check(pool.apply_async(task, (3,)).unwrap().get().unwrap_err(), None);
    check(pool.map_async(task, 0..8).unwrap().get().unwrap_err(), Some(3));
    check(pool.starmap_async(task, [(3,), (4,)]).unwrap().get().unwrap_err(), Some(0));
    let results: Vec<_> = pool.imap(task, 0..8).unwrap().collect();
    let mut unordered: Vec<_> = pool.imap_unordered(task, 0..8).unwrap().collect();
    unordered.sort_by_key(|result| result.as_ref().map_or_else(|error| error.item().unwrap() as u64, |x| *x));
    for results in [results, unordered] {
        assert_eq!(results.len(), 8);
        for (item, result) in results.into_iter().enumerate() {
            match result {
                Ok(x) => assert!(x == item as u64 && x != 3),
                Err(error) => check(error, Some(3)),
            }
        }
    }
    for (x, bystander) in bystanders.into_iter().enumerate() {
        assert_eq!(bystander.get().unwrap(), x as u64);
    }
    assert_eq!(pool.map(square, 0..1000).unwrap().len(), 1000);
}

/// Many calls in one chunk may take longer together than one may.
fn time_is_for_each_call() {
    let pool = hasty();
    let nap = |x: u64| {
        std::thread::sleep(Duration::from_millis(20));
        x
    };
    let results = pool.imap(nap, 0..30).unwrap().chunksize(30).map(Result::unwrap);
    assert_eq!(results.collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
    assert_eq!(pool.statistics().expired, 0);
    let results: Vec<_> = pool.imap(hang, 0..10).unwrap().chunksize(5).collect();
    let lost: Vec<_> = results.iter().map(|result| result.as_ref().err().map(|error| error.item())).collect();
    // Each says its own number.
    assert_eq!(lost[..5], [0, 1, 2, 3, 4].map(|item| Some(Some(item))));
    assert!(results[5..].iter().all(Result::is_ok));
    assert_eq!(pool.statistics().expired, 1);
}

fn each_item_has_its_own_result() {
    let pool = hasty();
    let troubled = |x: u64| match x {
        3 => die(x),
        5 => panic!("not {x}"),
        7 => hang(3),
        _ => x,
    };
    let results = pool.map_results(troubled, 0..20).unwrap();
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(failed.iter().map(|error| error.item()).collect::<Vec<_>>(), [3, 5, 7].map(Some));
    assert!(failed[0].is_worker_lost() && failed[1].is_panic() && failed[2].is_expired());
    assert_eq!(results.iter().flatten().sum::<u64>(), (0..20).sum::<u64>() - 15);
    assert!(pool.map_results(square, 0..0).unwrap().is_empty());
}

fn a_hang_that_nobody_waits_for() {
    let pool = hasty();
    let ticket = pool.apply_async(hang, (3,)).unwrap();
    while pool.statistics().expired == 0 {
        std::thread::yield_now();
    }
    assert!(ticket.get().unwrap_err().is_expired());
}

fn a_worker_that_nobody_waits_for_is_replaced() {
    let pool = Pool::with_workers(1).unwrap();
    let folder = Folder::new("replaced");
    drop(pool.apply_async(die, (3,)).unwrap());
    drop(pool.apply_async(touch, (folder.path("later"),)).unwrap());
    while !std::fs::exists(folder.path("later")).unwrap() {
        std::thread::yield_now();
    }
    assert_eq!(pool.statistics().workers_started, 2);
}

fn random_kills_under_every_verb() {
    let pool = Pool::with_workers(2).unwrap();
    let lost_or = |result: Result<u64>, value: u64| match result {
        Ok(result) => assert_eq!(result, value),
        Err(error) => assert!(error.is_worker_lost(), "{error}"),
    };
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            for round in 0..10u64 {
                let tickets: Vec<_> = (0..20).map(|x| pool.apply_async(slow, (x,)).unwrap()).collect();
                lost_or(pool.apply(slow, (round,)), round);
                match pool.map(slow, 0..20) {
                    Ok(results) => assert_eq!(results, (0..20).collect::<Vec<_>>()),
                    Err(error) => assert!(error.is_worker_lost(), "{error}"),
                }
                let results: Vec<_> = pool.imap(slow, 0..20).unwrap().chunksize(3).collect();
                assert_eq!(results.len(), 20);
                results.into_iter().zip(0..).for_each(|(result, x)| lost_or(result, x));
                tickets.into_iter().zip(0..).for_each(|(ticket, x)| lost_or(ticket.get(), x));
            }
        });
        while !work.is_finished() {
            if let Ok(pid) = pool.apply(process, (0,)) {
                // Gone, if somebody else was quicker.
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        work.join().unwrap();
    });
    assert_eq!(pool.map(square, 0..100).unwrap().len(), 100);
}

fn cancelled_before_it_runs() {
    let pool = Pool::with_workers(1).unwrap();
    let folder = Folder::new("before");
    let stays = pool.apply_async(stay, (folder.path("stays"),)).unwrap();
    let doomed: Vec<Ticket<()>> =
        (0..50).map(|number| pool.apply_async(touch, (folder.path(&number.to_string()),)).unwrap()).collect();
    let many = pool.map_async(touch, (50..3000).map(|number| folder.path(&number.to_string()))).unwrap();
    let kept = pool.apply_async(touch, (folder.path("kept"),)).unwrap();
    for ticket in doomed {
        assert!(ticket.cancel() && ticket.is_ready());
        let error = ticket.get().unwrap_err();
        assert!(error.is_cancelled() && error.item().is_none() && says(&error, "touch"), "{error}");
    }
    assert!(many.cancel());
    assert!(many.get().unwrap_err().is_cancelled());
    assert!(stays.cancel());
    assert!(stays.get().unwrap_err().is_cancelled());
    kept.get().unwrap();
    pool.close();
    pool.join().unwrap();
    let names: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    // What stays may or may not have begun.
    assert!(names.iter().all(|name| name == "kept" || name == "stays" || name == "stays.new"), "{names:?}");
}

/// Waits until a task that stays has begun, and gives its process.
fn who_stays(path: &str) -> Pid {
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            return Pid::from_raw(text.parse().unwrap()).unwrap();
        }
        std::thread::yield_now();
    }
}

fn cancelled_while_it_runs() {
    let pool = Pool::with_workers(2).unwrap();
    let folder = Folder::new("while");
    let ticket = pool.apply_async(stay, (folder.path("stays"),)).unwrap();
    let worker = who_stays(&folder.path("stays"));
    let other = pool.map_async(slow, 0..50).unwrap();
    assert!(ticket.cancel());
    assert!(ticket.cancel() || ticket.is_ready());
    assert!(ticket.get().unwrap_err().is_cancelled());
    // Its end was waited for.
    assert!(test_kill_process(worker).is_err());
    assert_eq!(other.get().unwrap().len(), 50);
    assert_eq!((pool.statistics().cancelled, pool.statistics().lost), (1, 0));
}

fn cancelled_while_a_thread_waits() {
    let pool = Pool::with_workers(1).unwrap();
    let folder = Folder::new("thread");
    let ticket = pool.apply_async(stay, (folder.path("stays"),)).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| ticket.wait(None));
        who_stays(&folder.path("stays"));
        assert!(ticket.cancel());
        assert!(waits.join().unwrap());
    });
    assert!(ticket.get().unwrap_err().is_cancelled());
}

fn cancelled_in_the_midst_of_a_map() {
    let pool = Pool::with_workers(2).unwrap();
    for round in 0..20 {
        let ticket = pool.map_async(slow, 0..1000).unwrap();
        for _ in 0..round {
            assert!(!ticket.wait(Some(Duration::from_millis(1))));
        }
        assert!(ticket.cancel());
        assert!(ticket.get().unwrap_err().is_cancelled());
    }
    assert_eq!(pool.map(square, 0..100).unwrap().len(), 100);
}

/// Whoever is first, the call is answered, and nobody else's.
fn cancelled_as_it_ends() {
    let pool = Pool::with_workers(2).unwrap();
    let (mut ran, mut cancelled) = (0, 0);
    for round in 0..300u32 {
        let ticket = pool.apply_async(square, (7,)).unwrap();
        let bystander = pool.apply_async(square, (8,)).unwrap();
        (0..round * 10).for_each(|_| std::hint::spin_loop());
        let was_cancelled = ticket.cancel();
        match ticket.get() {
            Ok(result) => {
                assert!(result == 49 && !was_cancelled);
                ran += 1;
            }
            Err(error) => {
                assert!(error.is_cancelled() && was_cancelled, "{error}");
                cancelled += 1;
            }
        }
        assert_eq!(bystander.get().unwrap(), 64);
    }
    assert_eq!(ran + cancelled, 300);
}

fn a_pool_dropped_with_work_in_flight() {
    let folder = Folder::new("drop");
    let pool = pool();
    let done = pool.apply_async(square, (3,)).unwrap();
    assert!(done.wait(None));
    let stays = pool.apply_async(stay, (folder.path("stays"),)).unwrap();
    let many = pool.map_async(slow, 0..10_000).unwrap();
    let worker = who_stays(&folder.path("stays"));
    drop(pool);
    assert!(test_kill_process(worker).is_err());
    assert_eq!(done.get().unwrap(), 9);
    assert!(stays.is_ready() && stays.get().unwrap_err().is_closed());
    assert!(!many.cancel() || many.is_ready());
    assert!(many.get().is_err_and(|error| error.is_closed() || error.is_cancelled()));
}

/// The first error of a lazy map, which may be made before the pool's end or after it.
fn first_error(results: Result<Imap<'_, (u64,), u64>>) -> Error {
    results.map_or_else(|error| error, |mut results| results.find_map(Result::err).unwrap())
}

fn terminated_in_every_verb() {
    let pool = Pool::with_workers(2).unwrap();
    let folder = Folder::new("terminated");
    std::thread::scope(|scope| {
        let threads = [
            scope.spawn(|| pool.apply(stay, (folder.path("apply"),)).unwrap_err()),
            scope.spawn(|| pool.map(slow, 0..100_000).unwrap_err()),
            scope.spawn(|| first_error(pool.imap(slow, 0..))),
            scope.spawn(|| first_error(pool.imap_unordered(slow, 0..).map(|results| results.chunksize(7)))),
            scope.spawn(|| pool.map_async(slow, 0..100_000).and_then(Ticket::get).unwrap_err()),
        ];
        who_stays(&folder.path("apply"));
        pool.terminate();
        for thread in threads {
            let error = thread.join().unwrap();
            assert!(error.is_closed(), "{error}");
        }
    });
    assert!(pool.apply_async(square, (3,)).unwrap_err().is_closed());
    pool.join().unwrap();
}

fn threads_share_the_verbs() {
    let pool = Pool::with_workers(2).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..20 {
                    let start = thread * 1000 + round;
                    let ticket = pool.map_async(square, start..start + 500).unwrap();
                    assert_eq!(pool.apply(square, (start,)).unwrap(), start * start);
                    assert!(pool.apply(panic, (3,)).unwrap_err().is_panic());
                    let lazily = pool.imap(square, start..start + 100).unwrap().map(Result::unwrap);
                    assert!(lazily.eq((start..start + 100).map(square)));
                    assert!(ticket.get().unwrap().into_iter().eq((start..start + 500).map(square)));
                }
            });
        }
    });
}

/// Runs alone in its process, since it counts: descriptors, threads, children.
fn tidy() {
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let left = || {
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
        (count("/proc/self/fd"), count("/proc/self/task"), children)
    };
    let before = left();
    for round in 0..6 {
        let pool = hasty();
        let mut tickets: Vec<_> = (0..100).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
        pool.map_async(die, 0..8).unwrap().get().unwrap_err();
        assert_eq!(pool.imap(die, 0..8).unwrap().filter(Result::is_err).count(), 1);
        assert!(tickets.pop().unwrap().get().is_ok());
        tickets.pop().unwrap().cancel();
        match round % 3 {
            0 => drop(pool),
            1 => {
                pool.close();
                pool.join().unwrap();
            }
            _ => pool.terminate(),
        }
        drop(tickets);
        if round % 3 == 0 {
            assert_eq!(left(), before);
        }
    }
    assert_eq!(left(), before);
}

/// Never ends by itself: workers in calls that nobody waits for.
fn busy() {
    let pool = Pool::builder().workers(2).task_timeout(Duration::from_secs(3600)).build().unwrap();
    let spin = |_: u64| {
        println!("busy");
        loop {
            std::hint::spin_loop();
        }
    };
    let _tickets: Vec<Ticket<()>> = (0..10).map(|x| pool.apply_async(spin, (x,)).unwrap()).collect();
    loop {
        std::thread::park();
    }
}

fn workers_end_with_a_killed_caller() {
    let mut caller = scenario("busy").stdout(Stdio::piped()).spawn().unwrap();
    let mut output = caller.stdout.take().unwrap();
    let mut said = [0u8; 10];
    output.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"busy\nbusy\n");
    caller.kill().unwrap();
    caller.wait().unwrap();
    // The pipe ends when the last process that may write to it has ended.
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

/// A folder that goes when this does.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("manycore-faults-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
