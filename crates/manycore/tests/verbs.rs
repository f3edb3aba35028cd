//! Every verb of `Pool` where everything goes well, or fails by what the tasks themselves do.
//!
//! The program brings its own main: it must be able to be the worker.

#![forbid(unsafe_code)]

mod support;

use manycore::{Bytes, Error, Imap, Pool, PoolBuilder, Slice, Statistics, Ticket, TicketFuture, closure};
use serde::{Deserialize, Serialize, Serializer};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn square(x: u64) -> u64 {
    x * x
}

fn add(a: i64, b: i64) -> i64 {
    a + b
}

fn answer() -> u8 {
    42
}

fn process(_: u32) -> u32 {
    std::process::id()
}

fn panic_on_seven(x: u32) -> u32 {
    assert!(x % 10 != 7, "seven is not served");
    x
}

fn late_when_even(x: u64) -> u64 {
    if x.is_multiple_of(2) {
        std::thread::sleep(Duration::from_millis(5));
    }
    x
}

/// Waits for a line of `path`, a named pipe, so that it runs until it is told.
fn wait_for(path: String) -> String {
    std::fs::read_to_string(path).unwrap()
}

static SET: AtomicU32 = AtomicU32::new(0);

fn set(value: u32) {
    SET.store(value, Ordering::Relaxed);
}

fn get(_: u32) -> u32 {
    SET.load(Ordering::Relaxed)
}

fn allocate(bytes: usize) -> usize {
    std::hint::black_box(vec![1u8; bytes]).len()
}

/// Travels, unless it is 3.
#[derive(Debug, Deserialize)]
struct Shy(u32);

impl Serialize for Shy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 3 { Err(serde::ser::Error::custom("three stays at home")) } else { self.0.serialize(serializer) }
    }
}

fn bold(shy: Shy) -> u32 {
    shy.0
}

