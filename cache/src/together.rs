//! Flushes that several threads ask for at once become one: group commit.
//!
//! A flush costs a turn of the disk, whatever it flushes. Who asks while one is under way waits for the next, which one of
//! those who wait makes for all of them: ten thousand small results are bound by the file system, not by a turn each.
//!
//! What is flushed is passed in, so that nothing here runs on a pool of threads: a thread that waits inside its own flush
//! would wait for itself.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Error, Result};

/// Where threads that want to flush meet.
#[derive(Debug, Default)]
pub(crate) struct Together {
    turn: Mutex<Turn>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Turn {
    /// A flush is under way.
    busy: bool,
    /// Those who came since it began.
    next: Option<Arc<Group>>,
}

#[derive(Debug, Default)]
struct Group {
    members: Mutex<usize>,
    outcome: OnceLock<Result<()>>,
}

impl Together {
    /// Flushes what the caller wrote: by `alone` if nobody else wants to, else by one `all`, made by any of them. When it
    /// returns, what was written before the call is on disk.
    pub(crate) fn flush(
        &self,
        alone: impl FnOnce() -> Result<()>,
        all: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut turn = self.lock();
        if !turn.busy {
            turn.busy = true;
            drop(turn);
            let _over = Over(self);
            return alone();
        }
        let group = turn.next.get_or_insert_default().clone();
        *lock(&group.members) += 1;
        loop {
            turn = self.changed.wait(turn).unwrap_or_else(PoisonError::into_inner);
            if let Some(outcome) = group.outcome.get() {
                return copied(outcome);
            }
            let is_next = turn.next.as_ref().is_some_and(|next| Arc::ptr_eq(next, &group));
            if !turn.busy && is_next {
                break;
            }
        }
        // Who comes from now on has perhaps not written all yet: the next group.
        turn.next = None;
        turn.busy = true;
        drop(turn);
        let _over = Over(self);
        let outcome = if *lock(&group.members) == 1 { alone() } else { all() };
        // Nobody else leads this group.
        drop(group.outcome.set(copied(&outcome)));
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        lock(&self.turn)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a turn, whatever became of it.
struct Over<'a>(&'a Together);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.lock().busy = false;
        self.0.changed.notify_all();
    }
}

/// What one flush came to, for each who waited for it.
fn copied(outcome: &Result<()>) -> Result<()> {
    match outcome {
        Ok(()) => Ok(()),
        Err(Error::Io { doing, path, source }) => {
            let source =
                source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
            Err(Error::Io { doing, path: path.clone(), source })
        }
        Err(other) => Err(Error::Io {
            doing: "flush",
            path: Default::default(),
            source: io::Error::other(other.to_string()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Many threads write and flush: each finds its write flushed, and far fewer flushes were made than asked for.
    #[test]
    fn who_waits_is_flushed_with_the_others() {
        let together = Together::default();
        let (written, flushed, flushes) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let flush = || {
            let seen = written.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            flushes.fetch_add(1, Ordering::SeqCst);
            flushed.fetch_max(seen, Ordering::SeqCst);
            Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
                        together.flush(flush, flush).unwrap();
                        assert!(flushed.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
        assert!(flushes.into_inner() <= 160, "of 320 that were asked for");
    }

    #[test]
    fn a_failure_is_everybodys() {
        let together = Together::default();
        let failed = AtomicUsize::new(0);
        let fails = || {
            std::thread::sleep(Duration::from_millis(5));
            Err(Error::io("flush", "/x".as_ref())(io::Error::from_raw_os_error(28)))
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let error = together.flush(fails, fails).unwrap_err();
                    assert!(matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull));
                    failed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(failed.into_inner(), 8);
        assert!(together.flush(|| Ok(()), || Ok(())).is_ok());
    }
}
