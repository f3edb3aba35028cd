//! Whether there is memory for what somebody wants to keep in shared memory.
//!
//! The kernel promises shared memory that it does not have: a page is found at its first write, and where
//! there is none the kernel ends a process, by SIGBUS or as the out-of-memory killer. So large amounts are
//! compared with what is free before any is taken. Others may take it meanwhile; the check stops what could never be.

use super::groups;
use crate::error::{Error, Result};
use std::path::Path;

/// Amounts from this on are worth looking: 64 MiB take 15 ms to fill, the look 50 µs.
const LARGE: u64 = 64 << 20;

/// Whether `len` bytes of new memory are to be had.
///
/// # Errors
/// [`Kind::Os`](crate::error::Kind::Os) with ENOMEM where they are more than the machine, or a control
/// group of this process, has free.
pub fn check(len: u64) -> Result<()> {
    if len < LARGE {
        return Ok(());
    }
    let machine = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = free(&machine, Path::new(groups::ROOT), &groups::membership());
    match free {
        Some(free) if len > free => {
            Err(Error::os(format_args!("{len} bytes of shared memory, where {free} are free"), libc::ENOMEM))
        }
        _ => Ok(()),
    }
}

/// Bytes that are free: of the machine, whose `/proc/meminfo` says `machine`, or of a control group, where
/// those are fewer. What the kernel would give up for them counts as free. None where nothing can be read.
fn free(machine: &str, root: &Path, membership: &str) -> Option<u64> {
    let kilobytes = |key| field(machine, key).map(|amount| amount.saturating_mul(1024));
    let swap = kilobytes("SwapFree:").unwrap_or(0);
    let of_machine = kilobytes("MemAvailable:").map(|free| free.saturating_add(swap));
    let of_group = groups::smallest(
        root,
        membership,
        "memory",
        &|folder| {
            let most = number(folder, "memory.max")?;
            let cache = ["active_file", "inactive_file", "slab_reclaimable"];
            let swap = number(folder, "memory.swap.max")
                .map_or(swap, |most| swap.min(most.saturating_sub(number(folder, "memory.swap.current").unwrap_or(0))));
            Some(left(folder, most, number(folder, "memory.current")?, &cache).saturating_add(swap))
        },
        &|folder| {
            let most = number(folder, "memory.limit_in_bytes")?;
            let cache = ["total_active_file", "total_inactive_file"];
            Some(left(folder, most, number(folder, "memory.usage_in_bytes")?, &cache).saturating_add(swap))
        },
    );
    of_machine.into_iter().chain(of_group).min()
}

/// What a group may still use: it uses `used` of `most`, of which the fields `cache` of its account can be given up.
fn left(folder: &Path, most: u64, used: u64, cache: &[&str]) -> u64 {
    let account = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let cache = cache.iter().filter_map(|key| field(&account, key)).fold(0, u64::saturating_add);
    most.saturating_sub(used.saturating_sub(cache))
}

/// The number after `key` in a text of one key a line.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == key).then(|| words.next()?.parse().ok()).flatten()
    })
}

/// The number in a file; None if there is none, or `max`.
fn number(folder: &Path, name: &str) -> Option<u64> {
    std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::linux::groups::tree;

    const MACHINE: &str = "MemTotal: 9000 kB\nMemAvailable:   4000 kB\nSwapFree: 1000 kB\n";

    #[test]
    fn more_than_there_is_is_refused() {
        assert!(check(1 << 20).is_ok() && check(LARGE).is_ok());
        let error = check(1 << 50).unwrap_err();
        assert_eq!(error.os_code(), Some(libc::ENOMEM));
    }

    #[test]
    fn a_machine_without_groups() {
        let nowhere = Path::new("/nowhere");
        assert_eq!(free(MACHINE, nowhere, "0::/\n"), Some(5000 << 10));
        assert_eq!(free("nonsense", nowhere, ""), None);
    }

    #[test]
    fn the_fullest_group_on_the_way_up_counts() {
        let root = tree(
            "room-v2",
            &[
                ("a/memory.max", "3000000\n"),
                ("a/memory.current", "2000000\n"),
                ("a/memory.stat", "anon 7\nactive_file 500\ninactive_file 1500\nshmem 9\n"),
                ("a/memory.swap.max", "0\n"),
                ("a/b/memory.max", "max\n"),
                ("a/b/memory.current", "5\n"),
                ("full/memory.max", "1000\n"),
                ("full/memory.current", "5000\n"),
                ("full/memory.swap.max", "9000\n"),
                ("full/memory.swap.current", "2000\n"),
            ],
        );
        assert_eq!(free(MACHINE, &root, "0::/a/b\n"), Some(1_002_000));
        assert_eq!(free(MACHINE, &root, "0::/full\n"), Some(7000));
        assert_eq!(free(MACHINE, &root, "0::/\n"), Some(5000 << 10));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn version_one_counts() {
        let root = tree(
            "room-v1",
            &[
                ("memory/x/memory.limit_in_bytes", "2000000\n"),
                ("memory/x/memory.usage_in_bytes", "1000000\n"),
                ("memory/x/memory.stat", "active_file 9\ntotal_active_file 500\n"),
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/memory.usage_in_bytes", "1000000\n"),
            ],
        );
        assert_eq!(free(MACHINE, &root, "4:memory:/x\n0::/\n"), Some(1_000_500 + (1000 << 10)));
        std::fs::remove_dir_all(root).unwrap();
    }
}
