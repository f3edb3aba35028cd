//! When another worker may be started in place of one that has ended.
//!
//! A worker that ends by its own error before it is ready will most likely do so again: after three in a row the
//! pool gives up. A worker that somebody killed meanwhile says nothing about the next one, so the pool goes on, after
//! a pause that grows with each such kill: a machine out of memory must not be kept busy with starts.

use crate::process::Exit;
use std::time::{Duration, Instant};

/// How many workers in a row may end by their own error before they are ready.
const FAILED_STARTS: u32 = 3;

/// The pause after the first kill, doubled by each further one up to the longest: less than a start takes at
/// first, and then rare enough to cost a machine nothing.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What has become of the workers started last, and what follows from it.
#[derive(Debug, Default)]
pub(super) struct Hiring {
    /// Workers in a row that ended by their own error before they were ready.
    failed: u32,
    /// Workers in a row that were killed before they were ready.
    killed: u32,
    /// The end of the pause, until the empty seats are filled or meant to stay empty.
    resume: Option<Instant>,
}

impl Hiring {
    /// A worker ended at `now`. False: nobody is to be started any more.
    pub(super) fn ended(&mut self, was_ready: bool, exit: Exit, now: Instant) -> bool {
        if was_ready {
            *self = Hiring::default();
        } else if exit.is_kill() {
            let pause = PAUSE.0.saturating_mul(1 << self.killed.min(16)).min(PAUSE.1);
            self.killed = self.killed.saturating_add(1);
            self.resume = self.resume.max(Some(now + pause));
        } else {
            self.failed += 1;
        }
        self.failed < FAILED_STARTS
    }

    /// Whether there was a kill that has not been dealt with.
    pub(super) fn is_paused(&self) -> bool {
        self.resume.is_some()
    }

    /// How long the pause still lasts; zero when it is over. None: there was no kill that has not been
    /// dealt with.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        self.resume.map(|resume| resume.saturating_duration_since(now))
    }

    /// Workers in a row that were killed before they were ready.
    pub(super) fn killed(&self) -> u32 {
        self.killed
    }

    /// Nobody is missing any more.
    pub(super) fn settle(&mut self) {
        self.resume = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: Exit = Exit::Signal(9);
    const SEGV: Exit = Exit::Signal(11);

    #[test]
    fn three_errors_in_a_row_are_enough() {
        for exit in [Exit::Code(1), SEGV, Exit::Unknown] {
            let (mut hiring, now) = (Hiring::default(), Instant::now());
            assert!(hiring.ended(false, exit, now));
            assert!(hiring.ended(false, exit, now));
            // Neither forgives a kill what came before it, nor does it count.
            assert!(hiring.ended(false, KILL, now));
            assert!(!hiring.ended(false, exit, now));
        }
        let (mut hiring, now) = (Hiring::default(), Instant::now());
        for _ in 0..10 {
            assert!(hiring.ended(false, SEGV, now));
            assert!(hiring.ended(false, SEGV, now));
            assert!(hiring.ended(true, SEGV, now));
        }
        assert_eq!(hiring.rest(now), None);
    }

    #[test]
    fn kills_never_end_it_and_the_pause_grows_to_a_bound() {
        let (mut hiring, now) = (Hiring::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..100 {
            assert!(hiring.ended(false, KILL, now));
            pauses.push(hiring.rest(now).unwrap());
        }
        assert_eq!(pauses[..4], [10, 20, 40, 80].map(Duration::from_millis));
        assert!(pauses[7..].iter().all(|pause| *pause == PAUSE.1));
        assert_eq!(hiring.rest(now + PAUSE.1), Some(Duration::ZERO));
        hiring.settle();
        assert_eq!(hiring.rest(now), None);
        // One that got ready begins it anew.
        hiring.ended(true, KILL, now);
        hiring.ended(false, KILL, now);
        assert_eq!(hiring.rest(now), Some(PAUSE.0));
    }
}