fn shy(x: u32) -> Shy {
    Shy(x)
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Picture {
    name: String,
    pixels: Slice<f32>,
    mask: Bytes,
}

fn invert(mut picture: Picture) -> Picture {
    picture.pixels.iter_mut().for_each(|pixel| *pixel = 1.0 - *pixel);
    picture.name.push_str(", inverted");
    picture
}

fn pool() -> Pool {
    Pool::with_workers(2).unwrap()
}

fn main() {
    manycore::init();
    support::run(support::tests![
        one_call,
        many_calls_of_several_arguments,
        lazily_in_order,
        lazily_in_any_order,
        items_are_read_as_results_are_taken,
        items_may_borrow,
        each_result_is_its_own,
        each_result_of_a_chunk_is_its_own,
        what_refuses_to_travel_fails_alone,
        a_dropped_iterator_leaves_nothing_to_do,
        many_lazy_maps_at_once,
        tickets,
        tickets_for_many_calls,
        a_ticket_is_ready_some_time,
        a_result_is_taken_once,
        a_wait_may_end_early,
        a_dropped_ticket_lets_its_tasks_run,
        errors_without_an_item,
        initialized,
        initialized_badly,
        workers_are_replaced,
        memory_is_limited,
        builders_refuse,
        statistics,
        closed_and_joined,
        plain_values_in_place,
        plain_values_of_all_sizes,
        send_and_sync,
    ]);
}

fn one_call() {
    let pool = pool();
    assert_eq!(pool.apply(answer, ()).unwrap(), 42);
    assert_eq!(pool.apply(square, (7,)).unwrap(), 49);
    assert_eq!(pool.apply(add, (1, -2)).unwrap(), -1);
    assert_eq!(pool.apply(|a: String, b: u8, c: char| format!("{a}{b}{c}"), ("x".to_owned(), 1, 'y')).unwrap(), "x1y");
    let base = 10;
    assert_eq!(pool.apply(closure!(move(base) |x: u32| base + x), (5,)).unwrap(), 15);
    for x in 0..2000 {
        assert_eq!(pool.apply(square, (x,)).unwrap(), x * x);
    }
}

fn many_calls_of_several_arguments() {
    let sums = pool().starmap(add, (0..5000).map(|x| (x, 2 * x))).unwrap();
    assert_eq!(sums, (0..5000).map(|x| 3 * x).collect::<Vec<_>>());
    assert_eq!(pool().starmap(answer, [(); 3]).unwrap(), [42; 3]);
}

fn lazily_in_order() {
    let pool = pool();
    let results: Vec<u64> = pool.imap(late_when_even, 0..100).unwrap().map(Result::unwrap).collect();
    assert_eq!(results, (0..100).collect::<Vec<_>>());
    for chunksize in [1, 3, 7, 1000] {
        let squares = pool.imap(square, 0..500).unwrap().chunksize(chunksize).buffersize(50);
        assert_eq!(squares.map(Result::unwrap).collect::<Vec<_>>(), (0..500).map(square).collect::<Vec<_>>());
    }
    assert_eq!(pool.imap(square, []).unwrap().count(), 0);
    let mut done = pool.imap(square, [2]).unwrap();
    assert_eq!(done.next().unwrap().unwrap(), 4);
    assert!(done.next().is_none() && done.next().is_none());
}

fn lazily_in_any_order() {
    let pool = pool();
    let results: BTreeSet<u64> = pool.imap_unordered(late_when_even, 0..100).unwrap().map(Result::unwrap).collect();
    assert_eq!(results, (0..100).collect());
    // While one worker has a task that does not end by itself, the other one's results come.
    let pipe = Pipe::new("any-order");
    let paths = [pipe.path(), "/dev/null".to_owned(), "/dev/null".to_owned()];
    let mut results = pool.imap_unordered(wait_for, paths).unwrap();
    assert_eq!((results.next().unwrap().unwrap(), results.next().unwrap().unwrap()), (String::new(), String::new()));
    pipe.tell("go");
    assert_eq!(results.next().unwrap().unwrap(), "go");
    assert!(results.next().is_none());
}

fn items_are_read_as_results_are_taken() {
    let pool = pool();
    let read = Cell::new(0);
    let items = (0..).inspect(|_| read.set(read.get() + 1));
    let mut results = pool.imap(square, items).unwrap().buffersize(10);
    assert_eq!(read.get(), 0);
    for taken in 1..50 {
        assert!(results.next().is_some());
        assert!(read.get() <= 10 + taken, "{} read, {taken} taken", read.get());
    }
    let mut one = pool.imap_unordered(square, 0..3).unwrap().buffersize(0).chunksize(0);
    assert_eq!(one.by_ref().count(), 3);
}

fn items_may_borrow() {
    let (pool, words) = (pool(), vec!["a".to_owned(), "bc".to_owned()]);
    let lengths = pool.imap(|word: String| word.len(), words.iter().cloned()).unwrap();
    assert_eq!(lengths.map(Result::unwrap).collect::<Vec<_>>(), [1, 2]);
}

fn check_sevens(results: &[Result<u32, Error>]) {
    for (item, result) in results.iter().enumerate() {
        match result {
            Ok(value) => assert!(item % 10 != 7 && *value == item as u32),
            Err(error) => {
                assert!(item % 10 == 7 && error.is_panic() && error.item() == Some(item), "{item}: {error}");
            }
        }
    }
}

fn each_result_is_its_own() {
    let pool = pool();
    let results: Vec<_> = pool.imap(panic_on_seven, 0..50).unwrap().collect();
    assert_eq!(results.len(), 50);
    check_sevens(&results);
    let unordered = pool.imap_unordered(panic_on_seven, 0..50).unwrap();
    assert_eq!(unordered.filter(Result::is_err).count(), 5);
}

fn each_result_of_a_chunk_is_its_own() {
    let results: Vec<_> = pool().imap(panic_on_seven, 0..100).unwrap().chunksize(9).collect();
    assert_eq!(results.len(), 100);
    check_sevens(&results);
}

fn what_refuses_to_travel_fails_alone() {
    let pool = pool();
    for chunksize in [1, 2, 5] {
        let results: Vec<_> = pool.imap(bold, (0..8).map(Shy)).unwrap().chunksize(chunksize).collect();
        let values: Vec<_> = results.iter().map(|result| result.as_ref().ok().copied()).collect();
        assert_eq!(values, [Some(0), Some(1), Some(2), None, Some(4), Some(5), Some(6), Some(7)]);
        let error = results[3].as_ref().unwrap_err();
        assert!(error.is_encoding() && error.item() == Some(3), "{error}");
        let back: Vec<_> = pool.imap(shy, 0..8).unwrap().chunksize(chunksize).map(|shy| shy.map(|shy| shy.0)).collect();
        assert!(back.iter().enumerate().all(|(item, shy)| shy.is_err() == (item == 3)), "{back:?}");
    }
    let error = pool.map(bold, (0..8).map(Shy)).unwrap_err();
    assert!(error.is_encoding() && error.item() == Some(3), "{error}");
    let error = pool.map(shy, 0..8).unwrap_err();
    assert!(error.is_encoding() && error.item() == Some(3), "{error}");
    assert!(pool.apply(bold, (Shy(3),)).unwrap_err().is_encoding());
    assert!(pool.apply_async(bold, (Shy(3),)).unwrap().get().unwrap_err().is_encoding());
    assert_eq!(pool.apply(bold, (Shy(4),)).unwrap(), 4);
}

fn a_dropped_iterator_leaves_nothing_to_do() {
    let pool = Pool::with_workers(1).unwrap();
    let pipe = Pipe::new("dropped-iterator");
    let paths = std::iter::once(pipe.path()).chain((0..20).map(|_| "/dev/null".to_owned()));
    let mut results = pool.imap(wait_for, paths).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| pipe.tell("go"));
        assert_eq!(results.next().unwrap().unwrap(), "go");
    });
    drop(results);
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
    let Statistics { submitted, returned, cancelled, in_flight, .. } = pool.statistics();
    assert_eq!((submitted, returned + cancelled, in_flight), (22, 22, 0));
}

