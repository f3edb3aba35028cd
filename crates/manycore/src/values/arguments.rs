//! The arguments of a call.

use crate::codec::{Reader, Writer};
use crate::error::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The arguments of a [`Task`](crate::Task): a tuple of up to eight values that serde can write and read
/// back, `()` for none, `(value,)` for one.
///
/// Implemented for such tuples and for nothing else.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// /// Calls `task` three times.
/// fn thrice<Args: manycore::Arguments + Clone, F>(pool: &manycore::Pool, task: F, arguments: Args) -> manycore::Result<Vec<u64>>
/// where
///     F: manycore::Task<Args, Output = u64>,
/// {
///     pool.starmap(task, vec![arguments; 3])
/// }
///
/// let pool = manycore::Pool::with_workers(1)?;
/// assert_eq!(thrice(&pool, |a: u64, b: u64| a * b, (2, 3))?, [6, 6, 6]);
/// # Ok(())
/// # }
/// ```
pub trait Arguments: Serialize + DeserializeOwned + 'static {
    /// How many there are.
    #[doc(hidden)]
    const COUNT: usize;

    /// Appends them to a chunk.
    #[doc(hidden)]
    fn write(self, writer: &mut Writer) -> Result<()>;

    /// Takes them out of a chunk.
    #[doc(hidden)]
    fn read(reader: &mut Reader<'_>) -> Result<Self>;
}

macro_rules! tuples {
    ($($argument:ident)*) => {
        impl<$($argument: Serialize + DeserializeOwned + 'static),*> Arguments for ($($argument,)*) {
            const COUNT: usize = <[&str]>::len(&[$(stringify!($argument)),*]);

            #[allow(non_snake_case, unused_variables)]
            #[inline]
            fn write(self, writer: &mut Writer) -> Result<()> {
                let ($($argument,)*) = self;
                $(writer.push_value($argument)?;)*
                Ok(())
            }

            #[allow(non_snake_case, unused_variables)]
            #[inline]
            fn read(reader: &mut Reader<'_>) -> Result<Self> {
                $(let $argument = reader.read_value()?;)*
                Ok(($($argument,)*))
            }
        }
    };
}

tuples!();
tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E G);
tuples!(A B C D E G H);
tuples!(A B C D E G H I);
