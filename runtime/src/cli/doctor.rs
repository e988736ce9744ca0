//! Says what halfbyte sees on this machine, and what to do about what is missing.

use super::tool::{Run, Tool, version};
use crate::{error::Result, hub::Environment, say};
use halfbyte::{
    Backend, Count, Cpu, Cuda, Size, cpu,
    cuda::{
        self,
        cudarc::driver::{CudaContext, DriverError},
    },
    host,
};
use std::{env, ffi::OsString, fs, path::Path, process::ExitCode};

/// Says what there is.
pub const DOCTOR: Tool = Tool {
    name: "doctor",
    about: "Say what halfbyte sees on this machine, and what to do about what is missing",
    options: |command| command,
    run: Run::Options(|_| tell()),
};

fn tell() -> Result<ExitCode> {
    line("halfbyte", version());
    line("built for", format!("{} on {}", env::consts::ARCH, env::consts::OS));
    let kernels = print_kernels();
    let gpus = print_gpus();
    print_blas(gpus);
    print_cpu();
    print_memory();
    print_cache();
    print_variables();
    let device = match (kernels, gpus) {
        (true, true) => "auto runs on cuda:0",
        _ => "auto runs on the CPU",
    };
    line("device", device);
    Ok(ExitCode::SUCCESS)
}

fn line(what: &str, found: impl std::fmt::Display) {
    say!("{what:<10} {found}");
}

fn advice(text: &str) {
    line("", format!("-> {text}"));
}

/// Prints the kernels of this build; true if there are any.
fn print_kernels() -> bool {
    let kernels = cuda::kernels();
    if kernels.is_empty() {
        line("kernels", "none: this build is for the CPU only");
        advice("for a GPU: run scripts/install-cuda-toolchain.sh, or set NVCC or CUDA_HOME; then build again");
        return false;
    }
    let archs = cuda::architectures().split(',').map(|arch| format!("sm_{}", arch.trim()));
    let archs = archs.collect::<Vec<_>>().join(" ");
    line("kernels", format!("{} for {archs}, by nvcc {}", Count(kernels.len(), "file"), cuda::nvcc_version()));
    line("", kernels.join(" "));
    true
}

/// Prints the driver and its GPUs; true if there are any.
fn print_gpus() -> bool {
    let count = match cuda::device_count() {
        Err(halfbyte::Error::NoDriver) => {
            line("driver", "none: libcuda was not found");
            advice("for a GPU: install NVIDIA's driver (in a container: run it with --gpus all)");
            return false;
        }
        Err(e) => {
            line("driver", format!("found, but {e}"));
            advice("see what nvidia-smi says; the driver may need an update or a restart of the machine");
            return false;
        }
        Ok(count) => count,
    };
    line("driver", driver_version().map_or("found".into(), |version| format!("found, {version}")));
    if count == 0 {
        line("GPU", "none");
        advice("the driver is there, but it shows no GPU: see what nvidia-smi and CUDA_VISIBLE_DEVICES say");
    }
    for ordinal in 0..count {
        let name = format!("cuda:{ordinal}");
        match describe(ordinal) {
            Ok(gpu) => line(&name, gpu),
            Err(e) => line(&name, format!("cannot be opened: {e}")),
        }
        print_use(ordinal);
    }
    count > 0
}

/// What Linux' kernel says of its module, such as `570.86.15`.
fn driver_version() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let number = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    text.lines().next()?.split_whitespace().find(number).map(str::to_owned)
}

/// What a GPU is.
fn describe(ordinal: usize) -> std::result::Result<String, DriverError> {
    let gpu = CudaContext::new(ordinal)?;
    let (major, minor) = gpu.compute_capability()?;
    let (free, total) = gpu.mem_get_info()?;
    let name = gpu.name()?;
    Ok(format!("{name}, compute capability {major}.{minor}, {} of {} free", Size(free as u64), Size(total as u64)))
}

/// Tries a kernel on a GPU.
fn print_use(ordinal: usize) {
    if cuda::kernels().is_empty() {
        return;
    }
    match try_kernel(ordinal) {
        Ok(()) => line("", "runs halfbyte's kernels"),
        Err(e) => {
            line("", format!("does not run halfbyte's kernels: {e}"));
            advice(
                "build for its compute capability with HALFBYTE_CUDA_ARCHS, such as 90a for 9.0; or update the driver",
            );
        }
    }
}

fn try_kernel(ordinal: usize) -> halfbyte::Result<()> {
    use halfbyte::ops::{Cast, Op};
    let gpu = Cuda::new(ordinal)?;
    let (x, mut out) = (gpu.upload(&[1f32; 4])?, gpu.zeros::<half::bf16>(4)?);
    Cast { x: x.view(), out: out.view_mut() }.run(&gpu)?;
    gpu.synchronize()
}

fn print_blas(gpus: bool) {
    if cuda::has_cublaslt() {
        line("cuBLASLt", "found");
    } else {
        line("cuBLASLt", "not found");
        if gpus {
            advice(
                "large products are faster with it: pip install nvidia-cublas and put its lib folder into LD_LIBRARY_PATH",
            );
        }
    }
}

fn print_cpu() {
    line("CPU", Cpu::new().name());
    line("", cpu::features().join(" "));
    if cfg!(target_arch = "x86_64") && !cpu::features().contains(&"avx2") {
        advice("without AVX2 it is slow: a virtual machine may need its CPU set to pass it through");
    }
    line("threads", format!("{} (--threads sets another number)", cpu::threads()));
}

fn print_memory() {
    match host::free() {
        Some(free) => line("memory", format!("{} free for this process", Size(free as u64))),
        None => line("memory", "the system does not say what is free"),
    }
}

/// The cache of models from the hub, and how the hub is reached.
fn print_cache() {
    let environment = Environment::read();
    let Environment { cache, endpoint, offline, .. } = &environment;
    let there = if cache.is_dir() { "" } else { " (not there yet)" };
    line("hub cache", format!("{}{there}", cache.display()));
    let token = if environment.has_token() { "with a token" } else { "without a token" };
    line("hub", if *offline { "left alone (HF_HUB_OFFLINE)".into() } else { format!("{endpoint}, {token}") });
}

/// What of the environment changes what halfbyte does, but for what is secret.
fn print_variables() {
    let ours = |name: &str| name.starts_with("HALFBYTE_") || name.starts_with("CUDA_") || name == "LD_LIBRARY_PATH";
    let text = |value: OsString| value.to_string_lossy().into_owned();
    let mut variables: Vec<_> = env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    variables.sort();
    for (name, value) in variables.into_iter().filter(|(name, _)| ours(name)) {
        line("variable", format!("{name}={value}"));
    }
    for file in ["halfbyte.toml", ".env"].into_iter().filter(|file| Path::new(file).is_file()) {
        line("settings", format!("{file} in this folder; --print-config of each program says what it sets"));
    }
}
