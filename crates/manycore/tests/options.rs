//! What calls and pools can be told: retries, time limits and priorities of single calls, how workers end.
//!
//! The program brings its own main: it must be able to be the worker.

#![forbid(unsafe_code)]

mod support;

use manycore::sync::{Mutex, Semaphore};
use manycore::{CallOptions, Error, Passed, Pool, Result, Ticket, closure};
use std::collections::BTreeSet;
use std::fs::File;
use std::future::IntoFuture;
use std::io::{PipeWriter, Read, Write};
use std::time::Duration;

fn main() {
    manycore::init();
    support::run(support::tests![
        lost_calls_are_run_again,
        retries_are_limited,
        panics_are_run_again_where_the_caller_says_so,
        calls_that_take_too_long_are_run_again,
        what_was_cancelled_is_not_run_again,
        a_pool_that_ends_runs_nothing_again,
        nobody_waits_for_a_ticket,
        large_values_and_files_are_there_again,
        urgent_calls_are_begun_first,
        options_are_checked,
        what_a_task_has_started_ends_with_it,
        workers_that_grow_are_replaced,
        workers_say_good_bye,
    ]);
}

fn pool() -> Pool {
    Pool::with_workers(2).unwrap()
}

fn process(_: u32) -> u32 {
    std::process::id()
}

fn panic_on_seven(x: u32) -> u32 {
    assert!(x % 10 != 7, "seven is not served");
    x
}

fn retries(retries: u32) -> CallOptions {
    CallOptions::new().retries(retries)
}

/// Counts in `left` how often it crashes yet, when it is given 3.
fn crash(left: &Mutex<u32>, x: u64) -> u64 {
    let mut count = left.lock().unwrap();
    if x == 3 && *count > 0 {
        *count -= 1;
        drop(count);
        std::process::abort();
    }
    x
}

/// What every verb makes of the items 0 to 9 with a task that crashes so often on one of them, and what a single call
/// makes of that item.
fn with_every_verb(crashes: u32, options: &CallOptions, check: impl Fn(&str, Vec<Result<u64>>)) {
    let pool = pool();
    let left = Mutex::new(0).unwrap();
    let verb = |name: &str, run: &dyn Fn() -> Vec<Result<u64>>| {
        *left.lock().unwrap() = crashes;
        check(name, run());
    };
    let pool = pool.with(options.clone());
    let whole = |results: Result<Vec<u64>>| match results {
        Ok(results) => results.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    };
    macro_rules! fragile {
        () => {{
            let left = left.clone();
            closure!(move(left) |x: u64| crash(left, x))
        }};
    }
    verb("map", &|| whole(pool.map(fragile!(), 0..10)));
    verb("starmap", &|| whole(pool.starmap(fragile!(), (0..10).map(|x| (x,)))));
    verb("map_results", &|| pool.map_results(fragile!(), 0..10).unwrap());
    verb("imap", &|| pool.imap(fragile!(), 0..10).unwrap().collect());
    verb("imap in chunks", &|| pool.imap(fragile!(), 0..10).unwrap().chunksize(4).collect());
    verb("imap_unordered", &|| pool.imap_unordered(fragile!(), 0..10).unwrap().collect());
    verb("apply", &|| vec![pool.apply(fragile!(), (3,))]);
    verb("apply_async", &|| vec![pool.apply_async(fragile!(), (3,)).unwrap().get()]);
    verb("map_async", &|| whole(pool.map_async(fragile!(), 0..10).unwrap().get()));
    verb("awaited", &|| {
        whole(smol::block_on(pool.starmap_async(fragile!(), (0..10).map(|x| (x,))).unwrap().into_future()))
    });
}

fn lost_calls_are_run_again() {
    with_every_verb(2, &retries(2), |verb, results| {
        let mut results: Vec<u64> = results.into_iter().map(|result| result.expect(verb)).collect();
        results.sort_unstable();
        let expected = if verb.starts_with("apply") { vec![3] } else { Vec::from_iter(0..10) };
        assert_eq!(results, expected, "{verb}");
    });
}

fn retries_are_limited() {
    with_every_verb(2, &retries(1), |verb, results| {
        let failed: Vec<&Error> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(failed.len() == 1 && failed[0].is_worker_lost(), "{verb}: {results:?}");
        let item = if verb.starts_with("apply") { None } else { Some(3) };
        assert_eq!(failed[0].item(), item, "{verb}");
        // Whatever has a result for each item has all the others.
        if verb.contains("imap") || verb == "map_results" {
            assert_eq!(results.len(), 10, "{verb}");
        }
    });
}

