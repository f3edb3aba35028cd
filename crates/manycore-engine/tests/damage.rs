//! Shared memory is untrusted input: whatever another process wrote into it, we
//! get an error or a wrong answer of the right shape, and neither a crash nor an
//! endless loop. The damage is done through the memory file, as a peer would.

#![cfg(not(loom))]

use manycore_engine::Kind;
use manycore_engine::pool::{Answer, Exit, JobOptions, Keeping, Loss, Message, Next, Pool, Verdict, Work, Worker};
use manycore_engine::shm::arena::{Allocator, BlockRef};
use manycore_engine::shm::blocks::Home;
use manycore_engine::shm::channel::{Channel, Got, Wait};
use manycore_engine::shm::region::Region;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Header, seats, entries, ring and the parts' words of a small region, roughly;
/// labels follow on pages of their own.
const TABLES: u64 = 6 << 10;
const ENTRIES: u32 = 8;

fn file(region: &Region) -> File {
    File::from(region.file().try_clone_to_owned().unwrap())
}

/// A value somebody might find in memory that was overwritten.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        Just(u64::MAX),
        Just(u64::MAX - 1),
        0..16u64,
        any::<u32>().prop_map(u64::from),
        any::<u32>().prop_map(|high| u64::from(high) << 32 | 1),
    ]
}

fn words(reach: u64) -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0..reach / 8, word()), 1..24)
}

fn damage(file: &File, words: &[(u64, u64)]) {
    for (at, word) in words {
        file.write_all_at(&word.to_ne_bytes(), at * 8).unwrap();
    }
}

/// A finished task whose entry was overwritten is answered all the same.
#[test]
fn a_damaged_state_costs_one_answer_and_no_hang() {
    let pool = Pool::new(1).unwrap();
    let function = pool.function(Message::of(b"f"), true).unwrap();
    let job = pool.open_job(JobOptions::default());
    let work = Work { index: 0, mode: 0, keeps: Keeping::Nothing, function: &function, message: Message::of(b"x") };
    pool.submit(&job, work).unwrap();
    let seat = pool.take_seat().unwrap();
    let mut worker = Worker::sit(Arc::clone(pool.region()), seat, pool.bell().try_clone_to_owned().unwrap()).unwrap();
    let Ok(Next::Task(task)) = worker.wait() else { panic!("no task") };
    worker.finish(&task, Verdict::Returned, Message::of(b"y")).unwrap();
    (0..).map_while(|index| pool.region().queue().entry(index)).for_each(|entry| entry.state.free());
    pool.wait_for(job.key(), Some(Instant::now() + Duration::from_secs(10))).unwrap();
    let mut outcomes = VecDeque::new();
    job.take(&mut outcomes);
    assert!(matches!(outcomes[0].answer, Answer::Lost(Loss::Worker { exit: Exit::Unknown, .. })));
}

