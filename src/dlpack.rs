//! DLPack, in and out: tensors of PyTorch, NumPy, JAX, tch, candle and others as buffers, and buffers as theirs, without a
//! copy. Layouts and meanings are those of `dlpack.h` 1.1 (<https://dmlc.github.io/dlpack>).
//!
//! A managed tensor comes with a function that gives it back. [`from_raw`] calls it when nothing uses the buffer any more,
//! from whatever thread that is; that of what [`into_raw`] makes is the consumer's to call, once.
//!
//! ```
//! use halfbyte::{Backend, Cpu, dlpack::{self, ManagedTensor}};
//!
//! let cpu = Cpu::new();
//! let raw = dlpack::into_raw::<ManagedTensor, _, _>(&cpu, cpu.upload(&[1_f32, 2.0, 3.0, 4.0])?, &[2, 2])?;
//! // SAFETY: `raw` was just made, and nobody else has it.
//! let tensor = unsafe { dlpack::from_raw::<_, _, f32>(&cpu, raw) }?;
//! assert_eq!((tensor.shape(), tensor.mat()?.shape()), (&[2, 2][..], [2, 2]));
//! assert_eq!(cpu.download(tensor.view())?, [1.0, 2.0, 3.0, 4.0]);
//! # Ok::<(), halfbyte::Error>(())
//! ```
#![allow(unsafe_code)]

mod abi;
#[cfg(test)]
mod tests;

use crate::{
    backend::Backend,
    buffer::{Buf, Mat, View, ViewMut},
    cpu::Cpu,
    cuda::Cuda,
    element::{Element, elements},
    error::{Error, Result},
};
pub use abi::{DataType, Device, Managed, ManagedTensor, ManagedTensorVersioned, RawTensor, Version};
use half::{bf16, f16};
use std::ptr::NonNull;

/// An element type that DLPack has a name for.
pub trait Typed: Element {
    /// That name.
    const TYPE: DataType;
    /// That it must be one, for messages.
    const WANTED: &'static str;
}

macro_rules! typed {
    ($($t:ty: $code:expr, $bits:literal, $name:literal;)*) => {$(
        impl Typed for $t {
            const TYPE: DataType = DataType { code: $code, bits: $bits, lanes: 1 };
            const WANTED: &'static str = concat!("it was to be ", $name, "; convert the tensor first");
        }
    )*};
}

typed! {
    i32: DataType::INT, 32, "int32";
    u8: DataType::UINT, 8, "uint8";
    u32: DataType::UINT, 32, "uint32";
    f16: DataType::FLOAT, 16, "float16";
    f32: DataType::FLOAT, 32, "float32";
    bf16: DataType::BFLOAT, 16, "bfloat16";
}

/// A backend whose memory DLPack has a name for, as both have.
pub trait Located: Backend {
    /// Whether it uses memory of this device.
    fn reaches(&self, device: Device) -> bool;
    /// Where a buffer lies.
    ///
    /// # Errors
    /// The driver does not know.
    fn device_of<T: Element>(&self, buf: &Buf<Self, T>) -> Result<Device>;
    /// That it has such memory, for messages.
    const WANTED: &'static str;
}

impl Located for Cpu {
    fn reaches(&self, device: Device) -> bool {
        [Device::CPU, Device::CUDA_HOST].contains(&device.kind)
    }

    fn device_of<T: Element>(&self, _buf: &Buf<Self, T>) -> Result<Device> {
        Ok(Device { kind: Device::CPU, id: 0 })
    }

    const WANTED: &'static str =
        "it must be the host, where the CPU backend computes; move the tensor first (`.cpu()`)";
}

impl Located for Cuda {
    fn reaches(&self, device: Device) -> bool {
        match device.kind {
            Device::CUDA => usize::try_from(device.id) == Ok(self.ordinal()),
            kind => [Device::CUDA_HOST, Device::CUDA_MANAGED].contains(&kind),
        }
    }

    fn device_of<T: Element>(&self, buf: &Buf<Self, T>) -> Result<Device> {
        let on_device = buf.is_empty() || self.is_on_device(buf.view().as_ptr().addr())?;
        let kind = if on_device { Device::CUDA } else { Device::CUDA_HOST };
        Ok(Device { kind, id: i32::try_from(self.ordinal()).unwrap_or(i32::MAX) })
    }

    const WANTED: &'static str = "it must be the GPU that the backend has opened; move the tensor first";
}

/// A tensor that came by DLPack: row-major, without gaps.
#[derive(Debug)]
pub struct Tensor<B: Backend, T: Element> {
    buf: Buf<B, T>,
    shape: Vec<usize>,
    read_only: bool,
}