fn many_lazy_maps_at_once() {
    let pool = pool();
    let mut maps: Vec<_> = (0..20u64).map(|n| pool.imap(square, n..n + 200).unwrap()).collect();
    for step in 0..200 {
        for (n, map) in maps.iter_mut().enumerate() {
            assert_eq!(map.next().unwrap().unwrap(), square(n as u64 + step));
        }
    }
    assert!(maps.iter_mut().all(|map| map.next().is_none()));
}

fn tickets() {
    let pool = pool();
    let tickets: Vec<_> = (0..3000).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
    for (x, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.get().unwrap(), square(x as u64));
    }
    // In the other order, and with pauses in which no waiting thread feeds the queue.
    let mut tickets: Vec<_> = (0..3000).map(|x| pool.apply_async(square, (x,)).unwrap()).collect();
    while let Some(ticket) = tickets.pop() {
        assert_eq!(ticket.get().unwrap(), square(tickets.len() as u64));
    }
}

fn tickets_for_many_calls() {
    let pool = pool();
    let squares = pool.map_async(square, 0..100_000).unwrap();
    let sums = pool.starmap_async(add, (0..1000).map(|x| (x, 1))).unwrap();
    let failing = pool.map_async(panic_on_seven, 0..1000).unwrap();
    assert_eq!(sums.get().unwrap(), (1..1001).collect::<Vec<_>>());
    assert_eq!(failing.get().unwrap_err().item(), Some(7));
    assert_eq!(squares.get().unwrap(), (0..100_000).map(square).collect::<Vec<_>>());
    assert_eq!(pool.map_async(square, []).unwrap().get().unwrap(), []);
}

