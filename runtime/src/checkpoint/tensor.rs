use std::path::Path;

use half::{bf16, f16};
use halfbyte::{DType, host};
use rayon::prelude::*;
use safetensors::Dtype;

use crate::error::{Error, Result};

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

    /// Its elements from `start` on as f32, as many as `out` has; zeros for types that are no compute type.
    pub(crate) fn fill(&self, start: usize, out: &mut [f32]) {
        let len = out.len();
        let bytes = |size: usize| &self.data[start * size..][..len * size];
        match self.float() {
            Some(DType::F32) => out.iter_mut().zip(words(bytes(4))).for_each(|(o, v)| *o = v),
            Some(DType::Bf16) => {
                out.iter_mut().zip(halves(bytes(2))).for_each(|(o, h)| *o = bf16::from_bits(h).to_f32());
            }
            Some(DType::F16) => {
                out.iter_mut().zip(halves(bytes(2))).for_each(|(o, h)| *o = f16::from_bits(h).to_f32());
            }
            None => out.fill(0.0),
        }
    }

    /// Row `i` of a matrix as f32.
    ///
    /// # Errors
    /// Those of [`Self::to_f32`].
    pub fn row(&self, i: usize) -> Result<Vec<f32>> {
        let bytes = self.data.len() / self.shape[0];
        TensorRef { data: &self.data[i * bytes..][..bytes], ..*self }.to_f32()
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

    /// Itself, if its elements are numbers: of bf16, f16 and f32 none may be infinite or NaN.
    ///
    /// # Errors
    /// [`Error::Tensor`] names the first that is.
    pub fn expect_finite(self) -> Result<Self> {
        let (size, first) = match self.dtype {
            Dtype::BF16 => (2, first_special(self.data, |w| u16::from_le_bytes(w) & 0x7F80 == 0x7F80)),
            Dtype::F16 => (2, first_special(self.data, |w| u16::from_le_bytes(w) & 0x7C00 == 0x7C00)),
            Dtype::F32 => (4, first_special(self.data, |w| u32::from_le_bytes(w) & 0x7F80_0000 == 0x7F80_0000)),
            _ => return Ok(self),
        };
        let Some(first) = first else { return Ok(self) };
        let element = TensorRef { data: &self.data[first * size..][..size], ..self };
        let got = format!("{} at element {first}", element.to_f32()?[0]);
        let want = "finite numbers; the file is damaged, or its training diverged".to_owned();
        Err(Error::Tensor { path: self.file.to_owned(), name: self.name.to_owned(), got, want })
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

/// The first of these words that is special. All cores look, each at pieces that fit its cache; without a branch for each
/// word, so that it is as fast as the memory.
fn first_special<const N: usize>(data: &[u8], special: impl Fn([u8; N]) -> bool + Sync) -> Option<usize> {
    const PIECE: usize = 1 << 16;
    let (words, _) = data.as_chunks::<N>();
    let any = |piece: &[[u8; N]]| piece.iter().fold(false, |any, &word| any | special(word));
    let piece = words.par_chunks(PIECE).position_first(any)?;
    let start = piece * PIECE;
    words[start..].iter().position(|&word| special(word)).map(|i| start + i)
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
