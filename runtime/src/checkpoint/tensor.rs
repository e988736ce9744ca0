use std::path::Path;

use half::{bf16, f16};
use halfbyte::{DType, host};
use safetensors::Dtype;

use crate::{Error, Result};

/// A tensor in a file: its bytes as they lie there, little-endian and of any alignment.
#[derive(Debug, Clone, Copy)]
pub struct TensorRef<'a> {
    /// Its name.
    pub name: &'a str,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its sizes, the slowest first.
    pub shape: &'a [usize],
    /// Its elements, row-major.
    pub data: &'a [u8],
    /// The file that it is in.
    pub file: &'a Path,
}

/// A tensor to be written: [`TensorRef`] without a file.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its sizes, the slowest first.
    pub shape: &'a [usize],
    /// Its elements, row-major, little-endian.
    pub data: &'a [u8],
}

impl<'a> TensorRef<'a> {
    /// Which of the compute types its elements are, if they are one.
    pub fn float(&self) -> Option<DType> {
        match self.dtype {
            Dtype::BF16 => Some(DType::Bf16),
            Dtype::F16 => Some(DType::F16),
            Dtype::F32 => Some(DType::F32),
            _ => None,
        }
    }

    /// Its elements as f32, which is exact for bf16, f16 and f32.
    ///
    /// # Errors
    /// [`Error::Tensor`] for other types; or there is too little memory.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        match self.dtype {
            Dtype::F32 => Ok(host::collect(self.data.len() / 4, words(self.data))?),
            Dtype::BF16 => {
                Ok(host::collect(self.data.len() / 2, halves(self.data).map(|h| bf16::from_bits(h).to_f32()))?)
            }
            Dtype::F16 => {
                Ok(host::collect(self.data.len() / 2, halves(self.data).map(|h| f16::from_bits(h).to_f32()))?)
            }
            _ => Err(self.wrong("bfloat16, float16 or float32")),
        }
    }

    /// Itself, if it has this shape.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it has not.
    pub fn expect_shape(self, shape: &[usize]) -> Result<Self> {
        if self.shape == shape { Ok(self) } else { Err(self.wrong(format!("{shape:?}"))) }
    }

    /// Itself, if its elements are of this type.
    ///
    /// # Errors
    /// [`Error::Tensor`] if they are not.
    pub fn expect_dtype(self, dtype: Dtype) -> Result<Self> {
        if self.dtype == dtype { Ok(self) } else { Err(self.wrong(format!("{dtype:?}"))) }
    }

    /// The error of a tensor that is not what is wanted.
    pub(crate) fn wrong(&self, want: impl Into<String>) -> Error {
        Error::Tensor {
            path: self.file.to_owned(),
            name: self.name.to_owned(),
            got: format!("{:?} {:?}", self.dtype, self.shape),
            want: want.into(),
        }
    }
}

/// Little-endian f32 of any alignment.
pub(crate) fn f32s(bytes: &[u8]) -> Vec<f32> {
    words(bytes).collect()
}

fn words(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|w| f32::from_le_bytes(*w))
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = u16> {
    let (words, _) = bytes.as_chunks::<2>();
    words.iter().map(|w| u16::from_le_bytes(*w))
}