fn panics_are_run_again_where_the_caller_says_so() {
    let pool = pool();
    let runs = Mutex::new(0u32).unwrap();
    let task = || {
        let runs = runs.clone();
        closure!(move(runs) |x: u32| {
            let mut count = runs.lock().unwrap();
            *count += 1;
            let run = *count;
            drop(count);
            assert!(x != 3 || run > 2, "not yet: {run}");
            run
        })
    };
    assert!(pool.with(retries(5)).apply(task(), (3,)).unwrap_err().is_panic());
    assert_eq!(*runs.lock().unwrap(), 1);
    let patient = retries(5).retry_if(|error| error.is_panic() && error.to_string().contains("not yet"));
    assert_eq!(pool.with(patient.clone()).apply(task(), (3,)).unwrap(), 3);
    *runs.lock().unwrap() = 0;
    let results: Vec<u32> = pool.with(patient).imap(task(), [3]).unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(results, [3]);
    *runs.lock().unwrap() = 0;
    let other = retries(5).retry_if(|error| error.to_string().contains("something else"));
    assert!(pool.with(other).map(task(), [3]).unwrap_err().is_panic());
    assert_eq!(*runs.lock().unwrap(), 1);
}

fn calls_that_take_too_long_are_run_again() {
    let pool = pool();
    let runs = Mutex::new(0u32).unwrap();
    let task = || {
        let runs = runs.clone();
        closure!(move(runs) |needed: u32| {
            let mut count = runs.lock().unwrap();
            *count += 1;
            let run = *count;
            drop(count);
            if run < needed {
                loop {
                    std::thread::park();
                }
            }
            run
        })
    };
    let hasty = CallOptions::new().task_timeout(Duration::from_secs(1));
    assert_eq!(pool.with(hasty.clone().retries(1)).apply(task(), (2,)).unwrap(), 2);
    *runs.lock().unwrap() = 0;
    assert!(pool.with(hasty.clone().retries(2)).map(task(), [9]).unwrap_err().is_expired());
    assert_eq!(*runs.lock().unwrap(), 3);
    // The limit is the call's: the pool has none.
    assert!(pool.with(hasty).apply(task(), (9,)).unwrap_err().is_expired());
    assert_eq!(pool.apply(task(), (1,)).unwrap(), 5);
}

fn what_was_cancelled_is_not_run_again() {
    let pool = pool();
    let (runs, begun) = (Mutex::new(0u32).unwrap(), Semaphore::new(0).unwrap());
    let task = {
        let (runs, begun) = (runs.clone(), begun.clone());
        closure!(move(runs, begun) |_: u32| {
            *runs.lock().unwrap() += 1;
            begun.release();
            loop {
                std::thread::park();
            }
        })
    };
    let ticket = pool.with(retries(9)).map_async(task, [1]).unwrap();
    begun.acquire().forget();
    assert!(ticket.cancel());
    let result: Result<Vec<()>> = ticket.get();
    assert!(result.unwrap_err().is_cancelled());
    assert_eq!(pool.map(panic_on_seven, 0..5).unwrap().len(), 5);
    assert_eq!(*runs.lock().unwrap(), 1);
}

fn a_pool_that_ends_runs_nothing_again() {
    let pool = pool();
    let doomed = pool.with(retries(u32::MAX)).map_async(|_: u32| std::process::abort(), 0..4).unwrap();
    pool.terminate();
    let result: Result<Vec<()>> = doomed.get();
    let error = result.unwrap_err();
    assert!(error.is_closed(), "{error}");
}

fn nobody_waits_for_a_ticket() {
    let pool = pool();
    let left = Mutex::new(2).unwrap();
    let (mut said, say) = std::io::pipe().unwrap();
    let task = {
        let left = left.clone();
        closure!(move(left) |x: u64, say: Passed<PipeWriter>| {
            let x = crash(left, x);
            let mut say = say;
            say.write_all(b"!").unwrap();
            x
        })
    };
    drop(pool.with(retries(2)).apply_async(task, (3, Passed(say))).unwrap());
    said.read_exact(&mut [0]).unwrap();
    assert_eq!(*left.lock().unwrap(), 0);
    pool.close();
    pool.join().unwrap();
}

fn large_values_and_files_are_there_again() {
    let pool = pool();
    let left = Mutex::new(1).unwrap();
    let (kept, path) = (File::open("/proc/self/exe").unwrap(), std::env::current_exe().unwrap());
    let task = {
        let left = left.clone();
        closure!(move(left) |x: u64, numbers: Vec<u64>, file: Passed<File>| {
            crash(left, x);
            (numbers.iter().sum::<u64>(), file.0.metadata().unwrap().len())
        })
    };
    let numbers = Vec::from_iter(0..100_000);
    let calls = [(1, numbers.clone(), Passed(kept.try_clone().unwrap())), (3, numbers, Passed(kept))];
    let results = pool.with(retries(1)).starmap(task, calls).unwrap();
    assert_eq!(results, [(4_999_950_000, std::fs::metadata(path).unwrap().len()); 2]);
    assert_eq!(*left.lock().unwrap(), 0);
}

