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
    #[error("launching `{kernel}`: {reason}")]
    Launch {
        /// Its name.
        kernel: String,
        /// What the driver says.
        reason: String,
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
    /// The CUDA driver or one of its libraries refused.
    #[error("{what}: {reason}")]
    Cuda {
        /// The call.
        what: &'static str,
        /// What it says.
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
