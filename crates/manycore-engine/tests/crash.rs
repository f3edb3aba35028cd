//! Real worker processes, killed at every named point of the protocols and at
//! random: every task is answered, exactly what the dead had in hand is lost, the
//! pool goes on, and nothing is left behind.

// The engine has no pool in a model, so there is nothing to kill.
#[cfg(not(loom))]
#[path = "support/face.rs"]
mod face;
#[path = "support/harness.rs"]
mod harness;

#[cfg(loom)]
fn main() {
    harness::run(&[]);
}

#[cfg(not(loom))]
fn main() {
    face::run_if_started();
    harness::run(tests::TESTS);
}

#[cfg(not(loom))]
mod tests {
    use super::face::{Face, Mode, judge, launch_caller};
    use super::harness::Test;
    use manycore_engine::pool::{Exit, Job, JobOptions, Loss, Message, Pool, Woken, Worker};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::pipe::{PipeFlags, pipe_with};
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::collections::{BTreeMap, BTreeSet};
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::Instant;

    const KILLED: Exit = Exit::Signal(9);

    pub const TESTS: &[Test] = &[
        ("killed_after_claim", || killed_at("after-claim", true)),
        ("killed_mid_payload", || killed_at("mid-payload", true)),
        ("killed_before_finish", || killed_at("before-finish", true)),
        ("killed_before_push", || killed_at("before-push", false)),
        ("killed_after_push", || killed_at("after-push", false)),
        ("killed_before_finish_of_a_small_task", killed_with_a_small_task),
        ("killed_at_start_up", killed_at_start_up),
        ("killed_at_every_start_up", killed_at_every_start_up),
        ("a_keeper_hears_of_empty_seats", a_keeper_hears_of_empty_seats),
        ("a_pool_whose_workers_never_start_gives_up", || never_starting("exit", Exit::Code(3))),
        ("a_pool_whose_workers_crash_in_their_start_gives_up", || never_starting("abort", Exit::Signal(6))),
        ("killed_spinning", || killed_at("spinning", false)),
        ("killed_when_woken", killed_when_woken),
        ("stopped_spinning", || stopped_at("spinning")),
        ("stopped_when_woken", || stopped_at("woken")),
        ("killed_asleep", killed_asleep),
        ("killed_while_stuck", killed_while_stuck),
        ("a_worker_that_exits", a_worker_that_exits),
        ("every_worker_dies_at_once", every_worker_dies_at_once),
        ("a_seat_is_watched_for_its_new_worker", buried_unasked),
        ("random_kills", random_kills),
        ("closing_empties_the_queue", closing_empties_the_queue),
        ("a_full_table_takes_no_more_and_loses_nothing", full_table),
        ("a_killed_caller_takes_its_workers_along", || killed_caller(None)),
        ("a_caller_killed_before_publish_takes_its_workers_along", || killed_caller(Some("before-publish"))),
        ("termination_answers_everything", termination_answers_everything),
        ("cancelled_in_the_queue", cancelled_in_the_queue),
        ("cancelled_behind_a_dead_claimer", cancelled_behind_a_dead_claimer),
        ("cancelled_while_it_runs", cancelled_while_it_runs),
        ("cancelled_and_finished_at_once", cancelled_and_finished_at_once),
        ("expired", expired),
        ("welcomed", welcomed),
    ];

    fn descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    /// Runs `test` on a new pool and looks afterwards for what it left.
    fn on_a_pool(seats: u16, test: impl FnOnce(Face)) {
        let before = descriptors();
        test(Face::new(seats));
        assert_eq!(descriptors(), before, "descriptors are left");
        let children = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
        assert_eq!(children.err(), Some(Errno::CHILD), "children are left");
    }

    fn lost(outcomes: &BTreeMap<u64, Option<Loss>>) -> Vec<(u64, u32, Exit)> {
        let lost = outcomes.iter().filter_map(|(number, loss)| Some((*number, loss.as_ref()?)));
        lost.map(|(number, loss)| match loss {
            Loss::Worker { pid, exit, .. } => (number, *pid, *exit),
            other => panic!("task {number}: {other:?}"),
        })
        .collect()
    }

