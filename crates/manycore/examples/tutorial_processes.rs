//! Four processes with names. A, B and C run side by side; D has to wait until C is done.
//!
//! `cargo run --release --example tutorial_processes`

use manycore::{Process, Result};
use std::time::Duration;

/// Says who is counting, and takes a nap after each step.
fn count_up(name: String, letter: char, steps: u32, pause: Duration) -> u32 {
    for step in 1..=steps {
        println!("{name}: {letter}{step}");
        std::thread::sleep(pause);
    }
    println!("{name}: done in process {}", std::process::id());
    std::process::id()
}

fn start(name: &str, letter: char, steps: u32, pause: u64) -> Result<Process<u32>> {
    let arguments = (name.to_owned(), letter, steps, Duration::from_millis(pause));
    Process::builder().name(name).spawn(count_up, arguments)
}

fn main() -> Result<()> {
    manycore::init();
    let mut a = start("Process A", 'a', 4, 250)?;
    let mut b = start("Process B", 'b', 3, 200)?;
    let mut c = start("Process C", 'c', 2, 150)?;

    let id = c.join()?;
    println!("{} has ended, it was process {id}; starting Process D", c.name());
    let mut d = start("Process D", 'd', 2, 100)?;

    for process in [&mut a, &mut b, &mut d] {
        assert_eq!(process.join()?, process.id());
    }
    println!("all ended");
    Ok(())
}
