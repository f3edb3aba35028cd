//! Tasks that run longer than they may.
//!
//! Workers write down no times: one that is out of control could write any, and every
//! task would pay for it. Instead the caller looks from time to time what each worker
//! runs, and measures from its own first sight of it. See "Taking tasks back" in README.md.

use super::caller::Pool;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What was seen running, by seat, and since when.
#[derive(Debug, Default)]
pub struct Sightings(HashMap<u16, Sighting>);

#[derive(Clone, Copy, Debug)]
struct Sighting {
    position: u64,
    reached: u64,
    since: Instant,
}

impl Pool {
    /// Looks what the workers run and revokes every task that has been seen running for
    /// `limit`, in its present [reach](super::Worker::reach): it fails with
    /// [`Loss::Expired`](super::Loss::Expired) when its worker is buried. Gives the seats of those
    /// workers: they answer nothing any more, and the caller ends them.
    ///
    /// A task never fails before its time; how long after, depends on how often this is called.
    pub fn expire(&self, sightings: &mut Sightings, limit: Duration) -> Vec<u16> {
        let mut ledger = self.ledger();
        // After the look at the ledger's lock, which may have taken its time: a task
        // cannot have run for longer than since this moment, if it is new.
        let running = ledger.running(&self.region);
        let now = Instant::now();
        let mut seats = Vec::new();
        let seen = running.into_iter().map(|(seat, position)| {
            let reached = self.region.reached(seat);
            let known = sightings.0.get(&seat).filter(|known| (known.position, known.reached) == (position, reached));
            let sighting = known.copied().unwrap_or(Sighting { position, reached, since: now });
            if now.duration_since(sighting.since) >= limit && ledger.expire(&self.region, seat, position) {
                seats.push(seat);
            }
            (seat, sighting)
        });
        sightings.0 = seen.collect();
        seats
    }
}
