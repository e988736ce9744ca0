//! Windows on memory that others own, and buffers of it: how tensors of other crates reach the kernels without a copy.
//!
//! A window is made for one backend and is that backend's from then on, so that its ops take it as their own; that the
//! memory is there is what the caller of an unsafe constructor promises. Host memory that Rust knows needs no promise:
//! a slice is a [`View`] of [`Cpu`] by `from`.
//!
//! ```
//! use halfbyte::{Cpu, Mat, MatMut, View, ViewMut, ops::*};
//!
//! let cpu = Cpu::new();
//! let (x, weight, mut out) = ([1_f32, 2.0], [3_f32, 4.0, 5.0, 6.0], [0_f32; 2]);
//! Linear {
//!     x: Mat::new(View::from(&x[..]), 1, 2),
//!     weight: Mat::new(View::from(&weight[..]), 2, 2),
//!     out: MatMut::new(ViewMut::from(&mut out[..]), 1, 2),
//!     accumulate: false,
//!     settled: false,
//! }
//! .run(&cpu)?;
//! assert_eq!(out, [11.0, 17.0]);
//! # Ok::<(), halfbyte::Error>(())
//! ```
#![allow(unsafe_code)]

use super::{Buf, Storage, View, ViewMut};
use crate::{
    cpu::Cpu,
    element::{self, Element},
    error::{Error, Result},
};
use std::{any::Any, marker::PhantomData, ptr::NonNull};

/// The address of `len` elements, which no null pointer and no odd address is.
fn address<T: Element>(ptr: *mut T, len: usize) -> Result<(*mut T, usize)> {
    let bytes = element::bytes::<T>(len)?;
    if bytes == 0 {
        return Ok((NonNull::dangling().as_ptr(), 0));
    }
    let want = "it must be one of as many elements, aligned to one";
    let refused = || Error::Value { op: "from_raw", arg: "the address", got: format!("{ptr:?}"), want };
    if ptr.is_null() || !ptr.is_aligned() { Err(refused()) } else { Ok((ptr, bytes)) }
}

impl<'a, B: Storage, T: Element> View<'a, B, T> {
    /// `len` elements of memory that others own: of the host for [`Cpu`], of the GPU (or page-locked, of the host) for
    /// [`Cuda`]. It cannot be part of a recorded step ([`replay`]), for which see [`Buf::from_raw`].
    ///
    /// # Errors
    /// `ptr` is null, not aligned, or of memory that the backend does not reach.
    ///
    /// # Safety
    /// At `ptr` are `len` elements, which have been written. For `'a` they are there and nobody writes them. On a GPU "for
    /// `'a`" means for what is queued in it: whoever writes or frees them later does so behind it in the order of
    /// [`Cuda::stream`], or after [`synchronize`]; and what wrote them came before in the order of that stream, or is over.
    ///
    /// [`Cuda`]: crate::cuda::Cuda
    /// [`Cuda::stream`]: crate::cuda::Cuda::stream
    /// [`replay`]: crate::backend::Backend::replay
    /// [`synchronize`]: crate::backend::Backend::synchronize
    pub unsafe fn from_raw(backend: &'a B, ptr: *const T, len: usize) -> Result<Self> {
        let (ptr, bytes) = address(ptr.cast_mut(), len)?;
        Ok(View { ptr, len, owner: backend.lend(ptr.addr(), bytes)?, memory: PhantomData })
    }
}

impl<'a, B: Storage, T: Element> ViewMut<'a, B, T> {
    /// As [`View::from_raw`], to write.
    ///
    /// # Errors
    /// `ptr` is null, not aligned, or of memory that the backend does not reach.
    ///
    /// # Safety
    /// As for [`View::from_raw`]; and for `'a`, as it is meant there, nobody else reads them either.
    pub unsafe fn from_raw(backend: &'a B, ptr: *mut T, len: usize) -> Result<Self> {
        let (ptr, bytes) = address(ptr, len)?;
        Ok(ViewMut { ptr, len, owner: backend.lend(ptr.addr(), bytes)?, memory: PhantomData })
    }
}

impl<B: Storage, T: Element> Buf<B, T> {
    /// `len` elements of memory that lives as long as `keeper`, which is dropped when nothing uses them any more: neither
    /// the buffer, nor what was queued with it, nor a recorded step. On a GPU dropping the last of these waits for the
    /// stream. It does not count as the backend's memory.
    ///
    /// # Errors
    /// `ptr` is null, not aligned, or of memory that the backend does not reach.
    ///
    /// # Safety
    /// At `ptr` are `len` elements, which have been written; on a GPU, in the order of its stream. While `keeper` lives
    /// they stay there, and nobody else writes them; nor reads them, where the buffer is written.
    pub unsafe fn from_raw(backend: &B, ptr: *mut T, len: usize, keeper: impl Any + Send + Sync) -> Result<Self> {
        let (ptr, bytes) = address(ptr, len)?;
        backend.lend(ptr.addr(), bytes)?;
        // SAFETY: the caller promises what `adopt` demands; the address was checked.
        unsafe { backend.adopt(ptr, len, Box::new(keeper)) }.map(Buf)
    }
}

