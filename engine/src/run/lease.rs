//! What running stages hold of the machine: a place, threads, memory, GPUs. Given back when a [`Lease`] is dropped,
//! whatever way its stage ended.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::{
    executor::{Job, Share},
    machine::{Gpu, Machine},
    workflow::Gpus,
};

/// All that there is to hold. Memory is counted in MiB.
pub(super) struct Leases {
    jobs: Arc<Semaphore>,
    threads: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    gpus: Arc<GpuLeases>,
    /// Results on their way into the store: so many flush together, and no more of them lie about.
    finishing: Arc<Semaphore>,
    whole: Machine,
}

/// How many results may be on their way into the store at once.
const FINISHING: usize = 64;

/// What one stage holds.
pub(super) struct Lease {
    /// What it may use.
    pub(super) share: Share,
    _held: [Option<OwnedSemaphorePermit>; 3],
    _gpus: GpuLease,
}

impl Leases {
    pub(super) fn new(whole: Machine) -> Self {
        let many = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            jobs: many(whole.jobs),
            threads: many(whole.cpus),
            memory: many(in_mebibytes(whole.memory)),
            gpus: Arc::new(GpuLeases::new(&whole.gpus)),
            finishing: many(FINISHING),
            whole,
        }
    }

    /// Bytes of memory that a stage gets that asks for so many: one that asks for more than there is gets all there is,
    /// and runs alone.
    pub(super) fn memory_for(&self, job: &Job) -> Option<u64> {
        let wanted = job.execution.memory?;
        if wanted > self.whole.memory {
            let (wanted, whole) = (bytesize::ByteSize::b(wanted), bytesize::ByteSize::b(self.whole.memory));
            tracing::warn!(stage = %job.name, "asks for {wanted} of memory; this run may use {whole}");
        }
        Some(wanted.min(self.whole.memory))
    }

    /// More memory than it had, if there is any.
    pub(super) fn more_memory(&self, had: u64, factor: u32) -> Option<u64> {
        let more = had.saturating_mul(factor.into()).min(self.whole.memory);
        (more > had).then_some(more)
    }

    /// Waits for a place among those whose results go into the store.
    pub(super) async fn finish(&self) -> Option<OwnedSemaphorePermit> {
        self.finishing.clone().acquire_owned().await.ok()
    }

    /// Waits until what a stage needs is free. All ask in the same order, and whoever holds all of it lets all of it go:
    /// nobody waits in a circle.
    pub(super) async fn lease(&self, job: &Job, memory: Option<u64>) -> Lease {
        let many = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let held_threads = job.execution.cpus.unwrap_or(1).min(self.whole.cpus);
        // The semaphores are never closed.
        let gpus = self.gpus.clone().lease(&job.execution.gpus).await;
        let held = memory.map_or(0, in_mebibytes);
        let memory_held = self.memory.clone().acquire_many_owned(many(held)).await.ok();
        let place = self.jobs.clone().acquire_owned().await.ok();
        let threads_held = self.threads.clone().acquire_many_owned(many(held_threads)).await.ok();
        // What nobody holds is lent to who did not say how many, and not held for it: whoever comes next begins at once, and
        // for a while there may be more threads than processors. The stages of a chain would else leave all but one idle.
        let idle = if job.execution.cpus.is_none() { self.threads.available_permits() } else { 0 };
        let share = Share {
            threads: held_threads + idle,
            memory: memory.unwrap_or(self.whole.memory),
            gpus: gpus.held.iter().map(|(index, _)| self.whole.gpus[*index].clone()).collect(),
        };
        Lease { share, _held: [memory_held, place, threads_held], _gpus: gpus }
    }
}

fn in_mebibytes(bytes: u64) -> usize {
    usize::try_from(bytes >> 20).unwrap_or(usize::MAX)
}

/// GPUs, and who holds what of them.
struct GpuLeases {
    memory: Mutex<Vec<Memory>>,
    released: Notify,
    /// Who waits for GPUs waits in a row: a stage that wants four is not passed for ever by those that want one.
    turn: tokio::sync::Mutex<()>,
}

