//! `Pool::map` where everything goes well, or fails by what the tasks themselves do.
//!
//! The program brings its own main: it must be able to be the worker.

#![forbid(unsafe_code)]

mod support;

use manycore::Pool;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn square(x: u64) -> u64 {
    x * x
}

fn nothing(_: ()) {}

fn add((a, b): (i64, i64)) -> i64 {
    a + b
}

fn process(_: u32) -> u32 {
    std::process::id()
}

fn late_when_early(x: u64) -> u64 {
    if x < 4 {
        std::thread::sleep(Duration::from_millis(20));
    }
    x
}

fn panic_on_seven(x: u32) -> u32 {
    assert!(x % 10 != 7, "seven is not served: {x}");
    x
}

fn give_up(x: u32) -> Result<u32, String> {
    if x == 2 { Err("two is too many".to_owned()) } else { Ok(x) }
}

fn count(words: Vec<String>) -> BTreeMap<String, usize> {
    words.into_iter().fold(BTreeMap::new(), |mut counts, word| {
        *counts.entry(word).or_default() += 1;
        counts
    })
}

fn reverse(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.reverse();
    bytes
}

fn first<T>(items: Vec<T>) -> Option<T> {
    items.into_iter().next()
}

fn squares_of_squares(n: u64) -> Vec<u64> {
    let pool = Pool::with_workers(2).expect("a pool inside a task");
    pool.map(square, (0..n).map(square)).expect("a map inside a task")
}

fn run_in_process(_: ()) -> String {
    format!("{:?}", std::thread::current().name())
}

#[manycore::task]
fn registered(x: u8) -> u8 {
    x + 1
}

mod elsewhere {
    /// The same name as the function above, and another function.
    pub(crate) fn square(x: u64) -> u64 {
        x * x + 1
    }
}

fn main() {
    manycore::init();
    support::run(support::tests![
        map_keeps_the_order,
        results_wait_for_their_turn,
        nothing_to_do,
        units_travel,
        all_kinds_of_values,
        functions_of_one_name,
        tasks_run_elsewhere,
        many_tiny_tasks,
        a_large_payload,
        a_panic_is_an_error,
        the_earliest_failure_counts,
        a_result_may_be_an_error,
        closures_travel,
        captures_travel,
        two_pools,
        threads_share_a_pool,
        a_pool_inside_a_task,
    ]);
}

fn pool() -> Pool {
    Pool::with_workers(2).unwrap()
}

fn map_keeps_the_order() {
    let squares: Vec<u64> = pool().map(square, 0..1000u64).unwrap();
    assert_eq!(squares, (0..1000).map(square).collect::<Vec<_>>());
}

fn results_wait_for_their_turn() {
    assert_eq!(pool().map(late_when_early, 0..100).unwrap(), (0..100).collect::<Vec<_>>());
}

fn nothing_to_do() {
    assert_eq!(pool().map(square, []).unwrap(), []);
    assert_eq!(pool().workers(), 2);
    assert!(Pool::with_workers(0).is_err() && Pool::with_workers(1 << 16).is_err());
}

fn units_travel() {
    assert_eq!(pool().map(nothing, [(); 1000]).unwrap(), [(); 1000]);
}

fn all_kinds_of_values() {
    let pool = pool();
    assert_eq!(pool.map(add, [(1, 2), (i64::MIN, i64::MAX)]).unwrap(), [3, -1]);
    let words = ["a", "b", "a"].map(str::to_owned).to_vec();
    let counts = pool.map(count, [words, vec![]]).unwrap();
    assert_eq!(counts, [BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]), BTreeMap::new()]);
    assert_eq!(pool.map(first::<u8>, [vec![], vec![7, 8]]).unwrap(), [None, Some(7)]);
    assert_eq!(pool.map(first::<String>, [vec!["x".to_owned()]]).unwrap(), [Some("x".to_owned())]);
}

fn functions_of_one_name() {
    let pool = pool();
    assert_eq!(pool.map(square, [3]).unwrap(), [9]);
    assert_eq!(pool.map(elsewhere::square, [3]).unwrap(), [10]);
}

