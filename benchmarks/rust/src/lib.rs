//! Contests: several ways to do one thing, timed in turn, and printed as ratios.
//!
//! Interleaved rounds, so that what else the machine does hits all of them; medians, so
//! that a single hiccup hits none.

use std::time::{Duration, Instant};

type Run<'a> = Box<dyn FnMut() -> Duration + 'a>;

/// Several ways to do one thing.
pub struct Contest<'a> {
    title: String,
    /// How often the thing is done in one run.
    times: u32,
    ways: Vec<(String, Run<'a>)>,
}

impl<'a> Contest<'a> {
    /// A contest without contestants; each run of one does the thing `times` times.
    pub fn new(title: impl Into<String>, times: u32) -> Contest<'a> {
        Contest { title: title.into(), times, ways: Vec::new() }
    }

    /// Adds a way; `run` does the thing `times` times. The first way added is what
    /// the others are compared with.
    pub fn way(mut self, name: impl Into<String>, mut run: impl FnMut() + 'a) -> Contest<'a> {
        let timed = move || {
            let start = Instant::now();
            run();
            start.elapsed()
        };
        self.ways.push((name.into(), Box::new(timed)));
        self
    }

    /// Runs every way once to warm up, then all in turn `rounds` times, and prints the
    /// medians.
    pub fn run(mut self, rounds: usize) {
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); self.ways.len()];
        for round in 0..=rounds {
            for ((_, run), times) in self.ways.iter_mut().zip(&mut times) {
                let time = run();
                if round > 0 {
                    times.push(time);
                }
            }
        }
        println!("{} (medians of {rounds} interleaved rounds)", self.title);
        let medians: Vec<f64> = times
            .into_iter()
            .map(|mut times| {
                times.sort();
                times[times.len() / 2].as_secs_f64() / f64::from(self.times)
            })
            .collect();
        for ((name, _), median) in self.ways.iter().zip(&medians) {
            println!("    {name:<40} {:>12.3} µs   {:>8.2}x", median * 1e6, median / medians[0]);
        }
    }
}