    /// The pool still works, with as many workers as before, and holds nothing.
    fn goes_on(face: &mut Face) {
        for mode in [Mode::Small, Mode::Large] {
            assert_eq!(lost(&face.map(0..200, mode)), []);
        }
        face.children.keys().for_each(|seat| face.wait_until_ready(*seat));
        face.assert_nothing_held();
    }

    /// A victim that is alone at first, so it has the first task in hand.
    fn killed_at(point: &str, loses: bool) {
        on_a_pool(2, |mut face| {
            let victim = face.launch(Some(point));
            let pid = face.children[&victim].pid();
            let outcomes = face.map(0..50, Mode::Large);
            let wanted = if loses { vec![(0, pid, KILLED)] } else { Vec::new() };
            assert_eq!(lost(&outcomes), wanted);
            // Who dies idle may have answered everything before.
            face.wait_for_deaths(1);
            assert_eq!(face.dead, [(pid, KILLED)]);
            face.launch(None);
            goes_on(&mut face);
            face.close();
        });
    }

    /// A worker that is alone with its post or its wake, and stopped: the other gets the tasks.
    fn stopped_at(point: &str) {
        on_a_pool(2, |mut face| {
            let victim = face.launch_stopping(point);
            face.wait_until_ready(victim);
            let other = face.launch(None);
            face.wait_until_ready(other);
            let stat = format!("/proc/{}/stat", face.children[&victim].pid());
            let is_stopped = || std::fs::read_to_string(&stat).unwrap().contains(") T ");
            // One at a time: two would wake two.
            for number in 0.. {
                assert_eq!(lost(&face.map(number..number + 1, Mode::Small)), []);
                if number > 5 && is_stopped() {
                    break;
                }
            }
            face.children[&victim].kill().unwrap();
            face.wait_for_deaths(1);
            goes_on(&mut face);
            face.close();
        });
    }

    /// It dies with the wake for a task, which it has not claimed.
    fn killed_when_woken() {
        on_a_pool(1, |mut face| {
            face.launch(Some("woken"));
            let mut number = 0;
            while face.dead.is_empty() {
                assert_eq!(lost(&face.map(number..number + 1, Mode::Small)), []);
                number += 1;
            }
            goes_on(&mut face);
            face.close();
        });
    }

    fn killed_with_a_small_task() {
        on_a_pool(1, |mut face| {
            let victim = face.launch(Some("before-finish"));
            let pid = face.children[&victim].pid();
            assert_eq!(lost(&face.map(0..50, Mode::Small)), [(0, pid, KILLED)]);
            goes_on(&mut face);
            face.close();
        });
    }

    fn killed_at_start_up() {
        on_a_pool(2, |mut face| {
            face.launch(Some("start-up"));
            assert_eq!(lost(&face.map(0..50, Mode::Large)), []);
            assert_eq!(face.dead.len(), 1);
            goes_on(&mut face);
            face.close();
        });
    }

    fn never_starting(how: &str, exit: Exit) {
        on_a_pool(3, |mut face| {
            face.refill = false;
            // Leaves a pause, at whose end nobody is to be started.
            face.launch(Some("start-up"));
            face.wait_for_deaths(1);
            (0..3).for_each(|_| {
                face.launch_failing(how);
            });
            let job = face.pool.open_job(JobOptions::default());
            (0..20).for_each(|number| face.submit(&job, number, Mode::Small));
            let mut answered = 0;
            face.drain(&job, |_, outcome| {
                answered += 1;
                let loss = judge(outcome);
                assert!(matches!(loss, Some(Loss::Start { exit: how, report: None, .. }) if how == exit), "{loss:?}");
            });
            assert_eq!(answered, 20);
            assert!(face.pool.broken().is_some());
            assert!(face.pool.may_hire() && !face.pool.is_vacant());
            face.assert_nothing_held();
        });
    }

