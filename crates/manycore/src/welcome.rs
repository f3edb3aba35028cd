//! What every worker of a pool is told before its first call.

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
    initializer: Option<Initializer>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Initializer {
    name: String,
    code: Vec<u8>,
    /// A chunk of one call.
    arguments: Vec<u8>,
}

impl Welcome {
    /// Has every worker call `code` with `arguments`.
    pub(crate) fn initialize<Args: Arguments>(&mut self, code: &Code, arguments: Args) -> Result<()> {
        let mut writer = Writer::default();
        writer.begin(1);
        arguments.write(&mut writer)?;
        let mut bytes = Vec::new();
        writer.swap_head(&mut bytes);
        self.initializer = Some(Initializer { name: code.name.to_owned(), code: code.bytes.clone(), arguments: bytes });
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
        let Some(Initializer { name, code, arguments }) = &self.initializer else { return Ok(()) };
        code::open(code)?.run(arguments, &mut Vec::new()).map_err(|failure| {
            let message =
                format!("the workers do not start, since their initializer fails: {}", failure.error(name, None));
            Error::new(Kind::Start, message)
        })
    }
}
