//! Places for locks in memory that a family of processes shares.
//!
//! # Why this file is unsafe
//!
//! It turns offsets of a mapping into references. They lead to [`Resident`] types
//! only, which are made of atomics, so that any bytes another process writes there
//! are a value; range, alignment and kind of a place are checked before the first
//! reference, and a place keeps its region mapped.

#![allow(unsafe_code)]

use crate::error::{Error, Kind, Result};
use crate::os::memory::Mapping;
use crate::os::name;
use crate::sync::{AtomicU32, AtomicU64, Ordering, forks, own_name};
use std::cell::Cell;
use std::collections::HashMap;
use std::mem::size_of;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// "slots" and the version of what stands in them; a process of another build is refused.
const MAGIC: u64 = u64::from_le_bytes(*b"slots\0\0\x01");

/// Places begin at multiples of a cache line: neighbours never slow each other.
const LINE: usize = 64;

/// Address space for one region; memory is used by the page, when it is first written.
const REGION: usize = 64 << 20;
/// The least it is worth trying with, where address space is limited.
const SMALLEST: usize = 1 << 20;

/// A type that may stand in a place.
///
/// # Safety
/// It is made of atomics of [`crate::sync`] alone, so every bit pattern is a value; zero
/// bytes are a new one. It has `repr(C)` and an alignment of at most 64.
pub unsafe trait Resident: Send + Sync {
    /// The number of the type, by which a process that attaches knows it; not 0.
    const KIND: u32;
}

/// One shared mapping with places in it; only the process that made it hands out new ones.
#[derive(Debug)]
pub struct Slots {
    mapping: Mapping,
    file: OwnedFd,
    id: SlotsId,
    space: Mutex<Space>,
}

/// Which region of which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotsId {
    /// The name of the process that made it.
    pub creator: u64,
    /// Its number among the regions of that process.
    pub number: u64,
}

#[repr(C, align(64))]
struct Header {
    magic: u64,
    id: SlotsId,
}

/// A value with what tells its type. The tag stands first, whatever the value is.
#[repr(C, align(64))]
struct Place<T> {
    tag: AtomicU32,
    value: T,
}

/// The creator's private account.
#[derive(Debug, Default)]
struct Space {
    next: usize,
    /// Places nobody can know any more, by size.
    free: HashMap<usize, Vec<usize>>,
}

/// A value in a place of its own. Zero bytes at first.
#[derive(Debug)]
pub struct Slot<T: Resident> {
    slots: Arc<Slots>,
    offset: usize,
    value: NonNull<T>,
    /// How often this process had forked when it made the place, plus one; 0 for a place
    /// that came from another process, or was sent to one.
    made_at: AtomicU64,
}

// SAFETY: a slot is an address that stays mapped while it lives, and a value that is
// `Sync` by the bound on `Resident`.
unsafe impl<T: Resident> Send for Slot<T> {}
// SAFETY: as above.
unsafe impl<T: Resident> Sync for Slot<T> {}

/// This process's region for new places, and those it has attached to.
#[derive(Default)]
struct Known {
    home: Option<Arc<Slots>>,
    made: u64,
    all: Vec<Weak<Slots>>,
    /// Those of other processes stay: their descriptor comes only once.
    attached: Vec<Arc<Slots>>,
}

static KNOWN: Mutex<Known> = Mutex::new(Known { home: None, made: 0, all: Vec::new(), attached: Vec::new() });

fn known() -> MutexGuard<'static, Known> {
    hold_at_forks();
    // Whole after every step, so a panic elsewhere does not spoil it.
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// What this thread has locked because it forks.
    static HELD: Cell<Option<MutexGuard<'static, Known>>> = const { Cell::new(None) };
}

/// From now on whoever forks holds the lock meanwhile: taken by another thread it would
/// stay taken in the child, which is to make locks of its own.
///
/// Two threads may both see to it, and a child again. It may be done twice.
fn hold_at_forks() {
    static SEEN_TO: AtomicU32 = AtomicU32::new(0);
    extern "C" fn hold() {
        // A thread that forks while it ends may have lost its own variables. It takes its chance.
        let _ = HELD.try_with(|held| {
            held.set(Some(held.take().unwrap_or_else(|| KNOWN.lock().unwrap_or_else(PoisonError::into_inner))));
        });
    }
    extern "C" fn let_go() {
        let _ = HELD.try_with(|held| drop(held.take()));
    }
    if SEEN_TO.load(Ordering::Acquire) == 0 {
        name::at_fork(hold, let_go, let_go);
        SEEN_TO.store(1, Ordering::Release);
    }
}