    /// Somebody kills workers in their start, more often than it may fail: nothing is lost.
    fn killed_at_every_start_up() {
        on_a_pool(2, |mut face| {
            face.doomed = 6;
            face.launch(Some("start-up"));
            face.launch(Some("start-up"));
            assert_eq!(lost(&face.map(0..50, Mode::Large)), []);
            assert!(face.pool.broken().is_none());
            face.wait_for_deaths(8);
            while face.children.len() < 2 {
                std::thread::yield_now();
                face.bury();
            }
            goes_on(&mut face);
            face.close();
        });
    }

    /// The keeper is told of the end of a pause as soon as there is a task, and not before.
    fn a_keeper_hears_of_empty_seats() {
        on_a_pool(1, |mut face| {
            face.launch(Some("start-up"));
            face.refill = false;
            face.wait_for_deaths(1);
            // Rung by the burial, which cannot know whether somebody else waits.
            assert_eq!(face.pool.doze().unwrap(), Woken::Ready);
            let job = face.pool.open_job(JobOptions::default());
            std::thread::scope(|scope| {
                let keeper = scope.spawn(|| while face.pool.doze().unwrap() != Woken::Vacant {});
                assert!(face.try_submit(&job, 0, Mode::Small));
                keeper.join().unwrap();
            });
            assert!(face.pool.may_hire() && face.pool.is_vacant());
            let seat = face.launch(None);
            face.wait_until_ready(seat);
            assert!(!face.pool.is_vacant());
            face.drain(&job, |_, outcome| assert!(judge(outcome).is_none()));
            face.close();
        });
    }

    fn killed_asleep() {
        on_a_pool(2, |mut face| {
            let (first, second) = (face.launch(None), face.launch(None));
            goes_on(&mut face);
            // Long enough that both have left off spinning.
            std::thread::sleep(std::time::Duration::from_millis(20));
            for seat in [first, second] {
                face.children[&seat].kill().unwrap();
            }
            face.wait_for_deaths(2);
            goes_on(&mut face);
            face.close();
        });
    }

    fn killed_while_stuck() {
        on_a_pool(2, |mut face| {
            let seat = face.launch(None);
            let pid = face.children[&seat].pid();
            let job = face.pool.open_job(JobOptions::default());
            face.submit(&job, 0, Mode::Stuck);
            while face.pool.has_waiting() {
                std::thread::yield_now();
            }
            face.children[&seat].kill().unwrap();
            let mut outcomes = BTreeMap::new();
            face.drain(&job, |_, outcome| drop(outcomes.insert(outcome.index, judge(outcome))));
            assert_eq!(lost(&outcomes), [(0, pid, KILLED)]);
            goes_on(&mut face);
            face.close();
        });
    }

    fn a_worker_that_exits() {
        on_a_pool(1, |mut face| {
            let seat = face.launch(None);
            let pid = face.children[&seat].pid();
            assert_eq!(lost(&face.map(7..8, Mode::Exit)), [(7, pid, Exit::Code(3))]);
            goes_on(&mut face);
            face.close();
        });
    }

    fn every_worker_dies_at_once() {
        on_a_pool(3, |mut face| {
            let seats: Vec<_> = (0..3).map(|_| face.launch(None)).collect();
            goes_on(&mut face);
            let job = face.pool.open_job(JobOptions::default());
            (0..300).for_each(|number| face.submit(&job, number, Mode::Slow));
            for seat in seats {
                face.children[&seat].kill().unwrap();
            }
            let mut outcomes = BTreeMap::new();
            face.drain(&job, |_, outcome| drop(outcomes.insert(outcome.index, judge(outcome))));
            assert_eq!(outcomes.len(), 300);
            assert!(lost(&outcomes).len() <= 3);
            face.wait_for_deaths(3);
            assert_eq!(face.dead.len(), 3);
            goes_on(&mut face);
            face.close();
        });
    }

