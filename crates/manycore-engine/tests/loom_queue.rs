//! The task table and the queue over it, in every order. See "The queue" in
//! src/shm/README.md for what is proved here.

mod support;

use manycore_engine::shm::state::{CALLER, Claim, Phase};
use std::collections::BTreeSet;
use support::{Table, model, process, thread};

/// Two workers and two tasks: each task goes to exactly one, whole.
#[test]
fn each_task_is_claimed_once() {
    model(3, || {
        let table = Table::new(2);
        let workers = [1u16, 2].map(|seat| process(&table, move |table| [table.claim(seat), table.claim(seat)]));
        table.publish(0, 10);
        table.publish(1, 11);
        let mut tasks: Vec<_> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).flatten().collect();
        while let Some(task) = table.claim(CALLER) {
            tasks.push(task);
        }
        tasks.sort();
        assert_eq!(tasks, [(0, 10), (1, 11)]);
    });
}

/// A worker that dies between its claim and the step of the head: the others
/// help, and the entry names it.
#[test]
fn a_death_before_the_head_moves_blocks_nobody() {
    model(3, || {
        let table = Table::new(2);
        table.publish(0, 10);
        let dying = process(&table, |table| table.queue().entry(0).unwrap().state.claim(1, 0));
        let living = process(&table, |table| [table.claim(2), table.claim(2)]);
        table.publish(1, 11);
        let dead_has_it = dying.join().unwrap() == Claim::Taken;
        let mut tasks: BTreeSet<_> = living.join().unwrap().into_iter().flatten().collect();
        while let Some(task) = table.claim(CALLER) {
            tasks.insert(task);
        }
        assert_eq!(dead_has_it, !tasks.contains(&(0, 10)));
        assert!(tasks.contains(&(1, 11)));
        let seat = table.queue().entry(0).unwrap().state.phase();
        assert_eq!(dead_has_it, seat == Phase::Running(1));
    });
}

/// A ring of one place: the worker that claimed died before it moved the head,
/// and the caller, which answers the task and reuses the entry, moves it itself.
#[test]
fn the_caller_helps_a_head_that_stands_still() {
    model(3, || {
        let table = Table::new(1);
        table.publish(0, 10);
        assert_eq!(table.queue().entry(0).unwrap().state.claim(1, 0), Claim::Taken);
        let living = process(&table, |table| table.claim(2).or_else(|| table.claim(2)));
        table.queue().entry(0).unwrap().state.free();
        table.publish(0, 11);
        let task = living.join().unwrap().or_else(|| table.claim(CALLER));
        assert_eq!(task, Some((0, 11)));
        assert_eq!(table.queue().waiting(), 0);
    });
}

/// Two workers push what they finished while the caller takes: each outcome
/// arrives once and whole.
#[test]
fn each_outcome_arrives_once() {
    model(3, || {
        let table = Table::new(2);
        table.publish(0, 10);
        table.publish(1, 11);
        let workers = [1u16, 2].map(|seat| {
            process(&table, move |table| {
                let (index, task) = table.claim(seat).unwrap();
                table.finish(seat, index, task + 100);
                table.push(index);
            })
        });
        let mut outcomes = table.take();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        outcomes.extend(table.take());
        outcomes.sort();
        assert_eq!(outcomes, [(0, 110), (1, 111)]);
    });
}

/// A worker that dies between finish and push: its outcome is found by the
/// entry's state, and the stack stays whole for the others.
#[test]
fn an_outcome_that_was_not_pushed_is_found() {
    model(3, || {
        let table = Table::new(2);
        table.publish(0, 10);
        table.publish(1, 11);
        let dying = process(&table, |table| {
            let (index, task) = table.claim(1).unwrap();
            table.finish(1, index, task + 100);
            index
        });
        let living = process(&table, |table| {
            let (index, task) = table.claim(2).unwrap();
            table.finish(2, index, task + 100);
            table.push(index);
        });
        let mut outcomes = table.take();
        let index = dying.join().unwrap();
        // The burial: what was pushed first, then what still names the dead.
        outcomes.extend(table.take());
        assert_eq!(table.queue().entry(index).unwrap().state.phase(), Phase::Done(1));
        outcomes.push((index, table.outcome(index)));
        living.join().unwrap();
        outcomes.extend(table.take());
        outcomes.sort();
        assert_eq!(outcomes, [(0, 110), (1, 111)]);
    });
}

/// An entry is finished, taken and published again under a new position while a
/// late claimer still has the old one in its hand: it claims the new one whole or nothing.
#[test]
fn a_late_claimer_cannot_take_an_entry_under_its_old_position() {
    model(3, || {
        let table = Table::new(2);
        table.publish(0, 10);
        let late = process(&table, |table| table.claim(2));
        let quick = process(&table, |table| {
            let (index, task) = table.claim(1)?;
            table.finish(1, index, task + 100);
            table.push(index);
            Some(task)
        });
        let mut outcomes = table.take();
        let reused = outcomes == [(0, 110)];
        if reused {
            table.publish(0, 11);
        }
        let mut claimed: Vec<u64> = late.join().unwrap().into_iter().map(|(_, task)| task).collect();
        claimed.extend(quick.join().unwrap());
        claimed.extend(table.claim(CALLER).map(|(_, task)| task));
        outcomes.extend(table.take());
        claimed.sort();
        assert_eq!(claimed, if reused { vec![10, 11] } else { vec![10] });
        assert!(outcomes.len() <= 2);
    });
}