fn tasks_run_elsewhere() {
    let pool = pool();
    let processes: BTreeSet<u32> = pool.map(process, 0..500).unwrap().into_iter().collect();
    assert!(!processes.contains(&std::process::id()) && processes.len() <= 2, "{processes:?}");
    assert_eq!(pool.map(run_in_process, [()]).unwrap(), [r#"Some("main")"#]);
}

fn many_tiny_tasks() {
    let sum: u64 = pool().map(square, 0..200_000u64).unwrap().into_iter().sum();
    assert_eq!(sum, (0..200_000u64).map(square).sum());
}

fn a_large_payload() {
    let bytes: Vec<u8> = (0..64usize << 20).map(|i| (i % 251) as u8).collect();
    let mut expected = bytes.clone();
    expected.reverse();
    let mut reversed = pool().map(reverse, [bytes]).unwrap();
    assert!(reversed.pop().unwrap() == expected);
}

fn a_panic_is_an_error() {
    let pool = pool();
    let line = include_str!("pool.rs").lines().position(|line| line.contains("assert!(x % 10 != 7")).unwrap() + 1;
    let error = pool.map(panic_on_seven, 0..9).unwrap_err();
    let text = error.to_string();
    assert!(error.is_panic() && error.item() == Some(7), "{text}");
    assert!(text.contains("panic_on_seven") && text.contains("item 7: seven is not served: 7"), "{text}");
    assert!(text.contains(&format!("pool.rs:{line}:")), "{text}");
    // The worker lives on.
    let before: BTreeSet<u32> = pool.map(process, 0..100).unwrap().into_iter().collect();
    assert!(pool.map(panic_on_seven, [7]).unwrap_err().is_panic());
    let after: BTreeSet<u32> = pool.map(process, 0..100).unwrap().into_iter().collect();
    assert!(before.union(&after).count() <= 2);
}

fn the_earliest_failure_counts() {
    let pool = pool();
    for _ in 0..20 {
        assert_eq!(pool.map(panic_on_seven, 0..10_000).unwrap_err().item(), Some(7));
    }
}

fn a_result_may_be_an_error() {
    let results = pool().map(give_up, 1..4).unwrap();
    assert_eq!(results, [Ok(1), Err("two is too many".to_owned()), Ok(3)]);
}

fn closures_travel() {
    let pool = pool();
    assert_eq!(pool.map(|x: u64| x * x, 0..4).unwrap(), [0, 1, 4, 9]);
    assert_eq!(pool.map(|x: u64| x + 1, 0..4).unwrap(), [1, 2, 3, 4]);
    assert_eq!(pool.map(registered, [1]).unwrap(), [2]);
    assert_eq!(pool.map(first::<char>, [vec!['x']]).unwrap(), [Some('x')]);
}

fn captures_travel() {
    let pool = pool();
    // More jobs than the worker keeps functions of.
    for factor in 0..50u64 {
        let words = vec!["a".to_owned(); factor as usize];
        let task = manycore::closure!(move(factor, words) |x: u64| -> u64 { factor * x + words.len() as u64 });
        assert_eq!(pool.map(task, 0..3).unwrap(), [factor, 2 * factor, 3 * factor]);
    }
}

fn two_pools() {
    let (one, other) = (pool(), pool());
    let first: BTreeSet<u32> = one.map(process, 0..100).unwrap().into_iter().collect();
    let second: BTreeSet<u32> = other.map(process, 0..100).unwrap().into_iter().collect();
    assert!(first.is_disjoint(&second));
    drop(one);
    assert_eq!(other.map(square, [5]).unwrap(), [25]);
}

fn threads_share_a_pool() {
    let pool = pool();
    std::thread::scope(|scope| {
        for start in 0..4u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..10 {
                    let items = (start..).step_by(4).take(5_000 + round);
                    let expected: Vec<u64> = items.clone().map(square).collect();
                    assert_eq!(pool.map(square, items).unwrap(), expected);
                }
            });
        }
    });
}

fn a_pool_inside_a_task() {
    let nested = pool().map(squares_of_squares, [0, 3, 4]).unwrap();
    assert_eq!(nested, [vec![], vec![0, 1, 16], vec![0, 1, 16, 81]]);
}