    /// A worker is buried before anybody took notice of its pidfd, which others hold open:
    /// its end is not taken for the end of the next one in the seat, which is noticed.
    fn buried_unasked() {
        on_a_pool(1, |mut face| {
            let seat = face.launch(None);
            let former = face.children.remove(&seat).unwrap();
            let held_open = former.pidfd().as_fd().try_clone_to_owned().unwrap();
            former.kill().unwrap();
            let exit = former.wait().unwrap();
            assert!(face.pool.bury(seat, exit).unwrap());
            assert_eq!(face.launch(None), seat);
            assert!(!face.pool.look_for_exits().unwrap());
            face.children[&seat].kill().unwrap();
            face.wait_for_deaths(1);
            drop(held_open);
            goes_on(&mut face);
            face.close();
        });
    }

    /// Kills a ready worker every so many outcomes of a long map: each dead one has
    /// at most one task in hand, and nobody else loses any.
    fn random_kills() {
        on_a_pool(3, |mut face| {
            let mut dice = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
            println!("random kills with seed {dice:#x}");
            let mut roll = move || {
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                dice
            };
            (0..3).for_each(|_| {
                face.launch(None);
            });
            let mut outcomes = BTreeMap::new();
            let mut killed = BTreeSet::new();
            for round in 0..4u64 {
                let mode = if round.is_multiple_of(2) { Mode::Large } else { Mode::Small };
                let job = face.pool.open_job(JobOptions::default());
                let numbers = round * 10_000..round * 10_000 + 2_000;
                let mut each = |face: &mut Face, outcome| {
                    let outcome: manycore_engine::pool::Outcome = outcome;
                    assert!(outcomes.insert(outcome.index, judge(outcome)).is_none(), "answered twice");
                    if roll().is_multiple_of(100) {
                        let ready: Vec<_> =
                            face.children.keys().copied().filter(|seat| face.pool.region().is_ready(*seat)).collect();
                        if let Some(seat) = ready.get(roll() as usize % ready.len().max(1)) {
                            face.children[seat].kill().unwrap();
                            killed.insert(face.children[seat].pid());
                        }
                    }
                };
                for number in numbers {
                    face.submit(&job, number, mode);
                }
                face.drain(&job, &mut each);
            }
            assert_eq!(outcomes.len(), 8_000, "a task was not answered");
            // Those that were killed after the last task was answered.
            face.wait_for_deaths(killed.len());
            let lost = lost(&outcomes);
            for (number, pid, exit) in &lost {
                assert!(face.dead.contains(&(*pid, *exit)), "task {number} was lost with a living worker");
                assert_eq!(lost.iter().filter(|(_, other, _)| other == pid).count(), 1, "one death, one task");
            }
            println!("{} kills, {} tasks lost", face.dead.len(), lost.len());
            assert!(!face.dead.is_empty());
            goes_on(&mut face);
            face.close();
        });
    }

    fn closing_empties_the_queue() {
        for _ in 0..20 {
            on_a_pool(2, |mut face| {
                face.refill = false;
                let (first, second) = (face.launch(None), face.launch(None));
                face.wait_until_ready(first);
                face.wait_until_ready(second);
                let job = face.pool.open_job(JobOptions::default());
                (0..20).for_each(|number| face.submit(&job, number, Mode::Large));
                face.pool.close();
                let mut answered = 0;
                face.drain(&job, |_, outcome| answered += u32::from(judge(outcome).is_none()));
                assert_eq!(answered, 20);
                face.close();
            });
        }
    }

    /// Submits without asking for room, while no worker takes anything.
    fn full_table() {
        on_a_pool(1, |mut face| {
            let job = face.pool.open_job(JobOptions::default());
            let taken = (0u64..).take_while(|number| face.try_submit(&job, *number, Mode::Small)).count();
            assert!(!face.try_submit(&job, taken as u64, Mode::Small));
            face.launch(None);
            let mut answered = 0;
            face.drain(&job, |_, outcome| answered += usize::from(judge(outcome).is_none()));
            assert_eq!(answered, taken);
            goes_on(&mut face);
            face.close();
        });
    }

