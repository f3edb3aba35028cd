//! The only door to atomics and to parking on a shared word.
//!
//! Everything that two processes see at once imports its atomics from here, so
//! that under `cfg(loom)` the same code runs on loom's atomics and on a model
//! of the futex. Loom does not model `SeqCst` accesses, only `SeqCst` fences;
//! the protocols therefore order themselves with [`fence`].

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A fence that also orders this thread's earlier writes before its later reads.
///
/// Both ends of "publish, then look whether anybody sleeps" and "say that I
/// sleep, then look whether anything was published" need it; with weaker
/// fences both may read the old value and the sleeper is never woken.
pub fn full_fence() {
    fence(Ordering::SeqCst);
}

#[cfg(not(loom))]
pub use crate::os::park::{futex_wait, futex_wait_half, futex_wake, futex_wake_half};
#[cfg(not(loom))]
pub use names::{forks, is_gone, own_name, own_thread};

#[cfg(not(loom))]
pub use found::Found;

#[cfg(loom)]
pub use model::{die, futex_wait, futex_wait_half, futex_wake, futex_wake_half, is_gone, own_name, own_thread};

/// A plain value in shared memory whose owner is named by a state word.
///
/// Loom checks that nobody reaches it while another writes; in life it is a
/// bare `UnsafeCell` of the same layout.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Guarded<T>(Inner<T>);

#[cfg(not(loom))]
type Inner<T> = core::cell::UnsafeCell<T>;
#[cfg(loom)]
type Inner<T> = loom::cell::UnsafeCell<T>;

impl<T> Guarded<T> {
    /// A guarded `value`.
    pub fn new(value: T) -> Guarded<T> {
        Guarded(Inner::new(value))
    }

    /// Runs `read` on the address of the value.
    pub fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        #[cfg(not(loom))]
        return read(self.0.get());
        #[cfg(loom)]
        self.0.with(read)
    }

    /// Runs `write` on the address of the value.
    pub fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        #[cfg(not(loom))]
        return write(self.0.get());
        #[cfg(loom)]
        self.0.with_mut(write)
    }
}

/// One turn of a bounded spin.
pub fn spin() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

#[cfg(not(loom))]
mod names {
    //! What this process knows of names: its own, and who was alive just now.

    use super::{AtomicU64, Ordering};
    use crate::os::name;
    use rustix::time::{ClockId, clock_gettime};

    /// 0 until somebody asks, and again in a forked child.
    static OWN: AtomicU64 = AtomicU64::new(0);
    static FORKS: AtomicU64 = AtomicU64::new(0);

    /// Who was found alive lately, and when, by the clock. A name
    /// has one place, by its process number.
    static ALIVE: [(AtomicU64, AtomicU64); 64] = [const { (AtomicU64::new(0), AtomicU64::new(0)) }; 64];

    /// For how long, in nanoseconds, a process that was found alive is not looked at
    /// again: a look costs 10 to 20 microseconds, and some callers ask in a loop.
    const FRESH: u64 = 20_000_000;

    /// The name of this process; no other has it, before or after. Bit 0 is never set.
    #[inline]
    pub fn own_name() -> u64 {
        match OWN.load(Ordering::Relaxed) {
            0 => learn(),
            name => name,
        }
    }

    /// A number for this thread that no other living thread of any process has; not 0.
    #[inline]
    pub fn own_thread() -> u64 {
        thread_local! {
            static HERE: u8 = const { 0 };
        }
        // An address of its own for each thread of one process. Forked processes have
        // the same addresses, hence the name, spread over all bits: that two sums agree
        // is as likely as that two random numbers of 64 bits do.
        let here = HERE.with(|here| std::ptr::from_ref(here).addr() as u64);
        (own_name().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ here) | 1 << 63
    }

    #[cold]
    fn learn() -> u64 {
        watch_forks();
        let name = name::read_own();
        OWN.store(name, Ordering::Relaxed);
        name
    }

    fn watch_forks() {
        // Not a `Once`: a child that another thread has forked in the midst of it would wait
        // for a thread it has not. Two threads may both do it; a fork then counts as two.
        static WATCHED: AtomicU64 = AtomicU64::new(0);
        extern "C" fn before() {
            FORKS.fetch_add(1, Ordering::Relaxed);
        }
        extern "C" fn in_parent() {}
        extern "C" fn in_child() {
            OWN.store(0, Ordering::Relaxed);
        }
        if WATCHED.load(Ordering::Acquire) == 0 {
            name::at_fork(before, in_parent, in_child);
            WATCHED.store(1, Ordering::Release);
        }
    }

    /// How often this process has forked since this was first asked for.
    pub fn forks() -> u64 {
        watch_forks();
        FORKS.load(Ordering::Relaxed)
    }

    /// Whether the process called `name` has ended; a word that is nobody's name
    /// counts as gone. The answer "no" may be 20 milliseconds old.
    pub fn is_gone(name: u64) -> bool {
        let own = own_name();
        if name == own {
            return false;
        }
        let now = clock_gettime(ClockId::Monotonic);
        let now = (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64);
        let (alive, seen) = &ALIVE[(name >> 1) as usize % ALIVE.len()];
        // Two threads may mix their notes; then a look comes one time too late.
        if alive.load(Ordering::Relaxed) == name && now.wrapping_sub(seen.load(Ordering::Relaxed)) < FRESH {
            return false;
        }
        let gone = name::is_gone(name, own);
        if !gone {
            seen.store(now, Ordering::Relaxed);
            alive.store(name, Ordering::Relaxed);
        }
        gone
    }
}