impl<'a, T: Element> From<&'a [T]> for View<'a, Cpu, T> {
    fn from(slice: &'a [T]) -> Self {
        View { ptr: slice.as_ptr(), len: slice.len(), owner: &(), memory: PhantomData }
    }
}

impl<'a, T: Element> From<&'a mut [T]> for ViewMut<'a, Cpu, T> {
    fn from(slice: &'a mut [T]) -> Self {
        ViewMut { ptr: slice.as_mut_ptr(), len: slice.len(), owner: &(), memory: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        buffer::{Mat, MatMut},
        ops::{Linear, Op},
    };
    use std::sync::Arc;

    /// `out = x · weightᵀ` of matrices that are columns of wider ones.
    #[test]
    fn memory_of_others_is_read_and_written_where_it_lies() {
        let cpu = Cpu::new();
        let (x, weight) = ([1_f32, 2.0, f32::NAN, 3.0, 4.0], [1_f32, 1.0, 1.0, -1.0]);
        let mut out = [7_f32; 7];
        // SAFETY: all three are arrays of as many elements, which live to the end of the test.
        let (x, weight, view) = unsafe {
            let x = View::from_raw(&cpu, x.as_ptr(), 5).unwrap();
            let weight = View::from_raw(&cpu, weight.as_ptr(), 4).unwrap();
            (x, weight, ViewMut::from_raw(&cpu, out.as_mut_ptr().wrapping_add(1), 5).unwrap())
        };
        let (x, out_mat) = (Mat::with_stride(x, 2, 2, 3), MatMut::with_stride(view, 2, 2, 3));
        Linear { x, weight: Mat::new(weight, 2, 2), out: out_mat, accumulate: false, settled: false }
            .run(&cpu)
            .unwrap();
        assert_eq!(out, [7.0, 3.0, -1.0, 7.0, 7.0, -1.0, 7.0]);
    }

    #[test]
    fn a_buffer_of_others_memory_lets_it_go_when_it_is_dropped() {
        let cpu = Cpu::new();
        let memory = Arc::new([1_u32, 2, 3]);
        let ptr = memory.as_ptr().cast_mut();
        // SAFETY: the `Arc` keeps the array, which is not written below.
        let buf = unsafe { Buf::<Cpu, u32>::from_raw(&cpu, ptr, 3, memory.clone()) }.unwrap();
        assert_eq!((buf.to_vec(&cpu).unwrap(), Arc::strong_count(&memory)), (vec![1, 2, 3], 2));
        drop(buf);
        assert_eq!(Arc::strong_count(&memory), 1);
    }

    #[test]
    fn addresses_that_cannot_be_are_refused() {
        let cpu = Cpu::new();
        let word = [0_u32; 2];
        let odd = word.as_ptr().wrapping_byte_add(1);
        for ptr in [std::ptr::null(), odd] {
            // SAFETY: it is refused, or has no elements.
            let [some, none] = [1, 0].map(|len| unsafe { View::<Cpu, u32>::from_raw(&cpu, ptr, len) });
            let error = some.unwrap_err().to_string();
            assert!(error.contains("from_raw") && error.contains("aligned"), "{error}");
            assert!(none.unwrap().is_empty());
        }
        // SAFETY: it is refused.
        assert!(unsafe { View::<Cpu, u32>::from_raw(&cpu, word.as_ptr(), usize::MAX / 2) }.is_err());
    }

    #[test]
    fn rows_apart_end_where_the_view_does() {
        let memory = [0_f32; 8];
        let make = |[len, rows, cols, stride]: [usize; 4]| {
            let view = View::from(&memory[..len]);
            std::panic::catch_unwind(|| Mat::with_stride(view, rows, cols, stride)).is_ok()
        };
        assert!([[8, 2, 3, 5], [8, 2, 4, 4], [3, 1, 3, 9], [0, 0, 3, 5], [8, 3, 2, 3]].into_iter().all(make));
        let bad = [[8, 2, 2, 5], [7, 2, 4, 3], [8, 2, 3, 6], [1, 0, 3, 5], [8, usize::MAX, 1, 2]];
        assert!(!bad.into_iter().any(make));
    }
}
