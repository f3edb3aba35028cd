//! How many numbers of each range are prime: in a loop, then in a pool.
//!
//! `cargo run --release --example count_in_range`

use manycore::Pool;
use std::ops::Range;
use std::time::{Duration, Instant};

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

fn count_in_range(range: Range<u64>) -> usize {
    range.filter(|n| is_prime(*n)).count()
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (run(), start.elapsed())
}

fn main() -> manycore::Result<()> {
    manycore::init();
    let ranges: Vec<_> = (0..200u64).map(|i| i * 20_000..(i + 1) * 20_000).collect();

    let (expected, serial) = timed(|| ranges.iter().cloned().map(count_in_range).collect::<Vec<_>>());
    let (pool, start) = timed(Pool::new);
    let pool = pool?;
    let (counts, parallel) = timed(|| pool.map(count_in_range, ranges));
    let counts = counts?;
    assert_eq!(counts, expected);

    println!("primes: {}, in the first ranges {:?}", counts.iter().sum::<usize>(), &counts[..5]);
    println!("loop:   {:6.1} ms", serial.as_secs_f64() * 1e3);
    println!("start:  {:6.1} ms, {} workers", start.as_secs_f64() * 1e3, pool.workers());
    println!("map:    {:6.1} ms", parallel.as_secs_f64() * 1e3);
    Ok(())
}
