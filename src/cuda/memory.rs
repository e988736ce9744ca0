//! Device memory: allocation, windows, copies.
#![allow(unsafe_code)]

use super::{
    device::Cuda,
    driver::refused,
    staging::Ring,
    stream::{Allocation, Bytes, HostBytes, copy_async},
};
use crate::{
    buffer::{Buf, Keeper, Parts, Storage, View, ViewMut, sealed::Sealed},
    element::{self, Element},
    error::{Error, Result},
    host,
    ops::Check,
};
use cudarc::driver::{DevicePtr, DriverError, result, sys};
use std::{marker::PhantomData, sync::Arc};

/// Owned memory, the device's or the host's.
#[derive(Debug)]
pub struct Memory<T> {
    ptr: u64,
    len: usize,
    allocation: Arc<Allocation>,
    element: PhantomData<T>,
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

impl Sealed for Cuda {}

// SAFETY: `alloc` fills in the address of an allocation of that many elements, which is freed when the last `Arc` of it
// is dropped; what is adopted stays as long (`Buf::from_raw`), and what is lent as long as it is used (`View::from_raw`).
// `admit` accepts memory of this `Cuda` alone, and a recording keeps an `Arc` of what it admits, which is nothing lent.
unsafe impl Storage for Cuda {
    type Memory<T: Element> = Memory<T>;
    type Owner = Arc<Allocation>;

    fn parts<T: Element>(memory: &Memory<T>) -> Parts<'_, *const T, Arc<Allocation>> {
        Parts { ptr: memory.ptr as *const T, len: memory.len, owner: &memory.allocation }
    }

    fn parts_mut<T: Element>(memory: &mut Memory<T>) -> Parts<'_, *mut T, Arc<Allocation>> {
        Parts { ptr: memory.ptr as *mut T, len: memory.len, owner: &memory.allocation }
    }

    fn admit(&self, owner: &Arc<Allocation>) -> Result<bool> {
        if !Arc::ptr_eq(&owner.queue, &self.queue) {
            return Ok(false);
        }
        owner.wait()?;
        if let Some(recording) = self.queue.turn().borrow_mut().as_mut() {
            if Arc::ptr_eq(owner, &self.lent) {
                let reason =
                    "nothing keeps memory of a raw view for a graph; make a buffer of it (Buf::from_raw)".into();
                return Err(Error::Cuda { what: "recording a CUDA graph", reason });
            }
            recording.kept.push(owner.clone());
        }
        Ok(true)
    }

    fn lend(&self, address: usize, bytes: usize) -> Result<&Arc<Allocation>> {
        if bytes > 0 {
            self.is_on_device(address)?;
        }
        Ok(&self.lent)
    }

    unsafe fn adopt<T: Element>(&self, ptr: *mut T, len: usize, keeper: Keeper) -> Result<Memory<T>> {
        let stream = self.queue.stream.clone();
        Ok(self.owned(Bytes::Adopted { keeper, stream }, ptr as u64, len).0)
    }
}

impl Cuda {
    fn out_of_memory(&self, bytes: usize) -> Error {
        Error::OutOfMemory { bytes, free: self.free_and_total_memory().ok().map(|(free, _)| free) }
    }

