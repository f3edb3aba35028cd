//! What can be given to another process to run: functions, closures, and closures
//! with what they capture.

use crate::code::{Call, Ready};
use crate::codec::{Reader, Writer};
use crate::error::Result;
use crate::record::Arrival;
use crate::values::Arguments;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::type_name;
use std::fmt;

/// A function that another process of this program can run, with the arguments
/// `Args`, a tuple.
///
/// | what | how it is given |
/// |---|---|
/// | a function | by its name: `pool.map(square, 0..10)` |
/// | a closure without captures | as it is: `pool.map(\|x: u64\| x * x, 0..10)` |
/// | a closure with captures | by [`closure!`](crate::closure!): what it captures travels by serde |
/// | a function of a shared library | by its name, with [`#[manycore::task]`](crate::task) on it |
///
/// Arguments and results are owned values that serde can write and read back.
/// The types of a closure's arguments have to be named. What does not compile is a
/// closure with captures of its own, or a pointer to a function: an address means
/// nothing in another process.
///
/// ```compile_fail
/// # manycore::init();
/// let factor = 3;
/// let pool = manycore::Pool::new().unwrap();
/// pool.map(move |x: u64| factor * x, [1, 2]);
/// ```
///
/// ```compile_fail
/// # manycore::init();
/// let functions: [fn(u64) -> u64; 2] = [|x| x + 1, |x| x + 2];
/// manycore::Process::spawn(functions[0], (1,));
/// ```
///
/// `cargo build` says so, and names the line; `cargo check` does not get as far as that.
///
/// A closure that captures values of types without size counts as one without captures.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be run with the arguments `{Args}` in another process",
    note = "give a function by its name, a closure without captures, or closure!(move(captured) |argument: Type| …)",
    note = "arguments and results must be owned values that serde can write and read back"
)]
pub trait Task<Args>: Sized + 'static {
    /// What it gives.
    type Output;

    /// Refuses, when the program is built, what another process cannot run. Each verb asks for it itself: the
    /// compiler then names the line that calls the verb.
    #[doc(hidden)]
    const IS_SENDABLE: ();

    /// Runs it here.
    #[doc(hidden)]
    fn call(&self, arguments: Args) -> Self::Output;

    /// What it captures, as bytes; None where it captures nothing.
    #[doc(hidden)]
    fn captures(&self) -> Result<Option<Vec<u8>>>;

    /// The task as it comes up in another process, out of its captures.
    #[doc(hidden)]
    fn arrive(captures: &[u8], arrival: Arrival) -> Result<Self>;

    /// Ready to be called.
    #[doc(hidden)]
    fn ready(self) -> Box<dyn Call>;

    /// What it is called in messages.
    #[doc(hidden)]
    fn name() -> &'static str {
        type_name::<Self>()
    }
}

const fn sendable<F>() {
    assert!(
        size_of::<F>() == 0,
        "another process cannot run a pointer or a closure with captures: give the name of a function, or \
         closure!(move(captured) |argument: Type| ...)"
    );
}

macro_rules! functions {
    ($($argument:ident)*) => {
        impl<F, R, $($argument),*> Task<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> R + Copy + Send + Sync + 'static,
            ($($argument,)*): Arguments,
            R: Serialize + 'static,
        {
            type Output = R;

            const IS_SENDABLE: () = sendable::<F>();

            #[allow(non_snake_case)]
            fn call(&self, ($($argument,)*): ($($argument,)*)) -> R {
                self($($argument),*)
            }

            fn captures(&self) -> Result<Option<Vec<u8>>> {
                Ok(None)
            }

            fn arrive(_captures: &[u8], arrival: Arrival) -> Result<F> {
                Ok(arrival.function())
            }

            fn ready(self) -> Box<dyn Call> {
                Box::new(Ready::<F, ($($argument,)*)>::new(self))
            }
        }
    };
}

functions!();
functions!(A);
functions!(A B);
functions!(A B C);
functions!(A B C D);
functions!(A B C D E);
functions!(A B C D E G);
functions!(A B C D E G H);
functions!(A B C D E G H I);

/// A closure with what it captures, made by [`closure!`](crate::closure!).
#[derive(Clone)]
pub struct Bound<C, F> {
    captures: C,
    function: F,
}

/// What [`closure!`](crate::closure!) expands to.
#[doc(hidden)]
pub fn bind<C, F, Args, R>(captures: C, function: F) -> Bound<C, F>
where
    F: Fn(&C, Args) -> R,
{
    Bound { captures, function }
}

impl<C, F, Args, R> Task<Args> for Bound<C, F>
where
    C: Serialize + DeserializeOwned + 'static,
    F: Fn(&C, Args) -> R + Copy + Send + Sync + 'static,
    Args: Arguments,
    R: Serialize + 'static,
{
    type Output = R;

    const IS_SENDABLE: () = sendable::<F>();

    fn call(&self, arguments: Args) -> R {
        (self.function)(&self.captures, arguments)
    }

    fn captures(&self) -> Result<Option<Vec<u8>>> {
        let (mut writer, mut bytes) = (Writer::default(), Vec::new());
        writer.begin(1);
        writer.push(&self.captures)?;
        writer.swap_head(&mut bytes);
        Ok(Some(bytes))
    }

    fn arrive(captures: &[u8], arrival: Arrival) -> Result<Bound<C, F>> {
        Ok(Bound { captures: Reader::new(captures)?.read()?, function: arrival.function() })
    }

    fn ready(self) -> Box<dyn Call> {
        Box::new(Ready::<Self, Args>::new(self))
    }

    fn name() -> &'static str {
        type_name::<F>()
    }
}

impl<C: fmt::Debug, F> fmt::Debug for Bound<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("captures", &self.captures).finish_non_exhaustive()
    }
}

/// A closure with captures, to be run in another process.
///
/// `move(…)` lists the variables it takes with it: values that serde can write and
/// read back. They travel once for each call of a pool, however many items it has.
/// In the body they are references, since the body may run many times. The
/// arguments' types have to be named. A worker that waits for its next task lets go of files,
/// channels and locks among them, so the end of a call is the end of its handles.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::{Pool, closure};
///
/// let (factor, offset) = (3, 1);
/// let pool = Pool::with_workers(1)?;
/// let line = closure!(move(factor, offset) |x: i64| factor * x + offset);
/// assert_eq!(pool.map(line, 0..3)?, [1, 4, 7]);
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! closure {
    (move($($captured:ident),+ $(,)?) || -> $result:ty $body:block) => {
        $crate::closure!(@ ($($captured)+) () (-> $result) $body)
    };
    (move($($captured:ident),+ $(,)?) || $body:expr) => {
        $crate::closure!(@ ($($captured)+) () () $body)
    };
    (move($($captured:ident),+ $(,)?) |$($argument:tt : $type:ty),+ $(,)?| -> $result:ty $body:block) => {
        $crate::closure!(@ ($($captured)+) ($($argument: $type,)+) (-> $result) $body)
    };
    (move($($captured:ident),+ $(,)?) |$($argument:tt : $type:ty),+ $(,)?| $body:expr) => {
        $crate::closure!(@ ($($captured)+) ($($argument: $type,)+) () $body)
    };
    (@ ($($captured:ident)+) ($($argument:tt : $type:ty,)*) ($($result:tt)*) $body:expr) => {
        $crate::__private::bind(
            ($($captured,)+),
            // The user's braces around one expression are inside of ours.
            #[allow(unused_braces)]
            |captures: &_, ($($argument,)*): ($($type,)*)| $($result)* {
                let ($($captured,)+) = captures;
                $body
            },
        )
    };
}
