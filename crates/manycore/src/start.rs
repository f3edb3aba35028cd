//! Starting this program again.

use crate::error::{Error, Kind, Result};
use crate::invitation::{Invitation, VARIABLE};
use crate::test_support;
use manycore_engine::process::{Child, Program};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The program that runs here, also after its file was replaced.
const PROGRAM: &str = "/proc/self/exe";

/// A process that has not reached [`crate::init`] after this time never will.
pub(crate) const START: Duration = Duration::from_secs(10);

/// How the program is started.
#[derive(Debug, Default)]
pub(crate) struct Start {
    /// Arguments after the program's name; this process's own where None.
    pub(crate) arguments: Option<Vec<OsString>>,
    /// The environment, without the invitation; this process's own where None.
    pub(crate) environment: Option<Vec<(OsString, OsString)>>,
    /// Standard input, output and error; this process's own where None.
    pub(crate) streams: [Option<OwnedFd>; 3],
}

impl Start {
    /// Starts the program, which finds `invitation`.
    pub(crate) fn launch(mut self, mut invitation: Invitation) -> Result<Child> {
        let mut arguments: Vec<OsString> = match self.arguments.take() {
            None => std::env::args_os().collect(),
            Some(given) => std::env::args_os().take(1).chain(given).collect(),
        };
        // Lives until the program has been started.
        let mut output = None;
        if let Some(by_harness) = test_support::arguments() {
            arguments.truncate(1);
            arguments.extend(by_harness);
            let (null, own) = silence(self.streams[1].take()).map_err(|error| {
                Error::new(Kind::System, format!("preparing the standard output of a new process: {error}"))
            })?;
            self.streams[1] = Some(null);
            invitation.output = Some(own.as_raw_fd());
            output = Some(own);
        }
        let own = || std::env::vars_os().collect();
        let environment = self.environment.take().unwrap_or_else(own).into_iter().filter(|(name, _)| name != VARIABLE);
        let invited = (OsString::from(VARIABLE), OsString::from(invitation.text()));
        let environment: Vec<OsString> = environment
            .chain([invited])
            .map(|(mut entry, value)| {
                entry.push("=");
                entry.push(value);
                entry
            })
            .collect();
        let streams = self.streams.each_ref().map(|stream| stream.as_ref().map(AsRawFd::as_raw_fd));
        let inherit: Vec<RawFd> = invitation.descriptors();
        let (arguments, environment) = (borrow(&arguments), borrow(&environment));
        let program = Program {
            path: OsStr::new(PROGRAM),
            arguments: &arguments,
            environment: &environment,
            inherit: &inherit,
            streams,
        };
        let child = Child::start(&program);
        drop(output);
        Ok(child?)
    }
}

/// For a test harness, which writes about itself: nothing as the standard output, and
/// the real one for later.
fn silence(stream: Option<OwnedFd>) -> io::Result<(OwnedFd, OwnedFd)> {
    let null = File::options().write(true).open("/dev/null")?;
    let own = match stream {
        Some(stream) => stream,
        None => io::stdout().as_fd().try_clone_to_owned()?,
    };
    Ok((null.into(), own))
}

fn borrow(texts: &[OsString]) -> Vec<&OsStr> {
    texts.iter().map(OsString::as_os_str).collect()
}
