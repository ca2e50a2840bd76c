//! Compiles the CUDA kernels where a feature asks for them: for devices with the toolkit's `nvcc`, or for the host.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &str = "src/kernels/cuda";

fn main() {
    println!("cargo::rerun-if-changed={SOURCES}");
    if env::var_os("CARGO_FEATURE_CUDA_EMULATOR").is_some() {
        emulate();
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile();
    }
}

/// All kernels as functions of the host, for tests.
fn emulate() {
    #[cfg(feature = "cuda-emulator")]
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .flag_if_supported("-Wno-clobbered")
        .flag_if_supported("-Wno-unknown-pragmas")
        .flag("-ffp-contract=off")
        .opt_level(1)
        .file(Path::new(SOURCES).join("emulate.cpp"))
        .compile("emulate");
}

/// Each source as PTX, which the driver compiles for the device that it finds: `CUDA_COMPUTE_CAP` is the oldest generation
/// that it will run on.
fn compile() {
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let generation = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let sources = std::fs::read_dir(SOURCES).into_iter().flatten().flatten().map(|entry| entry.path());
    for from in sources.filter(|path| path.extension().is_some_and(|ending| ending == "cu")) {
        let to = out.join(from.file_name().unwrap_or_default()).with_extension("ptx");
        let arguments = ["--ptx", "-O3", "-std=c++17"];
        let mut nvcc = Command::new(nvcc());
        nvcc.args(arguments).arg(format!("-arch=compute_{generation}")).arg("-o").arg(&to).arg(&from);
        let status = nvcc.status();
        assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{nvcc:?}: {status:?}");
    }
}

fn nvcc() -> PathBuf {
    let of_toolkit = |home| Path::new(&home).join("bin/nvcc");
    env::var_os("CUDA_HOME").map(of_toolkit).filter(|nvcc| nvcc.exists()).unwrap_or_else(|| "nvcc".into())
}
