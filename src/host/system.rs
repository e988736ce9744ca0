//! What Linux says of memory, in files below `root`: `/`, or a folder in tests.
//!
//! Read here because the page cache of a cgroup counts as free (a mapped checkpoint is in it), and enclosing cgroups count.
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Bytes that can still be had, by the machine and by each cgroup around this process.
pub(super) fn available(root: &Path) -> Option<usize> {
    let memory = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let machine = kibibytes(&memory, "MemAvailable:")? + kibibytes(&memory, "SwapFree:").unwrap_or(0);
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    Some(groups.lines().filter_map(|line| in_groups(root, line)).fold(machine, usize::min))
}

/// Bytes that this process holds and that are no file's.
pub(super) fn held(root: &Path) -> Option<usize> {
    let status = status(root)?;
    // Before Linux 4.5 there was no RssAnon.
    let resident = kibibytes(&status, "RssAnon:").or_else(|| kibibytes(&status, "VmRSS:"))?;
    Some(resident + kibibytes(&status, "VmSwap:").unwrap_or(0))
}

/// The most bytes that this process ever had in memory, mapped files included.
pub(super) fn peak(root: &Path) -> Option<usize> {
    kibibytes(&status(root)?, "VmHWM:")
}

fn status(root: &Path) -> Option<String> {
    fs::read_to_string(root.join("proc/self/status")).ok()
}

/// The number behind `name` at the beginning of a line.
fn number(text: &str, name: &str) -> Option<usize> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut words| (words.next()? == name).then(|| words.next()?.parse().ok())?)
}

fn kibibytes(text: &str, name: &str) -> Option<usize> {
    number(text, name)?.checked_mul(1024)
}

/// The files in which a version of cgroups says what we need.
struct Files {
    mount: &'static str,
    limit: &'static str,
    used: &'static str,
    /// In memory.stat: pages of files, which are used but can be taken back.
    cache: [&'static str; 2],
}

const V1: Files = Files {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: ["total_inactive_file", "total_active_file"],
};

const V2: Files = Files {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    cache: ["inactive_file", "active_file"],
};

/// The least that is left in the cgroup of a line of `/proc/self/cgroup` and in those around it; none where they have
/// no limit, or the line is of another controller than memory.
fn in_groups(root: &Path, line: &str) -> Option<usize> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let files = match controllers {
        "" => V2,
        v1 if v1.split(',').any(|name| name == "memory") => V1,
        _ => return None,
    };
    // In a container the path may be the host's, and what is mounted the container's own cgroup: the last ancestor.
    let (mount, path) = (root.join(files.mount), Path::new(path.trim_start_matches('/')));
    path.ancestors().filter_map(|group| left(&files, mount.join(group))).min()
}

/// What is left in one cgroup.
fn left(files: &Files, group: PathBuf) -> Option<usize> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    let bytes = |name| -> Option<usize> { read(name)?.trim().parse().ok() };
    let (limit, used) = (bytes(files.limit)?, bytes(files.used)?);
    let stat = read("memory.stat").unwrap_or_default();
    let cache: usize = files.cache.iter().filter_map(|name| number(&stat, name)).sum();
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system that says what the files here say.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MACHINE: (&str, &str) =
        ("proc/meminfo", "MemTotal: 99 kB\nMemFree:  3 kB\nMemAvailable:  8000 kB\nSwapFree: 1000 kB\n");

    #[test]
    fn without_cgroups_the_machine_is_the_limit() {
        assert_eq!(available(system(&[]).path()), None);
        assert_eq!(available(system(&[MACHINE]).path()), Some(9000 << 10));
        let unlimited = [MACHINE, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")];
        assert_eq!(available(system(&unlimited).path()), Some(9000 << 10));
    }

    #[test]
    fn a_cgroups_cache_is_free() {
        let root = system(&[
            MACHINE,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "5000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "4000\n"),
            ("sys/fs/cgroup/a/b/memory.stat", "anon 1500\ninactive_file 2000\nactive_file 500\n"),
        ]);
        assert_eq!(available(root.path()), Some(3500));
    }

    #[test]
    fn the_narrowest_enclosing_cgroup_counts() {
        let v2 = system(&[
            MACHINE,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "700\n"),
            ("sys/fs/cgroup/a/memory.current", "600\n"),
            ("sys/fs/cgroup/a/b/memory.max", "5000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "600\n"),
        ]);
        assert_eq!(available(v2.path()), Some(100));
        // The path is the host's; what is mounted is the container's.
        let v1 = system(&[
            MACHINE,
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/x\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "4100\n"),
            ("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 300\n"),
        ]);
        assert_eq!(available(v1.path()), Some(200));
    }

    #[test]
    fn files_pages_are_not_held() {
        let status = ("proc/self/status", "VmHWM:\t  90 kB\nVmRSS: 80 kB\nRssAnon: 30 kB\nVmSwap: 5 kB\n");
        let root = system(&[status]);
        assert_eq!((held(root.path()), peak(root.path())), (Some(35 << 10), Some(90 << 10)));
        assert_eq!(held(system(&[("proc/self/status", "VmRSS: 80 kB\n")]).path()), Some(80 << 10));
    }
}
