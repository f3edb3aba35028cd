//! A test harness of few lines, for test programs that start themselves as
//! workers: libtest would print into a worker's output and run it in a thread.

use std::panic::catch_unwind;

/// A test by its name.
pub type Test = (&'static str, fn());

/// Runs the tests the command line asks for, one after the other. Understands
/// what `cargo test` and `cargo nextest` say.
pub fn run(tests: &[Test]) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || filters
                .iter()
                .any(|filter| if has("--exact") { *filter == name } else { name.contains(filter.as_str()) })
    };
    if has("--list") {
        // No test is ignored, and nextest asks for those apart.
        for (name, _) in tests.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return;
    }
    let mut failed = 0;
    for (name, test) in tests.iter().filter(|(name, _)| wanted(name)) {
        let outcome = if catch_unwind(test).is_ok() { "ok" } else { "FAILED" };
        failed += i32::from(outcome != "ok");
        println!("test {name} ... {outcome}");
    }
    std::process::exit(failed);
}
