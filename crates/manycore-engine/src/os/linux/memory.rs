//! Memory that several processes map.
//!
//! # Why this file is unsafe
//!
//! A mapping is an address range that the kernel owns and other processes
//! write. The raw address becomes a [`Mapping`] here; only `shm/` turns offsets
//! inside it into references, and argues for each.

#![allow(unsafe_code)]

use super::{refused, room};
use crate::error::{Error, Kind, Result};
use rustix::fs::{
    FallocateFlags, FlockOperation, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_lock, fstat, ftruncate,
    memfd_create,
};
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags, madvise, mmap, mmap_anonymous, mremap_fixed, munmap};
use rustix::process::{Resource, getrlimit};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// What the kernel maps around a read that misses (its default `fault_around_bytes`).
const AROUND: usize = 64 << 10;

/// Bytes of new pages that are written in one turn: a third of a millisecond.
const TURN: usize = 1 << 20;

/// A signal that comes while the kernel reserves pages makes it begin again: a piece takes 4 ms.
const RESERVED_AT_ONCE: usize = 16 << 20;

/// One shared, writable mapping of a whole memory file.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is an address range; it has no thread of its own, and who
// may touch which byte of it is decided in `shm/`.
unsafe impl Send for Mapping {}
// SAFETY: as above: `&Mapping` only gives out the address and the length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes an anonymous memory file of `len` bytes and maps it.
    ///
    /// The file is sparse: a page costs memory from its first write on. It has
    /// no name anywhere and is sealed, so no process can shrink it under
    /// another (which would be a SIGBUS there); it is gone with the last
    /// descriptor and mapping, also after SIGKILL of everybody.
    pub fn create(len: usize) -> Result<(OwnedFd, Mapping)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("manycore", flags).map_err(refused("creating shared memory (memfd_create)"))?;
        if getrlimit(Resource::Fsize).current.is_some_and(|most| len as u64 > most) {
            // The kernel would refuse it, too, and end the process by SIGXFSZ.
            let attempt = "sizing shared memory, which counts as a file (RLIMIT_FSIZE, ulimit -f)";
            return Err(Error::os(attempt, libc::EFBIG));
        }
        ftruncate(&file, len as u64).map_err(refused("sizing shared memory (ftruncate)"))?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(refused("sealing shared memory"))?;
        let mapping = Mapping::map(&file, len)?;
        Ok((file, mapping))
    }

    /// The same, with memory for all of it, so that no write meets a lack of memory (a SIGBUS).
    ///
    /// # Errors
    /// [`Kind::Os`] with ENOMEM or ENOSPC where there is less.
    pub fn reserve(len: usize) -> Result<(OwnedFd, Mapping)> {
        room::check(len as u64)?;
        let (file, mapping) = Mapping::create(len)?;
        for start in (0..len).step_by(RESERVED_AT_ONCE) {
            let (start, size) = (start as u64, RESERVED_AT_ONCE.min(len - start) as u64);
            while let Err(errno) = fallocate(&file, FallocateFlags::empty(), start, size) {
                if errno != rustix::io::Errno::INTR {
                    return Err(refused("reserving shared memory (fallocate)")(errno));
                }
            }
        }
        Ok((file, mapping))
    }

    /// Maps a file that another process made; its whole length.
    pub fn attach(file: impl AsFd) -> Result<Mapping> {
        let len = fstat(&file).map_err(refused("reading the size of shared memory"))?.st_size;
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len > 0)
            .ok_or_else(|| Error::new(Kind::Corrupt, format!("shared memory of {len} bytes cannot be mapped")))?;
        Mapping::map(&file, len)
    }

    fn map(file: impl AsFd, len: usize) -> Result<Mapping> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so nothing that exists is replaced.
        let base =
            unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED | MapFlags::NORESERVE, file, 0) }
                .map_err(refused("mapping shared memory (mmap)"))?;
        let base = NonNull::new(base.cast()).ok_or_else(|| Error::new(Kind::Os, "mmap gave address zero"))?;
        Ok(Mapping { base, len })
    }

    /// The first byte. Valid for `len()` bytes while `self` lives.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the mapping has no bytes; it never has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Maps those pages at `offset..offset + len` that the file has already, many at a
    /// time: a read brings in the `AROUND` bytes it falls into, where the first
    /// write to each page would be a fault of its own. Costs next to nothing where they
    /// are mapped.
    pub fn map_around(&self, offset: usize, len: usize) {
        let end = offset.saturating_add(len).min(self.len);
        for at in (offset..end).step_by(AROUND) {
            // SAFETY: inside the mapping, by the line above; what is read is thrown away.
            unsafe { self.base.as_ptr().add(at).read_volatile() };
        }
    }

    /// Copies the `len` bytes at `source` to pages at `offset..offset + len` that `file`, which
    /// this mapping was made of, does not have yet: each piece by the kernel, or through
    /// the mapping while another process has the turn.
    ///
    /// # Safety
    /// The bytes at `source` stay allocated during the call and are not in the range, which
    /// lies in the mapping and belongs to the caller.
    ///
    /// # Errors
    /// [`Kind::Os`] with the kernel's reason, also where memory has run out.
    pub unsafe fn fill_new(&self, file: BorrowedFd<'_>, offset: usize, source: *const u8, len: usize) -> Result<()> {
        room::check(len as u64)?;
        for at in (0..len).step_by(TURN) {
            let piece = TURN.min(len - at);
            // SAFETY: a piece of both ranges, which are as long, by this function's contract.
            unsafe {
                match Turn::try_take(file) {
                    Some(_turn) => write_file(file, offset + at, source.add(at), piece)?,
                    None => std::ptr::copy_nonoverlapping(source.add(at), self.base.as_ptr().add(offset + at), piece),
                }
            }
        }
        Ok(())
    }

    /// Gives the memory of whole pages inside `offset..offset + len` back to the
    /// kernel; they read as zero afterwards. A refusal only costs the memory.
    pub fn discard(&self, offset: usize, len: usize) {
        let page = rustix::param::page_size();
        let (Some(end), first) = (offset.checked_add(len), offset.next_multiple_of(page)) else { return };
        let last = end.min(self.len) / page * page;
        if first >= last {
            return;
        }
        // SAFETY: the range lies inside the mapping (checked above); what is in
        // it belongs to the caller, who says that nobody needs it.
        let _ = unsafe { madvise(self.base.as_ptr().add(first).cast(), last - first, Advice::LinuxRemove) };
    }
}

