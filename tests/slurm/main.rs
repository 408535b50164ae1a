//! Runs whose stages go through a real Slurm, in all its moods.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

mod asked;
mod cluster;
mod daemons;
#[path = "../harness/mod.rs"]
mod harness;
mod lost;
mod memory;
mod runs;
mod work;

/// Runs tests beside each other: most of the time they wait for clocks of Slurm's.
fn beside(tests: &[fn()]) {
    std::thread::scope(|scope| tests.iter().for_each(|test| drop(scope.spawn(test))));
}

/// One stage that takes so many steps of 100 ms.
fn long(steps: u32) -> String {
    format!("stages:\n  long: {{ uses: test/steps, with: {{ steps: {steps}, sleep: 100 }} }}\n")
}