    fn not_allocated(&self, bytes: usize, error: DriverError) -> Error {
        match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => self.out_of_memory(bytes),
            _ => refused("allocating device memory")(error),
        }
    }

    fn alloc<T: Element>(&self, len: usize) -> Result<Buf<Self, T>> {
        let bytes = element::bytes::<T>(len)?;
        // The driver was once seen to grant 2^63 - 1 bytes.
        if bytes > self.total_memory {
            return Err(self.out_of_memory(bytes));
        }
        let _turn = self.queue.turn_outside_graphs("allocating device memory")?;
        let stream = &self.queue.stream;
        // One byte at least, so that there is an address.
        // SAFETY: the contents are set by both callers before anyone can read them.
        let slice = unsafe { stream.alloc::<u8>(bytes.max(1)) }.map_err(|e| self.not_allocated(bytes, e))?;
        let ptr = slice.device_ptr(stream).0;
        Ok(self.owned(Bytes::Device(slice), ptr, len))
    }

    /// Whether what is at `address` lies on the device rather than on the host, by what the driver knows; an error where
    /// kernels may not use it.
    pub(crate) fn is_on_device(&self, address: usize) -> Result<bool> {
        use sys::CUpointer_attribute::{CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_MEMORY_TYPE};
        self.queue.context.bind_to_thread().map_err(refused("making the GPU current"))?;
        let what = "asking whose memory an address is";
        let (mut kind, mut ordinal) = (0_u32, 0_i32);
        let (of_kind, of_device) = (CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
        // SAFETY: either attribute is one 32-bit number (CUmemorytype, int), and any address may be asked about.
        let asked = unsafe {
            let asked = sys::cuPointerGetAttribute((&raw mut kind).cast(), of_kind, address as u64).result();
            asked.and_then(|()| {
                sys::cuPointerGetAttribute((&raw mut ordinal).cast(), of_device, address as u64).result()
            })
        };
        match asked {
            Err(DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE)) => Err(Error::Value {
                op: "from_raw",
                arg: "the address",
                got: format!("{address:#x}, which no GPU knows"),
                want: "it must be of the GPU, or page-locked; what is elsewhere can be copied (Backend::upload)",
            }),
            Err(error) => Err(refused(what)(error)),
            Ok(()) => {
                let on_device = kind == sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32;
                let other = on_device && usize::try_from(ordinal) != Ok(self.queue.context.ordinal());
                if other { Err(Error::Foreign { op: "from_raw", arg: "ptr" }) } else { Ok(on_device) }
            }
        }
    }

    fn owned<T: Element>(&self, bytes: Bytes, ptr: u64, len: usize) -> Buf<Self, T> {
        let allocation = Arc::new(Allocation::new(bytes, self.queue.clone()));
        Buf(Memory { ptr, len, allocation, element: PhantomData })
    }

    /// Kernels use it at the address that it has on the host.
    pub(super) fn alloc_zeros_on_host<T: Element>(&self, len: usize) -> Result<Buf<Self, T>> {
        let bytes = element::bytes::<T>(len)?;
        host::check(bytes)?;
        let _turn = self.queue.turn_outside_graphs("allocating page-locked host memory")?;
        let memory = HostBytes::zeros(&self.queue, bytes.max(1));
        let (memory, ptr) = memory.map_err(refused("allocating page-locked host memory"))?;
        Ok(self.owned(Bytes::Host { _memory: memory }, ptr, len))
    }

    pub(super) fn alloc_zeros<T: Element>(&self, len: usize) -> Result<Buf<Self, T>> {
        let mut memory = self.alloc(len)?;
        self.fill_zero(memory.view_mut())?;
        Ok(memory)
    }

    pub(super) fn alloc_copy<T: Element>(&self, host: &[T]) -> Result<Buf<Self, T>> {
        let mut memory = self.alloc(host.len())?;
        self.copy_from_host(host, memory.view_mut())?;
        Ok(memory)
    }

    pub(super) fn fill_zero<T: Element>(&self, mut out: ViewMut<'_, Self, T>) -> Result<()> {
        Check::new("clear", self).view_mut("out", &out)?;
        if out.is_empty() {
            return Ok(());
        }
        let _turn = self.turn()?;
        // SAFETY: `out` borrows that many elements, of this device's memory (`check` asked `admit`).
        unsafe { result::memset_d8_async(out.ptr(), 0, out.len() * size_of::<T>(), self.queue.stream.cu_stream()) }
            .map_err(refused("clearing device memory"))
    }

    /// Returns when `host` may be reused.
    pub(super) fn copy_from_host<T: Element>(&self, host: &[T], mut out: ViewMut<'_, Self, T>) -> Result<()> {
        Check::new("write", self).len_mut("out", &out, host.len())?;
        if host.is_empty() {
            return Ok(());
        }
        let _turn = self.queue.turn_outside_graphs("copying to the device")?;
        let mut staging = self.staging.lock();
        let ring = match &mut *staging {
            Some(ring) => ring,
            none => none.insert(Ring::new(&self.queue)?),
        };
        // SAFETY: `out` borrows as many elements as `host` has, of this device's memory (checked above); what is freed
        // later is freed behind the copy, in the order of the stream.
        unsafe { ring.copy(&self.queue, bytemuck::cast_slice(host), out.ptr()) }
    }

    pub(super) fn copy_to_host<T: Element>(&self, x: View<'_, Self, T>) -> Result<Vec<T>> {
        Check::new("download", self).view("x", &x)?;
        let mut host = host::zeros::<T>(x.len())?;
        let turn = self.queue.turn_outside_graphs("copying from the device")?;
        if !host.is_empty() {
            let (to, bytes) = (host.as_mut_ptr() as u64, x.len() * size_of::<T>());
            // SAFETY: `x` borrows as many elements as `host` has room for, and `host` is not touched before the wait
            // below is over, nor dropped: a wait that fails comes from a GPU that does nothing more.
            unsafe { copy_async(&self.queue.stream, to, x.ptr(), bytes) }
                .map_err(refused("copying from the device"))?;
        }
        drop(turn);
        self.wait()?;
        Ok(host)
    }

    pub(super) fn read_host<T: Element>(&self, x: View<'_, Self, T>) -> Result<Vec<T>> {
        let owner = x.owner();
        let turn = self.queue.turn_outside_graphs("reading the host's memory")?;
        if !Arc::ptr_eq(&owner.queue, &self.queue) || !owner.join()? {
            drop(turn);
            return self.copy_to_host(x);
        }
        // SAFETY: `x` borrows that many elements of page-locked memory, at its address on the host. The copy that wrote them
        // last is over (`join`); for another one they would have to be borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts(x.as_ptr(), x.len()) }.to_vec())
    }

    pub(super) fn copy_on_device<T: Element>(&self, x: View<'_, Self, T>, mut out: ViewMut<'_, Self, T>) -> Result<()> {
        let check = Check::new("copy", self);
        check.view("x", &x)?;
        check.len_mut("out", &out, x.len())?;
        if x.is_empty() {
            return Ok(());
        }
        let _turn = self.turn()?;
        let bytes = x.len() * size_of::<T>();
        // SAFETY: both borrow that many bytes of this device's memory (checked above), and cannot overlap: `out` is
        // borrowed mutably.
        unsafe { copy_async(&self.queue.stream, out.ptr(), x.ptr(), bytes) }.map_err(refused("copying on the device"))
    }

    pub(super) fn copy_beside_ops<T: Element>(
        &self,
        x: View<'_, Self, T>,
        mut out: ViewMut<'_, Self, T>,
    ) -> Result<()> {
        let check = Check::new("copy_aside", self);
        check.view("x", &x)?;
        check.len_mut("out", &out, x.len())?;
        if x.is_empty() {
            return Ok(());
        }
        let _turn = self.queue.turn_outside_graphs("copying beside kernels")?;
        let (to, bytes) = (out.ptr(), x.len() * size_of::<T>());
        // SAFETY: both borrow that many bytes of their owners (`Storage`), of this device (checked above), and cannot
        // overlap: `out` is borrowed mutably.
        unsafe { x.owner().copy_aside(out.owner(), to, x.ptr(), bytes) }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        backend::Backend,
        cuda::{
            device::gpu,
            staging::{GROUP, SLOT, SLOTS},
        },
    };

    /// From page-locked memory the driver's own copy would read `host` long after the call.
    #[test]
    fn what_was_copied_may_be_overwritten_at_once() {
        let Some(cuda) = gpu() else { return };
        const LEN: usize = 3 * GROUP * SLOT + 5;
        // SAFETY: all of it is written before it is read.
        let mut host = unsafe { cuda.queue.context.alloc_pinned_with_flags::<u8>(LEN, 0) }.unwrap();
        let mut slow = cuda.zeros::<u8>(1 << 30).unwrap();
        let mut out = cuda.zeros::<u8>(LEN).unwrap();
        for (round, i) in (0..2 * SLOTS).enumerate() {
            let (value, len) = (round as u8 + 1, if i % 4 == 0 { LEN } else { 1 + i });
            cuda.clear(slow.view_mut()).unwrap();
            let bytes = host.as_mut_slice().unwrap();
            bytes[..len].fill(value);
            cuda.write(&bytes[..len], out.at_mut(0..len)).unwrap();
            bytes[..len].fill(0);
            assert!(cuda.download(out.at(0..len)).unwrap().iter().all(|&b| b == value), "round {round}");
        }
    }

    /// Whatever is done to either memory, or whoever drops it, while the copy is under way.
    #[test]
    fn what_uses_memory_waits_for_copies_aside() {
        let Some(cuda) = gpu() else { return };
        const LEN: usize = 64 << 20;
        let mut ring = [0, 1].map(|_| cuda.zeros::<u8>(LEN).unwrap());
        let mut host = [0, 1, 2, 3].map(|_| cuda.zeros_on_host::<u8>(LEN).unwrap());
        let values = cuda.upload(&[10_u8, 11, 12, 13]).unwrap();
        let last = LEN - 4;
        for (i, host) in host.iter_mut().enumerate() {
            let slot = &mut ring[i % 2];
            cuda.clear(slot.view_mut()).unwrap();
            cuda.copy(values.at(i..i + 1), slot.at_mut(last..last + 1)).unwrap();
            cuda.copy_aside(slot.view(), host.view_mut()).unwrap();
        }
        for i in (0..4).rev() {
            let slot = &mut ring[i % 2];
            cuda.copy_aside(host[i].view(), slot.view_mut()).unwrap();
            assert_eq!(cuda.download(slot.at(last..last + 1)).unwrap(), [10 + i as u8]);
            let gone = cuda.zeros_on_host::<u8>(LEN).unwrap();
            cuda.copy_aside(gone.view(), slot.view_mut()).unwrap();
            drop(gone);
            assert_eq!(cuda.download(slot.at(last..last + 1)).unwrap(), [0]);
            let short = cuda.upload(&vec![7_u8; LEN]).unwrap();
            cuda.copy_aside(short.view(), host[i].view_mut()).unwrap();
            drop(short);
            let other = cuda.zeros::<u8>(LEN).unwrap();
            assert_eq!(cuda.download(host[i].at(last..last + 1)).unwrap(), [7]);
            assert_eq!(cuda.download(other.at(last..last + 1)).unwrap(), [0]);
        }
    }

    /// Behind a gigabyte of other work it would take milliseconds to wait for.
    #[test]
    fn what_a_copy_aside_brought_is_read_without_waiting_for_more() {
        let Some(cuda) = gpu() else { return };
        let (mut slow, x) = (cuda.zeros::<u8>(1 << 30).unwrap(), cuda.upload(&[1.5_f32, 2.5]).unwrap());
        let mut host = cuda.zeros_on_host::<f32>(2).unwrap();
        cuda.copy_aside(x.view(), host.view_mut()).unwrap();
        (0..200).for_each(|_| cuda.clear(slow.view_mut()).unwrap());
        let began = std::time::Instant::now();
        assert_eq!(cuda.collect(host.view()).unwrap(), [1.5, 2.5]);
        let collected = began.elapsed();
        cuda.synchronize().unwrap();
        assert!(collected * 4 < began.elapsed(), "{collected:?} of {:?}", began.elapsed());
        cuda.clear(slow.view_mut()).unwrap();
        cuda.copy(slow.view().at(0..8).cast(), host.view_mut()).unwrap();
        assert_eq!(cuda.collect(host.view()).unwrap(), [0.0, 0.0], "an op that wrote there is waited for");
    }

    /// Gathered from, and copied to, at its own address.
    #[test]
    fn kernels_read_memory_of_the_host() {
        use crate::{
            buffer::Mat,
            ops::{GatherRows, Op},
        };
        let Some(cuda) = gpu() else { return };
        let before = cuda.memory().allocated;
        let mut table = cuda.zeros_on_host::<f32>(1000 * 64).unwrap();
        assert_eq!(cuda.memory().allocated, before, "it is not the device's");
        let values: Vec<f32> = (0..1000 * 64).map(|i| i as f32).collect();
        cuda.write(&values, table.view_mut()).unwrap();
        let (rows, mut out) = (cuda.upload(&[999_u32, 0, 500]).unwrap(), cuda.zeros::<f32>(3 * 64).unwrap());
        GatherRows { table: Mat::new(table.view(), 1000, 64), rows: rows.view(), out: out.mat_mut(3, 64) }
            .run(&cuda)
            .unwrap();
        let got = out.to_vec(&cuda).unwrap();
        assert!([999, 0, 500].iter().enumerate().all(|(i, row)| got[i * 64..][..64] == values[row * 64..][..64]));
        assert_eq!(table.to_vec(&cuda).unwrap(), values);
    }
}
