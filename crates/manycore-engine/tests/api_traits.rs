//! Which public types may cross and be shared between threads: part of the
//! contract, and easily lost by a new field.

#![cfg(not(loom))]

use manycore_engine::error::{Error, Kind};
use manycore_engine::os::image::Image;
use manycore_engine::os::packets::Packets;
use manycore_engine::pool::{
    Answer, Exit, Function, Job, Lease, Loss, Message, Next, Outcome, Payload, Pool, Region, Room, Segment, Task,
    Verdict, Woken, Work, Worker,
};
use manycore_engine::process::{Bell, Child, Event, Supervisor};
use manycore_engine::shm::arena::{Allocator, BlockRef, Part};
use manycore_engine::shm::barrier::{Arrival, Barrier};
use manycore_engine::shm::channel::Channel;
use manycore_engine::shm::condition::Condition;
use manycore_engine::shm::doorbell::Doorbell;
use manycore_engine::shm::event::Event as Flag;
use manycore_engine::shm::kept::Kept;
use manycore_engine::shm::lock::{Lock, RecursiveLock};
use manycore_engine::shm::mutex::{Mutex, Taken};
use manycore_engine::shm::plain::PlainBytes;
use manycore_engine::shm::queue::Queue;
use manycore_engine::shm::rwlock::RwLock;
use manycore_engine::shm::semaphore::Semaphore;
use manycore_engine::shm::slots::{Slot, Slots, SlotsId};
use manycore_engine::shm::state::State;
use manycore_engine::shm::task::{Entry, Slip};

fn send_sync<T: Send + Sync>() {}

/// Ambiguous, so it does not compile, when `$type` has `$trait`.
macro_rules! assert_not {
    ($type:ty, $trait:path) => {
        const _: fn() = || {
            trait Ambiguous<A> {
                fn item() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            impl<T: ?Sized + $trait> Ambiguous<u8> for T {}
            let _ = <$type as Ambiguous<_>>::item;
        };
    };
}

#[test]
fn what_threads_may_share() {
    // The caller's side: any thread may submit, wait and take.
    send_sync::<Channel>();
    send_sync::<Pool>();
    send_sync::<Job>();
    send_sync::<Function>();
    send_sync::<Outcome>();
    send_sync::<Answer>();
    send_sync::<Loss>();
    send_sync::<Payload>();
    send_sync::<Lease>();
    send_sync::<Region>();
    // The worker's side: one thread at a time, which `&mut self` sees to.
    send_sync::<Worker>();
    send_sync::<Task>();
    send_sync::<Next>();
    // Processes.
    send_sync::<Child>();
    send_sync::<Supervisor>();
    send_sync::<Bell>();
    send_sync::<Packets>();
    send_sync::<&'static Image>();
    // What processes use together.
    send_sync::<RwLock>();
    send_sync::<Kept<RwLock, *const u8>>();
    send_sync::<PlainBytes>();
    // What is sent: copied by a thread that may have given its lock away.
    send_sync::<(Segment, Message<'static>, Work<'static>)>();
    // Plain values.
    send_sync::<(Error, Kind, Exit, Event, Room, Verdict, Woken, BlockRef, Slip)>();
    // Shared words.
    send_sync::<(State, Doorbell, Allocator, Part<'static>)>();
    // Locks, and where they stand.
    send_sync::<(Mutex, Taken, Slot<Mutex>, Slots, SlotsId)>();
    send_sync::<(Lock, RecursiveLock, Semaphore, Flag, Condition, Barrier, Arrival)>();
}

// Cells whose holder a state word names: only a region shares them.
assert_not!(Entry, Sync);
assert_not!(Queue<'static>, Send);
assert_not!(Queue<'static>, Sync);