fn a_ticket_is_ready_some_time() {
    let pool = Pool::with_workers(1).unwrap();
    let pipe = Pipe::new("ready");
    let mut ticket = pool.apply_async(wait_for, (pipe.path(),)).unwrap();
    assert!(!ticket.is_ready());
    pipe.tell("now");
    while !ticket.is_ready() {
        std::thread::yield_now();
    }
    assert!(ticket.wait(Some(Duration::ZERO)) && !ticket.cancel());
    assert_eq!(ticket.get_timeout(Duration::ZERO).unwrap(), "now");
    // A map is brought on although nobody waits for it.
    let many = pool.map_async(square, 0..50_000).unwrap();
    while !many.is_ready() {
        std::thread::yield_now();
    }
    assert_eq!(many.get().unwrap().len(), 50_000);
}

fn a_result_is_taken_once() {
    let mut ticket = pool().apply_async(square, (3,)).unwrap();
    // The pool is gone, the result may be there or not.
    let first = ticket.get_timeout(Duration::from_secs(60));
    assert!(first.as_ref().is_ok_and(|nine| *nine == 9) || first.is_err_and(|error| error.is_closed()));
    assert!(ticket.get().unwrap_err().to_string().contains("taken before"));
}

fn a_wait_may_end_early() {
    let pool = pool();
    let pipe = Pipe::new("early");
    let mut ticket = pool.apply_async(wait_for, (pipe.path(),)).unwrap();
    let error = ticket.get_timeout(Duration::from_millis(1)).unwrap_err();
    assert!(error.is_timeout() && !error.is_expired(), "{error}");
    assert!(!ticket.wait(Some(Duration::from_millis(1))));
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
    pipe.tell("late");
    assert!(ticket.wait(None));
    assert_eq!(ticket.get().unwrap(), "late");
}

fn a_dropped_ticket_lets_its_tasks_run() {
    let pool = pool();
    let folder = Folder::new("dropped-ticket");
    let touch = |path: String| std::fs::write(path, "").unwrap();
    let paths: Vec<_> = (0..500).map(|number| folder.path(&number.to_string())).collect();
    drop(pool.map_async(touch, paths.clone()).unwrap());
    drop(pool.apply_async(touch, (folder.path("one"),)).unwrap());
    pool.close();
    pool.join().unwrap();
    assert!(paths.iter().all(|path| std::fs::exists(path).unwrap()));
    assert!(std::fs::exists(folder.path("one")).unwrap());
}

fn errors_without_an_item() {
    let error = pool().apply(panic_on_seven, (7,)).unwrap_err();
    assert!(error.is_panic() && error.item().is_none(), "{error}");
    assert!(error.to_string().contains("panic_on_seven` panicked: seven is not served"), "{error}");
    assert!(error.panic().is_some_and(|panic| panic.place().is_some()));
}

fn initialized() {
    let pool = Pool::builder().workers(2).initializer(set, (7,)).build().unwrap();
    assert!(pool.map(get, 0..100).unwrap().iter().all(|value| *value == 7));
    assert_eq!(SET.load(Ordering::Relaxed), 0);
    let (base, numbers) = (30, vec![1.0f64, 2.0]);
    let pool = Pool::builder()
        .initializer(closure!(move(base) |more: Vec<f64>, slice: Slice<f64>| set(*base + more.len() as u32 + slice.len() as u32)), (
            numbers.clone(),
            numbers.into(),
        ))
        .build()
        .unwrap();
    assert_eq!(pool.apply(get, (0,)).unwrap(), 34);
}

fn initialized_badly() {
    let error = Pool::builder().workers(3).initializer(panic_on_seven, (17,)).build().unwrap_err();
    let text = error.to_string();
    assert!(error.is_start() && text.contains("panic_on_seven") && text.contains("seven is not served"), "{text}");
    let error = Pool::builder().initializer(bold, (Shy(3),)).build().unwrap_err();
    assert!(error.is_encoding() && error.to_string().contains("Shy"), "{error}");
}

