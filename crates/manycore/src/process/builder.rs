//! How a process is to be started.

use super::call::Call;
use super::wire::{self, Says};
use super::{Process, left};
use crate::code::Code;
use crate::codec::Writer;
use crate::error::{Error, Kind, Result};
use crate::init;
use crate::invitation::{Invitation, Role};
use crate::passing;
use crate::registry::Registry;
use crate::start::Start;
use crate::task::Task;
use crate::values::Arguments;
use manycore_engine::os::lifeline;
use manycore_engine::os::packets::Packets;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// What a process gets as standard input, output or error.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::{Process, Stdio};
/// use std::io::Write;
///
/// let count = || std::io::stdin().lines().count();
/// let mut process = Process::builder().stdin(Stdio::Piped).spawn(count, ())?;
/// process.stdin.take().expect("a pipe").write_all(b"one\ntwo\n").expect("room in a pipe");
/// assert_eq!(process.join()?, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub enum Stdio {
    /// The same as this process.
    #[default]
    Inherit,
    /// Nothing: `/dev/null`.
    Null,
    /// A pipe, whose other end is in the [`Process`].
    Piped,
    /// This file.
    File(OwnedFd),
}

impl<T: Into<OwnedFd>> From<T> for Stdio {
    fn from(file: T) -> Stdio {
        Stdio::File(file.into())
    }
}

/// How a [`Process`] is to be started; made by [`Process::builder`].
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::{Process, Stdio};
/// use std::io::Read;
///
/// let mut process = Process::builder()
///     .name("greeter")
///     .env("GREETING", "hello")
///     .current_dir("/")
///     .memory_limit(1 << 30)
///     .stdout(Stdio::Piped)
///     .spawn(|| println!("{} from {:?}", std::env::var("GREETING").unwrap(), std::env::current_dir().unwrap()), ())?;
/// let mut text = String::new();
/// process.stdout.take().expect("a pipe").read_to_string(&mut text).expect("a text");
/// process.join()?;
/// assert!(text.contains("hello from \"/\""));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use = "nothing is started before `spawn`"]
pub struct ProcessBuilder {
    name: Option<String>,
    arguments: Option<Vec<OsString>>,
    environment: Option<Vec<(OsString, OsString)>>,
    streams: [Stdio; 3],
    directory: Option<PathBuf>,
    memory_limit: Option<u64>,
    processor_limit: Option<u64>,
    outlives: bool,
}

impl ProcessBuilder {
    /// A name for messages and lists of processes (which show 15 bytes of it). Unless
    /// given, the name of the task.
    pub fn name(mut self, name: impl Into<String>) -> ProcessBuilder {
        self.name = Some(name.into());
        self
    }

    /// What `std::env::args` gives there after the program's name. Unless given, the
    /// same as here.
    pub fn args<I: IntoIterator<Item: Into<OsString>>>(mut self, arguments: I) -> ProcessBuilder {
        self.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// Sets a variable of the environment, which otherwise is the same as here.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> ProcessBuilder {
        let name = name.into();
        self = self.env_remove(&name);
        self.environment.get_or_insert_default().push((name, value.into()));
        self
    }