impl<T: Resident> Slot<T> {
    /// A new place in this process's own region.
    ///
    /// A place is used again only if no other process can know it: the process that
    /// made it has not forked since, and has not sent it. Otherwise it stays as it is
    /// until the region goes, which is when nobody has a place in it.
    ///
    /// # Errors
    /// [`Kind::Os`] when there is no memory or no descriptor for another region.
    pub fn new() -> Result<Slot<T>> {
        let mut known = known();
        // After a fork the parent's region is still here, but only the parent may give
        // out places in it.
        let home = known.home.clone().filter(|home| home.id.creator == own_name());
        let placed = home.and_then(|home| home.find::<T>().map(|offset| (home, offset)));
        let (slots, offset) = match placed {
            Some(placed) => placed,
            None => {
                known.made += 1;
                let home = Arc::new(Slots::create(known.made)?);
                known.all.retain(|slots| slots.strong_count() > 0);
                known.all.push(Arc::downgrade(&home));
                known.home = Some(Arc::clone(&home));
                let offset = home.find::<T>().ok_or_else(|| Error::new(Kind::Os, "a region too small for one lock"))?;
                (home, offset)
            }
        };
        drop(known);
        let place = slots.mapping.base().as_ptr().wrapping_add(offset).cast::<Place<T>>();
        // SAFETY: `find` gives ranges inside the mapping, aligned to a line, that no slot
        // of this process stands in and no other process knows. The tag is an atomic.
        unsafe { &(*place).tag }.store(T::KIND, Ordering::Release);
        Slot::over(slots, offset, forks() + 1)
    }

    /// The place at `offset` of `slots`, which another process has made and filled.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when no `T` stands there.
    pub fn at(slots: &Arc<Slots>, offset: usize) -> Result<Slot<T>> {
        Slot::over(Arc::clone(slots), offset, 0)
    }

    fn over(slots: Arc<Slots>, offset: usize, made_at: u64) -> Result<Slot<T>> {
        let end = offset.checked_add(size_of::<Place<T>>());
        let inside = end.is_some_and(|end| end <= slots.mapping.len());
        if !inside || offset < size_of::<Header>() || !offset.is_multiple_of(LINE) {
            return Err(Error::corrupt(format_args!("no lock can stand at {offset}")));
        }
        let place = slots.mapping.base().as_ptr().wrapping_add(offset).cast::<Place<T>>();
        // SAFETY: inside the mapping and aligned (checked above); the tag is an atomic,
        // and comes first whatever stands there.
        let tag = unsafe { &(*place).tag }.load(Ordering::Acquire);
        if tag != T::KIND {
            return Err(Error::corrupt(format_args!("the lock at {offset} is of kind {tag}, not {}", T::KIND)));
        }
        // SAFETY: as above; the address of a field, which nobody follows yet.
        let value = unsafe { NonNull::new_unchecked(&raw mut (*place).value) };
        Ok(Slot { slots, offset, value, made_at: AtomicU64::new(made_at) })
    }

    /// Where it stands, to tell another process. From now on somebody else may know it.
    pub fn address(&self) -> (&Arc<Slots>, usize) {
        self.made_at.store(0, Ordering::Relaxed);
        (&self.slots, self.offset)
    }

    /// A number that no other place of its region has.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl<T: Resident> Deref for Slot<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: checked in `over`; `slots` keeps it mapped. `Resident`: whatever others
        // write there meanwhile is a value, written atomically.
        unsafe { self.value.as_ref() }
    }
}

impl<T: Resident> Drop for Slot<T> {
    fn drop(&mut self) {
        let alone = self.made_at.load(Ordering::Relaxed) == forks() + 1;
        // In a forked child the count differs from the one at the making, and the child
        // must not touch the parent's account.
        if alone && self.slots.id.creator == own_name() {
            self.slots.space().free.entry(size_of::<Place<T>>()).or_default().push(self.offset);
        }
    }
}

impl Slots {
    fn create(number: u64) -> Result<Slots> {
        let mut len = REGION;
        let (file, mapping) = loop {
            match Mapping::create(len) {
                Err(error) if error.kind() == Kind::Os && len > SMALLEST => len /= 2,
                other => break other?,
            }
        };
        let id = SlotsId { creator: own_name(), number };
        // SAFETY: the mapping is longer than a header and page aligned, and no other
        // process has it yet.
        unsafe { mapping.base().cast::<Header>().write(Header { magic: MAGIC, id }) };
        let space = Space { next: size_of::<Header>(), ..Space::default() };
        Ok(Slots { mapping, file, id, space: Mutex::new(space) })
    }

    /// The region `id`, if this process has it already.
    pub fn find_attached(id: SlotsId) -> Option<Arc<Slots>> {
        let known = known();
        let attached = known.attached.iter().find(|slots| slots.id == id).cloned();
        attached.or_else(|| known.all.iter().filter_map(Weak::upgrade).find(|slots| slots.id == id))
    }