/// Any word of a channel's head may name a process that lives and holds nothing. Only a call that was told to wait
/// for ever may wait for it: whoever receives has its message, and goes.
#[test]
fn no_word_of_a_channel_keeps_a_receiver() {
    let living = u64::from(std::os::unix::process::parent_id()) << 1;
    for word in 0..128 {
        let channel = Channel::create(None).unwrap();
        channel.try_send(Message::of(b"only one"), Wait::No).unwrap();
        channel.watch().unwrap();
        let file = File::from(channel.file().try_clone_to_owned().unwrap());
        damage(&file, &[(word, living)]);
        let mut inline = Vec::new();
        match channel.try_receive(&mut inline, Wait::No) {
            Ok(Got::Inline(_)) => assert_eq!(inline, b"only one"),
            Ok(Got::Nothing | Got::Busy) | Err(_) => {}
            Ok(Got::Block(_)) => panic!("word {word}: a message that nobody has sent"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// A damaged header: refused, or harmless to what attaching reads.
    #[test]
    fn attaching_checks_the_header(damaged in words(64)) {
        let region = Region::create(2, ENTRIES).unwrap();
        let file = file(&region);
        damage(&file, &damaged);
        match Region::attach(file.into()) {
            Ok(attached) => prop_assert_eq!(attached.shape(), region.shape()),
            Err(error) => prop_assert_eq!(error.kind(), Kind::Corrupt),
        }
    }

    /// A file of any length and content.
    #[test]
    fn attaching_checks_the_file(bytes in prop::collection::vec(any::<u8>(), 0..9000), magic: bool) {
        let region = Region::create(1, ENTRIES).unwrap();
        let mut head = [0u8; 64];
        file(&region).read_exact_at(&mut head, 0).unwrap();
        let other = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        other.write_all_at(&bytes, 0).unwrap();
        if magic {
            other.write_all_at(&head, 0).unwrap();
        }
        prop_assert_eq!(Region::attach(other.into()).unwrap_err().kind(), Kind::Corrupt);
    }

    /// A worker that attaches to a region in use, and everything is overwritten
    /// under it, label pages too.
    #[test]
    fn a_worker_survives_damage(damaged in words(TABLES), more in words(1 << 16), len in 0usize..3000) {
        let region = Arc::new(Region::create(2, ENTRIES).unwrap());
        let queue = region.queue();
        for index in 0..4 {
            queue.make_room().unwrap();
            queue.entry(index).unwrap().fill(|slip| slip.index = index as u64);
            queue.publish(index);
        }
        let part = region.part(1).unwrap();
        let mut allocator = Allocator::take_over(part).unwrap();
        let message = Message::of(&[7; 700]);
        let mut cut = || Some(region.lease(&mut allocator, 1, message).ok()?.pass_on());
        let blocks: Vec<BlockRef> = (0..6).map(|_| cut().unwrap()).collect();
        blocks[..3].iter().for_each(|block| region.give_back(*block).unwrap());

        let file = file(&region);
        damage(&file, &damaged);
        damage(&file, &more);
        let bell = Pool::new(1).unwrap().bell().try_clone_to_owned().unwrap();
        if let Ok(mut worker) = Worker::sit(Arc::clone(&region), 0, bell) {
            for _ in 0..ENTRIES + 2 {
                let Ok(Some(mut task)) = worker.try_next() else { continue };
                let _ = worker.function(&task).map(drop);
                let body = task.take_body();
                let _ = worker.finish(&task, Verdict::Returned, Message::of(&vec![7; len]));
                drop(body);
            }
        }
        for block in &blocks {
            let _ = region.locate(*block, 700);
            let _ = region.give_back(*block);
        }
        for _ in 0..20 {
            cut();
        }
        for index in 0..3 {
            let part = region.part(index).unwrap();
            let _ = Allocator::take_over(part);
            part.held_by(1).take(4).for_each(|block| drop(region.give_back(block)));
        }
        let mut taken = Vec::new();
        let _ = region.queue().take_done(&mut taken);
        prop_assert!(taken.len() <= ENTRIES as usize);
    }

    /// A caller whose region is overwritten while tasks are in flight: submitting,
    /// collecting and burying return, and termination answers every task.
    #[test]
    fn a_caller_survives_damage(damaged in words(1 << 16), close in words(256)) {
        let pool = Pool::new(2).unwrap();
        let function = pool.function(Message::of(b"f"), true).unwrap();
        let job = pool.open_job(JobOptions::default());
        let bytes = [5u8; 3000];
        let submit = |index: u64| {
            let message = Message::of(&bytes[..if index.is_multiple_of(2) { 20 } else { 3000 }]);
            pool.submit(&job, Work { index, mode: 0, keeps: Keeping::Nothing, function: &function, message }).is_ok()
        };
        let bell = pool.bell().try_clone_to_owned().unwrap();
        let seat = pool.take_seat().unwrap();
        let mut worker = Worker::sit(Arc::clone(pool.region()), seat, bell).unwrap();
        worker.ready().unwrap();
        let mut submitted = (0..6).map(submit).filter(|taken| *taken).count();
        for _ in 0..3 {
            let Ok(Next::Task(task)) = worker.wait() else { panic!("no task") };
            worker.finish(&task, Verdict::Raised, Message::of(&bytes)).unwrap();
        }
        let _ = worker.try_next();

        let file = file(pool.region());
        damage(&file, &damaged);
        damage(&file, &close);
        submitted += (6..12).map(submit).filter(|taken| *taken).count();
        let _ = pool.room(0);
        let _ = pool.collect();
        let _ = pool.bury(seat, Exit::Signal(9));
        let _ = pool.collect();
        let _ = pool.terminate();
        let mut outcomes = Default::default();
        job.take(&mut outcomes);
        prop_assert_eq!(outcomes.len(), submitted);
        prop_assert_eq!(job.owed(), 0);
    }
}