    /// Leaves a variable out of the environment.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> ProcessBuilder {
        let name = name.into();
        let environment = self.environment.get_or_insert_with(|| std::env::vars_os().collect());
        environment.retain(|(other, _)| *other != name);
        self
    }

    /// Starts with an empty environment.
    pub fn env_clear(mut self) -> ProcessBuilder {
        self.environment = Some(Vec::new());
        self
    }

    /// The standard input.
    pub fn stdin(mut self, stream: impl Into<Stdio>) -> ProcessBuilder {
        self.streams[0] = stream.into();
        self
    }

    /// The standard output.
    pub fn stdout(mut self, stream: impl Into<Stdio>) -> ProcessBuilder {
        self.streams[1] = stream.into();
        self
    }

    /// The standard error.
    pub fn stderr(mut self, stream: impl Into<Stdio>) -> ProcessBuilder {
        self.streams[2] = stream.into();
        self
    }

    /// The directory the task runs in.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> ProcessBuilder {
        self.directory = Some(directory.into());
        self
    }

    /// So many bytes of memory the process may have for itself: its data, heap and stacks (`RLIMIT_DATA`), the
    /// program's own included, shared memory not. What asks for more gets none, which ends most programs.
    pub fn memory_limit(mut self, bytes: u64) -> ProcessBuilder {
        self.memory_limit = Some(bytes);
        self
    }

    /// At most so much of a processor's time (RLIMIT_CPU), rounded up to seconds; then
    /// the process is killed by SIGXCPU.
    pub fn cpu_limit(mut self, time: Duration) -> ProcessBuilder {
        self.processor_limit = Some(time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1));
        self
    }

    /// Whether the process ends with its handle and with this process, however that
    /// ends; true unless said otherwise. Of one that does not, dropping the handle
    /// lets go.
    pub fn daemon(mut self, daemon: bool) -> ProcessBuilder {
        self.outlives = !daemon;
        self
    }

    /// Starts a process that runs `task` with `arguments`, a tuple. Does not wait for it.
    ///
    /// # Errors
    /// Where [`crate::init`] was not called; where the arguments cannot travel; where
    /// the kernel refuses. What happens later is told by [`Process::join`].
    pub fn spawn<Args, F>(self, task: F, arguments: Args) -> Result<Process<F::Output>>
    where
        Args: Arguments,
        F: Task<Args, Output: DeserializeOwned>,
    {
        const { F::IS_SENDABLE };
        init::check()?;
        left::reap();
        let fingerprint = Registry::get()?.fingerprint;
        let (mut writer, mut chunk) = (Writer::default(), Vec::new());
        let (code, table) = passing::outgoing(|| {
            writer.begin(1);
            arguments.write(&mut writer)?;
            Code::of(&task)
        });
        let code = code?;
        writer.swap_head(&mut chunk);
        let name = self.name.unwrap_or_else(|| code.name.to_owned());
        let call = Call {
            name: name.clone(),
            code: code.bytes,
            arguments: chunk,
            directory: self.directory,
            memory_limit: self.memory_limit,
            processor_limit: self.processor_limit,
        };
        let (kept, given) = Packets::pair()?;
        wire::send(&kept, Says::Call, &call.write()?, &table)?;
        let lifeline = if self.outlives { None } else { Some(lifeline::pair()?) };
        let line = lifeline.as_ref().map(|(_, given)| given.as_fd());
        let invitation = Invitation::new(Role::Process, given.as_fd(), line, fingerprint)?;

        let [input, output, error] = self.streams;
        let (input, to_input) = stream(input, true)?;
        let (output, from_output) = stream(output, false)?;
        let (error, from_error) = stream(error, false)?;
        let start = Start { arguments: self.arguments, environment: self.environment, streams: [input, output, error] };
        let child = start.launch(invitation)?;
        let lifeline = lifeline.map(|(kept, _)| kept);
        let mut process = Process::new(child, kept, lifeline, name, code.name);
        process.stdin = to_input.map(Into::into);
        process.stdout = from_output.map(Into::into);
        process.stderr = from_error.map(Into::into);
        Ok(process)
    }
}

/// What a process gets, and what is kept here.
fn stream(stream: Stdio, is_input: bool) -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    let ends = || -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
        Ok(match stream {
            Stdio::Inherit => (None, None),
            Stdio::Null => (Some(File::options().read(is_input).write(!is_input).open("/dev/null")?.into()), None),
            // A duplicate is above the standard streams' own numbers.
            Stdio::File(file) => (Some(file.try_clone()?), None),
            Stdio::Piped => {
                let (reader, writer) = io::pipe()?;
                let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
                if is_input { (Some(reader), Some(writer)) } else { (Some(writer), Some(reader)) }
            }
        })
    };
    ends().map_err(|error| Error::new(Kind::System, format!("preparing a standard stream of a process: {error}")))
}
