use crate::cuda::describe;
use cudarc::{cublaslt::result::CublasError, driver::DriverError};
use std::fmt;

/// What can go wrong in the kernel library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A view does not have the length that the op's dimensions call for.
    #[error("{op}: `{arg}` has {got} elements, expected {want}")]
    Len {
        /// The op.
        op: &'static str,
        /// The argument.
        arg: &'static str,
        /// Its length.
        got: usize,
        /// The length that the dimensions call for.
        want: usize,
    },
    /// A matrix does not have the shape that the other arguments call for.
    #[error("{op}: `{arg}` is {got:?}, expected {want:?}")]
    Shape {
        /// The op.
        op: &'static str,
        /// The argument.
        arg: &'static str,
        /// Its rows and columns.
        got: [usize; 2],
        /// The rows and columns that the other arguments call for.
        want: [usize; 2],
    },
    /// A number is outside what the op can do.
    #[error("{op}: {arg} is {got}, but {want}")]
    Value {
        /// The op.
        op: &'static str,
        /// The argument.
        arg: &'static str,
        /// What it was.
        got: String,
        /// What it must be, and what to do.
        want: &'static str,
    },
    /// A view is of memory that another device, or another opening of the same one, owns.
    #[error("{op}: `{arg}` belongs to another device; upload or copy it to the one that runs the op")]
    Foreign {
        /// The op.
        op: &'static str,
        /// The argument.
        arg: &'static str,
    },
    /// This build has no kernels.
    #[error(
        "halfbyte was built without CUDA kernels, because nvcc was not found at build time; \
         run `scripts/install-cuda-toolchain.sh` (or set NVCC or CUDA_HOME), then build again"
    )]
    NoKernels,
    /// No CUDA driver on this machine.
    #[error("no CUDA driver on this machine (libcuda.so was not found); install NVIDIA's driver or use the CPU")]
    NoDriver,
    /// No such GPU.
    #[error("CUDA device {ordinal} was asked for, but this machine has {count}")]
    NoDevice {
        /// The one asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// A kernel could not be launched.
    #[error("launching `{kernel}`: {}", describe(source))]
    Launch {
        /// Its name.
        kernel: String,
        /// What the driver says.
        source: DriverError,
    },
    /// This build has no such kernel for this GPU.
    #[error("launching `{kernel}`: this build does not have it for this GPU; see HALFBYTE_CUDA_ARCHS")]
    NoKernel {
        /// Its name.
        kernel: String,
    },
    /// There is too little memory.
    #[error("out of memory: {} more were asked for, {}", Size(*bytes as u64), Free(*free))]
    OutOfMemory {
        /// The allocation that failed.
        bytes: usize,
        /// What the device or the machine has left, where it says.
        free: Option<usize>,
    },
    /// More elements than an address space has bytes.
    #[error("{shape:?} elements of {size} bytes were asked for, which is more than memory can hold; check the sizes")]
    TooLarge {
        /// Sizes of what was asked for.
        shape: Vec<usize>,
        /// Bytes of one.
        size: usize,
    },
    /// The CUDA driver refused.
    #[error("{what}: {}", describe(source))]
    Driver {
        /// What was tried.
        what: &'static str,
        /// What it says.
        source: DriverError,
    },
    /// cuBLASLt refused.
    #[error("{what}: cuBLASLt answers {source}")]
    Blas {
        /// What was tried.
        what: &'static str,
        /// What it says.
        source: CublasError,
    },
    /// Something cannot be done on a GPU as it stands.
    #[error("{what}: {reason}")]
    Cuda {
        /// What was tried.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// Whether more memory was asked for than there is.
    pub fn is_memory(&self) -> bool {
        matches!(self, Error::OutOfMemory { .. } | Error::TooLarge { .. })
    }
}

/// A number of bytes, as people read it: `1.5 GiB`.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size(bytes) = *self;
        match bytes {
            0x4000_0000.. => write!(f, "{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
            0x10_0000.. => write!(f, "{:.1} MiB", bytes as f64 / (1u64 << 20) as f64),
            _ => write!(f, "{bytes} bytes"),
        }
    }
}

/// A number of things, as people say it: `1 step`, `2 steps`.
#[derive(Debug, Clone, Copy)]
pub struct Count<'a, N>(pub N, pub &'a str);

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Count<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(n, thing) = self;
        write!(f, "{n} {thing}{}", if *n == N::from(1) { "" } else { "s" })
    }
}

/// What is free, for people.
struct Free(Option<usize>);

impl fmt::Display for Free {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "{} are free", Size(bytes as u64)),
            None => f.write_str("which are not free"),
        }
    }
}

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the driver says is in the message, too, but that asks the driver for words.
    #[test]
    fn what_the_libraries_say_is_a_source() {
        let refused = cudarc::cublaslt::sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED;
        let error = Error::Blas { what: "planning a matrix product", source: CublasError(refused) };
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
        assert_eq!(source, Some(&CublasError(refused)));
        assert!(error.to_string().starts_with("planning a matrix product: cuBLASLt answers "), "{error}");
        let lost = DriverError(cudarc::driver::sys::CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE);
        for error in [Error::Driver { what: "x", source: lost }, Error::Launch { kernel: "x".into(), source: lost }] {
            let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
            assert_eq!(source, Some(&lost));
        }
    }

    #[test]
    fn one_is_no_plural() {
        let said = [0, 1, 2].map(|n: usize| Count(n, "step").to_string());
        assert_eq!(said, ["0 steps", "1 step", "2 steps"]);
    }
}
