//! Values of every shape that serde knows, through pools, processes and channels; and what is said of panics.

#![forbid(unsafe_code)]
#![deny(unused_braces)]

mod support;

use manycore::{Pool, Process, channel, closure};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Verdict {
    Accepted,
    #[serde(skip)]
    Pending(Cell<u8>),
    Wrong,
    Crashed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Short {
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<u8>,
    b: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
struct Positive(i64);

impl TryFrom<i64> for Positive {
    type Error = &'static str;

    fn try_from(number: i64) -> Result<Positive, &'static str> {
        if number > 0 { Ok(Positive(number)) } else { Err("must be positive") }
    }
}

impl From<Positive> for i64 {
    fn from(number: Positive) -> i64 {
        number.0
    }
}

fn main() {
    manycore::init();
    support::run(support::tests![
        variants_that_are_skipped,
        fields_that_are_left_out,
        one_value_that_is_refused,
        panics_keep_what_they_say,
        workers_have_the_programs_name,
        braces_of_a_closure,
    ]);
}

fn variants_that_are_skipped() {
    let pool = Pool::with_workers(1).unwrap();
    assert_eq!(pool.apply(|| Verdict::Wrong, ()).unwrap(), Verdict::Wrong);
    let all = [Verdict::Wrong, Verdict::Accepted, Verdict::Crashed];
    assert_eq!(pool.map(|verdict: Verdict| verdict, all.clone()).unwrap(), all);
    let error = pool.apply(|| Verdict::Pending(Cell::new(1)), ()).unwrap_err();
    assert!(error.is_encoding() && error.to_string().contains("Verdict::Pending"), "{error}");
    assert_eq!(Process::spawn(|| Verdict::Wrong, ()).unwrap().join().unwrap(), Verdict::Wrong);
    let (sender, receiver) = channel::unbounded().unwrap();
    sender.send(Verdict::Wrong).unwrap();
    assert_eq!(receiver.recv().unwrap(), Verdict::Wrong);
}

fn fields_that_are_left_out() {
    let pool = Pool::with_workers(1).unwrap();
    let item = |n: u8| Short {
        a: n.is_multiple_of(2).then_some(n),
        b: n,
        rest: (0..n % 3).map(|key| (key.to_string(), serde_json::json!({ "n": [n, null] }))).collect(),
    };
    let items: Vec<Short> = (0..100).map(item).collect();
    assert_eq!(pool.map(|short: Short| short, items.clone()).unwrap(), items);
    let lazily = pool.imap(|short: Short| short, items.clone()).unwrap().chunksize(4);
    assert_eq!(lazily.collect::<manycore::Result<Vec<_>>>().unwrap(), items);
}

fn one_value_that_is_refused() {
    let pool = Pool::with_workers(1).unwrap();
    // Among arguments, and among results: the others are what they were.
    let numbers = || (0..10).map(|n| Positive(n - 3));
    let there = pool.imap(|number: Positive| number.0, numbers()).unwrap().chunksize(4);
    let back = pool.imap(|number: i64| Positive(number), (0..10).map(|n| n - 3)).unwrap().chunksize(4);
    for (n, (there, back)) in there.zip(back).enumerate() {
        if n > 3 {
            assert_eq!((there.unwrap(), back.unwrap().0), (n as i64 - 3, n as i64 - 3));
            continue;
        }
        for error in [there.unwrap_err(), back.unwrap_err()] {
            assert!(error.is_encoding() && error.item() == Some(n), "{error}");
            assert!(error.to_string().contains("must be positive"), "{error}");
        }
    }
    let error = pool.map(|number: i64| Positive(number), [5, 4, 3, -1, 2]).unwrap_err();
    assert!(error.item() == Some(3) && error.to_string().contains("on item 3"), "{error}");
}

fn panics_keep_what_they_say() {
    let pool = Pool::with_workers(1).unwrap();
    let resumed = || -> u8 {
        std::thread::scope(|scope| match scope.spawn(|| panic!("{} threads away", 1)).join() {
            Ok(number) => number,
            Err(payload) => std::panic::resume_unwind(payload),
        })
    };
    assert_eq!(pool.apply(resumed, ()).unwrap_err().panic().unwrap().message(), "1 threads away");
    let replaced = || -> u8 {
        std::panic::set_hook(Box::new(|_| {}));
        panic!("under another hook, {}", 7)
    };
    assert_eq!(pool.apply(replaced, ()).unwrap_err().panic().unwrap().message(), "under another hook, 7");
    let error = Process::spawn(resumed, ()).unwrap().join().unwrap_err();
    assert_eq!(error.panic().unwrap().message(), "1 threads away");
}

fn workers_have_the_programs_name() {
    let comm = || std::fs::read_to_string("/proc/self/comm").unwrap();
    let name = std::env::current_exe().unwrap().file_name().unwrap().to_string_lossy().into_owned();
    let seen = Pool::with_workers(1).unwrap().apply(comm, ()).unwrap();
    assert_eq!(seen.trim_end(), &name[..name.len().min(15)]);
}

fn braces_of_a_closure() {
    let (factor, pool) = (3, Pool::with_workers(1).unwrap());
    assert_eq!(pool.apply(closure!(move(factor) |x: u64| { factor * x }), (2,)).unwrap(), 6);
    assert_eq!(pool.apply(closure!(move(factor) |x: u64| -> u64 { factor * x }), (2,)).unwrap(), 6);
    assert_eq!(pool.apply(closure!(move(factor) || { *factor }), ()).unwrap(), 3);
}
