#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod codec;
mod crew;
mod error;
mod failure;
mod init;
mod invitation;
mod map;
mod pool;
mod registry;
mod worker;

pub use error::{Error, Result};
pub use init::init;
pub use pool::Pool;

/// Makes functions known to worker processes, so that [`Pool::map`] can run them.
///
/// Each takes one value and gives one, both of types that serde can write and
/// read back; several arguments are a tuple. Name a function once, anywhere in
/// the program or in a library it uses; of a generic one name every instance.
///
/// ```
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// fn longest<T: AsRef<str>>(words: Vec<T>) -> usize {
///     words.iter().map(|word| word.as_ref().len()).max().unwrap_or(0)
/// }
///
/// manycore::tasks!(square, longest::<String>);
/// ```
#[macro_export]
macro_rules! tasks {
    ($($task:path),+ $(,)?) => {
        $($crate::__private::inventory::submit! {
            $crate::__private::Entry::new(
                || $crate::__private::describe($task),
                |input, output| $crate::__private::run($task, input, output),
                ::core::concat!(::core::file!(), ":", ::core::line!()),
            )
        })+
    };
}

/// What [`tasks!`] expands to; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::registry::{Entry, describe, run};
    pub use inventory;
}
