//! The value of a lock, in hand.

use bytemuck::Pod;
use manycore_engine::shm::kept::Kept;

/// A copy of a value, and whether it is to be written back.
pub(super) struct Held<T: Pod> {
    value: T,
    is_changed: bool,
    /// There was a panic already when it was taken.
    was_panicking: bool,
}

impl<T: Pod> Held<T> {
    /// What is in `kept`, whose lock was taken just now.
    pub(super) fn of<L>(kept: &Kept<L, T>) -> Held<T> {
        let mut value = T::zeroed();
        kept.load(bytemuck::bytes_of_mut(&mut value));
        Held { value, is_changed: false, was_panicking: std::thread::panicking() }
    }

    pub(super) fn get(&self) -> &T {
        &self.value
    }

    pub(super) fn get_mut(&mut self) -> &mut T {
        self.is_changed = true;
        &mut self.value
    }

    /// Writes it back to `kept`, if it was changed; or poisons that, if there is a panic now.
    pub(super) fn give_back<L>(&self, kept: &Kept<L, T>) {
        if !self.was_panicking && std::thread::panicking() {
            kept.set_poisoned(true);
        } else if self.is_changed {
            kept.store(bytemuck::bytes_of(&self.value));
        }
    }
}
