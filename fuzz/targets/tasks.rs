//! A pool whose memory a worker overwrites between any two calls of caller and workers: each task is answered exactly
//! once all the same, and every call returns.
#![no_main]

use libfuzzer_sys::fuzz_target;
use manycore_engine::pool::{Keeping, Answer, Exit, JobOptions, Message, Pool, Room, Verdict, Work, Worker};
use manycore_engine::shm::region::Region;
use manycore_fuzz::{Tape, damage};
use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

const LENGTHS: [usize; 6] = [0, 20, 100, 3000, 70_000, 1 << 20];
const SEATS: usize = 2;

fuzz_target!(|data: &[u8]| {
    let mut tape = Tape(data);
    let pool = Pool::new(SEATS as u16).expect("a pool");
    let file = File::from(pool.region().file().try_clone_to_owned().expect("a descriptor"));
    let payload = vec![7; 1 << 20];
    let function = pool.function(Message::of(&payload[..700]), true).expect("room for a function");
    let limit = (tape.byte() & 1 == 1).then_some(Duration::from_nanos(1));
    let job = pool.open_job(JobOptions { limit, ..JobOptions::default() });
    let mut workers: Vec<Option<Worker>> = (0..SEATS).map(|_| None).collect();
    let mut tasks: Vec<Vec<_>> = (0..SEATS).map(|_| Vec::new()).collect();
    let (mut submitted, mut outcomes, mut bodies) = (0, VecDeque::new(), Vec::new());
    for _ in 0..64 {
        if tape.is_empty() {
            break;
        }
        let seat = tape.below(SEATS);
        match tape.byte() % 16 {
            0..3 => {
                let message = Message::of(&payload[..LENGTHS[tape.below(LENGTHS.len())]]);
                let work = Work { index: submitted, mode: 0, keeps: Keeping::Nothing, function: &function, message };
                if let Ok(Room::Yes) = pool.submit(&job, work) {
                    submitted += 1;
                }
            }
            3 => {
                if workers[seat].is_none()
                    && let Ok(taken) = pool.take_seat()
                {
                    let bell = pool.bell().try_clone_to_owned().expect("a descriptor");
                    let worker = Worker::sit(Arc::clone(pool.region()), taken, bell).ok();
                    let _ = worker.as_ref().map(Worker::ready);
                    workers[usize::from(taken)] = worker;
                }
            }
            4 | 5 => {
                if let Some(worker) = &mut workers[seat]
                    && let Ok(Some(mut task)) = worker.try_next()
                {
                    let _ = std::hint::black_box(worker.function(&task));
                    let body = task.take_body();
                    if body.len() <= 4 << 20 {
                        std::hint::black_box(body.to_vec());
                    }
                    bodies.push(body);
                    tasks[seat].push(task);
                }
            }
            6 | 7 => {
                let len = LENGTHS[tape.below(LENGTHS.len())];
                if let Some(worker) = &mut workers[seat]
                    && let Some(task) = tasks[seat].pop()
                {
                    worker.progress(&task).reach(u64::from(tape.byte()));
                    let _ = worker.finish(&task, Verdict::Returned, Message::of(&payload[..len]));
                }
            }
            8 => drop(pool.collect()),
            9 => {
                job.take(&mut outcomes);
                for outcome in &outcomes {
                    if let Answer::Returned(body) | Answer::Raised(body) = &outcome.answer
                        && body.len() <= 4 << 20
                    {
                        std::hint::black_box(body.to_vec());
                    }
                }
            }
            10 => {
                if workers[seat].take().is_some() {
                    tasks[seat].clear();
                    let _ = pool.bury(seat as u16, Exit::Signal(9));
                }
            }
            11 => drop(pool.cancel(job.key(), tape.byte() & 1 == 1)),
            12 => {
                bodies.pop();
            }
            13 => {
                let _ = (pool.room(0), pool.has_waiting(), pool.in_flight());
                let _ = Region::attach(file.try_clone().expect("a descriptor").into());
            }
            14 => drop(pool.before_fork()),
            _ => damage(&file, &mut tape),
        }
    }
    for (seat, worker) in workers.iter_mut().enumerate() {
        if worker.take().is_some() {
            let _ = pool.bury(seat as u16, Exit::Signal(9));
        }
    }
    let _ = pool.terminate();
    job.take(&mut outcomes);
    assert_eq!(outcomes.len() as u64, submitted, "an answer for every task, and one only");
    assert_eq!(job.owed(), 0);
});
