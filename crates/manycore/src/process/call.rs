//! What a process is started with: the task, its arguments, and what it may use.

use crate::codec::{self, Reader};
use crate::error::Result;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The first message a process receives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    /// See `code.rs`.
    pub(super) code: Vec<u8>,
    /// A chunk of one: the tuple of the arguments.
    pub(super) arguments: Vec<u8>,
    pub(super) directory: Option<PathBuf>,
    /// Bytes of memory of its own.
    pub(super) memory_limit: Option<u64>,
    /// Seconds of a processor's time.
    pub(super) processor_limit: Option<u64>,
}

impl Call {
    /// The arguments come last, and as they are: they may be large.
    pub(super) fn write(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let directory = self.directory.as_ref().map(|directory| directory.as_os_str().as_bytes());
        let limits = (self.memory_limit, self.processor_limit);
        codec::push(&mut bytes, &(&self.name, &self.code, directory, limits))?;
        bytes.extend(&self.arguments);
        Ok(bytes)
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Call> {
        type Head = (String, Vec<u8>, Option<Vec<u8>>, (Option<u64>, Option<u64>));
        let mut reader = Reader::over(bytes);
        let (name, code, directory, (memory_limit, processor_limit)) = reader.read::<Head>()?;
        let directory = directory.map(|bytes| PathBuf::from(OsString::from_vec(bytes)));
        Ok(Call { name, code, arguments: reader.rest().to_vec(), directory, memory_limit, processor_limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let call = Call {
            name: "some".to_owned(),
            code: vec![1, 2, 3],
            arguments: vec![4; 1000],
            directory: Some(PathBuf::from("/tmp")),
            memory_limit: Some(1 << 30),
            processor_limit: None,
        };
        let bytes = call.write().unwrap();
        assert_eq!(Call::read(&bytes).unwrap(), call);
        assert!(Call::read(&bytes[..4]).is_err());
    }
}
