//! How long to look for a message before going to sleep for it.
//!
//! A sleep and its wake cost 25 µs, and 70 on a busy machine; a message that is
//! answered at once takes 2. So a receiver spins for a little longer than messages
//! have lately taken to come, as long as that keeps paying; where it does not, it
//! tries again now and then, ever more rarely. A miss costs what it has learned to
//! wait, not the longest wait there may be: on a machine whose processors are all
//! taken, the sender needs the one we would spin on.

use crate::os::cpus;
use crate::sync::{AtomicU32, Ordering};
use std::time::Duration;

/// Nanoseconds to spin: this long at least, and this long at most, which is what a trial gets.
const SPIN: (u32, u32) = (5_000, 60_000);
/// A spin lasts so many times what messages have taken.
const MARGIN: u32 = 3;
/// What a message that came in time is worth, in misses; and how many misses are allowed at most.
const HIT: u32 = 2;
const CREDIT: u32 = 8;
/// Two that both sleep make each other look slow. So each tries again after so many
/// sleeps, and after a miss twice as many.
const TRIAL: (u32, u32) = (16, 1024);

/// What one receiver has learned. Threads may share it: a lost update costs accuracy.
#[derive(Debug)]
pub(super) struct Patience {
    /// Misses that are still allowed.
    credit: AtomicU32,
    /// Nanoseconds that messages took to come which came in time.
    typical: AtomicU32,
    /// Sleeps since the last trial, and how many there are from one to the next.
    slept: AtomicU32,
    period: AtomicU32,
}

impl Default for Patience {
    fn default() -> Patience {
        let word = AtomicU32::new;
        Patience { credit: word(HIT), typical: word(SPIN.1 / 4), slept: word(0), period: word(TRIAL.0) }
    }
}

impl Patience {
    /// How long to spin before the next sleep, if at all.
    pub(super) fn budget(&self) -> Option<Duration> {
        if !more_than_one_processor() {
            return None;
        }
        if self.credit.load(Ordering::Relaxed) > 0 {
            let spin = self.typical.load(Ordering::Relaxed).saturating_mul(MARGIN).clamp(SPIN.0, SPIN.1);
            return Some(Duration::from_nanos(spin.into()));
        }
        let slept = self.slept.load(Ordering::Relaxed) + 1;
        let due = slept >= self.period.load(Ordering::Relaxed);
        self.slept.store(if due { 0 } else { slept }, Ordering::Relaxed);
        due.then(|| Duration::from_nanos(SPIN.1.into()))
    }

    /// A message came while we spun, after `waited`.
    pub(super) fn hit(&self, waited: Duration) {
        let waited = u32::try_from(waited.as_nanos()).unwrap_or(SPIN.1).min(SPIN.1);
        let typical = self.typical.load(Ordering::Relaxed);
        self.typical.store(typical - typical / 4 + waited / 4, Ordering::Relaxed);
        let credit = self.credit.load(Ordering::Relaxed);
        self.credit.store((credit + HIT).min(CREDIT), Ordering::Relaxed);
        self.period.store(TRIAL.0, Ordering::Relaxed);
    }

    /// We spun for nothing.
    pub(super) fn miss(&self) {
        let credit = self.credit.load(Ordering::Relaxed);
        if credit > 0 {
            self.credit.store(credit - 1, Ordering::Relaxed);
            return;
        }
        let period = self.period.load(Ordering::Relaxed);
        self.period.store((2 * period).min(TRIAL.1), Ordering::Relaxed);
    }
}

/// With one processor the sender cannot run while we spin.
fn more_than_one_processor() -> bool {
    static MORE: crate::sync::Found = crate::sync::Found::new();
    MORE.get(|| u64::from(cpus::usable() > 1)) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many waits begin with a spin that misses.
    fn misses(patience: &Patience, waits: u32) -> u32 {
        let mut spun = 0;
        for _ in 0..waits {
            if patience.budget().is_some() {
                patience.miss();
                spun += 1;
            }
        }
        spun
    }

    #[test]
    fn an_idle_receiver_hardly_spins_and_a_quick_sender_is_found_again() {
        if !more_than_one_processor() {
            return;
        }
        let patience = Patience::default();
        for _ in 0..100 {
            patience.hit(Duration::from_micros(2));
        }
        assert!(patience.budget().unwrap() < Duration::from_micros(12));
        assert!(misses(&patience, 10_000) < 30);
        let found = (0..2 * TRIAL.1).find(|_| patience.budget().is_some());
        assert!(found.is_some(), "it tries again");
        patience.hit(Duration::from_micros(30));
        assert!((0..HIT).all(|_| patience.budget().is_some()));
    }

    #[test]
    fn no_wait_makes_it_spin_longer_than_the_most() {
        let patience = Patience::default();
        for _ in 0..100 {
            patience.hit(Duration::MAX);
            assert!(patience.budget().is_none_or(|budget| budget <= Duration::from_nanos(SPIN.1.into())));
        }
    }
}
