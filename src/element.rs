use crate::{
    compiled::On,
    cpu::Cpu,
    cuda::Cuda,
    error::{Error, Result},
};
use half::{bf16, f16};

/// What a buffer can hold: plain data with the same layout on the host and on the device.
pub trait Element: bytemuck::Pod + Send + Sync + std::fmt::Debug {}

impl Element for u8 {}
impl Element for i8 {}
impl Element for u32 {}
impl Element for i32 {}
impl Element for f32 {}
impl Element for bf16 {}
impl Element for f16 {}

/// How many `T`s something of this shape has: where sizes that come from options or files are multiplied.
///
/// # Errors
/// Their bytes are more than an address space has.
pub fn elements<T>(shape: &[usize]) -> Result<usize> {
    Ok(bytes_of::<T>(shape)? / size_of::<T>())
}

/// Bytes of `len` elements.
pub(crate) fn bytes<T>(len: usize) -> Result<usize> {
    bytes_of::<T>(&[len])
}

fn bytes_of<T>(shape: &[usize]) -> Result<usize> {
    // A factor of 0 makes it 0, whatever the others are.
    let product = |shape: &[usize]| shape.iter().try_fold(size_of::<T>(), |bytes, &size| bytes.checked_mul(size));
    let bytes = if shape.contains(&0) { Some(0) } else { product(shape) };
    let bytes = bytes.filter(|&bytes| isize::try_from(bytes).is_ok());
    bytes.ok_or_else(|| Error::TooLarge { shape: shape.to_vec(), size: size_of::<T>() })
}

/// The floating-point types that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl DType {
    /// All of them, in the order of [`DType::index`].
    pub const ALL: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

    /// Position in [`DType::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The ending of kernel names: `bf16`, `f16`, `f32`.
    pub const fn suffix(self) -> &'static str {
        ["bf16", "f16", "f32"][self as usize]
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        [2, 2, 4][self as usize]
    }
}

/// A compute type: activations and dense weights are made of it. Arithmetic on it happens in f32.
pub trait Float: Element + Default + PartialEq + On<Cpu> + On<Cuda> {
    /// Which of the types this is.
    const DTYPE: DType;
    /// The value as f32 (exact).
    fn to_f32(self) -> f32;
    /// The nearest value, ties to even.
    fn from_f32(v: f32) -> Self;
}

macro_rules! float {
    ($t:ty, $dtype:ident, $to:expr, $from:expr) => {
        impl Float for $t {
            const DTYPE: DType = DType::$dtype;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to(self)
            }
            #[inline(always)]
            fn from_f32(v: f32) -> Self {
                $from(v)
            }
        }
    };
}

float!(bf16, Bf16, bf16::to_f32, bf16::from_f32);
float!(f16, F16, f16::to_f32, f16::from_f32);
float!(f32, F32, |v: f32| v, |v: f32| v);
