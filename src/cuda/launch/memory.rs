//! Device memory: allocation, windows, copies.

use super::{Cuda, describe, refused};
use crate::{Buf, Element, Error, Result, Storage, View, ViewMut};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, result, sys};
use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Bytes allocated now, and at most.
#[derive(Default)]
pub(super) struct Meter {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Meter {
    fn add(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }
}

/// Owned device memory.
pub struct Memory<T> {
    ptr: u64,
    len: usize,
    // Frees itself on its stream when dropped.
    bytes: CudaSlice<u8>,
    meter: Arc<Meter>,
    element: PhantomData<T>,
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        self.meter.now.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl<T: Element> View<'_, Cuda, T> {
    /// The device address.
    pub(super) fn ptr(&self) -> u64 {
        self.as_ptr() as u64
    }
}

impl<T: Element> ViewMut<'_, Cuda, T> {
    /// The device address.
    pub(super) fn ptr(&mut self) -> u64 {
        self.as_mut_ptr() as u64
    }
}

// SAFETY: `alloc` fills in the address of an allocation of that many elements, which only `Drop` frees.
unsafe impl Storage for Cuda {
    type Memory<T: Element> = Memory<T>;

    fn parts<T: Element>(memory: &Memory<T>) -> (*const T, usize) {
        (memory.ptr as *const T, memory.len)
    }

    fn parts_mut<T: Element>(memory: &mut Memory<T>) -> (*mut T, usize) {
        (memory.ptr as *mut T, memory.len)
    }
}

fn same_len(op: &'static str, got: usize, want: usize) -> Result<()> {
    if got == want { Ok(()) } else { Err(Error::Len { op, arg: "out", got, want }) }
}

fn allocation(bytes: usize) -> impl Fn(DriverError) -> Error {
    move |error| match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { bytes },
        _ => Error::Cuda { what: "allocating device memory", reason: describe(error) },
    }
}

fn raw(stream: &CudaStream) -> sys::CUstream {
    stream.cu_stream()
}

impl Cuda {
    fn alloc<T: Element>(&self, len: usize) -> Result<Buf<Self, T>> {
        let bytes = len * size_of::<T>();
        // One byte at least, so that there is an address.
        // SAFETY: the contents are set by both callers before anyone can read them.
        let slice = unsafe { self.stream.alloc::<u8>(bytes.max(1)) }.map_err(allocation(bytes))?;
        self.meter.add(slice.len());
        let ptr = slice.device_ptr(&self.stream).0;
        Ok(Buf(Memory { ptr, len, bytes: slice, meter: self.meter.clone(), element: PhantomData }))
    }

    pub(in crate::cuda) fn alloc_zeros<T: Element>(&self, len: usize) -> Result<Buf<Self, T>> {
        let mut memory = self.alloc(len)?;
        self.fill_zero(memory.view_mut())?;
        Ok(memory)
    }

    pub(in crate::cuda) fn alloc_copy<T: Element>(&self, host: &[T]) -> Result<Buf<Self, T>> {
        let mut memory = self.alloc(host.len())?;
        self.copy_from_host(host, memory.view_mut())?;
        Ok(memory)
    }

    pub(in crate::cuda) fn fill_zero<T: Element>(&self, mut out: ViewMut<'_, Self, T>) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: `out` is live and that long.
        unsafe { result::memset_d8_async(out.ptr(), 0, out.len() * size_of::<T>(), raw(&self.stream)) }
            .map_err(refused("clearing device memory"))
    }

    /// Returns when `host` may be reused.
    pub(in crate::cuda) fn copy_from_host<T: Element>(&self, host: &[T], mut out: ViewMut<'_, Self, T>) -> Result<()> {
        same_len("write", out.len(), host.len())?;
        if host.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both sides are that long; from pageable memory the driver has staged `host` when the call returns.
        unsafe { result::memcpy_htod_async(out.ptr(), host, raw(&self.stream)) }
            .map_err(refused("copying to the device"))
    }

    pub(in crate::cuda) fn copy_to_host<T: Element>(&self, x: View<'_, Self, T>) -> Result<Vec<T>> {
        let mut host: Vec<T> = bytemuck::allocation::zeroed_vec(x.len());
        if !host.is_empty() {
            self.bind()?;
            // SAFETY: both sides are that long, and `host` lives until the wait below is over.
            unsafe { result::memcpy_dtoh_async(&mut host, x.ptr(), raw(&self.stream)) }
                .map_err(refused("copying from the device"))?;
        }
        self.wait()?;
        Ok(host)
    }

    pub(in crate::cuda) fn copy_on_device<T: Element>(
        &self,
        x: View<'_, Self, T>,
        mut out: ViewMut<'_, Self, T>,
    ) -> Result<()> {
        same_len("copy", out.len(), x.len())?;
        if x.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both sides are live and that long, and cannot overlap: one is borrowed mutably.
        unsafe { result::memcpy_dtod_async(out.ptr(), x.ptr(), x.len() * size_of::<T>(), raw(&self.stream)) }
            .map_err(refused("copying on the device"))
    }

    pub(in crate::cuda) fn memory_use(&self) -> (usize, usize) {
        (self.meter.now.load(Ordering::Relaxed), self.meter.peak.load(Ordering::Relaxed))
    }
}
