//! Tasks without a name: how a function or closure that nobody registered is found in
//! another process.
//!
//! For each type of task that is given to a pool or process, the compiler puts a
//! [`Record`] among the program's constants: a mark, and the function that brings
//! the task up. What travels is how far the record is from where the program was
//! loaded. The other process, of the same build (which is checked before it takes
//! any task), has the same record at the same distance.
//!
//! # Why this file is unsafe
//!
//! A distance that came from another process is turned into a reference, and a
//! value of the task's type is made out of nothing.
//!
//! The reference: no distance is turned into the address of code. It must lead,
//! with all bytes of a record, into memory that the loader made read-only
//! (`Image::constant`), so no input and no damage can have put anything there; and
//! the mark must stand there, which only the compiler puts anywhere, and only into
//! records. So whatever number comes, either an error comes of it or one of this
//! program's own records.
//!
//! The value: a function item or a closure without captures has no bytes, which is
//! checked when it is compiled. It is `Copy`, `Send`, `Sync` and `'static`, so the
//! value which the sender had in hand could have gone to any thread at any time;
//! this process, the same program, is treated as one more. What that does not
//! cover is documented at [`crate::Task`]: a closure that captured a value without
//! size which stands for something done in the sender's process.

#![allow(unsafe_code)]

use crate::code::Call;
use crate::error::{Error, Kind, Result};
use crate::task::Task;
use manycore_engine::os::image::Image;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ptr::NonNull;

/// Brings a task up, out of what it captured.
pub(crate) type Open = fn(&[u8]) -> Result<Box<dyn Call>>;

/// Random, and in the program's constants nowhere but in records: the check below
/// puts it together when it runs.
const MARK: u128 = 0x1c8f_72e5_a90b_4d63_b7e1_3f58_c06d_924a;

/// What one type of task leaves in the program.
#[repr(C)]
pub(crate) struct Record {
    mark: u128,
    open: Open,
}

/// Says that a task has come from another process. Made in this file only.
#[derive(Debug)]
pub struct Arrival(PhantomData<*const ()>);

/// Holds the record of the task `F` with the arguments `Args`.
struct Of<F, Args>(PhantomData<(F, Args)>);

impl<F: Task<Args>, Args: 'static> Of<F, Args> {
    const RECORD: &'static Record = &Record { mark: MARK, open: open::<F, Args> };
}

fn open<F: Task<Args>, Args: 'static>(captures: &[u8]) -> Result<Box<dyn Call>> {
    Ok(F::arrive(captures, Arrival(PhantomData))?.ready())
}

/// Where the record of `F` is, in any process of this build.
pub(crate) fn offset<F: Task<Args>, Args: 'static>() -> Result<u64> {
    let record = Of::<F, Args>::RECORD;
    // SAFETY: the bytes of a constant; read by nobody, only their place counts.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const *record).cast::<u8>(), size_of::<Record>()) };
    Image::get().offset_of(bytes).ok_or_else(|| {
        Error::new(
            Kind::Unregistered,
            format!(
                "`{}` stands in a shared library, where another process may not find it; write #[manycore::task] \
                 above it",
                F::name()
            ),
        )
    })
}

/// What brings up the task whose record is at `offset`.
pub(crate) fn at(offset: u64) -> Option<Open> {
    let bytes = Image::get().constant(offset, size_of::<Record>())?;
    let mark = bytes.get(offset_of!(Record, mark)..)?.first_chunk()?;
    let expected = std::hint::black_box(MARK.rotate_left(64)).rotate_left(64);
    if !bytes.as_ptr().cast::<Record>().is_aligned() || u128::from_ne_bytes(*mark) != expected {
        return None;
    }
    // SAFETY: aligned, all its bytes in constant memory of this program, and marked
    // as a record (all checked above).
    let record: &'static Record = unsafe { &*bytes.as_ptr().cast() };
    Some(record.open)
}

impl Arrival {
    /// The function or closure without captures that has arrived.
    pub(crate) fn function<F: Copy + Send + Sync + 'static>(&self) -> F {
        const {
            assert!(
                size_of::<F>() == 0,
                "another process cannot run a pointer or a closure with captures: give the name of a function, \
                 or closure!(move(captured) |argument: Type| ...)"
            );
        }
        // SAFETY: aligned, and good for reading no bytes at all; that a value of this
        // type may be here is argued at the top of this file.
        unsafe { NonNull::<F>::dangling().read() }
    }
}
