//! Count how many numbers of each row lie between 4 and 8: serially, by every verb of a pool, by procspawn's pool, and
//! by rayon's threads for contrast.
//!
//! `cargo run --release --example tutorial_count_in_range`; a number of rows may follow, 200 000 without one.
//!
//! A row is counted in a few nanoseconds, so the table shows what a call costs, not what it computes. The last lines
//! show the way out: rows in slices of some thousands, which travel as they lie in memory.

use manycore::{Pool, Result, Slice, closure};
use rayon::prelude::*;
use std::time::{Duration, Instant};

type Row = [i64; 5];

const ROUNDS: usize = 5;

fn howmany_within_range(row: Row, minimum: i64, maximum: i64) -> usize {
    row.into_iter().filter(|number| (minimum..=maximum).contains(number)).count()
}

/// The same with the limits as they are, because `map` passes one argument.
fn howmany_within_range_rowonly(row: Row) -> usize {
    howmany_within_range(row, 4, 8)
}

/// The same for many rows at once.
fn howmany_in_rows(rows: Slice<Row>) -> Slice<u8> {
    rows.iter().map(|row| howmany_within_range_rowonly(*row) as u8).collect()
}

/// The same for another crate's processes.
fn howmany_in_copied_rows(rows: Vec<Row>) -> Vec<usize> {
    rows.into_iter().map(howmany_within_range_rowonly).collect()
}

/// Rows of digits; the same ones each time.
fn digits(rows: usize) -> Vec<Row> {
    let mut state = 100u64;
    let mut digit = || {
        // Knuth's MMIX generator: the high bits are good enough for digits.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % 10) as i64
    };
    (0..rows).map(|_| std::array::from_fn(|_| digit())).collect()
}

/// Times `run`, which counts all rows; the best of a few rounds.
fn report(
    name: &str,
    serial: Option<Duration>,
    expected: &[usize],
    run: impl Fn() -> Result<Vec<usize>>,
) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let counts = run()?;
        best = best.min(begin.elapsed());
        assert!(counts == expected, "{name}: the counts differ from the serial loop's");
    }
    let times = serial.map_or(1.0, |serial| best.as_secs_f64() / serial.as_secs_f64());
    println!("   {name:<32} {:>10.2} ms {times:>9.2}x", best.as_secs_f64() * 1e3);
    Ok(best)
}

fn main() -> Result<()> {
    manycore::init();
    procspawn::init();
    let count = std::env::args().nth(1).map_or(200_000, |argument| argument.parse().expect("a number of rows"));
    let rows = digits(count);
    let expected: Vec<usize> = rows.iter().map(|row| howmany_within_range_rowonly(*row)).collect();
    let pool = Pool::new()?;
    println!("{count} rows, the first: {:?}; {} workers; the best of {ROUNDS} rounds", rows[0], pool.workers());

    let count_all = || Ok(rows.iter().map(|row| howmany_within_range(*row, 4, 8)).collect());
    let serial = report("serial loop", None, &expected, count_all)?;
    let report = |name, run: &dyn Fn() -> Result<Vec<usize>>| report(name, Some(serial), &expected, run);

    report("apply", &|| rows.iter().map(|row| pool.apply(howmany_within_range, (*row, 4, 8))).collect())?;
    report("map", &|| pool.map(howmany_within_range_rowonly, rows.iter().copied()))?;
    let (minimum, maximum) = (4, 8);
    let bound = closure!(move(minimum, maximum) |row: Row| howmany_within_range(row, *minimum, *maximum));
    report("map, limits captured", &|| pool.map(bound.clone(), rows.iter().copied()))?;
    report("starmap", &|| pool.starmap(howmany_within_range, rows.iter().map(|row| (*row, 4, 8))))?;
    report("imap", &|| pool.imap(howmany_within_range_rowonly, rows.iter().copied())?.collect())?;
    report("imap, chunks of 1000", &|| {
        let counts = pool.imap(howmany_within_range_rowonly, rows.iter().copied())?;
        counts.chunksize(1000).buffersize(16_000).collect()
    })?;
    report("apply_async", &|| {
        let tickets = rows.iter().map(|row| pool.apply_async(howmany_within_range, (*row, 4, 8)));
        tickets.collect::<Result<Vec<_>>>()?.into_iter().map(|ticket| ticket.get()).collect()
    })?;
    report("map_async", &|| pool.map_async(howmany_within_range_rowonly, rows.iter().copied())?.get())?;
    report("starmap_async", &|| pool.starmap_async(howmany_within_range, rows.iter().map(|row| (*row, 4, 8)))?.get())?;
    report("rayon: threads, nothing travels", &|| {
        Ok(rows.par_iter().map(|row| howmany_within_range(*row, 4, 8)).collect())
    })?;

    let peers = procspawn::Pool::new(pool.workers()).expect("procspawn's pool");
    report("procspawn: calls of 5000 rows", &|| {
        let calls: Vec<_> = rows.chunks(5000).map(|rows| peers.spawn(rows.to_vec(), howmany_in_copied_rows)).collect();
        Ok(calls.into_iter().flat_map(|call| call.join().expect("procspawn's counts")).collect())
    })?;

    let rows: Slice<Row> = rows.clone().into();
    report("map, slices of 5000 rows", &|| {
        let counts = pool.map(howmany_in_rows, rows.chunks_of(5000))?;
        Ok(counts.iter().flat_map(|counts| counts.iter().map(|count| usize::from(*count))).collect())
    })?;
    Ok(())
}
