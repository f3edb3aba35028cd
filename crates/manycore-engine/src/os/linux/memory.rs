//! Memory that several processes map.
//!
//! # Why this file is unsafe
//!
//! A mapping is an address range that the kernel owns and other processes
//! write. The raw address becomes a [`Mapping`] here; only `shm/` turns offsets
//! inside it into references, and argues for each.

#![allow(unsafe_code)]

use super::refused;
use crate::error::{Error, Kind, Result};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags, madvise, mmap, mmap_anonymous, mremap_fixed, munmap};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

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
        ftruncate(&file, len as u64).map_err(refused("sizing shared memory (ftruncate)"))?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(refused("sealing shared memory"))?;
        let mapping = Mapping::map(&file, len)?;
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

/// Bytes of memory this machine has.
pub fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit).max(1))
}
