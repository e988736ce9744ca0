//! Views of the CPU's memory as slices.
#![allow(unsafe_code)]

use super::device::Cpu;
#[cfg(target_os = "linux")]
use super::pages::Part;
use crate::{
    buffer::{Keeper, Parts, Storage, View, ViewMut, sealed::Sealed},
    element::Element,
    error::Result,
    host,
};

/// Owned memory.
#[derive(Debug)]
pub struct Memory<T>(Kind<T>);

#[derive(Debug)]
enum Kind<T> {
    /// Of this crate, which is counted.
    Own(Vec<T>),
    /// The same in large pages.
    #[cfg(target_os = "linux")]
    Paged { part: Part, len: usize },
    /// Of others: what keeps it lives as long.
    Adopted { ptr: *mut T, len: usize, _keeper: Keeper },
}

// SAFETY: it is read through `&Memory` and written through `&mut Memory` only (`Storage`); elements are plain data, which
// any thread may have, and so is a `Keeper`.
unsafe impl<T: Element> Send for Memory<T> {}
// SAFETY: as for `Send`, since `&Memory` lets no one write.
unsafe impl<T: Element> Sync for Memory<T> {}

impl<T: Element> Memory<T> {
    pub(super) fn zeros(len: usize) -> Result<Self> {
        match Self::paged(len)? {
            Some(memory) => Ok(memory),
            None => host::zeros(len).map(Self::counted),
        }
    }

    pub(super) fn copy(host: &[T]) -> Result<Self> {
        let Some(mut memory) = Self::paged(host.len())? else { return copy(host).map(Self::counted) };
        let Parts { ptr, len, .. } = Cpu::parts_mut(&mut memory);
        // SAFETY: `paged` made the memory for as many elements, all of them zeros, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(ptr, len) }.copy_from_slice(host);
        Ok(memory)
    }

    fn counted(elements: Vec<T>) -> Self {
        host::BUFFERS.add(size_of_val(elements.as_slice()));
        Memory(Kind::Own(elements))
    }

    /// Zeros in large pages, where there are such pages and enough elements for them.
    #[cfg(target_os = "linux")]
    fn paged(len: usize) -> Result<Option<Self>> {
        let bytes = crate::element::bytes::<T>(len)?;
        if !Part::suits(bytes) {
            return Ok(None);
        }
        host::check(bytes)?;
        let part = Part::new(bytes);
        Ok(part.map(|part| {
            host::BUFFERS.add(bytes);
            Memory(Kind::Paged { part, len })
        }))
    }

    #[cfg(not(target_os = "linux"))]
    fn paged(_len: usize) -> Result<Option<Self>> {
        Ok(None)
    }
}

impl<T> Memory<T> {
    /// Bytes that are counted.
    fn bytes(&self) -> usize {
        match &self.0 {
            Kind::Own(elements) => size_of_val(elements.as_slice()),
            #[cfg(target_os = "linux")]
            Kind::Paged { len, .. } => len * size_of::<T>(),
            Kind::Adopted { .. } => 0,
        }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        host::BUFFERS.sub(self.bytes());
    }
}

/// `elements` in a vector of their own.
pub(super) fn copy<T: Element>(elements: &[T]) -> Result<Vec<T>> {
    let mut copy = host::room(elements.len())?;
    copy.extend_from_slice(elements);
    Ok(copy)
}

impl Sealed for Cpu {}

// SAFETY: a vector's buffer stays where it is while the vector is not changed, and no one changes the length of these; a
// part of a map is where it is, at a multiple of 64, has zeros or elements, and is of one buffer alone (`Part`);
// what is adopted or lent stays as long as `Buf::from_raw` and `View::from_raw` have their callers promise. All CPU memory
// is one address space, and nothing is recorded.
unsafe impl Storage for Cpu {
    type Memory<T: Element> = Memory<T>;
    type Owner = ();

    fn parts<T: Element>(memory: &Memory<T>) -> Parts<'_, *const T, ()> {
        let (ptr, len) = match &memory.0 {
            Kind::Own(elements) => (elements.as_ptr(), elements.len()),
            #[cfg(target_os = "linux")]
            Kind::Paged { part, len } => (part.as_ptr().cast_const().cast(), *len),
            Kind::Adopted { ptr, len, .. } => (ptr.cast_const(), *len),
        };
        Parts { ptr, len, owner: &() }
    }

    fn parts_mut<T: Element>(memory: &mut Memory<T>) -> Parts<'_, *mut T, ()> {
        let (ptr, len) = match &mut memory.0 {
            Kind::Own(elements) => (elements.as_mut_ptr(), elements.len()),
            #[cfg(target_os = "linux")]
            Kind::Paged { part, len } => (part.as_ptr().cast(), *len),
            Kind::Adopted { ptr, len, .. } => (*ptr, *len),
        };
        Parts { ptr, len, owner: &() }
    }

    fn admit(&self, _owner: &()) -> Result<bool> {
        Ok(true)
    }

    fn lend(&self, _address: usize, _bytes: usize) -> Result<&()> {
        Ok(&())
    }

    unsafe fn adopt<T: Element>(&self, ptr: *mut T, len: usize, keeper: Keeper) -> Result<Memory<T>> {
        Ok(Memory(Kind::Adopted { ptr, len, _keeper: keeper }))
    }
}

impl<'a, T: Element> View<'a, Cpu, T> {
    /// The elements.
    pub(super) fn slice(self) -> &'a [T] {
        // SAFETY: a view of the CPU's memory borrows that many elements for `'a` (`Storage for Cpu`).
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

impl<'a, T: Element> ViewMut<'a, Cpu, T> {
    /// The elements.
    pub(super) fn into_slice(mut self) -> &'a mut [T] {
        // SAFETY: a mutable view of the CPU's memory borrows that many elements exclusively for `'a` (`Storage for Cpu`).
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) }
    }
}
