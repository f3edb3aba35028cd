//! How many tasks of each priority are in flight.

use std::collections::BTreeMap;

/// Counts tasks by priority. Most pools know one priority, 0, which costs an addition.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    ordinary: u32,
    others: BTreeMap<i32, u32>,
}

impl Ranks {
    /// One more task of `priority`.
    pub(super) fn enter(&mut self, priority: i32) {
        match priority {
            0 => self.ordinary += 1,
            _ => *self.others.entry(priority).or_default() += 1,
        }
    }

    /// One task of `priority` less.
    pub(super) fn leave(&mut self, priority: i32) {
        if priority == 0 {
            self.ordinary = self.ordinary.saturating_sub(1);
        } else if let Some(count) = self.others.get_mut(&priority) {
            *count -= 1;
            if *count == 0 {
                self.others.remove(&priority);
            }
        }
    }

    /// The lowest priority of a task.
    pub(super) fn lowest(&self) -> Option<i32> {
        let ordinary = (self.ordinary > 0).then_some(0);
        self.others.first_key_value().map(|(priority, _)| *priority).into_iter().chain(ordinary).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_is_known() {
        let mut ranks = Ranks::default();
        assert_eq!(ranks.lowest(), None);
        for (priority, lowest) in [(3, 3), (0, 0), (-2, -2), (7, -2), (-2, -2)] {
            ranks.enter(priority);
            assert_eq!(ranks.lowest(), Some(lowest));
        }
        for (priority, lowest) in [(-2, Some(-2)), (-2, Some(0)), (0, Some(3)), (3, Some(7)), (7, None)] {
            ranks.leave(priority);
            assert_eq!(ranks.lowest(), lowest);
        }
    }
}
