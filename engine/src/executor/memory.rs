//! How much memory a process takes with all that it started.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

/// How often a running stage is looked at: long enough to cost nothing, short enough that a stage which takes too much
/// is stopped before the machine has no more.
const LOOK: Duration = Duration::from_millis(100);

/// Watches a process and its children until they take more than `limit` bytes; returns how many. `most` is raised to the
/// most that was seen.
pub(super) async fn exceeded(pid: u32, limit: u64, most: &mut Option<u64>) -> u64 {
    let mut next = Instant::now();
    loop {
        next += LOOK;
        tokio::time::sleep_until(next).await;
        let taken = taken(pid);
        *most = Some(most.unwrap_or(0).max(taken));
        if taken > limit {
            return taken;
        }
    }
}

/// Bytes that a process and its children have for themselves. Mapped files are not counted: they are the page cache's,
/// which gives them back.
pub(super) fn taken(pid: u32) -> u64 {
    let children =
        std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().flat_map(|thread| {
            let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        });
    own(Path::new(&format!("/proc/{pid}/status"))) + children.map(taken).sum::<u64>()
}

/// How many processes the kernel has killed so far for want of memory, in the control group that we are in. `None` where
/// it does not tell.
pub(super) fn killed() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    killed_in(&groups, Path::new("/sys/fs/cgroup"))
}

/// The same of groups as `/proc` lists them, mounted at `root`: of the second version, or of the first one.
fn killed_in(groups: &str, root: &Path) -> Option<u64> {
    let count = |file: PathBuf| {
        let text = std::fs::read_to_string(file).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    };
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        if controllers.split(',').any(|controller| controller == "memory") {
            let memory = root.join("memory");
            // In a container the group may be mounted as if it were the topmost.
            return count(memory.join(group).join("memory.oom_control"))
                .or(count(memory.join("memory.oom_control")));
        }
        let unified = root.join(group).join("memory.events");
        if controllers.is_empty() { count(unified) } else { None }
    })
}

fn own(status: &Path) -> u64 {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let kibibytes = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let counted =
        |line: &&str| ["RssAnon:", "RssShmem:", "VmSwap:"].iter().any(|name| line.starts_with(name));
    text.lines().filter(counted).filter_map(kibibytes).sum::<u64>() << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_count_of_those_it_killed_is_found_in_both_versions_of_groups() {
        let root = tempfile::tempdir().unwrap();
        let write = |place: &str, text: &str| {
            let file = root.path().join(place);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let first = "9:name=systemd:/\n4:memory:/slurm/job_3\n0::/\n";
        assert_eq!(killed_in(first, root.path()), None);
        write("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
        assert_eq!(killed_in(first, root.path()), Some(1));
        write("memory/slurm/job_3/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        assert_eq!(killed_in(first, root.path()), Some(2));
        write("slurm/job_4/memory.events", "low 0\noom 5\noom_kill 3\noom_group_kill 0\n");
        assert_eq!(killed_in("0::/slurm/job_4\n", root.path()), Some(3));
    }

    #[test]
    fn memory_that_is_touched_counts() {
        let before = taken(std::process::id());
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = taken(std::process::id());
        assert!(before > 0 && after >= before + (60 << 20), "{before} {after}");
        drop(held);
    }
}
