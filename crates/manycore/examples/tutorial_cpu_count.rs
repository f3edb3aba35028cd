//! How many processors are there, and how many of them may this program use?
//!
//! `cargo run --release --example tutorial_cpu_count`

fn main() {
    println!("std::thread::available_parallelism(): {:?}", std::thread::available_parallelism());
    println!("manycore::cpu_count():                {}", manycore::cpu_count());
    println!("manycore::usable_cpu_count():         {}", manycore::usable_cpu_count());
}
