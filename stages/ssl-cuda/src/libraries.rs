//! The libraries of NVIDIA that the plugin works with: found where they usually lie, before they are asked for by name.

use std::{
    env, fs, mem,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use cudarc::{cublas, driver, nvrtc};
use libloading::Library;

/// A library that is not on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// No driver: there is no NVIDIA card, or it is not set up.
    #[error("there is no NVIDIA driver here (libcuda.so.1)")]
    Driver,
    /// The toolkit's library of matrix products.
    #[error(
        "there is a driver, but no cuBLAS: load your cluster's CUDA module, or set CUDA_PATH to a toolkit, or LD_LIBRARY_PATH to \
         the `lib` folder of PyPI's nvidia-cublas"
    )]
    Cublas,
    /// The toolkit's compiler of kernels.
    #[error(
        "there is a driver, but no NVRTC: load your cluster's CUDA module, or set CUDA_PATH to a toolkit, or LD_LIBRARY_PATH to \
         the `lib` folder of PyPI's nvidia-cuda-nvrtc"
    )]
    Nvrtc,
}

/// Folders below a toolkit that hold its libraries.
const BELOW: [&str; 3] = ["lib64", "lib", "targets/x86_64-linux/lib"];

/// Makes sure that all are there.
///
/// # Errors
/// The first that is missing.
pub(crate) fn load() -> Result<(), Missing> {
    static FOUND: OnceLock<Result<(), Missing>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // Each needs those before it.
        for name in ["libcublasLt.so", "libcublas.so", "libnvrtc.so"] {
            preload(name);
        }
        // SAFETY: what is loaded are NVIDIA's libraries, whose loading has no conditions.
        #[expect(unsafe_code, reason = "loading a library runs its code")]
        let [driver, cublas, nvrtc] = unsafe {
            [driver::sys::is_culib_present(), cublas::sys::is_culib_present(), nvrtc::sys::is_culib_present()]
        };
        match (driver, cublas, nvrtc) {
            (false, ..) => Err(Missing::Driver),
            (_, false, _) => Err(Missing::Cublas),
            (.., false) => Err(Missing::Nvrtc),
            _ => Ok(()),
        }
    })
}

/// The compiler of kernels alone: enough to test them where there is no card.
pub(crate) fn load_compiler() -> Result<(), Missing> {
    preload("libnvrtc.so");
    // SAFETY: as above.
    #[expect(unsafe_code, reason = "loading a library runs its code")]
    let present = unsafe { nvrtc::sys::is_culib_present() };
    if present { Ok(()) } else { Err(Missing::Nvrtc) }
}

/// Loads a library for good from a toolkit's folder, if it is in one and the system does not find it by itself: from then on it is
/// found by its name.
fn preload(name: &str) {
    let toolkits = ["CUDA_PATH", "CUDA_HOME"].iter().filter_map(env::var_os).map(PathBuf::from);
    let folders = toolkits.chain(["/usr/local/cuda".into(), "/opt/cuda".into()]);
    let folders = folders.flat_map(|toolkit| BELOW.map(|below| toolkit.join(below)));
    for path in folders.filter_map(|folder| newest(&folder, name)) {
        // SAFETY: as in `load`.
        #[expect(unsafe_code, reason = "loading a library runs its code")]
        let library = unsafe { Library::new(path) };
        if let Ok(library) = library {
            mem::forget(library);
            return;
        }
    }
}

/// `libx.so` or `libx.so.13` in a folder.
fn newest(folder: &Path, name: &str) -> Option<PathBuf> {
    let names = fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let file = names.filter(|found| found.strip_prefix(name).is_some_and(is_version)).max()?;
    Some(folder.join(file))
}

fn is_version(rest: &str) -> bool {
    rest.chars().all(|c| c == '.' || c.is_ascii_digit())
}
