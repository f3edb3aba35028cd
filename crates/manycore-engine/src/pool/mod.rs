//! Tasks, jobs and workers: an answer for every task.
//!
//! `README.md` beside this file tells the life of a task and what happens when
//! its worker dies.

#![forbid(unsafe_code)]

mod caller;
mod chunks;
mod hiring;
mod job;
mod ledger;
mod ranks;
mod wait;
mod worker;

pub use caller::{Function, Pool, Room, Work};
pub use chunks::{Chunks, Keeping};
pub use job::{Answer, Job, JobOptions, Loss, Outcome, Statistics};
pub use wait::Woken;
pub use worker::{ForkGuard, Next, Progress, Task, Worker};

pub use crate::process::Exit;
pub use crate::shm::blocks::Lease;
pub use crate::shm::journal::{Journal, Left};
pub use crate::shm::message::{ALIGN, Message, Payload, Piece, Segment, Segments};
pub use crate::shm::region::Region;
pub use crate::shm::task::Verdict;
