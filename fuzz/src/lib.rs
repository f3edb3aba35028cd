//! What the targets share: how an input is read, and how a peer's memory is damaged.

pub mod python;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// An input, read from its beginning. After its end it gives zeros.
pub struct Tape<'a>(pub &'a [u8]);

impl<'a> Tape<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// A number below `end`, out of two bytes.
    pub fn below(&mut self, end: usize) -> usize {
        let (low, high) = (self.byte(), self.byte());
        usize::from(u16::from_le_bytes([low, high])) % end.max(1)
    }

    /// As many bytes, or what is left.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn long(&mut self) -> u64 {
        let mut word = [0; 8];
        let bytes = self.bytes(8);
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    }
}

/// The parts of a memory file that were ever written, as `start..end`. A region is far larger than what is in use.
fn written(file: &File) -> Vec<(u64, u64)> {
    use rustix::fs::{SeekFrom, seek};
    let (fd, mut at, mut parts) = (file.as_fd(), 0, Vec::new());
    while let Ok(start) = seek(fd, SeekFrom::Data(at)) {
        let end = seek(fd, SeekFrom::Hole(start)).expect("a part that has begun ends");
        parts.push((start, end));
        at = end;
    }
    parts
}

/// Overwrites one word of what is in use, as a peer that has gone wrong would.
pub fn damage(file: &File, tape: &mut Tape<'_>) {
    let parts = written(file);
    let how = tape.byte();
    // Half of all damage goes to the first kibibytes, where most words of a protocol stand.
    let place = tape.below(1 << 16) as u64;
    let (start, end) = parts[if how & 1 == 0 { 0 } else { tape.below(parts.len()) }];
    let at = start + place * 8 % (end - start);
    let mut old = [0; 8];
    file.read_exact_at(&mut old, at).expect("this part is there");
    let old = u64::from_ne_bytes(old);
    let new = match how >> 1 & 7 {
        0 => tape.long(),
        1 => u64::MAX,
        2 => 0,
        3 => old.wrapping_add(u64::from(tape.byte())),
        4 => old.wrapping_sub(u64::from(tape.byte())),
        5 => old ^ 1 << (tape.byte() & 63),
        6 => old & 0xFFFF_FFFF | tape.long() << 32,
        _ => u64::from(tape.byte()),
    };
    file.write_all_at(&new.to_ne_bytes(), at).expect("memory is there");
}