/// The caller withdraws what nobody has claimed while a worker claims.
#[test]
fn a_task_is_withdrawn_or_run_never_both() {
    model(3, || {
        let table = Table::new(2);
        table.publish(0, 10);
        let worker = process(&table, |table| table.claim(1));
        let withdrawn = table.claim(CALLER);
        let run = worker.join().unwrap();
        assert!(withdrawn.is_some() != run.is_some());
        thread::yield_now();
    });
}

/// The caller takes back a certain task while a worker claims: never both, and the
/// other one runs; the entry is used again once the head is past it, and that task runs once.
#[test]
fn a_withdrawn_task_never_runs_and_its_neighbours_do() {
    model(3, || {
        let table = Table::new(2);
        table.publish(0, 10);
        table.publish(1, 11);
        let worker = process(&table, |table| [table.claim(1), table.claim(1)]);
        let withdrawn = table.queue().withdraw(1, 1);
        let reused = withdrawn && table.queue().pass(1);
        if reused {
            table.queue().entry(1).unwrap().state.free();
            table.publish(1, 12);
        }
        let mut tasks: Vec<u64> = worker.join().unwrap().into_iter().flatten().map(|(_, task)| task).collect();
        while let Some((_, task)) = table.claim(CALLER) {
            tasks.push(task);
        }
        tasks.sort();
        let wanted: &[u64] = match (withdrawn, reused) {
            (false, _) => &[10, 11],
            (true, false) => &[10],
            (true, true) => &[10, 12],
        };
        assert_eq!(tasks, wanted);
        assert!(table.queue().pass(1), "the head is stuck");
    });
}

/// A full ring with a withdrawn task in it, whose entry is not used before the head is
/// past it: making room steps over nobody's task.
#[test]
fn room_is_not_made_over_a_task_that_waits() {
    model(3, || {
        let table = Table::new(3);
        table.publish(0, 10);
        table.publish(1, 11);
        table.publish(2, 12);
        assert!(table.queue().withdraw(1, 1));
        let worker = process(&table, |table| table.claim(1));
        if table.queue().pass(1) {
            table.queue().entry(1).unwrap().state.free();
            table.publish(1, 13);
        }
        let mut tasks: Vec<u64> = worker.join().unwrap().into_iter().map(|(_, task)| task).collect();
        let mut reused = table.queue().entry(1).unwrap().state.phase() == Phase::Queued;
        while let Some((_, task)) = table.claim(CALLER) {
            tasks.push(task);
        }
        reused |= tasks.contains(&13);
        tasks.sort();
        assert_eq!(tasks, if reused { vec![10, 12, 13] } else { vec![10, 12] });
    });
}

/// The caller revokes a task while its worker finishes it: one of them gets its way,
/// and a worker that does not takes nothing else.
#[test]
fn a_task_is_finished_or_revoked_never_both() {
    model(3, || {
        let table = Table::new(2);
        table.publish(0, 10);
        table.publish(1, 11);
        let worker = process(&table, |table| {
            let (index, task) = table.claim(1).unwrap();
            table.entry(index).fill(|slip| slip.elapsed = task + 100);
            if !table.entry(index).state.finish(1) {
                return None;
            }
            table.push(index);
            table.claim(1)
        });
        let revoked = table.entry(0).state.revoke(1, 0);
        let next = worker.join().unwrap();
        let finished = table.take();
        assert_eq!(finished, if revoked { vec![] } else { vec![(0, 110)] });
        assert_eq!(next, if revoked { None } else { Some((1, 11)) });
        if revoked {
            assert_eq!(table.entry(0).state.phase(), Phase::Revoked(1));
        }
        // Too late for the next one under the old position.
        assert!(!table.entry(0).state.revoke(1, 0) && !table.entry(1).state.revoke(1, 0));
    });
}

/// The caller puts an urgent task before those that wait: it withdraws all of them, moves the head past every position,
/// and publishes them anew, while a worker claims. Each runs once, and the urgent one before those that were put behind it.
#[test]
fn what_waits_is_put_in_another_order() {
    model(3, || {
        let table = Table::new(3);
        table.publish(0, 10);
        table.publish(1, 11);
        let worker = process(&table, |table| [table.claim(1), table.claim(1)]);
        let withdrawn: Vec<usize> = (0..2).filter(|entry| table.queue().withdraw(*entry, *entry as u64)).collect();
        table.queue().pass_all();
        table.publish(2, 12);
        for entry in &withdrawn {
            table.queue().publish(*entry);
        }
        let mut tasks: Vec<u64> = worker.join().unwrap().into_iter().flatten().map(|(_, task)| task).collect();
        while let Some((_, task)) = table.claim(CALLER) {
            tasks.push(task);
        }
        let place = |task| tasks.iter().position(|claimed| *claimed == task);
        assert!(tasks.len() == 3 && withdrawn.iter().all(|entry| place(12) < place(10 + *entry as u64)), "{tasks:?}");
    });
}
