//! One error, few kinds: kinds are for deciding, words are for reading.

use std::fmt;

/// What the caller can do about an [`Error`].
///
/// Closed on purpose: a new kind breaks the build of every face until the face
/// has an answer for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The time given was over before the event.
    Timeout,
    /// A signal arrived while waiting; run its handler and wait again.
    Interrupted,
    /// The pool takes no more work.
    Closed,
    /// The payload does not fit into the shared memory that is left.
    TooLarge,
    /// Another process wrote something into shared memory that cannot be true.
    Corrupt,
    /// The kernel refused; `os_code` says why.
    Os,
}

/// Why an operation of the engine failed.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    os_code: Option<i32>,
    message: String,
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`; `message` says what was tried, on what, and what to do.
    #[cold]
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, os_code: None, message: message.into() }
    }

    /// The kernel's refusal `code` (an `errno`) while `attempt` was made.
    #[cold]
    pub fn os(attempt: impl fmt::Display, code: i32) -> Error {
        let reason = std::io::Error::from_raw_os_error(code);
        Error { kind: Kind::Os, os_code: Some(code), message: format!("{attempt}: {reason}") }
    }

    /// What another process wrote cannot be true.
    #[cold]
    pub fn corrupt(what: impl fmt::Display) -> Error {
        Error::new(
            Kind::Corrupt,
            format!("shared memory is damaged: {what}; close the pool or queue it belongs to and start a new one"),
        )
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The `errno` of a [`Kind::Os`] error.
    pub fn os_code(&self) -> Option<i32> {
        self.os_code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
