//! GGUF files for llama.cpp: a model with its tokenizer, or a LoRA adapter.

mod k_quants;
mod lora;
mod metadata;
mod model;
mod names;
mod q8_0;
mod types;
mod writer;

use std::fmt;
use std::path::PathBuf;

use halfbyte::{Count, Size};

pub(super) use lora::export_adapter;
pub(super) use model::export_model;
pub use types::TensorType;

use crate::settings::Value as _;

/// How a GGUF file stores a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// All in f32.
    F32,
    /// Matrices in f16.
    F16,
    /// Matrices in bf16.
    Bf16,
    /// Matrices in 8 bits.
    Q8_0,
    /// Matrices in 4 bits, some in 6: llama.cpp's mix of this name.
    Q4KM,
}

impl GgufType {
    /// llama.cpp's number of it, `general.file_type`.
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Bf16 => 32,
        }
    }
}

/// As it is named on the command line.
impl fmt::Display for GgufType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

/// What an export wrote.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GgufReport {
    /// The file.
    pub output: PathBuf,
    /// How many tensors there are of each type.
    pub tensors: Vec<(TensorType, usize)>,
    /// Bytes of the file.
    pub bytes: u64,
}

impl GgufReport {
    fn new(output: PathBuf, infos: &[writer::TensorInfo], bytes: u64) -> Self {
        const ALL: [TensorType; 6] =
            [TensorType::F32, TensorType::Bf16, TensorType::F16, TensorType::Q8_0, TensorType::Q6K, TensorType::Q4K];
        let count = |kind: TensorType| (kind, infos.iter().filter(|info| info.kind == kind).count());
        GgufReport { output, tensors: ALL.into_iter().map(count).filter(|(_, n)| *n > 0).collect(), bytes }
    }
}

/// For people.
impl fmt::Display for GgufReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n: usize = self.tensors.iter().map(|(_, n)| n).sum();
        let each: Vec<_> = self.tensors.iter().map(|(kind, n)| format!("{n} in {kind}")).collect();
        writeln!(f, "{} ({}), {}", Count(n, "tensor"), each.join(", "), Size(self.bytes))?;
        write!(f, "written to {}", self.output.display())
    }
}