    /// The caller is killed while its workers compute, from outside or at a point of its
    /// own: they are gone at once.
    fn killed_caller(point: Option<&str>) {
        let (reading, writing) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let caller = launch_caller(writing.as_raw_fd(), point);
        drop(writing);
        let mut byte = [0u8; 1];
        assert_eq!(rustix::io::read(&reading, &mut byte).unwrap(), 1, "the workers did not get busy");
        if point.is_none() {
            caller.kill().unwrap();
        }
        assert_eq!(caller.wait().unwrap(), KILLED);
        // Nothing more to read, and nobody left who could write.
        let mut ends = [PollFd::new(&reading, PollFlags::IN)];
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut ends, Some(&limit)).unwrap(), 1, "workers outlive their caller");
        assert_eq!(rustix::io::read(&reading, &mut byte).unwrap(), 0);
    }

    /// What a job was answered: how many tasks returned, and how each other one was lost.
    fn answers(face: &mut Face, job: &Job) -> (usize, Vec<Loss>) {
        let (mut returned, mut losses) = (0, Vec::new());
        face.drain(job, |_, outcome| match judge(outcome) {
            None => returned += 1,
            Some(loss) => losses.push(loss),
        });
        (returned, losses)
    }

    /// Tasks of two jobs, one by one in turn, of which one job is cancelled before any
    /// worker is there; several times round the table.
    fn cancelled_in_the_queue() {
        on_a_pool(1, |mut face| {
            let (kept, cancelled) =
                (face.pool.open_job(JobOptions::default()), face.pool.open_job(JobOptions::default()));
            let mut number = 0;
            while face.try_submit(&cancelled, number, Mode::Large) && face.try_submit(&kept, number, Mode::Small) {
                number += 1;
            }
            let queued = (kept.owed(), cancelled.owed());
            assert_eq!(face.pool.cancel(cancelled.key(), true).unwrap(), []);
            assert_eq!((kept.owed(), cancelled.owed()), (queued.0, 0));
            assert_eq!(face.pool.in_flight() as u64, kept.owed());
            face.launch(None);
            let (returned, losses) = answers(&mut face, &cancelled);
            assert_eq!((returned, losses.len() as u64), (0, queued.1));
            assert!(losses.iter().all(|loss| matches!(loss, Loss::Cancelled)));
            assert_eq!(answers(&mut face, &kept).0 as u64, queued.0);
            // With a worker at work: what is cancelled is a matter of luck.
            for _ in 0..20 {
                let job = face.pool.open_job(JobOptions::default());
                (0..300).for_each(|number| face.submit(&job, number, Mode::Small));
                face.pool.cancel(job.key(), true).unwrap();
                let (returned, losses) = answers(&mut face, &job);
                assert_eq!(returned + losses.len(), 300);
                assert!(losses.iter().all(|loss| matches!(loss, Loss::Cancelled)));
            }
            goes_on(&mut face);
            face.close();
        });
    }

    /// The head of the queue stands still where a worker died; what is behind it is withdrawn.
    fn cancelled_behind_a_dead_claimer() {
        on_a_pool(2, |mut face| {
            let job = face.pool.open_job(JobOptions::default());
            (0..40).for_each(|number| face.submit(&job, number, Mode::Small));
            face.refill = false;
            face.launch(Some("after-claim"));
            face.wait_for_deaths(1);
            assert_eq!(face.pool.cancel(job.key(), true).unwrap(), []);
            let (returned, losses) = answers(&mut face, &job);
            assert_eq!((returned, losses.len()), (0, 40));
            assert_eq!(losses.iter().filter(|loss| matches!(loss, Loss::Worker { .. })).count(), 1);
            face.refill = true;
            face.launch(None);
            goes_on(&mut face);
            face.close();
        });
    }

    fn cancelled_while_it_runs() {
        on_a_pool(2, |mut face| {
            let seat = face.launch(None);
            let other = face.pool.open_job(JobOptions::default());
            let job = face.pool.open_job(JobOptions::default());
            face.submit(&job, 0, Mode::Stuck);
            while face.pool.has_waiting() {
                std::thread::yield_now();
            }
            face.submit(&other, 1, Mode::Large);
            assert_eq!(face.pool.cancel(job.key(), true).unwrap(), [seat]);
            assert_eq!(face.pool.cancel(job.key(), true).unwrap(), [], "revoked twice");
            assert_eq!(job.owed(), 1, "answered before the worker is buried");
            let (returned, losses) = answers(&mut face, &job);
            assert!(returned == 0 && matches!(losses[..], [Loss::Cancelled]), "{losses:?}");
            assert!(matches!(answers(&mut face, &other), (1, losses) if losses.is_empty()));
            assert_eq!(face.pool.statistics().cancelled, 1);
            goes_on(&mut face);
            face.close();
        });
    }

    /// Cancels tasks that are about to finish: each is answered once, whichever was first, and no
    /// worker is ended for another task than the one it was revoked with.
    fn cancelled_and_finished_at_once() {
        on_a_pool(2, |mut face| {
            face.launch(None);
            face.launch(None);
            goes_on(&mut face);
            let (mut returned, mut cancelled) = (0, 0);
            for round in 0..200u32 {
                let (job, bystander) =
                    (face.pool.open_job(JobOptions::default()), face.pool.open_job(JobOptions::default()));
                face.submit(&job, 0, Mode::Large);
                face.submit(&bystander, 1, Mode::Small);
                (0..round * 20).for_each(|_| std::hint::spin_loop());
                face.pool.cancel(job.key(), true).unwrap();
                let (ran, losses) = answers(&mut face, &job);
                assert_eq!(ran + losses.len(), 1);
                assert!(losses.iter().all(|loss| matches!(loss, Loss::Cancelled)), "{losses:?}");
                (returned, cancelled) = (returned + ran, cancelled + losses.len());
                let bystanders = answers(&mut face, &bystander);
                assert!(bystanders.0 == 1, "a bystander was hit: {:?}", bystanders.1);
            }
            println!("{returned} finished first, {cancelled} were cancelled");
            goes_on(&mut face);
            face.close();
        });
    }

    fn expired() {
        on_a_pool(2, |mut face| {
            face.launch(None);
            let limit = std::time::Duration::from_millis(50);
            let job = face.pool.open_job(JobOptions { limit: Some(limit), ..JobOptions::default() });
            let started = Instant::now();
            face.submit(&job, 0, Mode::Stuck);
            (1..50).for_each(|number| face.submit(&job, number, Mode::Slow));
            face.wait_for_deaths_asleep(1);
            assert!(started.elapsed() >= limit);
            let (returned, losses) = answers(&mut face, &job);
            let pid = face.dead[0].0;
            assert!(
                returned == 49 && matches!(losses[..], [Loss::Expired { pid: lost, .. }] if lost == pid),
                "{losses:?}"
            );
            goes_on(&mut face);
            face.close();
        });
    }

    fn welcomed() {
        let pool = Pool::new(1).unwrap();
        pool.set_welcome(Message::of(b"hello")).unwrap();
        assert!(pool.set_welcome(Message::of(b"again")).is_err());
        let bell = pool.bell().try_clone_to_owned().unwrap();
        let worker = Worker::sit(pool.region().clone(), pool.take_seat().unwrap(), bell).unwrap();
        assert_eq!(worker.welcome().unwrap().as_deref(), Some(&b"hello"[..]));
    }

    fn termination_answers_everything() {
        on_a_pool(2, |mut face| {
            face.refill = false;
            let (first, second) = (face.launch(None), face.launch(None));
            let job = face.pool.open_job(JobOptions::default());
            (0..50).for_each(|number| face.submit(&job, number, Mode::Stuck));
            face.wait_until_ready(first);
            face.pool.terminate().unwrap();
            for seat in [first, second] {
                face.children[&seat].kill().unwrap();
            }
            let mut answered = 0;
            face.drain(&job, |_, outcome| {
                answered += u32::from(matches!(judge(outcome), Some(Loss::Terminated)));
            });
            assert_eq!(answered, 50);
            face.wait_for_deaths(2);
        });
    }
}
