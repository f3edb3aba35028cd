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
    use super::kin::{Role, Stage, has_finished, launch, patiently, soon, until, was_killed};
    use manycore_engine::Kind;
    use manycore_engine::shm::barrier::Arrival;
    use manycore_engine::shm::lobby::Call;
    use manycore_engine::shm::mutex::Taken;
    use manycore_engine::shm::slots::Slot;
    use manycore_engine::sync::Ordering;
    use std::time::Instant;

    pub const ROLES: &[Role] = &[
        ("hold", hold),
        ("hand over", hand_over),
        ("deposit", deposit),
        ("take the mutex", take),
        ("take it three times", take_three_times),
        ("acquire", acquire),
        ("acquire and release", acquire_and_release),
        ("release", release),
        ("set the event", |stage| stage.event.set()),
        ("await the event", await_event),
        ("await a notification", await_notification),
        ("notify", notify),
        ("meet", meet),
        ("meet and act", meet_and_act),
        ("toil", toil),
    ];

    pub const TESTS: &[Test] = &[
        ("a_mutex_killed_with_it_in_hand", killed_with_it_in_hand),
        ("a_mutex_whose_owner_has_ended", ended_with_it_in_hand),
        ("a_mutex_killed_before_its_wake", killed_before_its_wake),
        ("a_mutex_killed_asleep", killed_asleep),
        ("a_mutex_killed_as_it_wakes", killed_as_it_wakes),
        ("a_mutex_with_a_deadline", deadline),
        ("a_mutex_between_processes", deposits),
        ("a_recursive_lock_killed_with_it_in_hand", recursive),
        ("a_semaphore_whose_holder_has_ended", units_come_back),
        ("a_semaphore_killed_as_it_takes", || killed_inside_a_semaphore("semaphore-taking")),
        ("a_semaphore_killed_as_it_gives", || killed_inside_a_semaphore("semaphore-giving")),
        ("a_semaphore_killed_before_its_wake", || killed_around_a_wake("release", "before-semaphore-wake")),
        ("a_semaphore_killed_as_it_wakes", || killed_around_a_wake("acquire", "semaphore-woken")),
        ("a_semaphore_that_counts_events", events_do_not_come_back),
        ("a_semaphore_released_for_the_dead", released_for_the_dead),
        ("an_event_killed_before_its_wake", event_before_wake),
        ("an_event_killed_as_it_wakes", event_woken),
        ("a_condition_killed_as_it_is_notified", || notified_dead("waiter-called")),
        ("a_condition_killed_as_it_wakes", || notified_dead("waiter-woken")),
        ("a_condition_killed_asleep", condition_asleep),
        ("a_condition_killed_before_its_wake", notifier_dies),
        ("a_barrier_killed_waiting", barrier_waiting),
        ("a_barrier_killed_as_it_calls", barrier_calling),
        ("a_barrier_killed_acting", barrier_acting),
        ("random_kills", random_kills),
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
    fn take(stage: &Stage) {
        let _ = lock(stage);
    }

    /// Takes the mutex, and gives it away when somebody has asked for it.
    fn hand_over(stage: &Stage) {
        assert_eq!(lock(stage), Taken::Acquired);
        stage.step();
        stage.wait_for(2);
        until(|| stage.mutex.is_awaited());
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
            until(|| stage.mutex.is_awaited());
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
        has_finished(launch(&stage, "take the mutex", None));
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
        let sleeper = launch(&stage, "take the mutex", None);
        until(|| stage.mutex.is_awaited());
        sleeper.kill().unwrap();
        was_killed(sleeper);
        stage.mutex.unlock();
        assert_eq!(lock(&stage), Taken::Acquired);
    }

    /// Two sleep; one is woken and dies of it, the wake with it. The other finds out.
    fn killed_as_it_wakes() {
        let stage = stage();
        assert_eq!(lock(&stage), Taken::Acquired);
        let mortal = launch(&stage, "take the mutex", Some("mutex-woken"));
        until(|| stage.mutex.is_awaited());
        let other = launch(&stage, "take the mutex", None);
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

    fn take_three_times(stage: &Stage) {
        for _ in 0..3 {
            assert_eq!(patiently(|| stage.recursive.lock(soon())), Taken::Acquired);
        }
        assert_eq!(stage.recursive.depth(), 3);
    }

    fn recursive() {
        let stage = stage();
        has_finished(launch(&stage, "take it three times", None));
        assert!(!stage.recursive.is_mine() && !stage.recursive.release());
        assert_eq!(patiently(|| stage.recursive.lock(soon())), Taken::Recovered);
        assert_eq!(stage.recursive.depth(), 1);
        assert!(stage.recursive.release() && !stage.recursive.release());
        assert!(!stage.recursive.is_locked());
    }

    // --- semaphores ---

    fn semaphore(value: u32) -> Slot<Stage> {
        let stage = stage();
        stage.semaphore.begin(value, 10);
        stage
    }

    fn acquire(stage: &Stage) {
        patiently(|| stage.semaphore.acquire(soon()));
    }

    fn acquire_and_release(stage: &Stage) {
        acquire(stage);
        release(stage);
    }

    fn release(stage: &Stage) {
        assert!(patiently(|| stage.semaphore.release()));
    }

    fn units_come_back() {
        let stage = semaphore(2);
        has_finished(launch(&stage, "acquire", None));
        has_finished(launch(&stage, "acquire", None));
        assert_eq!(stage.semaphore.value(), 0);
        // By a wait, and by an attempt that does not wait.
        acquire(&stage);
        has_finished(launch(&stage, "acquire", None));
        assert!(patiently(|| stage.semaphore.try_acquire()));
        assert!(!patiently(|| stage.semaphore.try_acquire()), "two units, not more");
        release(&stage);
        release(&stage);
        assert_eq!(stage.semaphore.value(), 2);
        assert!(!stage.semaphore.counts_events());
    }

    fn killed_inside_a_semaphore(point: &str) {
        let stage = semaphore(2);
        was_killed(launch(&stage, "acquire and release", Some(point)));
        acquire(&stage);
        acquire(&stage);
        assert!(!patiently(|| stage.semaphore.try_acquire()));
    }

    /// One unit, and two that want it: one dies of the wake, or the one who gives it does.
    fn killed_around_a_wake(role: &str, point: &str) {
        let stage = semaphore(0);
        let mortal = launch(&stage, role, Some(point));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| acquire(&stage));
            if role == "acquire" {
                // Woken, it dies; who came first is not known, so there is a unit for each.
                until(|| stage.semaphore.sleepers() == 2);
                release(&stage);
                release(&stage);
            }
            waiter.join().unwrap();
        });
        // Dead of the wake, unless it saw the unit before it slept.
        let exit = mortal.wait().unwrap();
        assert!(matches!(exit, manycore_engine::process::Exit::Signal(9) | manycore_engine::process::Exit::Code(0)));
    }

    fn events_do_not_come_back() {
        let stage = semaphore(0);
        release(&stage);
        has_finished(launch(&stage, "acquire", None));
        assert!(stage.semaphore.counts_events());
        assert!(!patiently(|| stage.semaphore.try_acquire()), "an event happened once");
        has_finished(launch(&stage, "release", None));
        assert!(patiently(|| stage.semaphore.try_acquire()));
    }

    /// One acquires and ends, another releases for it, as between a worker and its waiter.
    fn released_for_the_dead() {
        let stage = semaphore(1);
        has_finished(launch(&stage, "acquire", None));
        acquire(&stage);
        has_finished(launch(&stage, "release", None));
        assert_eq!(stage.semaphore.value(), 0, "the unit came back once, not twice");
        release(&stage);
        assert_eq!(stage.semaphore.value(), 1);
    }

    // --- events ---

    fn await_event(stage: &Stage) {
        patiently(|| stage.event.wait(soon()));
    }

    fn event_before_wake() {
        let stage = stage();
        let waiter = launch(&stage, "await the event", None);
        until(|| stage.event.is_awaited());
        was_killed(launch(&stage, "set the event", Some("before-event-wake")));
        has_finished(waiter);
    }

    fn event_woken() {
        let stage = stage();
        let mortal = launch(&stage, "await the event", Some("event-woken"));
        until(|| stage.event.is_awaited());
        let other = launch(&stage, "await the event", None);
        stage.event.set();
        was_killed(mortal);
        has_finished(other);
    }

    // --- conditions ---

    fn await_notification(stage: &Stage) {
        let index = patiently(|| stage.condition.join());
        patiently(|| stage.condition.wait(index, soon()));
    }

    fn notify(stage: &Stage) {
        patiently(|| stage.condition.notify(1));
    }

    /// The first one is notified and dies with it: the second one gets it.
    fn notified_dead(point: &str) {
        let stage = stage();
        let mortal = launch(&stage, "await a notification", Some(point));
        until(|| stage.condition.sleeping() == 1);
        let heir = launch(&stage, "await a notification", None);
        until(|| stage.condition.waiting() == 2);
        notify(&stage);
        was_killed(mortal);
        has_finished(heir);
        assert_eq!(stage.condition.waiting(), 0);
    }

    fn condition_asleep() {
        let stage = stage();
        let mortal = launch(&stage, "await a notification", None);
        until(|| stage.condition.sleeping() == 1);
        mortal.kill().unwrap();
        was_killed(mortal);
        let other = launch(&stage, "await a notification", None);
        until(|| stage.condition.waiting() == 2 || stage.condition.sleeping() == 1);
        // To the dead one first, if nobody has noticed yet.
        notify(&stage);
        has_finished(other);
    }

    /// The notifier dies with the condition's own mutex in hand.
    fn notifier_dies() {
        let stage = stage();
        let waiter = launch(&stage, "await a notification", None);
        until(|| stage.condition.sleeping() == 1);
        was_killed(launch(&stage, "notify", Some("before-waiter-wake")));
        has_finished(waiter);
        assert_eq!(patiently(|| stage.condition.notify(1)), 0);
    }

    // --- barriers ---

    fn barrier(parties: u32) -> Slot<Stage> {
        let stage = stage();
        stage.barrier.begin(parties);
        stage
    }

    fn arrive(stage: &Stage, acts: bool) -> Call {
        match patiently(|| stage.barrier.arrive(acts, soon())) {
            Arrival::Wait(index, _) => patiently(|| stage.barrier.wait(index, soon())),
            Arrival::Last(_) => {
                stage.step();
                stage.wait_for(2);
                patiently(|| stage.barrier.open());
                Call::Come
            }
            Arrival::Passed(_) => Call::Come,
            Arrival::Broken => Call::Away,
        }
    }

    fn meet(stage: &Stage) {
        arrive(stage, false);
    }

    fn meet_and_act(stage: &Stage) {
        arrive(stage, true);
    }

    fn barrier_waiting() {
        let stage = barrier(3);
        let mortal = launch(&stage, "meet", None);
        until(|| stage.barrier.waiting() == 1);
        mortal.kill().unwrap();
        was_killed(mortal);
        assert_eq!(arrive(&stage, false), Call::Away);
        assert!(stage.barrier.is_broken());
        assert_eq!(arrive(&stage, false), Call::Away);
        patiently(|| stage.barrier.reset());
        let others = [(); 2].map(|()| launch(&stage, "meet", None));
        assert_eq!(arrive(&stage, false), Call::Come);
        others.into_iter().for_each(has_finished);
    }

    /// The last one dies as it lets the others go: one of them does the rest.
    fn barrier_calling() {
        let stage = barrier(2);
        let waiter = launch(&stage, "meet", None);
        until(|| stage.barrier.waiting() == 1);
        was_killed(launch(&stage, "meet", Some("barrier-calling")));
        has_finished(waiter);
        assert!(!stage.barrier.is_broken());
        assert_eq!(stage.barrier.waiting(), 0);
    }

    fn barrier_acting() {
        let stage = barrier(2);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| arrive(&stage, true));
            until(|| stage.barrier.waiting() == 1);
            let actor = launch(&stage, "meet and act", None);
            stage.wait_for(1);
            // One of the next group, which cannot gather before this one has gone.
            let next = scope.spawn(|| arrive(&stage, true));
            actor.kill().unwrap();
            was_killed(actor);
            assert_eq!(waiter.join().unwrap(), Call::Away);
            assert_eq!(next.join().unwrap(), Call::Away);
        });
    }

    // --- all of them ---

    /// Uses a mutex and a semaphore until it is killed.
    fn toil(stage: &Stage) {
        loop {
            let taken = lock(stage);
            let value = stage.value.load(Ordering::Relaxed);
            if taken == Taken::Acquired {
                assert_eq!(value, stage.copy.load(Ordering::Relaxed), "somebody else is inside");
            }
            stage.value.store(value + 1, Ordering::Relaxed);
            stage.copy.store(value + 1, Ordering::Relaxed);
            stage.mutex.unlock();
            acquire(stage);
            stage.step();
            release(stage);
        }
    }

    /// Killed anywhere: the others go on, and in the end everything is there.
    fn random_kills() {
        let stage = semaphore(2);
        let mut kin: Vec<_> = (0..3).map(|_| launch(&stage, "toil", None)).collect();
        let mut random = 12345u32;
        for _ in 0..60 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            stage.wait_for(stage.steps() + 1 + (random >> 24));
            let victim = kin.remove(random as usize % kin.len());
            victim.kill().unwrap();
            was_killed(victim);
            kin.push(launch(&stage, "toil", None));
        }
        for victim in kin {
            victim.kill().unwrap();
            was_killed(victim);
        }
        let _ = lock(&stage);
        acquire(&stage);
        acquire(&stage);
        assert!(!patiently(|| stage.semaphore.try_acquire()), "two units, not more");
        assert!(!stage.semaphore.counts_events());
    }
}
