//! What this machine has for stages, and what a run may use of it: threads, memory, GPUs.

use std::path::Path;

use nvml_wrapper::{Nvml, error::NvmlError};
use serde::Serialize;

/// What a run may use.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Stages at once.
    pub(crate) jobs: usize,
    /// Threads, all stages together.
    pub(crate) cpus: usize,
    /// Bytes of main memory, all stages together.
    pub(crate) memory: u64,
    /// GPUs.
    pub(crate) gpus: Vec<Gpu>,
}

impl Machine {
    /// All of this machine that this process may use.
    pub(crate) fn here() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Self { jobs: usize::MAX, cpus, memory: memory(), gpus: gpus() }
    }
}

/// A GPU as its driver tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Gpu {
    /// `GPU-…`: the same whatever else is visible, unlike an index.
    pub(crate) uuid: String,
    /// Its model.
    pub(crate) name: String,
    /// Bytes of its memory that were free when it was looked at.
    pub(crate) memory: u64,
}

/// Bytes of main memory: the machine's, or what the control group leaves of it, as under Slurm or in a container.
fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    let whole = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit.max(1)));
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = group.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    let limit = |folder: &Path| {
        std::fs::read_to_string(root.join(folder).join("memory.max")).ok()?.trim().parse().ok()
    };
    Path::new(own).ancestors().filter_map(limit).fold(whole, u64::min)
}

/// Variable by which a user, or Slurm, says which GPUs a process may see; and restage to its hosts.
pub(crate) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// GPUs that this process may use. To have none, and no driver, is normal.
fn gpus() -> Vec<Gpu> {
    let found = found().unwrap_or_else(|error| {
        tracing::debug!("no GPUs: {error}");
        Vec::new()
    });
    match std::env::var(VISIBLE) {
        Ok(visible) => seen(found, &visible),
        Err(_) => found,
    }
}

fn found() -> Result<Vec<Gpu>, NvmlError> {
    // The name without a version comes with a package for developers only.
    let nvml = Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init().or_else(|_| Nvml::init())?;
    let gpu = |index| {
        let device = nvml.device_by_index(index)?;
        Ok(Gpu { uuid: device.uuid()?, name: device.name()?, memory: device.memory_info()?.free })
    };
    (0..nvml.device_count()?).map(gpu).collect()
}

/// Those that a list names, by index or by the beginning of their UUID; as CUDA reads it, up to the first that is none.
fn seen(found: Vec<Gpu>, visible: &str) -> Vec<Gpu> {
    let named = |name: &str| match name.parse::<usize>() {
        Ok(index) => found.get(index).cloned(),
        Err(_) => found.iter().find(|gpu| !name.is_empty() && gpu.uuid.starts_with(name)).cloned(),
    };
    visible.split(',').map(|name| named(name.trim())).map_while(|gpu| gpu).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_visible_gpus_is_read_as_cuda_does() {
        let gpu = |uuid: &str| Gpu { uuid: uuid.into(), name: "model".into(), memory: 1 };
        let all = || vec![gpu("GPU-aa"), gpu("GPU-bb"), gpu("GPU-bc")];
        let names = |visible: &str| seen(all(), visible).into_iter().map(|gpu| gpu.uuid).collect::<Vec<_>>();
        assert_eq!(names("2,0"), ["GPU-bc", "GPU-aa"]);
        assert_eq!(names("GPU-bb, GPU-a"), ["GPU-bb", "GPU-aa"]);
        assert_eq!(names("1,-1,0"), ["GPU-bb"], "what comes after one that is none is not seen");
        assert!(names("").is_empty() && names("-1").is_empty() && names("7").is_empty());
    }

    #[test]
    fn there_is_some_memory() {
        assert!(memory() > 1 << 20);
    }
}