/// Bytes of a GPU's memory.
#[derive(Clone, Copy)]
struct Memory {
    whole: u64,
    free: u64,
}

/// Bytes held, by the GPU's index.
struct GpuLease {
    held: Vec<(usize, u64)>,
    of: Arc<GpuLeases>,
}

impl GpuLeases {
    fn new(gpus: &[Gpu]) -> Self {
        let memory = gpus.iter().map(|gpu| Memory { whole: gpu.memory, free: gpu.memory }).collect();
        Self { memory: Mutex::new(memory), released: Notify::new(), turn: tokio::sync::Mutex::default() }
    }

    async fn lease(self: Arc<Self>, wanted: &Gpus) -> GpuLease {
        if wanted.count == 0 {
            return GpuLease { held: Vec::new(), of: self };
        }
        let turn = self.turn.lock().await;
        let held = loop {
            // Made before it is looked, so that what is let go in between is heard.
            let released = self.released.notified();
            if let Some(held) = self.take(wanted) {
                break held;
            }
            released.await;
        };
        drop(turn);
        GpuLease { held, of: self }
    }

    /// As many as are wanted, or as could ever be had; `None` while others hold them. Shared ones are filled up first.
    fn take(&self, wanted: &Gpus) -> Option<Vec<(usize, u64)>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let need = |gpu: &Memory| wanted.memory.unwrap_or(gpu.whole);
        let mut able: Vec<(usize, Memory)> =
            memory.iter().copied().enumerate().filter(|(_, gpu)| need(gpu) <= gpu.whole).collect();
        let count = wanted.count.min(able.len());
        able.retain(|(_, gpu)| need(gpu) <= gpu.free);
        able.sort_by_key(|(_, gpu)| gpu.free);
        let held: Vec<(usize, u64)> =
            able.iter().take(count).map(|(index, gpu)| (*index, need(gpu))).collect();
        if held.len() < count {
            return None;
        }
        for (index, bytes) in &held {
            memory[*index].free -= bytes;
        }
        Some(held)
    }
}

impl Drop for GpuLease {
    fn drop(&mut self) {
        let mut memory = self.of.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, bytes) in &self.held {
            memory[*index].free += bytes;
        }
        self.of.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn two() -> Arc<GpuLeases> {
        let gpu = |uuid: &str| Gpu { uuid: uuid.into(), name: "model".into(), memory: 8 * GIB };
        Arc::new(GpuLeases::new(&[gpu("a"), gpu("b")]))
    }

    fn want(count: usize, memory: Option<u64>) -> Gpus {
        Gpus { count, memory, ..Gpus::default() }
    }

    #[tokio::test]
    async fn a_whole_gpu_is_nobody_elses_and_comes_back() {
        let gpus = two();
        let first = gpus.clone().lease(&want(1, None)).await;
        let second = gpus.clone().lease(&want(1, None)).await;
        assert_ne!(first.held[0].0, second.held[0].0);
        assert!(gpus.take(&want(1, Some(1))).is_none());
        let waiting = tokio::spawn(gpus.clone().lease_owned(want(2, None)));
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "it wants both");
        drop(second);
        assert_eq!(waiting.await.unwrap().held.len(), 2);
    }

    #[tokio::test]
    async fn those_that_say_how_much_share_one_and_leave_the_other_whole() {
        let gpus = two();
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(gpus.clone().lease(&want(1, Some(4 * GIB))).await);
        }
        assert_eq!(held[0].held[0].0, held[1].held[0].0);
        assert!(gpus.take(&want(1, None)).is_some());
    }

    #[tokio::test]
    async fn what_can_never_be_had_is_not_waited_for() {
        let gpus = two();
        assert_eq!(gpus.clone().lease(&want(4, None)).await.held.len(), 2);
        assert!(gpus.clone().lease(&want(1, Some(80 * GIB))).await.held.is_empty());
        let none = Arc::new(GpuLeases::new(&[]));
        assert!(none.lease(&want(1, None)).await.held.is_empty());
    }

    impl GpuLeases {
        async fn lease_owned(self: Arc<Self>, wanted: Gpus) -> GpuLease {
            self.lease(&wanted).await
        }
    }
}
