//! Real processes that die with a lock in hand, or on their way to one, at every
//! named point: the living go on.

// Slots stand on a mapping, which a model does not have.
#[path = "support/harness.rs"]
mod harness;
#[cfg(not(loom))]
#[path = "support/kin.rs"]
mod kin;

#[cfg(loom)]
fn main() {
    harness::run(&[]);
}

#[cfg(not(loom))]
fn main() {
    kin::run_if_started(tests::ROLES);
    harness::run(tests::TESTS);
}

#[cfg(not(loom))]
mod tests {
    use super::harness::Test;
    use super::kin::{Role, Stage, has_finished, launch, patiently, soon, was_killed};
    use manycore_engine::Kind;
    use manycore_engine::shm::mutex::Taken;
    use manycore_engine::shm::slots::Slot;
    use manycore_engine::sync::Ordering;
    use std::time::Instant;

    pub const ROLES: &[Role] = &[("hold", hold), ("hand over", hand_over), ("deposit", deposit), ("wait", wait)];

    pub const TESTS: &[Test] = &[
        ("a_mutex_killed_with_it_in_hand", killed_with_it_in_hand),
        ("a_mutex_whose_owner_has_ended", ended_with_it_in_hand),
        ("a_mutex_killed_before_its_wake", killed_before_its_wake),
        ("a_mutex_killed_asleep", killed_asleep),
        ("a_mutex_killed_as_it_wakes", killed_as_it_wakes),
        ("a_mutex_with_a_deadline", deadline),
        ("a_mutex_between_processes", deposits),
    ];

    fn stage() -> Slot<Stage> {
        Slot::new().unwrap()
    }

    fn lock(stage: &Stage) -> Taken {
        patiently(|| stage.mutex.lock(soon()))
    }

    /// Takes the mutex, says so, and keeps it.
    fn hold(stage: &Stage) {
        assert_eq!(lock(stage), Taken::Acquired);
        stage.step();
        loop {
            std::thread::park();
        }
    }

    /// Takes the mutex, and ends.
    fn wait(stage: &Stage) {
        let _ = lock(stage);
    }

    /// Takes the mutex, and gives it away when somebody has asked for it.
    fn hand_over(stage: &Stage) {
        assert_eq!(lock(stage), Taken::Acquired);
        stage.step();
        stage.wait_for(2);
        while !stage.mutex.is_awaited() {
            std::thread::yield_now();
        }
        stage.mutex.unlock();
    }

    fn deposit(stage: &Stage) {
        for _ in 0..2_000 {
            assert_eq!(lock(stage), Taken::Acquired);
            stage.add();
            stage.mutex.unlock();
        }
    }

    fn killed_with_it_in_hand() {
        let stage = stage();
        let owner = launch(&stage, "hold", None);
        stage.wait_for(1);
        assert_eq!(stage.mutex.try_lock(), None);
        // One waits already, one comes later.
        let waiter = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| lock(&stage));
            while !stage.mutex.is_awaited() {
                std::thread::yield_now();
            }
            owner.kill().unwrap();
            waiter.join().unwrap()
        });
        assert_eq!(waiter, Taken::Recovered);
        stage.mutex.unlock();
        was_killed(owner);
        assert_eq!(lock(&stage), Taken::Acquired);
        stage.mutex.unlock();
        assert!(!stage.mutex.is_locked());
    }

    /// Ended by itself, waited for by its parent: its number is free for others.
    fn ended_with_it_in_hand() {
        let stage = stage();
        has_finished(launch(&stage, "wait", None));
        assert_eq!(stage.mutex.try_lock(), Some(Taken::Recovered));
        stage.mutex.unlock();
    }

    fn killed_before_its_wake() {
        let stage = stage();
        let owner = launch(&stage, "hand over", Some("before-mutex-wake"));
        stage.wait_for(1);
        stage.step();
        assert_eq!(lock(&stage), Taken::Acquired, "it was unlocked, if not told");
        was_killed(owner);
    }

    fn killed_asleep() {
        let stage = stage();
        assert_eq!(lock(&stage), Taken::Acquired);
        let sleeper = launch(&stage, "wait", None);
        while !stage.mutex.is_awaited() {
            std::thread::yield_now();
        }
        sleeper.kill().unwrap();
        was_killed(sleeper);
        stage.mutex.unlock();
        assert_eq!(lock(&stage), Taken::Acquired);
    }

    /// Two sleep; one is woken and dies of it, the wake with it. The other finds out.
    fn killed_as_it_wakes() {
        let stage = stage();
        assert_eq!(lock(&stage), Taken::Acquired);
        let mortal = launch(&stage, "wait", Some("mutex-woken"));
        while !stage.mutex.is_awaited() {
            std::thread::yield_now();
        }
        let other = launch(&stage, "wait", None);
        stage.mutex.unlock();
        was_killed(mortal);
        has_finished(other);
        assert_eq!(lock(&stage), Taken::Recovered);
    }

    fn deadline() {
        let stage = stage();
        assert_eq!(lock(&stage), Taken::Acquired);
        // A thread that locks twice waits for itself.
        let outcome = stage.mutex.lock(Some(Instant::now()));
        assert_eq!(outcome.unwrap_err().kind(), Kind::Timeout);
        stage.mutex.unlock();
        assert_eq!(stage.mutex.lock(Some(Instant::now())).unwrap(), Taken::Acquired);
    }

    fn deposits() {
        let stage = stage();
        let kin = [(); 3].map(|()| launch(&stage, "deposit", None));
        deposit(&stage);
        kin.into_iter().for_each(has_finished);
        assert_eq!(stage.value.load(Ordering::Relaxed), 8_000);
    }
}
