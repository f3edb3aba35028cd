//! Memory that two processes see at once.
//!
//! `README.md` beside this file holds the protocols: every shared word, who may
//! write it, and what happens if the writer dies between any two steps.

#![allow(unsafe_code)]

pub mod arena;
pub mod barrier;
#[cfg(not(loom))]
pub mod blocks;
#[cfg(not(loom))]
pub mod channel;
#[cfg(not(loom))]
mod channel_region;
pub mod condition;
pub mod conduit;
pub mod doorbell;
pub mod event;
#[cfg(not(loom))]
pub mod journal;
#[cfg(not(loom))]
pub mod kept;
#[cfg(not(loom))]
pub mod layout;
pub mod lobby;
pub mod lock;
#[cfg(not(loom))]
pub mod message;
pub mod mutex;
pub mod patience;
#[cfg(not(loom))]
pub mod plain;
pub mod queue;
#[cfg(not(loom))]
pub mod region;
pub mod rwlock;
pub mod semaphore;
#[cfg(not(loom))]
pub mod slots;
pub mod state;
pub mod stream;
pub mod task;
pub mod waiters;
