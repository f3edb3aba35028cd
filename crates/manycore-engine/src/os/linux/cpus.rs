//! How many processors this process may really use.

use super::groups;
use std::path::Path;

/// Processors this process may use: its affinity mask, cut down by the CPU
/// quota of its control group (v1 and v2) and of every group above it. At least 1.
pub fn usable() -> usize {
    let allowed = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize);
    quota(Path::new(groups::ROOT), &groups::membership()).map_or(allowed, |limit| allowed.min(limit)).max(1)
}

/// Processors of the machine that are switched on, whoever may use them.
pub fn online() -> usize {
    std::fs::read_to_string("/sys/devices/system/cpu/online").ok().and_then(|list| count(&list)).unwrap_or_else(usable)
}

/// How many numbers a list like `0-3,8` has.
fn count(list: &str) -> Option<usize> {
    list.trim().split(',').try_fold(0usize, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        count.checked_add(last.checked_sub(first)?)?.checked_add(1)
    })
}

/// The smallest quota, in whole processors rounded up, that the control groups
/// listed in `membership` (the text of `/proc/self/cgroup`) set below `root`.
fn quota(root: &Path, membership: &str) -> Option<usize> {
    groups::smallest(root, membership, "cpu", &|folder| processors(v2_quota(folder)?), &|folder| {
        processors(v1_quota(folder)?)
    })
}

fn processors((quota, period): (u64, u64)) -> Option<usize> {
    (period > 0).then(|| usize::try_from(quota.div_ceil(period)).unwrap_or(usize::MAX).max(1))
}

fn v2_quota(folder: &Path) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    Some((quota.parse().ok()?, period.parse().ok()?))
}

fn v1_quota(folder: &Path) -> Option<(u64, u64)> {
    let read = |name| std::fs::read_to_string(folder.join(name)).ok();
    Some((read("cpu.cfs_quota_us")?.trim().parse().ok()?, read("cpu.cfs_period_us")?.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::linux::groups::tree;

    #[test]
    fn a_list_of_processors_is_counted() {
        assert_eq!(["0", "0-3", "0-3,8", "1,3,5-6\n"].map(count), [Some(1), Some(4), Some(5), Some(4)]);
        assert_eq!(["", "x", "3-1", "0-18446744073709551615"].map(count), [None; 4]);
        assert!(online() >= 1 && usable() >= 1);
    }

    #[test]
    fn the_smallest_quota_on_the_way_up_counts() {
        let least = ("a/c/cpu.max", "10000 100000\n");
        let files =
            [("a/cpu.max", "150000 100000\n"), ("a/b/cpu.max", "max 100000\n"), least, ("x/cpu.max", "nonsense")];
        let root = tree("cpus-v2", &files);
        assert_eq!(quota(&root, "0::/a/b\n"), Some(2));
        assert_eq!(quota(&root, "0::/a/c\n"), Some(1));
        assert_eq!(quota(&root, "0::/x\n"), None);
        assert_eq!(quota(&root, "0::/elsewhere\n"), None);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn version_one_counts_and_no_limit_is_minus_one() {
        let root = tree(
            "cpus-v1",
            &[
                ("cpu,cpuacct/x/cpu.cfs_quota_us", "300000\n"),
                ("cpu,cpuacct/x/cpu.cfs_period_us", "100000\n"),
                ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!(quota(&root, "4:cpu,cpuacct:/x\n3:memory:/x\n"), Some(3));
        std::fs::remove_dir_all(root).unwrap();
    }
}
