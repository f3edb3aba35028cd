//! The keeper: the thread that brings on what nobody waits for.
//!
//! It starts with a pool's first asynchronous call. As long as it has no job to
//! look after, it sleeps and is woken by deaths alone: outcomes for threads that wait
//! for themselves do not wake it. It looks after
//!
//! - jobs that are not all in shared memory yet, until they are;
//! - jobs for which a future waits, to wake it;
//! - jobs whose tasks may ask for descriptors, until they have run: nobody may hold the ticket.
//!
//! A thread that waits for a ticket takes the job from the keeper and brings it on by itself.

use crate::map::Step;
use crate::shared::Shared;
use manycore_engine::pool::{Pool, Woken};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// A job that the keeper can look after.
pub(crate) trait Kept: Send + Sync {
    /// Brings it on as far as it goes without waiting.
    fn tend(&self) -> Step;
}

/// What the keeper has to do.
#[derive(Default)]
pub(crate) struct Keeper {
    state: Mutex<State>,
    /// The list of jobs has changed, or the keeper is to stop.
    called: AtomicBool,
}

#[derive(Default)]
struct State {
    jobs: HashMap<u64, Job>,
    thread: Option<JoinHandle<()>>,
    stopped: bool,
}

struct Job {
    kept: Arc<dyn Kept>,
    /// Everything is submitted: to be tended only when an outcome has arrived.
    fed: bool,
}

impl Keeper {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no job is left to it.
    pub(crate) fn is_idle(&self) -> bool {
        self.state().jobs.is_empty()
    }

    fn call(&self, pool: &Pool) {
        self.called.store(true, Ordering::SeqCst);
        pool.wake_keeper();
        pool.nudge();
    }

    /// Ends the thread. Nobody looks after jobs any more.
    pub(crate) fn stop(&self, pool: &Pool) {
        let thread = {
            let mut state = self.state();
            state.stopped = true;
            state.thread.take()
        };
        self.call(pool);
        // A waker that the keeper calls may drop the pool.
        if let Some(thread) = thread.filter(|keeper| keeper.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }

    /// The jobs that are to be tended: a new one always is, since it may not be fed.
    fn due(&self, is_due: impl Fn(&u64, &Job) -> bool) -> Vec<(u64, Arc<dyn Kept>)> {
        let state = self.state();
        let due = state.jobs.iter().filter(|(key, job)| is_due(key, job));
        due.map(|(key, job)| (*key, Arc::clone(&job.kept))).collect()
    }

    fn settle(&self, key: u64, step: Step) {
        let mut state = self.state();
        if step == Step::Done {
            state.jobs.remove(&key);
        } else if let Some(job) = state.jobs.get_mut(&key) {
            job.fed = step == Step::Owed;
        }
    }
}

impl Shared {
    /// Starts the keeper's thread, if it does not run.
    pub(crate) fn start_keeper(self: &Arc<Shared>) -> crate::Result<()> {
        let mut state = self.keeper.state();
        if state.thread.is_none() && !state.stopped {
            let shared = Arc::clone(self);
            let thread = thread::Builder::new().name("manycore-keeper".to_owned()).spawn(move || run(&shared));
            state.thread = Some(thread.map_err(|error| {
                let message = format!("starting a thread for the pool's asynchronous calls: {error}");
                crate::Error::new(crate::error::Kind::System, message)
            })?);
        }
        Ok(())
    }

    /// Leaves job `key` to the keeper.
    pub(crate) fn keep(&self, key: u64, kept: Arc<dyn Kept>) {
        {
            let mut state = self.keeper.state();
            if state.jobs.contains_key(&key) {
                return;
            }
            state.jobs.insert(key, Job { kept, fed: false });
        }
        self.engine.keep(key, true);
        self.keeper.call(&self.engine);
    }

    /// Takes job `key` from the keeper, for a thread that brings it on by itself.
    pub(crate) fn release(&self, key: u64) {
        let job = self.keeper.state().jobs.remove(&key);
        if job.is_some() {
            self.engine.keep(key, false);
            self.keeper.call(&self.engine);
        }
    }
}

fn run(shared: &Shared) {
    let (keeper, pool) = (&shared.keeper, &shared.engine);
    loop {
        // Before the look at what there is to do: what comes after it is not missed.
        keeper.called.store(false, Ordering::SeqCst);
        let stopped = keeper.state().stopped;
        let seen = pool.events();
        let news: HashSet<u64> = pool.take_news().into_iter().collect();
        for (key, kept) in keeper.due(|key, job| stopped || !job.fed || news.contains(key)) {
            keeper.settle(key, kept.tend());
        }
        // After the last look: the pool has ended before, so every job has, and its future is woken.
        if stopped {
            return;
        }
        let (idle, hungry) = {
            let state = keeper.state();
            (state.jobs.is_empty(), state.jobs.values().any(|job| !job.fed))
        };
        if idle {
            shared.tell_who_joins();
        }
        let called = || keeper.called.load(Ordering::SeqCst);
        let woken = match () {
            () if called() => continue,
            () if idle => pool.doze(),
            () => pool.wait_as_keeper(hungry.then_some(seen), &called),
        };
        match woken {
            Ok(Woken::Ready) => {}
            Ok(Woken::Exits | Woken::Vacant) => shared.crew.bury(),
            Err(error) if error.kind() == manycore_engine::Kind::Interrupted => shared.crew.look_after(),
            // Damage: nobody could be answered any more, so everybody is now.
            Err(error) => {
                shared.crew.give_up(error.into());
                keeper.state().stopped = true;
            }
        }
    }
}
