//! How a process learns what it was started for: one environment variable that names
//! the descriptors it inherited.
//!
//! The variable outlives its purpose: it cannot be removed safely once there may
//! be threads, and programs that a task starts inherit it. So it counts only where
//! the descriptor it names is the very file it means, which those programs do not
//! have.

use crate::error::{Error, Kind, Result};
use crate::porter;
use manycore_engine::os::packets::Packets;
use manycore_engine::os::{inherit, lifeline};
use manycore_engine::pool::{Region, Worker};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, OnceLock};

pub(crate) const VARIABLE: &str = "MANYCORE_INVITATION";

/// What a process must know before it can do what it was started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invitation {
    pub(crate) role: Role,
    /// A worker's pool's memory file, a process's socket.
    door: RawFd,
    /// Device and inode of the door.
    identity: (u64, u64),
    /// Whoever it keeps this process alive; None for one that may outlive its starter.
    pub(crate) lifeline: Option<RawFd>,
    fingerprint: u64,
    /// The standard output, where what comes before [`crate::init`] must not write to it.
    pub(crate) output: Option<RawFd>,
}

/// What a process was started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// To take this place in a pool.
    Worker(Chair),
    /// To run one task.
    Process,
}

/// A worker's place in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chair {
    pub(crate) seat: u16,
    /// To be rung when the caller sleeps.
    pub(crate) bell: RawFd,
    /// Where to ask for descriptors.
    pub(crate) counter: RawFd,
}

/// Set when the invitation of this process was accepted.
static ACCEPTED: OnceLock<()> = OnceLock::new();

impl Invitation {
    /// For what stands behind `door`. Fails only where the kernel refuses to look at it.
    pub(crate) fn new(
        role: Role,
        door: BorrowedFd<'_>,
        lifeline: Option<BorrowedFd<'_>>,
        fingerprint: u64,
    ) -> Result<Invitation> {
        let identity = identity(door).map_err(|error| {
            Error::new(Kind::System, format!("looking at what a new process is to be given: {error}"))
        })?;
        let (door, lifeline) = (door.as_raw_fd(), lifeline.map(|line| line.as_raw_fd()));
        Ok(Invitation { role, door, identity, lifeline, fingerprint, output: None })
    }

    /// The invitation of this process, if it has one that it did not accept yet.
    pub(crate) fn open() -> Option<Invitation> {
        if ACCEPTED.get().is_some() {
            return None;
        }
        let invitation = Invitation::parse(&std::env::var(VARIABLE).ok()?)?;
        let door = inherit::duplicate(invitation.door).ok()?;
        (identity(door.as_fd()).ok()? == invitation.identity).then_some(invitation)
    }

    /// Takes the seat. None when whoever sent the invitation is gone already.
    pub(crate) fn sit(&self, Chair { seat, bell, counter }: Chair) -> manycore_engine::Result<Option<Worker>> {
        let Some(region) = self.accept()? else { return Ok(None) };
        porter::ask_at(take(counter)?);
        Worker::sit(Arc::new(Region::attach(region)?), seat, take(bell)?).map(Some)
    }

    /// Takes the socket. None when whoever sent the invitation is gone already.
    pub(crate) fn connect(&self) -> manycore_engine::Result<Option<Packets>> {
        Ok(self.accept()?.map(Packets::from_fd))
    }

    /// From here on this process ends with the one that invited it, if it is to.
    fn accept(&self) -> manycore_engine::Result<Option<OwnedFd>> {
        let _ = ACCEPTED.set(());
        if let Some(number) = self.lifeline {
            // Armed for the life of the process; its number stays open anyhow.
            if !lifeline::arm(take(number)?)? {
                return Ok(None);
            }
        }
        if let Some(number) = self.output {
            inherit::replace_output(take(number)?)?;
        }
        take(self.door).map(Some)
    }

    /// The descriptors it names.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let [bell, counter] = match self.role {
            Role::Worker(Chair { bell, counter, .. }) => [Some(bell), Some(counter)],
            Role::Process => [None; 2],
        };
        [Some(self.door), self.lifeline, self.output, bell, counter].into_iter().flatten().collect()
    }

    /// Refuses whoever runs another program.
    pub(crate) fn check(&self, fingerprint: u64) -> Result<()> {
        if self.fingerprint == fingerprint {
            return Ok(());
        }
        Err(Error::new(
            Kind::DifferentBuild,
            format!(
                "a process cannot run the tasks it was started for: its program is another one, or another build, or \
                 has not loaded the same libraries (fingerprint {fingerprint:016x} instead of {:016x}); start all \
                 processes from one executable, and load libraries with tasks before manycore::init()",
                self.fingerprint
            ),
        ))
    }

    /// What the variable says.
    pub(crate) fn text(&self) -> String {
        let Invitation { role, door, identity: (device, inode), lifeline, fingerprint, output } = self;
        let (lifeline, output) = (number(*lifeline), number(*output));
        let common = format!("{door} {device} {inode} {lifeline} {fingerprint} {output}");
        match role {
            Role::Worker(Chair { seat, bell, counter }) => format!("{common} {seat} {bell} {counter}"),
            Role::Process => common,
        }
    }

    fn parse(text: &str) -> Option<Invitation> {
        let fields: Vec<i128> = text.split(' ').map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
        let (&[door, device, inode, lifeline, fingerprint, output], role) = fields.split_first_chunk()?;
        let role = match *role {
            [] => Role::Process,
            [seat, bell, counter] => {
                let (bell, counter) = (RawFd::try_from(bell).ok()?, RawFd::try_from(counter).ok()?);
                Role::Worker(Chair { seat: u16::try_from(seat).ok()?, bell, counter })
            }
            _ => return None,
        };
        let descriptor = |number: i128| RawFd::try_from(number).ok();
        Some(Invitation {
            role,
            door: descriptor(door)?,
            identity: (u64::try_from(device).ok()?, u64::try_from(inode).ok()?),
            lifeline: descriptor(lifeline).filter(|number| *number >= 0),
            fingerprint: u64::try_from(fingerprint).ok()?,
            output: descriptor(output).filter(|number| *number >= 0),
        })
    }
}

fn number(descriptor: Option<RawFd>) -> RawFd {
    descriptor.unwrap_or(-1)
}

/// Device and inode of an open file.
fn identity(file: BorrowedFd<'_>) -> std::io::Result<(u64, u64)> {
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

    const SOME: Invitation = Invitation {
        role: Role::Worker(Chair { seat: 11, bell: 5, counter: 6 }),
        door: 3,
        identity: (1, 4711),
        lifeline: Some(7),
        fingerprint: u64::MAX,
        output: None,
    };

    #[test]
    fn what_is_written_is_read() {
        for some in [SOME, Invitation { role: Role::Process, lifeline: None, output: Some(9), ..SOME }] {
            assert_eq!(Invitation::parse(&some.text()), Some(some));
            assert_eq!(Invitation::parse(&format!("{} 1", some.text())), None);
        }
        assert_eq!(Invitation::parse("nonsense"), None);
        assert_eq!(Invitation::parse("1 2 3"), None);
    }

    #[test]
    fn another_build_is_refused() {
        assert!(SOME.check(u64::MAX).is_ok());
        let error = SOME.check(1).unwrap_err();
        assert!(error.is_different_build() && error.to_string().contains("another build"), "{error}");
    }
}
