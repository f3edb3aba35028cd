//! The process's own side: hear the call, run the task, say what came of it.

use super::Call;
use super::wire::{self, Says};
use crate::code;
use crate::codec;
use crate::error::{Error, Kind, Result};
use crate::failure::{self, Failure};
use crate::invitation::Invitation;
use crate::passing;
use crate::registry::Registry;
use manycore_engine::fault;
use manycore_engine::os::limits;
use manycore_engine::os::memory::Birthmark;
use manycore_engine::os::packets::Packets;
use std::io::Write;

/// As a Rust program that panics.
const PANICKED: i32 = 101;

/// Runs the one task this process was started for.
pub(crate) fn serve(invitation: &Invitation) -> ! {
    let Some(packets) = connect(invitation) else { std::process::exit(1) };
    fault::point("process-connected");
    let code = match take(invitation, &packets).and_then(|(call, table)| run(&packets, &call, table)) {
        Ok(code) => code,
        Err(error) => refuse(&packets, &error),
    };
    std::process::exit(code)
}

/// For a process whose main starts another before it reached [`crate::init`]: tells
/// the starter, and ends.
pub(crate) fn refuse_late(invitation: &Invitation, error: &Error) -> ! {
    match connect(invitation) {
        Some(packets) => std::process::exit(refuse(&packets, error)),
        None => std::process::exit(1),
    }
}

fn connect(invitation: &Invitation) -> Option<Packets> {
    match invitation.connect() {
        Ok(packets) => packets,
        Err(error) => {
            say(&error.into());
            None
        }
    }
}

fn take(invitation: &Invitation, packets: &Packets) -> Result<(Call, passing::Table)> {
    let gone = || Error::new(Kind::System, "a process was started without a task; its starter must be gone");
    let Some((Says::Call, bytes, table)) = wire::receive(packets)? else { return Err(gone()) };
    invitation.check(Registry::get()?.fingerprint)?;
    let call = Call::read(&bytes)?;
    if let Some(directory) = &call.directory {
        std::env::set_current_dir(directory).map_err(|error| {
            Error::new(Kind::Start, format!("a process cannot start in {}: {error}", directory.display()))
        })?;
    }
    // Only what is written in lists of processes; a refusal costs nothing.
    let _ = std::fs::write("/proc/self/comm", &call.name);
    if let Some(seconds) = call.processor_limit {
        limits::processor(seconds)?;
    }
    if let Some(bytes) = call.memory_limit {
        limits::data(bytes)?;
    }
    Ok((call, table))
}

/// Runs the task. The starter may be gone meanwhile, and its process may go on: nobody
/// hears what is said then.
fn run(packets: &Packets, call: &Call, table: passing::Table) -> Result<i32> {
    let _ = wire::send(packets, Says::Started, &[], &Vec::new());
    fault::point("process-started");
    failure::listen(true);
    let birthmark = Birthmark::new()?;
    let mut output = Vec::new();
    let (ran, results) = passing::outgoing(|| {
        passing::incoming(table, || match code::open(&call.code) {
            Ok(task) => task.run(&call.arguments, &mut output),
            Err(error) => Err(Failure::of(&error, 0)),
        })
    });
    if !birthmark.is_here() {
        // The task has forked, and this is the child, which has come back, too: one answer is enough.
        return Ok(0);
    }
    fault::point("process-has-run");
    let sent = match &ran {
        Ok(()) => wire::send(packets, Says::Returned, &output, &results),
        Err(_) => Ok(()),
    };
    fault::point("process-has-answered");
    let failure = match (ran, sent) {
        (Err(failure), _) => failure,
        (Ok(()), Err(error)) if !error.is_closed() => Failure::of(&error, 0),
        _ => return Ok(0),
    };
    codec::write_failure(&failure, &mut output)?;
    let _ = wire::send(packets, Says::Raised, &output, &Vec::new());
    Ok(PANICKED)
}

fn refuse(packets: &Packets, error: &Error) -> i32 {
    say(error);
    // The starter sees the end of this process in any case.
    let _ = wire::send(packets, Says::Refused, &error.report(), &Vec::new());
    1
}

fn say(error: &Error) {
    // Not eprintln: it panics where stderr is closed.
    let _ = writeln!(std::io::stderr(), "manycore process {}: {error}", std::process::id());
}