fn workers_are_replaced() {
    let pool = Pool::builder().workers(2).max_tasks_per_worker(5).build().unwrap();
    let processes: Vec<u32> = pool.map(process, 0..50).unwrap();
    let count = |process: &u32| processes.iter().filter(|other| *other == process).count();
    assert!(processes.iter().all(|process| count(process) < 10));
    let applied: BTreeSet<u32> = (0..20).map(|x| pool.apply(process, (x,)).unwrap()).collect();
    assert!(applied.len() >= 3, "{applied:?}");
    let lazily: BTreeSet<u32> = pool.imap(process, 0..20).unwrap().chunksize(100).map(Result::unwrap).collect();
    assert!(lazily.len() >= 2, "{lazily:?}");
    let Statistics { lost, workers_started, workers_ended, .. } = pool.statistics();
    assert!(lost == 0 && workers_ended >= 8 && workers_started >= workers_ended);
}

fn memory_is_limited() {
    let pool = Pool::builder().workers(1).memory_limit(256 << 20).build().unwrap();
    assert_eq!(pool.apply(allocate, (1 << 20,)).unwrap(), 1 << 20);
    let error = pool.apply(allocate, (1 << 30,)).unwrap_err();
    assert!(error.is_worker_lost() && error.to_string().contains("SIGABRT"), "{error}");
    // Shared memory does not count: more of it than the limit allows of the worker's own.
    let bytes = Bytes::from(vec![1u8; 300 << 20]);
    let sum = |bytes: Bytes| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    assert_eq!(pool.apply(sum, (bytes,)).unwrap(), 300 << 20);
}

fn builders_refuse() {
    let refused = |builder: PoolBuilder| builder.build().unwrap_err().to_string();
    assert!(refused(Pool::builder().workers(0)).contains("from 1 to 4095"));
    assert!(refused(Pool::builder().workers(4096)).contains("not 4096"));
    assert!(refused(Pool::builder().max_tasks_per_worker(0)).contains("at least one call"));
    assert!(refused(Pool::builder().max_worker_rss(0)).contains("some memory"));
    assert!(refused(Pool::builder().task_timeout(Duration::ZERO)).contains("some time"));
}

fn statistics() {
    let pool = pool();
    assert_eq!((pool.statistics().submitted, pool.statistics().workers), (0, 2));
    for x in 0..10 {
        pool.apply(late_when_even, (x,)).unwrap();
    }
    pool.apply(panic_on_seven, (7,)).unwrap_err();
    let Statistics { workers, workers_started, submitted, returned, failed, lost, busy, in_flight, .. } =
        pool.statistics();
    assert_eq!((workers, workers_started, submitted, returned, failed, lost), (2, 2, 11, 10, 1, 0));
    assert!(in_flight == 0 && busy >= Duration::from_millis(25));
}

fn closed_and_joined() {
    let pool = pool();
    assert!(pool.join().unwrap_err().to_string().contains("close"));
    let tickets: Vec<_> = (0..100).map(|x| pool.apply_async(late_when_even, (x,)).unwrap()).collect();
    let many = pool.map_async(square, 0..20_000).unwrap();
    let mut lazily = pool.imap(square, 0..5000).unwrap().buffersize(10);
    assert_eq!(lazily.next().unwrap().unwrap(), 0);
    pool.close();
    assert!(pool.apply(square, (1,)).unwrap_err().is_closed());
    assert!(pool.map_async(square, 0..3).unwrap_err().is_closed() && pool.imap(square, 0..3).unwrap_err().is_closed());
    pool.join().unwrap();
    assert!(tickets.iter().all(Ticket::is_ready) && many.is_ready());
    assert_eq!(many.get().unwrap().len(), 20_000);
    assert!(tickets.into_iter().enumerate().all(|(x, ticket)| ticket.get().unwrap() == x as u64));
    let rest: Vec<_> = lazily.collect();
    let (values, errors): (Vec<_>, Vec<_>) = rest.into_iter().partition(Result::is_ok);
    assert!(values.len() <= 10 && !errors.is_empty());
    assert!(errors.into_iter().all(|error| error.unwrap_err().is_closed()));
    assert_eq!(pool.statistics().workers, 0);
    pool.join().unwrap();
}

