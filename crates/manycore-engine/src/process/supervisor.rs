//! Many processes watched at once, and the bell that says there are results.

use crate::error::Result;
use crate::os::watch::{self, Bell, Watch};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a wait was ended by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody rang.
    Rung,
    /// The process in this seat has ended. Reported once.
    Exited(u16),
}

const BELL: u64 = 0;
const DEATHS: u64 = 1;

/// Watches the processes of one pool. Two threads may wait at the same time, each
/// with its own bell: the one that waits for results, and the keeper.
#[derive(Debug)]
pub struct Supervisor {
    /// All pidfds; readable itself while one of them is.
    deaths: Watch,
    members: Mutex<HashMap<u16, OwnedFd>>,
    results: Post,
    keeper: Post,
}

/// One place to wait at.
#[derive(Debug)]
struct Post {
    watch: Watch,
    bell: Bell,
}

impl Post {
    fn new(deaths: &Watch) -> Result<Post> {
        let post = Post { watch: Watch::new()?, bell: Bell::new()? };
        post.watch.add(&post.bell, BELL)?;
        post.watch.add(deaths, DEATHS)?;
        Ok(post)
    }
}

impl Supervisor {
    /// Watches nobody yet.
    pub fn new() -> Result<Supervisor> {
        let deaths = Watch::new()?;
        let (results, keeper) = (Post::new(&deaths)?, Post::new(&deaths)?);
        Ok(Supervisor { deaths, members: Mutex::default(), results, keeper })
    }

    fn members(&self) -> MutexGuard<'_, HashMap<u16, OwnedFd>> {
        // The map is whole after every step, so a panic elsewhere does not spoil it.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the process behind `pidfd`, which sits in `seat`; no longer the one
    /// that sat there before, should nobody have asked how it ended.
    pub fn enlist(&self, seat: u16, pidfd: OwnedFd) -> Result<()> {
        let mut members = self.members();
        // Its end would be taken for its successor's, who would not be watched any more. To
        // close the pidfd is not enough: others may hold it open.
        if let Some(former) = members.remove(&seat) {
            self.deaths.remove(&former);
        }
        self.deaths.add(&pidfd, u64::from(seat))?;
        members.insert(seat, pidfd);
        Ok(())
    }

    /// Kills the process in `seat`; one that has ended, or none at all, is no error.
    pub fn kill(&self, seat: u16) -> Result<()> {
        self.members().get(&seat).map_or(Ok(()), watch::kill)
    }

    /// Asks the process in `seat` to say where it is and to end; see [`watch::ask_to_end`].
    pub fn ask_to_end(&self, seat: u16) -> Result<()> {
        self.members().get(&seat).map_or(Ok(()), watch::ask_to_end)
    }

    /// The bell workers ring when results are there and the caller sleeps.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.results.bell.as_fd()
    }

    /// Wakes whoever waits for results.
    pub fn ring(&self) {
        self.results.bell.ring();
    }

    /// Wakes the keeper.
    pub fn ring_keeper(&self) {
        self.keeper.bell.ring();
    }

    /// Sleeps until the results' bell rings or a process ends.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Vec<Event>> {
        self.wait_at(&self.results, timeout)
    }

    /// Sleeps until the keeper's bell rings or a process ends.
    pub fn wait_as_keeper(&self, timeout: Option<Duration>) -> Result<Vec<Event>> {
        self.wait_at(&self.keeper, timeout)
    }

    fn wait_at(&self, post: &Post, timeout: Option<Duration>) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for token in post.watch.wait(timeout)? {
            if token == BELL {
                post.bell.silence();
                events.push(Event::Rung);
            } else {
                events.extend(self.exited()?);
            }
        }
        Ok(events)
    }

    /// The processes that have ended since they were last asked for; does not sleep.
    pub fn exited(&self) -> Result<Vec<Event>> {
        // Under the lock, so that two threads that see the same death report it once.
        let mut members = self.members();
        let mut events = Vec::new();
        for token in self.deaths.wait(Some(Duration::ZERO))? {
            let seat = token as u16;
            if let Some(pidfd) = members.remove(&seat) {
                self.deaths.remove(&pidfd);
                events.push(Event::Exited(seat));
            }
        }
        Ok(events)
    }
}
