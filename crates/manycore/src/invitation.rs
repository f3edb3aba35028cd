//! How a process learns that it is to be a worker: one environment variable that
//! names the descriptors it inherited.
//!
//! The variable outlives its purpose: it cannot be removed safely once there may
//! be threads, and programs that a task starts inherit it. So it counts only where
//! the descriptor it names is the very memory file it means, which those programs
//! do not have.

use crate::error::{Error, Kind, Result};
use manycore_engine::os::{inherit, lifeline};
use manycore_engine::pool::{Region, Worker};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, OnceLock};

const VARIABLE: &str = "MANYCORE_WORKER";

/// What a worker must know before it can reach its pool's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invitation {
    pub(crate) region: RawFd,
    /// Device and inode of the memory file.
    pub(crate) identity: (u64, u64),
    pub(crate) bell: RawFd,
    pub(crate) lifeline: RawFd,
    pub(crate) seat: u16,
    pub(crate) fingerprint: u64,
}

/// Set when the invitation of this process was accepted.
static ACCEPTED: OnceLock<()> = OnceLock::new();

impl Invitation {
    /// The invitation of this process, if it has one that it did not accept yet.
    pub(crate) fn open() -> Option<Invitation> {
        if ACCEPTED.get().is_some() {
            return None;
        }
        let invitation = Invitation::parse(&std::env::var(VARIABLE).ok()?)?;
        let region = inherit::duplicate(invitation.region).ok()?;
        (identity(region.as_fd()).ok()? == invitation.identity).then_some(invitation)
    }

    /// Sits down where the invitation says. From here on this process ends with
    /// the one that invited it. `None` when that one is gone already.
    pub(crate) fn accept(&self) -> manycore_engine::Result<Option<Worker>> {
        let _ = ACCEPTED.set(());
        let line = take(self.lifeline)?;
        if !lifeline::arm(&line)? {
            return Ok(None);
        }
        // Armed for the life of the process; its number is open anyhow.
        drop(line);
        let (region, bell) = (take(self.region)?, take(self.bell)?);
        Worker::sit(Arc::new(Region::attach(region)?), self.seat, bell).map(Some)
    }

    /// The environment of a worker: this process's, with the invitation.
    pub(crate) fn environment(&self) -> Vec<OsString> {
        let own = std::env::vars_os().filter(|(name, _)| name != VARIABLE).map(|(mut entry, value)| {
            entry.push("=");
            entry.push(value);
            entry
        });
        own.chain([format!("{VARIABLE}={}", self.text()).into()]).collect()
    }

    /// Refuses a pool that runs another program.
    pub(crate) fn check(&self, fingerprint: u64) -> Result<()> {
        if self.fingerprint == fingerprint {
            return Ok(());
        }
        Err(Error::new(
            Kind::DifferentBuild,
            format!(
                "a worker process cannot run the pool's tasks: its program is another one, or another build, or has \
                 not loaded the same libraries (fingerprint {fingerprint:016x} instead of {:016x}); start program and \
                 workers from one executable, and load libraries with tasks before manycore::init()",
                self.fingerprint
            ),
        ))
    }

    fn text(&self) -> String {
        let Invitation { region, identity: (device, inode), bell, lifeline, seat, fingerprint } = self;
        format!("{region} {device} {inode} {bell} {lifeline} {seat} {fingerprint}")
    }

    fn parse(text: &str) -> Option<Invitation> {
        let mut fields = text.split(' ');
        let mut next = || fields.next()?.parse::<u64>().ok();
        let invitation = Invitation {
            region: RawFd::try_from(next()?).ok()?,
            identity: (next()?, next()?),
            bell: RawFd::try_from(next()?).ok()?,
            lifeline: RawFd::try_from(next()?).ok()?,
            seat: u16::try_from(next()?).ok()?,
            fingerprint: next()?,
        };
        fields.next().is_none().then_some(invitation)
    }
}

/// Device and inode of an open file.
pub(crate) fn identity(file: BorrowedFd<'_>) -> std::io::Result<(u64, u64)> {
    let status = File::from(file.try_clone_to_owned()?).metadata()?;
    Ok((status.dev(), status.ino()))
}

/// An inherited descriptor that the programs this process starts do not inherit.
fn take(number: RawFd) -> manycore_engine::Result<OwnedFd> {
    inherit::keep_private(number)?;
    inherit::duplicate(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Invitation =
        Invitation { region: 3, identity: (1, 4711), bell: 5, lifeline: 7, seat: 11, fingerprint: u64::MAX };

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Invitation::parse(&SOME.text()), Some(SOME));
        assert_eq!(Invitation::parse("nonsense"), None);
        assert_eq!(Invitation::parse(&format!("{} 1", SOME.text())), None);
    }

    #[test]
    fn another_build_is_refused() {
        assert!(SOME.check(u64::MAX).is_ok());
        let error = SOME.check(1).unwrap_err();
        assert!(error.is_different_build() && error.to_string().contains("another build"), "{error}");
    }
}
