//! The structs of `dlpack.h`, and tensors of this crate in them.

use super::refused;
use crate::{backend::Backend, buffer::Buf, element::Element, error::Result};
use core::ffi::c_void;
use std::{fmt, ptr::NonNull};

/// `DLDevice`: where memory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Device {
    /// One of the constants below, or another of `DLDeviceType`.
    pub kind: i32,
    /// Which of them.
    pub id: i32,
}

impl Device {
    /// The host.
    pub const CPU: i32 = 1;
    /// A GPU of NVIDIA.
    pub const CUDA: i32 = 2;
    /// The host, page-locked.
    pub const CUDA_HOST: i32 = 3;
    /// Memory that moves between host and GPU.
    pub const CUDA_MANAGED: i32 = 13;
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Device { kind, id } = *self;
        match kind {
            Device::CPU => f.write_str("the CPU"),
            Device::CUDA => write!(f, "cuda:{id}"),
            Device::CUDA_HOST => f.write_str("page-locked memory"),
            _ => write!(f, "device {id} of DLPack's type {kind}"),
        }
    }
}

/// `DLDataType`: what an element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct DataType {
    /// One of the constants below, or another of `DLDataTypeCode`.
    pub code: u8,
    /// Bits of one.
    pub bits: u8,
    /// How many make an element: 1.
    pub lanes: u16,
}

impl DataType {
    /// Signed integers.
    pub const INT: u8 = 0;
    /// Unsigned integers.
    pub const UINT: u8 = 1;
    /// IEEE floating point.
    pub const FLOAT: u8 = 2;
    /// bfloat16.
    pub const BFLOAT: u8 = 4;
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DataType { code, bits, lanes } = *self;
        match (code, lanes) {
            (Self::INT, 1) => write!(f, "int{bits}"),
            (Self::UINT, 1) => write!(f, "uint{bits}"),
            (Self::FLOAT, 1) => write!(f, "float{bits}"),
            (Self::BFLOAT, 1) => write!(f, "bfloat{bits}"),
            _ => write!(f, "{lanes} x {bits} bits of DLPack's type {code}"),
        }
    }
}

/// `DLTensor`.
#[derive(Debug)]
#[repr(C)]
pub struct RawTensor {
    /// Where its memory begins.
    pub data: *mut c_void,
    /// And on what.
    pub device: Device,
    /// Dimensions.
    pub ndim: i32,
    /// Of its elements.
    pub dtype: DataType,
    /// `[ndim]`.
    pub shape: *mut i64,
    /// `[ndim]`, in elements; null for row-major without gaps.
    pub strides: *mut i64,
    /// From `data` to the first element.
    pub byte_offset: u64,
}

/// `DLManagedTensor`: what the capsule `dltensor` holds.
#[derive(Debug)]
#[repr(C)]
pub struct ManagedTensor {
    /// The tensor.
    pub tensor: RawTensor,
    /// Its producer's.
    pub context: *mut c_void,
    /// Gives it back; none where there is nothing to do.
    pub deleter: Option<unsafe extern "C" fn(*mut ManagedTensor)>,
}

/// `DLPackVersion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Version {
    /// What differs has another layout.
    pub major: u32,
    /// What differs has more values.
    pub minor: u32,
}

/// The version that is written, and whose major is read.
const VERSION: Version = Version { major: 1, minor: 1 };

/// `DLManagedTensorVersioned`: what the capsule `dltensor_versioned` holds.
#[derive(Debug)]
#[repr(C)]
pub struct ManagedTensorVersioned {
    /// Of its producer.
    pub version: Version,
    /// Its producer's.
    pub context: *mut c_void,
    /// Gives it back; none where there is nothing to do.
    pub deleter: Option<unsafe extern "C" fn(*mut ManagedTensorVersioned)>,
    /// Bit 0: read-only.
    pub flags: u64,
    /// The tensor.
    pub tensor: RawTensor,
}

/// A flag: nobody may write the tensor.
pub(super) const READ_ONLY: u64 = 1;

// What `dlpack.h` makes of them on a 64-bit machine.
const _: () = assert!(size_of::<RawTensor>() == 48 && size_of::<ManagedTensor>() == 64);
const _: () = assert!(size_of::<ManagedTensorVersioned>() == 80);
const _: () = assert!(std::mem::offset_of!(ManagedTensorVersioned, tensor) == 32);

impl RawTensor {
    /// Its dimensions.
    ///
    /// # Safety
    /// `shape` is an array of `ndim` numbers.
    pub(super) unsafe fn shape(&self) -> Result<Vec<usize>> {
        let bad = |got: &dyn fmt::Debug| refused("the shape", format!("{got:?}"), "dimensions must be numbers from 0");
        let rank = usize::try_from(self.ndim).map_err(|_| bad(&self.ndim))?;
        // SAFETY: this function's contract.
        let shape = unsafe { numbers(self.shape, rank) }.ok_or_else(|| bad(&"null"))?;
        shape.iter().map(|&size| usize::try_from(size).map_err(|_| bad(&shape))).collect()
    }

