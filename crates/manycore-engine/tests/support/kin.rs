//! Relatives: processes of this very program that play a role with locks which all
//! of them see.

#![allow(unsafe_code)]

use manycore_engine::error::{Kind, Result};
use manycore_engine::os::inherit;
use manycore_engine::process::{Child, Exit};
use manycore_engine::shm::barrier::Barrier;
use manycore_engine::shm::condition::Condition;
use manycore_engine::shm::event::Event;
use manycore_engine::shm::lock::RecursiveLock;
use manycore_engine::shm::mutex::Mutex;
use manycore_engine::shm::semaphore::Semaphore;
use manycore_engine::shm::slots::{Resident, Slot, Slots, SlotsId};
use manycore_engine::sync::{AtomicU32, AtomicU64, Ordering};
use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const ROLE: &str = "MANYCORE_TEST_ROLE";

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the relatives see together.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Stage {
    /// Counts what has happened; the actors wait for each other by it.
    step: AtomicU32,
    /// Changed under a lock, by a load and a store.
    pub value: AtomicU64,
    /// The same once more: whoever finds the two different came between.
    pub copy: AtomicU64,
    pub mutex: Mutex,
    pub recursive: RecursiveLock,
    pub semaphore: Semaphore,
    pub event: Event,
    pub condition: Condition,
    pub barrier: Barrier,
}

// SAFETY: atomics and types made of them, `repr(C)`.
unsafe impl Resident for Stage {
    const KIND: u32 = 1000;
}

/// A role: what a relative does.
pub type Role = (&'static str, fn(&Stage));

impl Stage {
    /// Something has happened.
    pub fn step(&self) {
        self.step.fetch_add(1, Ordering::AcqRel);
    }

    /// Waits until `steps` things have happened in all.
    pub fn wait_for(&self, steps: u32) {
        let start = Instant::now();
        until(|| {
            assert!(start.elapsed() < PATIENCE, "step {steps} never came");
            self.step.load(Ordering::Acquire) >= steps
        });
    }

    /// How many things have happened.
    pub fn steps(&self) -> u32 {
        self.step.load(Ordering::Acquire)
    }

    /// Adds one, as no two may do at the same time.
    pub fn add(&self) {
        self.value.store(self.value.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// Waits for what has no event: that somebody has gone to sleep, for example.
pub fn until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

/// The end of a wait that must not take for ever.
pub fn soon() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

/// Waits as a face does: again, after each interruption.
pub fn patiently<T>(mut wait: impl FnMut() -> Result<T>) -> T {
    loop {
        match wait() {
            Err(error) if error.kind() == Kind::Interrupted => {}
            other => return other.unwrap(),
        }
    }
}

/// Plays the role this process was started for, if it was, and ends it.
pub fn run_if_started(roles: &[Role]) {
    let Ok(text) = std::env::var(ROLE) else { return };
    let (role, numbers) = text.split_once(':').unwrap();
    let numbers: Vec<u64> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
    let &[file, creator, number, offset] = &numbers[..] else { panic!("{text}") };
    let file = inherit::duplicate(file as i32).unwrap();
    let slots = Slots::attach(SlotsId { creator, number }, file).unwrap();
    let stage = Slot::<Stage>::at(&slots, offset as usize).unwrap();
    let (_, play) = roles.iter().find(|(name, _)| *name == role).unwrap();
    play(&stage);
    std::process::exit(0);
}

/// Starts a relative; killed at `point`, if one is named.
pub fn launch(stage: &Slot<Stage>, role: &str, point: Option<&str>) -> Child {
    let (slots, offset) = stage.address();
    let (file, id) = (slots.file().as_raw_fd(), slots.id());
    let program = std::env::current_exe().unwrap();
    let mut environment = vec![format!("{ROLE}={role}:{file},{},{},{offset}", id.creator, id.number)];
    environment.extend(point.map(|point| format!("MANYCORE_FAIL_POINT={point}")));
    let environment: Vec<&OsStr> = environment.iter().map(OsStr::new).collect();
    Child::launch(program.as_os_str(), &[OsStr::new(role)], &environment, &[file]).unwrap()
}

/// The relative has been killed, or is: waits for it.
pub fn was_killed(child: Child) {
    assert_eq!(child.wait().unwrap(), Exit::Signal(9));
}

/// The relative has done all it had to do.
pub fn has_finished(child: Child) {
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}
