//! Views of the CPU's memory as slices.
#![allow(unsafe_code)]

use super::device::Cpu;
use crate::{
    buffer::{Parts, Storage, View, ViewMut},
    element::Element,
    error::Result,
    host,
};

/// Owned memory, which is counted.
pub struct Memory<T>(Vec<T>);

impl<T: Element> Memory<T> {
    pub(super) fn zeros(len: usize) -> Result<Self> {
        host::zeros(len).map(Self::counted)
    }

    pub(super) fn copy(host: &[T]) -> Result<Self> {
        copy(host).map(Self::counted)
    }

    fn counted(elements: Vec<T>) -> Self {
        host::BUFFERS.add(size_of_val(elements.as_slice()));
        Memory(elements)
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        host::BUFFERS.sub(size_of_val(self.0.as_slice()));
    }
}

/// `elements` in a vector of their own.
pub(super) fn copy<T: Element>(elements: &[T]) -> Result<Vec<T>> {
    let mut copy = host::room(elements.len())?;
    copy.extend_from_slice(elements);
    Ok(copy)
}

// SAFETY: a vector's buffer stays where it is while the vector is not changed, and no one changes the length of these.
// All CPU memory is one address space, and nothing is recorded.
unsafe impl Storage for Cpu {
    type Memory<T: Element> = Memory<T>;
    type Owner = ();

    fn parts<T: Element>(memory: &Memory<T>) -> Parts<'_, *const T, ()> {
        Parts { ptr: memory.0.as_ptr(), len: memory.0.len(), owner: &() }
    }

    fn parts_mut<T: Element>(memory: &mut Memory<T>) -> Parts<'_, *mut T, ()> {
        Parts { ptr: memory.0.as_mut_ptr(), len: memory.0.len(), owner: &() }
    }

    fn admit(&self, _owner: &()) -> Result<bool> {
        Ok(true)
    }
}

impl<'a, T: Element> View<'a, Cpu, T> {
    /// The elements.
    pub(super) fn slice(self) -> &'a [T] {
        // SAFETY: a view of the CPU's memory borrows that many elements of a vector for `'a` (`Storage for Cpu`).
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

impl<'a, T: Element> ViewMut<'a, Cpu, T> {
    /// The elements.
    pub(super) fn into_slice(mut self) -> &'a mut [T] {
        // SAFETY: a mutable view of the CPU's memory borrows that many elements of a vector exclusively for `'a`.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) }
    }
}
