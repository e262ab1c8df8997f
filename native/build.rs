//! Links the CUDA kernels of `native/cuda` where a feature asks for them; that folder's Makefile knows how they are built.
#![allow(clippy::print_stdout, reason = "Cargo reads what a build script prints")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    napi_build::setup();
    let chosen = |feature: &str| std::env::var_os(feature).is_some();
    let built = match (chosen("CARGO_FEATURE_CUDA"), chosen("CARGO_FEATURE_CUDA_EMULATED")) {
        (true, false) => link_cuda(),
        (false, true) => link_emulated(),
        // Neither; or both, which `lib.rs` refuses.
        _ => Ok(()),
    };
    if let Err(what) = built {
        println!("cargo::error={what}");
    }
}

/// Kernels by nvcc, for the GPU.
fn link_cuda() -> Result<(), String> {
    for name in ["LORAMUX_NVCC", "LORAMUX_CUDA_LIB", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let nvcc = nvcc().ok_or(
        "feature `cuda` needs nvcc: set LORAMUX_NVCC or CUDA_HOME, or let `npm run build:cuda` fetch a compiler and build the addon",
    )?;
    make("lib", &[("NVCC", &nvcc)])?;
    if let Some(folder) = runtime_folder(&nvcc) {
        println!("cargo::rustc-link-search=native={}", folder.display());
    }
    println!("cargo::rustc-link-lib=static=cudart_static");
    for library in ["dl", "rt", "pthread"] {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    Ok(())
}

/// The same sources by the C++ compiler, over the emulator.
fn link_emulated() -> Result<(), String> {
    make("lib-emulated", &[])
}

fn make(target: &str, variables: &[(&str, &Path)]) -> Result<(), String> {
    let sources = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("cuda");
    let out = PathBuf::from(variable("OUT_DIR")?).join(target);
    println!("cargo::rerun-if-changed={}", sources.display());
    let mut command = Command::new("make");
    // Its own job server's variables would have make wait for Cargo's tokens; two compilers at once fit every machine.
    command.env_remove("MAKEFLAGS").env_remove("CARGO_MAKEFLAGS").arg("-j2").arg("-C").arg(&sources).arg(target);
    command.arg(format!("OUT={}", out.display()));
    for (name, value) in variables {
        command.arg(format!("{name}={}", value.display()));
    }
    let ended = command.output().map_err(|e| format!("make of native/cuda: {e}: install GNU make and a C++ compiler"))?;
    if !ended.status.success() {
        // Cargo shows one line of an error; the rest is for whoever asks for it with -vv.
        println!("{}", String::from_utf8_lossy(&ended.stdout));
        let told = String::from_utf8_lossy(&ended.stderr).trim().replace('\n', " | ");
        return Err(format!("make -C native/cuda {target}: {}: {told}", ended.status));
    }
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static=loramux_cuda");
    println!("cargo::rustc-link-lib=dylib=stdc++");
    Ok(())
}

/// `LORAMUX_NVCC`, else the toolkit's of `CUDA_HOME`, else the first on the search path.
fn nvcc() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("LORAMUX_NVCC") {
        return Some(PathBuf::from(given));
    }
    let toolkit = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&folders).map(|folder| folder.join("nvcc"));
    toolkit.into_iter().chain(on_path).find(|path| path.is_file())
}

/// Where the static CUDA runtime lies: as told, or beside the compiler.
fn runtime_folder(nvcc: &Path) -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("LORAMUX_CUDA_LIB") {
        return Some(PathBuf::from(given));
    }
    let beside = nvcc.parent().and_then(Path::parent).map(Path::to_owned);
    let homes = std::env::var_os("CUDA_HOME").map(PathBuf::from).into_iter().chain(beside);
    homes.flat_map(|home| ["lib64", "lib"].map(|name| home.join(name))).find(|folder| folder.join("libcudart_static.a").is_file())
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|e| format!("{name}: {e}"))
}
