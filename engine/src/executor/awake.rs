//! Time in which this process ran. Slurm suspends allocations to give their nodes to others: what is stopped uses up none of its
//! time.

use std::time::{Duration, Instant};

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A look that comes so much too late was kept from coming.
const LATE: Duration = Duration::from_secs(5);

/// For how long it was stopped, of a wait that was meant to last `meant` and lasted `passed`.
pub(crate) fn stopped(meant: Duration, passed: Duration) -> Duration {
    let late = passed.saturating_sub(meant);
    if late > LATE { late } else { Duration::ZERO }
}

/// Waits so long, without the time for which this process was stopped.
pub(crate) async fn sleep(time: Duration) {
    let mut left = time;
    while !left.is_zero() {
        let meant = left.min(LOOK);
        let begun = Instant::now();
        tokio::time::sleep(meant).await;
        let passed = begun.elapsed();
        left = left.saturating_sub(passed.saturating_sub(stopped(meant, passed)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_it_was_stopped_is_told_from_a_machine_that_is_busy() {
        assert_eq!(stopped(LOOK, LOOK * 3), Duration::ZERO);
        assert_eq!(stopped(LOOK, LOOK * 3601), Duration::from_secs(3600));
    }
}
