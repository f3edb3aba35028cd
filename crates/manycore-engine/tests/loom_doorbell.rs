//! Sleeping and waking, in every order: a model in which somebody sleeps for ever
//! is a deadlock, which loom reports. See "The doorbell" in src/shm/README.md.

mod support;

use support::{Table, model, process};

/// One worker goes to sleep while the caller publishes.
#[test]
fn a_sleeper_hears_what_is_published() {
    model(3, || {
        let table = Table::new(2);
        let worker = process(&table, |table| table.work(1));
        table.publish(0, 10);
        table.doorbell.published(&table.queue(), false);
        assert_eq!(worker.join().unwrap(), Some((0, 10)));
    });
}

/// Two workers go to sleep while two tasks are published; a wake of one wakes one.
#[test]
fn two_sleepers_get_two_tasks() {
    model(2, || {
        let table = Table::new(2);
        let workers = [1u16, 2].map(|seat| process(&table, move |table| table.work(seat)));
        for index in 0..2 {
            table.publish(index, index as u64);
            table.doorbell.published(&table.queue(), false);
        }
        let mut tasks = workers.map(|worker| worker.join().unwrap());
        tasks.sort();
        assert_eq!(tasks, [Some((0, 0)), Some((1, 1))]);
    });
}

/// The caller counts on a spinner that is just leaving: the sleeper is woken by
/// whoever of the two comes last.
#[test]
fn a_spinner_that_leaves_hands_on_what_it_was_counted_on_for() {
    model(3, || {
        let table = Table::new(2);
        let spinner = process(&table, |table| {
            assert!(table.doorbell.may_spin(1));
            let task = if table.queue().waiting() > 0 { table.claim(1) } else { None };
            table.doorbell.stop_spinning(1, &table.queue());
            task
        });
        let sleeper = process(&table, |table| table.work(2));
        table.publish(0, 10);
        table.doorbell.published(&table.queue(), false);
        let by_spinner = spinner.join().unwrap();
        if by_spinner.is_some() {
            table.doorbell.close();
        }
        assert_eq!(by_spinner.or(sleeper.join().unwrap()), Some((0, 10)));
    });
}

/// A spinner takes one task and a second one comes meanwhile: the sleeper gets it.
#[test]
fn a_spinner_with_full_hands_wakes_a_sleeper() {
    model(2, || {
        let table = Table::new(2);
        let spinner = process(&table, |table| {
            assert!(table.doorbell.may_spin(1));
            let task = table.claim(1);
            table.doorbell.stop_spinning(1, &table.queue());
            u32::from(task.is_some())
        });
        let sleeper = process(&table, |table| std::iter::from_fn(|| table.work(2)).count() as u32);
        for index in 0..2 {
            table.publish(index, 10);
            table.doorbell.published(&table.queue(), false);
        }
        let by_spinner = spinner.join().unwrap();
        table.doorbell.close();
        assert_eq!(by_spinner + sleeper.join().unwrap(), 2);
    });
}

/// At most one worker spins.
#[test]
fn one_spinner_at_a_time() {
    model(3, || {
        let table = Table::new(2);
        let other = process(&table, |table| table.doorbell.may_spin(1));
        let mine = table.doorbell.may_spin(2);
        assert!(mine != other.join().unwrap());
    });
}

/// Closing wakes everybody, and nobody goes while a task waits.
#[test]
fn closing_is_heard_and_the_queue_is_emptied_first() {
    model(2, || {
        let table = Table::new(2);
        let workers = [1u16, 2].map(|seat| {
            process(&table, move |table| std::iter::from_fn(|| table.work(seat)).map(|(_, task)| task).sum::<u64>())
        });
        table.publish(0, 10);
        table.doorbell.published(&table.queue(), false);
        table.doorbell.close();
        assert_eq!(workers.map(|worker| worker.join().unwrap()).iter().sum::<u64>(), 10);
    });
}

/// The caller goes to sleep while two workers finish.
#[test]
fn the_sleeping_caller_hears_every_outcome() {
    model(2, || {
        let table = Table::new(2);
        table.publish(0, 10);
        table.publish(1, 11);
        let workers = [1u16, 2].map(|seat| {
            process(&table, move |table| {
                let (index, task) = table.claim(seat).unwrap();
                table.finish(seat, index, task);
                table.push(index);
            })
        });
        let mut outcomes = table.wait();
        while outcomes.len() < 2 {
            outcomes.extend(table.wait());
        }
        outcomes.sort();
        assert_eq!(outcomes, [(0, 10), (1, 11)]);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

/// Of the workers that finish during one sleep at most one rings.
#[test]
fn one_ring_a_sleep() {
    model(3, || {
        let table = Table::new(2);
        table.doorbell.caller_sleeps();
        let other = process(&table, |table| table.doorbell.finished());
        let mine = table.doorbell.finished();
        assert!(mine != other.join().unwrap());
    });
}

/// The spinner dies at its post, and the caller had counted on it.
#[test]
fn a_dead_spinner_is_buried() {
    model(3, || {
        let table = Table::new(2);
        let dying = process(&table, |table| assert!(table.doorbell.may_spin(1)));
        let sleeper = process(&table, |table| table.work(2));
        table.publish(0, 10);
        table.doorbell.published(&table.queue(), false);
        dying.join().unwrap();
        table.doorbell.bury(1, &table.queue());
        assert_eq!(sleeper.join().unwrap(), Some((0, 10)));
        assert!(table.doorbell.may_spin(3), "the post of the dead is free again");
    });
}

/// A sleeper dies after it was woken for a task and before it claimed it: the
/// wake went with it, and the burial gives another.
#[test]
fn a_dead_sleepers_wake_is_given_again() {
    a_lost_wake(|table| table.doorbell.bury(1, &table.queue()));
}

/// A sleeper is stopped after it was woken for a task and before it claimed it: the
/// caller looks again, and wakes another.
#[test]
fn a_stopped_sleepers_wake_is_given_again() {
    a_lost_wake(|table| table.doorbell.remind(&table.queue()));
}

/// One of two sleepers takes a wake and does nothing; `mend` is what the caller does then.
fn a_lost_wake(mend: impl Fn(&Table) + Clone + Send + Sync + 'static) {
    model(2, move || {
        let table = Table::new(2);
        let idle = process(&table, |table| table.doorbell.sleep(&table.queue(), None).unwrap());
        let mend = mend.clone();
        let caller = process(&table, move |table| {
            idle.join().unwrap();
            mend(table);
        });
        let sleeper = process(&table, |table| table.work(2));
        table.publish(0, 10);
        table.doorbell.published(&table.queue(), false);
        assert_eq!(sleeper.join().unwrap(), Some((0, 10)));
        // Where the wake went to the other, the idle one still sleeps.
        table.doorbell.close();
        caller.join().unwrap();
    });
}

/// A spinner is stopped at its post, and the caller had counted on it.
#[test]
fn a_stopped_spinner_is_not_waited_for() {
    model(3, || {
        let table = Table::new(2);
        assert!(table.doorbell.may_spin(1));
        let sleeper = process(&table, |table| table.work(2));
        table.publish(0, 10);
        table.doorbell.published(&table.queue(), false);
        table.doorbell.remind(&table.queue());
        assert_eq!(sleeper.join().unwrap(), Some((0, 10)));
    });
}
