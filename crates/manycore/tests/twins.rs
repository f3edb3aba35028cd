//! Two tasks that cannot be told apart: the program does not start.

#![forbid(unsafe_code)]

use libtest_mimic::{Arguments, Trial};
use manycore::Pool;

// Two blocks without names: to other processes their functions are the same.
const _: () = {
    #[manycore::task]
    fn twin(x: u32) -> u32 {
        x
    }
};
const _: () = {
    #[manycore::task]
    fn twin(x: u32) -> u32 {
        x + 1
    }
};

fn main() {
    let trial = Trial::test("twins_are_refused_at_the_start", || {
        let places =
            || include_str!("twins.rs").lines().zip(1..).filter(|(line, _)| line.contains("#[manycore::task]"));
        let refused = std::panic::catch_unwind(manycore::init).expect_err("a panic");
        let said = refused.downcast_ref::<String>().expect("a text").clone();
        let told = Pool::with_workers(1).expect_err("an error").to_string();
        for text in [said, told] {
            assert!(text.contains("cannot be told apart") && text.contains("twin"), "{text}");
            for (_, line) in places().take(2) {
                assert!(text.contains(&format!("twins.rs:{line}")), "{text}");
            }
        }
        Ok(())
    });
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit();
}