impl Mapping {
    /// Replaces the whole pages at `offset..offset + len` by private memory with the
    /// same bytes, at the same address: from now on a fork copies them on write,
    /// and what happens to the file no longer shows in them.
    ///
    /// A write by another thread during the call may be lost.
    pub fn privatize(&self, offset: usize, len: usize) -> Result<()> {
        self.check_pages(offset, len)?;
        let attempt = "making received memory private before a fork";
        // SAFETY: new anonymous memory at an address the kernel chooses; the copy
        // stays inside both ranges; `mremap` then puts it over pages of this
        // mapping, under one lock of the kernel, so no thread meets a gap.
        unsafe {
            let target = self.base.as_ptr().add(offset);
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let copy =
                mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE).map_err(refused(attempt))?;
            std::ptr::copy_nonoverlapping(target, copy.cast::<u8>(), len);
            if let Err(errno) = mremap_fixed(copy, len, len, MremapFlags::MAYMOVE, target.cast()) {
                let _ = munmap(copy, len);
                return Err(refused(attempt)(errno));
            }
        }
        Ok(())
    }

    /// Maps the pages of `file`, which this mapping was made of, back to where
    /// [`Mapping::privatize`] had put private ones.
    pub fn restore(&self, file: impl AsFd, offset: usize, len: usize) -> Result<()> {
        self.check_pages(offset, len)?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: replaces pages of this mapping only (checked above), by the pages
        // that were there at first; whoever held the private ones is done with them.
        unsafe { mmap(self.base.as_ptr().add(offset).cast(), len, protection, flags, file, offset as u64) }
            .map_err(refused("mapping shared memory again"))?;
        Ok(())
    }

    fn check_pages(&self, offset: usize, len: usize) -> Result<()> {
        let page = rustix::param::page_size();
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if inside && len > 0 && offset.is_multiple_of(page) && len.is_multiple_of(page) {
            return Ok(());
        }
        Err(Error::new(Kind::Corrupt, format!("{len} bytes at {offset} are not pages of this mapping")))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base..base + len` is the range `map` made; everything that
        // points into it borrows from the `Region` that owns this mapping.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A memory file without a name and without bytes, gone with its last descriptor.
pub fn file() -> Result<OwnedFd> {
    memfd_create("manycore", MemfdFlags::CLOEXEC).map_err(refused("creating a memory file (memfd_create)"))
}

/// A page that is blank in every process forked from the one that made it.
///
/// Tells without a system call whether this is still the process a value was made
/// in: an eighth of a microsecond for each `getpid` was a tenth of a task.
#[derive(Debug)]
pub struct Birthmark(NonNull<u8>);

// SAFETY: the page is written before anybody else has the value, and never again.
unsafe impl Send for Birthmark {}
// SAFETY: as above; it is only read.
unsafe impl Sync for Birthmark {}

impl Birthmark {
    /// A mark of this process.
    pub fn new() -> Result<Birthmark> {
        let attempt = "mapping a page that a fork clears";
        let (page, protection) = (rustix::param::page_size(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: new anonymous memory at an address the kernel chooses; it is ours, so
        // it may be advised about, and written once before it is shared.
        unsafe {
            let base =
                mmap_anonymous(std::ptr::null_mut(), page, protection, MapFlags::PRIVATE).map_err(refused(attempt))?;
            let mark = Birthmark(NonNull::new(base.cast()).ok_or_else(|| Error::new(Kind::Os, attempt))?);
            madvise(base, page, Advice::LinuxWipeOnFork).map_err(refused(attempt))?;
            mark.0.as_ptr().write_volatile(1);
            Ok(mark)
        }
    }

    /// Whether this is the process that made the mark.
    pub fn is_here(&self) -> bool {
        // SAFETY: a mapped page, for as long as `self` lives.
        unsafe { self.0.as_ptr().read_volatile() != 0 }
    }
}

impl Drop for Birthmark {
    fn drop(&mut self) {
        // SAFETY: the page that `new` mapped, which nothing else points to.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), rustix::param::page_size()) };
    }
}

/// Writes the `len` bytes at `source` to `file` from `offset` on.
///
/// For pages the file does not have yet: the kernel fills each as it makes it, where a
/// write through a mapping is a fault and a page of zeros first.
///
/// # Safety
/// The bytes at `source` stay allocated during the call. Another thread may change
/// them meanwhile; what arrives then is any mix of old and new.
///
/// # Errors
/// [`Kind::Os`] with the kernel's reason, also where memory has run out.
unsafe fn write_file(file: BorrowedFd<'_>, mut offset: usize, mut source: *const u8, mut len: usize) -> Result<()> {
    let file = file.as_raw_fd();
    while len > 0 {
        // SAFETY: `len` bytes at `source` are allocated, by this function's contract and
        // the steps below; the kernel only reads them.
        let written = unsafe { libc::pwrite(file, source.cast(), len, offset as libc::off_t) };
        match usize::try_from(written) {
            Ok(written) if written > 0 => {
                // SAFETY: the kernel wrote no more than `len` bytes.
                source = unsafe { source.add(written) };
                (offset, len) = (offset + written, len - written);
            }
            _ => {
                let error = std::io::Error::last_os_error();
                if written == 0 || error.kind() != std::io::ErrorKind::Interrupted {
                    let code = if written == 0 { libc::ENOSPC } else { error.raw_os_error().unwrap_or(0) };
                    return Err(Error::os("writing a large payload to shared memory (pwrite)", code));
                }
            }
        }
    }
    Ok(())
}

/// One process's turn to write new pages of a memory file by [`write_file`].
///
/// The kernel lets one writer at a time into a file; the others would sleep, where through
/// the mapping they get on. It is a record lock, so it goes with its process, whatever becomes of that.
#[derive(Debug)]
struct Turn<'a>(BorrowedFd<'a>);

impl Turn<'_> {
    /// Takes the turn at `file`, unless another process has it.
    fn try_take(file: BorrowedFd<'_>) -> Option<Turn<'_>> {
        fcntl_lock(file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| Turn(file))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Fails for no descriptor that could be locked.
        let _ = fcntl_lock(self.0, FlockOperation::Unlock);
    }
}

/// Bytes of memory this machine has.
pub fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit).max(1))
}

/// Asks for huge pages where `room` has no memory yet: fewer faults, each of them cheaper by the byte. Where
/// the kernel has none, nothing changes.
pub fn prefer_huge_pages<T>(room: &mut [MaybeUninit<T>]) {
    const HUGE: usize = 2 << 20;
    let (start, len) = (room.as_mut_ptr().addr(), size_of_val(room));
    let (first, last) = (start.next_multiple_of(HUGE), (start + len) / HUGE * HUGE);
    if first < last {
        let base = room.as_mut_ptr().cast::<u8>().wrapping_add(first - start);
        // SAFETY: whole huge pages inside of memory that is borrowed for this; the advice changes
        // no byte of it.
        let _ = unsafe { madvise(base.cast(), last - first, Advice::LinuxHugepage) };
    }
}
