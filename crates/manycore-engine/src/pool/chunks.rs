//! How many items the next task of a map carries.
//!
//! With a chunk size from the caller: that many. Without one, chunks are sized
//! by what tasks turn out to cost: small first, to learn; then as many items as
//! take [`TARGET`], so that a million no-ops do not pay for a million tasks; and
//! never more than a share of what is left, so that the workers finish together
//! (guided self-scheduling, Polychronopoulos and Kuck 1987); and never more than fit
//! into [`LOAD`], so that what one process writes the next one finds in its cache.

/// Nanoseconds a chunk should take: fifty times what handing it over may cost.
const TARGET: f64 = 1_000_000.0;

/// Nanoseconds of an item below which its result is not kept before its chunk is done: ten times what that costs.
const QUICK: f64 = 1_000.0;

/// Nanoseconds of an item from which on its result is kept, whatever it is.
const PATIENT: f64 = 100_000.0;

/// Which results a worker leaves where they are found if it dies in the midst of their chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// None: it would cost more than a tenth of what the items take.
    Nothing,
    /// Those that cost next to nothing.
    Plain,
    /// All.
    All,
}

/// How much a chunk may grow over the largest before it: the first measurements
/// may lie.
const GROWTH: usize = 8;

/// Chunks in flight for each worker: one in hand and enough waiting that it does
/// not run dry while the caller wakes up.
const AHEAD: usize = 3;

/// Nanoseconds of work that wait for each worker at most, beyond [`AHEAD`]: whoever submits something later waits for
/// that, and not for all of a long map that was there before.
const WINDOW: f64 = 5_000_000.0;

/// Chunks for each worker before it is known what one of them takes.
const FIRST: usize = 64;

/// Bytes of a chunk's arguments or of its results, about, unless one item alone has more.
const LOAD: f64 = (2 << 20) as f64;

/// The sizes of one map's chunks.
#[derive(Debug)]
pub struct Chunks {
    fixed: Option<usize>,
    workers: usize,
    largest: usize,
    /// Nanoseconds an item takes, learned; and the slowest item seen lately.
    item: Option<f64>,
    /// Bytes an argument has, learned likewise.
    argument: f64,
    /// Bytes a result has.
    result: f64,
}

impl Chunks {
    /// Sizes for `workers` workers, all of `fixed` items where the caller says so.
    pub fn new(fixed: Option<usize>, workers: usize) -> Chunks {
        Chunks { fixed, workers: workers.max(1), largest: 0, item: None, argument: 1.0, result: 1.0 }
    }

    /// Items of the next chunk with `left` items to go and `in_flight` chunks of
    /// this map unanswered; 0 means: wait for an outcome first.
    pub fn next(&mut self, left: usize, in_flight: usize) -> usize {
        if left == 0 {
            return 0;
        }
        if let Some(fixed) = self.fixed {
            let most = match self.item {
                None => FIRST * self.workers,
                Some(item) => {
                    (AHEAD * self.workers).max((WINDOW * self.workers as f64 / (item * fixed as f64)) as usize)
                }
            };
            return if in_flight < most { fixed.min(left).min(u32::MAX as usize) } else { 0 };
        }
        if in_flight >= AHEAD * self.workers {
            return 0;
        }
        let share = left.div_ceil(2 * self.workers);
        let wanted = match self.item {
            None if in_flight >= 2 * self.workers => return 0,
            None => (left / (1024 * self.workers)).clamp(1, 64),
            Some(item) => {
                let wanted = (TARGET / item.max(1.0)) as usize;
                wanted.clamp(1, self.largest.saturating_mul(GROWTH).max(1))
            }
        };
        let light = (LOAD / self.argument.max(self.result)) as usize;
        let size = wanted.min(share).min(left).min(light).max(1);
        self.largest = self.largest.max(size);
        size
    }

    /// Which results of the next chunk are worth being [kept](super::Keeping), by what items take.
    pub fn keeping(&self) -> Keeping {
        match self.item {
            Some(item) if item < QUICK => Keeping::Nothing,
            // Twenty times what it costs to write them and to copy them once more.
            Some(item) if item < PATIENT.max(20.0 * self.result) => Keeping::Plain,
            _ => Keeping::All,
        }
    }

    /// A chunk of `items` took `elapsed` nanoseconds.
    pub fn learn(&mut self, items: usize, elapsed: u64) {
        if items == 0 || elapsed == 0 {
            return;
        }
        let now = elapsed as f64 / items as f64;
        self.item = Some(self.item.map_or(now, |item| cautious(item, now)));
    }

    /// The arguments of `items` items have `bytes` bytes.
    pub fn weigh_arguments(&mut self, items: usize, bytes: usize) {
        self.argument = cautious(self.argument, mean(items, bytes));
    }

    /// The results of `items` items have `bytes` bytes.
    pub fn weigh_results(&mut self, items: usize, bytes: usize) {
        self.result = cautious(self.result, mean(items, bytes));
    }
}

fn mean(items: usize, bytes: usize) -> f64 {
    (bytes as f64 / items.max(1) as f64).max(1.0)
}

/// A large cost counts at once, a small one only slowly: too small a chunk costs
/// microseconds, too large a one leaves a worker alone at the end.
fn cautious(before: f64, now: f64) -> f64 {
    if now > before { now } else { 0.5 * (before + now) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_dealt_once_and_the_end_is_fine_grained() {
        let mut chunks = Chunks::new(None, 2);
        let (mut left, mut last) = (200_000, 0);
        while left > 0 {
            last = chunks.next(left, 0);
            assert!(last > 0 && last <= left);
            chunks.learn(last, last as u64 * 300);
            left -= last;
        }
        assert_eq!(last, 1);
    }

    #[test]
    fn slow_items_go_one_by_one() {
        let mut chunks = Chunks::new(None, 2);
        assert_eq!(chunks.next(200, 0), 1);
        chunks.learn(1, 10_000_000);
        assert_eq!(chunks.next(199, 1), 1);
    }

    #[test]
    fn heavy_items_go_few_by_few() {
        let mut chunks = Chunks::new(None, 2);
        let first = chunks.next(100_000, 0);
        chunks.learn(first, 1);
        chunks.weigh_results(1, 1 << 18);
        (0..40).for_each(|_| chunks.weigh_arguments(1, 8));
        assert_eq!(chunks.next(100_000, 0), 8);
        chunks.weigh_arguments(1, 1 << 30);
        assert_eq!(chunks.next(100_000, 0), 1);
        (0..40).for_each(|_| chunks.weigh_arguments(1, 8));
        (0..40).for_each(|_| chunks.weigh_results(1, 8));
        assert!(chunks.next(100_000, 0) > 4);
    }

    #[test]
    fn a_fixed_size_is_kept_to() {
        let mut chunks = Chunks::new(Some(7), 2);
        assert_eq!((chunks.next(20, 100), chunks.next(6, 100), chunks.next(0, 0)), (7, 6, 0));
    }

    #[test]
    fn what_waits_is_measured_in_time() {
        let mut chunks = Chunks::new(Some(1), 2);
        chunks.learn(1, 500);
        assert_eq!(chunks.next(100_000, 10_000), 1);
        chunks.learn(1, 10_000_000);
        assert_eq!((chunks.next(100_000, 5), chunks.next(100_000, 6)), (1, 0));
    }
}