#[cfg(not(loom))]
mod found {
    //! What is found out once.

    use super::{AtomicU64, Ordering};

    /// A number that whoever needs it first finds out. Two threads may both do so, and nobody
    /// waits for another: in a forked child that other might not exist.
    #[derive(Debug, Default)]
    pub struct Found(AtomicU64);

    impl Found {
        /// Not found yet.
        pub const fn new() -> Found {
            Found(AtomicU64::new(0))
        }

        /// The number; `find` says it, the same at any time, and never the largest there is.
        pub fn get(&self, find: impl FnOnce() -> u64) -> u64 {
            match self.0.load(Ordering::Relaxed) {
                0 => {
                    let number = find();
                    self.0.store(number + 1, Ordering::Relaxed);
                    number
                }
                known => known - 1,
            }
        }
    }
}

#[cfg(loom)]
mod model {
    //! The futex as loom sees it: compare and sleep are one step under a lock,
    //! and a wake of one wakes one, the first who slept on that word.
    //!
    //! A model knows no time, so a sleep with a limit ends by a wake alone, and a lost
    //! one is a deadlock. After a death time passes: such sleeps end, then and later.

    use super::{AtomicU32, AtomicU64, Ordering};
    use crate::error::{Error, Kind, Result};
    use loom::sync::{Condvar, Mutex};
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::time::Duration;

    loom::lazy_static! {
        static ref SLEEPERS: (Mutex<Sleepers>, Condvar) = (Mutex::new(Sleepers::default()), Condvar::new());
    }

    loom::thread_local! {
        static NAME: Cell<u64> = Cell::new(0);
    }

    #[derive(Default)]
    struct Sleepers {
        next: usize,
        /// The word's address, the sleeper's number, whether its sleep has a limit.
        asleep: VecDeque<(usize, usize, bool)>,
        named: u64,
        dead: Vec<u64>,
    }

    /// Sleeps while `word` holds `expected`.
    pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Result<()> {
        sleep(std::ptr::from_ref(word).addr(), timeout.is_some(), || word.load(Ordering::Relaxed) == expected)
    }

    /// Sleeps while the lower half of `word` is that of `expected`.
    pub fn futex_wait_half(word: &AtomicU64, expected: u64, timeout: Option<Duration>) -> Result<()> {
        let same = || word.load(Ordering::Relaxed) as u32 == expected as u32;
        sleep(std::ptr::from_ref(word).addr(), timeout.is_some(), same)
    }

    fn sleep(address: usize, limited: bool, same: impl FnOnce() -> bool) -> Result<()> {
        let mut sleepers = SLEEPERS.0.lock().unwrap();
        if !same() {
            return Ok(());
        }
        let mine = sleepers.next;
        sleepers.next += 1;
        sleepers.asleep.push_back((address, mine, limited));
        loop {
            if limited && !sleepers.dead.is_empty() {
                sleepers.asleep.retain(|(_, number, _)| *number != mine);
                return Err(Error::new(Kind::Timeout, "time has passed"));
            }
            sleepers = SLEEPERS.1.wait(sleepers).unwrap();
            if sleepers.asleep.iter().all(|(_, number, _)| *number != mine) {
                return Ok(());
            }
        }
    }

    /// Wakes at most `count` of those who sleep on `word`.
    pub fn futex_wake(word: &AtomicU32, count: u32) {
        wake(std::ptr::from_ref(word).addr(), count);
    }

    /// Wakes at most `count` of those who sleep on the lower half of `word`.
    pub fn futex_wake_half(word: &AtomicU64, count: u32) {
        wake(std::ptr::from_ref(word).addr(), count);
    }

    fn wake(address: usize, count: u32) {
        let mut sleepers = SLEEPERS.0.lock().unwrap();
        let mut left = count;
        sleepers.asleep.retain(|(at, _, _)| {
            let wake = *at == address && left > 0;
            left -= u32::from(wake);
            !wake
        });
        SLEEPERS.1.notify_all();
    }

    /// The name of this thread, which plays a process.
    pub fn own_name() -> u64 {
        NAME.with(|name| {
            if name.get() == 0 {
                let mut sleepers = SLEEPERS.0.lock().unwrap();
                sleepers.named += 1;
                name.set(sleepers.named << 1);
            }
            name.get()
        })
    }

    /// The number of this thread.
    pub fn own_thread() -> u64 {
        own_name()
    }

    /// Whether the thread called `name` has died.
    pub fn is_gone(name: u64) -> bool {
        SLEEPERS.0.lock().unwrap().dead.contains(&name)
    }

    /// This thread plays a process that is killed here; it may do nothing any more.
    pub fn die() {
        let name = own_name();
        SLEEPERS.0.lock().unwrap().dead.push(name);
        SLEEPERS.1.notify_all();
    }
}
