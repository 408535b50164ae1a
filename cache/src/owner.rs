//! Who owns a staging or scratch folder, and whether that process is dead.
//!
//! Such a folder is named `<host>.<boot>.<process namespace>.<pid>.<nonce>`. A process can be judged only from where
//! its number means something: the same host, the same boot, the same process namespace (two containers with one host
//! name both have a process 7). Anything else is left alone.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// This process, as an owner of folders.
#[derive(Debug)]
pub(crate) struct Owner {
    /// `<host>.<boot>.<process namespace>`; `None` where the system does not tell.
    place: Option<String>,
}

impl Owner {
    pub(crate) fn current() -> Owner {
        Owner { place: place() }
    }

    /// A name that no other folder has or had: never used again, so that who judges an old one dead cannot hit
    /// a new one.
    pub(crate) fn fresh_name(&self) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let place = self.place.as_deref().unwrap_or("unknown");
        format!("{place}.{}.{now:x}-{count}", std::process::id())
    }

    /// Whether the folder `name` is this process's.
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        let place = self.place.as_deref().unwrap_or("unknown");
        name.starts_with(&format!("{place}.{}.", std::process::id()))
    }

    /// Whether the folder `name` certainly belongs to a process that is gone.
    pub(crate) fn is_dead(&self, name: &str) -> bool {
        let mut parts = name.rsplitn(3, '.').skip(1);
        let pid =
            parts.next().and_then(|text| text.parse().ok()).filter(|pid| *pid > 0).and_then(Pid::from_raw);
        let (Some(pid), Some(theirs), Some(ours)) = (pid, parts.next(), self.place.as_deref()) else {
            return false;
        };
        theirs == ours && test_kill_process(pid) == Err(Errno::SRCH)
    }

    /// Whether the folder `name` belongs to a process that cannot be judged from here.
    pub(crate) fn is_elsewhere(&self, name: &str) -> bool {
        let theirs = name.rsplitn(3, '.').nth(2);
        !self.is_ours(name) && (theirs.is_none() || theirs != self.place.as_deref())
    }
}

fn place() -> Option<String> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link(Path::new("/proc/self/ns/pid")).ok()?;
    let parts = [host.as_str(), boot.as_str(), namespace.to_str()?].map(plain);
    Some(parts.join("."))
}

/// Letters and digits only, so that a dot separates and a name is a name.
fn plain(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fresh_and_their_owner_lives() {
        let owner = Owner::current();
        let (a, b) = (owner.fresh_name(), owner.fresh_name());
        assert_ne!(a, b);
        assert!(!owner.is_dead(&a) && owner.is_ours(&a));
        let another = Owner { place: Some("host.boot.ns".into()) };
        assert!(!another.is_ours(&a) && !owner.is_ours("host.boot.ns.1.1-0"));
    }

    #[test]
    fn only_a_process_of_this_place_is_judged() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = child.id();
        let owner = Owner { place: Some("host.boot.ns".into()) };
        assert!(owner.is_dead(&format!("host.boot.ns.{dead}.1-0")));
        for other in ["other.boot.ns", "host.other.ns", "host.boot.other", "unknown"] {
            assert!(!owner.is_dead(&format!("{other}.{dead}.1-0")), "{other}");
        }
        assert!(!Owner { place: None }.is_dead(&format!("unknown.{dead}.1-0")));
        for odd in ["", "x", "host.boot.ns.x.1-0", "host.boot.ns.-1.1-0", "host.boot.ns.0.1-0"] {
            assert!(!owner.is_dead(odd), "{odd}");
        }
    }
}