impl<B: Backend, T: Element> Tensor<B, T> {
    /// Its dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// All of it.
    pub fn view(&self) -> View<'_, B, T> {
        self.buf.view()
    }

    /// All of it, as rows of its last dimension; a vector is one row.
    ///
    /// # Errors
    /// It has no dimension.
    pub fn mat(&self) -> Result<Mat<'_, B, T>> {
        let Some((&cols, before)) = self.shape.split_last() else {
            return Err(refused("the number of dimensions", 0, "a matrix has at least one"));
        };
        Ok(self.buf.mat(before.iter().product(), cols))
    }

    /// All of it, to write.
    ///
    /// # Errors
    /// Its producer lets nobody write it.
    pub fn view_mut(&mut self) -> Result<ViewMut<'_, B, T>> {
        self.writable()?;
        Ok(self.buf.view_mut())
    }

    /// The buffer, which may be written.
    ///
    /// # Errors
    /// Its producer lets nobody write it.
    pub fn into_buf(self) -> Result<Buf<B, T>> {
        self.writable()?;
        Ok(self.buf)
    }

    fn writable(&self) -> Result<()> {
        let want = "it must not be; export a copy (`.copy()`, `.clone()`)";
        if self.read_only { Err(refused("the tensor", "read-only", want)) } else { Ok(()) }
    }
}

fn refused(arg: &'static str, got: impl ToString, want: &'static str) -> Error {
    Error::Value { op: "dlpack", arg, got: got.to_string(), want }
}

/// Takes a managed tensor. `M` is what the capsule of its name holds: [`ManagedTensorVersioned`] that of
/// `dltensor_versioned`, [`ManagedTensor`] that of `dltensor`.
///
/// # Errors
/// It has another element type than `T`, lies where the backend does not reach, has gaps or another order of dimensions, or
/// is of a later DLPack. Then it stays the caller's.
///
/// # Safety
/// `tensor` is a managed tensor that nobody else has, whose deleter may be called from any thread. Its elements have been
/// written: on a GPU in the order of [`Cuda::stream`], which is what to give to Python's `__dlpack__(stream=…)`. Nobody
/// writes them while the tensor lives; nor reads them, if it is written here.
pub unsafe fn from_raw<M: Managed, B: Located, T: Typed>(backend: &B, tensor: NonNull<M>) -> Result<Tensor<B, T>> {
    // SAFETY: it is a managed tensor, as the caller promises.
    let managed = unsafe { tensor.as_ref() };
    managed.check_version()?;
    let raw = managed.tensor();
    if raw.dtype != T::TYPE {
        return Err(refused("the element type", raw.dtype, T::WANTED));
    }
    if !backend.reaches(raw.device) {
        return Err(refused("the device", raw.device, B::WANTED));
    }
    // SAFETY: a managed tensor's shape and strides are arrays of its rank, or null.
    let (shape, strides) = unsafe { (raw.shape()?, raw.strides()) };
    if let Some(strides) = strides.filter(|strides| !is_row_major(&shape, strides)) {
        let want = "elements must lie row by row without gaps; call `.contiguous()` first (NumPy: `ascontiguousarray`)";
        return Err(refused("the layout", format!("shape {shape:?} with strides {strides:?}"), want));
    }
    let len = elements::<T>(&shape)?;
    let ptr = raw.data.cast::<u8>().wrapping_add(usize::try_from(raw.byte_offset).unwrap_or(usize::MAX)).cast();
    let read_only = managed.is_read_only();
    // SAFETY: the tensor has so many elements there until its deleter is called, which `Returned` does when it is dropped;
    // the caller promises the rest. The view is made to be refused before there is something that would give it back.
    let buf = unsafe {
        View::<B, T>::from_raw(backend, ptr, len)?;
        Buf::from_raw(backend, ptr, len, Returned(tensor))
    }?;
    Ok(Tensor { buf, shape, read_only })
}

/// Whether elements lie one behind the other in the order of their indices. Strides of dimensions that are one say nothing.
fn is_row_major(shape: &[usize], strides: &[i64]) -> bool {
    let mut want = 1_usize;
    shape.contains(&0)
        || shape.iter().zip(strides).rev().all(|(&size, &stride)| {
            let right = size == 1 || usize::try_from(stride) == Ok(want);
            want = want.saturating_mul(size);
            right
        })
}

/// A managed tensor, which is given back when this is dropped.
struct Returned<M: Managed>(NonNull<M>);

// SAFETY: nothing is done with it but calling its deleter once, which the caller of `from_raw` lets any thread do.
unsafe impl<M: Managed> Send for Returned<M> {}
// SAFETY: nothing can be done with a reference to it.
unsafe impl<M: Managed> Sync for Returned<M> {}

impl<M: Managed> Drop for Returned<M> {
    fn drop(&mut self) {
        // SAFETY: `from_raw` was given the tensor, and made one of these.
        unsafe { M::delete(self.0) };
    }
}

/// Gives a buffer away, as a tensor of this shape. It is freed when its deleter is called ([`Managed::delete`]), which is the
/// consumer's to do. On a GPU this waits until what was queued is done, so that any stream may read it.
///
/// # Errors
/// The shape does not have as many elements as the buffer; the device reports what went wrong before.
pub fn into_raw<M: Managed, B: Located, T: Typed>(backend: &B, buf: Buf<B, T>, shape: &[usize]) -> Result<NonNull<M>> {
    if elements::<T>(shape)? != buf.len() {
        let got = format!("{shape:?} for {} elements", buf.len());
        return Err(refused("the shape", got, "it must have as many as the buffer"));
    }
    crate::ops::Check::new("dlpack", backend).view("buf", &buf.view())?;
    backend.synchronize()?;
    let device = backend.device_of(&buf)?;
    Ok(abi::manage(buf, device, T::TYPE, shape))
}
