//! Device memory: allocation, windows, copies.

use super::{Cuda, describe, refused};
use crate::{Element, Error, Result, Storage};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, result, sys};
use std::{
    marker::PhantomData,
    ops::Range,
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

/// A window on device memory.
#[derive(Debug)]
pub struct Slice<'a, T> {
    ptr: u64,
    len: usize,
    element: PhantomData<&'a [T]>,
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<'_, T> {}

/// A window on device memory, to write through.
#[derive(Debug)]
pub struct SliceMut<'a, T> {
    ptr: u64,
    len: usize,
    element: PhantomData<&'a mut [T]>,
}

impl<T> Slice<'_, T> {
    /// The device address.
    pub(super) fn ptr(&self) -> u64 {
        self.ptr
    }
}

impl<T> SliceMut<'_, T> {
    /// The device address.
    pub(super) fn ptr(&mut self) -> u64 {
        self.ptr
    }
}

fn advance<T>(ptr: u64, elements: usize) -> u64 {
    ptr + (elements * size_of::<T>()) as u64
}

impl Storage for Cuda {
    type Memory<T: Element> = Memory<T>;
    type Slice<'a, T: Element> = Slice<'a, T>;
    type SliceMut<'a, T: Element> = SliceMut<'a, T>;

    fn memory_len<T: Element>(memory: &Memory<T>) -> usize {
        memory.len
    }

    fn slice<T: Element>(memory: &Memory<T>) -> Slice<'_, T> {
        Slice { ptr: memory.ptr, len: memory.len, element: PhantomData }
    }

    fn slice_mut<T: Element>(memory: &mut Memory<T>) -> SliceMut<'_, T> {
        SliceMut { ptr: memory.ptr, len: memory.len, element: PhantomData }
    }

    fn len<T: Element>(slice: &Slice<'_, T>) -> usize {
        slice.len
    }

    fn len_mut<T: Element>(slice: &SliceMut<'_, T>) -> usize {
        slice.len
    }

    fn part<'a: 'a, T: Element>(slice: Slice<'a, T>, range: Range<usize>) -> Slice<'a, T> {
        Slice { ptr: advance::<T>(slice.ptr, range.start), len: range.end - range.start, element: PhantomData }
    }

    fn split<'a: 'a, T: Element>(slice: SliceMut<'a, T>, mid: usize) -> (SliceMut<'a, T>, SliceMut<'a, T>) {
        let (ptr, len) = (slice.ptr, slice.len);
        let second = SliceMut { ptr: advance::<T>(ptr, mid), len: len - mid, element: PhantomData };
        (SliceMut { ptr, len: mid, element: PhantomData }, second)
    }

    fn reborrow<'a, T: Element>(slice: &'a mut SliceMut<'_, T>) -> SliceMut<'a, T> {
        SliceMut { ptr: slice.ptr, len: slice.len, element: PhantomData }
    }

    fn freeze<'a, T: Element>(slice: &'a SliceMut<'_, T>) -> Slice<'a, T> {
        Slice { ptr: slice.ptr, len: slice.len, element: PhantomData }
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
    fn alloc<T: Element>(&self, len: usize) -> Result<Memory<T>> {
        let bytes = len * size_of::<T>();
        // One byte at least, so that there is an address.
        // SAFETY: the contents are set by both callers before anyone can read them.
        let slice = unsafe { self.stream.alloc::<u8>(bytes.max(1)) }.map_err(allocation(bytes))?;
        self.meter.add(slice.len());
        let ptr = slice.device_ptr(&self.stream).0;
        Ok(Memory { ptr, len, bytes: slice, meter: self.meter.clone(), element: PhantomData })
    }

    pub(in crate::cuda) fn alloc_zeros<T: Element>(&self, len: usize) -> Result<Memory<T>> {
        let mut memory = self.alloc(len)?;
        self.fill_zero(Self::slice_mut(&mut memory))?;
        Ok(memory)
    }

    pub(in crate::cuda) fn alloc_copy<T: Element>(&self, host: &[T]) -> Result<Memory<T>> {
        let mut memory = self.alloc(host.len())?;
        self.copy_from_host(host, Self::slice_mut(&mut memory))?;
        Ok(memory)
    }

    pub(in crate::cuda) fn fill_zero<T: Element>(&self, mut out: SliceMut<'_, T>) -> Result<()> {
        if out.len == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: `out` is live and that long.
        unsafe { result::memset_d8_async(out.ptr(), 0, out.len * size_of::<T>(), raw(&self.stream)) }
            .map_err(refused("clearing device memory"))
    }

    /// Returns when `host` may be reused.
    pub(in crate::cuda) fn copy_from_host<T: Element>(&self, host: &[T], mut out: SliceMut<'_, T>) -> Result<()> {
        same_len("write", out.len, host.len())?;
        if host.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both sides are that long; from pageable memory the driver has staged `host` when the call returns.
        unsafe { result::memcpy_htod_async(out.ptr(), host, raw(&self.stream)) }
            .map_err(refused("copying to the device"))
    }

    pub(in crate::cuda) fn copy_to_host<T: Element>(&self, x: Slice<'_, T>) -> Result<Vec<T>> {
        let mut host: Vec<T> = bytemuck::allocation::zeroed_vec(x.len);
        if !host.is_empty() {
            self.bind()?;
            // SAFETY: both sides are that long, and `host` lives until the wait below is over.
            unsafe { result::memcpy_dtoh_async(&mut host, x.ptr(), raw(&self.stream)) }
                .map_err(refused("copying from the device"))?;
        }
        self.wait()?;
        Ok(host)
    }

    pub(in crate::cuda) fn copy_on_device<T: Element>(&self, x: Slice<'_, T>, mut out: SliceMut<'_, T>) -> Result<()> {
        same_len("copy", out.len, x.len)?;
        if x.len == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both sides are live and that long, and cannot overlap: one is borrowed mutably.
        unsafe { result::memcpy_dtod_async(out.ptr(), x.ptr(), x.len * size_of::<T>(), raw(&self.stream)) }
            .map_err(refused("copying on the device"))
    }

    pub(in crate::cuda) fn memory_use(&self) -> (usize, usize) {
        (self.meter.now.load(Ordering::Relaxed), self.meter.peak.load(Ordering::Relaxed))
    }
}