    /// Attaches to the region `id`, which another process made; `file` leads to it.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when `file` is something else.
    pub fn attach(id: SlotsId, file: OwnedFd) -> Result<Arc<Slots>> {
        if let Some(slots) = Slots::find_attached(id) {
            return Ok(slots);
        }
        let mapping = Mapping::attach(&file)?;
        if mapping.len() < size_of::<Header>() {
            return Err(Error::corrupt("a region of locks is shorter than its header"));
        }
        // SAFETY: inside the mapping (checked above), aligned, and plain numbers, which
        // are written before the descriptor is shared and never again.
        let header = unsafe { mapping.base().cast::<Header>().read() };
        if header.magic != MAGIC || header.id != id {
            return Err(Error::corrupt("this is not the region of locks it is said to be"));
        }
        let slots = Arc::new(Slots { mapping, file, id, space: Mutex::default() });
        known().attached.push(Arc::clone(&slots));
        Ok(slots)
    }

    /// Which region this is.
    pub fn id(&self) -> SlotsId {
        self.id
    }

    /// The memory file, to pass to another process.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a `T`, which is the caller's alone.
    /// Its bytes are zero: no page of it was ever written, or it is wiped.
    fn find<T: Resident>(&self) -> Option<usize> {
        let size = size_of::<Place<T>>();
        let mut space = self.space();
        if let Some(offset) = space.free.get_mut(&size).and_then(Vec::pop) {
            // SAFETY: a place that was handed out once lies inside the mapping; what is
            // free nobody else knows, in this process or another.
            unsafe { self.mapping.base().as_ptr().add(offset).write_bytes(0, size) };
            return Some(offset);
        }
        let offset = space.next;
        let end = offset.checked_add(size).filter(|end| *end <= self.mapping.len())?;
        space.next = end;
        Some(offset)
    }
}

// SAFETY: two atomics; `repr(C)`, alignment 8.
unsafe impl Resident for super::mutex::Mutex {
    const KIND: u32 = 1;
}
// SAFETY: as above.
unsafe impl Resident for super::lock::Lock {
    const KIND: u32 = 2;
}
// SAFETY: as above.
unsafe impl Resident for super::lock::RecursiveLock {
    const KIND: u32 = 3;
}
// SAFETY: as above.
unsafe impl Resident for super::semaphore::Semaphore {
    const KIND: u32 = 4;
}
// SAFETY: as above.
unsafe impl Resident for super::event::Event {
    const KIND: u32 = 5;
}
// SAFETY: as above.
unsafe impl Resident for super::condition::Condition {
    const KIND: u32 = 6;
}
// SAFETY: as above.
unsafe impl Resident for super::barrier::Barrier {
    const KIND: u32 = 7;
}

#[cfg(test)]
mod tests {
    use super::super::mutex::{Mutex, Taken};
    use super::*;

    #[test]
    fn places_are_apart_and_come_back_clean() {
        let (one, two) = (Slot::<Mutex>::new().unwrap(), Slot::<Mutex>::new().unwrap());
        assert_eq!(one.lock(None).unwrap(), Taken::Acquired);
        assert_eq!(two.lock(None).unwrap(), Taken::Acquired);
        assert_ne!(one.offset, two.offset);
        assert!(one.offset.is_multiple_of(LINE) && two.offset.is_multiple_of(LINE));
        drop(one);
        // Whichever place it is: nobody has locked it.
        assert_eq!(Slot::<Mutex>::new().unwrap().lock(None).unwrap(), Taken::Acquired);
    }

    #[test]
    fn a_place_that_was_sent_is_not_used_again() {
        let sent = Slot::<Mutex>::new().unwrap();
        let (slots, offset) = sent.address();
        let (slots, offset) = (Arc::clone(slots), offset);
        drop(sent);
        let others: Vec<_> = (0..100).map(|_| Slot::<Mutex>::new().unwrap()).collect();
        assert!(others.iter().all(|other| other.offset != offset || other.slots.id() != slots.id()));
        assert!(Slot::<Mutex>::at(&slots, offset).is_ok());
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let slot = Slot::<Mutex>::new().unwrap();
        let (slots, offset) = slot.address();
        let end = slots.mapping.len();
        for wrong in [0, offset + 8, offset + LINE * 4096, end, end - 8, usize::MAX, usize::MAX - 63] {
            assert_eq!(Slot::<Mutex>::at(slots, wrong).err().map(|error| error.kind()), Some(Kind::Corrupt), "{wrong}");
        }
        let mut id = slots.id();
        id.number += 1 << 40;
        let file = slots.file().try_clone_to_owned().unwrap();
        assert_eq!(Slots::attach(id, file).err().map(|error| error.kind()), Some(Kind::Corrupt));
    }

    #[test]
    fn a_full_region_is_followed_by_another() {
        let first = Slot::<Mutex>::new().unwrap();
        let home = Arc::clone(first.address().0);
        let before = home.space().next;
        home.space().next = home.mapping.len();
        let second = Slot::<Mutex>::new().unwrap();
        assert_ne!(second.slots.id(), home.id());
        home.space().next = before;
    }
}
