//! How much memory a process takes with all that it started.

use std::{path::Path, time::Duration};

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
    fn memory_that_is_touched_counts() {
        let before = taken(std::process::id());
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = taken(std::process::id());
        assert!(before > 0 && after >= before + (60 << 20), "{before} {after}");
        drop(held);
    }
}
