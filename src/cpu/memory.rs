//! Views of the CPU's memory as slices.
#![allow(unsafe_code)]

use crate::{Cpu, Element, Storage, View, ViewMut};

// SAFETY: a vector's buffer stays where it is while the vector is not changed, and no one changes the length of these.
unsafe impl Storage for Cpu {
    type Memory<T: Element> = Vec<T>;

    fn parts<T: Element>(memory: &Vec<T>) -> (*const T, usize) {
        (memory.as_ptr(), memory.len())
    }

    fn parts_mut<T: Element>(memory: &mut Vec<T>) -> (*mut T, usize) {
        (memory.as_mut_ptr(), memory.len())
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