fn plain_values_in_place() {
    let pool = pool();
    let picture = |side: usize| Picture {
        name: "a picture".to_owned(),
        pixels: (0..side * side).map(|n| n as f32).collect(),
        mask: (0..side * side).map(|n| n as u8).collect(),
    };
    for side in [0, 3, 200, 700] {
        let given = picture(side);
        let back = pool.apply(invert, (given.clone(),)).unwrap();
        assert_eq!((back.name.as_str(), &back.mask), ("a picture, inverted", &given.mask));
        assert!(back.pixels.iter().zip(given.pixels.iter()).all(|(new, old)| *new == 1.0 - old));
        // What came can be written, sent on, copied and kept while others come.
        let again = pool.map(invert, vec![back.clone(), back]).unwrap();
        assert!(again.iter().all(|picture| picture.pixels == given.pixels));
        let [mut first, second] = again.try_into().unwrap();
        first.pixels.fill(2.0);
        assert_eq!(second.pixels, given.pixels);
        assert_eq!(Vec::from(first.pixels), vec![2.0; side * side]);
    }
    // Many in one chunk, and in one value.
    let rows: Vec<Slice<u64>> = (0..8).map(|n| vec![n; 10_000].into()).collect();
    let sums = pool.apply(
        |rows: Vec<Slice<u64>>| rows.iter().map(|row| row.iter().sum::<u64>()).collect::<Vec<_>>(),
        (rows.clone(),),
    );
    assert_eq!(sums.unwrap(), (0..8).map(|n| n * 10_000).collect::<Vec<_>>());
    let back: Vec<Slice<u64>> =
        pool.imap(|row: Slice<u64>| row, rows.clone()).unwrap().chunksize(3).map(Result::unwrap).collect();
    assert_eq!(back, rows);
}

fn plain_values_of_all_sizes() {
    let pool = pool();
    let twice = |row: Vec<u32>| row.into_iter().map(|x| x.wrapping_mul(2)).collect::<Vec<_>>();
    for len in [0usize, 1, 35, 36, 37, 100, 5_000, (1 << 14) - 1, 1 << 14, (1 << 14) + 1, 300_000] {
        let row: Vec<u32> = (0..len as u32).collect();
        assert_eq!(pool.apply(twice, (row.clone(),)).unwrap(), twice(row.clone()));
        let floats: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
        assert_eq!(
            pool.apply(|a: Vec<f64>, b: Vec<u8>| (a.len(), b), (floats, vec![7; len])).unwrap(),
            (len, vec![7; len])
        );
        assert_eq!(pool.map(twice, vec![row.clone(); 5]).unwrap(), vec![twice(row); 5]);
    }
}

fn send_and_sync() {
    fn both<T: Send + Sync>() {}
    fn send<T: Send>() {}
    both::<Pool>();
    both::<PoolBuilder>();
    both::<Statistics>();
    both::<Ticket<u8>>();
    both::<TicketFuture<u8>>();
    both::<Slice<f64>>();
    send::<Error>();
    // An iterator is as its items are; it is for one thread.
    fn lazily(map: Imap<'_, (u64,), u64>) -> impl Iterator<Item = manycore::Result<u64>> {
        map
    }
    assert_eq!(lazily(pool().imap(square, 0..3).unwrap()).count(), 3);
}

/// A folder that goes when this does.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("manycore-verbs-{}-{name}", std::process::id()));
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

/// A named pipe: its reader waits until somebody writes.
struct Pipe(Folder);

impl Pipe {
    fn new(name: &str) -> Pipe {
        let folder = Folder::new(name);
        let path = folder.path("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        Pipe(folder)
    }

    fn path(&self) -> String {
        self.0.path("pipe")
    }

    fn tell(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }
}