    /// Its strides, if it says.
    ///
    /// # Safety
    /// `strides` is null, or an array of `ndim` numbers.
    pub(super) unsafe fn strides(&self) -> Option<&[i64]> {
        // SAFETY: this function's contract.
        unsafe { numbers(self.strides, usize::try_from(self.ndim).ok()?) }
    }
}

/// None: there are numbers, but no array.
///
/// # Safety
/// `ptr` is null, or an array of `len` numbers that lives as long as is said of it.
unsafe fn numbers<'a>(ptr: *const i64, len: usize) -> Option<&'a [i64]> {
    match (ptr.is_null(), len) {
        (_, 0) => Some(&[]),
        (true, _) => None,
        // SAFETY: it is not null, and so as this function's contract says.
        (false, _) => Some(unsafe { std::slice::from_raw_parts(ptr, len) }),
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ManagedTensor {}
    impl Sealed for super::ManagedTensorVersioned {}
}

/// Either struct of a managed tensor.
pub trait Managed: sealed::Sealed + Sized + 'static {
    /// The tensor.
    fn tensor(&self) -> &RawTensor;
    /// Whether nobody may write it.
    fn is_read_only(&self) -> bool;
    /// Whether this crate knows its layout.
    ///
    /// # Errors
    /// It does not.
    fn check_version(&self) -> Result<()>;
    /// Gives it back to its producer: what a consumer does once, at the end.
    ///
    /// # Safety
    /// It is a managed tensor that was not given back yet, and nobody uses it any more.
    unsafe fn delete(this: NonNull<Self>);
    /// A tensor that a [`Holder`] at `context` keeps.
    #[doc(hidden)]
    fn held(tensor: RawTensor, context: *mut c_void) -> Self;
    /// The `context` of [`Managed::held`].
    #[doc(hidden)]
    fn context(&self) -> *mut c_void;
}

/// Calls the deleter that a managed tensor names, if any.
macro_rules! delete {
    () => {
        unsafe fn delete(this: NonNull<Self>) {
            // SAFETY: it is a managed tensor that lives, as the caller promises; the deleter is its producer's.
            unsafe { this.as_ref().deleter.map_or((), |deleter| deleter(this.as_ptr())) }
        }

        fn context(&self) -> *mut c_void {
            self.context
        }

        fn tensor(&self) -> &RawTensor {
            &self.tensor
        }
    };
}

impl Managed for ManagedTensor {
    delete! {}

    fn is_read_only(&self) -> bool {
        false
    }

    fn check_version(&self) -> Result<()> {
        Ok(())
    }

    fn held(tensor: RawTensor, context: *mut c_void) -> Self {
        ManagedTensor { tensor, context, deleter: Some(drop_holder) }
    }
}

impl Managed for ManagedTensorVersioned {
    delete! {}

    fn is_read_only(&self) -> bool {
        self.flags & READ_ONLY != 0
    }

    fn check_version(&self) -> Result<()> {
        let Version { major, minor } = self.version;
        let want = "this version of halfbyte reads DLPack 1; ask for that (`max_version=(1, 0)`)";
        if major == VERSION.major { Ok(()) } else { Err(refused("the version", format!("{major}.{minor}"), want)) }
    }

    fn held(tensor: RawTensor, context: *mut c_void) -> Self {
        ManagedTensorVersioned { version: VERSION, context, deleter: Some(drop_holder), flags: 0, tensor }
    }
}

/// A tensor of this crate, and all that it points to.
struct Holder<M> {
    /// Written last, since it holds the address of this struct.
    managed: Option<M>,
    shape: Vec<i64>,
    strides: Vec<i64>,
    _buf: Box<dyn Send>,
}

/// `buf` as a tensor of others.
pub(super) fn manage<M: Managed, B: Backend, T: Element>(
    mut buf: Buf<B, T>,
    device: Device,
    dtype: DataType,
    shape: &[usize],
) -> NonNull<M> {
    let data = buf.view_mut().as_mut_ptr().cast();
    let signed = |size: &usize| i64::try_from(*size).unwrap_or(i64::MAX);
    let stride = |i: usize| shape[i..].iter().fold(1, |elements: usize, &size| elements.saturating_mul(size));
    let strides = (1..=shape.len()).map(|i| signed(&stride(i))).collect();
    let shape: Vec<i64> = shape.iter().map(signed).collect();
    let ndim = i32::try_from(shape.len()).unwrap_or(i32::MAX);
    let holder = Box::into_raw(Box::new(Holder { managed: None, shape, strides, _buf: Box::new(buf) }));
    // SAFETY: nobody else has the holder yet. Its vectors stay where they are, since nobody changes them.
    let Holder { managed, shape, strides, .. } = unsafe { &mut *holder };
    let (shape, strides) = (shape.as_mut_ptr(), strides.as_mut_ptr());
    let tensor = RawTensor { data, device, ndim, dtype, shape, strides, byte_offset: 0 };
    NonNull::from(managed.insert(M::held(tensor, holder.cast())))
}

/// The deleter of what [`manage`] makes.
unsafe extern "C" fn drop_holder<M: Managed>(this: *mut M) {
    // SAFETY: a consumer calls this once, with the tensor that `manage` made, whose context is its holder.
    drop(unsafe { Box::from_raw((*this).context().cast::<Holder<M>>()) });
}
