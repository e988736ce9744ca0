//! Choosing a backend and a compute type at run time.

use crate::{
    error::{Error, Result},
    options,
};
use half::{bf16, f16};
use halfbyte::{Backend, Cpu, Cuda, DType, Float, Size, cpu, cuda, host};
use std::{fmt, str::FromStr};
use tracing::info;

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The first GPU where there is one that this build can use, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl Device {
    /// Whether a GPU would compute, as far as that is known before one is opened.
    pub(crate) fn may_be_gpu(self) -> bool {
        match self {
            Device::Auto => !cuda::kernels().is_empty() && cuda::has_driver(),
            Device::Cpu => false,
            Device::Cuda(_) => true,
        }
    }

    /// Compares `need` bytes with what is free where a run would compute, and says how it stands. No GPU is opened: what
    /// it has is not known then.
    ///
    /// # Errors
    /// So much is not free; `advice` says what to do.
    pub(crate) fn expect_room(self, need: usize, advice: &str) -> Result<String> {
        match self {
            Device::Cuda(n) => return Ok(format!("what is free on cuda:{n} shows when it is opened")),
            Device::Auto if self.may_be_gpu() => {
                return Ok("what is free on the GPU, if there is one, shows when it is opened".into());
            }
            Device::Auto | Device::Cpu => {}
        }
        let need = Size(need as u64);
        match host::free() {
            Some(free) if (free as u64) < need.0 => {
                let want = format!("{} are free; {advice}", Size(free as u64));
                Err(Error::setting("the memory that is needed", format!("about {need}"), want))
            }
            Some(free) => Ok(format!("{} of memory are free", Size(free as u64))),
            None => Ok("the system does not say how much memory is free".into()),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || Error::setting("device", name, "it must be auto, cpu, cuda or cuda:N");
        match name {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => name.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map(Device::Cuda).ok_or_else(unknown),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// Work that any backend and compute type can do.
pub trait Job {
    /// What comes of it.
    type Output;

    /// Does it.
    ///
    /// # Errors
    /// Whatever the work runs into.
    fn run<B: Backend, T: Float>(self, backend: B) -> Result<Self::Output>;
}

/// Opens the device and runs the job there; `threads` are those of the CPU, one for each core if nothing is said.
///
/// # Errors
/// The GPU that was asked for cannot be used (there is no falling back to the CPU), or has no use for `threads`; or the
/// job fails.
pub fn run<J: Job>(device: Device, threads: Option<usize>, dtype: DType, job: J) -> Result<J::Output> {
    match device {
        Device::Cpu => typed(open_cpu(threads)?, dtype, job),
        Device::Cuda(ordinal) => typed(open_cuda(ordinal, threads)?, dtype, job),
        Device::Auto if !cuda::kernels().is_empty() && cuda::device_count().is_ok_and(|n| n > 0) => {
            typed(open_cuda(0, threads)?, dtype, job)
        }
        Device::Auto => typed(open_cpu(threads)?, dtype, job),
    }
}

fn open_cuda(ordinal: usize, threads: Option<usize>) -> Result<Cuda> {
    match threads {
        Some(n) => {
            let want = "the GPU computes, and has no use for them; leave them out, or compute with device cpu";
            Err(Error::setting(options::THREADS.name, n, want))
        }
        None => Ok(Cuda::new(ordinal)?),
    }
}

/// The CPU, with instructions that it has.
fn open_cpu(threads: Option<usize>) -> Result<Cpu> {
    if let Some(n) = threads {
        options::THREADS.check(n)?;
        cpu::set_threads(n);
    }
    let got = || std::env::var_os(cpu::VARIABLE).unwrap_or_default().to_string_lossy().into_owned();
    cpu::check_level().map_err(|want| Error::setting(cpu::VARIABLE, got(), format!("it {want}")))?;
    Ok(Cpu::new())
}

fn typed<B: Backend, J: Job>(backend: B, dtype: DType, job: J) -> Result<J::Output> {
    info!(device = backend.name(), free = backend.free_memory(), ?dtype, "device");
    match dtype {
        DType::Bf16 => job.run::<B, bf16>(backend),
        DType::F16 => job.run::<B, f16>(backend),
        DType::F32 => job.run::<B, f32>(backend),
    }
}
