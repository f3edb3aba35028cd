//! The limits that this process's control groups set.

use std::path::{Path, PathBuf};

/// Where control groups are mounted.
pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// The groups this process is in.
pub(super) fn membership() -> String {
    std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// The smallest limit of `controller` in the groups listed in `membership` (the text of
/// `/proc/self/cgroup`) and all groups above them, below `root`. `v2` and `v1` read it from a group's folder.
pub(super) fn smallest<T: Ord>(
    root: &Path,
    membership: &str,
    controller: &str,
    v2: &dyn Fn(&Path) -> Option<T>,
    v1: &dyn Fn(&Path) -> Option<T>,
) -> Option<T> {
    membership
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
            let group = group.trim_start_matches('/');
            if controllers.is_empty() {
                lowest(root.to_path_buf(), group, v2)
            } else if controllers.split(',').any(|name| name == controller) {
                lowest(root.join(controllers), group, v1).or_else(|| lowest(root.join(controller), group, v1))
            } else {
                None
            }
        })
        .min()
}

/// The smallest limit from `group` up to `root`. Inside a container the group's
/// path may not exist below the mount; the mount itself then is the group.
fn lowest<T: Ord>(root: PathBuf, group: &str, read: &dyn Fn(&Path) -> Option<T>) -> Option<T> {
    root.join(group).ancestors().take_while(|folder| folder.starts_with(&root)).filter_map(read).min()
}

/// A folder with `files` in it, in the place of [`ROOT`].
#[cfg(test)]
pub(super) fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let root = std::env::temp_dir().join(format!("manycore-{}-{name}", std::process::id()));
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}
