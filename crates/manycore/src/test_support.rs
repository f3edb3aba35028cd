//! Processes of a program whose main belongs to a test harness.

use std::ffi::OsString;

/// One use of [`test_support!`](crate::test_support!): the test that a process of the
/// program runs.
#[derive(Debug)]
pub struct Helper {
    /// With the crate's name, which the harness leaves out.
    module: &'static str,
}

inventory::collect!(Helper);

impl Helper {
    /// For the expansion of the macro.
    pub const fn new(module: &'static str) -> Helper {
        Helper { module }
    }
}

/// Whether a test harness has the program's main.
pub(crate) fn is_used() -> bool {
    inventory::iter::<Helper>().next().is_some()
}

/// The arguments with which the harness runs nothing but the helper.
pub(crate) fn arguments() -> Option<[OsString; 5]> {
    let module = inventory::iter::<Helper>().next()?.module;
    let inside = module.split_once("::").map_or(module, |(_, inside)| inside);
    let test = format!("{inside}::process");
    Some([&test, "--exact", "--nocapture", "--quiet", "--test-threads=1"].map(OsString::from))
}

/// Makes pools and processes work in tests: once, anywhere in a test program.
///
/// The processes of a program are the program itself, started again, and of a test
/// program the main belongs to the harness (libtest, also under nextest). This line adds
/// a test of its own to it, `manycore_test_support::process`, which is what such a
/// process runs; in a run of the tests it does nothing.
///
/// ```
/// #[cfg(test)]
/// mod tests {
///     manycore::test_support!();
///
///     #[test]
///     fn squares() {
///         let pool = manycore::Pool::with_workers(2).unwrap();
///         assert_eq!(pool.map(|x: u64| x * x, 0..3).unwrap(), [0, 1, 4]);
///     }
/// }
/// ```
///
/// Processes of a test program do not see its arguments. A program with a main of
/// its own (`harness = false`) calls [`crate::init`] there instead.
#[expect(clippy::test_attr_in_doctest, reason = "it shows how a test is written")]
#[macro_export]
macro_rules! test_support {
    () => {
        mod manycore_test_support {
            /// A process of the test program goes no further.
            #[test]
            fn process() {
                $crate::__private::become_process();
            }

            $crate::__private::inventory::submit! {
                $crate::__private::Helper::new(::core::module_path!())
            }
        }
    };
}
