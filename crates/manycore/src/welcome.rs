//! What every worker of a pool is told before its first call: its limits, and what it runs at its begin and its end.

use crate::code::{self, Code};
use crate::codec::{self, Reader, Writer};
use crate::error::{Error, Kind, Result};
use crate::values::Arguments;
use serde::{Deserialize, Serialize};

/// The pool's wishes, as workers read them when they sit down.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// Calls after which a worker goes.
    pub(crate) most_calls: Option<usize>,
    /// Bytes of memory a worker may have for itself.
    pub(crate) memory: Option<u64>,
    /// Bytes of memory above which a worker goes after a task.
    pub(crate) most_resident: Option<u64>,
    initializer: Option<Errand>,
    finalizer: Option<Errand>,
}

/// A call that each worker makes for itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Errand {
    name: String,
    code: Vec<u8>,
    /// A chunk of one call.
    arguments: Vec<u8>,
}

impl Welcome {
    /// Has every worker call `code` with `arguments` before its first task.
    pub(crate) fn initialize<Args: Arguments>(&mut self, code: &Code, arguments: Args) -> Result<()> {
        self.initializer = Some(Errand::new(code, arguments)?);
        Ok(())
    }

    /// Has every worker call `code` with `arguments` when it ends normally.
    pub(crate) fn finalize<Args: Arguments>(&mut self, code: &Code, arguments: Args) -> Result<()> {
        self.finalizer = Some(Errand::new(code, arguments)?);
        Ok(())
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        codec::begin(&mut bytes, 1);
        codec::push(&mut bytes, self)?;
        Ok(bytes)
    }

    /// Reads a welcome; none was written where there are no bytes.
    pub(crate) fn from_bytes(bytes: Option<&[u8]>) -> Result<Welcome> {
        bytes.map_or_else(|| Ok(Welcome::default()), |bytes| Reader::new(bytes)?.read())
    }

    /// In a worker: does what it says.
    ///
    /// # Errors
    /// What the initializer said when it panicked.
    pub(crate) fn obey(&self) -> Result<()> {
        if let Some(bytes) = self.memory {
            manycore_engine::os::limits::data(bytes)?;
        }
        let Some(initializer) = &self.initializer else { return Ok(()) };
        initializer.run().map_err(|error| {
            Error::new(Kind::Start, format!("the workers do not start, since their initializer fails: {error}"))
        })
    }

    /// In a worker that ends normally: runs the finalizer.
    ///
    /// # Errors
    /// What the finalizer said when it panicked.
    pub(crate) fn part(&self) -> Result<()> {
        self.finalizer.as_ref().map_or(Ok(()), Errand::run)
    }
}

impl Errand {
    fn new<Args: Arguments>(code: &Code, arguments: Args) -> Result<Errand> {
        let mut writer = Writer::default();
        writer.begin(1);
        arguments.write(&mut writer)?;
        let mut bytes = Vec::new();
        writer.swap_head(&mut bytes);
        Ok(Errand { name: code.name.to_owned(), code: code.bytes.clone(), arguments: bytes })
    }

    fn run(&self) -> Result<()> {
        let ran = code::open(&self.code)?.run(&self.arguments, &mut Vec::new());
        ran.map_err(|failure| failure.error(&self.name, None))
    }
}