fn urgent_calls_are_begun_first() {
    let pool = Pool::with_workers(1).unwrap();
    let (gate, order) = (Semaphore::new(0).unwrap(), Mutex::new(0u32).unwrap());
    let wait = {
        let gate = gate.clone();
        closure!(move(gate) |_: u32| gate.acquire().forget())
    };
    let count = || {
        let order = order.clone();
        closure!(move(order) |_: u32| {
            let mut order = order.lock().unwrap();
            *order += 1;
            *order
        })
    };
    let waiting = pool.apply_async(wait, (0,)).unwrap();
    let low = pool.with(CallOptions::new().priority(-1)).apply_async(count(), (0,)).unwrap();
    let usual: Vec<_> = (0..50).map(|x| pool.apply_async(count(), (x,)).unwrap()).collect();
    let urgent = pool.with(CallOptions::new().priority(7)).apply_async(count(), (0,)).unwrap();
    gate.release();
    waiting.get().unwrap();
    assert_eq!((urgent.get().unwrap(), low.get().unwrap()), (1, 52));
    let usual: Vec<u32> = usual.into_iter().map(|ticket| ticket.get().unwrap()).collect();
    assert_eq!(usual, Vec::from_iter(2..52));
}

fn options_are_checked() {
    let pool = pool();
    let none = pool.with(CallOptions::new().task_timeout(Duration::ZERO));
    assert!(none.apply(|| 1, ()).unwrap_err().to_string().contains("some time"));
    assert!(none.imap(|x: u8| x, [1]).unwrap_err().to_string().contains("some time"));
    // What is made of a pool does not end it.
    drop(none);
    assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
}

fn what_a_task_has_started_ends_with_it() {
    fn beget(mut say: Passed<PipeWriter>) {
        let kept = say.0.try_clone().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").stdout(kept).spawn().unwrap();
        say.write_all(b"!").unwrap();
        drop(say);
        child.wait().unwrap();
    }
    let ended = |options: CallOptions, end: fn(&Pool, &Ticket<()>)| {
        let pool = pool();
        let (mut said, say) = std::io::pipe().unwrap();
        let ticket = pool.with(options).apply_async(beget, (Passed(say),)).unwrap();
        said.read_exact(&mut [0]).unwrap();
        end(&pool, &ticket);
        let error = ticket.get().unwrap_err();
        // The end of the pipe: nobody has it open, neither the worker nor the worker's child.
        assert_eq!(said.read(&mut [0]).unwrap(), 0, "{error}");
        error
    };
    let usual = CallOptions::new;
    assert!(ended(usual(), |_, ticket| assert!(ticket.cancel())).is_cancelled());
    assert!(ended(usual(), |pool, _| pool.terminate()).is_closed());
    assert!(ended(usual().task_timeout(Duration::from_millis(500)), |_, _| ()).is_expired());
}

fn workers_that_grow_are_replaced() {
    fn grow(bytes: usize) -> u32 {
        static KEPT: std::sync::Mutex<Vec<Vec<u8>>> = std::sync::Mutex::new(Vec::new());
        KEPT.lock().unwrap().push(vec![1; bytes]);
        std::process::id()
    }
    let pool = Pool::builder().workers(1).max_worker_rss(512 << 20).build().unwrap();
    let small: BTreeSet<u32> = (0..20).map(|_| pool.apply(grow, (1 << 10,)).unwrap()).collect();
    assert_eq!(small.len(), 1);
    let large: Vec<u32> = (0..3).map(|_| pool.apply(grow, (600 << 20,)).unwrap()).collect();
    assert_eq!(large.iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(pool.statistics().lost, 0);
}

fn workers_say_good_bye() {
    fn note(mut writer: Passed<PipeWriter>, text: String) {
        writer.write_all(text.as_bytes()).unwrap();
    }
    let notes = |end: fn(Pool), most_calls: usize| {
        let (mut ours, theirs) = std::io::pipe().unwrap();
        let builder = Pool::builder().workers(2).max_tasks_per_worker(most_calls);
        let pool = builder.finalizer(note, (Passed(theirs), "good bye\n".to_owned())).build().unwrap();
        for x in 0..4 {
            pool.apply(process, (x,)).unwrap();
        }
        end(pool);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert!(text.lines().all(|line| line == "good bye"), "{text:?}");
        text.lines().count()
    };
    let join = |pool: Pool| {
        pool.close();
        pool.join().unwrap();
    };
    assert_eq!(notes(join, 100), 2);
    assert!(notes(join, 1) >= 4);
    assert_eq!(notes(|pool| pool.terminate(), 100), 0);
    // One that fails costs nobody's result.
    let pool = Pool::builder().workers(1).finalizer(panic_on_seven, (7,)).build().unwrap();
    assert_eq!(pool.map(|x: u64| x * x, 0..10).unwrap().len(), 10);
    join(pool);
}
