//! A pretended driver and cuBLAS for tests, where there is no card: `pretended.cpp`, which runs kernels on the CPU. They check what
//! kernels compute, and that they stay within their memory; of a card's own rounding and speed they know nothing.

use std::{mem, path::Path, process::Command, sync::OnceLock};

use cudarc::driver;
use libloading::Library;

/// Their names, as they are asked for.
const LIBRARIES: [&str; 3] = ["libcuda.so", "libcublas.so", "libnvrtc.so"];

/// Loads them for good, if this machine has no driver: from then on they are found by their names. Says why not.
pub(crate) fn load() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        // SAFETY: what is loaded is NVIDIA's library, whose loading has no conditions.
        #[expect(unsafe_code, reason = "loading a library runs its code")]
        let has_driver = unsafe { driver::sys::is_culib_present() };
        if has_driver {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        match build(folder.path()) {
            Ok(()) => println!("no driver: a pretended one runs the kernels, on the CPU"),
            Err(error) => println!("no driver, and no pretended one: {error}"),
        }
    });
}

fn build(folder: &Path) -> Result<(), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pretended.cpp");
    let object = folder.join("pretended.o");
    compile(&["-std=c++17", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", "-c"], &source, &object)?;
    for name in LIBRARIES {
        let path = folder.join(name);
        compile(&["-shared", &format!("-Wl,-soname,{name}")], &object, &path)?;
        // SAFETY: ours, which does nothing when it is loaded.
        #[expect(unsafe_code, reason = "loading a library runs its code")]
        let library = unsafe { Library::new(&path) };
        mem::forget(library.map_err(|error| error.to_string())?);
    }
    Ok(())
}

fn compile(options: &[&str], from: &Path, to: &Path) -> Result<(), String> {
    let compiler = Command::new("c++").args(options).arg("-o").args([to, from]).arg("-ldl").output();
    let output = compiler.map_err(|error| format!("there is no C++ compiler: {error}"))?;
    if output.status.success() { Ok(()) } else { panic!("{}", String::from_utf8_lossy(&output.stderr)) }
}
