//! Documents from strangers, parsed by a C library that believes what they say. The parser crashes, hangs and eats
//! memory in workers; the program reads on.
//!
//! `cargo run --release --example parse_untrusted`
//!
//! # Why this file is unsafe
//!
//! It calls C with an address that a document gives. That this is wrong is what it shows.

#![allow(unsafe_code)]

use manycore::{Pool, Result};
use std::time::Duration;

mod c_library {
    unsafe extern "C" {
        /// The C library's own: reads from an address until a zero byte.
        pub(super) fn strlen(text: *const u8) -> usize;
    }
}

/// A document: eight bytes that say where its title starts, then text.
fn document(title_at: i64, text: &str) -> Vec<u8> {
    [&title_at.to_le_bytes()[..], text.as_bytes(), b"\0"].concat()
}

/// The title of a document, as a careless C parser finds it.
fn title(document: Vec<u8>) -> Option<String> {
    let (at, text) = document.split_first_chunk()?;
    match i64::from_le_bytes(*at) {
        -1 => loop {
            // A reference to itself, followed for ever.
            std::hint::spin_loop();
        },
        -2 => Some(String::from_utf8_lossy(&vec![b'x'; 1 << 40]).into_owned()),
        at => {
            let start = text.as_ptr().wrapping_offset(at as isize);
            // SAFETY: none. The document says where to read, and nobody has checked it.
            let len = unsafe { c_library::strlen(start) };
            let start = usize::try_from(at).ok()?;
            Some(String::from_utf8_lossy(text.get(start..start + len)?).into_owned())
        }
    }
}

fn main() -> Result<()> {
    manycore::init();
    let pool = Pool::builder().workers(2).task_timeout(Duration::from_millis(300)).memory_limit(1 << 30).build()?;
    let documents = [
        document(0, "Moby-Dick"),
        document(1 << 45, "points far outside"),
        document(4, "The Trial"),
        document(-1, "refers to itself"),
        document(-2, "says it is a terabyte long"),
        vec![1, 2, 3],
        document(0, "Middlemarch"),
    ];
    let mut titles = Vec::new();
    for (number, title) in pool.imap(title, documents)?.enumerate() {
        match title {
            Ok(Some(title)) => {
                println!("{number}: {title}");
                titles.push(title);
            }
            Ok(None) => println!("{number}: has no title"),
            Err(error) => println!("{number}: {error}"),
        }
    }
    assert_eq!(titles, ["Moby-Dick", "Trial", "Middlemarch"]);
    println!("{} workers lost their lives, the program did not", pool.statistics().workers_ended);
    Ok(())
}
